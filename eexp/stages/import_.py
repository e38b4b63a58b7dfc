"""`eexp import`: trajectories that people already have, as records (eexp/conversations.py reads them).

What was recorded elsewhere is a claim. Replayed in the environment it is checked (eexp/envs/replay.py), and what is
written then comes from the environment, whose words and lists are what later stages compare with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from eexp import options
from eexp.conversations import FORMATS, MARKED, WHOLE, Conversation, Format, name_of, read
from eexp.envs.naming import Tasks
from eexp.envs.replay import ENVIRONMENT, RECORD, replay
from eexp.errors import InputError, UsageError
from eexp.jsonl import OnError, Stream, stop_at_error

if TYPE_CHECKING:
    from eexp.envs.pool import Pool


def import_(records: Iterator[dict], format: Format, env: str, *, action: str | None = None, key: str | None = None,
            on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """One trajectory a record, as it was recorded, with `env` as the name of its environment.

    action: how the agent's turns are read (conversations.MARKED or WHOLE), where not as usual in the format. key: which
    key names the task. A record in which the agent acts without having seen anything is refused: only a replay could
    tell what it saw. What a record says besides its turns is kept under `source`.
    """
    ids = Ids()
    for number, record in enumerate(records, 1):
        try:
            found = read(record, format, action)
            for step, place in zip(found.steps, found.places):
                if step["observation"] is None:
                    raise InputError("no observation before this action; a replay would find it (--env)", place)
        except InputError as e:
            on_error(record, e)
            continue
        name = name_of(record, format, key) or str(number)
        yield {"type": "trajectory", "id": ids.of(f"{env}/{name}"), "env": env, "task": {"id": name},
               "instruction": found.instruction, "steps": found.steps,
               "outcome": None if found.last is None else {"observation": found.last},
               "source": _source(record, format)}  # fmt: skip


class Ids:
    """Ids for records: another one about the same task gets a number."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def of(self, name: str) -> str:
        self._given[name] += 1
        return name if self._given[name] == 1 else f"{name}#{self._given[name]}"


def _source(record: dict, format: Format) -> dict:
    return {key: value for key, value in record.items() if key != format.turns}


# -- the command -------------------------------------------------------------------------------------------------------


def job(asked: dict, opened: Any, on_step: Callable[[], None]) -> dict:
    """What a worker does for one record (envs/worker.py)."""
    done = replay(opened.get(asked["env"]), asked["task"], Conversation(**asked["found"]), asked["id"],
                  on_step=on_step, **{key: asked[key] for key in ("trust", "admissible", "seed")})  # fmt: skip
    return {"trajectory": done.trajectory, "differs": str(done.differs or ""), "counts": done.counts}


@click.command("import")
@click.argument("format", type=click.Choice(list(FORMATS)))
@click.option("--env", metavar="SPEC", envvar="EEXP_ENV", show_envvar=True, shell_complete=options.complete_env,
              help="Replay every record in this environment, check what was recorded and fill in what was not.  "
              "[default: no replay]")  # fmt: skip
@click.option("--action", type=click.Choice([MARKED, WHOLE]),
              help='Where the action is: after "Action:", with a thought before it, or all that the agent says.  '
              "[default: whole for messages, else marked]")  # fmt: skip
@click.option("--task-key", metavar="KEY",
              help="What in a record names its task.  [default: item_id, or game_file, or id]")  # fmt: skip
@click.option("--name", metavar="NAME", help="The environment's name in records that are not replayed.  "
              "[default: the format's]")  # fmt: skip
@click.option("--split", metavar="NAME", help="Look for the task in this split.  [default: in all of them]")
@click.option("--match", metavar="TEMPLATE",
              help="What the environment's tasks are called in the records, made of their keys, such as "
              "{level}/{seed}.  [default: {id}]")  # fmt: skip
@click.option("--map", "mapping", type=options.PATH, metavar="FILE",
              help="A JSON object: what a record calls its task, and what the environment does.")  # fmt: skip
@click.option("--trust", type=click.Choice([RECORD, ENVIRONMENT]), default=RECORD, show_default=True,
              help="Where they differ, refuse the record, or count it and go by the environment.")  # fmt: skip
@options.admissible
@options.workers
@options.seed
@options.streams("conversation", resume=True)
def command(format, env, action, task_key, name, split, match, mapping, trust, admissible, open_pool, seed,
            stream) -> None:  # fmt: skip
    """Turn trajectories that others recorded into records.

    FORMAT is agenttraj (AgentGym's AgentTraj-L), eto (ETO's expert data) or messages (OpenAI's chat messages). A FILE
    is a JSON array, or has one record a line. What only says how to answer is left out.

    With --env, the recorded actions are taken in the environment. Its observations must be the recorded ones, up to
    blanks and to what the environment itself calls random; then its observations, admissible actions and outcome are
    written. Where there are none in the record, they are filled in. The task is the one whose id is what the record
    says, or the end of it after / or _; see --match and --map.

    \b
    Example:
      echo '{"id": "train/0", "messages": [{"role": "assistant", "content": "look"}]}' > played.jsonl
      eexp import messages --env house played.jsonl > imported.jsonl
    """
    form = FORMATS[format]
    if env:
        if name:
            raise UsageError("--name is for records that are not replayed; with --env it is the environment's")
        from eexp.envs import open_env

        with open_env(env) as world:
            tasks = Tasks(world, split, match or "{id}", _names(mapping))
        settings = {"split": split, "match": match, "map": mapping, "trust": trust,
                    "admissible": "all" if admissible is None else admissible, "seed": seed}  # fmt: skip
    else:
        for option, given in (("--split", split), ("--match", match), ("--map", mapping)):
            if given:
                raise UsageError(f"{option} is about the environment's tasks; it needs --env")
        settings = {"name": name}
    with stream.open("import", format=format, env=env, action=action, task_key=task_key, **settings) as io:
        if env:
            asked = {"env": env, "trust": trust, "admissible": admissible, "seed": seed}
            with open_pool(env) as pool:
                _replay_all(io, form, _jobs(io, form, tasks, action, task_key, asked), pool)
            return
        for trajectory in import_(io.foreign(), form, name or format, action=action, key=task_key, on_error=io.fail):
            if not io.done(trajectory["id"]):
                io.write(trajectory)
                io.count("not replayed")


def _names(file: str | None) -> dict[str, str] | None:
    """What --map says."""
    if file is None:
        return None
    try:
        names = orjson.loads(Path(file).read_bytes())
    except OSError as e:
        raise InputError(f"{file}: {e.strerror or e}") from None
    except orjson.JSONDecodeError as e:
        raise InputError(f"{file}: not valid JSON: {e}") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{file}: expected an object of strings")
    return names


def _jobs(io: Stream, format: Format, tasks: Tasks, action: str | None, key: str | None,
          asked: dict) -> Iterator[tuple[tuple, dict]]:  # fmt: skip
    """For every record that can be read and has a task: where it stands, and what a worker is to do with it."""
    ids = Ids()
    for record in io.foreign():
        try:
            found = read(record, format, action)
            name = name_of(record, format, key)
            if name is None:
                raise InputError(
                    "says nothing of its task; --task-key names what does", f"$.{key or format.named_by[-1]}"
                )
            task = tasks.find(name)
        except InputError as e:
            io.fail(record, e)
            continue
        record_id = ids.of(f"{tasks.spec}/{task['id']}")
        if not io.done(record_id):
            do = {"do": f"{__name__}:{job.__name__}", "id": record_id, "task": task, "found": asdict(found)}
            yield (io.where, record), {**do, **asked}


def _replay_all(io: Stream, format: Format, jobs: Iterator, pool: Pool) -> None:
    from tqdm import tqdm

    for record, result in io.take(tqdm(pool.run(jobs), disable=None, unit="trajectory", leave=False)):
        trajectory = {**result["trajectory"], "source": _source(record, format)}
        if result["differs"]:
            io.note(f"{trajectory['id']}: {result['differs']}")
        io.counts.update(result["counts"])
        io.write(trajectory)
    io.counts.update(pool.counts)

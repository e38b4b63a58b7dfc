"""`eexp import`: trajectories that people already have, as records.

Those of other projects are conversations (eexp/formats/conversations.py reads them), those of an agent's own play are
episodes (eexp/formats/episodes.py). What was recorded elsewhere is a claim. Replayed in the environment it is checked
(eexp/envs/replay.py), and what is written then comes from the environment, whose words and lists are what later stages
compare with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from click.core import ParameterSource

from eexp import options
from eexp.envs.naming import Tasks
from eexp.envs.replay import ENVIRONMENT, RECORD, replay
from eexp.errors import InputError, UsageError
from eexp.formats import conversations, logs
from eexp.formats.conversations import ARGUMENT, MARKED, WHOLE, Conversation, Format, read_conversation, task_name_of
from eexp.formats.episodes import Selection, Selector, conversation_of, source_of, trajectory_of
from eexp.stream import OnError, Stream, stop_at_error

if TYPE_CHECKING:
    from eexp.workers.pool import Pool

EPISODES = "episodes"
FORMATS = {**conversations.FORMATS, **logs.IMPORTED}


def import_(
    records: Iterator[dict],
    format: Format,
    env: str,
    *,
    action: str | None = None,
    key: str | None = None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """One trajectory a record, as it was recorded, with `env` as the name of its environment.

    action: how the agent's turns are read (conversations.MARKED, WHOLE or ARGUMENT), where not as usual in the format.
    key: which key names the task. A record in which the agent acts without having seen anything is refused: only a
    replay could tell what it saw. What a record says besides its turns is kept under `source`.
    """
    ids = Ids()
    for number, given in enumerate(records, 1):
        try:
            record = format.adapted(given)
            found = read_conversation(record, format, action)
            end = logs.recorded_end(record)
            for step, place in zip(found.steps, found.places):
                if step["observation"] is None:
                    raise InputError("no observation before this action; a replay would find it (--env)", place)
        except InputError as e:
            on_error(given, e)
            continue
        name = task_name_of(record, format, key) or str(number)
        yield {
            "type": "trajectory",
            "id": ids.of(f"{env}/{name}"),
            "env": env,
            "task": {"id": name},
            "instruction": found.instruction,
            "steps": found.steps,
            "outcome": None if found.last is None else {"observation": found.last, **end},
            "source": _source(record, format),
        }


class Ids:
    """Ids for records: another one about the same task gets a number."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def of(self, name: str) -> str:
        self._given[name] += 1
        return name if self._given[name] == 1 else f"{name}#{self._given[name]}"


def import_episodes(
    episodes: Iterator[dict],
    env: str | None = None,
    *,
    selector: Selector | None = None,
    skip: Callable[[str], bool] = lambda record_id: False,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """One trajectory an episode, as it was recorded and without admissible actions.

    env: the name of the environment, where it is not the episode's. selector: says which are wanted. skip: says which
    ids are not to be made.
    """
    selector = selector or Selector(Selection())
    for episode, record_id in _identified(episodes):
        if skip(record_id) or not selector.takes_end(episode):
            continue
        try:
            trajectory = trajectory_of(episode, record_id, env)
        except InputError as e:
            on_error(episode, e)
            continue
        if selector.takes(trajectory, episode):
            yield {**trajectory, "source": source_of(episode), "lineage": episode.get("lineage", [])}


def _identified(episodes: Iterator[dict]) -> Iterator[tuple[dict, str]]:
    """(episode, id of its trajectory): the episode's own id, which names the trial; a number tells equal ones apart."""
    ids = Ids()
    for episode in episodes:
        yield episode, ids.of(episode["id"])


def _source(record: dict, format: Format) -> dict:
    return {key: value for key, value in record.items() if key != format.turns}


# -- the command -------------------------------------------------------------------------------------------------------


def job(asked: dict, opened: Any, on_step: Callable[[], None]) -> dict:
    """What a worker does for one record (eexp/workers/worker.py)."""
    done = replay(
        opened.get(asked["env"]),
        asked["task"],
        Conversation(**asked["found"]),
        asked["id"],
        on_step=on_step,
        **asked["settings"],
    )
    notes = [str(note) for note in (done.differs, done.kept_whole) if note]
    return {"trajectory": done.trajectory, "notes": notes, "counts": done.counts}


@click.command("import")
@click.argument("format", type=click.Choice([*FORMATS, EPISODES]))
@click.option(
    "--env",
    type=options.ENV,
    metavar="SPEC",
    envvar="EEXP_ENV",
    show_envvar=True,
    shell_complete=options.complete_env,
    help="Replay every record in this environment, check what was recorded and fill in what was not. "
    "Episodes name theirs; exec: programs, classes and servers have to be named here all the same.  "
    "[default: no replay; for episodes, the one they name]",
)
@click.option(
    "--no-replay", is_flag=True, help="Take what the record holds as it is: nothing is checked, nothing filled in."
)
@click.option("--success", is_flag=True, help="Leave out what did not succeed.")
@click.option(
    "--min-score",
    type=options.Finite(min=0, max=1),
    metavar="SCORE",
    help="Leave out what ended with a lower score, or with none.",
)
@click.option(
    "--drop-invalid",
    is_flag=True,
    help="Leave out actions that the environment refused, where a second replay without them shows that they "
    "changed nothing.",
)
@click.option("--distinct", is_flag=True, help="Of trajectories of one task with the same actions, keep the first.")
@click.option(
    "--action",
    type=click.Choice([MARKED, WHOLE, ARGUMENT]),
    help='Where the action is: after "Action:", with a thought before it; all that the agent says, or the '
    "call of a tool in Python's notation; or the only argument of that call.  "
    "[default: whole for messages, else marked]",
)
@click.option(
    "--task-key", metavar="KEY", help="What in a record names its task.  [default: item_id, or game_file, or id]"
)
@click.option(
    "--name",
    metavar="NAME",
    help="The environment's name in records that are not replayed.  "
    "[default: the format's; for episodes, the one they name]",
)
@click.option("--split", metavar="NAME", help="Look for the task in this split.  [default: in all of them]")
@click.option(
    "--match",
    metavar="TEMPLATE",
    help="What the environment's tasks are called in the records, made of their keys, such as "
    "{level}/{seed}.  [default: {id}; for a server of AgentGym, the number at the end]",
)
@click.option(
    "--map",
    "mapping",
    type=options.PATH,
    metavar="FILE",
    help="A JSON object: what a record calls its task, and what the environment does.",
)
@click.option(
    "--trust",
    type=click.Choice([RECORD, ENVIRONMENT]),
    default=RECORD,
    show_default=True,
    help="Where they differ, refuse the record, or count it and go by the environment.",
)
@options.admissible
@options.workers
@options.seed
@options.streams("conversation", resume=True)
def command(
    format,
    env,
    no_replay,
    success,
    min_score,
    drop_invalid,
    distinct,
    action,
    task_key,
    name,
    split,
    match,
    mapping,
    trust,
    admissible,
    open_pool,
    seed,
    stream,
) -> None:
    """Turn trajectories that others recorded, or episodes, into records.

    FORMAT is agenttraj (AgentGym's AgentTraj-L), eto (ETO's expert data), messages (OpenAI's chat messages, with calls
    of tools), atif (Harbor's trajectories), verifiers (its traces.jsonl), inspect (logs of Inspect, as JSON) or
    episodes (of `eexp eval`). A FILE has one record a line or, but for episodes, is a JSON array; a log of Inspect is
    one object. What only says how to answer is left out.

    With --env, the recorded actions are taken in the environment. Its observations must be the recorded ones, up to
    blanks and to what the environment itself calls random; then its observations, admissible actions and outcome are
    written. Where there are none in the record, they are filled in. The task is the one whose id is what the record
    says, or the end of it after / or _; see --match and --map.

    Episodes name their environment and their task, and are replayed there. They must end as recorded, too. With
    --success, what a model did well becomes the demonstrations of its next round of training.

    \b
    Example:
      eexp eval house -m expert --split train -n 20 | eexp import episodes --success > own.jsonl
      echo '{"id": "train/0", "messages": [{"role": "assistant", "content": "look"}]}' > played.jsonl
      eexp import messages --env house played.jsonl > imported.jsonl
    """
    given = {"--action": action, "--task-key": task_key, "--split": split, "--match": match, "--map": mapping}
    if no_replay and env:
        if click.get_current_context().get_parameter_source("env") is ParameterSource.COMMANDLINE:
            raise UsageError("--env is for a replay, and --no-replay asks for none")
        env = None
    replayed = bool(env) or (format == EPISODES and not no_replay)
    if action == ARGUMENT and not FORMATS[format].tools:
        raise UsageError("--action argument is for calls of tools, which only messages have")
    _refuse_options_without_use(format, replayed, name, success or min_score is not None, drop_invalid, given)
    selection = {
        "success": "yes" if success else None,
        "min_score": min_score,
        "drop_invalid": "yes" if drop_invalid else None,
        "distinct": "yes" if distinct else None,
    }
    settings: dict[str, Any] = {"replay": "no" if no_replay else None, "name": name}
    tasks, replaying = None, {"trust": trust, "admissible": admissible, "seed": seed, "drop_invalid": drop_invalid}
    if replayed:
        settings = {
            "split": split,
            "match": match,
            "map": mapping,
            "trust": trust,
            "admissible": "all" if admissible is None else admissible,
            "seed": seed,
        }
        if format != EPISODES:
            from eexp.envs import open_env

            with open_env(env) as world:
                tasks = Tasks(world, split, match, _names(mapping))
    kind = "episode" if format == EPISODES else None
    with stream.open(
        "import", kind, format=format, env=env, action=action, task_key=task_key, **settings, **selection
    ) as io:
        selector = Selector(Selection(success, min_score, distinct), io.count, io.earlier_records())
        if format == EPISODES:
            episodes = io.records(skip_done=False)
            if not replayed:
                made = import_episodes(episodes, name, selector=selector, skip=io.done, on_error=io.fail)
                _write_all(io, made)
                return
            jobs = _episode_jobs(io, _identified(episodes), selector)
        elif replayed:
            jobs = _jobs(io, FORMATS[format], tasks, action, task_key)
        else:
            made = import_(
                _foreign(io, FORMATS[format]),
                FORMATS[format],
                name or format,
                action=action,
                key=task_key,
                on_error=io.fail,
            )
            _write_all(io, (t for t in made if not io.done(t["id"]) and selector.takes(t, t["outcome"])))
            return
        with open_pool(env) as pool:
            _replay_all(io, FORMATS.get(format), jobs, pool, selector, replaying)


def _refuse_options_without_use(
    format: str, replayed: bool, name: str | None, by_end: bool, drop_invalid: bool, given: dict[str, str | None]
) -> None:
    """Raise UsageError for an option that would change nothing. by_end: a certain end is asked for."""
    if format == EPISODES:
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} is for records of other projects; an episode says what it would")
    elif not replayed:
        for option in ("--split", "--match", "--map"):
            if given[option]:
                raise UsageError(f"{option} is about the environment's tasks; it needs --env")
        if by_end:
            raise UsageError(f"records of {format} say nothing of success; --success and --min-score need --env")
    if drop_invalid and not replayed:
        raise UsageError("only a replay can tell that a refused action changed nothing; --drop-invalid needs one")
    if replayed and name:
        raise UsageError("--name is for records that are not replayed; with --env it is the environment's")


def _write_all(io: Stream, trajectories: Iterator[dict]) -> None:
    for trajectory in trajectories:
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


def _foreign(io: Stream, format: Format) -> Iterator[dict]:
    """What another program wrote; of logs of Inspect, their samples."""
    if format is not FORMATS[logs.INSPECT]:
        return io.foreign_records()
    return io.foreign_records(logs.samples(io.files))


def _jobs(io: Stream, format: Format, tasks: Tasks, action: str | None, key: str | None) -> Iterator[tuple]:
    """For every record that can be read and has a task: where it stands, and what a worker is to do with it."""
    ids = Ids()
    for given in _foreign(io, format):
        try:
            record = format.adapted(given)
            found = read_conversation(record, format, action)
            name = task_name_of(record, format, key)
            if name is None:
                raise InputError(
                    "says nothing of its task; --task-key names what does", f"$.{key or format.task_keys[-1]}"
                )
            task = tasks.find(name)
        except InputError as e:
            io.fail(given, e)
            continue
        record_id = ids.of(f"{tasks.spec}/{task['id']}")
        if not io.done(record_id):
            yield (io.where, given), {"id": record_id, "env": tasks.spec, "task": task, "found": asdict(found)}


def _episode_jobs(io: Stream, episodes: Iterator[tuple[dict, str]], selector: Selector) -> Iterator[tuple]:
    """As `_jobs`, for episodes that ended as is wanted."""
    for episode, record_id in episodes:
        if io.done(record_id) or not selector.takes_end(episode):
            continue
        try:
            found = conversation_of(episode)
        except InputError as e:
            io.fail(episode, e)
            continue
        asked = {"id": record_id, "env": episode["env"], "task": episode["task"], "found": asdict(found)}
        yield (io.where, episode), asked


def _replay_all(
    io: Stream, format: Format | None, jobs: Iterator[tuple], pool: Pool, selector: Selector, settings: dict
) -> None:
    """Write what the workers make of `jobs`; records without a `format` are episodes. settings: those of `replay`."""
    from tqdm import tqdm

    do = {"do": f"{__name__}:{job.__name__}", "settings": settings}
    results = pool.run((record, {**do, **asked}) for record, asked in jobs)
    for record, result in io.results(tqdm(results, disable=None, unit="trajectory", leave=False)):
        trajectory = result["trajectory"]
        if not selector.takes(trajectory, trajectory["outcome"]):
            continue
        trajectory["source"] = _source(format.adapted(record), format) if format else source_of(record)
        if not format:
            trajectory["lineage"] = record.get("lineage", [])
        for note in result["notes"]:
            io.note(f"{trajectory['id']}: {note}")
        io.counts.update(result["counts"])
        io.write(trajectory)
    io.counts.update(pool.counts)

"""Import of recorded trajectories: its settings, and the replay of records in workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from eexp import options
from eexp.callbacks import Count
from eexp.envs.naming import Tasks
from eexp.envs.replay import ENVIRONMENT, RECORD, replay
from eexp.errors import InputError, UsageError
from eexp.formats import conversations, logs, sft
from eexp.formats.conversations import ARGUMENT, MARKED, WHOLE, Conversation, Format, read_conversation, task_name_of
from eexp.formats.episodes import Selection, Selector, conversation_of, source_of
from eexp.jsonl import loads, refuse_other_files
from eexp.record_types import check_tools
from eexp.settings import option, recorded
from eexp.stream import Stream
from eexp.workers.pool import Pool

EPISODES = "episodes"
FORMATS = {**conversations.FORMATS, **logs.IMPORTED}


@dataclass(frozen=True)
class ImportSettings:
    """Settings of `import_` and `import_episodes`.

    Attributes:
        action: How the agent's turns are read (conversations.MARKED, WHOLE or ARGUMENT); None as usual in the format.
        task_key: The key that names the task.
        mapping: A JSON file: what a record calls its task, and what the environment does.
    """

    no_replay: bool = option(
        False, help="Take the contents of the records as they are: nothing is checked, nothing filled in."
    )
    success: bool = option(False, help="Leave out records that did not succeed.")
    min_score: float | None = option(
        None,
        type=options.Finite(min=0, max=1),
        metavar="SCORE",
        help="Leave out records that ended with a lower score, or with none.",
    )
    drop_invalid: bool = option(
        False,
        help="Leave out actions that the environment refused, where a second replay without them shows that they "
        "changed nothing.",
    )
    distinct: bool = option(False, help="Of trajectories of one task with the same actions, keep the first.")
    action: str | None = option(
        None,
        type=click.Choice([MARKED, WHOLE, ARGUMENT]),
        help='Where the action is: after "Action:", with a thought before it; the whole text of the agent, or the '
        "call of a tool in Python's notation; or the only argument of that call.  "
        "[default: whole for messages, else marked]",
    )
    task_key: str | None = option(
        None,
        metavar="KEY",
        help="The key of a record that names its task.  [default: item_id, or game_file, or id]",
    )
    name: str | None = option(
        None,
        metavar="NAME",
        help="The environment's name in records that are not replayed.  "
        "[default: the format's; for episodes, the one they name]",
    )
    split: str | None = option(None, metavar="NAME", help="Look for the task in this split.  [default: in all of them]")
    match: str | None = option(
        None,
        metavar="TEMPLATE",
        help="How the records name the environment's tasks, written with the keys of a task, such as "
        "{level}/{seed}.  [default: {id}; for a server of AgentGym, the number at the end]",
    )
    mapping: str | None = option(
        None,
        "--map",
        type=options.PATH,
        metavar="FILE",
        help="A JSON object from the names of tasks in the records to those of the environment.",
    )
    trust: str = option(
        RECORD,
        type=click.Choice([RECORD, ENVIRONMENT]),
        help="Where they differ, refuse the record, or count it and go by the environment.",
    )
    admissible: int | None = options.admissible.field()
    seed: int = options.seed.field()

    @property
    def selection(self) -> Selection:
        """Which trajectories are kept."""
        return Selection(self.success, self.min_score, self.distinct)

    def check(self, format: str, replayed: bool) -> None:
        """Raise UsageError for an option that would change nothing."""
        about_tasks = {"--split": self.split, "--match": self.match, "--map": self.mapping}
        about_records = {"--action": self.action, "--task-key": self.task_key}
        if format in sft.KINDS:
            about_trajectories = {
                **about_tasks,
                "--action": self.action,
                "--success": self.success,
                "--min-score": self.min_score is not None,
                "--drop-invalid": self.drop_invalid,
                "--distinct": self.distinct,
            }
            for name, value in about_trajectories.items():
                if value:
                    raise UsageError(f"{name} is for trajectories; rows of {format} become examples")
        elif format == EPISODES:
            for name, value in {**about_records, **about_tasks}.items():
                if value:
                    raise UsageError(f"{name} is for records of other projects; an episode holds the same itself")
        elif self.action == ARGUMENT and not FORMATS[format].tools:
            raise UsageError("--action argument is for calls of tools, which only messages have")
        elif not replayed:
            for name, value in about_tasks.items():
                if value:
                    raise UsageError(f"{name} is about the environment's tasks; it needs --env")
            if self.success or self.min_score is not None:
                raise UsageError(f"records of {format} say nothing of success; --success and --min-score need --env")
        if self.drop_invalid and not replayed:
            raise UsageError("only a replay can tell that a refused action changed nothing; --drop-invalid needs one")
        if replayed and self.name:
            raise UsageError("--name is for records that are not replayed; with --env it is the environment's")

    def lineage(self, replayed: bool) -> dict[str, Any]:
        """Return the settings that decide the output, by the names of their options."""
        entries = recorded(self, "action", "task_key")
        if replayed:
            entries |= recorded(self, "split", "match", "mapping", "trust")
            entries |= {"admissible": "all" if self.admissible is None else self.admissible, "seed": self.seed}
        else:
            entries |= {"replay": "no" if self.no_replay else None, "name": self.name}
        return {
            **entries,
            "success": "yes" if self.success else None,
            "min_score": self.min_score,
            "drop_invalid": "yes" if self.drop_invalid else None,
            "distinct": "yes" if self.distinct else None,
        }

    def names(self) -> dict[str, str] | None:
        """Return the contents of the file `mapping`; raise InputError if it holds no object of strings."""
        file = self.mapping
        if file is None:
            return None
        try:
            contents = Path(file).read_bytes()
        except OSError as e:
            raise InputError(f"{file}: {e.strerror or e}") from None
        refuse_other_files(contents, file)
        try:
            names = loads(contents)
        except InputError as e:
            raise InputError(f"{file}: {e}") from None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{file}: expected an object of strings")
        return names


class RecordIds:
    """Ids for records: a second record about the same task gets a number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def of(self, name: str) -> str:
        """Return the id of the next record with this name."""
        self._counts[name] += 1
        return name if self._counts[name] == 1 else f"{name}#{self._counts[name]}"


def identified(episodes: Iterator[dict]) -> Iterator[tuple[dict, str]]:
    """Yield (episode, id of its trajectory): its own id, with a number where several have the same."""
    ids = RecordIds()
    for episode in episodes:
        yield episode, ids.of(episode["id"])


def source_fields(record: dict, format: Format, taken_over: Collection[str] = ()) -> dict:
    """Return what a record holds besides its turns and the keys that its trajectory has taken over."""
    return {key: value for key, value in record.items() if key != format.turns and key not in taken_over}


def tools_field(record: dict, format: Format) -> dict:
    """Return the key of a trajectory for the functions of a record, which may be in a string; none for other forms."""
    tools = record.get("tools") if format.tools else None
    try:
        tools = orjson.loads(tools) if isinstance(tools, str) else tools
        if not tools:
            return {}
        check_tools(tools)
    except (orjson.JSONDecodeError, InputError):
        return {}  # the record's own `tools` stay in `source`
    return {"tools": tools}


def foreign_records(io: Stream, format: Format) -> Iterator[dict]:
    """Yield the records of another program; of logs of Inspect, their samples."""
    if format is not FORMATS[logs.INSPECT]:
        return io.foreign_records()
    return io.foreign_records(logs.samples(io.files))


def count_unreadable(steps: list[dict], action: str, count: Count) -> None:
    """Count the actions that a prompt style would not read back from an agent's answer, with what to do about them.

    Args:
        steps: The steps of an imported trajectory.
        action: How the actions were read (conversations.MARKED, WHOLE or ARGUMENT).
        count: Adds to the summary.
    """
    for step in steps:
        text = step["action"]
        if "Action:" in text and action == WHOLE:
            count("action[s] contain[s|] 'Action:': see --action marked", 1)
        elif "Action:" in text:
            count("action[s] contain[s|] 'Action:', which prompt styles use as a mark: change the input", 1)
        elif "<think>" in text or "</think>" in text:
            count("action[s] contain[s|] '<think>' or '</think>': take the thoughts out of the input", 1)
        elif len(text.splitlines()) > 1:
            count("action[s] [has|have] several lines, of which prompt styles read one back: change the input", 1)


# -- replay in workers -------------------------------------------------------------------------------------------------


def job(request: dict, environments: Any, on_step: Callable[[], None]) -> dict:
    """Replay one record in a worker (eexp/workers/worker.py)."""
    replayed = replay(
        environments.get(request["env"]),
        request["task"],
        Conversation(**request["conversation"]),
        request["id"],
        on_step=on_step,
        **request["settings"],
    )
    notes = [str(note) for note in (replayed.differs, replayed.kept_whole) if note]
    return {"trajectory": replayed.trajectory, "notes": notes, "counts": replayed.counts}


def conversation_jobs(io: Stream, format: Format, tasks: Tasks, settings: ImportSettings) -> Iterator[tuple]:
    """Yield ((place, record), request to a worker) for every record that can be read and has a task."""
    ids = RecordIds()
    for foreign in foreign_records(io, format):
        try:
            record = format.adapted(foreign)
            conversation = read_conversation(record, format, settings.action)
            name = task_name_of(record, format, settings.task_key)
            if name is None:
                raise InputError(
                    "does not name its task; --task-key gives the key that does",
                    f"$.{settings.task_key or format.task_keys[-1]}",
                )
            task = tasks.find(name, conversation.recorded_forms[0])
        except InputError as e:
            io.fail(foreign, e)
            continue
        record_id = ids.of(f"{tasks.spec}/{task['id']}")
        if not io.done(record_id):
            yield (io.where, foreign), _request(record_id, tasks.spec, task, conversation)


def episode_jobs(io: Stream, episodes: Iterator[dict], selector: Selector) -> Iterator[tuple]:
    """Yield ((place, episode), request to a worker) for every episode that the selector takes."""
    named = identified(episodes)
    return episode_requests(io, ((e, name) for e, name in named if not io.done(name) and selector.takes_end(e)))


def episode_requests(io: Stream, named: Iterable[tuple[dict, str]]) -> Iterator[tuple]:
    """Yield ((place, episode), request to a worker) for every (episode, id) that can be replayed; the others fail."""
    for episode, record_id in named:
        try:
            conversation = conversation_of(episode)
        except InputError as e:
            io.fail(episode, e)
            continue
        yield (io.where, episode), _request(record_id, episode["env"], episode["task"], conversation)


def _request(record_id: str, env: str, task: dict, conversation: Conversation) -> dict:
    return {"id": record_id, "env": env, "task": task, "conversation": asdict(conversation)}


def replay_all(
    io: Stream, format: Format | None, jobs: Iterator[tuple], pool: Pool, selector: Selector, settings: ImportSettings
) -> None:
    """Write the trajectories that workers make of `jobs`; records without a `format` are episodes."""
    work = {
        "do": f"{__name__}:{job.__name__}",
        "settings": {
            "trust": settings.trust,
            "admissible": settings.admissible,
            "seed": settings.seed,
            "drop_invalid": settings.drop_invalid,
        },
    }
    results = pool.run((record, {**work, **request}) for record, request in jobs)
    for record, result in io.results(io.progress(results, "trajectory")):
        trajectory = result["trajectory"]
        if not selector.takes(trajectory, trajectory["outcome"]):
            continue
        trajectory["source"] = source_fields(format.adapted(record), format) if format else source_of(record)
        if not format:
            trajectory["lineage"] = record.get("lineage", [])
        for note in result["notes"]:
            io.note(f"{trajectory['id']}: {note}")
        io.counts.update(result["counts"])
        if format:
            count_unreadable(trajectory["steps"], settings.action or format.action, io.count)
        io.write(trajectory)
    io.counts.update(pool.counts)

"""Import of recorded trajectories: its settings, and the replay of records in workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import orjson

from eexp.callbacks import Count
from eexp.envs.naming import Tasks
from eexp.envs.replay import replay
from eexp.errors import InputError
from eexp.formats import conversations, logs
from eexp.formats.conversations import Conversation, Format, read_conversation, task_name_of
from eexp.formats.episodes import Selector, conversation_of, source_of
from eexp.formats.names import INSPECT, WHOLE
from eexp.record_types import check_tools
from eexp.stage_settings.import_ import ImportSettings
from eexp.stream import Stream
from eexp.workers.pool import Pool

FORMATS = {**conversations.FORMATS, **logs.IMPORTED}


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
    if format is not FORMATS[INSPECT]:
        return io.foreign_records()
    return io.foreign_records(logs.samples(io.files))


def count_unreadable(steps: list[dict], action: str, count: Count) -> None:
    """Count the actions that a prompt style would not read back from an agent's answer, with what to do about them.

    Args:
        steps: The steps of an imported trajectory.
        action: How the actions were read (formats.names.MARKED, WHOLE or ARGUMENT).
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

"""Turn trajectories that were recorded elsewhere, and an agent's own episodes, into records.

Those of other projects are conversations (eexp/formats/conversations.py reads them), those of an agent's own play are
episodes (eexp/formats/episodes.py). A recording is a claim. Replayed in the environment it is checked
(eexp/envs/replay.py), and the trajectory that is written then comes from the environment, whose words and lists are
what later stages compare with. Rows of messages for training (eexp/formats/sft.py) become examples, as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import orjson

from eexp.acting.settings import ImportSettings
from eexp.envs.naming import Tasks
from eexp.envs.replay import replay
from eexp.errors import InputError, UsageError
from eexp.formats import logs, sft
from eexp.formats.conversations import Conversation, Format, GraphBranch, read_conversation, task_name_of
from eexp.formats.episodes import Selection, Selector, conversation_of, source_of, trajectory_of
from eexp.formats.names import ALL, ARGUMENT, WHOLE
from eexp.prompts import DEFAULT_STYLE, get_style
from eexp.records.callbacks import Count, OnError, Skip, add_counts, no_count, skip_none, stop_at_error
from eexp.records.imagination import only_judged, only_real
from eexp.records.record import seed_of
from eexp.records.types import check_tools
from eexp.workers.jobs import Runner, job_of, results

Note = Callable[[str], None]  # a function that is called with a remark for the user


def ignore_note(text: str) -> None:
    """Show no remark."""


def import_(
    records: Iterator[dict],
    format: Format,
    env: str,
    settings: ImportSettings | None = None,
    *,
    selector: Selector | None = None,
    skip: Skip = skip_none,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory a record, as it was recorded.

    A record in which the agent acts before its first observation is refused: only a replay can tell what that was.
    Everything that a record holds besides its turns is kept under `source`.

    Args:
        env: The name of their environment.
        count: Called with the numbers of actions that a prompt style would not read back.
        on_error: Called with a record that cannot be read.
    """
    settings, ids, repeats = settings or ImportSettings(), RecordIds(), RepeatedSteps()
    selector = selector or Selector(Selection())
    if settings.branches == ALL:
        records = _branches(records, format, lambda branch: _as_recorded(branch, format, settings), on_error)
    for number, foreign in enumerate(records, 1):
        try:
            record, conversation, end = _as_recorded(foreign, format, settings)
        except InputError as e:
            on_error(foreign, e)
            continue
        name = task_name_of(record, format, settings.task_key) or str(number)
        tools = tools_field(record, format)
        trajectory = {
            "type": "trajectory",
            "id": ids.of(f"{env}/{name}"),
            "env": env,
            "task": {"id": name},
            "instruction": conversation.instruction,
            **tools,
            "steps": conversation.steps,
            "outcome": None if conversation.last is None else {"observation": conversation.last, **end},
            "source": source_fields(record, format, tools),
            **logs.recorded_origin(record, env),
        }
        if isinstance(foreign, GraphBranch):
            repeats.mark(trajectory, foreign.number)
        if not skip(trajectory["id"]) and selector.takes(trajectory, trajectory["outcome"]):
            count_unreadable(trajectory["steps"], settings.action or format.action, count)
            yield trajectory


def import_replayed(
    records: Iterator[dict],
    format: Format,
    tasks: Tasks,
    pool: Runner,
    settings: ImportSettings | None = None,
    *,
    selector: Selector | None = None,
    skip: Skip = skip_none,
    count: Count = no_count,
    note: Note = ignore_note,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory a record, as the environment answers when the recorded actions are taken in it.

    Args:
        settings: How actions and tasks are found in a record, and what to do where it differs from the environment.
        count: Called with what was compared and filled in, and the numbers of actions that a prompt style would not
            read back.
        note: Called with remarks on single trajectories.
        on_error: Called with a record that cannot be read, has no task, or does not replay as it was recorded.
    """
    settings, repeats = settings or ImportSettings(), RepeatedSteps()
    selector = selector or Selector(Selection())
    if settings.branches == ALL:
        records = _branches(records, format, lambda branch: _to_replay(branch, format, tasks, settings), on_error)
    jobs = _conversation_jobs(records, format, tasks, settings, skip, on_error)

    def on_difference(record: dict, error: InputError) -> None:
        whole = record.whole if isinstance(record, GraphBranch) else record
        on_error(whole, _with_hint_at_arguments(record, error, format, settings))

    for record, trajectory in _replayed(jobs, pool, selector, count, note, on_difference):
        if isinstance(record, GraphBranch):
            repeats.mark(trajectory, record.number)
        count_unreadable(trajectory["steps"], settings.action or format.action, count)
        adapted = format.adapted(record)
        yield {
            **trajectory,
            "source": source_fields(adapted, format),
            **logs.recorded_origin(adapted, trajectory["env"]),
        }


def _with_hint_at_arguments(record: dict, error: InputError, format: Format, settings: ImportSettings) -> InputError:
    """Return the error of a replay, with a hint where actions are calls and each has one argument, a string."""
    if settings.action not in (None, WHOLE) or not format.tools or "observed" not in error.evidence:
        return error
    try:
        steps = read_conversation(format.adapted(record), format, ARGUMENT, settings.drop_closing).steps
        whole = read_conversation(format.adapted(record), format, WHOLE, settings.drop_closing).steps
    except InputError:  # a call with other arguments
        return error
    first = next((new["action"] for new, old in zip(steps, whole) if new["action"] != old["action"]), None)
    if first is None:  # no calls
        return error
    hint = f"if the environment takes the argument of a call alone, such as {first!r}, give --action {ARGUMENT}"
    return type(error)(f"{error.message}; {hint}", error.where, error.evidence)


def import_episodes(
    episodes: Iterator[dict],
    env: str | None = None,
    *,
    selector: Selector | None = None,
    skip: Skip = skip_none,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory an episode, as it was recorded and without admissible actions.

    Args:
        env: The name of the environment, where it is not the episode's.
        on_error: Called with an episode that cannot be read.
    """
    selector = selector or Selector(Selection())
    for episode, record_id in identified(_judged(episodes, selector, on_error)):
        if skip(record_id) or not selector.takes_end(episode):
            continue
        try:
            trajectory = trajectory_of(episode, record_id, env)
        except InputError as e:
            on_error(episode, e)
            continue
        if selector.takes(trajectory, episode):
            yield from_episode(trajectory, episode)


def _judged(episodes: Iterator[dict], selector: Selector, on_error: OnError) -> Iterator[dict]:
    """Return the episodes; where they are chosen by success or score, only those that have one."""
    if selector.selection.success:
        return only_judged(episodes, on_error)
    return episodes if selector.selection.min_score is None else only_real(episodes, "a score", on_error)


def from_episode(trajectory: dict, episode: dict) -> dict:
    """Return a trajectory with the model that played the episode it comes from, and the stages that made that."""
    return {**trajectory, "source": source_of(episode), "lineage": episode.get("lineage", [])}


def import_replayed_episodes(
    episodes: Iterator[dict],
    pool: Runner,
    settings: ImportSettings | None = None,
    *,
    selector: Selector | None = None,
    skip: Skip = skip_none,
    count: Count = no_count,
    note: Note = ignore_note,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory an episode, as its environment answers when the recorded actions are taken in it.

    The arguments are those of `import_replayed`; an episode names its environment and its task.
    """
    selector = selector or Selector(Selection())
    judged = _judged(episodes, selector, on_error)
    named = ((e, name) for e, name in identified(judged) if not skip(name) and selector.takes_end(e))
    jobs = episode_jobs(named, _work(settings or ImportSettings()), on_error)
    for episode, trajectory in _replayed(jobs, pool, selector, count, note, on_error):
        yield from_episode(trajectory, episode)


def import_rows(
    rows: Iterator[dict], format: str, env: str, task_key: str | None = None, *, on_error: OnError = stop_at_error
) -> Iterator[dict]:
    """Yield the examples of rows of messages.

    Args:
        format: A key of ROWS.
        env: The name of the environment, with which ids begin.
        task_key: The key of a row that names its task.
        on_error: Called with a row that cannot be read.
    """
    reader = sft.Rows(format, env, task_key)
    for row in rows:
        try:
            examples = list(reader.examples(row))
        except InputError as e:
            on_error(row, e)
            continue
        yield from examples


# -- records -----------------------------------------------------------------------------------------------------------


class RecordIds:
    """Ids for records: a second record about the same task gets a number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def of(self, name: str) -> str:
        """Return the id of the next record with this name."""
        self._counts[name] += 1
        return name if self._counts[name] == 1 else f"{name}#{self._counts[name]}"


class RepeatedSteps:
    """Marks the steps that a branch of a graph shares with an earlier branch of it, so that each is imitated once."""

    def __init__(self) -> None:
        self._beginnings: set[int] = set()  # hashes of the beginnings of the branches of one graph

    def mark(self, trajectory: dict, number: int) -> None:
        """Set `repeated` in the steps of a trajectory that have the same history and action as one before.

        Args:
            number: The number of the branch that the trajectory was made of.
        """
        if number == 1:
            self._beginnings.clear()
        beginning = 0
        for step in trajectory["steps"]:
            beginning = seed_of(beginning, step["observation"], step["thought"], step["action"])
            if beginning in self._beginnings:
                step["repeated"] = True
            self._beginnings.add(beginning)


def identified(episodes: Iterator[dict]) -> Iterator[tuple[dict, str]]:
    """Yield (episode, id of its trajectory): its own id, with a number where several have the same."""
    ids = RecordIds()
    for episode in episodes:
        yield episode, ids.of(episode["id"])


def _branches(
    records: Iterator[dict], format: Format, read: Callable[[GraphBranch], Any], on_error: OnError
) -> Iterator[GraphBranch]:
    """Yield every branch of the records' graphs; call `on_error` with a record of which a branch cannot be read.

    Args:
        read: Reads a branch; raises InputError.

    Raises:
        UsageError: The records are no graphs.
    """
    if format.branches is None:
        raise UsageError("--branches all is for graphs of messages, as verifiers has them")
    for record in records:
        try:
            branches = list(format.branches(record))
            for branch in branches:
                read(branch)
        except InputError as e:
            on_error(record, e)
            continue
        yield from branches


def _as_recorded(foreign: dict, format: Format, settings: ImportSettings) -> tuple[dict, Conversation, dict]:
    """Return a record as chat messages, its conversation, and its end, where eexp has exported it.

    Raises:
        InputError: It cannot be read, or an action has no observation before it.
    """
    record = format.adapted(foreign)
    conversation = read_conversation(record, format, settings.action, settings.drop_closing)
    end = logs.recorded_end(record)
    for step, place in zip(conversation.steps, conversation.places):
        if step["observation"] is None:
            raise InputError("no observation before this action; a replay would find it (--env)", place)
    return record, conversation, end


def _to_replay(foreign: dict, format: Format, tasks: Tasks, settings: ImportSettings) -> tuple[Conversation, dict]:
    """Return the conversation of a record and its task.

    Raises:
        InputError: It cannot be read, or has no task.
    """
    record = format.adapted(foreign)
    conversation = read_conversation(record, format, settings.action, settings.drop_closing)
    name = task_name_of(record, format, settings.task_key)
    try:
        return conversation, tasks.find(name, conversation.recorded_forms[0])
    except InputError as e:
        raise e if name is not None else e.at(f"$.{settings.task_key or format.task_keys[-1]}") from None


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


def count_unreadable(steps: list[dict], action: str, count: Count) -> None:
    """Count the actions that a prompt style would not read back from an agent's answer, with what to do about them.

    Args:
        action: How the actions were read (formats.names.MARKED, WHOLE or ARGUMENT).
    """
    style = get_style(DEFAULT_STYLE)
    for step in steps:
        text = step["action"]
        if "Action:" in text and action == WHOLE:
            count("action[s] contain[s|] 'Action:': see --action marked", 1)
        elif "Action:" in text:
            count("action[s] contain[s|] 'Action:', which prompt styles use as a mark: change the input", 1)
        elif "<think>" in text or "</think>" in text:
            count("action[s] contain[s|] '<think>' or '</think>': take the thoughts out of the input", 1)
        elif len(text.strip().splitlines()) > 1:
            count("action[s] [has|have] several lines, of which prompt styles read one back, but for code", 1)
        elif not style.reads_back(text):
            count(f"action[s] that prompt style {style.name} reads back as [another one|other ones]", 1)


# -- replay ------------------------------------------------------------------------------------------------------------


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


def _work(settings: ImportSettings) -> dict:
    """Return what the jobs of all records have in common."""
    names = ("trust", "admissible", "seed", "drop_invalid")
    return job_of(job, settings={name: getattr(settings, name) for name in names})


def _conversation_jobs(
    records: Iterator[dict], format: Format, tasks: Tasks, settings: ImportSettings, skip: Skip, on_error: OnError
) -> Iterator[tuple[dict, dict]]:
    """Yield (record, job) for every record that can be read and has a task; call `on_error` with the others."""
    ids, work = RecordIds(), _work(settings)
    for foreign in records:
        try:
            conversation, task = _to_replay(foreign, format, tasks, settings)
        except InputError as e:
            on_error(foreign, e)
            continue
        record_id = ids.of(f"{tasks.spec}/{task['id']}")
        if not skip(record_id):
            yield foreign, _replay_job(work, record_id, tasks.spec, task, conversation)


def episode_jobs(named: Iterable[tuple[dict, str]], work: dict, on_error: OnError) -> Iterator[tuple[dict, dict]]:
    """Yield (episode, job) for every (episode, id) that can be replayed; call `on_error` with the others.

    Args:
        named: The episodes, each with the id that its trajectory gets.
        on_error: Called with an episode that has no turns.
    """
    for episode, record_id in named:
        try:
            conversation = conversation_of(episode)
        except InputError as e:
            on_error(episode, e)
            continue
        yield episode, _replay_job(work, record_id, episode["env"], episode["task"], conversation)


def _replay_job(work: dict, record_id: str, env: str, task: dict, conversation: Conversation) -> dict:
    return {**work, "id": record_id, "env": env, "task": task, "conversation": asdict(conversation)}


def _replayed(
    jobs: Iterator[tuple[dict, dict]], pool: Runner, selector: Selector, count: Count, note: Note, on_error: OnError
) -> Iterator[tuple[dict, dict]]:
    """Yield (record, trajectory) for the replayed records that the selector takes."""
    for record, result in results(pool, jobs, on_error):
        trajectory = result["trajectory"]
        if selector.takes(trajectory, trajectory["outcome"]):
            for remark in result["notes"]:
                note(f"{trajectory['id']}: {remark}")
            add_counts(count, result["counts"])
            yield record, trajectory

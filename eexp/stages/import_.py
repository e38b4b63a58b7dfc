"""`eexp import`: turn trajectories that were recorded elsewhere into records.

Those of other projects are conversations (eexp/formats/conversations.py reads them), those of an agent's own play are
episodes (eexp/formats/episodes.py). A recording is a claim. Replayed in the environment it is checked
(eexp/envs/replay.py), and the trajectory that is written then comes from the environment, whose words and lists are
what later stages compare with. Rows of messages for training (eexp/formats/sft.py) become examples, as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from eexp import options
from eexp.callbacks import OnError, stop_at_error
from eexp.errors import InputError, UsageError, environment_errors
from eexp.formats.names import CONVERSATIONS, EPISODES, ROWS
from eexp.settings import command_options
from eexp.stage_settings.import_ import ImportSettings

if TYPE_CHECKING:
    from eexp.formats.conversations import Format
    from eexp.formats.episodes import Selector
    from eexp.stream import Stream
    from eexp.workers.pool import Pool


def import_(
    records: Iterator[dict],
    format: Format,
    env: str,
    settings: ImportSettings | None = None,
    *,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory a record, as it was recorded.

    A record in which the agent acts before its first observation is refused: only a replay can tell what that was.
    Everything that a record holds besides its turns is kept under `source`.

    Args:
        records: Records of the format.
        format: How they are read.
        env: The name of their environment.
        settings: How actions and tasks are found in a record.
        on_error: Called with a record that cannot be read.
    """
    from eexp.formats import logs
    from eexp.formats.conversations import read_conversation, task_name_of
    from eexp.importing import RecordIds, source_fields, tools_field

    settings, ids = settings or ImportSettings(), RecordIds()
    for number, foreign in enumerate(records, 1):
        try:
            record = format.adapted(foreign)
            conversation = read_conversation(record, format, settings.action)
            end = logs.recorded_end(record)
            for step, place in zip(conversation.steps, conversation.places):
                if step["observation"] is None:
                    raise InputError("no observation before this action; a replay would find it (--env)", place)
        except InputError as e:
            on_error(foreign, e)
            continue
        name = task_name_of(record, format, settings.task_key) or str(number)
        tools = tools_field(record, format)
        yield {
            "type": "trajectory",
            "id": ids.of(f"{env}/{name}"),
            "env": env,
            "task": {"id": name},
            "instruction": conversation.instruction,
            **tools,
            "steps": conversation.steps,
            "outcome": None if conversation.last is None else {"observation": conversation.last, **end},
            "source": source_fields(record, format, tools),
        }


def import_episodes(
    episodes: Iterator[dict],
    env: str | None = None,
    *,
    selector: Selector | None = None,
    skip: Callable[[str], bool] = lambda record_id: False,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory an episode, as it was recorded and without admissible actions.

    Args:
        episodes: The episodes.
        env: The name of the environment, where it is not the episode's.
        selector: Chooses the episodes and trajectories to keep; None keeps all.
        skip: Returns whether to leave the trajectory with an id out.
        on_error: Called with an episode that cannot be read.
    """
    from eexp.formats.episodes import Selection, Selector, source_of, trajectory_of
    from eexp.importing import identified

    selector = selector or Selector(Selection())
    for episode, record_id in identified(episodes):
        if skip(record_id) or not selector.takes_end(episode):
            continue
        try:
            trajectory = trajectory_of(episode, record_id, env)
        except InputError as e:
            on_error(episode, e)
            continue
        if selector.takes(trajectory, episode):
            yield {**trajectory, "source": source_of(episode), "lineage": episode.get("lineage", [])}


def import_rows(
    rows: Iterator[dict],
    format: str,
    env: str,
    task_key: str | None = None,
    *,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield the examples of rows of messages.

    Args:
        rows: Rows of chat messages.
        format: A key of ROWS.
        env: The name of the environment, with which ids begin.
        task_key: The key of a row that names its task.
        on_error: Called with a row that cannot be read.
    """
    from eexp.formats import sft

    reader = sft.Rows(format, env, task_key)
    for row in rows:
        try:
            examples = list(reader.examples(row))
        except InputError as e:
            on_error(row, e)
            continue
        yield from examples


@click.command("import")
@click.argument("format", type=click.Choice([*CONVERSATIONS, *ROWS, EPISODES]))
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
@command_options(ImportSettings)
@options.workers
@options.streams(resume=True)
def command(
    format: str, env: str | None, settings: ImportSettings, open_pool: Callable[..., Pool], stream: Stream
) -> None:
    """Turn trajectories that others recorded, or episodes, into records.

    FORMAT is agenttraj (AgentGym's AgentTraj-L), eto (ETO's expert data), messages (OpenAI's chat messages, with calls
    of tools), atif (Harbor's trajectories), verifiers (its traces.jsonl), inspect (logs of Inspect, as JSON) or
    episodes (of `eexp eval`). A FILE has one record a line or, but for episodes, is a JSON array; a log of Inspect is
    one object. Text that only says how to answer is left out.

    expert_sft, iwm_sft and reflection_sft are rows of chat messages for training, in the form of the files that the
    paper's authors published. They become examples of imitation, world model or reflection, with the words they have.

    With --env, the recorded actions are taken in the environment. Its observations must be the recorded ones, up to
    blanks and to what the environment itself calls random; then its observations, admissible actions and outcome are
    written. Where there are none in the record, they are filled in. The task is the one whose id is the name in the
    record, or the end of that after / or _; see --match and --map.

    Episodes name their environment and their task, and are replayed there. They must end as recorded, too. With
    --success, the episodes in which a model succeeded become the demonstrations of its next round of training.

    \b
    Example:
      eexp eval house -m expert --split train -n 20 | eexp import episodes --success > own.jsonl
      echo '{"id": "train/0", "messages": [{"role": "assistant", "content": "look"}]}' > played.jsonl
      eexp import messages --env house played.jsonl > imported.jsonl
    """
    from eexp.envs.naming import Tasks
    from eexp.formats.episodes import Selector
    from eexp.importing import FORMATS, conversation_jobs, episode_jobs, replay_all

    if (settings.no_replay or format in ROWS) and env:
        if click.get_current_context().get_parameter_source("env") is ParameterSource.COMMANDLINE:
            reason = "--no-replay asks for none" if settings.no_replay else f"rows of {format} become examples"
            raise UsageError(f"--env is for a replay, and {reason}")
        env = None
    replayed = bool(env) or (format == EPISODES and not settings.no_replay)
    settings.check(format, replayed)
    tasks = None
    if env and replayed and format != EPISODES:
        from eexp.envs import open_env

        with open_env(env) as world, environment_errors(env):
            tasks = Tasks(world, settings.split, settings.match, settings.names())
    if format == EPISODES:
        stream.types = ["episode"]
    with stream.open("import", format=format, env=env, **settings.lineage(replayed)) as io:
        if format in ROWS:
            rows = io.foreign_records()
            for record in import_rows(rows, format, settings.name or format, settings.task_key, on_error=io.fail):
                if not io.done(record["id"]):
                    io.write(record)
            return
        selector = Selector(settings.selection, io.count, io.earlier_records())
        if not replayed:
            _import_unchecked(io, format, settings, selector)
            return
        if tasks:
            jobs = conversation_jobs(io, FORMATS[format], tasks, settings)
        else:
            jobs = episode_jobs(io, io.records(skip_done=False), selector)
        with open_pool(env) as pool:
            replay_all(io, FORMATS.get(format), jobs, pool, selector, settings)


def _import_unchecked(io: Stream, format: str, settings: ImportSettings, selector: Selector) -> None:
    """Write records as trajectories without a replay."""
    from eexp.importing import FORMATS, count_unreadable, foreign_records

    if format == EPISODES:
        episodes = io.records(skip_done=False)
        trajectories = import_episodes(episodes, settings.name, selector=selector, skip=io.done, on_error=io.fail)
    else:
        records = foreign_records(io, FORMATS[format])
        imported = import_(records, FORMATS[format], settings.name or format, settings, on_error=io.fail)
        trajectories = (t for t in imported if not io.done(t["id"]) and selector.takes(t, t["outcome"]))
    for trajectory in trajectories:
        io.write(trajectory)
        if format != EPISODES:
            count_unreadable(trajectory["steps"], settings.action or FORMATS[format].action, io.count)
        io.count("trajector[y|ies] taken over without a replay")

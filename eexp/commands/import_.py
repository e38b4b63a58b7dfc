"""`eexp import`: turn trajectories that were recorded elsewhere into records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from eexp.acting.settings import ImportSettings
from eexp.console import options
from eexp.console.parameters import TableName, command_options, option
from eexp.errors import InputError, UsageError, environment_errors
from eexp.formats.names import EPISODES, IMPORT_FORMATS, ROWS, WEBARENA_TASKS
from eexp.settings import Name

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.envs.naming import Tasks
    from eexp.formats.conversations import Format
    from eexp.formats.episodes import Selector
    from eexp.workers.pool import Pool


@click.command("import")
@click.argument("format", type=TableName(Name(IMPORT_FORMATS)), metavar="FORMAT")
@option(None, "--env", type=options.ENV, metavar="SPEC", envvar="EEXP_ENV", shell_complete=options.complete_env).help(
    "Replay every record in this environment, check what was recorded and fill in what was not. "
    "Episodes name theirs; exec: programs, classes and servers have to be named here all the same.  "
    "[default: no replay; for episodes, the one they name]"
)
@command_options(ImportSettings)
@options.workers
@options.streams(resume=True, shards=True)
def command(
    format: str, env: str | None, settings: ImportSettings, open_pool: Callable[..., Pool], stream: Stream
) -> None:
    """Turn trajectories that others recorded, or episodes, into records.

    FORMAT is agenttraj (AgentGym's AgentTraj-L), eto (ETO's expert data), sharegpt (chats of ShareGPT), messages
    (OpenAI's chat messages, with tool calls), atif (Harbor's trajectories), verifiers (its traces.jsonl), inspect (logs
    of Inspect, as JSON), episodes (of `eexp eval`) or a format of another package (`eexp plugins`). A FILE has one
    record a line, or is one JSON array. Episodes have one a line, and a log of Inspect is one object. Instructions on
    how to answer are left out.

    expert_sft, iwm_sft and reflection_sft are rows of chat messages for training, in the form of the files that the
    paper's authors published. They become examples of imitation, world model or reflection. Their words are not
    changed.

    With --env, the recorded actions are replayed in the environment. Its observations must equal the recorded ones.
    Blanks, and parts that the environment calls random, are not compared. The output has the environment's
    observations, admissible actions and outcome. Missing observations are filled in. A task is found by its id: the
    name in the record, or the end of that name after a / or _. For other names, see --match and --map.

    webarena-tasks reads task files of WebArena, which BrowserGym plays, too, and writes a file of tasks in TOML for
    `web?tasks=FILE`: those of one site that you run (--site).

    Episodes name their environment and their task, and are replayed there. They must end as recorded, too. With
    --success, this is rejection sampling: the episodes in which a model succeeded become the demonstrations of its next
    round.

    \b
    Example:
      eexp eval house -m expert --split train -n 20 | eexp import episodes --success > own.jsonl
      echo '{"id": "train/0", "messages": [{"role": "assistant", "content": "look"}]}' > played.jsonl
      eexp import messages --env house played.jsonl > imported.jsonl
    """
    from eexp.acting.importing import import_rows
    from eexp.envs.naming import Tasks
    from eexp.formats.episodes import Selector
    from eexp.records.imagination import is_imagined

    if format == WEBARENA_TASKS:
        settings.check(format, replayed=False)
        _write_tasks(stream, settings)
        return
    if (settings.no_replay or format in ROWS) and env:
        if click.get_current_context().get_parameter_source("env") is ParameterSource.COMMANDLINE:
            reason = "--no-replay asks for none" if settings.no_replay else f"rows of {format} become examples"
            raise UsageError(f"--env is for a replay, and {reason}")
        env = None
    if format != EPISODES:
        stream.need_all_records(f"records of {format} get their ids from all before them")
    elif settings.distinct:
        stream.need_all_records("--distinct compares all episodes")
    replayed = bool(env) or (format == EPISODES and not settings.no_replay)
    settings.check(format, replayed)
    tasks = None
    if env and replayed and format != EPISODES and is_imagined(env):
        raise UsageError(f"--env {env}: a replay in an imagined environment shows nothing of a record")
    if env and replayed and format != EPISODES:
        from eexp.envs import open_env

        with open_env(env) as world, environment_errors(env):
            tasks = Tasks(world, settings.split, settings.match, settings.names())
    if format == EPISODES:
        stream.types = ["episode"]
    with stream.open("import", format=IMPORT_FORMATS.label(format), env=env, **settings.lineage(replayed)) as io:
        if format in ROWS:
            rows = io.foreign_records()
            for record in import_rows(rows, format, settings.name or format, settings.task_key, on_error=io.fail):
                if not io.done(record["id"]):
                    io.write(record)
            return
        selector = Selector(settings.selection, io.count, io.earlier_records())
        if not replayed:
            for trajectory in _as_recorded(io, format, settings, selector):
                io.write(trajectory)
                io.count("trajector[y|ies] taken over without a replay")
            return
        with open_pool(env) as pool:
            for trajectory in _replayed(io, format, tasks, pool, settings, selector):
                io.write(trajectory)


def _write_tasks(stream: Stream, settings: ImportSettings) -> None:
    """Write a file of tasks for `web`, and say which tasks are left out and why."""
    from collections import Counter

    from eexp.formats.webarena import UserSite, configs_in, configs_of, id_of, tasks_file, tasks_from

    assert settings.site is not None  # checked with the settings
    site = UserSite.of(settings.site, settings.storage)
    stream.need_all_records(f"{WEBARENA_TASKS} become one file")
    if stream.resume:
        raise UsageError(f"--resume goes on from records, and {WEBARENA_TASKS} become a file of tasks")
    reasons: Counter[str] = Counter()
    with stream.open("import") as io:

        def leave_out(config: dict, why: InputError) -> None:
            reasons[str(why)] += 1
            io.keep(config, why)

        test = list(configs_of(settings.test)) if settings.test else []
        tasks = tasks_from(test, site, count=io.count, leave_out=leave_out)
        split, names = ("train", {id_of(config) for config in test}) if test else ("test", set())
        configs = io.foreign_records(configs_in(io.files))
        tasks += tasks_from(configs, site, split, names, count=io.count, leave_out=leave_out, on_error=io.fail)
        for reason, number in reasons.most_common():
            io.note(f"left out: {number} that {reason}")
        if not tasks:
            raise InputError(f"no task of {site.name} is left")
        io.write_text(tasks_file(site, tasks), len(tasks))


def _as_recorded(io: Stream, format: str, settings: ImportSettings, selector: Selector) -> Iterator[dict]:
    """Yield the trajectories of the input without a replay."""
    from eexp.acting.importing import import_, import_episodes
    from eexp.formats.conversations import import_format

    if format == EPISODES:
        episodes = io.records(skip_done=False)
        return import_episodes(episodes, settings.name, selector=selector, skip=io.done, on_error=io.fail)
    conversations = import_format(format)
    return import_(
        _foreign_records(io, conversations),
        conversations,
        settings.name or format,
        settings,
        selector=selector,
        skip=io.done,
        count=io.count,
        on_error=io.fail,
    )


def _replayed(
    io: Stream, format: str, tasks: Tasks | None, pool: Pool, settings: ImportSettings, selector: Selector
) -> Iterator[dict]:
    """Yield the trajectories of the input, replayed; `tasks` is None for episodes, which name theirs."""
    from eexp.acting.importing import import_replayed, import_replayed_episodes
    from eexp.formats.conversations import import_format

    watched = io.watch(pool, "trajectory")
    more: Any = {"selector": selector, "skip": io.done, "count": io.count, "note": io.note, "on_error": io.fail}
    if tasks is None:
        return import_replayed_episodes(io.records(skip_done=False), watched, settings, **more)
    conversations = import_format(format)
    return import_replayed(_foreign_records(io, conversations), conversations, tasks, watched, settings, **more)


def _foreign_records(io: Stream, format: Format) -> Iterator[dict]:
    """Yield the records of another program; of logs of Inspect, their samples."""
    return io.foreign_records(format.documents(io.files) if format.documents else None)

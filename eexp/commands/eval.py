"""`eexp eval`: play tasks, and write one episode each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import EvalSettings, TaskSelection
from eexp.console import options
from eexp.console.options import PolicyOptions
from eexp.console.parameters import command_options, option
from eexp.envs.registry import light_names
from eexp.errors import EnvironmentFailed, InputError, UsageError, environment_errors
from eexp.settings import THINK, max_tokens

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.envs.base import Environment
    from eexp.models.predictor import Predictor
    from eexp.workers.parallel import ParallelEnvironments


def _shared(spec: str, tasks: list[dict], trials: int, io: Stream) -> list[tuple[dict, int]]:
    """Return (task, trial) for the episodes of this shard: all trials of a task are in one."""
    from eexp.acting.play import episode_id

    return list(
        io.share(
            ((task, trial) for trial in range(trials) for task in tasks),
            lambda one: f"{spec}/{one[0]['id']}",
            lambda one: episode_id(spec, *one),
        )
    )


def _kind(env: Environment, task: dict) -> str | None:
    """Return the kind of a task; None for one that the environment does not know, which fails when it is played."""
    try:
        return env.kind_of(task)
    except EnvironmentFailed:
        raise
    except InputError:
        return None


def _read_panel(file: str, env: str | None) -> tuple[str, list[dict], str]:
    """Return the environment to play in, a panel's tasks and its hash.

    The panel of an environment may be played with noise in the observations (`noisy:P:ENV`): the tasks are the same.

    Raises InputError for a panel of an environment that the command line has to name, or that does not exist: a panel
    may come from anywhere.
    """
    from eexp.envs import unsafe_in_records
    from eexp.envs.logins import without_logins
    from eexp.evidence.panels import panel_hash, task_record, tasks_of
    from eexp.records.jsonl import read

    spec, tasks = tasks_of(file, read([file], "task"), env)
    if env is None and (why_not := unsafe_in_records(spec := without_logins(spec))):
        raise InputError(
            f"{file}: a panel of {spec!r}, which {why_not}; allow it by naming it: eexp eval {spec!r} --panel {file}"
        )
    return env or spec, tasks, panel_hash(task_record(spec, task) for task in tasks)


def _open(env: str, panel_file: str | None) -> Environment:
    """Open the environment to play in; an unknown one is bad input where a panel names it."""
    from eexp.envs import open_env

    try:
        return open_env(env)
    except UsageError as e:
        if panel_file is None:
            raise
        raise InputError(f"{panel_file}: {e}") from None


@click.command("eval")
@click.argument(
    "env", type=options.ENV, metavar="[ENV]", required=False, envvar="EEXP_ENV", shell_complete=options.complete_env
)
@command_options(TaskSelection, "selection")
@command_options(EvalSettings)
@option(None, "--look-ahead-with", metavar="MODEL", shell_complete=options.complete_model).help(
    "With --look-ahead: the world model to ask, trained on examples of `eexp world-model-data --verdict after`.  "
    "[default: none, the environment is forked]"
)
@options.policy(
    "The policy that plays; `eexp models` lists what MODEL may be.  [default: the built-in tiny model]",
    max_tokens(None, "what the model was trained to write; else 128, or 1024 with a thought"),
    THINK,
)
@options.parallel
@options.streams(resume=True, shards=True, with_files=False)
def command(
    env: str | None,
    selection: TaskSelection,
    settings: EvalSettings,
    look_ahead_with: str | None,
    policy: PolicyOptions,
    open_worlds: Callable[..., ParallelEnvironments],
    stream: Stream,
) -> None:
    """Play tasks with a model and record the episodes.

    The tasks are a fixed panel: those of the split, ordered by a hash of their ids. So the tasks of -n 100 are among
    those of -n 200, and two machines with -n 50 and --skip 50 -n 50 play what -n 100 plays. With --panel the tasks are
    those of a file, and every episode holds the panel's hash. By default, the prompt style, the use of thoughts and the
    token limit are those that the model was trained with. An answer that is cut off before its action counts as an
    invalid action. `eexp env list` shows what ENV may be.

    Many episodes are played at once, in one batch. Their number does not change the output, up to rounding.
    Environments other than {LIGHT} live in processes of their own, one an episode. If one crashes, hangs or takes too
    much memory, its episode is tried again. A task that fails three times is a bad record.

    \b
    Example:
      eexp eval house -m random -n 20 --split test > episodes.jsonl
    """
    from eexp.acting.play import JUDGED, WITHOUT_VERDICT, episode_id, evaluate, panel
    from eexp.console.stream import SUCCESSES
    from eexp.envs import forking

    is_named = env is not None
    split, panel_tasks, panel_hash = selection.split or "test", None, None
    if selection.panel_file is not None:
        if selection.split is not None:
            raise click.UsageError("--panel says which tasks; leave out --split")
        env, panel_tasks, panel_hash = _read_panel(selection.panel_file, env)
    if env is None:
        raise click.UsageError("Missing argument 'ENV', or --panel FILE")
    with _open(env, None if is_named else selection.panel_file) as world, environment_errors(env):
        if panel_tasks is None:
            world.check_split(split)
            tasks = panel(world, split, selection.number, selection.skip)
        else:
            tasks = selection.part_of(panel_tasks)
        forks = not settings.look_ahead or look_ahead_with or forking.choose_way(world) != "replay"
        max_steps = settings.max_steps or world.max_steps
        kinds = {task["id"]: _kind(world, task) for task in tasks}
    if not forks:
        raise click.UsageError(f"--look-ahead needs an environment that can be forked, and {env} cannot")
    if look_ahead_with and not settings.look_ahead:
        raise click.UsageError("--look-ahead-with needs --look-ahead K")
    memory = options.open_memory(settings.recall, stream.note)
    player = policy.open(stream.note)
    predictor = _predictor(look_ahead_with, policy, stream) if look_ahead_with else None
    where = split if panel_tasks is None else f"panel {panel_hash} of {len(tasks)} tasks"
    stream.note(
        f"{env} {where}, model {player.fingerprint}, prompt style {player.style_label or 'none'}, "
        f"thoughts {player.think}, temperature {settings.temperature:g}, at most {max_steps} steps"
    )
    if settings.only_admissible and player.think != "never":
        raise click.UsageError("--only-admissible leaves no room for a thought; give --think never")
    io = stream.open(
        "eval",
        env=env,
        split=split if panel_tasks is None else None,
        panel=panel_hash,
        model=player.fingerprint,
        prompt_style=player.style_label,
        temperature=settings.temperature,
        max_tokens=player.max_tokens,
        think=player.think,
        max_steps=max_steps,
        seed=settings.seed,
        only_admissible=settings.only_admissible or None,
        look_ahead=settings.look_ahead,
        look_ahead_with=predictor.fingerprint if predictor else None,
        recall=settings.recall,
        recall_count=settings.recall_count if settings.recall else None,
    )
    if not tasks:
        stream.note(f"no tasks left after the first {selection.skip}")
    shared = _shared(env, tasks, selection.trials, io)
    number = len(shared)
    with io, closing(player), closing(predictor) if predictor else nullcontext(), open_worlds(world, number) as worlds:
        due = (one for one in shared if not io.done(episode_id(env, *one)))
        episodes = evaluate(
            worlds,
            due,
            player,
            settings,
            kinds=kinds,
            panel_hash=panel_hash,
            predictor=predictor,
            memory=memory,
            on_error=io.fail,
        )
        with closing(episodes):
            for episode in io.progress(episodes, "episode", number):
                io.write(episode)
                if episode["success"] is not None:
                    io.count(SUCCESSES, int(episode["success"]))
                io.count("invalid action[s]", episode["invalid"])
                io.count("turn[s]", episode["steps"])
                io.count("turn[s] with a thought", episode["thoughts"])
                io.count("turn[s] cut off before the action", episode["cut_off"])
        if player.think == "never" and io.counts["turn[s] with a thought"] > io.counts["turn[s]"] / 2:
            io.note("most turns have a thought, with --think never: the model was trained to think in every turn")
        io.counts.update(worlds.counts)
        io.counts.update(player.counts)
        if predictor:
            if io.counts[WITHOUT_VERDICT] and io.counts[WITHOUT_VERDICT] >= io.counts[JUDGED] / 2:
                io.note(
                    "the world model mostly gave no verdict, and such actions pass: train it on examples of "
                    "`eexp world-model-data --verdict`, for longer"
                )
            io.counts.update({f"{what} by the world model": n for what, n in predictor.counts.items()})


def _predictor(spec: str, policy: PolicyOptions, stream: Stream) -> Predictor:
    """Open the world model of --look-ahead-with, which runs as the policy does."""
    from eexp.models.predictor import Predictor

    model = replace(policy.model, spec=spec).open(lambda text: stream.note(f"world model: {text}"), "--look-ahead-with")
    return Predictor(model, options.chosen_style(policy.style_name, model.play_settings.style, stream.note))


command.help = (command.help or "").replace("{LIGHT}", light_names())

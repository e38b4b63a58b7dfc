"""The options that several commands share, spelled the same everywhere."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from eexp.envs.registry import light_names

if TYPE_CHECKING:
    from eexp.envs.base import Environment
    from eexp.models import Engine, Model
    from eexp.models.policy import Policy
    from eexp.prompts import PromptStyle
    from eexp.workers.parallel import ParallelEnvironments
    from eexp.workers.pool import Pool

Command = Callable[..., Any]

MOST_WORKERS = 8  # by default; a JVM in each takes half a gigabyte
MOST_LIGHT = 32  # environments in one process, by default
STEP_LIMIT = 300.0  # seconds, by default, where an environment has no limit of its own


class Finite(click.FloatRange):
    """A number that is one: neither nan, which passes every comparison, nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


#: A path, so that shells complete it. It is not checked here: whoever opens it says what is wrong, and where.
PATH = click.Path(readable=False, allow_dash=True)


class EnvSpec(click.ParamType):
    """The spec of an environment. A login in its URL goes no further than this (envs/logins.py)."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from eexp.envs.logins import withhold_logins

        return withhold_logins(value)


ENV = EnvSpec()


def complete_env(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: environments that begin like this."""
    from eexp.envs.registry import completions

    return completions(incomplete)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: files, and model specs that begin like this."""
    specs = [CompletionItem(spec) for spec in ("tiny", "random", "expert", "hf:") if spec.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *specs]


def streams(kind: str | None = None, resume: bool = False, plural: str = "FILE") -> Callable[[Command], Command]:
    """FILE arguments (unless `kind` is None), -o, and what to do about bad records; passed on as one `stream`.

    kind: the type of record that the command reads ("any": all types). resume: whether it is slow enough for --resume.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_stream(
            *args: Any,
            output: str | None,
            on_error: str = "stop",
            rejects: str | None = None,
            resume: bool = False,
            quiet: bool,
            files: tuple[str, ...] = (),
            **rest: Any,
        ) -> Any:
            from eexp.jsonl import Stream

            stream = Stream(files, output, on_error, rejects, resume, quiet)
            stream.also_read = _also_read(**rest)
            stream.refuse_to_overwrite_input()  # before a model is loaded
            return command(*args, stream=stream, **rest)

        found = [
            click.option("-o", "--output", type=PATH, metavar="FILE", help="Write here instead of standard output.")
        ]
        if resume:
            found.append(
                click.option("--resume", is_flag=True, help="Go on where the same command, interrupted, left -o FILE.")
            )
        found += [
            click.option(
                "--on-error",
                type=click.Choice(["stop", "skip"]),
                default="stop",
                show_default=True,
                help="What a bad record does: end the run (exit code 3), or be set aside (exit code 4).",
            ),
            click.option(
                "--rejects",
                type=PATH,
                metavar="FILE",
                help="Keep what was set aside here, as JSONL with the reason. Implies --on-error skip.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No summary on standard error."),
        ]
        for option in reversed(found):
            with_stream = option(with_stream)
        if kind:
            with_stream = click.argument("files", nargs=-1, type=PATH, metavar=f"[{plural}]...")(with_stream)
        return with_stream

    return decorate


def _also_read(
    model: str | None = None,
    prompt_style: str | None = None,
    panel_file: str | None = None,
    mapping: str | None = None,
    **rest: Any,
) -> list[str]:
    """The files that the options of a command name and that it reads."""
    named = [name for name in (prompt_style, panel_file, mapping) if name and os.path.isfile(name)]
    if model:
        from eexp.weights import files_of

        named += files_of(model)
    return named


def seed(command: Command) -> Command:
    """--seed."""
    return click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        envvar="EEXP_SEED",
        show_envvar=True,
        metavar="N",
        help="Seed of every random draw.",
    )(command)


def _number_of_admissible(ctx: click.Context, param: click.Parameter, said: str) -> int | None:
    if said in ("all", "none"):
        return None if said == "all" else 0
    if said.isdecimal():
        return int(said)
    raise click.BadParameter(f"{said!r} is not a number, 'all' or 'none'")


def admissible(command: Command) -> Command:
    """--admissible, as a number; None for all."""
    return click.option(
        "--admissible",
        metavar="N|all|none",
        default="50",
        show_default=True,
        callback=_number_of_admissible,
        help="How many admissible actions to keep a step; drawn at random, with the expert's own among them.",
    )(command)


_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)


def _bytes(ctx: click.Context, param: click.Parameter, said: str | None) -> int | None:
    if said is None:
        return None
    found = _MEMORY.fullmatch(said.strip())
    if not found or not float(found[1]):
        raise click.BadParameter(f"{said!r} is no amount of memory; write 500M or 2G")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def workers(command: Command) -> Command:
    """-j, --timeout and --memory of the processes that hold environments; passed on as `open_pool`.

    `open_pool(env)` gives the Pool (eexp/workers/pool.py), env as in --env.
    """

    @functools.wraps(command)
    def with_pool(*args: Any, workers: int | None, timeout: float | None, memory: int | None, **rest: Any) -> Any:
        def open_pool(env: str | None) -> Pool:
            from eexp.cores import usable_cores
            from eexp.workers.pool import Pool

            return Pool(workers or min(usable_cores(), MOST_WORKERS), env, _step_limit(timeout), memory)

        return command(*args, open_pool=open_pool, **rest)

    for option in reversed(
        [
            click.option(
                "-j",
                "--workers",
                type=click.IntRange(min=1),
                metavar="N",
                help=f"Processes that hold environments.  [default: one a core, {MOST_WORKERS} at most]",
            ),
            *_limits("trajectory"),
        ]
    ):
        with_pool = option(with_pool)
    return with_pool


def worlds(command: Command) -> Command:
    """--parallel, and --timeout and --memory of the processes that hold environments; passed on as `open_worlds`.

    `open_worlds(env, most)` opens ParallelEnvironments (eexp/workers/parallel.py) like `env`, at most `most` of them.
    """

    @functools.wraps(command)
    def with_worlds(*args: Any, parallel: int | None, timeout: float | None, memory: int | None, **rest: Any) -> Any:
        def open_worlds(env: Environment, most: int) -> ParallelEnvironments:
            from eexp.workers.parallel import open_parallel

            size = parallel or (MOST_LIGHT if env.light else MOST_WORKERS)
            return open_parallel(env, max(1, min(size, most)), _step_limit(timeout), memory)

        return command(*args, open_worlds=open_worlds, **rest)

    for option in reversed(
        [
            click.option(
                "--parallel",
                type=click.IntRange(min=1),
                metavar="N",
                help=f"How many episodes are played at once.  [default: {MOST_LIGHT} in {light_names()}; "
                f"{MOST_WORKERS} elsewhere, where each takes a process]",
            ),
            *_limits("episode"),
        ]
    ):
        with_worlds = option(with_worlds)
    return with_worlds


def _limits(costs: str) -> list[Callable[[Command], Command]]:
    """--timeout and --memory; `costs`: the record that is tried again."""
    return [
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            envvar="EEXP_ENV_TIMEOUT",
            show_envvar=True,
            help=f"Longest step; a process that takes longer is killed and its {costs} tried again.  "
            f"[default: the environment's own limit, {STEP_LIMIT:g} for one without]",
        ),
        click.option(
            "--memory",
            callback=_bytes,
            metavar="SIZE",
            help="Most that one of the processes may hold, such as 2G; one that holds more is killed.",
        ),
    ]


def _step_limit(timeout: float | None) -> float:
    from eexp.processes.child import time_limit

    if timeout:
        os.environ["EEXP_ENV_TIMEOUT"] = str(timeout)  # for the limits inside the workers
    return time_limit(STEP_LIMIT)


def kind_shares(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    """The values of --share KIND=SHARE as a dict; None where there is none."""
    shares: dict[str, float] = {}
    for value in values:
        kind, mark, number = value.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not mark or not kind or not 0 < share < 1:
            raise click.BadParameter(f"{value!r}: expected KIND=SHARE with a share between 0 and 1")
        if kind in shares:
            raise click.BadParameter(f"two shares for {kind}")
        shares[kind] = share
    if sum(shares.values()) >= 1:
        raise click.BadParameter(f"the shares add up to {sum(shares.values()):g}; nothing is left for other kinds")
    return shares or None


def confidence(command: Command) -> Command:
    """--confidence: of the intervals of a comparison."""
    return click.option(
        "--confidence",
        type=Finite(0.5, 0.999),
        default=0.95,
        show_default=True,
        metavar="LEVEL",
        help="Confidence of the intervals.",
    )(command)


def common(command: Command) -> Command:
    """--common: what is done about files of different tasks."""
    return click.option(
        "--common", is_flag=True, help="Compare on the tasks that all files have, instead of refusing different ones."
    )(command)


def alternatives(fewest: int = 1) -> Callable[[Command], Command]:
    """--pool and --first, as in `records.alternatives_of`; `fewest`: the smallest K that a stage can use."""

    def decorate(command: Command) -> Command:
        for option in reversed(
            [
                click.option(
                    "--pool",
                    metavar="NAME",
                    help="Use only the alternatives that `eexp branch` drew for this pool.  "
                    "[default: all, every action once]",
                ),
                click.option(
                    "--first",
                    type=click.IntRange(min=fewest),
                    metavar="K",
                    help="Use only the first K alternatives of every state; smaller sets are parts of larger "
                    "ones.  [default: all]",
                ),
            ]
        ):
            command = option(command)
        return command

    return decorate


def env_override(command: Command) -> Command:
    """--env, for stages that find the environment in the records."""
    return click.option(
        "--env",
        type=ENV,
        metavar="SPEC",
        envvar="EEXP_ENV",
        show_envvar=True,
        shell_complete=complete_env,
        help="Environment to use instead of the one the records name. Needed for exec: programs, "
        "classes, servers and paths, which a record alone may not name.  "
        "[default: the one the records name]",
    )(command)


def prompt_style(default: str = "react") -> Callable[[Command], Command]:
    """--prompt-style; `default` says in words what it is without it."""
    return click.option(
        "--prompt-style",
        metavar="STYLE",
        envvar="EEXP_PROMPT_STYLE",
        show_envvar=True,
        help=f"The words around a state: a built-in style (`eexp prompts list`) or a TOML file.  [default: {default}]",
    )


STYLE_OF_MODEL = "the one the model was trained with, else react"


#: --trust-remote-code. There is no variable and no question for it: it is for who types it.
trust_remote_code = click.option(
    "--trust-remote-code",
    is_flag=True,
    allow_from_autoenv=False,
    help="Run the Python code that a model of transformers brings. Without it, such a model is refused.",
)


def model(
    help: str, max_tokens: int | None = None, temperature: float | None = None, room: str = ""
) -> Callable[[Command], Command]:
    """-m, how to sample from it, and how it runs, which is passed on as one `engine`.

    temperature: the default of --temperature; None leaves out how to sample, for commands that do not. room: the
    default of --max-tokens in words, where `max_tokens` is None.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_engine(
            *args: Any,
            context: int | None,
            threads: int | None,
            batch: int | None,
            cache_type: str,
            gpu_layers: int | None,
            flash_attention: bool | None,
            trust_remote_code: bool,
            **rest: Any,
        ) -> Any:
            from eexp.models import Engine

            engine = Engine(context, threads, batch, cache_type, gpu_layers, flash_attention, trust_remote_code)
            return command(*args, engine=engine, **rest)

        sampling = [
            click.option(
                "--temperature",
                type=click.FloatRange(min=0),
                default=temperature,
                show_default=True,
                metavar="T",
                help="Sampling temperature; 0 takes the most likely token every time.",
            ),
            click.option(
                "--max-tokens",
                type=click.IntRange(min=1),
                default=max_tokens,
                show_default=not room,
                metavar="TOKENS",
                help=f"Longest answer.{f'  [default: {room}]' if room else ''}",
            ),
        ]
        for option in reversed(
            [
                click.option(
                    "-m",
                    "--model",
                    metavar="MODEL",
                    envvar="EEXP_MODEL",
                    show_envvar=True,
                    shell_complete=complete_model,
                    help=help,
                ),
                *(sampling if temperature is not None else []),
                click.option(
                    "--context",
                    type=click.IntRange(min=16),
                    metavar="TOKENS",
                    help="Room for prompt and answer.  [default: the model's own, 8192 at most]",
                ),
                click.option(
                    "--threads",
                    type=click.IntRange(min=1),
                    metavar="N",
                    help="CPU threads, for llama.cpp.  [default: all cores; 1 for tiny]",
                ),
                click.option(
                    "--batch",
                    type=click.IntRange(min=1),
                    metavar="TOKENS",
                    help="Most tokens evaluated at once, for llama.cpp.  [default: 512]",
                ),
                click.option(
                    "--cache-type",
                    type=click.Choice(["f16", "f32", "q8_0"]),
                    default="f16",
                    show_default=True,
                    help="Number format of llama.cpp's keys and values.",
                ),
                click.option(
                    "--gpu-layers",
                    type=click.IntRange(min=0),
                    metavar="N",
                    envvar="EEXP_GPU_LAYERS",
                    show_envvar=True,
                    help="Layers that llama.cpp gives to a GPU.  [default: all, where it was built for one]",
                ),
                click.option(
                    "--flash-attention/--no-flash-attention",
                    default=None,
                    help="For llama.cpp.  [default: only on a GPU]",
                ),
                trust_remote_code,
            ]
        ):
            with_engine = option(with_engine)
        return with_engine

    return decorate


def think(default: str) -> Callable[[Command], Command]:
    """--think."""
    return click.option(
        "--think",
        type=click.Choice(["auto", "always", "never"]),
        default=default,
        show_default=True,
        help="Whether the model is to write a thought before each action. auto: as it was trained; not "
        "at all where it does not say; where the style's prompt is the same for both, the model "
        "decides.",
    )


def chosen_style(
    requested: str | None, trained: PromptStyle | None, note: Callable[[str], None] = lambda text: None
) -> PromptStyle:
    """Return the style requested, else the one the model was trained with, else the default; note where they differ."""
    from eexp.prompts import DEFAULT_STYLE, get_style

    if not requested:
        return trained or get_style(DEFAULT_STYLE)
    style = get_style(requested)
    if trained and trained.label != style.label:
        note(f"playing with prompt style {style.label}, though the model was trained with {trained.label}")
    return style


#: Tokens of an answer, where neither the command line nor the model's training says: as in the paper for one with a
#: thought.
_DEFAULT_ROOM = {"never": 128, "always": 1024, "auto": 1024}


def open_policy(
    spec: str | None,
    style_name: str | None,
    max_tokens: int | None,
    note: Callable[[str], None],
    engine: Engine,
    think: str | None = None,
) -> Policy:
    """The policy a command is to use: -m, else $EEXP_MODEL (click fills it in), else the tiny model with a notice.

    think: as the option; without it, never, but where a server has to decide for itself.
    """
    from eexp.models import policy

    spec = _default_model(note) if spec is None else spec
    if spec == "random":
        return policy.RandomPolicy()
    if spec == "expert":
        return policy.ExpertPolicy()
    model = open_writer(spec, engine, note)
    style = chosen_style(style_name, model.played.style, note)
    if think in (None, "auto") and style.thought.absent == "empty" and not model.exact:
        think = "auto"  # a server cannot go on from a place for a thought that is opened or closed for it
    elif think is None:
        think = "never"
    elif think == "auto" and (style.thought.absent == "omit" or model.played.think in (None, "never")):
        think = model.played.think or "never"
    return policy.ModelPolicy(model, style, max_tokens or model.played.max_tokens or _DEFAULT_ROOM[think], think)


def _default_model(note: Callable[[str], None]) -> str:
    from eexp.models import DEFAULT_MODEL

    note("no -m and no EEXP_MODEL: using the built-in tiny model, a base model for house only")
    return DEFAULT_MODEL


def open_writer(spec: str | None, engine: Engine, note: Callable[[str], None]) -> Model:
    """The language model that `spec` names, or the tiny one with a notice; says how it runs."""
    from eexp.models import open_model

    spec = _default_model(note) if spec is None else spec
    if spec in ("random", "expert"):
        raise click.BadParameter(f"{spec} cannot write text", param_hint="-m")
    model = open_model(spec, engine)
    model.note = note
    if model.settings:
        note(model.settings)
    return model

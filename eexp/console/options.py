"""Command-line options that several commands share, spelled the same everywhere.

A stage's settings are fields of a dataclass (eexp/settings.py). Here are decorators for options that become something
else than a setting. `streams` passes a Stream on, `model` a model to open, `policy` a policy to open, `workers` and
`parallel` processes to start.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from eexp.console.parameters import PATH, Command, is_given, option, parameter
from eexp.envs.base import STEP_LIMIT
from eexp.envs.registry import light_names
from eexp.settings import FILE, TRUST_REMOTE_CODE, Number, Option, Whole, Word, prompt_style
from eexp.system.plugins import OF_PACKAGE
from eexp.workers.executors import EXECUTORS, LOCAL, MOST_LIGHT, MOST_WORKERS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from eexp.acting.recall import Memory
    from eexp.console.stream import Stream
    from eexp.envs.base import Environment
    from eexp.models import Engine, Model
    from eexp.models.policy import Policy
    from eexp.prompts import PromptStyle
    from eexp.records.shards import Shard
    from eexp.workers.parallel import ParallelEnvironments
    from eexp.workers.pool import Pool

# -- types of values ---------------------------------------------------------------------------------------------------


class EnvSpec(click.ParamType):
    """The spec of an environment. A login in its URL is taken out here (envs/logins.py)."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from eexp.envs.logins import withhold_logins

        return withhold_logins(value)


ENV = EnvSpec()


def complete_env(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of environments that begin with `incomplete`, for the completion of a shell."""
    from eexp.envs.registry import completions

    return completions(incomplete)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return files, and the model specs that begin with `incomplete`, for the completion of a shell."""
    from click.shell_completion import CompletionItem

    from eexp.models.registry import completions

    return [CompletionItem(incomplete, type="file"), *map(CompletionItem, completions(incomplete))]


# -- records in and out ------------------------------------------------------------------------------------------------


def _refuse_environments(files: tuple[str, ...]) -> None:
    """Raise click.UsageError where the name of an environment stands in the place of a file of records."""
    from eexp.envs.registry import environment_names

    for name in files:
        if not os.path.exists(name) and name in environment_names():
            raise click.UsageError(f"{name}: no such file; for the environment of that name give --env {name}")


class ShardOf(click.ParamType):
    """One of several shards of an input, as `records.shards.parse_shard` reads it."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from eexp.records.shards import parse_shard

        try:
            return parse_shard(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


def streams(
    *types: str, resume: bool = False, shards: bool = False, with_files: bool = True, plural: str = "FILE"
) -> Callable[[Command], Command]:
    """Add FILE arguments, -o, and what to do about bad records; pass one `stream` on.

    Args:
        types: The types of record that the command reads; none for one that reads texts of others, or no FILE.
        resume: Whether the command is slow enough to need --resume.
        shards: Whether it works on each record, or each task, alone, so that it takes --shard.
        with_files: Whether the command reads FILEs.
        plural: What the usage line calls them.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_stream(
            *args: Any,
            output: str | None,
            on_error: str = "stop",
            rejects: str | None = None,
            resume: bool = False,
            shard: Shard | None = None,
            costs: str | None = None,
            quiet: bool,
            files: tuple[str, ...] = (),
            **rest: Any,
        ) -> Any:
            from eexp.console.stream import Stream

            ctx = click.get_current_context()
            _refuse_environments(files)
            stream = Stream(files, output, on_error, rejects, resume, quiet, types=types)
            stream.stage, stream.costs = ctx.command.name or "", costs
            stream.shard, stream.takes_shards = shard, shards
            stream.acts = any(option.name in ("env", "on") for option in ctx.command.params)
            if entry := ctx.meta.get(OF_PACKAGE):
                stream.label = entry.label
            stream.uses_server = _uses_server(**ctx.params)
            stream.resumable = any(option.name == "resume" for option in ctx.command.params) and output is not None
            stream.also_read = _files_read(**ctx.params)
            stream.refuse_to_overwrite_input()  # before a model is loaded
            return command(*args, stream=stream, **rest)

        added = [option(None, "-o", "--output", type=FILE).help("Write here instead of standard output.")]
        if resume:
            added.append(
                option(False, "--resume").help("Go on from what the same command, interrupted, wrote to -o FILE.")
            )
        if shards:
            added.append(
                click.option(
                    "--shard",
                    type=ShardOf(),
                    metavar="I/N|auto",
                    help="Take only the I-th of N parts of the "
                    + ("input" if with_files else "tasks")
                    + ", from 1/N to N/N; `eexp merge` puts the outputs of all N together. auto: the part of this task "
                    "of a Slurm array.",
                )
            )
        added += [
            option("stop", "--on-error", type=Word(["stop", "skip"])).help(
                "What to do with a bad record: end the run (exit code 3), or set it aside (exit code 4)."
            ),
            option(None, "--rejects", type=FILE).help(
                "Keep the records that are set aside here, as JSONL with the reason. Implies --on-error skip."
            ),
            option(None, "--costs", type=FILE, envvar="EEXP_COSTS").help(
                "Add a line to this file with what the run took: seconds, memory, records, bytes, for `eexp plan`."
            ),
            option(False, "-q", "--quiet").help("No summary on standard error."),
        ]
        for add in reversed(added):
            with_stream = add(with_stream)
        if with_files:
            with_stream = click.argument("files", nargs=-1, type=PATH, metavar=f"[{plural}]...")(with_stream)
        return with_stream

    return decorate


def _uses_server(model: str | None = None, env: str | None = None, **rest: Any) -> bool:
    """Return whether options of a command name a server, or several (a file of them), that does a part of its work."""
    return any("://" in spec for spec in (model, env) if spec) or bool(model and model.endswith(".toml"))


def _files_read(
    model: str | None = None,
    prompt_style: str | None = None,
    panel_file: str | None = None,
    mapping: str | None = None,
    **rest: Any,
) -> list[str]:
    """Return the files that options of a command name and that it reads."""
    files = [name for name in (prompt_style, panel_file, mapping) if name and os.path.isfile(name)]
    if model:
        from eexp.records.runs import files_of

        files += files_of(model)
    return files


env_override = option(None, "--env", type=ENV, metavar="SPEC", envvar="EEXP_ENV", shell_complete=complete_env).help(
    "Environment to use instead of the one the records name. Needed for exec: programs, classes, servers and "
    "paths, which a record alone may not name.  [default: the one the records name]"
)


# -- processes ---------------------------------------------------------------------------------------------------------

_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return an amount of memory such as 2G in bytes."""
    if value is None:
        return None
    amount = _MEMORY.fullmatch(value.strip())
    if not amount or not float(amount[1]):
        raise click.BadParameter(f"{value!r} is no amount of memory; write 500M or 2G")
    return int(float(amount[1]) * 1024 ** " KMGT".index(amount[2].upper() or " "))


def workers(command: Command) -> Command:
    """Add -j, --on, --timeout and --memory of the processes that hold environments; pass `open_pool` on.

    `open_pool(env)` returns the Pool (eexp/workers/pool.py); env is the value of --env.
    """

    @functools.wraps(command)
    def with_pool(
        *args: Any, workers: int | None, on: str, timeout: float | None, memory: int | None, **rest: Any
    ) -> Any:
        def open_pool(env: str | None) -> Pool:
            from eexp.workers.pool import Pool

            return Pool(workers, env, _step_limit(timeout), memory, on)

        return command(*args, open_pool=open_pool, **rest)

    count = option(None, "-j", "--workers", type=Whole(1)).help(
        f"Processes that hold environments.  [default: one a core, {MOST_WORKERS} at most; on a Ray cluster, one a CPU]"
    )
    return count(_limits("trajectory")(with_pool))


def parallel(command: Command) -> Command:
    """Add --parallel, and --on, --timeout and --memory of the processes that hold environments; pass `open_worlds` on.

    `open_worlds(env, most)` opens ParallelEnvironments (eexp/workers/parallel.py) like `env`, at most `most` of them.
    """

    @functools.wraps(command)
    def with_worlds(
        *args: Any, parallel: int | None, on: str, timeout: float | None, memory: int | None, **rest: Any
    ) -> Any:
        def open_worlds(env: Environment, most: int) -> ParallelEnvironments:
            from eexp.workers.parallel import open_parallel

            worlds = open_parallel(env, parallel, _step_limit(timeout), memory, on)
            worlds.size = max(1, min(worlds.size, most))
            return worlds

        return command(*args, open_worlds=open_worlds, **rest)

    count = option(None, "--parallel", type=Whole(1)).help(
        f"Number of episodes that are played at once.  [default: {MOST_LIGHT} in {light_names()}; "
        f"{MOST_WORKERS} elsewhere, where each takes a process; on a Ray cluster, one a CPU]"
    )
    return count(_limits("episode")(with_worlds))


def _limits(unit: str) -> Callable[[Command], Command]:
    """Return the decorator that adds --on, --timeout and --memory; `unit` is what is tried again: "episode"."""
    on = option(LOCAL, "--on", metavar="local|ray[:ADDRESS]", envvar="EEXP_ON", callback=_executor).help(
        "Where the processes run: on this machine, or on the Ray cluster at ADDRESS (HOST:PORT or auto). Without "
        "ADDRESS a cluster is started on this machine and ends with the command. `eexp plugins` lists others."
    )
    timeout = option(
        None, "--timeout", type=Number(0, min_open=True), metavar="SECONDS", envvar="EEXP_ENV_TIMEOUT"
    ).help(
        f"Longest step; a process that takes longer is killed and its {unit} tried again.  "
        f"[default: the environment's own limit, {STEP_LIMIT:g} for one without]"
    )
    memory = option(None, "--memory", metavar="SIZE", callback=_bytes).help(
        "Most memory that one of the processes may hold, such as 2G; one that holds more is killed."
    )
    return lambda command: on(timeout(memory(command)))


def _executor(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Return the value of --on if there is such an executor."""
    EXECUTORS.get(value.partition(":")[0])
    return value


def _step_limit(timeout: float | None) -> float:
    """Return the longest step in seconds, and give --timeout to the processes that are started."""
    from eexp.system.child import time_limit

    if timeout:
        os.environ["EEXP_ENV_TIMEOUT"] = str(timeout)  # for the limits inside the workers
    return time_limit(STEP_LIMIT)


# -- prompt styles, models and policies --------------------------------------------------------------------------------


def style_option(default: str = "react") -> Option:
    """Return --prompt-style, whose value is looked up before a model is loaded; `default` as for `prompt_style`."""
    option = prompt_style(default)
    option.more["callback"] = _existing_style
    return option


def _existing_style(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return the value of --prompt-style if there is such a style."""
    if value and not ctx.resilient_parsing:
        from eexp.prompts import get_style

        get_style(value)
    return value


def with_hidden_functions_noted(trajectories: Iterator[dict], style: PromptStyle, io: Stream) -> Iterator[dict]:
    """Yield trajectories, and say once where their prompts name none of the functions that the environment offers."""
    noted = False
    for trajectory in trajectories:
        if not noted and style.hides_functions(trajectory):
            noted = True
            io.note(
                f"functions of records are not named in prompts of style {style.name}; --prompt-style tools names them"
            )
        yield trajectory


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


MOST_THREADS = 512  # llama.cpp's GGML_MAX_N_THREADS, which it does not check: a million threads end it with SIGSEGV

_ENGINE = [
    option(None, "--context", type=Whole(16), metavar="TOKENS").help(
        "Tokens that prompt and answer may take together.  [default: the model's own, 8192 at most]"
    ),
    option(None, "--threads", type=Whole(1, MOST_THREADS)).help(
        "CPU threads, for llama.cpp.  [default: all cores; 1 for models in files of up to 24 MB]"
    ),
    option(None, "--batch", type=Whole(1), metavar="TOKENS").help(
        "Most tokens evaluated at once, for llama.cpp.  [default: 512]"
    ),
    option("f16", "--cache-type", "cache", type=Word(["f16", "f32", "q8_0"])).help(
        "Number format of llama.cpp's keys and values."
    ),
    option(None, "--gpu-layers", type=Whole(0), envvar="EEXP_GPU_LAYERS").help(
        "Layers that llama.cpp gives to a GPU.  [default: all, where it was built for one]"
    ),
    click.option(
        "--flash-attention/--no-flash-attention",
        default=None,
        help="Whether llama.cpp uses flash attention.  [default: only on a GPU]",
    ),
    parameter(TRUST_REMOTE_CODE),
]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The model that a command line names, and how it runs."""

    spec: str | None  # the value of -m, or of EEXP_MODEL; None without both
    engine: Engine  # how it runs

    def open(self, note: Callable[[str], None], option: str = "-m") -> Model:
        """Open the language model, or the tiny one where none is named; say how it runs.

        Args:
            option: The option that names the model, for errors.
        """
        from eexp.models import open_model
        from eexp.models.registry import MODEL_FREE

        spec = _default_model(note) if self.spec is None else self.spec
        if spec in MODEL_FREE:
            raise click.BadParameter(f"{spec} cannot write text", param_hint=option)
        model = open_model(spec, self.engine)
        model.note = note
        if model.settings:
            note(model.settings)
        return model


def _default_model(note: Callable[[str], None]) -> str:
    from eexp.models import DEFAULT_MODEL

    note("no -m and no EEXP_MODEL: using the built-in tiny model, a base model for house only")
    return DEFAULT_MODEL


def model(help: str, *more: Option) -> Callable[[Command], Command]:
    """Add -m and how a model runs; pass `model`, which is ModelOptions, on.

    Args:
        help: The help of -m.
        more: Further options of the command that belong beside -m in its help.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_model(*args: Any, model: str | None, **values: Any) -> Any:
            from eexp.models import Engine

            engine = Engine(**{field.name: values.pop(field.name) for field in dataclasses.fields(Engine)})
            return command(*args, model=ModelOptions(model, engine), **values)

        spec = option(None, "-m", "--model", metavar="MODEL", envvar="EEXP_MODEL", shell_complete=complete_model).help(
            help
        )
        added: list[Callable[[Command], Command]] = [spec, *map(parameter, more), *_ENGINE]
        decorated: Command = with_model
        for add in reversed(added):
            decorated = add(decorated)
        return decorated

    return decorate


#: Tokens of an answer, where neither the command line nor the model's training says: as in the paper for one with a
#: thought.
_DEFAULT_MAX_TOKENS = {"never": 128, "always": 1024, "auto": 1024}


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """The policy that a command line names."""

    model: ModelOptions  # the model, "random" or "expert"
    style_name: str | None  # the value of --prompt-style
    max_tokens: int | None  # the longest answer; None for what the model was trained to write
    #: The value of --think. None, for a command without it, is never, except where a server has to decide.
    think: str | None

    def open(self, note: Callable[[str], None]) -> Policy:
        """Open the policy, with the tiny model where none is named."""
        from eexp.models import policy
        from eexp.models.registry import EXPERT, RANDOM

        if self.model.spec == RANDOM.spec:
            return policy.RandomPolicy()
        if self.model.spec == EXPERT.spec:
            return policy.ExpertPolicy()
        model, think = self.model.open(note), self.think
        style = chosen_style(self.style_name, model.play_settings.style, note)
        if think in (None, "auto") and style.thought.absent == "empty" and not model.exact:
            think = "auto"  # a server cannot go on from a place for a thought that is opened or closed for it
        elif think is None:
            think = "never"
        elif think == "auto" and (style.thought.absent == "omit" or model.play_settings.think in (None, "never")):
            think = model.play_settings.think or "never"
        most = self.max_tokens or model.play_settings.max_tokens or _DEFAULT_MAX_TOKENS[think]
        return policy.ModelPolicy(model, style, most, think)


def policy(help: str, max_tokens: Option, *more: Option) -> Callable[[Command], Command]:
    """Add -m, --max-tokens, --prompt-style and how a model runs; pass `policy`, which is PolicyOptions, on.

    Args:
        help: The help of -m.
        max_tokens: The option that the function `max_tokens` returns.
        more: `think`, for a command that has --think.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_policy(
            *args: Any,
            model: ModelOptions,
            prompt_style: str | None,
            max_tokens: int | None,
            think: str | None = None,
            **rest: Any,
        ) -> Any:
            return command(*args, policy=PolicyOptions(model, prompt_style, max_tokens, think), **rest)

        style = style_option("the one the model was trained with, else react")
        return model(help, max_tokens, style, *more)(with_policy)

    return decorate


def open_memory(file: str | None, note: Callable[[str], None]) -> Memory | None:
    """Return the past episodes of the file that `--recall` names, or None for none.

    Args:
        note: Called with a remark where some of them are imagined.

    Raises:
        click.UsageError: `--recall-count` is given without a file.
    """
    from eexp.acting.recall import memory_of

    if file is None and is_given("recall_count"):
        raise click.UsageError("--recall-count says how many; --recall FILE of what")
    memory = memory_of(file)
    if memory and memory.n_imagined:
        note(f"--recall {file}: {memory.n_imagined:,} of {len(memory):,} episodes to recall are imagined")
    return memory

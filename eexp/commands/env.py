"""`eexp env`: list, show, check, play, record and measure environments."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from eexp.console import options
from eexp.console.findings_output import AS_JSON, show_findings, show_requirements
from eexp.console.parameters import PATH, option, parameter
from eexp.errors import EXIT_FAILED, EexpError, environment_errors
from eexp.settings import FILE, SEED, Number, Whole
from eexp.system.terminal import show, style, tell

if TYPE_CHECKING:
    from eexp.envs.base import Environment


ENV = click.argument("spec", type=options.ENV, metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)


@click.group("env")
def command() -> None:
    """List, show, check, play, record and measure environments.

    `eexp env list` shows what ENV may be; eexp-env(7) says how to write one as a program.

    \b
    Example:
      eexp env check house
    """


# -- list ------------------------------------------------------------------------------------------------------------


@command.command("list")
def list_command() -> None:
    """List what ENV may be, and what is missing for those that cannot be opened here.

    An environment that is not ready has a second line, which says why.

    \b
    Example:
      eexp env list
    """
    from eexp.envs.registry import BUILT_IN, ENVIRONMENTS, KINDS

    specs = {kind.name: (kind.spec, kind.line) for kind in BUILT_IN.values()}
    others = ENVIRONMENTS.others()
    specs |= {entry.name: (entry.name, f"{entry.summary} ({entry.origin})") for entry in others if not entry.problem}
    for name, (spec, line) in specs.items():
        show(f"{spec:23}  {line}")
        if problem := _problem_of(name):
            show(f"{'':23}  {style(f'not ready: {problem}', dim=True)}")
    show(f"{'NAME?KEY=VALUE':23}  one of these with options, such as scienceworld?task=find-plant")
    for kind in KINDS:
        if kind.name not in BUILT_IN:
            show(f"{kind.spec:23}  {kind.line}")


def _problem_of(name: str) -> str | None:
    """Return why an environment cannot be opened by its name alone; None where it can."""
    from eexp.envs import open_env

    try:
        open_env(name).close()
    except EexpError as e:
        return str(e)
    return None


# -- show ------------------------------------------------------------------------------------------------------------


@command.command("show")
@ENV
@option(None, "--task", metavar="ID").help("The task to show.  [default: the first]")
def show_command(spec: str, task: str | None) -> None:
    """Show what an environment offers: splits and counts, what it can do, and one task.

    \b
    Example:
      eexp env show house
    """
    from eexp.console.rendering import render_environment
    from eexp.envs import open_env

    with open_env(spec) as env, environment_errors(spec):
        for line in render_environment(env, task):
            show(line)


# -- check -----------------------------------------------------------------------------------------------------------


@command.command("check")
@ENV
@option(5, "-n", "--number", type=Whole(1)).help(
    "Number of tasks of the first split to play; of every other split, one is played."
)
@option(None, "--action", "actions", multiple=True, metavar="TEXT").help(
    "An action to try, for an environment with neither expert nor admissible list. May be repeated."
)
@option(10.0, "--timeout", type=Number(0, min_open=True), metavar="SECONDS", envvar="EEXP_ENV_TIMEOUT").help(
    "Longest answer."
)
@parameter(SEED)
@option(False, "--conformance").help(
    "Check the numbered requirements of docs/fork-and-verify.md instead, for a server that offers its states."
)
@AS_JSON
def check_command(
    spec: str, number: int, actions: tuple[str, ...], timeout: float, seed: int, conformance: bool, as_json: bool
) -> None:
    """Check that an environment keeps its contract, so that its branches can be trusted.

    Some tasks are played, and then played again, in the same environment and in a new one. They are played with and
    without asking for admissible actions and the expert, and in turns with a second environment. Forks, harmless
    actions and nonsense actions are tried on the way. At the end, they are played in another process. The observations
    must be the same each time.

    Every line begins with ok, FAIL, note (worth knowing, nothing is broken) or - (not tried). It is also a failure if
    no action could be taken at all. Exit code 1 if anything failed.

    With --conformance, the requirements of docs/fork-and-verify.md are checked one by one. Each line says met, NOT MET
    or not offered, and what was compared. Exit code 1 if one is not met.

    \b
    Example:
      eexp env check house
      eexp env check house --conformance
    """
    from eexp.envs import check, open_env
    from eexp.prompts import DEFAULT_STYLE, get_style
    from eexp.workers.supervisor import ONE_THREAD

    os.environ.update({**ONE_THREAD, **os.environ, "EEXP_ENV_TIMEOUT": str(timeout)})

    def elsewhere(job: dict) -> list:
        from eexp.workers.pool import Pool

        with Pool(1, spec, timeout) as pool:
            ((_, result),) = pool.run(iter([(None, job)]))
        if isinstance(result, EexpError):
            raise result
        return result

    options: dict[str, Any] = {"tasks": number, "limit": timeout, "seed": seed, "actions": actions}
    options["elsewhere"] = elsewhere
    if conformance:
        from eexp.envs.conformance import ConformanceChecker

        conformance_checker = ConformanceChecker(lambda: open_env(spec), **options)
        conformance_checker.shows_progress = True
        if show_requirements(conformance_checker.requirements(), as_json):
            sys.exit(EXIT_FAILED)
        return
    style = get_style(os.environ.get("EEXP_PROMPT_STYLE") or DEFAULT_STYLE)
    checker = check.Checker(lambda: open_env(spec), **options, style=style)
    checker.shows_progress = True
    if show_findings(checker.findings(), as_json):
        sys.exit(EXIT_FAILED)


# -- accuracy --------------------------------------------------------------------------------------------------------


@command.command("accuracy")
@ENV
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE]...")
@option(False, "--json", "as_json").help("Print JSONL, one line an episode, instead of a table.")
def accuracy_command(spec: str, files: tuple[str, ...], as_json: bool) -> None:
    """Measure how long an imagined environment answers as the real one did.

    ENV is `worldmodel:MODEL?env=ENV`. FILE holds trajectories or episodes of the real environment. At every step, the
    model is asked what the recorded action leads to, after the real history. The table has, for every step, the share
    of observations that are the recorded ones, and the share of episodes in which none has differed so far: the
    survival curve (Kaplan-Meier) of an episode that is imagined from its beginning on.

    \b
    Example:
      eexp expert house --split test -n 2 | eexp env accuracy 'worldmodel:tiny?env=house'
    """
    from eexp.acting.accuracy import Accuracy, accuracy
    from eexp.envs import open_env
    from eexp.envs.imagined import ImaginedWorld
    from eexp.envs.opening import imagined_env
    from eexp.errors import InputError, UsageError
    from eexp.records.jsonl import dumps, read, write_to_stdout

    with open_env(spec) as world:
        if not isinstance(world, ImaginedWorld):
            raise UsageError(f"{spec}: expected an imagined environment, worldmodel:MODEL?env=ENV")
        total, records = Accuracy(), read(files or ["-"], "trajectory", "episode")

        def fail(record: dict, error: InputError) -> None:
            raise type(error)(f"{records.place}: {error}") from None

        for compared in accuracy(records, world, imagined_env(spec), on_error=fail):
            total.add(compared)
            if as_json:
                write_to_stdout(dumps(compared))
    if not as_json:
        for line in total.lines():
            show(line)


# -- play ------------------------------------------------------------------------------------------------------------


@command.command("play")
@ENV
@option(None, "--task", metavar="ID").help("The task to play.  [default: the first of the split]")
@option(None, "--split", metavar="NAME").help("The split to look in.  [default: all splits, the first one first]")
@option(None, "-o", "--output", type=FILE).help("Add the episode to this file, as a trajectory.")
def play_command(spec: str, task: str | None, split: str | None, output: str | None) -> None:
    """Play a task by hand. Tab completes admissible actions.

    A line is an action. `?` lists the admissible actions, `!` shows the action of the expert, and an empty line or
    Ctrl-D ends the episode. With -o the episode is kept as a demonstration, which `eexp branch` reads like any other.

    \b
    Example:
      printf 'look\\n?\\n' | eexp env play house
    """
    from eexp.acting.by_hand import play_by_hand
    from eexp.envs import open_env
    from eexp.envs.naming import find_task
    from eexp.records.jsonl import append, dumps
    from eexp.records.record import lineage_entry, with_lineage

    with open_env(spec) as env, environment_errors(spec):
        trajectory = play_by_hand(env, find_task(env, task, split), _reader(env), show)
    if output and trajectory["steps"]:
        line = dumps(with_lineage(trajectory, lineage_entry("env-play")))
        append(line, output)


# -- record ----------------------------------------------------------------------------------------------------------


@command.command("record")
@ENV
@option(None, "--task", metavar="ID").help("The task to record.  [default: the first of the split]")
@option(None, "--split", metavar="NAME").help("The split to look in.  [default: all splits, the first one first]")
@option(None, "-o", "--output", type=FILE).help("Add the episode to this file, as a trajectory.")
def record_command(spec: str, task: str | None, split: str | None, output: str | None) -> None:
    """Record what a person does in a web site, as a demonstration.

    A window opens at the beginning of the task. Every click, choice and text in it becomes an action. When the task is
    done, write `stop` in the terminal, or `stop ANSWER`. The demonstration is then replayed without a window. If that
    does the task, it is printed as the value of `expert` in the file of tasks, and -o keeps the episode.

    \b
    Example:
      eexp env record 'web?tasks=examples/web/trees.toml&run=yes' --task yews
    """
    from eexp.acting.demonstration import replayed_demonstration
    from eexp.envs import open_env
    from eexp.envs.naming import find_task
    from eexp.errors import UsageError
    from eexp.records.jsonl import append, dumps
    from eexp.records.record import lineage_entry, with_lineage

    with open_env(spec) as env, environment_errors(spec):
        recorder, demonstrate = getattr(env, "recorder", None), getattr(env, "demonstrate", None)
        if recorder is None or demonstrate is None:
            raise UsageError(f"{spec}: only web sites are recorded: web?tasks=FILE")
        found = find_task(env, task, split)
        window = recorder(found)
        tell(f"task {found['id']}: {window.instruction}")
        tell("Do it in the window. Then write here: stop, or stop ANSWER. Ctrl-D ends without a demonstration.")
        script = window.record(_stop, lambda line: tell(f"  {line}"))
        demonstrate(found, script)
        try:
            trajectory = replayed_demonstration(env, found)
        except EexpError:
            tell("recorded, and not written:", *(f"  {line}" for line in script))
            raise
    show("expert = [")
    for line in script:
        show(f"  {_toml(line)},")
    show("]")
    if output:
        append(dumps(with_lineage(trajectory, lineage_entry("env-record"))), output)


def _stop() -> str | None:
    """Return the last action, once it was written in the terminal. Raises EexpError at the end of the input."""
    import select

    if not select.select([sys.stdin], [], [], 0)[0]:
        return None
    line = sys.stdin.readline()
    if not line:
        raise EexpError("ended without a demonstration")
    word, _, answer = line.strip().partition(" ")
    if word != "stop":
        tell("write stop, or stop ANSWER, when the task is done")
        return None
    answer = answer.strip()
    return f"stop {answer}" if answer.startswith("[") and answer.endswith("]") else f"stop [{answer}]"


def _toml(text: str) -> str:
    """Return a text as a string of TOML: a literal one where that needs no escapes."""
    import json

    if "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _reader(env: Environment) -> Callable[[], str]:
    """Return a function that reads a line from a person, with completion, or from a pipe."""
    if not sys.stdin.isatty():
        return lambda: sys.stdin.readline().strip()
    import readline

    def complete(beginning: str, n: int) -> str | None:
        matching = [a for a in env.admissible() or [] if a.startswith(beginning)]
        return matching[n] if n < len(matching) else None

    readline.set_completer_delims("")  # an action is one word to complete
    readline.set_completer(complete)
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")

    def ask() -> str:
        try:
            return input("> ").strip()
        except EOFError:
            show()
            return ""

    return ask

"""The `eexp` command. A stage is imported only when it is called, so that help is instant."""

from __future__ import annotations

import errno
import io
import keyword
import os
import signal
import sys
import traceback
from typing import NoReturn

import click

from eexp import __version__
from eexp.errors import EXIT_FAILED, EXIT_SIGNAL, EexpError, InputError, unexpected_error
from eexp.system import signals, terminal
from eexp.system.plugins import OF_PACKAGE, Registry

# group -> name -> first line of its help. A test compares these lines with the commands.
GROUPS = {
    "Record": {
        "expert": "Record an environment's own expert as trajectories.",
        "import": "Turn trajectories that others recorded, or episodes, into records.",
    },
    "Explore": {
        "branch": "Add K alternative actions to every expert state.",
        "rollout": "Execute every alternative from its own state and record what happened.",
        "follow": "Let a policy go on after every alternative, and record where that leads.",
        "correct": "Find where an agent went wrong, and let the expert go on from there.",
    },
    "Make examples": {
        "relabel": "Make hindsight demonstrations of the tasks that executed actions solve.",
        "recover": "Put refused alternatives into the expert's path.",
        "summarise": "Add summaries of long observations, written by a model.",
        "world-model-data": "Make training examples that predict the next state.",
        "reflect": "Make training examples that reason towards the expert's action.",
        "imitation-data": "Make training examples that imitate the expert.",
        "preference-data": "Make preferences: the expert's action before an alternative that did worse.",
        "reward": "Give every turn of an agent's episodes a reward, by the environment's expert.",
        "policy-data": "Make training examples of an agent's own episodes, weighted by their success.",
        "split": "Write one part of a file of records.",
        "select": "Write the most useful records first: those that differ, or that are hard.",
        "mix": "Weight, shuffle, clean and cut several files of examples into one.",
        "merge": "Put the parts of a run with --shard together, in the order of its input.",
    },
    "Train and play": {
        "finetune": "Train a LoRA adapter, or all weights, on examples.",
        "export": "Write an adapter or a model as GGUF, for llama.cpp.",
        "score": "Score examples with a model: the log-probability of every span.",
        "panel": "Choose a fixed list of tasks to play, or check one.",
        "eval": "Play tasks with a model and record the episodes.",
    },
    "Look": {
        "plan": "Estimate what a larger run takes, from what smaller ones took.",
        "power": "Compute which improvement a comparison could find, before it is run.",
        "compare": "Compare methods by their episodes: success, differences, how sure.",
        "report": "Write a page about a study: table, curves, episodes side by side.",
        "view": "Look at records in a browser: states, alternatives, outcomes, examples.",
        "show": "Show records, or a training run, to a person.",
        "stats": "Count what is in files of records: lengths, valid share, duplicates, leaks.",
        "card": "Write a data card for Hugging Face's hub.",
        "export-log": "Write trajectories, episodes and examples in formats of other tools.",
        "env": "List, show, check, play, record and measure environments.",
        "models": "List what MODEL may be, with an example of each kind.",
        "plugins": "List what names stand for, and what other packages add.",
        "prompts": "List, show and check prompt styles.",
        "schema": "Print the JSON Schema of a record type.",
    },
}
COMMANDS = {name: summary for commands in GROUPS.values() for name, summary in commands.items()}
#: Other packages add commands under the entry-point group `eexp.commands`: a name, and the path of a click.Command.
REGISTRY = Registry(
    "eexp.commands",
    "command",
    {
        name: (f"eexp.commands.{name.replace('-', '_')}{'_' * keyword.iskeyword(name)}:command", summary)
        for name, summary in COMMANDS.items()
    },
)

# (command, option) -> the command that does now what the option did. The old call is accepted in this version.
RENAMED = {("compare", "--power"): "power"}

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class ReaderGone(Exception):
    """The reader of standard output has closed it."""


class Stages(click.Group):
    """The group of all commands, which imports a command's module when it is called."""

    registry = REGISTRY

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = REGISTRY.find(name)
        if entry is None:
            return None
        command = REGISTRY.load_entry(entry)
        if not isinstance(command, click.Command):
            raise EexpError(f"command {name!r}: {entry.path} of {entry.origin} is not a click.Command")
        if entry.package:
            ctx.meta[OF_PACKAGE] = entry
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        for (command, option), new_name in RENAMED.items():
            if name == command and option in args:
                if not ctx.resilient_parsing:
                    terminal.tell(f"note: `eexp {command} {option}` is `eexp {new_name}` now")
                args = [new_name, *(argument for argument in args[1:] if argument != option)]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing and not REGISTRY.find(name):
            import difflib

            close = difflib.get_close_matches(name, REGISTRY.names())
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # before click sees it and ends with exit code 1
            raise ReaderGone from None
        except ModuleNotFoundError as e:
            from eexp.system.packages import missing_package

            raise EexpError(missing_package(e)) from e
        except Exception as e:
            entry = ctx.meta.get(OF_PACKAGE)
            if entry is None or isinstance(e, (EexpError, click.ClickException, click.exceptions.Exit, OSError)):
                raise
            raise unexpected_error(e, f"command {entry.name} of {entry.origin}") from e

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", summary) for name, summary in commands.items()])
        click.Command.format_options(self, ctx, formatter)


EPILOG = """
Stages read records from FILEs, or from standard input where there are none or FILE is -, and write them to standard
output: JSONL, one record a line.

\b
Example:
  eexp expert house -n 20 | eexp branch | eexp rollout | eexp reflect > sr.jsonl

`eexp env list` shows what ENV may be, and `eexp models` what MODEL may be. Environment variables set
shared options: EEXP_MODEL, EEXP_BASE, EEXP_ENV, EEXP_SEED, EEXP_PROMPT_STYLE, EEXP_ENV_TIMEOUT, EEXP_ON,
EEXP_GPU_LAYERS, EEXP_COSTS. The command line wins.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad input, 4 done but some records were set aside.
"""


@click.command(cls=Stages, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="eexp", message="%(prog)s %(version)s")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Show the traceback of an error, and every record set aside. May stand anywhere.",
)
def group(verbose: bool) -> None:
    """Turn an agent's own actions into training data."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; every failure is one line on stderr and a documented exit code."""
    _open_closed_descriptors()
    signals.exit_at_sigterm()
    if args is not None:
        _run(args)
        return
    signals.raise_lost_exceptions()
    try:
        _run(sys.argv[1:])
    finally:
        signals.exit_at_once(signal.SIGTERM, signal.SIGINT)


def _run(arguments: list[str]) -> None:
    """Run a command; an error becomes a line on standard error and the exit code."""
    verbose = terminal.verbose = bool({"-v", "--verbose"} & set(arguments))
    if verbose:  # it is also accepted after the command
        arguments = [a for a in arguments if a not in ("-v", "--verbose")]
    try:
        group(arguments, prog_name="eexp", standalone_mode=False)
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        _discard_stdout()  # the reader has read enough (`| head`): no error
        sys.exit(0)
    except click.exceptions.Abort:
        sys.exit(EXIT_SIGNAL + signal.SIGINT)
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGNAL + signal.SIGINT)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        sys.exit(2)
    except click.ClickException as e:
        if isinstance(e, click.NoSuchOption) and not e.possibilities:
            about = ", ".join(map(repr, _options_about(e)))
            e = click.UsageError(f"{e.message} (Did you mean one of: {about}?)", e.ctx) if about else e
        message = io.StringIO()
        e.message = terminal.one_line(e.message)  # click writes the usage before it, in lines of its own
        e.show(message)
        _fail(message.getvalue().rstrip("\n").split("\n"), e.exit_code, verbose)
    except EexpError as e:
        cause = e.evidence.get("traceback") if isinstance(e, InputError) and e.__cause__ is None else None
        hint = " (-v shows the traceback)" if _hides_traceback(e) and not verbose else ""
        _fail([*(cause.splitlines() if verbose and cause else ()), f"error: {e}{hint}"], e.exit_code, verbose)
    except OSError as e:  # such as a full disk
        _fail([f"error: {_system_error(e)}"], EXIT_FAILED, verbose)
    except MemoryError:
        _fail(["error: out of memory"], EXIT_FAILED, verbose)


def _options_about(error: click.NoSuchOption) -> list[str]:
    """Return the options of the command whose help has all words of an unknown option: --lr for --learning-rate."""
    words = error.option_name.strip("-").lower().split("-")
    parameters = error.ctx.command.params if error.ctx else []
    if short := [f"-{words[0]}" for one in parameters if f"-{words[0]}" in one.opts]:  # --k for -k
        return short
    described = [one for one in parameters if isinstance(one, click.Option) and one.help and not one.hidden]
    return [one.opts[-1] for one in described if all(word in str(one.help).lower() for word in words)][:3]


def _hides_traceback(error: EexpError) -> bool:
    """Return whether an error stands for an exception of code that is not part of eexp."""
    return isinstance(error, InputError) and "traceback" in error.evidence


def _fail(message: list[str], code: int, verbose: bool) -> NoReturn:
    """Show an error, line by line, and end with an exit code."""
    terminal.tell(*(traceback.format_exc().splitlines() if verbose else ()), *message)
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()
    sys.exit(code)


def _system_error(error: OSError) -> str:
    """Return an error of the system as one line: the file, where that is known, and the reason."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files (at most {most}): raise `ulimit -n`, or use fewer processes"
    file = error.filename
    if file is None:
        try:
            sys.stdout.flush()
        except OSError:  # its buffer still holds what could not be written
            file = "<stdout>"
    return f"{file}: {error.strerror or error}" if file is not None else f"{error.strerror or error}"


def _open_closed_descriptors() -> None:
    """Give closed standard streams (`<&-`, `>&-`, `2>&-`) a descriptor, before a file of eexp gets that number.

    Standard input cannot be read then, nor standard output written: only a command that uses the stream fails, with the
    system's own words. What would go to standard error is lost, and the exit code tells.
    """
    for number, name, access in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:  # as Python says that it was closed at the start
            opened = os.open(os.devnull, access)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            file = os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, file)


def _discard_stdout() -> None:
    """Send standard output to /dev/null: nothing can be written to it, and Python would try once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

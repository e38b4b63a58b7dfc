"""`eexp models`: list what a model may be, and check one."""

from __future__ import annotations

import sys

import click

from eexp.console import options
from eexp.console.findings_output import AS_JSON, show_findings
from eexp.console.parameters import parameter
from eexp.errors import EXIT_FAILED
from eexp.settings import SEED


@click.group("models", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List what MODEL may be, with an example of each kind.

    Without -m, the variable EEXP_MODEL names the model, and most commands use the built-in tiny model where that is
    not set. See docs/models.md. `eexp models check` checks one.

    \b
    Example:
      eexp models
    """
    if ctx.invoked_subcommand is None:
        _show_kinds()


def _show_kinds() -> None:
    from eexp.models.registry import KINDS, usable_backends
    from eexp.system.terminal import show, style

    width = max(len(kind.spec) for kind in KINDS)
    for kind in KINDS:
        show(f"{kind.spec:{width}}  {kind.line}")
        show(style(f"  -m {kind.example}", dim=True))
    for entry in usable_backends():
        spec = f"{entry.name}[:TARGET]"
        show(f"{spec:{width}}  {entry.summary} ({entry.origin})")


@command.command("list")
def list_command() -> None:
    """List what MODEL may be, with an example of each kind.

    \b
    Example:
      eexp models list
    """
    _show_kinds()


@command.command("check")
@click.argument("spec", metavar="MODEL", envvar="EEXP_MODEL", shell_complete=options.complete_model)
@parameter(SEED)
@AS_JSON
def check_command(spec: str, seed: int, as_json: bool) -> None:
    """Check that a model keeps its contract, so that its draws and log-probabilities can be trusted.

    A few short chats are answered: greedily, drawn with seeds, in groups, in another order, cut, held to a list,
    scored, and with a prompt that no context holds. Every line begins with ok, FAIL, note (worth knowing, nothing is
    broken) or - (not tried, with the reason). What needs hundreds of draws is not asked of a server. Exit code 1 if
    anything failed.

    \b
    Example:
      eexp models check tiny
    """
    from eexp.models import open_model
    from eexp.models.model_check import ModelChecker

    if show_findings(ModelChecker(lambda: open_model(spec), seed).findings(), as_json):
        sys.exit(EXIT_FAILED)

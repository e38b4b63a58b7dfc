"""`eexp models`: list what a model may be."""

from __future__ import annotations

import click


@click.command("models")
def command() -> None:
    """List what MODEL may be, with an example of each kind.

    Without -m, the variable EEXP_MODEL names the model, and most commands use the built-in tiny model where that is
    not set. See docs/models.md.

    \b
    Example:
      eexp models
    """
    from eexp.models.registry import KINDS, usable_backends
    from eexp.system.terminal import show, style

    width = max(len(kind.spec) for kind in KINDS)
    for kind in KINDS:
        show(f"{kind.spec:{width}}  {kind.line}")
        show(style(f"  -m {kind.example}", dim=True))
    for entry in usable_backends():
        spec = f"{entry.name}[:TARGET]"
        show(f"{spec:{width}}  {entry.summary} ({entry.origin})")

"""`eexp plugins`: list what names stand for, and what other packages add."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from eexp.console.parameters import option
from eexp.errors import EXIT_FAILED, EexpError
from eexp.system.terminal import show, style

if TYPE_CHECKING:
    from eexp.system.plugins import Entry, Registry


@click.command("plugins")
@option(False, "--others").help("List only what other packages add.")
@option(False, "--check").help(
    "Import what other packages add, and say what cannot be loaded. Without it, nothing of them is imported."
)
@option(False, "--json", "as_json").help("Print JSONL, one line an entry, instead of a table.")
@click.pass_context
def command(ctx: click.Context, others: bool, check: bool, as_json: bool) -> None:
    """List what names stand for, and what other packages add.

    A package adds environments, models, formats, rationales, guards, judges, objectives, executors and commands by
    entry points; see docs/plugins.md. Each line has a name, the package and version that it comes from, and a
    description. If an entry cannot be used, a second line says why, and the exit code is 1.

    \b
    Example:
      eexp plugins
      eexp plugins --others --check
    """
    from eexp.records.jsonl import dumps

    rows = [
        (registry, entry, entry.problem or (_problem_of(registry, entry) if check and entry.package else ""))
        for registry in _registries(ctx)
        for entry in registry.entries()
        if entry.package or not others
    ]
    if as_json:
        for registry, entry, problem in rows:
            show(dumps(_row(registry, entry, problem)).decode().rstrip())
    else:
        _show_table(rows)
    if any(problem for _, _, problem in rows):
        sys.exit(EXIT_FAILED)


def _registries(ctx: click.Context) -> list[Registry]:
    from eexp.envs.registry import ENVIRONMENTS
    from eexp.examples.settings import GUARDS, JUDGES, RATIONALES
    from eexp.formats.names import EXPORT_FORMATS, IMPORT_FORMATS
    from eexp.models.registry import BACKENDS
    from eexp.training.settings import OBJECTIVES
    from eexp.workers.executors import EXECUTORS

    commands: Registry = ctx.find_root().command.registry  # type: ignore[attr-defined]
    of_records = [ENVIRONMENTS, BACKENDS, IMPORT_FORMATS, EXPORT_FORMATS, RATIONALES, GUARDS, JUDGES]
    return [*of_records, OBJECTIVES, EXECUTORS, commands]


def _problem_of(registry: Registry, entry: Entry) -> str:
    """Return why an entry cannot be loaded; "" if it can."""
    try:
        registry.load_entry(entry)
    except EexpError as e:
        return str(e)
    return ""


def _row(registry: Registry, entry: Entry, problem: str) -> dict:
    return {
        "group": registry.group,
        "name": entry.name,
        "origin": "package" if entry.package else "built in",
        "package": entry.package or None,
        "version": entry.version or None,
        "path": entry.path,
        "summary": entry.summary,
        "problem": problem or None,
    }


def _show_table(rows: list[tuple[Registry, Entry, str]]) -> None:
    if not rows:
        show("no other package adds anything")
        return
    names = max(len(entry.name) for _, entry, _ in rows)
    origins = max(len(entry.origin) for _, entry, _ in rows)
    group = None
    for registry, entry, problem in rows:
        if registry.group != group:
            group = registry.group
            show(style(group, bold=True))
        show(f"  {entry.name:{names}}  {entry.origin:{origins}}  {entry.summary}".rstrip())
        if problem:
            show(f"  {'':{names}}  {style(f'not usable: {problem}', fg='red')}")

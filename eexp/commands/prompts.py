"""`eexp prompts`: list, show and check prompt styles."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, option
from eexp.errors import InputError
from eexp.settings import FILE, Whole
from eexp.system import terminal


@click.group("prompts")
def command() -> None:
    """List, show and check prompt styles.

    A style is a TOML file with every word around a state: system texts, labels, examples, how much history is shown,
    how a thought is written, and the request for a reflection. `eexp prompts show react` prints one to start from.

    \b
    Example:
      eexp prompts list
    """


@command.command("list")
def list_command() -> None:
    """List the built-in styles.

    \b
    Example:
      eexp prompts list
    """
    from eexp.prompts import built_in_styles, get_style

    for name in built_in_styles():
        style = get_style(name)
        place = "a thought where one is asked for" if style.thought.absent == "omit" else "a place for a thought"
        listed = ", lists the admissible actions" if style.acting.list_admissible else ""
        action = "tool calls" if style.action.calls else f"{style.action.open.strip()} ..."
        terminal.show(f"{style.label:28}  {action}, {place}{listed}")


@command.command("show")
@click.argument("style_name", metavar="STYLE")
@option(None, "--record", "file", type=FILE).help(
    "Print the prompts for a state of the first trajectory of FILE: for acting with and without a thought, for "
    "world modelling, and for a reflection."
)
@option(None, "--id", "record_id", metavar="ID").help("Take the trajectory with this id.")
@option(0, "--step", type=Whole(0)).help("Which state.")
def show_command(style_name: str, file: str | None, record_id: str | None, step: int) -> None:
    """Print a style with all its defaults as TOML, or the prompts and answers that it makes of a state.

    \b
    Example:
      eexp expert house -n 1 | eexp prompts show react --record - --step 2
    """
    from eexp.console.rendering import render_prompts
    from eexp.prompts import get_style
    from eexp.prompts.style_file import toml_of

    style = get_style(style_name)
    if file is None:
        terminal.show(f"# {style.label}")
        terminal.show(toml_of(style), nl=False)
        return
    terminal.show(render_prompts(style, _trajectory(file, record_id), step))


def _trajectory(file: str, record_id: str | None) -> dict:
    from eexp.records.jsonl import read

    for trajectory in read([file], "trajectory"):
        if record_id in (None, trajectory["id"]):
            return trajectory
    raise InputError(f"{file}: no trajectory" + (f" has the id {record_id!r}" if record_id else ""))


@command.command("check")
@click.argument("file", type=PATH)
def check_command(file: str) -> None:
    """Check a style of your own: that it can be read, and that its answers are read back as they were written.

    \b
    Example:
      eexp prompts show react > mine.toml
      eexp prompts check mine.toml
    """
    from eexp.prompts import built_in_styles, get_style, load_style
    from eexp.prompts.style_file import marks_not_read, marks_not_shown, unreadable_answers

    style = load_style(file)
    for problem in [*unreadable_answers(style), *marks_not_read(style)]:
        raise InputError(f"{file}: {problem}")
    terminal.show(f"{file}: ok, {style.label}")
    for remark in marks_not_shown(style):
        terminal.tell(f"note: {remark}")
    if style.name in built_in_styles() and style.label != get_style(style.name).label:
        terminal.tell(f"note: {style.name!r} is the name of a built-in style that differs: give yours another name")

"""`eexp prompts`: list, show and check prompt styles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from eexp import options, terminal
from eexp.errors import InputError

if TYPE_CHECKING:
    from eexp.prompts import Answer, Messages, PromptStyle


_PROBE = {"observation": "A room with a <think> sign.", "action": "open the door: now", "thought": "It is closed."}


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
@click.option(
    "--record",
    "file",
    type=options.PATH,
    metavar="FILE",
    help="Print the prompts for a state of the first trajectory of FILE: for acting with and without a thought, for "
    "world modelling, and for a reflection.",
)
@click.option("--id", "record_id", metavar="ID", help="Take the trajectory with this id.")
@click.option("--step", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Which state.")
def show_command(style_name: str, file: str | None, record_id: str | None, step: int) -> None:
    """Print a style with all its defaults as TOML, or the prompts and answers that it makes of a state.

    \b
    Example:
      eexp expert house -n 1 | eexp prompts show react --record - --step 2
    """
    from eexp.prompts import get_style

    style = get_style(style_name)
    if file is None:
        terminal.show(f"# {style.label}")
        terminal.show(_toml(style.as_dict()), nl=False)
        return
    terminal.show(render(style, _trajectory(file, record_id), step))


def _trajectory(file: str, record_id: str | None) -> dict:
    from eexp.jsonl import read

    for trajectory in read([file], "trajectory"):
        if record_id in (None, trajectory["id"]):
            return trajectory
    raise InputError(f"{file}: no trajectory" + (f" has the id {record_id!r}" if record_id else ""))


def render(style: PromptStyle, trajectory: dict, i: int) -> str:
    """Return the prompts and answers of a style for state `i` of a trajectory, for a person.

    Raises InputError if the trajectory has no such state.
    """
    from eexp.records import expert_outcome
    from eexp.reflection.requests import reflection_prompt
    from eexp.reflection.situations import situations

    steps = trajectory["steps"]
    if i >= len(steps):
        raise InputError(f"{trajectory['id']}: has no step {i}, only {len(steps)}", "$.steps")
    step, before, task = steps[i], steps[:i], trajectory["instruction"]
    state = (task, before, step["observation"])
    outcome = (expert_outcome(trajectory, i) or {}).get("observation", "(not recorded)")
    thought = step.get("thought") or "(the thought stands here)"
    situation = replace(situations(trajectory, needed=False)[i], outcome={"observation": outcome})
    parts = [
        ("acting", style.act(*state, step.get("admissible")), style.answer(step["action"], number=i)),
        (
            "acting, with a thought",
            style.act(*state, step.get("admissible"), think=True),
            style.answer(step["action"], thought, i),
        ),
        ("world modelling", style.world_model(*state, step["action"]), style.world_model_answer(outcome)),
        ("asking for a summary", style.ask_summary(task, step["action"], outcome), None),
        ("asking for a reflection", reflection_prompt(style, situation), None),
    ]
    return "\n\n".join(_part(*part) for part in parts)


def _part(title: str, prompt: Messages, target: Answer | None) -> str:
    from eexp.rendering import render_message

    lines = [terminal.style(title, bold=True), *map(render_message, prompt)]
    answers = target.messages() if target else []
    return "\n".join([*lines, *(terminal.style(render_message(message), fg="green") for message in answers)])


@command.command("check")
@click.argument("file", type=options.PATH)
def check_command(file: str) -> None:
    """Check a style of your own: that it can be read, and that its answers are read back as they were written.

    \b
    Example:
      eexp prompts show react > mine.toml
      eexp prompts check mine.toml
    """
    from eexp.prompts import built_in_styles, get_style, load_style

    style = load_style(file)
    for problem in problems(style):
        raise InputError(f"{file}: {problem}")
    terminal.show(f"{file}: ok, {style.label}")
    if style.name in built_in_styles() and style.label != get_style(style.name).label:
        terminal.tell(f"note: {style.name!r} is the name of a built-in style that differs: give yours another name")


def problems(style: PromptStyle) -> list[str]:
    """Return the answers that a style writes and cannot read back, in words."""
    faults = []
    for thought in ("", _PROBE["thought"]):
        answer = style.answer(_PROBE["action"], thought)
        parsed = style.parse(answer.text)  # the action is no call, which chat templates write
        if (parsed.action, parsed.thought) != (_PROBE["action"], thought):
            faults.append(f"{answer.text!r} is read back as action {parsed.action!r} and thought {parsed.thought!r}")
        cut = style.parse(answer.text[: -len(style.action.close) - 1], finished=False)
        if not cut.cut_off:
            faults.append(f"{answer.text!r}, cut before its end, is read as the action {cut.action!r}")
    return faults


def _toml(table: dict, prefix: str = "") -> str:
    """Return a table as TOML: strings, whole numbers, true and false, tables, and lists of tables; None is left out.

    Characters that a terminal would obey are written as escapes of TOML.
    """
    import orjson

    def literal(value: object) -> str:
        return terminal.HIDDEN.sub(lambda match: f"\\U{ord(match[0]):08x}", orjson.dumps(value).decode())

    plain = [
        f"{key} = {literal(value)}"
        for key, value in table.items()
        if value is not None and not isinstance(value, (dict, list, tuple))
    ]
    text = "".join(f"{line}\n" for line in plain)
    for key, value in table.items():
        if isinstance(value, dict):
            text += f"\n[{prefix}{key}]\n{_toml(value, f'{prefix}{key}.')}"
        elif isinstance(value, (list, tuple)):
            text += "".join(f"\n[[{prefix}{key}]]\n{_toml(entry)}" for entry in value)
    return text

"""The settings of every command, found in the module of the command."""

from __future__ import annotations

import dataclasses
import sys

import click

from eexp.cli import COMMANDS, group
from eexp.settings import Option


def command_of(name: str) -> click.Command:
    """Return a command by its name."""
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


def options_of(settings: type) -> dict[str, Option]:
    """Return the options that the fields of settings carry, by the names of the fields."""
    found = {field.name: field.metadata.get("option") for field in dataclasses.fields(settings)}
    return {name: option for name, option in found.items() if option is not None}


def settings_of(name: str) -> list[type]:
    """Return the classes of settings whose options a command takes."""
    command = command_of(name)
    taken = {parameter.name for parameter in command.params}
    module = sys.modules[getattr(command.callback, "__module__", "")]
    classes = [value for value in vars(module).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]
    return [kind for kind in classes if options_of(kind) and set(options_of(kind)) <= taken]


SETTINGS = {name: settings for name in COMMANDS if (settings := settings_of(name))}

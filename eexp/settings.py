"""Settings of a stage, whose fields carry their command-line options.

The settings are one frozen dataclass. `option` makes a field that carries its option, and `command_options` adds the
options of all fields to a command and passes one object on, which the command gives to the stage's function and writes
into the lineage:

    @dataclass(frozen=True)
    class RecoverSettings:
        most: int = option(3, type=click.IntRange(min=1), metavar="N", help="Largest number of mistakes in one state.")
        seed: int = options.seed.field()

    @click.command("recover")
    @command_options(RecoverSettings)
    def command(settings: RecoverSettings) -> None: ...
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

Command = Callable[..., Any]

#: The default of an option that must be given.
REQUIRED: Any = dataclasses.MISSING

_OPTION = "option"  # the key in a field's metadata


class Option:
    """A command-line option, spelled once: a decorator for commands, and a field of a dataclass by `field`.

    Args:
        default: The value without the option; REQUIRED where there is none. True and False make it a flag.
        names: Its spellings, such as "-k" or "--from". Without any, the name of the field is one: `max_steps` becomes
            --max-steps and, where it is True by default, --max-steps/--no-max-steps.
        attributes: Further arguments of `click.option`.
    """

    def __init__(self, default: Any, *names: str, **attributes: Any):
        self.default, self.names, self.attributes = default, names, attributes

    def __call__(self, command: Command) -> Command:
        return self.named(None)(command)

    def field(self) -> Any:
        """Return a dataclass field that carries the option."""
        return dataclasses.field(default=self.default, metadata={_OPTION: self})

    def named(self, name: str | None) -> Callable[[Command], Command]:
        """Return the decorator that adds the option to a command, which gets its value under `name`."""
        names, attributes, default = self.names, dict(self.attributes), self.default
        if not names and name:
            flag = name.replace("_", "-")
            names = (f"--{flag}/--no-{flag}" if default is True else f"--{flag}",)
        if default is REQUIRED:
            attributes["required"] = True
        elif default is False:
            attributes["is_flag"] = True
        elif default is not None and default != ():
            attributes.update(default=default, show_default=True)
        return click.option(*names, *([name] if name else []), **attributes)

    def label(self, name: str) -> str:
        """Return the longest spelling without its dashes; `name` is the field's."""
        return max(self.names, key=len).lstrip("-") if self.names else name


def option(default: Any, *names: str, **attributes: Any) -> Any:
    """Return a dataclass field that carries its command-line option; the arguments are those of Option."""
    return Option(default, *names, **attributes).field()


def command_options(kind: type, name: str = "settings") -> Callable[[Command], Command]:
    """Add the options of all fields of a dataclass, and pass one object of it on as `name`.

    Fields that carry no option keep their defaults.
    """
    fields = {field.name: field.metadata[_OPTION] for field in dataclasses.fields(kind) if _OPTION in field.metadata}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(*args: Any, **values: Any) -> Any:
            chosen = {field: values.pop(field) for field in fields}
            return command(*args, **{name: kind(**chosen)}, **values)

        for field, spelled in reversed(fields.items()):
            with_settings = spelled.named(field)(with_settings)
        return with_settings

    return decorate


def recorded(settings: Any, *names: str) -> dict[str, Any]:
    """Return some fields of settings by the names of their options, for the lineage."""
    labels = {
        field.name: field.metadata[_OPTION].label(field.name)
        for field in dataclasses.fields(settings)
        if field.name in names
    }
    return {labels[name]: getattr(settings, name) for name in names}


def is_given(name: str) -> bool:
    """Return whether the option of the running command with this parameter name was given."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT

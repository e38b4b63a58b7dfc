"""Options of commands from the fields of settings (eexp/settings.py)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from eexp import settings
from eexp.settings import OPTION, REQUIRED, Option

Command = Callable[..., Any]

#: A path, so that shells complete it. It is not checked here: the function that opens it says what is wrong, and where.
PATH = click.Path(readable=False, allow_dash=True)


LARGEST = 2**31 - 1  # of the whole numbers that an option takes


class FiniteRange(click.FloatRange):
    """A number other than nan, which passes every comparison, and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class WholeRange(click.IntRange):
    """A whole number that fits into the 32 bits of native code; only limits of its own are shown in help."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = super().convert(value, param, ctx)
        if number > LARGEST and self.max is None:
            self.fail(f"{number} is larger than {LARGEST}, the largest number here", param, ctx)
        return number


class ParsedText(click.ParamType):
    """A text that a function reads; its ValueError says what is wrong."""

    def __init__(self, read: settings.Parsed):
        self.read, self.name = read, read.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return self.read.parse(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


class TableName(click.Choice):
    """A name in a table; help lists those of eexp, and no other package is looked at before it is named."""

    def __init__(self, kind: settings.Name):
        super().__init__([*kind.more, *kind.table.built_in])
        self.table = kind.table

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:
            return value
        if self.table.find(value) is None:
            names = dict.fromkeys([*self.choices, *self.table.names()])
            return click.Choice(list(names)).convert(value, param, ctx)  # which refuses it
        return value


def _type(kind: Any) -> Any:
    """Return click's type for one of the types of eexp/settings.py, or another one as it is."""
    if isinstance(kind, settings.Whole):
        return WholeRange(kind.min, kind.max)
    if isinstance(kind, settings.Number):
        number = FiniteRange if isinstance(kind, settings.Finite) else click.FloatRange
        return number(kind.min, kind.max, min_open=kind.min_open, max_open=kind.max_open)
    if isinstance(kind, settings.Word):
        return click.Choice(list(kind.words))
    if isinstance(kind, settings.Name):
        return TableName(kind)
    if isinstance(kind, settings.File):
        return PATH
    return ParsedText(kind) if isinstance(kind, settings.Parsed) else kind


#: What help calls a value, where an option has no name for it.
_METAVARS = {settings.Whole: "N", settings.Number: "X", settings.Finite: "X", settings.File: "FILE"}


def option(default: Any, *names: str, **more: Any) -> settings.Unexplained:
    """Begin the decorator of an option that is no setting, `option(...).help(text)`; arguments as for Option."""
    return settings.Unexplained(parameter, default, *names, **more)


def parameter(option: Option, name: str | None = None) -> Callable[[Command], Command]:
    """Return the decorator that adds an option to a command, which gets its value under `name`."""
    names, default = option.names, option.default
    more = {"metavar": _METAVARS.get(type(option.type)), **option.more}
    if not names and name:
        flag = name.replace("_", "-")
        names = (f"--{flag}/--no-{flag}" if default is True else f"--{flag}",)
    if option.type is not None:
        more["type"] = _type(option.type)
    if gather := option.gather:

        def gathered(ctx: click.Context, param: click.Parameter, values: Any) -> Any:
            try:
                return gather(values)
            except ValueError as e:
                raise click.BadParameter(str(e)) from None

        more |= {"multiple": True, "callback": gathered}
    if "envvar" in more:
        more["show_envvar"] = True
    if default is REQUIRED:
        more["required"] = True
    elif default is False:
        more["is_flag"] = True
    elif default is not None and default != ():
        more = {"default": default, "show_default": True, **more}
    return click.option(*names, *([name] if name else []), **more)


def command_options(
    kind: type, name: str = "settings", after: Mapping[str, Sequence[Callable[[Command], Command]]] | None = None
) -> Callable[[Command], Command]:
    """Add the options of all fields of a dataclass, and pass one object of it on as `name`.

    Fields that carry no option keep their defaults.

    Args:
        kind: The dataclass.
        name: The parameter of the command that gets the object.
        after: Decorators of the command's own options that help lists among these, by the field that they follow.
    """
    fields = {field.name: field.metadata[OPTION] for field in dataclasses.fields(kind) if OPTION in field.metadata}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(*args: Any, **values: Any) -> Any:
            chosen = {field: values.pop(field) for field in fields}
            return command(*args, **{name: kind(**chosen)}, **values)

        decorated: Command = with_settings
        for field, option in reversed(fields.items()):
            for own in reversed((after or {}).get(field, ())):
                decorated = own(decorated)
            decorated = parameter(option, field)(decorated)
        return decorated

    return decorate


def is_given(name: str) -> bool:
    """Return whether the option of the running command with this parameter name was given."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT

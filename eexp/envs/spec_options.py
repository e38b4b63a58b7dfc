"""Options of environment specs, `name?key=value&key=value`: how they are split, checked and read.

All values arrive as strings. Whatever is wrong with one is a UsageError that repeats it as it was written:
`alfworld?max_steps=0: expected a number above 0`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping

from eexp.envs.base import Environment
from eexp.errors import UsageError

Numbers = range | list[int]


def split_options(spec: str) -> dict[str, str]:
    """Return the options of a spec. Raises UsageError if they are not written `key=value&key=value`."""
    pairs = [part.partition("=") for part in spec.partition("?")[2].split("&") if part]
    if any(not key or not equals for key, equals, _ in pairs):
        raise UsageError(f"environment {spec!r}: options are written name?key=value&key=value")
    return {key: value for key, _, value in pairs}


def refuse_unknown_options(
    name: str, environment_class: type[Environment], options: Collection[str], has_target: bool = False
) -> None:
    """Raise UsageError, naming the options that exist, if one of `options` does not.

    Args:
        name: The spec without its options.
        environment_class: Its options are the parameters of its constructor.
        options: The names of the options.
        has_target: Whether the first parameter is the URL or the command of a server, which is not an option.
    """
    parameters = list(inspect.signature(environment_class).parameters.values())[int(has_target) :]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    for option in options:
        if option not in names:
            raise UsageError(f"{name} has no option {option!r}" + (f"; it has: {', '.join(names)}" if names else ""))


def option_error(name: str, option: str, value: str, problem: str) -> UsageError:
    """Return the error for an option with a value that makes no sense; `problem` says why not."""
    return UsageError(f"{name}?{option}={value}: {problem}")


def parse_choice(name: str, option: str, value: str, choices: Collection[str]) -> str:
    """Return `value`. Raises UsageError if it is none of `choices`."""
    if value not in choices:
        raise option_error(name, option, value, f"expected {' or '.join(choices)}")
    return value


def parse_step_limit(name: str, value: str) -> int:
    """Return the option max_steps, the most actions of an episode. Raises UsageError if it is no number above 0."""
    if not re.fullmatch("[0-9]{1,9}", value) or not int(value):
        raise option_error(name, "max_steps", value, "expected a number above 0")
    return int(value)


def parse_task_numbers(name: str, option: str, value: str) -> range:
    """Return the numbers of tasks that `0-99` stands for, both ends included, or a single number.

    Raises:
        UsageError: It is neither of the two, or the range is empty.
    """
    match = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", value)
    numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
    if not numbers:
        raise option_error(name, option, value, "expected numbers of tasks, such as 0-99")
    return numbers


def check_disjoint(name: str, splits: Mapping[str, Numbers]) -> None:
    """Raise UsageError if a task is in two splits."""
    split_of: dict[int, str] = {}
    for split, numbers in splits.items():
        for number in numbers:
            if split_of.setdefault(number, split) != split:
                raise UsageError(f"{name}: task {number} is both in {split_of[number]} and in {split}")

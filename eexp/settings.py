"""Settings of a stage, whose fields carry their command-line options.

The settings are one frozen dataclass. `option` makes a field that carries its option: how it is spelled, which values
it takes, and its help. The stage's function takes one object of the class, and the lineage of its records is written
from it. Nothing here knows of a command line; eexp/console/parameters.py makes click's options of it:

    @dataclass(frozen=True)
    class RecoverSettings(Checked):
        most: int = option(3, type=Whole(1)).help("Largest number of mistakes in one state.")
        seed: int = SEED.field()

    @click.command("recover")
    @command_options(RecoverSettings)
    def command(settings: RecoverSettings) -> None: ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from eexp.errors import UsageError

REQUIRED: Any = dataclasses.MISSING  # the default of an option that must be given

OPTION = "option"  # the key in a field's metadata

# -- what values an option takes ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number within limits."""

    min: int | None = None
    max: int | None = None


@dataclasses.dataclass(frozen=True)
class Number:
    """A number within limits; a limit that is open is no value itself."""

    min: float | None = None
    max: float | None = None
    min_open: bool = False
    max_open: bool = False


@dataclasses.dataclass(frozen=True)
class Finite(Number):
    """A number other than nan, which passes every comparison, and inf."""


@dataclasses.dataclass(frozen=True)
class Word:
    """One of some words."""

    words: Sequence[str]


class Table(Protocol):
    """Names and what they stand for (eexp/system/plugins.py)."""

    @property
    def built_in(self) -> Mapping[str, Any]:
        """Those that come with eexp."""
        ...

    def find(self, name: str) -> Any:
        """Return what a name stands for; None for a name that is in no package."""
        ...

    def names(self) -> list[str]:
        """Return all names, those of other packages too."""
        ...


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in a table, to which other packages may add."""

    table: Table
    more: Sequence[str] = ()  # further words, which are in no table


@dataclasses.dataclass(frozen=True)
class File:
    """A path. It is not checked: the function that opens it says what is wrong, and where."""


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A text that a function reads."""

    parse: Callable[[str], Any]  # returns the value; raises ValueError with what is wrong with the text
    name: str = "text"  # what the help calls such a value


FILE = File()


def number_or_word(fewest: int, words: dict[str, int | None]) -> Parsed:
    """Return the type of a whole number of at least `fewest`, or of words that stand for a number or for None."""

    def parse(value: str) -> int | None:
        if value in words:
            return words[value]
        if value.isdecimal() and int(value) >= fewest:
            return int(value)
        raise ValueError(f"{value!r} is not a number from {fewest}, or {' or '.join(map(repr, words))}")

    return Parsed(parse)


def kind_shares(values: Sequence[str]) -> dict[str, float] | None:
    """Return the values of --share KIND=SHARE as a dict, None for none; raise ValueError for a wrong one."""
    shares: dict[str, float] = {}
    for value in values:
        kind, mark, number = value.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not mark or not kind or not 0 < share < 1:
            raise ValueError(f"{value!r}: expected KIND=SHARE with a share between 0 and 1")
        if kind in shares:
            raise ValueError(f"two shares for {kind}")
        shares[kind] = share
    if sum(shares.values()) >= 1:
        raise ValueError(f"the shares add up to {sum(shares.values()):g}; nothing is left for other kinds")
    return shares or None


# -- fields ------------------------------------------------------------------------------------------------------------


class Option:
    """A command-line option, spelled once.

    Args:
        default: The value without the option; REQUIRED where there is none. True and False make it a flag.
        names: Its spellings, such as "-k" or "--from". Without any, the name of the field is one: `max_steps` becomes
            --max-steps and, where it is True by default, --max-steps/--no-max-steps.
        type: What values it takes: one of the classes above, `int`, or None for any text.
        gather: Returns the field's value for all values of an option that may be repeated; raises ValueError.
        more: Further arguments of `click.option`: help, metavar, multiple, envvar.
    """

    def __init__(
        self,
        default: Any,
        *names: str,
        type: Any = None,
        gather: Callable[[Sequence[str]], Any] | None = None,
        **more: Any,
    ):
        self.default, self.names, self.type, self.gather, self.more = default, names, type, gather, more

    def field(self) -> Any:
        """Return a dataclass field that carries the option."""
        return dataclasses.field(default=self.default, metadata={OPTION: self})

    def label(self, name: str) -> str:
        """Return the longest spelling without its dashes; `name` is the field's."""
        return max(self.names, key=len).lstrip("-") if self.names else name


class Unexplained:
    """An option without its help; `help` adds that, and returns what `make` makes of the whole option."""

    def __init__(self, make: Callable[[Option], Any], *args: Any, **more: Any):
        self._make, self._args, self._more = make, args, more

    def help(self, text: str) -> Any:
        """Return what is made of the option with this help."""
        return self._make(Option(*self._args, **self._more, help=text))


def option(default: Any, *names: str, **more: Any) -> Unexplained:
    """Begin a dataclass field that carries its option, `option(...).help(text)`; the arguments are those of Option."""
    return Unexplained(Option.field, default, *names, **more)


def shared(default: Any, *names: str, **more: Any) -> Unexplained:
    """Begin an option of several stages, `shared(...).help(text)`; the arguments are those of Option."""
    return Unexplained(lambda option: option, default, *names, **more)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Settings that check their values when they are made, as a command line does.

    Raises:
        UsageError: A value is none that its option takes.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if one := field.metadata.get(OPTION):
                value = getattr(self, field.name)
                if (value is not None or one.default is not None) and (fault := _fault(one, value)):
                    raise UsageError(f"{type(self).__name__}.{field.name}: {value!r} {fault}")


def _fault(option: Option, value: Any) -> str | None:
    """Return why a value is none of an option's; None where it is one, or where only a function could tell."""
    kind, several = option.type, option.gather or option.more.get("multiple")
    if several:
        return None
    if kind is None and isinstance(option.default, bool):
        return None if isinstance(value, bool) else "is not True or False"
    if isinstance(kind, Word):
        return None if value in kind.words else f"is not one of {', '.join(map(repr, kind.words))}"
    if isinstance(kind, Whole) or kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            return "is no whole number"
    elif not isinstance(kind, Number):
        return None
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return "is no number"
    elif isinstance(kind, Finite) and value in (float("inf"), float("-inf")):
        return "is no finite number"
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    low_open, high_open = getattr(kind, "min_open", False), getattr(kind, "max_open", False)
    if low is not None and (value <= low if low_open else value < low):
        return f"is not {'above' if low_open else 'at least'} {low:g}"
    if high is not None and (value >= high if high_open else value > high):
        return f"is not {'below' if high_open else 'at most'} {high:g}"
    return None


def recorded(settings: Any, *names: str) -> dict[str, Any]:
    """Return some fields of settings by the names of their options, for the lineage."""
    labels = {
        field.name: field.metadata[OPTION].label(field.name)
        for field in dataclasses.fields(settings)
        if field.name in names
    }
    return {labels[name]: getattr(settings, name) for name in names}


# -- options of several stages -----------------------------------------------------------------------------------------

SEED = shared(0, "--seed", type=int, envvar="EEXP_SEED", metavar="N").help("Seed of every random draw.")

#: The number of admissible actions to keep; None for all.
ADMISSIBLE = shared(50, "--admissible", type=number_or_word(0, {"all": None, "none": 0}), metavar="N|all|none").help(
    "Number of admissible actions to record at each step. They are drawn at random; the expert's own is always among "
    "them."
)

MAX_STEPS = shared(None, "--max-steps", type=Whole(1)).help(
    "Longest episode, in actions.  [default: the environment's]"
)

CONFIDENCE = shared(0.95, "--confidence", type=Finite(0.5, 0.999), metavar="LEVEL").help("Confidence of the intervals.")

COMMON = shared(False, "--common").help("Compare on the tasks that all files have, instead of refusing different ones.")

#: A file of past episodes.
RECALL = shared(None, "--recall", type=FILE).help(
    "Retrieval: show past episodes before the state. The file holds episodes of `eexp eval`, or trajectories. Those "
    "with the most similar task and first observation are shown (BM25), never one of the same task."
)

RECALL_COUNT = shared(1, "--recall-count", type=Whole(1)).help("With --recall: how many to show.")

#: With `first`, the alternatives that a stage uses (`records.record.alternatives_of`).
POOL = shared(None, "--pool", metavar="NAME").help(
    "Use only the alternatives of this pool (`eexp branch --pool`).  [default: all, every action once]"
)

#: It has no environment variable and no prompt: it has to be typed.
TRUST_REMOTE_CODE = shared(False, "--trust-remote-code").help(
    "Run the Python code that a model of transformers brings. Without it, such a model is refused."
)

THINK = shared("auto", "--think", type=Word(["auto", "always", "never"])).help(
    "Whether the model writes a thought (chain of thought) before each action. auto: as it was trained, else never. "
    "Where the prompt is the same for both, the model decides."
)


def first(fewest: int) -> Option:
    """Return --first, of which `fewest` is the smallest value that the stage can use."""
    return shared(None, "--first", type=Whole(fewest), metavar="K").help(
        "Use only the first K alternatives of every state; smaller sets are parts of larger ones.  [default: all]"
    )


def temperature(default: float) -> Option:
    """Return --temperature."""
    return shared(default, "--temperature", type=Number(0), metavar="T").help(
        "Sampling temperature; 0 takes the most likely token every time."
    )


def max_tokens(default: int | None, in_words: str = "") -> Option:
    """Return --max-tokens; `in_words` says what the default is where that is no fixed number."""
    return shared(default, "--max-tokens", type=Whole(1), metavar="TOKENS").help(
        "Longest answer." + (f"  [default: {in_words}]" if in_words else "")
    )


def prompt_style(default: str = "react") -> Option:
    """Return --prompt-style; `default` says in words what the style is without it."""
    return shared(None, "--prompt-style", metavar="STYLE", envvar="EEXP_PROMPT_STYLE").help(
        f"The prompt style: a built-in one (`eexp prompts list`) or a TOML file.  [default: {default}]"
    )

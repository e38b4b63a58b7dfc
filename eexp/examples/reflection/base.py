"""The contract of rules that compose reflections, `eexp reflect --rationale NAME`.

A rule is a function that takes a `Situation` and ReflectSettings and returns the text, "" where it has none. One that
has to see all trajectories first, or that says why it has no text, is a class derived from `Rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from eexp.errors import EexpError
from eexp.examples.reflection.situations import NOT_WEIGHED, NOTHING_KNOWN, Situation
from eexp.examples.settings import RATIONALES, ReflectSettings
from eexp.records.callbacks import Count

Compose = Callable[[Situation, ReflectSettings], str]


class Rule:
    """A rule that composes reflections.

    Args:
        settings: Those of the stage.

    Attributes:
        author: The author in `reflection_by` of the examples.
    """

    author: str = ""

    def __init__(self, settings: ReflectSettings):
        self.settings = settings

    def read(self, trajectories: Iterable[dict], count: Count) -> Iterable[dict]:
        """Return the trajectories of the input; a rule that needs all of them first keeps what it needs here.

        Args:
            count: Called with numbers for the summary.
        """
        return trajectories

    def left_out(self, situation: Situation) -> str:
        """Return why a state gets no reflection, for the summary; "" if it gets one."""
        return ""

    def compose(self, situation: Situation) -> tuple[str, str]:
        """Return the text and "", or "" and the reason why there is none, for the summary.

        Raises:
            InputError: The record lacks what the rule needs; its trajectory is set aside.
        """
        raise NotImplementedError


class FunctionRule(Rule):
    """A rule that is one function of the situation and the settings."""

    def __init__(self, settings: ReflectSettings, function: Compose):
        super().__init__(settings)
        self.function = function

    def compose(self, situation: Situation) -> tuple[str, str]:
        if self.settings.per_alternative and not situation.real_contenders:
            return "", NOT_WEIGHED
        text = self.function(situation, self.settings)
        if not isinstance(text, str):
            raise EexpError(f"{self.author}: returned {type(text).__name__}, not a text")
        return text, "" if text else NOTHING_KNOWN


def open_rule(settings: ReflectSettings) -> Rule:
    """Return the rule that the settings name.

    Raises:
        UsageError: There is no such rule.
        EexpError: It cannot be loaded.
    """
    name = settings.rationale
    loaded = RATIONALES.load(name)
    if isinstance(loaded, type) and issubclass(loaded, Rule):
        rule = RATIONALES.guarded(name, loaded)(settings)
        rule.compose = RATIONALES.guarded(name, rule.compose)
    else:
        rule = FunctionRule(settings, loaded)
    rule.author = f"rule: {RATIONALES.label(name)}"
    return rule

"""Reflections while they are being written: what a model is asked, what is refused, and what is kept in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from eexp.contenders import Situation, complete_list
from eexp.errors import InputError
from eexp.models.base import Draw, Model, Sample
from eexp.prompts import PromptStyle
from eexp.prompts.guards import NAMES, Guards
from eexp.prompts.rationale import compose, compose_from_notes
from eexp.records import canonical, seed_of

Count = Callable[[str, int], None]

#: What each way to write a reflection calls itself in `reflection_by`, where no model writes it.
RULES = {"outcome": "rule: outcome", "environment": "rule: environment"}


@dataclass(frozen=True)
class Writing:
    """How reflections are written.

    rationale: "model", "outcome" or "environment" (`eexp reflect --rationale`), or "own": the model writes a thought
        and an action from the state alone, which are kept if the action is the expert's (STaR).
    pool, first: which alternatives are weighed (`records.alternatives_of`).
    weigh: the largest number of contenders that a composed reflection names.
    retries: how often a text that was refused is drawn again.
    """

    rationale: str = "model"
    pool: str | None = None
    first: int | None = None
    weigh: int = 1
    temperature: float = 0.7
    max_tokens: int = 256
    retries: int = 3
    seed: int = 0
    guards: Guards = field(default_factory=Guards)

    @property
    def kind(self) -> str:
        """The kind of the examples."""
        return "rationale" if self.rationale == "own" else "reflection"

    @property
    def needs_contenders(self) -> bool:
        """Whether a state without a contender gets no reflection."""
        return self.rationale == "model" or (self.rationale in RULES and self.weigh > 0)

    def settings(self) -> dict[str, Any]:
        """Return what decides the output, for the lineage."""
        settings: dict[str, Any] = {"rationale": self.rationale, "pool": self.pool, "first": self.first}
        if self.rationale in RULES:
            return {**settings, "weigh": self.weigh}
        unused = set(NAMES) - self.guards.names
        return {
            **settings,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "retries": self.retries,
            "no_guard": ",".join(sorted(unused)) or None,
            "min_words": self.guards.min_words,
            "max_words": self.guards.max_words,
        }


@dataclass
class Draft:
    """A reflection on one state, while it is being written.

    skipped: an earlier run has written it; it is asked for all the same, so that what shares a batch is the same, but
    nothing is counted or kept. text: the reflection, once there is one. author: who wrote it. refused: the texts that
    were refused, each with its fault. error: why there is no reflection. more: further fields of the example.
    """

    situation: Situation
    skipped: bool = False
    text: str = ""
    author: str = ""
    refused: list[dict[str, str]] = field(default_factory=list)
    error: InputError | None = None
    counts: dict[str, int] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def count(self, what: str, n: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + n

    def refuse(self, guard: str, fault: str, text: str) -> None:
        """Keep a text that was refused, with the reason."""
        self.refused.append({"guard": guard, "fault": fault, "text": text})
        self.count(f"refused by {guard}")

    def compose(self, writing: Writing) -> None:
        """Compose the reflection by rule."""
        composer = compose if writing.rationale == "outcome" else compose_from_notes
        try:
            self.text, self.author = composer(self.situation, writing.weigh), RULES[writing.rationale]
        except InputError as error:
            self.error = error

    def request(self, style: PromptStyle, writing: Writing, model: Model) -> Draw:
        """Return what the model is asked."""
        if writing.rationale == "own":
            prompt, prefix, accept = own_prompt(style, self.situation, model), style.opening("always"), self._own
        else:
            prompt, prefix, accept = reflection_prompt(style, self.situation), "", self._reflection
        self.author = model.fingerprint
        return Draw(
            prompt,
            temperature=writing.temperature,
            max_tokens=writing.max_tokens,
            seed=seed_of(writing.seed, self.situation.trajectory["id"], self.situation.i),
            accept=lambda sample: accept(style, writing.guards, prefix, sample),
            most=1 + writing.retries,
            prefix=prefix,
        )

    def _reflection(self, style: PromptStyle, guards: Guards, prefix: str, sample: Sample) -> bool:
        return self._judge(guards, style.thought_in(sample.text), sample)

    def _own(self, style: PromptStyle, guards: Guards, prefix: str, sample: Sample) -> bool:
        """Accept a thought of the model's own if the expert's action follows it."""
        parsed = style.parse(prefix + sample.text, sample.finished)
        if canonical(parsed.action) != canonical(self.situation.step["action"]):
            self.refuse(
                "keep-matching", f"ends in {parsed.action!r}" if parsed.action else "has no action", sample.text
            )
            return False
        return self._judge(guards, parsed.thought, sample)

    def _judge(self, guards: Guards, text: str, sample: Sample) -> bool:
        verdict = guards.judge(text, self.situation, sample.finished)
        if verdict.guard:
            self.refuse(verdict.guard, verdict.fault, sample.text)
            return False
        if verdict.text != text.strip():
            self.count("texts written twice, cut to one")
            self.refused.append(
                {"guard": "repeated", "fault": "is written twice, cut to one copy", "text": sample.text}
            )
        self.text = verdict.text
        return True

    def settle(self, answer: list[Sample] | InputError, kind: str) -> None:
        """Take note of the model's answer, whose texts were judged before."""
        if isinstance(answer, InputError):
            self.error = answer
        elif not self.text:
            fault = self.refused[-1]["fault"] if self.refused else "is missing"
            self.error = InputError(f"no usable {kind}: the text {fault}", evidence={"texts": self.refused})


def reflection_prompt(style: PromptStyle, situation: Situation) -> list[dict[str, str]]:
    """Ask for a reflection. A list of admissible actions that is a sample is left out: it would read as complete."""
    step = situation.step
    if complete_list(step) is None:
        step = {**step, "admissible": None}
    assert situation.outcome is not None
    return style.ask_reflection(
        situation.trajectory["instruction"],
        situation.history,
        step,
        situation.outcome["observation"],
        situation.contenders,
        step.get("notes") or "",
    )


def acting_prompt(style: PromptStyle, situation: Situation, think: bool) -> list[dict[str, str]]:
    """Return the prompt in which the policy acts in this state."""
    return style.act(
        situation.trajectory["instruction"],
        situation.history,
        situation.step["observation"],
        situation.step.get("admissible"),
        think=think,
    )


def own_prompt(style: PromptStyle, situation: Situation, model: Model) -> list[dict[str, str]]:
    """Ask for a thought and an action from the state alone.

    A model that was trained to act gets the prompt it acts under; for any other one, the style's request to think about
    the goal first (`reflection.decide`) follows it.
    """
    prompt = acting_prompt(style, situation, think=True)
    if model.played.style is None and style.reflection.decide:
        prompt[-1] = {**prompt[-1], "content": f"{prompt[-1]['content']}\n{style.reflection.decide}"}
    return prompt

"""Drafts of reflections: the request to a model, the judgement of its answers, and the training example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eexp.errors import InputError
from eexp.examples.reflection.base import Rule
from eexp.examples.reflection.guards import Guard, judge
from eexp.examples.reflection.requests import acting_prompt, own_prompt, reflection_prompt
from eexp.examples.reflection.situations import Situation
from eexp.examples.settings import ReflectSettings
from eexp.models.base import Draw, Model, Sample
from eexp.prompts import ParsedAnswer, PromptStyle
from eexp.records.callbacks import Count, OnError, add_counts
from eexp.records.equality import action_form
from eexp.records.record import example, seed_of


@dataclass
class Draft:
    """A reflection on one state, from the request for it to the example.

    Attributes:
        skipped: Whether an earlier run has written it. It is requested all the same, so that batches hold the same
            requests, but it is neither counted nor written.
        text, author: The accepted text, and the model or the rule that wrote it.
        refused: The texts that were refused, each with its guard and its fault.
    """

    situation: Situation  # the state
    number: int | None = None  # that of the alternative, where it is a reflection on one alone
    skipped: bool = False
    text: str = ""
    author: str = ""
    refused: list[dict[str, str]] = field(default_factory=list)
    left_out: str = ""  # the reason why a rule says nothing about the state, for the summary
    error: InputError | None = None  # the reason why the state is set aside
    dropped: InputError | None = None  # the reason why the state is set aside, where that never ends the run
    counts: dict[str, int] = field(default_factory=dict)  # numbers for the summary
    more: dict[str, Any] = field(default_factory=dict)  # further fields of the example

    def name(self, kind: str) -> str:
        """Return what the id of the example adds to that of the trajectory."""
        number = "" if self.number is None else f"/{self.number}"
        return f"{self.situation.i}/{kind}{number}"

    def count(self, what: str, n: int = 1) -> None:
        """Add to a number for the summary."""
        self.counts[what] = self.counts.get(what, 0) + n

    def refuse(self, guard: str, fault: str, text: str) -> None:
        """Record a text that is refused, with the reason."""
        self.refused.append({"guard": guard, "fault": fault, "text": text})
        self.count(f"text[s] refused by {guard}")

    def check_completion(self, style: PromptStyle) -> None:
        """Set the error where a completion of this style cannot hold the state's action, after the text so far."""
        try:
            style.completion(self.situation.step["action"], self.text)
        except InputError as error:
            self.error = error

    def compose(self, rule: Rule, guards: Mapping[str, Guard]) -> bool:
        """Compose the reflection by rule; return whether the rule can use the trajectory."""
        try:
            text, self.left_out = rule.compose(self.situation)
        except InputError as error:
            self.error = error
            return False
        self.author = rule.author
        if not guards or not text:
            self.text = text
        elif not self._judge(guards, text, text):
            self.settle([], rule.settings.kind)
        return True

    def request(self, style: PromptStyle, settings: ReflectSettings, model: Model, guards: Mapping[str, Guard]) -> Draw:
        """Return the request to the model for a text of this state."""
        tools: Sequence[dict] = ()
        if settings.rationale == "own":
            prompt = own_prompt(style, self.situation, model.play_settings.style is not None)
            prefix = style.opening("always") if model.exact else ""
            tools = style.shown_tools(self.situation.tools)

            def accept(sample: Sample) -> bool:
                if tools:
                    parsed = style.parse_message(model.message(sample, tools), sample.finished)
                else:
                    parsed = style.parse(prefix + sample.text, sample.finished)
                return self._own(parsed, guards, sample)
        else:
            prompt, prefix = reflection_prompt(style, self.situation), ""

            def accept(sample: Sample) -> bool:
                return self._judge(guards, style.thought_in(sample.text), sample.text, sample.finished)

        self.author = model.fingerprint
        numbers = () if self.number is None else (self.number,)
        return Draw(
            prompt,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=seed_of(settings.seed, self.situation.trajectory["id"], self.situation.i, *numbers),
            accept=accept,
            most=1 + settings.retries,
            prefix=prefix,
            tools=tools,
        )

    def _own(self, parsed: ParsedAnswer, guards: Mapping[str, Guard], sample: Sample) -> bool:
        """Return whether a sample is an acceptable thought of the model's own, followed by the expert's action."""
        form = action_form(self.situation.trajectory)
        if form(parsed.action) != form(self.situation.step["action"]):
            self.refuse(
                "keep-matching", f"ends in {parsed.action!r}" if parsed.action else "has no action", sample.text
            )
            return False
        return self._judge(guards, parsed.thought, sample.text, sample.finished)

    def _judge(self, guards: Mapping[str, Guard], text: str, written: str, finished: bool = True) -> bool:
        """Apply the guards to a text; keep it and return True if it is accepted, else record the refusal.

        Args:
            written: All that was written, which the records of a fault show.
        """
        try:
            verdict = judge(text, self.situation, guards, finished)
        except InputError as error:  # a mistake in a guard of another package
            self.error = error
            return False
        if verdict.guard:
            self.refuse(verdict.guard, verdict.fault, written)
            return False
        for guard, fault in verdict.cuts:
            self.count("text[s] written twice, cut to one" if guard == "repeated" else f"text[s] cut by {guard}")
            self.refused.append({"guard": guard, "fault": fault, "text": written})
        self.text = verdict.text
        return True

    def settle(self, answer: list[Sample] | InputError, kind: str) -> None:
        """Set the error, or the reason to drop the state, if the model's answer had no acceptable text."""
        if isinstance(answer, InputError):
            self.error = answer
        elif not self.text and not self.error:
            fault = self.refused[-1]["fault"] if self.refused else "is missing"
            reason = InputError(f"no usable {kind}: the text {fault}", evidence={"texts": self.refused})
            if kind == "rationale":
                self.dropped = reason
                self.count("state[s] without a matching action")
            else:
                self.error = reason

    def report(self, count: Count, keep: OnError, on_refused: OnError, on_error: OnError) -> bool:
        """Report the counts and the refused texts, and return whether there is a reflection.

        Args:
            count: A function that adds to the summary.
            keep: A function that takes the refused texts of a state that is not set aside.
            on_refused: A function that takes the texts of a state that gets no reflection because of them.
            on_error: A function that takes the trajectory of a state that is set aside.
        """
        trajectory, where = self.situation.trajectory, f"$.steps[{self.situation.i}]"
        add_counts(count, self.counts)
        if self.left_out:
            count(self.left_out, 1)
            return False
        if self.error:
            on_error(trajectory, self.error.at(where))
        elif self.dropped:
            on_refused({"type": "trajectory", "id": trajectory["id"]}, self.dropped.at(where))
        elif self.refused:
            reason = InputError("texts were refused or cut first", evidence={"texts": self.refused})
            keep({"type": "trajectory", "id": trajectory["id"]}, reason.at(where))
        return not (self.error or self.dropped)

    def example(self, style: PromptStyle, kind: str) -> dict:
        """Return the training example."""
        situation = self.situation
        target = style.completion(situation.step["action"], self.text, situation.i)
        return example(
            situation.trajectory,
            self.name(kind),
            kind,
            acting_prompt(style, situation, think=True),
            target.messages(),
            style.label,
            **style.tools_field(situation.tools),
            spans=target.spans,
            reflection_by=self.author,
            **self.more,
        )

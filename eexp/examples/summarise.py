"""Summaries of long observations, as targets of a world model.

The Early Experience paper summarises them for WebShop, WebArena and SearchQA. Here it is a stage of its own, which
writes trajectories: a summary is written once, and every stage that reads trajectories may use it.
"""

from __future__ import annotations

from collections.abc import Iterator

from eexp.errors import InputError
from eexp.examples.reflection import guards
from eexp.examples.settings import SummariseSettings
from eexp.models.base import Draw, Model, Sample
from eexp.models.in_order import answer_in_order
from eexp.prompts import PromptStyle
from eexp.records.callbacks import Count, OnError, no_count, stop_at_error
from eexp.records.record import seed_of

_TRIES = 3  # draws of a summary before an observation goes without


class _Passage:
    """An observation to summarise.

    Attributes:
        holders: The steps and outcomes of a trajectory that hold it, copies that may be changed.
        place: The JSON path of the first of them.
        fault, text: The last text that was refused, and why.
    """

    def __init__(self, action: str, observation: str):
        self.action, self.observation = action, observation
        self.holders: list[dict] = []
        self.place = ""
        self.summary: str | None = None
        self.fault, self.text = "", ""

    def request(self, t: dict, style: PromptStyle, settings: SummariseSettings, count: Count) -> Draw:
        """Return the request for a summary."""

        def accept(sample: Sample) -> bool:
            self.text = sample.text
            text = guards.without_copies(style.summary_in(sample.text))
            if text and sample.finished and len(text) < len(self.observation):
                self.summary = text
                return True
            if not text:
                self.fault = "is empty"
            elif not sample.finished:
                self.fault = f"does not end within {settings.max_tokens} tokens"
            else:
                self.fault = "is no shorter than the observation"
            count("summar[y|ies] drawn again", 1)
            return False

        prompt = style.ask_summary(t["instruction"], self.action, self.observation)
        seed = seed_of(settings.seed, t["id"], self.action, self.observation)
        return Draw(
            prompt,
            n=1,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=seed,
            accept=accept,
            most=_TRIES,
        )


def summarise(
    trajectories: Iterator[dict],
    style: PromptStyle,
    model: Model,
    settings: SummariseSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Add a `summary` to every observation of more than `settings.longer_than` characters that an action led to.

    Those are the outcomes of alternatives, the observations of all steps but the first, and the trajectory's outcome.
    Where an action led to an observation more than once in a trajectory, one summary is written. A summary that is
    there already stays. Texts that are empty, cut off, or no shorter than the observation are drawn again.

    Args:
        trajectories: Trajectories with outcomes.
        style: The prompt style of the request.
        count: Called with the numbers of summaries and of texts that are refused.
        on_error: Called where no text could be used; the trajectory is yielded without this summary.
    """
    settings = settings or SummariseSettings()

    def requests() -> Iterator[tuple[tuple[dict, dict, list[_Passage]], list[Draw]]]:
        for t in trajectories:
            copy, passages = _passages(t, settings.longer_than)
            yield (t, copy, passages), [passage.request(t, style, settings, count) for passage in passages]

    for (original, t, passages), answers in answer_in_order(requests(), model):
        for passage, answer in zip(passages, answers):
            if passage.summary is None:
                reason = f"no usable summary: the text {passage.fault}"
                unusable = InputError(reason, evidence={"text": passage.text})
                error = answer if isinstance(answer, InputError) else unusable
                on_error(original, error.at(passage.place))  # set aside as it came, without the summaries so far
                continue
            for holder in passage.holders:
                holder["summary"] = passage.summary
            count("summar[y|ies] written", 1)
        yield t


def _passages(t: dict, longer_than: int) -> tuple[dict, list[_Passage]]:
    """Return a copy of a trajectory, and the observations in it to summarise."""
    passages: dict[tuple[str, str], _Passage] = {}

    def add(action: str, holder: dict, place: str) -> None:
        if len(holder["observation"]) > longer_than and not holder.get("summary"):
            passage = passages.setdefault((action, holder["observation"]), _Passage(action, holder["observation"]))
            passage.holders.append(holder)
            passage.place = passage.place or place

    steps: list[dict] = []
    for i, step in enumerate(t["steps"]):
        step = dict(step)
        if steps:
            add(steps[-1]["action"], step, f"$.steps[{i}]")
        steps.append(step)
        if "alternatives" in step:
            step["alternatives"] = [dict(alternative) for alternative in step["alternatives"]]
            for j, alternative in enumerate(step["alternatives"]):
                if alternative.get("outcome"):
                    alternative["outcome"] = dict(alternative["outcome"])
                    add(alternative["action"], alternative["outcome"], f"$.steps[{i}].alternatives[{j}].outcome")
    copy = {**t, "steps": steps}
    if t.get("outcome") and steps:
        copy["outcome"] = dict(t["outcome"])
        add(steps[-1]["action"], copy["outcome"], "$.outcome")
    return copy, list(passages.values())

"""Write reflections by a model or by rule, one for every state that gets one, and verify them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from eexp.errors import UsageError
from eexp.examples.reflection.base import Rule, open_rule
from eexp.examples.reflection.drafts import Draft
from eexp.examples.reflection.guards import Guard, open_guards
from eexp.examples.reflection.shared import SharedSentences
from eexp.examples.reflection.situations import situations
from eexp.examples.reflection.verification import verify_drafts
from eexp.examples.settings import RATIONALES, ReflectSettings
from eexp.models.base import Draw, Model
from eexp.models.in_order import answer_in_order
from eexp.prompts import PromptStyle
from eexp.records.callbacks import Count, OnError, Skip, ignore_error, no_count, skip_none, stop_at_error


def reflect(
    trajectories: Iterator[dict],
    style: PromptStyle,
    writer: Model | None = None,
    settings: ReflectSettings | None = None,
    scorer: Model | None = None,
    *,
    skip: Skip = skip_none,
    count: Count = no_count,
    keep: OnError = ignore_error,
    on_refused: OnError = ignore_error,
    on_error: OnError = stop_at_error,
    shared: SharedSentences | None = None,
) -> Iterator[dict]:
    """Yield one example for every state in which there are outcomes to reason about, or one for every contender.

    Args:
        trajectories: Trajectories with outcomes.
        style: The prompt style of the request and of the examples.
        writer: The model that writes; None where reflections are composed by rule.
        scorer: Verifies them (`verification.verify_drafts`); None leaves that out.
        count: Called with the numbers of states that are left out and of texts that are refused.
        keep: Called with the texts that were refused, where the state is not set aside because of them.
        on_refused: Called with the states that get no reflection because the scorer refuses their texts, or because no
            thought of the model's own ends in the expert's action.
        on_error: Called with the states that are set aside because no text could be used, or because a completion of
            this style cannot hold their action.
        shared: Counts the sentences that reflections have in common.

    Raises:
        UsageError: Settings by which a model writes, and no writer.
    """
    settings = settings or ReflectSettings()
    if writer is None and settings.by_model:
        raise UsageError(f"rationale {settings.rationale!r} needs a writer; by rule: {', '.join(RATIONALES.names())}")
    if settings.per_alternative and not settings.weighs:
        raise UsageError("--per-alternative weighs one contender at a time: not with --no-outcomes, nor with --weigh 0")
    groups = write_drafts(trajectories, style, writer, settings, skip, count)
    for drafts in verify_drafts(groups, scorer, style) if scorer else groups:
        for draft in drafts:
            if draft.text:
                draft.check_completion(style)
            if not draft.skipped and draft.report(count, keep, on_refused, on_error):
                if shared:
                    shared.add(draft.text)
                yield draft.example(style, settings.kind)


def write_drafts(
    trajectories: Iterable[dict],
    style: PromptStyle,
    writer: Model | None,
    settings: ReflectSettings,
    skip: Skip,
    count: Count,
) -> Iterator[list[Draft]]:
    """Yield the drafts of each trajectory, with their texts or the reason why there is none.

    Args:
        trajectories: Trajectories with outcomes.
        style: The prompt style of the requests.
    """
    guards = open_guards(settings.guards, settings.by_model)
    if writer is None:
        rule = open_rule(settings)
        for trajectory in rule.read(trajectories, count):
            yield _composed(_drafts(trajectory, style, settings, skip, count, rule), rule, guards)
        return

    def requests() -> Iterator[tuple[list[Draft], list[Draw]]]:
        for trajectory in trajectories:
            drafts = _drafts(trajectory, style, settings, skip, count)
            if not all(draft.skipped for draft in drafts):
                # Skipped ones are requested, too, so that batches hold the same requests as before the interruption.
                yield drafts, [draft.request(style, settings, writer, guards) for draft in drafts if not draft.error]

    for drafts, answers in answer_in_order(requests(), writer):
        for draft, answer in zip([draft for draft in drafts if not draft.error], answers):
            draft.settle(answer, settings.kind)
        yield drafts


def _composed(drafts: list[Draft], rule: Rule, guards: Mapping[str, Guard]) -> list[Draft]:
    """Return the drafts with their texts; one with the error where the rule cannot use the trajectory."""
    for draft in drafts:
        if not draft.compose(rule, guards):
            return [draft]
    return drafts


def _drafts(
    trajectory: dict,
    style: PromptStyle,
    settings: ReflectSettings,
    skip: Skip,
    count: Count,
    rule: Rule | None = None,
) -> list[Draft]:
    """Return the drafts of every state that gets a reflection; the others are counted."""
    drafts = []
    for situation in situations(trajectory, settings.pool, settings.first, settings.needs_contenders):
        pairs = situation.with_one_contender() if settings.per_alternative else [(None, situation)]
        here = [Draft(one, number) for number, one in pairs]
        for draft in here:
            draft.skipped = skip(f"{trajectory['id']}/{draft.name(settings.kind)}")
        done = bool(here) and all(draft.skipped for draft in here)
        left_out = situation.left_out or (rule.left_out(situation) if rule else "")
        if not left_out:
            for draft in here if rule is None else ():  # before a model is asked
                draft.check_completion(style)
            drafts += here
        elif not done:
            count(left_out, 1)
        if situation.as_good and not done:
            count("alternative[s] left out that did as well as the expert's action", situation.as_good)
    return drafts

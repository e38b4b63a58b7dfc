"""Preferences: the expert's action before an alternative of which the record shows that it did worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eexp.errors import InputError
from eexp.examples.judges import first_reason, open_judges
from eexp.examples.reflection.situations import situations
from eexp.examples.settings import JUDGES, PreferenceSettings
from eexp.prompts import PromptStyle
from eexp.prompts.style import Dialogue
from eexp.records.callbacks import Count, OnError, no_count, stop_at_error
from eexp.records.imagination import only_real
from eexp.records.outcomes import actions_to_the_end
from eexp.records.record import example, preference, tools_at

#: The counter of contenders that are no evidence.
NO_SHORTCOMING = "alternative[s] left out, of which it is not known that [it|they] did worse"

FOLLOWED = "alternative[s] that [was|were] followed"


@dataclass(frozen=True)
class _Pair:
    """An action that the record shows to be better than another one, in a state that a dialogue has come to."""

    trajectory: dict
    number: int  # of the step
    step: dict
    n: int  # of the pair in this state
    reason: str
    rejected: dict
    outcome: dict

    @property
    def fields(self) -> dict[str, str]:
        """The evidence, as it stands in a preference."""
        return {
            "worse": self.reason,
            "chosen_outcome": self.outcome["observation"],
            "rejected_outcome": self.rejected["outcome"]["observation"],
        }

    @property
    def numbers(self) -> dict[str, int]:
        """The numbers of actions until the task was completed, as they stand in a preference."""
        rejected, chosen = actions_to_the_end(self.trajectory, self.number, self.rejected)
        return {"chosen_actions": chosen or 0, "rejected_actions": rejected or 0}


def preference_data(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: PreferenceSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield a preference for every alternative of which the record shows that it did worse than the expert's action.

    An alternative that merely did something else is no evidence: another way may be as good. With `judge`, two examples
    are made of each instead (Agentic Critical Training, arXiv 2603.08706): the agent says which of the two actions is
    better, and takes it. Each stands first in one of them.

    Args:
        trajectories: Trajectories with outcomes.
        count: Called with the numbers of states and alternatives that are left out.
        on_error: Called with a trajectory without functions, where actions are tool calls, or with an action that a
            completion of this style cannot hold.
    """
    settings = settings or PreferenceSettings()
    dialogue = Dialogue(style)
    for pair in _pairs(trajectories, style, dialogue, settings, count, on_error):
        if settings.judge:
            yield from _judgements(pair, style, dialogue, settings)
        else:
            yield _preference(pair, style, dialogue)


def _pairs(
    trajectories: Iterator[dict],
    style: PromptStyle,
    dialogue: Dialogue,
    settings: PreferenceSettings,
    count: Count,
    on_error: OnError,
) -> Iterator[_Pair]:
    """Yield the pairs of all states; the dialogue is at the state of each when it is yielded."""
    judges = open_judges(settings.worse)
    accepted = settings.worse or tuple(JUDGES.built_in)
    for t in only_real(trajectories, "what did worse", on_error):
        try:
            style.shown_tools(tools_at(t, 0))
        except InputError as e:
            on_error(t, e)
            continue
        dialogue.start(t["instruction"])
        # Earlier thoughts are not shown, since the actions here are chosen without one.
        steps = [{**step, "thought": None} for step in t["steps"]]
        for situation, step in zip(situations(t, settings.pool, settings.first), steps):
            if situation.left_out:
                count(situation.left_out, 1)
            else:
                outcome = situation.outcome or {}
                try:
                    worse = [
                        (reason, alternative)
                        for alternative in situation.contenders
                        if (reason := first_reason(judges, accepted, t, situation.i, alternative))
                    ]
                except InputError as e:  # of a judge of another package
                    on_error(t, e.at(f"$.steps[{situation.i}]"))
                    break
                count(FOLLOWED, sum(a.get("then") is not None for a in situation.contenders))
                count(NO_SHORTCOMING, len(situation.contenders) - len(worse))
                taken = [(reason, a) for reason, a in worse if reason in accepted][: settings.most]
                try:
                    for action in _completed_actions(step, taken, settings):
                        style.completion(action)
                except InputError as e:
                    on_error(t, e.at(f"$.steps[{situation.i}]"))
                    break
                for n, (reason, alternative) in enumerate(taken):
                    yield _Pair(t, situation.i, step, n, reason, alternative, outcome)
            dialogue.add(step)


def _completed_actions(step: dict, taken: list[tuple[str, dict]], settings: PreferenceSettings) -> list[str]:
    """Return the actions of a state that become completions; a judgement is the better action alone."""
    rejected = [] if settings.judge else [alternative["action"] for _, alternative in taken]
    return [step["action"], *rejected] if taken else []


def _preference(pair: _Pair, style: PromptStyle, dialogue: Dialogue) -> dict:
    step = pair.step
    return preference(
        pair.trajectory,
        f"{pair.number}/preference/{pair.n}",
        dialogue.act(step["observation"], step.get("admissible")),
        style.completion(step["action"], None, pair.number).messages(),
        style.completion(pair.rejected["action"], None, pair.number).messages(),
        style.label,
        **style.tools_field(tools_at(pair.trajectory, pair.number)),
        **pair.fields,
        **pair.numbers,
    )


def _judgements(pair: _Pair, style: PromptStyle, dialogue: Dialogue, settings: PreferenceSettings) -> Iterator[dict]:
    """Yield the two examples of a pair: the better action stands first in one and second in the other."""
    better, worse = pair.step["action"], pair.rejected["action"]
    better_outcome, worse_outcome = pair.fields["chosen_outcome"], pair.fields["rejected_outcome"]
    for is_first in (True, False):
        first, second = (better, worse) if is_first else (worse, better)
        outcomes = (better_outcome, worse_outcome) if is_first else (worse_outcome, better_outcome)
        answer = style.judge_answer(is_first, better, pair.number)
        yield example(
            pair.trajectory,
            f"{pair.number}/judgement/{pair.n}/{1 if is_first else 2}",
            "judgement",
            dialogue.judge(pair.step["observation"], first, second, outcomes if settings.with_outcomes else None),
            answer.messages(),
            style.label,
            **style.tools_field(tools_at(pair.trajectory, pair.number)),
            spans=answer.spans,
        )

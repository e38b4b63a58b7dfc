"""How long a world model answers as the real environment did: its accuracy at every step of recorded episodes.

The recorded actions are taken in an imagined environment that has seen what was really observed before. Where all
answers so far were right, that is what it would have imagined by itself, so the first wrong answer is where an
imagined episode first differs from the real one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

from eexp.envs.imagined import ImaginedWorld, WorldModelFailed
from eexp.errors import InputError
from eexp.models.base import Draw, Samples
from eexp.models.in_order import answer_in_order
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.imagination import refuse_imagined
from eexp.records.outcomes import transition_of
from eexp.records.record import tools_at


@dataclass
class _Recorded:
    """An episode as it really went."""

    record: dict
    steps: list[dict]  # `observation` and `action` of each
    outcomes: list[dict]  # of each action, as far as it is known
    tools: Callable[[int], list[dict] | None]  # the functions offered in the state of a number


def accuracy(
    records: Iterable[dict], world: ImaginedWorld, env: str | None = None, *, on_error: OnError = stop_at_error
) -> Iterator[dict]:
    """Yield, for each trajectory or episode of a real environment, at which steps an imagined one answers the same.

    Args:
        world: The imagined environment. `Environment.mask` of the real one is heeded.
        env: The spec of the real environment, which all records must be of; None for any.
        on_error: Called with a record that cannot be compared.

    Yields:
        `{"id", "env", "right", "first_difference", "undetermined", "failed"}`, and "verdicts" where the model gives
        verdicts. `right` says for every step whether the observation is the recorded one; `first_difference` is the
        number, from 1, of the first step at which it is not, or null; `undetermined` has the numbers of the steps whose
        observation has parts that nothing before determines, where the record says it; `failed` those where the model
        wrote no observation. `verdicts` says whether each verdict is right, null where the record does not tell.
    """
    imagination = world.imagination

    def requests() -> Iterator[tuple[_Recorded, list[Draw]]]:
        for record in records:
            try:
                recorded = _recorded(record, env)
                instruction, steps = record.get("instruction") or "", recorded.steps
                group = []
                for i, step in enumerate(steps):
                    *history, state = _states(steps[: i + 1], imagination.verdict)
                    action, tools = step["action"], recorded.tools(i)
                    group.append(imagination.request(instruction, history, state["observation"], action, tools))
            except InputError as e:
                on_error(record, e)
                continue
            yield recorded, group

    for recorded, answers in answer_in_order(requests(), imagination.model):
        errors = [answer for answer in answers if isinstance(answer, InputError)]
        if errors:
            on_error(recorded.record, errors[0])
            continue
        yield _compared(recorded, answers, world)


def _recorded(record: dict, env: str | None) -> _Recorded:
    """Return an episode as it went. Raises InputError for one of another environment, an imagined one or no steps."""
    refuse_imagined(record, "an observation")
    if env is not None and record["env"] != env:
        raise InputError(f"is of {record['env']!r}, and {env!r} is imagined", "$.env")
    turns = record["steps"] if record["type"] == "trajectory" else record["transcript"]
    if not turns:
        raise InputError("has no steps", "$.steps" if record["type"] == "trajectory" else "$.transcript")
    if record["type"] == "trajectory":
        last = record.get("outcome") or {}
    else:
        last = {"observation": record.get("final"), **({"done": True} if record["success"] else {})}
    if not isinstance(last.get("observation"), str):
        raise InputError("does not hold the last observation", "$")
    outcomes = [*turns[1:], last]
    if record["type"] == "episode":  # a turn says of its own action whether it was valid
        outcomes = [{**outcome, "valid": turn.get("valid", True)} for turn, outcome in zip(turns, outcomes)]
    tools = {**record, "steps": turns}
    return _Recorded(record, turns, outcomes, lambda i: tools_at(tools, i))


def _states(steps: list[dict], verdict: bool) -> list[dict]:
    """Return the states of a path as an imagined environment has them: with verdicts, refused actions leave no trace.

    The last state is the one before the last of the steps.
    """
    if not verdict:
        return steps
    states: list[dict] = []
    follows_refusal = False  # whether the observation of a step answers a refused action
    for step in steps:
        before = states.pop()["observation"] if follows_refusal else step["observation"]
        states.append({"observation": before, "action": step["action"]})
        follows_refusal = step.get("valid") is False or bool(step.get("mistake"))
    return states


def _compared(recorded: _Recorded, answers: list[Samples], world: ImaginedWorld) -> dict:
    right, verdicts, undetermined, failed = [], [], [], []
    for i, (step, outcome, answer) in enumerate(zip(recorded.steps, recorded.outcomes, answers)):
        if outcome.get("unknown"):
            undetermined.append(i + 1)
        try:
            imagined = world.imagination.observation(answer[0]) if isinstance(answer, list) else None
        except WorldModelFailed:
            failed.append(i + 1)
            imagined = None
        right.append(imagined is not None and world.mask(imagined.text) == world.mask(outcome["observation"]))
        verdict = imagined and transition_of(step["observation"], imagined.outcome())
        verdicts.append(verdict == transition_of(step["observation"], outcome) if _is_known(recorded, i) else None)
    return {
        "id": recorded.record["id"],
        "env": recorded.record["env"],
        "right": right,
        "first_difference": next((i for i, same in enumerate(right, 1) if not same), None),
        "undetermined": undetermined,
        "failed": failed,
        **({"verdicts": verdicts} if world.imagination.verdict else {}),
    }


def _is_known(recorded: _Recorded, i: int) -> bool:
    """Return whether the record tells if the episode was over after an action; one without success ends anywhere."""
    return i + 1 < len(recorded.steps) or "done" in recorded.outcomes[i]


# -- over all episodes -------------------------------------------------------------------------------------------------


@dataclass
class Accuracy:
    """Sums over episodes."""

    episodes: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # of steps
    reached: Counter[int] = field(default_factory=Counter)  # step -> episodes that have it
    right: Counter[int] = field(default_factory=Counter)  # step -> those in which its observation is right
    same_before: Counter[int] = field(default_factory=Counter)  # step -> those without a difference before it
    first: Counter[int] = field(default_factory=Counter)  # step -> those with the first difference there

    def add(self, compared: dict) -> None:
        """Add an episode, as `accuracy` yields it."""
        self.episodes += 1
        first = compared["first_difference"] or len(compared["right"]) + 1
        for step, is_right in enumerate(compared["right"], 1):
            self.reached[step] += 1
            self.right[step] += is_right
            self.same_before[step] += step <= first
            if step == first:
                self.first[step] += 1
            kind = "undetermined" if step in compared["undetermined"] else "determined"
            self.counts[kind] += 1
            self.counts[f"{kind}, right"] += is_right
        self.counts["failed"] += len(compared["failed"])
        known = [verdict for verdict in compared.get("verdicts", []) if verdict is not None]
        self.counts["verdicts"] += len(known)
        self.counts["verdicts, right"] += sum(known)

    def survival(self) -> dict[int, float]:
        """Return, for every step, the share of episodes without a difference up to it (Kaplan and Meier's estimate).

        Episodes end at different steps; one that ends without a difference counts up to its end.
        """
        shares, share = {}, 1.0
        for step in sorted(self.reached):
            if self.same_before[step]:
                share *= 1 - self.first[step] / self.same_before[step]
            shares[step] = share
        return shares

    def lines(self) -> list[str]:
        """Return a table for a person: accuracy and survival by step, and accuracy by kind of step."""
        if not self.episodes:
            return ["no episodes"]
        steps, right = sum(self.reached.values()), sum(self.right.values())
        survival = self.survival()
        lines = ["step  episodes  right   no difference so far"]
        for step in sorted(self.reached):
            n = self.reached[step]
            lines.append(f"{step:4}  {n:8}  {self.right[step] / n:5.1%}  {survival[step]:6.1%}")
        lines.append(f" all  {steps:8}  {right / steps:5.1%}")
        lines.append(f"episodes: {self.episodes}; without a difference: {self.episodes - sum(self.first.values())}")
        if self.first:
            lines.append(f"first difference, where there is one: step {median(self.first.elements()):g} (median)")
        if self.counts["undetermined"]:
            lines += [
                f"steps that the episode so far determines: {_share(self.counts, 'determined')}",
                f"steps with a part that nothing determines: {_share(self.counts, 'undetermined')}",
            ]
        if self.counts["failed"]:
            lines.append(f"steps without an observation from the model: {self.counts['failed']}")
        if self.counts["verdicts"]:
            lines.append(f"verdicts: {_share(self.counts, 'verdicts')}")
        return lines


def _share(counts: Counter[str], kind: str) -> str:
    right, number = counts[f"{kind}, right"], counts[kind]
    return f"{right} of {number} right ({right / number:.1%})" if number else "none"

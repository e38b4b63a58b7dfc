"""`eexp branch`: add alternatives to the expert's action in every state that it visited (Early Experience, 4.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.errors import InputError
from eexp.options import PolicyOptions
from eexp.settings import command_options
from eexp.stage_settings.branch import BranchSettings

if TYPE_CHECKING:
    from eexp.branching.alternatives import StateAlternatives
    from eexp.models.policy import ActionDraw, ActionScore, Policy
    from eexp.stream import Stream


def branch(
    trajectories: Iterator[dict],
    policy: Policy | None,
    settings: BranchSettings | None = None,
    *,
    skip: Callable[[str], bool] = lambda record_id: False,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Add up to `settings.k` different alternatives to every step, never the expert's own action.

    Two actions are the same if they are so after `records.canonical`. With `settings.add`, all trajectories are read
    first, and only some steps get alternatives.

    Args:
        trajectories: Trajectories without mistakes put in by `recover`.
        policy: Proposes actions; None where they come from the admissible actions.
        settings: How many, and where they come from.
        skip: Returns whether an earlier run has written the trajectory with an id.
        count: Called with what was drawn and why it was dropped.
        on_error: Called with a trajectory to which none can be added.
    """
    settings = (settings or BranchSettings()).resolved(policy)
    possible = _without_mistakes(trajectories, on_error)
    if settings.add is None:
        numbered = ((t, [settings.k] * len(t["steps"])) for t in possible if not skip(t["id"]))
        yield from _branched(numbered, policy, settings, count, on_error)
        return
    for trajectory in _added(list(possible), settings.add, policy, settings, count, on_error):
        if not skip(trajectory["id"]):
            yield trajectory


def _branched(
    numbered: Iterator[tuple[dict, list[int]]],
    policy: Policy | None,
    settings: BranchSettings,
    count: Count,
    on_error: OnError,
) -> Iterator[dict]:
    """Yield trajectories with so many more alternatives at each of their steps."""
    from eexp.branching.alternatives import StateAlternatives

    exact = policy is not None and policy.exact
    asks = settings.source != "admissible"
    #: Trajectories that were read and not answered yet, each with the states that get alternatives.
    pending: deque[tuple[dict, dict[int, StateAlternatives]]] = deque()

    def requests() -> Iterator[list[ActionDraw | ActionScore]]:
        for trajectory, numbers in numbered:
            states = {
                i: StateAlternatives(trajectory, i, settings, exact, count, number)
                for i, number in enumerate(numbers)
                if number
            }
            pending.append((trajectory, states))
            yield [state.request() for state in states.values()] if asks else []

    answers: Iterator[list] = policy.answer(requests()) if policy else ([] for _ in requests())
    for answer in answers:
        trajectory, states = pending.popleft()
        try:
            for i, error in zip(states, answer):
                if isinstance(error, InputError):
                    raise error.at(f"$.steps[{i}]")
            proposals = answer or [[]] * len(states)
            sets = {i: state.alternatives(those) for (i, state), those in zip(states.items(), proposals)}
        except InputError as e:
            on_error(trajectory, e)
            continue
        steps = [{**step, "alternatives": sets[i]} if i in sets else step for i, step in enumerate(trajectory["steps"])]
        yield {**trajectory, "steps": steps}


def _added(
    trajectories: list[dict],
    total: int,
    policy: Policy | None,
    settings: BranchSettings,
    count: Count,
    on_error: OnError,
) -> list[dict]:
    """Return the trajectories with `total` more alternatives, or as many as there are.

    What a state was to get and has not is given to others, until no state has any left.
    """
    from eexp.branching.allocation import allocate
    from eexp.branching.alternatives import room_of

    left = [[settings.k] * len(t["steps"]) for t in trajectories]  # how many each step may get yet
    failed: list[dict] = []

    def fail(trajectory: dict, error: InputError) -> None:
        failed.append(trajectory)
        on_error(trajectory, error)

    while total:
        rooms = [
            [room_of(step, settings, most) for step, most in zip(t["steps"], own)] for t, own in zip(trajectories, left)
        ]
        numbers = allocate(trajectories, total, rooms, settings.pool, settings.seed)
        if not any(map(any, numbers)):
            break
        after = list(_branched(zip(trajectories, numbers), policy, settings, count, fail))
        before = [row for row in zip(trajectories, numbers, left) if not any(row[0] is one for one in failed)]
        for trajectory, (old, wanted, own) in zip(after, before):
            for i, number in enumerate(wanted):
                gained = _number_at(trajectory, i) - _number_at(old, i)
                total -= gained
                own[i] = own[i] - gained if gained == number else 0
        trajectories, left = after, [own for _, _, own in before]
    count("alternative[s] not added, since no state has any left", total)
    return trajectories


def _number_at(trajectory: dict, i: int) -> int:
    return len(trajectory["steps"][i].get("alternatives") or [])


def _without_mistakes(trajectories: Iterator[dict], on_error: OnError) -> Iterator[dict]:
    for trajectory in trajectories:
        if any(step.get("mistake") for step in trajectory["steps"]):
            on_error(trajectory, InputError("holds mistakes put in by `eexp recover`; branch before that", "$.steps"))
        else:
            yield trajectory


@click.command("branch")
@command_options(BranchSettings)
@options.policy(
    "The policy to draw from; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
    options.max_tokens(48),
)
@options.streams("trajectory", resume=True)
def command(settings: BranchSettings, policy: PolicyOptions, stream: Stream) -> None:
    """Add K alternative actions to every expert state.

    Alternatives differ from each other and from the expert's action; case, blanks and outer punctuation make no
    difference. The policy's texts are drawn without replacement, so that a policy that is sure of the expert's action
    still gives others, each as likely to be drawn as its probability says. Texts that are far less probable than the
    most probable alternative are not drawn (--min-p). Where the policy does not give enough, admissible actions fill
    up. Servers reached by HTTP cannot draw without replacement: there, repeated draws are dropped, and --min-p compares
    with the most probable text that was drawn. The summary counts all of it.

    Without --pool, the alternatives that a record has are replaced. With it, a record may hold several sets, such as
    one from the admissible actions for world modelling and one from the policy for reflection; `eexp rollout` executes
    those that have no outcome yet.

    With --add, alternatives go where they are worth most, by what `eexp rollout` has found so far: to states whose
    alternatives led to something that no other led to, and last to those where all were refused or led where the
    expert's action leads. Alternate the two stages; each round knows more. All input is read first, and --resume needs
    the same input.

    The states of a trajectory are evaluated together, what their prompts share once. A trajectory's draws are decided
    by its record, the model, the options and --seed: the same bytes, whatever else is in the input. Within it, a
    state's draws are decided by the state, but for rounding: which tokens share a batch moves log-probabilities by
    about 1e-3 (1e-5 with --cache-type f32 and unquantised weights), and might thereby change a draw. Of 4,096 texts
    drawn from the tiny model, alone and among 63 other states, none changed.

    \b
    Example:
      eexp expert house -n 5 | eexp branch -k 4 > branched.jsonl
      eexp rollout branched.jsonl | eexp branch --add 40 --from admissible | eexp rollout > more.jsonl
    """
    from eexp.branching.alternatives import NO_LOGPROBS

    opened = None
    if settings.source != "admissible":
        if policy.model.spec == "expert":
            raise click.BadParameter("the expert's own action is never an alternative", param_hint="-m")
        opened = policy.open(stream.note)
        settings = settings.resolved(opened)
    with (
        closing(opened) if opened else nullcontext(),
        stream.open("branch", **settings.lineage(opened, policy.max_tokens)) as io,
    ):
        records = io.records(skip_done=False)
        trajectories = branch(records, opened, settings, skip=io.done, count=io.count, on_error=io.fail)
        any_listed = False
        for trajectory in io.progress(trajectories, "trajectory"):
            io.write(trajectory)
            io.count("state[s]", len(trajectory["steps"]))
            any_listed = any_listed or any(step.get("admissible") for step in trajectory["steps"])
        if settings.source == "admissible" and io.counts["state[s]"] and not any_listed:
            io.note("no state lists admissible actions: nothing was added; give -m MODEL in place of --from admissible")
        if io.counts[NO_LOGPROBS]:
            io.note("--min-p has no effect where the model gives no log-probabilities")
        if opened:
            io.counts.update(opened.counts)

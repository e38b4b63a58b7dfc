"""How many more alternatives each state gets, where a number for all states together is given.

A state's next alternative is worth its cost if it leads to something that no other alternative there led to. How
probable that is can be told from the alternatives that were executed: it is about the share of them that led to
something that no other did (Good 1953, "The population frequencies of species and the estimation of population
parameters"). One is added to both sides of that share: what is not known is expected to be new.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

from eexp.records.equality import action_form
from eexp.records.outcomes import same_as_expert
from eexp.records.record import alternatives_of, expert_outcome, seed_of


def surprise(trajectory: dict, i: int, pool: str | None = None) -> tuple[float, int]:
    """Return how probable it is that one more alternative of a state leads to something new, and from how many it is.

    Refused actions and those that lead where the expert's leads are nothing new, however often they occur.

    Args:
        pool: The pool of alternatives to look at; None for all.

    Returns:
        The probability, 1 where nothing was executed; and the number of executed alternatives.
    """
    step, form = trajectory["steps"][i], action_form(trajectory)
    executed = [a for a in alternatives_of(step, pool, form=form) if a.get("outcome")]
    expert = expert_outcome(trajectory, i)
    outcomes = Counter(
        (a["outcome"]["observation"], bool(a["outcome"].get("done")))
        for a in executed
        if a["outcome"].get("valid") is not False and not same_as_expert(step, expert, a, form)
    )
    met_once = sum(number == 1 for number in outcomes.values())
    return (met_once + 1) / (len(executed) + 1), len(executed)


def allocate(
    trajectories: Sequence[dict], total: int, room: Sequence[Sequence[int]], pool: str | None = None, seed: int = 0
) -> list[list[int]]:
    """Share `total` alternatives among the states of trajectories.

    Each goes to the state where something new is most probable; of several, to the one with the fewest alternatives.
    After `m` that are not executed yet, the probability of a state with `n` executed ones is taken for
    (n + 1) / (n + 1 + m) of what it was.

    Args:
        room: The largest number for each step of each trajectory.
        pool: The pool of alternatives to look at; None for all.
        seed: Decides between states that are equal.

    Returns:
        A number for each step of each trajectory. Their sum is smaller than `total` only where there is no room.
    """
    numbers = [[0] * len(trajectory["steps"]) for trajectory in trajectories]
    heap = []
    for t, trajectory in enumerate(trajectories):
        for i in range(len(trajectory["steps"])):
            if room[t][i]:
                probability, executed = surprise(trajectory, i, pool)
                known = len(alternatives_of(trajectory["steps"][i], pool, form=action_form(trajectory)))
                value = -probability * (executed + 1) / (known + 1)
                heap.append((value, known, seed_of(seed, trajectory["id"], i, "allocation"), t, i))
    heapq.heapify(heap)
    for _ in range(total):
        if not heap:
            break
        value, known, order, t, i = heapq.heappop(heap)
        numbers[t][i] += 1
        if numbers[t][i] < room[t][i]:
            heapq.heappush(heap, (value * (known + 1) / (known + 2), known + 1, order, t, i))
    return numbers

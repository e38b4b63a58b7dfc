"""Which examples make an update, and what each process computes of it.

A run is a list of updates, known before it starts: it can be counted, shown, and gone on with at any place. Consecutive
rows make an update. By trajectories, an update holds what shares: groups come in another order every epoch, the rows of
a group in the order of their tokens. By examples, all rows are shuffled: what is left to share is less, and an update
is a fairer sample of the data.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count

from eexp.errors import UsageError
from eexp.training.data import Row
from eexp.training.packing import Packing

Updates = list[list[int]]  # indices of rows

TRAJECTORIES, EXAMPLES = 4, 16  # of an update, at least, where no other size is given


def epoch_order(
    rows: Sequence[Row], seed: int, epoch: int, shuffle: str = "trajectories", mixed: bool = False
) -> list[int]:
    """All rows once: groups shuffled, within a group by their tokens; or all rows shuffled.

    mixed: the kinds of a group's rows come evenly among each other, and only the rows of a kind by their tokens.
    """
    return list(chain.from_iterable(_groups(rows, seed, epoch, shuffle, mixed)))


def _groups(rows: Sequence[Row], seed: int, epoch: int, shuffle: str, mixed: bool) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if row.group is None or shuffle == "examples" else row.group, []).append(i)
    shuffled = [sorted(members, key=lambda i: rows[i].ids) for members in groups.values()]
    random.Random(f"{seed}/{epoch}").shuffle(shuffled)
    return [_spread(rows, members) for members in shuffled] if mixed else shuffled


def _spread(rows: Sequence[Row], members: list[int]) -> list[int]:
    sizes = Counter(rows[i].kind for i in members)
    before: Counter[str] = Counter()
    place = {}
    for i in members:
        kind = rows[i].kind
        place[i] = (before[kind] + 0.5) / sizes[kind]
        before[kind] += 1
    return sorted(members, key=lambda i: place[i])


def by_examples(
    rows: Sequence[Row],
    batch_size: int,
    epochs: float,
    max_steps: int | None,
    seed: int,
    shuffle: str = "trajectories",
    mixed: bool = False,
) -> Updates:
    """Updates of `batch_size` rows, the last of an epoch with what is left; `max_steps` of them, or `epochs` full."""

    def cut(epoch: int) -> Updates:
        order = epoch_order(rows, seed, epoch, shuffle, mixed)
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    return _taken(map(cut, count()), epochs, max_steps)


def by_trajectories(
    rows: Sequence[Row],
    trajectories: int,
    epochs: float,
    max_steps: int | None,
    seed: int,
    *,
    examples: int | None = None,
) -> Updates:
    """Updates of `trajectories` whole groups of rows, the last of an epoch with what is left.

    examples: take more groups until there are this many rows, and let what is left of an epoch join its last update,
    so that none is smaller.
    """

    def cut(epoch: int) -> Updates:
        updates: Updates = []
        update: list[int] = []
        held = 0
        for members in _groups(rows, seed, epoch, "trajectories", False):
            update, held = update + members, held + 1
            if held >= trajectories and len(update) >= (examples or 0):
                updates.append(update)
                update, held = [], 0
        if update and updates and examples:
            updates[-1] = updates[-1] + update
        elif update:
            updates.append(update)
        return updates

    return _taken(map(cut, count()), epochs, max_steps)


def _taken(cuts: Iterator[Updates], epochs: float, max_steps: int | None) -> Updates:
    """The first `max_steps` updates or, without that, those of `epochs`, rounded up, one at least."""
    updates: Updates = []
    for epoch, of_epoch in enumerate(cuts):
        if max_steps:
            updates += of_epoch[: max_steps - len(updates)]
            if len(updates) == max_steps:
                break
        else:
            share = min(1.0, epochs - epoch)
            updates += of_epoch[: max(not updates, math.ceil(round(share * len(of_epoch), 6)))]  # 0.28 * 25 is 7
            if epoch + 1 >= epochs:
                break
    return updates


def by_targets(
    rows: Sequence[Row], updates: int, targets: int, seed: int, shuffle: str = "trajectories", mixed: bool = False
) -> Updates:
    """`updates` updates with `targets` target tokens in all, the same number in each but for the last example's part.

    Each ends where the target tokens so far are nearest to its share of them, and has one row at least.
    """
    stream = (i for epoch in count() for i in epoch_order(rows, seed, epoch, shuffle, mixed))
    made: Updates = []
    seen = 0
    row = next(stream)
    for k in range(1, updates + 1):
        update: list[int] = []
        goal = targets * k / updates
        while not update or abs(seen + rows[row].n_targets - goal) <= abs(seen - goal):
            update.append(row)
            seen += rows[row].n_targets
            row = next(stream)
        made.append(update)
    return made


def epoch_ends(updates: Updates, rows: int) -> list[int]:
    """The updates, from 1, after which all of `rows` rows have been gone through once more."""
    ends, seen = [], 0
    for step, update in enumerate(updates, 1):
        if (seen + len(update)) // rows > seen // rows:
            ends.append(step)
        seen += len(update)
    return ends


def distribute(rows: Sequence[Row], packing: Packing, budget: int, processes: int) -> list[list[list[Row]]]:
    """The parts of one update that each of `processes` processes computes: [process][pass], as many passes for each.

    Parts are made small enough to go round, but not smaller than the longest row, for which some process takes its time
    anyway: rows that go on from each other would share nothing any more.
    Where parts do not go round, a process repeats the smallest with weight 0: every process takes part in every pass.
    """
    longest = max(len(row.ids) for row in rows)
    room = min(budget, max(-(-packing.size(rows) // processes), longest))
    parts = sorted(packing.cut(rows, room), key=packing.size, reverse=True)
    idle = [replace(row, weight=0.0) for row in parts[-1]]
    parts += [idle] * (-len(parts) % processes)
    return [parts[rank::processes] for rank in range(processes)]


def total_weight(rows: Iterable[Row]) -> float:
    """What the losses of some rows are divided by: the weights of all their targets."""
    return sum(row.loss_weight for row in rows)


def set_shares(rows: Sequence[Row], updates: Updates, shares: Mapping[str, float]) -> None:
    """Scale the weights of rows by kind, so that over all updates each kind in `shares` has its share of the weight.

    What is left is for the kinds not named, in the proportions they have. Raises UsageError where a kind that is named
    is in no update, or no other kind is.
    """
    weights = _weights_of_kinds(rows, updates)
    for kind, share in shares.items():
        if not weights.get(kind):
            found = ", ".join(kind for kind, weight in weights.items() if weight)
            raise UsageError(f"--share {kind}={share:g}: no update has an example of this kind; kinds: {found}")
    rest = sum(weight for kind, weight in weights.items() if kind not in shares)
    if not rest:
        raise UsageError(f"--share {', '.join(shares)}: there are no other kinds for the rest of the loss")
    whole = rest / (1 - sum(shares.values()))
    for row in rows:
        if row.kind in shares:
            row.weight *= shares[row.kind] * whole / weights[row.kind]


def _weights_of_kinds(rows: Sequence[Row], updates: Updates) -> dict[str, float]:
    weights: dict[str, float] = {}
    for i in chain.from_iterable(updates):
        weights[rows[i].kind] = weights.get(rows[i].kind, 0.0) + rows[i].loss_weight
    return weights


def loss_shares(rows: Sequence[Row], updates: Updates, update_weight: float | None) -> dict[str, float]:
    """The share of the loss that each kind has in a run, by the weights of targets.

    update_weight: what the losses of every update are divided by; its own weight if None.
    """
    found: dict[str, float] = {}
    for update in updates:
        whole = update_weight or total_weight(rows[i] for i in update)
        for i in update:
            found[rows[i].kind] = found.get(rows[i].kind, 0.0) + rows[i].loss_weight / whole / len(updates)
    return {kind: round(share, 6) for kind, share in sorted(found.items())}

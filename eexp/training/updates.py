"""The updates of a training run: which examples make one, and which of these each process computes.

A run is a list of updates, known before it starts, so it can be counted, shown, and resumed after any update.
Consecutive rows make an update. By trajectories, an update holds rows that share tokens: groups come in another order
every epoch, the rows of a group in the order of their tokens. By examples, all rows are shuffled: they share less, and
an update is a fairer sample of the data.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING

from eexp.errors import UsageError
from eexp.training.data import Row

if TYPE_CHECKING:
    from eexp.training.packing import Packing

Updates = list[list[int]]  # indices of rows, by update

TRAJECTORIES, EXAMPLES = 4, 16  # of an update, at least, where no other size is given


def epoch_order(
    rows: Sequence[Row], seed: int, epoch: int, shuffle: str = "trajectories", mixed: bool = False
) -> list[int]:
    """Return the indices of all rows, once each, in the order of an epoch.

    Args:
        epoch: Number of the epoch, from 0.
        shuffle: "trajectories" shuffles groups, and sorts the rows of a group by their tokens; "examples" shuffles all
            rows.
        mixed: Let the kinds of a group's rows come evenly among each other, and sort only the rows of a kind by their
            tokens.
    """
    return list(chain.from_iterable(_shuffled_groups(rows, seed, epoch, shuffle, mixed)))


def _shuffled_groups(rows: Sequence[Row], seed: int, epoch: int, shuffle: str, mixed: bool) -> list[list[int]]:
    """Return the indices of rows by group; arguments are those of `epoch_order`. A row without a group is one."""
    groups: dict[object, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if row.group is None or shuffle == "examples" else row.group, []).append(i)
    shuffled = [sorted(members, key=lambda i: rows[i].ids) for members in groups.values()]
    random.Random(f"{seed}/{epoch}").shuffle(shuffled)
    return [_spread_kinds(rows, members) for members in shuffled] if mixed else shuffled


def _spread_kinds(rows: Sequence[Row], members: list[int]) -> list[int]:
    """Return the members of a group with their kinds spread evenly over it."""
    sizes = Counter(rows[i].kind for i in members)
    counts: Counter[str] = Counter()
    place = {}  # from 0 to 1
    for i in members:
        kind = rows[i].kind
        place[i] = (counts[kind] + 0.5) / sizes[kind]
        counts[kind] += 1
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
    """Return updates of `batch_size` rows; the last of an epoch has what is left.

    Args:
        batch_size: Rows of an update.
        epochs: Passes over the rows, where `max_steps` is None.
        max_steps: Number of updates.
        seed, shuffle, mixed: As in `epoch_order`.
    """

    def updates_of_epoch(epoch: int) -> Updates:
        order = epoch_order(rows, seed, epoch, shuffle, mixed)
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    return _limit(map(updates_of_epoch, count()), epochs, max_steps)


def by_trajectories(
    rows: Sequence[Row],
    trajectories: int,
    epochs: float,
    max_steps: int | None,
    seed: int,
    *,
    examples: int | None = None,
) -> Updates:
    """Return updates of `trajectories` whole groups of rows; the last of an epoch has what is left.

    Args:
        trajectories: Groups of an update.
        epochs, max_steps, seed: As in `by_examples`.
        examples: Take more groups until there are this many rows, and add what is left of an epoch to its last update,
            so that none is smaller.
    """

    def updates_of_epoch(epoch: int) -> Updates:
        updates: Updates = []
        update: list[int] = []
        groups = 0
        for members in _shuffled_groups(rows, seed, epoch, "trajectories", False):
            update, groups = update + members, groups + 1
            if groups >= trajectories and len(update) >= (examples or 0):
                updates.append(update)
                update, groups = [], 0
        if update and updates and examples:
            updates[-1] = updates[-1] + update
        elif update:
            updates.append(update)
        return updates

    return _limit(map(updates_of_epoch, count()), epochs, max_steps)


def by_mini_batches(rows: Sequence[Row], number: int, epochs: float, max_steps: int | None, seed: int) -> Updates:
    """Return updates, `number` of them an epoch, among which the groups of every kind of rows are divided evenly.

    So examples that come beside others come beside them in every update, if two groups have the same kinds or none in
    common. An epoch has fewer updates where fewer groups have rows of some kind.

    Args:
        epochs, max_steps, seed: As in `by_examples`.
    """

    def by_kinds(epoch: int) -> list[list[int]]:
        groups = _shuffled_groups(rows, seed, epoch, "trajectories", False)
        return sorted(groups, key=lambda members: sorted({rows[i].kind for i in members}))

    groups_with = Counter(kind for members in by_kinds(0) for kind in {rows[i].kind for i in members})
    number = min([number, *groups_with.values()])

    def updates_of_epoch(epoch: int) -> Updates:
        groups = by_kinds(epoch)
        return [list(chain.from_iterable(groups[i::number])) for i in range(number)]

    return _limit(map(updates_of_epoch, count()), epochs, max_steps)


def _limit(epoch_updates: Iterator[Updates], epochs: float, max_steps: int | None) -> Updates:
    """Return the first `max_steps` updates or, without that, those of `epochs`, rounded up, one at least."""
    updates: Updates = []
    for epoch, candidates in enumerate(epoch_updates):
        if max_steps:
            updates += candidates[: max_steps - len(updates)]
            if len(updates) == max_steps:
                break
        else:
            share = min(1.0, epochs - epoch)
            updates += candidates[: max(not updates, math.ceil(round(share * len(candidates), 6)))]  # 0.28 * 25 is 7
            if epoch + 1 >= epochs:
                break
    return updates


def by_targets(
    rows: Sequence[Row], updates: int, targets: int, seed: int, shuffle: str = "trajectories", mixed: bool = False
) -> Updates:
    """Return `updates` updates with `targets` target tokens in all; each has as many, but for part of its last row.

    Each update ends where the target tokens so far are nearest to its share of them, and has one row at least. `seed`,
    `shuffle` and `mixed` are those of `epoch_order`.
    """
    stream = (i for epoch in count() for i in epoch_order(rows, seed, epoch, shuffle, mixed))
    chosen: Updates = []
    tokens = 0
    row = next(stream)
    for k in range(1, updates + 1):
        update: list[int] = []
        goal = targets * k / updates
        while not update or abs(tokens + rows[row].n_targets - goal) <= abs(tokens - goal):
            update.append(row)
            tokens += rows[row].n_targets
            row = next(stream)
        chosen.append(update)
    return chosen


def epoch_ends(updates: Updates, rows: int) -> list[int]:
    """Return the updates, from 1, after which all of `rows` rows have been gone through once more."""
    ends, rows_before = [], 0
    for step, update in enumerate(updates, 1):
        if (rows_before + len(update)) // rows > rows_before // rows:
            ends.append(step)
        rows_before += len(update)
    return ends


def distribute(rows: Sequence[Row], packing: Packing, budget: int, processes: int) -> list[list[list[Row]]]:
    """Cut the rows of one update into passes, and give each process as many of them.

    Passes are made small enough for every process to have some, but not smaller than the longest row, which takes one
    process its time anyway: rows that continue each other would share nothing any more. Where the number of passes is
    no multiple of the processes', some repeat the smallest with weight 0: every process takes part in every pass.

    Args:
        budget: Most tokens of a pass.

    Returns:
        [process][pass], the rows of each pass.
    """
    longest = max(len(row.ids) for row in rows)
    limit = min(budget, max(-(-packing.size(rows) // processes), longest))
    passes = sorted(packing.cut(rows, limit), key=packing.size, reverse=True)
    weightless = [replace(row, weight=0.0) for row in passes[-1]]
    passes += [weightless] * (-len(passes) % processes)
    return [passes[rank::processes] for rank in range(processes)]


def total_weight(rows: Iterable[Row]) -> float:
    """Return the sum of the weights of all targets of some rows, which an update's losses are divided by."""
    return sum(row.loss_weight for row in rows)


def set_shares(rows: Sequence[Row], updates: Updates, shares: Mapping[str, float]) -> None:
    """Scale the weights of rows by kind, so that over all updates each kind in `shares` has its share of the weight.

    The kinds that are not named have the rest, in the proportions they had.

    Raises:
        UsageError: A kind that is named is in no update, or no other kind is.
    """
    weights = _weights_of_kinds(rows, updates)
    for kind, share in shares.items():
        if not weights.get(kind):
            kinds = ", ".join(kind for kind, weight in weights.items() if weight)
            raise UsageError(f"--share {kind}={share:g}: no update has an example of this kind; kinds: {kinds}")
    rest = sum(weight for kind, weight in weights.items() if kind not in shares)
    if not rest:
        raise UsageError(f"--share {', '.join(shares)}: there are no other kinds for the rest of the loss")
    whole = rest / (1 - sum(shares.values()))
    for row in rows:
        if row.kind in shares:
            row.weight *= shares[row.kind] * whole / weights[row.kind]


def _weights_of_kinds(rows: Sequence[Row], updates: Updates) -> dict[str, float]:
    """Return the weight of the targets of each kind over all updates."""
    weights: dict[str, float] = {}
    for i in chain.from_iterable(updates):
        weights[rows[i].kind] = weights.get(rows[i].kind, 0.0) + rows[i].loss_weight
    return weights


def loss_shares(rows: Sequence[Row], updates: Updates, update_weight: float | None) -> dict[str, float]:
    """Return the share of the loss that each kind has in a run, by the weights of its targets.

    Args:
        rows, updates: Those of the run.
        update_weight: What the losses of every update are divided by; None for the weight of its own targets.
    """
    shares: dict[str, float] = {}
    for update in updates:
        whole = update_weight or total_weight(rows[i] for i in update)
        for i in update:
            shares[rows[i].kind] = shares.get(rows[i].kind, 0.0) + rows[i].loss_weight / whole / len(updates)
    return {kind: round(share, 6) for kind, share in sorted(shares.items())}

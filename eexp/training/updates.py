"""Which examples make an update, and what each process computes of it.

A run is a list of updates, known before it starts: it can be counted, shown, and gone on with at any place. Consecutive
rows make an update. By trajectories, an update holds what shares: groups come in another order every epoch, the rows of
a group in the order of their tokens. By examples, all rows are shuffled: what is left to share is less, and an update
is a fairer sample of the data.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

from eexp.training.data import Row
from eexp.training.packing import Packing

Updates = list[list[int]]  # indices of rows


def in_order(rows: Sequence[Row], seed: int, epoch: int, shuffle: str = "trajectories") -> list[int]:
    """All rows once: groups shuffled, within a group by their tokens; or all rows shuffled."""
    groups: dict[object, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if row.group is None or shuffle == "examples" else row.group, []).append(i)
    shuffled = [sorted(members, key=lambda i: rows[i].ids) for members in groups.values()]
    random.Random(f"{seed}/{epoch}").shuffle(shuffled)
    return [i for members in shuffled for i in members]


def by_examples(rows: Sequence[Row], batch_size: int, epochs: float, max_steps: int | None, seed: int,
                shuffle: str = "trajectories") -> Updates:  # fmt: skip
    """Updates of `batch_size` rows, the last of an epoch with what is left; `max_steps` of them, or `epochs` full."""
    updates = max_steps or max(1, math.ceil(round(epochs * math.ceil(len(rows) / batch_size), 6)))  # 0.28 * 25 is 7
    return list(islice(_batches(rows, batch_size, seed, shuffle), updates))


def _batches(rows: Sequence[Row], batch_size: int, seed: int, shuffle: str) -> Iterator[list[int]]:
    for epoch in count():
        order = in_order(rows, seed, epoch, shuffle)
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))


def by_targets(rows: Sequence[Row], updates: int, targets: int, seed: int, shuffle: str = "trajectories") -> Updates:
    """`updates` updates with `targets` target tokens in all, the same number in each but for the last example's part.

    Each ends where the target tokens so far are nearest to its share of them, and has one row at least.
    """
    stream = (i for epoch in count() for i in in_order(rows, seed, epoch, shuffle))
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


def deal(rows: Sequence[Row], packing: Packing, budget: int, world: int) -> list[list[list[Row]]]:
    """The parts of one update that each of `world` processes computes: [process][pass], as many passes for each.

    Parts are made small enough to go round, but not smaller than the longest row, for which some process takes its time
    anyway: rows that go on from each other would share nothing any more.
    Where parts do not go round, a process repeats the smallest with weight 0: every process takes part in every pass.
    """
    longest = max(len(row.ids) for row in rows)
    room = min(budget, max(-(-packing.size(rows) // world), longest))
    parts = sorted(packing.cut(rows, room), key=packing.size, reverse=True)
    idle = [replace(row, weight=0.0) for row in parts[-1]]
    parts += [idle] * (-len(parts) % world)
    return [parts[rank::world] for rank in range(world)]


def weight_of(rows: Sequence[Row]) -> float:
    """What the losses of some rows are divided by: the weights of all their targets."""
    return sum(row.loss_weight for row in rows)

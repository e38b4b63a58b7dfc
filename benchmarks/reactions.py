"""Count what suffices for how many tasks of `reactions`: the demonstrations, and the alternatives executed beside them.

    python benchmarks/reactions.py --tables 5 --demonstrations 24

A test task counts as explained if a way of two operations consists of outcomes that the data contain. Random play is
counted exactly, over all pairs of operations.
"""

from __future__ import annotations

import argparse
import random
from statistics import mean

from eexp.envs.worlds import reactions as world

Edges = dict[tuple[int, int], int]


def solves(table: Edges, start: int, goal: int) -> bool:
    """Return whether one or two known operations make `goal` of `start`."""
    first = {table[start, o] for o in range(world.OPERATIONS) if (start, o) in table}
    return goal in first or any(table.get((thing, o)) == goal for thing in first for o in range(world.OPERATIONS))


def random_play(table: Edges, start: int, goal: int) -> float:
    """Return the probability that two random operations make `goal` of `start` on the way or at the end."""
    total = 0
    for first in range(world.OPERATIONS):
        thing = table[start, first]
        if thing == goal:
            total += world.OPERATIONS
        elif thing != world.RUINED:
            total += sum(table[thing, second] == goal for second in range(world.OPERATIONS))
    return total / world.OPERATIONS**2


def count(number: int, demonstrations: int, k: int) -> tuple[float, float, float]:
    """Return the shares of test tasks that random play solves, and that both sets of outcomes explain."""
    table, tasks, rng = world.table_of(number), world.tasks_of(number), random.Random(number)
    shown: Edges = {}
    executed: Edges = {}
    for start, goal in tasks[:demonstrations]:
        thing = start
        for operation in world.shortest_way(table, start, goal, world.STEPS) or []:
            shown[thing, operation] = table[thing, operation]
            others = [o for o in range(world.OPERATIONS) if o != operation]
            executed.update({(thing, o): table[thing, o] for o in rng.sample(others, k)})
            thing = table[thing, operation]
    executed.update(shown)
    test = tasks[world.TRAIN :]
    return (
        mean(random_play(table, *task) for task in test),
        mean(solves(shown, *task) for task in test),
        mean(solves(executed, *task) for task in test),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=5)
    parser.add_argument("--demonstrations", type=int, default=24)
    args = parser.parse_args()
    print("table  test tasks  random play  demonstrations suffice  with K = 1  K = 2  K = 5  K = 6")
    for number in range(args.tables):
        rows = [count(number, args.demonstrations, k) for k in (1, 2, 5, 6)]
        shares = "  ".join(f"{row[2]:6.1%}" for row in rows)
        tasks = len(world.tasks_of(number)) - world.TRAIN
        print(f"{number:5}  {tasks:10}  {rows[0][0]:11.1%}  {rows[0][1]:22.1%}  {shares}")


if __name__ == "__main__":
    main()

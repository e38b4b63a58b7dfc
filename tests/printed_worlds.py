"""Two games that the rules for reflections were not written for: a printed board to cross, and a number to guess."""

from __future__ import annotations

from eexp.envs.base import Environment, Observation
from eexp.records.record import seed_of

SIZE = 4
MOVES = {"[up]": (-1, 0), "[down]": (1, 0), "[left]": (0, -1), "[right]": (0, 1)}


class Ice(Environment):
    """A board with holes (H) to cross from the start to the goal (G); P is the player."""

    def splits(self):
        return ["train"]

    def tasks(self, split):
        self.check_split(split)
        for n in range(60):
            task = {"id": str(n), "split": "train"}
            self.reset(task)
            if self._way():
                yield task

    def instruction(self):
        return "Cross the grid from the start to the goal and avoid the holes. Answer with a move in square brackets."

    def reset(self, task):
        cells = [(row, column) for row in range(SIZE) for column in range(SIZE)]
        holes = sorted(cells[1:-1], key=lambda cell: seed_of(task["id"], *cell))[:4]
        self.player, self.holes, self.over = (0, 0), set(holes), False
        return Observation(self._board())

    def _board(self):
        mark = lambda cell: "P" if cell == self.player else "H" if cell in self.holes else "."  # noqa: E731
        rows = [" ".join(mark((row, column)) for column in range(SIZE)) for row in range(SIZE)]
        return "\n".join(["Current board:", *rows[:-1], rows[-1][:-1] + "G"])

    def _way(self):
        frontier, ways = [self.player], {self.player: []}
        for cell in frontier:
            for move, (down, right) in MOVES.items():
                following = cell[0] + down, cell[1] + right
                if {*following} <= {*range(SIZE)} and following not in ways and following not in self.holes:
                    ways[following] = [*ways[cell], move]
                    frontier.append(following)
        return ways.get((SIZE - 1, SIZE - 1))

    def step(self, action):
        if self.over or action not in MOVES:
            return Observation("That is no move.", done=self.over, valid=False)
        down, right = MOVES[action]
        following = self.player[0] + down, self.player[1] + right
        if not {*following} <= {*range(SIZE)}:
            return Observation(self._board(), valid=False)
        self.player, success = following, following == (SIZE - 1, SIZE - 1)
        self.over = success or following in self.holes
        return Observation(self._board(), done=self.over, success=success)

    def admissible(self):
        return [] if self.over else list(MOVES)

    def expert(self):
        return None if self.over else self._way()[0]


class Number(Environment):
    """A number from 1 to 8 to guess, by an expert who halves the range."""

    def splits(self):
        return ["train"]

    def tasks(self, split):
        self.check_split(split)
        return ({"id": str(n), "split": "train"} for n in range(1, 9))

    def instruction(self):
        return "Guess the number. Each guess is told to be too low or too high."

    def reset(self, task):
        self.number, self.low, self.high, self.over = int(task["id"]), 1, 8, False
        return Observation("The game begins.")

    def step(self, action):
        guess = int(action.removeprefix("guess "))
        self.over = guess == self.number
        self.low = max(self.low, guess + 1) if guess < self.number else self.low
        self.high = min(self.high, guess - 1) if guess > self.number else self.high
        text = "Right." if self.over else f"Too {'low' if guess < self.number else 'high'}."
        return Observation(text, done=self.over, success=self.over)

    def expert(self):
        return None if self.over else f"guess {(self.low + self.high) // 2}"

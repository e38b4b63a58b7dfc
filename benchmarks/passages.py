"""Write made-up passages and questions for `searchqa`, to measure searches in a large collection.

    python benchmarks/passages.py 200000 DIR
    python benchmarks/environments.py 'searchqa?passages=DIR/passages.jsonl&questions=DIR/train.jsonl'

A passage has 90 words: 40 of fourteen very common ones, and 50 out of 60,000 made-up words whose numbers
follow Zipf's law. A question has 7 made-up words and 9 common ones.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import accumulate
from pathlib import Path

COMMON = ["the", "of", "in", "and", "a", "to", "was", "is", "for", "on", "by", "with", "at", "which"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main(n_passages: int, directory: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(4, 9))) for _ in range(60_000)]
    weights = list(accumulate(1 / (rank + 20) for rank in range(len(words))))
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "passages.jsonl", "w") as file:
        for number in range(n_passages):
            text = [*rng.choices(words, cum_weights=weights, k=50), *rng.choices(COMMON, k=40)]
            rng.shuffle(text)
            record = {"id": str(number), "title": " ".join(text[:2]), "text": " ".join(text)}
            file.write(f"{json.dumps(record)}\n")
    with open(directory / "train.jsonl", "w") as file:
        for number in range(60):
            name, *others = rng.choices(words, cum_weights=weights, k=7)
            question = f"which {' '.join(others)} of the town in which the {name} was born and is"
            file.write(f"{json.dumps({'id': str(number), 'question': question, 'answers': ['none']})}\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(int(sys.argv[1]), Path(sys.argv[2]))

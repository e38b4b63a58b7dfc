"""Make TextWorld games for `textworld?games=DIR`: DIR/train, DIR/valid and DIR/test, the same files every time.

    python recipes/textworld/make_games.py games                          # 24 + 8 + 8 games, a minute and a half
    python recipes/textworld/make_games.py games --train 200 --kinds cooking,treasure
    eexp expert 'textworld?games=games' > expert.jsonl

The kinds take turns, and so do the settings of a kind, so that any beginning of a split has something of each. A game's
seed comes from its split, kind and number, so that more games change none of those before them. `cooking` keeps foods
aside for the valid and test splits, and `simple` keeps names of objects aside.

Two things would change a file from run to run, and with it the checksum that records carry. The package iterates over
sets, whose order depends on PYTHONHASHSEED; so this script starts itself again with PYTHONHASHSEED=0. The compiler
writes the date into the file; it is overwritten.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

#: kind -> (the package's challenge, its settings in turn); `custom` has settings of the generator itself
KINDS = {
    "treasure": ("tw-treasure_hunter", [{"level": level} for level in (4, 12, 8, 16, 22)]),
    "coin": ("tw-coin_collector", [{"level": level} for level in (3, 104, 6, 108)]),
    "custom": (
        "",
        [
            {"nb_rooms": rooms, "nb_objects": objects, "quest_length": length}
            for rooms, objects, length in ((1, 4, 3), (3, 6, 4), (5, 10, 5), (6, 12, 7))
        ],
    ),
    "cooking": (
        "tw-cooking",
        [
            {"recipe": 1, "take": 1, "go": 1, "open": False, "cook": False, "cut": False},
            {"recipe": 1, "take": 1, "go": 6, "open": True, "cook": True, "cut": False},
            {"recipe": 2, "take": 2, "go": 6, "open": True, "cook": True, "cut": True},
            {"recipe": 3, "take": 2, "go": 9, "open": True, "cook": True, "cut": True},
        ],
    ),
    "simple": (
        "tw-simple",
        [{"rewards": rewards, "goal": goal} for rewards, goal in (("dense", "detailed"), ("balanced", "brief"))],
    ),
}
_SERIAL = slice(0x12, 0x18)  # the date of compilation in a story file; not part of its own checksum


def make(directory: Path, split: str, kind: str, number: int, seed: int = 0) -> Path:
    """Generate and compile game `number` of its kind, unless it exists. Takes 1 to 6 seconds."""
    from textworld.challenges import CHALLENGES
    from textworld.generator import GameOptions, compile_game, make_game

    file = directory / split / f"{kind}-{number:04}.z8"
    if file.exists():
        return file
    options = GameOptions()
    options.seeds = game_seed = int(hashlib.sha256(f"{seed}/{split}/{kind}/{number}".encode()).hexdigest()[:7], 16)
    challenge, turns = KINDS[kind]
    settings = dict(turns[number % len(turns)])
    if challenge:
        settings |= {
            "tw-cooking": {"recipe_seed": game_seed, "split": split, "drop": False},
            "tw-simple": {"test": split == "test"},
        }.get(challenge, {})
        game = CHALLENGES[challenge][1](settings, options)
    else:
        for name, value in settings.items():
            setattr(options, name, value)
        game = make_game(options)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as aside:  # so that a game is complete or absent
        options.path = os.path.join(aside, file.name)
        compiled = Path(compile_game(game, options))
        story = bytearray(compiled.read_bytes())
        story[_SERIAL] = b"000000"
        compiled.write_bytes(story)
        compiled.with_suffix(".json").replace(file.with_suffix(".json"))
        compiled.replace(file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    for split, n in (("train", 24), ("valid", 8), ("test", 8)):
        parser.add_argument(f"--{split}", type=int, default=n, metavar="N", help=f"number of games (default {n})")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds, separated by commas (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one for other games (default 0)")
    chosen = parser.parse_args()
    kinds = chosen.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"no kind {unknown[0]!r}; there are: {', '.join(KINDS)}")
    for split in ("train", "valid", "test"):
        for i in range(getattr(chosen, split)):
            print(make(chosen.directory, split, kinds[i % len(kinds)], i // len(kinds), chosen.seed), file=sys.stderr)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    main()

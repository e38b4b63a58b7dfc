"""Ask bases about histories of `house`, and count the answers that are right to the last word, by kind of question.

    python recipes/tiny/reading_exam.py bases/reader

The histories are of houses that no study uses, half of the actions the expert's, the others any; no base is trained on
them. A base that has never heard a question of some kind gets it wrong.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

import torch
from reading import STYLE, Branch, History, remember
from transformers import AutoModelForCausalLM, AutoTokenizer

LENGTHS = (0, 1, 2, 4, 8, 14, 22)  # actions before the questions


def prompt(history: History, branch: Branch) -> str:
    """Return the text before the answer to a question at the end of a history."""
    text = f"<|system|>{STYLE.acting.system}<|end|>"
    for n, turn in enumerate(history.turns):
        label = "" if n else f"{STYLE.acting.task_label} {history.instruction}\n"
        text += f"<|user|>{label}{turn.observation}"
        if turn.action:
            text += f"<|end|><|assistant|>{STYLE.answer(turn.action).text}<|end|>"
    return f"{text}{branch.asked}<|end|><|assistant|>{branch.begun}"


@torch.no_grad()
def examine(base: Path, histories: list[History]) -> dict[str, list[bool]]:
    """Return whether each answer is right, by kind."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    verdicts: dict[str, list[bool]] = {}
    for history in histories:
        for branch in history.turns[-1].branches:
            begun = tokenizer(prompt(history, branch), add_special_tokens=False)["input_ids"]
            answer = tokenizer(f"{branch.answer}<|end|>", add_special_tokens=False)["input_ids"]
            hidden = model.model(torch.tensor([begun + answer]), use_cache=False)[0][0, len(begun) - 1 : -1]
            best = model.lm_head(hidden).argmax(-1).tolist()
            verdicts.setdefault(branch.kind, []).append(best == answer)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", type=Path, nargs="+")
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--questions", type=int, default=12, help="questions about each")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(f"reading/{args.seed}")
    histories = [
        remember(rng.randrange(10**5), rng, rng.choice(LENGTHS), args.questions, last=True)
        for _ in range(args.histories)
    ]
    kinds = Counter(branch.kind for history in histories for branch in history.turns[-1].branches)
    columns = [examine(base, histories) for base in args.bases]
    print(" ".join(f"{base.name:>12}" for base in args.bases), "  asked")
    for kind in sorted(kinds):
        print(" ".join(f"{sum(c[kind]) / len(c[kind]):12.1%}" for c in columns), f"{kinds[kind]:7}  {kind}")
    every = [[v for verdicts in c.values() for v in verdicts] for c in columns]
    print(" ".join(f"{sum(v) / len(v):12.1%}" for v in every), f"{len(every[0]):7}  all")


if __name__ == "__main__":
    main()

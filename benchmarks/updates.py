"""Measure the cost of an update, and how fair a sample it is, by the choice of its examples.

    eexp expert house -n 100 | eexp branch -k 4 --from admissible | eexp rollout > rollout.jsonl
    eexp imitation-data rollout.jsonl > il.jsonl
    eexp world-model-data rollout.jsonl > iwm.jsonl
    python benchmarks/updates.py il.jsonl iwm.jsonl

For each file and each way to choose updates, the output is the number of updates of an epoch and, on average over
updates, the examples, the tokens that are computed, and the noise: the squared distance between the gradient and that
of all examples, over the squared length of the latter. Twice as many independent examples have half the noise. The
gradient is that of all weights of the built-in model.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from eexp.models.backends.hf import load_model
from eexp.training import exact
from eexp.training.data import Row, tokenize
from eexp.training.packing import PACKINGS, target_losses
from eexp.training.updates import (
    EXAMPLES,
    TRAJECTORIES,
    Updates,
    by_examples,
    by_trajectories,
    distribute,
    total_weight,
)

TOKENS_PER_BATCH = 4096


def ways(rows: Sequence[Row]) -> dict[str, Updates]:
    """Return the updates of one epoch by the options that choose them."""
    updates = {
        "--batch-size 16 --shuffle examples": by_examples(rows, 16, 1, None, 0, "examples"),
        "--batch-size 64 --shuffle examples": by_examples(rows, 64, 1, None, 0, "examples"),
        "--batch-size 16": by_examples(rows, 16, 1, None, 0),
    }
    for n in (1, 2, 4, 8):
        updates[f"--batch-trajectories {n}"] = by_trajectories(rows, n, 1, None, 0)
    return {**updates, "default": by_trajectories(rows, TRAJECTORIES, 1, None, 0, examples=EXAMPLES)}


def gradient(model: PreTrainedModel, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
    """Return the gradient of an update of `rows`, [parameters], and the tokens that were computed for it."""
    packing, tokens = PACKINGS["tree"], 0
    (parts,) = distribute(rows, packing, TOKENS_PER_BATCH, 1)
    for part_rows in parts:
        part = packing.part(part_rows, model.device)
        ((part.weights * target_losses(model, part)).sum() / total_weight(rows)).backward()
        tokens += packing.size(part_rows)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return gradient, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="examples, as JSON lines")
    parser.add_argument(
        "--updates", type=int, default=25, help="updates of an epoch to take the means of noise and tokens over"
    )
    a = parser.parse_args()
    print(f"{platform.platform()}, torch {torch.__version__}")
    for file in a.files:
        model, tokenizer = load_model("tiny")
        examples = [json.loads(line) for line in file.read_bytes().splitlines()]
        rows = list(tokenize(examples, tokenizer, 8192))
        exact.prepare(model, rows, torch.float32, TOKENS_PER_BATCH)
        whole, _ = gradient(model, rows)
        print(f"\n{file.name}: {len(rows)} examples of {len({row.group for row in rows})} trajectories")
        print(f"{'':34} {'updates':>8} {'examples':>9} {'tokens':>7} {'noise':>7}")
        for name, updates in ways(rows).items():
            step = max(1, len(updates) // a.updates)
            chosen = updates[: step * a.updates : step]
            gradients = [gradient(model, [rows[i] for i in update]) for update in chosen]
            noise = sum(float((g - whole).square().sum() / whole.square().sum()) for g, _ in gradients) / len(gradients)
            tokens = sum(n for _, n in gradients) / len(gradients)
            print(f"{name:34} {len(updates):8} {len(rows) / len(updates):9.1f} {tokens:7.0f} {noise:7.2f}", flush=True)


if __name__ == "__main__":
    main()

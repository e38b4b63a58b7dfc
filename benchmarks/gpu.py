"""Measure prefix sharing on a CUDA GPU: is it exact in bfloat16, how fast is it, what does it take?

    python benchmarks/gpu.py                      # two models of 1 to 2 billion random weights
    python benchmarks/gpu.py --tokens 4096        # for less memory
    python benchmarks/gpu.py --cpu                # a smoke test, with tiny models in float32

The examples are made here: trajectories of 20 steps with observations of 150 tokens, and five completions of 40 tokens
at each step, of which one is continued. A LoRA adapter on all linear layers is trained. The ways to compute an update:

loop    one example at a time, with PyTorch's own attention
rows    examples padded side by side (--packing none)
masks   trees, with masks in all blocks
trees   trees as `eexp finetune` computes them: long lines without a mask, where the GPU can

Loss and gradient of each are compared with those of the loop, on a few examples, and so is the loop in bfloat16 with
the loop in float32, which says what bfloat16 alone loses. Then an update is timed: seconds (the median of three, after
one that is not counted), tokens that are computed, their share of the GPU's peak (4 floating-point operations for each
weight and token, since frozen weights take no gradient; attention not counted; --peak in TFLOPS), and the highest
memory.

TRL is not part of this; benchmarks/training.py compares with it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from array import array
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from eexp.training import attention, exact
from eexp.training.data import Row
from eexp.training.packing import PACKINGS, target_losses

MODELS = {
    "Llama": dict(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
    ),
    "Qwen3": dict(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
    ),
}
TINY = dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
VOCABULARY = 32_000
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "4090": 165.0}  # TFLOPS, bfloat16


def make_rows(trajectories: int, steps: int, observation: int, completion: int, seed: int = 0) -> list[Row]:
    """Return the examples of random trajectories: five completions at each step, the first of which is continued."""
    rng = random.Random(seed)
    rows = []
    for n in range(trajectories):
        history: list[int] = []
        for _ in range(steps):
            history += rng.choices(range(VOCABULARY), k=observation)
            completions = [rng.choices(range(VOCABULARY), k=completion) for _ in range(5)]
            rows += [Row(array("i", history + text), len(history), 1.0, str(n)) for text in completions]
            history += completions[0]
    return rows


def make_model(family: str, sizes: dict[str, int], dtype: torch.dtype, device: str) -> Any:
    """Return a random model with an adapter whose weights are not zero."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, max_position_embeddings=32_768, tie_word_embeddings=True, pad_token_id=0, **sizes
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(device, dtype)
    adapter = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, adapter).train()


def parts_of(rows: list[Row], packing: str, tokens: int) -> Iterator[list[Row]]:
    """Yield the rows of each pass."""
    return PACKINGS[packing].cut(rows, tokens)


def compute(model: Any, rows: list[Row], packing: str, tokens: int, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
    """Compute one update; returns its mean loss and its gradient."""
    weight = sum(row.loss_weight for row in rows)
    total = 0.0
    for part_rows in parts_of(rows, packing, tokens):
        part = PACKINGS[packing].part(part_rows, model.device)
        with torch.autocast(model.device.type, dtype, enabled=dtype.itemsize < 4):
            loss = (part.weights * target_losses(model, part)).sum() / weight
        loss.backward()
        total += float(loss.detach())
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return total, gradient


def difference(a: tuple[float, torch.Tensor], b: tuple[float, torch.Tensor]) -> dict[str, float]:
    """Return the relative differences of two losses and of two gradients."""
    return {"loss": abs(a[0] - b[0]) / b[0], "gradient": float((a[1] - b[1]).norm() / b[1].norm())}


def measure(model: Any, rows: list[Row], packing: str, tokens: int, dtype: torch.dtype, peak: float | None) -> dict:
    """Return the time, the tokens and the memory of an update."""
    cuda = model.device.type == "cuda"
    times = []
    for _ in range(4):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        compute(model, rows, packing, tokens, dtype)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds = median(times[1:])
    computed = sum(PACKINGS[packing].size(part) for part in parts_of(rows, packing, tokens))
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    result = {"seconds": round(seconds, 3), "tokens": computed, "tokens_per_second": round(computed / seconds)}
    if peak:
        result["utilisation"] = round(4 * weights * computed / seconds / (peak * 1e12), 3)
    if cuda:
        result["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return result


def main() -> None:
    """Measure each model in each way, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="Tiny models on the CPU.")
    parser.add_argument("--tokens", type=int, default=8192, help="Tokens of a pass.")
    parser.add_argument("--peak", type=float, help="The GPU's TFLOPS in bfloat16, if its name does not say.")
    options = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if options.cpu else ("cuda", torch.bfloat16)
    shape = (1, 4, 20, 10) if options.cpu else (2, 20, 150, 40)
    few, rows = make_rows(1, *shape[1:])[: 10 if options.cpu else 30], make_rows(*shape)
    name = "cpu" if options.cpu else torch.cuda.get_device_name()
    peak = options.peak or next((value for key, value in PEAKS.items() if key in name), None)
    takes_lines = attention.takes_lines
    print(json.dumps({"device": name, "torch": torch.__version__, "transformers": transformers.__version__}))
    for family, sizes in MODELS.items():
        sizes = TINY if options.cpu else sizes
        precise = make_model(family, sizes, torch.float32, device)
        reference = compute(precise, few, "none", 1, torch.float32)
        del precise
        model = make_model(family, sizes, dtype, device)
        loop = compute(model, few, "none", 1, dtype)
        print(json.dumps({"model": family, "way": "loop", "against": "float32", **difference(loop, reference)}))
        for way in ("rows", "masks", "trees"):
            packing = "none" if way == "rows" else "tree"
            attention.takes_lines = takes_lines if way == "trees" else lambda query: False
            if way == "masks":
                exact.prepare(model, few, dtype, options.tokens)
            error = difference(compute(model, few, packing, options.tokens, dtype), loop)
            cost = measure(model, rows, packing, options.tokens, dtype, peak)
            print(json.dumps({"model": family, "way": way, "against": "loop", **error, **cost}), flush=True)
        del model
        attention.takes_lines = takes_lines


if __name__ == "__main__":
    main()

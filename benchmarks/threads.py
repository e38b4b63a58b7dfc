"""Measure how fast small models are with one thread and with all cores, in llama.cpp and in training.

    python benchmarks/threads.py [--sizes 1 5 10 25 60] [--runs 12] [--train]

The models are Llamas with random weights of about SIZES million parameters, in half precision. A run draws one text of
24 tokens, one token at a time, which is what episodes do most. The fastest run is the one that other work of the
machine disturbed least; the median says what a machine costs that does other work, too. With --train, an update of
PyTorch on 8 rows of 256 tokens is measured in the same way, in float32.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from eexp.gguf.export import export
from eexp.models import Engine, open_model
from eexp.models.base import Draw
from eexp.records.runs import built_in_directory
from eexp.system.cores import usable_cores

#: Width and number of layers of a model, by its size in millions.
SHAPES = {1: (128, 4), 5: (256, 6), 10: (320, 8), 25: (512, 8), 60: (640, 12), 135: (768, 20)}


def make(size: int, directory: Path) -> int:
    """Write a model with random weights and the tokenizer of the built-in one; return its number of parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    width, layers = SHAPES[size]
    tokenizer = AutoTokenizer.from_pretrained(built_in_directory("tiny"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return sum(p.numel() for p in model.parameters())


def drawing(file: Path, threads: int) -> Callable[[], float]:
    """Return a function that draws a text with a model, and returns milliseconds a token."""
    model = open_model(str(file), Engine(threads=threads))

    def run() -> float:
        began = time.perf_counter()
        (samples,) = model.ask([Draw([{"role": "user", "content": "Go on."}], max_tokens=24, seed=1)])
        return 1000 * (time.perf_counter() - began) / (samples[0].tokens + 1)

    return run


def training(directory: Path, threads: int) -> Callable[[], float]:
    """Return a function that makes an update on 8 rows of 256 tokens, and returns its milliseconds."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    rows = torch.randint(0, model.config.vocab_size, (8, 256), generator=torch.Generator().manual_seed(0))

    def run() -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        model(input_ids=rows, labels=rows).loss.backward()
        model.zero_grad()
        return 1000 * (time.perf_counter() - began)

    return run


def compare(name: str, parameters: int, runs: dict[int, Callable[[], float]], n: int, unit: str) -> None:
    """Measure in turns, and print a line."""
    durations: dict[int, list[float]] = {threads: [] for threads in runs}
    for number in range(n + 1):
        for threads, run in runs.items():
            duration = run()
            if number:  # the first one warms up
                durations[threads].append(duration)
    parts = [
        f"{threads} thread{'s' * (threads > 1)}: fastest {min(d):.3g}, median {statistics.median(d):.3g}"
        for threads, d in durations.items()
    ]
    print(f"{name} {parameters / 1e6:6.1f} million parameters, {unit}  {'; '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 10, 25], choices=SHAPES)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args()
    cores = usable_cores()
    print(f"{platform.platform()}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as here:
        for size in options.sizes:
            directory, file = Path(here, str(size)), Path(here, f"{size}.gguf")
            parameters = make(size, directory)
            export(directory, file)
            runs = {threads: drawing(file, threads) for threads in dict.fromkeys((1, cores))}
            compare("draw", parameters, runs, options.runs, "ms a token")
            if options.train:
                runs = {threads: training(directory, threads) for threads in dict.fromkeys((1, cores))}
                compare("train", parameters, runs, options.runs, "ms an update")


if __name__ == "__main__":
    main()

"""Print the memory that training takes: by estimate for models of 7 billion weights, for a small one measured too.

    pip install bitsandbytes
    python benchmarks/memory.py                 # the whole table: minutes, and 2 GB
    python benchmarks/memory.py --tokens 8192   # passes of so many tokens: four times as long, and 8 GB
    python benchmarks/memory.py --paper-only    # the estimates for 7B: seconds, and no memory

The estimate is that of `eexp finetune --dry-run` (eexp/training/memory.py). First it is held against measurement: a
random Llama of 58 million parameters, with the vocabulary of Llama 2, learns from house trajectories in passes of
2,048 tokens, or as many as --tokens says. Each way runs in a process of its own, for two updates, since AdamW has its
moments after the first. Measured is the highest resident set, less that before the model is loaded, with freed memory
returned to the system at once, as a run does where memory is short. Goal: at most 20 % apart. Where there is plenty, a
run keeps what it frees, and takes up to twice as much.

Then it is printed for the shapes of Llama 2 7B and Qwen 2.5 7B, whose weights are never made, at 8,192 tokens a pass,
with an adapter of rank 16 on all linear layers; a tenth of the tokens are targets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOKENS, PAPER_TOKENS, TARGETS = 2048, 8192, 0.1
WAYS: dict[str, dict] = {
    "LoRA, float32": {"dtype": "float32"},
    "LoRA, bfloat16": {"dtype": "bfloat16"},
    "LoRA, NF4, float32": {"dtype": "float32", "load_in_4bit": True},
    "LoRA, NF4, bfloat16": {"dtype": "bfloat16", "load_in_4bit": True},
    "all, float32": {"dtype": "float32", "full": True},
    "all, bfloat16": {"dtype": "bfloat16", "full": True},
}
PARTS = ("weights", "gradients", "optimiser", "activations")


def make_model(directory: Path) -> None:
    """Write a random Llama of 58 million parameters, with the tokenizer of the built-in model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from eexp.records.runs import TINY_DIR

    AutoTokenizer.from_pretrained(TINY_DIR).save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    logging.disable_progress_bar()
    LlamaForCausalLM(config).save_pretrained(directory)


def make_examples(file: Path) -> None:
    """Write world-model examples of house, which share less than those of imitation."""
    records = b""
    for stage in ("expert house -n 16", "branch -k 4 --from admissible", "rollout", "world-model-data"):
        command = [sys.executable, "-m", "eexp", *stage.split(), "-q"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        records = subprocess.run(command, check=True, input=records, stdout=subprocess.PIPE, env=environment).stdout
    file.write_bytes(records)


def measure(way: str, directory: Path, examples: Path, tokens: int) -> dict:
    """Train for two updates; return the estimate and the memory that was taken, in bytes."""
    from eexp.training import memory
    from eexp.training.finetune import finetune
    from eexp.training.job import ExampleSource
    from eexp.training.memory import estimate_job
    from eexp.training.plan import plan_job
    from eexp.training.settings import Settings

    settings = Settings(
        str(directory),
        max_steps=2,
        batch_trajectories=tokens // 1024,
        tokens_per_batch=tokens,
        save_every=10**9,
        **WAYS[way],
    )
    records = [json.loads(line) for line in examples.read_bytes().splitlines()]
    child = os.fork()  # it estimates, and loads the model for that
    if not child:
        job = plan_job(ExampleSource(records), settings, None, None)
        (examples.parent / "estimate").write_text(
            json.dumps({**estimate_job(job), "tokens": job.run["trained"]["largest_pass"]})
        )
        os._exit(0)
    os.waitpid(child, 0)
    memory.PLENTY = float("inf")
    before = _resident()
    with tempfile.TemporaryDirectory() as out:
        finetune(records, Path(out) / "run", settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"measured": peak - before, **json.loads((examples.parent / "estimate").read_text())}


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def on_paper(name: str, way: str) -> dict[str, int]:
    """Return the estimate for a model of 7 billion weights, by what they hold, in bytes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    from eexp.training.memory import estimate

    configs = {
        "Llama 2 7B": LlamaConfig(),  # its defaults are this model
        "Qwen 2.5 7B": Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        ),
    }
    options = WAYS[way]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configs[name])
        if not options.get("full"):
            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    dtype, four_bit = getattr(torch, options["dtype"]), options.get("load_in_4bit", False)
    sizes = {
        checkpointing: estimate(model, PAPER_TOKENS, TARGETS, dtype, four_bit=four_bit, checkpointing=checkpointing)
        for checkpointing in (False, True)
    }
    return {
        **sizes[False],
        "together": sum(sizes[False].values()),
        "checkpointed": sum(sizes[True].values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--paper-only", action="store_true", help="print the estimates for 7B, and measure nothing")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="most tokens of a pass that is measured")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(a.one, a.directory / "model", a.directory / "examples.jsonl", a.tokens)))
        return
    print(f"$ python benchmarks/memory.py {' '.join(sys.argv[1:])}".rstrip())
    if not a.paper_only:
        _print_measured(a.ways, a.tokens)
    for name in ("Llama 2 7B", "Qwen 2.5 7B"):
        print(f"\n{name}, {PAPER_TOKENS:,} tokens a pass, by estimate, in GB; with --gradient-checkpointing at the end")
        print(f"{'':22}" + "".join(f"{part:>13}" for part in (*PARTS, "together", "checkpointed")))
        for way in a.ways:
            sizes = on_paper(name, way)
            columns = (sizes[part] for part in (*PARTS, "together", "checkpointed"))
            print(f"{way:22}" + "".join(f"{size / 1e9:13.1f}" for size in columns))


def _print_measured(ways: list[str], tokens: int) -> None:
    """Measure each way in a process of its own, and print it next to its estimate."""
    print(f"{platform.platform()}, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads")
    with tempfile.TemporaryDirectory() as directory:
        model, examples = Path(directory) / "model", Path(directory) / "examples.jsonl"
        make_model(model)
        make_examples(examples)
        print(f"58 million weights, {tokens:,} tokens a pass, in MB")
        print(f"{'':22}" + "".join(f"{part:>13}" for part in (*PARTS, "together", "measured", "apart")))
        for way in ways:
            command = [sys.executable, __file__, "--one", way, "--directory", directory, "--tokens", str(tokens)]
            env = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                "HF_HUB_OFFLINE": "1",
            }
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
            sizes = json.loads(process.stdout.splitlines()[-1])
            together = sum(sizes[part] for part in PARTS)
            columns = [*(sizes[part] for part in PARTS), together, sizes["measured"]]
            print(
                f"{way:22}"
                + "".join(f"{size / 1e6:13.0f}" for size in columns)
                + f"{100 * (together / sizes['measured'] - 1):+12.0f} %",
                flush=True,
            )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

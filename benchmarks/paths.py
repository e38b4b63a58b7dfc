"""Train in every number format and way of sharing work that `eexp finetune` has, on CPUs, and compare with float32.

    pip install bitsandbytes
    python benchmarks/paths.py

The model and the examples are those of benchmarks/memory.py: a random Llama of 58 million parameters, and house. Each
way makes the same two updates, in processes of its own. Printed are the losses of the updates; how far the worst of
them is from that of float32 in one process, in relation; the distance of the saved weights from that run's, in relation
to their length; the memory of a process, as in benchmarks/memory.py; and seconds an update. Goal: FSDP2 and DDP in
float32 at most 1e-5 from one process.
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
import time
from pathlib import Path

from memory import make_examples, make_model

ROOT = Path(__file__).parent.parent
UPDATES = 2
# Settings, and how many processes train in which way.
WAYS: dict[str, tuple[dict, int, str]] = {
    "LoRA, float32": ({"dtype": "float32"}, 1, ""),
    "LoRA, bfloat16": ({"dtype": "bfloat16"}, 1, ""),
    "LoRA, NF4, float32": ({"dtype": "float32", "load_in_4bit": True}, 1, ""),
    "LoRA, NF4, bfloat16": ({"dtype": "bfloat16", "load_in_4bit": True}, 1, ""),
    "LoRA, float32, DDP": ({"dtype": "float32"}, 2, "--multi_gpu"),
    "LoRA, NF4, DDP": ({"dtype": "float32", "load_in_4bit": True}, 2, "--multi_gpu"),
    "LoRA, float32, FSDP2": ({"dtype": "float32"}, 2, "--use_fsdp"),
    "LoRA, bfloat16, FSDP2": ({"dtype": "bfloat16"}, 2, "--use_fsdp"),
    "all, float32": ({"dtype": "float32", "full": True}, 1, ""),
    "all, bfloat16": ({"dtype": "bfloat16", "full": True}, 1, ""),
    "all, float32, FSDP2": ({"dtype": "float32", "full": True}, 2, "--use_fsdp"),
    "all, bfloat16, FSDP2": ({"dtype": "bfloat16", "full": True}, 2, "--use_fsdp"),
}
LAUNCH = "--num_machines=1 --mixed_precision=no --dynamo_backend=no --main_process_port=0 --num_processes"


def train(way: str, directory: Path) -> None:
    """Make the updates of one way, and write down what they cost."""
    import psutil
    import transformers

    from eexp.training import memory
    from eexp.training.finetune import finetune
    from eexp.training.settings import Settings

    cost = {}
    original = transformers.Trainer.train

    def timed(self, *args, **kwargs):
        began = time.perf_counter()
        result = original(self, *args, **kwargs)
        cost["seconds"] = (time.perf_counter() - began) / UPDATES
        return result

    transformers.Trainer.train = timed
    memory.PLENTY = float("inf")
    settings = Settings(
        str(directory / "model"),
        max_steps=UPDATES,
        batch_size=8,
        tokens_per_batch=512,
        learning_rate=1e-3 if "LoRA" in way else 1e-4,
        schedule="constant",
        warmup=0.0,
        save_every=10**9,
        **WAYS[way][0],
    )
    records = [json.loads(line) for line in (directory / "examples.jsonl").read_bytes().splitlines()]
    before = psutil.Process().memory_info().rss
    finetune(records, directory / way, settings)
    if os.environ.get("RANK", "0") == "0":
        cost["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        (directory / way / "cost.json").write_text(json.dumps(cost))


def losses(run: Path) -> list[float]:
    """Return the losses of the updates of a run."""
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_bytes().splitlines()]


def distance(run: Path, reference: Path) -> float:
    """Return the distance between the saved weights of two runs, in relation to their length."""
    from safetensors.torch import load_file

    a, b = (load_file(next(path.glob("*.safetensors"))) for path in (run, reference))
    assert a.keys() == b.keys()
    squares = sum(float((a[name] - b[name]).square().sum()) for name in a)
    return (squares / sum(float(weight.square().sum()) for weight in b.values())) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        train(a.one, a.directory)
        return
    print(f"$ python benchmarks/paths.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"{platform.platform()}, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads a process")
    print(f"{'':22} {'losses':>26} {'off by':>8} {'weights':>8} {'memory':>8} {'s/update':>8}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_model(directory / "model")
        make_examples(directory / "examples.jsonl")
        for way in a.ways:
            _, processes, kind = WAYS[way]
            command = [sys.executable]
            if processes > 1:
                version = ["--fsdp_version=2"] if kind == "--use_fsdp" else []
                command += ["-m", "accelerate.commands.launch", kind, *version, *LAUNCH.split(), str(processes)]
            env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
            own = [__file__, "--one", way, "--directory", name]
            subprocess.run([*command, *own], check=True, env={**env, "HF_HUB_OFFLINE": "1"})
            reference = directory / f"{way.partition(',')[0]}, float32"
            cost = json.loads((directory / way / "cost.json").read_text())
            mine, theirs = losses(directory / way), losses(reference)
            off = max(abs(x - y) / y for x, y in zip(mine, theirs, strict=True))
            print(
                f"{way:22} {' '.join(f'{loss:8.4f}' for loss in mine)} {off:8.0e} "
                f"{distance(directory / way, reference):8.0e} {cost['memory'] / 1e9:5.2f} GB {cost['seconds']:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

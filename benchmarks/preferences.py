"""Measure the cost of DPO on preferences that share their beginnings: eexp's trees against TRL's DPOTrainer.

    pip install --target trl/site-packages --no-deps trl datasets dill multiprocess xxhash pyarrow pandas
    eexp expert house -n 40 | eexp branch -k 4 --no-only-admissible | eexp rollout > rollout.jsonl
    eexp preference-data rollout.jsonl > preferences.jsonl
    python benchmarks/preferences.py preferences.jsonl --trl trl/site-packages --updates 4

Both train all weights of one random Llama of 25 million parameters in float32, on the same preferences in the same
updates, with the same optimiser. TRL reads the file as it is, and computes the log-probabilities of the reference
before training, as eexp does. Each runs in a process of its own. The time is that of the reference and of the updates.
Tokens are those that the model is given, padding included. Losses and lengths of gradients are compared update by
update; the goals are 1e-4 of their size, and 3 times the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from training import make_model  # noqa: E402

from eexp.records.record import answers_of  # noqa: E402

WAYS = ("eexp", "TRL")
RATE, BETA = 1e-5, 0.1


def measure(way: str, a: argparse.Namespace) -> dict:
    """Train, and return the cost."""
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    cost: dict[str, Any] = {"tokens": 0, "seconds": 0.0}

    def timed(function: Callable) -> Callable:
        def wrapper(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **more)
            cost["seconds"] += time.perf_counter() - began
            return result

        return wrapper

    embed = torch.nn.Embedding.forward  # the one function that every way to call the model goes through

    def counted(self: Any, ids: Any) -> Any:
        cost["tokens"] += ids.numel()
        return embed(self, ids)

    setattr(torch.nn.Embedding, "forward", counted)  # noqa: B010 (its type is that of the original)
    train = transformers.Trainer.train

    def logged(self: Any, *args: Any, **more: Any) -> Any:
        result = train(self, *args, **more)
        history = [log for log in self.state.log_history if "loss" in log]
        cost["losses"] = [log["loss"] for log in history]
        cost["gradients"] = [log["grad_norm"] for log in history]
        return result

    transformers.Trainer.train = timed(logged)
    with tempfile.TemporaryDirectory() as out:
        (_eexp if way == "eexp" else _trl)(Path(out) / "run", a, timed)
    return cost


def _preferences(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def _eexp(out: Path, a: argparse.Namespace, timed: Callable) -> None:
    from eexp.training.finetune import finetune
    from eexp.training.objectives.preferences import Preferences
    from eexp.training.settings import DPOSettings, Settings

    Preferences.prepare = timed(Preferences.prepare)
    finetune(
        _preferences(a.file),
        out,
        Settings(
            str(a.model),
            full=True,
            learning_rate=RATE,
            schedule="constant",
            warmup=0.0,
            objective="dpo",
            own=DPOSettings(beta=BETA),
            batch_size=a.batch_size,
            tokens_per_batch=a.tokens_per_batch,
            save_every=10**9,
            max_length=16384,
            max_steps=a.updates,
        ),
    )


def _trl(out: Path, a: argparse.Namespace, timed: Callable) -> None:
    sys.path.append(a.trl)
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Public names of TRL, which its lazy imports hide.
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    from eexp.training.objectives.preferences import Preferences
    from eexp.training.settings import Settings
    from eexp.training.updates import by_examples

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *args: Any) -> torch.utils.data.SequentialSampler:
            return torch.utils.data.SequentialSampler(cast(Dataset, self.train_dataset))

        _precompute_ref_logps = timed(DPOTrainer._precompute_ref_logps)

    tokenizer = AutoTokenizer.from_pretrained(a.model)
    preferences = _preferences(a.file)
    rows = list(Preferences(Settings()).rows(preferences, tokenizer, 16384, lambda record, error: None))
    updates = by_examples(rows[::2], a.batch_size, 1, a.updates, 0)
    order = [i for update in updates for i in update]
    columns = ("prompt", "chosen", "rejected")
    trainer = InOrder(
        AutoModelForCausalLM.from_pretrained(a.model, dtype="float32"),
        ref_model=AutoModelForCausalLM.from_pretrained(a.model, dtype="float32"),
        args=DPOConfig(
            output_dir=str(out),
            per_device_train_batch_size=a.micro_batch,
            gradient_accumulation_steps=a.batch_size // a.micro_batch,
            max_steps=len(updates),
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            beta=BETA,
            max_length=16384,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=a.micro_batch,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
        ),
        train_dataset=Dataset.from_list([{c: preferences[i][c] for c in columns} for i in order]),
        processing_class=tokenizer,
    )
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="preferences, as JSON lines")
    parser.add_argument("--trl", help="where TRL is installed; without it only eexp is measured")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-size", type=int, default=32, help="preferences an update")
    parser.add_argument("--micro-batch", type=int, default=4, help="preferences that TRL pads to one length")
    parser.add_argument("--tokens-per-batch", type=int, default=8192, help="tokens of a pass of eexp")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(a.one, a)))
        return
    preferences = _preferences(a.file)
    print(f"$ python benchmarks/preferences.py {' '.join(sys.argv[1:])}")
    groups = len({p["group"] for p in preferences})
    print(f"{platform.platform()}, {a.threads} threads, {len(preferences)} preferences of {groups} trajectories")
    print(f"{'':6} {'seconds':>9} {'tokens':>11} {'updates':>8} {'first loss':>11} {'last loss':>10}")
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), [answer for p in preferences for answer in answers_of(p)])
        for way in WAYS if a.trl else WAYS[:1]:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", way, "--model", directory]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
            one = results[way] = json.loads(process.stdout.splitlines()[-1])
            losses = one["losses"]
            cost = f"{way:6} {one['seconds']:9.1f} {one['tokens']:11,}"
            print(f"{cost} {len(losses):8} {losses[0]:11.6f} {losses[-1]:10.6f}", flush=True)
    if len(results) > 1:
        eexp, trl = results["eexp"], results["TRL"]
        seconds, tokens = trl["seconds"] / eexp["seconds"], trl["tokens"] / eexp["tokens"]
        print(f"against TRL: {seconds:.2f} times as fast, {tokens:.2f} times fewer tokens")
        for name in ("losses", "gradients"):
            apart = [abs(x - y) / abs(y) for x, y in zip(eexp[name], trl[name], strict=True)]
            print(f"{name}: {apart[0]:.1g} of their size apart in the first update, at most {max(apart):.1g} in all")


if __name__ == "__main__":
    main()

"""One epoch on examples that share their beginnings: eexp's trees against TRL's SFTTrainer, seconds and tokens.

    pip install --target /tmp/trl --no-deps trl datasets dill multiprocess xxhash pyarrow
    eexp expert 'scienceworld?task=find-plant' -n 8 | eexp branch -k 3 --from admissible | eexp rollout \\
        | eexp world-model-data -o wm.jsonl
    python benchmarks/training.py wm.jsonl --trl /tmp/trl

All train all weights of the same random Llama of 25 million parameters in float32, with the same token ids, targets,
optimiser and (about) examples an update. TRL runs as it comes (--micro-batch examples padded to the longest) and with
its best packing, best-fit decreasing; transformers keeps packed examples apart by a mask, on a GPU by FlashAttention,
which computes less.

Each way runs in a process of its own. What is timed is Trainer.train: tokenising, loading and saving are left out.
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

ROOT = Path(__file__).parent.parent
WAYS = ("eexp", "eexp --packing none", "TRL", "TRL packed")
RATE = 1e-5


def make_model(directory: Path) -> None:
    """A random Llama with the built-in tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from eexp.models.tiny import TINY_DIR

    tokenizer = AutoTokenizer.from_pretrained(TINY_DIR)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=384, intermediate_size=1536, num_hidden_layers=10,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=8192, tie_word_embeddings=True,
    )).save_pretrained(directory)  # fmt: skip
    tokenizer.save_pretrained(directory)


def measure(way: str, file: Path, model: Path, a: argparse.Namespace) -> dict:
    """One epoch; what it took."""
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    found = {"tokens": 0, "seconds": 0.0}
    train = transformers.Trainer.train

    def timed(self, *args, **kwargs):
        def count(module, args, kwargs):
            found["tokens"] += kwargs["input_ids"].numel()

        self.model.register_forward_pre_hook(count, with_kwargs=True)
        began = time.perf_counter()
        result = train(self, *args, **kwargs)
        found["seconds"] = time.perf_counter() - began
        found["updates"] = self.state.global_step
        found["loss"] = result.training_loss
        return result

    transformers.Trainer.train = timed
    with tempfile.TemporaryDirectory() as out:
        (_eexp if way.startswith("eexp") else _trl)(way, file, model, Path(out) / "run", a)
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def _examples(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def _eexp(way: str, file: Path, model: Path, out: Path, a: argparse.Namespace) -> None:
    from eexp.training.finetune import Settings, finetune

    finetune(_examples(file), out, Settings(
        str(model), full=True, learning_rate=RATE, schedule="constant", warmup=0.0, batch_size=a.batch_size,
        tokens_per_batch=a.tokens_per_batch, packing="none" if "none" in way else "tree", save_every=10**9,
    ))  # fmt: skip


def _trl(way: str, file: Path, model: Path, out: Path, a: argparse.Namespace) -> None:
    sys.path.append(a.trl)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from eexp.training.data import tokenize

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = list(tokenize(_examples(file), tokenizer, 8192))
    masks = [[int(i >= row.n_prompt) for i in range(len(row.ids))] for row in rows]
    data = Dataset.from_dict({"input_ids": [row.ids for row in rows], "completion_mask": masks})
    packed = "packed" in way
    longest = max(len(row.ids) for row in rows)
    length = max(longest, a.tokens_per_batch) if packed else longest
    # A pack holds many examples: as many packs an update as make about the same number of examples.
    packs = -(-sum(len(row.ids) for row in rows) // length)
    micro = 1 if packed else a.micro_batch
    accumulate = max(1, round(a.batch_size * packs / len(rows))) if packed else -(-a.batch_size // micro)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(
            output_dir=str(out), per_device_train_batch_size=micro, gradient_accumulation_steps=accumulate,
            num_train_epochs=1, learning_rate=RATE, lr_scheduler_type="constant", warmup_steps=0, packing=packed,
            max_length=length, completion_only_loss=True, save_strategy="steps", save_steps=10**9, logging_steps=1,
            report_to=[], disable_tqdm=True, bf16=False, gradient_checkpointing=False,
        ),
        train_dataset=data, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="examples, as JSON lines")
    parser.add_argument("--trl", help="where TRL is installed; without it only eexp is measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=16, help="examples an update")
    parser.add_argument("--micro-batch", type=int, default=4, help="examples that TRL pads to one length")
    parser.add_argument("--tokens-per-batch", type=int, default=4096, help="of eexp, and of a pack")
    parser.add_argument("--runs", type=int, default=1, help="of each way, in turns; the fastest counts")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.way:
        print(json.dumps(measure(a.way, a.file, a.model, a)))
        return
    took: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory))
        for way in [way for way in WAYS if a.trl or "TRL" not in way] * a.runs:
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--model", directory]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
            took.setdefault(way, []).append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{platform.platform()}, {a.threads} threads, {len(_examples(a.file))} examples, {a.runs} runs")
    print(f"{'':20} {'seconds':>9} {'tokens':>11} {'tokens/s':>9} {'updates':>8} {'mean loss':>10} {'memory':>9}")
    for way, found in took.items():
        best = min(found, key=lambda one: one["seconds"])
        print(f"{way:20} {best['seconds']:9.1f} {best['tokens']:11,} {best['tokens'] / best['seconds']:9.0f} "
              f"{best['updates']:8} {best['loss']:10.4f} {best['memory'] / 1e9:6.1f} GB")  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

"""Train over two hosts in every way that recipes/cluster/ has, kill and resume with other numbers of processes.

    python benchmarks/hosts.py                 # as root: it makes two network namespaces (recipes/cluster/hosts-here)
    python benchmarks/hosts.py --ways one ddp  # some of the ways

The built-in model on world-model examples of six house trajectories, float32, six updates of several passes each,
gradients clipped, a checkpoint after three of them. Each way is compared with one process: the losses of all updates
(the largest difference, in relation), and the saved weights (their distance, over their length). For a line "A, then B"
all processes of A are killed as soon as the checkpoint is written, and B goes on from it with --resume. Goal: losses
within 1e-5, weights within 1e-4.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "recipes" / "cluster"
sys.path.insert(0, str(ROOT / "benchmarks"))

from paths import distance, losses  # noqa: E402

UPDATES, CHECKPOINT = 6, 3
SETTINGS = (
    f"-m tiny --batch-size 7 --max-steps {UPDATES} --save-every {CHECKPOINT} --tokens-per-batch 400 --dtype float32"
)
LORA, FULL = f"{SETTINGS} --rank 2 --lr 0.003", f"{SETTINGS} --full --lr 0.0003"
TORCHRUN = "torchrun --nnodes 2 --nproc-per-node 1 --node-rank {rank} --master-addr {first} --master-port 29500 -m eexp"
ACCELERATE = "accelerate launch --config_file {config} --machine_rank {rank} --main_process_ip {first} -m eexp"
#: What `recipes/cluster/train.sbatch fsdp2` gives torchrun.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
#: The command before `finetune`, for each host where there are two, and variables.
LAUNCHERS: dict[str, tuple[str, dict[str, str]]] = {
    "one": ("eexp", {}),
    "torchrun DDP": (TORCHRUN, {}),
    "accelerate DDP": (ACCELERATE.replace("{config}", str(CLUSTER / "ddp.yaml")), {}),
    "torchrun FSDP2": (TORCHRUN, FSDP2),
    "accelerate FSDP2": (ACCELERATE.replace("{config}", str(CLUSTER / "fsdp2.yaml")), {}),
    "FSDP2, one process": ("torchrun --standalone --nproc-per-node 1 -m eexp", FSDP2),
}
#: Settings, and who trains; two of them: the second goes on where the first was killed.
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "one": (LORA, ("one",)),
    "ddp-torchrun": (LORA, ("torchrun DDP",)),
    "ddp": (LORA, ("accelerate DDP",)),
    "fsdp2-torchrun": (LORA, ("torchrun FSDP2",)),
    "fsdp2": (LORA, ("accelerate FSDP2",)),
    "one-ddp": (LORA, ("one", "torchrun DDP")),
    "ddp-one": (LORA, ("torchrun DDP", "one")),
    "one-fsdp2": (LORA, ("one", "accelerate FSDP2")),
    "fsdp2-one": (LORA, ("accelerate FSDP2", "one")),
    "ddp-fsdp2": (LORA, ("torchrun DDP", "accelerate FSDP2")),
    "fsdp2-ddp": (LORA, ("accelerate FSDP2", "torchrun DDP")),
    "fsdp2-fsdp2-one": (LORA, ("torchrun FSDP2", "FSDP2, one process")),
    "full-one": (FULL, ("one",)),
    "full-fsdp2": (FULL, ("accelerate FSDP2",)),
    "full-one-fsdp2": (FULL, ("one", "accelerate FSDP2")),
    "full-fsdp2-one": (FULL, ("accelerate FSDP2", "one")),
}
#: Ends a process of a launcher, or one that was started without, as soon as a checkpoint is there.
END = """
import os, sys, threading, time
def end():
    while not os.path.exists(os.environ["EEXP_END_AT"]):
        time.sleep(0.001)
    os.kill(os.getpid(), 9)
if "EEXP_END_AT" in os.environ and "finetune" in sys.argv: threading.Thread(target=end, daemon=True).start()
"""


def train(directory: Path, way: str, run: Path, settings: str, resume: bool, end_at: Path | None) -> None:
    """Train in one way; with `end_at`, all processes end when this file is there.

    Raises SystemExit where a run ends otherwise than it should.
    """
    launcher, variables = LAUNCHERS[way]
    pair = os.environ.get("EEXP_HOSTS", "213")
    launcher = launcher.replace("{first}", f"10.{pair}.0.1")
    command = f"{launcher} finetune {settings} -o {run} {'--resume' if resume else ''} {directory / 'wm.jsonl'}"
    words = command.split()
    if "{rank}" in launcher:
        words = [str(CLUSTER / "hosts-here"), "both", *words]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **variables, "PATH": path, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(directory / "site")}
    env |= {"EEXP_END_AT": str(end_at)} if end_at else {}
    process = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
    if (process.returncode == 0) == bool(end_at):
        sys.exit(f"error: {way}: exit code {process.returncode}: {process.stderr[-3000:]}")
    if resume and f"going on from {run}/checkpoints/checkpoint-{CHECKPOINT}" not in process.stderr:
        sys.exit(f"error: {way}: has not gone on from the checkpoint: {process.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    chosen = parser.parse_args().ways
    hosts = CLUSTER / "hosts-here"
    print(f"$ python benchmarks/hosts.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"{platform.platform()}, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads a process")
    print(f"{'':52} {'losses of the updates':>{8 * UPDATES}} {'off by':>8} {'weights':>8}")
    subprocess.run([hosts, "up"], check=True)
    try:
        with tempfile.TemporaryDirectory(prefix="eexp-hosts-") as name:
            directory = Path(name)
            (directory / "site").mkdir()
            (directory / "site" / "sitecustomize.py").write_text(END)
            eexp = f"{sys.executable} -m eexp"
            pipe = f"{eexp} expert house -n 6 -q | {eexp} branch -k 3 --from admissible -q | {eexp} rollout -q"
            pipe = f"{pipe} | {eexp} world-model-data -q > {directory / 'wm.jsonl'}"
            subprocess.run(pipe, shell=True, check=True, cwd=ROOT)
            for way in dict.fromkeys([*(f"{'full-' * w.startswith('full')}one" for w in chosen), *chosen]):
                settings, runners = WAYS[way]
                run = directory / way
                for i, runner in enumerate(runners):
                    end_at = run / f"checkpoints/checkpoint-{CHECKPOINT}/SHA256SUMS"
                    is_last = i + 1 == len(runners)
                    train(directory, runner, run, settings, i > 0, None if is_last else end_at)
                    while not is_last and (run / "eexp.json").exists():  # it was faster than its end: once more
                        shutil.rmtree(run)
                        train(directory, runner, run, settings, i > 0, end_at)
                reference = directory / f"{'full-' * way.startswith('full')}one"
                mine, theirs = losses(run), losses(reference)
                off = max(abs(x - y) / y for x, y in zip(mine, theirs, strict=True))
                title = f"{'--full' if 'full' in way else 'LoRA'}: {', then '.join(runners)}"
                print(
                    f"{title:52} {' '.join(f'{loss:7.4f}' for loss in mine)} {off:8.0e} "
                    f"{distance(run, reference):8.0e}",
                    flush=True,
                )
                if way not in ("one", "full-one"):
                    shutil.rmtree(run)
    finally:
        subprocess.run([hosts, "down"], check=True)


if __name__ == "__main__":
    main()

"""`eexp finetune` on the tiny model, or on two layers of it: the loss, the saved files, and resuming after a kill."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from running import EEXP, ROOT, Forked, environment, lines, read, run, start, write
from small_models import FIRST_LAYERS

from eexp.errors import EexpError, InputError
from eexp.prompts import get_style, style_from_dict
from eexp.system import terminal
from eexp.system.locks import DirectoryLock
from eexp.training import memory
from eexp.training.finetune import finetune
from eexp.training.resume import choose_checkpoint
from eexp.training.settings import Settings
from eexp.training.updates import by_mini_batches

SMALL = ["-m", FIRST_LAYERS, "--rank", 2, "--batch-size", 4, "--tokens-per-batch", 300]


@pytest.fixture(scope="module")
def few(data, tmp_path_factory) -> Path:
    """Write a file of eight examples."""
    return write(tmp_path_factory.mktemp("few") / "few.jsonl", read(data["imitation"])[:8])


def _weights(directory: Path) -> dict:
    from safetensors.torch import load_file

    (file,) = directory.glob("*.safetensors")
    return load_file(file)


def _equal_weights(a: Path, b: Path, tolerance: float = 0.0) -> bool:
    """Return whether two runs' weights differ by no more than `tolerance` anywhere."""
    first, second = _weights(a), _weights(b)
    assert first.keys() == second.keys()
    return all((first[n] - second[n]).abs().max() <= tolerance for n in first)


def _distance(a: Path, b: Path) -> float:
    """Return the distance between two runs' weights, relative to their length.

    The largest difference would not do: AdamW divides a gradient by its own size, and where that is near its epsilon,
    1e-8, rounding decides the step. So one weight in 24,320 differs by 5e-5 between any two ways to compute.
    """
    first, second = _weights(a), _weights(b)
    difference = sum(float((first[n] - second[n]).square().sum()) for n in first)
    return (difference / sum(float(w.square().sum()) for w in first.values())) ** 0.5


def _in_two_processes(*args: object, fsdp: bool = False) -> subprocess.CompletedProcess:
    """Run `eexp finetune ARGS` in two processes, with DDP or FSDP2."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *(["--use_fsdp", "--fsdp_version=2"] if fsdp else ["--multi_gpu"]),
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
        "-m",
        "eexp",
        "finetune",
    ]
    return subprocess.run([*launch, *map(str, args)], capture_output=True, text=True, timeout=240, env=environment())


def _metrics(directory: Path) -> list[dict]:
    """Return the lines of the updates in metrics.jsonl."""
    return [line for line in read(directory / "metrics.jsonl") if "validation" not in line]


def _validations(directory: Path) -> dict[int, dict]:
    """Return the validations in metrics.jsonl, by update."""
    lines = read(directory / "metrics.jsonl")
    return {line["step"]: line["validation"] for line in lines if "validation" in line}


def _run(directory: Path) -> dict:
    """Return the contents of eexp.json."""
    return json.loads((directory / "eexp.json").read_text())


def _with_spans(examples: list[dict]) -> list[dict]:
    """Return examples with the thought and the action of each completion as spans."""
    examples_with_spans = []
    for example in examples:
        text = example["completion"][0]["content"]
        border = text.index("Action:")
        spans = [{"name": "thought", "start": 0, "end": border}, {"name": "action", "start": border, "end": len(text)}]
        examples_with_spans.append({**example, "spans": spans if border else None})
    return examples_with_spans


def _token_losses(examples: list[dict]) -> list[list[tuple[str, float]]]:
    """Return (text of the token, -log p) of each target of each example.

    They are computed with the built-in model, one example at a time.
    """
    import torch

    from eexp.models.backends.hf import load_model
    from eexp.training.data import tokenize

    model, tokenizer = load_model(str(FIRST_LAYERS))
    losses = []
    for row in tokenize(examples, tokenizer, 2048):
        with torch.inference_mode():
            logits = model(torch.tensor([list(row.ids)])).logits[0].log_softmax(-1)
        losses.append([(tokenizer.decode([row.ids[i]]), -float(logits[i - 1, row.ids[i]])) for i in row.targets])
    return losses


def _completion_loss(examples: list[dict]) -> float:
    """Return the built-in model's mean cross-entropy over completion tokens by weight, one example at a time."""
    import torch

    from eexp.models.backends.hf import load_model
    from eexp.training.data import tokenize

    model, tokenizer = load_model(str(FIRST_LAYERS))
    total = count = 0.0
    for row in tokenize(examples, tokenizer, 2048):
        ids = torch.tensor([list(row.ids)])
        labels = ids.clone()
        labels[:, : row.n_prompt] = -100
        n = len(row.ids) - row.n_prompt
        with torch.inference_mode():
            total += float(model(ids, labels=labels).loss) * n * row.weight
        count += n * row.weight
    return total / count


def test_an_adapter_and_what_is_saved_with_it(few, tmp_path):
    result = run("finetune", *SMALL, "-m", "tiny", "-o", tmp_path / "run", "--epochs", 2, few).ok()
    assert result.out == b"" and "4 updates" in result.err
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "eexp.json", "metrics.jsonl", "README.md"} <= files
    assert "checkpoints" not in files and not [name for name in files if name.endswith(".part")]
    saved = json.loads((tmp_path / "run" / "eexp.json").read_text())
    assert saved["settings"]["rank"] == 2 and saved["settings"]["epochs"] == 2.0 and saved["learning_rate"] == 1e-4
    assert saved["data"]["examples"] == 8 and saved["data"]["kinds"] == {"imitation": 8}
    assert saved["prompt_style"].startswith("react@") and saved["base_fingerprint"].startswith("sha256:")
    assert saved["lineage"] == [read(few)[0]["lineage"]] and saved["updates"] == 4
    metrics = _metrics(tmp_path / "run")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4] and all("loss" in m for m in metrics)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "A LoRA adapter of `tiny`" in card and read(few)[0]["lineage"][0] in card
    text = run("show", tmp_path / "run").ok().out.decode()
    assert "A LoRA adapter" in text and "step 4: loss" in text


def test_the_loss_is_that_of_the_completions_alone(few, tmp_path):
    run(
        "finetune",
        "-q",
        "-m",
        FIRST_LAYERS,
        "-o",
        tmp_path / "run",
        "--max-steps",
        1,
        "--batch-size",
        8,
        "--tokens-per-batch",
        200,
        few,
    ).ok()
    assert _metrics(tmp_path / "run")[0]["loss"] == pytest.approx(_completion_loss(read(few)), rel=1e-6)


def test_weights_multiply_the_loss(few, tmp_path):
    examples = read(few)
    for n, e in enumerate(examples):
        e["weight"] = n / 4
    file = write(tmp_path / "in", examples)
    run("finetune", "-q", "-m", FIRST_LAYERS, "-o", tmp_path / "run", "--max-steps", 1, "--batch-size", 8, file).ok()
    assert _metrics(tmp_path / "run")[0]["loss"] == pytest.approx(_completion_loss(examples), rel=1e-6)


def test_examples_of_weight_zero_do_not_matter(few, tmp_path):
    """The adapter is the same with other words in these examples, and without the examples."""
    examples = read(few)
    for e in examples[::2]:
        e["weight"] = 0.0
    changed = json.loads(json.dumps(examples))
    for e in changed[::2]:
        e["completion"][0]["content"] = "Action: go to kitchen, then to lounge"
    for name, records in (("a", examples), ("b", changed), ("without", examples[1::2])):
        run("finetune", "-q", *SMALL, "--lr", 0.01, "-o", tmp_path / name, write(tmp_path / f"{name}.in", records)).ok()
    assert _equal_weights(tmp_path / "a", tmp_path / "b") and _equal_weights(tmp_path / "a", tmp_path / "without")
    assert json.loads((tmp_path / "a" / "eexp.json").read_text())["data"]["weight_0"] == 4
    none = [{**e, "weight": 0} for e in examples]
    run("finetune", "-q", *SMALL, "-o", tmp_path / "none", write(tmp_path / "none.in", none)).one_error(3, "weight 0")
    for e in changed:
        e["weight"] = 1.0
    run("finetune", "-q", *SMALL, "--lr", 0.01, "-o", tmp_path / "c", write(tmp_path / "c.in", changed)).ok()
    assert not _equal_weights(tmp_path / "a", tmp_path / "c", 1e-3)


def test_the_same_seed_gives_the_same_adapter(few, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("finetune", "-q", *SMALL, "--seed", seed, "-o", tmp_path / name, few).ok()
    assert _equal_weights(tmp_path / "a", tmp_path / "b") and not _equal_weights(tmp_path / "a", tmp_path / "c")


def test_all_ways_to_compute_an_update_give_the_same_weights(few, tmp_path):
    """One example at a time, all as one tree, in parts of it, padded, or checkpointed."""
    args = ["-m", FIRST_LAYERS, "--rank", 2, "--batch-size", 8, "--max-steps", 2, "--lr", 0.001]
    ways = {
        "one": ["--packing", "none", "--tokens-per-batch", 1],
        "padded": ["--packing", "none"],
        "parts": ["--tokens-per-batch", 200],
        "tree": [],
        "checkpointed": ["--gradient-checkpointing"],
    }
    losses, tokens = {}, {}
    for name, options in ways.items():
        run("finetune", "-q", *args, *options, "-o", tmp_path / name, few).ok()
        losses[name] = [m["loss"] for m in _metrics(tmp_path / name)]
        tokens[name] = json.loads((tmp_path / name / "eexp.json").read_text())["trained"]["computed_tokens"]
        assert losses[name] == pytest.approx(losses["one"], rel=1e-5)
        assert _distance(tmp_path / "one", tmp_path / name) < 1e-4
    assert tokens["tree"] < tokens["parts"] < tokens["one"] < tokens["padded"] and tokens["tree"] < tokens["one"] / 2


@pytest.mark.long
def test_processes_together_make_the_same_adapter(data, few, tmp_path):
    held_out = write(tmp_path / "held-out", [{**e, "group": "other"} for e in read(few)])
    args = [
        "-m",
        FIRST_LAYERS,
        "--rank",
        "2",
        "--lr",
        "0.003",
        "--batch-size",
        "7",
        "--max-steps",
        "4",
        "--save-every",
        "3",
        "--tokens-per-batch",
        "400",
        "--validate",
        held_out,
        "--validate-every",
        "2",
        "--keep",
        "best",
    ]
    run("finetune", "-q", *args, "-o", tmp_path / "one", data["world"]).ok()
    process = _in_two_processes(*args, "-o", tmp_path / "two", data["world"])
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("target tokens, loss") == 1, "one process writes the summary"
    one, two = (_metrics(tmp_path / name) for name in ("one", "two"))
    assert [m["step"] for m in two] == [1, 2, 3, 4]
    assert [m["loss"] for m in two] == pytest.approx([m["loss"] for m in one], rel=1e-5)
    assert _distance(tmp_path / "one", tmp_path / "two") < 1e-4
    curves = [{step: v["loss"] for step, v in _validations(tmp_path / name).items()} for name in ("one", "two")]
    assert list(curves[1]) == [0, 2, 4] and curves[1] == pytest.approx(curves[0], rel=1e-5)
    saved = _run(tmp_path / "two")
    assert saved["kept_step"] == _run(tmp_path / "one")["kept_step"]
    assert saved["processes"] == 2 and "checkpoints" not in {p.name for p in (tmp_path / "two").iterdir()}


@pytest.mark.long
@pytest.mark.parametrize("full", [False, True])
def test_divided_weights_become_those_of_one_process(data, few, tmp_path, full):
    """With FSDP2: clipped gradients, several passes an update, validation, and files that are whole."""
    held_out = write(tmp_path / "held-out", [{**e, "group": "other"} for e in read(few)])
    kind = ["--full", "--lr", 0.0003] if full else ["--rank", 2, "--lr", 0.003]
    args = ["-m", FIRST_LAYERS, *kind, "--batch-size", 7, "--max-steps", 3, "--tokens-per-batch", 400]
    args += ["--validate", held_out, "--save-every", 2, data["world"]]
    run("finetune", "-q", *args, "-o", tmp_path / "one").ok()
    process = _in_two_processes(*args, "-o", tmp_path / "two", fsdp=True)
    assert process.returncode == 0, process.stderr
    one, two = (_metrics(tmp_path / name) for name in ("one", "two"))
    for key in ("loss", "grad_norm"):
        assert [m[key] for m in two] == pytest.approx([m[key] for m in one], rel=1e-5)
    assert two[0]["grad_norm"] > 1, "it was clipped"
    assert _distance(tmp_path / "one", tmp_path / "two") < 1e-5
    losses = [[v["loss"] for v in _validations(tmp_path / name).values()] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}


@pytest.mark.long
def test_a_killed_run_with_divided_weights_is_resumed(data, tmp_path, monkeypatch):
    """Each process has written its parts of a checkpoint; if one of them is damaged, the run goes back."""
    args = ["-m", FIRST_LAYERS, "--rank", 2, "--lr", 0.003, "--batch-size", 7, "--max-steps", 3, "--save-every", 1]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _in_two_processes(*args, "-o", whole, data["world"], fsdp=True).returncode == 0
    # Each process ends itself when it has written the checkpoint.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def end():\n"
        f"    while not os.path.exists({str(cut / 'checkpoints/checkpoint-2/SHA256SUMS')!r}):\n"
        "        time.sleep(0.002)\n"
        "    os.kill(os.getpid(), 9)\n"
        "if 'RANK' in os.environ: threading.Thread(target=end, daemon=True).start()\n"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        assert _in_two_processes(*args, "-o", cut, data["world"], fsdp=True).returncode == 1
    assert not (cut / "eexp.json").exists()
    again, damaged = shutil.copytree(cut, tmp_path / "again"), tmp_path / "damaged"
    files = [file.relative_to(cut) for file in (cut / "checkpoints/checkpoint-2").rglob("*") if file.is_file()]
    assert len([file for file in files if file.name in (".metadata", "__0_0.distcp", "__1_0.distcp")]) == 6
    for file in files:
        shutil.copytree(cut, damaged)
        contents = (damaged / file).read_bytes()
        (damaged / file).write_bytes(contents[: len(contents) // 2] + b"\0" + contents[len(contents) // 2 + 1 :])
        if (damaged / file).read_bytes() != contents:
            assert choose_checkpoint(damaged / "checkpoints", print) == str(damaged / "checkpoints/checkpoint-1"), file
        shutil.rmtree(damaged)
    process = _in_two_processes(*args, "--resume", "-o", cut, data["world"], fsdp=True)
    assert process.returncode == 0 and f"going on from {cut}/checkpoints/checkpoint-2" in process.stderr, process.stderr
    assert _equal_weights(whole, cut) and _metrics(whole) == _metrics(cut)
    (again / "checkpoints/checkpoint-2/optimizer_0/__1_0.distcp").unlink()
    process = _in_two_processes(*args, "--resume", "-o", again, data["world"], fsdp=True)
    assert process.returncode == 0 and f"going on from {again}/checkpoints/checkpoint-1; " in process.stderr
    assert process.stderr.count("__1_0.distcp is missing") == 1, process.stderr
    assert _equal_weights(whole, again) and _metrics(whole) == _metrics(again)


@pytest.mark.long
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sharded_first", [False, True])
def test_a_run_goes_on_in_another_number_of_processes(data, tmp_path, monkeypatch, full, sharded_first):
    """In one process after FSDP2 in two, and the other way round; benchmarks/hosts.py has all ways."""
    kind = ["--full", "--lr", 0.0003] if full else ["--rank", 2, "--lr", 0.003]
    args = ["-m", FIRST_LAYERS, *kind, "--batch-size", 7, "--max-steps", 4, "--save-every", 2, data["world"]]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run("finetune", "-q", *args, "-o", whole).ok()

    def train(sharded: bool, *more: str) -> subprocess.CompletedProcess:
        if sharded:
            return _in_two_processes(*args, *more, "-o", cut, fsdp=True)
        command = [*EEXP, "finetune", *map(str, args), *more, "-o", str(cut)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())

    checkpoint = cut / "checkpoints/checkpoint-2/SHA256SUMS"
    # Each process ends itself when the checkpoint is whole.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def end():\n"
        f"    while not os.path.exists({str(checkpoint)!r}):\n"
        "        time.sleep(0.002)\n"
        "    os.kill(os.getpid(), 9)\n"
        "if 'finetune' in sys.argv: threading.Thread(target=end, daemon=True).start()\n"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        assert train(sharded_first).returncode
    assert checkpoint.exists() and not (cut / "eexp.json").exists()
    process = train(not sharded_first, "--resume")
    assert process.returncode == 0 and "going on from" in process.stderr, process.stderr
    assert [m["loss"] for m in _metrics(cut)] == pytest.approx([m["loss"] for m in _metrics(whole)], rel=1e-5)
    assert _distance(whole, cut) < 1e-5


def test_weights_that_cannot_be_divided_as_asked_are_an_error(few, tmp_path, monkeypatch):
    """Whether they are divided is what they are, not what a variable says."""
    import torch

    from eexp.training import sharding

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    args = ["finetune", *SMALL, "-o", tmp_path / "run", few]
    run(*args).one_error(1, "no launcher started this process")
    monkeypatch.setenv("LOCAL_RANK", "0")
    run(*args).one_error(1, "FSDP of version 1 is not supported; give accelerate launch --fsdp_version 2")
    monkeypatch.setenv("FSDP_VERSION", "2")
    run(*args, "--keep-optimizer").one_error(1, "--keep-optimizer needs the whole state in one process")
    model = torch.nn.Linear(2, 2)
    assert not sharding.is_sharded(model)
    with pytest.raises(EexpError, match="accelerate has not divided the weights"):
        sharding.check_result(model)


def test_two_runs_in_one_directory_are_refused(few, tmp_path):
    directory = tmp_path / "run"
    with DirectoryLock(directory) as own:
        own.create()
        error = run("finetune", *SMALL, "-o", directory, few).one_error(1, f"{directory}: ", "is writing it")
        assert not Path("/proc/locks").exists() or f"process {os.getpid()}" in error
        assert list(directory.iterdir()) == []
    with DirectoryLock(tmp_path / "late") as early, DirectoryLock(tmp_path / "late") as late:
        early.create()  # the directory was not there when both began
        with pytest.raises(EexpError, match="is writing it"):
            late.create()


def test_a_dry_run_shows_what_a_terminal_would_obey_as_escapes(few, tmp_path):
    first = read(few)[0]
    first["completion"][0]["content"] = "Action: \x1b]52;c;aGk=\x07 \u202elook"
    result = run("finetune", *SMALL, "-o", tmp_path / "run", "--dry-run", write(tmp_path / "in", [first])).ok()
    assert not terminal.HIDDEN.search(result.out.decode() + result.err) and "\\x1b]52;c" in result.out.decode()


def test_a_dry_run_says_what_would_be_done(few, tmp_path):
    result = run("finetune", *SMALL, "-o", tmp_path / "run", "--dry-run", few).ok()
    text = result.out.decode()
    assert not (tmp_path / "run").exists()
    run("finetune", "-q", *SMALL, "-o", tmp_path / "run", few).ok()
    trained = json.loads((tmp_path / "run" / "eexp.json").read_text())["trained"]
    assert f"{trained['tokens']:,} tokens one example at a time, {trained['computed_tokens']:,} as computed" in text
    assert text.startswith(f"2 updates, 8 examples, {trained['target_tokens']:,} target tokens\n")
    assert "by a rough estimate" in text
    assert f"<|assistant|>[[{read(few)[0]['completion'][0]['content']}<|end|>]]" in text


def test_a_budget_like_that_of_another_run(few, data, tmp_path):
    """A run on other examples makes as many updates, of as many target tokens."""
    run("finetune", "-q", *SMALL, "-o", tmp_path / "il", "--epochs", 3, few).ok()
    like = ["--budget-like", tmp_path / "il"]
    run("finetune", "-q", *SMALL, *like, "-o", tmp_path / "wm", data["world"]).ok()
    il, wm = (json.loads((tmp_path / name / "eexp.json").read_text()) for name in ("il", "wm"))
    assert wm["updates"] == il["updates"] == 6 == len(_metrics(tmp_path / "wm"))
    assert wm["trained"]["target_tokens"] == pytest.approx(il["trained"]["target_tokens"], abs=40)
    run("finetune", *SMALL, *like, "--max-steps", 2, "-o", tmp_path / "no", few).one_error(2, "--max-steps")
    run("finetune", *SMALL, "--budget-like", tmp_path, "-o", tmp_path / "no", few).one_error(2, "no finished training")


def test_a_matched_budget_counts_the_updates_of_the_adapter(few, data, tmp_path):
    """All updates together are as many as imitation made, and each has as many target tokens."""
    world = write(tmp_path / "world", read(data["world"])[:8])
    run("finetune", "-q", *SMALL, "-o", tmp_path / "il", "--epochs", 3, few).ok()
    run("finetune", "-q", *SMALL, "-o", tmp_path / "iwm", world).ok()
    args = ["finetune", *SMALL, "--init", tmp_path / "iwm", few]
    run(*args, "-q", "--budget-like", tmp_path / "il", "-o", tmp_path / "both").ok()
    il, iwm, both = (json.loads((tmp_path / name / "eexp.json").read_text()) for name in ("il", "iwm", "both"))
    assert (il["total"]["updates"], iwm["total"]["updates"]) == (6, 2)
    assert both["total"]["updates"] == 6 and both["updates"] == 4 == len(_metrics(tmp_path / "both"))
    assert both["trained"]["target_tokens"] == pytest.approx(il["total"]["target_tokens"] * 4 / 6, abs=20)
    spent = iwm["total"]["target_tokens"] + both["trained"]["target_tokens"]
    assert both["total"]["target_tokens"] == spent
    args += ["-o", tmp_path / "no", "--budget-like"]
    run(*args, tmp_path / "iwm").one_error(2, "was made in 2 updates", "in 2; none is left")
    (tmp_path / "iwm" / "eexp.json").unlink()
    run(*args, tmp_path / "il").one_error(2, f"{tmp_path / 'iwm'}: holds no finished training run")


@pytest.mark.long
def test_the_command_lines_of_the_training_page(data, tmp_path, monkeypatch):
    """IWM then IL, IL + SR, matched and extra: each as it stands there, on the built-in model."""
    text = (ROOT / "docs" / "training.md").read_text().partition("## The arms of the paper")[2]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    il, iwm, sr = (read(data[name]) for name in ("imitation", "world", "reflected"))
    for name, examples in (("il", il), ("iwm", iwm[:16]), ("sr", sr[:8])):
        write(tmp_path / f"{name}.jsonl", examples)
    for line in block.splitlines():
        out = b""
        for part in line.split(" | "):
            name, *args = shlex.split(part.replace("BASE", "tiny"))
            assert name == "eexp"
            out = run(*args, stdin=out).ok().out
    runs = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/eexp.json")}
    assert len(runs) == 6 and (tmp_path / "losses.png").stat().st_size > 1000
    updates = {name: saved["total"]["updates"] for name, saved in runs.items()}
    assert updates == {"il": 3, "iwm": 1, "iwm-il-extra": 4, "iwm-il-matched": 3, "il-sr-extra": 3, "il-sr-matched": 3}
    assert runs["il-sr-extra"]["data"]["kinds"] == {"imitation": len(il), "reflection": 8}
    il_tokens = runs["il"]["total"]["target_tokens"]
    half = max(runs["il-sr-matched"]["longest_completion"].values()) / 2
    assert runs["il-sr-matched"]["total"]["target_tokens"] == pytest.approx(il_tokens, abs=half)
    assert runs["il-sr-extra"]["total"]["target_tokens"] > 1.5 * il_tokens


@pytest.mark.parametrize("shuffle", ["trajectories", "examples"])
def test_shuffled_examples_share_fewer_tokens_in_an_update(data, tmp_path, shuffle):
    args = ["-m", FIRST_LAYERS, "--rank", 2, "--batch-size", 8, "--epochs", 0.2, "--shuffle", shuffle]
    run("finetune", "-q", *args, "-o", tmp_path / "run", data["world"]).ok()
    trained = json.loads((tmp_path / "run" / "eexp.json").read_text())["trained"]
    times_fewer = trained["tokens"] / trained["computed_tokens"]
    assert times_fewer > 2.5 if shuffle == "trajectories" else 1 < times_fewer < 2.5


def test_a_run_that_exceeds_the_memory_is_refused_with_the_numbers(few, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 10_000_000)
    args = ["finetune", "-m", "tiny", "--max-steps", 1, "-o", tmp_path / "run", few]
    error = run(*args, "--full").one_error(1, "and 10 MB are free; train an adapter instead of --full")
    numbers = re.search(r"to train (\S+) weights takes at least \d+ MB \(weights (\d+) MB, gradients (\d+) MB", error)
    assert round(int(numbers[1].replace(",", "")) * 4 / 1e6) == int(numbers[2]) == int(numbers[3])
    assert not (tmp_path / "run").exists()
    result = run(*args).ok()  # the adapter's activations may or may not fit
    assert "by a rough estimate" in result.err and "--tokens-per-batch below 4096" in result.err


@pytest.mark.parametrize("kind", [["--rank", 2, "--lr", 0.003], ["--full"]])
def test_bfloat16_learns_nearly_the_same(few, tmp_path, kind):
    """What is trained is float32; losses are computed in float32."""
    import torch

    args = ["finetune", "-q", "-m", FIRST_LAYERS, *kind, "--max-steps", 3, "--batch-size", 4]
    for dtype in ("float32", "bfloat16"):
        run(*args, "--dtype", dtype, "-o", tmp_path / dtype, few).ok()
    losses = [[m["loss"] for m in _metrics(tmp_path / dtype)] for dtype in ("float32", "bfloat16")]
    assert losses[0] != losses[1] == pytest.approx(losses[0], abs=0.03)
    assert {w.dtype for w in _weights(tmp_path / "bfloat16").values()} == {torch.float32}
    assert _distance(tmp_path / "float32", tmp_path / "bfloat16") < 0.05
    assert (_run(tmp_path / "bfloat16")["dtype"], _run(tmp_path / "float32")["dtype"]) == ("bfloat16", "float32")


def test_an_adapter_on_four_bits(few, tmp_path, monkeypatch):
    """It is trained, cut off, resumed, exported and played; computing losses in between changes nothing."""
    pytest.importorskip("bitsandbytes")
    from eexp.training.trainer import RunCallback

    args = ["finetune", "-q", *SMALL, "--load-in-4bit", "--lr", 0.01, "--epochs", 2, "--save-every", 2]
    run(*args, "--full", "-o", tmp_path / "full", few).one_error(2, "freezes the weights that --full trains")
    run(*args, "-o", tmp_path / "whole", few).ok()
    held_out = write(tmp_path / "held-out", [{**e, "group": "other"} for e in read(few)[:2]])
    run(*args, "--validate", held_out, "--validate-every", 1, "-o", tmp_path / "validated", few).ok()
    assert _equal_weights(tmp_path / "whole", tmp_path / "validated")
    losses = [m["loss"] for m in _metrics(tmp_path / "whole")]
    assert losses[-1] < losses[0]

    def die(*args, **kwargs):
        raise MemoryError

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(RunCallback, "on_save", die)
        run(*args, "-o", cut, few).one_error(1, "out of memory")
    assert [m["step"] for m in _metrics(cut)] == [1, 2]
    run(*args, "--resume", "-o", cut, few).ok()
    assert _equal_weights(tmp_path / "whole", cut) and _metrics(cut) == _metrics(tmp_path / "whole")
    assert run("export", cut, "-o", tmp_path / "cut.gguf").ok() and (tmp_path / "cut.gguf").is_file()
    assert run("eval", "house", "-m", f"hf:{FIRST_LAYERS}+{cut}", "-n", 1, "--max-steps", 2).ok().out


def test_an_adapter_of_plain_weights_needs_no_bitsandbytes(monkeypatch):
    """Importing it takes longer than a small model."""
    import peft
    from small_models import small_llama

    from eexp.models.backends.adapters import new_adapter

    if not find_spec("bitsandbytes"):
        pytest.skip("needs the package bitsandbytes")
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    model = new_adapter(small_llama(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert isinstance(model, peft.PeftModel) and "bitsandbytes" not in sys.modules
    assert peft.import_utils.is_bnb_available()


def test_the_memory_of_a_run_is_estimated_from_the_shapes_alone(few, tmp_path):
    """Formats of frozen weights and checkpointing take their share off; `benchmarks/memory.py` measures it."""
    import torch
    from small_models import small_llama

    model = small_llama()
    weights = sum(p.numel() for p in model.parameters())
    whole = memory.estimate(model, 100, 0.5, torch.float32)
    assert [whole[name] for name in ("weights", "gradients", "optimiser")] == [4 * weights, 4 * weights, 8 * weights]
    assert memory.estimate(model, 100, 0.5, torch.float32, checkpointing=True)["activations"] < whole["activations"]
    model.requires_grad_(False)
    assert memory.weight_bytes(model, torch.bfloat16, False) == (2 * weights, 0)
    linear = (
        sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - model.lm_head.weight.numel()
    )
    frozen, _ = memory.weight_bytes(model, torch.bfloat16, True)
    assert frozen == pytest.approx(2 * (weights - linear) + linear * 0.5159, abs=len(list(model.modules())))


# -- held-out losses ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out(data, tmp_path_factory) -> Path:
    """Write examples of all kinds, of another trajectory than `few`; reflections with their spans."""
    trained = {example["group"] for example in read(data["imitation"])[:8]}
    examples = []
    for name in ("imitation", "world", "reflected"):
        others = [e for e in read(data[name]) if e["group"] not in trained][:4]
        examples += _with_spans(others) if name == "reflected" else others
    return write(tmp_path_factory.mktemp("held-out") / "held-out.jsonl", examples)


def test_held_out_losses_are_followed(few, held_out, tmp_path):
    args = ["finetune", *SMALL, "--lr", 0.01, "--epochs", 2, few]
    result = run(*args, "--validate", held_out, "-o", tmp_path / "run").ok()
    validations = _validations(tmp_path / "run")
    assert list(validations) == [0, 2, 4], "the start, and every epoch"
    assert [line["step"] for line in read(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2, 2, 3, 4, 4]
    losses = _token_losses(read(held_out))
    kinds: dict = {}
    for example, example_losses in zip(read(held_out), losses):
        kinds.setdefault(example["kind"], []).extend(loss for _, loss in example_losses)
    assert {kind: summary["tokens"] for kind, summary in validations[0]["kinds"].items()} == {
        k: len(v) for k, v in kinds.items()
    }
    for kind, kind_losses in kinds.items():
        assert validations[0]["kinds"][kind]["loss"] == pytest.approx(sum(kind_losses) / len(kind_losses), rel=1e-5)
    assert list(validations[0]["spans"]) == [
        "imitation/action",
        "reflection/action",
        "reflection/thought",
        "world_model/observation",
        "world_model/unknown",
    ]
    assert validations[4]["loss"] != validations[0]["loss"]
    saved = _run(tmp_path / "run")
    assert saved["final_validation"] == validations[4] and saved["kept_step"] == 4
    assert saved["validation"]["examples"] == 12 and saved["validation"]["target_tokens"] == validations[0]["tokens"]
    assert f"validation loss {validations[4]['loss']:.4f} after update 4" in result.err
    # validation changes nothing
    run(*args, "-q", "-o", tmp_path / "without").ok()
    assert (
        _equal_weights(tmp_path / "run", tmp_path / "without")
        and _run(tmp_path / "without")["final_validation"] is None
    )
    # and `eexp show` has it
    text = run("show", tmp_path / "run").ok().out.decode()
    assert (
        f"step 4: validation loss {validations[4]['loss']:.4f} (imitation/action " in text and "step 4: loss " in text
    )
    assert "| validation loss | " in text
    run("show", tmp_path / "run", "--plot", tmp_path / "a.svg").ok()
    assert (tmp_path / "a.svg").read_bytes().count(b"stroke-dasharray") >= 1


def test_held_out_losses_count_all_targets_alike(few, held_out, tmp_path):
    """Weights do not matter, but that targets of weight 0 are left out."""
    examples = read(held_out)
    for n, example in enumerate(examples):
        example["weight"] = 0.5 + n % 2
        for span in example.get("spans") or ():
            span["weight"] = 0.0 if example["kind"] == "reflection" and span["name"] == "action" else 3.0
    weighted = write(tmp_path / "weighted", examples)
    for name, file in (("a", held_out), ("b", weighted)):
        run("finetune", "-q", *SMALL, "--max-steps", 1, "--validate", file, "-o", tmp_path / name, few).ok()
    one, two = (_validations(tmp_path / name)[0]["spans"] for name in ("a", "b"))
    assert two.keys() == one.keys() - {"reflection/action"}
    assert all(two[span] == {"loss": pytest.approx(one[span]["loss"]), "tokens": one[span]["tokens"]} for span in two)


def test_the_best_weights_are_kept(few, held_out, tmp_path):
    """With a learning rate that ruins the first updates, the best weights are neither the last nor the initial ones."""
    args = [
        "finetune",
        "-q",
        "-m",
        FIRST_LAYERS,
        "--rank",
        8,
        "--batch-size",
        8,
        "--lr",
        0.02,
        "--schedule",
        "constant",
        "--epochs",
        6,
        "--warmup",
        0,
        "--validate",
        held_out,
    ]
    run(*args, "--keep", "best", "-o", tmp_path / "best", few).ok()
    losses = {step: validation["loss"] for step, validation in _validations(tmp_path / "best").items() if step}
    saved = _run(tmp_path / "best")
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert saved["kept_step"] == min(losses, key=losses.get) < 6
    assert saved["final_validation"]["loss"] == min(losses.values())
    assert "checkpoints" not in {p.name for p in (tmp_path / "best").iterdir()}
    run(*args, "--max-steps", saved["kept_step"], "-o", tmp_path / "short", few).ok()
    assert _equal_weights(tmp_path / "best", tmp_path / "short")
    run(*args[:-2], "--keep", "best", "-o", tmp_path / "no", few).one_error(2, "--keep best", "--validate FILE")
    run(*args[:-2], "--validate-every", 2, "-o", tmp_path / "no", few).one_error(
        2, "--validate-every", "--validate FILE"
    )


def test_unsuitable_validation_examples_are_refused(few, held_out, data, tmp_path):
    args = ["finetune", *SMALL, "-o", tmp_path / "run", few, "--validate"]
    error = run(*args, data["imitation"]).one_error(3, f"{data['imitation']}:1: $.group: ", "is trained on, too")
    assert "validate with other trajectories" in error
    other = write(tmp_path / "other", [{**e, "prompt_style": "other@1"} for e in read(held_out)])
    run(*args, other).one_error(3, f"{other}:1: $.prompt_style: examples of two prompt styles")
    long = read(held_out)
    long[1]["prompt"][-1]["content"] = "The kitchen. " * 3000
    long = write(tmp_path / "long", long)
    run(*args, long).one_error(3, f"{long}:2: $.prompt: has ")
    run(*args, write(tmp_path / "nothing", [])).one_error(3, "no examples to validate with")
    run(*args, tmp_path / "none").one_error(3, f"{tmp_path / 'none'}: No such file")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_was_validated_with_the_same(few, held_out, tmp_path):
    args = ["finetune", *SMALL, "--max-steps", 1, "-o", tmp_path / "run", "--resume", few]
    run(*args, "--validate", held_out).ok()
    assert "is finished already" in run(*args, "--validate", held_out).ok().err
    run(*args).one_error(2, "holds a run with other settings (validation)")
    half = write(tmp_path / "half", read(held_out)[:6])
    run(*args, "--validate", half).one_error(2, "holds a run with other settings (validation)")
    rest = write(tmp_path / "rest", read(held_out)[6:])
    assert "is finished already" in run(*args, "--validate", half, "--validate", rest).ok().err


# -- weights and shares ------------------------------------------------------------------------------------------------


def test_the_action_weight_multiplies_the_loss_of_actions_after_a_thought(few, held_out, tmp_path):
    examples = [e for e in read(held_out) if e["kind"] == "reflection"][:2] + _with_spans(read(few)[:2])
    losses, weights = [], []
    for example, example_losses in zip(examples, _token_losses(examples)):
        text = ""
        for word, loss in example_losses:
            losses.append(loss)
            weights.append(4.0 if example["spans"] and "Action" in text + word else 1.0)
            text += word
    assert {1.0, 4.0} == set(weights)
    file = write(tmp_path / "in", examples)
    args = ["finetune", "-q", *SMALL, "--max-steps", 1, "--action-weight", 4, "-o", tmp_path / "run", file]
    run(*args).ok()
    mean_loss = sum(loss * weight for loss, weight in zip(losses, weights)) / sum(weights)
    assert _metrics(tmp_path / "run")[0]["loss"] == pytest.approx(mean_loss, rel=1e-5)
    saved = _run(tmp_path / "run")
    assert saved["trained"]["target_tokens"] == len(losses) and saved["settings"]["action_weight"] == 4
    preview = run(*args, "--dry-run").ok().out.decode()
    assert (
        f"[[action * 4: {examples[0]['completion'][0]['content'][examples[0]['spans'][1]['start'] :]}<|end|>]]"
        in preview
    )


def test_kinds_have_their_shares_of_the_loss(few, held_out, tmp_path):
    """The gradient of a run of one update equals that of examples weighted by hand."""
    examples = read(held_out)
    args = [
        "finetune",
        "-q",
        "-m",
        FIRST_LAYERS,
        "--rank",
        2,
        "--batch-size",
        12,
        "--max-steps",
        1,
        "--lr",
        0.01,
        "--warmup",
        0,
    ]
    shares = ["--share", "world_model=0.05", "--share", "reflection=0.25"]
    run(*args, *shares, "-o", tmp_path / "shares", held_out).ok()
    counts: dict = {}
    for example, losses in zip(examples, _token_losses(examples)):
        counts[example["kind"]] = counts.get(example["kind"], 0) + len(losses)
    for example in examples:
        share = {"world_model": 0.05, "reflection": 0.25, "imitation": 0.7}[example["kind"]]
        example["weight"] = share / counts[example["kind"]]
    run(*args, "-o", tmp_path / "by-hand", write(tmp_path / "in", examples)).ok()
    assert _distance(tmp_path / "shares", tmp_path / "by-hand") < 1e-4
    one, two = (_metrics(tmp_path / name)[0]["loss"] for name in ("shares", "by-hand"))
    assert one == pytest.approx(two, rel=1e-5)
    saved = _run(tmp_path / "shares")
    assert saved["trained"]["shares"] == {"imitation": 0.7, "reflection": 0.25, "world_model": 0.05}
    assert saved["settings"]["share"] == {"world_model": 0.05, "reflection": 0.25}
    card = run("show", tmp_path / "shares").ok().out.decode()
    assert "| loss | 70 % imitation, 25 % reflection, 5 % world_model |" in card
    preview = run(*args, "--share", "world_model=0.5", "-o", tmp_path / "dry", "--dry-run", held_out).ok().out.decode()
    assert "of the loss: " in preview and "50 % world_model" in preview


def test_shares_hold_over_updates_of_one_kind(held_out, tmp_path):
    """An update counts in the run by the weight of its examples; its line has their mean loss."""
    examples = [e for e in read(held_out) if e["kind"] != "reflection"]
    file = write(tmp_path / "in", [{**e, "group": e["kind"]} for e in examples])
    args = ["finetune", "-q", "-m", FIRST_LAYERS, "--rank", 2, "--batch-size", 4, file]
    run(*args, "-o", tmp_path / "without").ok()
    run(*args, "--share", "world_model=0.1", "-o", tmp_path / "run").ok()
    assert _run(tmp_path / "run")["trained"]["shares"] == {"imitation": 0.9, "world_model": 0.1}
    assert _run(tmp_path / "without")["trained"]["shares"] == {"imitation": 0.5, "world_model": 0.5}
    without, first = (_metrics(tmp_path / name)[0] for name in ("without", "run"))
    assert first["loss"] == pytest.approx(without["loss"], rel=1e-6)
    assert first["grad_norm"] / without["grad_norm"] == pytest.approx(0.2, rel=1e-4) or (
        first["grad_norm"] / without["grad_norm"] == pytest.approx(1.8, rel=1e-4)
    )


@pytest.mark.parametrize(
    "shares, code, message",
    [
        (["world_model"], 2, "expected KIND=SHARE"),
        (["world_model=x"], 2, "expected KIND=SHARE"),
        (["world_model=1"], 2, "a share between 0 and 1"),
        (["world_model=0"], 2, "a share between 0 and 1"),
        (["a=0.5", "b=0.5"], 2, "the shares add up to 1"),
        (["a=0.1", "a=0.2"], 2, "two shares for a"),
        (["other=0.1"], 2, "--share other=0.1: no update has an example of this kind; kinds: imitation"),
        (["imitation=0.1"], 2, "--share imitation: there are no other kinds for the rest of the loss"),
    ],
)
def test_impossible_shares_are_refused(few, tmp_path, shares, code, message):
    options = [word for share in shares for word in ("--share", share)]
    result = run("finetune", *SMALL, *options, "-o", tmp_path / "run", few).ok(code)
    assert message in " ".join(result.err.replace("│", " ").split()) and not (tmp_path / "run").exists()


def test_a_run_records_how_to_play_its_model(few, held_out, data, tmp_path):
    files = {
        "plain": few,
        "world": data["world"],
        "thinking": held_out,
        "empty": write(
            tmp_path / "empty.jsonl",
            [
                {**e, "spans": [{"name": "thought", "start": 0, "end": 0}, {"name": "action", "start": 0, "end": 3}]}
                for e in read(few)
            ],
        ),
    }
    for name, file in files.items():
        run("finetune", "-q", *SMALL, "--max-steps", 1, "-o", tmp_path / name, file).ok()
    saved = {name: _run(tmp_path / name) for name in files}
    assert {name: contents["think"] for name, contents in saved.items()} == {
        "plain": "never",
        "world": None,
        "thinking": "always",
        "empty": "never",
    }
    longest = saved["thinking"]["longest_completion"]
    assert longest.keys() == {"imitation", "reflection", "world_model"}
    reflections = [e for e in read(held_out) if e["kind"] == "reflection"]
    assert longest["reflection"] == max(map(len, _token_losses(reflections)))


def test_a_run_records_its_prompt_style(few, data, tmp_path):
    """eexp.json holds the whole style, so the directory is enough to play; a style of the user's is given as a file."""
    args = ["finetune", "-q", *SMALL, "--max-steps", 1]
    run(*args, "-o", tmp_path / "run", few).ok()
    assert style_from_dict(_run(tmp_path / "run")["style"]) == get_style("react")
    style_file = tmp_path / "mine.toml"
    style_file.write_text('name = "mine"\n[act]\nsystem = "Act."\n[thought]\nask = " Think."\n')
    examples = tmp_path / "mine.jsonl"
    run("imitation-data", "--prompt-style", style_file, "-q", "-o", examples, data["expert"]).ok()
    label = get_style(str(style_file)).label
    run(*args, "-o", tmp_path / "mine", examples).one_error(2, label, "give its file as --prompt-style", "unknown")
    run(*args, "--prompt-style", style_file, "-o", tmp_path / "no", few).one_error(
        2, f"--prompt-style is {label}, but", "react@"
    )
    run(*args, "--prompt-style", style_file, "-o", tmp_path / "mine", examples).ok()
    assert style_from_dict(_run(tmp_path / "mine")["style"]).label == label == _run(tmp_path / "mine")["prompt_style"]
    episodes = run("eval", "house", "-n", 1, "--max-steps", 1, "--max-tokens", 8, "-m", tmp_path / "mine").ok().records
    assert episodes[0]["prompt_style"] == label
    none = write(tmp_path / "none.jsonl", [{k: v for k, v in e.items() if k != "prompt_style"} for e in read(few)])
    run(*args, "-o", tmp_path / "none", none).ok()
    assert _run(tmp_path / "none")["style"] is None is _run(tmp_path / "none")["prompt_style"]


# -- updates of whole trajectories -------------------------------------------------------------------------------------


def test_an_update_is_of_whole_trajectories(data, tmp_path):
    """By default an update has at least 4, with at least 16 examples; those left join the last update."""
    examples = [{**e, "group": f"{e['group']}/{n}"} for n in range(3) for e in read(data["imitation"])]
    file = write(tmp_path / "in", examples)
    args = ["finetune", "-q", "-m", FIRST_LAYERS, "--rank", 2, file]
    for options, updates in (
        (["--batch-trajectories", 1], 9),
        (["--batch-trajectories", 5], 2),
        (["--shuffle", "examples"], -(-len(examples) // 16)),
    ):
        plan = run(*args, *options, "--dry-run", "-o", tmp_path / "planned").ok().out.decode()
        assert plan.startswith(f"{updates} updates, "), options
    run(*args, "-o", tmp_path / "default").ok()
    assert _run(tmp_path / "default")["updates"] == 2
    card = (tmp_path / "default" / "README.md").read_text()
    assert "| batch | at least 4 trajectories and 16 examples |" in card
    run(*args, "--batch-size", 2, "--batch-trajectories", 2, "-o", tmp_path / "no").one_error(2, "give one")
    run(*args, "--shuffle", "examples", "--batch-trajectories", 2, "-o", tmp_path / "no").one_error(2, "give one")
    run(*args, "--budget-like", tmp_path / "default", "-o", tmp_path / "like").ok()
    like, default = _run(tmp_path / "like"), _run(tmp_path / "default")
    assert like["updates"] == 2
    assert like["trained"]["target_tokens"] == pytest.approx(default["trained"]["target_tokens"], abs=20)


def test_mini_batches_have_their_part_of_every_kind(data, few, tmp_path):
    """Nine trajectories of one kind and two of another make two updates, although four were asked for."""
    many = [{**e, "group": f"{e['group']}/{n}"} for n in range(3) for e in read(data["imitation"])]
    beside = [{**e, "group": f"beside/{n}", "kind": "reflection"} for n, e in enumerate(read(few)[:2])]
    rows = [SimpleNamespace(kind=e["kind"], group=e["group"], ids=[n]) for n, e in enumerate(many + beside)]
    first, again = by_mini_batches(rows, 4, 2, None, seed=0)[:2], by_mini_batches(rows, 4, 2, 3, seed=0)
    assert sorted(chain(*first)) == list(range(len(rows))) and again[:2] == first and len(again) == 3
    for update in first:
        assert sum(rows[i].kind == "reflection" for i in update) == 1
        assert len({rows[i].group for i in update if rows[i].kind == "imitation"}) in (4, 5)
    args = [
        "finetune",
        "-q",
        "-m",
        FIRST_LAYERS,
        "--rank",
        2,
        "--mini-batches",
        4,
        write(tmp_path / "in", many + beside),
    ]
    run(*args, "--share", "reflection=0.2", "-o", tmp_path / "run").ok()
    assert _run(tmp_path / "run")["updates"] == 2
    assert "| batch | an epoch in 4 updates, or in fewer |" in (tmp_path / "run" / "README.md").read_text()
    run(*args, "--batch-size", 2, "-o", tmp_path / "no").one_error(2, "--batch-size and --mini-batches both say")


def test_loss_curves_as_a_picture(few, tmp_path):
    run("finetune", "-q", *SMALL, "-o", tmp_path / "run", few).ok()
    run("show", tmp_path / "run", "--plot", tmp_path / "a.png").ok()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    run("show", tmp_path / "run", "--plot", tmp_path / "a.svg").ok()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes() and b"loss" in (tmp_path / "a.svg").read_bytes()
    run("show", tmp_path / "run", "--plot", tmp_path / "a.xyz").one_error(2, "--plot", "xyz")
    run("show", tmp_path, "--plot", tmp_path / "b.png").one_error(2, f"{tmp_path}: holds no training run")
    run("show", "--plot", tmp_path / "b.png").one_error(2, "--plot draws training runs")


def _tiny_model(directory: Path, family: str, **more: object) -> Path:
    """Write a random model of a family of transformers, with the tokenizer and the template of the built-in one."""
    import torch
    import transformers

    from eexp.records.runs import TINY_DIR

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_DIR)
    sizes = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **{**sizes, **more})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_model_that_cannot_compute_trees_is_refused_by_name(few, tmp_path):
    """Its layers do not continue from a state with several tokens; with padding it is trained all the same."""
    model = _tiny_model(tmp_path / "mamba", "Mamba", state_size=4, intermediate_size=32, num_hidden_layers=1)
    args = ["finetune", "-q", "-m", model, "--full", "--max-steps", 1, "-o", tmp_path / "run", few]
    run(*args).one_error(2, "mamba: has layers (MambaMixer)", "give --packing none")
    run(*args, "--packing", "none").ok()


def test_a_hybrid_model_learns_the_same_in_trees(few, tmp_path):
    """A model with gated delta nets gets the adapter of padded rows, with and without gradient checkpointing."""
    model = _tiny_model(
        tmp_path / "qwen3_5",
        "Qwen3_5Text",
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    args = ["finetune", "-q", "-m", model, "--rank", 2, "--max-steps", 2, "--batch-size", 4]
    ways = {
        "none": ["--packing", "none"],
        "tree": [],
        "again": ["--gradient-checkpointing"],
        "half": ["--dtype", "bfloat16"],
    }
    for name, options in ways.items():
        run(*args, *options, "-o", tmp_path / name, few).ok()
    assert any("linear_attn.in_proj_qkv.lora_B" in name for name in _weights(tmp_path / "tree"))
    assert (
        _run(tmp_path / "tree")["trained"]["computed_tokens"]
        < _run(tmp_path / "none")["trained"]["computed_tokens"] / 2
    )
    for name in ("tree", "again"):
        assert _distance(tmp_path / "none", tmp_path / name) < 1e-4
        for line, expected in zip(_metrics(tmp_path / name), _metrics(tmp_path / "none"), strict=True):
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for line, expected in zip(_metrics(tmp_path / "half"), _metrics(tmp_path / "none"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=0.02)


def test_reporting_curves_needs_the_package(few, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    args = ["finetune", *SMALL, "--report-to", "wandb", "-o", tmp_path / "run", few]
    run(*args).one_error(1, "--report-to wandb", "pip install wandb")
    assert not (tmp_path / "run").exists()


def test_the_loss_falls(few, tmp_path):
    """Thirty updates on the same eight examples halve the loss."""
    run(
        "finetune",
        "-q",
        "-m",
        FIRST_LAYERS,
        "--full",
        "--lr",
        0.003,
        "--schedule",
        "constant",
        "--max-steps",
        30,
        "--batch-size",
        8,
        "-o",
        tmp_path / "run",
        few,
    ).ok()
    losses = [m["loss"] for m in _metrics(tmp_path / "run")]
    assert losses[-1] < 0.5 * losses[0]


def test_full_fine_tuning_gives_a_model(few, tmp_path, data):
    run("finetune", "-q", "-m", "tiny", "--full", "-o", tmp_path / "full", "--max-steps", 1, few).ok()
    files = {p.name for p in (tmp_path / "full").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "eexp.json"} <= files
    assert json.loads((tmp_path / "full" / "config.json").read_text())["use_cache"] is True
    saved = json.loads((tmp_path / "full" / "eexp.json").read_text())
    assert saved["settings"]["full"] and saved["learning_rate"] == 1e-5
    assert saved["trainable_parameters"] > 500_000
    assert "All weights of `tiny`" in (tmp_path / "full" / "README.md").read_text()
    # it plays, it is exported, and it can be the base of the next run
    run("export", "-q", tmp_path / "full", "-o", tmp_path / "full.gguf").ok()
    for model in (tmp_path / "full.gguf", tmp_path / "full"):
        episodes = (
            run("eval", "house", "-n", 1, "--max-steps", 1, "--max-tokens", 8, "--threads", 1, "-m", model).ok().records
        )
        assert episodes[0]["prompt_style"].startswith("react@")
    again = ["finetune", "-q", "-m", tmp_path / "full", "--rank", 2, "-o", tmp_path / "on", "--max-steps", 1, few]
    run(*again).ok()
    result = run(
        "eval", "house", "-n", 1, "--max-steps", 1, "--max-tokens", 8, "--threads", 1, "-m", f"hf:{tmp_path / 'on'}"
    ).ok()
    assert result.records


def test_world_model_first_then_imitation(data, few, tmp_path):
    """The paper's order: --init continues the adapter that was trained on world-model examples."""
    world = write(tmp_path / "world", read(data["world"])[:8])
    run("finetune", "-q", *SMALL, "-o", tmp_path / "iwm", world).ok()
    run("finetune", "-q", *SMALL, "-o", tmp_path / "il", "--init", tmp_path / "iwm", "--rank", 7, few).ok()
    first, second = (json.loads((tmp_path / n / "eexp.json").read_text()) for n in ("iwm", "il"))
    assert second["trainable_parameters"] == first["trainable_parameters"], "the adapter's own rank is kept"
    assert second["init_fingerprint"].startswith("sha256:") and first["init_fingerprint"] is None
    assert second["base_fingerprint"] == first["base_fingerprint"]
    before, after = _weights(tmp_path / "iwm"), _weights(tmp_path / "il")
    moved = max(float((before[n] - after[n]).abs().max()) for n in before)
    assert 0 < moved < 0.01, "it continued where the first run ended"
    assert "continuing" in (tmp_path / "il" / "README.md").read_text()
    assert "world-model-data" in first["lineage"][0][-1] and "imitation-data" in second["lineage"][0][-1]


def test_the_optimizer_goes_on_in_the_next_round(few, tmp_path):
    """Two rounds of one update each are one run of two updates, and only where the optimiser is kept."""
    args = ["finetune", "-q", *SMALL, "--batch-size", 8, "--schedule", "constant", "--lr", 1e-3]
    run(*args, "--max-steps", 2, "-o", tmp_path / "both", few).ok()
    run(*args, "--max-steps", 1, "--keep-optimizer", "-o", tmp_path / "1", few).ok()
    run(*args, "--max-steps", 1, "--keep-optimizer", "-o", tmp_path / "2", "--init", tmp_path / "1", few).ok()
    run(*args, "--max-steps", 1, "-o", tmp_path / "anew", "--init", tmp_path / "1", few).ok()
    assert _equal_weights(tmp_path / "both", tmp_path / "2")
    assert not _equal_weights(tmp_path / "both", tmp_path / "anew", 1e-5)
    assert not (tmp_path / "anew" / "optimizer.pt").exists()


def test_weights_without_a_gradient_have_no_state(tmp_path):
    import torch

    from eexp.training.optimizer import load_state, save_state

    def made() -> torch.optim.AdamW:
        used, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))
        optimizer = torch.optim.AdamW([used, unused])
        used.sum().backward()
        return optimizer

    first, second = made(), made()
    first.step()
    save_state(first, tmp_path)
    load_state(second, tmp_path)
    (moments,) = second.state_dict()["state"].values()
    assert moments["step"] == 1 and moments["exp_avg"].shape == (3,)
    load_state(second, tmp_path / "none")


def test_an_optimizer_that_does_not_fit_is_refused(few, tmp_path):
    args = ["finetune", "-q", *SMALL, "--max-steps", 1, "--keep-optimizer"]
    run(*args, "-o", tmp_path / "1", few).ok()
    run(*args, "--rank", 3, "-o", tmp_path / "other", few).ok()
    shutil.copy(tmp_path / "other" / "optimizer.pt", tmp_path / "1")
    again = [*args, "--init", tmp_path / "1", "-o", tmp_path / "2"]
    run(*again, few).one_error(1, "1/optimizer.pt", "an adapter with other weights")
    for damaged in (b"no state", b""):
        (tmp_path / "1" / "optimizer.pt").write_bytes(damaged)
        run(*again, few).one_error(1, "1/optimizer.pt", "cannot be read")
    (tmp_path / "1" / "optimizer.pt").unlink()
    anew = [argument for argument in again if argument != "-q"]
    assert "has no optimizer.pt: the optimiser begins anew" in run(*anew, few).ok().err
    run(*args, "--full", "-o", tmp_path / "full", few).one_error(2, "--keep-optimizer is for adapters")
    best = ["--keep", "best", "--validate", few, "-o", tmp_path / "best"]
    run(*args, *best, few).one_error(2, "excludes --keep best")


def test_a_finished_run_is_not_overwritten(few, tmp_path):
    args = ["finetune", *SMALL, "-o", tmp_path / "run", "--max-steps", 1]
    run(*args, few).ok()
    before = (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    run(*args, few).one_error(2, "holds a finished run")
    assert "is finished already" in run(*args, "--resume", few).ok().err
    run(*args, "--resume", "--lr", 0.5, few).one_error(2, "other settings (learning_rate)")
    assert (tmp_path / "run" / "adapter_model.safetensors").read_bytes() == before


def test_examples_that_are_too_long(few, tmp_path):
    examples = read(few)
    examples[2]["prompt"][-1]["content"] = "The kitchen. " * 3000
    file = write(tmp_path / "in.jsonl", examples)
    error = run("finetune", *SMALL, "-o", tmp_path / "run", file).one_error(3, f"{file}:3: $.prompt: has ")
    assert "more than --max-length 2048" in error
    assert not (tmp_path / "run" / "eexp.json").exists()
    rejects = tmp_path / "rejects"
    result = run("finetune", *SMALL, "-o", tmp_path / "run", "--rejects", rejects, file).ok(4)
    assert json.loads((tmp_path / "run" / "eexp.json").read_text())["data"]["examples"] == 7
    assert read(rejects)[0]["line"] == 3 and "1 set aside" in result.err
    run("finetune", *SMALL, "--max-length", 5, "-o", tmp_path / "no", "--on-error", "skip", file).one_error(
        3, "no examples to train on"
    )


def test_from_python(few, tmp_path):
    """The stage is a function that can be called without a shell."""
    notes = []
    settings = Settings("tiny", rank=2, max_steps=1, batch_size=2)
    contents = finetune(read(few), tmp_path / "run", settings, note=notes.append)
    assert contents["updates"] == 1 and contents == json.loads((tmp_path / "run" / "eexp.json").read_text())
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ, "the next run has a directory of its own"
    with pytest.raises(InputError, match="no examples"):
        finetune([], tmp_path / "other", settings)


def test_standard_input_and_several_files(few, tmp_path):
    examples = read(few)
    half = write(tmp_path / "half", examples[:4])
    args = ["finetune", "-q", *SMALL, "--max-steps", 1]
    run(*args, "-o", tmp_path / "a", few).ok()
    run(*args, "-o", tmp_path / "b", half, "-", stdin=lines(examples[4:])).ok()
    assert _equal_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(few, tmp_path):
    import torch

    held_out = write(tmp_path / "held-out", [{**e, "group": "other"} for e in read(few)[:4]])
    command = [
        "finetune",
        *SMALL,
        "--epochs",
        6,
        "--save-every",
        2,
        "--lr",
        0.01,
        "--validate",
        held_out,
        "--validate-every",
        3,
        "--keep",
        "best",
        "--resume",
        "-q",
    ]
    run(*command, "-o", tmp_path / "whole", few).ok()
    whole = _metrics(tmp_path / "whole")
    assert len(whole) == 12
    cut = tmp_path / "cut"
    killed = 0
    for at_least, how in ((3, signal.SIGKILL), (7, signal.SIGINT)):
        begin = start if how == signal.SIGINT or torch.accelerator.is_available() else Forked
        with open(tmp_path / "stderr", "wb") as stderr:
            child = begin(*command, "-o", cut, few, stderr=stderr)
        while child.poll() is None:
            lines_written = (cut / "metrics.jsonl").read_bytes().count(b"\n") if (cut / "metrics.jsonl").exists() else 0
            if lines_written >= at_least and list((cut / "checkpoints").glob("checkpoint-*/SHA256SUMS")):
                os.kill(child.pid, how)
                killed += 1
                break
            time.sleep(0.002)
        ended = -how if how == signal.SIGKILL else 130
        assert child.wait() == ended and not (cut / "eexp.json").exists(), (tmp_path / "stderr").read_text()
    err = (tmp_path / "stderr").read_text()
    assert err.count("finetune: interrupted; the same command with --resume goes on") == 1 and "Traceback" not in err
    assert killed == 2
    other = run(*command, "-o", cut, "--batch-size", 2, few)
    other.one_error(2, "holds a run with other settings (batch_size)")
    assert command[-2] == "--resume"
    anew = run(*command[:-2], "-q", "-o", cut, few)
    anew.one_error(2, "holds a run that was interrupted, up to checkpoint-", "--resume continues it")
    for command_that_loads in (("export", cut, "-o", tmp_path / "cut.gguf"), ("eval", "house", "-m", cut, "-n", 1)):
        run(*command_that_loads).one_error(1, "this training run is not finished")
    fewer = write(tmp_path / "fewer", read(few)[:4])
    run(*command, "-o", cut, fewer).one_error(2, "holds a run with other settings (data)")
    run(*command, "--validate", fewer, "-o", cut, few).one_error(3, f"{fewer}:1: $.group: ", "is trained on, too")
    result = run(*command[:-1], "-o", cut, few).ok()
    assert "going on from" in result.err
    assert _equal_weights(tmp_path / "whole", cut), "the same weights, to the last bit"
    assert [(m["step"], m["loss"]) for m in _metrics(cut)] == [(m["step"], m["loss"]) for m in whole]
    assert _validations(cut) == _validations(tmp_path / "whole") and list(_validations(cut)) == [0, 3, 6, 9, 12]
    assert (cut / "eexp.json").read_bytes() == (tmp_path / "whole" / "eexp.json").read_bytes()


def test_a_run_that_was_killed_while_writing_is_resumed(few, tmp_path, monkeypatch):
    """The run ended after the last update and left half-written checkpoints and a half-written line of metrics."""
    from eexp.training import finetune as module

    command = ["finetune", "-q", *SMALL, "--save-every", 1, "--max-steps", 4, "--lr", 0.01, "--resume"]
    run(*command, "-o", tmp_path / "whole", few).ok()

    def die(*args):
        raise MemoryError

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_save", die)
        run(*command, "-o", cut, few).one_error(1, "out of memory")
    for half in ("checkpoint-5", "checkpoint-10"):
        (cut / "checkpoints" / half).mkdir()
        (cut / "checkpoints" / half / "adapter_model.safetensors").write_bytes(b"half")
    (cut / "checkpoints" / "checkpoint-10" / "trainer_state.json").write_text('{"epoch": 1')
    with open(cut / "metrics.jsonl", "a") as f:
        f.write('{"step": 5, "lo')
    run(*command, "-o", cut, few).ok()
    assert _equal_weights(tmp_path / "whole", cut)
    assert (cut / "eexp.json").read_bytes() == (tmp_path / "whole" / "eexp.json").read_bytes()
    assert [m["step"] for m in _metrics(cut)] == [1, 2, 3, 4]


def test_a_finished_run_is_resumed_by_the_same_command_only(few, tmp_path):
    """Other examples are refused, rejects are kept, and checkpoints that a kill left at the very end are removed."""
    broken = tmp_path / "in"
    broken.write_bytes(few.read_bytes() + b"{}\n")
    args = ["finetune", *SMALL, "--max-steps", 1, "--rejects", tmp_path / "rejects", "-o", tmp_path / "run", "--resume"]
    run(*args, broken).ok(4)
    rejects = (tmp_path / "rejects").read_bytes()
    assert rejects.count(b"\n") == 1
    (tmp_path / "run" / "checkpoints").mkdir()
    assert "is finished already" in run(*args, broken).ok(4).err
    assert (tmp_path / "rejects").read_bytes() == rejects and not (tmp_path / "run" / "checkpoints").exists()
    fewer = write(tmp_path / "fewer", read(few)[:7])
    run(*args, fewer).one_error(2, "holds a run with other settings (data)")
    regrouped = write(tmp_path / "regrouped", [{**e, "group": e["id"]} for e in read(few)])
    run(*args, regrouped).one_error(2, "holds a run with other settings (data)")


def test_a_killed_run_is_resumed_from_the_same_adapter_and_budget_only(few, data, tmp_path, monkeypatch):
    """Another adapter, or another run for the budget, under the same name is refused."""
    from eexp.training import finetune as module

    for name, steps in (("iwm", 1), ("other", 2)):
        run("finetune", "-q", *SMALL, "--max-steps", steps, "-o", tmp_path / name, few).ok()
    run("finetune", "-q", *SMALL, "--max-steps", 4, "-o", tmp_path / "il", few).ok()
    args = [
        "finetune",
        "-q",
        *SMALL,
        "--init",
        tmp_path / "iwm",
        "--budget-like",
        tmp_path / "il",
        "--resume",
        "-o",
        tmp_path / "run",
        few,
    ]

    def die(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, "_save", die)
        run(*args).one_error(1, "out of memory")
    for changed, difference in (("il", "updates, total"), ("iwm", "init_fingerprint")):
        (tmp_path / changed).rename(tmp_path / "kept")
        (tmp_path / "other").rename(tmp_path / changed)
        run(*args).one_error(2, f"holds a run with other settings ({difference})")
        (tmp_path / changed).rename(tmp_path / "other")
        (tmp_path / "kept").rename(tmp_path / changed)
    run(*args).ok()


def test_nan_and_infinity_are_refused(few, tmp_path):
    for option in ("--epochs", "--lr", "--warmup", "--weight-decay"):
        for number in ("nan", "inf"):
            result = run("finetune", *SMALL, option, number, "-o", tmp_path / "run", few).ok(2)
            assert f"Invalid value for '{option}'" in result.err
    for seed in (-1, 2**40):
        run("finetune", "-q", *SMALL, "--seed", seed, "-o", tmp_path / f"run{seed}", few).ok()


def test_a_constant_rate_is_warmed_up_too(few, tmp_path):
    run(
        "finetune",
        "-q",
        *SMALL,
        "--schedule",
        "constant",
        "--warmup",
        0.5,
        "--lr",
        0.01,
        "--epochs",
        2,
        "-o",
        tmp_path / "run",
        few,
    ).ok()
    assert [m["learning_rate"] for m in _metrics(tmp_path / "run")] == pytest.approx([0, 0.005, 0.01, 0.01])


def test_a_loss_of_nan_ends_the_run(few, tmp_path):
    args = ["finetune", "-q", "-m", "tiny", "--full", "--lr", 1e30, "--batch-size", 4, "--epochs", 3]
    run(*args, "-o", tmp_path / "run", few).one_error(1, "update ", " is nan; a lower --lr may help")
    assert not (tmp_path / "run" / "eexp.json").exists()


def test_examples_set_aside_are_not_counted_by_kind(few, tmp_path):
    examples = read(few)
    examples[2]["prompt"][-1]["content"] = "The kitchen. " * 3000
    run("finetune", "-q", *SMALL, "--on-error", "skip", "-o", tmp_path / "run", write(tmp_path / "in", examples)).ok(4)
    assert json.loads((tmp_path / "run" / "eexp.json").read_text())["data"]["kinds"] == {"imitation": 7}


def test_an_adapter_as_the_base_is_refused(few, tmp_path):
    run("finetune", "-q", *SMALL, "--max-steps", 1, "-o", tmp_path / "il", few).ok()
    args = ["finetune", "-m", tmp_path / "il", "-o", tmp_path / "run", few]
    run(*args).one_error(2, "an adapter; give its base as -m, and it as --init")


def test_models_that_eval_plays_but_that_cannot_be_trained_are_refused(few, tmp_path):
    for base in ("model.gguf", "http://localhost:1/v1#x"):
        run("finetune", "-m", base, "-o", tmp_path / "run", few).one_error(2, f"{base}: training needs the weights")


def test_the_base_may_be_named_as_for_playing(few, tmp_path):
    """With hf: the run is the same one, its description included, and `export --base` takes the name as well."""
    for name in ("tiny", "hf:tiny"):
        run("finetune", "-q", *SMALL, "--max-steps", 1, "-m", name, "-o", tmp_path / name, few).ok()
    descriptions = [json.loads((tmp_path / name / "eexp.json").read_text()) for name in ("tiny", "hf:tiny")]
    assert len({path.stat().st_mode for path in (tmp_path / "tiny").iterdir()}) == 1, "weights are as readable"
    assert [description["base"] for description in descriptions] == ["tiny", "tiny"]
    run("export", tmp_path / "tiny", "--base", "hf:tiny", "-o", tmp_path / "il.gguf").ok()


def test_the_base_is_not_overwritten(few, tmp_path):
    from eexp.records.runs import TINY_DIR

    shutil.copytree(TINY_DIR, tmp_path / "base")
    before = {p.name: p.read_bytes() for p in (tmp_path / "base").iterdir()}
    args = ["finetune", "-m", tmp_path / "base", "--full", "--max-steps", 1, "-o", tmp_path / "base", few]
    run(*args).one_error(2, "base is both read and written; give another -o")
    assert {p.name: p.read_bytes() for p in (tmp_path / "base").iterdir()} == before


def test_a_budget_that_cannot_be_kept_brings_a_warning(few, data, tmp_path):
    """An update has at least one example, and each of these has more target tokens than an update of that run."""
    run("finetune", "-q", *SMALL, "--batch-size", 1, "--max-steps", 3, "-o", tmp_path / "il", few).ok()
    args = ["finetune", *SMALL, "--budget-like", tmp_path / "il", "-o", tmp_path / "run", data["reflected"]]
    budget = json.loads((tmp_path / "il" / "eexp.json").read_text())["total"]["target_tokens"]
    warning = f"target tokens, though the budget is {budget:,}: 3 updates have one example each at least"
    assert warning in run(*args, "--dry-run").ok().out.decode()
    assert warning in run(*args).ok().err


def test_tied_weights_are_counted_once(tmp_path, monkeypatch):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "tied")
    size = 4 * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(memory, "free", lambda: size)
    memory.check(str(tmp_path / "tied"), torch.float32, full=False, four_bit=False)
    monkeypatch.setattr(memory, "free", lambda: size - 1)
    with pytest.raises(EexpError, match="to train"):
        memory.check(str(tmp_path / "tied"), torch.float32, full=False, four_bit=False)


def test_an_unfinished_run_is_shown(few, tmp_path):
    run("finetune", "-q", *SMALL, "-o", tmp_path / "run", few).ok()
    with open(tmp_path / "run" / "metrics.jsonl", "a") as f:
        f.write('{"step": 3, "lo')
    assert "step 2: loss" in run("show", tmp_path / "run").ok().out.decode()


def test_the_first_process_alone_shows_a_dry_run(few, tmp_path, monkeypatch):
    args = ["finetune", *SMALL, "--dry-run", "-o", tmp_path / "run", few]
    assert run(*args).ok().out.count(b"target tokens\n") == 1
    monkeypatch.setenv("RANK", "1")
    assert run(*args).ok().out == b""


@pytest.mark.long
def test_one_process_writes_the_messages_of_all(few, tmp_path):
    """Examples set aside are reported once, and no process ends the run before it is saved."""
    broken = tmp_path / "in"
    broken.write_bytes(few.read_bytes() + b"{}\n")
    args = [*map(str, SMALL), "--max-steps", "2", "-o", str(tmp_path / "run")]
    process = _in_two_processes(*args, "--rejects", tmp_path / "rejects", broken)
    assert process.stderr.count("set aside: ") == 1 and "exitcode  : 4" in process.stderr, process.stderr
    assert (tmp_path / "run" / "eexp.json").is_file() and not (tmp_path / "run" / "checkpoints").exists()
    assert len(read(tmp_path / "rejects")) == 1


def test_several_processes_have_one_standard_input(few, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for args in ([], ["-"], [few, "-"]):
        run("finetune", *SMALL, "-o", tmp_path / "run", *args).one_error(2, "cannot share standard input; give files")

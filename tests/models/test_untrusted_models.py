"""Model directories and files of unknown origin: code in them, wrong types, damage."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from running import environment, run, spawn, write

from eexp.records.runs import TINY_DIR

EXAMPLE = {
    "type": "example",
    "id": "1",
    "kind": "imitation",
    "prompt": [{"role": "user", "content": "look"}],
    "completion": [{"role": "assistant", "content": "Action: look"}],
}

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).write_text("ran")
class Config(LlamaConfig):
    model_type = "custom-llama"
class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture
def example(tmp_path) -> Path:
    return write(tmp_path / "example.jsonl", [EXAMPLE])


@pytest.fixture
def custom(tmp_path) -> tuple[Path, Path]:
    """Return a model directory that brings code, and the file that the code writes."""
    where, mark = tmp_path / "custom", tmp_path / "mark"
    shutil.copytree(TINY_DIR, where)
    config = json.loads((where / "config.json").read_text())
    config |= {
        "model_type": "custom-llama",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (where / "config.json").write_text(json.dumps(config))
    (where / "code.py").write_text(CODE.format(mark=str(mark)))
    return where, mark


@pytest.mark.parametrize("command", [["score", "-m", "hf:{}"], ["finetune", "-o", "out", "--dry-run", "-m", "{}"]])
def test_code_of_a_model_runs_only_with_the_option(custom, example, monkeypatch, tmp_path, command):
    """No question is asked, and a yes on standard input is no answer: standard input is for records."""
    where, mark = custom
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    command = [part.format(where) for part in command]
    result = run(*command, example, stdin=b"y\n" * 9)
    result.one_error(1, "wants to run Python code of its own", "--trust-remote-code")
    assert not mark.exists() and not result.out
    run(*command, example, "--trust-remote-code").ok()
    assert mark.read_text() == "ran"


@pytest.mark.parametrize(
    ("run_file", "message"),
    [
        ({"longest_completion": {"x": "9"}}, "$.longest_completion[...]: expected an integer, got a string"),
        ({"longest_completion": [9]}, "$.longest_completion: expected an object"),
        ({"style": "react"}, "$.style: expected an object"),
        ({"style": {"name": 3}}, ""),
        ({"prompt_style": 7}, "$.prompt_style: expected a string"),
        ({"think": ["always"]}, "$.think: expected a string"),
        ({"base_fingerprint": {}}, "$.base_fingerprint: expected a string"),
        ([], "not a JSON object"),
    ],
)
def test_wrong_types_in_a_run_file(tmp_path, example, run_file, message):
    where = tmp_path / "model"
    shutil.copytree(TINY_DIR, where)
    (where / "eexp.json").write_text(json.dumps(run_file))
    assert run("score", "-m", f"hf:{where}", example).one_error(run_code(run_file), message)


def run_code(run_file: object) -> int:
    """An invalid style is bad input; other wrong values make a file that cannot be used."""
    return 3 if isinstance(run_file, dict) and run_file.get("style") == {"name": 3} else 1


@pytest.mark.parametrize("total", [{"total": 7}, {"total": {"updates": "9", "target_tokens": 1}}, {"total": {}}])
def test_wrong_types_in_the_run_whose_budget_is_taken(tmp_path, example, total):
    (tmp_path / "eexp.json").write_text(json.dumps(total))
    result = run("finetune", "-m", "tiny", "-o", tmp_path / "out", "--budget-like", tmp_path, example)
    result.one_error(2 if total == {"total": {}} else 1)


@pytest.mark.parametrize("backend", ["transformers", "llama.cpp"])
def test_an_adapter_of_nan_is_one_line(tmp_path, example, backend, tiny, data):
    from safetensors.numpy import load_file, save_file

    adapter = tmp_path / "adapter"
    run("finetune", "-m", "tiny", "-o", adapter, "--max-steps", 1, data["imitation"], "-q").ok()
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    spec = f"hf:{adapter}"
    if backend == "llama.cpp":
        run("export", adapter, "-o", tmp_path / "adapter.gguf").ok()
        spec = f"tiny+{tmp_path / 'adapter.gguf'}"
    for command in (["score", example], ["branch", "--no-only-admissible", "-k", 2, data["expert"]]):
        run(*command, "-m", spec).one_error(1, "computes no probabilities")


@pytest.mark.parametrize("template", ["{# nothing #}", "{% if false %}x{% endif %}"])
def test_a_template_that_writes_nothing(tmp_path, example, template):
    where = tmp_path / "model"
    shutil.copytree(TINY_DIR, where)
    (where / "chat_template.jinja").write_text(template)
    run("export", where, "-o", tmp_path / "model.gguf").ok()
    for spec in (f"hf:{where}", str(tmp_path / "model.gguf")):
        run("score", "-m", spec, example).one_error(3, "the chat template writes nothing")
        run("eval", "house", "-m", spec, "-n", 1).one_error(3, "the chat template writes nothing")
    run("finetune", "-m", where, "-o", tmp_path / "out", example).one_error(3, "the chat template writes nothing")


@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_full_disk_ends_training_in_one_line(tmp_path, data, in_process):
    """A limit on the size of files fails in the same calls. The adapter's tensors are larger, its settings are not."""
    command = ["finetune", "-m", "tiny", "-o", tmp_path / "out", "--max-steps", 1, data["imitation"]]
    if not in_process:  # below, pytest needs larger files
        limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))}
        limited["env"] = environment(PYTHONDONTWRITEBYTECODE="1")  # or half a module's bytecode stays behind
        spawn(*command, **limited).one_error(1, str(tmp_path / "out"))
        return
    run(*command, "--dry-run").ok()  # all modules are imported: the limit is on their bytecode, too
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, usual[1]))
    try:
        result = run(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    result.one_error(1, str(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_disk_that_fills_up_costs_what_follows_the_last_checkpoint(tmp_path, data):
    """The disk has room for one checkpoint and a part of the next; with more room --resume makes the same weights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount here")
    train = ["finetune", "-m", "tiny", "--max-steps", 3, "--batch-size", 4, "--save-every", 1, data["imitation"], "-o"]
    try:
        run(*train, disk / "run").one_error(1, f"{disk / 'run'}", "--resume goes on from the last whole checkpoint")
        assert (disk / "run" / "checkpoints" / "checkpoint-1" / "trainer_state.json").is_file()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert "going on from" in run(*train, disk / "run", "--resume").ok().err
        weights = (disk / "run" / "adapter_model.safetensors").read_bytes()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    run(*train, tmp_path / "whole").ok()
    assert weights == (tmp_path / "whole" / "adapter_model.safetensors").read_bytes()


def test_adapter_config_does_not_depend_on_the_hash_seed(tmp_path, data):
    """PEFT keeps the modules in a set, whose order differs from one process to the next."""
    run("finetune", "-m", "tiny", "--max-steps", 1, data["imitation"], "-o", tmp_path / "run").ok()
    modules = json.loads((tmp_path / "run" / "adapter_config.json").read_bytes())["target_modules"]
    assert len(modules) > 3 and modules == sorted(modules)


def test_a_damaged_file_does_not_end_the_process(tmp_path, example, tiny):
    """Two tokens have one text: llama.cpp asserts that this does not happen, and ends the process."""
    data = tiny.read_bytes()
    one, other = (struct.pack("<Q", 2) + text.encode() for text in ("\u0102", "\u0101"))
    assert data.count(one) == 1
    (tmp_path / "model.gguf").write_bytes(data.replace(one, other))
    run("score", "-m", tmp_path / "model.gguf", example).one_error(1, "a damaged file", "SIGABRT")
    (tmp_path / "text.gguf").write_bytes(data.replace(b"{% for message", b"{% for \xffessage", 1))
    run("score", "-m", tmp_path / "text.gguf", example).one_error(1, "text.gguf: its chat template is not UTF-8")
    (tmp_path / "run.gguf").write_bytes(data.replace(b"general.type\x08", b"general.typ\xff\x08", 1))
    run("score", "-m", tmp_path / "run.gguf", example).one_error(1, "a damaged one")

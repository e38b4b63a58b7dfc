"""Computing in bfloat16 and in 4 bits on a processor where that ends the process, played by stubs of two libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from running import run, write

from eexp.models.backends import hf, kernels

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="a trial is for CPUs")

EXAMPLE = {
    "type": "example",
    "id": "1",
    "kind": "imitation",
    "prompt": [{"role": "user", "content": "look"}],
    "completion": [{"role": "assistant", "content": "Action: look"}],
}

#: Stands before a library on the module path and imports it; what computes with it in a type then has a fault.
STUB = """
import importlib, os, signal, sys

name = __name__
here = os.path.dirname(os.path.dirname(__file__))
with open(os.path.join(here, "started"), "a") as file:
    file.write("x")
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != here]
del sys.modules[name]
importlib.import_module(name)
module = importlib.import_module("{module}")
compute = module.{function}

def die(given, *args, **kwargs):
    if str(given.dtype) == "torch.{dtype}":
        os.kill(os.getpid(), signal.SIGILL)
    return compute(given, *args, **kwargs)

module.{function} = die
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Return a function that puts a stub on the path of trials; it returns a function that counts them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(module: str, function: str, dtype: str):
        package = tmp_path / "stub" / module.partition(".")[0]
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(STUB.format(module=module, function=function, dtype=dtype))
        monkeypatch.syspath_prepend(str(package.parent))  # this process has imported the real one
        started = package.parent / "started"
        return lambda: len(started.read_text()) if started.exists() else 0

    return install


@pytest.fixture
def example(tmp_path) -> Path:
    return write(tmp_path / "example.jsonl", [EXAMPLE])


def test_bfloat16_that_ends_the_process(stub, example, tmp_path):
    """A model whose weights are stored in it runs in float32; where it was asked for, the command ends."""
    model, tokenizer = hf.load_model("tiny")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    trials = stub("torch.nn.functional", "linear", "bfloat16")
    run("score", "-m", "hf:tiny", example).ok()
    assert trials() == 0, "float32 needs no trial"
    for _ in range(2):
        result = run("score", "-m", f"hf:{tmp_path / 'half'}", example).ok()
        lines = [line for line in result.err.splitlines() if "SIGILL" in line]
        assert len(lines) == 1 and str(tmp_path / "half") in lines[0] and "float32" in lines[0]
        assert "float32, CPU" in result.err and trials() == 1
    args = ["finetune", "-q", "-m", "tiny", "--max-steps", 1, "-o", tmp_path / "run", example]
    run(*args, "--dtype", "bfloat16").one_error(1, "--dtype bfloat16", "SIGILL", "torch", "give --dtype float32")
    run(*args).ok()
    assert trials() == 1


@pytest.mark.slow
def test_four_bits_that_end_the_process(stub, example, tmp_path):
    pytest.importorskip("bitsandbytes")
    trials = stub("bitsandbytes", "matmul_4bit", "float32")
    args = ["finetune", "-q", "-m", "tiny", "--load-in-4bit", "--max-steps", 1, "-o", tmp_path / "run", example]
    for _ in range(2):
        run(*args).one_error(1, "--load-in-4bit", "SIGILL", "bitsandbytes")
        assert trials() == 1


def test_a_trial_passes_here_and_is_remembered(monkeypatch):
    assert kernels.crash_of(torch.bfloat16) is None
    monkeypatch.setattr(kernels, "try_function", None)
    assert kernels.crash_of(torch.bfloat16) is None and kernels.crash_of(torch.float32) is None

"""Native code that dies: a processor whose batches crash, played by a stub around llama.cpp, and a real one with AMX."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import environment, run, spawn, write

from eexp.models import trial
from eexp.processes.trial import try_function

EXAMPLE = {
    "type": "example",
    "id": "1",
    "kind": "imitation",
    "prompt": [{"role": "user", "content": "look"}],
    "completion": [{"role": "assistant", "content": "Action: look"}],
}

#: Stands before llama-cpp-python on the module path, imports it, and lets batches of two or more tokens end the process.
STUB = """
import importlib, os, signal, sys, time

here = os.path.dirname(os.path.dirname(__file__))
with open(os.path.join(here, "started"), "a") as file:
    file.write("x")
path = list(sys.path)
sys.path[:] = [place for place in path if os.path.abspath(place) != here]
del sys.modules["llama_cpp"]
api = importlib.import_module("llama_cpp.llama_cpp")
sys.path[:] = path

load, decode = api.llama_model_load_from_file, api.llama_decode
extra = False

def load_model(name, params):
    global extra
    extra = params.use_extra_bufts
    return load(name, params)

def decode_batch(context, batch):
    if batch.n_tokens >= 2:
        {fault}
    return decode(context, batch)

api.llama_model_load_from_file, api.llama_decode = load_model, decode_batch
"""
DIES = "extra and os.kill(os.getpid(), signal.SIGSEGV)"
DIES_ALWAYS = "os.kill(os.getpid(), signal.SIGILL)"
HANGS = "extra and time.sleep(600)"


@pytest.fixture
def example(tmp_path) -> Path:
    return write(tmp_path / "example.jsonl", [EXAMPLE])


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Return a function that puts the stub on the path of trials; it returns a function that counts them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(fault: str):
        package = tmp_path / "stub" / "llama_cpp"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(STUB.replace("{fault}", fault))
        monkeypatch.syspath_prepend(str(package.parent))
        started = package.parent / "started"
        return lambda: len(started.read_text()) if started.exists() else 0

    return install


@pytest.fixture
def model(tiny, tmp_path) -> Path:
    """A file that no other test has opened."""
    os.link(tiny, tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_a_processor_whose_batches_crash(stub, model, example):
    """The whole command runs on it, not only its trial: without the extra buffers, and with one line that says so."""
    trials = stub(DIES)
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(model.parent / "stub"), variables["PYTHONPATH"]])
    crashed = spawn("score", "-m", model, example, env=variables).ok()
    assert len(crashed.records) == 1 and trials() == 3  # two trials and the command
    lines = [line for line in crashed.err.splitlines() if "SIGSEGV" in line]
    assert len(lines) == 1 and "ggml-org/llama.cpp#20824" in lines[0] and "without" in lines[0]
    again = run("score", "-m", model, example).ok()
    assert again.records[0]["scores"] == crashed.records[0]["scores"] and trials() == 3
    assert again.err.count("SIGSEGV") == 1
    for file in (model.parent / "cache" / "eexp" / "trials").iterdir():
        file.write_bytes(b'{"result": {"extra_buffers"')
    assert run("score", "-m", model, example).ok().err.count("SIGSEGV") == 1 and trials() == 5


def test_a_processor_on_which_nothing_runs(stub, model, example):
    trials = stub(DIES_ALWAYS)
    for number in (2, 4):  # nothing is remembered of what may have been a want of memory
        run("score", "-m", model, example).one_error(1, str(model), "SIGILL", "ggml-org/llama.cpp#20824")
        assert trials() == number


def test_batches_that_hang(stub, model, example, monkeypatch):
    monkeypatch.setattr(
        trial, "try_function", lambda *args: try_function(*args[:2], 8.0 if args[1][2] else 600.0, args[3])
    )
    trials = stub(HANGS)
    assert "no end" in run("score", "-m", model, example).ok().err and trials() == 2


def test_a_trial_is_remembered(stub, model, example):
    trials = stub("pass")
    first = run("score", "-m", model, example).ok()
    assert "#20824" not in first.err and trials() == 1
    assert run("score", "-m", model, example).ok().out == first.out and trials() == 1
    run("score", "-m", model, "--batch", 1, example).ok()
    assert trials() == 2


def has_amx() -> bool:
    try:
        return "amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not has_amx(), reason="needs a processor with AMX")
@pytest.mark.parametrize("dtype", ["q8_0", "q4_k_m"])
def test_quantised_models_on_a_processor_with_amx(dtype, tmp_path, example, data):
    """Whether llama.cpp crashes there or not, the commands run, also in a process of their own."""
    run("export", "tiny", "--type", dtype, "-o", tmp_path / "model.gguf").ok()
    spawn("score", "-m", tmp_path / "model.gguf", example).ok()
    spawn("branch", "--no-only-admissible", "-k", 2, "-m", tmp_path / "model.gguf", data["expert"]).ok()
    spawn("eval", "house", "-n", 1, "--max-steps", 2, "-m", tmp_path / "model.gguf").ok()

"""Native code that dies: a processor whose batches crash, played by a stub of llama.cpp, and a real one with AMX."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import Result, environment, run, spawn, write

from eexp.models.backends import llama_trial as trial
from eexp.system.trial import TrialEnd, try_function

EXAMPLE = {
    "type": "example",
    "id": "1",
    "kind": "imitation",
    "prompt": [{"role": "user", "content": "look"}],
    "completion": [{"role": "assistant", "content": "Action: look"}],
}

#: Stands before llama-cpp-python on the module path and imports it; a batch of two or more tokens has a fault.
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
    import llama_cpp.llama_cpp  # noqa: F401, this process keeps the real one

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


def score(model: Path, example: Path, *options: object) -> Result:
    return run("score", "-m", model, "--threads", 1, *options, example)


def test_a_processor_whose_batches_crash(stub, model, example):
    """The model runs without the extra buffers, and one line says so, each time; the trial runs once."""
    trials = stub(DIES)
    for number in (2, 2, 4):
        if number == 4:
            for file in (model.parent / "cache" / "eexp" / "trials").iterdir():
                file.write_bytes(b'{"result": {"extra_buffers"')
        result = score(model, example).ok()
        lines = [line for line in result.err.splitlines() if "SIGSEGV" in line]
        assert len(lines) == 1 and "ggml-org/llama.cpp#20824" in lines[0] and "without" in lines[0]
        assert trials() == number
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(model.parent / "stub"), variables["PYTHONPATH"]])
    command = spawn("score", "-m", model, "--threads", 1, example, env=variables).ok()
    assert command.records[0]["scores"] == result.records[0]["scores"]  # it would have crashed itself


def test_a_processor_on_which_nothing_runs(stub, model, example):
    trials = stub(DIES_ALWAYS)
    for number in (2, 4):  # nothing is remembered of what may have been a want of memory
        score(model, example).one_error(1, str(model), "SIGILL", "ggml-org/llama.cpp#20824")
        assert trials() == number


def test_batches_that_hang(stub, model, example, monkeypatch):
    def with_deadline(function: str, arguments: list, limit: float, name: str) -> TrialEnd:
        return try_function(function, arguments, 3.0 if arguments[2] else limit, name)

    monkeypatch.setattr(trial, "try_function", with_deadline)
    trials = stub(HANGS)
    assert "no end" in score(model, example).ok().err and trials() == 2


def test_a_trial_is_remembered(stub, model, example):
    trials = stub("pass")
    first = score(model, example).ok()
    assert "#20824" not in first.err and trials() == 1
    assert score(model, example).ok().out == first.out and trials() == 1
    score(model, example, "--batch", 1).ok()
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

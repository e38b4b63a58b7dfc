"""Tiny data that many tests read, made once a run."""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from running import ROOT, run

from eexp.system.late import large_imports

# In the background of a script SIGINT is ignored, by every process that is started from there, too: no Ctrl-C to test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples have no deadline, since times vary on a busy machine, and no database, which would lie in the checkout.
# `make test-long` draws more of them.
hypothesis.settings.register_profile("eexp", deadline=None, database=None)
hypothesis.settings.register_profile("wide", deadline=None, database=None, max_examples=400)
hypothesis.settings.load_profile("eexp")
# The tests start more than a thousand processes, each of which would compile all modules of eexp anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests themselves run in parallel
os.environ["HF_HUB_OFFLINE"] = "1"  # before the library that reads it is imported: it would retry for half a minute
# Until the tests are collected. What is imported and collected stays, and a search in it finds no garbage; PEFT imports
# no bitsandbytes, as in the commands.
_imports = ExitStack()
_imports.enter_context(large_imports())


def pytest_collection_finish() -> None:
    """Let the collector search what the tests make, and no longer what was there before them."""
    _imports.close()
    gc.freeze()


def _shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of all processes that run tests side by side."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory):
    """Keep the user's settings out of the tests, and the tests' exported tiny model out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("EEXP_") or n == "OPENAI_API_KEY"]:
            patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(_shared_directory(tmp_path_factory) / "cache"))
        # For a few episodes a JVM would spend a third of its time on optimising code.
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
        patch.setenv("COLUMNS", "100")
        yield


@pytest.fixture(autouse=True)
def _no_variable_outlives_its_test():
    """Restore the environment variables that commands in this process set for the processes they start."""
    before = _variables()
    yield
    after = _variables()
    if after != before:
        for name in after.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _variables() -> dict[str, str]:
    """Return all environment variables but the one in which pytest names the phase of a test."""
    variables = dict(os.environ)
    variables.pop("PYTEST_CURRENT_TEST", None)
    return variables


_modules_frozen = 0


@pytest.fixture(autouse=True)
def _freeze_imported_modules():
    """Keep the collector from searching imported modules: PyTorch alone is a million objects, and training collects."""
    yield
    global _modules_frozen
    if len(sys.modules) > _modules_frozen + 300:
        gc.collect()
        gc.freeze()
        _modules_frozen = len(sys.modules)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function that fills a directory by its name, once for all processes that run tests side by side.

    The first process that needs a directory makes it, and the others wait. No test may change what is in it.
    """
    shared = _shared_directory(tmp_path_factory)

    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        directory, finished = shared / name, shared / f"{name}.finished"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                shutil.rmtree(directory, ignore_errors=True)  # what a test that failed here has left
                directory.mkdir()
                make(directory)
                finished.touch()
        return directory

    return made_once


@pytest.fixture(scope="session")
def data(made_once) -> dict[str, Path]:
    """Files of three house trajectories and what the stages make of them, by name."""
    return {file.stem: file for file in made_once("data", _make_data).glob("*.jsonl")}


def _make_data(here: Path) -> None:
    files = {}

    def stage(name: str, *args: object) -> None:
        files[name] = here / f"{name}.jsonl"
        run(*args, "-q", "-o", files[name]).ok()

    stage("expert", "expert", "house", "-n", "3", "--skip", "3")
    stage("branched", "branch", "--from", "admissible", "-k", "3", files["expert"])
    stage("rollout", "rollout", files["branched"])
    stage("world", "world-model-data", files["rollout"])
    stage("reflected", "reflect", "--rationale", "outcome", files["rollout"])
    stage("imitation", "imitation-data", files["expert"])
    stage("episodes", "eval", "house", "-m", "random", "-n", "4", "--max-steps", "6")


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The built-in model as GGUF."""
    from eexp.gguf.built_in import built_in_gguf

    return built_in_gguf()


collect_ignore = ["tau_checkout"]  # its tasks_test.py holds tasks


@pytest.fixture(scope="session")
def scienceworld():
    """ScienceWorld with one simulator for all tests of this process, which takes seconds to start."""
    from eexp.envs import open_env

    with open_env("scienceworld") as env:
        yield env


TEXTWORLD_GAMES = [("train", "cooking", 1), ("train", "custom", 1), ("train", "treasure", 1), ("test", "coin", 0)]


def recipe(name: str):
    """A program of recipes/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / name / "make_games.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def textworld_games(made_once) -> Path:
    """A directory of four games."""

    def make(directory: Path) -> None:
        for game in TEXTWORLD_GAMES:
            recipe("textworld").make(directory, *game)

    return made_once("textworld", make)


@pytest.fixture(scope="session")
def alfworld_games(made_once) -> Path:
    """A directory of small games in the layout of ALFWorld's data."""
    directory = made_once("alfworld", lambda directory: recipe("alfworld").make(directory / "data"))
    return directory / "data"


#: The Python that has the package appworld; the variable is read before the tests remove it.
APPWORLD_PYTHON = os.environ.get("EEXP_TEST_APPWORLD", "")


@pytest.fixture(scope="session")
def appworld_spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The spec of AppWorld with a data set of the tests' own, which its own classes write in its format."""
    if not APPWORLD_PYTHON:
        pytest.skip("EEXP_TEST_APPWORLD names no Python with the package appworld")
    root = tmp_path_factory.mktemp("appworld")
    script = ROOT / "tests" / "appworld_data.py"
    subprocess.run([APPWORLD_PYTHON, script, root], check=True, timeout=250, stdout=subprocess.DEVNULL)
    return f"appworld?root={root}&python={APPWORLD_PYTHON}"

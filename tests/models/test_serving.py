"""An adapter behind llama-server plays the episodes that it plays in this process.

The server comes with the sources of llama.cpp, which llama-cpp-python's package has in vendor/llama.cpp. Its path is
given by EEXP_TEST_LLAMA_SERVER.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from running import read, run

SERVER = os.environ.get("EEXP_TEST_LLAMA_SERVER")
pytestmark = pytest.mark.skipif(not SERVER, reason="EEXP_TEST_LLAMA_SERVER names no llama-server")


@contextmanager
def served(*args: object):
    """Serve a model, and yield the address of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVER, *map(str, args), "--port", str(port), "--threads", "1", "--reasoning-format", "none"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the files of the base, and of an adapter that imitates the expert."""
    here = tmp_path_factory.mktemp("trained")
    run("expert", "house", "-n", 20, "-q", "-o", here / "expert").ok()
    run("imitation-data", "-q", here / "expert", "-o", here / "il.jsonl").ok()
    run("finetune", "-m", "tiny", "-o", here / "il", "--lr", 3e-3, "--max-steps", 30, "-q", here / "il.jsonl").ok()
    run("export", "tiny", "--type", "f32", "-o", here / "base.gguf").ok()
    run("export", here / "il", "-o", here / "il.gguf").ok()
    return here / "base.gguf", here / "il.gguf"


def test_the_episodes_are_those_of_this_process(trained, tmp_path):
    base, adapter = trained
    play = ("-n", 12, "--max-steps", 12, "--prompt-style", "react", "--max-tokens", 12, "-q")
    run("eval", "house", "-m", f"{base}+{adapter}", "--threads", 1, *play, "-o", tmp_path / "own").ok()
    with served("-m", base, "--lora", adapter, "-c", 16384, "--parallel", 4) as url:
        run("eval", "house", "-m", url, "--parallel", 4, *play, "-o", tmp_path / "served").ok()
    own, other = (read(tmp_path / name) for name in ("own", "served"))
    assert [e["transcript"] for e in other] == [e["transcript"] for e in own]
    assert sum(e["steps"] - e["invalid"] for e in own) > 40, "the agent acts"

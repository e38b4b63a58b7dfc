"""Measure what a second server gives `eexp branch`, and what a server that is killed takes from it.

    pip install 'llama-cpp-python[server]'
    python benchmarks/fleet.py > benchmarks/fleet.txt

one        `eexp branch` with one server
two        the same with a fleet of two, of one thread each
killed     the same with a fleet of two, the second of which is killed when a quarter of the records is written, and
           started again when eexp has left it out

The servers are real ones with the built-in tiny model, by default of llama-cpp-python; --server gives the command of
another one, with {model} and {port} in it. Both begin each way anew, with empty caches. The output is seconds, states a
second, whether the records are byte for byte those of one server, and what the summary says of each server.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

SERVER = (
    f"{shlex.quote(sys.executable)} -m llama_cpp.server --model {{model}} --host 127.0.0.1 --port {{port}} "
    f"--n_ctx 4096 --n_threads 1 --n_threads_batch 1 --model_alias tiny"
)
LIMIT = 120.0  # seconds for the start of a server


class RealServer:
    """A server in a process of its own.

    Args:
        command: Starts it, with {model} and {port} in it.
        model: A GGUF file.
    """

    def __init__(self, command: str, model: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._command = shlex.split(command.format(model=shlex.quote(str(model)), port=self.port))
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and return at once."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until it answers."""
        until(self._answers, LIMIT)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise SystemExit(f"the server has ended: {shlex.join(self._command)}")
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def until(condition: Callable[[], bool], limit: float = math.inf, process: subprocess.Popen | None = None) -> None:
    """Wait until a condition is true; end the benchmark where `limit` seconds or the process end before."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {limit:g} s")
        if process is not None and process.poll() is not None:
            raise SystemExit("the command has ended too early: give a larger -n")
        time.sleep(0.02)


def eexp(*args: object) -> list[str]:
    """Return the command line of a command of eexp."""
    return [sys.executable, "-m", "eexp", *map(str, args)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", "--number", type=int, default=40, metavar="N", help="trajectories")
    parser.add_argument("-k", type=int, default=4, metavar="N", help="alternatives in every state")
    parser.add_argument("--server", default=SERVER, metavar="COMMAND", help="with {model} and {port} in it")
    args = parser.parse_args()
    print(f"$ python {shlex.join(['benchmarks/fleet.py', *sys.argv[1:]])}")
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        subprocess.run(eexp("export", "tiny", "-o", directory / "tiny.gguf"), check=True, stderr=subprocess.DEVNULL)
        subprocess.run(eexp("expert", "house", "-q", "-n", args.number, "-o", directory / "expert"), check=True)
        servers = [RealServer(args.server, directory / "tiny.gguf") for _ in range(2)]
        measure(servers, directory, args.number, args.k)


def measure(servers: list[RealServer], directory: Path, number: int, k: int) -> None:
    """Run all ways, and print what came of each."""
    alone, both = f"{servers[0].url}#tiny", ",".join(f"{server.url}#tiny" for server in servers)
    records: dict[str, bytes] = {}
    print(f"\n{'':10}{'seconds':>10}{'states a second':>18}   records of one server")
    notes: dict[str, list[str]] = {}
    for way, model in (("one", alone), ("two", both), ("killed", both)):
        out = directory / way
        try:
            for server in servers:
                server.start()
            for server in servers:
                server.wait()
            begun = time.monotonic()
            command = eexp("branch", "--no-only-admissible", "-k", k, "--max-tokens", 12, "-m", model)
            process = subprocess.Popen(
                [*command, "-o", str(out), str(directory / "expert")], stderr=subprocess.PIPE, text=True
            )
            lines = notes[way] = []
            reader = threading.Thread(target=lambda file=process.stderr, lines=lines: lines.extend(file or ()))
            reader.start()
            if way == "killed":
                until(lambda out=out: out.exists() and out.read_bytes().count(b"\n") >= number // 4, process=process)
                servers[1].kill()
                until(lambda lines=lines: any("left out for now" in line for line in lines), process=process)
                servers[1].start()
            if process.wait():
                raise SystemExit("".join(lines))
            reader.join()
            seconds = time.monotonic() - begun
        finally:
            for server in servers:
                server.kill()
        records[way] = out.read_bytes()
        states = next(int(part.split()[0]) for part in "".join(lines).split(", ") if part.split()[-1] == "states")
        same = "" if way == "one" else "the same" if records[way] == records["one"] else "OTHERS"
        print(f"{way:10}{seconds:10.1f}{states / seconds:18.2f}   {same}", flush=True)
    for way in ("one", "two", "killed"):
        print(f"\n{way}")
        shown = [line for line in notes[way] if "http://" in line or " in, " in line]
        for line in shown:
            print("  " + line.strip().replace(servers[0].url, "FIRST").replace(servers[1].url, "SECOND"))


if __name__ == "__main__":
    main()

"""Measure what a second server gives `eexp branch`, and what a server that is killed takes from it.

    pip install 'llama-cpp-python[server]' xllamacpp
    python benchmarks/fleet.py > benchmarks/fleet.txt
    python benchmarks/fleet.py --llama-server -n 100 >> benchmarks/fleet.txt

one        `eexp branch` with one server
again      the same with the same server
two        the same with a fleet of two, of one thread each
killed     the same with a fleet of two, the second of which is killed when a quarter of the records is written, and
           started again when eexp has left it out

"again" is what "two" and "killed" are held against: a server that evaluates several requests in a batch, or takes the
beginning of a prompt from its cache, rounds otherwise each time.

The servers are real ones with the built-in tiny model. Those of llama-cpp-python answer one request at a time.
llama-server, which the package xllamacpp has, answers eight, and reports the tokens that come from its cache. --server
gives the command of another one, with {model} and {port} in it. Both begin each way anew, with empty caches. The output
is seconds, states a second, whether the records are byte for byte those of one server, and what the summary says of
each server. Where they are not, the alternatives are counted that differ in their text, and those that differ in their
log-probability.
"""

from __future__ import annotations

import argparse
import json
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
LLAMA_SERVER = f"{shlex.quote(sys.executable)} {shlex.quote(__file__)} --serve {{model}} {{port}}"
LIMIT = 120.0  # seconds for the start of a server


def serve(model: str, port: int) -> None:
    """Serve a model by the llama-server in xllamacpp, until this process is killed."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.model_alias, settings.port = model, {"tiny"}, port
    settings.n_parallel, settings.n_ctx = 8, 8 * 2048
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    threading.Event().wait()


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
    parser.add_argument("--llama-server", action="store_true", help="the llama-server of the package xllamacpp")
    parser.add_argument("--serve", nargs=2, metavar=("FILE", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
        return
    command = LLAMA_SERVER if args.llama_server else args.server
    print(f"$ python {shlex.join(['benchmarks/fleet.py', *sys.argv[1:]])}")
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        subprocess.run(eexp("export", "tiny", "-o", directory / "tiny.gguf"), check=True, stderr=subprocess.DEVNULL)
        subprocess.run(eexp("expert", "house", "-q", "-n", args.number, "-o", directory / "expert"), check=True)
        servers = [RealServer(command, directory / "tiny.gguf") for _ in range(2)]
        measure(servers, directory, args.number, args.k)


def measure(servers: list[RealServer], directory: Path, number: int, k: int) -> None:
    """Run all ways, and print what came of each."""
    alone, both = f"{servers[0].url}#tiny", ",".join(f"{server.url}#tiny" for server in servers)
    records: dict[str, bytes] = {}
    print(f"\n{'':10}{'seconds':>10}{'states a second':>18}   records of one server")
    notes: dict[str, list[str]] = {}
    for way, model in (("one", alone), ("again", alone), ("two", both), ("killed", both)):
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
        same = "" if way == "one" else difference(records["one"], records[way])
        print(f"{way:10}{seconds:10.1f}{states / seconds:18.2f}   {same}", flush=True)
    for way in records:
        print(f"\n{way}")
        shown = [line for line in notes[way] if "http://" in line or " in, " in line]
        for line in shown:
            print("  " + line.strip().replace(servers[0].url, "FIRST").replace(servers[1].url, "SECOND"))


def difference(one: bytes, other: bytes) -> str:
    """Return in words how the records of two runs differ."""
    if one == other:
        return "the same bytes"
    pairs = list(zip(alternatives(one), alternatives(other), strict=True))
    texts = sum(a["action"] != b["action"] for a, b in pairs)
    logprobs = [abs(a["logprob"] - b["logprob"]) for a, b in pairs if a["action"] == b["action"] and a["logprob"]]
    return (
        f"of {len(pairs)} alternatives, {texts} differ in their text, {sum(map(bool, logprobs))} in their "
        f"log-probability, by {max(logprobs, default=0):.1e} at most"
    )


def alternatives(data: bytes) -> list[dict]:
    """Return the alternatives of all states, in order."""
    return [a for line in data.splitlines() for step in json.loads(line)["steps"] for a in step["alternatives"]]


if __name__ == "__main__":
    main()

"""Measure what parallel episodes save: `eexp eval` on `house`, one at a time and in parallel, and a plain loop.

    python benchmarks/playing.py -m base.gguf+il.gguf > benchmarks/playing.txt

loop       llama-cpp-python's `create_chat_completion`, one episode after the other, greedy; it keeps the
           tokens that a prompt shares with the previous one
one        `eexp eval --parallel 1`
many       `eexp eval`

All play the same tasks with the same model, greedily, with the same threads, in processes of their own that take turns.
The output is seconds (the fastest of the rounds, start and loading included), episodes a second, and successes.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import orjson

from eexp.acting.play import panel
from eexp.envs.worlds.house import House
from eexp.prompts import get_style
from eexp.records.runs import split_adapter

if TYPE_CHECKING:
    from llama_cpp.llama_types import ChatCompletionRequestMessage


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", required=True, metavar="FILE.gguf[+ADAPTER.gguf]")
    parser.add_argument("-n", "--number", type=int, default=200, metavar="N", help="tasks")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--loop", metavar="FILE", help=argparse.SUPPRESS)  # in a process of its own: where to write
    args = parser.parse_args()
    if args.loop:
        loop(args.model, args.number, args.threads, args.loop)
        return
    print(f"$ python {' '.join(['benchmarks/playing.py', *sys.argv[1:]])}")
    print(f"{platform.machine()}, {platform.platform()}, Python {platform.python_version()}")
    play = ["-m", "eexp", "eval", "house", "-q", "-m", args.model, "-n", args.number, "--threads", args.threads]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "episodes"
        ways = {
            "loop": [__file__, "-m", args.model, "-n", args.number, "--threads", args.threads, "--loop", out],
            "one": [*play, "--parallel", 1, "-o", out],
            "many": [*play, "-o", out],
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        won: dict[str, set] = {}
        for _ in range(args.rounds):
            for way, command in ways.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *map(str, command)], check=True)
                seconds[way].append(time.perf_counter() - start)
                episodes = [orjson.loads(line) for line in out.read_bytes().splitlines()]
                won[way] = {e["task"]["id"] for e in episodes if e["success"]}
    print(f"{args.number} tasks   seconds   episodes a second   times the loop   times one   successes")
    for way, durations in seconds.items():
        best = min(durations)
        print(
            f"{way:9} {best:9.1f} {args.number / best:19.2f} {min(seconds['loop']) / best:16.2f} "
            f"{min(seconds['one']) / best:11.2f} {len(won[way]):11}"
        )
    print("the same tasks are solved" if won["one"] == won["many"] else "not the same tasks are solved by one and many")


def loop(model: str, number: int, threads: int, out: str) -> None:
    """Play the episodes with a loop as one would write it without eexp."""
    from llama_cpp import Llama

    base, adapter = split_adapter(model)
    llama = Llama(base, lora_path=adapter, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    house, style = House(), get_style("react")
    with open(out, "wb") as file:
        for task in panel(house, "test", number):
            observation, steps = house.reset(task), []
            while not observation.done and len(steps) < house.max_steps:
                # llama.cpp's types have a class for each role; the messages of a style are dicts of the same keys.
                prompt = cast(
                    "list[ChatCompletionRequestMessage]", style.act(house.instruction(), steps, observation.text)
                )
                answer = llama.create_chat_completion(prompt, temperature=0.0, max_tokens=128)
                assert not isinstance(answer, Iterator)  # which it is when it is streamed
                action = style.parse(answer["choices"][0]["message"]["content"] or "").action
                before, observation = observation.text, house.step(action)
                steps.append({"observation": before, "action": action})
            file.write(orjson.dumps({"task": task, "success": bool(observation.success)}) + b"\n")


if __name__ == "__main__":
    main()

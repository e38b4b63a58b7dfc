"""Batches of lines in processes of their own, so that one that crashes or hangs is a finding like any other."""

from __future__ import annotations

import functools
import multiprocessing
import random
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from fuzz.laws import Problem, problems
from fuzz.mutations import Mutator
from fuzz.variants import BY_NAME, Variant, controls, corpus, seeds

CHUNK = 40  # batches per process
_FORK = multiprocessing.get_context("fork")  # what is imported here need not be imported again


@dataclass(frozen=True)
class Finding:
    """A broken law, and the lines that broke it."""

    variant: str
    problem: Problem
    lines: list[bytes]


def batch(variant: Variant, seed: int, number: int, size: int) -> list[bytes]:
    """Return the lines of one batch: mutated ones, and between them good ones. Batch 0 is the corpus."""
    rng = random.Random(f"{seed}/{variant.name}/{number}")
    if number == 0:
        lines = corpus()
        if variant.given == "answers":  # each may cost the start of a program; the first are those that nest
            lines = lines[:8]
    else:
        every = seeds()
        strangers = [
            record for kind, records in every.items() if kind not in (variant.reads, "any") for record in records
        ]
        mutator = Mutator(rng, every[variant.reads], strangers, corpus())
        lines = [mutator.line() for _ in range(size)]
    for line in reversed(controls(variant.reads)):
        lines.insert(0 if variant.stage == "import" else rng.randrange(len(lines) // 2 + 1), line)
    return lines


def _child(conn: Connection, variant: str, lists: Iterator[list[bytes]] | Sequence[list[bytes]]) -> None:
    """Run batches and send, for each, its number of lines and the problems."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for number, lines in enumerate(lists):
            broken_laws = problems(BY_NAME[variant], lines, thorough=number % 5 < 2)
            conn.send((len(lines), broken_laws))
        conn.send(None)
    except Exception:  # an error in the fuzzer itself
        conn.send(traceback.format_exc())


def _checked(message: Any) -> Any:
    if isinstance(message, str):
        raise RuntimeError(f"the fuzzer itself failed:\n{message}")
    return message


@dataclass
class _Running:
    variant: str
    batches: list[tuple[int, int]]  # seed-dependent number and size of each
    process: Any
    since: float
    n_done: int = 0  # batches that have been run


def isolated(variant: str, lines: list[bytes], limit: float) -> list[Problem]:
    """Return the problems of one list of lines, tried in a process of its own."""
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=_child, args=(theirs, variant, [lines]))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit):
            process.kill()
            return [_hang(limit)]
        _, broken_laws = _checked(ours.recv())
        return broken_laws
    except EOFError:
        process.join()
        return [_death(process.exitcode)]
    finally:
        process.join(5)
        process.kill()
        ours.close()


def _hang(limit: float) -> Problem:
    return Problem("a run ends", "hang", f"no end within {limit:g} s")


def _death(status: int | None) -> Problem:
    name = signal.Signals(-status).name if status and status < 0 else f"exit status {status}"
    return Problem("the process lives", name, f"the process ended with {name}")


def fuzz(
    plan: Sequence[tuple[Variant, int]], seed: int, jobs: int, limit: float
) -> Iterator[tuple[int, list[Finding]]]:
    """Run so many lines through each variant; yield, batch by batch, the number of lines and the findings.

    Args:
        plan: Variants with their numbers of lines.
        jobs: Processes at once.
        limit: Seconds after which a batch counts as hung.
    """
    seeds()  # once, before processes share it
    chunks = [chunk for variant, lines in plan for chunk in _chunks(variant, lines)]
    random.Random(seed).shuffle(chunks)
    chunks.sort(key=lambda chunk: -BY_NAME[chunk[0]].model)  # the slow ones first
    running: dict[Connection, _Running] = {}
    while chunks or running:
        while chunks and len(running) < jobs:
            conn, one = _start(*chunks.pop(0), seed)
            running[conn] = one
        for conn in wait(list(running), timeout=1):
            one = running[conn]
            try:
                message = _checked(conn.recv())
            except EOFError:
                one.process.join()
                yield _lost(one, seed, _death(one.process.exitcode))
                running.pop(conn).process.join()
                _put_back(chunks, one)
                continue
            if message is None:
                running.pop(conn).process.join()
                continue
            n, broken_laws = message
            lines = functools.partial(batch, BY_NAME[one.variant], seed, *one.batches[one.n_done])
            yield n, [Finding(one.variant, problem, lines()) for problem in broken_laws]
            one.n_done, one.since = one.n_done + 1, time.monotonic()
        for conn, one in list(running.items()):
            if time.monotonic() - one.since > limit:
                one.process.kill()
                running.pop(conn).process.join()
                yield _lost(one, seed, _hang(limit))
                _put_back(chunks, one)


def _chunks(variant: Variant, lines: int) -> list[tuple[str, list[tuple[int, int]]]]:
    """Cut a variant's lines into batches, and those into chunks; the first batch is the corpus."""
    sizes = [variant.batch] * (lines // variant.batch) + [lines % variant.batch] * (lines % variant.batch > 0)
    batches = [(0, 0), *enumerate(sizes, 1)]
    return [(variant.name, batches[at : at + CHUNK]) for at in range(0, len(batches), CHUNK)]


def _start(variant: str, batches: list[tuple[int, int]], seed: int) -> tuple[Connection, _Running]:
    ours, theirs = _FORK.Pipe()
    lists = (batch(BY_NAME[variant], seed, number, size) for number, size in batches)
    process = _FORK.Process(target=_child, args=(theirs, variant, lists))
    process.start()
    theirs.close()
    return ours, _Running(variant, batches, process, time.monotonic())


def _lost(one: _Running, seed: int, problem: Problem) -> tuple[int, list[Finding]]:
    lines = batch(BY_NAME[one.variant], seed, *one.batches[one.n_done])
    return len(lines), [Finding(one.variant, problem, lines)]


def _put_back(chunks: list, one: _Running) -> None:
    """Queue the batches after the one that was lost."""
    if rest := one.batches[one.n_done + 1 :]:
        chunks.append((one.variant, rest))

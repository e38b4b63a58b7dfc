"""The command line of the fuzzer: `make fuzz`, or PYTHONPATH=tests python -m fuzz."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

from fuzz.laws import problems
from fuzz.minimise import minimise
from fuzz.runner import Finding, fuzz, isolated
from fuzz.variants import BY_NAME, VARIANTS, Variant


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Run mutated lines through the stages.")
    parser.add_argument("--lines", type=int, default=20_000, help="mutated lines in all [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="decides every line [default: %(default)s]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once [default: one a core]")
    parser.add_argument("--only", action="append", metavar="NAME", help="this variant alone; may be repeated")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a batch may take [default: %(default)s]")
    parser.add_argument(
        "--minimise",
        type=float,
        default=60,
        metavar="SECONDS",
        help="time for making a failing input smaller [default: %(default)s]",
    )
    parser.add_argument(
        "--save",
        type=Path,
        default=Path("build/fuzz"),
        metavar="DIR",
        help="where failing inputs go [default: %(default)s]",
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a saved input again")
    parser.add_argument("--list", action="store_true", help="list the variants")
    return parser.parse_args(arguments)


def plan(variants: list[Variant], lines: int) -> list[tuple[Variant, int]]:
    """Share out lines among variants."""
    whole = sum(variant.share for variant in variants)
    return [(variant, max(4, round(lines * variant.share / whole))) for variant in variants]


def replay(file: Path) -> int:
    """Run a saved input again and print what it breaks."""
    variant = BY_NAME[file.name.split(".")[0]]
    broken_laws = problems(variant, file.read_bytes().removesuffix(b"\n").split(b"\n"), thorough=True)
    for problem in broken_laws:
        print(f"{variant.name}: {problem.law}: {problem.message}")
    if not broken_laws:
        print(f"{variant.name}: nothing is wrong")
    print(
        "by hand: eexp "
        + " ".join(variant.command("rejects.jsonl" if variant.streams else None)).replace("in.jsonl", str(file))
    )
    return 1 if broken_laws else 0


def _save(finding: Finding, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    data = b"\n".join(finding.lines) + b"\n"
    file = directory / f"{finding.variant}.{hashlib.sha256(data).hexdigest()[:8]}.jsonl"
    file.write_bytes(data)
    return file


def _smaller(finding: Finding, seconds: float, limit: float) -> Finding:
    def fails(lines: list[bytes]) -> bool:
        return any(p.key == finding.problem.key for p in isolated(finding.variant, lines, min(limit, 60)))

    if not seconds or not fails(finding.lines):
        return finding
    return Finding(finding.variant, finding.problem, minimise(finding.lines, fails, seconds))


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzzer, report its findings, and return the exit code: 1 if there are any."""
    options = _arguments(arguments)
    if options.list:
        print("\n".join(variant.name for variant in VARIANTS))
        return 0
    for name in [name for name in os.environ if name.startswith("EEXP_")]:
        del os.environ[name]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.replay:
        return replay(options.replay)
    variants = [BY_NAME[name] for name in options.only] if options.only else VARIANTS
    started, n_lines, occurrences = time.monotonic(), 0, Counter()
    reported = 0.0
    for n, findings in fuzz(plan(variants, options.lines), options.seed, options.jobs, options.limit):
        n_lines += n
        for finding in findings:
            key = (finding.variant, *finding.problem.key)
            occurrences[key] += 1
            if occurrences[key] > 1:
                continue
            smallest = _smaller(finding, options.minimise, options.limit)
            file = _save(smallest, options.save)
            print(
                f"{finding.variant}: {finding.problem.law}: {finding.problem.message}\n"
                f"  {smallest.lines[0][:200]!r}{' ...' if len(smallest.lines) > 1 else ''}\n"
                f"  replay: PYTHONPATH=tests {sys.executable} -m fuzz --replay {file}",
                flush=True,
            )
        if time.monotonic() - reported > 60:
            reported = time.monotonic()
            print(
                f"fuzz: {n_lines} lines, {reported - started:.0f} s, {len(occurrences)} findings",
                file=sys.stderr,
                flush=True,
            )
    print(
        f"fuzz: {n_lines} lines of {len(variants)} variants, seed {options.seed}, {time.monotonic() - started:.0f} s, "
        f"{len(occurrences)} findings"
    )
    return 1 if occurrences else 0


if __name__ == "__main__":
    sys.exit(main())

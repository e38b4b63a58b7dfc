"""Change lines of eexp at random and see whether the tests notice: the share of mutations that some test finds.

    python benchmarks/mutate.py --keep DIR                       # 20 mutations of this tree: an hour or more
    python benchmarks/mutate.py --keep DIR --count 40 --seed 1
    python benchmarks/mutate.py --keep DIR --tests OLD           # the same mutations, by the tests of another tree
    python benchmarks/mutate.py --list                           # which mutations: seconds

A mutation is one change of one expression or statement: a comparison, a condition, a sum, a constant is another one, or
a statement is gone. The seed decides which: lines of code are drawn at random, and for each one of the changes that are
possible there. What only describes (docstrings, help texts, annotations, messages) is not changed.

Two steps. First the whole suite runs once on a tree in which all these places report that they are reached, in any
process, so that each mutation's tests are known. Then each mutation by itself: the tests that reached its place, the
quickest first, until one fails. A place may also be reached outside of tests, or while something is made for several
tests: with --rest, all the other tests run then, too, where none fails. A mutation is found if a test fails that passes
without it, hangs, or takes the process down. One that hundreds of tests reach and none notices takes as long as all of
them: --quickest N runs the N quickest alone.

Both steps go on where they were interrupted: DIR holds what was measured. The tree is copied to DIR, so it may be
edited meanwhile. With --tests, tests and all else but eexp/ come from another checkout, for a comparison of two suites.
Needs what the tests need. Ends with exit code 0 however many are found: a mutation may change nothing that matters.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
NOT_FOUND, NO_TESTS = 4, 5  # exit codes of pytest
LONGEST = 120  # seconds of one test
MEMORY = 10 * 2**30  # bytes, of a run of tests and all it starts
OTHER_COMPARISON = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OTHER_OPERATION = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
PACKAGE = "eexp/__init__.py"
#: Directories of a checkout that no test needs, or that are large.
NOT_COPIED = ("build", "demo", ".git", "__pycache__", ".pytest_cache", "*.egg-info", ".hypothesis", ".ruff_cache")

#: Appended to eexp/__init__.py, for a run in which every place reports that it is reached, and by which test.
PROBE = """

def _reached(place, reported=set()):
    import os

    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    if (place, test) not in reported:
        reported.add((place, test))
        with open({file!r}, "a") as file:
            file.write(f"{{place}}\\t{{test}}\\n")
"""


@dataclass(frozen=True)
class Mutation:
    """A change of a file: the bytes from `start` to `end`, which are `before`, become `after`."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str
    is_statement: bool

    @property
    def name(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line}: {before[:80]} -> {after[:80]}"


# -- which mutations there are -----------------------------------------------------------------------------------------


class _Candidates(ast.NodeVisitor):
    """Collect the mutations of one file."""

    def __init__(self, file: str, source: bytes):
        self.file, self.source = file, source
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts = starts
        self.mutations: list[Mutation] = []

    def _add(self, node: ast.expr | ast.stmt, after: str) -> None:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[node.end_lineno - 1] + node.end_col_offset
        before = self.source[start:end].decode()
        self.mutations.append(
            Mutation(self.file, node.lineno, start, end, before, after, is_statement=isinstance(node, ast.stmt))
        )

    def _changed(self, node: ast.expr, changed: ast.expr) -> None:
        self._add(node, f"({ast.unparse(changed)})")

    # What only describes, or is evaluated before any test.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None:
            self.visit(node.guard)
        for statement in node.body:
            self.visit(statement)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if not name.endswith(("Error", "Failed", "Refused")) and name not in ("option", "TypeVar"):
            self.generic_visit(node)

    # Statements.

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self._add(node.test, f"(not ({ast.unparse(node.test)}))")
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._add(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._add(node, "return None")
        self.generic_visit(node)

    # Expressions.

    def visit_Compare(self, node: ast.Compare) -> None:
        operation = OTHER_COMPARISON[type(node.ops[0])]()
        self._changed(node, ast.Compare(node.left, [operation, *node.ops[1:]], node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._changed(node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._changed(node, node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = (ast.Constant, ast.JoinedStr)
        is_text = any(isinstance(side, texts) and not _is_number(side) for side in (node.left, node.right))
        other = OTHER_OPERATION.get(type(node.op))
        if other and not is_text:
            self._changed(node, ast.BinOp(node.left, other(), node.right))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._changed(node, ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif _is_number(node):
            self._add(node, f"({node.value + 1})")


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)


def candidates(tree: Path) -> Iterator[Mutation]:
    """Yield all mutations of a checkout, by file and line."""
    for path in sorted((tree / "eexp").rglob("*.py")):
        source = path.read_bytes()
        visitor = _Candidates(str(path.relative_to(tree)), source)
        for statement in ast.parse(source).body:
            visitor.visit(statement)
        yield from visitor.mutations


def drawn(tree: Path, count: int, seed: int) -> list[Mutation]:
    """Return mutations of lines drawn at random, no two of one line; more of them begin with fewer of them."""
    by_line: dict[tuple[str, int], list[Mutation]] = defaultdict(list)
    for mutation in candidates(tree):
        by_line[mutation.file, mutation.line].append(mutation)
    rng = random.Random(seed)
    places = list(by_line)
    rng.shuffle(places)
    chosen = [rng.choice(by_line[place]) for place in places[:count]]
    for mutation in chosen:
        ast.parse(applied((tree / mutation.file).read_bytes(), mutation))
    return chosen


def applied(source: bytes, mutation: Mutation, text: str | None = None) -> bytes:
    """Return a file with a mutation, or with another text in its place."""
    assert source[mutation.start : mutation.end].decode() == mutation.before, f"{mutation.file} is another one"
    after = mutation.after if text is None else text
    return source[: mutation.start] + after.encode() + source[mutation.end :]


def with_probes(source: bytes, mutations: Sequence[Mutation]) -> bytes:
    """Return a file in which the places of mutations report that they are reached."""
    for mutation in sorted(mutations, key=lambda one: -one.start):
        call = f'__import__("eexp")._reached("{mutation.name}")'
        before = mutation.before
        source = applied(source, mutation, f"{call}; {before}" if mutation.is_statement else f"({call}, {before})[1]")
    return source


# -- running tests -----------------------------------------------------------------------------------------------------


class Suite:
    """A copy of a checkout in which tests run on changed files."""

    def __init__(self, place: Path, package: Path, rest: Path):
        self.place, self.code = place, place / "tree"
        if not self.code.exists():
            shutil.copytree(rest, self.code, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        shutil.rmtree(self.code / "eexp")  # a run that was killed may have left a change in it
        shutil.copytree(package, self.code / "eexp", ignore=shutil.ignore_patterns("__pycache__"))

    def source(self, file: str) -> bytes:
        return (self.code / file).read_bytes()

    def write(self, file: str, source: bytes) -> None:
        """Write a file of the copy, and remove what Python compiled of the one before."""
        path = self.code / file
        path.write_bytes(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def pytest(self, *arguments: object, limit: float = 3 * 3600) -> tuple[int, str]:
        """Run pytest; return its exit code, -9 if it was ended for its time or memory, and the end of its output."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("EEXP_")}
        variables |= {"PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1"}
        base = self.place / "tmp"
        shutil.rmtree(base, ignore_errors=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={base}"]
        log = self.place / "pytest.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=self.code,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            began = time.monotonic()
            while process.poll() is None:
                if time.monotonic() - began > limit or _memory(process.pid) > MEMORY:
                    _kill(process.pid)
                    process.wait()
                    return -signal.SIGKILL, "too long or too large"
                time.sleep(0.5)
        return process.returncode, log.read_text(errors="replace")[-3000:]


def _memory(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.Error:
        pass
    return total


def _kill(pid: int) -> None:
    try:
        parent = psutil.Process(pid)
        for process in (*parent.children(recursive=True), parent):
            process.kill()
    except psutil.Error:
        pass


def _durations(file: Path) -> dict[str, float]:
    """Return the seconds of each test from pytest's JUnit file, by its id."""
    from xml.etree import ElementTree

    seconds: dict[str, float] = {}
    for case in ElementTree.parse(file).iter("testcase"):
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        seconds[test] = seconds.get(test, 0) + float(case.get("time", 0))
    return seconds


def reached_by(suite: Suite, mutations: Sequence[Mutation], jobs: str) -> dict:
    """Run all tests with probes, or read what such a run found; return it.

    The result has "seconds" of every test, and for each mutation, by its name, the "tests" that reach its place and
    whether it is reached "elsewhere": while a fixture is made, or outside of any test.
    """
    file = suite.place / "reached.json"
    if file.exists():
        return json.loads(file.read_bytes())
    by_file: dict[str, list[Mutation]] = defaultdict(list)
    for mutation in mutations:
        by_file[mutation.file].append(mutation)
    originals = {name: suite.source(name) for name in [*by_file, PACKAGE]}
    reports, junit = suite.place / "reached", suite.place / "junit.xml"
    reports.write_text("")
    try:
        for name, source in originals.items():
            probe = PROBE.format(file=str(reports)).encode() if name == PACKAGE else b""
            suite.write(name, with_probes(source, by_file[name]) + probe)
        code, output = suite.pytest("-n", jobs, "--dist", "worksteal", f"--junitxml={junit}")
    finally:
        for name, source in originals.items():
            suite.write(name, source)
    seconds = _durations(junit)
    places = {mutation.name: {"tests": set(), "elsewhere": False} for mutation in mutations}
    for line in reports.read_text().splitlines():
        name, _, test = line.partition("\t")
        test, _, phase = test.rpartition(" ")
        if test:
            places[name]["tests"].add(test)
        places[name]["elsewhere"] |= phase != "(call)"
    found = {
        "code": code,
        "output": output,
        "seconds": seconds,
        "places": {name: {**place, "tests": sorted(place["tests"])} for name, place in places.items()},
    }
    file.write_text(json.dumps(found))
    return found


def finding(
    suite: Suite, mutation: Mutation, reached: dict, jobs: str, rest: bool, quickest: int | None = None
) -> dict:
    """Run the tests on one mutation; return whether one fails that passes without it, which one, and the time."""
    began, original = time.monotonic(), suite.source(mutation.file)
    place, seconds = reached["places"][mutation.name], reached["seconds"]
    tests = sorted(place["tests"], key=lambda test: seconds.get(test, 0))[:quickest]
    code, by, failing = 0, "", []
    try:
        for _ in range(4):  # a test that fails with and without the mutation says nothing; the others run again
            suite.write(mutation.file, applied(original, mutation))
            code, by = _first_failure(
                suite, [test for test in tests if test not in failing], failing, rest and place["elsewhere"], jobs
            )
            suite.write(mutation.file, original)
            if not code or not by or suite.pytest(f"--timeout={LONGEST}", by)[0] == 0:
                break
            failing.append(by)
            code, by = 0, ""
    finally:
        suite.write(mutation.file, original)
    return {
        "found": bool(code),
        "code": code,
        "by": by,
        "tests": len(place["tests"]),
        "run": len(tests),
        "elsewhere": place["elsewhere"],
        "failing_anyway": failing,
        "seconds": round(time.monotonic() - began),
    }


def _first_failure(suite: Suite, tests: list[str], without: list[str], rest: bool, jobs: str) -> tuple[int, str]:
    """Run tests, and the others where that is needed; return pytest's exit code, 0 if none fails, and which fails."""
    options = ["-x", f"--timeout={LONGEST}", *(f"--deselect={test}" for test in without)]
    code, output = NO_TESTS, ""
    if tests:
        chosen = suite.place / "chosen"
        chosen.write_text("\n".join(tests) + "\n")
        code, output = suite.pytest(*options, "-p", "no:xdist", f"@{chosen}")
        if code == NOT_FOUND:  # an id that pytest writes in another way than it reads
            code, output = suite.pytest(*options, "-p", "no:xdist", *sorted({test.split("::")[0] for test in tests}))
    if code in (0, NO_TESTS) and rest:
        code, output = suite.pytest(*options, "-n", jobs, "--dist", "worksteal")
    failures = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    by = failures[0].split(" ", 1)[1].partition(" - ")[0] if failures else ""
    return (0 if code == NO_TESTS else code), by


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(": ")[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="directory for copies and results")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose eexp/ is changed; this one by default")
    parser.add_argument("--tests", type=Path, help="checkout that the tests come from; that of --tree by default")
    parser.add_argument("--count", type=int, default=20, help="number of mutations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default="2", help="processes for the runs of all tests")
    parser.add_argument("--rest", action="store_true", help="also run tests that are not known to reach the place")
    parser.add_argument("--quickest", type=int, metavar="N", help="run at most N tests of those that reach a mutation")
    parser.add_argument("--list", action="store_true", help="list the mutations and run nothing")
    chosen = parser.parse_args()
    mutations = drawn(chosen.tree, chosen.count, chosen.seed)
    if chosen.list:
        print(*mutations, sep="\n")
        return
    if chosen.keep is None:
        parser.error("give --keep DIR")
    chosen.keep.mkdir(parents=True, exist_ok=True)
    suite = Suite(chosen.keep.resolve(), chosen.tree.resolve() / "eexp", (chosen.tests or chosen.tree).resolve())
    reached = reached_by(suite, mutations, chosen.jobs)
    print(f"all tests pass: {reached['code'] == 0}; {sum(reached['seconds'].values()):.0f} s", flush=True)
    results = chosen.keep / "results.jsonl"
    done = {}
    if results.exists():
        done = {record["name"]: record for record in map(json.loads, results.read_bytes().splitlines())}
    for mutation in mutations:
        if mutation.name not in done:
            done[mutation.name] = {"name": mutation.name, **asdict(mutation)} | finding(
                suite, mutation, reached, chosen.jobs, chosen.rest, chosen.quickest
            )
            with open(results, "a") as file:
                file.write(json.dumps(done[mutation.name]) + "\n")
        result = done[mutation.name]
        by = f"by {result['by']}" if result["by"] else f"{result['tests']} tests reach it"
        print(f"{'found    ' if result['found'] else 'not found'}  {mutation}\n    {by}", flush=True)
    print(f"{sum(done[one.name]['found'] for one in mutations)} of {len(mutations)} mutations found")


if __name__ == "__main__":
    main()

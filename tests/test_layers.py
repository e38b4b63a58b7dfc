"""The rooms of the package: imports point down the map in CONTRIBUTING.md, never up and never in a circle."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "eexp"


def module_name(path: Path) -> str:
    """Return the dotted name of a source file, `eexp.envs.base` for eexp/envs/base.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the package."""
    return {module_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> set[str]:
    """Return the modules of the package that a source file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules() else node.module for name in whole}
    return names & modules().keys()


def room(module: str) -> str:
    """Return the room that a module is in: the first name below the package."""
    return module.split(".")[1] if "." in module else ""


def floors() -> dict[str, int]:
    """Read CONTRIBUTING's map; return each room's line, counted from the top."""
    block = re.search(r"## Where things are.*?```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    rooms = re.findall(r"^eexp/(\w+)(?:\.py|/) ", block.group(1), re.MULTILINE)
    assert len(rooms) == len(set(rooms))
    return {name: line for line, name in enumerate(rooms)}


def test_the_map_names_every_room_once():
    assert floors().keys() == {room(module) for module in modules()} - {"", "__main__"}


def test_no_import_points_up_or_sideways():
    lines = floors()
    wrong = [
        f"{module} imports {imported}"
        for module, tree in modules().items()
        for imported in imports(tree)
        if room(module) in lines and room(imported) in lines and room(module) != room(imported)
        if lines[room(module)] > lines[room(imported)]
    ]
    assert not wrong


def test_no_stage_imports_another():
    stages = {module: imports(tree) for module, tree in modules().items() if room(module) == "stages"}
    assert not {module: names for module, names in stages.items() if {n for n in names if room(n) == "stages"}}


def test_there_is_no_import_circle():
    try:
        TopologicalSorter({module: imports(tree) - {module} for module, tree in modules().items()}).prepare()
    except CycleError as e:
        pytest.fail(" imports ".join(e.args[1]))


def test_no_class_name_is_used_twice():
    classes = Counter(
        node.name for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, number in classes.items() if number > 1]


def test_the_formatter_has_the_last_word():
    sources = [
        path for name in ("eexp", "tests", "benchmarks", "recipes", "man") for path in (ROOT / name).rglob("*.py")
    ]
    assert not [path for path in sources if re.search("fmt: (skip|off)".replace(" ", "[ ]"), path.read_text())]

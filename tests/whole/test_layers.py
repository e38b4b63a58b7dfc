"""The rooms of the package: imports point down the map in CONTRIBUTING.md, never up and never in a circle."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from eexp.envs.registry import BUILT_IN

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "eexp"

#: What an environment may import of the package, wherever it comes from: docs/environments/python.md has the same list.
FOR_ENVIRONMENTS = {
    "eexp.envs.base",
    "eexp.envs.spec_options",
    "eexp.envs.logins",
    "eexp.prompts.calls",
    "eexp.errors",
    "eexp.records",
    "eexp.system",
}
#: What single ones import beside it: in tau-bench a model plays the customer.
FOR_ONE = {"eexp.envs.worlds.tau": {"eexp.models"}}

#: Names that modules in several rooms have because each has the same role in its room.
ROLES = {
    "base": "the contract that the room's classes keep",
    "opening": "opens one of them by its spec",
    "registry": "the table of all kinds of them",
    "settings": "the settings of the room's stages; at the top, what settings are made of",
}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file, `eexp.envs.base` for eexp/envs/base.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the package."""
    return {module_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(tree: ast.AST) -> set[str]:
    """Return the modules that a source file imports, anywhere in it; of other packages, what it imports from."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules() else node.module for name in whole}
    return names


def imports(tree: ast.AST) -> set[str]:
    """Return the modules of the package that a source file imports, anywhere in it."""
    return imported_names(tree) & modules().keys()


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


def test_no_command_imports_another():
    commands = {module: imports(tree) for module, tree in modules().items() if room(module) == "commands"}
    assert not {module: names for module, names in commands.items() if {n for n in names if room(n) == "commands"}}


@pytest.mark.parametrize("folder", ["worlds", "bridges"])
def test_an_environment_imports_what_a_class_from_elsewhere_may(folder):
    own = f"eexp.envs.{folder}"
    wrong = [
        f"{module} imports {imported}"
        for module, tree in modules().items()
        if module.startswith(own)
        for imported in imports(tree)
        if not any(
            imported == allowed or imported.startswith(f"{allowed}.")
            for allowed in {own, *FOR_ENVIRONMENTS, *FOR_ONE.get(module, ())}
        )
    ]
    assert not wrong


def test_no_world_imports_another():
    worlds = {kind.path.partition(":")[0] for kind in BUILT_IN.values()}
    assert not {world: others for world in worlds if (others := imports(modules()[world]) & worlds)}


def test_the_page_on_classes_lists_what_they_may_import():
    page = (ROOT / "docs" / "environments" / "python.md").read_text()
    assert set(re.findall(r"^\| `(eexp\.[\w.]+)` \|", page, re.MULTILINE)) == {"eexp.envs", *FOR_ENVIRONMENTS}


def test_click_is_imported_for_the_command_line_alone():
    with_click = [m for m, tree in modules().items() if any(n.split(".")[0] == "click" for n in imported_names(tree))]
    assert not [module for module in with_click if room(module) not in ("cli", "commands", "console")]


def test_three_modules_stand_beside_the_rooms():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"} <= {"cli", "errors", "settings"}


def test_no_module_name_is_used_twice():
    names = Counter(
        path.stem
        for path in PACKAGE.rglob("*.py")
        if path.stem != "__init__" and path.parent.name != "commands" and path.stem not in ROLES
    )
    assert not [name for name, number in names.items() if number > 1]


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_room_says_what_comes_in_what_goes_out_and_what_must_hold(folder):
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text())) or ""
    assert len(re.findall(r"[.?!](?=\s|$)", text)) >= 3


def test_every_folder_says_what_is_in_it():
    texts = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in PACKAGE.rglob("__init__.py")}
    assert not [str(path) for path, text in texts.items() if not text or "TODO" in text]


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

"""The wheel, built and installed as a user has it: in an environment with a light installation's packages alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from running import ROOT, Result, read

from eexp.cli import COMMANDS

BUILT_FROM = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "requirements-light.txt",
    "eexp",
    "man",
    "docs",
)
BUILD = "from setuptools import build_meta as build; build.build_sdist('dist'); build.build_wheel('dist')"


def _build(directory: Path) -> Path:
    """Build the sdist and the wheel of a source tree; return the directory of both."""
    subprocess.run([sys.executable, "-c", BUILD], cwd=directory, check=True, capture_output=True, timeout=120)
    return directory / "dist"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of this checkout and its wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.[157]"))
        else:
            shutil.copy(ROOT / name, source)
    return _build(source)


def _with_requirements(names: list[str]) -> dict[str, metadata.Distribution]:
    """Return distributions and all that they require, by name; nothing has an extra."""
    found: dict[str, metadata.Distribution] = {}
    while names:
        name = names.pop().lower().replace("_", "-")
        if name not in found:
            try:
                found[name] = metadata.distribution(name)
            except metadata.PackageNotFoundError:  # for another version of Python
                continue
            lines = [line for line in found[name].requires or [] if "extra ==" not in line]
            names += [re.split(r"[^\w.-]", line)[0] for line in lines]
    return found


class Installation:
    """A virtual environment with the wheel and the packages of requirements-light.txt, linked from this one."""

    def __init__(self, directory: Path, wheel: Path):
        self.directory, self.empty = directory / "light", directory / "empty"
        self.empty.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.directory], check=True)
        self.python = self.directory / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python]
        subprocess.run(
            [*pip, "install", "-q", "--no-index", "--no-deps", "--no-compile", wheel], check=True, capture_output=True
        )
        (packages,) = self.directory.glob("lib/python3*/site-packages")
        lines = (self.directory / "share" / "eexp" / "requirements-light.txt").read_text().splitlines()
        self.names = [re.split(r"[^\w.-]", line)[0] for line in lines if line and not line.startswith("#")]
        for distribution in _with_requirements(list(self.names)).values():
            for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
                source = Path(str(distribution.locate_file(top)))
                if source.exists() and not (packages / top).exists() and top != "__pycache__":
                    (packages / top).symlink_to(source)

    def run(self, script: str) -> Result:
        """Run a line of bash in an empty directory."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EEXP_", "PYTHON"))}
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {script}"],
            cwd=self.empty,
            env={**kept, "PATH": path},
            capture_output=True,
            timeout=120,
        )
        return Result(process.returncode, process.stdout, process.stderr.decode())


def names_in_wheel(directory: Path) -> set[str]:
    """Return the names of all files in the one wheel of a directory."""
    (wheel,) = directory.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def light(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    (wheel,) = built.glob("*.whl")
    return Installation(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.slow  # two builds
def test_the_wheel_has_all_files(built):
    names = names_in_wheel(built)
    pages = {"eexp.1", "eexp-records.5", "eexp-env.7", *(f"eexp-{name}.1" for name in COMMANDS)}
    assert pages <= {Path(name).name for name in names if "/share/man/man" in name}
    assert all(f"/man{name[-1]}/" in name for name in names if "/share/man/" in name)
    suffixes = {".py", ".toml", ".js", ".css", ".html", ".jar", ".txt", ".json", ".safetensors", ".jinja"}
    sources = {str(f.relative_to(ROOT)) for f in (ROOT / "eexp").rglob("*") if f.suffix in suffixes}
    assert sources <= names


@pytest.mark.long
def test_the_sdist_makes_the_same_wheel(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    assert names_in_wheel(_build(tree)) == names_in_wheel(built)


def test_the_light_packages_are_required_ones_at_the_same_versions():
    lines = (ROOT / "requirements-light.txt").read_text().splitlines()
    wanted = {line.replace("'", '"') for line in lines if line and not line.startswith("#")}
    dependencies = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("\n]")[0]
    assert wanted <= {line.strip().rstrip(",")[1:-1].replace("'", '"') for line in dependencies.splitlines() if line}


@pytest.mark.slow  # 22 processes
def test_the_pipe_works_light_outside_the_repository(light):
    light.run(
        "eexp expert house -n 3 -q -o expert.jsonl && eexp branch --from admissible -k 3 expert.jsonl"
        " | eexp rollout -o rollout.jsonl && eexp reflect --rationale outcome rollout.jsonl > sr.jsonl"
        " && eexp recover rollout.jsonl | eexp imitation-data > il.jsonl"
        " && eexp world-model-data rollout.jsonl > iwm.jsonl && eexp preference-data rollout.jsonl > preferences.jsonl"
        " && eexp mix -q il.jsonl sr.jsonl iwm.jsonl > mixed.jsonl"
        " && eexp eval house -m random -n 2 -q -o episodes.jsonl"
        " && eexp stats expert.jsonl && eexp show il.jsonl && eexp split --part 1 expert.jsonl > part.jsonl"
        " && eexp env check house -n 2 && eexp follow -m expert rollout.jsonl > followed.jsonl"
        " && eexp correct episodes.jsonl > corrected.jsonl && eexp reward episodes.jsonl > rewarded.jsonl"
        " && eexp export-log --format sft il.jsonl > rows.jsonl"
        " && eexp panel house -n 5 > panel.jsonl && eexp import episodes episodes.jsonl > imported.jsonl"
    ).ok()
    assert len(read(light.empty / "il.jsonl")) > 10 and len(read(light.empty / "sr.jsonl")) > 2
    modules = ", ".join(f"eexp.commands.{name.replace('-', '_')}{'_' * (name == 'import')}" for name in COMMANDS)
    light.run(f"python -c 'import {modules}, eexp.models.backends.http'").ok()
    assert b"Usage: eexp finetune" in light.run("eexp finetune --help").ok().out


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("finetune -m tiny -o agent il.jsonl", "accelerate|torch"),
        ("export tiny -o tiny.gguf", "numpy"),
        ("eval house -m hf:nothing", "numpy|torch|transformers"),
        ("eval house -m tiny -n 1", "numpy"),
        ("branch -m some.gguf expert.jsonl", "numpy"),
        ("compare episodes.jsonl", "numpy"),
        ("report episodes.jsonl -o page.html", "numpy"),
        ("select -n 1 il.jsonl", "numpy|scipy"),
        ("mix --duplicates near il.jsonl", "dedup"),
        ("expert babyai", "babyai"),
    ],
)
def test_a_command_that_lacks_a_package_says_which_and_how(light, command, package):
    light.run("test -e il.jsonl || eexp expert house -n 2 | tee expert.jsonl | eexp imitation-data > il.jsonl").ok()
    light.run("test -e episodes.jsonl || eexp eval house -m random -n 2 -q -o episodes.jsonl").ok()
    line = light.run(f"eexp {command}").one_error(1, "pip install ")
    assert re.search(rf"needs ({package})|eexp\[{package}\]", line), line
    assert "make " not in line and "directory" not in line

"""Running `eexp` in tests: in this process, which is fast, or as a real one, for pipes, signals and exit codes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from unittest import mock

ROOT = Path(__file__).parent.parent
EEXP = [sys.executable, "-m", "eexp"]
#: For programs that import the standard library alone: it looks for no packages, which takes most of Python's start.
BARE_PYTHON = f"{sys.executable} -S"
EEXP_IN_BASH = f'eexp() {{ {shlex.join(EEXP)} "$@"; }}; set -eo pipefail'


class _Lazy:
    """A module that is imported when something of it is first used."""

    def __init__(self, name: str):
        self._module_name = name

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_mock_name":  # what pytest asks every global of a module for
            raise AttributeError(name)
        return getattr(import_module(self._module_name), name)


def lazily(name: str) -> Any:
    """Return a module that is imported when it is first used: collecting the tests does not wait for it."""
    return _Lazy(name)


def needs_package(package: str) -> None:
    """Skip the tests of a module where a package is missing; unlike pytest.importorskip, import nothing."""
    import pytest

    if not find_spec(package):
        pytest.skip(f"needs `pip install {package}`", allow_module_level=True)


def text_styles() -> list[str]:
    """Return the names of the built-in prompt styles for environments without functions."""
    from eexp.prompts import built_in_styles, get_style

    return [name for name in built_in_styles() if not get_style(name).action.calls]


@dataclass
class Result:
    """How a command ended: exit code, standard output in bytes, standard error as text."""

    code: int
    out: bytes
    err: str

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]

    def ok(self, code: int = 0) -> Result:
        assert self.code == code, f"exit code {self.code}, wanted {code}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        return self

    def one_error(self, code: int, *parts: str) -> str:
        """Return the only error line, after asserting the exit code and that the line has every one of `parts`."""
        self.ok(code)
        errors = [line for line in self.err.splitlines() if line.lower().startswith("error:")]
        assert len(errors) == 1, self.err
        for part in parts:
            assert part in errors[0], f"{part!r} is not in {errors[0]!r}"
        return errors[0]


class _Bytes(io.BytesIO):
    def close(self) -> None:
        """Stay open, so that the bytes can be read after the command has closed its streams."""


def run(*args: object, stdin: bytes = b"") -> Result:
    """Run `eexp ARGS` in this process."""
    from eexp.cli import main

    out, err = _Bytes(), _Bytes()
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin), "utf-8"),
        "stdout": io.TextIOWrapper(out, "utf-8"),
        "stderr": io.TextIOWrapper(err, "utf-8", errors="backslashreplace", write_through=True),
    }
    before = signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        with mock.patch.multiple(sys, **streams):
            try:
                main([str(a) for a in args])
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else int(e.code is not None)
            finally:
                sys.stdout.flush()
    finally:
        signal.signal(signal.SIGTERM, before)
    return Result(code, out.getvalue(), err.getvalue().decode("utf-8", "replace"))


def environment(**more: str) -> dict[str, str]:
    """Return environment variables for a real process, without the user's own EEXP_... variables."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("EEXP_")}
    path = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    return {**variables, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def outputs_of_python(code: str, stdin: str = "", **variables: str) -> list[str]:
    """Return what a Python program prints in two new processes, in which sets of strings have other orders."""
    command = [sys.executable, "-c", code]
    return [
        subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=environment(PYTHONHASHSEED=seed, **variables),
        ).stdout
        for seed in ("1", "2")
    ]


def start(*args: object, **popen: object) -> subprocess.Popen:
    """Start `eexp ARGS` as a process, without waiting for its end."""
    popen.setdefault("env", environment())
    return subprocess.Popen([*EEXP, *map(str, args)], **popen)


class Forked:
    """`eexp ARGS` in a fork of this process, which has imported what it needs: a process as `start` returns it.

    PyTorch computes no gradients in the fork of a process that has done so on a GPU.
    """

    def __init__(self, *args: object, stderr: IO):
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=self._be_command, args=([*map(str, args)], stderr.fileno()))
        self._process.start()
        self.pid = self._process.pid

    @staticmethod
    def _be_command(args: list[str], stderr: int) -> None:
        from eexp.__main__ import main

        os.dup2(stderr, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.argv = ["eexp", *args]
        main()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode


def spawn(*args: object, stdin: bytes = b"", **popen: object) -> Result:
    """Run `eexp ARGS` as a process, to its end."""
    popen.setdefault("env", environment())
    process = subprocess.run([*EEXP, *map(str, args)], input=stdin, capture_output=True, timeout=240, **popen)
    return Result(process.returncode, process.stdout, process.stderr.decode("utf-8", "replace"))


def shell(script: str, cwd: Path, **env: str) -> Result:
    """Run a bash script in which `eexp` is this checkout's."""
    process = subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, timeout=240, env=environment(**env))
    return Result(process.returncode, process.stdout, process.stderr.decode("utf-8", "replace"))


def run_script(script: str, directory: Path) -> Result:
    """Run lines of shell to the first that fails: pipes of eexp in this process, which is fast, the rest in bash."""
    result = Result(0, b"", "")
    before = Path.cwd()
    os.chdir(directory)
    try:
        for line in re.sub(r"\\\n\s*", " ", script).splitlines():
            commands = _commands_of_eexp(line)
            one = _run_pipe(commands) if commands else shell(f"{EEXP_IN_BASH}\n{line}", directory)
            result = Result(one.code, result.out + one.out, result.err + one.err)
            if one.code:
                break
    finally:
        os.chdir(before)
    return result


def _commands_of_eexp(line: str) -> list[list[str]] | None:
    """Return the words of each command of a pipe of eexp, with files behind `<` and `>`; None for any other line."""
    line = re.sub(r"(^|\s)#.*", "", line)
    if re.search(r"[$*`;&()]|<<|>>|\d>", line):
        return None
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    if any(words[1:2] == ["env"] for words in commands):  # `env check` looks at its whole process
        return None
    return commands if all(words[:1] == ["eexp"] for words in commands) else None


def _run_pipe(commands: list[list[str]]) -> Result:
    """Run commands one after the other, each on the standard output of the one before."""
    stdin, errors = b"", ""
    for words in commands:
        arguments, files = [], {}
        rest = iter(words[1:])
        for word in rest:
            if word in ("<", ">"):
                files[word] = Path(next(rest))
            else:
                arguments.append(word)
        result = run(*arguments, stdin=files["<"].read_bytes() if "<" in files else stdin)
        stdin, errors = result.out, errors + result.err
        if ">" in files:
            files[">"].write_bytes(result.out)
            stdin = b""
        if result.code:
            return Result(result.code, stdin, errors)
    return Result(0, stdin, errors)


@contextmanager
def interrupted_at(update: int) -> Iterator[None]:
    """Interrupt a training run of this process before the update with this number, from 1, as Ctrl-C does."""
    from eexp.training.trainer import UpdateTrainer

    step, made = UpdateTrainer.training_step, []

    def interrupted(self: UpdateTrainer, *args: object, **more: object):
        made.append(1)
        if len(made) == update:
            raise KeyboardInterrupt
        return step(self, *args, **more)

    with mock.patch.object(UpdateTrainer, "training_step", interrupted):
        yield


def read(path: Path) -> list[dict]:
    """Return the records of a file."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def write(path: Path, records: Iterable[dict]) -> Path:
    """Write records to a file, and return its path."""
    path.write_bytes(lines(records))
    return path


def lines(records: Iterable[dict] | Sequence[dict]) -> bytes:
    """Return records as bytes, one a line."""
    return b"".join(json.dumps(r, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for r in records)


def python_of(package: str) -> str:
    """Return the Python that has a package: this one, or that in PEER_PACKAGE; skip the test if there is none."""
    import pytest

    python = os.environ.get(f"PEER_{package.upper()}") or (sys.executable if find_spec(package) else None)
    if not python:
        pytest.skip(f"no {package} here; `make peers` installs it in a place of its own")
    return python

"""The site that pages come from: a program on this machine that answers at a port given to it, or a running server.

A program runs in a directory of its own, which begins as a copy of files, or as another program has left it. The state
of the site is this directory: putting it back and starting the program again brings the state back. A site that keeps
no state is started once.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from eexp.envs.logins import environment_without_keys
from eexp.envs.worlds.browser.chromium import SiteAddress
from eexp.envs.worlds.browser.web_tasks import SiteDescription
from eexp.errors import EexpError
from eexp.system.child import Child, ChildFailed, NotStarted
from eexp.system.directories import copy_contents, empty

HOST = "site.test"  # the name by which the browser knows a program's site, whatever its port


class Site:
    """The site of a file of tasks. Its methods raise ChildFailed where it fails.

    Args:
        description: How it starts.
        base: The directory of the file of tasks, from which its files are named.
        limit: Seconds for a program to start, to prepare or to judge.
    """

    def __init__(self, description: SiteDescription, base: Path, limit: float) -> None:
        self._description, self._limit = description, limit
        self._files = base / description.files if description.files else None
        self._root: Path | None = None  # holds the site's directory, what it begins as, and copies of it
        self._keeper: Child | None = None
        self._program: Child | None = None
        self._count = 0
        self.starts = 0  # how many times the program was started
        if description.url:
            self.address = SiteAddress(urlsplit(description.url).netloc, urlsplit(description.url).port or 80)
        else:
            self.address = SiteAddress(HOST, _free_port())

    @property
    def keeps_state(self) -> bool:
        """Whether the site's state changes and has to be put back."""
        return self._description.state != "none"

    @property
    def copies(self) -> bool:
        """Whether its state can be copied: it is a program's directory, or there is none."""
        return not (self._description.url and self.keeps_state)

    @property
    def begins_anew(self) -> bool:
        """Whether `begin` leads to the same state each time, as far as the site can be put back at all."""
        return bool(self._description.command or self._description.reset) or not self.keeps_state

    @property
    def directory(self) -> Path | None:
        """The directory of the running program; None for a running server, and before `begin`."""
        return self._root / "site" if self._root and self._description.command else None

    # -- the state -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Put the site into the state in which a task begins."""
        if self._description.command:
            if self._root is None:
                self._make_root()
            if self._program is None or self.keeps_state:
                self._run_with(self._path("first"))
        if self._description.reset:
            self.ask(self._description.reset)

    def save(self) -> Path | None:
        """Return a copy of the state; None where there is nothing to copy."""
        if not self.keeps_state or self.directory is None:
            return None
        self._count += 1
        copy = self._path(f"saved-{self._count}")
        shutil.copytree(self.directory, copy, symlinks=True)
        return copy

    def restore(self, copy: Path | None) -> None:
        """Go back to a state that `save` returned."""
        if copy is not None:
            self._run_with(copy)

    def release(self, copy: Path | None) -> None:
        """Remove a copy that is not needed any more."""
        if copy is not None:
            shutil.rmtree(copy, ignore_errors=True)

    def _path(self, name: str) -> Path:
        assert self._root is not None
        return self._root / name

    def _make_root(self) -> None:
        self._root = Path(os.path.realpath(tempfile.mkdtemp(prefix="eexp-site-")))
        self._keeper = Child(["cat"], directory=str(self._root))  # removes it, however this process ends
        first = self._path("first")
        if self._files and self._files.is_dir():
            shutil.copytree(self._files, first, symlinks=True)
        else:
            first.mkdir()
            if self._files:
                shutil.copy2(self._files, first)
        if self._description.prepare:
            self.run(self._description.prepare, first)

    def _run_with(self, files: Path) -> None:
        """Run the program in a copy of `files`. One that need not start again goes on, in the same directory."""
        if self._description.restart or self._program is None or self._program.wait(0) is not None:
            self.end_program()
        directory = self._path("site")
        if directory.exists():
            empty(directory)
        copy_contents(files, directory)
        if self._program is None:
            self._start(directory)
            if not self._description.restart and files == self._path("first"):
                empty(files)
                copy_contents(directory, files)  # with what it makes as it starts

    # -- programs ----------------------------------------------------------------------------------------------------

    def run(self, command: list[str], directory: Path) -> int:
        """Run a program to its end in a directory and return its exit status, or raise ChildFailed if it is not 0."""
        status = self.status_of(command, directory)
        if status != 0:
            raise ChildFailed(f"{command[0]}: ended with exit status {status}{self._last_line()}")
        return status

    def status_of(self, command: list[str], directory: Path) -> int:
        """Run a program to its end in a directory and return its exit status."""
        child = self._child(command, directory)
        try:
            status = child.wait(self._limit)
        finally:
            child.end()
        if status in (126, 127):
            raise NotStarted(f"cannot run {command[0]!r}")
        if status is None:
            raise ChildFailed(f"{command[0]!r} did not end within {self._limit:g} s (EEXP_ENV_TIMEOUT)")
        return status

    def _child(self, command: list[str], directory: Path) -> Child:
        """Start a program without a shell's interpretation of its words, its output in a file."""
        words = [word.replace("{dir}", str(directory)).replace("{port}", str(self.address.port)) for word in command]
        words[0] = _program(words[0])
        start = ["sh", "-c", 'exec "$@" </dev/null >/dev/null', "sh", *words]
        with open(self._path("stderr"), "wb") as errors:
            env = {**environment_without_keys(), "HOME": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
            return Child(start, stderr=errors.fileno(), cwd=str(directory), env=env)

    def _start(self, directory: Path) -> None:
        assert self._description.command
        self._program = self._child(self._description.command, directory)
        self.starts += 1
        deadline = time.monotonic() + self._limit
        while True:
            with suppress(OSError, http.client.HTTPException):
                self.ask(self._description.ready)
                if self._program.wait(0) is None:  # not another program that has taken the port
                    return
            if self._program.wait(0.02) is not None:
                end = self._program.describe_end()
                self.end_program()
                raise ChildFailed(f"the site {end}{self._last_line()}")
            if time.monotonic() > deadline:
                self.end_program()
                raise ChildFailed(f"the site did not answer within {self._limit:g} s (EEXP_ENV_TIMEOUT)")

    def ask(self, path: str) -> int:
        """Get an address of the site and return the HTTP status of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=self._limit)
        try:
            connection.request("GET", path, headers={"Host": self.address.host})
            return connection.getresponse().status
        finally:
            connection.close()

    def _last_line(self) -> str:
        with suppress(OSError):
            lines = self._path("stderr").read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
            return next(
                (f"; its last line: {' '.join(line.split())[:200]}" for line in lines[::-1] if line.strip()), ""
            )
        return ""

    def end_program(self) -> None:
        """End the program with all that it started."""
        if self._program is not None:
            self._program.end()
            self._program = None

    def close(self) -> None:
        """End everything and remove its files. Safe to call twice."""
        self.end_program()
        if self._keeper is not None:
            self._keeper.end()
            self._keeper = self._root = None
            self.address = SiteAddress(HOST, _free_port())  # another one, should this one be taken by now


def _program(name: str) -> str:
    """Return a program by its name: `python` is this one, and what is installed beside it is found first."""
    beside = os.path.dirname(sys.executable)
    if name == "python":
        return sys.executable
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise EexpError(f"no program {name!r} is found")
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

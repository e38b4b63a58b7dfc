"""Files of tasks for a web site, in TOML: the site, and what is to be done there. docs/environments/web.md explains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Optional, Union
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from eexp.envs.worlds.browser.scripted import ScriptedAction
from eexp.errors import InputError
from eexp.records.task_file import TaskOfFile
from eexp.records.toml_file import read_structure

_Command = Annotated[list[str], Meta(min_length=1)]
_Phrases = Annotated[list[Union[str, list[str]]], Meta(min_length=1)]  # all of them, or of a list any one


class SiteDescription(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The site: a program, or the address of a running server."""

    command: Optional[_Command] = None  # the program; {port} stands for its port, {dir} for its directory
    url: Optional[str] = None  # of a running server, instead
    files: Optional[str] = None  # a file or a directory that is copied into {dir}
    prepare: Optional[_Command] = None  # a program that fills {dir}, once
    state: Literal["files", "none"] = "files"  # whether pages change what is in {dir}
    restart: bool = True  # whether the program starts again when {dir} is put back
    reset: Optional[str] = None  # an address that puts the state back
    ready: str = "/"  # an address that answers when the program is ready
    before: list[str] = []  # actions by roles and names before every episode, such as a login
    hide: list[str] = []  # CSS selectors of what is left out
    mask: list[str] = []  # regular expressions of what differs each time
    settle: str = ""  # JavaScript that is true in every page of the site once it can be read
    storage: Optional[str] = None  # cookies and storage to begin with: a file that Playwright saved


class QueryResult(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a query has to find."""

    database: str  # a file in {dir}
    sql: str
    equal: list[list[Union[str, int, float, None]]]


class PageValue(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A text that JavaScript gives in the page, and what it has to be or to contain."""

    script: str
    equal: Optional[str] = None
    includes: Optional[_Phrases] = None


class AddressScript(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """JavaScript that gives an address of the site, in the page that the agent left."""

    script: str


class Judge(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One condition; one of the keys but the last three says what has to hold at the end."""

    answer: Union[str, list[str], None] = None  # the words of `stop [...]`, or several forms of them
    url: Optional[str] = None  # a regular expression for the whole address, from its first slash on
    text: Optional[str] = None  # words of the page as it is read
    script: Optional[str] = None  # JavaScript that is true in the page
    value: Optional[PageValue] = None
    includes: Optional[_Phrases] = None  # what the words of `stop [...]` contain
    rows: Optional[QueryResult] = None
    program: Optional[_Command] = None  # ends with exit status 0
    words: bool = False  # whether what is included has to stand as a word, where it is one
    open: Union[str, AddressScript, None] = None  # an address that is opened before it is judged
    score: Annotated[float, Meta(gt=0)] = 1.0  # its weight among the task's judges

    @property
    def kind(self) -> str:
        """The key that says what has to hold."""
        return next((key for key in JUDGES if getattr(self, key) is not None), "")


JUDGES = ("answer", "url", "text", "script", "value", "includes", "rows", "program")
OF_PAGES = ("url", "text", "script", "value")  # judges that look at a page, which may be another one than the last


class WebTask(TaskOfFile, forbid_unknown_fields=True, omit_defaults=True):
    """One task."""

    id: Annotated[str, Meta(min_length=1)]
    instruction: Annotated[str, Meta(min_length=1)]
    judge: Annotated[list[Judge], Meta(min_length=1)]
    split: Annotated[str, Meta(min_length=1)] = "train"
    kind: Optional[str] = None  # by which results are broken down
    start: str = "/"  # the address to begin at
    before: Optional[list[str]] = None  # instead of the site's
    ends: Literal["stop", "judged"] = "stop"  # with `stop`, or also as soon as everything holds
    expert: Optional[list[str]] = None  # a demonstration, by roles and names


class WebTasks(Struct, forbid_unknown_fields=True):
    """A file of tasks."""

    site: SiteDescription
    task: Annotated[list[WebTask], Meta(min_length=1)]

    @property
    def programs(self) -> list[list[str]]:
        """All commands that playing the tasks runs."""
        judges = [judge.program for task in self.task for judge in task.judge]
        return [command for command in (self.site.prepare, self.site.command, *judges) if command]


def read_web_tasks(path: str) -> WebTasks:
    """Return what a file of tasks says.

    Raises:
        EexpError: The file cannot be read.
        InputError: It is no such file; the error names the first place that is wrong.
    """
    tasks = read_structure(path, WebTasks)
    try:
        _check(tasks, Path(path).parent)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    return tasks


def _check(tasks: WebTasks, base: Path) -> None:
    """Raise InputError, with the place, if something in a file makes no sense."""
    site = tasks.site
    if (site.command is None) == (site.url is None):
        raise InputError("expected either command or url", "$.site")
    if site.url is not None:
        parts = urlsplit(site.url)
        if parts.scheme != "http" or parts.hostname not in ("localhost", "127.0.0.1") or parts.path not in ("", "/"):
            raise InputError(f"expected http://localhost:PORT, got {site.url!r}", "$.site.url")
        if site.files or site.prepare:
            raise InputError("a running server has no files of ours", "$.site")
    if site.command and not any("{port}" in word for word in site.command):
        raise InputError("expected {port} in one of the words", "$.site.command")
    if site.files and not (base / site.files).exists():
        raise InputError(f"no such file or directory: {site.files!r}", "$.site.files")
    if site.storage and not (base / site.storage).is_file():
        raise InputError(f"no such file: {site.storage!r}", "$.site.storage")
    for where, address in (("$.site.ready", site.ready), ("$.site.reset", site.reset or "/")):
        _check_address(address, where)
    for n, pattern in enumerate(site.mask):
        _check_pattern(pattern, f"$.site.mask[{n}]")
    _check_script(site.before, "$.site.before")
    ids: set[str] = set()
    for n, task in enumerate(tasks.task):
        where = f"$.task[{n}]"
        if task.id in ids:
            raise InputError(f"another task has the id {task.id!r}", f"{where}.id")
        ids.add(task.id)
        _check_address(task.start, f"{where}.start")
        for m, judge in enumerate(task.judge):
            _check_judge(judge, f"{where}.judge[{m}]", site)
        if task.ends == "judged" and any(judge.kind in ("answer", "includes") for judge in task.judge):
            raise InputError("an answer is given with stop, so the task ends with it", f"{where}.ends")
        if task.ends == "judged" and any(judge.open for judge in task.judge):
            raise InputError("a judge opens another page, so the task ends with stop", f"{where}.ends")
        _check_script(task.before or [], f"{where}.before")
        _check_script(task.expert or [], f"{where}.expert")


def _check_script(lines: list[str], where: str) -> None:
    for n, line in enumerate(lines):
        try:
            ScriptedAction.of(line)
        except ValueError as e:
            raise InputError(str(e), f"{where}[{n}]") from None


def _check_judge(judge: Judge, where: str, site: SiteDescription) -> None:
    keys = [key for key in JUDGES if getattr(judge, key) is not None]
    if len(keys) != 1:
        raise InputError(f"expected one of {', '.join(JUDGES)}, got {', '.join(keys) or 'none'}", where)
    if judge.url is not None:
        _check_pattern(judge.url, f"{where}.url")
    if judge.value is not None and (judge.value.equal is None) == (judge.value.includes is None):
        raise InputError("expected either equal or includes", f"{where}.value")
    if judge.words and judge.includes is None and (judge.value is None or judge.value.includes is None):
        raise InputError("nothing is to be included", f"{where}.words")
    if judge.open is not None and judge.kind not in OF_PAGES:
        raise InputError(f"{judge.kind} looks at no page", f"{where}.open")
    if isinstance(judge.open, str):
        _check_address(judge.open, f"{where}.open")
    if judge.kind in ("rows", "program") and not site.command:
        raise InputError("needs a site with a command, which has a directory", f"{where}.{judge.kind}")
    if judge.rows is not None:
        name = Path(judge.rows.database)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise InputError("expected the name of a file in {dir}", f"{where}.rows.database")


def _check_address(address: str, where: str) -> None:
    if not address.startswith("/") or address.startswith("//"):
        raise InputError(f"expected an address that begins with one slash, got {address!r}", where)


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as e:
        raise InputError(f"no regular expression: {e}", where) from None

"""Whether the conditions of a web task hold at the end of an episode."""

from __future__ import annotations

import html
import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from eexp.envs.worlds.browser.site import Site
from eexp.envs.worlds.browser.web_tasks import Judge, QueryResult
from eexp.system.child import ChildFailed

MOST_ROWS = 10_000  # of a query's answer
#: A script that fails, since the page lacks what it looks at, does not hold. One that is no JavaScript is an error.
_SCRIPT = """
(() => {
  try {
    return Boolean(%s);
  } catch {
    return false;
  }
})()
"""
#: The same of a script whose value is a text.
_VALUE = """
(() => {
  try {
    return String(%s ?? "");
  } catch {
    return "";
  }
})()
"""
_TOKEN = re.compile(r"\w+(?:[-.,:/']\w+)*|[^\w\s]")
_EDGES = " \t\n.,;:!?\"'`"
_BLANKS = re.compile(r"\s+")
#: What a query may do: read. Another database, for one, is not attached.
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


@dataclass(frozen=True)
class Ending:
    """What judges look at."""

    url: str  # the address of the page
    text: str  # the whole page as it is read
    answer: str | None  # the words of `stop [...]`; None for none
    evaluate: Callable[[str], object]  # evaluates JavaScript in the page


def holds(judge: Judge, ending: Ending, site: Site, limit: float) -> bool:
    """Return whether one condition holds.

    Args:
        judge: The condition.
        ending: How the episode ended.
        site: Its directory is what `rows` and `program` look at.
        limit: Seconds that a query has.

    Raises:
        ChildFailed: A program or the page failed, or a query makes no sense.
    """
    match judge.kind:
        case "answer":
            forms = [judge.answer] if isinstance(judge.answer, str) else judge.answer or []
            return ending.answer is not None and normalised(ending.answer) in map(normalised, forms)
        case "url":
            return re.fullmatch(judge.url or "", address_within(ending.url)) is not None
        case "text":
            return _BLANKS.sub(" ", judge.text or "").strip() in _BLANKS.sub(" ", ending.text)
        case "script":
            return ending.evaluate(_SCRIPT % judge.script) is True
        case "includes":
            return ending.answer is not None and _includes(ending.answer, judge)
    if judge.value is not None:
        value = html.unescape(str(ending.evaluate(_VALUE % judge.value.script)))
        if judge.value.includes is None:
            return _unquoted(value) == _unquoted(judge.value.equal or "")
        return _includes(value, judge)
    assert site.directory is not None  # checked with the file of tasks
    if judge.rows is not None:
        return _rows(judge.rows, site.directory, limit) == judge.rows.equal
    return site.status_of(judge.program or [], site.directory) == 0


def address_of(judge: Judge, ending: Ending) -> str | None:
    """Return the address that a judge opens; None for the last page, "" where its script gives none of the site."""
    if judge.open is None or isinstance(judge.open, str):
        return judge.open
    address = str(ending.evaluate(_VALUE % judge.open.script))
    return address if address.startswith("/") and not address.startswith("//") else ""


def normalised(text: str) -> str:
    """Return an answer in the form in which answers are compared: without case, blanks and punctuation around it."""
    return _BLANKS.sub(" ", text).strip(_EDGES).casefold()


def _includes(text: str, judge: Judge) -> bool:
    """Return whether a text includes all that a judge names, each in one of its forms.

    With `words`, a form that is one word has to be a word of the text. Without, this holds for a single character that
    is all that an answer has to include, as in WebArena, so that 5 is not found in 15.
    """
    phrases = judge.includes or (judge.value.includes if judge.value else None) or []
    text = _unquoted(text)
    words = {part for word in _TOKEN.findall(text) for part in (word, *word.split("/"))}

    def included(form: str) -> bool:
        lone = judge.includes is not None and len(phrases) == 1 and len(form) == 1
        whole = lone or (judge.words and _TOKEN.fullmatch(form))
        return form in words if whole else form in text

    return all(any(included(_unquoted(form)) for form in _forms(phrase)) for phrase in phrases)


def _forms(phrase: str | list[str]) -> list[str]:
    return [phrase] if isinstance(phrase, str) else phrase


def _unquoted(text: str) -> str:
    """Return a text in the form in which values are compared: without case, runs of blanks and quotes around it."""
    text = _BLANKS.sub(" ", text).strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return (text[1:-1] if quoted else text).casefold()


def address_within(url: str) -> str:
    """Return an address of the site from its first slash on."""
    parts = urlsplit(url)
    query, fragment = f"?{parts.query}" if parts.query else "", f"#{parts.fragment}" if parts.fragment else ""
    return (parts.path or "/") + query + fragment


def _rows(rows: QueryResult, directory: Path, limit: float) -> list[list]:
    """Return the rows that a query finds in a database of the site, which is opened for reading alone."""
    deadline = time.monotonic() + limit
    file = directory / rows.database
    if not file.resolve().is_relative_to(directory.resolve()):
        raise ChildFailed(f"{rows.database}: outside of the site's directory")
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
            database.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
            found = database.execute(rows.sql).fetchmany(MOST_ROWS)
    except sqlite3.Error as e:
        raise ChildFailed(f"{rows.database}: {e}: {json.dumps(rows.sql)[:200]}") from None
    return [list(row) for row in found]

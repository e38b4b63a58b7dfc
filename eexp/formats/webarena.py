"""Task files of WebArena (Zhou et al. 2024), as tasks of `web?tasks=FILE` for one site.

A file has a task as a JSON object, or many in an array. Addresses begin with a placeholder such as `__SHOPPING__`, or
with the site's own address. How an episode ends well is said in `eval`: an answer, the address of the last page, and
what pages contain; everything that is said has to hold. BrowserGym plays the same files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from eexp.errors import InputError, UsageError
from eexp.records.callbacks import Count, OnError, ignore_error, no_count, stop_at_error
from eexp.records.jsonl import STDIN, Element, dumps, lines, loads
from eexp.records.toml_file import toml_value

SITES = ("shopping", "shopping_admin", "reddit", "gitlab", "wikipedia", "map", "homepage")
#: What WebArena's prompts tell an agent of every task.
IMPOSSIBLE = 'If this cannot be done, the answer is "N/A".'
_OR = " |OR| "
_PLACEHOLDER = re.compile(r"__([A-Z_]+?)__")
_FUNCTION = re.compile(r"func:\s*(\w+)")
_WHOLE_PAGE = "document.documentElement.outerHTML"
#: The address of the post that the last page is about: of /f/FORUM/NUMBER/... the first parts. Other addresses stay.
_POST = (
    "((parts) => parts[1] === 'f' && parts.length > 3 ? parts.slice(0, 4).join('/') + '/' "
    ": location.pathname + location.search)(location.pathname.split('/'))"
)
#: One of the paths begins the address, and of each key one of the values is in its query.
_ADDRESS = (
    "((query) => %s.some((path) => location.pathname.startsWith(path)) && "
    "Object.entries(%s).every(([key, values]) => query.getAll(key).some((value) => values.includes(value)))"
    ")(new URLSearchParams(location.search))"
)


class CannotSay(Exception):
    """Error raised for a task that `web` cannot play or judge as it is meant; its text says why."""


class OtherSite(Exception):
    """Error raised for a task that is played on other sites alone."""


@dataclass(frozen=True)
class UserSite:
    """A site of WebArena that the user runs."""

    name: str  # such as "shopping"
    url: str  # its address, which may have a path
    storage: str | None = None  # the file with the cookies of a login

    @classmethod
    def of(cls, text: str, storage: str | None) -> UserSite:
        """Return the site that `NAME=URL` names. Raises UsageError if it makes no sense."""
        name, _, url = text.partition("=")
        if name not in SITES:
            raise UsageError(f"--site {text}: expected NAME=URL, with one of {', '.join(SITES)}")
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in ("localhost", "127.0.0.1"):
            raise UsageError(f"--site {text}: expected http://localhost:PORT as the address")
        if storage and not os.path.isfile(storage):
            raise UsageError(f"--storage {storage}: no such file")
        return cls(name, url.rstrip("/"), os.path.abspath(storage) if storage else None)

    @property
    def origin(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def resolved(self, url: str) -> str:
        """Return an address with this site's own in place of its placeholder."""
        return url.replace(f"__{self.name.upper()}__", self.url)

    def address(self, url: str) -> str:
        """Return an address of this site from its first slash on. Raises CannotSay if it is none."""
        url = self.resolved(url.strip())
        if url != self.url and not url.startswith((f"{self.url}/", f"{self.url}?")):
            raise CannotSay("name an address of another site")
        parts = urlsplit(url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def configs_in(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield the JSON objects of files as (file, number, text): of an array, one in a file, or one on each line."""
    for file in files or [STDIN]:
        pieces = list(lines([file]))
        if not pieces:
            continue
        name, whole, first = pieces[0][0], b"".join(text for _, _, text in pieces), pieces[0][2].strip()
        if whole.lstrip().startswith(b"["):
            yield from ((name, Element(number), dumps(config)) for number, config in enumerate(loads(whole), 1))
        elif first.endswith(b"}") and first != b"}":
            yield from pieces
        else:
            yield name, pieces[0][1], whole


def configs_of(file: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file. Raises InputError, with the place, where there is something else."""
    for name, number, text in configs_in([file]):
        try:
            config = loads(text)
        except InputError as e:
            raise e.at(f"{name}:{number}") from None
        if not isinstance(config, dict):
            raise InputError("expected a JSON object", f"{name}:{number}")
        yield config


def tasks_from(
    configs: Iterable[dict[str, Any]],
    site: UserSite,
    split: str = "test",
    apart_from: Collection[str] = (),
    *,
    count: Count = no_count,
    leave_out: OnError = ignore_error,
    on_error: OnError = stop_at_error,
) -> list[dict[str, Any]]:
    """Return the tasks of `web` for one site.

    Args:
        configs: Tasks of WebArena.
        site: The site on which the tasks are played.
        split: Their split.
        apart_from: Ids of tasks that are passed over.
        count: Called with the numbers of tasks that are passed over, and of those that take N/A alone.
        leave_out: Called with a task that `web` cannot play or judge as it is meant, and with the reason.
        on_error: Called with what is no task, or has the id of another one.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for config in configs:
        if id_of(config) in apart_from:
            count("task[s] of --test", 1)
            continue
        try:
            task = task_of(config, site, split)
            if task["id"] in tasks:
                raise InputError(f"another task has the task_id {task['id']}", "$.task_id")
        except OtherSite:
            count("task[s] of other sites", 1)
        except CannotSay as e:
            leave_out(config, InputError(str(e)))
        except InputError as e:
            on_error(config, e)
        else:
            tasks[task["id"]] = task
            if (config["eval"].get("reference_answers") or {}).get("fuzzy_match") == "N/A":
                count("impossible task[s] for which only N/A is right", 1)
    return list(tasks.values())


def id_of(config: dict[str, Any]) -> str:
    """Return the name of a task: that of WebArena also for a task of WebArena-Lite, which numbers them anew."""
    return str(config.get("old_task_id", config.get("task_id")))


def task_of(config: dict[str, Any], site: UserSite, split: str = "test") -> dict[str, Any]:
    """Return a task of `web` for one of WebArena.

    Raises:
        OtherSite: It is played on other sites.
        CannotSay: It is played on this one, and cannot be judged or begun as it is meant.
        InputError: It is no task of WebArena.
    """
    sites, start, intent = config.get("sites"), config.get("start_url"), config.get("intent")
    judged = config.get("eval")
    if not isinstance(sites, list) or "task_id" not in config or not isinstance(judged, dict):
        raise InputError("expected a task of WebArena, with task_id, sites and eval")
    if not isinstance(start, str) or not isinstance(intent, str) or not intent:
        raise InputError("expected texts", "$.start_url" if not isinstance(start, str) else "$.intent")
    if site.name not in sites:
        raise OtherSite
    if len(sites) > 1:
        raise CannotSay("are played on several sites")
    if " |AND| " in start:
        raise CannotSay("begin in several tabs")
    if config.get("geolocation"):
        raise CannotSay("set a place on the earth")
    if config.get("storage_state") and site.storage is None:
        raise CannotSay("need a login (--storage)")
    kinds = judged.get("eval_types")
    if not isinstance(kinds, list) or not kinds:
        raise InputError("expected a list", "$.eval.eval_types")
    judges = [judge for kind in kinds for judge in _judges(str(kind), judged, site)]
    if "old_task_id" in config:  # WebArena-Lite asks that single words are words of their own
        judges = [
            judge | {"words": True} if "includes" in (judge | judge.get("value", {})) else judge for judge in judges
        ]
    if not judges:
        raise CannotSay("say no condition")
    return {
        "id": id_of(config),
        "split": split,
        "kind": "+".join(map(str, kinds)),
        "start": site.address(start),
        "instruction": f"{intent.strip()}\n{IMPOSSIBLE}",
        "judge": judges,
    }


def _judges(kind: str, judged: dict[str, Any], site: UserSite) -> Iterator[dict[str, Any]]:
    """Yield the judges of `web` for one kind of evaluation."""
    match kind:
        case "string_match":
            answers = judged.get("reference_answers")
            if not isinstance(answers, dict) or not answers:
                raise InputError("expected an object", "$.eval.reference_answers")
            for how, value in answers.items():
                yield _answer_judge(how, value)
        case "url_match":
            yield _address_judge(judged, site)
        case "program_html":
            targets = judged.get("program_html")
            if not isinstance(targets, list) or not targets:
                raise InputError("expected a list", "$.eval.program_html")
            for target in targets:
                yield from _page_judges(target, site)
        case _:
            raise CannotSay(f"have an evaluation {kind}")


def _answer_judge(how: str, value: Any) -> dict[str, Any]:
    where = f"$.eval.reference_answers.{how}"
    match how:
        case "exact_match":
            return {"answer": _text(value, where)}
        case "must_include":
            return {"includes": _phrases(value, where)}
        case "fuzzy_match" if value == "N/A":
            return {"answer": "N/A"}
        case "fuzzy_match":
            raise CannotSay("let a language model compare the answer (fuzzy_match)")
    raise CannotSay(f"compare the answer by {how}")


def _address_judge(judged: dict[str, Any], site: UserSite) -> dict[str, Any]:
    """Return the judge for the address of the last page.

    WebArena's rule: it begins with one of the reference addresses, and of each key that any of their queries has, it
    has one of the values.
    """
    if judged.get("url_note", "GOLD in PRED") != "GOLD in PRED":
        raise CannotSay(f"compare addresses by {judged['url_note']!r}")
    urls = _text(judged.get("reference_url"), "$.eval.reference_url").split(_OR)
    addresses = [urlsplit(site.address(url.rstrip("/"))) for url in urls]
    paths = [address.path.rstrip("/") for address in addresses]
    queries: dict[str, list[str]] = {}
    for address in addresses:
        for key, values in parse_qs(address.query).items():
            queries.setdefault(key, []).extend(values)
    if queries:
        return {"script": _ADDRESS % (json.dumps(paths), json.dumps(queries))}
    return {"url": f"(?:{'|'.join(map(re.escape, paths))}).*"}


def _page_judges(target: Any, site: UserSite) -> Iterator[dict[str, Any]]:
    """Yield the judges for what a page contains."""
    where = "$.eval.program_html"
    if not isinstance(target, dict):
        raise InputError("expected objects", where)
    judge = _opening(_text(target.get("url"), f"{where}.url"), site)
    script = _locator(_text(target.get("locator"), f"{where}.locator"), target.get("prep_actions") or [])
    required = target.get("required_contents")
    if not isinstance(required, dict):
        raise InputError("expected an object", f"{where}.required_contents")
    if "exact_match" in required:
        value = {"script": script, "equal": _text(required["exact_match"], f"{where}.required_contents")}
    elif "must_include" in required:
        value = {"script": script, "includes": _phrases(required["must_include"], f"{where}.required_contents")}
    else:
        raise CannotSay(f"compare a page by {', '.join(map(str, required)) or 'nothing'}")
    yield {"value": value, **judge}


def _opening(url: str, site: UserSite) -> dict[str, Any]:
    """Return the key of a judge that says which page it looks at; none for the last one."""
    if url == "last":
        return {}
    if function := _FUNCTION.match(url):
        if function[1] == "reddit_get_post_url" and "__last_url__" in url:
            return {"open": {"script": _POST}}
        raise CannotSay(f"call WebArena's function {function[1]}")
    return {"open": site.address(url)}


def _locator(locator: str, actions: list[Any]) -> str:
    """Return JavaScript for the part of a page that is looked at."""
    if function := _FUNCTION.match(locator):
        raise CannotSay(f"call WebArena's function {function[1]}")
    if not locator.strip():
        return _WHOLE_PAGE
    if not locator.startswith(("document.", "[...document.")):
        raise CannotSay("find a part of a page by another language than JavaScript")
    if not actions:
        return locator
    return f"(() => {{ try {{ {'; '.join(map(str, actions))} }} catch {{}} return {locator} }})()"


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError("expected a text", where)
    return value


def _phrases(value: Any, where: str) -> list[str | list[str]]:
    """Return what has to be included: texts, or lists of their forms."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError("expected a list of texts", where)
    return [text.split(_OR) if _OR in text else text for text in texts]


def tasks_file(site: UserSite, tasks: list[dict[str, Any]]) -> str:
    """Return a file of tasks, in TOML, of which none has been written for another site."""
    lines = ["[site]", f"url = {toml_value(site.origin)}"]
    lines += [f"storage = {toml_value(site.storage)}"] if site.storage else []
    for task in tasks:
        judges = task["judge"]
        lines += ["", "[[task]]", *(f"{key} = {toml_value(value)}" for key, value in task.items() if key != "judge")]
        lines += ["judge = [", *(f"  {toml_value(judge)}," for judge in judges), "]"]
    return "\n".join(lines) + "\n"

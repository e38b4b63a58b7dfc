"""`web?tasks=FILE`: any web site in a real browser, in words, with tasks of yours.

The file says how the site starts, how its state is put back, and what is to be done and how that is judged
(browser/web_tasks.py). docs/environments/web.md has the keys, the options and the actions.

A state is the site's directory, what the browser stored, the address of the document that is shown, and what was done
in it since it was loaded. It is restored by copying the one, loading the other, and doing the third again; and by
repeating the whole episode where the page is then not the one that was left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_choice, parse_step_limit
from eexp.envs.worlds.browser import chromium
from eexp.envs.worlds.browser.judging import Ending, address_of, address_within, holds
from eexp.envs.worlds.browser.lines import (
    USAGE,
    Line,
    PageAction,
    Refused,
    View,
    one_line,
    parse,
    quoted,
    texts_of,
)
from eexp.envs.worlds.browser.page_actions import use
from eexp.envs.worlds.browser.pictures import Pictures
from eexp.envs.worlds.browser.recording import RecordedPage, Recorder
from eexp.envs.worlds.browser.scripted import ScriptedAction
from eexp.envs.worlds.browser.site import Site
from eexp.envs.worlds.browser.site_page import SitePage
from eexp.envs.worlds.browser.storage import read_storage
from eexp.envs.worlds.browser.web_tasks import WebTask, read_web_tasks
from eexp.errors import EnvironmentFailed, UsageError
from eexp.records.task_file import TasksOfFile
from eexp.system.child import ChildFailed, time_limit
from eexp.system.terminal import tell

WIDTH, HEIGHT = 1024, 768  # the visible part of a page, in CSS pixels
HOW = (
    'Actions: click [ID], type [ID] "TEXT", select [ID] "OPTION", hover [ID], key NAME, scroll down, scroll up, '
    "go back, open /ADDRESS, wait. When you have done all that is asked: stop [ANSWER], or stop [] where no answer is "
    "asked for."
)
_STOP = re.compile(r"stop(?: \[(?P<answer>.*)\])?", re.DOTALL)
_LINE_END = "\n"
_SCROLL = re.compile("scroll (?P<way>down|up)")
_OPEN = re.compile(r"open (?P<address>/\S*)")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _SavedWebState:
    """What `save` returns."""

    episode: object  # that the state belongs to
    copy: Path | None  # of the site's directory
    stored: tuple[list[dict], list]
    url: str | None  # by which the document can be loaded again; None where it was the answer to a form
    values: dict[str, Any]  # of the attributes in _OWN
    page: str  # the whole page, as it was read


@dataclass(frozen=True)
class _Beginning:
    """The state of a site after the actions before an episode."""

    copy: Path  # of the site's directory
    stored: tuple[list[dict], list]


#: The attributes that hold the state of an episode beside the page and the site.
_OWN = ("_trail", "_since", "_actions", "_top", "_followed", "_end")


class Web(Environment):
    """A web site in Chromium. docs/environments/web.md lists the options, all strings."""

    spec = "web"
    max_steps = 30
    record_options = frozenset({"budget", "max_steps"})

    def __init__(
        self,
        tasks: str = "",
        run: str = "no",
        url: str = "",
        budget: str = "6000",
        max_steps: str = "30",
        screenshots: str = "",
        sandbox: str = "yes",
    ) -> None:
        if not tasks:
            raise UsageError("web: name a file of tasks: web?tasks=FILE")
        self._file = read_web_tasks(tasks)
        self._allow(tasks, parse_choice("web", "run", run, ("yes", "no")) == "yes", url)
        self.max_steps = parse_step_limit("web", max_steps)
        self._budget = parse_budget(budget)
        self._sandbox = parse_choice("web", "sandbox", sandbox, ("yes", "no")) == "yes"
        self._masks = [re.compile(pattern) for pattern in self._file.site.mask]
        self._tasks = TasksOfFile(self._file.task)
        chromium.find_chromium()
        self._limit = time_limit()
        self._pictures = Pictures(screenshots) if screenshots else None
        base = Path(tasks).resolve().parent
        self._site = Site(self._file.site, base, self._limit)
        self.depends_on_timing = self._site.begins_anew  # else nothing can be played twice in the same way
        storage = self._file.site.storage
        self._stored = read_storage(base / storage, self._site.address) if storage else None
        self._browser: chromium.Browser | None = None
        self._page: SitePage | None = None
        self._task: WebTask | None = None
        self._episode: object = None
        self._begun: dict[tuple[str, tuple[str, ...]], _Beginning] = {}  # by where and how an episode is begun
        self._refused: Counter[str] = Counter()
        self._unsettled = 0  # how many pages were read before they had come to rest
        self._is_recorded = self._has_window = False  # whether new pages are for a person, and seen
        self._missing: set[tuple[str, int, str]] = set()  # actions of demonstrations, said to have no element
        self._demonstrations: dict[str, list[str]] = {}  # by the id of the task, in place of those of the file
        self.ways = {"loaded": 0, "repeated": 0}  # how often a state was restored by loading, and by the whole episode

    def _allow(self, tasks: str, run: bool, url: str) -> None:
        """Raise UsageError if the file of tasks names a program or a server that the spec does not allow."""
        if self._file.programs and not run:
            first = " ".join(self._file.programs[0])[:200]
            raise UsageError(f"{tasks} runs programs, such as {first!r}; where you trust it, allow them with run=yes")
        if self._file.site.url and self._file.site.url.rstrip("/") != url.rstrip("/"):
            raise UsageError(f"{tasks} plays at {self._file.site.url}; allow that with url={self._file.site.url}")
        if url and not self._file.site.url:
            raise UsageError(f"{tasks} starts its own site, so there is no url to allow")

    # -- tasks -------------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return self._tasks.splits()

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        return self._tasks.of_split(split)

    def task_named(self, name: str) -> dict:
        return self._tasks.named(name)

    def instruction(self) -> str:
        """Return the task's own instruction, and how to act."""
        return "" if self._task is None else f"{self._task.instruction}\n{HOW}"

    def reset(self, task: dict) -> Observation:
        found = self._tasks.find(task)
        self._begin_episode(found)
        self._task = found
        if script := self._demonstrations.get(found.id):
            self._task = structs.replace(found, expert=script)
        return self._observe()

    def _begin_episode(self, task: WebTask) -> None:
        """Forget the episode before, and open the page at which a task begins."""
        self._task, self._episode = None, object()
        self._trail: tuple[str, ...] = ()  # the addresses of the documents before this one
        self._since: tuple[str, ...] = ()  # the actions since this document was loaded
        self._actions: tuple[str, ...] = ()  # all that were accepted
        self._top = 0  # the number of the first line that is shown
        self._followed: int | None = 0  # how many actions of the demonstration were taken; None once it was left
        self._end: Observation | None = None
        self._do("reset", lambda: self._begin(task))

    def _begin(self, task: WebTask) -> None:
        """Put the site into its first state and open the address at which a task begins."""
        start = self._site.address.origin + task.start
        before = self._actions_before(task)
        opens = bool(before) and before[0].startswith("open ")  # it begins at an address of its own
        key = ("" if opens else task.start, before)
        if begun := self._begun.get(key):
            self._site.restore(begun.copy)
            self._new_page().open_with(start, begun.stored)
        else:
            self._site.begin()
            self._open_first(start)
            if before:
                self._act_before(before)
                self._keep_beginning(key)
                self._opened().open(start)
        self._rest()
        self._trail, self._since = (), ()

    def _open_first(self, url: str) -> None:
        """Begin to open an address in a new page, with the cookies and the storage that the file of tasks names."""
        if self._stored is None:
            self._new_page().open(url)
        else:
            self._new_page().open_with(url, self._stored)

    def _actions_before(self, task: WebTask) -> tuple[str, ...]:
        """Return the actions before an episode of a task."""
        return tuple(self._file.site.before if task.before is None else task.before)

    def _keep_beginning(self, key: tuple[str, tuple[str, ...]]) -> None:
        """Save the state that the actions before an episode lead to, so that the next one can begin there."""
        if not self._file.site.reset and (copy := self._site.save()):
            self._begun[key] = _Beginning(copy, self._opened().stored())

    def _act_before(self, actions: tuple[str, ...]) -> None:
        """Take the actions before an episode. Raises ChildFailed if one cannot be taken."""
        self._rest()
        for line in actions:
            action = ScriptedAction.of(line).on(self._view.lines)
            if action is None:
                raise ChildFailed(f"before: {line}: {address_within(self._url)[:200]} has no such element")
            try:
                self._act(action, self._view)
            except Refused as e:
                raise ChildFailed(f"before: {line}: {e}") from None
        self._opened().take_notes()

    # -- acting ------------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._task is None:
            raise EnvironmentFailed(f"{self.spec}: step: no task is loaded; `reset` loads one")
        if self._end is not None:
            return replace(self._end, text="The episode is over.", valid=False, screenshot=None)
        action = action.strip()
        expected = self._scripted()
        if stop := _STOP.fullmatch(action):
            self._follow(action, expected)
            return self._finish(stop["answer"])
        try:
            self._do("step", lambda: self._act(action))
        except Refused as e:
            return Observation(str(e), score=0.0, valid=False)
        self._follow(action, expected)
        self._actions = (*self._actions, action)
        if self._task.ends == "judged" and all(self._judged(None)):
            return self._finish(None)
        return self._observe()

    def _act(self, action: str, view: View | None = None) -> None:
        """Take an action and let the page come to rest. Raises Refused if it is none that the page allows.

        Args:
            view: The elements that the action can name; by default, those of the part that is shown.
        """
        page, document = self._opened(), self._document
        if match := _SCROLL.fullmatch(action):
            self._scroll(page, match["way"] == "down")
        elif action == "go back":
            if not self._trail:
                raise Refused("There is no page to go back to.")
            page.open(self._trail[-1])
        elif match := _OPEN.fullmatch(action):
            page.open(self._site.address.origin + match["address"])
        else:
            use(page, self._parse(action, view or self._visible()))
        self._rest()
        if page.document == document:
            self._since = (*self._since, action)
        elif action == "go back":
            self._trail = self._trail[:-2]  # without the page that was left, which `_rest` has added

    def _parse(self, action: str, view: View) -> PageAction:
        try:
            return parse(action, view)
        except Refused as e:
            raise Refused(f"That is not an action. {HOW}" if USAGE in str(e) else str(e)) from None

    def _scroll(self, page: SitePage, down: bool) -> None:
        """Show the next part of the page, or the one before."""
        first, end = self._shown()
        if down and end >= len(self._view.lines):
            raise Refused("The page ends here.")
        if not down and not first:
            raise Refused("The page begins here.")
        self._top = end if down else self._before(first)
        page.evaluate_isolated(f"scrollBy(0, {'' if down else '-'}innerHeight)")

    def _rest(self) -> None:
        """Let the page come to rest and read it. Where it is another document, it begins at its top."""
        page = self._opened()
        answer = page.rest()
        self._view, self._title, self._url = View.of(_lines_of(answer)), str(answer["title"]), str(answer["url"])
        self._texts = texts_of_lines(self._view.lines)
        if page.document != self._document:
            if self._document_url:
                self._trail = (*self._trail, self._document_url)
            self._document, self._document_url, self._since, self._top = page.document, page.loaded_url, (), 0

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _observe(self) -> Observation:
        return Observation(self._render(), score=0.0, screenshot=self._take_picture())

    def _render(self) -> str:
        """Return the part of the page that is shown, within the budget."""
        first, end = self._shown()
        lines = [f"page {quoted(self._title[:200])} {one_line(address_within(self._url))[:500]}"]
        lines += self._notes()
        above, below = (sum(map(bool, part)) for part in (self._texts[:first], self._texts[end:]))
        lines += [f"... {above} lines above: scroll up"] if above else []
        lines += [text[: self._budget] for text in self._texts[first:end] if text]
        lines += [f"... {below} lines below: scroll down"] if below else []
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        """Return a line for every note: the first one, and others as long as all take half of the budget at most."""
        notes, more = self._opened().take_notes()
        lines = [f"note: {note}" for note in notes]
        lengths = list(accumulate(len(line) + 1 for line in lines))
        shown = [line for n, line in enumerate(lines) if n == 0 or lengths[n] <= self._budget // 2]
        more += len(lines) - len(shown)
        return [*shown, f"note: {more} more notes"] if more else shown

    def _shown(self) -> tuple[int, int]:
        """Return which lines are shown: the first one, and the one after the last."""
        first = self._top = min(self._top, max(0, len(self._view.lines) - 1))
        end, length = first, 0
        while end < len(self._view.lines) and (end == first or length < self._budget):
            length += len(self._texts[end]) + 1
            end += end == first or length <= self._budget
        while end < len(self._texts) and not self._texts[end]:  # the cells of a row stay with it
            end += 1
        return first, end

    def _before(self, end: int) -> int:
        """Return the first of the lines that are shown before line `end`."""
        first, length = end, 0
        while first and (first == end or length <= self._budget):
            length += len(self._texts[first - 1]) + 1
            first -= first == end or length <= self._budget
        while first and not self._texts[first]:
            first -= 1
        return first

    def _visible(self) -> View:
        first, end = self._shown()
        return replace(self._view, lines=self._view.lines[first:end])

    def _whole(self) -> str:
        """Return the whole page with its address, for comparisons and judges."""
        return self.mask(f"{self._title}\n{address_within(self._url)}\n{_LINE_END.join(filter(None, self._texts))}")

    def _take_picture(self) -> str | None:
        if self._pictures is None or self._task is None:
            return None
        take = lambda: self._do("screenshot", lambda: self._opened().picture(WIDTH, HEIGHT))  # noqa: E731
        return self._pictures.keep(self._task.id, list(self._actions), take)

    def mask(self, text: str) -> str:
        for pattern in self._masks:
            text = pattern.sub("*", text)
        return text

    def admissible(self) -> list[str]:
        """Return what the shown part allows: clicks, choices, typing what the instruction names, scrolling, going back.

        `stop` and `open` are not among them.
        """
        if self._task is None or self._end is not None:
            return []
        first, end = self._shown()
        actions = self._visible().admissible(texts_of(self._task.instruction))
        actions += ["scroll down"] if end < len(self._view.lines) else []
        actions += ["scroll up"] if first else []
        return actions + (["go back"] if self._trail else [])

    # -- the end -------------------------------------------------------------------------------------------------------

    def _finish(self, answer: str | None) -> Observation:
        """End the episode and judge it."""
        assert self._task is not None
        picture = self._take_picture()  # before a judge opens another page
        results = self._judged(answer)
        weights = [judge.score for judge in self._task.judge]
        score = round(sum(weight for weight, result in zip(weights, results) if result) / sum(weights), 4)
        text = f"The episode is over: the task is {'done' if all(results) else 'not done'}."
        self._end = Observation(text, True, 1.0 if all(results) else score, success=all(results))
        return replace(self._end, screenshot=picture)

    def _judged(self, answer: str | None) -> list[bool]:
        """Return which of the task's judges hold."""
        assert self._task is not None
        judges = self._task.judge

        def judge() -> list[bool]:
            ending = Ending(self._url, self._whole(), answer, self._opened().evaluate)
            # The page that the agent left is looked at first; after that, it is gone.
            results = [one.open is not None or holds(one, ending, self._site, self._limit) for one in judges]
            addresses = [address_of(one, ending) for one in judges]
            for number, (one, address) in enumerate(zip(judges, addresses)):
                if address is not None:
                    page = self._ending_at(address) if address else None
                    results[number] = page is not None and holds(one, page, self._site, self._limit)
            return results

        return self._do(f"judges of task {self._task.id!r}", judge)

    def _ending_at(self, address: str) -> Ending:
        """Open an address of the site and return what is seen there."""
        page = self._opened()
        page.open(self._site.address.origin + address)
        answer = page.rest()
        texts = texts_of_lines(View.of(_lines_of(answer)).lines)
        text = self.mask(f"{answer['title']}\n{address_within(answer['url'])}\n{_LINE_END.join(filter(None, texts))}")
        return Ending(str(answer["url"]), text, None, page.evaluate)

    # -- the demonstration -------------------------------------------------------------------------------------------

    def expert(self) -> str | None:
        """Return the next action of the task's demonstration; None where it has none, or once it was left."""
        if self._task is None or self._end is not None:
            return None
        action = self._scripted()
        if action is None:
            self._tell_missing()
        return action

    def _scripted(self) -> str | None:
        script = self._task.expert if self._task else None
        if not script or self._followed is None:
            return None
        if self._followed >= len(script):
            return None if _STOP.fullmatch(script[-1]) else "stop []"
        next_action = ScriptedAction.of(script[self._followed])
        action = next_action.on(self._visible().lines)
        if action is None and next_action.on(self._view.lines[self._shown()[0] :]):
            return "scroll down"
        return action

    def _tell_missing(self) -> None:
        """Say once of each action of a demonstration that the page has no such element, and which are most like it."""
        task = self._task
        if task is None or not task.expert or self._followed is None or self._followed >= len(task.expert):
            return
        line = task.expert[self._followed]
        place = (task.id, self._followed, line)
        action = ScriptedAction.of(line)
        if place in self._missing or action.on(self._view.lines):
            return
        self._missing.add(place)
        tell(
            f"{self.spec}: task {task.id}: the expert's action {self._followed + 1} is {line[:200]}, and "
            f"{address_within(self._url)[:200]} has no such element; {action.nearest(self._view.lines)}"
        )

    def _follow(self, action: str, expected: str | None) -> None:
        """Note an action that was accepted, for the expert; `expected`: what it would have done."""
        if action != expected:
            self._followed = self._followed if _SCROLL.fullmatch(action) else None
        elif self._followed is not None and not self._leads_there(action):
            self._followed += 1

    def _leads_there(self, action: str) -> bool:
        """Return whether an action only brings the demonstration's next element into view."""
        assert self._task is not None and self._task.expert is not None and self._followed is not None
        script = self._task.expert
        return action == "scroll down" and (self._followed >= len(script) or script[self._followed] != action)

    def demonstrate(self, task: dict, script: list[str]) -> None:
        """Let the expert of a task follow a demonstration in place of the one in the file, in a new browser."""
        self.close()
        self._demonstrations[self._tasks.find(task).id] = script

    def recorder(self, task: dict, window: bool = True) -> Recorder:
        """Open a task for a person, whose actions are recorded. `close` ends it, too.

        Args:
            window: Whether it is shown; without, it is for programs that send it a person's events.

        Raises:
            EexpError: There is no display.
        """
        self.close()
        found = self._tasks.find(task)
        self._is_recorded, self._has_window = True, window
        try:
            self._begin_episode(found)
        finally:
            self._is_recorded = self._has_window = False
        page = self._opened()
        assert isinstance(page, RecordedPage)
        if window:
            self._do("record", lambda: page.show_whole(WIDTH, HEIGHT))
        return Recorder(page, found.instruction)

    # -- states ------------------------------------------------------------------------------------------------------

    def why_no_copy(self) -> str | None:
        return None if self._site.copies else "the state of a running server is not a copy's to take"

    def save(self) -> _SavedWebState:
        if self._task is None:
            raise EnvironmentFailed(f"{self.spec}: save: no task is loaded; `reset` loads one")

        def save() -> _SavedWebState:
            page = self._opened()
            url = None if page.posted else self._document_url
            values = {name: getattr(self, name) for name in _OWN}
            return _SavedWebState(self._episode, self._site.save(), page.stored(), url, values, self._whole())

        return self._do("save", save)

    def restore(self, state: _SavedWebState) -> None:
        if state.episode is not self._episode or self._task is None:
            raise EnvironmentFailed(f"{self.spec}: restore: the state belongs to an episode that is over")
        loaded = state.url is not None and self._do("restore", lambda: self._load(state))
        if not loaded:
            self._do("restore", lambda: self._repeat(state))
        self.ways["loaded" if loaded else "repeated"] += 1
        for name, value in state.values.items():
            setattr(self, name, value)

    def release(self, state: _SavedWebState) -> None:
        self._site.release(state.copy)

    def _load(self, state: _SavedWebState) -> bool:
        """Load the document of a state and do again what was done in it; return whether that led to the same page."""
        assert state.url is not None
        self._site.restore(state.copy)
        self._opened().open_with(state.url, state.stored)
        self._document, self._document_url = -1, ""  # the document that is loading is another one in any case
        self._rest()
        return self._same_page(state, state.values["_since"])

    def _repeat(self, state: _SavedWebState) -> None:
        """Repeat the episode up to a state. Raises ChildFailed if it leads to another page."""
        assert self._task is not None
        self._begin(self._task)
        if not self._same_page(state, state.values["_actions"]):
            raise ChildFailed("the page cannot be restored: the same actions lead to another one")

    def _same_page(self, state: _SavedWebState, actions: tuple[str, ...]) -> bool:
        """Take actions in a page, and return whether the page is then that of a state."""
        self._trail = ()
        try:
            for action in actions:
                self._act(action)
        except Refused:
            return False
        self._opened().take_notes()
        return self._whole() == state.page

    # -- the browser and the site ------------------------------------------------------------------------------------

    def _do(self, method: str, do: Callable[[], Result]) -> Result:
        """Do something with the page or the site. Raises EnvironmentFailed if that failed; both are ended then."""
        try:
            return do()
        except (ChildFailed, OSError) as e:
            self.close()
            raise EnvironmentFailed(f"{self.spec}: {method}: {e}") from None

    def _opened(self) -> SitePage:
        if self._page is None or self._browser is None or not self._browser.usable:
            raise EnvironmentFailed(f"{self.spec}: no page is open; `reset` opens one")
        return self._page

    def _new_page(self) -> SitePage:
        """Open a new page, which shares nothing with the one before."""
        if self._browser is None or not self._browser.usable:
            self._browser = chromium.Browser(self._limit, self._sandbox, self._site.address, self._has_window)
            self._page = None
        if self._page is not None:
            self._count_problems(self._page)
            self._page.close()
        kind, site = RecordedPage if self._is_recorded else SitePage, self._file.site
        self._page = kind(self._browser, WIDTH, HEIGHT, self._site.address, site.hide, site.settle)
        self._document, self._document_url = -1, ""
        return self._page

    def _count_problems(self, page: SitePage) -> None:
        self._refused += page.refused
        self._unsettled += page.unsettled

    def close(self) -> None:
        if self._page is not None:
            self._count_problems(self._page)
        if self._unsettled:
            pages = "1 page was" if self._unsettled == 1 else f"{self._unsettled} pages were"
            tell(f"{self.spec}: {pages} read when the time was up, before coming to rest")
        self._unsettled = 0
        if self._refused:
            hosts = ", ".join(f"{host} {number}" for host, number in self._refused.most_common(5))
            requests = (
                "request for another site was" if (n := self._refused.total()) == 1 else "requests for other sites were"
            )
            tell(f"{self.spec}: {n} {requests} refused ({hosts})")
        self._refused.clear()
        self._begun.clear()  # the site removes its copies
        browser, self._browser, self._page, self._task = self._browser, None, None, None
        if browser is not None:
            browser.end()
        self._site.close()


def _lines_of(answer: dict) -> dict:
    return {"lines": answer["lines"], "waiting": answer["waiting"]}


def texts_of_lines(lines: list[Line]) -> list[str]:
    """Return what the agent reads for each line of a page. A row's cells stand in its line, and theirs are empty."""
    texts: list[str] = []
    row: int | None = None  # the number of the line with the row that this one is in
    for number, line in enumerate(lines):
        text = line.render()
        if row is not None and line.depth > lines[row].depth:
            between = " " if row == number - 1 else " | "
            texts[row] += between + text.strip().removeprefix("text ")
            text = ""
        else:
            row = number if line.role == "row" else None
        texts.append(text)
    return texts


def parse_budget(value: str) -> int:
    """Return the option budget, characters of a page that are shown at once. Raises UsageError if it makes no sense."""
    if not re.fullmatch("[0-9]{1,9}", value) or int(value) < 200:
        raise option_error("web", "budget", value, "expected a number of characters from 200 on")
    return int(value)

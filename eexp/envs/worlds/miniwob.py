"""`miniwob`: the web pages of MiniWoB++ (Shi et al. 2017, Liu et al. 2018) in a real browser, in words.

The pages are those of the package `miniwob`; they run in Chromium without a window (eexp/envs/worlds/browser). An
observation is the page as lines. docs/environments/miniwob.md has the actions, the splits and the options.

The seed decides the task, as in the package. The page's clock stands still and advances by one second at every step,
and its random numbers come from the seed alone: the same actions lead to the same pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_choice, parse_step_limit
from eexp.envs.worlds.browser import chromium
from eexp.envs.worlds.browser.experts import EXPERTS
from eexp.envs.worlds.browser.lines import PageAction, Refused, View, parse, texts_of
from eexp.envs.worlds.browser.page_actions import use
from eexp.envs.worlds.browser.pictures import Pictures
from eexp.errors import EexpError, EnvironmentFailed, InputError
from eexp.system.child import ChildFailed, time_limit

INSTALL = "miniwob needs `pip install 'eexp[miniwob]'` and Chromium (apt-get install chromium)"

SPLITS = {"train": range(10_000), "test": range(1_000_000, 1_001_000)}

WIDTH, HEIGHT = 500, 400  # the visible part of a page, and the part of it that belongs to the task
TASK_WIDTH, TASK_HEIGHT = 160, 210
STEP = 1000  # milliseconds of the page's own time that pass at every step

#: Parts of a page that belong to no task.
_FRAME = "#query, #reward-display, #sync-task-cover, #click-canvas"
#: Starts the task of a seed, without a limit of time. At its end the page stays as it is.
_BEGIN = """
core.EPISODE_MAX_TIME = 1e12;
core.countdownTimer = () => undefined;
Math.seedrandom(%(seed)d);
core.setDataMode(%(mode)s);
core.startEpisodeReal();
core.startEpisode = () => undefined;
"""
_STANDING = "({ done: WOB_DONE_GLOBAL, reward: WOB_RAW_REWARD_GLOBAL })"


class MiniWoB(Environment):
    """MiniWoB++'s pages in Chromium. docs/environments/miniwob.md lists the options, all strings."""

    spec = "miniwob"
    max_steps = 30
    record_options = frozenset({"task", "max_steps"})

    def __init__(self, task: str = "", max_steps: str = "30", screenshots: str = "", sandbox: str = "yes"):
        self._pages = _pages(task)
        self.max_steps = parse_step_limit("miniwob", max_steps)
        self._sandbox = parse_choice("miniwob", "sandbox", sandbox, ("yes", "no")) == "yes"
        chromium.find_chromium()
        self._limit = time_limit()
        self._pictures = Pictures(screenshots) if screenshots else None
        self._browser: chromium.Browser | None = None
        self._page: chromium.Page | None = None
        self._name: str | None = None  # that of the page of the current task
        self._played: list[str] = []

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(SPLITS)

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the first seed of every page, then the second of every page, and so on."""
        self.check_split(split)
        for seed in SPLITS[split]:
            for name in self._pages:
                yield {"id": f"{name}/{seed}", "split": split, "task": name, "seed": seed}

    def kind_of(self, task: dict) -> str | None:
        """Return the name of the page."""
        return task.get("task")

    def reset(self, task: dict) -> Observation:
        self._name = None
        name, seed = task.get("task"), task.get("seed")
        if name not in _all_pages():
            raise InputError(f"MiniWoB++ has no page {name!r}", "$.task.task")
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise InputError(f"expected a seed from 0 to {2**32 - 1}, got {seed!r}", "$.task.seed")
        mode = task.get("split") if task.get("split") in SPLITS else "default"
        self._task, self._played, self._over = f"{name}/{seed}", [], False
        begin = _BEGIN % {"seed": seed, "mode": repr(mode)}
        answer = self._call("reset", lambda page: self._start(page, str(name), begin))
        self._name = name
        return self._observe(answer)

    def _start(self, page: chromium.Page, name: str, begin: str) -> dict:
        page.open((_directory() / f"{name}.html").as_uri())
        page.move_mouse(0, 0)
        page.evaluate_isolated(f"eexpPage.skip({_FRAME!r})")
        page.evaluate(begin)
        answer = self._read(page)
        self._instruction = page.evaluate(_UTTERANCE)
        return answer

    def instruction(self) -> str:
        return self._instruction

    # -- acting --------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._name is None:
            raise EnvironmentFailed(f"{self.spec}: step: no task is loaded; `reset` loads one")
        if self._over:
            return Observation("The episode is over.", True, self._score, valid=False, success=self._success)
        try:
            parsed = parse(action, self._view)
            answer = self._call("step", lambda page: self._act(page, parsed))
        except Refused as e:
            return Observation(str(e), score=0.0, valid=False)
        self._played.append(action)
        return self._observe(answer)

    def _act(self, page: chromium.Page, action: PageAction) -> dict:
        """Take an action and return what the page says then. Raises Refused if the page does not allow it."""
        use(page, action)
        return self._read(page)

    def _read(self, page: chromium.Page) -> dict:
        """Let a step's time pass, and return what the page says then, and how the task stands.

        The browser's own events, which come with its frames, are let in before and after and not in between.
        """
        page.evaluate_isolated("eexpPage.frame()")
        page.evaluate(f"eexpClock.advance({STEP})")
        return {**page.evaluate_isolated("eexpPage.readWithPictures()"), **page.evaluate(_STANDING)}

    def _observe(self, answer: dict) -> Observation:
        self._view = View.of({"lines": answer["lines"], "waiting": answer["waiting"]})
        text, self._over = self._view.render(), bool(answer["done"])
        reward = float(answer["reward"] or 0)
        self._score = round(min(max(reward, 0.0), 1.0), 4) if self._over else 0.0
        self._success = reward >= 1 if self._over else None
        if self._over:
            text += f"\nThe episode is over: the task is {'done' if self._success else 'not done'}."
        return Observation(
            text, done=self._over, score=self._score, success=self._success, screenshot=self._take_picture()
        )

    def _take_picture(self) -> str | None:
        if self._pictures is None:
            return None
        return self._pictures.keep(
            self._task, self._played, lambda: self._call("screenshot", lambda p: p.picture(TASK_WIDTH, TASK_HEIGHT))
        )

    def admissible(self) -> list[str]:
        """Return every click and choice that the page allows, and typing what the instruction names.

        Quoted phrases of the instruction are offered for every field, and its words where it quotes nothing. Any other
        text may be typed, too.
        """
        if self._name is None or self._over:
            return []
        return self._view.admissible(texts_of(self._instruction))

    def expert(self) -> str | None:
        if self._name is None or self._over or self._name not in EXPERTS:
            return None
        return EXPERTS[self._name](self._instruction, self._view, self._played)

    # -- the browser ---------------------------------------------------------------------------------------------

    def _call(self, method: str, do: Callable[[chromium.Page], Any]) -> Any:
        """Do something with the page, which is opened if it is not.

        Raises:
            EnvironmentFailed: The browser failed. It is ended then.
        """
        try:
            return do(self._opened())
        except ChildFailed as e:
            if self._browser is not None:
                self._browser.end()
            self.close()
            raise EnvironmentFailed(f"{self.spec}: {method}: {e}") from None

    def _opened(self) -> chromium.Page:
        if self._browser is not None and not self._browser.usable:  # another environment has ended it, or a fork
            self.close()
        if self._browser is None:
            self._browser = _Shared.get(self._limit, self._sandbox)
        if self._page is None:
            self._page = chromium.Page(self._browser, WIDTH, HEIGHT)
        return self._page

    def close(self) -> None:
        browser, page, self._browser, self._page, self._name = self._browser, self._page, None, None, None
        if browser is None:
            return
        if browser.usable and page is not None:
            try:
                page.close()
            except ChildFailed:
                browser.end()
        _Shared.release(browser)


class _Shared:
    """The one browser of this process, used by all environments in it."""

    browser: chromium.Browser | None = None

    @classmethod
    def get(cls, limit: float, sandbox: bool) -> chromium.Browser:
        if cls.browser is None or not cls.browser.usable:
            cls.browser = chromium.Browser(limit, sandbox)
        else:
            cls.browser.users += 1
        return cls.browser

    @classmethod
    def release(cls, browser: chromium.Browser) -> None:
        browser.users -= 1
        if not browser.users:
            browser.end()
            if cls.browser is browser:
                cls.browser = None


_UTTERANCE = """
(() => {
  const utterance = core.getUtterance();
  return typeof utterance === "string" ? utterance : utterance.utterance;
})()
"""


@cache
def _directory() -> Path:
    """Return the directory of the pages. The package itself is not imported: it needs much that is not needed here."""
    found = find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        raise EexpError(f"the package miniwob is missing: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations))) / "html" / "miniwob"


@cache
def _all_pages() -> list[str]:
    return sorted(file.stem for file in _directory().glob("*.html"))


def _pages(option: str) -> list[str]:
    """Return the pages that the option task names, in the order of the option."""
    pages = _all_pages()
    if not option:
        return [name for name in EXPERTS if name in pages]
    chosen: dict[str, None] = {}
    for pattern in option.split(","):
        matching = [name for name in pages if fnmatchcase(name, pattern)]
        if not matching:
            raise option_error(
                "miniwob", "task", option, f"there is no page {pattern!r}; there are: {', '.join(pages)}"
            )
        chosen |= dict.fromkeys(matching)
    return list(chosen)

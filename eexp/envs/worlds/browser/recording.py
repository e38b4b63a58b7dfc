"""Record what a person does in a page, as the lines of a demonstration (scripted.py).

record.js tells the events, each with the page as it was read before anything came of it. So an action names its element
by role and name as the page had them when the person acted. What the browser does of its own accord, such as going back
by its button or opening an address that was typed, is seen by a new document that no page has asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eexp.envs.worlds.browser.chromium import ISOLATED_WORLD
from eexp.envs.worlds.browser.judging import address_within
from eexp.envs.worlds.browser.lines import Line
from eexp.envs.worlds.browser.scripted import ScriptedAction
from eexp.envs.worlds.browser.site_page import SitePage
from eexp.errors import EexpError

RECORDING = Path(__file__).with_name("record.js")
_FRAME = (20, 100)  # CSS pixels by which a window is larger than the page in it: bars, borders
_QUIET = 0.3  # seconds without a key after which the page's clock goes on


class RecordedPage(SitePage):
    """A page of a site in which a person acts. record.js runs in it, after page.js.

    Attributes:
        events: What record.js has told and nobody has taken yet.
        asked: Whether the page itself asked for another document since the last one came.
        is_closed: Whether the person has closed it.
    """

    def __init__(self, *args: Any) -> None:
        self.events: list[dict] = []
        self.asked = self.is_closed = False
        super().__init__(*args, after=RECORDING.read_text())
        self._call_all(("Runtime.addBinding", {"name": "eexpRecord", "executionContextName": ISOLATED_WORLD}))

    def _hear(self, method: str, params: dict) -> None:
        if method == "Runtime.bindingCalled" and params["name"] == "eexpRecord":
            self.events.append(json.loads(params["payload"]))
        elif method == "Page.frameRequestedNavigation" and params["frameId"] == self._frame:
            self.asked = True
        else:
            super()._hear(method, params)

    def _hear_browser(self, method: str, params: dict) -> None:
        if method == "Target.targetDestroyed" and params["targetId"] == self._target:
            self.is_closed = True
        super()._hear_browser(method, params)

    def show_whole(self, width: int, height: int) -> None:
        """Make the window so large that all of the page's visible part is in it."""
        window = self._browser.call("Browser.getWindowForTarget", targetId=self._target)["windowId"]
        bounds = {"width": width + _FRAME[0], "height": height + _FRAME[1]}
        self._browser.call("Browser.setWindowBounds", windowId=window, bounds=bounds)

    def hear_for(self, seconds: float) -> None:
        """Read what the browser sends for so many seconds."""
        self._browser.wait(seconds)


class Recorder:
    """The recording of one task.

    Args:
        page: The page at the beginning of the task. What was told of it before is not recorded.

    Attributes:
        script: The actions so far, as lines of a demonstration.
    """

    def __init__(self, page: RecordedPage, instruction: str) -> None:
        self.page, self.instruction = page, instruction
        self.script: list[str] = []
        self._trail: list[str] = []  # the addresses of the documents before this one
        self._typed: int | None = None  # the element of the latest action, if that was a click
        self._rest()
        page.events.clear()
        self._document, self._url, page.asked = page.document, page.loaded_url, False

    def record(self, ended: Callable[[], str | None], show: Callable[[str], None] = lambda line: None) -> list[str]:
        """Record until the person has ended the task, and return the demonstration.

        Args:
            ended: Asked again and again; returns the last action, `stop [ANSWER]`, when the person has done the task.
            show: Called with every action.

        Raises:
            EexpError: The page was closed.
        """
        last_key = 0.0
        while True:
            self.page.hear_for(0.05)
            if self.page.is_closed:
                raise EexpError("the window was closed before the demonstration was ended")
            events, self.page.events = self.page.events, []
            for event in events:
                if event["kind"] == "typing":
                    last_key = time.monotonic()
                else:
                    self._add(event, show)
            acted = any(event["kind"] != "typing" for event in events)
            if acted or (last_key and time.monotonic() - last_key > _QUIET):
                last_key = 0.0
                self._rest()
            self._follow(show)
            if not events and (stop := ended()) is not None:
                return [*self.script, stop]

    def _add(self, event: dict, show: Callable[[str], None]) -> None:
        """Add the action that an event tells of, if the agent has such an action."""
        if event["kind"] == "key":
            self._note(f"key {event['text']}", show)
            return
        lines = [Line.of(fields) for fields in event["lines"]]
        line = next((line for line in lines if line.id is not None and line.id == event["id"]), None)
        if line is None:
            return
        if event["kind"] == "type" and self._typed == line.id:
            self.script.pop()  # the click into the field, which typing does itself
        self._note(str(ScriptedAction.naming(event["kind"], line, lines, event.get("text"))), show)
        self._typed = line.id if event["kind"] == "click" else None

    def _note(self, line: str, show: Callable[[str], None]) -> None:
        self._typed = None
        self.script.append(line)
        show(line)

    def _rest(self) -> None:
        self.page.rest()

    def _follow(self, show: Callable[[str], None]) -> None:
        """Note where a document came that the page has not asked for: the person went back, or opened an address."""
        page = self.page
        if page.document == self._document:
            return
        self._rest()
        if not page.asked:
            back = bool(self._trail) and page.loaded_url == self._trail[-1]
            self._note("go back" if back else f"open {address_within(page.loaded_url)}", show)
            self._trail = self._trail[:-1] if back else [*self._trail, self._url]
        else:
            self._trail.append(self._url)
        self._document, self._url, page.asked = page.document, page.loaded_url, False

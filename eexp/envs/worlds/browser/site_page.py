"""A page of one site: it loads what the site has and nothing else, and is read when it has come to rest.

Every request goes through this process, which refuses all that are not for the site, and counts them by host. So a link
that leads away leaves the page as it is. Files are not downloaded. Dialogs are answered by page.js. The pages of a site
get a new context for each episode.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from eexp.envs.worlds.browser.chromium import Browser, Page, SiteAddress
from eexp.envs.worlds.browser.lines import one_line
from eexp.system.child import ChildFailed

STEP = 1000  # milliseconds of the page's own time that pass at every step
MOST_TIME = 10_000  # milliseconds of its own time after which the site's condition `settle` is not waited for any more
PATIENCE = 5.0  # seconds for which a page may go on loading or changing after an action
MOST_NOTES = 100  # between two observations; further ones are counted

#: What the browser says where the document was replaced while an expression was evaluated.
_REPLACED = (
    "context was destroyed",
    "context with specified id",
    "navigated or closed",
    "not attached to an active page",
    "promise was collected",
)
#: What a dialog answers.
_DIALOGS = {
    "alert": "alert",
    "confirm": "confirm, answered with OK",
    "prompt": "prompt, answered with nothing",
}
_PAUSE = """
typeof eexpPage === "undefined"
  ? { still: true, ready: true, lines: [], waiting: false, title: document.title, url: location.href }
  : eexpPage.pause(%s, %s)
"""
#: Lets a part of so many milliseconds pass, and gives what is left of them.
_GO_ON = 'typeof eexpClock === "undefined" ? 0 : eexpClock.advancePart(%r, %s)'
#: One that fails, since the page lacks what it looks at, does not hold.
_SETTLED = """
(() => {
  try {
    return Boolean(%s);
  } catch {
    return false;
  }
})()
"""
# A page without a place of its own has no storage, and says so by an error.
_STORED = """
(() => {
  try {
    return [Object.entries(localStorage), Object.entries(sessionStorage)];
  } catch {
    return [[], []];
  }
})()
"""
_FORGET = """
(() => {
  window.name = "";
  try {
    localStorage.clear();
    sessionStorage.clear();
  } catch {}
})()
"""
_STORE = """
if (location.origin === %s) {
  for (const [key, value] of %s) localStorage.setItem(key, value);
  for (const [key, value] of %s) sessionStorage.setItem(key, value);
}
"""


class SitePage(Page):
    """A page of a site. The methods raise ChildFailed if the browser does not answer.

    Args:
        site: The site whose pages it opens.
        hidden: CSS selectors of what is left out of the page as it is read.
        settled: A JavaScript expression that is true once a page can be read; "" for none.
        after: JavaScript that runs after page.js.

    Attributes:
        refused: How many requests were refused, by host.
        notes: What happened since they were taken and the page does not show: dialogs, refused addresses, files.
        unsettled: How often a page was read when the time was up, before it had come to rest.
        document: The number of the document that is shown; it changes when another one is loaded.
        posted: Whether the document is the answer to a form that was posted, and cannot be loaded by its address.
    """

    def __init__(
        self,
        browser: Browser,
        width: int,
        height: int,
        site: SiteAddress,
        hidden: list[str],
        settled: str = "",
        after: str = "",
    ):
        self._site, self._settled = site, settled
        self._in_flight: set[str] = set()
        self._frames_loading: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.notes: list[str] = []
        self._more_notes = 0  # that were not kept
        self.unsettled = 0
        self.document, self.posted, self.loaded_url = 0, False, ""
        self._method = "GET"  # that of the latest request for a document
        hides = f"eexpPage.skip({json.dumps(', '.join(hidden))});" if hidden else ""
        super().__init__(browser, width, height, "window.eexpSite = true;", f"{hides}\n{after}")
        browser.listen(self._session, self._hear)
        browser.listen(None, self._hear_browser)
        self._call_all(
            ("Runtime.enable", {}),
            ("Runtime.addBinding", {"name": "eexpSay"}),
            ("Network.enable", {"maxTotalBufferSize": 0, "maxResourceBufferSize": 0}),
            ("Network.setBypassServiceWorker", {"bypass": True}),
            ("Network.setCacheDisabled", {"cacheDisabled": True}),  # what it keeps may be of another state of the site
            ("Fetch.enable", {"patterns": [{"urlPattern": "*"}]}),
        )
        browser.call_all(
            [
                (
                    "Browser.setDownloadBehavior",
                    {"behavior": "deny", "browserContextId": self._context, "eventsEnabled": True},
                ),
                ("Target.setDiscoverTargets", {"discover": True}),
            ]
        )

    # -- events ------------------------------------------------------------------------------------------------------

    def _hear(self, method: str, params: dict) -> None:
        match method:
            case "Fetch.requestPaused":
                self._let_through(params)
            case "Network.requestWillBeSent":
                if not params["request"]["url"].startswith(("data:", "blob:")) and params.get("type") != "EventSource":
                    self._in_flight.add(params["requestId"])
            case "Network.loadingFinished" | "Network.loadingFailed":
                self._in_flight.discard(params["requestId"])
            case "Network.webSocketCreated":
                if not self._belongs(params["url"]):
                    self._refuse(params["url"])
            case "Page.frameStartedLoading":
                self._frames_loading.add(params["frameId"])
            case "Page.frameStoppedLoading" | "Page.frameDetached":
                self._frames_loading.discard(params["frameId"])
            case "Page.frameNavigated":
                frame = params["frame"]
                if frame["id"] == self._frame:
                    self.document += 1
                    self.posted, self.loaded_url = self._method == "POST", frame["url"] + frame.get("urlFragment", "")
                    self._in_flight.clear()
            case "Page.javascriptDialogOpening":
                self._browser.post("Page.handleJavaScriptDialog", self._session, accept=True)
            case "Runtime.bindingCalled":
                kind, _, text = params["payload"].partition(" ")
                if params["name"] == "eexpSay" and kind in _DIALOGS:
                    self._note(f"{_DIALOGS[kind]}: {text}")

    def _hear_browser(self, method: str, params: dict) -> None:
        if method == "Browser.downloadWillBegin":
            self._note(f"A file was offered and not downloaded: {params.get('suggestedFilename', '')[:100]}")
        elif method == "Target.targetCreated" and params["targetInfo"].get("openerId"):
            self._browser.post("Target.closeTarget", targetId=params["targetInfo"]["targetId"])
            self._note("A window was opened and closed.")

    def _let_through(self, params: dict) -> None:
        url, document = params["request"]["url"], params.get("resourceType") == "Document"
        if self._belongs(url):
            if document and params.get("frameId") == self._frame:
                self._method = params["request"]["method"]
            self._browser.post("Fetch.continueRequest", self._session, requestId=params["requestId"])
            return
        self._refuse(url)
        if document:
            self._note(f"Not opened, since it is not part of the site: {url[:200]}")
        self._browser.post("Fetch.failRequest", self._session, requestId=params["requestId"], errorReason="Aborted")

    def _belongs(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in ("http", "ws") and parts.netloc == self._site.host

    def _refuse(self, url: str) -> None:
        self.refused[urlsplit(url).netloc[:100] or url[:20]] += 1

    def _note(self, text: str) -> None:
        if len(self.notes) < MOST_NOTES:
            self.notes.append(one_line(text)[:400])
        else:
            self._more_notes += 1

    def take_notes(self) -> tuple[list[str], int]:
        """Return the notes since the last time, and how many there were beside them."""
        notes, more, self.notes, self._more_notes = self.notes, self._more_notes, [], 0
        return notes, more

    # -- loading and reading -----------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Begin to open a URL. Raises ChildFailed if the site does not answer."""
        (answer,) = self._call_all(("Page.navigate", {"url": url}))
        problem = answer.get("errorText")
        if problem and problem != "net::ERR_ABORTED":  # a file that is not downloaded, or another site
            raise ChildFailed(f"{url}: {problem}")

    def rest(self, milliseconds: int = STEP) -> dict[str, Any]:
        """Let the page come to rest, and return what it says then: its lines, its title, its address.

        At rest, it has loaded all that it asked for, its time has passed, nothing in it changes, and the site's own
        condition holds. Its time passes in parts. All that the timers of one part ask for is there before the next
        part, so how fast the site answers makes no difference. Another document gets this time anew.

        Args:
            milliseconds: The time of its own that passes on the page.
        """
        deadline = time.monotonic() + PATIENCE
        document, left, patience = self.document, float(milliseconds), MOST_TIME
        while True:
            self._wait_for_requests(deadline)
            is_late = time.monotonic() > deadline
            try:
                if is_late:
                    self._stop_loading(deadline)
                answer = self.evaluate_isolated(_PAUSE % (json.dumps(left <= 0), json.dumps(is_late)))
                self._browser.wait(0)
                if document != self.document:
                    document, left, patience = self.document, float(milliseconds), MOST_TIME
                    continue
                is_still = answer["still"] and not self._is_loading
                if not is_still and not (is_late and answer["ready"]):
                    continue
                if left > 0:
                    left = self._go_on(left, is_late)
                    continue
                is_settled = is_still and self._is_settled()
                if is_settled or is_late or patience <= 0:
                    break
                left, patience = STEP, patience - STEP
            except ChildFailed as e:
                if not any(reason in str(e).casefold() for reason in _REPLACED):
                    raise
                self._browser.wait(0.01)
        self.unsettled += is_late or not is_settled
        if str(answer["url"]).startswith("chrome-error:"):
            raise ChildFailed("the site does not answer")
        return answer

    def _go_on(self, milliseconds: float, whole: bool) -> float:
        """Let a part of the page's time pass, or the whole of it, and return what is left."""
        left = self.evaluate(_GO_ON % (milliseconds, json.dumps(whole)))
        return float(left) if isinstance(left, (int, float)) and left < milliseconds and not whole else 0.0

    def _is_settled(self) -> bool:
        return not self._settled or self.evaluate(_SETTLED % self._settled) is True

    @property
    def _is_loading(self) -> bool:
        return bool(self._in_flight or self._frames_loading)

    def _wait_for_requests(self, deadline: float) -> None:
        self._browser.wait(0)
        while self._is_loading and (remaining := deadline - time.monotonic()) > 0:
            self._browser.wait(min(remaining, 0.05))

    def _stop_loading(self, deadline: float) -> None:
        """Let the page load nothing more. Raises ChildFailed if it has not even a document after twice the time."""
        self._call_all(("Page.stopLoading", {}))
        self._in_flight.clear()
        self._frames_loading.clear()
        if time.monotonic() > deadline + PATIENCE:
            raise ChildFailed("the page does not come to rest")

    # -- what is stored ------------------------------------------------------------------------------------------------

    def stored(self) -> tuple[list[dict], list]:
        """Return the cookies, and what the page stored in this browser (`localStorage`, `sessionStorage`)."""
        cookies = self._browser.call("Storage.getCookies", browserContextId=self._context)["cookies"]
        return cookies, self.evaluate_isolated(_STORED)

    def open_with(self, url: str, stored: tuple[list[dict], list]) -> None:
        """Begin to open a URL with these cookies and this storage, and none of those that are there."""
        cookies, (local, session) = stored
        self.evaluate_isolated(_FORGET)
        self._browser.call_all(
            [
                ("Storage.clearCookies", {"browserContextId": self._context}),
            ]
        )
        self.move_mouse(0, 0)
        if cookies:
            self._browser.call("Storage.setCookies", browserContextId=self._context, cookies=cookies)
        if not (local or session):
            self.open(url)
            return
        source = _STORE % tuple(map(json.dumps, (self._site.origin, local, session)))
        (script,) = self._call_all(("Page.addScriptToEvaluateOnNewDocument", {"source": source}))
        self.open(url)
        self._call_all(("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script["identifier"]}))

    def close(self) -> None:
        self._browser.listen(self._session, None)
        self._browser.listen(None, None)
        super().close()

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
from eexp.system.child import ChildFailed

STEP = 1000  # milliseconds of the page's own time that pass at every step
PATIENCE = 5.0  # seconds for which a page may go on loading after an action
ROUNDS = 5  # how many times a page may begin to load something anew when its clock advances

#: What the browser says where the document was replaced while an expression was evaluated.
_REPLACED = ("context was destroyed", "context with specified id", "navigated or closed", "promise was collected")
_READ = """
(async () => {
  if (!document.documentElement || document.readyState === "loading") return null;
  if (typeof eexpPage === "undefined") return { lines: [], waiting: false, title: document.title, url: location.href };
  const view = await eexpPage.settle(%d);
  return { ...view, title: document.title, url: location.href };
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
        script: page.js.
        site: The site whose pages it opens.
        hidden: CSS selectors of what is left out of the page as it is read.

    Attributes:
        refused: How many requests were refused, by host.
        notes: What happened since they were taken and the page does not show: dialogs, refused addresses, files.
        document: The number of the document that is shown; it changes when another one is loaded.
        posted: Whether the document is the answer to a form that was posted, and cannot be loaded by its address.
    """

    def __init__(self, browser: Browser, script: str, width: int, height: int, site: SiteAddress, hidden: list[str]):
        self._site = site
        self._in_flight: set[str] = set()
        self._frames_loading: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.notes: list[str] = []
        self.document, self.posted, self.loaded_url = 0, False, ""
        self._method = "GET"  # that of the latest request for a document
        hides = f"eexpPage.skip({json.dumps(', '.join(hidden))});" if hidden else ""
        super().__init__(browser, f"window.eexpSite = true;\n{script}\n{hides}", width, height)
        browser.listen(self._session, self._hear)
        browser.listen(None, self._hear_browser)
        (tree, *_) = self._call_all(
            ("Page.getFrameTree", {}),
            ("Runtime.enable", {}),
            ("Runtime.addBinding", {"name": "eexpSay"}),
            ("Network.enable", {"maxTotalBufferSize": 0, "maxResourceBufferSize": 0}),
            ("Network.setBypassServiceWorker", {"bypass": True}),
            ("Network.setCacheDisabled", {"cacheDisabled": True}),  # what it keeps may be of another state of the site
            ("Fetch.enable", {"patterns": [{"urlPattern": "*"}]}),
        )
        self._frame: str = tree["frameTree"]["frame"]["id"]
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
                if params["name"] == "eexpSay":
                    self.notes.append(" ".join(params["payload"].split())[:400])

    def _hear_browser(self, method: str, params: dict) -> None:
        if method == "Browser.downloadWillBegin":
            self.notes.append(f"A file was offered and not downloaded: {params.get('suggestedFilename', '')[:100]}")
        elif method == "Target.targetCreated" and params["targetInfo"].get("openerId"):
            self._browser.post("Target.closeTarget", targetId=params["targetInfo"]["targetId"])
            self.notes.append("A window was opened and closed.")

    def _let_through(self, params: dict) -> None:
        url, document = params["request"]["url"], params.get("resourceType") == "Document"
        if self._belongs(url):
            if document and params.get("frameId") == self._frame:
                self._method = params["request"]["method"]
            self._browser.post("Fetch.continueRequest", self._session, requestId=params["requestId"])
            return
        self._refuse(url)
        if document:
            self.notes.append(f"Not opened, since it is not part of the site: {url[:200]}")
        self._browser.post("Fetch.failRequest", self._session, requestId=params["requestId"], errorReason="Aborted")

    def _belongs(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in ("http", "ws") and parts.netloc == self._site.host

    def _refuse(self, url: str) -> None:
        self.refused[urlsplit(url).netloc[:100] or url[:20]] += 1

    def take_notes(self) -> list[str]:
        """Return the notes since the last time."""
        notes, self.notes = self.notes, []
        return notes

    # -- loading and reading -----------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Begin to open a URL. Raises ChildFailed if the site does not answer."""
        (answer,) = self._call_all(("Page.navigate", {"url": url}))
        problem = answer.get("errorText")
        if problem and problem != "net::ERR_ABORTED":  # a file that is not downloaded, or another site
            raise ChildFailed(f"{url}: {problem}")

    def rest(self, milliseconds: int = STEP) -> dict[str, Any]:
        """Wait until the page has come to rest, and return what it says then: its lines, its title, its address.

        Args:
            milliseconds: The time of its own that passes on the page.
        """
        deadline = time.monotonic() + PATIENCE
        for _ in range(ROUNDS):
            self._wait_for_requests(deadline)
            answer = self._read(milliseconds, deadline)
            milliseconds = 0
            if not self._is_loading or time.monotonic() >= deadline:
                break
        if self._is_loading:
            self._call_all(("Page.stopLoading", {}))
            self._in_flight.clear()
            self._frames_loading.clear()
        if str(answer["url"]).startswith("chrome-error:"):
            raise ChildFailed("the site does not answer")
        return answer

    @property
    def _is_loading(self) -> bool:
        return bool(self._in_flight or self._frames_loading)

    def _wait_for_requests(self, deadline: float) -> None:
        self._browser.wait(0)
        while self._is_loading and (remaining := deadline - time.monotonic()) > 0:
            self._browser.wait(min(remaining, 0.05))

    def _read(self, milliseconds: int, deadline: float) -> dict[str, Any]:
        """Read the page; if it is replaced meanwhile, the next one, when that is loaded."""
        while True:
            try:
                if answer := self.evaluate(_READ % milliseconds):
                    return answer
            except ChildFailed as e:
                if not any(reason in str(e).casefold() for reason in _REPLACED):
                    raise
            if time.monotonic() > deadline + PATIENCE:
                raise ChildFailed("the page does not come to rest")
            if time.monotonic() > deadline:
                self._call_all(("Page.stopLoading", {}))
            self._browser.wait(0.01)
            self._wait_for_requests(deadline)

    # -- what is stored ------------------------------------------------------------------------------------------------

    def stored(self) -> tuple[list[dict], list]:
        """Return the cookies, and what the page stored in this browser (`localStorage`, `sessionStorage`)."""
        cookies = self._browser.call("Storage.getCookies", browserContextId=self._context)["cookies"]
        return cookies, self.evaluate(_STORED)

    def open_with(self, url: str, stored: tuple[list[dict], list]) -> None:
        """Begin to open a URL with these cookies and this storage, and none of those that are there."""
        cookies, (local, session) = stored
        self.evaluate(_FORGET)
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

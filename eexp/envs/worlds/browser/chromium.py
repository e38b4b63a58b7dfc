"""Run Chromium, as a rule without a window, and drive its pages over the DevTools protocol, through a pair of pipes.

There is no driver and no port that another user of the machine could connect to. The browser is a guarded child of this
process (eexp/system/child.py): however this process ends, all of Chromium's processes are killed and its directory,
which holds its new profile, is removed. It finds no host on any network, but for one site on this machine where a
`SiteAddress` names it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eexp.envs.logins import environment_without_keys
from eexp.errors import EexpError
from eexp.system.child import Child, ChildFailed

#: The names that Chromium's program has.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "install Chromium (on Debian: apt-get install chromium)"

LARGEST_MESSAGE = 64 << 20  # bytes that one message from the browser may have: a picture of a page is the largest
LONGEST_PLACE = 36  # bytes that the path of the directory for temporary files may have

#: Features that are left out. http is not tried as https first. The list below the address bar is no page in a process
#: of its own, which would take a third of the processor time of a short-lived browser.
_WITHOUT = (
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "WebUIOmniboxFullPopup",
)
_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-startup-window",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-timer-throttling",
    "--disable-smooth-scrolling",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--lang=en-US",
    f"--disable-features={','.join(_WITHOUT)}",
    "--proxy-server=127.0.0.1:9",  # reaches nothing, nor do addresses that need no resolving
)
#: The same for a browser with a window.
_WINDOW_OPTIONS = (
    *(option for option in _OPTIONS if option not in ("--headless", "--hide-scrollbars")),
    "--ozone-platform-hint=auto",
)
ISOLATED_WORLD = "eexp"
_NO_CONTEXT = "context with specified id"  # what the browser says where the world is that of another document
_HERE = Path(__file__)
_NO_HOST = "MAP * ~NOTFOUND"  # no host has an address: pages reach no network
#: The protocol is on the descriptors 3 and 4, which the shell makes of its standard input and output.
_START = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'


def find_chromium() -> str:
    """Return the path of Chromium's program. Raises EexpError where there is none."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    raise EexpError(f"no Chromium found (looked for {', '.join(PROGRAMS)}): {INSTALL}")


def sandbox_options(sandbox: bool) -> tuple[str, ...]:
    """Return the options about Chromium's sandbox, which is left out for root: Chromium would refuse to start."""
    return () if sandbox and os.geteuid() != 0 else ("--no-sandbox",)


def _display() -> dict[str, str]:
    """Return the variables that a window needs beside those there are. Raises EexpError where there is no display."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EexpError("no display for a window: DISPLAY is not set; use a desktop, `ssh -X` or `xvfb-run`")
    return {"XAUTHORITY": os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority")}


def _place() -> str:
    """Return the directory for that of a browser: Chromium makes sockets in it, whose paths have 107 bytes at most."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= LONGEST_PLACE else "/tmp"


@dataclass(frozen=True)
class SiteAddress:
    """The one site that a browser reaches: `http://HOST` for its pages, at a port of this machine."""

    host: str  # as in addresses of pages, such as site.test, or localhost:7770
    port: int

    @property
    def origin(self) -> str:
        """The beginning of the addresses of its pages."""
        return f"http://{self.host}"

    @property
    def options(self) -> tuple[str, ...]:
        """The options by which Chromium reaches this site and nothing else on this machine or elsewhere."""
        name = self.host.partition(":")[0]
        return (
            f"--host-resolver-rules=MAP {name} 127.0.0.1:{self.port},{_NO_HOST}",
            f"--proxy-bypass-list=<-loopback>;{name}",  # others, loopback too, go to the proxy that is not there
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
        )


#: What is called with the method and the parameters of an event of the protocol.
Listener = Callable[[str, dict], None]


class Browser:
    """A running Chromium. Its pages are opened by `Page`.

    Args:
        limit: Seconds for one answer.
        sandbox: Whether to use Chromium's sandbox, which root cannot.
        site: The one site that its pages reach; None for none.
        window: Whether a person sees its pages.

    Raises:
        EexpError: There is no Chromium, or it does not start, or there is no display for its window.
    """

    users = 1  # how many environments use it

    def __init__(self, limit: float, sandbox: bool = True, site: SiteAddress | None = None, window: bool = False):
        program = find_chromium()
        self.limit = limit
        self._numbers = itertools.count(1)
        self._unread = bytearray()
        self._answers: dict[int, dict] = {}
        self._unanswered: set[int] = set()  # the numbers of messages whose answers nobody waits for
        self._queue = bytearray()  # messages that are sent with the next exchange
        self._listeners: dict[str | None, Listener] = {}
        directory = tempfile.mkdtemp(prefix="eexp-chromium-", dir=_place())
        # Everything that it writes lies in this directory, which goes with it.
        own = {"HOME": directory, "TMPDIR": directory, "XDG_CONFIG_HOME": directory, "XDG_CACHE_HOME": directory}
        if window:
            own |= _display()
        options = [
            *(_WINDOW_OPTIONS if window else _OPTIONS),
            *(site.options if site else (f"--host-resolver-rules={_NO_HOST}",)),
        ]
        command = ["sh", "-c", _START, program, *options, *sandbox_options(sandbox), f"--user-data-dir={directory}"]
        self._stderr = tempfile.TemporaryFile()
        self._child = Child(
            command, stderr=self._stderr.fileno(), env={**environment_without_keys(), **own}, directory=directory
        )
        try:
            self.version: str = self.call("Browser.getVersion")["product"]
        except ChildFailed as e:
            reason = self._reason(e)
            self.end()
            raise EexpError(f"{program} does not start: {reason}") from None

    def _reason(self, error: ChildFailed) -> str:
        self._stderr.seek(0)
        output = self._stderr.read().decode("utf-8", "replace")
        if "No usable sandbox" in output:
            return "its sandbox needs user namespaces, which this system forbids; the option sandbox=no does without"
        lines = [line for line in output.splitlines() if "ERROR" in line or "FATAL" in line or "error" in line]
        return " ".join(lines[-1].split())[:300] if lines else str(error)

    @property
    def usable(self) -> bool:
        """Whether it was not ended and belongs to this process."""
        return self._child.usable

    def call(self, method: str, session: str | None = None, **params: Any) -> dict:
        """Call a method of the protocol and return its result. Raises ChildFailed as `call_all` does."""
        return self.call_all([(method, params)], session)[0]

    def call_all(self, calls: Iterable[tuple[str, dict]], session: str | None = None) -> list[dict]:
        """Call methods one after the other without waiting in between, and return their results.

        Args:
            calls: (method, parameters) of each.
            session: The session of a page; None for the browser itself.

        Raises:
            ChildFailed: The browser did not answer in time, or a method failed.
        """
        numbers, messages = [], bytearray()
        for method, params in calls:
            numbers.append(next(self._numbers))
            messages += _message(numbers[-1], method, params, session)
        self._exchange(bytes(messages), set(numbers))
        results = []
        for number in numbers:
            answer = self._answers.pop(number)
            if error := answer.get("error"):
                raise ChildFailed(f"Chromium: {error.get('message')}")
            results.append(answer["result"])
        return results

    def listen(self, session: str | None, listener: Listener | None) -> None:
        """Let a function hear the events of a page's session, or of the browser itself; None for no longer.

        It is called while messages are read, and may only `post`.
        """
        self._listeners.pop(session, None)
        if listener:
            self._listeners[session] = listener

    def post(self, method: str, session: str | None = None, **params: Any) -> None:
        """Call a method of the protocol with the next exchange; nobody waits for its answer."""
        number = next(self._numbers)
        self._unanswered.add(number)
        self._queue += _message(number, method, params, session)

    def wait(self, seconds: float) -> None:
        """Send what is posted, and read what the browser sends: until something comes, or for so many seconds."""
        _, from_browser = self._child.pipes()
        self._exchange(b"", set())
        ready = select.poll()
        ready.register(from_browser, select.POLLIN)
        if ready.poll(seconds * 1000):
            self._read(from_browser)
            self._exchange(b"", set())

    def _exchange(self, unsent: bytes | memoryview, numbers: set[int]) -> None:
        """Send messages and read until all that are numbered have answers."""
        to_browser, from_browser = self._child.pipes()
        deadline = time.monotonic() + self.limit
        while unsent or self._queue or not numbers <= self._answers.keys():
            if self._queue:
                unsent = bytes(unsent) + bytes(self._queue)
                self._queue.clear()
            unsent = self._child.write_some(unsent)
            if not unsent and numbers <= self._answers.keys():
                return
            ready = select.poll()
            ready.register(from_browser, select.POLLIN)
            if unsent:
                ready.register(to_browser, select.POLLOUT)
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not ready.poll(remaining * 1000):
                raise ChildFailed(f"no answer within {self.limit:g} s (EEXP_ENV_TIMEOUT)")
            self._read(from_browser)

    def _read(self, pipe: int) -> None:
        try:
            part = os.read(pipe, 1 << 20)
        except BlockingIOError:
            return
        if not part:
            raise ChildFailed(self._child.describe_end() or "Chromium closed its pipe")
        searched = len(self._unread)
        self._unread += part
        while (end := self._unread.find(b"\0", searched)) >= 0:
            message = json.loads(self._unread[:end])
            del self._unread[: end + 1]
            searched = 0
            self._keep(message)
        if len(self._unread) > LARGEST_MESSAGE:
            raise ChildFailed(f"a message of more than {LARGEST_MESSAGE >> 20} MiB")

    def _keep(self, message: dict) -> None:
        """Keep an answer, or let an event be heard."""
        if "id" in message:
            if message["id"] in self._unanswered:
                self._unanswered.discard(message["id"])
            else:
                self._answers[message["id"]] = message
        elif message.get("method") == "Inspector.targetCrashed":
            raise ChildFailed("the page has crashed")
        elif listener := self._listeners.get(message.get("sessionId")):
            listener(message.get("method", ""), message.get("params", {}))

    def end(self) -> None:
        """End it with all its processes and remove its directory. Safe to call twice."""
        self._child.end()
        self._stderr.close()


def _message(number: int, method: str, params: dict, session: str | None) -> bytes:
    message = {"id": number, "method": method, "params": params}
    return json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"


class Page:
    """A page in a context of its own: no cookie, storage or mouse is shared with another page.

    The methods raise ChildFailed if the browser does not answer.

    Every document has hooks.js among its own scripts, and page.js in an isolated world: scripts of the page share its
    elements and can neither see nor change what page.js is made of.

    Args:
        width: Width of the visible part in CSS pixels.
        before: JavaScript that runs in both worlds, before these two.
        after: JavaScript that runs after page.js, in the isolated world.
    """

    def __init__(self, browser: Browser, width: int, height: int, before: str = "", after: str = ""):
        self._browser = browser
        self._isolated: int | None = None  # the number of the current document's isolated world, once it was needed
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        size = {"width": width, "height": height}
        target = {"url": "about:blank", "browserContextId": self._context, **size}
        self._target = browser.call("Target.createTarget", **target)["targetId"]
        session = {"targetId": self._target, "flatten": True}
        self._session: str = browser.call("Target.attachToTarget", **session)["sessionId"]
        hooks, reader = (_HERE.with_name(name).read_text() for name in ("hooks.js", "page.js"))
        (tree, *_) = self._call_all(
            ("Page.getFrameTree", {}),
            ("Page.enable", {}),
            ("Inspector.enable", {}),
            ("Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": False}),
            ("Emulation.setFocusEmulationEnabled", {"enabled": True}),
            ("Emulation.setTimezoneOverride", {"timezoneId": "UTC"}),
            ("Emulation.setLocaleOverride", {"locale": "en-US"}),
            ("Page.addScriptToEvaluateOnNewDocument", {"source": f"{before}\n{hooks}"}),
            (
                "Page.addScriptToEvaluateOnNewDocument",
                {"source": f"{before}\n{reader}\n{after}", "worldName": ISOLATED_WORLD},
            ),
        )
        self._frame: str = tree["frameTree"]["frame"]["id"]

    def _call_all(self, *calls: tuple[str, dict]) -> list[dict]:
        return self._browser.call_all(calls, self._session)

    def open(self, url: str) -> None:
        """Open a URL and wait until the page with its scripts and pictures is loaded."""
        (answer,) = self._call_all(("Page.navigate", {"url": url}))
        if problem := answer.get("errorText"):
            raise ChildFailed(f"{url}: {problem}")
        self.evaluate("new Promise(r => document.readyState == 'complete' ? r() : addEventListener('load', () => r()))")

    def evaluate(self, expression: str) -> Any:
        """Evaluate a JavaScript expression among the page's own scripts, and return its value.

        If the value is a promise, it is waited for. The page can make of it what it likes.
        """
        return self._evaluate(expression)

    def evaluate_isolated(self, expression: str) -> Any:
        """Evaluate a JavaScript expression in the world of page.js, out of reach of the page's own scripts."""
        if self._isolated is not None:
            try:
                return self._evaluate(expression, self._isolated)
            except ChildFailed as e:
                if _NO_CONTEXT not in str(e).casefold():  # that of a document before this one
                    raise
        world = {"frameId": self._frame, "worldName": ISOLATED_WORLD}
        (answer,) = self._call_all(("Page.createIsolatedWorld", world))  # the one that is there, where there is one
        self._isolated = answer["executionContextId"]
        return self._evaluate(expression, self._isolated)

    def _evaluate(self, expression: str, world: int | None = None) -> Any:
        call = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        (answer,) = self._call_all(("Runtime.evaluate", call if world is None else {**call, "contextId": world}))
        if failure := answer.get("exceptionDetails"):
            message = failure.get("exception", {}).get("description") or failure.get("text", "")
            raise ChildFailed(f"error in the page: {' '.join(message.split())[:300]}")
        return answer["result"].get("value")

    def move_mouse(self, x: float, y: float) -> None:
        """Move the mouse to a point."""
        self._call_all(("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y}))

    def click(self, x: float, y: float) -> None:
        """Click with the left button at a point."""
        at = {"x": x, "y": y}
        button = {**at, "button": "left", "clickCount": 1}
        self._call_all(
            ("Input.dispatchMouseEvent", {"type": "mouseMoved", **at}),
            ("Input.dispatchMouseEvent", {"type": "mousePressed", **button}),
            ("Input.dispatchMouseEvent", {"type": "mouseReleased", **button}),
        )

    def press(self, *keys: dict) -> None:
        """Press keys one after the other; each is described by parameters of Input.dispatchKeyEvent."""
        calls: list[tuple[str, dict]] = []
        for key in keys:
            up = {name: value for name, value in key.items() if name not in ("text", "commands")}
            calls.append(("Input.dispatchKeyEvent", {"type": "keyDown" if "text" in key else "rawKeyDown", **key}))
            calls.append(("Input.dispatchKeyEvent", {"type": "keyUp", **up}))
        self._call_all(*calls)

    def picture(self, width: int, height: int) -> bytes:
        """Return a PNG of the upper left part of the page, two pixels for every CSS pixel."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 2}
        (answer,) = self._call_all(("Page.captureScreenshot", {"format": "png", "clip": clip}))
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """Close the page and forget what it stored."""
        self._browser.call_all([("Target.disposeBrowserContext", {"browserContextId": self._context})])

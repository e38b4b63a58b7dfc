"""A page in headless Chromium, driven over its DevTools protocol through a pair of pipes: no driver is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Tab": 9, "Enter": 13, "Escape": 27}


class Page:
    """One tab. `errors` are the exceptions and console errors so far, `requests` what it asked the network for."""

    def __init__(self, to_browser: int, from_browser: Any):
        self._to_browser, self._from_browser, self._count = to_browser, from_browser, 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict:
        """Call a method of the protocol and wait for its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self) -> dict:
        text = bytearray()
        while (byte := self._from_browser.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            text += byte
        message = json.loads(text)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
        return message

    def open(self, file: Path, hash: str = "", *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file at a width and with a preferred theme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=file.resolve().as_uri() + hash)
        deadline = time.monotonic() + 30
        while self.js("document.readyState") != "complete" or self.js("location.href") == "about:blank":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.05)

    def js(self, expression: str) -> Any:
        """Evaluate an expression and return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a keyboard would."""
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 and key.isalpha() else 0)
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def fill(self, id: str, value: str) -> None:
        """Give a field or a list of choices a value, as a person would."""
        place = f"document.getElementById({json.dumps(id)})"
        self.js(f"{place}.value = {json.dumps(value)}")
        for event in ("input", "change"):
            self.js(f"{place}.dispatchEvent(new Event('{event}'))")

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """Save what is seen, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, file: Path) -> None:
        """Print."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start Chromium with a new profile in the directory `profile`; it ends with the block."""
    assert CHROMIUM
    read_end, to_browser = os.pipe()
    from_browser, write_end = os.pipe()
    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup",  # as chromium.py does
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    command = f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}'  # the protocol is on descriptors 3 and 4
    child = subprocess.Popen(
        ["bash", "-c", command, CHROMIUM, *arguments], pass_fds=(read_end, write_end), stderr=subprocess.DEVNULL
    )
    os.close(read_end)
    os.close(write_end)
    try:
        with os.fdopen(from_browser, "rb") as answers:
            yield Page(to_browser, answers)
    finally:
        os.close(to_browser)
        child.terminate()
        child.wait(30)

"""axe-core finds nothing to mend on the pages: every kind of record, at both widths, dark and light."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from running import ROOT, run

pytestmark = pytest.mark.long

AXE = Path(os.environ.get("PEER_AXE") or ROOT / ".venv/peers/axe/node_modules/axe-core/axe.min.js")
#: What is looked at: the filter that leaves such records, and the keys that are pressed then.
SIGHTS = {
    "trajectory": ("type=trajectory", "j"),
    "reflection": ("kind=reflection", "j"),
    "world model": ("kind=world_model", ""),
    "preference": ("type=preference", ""),
    "episode": ("type=episode", ""),
    "episodes side by side": ("type=episode", "r"),
    "set aside": ("type=reject", ""),
    "filters": ("type=trajectory", "f"),
    "keys": ("type=trajectory", "?"),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None or not AXE.exists():
        pytest.skip("no Chromium" if CHROMIUM is None else "no axe-core; `make peers` installs it")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def violations(page: Page) -> list[str]:
    """Return what axe-core finds: the rule, what it asks for, and the first elements that break it."""
    page.js(AXE.read_text(encoding="utf-8") + "; 0")
    found = page.js(
        "axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations.map((v) => "
        "[v.id, v.help, v.nodes.length, v.nodes.slice(0, 3).map((n) => n.html + ' ' + n.failureSummary)])))"
    )
    return [f"{rule}: {text} ({number}): {nodes}" for rule, text, number, nodes in json.loads(found)]


def settle(page: Page, expression: str) -> None:
    deadline = time.monotonic() + 20
    while not page.js(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


@pytest.fixture(scope="module")
def viewer_page(files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    run("view", *files.values(), "-n", 500, "-m", "tiny", "-o", file).ok()
    return file


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_viewer_has_no_violations(width, dark, viewer_page, page):
    found = {}
    for sight, (choice, keys) in SIGHTS.items():
        page.open(viewer_page, width=width, dark=dark)
        settle(page, "document.getElementById('content').children.length > 0")
        page.js(f"document.querySelector('[data-filter=\"{choice}\"]').click()")
        time.sleep(0.2)
        page.js("document.querySelector('#records button').click()")
        settle(page, "document.getElementById('content').children.length > 0")
        page.js("document.querySelectorAll('article details').forEach((one) => { one.open = true; })")
        page.js("document.activeElement.blur()")
        for key in keys:
            page.press(key)
            time.sleep(0.3)
        if problems := violations(page):
            found[sight] = problems
    assert not found, "\n".join(f"{sight}: {text}" for sight, texts in found.items() for text in texts)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_has_no_violations(width, dark, tmp_path, page):
    for arm, policy in (("a", "random"), ("b", "expert")):
        (tmp_path / arm).mkdir()
        run("eval", "house", "-m", policy, "-n", 4, "-q", "-o", tmp_path / arm / f"{arm}.episodes.jsonl").ok()
    run("report", tmp_path / "a", tmp_path / "b", "-q", "-o", tmp_path / "report.html").ok()
    page.open(tmp_path / "report.html", width=width, dark=dark)
    page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert violations(page) == []

"""The documentation builds as a web site, and its index lists every page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

INDEX = ROOT / "docs" / "index.md"


def build(directory: Path) -> subprocess.CompletedProcess:
    """Build the site as `make docs` does, into a directory."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-c", "docs"]
    command += ["-d", str(directory / "doctrees"), ".", str(directory / "site")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="`make docs` installs Sphinx")
    process = build(tmp_path)
    assert process.returncode == 0, process.stderr
    first = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    pages = re.findall(r"\]\((?:\.\./)?([\w/.-]+)\.md\)", INDEX.read_text(encoding="utf-8"))
    pages = [page for page in pages if page != "README"]  # it is the page that links to all others
    assert all(f"{page}.html" in first for page in pages), "the navigation lacks a page of docs/index.md"
    assert "pipe.svg" in first


def test_the_index_lists_every_page_once():
    pages = {path.resolve() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))} - {INDEX}
    targets = re.findall(r"^- \[[^]]+\]\(([^)#]+\.md)\)", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    listed = [(INDEX.parent / target).resolve() for target in targets]
    assert len(listed) == len(set(listed))
    assert set(listed) == pages - {ROOT / "README.md"}

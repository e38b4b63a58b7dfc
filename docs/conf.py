"""Build the documentation as a web site: `make docs` writes it to build/docs.

The pages are plain Markdown, which code hosts show as it is. README.md is the first page. docs/index.md lists the
others by topic, and the navigation of the site is made from that list. A page that is missing from the list causes a
warning, as does a link without a target, and a warning fails the build.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from eexp import __version__  # noqa: E402

project = "eexp"
release = version = __version__
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [f"{path.name}/**" for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
myst_heading_anchors = 6  # as a code host numbers them

html_theme = "furo"
html_title = "eexp"
html_show_copyright = html_show_sphinx = html_copy_source = False
html_static_path = html_css_files = ["site.css"]
pygments_style, pygments_dark_style = "friendly", "github-dark"


def navigation(index: str) -> Iterator[str]:
    """Yield a table of contents in MyST for every topic of docs/index.md, with its pages under their names there."""
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        pages = re.findall(r"\[([^]]+)\]\(([^)#:]+)\.md\)", section)
        entries = [f"{name} </{Path('docs', page)}>" for name, page in pages]
        entries = [entry.replace("/docs/../", "/") for entry in entries]
        topic = section.partition("\n")[0]
        yield "\n".join(["```{toctree}", ":hidden:", f":caption: {topic}", "", *entries, "```\n"])


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the navigation to the first page, where Sphinx looks for it."""
    if docname == root_doc:
        index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
        contents = "```{toctree}\n:hidden:\n\nAll pages </docs/index>\n```\n"
        source[0] = "\n\n".join([source[0], contents, *navigation(index)])


def copy_first_page(app: Sphinx, exception: Exception | None) -> None:
    """Let index.html be the first page, too."""
    if exception is None and app.builder.name == "html":
        shutil.copy(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
    app.connect("build-finished", copy_first_page)

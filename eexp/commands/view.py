"""`eexp view`: records in a browser, with their alternatives."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from eexp.console.parameters import PATH, command_options, option
from eexp.errors import EexpError, UsageError
from eexp.settings import FILE, Whole
from eexp.system.terminal import tell
from eexp.viewer.settings import ViewSettings

if TYPE_CHECKING:
    from eexp.viewer.spool import Spool


@click.command("view")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE]...")
@option(None, "-o", "--output", type=FILE).help("Write one page that needs no server; - is standard output.")
@command_options(ViewSettings)
@option(False, "--follow").help("Go on reading files that a running stage writes.")
@option(False, "--diff", "compared").help("Compare two files by the ids of their records.")
@option(0, "--port", type=Whole(0, 65535), show_default=None).help("Port of the server.  [default: a free one]")
@option(False, "--open", "opened").help("Open the page in a browser.")
@option(False, "-q", "--quiet").help("With -o: no summary on standard error.")
def command(
    files: tuple[str, ...],
    output: str | None,
    settings: ViewSettings,
    follow: bool,
    compared: bool,
    port: int,
    opened: bool,
    quiet: bool,
) -> None:
    """Look at records in a browser: states, alternatives, outcomes, examples.

    A trajectory is shown as a path, with the alternatives of every state and their outcomes. An example is shown as the
    model sees it, and the text that the loss falls on is marked. Episodes are shown turn by turn. The episodes of two
    policies on one task stand side by side. With several files, a state links to the examples that were made from it.

    The page is served on this machine alone, at an address with a random token, which is printed. Ctrl-C ends the
    server. `-o` writes a page to a file instead, which loads nothing from elsewhere. It holds all records, or a sample
    of many. Records from standard input are kept in a temporary file, and shown as they come.

    \b
    Example:
      eexp expert house -n 5 | eexp branch -k 3 --from admissible | eexp rollout > rollout.jsonl
      eexp reflect rollout.jsonl > sr.jsonl
      eexp view rollout.jsonl sr.jsonl -o page.html

    Without -o, the page is served: `eexp view rollout.jsonl sr.jsonl`.
    """
    from eexp.pages.output import write_page
    from eexp.viewer.spool import spooled
    from eexp.viewer.view import page_of, tokens_of

    if compared and len(files) != 2:
        raise UsageError("--diff compares two files; give both")
    if output is not None and (follow or compared or port or opened):
        raise UsageError("-o writes a page without a server: leave out --follow, --diff, --port and --open")
    with spooled(files, wait=output is not None) as (names, spool):
        if output is not None:
            write_page("view", lambda: page_of(names, settings), output, files or ["-"], quiet)
            return
        _serve(names, spool, follow, tokens_of(settings.model), port, compared, opened)


def _serve(
    files: list[str], spool: Spool | None, follow: bool, tokens, port: int, compared: bool, opened: bool
) -> None:
    from eexp.viewer.index import Index
    from eexp.viewer.page_server import Viewer
    from eexp.viewer.record_changes import Comparison
    from eexp.viewer.view import read

    index = read(files) if compared else Index(files)
    comparison = Comparison(index) if compared else None
    try:
        viewer = Viewer(
            index,
            follow=follow or spool is not None,
            tokens=tokens,
            port=port,
            comparison=comparison,
            problem=lambda: f"{spool.problem}; later records are not shown" if spool and spool.problem else "",
        )
    except OSError as e:
        raise EexpError(f"port {port}: {e.strerror or e}") from None
    tell(f"view: {viewer.address}  (Ctrl-C ends it)")
    if opened:
        import webbrowser

        webbrowser.open(viewer.address)
    with contextlib.suppress(KeyboardInterrupt):
        viewer.run()

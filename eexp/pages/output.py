"""Write a page to a file or to standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from eexp.records.jsonl import refuse_to_overwrite, write_to_stdout
from eexp.system.terminal import tell
from eexp.system.whole_file import write_whole

_STDOUT = "-"


def write_page(command: str, make: Callable[[], str], output: str, sources: Iterable[str], quiet: bool) -> None:
    """Make a page and write it, unless it would replace one of the files that it is made of.

    Args:
        command: The command, which the line on standard error begins with.
        make: Returns the page, as HTML.
        output: The file; "-" is standard output.
        sources: The files that are read.
        quiet: Whether to leave out the line that says what was written.

    Raises:
        UsageError: The output is one of the sources.
        EexpError: It cannot be written.
    """
    refuse_to_overwrite([None if output == _STDOUT else output], sources)
    page = make().encode("utf-8", "replace")
    if output == _STDOUT:
        write_to_stdout(page)
        return
    write_whole(output, page)
    if not quiet:
        size = f"{len(page) / 1e6:.1f} MB" if len(page) >= 1e6 else f"{len(page) / 1e3:.0f} kB"
        tell(f"{command}: {output}, {size}")

"""What checks find, for a person or as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from eexp.console.parameters import option
from eexp.system.terminal import show, style

if TYPE_CHECKING:
    from eexp.system.findings import Finding

AS_JSON = option(False, "--json", "as_json").help("Print JSONL, one line a check, instead of a table.")


def show_findings(findings: Iterable[Finding], as_json: bool = False) -> bool:
    """Show findings as they come, and return whether any of them is a failure."""
    from dataclasses import asdict

    from eexp.records.jsonl import dumps
    from eexp.system.findings import FAILED, NOTE, OK

    colours = {OK: "green", FAILED: "red", NOTE: "yellow"}
    failed = False
    for finding in findings:
        failed = failed or finding.verdict == FAILED
        if as_json:
            show(dumps(asdict(finding)).decode().rstrip())
        else:
            verdict = style(f"{finding.verdict:4}", fg=colours.get(finding.verdict))
            show(f"{verdict}  {finding.check:14}  {finding.detail}")
    return failed

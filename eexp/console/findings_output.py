"""What checks find, for a person or as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from eexp.console.parameters import option
from eexp.system.terminal import show, style

if TYPE_CHECKING:
    from eexp.envs.conformance import Requirement
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
            show(f"{verdict}  {finding.check:12}  {finding.detail}")
    return failed


def show_requirements(requirements: Iterable[Requirement], as_json: bool = False) -> bool:
    """Show which requirements are met as they come, and return whether any is not."""
    from collections import Counter
    from dataclasses import asdict

    from eexp.envs.conformance import MET, NOT_CHECKED, NOT_MET
    from eexp.records.jsonl import dumps

    colours = {MET: "green", NOT_MET: "red", NOT_CHECKED: "red"}
    counts: Counter[str] = Counter()
    for one in requirements:
        counts[one.verdict] += 1
        if as_json:
            show(dumps(asdict(one)).decode().rstrip())
        else:
            verdict = style(f"{one.verdict:11}", fg=colours.get(one.verdict))
            show(f"{one.number:2}  {verdict}  {one.name:27}  {one.detail}")
    if not as_json:
        show(", ".join(f"{count} {verdict.lower()}" for verdict, count in counts.items()))
    return bool(counts[NOT_MET] or counts[NOT_CHECKED])

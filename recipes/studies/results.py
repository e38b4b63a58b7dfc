"""Write the tables of studies into RESULTS.md: `python results.py STUDIES [-o RESULTS.md]`

RESULTS.md is prose with marked places. The text between `<!-- study: NAME -->` and `<!-- end -->` is written again from
the episodes in STUDIES/NAME/SEED/ARM.episodes.jsonl, with a line on how they were made. A place whose study is not in
STUDIES stays as it is. The numbers are those of `eexp compare`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from eexp.evidence.comparison import compare
from eexp.evidence.table import shown_p
from eexp.records.jsonl import read
from eexp.system.terminal import align

#: Arms in the order of a table, by the names of their files.
ARMS = {
    "il": "IL",
    "iwm": "IL + IWM",
    "iwm-first": "IWM, then IL",
    "rules-alone": "rule thoughts",
    "recovery": "recovery",
    "rules": "recovery + rule thoughts",
    "outcomes": "recovery + outcome thoughts",
    "rules-iwm": "recovery + rule thoughts + IWM",
    "corrections": "IL + corrections",
    "critiques": "rule thoughts + critiques",
    "dpo": "IL, then DPO",
}
PLACE = re.compile(r"<!-- study: (?P<name>[\w/-]+) -->\n.*?<!-- end -->\n", re.S)


def groups(study: Path) -> dict[str, list[Path]]:
    """Find the files of episodes of each arm, one a training seed."""
    files = {name: sorted(study.glob(f"[0-9]*/{arm}.episodes.jsonl")) for arm, name in ARMS.items()}
    return {name: runs for name, runs in files.items() if runs}


def table(rows: list[dict]) -> str:
    """Render the rows of a comparison for a person."""
    lines = [["", "success by seed", "mean", "difference", "95 % interval", "p (Holm)", "invalid", "thoughts"]]
    for row in rows:
        by_seed = " ".join(f"{100 * rate:.1f}" for rate in row["rates"])
        cells = [row["name"], by_seed, f"{100 * row['rate']:.1f}"]
        if row.get("difference_low") is not None:
            ends = f"{100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}"
            cells += [f"{100 * row['difference']:+.1f}", ends, shown_p(row["p_holm"], row["p_holm_bound"])]
        else:
            cells += ["", "", ""]
        lines.append([*cells, f"{row['invalid_actions']:.1%}", f"{row['thoughts']:.0%}"])
    return "\n".join(align(lines))


def provenance(study: Path, rows: list[dict]) -> str:
    """Render how a study was made: settings, seeds, panel, versions, machine, hours."""
    chosen = {file.name: file.read_text() for file in sorted((study / ".settings").glob("*"))}
    seconds = [int(line) for line in (study / "seconds").read_text().split()] if (study / "seconds").exists() else []
    tuned = {name.removeprefix("TUNED_"): value for name, value in chosen.items() if name.startswith("TUNED_")}
    default = max(set(tuned.values()), key=list(tuned.values()).count) if tuned else ""
    others = "".join(
        f"; {ARMS.get(arm, arm)}: `{value}`"
        for arm, value in tuned.items()
        if value != default and ARMS.get(arm) in {row["name"] for row in rows}
    )
    runs = max(row["runs"] for row in rows)
    versions = ", ".join(f"{name} {version(name)}" for name in ("eexp", "torch", "peft", "llama-cpp-python"))
    hours = f"{sum(seconds) / 3600:.1f} hours" if seconds else "hours not kept"
    return (
        f"{chosen.get('ENV')}, base {Path(chosen.get('BASE', '')).name}, {chosen.get('TRAIN')} demonstrations, "
        f"{chosen.get('UPDATES')} updates, `{chosen.get('ADAPTER')} {default}`{others}. "
        f"{runs} training seed{'s' * (runs > 1)}, {rows[0]['tasks']} tasks, panel `{rows[0]['panel']}`. "
        f"{versions}; {hours} on {os.cpu_count()} cores ({platform.machine()})."
    )


def block(study: Path) -> str:
    """Render the text for the marked place of a study."""
    rows = compare({name: [read([str(file)], "episode") for file in files] for name, files in groups(study).items()})
    made_in = study.with_name(
        re.sub(r"-(ood|noisy|names|order|confirm|fail)$", "", study.name)
    )  # the same agents, played elsewhere
    return f"```text\n{table(rows)}\n```\n\n{provenance(made_in, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parents[2] / "RESULTS.md")
    args = parser.parse_args()

    def written(place: re.Match) -> str:
        study = args.studies / place["name"]
        if "IL" not in groups(study):
            return place[0]
        return f"<!-- study: {place['name']} -->\n{block(study)}<!-- end -->\n"

    args.output.write_text(PLACE.sub(written, args.output.read_text()))


if __name__ == "__main__":
    main()

"""`eexp plan`: what a larger run would take (eexp/evidence/costing.py)."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, command_options, option
from eexp.evidence.settings import PlanSettings
from eexp.system.terminal import show


@click.command("plan")
@click.argument("files", nargs=-1, type=PATH, metavar="COSTS...", required=True)
@command_options(PlanSettings)
@option(False, "--json", "as_json").help("Print JSONL, one line a row, instead of a table.")
def command(files: tuple[str, ...], settings: PlanSettings, as_json: bool) -> None:
    """Estimate what a larger run takes, from what smaller ones took.

    COSTS are files that stages added lines to (--costs FILE, or the variable EEXP_COSTS for all stages of a pipe). The
    table has a row for every stage that processes trajectories. Its columns are: core-seconds for a trajectory;
    core-hours; hours on all machines; the further hours if one machine is lost half way; bytes on the disk; and the
    memory of a machine that works on one part of the records on every core. docs/scale.md compares such estimates with
    the runs themselves.

    \b
    Example:
      eexp expert house -n 20 | eexp branch -k 2 --from admissible > branched.jsonl
      eexp rollout --costs costs.jsonl branched.jsonl > rollout.jsonl
      eexp plan costs.jsonl --trajectories 100000 --nodes 16
    """
    from eexp.errors import InputError
    from eexp.evidence.costing import check_cost, plan, plan_table
    from eexp.records.jsonl import dumps, lines, loads, write_to_stdout

    costs = []
    for name, number, line in lines(files):
        try:
            costs.append(check_cost(loads(line)))
        except InputError as e:
            raise InputError(f"{name}:{number}: {e}") from None
    rows = plan(costs, settings)
    if as_json:
        write_to_stdout(b"".join(map(dumps, rows)))
    else:
        show(plan_table(rows, settings))

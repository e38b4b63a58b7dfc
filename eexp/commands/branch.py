"""`eexp branch`: add alternatives to the expert's action in every state that it visited."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import BranchSettings
from eexp.console import options
from eexp.console.options import PolicyOptions
from eexp.console.parameters import command_options
from eexp.settings import max_tokens

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("branch")
@command_options(BranchSettings)
@options.policy(
    "The policy to draw from; `eexp models` lists what MODEL may be.  [default: the built-in tiny model]",
    max_tokens(48),
)
@options.streams("trajectory", resume=True, shards=True)
def command(settings: BranchSettings, policy: PolicyOptions, stream: Stream) -> None:
    """Add K alternative actions to every expert state.

    Alternatives differ from each other and from the expert's action. In prose, case, blanks and outer punctuation make
    no difference; in tool calls, programs and shells, every character counts. The policy's texts are sampled without
    replacement. So a policy that is sure of the expert's action still gives others, in proportion to their
    probabilities. Texts that are far less probable than the most probable alternative are left out (--min-p). If the
    policy does not give enough, random admissible actions make up the number. Servers over HTTP cannot sample without
    replacement. There, repeated samples are dropped, and --min-p compares with the most probable sample. The summary
    counts each case.

    Without --pool, new alternatives replace those that a record has. With --pool, a record may hold several sets, such
    as one from the admissible actions for world modelling and one from the policy for reflection. `eexp rollout`
    executes those that have no outcome yet.

    With --add, alternatives go to the states where one more is most likely to have a new outcome. That is estimated
    from the outcomes that `eexp rollout` has found so far. Run the two stages in turns. All input is read first, and
    --resume needs the same input.

    The samples of a trajectory depend on its record, the model, the options and --seed. They do not depend on the rest
    of the input. The states of a trajectory are evaluated in batches, which moves log-probabilities by about 1e-3 (by
    1e-5 with --cache-type f32 and unquantised weights). Such rounding could change a sample. Of 4,096 texts of the tiny
    model, sampled alone and among 63 other states, none changed.

    \b
    Example:
      eexp expert house -n 5 | eexp branch -k 4 > branched.jsonl
      eexp rollout branched.jsonl | eexp branch --add 40 --from admissible | eexp rollout > more.jsonl
    """
    from eexp.acting.branch import NO_LOGPROBS, branch

    opened = None
    if settings.add:
        stream.need_all_records("--add compares the states of all records")
    if settings.source != "admissible":
        if policy.model.spec == "expert":
            raise click.BadParameter("the expert's own action is never an alternative", param_hint="-m")
        opened = policy.open(stream.note)
        settings = settings.resolved(opened)
    with (
        closing(opened) if opened else nullcontext(),
        stream.open("branch", **settings.lineage(opened, policy.max_tokens)) as io,
    ):
        records = io.records(skip_done=False)
        trajectories = branch(records, opened, settings, skip=io.done, count=io.count, on_error=io.fail)
        any_listed = False
        for trajectory in io.progress(trajectories, "trajectory"):
            io.write(trajectory)
            io.count("state[s]", len(trajectory["steps"]))
            any_listed = any_listed or any(step.get("admissible") for step in trajectory["steps"])
        if settings.source == "admissible" and io.counts["state[s]"] and not any_listed:
            io.note("no state lists admissible actions: nothing was added; give -m MODEL in place of --from admissible")
        if settings.source == "policy" and io.counts["state[s]"] and not io.counts["alternative[s] from the policy"]:
            io.note("no alternative is from the policy: give a MODEL that knows this environment, or --from admissible")
        if io.counts[NO_LOGPROBS]:
            io.note("--min-p has no effect where the model gives no log-probabilities")
        if opened:
            io.counts.update(opened.counts)

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

    Alternatives differ from each other and from the expert's action; case, blanks and outer punctuation make no
    difference. The policy's texts are drawn without replacement, so that a policy that is sure of the expert's action
    still gives others, each as likely to be drawn as its probability says. Texts that are far less probable than the
    most probable alternative are not drawn (--min-p). Where the policy does not give enough, admissible actions fill
    up. Servers reached by HTTP cannot draw without replacement: there, repeated draws are dropped, and --min-p compares
    with the most probable text that was drawn. The summary counts all of it.

    Without --pool, the alternatives that a record has are replaced. With it, a record may hold several sets, such as
    one from the admissible actions for world modelling and one from the policy for reflection; `eexp rollout` executes
    those that have no outcome yet.

    With --add, alternatives go where they are worth most, by what `eexp rollout` has found so far: to states whose
    alternatives led to something that no other led to, and last to those where all were refused or led where the
    expert's action leads. Alternate the two stages; each round knows more. All input is read first, and --resume needs
    the same input.

    The states of a trajectory are evaluated together, what their prompts share once. A trajectory's draws are decided
    by its record, the model, the options and --seed: the same bytes, whatever else is in the input. Within it, a
    state's draws are decided by the state, but for rounding: which tokens share a batch moves log-probabilities by
    about 1e-3 (1e-5 with --cache-type f32 and unquantised weights), and might thereby change a draw. Of 4,096 texts
    drawn from the tiny model, alone and among 63 other states, none changed.

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
            io.note(
                "no alternative is from the policy: give -m MODEL that knows this environment, or --from admissible"
            )
        if io.counts[NO_LOGPROBS]:
            io.note("--min-p has no effect where the model gives no log-probabilities")
        if opened:
            io.counts.update(opened.counts)

"""`eexp world-model-data`: make examples of state, action -> next state (implicit world modelling)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from eexp.console import options
from eexp.console.options import ModelOptions
from eexp.console.parameters import command_options, is_given, parameter
from eexp.examples.settings import WorldModelSettings
from eexp.records.outcomes import with_outcomes_asked_for

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("world-model-data")
@command_options(WorldModelSettings)
@options.model(
    "For --predictable model: a model that was trained on world-model examples of other trajectories.  [default: none]"
)
@parameter(options.style_option())
@options.streams("trajectory", resume=True, shards=True)
def command(settings: WorldModelSettings, model: ModelOptions, prompt_style: str | None, stream: Stream) -> None:
    """Make training examples that predict the next state.

    Reads trajectories with outcomes, as `eexp rollout` writes them. The prompt asks for a prediction, and the target
    stands between marks. So a policy that is trained on it does not write observations when it acts. `transition` in
    each example says what happened: invalid, unchanged, changed or done. Parts of a target that cannot be predicted, as
    the environment says, are spans of their own. They have full loss weight unless --predictable environment is given.

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout | eexp world-model-data > iwm.jsonl
    """
    from eexp.examples.world_model import world_model_data

    by_model = settings.predictable == "model"
    if is_given("unknown_weight") and not settings.predictable:
        raise click.UsageError("--unknown-weight needs --predictable")
    if is_given("min_probability") and not by_model:
        raise click.UsageError("--min-probability needs --predictable model")
    if settings.verdict and settings.changes:
        raise click.UsageError("--verdict and --changes ask for different answers; give one")
    if settings.verdict == "alone" and settings.predictable:
        raise click.UsageError("--predictable is about the words of an observation, and --verdict alone has none")
    if by_model and not model.spec:
        raise click.UsageError("--predictable model needs -m MODEL, one that was trained on world-model examples")
    judge = model.open(stream.note) if by_model else None
    style = options.chosen_style(prompt_style, judge.play_settings.style if judge else None)
    identity: dict[str, Any] = {"model": judge.fingerprint} if judge else {}
    identity |= {"prompt_style": style.label, "seed": settings.seed}
    with judge or nullcontext(), stream.open("world-model-data", **settings.lineage(), **identity) as io:
        records = options.with_hidden_functions_noted(io.records(skip_done=False), style, io)
        records = with_outcomes_asked_for(records, io.note, needed=False)
        examples = world_model_data(
            records, style, settings, model=judge, skip=io.done, count=io.count, on_error=io.fail
        )
        for record in io.progress(examples, "example") if judge else examples:
            io.write(record)
        if judge:
            io.counts.update(judge.counts)

"""`eexp score`: compute the log-probability of the completions of examples under a model, span by span."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import OnError, stop_at_error
from eexp.errors import InputError, UsageError
from eexp.options import ModelOptions
from eexp.terminal import tell

if TYPE_CHECKING:
    from eexp.models.base import Model, Score
    from eexp.scoring import Losses
    from eexp.stream import Stream


#: Examples of one trajectory that are scored together; more are cut into several groups, which takes little time.
GROUP = 128


@dataclass
class _Entry:
    """An example that was read.

    Attributes:
        skipped: An earlier run has written it.
        request: The request for its score; None where it cannot be scored.
        error: Why it cannot be scored.
    """

    example: dict
    skipped: bool
    request: Score | None = None
    error: InputError | None = None


def score(
    examples: Iterable[dict],
    model: Model,
    *,
    skip: Callable[[str], bool] = lambda record_id: False,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Add `scores` to each example: log-probability and number of tokens of each span of its completion.

    Consecutive examples with the same `group` are scored together, and what their prompts share is evaluated once.

    Args:
        examples: The examples.
        model: The model that scores.
        skip: Returns whether to leave the example with an id out.
        on_error: Called with an example that cannot be scored.

    Raises:
        UsageError: The model is a server, which cannot score.
    """
    from eexp.scoring import score_request, scores_of

    if not model.exact:
        raise UsageError(f"{model.spec}: a server cannot score a given text; give a GGUF file or hf:DIR_OR_ID")
    pending: deque[list[_Entry]] = deque()  # read, and not answered yet

    def requests() -> Iterator[list[Score]]:
        for group in _groups(examples):
            entries = [_Entry(example, skip(example["id"])) for example in group]
            if all(entry.skipped for entry in entries):
                continue
            for entry in entries:  # the skipped ones, too, so that batches are the same as without an interruption
                try:
                    entry.request = score_request(entry.example, model)
                except InputError as e:
                    entry.error = e
            pending.append(entries)
            yield [entry.request for entry in entries if entry.request]

    for answers in model.answer(requests()):
        answer = iter(answers)
        for entry in pending.popleft():
            scored = next(answer) if entry.request else entry.error
            if entry.skipped:
                continue
            if isinstance(scored, InputError):
                on_error(entry.example, scored)
                continue
            assert scored is not None
            yield {**entry.example, "scores": scores_of(entry.example, scored[0], model)}


def _groups(examples: Iterable[dict]) -> Iterator[list[dict]]:
    """Yield consecutive examples of one trajectory together; those without a group alone."""
    group: list[dict] = []
    for example in examples:
        belongs = group and example.get("group") is not None and example["group"] == group[-1].get("group")
        if group and (not belongs or len(group) == GROUP):
            yield group
            group = []
        group.append(example)
    if group:
        yield group


@click.command("score")
@options.model(
    "The model that scores; `eexp --help` lists what MODEL may be, servers excepted.  "
    "[default: the built-in tiny model]"
)
@click.option(
    "--summary",
    type=options.PATH,
    metavar="FILE|-",
    help="Write the table of losses as JSONL here; - is standard output, where -o takes the examples.",
)
@options.streams("example", resume=True)
def command(model: ModelOptions, summary: str | None, stream: Stream) -> None:
    """Score examples with a model: the log-probability of every span.

    Writes the examples with `scores`: for each of their spans (thought, action, observation, unknown) its natural
    log-probability and the number of its tokens. Texts become tokens as in training, the stop token included, so that
    the losses in the table on standard error (the mean negative log-probability per token, by kind of example, by span,
    and for world-model examples by kind of transition) are those that finetune would report for these examples.

    Consecutive examples of a trajectory are evaluated together, and what they share is evaluated once; so score
    examples before they are shuffled.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data | eexp score > scored.jsonl
    """
    from eexp.scoring import Losses

    stream.report = summary
    if summary == "-" and stream.output in (None, "-"):
        raise click.UsageError("--summary - needs -o FILE: standard output is for the examples otherwise")
    with (
        model.open(stream.note) as scorer,
        stream.open("score", model=scorer.fingerprint) as io,
    ):
        losses = Losses()
        scored = score(io.records(skip_done=False), scorer, skip=io.done, on_error=io.fail)
        for example in io.progress(scored, "example"):
            io.write(example)
            losses.add(example)
        io.counts.update(scorer.counts)
        if stream.resume and stream.output:
            losses = _read_losses(stream.output)
        _report(losses.rows(), summary, stream.quiet)


def _read_losses(file: str) -> Losses:
    """Return the losses of all examples in the output, those of earlier runs included."""
    from eexp.jsonl import read
    from eexp.scoring import Losses

    losses = Losses()
    for example in read([file], "example"):
        losses.add(example)
    return losses


def _report(rows: list[dict], summary: str | None, quiet: bool) -> None:
    """Show the table, and write it as JSONL to the file `summary`."""
    from eexp.errors import EexpError
    from eexp.jsonl import dumps, write_to_stdout
    from eexp.scoring import loss_table

    if rows and not quiet:
        tell(*loss_table(rows))
    lines = b"".join(map(dumps, rows))
    if summary == "-":
        write_to_stdout(lines)
    elif summary:
        try:
            with open(summary, "wb") as file:
                file.write(lines)
        except OSError as e:
            raise EexpError(f"{summary}: {e.strerror or e}") from None

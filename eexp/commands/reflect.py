"""`eexp reflect`: make examples of state -> reflection, expert action (Early Experience, self-reflection)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from eexp.console import options
from eexp.console.options import ModelOptions
from eexp.console.parameters import command_options, option, parameter
from eexp.examples.settings import GUARDS, RATIONALES, GuardSettings, ReflectSettings
from eexp.records.outcomes import with_failures_counted, with_outcomes_asked_for
from eexp.settings import Name, Whole, Word

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.errors import InputError
    from eexp.models.base import Model


@click.command("reflect")
@options.model(
    "The model that writes the reflections; `eexp models` lists what MODEL may be.  [default: none, they are composed "
    "by rule]"
)
@option(None, "--rationale", type=Name(RATIONALES, ("model",))).help(
    "What writes the thought. model: the model. outcome: a rule, from the recorded outcomes. search: a rule that "
    "searches all executed outcomes for a way to the end, and writes down its search. environment: a rule, from the "
    "environment's notes on what is known and still needed. `eexp plugins` lists rules of other packages.  [default: "
    "the model if there is one, else outcome]"
)
@option(False, "--no-outcomes").help(
    "The model sees the state alone, and writes a thought and an action. Needs --keep-matching."
)
@option(False, "--keep-matching").help(
    "STaR, with --no-outcomes: keep a thought only if the action after it is the expert's. The examples are of kind "
    "rationale."
)
@option(None, "--verify", metavar="MODEL", shell_complete=options.complete_model).help(
    "Keep a reflection only if this model then finds the expert's action more probable than without a thought, and "
    "more probable than every contender. Give the policy that will be trained, or the writer.  "
    "[default: the model that writes, if it runs in this process; --no-guard verify leaves that out]"
)
@command_options(ReflectSettings)
@option(None, "--no-guard", type=Word([*GUARDS.built_in, "verify", "all"]), multiple=True).help(
    "A guard to leave out. Can be given several times."
)
@option(None, "--guard", type=Name(GUARDS), multiple=True).help(
    "A guard to add, such as one of another package (`eexp plugins`). It judges the thoughts of a rule, too. Can be "
    "given several times."
)
@option(GuardSettings.min_words, "--min-words", type=Whole(0)).help("Shortest text, in words.")
@option(GuardSettings.max_words, "--max-words", type=Whole(1)).help("Longest text, in words.")
@parameter(options.style_option())
@options.streams("trajectory", resume=True, shards=True)
def command(
    model: ModelOptions,
    rationale: str | None,
    no_outcomes: bool,
    keep_matching: bool,
    verify: str | None,
    settings: ReflectSettings,
    no_guard: tuple[str, ...],
    guard: tuple[str, ...],
    min_words: int,
    max_words: int,
    prompt_style: str | None,
    stream: Stream,
) -> None:
    """Make training examples that reason towards the expert's action.

    Reads trajectories with outcomes, as `eexp rollout` writes them. A reflection is a thought (chain of thought) before
    the expert's action. It mentions an outcome only as something to expect. It never argues against an alternative that
    did as well as the expert's action. `reflection_by` in each example says who wrote it. Trajectories that did not
    succeed are used like the others, and counted. A state whose texts are refused by --verify or --keep-matching is set
    aside (exit code 4).

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout | eexp reflect > sr.jsonl
    """
    from eexp.examples.reflection.shared import SharedSentences
    from eexp.examples.reflection.situations import NOTHING_KNOWN
    from eexp.examples.reflection.writing import reflect

    shared = SharedSentences()
    settings = replace(
        settings,
        rationale=_rationale(rationale, model.spec, no_outcomes, keep_matching, stream.note),
        guards=GuardSettings.without(no_guard, min_words, max_words, guard),
    )
    with ExitStack() as models:
        writing_model = model if settings.by_model else replace(model, spec=None)
        itself = settings.rationale == "model" and not {"verify", "all"}.intersection(no_guard)
        writer, scorer = _open(models, writing_model, verify, itself, stream.note)
        policy = scorer or (writer if settings.rationale == "own" else None)
        style = options.chosen_style(prompt_style, policy.play_settings.style if policy else None, stream.note)
        identity: dict[str, Any] = {"model": writer and writer.fingerprint, "verify": scorer and scorer.fingerprint}
        identity |= {"prompt_style": style.label, "seed": settings.seed}
        with stream.open("reflect", **identity, **settings.lineage()) as io:
            written = refused = 0

            def refuse(trajectory: dict, error: InputError) -> None:
                nonlocal refused
                refused += 1
                io.reject(trajectory, error, find=True, note=f"{trajectory['id']}: {error}")

            records = options.with_hidden_functions_noted(io.records(skip_done=False), style, io)
            examples = reflect(
                with_failures_counted(with_outcomes_asked_for(records, io.note), io.count),
                style,
                writer,
                settings,
                scorer,
                skip=io.done,
                count=io.count,
                keep=io.keep,
                on_refused=refuse,
                on_error=io.fail,
                shared=shared,
            )
            for record in io.progress(examples, "state"):
                io.write(record)
                written += 1
            # Agents of such thoughts were bad where there were none (RESULTS.md): they learn to act there from nothing.
            unsaid = io.counts[NOTHING_KNOWN]
            states = unsaid + written + refused
            if unsaid > states / 4:
                io.note(
                    f"{unsaid} of {states} states get no thought, since nothing speaks for the action, and "
                    "an agent learns nothing there; --rationale environment or a model (-m) may have something to say"
                )
            if settings.rationale != "search":  # where thoughts share what one action leads to
                io.count("reflection[s] with one sentence in common", shared.most)
                if warning := shared.warning():
                    io.note(warning)
            for used in {id(used): used for used in (writer, scorer) if used}.values():
                io.counts.update(used.counts)


def _rationale(
    rationale: str | None, model: str | None, no_outcomes: bool, keep_matching: bool, note: Callable[[str], None]
) -> str:
    """Return `ReflectSettings.rationale` for the options of the command line."""
    if no_outcomes != keep_matching:
        raise click.UsageError("--no-outcomes and --keep-matching belong together: give both")
    if no_outcomes and rationale not in (None, "model"):
        raise click.UsageError(f"--no-outcomes needs a model that writes, not --rationale {rationale}")
    if (no_outcomes or rationale == "model") and not model:
        raise click.UsageError(
            f"{'--no-outcomes' if no_outcomes else '--rationale model'} needs -m MODEL or EEXP_MODEL"
        )
    if no_outcomes:
        return "own"
    if rationale is None and not model:
        note("no -m and no EEXP_MODEL: reflections are composed by rule from the outcomes (--rationale outcome)")
    return rationale or ("model" if model else "outcome")


def _open(
    models: ExitStack, writer: ModelOptions, verify: str | None, itself: bool, note: Callable[[str], None]
) -> tuple[Model | None, Model | None]:
    """Open the model that writes and the one that verifies, once where they are the same.

    `itself`: whether a model that can verify what it writes does so where no other is named.
    """
    opened = {
        spec: models.enter_context(replace(writer, spec=spec).open(note))
        for spec in dict.fromkeys([writer.spec, verify])
        if spec
    }
    scorer = opened.get(verify) if verify else None
    if scorer and not scorer.exact:
        raise click.UsageError(
            f"--verify {verify}: a server cannot score texts; give a model that runs in this process"
        )
    writing = opened.get(writer.spec) if writer.spec else None
    if itself and scorer is None and writing and writing.exact:
        note("each text is verified by the model that wrote it (--no-guard verify leaves that out)")
        scorer = writing
    return writing, scorer

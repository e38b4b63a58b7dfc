"""`eexp reflect`: state -> reflection + expert action (Early Experience, self-reflection)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.base import Model
from eexp.prompts import PromptStyle, rationale
from eexp.records import example, expert_outcome, seed_of

_TRIES = 3  # draws of a model's reflection before a state is set aside


def reflect(trajectories: Iterator[dict], style: PromptStyle, model: Model | None, *, temperature: float = 0.7,
            max_tokens: int = 256, seed: int = 0, skip: Callable[[str], bool] = lambda record_id: False,
            count: Callable[[str, int], None] = lambda what, n=1: None,
            on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """One example for every state with at least one executed alternative.

    model: writes the reflection; None composes it by rule from the outcomes. An expert's own thought is kept instead,
    where there is one. A model's text that names the set-up ("the expert") or is empty is drawn again, and the state
    is given to `on_error` if that does not help. `skip` says which example ids are not to be made.
    """
    for t in trajectories:
        for i, step in enumerate(t["steps"]):
            if skip(f"{t['id']}/{i}/reflection"):
                continue
            outcome = expert_outcome(t, i)
            if outcome is None or not any(a.get("outcome") for a in step.get("alternatives", [])):
                count("states without executed alternatives", 1)
                continue
            try:
                text, author = _reflection(t, i, outcome, style, model, temperature, max_tokens, seed, count)
            except InputError as e:
                on_error(t, e.at(f"$.steps[{i}]"))
                continue
            prompt = style.act(t["instruction"], t["steps"][:i], step["observation"], step.get("admissible"))
            completion = [{"role": "assistant", "content": style.action_text(step["action"], text)}]
            yield example(t, f"{i}/reflection", "reflection", prompt, completion, style.label, reflection_by=author)


def _reflection(t: dict, i: int, outcome: dict, style: PromptStyle, model: Model | None, temperature: float,
                max_tokens: int, seed: int, count: Callable[[str, int], None]) -> tuple[str, str]:  # fmt: skip
    step = t["steps"][i]
    if step.get("thought"):
        count("the expert's own thought kept", 1)
        return step["thought"], "expert"
    if model is None:
        return rationale.compose(t["instruction"], step, outcome), "rule: outcome"
    prompt = style.ask_reflection(t["instruction"], t["steps"][:i], step, outcome["observation"])
    why = ""
    for turn in range(_TRIES if temperature > 0 else 1):
        key = seed_of(seed, t["id"], i, turn)
        drawn = model.sample([prompt], 1, temperature=temperature, max_tokens=max_tokens, seeds=[key])[0][0]
        text = rationale.once(style.thought_in(drawn.text))
        leak = rationale.find_leak(text)
        if text != style.thought_in(drawn.text).strip():
            count("texts written twice, cut to one", 1)
        if text and not leak and drawn.finished:
            return text, model.fingerprint
        why = f"says {leak!r}" if leak else "is empty" if not text else f"does not end within {max_tokens} tokens"
        count("reflections drawn again", 1)
    raise InputError(f"no usable reflection: the text {why}", f"$.steps[{i}]", {"text": drawn.text})


@click.command("reflect")
@options.model("Writes the reflections; `eexp --help` lists what MODEL may be.  "
               "[default: none, they are composed by rule]",
               max_tokens=256, temperature=0.7)  # fmt: skip
@click.option("--rationale", "how", type=click.Choice(["model", "outcome"]),
              help="Who writes: the model, or a rule that composes the recorded outcomes in anticipatory words.  "
              "[default: the model if there is one]")  # fmt: skip
@options.prompt_style()
@options.seed
@options.streams("trajectory", resume=True)
def command(model, temperature, max_tokens, context, threads, how, prompt_style, seed, stream) -> None:
    """Make training examples that reason towards the expert's action.

    Reads trajectories with outcomes, as `eexp rollout` writes them. What an action led to appears in a reflection as an
    expectation only. `reflection_by` in each example says who wrote it.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout | eexp reflect > sr.jsonl
    """
    from tqdm import tqdm

    stream.stage = "reflect"
    if how == "model" and not model:
        raise click.UsageError("--rationale model needs -m MODEL or EEXP_MODEL")
    writer, settings = None, {"rationale": "outcome"}
    if model and how != "outcome":
        writer, settings = _open_writer(model, context, threads)
        settings.update(temperature=temperature, max_tokens=max_tokens)
    elif how is None:
        stream.note("no -m and no EEXP_MODEL: reflections are composed by rule from the outcomes (--rationale outcome)")
    style = options.chosen_style(prompt_style, None, stream.note)
    with stream.open("reflect", "trajectory", prompt_style=style.label, seed=seed, **settings) as io:
        made = reflect(io.records(skip_done=False), style, writer, temperature=temperature, max_tokens=max_tokens,
                       seed=seed, skip=io.done, count=io.count, on_error=io.fail)  # fmt: skip
        for record in tqdm(made, disable=None, unit="state", leave=False):
            io.write(record)


def _open_writer(spec: str, context: int | None, threads: int | None) -> tuple[Model, dict[str, Any]]:
    from eexp.models import open_model

    if spec in ("random", "expert"):
        raise click.BadParameter(f"{spec} cannot write text", param_hint="-m")
    model = open_model(spec, context=context, threads=threads)
    return model, {"rationale": "model", "model": model.fingerprint}

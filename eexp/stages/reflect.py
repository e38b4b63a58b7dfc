"""`eexp reflect`: state -> reflection + expert action (Early Experience, self-reflection)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import click

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.base import Draw, Model, Sample
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
    asked: deque[tuple[dict, list[_State]]] = deque()  # read, and not answered yet

    def groups() -> Iterator[list[Draw]]:
        for t in trajectories:
            states = list(_states(t, skip, count))
            if not all(state.skipped for state in states):
                asked.append((t, states))
                # The skipped ones are asked, too: what shares a batch is then the same as before the interruption.
                yield [s.request(style, temperature, max_tokens, seed, count) for s in states if not s.thought]

    answers: Iterator[list] = model.answer(groups()) if model else ([[]] * len(group) for group in groups())
    for found in answers:
        t, states = asked.popleft()
        answer = iter(found)
        for state in states:
            refused = None if state.thought else next(answer)
            if state.skipped:
                continue
            try:
                if isinstance(refused, InputError):
                    raise refused
                text, author = state.reflection(model, max_tokens, count)
            except InputError as e:
                on_error(t, e.at(f"$.steps[{state.i}]"))
                continue
            prompt = style.act(t["instruction"], t["steps"][: state.i], state.step["observation"],
                               state.step.get("admissible"), think=True)  # fmt: skip
            target = style.answer(state.step["action"], text)
            yield example(t, f"{state.i}/reflection", "reflection", prompt, target.messages(), style.label,
                          spans=target.spans, reflection_by=author)  # fmt: skip


def _states(t: dict, skip: Callable[[str], bool], count: Callable[[str, int], None]) -> Iterator[_State]:
    for i, step in enumerate(t["steps"]):
        skipped = skip(f"{t['id']}/{i}/reflection")
        outcome = expert_outcome(t, i)
        if outcome and any(a.get("outcome") for a in step.get("alternatives", [])):
            yield _State(t, i, outcome, skipped)
        elif not skipped:
            count("states without executed alternatives", 1)


class _State:
    """A state while its reflection is being written."""

    def __init__(self, t: dict, i: int, outcome: dict, skipped: bool):
        self.t, self.i, self.step, self.outcome, self.skipped = t, i, t["steps"][i], outcome, skipped
        self.thought = self.step.get("thought")
        self.text: str | None = None  # the reflection that can be used
        self.why, self.last = "", ""

    def request(self, style: PromptStyle, temperature: float, max_tokens: int, seed: int,
                count: Callable[[str, int], None]) -> Draw:  # fmt: skip
        """What the model is asked."""

        def accept(sample: Sample) -> bool:
            said = style.thought_in(sample.text)
            text = rationale.once(said)
            leak = rationale.find_leak(text)
            self.last = sample.text
            if not self.skipped and text != said.strip():
                count("texts written twice, cut to one", 1)
            if text and not leak and sample.finished:
                self.text = text
                return True
            ended = f"does not end within {max_tokens} tokens"
            self.why = f"says {leak!r}" if leak else "is empty" if not text else ended
            if not self.skipped:
                count("reflections drawn again", 1)
            return False

        prompt = style.ask_reflection(self.t["instruction"], self.t["steps"][: self.i], self.step,
                                      self.outcome["observation"])  # fmt: skip
        return Draw(prompt, 1, temperature, max_tokens, seed_of(seed, self.t["id"], self.i), accept, _TRIES)

    def reflection(self, model: Model | None, max_tokens: int, count: Callable[[str, int], None]) -> tuple[str, str]:
        """The text, and who wrote it; raises InputError where there is none that can be used."""
        if self.thought:
            count("the expert's own thought kept", 1)
            return self.thought, "expert"
        if model is None:
            return rationale.compose(self.t["instruction"], self.step, self.outcome), "rule: outcome"
        if self.text is None:
            raise InputError(f"no usable reflection: the text {self.why}", evidence={"text": self.last})
        return self.text, model.fingerprint


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
def command(model, temperature, max_tokens, engine, how, prompt_style, seed, stream) -> None:
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
        writer = options.open_writer(model, engine, stream.note)
        settings = {"rationale": "model", "model": writer.fingerprint, "temperature": temperature,
                    "max_tokens": max_tokens}  # fmt: skip
    elif how is None:
        stream.note("no -m and no EEXP_MODEL: reflections are composed by rule from the outcomes (--rationale outcome)")
    style = options.chosen_style(prompt_style, None)
    with (writer or nullcontext(),
          stream.open("reflect", "trajectory", prompt_style=style.label, seed=seed, **settings) as io):  # fmt: skip
        made = reflect(io.records(skip_done=False), style, writer, temperature=temperature, max_tokens=max_tokens,
                       seed=seed, skip=io.done, count=io.count, on_error=io.fail)  # fmt: skip
        for record in tqdm(made, disable=None, unit="state", leave=False):
            io.write(record)
        if writer:
            io.counts.update(writer.counts)

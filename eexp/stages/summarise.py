"""`eexp summarise`: long observations in fewer words, as targets of a world model.

The Early Experience paper does so for WebShop, WebArena and SearchQA. It is a stage of its own, which writes
trajectories: a summary is made once, and whatever reads trajectories may use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import click

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.base import Draw, Model, Sample
from eexp.prompts import PromptStyle
from eexp.records import seed_of
from eexp.reflection import guards

Count = Callable[[str, int], None]

_TRIES = 3  # draws of a summary before an observation goes without


class _Passage:
    """An observation that is to be summed up, and everything in a trajectory that holds it."""

    def __init__(self, action: str, observation: str):
        self.action, self.observation = action, observation
        self.holders: list[dict] = []  # steps and outcomes, copies that may be changed
        self.place = ""  # of the first of them
        self.summary: str | None = None
        self.why, self.last = "", ""

    def request(
        self, t: dict, style: PromptStyle, temperature: float, max_tokens: int, seed: int, count: Count
    ) -> Draw:
        """What the model is asked."""

        def accept(sample: Sample) -> bool:
            self.last = sample.text
            text = guards.once(style.summary_in(sample.text))
            if text and sample.finished and len(text) < len(self.observation):
                self.summary = text
                return True
            ended = f"does not end within {max_tokens} tokens"
            self.why = (
                "is empty" if not text else ended if not sample.finished else "is no shorter than the observation"
            )
            count("summaries drawn again", 1)
            return False

        prompt = style.ask_summary(t["instruction"], self.action, self.observation)
        own_seed = seed_of(seed, t["id"], self.action, self.observation)
        return Draw(prompt, 1, temperature, max_tokens, own_seed, accept, _TRIES)


def summarise(
    trajectories: Iterator[dict],
    style: PromptStyle,
    model: Model,
    *,
    longer_than: int = 500,
    temperature: float = 0.7,
    max_tokens: int = 256,
    seed: int = 0,
    count: Count = lambda what, n=1: None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Add a `summary` to every observation of more than `longer_than` characters that an action led to.

    Those are the outcomes of alternatives, the observations of all steps but the first, and the trajectory's outcome.
    Where an action led to an observation more than once in a trajectory, one summary is written. A summary that is
    there already stays. Texts that are empty, cut off, or no shorter than the observation are drawn again; if that does
    not help, `on_error` is told, and the trajectory comes without this summary.
    """
    unanswered: deque[tuple[dict, dict, list[_Passage]]] = deque()

    def groups() -> Iterator[list[Draw]]:
        for t in trajectories:
            copy, passages = _passages(t, longer_than)
            unanswered.append((t, copy, passages))
            yield [passage.request(t, style, temperature, max_tokens, seed, count) for passage in passages]

    for answers in model.answer(groups()):
        original, t, passages = unanswered.popleft()
        for passage, answer in zip(passages, answers):
            if passage.summary is None:
                why = f"no usable summary: the text {passage.why}"
                error = answer if isinstance(answer, InputError) else InputError(why, evidence={"text": passage.last})
                on_error(original, error.at(passage.place))  # set aside as it came, without the summaries so far
                continue
            for holder in passage.holders:
                holder["summary"] = passage.summary
            count("summaries written", 1)
        yield t


def _passages(t: dict, longer_than: int) -> tuple[dict, list[_Passage]]:
    """Return a copy of a trajectory, and the observations in it that are to be summed up."""
    found: dict[tuple[str, str], _Passage] = {}

    def look(action: str, holder: dict, place: str) -> None:
        if len(holder["observation"]) > longer_than and not holder.get("summary"):
            passage = found.setdefault((action, holder["observation"]), _Passage(action, holder["observation"]))
            passage.holders.append(holder)
            passage.place = passage.place or place

    steps: list[dict] = []
    for i, step in enumerate(t["steps"]):
        step = dict(step)
        if steps:
            look(steps[-1]["action"], step, f"$.steps[{i}]")
        steps.append(step)
        if "alternatives" in step:
            step["alternatives"] = [dict(alternative) for alternative in step["alternatives"]]
            for j, alternative in enumerate(step["alternatives"]):
                if alternative.get("outcome"):
                    alternative["outcome"] = dict(alternative["outcome"])
                    look(alternative["action"], alternative["outcome"], f"$.steps[{i}].alternatives[{j}].outcome")
    copy = {**t, "steps": steps}
    if t.get("outcome") and steps:
        copy["outcome"] = dict(t["outcome"])
        look(steps[-1]["action"], copy["outcome"], "$.outcome")
    return copy, list(found.values())


@click.command("summarise")
@options.model(
    "Writes the summaries; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
    max_tokens=256,
    temperature=0.7,
)
@click.option(
    "--longer-than",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    metavar="CHARACTERS",
    help="Only observations that are longer.",
)
@options.prompt_style()
@options.seed
@options.streams("trajectory", resume=True)
def command(model, temperature, max_tokens, engine, longer_than, prompt_style, seed, stream) -> None:
    """Add summaries of long observations, written by a model.

    Reads trajectories with outcomes, as `eexp rollout` writes them, and adds `summary` where an observation is long:
    pages of a shop, search results, accessibility trees. world-model-data takes the summary as its target. A text that
    is empty, cut off, or no shorter than the observation is drawn again, up to three times; an observation for which
    that does not help is set aside (--on-error skip), and its trajectory comes without that summary.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout | eexp summarise > summarised.jsonl
    """
    from tqdm import tqdm

    stream.stage = "summarise"
    with options.open_writer(model, engine, stream.note) as writer:
        style = options.chosen_style(prompt_style, None)
        settings = {
            "longer_than": longer_than,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        identity = {"prompt_style": style.label, "model": writer.fingerprint}
        with stream.open("summarise", "trajectory", **identity, **settings) as io:
            summed = summarise(io.records(), style, writer, **settings, count=io.count, on_error=io.fail)
            for trajectory in tqdm(summed, disable=None, unit="trajectory", leave=False):
                io.write(trajectory)
            io.counts.update(writer.counts)

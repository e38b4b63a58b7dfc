"""The generator contract: requests in groups, texts with their log-probabilities out.

A group is what belongs together, such as all states of a trajectory: their prompts share long beginnings, and a backend
evaluates what they share once. Groups are answered one after another, so a stage may feed them from its input as it
comes. An answer is decided by its own group, model, settings and seed, never by other groups.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from eexp.errors import InputError, UsageError
from eexp.prompts import Messages, PromptStyle, get_style, style_from_dict

_ROOM = 1.25  # tokens that an answer may take, for each one of the longest that was trained on


@dataclass
class Sample:
    """One text drawn from a model, or scored by it.

    logprob: natural log-probability of the text with its stop token, under the model at temperature 1; None where the
    backend does not tell. tokens: without the stop token. finished: false where the text was cut at the token limit.
    ids, logprobs: the tokens of a scored text, the stop token included, and the log-probability of each.
    """

    text: str
    logprob: float | None = None
    tokens: int = 0
    finished: bool = True
    ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None


@dataclass(frozen=True)
class PlaySettings:
    """How a model is to be played, by what it was trained on; None where it does not say.

    style: the prompt style. think: "always" where it was trained to write thoughts, else "never". max_tokens: room that
    its longest answer took.
    """

    style: PromptStyle | None = None
    think: str | None = None
    max_tokens: int | None = None

    @classmethod
    def of_run(cls, run: dict) -> PlaySettings:
        """Read it from what `eexp finetune` says about a run (eexp.json).

        Raises:
            InputError: the style is no style, or was another one in the version that trained with it.
        """
        style = style_from_dict(run["style"]) if run.get("style") else None
        if style is None and run.get("prompt_style"):
            style = get_style(run["prompt_style"])
        lengths = run.get("longest_completion") or {}
        longest = max((n for kind, n in lengths.items() if kind != "world_model"), default=None)
        return cls(style, run.get("think"), longest and math.ceil(longest * _ROOM))


@dataclass(frozen=True)
class Draw:
    """Ask for `n` texts.

    prompt: a chat that ends with a turn to answer. temperature 0 is greedy. seed: decides all draws of the request.
    accept: judges every text once, in a fixed order; a text that it refuses does not count, and another one is drawn,
    until `n` are accepted or `most` were judged (`n` if None). Without it all texts count.
    distinct: draw complete texts without replacement, the most probable first on average; else independently.
    allowed: the only texts that may be written, token by token; None allows every text.
    prefix: what the answer begins with already; the texts do not repeat it.
    top_p: at every token, draw from the most probable ones only, as few as have this share of the probability at the
    temperature of drawing (a nucleus).
    min_p: of the texts that contend, draw only those that are at least this share as probable as the most probable one
    of them; for drawing without replacement by a model that is `exact`, others ignore it. contends: whether a text
    may be the most probable one; it must not depend on what was drawn before. None: every text contends.
    """

    prompt: Messages
    n: int = 1
    temperature: float = 1.0
    max_tokens: int = 48
    seed: int = 0
    accept: Callable[[Sample], bool] | None = None
    most: int | None = None
    distinct: bool = False
    allowed: Sequence[str] | None = None
    prefix: str = ""
    top_p: float | None = None
    min_p: float | None = None
    contends: Callable[[Sample], bool] | None = None


@dataclass(frozen=True)
class Score:
    """Ask for the log-probability of each completion, with the stop token after it, as an answer to `prompt`.

    prefix: as in Draw. ids: the tokens of each completion, the stop token included, where they are not to be those that
    the model's tokenizer gives for the text alone (`Model.encode` gives those of training).
    """

    prompt: Messages
    completions: Sequence[str]
    prefix: str = ""
    ids: Sequence[Sequence[int]] | None = None


Request = Draw | Score
#: The accepted texts of a Draw in the order they were judged, or the completions of a Score in the order given; or why
#: the request cannot be served (a prompt that does not fit into the context, say).
Answer = list[Sample] | InputError


@dataclass(frozen=True)
class Engine:
    """How a model in this process is to run; None: resolved when the model is known. Most of it is for llama.cpp.

    context: tokens that prompt and answer may take together. batch: tokens evaluated at once. cache: type of keys and
    values, f16, f32 or q8_0. gpu_layers: how many of the layers a GPU takes. trust_remote_code: run the Python code
    that a model of transformers brings.
    """

    context: int | None = None
    threads: int | None = None
    batch: int | None = None
    cache: str = "f16"
    gpu_layers: int | None = None
    flash_attention: bool | None = None
    trust_remote_code: bool = False


R, A = TypeVar("R"), TypeVar("A")
R_contra, A_co = TypeVar("R_contra", contravariant=True), TypeVar("A_co", covariant=True)


class Answering(Protocol[R_contra, A_co]):
    """A model or a policy: anything that answers requests in groups."""

    def answer(self, groups: Iterable[Sequence[R_contra]]) -> Iterator[list[A_co]]:
        """Yield the answers to each group, group by group, in order."""
        ...


class Model(ABC):
    """A language model that answers chats. Close it when done; it is a context manager."""

    #: As given on the command line.
    spec: str = ""
    #: Identifies the weights in lineage: `sha256:` and 16 hex digits for files, the name for servers.
    fingerprint: str = ""
    #: How it is to be played, as far as its training says.
    play_settings: PlaySettings = PlaySettings()
    #: How it runs, in words: what was left to it, as it was resolved.
    settings: str = ""
    #: Whether it can draw without replacement and score; a server that only writes texts cannot.
    exact: bool = True

    def __init__(self) -> None:
        #: What the answers cost: "prompt tokens evaluated", "tokens evaluated" beside those, "texts written".
        self.counts: Counter[str] = Counter()
        #: Tells a person what they should know of how it answers.
        self.note: Callable[[str], None] = lambda text: None

    @abstractmethod
    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Answer]]:
        """The answers to each group, group by group, in order.

        `groups` is read as far ahead as the backend needs to be busy: one group in process, some for a server.
        """

    def encode(self, prompt: Messages, completion: Messages) -> list[int]:
        """Return the tokens of an example's completion, as training has them after those of its prompt.

        Raises:
            InputError: the chat template refuses the messages, or changes the prompt when an answer follows.
            UsageError: the model is a server, which does not say.
        """
        raise UsageError(f"{self.spec}: a server cannot tell the tokens of a text; give a GGUF file or hf:DIR_OR_ID")

    def spell(self, ids: Sequence[int]) -> str:
        """Return what tokens spell; special ones may be left out."""
        raise NotImplementedError

    def ask(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """The answers to one group; raises the first InputError among them."""
        (answers,) = self.answer([requests])
        for found in answers:
            if isinstance(found, InputError):
                raise found
        return answers  # type: ignore[return-value]

    def episodes(self, n: int) -> Episodes[Draw, Answer]:
        """Return `n` episodes in flight, or as many as there is memory for (`Episodes.n`)."""
        return Episodes(self, n)

    def close(self) -> None:
        """Give back the memory. Safe to call twice."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Episodes(Generic[R, A]):
    """Episodes in flight, each with at most one open request; this one answers all open requests together.

    Requests of one episode usually begin with the prompt of the one before, so a backend keeps what it has of each.

    Args:
        source: The model or policy that answers.
        n: The number of episodes, which are numbered from 0.
    """

    def __init__(self, source: Answering[R, A], n: int):
        self.source, self.n = source, n
        self._open: dict[int, R] = {}

    def submit(self, episode: int, request: R) -> None:
        """Ask on behalf of an episode."""
        self._open[episode] = request

    def wait(self) -> list[tuple[int, A]]:
        """Work until something may be known; return (episode, answer) for all new answers, perhaps none yet."""
        requests, self._open = self._open, {}
        if not requests:
            return []
        (answers,) = self.source.answer([list(requests.values())])
        return list(zip(requests, answers))

    def close(self) -> None:
        """Forget all episodes."""
        self._open.clear()

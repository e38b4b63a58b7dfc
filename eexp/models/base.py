"""The contract of language models: requests come in groups, and samples with their log-probabilities go out.

A group holds requests that belong together, such as those of all states of a trajectory: their prompts share long
beginnings, and a backend evaluates shared tokens once. Groups are answered one after another, so a stage may pass them
on as its input arrives. An answer depends on its own group, the model, its settings and the seed, never on another
group.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from eexp.errors import InputError, UsageError

if TYPE_CHECKING:
    from eexp.prompts import Message, Messages, PromptStyle

R = TypeVar("R")
A = TypeVar("A")
S = TypeVar("S")
R_contra = TypeVar("R_contra", contravariant=True)

_MARGIN = 1.25  # tokens that an answer may take, for each token of the longest one in training


@dataclass
class Sample:
    """A text drawn from a model, or scored by it."""

    text: str
    #: Natural log-probability of the text with its stop token, under the model at temperature 1; None where the backend
    #: does not report it.
    logprob: float | None = None
    tokens: int = 0  # number of tokens, without the stop token
    finished: bool = True  # False where the text was cut at the token limit
    ids: Sequence[int] | None = None  # token ids of a scored text, the stop token included
    logprobs: Sequence[float] | None = None  # log-probability of each of `ids`
    #: The assistant's message, from a server that was told of functions; it may have calls.
    message: Message | None = None


@dataclass(frozen=True)
class PlaySettings:
    """How to prompt a model, according to its training; None where the training does not say."""

    style: PromptStyle | None = None  # the prompt style
    think: str | None = None  # "always" for a model that was trained to write thoughts, else "never"
    max_tokens: int | None = None  # tokens to allow for an answer, from the longest answer in training
    prediction_tokens: int | None = None  # the same for an observation that a world model predicts

    @classmethod
    def of_run(cls, run: dict, source: str) -> PlaySettings:
        """Read the settings from a run file of `eexp finetune` (eexp.json).

        Args:
            run: Its contents; a style that is not built in stands in it.
            source: The file, for errors.

        Raises:
            InputError: The style is invalid, unknown, or differs from the style of that name in the version that
                trained.
        """
        from eexp.prompts import built_in_style, style_from_dict

        try:
            style = style_from_dict(run["style"]) if run.get("style") else None
        except InputError as e:
            raise InputError(f"{source}: {e.at('$').where.replace('$', '$.style', 1)}: {e.message}") from None
        try:
            if style is None and run.get("prompt_style"):
                style = built_in_style(run["prompt_style"])
        except (InputError, UsageError) as e:
            raise InputError(f"{source}: $.prompt_style: {e}") from None
        lengths = run.get("longest_completion") or {}
        longest = max((n for kind, n in lengths.items() if kind != "world_model"), default=None)
        predicted = lengths.get("world_model")
        return cls(
            style,
            run.get("think"),
            longest and math.ceil(longest * _MARGIN),
            predicted and math.ceil(predicted * _MARGIN),
        )


@dataclass(frozen=True, kw_only=True)
class Sampling(Generic[S]):
    """How to draw samples: texts from a model (`Draw`) or actions from a policy (`policy.ActionDraw`)."""

    n: int = 1  # number of samples
    temperature: float = 1.0  # sampling temperature; 0 is greedy
    seed: int = 0  # decides all draws of the request
    #: Judges every sample once, in a fixed order. A sample that it refuses does not count, and another one is drawn,
    #: until `n` are accepted or `most` were judged. None accepts every sample.
    accept: Callable[[S], bool] | None = None
    most: int | None = None  # maximum number of samples that are judged; `n` if None
    #: Draw complete samples without replacement, the most probable first on average; else independently.
    distinct: bool = False
    #: At every token, draw from the most probable tokens only, as few as have this share of the probability at the
    #: sampling temperature (a nucleus).
    top_p: float | None = None
    #: Of the contending samples, draw only those that are at least this share as probable as the most probable one of
    #: them. For drawing without replacement from a model that is `exact`; other models ignore it.
    min_p: float | None = None
    #: Decides whether a sample may be the most probable one for `min_p`; it must not depend on earlier draws. None:
    #: every sample contends.
    contends: Callable[[S], bool] | None = None


@dataclass(frozen=True)
class Draw(Sampling[Sample]):
    """A request for `n` texts."""

    prompt: Messages  # a chat that ends where the assistant is to answer
    _: KW_ONLY
    max_tokens: int = 48  # maximum number of tokens of a text
    #: The only texts that may be written, enforced token by token; None allows every text.
    allowed: Sequence[str] | None = None
    prefix: str = ""  # the beginning of the answer, which is given; the texts do not repeat it
    tools: Sequence[dict] = ()  # the functions that the prompt shows, and that `Model.message` finds calls of


@dataclass(frozen=True)
class Score:
    """A request for the log-probability of each completion, with its stop token, as an answer to `prompt`."""

    prompt: Messages
    completions: Sequence[str]
    prefix: str = ""  # as in `Draw`
    #: Token ids of each completion, the stop token included, where they differ from those that the model's tokenizer
    #: gives for the text alone (`Model.encode` gives those of training).
    ids: Sequence[Sequence[int]] | None = None
    tools: Sequence[dict] = ()  # as in `Draw`


Request = Draw | Score
#: The accepted samples of a Draw in the order in which they were judged, or those of a Score in the order of its
#: completions; or the reason why the request cannot be served, such as a prompt that does not fit into the context.
Samples = list[Sample] | InputError


@dataclass(frozen=True)
class Engine:
    """How to run a model in this process. Where a value is None, the backend chooses it for the model."""

    context: int | None = None  # tokens that prompt and answer may take together
    threads: int | None = None  # CPU threads, for llama.cpp
    batch: int | None = None  # tokens evaluated at once, for llama.cpp
    cache: str = "f16"  # number format of llama.cpp's keys and values: f16, f32 or q8_0
    gpu_layers: int | None = None  # number of layers that llama.cpp places on a GPU
    flash_attention: bool | None = None  # whether llama.cpp uses flash attention
    trust_remote_code: bool = False  # run the Python code that comes with a model of transformers


class Answering(Protocol[R_contra, A]):
    """A model or a policy: anything that answers requests in groups."""

    def answer(self, groups: Iterable[Sequence[R_contra]]) -> Iterator[list[A]]:
        """Yield the answers to each group, group by group, in order."""
        ...


class Model(ABC):
    """A language model that answers chats. It is a context manager, and is to be closed after use."""

    spec: str = ""  # the spec on the command line
    #: Identifies the weights in lineage: `sha256:` and 16 hex digits for files, the name for servers.
    fingerprint: str = ""
    play_settings: PlaySettings = PlaySettings()  # how to prompt it, according to its training
    settings: str = ""  # how it runs, in words, with every setting that the backend chose
    exact: bool = True  # whether it can draw without replacement and score; a server that only writes texts cannot

    def __init__(self) -> None:
        #: The cost of the answers: "prompt tokens evaluated", "text tokens evaluated" beside those, "text[s] written".
        self.counts: Counter[str] = Counter()
        self.note: Callable[[str], None] = lambda text: None  # shows the user a remark on how the model answers

    @abstractmethod
    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        """Yield the answers to each group, group by group, in order.

        `groups` is read as far ahead as the backend needs to be busy: one group in process, several for a server.
        """

    def message(self, sample: Sample, tools: Sequence[dict]) -> Message:
        """Return a drawn text as the assistant's message, with the calls in it.

        Args:
            tools: The functions that its request showed.

        Raises:
            UsageError: The model cannot call functions.
        """
        raise UsageError(f"{self.spec}: cannot call functions")

    def encode(self, prompt: Messages, completion: Messages, tools: Sequence[dict] = ()) -> list[int]:
        """Return the token ids of an example's completion, as training has them after those of its prompt.

        Raises:
            InputError: The chat template refuses the messages, or changes the prompt when an answer follows.
            UsageError: The model is a server, which does not report tokens, or its chat template shows no functions.
        """
        raise UsageError(f"{self.spec}: a server cannot tell the tokens of a text; give a GGUF file or hf:DIR_OR_ID")

    def spell(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; special tokens may be left out."""
        raise NotImplementedError

    def ask(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Return the answers to one group of requests.

        Raises:
            InputError: A request cannot be served; the first such error is raised.
        """
        (answers,) = self.answer([requests])
        samples: list[list[Sample]] = []
        for answer in answers:
            if isinstance(answer, InputError):
                raise answer
            samples.append(answer)
        return samples

    def episodes(self, n: int) -> Episodes[Draw, Samples]:
        """Return `n` episodes in flight, or as many as there is memory for (`Episodes.n`)."""
        return Episodes(self, n)

    def close(self) -> None:
        """Free the memory. Safe to call twice."""

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

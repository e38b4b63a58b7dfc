"""The generator contract: chat messages in, sampled texts out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from eexp.prompts import Messages


@dataclass
class Sample:
    """One text drawn from a model.

    logprob: natural log-probability of the text with its stop token, under the model at temperature 1; None where the
    backend does not tell. finished: false where the text was cut at the token limit.
    """

    text: str
    logprob: float | None = None
    tokens: int = 0
    finished: bool = True


class Model(ABC):
    """A language model that answers chats. Close it when done; it is a context manager."""

    #: As given on the command line.
    spec: str = ""
    #: Identifies the weights in lineage: `sha256:` and 16 hex digits for files, the name for servers.
    fingerprint: str = ""
    #: Label of the prompt style it was fine-tuned with (`name@fingerprint`), if it says so.
    prompt_style: str | None = None

    @abstractmethod
    def sample(self, prompts: Sequence[Messages], n: int, *, temperature: float, max_tokens: int,
               seeds: Sequence[int]) -> list[list[Sample]]:  # fmt: skip
        """Draw `n` texts for each prompt.

        prompts: P chats that end with a turn to answer. seeds: P integers; the draws for prompt p depend on seeds[p]
        and its own words, not on the other prompts. temperature 0 is greedy.
        Returns P lists of n samples. Raises InputError for a prompt that does not fit into the context.
        """

    def close(self) -> None:
        """Give back the memory. Safe to call twice."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

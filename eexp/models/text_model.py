"""Models that only write texts: draws judged, repeated and seeded for anything that answers a chat.

`TextModel` is the shortest way to a backend of another package: one method that writes one text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from eexp.errors import EexpError, InputError, UsageError, unexpected_error
from eexp.models.base import Draw, Model, Request, Sample, Samples
from eexp.records.record import seed_of


class OpenDraw:
    """A Draw that is being answered, in rounds of calls, until enough texts are accepted or the limit is judged.

    A round asks for the missing texts. They are judged when the whole round is answered, in the order of its calls, and
    the seed of a call follows from its number in the Draw: the time at which an answer arrives decides nothing.

    Args:
        route: What its calls have in common, for whom makes them.
    """

    def __init__(self, draw: Draw, route: Any = None):
        self.draw, self.route, self.done = draw, route, False
        self.failure: Exception | None = None
        self._refusal: InputError | None = None
        greedy = draw.temperature == 0  # all draws are the same text
        most = draw.n if draw.most is None else draw.most
        self._n, self._most = (min(draw.n, 1), min(most, 1)) if greedy else (draw.n, most)
        self._copies = draw.n if greedy and not draw.distinct else 1
        self._accepted: list[Sample] = []
        self._judged = self._calls = 0
        self._known: set[tuple[str, bool]] = set()
        self._per_call = max(1, self._n)  # choices that a call asks for
        self._cautious = False  # one choice first, to see whether the server only refuses several at once
        self._round: list[int] = []  # choices of each call
        self._answers: dict[int, list[Sample] | InputError] = {}  # by the number of the call in the round

    def result(self) -> Samples:
        """Return the answer of a Draw that is done.

        Raises:
            Exception: The failure of the server or of `accept`.
        """
        if self.failure:
            raise self.failure
        return self._refusal or self._accepted * self._copies

    def next_round(self) -> list[tuple[int, int]]:
        """Return the calls to make now, as (choices, seed); where there are none, the Draw is done."""
        missing = min(self._n - len(self._accepted), self._most - self._judged)
        missing = min(missing, 1) if self._cautious else missing
        self._round = [min(self._per_call, missing - i) for i in range(0, missing, self._per_call)]
        self._answers.clear()
        self.done = self.done or not self._round
        if self.done:
            return []
        calls = [(n, seed_of(self.draw.seed, self._calls + i) % 2**31) for i, n in enumerate(self._round)]
        self._calls += len(calls)
        return calls

    def add(self, number: int, answer: list[Sample] | InputError) -> bool:
        """Take the answer to a call of the round; return whether that was the last one."""
        self._answers[number] = answer
        if len(self._answers) < len(self._round):
            return False
        for i, n in enumerate(self._round):
            self._take(n, self._answers[i])
        return True

    def _take(self, n: int, answer: list[Sample] | InputError) -> None:
        if not isinstance(answer, InputError):
            if len(answer) < n:  # some servers answer one choice, whatever n is
                self._per_call = min(self._per_call, len(answer))
            self._cautious = False
            for sample in answer[:n]:
                self._judge(sample)
        elif n > 1:  # some servers refuse that
            self._per_call, self._cautious = 1, True
        else:
            self._refusal = self._refusal or answer
            self.done = True

    def _judge(self, sample: Sample) -> None:
        # Dropping repetitions is drawing without replacement, as far as `most` goes.
        repeated = self.draw.distinct and (sample.text, sample.finished) in self._known
        self._known.add((sample.text, sample.finished))
        self._judged += 1
        if not repeated and (self.draw.accept is None or self.draw.accept(sample)):
            self._accepted.append(sample)


class TextModel(Model):
    """A model that writes one text at a time, and knows no log-probabilities.

    Args:
        spec: The spec on the command line.
    """

    exact = False

    def __init__(self, spec: str):
        super().__init__()
        self.spec = self.fingerprint = spec

    @abstractmethod
    def write(self, draw: Draw, seed: int) -> str | Sample:
        """Return one text for `draw.prompt`, by `draw.temperature`; the same for the same seed.

        It may have `draw.max_tokens` tokens at most. Return a Sample that is not `finished` where it was cut there.

        Raises:
            InputError: The request cannot be served, such as PromptTooLong for a prompt that outgrows the context.
        """

    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        for group in groups:
            yield [self._answer(request) for request in group]

    def _answer(self, request: Request) -> Samples:
        if not isinstance(request, Draw):
            raise UsageError(f"{self.spec}: it writes texts and scores none; take a GGUF file or hf:")
        if request.allowed is not None:
            raise UsageError(f"{self.spec}: constrained decoding is not possible with it; take a GGUF file or hf:")
        if request.prefix:
            raise UsageError(f"{self.spec}: it cannot go on from the beginning of an answer; give --think auto")
        draw = OpenDraw(request)
        while calls := draw.next_round():
            for number, (n, seed) in enumerate(calls):
                draw.add(number, self._samples(request, n, seed))
        return draw.result()

    def _samples(self, draw: Draw, n: int, seed: int) -> list[Sample] | InputError:
        samples = []
        for i in range(n):
            try:
                text = self.write(draw, seed_of(seed, i))
            except InputError as e:
                return e
            except (EexpError, MemoryError, OSError):
                raise
            except Exception as e:  # a mistake in a class that is not part of eexp
                return unexpected_error(e, f"model {self.fingerprint}")
            if not isinstance(text, (str, Sample)):
                raise EexpError(f"model {self.fingerprint}: wrote {type(text).__name__}, not a text")
            samples.append(text if isinstance(text, Sample) else Sample(text))
        self.counts["text[s] written"] += len(samples)
        return samples

"""Check by asking whether a model keeps the contract of eexp/models/base.py.

A few short chats are answered: greedily, drawn with seeds, in groups of several and in another order, cut, held to a
list, scored, and with a prompt that is too long. What the model says of its texts must agree with how it draws and
scores them, and an answer may depend on its own group and seed alone. The texts need not make sense.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from eexp.errors import EexpError, InputError, UsageError, short
from eexp.models.base import Draw, Model, Sample, Samples, Score
from eexp.prompts import Messages
from eexp.system.findings import (
    FAILED,
    NOTE,
    OK,
    SKIPPED,
    Broken,
    Finding,
    NothingToCheck,
    WorthKnowing,
    must,
)

#: How far the log-probability of a token may differ between two ways to compute it, in half precision.
TOLERANCE = 0.02
TOKENS = 16  # of an answer
DRAWS = 400  # of one token, to compare their shares with their probabilities
#: How many standard deviations the share of a token may lie from its probability; by chance once in 10 million checks.
DEVIATIONS = 5.5
LONG = 200_000  # words of a prompt that no context holds
LIST = ("yes", "no", "yes and no")
QUESTIONS = ("Name a colour.", "Go on: one, two,", "What is behind the door?", "Say yes or no.")


class ModelChecker:
    """One round of checks.

    Args:
        open_one: Opens the model.
        seed: Decides what is drawn.
    """

    def __init__(self, open_one: Callable[[], Model], seed: int = 0):
        self.open_one, self.seed = open_one, seed
        self.seconds = 0.0
        self._model: Model | None = None
        self._written: list[Sample] = []

    @property
    def model(self) -> Model:
        """The model, once it is open."""
        assert self._model is not None, "opens() comes first"
        return self._model

    def findings(self) -> Iterator[Finding]:
        """Make the checks, and yield one finding for each; where the model itself fails, the others are skipped."""
        try:
            for check in (
                self.opens,
                self.writes,
                self.stops,
                self.seeds,
                self.groups,
                self.judges,
                self.logprobs,
                self.shares,
                self.distinct,
                self.keeps_a_list,
                self.goes_on,
                self.overflow,
            ):
                name = check.__name__.replace("_", " ")
                try:
                    yield Finding(name, OK, check())
                except NothingToCheck as e:
                    yield Finding(name, SKIPPED, str(e))
                except WorthKnowing as e:
                    yield Finding(name, NOTE, str(e))
                except Broken as e:
                    yield Finding(name, FAILED, str(e))
                except (EexpError, NotImplementedError) as e:
                    yield Finding(name, FAILED, str(e))
                    if check in (self.opens, self.writes):
                        return
            yield Finding("time", OK, self._time())
        finally:
            if self._model is not None:
                self._model.close()
                with suppress(EexpError):
                    self._model.close()  # safe to call twice

    # -- the checks, in order ------------------------------------------------------------------------------------------

    def opens(self) -> str:
        """Check that the model opens and says what it is."""
        self._model = self.open_one()
        model = self._model
        must(bool(model.fingerprint), "no fingerprint: records could not say which model wrote them")
        must("\n" not in model.fingerprint, f"the fingerprint has several lines: {short(model.fingerprint)}")
        does = "draws without replacement and scores" if model.exact else "only writes texts"
        return f"{model.fingerprint}; {does}" + (f"; {model.settings}" if model.settings else "")

    def writes(self) -> str:
        """Check that a greedy answer is a text, and the same text the second time."""
        first, second = (self._ask([self._draw(q, temperature=0.0) for q in QUESTIONS]) for _ in range(2))
        for samples in first:
            must(len(samples) == 1, f"one text was asked for, {len(samples)} came")
            self._must_be_a_sample(samples[0])
        self._written = [samples[0] for samples in first]
        empty = sum(not sample.text.strip() for sample in self._written)
        same = [a[0].text == b[0].text for a, b in zip(first, second)]
        if not all(same):
            self._not_the_same(f"greedy answers differ the second time: {short(first[same.index(False)][0].text)}")
        if empty == len(self._written):
            raise WorthKnowing(f"all {empty} greedy answers are empty")
        return f"{len(self._written)} greedy answers, the same the second time"

    def stops(self) -> str:
        """Check that a text is cut at the token limit, and says so."""
        cut = [samples[0] for samples in self._ask([self._draw(q, max_tokens=1, temperature=0.0) for q in QUESTIONS])]
        longest = max(sample.tokens for sample in cut)
        must(longest <= 1, f"{longest} tokens where one was allowed")
        whole = [s for s in cut if s.finished and len(s.text.split()) > 1]
        if whole:
            raise WorthKnowing(f"one token was allowed, and {short(whole[0].text)} was written: it keeps no limit")
        for sample, longer in zip(cut, self._written):
            if sample.finished and len(longer.text) > len(sample.text):
                raise Broken(f"{short(sample.text)} was cut at one token, and is called finished")
        if not any(sample.finished for sample in self._written):
            raise WorthKnowing(f"none of the answers ended within {TOKENS} tokens")
        return "texts are cut at the token limit, and say so"

    def seeds(self) -> str:
        """Check that a draw depends on its seed: the same texts for the same, other texts for another."""
        draws = [self._draw(QUESTIONS[0], n=4, seed=self.seed + i) for i in (0, 1, 2, 3)]
        first, second = self._ask(draws), self._ask(draws)
        for samples in first:
            must(len(samples) == 4, f"4 texts were asked for, {len(samples)} came")
        if _texts(first) != _texts(second):
            self._not_the_same("the same seed gives other texts the second time")
        if len({tuple(texts) for texts in _texts(first)}) == 1:
            raise WorthKnowing("four seeds give the same texts at temperature 1")
        return "the same seed draws the same texts, another seed others"

    def groups(self) -> str:
        """Check that an answer depends neither on other groups nor on the order of groups."""
        groups = [[self._draw(q, n=2, seed=self.seed + i)] for i, q in enumerate(QUESTIONS)]
        forward = [group[0] for group in self._groups(groups)]
        backward = [group[0] for group in self._groups(groups[::-1])][::-1]
        alone = [self._groups([group])[0][0] for group in groups]
        for others, when in ((backward, "when the groups come in reverse order"), (alone, "when it is asked alone")):
            for a, b in zip(forward, others):
                if _texts([a]) != _texts([b]):
                    self._not_the_same(f"{short(_texts([a])[0][0])} becomes {short(_texts([b])[0][0])} {when}")
        together = self._ask([group[0] for group in groups])
        differing = sum(_texts([a]) != _texts([b]) for a, b in zip(forward, together))
        if differing:
            raise WorthKnowing(
                f"{differing} of {len(groups)} answers differ in one group, where other texts round others"
            )
        return f"{len(groups)} answers, the same in any order, alone and in one group"

    def judges(self) -> str:
        """Check that every sample is judged once, and that no more are drawn than may be judged."""
        judged: list[str] = []

        def accept(sample: Sample) -> bool:
            judged.append(sample.text)
            return len(judged) % 2 == 0

        (samples,) = self._ask([self._draw(QUESTIONS[0], n=2, most=5, accept=accept, seed=self.seed)])
        must(len(judged) <= 5, f"5 texts may be judged, and {len(judged)} were")
        must(len(samples) == len(judged) // 2, f"{len(judged) // 2} texts were accepted, and {len(samples)} came")
        must([sample.text for sample in samples] == judged[1::2][: len(samples)], "other texts came than were accepted")
        return f"{len(judged)} texts judged, {len(samples)} accepted"

    def logprobs(self) -> str:
        """Check that the log-probability of a drawn text is the one by which it is scored."""
        (samples,) = self._ask([self._draw(QUESTIONS[0], n=8, seed=self.seed)])
        known = [sample for sample in samples if sample.logprob is not None]
        for sample in known:
            is_one = math.isfinite(sample.logprob or 0) and (sample.logprob or 0) <= 1e-6
            must(is_one, f"{sample.logprob} is no log-probability: {short(sample.text)}")
        if not self.model.exact:
            if len(known) < len(samples):
                raise WorthKnowing(f"{len(known)} of {len(samples)} texts have a log-probability")
            return f"{len(known)} texts have one; this model cannot score, so that nothing can be compared"
        finished = [sample for sample in known if sample.finished and sample.text.strip()]
        if not finished:
            raise NothingToCheck(f"no text of {len(samples)} ended within {TOKENS} tokens")
        (scored,) = self._ask([Score(_chat(QUESTIONS[0]), [sample.text for sample in finished])])
        largest = 0.0
        for drawn, again in zip(finished, scored):
            if drawn.logprob is None or again.logprob is None:
                raise Broken(f"no log-probability of a scored text: {short(again.text)}")
            if again.logprobs is not None:
                total = sum(again.logprobs)
                must(abs(total - again.logprob) < 1e-3, f"the tokens of a text add up to {total}, not {again.logprob}")
            if drawn.tokens + 1 != len(again.ids or ()):
                continue  # the text was drawn in other tokens than the tokenizer gives for it
            difference = abs(drawn.logprob - again.logprob) / (drawn.tokens + 1)
            largest = max(largest, difference)
            must(
                difference <= TOLERANCE,
                f"{short(drawn.text)} was drawn at {drawn.logprob:.3f}, and is scored at {again.logprob:.3f}",
            )
        return f"{len(finished)} texts are scored as they were drawn, to {largest:.1e} a token"

    def shares(self) -> str:
        """Check that texts of one token are drawn as often as their log-probabilities say."""
        if not self.model.exact:
            raise NothingToCheck("asked of models in this process, not of servers, where it costs money")
        (samples,) = self._ask([self._draw(QUESTIONS[1], n=DRAWS, max_tokens=1, seed=self.seed)])
        counts = Counter((sample.text, sample.finished) for sample in samples)
        probability: dict[tuple[str, bool], float] = {}
        for sample in samples:
            probability[sample.text, sample.finished] = math.exp(sample.logprob or 0.0)
        furthest = 0.0
        for key, count in counts.most_common(5):
            p = min(probability[key], 1 - 1e-9)
            deviation = abs(count - DRAWS * p) / math.sqrt(DRAWS * p * (1 - p))
            furthest = max(furthest, deviation if DRAWS * p >= 5 else 0.0)
            must(
                deviation <= DEVIATIONS or DRAWS * p < 5,
                f"{short(key[0])} has probability {p:.3f}, and was drawn {count} times of {DRAWS}",
            )
        return f"{DRAWS} draws of a token: {furthest:.1f} standard deviations from their probabilities at most"

    def distinct(self) -> str:
        """Check that draws without replacement differ, and that their probabilities add up to no more than 1."""
        if not self.model.exact:
            raise NothingToCheck("only a model that reads its probabilities draws without replacement")
        (samples,) = self._ask([self._draw(QUESTIONS[0], n=8, distinct=True, max_tokens=3, seed=self.seed)])
        known = {(sample.text, sample.finished) for sample in samples}
        must(len(known) == len(samples), f"{len(samples)} draws without replacement have {len(known)} texts")
        total = sum(math.exp(sample.logprob) for sample in samples if sample.logprob is not None)
        must(total <= 1 + 1e-3, f"the probabilities of different texts add up to {total:.3f}")
        return f"{len(samples)} different texts, with {100 * total:.0f} % of the probability"

    def keeps_a_list(self) -> str:
        """Check that a model which can be held to a list of texts writes nothing else."""
        try:
            (samples,) = self._ask([self._draw(QUESTIONS[3], n=8, allowed=LIST, seed=self.seed)])
        except UsageError:
            raise NothingToCheck("cannot be held to a list of texts") from None
        others = [sample.text for sample in samples if sample.text not in LIST]
        must(not others, f"held to {', '.join(LIST)}, it wrote {short(others[0]) if others else ''}")
        return f"{len(samples)} texts of a list of {len(LIST)}"

    def goes_on(self) -> str:
        """Check that a model which can go on from the beginning of an answer does not repeat it."""
        draw = replace(self._draw(QUESTIONS[0], temperature=0.0), prefix="The answer is")
        try:
            (samples,) = self._ask([draw])
        except UsageError:
            raise NothingToCheck("cannot go on from the beginning of an answer") from None
        must(not samples[0].text.startswith(draw.prefix), f"repeats the given beginning: {short(samples[0].text)}")
        return "texts go on from a given beginning, and do not repeat it"

    def overflow(self) -> str:
        """Check that a prompt that outgrows the context is refused alone, and that the others are answered."""
        long = self._draw("word " * LONG, temperature=0.0)
        answers = self._groups([[self._draw(QUESTIONS[0], temperature=0.0), long]])[0]
        refusal = answers[1]
        must(not isinstance(answers[0], InputError), f"a prompt beside one that is too long is refused: {answers[0]}")
        if not isinstance(refusal, InputError):
            raise WorthKnowing(f"a prompt of {LONG:,} words was answered: it has no limit, or cuts prompts in silence")
        return f"refused alone: {short(str(refusal), 100)}"

    # -- asking --------------------------------------------------------------------------------------------------------

    def _draw(self, question: str, **more: object) -> Draw:
        return Draw(_chat(question), **{"max_tokens": TOKENS, **more})  # type: ignore[arg-type]

    def _groups(self, groups: Sequence[Sequence[Draw | Score]]) -> list[list[Samples]]:
        began = time.perf_counter()
        answers = list(self.model.answer(groups))
        self.seconds += time.perf_counter() - began
        must(len(answers) == len(groups), f"{len(groups)} groups were asked, and {len(answers)} answered")
        for group, answer in zip(groups, answers):
            must(len(group) == len(answer), f"{len(group)} requests in a group, {len(answer)} answers")
        return answers

    def _ask(self, requests: Sequence[Draw | Score]) -> list[list[Sample]]:
        samples: list[list[Sample]] = []
        for answer in self._groups([requests])[0]:
            if isinstance(answer, InputError):
                raise answer
            samples.append(answer)
        return samples

    def _must_be_a_sample(self, sample: object) -> None:
        is_text = isinstance(sample, Sample) and isinstance(sample.text, str)
        must(is_text, f"expected a Sample with a text, got {short(sample)}")

    def _not_the_same(self, what: str) -> None:
        """Raise that answers are not reproducible: broken for a model in this process, worth knowing of a server."""
        raise Broken(what) if self.model.exact else WorthKnowing(f"{what}: what it writes cannot be drawn again")

    def _time(self) -> str:
        written = self.model.counts["text[s] written"]
        return f"{self.seconds:.1f} s" + (f" for {written:,} texts" if written else "")


def _chat(question: str) -> Messages:
    return [{"role": "user", "content": question}]


def _texts(answers: Sequence[Samples]) -> list[list[str]]:
    return [[sample.text for sample in answer] for answer in answers if not isinstance(answer, InputError)]

"""Draw the answers of episodes in flight: each episode is a sequence of a decoder, and all are evaluated together.

The next request of an episode is not known beforehand, since an environment answers in between, so the prompts form no
tree (tree.py). Every sequence keeps its tokens, and the episode's next prompt usually continues them. Prompts and
answers share batches: no episode waits for another one's prompt.

On a decoder that does not cut (decoder.py), a sequence is marked where the next prompt is likely to leave it. One such
place is the end of the prompt, or as many tokens before as the chat template changed there the last time. Another is
where this prompt left the one before, which is the end of what all prompts share where a style shows the latest steps
only. A prompt that leaves it elsewhere is evaluated from the mark before, or anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from eexp.errors import InputError
from eexp.models.base import Draw, Episodes, Model, Samples
from eexp.models.engine.decoder import Decoder, Item
from eexp.models.engine.nodes import Search, Vocabulary
from eexp.models.engine.sampling import open_search

MARKS_OF_EPISODE = 3  # usually; see Marks for the limit


@dataclass(eq=False)
class _EpisodeTokens:
    """The sequence of an episode."""

    ids: list[int] = field(default_factory=list)  # tokens in memory
    ahead: list[int] = field(default_factory=list)  # tokens to be evaluated
    search: Search | None = None  # the answer that is being written; None between requests
    prompt: int = 0  # number of tokens of the latest prompt
    shared: int = 0  # number of tokens that it shares with the memory of the one before
    changed: int = 0  # number of tokens at the end of a prompt that the next one did not have
    marks: set[int] = field(default_factory=set)  # numbers of tokens at which the sequence is to be marked

    def continue_to(self, prompt: list[int], shared: int, kept: int) -> None:
        """Go on to a prompt.

        Args:
            shared: Number of its tokens that are the same as those in memory.
            kept: Number of tokens that stay in memory.
        """
        if shared > self.shared:  # not a new episode, nor one that shows the latest steps only
            self.changed = max(0, self.prompt - shared)
        self.prompt, self.shared = len(prompt), shared
        self.ids, self.ahead = prompt[:kept], prompt[kept:]
        self.marks = {length for length in (shared, len(prompt) - self.changed) if length > kept}

    def next_part(self, most: int) -> list[int]:
        """Return the next tokens to evaluate, at most `most`, and not beyond the next mark."""
        done = len(self.ids)
        return self.ahead[: min([most, *(mark - done for mark in self.marks if mark > done)])]


class SequenceEpisodes(Episodes[Draw, Samples]):
    """As many episodes as the decoder has sequences, each with as many cells as a prompt and its answer may take.

    Args:
        prompt: Returns the tokens of a request's prompt; raises InputError where they do not fit in.
    """

    def __init__(self, model: Model, decoder: Decoder, vocabulary: Vocabulary, prompt: Callable[[Draw], list[int]]):
        super().__init__(model, decoder.sequences)
        self._model = model
        self._decoder, self._vocabulary, self._prompt = decoder, vocabulary, prompt
        self._sequences = [_EpisodeTokens() for _ in range(self.n)]
        self._refused: list[tuple[int, Samples]] = []
        self.evaluated = 0  # tokens
        decoder.clear()

    def submit(self, episode: int, request: Draw) -> None:
        if request.n != 1 or request.accept or request.distinct:
            raise ValueError("an episode goes on from one answer")
        try:
            prompt = self._prompt(request)
        except InputError as e:
            self._refused.append((episode, e))
            return
        own = self._sequences[episode]
        shared = min(len(os.path.commonprefix([prompt, own.ids])), len(prompt) - 1)  # the last one's logits are needed
        kept = self._decoder.reach(episode, shared)
        self._decoder.trim(episode, kept)
        own.continue_to(prompt, shared, kept)
        if self._decoder.cuts:
            own.marks.clear()
        own.search = open_search(request, self._vocabulary)

    def wait(self) -> list[tuple[int, Samples]]:
        answers, self._refused = self._refused, []
        items: list[Item] = []
        room = self._decoder.batch
        # Episodes that write an answer come first, one token each; prompts fill up the batch.
        busy = [episode for episode, own in enumerate(self._sequences) if own.search]
        busy.sort(key=lambda episode: len(self._sequences[episode].ahead))
        advanced: list[int] = []
        for episode in busy[: self._decoder.outputs]:
            own = self._sequences[episode]
            part = own.next_part(room)
            last = len(part) - 1 if len(part) == len(own.ahead) else -1  # the token whose logits are needed
            items += [Item(token, len(own.ids) + i, (episode,), i == last) for i, token in enumerate(part)]
            own.ids += part
            del own.ahead[: len(part)]
            if part:
                advanced.append(episode)
            room -= len(part)
        rows = iter(self._decoder.decode(items) if items else [])
        self.evaluated += len(items)
        for episode in advanced:
            own = self._sequences[episode]
            if own.search and not own.ahead:
                (node,) = own.search.frontier()
                own.search.tell(node, next(rows))
                if own.search.done:
                    answers.append((episode, own.search.accepted))
                    own.search = None
                else:
                    own.ahead = [own.search.frontier()[0].token]
        for episode in advanced:  # after the logits were read
            if len(self._sequences[episode].ids) in self._sequences[episode].marks:
                self._decoder.mark(episode)
        return answers

    def close(self) -> None:
        self._model.counts["text tokens evaluated"] += self.evaluated
        self.evaluated = 0
        self._sequences.clear()
        self._decoder.close()


class ThreadedEpisodes(Episodes[Draw, Samples]):
    """Episodes dealt out to several `SequenceEpisodes`, which evaluate at the same time, each on a thread of its own.

    For models so small that threads inside an evaluation would wait for each other longer than they work. All parts
    take each step together, so that the composition of a batch does not depend on time.
    """

    def __init__(self, model: Model, parts: Sequence[SequenceEpisodes]):
        super().__init__(model, sum(part.n for part in parts))
        self._parts = parts
        self._threads = ThreadPoolExecutor(len(parts))

    def submit(self, episode: int, request: Draw) -> None:
        self._parts[episode % len(self._parts)].submit(episode // len(self._parts), request)

    def wait(self) -> list[tuple[int, Samples]]:
        answers = self._threads.map(SequenceEpisodes.wait, self._parts)
        return [(own * len(self._parts) + i, answer) for i, part in enumerate(answers) for own, answer in part]

    def close(self) -> None:
        self._threads.shutdown()
        for part in self._parts:
            part.close()

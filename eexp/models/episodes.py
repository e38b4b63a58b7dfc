"""Episodes in flight on one decoder, each in a sequence of its own, all evaluated in one batch a step.

Here nothing is known of what a chat will ask next (an environment answers first), so there is no tree to walk: every
chat keeps what was evaluated of it, and its next prompt usually goes on from there. Prompts and answers share batches:
no chat waits for another one's prompt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from eexp.errors import InputError
from eexp.models.base import Draw, Episodes, Model, Samples
from eexp.models.drawing import Search, Vocabulary, search
from eexp.models.tree import Decoder, Item


@dataclass(eq=False)
class _Slot:
    """A chat: the tokens that are in memory, those to be evaluated, and the answer being written."""

    ids: list[int] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    search: Search | None = None


class SequenceEpisodes(Episodes):
    """As many chats as the decoder has sequences, each with as many cells as prompt and answer may take.

    prompt: the tokens of a request's prompt; raises InputError where they do not fit in.
    """

    def __init__(self, model: Model, decoder: Decoder, vocabulary: Vocabulary, prompt: Callable[[Draw], list[int]]):
        super().__init__(model, decoder.sequences)
        self._model = model
        self._decoder, self._vocabulary, self._prompt = decoder, vocabulary, prompt
        self._slots = [_Slot() for _ in range(self.n)]
        self._refused: list[tuple[int, Samples]] = []
        self.evaluated = 0  # tokens
        decoder.clear()

    def submit(self, chat: int, request: Draw) -> None:
        if request.n != 1 or request.accept or request.distinct:
            raise ValueError("a chat goes on from one answer")
        try:
            prompt = self._prompt(request)
        except InputError as e:
            self._refused.append((chat, e))
            return
        slot = self._slots[chat]
        keep = min(len(os.path.commonprefix([prompt, slot.ids])), len(prompt) - 1)  # the last one's logits are needed
        self._decoder.trim(chat, keep)
        slot.ids, slot.ahead = prompt[:keep], prompt[keep:]
        slot.search = search(request, self._vocabulary)

    def wait(self) -> list[tuple[int, Samples]]:
        known, self._refused = self._refused, []
        items: list[Item] = []
        room = self._decoder.batch
        # Those that write come first, one token each; prompts fill up the batch.
        busy = sorted((i for i, slot in enumerate(self._slots) if slot.search), key=lambda i: len(self._slots[i].ahead))
        took: list[int] = []
        for i in busy[: self._decoder.outputs]:
            slot = self._slots[i]
            part = slot.ahead[:room]
            last = len(part) == len(slot.ahead)
            items += [Item(token, len(slot.ids) + j, (i,), last and j == len(part) - 1) for j, token in enumerate(part)]
            slot.ids += part
            del slot.ahead[: len(part)]
            if part:
                took.append(i)
            room -= len(part)
        rows = iter(self._decoder.decode(items) if items else [])
        self.evaluated += len(items)
        for i in took:
            slot = self._slots[i]
            if slot.search and not slot.ahead:
                (node,) = slot.search.frontier()
                slot.search.tell(node, next(rows))
                if slot.search.done:
                    known.append((i, slot.search.accepted))
                    slot.search = None
                else:
                    slot.ahead = [slot.search.frontier()[0].token]
        return known

    def close(self) -> None:
        self._model.counts["tokens evaluated"] += self.evaluated
        self.evaluated = 0
        self._slots.clear()
        self._decoder.close()


class ThreadedEpisodes(Episodes):
    """Episodes dealt out to several `SequenceEpisodes`, which evaluate at the same time, each on a thread of its own.

    For models so small that threads inside an evaluation would wait for each other longer than they work. All lanes
    take each step together, so that what shares a batch does not depend on time.
    """

    def __init__(self, model: Model, lanes: Sequence[SequenceEpisodes]):
        super().__init__(model, sum(lane.n for lane in lanes))
        self._lanes = lanes
        self._threads = ThreadPoolExecutor(len(lanes))

    def submit(self, chat: int, request: Draw) -> None:
        self._lanes[chat % len(self._lanes)].submit(chat // len(self._lanes), request)

    def wait(self) -> list[tuple[int, Samples]]:
        known = self._threads.map(SequenceEpisodes.wait, self._lanes)
        return [(place * len(self._lanes) + i, answer) for i, found in enumerate(known) for place, answer in found]

    def close(self) -> None:
        self._threads.shutdown()
        for lane in self._lanes:
            lane.close()

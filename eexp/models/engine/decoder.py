"""Decoders: a model's memory, and the evaluation of tokens in it. Every backend in this process brings one.

- A **cell** is the room of one token: its keys and values in all layers of attention.
- A **sequence** is a list of tokens in memory, numbered from 0. Sequences with the same beginning share its cells.
- **To fork** a sequence is to let an empty one share its beginning; nothing is copied. **To trim** it is to forget its
  end. Cells that no sequence holds any longer are free.
- A **state** is what a recurrent layer (Mamba, gated delta net, short convolution) keeps of all tokens so far, in place
  of cells. No token can be taken out of it again, so a decoder of a model with such layers does not **cut**: it forks a
  sequence at its end alone, where the state is copied, and trims it only to nothing or to a mark.
- A **mark** is a kept copy of the states at one length of a sequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from eexp.models.engine.distribution import Logits

OUTPUT_BYTES = 128 << 20  # of the logits of one batch
STATE_BYTES = 2 << 30  # bytes of memory for the states of all sequences
LEAST_SEQUENCES = 8
MARKS = 8  # Marks of a sequence. Where there are more, the one that saves the fewest tokens is given up.

TOO_SMALL = "the model's memory is too small for one text: give a larger --context"

State = TypeVar("State")


class Item(NamedTuple):
    """A token to evaluate: its position, the sequences it belongs to, and whether its logits are needed."""

    token: int
    position: int
    sequences: Sequence[int]
    needs_logits: bool


class Full(Exception):
    """Error raised when there is no room for a batch; nothing has been evaluated."""


class Decoder(Protocol):
    """A model's memory, and the evaluation of tokens in it."""

    sequences: int  # number of sequences
    cells: int  # number of tokens that fit in; a token that several sequences share counts once
    batch: int  # maximum number of items evaluated at once
    outputs: int  # maximum number of items of a batch whose logits are returned
    step: int  # number of texts that are written side by side most efficiently
    #: Whether a sequence can be forked and trimmed at any of its tokens. If not, no item is of two sequences.
    cuts: bool

    def decode(self, items: Sequence[Item]) -> list[Logits]:
        """Evaluate items, which come in ascending position within each sequence.

        Returns:
            Float32 logits [vocabulary] of each item that is `needs_logits`, in order; read them before the next call.

        Raises:
            Full: There is no room for the items.
        """
        ...

    def fork(self, source: int, target: int, end: int) -> None:
        """Let `target`, which is empty, share the first `end` tokens of `source`."""

    def trim(self, sequence: int, start: int) -> None:
        """Forget the tokens of a sequence from position `start` on, which is one that `reach` returns."""

    def mark(self, sequence: int) -> None:
        """Keep the state at the end of a sequence, so that it can be trimmed to it; nothing to do where it `cuts`."""

    def reach(self, sequence: int, most: int) -> int:
        """Return the largest number of tokens, at most `most`, to which a sequence can be trimmed."""
        ...

    def clear(self) -> None:
        """Forget everything."""

    def close(self) -> None:
        """Free the memory."""


def max_outputs(batch: int, n_vocab: int) -> int:
    """Return the number of items of a batch whose logits may be returned."""
    return max(16, min(batch, OUTPUT_BYTES // (4 * n_vocab)))


def sequences_for(state_bytes: int, most: int) -> int:
    """Return the number of sequences, at most `most`, whose states take no more than STATE_BYTES.

    Args:
        state_bytes: Bytes of the states of one sequence.
    """
    return min(most, max(LEAST_SEQUENCES, STATE_BYTES // max(1, state_bytes)))


class Marks(Generic[State]):
    """The marks of a decoder that does not cut, by sequence and number of tokens."""

    def __init__(self) -> None:
        self._states: defaultdict[int, dict[int, State]] = defaultdict(dict)

    def add(self, sequence: int, length: int, state: State) -> None:
        """Keep the state of a sequence after its first `length` tokens."""
        states = self._states[sequence]
        states[length] = state
        if len(states) > MARKS:
            lengths = sorted(states)
            saved = [length - before for before, length in zip([0, *lengths], lengths)]
            del states[lengths[saved.index(min(saved))]]

    def reach(self, sequence: int, length: int, most: int) -> int:
        """Return the largest number of tokens, at most `most`, at which there is a state.

        Args:
            length: Number of tokens of the sequence; at its end, there is one.
        """
        return length if length <= most else max((n for n in self._states[sequence] if n <= most), default=0)

    def cut(self, sequence: int, length: int) -> State | None:
        """Return the state after the first `length` tokens, None for 0, and forget those of more tokens."""
        states = self._states[sequence]
        for n in [n for n in states if n > length]:
            del states[n]
        return states[length] if length else None

    def clear(self) -> None:
        """Forget all states."""
        self._states.clear()

"""A decoder on models of transformers with recurrent layers, which does not cut: a sequence is a row of the batch.

A recurrent layer reads its row from left to right, so the tokens of different sequences cannot share one, and a row has
no padding: rows with the same number of new tokens are evaluated together. Each sequence has the states of its end,
which two sequences share after a fork until one of them goes on. Keys and values of attention lie in cells that
sequences share (cells.py), and are gathered for each row.

This module loads torch and transformers; import it where they are needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from eexp.errors import EexpError
from eexp.models.backends.cells import NO_GPU_MEMORY, SEQUENCES, Cells, CellsDecoder
from eexp.models.engine.decoder import Item, Marks, sequences_for
from eexp.models.engine.distribution import Logits

States = list[torch.Tensor]  # the states of one sequence, [1, ...] each, in the order of the layers
#: What the logits of a sequence in a batch may differ from those of the text alone, in their standard deviations.
TOLERANCES = {torch.float32: 1e-3}
HALF_TOLERANCE = 0.25


class _RowsCache(Cells):
    """The cells of attention, and the states of recurrent layers for the rows of a forward pass."""

    def __init__(self, model: PreTrainedModel, cells: int):
        super().__init__(cells)
        self._config = model.config
        self._places: list[tuple[int, str, int]] = []  # layer, kind and number of each state; empty before the first
        self.gather: torch.Tensor  # the cells that the attention of each row reads, [rows, cells]

    def begin(self, rows: Sequence[States] | None) -> None:
        """Begin a forward pass with rows that have these states, or with rows that have no tokens (None)."""
        self.layers = DynamicCache(config=self._config).layers
        for (layer, kind, i), states in zip(self._places, zip(*rows or ())):
            place, state = cast(Any, self.layers[layer]), torch.cat(states)  # of a class that has states
            getattr(place, kind)[i] = state
            getattr(place, f"is_{kind}_initialized")[i] = True
            place.has_previous_state[i] = True
            place.dtype, place.device = state.dtype, state.device
            if kind == "conv_states":
                place.conv_kernel_size[i] = state.shape[-1]

    def states(self) -> Iterator[States]:
        """Yield the states of each row after a forward pass."""
        self._places = [
            (layer, kind, i)
            for layer, place in enumerate(self.layers)
            for kind in ("conv_states", "recurrent_states")
            for i, state in getattr(place, kind, {}).items()
            if state is not None
        ]
        all_states = [getattr(self.layers[layer], kind)[i] for layer, kind, i in self._places]
        for row in range(len(all_states[0])):
            yield [state[row : row + 1].clone() for state in all_states]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._gather((layer_idx, "keys"), key_states), self._gather((layer_idx, "values"), value_states)

    def _gather(self, key: tuple[int, str], states: torch.Tensor) -> torch.Tensor:
        """Store keys or values, [rows, heads, tokens, size]; return those that each row reads, [rows, heads, ...]."""
        stored = self._put(key, states.transpose(0, 1).flatten(1, 2)[None])
        return stored[0][:, self.gather].transpose(0, 1)


class RowsDecoder(CellsDecoder):
    """A decoder.Decoder on a causal language model of transformers with recurrent layers.

    Raises:
        EexpError: The GPU has not enough memory.
    """

    cuts = False

    def __init__(self, model: PreTrainedModel, cells: int):
        super().__init__(model, cells)
        self._memory: _RowsCache = _RowsCache(model, cells)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in parameters else "cache_params"
        self._states: dict[int, States] = {}
        self._marks: Marks[States] = Marks()
        self.decode([Item(0, 0, (0,), False)])
        size = sum(state.nbytes for state in self._states[0])
        self.sequences = sequences_for(size, SEQUENCES)
        self.clear()

    @torch.inference_mode()
    def decode(self, items: Sequence[Item]) -> list[Logits]:
        cells = self._claim(items)
        waiting: dict[int, list[int]] = {}  # places in `items`, by sequence
        for place, item in enumerate(items):
            waiting.setdefault(item.sequences[0], []).append(place)
        logits: dict[int, Logits] = {}
        while waiting:
            # Rows without tokens go first, on their own: they have no states to be read.
            rows = [sequence for sequence in waiting if sequence not in self._states] or list(waiting)
            length = min(len(waiting[sequence]) for sequence in rows)
            logits |= self._forward(items, cells, rows, [waiting[sequence][:length] for sequence in rows])
            waiting = {s: rest for s, places in waiting.items() if (rest := places[length * (s in rows) :])}
        return [logits[place] for place, item in enumerate(items) if item.needs_logits]

    def _forward(
        self, items: Sequence[Item], cells: np.ndarray, rows: list[int], places: list[list[int]]
    ) -> dict[int, Logits]:
        """Evaluate the same number of tokens in each row; return the logits of those that need them, by place."""
        known = rows[0] in self._states
        self._memory.begin([self._states[sequence] for sequence in rows] if known else None)
        self._memory.write = self._on_device(cells[np.concatenate(places)])
        read = [np.flatnonzero(self._belongs[sequence]) for sequence in rows]
        gather = np.zeros((len(rows), max(map(len, read))), np.int64)
        own = np.zeros(gather.shape, bool)
        for row, some in enumerate(read):
            gather[row, : len(some)], own[row, : len(some)] = some, True
        self._memory.gather = self._on_device(gather)
        tokens = [[items[place].token for place in some] for some in places]
        positions = np.array([[items[place].position for place in some] for some in places])
        visible = own[:, None] & (self._position[gather][:, None] <= positions[:, :, None])
        kept = [i for i in range(len(places[0])) if any(items[some[i]].needs_logits for some in places)]
        try:
            output = self._model(
                input_ids=self._on_device(tokens),
                position_ids=self._on_device(positions),
                attention_mask=self._masks(visible, positions, self._position[gather]),
                use_cache=True,
                logits_to_keep=self._on_device(np.array(kept, np.int64)),
                **{self._cache_name: self._memory},
            )
        except torch.OutOfMemoryError:
            raise EexpError(NO_GPU_MEMORY) from None
        self._states.update(zip(rows, self._memory.states()))
        values = output.logits.float().cpu().numpy()
        return {some[i]: values[row, column] for row, some in enumerate(places) for column, i in enumerate(kept)}

    def fork(self, source: int, target: int, end: int) -> None:
        super().fork(source, target, end)
        self._states[target] = self._states[source]

    def trim(self, sequence: int, start: int) -> None:
        if start < self._length(sequence):
            states = self._marks.cut(sequence, start)
            if states is None:
                del self._states[sequence]
            else:
                self._states[sequence] = states
        super().trim(sequence, start)

    def mark(self, sequence: int) -> None:
        self._marks.add(sequence, self._length(sequence), self._states[sequence])

    def reach(self, sequence: int, most: int) -> int:
        return self._marks.reach(sequence, self._length(sequence), most)

    def _length(self, sequence: int) -> int:
        return int(self._belongs[sequence].sum())

    def clear(self) -> None:
        super().clear()
        self._states.clear()
        self._marks.clear()

    def close(self) -> None:
        super().close()
        self.clear()


def open_rows(model: PreTrainedModel, cells: int) -> RowsDecoder | None:
    """Return a decoder for a model with recurrent layers; None where its logits are not those of each text alone.

    Each architecture handles its states in code of its own. Some cannot go on from a state by several tokens at once,
    and none says so; hence the trial.
    """
    try:
        decoder = RowsDecoder(model, cells)
        worst = _trial(model, decoder)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
        return None  # its forward pass takes other arguments, or keeps its states elsewhere
    decoder.clear()
    return decoder if worst <= TOLERANCES.get(model.dtype, HALF_TOLERANCE) else None


def _trial(model: PreTrainedModel, decoder: RowsDecoder) -> float:
    """Return how far the logits of forked and trimmed sequences are from those of each text alone.

    Returns:
        The largest difference, in standard deviations of the logits.
    """
    texts: dict[int, list[int]] = {0: [], 1: []}
    vocabulary, worst = model.config.get_text_config().vocab_size, 0.0

    def go_on(**lengths: int) -> None:
        nonlocal worst
        items = []
        for name, length in lengths.items():
            sequence = int(name[1:])
            for i in range(length):
                texts[sequence].append((7 * len(texts[sequence]) + 3 * sequence + 1) % vocabulary)
                items.append(Item(texts[sequence][-1], len(texts[sequence]) - 1, (sequence,), i == length - 1))
        for name, row in zip(lengths, decoder.decode(items)):
            ids = torch.tensor([texts[int(name[1:])]], device=model.device)
            with torch.inference_mode():
                alone = model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu().numpy()
            worst = max(worst, float(np.abs(row - alone).max() / alone.std()))

    go_on(_0=5)
    decoder.mark(0)
    decoder.fork(0, 1, 5)
    texts[1] = list(texts[0])
    go_on(_0=1, _1=4)
    decoder.trim(0, 5)
    del texts[0][5:]
    go_on(_0=3, _1=1)
    return worst

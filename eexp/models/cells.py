"""Many texts in one memory of transformers, as in llama.cpp's unified cache.

A batch of one row holds the tokens of all texts. Their keys and values lie in cells, each of which belongs to any
number of sequences; a mask selects the cells that are each token's past. So texts with the same beginning share its
cells, and branching off or forgetting changes only which cells belong to which sequence. The cost: a token's attention
reads the cells of the other texts as well, and discards them.

This module loads torch and transformers; import it where they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import Cache, PreTrainedModel

from eexp.errors import EexpError
from eexp.models.drawing import Logits
from eexp.models.local import max_outputs
from eexp.models.tree import Full, Item

SEQUENCES = 256
BATCH = 512


class _Cells(Cache):
    """Keys and values of all layers, [1, heads, cells, size] each; they grow with the cells in use, up to `cells`."""

    def __init__(self, cells: int):
        super().__init__(layers=[])
        self._cells = cells
        self._stored: dict[tuple[int, str], torch.Tensor] = {}
        self.write: torch.Tensor  # the cells that the tokens of a forward pass are written to
        self.read: int  # number of cells, from the first, that their attention reads

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._put((layer_idx, "keys"), key_states), self._put((layer_idx, "values"), value_states)

    def _put(self, key: tuple[int, str], states: torch.Tensor) -> torch.Tensor:
        """Store the states of a layer's keys or values, and return all that are read."""
        stored = self._stored.get(key)
        size = 0 if stored is None else stored.shape[2]
        if size < self.read:
            more = states.new_zeros(
                *states.shape[:2], max(self.read, min(2 * size, self._cells)) - size, states.shape[3]
            )
            stored = self._stored[key] = more if stored is None else torch.cat([stored, more], 2)
        assert stored is not None
        stored[:, :, self.write] = states
        return stored[:, :, : self.read]


class CellsDecoder:
    """A tree.Decoder on a causal language model of transformers, possibly with PEFT layers in it."""

    cuts = True

    def __init__(self, model: PreTrainedModel, cells: int):
        self.sequences, self.cells, self.batch = SEQUENCES, cells, min(BATCH, cells)
        self.outputs = max_outputs(self.batch, model.config.get_text_config().vocab_size)
        self.step = self.batch
        self._model, self._memory = model, _Cells(cells)
        self._belongs = np.zeros((self.sequences, cells), bool)
        self._position = np.zeros(cells, np.int64)

    @torch.inference_mode()
    def decode(self, items: Sequence[Item]) -> list[Logits]:
        free = np.flatnonzero(~self._belongs.any(0))[: len(items)]
        if len(free) < len(items):
            raise Full
        tokens, positions, sequences, needs_logits = zip(*items)
        self._position[free] = positions
        for cell, some in zip(free, sequences):
            self._belongs[list(some), cell] = True
        self._memory.read = int(np.flatnonzero(self._belongs.any(0))[-1]) + 1
        self._memory.write = self._on_device(free)
        try:
            logits = self._model(
                input_ids=self._on_device(tokens)[None],
                position_ids=self._on_device(positions)[None],
                attention_mask=self._mask([some[0] for some in sequences], positions),
                past_key_values=self._memory,
                use_cache=True,
                logits_to_keep=self._on_device(np.flatnonzero(needs_logits)),
            ).logits
        except torch.cuda.OutOfMemoryError:
            raise EexpError("the GPU has not enough memory: give a smaller --context") from None
        return list(logits[0].float().cpu().numpy())

    def _mask(self, sequences: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Return what is added to the attention scores of tokens, [1, 1, tokens, cells]: 0 for the cells of their past.

        The mask is additive, since every implementation of attention takes that form.

        Args:
            sequences: One sequence of each token.
            positions: Position of each token.
        """
        read = self._memory.read
        visible = self._belongs[list(sequences), :read] & (self._position[:read] <= np.array(positions)[:, None])
        kind = self._model.dtype
        mask = torch.zeros(visible.shape, dtype=kind, device=self._model.device)
        return mask.masked_fill_(~self._on_device(visible), torch.finfo(kind).min)[None, None]

    def _on_device(self, values: npt.ArrayLike) -> torch.Tensor:
        return torch.as_tensor(values, device=self._model.device)

    def fork(self, source: int, target: int, end: int) -> None:
        self._belongs[target] = self._belongs[source] & (self._position < end)

    def trim(self, sequence: int, start: int) -> None:
        self._belongs[sequence] &= self._position < start

    def mark(self, sequence: int) -> None:
        pass

    def reach(self, sequence: int, most: int) -> int:
        return most

    def clear(self) -> None:
        self._belongs[:] = False

    def close(self) -> None:
        self._memory = _Cells(self.cells)

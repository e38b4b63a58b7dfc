"""A decoder on models of transformers with layers of attention alone, as llama.cpp's unified cache is one.

The tokens of a batch form one row, whatever their sequences. Their keys and values lie in cells, each of which belongs
to any number of sequences; a mask selects the cells that are each token's past. So sequences with the same beginning
share its cells, and to fork or to trim changes only which cells belong to which sequence. The cost: a token's attention
reads the cells of the other sequences as well, and discards them.

This module loads torch and transformers; import it where they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import Cache, PreTrainedModel

from eexp.errors import EexpError
from eexp.models.engine.decoder import Full, Item, max_outputs
from eexp.models.engine.distribution import Logits

SEQUENCES = 256
BATCH = 512
NO_GPU_MEMORY = "the GPU has not enough memory: give a smaller --context"


class Cells(Cache):
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

    def release(self) -> None:
        """Forget all keys and values, and free their memory."""
        self._stored.clear()

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


_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


class Masks:
    """The attention masks of a model, one for each kind of its layers.

    A layer with a window looks back so many tokens only, of its own text: by position, wherever the cells are.
    """

    def __init__(self, model: PreTrainedModel):
        config = model.config.get_text_config()
        self._model = model
        self._windows: dict[str, int] = {kind: getattr(config, name, None) or 0 for kind, name in _WINDOWS.items()}
        kinds = set(getattr(config, "layer_types", None) or ())
        #: The kind of all layers; None where they differ, or where the model asks for masks by kind.
        self._only = next((kind for kind in _WINDOWS if self._windows[kind]), "full_attention") if not kinds else None
        if kinds == {"full_attention"}:
            self._only = "full_attention"
        self._none = bool(kinds) and kinds <= {"linear_attention", "mlp"}
        self._kinds = kinds

    def __call__(
        self, visible: npt.NDArray[np.bool_], positions: npt.NDArray[np.int64], cells: npt.NDArray[np.int64]
    ) -> torch.Tensor | dict[str, torch.Tensor | None] | None:
        """Return what the model takes as its attention mask; None where it has no attention.

        A mask is what is added to the attention scores, [rows, 1, tokens, cells]: 0 for the cells that a token sees. It
        is additive, since every implementation of attention takes that form.

        Args:
            visible: Whether a cell is of the past of a token, [rows, tokens, cells].
            positions: Position of each token, [rows, tokens].
            cells: Position of the token in each cell, [rows, cells].
        """

        def mask(kind: str) -> torch.Tensor:
            seen, size = visible, self._windows.get(kind)
            if size and kind == "sliding_attention":
                seen = seen & (cells[:, None] > positions[:, :, None] - size)
            elif size:
                seen = seen & (cells[:, None] // size == positions[:, :, None] // size)
            hidden = torch.as_tensor(~seen, device=self._model.device)[:, None]
            zeros = torch.zeros(hidden.shape, dtype=self._model.dtype, device=self._model.device)
            return zeros.masked_fill_(hidden, torch.finfo(self._model.dtype).min)

        if self._none:
            return None
        if self._only:
            return mask(self._only)
        attention = {kind: mask(kind) for kind in {"full_attention", *(self._kinds & set(_WINDOWS))}}
        return {**dict.fromkeys(self._kinds | {"linear_attention"}), **attention}


class CellsDecoder:
    """A decoder.Decoder on a causal language model of transformers, possibly with PEFT layers in it."""

    cuts = True

    def __init__(self, model: PreTrainedModel, cells: int):
        self.sequences, self.cells, self.batch = SEQUENCES, cells, min(BATCH, cells)
        self._masks = Masks(model)
        self.outputs = max_outputs(self.batch, model.config.get_text_config().vocab_size)
        self.step = self.batch
        self._model, self._memory = model, Cells(cells)
        self._belongs = np.zeros((self.sequences, cells), bool)
        self._position = np.zeros(cells, np.int64)

    @torch.inference_mode()
    def decode(self, items: Sequence[Item]) -> list[Logits]:
        self._memory.write = self._on_device(self._claim(items))
        tokens, positions, sequences, needs_logits = zip(*items)
        try:
            logits = self._model(
                input_ids=self._on_device(tokens)[None],
                position_ids=self._on_device(positions)[None],
                attention_mask=self._mask([some[0] for some in sequences], positions),
                past_key_values=self._memory,
                use_cache=True,
                logits_to_keep=self._on_device(np.flatnonzero(needs_logits)),
            ).logits
        except torch.OutOfMemoryError:
            raise EexpError(NO_GPU_MEMORY) from None
        return list(logits[0].float().cpu().numpy())

    def _claim(self, items: Sequence[Item]) -> npt.NDArray[np.int64]:
        """Return the cells of new tokens, which then belong to their sequences; raise Full where there are too few."""
        free = np.flatnonzero(~self._belongs.any(0))[: len(items)]
        if len(free) < len(items):
            raise Full
        self._position[free] = [item.position for item in items]
        for cell, item in zip(free, items):
            self._belongs[list(item.sequences), cell] = True
        self._memory.read = int(np.flatnonzero(self._belongs.any(0))[-1]) + 1
        return free

    def _mask(
        self, sequences: Sequence[int], positions: Sequence[int]
    ) -> torch.Tensor | dict[str, torch.Tensor | None] | None:
        """Return the attention mask of tokens."""
        read = self._memory.read
        here, cells = np.array(positions), self._position[:read]
        visible = self._belongs[list(sequences), :read] & (cells <= here[:, None])
        return self._masks(visible[None], here[None], cells[None])

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
        self._memory.release()

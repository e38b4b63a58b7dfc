"""Many texts in one memory of transformers: the logits of each equal those of a forward pass over it alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import transformers

from eexp.errors import EexpError
from eexp.models.backends.cells import CellsDecoder
from eexp.models.backends.hf import open_decoder
from eexp.models.backends.rows import RowsDecoder
from eexp.models.engine.decoder import Full, Item

SMALL = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    initializer_range=0.3,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
CELLS = 64
KINDS = [
    ("Llama", {}),
    ("Qwen2", {}),
    ("Qwen3", {}),
    ("Mistral", {"sliding_window": None}),
    ("Gemma", {}),
    ("Gemma2", {"sliding_window": CELLS}),
    ("Gemma3Text", {"sliding_window": CELLS}),
]
# Layers that look back 6 tokens, some of them or all.
WINDOWS = [
    ("Mistral", {"sliding_window": 6}),
    ("Qwen2", {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1}),
    ("Gemma3Text", {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    ("GptOss", {"sliding_window": 6, "num_local_experts": 4, "num_experts_per_tok": 2}),
]


def a_model(name: str, attention: str = "eager", **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **settings})
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


class Checked:
    """A decoder beside a record of its texts; all its logits are compared."""

    def __init__(self, model, cells: int = CELLS):
        self.model, self.decoder = model, open_decoder(model, "x", cells)
        assert isinstance(self.decoder, CellsDecoder)
        self.texts: dict[int, list[int]] = {}
        self.worst = 0.0

    def write(self, *what: tuple[list[int], list[int]]) -> None:
        """Evaluate (sequences, tokens) together, the last token of each for its logits."""
        items, ends = [], []
        for sequences, tokens in what:
            text = self.texts.get(sequences[0], [])
            items += [Item(t, len(text) + i, sequences, i == len(tokens) - 1) for i, t in enumerate(tokens)]
            for sequence in sequences:
                self.texts[sequence] = [*text, *tokens]
            ends.append([*text, *tokens])
        for row, text in zip(self.decoder.decode(items), ends, strict=True):
            with torch.inference_mode():
                alone = self.model(torch.tensor([text])).logits[0, -1].float().numpy()
            self.worst = max(self.worst, float(np.abs(row - alone).max() / alone.std()))

    def fork(self, source: int, target: int, end: int) -> None:
        self.decoder.fork(source, target, end)
        self.texts[target] = self.texts[source][:end]

    def trim(self, sequence: int, start: int) -> None:
        self.decoder.trim(sequence, start)
        del self.texts[sequence][start:]


@pytest.mark.parametrize(
    ("name", "settings"),
    KINDS + WINDOWS,
    ids=[f"{name}-{settings.get('sliding_window')}" for name, settings in KINDS + WINDOWS],
)
def test_every_text_has_the_logits_that_it_has_alone(name, settings):
    for attention in ("eager",) if name in ("Gemma2", "GptOss") else ("eager", "sdpa"):
        model = a_model(name, attention, **settings)
        checked = Checked(model)
        checked.write(([7], [3, 4, 5]))  # its cells are free again later, in front of all others
        checked.write(([0], list(range(10, 22))))
        checked.fork(0, 1, 5)
        checked.fork(0, 2, 12)
        checked.trim(7, 0)
        checked.write(([1], [30, 31]), ([0], [40]), ([2], [40, 41, 42]))
        checked.trim(0, 8)
        checked.write(([0], [50, 51, 52, 53]), ([1], [54]))
        checked.fork(0, 3, 9)
        checked.fork(0, 4, 9)
        checked.write(([3, 4], [60]))  # a beginning that two share, as in a trie
        checked.write(([3], [61]), ([4], [62]))
        assert checked.worst < 1e-4, attention
        checked.decoder.clear()
        checked.texts.clear()
        checked.write(([5], [8, 9]))
        assert checked.worst < 1e-4


def test_many_texts_come_and_go_in_a_memory_that_does_not_grow():
    chance, checked = random.Random(0), Checked(a_model("Llama", "sdpa"))
    checked.write(([0], [chance.randrange(97) for _ in range(20)]))
    for _ in range(80):
        sequence = chance.randrange(1, 6)
        if checked.texts.get(sequence):
            checked.trim(sequence, 0)
        checked.fork(0, sequence, chance.randint(1, 20))
        try:
            checked.write(([sequence], [chance.randrange(97) for _ in range(chance.randint(1, 9))]))
        except Full:
            checked.texts[sequence] = checked.texts[0][: len(checked.texts[sequence])]
            checked.trim(sequence, 0)
    assert checked.worst < 1e-4
    assert all(tensor.shape[2] <= CELLS for tensor in checked.decoder._memory._stored.values())


def test_full_is_raised_before_anything_is_evaluated():
    checked = Checked(a_model("Llama"), cells=8)
    checked.write(([0], [1, 2, 3, 4, 5]))
    with pytest.raises(Full):
        checked.decoder.decode([Item(6 + i, i, (1,), True) for i in range(4)])
    checked.write(([0], [6, 7, 8]))
    assert checked.worst < 1e-4


STATES = {
    "Qwen3_5Text": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 16},
    "Mamba2": {"num_heads": 8, "n_groups": 2, "state_size": 8},
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
}


@pytest.mark.parametrize("name", STATES)
def test_every_text_has_the_logits_that_it_has_alone_where_layers_have_states(name):
    checked = Checked(a_model(name, "eager", **STATES[name]))
    assert isinstance(checked.decoder, RowsDecoder)
    checked.write(([0], list(range(10, 17))))
    checked.decoder.mark(0)
    checked.fork(0, 1, 7)
    checked.write(([1], [30, 31]), ([0], [40]), ([2], [40, 41, 42]))
    assert [checked.decoder.reach(0, most) for most in (6, 7, 8, 9)] == [0, 7, 8, 8]
    checked.trim(0, 7)
    checked.fork(1, 3, 9)
    checked.write(([0], [50, 51, 52, 53]), ([1], [54]), ([3], [55, 56]), ([4], [57]))
    checked.trim(2, 0)
    checked.write(([2], [8, 9]), ([0], [10]))
    assert checked.worst < 1e-4
    before = dict(checked.texts)
    with pytest.raises(Full):
        checked.decoder.decode([Item(1, i, (5,), True) for i in range(CELLS)])
    assert checked.texts == before
    checked.write(([0], [11]), ([3], [12, 13]))
    checked.decoder.clear()
    checked.texts.clear()
    checked.write(([0], [8, 9]))
    assert checked.worst < 1e-4


def test_models_whose_memory_cannot_be_shared_are_refused():
    """Jamba forgets its state where it goes on by several tokens; RWKV keeps it elsewhere."""
    jamba = a_model("Jamba", num_experts=1, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8)
    rwkv = transformers.RwkvForCausalLM(transformers.RwkvConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2))
    for model, kind in ((jamba, "jamba"), (rwkv, "rwkv")):
        with pytest.raises(EexpError, match=f"x: a {kind} model, which cannot hold several texts in one memory"):
            open_decoder(model, "x", 16)

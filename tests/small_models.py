"""Small models: one with random weights, for tests of losses and gradients, and the built-in one with fewer layers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

VOCABULARY = 40


def small_llama() -> LlamaForCausalLM:
    """Return a Llama of two layers, the same at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


class FirstLayers:
    """The directory of the built-in model with its first two layers alone, which is made when it is first named.

    A run of few updates takes half as long as with all five layers, and all that a run does is done
    for two layers, too.
    """

    def __fspath__(self) -> str:
        directory = Path(os.environ["XDG_CACHE_HOME"]) / "first-layers"  # of all processes that run tests
        if not directory.exists():
            directory.parent.mkdir(exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=directory.parent))
            self._make(made)
            try:
                made.rename(directory)
            except OSError:  # another process was faster
                shutil.rmtree(made)
        return str(directory)

    def __str__(self) -> str:
        return self.__fspath__()

    @staticmethod
    def _make(directory: Path, layers: int = 2) -> None:
        from safetensors.torch import load_file, save_file

        from eexp.records.runs import resolve_base

        shutil.copytree(resolve_base("tiny"), directory, dirs_exist_ok=True)
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
        weights = load_file(directory / "model.safetensors")
        kept = {
            name: weight
            for name, weight in weights.items()
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
        }
        assert len(kept) < len(weights)
        save_file(kept, directory / "model.safetensors", {"format": "pt"})


FIRST_LAYERS = FirstLayers()


def taken_gradient(model: LlamaForCausalLM) -> torch.Tensor:
    """Return the gradient of all weights as one row, and clear it."""
    import torch

    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return gradient

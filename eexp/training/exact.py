"""Checks that a model computes for a tree exactly what it would compute for its rows.

That takes attention that looks only where it is told to, by transformers' interface (attention.py), layers with a state
that can continue from one (recurrence.py), and positions that are given, too. Models known to break it are refused by
name; for causes that are not known, a small tree of the run's own examples is computed both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from eexp.errors import EexpError, UsageError
from eexp.models.backends import hf
from eexp.training import attention, recurrence, trie
from eexp.training.data import Row
from eexp.training.packing import PACKINGS, target_losses

_SEARCHED = 64  # examples among which two that share much are searched
_PROBE = 256  # tokens of an example that is computed both ways
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # kinds of layers, as in configurations
_STATE = {"linear_attention", "conv"}
_BOTH = {"hybrid"}  # attention and a state
_NEITHER = {"moe", "mlp"}
_TOLERANCE = {4: 1e-5, 2: 0.02}  # largest relative difference between the two losses, by the bytes of a number
_GRADIENT_TOLERANCE = {4: 1e-4, 2: 0.2}  # and between the two gradients


def check(model: PreTrainedModel, rows: list[Row], packing: str, dtype: torch.dtype, budget: int) -> None:
    """Raise UsageError for a model that cannot learn `rows`, however they are packed.

    Args:
        packing: "tree" or "none".
        dtype: The type that the run computes in.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False) or _sees_ahead(model, rows, dtype):
        raise UsageError(f"{config.model_type}: its attention is not causal, so completions cannot be learned")
    _check_positions(config.get_text_config(), rows, packing == "none" and budget == 1)


def prepare(model: PreTrainedModel, rows: list[Row], dtype: torch.dtype, budget: int) -> None:
    """Set the model's attention to that of trees. Raises UsageError if the model would not compute trees exactly."""
    kind = model.config.model_type
    longest = max(len(row.ids) for row in rows)
    if obstacle := next(obstacles(model, max(longest, budget), dtype), None):
        raise UsageError(f"{kind}: {obstacle}, so that examples cannot share tokens exactly; give --packing none")
    sample = _probe(rows)
    loss_of_rows, gradient_of_rows = _loss(model, sample, "none", dtype)
    attention.register()
    recurrence.install(hf.base_model(model))
    if _has_attention(hf.base_model(model)):
        model.set_attn_implementation(attention.TREE)
    try:
        loss_of_tree, gradient_of_tree = _loss(model, sample, "tree", dtype)
    except (EexpError, TypeError) as e:  # TypeError: from a model that refuses arguments that it does not know
        reason = str(e).splitlines()[0]
        raise UsageError(f"{kind}: computes no trees ({reason}); give --packing none") from None
    error = abs(loss_of_rows - loss_of_tree) / loss_of_rows
    if not error <= _TOLERANCE[dtype.itemsize]:
        raise UsageError(
            f"{kind}: its loss changes where examples share a prefix (by {error:.1g}); give --packing none"
        )
    error = float((gradient_of_rows - gradient_of_tree).norm() / gradient_of_rows.norm())
    if not error <= _GRADIENT_TOLERANCE[dtype.itemsize]:
        raise UsageError(
            f"{kind}: its gradient changes where examples share a prefix (by {error:.1g}); give --packing none"
        )


def obstacles(model: PreTrainedModel, largest: int, dtype: torch.dtype) -> Iterator[str]:
    """Yield the known reasons why a model cannot compute trees exactly.

    Args:
        largest: Tokens of the largest tree.
    """
    inner = hf.base_model(model)
    config = inner.config.get_text_config()
    if unknown := _unknown_layers(inner, dtype):
        yield f"has {unknown}"
    if _has_attention(inner) and not inner._can_set_attn_implementation():
        yield "its attention does not go through the interface of transformers"
    if getattr(config, "attn_temperature_tuning", False) and largest >= getattr(config, "floor_scale", 0):
        yield f"it counts a pass's tokens from 0 to scale its attention, and a pass may have {largest}"
    for name, value in _random_settings(inner, config):
        yield f"it is trained with {name} {value:g}"


def _layer_types(model: PreTrainedModel) -> list[str]:
    """Return the kind of each layer, in transformers' words; attention where a configuration does not say."""
    config = model.config.get_text_config()
    return getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers


def _has_attention(model: PreTrainedModel) -> bool:
    return not set(_layer_types(model)) <= _STATE | _NEITHER


def _unknown_layers(model: PreTrainedModel, dtype: torch.dtype) -> str | None:
    """Return, in words, the layers that are neither attention by positions nor have a state that can be continued."""
    types = _layer_types(model)
    layers = [layer for layer, _ in recurrence.layers_with_state(model).values()]
    if unknown := set(types) - _ATTENTION - _STATE - _BOTH - _NEITHER:
        return f"layers of {', '.join(sorted(unknown))}"
    known = {getattr(layer, "layer_idx", None) for layer in layers}
    if hidden := {kind for n, kind in enumerate(types) if kind in _STATE | _BOTH and n not in known}:
        return f"layers of {', '.join(sorted(hidden))} whose state is not at hand"
    if getattr(model, "_is_stateful", False) and not layers:
        return "layers with a state"
    if names := recurrence.not_continued(model, model.config.get_text_config().hidden_size, dtype):
        return f"layers ({', '.join(names)}) that do not continue from a state"
    return None


def _sees_ahead(model: PreTrainedModel, rows: list[Row], dtype: torch.dtype) -> bool:
    """Return whether a later token changes what is predicted before it; configurations do not reliably say."""
    ids = list(rows[0].ids[:16])
    other = next((token for row in rows for token in row.ids if token != ids[-1]), 0)
    with evaluation_mode(model, dtype):
        logits, changed = (
            model(torch.tensor([text], device=model.device), use_cache=False).logits[0, :-1].float()
            for text in (ids, [*ids[:-1], other])
        )
    return bool((logits - changed).norm() > _TOLERANCE[dtype.itemsize] * logits.norm())


def _probe(rows: list[Row]) -> list[Row]:
    """Return short rows to compute both ways; all of their tokens are targets.

    They are two examples of one trajectory, where these part, and one that parts from them earlier.
    """
    group = sorted([row.ids for row in rows if row.group == rows[0].group][:_SEARCHED])
    a, b = max(pairwise(group), key=lambda pair: trie.shared_length(*pair), default=(group[0], group[0]))
    common = trie.shared_length(a, b)
    start = max(0, common - _PROBE // 2)
    texts = [a[start : common + _PROBE // 2], b[start : common + _PROBE // 2]]
    longest = max(map(len, texts))
    texts.append((texts[0][: max(1, (common - start) // 2)] + texts[1][-_PROBE // 8 :])[:longest])
    return [Row(text, 1, weight) for text, weight in zip(texts, (1.0, 0.5, 2.0), strict=True) if len(text) > 1]


def _loss(model: PreTrainedModel, rows: list[Row], packing: str, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
    """Return the weighted sum of the losses of rows in one pass, and its gradient for the embeddings.

    The latter is summed over all tokens, [width], so that it does not depend on how they are packed. Each position has
    a factor of its own, since what softmax gives to all keys of a query adds up to 0.
    """
    outputs: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        outputs.append(output if output.requires_grad else output.requires_grad_())

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with evaluation_mode(model, dtype), torch.enable_grad():
            part = PACKINGS[packing].part(rows, model.device)
            loss = (part.weights * target_losses(model, part)).sum()
            (gradient,) = torch.autograd.grad(loss, outputs[:1])
    finally:
        hook.remove()
    columns = torch.arange(gradient.shape[1], device=gradient.device)
    factors = part.inputs.get("position_ids", columns).cos()
    return float(loss.detach()), (gradient.float() * factors[..., None]).sum((0, 1))


@contextmanager
def evaluation_mode(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Compute as in training, but without gradients and without anything random, within the block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, dtype, enabled=dtype.itemsize < 4):
            yield
    finally:
        model.train(training)


def _check_positions(config: PreTrainedConfig, rows: list[Row], alone: bool) -> None:
    """Raise UsageError if a position means something else beside a longer row.

    LongRoPE and dynamic NTK look at the longest text that is computed at once.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes] if "rope_type" in ropes else ropes.values():
        border = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        lengths = {len(row.ids) > border for row in rows}  # whether there are long rows, and short ones
        if rope.get("rope_type") == "dynamic" and True in lengths:  # it also keeps the longest text so far
            advice = f"--max-length {border}"
        elif rope.get("rope_type") == "longrope" and len(lengths) > 1 and not alone:
            advice = f"--packing none --tokens-per-batch 1, or --max-length {border}"
        else:
            continue
        raise UsageError(
            f"{config.model_type}: encodes positions in another way beyond {border} tokens, so that longer and "
            f"shorter examples cannot be computed together; give {advice}"
        )


def _random_settings(model: torch.nn.Module, config: PreTrainedConfig) -> Iterator[tuple[str, float]]:
    """Yield the dropout and jitter settings in use, whose numbers are drawn for every token while training.

    Those of heads for classification and summaries are left out: they are not trained.
    """
    for name, value in config.to_dict().items():
        is_random = ("drop" in name or "jitter" in name) and not name.startswith(("classifier", "summary"))
        if is_random and isinstance(value, float) and value > 0:
            yield name, value
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and module.p > 0:
            yield ("lora_dropout" if "lora" in name else "dropout"), module.p

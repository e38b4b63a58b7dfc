"""For which models a tree gives exactly what its rows would.

That takes attention that looks only where it is told to, by transformers' interface, and positions that are told, too.
What is known to break it is refused by name; for what nobody thought of, a small tree of the run's own examples is
computed both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from eexp.errors import EexpError, UsageError
from eexp.models import hf
from eexp.training import attention, trie
from eexp.training.data import Row
from eexp.training.packing import PACKINGS, target_losses

_SEARCHED = 64  # examples, for those that have much in common
_PROBE = 256  # tokens of an example that is computed both ways
_OFF = {4: 1e-5, 2: 0.02}  # how far the two may be from each other, relatively, by the bytes of a number


def check(model: Any, rows: list[Row], packing: str, dtype: Any, budget: int) -> None:
    """Raises UsageError for a model that cannot learn `rows` in passes of up to `budget` tokens, however packed."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False) or _sees_ahead(model, rows, dtype):
        raise UsageError(f"{config.model_type}: its tokens see what comes after them, so it cannot learn to write")
    _check_positions(config.get_text_config(), rows, packing == "none" and budget == 1)


def prepare(model: Any, rows: list[Row], dtype: Any, budget: int) -> None:
    """Set the model's attention to trees. Raises UsageError where that would not be exact.

    dtype: what the run computes in. budget: tokens of a pass.
    """
    kind = model.config.model_type
    longest = max(len(row.ids) for row in rows)
    if why := next(obstacles(model, longest, max(longest, budget)), None):
        raise UsageError(f"{kind}: {why}, so that examples cannot share tokens exactly; give --packing none")
    sample = _probe(rows)
    alone = _loss(model, sample, "none", dtype)
    attention.register()
    model.set_attn_implementation(attention.TREE)
    try:
        together = _loss(model, sample, "tree", dtype)
    except (EexpError, TypeError) as e:  # TypeError: of a model that takes no argument that it does not know
        why = str(e).splitlines()[0]
        raise UsageError(f"{kind}: computes no trees ({why}); give --packing none") from None
    apart = abs(alone - together) / alone
    if not apart <= _OFF[dtype.itemsize]:
        raise UsageError(f"{kind}: computes a tree otherwise than its rows (off by {apart:.1g}); give --packing none")


def obstacles(model: Any, longest: int, largest: int) -> Iterator[str]:
    """What keeps a model from computing trees of `largest` tokens, of rows of up to `longest`."""
    inner = hf.base_model(model)
    config = inner.config.get_text_config()
    if unknown := hf.unknown_layers(inner):
        yield f"has {unknown}, which a tree does not know"
    if not getattr(inner, "_supports_attention_backend", False):
        yield "its attention does not go through the interface of transformers"
    window = hf.attention_window(config)
    if window and window < longest:
        yield f"its attention reaches back {window} tokens, and the longest example has {longest}"
    if getattr(config, "attn_temperature_tuning", False) and largest >= getattr(config, "floor_scale", 0):
        yield f"it counts a pass's tokens from 0 to scale its attention, and a pass may have {largest}"
    for name, value in _random_parts(inner, config):
        yield f"it is trained with {name} {value:g}"


def _sees_ahead(model: Any, rows: list[Row], dtype: Any) -> bool:
    """Whether what comes after a token changes what is predicted from it; configurations do not reliably tell."""
    import torch

    ids = list(rows[0].ids[:16])
    other = next((token for row in rows for token in row.ids if token != ids[-1]), 0)
    with evaluating(model, dtype):
        one, two = (
            model(torch.tensor([text], device=model.device), use_cache=False).logits[0, :-1].float()
            for text in (ids, [*ids[:-1], other])
        )
    return bool((one - two).norm() > _OFF[dtype.itemsize] * one.norm())


def _probe(rows: list[Row]) -> list[Row]:
    """Two examples of one trajectory where they part, and one that parts from them earlier; all of it to predict."""
    group = sorted([row.ids for row in rows if row.group == rows[0].group][:_SEARCHED])
    a, b = max(pairwise(group), key=lambda pair: trie.shared(*pair), default=(group[0], group[0]))
    common = trie.shared(a, b)
    start = max(0, common - _PROBE // 2)
    texts = [a[start : common + _PROBE // 2], b[start : common + _PROBE // 2]]
    longest = max(map(len, texts))
    texts.append((texts[0][: max(1, (common - start) // 2)] + texts[1][-_PROBE // 8 :])[:longest])
    return [Row(text, 1, weight) for text, weight in zip(texts, (1.0, 0.5, 2.0), strict=True) if len(text) > 1]


def _loss(model: Any, rows: list[Row], packing: str, dtype: Any) -> float:
    with evaluating(model, dtype):
        part = PACKINGS[packing].part(rows, model.device)
        return float((part.weights * target_losses(model, part)).sum())


@contextmanager
def evaluating(model: Any, dtype: Any) -> Iterator[None]:
    """As in training, but without gradients or anything random."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, dtype, enabled=dtype.itemsize < 4):
            yield
    finally:
        model.train(training)


def _check_positions(config: Any, rows: list[Row], alone: bool) -> None:
    """Raises UsageError where a position means something else beside a longer row: LongRoPE and dynamic NTK look at the
    longest text that is computed at once. alone: whether every row is computed by itself."""
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes] if "rope_type" in ropes else ropes.values():
        border = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        long = {len(row.ids) > border for row in rows}
        if rope.get("rope_type") == "dynamic" and True in long:  # it remembers the longest text so far, too
            way = f"--max-length {border}"
        elif rope.get("rope_type") == "longrope" and len(long) > 1 and not alone:
            way = f"--packing none --tokens-per-batch 1, or --max-length {border}"
        else:
            continue
        raise UsageError(
            f"{config.model_type}: reads positions otherwise beyond {border} tokens, so that longer and "
            f"shorter examples cannot be computed together; give {way}"
        )


def _random_parts(model: Any, config: Any) -> Iterator[tuple[str, float]]:
    """What is drawn anew at every token while training; of heads for other tasks nothing."""
    import torch

    for name, value in config.to_dict().items():
        drawn = ("drop" in name or "jitter" in name) and not name.startswith(("classifier", "summary"))
        if drawn and isinstance(value, float) and value > 0:
            yield name, value
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and module.p > 0:
            yield ("lora_dropout" if "lora" in name else "dropout"), module.p

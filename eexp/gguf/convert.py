"""Write a fine-tuned model, or a LoRA adapter alone, as GGUF for llama.cpp: Llama, Qwen2, Qwen3, Qwen3.5 and LFM2.

Nothing here needs torch: safetensors is a JSON header and raw numbers, so one tensor is in memory at a time.

The rule throughout is exact or refused. llama.cpp ignores keys and tensors that it does not know, so a file that loads
may still compute something else: every tensor must have a place and the expected shape, the tokenizer must split text
in one of the ways that llama.cpp has built in, and an adapter must be a plain low-rank update. An error says in one
line what does not fit and, where there is a remedy, which.

Two things are not exact, and known: llama.cpp does no Unicode normalisation, so under tokenizers that require NFC
(Qwen's) text that is not NFC gets other tokens; and values are rounded to the `dtype` asked for.

llama.cpp's own converter (convert_hf_to_gguf.py and convert_lora_to_gguf.py) is in the source archive of
llama-cpp-python 0.3.36 and in no wheel, and needs torch, transformers and sentencepiece. Both wrote the same bits for
all tensors of four small Llama and Qwen models, the built-in model and four LoRA adapters, once the check of its
tokenizer was patched out: it knows tokenizers by a hash of their tokens, and refuses all others, the built-in model's
included. It ignores rsLoRA and alpha_pattern, so that such an adapter is applied with the wrong strength, and names no
token that ends a turn. For a Qwen2 model of 179 million parameters as f16 it took 3.7 s of CPU time and 301 MB, this
module 1.7 s and 89 MB.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eexp.errors import EexpError
from eexp.gguf.file import Checkpoint, PlannedTensor, add_metadata, quantise, read_json, replacing, write_gguf
from eexp.gguf.tokenizer import add_vocabulary, read_vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["DTYPES", "export_adapter", "export_model"]

FLOAT_DTYPES = ("f32", "f16", "bf16")
QUANTISED_DTYPES = ("q8_0", "q4_k_m")
DTYPES = FLOAT_DTYPES + QUANTISED_DTYPES

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3_5ForCausalLM": "qwen35",
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Lfm2ForCausalLM": "lfm2",
}
#: Parts of a model of images and text that a model of text is without, as transformers loads it too.
_NOT_TEXT = ("model.visual.", "mtp.")
_RECURRENT = {"qwen35": "linear_attention", "lfm2": "conv"}  # layers that are not attention, by architecture
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def export_model(
    source_dir: str | Path, output: str | Path, *, dtype: str = "f16", metadata: dict[str, str] | None = None
) -> dict:
    """Write the model in `source_dir` (config.json, *.safetensors, tokenizer.json) as one GGUF file.

    Args:
        output: The GGUF file, which appears whole or not at all.
        dtype: f32, f16, bf16, q8_0 or q4_k_m; norms and biases stay f32. The last two are quantised by llama.cpp's own
            quantiser, from a temporary file beside `output` in the precision of the weights.
        metadata: Further string keys, such as `eexp.prompt_style`.

    Returns:
        `architecture`, `tensors` (their number), `bytes` (the file's size) and `dtype`.

    Raises:
        EexpError: A file is missing or damaged, or llama.cpp would not compute or tokenize as the source does.
    """
    source, output = Path(source_dir), Path(output)
    _check_dtype(dtype, DTYPES)
    if not (source / "config.json").is_file() and (source / "adapter_config.json").is_file():
        raise EexpError(f"{source}: this is an adapter, not a whole model; export it as an adapter")
    model = _read_shape(source)
    weights = Checkpoint.of_model(source)
    plan = _plan_model(model, weights)
    vocabulary = read_vocabulary(source, model.vocab, model.config)

    def add_header(writer: GGUFWriter) -> None:
        writer.add_type("model")
        add_metadata(writer, metadata)
        _add_shape(writer, model)
        add_vocabulary(writer, vocabulary)

    with replacing(output) as temporary:
        if dtype in FLOAT_DTYPES:
            write_gguf(temporary, model.arch, dtype, add_header, plan)
        else:
            with replacing(temporary, keep=False) as unquantised:
                write_gguf(unquantised, model.arch, weights.own_dtype(), add_header, plan)
                quantise(unquantised, temporary, dtype)
    return _summary(output, model.arch, len(plan), dtype)


def export_adapter(
    adapter_dir: str | Path,
    output: str | Path,
    *,
    base_dir: str | Path | None = None,
    dtype: str = "f16",
    metadata: dict[str, str] | None = None,
) -> dict:
    """Write a PEFT LoRA adapter (adapter_config.json, adapter_model.safetensors) as a GGUF adapter.

    llama.cpp scales each update by alpha / rank, with one alpha a file. Other scales (rsLoRA's alpha / sqrt(rank),
    alpha_pattern) are multiplied into lora_B.

    Args:
        output: The GGUF file, which appears whole or not at all.
        base_dir: Directory with the base model's config.json, which gives the architecture and the sizes; by default
            the adapter's base_model_name_or_path, if that is a local directory.
        dtype: f32, f16 or bf16.
        metadata: Further string keys.

    Returns:
        `architecture`, `tensors` (their number), `bytes` (the file's size) and `dtype`.

    Raises:
        EexpError: The adapter is more than a low-rank update (DoRA, modules_to_save, biases, trained tokens,
            initialisations such as PiSSA that change the base), or does not fit the base; or a file is missing or
            damaged.
    """
    source, output = Path(adapter_dir), Path(output)
    _check_dtype(dtype, FLOAT_DTYPES)
    config = read_json(source / "adapter_config.json")
    _refuse_unsupported_adapter(source, config)
    base = Path(base_dir) if base_dir is not None else Path(config.get("base_model_name_or_path") or "")
    if base_dir is None and not (base.name and base.is_dir()):
        raise EexpError(f"{source}: its base model {str(base)!r} is not a local directory; say where it is")
    model = _read_shape(base)
    plan, alpha = _plan_adapter(source, config, model, base)

    def add_header(writer: GGUFWriter) -> None:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        add_metadata(writer, metadata)

    with replacing(output) as temporary:
        write_gguf(temporary, model.arch, dtype, add_header, plan)
    return _summary(output, model.arch, len(plan), dtype)


def _check_dtype(dtype: str, allowed: tuple[str, ...]) -> None:
    if dtype not in allowed:
        raise EexpError(f"unknown dtype {dtype!r}; it can be {', '.join(allowed)}")


def _summary(output: Path, arch: str, tensors: int, dtype: str) -> dict:
    return {"architecture": arch, "tensors": tensors, "bytes": output.stat().st_size, "dtype": dtype}


# --- the model's shape ---


@dataclass(frozen=True)
class _Linear:
    """A linear layer: its GGUF name, its shape [out, inp], and the order of its rows and columns in the file."""

    name: str
    out: int
    inp: int
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None


@dataclass(frozen=True)
class _Other:
    """A tensor of a block that is no linear layer: its GGUF name, its shape in the checkpoint, and its conversion."""

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Shape:
    """The sizes and settings of a model, from its config.json."""

    where: Path
    arch: str
    config: dict
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    rope: dict
    recurrent: frozenset[int] = frozenset()  # the layers that are not attention

    def linears(self, layer: int) -> dict[str, _Linear]:
        """Return every linear layer of a block, by its module name inside the block."""
        up, down = (self.ffn, self.hidden), (self.hidden, self.ffn)
        if self.arch == "lfm2":
            mlp = {f"feed_forward.{n}": name for n, name in (("w1", "ffn_gate"), ("w3", "ffn_up"), ("w2", "ffn_down"))}
        else:
            mlp = {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
        mixer = self._attention() if layer not in self.recurrent else self._recurrent_linears()
        return mixer | {module: _Linear(name, *(down if name == "ffn_down" else up)) for module, name in mlp.items()}

    def _attention(self) -> dict[str, _Linear]:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        gated = 2 if self.arch == "qwen35" else 1  # each head's query, then its gate
        # llama.cpp's `llama` rotates neighbouring rows; all others and transformers rotate the halves of a head.
        order = _rotary_order if self.arch == "llama" else lambda size, heads: None
        output = "self_attn.out_proj" if self.arch == "lfm2" else "self_attn.o_proj"
        return {
            "self_attn.q_proj": _Linear("attn_q", gated * q, self.hidden, order(q, self.heads)),
            "self_attn.k_proj": _Linear("attn_k", kv, self.hidden, order(kv, self.kv_heads)),
            "self_attn.v_proj": _Linear("attn_v", kv, self.hidden),
            output: _Linear("attn_output", self.hidden, q),
        }

    def _recurrent_linears(self) -> dict[str, _Linear]:
        hidden = self.hidden
        if self.arch == "lfm2":
            return {
                "conv.in_proj": _Linear("shortconv.in_proj", 3 * hidden, hidden),
                "conv.out_proj": _Linear("shortconv.out_proj", hidden, hidden),
            }
        keys, values, size = self._delta_net()
        heads, rows = self._value_order(1), self._value_order(size)
        return {
            "linear_attn.in_proj_qkv": _Linear("attn_qkv", (2 * keys + values) * size, hidden, self._mixed_order()),
            "linear_attn.in_proj_z": _Linear("attn_gate", values * size, hidden, rows),
            "linear_attn.in_proj_a": _Linear("ssm_alpha", values, hidden, heads),
            "linear_attn.in_proj_b": _Linear("ssm_beta", values, hidden, heads),
            "linear_attn.out_proj": _Linear("ssm_out", hidden, values * size, columns=rows),
        }

    def _delta_net(self) -> tuple[int, int, int]:
        """Return the numbers of key heads and of value heads of a gated delta net, and the size of a head."""
        config = self.config
        return config["linear_num_key_heads"], config["linear_num_value_heads"], config["linear_key_head_dim"]

    def _value_order(self, size: int) -> np.ndarray:
        """Return the order of the rows of value heads, `size` each.

        transformers has the value heads of a key head together. In llama.cpp, value head i belongs to key head i modulo
        their number.
        """
        keys, values, _ = self._delta_net()
        return np.arange(values * size).reshape(keys, values // keys, size).swapaxes(0, 1).reshape(-1)

    def _mixed_order(self) -> np.ndarray:
        """Return the order of the rows of queries, keys and values together."""
        keys, _, size = self._delta_net()
        queries_and_keys = np.arange(2 * keys * size)
        return np.concatenate([queries_and_keys, len(queries_and_keys) + self._value_order(size)])

    def has_bias(self, module: str) -> bool:
        """Return whether a linear layer has a bias."""
        projection = module.rpartition(".")[2]
        if self.arch == "qwen2":
            return projection in _ATTENTION[:3]
        flag = "attention_bias" if projection in _ATTENTION else "mlp_bias"
        return self.arch == "llama" and bool(self.config.get(flag))

    def others(self, layer: int) -> dict[str, _Other]:
        """Return every tensor of a block that belongs to no linear layer, by its name inside the block."""
        norms = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
        head_norms: dict[str, str] = {}
        if self.arch == "qwen35":
            norms["post_attention_layernorm"] = "post_attention_norm"
        if self.arch == "lfm2":
            norms = {"operator_norm": "attn_norm", "ffn_norm": "ffn_norm"}
            head_norms = {f"self_attn.{x}_layernorm": f"attn_{x}_norm" for x in "qk"}
        elif self.arch in ("qwen3", "qwen35"):
            head_norms = {f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"}
        tensors = {f"{k}.weight": _Other(f"{v}.weight", (self.hidden,), self.norm) for k, v in norms.items()}
        if layer in self.recurrent:
            return tensors | self._recurrent_tensors()
        return tensors | {
            f"{k}.weight": _Other(f"{v}.weight", (self.head_dim,), self.norm) for k, v in head_norms.items()
        }

    def norm(self, weight: np.ndarray) -> np.ndarray:
        """Return the factors of a norm, which Qwen3.5 stores less 1."""
        return weight + np.float32(1) if self.arch == "qwen35" else weight

    def _recurrent_tensors(self) -> dict[str, _Other]:
        if self.arch == "lfm2":
            kernel = (self.hidden, 1, self.config["conv_L_cache"])
            return {"conv.conv.weight": _Other("shortconv.conv.weight", kernel, lambda values: values.squeeze(1))}
        _, values, size = self._delta_net()
        heads, mixed = self._value_order(1), self._mixed_order()
        kernel = (len(mixed), 1, self.config["linear_conv_kernel_dim"])
        return {
            "linear_attn.conv1d.weight": _Other("ssm_conv1d.weight", kernel, lambda rows: rows.squeeze(1)[mixed]),
            "linear_attn.A_log": _Other("ssm_a", (values,), lambda logs: -np.exp(logs[heads])),
            "linear_attn.dt_bias": _Other("ssm_dt.bias", (values,), lambda biases: biases[heads]),
            "linear_attn.norm.weight": _Other("ssm_norm.weight", (size,), _unchanged),
        }


def _read_shape(where: Path) -> _Shape:
    config = read_json(where / "config.json")
    name = (config.get("architectures") or ["no architecture"])[0]
    if name == "Qwen3_5ForConditionalGeneration":
        config = {**config.get("text_config", {}), **config}
    if name not in _ARCHITECTURES:
        raise EexpError(f"{where}: {name} can not be exported; supported: {', '.join(_ARCHITECTURES)}")
    if config.get("quantization_config"):
        raise EexpError(f"{where}: the weights are quantised; export from the unquantised model")
    if config.get("hidden_act", "silu") != "silu":
        raise EexpError(f"{where}: hidden_act is {config['hidden_act']!r}; llama.cpp computes silu")
    arch = _ARCHITECTURES[name]
    if arch == "qwen3" and config.get("attention_bias"):
        raise EexpError(f"{where}: llama.cpp's qwen3 has no place for attention biases")
    layer_types = config.get("layer_types") or []
    recurrent = frozenset(i for i, kind in enumerate(layer_types) if kind == _RECURRENT.get(arch))
    if _slides({**config, "layer_types": [kind for i, kind in enumerate(layer_types) if i not in recurrent]}):
        raise EexpError(f"{where}: it has a sliding attention window, which llama.cpp's {arch} has not")
    if arch in _RECURRENT:
        _check_recurrent(where, arch, config)
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        usual = {"qwen3": 128, "qwen35": 256}
        head_dim = config.get("head_dim") or usual.get(arch) or hidden // heads
        return _Shape(
            where=where,
            arch=arch,
            config=config,
            layers=config["num_hidden_layers"],
            hidden=hidden,
            ffn=_lfm2_ffn(config) if arch == "lfm2" else config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
            tied=bool(config.get("tie_word_embeddings", config.get("tie_embedding", False))),
            rope=_read_rope(where, arch, config),
            recurrent=recurrent,
        )
    except KeyError as error:
        raise EexpError(f"{where}/config.json: {error.args[0]} is missing") from error


def _check_recurrent(where: Path, arch: str, config: dict) -> None:
    """Raise EexpError for a hybrid model that llama.cpp computes otherwise."""
    if not config.get("layer_types"):
        raise EexpError(f"{where}/config.json: layer_types is missing; save the model anew with transformers 5")
    for setting in ("attention_bias", "conv_bias"):
        if config.get(setting):
            raise EexpError(f"{where}: llama.cpp's {arch} has no place for the biases of {setting}")
    if arch == "qwen35" and config["linear_key_head_dim"] != config["linear_value_head_dim"]:
        raise EexpError(f"{where}: llama.cpp's {arch} has keys and values of one size")


def _lfm2_ffn(config: dict) -> int:
    """Return the width of LFM2's feed-forward layers, which its configuration gives before a correction."""
    width = config.get("block_ff_dim") or config["intermediate_size"]
    if config.get("block_auto_adjust_ff_dim", True):
        width = int((config.get("block_ffn_dim_multiplier") or 1.0) * int(2 * width / 3))
        multiple = config.get("block_multiple_of", 256)
        width = -(-width // multiple) * multiple
    return width


def _slides(config: dict) -> bool:
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    above = config.get("max_window_layers", 28) < config.get("num_hidden_layers", 0)
    return bool(config.get("use_sliding_window") and config.get("sliding_window") and above)


def _read_rope(where: Path, arch: str, config: dict) -> dict:
    """Return the rope parameters in one form (transformers 4: rope_theta and rope_scaling, 5: rope_parameters)."""
    rope = {"rope_theta": config.get("rope_theta", 1000000.0 if arch == "lfm2" else 10000.0)}
    rope |= config.get("rope_scaling") or {}
    rope |= config.get("rope_parameters") or {}
    kind = rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    original = config.get("original_max_position_embeddings", config["max_position_embeddings"])
    rope.setdefault("original_max_position_embeddings", original)
    supported = ("default",)
    if arch not in _RECURRENT:
        supported += ("linear", "yarn") + (("llama3",) if arch == "llama" else ())
    if kind not in supported:
        raise EexpError(f"{where}: rope scaling {kind!r} is not in llama.cpp's {arch} ({', '.join(supported)})")
    rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 0.25 if arch == "qwen35" else 1.0))
    if arch != "qwen35" and rope["partial_rotary_factor"] != 1.0:
        raise EexpError(f"{where}: llama.cpp's {arch} rotates whole heads (partial_rotary_factor is not 1)")
    needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    for name in needed.get(kind, ()):
        rope[name] = float(rope[name])
    if kind == "yarn":
        rope["factor"] = rope.get("factor") or config["max_position_embeddings"] / original
        usual = 0.1 * math.log(rope["factor"]) + 1.0
        own = rope.get("mscale") and rope.get("mscale_all_dim")
        own = own or not math.isclose(rope.get("attention_factor") or usual, usual)
        if own or not rope.get("truncate", True):
            raise EexpError(f"{where}: yarn with an attention factor or without truncation is not supported")
    return rope


def _llama3_rope_factors(model: _Shape) -> np.ndarray:
    """Return the divisors of the rotary frequencies in llama.cpp: 1 for short waves, `factor` for long ones."""
    rope = model.rope
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    frequency = rope["rope_theta"] ** -(np.arange(0, model.head_dim, 2, dtype=np.float64) / model.head_dim)
    # Number of waves in the context of the original training.
    waves = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    blend = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)


def _add_shape(writer: GGUFWriter, model: _Shape) -> None:
    writer.add_vocab_size(model.vocab)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    if model.arch == "lfm2":  # says by it which layers are convolutions
        writer.add_head_count_kv([0 if layer in model.recurrent else model.kv_heads for layer in range(model.layers)])
    else:
        writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    eps = model.config.get("norm_eps", 1e-5) if model.arch == "lfm2" else model.config.get("rms_norm_eps", 1e-6)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_rope_dimension_count(int(model.head_dim * model.rope["partial_rotary_factor"]))
    writer.add_rope_freq_base(float(model.rope["rope_theta"]))
    kind = model.rope["rope_type"]
    if kind in ("linear", "yarn"):
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(model.rope["factor"]))
    if model.arch == "lfm2":
        writer.add_shortconv_l_cache(model.config["conv_L_cache"])
    if model.arch == "qwen35":
        _add_delta_net(writer, model)
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(model.rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(float(model.rope.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(model.rope.get("beta_slow") or 1))


def _add_delta_net(writer: GGUFWriter, model: _Shape) -> None:
    config = model.config
    values, size = config["linear_num_value_heads"], config["linear_value_head_dim"]
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(values)
    writer.add_ssm_inner_size(values * size)
    writer.add_array(f"{model.arch}.attention.recurrent_layers", [i in model.recurrent for i in range(model.layers)])
    # How the rotary frequencies are dealt out to the three coordinates of an image; those of text are all the same.
    writer.add_rope_dimension_sections([*model.rope.get("mrope_section", (11, 11, 10)), 0])


# --- tensors ---


def _rotary_order(size: int, heads: int) -> np.ndarray:
    """Return the order of rows that interleaves, within each head, the first half of the rows with the second."""
    return np.arange(size).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def _ordered(values: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None = None) -> np.ndarray:
    """Return a vector or matrix with its rows and columns in this order; None keeps theirs."""
    values = values if rows is None else values[rows]
    return values if columns is None else values[:, columns]


def _plan_model(model: _Shape, weights: Checkpoint) -> list[PlannedTensor]:
    plan: list[PlannedTensor] = []
    # Old Llama checkpoints hold the rotary frequencies, and some tied ones a second copy of the embedding.
    unused = {name for name in weights.tensors if name.endswith(".rotary_emb.inv_freq")}
    if model.tied and "lm_head.weight" in weights.tensors:
        if not np.array_equal(weights.read("lm_head.weight"), weights.read("model.embed_tokens.weight")):
            raise EexpError(f"{model.where}: tie_word_embeddings is set, but lm_head.weight differs")
        unused.add("lm_head.weight")
    remaining = {name for name in weights.tensors if not name.startswith(_NOT_TEXT)} - unused

    def take(source: str, name: str, shape: tuple[int, ...], convert: Callable[[np.ndarray], np.ndarray]) -> None:
        if source not in weights.tensors:
            raise EexpError(f"{model.where}: {source} is missing from the weights")
        if weights.tensors[source].shape != shape:
            stored = list(weights.tensors[source].shape)
            raise EexpError(f"{model.where}: {source} is {stored}, config.json says {list(shape)}")
        remaining.discard(source)
        # The kernel of a convolution, [channels, 1, width], loses its second axis.
        stored_shape = (shape[0], *shape[2:]) if len(shape) == 3 else shape
        plan.append(PlannedTensor(name, stored_shape, lambda: convert(weights.read(source)), exact=len(shape) == 3))

    table = (model.vocab, model.hidden)
    take("model.embed_tokens.weight", "token_embd.weight", table, _unchanged)
    if model.arch == "lfm2":
        take("model.embedding_norm.weight", "token_embd_norm.weight", (model.hidden,), _unchanged)
    else:
        take("model.norm.weight", "output_norm.weight", (model.hidden,), model.norm)
    if not model.tied:
        take("lm_head.weight", "output.weight", table, _unchanged)
    if model.rope["rope_type"] == "llama3":
        plan.append(PlannedTensor("rope_freqs.weight", (model.head_dim // 2,), lambda: _llama3_rope_factors(model)))
    for layer in range(model.layers):
        source, target = f"model.layers.{layer}", f"blk.{layer}"
        for module, other in model.others(layer).items():
            take(f"{source}.{module}", f"{target}.{other.name}", other.shape, other.convert)
        for module, part in model.linears(layer).items():
            name, shape = f"{target}.{part.name}", (part.out, part.inp)
            order = partial(_ordered, rows=part.rows, columns=part.columns)
            take(f"{source}.{module}.weight", f"{name}.weight", shape, order)
            if model.has_bias(module):
                take(f"{source}.{module}.bias", f"{name}.bias", (part.out,), partial(_ordered, rows=part.rows))
    if remaining:
        raise EexpError(f"{model.where}: llama.cpp's {model.arch} has no place for {min(remaining)}")
    return plan


# --- adapters ---

# Settings of PEFT that make an adapter more than alpha / rank * B @ A on the linear layers.
_NOT_PLAIN_LORA = (
    *("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("fan_in_fan_out", "lora_bias", "alora_invocation_tokens", "use_qalora", "use_bdlora"),
    *("arrow_config", "kasa_config", "monteclora_config"),
)
# The other initialisations (PiSSA, OLoRA, CorDA, LoftQ, ...) change the base weights.
_INITS_THAT_KEEP_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
_WAY_OUT = "merge it into the base (merge_and_unload) and export the whole model"
_LORA_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")


def _refuse_unsupported_adapter(where: Path, config: dict) -> None:
    if config.get("peft_type") != "LORA":
        raise EexpError(f"{where}: a {config.get('peft_type')} adapter; llama.cpp loads LoRA alone")
    for setting in _NOT_PLAIN_LORA:
        if config.get(setting):
            raise EexpError(f"{where}: a GGUF adapter has no place for {setting}; {_WAY_OUT}")
    if config.get("bias", "none") != "none":
        raise EexpError(f"{where}: a GGUF adapter has no place for bias={config['bias']!r}; {_WAY_OUT}")
    if config.get("init_lora_weights", True) not in _INITS_THAT_KEEP_THE_BASE:
        raise EexpError(f"{where}: init_lora_weights={config['init_lora_weights']!r} changes the base; {_WAY_OUT}")


def _plan_adapter(where: Path, config: dict, model: _Shape, base: Path) -> tuple[list[PlannedTensor], float]:
    """Return the tensors to write, and the file's alpha."""
    if not (where / "adapter_model.safetensors").is_file():
        raise EexpError(f"{where}: no adapter_model.safetensors; save the adapter with save_pretrained")
    weights = Checkpoint(where, [where / "adapter_model.safetensors"])
    modules: dict[str, dict[str, str]] = {}
    for key in weights.tensors:
        match = _LORA_KEY.fullmatch(key)
        if match:
            modules.setdefault(match[1], {})[match[2]] = key
        elif not _equals_base(weights, key, base):
            raise EexpError(f"{where}: a GGUF adapter has no place for the whole tensor {key}; {_WAY_OUT}")
    if not modules:
        raise EexpError(f"{where}: the adapter has no LoRA tensors")
    rank = config.get("r", 8)
    # llama.cpp reads alpha 0 as "do not scale", so the file never says 0.
    alpha = config.get("lora_alpha", 8) * (math.sqrt(rank) if config.get("use_rslora") else 1.0) or 1.0
    plan: list[PlannedTensor] = []
    for module, keys in modules.items():
        if set(keys) != {"A", "B"}:
            raise EexpError(f"{where}: {module} has only one of lora_A and lora_B")
        plan += _plan_update(model, weights, module, keys, config, alpha)
    return plan, alpha


def _plan_update(
    model: _Shape, weights: Checkpoint, module: str, keys: dict[str, str], config: dict, alpha: float
) -> list[PlannedTensor]:
    where = weights.where
    part = _find_linear(where, model, module)
    shape_a, shape_b = weights.tensors[keys["A"]].shape, weights.tensors[keys["B"]].shape
    rank = shape_a[0]
    if shape_a != (rank, part.inp) or shape_b != (part.out, rank):
        update = f"{list(shape_b)} x {list(shape_a)}"
        raise EexpError(
            f"{where}: {module} is [{part.out}, {part.inp}] in {model.where}, its update {update}; "
            "is that the model it was trained on?"
        )
    fold = _peft_scale(config, module, rank) / (alpha / rank)

    def read_b() -> np.ndarray:
        rows = _ordered(weights.read(keys["B"]), part.rows)
        return rows if fold == 1.0 else rows * np.float32(fold)

    def read_a() -> np.ndarray:
        return weights.read(keys["A"]).T if by_row else _ordered(weights.read(keys["A"]), None, part.columns)

    by_row = part.name == "token_embd"  # looked up, not multiplied
    return [
        PlannedTensor(f"{part.name}.weight.lora_a", shape_a[::-1] if by_row else shape_a, read_a),
        PlannedTensor(f"{part.name}.weight.lora_b", shape_b, read_b),
    ]


def _find_linear(where: Path, model: _Shape, module: str) -> _Linear:
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    linears = model.linears(int(match[1])) if match and int(match[1]) < model.layers else {}
    if match and match[2] in linears:
        part = linears[match[2]]
        return replace(part, name=f"blk.{match[1]}.{part.name}")
    ends = {
        "lm_head": _Linear("output", model.vocab, model.hidden),
        "model.embed_tokens": _Linear("token_embd", model.hidden, model.vocab),
    }
    if module not in ends:
        raise EexpError(f"{where}: it updates {module}, which {model.where} does not have in llama.cpp")
    if model.tied:  # one tensor in the file, so the update of one would be applied to both
        raise EexpError(f"{where}: it updates {module}, which the base shares with its other end; {_WAY_OUT}")
    return ends[module]


def _peft_scale(config: dict, module: str, rank: int) -> float:
    """Return the factor by which PEFT multiplies B @ A of `module`."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _equals_base(weights: Checkpoint, key: str, base: Path) -> bool:
    """Return whether a whole tensor, such as PEFT saves beside an update of the embedding, is a copy of the base's."""
    name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
    with contextlib.suppress(EexpError):
        original = Checkpoint.of_model(base)
        return name in original.tensors and np.array_equal(weights.read(key), original.read(name))
    return False

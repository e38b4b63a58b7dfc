"""Write a fine-tuned model, or a LoRA adapter alone, as GGUF for llama.cpp: Llama, Qwen2 and Qwen3.

Nothing here needs torch: safetensors is a JSON header and raw numbers, so one tensor is in memory at a time.

The rule throughout is exact or refused. llama.cpp ignores what it does not know, so a file that loads may
still compute something else: every tensor must have a place and the expected shape, the tokenizer must cut
text in one of the ways llama.cpp has built in, an adapter must be a plain low-rank update. What does not fit
is one line that says what and, where there is a way out, which.

Not exact, and known: llama.cpp does no Unicode normalisation, so under tokenizers that ask for NFC (Qwen's)
text that is not NFC already gets other tokens; and values are rounded to the `dtype` asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eexp.errors import EexpError

FLOAT_DTYPES = ("f32", "f16", "bf16")
QUANTISED_DTYPES = ("q8_0", "q4_k_m")
DTYPES = FLOAT_DTYPES + QUANTISED_DTYPES

_ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def export_model(
    source_dir: str | Path, output: str | Path, *, dtype: str = "f16", metadata: dict[str, str] | None = None
) -> dict:
    """Write the model in `source_dir` (config.json, *.safetensors, tokenizer.json) as one GGUF file.

    `dtype` is f32, f16, bf16, q8_0 or q4_k_m; norms and biases stay f32. The quantised ones go through
    llama.cpp's own quantiser, from a temporary file beside `output` in the weights' own precision. `output`
    appears whole or not at all. `metadata` holds further string keys, such as `eexp.prompt_style`.

    Returns architecture, tensors (how many), bytes (file size) and dtype.

    Raises EexpError, in one line, when a file is missing or damaged or when llama.cpp would not compute or
    tokenize what the source does.
    """
    source, output = Path(source_dir), Path(output)
    _check_dtype(dtype, DTYPES)
    if not (source / "config.json").is_file() and (source / "adapter_config.json").is_file():
        raise EexpError(f"{source}: this is an adapter, not a whole model; export it as an adapter")
    model = _read_shape(source)
    weights = _Checkpoint.of_model(source)
    plan = _plan_model(model, weights)
    vocabulary = _read_vocabulary(source, model)

    def add_header(writer) -> None:
        writer.add_type("model")
        _add_metadata(writer, metadata)
        _add_shape(writer, model)
        _add_vocabulary(writer, vocabulary)

    with _replacing(output) as temporary:
        if dtype in FLOAT_DTYPES:
            _write(temporary, model.arch, dtype, add_header, plan)
        else:
            with _replacing(temporary, keep=False) as unquantised:
                _write(unquantised, model.arch, weights.own_dtype(), add_header, plan)
                _quantise(unquantised, temporary, dtype)
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

    `base_dir` holds the base model's config.json, which gives the architecture and the sizes; without it,
    base_model_name_or_path of the adapter is used when it is a local directory. `dtype` is f32, f16 or bf16.

    llama.cpp scales each update by alpha / rank, with one alpha a file. What differs from that (rsLoRA's
    alpha / sqrt(rank), alpha_pattern) is multiplied into lora_B.

    Returns architecture, tensors (how many), bytes (file size) and dtype.

    Raises EexpError, in one line, for an adapter that is more than a low-rank update (DoRA, modules_to_save,
    biases, trained tokens, starts such as PiSSA that change the base), that does not fit the base, or whose
    files are missing or damaged.
    """
    source, output = Path(adapter_dir), Path(output)
    _check_dtype(dtype, FLOAT_DTYPES)
    config = _read_json(source / "adapter_config.json")
    _refuse_unsupported_adapter(source, config)
    base = Path(base_dir) if base_dir is not None else Path(config.get("base_model_name_or_path") or "")
    if base_dir is None and not (base.name and base.is_dir()):
        raise EexpError(f"{source}: its base model {str(base)!r} is not a local directory; say where it is")
    model = _read_shape(base)
    plan, alpha = _plan_adapter(source, config, model, base)

    def add_header(writer) -> None:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        _add_metadata(writer, metadata)

    with _replacing(output) as temporary:
        _write(temporary, model.arch, dtype, add_header, plan)
    return _summary(output, model.arch, len(plan), dtype)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The string values of a GGUF file under `eexp.*`, `general.architecture` and `general.type`.

    Walks the key-value header alone (arrays are stepped over, no tensor is touched).

    Raises EexpError when `path` cannot be read or is not a little-endian GGUF file of version 2 or 3.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _walk_header(data)
    except (struct.error, KeyError, ValueError) as error:  # mmap of an empty file is a ValueError
        raise EexpError(f"{path}: not a GGUF file, or a damaged one") from error
    except OSError as error:
        raise EexpError(f"{path}: {error.strerror}") from error


_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


def _walk_header(data: mmap.mmap) -> dict[str, str]:
    u32, u64 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    magic, version, _, pairs = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError
    at, found = 24, {}

    def string() -> str:
        nonlocal at
        (length,) = u64(data, at)
        at += 8 + length
        if at > len(data):
            raise ValueError
        return data[at - length : at].decode("utf-8")

    for _ in range(pairs):
        key = string()
        (kind,) = u32(data, at)
        at += 4
        if kind == _GGUF_STRING:
            if key.startswith("eexp.") or key in ("general.architecture", "general.type"):
                found[key] = string()
            else:
                at += 8 + u64(data, at)[0]
        elif kind == _GGUF_ARRAY:
            inner, count = struct.unpack_from("<IQ", data, at)
            at += 12
            if inner == _GGUF_STRING:
                for _ in range(count):  # the slow place: a Qwen vocabulary has 300,000 lengths to step over
                    at += 8 + u64(data, at)[0]
            else:
                at += count * _GGUF_SIZES[inner]
        else:
            at += _GGUF_SIZES[kind]
    return found


# --- the model's shape ---


@dataclass(frozen=True)
class _Linear:
    """A linear layer: its GGUF name, its shape [out, inp], and the heads whose rows are to be reordered."""

    name: str
    out: int
    inp: int
    heads: int = 0


@dataclass(frozen=True)
class _Shape:
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

    def linears(self) -> dict[str, _Linear]:
        """Every linear layer of a block, by its module name inside the block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        # llama.cpp's `llama` rotates neighbouring rows, its `qwen` and transformers the halves of a head.
        reorder = int(self.arch == "llama")
        return {
            "self_attn.q_proj": _Linear("attn_q", q, self.hidden, reorder * self.heads),
            "self_attn.k_proj": _Linear("attn_k", kv, self.hidden, reorder * self.kv_heads),
            "self_attn.v_proj": _Linear("attn_v", kv, self.hidden),
            "self_attn.o_proj": _Linear("attn_output", self.hidden, q),
            "mlp.gate_proj": _Linear("ffn_gate", self.ffn, self.hidden),
            "mlp.up_proj": _Linear("ffn_up", self.ffn, self.hidden),
            "mlp.down_proj": _Linear("ffn_down", self.hidden, self.ffn),
        }

    def has_bias(self, module: str) -> bool:
        projection = module.rpartition(".")[2]
        if self.arch == "qwen2":
            return projection in _ATTENTION[:3]
        flag = "attention_bias" if projection in _ATTENTION else "mlp_bias"
        return self.arch == "llama" and bool(self.config.get(flag))

    def norms(self) -> dict[str, tuple[str, int]]:
        heads = {f"self_attn.{x}_norm": (f"attn_{x}_norm", self.head_dim) for x in "qk"}
        block = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
        return {k: (v, self.hidden) for k, v in block.items()} | (heads if self.arch == "qwen3" else {})


def _read_shape(where: Path) -> _Shape:
    config = _read_json(where / "config.json")
    name = (config.get("architectures") or ["no architecture"])[0]
    if name not in _ARCHITECTURES:
        raise EexpError(f"{where}: {name} can not be exported; supported: {', '.join(_ARCHITECTURES)}")
    if config.get("quantization_config"):
        raise EexpError(f"{where}: the weights are quantised; export from the unquantised model")
    if config.get("hidden_act", "silu") != "silu":
        raise EexpError(f"{where}: hidden_act is {config['hidden_act']!r}; llama.cpp computes silu")
    arch = _ARCHITECTURES[name]
    if arch == "qwen3" and config.get("attention_bias"):
        raise EexpError(f"{where}: llama.cpp's qwen3 has no place for attention biases")
    if _slides(config):
        raise EexpError(f"{where}: it has a sliding attention window, which llama.cpp's {arch} has not")
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or (128 if arch == "qwen3" else hidden // heads)
        return _Shape(
            where=where,
            arch=arch,
            config=config,
            layers=config["num_hidden_layers"],
            hidden=hidden,
            ffn=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
            tied=bool(config.get("tie_word_embeddings", False)),
            rope=_read_rope(where, arch, config),
        )
    except KeyError as error:
        raise EexpError(f"{where}/config.json: {error.args[0]} is missing") from error


def _slides(config: dict) -> bool:
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    above = config.get("max_window_layers", 28) < config.get("num_hidden_layers", 0)
    return bool(config.get("use_sliding_window") and config.get("sliding_window") and above)


def _read_rope(where: Path, arch: str, config: dict) -> dict:
    """Rope parameters in one form (transformers 4: rope_theta and rope_scaling, 5: rope_parameters)."""
    rope = {"rope_theta": config.get("rope_theta", 10000.0)}
    rope |= config.get("rope_scaling") or {}
    rope |= config.get("rope_parameters") or {}
    kind = rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    original = config.get("original_max_position_embeddings", config["max_position_embeddings"])
    rope.setdefault("original_max_position_embeddings", original)
    supported = ("default", "linear", "yarn") + (("llama3",) if arch == "llama" else ())
    if kind not in supported:
        raise EexpError(
            f"{where}: rope scaling {kind!r} is not in llama.cpp's {arch} ({', '.join(supported)})"
        )
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
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
    """What llama.cpp divides each rotary frequency by: 1 for the short waves, `factor` for the long ones."""
    rope = model.rope
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    frequency = rope["rope_theta"] ** -(np.arange(0, model.head_dim, 2, dtype=np.float64) / model.head_dim)
    # How many waves fit in the context of the first training.
    waves = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    blend = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)


def _add_shape(writer, model: _Shape) -> None:
    writer.add_vocab_size(model.vocab)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_rms_eps(model.config.get("rms_norm_eps", 1e-6))
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(float(model.rope["rope_theta"]))
    kind = model.rope["rope_type"]
    if kind in ("linear", "yarn"):
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(model.rope["factor"]))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(model.rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(float(model.rope.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(model.rope.get("beta_slow") or 1))


# --- tensors ---


@dataclass(frozen=True)
class _Stored:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Checkpoint:
    """Tensors of one or several safetensors files, read one at a time as float32."""

    def __init__(self, where: Path, files: list[Path]):
        self.where = where
        self.tensors: dict[str, _Stored] = {}
        for file in files:
            self.tensors |= _read_safetensors_header(file)

    @classmethod
    def of_model(cls, where: Path) -> _Checkpoint:
        index = where / "model.safetensors.index.json"
        if (where / "model.safetensors").is_file():
            return cls(where, [where / "model.safetensors"])
        if index.is_file():
            return cls(
                where, [where / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
            )
        raise EexpError(f"{where}: no model.safetensors; save the model with save_pretrained")

    def own_dtype(self) -> str:
        """The narrowest GGUF type that holds every tensor exactly."""
        kinds = {stored.dtype for stored in self.tensors.values()}
        return {frozenset({"BF16"}): "bf16", frozenset({"F16"}): "f16"}.get(frozenset(kinds), "f32")

    def read(self, name: str) -> np.ndarray:
        stored = self.tensors[name]
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[stored.dtype]
        flat = np.fromfile(stored.file, kind, math.prod(stored.shape), offset=stored.offset)
        if stored.dtype == "BF16":  # numpy has no bfloat16; it is the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.astype(np.float32, copy=False).reshape(stored.shape)


def _read_safetensors_header(file: Path) -> dict[str, _Stored]:
    found = {}
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            size = os.fstat(stream.fileno()).st_size
            header = json.loads(stream.read(min(length, size)))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if 8 + length + end > size:
                raise ValueError("cut short")
            if entry["dtype"] not in ("F32", "F16", "BF16"):
                raise EexpError(f"{file}: {name} is stored as {entry['dtype']}, not as F32, F16 or BF16")
            found[name] = _Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + length + begin)
    except (struct.error, ValueError, KeyError, AttributeError) as error:
        raise EexpError(f"{file}: not a safetensors file, or a damaged one") from error
    except OSError as error:
        raise EexpError(f"{file}: {error.strerror}") from error
    return found


@dataclass(frozen=True)
class _Planned:
    """A tensor to write: name and shape in the file, and how to get it, as float32, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def _reorder_rotary(rows: np.ndarray, heads: int) -> np.ndarray:
    """Within each head, interleave the first half of the rows with the second. 0 heads: leave them."""
    if not heads:
        return rows
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _plan_model(model: _Shape, weights: _Checkpoint) -> list[_Planned]:
    plan: list[_Planned] = []
    # Old Llama checkpoints carry the rotary frequencies, and some tied ones a second copy of the embedding.
    unused = {name for name in weights.tensors if name.endswith(".rotary_emb.inv_freq")}
    if model.tied and "lm_head.weight" in weights.tensors:
        if not np.array_equal(weights.read("lm_head.weight"), weights.read("model.embed_tokens.weight")):
            raise EexpError(f"{model.where}: tie_word_embeddings is set, but lm_head.weight differs")
        unused.add("lm_head.weight")
    left = set(weights.tensors) - unused

    def take(source: str, name: str, *shape: int, heads: int = 0) -> None:
        if source not in weights.tensors:
            raise EexpError(f"{model.where}: {source} is missing from the weights")
        if weights.tensors[source].shape != shape:
            stored = list(weights.tensors[source].shape)
            raise EexpError(f"{model.where}: {source} is {stored}, config.json says {list(shape)}")
        left.discard(source)
        plan.append(_Planned(name, shape, lambda: _reorder_rotary(weights.read(source), heads)))

    take("model.embed_tokens.weight", "token_embd.weight", model.vocab, model.hidden)
    take("model.norm.weight", "output_norm.weight", model.hidden)
    if not model.tied:
        take("lm_head.weight", "output.weight", model.vocab, model.hidden)
    if model.rope["rope_type"] == "llama3":
        plan.append(
            _Planned("rope_freqs.weight", (model.head_dim // 2,), lambda: _llama3_rope_factors(model))
        )
    for layer in range(model.layers):
        source, target = f"model.layers.{layer}", f"blk.{layer}"
        for module, (name, size) in model.norms().items():
            take(f"{source}.{module}.weight", f"{target}.{name}.weight", size)
        for module, part in model.linears().items():
            take(
                f"{source}.{module}.weight",
                f"{target}.{part.name}.weight",
                part.out,
                part.inp,
                heads=part.heads,
            )
            if model.has_bias(module):
                take(f"{source}.{module}.bias", f"{target}.{part.name}.bias", part.out, heads=part.heads)
    if left:
        raise EexpError(f"{model.where}: llama.cpp's {model.arch} has no place for {min(left)}")
    return plan


def _write(
    path: Path, arch: str, dtype: str, add_header: Callable[[object], None], plan: list[_Planned]
) -> None:
    import gguf

    kinds = gguf.GGMLQuantizationType
    wide = {"f32": kinds.F32, "f16": kinds.F16, "bf16": kinds.BF16}[dtype]
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}[dtype]
    writer = gguf.GGUFWriter(path, arch)
    try:
        add_header(writer)
        writer.add_file_type(int(gguf.LlamaFileType[file_type]))
        # llama.cpp adds biases and normalises in float32.
        stored = [wide if len(tensor.shape) > 1 else kinds.F32 for tensor in plan]
        for tensor, kind in zip(plan, stored, strict=True):
            size = math.prod(tensor.shape) * (4 if kind == kinds.F32 else 2)
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(plan, stored, strict=True):
            values = np.ascontiguousarray(tensor.read(), dtype=np.float32)
            if kind == kinds.F16 and max(values.max(), -values.min()) > np.finfo(np.float16).max:
                raise EexpError(f"{tensor.name} has values too large for f16; export as bf16 or f32")
            writer.write_tensor_data(gguf.quants.quantize(values, kind))
    finally:
        writer.close()


# --- adapters ---

# Settings of PEFT that make an adapter more than alpha / rank * B @ A on the linear layers.
_NOT_PLAIN_LORA = (
    *("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("fan_in_fan_out", "lora_bias", "alora_invocation_tokens", "use_qalora", "use_bdlora"),
    *("arrow_config", "kasa_config", "monteclora_config"),
)
# The other starts (PiSSA, OLoRA, CorDA, LoftQ, ...) change the base weights the adapter is added to.
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
        raise EexpError(
            f"{where}: init_lora_weights={config['init_lora_weights']!r} changes the base; {_WAY_OUT}"
        )


def _plan_adapter(where: Path, config: dict, model: _Shape, base: Path) -> tuple[list[_Planned], float]:
    """The tensors to write, and the file's alpha."""
    if not (where / "adapter_model.safetensors").is_file():
        raise EexpError(f"{where}: no adapter_model.safetensors; save the adapter with save_pretrained")
    weights = _Checkpoint(where, [where / "adapter_model.safetensors"])
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
    plan: list[_Planned] = []
    for module, keys in modules.items():
        if set(keys) != {"A", "B"}:
            raise EexpError(f"{where}: {module} has only one of lora_A and lora_B")
        plan += _plan_update(model, weights, module, keys, config, alpha)
    return plan, alpha


def _plan_update(
    model: _Shape, weights: _Checkpoint, module: str, keys: dict[str, str], config: dict, alpha: float
) -> list[_Planned]:
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
        rows = _reorder_rotary(weights.read(keys["B"]), part.heads)
        return rows if fold == 1.0 else rows * np.float32(fold)

    def read_a() -> np.ndarray:
        return weights.read(keys["A"]).T if by_row else weights.read(keys["A"])

    by_row = part.name == "token_embd"  # looked up, not multiplied
    return [
        _Planned(f"{part.name}.weight.lora_a", shape_a[::-1] if by_row else shape_a, read_a),
        _Planned(f"{part.name}.weight.lora_b", shape_b, read_b),
    ]


def _find_linear(where: Path, model: _Shape, module: str) -> _Linear:
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if match and int(match[1]) < model.layers and match[2] in model.linears():
        part = model.linears()[match[2]]
        return _Linear(f"blk.{match[1]}.{part.name}", part.out, part.inp, part.heads)
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
    """What PEFT multiplies B @ A of `module` by."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _equals_base(weights: _Checkpoint, key: str, base: Path) -> bool:
    """Is this whole tensor, such as PEFT saves beside an update of the embedding, a copy of the base's?"""
    name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
    with contextlib.suppress(EexpError):
        original = _Checkpoint.of_model(base)
        return name in original.tensors and np.array_equal(weights.read(key), original.read(name))
    return False


# --- the tokenizer ---

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# (how text is cut into words, whether a word in the vocabulary skips the merges): llama.cpp's name for it.
_PRE_TOKENIZERS = {
    (("bytes", True), False): "gpt-2",
    (("digits", "bytes", True), False): "smollm",
    ((f"{_CONTRACTIONS}|{_WORDS}|" + r"\p{N}{1,3}|" + _REST, "bytes", False), True): "llama-bpe",
    ((f"{_CONTRACTIONS}|{_WORDS}|" + r"\p{N}{1,3}|" + _REST, "bytes", False), False): "dbrx",
    ((f"{_CONTRACTIONS}|{_WORDS}|" + r"\p{N}|" + _REST, "bytes", False), False): "qwen2",
}
# Two spellings of "every match is a word", for expressions that match everything.
_SPLITS = (("Isolated", False), ("Removed", True))


@dataclass(frozen=True)
class _Vocabulary:
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]  # bos, eos, eot, pad, unk: those there are
    add_bos: bool
    add_eos: bool
    chat_template: str | list[dict] | None


def _read_vocabulary(where: Path, model: _Shape) -> _Vocabulary:
    if not (where / "tokenizer.json").is_file():
        raise EexpError(f"{where}: no tokenizer.json; save the fast tokenizer with save_pretrained")
    tokenizer = _read_json(where / "tokenizer.json")
    settings = _read_json(where / "tokenizer_config.json", missing={})
    _refuse_unsupported_tokenizer(where, tokenizer)
    tokens, types = _read_tokens(where, tokenizer, model.vocab)
    by_text = {token: number for number, token in enumerate(tokens)}
    template = _read_chat_template(where, settings)
    ids = _read_special_ids(where, settings, model.config, tokenizer, by_text)
    special = {tokens[number] for number, kind in enumerate(types) if kind == 3}
    texts = {name: tokens[number] for name, number in ids.items()}
    end = _end_of_turn(template, special, texts)
    if end is not None and by_text[end] != ids.get("eos"):
        ids["eot"] = by_text[end]
    add_bos, add_eos = _adds_specials(settings, tokenizer, texts)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    pre = _find_pre_tokenizer(where, tokenizer)
    return _Vocabulary(pre, tokens, types, merges, ids, add_bos, add_eos, template)


def _refuse_unsupported_tokenizer(where: Path, tokenizer: dict) -> None:
    model = tokenizer.get("model") or {}
    if model.get("byte_fallback") or model.get("type") == "Unigram":
        raise EexpError(f"{where}: its tokenizer is SentencePiece's; only byte-level BPE can be exported")
    if model.get("type") != "BPE":
        raise EexpError(f"{where}: its tokenizer is {model.get('type')}; only byte-level BPE can be exported")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"):
        raise EexpError(f"{where}: its BPE marks subwords or drops merges, which llama.cpp does not do")
    normalizer = (tokenizer.get("normalizer") or {"type": "NFC"})["type"]
    if normalizer != "NFC":
        raise EexpError(f"{where}: its tokenizer normalises text ({normalizer}), which llama.cpp does not do")
    for token in tokenizer.get("added_tokens", []):
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                raise EexpError(
                    f"{where}: its token {token['content']!r} is {flag}, which llama.cpp does not do"
                )


def _find_pre_tokenizer(where: Path, tokenizer: dict) -> str:
    node = tokenizer.get("pre_tokenizer") or {}
    steps = node.get("pretokenizers", []) if node.get("type") == "Sequence" else [node]
    key: list[object] = []
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space"):
            key += ["bytes", step.get("use_regex", True)]
        elif kind == "Digits" and step.get("individual_digits"):
            key.append("digits")
        elif kind == "Split" and (step["behavior"], step["invert"]) in _SPLITS:
            key.append(step["pattern"].get("Regex"))
        else:
            key.append(kind)
    pre = _PRE_TOKENIZERS.get((tuple(key), bool(tokenizer["model"].get("ignore_merges"))))
    if pre is None:
        names = ", ".join(dict.fromkeys(_PRE_TOKENIZERS.values()))
        raise EexpError(f"{where}: its pre-tokenizer is none of those known to this exporter ({names})")
    return pre


def _read_tokens(where: Path, tokenizer: dict, size: int) -> tuple[list[str], list[int]]:
    """Texts and GGUF types (1 normal, 3 control, 4 user-defined, 5 unused) of the embedding's `size` rows."""
    # Models pad their embedding to a round number of rows; llama.cpp wants a text of its own for each.
    tokens, types = [f"[PAD{number}]" for number in range(size)], [5] * size
    entries = [(number, text, 1) for text, number in tokenizer["model"]["vocab"].items()]
    added = tokenizer.get("added_tokens", [])
    entries += [(x["id"], x["content"], 3 if x.get("special") else 4) for x in added]
    for number, text, kind in entries:
        if number >= size:
            raise EexpError(f"{where}: token {text!r} is number {number}; the embedding has {size} rows")
        tokens[number], types[number] = text, kind
    if len(set(tokens)) != size:
        raise EexpError(f"{where}: the tokenizer has {Counter(tokens).most_common(1)[0][0]!r} twice")
    return tokens, types


def _read_special_ids(
    where: Path, settings: dict, config: dict, tokenizer: dict, by_text: dict[str, int]
) -> dict[str, int]:
    generation = _read_json(where / "generation_config.json", missing={})
    ids = {}
    for name in ("bos", "eos", "pad", "unk"):
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        if name == "unk":
            text = text or tokenizer["model"].get("unk_token")
        number = by_text.get(text)
        for source in (config, generation):
            if number is None:
                number = source.get(f"{name}_token_id")
                number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and 0 <= number < len(by_text):
            ids[name] = number
    return ids


def _adds_specials(settings: dict, tokenizer: dict, texts: dict[str, str]) -> tuple[bool, bool]:
    """Does tokenizing add bos and eos? transformers lets an explicit setting win over the post-processor."""
    if "add_bos_token" in settings or "add_eos_token" in settings:
        added = bool(settings.get("add_bos_token")), bool(settings.get("add_eos_token"))
    else:
        node = tokenizer.get("post_processor") or {}
        steps = node.get("processors", []) if node.get("type") == "Sequence" else [node]
        template = next((step["single"] for step in steps if step.get("type") == "TemplateProcessing"), [{}])
        ends = [part.get("SpecialToken", {}).get("id", 0) for part in (template[0], template[-1])]
        added = ends[0] == texts.get("bos"), ends[1] == texts.get("eos")
    return added[0] and "bos" in texts, added[1] and "eos" in texts


def _read_chat_template(where: Path, settings: dict) -> str | list[dict] | None:
    file = where / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")


def _end_of_turn(template: str | list[dict] | None, special: set[str], texts: dict[str, str]) -> str | None:
    """The special token that the chat template puts after an assistant's message, found by rendering one."""
    if isinstance(template, list):
        template = next((x["template"] for x in template if x.get("name") == "default"), None)
    if not template:
        return None
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    marker = "assistant-said-this"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": marker}]
    # transformers' own {% generation %} tag only marks a span; plain jinja does not know it.
    template = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        text = environment.from_string(template).render(
            messages=turns,
            add_generation_prompt=False,
            raise_exception=_refuse_turn,
            strftime_now=lambda format: "2026-01-01",
            **{f"{name}_token": value for name, value in texts.items()},
        )
    except Exception:  # a template is a program; one that needs more than this simply gives no hint
        return None
    after = text.rpartition(marker)[2] if marker in text else ""
    found = [(after.find(token), -len(token), token) for token in special if token in after]
    return min(found)[2] if found else None


def _refuse_turn(message: str) -> None:
    raise ValueError(message)


def _add_vocabulary(writer, vocabulary: _Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


# --- files ---


def _check_dtype(dtype: str, allowed: tuple[str, ...]) -> None:
    if dtype not in allowed:
        raise EexpError(f"unknown dtype {dtype!r}; it can be {', '.join(allowed)}")


def _add_metadata(writer, metadata: dict[str, str] | None) -> None:
    import gguf

    for key, value in (metadata or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.STRING)  # add_string would drop an empty value


def _summary(output: Path, arch: str, tensors: int, dtype: str) -> dict:
    return {"architecture": arch, "tensors": tensors, "bytes": output.stat().st_size, "dtype": dtype}


def _read_json(path: Path, missing: dict | None = None) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise EexpError(f"{path.parent}: no {path.name}") from error
    except ValueError as error:
        raise EexpError(f"{path}: not JSON: {error}") from error
    except OSError as error:
        raise EexpError(f"{path}: {error.strerror}") from error
    if not isinstance(value, dict):
        raise EexpError(f"{path}: expected a JSON object")
    return value


@contextlib.contextmanager
def _replacing(output: Path, keep: bool = True) -> Iterator[Path]:
    """A temporary path beside `output` that takes its place at the end (or, unless `keep`, goes away)."""
    temporary = output.with_name(f".{output.name.removeprefix('.')}.{os.getpid()}.part")
    try:
        yield temporary
        if keep:
            os.replace(temporary, output)
    except OSError as error:
        raise EexpError(f"{output}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _quantise(source: Path, target: Path, dtype: str) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{dtype.upper()}")
    names = os.fsencode(source), os.fsencode(target)
    with _llama_cpp_log() as lines:
        failed = llama_cpp.llama_model_quantize(*names, ctypes.byref(params))
    if failed:
        reason = next((line for line in reversed(lines) if line.strip()), "no reason given").strip()
        raise EexpError(f"llama.cpp could not quantise to {dtype}: {reason}")


@contextlib.contextmanager
def _llama_cpp_log() -> Iterator[list[str]]:
    """Collect what llama.cpp would print, and put its log back as it was."""
    import llama_cpp

    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def collect(level, text, data):
        lines.append(text.decode("utf-8", "replace"))

    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama_cpp.llama_log_set(collect, ctypes.c_void_p())
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(before, data)

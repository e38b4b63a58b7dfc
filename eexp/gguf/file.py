"""Read safetensors, write GGUF, and read the header of GGUF files, without torch.

One tensor is in memory at a time. A file appears under its name whole or not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eexp.errors import EexpError

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file."""

    strings: dict[str, str]  # string values under `eexp.*`, `general.architecture` and `general.type`
    special_tokens: list[int]  # ids of the control tokens and of the unknown token
    added_tokens: list[int]  # ids of the other tokens that a tokenizer finds in a text first of all


def read_header(path: str | Path) -> Header:
    """Read the header of a GGUF file, without its tensors.

    Raises:
        EexpError: `path` cannot be read or is not a little-endian GGUF file of version 2 or 3.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse_header(data)
    except (struct.error, KeyError, ValueError, OverflowError) as error:  # mmap of an empty file is a ValueError
        raise EexpError(f"{path}: not a GGUF file, or a damaged one") from error
    except OSError as error:
        raise EexpError(f"{path}: {reason_of(error)}") from error


_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_INT32, _GGUF_STRING, _GGUF_ARRAY = 5, 8, 9
_SPECIAL_TOKENS, _ADDED_TOKENS = (2, 3), (4,)  # unknown and control; user-defined


def _parse_header(data: mmap.mmap) -> Header:
    u32, u64 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    magic, version, _, pairs = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError
    at = 24
    header = Header({}, [], [])

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
                header.strings[key] = string()
            else:
                at += 8 + u64(data, at)[0]
        elif kind == _GGUF_ARRAY:
            inner, count = struct.unpack_from("<IQ", data, at)
            at += 12
            if inner == _GGUF_STRING:
                for _ in range(count):  # the slow part: a Qwen vocabulary has 300,000 lengths to step over
                    at += 8 + u64(data, at)[0]
            else:
                if key == "tokenizer.ggml.token_type" and inner == _GGUF_INT32:
                    types = np.frombuffer(data[at : at + 4 * count], "<i4")
                    header.special_tokens.extend(np.flatnonzero(np.isin(types, _SPECIAL_TOKENS)).tolist())
                    header.added_tokens.extend(np.flatnonzero(np.isin(types, _ADDED_TOKENS)).tolist())
                at += count * _GGUF_SIZES[inner]
        else:
            at += _GGUF_SIZES[kind]
    return header


@dataclass(frozen=True)
class _StoredTensor:
    """The place of a tensor in a safetensors file; `offset` in bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of one or several safetensors files, which are read one at a time as float32.

    Args:
        where: The directory, for messages.

    Raises:
        EexpError: A file is missing or damaged, or holds a tensor that is not F32, F16 or BF16.
    """

    def __init__(self, where: Path, files: list[Path]):
        self.where = where
        self.tensors: dict[str, _StoredTensor] = {}
        for file in files:
            self.tensors |= _read_safetensors_header(file)

    @classmethod
    def of_model(cls, where: Path) -> Checkpoint:
        """Open the weights of a model directory, in one file or in several.

        The part for text of a model of images and text has the names that it has in a model of text.
        """
        index = where / "model.safetensors.index.json"
        if (where / "model.safetensors").is_file():
            weights = cls(where, [where / "model.safetensors"])
        elif index.is_file():
            weights = cls(where, [where / name for name in sorted(set(read_json(index)["weight_map"].values()))])
        else:
            raise EexpError(f"{where}: no model.safetensors; save the model with save_pretrained")
        weights.tensors = {
            name.replace("model.language_model.", "model.", 1): stored for name, stored in weights.tensors.items()
        }
        return weights

    def own_dtype(self) -> str:
        """Return the narrowest GGUF type that holds every tensor exactly: f16, bf16 or f32."""
        kinds = {stored.dtype for stored in self.tensors.values()}
        return {frozenset({"BF16"}): "bf16", frozenset({"F16"}): "f16"}.get(frozenset(kinds), "f32")

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as float32."""
        stored = self.tensors[name]
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[stored.dtype]
        flat = np.fromfile(stored.file, kind, math.prod(stored.shape), offset=stored.offset)
        if stored.dtype == "BF16":  # numpy has no bfloat16; it is the upper half of a float32
            wide = flat.astype(np.uint32)
            wide <<= 16
            flat = wide.view(np.float32)
        return flat.astype(np.float32, copy=False).reshape(stored.shape)


def _read_safetensors_header(file: Path) -> dict[str, _StoredTensor]:
    tensors = {}
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
            tensors[name] = _StoredTensor(file, entry["dtype"], tuple(entry["shape"]), 8 + length + begin)
    except (struct.error, ValueError, KeyError, AttributeError) as error:
        raise EexpError(f"{file}: not a safetensors file, or a damaged one") from error
    except OSError as error:
        raise EexpError(f"{file}: {reason_of(error)}") from error
    return tensors


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write: its name and shape in the file, and a function that reads it as float32."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    exact: bool = False  # whether it stays float32 where other matrices do not, as llama.cpp requires of convolutions


def write_gguf(
    path: Path, arch: str, dtype: str, add_header: Callable[[GGUFWriter], None], plan: list[PlannedTensor]
) -> None:
    """Write a GGUF file; matrices as `dtype` (f32, f16 or bf16), vectors as f32.

    Args:
        arch: llama.cpp's name of the architecture.
        add_header: Writes the keys of the header.

    Raises:
        EexpError: A value is too large for f16.
    """
    import gguf

    kinds = gguf.GGMLQuantizationType
    wide = {"f32": kinds.F32, "f16": kinds.F16, "bf16": kinds.BF16}[dtype]
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}[dtype]
    writer = gguf.GGUFWriter(path, arch)
    try:
        add_header(writer)
        writer.add_file_type(int(gguf.LlamaFileType[file_type]))
        # llama.cpp adds biases and normalises in float32.
        stored = [wide if len(tensor.shape) > 1 and not tensor.exact else kinds.F32 for tensor in plan]
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


def add_metadata(writer: GGUFWriter, metadata: dict[str, str] | None) -> None:
    """Write string keys."""
    import gguf

    for key, value in (metadata or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.STRING)  # add_string would drop an empty value


def read_json(path: Path, missing: dict | None = None) -> dict:
    """Return the JSON object in a file, or `missing` where there is no file.

    Raises:
        EexpError: The file cannot be read or is no JSON object, or there is none and `missing` is None.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise EexpError(f"{path.parent}: no {path.name}") from error
    except ValueError as error:
        raise EexpError(f"{path}: not JSON: {error}") from error
    except OSError as error:
        raise EexpError(f"{path}: {reason_of(error)}") from error
    if not isinstance(value, dict):
        raise EexpError(f"{path}: expected a JSON object")
    return value


def reason_of(error: OSError) -> str:
    """Return the reason why a file cannot be read or written.

    NumPy's `tofile` says how much of an array it has written, and not why it stopped.
    """
    return error.strerror or f"cannot be written whole; is the disk full? ({error})"


@contextlib.contextmanager
def replacing(output: Path, keep: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `output` that replaces it at the end (or, unless `keep`, is deleted)."""
    temporary = output.with_name(f".{output.name.removeprefix('.')}.{os.getpid()}.part")
    try:
        yield temporary
        if keep:
            os.replace(temporary, output)
    except OSError as error:
        raise EexpError(f"{output}: {reason_of(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def quantise(source: Path, target: Path, dtype: str) -> None:
    """Quantise a GGUF file by llama.cpp's own quantiser; `dtype` is q8_0 or q4_k_m.

    Raises:
        EexpError: llama.cpp could not.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{dtype.upper()}")
    names = os.fsencode(source), os.fsencode(target)
    with _llama_cpp_log() as lines:
        failed = llama_cpp.llama_model_quantize(*names, ctypes.pointer(params))
    if failed:
        reason = next((line for line in lines if line.strip()), b"no reason given").decode("utf-8", "replace").strip()
        raise EexpError(f"llama.cpp could not quantise to {dtype}: {reason}")


@contextlib.contextmanager
def _llama_cpp_log() -> Iterator[list[bytes]]:
    """Collect llama.cpp's log, the newest piece first, and restore its former target at the end."""
    import llama_cpp

    from eexp.gguf.log import keep_log

    lines: list[bytes] = []
    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.pointer(before), ctypes.pointer(data))
    callback = keep_log(llama_cpp, lines)
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(before, data)
        del callback  # not before: llama.cpp has called it until now

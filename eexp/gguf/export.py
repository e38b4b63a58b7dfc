"""Export a directory of weights as a GGUF file that records how the weights were trained."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from eexp.errors import EexpError, UsageError
from eexp.records.jsonl import refuse_to_overwrite
from eexp.records.runs import (
    base_of_adapter,
    downloads_allowed,
    files_of,
    fingerprint_of_directory,
    is_adapter,
    read_run,
    refuse_unfinished,
    resolve_base,
)
from eexp.system.terminal import tell

#: Keys of eexp.json that a GGUF file keeps beside the style's label: enough to prompt the model as in training.
_PLAY_KEYS = ("style", "think", "longest_completion")

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # the files that are needed of a model on the hub


def export(
    source: str | os.PathLike[str], output: str | os.PathLike[str], *, dtype: str | None = None, base: str | None = None
) -> dict:
    """Export a PEFT adapter directory or a full model directory.

    Args:
        source: The directory, `tiny`, or the id of a model on the Hugging Face hub, which is downloaded.
        output: The file to write.
        dtype: f32, f16, bf16, and for full models q8_0 and q4_k_m; None is f16, and f32 for adapters, which are small.
        base: The adapter's base model directory, where the adapter does not name it.

    Returns:
        `architecture`, `tensors` (their number), `bytes` (the file's size) and `dtype`.

    Raises:
        EexpError: GGUF cannot hold the model, or the adapter was made for another base.
        UsageError: `dtype` or `base` does not fit.
    """
    from eexp.gguf import convert

    directory = _directory_of(str(source))
    refuse_to_overwrite([str(output)], files_of(str(directory)))
    run = read_run(directory)
    metadata = {"eexp.prompt_style": run["prompt_style"]} if run.get("prompt_style") else {}
    play = {key: run[key] for key in _PLAY_KEYS if run.get(key)}
    metadata |= {"eexp.run": orjson.dumps(play).decode()} if play else {}
    if not is_adapter(directory):
        if base:
            raise UsageError(f"{directory}: a full model has no base; --base is for adapters")
        metadata["eexp.fingerprint"] = fingerprint_of_directory(directory) or ""
        return convert.export_model(directory, Path(output), dtype=dtype or "f16", metadata=metadata)
    if dtype in ("q8_0", "q4_k_m"):
        raise UsageError(f"{directory}: adapters are exported as f32, f16 or bf16; quantise the base model instead")
    base_dir = _directory_of(base) if base else _directory_of(base_of_adapter(str(directory)), named=False)
    refuse_to_overwrite([str(output)], files_of(str(base_dir)))
    fingerprint = run.get("base_fingerprint")
    own = fingerprint_of_directory(base_dir)
    if fingerprint and own != fingerprint:
        raise EexpError(f"{directory}: made for another base model ({fingerprint}) than {base_dir} ({own})")
    fingerprint = own
    if fingerprint:
        metadata["eexp.base.fingerprint"] = fingerprint
    return convert.export_adapter(directory, Path(output), base_dir=base_dir, dtype=dtype or "f32", metadata=metadata)


def _directory_of(name: str, named: bool = True) -> Path:
    """Return the directory of a model, or that of the Hugging Face hub's cache, into which it may be downloaded.

    Args:
        name: The directory, or the id of a model on the hub.
        named: Whether the command line names it; else it is not downloaded.
    """
    path = resolve_base(name)
    if os.path.isdir(path):
        refuse_unfinished(path)
        return Path(path)
    if path.startswith((".", "/")) or path.count("/") != 1:
        raise EexpError(f"model directory not found: {path}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if named:
        tell(f"no directory {path} here: asking the Hugging Face hub for it")
    try:
        with downloads_allowed(path if named else None):
            return Path(snapshot_download(path, allow_patterns=list(_FILES), local_files_only=not named))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as e:
        reason = " ".join(str(e).split())[:200]
        raise EexpError(f"{path}: no such directory, and the hub gives no such model: {reason}") from None

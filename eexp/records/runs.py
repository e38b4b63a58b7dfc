"""Directories and files of weights: their places, their fingerprints, and how they were trained.

`eexp finetune` saves a description of its run beside the weights (eexp.json; in a GGUF file, the key `eexp.run`). Model
directories and files may come from anywhere, so every value is checked before it is used.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Optional

import msgspec
import orjson
from msgspec import Meta, Struct

from eexp.data import BUILT_IN, TINY
from eexp.errors import EexpError, UsageError, short
from eexp.records.types import explain

RUN_FILE = "eexp.json"  # the file beside the weights that describes their training


def built_in_directory(name: str) -> Path:
    """Return the directory of a built-in model."""
    return Path(__file__).parents[1] / "data" / name


TINY_DIR = built_in_directory(TINY)


# -- specs and paths ---------------------------------------------------------------------------------------------------


def split_adapter(spec: str) -> tuple[str, str | None]:
    """Split `BASE+ADAPTER` in two; an existing path with a plus sign in it is left whole."""
    if os.path.exists(spec) or "+" not in spec:
        return spec, None
    base, _, adapter = spec.rpartition("+")
    return base, adapter


def files_of(spec: str) -> list[str]:
    """Return the files of a model spec, those in its directories included; none for a server."""
    if spec.startswith(("http://", "https://")):
        return []
    paths = [part for part in split_adapter(spec.removeprefix("hf:")) if part]
    within = [os.path.join(path, name) for path in paths if os.path.isdir(path) for name in os.listdir(path)]
    return [file for file in [*paths, *within] if os.path.isfile(file)]


def resolve_base(base: str) -> str:
    """Return the directory or hub id that transformers loads for the name of a base model, with or without `hf:`."""
    name = base.removeprefix("hf:")
    return str(built_in_directory(name)) if name in BUILT_IN else name


# -- fingerprints ------------------------------------------------------------------------------------------------------


def fingerprint_of_files(*paths: str | os.PathLike) -> str:
    """Return `sha256:` and 16 hexadecimal digits over the contents of `paths`, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as e:
            raise EexpError(f"{path}: {e.strerror or e}") from None
    return f"sha256:{digest.hexdigest()[:16]}"


def fingerprint_of_directory(directory: str | os.PathLike) -> str | None:
    """Return the fingerprint of the weight files in a transformers or PEFT directory; None where there are none."""
    files = sorted(
        path
        for path in Path(directory).iterdir()
        if path.suffix in (".safetensors", ".bin") and path.is_file() and path.name != "training_args.bin"
    )
    return fingerprint_of_files(*files) if files else None


# -- descriptions of training runs -------------------------------------------------------------------------------------

_Count = Annotated[int, Meta(ge=0)]


class _Total(Struct):
    updates: _Count = 0
    target_tokens: _Count = 0


class _Digest(Struct):
    sha256: Optional[str] = None


class _RunFile(Struct):
    """The keys of a run file that are read. All are optional, and there are others."""

    base: Optional[str] = None
    base_fingerprint: Optional[str] = None
    init_fingerprint: Optional[str] = None
    style: Optional[dict] = None
    prompt_style: Optional[str] = None
    think: Optional[str] = None
    longest_completion: Optional[dict[str, _Count]] = None
    settings: dict = {}
    data: Optional[_Digest] = None
    validation: Optional[_Digest] = None
    updates: _Count = 0
    total: Optional[_Total] = None


def parse_run(data: bytes | str, source: str) -> dict:
    """Parse and check the contents of a run file; return all its keys.

    Args:
        source: The file that they come from, for errors.

    Raises:
        EexpError: They are no JSON object, or a value has the wrong type.
    """
    try:
        run = msgspec.json.decode(data)
        if not isinstance(run, dict):
            raise EexpError(f"{source}: not a JSON object")
        msgspec.convert(run, _RunFile)
    except msgspec.ValidationError as e:
        raise EexpError(f"{source}: {explain(str(e))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise EexpError(f"{source}: not JSON: {e}") from None
    return run


def read_run(directory: str | os.PathLike) -> dict:
    """Return the run file of `eexp finetune` in a directory; empty where there is none."""
    path = Path(directory) / RUN_FILE
    try:
        return parse_run(path.read_bytes(), str(path)) if path.is_file() else {}
    except OSError as e:
        raise EexpError(f"{path}: cannot be read: {e.strerror or e}") from None


def refuse_unfinished(directory: str | os.PathLike) -> None:
    """Raise EexpError for the directory of a training run that was interrupted: it holds no weights yet."""
    if (Path(directory) / "checkpoints").is_dir() and not (Path(directory) / RUN_FILE).is_file():
        raise EexpError(f"{directory}: this training run is not finished; the same command with --resume goes on")


def refuse_finished(directory: str | os.PathLike) -> None:
    """Raise UsageError for the directory of a finished training run, which another one would replace."""
    if (Path(directory) / RUN_FILE).is_file():
        raise UsageError(f"{directory} holds a finished run; remove it, or give another -o")


# -- PEFT adapters -----------------------------------------------------------------------------------------------------

ADAPTER_FILE = "adapter_config.json"  # the file beside an adapter's weights that makes a directory an adapter
#: The kinds of adapters that are weights alone. PEFT opens further files, which the configuration names, for others:
#: models of the hub for XLORA and SHADOW, initial values for prompts.
_ADAPTER_KINDS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "HRA", "VERA", "RANDLORA", "LN_TUNING")


def is_adapter(directory: str | os.PathLike) -> bool:
    """Return whether a directory holds a PEFT adapter."""
    return (Path(directory) / ADAPTER_FILE).is_file()


def base_of_adapter(adapter: str) -> str:
    """Return the base model that a PEFT adapter names: a directory, or a model in the Hugging Face cache.

    An adapter may come from anywhere, so the name that it holds makes nothing be downloaded.

    Raises:
        EexpError: It names none, or one that is neither here nor in the cache.
    """
    refuse_unfinished(adapter)
    file = Path(adapter) / ADAPTER_FILE
    base = read_run(adapter).get("base") or text_value(_read_json(file), "base_model_name_or_path", str(file))
    if not base:
        raise EexpError(f"{adapter}: does not name its base model; give hf:BASE+{adapter}")
    if not os.path.isdir(resolve_base(base)) and not _is_cached(resolve_base(base)):
        raise EexpError(
            f"{adapter}: made for {short(base)}, which is neither a directory here nor in the Hugging Face cache; "
            f"models are downloaded only by a name on the command line: give the base yourself, hf:BASE+{adapter} as "
            f"a model, or --base to `eexp export`"
        )
    return base


def check_adapter(adapter: str | os.PathLike) -> None:
    """Raise EexpError for a directory that holds no PEFT adapter, or one that is more than weights."""
    if not is_adapter(adapter):
        raise EexpError(f"{adapter}: not a PEFT adapter (no {ADAPTER_FILE})")
    file = Path(adapter) / ADAPTER_FILE
    config = _read_json(file)
    kind = text_value(config, "peft_type", str(file))
    if kind not in _ADAPTER_KINDS:
        raise EexpError(
            f"{file}: $.peft_type: {short(str(kind))} is no adapter of weights alone; give one of "
            f"{', '.join(_ADAPTER_KINDS)}"
        )
    if config.get("megatron_config"):  # PEFT imports the module that stands beside it
        raise EexpError(f"{file}: $.megatron_config: adapters for Megatron-LM cannot be loaded here")


# -- the Hugging Face hub ----------------------------------------------------------------------------------------------


def _is_cached(name: str) -> bool:
    """Return whether a model of the Hugging Face hub has been downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:  # no name of a model
        return False


#: Seconds in which the hub has to answer. Its own library would try for half a minute, for each of several files.
_HUB_LIMIT = 3.0


@contextmanager
def downloads_allowed(model: str | None) -> Iterator[None]:
    """Let nothing but `model` be downloaded from the Hugging Face hub within the context.

    The files of a model may name others. They are followed in the hub's cache at most. Where the hub cannot be reached,
    the model is taken from its cache as well.

    Args:
        model: The name of a model that the command line names; None where nothing may be downloaded.

    Raises:
        EexpError: It is not in the cache, and the hub cannot be reached or may not be asked.
    """
    from huggingface_hub import constants

    reachable = model is not None and ask_hub(model)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def ask_hub(model: str) -> bool:
    """Return whether the Hugging Face hub can be asked for a model that is no directory.

    Raises:
        EexpError: It cannot, and its cache has nothing of the model.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        problem = "HF_HUB_OFFLINE forbids to ask the hub"
    elif reason := _why_unreachable(constants.ENDPOINT, int(time.monotonic() // 60)):
        problem = f"{constants.ENDPOINT} cannot be reached: {reason} (with HF_HUB_OFFLINE=1 it is not asked)"
    else:
        return True
    if not any(Path(constants.HF_HUB_CACHE, f"models--{model.replace('/', '--')}", "snapshots").glob("*/*")):
        raise EexpError(f"{model}: no such directory, and no such model in the Hugging Face cache; {problem}")
    return False


def refuse_missing(base: str) -> None:
    """Raise EexpError for a base model that is no directory and that the hub cannot be asked for.

    This takes no imports of large libraries. Files and addresses are left to what opens them.
    """
    source = resolve_base(base)
    if os.path.exists(source) or source.endswith(".gguf") or "://" in source:
        return
    refuse_path(source)
    ask_hub(source)


def refuse_path(source: str) -> None:
    """Raise EexpError for a model that is no directory, if its name is a path rather than one of the hub."""
    if (source.startswith((".", "/")) or source.count("/") > 1) and not os.path.isdir(source):
        raise EexpError(f"model directory not found: {source}")


@lru_cache(maxsize=1)
def _why_unreachable(address: str, minute: int) -> str:
    """Return why the hub at an address does not answer, asked once a minute; "" where it does."""
    from huggingface_hub import get_session

    reasons: SimpleQueue[str] = SimpleQueue()

    def ask() -> None:
        try:
            get_session().head(address, timeout=_HUB_LIMIT)
            reasons.put("")
        except Exception as e:  # of the library below it, which differs between versions
            reasons.put(" ".join(str(e).split())[:200] or type(e).__name__)

    # In a thread, because looking up an address has no limit of its own.
    threading.Thread(target=ask, name="eexp hub", daemon=True).start()
    try:
        return reasons.get(timeout=_HUB_LIMIT)
    except Empty:
        return f"no answer within {_HUB_LIMIT:g} s"


def _read_json(path: Path) -> dict:
    try:
        config = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as e:
        raise EexpError(f"{path}: cannot be read: {e}") from None
    if not isinstance(config, dict):
        raise EexpError(f"{path}: not a JSON object")
    return config


def text_value(config: dict, key: str, source: str) -> str | None:
    """Return a value that is a text, or None where it is absent. Raises EexpError if it is no text."""
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise EexpError(f"{source}: $.{key}: expected a string, got {type(value).__name__}")
    return value

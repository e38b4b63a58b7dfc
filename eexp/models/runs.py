"""What a training run says of itself (eexp.json, or `eexp.run` in a GGUF file), checked before it is used.

Model directories and files come from strangers, so that no value is taken for what it ought to be.
"""

from __future__ import annotations

from typing import Annotated, Any, Optional

import msgspec
from msgspec import Meta, Struct

from eexp.errors import EexpError
from eexp.records import explain

_Count = Annotated[int, Meta(ge=0)]


class _Total(Struct):
    updates: _Count = 0
    target_tokens: _Count = 0


class _Digest(Struct):
    sha256: Optional[str] = None


class _Run(Struct):
    """The keys that are read; there are others, and none is needed."""

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


def parse_run(data: bytes | str, where: str) -> dict:
    """Return what a run says, with all its keys.

    Args:
        where: the file that says it, for errors.

    Raises:
        EexpError: it is no JSON object, or a value has another type than it should.
    """
    try:
        run = msgspec.json.decode(data)
        if not isinstance(run, dict):
            raise EexpError(f"{where}: not a JSON object")
        msgspec.convert(run, _Run)
    except msgspec.ValidationError as e:
        raise EexpError(f"{where}: {explain(str(e))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise EexpError(f"{where}: not JSON: {e}") from None
    return run


def text_of(config: dict, key: str, where: str) -> str | None:
    """Return a value that is a text or absent.

    Raises:
        EexpError: it is something else.
    """
    value: Any = config.get(key)
    if value is not None and not isinstance(value, str):
        raise EexpError(f"{where}: $.{key}: expected a string, got {type(value).__name__}")
    return value

"""Load a GGUF file in a process of its own and decode batches of it, before this process does.

llama.cpp ends the process on many damaged files, and its kernels for a processor may do so in the first batch: with
Intel's AMX, a quantised model crashes in any batch of two or more tokens (ggml-org/llama.cpp#20824). These kernels want
the weights in buffers of their own, llama.cpp's extra buffers. A trial finds out whether a model runs with them; if
not, whether it runs without. It evaluates some 100 tokens as the engine will. Its result is remembered for the contents
of the files, the processor, the build of llama.cpp and the engine's settings, so it costs time once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eexp.errors import EexpError
from eexp.models.base import Engine
from eexp.system.cores import usable_cores
from eexp.system.terminal import tell
from eexp.system.trial import TrialEnd, processor, recall, remember, try_function

if TYPE_CHECKING:
    from eexp.models.backends.llama_decoder import LlamaCppDecoder
    from eexp.models.engine.decoder import Item

LIMIT = 600.0  # seconds for a trial on a busy machine, beside those for reading the files
SLOWEST_READING = 20e6  # bytes a second
_BUG = "ggml-org/llama.cpp#20824"
_PROMPT = 33  # tokens of a prompt, more than the kernels for matrices take in one tile
_TEXTS = 8


def can_use_extra_buffers(files: list[Path], fingerprint: str, engine: Engine) -> bool:
    """Return whether llama.cpp can run a model with its extra buffers, and say so where it can run it only without.

    A file that llama.cpp only refuses passes; loading it in this process gives the reason.

    Args:
        files: The model, and its adapter if there are two.
        fingerprint: That of their contents.

    Raises:
        EexpError: The model ends llama.cpp with and without them.
    """
    name = "+".join(map(str, files))
    options = {**asdict(replace(engine, context=None)), "threads": engine.threads or usable_cores()}
    key = {"files": fingerprint, "processor": processor(), "llama.cpp": _build(), "options": options}
    match recall(key):
        case {"extra_buffers": True}:
            return True
        case {"extra_buffers": False, "reason": str(reason)}:
            _tell(name, reason)
            return False
    first = _try(files, engine, True)
    if not first.died:
        if first.status == 0:
            remember(key, {"extra_buffers": True})
        return True
    second = _try(files, engine, False)
    if second.died:
        raise EexpError(f"{name}: {_both_died(first, second)}")
    if second.status == 0 and not first.hung:
        remember(key, {"extra_buffers": False, "reason": first.reason})
    _tell(name, first.reason)
    return False


def _tell(name: str, reason: str) -> None:
    tell(
        f"{name}: batches of it end llama.cpp with {reason} on this processor ({_BUG}): "
        "going on without llama.cpp's extra buffers, which may be slower"
    )


def _both_died(first: TrialEnd, second: TrialEnd) -> str:
    """Return what a user has to know of two trials, with the extra buffers and without."""
    if second.reached:
        return (
            f"decoding a batch of it ends llama.cpp with {first.reason}, and without its extra buffers with "
            f"{second.reason}: this build of llama.cpp cannot run the model on this processor ({_BUG})"
        )
    return f"a damaged file: loading it ends llama.cpp with {second.reason}"


def _try(files: list[Path], engine: Engine, extra_buffers: bool) -> TrialEnd:
    limit = LIMIT + sum(file.stat().st_size for file in files) / SLOWEST_READING
    arguments = [list(map(os.fspath, map(Path.absolute, files))), asdict(engine), extra_buffers]
    return try_function("eexp.models.backends.llama_trial:decode_batches", arguments, limit, str(files[-1]))


def _build() -> list[object]:
    """Return what identifies a build of llama.cpp, without importing it: a crash could come as early."""
    package = importlib.util.find_spec("llama_cpp")
    places = [os.environ.get("LLAMA_CPP_LIB_PATH"), *((package and package.submodule_search_locations) or [])]
    libraries = [file for place in places if place for file in sorted((Path(place) / "lib").glob("*"))]
    stats = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in libraries]
    variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith(("GGML_", "LLAMA_"))}
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return [version, package and package.origin, list(map(list, stats)), variables]


def decode_batches(files: list[str], engine: dict, extra_buffers: bool, report: Callable[[bytes], object]) -> None:
    """Load a model and its adapter, and evaluate batches in the engine's two kinds of memory."""
    from eexp.models.backends.llama_decoder import LlamaCppDecoder, LoadedModel

    settings = Engine(**engine)
    base = LoadedModel(Path(files[0]), settings.gpu_layers, extra_buffers)
    adapter = base.load_adapter(files[1], files[0]) if len(files) > 1 else None
    report(b"loaded")
    for unified in (True, False):
        cells = 256 if unified else 256 * _TEXTS
        decoder = LlamaCppDecoder(base, settings, cells, _TEXTS, adapter, unified)
        for batch in _batches(decoder, unified):
            for start in range(0, len(batch), decoder.batch):
                decoder.decode(batch[start : start + decoder.batch])
        decoder.close()


def _batches(decoder: LlamaCppDecoder, unified: bool) -> Iterator[list[Item]]:
    """Yield batches of 33, 8, 2 and 1 tokens: a prompt, texts side by side, their ends."""
    from eexp.models.engine.decoder import Item

    def item(position: int, *sequences: int) -> Item:
        return Item((7 * position + sequences[0]) % decoder.base.n_vocab, position, sequences, position >= _PROMPT - 1)

    yield [item(position, 0) for position in range(_PROMPT)]
    others = range(1, _TEXTS)
    if unified:  # one prompt, which texts share
        for sequence in others:
            decoder.fork(0, sequence, _PROMPT)
        if decoder.cuts:
            yield [item(_PROMPT, *range(_TEXTS))]
    else:  # prompts of their own
        yield [item(position, sequence) for sequence in others for position in range(2)]
    ends = {0: _PROMPT + (unified and decoder.cuts)}
    ends |= {sequence: ends[0] if unified else 2 for sequence in others}
    yield [item(ends[sequence], sequence) for sequence in range(_TEXTS)]
    yield [item(ends[sequence] + 1, sequence) for sequence in (0, 1)]
    yield [item(ends[0] + 2, 0)]

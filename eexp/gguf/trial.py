"""Load a GGUF file in a process of its own before this process loads it.

llama.cpp ends the process on many damaged files: an assertion fails, or it reads outside of its memory. `check` finds
out where that does no harm. It costs the start of a Python process that imports llama-cpp-python, and a second reading
of the header and the vocabulary; weights are mapped and not read. No result is remembered, since a file may change.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from eexp.errors import EexpError

_CODE = "import json, runpy, sys; sys.path = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"


def check(files: list[Path]) -> None:
    """Load a model, and its adapter if there are two files, in another process.

    A file that llama.cpp only refuses passes; loading it in this process gives the reason.

    Raises:
        EexpError: Loading ended the process.
    """
    # Isolated, so that no file of the working directory is imported as a module.
    command = [sys.executable, "-I", "-c", _CODE, json.dumps(sys.path), __file__, *map(os.fspath, files)]
    null = subprocess.DEVNULL
    status = subprocess.run(command, check=False, stdin=null, stdout=null, stderr=null).returncode
    if status >= 0:
        return
    if -status in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):  # sent from outside, not caused by the file
        raise EexpError(f"{files[-1]}: loading it was ended by {signal.Signals(-status).name}")
    name = signal.Signals(-status).name
    raise EexpError(f"{'+'.join(map(str, files))}: a damaged file: loading it ends llama.cpp with {name}")


def load(names: list[str]) -> None:
    """Load files as for playing, with a context, and end this process; the weights stay on the disk."""
    import llama_cpp.llama_cpp as api

    from eexp.gguf.log import keep_log

    callback = keep_log(api, [])  # noqa: F841, kept while llama.cpp calls it
    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(os.fsencode(names[0]), params)
    if model and (len(names) == 1 or api.llama_adapter_lora_init(model, os.fsencode(names[1]))):
        context = api.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = 64
        api.llama_init_from_model(model, context)
    os._exit(0)


if __name__ == "__main__":
    load(sys.argv[3:])

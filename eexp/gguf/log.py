"""Keep llama.cpp's log, which it would print."""

from __future__ import annotations

import ctypes
from types import ModuleType


def keep_log(api: ModuleType, pieces: list[bytes]) -> object:
    """Make llama.cpp put its log into `pieces`, the newest piece first.

    llama.cpp calls the callback with (level, text, ...). The callback is `list.insert`, which takes the level, a small
    number, as the place. It is code in C, because Python raises KeyboardInterrupt as soon as a Python function is
    entered, and ctypes drops exceptions of a callback.

    Args:
        api: llama_cpp, or its module llama_cpp.llama_cpp.

    Returns:
        The callback. Keep it for as long as llama.cpp logs, which holds the bare pointer.
    """
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)(pieces.insert)
    api.llama_log_set(ctypes.cast(callback, api.llama_log_callback), ctypes.c_void_p(0))
    return callback

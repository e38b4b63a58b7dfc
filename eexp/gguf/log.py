"""What llama.cpp says while it works, kept instead of printed."""

from __future__ import annotations

import ctypes
from typing import Any


def keep_log(api: Any, pieces: list[bytes]) -> Any:
    """Have llama.cpp's log put into `pieces`, the newest first.

    llama.cpp tells (level, text, ...) to a function of C, which inserts the text where the level, a digit, says. Python
    raises KeyboardInterrupt as soon as a function of its own is entered, and ctypes drops what a callback raises.

    Args:
        api: llama_cpp, or its module llama_cpp.llama_cpp.

    Returns:
        The callback, to be kept for as long as the log is: llama.cpp holds the bare pointer.
    """
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)(pieces.insert)
    api.llama_log_set(ctypes.cast(callback, api.llama_log_callback), ctypes.c_void_p(0))
    return callback

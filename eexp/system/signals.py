"""End this process at a signal in order, once, and without a traceback.

Handlers here are Python functions, also where nothing is to happen. Between the check of `signal.signal` for signals
that have come and its change of the handler, another one may come; Python then runs the new handler for it, and where
that is SIG_IGN or SIG_DFL, prints "Signal 15 ignored due to race condition" with a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

from eexp.errors import EXIT_SIGNAL, Terminated

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_REPEAT = 0.02  # seconds until an exception that was lost is raised again


def exit_at_sigterm() -> None:
    """Raise Terminated at the next SIGTERM and ignore further ones, which would cut short what is being closed."""
    signal.signal(signal.SIGTERM, _terminate)


def ignore(number: int) -> None:
    """Let a signal do nothing from now on."""
    signal.signal(number, _do_nothing)


def exit_at_once(*numbers: int) -> None:
    """End this process at the next of these signals without closing anything; guards end the children.

    For the time after a command, when Python waits for threads and runs finalizers. A signal that is ignored stays so.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


def raise_lost_exceptions() -> None:
    """Raise KeyboardInterrupt and Terminated again where Python can only print them, as in a finalizer."""
    sys.unraisablehook = _repeat


def _terminate(number: int, frame: FrameType | None) -> None:
    ignore(number)
    raise Terminated(EXIT_SIGNAL + number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_SIGNAL + number)


def _repeat(lost: UnraisableHookArgs) -> None:
    """Send this process the signal of an exception that was lost, after the finalizer that lost it."""
    if not isinstance(lost.exc_value, (KeyboardInterrupt, Terminated)):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGINT if isinstance(lost.exc_value, KeyboardInterrupt) else signal.SIGTERM
    if number == signal.SIGTERM:
        exit_at_sigterm()
    again = threading.Timer(_REPEAT, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()

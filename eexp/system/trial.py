"""Call a function in a process of its own, where native code may crash or hang, and remember how that ended.

A result is remembered in the user's cache directory, under all that it depends on. A file there that is damaged or
cannot be written is as none: the function is tried again.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eexp.errors import EexpError
from eexp.system.cache import cache_directory

_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from eexp.system.trial import main; main()"
#: Lines of /proc/cpuinfo that say what a processor can do; the others are of single cores, or change.
_FACTS = frozenset({"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "isa"})
_FACTS_OF_ARM = frozenset({"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"})


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended."""

    status: int  # the exit status, 0 where the function returned; below 0 for a signal
    reached: str  # the last part of its work that the function reported

    @property
    def died(self) -> bool:
        """Whether a signal ended it."""
        return self.status < 0

    @property
    def hung(self) -> bool:
        """Whether it reached its deadline."""
        return self.status == -signal.SIGALRM

    @property
    def reason(self) -> str:
        """The signal's name."""
        names = {one.value: one.name for one in signal.Signals}  # real-time signals have none
        return "no end to it" if self.hung else names.get(-self.status, f"signal {-self.status}")


def try_function(function: str, arguments: Sequence[object], limit: float, name: str) -> TrialEnd:
    """Call `package.module:function` with `arguments`, which JSON can hold, and `report`, in a new process.

    Args:
        limit: Seconds that it may take; the kernel ends the process then, also where this process has ended.
        name: What is tried, for the message.

    Raises:
        EexpError: It was ended from outside, which says nothing about what it did.
    """
    # Isolated, so that no file of the working directory is imported as a module.
    command = [sys.executable, "-I", "-c", _CODE, json.dumps(sys.path), function, json.dumps(arguments), str(limit)]
    null = subprocess.DEVNULL
    variables = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # or llama.cpp starts a debugger when it aborts
    ended = subprocess.run(command, check=False, stdin=null, stdout=subprocess.PIPE, stderr=null, env=variables)
    if -ended.returncode in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        hint = "; is there memory enough?" if ended.returncode == -signal.SIGKILL else ""
        raise EexpError(f"{name}: its trial was ended by {signal.Signals(-ended.returncode).name}{hint}")
    return TrialEnd(ended.returncode, ended.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2])


def main() -> None:
    """Run a trial, as `try_function` started it."""
    gc.disable()  # most of its time is the import of a large library
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = sys.argv[2].partition(":")
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[4]))
    pipe = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no report
    getattr(importlib.import_module(module), name)(*json.loads(sys.argv[3]), lambda part: os.write(pipe, part + b"\n"))
    os._exit(0)


@functools.cache
def processor() -> dict[str, str]:
    """Return what native code may depend on: the processor, what it can do, and the kernel."""
    facts = {"machine": platform.machine(), "system": platform.system(), "release": platform.release()}
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n", 1)[0]
        pairs = (map(str.strip, line.partition(":")[::2]) for line in first.splitlines())
        facts |= {key: value for key, value in pairs if key in _FACTS | _FACTS_OF_ARM}
    return facts


def recall(key: dict) -> object:
    """Return what was remembered under `key`; None where there is nothing that can be read."""
    try:
        kept = json.loads(_place(key).read_bytes())
        return kept["result"] if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def remember(key: dict, result: object) -> None:
    """Keep a result, which JSON can hold; do nothing where the cache directory cannot be written."""
    place = _place(key)
    with suppress(OSError):
        place.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=".", delete=False) as file:
            json.dump({"result": result, "key": key}, file, indent=1)
        os.replace(file.name, place)


def _place(key: dict) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_directory() / "trials" / f"{digest[:32]}.json"

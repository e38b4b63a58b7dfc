"""Start a Ray cluster on this machine that ends with this process, and connect to one.

A cluster that is started here is the child of a guard (eexp/system/child.py), which ends all its processes and removes
its directory however this process ends. It obeys only those who hold a token, which is drawn for it. This module is
also the program of that child, which ends when one of Ray's daemons does: a cluster of one node cannot go on then.

Ray reads its environment variables when it is imported, so it is imported here only after they are set.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eexp.errors import EXIT_SIGNAL, EexpError, Terminated
from eexp.system import signals, terminal
from eexp.system.child import Child, ChildFailed

NAMESPACE = "eexp"
OBJECT_STORE = 100 << 20  # bytes; records are passed on one by one
DAEMONS = ("gcs_server", "raylet")  # without either there is no cluster
INTERVAL = 0.5  # seconds between two looks at them
START = 120.0  # seconds until a cluster on this machine has started
LONGEST_DIRECTORY = 30  # characters: with what Ray adds to it, the name of a socket may have 107

_started: tuple[Child, str] | None = None  # the cluster that this process has started, and its address
_token = secrets.token_hex(32)  # of that cluster


@contextmanager
def sigterm_as_ever() -> Iterator[None]:
    """Raise Terminated where a SIGTERM came while Ray was called, which makes another SystemExit of it."""
    try:
        yield
    except SystemExit as e:
        raise e if isinstance(e, Terminated) else Terminated(EXIT_SIGNAL + signal.SIGTERM) from None


def init_quietly(**settings: Any) -> None:
    """Call `ray.init` so that it writes nothing, and SIGTERM does afterwards what it did before."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # its attempts to connect, twenty lines; the exception tells how they ended
    try:
        with sigterm_as_ever():
            ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **settings)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class RecordsOnly:
    """Standard output while this process is connected: bytes are written as ever, but what is printed is left out.

    Ray prints what happens to actors there, also with `log_to_driver=False`, and standard output is for records. With
    -v it goes to standard error.
    """

    def __init__(self, stdout: Any):
        self.stdout = stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stdout, name)

    def write(self, text: str) -> int:
        if terminal.verbose:
            terminal.tell(*text.splitlines())
        return len(text)


def own_cluster(cpus: int) -> str:
    """Return the address of the cluster that this process has started; start it if it has not."""
    global _started
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_token)
    if _started and _started[0].wait(0) is None:
        return _started[1]
    parent = tempfile.gettempdir()
    directory = tempfile.mkdtemp(prefix="eexp-ray-", dir=parent if len(parent) <= LONGEST_DIRECTORY else "/tmp")
    code = f"import sys; sys.path[:] = {sys.path!r}; from eexp.workers.ray_cluster import main; main()"
    cluster = Child([sys.executable, "-c", code, str(cpus), directory], directory=directory)
    importlib.import_module("ray")  # meanwhile: either takes seconds
    try:
        address = cluster.read_line(START).decode()
    except ChildFailed as e:
        address = f"!{e}"
    if address.startswith("!"):
        cluster.end()
        raise EexpError(f"--on ray: no cluster could be started on this machine: {address[1:]}")
    _started = (cluster, address)
    return address


def own_cluster_ended() -> bool:
    """Return whether the cluster that this process has started has ended by itself, or by another process."""
    return _started is not None and _started[0].wait(0) is not None


def end_own_cluster() -> None:
    """End the cluster that this process has started before the process ends."""
    global _started
    if _started:
        _started[0].end()
        _started = None


def main() -> None:
    """Run a cluster on this machine until standard input or a daemon ends; write its address to standard output."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    import psutil
    import ray

    try:
        init_quietly(
            address="local",
            num_cpus=int(sys.argv[1]),
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _temp_dir=sys.argv[2],
        )
    except Exception as e:  # Ray raises this very class where a process of it does not start in time
        os.write(pipe, f"!{' '.join(str(e).split())}\n".encode())
        return
    os.write(pipe, ray.get_runtime_context().gcs_address.encode() + b"\n")
    for stream in (1, 2):  # what Ray prints of a daemon that has ended; the command says it in one line
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    daemons = [child for child in psutil.Process().children() if child.name() in DAEMONS]
    while not select.select([sys.stdin], [], [], INTERVAL)[0]:
        if not all(daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE for daemon in daemons):
            os._exit(1)  # ray.shutdown would wait for it; the guard ends the others
    signals.exit_at_once(signal.SIGTERM)
    ray.shutdown()

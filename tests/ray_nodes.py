"""A Ray cluster of several nodes on this machine, for the tests and for benchmarks/executors.py and faults.py."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

OBJECT_STORE = 100 << 20  # bytes, of each node


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a node. Ray gives up after 30 seconds, which a busy machine may need, so it is tried five times."""
    for _ in range(4):
        with suppress(Exception):  # Ray raises this very class
            return start()
    return start()


class Nodes:
    """Nodes of a cluster, the first of which is the head. Use as a context manager.

    Args:
        number: How many nodes there are.
        cpus: CPUs of each, for Ray's bookkeeping.

    Attributes:
        variables: Environment variables with which a program finds the cluster.
    """

    def __init__(self, number: int, cpus: int = 1):
        self.variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        os.environ.update(self.variables)  # Ray reads them when it is imported
        from ray.cluster_utils import Cluster

        logging.getLogger("ray").setLevel(logging.ERROR)
        self._directory = tempfile.mkdtemp(prefix="nodes-", dir="/tmp")  # Ray's sockets have long names
        self._settings: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE}
        head = {**self._settings, "include_dashboard": False, "temp_dir": self._directory}
        self.cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(number - 1):
            self.add()

    @property
    def address(self) -> str:
        """The cluster's address, HOST:PORT."""
        return self.cluster.address

    @property
    def others(self) -> list[Any]:
        """The nodes without the head."""
        return sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id)

    def add(self) -> None:
        """Add one node."""
        _patiently(lambda: self.cluster.add_node(**self._settings))

    def remove(self, node: Any) -> None:
        """Kill all processes of a node."""
        self.cluster.remove_node(node, allow_graceful=False)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cluster.shutdown()
        shutil.rmtree(self._directory, ignore_errors=True)


@contextmanager
def nodes_elsewhere(number: int) -> Iterator[dict[str, str]]:
    """Hold a cluster in a process of its own; yield the variables with which a program finds it: RAY_ADDRESS, too.

    Ray takes one token in the life of a process.
    """
    command = [sys.executable, __file__, str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


if __name__ == "__main__":
    with Nodes(int(sys.argv[1])) as _nodes:
        print(json.dumps({**_nodes.variables, "RAY_ADDRESS": _nodes.address}), flush=True)
        sys.stdin.read()

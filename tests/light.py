"""The built-in environments that are light, for the tests of all of them."""

from __future__ import annotations

import pytest

from eexp.envs import open_env
from eexp.envs.registry import BUILT_IN, KINDS
from eexp.errors import EexpError

LIGHT = [kind.name for kind in KINDS if kind.light]


def skip_unless_ready(name: str) -> None:
    """Skip a test of an environment that needs a package which is not installed."""
    try:
        open_env(name).close()
    except EexpError as e:
        if not BUILT_IN[name].needs:
            raise
        pytest.skip(str(e))

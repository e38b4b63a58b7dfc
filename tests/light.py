"""The built-in environments that are light, for the tests of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from eexp.envs import open_env
from eexp.envs.registry import BUILT_IN, KINDS
from eexp.errors import EexpError

LIGHT = [kind.name for kind in KINDS if kind.light]
#: The specs of those that play data of the user's, with data of the tests' own.
DATA = {"tau": f"tau?path={Path(__file__).parent / 'tau_checkout'}&domain=library&admissible=lookups"}
LIGHT_SPECS = [DATA.get(name, name) for name in LIGHT]


def skip_unless_ready(spec: str) -> None:
    """Skip a test of an environment that needs a package which is not installed."""
    try:
        open_env(spec).close()
    except EexpError as e:
        if not BUILT_IN[spec.partition("?")[0]].needs:
            raise
        pytest.skip(str(e))

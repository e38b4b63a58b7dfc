"""The built-in environments that are light, for the tests of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_worlds import travelplanner_spec

from eexp.envs import open_env
from eexp.envs.registry import BUILT_IN, KINDS
from eexp.errors import EexpError

LIGHT = [kind.name for kind in KINDS if kind.light]
#: The specs of those that play data of the user's, with data of the tests' own.
DATA = {"tau": f"tau?path={Path(__file__).parent / 'tau_checkout'}&domain=library&admissible=lookups"}


def ready_spec(name: str, directory: Path) -> str:
    """Return the spec of an environment, with small data in a directory where it needs the user's.

    The test is skipped where the environment needs a package which is not installed.
    """
    spec = travelplanner_spec(directory) if name == "travelplanner" else DATA.get(name, name)
    try:
        open_env(spec).close()
    except EexpError as e:
        if not BUILT_IN[spec.partition("?")[0]].needs:
            raise
        pytest.skip(str(e))
    return spec

"""Records of imagined environments: their mark, and its check where a stage needs to know what a world really does.

In an environment from a world model (`worldmodel:MODEL?env=ENV`, eexp/envs/imagined.py), a model writes what an action
leads to. The spec marks trajectories, episodes and tasks, and `imagined` marks every observation that a model wrote and
every example that was made of such a trajectory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eexp.errors import InputError
from eexp.records.callbacks import OnError, stop_at_error

SCHEME = "worldmodel"
_SPEC = re.compile(rf"(?:(?:noisy|changed):[^:]*:)*{SCHEME}:")


def is_imagined(spec: str) -> bool:
    """Return whether a spec, perhaps with wrappers around it, names an environment from a world model."""
    return bool(_SPEC.match(spec))


def imagined_by(trajectory: dict) -> str | None:
    """Return the fingerprint of the world model that wrote a trajectory's observations; None in a real environment."""
    if not is_imagined(trajectory.get("env") or ""):
        return None
    observed = [*trajectory["steps"], trajectory.get("outcome") or {}]
    return next((one["imagined"] for one in observed if one.get("imagined")), trajectory["env"])


def refuse_imagined(record: dict, purpose: str) -> None:
    """Raise InputError for a trajectory or an episode of an imagined environment.

    Args:
        purpose: What is read from records, for the message: "success", say.
    """
    if is_imagined(record["env"]):
        raise InputError(f"{purpose} of an imagined environment: a model wrote it, and nothing shows it true", "$.env")


def only_real(records: Iterable[dict], purpose: str, on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the records of real environments.

    Args:
        purpose: As in `refuse_imagined`.
        on_error: Called with every record of an imagined one.
    """
    for record in records:
        try:
            refuse_imagined(record, purpose)
        except InputError as e:
            on_error(record, e)
            continue
        yield record

"""Records of imagined environments: their mark, and its check where a stage needs to know what a world really does.

In an environment from a world model (`worldmodel:MODEL?env=ENV`, eexp/envs/imagined.py), a model writes what an action
leads to. The spec marks trajectories, episodes and tasks, and `imagined` marks every observation that a model wrote and
every example that was made of such a trajectory. Either mark is enough: records are edited, and one may be lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from eexp.errors import InputError
from eexp.records.callbacks import OnError, stop_at_error

SCHEME = "worldmodel"
_SPEC = re.compile(rf"(?:(?:noisy|changed):[^:]*:)*{SCHEME}:")


def is_imagined(spec: str) -> bool:
    """Return whether a spec, perhaps with wrappers around it, names an environment from a world model."""
    return bool(_SPEC.match(spec))


def imagined_by(record: dict) -> str | None:
    """Return the fingerprint of the world model that wrote a record, or a part of it; None in a real environment.

    A mark anywhere in the record counts, whatever its `env` says. Where the spec alone marks it, that is returned.
    """
    for _, mark in _marks(record):
        return mark
    return record["env"] if _has_imagined_env(record) else None


def _has_imagined_env(record: dict) -> bool:
    """Return whether the spec of a record marks it. In an example, `env` would be a key of somebody else's."""
    return record.get("type", "trajectory") in ("trajectory", "episode", "task") and is_imagined(
        record.get("env") or ""
    )


def _marks(record: dict) -> Iterator[tuple[str, str]]:
    """Yield (JSON path, fingerprint) for every mark in a record: those of its path first, then those beside it.

    Only keys that the record's type has are read; any other may hold anything.
    """
    if isinstance(mark := record.get("imagined"), str) and mark:
        yield "$.imagined", mark
    kind = record.get("type", "trajectory")
    if kind == "episode":
        yield from _marks_of(record.get("transcript"), "$.transcript")
    elif kind == "trajectory":
        steps = record.get("steps") or []
        yield from _marks_of(steps, "$.steps")
        if mark := (record.get("outcome") or {}).get("imagined"):
            yield "$.outcome.imagined", mark
        for i, step in enumerate(steps):
            for j, alternative in enumerate(step.get("alternatives") or []):
                if (outcome := alternative.get("outcome")) and (mark := outcome.get("imagined")):
                    yield f"$.steps[{i}].alternatives[{j}].outcome.imagined", mark
                if then := alternative.get("then"):
                    yield from _marks_of(then, f"$.steps[{i}].alternatives[{j}].then")


def _marks_of(states: list[dict] | None, place: str) -> Iterator[tuple[str, str]]:
    """Yield (JSON path, fingerprint) for the marks of states, such as steps or turns, that stand in `place`."""
    for i, state in enumerate(states or []):
        if mark := state.get("imagined"):
            yield f"{place}[{i}].imagined", mark


def refuse_imagined(record: dict, purpose: str) -> None:
    """Raise InputError for a trajectory or an episode of an imagined environment, or with a part of one.

    Args:
        purpose: What is read from records, for the message: "success", say.
    """
    if imagined_by(record) is not None:
        place = "$.env" if _has_imagined_env(record) else next(_marks(record))[0]
        raise InputError(f"{purpose} of an imagined environment: a model wrote it, and nothing shows it true", place)


def refuse_unknown_success(episode: dict) -> None:
    """Raise InputError for an episode of which it is not known whether it succeeded: all of an imagined environment."""
    refuse_imagined(episode, "success")
    if episode["success"] is None:
        raise InputError("null in a real environment, so neither a success nor a failure", "$.success")


def only_real(records: Iterable[dict], purpose: str, on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the records of real environments.

    Args:
        purpose: As in `refuse_imagined`.
        on_error: Called with every record of an imagined one.
    """
    return _not_refused(records, lambda record: refuse_imagined(record, purpose), on_error)


def only_judged(episodes: Iterable[dict], on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the episodes of which it is known whether they succeeded; call `on_error` with every other one."""
    return _not_refused(episodes, refuse_unknown_success, on_error)


def _not_refused(records: Iterable[dict], refuse: Callable[[dict], None], on_error: OnError) -> Iterator[dict]:
    """Yield the records for which `refuse` does not raise InputError; call `on_error` with the others."""
    for record in records:
        try:
            refuse(record)
        except InputError as e:
            on_error(record, e)
            continue
        yield record

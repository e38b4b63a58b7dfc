"""What a record holds: its lineage, its seeds, its parts, and what counts as success.

A record is a plain dict, so that keys this version does not know are kept and passed on; eexp/records/types.py
describes and checks them. All probabilities are natural logarithms; scores run from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eexp import __version__

#: The largest weight, in size, of a record or a span: the loss of an update stays far within float32.
LARGEST_WEIGHT = 1e6

#: The types that a command for any record takes: tasks have no id, and only `eexp panel` and `eexp eval` read them.
RECORD_TYPES = ("trajectory", "example", "preference", "episode")


def lineage_entry(stage: str, **settings: Any) -> str:
    """Return one line of lineage: the stage, its version, and every setting that decides what it writes.

    Args:
        stage: The name of the stage.
        settings: Values by name; None leaves a setting out.
    """
    listed = " ".join(f"{k.replace('_', '-')}={v}" for k, v in settings.items() if v is not None)
    return f"{stage} {__version__} {listed}".rstrip()


def with_lineage(record: dict, entry: str) -> dict:
    """Return a shallow copy of `record` with one more line of lineage, which stays the last key."""
    extended = dict(record)
    extended["lineage"] = [*extended.pop("lineage", []), entry]
    return extended


def canonical(action: str) -> str:
    """Return the form in which equal actions in prose are equal: without case, outer punctuation and runs of blanks.

    Where a record is at hand, `equality.action_form` says whether its actions are prose.
    """
    return " ".join(action.split()).strip(" .!\"'`").casefold()


def seed_of(*parts: Any) -> int:
    """Return a 63-bit seed that depends on `parts` alone.

    Random draws are seeded by the identity of a record, never by the time at which it comes, so that order, resuming
    and parallel runs change nothing.
    """
    import hashlib

    text = "\x1f".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def succeeded(outcome: dict | None) -> bool:
    """Return whether an outcome, or an episode, is a success.

    The environment's judgement (`success`) decides; where there is none, only a score of 1 counts as success, whether
    the episode is over or not. An outcome that is not known (None) is no success. This knows no environment: what one
    declares has to be in `success`.

    Episodes hold the result of this rule. A change of it makes recorded ones differ from what a replay finds.
    """
    if outcome is None:
        return False
    success = outcome.get("success")
    return outcome.get("score") == 1.0 if success is None else success


def is_judged(outcome: dict) -> bool:
    """Return whether an outcome, or an episode, says anything of success: it has a judgement or a score."""
    return any(outcome.get(key) is not None for key in ("success", "score"))


def expert_outcome(trajectory: dict, i: int) -> dict | None:
    """Return the outcome of the expert's action at step `i`; None where it is not known.

    That is the next observation or, after the last step, the outcome of the trajectory.
    """
    if i + 1 < len(trajectory["steps"]):
        following = trajectory["steps"][i + 1]
        keys = ("observation", "unknown", "changed", "summary", "tools")
        return {key: following[key] for key in keys if key in following}
    return trajectory.get("outcome")


def tools_at(record: dict, i: int) -> list[dict] | None:
    """Return the functions that the environment offers at step `i` of a trajectory; None where it offers none."""
    for step in record["steps"][i:0:-1]:
        if step.get("tools") is not None:
            return step["tools"]
    return record.get("tools")


def is_only_shown(step: dict) -> bool:
    """Return whether a step is there for what it shows to those after it: no stage makes an example of its action."""
    return bool(step.get("mistake") or step.get("repeated"))


def alternatives_of(
    step: dict, pool: str | None = None, first: int | None = None, form: Callable[[str], str] = canonical
) -> list[dict]:
    """Return the alternatives of a step, executed or not, in the order of the record.

    Args:
        pool: Only the alternatives of this pool; "" means those without a pool. None takes all pools, but each action
            only once: where two pools hold the same action, the first one that was executed is taken.
        first: At most this many, counted within the selection, so that the first 3 are part of the first 5.
        form: The form in which equal actions of the trajectory are equal (`equality.action_form`).
    """
    alternatives = step.get("alternatives") or []
    if pool is None:
        by_action: dict[str, dict] = {}
        for alternative in alternatives:
            key = form(alternative["action"])
            if key not in by_action or (not by_action[key].get("outcome") and alternative.get("outcome")):
                by_action[key] = alternative
        selected = list(by_action.values())
    else:
        selected = [alternative for alternative in alternatives if (alternative.get("pool") or "") == pool]
    return selected[:first]


def example_id(trajectory: dict, name: str) -> str:
    """Return the id of an example made from a trajectory; `name` tells it from the others of the same trajectory."""
    return f"{trajectory['id']}/{name}"


#: The values of fields of an example that do not apply. None would do for JSON, but a column that is null in all of a
#: file has no type, and readers of several files (datasets, say) take the types of the first one for all.
_NOT_APPLICABLE = {"spans": [], "transition": "", "target": "", "scores": [], "reflection_by": "", "gain": 0.0}


def example(
    trajectory: dict,
    name: str,
    kind: str,
    prompt: list[dict],
    completion: list[dict],
    prompt_style: str,
    tools: list[dict] | None = None,
    **more: Any,
) -> dict:
    """Return an example record made from a trajectory, with every field.

    Args:
        trajectory: The trajectory, of which the example takes its group and its lineage.
        name: As in `example_id`.
        kind: The kind of the example, such as "imitation".
        tools: The functions that the prompt shows; None leaves the field out.
        more: Further fields, in place of those that do not apply. `imagined` is that of the trajectory (`imagined_by`)
            where it is not given; None leaves it out.
    """
    from eexp.records.imagination import imagined_by

    imagined = more.pop("imagined") if "imagined" in more else imagined_by(trajectory)
    return {
        "type": "example",
        "kind": kind,
        "id": example_id(trajectory, name),
        "group": trajectory.get("origin") or trajectory["id"],
        "prompt": prompt,
        "completion": completion,
        **({"tools": tools} if tools is not None else {}),
        "weight": 1.0,
        "prompt_style": prompt_style,
        **_NOT_APPLICABLE,
        **more,
        **({} if imagined is None else {"imagined": imagined}),
        "lineage": trajectory.get("lineage", []),
    }


def preference(
    trajectory: dict,
    name: str,
    prompt: list[dict],
    chosen: list[dict],
    rejected: list[dict],
    prompt_style: str,
    **more: Any,
) -> dict:
    """Return a preference record made from a trajectory.

    Args:
        more: The fields `worse`, `chosen_outcome` and `rejected_outcome`, and perhaps `tools`.
    """
    return {
        "type": "preference",
        "id": example_id(trajectory, name),
        "group": trajectory.get("origin") or trajectory["id"],
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "weight": 1.0,
        "prompt_style": prompt_style,
        **more,
        "lineage": trajectory.get("lineage", []),
    }


def answers_of(preference: dict) -> tuple[dict, dict]:
    """Return the two answers of a preference as examples, of the kinds "chosen" and "rejected"."""
    chosen, rejected = (
        {
            **{key: preference[key] for key in ("id", "group", "prompt", "prompt_style", "tools") if key in preference},
            "type": "example",
            "kind": kind,
            "completion": preference[kind],
            "weight": preference.get("weight", 1.0),
        }
        for kind in ("chosen", "rejected")
    )
    return chosen, rejected

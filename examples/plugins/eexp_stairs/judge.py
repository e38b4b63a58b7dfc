"""`eexp preference-data --worse behind`: one that leads to a lower step than the expert's is worse."""

import re

from eexp.records.record import expert_outcome


def behind(trajectory, i, alternative):
    """Return whether an executed alternative of step `i` leads to a lower step than the expert's action."""
    own, expert = step_of(alternative["outcome"]), step_of(expert_outcome(trajectory, i))
    return own is not None and expert is not None and own < expert


def step_of(outcome):
    """Return the step that an outcome tells of; None where it tells of none."""
    found = re.search(r"step (\d+)", outcome["observation"]) if outcome else None
    return int(found[1]) if found else None

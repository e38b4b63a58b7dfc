"""`eexp preference-data --worse behind`: one that leads to a lower step than the expert's is worse."""

import re

from eexp.records.record import expert_outcome


def behind(trajectory, i, alternative):
    """Return whether an executed alternative of step `i` leads to a lower step than the expert's action."""
    outcomes = (alternative["outcome"], expert_outcome(trajectory, i))
    steps = [re.search(r"step (\d+)", outcome["observation"]) for outcome in outcomes if outcome]
    return len(steps) == 2 and all(steps) and int(steps[0][1]) < int(steps[1][1])

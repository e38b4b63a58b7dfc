"""`eexp reflect --rationale short`: what the expert's action leads to, in a sentence."""


def short(situation, settings):
    """Return the reflection on a state; "" where its outcome is not known."""
    if situation.outcome is None:
        return ""
    return f"I want to {situation.step['action']}: I expect {situation.outcome['observation']!r}."

"""`eexp reflect --guard stepless`: a thought that names no step of the stairs is refused."""


def stepless(text, situation):
    """Return the fault of a text without a digit; None for one without this fault."""
    return None if any(letter.isdigit() for letter in text) else "names no step"

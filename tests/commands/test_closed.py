"""Standard streams that are closed (`<&-`, `>&-`, `2>&-`): who uses one fails in one line, the others lose nothing."""

from __future__ import annotations

import pytest
from running import EEXP_IN_BASH, shell

CLOSED = "Bad file descriptor"


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("imitation-data <&-", 3, f"error: <stdin>: {CLOSED}"),
        ("imitation-data expert >&-", 1, f"error: <stdout>: {CLOSED}"),
        ("stats expert >&-", 1, f"error: <stdout>: {CLOSED}"),
        ("--version >&-", 1, f"error: <stdout>: {CLOSED}"),
        ("imitation-data missing 2>&-", 3, ""),
        ("nothing 2>&-", 2, ""),
    ],
)
def test_a_command_that_uses_a_closed_stream_says_so(data, tmp_path, command, code, error):
    (tmp_path / "expert").symlink_to(data["expert"])
    result = shell(f"{EEXP_IN_BASH}\neexp {command}", tmp_path)
    assert (result.code, result.out, result.err.strip()) == (code, b"", error)


def test_other_commands_write_what_they_always_write(data, tmp_path):
    """No file of theirs, nor one of their workers', gets the number of a closed stream."""
    commands = {
        "imitation": f"imitation-data {data['expert']}",
        "rollout": f"rollout -j 2 {data['branched']}",
        "episodes": "eval house -m random -n 4 --max-steps 6",
    }
    for name, command in commands.items():
        shell(f"{EEXP_IN_BASH}\neexp {command} -o {name} <&- >&- 2>&-", tmp_path).ok()
        assert (tmp_path / name).read_bytes() == data[name].read_bytes()
    shell(f"{EEXP_IN_BASH}\neexp {commands['imitation']} 2>&- > piped", tmp_path).ok()
    assert (tmp_path / "piped").read_bytes() == data["imitation"].read_bytes()

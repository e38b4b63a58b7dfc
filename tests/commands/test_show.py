"""`eexp show`: one record or one step by its place, trees, and what a terminal gets."""

from __future__ import annotations

import os
import subprocess

import pytest
from running import EEXP, lines, read, run, write


@pytest.fixture(scope="module")
def rollout(tmp_path_factory):
    """Write two trajectories; the first has a refused action, and an observation that is long."""
    file = tmp_path_factory.mktemp("show") / "rollout.jsonl"
    run("expert", "house", "-n", 2, "-q", "-o", file).ok()
    trajectories = read(file)
    outcome = {"observation": "No.", "valid": False, "done": False}
    steps = trajectories[0]["steps"]
    steps[0]["alternatives"] = [{"action": "fly", "source": "policy", "outcome": outcome}]
    steps[1]["alternatives"] = [{"action": "hop", "source": "policy", "outcome": None}]
    steps[1]["observation"] = "long " * 400
    write(file, trajectories)
    return file


def test_one_step_is_shown_by_its_place(rollout):
    first = read(rollout)[0]
    text = run("show", f"{rollout}#{first['id']}/1").ok().out.decode()
    assert f"1> {first['steps'][1]['action']}" in text and "~ hop" in text
    assert f"0> {first['steps'][0]['action']}" not in text and "~ fly" not in text
    whole = run("show", f"{rollout}#{first['id']}").ok().out
    assert whole == run("show", "--id", first["id"], rollout).ok().out
    run("show", f"{rollout}#{first['id']}/99").one_error(3, "has no step 99")
    run("show", f"{rollout}#nothing").one_error(3, "no record has the id 'nothing'")


def test_a_tree_has_one_line_an_action(rollout):
    text = run("show", "--tree", "-n", 1, rollout).ok().out.decode()
    first = read(rollout)[0]
    assert "├─ fly  refused" in text and "├─ hop  not executed" in text
    assert len(text.splitlines()) == 3 + len(first["steps"]) + 2


def test_a_terminal_gets_a_pager_and_cut_observations_and_a_pipe_gets_neither(rollout):
    command = [*EEXP, "show", "-n", "1", str(rollout)]
    paged = _on_a_terminal(command, PAGER="sed 's/^/paged: /'")
    assert all(line.startswith("paged: ") for line in paged.splitlines())
    assert "characters more; --full shows them" in paged and "\x1b[32m" in paged
    assert "long " * 400 in _on_a_terminal([*command, "--full"], PAGER="")
    assert _on_a_terminal(command, PAGER="true") == ""  # a pager that reads nothing is no error
    piped = run("show", "-n", 1, stdin=lines(read(rollout))).ok().out.decode()
    assert "long " * 400 in piped and "\x1b" not in piped


def _on_a_terminal(command: list[str], **environment: str) -> str:
    """Return what a command writes where standard output is a terminal."""
    ours, theirs = os.openpty()
    child = subprocess.Popen(command, stdout=theirs, stdin=subprocess.DEVNULL, env={**os.environ, **environment})
    os.close(theirs)
    text = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the terminal has no program any more
            break
        if not block:
            break
        text += block
    os.close(ours)
    assert child.wait(60) == 0
    return text.decode().replace("\r\n", "\n")

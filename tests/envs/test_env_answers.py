"""What a stranger's class returns is checked where it returns it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lying_world import LIES, Corridor
from running import run

from eexp.envs import open_env
from eexp.errors import EexpError, EnvironmentFailed

SPEC = "lying_world:Corridor"

MESSAGES = {
    "none": "returned None, expected an Observation",
    "text": "returned 'You go on.' (str), expected an Observation",
    "bytes": "whose text is b'You go on.' (bytes), expected a string",
    "one": "whose done is 1 (int), expected True or False",
    "nan": "whose score is nan (float), expected a finite number or None",
    "full": "whose score is True (bool), expected a finite number or None",
    "word": "whose success is 'yes' (str), expected True, False or None",
    "zero": "whose valid is 0 (int), expected True or False",
    "range": "whose unknown is [3] (list), expected a list of (start, end)",
    "tools": "returned an Observation with wrong tools: $.tools[0].function: missing",
    "start": "returned None, expected an Observation",
    "string": "returned 'on back' (str), expected a list of strings or None",
    "numbers": "returned a list with 3 (int) in it, expected a list of strings or None",
    "number": "returned 3 (int), expected a string or None",
    "list": "returned ['on'] (list), expected a string or None",
    "nothing": "returned None, expected a string",
    "names": "returned 'train' (str), expected a list of strings",
    "self": "returned the environment itself, and not a copy of it",
    "copy": "returned 'a copy' (str), expected an Environment",
    "perhaps": "returned 'no' (str), expected True or False",
    "masked": "returned None, expected a string",
    "kind": "returned 7 (int), expected a string or None",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """Trajectories of the class where it does not lie, with alternatives."""
    where = tmp_path_factory.mktemp("recorded")
    run("expert", SPEC, "-n", 2, "-o", where / "expert").ok()
    run("branch", "--from", "admissible", where / "expert", "-o", where / "branched").ok()
    return where / "branched"


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_one_clear_line(lie):
    method, _ = LIES[lie]
    with open_env(f"{SPEC}?lie={lie}") as env, pytest.raises(EnvironmentFailed) as error:
        arguments = {"step": ("on",), "reset": ({},), "harmless": ("on",), "mask": ("x",), "kind_of": ({},)}
        env.reset({})
        getattr(env, method)(*arguments.get(method, ()))
    assert str(error.value).startswith(f"{SPEC}.{method}: ") and MESSAGES[lie] in str(error.value)


def test_a_class_that_does_not_lie_stays_as_it_is():
    with open_env(SPEC) as env:
        assert isinstance(env, Corridor) and type(env).__qualname__ == "Corridor" and env.has("fork")
        assert not env.has("save") and not env.has("task_named")
        assert env.reset({}).text == "You are at the beginning." and type(env.fork()) is type(env)
    assert type(open_env("house")).__mro__[1].__name__ == "Environment", "no check of what is part of eexp"


@pytest.mark.slow
@pytest.mark.parametrize("light", ["", "&light=yes"])
@pytest.mark.parametrize("lie", ["none", "bytes", "one", "nan", "start", "nothing", "kind", "string", "self"])
def test_a_lie_costs_a_record_and_no_traceback(lie, light, recorded, tmp_path):
    spec, (method, _) = f"{SPEC}?lie={lie}{light}", LIES[lie]
    message = f"{SPEC}.{method}: "
    commands = {
        "rollout": ["--env", spec, "-j", 1, recorded],
        "expert": [spec, "-n", 1],
        "eval": [spec, "-m", "random"],
    }
    not_asked = {"kind": ["rollout", "expert"], "string": [], "self": ["expert", "eval"]}
    for command, arguments in commands.items():
        result = run(command, *arguments)
        if command in not_asked.get(lie, []):
            result.ok()
        elif command == "rollout" and method in ("step", "fork"):  # it costs the alternative first
            assert message in result.err and result.code in (1, 4)
        else:
            assert message in result.one_error(1)
        assert "Traceback" not in result.err
    rejects = tmp_path / "rejects"
    run("rollout", "--env", spec, "-j", 1, recorded, "--rejects", rejects)
    assert "Traceback" not in rejects.read_text()


@pytest.mark.slow
def test_a_copy_that_its_class_makes_by_name_is_checked_too(recorded):
    result = run("rollout", "--env", f"{SPEC}?lie=named", "-j", 1, recorded)
    assert "Corridor.step: returned None" in result.err and "Traceback" not in result.err


@pytest.mark.slow
def test_a_reset_that_differs_is_one_line(recorded):
    result = run("rollout", "--env", f"{SPEC}?lie=differs", "-j", 1, recorded).ok(4)
    assert "branch point refused: the observation is 'You are at the beginning for the 1. time.'" in result.err
    shown = run("env", "check", f"{SPEC}?lie=differs").ok(1)
    assert b"FAILED" in shown.out.upper()


def test_a_limit_that_is_no_number_is_refused(tmp_path, monkeypatch):
    (tmp_path / "world_without_end.py").write_text(
        "from lying_world import Corridor\nclass Endless(Corridor):\n    max_steps = 'all'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EexpError, match="max_steps is 'all', expected a whole number from 1 on"):
        open_env("world_without_end:Endless")

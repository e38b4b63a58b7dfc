"""`openenv:URL` against servers of the package openenv."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import pytest
from running import lazily, lines, run, spawn

from eexp.envs import open_env
from eexp.envs.check import Checker
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, UsageError
from eexp.records.record import succeeded
from eexp.records.types import check_tools

pytestmark = pytest.mark.skipif(
    not (find_spec("openenv") and find_spec("websockets")), reason="needs openenv, for its servers"
)
openenv_server = lazily("openenv_server")

WAY = ["add one", "halve", "halve", "halve", "halve"]  # from 15, the start with seed 13


@pytest.fixture(scope="module")
def numbers():
    with openenv_server.served("numbers") as url:
        yield f"openenv:{url}"


@pytest.fixture(scope="module")
def nim():
    with openenv_server.served("nim") as url:
        yield f"openenv:{url}"


def play(env, task: dict, way: list[str]) -> list:
    return [env.reset(task), *(env.step(action) for action in way)]


def test_a_text_environment(numbers):
    with open_env(numbers) as env:
        assert env.splits() == ["train", "test"] and env.max_steps == 50
        assert next(env.tasks("test")) == {"id": "seed/1000000", "split": "test", "seed": 1000000}
        observations = play(env, {"seed": 13}, WAY)
        assert [s.text for s in observations[:3]] == ["The number is 15.", "The number is 16.", "The number is 8."]
        assert [s.done for s in observations] == [False] * 5 + [True] and all(s.valid for s in observations)
        assert observations[-1].score == 1.0 and [succeeded(o.outcome()) for o in observations] == [False] * 5 + [True]
        assert env.instruction() == ""
        after = env.step("add one")
        assert after.done and not after.valid and env.admissible() == []
        assert play(env, {"seed": 13}, WAY) == observations
        assert env.admissible() == []
        env.reset({"seed": 13})
        assert env.admissible() == ["halve", "add one", "take one"]


@pytest.mark.parametrize("action", ["", "fly", "zwölf\n", '{"move": "halve"}'])
def test_an_action_that_the_server_rejects_is_not_valid(numbers, action):
    with open_env(numbers) as env:
        before = env.reset({"seed": 3})
        observation = env.step(action)
        assert (
            not observation.valid
            and not observation.done
            and observation.text.startswith("move: Input should be 'halve'")
        )
        assert env.step("take one").text == before.text.replace("5", "4")


def test_a_typed_environment_with_tasks_of_its_own(nim):
    with open_env(f"{nim}?admissible=legal&instruction=task&reward=sum") as env:
        assert env.splits() == ["train", "test"]
        assert list(env.tasks("train"))[2] == {"id": "train/2", "split": "train", "index": 2}
        task = next(env.tasks("test"))
        first = env.reset(task)
        assert json.loads(first.text)["heaps"] == [2, 2]
        assert env.instruction() == (
            "Take the last one.\nAn action is a JSON object with heap (integer), count (integer)."
        )
        assert env.admissible()[-1] == '{"heap": 1, "count": 2}'
        for wrong in ("take two", "[1]", "7", '{"heap": 0'):
            assert env.step(wrong).text.startswith("An action is a JSON object with heap")
        observation = env.step('{"heap": "x"}')
        assert not observation.valid and re.match("heap: .*valid integer.*; count: Field required", observation.text)
        observation = env.step('{"heap": 0, "count": 1}')
        assert json.loads(observation.text)["heaps"] == [0, 2] and observation.valid and observation.score == 0.25
        observation = env.step('{"heap": 1, "count": 2}')
        assert observation.done and observation.score == 1.0 and succeeded(observation.outcome())
    with open_env(f"{nim}?action=heap&text=task&train=3-4&max_steps=7") as env:
        assert env.splits() == ["train"] and env.max_steps == 7
        assert env.reset(next(env.tasks("train"))).text == "Take the last one."
        assert env.step("0").text == "count: Field required" and env.instruction() == ""
        assert env.step("nil").text.startswith("heap: ")


def test_tools():
    with openenv_server.served("doors") as url, open_env(f"openenv:{url}") as env:
        observation = env.reset({"seed": 2})
        assert "Five doors." in observation.text
        assert env.instruction().endswith(
            "open_door(number (integer), knock (boolean)): Open a door and look behind it."
        )
        assert env.admissible() is None
        observation = env.step('{"tool_name": "open_door", "arguments": {"number": 1}}')
        assert "A wall." in observation.text and observation.valid and not observation.done
        assert not env.step('{"tool_name": "climb", "arguments": {}}').valid
        assert not env.step("open door 2").valid
        observation = env.step('{"tool_name": "open_door", "arguments": {"number": 2}}')
        assert "The way out." in observation.text and observation.done and succeeded(observation.outcome())


def test_tools_as_schemas():
    with openenv_server.served("doors") as url, open_env(f"openenv:{url}?tools=schema") as env:
        first = env.reset({"seed": 2})
        check_tools(first.tools)
        (tool,) = (tool["function"] for tool in first.tools)
        assert tool["name"] == "open_door" and set(tool["parameters"]["properties"]) == {"number", "knock"}
        assert "open_door" not in env.instruction()
        refused = env.step("open door 2")
        assert not refused.valid and "not a function call" in refused.text
        observation = env.step("open_door(number=2)")
        assert observation.done and observation.tools is None and succeeded(observation.outcome())


def test_sessions_are_independent_and_a_full_server_is_one_error():
    with openenv_server.served("numbers", rooms=2) as url:
        with open_env(f"openenv:{url}") as one, open_env(f"openenv:{url}") as other:
            one.reset({"seed": 1}), other.reset({"seed": 5})
            assert one.step("take one").text == "The number is 2." and other.step("take one").text == "The number is 6."
            with pytest.raises(
                NoRoom, match=r"2/2 sessions active.* \(CAPACITY_REACHED\); a server has room for one"
            ) as e:
                open_env(f"openenv:{url}")
            assert not isinstance(e.value, InputError)
        one.close()


def test_a_server_with_one_session_is_played_one_episode_at_a_time():
    with openenv_server.served("nim", rooms=1) as url:
        spec = f"openenv:{url}?admissible=legal"
        result = spawn("eval", spec, "-m", "random", "--split", "train", "--trials", "2", "--parallel", "3").ok()
        assert len(result.records) == 6 and "2 workers for which the server had no room" in result.err
        assert not any(r["invalid"] for r in result.records)
        with open_env(spec):  # another client's session
            spawn("eval", spec, "-m", "random", "--split", "train").one_error(1, "1/1 sessions active")


@pytest.mark.long
def test_a_server_with_one_session_executes_one_trajectory_at_a_time():
    with openenv_server.served("numbers", rooms=1) as url:
        with open_env(f"openenv:{url}") as env:
            observation = env.reset({"seed": 13})
        steps = [
            {
                "observation": observation.text,
                "action": "add one",
                "admissible": None,
                "alternatives": [{"action": "take one", "source": "policy", "outcome": None}],
            }
        ]
        task = {"id": "seed/13", "seed": 13}
        records = [
            {
                "type": "trajectory",
                "id": f"{n}",
                "env": "x",
                "task": task,
                "instruction": "",
                "steps": steps,
                "outcome": None,
            }
            for n in range(4)
        ]
        result = spawn("rollout", "-j", "3", "--env", f"openenv:{url}", stdin=lines(records)).ok()
        assert [r["id"] for r in result.records] == ["0", "1", "2", "3"]
        assert "4 branch points verified" in result.err and "2 workers for which the server had no room" in result.err


@pytest.mark.long
def test_a_server_with_one_session_is_checked():
    with openenv_server.served("nim", rooms=1) as url:
        checker = Checker(lambda: open_env(f"openenv:{url}?admissible=legal"), tasks=1, limit=9)
        verdicts = {finding.check: (finding.verdict, finding.detail) for finding in checker.findings()}
        assert not [check for check, (verdict, _) in verdicts.items() if verdict == "FAIL"], verdicts
        assert verdicts["starts anew"][1].endswith("one session at a time: the server has no room for two")
        assert verdicts["admissible"][0] == "ok"


def test_a_lost_connection_costs_the_record_and_no_action_reaches_a_new_session(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "5")
    with openenv_server.served("numbers") as url:
        env = open_env(f"openenv:{url}")
        env.reset({"seed": 13})
    with pytest.raises(EnvironmentFailed, match="step: Connection"):
        env.step("add one")
    with pytest.raises(EnvironmentFailed, match="/ws: Connection"):
        env.reset({"seed": 13})
    with openenv_server.served("numbers", port=int(url.rpartition(":")[2])):
        with pytest.raises(EnvironmentFailed, match="no episode is running"):
            env.step("add one")
        assert succeeded(play(env, {"seed": 13}, WAY)[-1].outcome())
        env.close()


def test_an_environment_that_raises_or_hangs(numbers, monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "1")
    with open_env(numbers) as env:
        env.reset({"seed": 13})
        with pytest.raises(EnvironmentFailed, match=r"step: an odd number has no half$"):
            env.step("halve")
        assert env.reset({"seed": 13}).text == "The number is 15."
        with pytest.raises(EnvironmentFailed, match="reset: no answer within 1 s"):
            env.reset({"seed": 999})
        assert env.reset({"seed": 13}).text == "The number is 15."


def test_a_task_of_a_record_is_checked(numbers):
    with open_env(numbers) as env:
        for wrong in ({}, {"seed": "3"}, {"seed": -1}, {"index": True}):
            with pytest.raises(InputError, match=r"\$\.task\."):
                env.reset(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?action=way", "there are: move, json"),
        ("?reward=most", "expected last or sum"),
        ("?train=x", "expected numbers of tasks"),
        ("?train=0-9&test=9", "both in train and in test"),
        ("?colour=red", "no option 'colour'; it has: action, text"),
    ],
)
def test_options_that_make_no_sense(numbers, options, message):
    with pytest.raises(UsageError, match=message):
        open_env(numbers + options)


def test_fields_that_an_observation_does_not_have(numbers):
    with open_env(f"{numbers}?text=words") as env, pytest.raises(EnvironmentFailed, match=r"observation\.words"):
        env.reset({"seed": 1})
    with open_env(f"{numbers}?admissible=text") as env:
        env.reset({"seed": 1})
        with pytest.raises(EnvironmentFailed, match=r"observation\.text: expected a list"):
            env.admissible()


def test_a_missing_server_is_one_error():
    with pytest.raises(EexpError, match="/schema: ConnectError"):
        open_env("openenv:http://127.0.0.1:1")
    with pytest.raises(UsageError, match="expected http://"):
        open_env("openenv:localhost:8000")


def test_branches_are_replayed_in_workers(numbers):
    with open_env(numbers) as env:
        task, steps = {"id": "seed/13", "split": "train", "seed": 13}, []
        observation = env.reset(task)
        for action in WAY:
            others = [{"action": a, "source": "admissible", "outcome": None} for a in ("take one", "jump")]
            steps.append(
                {
                    "observation": observation.text,
                    "action": action,
                    "admissible": env.admissible(),
                    "alternatives": others,
                }
            )
            observation = env.step(action)
    records = {
        "type": "trajectory",
        "id": "x",
        "env": numbers,
        "task": task,
        "instruction": "",
        "steps": steps,
        "outcome": observation.outcome(),
    }
    result = spawn("rollout", "-j", "2", "--env", numbers, stdin=lines([records, {**records, "id": "y"}])).ok()
    assert (
        "10 branch points verified, 20 alternatives executed by replay, 20 of them because the environment cannot copy "
        "its state: the server does not offer `save` and `restore`, 10 alternatives answered as invalid" in result.err
    )
    outcome = result.records[1]["steps"][1]["alternatives"][0]["outcome"]
    assert outcome["observation"] == "The number is 15." and outcome["valid"]


def test_random_play(nim):
    result = run("eval", f"{nim}?admissible=legal", "-m", "random").ok()
    assert [r["success"] for r in result.records] and all(r["invalid"] == 0 for r in result.records)
    run("eval", nim, "-m", "random").one_error(3, "random policy needs admissible actions")

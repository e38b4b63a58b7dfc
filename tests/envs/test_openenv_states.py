"""`save`, `restore` and `release` of `openenv:URL`, against the server of examples/openenv_states.py."""

from __future__ import annotations

import asyncio
import json
import random
import time
from importlib.util import find_spec

import pytest
from running import lazily, lines, spawn

from eexp.acting.execution import execute
from eexp.envs import open_env
from eexp.envs.check import Checker
from eexp.errors import EexpError, EnvironmentFailed, UsageError

pytestmark = pytest.mark.skipif(
    not (find_spec("openenv") and find_spec("websockets")), reason="needs openenv, for its servers"
)
openenv_server = lazily("openenv_server")

ACTIONS = ["left", "right", "none"]


@pytest.fixture(scope="module")
def scales():
    with openenv_server.served("scales") as url:
        yield f"openenv:{url}"


def states(spec: str) -> int:
    """Return how many states the server keeps, in all sessions."""
    return sum(len(session.states) for session in openenv_server.SESSIONS[spec.removeprefix("openenv:")])


def forgets_all(spec: str) -> bool:
    """Return whether the server soon keeps no state; it notices late that a client is gone."""
    deadline = time.monotonic() + 10
    while states(spec) and time.monotonic() < deadline:
        time.sleep(0.1)
    return states(spec) == 0


def path(env, seed: int = 3, steps: int = 8, alternatives: tuple[str, ...] = ("left", "none", "jump")) -> dict:
    """Return a trajectory of random actions, with the same alternatives at every step."""
    rng, recorded, task = random.Random(seed), [], {"id": f"seed/{seed}", "split": "train", "seed": seed}
    observation = env.reset(task)
    for _ in range(steps):
        branches = [{"action": action, "source": "admissible", "outcome": None} for action in alternatives]
        action = rng.choice(ACTIONS[:2])
        recorded.append(
            {
                "observation": observation.text,
                "action": action,
                "admissible": env.admissible(),
                "alternatives": branches,
            }
        )
        observation = env.step(action)
    return {
        "type": "trajectory",
        "id": f"seed/{seed}",
        "env": env.spec,
        "task": task,
        "instruction": env.instruction(),
        "steps": recorded,
        "outcome": observation.outcome(),
    }


# -- states ----------------------------------------------------------------------------------------------------------


def test_a_state_is_restored_any_number_of_times_until_it_is_released(scales):
    with open_env(scales) as env:
        assert env.has("save") and env.why_no_copy() is None
        env.reset({"seed": 1})
        before = env.step("left")
        state = env.save()
        assert states(scales) == 1
        after = [env.step(action).text for action in ("right", "none")]
        for _ in range(3):
            env.restore(state)
            assert [env.step(action).text for action in ("right", "none")] == after
        env.restore(state)
        other = env.save()
        env.release(state)
        assert states(scales) == 1
        with pytest.raises(EnvironmentFailed, match=r"restore: there is no state '[0-9a-f]{32}' in this episode$"):
            env.restore(state)
        env.restore(other)
        assert env.step("right").text == after[0] != before.text


def test_what_the_session_knows_is_restored_too(scales):
    with open_env(f"{scales}?reward=sum") as env:
        env.reset({"seed": 1})
        for _ in range(openenv_server.openenv_states.Scales.STONES - 1):
            env.step("left")
        state, listed = env.save(), env.admissible()
        end = env.step("left")
        assert end.done and end.score and env.admissible() == []
        over = env.save()
        env.restore(state)
        assert env.admissible() == listed == ACTIONS and env.step("left") == end
        env.restore(over)
        assert env.step("left").text == "The episode is over."


def test_states_end_with_their_episode_and_their_session(scales):
    with open_env(scales) as env, open_env(scales) as other:
        env.reset({"seed": 1}), other.reset({"seed": 1})
        state = env.save()
        with pytest.raises(EnvironmentFailed, match="restore: the state belongs to an episode that is over"):
            other.restore(state)
        env.reset({"seed": 1})
        assert states(scales) == 0
        for method in (env.restore, env.release):
            with pytest.raises(EnvironmentFailed, match="the state belongs to an episode that is over"):
                method(state)
        assert env.step("left").valid
        env.save(), other.save()
        assert states(scales) == 2
    assert forgets_all(scales)


def test_a_session_keeps_only_so_many_states(scales, monkeypatch):
    monkeypatch.setattr(openenv_server.openenv_states, "MOST_STATES", 3)
    with open_env(scales) as env:
        env.reset({"seed": 1})
        kept = [env.save() for _ in range(3)]
        with pytest.raises(EnvironmentFailed, match=r"save: 3 states are saved already; release some$"):
            env.save()
        env.release(kept[0])
        env.restore(kept[1])
        env.save()


# -- branches --------------------------------------------------------------------------------------------------------


def test_branches_by_state_equal_replays_and_leave_no_state_behind(scales):
    with open_env(scales) as env:
        for seed in range(3):
            trajectory = path(env, seed)
            by_state, by_replay = (execute(env, trajectory, way) for way in ("state", "replay"))
            assert by_state.trajectory == by_replay.trajectory and not by_state.refused
            assert by_state.counts["alternative[s] executed by state"] == 24
            assert states(scales) == 0


def test_workers_branch_by_state(scales):
    with open_env(scales) as env:
        trajectories = [path(env, seed) for seed in range(3)]
    result = spawn("rollout", "-j", "2", "--env", scales, stdin=lines(trajectories)).ok()
    assert (
        "24 branch points verified, 72 alternatives executed by state, 24 alternatives answered as invalid"
        in result.err
    )
    replayed = spawn("rollout", "--fork", "replay", "--env", scales, stdin=lines(trajectories)).ok()
    assert [r["steps"] for r in replayed.records] == [r["steps"] for r in result.records]
    assert "cannot copy" not in result.err + replayed.err


def test_an_alternative_that_fails_or_hangs_costs_only_itself(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "1")
    with openenv_server.served("touchy") as url, open_env(f"openenv:{url}") as env:
        trajectory = path(env, 5, steps=6, alternatives=("right", "none", "left"))
        executed = execute(env, trajectory, "state")
        assert [error.where for error in executed.refused] == ["$.steps[2]", "$.steps[3]"]
        assert "nothing may be thrown away now" in executed.refused[0].message
        assert "no answer within 1 s" in executed.refused[1].message
        assert executed.counts["alternative[s] executed by state"] == 16 and forgets_all(f"openenv:{url}")


def test_the_check_covers_the_forks(scales):
    verdicts = {f.check: (f.verdict, f.detail) for f in Checker(lambda: open_env(scales), tasks=2, limit=9).findings()}
    assert not [check for check, (verdict, _) in verdicts.items() if verdict == "FAIL"], verdicts
    assert verdicts["forks"][0] == "ok" and verdicts["forks"][1].startswith("state: ")


# -- servers that save nothing, and those that go wrong ----------------------------------------------------------------


def test_a_server_of_openenv_itself_is_replayed_and_that_is_said_once():
    with openenv_server.served("nim") as url, open_env(f"openenv:{url}?admissible=legal") as env:
        assert env.why_no_copy() == "the server does not offer `save` and `restore`"
        task = next(env.tasks("train"))
        env.reset(task)
        with pytest.raises(EnvironmentFailed, match=r"save: the server does not offer `save` and `restore`$"):
            env.save()
        assert env.step(env.admissible()[0]).valid  # the session goes on
        verdicts = {
            f.check: f.detail
            for f in Checker(lambda: open_env(f"openenv:{url}?admissible=legal"), tasks=1, limit=9).findings()
        }
        assert verdicts["forks"].startswith("cannot be forked (the server does not offer `save` and `restore`); every")
        with pytest.raises(UsageError, match=r"--fork state: .* cannot copy its state: the server does not offer"):
            execute(env, {"task": task, "steps": []}, "state")


def test_the_standard_client_plays_as_before(scales):
    """The server adds messages; all others reach OpenEnv's own code, in both directions."""
    from openenv.core.generic_client import GenericEnvClient

    async def play(url: str) -> list:
        async with GenericEnvClient(base_url=url) as client:
            results = [await client.reset(seed=3)]
            for pan in ("left", "none", "right"):
                results.append(await client.step({"pan": pan}))
            state = await client.state()
            return [result.observation["text"] for result in results] + [state["step_count"]]

    with open_env(scales) as env:
        texts = [env.reset({"seed": 3}).text, *(env.step(a).text for a in ("left", "none", "right"))]
    assert asyncio.run(play(scales.removeprefix("openenv:"))) == [*texts, 3]


def test_a_lost_connection_loses_its_states(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "5")
    with openenv_server.served("scales") as url:
        env = open_env(f"openenv:{url}")
        env.reset({"seed": 3})
        state = env.save()
    with pytest.raises(EnvironmentFailed, match="restore: Connection"):
        env.restore(state)
    for method in (env.restore, env.release):
        with pytest.raises(EnvironmentFailed, match=r"(restore|release): no episode is running; `reset` starts one"):
            method(state)
    with pytest.raises(EnvironmentFailed, match="save: no episode is running; `reset` starts one"):
        env.save()
    with openenv_server.served("scales", port=int(url.rpartition(":")[2])):
        assert env.reset({"seed": 3}).valid
        with pytest.raises(EnvironmentFailed, match="restore: the state belongs to an episode that is over"):
            env.restore(state)
        env.restore(env.save())
        env.close()


def test_a_server_that_no_longer_saves_after_its_restart(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "5")
    with openenv_server.served("scales") as url:
        env = open_env(f"openenv:{url}")
        trajectory = path(env)
    with openenv_server.served("numbers", port=int(url.rpartition(":")[2])):
        with pytest.raises(EnvironmentFailed):
            env.step("left")
        env.reset({"seed": 3})
        with pytest.raises(EnvironmentFailed, match=r"save: the server does not offer"):
            env.save()
        env.close()
    assert trajectory["steps"]


def test_a_name_from_before_a_restart_is_unknown_to_the_server():
    names = []
    for _ in range(2):
        with openenv_server.served("scales") as url:
            answers = talk(url, *({"type": "restore", "data": {"state": name}} for name in names), {"type": "save"})
            names.append(answers[-1]["data"]["state"])
    assert answers[0]["data"] == {
        "message": f"there is no state '{names[0]}' in this episode",
        "code": "EXECUTION_ERROR",
    }


def talk(url: str, *messages: dict) -> list[dict]:
    """Return the answers to messages, after a reset."""
    from websockets.sync.client import connect

    with connect(url.replace("http", "ws", 1) + "/ws") as socket:
        answers = []
        for message in ({"type": "reset", "data": {"seed": 1}}, *messages):
            socket.send(json.dumps(message))
            answers.append(json.loads(socket.recv(timeout=10)))
        return answers[1:]


def test_the_conversation_of_the_documentation(scales):
    answers = talk(
        scales.removeprefix("openenv:"),
        {"type": "hello", "data": {"protocol": 1}},
        {"type": "save"},
        {"type": "restore", "data": {"state": ["no name"]}},
        {"type": "restore", "data": "no object"},
        {"type": "close state"},
    )
    assert answers[0] == {"type": "hello", "data": {"protocol": 1, "save": True}}
    assert answers[1]["type"] == "save" and list(answers[1]["data"]) == ["state"]
    assert answers[2]["data"]["message"] == "there is no state ['no name'] in this episode"
    assert answers[3]["data"]["code"] == "EXECUTION_ERROR"
    assert answers[4]["data"]["code"] == "UNKNOWN_TYPE"  # the server of OpenEnv itself


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ({"type": "hello", "data": {"protocol": 2}}, r"answer to hello: \$\.protocol: 2; this eexp speaks 1"),
        ({"type": "hello", "data": {"save": True}}, r"answer to hello: \$\.protocol: missing"),
        (
            {"type": "hello", "data": {"protocol": 1, "save": "yes"}},
            r"answer to hello: \$\.save: expected true or false, got a string",
        ),
        ({"type": "observation", "data": {}}, r"answer to hello: \$\.type: expected 'hello', got 'observation'"),
        ({"type": "error", "data": {"message": "no", "code": "VALIDATION_ERROR"}}, r"hello: no$"),
        ({"type": "error", "data": {"message": "no", "code": "SESSION_ERROR"}}, r"hello: no \(SESSION_ERROR\)$"),
    ],
)
def test_a_wrong_answer_to_hello_is_one_error(hello, message, monkeypatch):
    monkeypatch.setitem(openenv_server.Boastful.ANSWERS, "hello", hello)
    with openenv_server.served("boastful") as url, pytest.raises(EexpError, match=message):
        open_env(f"openenv:{url}")


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("save", {"type": "save", "data": {}}, r"answer to save: \$\.state: missing"),
        ("save", {"type": "error", "data": {"message": "?", "code": "UNKNOWN_TYPE"}}, r"save: \? \(UNKNOWN_TYPE\)$"),
        ("restore", {"type": "observation", "data": {}}, r"answer to restore: \$\.type: expected 'restore'"),
        ("restore", {"type": "error", "data": {"message": "no", "code": "VALIDATION_ERROR"}}, r"restore: no$"),
        ("release", {"type": "error", "data": {"message": "no", "code": "EXECUTION_ERROR"}}, r"release: no$"),
    ],
)
def test_a_wrong_answer_about_a_state_is_one_error(kind, answer, message, monkeypatch):
    monkeypatch.setitem(openenv_server.Boastful.ANSWERS, kind, answer)
    with openenv_server.served("boastful") as url, open_env(f"openenv:{url}") as env:
        env.reset({"seed": 3})
        with pytest.raises(EnvironmentFailed, match=message):
            state = env.save()
            env.step("left")
            env.restore(state)
            env.release(state)


def test_a_server_that_restores_nothing_is_found_out(monkeypatch):
    """Where a restore changes nothing, the next observation of the path differs, and the branches are refused."""
    monkeypatch.setitem(openenv_server.Boastful.ANSWERS, "restore", {"type": "restore", "data": {}})
    monkeypatch.setattr(openenv_server.openenv_states.Scales, "restore", lambda self, state: None)
    with openenv_server.served("boastful") as url, open_env(f"openenv:{url}") as env:
        executed = execute(env, path(env), "state")
        assert len(executed.refused) == 8 and not executed.counts["branch point[s] verified"]

"""`agentgym:URL` against servers that speak AgentGym's protocol, each with a game behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
from agentgym_servers import serve
from running import ROOT, lines, run, spawn

from eexp.envs import open_env
from eexp.envs.forking import choose
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError

WAY = ["get 2 oak log", "craft 4 oak planks using 1 oak log", "craft 4 oak planks using 1 oak log",
       "craft 4 stick using 2 oak planks", "craft 1 wooden pickaxe using 3 oak planks, 2 stick"]  # fmt: skip


@contextmanager
def served(name: str, port: int = 0):
    server, held = serve(name, port)
    try:
        yield f"http://127.0.0.1:{server.server_port}", held
    finally:
        held.gone = True
        server.shutdown()
        server.server_close()


@pytest.fixture
def craft(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "1")
    with served("textcraft") as (url, held), open_env(f"agentgym:{url}?env=textcraft&train=0-2&test=3") as env:
        yield env, held


def test_textcraft(craft):
    env, _ = craft
    assert env.splits() == ["train", "test"]
    assert [t["data_idx"] for t in env.tasks("train")] == [0, 1, 2]
    task = next(env.tasks("test"))
    assert task == {"id": "textcraft/3", "split": "test", "data_idx": 3}
    first = env.reset(task)
    assert first.text.startswith("Crafting commands:") and not first.done and first.score == 0
    assert env.instruction().startswith("craft wooden pickaxe.\n`get 2 oak log`")
    seen = [env.step(action) for action in WAY]
    assert [s.text for s in seen][:2] == ["Got 2 oak log", "Crafted 4 oak planks"]
    assert all(s.valid for s in seen) and [s.done for s in seen] == [False] * 4 + [True]
    assert seen[-1].score == 1.0 and seen[-1].success is True and seen[0].success is None
    after = env.step("inventory")
    assert after.done and not after.valid and after.success
    again = env.reset(task)
    assert env.mask(again.text) == env.mask(first.text) == "Crafting commands:\n*\n\nGoal: craft wooden pickaxe."


@pytest.mark.parametrize("action", ["get 1 stick", "craft 4 stick using nothing", "sing", "", "zwölf\n\t"])
def test_what_textcraft_refuses_is_not_valid(craft, action):
    env, _ = craft
    env.reset(next(env.tasks("test")))
    seen = env.step(action)
    assert not seen.valid and not seen.done and seen.text
    assert env.admissible() is None


@pytest.mark.parametrize("name", ["alfworld", "babyai", "sciworld"])
def test_the_servers_of_a_world_of_rooms(name):
    with served(name) as (url, held), open_env(f"agentgym:{url}?env={name}&train=0-4") as env:
        (world,) = held.worlds.values()
        for task in env.tasks("train"):
            seen = env.reset(task)
            assert env.instruction() == world.house.instruction()
            assert (env.admissible() is None) == (name == "sciworld")
            assert not env.step("fly to the moon").valid
            while not seen.done:
                assert name == "sciworld" or env.admissible() == world.house.admissible()
                seen = env.step(world.expert())
                assert seen.valid
            assert seen.success and seen.score == 1.0
            assert name == "sciworld" or env.admissible() == []
        with pytest.raises(EnvironmentFailed, match=r"/reset: .*index"):
            env.reset({"id": "x", "data_idx": 10**6})


def test_babyai_takes_the_question_for_what_can_be_done():
    with served("babyai") as (url, _), open_env(f"agentgym:{url}?env=babyai&train=0") as env:
        env.reset(next(env.tasks("train")))
        assert env.step("Check available actions").valid


def test_webshop():
    with served("webshop") as (url, _), open_env(f"agentgym:{url}?env=webshop&test=0-1&max_steps=15") as env:
        assert env.max_steps == 15
        seen = env.reset(list(env.tasks("test"))[1])
        assert seen.text.endswith("start") and env.instruction().startswith("Find a blue mug\nsearch[words]")
        assert env.admissible() is None  # any words can be searched for
        env.step("search[mug]")
        assert env.admissible() == ["click[red mug]", "click[blue mug]"]
        env.step("click[red mug]")
        seen = env.step("click[buy now]")
        assert seen.done and seen.score == 0.5 and seen.success is False


def test_a_server_of_ones_own():
    with served("own") as (url, _), open_env(f"agentgym:{url}?train=0-1") as env:
        env.reset(next(env.tasks("train")))
        assert env.step("sing").valid and env.instruction() == "" and env.admissible() is None
        assert [t["id"] for t in env.tasks("train")] == ["task/0", "task/1"]


def test_item_ids_are_the_tasks(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([{"item_id": f"textcraft_{n}"} for n in (7, 3, 7)]))
    with served("textcraft") as (url, _):
        with open_env(f"agentgym:{url}?env=textcraft&train={tmp_path}/train.json") as env:
            assert [t["data_idx"] for t in env.tasks("train")] == [7, 3]
        for options, said in (
            (f"train={tmp_path}/train.json&test=0-3", "task 3 is both in train and in test"),
            (f"train={tmp_path}/none.json", "No such file"),
            (f"train={__file__}", "expected numbers of tasks"),
            ("train=9-3", "expected numbers of tasks"),
            ("max_steps=0", "above 0"),
            ("env=chess", "known: textcraft, alfworld"),
            ("colour=red", "unexpected keyword"),
        ):
            with pytest.raises(UsageError, match=said):
                open_env(f"agentgym:{url}?{options}")
        (tmp_path / "train.json").write_text('[{"item_id": "trial_T2019"}]')
        with pytest.raises(UsageError, match="each with its number last"):
            open_env(f"agentgym:{url}?train={tmp_path}/train.json")
        with open_env(f"agentgym:{url}") as env, pytest.raises(UsageError, match="say which tasks"):
            env.splits()


def test_each_has_an_environment_of_its_own_and_gives_it_back(craft):
    env, held = craft
    with open_env(env.spec) as other:
        assert len(held.worlds) == 2
        for e in (env, other):
            e.reset(next(e.tasks("test")))
        env.step("get 2 oak log")
        assert "oak log" not in other.step("inventory").text
    assert len(held.worlds) == 1
    env.close()
    env.close()
    assert not held.worlds


@pytest.mark.parametrize(("action", "said"), [
    ("!500", "/step: HTTP 500: 'Internal Server Error'"),
    ("!html", "/step: not JSON: '<html>proxy</html>'"),
    ("!error", "/step: list index out of range"),
    ("!shape", "/step: $.observation: expected"),
    ("!empty", "no observation"),
    ("!slow", "/step: no answer within 1 s"),
    ("\ud800", "/step: not JSON"),
])  # fmt: skip
def test_what_breaks_costs_the_record(craft, action, said):
    env, _ = craft
    task = next(env.tasks("test"))
    env.reset(task)
    with pytest.raises(EnvironmentFailed) as e:
        env.step(action)
    assert said in str(e.value) and "\n" not in str(e.value) and str(e.value).startswith("agentgym:http://")
    with pytest.raises(EnvironmentFailed, match="no episode is running"):
        env.step("inventory")
    env.reset(task)
    assert env.step(WAY[0]).valid


def test_a_server_that_starts_anew():
    with served("textcraft") as (url, _):
        env = open_env(f"agentgym:{url}?env=textcraft&train=0")
    task = next(env.tasks("train"))
    with pytest.raises(EnvironmentFailed, match=r"ConnectError|RemoteProtocolError"):
        env.reset(task)
    with served("textcraft", int(url.rpartition(":")[2])):
        assert env.reset(task).text
        env.close()


def test_no_server():
    with pytest.raises(EexpError, match="/create: ConnectError") as e:
        open_env("agentgym:http://127.0.0.1:1")
    assert not isinstance(e.value, InputError)
    for wrong in ("agentgym:localhost:1", "agentgym:", "agentgym:http://x\x00"):
        with pytest.raises(UsageError):
            open_env(wrong)


@pytest.mark.parametrize("task", [{}, {"data_idx": "3"}, {"data_idx": True}, {"data_idx": -1}])
def test_a_task_from_elsewhere_is_checked(craft, task):
    with pytest.raises(InputError, match="data_idx"):
        craft[0].reset({"id": "x", **task})


# -- as a user runs it -----------------------------------------------------------------------------------------------


def trajectory(env, spec: str) -> dict:
    task = next(env.tasks("test"))
    seen, steps = env.reset(task), []
    for action in WAY:
        others = [{"action": a, "source": "policy", "outcome": None} for a in ("inventory", "get 1 oak log", "sing")]
        steps.append({"observation": seen.text, "action": action, "admissible": None, "alternatives": others})
        seen = env.step(action)
    return {"type": "trajectory", "id": f"{spec}/{task['id']}", "env": spec, "task": task,
            "instruction": env.instruction(), "steps": steps, "outcome": seen.outcome()}  # fmt: skip


def test_branches_are_replayed_in_workers(craft):
    env, held = craft
    assert choose(env) == "replay"
    made = trajectory(env, env.spec)
    run("rollout", stdin=lines([made])).one_error(3, "asks a server; allow it with --env")
    done = spawn("rollout", "-j", "2", "--env", env.spec, stdin=lines([made, {**made, "id": "second"}])).ok()
    assert [r["id"] for r in done.records] == [made["id"], "second"]
    for record in done.records:
        seen = [[a["outcome"] for a in step["alternatives"]] for step in record["steps"]]
        assert seen[1][1]["observation"] == "Got 1 oak log" and seen[1][0]["observation"] == "Inventory: [oak log] (2)"
        assert not seen[0][2]["valid"]
    assert "10 branch points verified, 30 executed by replay, 10 answered as invalid" in done.err
    assert len(held.worlds) == 1, "the workers gave theirs back"


def test_a_record_of_another_task_is_refused(craft):
    env, _ = craft
    made = trajectory(env, env.spec)
    made["steps"][2]["observation"] = "Crafted 5 oak planks"
    done = run("rollout", "-j", "1", "--env", env.spec, stdin=lines([made]))
    assert done.code == 4 and "branch point refused" in done.err


def test_random_play_needs_a_list():
    with served("babyai") as (url, _):
        done = run("eval", f"agentgym:{url}?env=babyai&test=0-2", "-m", "random", "--max-steps", "4").ok()
        assert [r["steps"] for r in done.records] == [4, 4, 4] and not any(r["invalid"] for r in done.records)
    with served("textcraft") as (url, _):
        spec = f"agentgym:{url}?env=textcraft&train=0&test=1"
        run("eval", spec, "-m", "random").one_error(3, "random policy needs admissible actions")
        run("expert", spec).one_error(3, "has no expert")


def test_the_servers_of_the_tests_can_be_started_by_hand():
    with subprocess.Popen([sys.executable, f"{ROOT}/tests/agentgym_servers.py", "alfworld"], stdout=subprocess.PIPE,
                          env={"PYTHONPATH": str(ROOT)}, text=True) as server:  # fmt: skip
        try:
            with open_env(f"agentgym:{server.stdout.readline().strip()}?env=alfworld&train=0") as env:
                assert env.reset(next(env.tasks("train"))).text
        finally:
            server.kill()

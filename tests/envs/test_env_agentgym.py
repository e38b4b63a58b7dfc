"""`agentgym:URL` against servers that speak AgentGym's protocol, each with a game behind it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from agentgym_servers import OF_LMRL, Maze, Wordle, played, serve
from running import ROOT, lines, run, spawn

from eexp.acting.execution import execute
from eexp.envs import open_env
from eexp.envs.forking import choose_way
from eexp.envs.naming import Tasks
from eexp.envs.replay import replay
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.formats.conversations import import_format, read_conversation, task_name_of
from eexp.records.record import succeeded

WAY = [
    "get 2 oak logs",
    "craft 4 oak planks using 1 oak logs",
    "craft 4 oak planks using 1 oak logs",
    "craft 4 stick using 2 oak planks",
    "craft 1 wooden pickaxe using 3 oak planks, 2 stick",
]


@contextmanager
def served(name: str, port: int = 0):
    server, state = serve(name, port)
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        state.gone = True
        server.shutdown()
        server.server_close()


@pytest.fixture
def craft(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "1")
    with served("textcraft") as (url, state), open_env(f"agentgym:{url}?env=textcraft&train=0-2&test=3") as env:
        yield env, state


def test_textcraft(craft):
    env, _ = craft
    assert env.splits() == ["train", "test"]
    assert [t["data_idx"] for t in env.tasks("train")] == [0, 1, 2]
    task = next(env.tasks("test"))
    assert task == {"id": "textcraft/3", "split": "test", "data_idx": 3}
    first = env.reset(task)
    assert first.text.startswith("Crafting commands:") and not first.done and first.score == 0
    assert env.instruction().startswith("craft wooden pickaxe.\n`get 2 oak logs`")
    observations = [env.step(action) for action in WAY]
    assert [s.text for s in observations][:2] == ["Got 2 oak logs", "Crafted 4 oak planks"]
    assert all(s.valid for s in observations) and [s.done for s in observations] == [False] * 4 + [True]
    assert observations[-1].score == 1.0 and [succeeded(o.outcome()) for o in observations] == [False] * 4 + [True]
    after = env.step("inventory")
    assert after.done and not after.valid and succeeded(after.outcome())
    again = env.reset(task)
    assert env.mask(again.text) == env.mask(first.text) == "Crafting commands:\n*\n\nGoal: craft wooden pickaxe."


@pytest.mark.parametrize("action", ["get 1 stick", "craft 4 stick using nothing", "sing", "", "zwölf\n\t", "\ud800"])
def test_actions_that_textcraft_refuses_are_not_valid(craft, action):
    env, _ = craft
    env.reset(next(env.tasks("test")))
    observation = env.step(action)
    assert not observation.valid and not observation.done and observation.text
    assert env.admissible() is None


@pytest.mark.parametrize("name", ["alfworld", "babyai", "sciworld"])
def test_servers_of_household_worlds(name):
    with served(name) as (url, state), open_env(f"agentgym:{url}?env={name}&train=0-4") as env:
        (world,) = state.worlds.values()
        for task in env.tasks("train"):
            observation = env.reset(task)
            assert env.instruction().endswith(world.house.instruction())
            assert (env.admissible() is None) == (name == "sciworld")
            assert not env.step("fly to the moon").valid
            while not observation.done:
                assert name == "sciworld" or env.admissible() == world.house.admissible()
                observation = env.step(world.expert())
                assert observation.valid
            assert succeeded(observation.outcome()) and observation.score == 1.0
            assert name == "sciworld" or env.admissible() == []
        with pytest.raises(EnvironmentFailed, match=r"/reset: .*index"):
            env.reset({"id": "x", "data_idx": 10**6})


def test_babyai_accepts_the_action_that_lists_the_others():
    with served("babyai") as (url, _), open_env(f"agentgym:{url}?env=babyai&train=0") as env:
        env.reset(next(env.tasks("train")))
        assert env.step("Check available actions").valid


def test_webshop():
    with served("webshop") as (url, _), open_env(f"agentgym:{url}?env=webshop&test=0-1&max_steps=15") as env:
        assert env.max_steps == 15
        observation = env.reset(list(env.tasks("test"))[1])
        assert observation.text.endswith("start") and env.instruction().startswith("Find a blue mug\nsearch[words]")
        assert env.admissible() is None  # any words can be searched for
        env.step("search[mug]")
        assert env.admissible() == ["click[red mug]", "click[blue mug]"]
        env.step("click[red mug]")
        observation = env.step("click[buy now]")
        assert observation.done and observation.score == 0.5 and not succeeded(observation.outcome())


def test_maze():
    with served("maze") as (url, _), open_env(f"agentgym:{url}/maze?env=maze&train=0-3") as env:
        first = env.reset(next(env.tasks("train")))
        assert first.text.startswith(
            "The goal is at position 3, 3. Your current position is at position 1, 1. There are"
        )
        assert not env.step("fly").valid, "also where the list was not requested"
        assert env.admissible() == list(Maze.moves)
        assert env.step("move up").valid and env.instruction().startswith("Find the goal: move up,")
        observations = [env.step(f"move {way}") for way in ("right", "right", "down", "down")]
        assert succeeded(observations[-1].outcome()) and observations[-1].score == 1.0 and env.admissible() == []
        env.reset(next(env.tasks("train")))
        last = [env.step("move up") for _ in range(51)][-1]
        assert (last.text, last.done, last.score, succeeded(last.outcome())) == ("Failure\n", True, 0.0, False)


def test_wordle():
    with served("wordle") as (url, _), open_env(f"agentgym:{url}/wordle?env=wordle&test=0-9") as env:
        task = next(env.tasks("test"))
        env.reset(task)
        words = [" ".join(word) for word in Wordle.words]
        assert env.admissible() == words and env.instruction().endswith(f"costs a guess:\n{', '.join(words)}")
        first = env.step("p a n i c")
        assert first.valid and re.fullmatch(r"[gyb]( [gyb]){4}\n", first.text)
        assert env.admissible() == words, "what is still possible is for the player to find out"
        env.reset(task)
        assert env.step("panic").text == first.text
        wrong = env.step("c r a n e")
        assert wrong.text == "invalid word" and wrong.valid, "it takes a guess, so it was not refused"
        observation = [env.step("c r a n e") for _ in range(4)][-1]
        assert observation.done and not succeeded(observation.outcome()) and observation.score == 0.0


def test_sqlgym():
    with served("sqlgym") as (url, _), open_env(f"agentgym:{url}?env=sqlgym&test=0-1") as env:
        for action in ("```sql\nselect count(*) from mugs;\n```", "select count(*) from mugs"):
            assert "How many mugs" in env.reset(next(env.tasks("test"))).text
            observation = env.step(action)
            assert observation.text == "[(1,)]" and observation.done and succeeded(observation.outcome())


def test_a_server_that_follows_the_guide():
    with served("own") as (url, _), open_env(f"agentgym:{url}?train=0-1") as env:
        env.reset(next(env.tasks("train")))
        assert env.step("sing").valid and env.instruction() == "" and env.admissible() is None
        assert [t["id"] for t in env.tasks("train")] == ["task/0", "task/1"]


def test_item_ids_are_the_tasks(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([{"item_id": f"textcraft_{n}"} for n in (7, 3, 7)]))
    with served("textcraft") as (url, _):
        with open_env(f"agentgym:{url}?env=textcraft&train={tmp_path}/train.json") as env:
            assert [t["data_idx"] for t in env.tasks("train")] == [7, 3]
        for options, message in (
            (f"train={tmp_path}/train.json&test=0-3", "task 3 is both in train and in test"),
            (f"train={tmp_path}/none.json", "No such file"),
            (f"train={__file__}", "expected numbers of tasks"),
            ("train=9-3", "expected numbers of tasks"),
            ("max_steps=0", "above 0"),
            ("env=chess", "known: textcraft, alfworld"),
            ("colour=red", "no option 'colour'; it has: env, train, test, max_steps"),
        ):
            with pytest.raises(UsageError, match=message):
                open_env(f"agentgym:{url}?{options}")
        (tmp_path / "train.json").write_text('[{"item_id": "trial_T2019"}]')
        with pytest.raises(UsageError, match="each with its number last"):
            open_env(f"agentgym:{url}?train={tmp_path}/train.json")
        with open_env(f"agentgym:{url}") as env, pytest.raises(UsageError, match="say which tasks"):
            env.splits()


def test_every_instance_has_an_environment_of_its_own_and_releases_it(craft):
    env, state = craft
    with open_env(env.spec) as other:
        assert len(state.worlds) == 2
        for e in (env, other):
            e.reset(next(e.tasks("test")))
        env.step("get 2 oak logs")
        assert "oak logs" not in other.step("inventory").text
    assert len(state.worlds) == 1
    env.close()
    env.close()
    assert not state.worlds


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("break 500", "/step: HTTP 500: 'Internal Server Error'"),
        ("break html", "/step: not JSON: '<html>proxy</html>'"),
        ("break error", "/step: list index out of range"),
        ("break shape", "/step: $.observation: expected"),
        ("break empty", "no observation"),
        ("break slow", "/step: no answer within 1 s"),
    ],
)
def test_a_failing_server_costs_one_record(craft, action, message):
    env, _ = craft
    task = next(env.tasks("test"))
    env.reset(task)
    with pytest.raises(EnvironmentFailed) as e:
        env.step(action)
    assert message in str(e.value) and "\n" not in str(e.value) and str(e.value).startswith("agentgym:http://")
    with pytest.raises(EnvironmentFailed, match="no episode is running"):
        env.step("inventory")
    env.reset(task)
    assert env.step(WAY[0]).valid


def test_a_server_that_was_restarted():
    with served("textcraft") as (url, _):
        env = open_env(f"agentgym:{url}?env=textcraft&train=0")
    task = next(env.tasks("train"))
    with pytest.raises(EnvironmentFailed, match=r"ConnectError|RemoteProtocolError"):
        env.reset(task)
    with served("textcraft", int(url.rpartition(":")[2])):
        assert env.reset(task).text
        env.close()


def test_a_missing_server_is_one_error():
    with pytest.raises(EexpError, match="/create: ConnectError") as e:
        open_env("agentgym:http://127.0.0.1:1")
    assert not isinstance(e.value, InputError)
    for wrong in ("agentgym:localhost:1", "agentgym:", "agentgym:http://x\x00"):
        with pytest.raises(UsageError):
            open_env(wrong)


@pytest.mark.parametrize("task", [{}, {"data_idx": "3"}, {"data_idx": True}, {"data_idx": -1}])
def test_a_task_of_a_record_is_checked(craft, task):
    with pytest.raises(InputError, match="data_idx"):
        craft[0].reset({"id": "x", **task})


# -- AgentTraj-L -----------------------------------------------------------------------------------------------------

PLAYED = {
    "textcraft": {"get 2 oak logs.": "get 2 oak logs", "inventory\nI wait.": "inventory", "get 1 stick": "get 1 stick"},
    "alfworld": {"look": "look", "open fridge": "open fridge"},
    "babyai": {"Look!": "Look", "inventory": "inventory"},
    "sciworld": {"look": "look", "fly to the moon": "fly to the moon"},
    "maze": {"move right": "move right", "move down": "move down"},
    "wordle": {"p a n i c": "p a n i c", "c r a n e": "c r a n e", "s o l a r": "s o l a r"},
    "webshop": {"search[mug]": "search[mug]", "click[red mug]": "click[red mug]"},
    "sqlgym": {"```sql\nselect * from mugs;\n```": "select * from mugs;"},
}


def spec_of(name: str, url: str) -> str:
    return f"agentgym:{url}/{name}?env={name}" if name in OF_LMRL else f"agentgym:{url}?env={name}"


@pytest.mark.parametrize("name", PLAYED)
def test_agenttraj_fits_its_server(name):
    """What AgentGym's own client recorded is replayed without any option, by a server that has played since."""
    numbers = (1, 0, 1)
    with served(name) as (url, _), open_env(spec_of(name, url)) as env:
        tasks = Tasks(env)
        for number in numbers:
            record = played(name, number, PLAYED[name])
            task = tasks.find(task_name_of(record, import_format("agenttraj")))
            assert task == {"id": f"{name}/{number}", "data_idx": number}
            result = replay(env, task, read_conversation(record, import_format("agenttraj")), "x")
            assert result.counts["observation[s] verified"] == len(PLAYED[name]) + 1 and not result.differs
            result.trajectory["steps"][0]["alternatives"] = [{"action": "inventory", "source": "policy"}]
            assert execute(env, result.trajectory).counts["branch point[s] verified"] == 1


def test_agenttraj_is_imported_without_any_option():
    with served("textcraft") as (url, _):
        records = [played("textcraft", number, PLAYED["textcraft"]) for number in (1, 0, 1)]
        spec = spec_of("textcraft", url)
        result = run("import", "agenttraj", "--env", spec, "-j", "1", stdin=lines(records)).ok()
        assert [r["id"] for r in result.records] == [f"{spec}/textcraft/{n}" for n in ("1", "0", "1#2")]
        assert "3 in, 3 out, 12 observations verified" in result.err and "differ" not in result.err


def test_an_item_of_another_server_is_refused(tmp_path):
    with served("textcraft") as (url, _):
        spec = f"agentgym:{url}?env=textcraft"
        with open_env(f"{spec}&train=0-2&test=3") as env:
            assert env.task_named("textcraft_3") == next(env.tasks("test")) == env.task_named("textcraft/3")
            assert env.task_named("2")["split"] == "train"
            for name, message in (
                ("babyai_3", r"no task for 'babyai_3', which is one of env=babyai$"),
                ("textcraft_9", r"task 9 is not in train or test$"),
                ("textcraft", r"no task for 'textcraft': expected a number last, as in textcraft_0$"),
            ):
                with pytest.raises(InputError, match=message):
                    env.task_named(name)
        other = [played("textcraft", 3, PLAYED["textcraft"])]
        other[0]["conversations"][4]["value"] = "Got 3 oak logs"
        run("import", "agenttraj", "--env", spec, stdin=lines(other)).one_error(3, "'Got 3 oak logs' was recorded")
        run("import", "agenttraj", "--env", f"{spec}&train=0&test=3", "--split", "train", stdin=lines(other)).one_error(
            3, "task textcraft/3 is not in train"
        )


def test_another_list_of_words_in_wordle_is_a_difference():
    record = played("wordle", 0, {"p a n i c": "p a n i c"})
    record["conversations"][2]["value"] = record["conversations"][2]["value"].replace("robin", "rowan")
    with served("wordle") as (url, _):
        result = run("import", "agenttraj", "--env", f"agentgym:{url}/wordle?env=wordle", stdin=lines([record]))
        result.one_error(3, "was recorded")


# -- as a user runs it -----------------------------------------------------------------------------------------------


def trajectory(env, spec: str) -> dict:
    task = next(env.tasks("test"))
    observation, steps = env.reset(task), []
    for action in WAY:
        others = [{"action": a, "source": "policy", "outcome": None} for a in ("inventory", "get 1 oak logs", "sing")]
        steps.append({"observation": observation.text, "action": action, "admissible": None, "alternatives": others})
        observation = env.step(action)
    return {
        "type": "trajectory",
        "id": f"{spec}/{task['id']}",
        "env": spec,
        "task": task,
        "instruction": env.instruction(),
        "steps": steps,
        "outcome": observation.outcome(),
    }


def test_branches_are_replayed_in_workers(craft):
    env, state = craft
    assert choose_way(env) == "replay"
    record = trajectory(env, env.spec)
    run("rollout", stdin=lines([record])).one_error(3, "asks a server; allow it with --env")
    result = spawn("rollout", "-j", "2", "--env", env.spec, stdin=lines([record, {**record, "id": "second"}])).ok()
    assert [r["id"] for r in result.records] == [record["id"], "second"]
    for record in result.records:
        outcomes = [[a["outcome"] for a in step["alternatives"]] for step in record["steps"]]
        assert (
            outcomes[1][1]["observation"] == "Got 1 oak logs"
            and outcomes[1][0]["observation"] == "Inventory: [oak logs] (2)"
        )
        assert not outcomes[0][2]["valid"]
    assert (
        "10 branch points verified, 30 alternatives executed by replay, 10 alternatives answered as invalid"
        in result.err
    )
    assert len(state.worlds) == 1, "the workers have released theirs"


def test_a_record_of_another_task_is_refused(craft):
    env, _ = craft
    record = trajectory(env, env.spec)
    record["steps"][2]["observation"] = "Crafted 5 oak planks"
    result = run("rollout", "-j", "1", "--env", env.spec, stdin=lines([record]))
    assert result.code == 4 and "branch point refused" in result.err


def test_random_play_needs_a_list():
    with served("babyai") as (url, _):
        result = run("eval", f"agentgym:{url}?env=babyai&test=0-2", "-m", "random", "--max-steps", "4").ok()
        assert [r["steps"] for r in result.records] == [4, 4, 4] and not any(r["invalid"] for r in result.records)
    with served("textcraft") as (url, _):
        spec = f"agentgym:{url}?env=textcraft&train=0&test=1"
        run("eval", spec, "-m", "random").one_error(3, "random policy needs admissible actions")
        run("expert", spec).one_error(2, "has no expert")


def test_the_servers_of_the_tests_can_be_started_by_hand():
    with subprocess.Popen(
        [sys.executable, f"{ROOT}/tests/agentgym_servers.py", "alfworld"],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
    ) as server:
        try:
            with open_env(f"agentgym:{server.stdout.readline().strip()}?env=alfworld&train=0") as env:
                assert env.reset(next(env.tasks("train"))).text
        finally:
            server.kill()

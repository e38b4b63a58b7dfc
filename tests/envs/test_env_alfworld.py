"""ALFWorld, with small games in the layout of its data. Skipped where the package is missing."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from running import EEXP, environment, shell

pytest.importorskip("alfworld", reason="needs `pip install alfworld`")
pytest.importorskip("fast_downward", reason="needs `pip install fast-downward-textworld`")

from eexp.envs import open_env
from eexp.errors import EexpError, InputError, UsageError


@pytest.fixture(scope="module")
def data(alfworld_games):
    return alfworld_games


@pytest.fixture(scope="module")
def env(data):
    with open_env(f"alfworld?data={data}") as opened:
        yield opened


@pytest.fixture(scope="module")
def tasks(env):
    return [task for split in env.splits() for task in env.tasks(split)]


# -- games and tasks ---------------------------------------------------------------------------------------------------


def test_tasks_take_turns_between_types(env, tasks):
    assert env.splits() == ["train", "valid_seen", "valid_unseen"] and env.max_steps == 50
    types = [task["game"].partition("-")[0] for task in tasks]
    assert types == [
        "pick_and_place_simple",
        "pick_clean_then_place_in_recep",
        "pick_heat_then_place_in_recep",
        "pick_two_obj_and_place",
        "pick_and_place_simple",
        "pick_cool_then_place_in_recep",
        "look_at_obj_in_light",
    ]
    assert tasks[5] == {
        "id": "valid_seen/pick_cool_then_place_in_recep-Plate-None-CounterTop-1/trial_T20190000",
        "split": "valid_seen",
        "game": "pick_cool_then_place_in_recep-Plate-None-CounterTop-1/trial_T20190000",
        "checksum": tasks[5]["checksum"],
    }
    assert len({task["id"] for task in tasks}) == len(tasks) == len({task["checksum"] for task in tasks})
    with pytest.raises(UsageError, match="has no split 'test'; it has: train, valid_seen, valid_unseen"):
        list(env.tasks("test"))


def test_games_that_the_package_leaves_out_are_left_out(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    train = tmp_path / "data" / "json_2.1.1" / "train"
    simple, clean, heat, two = (
        next(train.glob(f"{kind}-*"))
        for kind in ("pick_and_place_simple-Book", "pick_clean*", "pick_heat*", "pick_two*")
    )
    simple.rename(train / "pick_and_place_with_movable_recep-Pen-Mug-Desk-1")
    clean.rename(train / "pick_clean_then_place_in_recep-AppleSliced-None-Fridge-1")
    next(heat.rglob("game.tw-pddl")).unlink()
    game = next(two.rglob("game.tw-pddl"))
    game.write_text(json.dumps({**json.loads(game.read_text()), "solvable": False}))
    with open_env(f"alfworld?data={tmp_path / 'data'}") as other:
        assert ["AlarmClock-None-Desk" in task["id"] for task in other.tasks("train")] == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"alfworld: name the directory of the data: alfworld\?data=DIR, or ALFWORLD_DATA=DIR"),
        ("?data=.", r"alfworld\?data=.: no json_2.1.1/train in it; `alfworld-download --data-dir DIR` fills one"),
        ("?expert=me", r"alfworld\?expert=me: expected handcoded or planner"),
        ("?max_steps=0", r"alfworld\?max_steps=0: expected a number above 0"),
        ("?split=train", "alfworld has no option 'split'; it has: data, expert, max_steps"),
    ],
)
def test_options_are_checked(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(UsageError, match=message):
        open_env(f"alfworld{options}")


def test_a_missing_package_is_one_error(data, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    assert open_env("alfworld").splits()
    monkeypatch.setitem(sys.modules, "alfworld.agents.environment.alfred_tw_env", None)
    with pytest.raises(EexpError, match=r"alfred_tw_env.*ALFWorld needs `pip install 'eexp\[alfworld\]'`"):
        open_env("alfworld")


def test_a_game_that_changed_is_refused(data, tasks, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    with open_env(f"alfworld?data={tmp_path / 'data'}") as other:
        information = tmp_path / "data" / "json_2.1.1" / "train" / tasks[0]["game"] / "traj_data.json"
        information.write_text(information.read_text().replace("Desk", "Bed"))
        with pytest.raises(InputError, match=r"game.tw-pddl has changed since the record was made") as caught:
            other.reset(tasks[0])
        assert caught.value.where == "$.task.checksum"
        for game in ("pick/trial", f"../train/{tasks[0]['game']}", 7):
            with pytest.raises(InputError, match=r"has no game train/"):
                other.reset({**tasks[0], "game": game})
        information.unlink()
        with pytest.raises(EexpError, match=r"traj_data.json: No such file"):
            list(other.tasks("train"))


# -- playing -----------------------------------------------------------------------------------------------------------


def test_the_expert_succeeds(env, tasks):
    for task in tasks:
        observation, played = env.reset(task), []
        assert observation.text.startswith("You are in the middle of a room.") and "task" not in observation.text
        assert env.instruction().endswith(".") and "Your task" not in env.instruction()
        while not observation.done:
            assert env.expert() == env.expert() in env.admissible() == sorted(set(env.admissible()))
            assert (observation.score, observation.success) == (0.0, None)
            played.append(env.expert())
            observation = env.step(played[-1])
            assert observation.valid and len(played) <= env.max_steps
        assert (observation.score, observation.success) == (1.0, True)
        assert env.expert() is None and env.admissible() == []
        observation = env.step("look")
        assert (observation.text, observation.done, observation.valid) == ("The task is over.", True, False)


def test_the_expert_uses_put_in_games_that_have_it(data, tmp_path):
    """Games from before version 0.4: the commands are those that the package's own migration replaces."""
    shutil.copytree(data / "json_2.1.1", tmp_path / "json_2.1.1")
    words = {
        "move {o} to {r}": "put {o} in/on {r}",
        "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
    }
    for file in tmp_path.rglob("game.tw-pddl"):
        game = json.loads(file.read_text())
        for new, old in words.items():
            assert new in game["grammar"]
            game["grammar"] = game["grammar"].replace(new, old)
        file.write_text(json.dumps(game))
    with open_env(f"alfworld?data={tmp_path}") as env:
        for task in [task for task in env.tasks("train") if re.search("pick_(two|heat)", task["id"])]:
            observation, played = env.reset(task), []
            while not observation.done and len(played) < env.max_steps:
                played.append(env.expert())
                assert played[-1] in env.admissible()
                observation = env.step(played[-1])
            assert observation.success and any(re.fullmatch("put .* in/on .*", action) for action in played), played
            assert not any(action.startswith("move ") for action in played)


def test_the_planner_is_shorter_and_recovers(data, tasks):
    rng = random.Random(0)
    with open_env(f"alfworld?data={data}&expert=planner") as env:
        for task in tasks[:4]:
            observation = env.reset(task)
            for _ in range(4):
                observation = env.step(rng.choice(env.admissible()))
            steps = 0
            while not observation.done:
                assert env.expert() == env.expert()
                observation = env.step(env.expert())
                steps += 1
            assert observation.success and steps <= 12


def test_actions_that_are_not_admissible_do_nothing(env, tasks):
    env.reset(tasks[0])
    env.step("go to desk 1")
    here = env.admissible()
    for action in ("fly", "", "Look", "go to desk 9", "take alarmclock 1 from drawer 1", "examine\0"):
        observation = env.step(action)
        assert (observation.text, observation.valid, observation.done) == (
            "Nothing happens.",
            False,
            False,
        ) and env.admissible() == here
    assert env.step(" examine  desk 1\n").valid


@pytest.mark.long
def test_random_numbers_and_arguments_of_the_process_are_restored(data, tasks):
    script = f"""if True:
        import os, random, sys
        random.seed(1)
        drawn, arguments = random.getstate(), list(sys.argv)
        from eexp.envs import open_env
        env = open_env("alfworld?data={data}")
        seen = env.reset(next(env.tasks("train")))
        while not seen.done:
            seen = env.step(env.expert())
            print(seen.text, env.admissible())
        assert random.getstate() == drawn and sys.argv == arguments and os.listdir() == []
    """
    here = data / "empty"
    here.mkdir()
    outputs = []
    for seed in ("1", "2"):
        variables = environment(PYTHONHASHSEED=seed, HOME=str(here))
        variables.pop("ALFWORLD_DATA", None)
        result = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, env=variables)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1] and outputs[0].count("\n") > 4


def test_the_pipe(data):
    result = shell(
        f'set -o pipefail; eexp() {{ {shlex.join(EEXP)} "$@"; }}; '
        "eexp expert 'alfworld?data=.' -n 1 | eexp branch -k 1 --from admissible "
        "| eexp rollout --env 'alfworld?data=.' | tee rollout.jsonl | eexp world-model-data",
        data,
    ).ok()
    assert "branch points verified" in result.err and "refused" not in result.err
    rollouts = [json.loads(line) for line in (data / "rollout.jsonl").read_text().splitlines()]
    outcomes = [a["outcome"] for t in rollouts for step in t["steps"] for a in step["alternatives"]]
    assert len(outcomes) >= 5 and all(outcome["valid"] for outcome in outcomes)
    assert len(result.records) >= len(outcomes) and os.listdir(data / "json_2.1.1")

"""TextWorld, with games made by recipes/textworld once for all tests. Skipped where the package is missing."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from branches import take_actions
from running import ROOT, environment, needs_package, outputs_of_python, run

from eexp.envs import open_env
from eexp.envs.base import Environment
from eexp.errors import EexpError, InputError, UsageError

needs_package("textworld")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Game .* is not fully supported"
)  # jericho warns of any game but old classics
RECIPE = ROOT / "recipes" / "textworld" / "make_games.py"


@pytest.fixture
def games(textworld_games) -> Path:
    return textworld_games


@pytest.fixture
def env(games):
    with open_env(f"textworld?games={games}") as opened:
        yield opened


def tasks(env: Environment) -> list[dict]:
    return [task for split in env.splits() for task in env.tasks(split)]


# -- games and tasks ---------------------------------------------------------------------------------------------------


def test_the_tasks_are_the_files(env, games):
    assert env.splits() == ["train", "test"] and env.max_steps == 100
    listed = tasks(env)
    assert [(task["id"], task["split"], task["game"]) for task in listed] == [
        ("train/cooking-0001", "train", "cooking-0001.z8"),
        ("train/custom-0001", "train", "custom-0001.z8"),
        ("train/treasure-0001", "train", "treasure-0001.z8"),
        ("test/coin-0000", "test", "coin-0000.z8"),
    ]
    assert all(re.fullmatch("[0-9a-f]{16}", task["checksum"]) for task in listed)
    with pytest.raises(UsageError, match="has no split 'dev'; it has: train, test"):
        list(env.tasks("dev"))


def test_the_directory_may_come_from_the_environment(games, monkeypatch):
    monkeypatch.setenv("EEXP_TEXTWORLD_GAMES", str(games))
    assert open_env("textworld").splits() == ["train", "test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"textworld: name the directory of the games: textworld\?games=DIR, or EEXP_TEXTWORLD_GAMES=DIR"),
        ("?games=nowhere", r"textworld\?games=nowhere: no such directory"),
        ("?games=.", r"textworld\?games=.: no games; they are expected as train/\*.z8, test/\*.z8"),
        ("?games=.&max_steps=none", "max_steps=none: expected a number above 0"),
        ("?seed=3", "textworld has no option 'seed'; it has: games, max_steps"),
    ],
)
def test_options_are_checked(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        open_env(f"textworld{options}")


def test_a_missing_package_is_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(EexpError, match=r"textworld.*TextWorld needs `pip install 'eexp\[textworld\]'`"):
        open_env("textworld")


def test_a_game_that_changed_is_refused(env, games, tmp_path):
    task = next(env.tasks("test"))
    shutil.copytree(games, tmp_path / "games")
    with open_env(f"textworld?games={tmp_path / 'games'}") as other:
        other.reset(task)
        information = tmp_path / "games" / "test" / "coin-0000.json"
        information.write_text(information.read_text().replace("coin", "mint"))
        with pytest.raises(InputError, match=r"coin-0000.z8 has changed since the record was made") as caught:
            other.reset(task)
        assert caught.value.where == "$.task.checksum"
        with pytest.raises(InputError, match=r"has no game test/\.\./coin-0000.z8"):
            other.reset({**task, "game": "../coin-0000.z8"})
        information.unlink()
        with pytest.raises(EexpError, match=r"coin-0000.json: No such file"):
            list(other.tasks("test"))


@pytest.mark.long
def test_the_recipe_makes_the_same_files_again(tmp_path):
    for name in ("one", "two"):
        command = [sys.executable, str(RECIPE), name, "--train", "1", "--valid", "0", "--test", "0", "--kinds"]
        subprocess.run([*command, "treasure"], cwd=tmp_path, check=True, capture_output=True, env=environment())
    files = sorted((tmp_path / "one" / "train").iterdir())
    assert [file.name for file in files] == ["treasure-0000.json", "treasure-0000.z8"]
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / "train" / file.name).read_bytes()


# -- playing -----------------------------------------------------------------------------------------------------------


def test_the_expert_wins_and_observations_are_plain_text(env):
    for task in tasks(env):
        observation, texts = env.reset(task), []
        assert observation.text.startswith("-= ") and (observation.score, observation.done, observation.success) == (
            0.0,
            False,
            None,
        )
        assert env.instruction() and env.instruction() not in observation.text
        while not observation.done:
            assert env.expert() in env.admissible() == sorted(set(env.admissible()))
            before, observation = observation.score, env.step(env.expert())
            texts.append(observation.text)
            assert observation.valid and before <= observation.score <= 1.0
        assert (observation.score, observation.success) == (1.0, True) and texts[-1].endswith("*** The End ***")
        assert not re.search(r"^>|\$\$|=-\d|turns|RESTART|\n\n\n|succeeded\]", "\n".join(texts), flags=re.MULTILINE)
        assert env.admissible() == [] and env.expert() is None
        observation = env.step("look")
        assert (observation.text, observation.done, observation.valid, observation.success) == (
            "The game is over.",
            True,
            False,
            True,
        )


def test_the_expert_recovers_from_other_actions(env):
    rng = random.Random(0)
    for task in tasks(env):
        observation = env.reset(task)
        for _ in range(3):
            observation = env.step(rng.choice([a for a in env.admissible() if a.startswith(("go ", "open ", "take "))]))
        while not observation.done and (action := env.expert()):
            observation = env.step(action)
        assert observation.success is not None or env.expert() is None


def test_a_game_can_be_lost(env):
    observation = env.reset(next(env.tasks("train")))
    while not observation.done:  # the ingredient is eaten before it is cooked
        eat = next((a for a in env.admissible() if a.startswith("eat ")), None)
        observation = env.step(eat or env.expert())
    assert (
        (observation.success, observation.valid) == (False, True)
        and observation.score < 1
        and "*** You lost! ***" in observation.text
    )


def test_valid_and_invalid_commands(env):
    env.reset(next(env.tasks("train")))
    look = env.step("look")
    assert look.valid and env.step("LOOK ").text == look.text
    for action, answer in [
        ("fly", "That's not a verb I recognise."),
        ("", "I beg your pardon?"),
        ("go up", "You can't go that way."),
        ("take moon", "You can't see any such thing."),
    ]:
        observation = env.step(action)
        assert (observation.text, observation.valid, observation.done) == (answer, False, False)
    assert env.step("look").text == look.text
    assert all(not env.step(action).valid for action in ("é", "x" * 199, "look\0"))


@pytest.mark.parametrize(
    "action",
    [
        "save",
        "SAVE game",
        "restore",
        "script on",
        "transcripts",
        "restart",
        "quit",
        "q",
        "undo",
        "oops save",
        "o save",
        "tw-trace-actions",
        "print_state",
        "verbose",
        "look. save",
        "look then save",
        "me, save",
        'look."save',
    ],
)
def test_commands_of_the_program_are_refused(env, action, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = next(env.tasks("test"))
    env.reset(task)
    ahead = take_actions(env, ["look", *["go north", "inventory"] * 2])
    env.reset(task)
    observation = env.step(action)
    assert not observation.valid and observation.text in (
        "That is not a command of this world.",
        "One command at a time.",
    )
    assert list(tmp_path.iterdir()) == [], "a file was written"
    assert [state[:3] for state in take_actions(env, ["look", *["go north", "inventory"] * 2])] == [
        s[:3] for s in ahead
    ]


@pytest.mark.long
def test_another_process_observes_the_same(env, games):
    script = f"""if True:
        import json, sys
        from eexp.envs import open_env
        env = open_env({env.spec!r})
        for split in env.splits():
            for task in env.tasks(split):
                seen = env.reset(task)
                while not seen.done:
                    env.step("take all")
                    print(json.dumps([seen.text, env.admissible(), action := env.expert() or "look"]))
                    seen = env.step(action)
                    if action == "look": break
    """
    outputs = outputs_of_python(script)
    assert outputs[0] == outputs[1] and len(outputs[0].splitlines()) > 10


# -- copies -----------------------------------------------------------------------------------------------------------


def test_copies_are_independent(env):
    task = next(env.tasks("train"))
    env.reset(task)
    env.step(env.expert())
    one, two = env.fork(), env.fork()
    expected = take_actions(one, ["look", "go north", "inventory"])
    assert take_actions(two, ["look", "go north", "inventory"]) == expected
    loaded = one._game
    one.close()
    one.close()
    with env.fork() as three, two.fork() as four:
        assert three._game is loaded and four._game not in (loaded, two._game, env._game)
        assert take_actions(three, ["look", "go north", "inventory"]) == expected
        four.step("wait")
    saved = env.save()
    env.reset(next(env.tasks("test")))
    with pytest.raises(ValueError, match="which is not the game that is loaded"):
        env.restore(saved)


# -- the pipe ----------------------------------------------------------------------------------------------------------


def test_the_pipe(games, monkeypatch):
    monkeypatch.chdir(games.parent)
    spec = f"textworld?games={games.name}"
    expert = run("expert", spec, "-n", 2).ok()
    branched = run("branch", "-k", 3, "--from", "admissible", stdin=expert.out).ok()
    rolled = run("rollout", "--env", spec, "-j", 1, stdin=branched.out).ok()
    assert "branch points verified" in rolled.err and "refused" not in rolled.err
    rollouts = rolled.records
    assert [t["task"]["id"] for t in rollouts] == ["train/cooking-0001", "train/custom-0001"]
    outcomes = [a["outcome"] for t in rollouts for step in t["steps"] for a in step["alternatives"]]
    assert len(outcomes) > 30 and all(outcome["valid"] for outcome in outcomes)
    assert len(run("world-model-data", stdin=rolled.out).ok().records) >= len(outcomes)
    again = run("rollout", "--env", f"textworld?games={games}", "-j", 1, stdin=rolled.out).ok()
    assert [t["steps"] for t in again.records] == [t["steps"] for t in rollouts]

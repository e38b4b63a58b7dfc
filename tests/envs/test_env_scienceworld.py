"""ScienceWorld with its real simulator. Most tests are skipped where the package or Java is missing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from eexp.envs import open_env
from eexp.envs.base import Environment
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError

pytest.importorskip("scienceworld", reason="needs `pip install scienceworld`")
needs_java = pytest.mark.skipif(not shutil.which("java"), reason="needs Java")

from test_env_program import HOLDER, gone  # noqa: E402

from eexp.envs.worlds.scienceworld import ScienceWorld  # noqa: E402

ROOT = Path(__file__).parents[2]
PLANT = {"id": "find-plant/0", "split": "train", "task": "find-plant", "variation": 0, "simplifications": "easy"}


@pytest.fixture
def env(scienceworld):
    return scienceworld


def play(env: Environment, task: dict, actions: list[str] | None = None, ask: bool = False):
    """Play a task by the expert, or take `actions`; return the actions, the texts and the last observation."""
    observation = env.reset(task)
    texts, played = [observation.text], []
    while (action := env.expert() if actions is None else next(iter(actions[len(played) :]), None)) is not None:
        if ask:
            listed = env.admissible()
            assert played[2:] or env.admissible() == listed  # a list takes longer than a step
        observation = env.step(action)
        texts.append(observation.text)
        played.append(action)
    return played, texts, observation


# -- without the simulator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("tasks=boil", "scienceworld has no option 'tasks'; it has: task, simplifications"),
        ("task=fly", "scienceworld?task=fly: no such task; there are: boil, melt"),
        (
            "simplifications=simple",
            "scienceworld?simplifications=simple: no such simplification; there are: easy, none",
        ),
        ("max_steps=0", "scienceworld?max_steps=0: expected a number above 0"),
        ("memory=lots", "scienceworld?memory=lots: expected a number with k, m or g"),
    ],
)
@needs_java
def test_options_are_checked(options, message):
    with pytest.raises(UsageError) as caught:
        open_env(f"scienceworld?{options}")
    assert message in str(caught.value)


def test_a_missing_package_or_java_is_one_error(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EexpError, match=r"no 'java' found. ScienceWorld needs `pip install .* and Java"):
        open_env("scienceworld")
    monkeypatch.setitem(sys.modules, "scienceworld", None)
    with pytest.raises(EexpError, match=r"scienceworld.*pip install"):
        open_env("scienceworld")


def test_the_error_output_of_java_is_quoted(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text(
        "#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS: -X' >&2\necho 'Unable to locate a Runtime' >&2\nexit 1\n"
    )
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EexpError, match=r"^java: Unable to locate a Runtime. ScienceWorld needs") as caught:
        open_env("scienceworld").reset(PLANT)
    assert not isinstance(caught.value, EnvironmentFailed)


# -- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@needs_java
def test_the_splits_are_the_package_s(env):
    tasks = {split: list(env.tasks(split)) for split in env.splits()}
    assert {split: len(in_split) for split, in_split in tasks.items()} == {"train": 3592, "dev": 1796, "test": 1819}
    assert len({task["id"] for in_split in tasks.values() for task in in_split}) == 7207
    assert tasks["train"][:30:29] == [
        {"id": "boil/0", "split": "train", "task": "boil", "variation": 0, "simplifications": "easy"},
        {**tasks["train"][29], "variation": 0},
    ]
    assert len({task["task"] for task in tasks["train"][:30]}) == 30, "every kind of task comes once before any twice"
    env.reset(PLANT)
    expected = sorted(env._play("getVariationsTest"))
    assert [task["variation"] for task in tasks["test"] if task["task"] == "find-plant"] == expected


@needs_java
def test_kinds_of_task_are_chosen_by_name_or_beginning(env):
    env.reset(PLANT)
    simulator = env._simulator
    with open_env("scienceworld?task=find,boil&simplifications=none") as env:
        env._simulator = simulator  # one more start would take seconds
        simulator.users += 1
        first = list(islice(env.tasks("dev"), 6))
        assert [task["task"] for task in first] == [
            "boil",
            "find-living-thing",
            "find-non-living-thing",
            "find-plant",
            "find-animal",
            "boil",
        ]
        assert {task["simplifications"] for task in first} == {""}
        assert "(that is closed)" in env.reset(first[0]).text, "no doors are open from the start"
        with pytest.raises(UsageError, match="has no split 'valid'"):
            env.tasks("valid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "fly"}, r"\$.task.task: ScienceWorld has no task 'fly'"),
        ({"variation": "1"}, r"\$.task.variation: expected the number of a variation, got '1'"),
        ({"variation": 10_000}, r"\$.task: .*exceeds the total number of variations"),
        ({"simplifications": None}, r"\$.task.simplifications: expected a string"),
        ({"task": "power-component", "simplifications": "noElectricalAction"}, "cannot be solved with"),
    ],
)
@needs_java
def test_a_task_that_does_not_exist_costs_its_record(env, change, message):
    with pytest.raises(InputError, match=message):
        env.reset({**PLANT, **change})
    assert env.reset(PLANT).text


# -- playing ---------------------------------------------------------------------------------------------------------


@needs_java
def test_the_beginning_of_an_episode(env):
    observation = env.reset(PLANT)
    assert observation.text.startswith("This room is called the hallway.") and observation.text.endswith(
        "(that is open)"
    )
    assert (observation.done, observation.score, observation.valid, observation.success) == (False, 0.0, True, None)
    assert env.instruction().startswith("Your task is to find a(n) plant.")
    listed = env.admissible()
    assert listed == sorted(set(listed)) and "open door to greenhouse" not in listed and "look around" in listed
    assert env.max_steps == 100


@needs_java
def test_the_expert_succeeds_and_a_replay_in_another_simulator_is_the_same(env):
    task = next(t for t in env.tasks("test") if t["task"] == "find-animal")
    actions, texts, end = play(env, task)
    assert (end.done, end.score, end.success) == (True, 1.0, True)
    assert env.reset(task).score == 0.0, "the score of the last episode does not stay"
    with open_env("scienceworld") as other:
        other.reset(PLANT)  # independent of the episodes before
        again = play(other, task, actions, ask=True)
        assert again == (actions, texts, end)
        other.reset(task)
        other.step(actions[0])
        assert other.expert() == actions[1], "asked in mid-episode"
        assert other.step(actions[1]).text == texts[2]
        other.step("wait1")
        assert other.expert() is None, "off the expert's way"


@needs_java
def test_questions_do_not_change_the_random_numbers(env):
    env.reset(PLANT)
    env.step("look around")
    state = env._simulator._random_state(), env._simulator._numbers.count()
    env.admissible(), env.expert(), env.instruction(), next(env.tasks("dev"))
    assert (env._simulator._random_state(), env._simulator._numbers.count()) == state


@pytest.mark.long
@needs_java
def test_listing_actions_does_not_change_how_fruit_grows(env):
    # Bees and pollen are random: in the package, listing the valid actions changes what they do.
    task = {**PLANT, "task": "grow-fruit"}
    actions, texts, end = play(env, task)
    assert end.score == 1.0 and "bee" in "".join(texts)
    assert play(env, task, actions, ask=True) == (actions, texts, end)


@pytest.mark.long
@needs_java
@pytest.mark.parametrize("kind", ["boil", "test-conductivity", "chemistry-mix-paint-secondary-color"])
def test_variations_of_some_kinds(env, kind):
    with open_env(f"scienceworld?task={kind}") as other:
        for task in [t for t in other.tasks("train") if t["task"] == kind][:2]:
            actions, texts, end = play(env, task)
            assert end.score == 1.0
            assert play(other, task, actions) == (actions, texts, end)


@needs_java
def test_actions_that_are_refused(env):
    env.reset(PLANT)
    for action in ("fly", "", "open\nsesame", 'say "日本"'):
        observation = env.step(action)
        assert not observation.valid and not observation.done, action
    env.reset(PLANT)
    observation = env.step("open door")
    assert observation.text.startswith("Ambiguous request") and not observation.valid
    assert env.admissible() == ["0", "1", "2", "3", "4", "5"]
    assert env.step("0").valid


@needs_java
@pytest.mark.parametrize("kind", ["boil", pytest.param("power-component", marks=pytest.mark.long)])
def test_admissible_actions_are_accepted(env, kind):
    rng, task = random.Random(0), {**PLANT, "task": kind}
    env.reset(task)
    way = ["open door to kitchen", "go to kitchen"]
    refused = []
    for action in [*way, *(None for _ in range(15))]:
        observation = env.step(action or rng.choice([a for a in env.admissible() if a != "wait"]))
        if not observation.valid:
            refused.append(observation.text)
    assert all(text.startswith("Ambiguous request") for text in refused) and len(refused) < 4


@needs_java
def test_a_failed_task_ends_the_episode_with_score_0(env):
    env.reset(PLANT)
    observation = env.step("focus on agent")
    assert (observation.done, observation.score, observation.valid, observation.success) == (True, 0.0, True, False)


@needs_java
def test_the_score_of_the_last_episode_is_not_that_of_the_next_one(env):
    """The simulator computes a score where an action is executed; before the first one it has the last episode's."""
    assert play(env, PLANT)[2].score == 1.0
    env.reset(PLANT)
    with env.fork() as fork:
        asked = fork.step("task")
    assert (asked.score, asked.done, asked.success) == (0.0, False, None)
    assert env.step("help").score == 0.0


def test_the_mask_hides_temperatures_and_the_order_of_lists():
    mask = ScienceWorld.mask
    one, two = (
        "You see:\n\ta cup\n\ta jug\nIt is 20 degrees celsius",
        "You see:\n\ta jug\n\ta cup\nIt is -3 degrees celsius",
    )
    assert mask(None, one) == mask(None, two) != mask(None, two.replace("jug", "mug"))
    assert mask(None, "0:\tcup\n1:\tjug") != mask(None, "0:\tjug\n1:\tcup"), "numbers to choose from are no mere order"


# -- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@needs_java
def test_the_simulator_prints_nothing_and_leaves_no_file(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xss2m")  # java reports this on its standard error
    with open_env("scienceworld") as env:
        env.reset(PLANT)
        env.step("look around")
        pid = env._simulator._child.pid
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # no zombie
    assert tuple(capfd.readouterr()) == ("", "") and list(tmp_path.iterdir()) == []


@needs_java
def test_a_crash_or_a_hang_costs_one_episode(monkeypatch, capfd):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "60")
    with open_env("scienceworld") as env:
        text = env.reset(PLANT).text
        os.kill(env._simulator._child.pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFailed, match=r"scienceworld: step: java: killed by signal 9 \(SIGKILL\)$"):
            env.step("look around")
        with pytest.raises(EnvironmentFailed, match="no task is loaded"):
            env.step("look around")
        assert env.reset(PLANT).text == text
        env._simulator._limit = 1
        for connection in env._simulator._client.deque:
            connection.socket.settimeout(1)
        pid = env._simulator._child.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EnvironmentFailed, match=r"step: no answer within 1 s \(EEXP_ENV_TIMEOUT\)$"):
            env.step("look around")
        assert gone(pid)
    assert tuple(capfd.readouterr()) == ("", ""), "py4j's tracebacks"


@needs_java
@pytest.mark.parametrize(
    "ending", ["os.kill(os.getpid(), signal.SIGKILL)", pytest.param("sys.exit()", marks=pytest.mark.long)]
)
def test_no_jvm_is_left_behind(ending):
    started = HOLDER.replace("print(env._child.pid", "next(env.tasks('train')); print(env._simulator._child.pid")
    holder = subprocess.Popen(
        [sys.executable, "-c", started, "scienceworld", ending], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    pid = int(holder.stdout.readline())
    began = time.monotonic()
    holder.wait(timeout=20)
    assert gone(pid) and time.monotonic() - began < 5


@needs_java
def test_a_fork_has_a_simulator_of_its_own(env):
    text = env.reset(PLANT).text
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(EnvironmentFailed, match="no task is loaded"):
                env.step("look around")
            assert env.reset(PLANT).text == text
            env.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert env.step("look around").valid

"""BabyAI in words: its texts, its bot, forks. Skipped where the package is missing."""

from __future__ import annotations

import json
import random
import re
import sys
from itertools import islice
from pathlib import Path

import pytest
from branches import in_a_child
from running import needs_package, outputs_of_python, run

from eexp.envs import open_env
from eexp.envs.worlds import babyai
from eexp.envs.worlds.babyai import ACTIONS, BabyAI
from eexp.errors import EexpError, InputError, UsageError

needs_package("minigrid")

ROOT = Path(__file__).parents[2]
LOCKED = {"id": "UnlockLocal/0", "split": "train", "level": "UnlockLocal", "seed": 0}
MORE_LEVELS = "GoTo,Pickup,UnblockPickup,PutNextS5N2,UnlockPickup,BlockedUnlockPickup,KeyCorridorS3R2,MiniBossLevel"


def play(env: BabyAI, task: dict) -> tuple[list[str], list[str], object]:
    """Play a task by the expert; return its actions, the texts and the last observation."""
    observation = env.reset(task)
    actions, texts = [], [observation.text]
    while not observation.done and (action := env.expert()) is not None:
        actions.append(action)
        observation = env.step(action)
        texts.append(observation.text)
    return actions, texts, observation


def wander(env: BabyAI, rng: random.Random, steps: int) -> list[tuple[str, object]]:
    """Take random actions of any kind, sometimes the expert's; return (action, observation) for each."""
    trace = []
    for _ in range(steps):
        action = (rng.random() < 0.4 and env.expert()) or rng.choice(list(ACTIONS))
        trace.append((action, env.step(action)))
    return trace


def state(env: BabyAI) -> tuple:
    """Return the whole state of the world and of the bot's plan, without the count of steps."""
    world, bot = env._world, env._bot
    return (
        world.grid.encode().tobytes(),
        tuple(map(int, world.agent_pos)),
        int(world.agent_dir),
        world.carrying and world.carrying.encode(),
        world.np_random.bit_generator.state,
        env.expert(),
        bot and (repr(bot.stack).replace(str(id(world)), ""), bot.vis_mask.tobytes()),
    )


def plain(state: tuple) -> tuple:
    """Return a state without the memory addresses in it."""
    return (*state[:-1], state[-1] and (re.sub(r" at 0x\w+", "", state[-1][0]), state[-1][1]))


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_take_turns_between_levels():
    env = open_env("babyai")
    tasks = {split: list(env.tasks(split)) for split in env.splits()}
    assert {split: len(in_split) for split, in_split in tasks.items()} == {"train": 60_000, "test": 6_000}
    assert len({task["id"] for in_split in tasks.values() for task in in_split}) == 66_000
    assert not {t["seed"] for t in tasks["train"]} & {t["seed"] for t in tasks["test"]}
    assert [task["id"] for task in tasks["train"][:7]] == [
        "GoToLocal/0",
        "PickupLoc/0",
        "OpenDoor/0",
        "PutNextLocal/0",
        "UnlockLocalDist/0",
        "FindObjS5/0",
        "GoToLocal/1",
    ]
    assert next(open_env("babyai?level=UnlockLocal,GoTo").tasks("train")) == LOCKED


def test_unknown_levels_tasks_and_options_are_refused():
    with pytest.raises(UsageError, match=r"babyai\?level=GoAway: no such level; there are: .*GoToLocal, GoToLocalS5N2"):
        open_env("babyai?level=GoTo,GoAway")
    with pytest.raises(UsageError, match="babyai has no option 'levels'; it has: level"):
        open_env("babyai?levels=GoTo")
    env = open_env("babyai")
    with pytest.raises(UsageError, match="has no split 'dev'"):
        list(env.tasks("dev"))
    for level in ("GoAway", None, ["GoTo"]):
        with pytest.raises(InputError, match=r"\$.task.level: babyai has no level"):
            env.reset({**LOCKED, "level": level})
    for seed in ("1", None, -1, 2**32, True):
        with pytest.raises(InputError, match=r"\$.task.seed: expected a seed"):
            env.reset({**LOCKED, "seed": seed})


def test_a_missing_package_is_one_error(monkeypatch):
    babyai._levels.cache_clear()
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(EexpError, match=r"minigrid.*babyai needs `pip install 'eexp\[babyai\]'`"):
        open_env("babyai")
    babyai._levels.cache_clear()


# -- observations ----------------------------------------------------------------------------------------------------


def test_an_episode():
    env = open_env("babyai")
    observation = env.reset(LOCKED)
    assert env.instruction() == "open the door"
    assert (
        observation.text
        == "You face east. You see a wall 2 steps ahead, a wall 1 step to the right. You carry nothing."
    )
    assert (observation.done, observation.score, observation.valid, observation.success) == (False, 0.0, True, False)
    actions, texts, end = play(env, LOCKED)
    assert "a purple key 1 step ahead" in texts[4] and actions[6] == "pick up" and "a purple key." in texts[7]
    assert "a locked purple door 5 steps ahead and 3 to the left" in texts[5]
    assert texts[-1].endswith("an open purple door 1 step ahead. You carry a purple key. The mission is done.")
    assert (actions[-1], end.done, end.score, end.success) == ("toggle", True, 1.0, True)
    assert env.admissible() == [] and env.expert() is None
    after = env.step("turn left")
    assert (after.text, after.valid, after.done, after.success) == ("The episode is over.", False, True, True)


STATES = ("open", "closed", "locked")


def read(text: str) -> dict[tuple[int, int], tuple[str, ...]]:
    """Return the things in an observation, by steps ahead and to the right."""
    things = {}
    for part in re.search(r"You see (.*?)\. You carry", text)[1].split(", "):
        what = re.match(r"an? ((?:\w+ )*?\w+) (?=\d)", part)
        if not what or what[1] == "wall":
            continue
        ahead, side = re.search(r"(\d+) steps? ahead", part), re.search(r"(\d+)(?: steps?)? to the (left|right)", part)
        right = int(side[1]) * (-1 if side[2] == "left" else 1) if side else 0
        things[int(ahead[1]) if ahead else 0, right] = tuple(what[1].split())
    return things


def test_observations_agree_with_the_package_s_image():
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    env, rng, compared = open_env("babyai?level=GoToLocal,FindObjS5,UnlockPickup,BossLevel"), random.Random(0), 0
    for task in islice(env.tasks("train"), 40):
        text = env.reset(task).text
        while text:
            image, objects = env._world.gen_obs()["image"], {}
            for i, j in ((i, j) for i in range(7) for j in range(7) if (i, j) != (3, 6)):
                kind, color, at = map(int, image[i, j])
                words = (IDX_TO_COLOR[color], IDX_TO_OBJECT[kind])
                if words[1] in ("door", "key", "ball", "box"):
                    objects[6 - j, i - 3] = (STATES[at], *words) if words[1] == "door" else words
            assert read(text) == objects, text
            compared += len(objects)
            text = "" if env._over or rng.random() < 0.1 else env.step(rng.choice(env.admissible())).text
    assert compared > 500


def test_words_for_places_and_things():
    assert babyai._place(1, 0) == "1 step ahead" and babyai._place(0, -1) == "1 step to the left"
    assert babyai._place(2, 1) == "2 steps ahead and 1 to the right" and babyai._place(0, 3) == "3 steps to the right"
    assert babyai._named(None) == "nothing"


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (["fly"], "You can do one of these: turn left, turn right, go forward, pick up, drop, toggle, done."),
        ([""], "You can do one of these"),
        (["go forward", "go forward"], "The wall is in the way. You face east."),
        (["pick up"], "There is nothing to pick up ahead."),
        (["drop"], "You carry nothing."),
        (["toggle"], "There is nothing to toggle ahead."),
        (["done"], "Nothing changes."),
        (["go forward", "pick up"], "You cannot pick up the wall."),
        (["turn left", "turn left", "go forward", "go forward", "go forward"], "The purple key is in the way."),
        (["turn left", "turn left", "go forward", "go forward", "pick up", "pick up"], "There is nothing to pick up"),
        (
            [
                "turn left",
                "turn left",
                "go forward",
                "go forward",
                "pick up",
                "turn right",
                "turn right",
                *["go forward"] * 4,
                "drop",
            ],
            "There is no room ahead: the wall is there.",
        ),
    ],
)
def test_refused_actions(actions, message):
    env = open_env("babyai")
    env.reset(LOCKED)
    for action in actions[:-1]:
        env.step(action)
    before = state(env)[:5]
    observation = env.step(actions[-1])
    assert not observation.valid and message in observation.text and not observation.done
    assert state(env)[:5] == before


def test_a_locked_door_needs_its_key():
    env = open_env("babyai")
    actions, *_ = play(env, LOCKED)
    env.reset(LOCKED)
    for action in actions:
        if action == "toggle":  # at the door; let the key be another one
            env._world.carrying.color = "red"
        observation = env.step(action)
    assert (
        observation.text.startswith("The purple door is locked, and you do not carry its key. You face")
        and not observation.valid
    )
    assert env.step("go forward").text.startswith("The purple door is closed.")
    assert env.step("pick up").text.startswith("You cannot pick up the purple door.")


def test_admissible_actions_are_those_that_change_something():
    env, rng, counts = open_env("babyai?level=PutNextLocal,UnlockPickup,BossLevel,KeyInBox"), random.Random(1), {}
    for task in islice(env.tasks("train"), 16):
        env.reset(task)
        for _ in range(8):
            listed = env.admissible()
            assert listed == [action for action in ACTIONS if action in listed]
            for action in ACTIONS:
                fork = env.fork()
                before = state(fork)[:4]
                observation = fork.step(action)
                assert (state(fork)[:4] != before) == observation.valid == (action in listed), (
                    task,
                    action,
                    observation,
                )
                counts[action] = counts.get(action, 0) + observation.valid
            wander(env, rng, 2)
            if env._over:
                break
    assert counts.pop("done") == 0 and all(counts.values()), counts


def test_time_runs_out_and_missions_fail():
    env = open_env("babyai?level=GoToObjS4,OpenDoorsOrderN4Debug")
    env.reset({"level": "GoToObjS4", "seed": 0})
    for _ in range(16):
        observation = env.step("pick up")
    assert observation.text.endswith("Time is up.") and (observation.done, observation.success, observation.score) == (
        True,
        False,
        0.0,
    )
    _, texts, end = play(env, {"level": "OpenDoorsOrderN4Debug", "seed": 0})
    assert texts[-1].endswith("The mission has failed.") and (end.done, end.success, end.score) == (True, False, 0.0)


def test_nothing_is_printed(capfd):
    env = open_env("babyai?level=GoToLocal")
    env.reset({"level": "GoToLocal", "seed": 8})  # the package draws this mission twice, and prints that
    env.step("turn left")
    assert tuple(capfd.readouterr()) == ("", "")


# -- the expert ------------------------------------------------------------------------------------------------------


def test_the_expert_solves_the_levels_of_the_default():
    env = open_env("babyai")
    for split in env.splits():
        for task in islice(env.tasks(split), 60):
            *_, end = play(env, task)
            assert (end.done, end.score, end.success) == (True, 1.0, True), task


@pytest.mark.long
def test_the_expert_solves_other_levels():
    env = open_env(f"babyai?level={MORE_LEVELS}")
    for task in islice(env.tasks("train"), 40):
        *_, end = play(env, task)
        assert end.success, task


def test_the_expert_recovers_from_other_actions():
    env, rng, scores = open_env("babyai?level=GoToLocal,PickupLoc,OpenDoor,UnlockLocal"), random.Random(0), []
    for task in islice(env.tasks("train"), 60):
        env.reset(task)
        for _ in range(8):
            if not env._over:
                env.step(rng.choice([a for a in env.admissible() if a != "toggle"]))  # it would open boxes
        while not env._over and (action := env.expert()):
            env.step(action)
        scores.append(env._score)
    assert scores.count(1.0) >= 58, scores


def test_the_expert_knows_no_action_where_its_bot_gives_up():
    env = open_env("babyai?level=UnlockToUnlock,KeyInBox")
    env.reset({"level": "UnlockToUnlock", "seed": 1_000_001})
    while env.expert() is not None:  # here the package's bot would plan forever
        env.step(env.expert())
    assert not env._over and env.step("turn left").valid and env.expert() is None

    boxed = {"level": "FindObjS5", "seed": 0}
    actions, *_ = play(env, boxed)
    env.reset(boxed)
    for action in actions[:-1]:
        env.step(action)
    assert env.expert() == "pick up" and "a red box 1 step ahead" in env._describe()[0]
    assert "red box" not in env.step("toggle").text and env.expert() is None, "the box is gone"


def test_done_is_the_expert_s_action_at_the_goal():
    env = open_env("babyai?level=GoToObjDoor")
    for task in env.tasks("train"):
        observation = env.reset(task)
        if env.expert() == "done":
            break
    observation = env.step("done")
    assert observation.done and observation.success


# -- forks -----------------------------------------------------------------------------------------------------------


def test_a_fork_equals_a_replay_and_does_not_change_its_parent():
    spec = "babyai?level=GoToLocal,PickupLoc,PutNextLocal,UnlockLocal,FindObjS5,MiniBossLevel"
    env, other, rng, branches = open_env(spec), open_env(spec), random.Random(0), 0
    for task in env.tasks("train"):
        if branches >= 100:
            break
        expert, texts, end = play(other, task)
        assert env.reset(task).text == texts[0]
        for i, action in enumerate(expert[:12]):
            for _ in range(3):
                with env.fork() as fork:
                    steps = wander(fork, rng, 4)
                other.reset(task)
                for earlier in expert[:i]:
                    other.step(earlier)
                assert plain(state(other)) == plain(state(env))
                assert [(a, other.step(a)) for a, _ in steps] == steps
                assert plain(state(other)) == plain(state(fork))
                branches += 1
            assert env.expert() == action
            observation = env.step(action)
            assert observation.text == texts[i + 1]
        assert len(expert) > 12 or observation == end


def test_a_fork_shares_no_mutable_state():
    env = open_env("babyai")
    env.reset(LOCKED)
    fork = env.fork()
    assert fork._bot.mission is fork._world is not env._world and fork._world.instrs.env is fork._world
    assert fork._world.np_random is not env._world.np_random
    assert all(subgoal.bot is fork._bot for subgoal in fork._bot.stack)
    mine = {id(c) for c in env._world.grid.grid if c is not None and c.type != "wall"}
    assert not mine & {id(c) for c in fork._world.grid.grid}


def test_a_fork_of_a_fork_and_of_the_process():
    env = open_env("babyai?level=MiniBossLevel")
    env.reset({"level": "MiniBossLevel", "seed": 3})
    steps = wander(env.fork().fork(), random.Random(0), 12)
    assert in_a_child(lambda: repr([env.step(action) for action, _ in steps])) == repr(
        [observation for _, observation in steps]
    )
    assert [(action, env.step(action)) for action, _ in steps] == steps


def test_another_process_observes_the_same():
    code = (
        "import json, sys; from eexp.envs import open_env\nenv = open_env('babyai')\n"
        "for task, actions in json.load(sys.stdin):\n"
        "    print(json.dumps([env.reset(task).text, env.instruction(), *(env.step(a).text for a in actions)]))"
    )
    env, episodes, expected = open_env("babyai"), [], []
    for task in islice(env.tasks("test"), 12):
        actions, texts, _ = play(env, task)
        episodes.append((task, actions))
        expected.append([texts[0], env.instruction(), *texts[1:]])
    for output in outputs_of_python(code, json.dumps(episodes)):
        assert [json.loads(line) for line in output.splitlines()] == expected


# -- the pipe --------------------------------------------------------------------------------------------------------


def test_the_pipe():
    demonstrations = run("expert", "babyai", "-n", 12).ok()
    assert len(demonstrations.records) == 12 and all(t["outcome"]["success"] for t in demonstrations.records)
    branched = run("branch", "-k", 3, "--from", "admissible", stdin=demonstrations.out).ok()
    rolled = run("rollout", stdin=branched.out).ok()
    assert "refused" not in rolled.err and "invalid" not in rolled.err
    outcomes = [a["outcome"] for t in rolled.records for s in t["steps"] for a in s["alternatives"]]
    assert len(outcomes) > 200 and all(o["valid"] for o in outcomes)
    examples = run("world-model-data", stdin=rolled.out).ok().records
    assert len(examples) > len(outcomes)
    played = run("eval", "babyai", "-m", "expert", "-n", 6, "--split", "test").ok().records
    assert all(episode["success"] for episode in played)


def test_explanations_are_about_the_mission_only():
    env = BabyAI()
    for level in (*babyai.DEFAULT_LEVELS.split(","), "GoToSeqS5R2", "BossLevel"):
        observation = env.reset({"id": f"{level}/3", "split": "train", "level": level, "seed": 3})
        while not observation.done and (action := env.expert()) is not None:
            notes = env.explain()
            needed = r"Needed: (?:go to|pick up|open|drop the \w+ \w+ next to) the ((?:\w+ )?(\w+)(.*?))\."
            thing, kind, place = re.match(needed, notes).groups()
            assert place == ", which is not in view" or thing in observation.text, (notes, observation.text)
            assert kind in env.instruction() or "object" in (kind, *env.instruction().split()), notes
            observation = env.step(action)
        assert env.explain() is None if observation.done else env.expert() is None


def test_explanations_name_the_place_of_a_locked_door_s_key():
    env = BabyAI()
    env.reset(LOCKED)
    for _ in range(60):
        if env._world.carrying or "locked" in (notes := env.explain()):
            break
        env.step(env.expert())
    colour = re.search(r"Needed: open the (\w+) door", notes)[1]
    assert f"It is locked, and the {colour} key is " in notes


def test_things_in_cells_never_in_view_are_unknown():
    env, rng = BabyAI(), random.Random(0)
    for task in islice(env.tasks("train"), 12):
        observation = env.reset(task)
        viewed = {env._cell(at) for at in env._view()}
        for _ in range(12):
            twin = env.fork()
            observation = env.step(rng.choice(list(ACTIONS)))
            if observation.done:
                break
            assert (twin._viewed == viewed) and (twin is not env)
            new = [
                words
                for at, words in [*babyai._walls(env._view()), *babyai._things(env._view())]
                if env._cell(at) not in viewed
            ]
            assert [observation.text[a:b] for a, b in observation.unknown] == new
            viewed |= {env._cell(at) for at in env._view()}

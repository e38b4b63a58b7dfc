"""The house: its expert, its rules, and that they do not change unnoticed."""

from __future__ import annotations

import hashlib
import random
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eexp.envs import open_env
from eexp.envs.worlds.house import (
    _JOINED_BY,
    ALL_ROOMS,
    CONTAINERS,
    DISHES,
    FOOD,
    OOD_DISHES,
    OOD_FOOD,
    OOD_OBJECTS,
    OOD_ROOMS,
    OOD_THINGS,
    ROOM_OF,
    SPLITS,
    THINGS,
    TREATMENTS,
    WORLD,
    House,
    _into,
)
from eexp.errors import InputError, UsageError
from eexp.records.record import canonical

OBJECTS = [*FOOD, *DISHES, *THINGS, *OOD_FOOD, *OOD_DISHES, *OOD_THINGS]
tasks = st.builds(
    lambda split, n: {"id": f"{split}/{n % SPLITS[split]}", "split": split},
    st.sampled_from(list(SPLITS)),
    st.integers(0, 10**6),
)
solvable = tasks.filter(lambda t: t["split"] != "play")
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def _all_actions() -> list[str]:
    """Return every action that has the form of an admissible one, for all rooms and objects."""
    actions = [f"go to {room}" for room in ALL_ROOMS]
    for place in ROOM_OF:
        if place in CONTAINERS:
            actions += [f"open {place}", f"close {place}"]
        for thing in OBJECTS:
            actions += [f"take {thing} from {place}", f"put {thing} {_into(place)} {place}"]
    for verb, (place, _) in TREATMENTS.items():
        actions += [f"{verb} {thing} {_JOINED_BY[verb]} {place}" for thing in OBJECTS]
    return actions + [f"look at {thing} under lamp" for thing in OBJECTS]


ALL_ACTIONS = _all_actions()


def _wander(house: House, task: dict, rng: random.Random, steps: int) -> list[str]:
    """Take random admissible actions and return them."""
    house.reset(task)
    actions = []
    for _ in range(steps):
        if house.over:
            break
        actions.append(rng.choice(house.admissible()))
        assert house.step(actions[-1]).valid
    return actions


def _look(house: House) -> tuple:
    """Return everything that can be observed of a state."""
    return (
        house.room,
        house.held,
        dict(house.where),
        set(house.opened),
        {o: set(s) for o, s in house.state.items()},
        house.examined,
        house.over,
        house.admissible(),
        house.expert(),
        list(house.seen_rooms),
    )


@quick
@given(solvable)
def test_the_expert_solves_every_task(task):
    house = House()
    observation = house.reset(task)
    for _ in range(house.max_steps):
        if observation.done:
            break
        action = house.expert()
        assert action in house.admissible()
        observation = house.step(action)
        assert observation.valid
    assert observation.done and observation.success and observation.score == 1.0
    assert house.expert() is None


@pytest.mark.parametrize("split", ["train", "test", "ood"])
def test_the_expert_solves_the_first_three_hundred(split):
    house = House()
    for task in islice(house.tasks(split), 300):
        observation = house.reset(task)
        assert not observation.done, "no task is done before it begins"
        for _ in range(house.max_steps):
            observation = house.step(house.expert())
            if observation.done:
                break
        assert observation.success, task["id"]


@quick
@given(tasks, st.integers(0, 40), st.randoms(use_true_random=False))
def test_admissible_actions_are_accepted_and_all_others_refused(task, steps, rng):
    house = House()
    _wander(house, task, rng, steps)
    if house.over:
        return
    admissible = house.admissible()
    assert len(set(map(canonical, admissible))) == len(admissible) and admissible
    for action in admissible:
        assert house.fork().step(action).valid, action
    others = [a for a in ALL_ACTIONS if a not in set(admissible)]
    before = _look(house)
    for action in [*rng.sample(others, 40), "fly", "", "open", "take all", "go to", "look at under lamp"]:
        observation = house.step(action)
        assert not observation.valid and not observation.done, f"{action}: {observation.text}"
    assert _look(house) == before, "what is refused changes nothing"


@quick
@given(tasks, st.integers(0, 40), st.randoms(use_true_random=False))
def test_a_fork_equals_a_replay_and_is_independent(task, steps, rng):
    house, replay = House(), House()
    actions = _wander(house, task, rng, steps)
    fork = house.fork()
    replay.reset(task)
    for action in actions:
        replay.step(action)
    assert _look(fork) == _look(replay) == _look(house)
    before = _look(house)
    for _ in range(8):
        if fork.over:
            break
        action = rng.choice(fork.admissible())
        assert fork.step(action) == replay.step(action)
    assert _look(house) == before, "what a fork does stays in the fork"
    assert _look(fork) == _look(replay)
    fork_before = _look(fork)
    house.step("look")
    for action in house.admissible()[:3]:
        house.step(action)
    assert _look(fork) == fork_before


@quick
@given(tasks, st.integers(0, 60), st.randoms(use_true_random=False))
def test_the_expert_succeeds_from_any_state(task, steps, rng):
    """Off its own path, too, the expert has an action, and it reaches the goal."""
    house = House()
    _wander(house, task, rng, steps)
    for _ in range(60):
        if house.over:
            break
        action = house.expert()
        assert action in house.admissible(), action
        house.step(action)
    assert house.over


@quick
@given(tasks, st.integers(0, 20), st.randoms(use_true_random=False))
def test_other_spellings_of_an_action_are_accepted(task, steps, rng):
    house = House()
    _wander(house, task, rng, steps)
    if house.over:
        return
    action = rng.choice(house.admissible())
    plain = house.fork().step(action)
    words = action.split()
    assert house.fork().step(f"  {action.upper()}. ") == plain
    assert house.fork().step(" ".join([*words[:-1], "the", words[-1]])) == plain
    looked = house.fork().step("look")
    assert looked.valid and looked.text.startswith(f"You are in the {house.room}.")


def test_the_world_has_not_changed():
    """A change of a text or a rule needs a new name of the world, so that old records are refused."""

    def golden(observation) -> str:
        """Return an observation as text, without its unknown parts."""
        fields = ", ".join(
            f"{name}={getattr(observation, name)!r}" for name in ("text", "done", "score", "valid", "success")
        )
        return f"Observation({fields})"

    digest = hashlib.sha256()
    house = House()
    for split in SPLITS:
        for task in islice(house.tasks(split), 25):
            observation, rng = house.reset(task), random.Random(task["id"])
            digest.update(f"{task} {house.instruction()} {golden(observation)}\n".encode())
            for turn in range(25):
                if house.over:
                    break
                action = rng.choice(house.admissible()) if turn % 2 else house.expert() or "look"
                digest.update(f"{action} {golden(house.step(action))}\n".encode())
            digest.update(house.step("look under the carpet").text.encode())
    assert (WORLD, digest.hexdigest()[:16]) == ("house-2", "31e13328ed730937")


def test_splits():
    house = House()
    assert house.splits() == ["train", "test", "ood", "play"] and open_env("house").spec == "house"
    for split, count in SPLITS.items():
        listed = [t["id"] for t in house.tasks(split)]
        assert len(listed) == len(set(listed)) == count and all(i.startswith(f"{split}/") for i in listed)
    with pytest.raises(UsageError, match="no split 'dev'"):
        next(house.tasks("dev"))


def test_ood_has_objects_and_rooms_that_train_does_not_have():
    house = House()
    for split in ("train", "test"):
        for task in islice(house.tasks(split), 400):
            house.reset(task)
            assert not set(house.doors) & set(OOD_ROOMS) and not set(house.where) & OOD_OBJECTS
    rooms = 0
    for task in islice(house.tasks("ood"), 400):
        house.reset(task)
        assert house.target in OOD_OBJECTS and set(house.doors) & set(OOD_ROOMS)
        rooms += house.kind != "examine" and house.room_of[house.goal] in OOD_ROOMS
    assert rooms > 100


def test_test_layouts_are_not_those_of_train():
    house = House()

    def layouts(split, n):
        descriptions = set()
        for task in islice(house.tasks(split), n):
            observation = house.reset(task)
            descriptions.add((house.instruction(), observation.text, tuple(sorted(house.where.items()))))
        return descriptions

    train, test = layouts("train", 2000), layouts("test", 500)
    assert len(test) > 495 and not train & test


def test_random_actions_rarely_succeed():
    house, won = House(), 0
    for task in islice(house.tasks("test"), 200):
        rng = random.Random(task["id"])
        observation = house.reset(task)
        for _ in range(house.max_steps):
            observation = house.step(rng.choice(house.admissible()))
            if observation.done:
                break
        won += bool(observation.success)
    assert won / 200 < 0.15


def test_a_finished_task_stays_finished():
    house = House()
    house.reset({"id": "train/0"})
    while not house.over:
        observation = house.step(house.expert())
    assert observation.text.endswith("The task is done.")
    after = house.step("look")
    assert after.done and not after.valid and after.text == "The task is over."


def test_scores():
    """The score is 0.5 after the treatment and 1 at the end."""
    house = House()
    for task in house.tasks("train"):
        observation = house.reset(task)
        if house.kind in TREATMENTS:
            break
    scores = [observation.score]
    while not observation.done:
        observation = house.step(house.expert())
        scores.append(observation.score)
    assert sorted(scores) == scores and set(scores) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize(
    "name", ["", "train", "train/", "train/x", "train/²", "dev/1", "train/10000", None, "train/1/2"]
)
def test_malformed_tasks_are_refused(name):
    for task in ({}, {"id": name}):
        with pytest.raises(InputError) as caught:
            House().reset(task)
        assert caught.value.where == "$.task.id"
    with pytest.raises(InputError, match="this is 'house-2'"):
        House().reset({"id": "train/1", "world": "house-0"})


# -- explanations and unknown parts ------------------------------------------------------------------------------------


def test_explanations_state_only_observed_facts():
    """The object's true place is named once it was observed; what is needed is what the task says."""
    house = House()
    for task in islice(house.tasks("train"), 40):
        observation, rng = house.reset(task), random.Random(task["id"])
        text = observation.text
        while not house.over and house.steps < 25:
            notes = house.explain()
            assert notes.startswith(("Still needed: put ", "Still needed: look at ", "Still needed: " + house.kind))
            where = f"{house.target} {'in' if house.where[house.target] in CONTAINERS | {'sink'} else 'on'} "
            if house.held == house.target:
                assert f"{house.target}: I hold it." in notes
            elif house.held is None and f"{where}{house.where[house.target]}" in text:
                assert f"{where}{house.where[house.target]}: " in notes
            elif house.held is None:
                assert f"{house.target}: not seen yet." in notes
            others = [action for action in house.admissible() if not action.startswith(("put ", "close "))]
            action = house.expert() if rng.random() < 0.7 or not others else rng.choice(others)
            text += house.step(action).text
        assert house.explain() is None or not house.over


def test_unknown_parts_are_those_never_observed_before():
    """Unknown parts describe a room that was never entered or a container that was never open."""
    house = House()
    for task in islice(house.tasks("test"), 40):
        observation, rng, entered, opened = house.reset(task), random.Random(task["id"]), set(), set()
        for _ in range(15):
            parts = [observation.text[start:end] for start, end in observation.unknown]
            new = "You are in the" in observation.text and observation.valid and house.room not in entered
            new |= (
                observation.text.startswith("You open the")
                and observation.valid
                and observation.text.split()[3].strip(".") not in opened
            )
            assert len(parts) == new and all(part in observation.text.split("You see ")[1] for part in parts)
            entered.add(house.room)
            opened |= house.opened
            observation = house.step(rng.choice(house.admissible()))
            if house.over:
                break

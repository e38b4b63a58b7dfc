"""`noisy:P:ENV`: words are left out of observations, and nothing else changes."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest
from branches import rolled_out_in_every_way
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, lines, run, spawn, write

from eexp.acting.expert import expert
from eexp.acting.settings import ExpertSettings
from eexp.envs import open_env, without_wrappers
from eexp.envs.noisy import Noisy, kept_parts
from eexp.envs.pieces import Piece, moved
from eexp.envs.worlds.house import House

SAFE = f"exec:sh {ROOT}/examples/safe.sh"


def tasks(split: str, n: int) -> list[dict]:
    return list(islice(House().tasks(split), n))


texts = st.text(st.sampled_from("ab 1.,'-\n\té"), max_size=60)


def thinned(text: str, share: float, seed: int) -> str:
    return "".join(text[start:end] for start, end in kept_parts(text, share, random.Random(seed)))


@settings(max_examples=300, deadline=None)
@given(texts, st.floats(0, 0.99), st.integers(0, 9))
def test_words_are_left_out_with_their_blanks(text, share, seed):
    remainder = thinned(text, share, seed)
    assert thinned(text, 0.0, seed) == text
    rest = iter(text)
    assert all(character in rest for character in remainder), "what stays keeps its order"
    assert remainder.count("\n") == text.count("\n") and remainder.count(",") == text.count(",")
    for before, after in zip(text.split("\n"), remainder.split("\n")):
        assert after[:1] not in (" ", "\t") or before[:1] in (" ", "\t"), "no line is indented by it"


@settings(max_examples=300, deadline=None)
@given(texts, st.data())
def test_unknown_parts_are_moved(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    parts = kept_parts(text, 0.4, random.Random(0))
    remainder = "".join(text[a:b] for a, b in parts)
    inside = "".join(text[i] for a, b in parts for i in range(a, b) if start <= i < end)
    places = moved([(start, end)], [Piece(*part) for part in parts])
    assert [remainder[a:b] for a, b in places] == ([inside] if inside else [])


def test_words_are_left_out_independently():
    text = "You see apple on sofa, 10.5 isn't e-mail.\n\nDoors: study."
    texts_drawn = Counter(thinned(text, 0.5, seed) for seed in range(4000))
    words = ["You", "see", "apple", "on", "sofa", "10.5", "isn't", "e-mail", "Doors", "study"]
    for word in words:
        share = sum(n for remainder, n in texts_drawn.items() if word in remainder) / 4000
        assert 0.45 < share < 0.55, word
    assert texts_drawn[",.\n\n:."] > 0


def play(env, task: dict, actions: list[str]) -> list:
    return [env.reset(task), *(env.step(action) for action in actions)]


def test_only_the_text_has_noise():
    noisy, house, changed = open_env("noisy:0.2:house"), House(), 0
    assert (noisy.max_steps, noisy.light, noisy.in_process) == (house.max_steps, house.light, house.in_process)
    for task in tasks("test", 20):
        observation, clean, rng = noisy.reset(task), house.reset(task), random.Random(task["id"])
        assert noisy.instruction() == house.instruction()
        while not clean.done and house.steps < 20:
            assert (observation.done, observation.score, observation.valid, observation.success) == (
                clean.done,
                clean.score,
                clean.valid,
                clean.success,
            )
            assert noisy.admissible() == house.admissible()
            assert (noisy.expert(), noisy.explain()) == (house.expert(), house.explain())
            changed += observation.text != clean.text
            for start, end in observation.unknown:
                assert clean.unknown and observation.text[start:end]
            action = rng.choice([*house.admissible(), "fly away"])
            observation, clean = noisy.step(action), house.step(action)
        assert (observation.done, observation.success) == (clean.done, clean.success)
    assert changed > 100


def test_a_share_of_zero_is_no_noise():
    for task in tasks("test", 10):
        actions = []
        house = House()
        observation = house.reset(task)
        while not observation.done:
            actions.append(house.expert())
            observation = house.step(actions[-1])
        assert play(open_env("noisy:0:house"), task, actions) == play(House(), task, actions)
    plain, noisy = (run("expert", spec, "-n", 6).ok().records for spec in ("house", "noisy:0:house"))
    assert [t["steps"] for t in plain] == [t["steps"] for t in noisy]


def test_less_noise_leaves_out_part_of_what_more_noise_does():
    task, actions = tasks("train", 1)[0], ["open cupboard", "go to lounge", "fly", "go to kitchen"]
    few, many = (play(open_env(f"noisy:{share}:house"), task, actions) for share in (0.1, 0.4))
    for less, more in zip(few, many):
        rest = iter(less.text)
        assert all(character in rest for character in more.text)


def test_the_same_room_reads_differently_only_after_an_action():
    env = open_env("noisy:0.3:house")
    (task,) = tasks("train", 1)
    play(env, task, ["go to lounge"])
    first = env.step("fly").text
    assert env.step("fly").text == first, "a refused action is not counted"
    fork = env.fork()
    looked = env.step("look")
    assert env.step("look").text != looked.text, "one that is valid is"
    assert fork.step("look") == looked


@pytest.mark.parametrize("inner", ["house", pytest.param("babyai", marks=pytest.mark.long)])
def test_a_fork_equals_a_replay(inner):
    if inner == "babyai":
        pytest.importorskip("minigrid", reason="needs `pip install minigrid`")
    spec = f"noisy:0.2:{inner}"
    env, replayed = open_env(spec), open_env(spec)
    for task in islice(env.tasks(env.splits()[0]), 6):
        rng, actions_taken = random.Random(task["id"]), []
        observation = env.reset(task)
        for _ in range(8):
            if observation.done:
                break
            for action in [*rng.sample(env.admissible(), min(2, len(env.admissible()))), "xyzzy"]:
                with env.fork() as fork:
                    assert fork.spec == spec
                    assert fork.step(action) == play(replayed, task, [*actions_taken, action])[-1]
            actions_taken.append(rng.choice(env.admissible()))
            observation = env.step(actions_taken[-1])
            assert observation == play(replayed, task, actions_taken)[-1]


@pytest.mark.parametrize(
    "inner",
    ["house", pytest.param("babyai", marks=pytest.mark.long), SAFE],
    ids=["house", "babyai", "program"],
)
def test_the_check_of_the_contract_passes(inner):
    if inner == "babyai":
        pytest.importorskip("minigrid", reason="needs `pip install minigrid`")
    output = spawn("env", "check", f"noisy:0.2:{inner}", "-n", 3).ok().out.decode()
    assert {line[:4] for line in output.splitlines()} <= {"ok  ", "-   ", "note"}
    assert "ok    forks" in output or inner == SAFE


def test_branches_are_verified_and_the_same_by_every_way_to_fork(tmp_path):
    demonstrations = run("expert", "noisy:0.2:house", "-n", 4).ok()
    assert (
        demonstrations.records[0]["env"] == "noisy:0.2:house"
        and demonstrations.records[0]["id"] == "noisy:0.2:house/train/0"
    )
    branched = write(
        tmp_path / "branched", run("branch", "--from", "admissible", "-k", 3, stdin=demonstrations.out).ok().records
    )
    rolled_out_in_every_way(branched)
    refused = run("rollout", "-j", 1, "--env", "house", "--on-error", "skip", branched)
    assert refused.code == 4 and "was recorded" in refused.err, "another noise is another world"


def test_refused_actions_inserted_by_recover_do_not_change_the_path():
    demonstrations = run("expert", "noisy:0.2:house", "-n", 4).ok().records
    for t in demonstrations:
        for step in t["steps"]:
            step["alternatives"] = [{"action": a, "source": "policy", "outcome": None} for a in ("fly", "open sky")]
    rollout = run("rollout", "-j", 1, stdin=lines(demonstrations)).ok()
    recovered = run("recover", "--share", 1, stdin=rollout.out).ok()
    again = run("rollout", "-j", 1, stdin=recovered.out).ok()
    assert [t["outcome"] for t in again.records] == [t["outcome"] for t in demonstrations]


@pytest.mark.parametrize("inner", ["house", pytest.param(SAFE, marks=pytest.mark.long)], ids=["house", "program"])
def test_episodes_do_not_depend_on_how_many_are_played_at_once(inner):
    command = ["eval", f"noisy:0.3:{inner}", "-m", "random", "-n", 5, "--max-steps", 6, "-q"]
    one, three = (run(*command, "--parallel", n).ok().out for n in (1, 3))
    assert one == three and one
    plain = run(*command[:1], inner, *command[2:]).ok().records
    noisy = run(*command).ok().records
    assert [e["task"] for e in plain] == [e["task"] for e in noisy], "the panel is the same"
    pairs = zip(plain, noisy)
    assert any(a["transcript"][0]["observation"] != b["transcript"][0]["observation"] for a, b in pairs)


def test_a_record_may_name_noise_but_no_program():
    demonstrations = run("expert", f"noisy:0.1:{SAFE}", "-n", 1, "--split", "train").ok()
    branched = run("branch", "--from", "admissible", "-k", 1, stdin=demonstrations.out).ok().out
    run("rollout", "-j", 1, stdin=branched).one_error(3, "runs code of yours or asks a server")
    run("rollout", "-j", 1, "--env", f"noisy:0.1:{SAFE}", stdin=branched).ok()
    broken = demonstrations.records[0] | {"env": "noisy:house"}
    run("rollout", "-j", 1, stdin=lines([broken])).one_error(3, "$.env", "expected noisy:P:ENV")


@pytest.mark.parametrize(
    "spec",
    [
        "noisy:",
        "noisy:house",
        "noisy:0.1",
        "noisy:0.1:",
        "noisy:1:house",
        "noisy:-1:house",
        "noisy:nan:house",
        "noisy:0.1:noisy:0.1:house",
        "noisy:0.1:no-such",
    ],
)
def test_malformed_noise_is_refused(spec):
    run("expert", spec, "-n", 1).one_error(2, "environment")


def test_the_environment_under_the_noise():
    assert without_wrappers("noisy:0.1:exec:./world.sh") == "exec:./world.sh"
    assert without_wrappers("textworld?games=noisy:") == "textworld?games=noisy:"
    assert Noisy(House(), 0.25).spec == "noisy:0.25:house"


def test_the_same_actions_are_corrupted_whether_or_not_observations_have_noise():
    plain = list(expert(House(), iter(tasks("train", 10)), ExpertSettings(noise=0.3)))
    noisy = list(expert(open_env("noisy:0.2:house"), iter(tasks("train", 10)), ExpertSettings(noise=0.3)))
    actions = [
        [(step["action"], step.get("noise")) for t in trajectories for step in t["steps"]]
        for trajectories in (plain, noisy)
    ]
    assert actions[0] == actions[1]

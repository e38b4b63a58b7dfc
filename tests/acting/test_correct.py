"""`eexp correct`: the first turn that brought an agent no nearer to the end, and the expert's way on from there."""

from __future__ import annotations

import copy
import json

import pytest
from running import read, run, write

from eexp.acting.correct import correct_episode
from eexp.acting.expert_ways import WalkedEpisode
from eexp.acting.settings import CorrectSettings
from eexp.envs import open_env
from eexp.envs.worlds.house import House
from eexp.errors import UsageError
from eexp.formats.episodes import conversation_of
from eexp.records.outcomes import actions_to_the_end, takes_longer
from eexp.records.record import is_only_shown


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Return the file of episodes of `house` that were played at random."""
    file = tmp_path_factory.mktemp("correct") / "episodes"
    run("eval", "house", "-m", "random", "--split", "train", "-n", 12, "--max-steps", 12, "-q", "-o", file).ok()
    return file


def expert_way(env, task: dict, actions: list[str]) -> list[str] | None:
    """Return the expert's actions to the completed task after `actions`, walked from the beginning; None if none."""
    observation = env.reset(task)
    for action in actions:
        observation = env.step(action)
    way = []
    while not observation.done and len(way) < env.max_steps:
        way.append(env.expert())
        observation = env.step(way[-1])
    return way if observation.success else None


@pytest.mark.parametrize(
    "env", ["house", "textcraft", pytest.param("babyai", marks=pytest.mark.long), "exec:sh examples/safe.sh"]
)
def test_the_first_turns_that_brought_the_agent_no_nearer_are_corrected(tmp_path, env):
    if env == "babyai":
        pytest.importorskip("minigrid")
    played = tmp_path / "episodes"
    own = ("--env", env) if env.startswith("exec:") else ()
    run("eval", env, "-m", "random", "-n", 4, "--max-steps", 6, "-q", "-o", played).ok()
    run("correct", *own, "-j", 1, "--turns", 2, "-q", played, "-o", tmp_path / "out").ok()
    written = {t["id"]: t for t in read(tmp_path / "out")}
    expected: dict[str, tuple] = {}
    with open_env(env) as world:
        for episode in read(played):
            actions = [turn["action"] for turn in episode["transcript"]]
            ways = [expert_way(world, episode["task"], actions[:i]) for i in range(len(actions) + 1)]
            lengths = [float("inf") if way is None else len(way) for way in ways]
            failed = [i for i in range(len(actions)) if lengths[i] < float("inf") and lengths[i + 1] >= lengths[i]]
            for number, i in enumerate(failed[:2] if ways[0] else [], 1):
                whole = [*actions[:i], *(ways[i] or [])]
                expected[f"{episode['id']}/correct/{number}"] = whole, failed[: number - 1], actions[i]
    assert expected and set(written) == set(expected)
    for name, (actions, mistakes, mistaken) in expected.items():
        steps = written[name]["steps"]
        assert [step["action"] for step in steps] == actions
        assert [i for i, step in enumerate(steps) if step.get("mistake")] == mistakes
        shown = [step["action"] for step in steps if step.get("repeated")]
        assert not (shown and name.endswith("/1"))
        (i,) = (i for i, step in enumerate(steps) if step.get("alternatives"))
        (alternative,) = steps[i]["alternatives"]
        assert alternative["action"] == mistaken
        assert takes_longer(written[name], i, alternative) and actions_to_the_end(written[name], i, alternative)[1]


def test_rollout_verifies_corrections_and_finds_the_same_outcomes(episodes, tmp_path):
    run("correct", "--turns", 3, "-q", episodes, "-o", tmp_path / "corrected").ok()
    run("rollout", "--again", "-q", tmp_path / "corrected", "-o", tmp_path / "again").ok()
    corrected, again = read(tmp_path / "corrected"), read(tmp_path / "again")
    outcomes = [
        [[a["outcome"] for step in t["steps"] for a in step.get("alternatives") or []] for t in trajectories]
        for trajectories in (corrected, again)
    ]
    assert len(corrected) > 12 and outcomes[0] == outcomes[1]


def test_a_correction_becomes_examples_and_preferences(episodes, tmp_path):
    corrected = tmp_path / "corrected"
    result = run("correct", episodes, "-o", corrected).ok()
    assert "turns that failed" in result.err
    trajectories = read(corrected)
    reflections = run("reflect", "--weigh", 1, corrected).ok().records
    corrected_steps = {
        f"{t['id']}/{i}" for t in trajectories for i, step in enumerate(t["steps"]) if step.get("alternatives")
    }
    assert len(corrected_steps) == len(trajectories) and len(reflections) > len(trajectories) / 2
    assert corrected_steps & {r["id"].rsplit("/", 1)[0] for r in reflections}
    preferences = run("preference-data", corrected).ok().records
    assert preferences and all(
        p["rejected_actions"] > p["chosen_actions"] for p in preferences if p["worse"] == "later"
    )
    imitation = run("imitation-data", corrected).ok().records
    assert len(imitation) == sum(not is_only_shown(step) for t in trajectories for step in t["steps"])


def test_no_step_is_imitated_twice(episodes, tmp_path):
    run("correct", "--turns", 9, "-q", episodes, "-o", tmp_path / "corrected").ok()
    examples = run("imitation-data", "-q", tmp_path / "corrected").ok().records
    prompts = [json.dumps(e["prompt"]) for e in examples]
    assert len(set(prompts)) == len(prompts)
    # Of each episode: the turns before the first one that failed, the way from there, and a step for each other one.
    corrections = {t["id"]: t["steps"] for t in read(tmp_path / "corrected")}
    firsts = sum(len(steps) for name, steps in corrections.items() if name.endswith("/correct/1"))
    others = sum(not name.endswith("/correct/1") for name in corrections)
    assert len(examples) >= firsts + others


def test_by_replay_as_by_copies(episodes, monkeypatch):
    def corrections():
        with open_env("house") as env:
            settings = CorrectSettings(turns=3)
            return [correct_episode(env, e["task"], conversation_of(e), e["id"], settings) for e in read(episodes)]

    copied = corrections()
    monkeypatch.setattr(House, "why_no_copy", lambda self: "for a test")
    assert corrections() == copied and any(c.trajectories for c in copied)


def test_an_episode_of_the_expert_has_nothing_to_correct(tmp_path):
    run("eval", "house", "-m", "expert", "-n", 3, "-q", "-o", tmp_path / "episodes").ok()
    result = run("correct", tmp_path / "episodes").ok()
    assert not result.records and "3 episodes without a turn that failed" in result.err


def test_an_episode_that_went_differently_is_set_aside(episodes, tmp_path):
    changed = copy.deepcopy(read(episodes))
    changed[1]["transcript"][1]["observation"] += " A bell rings."
    write(tmp_path / "changed", changed)
    result = run("correct", "--rejects", tmp_path / "rejects", tmp_path / "changed").ok(4)
    assert "A bell rings" in result.err and len(read(tmp_path / "rejects")) == 1
    assert {t["id"].split("/correct/")[0] for t in result.records} <= {e["id"] for e in changed} - {changed[1]["id"]}


def test_an_environment_without_an_expert_is_told(episodes, monkeypatch):
    monkeypatch.setattr(House, "has", lambda self, method: method != "expert")
    (episode, *_) = read(episodes)
    with open_env("house") as env, pytest.raises(UsageError, match="house has no expert"):
        correct_episode(env, episode["task"], conversation_of(episode), episode["id"])


def test_what_the_agent_does_where_the_expert_knows_no_way_is_not_imitated(monkeypatch):
    expert = House.expert
    knows = []  # whether the expert is asked in a state from which it goes on

    def sometimes(self):
        return expert(self) if knows[-1] else None

    def way_from(self, i, observation):
        knows.append(i not in (2, 3))
        return known_way_from(self, i, observation)

    known_way_from = WalkedEpisode._way_from
    monkeypatch.setattr(House, "expert", sometimes)
    monkeypatch.setattr(WalkedEpisode, "_way_from", way_from)
    with open_env("house") as env:
        task = next(iter(env.list_tasks("train")))
        steps, observation = [], env.reset(task)
        for _ in range(6):
            steps.append({"observation": observation.text, "action": "look"})
            observation = env.step("look")
        played = {"transcript": steps, "final": observation.text, "instruction": env.instruction(), "success": False}
        corrected = correct_episode(env, task, conversation_of(played), "e", CorrectSettings(turns=9)).trajectories
    marks = [[step.get("mistake", False) for step in t["steps"]] for t in corrected]
    assert len(marks[0]) > 1 and not any(marks[0])
    last = next(i for i, step in enumerate(corrected[-1]["steps"]) if step.get("alternatives"))
    assert last >= 4 and all(marks[-1][:last])

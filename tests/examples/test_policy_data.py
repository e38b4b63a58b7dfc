"""`eexp policy-data`: advantages by hand, prompts as in play, and a policy that learns from its own success."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from own_episodes import STYLE, episode, weights
from running import ROOT, environment, read, run, write

from eexp.envs.base import Environment, Observation
from eexp.envs.opening import open_env
from eexp.examples.policy_gradient import policy_data
from eexp.prompts import get_style


def test_advantages_by_hand():
    of_a = [episode("a", 0, True), episode("a", 1, False), episode("a", 2, False), episode("a", 3, False)]
    of_b = [episode("b", 0, True), episode("b", 1, True)]
    mixed = [of_a[0], of_b[0], of_a[1], of_b[1], *of_a[2:]]
    assert weights(mixed) == {"a/0/0": 0.75, "a/1/0": -0.25, "a/2/0": -0.25, "a/3/0": -0.25}
    spread = statistics.pstdev([1, 0, 0, 0])
    assert weights(of_a, scale=True) == {"a/0/0": 0.75 / spread} | {f"a/{n}/0": -0.25 / spread for n in (1, 2, 3)}


def test_the_mean_is_over_turns_or_over_episodes():
    """Of four turns, one is of an episode that succeeded: 1/4 of all turns, 1/2 of the episodes."""
    episodes = [episode("a", 0, True), episode("a", 1, False, (True, True, True))]
    assert weights(episodes) == {"a/0/0": 0.75} | {f"a/1/{n}": -0.25 for n in range(3)}
    assert weights(episodes, baseline="episodes") == {"a/0/0": 0.5} | {f"a/1/{n}": -0.5 for n in range(3)}
    scaled = weights(episodes, scale=True)
    assert scaled == pytest.approx({"a/0/0": 1.5} | {f"a/1/{n}": -0.5 for n in range(3)})


def test_refused_actions_cost_and_the_mean_stays():
    episodes = [episode("a", 0, True, (True, False)), episode("a", 1, False, (True, True))]
    made = weights(episodes, refused=0.4)
    assert made == pytest.approx({"a/0/0": 0.6, "a/0/1": 0.2, "a/1/0": -0.4, "a/1/1": -0.4})
    alike = [episode("a", 0, False, (True, False)), episode("a", 1, False, (True, True))]
    assert weights(alike) == {}
    assert weights(alike, refused=0.4)["a/0/1"] == pytest.approx(-0.3)


def test_scores_are_rewards_where_asked():
    episodes = [episode("a", 0, False, score=0.5), episode("a", 1, False, score=None)]
    assert weights(episodes) == {} and weights(episodes, reward="score") == {"a/0/0": 0.25, "a/1/0": -0.25}


def test_episodes_that_did_equally_well_have_no_weight():
    """Also where a mean of equal numbers is not the number to the last digit."""
    for score in (0.15, 0.35, 0.7):
        alike = [episode("a", n, False, (True,) * turns, score=score) for n, turns in enumerate((3, 4, 9))]
        for baseline in ("turns", "episodes"):
            assert weights(alike, reward="score", baseline=baseline) == {}
    assert weights([episode("a", n, False, (False,) * 7) for n in range(3)], refused=0.1) == {}


def test_rewards_of_turns_alone(tmp_path):
    file = write(tmp_path / "episodes", [episode("a", 0, True, (True, False)), episode("a", 1, False)])
    run("policy-data", "--reward", "none", file).one_error(2, "--reward none leaves --turn-rewards and --refused")
    run("policy-data", "--reward", "none", "--refused", 1, "--scale", file).one_error(2, "--scale")
    made = run("policy-data", "--reward", "none", "--refused", 0.3, file).ok().records
    assert [e["weight"] for e in made] == pytest.approx([0.1, -0.2, 0.1])


def test_answers_that_were_cut_off_are_left_out():
    cut = episode("a", 0, True)
    cut["transcript"][0] |= {"cut_off": True}
    counts: dict[str, int] = {}
    made = list(
        policy_data(
            iter([cut, episode("a", 1, False)]),
            STYLE,
            count=lambda what, n: counts.update({what: counts.get(what, 0) + n}),
        )
    )
    assert [e["id"] for e in made] == ["world/a/1/0/policy"] and {what: n for what, n in counts.items() if n} == {
        "turn[s] cut off before the action": 1
    }


def test_another_prompt_style_is_refused(tmp_path):
    file = write(tmp_path / "episodes", [episode("a", 0, True), episode("a", 1, False)])
    run("policy-data", "--prompt-style", "think", file).one_error(3, "played with prompt style react", "--prompt-style")
    random = write(tmp_path / "random", [episode("a", 0, True, prompt_style=None)])
    run("policy-data", random).one_error(3, "played with no prompt style, so not by a language model")


def test_episodes_that_are_not_the_policy_s_own_are_refused(tmp_path):
    ahead = episode("a", 0, True, lineage=["eval 0.2.0 env=world temperature=1 look-ahead=3"])
    run("policy-data", write(tmp_path / "ahead", [ahead])).one_error(3, "look-ahead")
    recalling = episode("a", 0, True, recalled=["world/b/0"])
    run("policy-data", write(tmp_path / "recalling", [recalling])).one_error(3, "$.recalled", "--recall")
    twice = [episode("a", 0, True), episode("a", 1, False), episode("a", 0, True)]
    assert "1 episode given more than once" in run("policy-data", write(tmp_path / "twice", twice)).ok().err


@pytest.mark.parametrize("style", ["react", "react-list"])
def test_prompts_and_answers_are_those_of_play(tmp_path, style):
    play = ["-m", "tiny", "--threads", 1, "--trials", 3, "--temperature", 1, "--max-tokens", 16, "--max-steps", 5]
    run("eval", "house", "-n", 2, *play, "--prompt-style", style, "--think", "never", "-q", "-o", tmp_path / "e").ok()
    examples = run("policy-data", "--prompt-style", style, "--refused", 1, tmp_path / "e").ok().records
    assert examples
    episodes = {e["id"]: e for e in read(tmp_path / "e")}
    words = get_style(style)
    for example in examples:
        episode_id, _, i = example["id"].removesuffix("/policy").rpartition("/")
        played = episodes[episode_id]
        turns = played["transcript"]
        turn = turns[int(i)]
        listed = admissible_after(played["task"], turns[: int(i)]) if style == "react-list" else None
        prompt = words.act(played["instruction"], turns[: int(i)], turn["observation"], listed)
        assert example["prompt"] == prompt and example["group"] == f"house/{played['task']['id']}"
        (answer,) = example["completion"]
        assert answer["content"].endswith(turn.get("text", turn["action"]).strip())


def admissible_after(task: dict, turns: list[dict]) -> list[str] | None:
    with open_env("house") as env:
        env.reset(task)
        for turn in turns:
            env.step(turn["action"])
        return env.admissible()


def test_prompts_whose_actions_are_not_known_are_refused(tmp_path):
    listing = [episode("a", n, n == 0, prompt_style=get_style("react-list").label) for n in (0, 1)]
    refused = run("policy-data", "--prompt-style", "react-list", write(tmp_path / "episodes", listing))
    refused.one_error(3, "$.transcript[0]", "no admissible actions")


def test_what_did_worse_becomes_less_likely(tmp_path):
    file = write(tmp_path / "episodes", [episode("a", 0, True), episode("a", 1, False)])
    policy = tmp_path / "policy"
    run("policy-data", "-q", file, "-o", policy).ok()
    update = ("--batch-size", 100, "--max-steps", 1, "--lr", 1e-3, "--schedule", "constant", "-q")
    run("finetune", "-m", "tiny", "-o", tmp_path / "run", *update, policy).ok()

    def likely(model) -> list[float]:
        scored = run("score", "-m", model, policy, "-q").ok().records
        return [sum(span["logprob"] for span in e["scores"]) for e in scored]

    before, after = likely("hf:tiny"), likely(f"hf:tiny+{tmp_path / 'run'}")
    assert after[0] - after[1] > before[0] - before[1]


class Bandit(Environment):
    """One decision between two doors, of which the right one is always the same."""

    spec = "test_policy_data:Bandit"
    max_steps = 1

    def splits(self):
        return ["train"]

    def tasks(self, split):
        return ({"id": f"{split}/{n}", "split": split} for n in range(500))

    def instruction(self):
        return "Choose a door."

    def reset(self, task):
        return Observation("There is a red door and a blue door.")

    def step(self, action):
        right = action == "open the red door"
        return Observation("You are out." if right else "A wall.", True, float(right), success=right)

    def admissible(self):
        return ["open the red door", "open the blue door"]


def reinforced(settings: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return what `make` of recipes/rl printed, with the `eexp` of this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(
        f"make -f {ROOT}/recipes/rl/Makefile {settings}",
        shell=True,
        capture_output=True,
        text=True,
        env=environment(PATH=path, **variables),
    )
    assert made.returncode == 0, made.stderr
    return made


@pytest.mark.long
def test_a_bandit_is_learned(tmp_path, monkeypatch):
    """From an agent that takes either door, by the recipe."""
    with Bandit() as env:
        tasks = list(islice(env.tasks("train"), 20))
    examples = [
        {
            "type": "example",
            "kind": "imitation",
            "id": f"{task['id']}/{n}",
            "prompt": STYLE.act("Choose a door.", [], "There is a red door and a blue door."),
            "completion": [{"role": "assistant", "content": f"Action: open the {colour} door"}],
            "prompt_style": STYLE.label,
        }
        for task in tasks
        for n, colour in enumerate(("red", "blue", "blue"))
    ]
    il = write(tmp_path / "il.jsonl", examples)
    update = ("--max-steps", 60, "--lr", 5e-3, "--batch-size", 60, "-q")
    run("finetune", "-m", "tiny", "-o", tmp_path / "il", *update, il).ok()
    settings = f"ENV={Bandit.spec} INIT={tmp_path}/il OUT={tmp_path}/rl ROUNDS=4"
    settings += " TASKS=8 TRIALS=4 LR=2e-3 ENGINE=--threads\\ 1"
    made = reinforced(settings, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}")
    rates = [statistics.fmean(e["success"] for e in read(tmp_path / "rl" / f"{n}.episodes.jsonl")) for n in range(1, 5)]
    assert 0.15 < rates[0] < 0.55 and rates[-1] > 0.8, rates
    assert made.stdout.count("round ") == 4


def test_rounds_without_a_signal_leave_the_base_as_it_is(tmp_path):
    settings = f"ENV=house BASE=tiny OUT={tmp_path}/rl ROUNDS=2 TASKS=1 TRIALS=2"
    made = reinforced(f"{settings} PLAY='--max-steps 1 --think never --threads 1'")
    assert "round 1: all episodes of every task did equally well" in made.stderr
    assert (tmp_path / "rl" / "2.gguf").read_bytes() == b"" and made.stdout.count(": 0") == 2

"""One rule decides what counts as success: the environment is believed, and where it is silent the score decides."""

from __future__ import annotations

import pytest
from own_episodes import episode
from running import ROOT, lines, read, run, write

from eexp.envs import open_env
from eexp.envs.check import NOTE, OK, Checker
from eexp.envs.replay import replay
from eexp.formats.conversations import Conversation
from eexp.records.record import succeeded

#: (what the environment says, the score at the end, whether that is a success)
CASES = [
    ("true", "1", True),
    ("true", "0.5", True),
    ("true", "", True),
    ("false", "1", False),
    ("false", "0", False),
    ("none", "1", True),
    ("none", "0.99", False),
    ("none", "", False),
]
#: Where the rule stands in words.
IN_WORDS = (
    "eexp/records/record.py",
    "eexp/envs/base.py",
    "docs/environments.md",
    "docs/environments/python.md",
    "docs/environments/programs.md",
    "docs/environments/openenv.md",
)
RULE = "only a score of 1 counts as success"


@pytest.mark.parametrize("file", IN_WORDS)
def test_the_rule_is_the_same_in_words(file):
    assert RULE in " ".join((ROOT / file).read_text().split())


def spec(success: str, score: str) -> str:
    return f"judged_world:Judged?success={success}&score={score}"


@pytest.mark.parametrize(("success", "score", "expected"), CASES)
def test_all_stages_judge_alike(success, score, expected, tmp_path):
    env = spec(success, score)
    (whole,) = run("expert", env, "--all").ok().records
    assert succeeded(whole["outcome"]) is expected
    assert len(run("expert", env).ok().records) == expected
    (episode,) = run("eval", env, "-m", "expert", "--split", "train", "--parallel", 1).ok().records
    assert episode["success"] is expected
    shown = run("env", "play", env, stdin=b"ring\n").ok().out
    assert (b", success" in shown, b", failure" in shown) == (expected, not expected)
    trajectories = run("import", "episodes", "--env", env, "--success", "-j", 1, stdin=lines([episode])).ok().records
    assert len(trajectories) == expected


@pytest.mark.parametrize(("success", "score", "expected"), CASES)
def test_replay_and_check_judge_alike(success, score, expected):
    with open_env(spec(success, score)) as env:
        steps = [{"observation": "A bell.", "action": "ring", "thought": None}]
        conversation = Conversation("", steps, "It rings.", [[], []], ["$[0]", "$[1]"], success=expected)
        replayed = replay(env, {"id": "only"}, conversation, "id")
        assert replayed.counts["trajector[y|ies] that did not succeed"] == (not expected) and not replayed.differs
    findings = Checker(lambda: open_env(spec(success, score)), tasks=1, limit=10).findings()
    verdict = {finding.check: finding for finding in findings}["expert"]
    assert (verdict.verdict in (OK, NOTE)) is expected, verdict.detail


def test_failed_demonstrations_are_counted_and_taken(data):
    trajectory = read(data["rollout"])[0]
    for outcome, failed in [
        ({"success": False}, True),
        ({"success": None, "score": 0.5}, True),
        ({"success": True}, False),
        ({}, False),
    ]:
        record = {**trajectory, "outcome": {"observation": "x", "done": True, **outcome}}
        for stage in ("imitation-data", "reflect"):
            result = run(stage, stdin=lines([record])).ok()
            assert result.records
            assert ("1 trajectory that did not succeed" in result.err) == failed


NOT_KNOWN = "$.success: null in a real environment, so neither a success nor a failure"


@pytest.mark.parametrize(
    "command",
    [
        ["compare"],
        ["power"],
        ["report", "-o", "-"],
        ["policy-data"],
        ["import", "episodes", "--no-replay", "--success"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("score", [None, 1.0])
def test_an_episode_whose_success_is_not_known_is_neither(command, score, tmp_path):
    unknown = episode("b", 0, None, score=score)
    file = write(tmp_path / "b.jsonl", [episode("a", 0, True, score=1.0), unknown])
    run(*command, file).one_error(3, f"b.jsonl:2: {NOT_KNOWN}")


def test_an_episode_whose_success_is_not_known_is_shown_as_one(tmp_path):
    file = write(tmp_path / "b", [episode("a", 0, True), episode("b", 0, None)])
    assert "  success not known, score None" in run("show", "-n", 2, file).ok().out.decode()
    assert "1 successes; success not known: 1" in run("show", "--summary", file).ok().out.decode()
    assert run("stats", "--json", file).ok().records[0]["success"] == 1.0
    rewarded = run("policy-data", "--reward", "score", file).ok()
    assert not rewarded.records, "which is about scores, and neither has one"

"""`eexp import episodes`: how episodes are read, replayed and selected, and the whole loop."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import lines, read, run, write

from eexp.acting.expert import expert
from eexp.acting.importing import import_episodes
from eexp.acting.settings import ExpertSettings
from eexp.envs.replay import replay
from eexp.envs.worlds.house import House
from eexp.errors import InputError
from eexp.formats.episodes import conversation_of, trajectory_of

IMPORT = ("import", "episodes")


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> list[dict]:
    """Return episodes of the expert."""
    return run("eval", "house", "-m", "expert", "-n", "4", "--split", "train").ok().records


@pytest.fixture(scope="module")
def random_play() -> list[dict]:
    """Return episodes of a random policy, short and without success."""
    args = ("-m", "random", "-n", "4", "--split", "train", "--max-steps", "5", "--trials", "2", "--temperature", "1")
    return run("eval", "house", *args).ok().records


@pytest.fixture(scope="module")
def expert_trajectories(played) -> list[dict]:
    """Return the trajectories of `eexp expert` in the same tasks."""
    return list(expert(House(), (episode["task"] for episode in played)))


def without(record: dict, *keys: str) -> dict:
    return {key: value for key, value in record.items() if key not in keys}


def changed(episode: dict, i: int, **turn: object) -> dict:
    """Return the episode with other fields in turn `i`."""
    return {**episode, "transcript": [{**t, **(turn if n == i else {})} for n, t in enumerate(episode["transcript"])]}


def refusals(episode: dict, at: list[int]) -> dict:
    """Return the episode as it goes with a refused action before each of these actions."""
    env, actions = House(), [turn["action"] for turn in episode["transcript"]]
    for i in sorted(at, reverse=True):
        actions.insert(i, f"fly to {i}")
    observation, turns = env.reset(episode["task"]), []
    for action in actions:
        turns.append({"observation": observation.text, "action": action})
        observation = env.step(action)
        turns[-1]["valid"] = observation.valid
    invalid = sum(not turn["valid"] for turn in turns)
    return {**episode, "transcript": turns, "final": observation.text, "steps": len(turns), "invalid": invalid}


# -- with a replay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["50", "3", "all", "none"])
def test_episodes_of_the_expert_become_its_trajectories(keep, played):
    limit = {"all": None, "none": 0}.get(keep, int(keep) if keep.isdecimal() else None)
    own = list(expert(House(), (episode["task"] for episode in played), ExpertSettings(admissible=limit)))
    result = run(*IMPORT, "--admissible", keep, stdin=lines(played)).ok()
    assert [without(t, "id", "source", "lineage") for t in result.records] == [without(t, "id") for t in own]
    observations = sum(len(t["steps"]) + 1 for t in own)
    assert f"{observations} observations verified" in result.err and "filled in" not in result.err


def test_model_and_lineage_are_kept(random_play):
    records = run(*IMPORT, stdin=lines(random_play)).ok().records
    for trajectory, episode in zip(records, random_play, strict=True):
        assert trajectory["id"] == episode["id"] and trajectory["id"].endswith(f"/{episode['seed']}")
        assert trajectory["source"] == without(
            episode, "type", "env", "task", "instruction", "transcript", "final", "lineage"
        )
        assert trajectory["source"]["model"] == episode["model"] and "prompt_style" in trajectory["source"]
        assert trajectory["lineage"][:-1] == episode["lineage"] and trajectory["lineage"][-1].startswith("import ")
        assert trajectory["outcome"]["success"] is episode["success"]
    assert len({trajectory["id"] for trajectory in records}) == len(records), (
        "several trials of a task are several trajectories"
    )


def test_thoughts_are_kept(played):
    episode = changed(changed(played[0], 0, thought="I look around."), 1, thought="")
    for more in ((), ("--no-replay",)):
        (trajectory,) = run(*IMPORT, *more, stdin=lines([episode])).ok().records
        assert [step["thought"] for step in trajectory["steps"][:3]] == ["I look around.", None, None]


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (lambda e: changed(e, 1, observation="The moon."), "$.transcript[1].observation", "'The moon.' was recorded"),
        (lambda e: changed(e, 1, observation=""), "$.transcript[1].observation", "'' was recorded"),
        (lambda e: {**e, "final": "The end."}, "$.final", "'The end.' was recorded"),
        (lambda e: {**e, "success": False}, "$.success", "the success is True, and False was recorded"),
        (lambda e: {**e, "score": 0.25}, "$.score", "the score is 1.0, and 0.25 was recorded"),
    ],
)
def test_an_episode_that_goes_differently_is_refused(change, place, message, played, expert_trajectories, tmp_path):
    text = lines([played[0], change(played[1]), played[2]])
    run(*IMPORT, "-j", 1, stdin=text).one_error(3, f"<stdin>:2: {place}: ", message)
    result = run(*IMPORT, "-j", 1, "--rejects", tmp_path / "rejects", stdin=text).ok(4)
    assert [t["id"] for t in result.records] == [played[0]["id"], played[2]["id"]]
    (reject,) = read(tmp_path / "rejects")
    assert reject["field"] == place and reject["evidence"] and reject["record"]["transcript"]
    result = run(*IMPORT, "-j", 1, "--trust", "environment", stdin=text).ok()
    assert [t["outcome"] for t in result.records] == [t["outcome"] for t in expert_trajectories[:3]]
    assert f"{played[1]['id']}: {place}: " in result.err and "that differ" in result.err


def test_actions_after_the_end_are_refused(played):
    last = {"observation": played[0]["final"], "action": "look", "valid": False}
    longer = {**played[0], "transcript": [*played[0]["transcript"], last], "final": "The task is over."}
    n = len(played[0]["transcript"])
    run(*IMPORT, stdin=lines([longer])).one_error(3, f"$.transcript[{n}].observation: the episode was over after {n}")


def test_the_number_of_workers_changes_nothing(played, random_play):
    text = lines(played + random_play)
    assert run(*IMPORT, "-j", "1", stdin=text).ok().out == run(*IMPORT, "-j", "3", stdin=text).ok().out


def test_a_record_cannot_start_a_program(played):
    (episode,) = [{**played[0], "env": "eexp.envs.worlds.house:House"}]
    run(*IMPORT, stdin=lines([episode])).one_error(3, "<stdin>:1: $.env: ", "allow it with --env")
    (trajectory,) = run(*IMPORT, "--env", "eexp.envs.worlds.house:House", stdin=lines([episode])).ok().records
    assert trajectory["env"] == "eexp.envs.worlds.house:House" and trajectory["outcome"]["success"]
    (trajectory,) = run(*IMPORT, "--env", "house", stdin=lines([episode])).ok().records
    assert trajectory["env"] == "house"
    run(*IMPORT, stdin=lines([{**played[0], "env": "hous"}])).one_error(3, "$.env: unknown environment 'hous'")


# -- without a replay --------------------------------------------------------------------------------------------------


def test_without_a_replay_the_trajectory_is_that_of_the_episode(played, expert_trajectories):
    result = run(*IMPORT, "--no-replay", stdin=lines(played)).ok()
    for trajectory, own, episode in zip(result.records, expert_trajectories, played, strict=True):
        bare = [{**without(step, "admissible_count", "unknown"), "admissible": None} for step in own["steps"]]
        assert trajectory["steps"] == bare and trajectory["outcome"] == without(own["outcome"], "unknown")
        assert (trajectory["env"], trajectory["task"], trajectory["instruction"]) == (
            own["env"],
            own["task"],
            own["instruction"],
        )
        assert trajectory["source"]["model"] == episode["model"]
    assert (
        f"{len(played)} trajectories taken over without a replay" in result.err
        and "replay=no" in result.records[0]["lineage"][-1]
    )
    (trajectory,) = run(*IMPORT, "--no-replay", "--name", "elsewhere", stdin=lines(played[:1])).ok().records
    assert trajectory["env"] == "elsewhere"


def test_the_function_gives_the_same_as_the_command(played, random_play):
    trajectories = list(import_episodes(iter(played + random_play)))
    out = run(*IMPORT, "--no-replay", stdin=lines(played + random_play)).ok().records
    assert [without(t, "lineage") for t in trajectories] == [without(t, "lineage") for t in out]


def test_an_episode_with_few_fields(played):
    """Another program may write so few fields; the importer makes nothing up."""
    turns = [{"observation": "A.", "action": "b"}]
    little = {"type": "episode", "id": "1", "env": "x", "task": {}, "success": False, "steps": 1, "transcript": turns}
    assert trajectory_of(little, "1") == {
        "type": "trajectory",
        "id": "1",
        "env": "x",
        "task": {},
        "instruction": "",
        "steps": [{"observation": "A.", "action": "b", "admissible": None, "thought": None}],
        "outcome": None,
    }
    with pytest.raises(InputError, match=r"\$.transcript: no action in it"):
        conversation_of({**little, "transcript": []})
    for more in ((), ("--no-replay",)):
        bare = without(played[0], "transcript")
        run(*IMPORT, *more, stdin=lines([bare])).one_error(3, "<stdin>:1: $.transcript: no action in it")


def test_an_environment_variable_asks_for_no_replay_either(played, monkeypatch):
    monkeypatch.setenv("EEXP_ENV", "house")
    assert "without a replay" in run(*IMPORT, "--no-replay", stdin=lines(played)).ok().err


# -- which are taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replayed", [(), ("--no-replay",)])
def test_selection_by_success(replayed, played, random_play):
    text = lines([*random_play, *played])
    result = run(*IMPORT, "--success", *replayed, stdin=text).ok()
    assert [t["task"] for t in result.records] == [episode["task"] for episode in played]
    assert [t["id"] for t in result.records] == [f"{e['id']}#2" for e in played], "an id depends on no option"
    assert (
        f"{len(random_play)} trajectories left out: no success" in result.err
        and "success=yes" in result.records[0]["lineage"][-1]
    )


@pytest.mark.parametrize("replayed", [(), ("--no-replay",)])
def test_selection_by_score(replayed, played, random_play):
    scores = [1.0, 0.5, 0.2, None]
    episodes = [{**episode, "score": score} for episode, score in zip(played, scores)]
    more = ("--trust", "environment") if not replayed else ()
    result = run(*IMPORT, "--min-score", "0.5", *replayed, *more, stdin=lines(episodes)).ok()
    assert [t["id"] for t in result.records] == [episode["id"] for episode in played[:2]]
    assert "2 trajectories left out: no score of 0.5 or more" in result.err


def test_a_success_that_the_environment_denies(random_play):
    claims = [{**episode, "success": True} for episode in random_play]
    run(*IMPORT, "--success", stdin=lines(claims)).one_error(3, "$.success: the success is False")
    result = run(*IMPORT, "--success", "--trust", "environment", stdin=lines(claims)).ok()
    assert result.records == [] and f"{len(claims)} trajectories left out: no success" in result.err


def test_the_same_actions_are_counted_or_left_out(played):
    """Ids say which trial it was; equal ones, of another run, are told apart."""
    again = {**played[0], "id": played[0]["id"][:-1] + "1", "seed": 1}
    text = lines([played[0], again, played[1], played[0]])
    result = run(*IMPORT, stdin=text).ok()
    first, second = played[0]["id"], played[1]["id"]
    assert [t["id"] for t in result.records] == [first, again["id"], second, f"{first}#2"]
    assert "2 trajectories with the same actions as another of their task" in result.err
    for replayed in ((), ("--no-replay",)):
        result = run(*IMPORT, "--distinct", *replayed, stdin=text).ok()
        assert [t["id"] for t in result.records] == [first, second]
        assert "2 trajectories left out: the same actions as another of its task" in result.err


def test_distinct_knows_what_an_interrupted_run_has_written(played, tmp_path):
    again = {**played[0], "id": played[0]["id"][:-1] + "1"}
    file = write(tmp_path / "episodes", [played[0], played[1], again, played[2]])
    args = (*IMPORT, file, "--distinct", "-o", tmp_path / "out")
    run(*args).ok()
    whole = (tmp_path / "out").read_bytes()
    for n_lines in range(3):
        (tmp_path / "out").write_bytes(b"".join(whole.splitlines(keepends=True)[:n_lines]))
        run(*args, "--resume").ok()
        assert (tmp_path / "out").read_bytes() == whole


def test_a_turn_without_an_action_is_left_out(played):
    """Such a turn is written where a text was cut off before its action."""
    episode = refusals(played[0], [1])
    turns = [{**turn, "action": ""} if not turn["valid"] else turn for turn in episode["transcript"]]
    turns[1]["cut_off"], episode = True, {**episode, "transcript": turns}
    result = run(*IMPORT, stdin=lines([episode])).ok()
    assert result.records == [] and "1 trajectory left out: a turn without an action" in result.err
    (trajectory,) = run(*IMPORT, "--drop-invalid", stdin=lines([episode])).ok().records
    assert [step["action"] for step in trajectory["steps"]] == [turn["action"] for turn in played[0]["transcript"]]


class Patient(House):
    """Takes an empty action for a look around."""

    def step(self, action):
        return super().step(action or "look")


def test_an_empty_action_that_the_environment_accepts(played, expert_trajectories):
    env, first = Patient(), played[0]["transcript"][0]
    empty = {"observation": first["observation"], "action": "", "valid": False, "cut_off": True}
    episode = {**played[0], "transcript": [empty, *played[0]["transcript"]]}
    result = replay(env, episode["task"], conversation_of(episode), "id", drop_invalid=True)
    assert result.trajectory["steps"] == expert_trajectories[0]["steps"]


# -- refused actions ---------------------------------------------------------------------------------------------------


@given(st.data())
def test_refused_actions_are_left_out(played, expert_trajectories, data):
    i = data.draw(st.integers(0, len(played) - 1))
    at = data.draw(st.lists(st.integers(0, len(played[i]["transcript"]) - 1), min_size=1, max_size=5))
    episode = refusals(played[i], at)
    assert episode["invalid"] == len(at)
    result = replay(House(), episode["task"], conversation_of(episode), "id", drop_invalid=True)
    assert without(result.trajectory, "id") == without(expert_trajectories[i], "id")
    assert result.counts["refused action[s] left out"] == len(at) and result.kept_whole is None
    whole = replay(House(), episode["task"], conversation_of(episode), "id")
    assert [s["action"] for s in whole.trajectory["steps"]] == [t["action"] for t in episode["transcript"]]


def test_refused_actions_of_a_model(expert_trajectories):
    """The rest of a language model's episode is replayed by the environment, and ends as it did."""
    args = ("-m", "tiny", "-n", "6", "--split", "train", "--max-steps", "8", "--max-tokens", "12")
    play = run("eval", "house", *args).ok().records
    assert any(episode["invalid"] for episode in play)
    result = run(*IMPORT, "--drop-invalid", stdin=lines(play)).ok()
    for trajectory in result.records:
        (episode,) = [episode for episode in play if episode["id"] == trajectory["id"]]
        assert [s["action"] for s in trajectory["steps"]] == [t["action"] for t in episode["transcript"] if t["valid"]]
        assert trajectory["outcome"]["score"] == episode["score"]
    refused = sum(not any(turn["valid"] for turn in episode["transcript"]) for episode in play)
    assert len(result.records) == len(play) - refused
    assert not refused or f"{refused} trajectories left out: every action was refused" in result.err
    assert "answered as invalid" not in result.err
    run("rollout", stdin=run("branch", "--from", "admissible", "-q", stdin=result.out).out).ok()


TICKING = """
from dataclasses import replace
from eexp.envs.worlds.house import House


class Ticking(House):
    def step(self, action):
        observation = super().step(action)
        return replace(observation, text=f"{observation.text} It is {self.steps} o'clock.")


class Counting(House):
    def admissible(self):
        return [*super().admissible(), *(["rest"] if self.steps > 3 else [])]


class Scoring(House):
    def step(self, action):
        observation = super().step(action)
        return observation if observation.valid else replace(observation, score=0.25)
"""


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("Ticking", [1], "it goes differently after action 3; they are kept"),
        ("Counting", [1], "other actions are admissible; they are kept"),
        ("Scoring", [-1], "it ends differently; they are kept"),
    ],
)
def test_refused_actions_that_changed_something_are_kept(name, at, message, played, tmp_path, monkeypatch):
    (tmp_path / "ticking.py").write_text(TICKING)
    monkeypatch.syspath_prepend(tmp_path)
    number = max(range(len(played)), key=lambda i: len(played[i]["transcript"]))
    episode = refusals(played[number], at)
    if at == [-1]:  # the last of its actions, of an episode that was not over
        episode["transcript"] = episode["transcript"][:-1]
    n = len(episode["transcript"])
    args = ("--env", f"ticking:{name}", "--trust", "environment", "--drop-invalid")
    result = run(*IMPORT, *args, stdin=lines([episode])).ok()
    (trajectory,) = result.records
    assert len(trajectory["steps"]) == n and message in result.err and "1 action answered as invalid" in result.err


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_imported_episodes_are_branched_and_executed(played, random_play):
    imported = run(*IMPORT, "--success", stdin=lines(random_play + played)).ok()
    branched = run("branch", "--from", "admissible", "-k", "2", stdin=imported.out).ok()
    executed = run("rollout", stdin=branched.out).ok()
    steps = [step for t in executed.records for step in t["steps"]]
    assert steps and all(a["outcome"] for step in steps for a in step["alternatives"])
    assert f"{sum(bool(s['alternatives']) for s in steps)} branch points verified" in executed.err
    for stage in ("imitation-data", "world-model-data"):
        examples = run(stage, stdin=executed.out).ok().records
        assert examples and [entry.split()[0] for entry in examples[0]["lineage"]] == [
            "eval",
            "import",
            "branch",
            "rollout",
            stage,
        ]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--task-key", "id"), 2, "--task-key is for records of other projects; an episode holds the same itself"),
        (("--action", "whole"), 2, "--action is for"),
        (("--split", "train"), 2, "--split is for"),
        (("--name", "x"), 2, "--name is for records that are not replayed"),
        (("--no-replay", "--env", "house"), 2, "--env is for a replay, and --no-replay asks for none"),
        (("--no-replay", "--drop-invalid"), 2, "--drop-invalid needs one"),
        (("--min-score", "2"), 2, "2.0 is not in the range"),
        (("--min-score", "nan"), 2, "is no finite number"),
    ],
)
def test_command_lines_that_do_not_fit(args, code, message):
    run(*IMPORT, *args).one_error(code, message)
    run("import", "eto", "--success").one_error(2, "records of eto say nothing of success")
    run("import", "eto", "--drop-invalid").one_error(2, "--drop-invalid needs one")


def test_other_formats_are_selected_by_how_the_replay_ends(tmp_path):
    flying = {"id": "train/0", "messages": [{"role": "assistant", "content": action} for action in ("fly", "look")]}
    result = run("import", "messages", "--env", "house", "--success", stdin=lines([flying])).ok()
    assert result.records == [] and "1 trajectory left out: no success" in result.err
    (trajectory,) = run("import", "messages", "--env", "house", "--drop-invalid", stdin=lines([flying])).ok().records
    assert [step["action"] for step in trajectory["steps"]] == ["look"]


def test_records_that_are_no_episodes(played):
    run(*IMPORT, stdin=json.dumps(played).encode()).one_error(3, "<stdin>:1: $: expected an episode record")
    run(*IMPORT, stdin=run("expert", "house", "-n", "1").out).one_error(3, "of type episode, got one of type")

"""`worldmodel:MODEL?env=ENV`: an environment that a model imagines, its marks, and what refuses its records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import pytest
from running import lines, read, run, write

from eexp.acting.accuracy import Accuracy, accuracy
from eexp.acting.by_hand import play_by_hand
from eexp.acting.recall import Memory
from eexp.acting.rollout import rollout
from eexp.envs import open_env, unsafe_in_records, without_wrappers
from eexp.envs.imagined import Imagination, ImaginedWorld, RecordedBeginnings, WorldModelFailed
from eexp.envs.opening import OpenEnvironments
from eexp.envs.spec_files import named_files
from eexp.envs.worlds.house import House
from eexp.errors import InputError, UsageError
from eexp.examples.imitation import imitation_data
from eexp.examples.reflection.search import ExecutedOutcomes
from eexp.examples.settings import WorldModelSettings
from eexp.examples.world_model import world_model_data
from eexp.models.base import Draw, Model, PlaySettings, Sample, Samples
from eexp.prompts import PromptStyle, get_style, style_from_dict
from eexp.records.imagination import imagined_by, is_imagined, refuse_imagined
from eexp.records.outcomes import finishes
from eexp.records.types import check
from eexp.viewer.facets import facets_of
from eexp.workers.jobs import InProcess

SPEC = "worldmodel:tiny?env=house"
REACT = get_style("react")
SHORT = style_from_dict(
    REACT.as_dict() | {"name": "short", "history": {"steps": 2, "observation_characters": 12}}
)  # a window of the history, and cut observations in it


class Recalling(Model):
    """A world model that knows the answer to the prompts of some examples, and no other."""

    fingerprint = "sha256:recalled"

    def __init__(self, examples: Iterable[dict]):
        super().__init__()
        self.answers = {json.dumps(e["prompt"]): e["completion"][0]["content"] for e in examples}

    def answer(self, groups: Iterable[Sequence[Draw]]) -> Iterator[list[Samples]]:
        for group in groups:
            yield [[Sample(self.answers.get(json.dumps(draw.prompt), "I do not know."))] for draw in group]


def imagined(trajectories: list[dict], style: PromptStyle = REACT, verdict: bool = False, spec: str = SPEC):
    """Return `house` as a world model imagines it that knows all that is recorded."""
    settings = WorldModelSettings(max_repeats=None, max_invalid_fraction=1, verdict="after" if verdict else None)
    model = Recalling(world_model_data(iter(trajectories), style, settings))
    env = ImaginedWorld("tiny", House())
    env.spec = spec
    env._imagination.append(Imagination(model, style, verdict, 99))
    return env


@pytest.fixture(scope="module")
def recorded(data) -> list[dict]:
    return read(data["rollout"])


@pytest.mark.parametrize("verdict", [False, True])
@pytest.mark.parametrize("style", [REACT, SHORT], ids=lambda style: style.name)
def test_the_model_is_asked_what_it_was_trained_on(recorded, style, verdict):
    env = imagined(recorded, style, verdict)
    compared = list(accuracy(recorded, env, "house"))
    assert [one["id"] for one in compared] == [t["id"] for t in recorded]
    for one, trajectory in zip(compared, recorded):
        assert one["right"] == [True] * len(trajectory["steps"]) and one["first_difference"] is None
        assert one.get("verdicts", one["right"]) == one["right"] and not one["failed"]
        assert one["undetermined"] == [
            i for i, s in enumerate([*trajectory["steps"][1:], trajectory["outcome"]], 1) if s["unknown"]
        ]


@pytest.mark.parametrize("verdict", [False, True])
def test_an_episode_is_imagined_step_by_step(recorded, verdict):
    env, trajectory = imagined(recorded, verdict=verdict), recorded[0]
    first = env.reset(trajectory["task"])
    assert (first.text, first.imagined) == (trajectory["steps"][0]["observation"], None)
    assert env.instruction() == trajectory["instruction"] and env.admissible() == trajectory["steps"][0]["admissible"]
    for step, after in zip(trajectory["steps"], [*trajectory["steps"][1:], trajectory["outcome"]]):
        state = env.save()
        for alternative in step["alternatives"]:
            with env.fork() as fork:
                assert fork.step(alternative["action"]).text == alternative["outcome"]["observation"]
            assert env.step(alternative["action"]).text == alternative["outcome"]["observation"]
            env.restore(state)
        observation = env.step(step["action"])
        assert (observation.text, observation.imagined) == (after["observation"], "sha256:recalled")
        assert (observation.score, observation.success, observation.unknown) == (None, None, None)
        assert env.admissible() is None and env.expert() is None and env.explain() is None
    assert observation.done == verdict, "only verdicts tell that an episode is over"
    if verdict:
        assert not env.step("look").valid
    env.reset(trajectory["task"])
    with pytest.raises(WorldModelFailed, match=r"is no observation: 'I do not know\.'"):
        env.step("fly")


def test_a_refused_action_leaves_no_trace(recorded):
    env, trajectory = imagined(recorded, verdict=True), recorded[0]
    first = trajectory["steps"][0]
    prompt = json.dumps(REACT.world_model(trajectory["instruction"], [], first["observation"], "fly", "verdict"))
    env.imagination.model.answers[prompt] = "<next_state>\nYou cannot fly.\ninvalid\n</next_state>"
    env.reset(trajectory["task"])
    refused = env.step("fly")
    assert (refused.text, refused.valid, refused.changed) == ("You cannot fly.", False, False)
    assert env.step(first["action"]).text == trajectory["steps"][1]["observation"]
    turns = [
        {"observation": first["observation"], "action": "fly", "valid": False},
        {"observation": "You cannot fly.", "action": first["action"], "valid": True},
    ]
    episode = {"type": "episode", "id": "e", "env": "house", "success": False, "transcript": turns}
    episode |= {"instruction": trajectory["instruction"], "final": trajectory["steps"][1]["observation"]}
    (compared,) = accuracy([episode], env)
    assert compared["right"] == [True, True] and compared["verdicts"] == [True, None]


def test_what_is_no_answer_is_an_error(recorded):
    observation = imagined(recorded, verdict=True).imagination.observation
    assert observation(Sample("<next_state>\nNo.\ninvalid\n</next_state>")).valid is False
    with pytest.raises(WorldModelFailed, match="ends with 'Doors', which is no verdict; leave out verdict=yes"):
        observation(Sample("<next_state>\nA room.\nDoors\n</next_state>"))
    with pytest.raises(WorldModelFailed, match="was cut off after 99 tokens"):
        observation(Sample("<next_state>\nA room. A room.", finished=False))
    plain = imagined(recorded).imagination.observation
    assert plain(Sample("<next_state>\n\n a \n\n</next_state>")).text == "\n a \n", "only the marks are taken off"
    trained = PlaySettings.of_run({"longest_completion": {"world_model": 40, "imitation": 8}}, "eexp.json")
    assert (trained.max_tokens, trained.prediction_tokens) == (10, 50)


# -- records -----------------------------------------------------------------------------------------------------------


def played(env: ImaginedWorld, trajectory: dict) -> dict:
    """Return the episode of a person who takes the recorded actions in an imagined environment."""
    actions = iter([step["action"] for step in trajectory["steps"]])
    return play_by_hand(env, trajectory["task"], lambda: next(actions, ""), lambda text: None)


def test_records_are_marked_and_lead_to_marked_examples(recorded):
    env = imagined(recorded)
    trajectory = check(played(env, recorded[0]), "trajectory")
    assert trajectory["env"] == SPEC and trajectory["outcome"]["imagined"] == "sha256:recalled"
    assert "success" not in trajectory["outcome"] and trajectory["outcome"]["score"] is None
    for step, before in zip(trajectory["steps"], recorded[0]["steps"]):
        step["alternatives"] = [{**a, "outcome": None} for a in before["alternatives"]]
    (executed,) = rollout(iter([trajectory]), InProcess(lambda spec: env))
    outcomes = [a["outcome"] for step in executed["steps"] for a in step["alternatives"]]
    assert outcomes and all(outcome["imagined"] == "sha256:recalled" for outcome in outcomes)
    examples = list(imitation_data(iter([executed]), REACT))
    assert examples and all(check(e, "example")["imagined"] == "sha256:recalled" for e in examples)
    assert all("imagined" not in e for e in imitation_data(iter(recorded), REACT))


@pytest.fixture
def files(recorded, tmp_path) -> dict[str, str]:
    """Files of an imagined trajectory and an imagined episode, and of real ones, by name."""
    trajectory = played(imagined(recorded), recorded[0])
    turns = [{"observation": s["observation"], "action": s["action"], "valid": True} for s in trajectory["steps"]]
    episode = {"type": "episode", "success": None, "score": None, "steps": len(turns), "transcript": turns}
    episode |= {key: trajectory[key] for key in ("id", "env", "task", "instruction")}
    episode |= {"final": trajectory["outcome"]["observation"]}
    named = {"trajectory": [trajectory], "episode": [check(episode, "episode")], "real": recorded[:1]}
    return {name: str(write(tmp_path / name, records)) for name, records in named.items()}


@pytest.mark.parametrize(
    "command, words",
    [
        (["recover", "trajectory"], "$.env: a refusal of an imagined environment"),
        (["preference-data", "trajectory"], "what did worse of an imagined environment"),
        (["policy-data", "episode"], "success of an imagined environment"),
        (["compare", "episode"], "success of an imagined environment"),
        (["power", "episode"], "success of an imagined environment"),
        (["correct", "--env", SPEC, "episode"], "a failed turn of an imagined environment"),
        (["reward", "--env", SPEC, "episode"], "progress of an imagined environment"),
        (["import", "episodes", "--success", "--no-replay", "episode"], "success of an imagined environment"),
        (["rollout", "-j", 1, "trajectory"], "asks a model, which a record alone may not; allow it with --env"),
        (
            ["rollout", "-j", 1, "--env", "house", "trajectory"],
            "was recorded in an imagined environment, and 'house' is",
        ),
        (["rollout", "-j", 1, "--env", SPEC, "real"], f"was recorded in a real environment, and {SPEC!r} is imagined"),
        (["env", "accuracy", SPEC, "trajectory"], "an observation of an imagined environment"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_needs_the_truth_refuses_imagined_records(files, command, words):
    run(*(files.get(str(word), word) for word in command)).one_error(3, words)


def test_an_imagined_record_is_shown_and_counted_as_one(files):
    shown = run("show", files["episode"]).ok().out.decode()
    assert "imagined, score None" in shown and "failure" not in shown
    for name in ("trajectory", "episode"):
        (row,) = run("stats", "--json", files[name]).ok().records
        assert (row["imagined"], row["success"]) == (1, None)
        assert run("show", "--summary", files[name]).ok().out.decode().splitlines()[0].endswith("; imagined: 1")
    tree = run("show", "--tree", files["trajectory"]).ok().out.decode()
    assert "imagined by sha256:recalled" in tree and tree.splitlines()[-1].strip() == "imagined"
    assert not finishes({"done": True, "score": None, "imagined": "sha256:1"}) and finishes({"done": True})
    own = run("import", "episodes", "--no-replay", files["episode"]).ok().records
    assert own[0]["outcome"]["success"] is None and own[0]["env"] == SPEC
    run("import", "messages", "--env", SPEC, files["real"]).one_error(2, "shows nothing of a record")
    run("expert", SPEC, "-n", 1).one_error(2, "has no expert")


def test_files_are_said_to_be_imagined_in_part(files):
    both = [files["real"], files["trajectory"]]
    (row,) = run("stats", "--json", *both).ok().records
    assert (row["count"], row["imagined"], row["success"]) == (2, 1, 1.0)
    head, cells, _ = run("stats", *both).ok().out.decode().splitlines()
    assert head.split()[-2:] == ["imagined", "duplicates"] and cells.split()[-2:] == ["1", "0"]
    assert "imagined" not in run("stats", files["real"]).ok().out.decode()
    assert "; imagined: 1" in run("show", "--summary", *both).ok().out.decode()
    assert "imagined" not in run("show", "--summary", files["real"]).ok().out.decode()
    card = run("card", "-o", "-", *both).ok().out.decode()
    assert "| trajectory | `sha256:recalled` | 1 |" in card
    assert "## Imagined" not in run("card", "-o", "-", files["real"]).ok().out.decode()


@pytest.fixture
def edited(files, tmp_path) -> dict[str, str]:
    """The imagined trajectory and episode, as records that claim to be of the real environment."""
    turn = {"imagined": "sha256:recalled"}
    records = {name: {**read(files[name])[0], "env": "house", "id": name} for name in ("trajectory", "episode")}
    first, *others = records["episode"]["transcript"]
    records["episode"]["transcript"] = [first, *({**one, **turn} for one in others)]
    return {name: str(write(tmp_path / f"edited-{name}", [record])) for name, record in records.items()}


def test_an_edit_of_the_environment_leaves_the_mark(edited):
    """Examples keep the mark, and what needs the truth refuses the records: their observations say who wrote them."""
    for stage in ("imitation-data", "world-model-data"):
        examples = run(stage, edited["trajectory"]).ok().records
        assert examples and all(e["imagined"] == "sha256:recalled" for e in examples), stage
    run("recover", edited["trajectory"]).one_error(3, "$.steps[1].imagined: a refusal of an imagined environment")
    run("preference-data", edited["trajectory"]).one_error(3, "$.steps[1].imagined: what did worse of an imagined")
    run("compare", edited["episode"]).one_error(3, "$.transcript[1].imagined: success of an imagined environment")
    assert run("stats", "--json", edited["trajectory"]).ok().records[0]["imagined"] == 1
    spec = f"worldmodel:tiny?beginnings={edited['trajectory']}"
    refused = f"{edited['trajectory']}: trajectory: $.steps[1].imagined: a beginning of an imagined"
    run("eval", spec, "-m", "random").one_error(3, refused)
    (trajectory,) = read(edited["trajectory"])
    del trajectory["outcome"]["imagined"]
    assert ("success", "unknown") in set(facets_of(trajectory))
    own = run("import", "episodes", "--no-replay", edited["episode"]).ok().records[0]
    assert [step.get("imagined") for step in own["steps"]][:2] == [None, "sha256:recalled"]
    assert own["outcome"]["imagined"] == "sha256:recalled"


def test_one_imagined_alternative_marks_a_trajectory(recorded):
    step = recorded[0]["steps"][0]
    outcome = {**step["alternatives"][0]["outcome"], "imagined": "sha256:other"}
    trajectory = {**recorded[0], "steps": [{**step, "alternatives": [{**step["alternatives"][0], "outcome": outcome}]}]}
    assert imagined_by(trajectory) == "sha256:other" and imagined_by(recorded[0]) is None
    later = {"action": "look", **outcome}
    followed = {**step["alternatives"][0], "then": [later]}
    assert imagined_by({**recorded[0], "steps": [{**step, "alternatives": [followed]}]}) == "sha256:other"
    pair = {"type": "preference", "id": "p", "imagined": "sha256:other"}
    assert imagined_by(pair) == "sha256:other"
    with pytest.raises(InputError, match=r"\$\.steps\[0\]\.alternatives\[0\]\.outcome\.imagined: a refusal of an"):
        refuse_imagined(trajectory, "a refusal")


@pytest.mark.parametrize("value", [True, 7, "worldmodel:m?env=house", ["x"], {"imagined": 1}, [7], [{"imagined": 1}]])
def test_keys_of_other_programs_are_no_marks(value, data, tmp_path):
    """A record may hold any key that its type does not have, with any value."""
    keys = ("env", "steps", "outcome", "transcript", "alternatives", "then", "recalled")
    example = {**read(data["imitation"])[0], **dict.fromkeys(keys, value)}
    episode = read(data["episodes"])[0]
    episode |= dict.fromkeys(("outcome", "alternatives"), value)
    episode["transcript"] = [
        {**turn, **dict.fromkeys(("alternatives", "then", "outcome"), value)} for turn in episode["transcript"]
    ]
    trajectory = {**read(data["rollout"])[0], "transcript": value}
    for record in (example, episode, trajectory):
        assert imagined_by(record) is None
    file = write(tmp_path / "records", [example, episode, trajectory])
    assert [row["imagined"] for row in run("stats", "--json", file).ok().records] == [0, 0, 0]


def test_thoughts_look_ahead_over_real_outcomes_alone(recorded, files):
    """What a world model wrote is no reason for a thought about the real environment."""
    alone = run("reflect", "--rationale", "search", files["real"]).ok().records
    stripped = [{**t, "steps": [{**step, "alternatives": []} for step in t["steps"]]} for t in recorded[:1]]
    claims = read(files["trajectory"])[0]
    for step, before in zip(claims["steps"], recorded[0]["steps"]):
        step["observation"] = before["observation"]
        step["alternatives"] = [
            {"action": a["action"], "source": "policy", "outcome": {**a["outcome"], "imagined": "sha256:recalled"}}
            for a in before["alternatives"]
        ]
    outcomes = [ExecutedOutcomes(trajectories) for trajectories in (stripped, [*stripped, claims])]
    for step in recorded[0]["steps"]:
        assert outcomes[0].of(step["observation"]) == outcomes[1].of(step["observation"])
    both = run("reflect", "--rationale", "search", files["real"], files["trajectory"]).ok().records
    assert [e["completion"] for e in both if "imagined" not in e] == [e["completion"] for e in alone]


@pytest.mark.parametrize("format", ["atif", "verifiers", "inspect"])
@pytest.mark.parametrize("name", ["trajectory", "episode"])
def test_logs_keep_the_mark(format, name, files, edited, tmp_path):
    """A log that comes back without a replay is of no environment, and still imagined; so is one of a single turn."""
    short = read(files[name])[0]
    key = "steps" if name == "trajectory" else "transcript"
    short[key] = short[key][:1]
    for record in (read(files[name])[0], read(edited[name])[0], *([short] * (name == "episode"))):
        log = tmp_path / "log"
        log.write_bytes(run("export-log", "--format", format, stdin=lines([record])).ok().out)
        assert b'"success":0' not in log.read_bytes() and b'"success":false' not in log.read_bytes()
        (back,) = run("import", format, log).ok().records
        assert back["env"] == format and imagined_by(back) in ("sha256:recalled", SPEC)
        examples = run("imitation-data", stdin=lines([back])).ok().records
        assert examples and all(e["imagined"] in ("sha256:recalled", SPEC) for e in examples)
        assert run("stats", "--json", stdin=lines([back])).ok().records[0]["success"] is None


def test_what_recalls_imagined_episodes_says_so(files):
    played_with = ["eval", "house", "-m", "random", "-n", 1, "--max-steps", 1, "--recall"]
    result = run(*played_with, files["episode"]).ok()
    assert "1 of 1 episodes to recall are imagined" in result.err
    assert result.records[0]["recalled_imagined"] == result.records[0]["recalled"] == [read(files["episode"])[0]["id"]]
    check(result.records[0], "episode")
    real = run(*played_with, files["real"]).ok()
    assert real.records[0]["recalled"] and "recalled_imagined" not in real.records[0] and "imagined" not in real.err
    examples = run("imitation-data", "--recall", files["trajectory"], files["real"]).ok()
    assert "1 of 1 episodes to recall are imagined" in examples.err
    assert all("imagined" not in e for e in examples.records), "an episode of the task itself is not recalled"


def test_examples_that_show_imagined_episodes_are_marked(recorded):
    other = played(imagined(recorded), recorded[1])
    for past, mark in ((other, "sha256:recalled"), (recorded[1], None)):
        examples = list(imitation_data(iter(recorded[:1]), REACT, memory=Memory([past])))
        assert past["instruction"] in examples[0]["prompt"][1]["content"]
        assert {e.get("imagined") for e in examples} == {mark}


def test_a_training_run_says_that_its_examples_are_imagined(files, recorded, tmp_path):
    imagined_file, real_file = (
        write(tmp_path / name, imitation_data(iter(trajectories), REACT))
        for name, trajectories in (("imagined", read(files["trajectory"])), ("real-examples", recorded[1:2]))
    )
    number, total = len(read(imagined_file)), len(read(imagined_file)) + len(read(real_file))
    trained = run("finetune", "-m", "tiny", "--max-steps", 1, "-o", tmp_path / "run", imagined_file, real_file).ok()
    assert f"{number} of {total} examples are imagined (a world model wrote their observations)" in trained.err
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| examples | {total} ({total} imitation), {number} of them imagined (a world model wrote" in card
    assert json.loads((tmp_path / "run" / "eexp.json").read_text())["data"]["imagined"] == number
    episodes = tmp_path / "run.episodes.jsonl"
    run("eval", "house", "-m", "random", "-n", 2, "--max-steps", 1, "-q", "-o", episodes).ok()
    assert b"imitation, some or all imagined" in run("report", episodes, "-q", "-o", "-").ok().out
    shown = run("finetune", "-m", "tiny", "--max-steps", 1, "-o", tmp_path / "dry", "--dry-run", imagined_file).ok()
    assert f"{number} of {number} examples are imagined" in shown.out.decode()


def test_an_untrained_model_is_no_world_model():
    refused = run("eval", SPEC, "-m", "random", "-n", 1, "--max-steps", 1)
    assert refused.code == 1 and "the world model's answer is no observation: 'Action:" in refused.err


# -- specs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, words",
    [
        ("worldmodel:", "expected worldmodel:MODEL?env=ENV"),
        ("worldmodel:tiny", "expected worldmodel:MODEL?env=ENV"),
        ("worldmodel:?env=house", "expected worldmodel:MODEL?env=ENV"),
        ("worldmodel:tiny?env=", "expected worldmodel:MODEL?env=ENV"),
        ("worldmodel:tiny?beginnings=a.jsonl&env=house", "expected worldmodel:MODEL?env=ENV"),
        ("worldmodel:no-model?env=house", "unknown model 'no-model'"),
        ("worldmodel:tiny?env=no-such", "unknown environment 'no-such'"),
        ("worldmodel:tiny?colour=red&env=house", "worldmodel has no option 'colour'"),
        ("worldmodel:tiny?verdict=perhaps&env=house", "worldmodel?verdict=perhaps: expected yes or no"),
        ("worldmodel:tiny?max_tokens=0&env=house", "worldmodel?max_tokens=0: expected a number above 0"),
        (f"worldmodel:tiny?env={SPEC}", "worldmodel is given twice"),
    ],
)
def test_malformed_specs_are_refused(spec, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        open_env(spec)


def test_the_environment_inside_keeps_its_own_options():
    spec = "noisy:0.1:worldmodel:http://a:8/v1#m?verdict=yes&env=changed:order:babyai?level=GoTo&size=9"
    assert without_wrappers(spec) == "babyai?level=GoTo&size=9" and is_imagined(spec)
    assert "asks a model" in (unsafe_in_records(spec) or "")
    assert not is_imagined("exec:./world.sh worldmodel:") and not is_imagined("changed:names:house")
    with OpenEnvironments("house") as environments, pytest.raises(InputError, match="recorded in an imagined"):
        environments.get(spec)


def test_it_may_begin_where_trajectories_do(recorded, tmp_path):
    file = write(tmp_path / "real", recorded)
    env = imagined(recorded)
    env.world = RecordedBeginnings(str(file))
    (split,) = env.splits()
    task, *_ = tasks = list(env.tasks(split))
    assert [one["id"] for one in tasks] == [t["id"] for t in recorded]
    assert env.reset(task).text == recorded[0]["steps"][0]["observation"]
    assert env.instruction() == recorded[0]["instruction"] and env.admissible() is None
    assert env.step(recorded[0]["steps"][0]["action"]).text == recorded[0]["steps"][1]["observation"]
    with pytest.raises(InputError, match="has no trajectory 'none'"):
        env.reset({"id": "none"})
    (tmp_path / "adapter").touch()
    assert named_files(f"worldmodel:tiny?beginnings={file}") == [str(file)]
    inner = f"noisy:0.1:worldmodel:hf:{file}+{tmp_path}/adapter?env=textcraft?recipes={file}"
    assert named_files(inner) == sorted([str(file), f"{tmp_path}/adapter"])
    opened = open_env(f"worldmodel:tiny?beginnings={file}")
    assert len(list(opened.tasks(split))) == 3 and opened.has("fork") and not opened.has("expert")


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_the_survival_curve_counts_episodes_that_end():
    total = Accuracy()
    for right in ([True, False, True], [True], [True, True, True], [False, True]):
        first = next((i for i, same in enumerate(right, 1) if not same), None)
        total.add({"right": right, "first_difference": first, "undetermined": [2], "failed": []})
    # of four, one differs at step 1; of the two that go on without a difference, one at step 2
    assert total.survival() == pytest.approx({1: 3 / 4, 2: 3 / 8, 3: 3 / 8})
    assert {step: total.right[step] / total.reached[step] for step in total.reached} == {1: 3 / 4, 2: 2 / 3, 3: 1}
    text = "\n".join(total.lines())
    assert "episodes: 4; without a difference: 2" in text and "step 1.5 (median)" in text
    assert "steps that the episode so far determines: 5 of 6 right" in text
    assert Accuracy().lines() == ["no episodes"]


def test_accuracy_reads_episodes_too(recorded, data):
    env = imagined(recorded, verdict=True)
    episodes = list(islice(read(data["episodes"]), 2))
    compared = list(accuracy(episodes, env, "house"))
    assert all(len(one["right"]) == e["steps"] and one["failed"] for one, e in zip(compared, episodes))
    assert all(one["verdicts"][-1] is None for one, e in zip(compared, episodes) if not e["success"])
    with pytest.raises(InputError, match="is of 'house', and 'reactions' is imagined"):
        list(accuracy(episodes, env, "reactions"))
    run("env", "accuracy", "house", data["expert"]).one_error(2, "expected an imagined environment")
    table = run("env", "accuracy", SPEC, data["expert"]).ok().out.decode()
    assert re.search(r"^ all +\d+ +0\.0%$", table, re.MULTILINE) and "steps without an observation" in table
    printed = run("env", "accuracy", SPEC, "--json", stdin=lines(recorded[:1])).ok().records
    assert printed[0]["first_difference"] == 1 and not any(printed[0]["right"])

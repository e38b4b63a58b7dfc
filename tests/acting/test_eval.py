"""`eexp eval`: which episodes are played, what they hold, and that playing many at once gives the same ones."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from faulty_worlds import Fragile
from light import LIGHT, ready_spec
from running import BARE_PYTHON, ROOT, environment, read, run, start

from eexp.acting.play import AHEAD, evaluate, panel
from eexp.acting.recall import Memory
from eexp.acting.settings import EvalSettings
from eexp.envs.worlds.house import House
from eexp.errors import EnvironmentFailed, InputError, UsageError
from eexp.models.base import Episodes, Model, Sample
from eexp.models.policy import ExpertPolicy, ModelPolicy, Policy, Proposal, RandomPolicy, State
from eexp.models.predictor import Predictor
from eexp.prompts import get_style
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.outcomes import transition_of
from eexp.workers.parallel import LocalEnvironments, ParallelEnvironments, StepResult, WorkerEnvironments, open_parallel

HERE = Path(__file__).parents[1]
STYLE = get_style("react")
SAFE = f"exec:sh {ROOT}/examples/safe.sh"


# -- which episodes, and what is in them -----------------------------------------------------------------------------


def test_a_panel_is_part_of_a_larger_one():
    house = House()
    whole = [t["id"] for t in panel(house, "test", None)]
    assert len(whole) == len(set(whole)) == 2000
    for n in (1, 10, 20, 100):
        assert [t["id"] for t in panel(house, "test", n)] == whole[:n]
    assert whole[:20] != sorted(whole[:20]), "not the first ones of the list"


def test_eval_of_ten_is_part_of_eval_of_twenty():
    ten = run("eval", "house", "-m", "random", "-n", 10).ok().records
    twenty = run("eval", "house", "-m", "random", "-n", 20).ok().records
    assert _bare(twenty)[:10] == _bare(ten)


def _bare(records):
    return [{k: v for k, v in r.items() if k != "lineage"} for r in records]


def test_the_expert_succeeds_and_chance_does_not():
    experts = run("eval", "house", "-m", "expert", "-n", 30).ok()
    assert all(e["success"] and e["score"] == 1.0 and e["invalid"] == 0 for e in experts.records)
    assert "30 successes" in experts.err
    hopeless = run("eval", "house", "-m", "random", "-n", 2, "--max-steps", 1).ok()
    assert "0 successes" in hopeless.err
    chance = run("eval", "house", "-m", "random", "-n", 30).ok().records
    assert sum(e["success"] for e in chance) < 10
    assert {e["steps"] for e in chance if not e["success"]} == {House.max_steps}
    for e in chance:
        assert len(e["transcript"]) == e["steps"] and e["split"] == "test" and e["model"] == "random"


def test_an_episode_that_outgrows_the_context_is_a_failure_and_not_the_end_of_the_run():
    result = run("eval", "house", "-m", "tiny", "-n", 2, "--context", 300).ok()
    assert [episode["outgrown"] for episode in result.records] == [True, True]
    assert all(0 < episode["steps"] < 30 and not episode["success"] for episode in result.records)
    assert "2 episodes ended because the prompt outgrew the model's context" in result.err
    first = run("eval", "house", "-m", "tiny", "-n", 2, "--context", 90)
    first.one_error(3, "the prompt has", "give a larger --context")  # no state at all fits: the settings are wrong


def test_trials_differ_and_repeat():
    args = ["eval", "house", "-m", "random", "-n", 3, "--trials", 3, "--max-steps", 8]
    episodes = run(*args).ok().records
    assert [(e["id"], e["seed"]) for e in episodes] == [
        (f"house/{t['id']}/{trial}", trial) for trial in range(3) for t in panel(House(), "test", 3)
    ]
    actions = [tuple(t["action"] for t in e["transcript"]) for e in episodes]
    assert len(set(actions)) > 3
    assert run(*args).ok().records == episodes
    assert _bare(run(*args, "--seed", 1).ok().records) != _bare(episodes)


def test_eval_with_the_tiny_model():
    args = ["eval", "house", "-m", "tiny", "--threads", 1, "-n", 2, "--max-steps", 3, "--max-tokens", 12]
    result = run(*args).ok()
    for e in result.records:
        assert e["prompt_style"] == STYLE.label and e["model"].startswith("sha256:") and e["steps"] <= 3
        assert all(turn["action"] and turn.get("text", turn["action"]) for turn in e["transcript"])
    assert result.out == run(*args).ok().out
    listed = run(*args, "--prompt-style", "react-list").ok()
    assert listed.records[0]["prompt_style"].startswith("react-list@")


class Says(Policy):
    """A policy that always takes the same action."""

    def __init__(self, action: str):
        self.action = action

    def answer(self, groups):
        for group in groups:
            yield [[Proposal(self.action, text=f"Hm. {self.action}")] for _ in group]


def test_invalid_actions_are_counted_not_fatal():
    (episode,) = evaluate(
        LocalEnvironments(House, 1), [(panel(House(), "test", 1)[0], 0)], Says("fly"), EvalSettings(max_steps=4)
    )
    assert episode["invalid"] == episode["steps"] == 4 and not episode["success"]
    assert all(turn["valid"] is False and turn["text"] == "Hm. fly" for turn in episode["transcript"])


# -- however many at once --------------------------------------------------------------------------------------------


class Drawing(Model):
    """Writes one of the actions that the prompt lists, drawn by the request's seed and its words alone."""

    fingerprint = "drawing"

    def __init__(self, kind: type[Episodes] = Episodes):
        super().__init__()
        self._kind = kind

    def answer(self, groups):
        for group in groups:
            yield [[self._draw(request)] for request in group]

    def _draw(self, request) -> Sample:
        observation = request.prompt[-1]["content"]
        listed = request.allowed or observation.rpartition("Possible actions: ")[2].split(", ")
        return Sample(random.Random(f"{request.seed} {observation}").choice(listed))

    def episodes(self, n):
        return self._kind(self, n)

    def policy(self, style: str = "react-list") -> ModelPolicy:
        return ModelPolicy(self, get_style(style), 48)


class Whimsical(Episodes):
    """Answers in any order, late, or some at a time."""

    rng = random.Random(0)

    def wait(self):
        time.sleep(self.rng.choice([0, 0, 0.002]))
        now = [episode for episode in self._open if self.rng.random() < 0.3]
        (answers,) = self.source.answer([[self._open.pop(episode) for episode in now]])
        return list(zip(now, answers))


class Stubborn(Episodes):
    """Answers episode 0 only when it is alone."""

    def wait(self):
        postponed = {} if set(self._open) == {0} else {episode: r for episode, r in self._open.items() if episode == 0}
        for episode in postponed:
            del self._open[episode]
        answers = super().wait()
        self._open |= postponed
        return answers


def tasks(n: int, trials: int = 1) -> list[tuple[dict, int]]:
    return [(task, trial) for trial in range(trials) for task in panel(House(), "test", n)]


def play(
    worlds: ParallelEnvironments,
    pairs: list[tuple[dict, int]],
    policy: Policy,
    on_error: OnError = stop_at_error,
    predictor: Predictor | None = None,
    memory: Memory | None = None,
    **settings: object,
) -> list[dict]:
    chosen = EvalSettings(**{"temperature": 1.0, "max_steps": 9, "seed": 5} | settings)
    with worlds:
        return list(evaluate(worlds, pairs, policy, chosen, predictor=predictor, memory=memory, on_error=on_error))


@pytest.mark.parametrize("kind", [Episodes, Whimsical, Stubborn])
@pytest.mark.parametrize("size", [2, 16])
def test_how_many_are_played_at_once_changes_nothing(size, kind):
    alone = play(LocalEnvironments(House, 1), tasks(12, 2), Drawing().policy())
    assert play(LocalEnvironments(House, size), tasks(12, 2), Drawing(kind).policy()) == alone
    assert len({tuple(turn["action"] for turn in e["transcript"]) for e in alone}) > 12


class OfTwoMinds(ExpertPolicy):
    """Proposes the expert's action at temperature 1, and one that is refused at temperature 0."""

    def __init__(self, action: str):
        self.action = action

    def answer(self, groups):
        for group, answers in zip(groups, super().answer(groups)):
            wrong = [Proposal(self.action)]
            yield [answer if request.temperature else wrong for request, answer in zip(group, answers)]


@pytest.mark.parametrize("action", ["fly", ""])
@pytest.mark.parametrize("spec", ["house", "noisy:0:house"])
def test_what_leads_to_nothing_is_not_taken(action, spec):
    from eexp.envs import open_env

    def played(**settings):
        with open_env(spec) as env:
            worlds = open_parallel(env, 3, 60)
            return play(worlds, tasks(5), OfTwoMinds(action), max_steps=None, temperature=0.0, **settings), worlds

    episodes, _ = played()
    assert not any(e["success"] for e in episodes) and episodes[0]["transcript"][0]["action"] == action
    episodes, worlds = played(look_ahead=2)
    assert all(e["success"] and e["invalid"] == 0 for e in episodes)
    turns = sum(e["steps"] for e in episodes)
    assert worlds.counts["action[s] tried in a fork"] == 2 * turns
    assert worlds.counts["action[s] replaced after they were tried"] == turns
    with House() as env:
        for episode in episodes:
            assert env.reset(episode["task"]).text == episode["transcript"][0]["observation"]
            for turn, following in zip(episode["transcript"], episode["transcript"][1:]):
                assert env.step(turn["action"]).text == following["observation"]


class Saying(Predictor):
    """A world model whose verdict on an action in a state is that of a function."""

    def __init__(self, say: Callable[[State, str], str]):
        self.say, self.asked = say, 0

    def episodes(self, n):
        return Episodes(self, n)

    def request(self, state, action):
        return state, action

    def answer(self, groups):
        for group in groups:
            self.asked += len(group)
            yield [self.say(*request) for request in group]

    def verdict(self, answer):
        return answer


def looking_ahead(predictor: Predictor | None = None, look_ahead: int | None = 4):
    worlds = LocalEnvironments(House, 3)
    settings = {"max_steps": 12, "temperature": 0.0, "look_ahead": look_ahead}
    return play(worlds, tasks(8), Drawing().policy(), predictor=predictor, **settings)


def true_verdict() -> Callable[[State, str], str]:
    """Return a function that knows what an action leads to, because it walks to the state."""
    house = House()
    beginnings = {(house.reset(task).text, house.instruction()): task for task, _ in tasks(8)}

    def verdict(state: State, action: str) -> str:
        seen = [*(step["observation"] for step in state.steps), state.observation]
        house.reset(beginnings[seen[0], state.instruction])
        for step in state.steps:
            house.step(step["action"])
        return transition_of(state.observation, house.step(action).outcome())

    return verdict


def test_a_world_model_that_knows_all_is_as_good_as_a_fork():
    assert looking_ahead(Saying(true_verdict())) == looking_ahead()


@pytest.mark.parametrize(("word", "times"), [("changed", 1), ("done", 1), ("who knows", 1), ("invalid", 4)])
def test_a_world_model_that_always_says_the_same_changes_nothing(word, times):
    plain, predictor = looking_ahead(look_ahead=None), Saying(lambda state, action: word)
    assert looking_ahead(predictor) == plain
    turns = sum(e["steps"] for e in plain)
    assert turns <= predictor.asked <= times * turns


@pytest.mark.parametrize("form", ["alone", "after"])
def test_verdicts_are_the_kinds_of_transitions(tmp_path, form):
    run("expert", "house", "-n", 4, "-q", "-o", tmp_path / "expert").ok()
    options = ("-m", "tiny", "--threads", 1, "--max-tokens", 12, "--no-only-admissible")
    branched = run("branch", "-k", 3, *options, "-q", tmp_path / "expert").ok()
    executed = run("rollout", "-q", stdin=branched.out).ok()
    examples = run("world-model-data", "--verdict", form, "--max-invalid-fraction", 1, stdin=executed.out).ok().records
    assert {e["target"] for e in examples} == {"verdict"} and len({e["transition"] for e in examples}) > 1
    for e in examples:
        (answer,) = e["completion"]
        assert STYLE.verdict_in(answer["content"]) == e["transition"]
        assert (len(answer["content"].splitlines()) > 3) == (form == "after")
        assert e["prompt"][-1]["content"] == STYLE.predicting.request_verdict
    run("world-model-data", "--verdict", form, "--changes", stdin=executed.out).one_error(2, "--changes")


def test_the_tiny_model_may_be_asked_what_to_expect(tmp_path):
    options = ("eval", "house", "-n", 2, "--max-steps", 3, "--threads", 1, "--max-tokens", 12)
    plain = run(*options).ok().records
    asked = run(*options, "--look-ahead", 2, "--look-ahead-with", "tiny").ok()
    assert "judged by the world model" in asked.err  # not trained on verdicts, it says none
    assert [e["transcript"] for e in asked.records] == [e["transcript"] for e in plain]
    run(*options, "--look-ahead-with", "tiny").one_error(2, "--look-ahead K")
    run(*options, "--look-ahead", 2, "--look-ahead-with", "random").one_error(2, "--look-ahead-with")


def test_looking_ahead_needs_a_fork():
    run("eval", SAFE, "-m", "random", "-n", "1", "--look-ahead", "3").one_error(2, "--look-ahead needs", "forked")


def test_processes_change_nothing():
    alone = play(LocalEnvironments(House, 1), tasks(8), Drawing().policy())
    assert play(WorkerEnvironments("house", House.max_steps, 3, 60), tasks(8), Drawing(Whimsical).policy()) == alone


@pytest.mark.parametrize("name", LIGHT)
def test_light_environments_do_not_affect_each_other(name, tmp_path):
    """Environments that are `light` behave the same side by side as alone."""
    spec = ready_spec(name, tmp_path)
    from eexp.envs import open_env

    class Distracted(ExpertPolicy):
        """The expert, but now and then something else."""

        def _actions(self, choice):
            listed = choice.state.admissible or ["ls()"]  # bfcl lists none
            wrong = next((action for action in listed if action != choice.state.expert), "nonsense")
            yield wrong if choice.seed % 5 == 0 else choice.state.expert or wrong

    def played(size):
        worlds = open_parallel(open_env(spec), size, 60)
        assert isinstance(worlds, LocalEnvironments)
        pairs = [(task, 0) for split in open_env(spec).splits() for task in panel(open_env(spec), split, 6)]
        return play(worlds, pairs, Distracted(), max_steps=25)

    assert played(7) == played(1)


def test_episodes_run_ahead_of_the_first_unfinished_one_up_to_a_limit():
    begun, episodes = 0, []

    def counted_tasks() -> Iterator[tuple[dict, int]]:
        nonlocal begun
        for begun, task in enumerate(tasks(60), 1):  # noqa: B007
            yield task

    for episode in evaluate(
        LocalEnvironments(House, 3), counted_tasks(), Drawing(Stubborn).policy(), EvalSettings(max_steps=3)
    ):
        episodes.append(episode)
        assert begun <= len(episodes) + AHEAD * 3
    assert len(episodes) == 60


def test_waits_for_environments_only_where_the_policy_has_nothing_to_do():
    class Watched(LocalEnvironments):
        def wait(self, at_once=False):
            assert at_once == bool(open_episodes)
            return super().wait(at_once)

    class Chatty(Episodes):
        def submit(self, episode, request):
            super().submit(episode, request)
            open_episodes.add(episode)

        def wait(self):
            answers = super().wait() if len(open_episodes) > 2 or random.random() < 0.5 else []
            open_episodes.difference_update(episode for episode, _ in answers)
            return answers

    open_episodes: set[int] = set()
    assert len(play(Watched(House, 5), tasks(12), Drawing(Chatty).policy())) == 12 and not open_episodes


def test_the_command_plays_many_at_once_and_writes_the_same(tmp_path):
    args = ["eval", "-m", "random", "-n", 12, "--max-steps", 6]
    one, many = (run(*args, "house", "--parallel", n).ok() for n in (1, 5))
    assert one.out == many.out == run(*args, "house").ok().out
    assert run(*args, SAFE, "--parallel", 1).ok().out == run(*args, SAFE, "--parallel", 3).ok().out


# -- only admissible actions -----------------------------------------------------------------------------------------


def test_only_admissible_actions_may_be_written():
    policy = Drawing().policy("react")  # whose prompt does not list them
    episodes = play(LocalEnvironments(House, 4), tasks(4), policy, only_admissible=True)
    assert all(
        turn["valid"] and "Possible actions" not in turn["observation"] for e in episodes for turn in e["transcript"]
    )
    assert episodes == play(WorkerEnvironments("house", House.max_steps, 2, 60), tasks(4), policy, only_admissible=True)


def test_only_admissible_as_an_option():
    plain, only = (run("eval", "house", "-m", "random", "-n", 2, *o).ok().records for o in ([], ["--only-admissible"]))
    assert _bare(plain) == _bare(only)
    assert only[0]["lineage"] == [f"{plain[0]['lineage'][0]} only-admissible=True"]


class Speechless(House):
    """A house that lists no admissible actions in every other task."""

    def admissible(self):
        return None if int(self.task["id"][-1]) % 2 else super().admissible()


def test_an_episode_without_admissible_actions_ends_alone():
    set_aside = []
    policy = Drawing().policy("react")
    episodes = play(
        LocalEnvironments(Speechless, 4),
        tasks(12),
        policy,
        only_admissible=True,
        on_error=lambda record, error: set_aside.append((record["task"], str(error))),
    )
    odd = [task for task, _ in tasks(12) if int(task["id"][-1]) % 2]
    assert [task for task, _ in set_aside] == odd and len(episodes) == 12 - len(odd) and odd
    assert all("none are known here" in message for _, message in set_aside)


# -- accidents -------------------------------------------------------------------------------------------------------


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """A function that prepares an accident for the n-th task of the panel."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("FAULTS", str(folder))

    def put(n: int, step: int, kind: str) -> str:
        task = panel(House(), "test", n + 1)[n]["id"]
        (folder / f"{step}-{task.replace('/', '-')}.{kind}").touch()
        return task

    return put


def troubled(size: int = 3, limit: float = 60) -> WorkerEnvironments:
    return WorkerEnvironments("faulty_worlds:Troubled", House.max_steps, size, limit)


def undisturbed(n: int) -> list[dict]:
    def peaceful() -> House:
        house = House()
        house.spec = "faulty_worlds:Troubled"
        return house

    return play(LocalEnvironments(peaceful, 1), tasks(n), Drawing().policy())


def test_an_accident_costs_a_retry(faults):
    faults(1, 2, "killed-once")
    faults(3, 0, "killed-once")
    faults(2, 1, "hung-once")
    worlds = troubled(limit=1)
    assert play(worlds, tasks(5), Drawing(Whimsical).policy()) == undisturbed(5)
    assert worlds.counts == {"worker[s] lost": 3}


def test_a_task_that_always_fails_is_set_aside(faults):
    killed, hung, raised, unspeakable = (
        faults(0, 2, "killed-always"),
        faults(2, 1, "hung-always"),
        faults(3, 3, "raised-always"),
        faults(5, 0, "unspeakable-always"),
    )
    set_aside: dict[str, InputError] = {}
    episodes = play(
        troubled(4, limit=1),
        tasks(7),
        Drawing().policy(),
        on_error=lambda record, error: set_aside.update({record["id"]: error}),
    )
    assert episodes == [e for n, e in enumerate(undisturbed(7)) if n in (1, 4, 6)]
    assert list(set_aside) == [f"faulty_worlds:Troubled/{t}/0" for t in (killed, hung, raised, unspeakable)]
    first, second, third, fourth = set_aside.values()
    assert str(first) == "the environment's process failed 3 times, at last: killed by signal 9 (SIGKILL)"
    assert str(second).startswith("the environment's process failed 3 times, at last: no answer within 1 s")
    assert len(first.evidence["actions"]) == 3 and len(second.evidence["actions"]) == 2
    assert re.fullmatch(r"ValueError: the roof fell in \(faulty_worlds\.py:\d+\)", str(third))
    assert "in raised" in third.evidence["traceback"]
    assert all(isinstance(e, EnvironmentFailed) for e in (first, second, third))
    assert "cannot be written as JSON" in str(fourth)


def test_an_exception_in_this_process_costs_its_task_too(faults):
    task = faults(4, 1, "raised-always")
    set_aside = []
    episodes = play(
        LocalEnvironments(Fragile, 3), tasks(9), Drawing().policy(), on_error=lambda r, e: set_aside.append((r, str(e)))
    )
    alone = play(LocalEnvironments(House, 1), tasks(9), Drawing().policy())
    assert episodes == [e for n, e in enumerate(alone) if n != 4]
    ((record, error),) = set_aside
    assert record["task"]["id"] == task and error.startswith("ValueError: the roof fell in (faulty_worlds.py:")


def test_the_first_failure_in_the_order_of_tasks_ends_a_run_that_stops_at_errors(faults):
    faults(6, 0, "raised-always")
    faults(3, 4, "raised-always")
    episodes = []
    with pytest.raises(EnvironmentFailed, match="the roof fell in"):
        for episode in evaluate(
            LocalEnvironments(Fragile, 8),
            tasks(9),
            Drawing().policy(),
            EvalSettings(max_steps=9, temperature=1.0, seed=5),
        ):
            episodes.append(episode)
    assert len(episodes) == 3


PROGRAM = """
import json, os, sys, time

task = None
for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    task = request["task"]["id"] if op == "reset" else task
    answer = {"observation": f"{task} {op}", "admissible": ["go on"]}
    if op == "hello":
        answer = {"protocol": 1, "splits": ["test"], "max_steps": 2}
    elif op == "tasks":
        answer = {"tasks": 6}
    elif (op, task) == ("step", "test/1"):
        os._exit(3)
    elif (op, task) == ("step", "test/2"):
        time.sleep(600)
    elif (op, task) == ("reset", "test/4"):
        answer = {"error": "no"}
    print(json.dumps(answer), flush=True)
"""


def test_a_program_that_dies_hangs_or_refuses_costs_its_task(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    spec = f"exec:{BARE_PYTHON} {tmp_path}/program.py"
    result = run("eval", spec, "-m", "random", "--parallel", 3, "--timeout", 1, "--rejects", tmp_path / "r").ok(4)
    assert {r["task"]["id"] for r in result.records} == {"test/0", "test/3", "test/5"}
    assert all(r["final"].endswith("step") and r["steps"] == 2 for r in result.records)
    rejected = {r["record"]["task"]["id"]: r["error"] for r in read(tmp_path / "r")}
    assert "ended with exit status 3" in rejected["test/1"] and "no answer within 1 s" in rejected["test/2"]
    assert rejected["test/4"].endswith("reset: no")


def test_an_answer_that_json_cannot_hold_costs_its_episode():
    with WorkerEnvironments("house", 9, 2, 60) as worlds:
        assert worlds.wait() == []
        worlds.begin(0, tasks(1)[0][0])
        worlds.step(1, "\ud800")
        answers = []
        while len(answers) < 2:
            answers += worlds.wait()
    (first, refused), (second, view) = answers
    assert (first, second) == (1, 0) and isinstance(view, StepResult) and view.instruction and view.admissible is None
    assert "cannot be written as JSON" in str(refused)


def test_an_answer_that_waits_to_be_read_is_not_late():
    with WorkerEnvironments("faulty_worlds:Wordy", 9, 1, 0.1) as worlds:
        for _ in range(2):
            worlds.begin(0, tasks(1)[0][0])
            time.sleep(1.5)  # longer than the limit, as while a model answers other episodes
            answers = []
            while not answers:
                answers = worlds.wait(at_once=True)
            ((_, view),) = answers
            assert isinstance(view, StepResult) and len(view.observation.text) > 1 << 19
        assert not worlds.counts


def test_an_environment_that_cannot_be_opened_ends_the_run():
    with pytest.raises(UsageError, match="unknown environment 'nowhere'"):
        play(WorkerEnvironments("nowhere", 9, 2, 60), tasks(3), Drawing().policy())


# -- resuming --------------------------------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one(faults, tmp_path):
    """It may be cut anywhere, and resumed with another number of episodes at once."""
    for n in (2, 7):
        faults(n, 1, "raised-always")
    args = ["eval", "faulty_worlds:Fragile", "-m", "random", "-n", 12, "--max-steps", 4, "-q", "--resume"]
    out, rejects = tmp_path / "out", tmp_path / "rejects"
    run(*args, "-o", out, "--rejects", rejects).ok(4)
    whole, set_aside = out.read_bytes(), rejects.read_bytes()
    assert whole.count(b"\n") == 10 and set_aside.count(b"\n") == 2
    for parallel, cut in enumerate((0, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1), 1):
        out.write_bytes(whole[:cut])
        rejects.write_bytes(set_aside[: cut and len(set_aside) // parallel])
        run(*args, "-o", out, "--rejects", rejects, "--parallel", parallel).ok(4)
        assert (out.read_bytes(), rejects.read_bytes()) == (whole, set_aside)


# -- nothing is left behind ------------------------------------------------------------------------------------------


def processes_of(folder: str) -> list[int]:
    """Return the processes that were started with this folder of accidents and still run."""
    pids = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("FAULTS") == folder:
                pids.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [pid for pid in pids if pid != os.getpid()]


def wait_until(condition, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_command(faults, how):
    faults(0, 1, "hung-once")
    folder = os.environ["FAULTS"]
    command = start(
        "eval",
        "faulty_worlds:Troubled",
        "-m",
        "random",
        "-n",
        3,
        "--parallel",
        2,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(FAULTS=folder, PYTHONPATH=f"{HERE}:{ROOT}"),
    )
    wait_until(lambda: not list(Path(folder).iterdir()))  # now one hangs
    wait_until(lambda: len(processes_of(folder)) == 5)  # the command, two workers, a guard each
    command.send_signal(how)
    wait_until(lambda: not processes_of(folder))
    errors = command.communicate(timeout=30)[1].decode()
    assert command.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[how]
    assert "Traceback" not in errors


def test_no_process_outlives_a_run_that_ends_by_itself(faults):
    folder = os.environ["FAULTS"]
    play(troubled(2), tasks(2), Drawing().policy())
    assert not processes_of(folder)
    faults(1, 1, "raised-always")
    with pytest.raises(EnvironmentFailed):
        play(troubled(2), tasks(4), Drawing().policy())
    assert not processes_of(folder)
    settings = EvalSettings(max_steps=3)
    with troubled(2) as worlds, closing(evaluate(worlds, tasks(4), RandomPolicy(), settings)) as episodes:
        next(episodes)  # the reader stops here
    assert not processes_of(folder)


def test_programs_end_with_a_command_that_is_killed(faults):
    folder = os.environ["FAULTS"]
    command = start(
        "eval",
        SAFE,
        "-m",
        "random",
        "--trials",
        1000,
        "--parallel",
        2,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(FAULTS=folder),
    )
    command.stdout.readline()
    wait_until(lambda: len(processes_of(folder)) >= 9)  # the command, two workers, a program each, and their guards
    command.kill()
    wait_until(lambda: not processes_of(folder))
    command.communicate()


def test_a_closed_pipe_ends_the_run_quietly(faults):
    folder = os.environ["FAULTS"]
    played = "-m random -n 100 --max-steps 2 --parallel 2"
    command = f"{sys.executable} -m eexp eval faulty_worlds:Troubled {played} | head -1"
    process = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        timeout=60,
        env=environment(FAULTS=folder, PYTHONPATH=f"{HERE}:{ROOT}"),
    )
    assert process.returncode == 0 and process.stdout.count(b"\n") == 1 and b"rror" not in process.stderr
    assert not processes_of(folder)


def test_lost_processes_are_counted_in_the_summary(faults):
    faults(0, 1, "killed-once")
    result = run("eval", "faulty_worlds:Troubled", "-m", "random", "-n", 1, "--max-steps", 3).ok()
    assert re.search(r"eval: 1 out, .*1 worker lost", result.err)

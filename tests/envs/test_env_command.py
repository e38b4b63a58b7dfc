"""`eexp env`: its lists, playing by hand, and the checker against environments that are broken."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from light import LIGHT, ready_spec
from running import BARE_PYTHON, ROOT, Result, environment, read, run, spawn

from eexp.envs.check import Checker
from eexp.envs.worlds.house import House
from eexp.system import terminal

# A correct game that counts to 5, with one fault for each name.
PROGRAM = """
import json, os, random, subprocess, sys, time

fault = sys.argv[1]
LIST = ["up", "down", "twice"]

def say(**answer):
    print(json.dumps(answer), flush=True)

def state(n, valid=True):
    if fault == "noise":
        return {"observation": f"At {n}, {random.random()}.", "valid": valid, "done": n == 5, "score": float(n == 5)}
    if fault == "own-seed":
        return {"observation": f"At {n} in {os.getpid()}.", "valid": valid, "done": n == 5, "score": float(n == 5)}
    if fault == "leak":
        return {"observation": f"At {n}, request {asked}.", "valid": valid, "done": n == 5, "score": float(n == 5)}
    return {"observation": f"At {n}.", "valid": valid, "done": n == 5, "score": float(n == 5)}

n = steps = asked = resets = 0
for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "hello":
        if fault == "silent-hello": time.sleep(600)
        say(protocol=2 if fault == "version" else 1, splits=["train", "test"], expert=True, admissible=True,
            max_steps=20, save=fault.startswith("save"), harmless=["peek|twice"] if fault == "harmless" else ["peek"])
    elif op == "tasks":
        ids = list(range(-20, 0) if request["split"] == "train" else range(-30, -20))
        if fault == "same-ids": ids = list(range(10))
        if fault == "order": random.shuffle(ids)
        say(tasks=[{"id": str(i), "start": i % 5} for i in ids])
    elif op == "reset":
        n, steps, resets = request["task"]["start"], 0, resets + 1
        if fault == "second-reset" and resets > 5: n += 1
        say(**state(n), instruction="Reach 5.")
    elif op == "step":
        steps += 1
        action = request["action"]
        if steps > 1:
            if fault == "late": time.sleep(60)
            if fault == "dies": sys.exit(3)
            if fault == "signal": os.kill(os.getpid(), 11)
            if fault == "flood":
                while True: sys.stdout.write("x" * 65536)
            if fault == "flood-lines":
                sys.stdout.write('{"observation": "again"}\\n' * 1000); sys.stdout.flush(); continue
            if fault == "json": print("{'observation': 'At 3'}", flush=True); continue
            if fault == "type": say(observation=None); continue
            if fault == "score": say(observation="At 3.", score=7); continue
        moves = {"up": 1, "down": -1, "twice": 2, "peek": 0}
        if action in moves: n += moves[action]
        elif fault == "moves-on-nonsense": n += 1
        if fault == "refuses-listed" and action == "down": say(**state(n, valid=False))
        elif fault == "all-valid": say(**state(n))
        else: say(**state(n, valid=action in moves))
    elif op == "admissible":
        if fault == "asking": n += 1
        if fault == "list-order": random.shuffle(LIST)
        asked += 1
        say(admissible=LIST + ["up"] if fault == "twice-listed" else LIST)
    elif op == "expert":
        say(action="down" if fault == "bad-expert" else "up" if n < 5 else "down")
    elif op == "save":
        say(state=n)
    elif op == "restore":
        if fault != "save-lost": n = request["state"]
        say()
    elif op == "close":
        break
"""

#: fault -> (the check that must notice it, what its message contains).
FAULTS = {
    "version": ("opens", "$.protocol: 2; this eexp speaks 1"),
    "silent-hello": ("opens", "hello: no answer within 1 s"),
    "same-ids": ("lists tasks", "task 0 is in train and in test"),
    "order": ("lists tasks", "the tasks of train are other ones, or in another order, the second time"),
    "late": ("plays", "step: no answer within 1 s"),
    "dies": ("plays", "step: ended with exit status 3"),
    "signal": ("plays", "step: killed by signal 11 (SIGSEGV)"),
    "flood": ("plays", "more than 16 MiB without a line end"),
    "flood-lines": ("plays", 'a line that nothing asked for: \'{"observation": "again"}'),
    "json": ("plays", "answer to step: not JSON: \"{'observation': 'At 3'}\""),
    "type": ("plays", "answer to step: $.observation: expected a string, got null"),
    "score": ("plays", "answer to step: $.score:"),
    "twice-listed": ("plays", "admissible: 'up' is listed twice"),
    "noise": ("repeats", "the first time"),
    "second-reset": ("repeats", "at its beginning: 'At"),
    "list-order": ("repeats", "the admissible actions are"),
    "asking": ("questions", "when nothing was asked on the way, and"),
    "own-seed": ("starts anew", "in another instance, and"),
    "save-lost": ("forks", "in a fork by state, and to"),
    "harmless": ("harmless", "after actions that are declared harmless, and"),
    "refuses-listed": ("admissible", "lists 'down', and refuses it"),
    "bad-expert": ("expert", "reaches the goal in none of"),
    "moves-on-nonsense": ("nonsense", "which it said was not valid, and"),
}


@pytest.fixture
def program(tmp_path):
    """Return a function from the name of a fault ("" for none) to the spec of the game with it."""
    path = tmp_path / "game.py"
    path.write_text(PROGRAM)
    return lambda fault: f"exec:{BARE_PYTHON} {path} {fault}"


def check(spec: str, *args: object, **env: str) -> tuple[Result, dict[str, tuple[str, str]]]:
    """Run the check; return its result and, by check, (verdict, detail).

    It runs in a process of its own, because the process of pytest has threads and sockets.
    """
    result = spawn("env", "check", spec, *args, env=environment(**env))
    verdicts = {}
    for line in result.out.decode().splitlines():
        verdicts[line[6:18].strip()] = line[:4].strip(), line[20:]
    return result, verdicts


def failed(verdicts: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: detail for name, (verdict, detail) in verdicts.items() if verdict == "FAIL"}


@pytest.mark.parametrize("fault", ["none", "save"])
def test_the_game_without_a_fault_passes(program, fault):
    result, verdicts = check(program(fault))
    result.ok()
    assert not failed(verdicts) and result.err == ""
    assert verdicts["forks"][0] == ("ok" if fault == "save" else "-")
    assert all(
        verdicts[name][0] == "ok"
        for name in ("plays", "repeats", "questions", "starts anew", "admissible", "expert", "nonsense", "closes")
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checker_reports_each_fault(program, fault):
    name, message = FAULTS[fault]
    result, verdicts = check(program(fault), "--timeout", 1, "-n", 4)
    result.ok(1)
    wrong = failed(verdicts)
    assert next(iter(wrong)) == name, result.out.decode()
    assert message in wrong[name], wrong
    if name == "opens":
        assert len(wrong) == 1 and "not checked, since 'opens' failed" in verdicts["the rest"][1]


def test_a_harmless_peculiarity_is_a_note(program):
    result, verdicts = check(program("all-valid"))
    result.ok()
    assert verdicts["nonsense"][0] == "note" and "as valid, nonsense in most worlds" in verdicts["nonsense"][1]


PYTHON = '''
import os, random, subprocess, time
from copy import copy
from eexp.envs import Environment, Observation

class Counting(Environment):
    """Counting to 3. For tests."""
    in_process = True

    def splits(self):
        return ["train"]

    def tasks(self, split):
        self.check_split(split)
        return iter([{"id": "a", "split": split}, {"id": "b", "split": split}])

    def reset(self, task):
        self.log = []
        return Observation("0")

    def step(self, action):
        if action != "more":
            return Observation("no", valid=False)
        self.log.append(action)
        return Observation(str(len(self.log)), len(self.log) > 3)

    def admissible(self):
        return ["more"]

class InA(Counting):
    """Something goes wrong in the first of its tasks."""
    text = "A text that is longer than what messages quote of one. " * 3 + "It ends far from here: "
    draw = random.Random()

    def reset(self, task):
        self.task = task
        return super().reset(task)

    def step(self, action):
        observation = super().step(action)
        return self.wrong(observation) if self.task["id"] == "a" and observation.valid else observation

class FailsInA(InA):
    def wrong(self, observation):
        raise KeyError("kettle")

class HangsInA(InA):
    def wrong(self, observation):
        time.sleep(60)

class DrawsInA(InA):
    def wrong(self, observation):
        return Observation(f"{self.text}{self.draw.random()}", observation.done)

class BlanksInA(InA):
    answers = 0

    def wrong(self, observation):
        BlanksInA.answers += 1
        return Observation(f"{self.text}{' ' if BlanksInA.answers < 5 else chr(10)}1", observation.done)

class ListsInA(InA):
    def wrong(self, observation):
        return observation

    def admissible(self):
        more = [f"a long name of something number {i}" for i in range(9)] if self.task["id"] == "a" else []
        return ["more", *more, *([str(self.draw.random())] if more else [])]

class Silent(Counting):
    """Neither an expert nor a list of actions."""
    def admissible(self):
        return None

class Over(Counting):
    def reset(self, task):
        return Observation("0", done=True)

class Unlisted(Counting):
    """An expert, and a list that is always empty."""
    def admissible(self):
        return []

    def expert(self):
        return "more"

class Raises(Counting):
    def step(self, action):
        raise KeyError("kettle")

class CountsWhatItExplains(Counting):
    def explain(self):
        self.log.append("asked")

class Tuples(Counting):
    def step(self, action):
        return "seen", 0.0, False, {}

class Minimal(Environment):
    """Only what has to be there, and no expert."""
    def splits(self):
        return ["train"]

    def tasks(self, split):
        return [{"id": "a"}, {"id": "b"}]

    def reset(self, task):
        return Observation("0")

    def step(self, action):
        return Observation("no", valid=False)

    def admissible(self):
        return None

class TwiceASplit(Counting):
    def splits(self):
        return ["train", "train"]

class SameIds(Counting):
    def tasks(self, split):
        return [{"id": "a"}, {"id": "a"}]

class NoIds(Counting):
    def tasks(self, split):
        return [{"name": "a"}]

class Boiling(Counting):
    """An expert that plays a world with a mistake in it."""
    def expert(self):
        return "more"

    def step(self, action):
        return {"text": "seen"}.done

class Burnt(Boiling):
    """With a mistake in its list of tasks."""
    def tasks(self, split):
        raise KeyError("kettle")

class Closed(Boiling):
    def __init__(self):
        raise RuntimeError("no kettle")

class Shallow(Counting):
    def fork(self):
        return copy(self)

class SharesItsLog(Counting):
    light = True
    log = []

    def reset(self, task):
        self.log.clear()
        return Observation("0")

class ExpertsShareMemory(Counting):
    """Its expert presses each button that no instance pressed before: observations alone show nothing."""
    light = True
    pressed = set()

    def reset(self, task):
        self.pressed.clear()
        return super().reset(task)

    def step(self, action):
        self.pressed.add(action)
        self.log.append(action)
        return Observation(str(len(self.log)), len(self.log) > 3, score=float(len(self.log) > 3))

    def admissible(self):
        return ["a", "b", "c", "d", "e", "f"]

    def expert(self):
        return next((button for button in self.admissible() if button not in self.pressed), "a")

class ForksShareMemory(ExpertsShareMemory):
    """The same, where only a fork shares the memory of the instance that it was made from."""
    def reset(self, task):
        self.pressed = set()
        return super().reset(task)

    def fork(self):
        other = copy(self)
        other.log = list(self.log)
        return other

class ExpertDraws(Counting):
    """Its expert draws, without a seed."""
    def expert(self):
        return os.urandom(8).hex()

class LosesItsPath(ForksShareMemory):
    """Its expert has no action once anything else was done; a question in place is such a thing."""
    fork = Counting.fork
    light = False

    def reset(self, task):
        self.on_path = True
        return super().reset(task)

    def step(self, action):
        if action in self.admissible():
            return super().step(action)
        self.on_path = False
        return Observation("no", valid=False)

    def expert(self):
        return super().expert() if self.on_path else None

class Harmless(Counting):
    def harmless(self, action):
        return action == "peek"

class Hangs(Counting):
    def step(self, action):
        time.sleep(60)

class KeepsAProcess(Counting):
    in_process = False

    def reset(self, task):
        self.child = subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return super().reset(task)

class LiesAboutItsProcess(Counting):
    def reset(self, task):
        self.child = subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return super().reset(task)

    def close(self):
        self.child.kill()
        self.child.wait()
'''


@pytest.mark.parametrize(
    ("name", "where", "output"),
    [
        ("Raises", "plays", "step: raised KeyError: 'kettle'"),
        ("CountsWhatItExplains", "questions", "when nothing was asked on the way, and"),
        ("Tuples", "plays", "step: returned ('seen', 0.0, False, {}) (tuple), expected an Observation"),
        ("TwiceASplit", "splits", "a name stands there twice"),
        ("SameIds", "lists tasks", "two tasks of train have the same id"),
        ("NoIds", "lists tasks", "task 0 of train has no id that is a string: {'name': 'a'}"),
        ("Shallow", "forks", "after forks by state, and"),
        ("SharesItsLog", "side by side", "while another instance played, and"),
        ("ExpertsShareMemory", "side by side", "while another instance played, and was 'a' the first time"),
        ("ForksShareMemory", "forks", "after forks by state, and was"),
        ("ExpertDraws", "repeats", ": the expert's action is "),
        ("Hangs", "plays", "step: no answer within 1 s"),
        ("KeepsAProcess", "closes", "processes are left over"),
        ("LiesAboutItsProcess", "forks", "declares in_process, but has a child process"),
    ],
)
def test_a_class_is_checked(tmp_path, name, where, output):
    (tmp_path / "counting.py").write_text(PYTHON)
    result, verdicts = check(f"counting:{name}", "--timeout", 1, PYTHONPATH=f"{tmp_path}:{ROOT}")
    result.ok(1)
    assert next(iter(failed(verdicts))) == where and output in failed(verdicts)[where], result.out.decode()


def counting(name: str, in_process: bool | None = None, limit: float = 10) -> dict[str, tuple[str, str]]:
    """Check one of the classes; return (verdict, detail) by the check's name.

    Args:
        name: The class.
        in_process: Another value of this attribute: False where nothing but what is tested may fail, since other tests
            may have started threads in this process.
        limit: Seconds for one answer.
    """
    namespace: dict = {}
    exec(PYTHON, namespace)
    if in_process is not None:
        namespace[name].in_process = in_process
    findings = Checker(namespace[name], tasks=2, limit=limit).findings()
    return {finding.check: (finding.verdict, finding.detail) for finding in findings}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Silent", "no action was taken: neither an expert nor an admissible list tells one; name some with --action"),
        ("Over", "no action was taken: the tasks are over at their beginning"),
    ],
)
def test_a_check_without_a_step_fails_and_skips_the_rest(name, why):
    verdicts = counting(name)
    assert failed(verdicts) == {"plays": verdicts["plays"][1]} and verdicts["plays"][1].startswith(why)
    assert {check for check, (verdict, _) in verdicts.items() if verdict == "ok"} == {
        "opens",
        "splits",
        "lists tasks",
        "closes",
        "time",
    }
    assert verdicts["the rest"][1].startswith("not checked, since 'plays' failed: repeats, ")


def test_a_task_that_fails_does_not_end_the_check():
    """The other one is checked to the end; excerpts show what differs, also far from the beginning of a text."""
    for name, where, message in (
        ("FailsInA", "plays", r"task a: step: raised KeyError: 'kettle'"),
        (
            "DrawsInA",
            "repeats",
            r"'\.\.\..* far from here: 0\.\d+' the second time, and '\.\.\..* far from here: 0\.\d+' ",
        ),
        (
            "ListsInA",
            "repeats",
            r"admissible actions are \.\.\..* '0\.\d+'\] the second time, and were \.\.\..* '0\.\d+'\]",
        ),
        ("BlanksInA", "repeats", r" from here: \\n1' the second time, and '\.\.\..* from here:  1' the first time"),
    ):
        verdicts = counting(name, in_process=False)
        assert re.search(message, failed(verdicts)[where]), failed(verdicts)[where]
        assert "tasks fail" not in failed(verdicts)[where] and list(failed(verdicts)) == [where]
        assert {verdicts[check][0] for check in ("starts anew", "admissible", "closes")} == {"ok"}
        assert "the rest" not in verdicts


def test_a_task_that_hangs_costs_a_new_environment():
    verdicts = counting("HangsInA", in_process=False, limit=0.2)
    assert list(failed(verdicts)) == ["plays"] and "task a: step: no answer within 0.2 s" in failed(verdicts)["plays"]
    assert verdicts["repeats"][0] == verdicts["starts anew"][0] == "ok"


def test_a_long_check_shows_how_far_it_has_come(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    namespace: dict = {}
    exec(PYTHON, namespace)
    checker = Checker(namespace["Counting"], tasks=1, limit=10)
    checker.shows_progress = True
    list(checker.findings())
    lines = capsys.readouterr().err.splitlines()
    assert "env check: plays: 5 answers so far" in lines and any(
        line.startswith("env check: repeats: ") for line in lines
    )


def test_an_expert_may_lose_its_path_after_a_question():
    assert not failed(counting("LosesItsPath", in_process=False))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Counting", "no action is declared harmless"),
        ("Harmless", "none of the actions tried is declared harmless; name one with --action"),
    ],
)
def test_the_reason_why_no_harmless_action_was_tried(name, why):
    assert counting(name)["harmless"] == ("-", why)


@pytest.mark.parametrize("name", ["TwiceASplit", "SameIds"])
def test_the_check_goes_on_where_tasks_can_be_played(name):
    verdicts = counting(name, in_process=False)
    assert len(failed(verdicts)) == 1
    assert {verdicts[check][0] for check in ("plays", "repeats", "starts anew", "nonsense", "closes")} == {"ok"}


def test_a_minimal_class(tmp_path, monkeypatch):
    """A class need neither name the split in its tasks nor refuse other splits."""
    (tmp_path / "minimal_world.py").write_text(PYTHON)
    monkeypatch.chdir(tmp_path)
    spec = "minimal_world:Minimal"
    result, verdicts = check(spec, "--action", "look", PYTHONPATH=f"{tmp_path}:{ROOT}")
    result.ok()
    assert verdicts["splits"] == ("ok", "train") and verdicts["lists tasks"] == ("ok", "train 2")
    for args in (("eval", spec, "-m", "random", "--split", "dev"), ("panel", spec, "--split", "dev")):
        spawn(*args, env=environment()).one_error(2, f"{spec} has no split 'dev'; it has: train")
    lines = spawn("panel", spec, "--split", "train", env=environment()).ok().records
    assert [line["task"] for line in lines] == [{"id": name, "split": "train"} for name in "ab"]
    spawn("expert", spec, env=environment()).one_error(2, f"{spec} has no expert: record demonstrations with `eexp env")


def test_mistakes_in_a_class_are_one_line(tmp_path, monkeypatch):
    """-v adds the traceback, and --on-error skip goes on where a single task is concerned."""
    (tmp_path / "kettle_world.py").write_text(PYTHON)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    spec = "kettle_world:Boiling"
    number = 1 + PYTHON[: PYTHON.index('{"text": "seen"}.done')].count("\n")
    message = f"error: {spec}/a: AttributeError: 'dict' object has no attribute 'done' (kettle_world.py:{number})"
    error = spawn("expert", spec, env=environment()).one_error(1, message)
    assert error.endswith(" (-v shows the traceback)")
    spawn("eval", spec, "--split", "train", "-m", "expert", env=environment()).one_error(
        1, f"(kettle_world.py:{number})", " (-v shows the traceback)"
    )
    for stage in (("expert", spec), ("eval", spec, "--split", "train", "-m", "expert")):
        verbose = run(*stage, "-v")
        assert verbose.code == 1 and "Traceback" in verbose.err
        assert verbose.err.count("AttributeError: 'dict' object has no attribute 'done'") >= 2
    skipping = run("expert", spec, "--on-error", "skip").ok(4)
    assert "2 set aside" in skipping.err
    for stage in ("expert", "eval", "panel", "env show", "env play"):
        options = ["--split", "train"] if stage in ("eval", "panel") else []
        for name, message in (
            ("Burnt", "kettle_world:Burnt: tasks: KeyError: 'kettle'"),
            ("Closed", "cannot be opened: RuntimeError: no kettle"),
        ):
            run(*stage.split(), f"kettle_world:{name}", *options).one_error(1, message)


def test_a_check_that_was_not_tried_is_not_ok():
    verdicts = counting("Unlisted")
    assert verdicts["admissible"] == ("-", "the lists are empty wherever they were looked at")
    assert verdicts["plays"][0] == "ok"


@pytest.mark.parametrize(
    "spec",
    [
        *(name for name in LIGHT if name != "babyai"),
        pytest.param("babyai", marks=pytest.mark.long),
        f"exec:sh {ROOT}/examples/safe.sh",
        f"exec:{BARE_PYTHON} {ROOT}/examples/blocks.py",
    ],
)
def test_the_environments_of_eexp_pass(spec, tmp_path):
    """The others need data or a program of their own; their tests play and fork them."""
    if spec in LIGHT:
        spec = ready_spec(spec, tmp_path)
    result, verdicts = check(spec, "-n", 3)
    result.ok()
    assert not failed(verdicts) and "note" not in {verdict for verdict, _ in verdicts.values()}, result.out.decode()
    assert verdicts["plays"][0] == "ok"


def test_an_unknown_environment_fails_the_check():
    _, verdicts = check("hose")
    assert "unknown environment 'hose'" in failed(verdicts)["opens"]
    run("env", "show", "hose").one_error(2, "unknown environment 'hose'")


def test_list_names_environments_and_what_they_need():
    lines = run("env", "list").ok().out.decode().splitlines()
    assert lines[0].split(maxsplit=1) == ["house", "the built-in household world"] and "not ready" not in lines[1]
    for name in ("textworld", "searchqa"):
        (place,) = (n for n, line in enumerate(lines) if line.startswith(f"{name}?"))
        assert lines[place + 1].strip().startswith(f"not ready: {name}: ")


def test_show(program):
    output = run("env", "show", "house").ok().out.decode()
    for part in ("train: 10,000 tasks", "branches by state", "task train/0", "expert> "):
        assert part in output
    output = run("env", "show", program("none"), "--task=-3").ok().out.decode()
    assert "branches by replay" in output and "task -3" in output and "At 2." in output
    run("env", "show", "house", "--task", "nowhere").one_error(2, "house has no task 'nowhere'")


def test_play_from_a_pipe_makes_a_trajectory(program, tmp_path):
    file = tmp_path / "played.jsonl"
    result = run("env", "play", program("none"), "--task=-3", "-o", file, stdin=b"?\n!\nup\nfly\nup\nup\n").ok()
    output = result.out.decode()
    for part in ("Reach 5.", "  twice\n", "  up\n", "At 4.", "done, score 1, success\n"):
        assert part in output
    (trajectory,) = read(file)
    assert [step["action"] for step in trajectory["steps"]] == ["up", "fly", "up", "up"]
    assert trajectory["outcome"] == {"observation": "At 5.", "done": True, "score": 1.0, "valid": True}
    branched = run("branch", "--from", "admissible", "-k", 1, file).ok().out
    assert "4 branch points verified" in run("rollout", "--env", trajectory["env"], stdin=branched).ok().err


def test_an_unfinished_episode_is_kept(tmp_path):
    file = Path(tmp_path / "played.jsonl")
    for _ in range(2):
        run("env", "play", "house", "-o", file, stdin=b"look\n\n").ok()
    first, second = read(file)
    assert first == second and first["outcome"]["done"] is False
    run("env", "play", "house", "-o", tmp_path / "none.jsonl", stdin=b"").ok()
    assert not (tmp_path / "none.jsonl").exists()


class NotDeclared(House):
    """Shares nothing, and does not say so."""

    light = False


class Shares(NotDeclared):
    """Counts the steps of all instances."""

    steps_of_all: ClassVar[list[str]] = []

    def reset(self, task):
        self.steps_of_all.clear()
        return super().reset(task)

    def step(self, action):
        self.steps_of_all.append(action)
        observation = super().step(action)
        return replace(observation, text=f"{observation.text} {len(self.steps_of_all)} steps.")


@pytest.mark.parametrize(
    ("world", "verdict", "words"), [(NotDeclared, "note", "`light = True` lets"), (Shares, "-", "which it needs")]
)
def test_a_class_that_could_be_light_is_told(world, verdict, words):
    findings = {finding.check: finding for finding in Checker(world, tasks=2, limit=10).findings()}
    assert findings["side by side"].verdict == verdict and words in findings["side by side"].detail

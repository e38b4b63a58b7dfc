"""`exec:COMMAND`: the two examples, and programs that break the protocol in many ways."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from running import BARE_PYTHON, environment

from eexp.envs import open_env
from eexp.envs.bridges import program as program_module
from eexp.errors import EexpError, EnvironmentFailed, UsageError
from eexp.system import child as process

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "environments"
SAFE = f"exec:sh {ROOT}/examples/safe.sh"
BLOCKS = f"exec:{BARE_PYTHON} {ROOT}/examples/blocks.py"

# A program that does what the action says, so that one program stands for all broken ones.
BROKEN = """
import json, os, signal, subprocess, sys, time

def say(**answer):
    print(json.dumps(answer), flush=True)

def step(action):
    verb, _, rest = action.partition(" ")
    if verb == "exit": sys.exit(int(rest))
    elif verb == "signal": os.kill(os.getpid(), int(rest))
    elif verb == "hang": time.sleep(600)
    elif verb == "hang-with-child":
        print(subprocess.Popen(["sleep", "600"]).pid, file=sys.stderr, flush=True)
        time.sleep(600)
    elif verb == "close-output": os.close(1); time.sleep(600)
    elif verb == "flood":
        while True: sys.stdout.write("x" * 65536)
    elif verb == "trickle":
        while True: sys.stdout.write("x"); sys.stdout.flush(); time.sleep(0.05)
    elif verb == "print": print(rest, flush=True)
    elif verb == "twice": sys.stdout.write('{"observation":"1"}\\n{"observation":"2"}\\n'); sys.stdout.flush()
    elif verb == "stray": sys.stdout.write('debug: a step\\n{"observation":"1"}\\n'); sys.stdout.flush()
    elif verb == "late": say(observation="1"); time.sleep(0.1); say(observation="2")
    elif verb == "bytes": sys.stdout.buffer.write(b'{"observation":"\\xff\\xfe"}\\n'); sys.stdout.flush()
    else: say(observation=action)

for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "hello":
        say(protocol=1, splits=["train"], masks=["[0-9]+ degrees"])
    elif op == "tasks":
        say(tasks=3)
    elif op == "reset":
        say(observation="start " + request["task"]["id"])
    elif op == "step":
        step(request["action"])
    elif op == "close":
        print("closing", file=sys.stderr, flush=True)
        break
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "2")
    monkeypatch.setattr(process, "MAX_LINE", 1 << 20)
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    with open_env(f"exec:{BARE_PYTHON} {path}") as env:
        yield env


def program_spec(tmp_path, source: str) -> str:
    path = tmp_path / "program.py"
    path.write_text(source)
    return f"exec:{BARE_PYTHON} {path}"


def gone(pid: int, within: float = 5.0) -> bool:
    """Return whether a process ends in time. An orphan that was not reaped yet counts as ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
        if not state or state.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


# -- the examples ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[SAFE, BLOCKS], ids=["safe.sh", "blocks.py"])
def example(request):
    with open_env(request.param) as env:
        yield env


def test_the_expert_of_an_example_succeeds_with_admissible_actions(example):
    for split in example.splits():
        for task in islice(example.tasks(split), 4):
            observation = example.reset(task)
            assert example.instruction()
            for _ in range(example.max_steps):
                action = example.expert()
                assert action in example.admissible()
                observation = example.step(action)
                assert observation.valid
                if observation.done:
                    break
            assert observation.done and observation.success and observation.score == 1.0


def test_an_example_starts_the_same_way_again(example):
    first, second = islice(example.tasks("train"), 2)
    played = []
    for task in (first, second, first):
        observations, actions = [example.reset(task)], example.admissible()[:3]
        played.append(
            [*observations, *(example.step(action) for action in actions), example.admissible(), example.expert()]
        )
    assert played[0] == played[2] != played[1]


def test_the_splits_of_an_example_share_no_task(example):
    tasks = {split: list(example.tasks(split)) for split in example.splits()}
    assert {t["split"] for t in tasks["train"]} == {"train"}
    ids = [t["id"] for in_split in tasks.values() for t in in_split]
    assert len(ids) == len(set(ids)) > 1000 - 1


@pytest.mark.parametrize("action", ["", 'say "hi"', "zwölf\n\t", "set dial to 99", "move red onto red", "'; exit"])
def test_an_example_refuses_nonsense(example, action):
    example.reset(next(example.tasks("test")))
    before = example.admissible(), example.expert()
    observation = example.step(action)
    assert not observation.valid and not observation.done and observation.text
    assert (example.admissible(), example.expert()) == before


def test_an_example_has_no_other_split(example):
    with pytest.raises(UsageError, match="has no split 'dev'; it has: train, test"):
        example.tasks("dev")


@pytest.mark.parametrize("name", ["safe.sh", "blocks.py"])
def test_the_comment_of_an_example_shows_the_pipe(name):
    assert f"examples/{name}' -n 20 --split train" in (ROOT / "examples" / name).read_text()


def test_the_transcript_in_the_docs_is_that_of_the_example():
    docs = (PAGES / "programs.md").read_text()
    lines = re.findall(r"^    ([><]) (\{.*\})$", docs, re.MULTILINE)
    requests = [line for arrow, line in lines if arrow == ">"]
    answers = [line for arrow, line in lines if arrow == "<"]
    assert {json.loads(line)["op"] for line in requests} >= {"hello", "tasks", "reset", "step", "admissible", "expert"}
    run = subprocess.run(
        ["sh", ROOT / "examples" / "safe.sh"],
        input="\n".join(requests) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert [json.loads(line) for line in run.stdout.splitlines()] == [json.loads(line) for line in answers]


def test_the_class_in_the_docs_is_an_environment(tmp_path, monkeypatch):
    source = re.findall(r"```python\n(.*?)```", (PAGES / "python.md").read_text(), re.DOTALL)[1]
    (tmp_path / "numbers_game.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with open_env("numbers_game:Numbers") as env:
        ids = [task["id"] for split in env.splits() for task in env.tasks(split)]
        assert len(ids) == len(set(ids)) == 190
        for task in env.tasks("test"):
            observation = env.reset(task)
            for _ in range(env.max_steps):
                assert env.expert() in env.admissible()
                fork = env.fork()
                observation = env.step(env.expert())
                assert fork.step(fork.expert()) == observation
                if observation.done:
                    break
            assert observation.success and not env.step("square it").valid


def test_the_class_in_the_docs_is_found_in_the_working_directory(tmp_path):
    """The installed command finds it, which unlike `python -m` does not search there by itself; so do its workers."""
    source = re.findall(r"```python\n(.*?)```", (PAGES / "python.md").read_text(), re.DOTALL)[1]
    (tmp_path / "numbers_game.py").write_text(source)
    (tmp_path / "orjson.py").write_text("raise ImportError('not the library')\n")
    eexp = [Path(sys.executable).with_name("eexp")]
    if not eexp[0].exists():
        pytest.skip("needs the installed command")
    here = {"cwd": tmp_path, "env": {**environment(), "PYTHONPATH": str(ROOT)}, "capture_output": True, "timeout": 60}
    recorded = subprocess.run([*eexp, "expert", "numbers_game:Numbers", "-n", "1"], check=True, **here)
    played = subprocess.run(
        [*eexp, "rollout", "-j", "1", "--env", "numbers_game:Numbers"], input=recorded.stdout, **here
    )
    assert played.stdout and not played.returncode, played.stderr
    (tmp_path / "elsewhere").mkdir()
    lost = subprocess.run([*eexp, "env", "show", "numbers_game:Numbers"], **{**here, "cwd": tmp_path / "elsewhere"})
    assert b"cannot be loaded: No module named 'numbers_game'" in lost.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_thing", "cannot be loaded: No module named 'no_such_thing'"),
        ("class Game(:", r"cannot be loaded: SyntaxError: .*game_with_a_fault.py, line 1"),
        ("a = 1\nb = a.c", "cannot be loaded: AttributeError: 'int' object has no attribute 'c'"),
        ("a = 1", "has no 'Game'"),
    ],
)
def test_a_fault_in_a_user_s_module_is_one_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "game_with_a_fault", raising=False)
    (tmp_path / "game_with_a_fault.py").write_text(source + "\n")
    with pytest.raises(EexpError, match=message) as e:
        open_env("game_with_a_fault:Game")
    assert "\n" not in str(e.value)


# -- broken programs -------------------------------------------------------------------------------------------------

FAILURES = {
    "exit 3": r"step: ended with exit status 3",
    "exit 0": r"step: ended with exit status 0",
    "signal 9": r"step: killed by signal 9 \(SIGKILL\)",
    "hang": r"step: no answer within 2 s \(EEXP_ENV_TIMEOUT\)",
    "trickle": r"step: no answer within 2 s",
    "flood": r"step: more than 1 MiB without a line end",
    "close-output": r"step: (closed its standard output|no answer)",
    "twice": r"step: a line that nothing asked for: .*\"2\"",
    "stray": r"step: a line that nothing asked for: 'debug: a step'; standard output is for answers alone",
    "print hello": r"answer to step: not JSON: 'hello'",
    "print": r"answer to step: not JSON: ''",
    "print " + "{" * 3000: r"answer to step: not JSON: '\{{80}'\.\.\.",
    "bytes": r"answer to step: not JSON",
    "print [1]": r"answer to step: expected an object, got '\[1\]'",
    "print {}": r"answer to step: \$\.observation: missing",
    'print {"observation":null}': r"answer to step: \$\.observation: expected a string, got null",
    'print {"observation":"","done":1}': r"answer to step: \$\.done: expected true or false, got an integer",
    'print {"observation":"","score":1.5}': r"answer to step: \$\.score: expected a number <= 1",
    'print {"observation":"","score":NaN}': r"answer to step: not JSON",
    'print {"observation":"","admissible":["a",2]}': r"answer to step: \$\.admissible\[1\]: expected a string",
}


@pytest.mark.parametrize("action", FAILURES, ids=lambda action: action[:30])
def test_a_broken_answer_costs_one_episode(broken, action):
    task = next(broken.tasks("train"))
    assert broken.reset(task).text == "start train/0"
    pid = broken._child.pid
    began = time.monotonic()
    with pytest.raises(EnvironmentFailed, match=FAILURES[action]) as caught:
        broken.step(action)
    assert time.monotonic() - began < 15
    assert str(caught.value).startswith(broken.spec) and "\n" not in str(caught.value)
    assert gone(pid)
    with pytest.raises(EnvironmentFailed, match="step: the program is not running"):
        broken.step("look")
    assert broken.reset(task).text == "start train/0"
    assert broken.step("look").text == "look"


def test_a_broken_answer_is_kept_as_evidence(broken):
    broken.reset({"id": "0"})
    with pytest.raises(EnvironmentFailed) as caught:
        broken.step('print {"observation":7}')
    assert caught.value.evidence == {"answer": '{"observation":7}'}


def test_an_extra_line_is_not_taken_for_the_next_answer(broken):
    broken.reset({"id": "0"})
    assert broken.step("late").text == "1"
    time.sleep(0.4)
    with pytest.raises(EnvironmentFailed, match="a line that nothing asked for"):
        broken.step("look")


def test_an_error_answer_leaves_the_program_running(broken):
    broken.reset({"id": "0"})
    pid = broken._child.pid
    with pytest.raises(EnvironmentFailed, match=r"step: no such thing$"):
        broken.step('print {"error":"no such\\nthing"}')
    assert broken.step("look").text == "look"
    assert broken._child.pid == pid


def test_the_children_of_a_hanging_program_are_killed(capfd, broken):
    broken.close()  # the next one writes to the standard error that is captured
    broken.reset({"id": "0"})
    with pytest.raises(EnvironmentFailed, match="no answer"):
        broken.step("hang-with-child")
    assert gone(int(capfd.readouterr().err))


@pytest.mark.parametrize("action", ["x" * 3_000_000, '日本 "quoted" \\ \n\t \u2028', "a lone \ud800 surrogate"])
def test_any_text_can_be_sent(broken, action, monkeypatch):
    monkeypatch.setattr(process, "MAX_LINE", 16 << 20)
    broken._limit = 10
    broken.reset({"id": "0"})
    if "\ud800" in action:  # it arrives, but cannot be sent back as text
        with pytest.raises(EnvironmentFailed, match="not JSON"):
            broken.step(action)
    else:
        assert broken.step(action).text == action


def test_masks(broken):
    assert broken.mask("It is 21 degrees in room 3.") == "It is * in room 3."


def test_standard_output_is_untouched_and_standard_error_passes_through(capfd, broken):
    broken.close()
    broken.reset({"id": "0"})
    broken.close()
    assert tuple(capfd.readouterr()) == ("", "closing\n")


# -- starting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exec:./no-such", "exec:./no-such: cannot start './no-such': No such file or directory"),
        (f"exec:{ROOT}/pyproject.toml", "Permission denied"),
        ("exec:", "names no command"),
        ("exec:sh 'unclosed", "No closing quotation"),
    ],
)
def test_a_program_that_cannot_be_started(spec, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        open_env(spec)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("true", "hello: ended with exit status 0"),
        ("cat", r"answer to hello: \$.splits: missing"),
        (
            """sh -c 'read x; echo "$0"' '{"protocol":2,"splits":["a"]}'""",
            r"answer to hello: \$.protocol: 2; this eexp speaks 1",
        ),
        ("""sh -c 'read x; echo "$0"' '{"protocol":1,"splits":[]}'""", r"answer to hello: \$.splits: expected"),
        (
            """sh -c 'read x; echo "$0"' '{"protocol":1,"splits":["a"],"masks":["("]}'""",
            r"answer to hello: \$.masks: '\(' is no regular",
        ),
        (
            """sh -c 'read x; echo "$0"' '{"protocol":1,"splits":["a"],"max_steps":0}'""",
            r"answer to hello: \$.max_steps: expected",
        ),
    ],
)
def test_a_program_that_does_not_speak_the_protocol(command, message):
    with pytest.raises(EexpError, match=message) as caught:
        open_env(f"exec:{command}")
    assert not isinstance(caught.value, EnvironmentFailed), "there is no record to set aside"


@pytest.mark.parametrize("limit", ["soon", "0", "-1", "nan"])
def test_the_time_limit_is_a_number_of_seconds(monkeypatch, limit):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", limit)
    with pytest.raises(UsageError, match="EEXP_ENV_TIMEOUT: expected a number of seconds above 0"):
        open_env(SAFE)


def test_tasks_may_be_listed_or_counted(tmp_path):
    source = """
import sys
for line, answer in zip(sys.stdin, ['{"protocol":1,"splits":["a","b"]}', '{"tasks":2}', '{"tasks":[{"id":"x","n":1}]}',
                                    '{"tasks":[{"id":"x"},{"id":7}]}']):
    print(answer, flush=True)
"""
    with open_env(program_spec(tmp_path, source)) as env:
        assert list(env.tasks("a")) == [{"id": "a/0", "split": "a"}, {"id": "a/1", "split": "a"}]
        assert list(env.tasks("b")) == [{"id": "x", "split": "b", "n": 1}]
        with pytest.raises(EnvironmentFailed, match=r"answer to tasks: \$.tasks\[1\].id: expected a string"):
            list(env.tasks("b"))


def test_a_program_is_not_asked_for_abilities_it_lacks(tmp_path):
    source = """
import sys
for line in sys.stdin:
    print('{"protocol":1,"splits":["a"]}' if "hello" in line else '{"observation":"","admissible":["x"]}'
          if "reset" in line else '{"observation":""}' if "step" in line else '{"error":"what?"}', flush=True)
"""
    with open_env(program_spec(tmp_path, source)) as env:
        env.reset({"id": "0"})
        assert env.expert() is None and env.admissible() == ["x"]
        env.step("x")
        assert env.admissible() is None and env.max_steps == 50


# -- ending ----------------------------------------------------------------------------------------------------------


def test_close_ends_the_program_and_reset_starts_another(broken):
    broken.reset({"id": "0"})
    pid = broken._child.pid
    broken.close()
    broken.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert broken.reset({"id": "0"}).text == "start 0"


def test_a_program_that_ignores_close_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(program_module, "GRACE", 0.2)
    source = 'import time; input(); print(\'{"protocol":1,"splits":["a"]}\', flush=True); time.sleep(600)'
    env = open_env(program_spec(tmp_path, source))
    pid = env._child.pid
    env.close()
    assert gone(pid, 0.1)


HOLDER = """
import os, signal, sys
from eexp.envs import open_env
env = open_env(sys.argv[1])
print(env._child.pid, flush=True)
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    "ending",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "sys.exit()",
        "del env",
        # A fork that lives on must not keep the program alive with its copies of the pipes.
        "os.fork() and os.kill(os.getpid(), signal.SIGKILL); signal.alarm(20); signal.pause()",
    ],
)
def test_no_program_is_left_behind(ending):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, SAFE, ending], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    pid = int(holder.stdout.readline())
    holder.wait(timeout=20)
    assert gone(pid)


def test_a_fork_has_a_program_of_its_own(broken):
    broken.reset({"id": "0"})
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(EnvironmentFailed, match="not running"):
                broken.step("look")
            assert broken.reset({"id": "1"}).text == "start 1"
            broken.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert broken.step("look").text == "look"


def test_ctrl_c_does_not_reach_the_program():
    with open_env(SAFE) as env:
        assert os.getpgid(env._child.pid) != os.getpgid(0)


def test_the_pipe_of_the_examples_runs(tmp_path):
    eexp = f"{sys.executable} -m eexp"
    pipe = f"""set -e
        {eexp} expert '{SAFE}' -n 2 --split train > expert.jsonl
        {eexp} branch -k 3 --from admissible < expert.jsonl | {eexp} rollout --env '{SAFE}' > rollout.jsonl
        {eexp} world-model-data < rollout.jsonl > world-model.jsonl"""
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", pipe], cwd=tmp_path, check=True, timeout=120, env=here)
    first = json.loads((tmp_path / "rollout.jsonl").read_text().splitlines()[0])
    assert first["env"] == SAFE and first["outcome"]["success"] is True
    outcomes = [a["outcome"] for step in first["steps"] for a in step["alternatives"]]
    assert len(outcomes) == 3 * len(first["steps"]) and all(outcome["observation"] for outcome in outcomes)
    assert len((tmp_path / "world-model.jsonl").read_text().splitlines()) > 10

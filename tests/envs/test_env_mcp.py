"""`mcp:COMMAND`: calls of tools, tasks and what counts as success, states in files, and servers that break."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from leftovers import MARK, marked, none_left
from running import environment, run

from eexp.envs import open_env
from eexp.envs.bridges.mcp_tasks import normalised_answer
from eexp.envs.bridges.mcp_tools import name_in_calls, read_tools
from eexp.envs.check import FAILED, Checker
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.prompts.calls import parse_done

pytestmark = pytest.mark.skipif(not find_spec("mcp"), reason="needs the package mcp")

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).parents[1] / "mcp_server.py"
EXAMPLES = ROOT / "examples"
TASKS = [
    {
        "id": "put",
        "kind": "change",
        "instruction": "Put b under a.",
        "files": {"texts.json": '{"x": "1"}'},
        "success": {"files": {"texts.json": '{"a": "b", "x": "1"}', "other.txt": None}},
        "expert": ["get(key='x')", "put(key='a', text='b')"],
    },
    {"id": "ask", "instruction": "What is x?", "success": {"answer": ["1", "one"]}, "expert": ["done: one"]},
    {"id": "judge", "instruction": "?", "split": "test", "success": {"command": "grep -q yes {dir}/said"}},
    {"id": "free", "instruction": "Do what you like."},
]


def write_tasks(directory: Path, tasks: list[dict]) -> Path:
    path = directory / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def spec_of(directory: Path, when: str = "ALWAYS", options: str = "", tasks: list[dict] = TASKS) -> str:
    path = write_tasks(directory, tasks)
    return f"mcp:{sys.executable} -I -S {SERVER} {when} {{dir}}/texts.json?tasks={path}{options}"


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "60")
    with open_env(spec_of(tmp_path, options="&state=stateless")) as env:
        yield env


def begin(env, name: str = "put"):
    return env.reset(env.task_named(name))


# -- calls -----------------------------------------------------------------------------------------------------------


def test_tools_are_listed_as_functions_and_in_the_instruction(env):
    observation = begin(env)
    functions = {tool["function"]["name"]: tool["function"] for tool in observation.tools}
    assert len(functions) == 13 and functions["put"]["description"] == "Do put. And more."
    assert functions["put"]["parameters"]["required"] == ["key", "text"]
    assert functions["get_sum"]["parameters"]["properties"]["from_"] == {"type": "integer"}
    lines = env.instruction().split("\n")
    assert lines[0] == "Put b under a." and "See /workspace/texts.json." in lines
    assert "get_sum(from_: integer, to: integer = 1): Do get-sum" in lines
    assert env.step("get_sum(from_=2, to=3)").text == "5"


def test_calls_that_make_no_sense_are_answered(env):
    begin(env)
    for action, words in {
        "fly": "not a function call",
        "fly(high=True)": "There is no tool 'fly'; there are: put, get, get_sum",
        "get('x')": "Arguments are given by name: get(key=...)",
        "get(name='x')": "get has no parameter 'name': get(key=...)",
        "get(key={'x'})": "values of JSON",
        "get(key=1e999)": "values of JSON",
        "get(key='\\ud800')": "values of JSON",
        "get(key='unknown')": "no such text",
        "refuse()": "Refused.",
        "fail()": "It failed.",
    }.items():
        observation = env.step(action)
        assert words in observation.text and not observation.valid and not observation.done, action
    assert env.step("put(key='a', text='b')").valid


def test_a_call_is_larger_than_a_pipe(env):
    """The server reads it in parts, and the rest of it waits."""
    begin(env)
    text = "abcdefgh" * 40_000
    assert env.step(f"put(key='large', text='{text}')").valid
    assert env.step("get(key='large')").text == text


def test_what_is_no_text_is_named(env):
    begin(env)
    named = "Look:\n[image: image/png, 3 bytes]\n[resource: file:///a, text/plain]\n[resource: file:///b]"
    assert env.step("kinds()").text == named


def test_the_directory_has_one_name_in_every_process(env):
    begin(env)
    assert env.step("where()").text == "/workspace/a, /workspace/texts.json"
    env.step("put(key='/workspace/k', text='in /workspace, not in my/workspace')")
    assert env.step("get(key='/workspace/k')").text == "in /workspace, not in my/workspace"
    stored = (env._directory / "texts.json").read_text()
    assert f'"{env._directory}/k"' in stored and "my/workspace" in stored


def test_times_and_what_the_mask_names_are_masked(tmp_path):
    with open_env(spec_of(tmp_path, options=r"&state=stateless&mask=\d+\.\d+")) as env:
        begin(env)
        first, second = env.step("time()").text, env.step("time()").text
        assert first != second and env.mask(first) == env.mask(second)
    assert env.mask("created: Mon Nov 23 2026 05:36:47 GMT+0000 (Coordinated Universal Time)") == "created: *"


def test_done_is_read_with_the_words_after_it():
    texts = ("done", "Done.", "done()", "done: a: b", "done()!\nall", "done, I think", "done it", "undone", "done(1)")
    assert [parse_done(text) for text in texts] == ["", "", "", "a: b", "all", "I think", None, None, None]


def test_names_that_are_no_identifiers_get_one():
    assert [name_in_calls(name) for name in ("get-sum", "from", "2d", "a.b")] == ["get_sum", "from_", "_2d", "a_b"]
    with pytest.raises(ValueError, match=r"two of its tools are 'a_b' in a call: 'a-b' and 'a.b'"):
        read_tools([{"name": "a-b"}, {"name": "a.b"}])


def test_parameters_are_described_by_their_schemas():
    point = {"type": "object", "properties": {"x": {"type": "number"}}}
    schema = {
        "$defs": {"Point": point},
        "properties": {
            "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
            "mode": {"enum": ["a", 2]},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "description": "At most."},
            "any": {},
        },
        "required": ["points"],
    }
    tool = read_tools([{"name": "draw", "description": "Draw, e.g. a line. Slow.", "inputSchema": schema}])["draw"]
    parameters = (
        "points: array of {x: number}, mode: 'a' | 2 (optional), limit: integer | null = None, any: any (optional)"
    )
    assert tool.described(full=False) == f"draw({parameters}): Draw, e.g. a line"
    assert tool.described(full=True) == f"draw({parameters}): Draw, e.g. a line. Slow.\n  limit: At most."


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_have_splits_kinds_and_checksums(env, tmp_path):
    assert env.splits() == ["train", "test"]
    put, *others = env.tasks("train")
    assert [task["id"] for task in others] == ["ask", "free"] and env.kind_of(put) == "change"
    assert put.keys() == {"id", "split", "kind", "checksum"}
    with pytest.raises(InputError, match="another task of this id"):
        env.reset({**put, "checksum": "0"})
    with pytest.raises(InputError, match="has no task 'nothing'"):
        env.reset({"id": "nothing"})


@pytest.mark.parametrize(
    ("task", "actions", "success"),
    [
        ("put", ["put(key='a', text='b')", "done"], True),
        ("put", ["put(key='a', text='c')", "done"], False),
        ("put", ["done"], False),
        ("ask", ["done: One."], True),
        ("ask", ["done: two"], False),
        ("ask", ["done"], False),
        ("judge", ["done: yes"], False),
        ("free", ["done"], None),
    ],
)
def test_success_is_what_the_task_says(env, task, actions, success):
    begin(env, task)
    *_, end = [env.step(action) for action in actions]
    assert end.done and end.success is success and end.score == (None if success is None else float(success))
    after = env.step("done")
    assert not after.valid and after.done and after.success is success


def test_a_command_judges_with_the_episode_on_its_standard_input(tmp_path):
    judge = "import json, sys; e = json.load(sys.stdin); print('shown'); sys.exit(e != {'task': 'j', 'answer': 'a b'})"
    task = {"id": "j", "instruction": "?", "success": {"command": f'{sys.executable} -c "{judge}"'}}
    missing = {"id": "m", "instruction": "?", "success": {"command": "no-such-program"}}
    with open_env(spec_of(tmp_path, options="&state=stateless", tasks=[task, missing])) as env:
        for words, success in (("a b", True), ("b", False)):
            begin(env, "j")
            assert env.step(f"done: {words}").success is success
        begin(env, "m")
        with pytest.raises(EnvironmentFailed, match="success of task 'm': cannot run 'no-such-program'"):
            env.step("done")


def test_answers_are_compared_without_case_blanks_and_punctuation():
    assert normalised_answer(" The  Answer: '42.' ") == "the answer: '42"
    assert normalised_answer('"42".') == "42" != normalised_answer("-42")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"}', r"tasks.jsonl:1: \$.instruction: missing"),
        ('{"id": "a", "instruction": "", "sucess": {}}', "tasks.jsonl:1: .*sucess"),
        (
            '{"id": "a", "instruction": "", "files": {"../a": ""}}',
            r"\$.files: .* relative to the directory, got '../a'",
        ),
        ('{"id": "a", "instruction": "", "success": {"files": {"/a": ""}}}', r"\$.success.files: .*'/a'"),
        ('{"id": "a", "instruction": "", "success": {"command": ""}}', r"\$.success.command: names no program"),
        ('{"id": "a", "instruction": "", "expert": ["done", "f()"]}', r"\$.expert\[0\]: expected a call"),
        ('{"id": "a", "instruction": ""}\n{"id": "a", "instruction": ""}', r"tasks.jsonl:2: \$.id: another task"),
        ("", "no task"),
    ],
)
def test_a_fault_in_the_tasks_is_named_with_its_place(tmp_path, line, message):
    path = tmp_path / "tasks.jsonl"
    path.write_text(line)
    with pytest.raises(EexpError, match=message):
        open_env(f"mcp:cat?tasks={path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mcp:?tasks=T", "names no command"),
        ("mcp:cat 'a?tasks=T", "No closing quotation"),
        ("mcp:cat", "name a file of tasks"),
        ("mcp:cat?tasks=missing", r"\?tasks=missing: no such file"),
        ("mcp:cat?tasks=T&files=missing", "no such directory"),
        ("mcp:no-such-program?tasks=T", "cannot start 'no-such-program'"),
        ("mcp:cat?tasks=T&state=disk", "expected server or files or stateless"),
        ("mcp:cat?tasks=T&mask=(", "no regular expression"),
        ("mcp:cat?tasks=T&colour=red", "has no option 'colour'; it has: tasks, files, state, tools, mask, max_steps"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(tmp_path, spec, message):
    with pytest.raises(UsageError, match=message):
        open_env(spec.replace("tasks=T", f"tasks={write_tasks(tmp_path, TASKS)}"))


def test_a_record_alone_may_not_start_a_server():
    record = {
        "type": "trajectory",
        "id": "a",
        "env": "mcp:touch x",
        "task": {"id": "a"},
        "instruction": "",
        "steps": [],
    }
    run("rollout", stdin=json.dumps(record).encode()).one_error(3, "runs code of yours or asks a server")


# -- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "state", "forks"),
    [
        ("ALWAYS", "stateless", "state: "),
        ("START", "files", "state: "),
        ("MEMORY", "server", "cannot be forked (the serv"),
    ],
)
def test_the_contract_is_kept(tmp_path, monkeypatch, when, state, forks):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "60")
    template = tmp_path / "template"
    template.mkdir()
    (template / "kept.txt").write_text("1")
    calls = ["put(key='a', text='b')", "get(key='a')", "done: b"]
    task = {"id": "a", "instruction": "?", "success": {"answer": "b", "files": {"kept.txt": "1"}}, "expert": calls}
    spec = spec_of(tmp_path, when, f"&state={state}&files={template}", [task])
    actions = ("get(key='x')", "put(key='a', text='c')")
    findings = list(Checker(lambda: open_env(spec), tasks=1, limit=60, actions=actions).findings())
    assert not [f for f in findings if f.verdict == FAILED], findings
    assert next(f.detail for f in findings if f.check == "forks").startswith(forks)


def test_the_check_finds_a_server_that_does_not_keep_its_state_where_it_was_said(tmp_path):
    task = {"id": "a", "instruction": "?", "expert": ["get(key='a')", "put(key='a', text='b')"]}
    spec = spec_of(tmp_path, "START", "&state=stateless", [task])
    findings = list(Checker(lambda: open_env(spec), tasks=1, limit=60).findings())
    assert "repeats" in [f.check for f in findings if f.verdict == FAILED]


def test_a_state_of_another_episode_is_not_restored(env):
    begin(env)
    state = env.save()
    begin(env)
    with pytest.raises(EnvironmentFailed, match="the state belongs to an episode that is over"):
        env.restore(state)


def test_the_expert_goes_on_after_reading_and_after_refusals_alone(env):
    begin(env)
    assert env.expert() == "get(key='x')" and not env.harmless("get(key='x')") and env.harmless("get(key='y')")
    for action in ("get(key='y')", "where()", "fail()", "get( key = 'x' )"):
        env.step(action)
    assert env.expert() == "put(key='a', text='b')"
    state = env.save()
    env.step("put(key='a', text='c')")
    assert env.expert() is None
    env.restore(state)
    env.step("put(key='a', text='b')")
    assert env.expert() == "done" and env.step("done").success and env.expert() is None


# -- servers that break ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("die(status=3)", "step: ended with exit status 3; the last line of its standard error: last words"),
        ("die(status=0)", "step: ended with exit status 0"),
        ("hang()", r"step: no answer within 3 s \(EEXP_ENV_TIMEOUT\)"),
        ("junk()", "step: a line on its standard output that is no message: 'Hello from a library'"),
        ("flood()", "step: more than 16 MiB without a line end"),
        ("loose()", "step: an answer that the protocol does not allow: content"),
    ],
)
def test_a_server_that_breaks_costs_the_episode(tmp_path, monkeypatch, action, message):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "60")
    mark = f"mcp-{tmp_path.name}"
    monkeypatch.setenv(MARK, mark)
    with open_env(spec_of(tmp_path, options="&state=stateless")) as env:
        begin(env)
        if action == "hang()":
            env._session._limit = 3
        with pytest.raises(EnvironmentFailed, match=message) as caught:
            env.step(action)
        assert "\n" not in str(caught.value)
        with pytest.raises(EnvironmentFailed, match="the server is not running; `reset` starts it"):
            env.step("where()")
        assert begin(env).valid and env.step("get(key='x')").text == "1"
        root = env._root
    assert none_left(mark) and not root.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("echo hello", "start: a line on its standard output"),
        ("sh -c 'echo why >&2; exit 4'", "exit status 4; .*: why"),
    ],
)
def test_a_program_that_is_no_server_is_named(tmp_path, program, message):
    spec = f"mcp:{program}?tasks={write_tasks(tmp_path, TASKS)}"
    with open_env(spec) as env, pytest.raises(EnvironmentFailed, match=message):
        begin(env)


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path):
    mark = f"mcp-killed-{tmp_path.name}"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        f"from eexp.envs import open_env; env = open_env({spec_of(tmp_path)!r}); env.reset(env.task_named('put')); "
        "print(1, flush=True); env.step('hang()')"
    )
    variables = environment(TMPDIR=str(scratch), **{MARK: mark})
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=variables)
    assert process.stdout.readline() == b"1\n"
    assert len(marked(mark)) >= 4 and list(scratch.iterdir())
    process.kill()
    process.wait()
    process.stdout.close()
    assert none_left(mark) and not list(scratch.iterdir())


# -- through the stages ----------------------------------------------------------------------------------------------


def test_demonstrations_become_examples(tmp_path):
    spec = spec_of(tmp_path, options="&state=stateless")
    expert = run("expert", spec, "-n", 2).ok().records
    assert [(record["task"]["id"], record["outcome"]["success"]) for record in expert] == [("put", True), ("ask", True)]
    others = [{"action": action, "source": "policy", "outcome": None} for action in ("get(key='x')", "fail()")]
    for record in expert:
        for step in record["steps"]:
            step["alternatives"] = others
    lines = "".join(json.dumps(record) + "\n" for record in expert).encode()
    rolled = run("rollout", "--env", spec, "-j", 1, stdin=lines).ok()
    assert "4 branch points verified" in rolled.err and "alternatives executed by state" in rolled.err
    outcomes = [a["outcome"]["valid"] for record in rolled.records for s in record["steps"] for a in s["alternatives"]]
    assert outcomes == [True, False] * 3 + [False, False]
    assert run("world-model-data", stdin=rolled.out).ok().records


@pytest.mark.slow
def test_the_example_server_and_its_tasks(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "120")
    server = f"{sys.executable} {EXAMPLES / 'mcp_lists.py'} {{dir}}/lists.json"
    spec = f"mcp:{server}?tasks={EXAMPLES / 'mcp_lists.jsonl'}&state=stateless"
    with open_env(spec) as env:
        for split in env.splits():
            for task in env.tasks(split):
                observation = env.reset(task)
                while not observation.done:
                    assert observation.valid
                    observation = env.step(env.expert())
                assert observation.success
        begin(env, "train/put")
        assert "there is no list 'none'" in env.step("show(name='none')").text
        assert not env.step("put(name='market', thing=3)").valid


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mcp-server-filesystem"), reason="needs mcp-server-filesystem on the PATH")
def test_the_tasks_for_the_filesystem_server(monkeypatch):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "120")
    spec = f"mcp:mcp-server-filesystem {{dir}}?tasks={EXAMPLES / 'mcp_files.jsonl'}&state=stateless"
    with open_env(spec) as env:
        tasks = [task for split in env.splits() for task in env.tasks(split)]
        assert len(tasks) == 12
        for task in tasks:
            observation = env.reset(task)
            while not observation.done:
                observation = env.step(env.expert())
                assert observation.valid, (task, observation)
            assert observation.success, task

"""Wrong input and options: one line with fault and place, the documented exit code, never a traceback."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from running import BARE_PYTHON, EEXP, environment, lines, read, run, spawn, write

from eexp.console.stream import Stream
from eexp.envs import unsafe_in_records
from eexp.records.runs import TINY_DIR

# -- records ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trajectory(data) -> dict:
    return read(data["rollout"])[0]


def _deep(levels: int) -> bytes:
    return b'{"type": "trajectory", "x": ' + b"[" * levels + b"]" * levels + b"}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"type": "trajectory", "id": "\xff\xfe"}', "<stdin>:1: not UTF-8 text: byte 0xff at column 31"),
        (b"\xef\xbb\xbf{}", '<stdin>:1: $.type: expected "trajectory", got nothing'),
        (b"\x00\x00", "<stdin>:1: not valid JSON"),
        (b'{"type": "trajectory", "id": "\\ud800"}', "<stdin>:1: not valid JSON"),
        (b'{"type": "trajectory", "id": NaN}', "<stdin>:1: not valid JSON"),
        (b'{"type": "trajectory", "id": Infinity}', "<stdin>:1: not valid JSON"),
        (b'{"type": "trajectory", "id": 1}', "<stdin>:1: $.id: expected a string, got an integer"),
        (_deep(5000), "<stdin>:1: not valid JSON"),
        (_deep(245), "<stdin>:1: $.id: missing"),
        (_deep(246), "<stdin>:1: nested more than 246 levels deep"),
        (_deep(900), "<stdin>:1: nested more than 246 levels deep"),
        (b'{"type": []}', '<stdin>:1: $.type: expected "trajectory", got []'),
        (
            b'{"type": "trajectory", "x": 18446744073709551616}',
            "<stdin>:1: the integer 18446744073709551616 at column 29",
        ),
        (b'{"type": "trajectory", "x": [-9223372036854775809]}', "<stdin>:1: the integer -9223372036854775809 at"),
        (b'{"type": "trajectory"', "(the file ends within this line)"),
        (b'{"type": "trajectory"} {"type": "trajectory"}', "<stdin>:1: not valid JSON"),
    ],
)
def test_lines_that_are_no_records(line, message):
    run("imitation-data", stdin=line).one_error(3, message)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (gzip.compress, "is compressed by gzip; give its text: zcat {} | eexp ..."),
        (bz2.compress, "is compressed by bzip2; give its text: bzcat {} |"),
        (lzma.compress, "is compressed by xz; give its text: xzcat {} |"),
        (
            lambda text: text.decode().encode("utf-16"),
            "is text in UTF-16; give its text: iconv -f UTF-16 -t UTF-8 {} |",
        ),
        (lambda text: text.decode().encode("utf-16-be"), "is text in UTF-16; give its text: iconv -f UTF-16BE"),
    ],
)
def test_files_that_are_no_text_in_utf8(encode, message, data, tmp_path):
    """One sentence about the file instead of one about each of its lines, whatever is to happen with bad records."""
    file = tmp_path / "it's.jsonl"
    file.write_bytes(encode(data["imitation"].read_bytes()))
    quoted = message.format(shlex.quote(str(file)))
    for command in (["mix"], ["score"], ["import", "messages"], ["show"], ["split", "--part", 1, "--on-error", "skip"]):
        run(*command, file).one_error(3, quoted)
    run("show", stdin=file.read_bytes()).one_error(3, message.format("FILE"))
    run("merge", file, "-o", tmp_path / "out").one_error(3, quoted.partition(" |")[0])  # it reads no pipe


def test_a_byte_order_mark_is_no_fault(data):
    plain = data["imitation"].read_bytes()
    with_mark = b"\xef\xbb\xbf" + plain
    assert run("imitation-data", stdin=b"\xef\xbb\xbf" + data["expert"].read_bytes()).ok().out == plain
    assert run("mix", stdin=with_mark).ok().out == run("mix", stdin=plain).ok().out
    assert len(run("import", "messages", stdin=b"\xef\xbb\xbf[]").ok().records) == 0


@pytest.mark.parametrize("rejects", [False, True])
def test_many_bad_records_take_a_few_lines(rejects, data, tmp_path):
    """225,000 of them took as many lines; -q leaves out what goes well, and -v leaves out nothing."""
    bad = b"".join(b"{%d\n" % i for i in range(1000)) + data["expert"].read_bytes()
    file, options = tmp_path / "rejects", ["--on-error", "skip"]
    if rejects:
        options = ["--rejects", file]
    in_all = f"set aside: 980 more, all of them in {file}" if rejects else "; --rejects FILE keeps them"
    usual, quiet, verbose = (
        run("imitation-data", *options, *more, stdin=bad).ok(4).err.splitlines() for more in ([], ["-q"], ["-v"])
    )
    assert len(usual) == 23 and usual[:22] == quiet and "<stdin>:20: " in usual[19]
    assert "-v shows them" in usual[20] and in_all in usual[21] and "1000 set aside" in usual[22]
    assert len(verbose) == 1001 and "<stdin>:1000: " in verbose[-2]
    assert not rejects or len(file.read_bytes().splitlines()) == 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "$.steps: expected an array, got null"),
        ({"steps": [None]}, "$.steps[0]: expected an object, got null"),
        ({"steps": [{"action": "look"}]}, "$.steps[0].observation: missing"),
        ({"steps": [{"observation": "", "action": "a", "admissible": [1]}]}, "$.steps[0].admissible[0]: expected"),
        ({"steps": [{"observation": "", "action": "a", "alternatives": [{}]}]}, "$.steps[0].alternatives[0].action"),
        ({"task": "12"}, "$.task: expected an object, got a string"),
        ({"instruction": 1.5}, "$.instruction: expected a string, got a number"),
        ({"outcome": {"observation": True}}, "$.outcome.observation: expected a string, got true or false"),
        ({"lineage": "expert"}, "$.lineage: expected an array, got a string"),
        ({"type": "Trajectory"}, "$.type: expected \"trajectory\", got 'Trajectory'"),
        (
            {"type": "episode"},
            "$.type: expected a record of type trajectory, got one of type episode: make trajectories of episodes with",
        ),
        (
            {"type": None, "messages": []},
            '$.type: expected "trajectory", got nothing: chats are imported with `eexp imp',
        ),
        (
            {"type": None, "conversations": []},
            '$.type: expected "trajectory", got nothing: conversations are imported with `eexp import agenttraj`',
        ),
    ],
)
@pytest.mark.parametrize("stage", ["rollout", "reflect"])
def test_fields_that_are_wrong(stage, change, message, trajectory, tmp_path):
    file = write(tmp_path / "in.jsonl", [trajectory, {**trajectory, **change}])
    args = ["--rationale", "outcome"] if stage == "reflect" else []
    run(stage, *args, file).one_error(3, f"{file}:2: {message}")


def test_huge_numbers_do_no_harm(trajectory):
    text = json.dumps({**trajectory, "huge": 0, "far": 0})
    text = text.replace('"huge": 0', '"huge": 1e300').replace('"far": 0', '"far": 18446744073709551615')
    (record,) = run("branch", "--from", "admissible", stdin=text.encode()).ok().records
    assert record["huge"] == 1e300 and record["far"] == 18446744073709551615


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400])
def test_numbers_that_no_float_holds(number, trajectory):
    """Such a number may be refused, but must not silently become null or another number."""
    text = json.dumps({**trajectory, "huge": 0}).replace('"huge": 0', f'"huge": {number}')
    result = run("branch", "--from", "admissible", stdin=text.encode())
    result.one_error(3, "<stdin>:1")


@pytest.mark.parametrize("levels", [260, 400, 1000])
def test_a_record_too_deep_to_write_is_kept_as_text(levels, trajectory, tmp_path):
    """The parser accepts deeper nesting than the writer."""
    text = json.dumps({**trajectory, "deep": 0}).replace('"deep": 0', '"deep": ' + "[" * levels + "]" * levels)
    rejects = tmp_path / "rejects"
    run("branch", "--from", "admissible", "--rejects", rejects, stdin=text.encode()).ok(4)
    assert [(r["line"], r["record"]) for r in read(rejects)] == [(1, {"text": text})]


def test_integers_of_up_to_64_bits_and_long_fractions_pass(trajectory):
    whole = {"most": 2**64 - 1, "least": -(2**63), "text": '1234567890123456789012 "\\" 1234567890123456789012'}
    text = json.dumps({**trajectory, **whole, "part": 0}).replace('"part": 0', '"part": 0.1234567890123456789012')
    (record,) = run("branch", "--from", "admissible", stdin=text.encode()).ok().records
    assert {key: record[key] for key in whole} == whole and record["part"] == 0.1234567890123456789012


def test_a_record_that_python_alone_can_hold_is_kept_in_words(tmp_path):
    """An environment written in Python can put anything into a task."""
    rejects = tmp_path / "rejects"
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(SystemExit), Stream((), str(tmp_path / "out"), rejects=str(rejects)).open("x") as io:
        io.write({"id": "set", "task": {1, 2}})
        io.write({"id": "deep", "task": deep})
        io.write({"id": "good"})
    assert ["'id': 'set'" in r["record"]["text"] for r in read(rejects)] == [True, False]
    assert read(tmp_path / "out")[0]["id"] == "good"


def test_a_type_of_megabytes_is_quoted_in_short():
    line = b'{"type": "%s"}' % (b"x" * 3_000_000)
    assert len(run("imitation-data", stdin=line).one_error(3, "$.type: expected")) < 200
    nested = b'{"type": [%s]}' % (b'"y",' * 500_000 + b"1")
    assert len(run("show", stdin=nested).one_error(3, "$.type: expected")) < 200


@pytest.mark.parametrize("weight", ["1e999", "-1", '"1"', "null", "true"])
def test_weights_that_are_none(weight, data, tmp_path):
    text = data["imitation"].read_text().splitlines()[0].replace('"weight":1.0', f'"weight":{weight}')
    file = tmp_path / "in.jsonl"
    file.write_text(text)
    run("mix", file).one_error(3, f"{file}:1: ")


@pytest.mark.parametrize("mark", ["@x", "@-1", "*-0.5", "@1*", "@nan", "@inf", "*nan", "*inf"])
def test_mix_marks_that_are_none(mark, data):
    result = run("mix", f"{data['imitation']}{mark}")
    if mark != "@1*":
        result.one_error(2, "FILE@SHARE")


# -- files -----------------------------------------------------------------------------------------------------------


def test_files_that_are_not_there(data, tmp_path):
    for args in (["branch", "--from", "admissible"], ["rollout"], ["mix"], ["show"], ["compare"], ["imitation-data"]):
        run(*args, tmp_path / "nothing").one_error(3, f"{tmp_path / 'nothing'}: No such file or directory")
    run("imitation-data", tmp_path).one_error(
        3, f"{tmp_path}: is a directory; give its files, such as {tmp_path}/*.jsonl"
    )
    run("show", data["expert"].parent).one_error(2, "holds no training run")
    run("finetune", "-m", "tiny", "-o", tmp_path / "run", tmp_path / "nothing").one_error(3, "No such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read(data, tmp_path):
    file = tmp_path / "in.jsonl"
    shutil.copy(data["expert"], file)
    file.chmod(0)
    run("imitation-data", file).one_error(3, f"{file}: Permission denied")


def test_files_that_fail_while_being_read(data):
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("no file here that fails")
    run("imitation-data", data["expert"], "/proc/self/mem").one_error(3, "/proc/self/mem: Input/output error")


def test_places_that_cannot_be_written(data, tmp_path):
    missing = tmp_path / "missing" / "out.jsonl"
    run("imitation-data", data["expert"], "-o", missing).one_error(1, f"{missing}: No such file or directory")
    run("imitation-data", data["expert"], "-o", tmp_path).one_error(1, f"{tmp_path}: Is a directory")
    run("imitation-data", data["expert"], "-o", data["expert"] / "x").one_error(1, "Not a directory")
    run("imitation-data", "--rejects", missing, stdin=b"{}\n").one_error(1, f"{missing}: No such file or directory")
    run("eval", "house", "-m", "random", "-n", "1", "-o", missing).one_error(1, str(missing))
    run("export", "tiny", "-o", missing).one_error(1, "missing")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_named(data):
    full = "error: /dev/full: No space left on device"
    run("split", "--part", "1", "--rejects", "/dev/full", stdin=b"{}\n").one_error(1, full)
    run("mix", data["imitation"], "-o", "/dev/full").one_error(1, full)
    run("env", "play", "house", "-o", "/dev/full", stdin=b"look\n").one_error(1, full)
    for args in (["show", data["expert"]], ["compare", "--json", data["episodes"]]):
        with open("/dev/full", "wb") as out:
            process = subprocess.run([*EEXP, *args], stdout=out, stderr=subprocess.PIPE, env=environment())
        assert (process.returncode, process.stderr) == (1, b"error: <stdout>: No space left on device\n")


def test_a_temporary_file_that_cannot_be_written_is_named(data, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    run("mix", stdin=data["imitation"].read_bytes()).one_error(1, "cannot copy standard input to a temporary file")


def test_too_many_open_files_are_no_fault_of_standard_output(monkeypatch, data):
    def fail(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("eexp.examples.parts.split", fail)
    error = run("split", "--part", "1", data["expert"]).one_error(1, "too many open files", "ulimit -n")
    assert "stdout" not in error and "None" not in error


def test_other_files_that_a_command_reads_are_not_overwritten(data, tmp_path):
    """Models, adapters, panels, styles and maps."""
    model, panel, style, names = (tmp_path / name for name in ("m.gguf", "panel.jsonl", "style.toml", "map.json"))
    model.write_bytes(b"GGUF of a user")
    panel.write_bytes(run("panel", "house", "-n", "1").ok().out)
    style.write_bytes(run("prompts", "show", "react").ok().out)
    names.write_text("{}")
    (tmp_path / "hf").mkdir()
    weights = tmp_path / "hf" / "model.safetensors"
    weights.write_bytes(b"weights of a user")
    before = {file: file.read_bytes() for file in (model, panel, style, names, weights)}
    for args, target in (
        (["eval", "house", "-m", model], model),
        (["branch", "-m", f"tiny+{model}", data["expert"]], model),
        (["score", "-m", f"hf:{weights.parent}", data["imitation"]], weights),
        (["eval", "--panel", panel, "-m", "random"], panel),
        (["imitation-data", "--prompt-style", style, data["expert"]], style),
        (["import", "messages", "--env", "house", "--map", names], names),
        (["export", weights.parent], weights),
        (["export", weights.parent], f"{weights.parent}/../hf/model.safetensors"),
    ):
        run(*args, "-o", target).one_error(2, f"{target} is both read and written")
    rejects = ["--rejects", model]
    run("branch", "-m", model, *rejects, data["expert"], "-o", tmp_path / "out").one_error(2, "both read and written")
    assert {file: file.read_bytes() for file in before} == before


# -- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["nothing", "", "house2", "hous"])
def test_environments_that_do_not_exist(env, trajectory, tmp_path):
    file = write(tmp_path / "in.jsonl", [{**trajectory, "env": env}])
    run("rollout", file).one_error(3, f"{file}:1: $.env: unknown environment")
    if env:
        run("rollout", "--env", env, file).one_error(2, f"unknown environment {env!r}")
        run("eval", env, "-m", "random").one_error(2, f"unknown environment {env!r}")
        run("expert", env).one_error(2, f"unknown environment {env!r}")


@pytest.mark.parametrize("env", ["exec:touch PATH", "os:getcwd", "exec:"])
def test_a_record_may_not_start_a_program(env, trajectory, tmp_path):
    """A record may come from anywhere. Only the command line says which program is run."""
    env = env.replace("PATH", str(tmp_path / "ran"))
    run("rollout", stdin=lines([{**trajectory, "env": env}])).one_error(3, "<stdin>:1: $.env: ", "allow it with --env")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("env", "option"),
    [
        ("alfworld?data=PATH", "data"),
        ("alfworld?expert=planner&data=PATH", "data"),
        ("noisy:0.1:alfworld?data=PATH", "data"),
        ("textworld?games=PATH", "games"),
        ("scienceworld?memory=900g", "memory"),
        ("bfcl?code=PATH", "code"),
        ("searchqa?top=5&passages=PATH&questions=PATH", "passages"),
        ("travelplanner?alternatives=5&database=PATH&queries=PATH", "database"),
        ("tau?domain=retail&path=PATH", "path"),
        ("appworld?expert=print&root=PATH", "root"),
        ("appworld?python=PATH", "python"),
        ("tau?user=http://127.0.0.1:9/v1#m", "user"),
        ("textcraft?depth=2&recipes=PATH", "recipes"),
    ],
)
def test_a_record_may_not_choose_a_path(env, option, trajectory, tmp_path):
    """A game is code that is run, so a record may not name its path."""
    env = env.replace("PATH", str(tmp_path))
    refusal = f"sets '{option}', which a record alone may not"
    record = lines([{**trajectory, "env": env}])
    run("rollout", "-j", "1", stdin=record).one_error(3, "$.env: ", refusal, f"allow it with --env {env!r}")
    panel = write(tmp_path / "p", [{"type": "task", "env": env, "split": "test", "task": {"id": "1", "split": "test"}}])
    run("eval", "--panel", panel, "-m", "random").one_error(3, refusal, "allow it by naming it")


@pytest.mark.parametrize(
    "env",
    [
        "babyai?level=GoTo",
        "scienceworld?task=boil&max_steps=5",
        "bfcl?tools=full",
        "tau?domain=airline",
        "house",
        "textcraft?depth=2-3&distractors=0&max_steps=9",
    ],
)
def test_a_record_may_choose_tasks(env):
    assert unsafe_in_records(env) is None


@pytest.mark.parametrize(
    ("env", "code", "message"),
    [
        ("no.such.module:Class", 1, "cannot be loaded"),
        ("nosuchmodule:Class", 1, "No module named 'nosuchmodule', neither installed nor in /"),
        ("running.py:Class", 1, "a module is named without .py: running:Class"),
        ("eexp.envs.worlds.house:Mansion", 2, "has no 'Mansion'"),
        ("house?size=3", 2, "size"),
        ("house?size", 2, "NAME?KEY=VALUE"),
        ("os:sep", 2, "os:sep"),
        ("eexp.errors:EexpError", 2, "eexp.errors:EexpError"),
        ("exec:", 2, "names no command"),
        ("exec:/no/such/program", 2, "cannot start"),
        ("exec:'unclosed", 2, "exec:"),
    ],
)
def test_environments_on_the_command_line_that_cannot_be_opened(env, code, message, data):
    run("expert", env, "-n", "1").one_error(code).lower().index(message.lower())
    run("rollout", "--env", env, data["branched"]).one_error(code).lower().index(message.lower())


@pytest.mark.parametrize(
    ("task", "where"),
    [
        ({"id": "train/99999999"}, "$.task.id"),
        ({"id": "train/²"}, "$.task.id"),
        ({"id": "train/-1"}, "$.task.id"),
        ({"id": 7}, "$.task.id"),
        ({}, "$.task.id"),
        ({"id": "train/1", "world": "house-0"}, "$.task.world"),
        ({"id": "train/1", "world": None}, "$.task.world"),
    ],
)
def test_tasks_that_the_environment_does_not_have(task, where, trajectory):
    run("rollout", stdin=lines([{**trajectory, "task": task}])).one_error(3, f"<stdin>:1: {where}")


def test_splits_that_do_not_exist():
    run("expert", "house", "--split", "dev").one_error(2, "house has no split 'dev'", "train, test, ood, play")
    run("eval", "house", "--split", "dev", "-m", "random").one_error(2, "house has no split 'dev'")


PROGRAM = """
import json, os, sys, time
asked = 0
for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "hello":
        answer = {"protocol": 1, "splits": ["train"], "expert": True, "admissible": True}
    elif op == "tasks":
        answer = {"tasks": 2}
    elif op == "reset":
        answer = {"observation": "start", "instruction": "do it"}
    elif op == "admissible":
        answer = {"admissible": ["good", "bad"]}
    elif op == "expert":
        answer = {"action": "good"}
    elif op == "close":
        break
    elif request["action"] == "good":
        answer = {"observation": "done", "done": True, "score": 1.0, "success": True}
    else:
        BAD
        answer = {"observation": "no", "valid": False, "score": 0.0}
    print(json.dumps(answer), flush=True)
"""


def _program(tmp_path: Path, bad: str) -> str:
    file = tmp_path / "world.py"
    file.write_text(PROGRAM.replace("BAD", bad))
    return f"exec:{BARE_PYTHON} {file}"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("time.sleep(600)", "no answer within"),
        ("print('hello there', flush=True); continue", "not JSON"),
        ("print('[1]', flush=True); continue", "expected an object"),
        ("print('{}', flush=True); continue", "$.observation: missing"),
        ("print(json.dumps({'error': 'out of\\nmilk'}), flush=True); continue", "out of milk"),
        ('print(\'{"observation": "\\\\ud800"}\', flush=True); continue', "not JSON"),
    ],
    ids=["dies", "is killed", "hangs", "babbles", "an array", "a missing field", "says no", "a lone surrogate"],
)
def test_a_program_that_fails_costs_one_alternative(bad, message, tmp_path, monkeypatch):
    env = _program(tmp_path, bad)
    # on a busy machine Python alone may take seconds to start; the limit is short only where no answer will come
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "5" if "sleep" in bad else "60")
    expert = run("expert", env).ok()
    assert len(expert.records) == 2
    branched = run("branch", "--from", "admissible", "-k", "1", stdin=expert.out).ok().records
    branched[1]["steps"][0]["alternatives"] = []  # nothing to fail at
    began, rejects = time.monotonic(), tmp_path / "rejects"
    result = run("rollout", "--env", env, "-j", 1, "--rejects", rejects, stdin=lines(branched)).ok(4)
    assert time.monotonic() - began < 60
    assert [r["id"] for r in result.records] == [r["id"] for r in branched]
    (alternative,) = result.records[0]["steps"][0]["alternatives"]
    assert alternative["outcome"] is None and message in alternative["refused"]
    (reject,) = read(rejects)
    assert reject["line"] == 1 and message in reject["error"] and reject["record"]["id"] == branched[0]["id"]


def test_a_program_that_never_answers(tmp_path):
    result = spawn("expert", "exec:sleep 600", env=environment(EEXP_ENV_TIMEOUT="0.5"))
    result.one_error(1, "exec:sleep 600: hello: no answer within 0.5 s")
    spawn("expert", "exec:sleep 600", env=environment(EEXP_ENV_TIMEOUT="soon")).one_error(2, "EEXP_ENV_TIMEOUT")
    spawn("expert", "exec:true", env=environment(EEXP_ENV_TIMEOUT="5")).one_error(1, "exec:true: hello: ")


def test_an_environment_without_an_expert(tmp_path):
    env = _program(tmp_path, "pass").replace("world.py", "silent.py")
    (tmp_path / "silent.py").write_text((tmp_path / "world.py").read_text().replace('"expert": True, ', ""))
    run("expert", env).one_error(2, f"{env} has no expert: record demonstrations with `eexp env play", "eexp import")
    run("eval", env, "--split", "train", "-m", "expert").one_error(3, "expert has no action here")


def test_an_environment_without_admissible_actions(data):
    records = [{**t, "steps": [{**s, "admissible": None} for s in t["steps"]]} for t in read(data["expert"])]
    run("branch", "-m", "random", stdin=lines(records)).one_error(3, "<stdin>:1: ", "admissible")
    result = run("branch", "--from", "admissible", stdin=lines(records)).ok()
    assert all(s["alternatives"] == [] for r in result.records for s in r["steps"])
    note = "no state lists admissible actions: nothing was added; give -m MODEL in place of --from admissible"
    assert note in result.err and "states with fewer than k alternatives" in result.err
    assert note not in run("branch", "--from", "admissible", data["expert"]).ok().err


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("nothing", 2, "unknown model 'nothing'"),
        ("", 2, "unknown model ''"),
        ("tiny.ggfu", 2, "unknown model"),
        ("Org/name-0.5B", 2, "unknown model 'Org/name-0.5B': a name on the hub needs hf:, as in hf:Org/name-0.5B"),
        ("/no/such.gguf", 1, "model file not found: /no/such.gguf"),
        ("tiny+/no/such.gguf", 1, "model file not found: /no/such.gguf"),
        ("hf:/no/such", 1, "model directory not found: /no/such"),
        ("hf:tiny+/no/such", 1, "/no/such: not a PEFT adapter"),
        ("http://127.0.0.1:9/v1#x", 1, "http://127.0.0.1:9/v1: ConnectError"),
        ("http://127.0.0.1:9/v1", 1, "http://127.0.0.1:9/v1: ConnectError"),
        ("http://host:port/v1#x", 2, "http://host:port/v1: "),
        ("http://#x", 2, "http:"),
    ],
)
def test_models_that_cannot_be_opened(model, code, message, data):
    run("branch", "-m", model, data["expert"]).one_error(code, message)
    run("eval", "house", "-n", "1", "-m", model).one_error(code, message)


@pytest.mark.parametrize(("hub", "reason"), [("silent", "no answer within 3 s"), ("closed", "Connection refused")])
def test_a_name_that_a_hub_out_of_reach_cannot_have(hub, reason, data, tmp_path):
    """A mistyped directory is such a name; the library of the hub would try each of its files for half a minute."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hub == "silent":
            server.listen(20)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        env = environment(HF_HUB_OFFLINE="0", HF_ENDPOINT=address, HF_HOME=str(tmp_path), NO_PROXY="127.0.0.1")
        for command in (
            ["branch", "-m", "hf:agnt", data["expert"]],
            ["finetune", "-m", "agnt", "-o", tmp_path / "out", data["imitation"]],
            ["export", "no/agnt", "-o", tmp_path / "agnt.gguf"],
            ["stats", "--tokenizer", "agnt", data["imitation"]],
        ):
            began = time.monotonic()
            error = spawn(*command, env=env).one_error(1, "agnt: no such directory, and no such model in the")
            assert f"{address} cannot be reached: " in error and reason in error
            assert error.rstrip().endswith("(with HF_HUB_OFFLINE=1 it is not asked)")
            assert time.monotonic() - began < 20, "the library would take 23 s and more"
        run(*command).one_error(1, "agnt: no such directory", "HF_HUB_OFFLINE forbids to ask the hub")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["show", "-n", 10**22, "@expert"], "'-n' / '--number': 10000000000000000000000 is larger than 2147483647"),
        (["select", "--by", "random", "-n", 10**22, "@expert"], "'-n' / '--number': 10000000000000000000000 is larger"),
        (["expert", "house", "--skip", 2**31], "'--skip': 2147483648 is larger than 2147483647"),
        (["score", "--context", 10**13, "@imitation"], "'--context': 10000000000000 is larger than 2147483647"),
        (["score", "--threads", 10**6, "@imitation"], "'--threads': 1000000 is not in the range 1<=x<=512"),
    ],
)
def test_numbers_that_are_too_large(command, message, data):
    run(*(data[word[1:]] if str(word).startswith("@") else word for word in command)).one_error(2, message)


def test_a_context_that_does_not_fit_into_memory(data):
    """llama.cpp would fill the machine with it: it takes 2.5 TB."""
    error = run("score", "--context", 2 * 10**9, data["imitation"]).one_error(1, "tiny: a context of 2,000,000,000 ")
    assert error.endswith(" GB are free; give a smaller --context")


def test_models_that_a_command_cannot_use(data):
    run("branch", "-m", "expert", data["expert"]).one_error(2, "never an alternative")
    run("reflect", "-m", "random", data["rollout"]).one_error(2, "random cannot write text")
    run("reflect", "--rationale", "model", data["rollout"]).one_error(2, "needs -m MODEL")


def test_files_that_are_no_gguf(tiny, data, tmp_path):
    whole = tiny.read_bytes()
    broken = {
        "empty": b"",
        "text": b"hello\n" * 1000,
        "magic": b"GGUF" + b"\xff" * 4000,
        "header": whole[:2000],
        "tensors": whole[: len(whole) // 2],
    }
    for name, content in broken.items():
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(content)
        run("eval", "house", "-n", "1", "-m", file).one_error(1, str(file))
        run("eval", "house", "-n", "1", "-m", f"tiny+{file}").one_error(1, str(file))


@pytest.fixture(scope="session")
def adapter(data, tmp_path_factory) -> Path:
    """A LoRA adapter of the tiny model."""
    output = tmp_path_factory.mktemp("adapter") / "adapter"
    run(
        "finetune",
        "-q",
        "-m",
        "tiny",
        "--max-steps",
        1,
        "--batch-size",
        2,
        "--rank",
        2,
        "-o",
        output,
        data["imitation"],
    ).ok()
    return output


@pytest.fixture(scope="session")
def other_base(tmp_path_factory) -> Path:
    """The tiny model with one weight changed."""
    import torch
    from safetensors.torch import load_file, save_file

    from eexp.records.runs import TINY_DIR

    directory = tmp_path_factory.mktemp("other") / "other"
    shutil.copytree(TINY_DIR, directory)
    weights = load_file(directory / "model.safetensors")
    name = next(n for n in weights if "norm" in n)
    weights[name] = weights[name] + torch.tensor(1.0, dtype=weights[name].dtype)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_an_adapter_of_another_base(adapter, other_base, tmp_path, data):
    run("export", other_base, "-q", "-o", tmp_path / "other.gguf").ok()
    run("export", adapter, "-q", "-o", tmp_path / "adapter.gguf").ok()
    play = ["eval", "house", "-n", "1", "--max-steps", "1", "-m"]
    run(*play, f"{tmp_path}/other.gguf+{tmp_path}/adapter.gguf").one_error(1, "made for another base model")
    run(*play, f"hf:{other_base}+{adapter}").one_error(1, "made for another base model")
    run(*play, f"{other_base}+{adapter}").one_error(1, "made for another base model")
    run("export", adapter, "--base", other_base, "-o", tmp_path / "x.gguf").one_error(1, "made for another base model")
    run("finetune", "-m", other_base, "--init", adapter, "-o", tmp_path / "x", data["imitation"]).one_error(
        1, "made for another base model"
    )
    run(*play, f"tiny+{tmp_path}/other.gguf").one_error(1, f"{tmp_path}/other.gguf: not an adapter")
    run(*play, f"tiny+{tmp_path}/adapter.gguf").ok()


def test_an_adapter_alone_and_a_directory_as_one(adapter, tmp_path):
    """The message for an adapter without its base, and for a PEFT directory after a GGUF file, says what to give."""
    gguf = tmp_path / "agent.gguf"
    run("export", adapter, "-o", gguf, "-q").ok()
    for model in (gguf, f"{gguf}+{gguf}"):
        run("eval", "house", "-n", 1, "-m", model).one_error(
            1, f"{gguf} is an adapter (LoRA): give the model it belongs to as well: BASE.gguf+{gguf}"
        )
    message = f"{adapter} is a directory: make a GGUF file of it with `eexp export`, or give -m {adapter}"
    run("eval", "house", "-n", 1, "-m", f"tiny+{adapter}").one_error(1, message)


def test_directories_that_are_no_models(adapter, tmp_path, data):
    from eexp.records.runs import TINY_DIR

    play = ["eval", "house", "-n", "1", "-m"]
    (tmp_path / "empty").mkdir()
    run(*play, tmp_path / "empty").one_error(1, str(tmp_path / "empty"))
    for file, content in (("config.json", b"{"), ("model.safetensors", b"\xff" * 100), ("tokenizer.json", b"[]")):
        broken = tmp_path / file
        shutil.copytree(TINY_DIR, broken)
        (broken / file).write_bytes(content)
        run(*play, broken).one_error(1, str(broken))
        run("finetune", "-m", broken, "-o", tmp_path / "run", data["imitation"]).one_error(1, str(broken))
    for file, content in (("adapter_config.json", b"{"), ("adapter_model.safetensors", b"x" * 9), ("eexp.json", b"{")):
        broken = tmp_path / f"adapter-{file}"
        shutil.copytree(adapter, broken)
        (broken / file).write_bytes(content)
        run(*play, f"hf:tiny+{broken}").one_error(1, str(broken))
        run("export", broken, "-o", tmp_path / "x.gguf").one_error(1, str(broken))
    chatless = tmp_path / "chatless"
    shutil.copytree(TINY_DIR, chatless)
    (chatless / "chat_template.jinja").unlink()
    run(*play, chatless).one_error(1, f"{chatless}: has no chat template")


@pytest.mark.parametrize("model", ["tiny", "hf:tiny"])
def test_a_context_that_is_too_small(model, data, tmp_path):
    small = ["-m", model, "--context", "80", "--max-tokens", "40"]
    result = run("branch", *small, data["expert"])
    result.one_error(3, f"{data['expert']}:1: $.steps[", "tokens", "the context", "holds 80")
    result = run("eval", "house", "-n", "2", *small).one_error(3, "house/test/", "holds 80")
    rejects = tmp_path / "rejects"
    run("eval", "house", "-n", "2", *small, "--rejects", rejects).ok(4)
    assert [r["record"]["type"] for r in read(rejects)] == ["task", "task"]


def test_prompt_styles_that_do_not_exist(data):
    """The style is looked up first: a model may take minutes to load, and here is none."""
    for args in (["imitation-data"], ["world-model-data"], ["reflect"], ["branch", "-m", "none.gguf"]):
        run(*args, "--prompt-style", "poetic", data["rollout"]).one_error(2, "unknown prompt style 'poetic'", "react")
    example = {**read(data["imitation"])[0], "prompt_style": "poetic@0123456789abcdef"}
    trained = run("finetune", "-m", "no-such-model", "-o", "nowhere", stdin=json.dumps(example).encode())
    trained.one_error(2, "made with prompt style 'poetic@", "give its file as --prompt-style")
    changed = run("imitation-data", "--prompt-style", "react@0123456789abcdef", data["expert"])
    changed.one_error(3, "prompt style react@0123456789abcdef differs from the built-in react@")


_TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize(
    "command", [["score"], ["score", "-m", f"hf:{TINY_DIR}"], ["finetune", "-o", "o", "--dry-run"]]
)
def test_an_example_with_functions_costs_itself_alone(command, data, tmp_path, monkeypatch):
    """The chat template shows no functions; the others need none."""
    monkeypatch.chdir(tmp_path)
    examples = read(data["imitation"])[:4]
    examples[1]["tools"] = _TOOLS
    file = write(tmp_path / "examples", examples)
    run(*command, file).one_error(3, f"{file}:2: $.tools: the chat template of ", "does not show tools: take a model")
    result = run(*command, "--rejects", "rejects", file).ok(4)
    assert "4 in" in result.err and "1 set aside in rejects" in result.err
    assert [(r["line"], r["field"]) for r in read(tmp_path / "rejects")] == [(2, "$.tools")]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"weight": 1e308}, "$.weight: expected a number <= 1000000.0"),
        ({"weight": -1e7}, "$.weight: expected a number >= -1000000.0"),
        ({"weight": 1e-300}, "$.weight: weighs less than 1e-30"),
        ({"spans": [{"name": "action", "start": 0, "end": 1, "weight": 1e30}]}, "$.spans[0].weight: expected a number"),
        ({"spans": [{"name": "action", "start": 0, "end": 1, "weight": 1e-40}]}, "$.weight: weighs less than 1e-30"),
    ],
)
def test_weights_that_float32_cannot_hold(weight, message, data, tmp_path):
    examples = read(data["imitation"])[:3]
    examples[1] |= weight
    file = write(tmp_path / "examples", examples)
    train = ["finetune", "-m", "tiny", "--dry-run", "-o", tmp_path / "run"]
    run(*train, file).one_error(3, f"{file}:2: {message}")
    assert "1 set aside" in run(*train, "--on-error", "skip", file).ok(4).err


def test_a_loss_that_is_no_number_names_the_examples(data, tmp_path):
    train = ["finetune", "-m", "tiny", "-o", tmp_path / "run", "--lr", "1e30", "--batch-size", 99, "--epochs", 9]
    more = len(read(data["imitation"])) - 5
    message = run(*train, data["imitation"]).one_error(1, "the loss is nan; a lower --lr may help, or look at its")
    assert re.search(rf"examples: ('house/\S+/imitation',? ){{5}}and {more} more$", message), message


def test_two_prompt_styles_are_not_trained_together(data, tmp_path):
    other = tmp_path / "list.jsonl"
    run("imitation-data", "--prompt-style", "react-list", data["expert"], "-o", other).ok()
    count = len(read(data["imitation"]))
    args = ["finetune", "-m", "tiny", "-o", tmp_path / "run", data["imitation"], other]
    run(*args).one_error(3, f"{other}:1: $.prompt_style: examples of two prompt styles: react@")
    assert count


def test_finetune_options_that_do_not_fit(data, adapter, tmp_path):
    args = ["finetune", "-m", "tiny", "-o", tmp_path / "run", data["imitation"]]
    run(*args, "--full", "--init", adapter).one_error(2, "--full")
    run(*args, "--init", tmp_path / "nothing").one_error(1, "not a PEFT adapter")
    run(*args, "--epochs", 0).ok(2)
    (tmp_path / "file").touch()
    run("finetune", "-m", "tiny", "-o", tmp_path / "file" / "run", data["imitation"]).one_error(1, "Not a directory")
    run("finetune", "-m", "tiny", "-o", tmp_path / "file", data["imitation"]).one_error(1, "file")
    run("finetune", "-m", "nobody/nothing", "-o", tmp_path / "run", data["imitation"]).one_error(1, "nobody/nothing")


# -- servers ---------------------------------------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    """Answers as its server's `answer` says: (status, body)."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("EEXP_HTTP_TRIES", "1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, args=(0.02,))
        thread.start()
        http_server.url = f"http://127.0.0.1:{http_server.server_port}/v1"
        http_server.handle_error = lambda *_: None  # after one bad answer the client closes its other connections
        yield http_server
        http_server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (500, b"", 1, "HTTP 500"),
        (500, b"<html>\nbroken\n</html>", 1, "HTTP 500: <html> broken </html>"),
        (502, b'{"error": {"message": "upstream\\nis down"}}', 1, "HTTP 502: upstream is down"),
        (401, b'{"error": "bad key"}', 1, "HTTP 401: bad key"),
        (429, b'["slow down"]', 1, "HTTP 429"),
        (404, b'"text"', 1, "HTTP 404"),
        (302, b"", 1, "HTTP 302"),
        (400, b'{"detail": "context length exceeded"}', 3, "refuses the request: context length exceeded"),
        (400, b"null", 3, "refuses the request"),
        (200, b"", 1, "not JSON"),
        (200, b"not json", 1, "not JSON"),
        (200, b"\xff\xfe", 1, "not JSON"),
        (200, b"[]", 1, ""),
        (200, b"null", 1, ""),
        (200, b"{}", 1, "without choices"),
        (200, b'{"choices": []}', 1, "without choices"),
        (200, b'{"choices": [null]}', 1, ""),
        (200, b'{"choices": 3}', 1, ""),
        (200, b'{"choices": [{"message": "text"}]}', 1, ""),
        (200, b'{"choices": [{"message": {"content": ["a"]}}]}', 1, ""),
        (200, b'{"choices": [{"message": {"content": "a"}, "logprobs": "x"}]}', 1, ""),
    ],
)
def test_servers_that_answer_badly(server, status, body, code, message, data):
    server.answer = status, body
    branch = run("branch", "-m", f"{server.url}#name", data["expert"])
    error = branch.one_error(code, server.url, message)
    if code == 3:
        assert f"{data['expert']}:1: " in error
    run("eval", "house", "-n", "1", "-m", f"{server.url}#name").one_error(code, server.url, message)


def test_a_url_without_a_path(server, data):
    server.answer = 404, b'"Not Found"'
    for model in (server.url.removesuffix("/v1"), server.url.removesuffix("v1") + "#name"):
        run("eval", "house", "-n", 1, "-m", model).one_error(1, "HTTP 404: Not Found: is /v1 missing?")
    assert "missing" not in run("eval", "house", "-n", 1, "-m", server.url).one_error(1, "HTTP 404: Not Found")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"data": []}', b'{"data": [{}]}', b'{"data": 5}', b"x"])
def test_servers_without_models(server, body, data):
    server.answer = 200, body
    run("branch", "-m", server.url, data["expert"]).one_error(1, server.url)


def test_a_server_whose_text_json_cannot_hold(server, data):
    server.answer = 200, b'{"choices": [{"message": {"content": "Action: \\ud800"}, "finish_reason": "stop"}]}'
    run("branch", "-k", 1, "-m", f"{server.url}#name", "--no-only-admissible", data["expert"]).one_error(
        3, f"{data['expert']}:1: cannot be written as JSON"
    )


def test_a_world_that_answers_with_an_empty_error(server):
    server.answer = 200, b'{"error": ""}'
    env = f"agentgym:{server.url.removesuffix('/v1')}?env=textcraft"
    run("env", "show", env, "--task", "textcraft/0").one_error(1, "an error without a message")


def test_secrets_are_never_shown(server, data, monkeypatch):
    """Neither the key nor a password in the address shows up anywhere."""
    for key in ("s3cret", "s3cret\n", "s3cret\u20ac", " s3cret"):
        monkeypatch.setenv("EEXP_API_KEY", key)
        answers = [(500, b"x"), (200, b"{"), (400, b"no"), (200, b'{"data": []}')]
        for status, body in answers if key == "s3cret" else answers[:1]:  # the others are cut, or not sent
            server.answer = status, body
            for url in (server.url, server.url.replace("//", "//me:s3cret@")):
                for spec in (url, f"{url}#name"):
                    result = run("branch", "-m", spec, data["expert"])
                    assert result.code in (1, 2, 3) and "Traceback" not in result.err
                    assert "s3cret" not in result.err and b"s3cret" not in result.out, result.err


def test_options_of_the_command_line_that_are_wrong():
    run("branch", "-k", "0").one_error(2, "-k")
    run("branch", "--no-such-option").one_error(2, "No such option")
    run("no-such-command").one_error(2, "No such command 'no-such-command'.")
    run("brnch").one_error(2, "No such command 'brnch'. Did you mean branch?")
    run("eval", "hause").one_error(2, "unknown environment 'hause'; did you mean house?")
    refusal = run("finetune", "--learning-rate", "1")
    assert refusal.code == 2 and "No such option '--learning-rate'. (Did you mean one of: '--lr'" in refusal.err
    run("expert", "house", "--admissible", "few").one_error(2, "--admissible")
    run("expert").one_error(2, "ENV")
    run("mix", "--limit", "-1").one_error(2, "--limit")
    run("schema", "nothing").one_error(2, "TYPE")

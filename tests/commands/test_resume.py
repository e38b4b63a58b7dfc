"""`kill -9` at random moments, then --resume: the output must be, byte for byte, that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conversations import messages_of
from running import ROOT, environment, lines, read, run, spawn, start, write
from stage_settings import command_of

from eexp.cli import COMMANDS

KILLS = 2


@dataclass(frozen=True)
class Job:
    """A command that can be resumed. reads: its input, if it has one; bad: how many bad records to put into it."""

    args: tuple[str, ...]
    reads: str | None = None
    bad: int = 0


TINY = ("-m", "tiny", "--threads", "1", "--max-tokens", "10")
JOBS = {
    "branch-tiny": Job(("branch", "-k", "2", "--temperature", "2", *TINY), "short", bad=2),
    "branch-admissible": Job(("branch", "--from", "admissible"), "many"),
    "rollout": Job(("rollout",), "many-branched", bad=3),
    "follow": Job(("follow", "-m", "random", "--steps", "4", "--first", "1"), "some-rollout", bad=1),
    "import": Job(("import", "messages", "--env", "house", "-j", "2"), "foreign", bad=3),
    "import-episodes": Job(("import", "episodes", "--drop-invalid", "--distinct", "-j", "2"), "episodes", bad=3),
    "correct": Job(("correct", "--turns", "3", "-j", "2"), "episodes", bad=3),
    "reward": Job(("reward", "-j", "2"), "episodes", bad=3),
    "reflect": Job(("reflect", "--rationale", "outcome"), "many-rollout", bad=1),
    "reflect-notes": Job(("reflect", "--rationale", "environment", "--weigh", "0"), "many-rollout", bad=1),
    "reflect-tiny": Job(("reflect", "--temperature", "1", "--no-guard", "verify", *TINY), "short-rollout"),
    "summarise": Job(("summarise", "--longer-than", "120", *TINY), "some-rollout", bad=1),
    "score": Job(("score", "-m", "tiny", "--threads", "1"), "examples"),
    "world-model-data-tiny": Job(
        ("world-model-data", "--predictable", "model", "-m", "tiny", "--threads", "1"), "some-rollout", bad=1
    ),
    "expert": Job(("expert", "house", "-n", "750", "--max-steps", "12", "--all")),
    "expert-noise": Job(("expert", "house", "-n", "750", "--max-steps", "12", "--noise", "0.3", "--all")),
    "eval": Job(("eval", "house", "-m", "random", "-n", "150")),
    "eval-program": Job(
        ("eval", f"exec:sh {ROOT}/examples/safe.sh", "-m", "random", "-n", "60", "--max-steps", "6", "--parallel", "2")
    ),
    "eval-tiny": Job(("eval", "house", "-n", "6", "--max-steps", "5", "--temperature", "1", "--trials", "2", *TINY)),
}


def test_every_command_with_resume_is_here():
    with_resume = {name for name in COMMANDS if any(one.name == "resume" for one in command_of(name).params)}
    missing = with_resume - {job.args[0] for job in JOBS.values()} - {"finetune"}  # test_finetune.py resumes it
    assert not missing, f"add a Job of {sorted(missing)} to JOBS, with an input in which a run can be killed"


@pytest.fixture(scope="session")
def inputs(made_once) -> dict[str, Path]:
    """Inputs large enough that a run can be killed in the middle."""
    return {file.name: file for file in made_once("resume", _make_inputs).iterdir()}


def _make_inputs(here: Path) -> None:
    files = {}

    def stage(name: str, *args: object) -> None:
        files[name] = here / name
        run(*args, "-q", "-o", files[name]).ok()

    stage("expert", "expert", "house", "-n", "60")
    experts = read(files["expert"])
    files["short"] = write(here / "short", [_cut(t, 3) for t in experts[:30]])
    # equal ids twice: they have to be told apart by their order
    files["many"] = write(here / "many", [*experts, *experts, *[{**t, "id": f"{t['id']}/b"} for t in experts]])
    stage("many-branched", "branch", "--from", "admissible", files["many"])
    stage("many-rollout", "rollout", files["many-branched"])
    stage("examples", "imitation-data", files["short"])
    write(here / "foreign", [messages_of(t) for t in experts * 3])
    stage("episodes", "eval", "house", "-m", "random", "-n", "75", "--trials", "2", "--max-steps", "12")
    write(here / "some-rollout", [_cut(t, 3) for t in read(files["many-rollout"])[:30]])
    write(here / "short-rollout", [_cut(t, 5) for t in read(files["many-rollout"])[:2]])


def _cut(trajectory: dict, steps: int) -> dict:
    return {**trajectory, "steps": trajectory["steps"][:steps], "outcome": None}


def _with_bad(text: bytes, bad: int, rng: random.Random) -> bytes:
    """Insert bad records at random places: broken JSON, a broken field, and a tampered observation."""
    records = text.splitlines(keepends=True)
    for kind in range(bad):
        at = rng.randrange(len(records))
        broken = json.loads(text.partition(b"\n")[0])
        if "messages" in broken:  # a foreign record
            broken["messages"][2 if kind == 1 else 3]["content"] = 7 if kind == 1 else "You are on the moon."
        elif "transcript" in broken:  # an episode
            broken["transcript"][0].update({"action": 7} if kind == 1 else {"observation": "You are on the moon."})
        elif kind == 1:
            broken["steps"][0]["action"] = 7
        elif kind == 2:
            broken["steps"][1]["observation"] = "You are on the moon."
        records.insert(at, b'{"type": "trajectory", "id": \n' if kind == 0 else lines([broken]))
    return b"".join(records)


def _command(job: Job, here: Path, name: str, file: Path | None) -> list[object]:
    rejects = ["--rejects", here / f"{name}.rejects"] if job.bad else []
    return [*job.args, *([file] if file else []), "-q", "--resume", "-o", here / f"{name}.out", *rejects]


def _kill_at(command: list[object], output: Path, size: int | None, delay: float) -> bool:
    """Kill a command when its output is larger than `size`, or after `delay`; return whether it was still running."""
    child = start(*command, stderr=-3)
    began = time.monotonic()
    while child.poll() is None:
        reached = size is not None and output.exists() and output.stat().st_size >= size
        if reached or (size is None and time.monotonic() - began > delay):
            os.kill(child.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    child.wait()
    return child.returncode == -signal.SIGKILL


def _tear(output: Path, rng: random.Random) -> None:
    """Leave a half-written last line, as a crash of the machine would."""
    if output.exists() and output.stat().st_size > 10:
        with open(output, "r+b") as f:
            f.truncate(output.stat().st_size - rng.randrange(1, 10))


#: These share the code of others that are faster, or have a model as others do. tests/commands/test_kills.py kills
#: rollouts with programs, and interrupts evaluations with programs and reflections by a model.
LONG = {
    "branch-tiny",
    "summarise",
    "world-model-data-tiny",
    "reflect-notes",
    "reflect-tiny",
    "expert-noise",
    "eval-program",
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in JOBS])
def test_killed_and_resumed_equals_uninterrupted(name: str, inputs, tmp_path):
    job, rng = JOBS[name], random.Random(f"{name} {time.time_ns()}")
    file = None
    if job.reads:
        file = tmp_path / "in"
        file.write_bytes(_with_bad(inputs[job.reads].read_bytes(), job.bad, random.Random(name)))
    if name == "reflect-tiny":  # a base model for house writes few reflections that can be used
        job = Job(job.args, job.reads, 1)
    first = run(*_command(job, tmp_path, "whole", file))
    expected_code = first.code if name == "reflect-tiny" else 4 if job.bad else 0
    first.ok(expected_code)
    whole = (tmp_path / "whole.out").read_bytes()
    assert name == "reflect-tiny" or whole.count(b"\n") > 3

    command, output = _command(job, tmp_path, "cut", file), tmp_path / "cut.out"
    killed = 0
    for attempt in range(KILLS):
        # mostly by size, which is certain to fall inside the run; now and then by time, anywhere
        size = rng.randrange(len(whole) * attempt // (KILLS + 1), len(whole) * 9 // 10) if attempt and whole else None
        killed += _kill_at(command, output, size, rng.uniform(0.05, 0.9))
        if attempt % 2:
            _tear(output, rng)
    run(*command).ok(expected_code)
    assert output.read_bytes() == whole, f"differs after {killed} kills"
    if job.bad:
        assert (tmp_path / "cut.rejects").read_bytes() == (tmp_path / "whole.rejects").read_bytes()
        assert (tmp_path / "cut.rejects").read_bytes() or name == "reflect-tiny"
    # once more: nothing is left to do, and nothing changes
    run(*command).ok(expected_code)
    assert output.read_bytes() == whole


def test_each_cut_of_a_file_is_made_whole(inputs, tmp_path):
    """Each kind of place is tried: nothing written, within a line, around its newline, and all written."""
    few = write(tmp_path / "few", read(inputs["many-branched"])[:5])
    args = ["rollout", few, "-q", "--resume", "-o", tmp_path / "out"]
    run(*args).ok()
    whole = (tmp_path / "out").read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (0, 1, first - 2, first - 1, first, first + 1, len(whole) // 2, len(whole) - 1, len(whole)):
        (tmp_path / "out").write_bytes(whole[:cut])
        run(*args).ok()
        assert (tmp_path / "out").read_bytes() == whole, f"cut at {cut}"


def test_a_cut_line_is_told(inputs, tmp_path):
    args = ["branch", "--from", "admissible", inputs["expert"], "--resume", "-o", tmp_path / "out"]
    run(*args).ok()
    whole = (tmp_path / "out").read_bytes()
    (tmp_path / "out").write_bytes(whole[:-7])
    err = run(*args).ok().err
    assert "removed a half-written last line" in err and "59 done before" in err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("branch", "--from", "admissible", "-k", "2"), ("branch", "--from", "admissible", "-k", "3")),
        (("branch", "--from", "admissible"), ("branch", "--from", "admissible", "--seed", "1")),
        (("branch", "-m", "random"), ("branch", "-m", "random", "--temperature", "0.5")),
        (("branch", "--from", "admissible"), ("branch", "--from", "mixed", "-m", "random")),
        (("expert", "house", "-n", "3"), ("expert", "house", "-n", "3", "--admissible", "none")),
        (("expert", "house", "-n", "3"), ("expert", "house", "-n", "3", "--max-steps", "7")),
        (("expert", "house", "-n", "3"), ("expert", "house", "-n", "3", "--all")),
        (("eval", "house", "-m", "random", "-n", "3"), ("eval", "house", "-m", "expert", "-n", "3")),
        (
            ("eval", "house", "-m", "random", "-n", "3"),
            ("eval", "house", "-m", "random", "-n", "3", "--max-steps", "4"),
        ),
    ],
)
def test_other_options_are_refused(before, after, inputs, tmp_path):
    files = [inputs["expert"]] if before[0] == "branch" else []
    run(*before, *files, "-o", tmp_path / "out").ok()
    content = (tmp_path / "out").read_bytes()
    run(*after, *files, "--resume", "-o", tmp_path / "out").one_error(
        2, f"{tmp_path / 'out'}:1: written by `{before[0]} ", "give the same options, or another -o"
    )
    assert (tmp_path / "out").read_bytes() == content


def test_other_input_is_refused_before_anything_is_written(inputs, tmp_path):
    args = ["branch", "--from", "admissible", "--resume", "-o", tmp_path / "out"]
    records = read(inputs["expert"])
    run(*args, stdin=lines(records[:5])).ok()
    content = (tmp_path / "out").read_bytes()
    run(*args, stdin=lines(records[10:20])).one_error(2, "5 records that this input does not lead to", records[0]["id"])
    assert (tmp_path / "out").read_bytes() == content
    run(*args, stdin=lines(records[:4])).one_error(2, "1 records that this input does not lead to")
    run(*args, "--on-error", "skip", stdin=lines(records[10:20])).one_error(2, "this input does not lead to")


def test_a_file_of_something_else_is_refused_and_kept(inputs, tmp_path):
    args = ["branch", "--from", "admissible", inputs["expert"], "--resume", "-o", tmp_path / "out"]
    for text in (b'{"my": "notes"}\n', b"[1]\n", b'"x"\n', inputs["expert"].read_bytes()):
        (tmp_path / "out").write_bytes(text)
        run(*args).one_error(2, f"{tmp_path / 'out'}:1: ")
        assert (tmp_path / "out").read_bytes() == text


def test_resume_needs_a_regular_output_file(inputs, tmp_path):
    for output in ([], ["-o", "-"]):
        run("rollout", inputs["many-branched"], "--resume", *output).one_error(2, "--resume needs -o FILE")
    os.mkfifo(tmp_path / "fifo")
    run("rollout", inputs["many-branched"], "--resume", "-o", tmp_path / "fifo").one_error(2, "not a regular file")


def test_without_an_earlier_run_resume_starts_one(inputs, tmp_path):
    rejects = tmp_path / "rejects"
    rejects.write_text("of another run\n")
    run("rollout", inputs["short"], "--resume", "-o", tmp_path / "out", "--rejects", rejects).ok()
    assert rejects.read_bytes() == b"" and len(read(tmp_path / "out")) == 30


def test_more_of_the_same_can_be_asked_for(tmp_path):
    """-n is not among the settings that must be the same: a panel of 4 grows into one of 8."""
    for args in (("expert", "house"), ("eval", "house", "-m", "random", "--max-steps", "3", "--trials", "2")):
        out = tmp_path / args[0]
        run(*args, "-n", 4, "--resume", "-o", out).ok()
        first = read(out)
        run(*args, "-n", 8, "--resume", "-o", out).ok()
        assert read(out)[: len(first)] == first
        whole = run(*args, "-n", 8).ok().records
        assert sorted(r["id"] for r in read(out)) == sorted(r["id"] for r in whole)


def test_what_was_set_aside_before_still_shows_in_the_exit_code(inputs, tmp_path):
    """The refused branch point is in the half that was done before the kill."""
    records = read(inputs["many-branched"])[:4]
    records[0]["steps"][1]["observation"] = "tampered"
    file, out, rejects = write(tmp_path / "in", records), tmp_path / "out", tmp_path / "rejects"
    args = ["rollout", file, "--resume", "-o", out, "--rejects", rejects]
    run(*args).ok(4)
    whole, set_aside = out.read_bytes(), rejects.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    run(*args).ok(4)
    assert (out.read_bytes(), rejects.read_bytes()) == (whole, set_aside)


def test_sigterm_ends_in_order(inputs, tmp_path):
    """Schedulers send SIGTERM first: whole lines only, and the same command goes on."""
    command = ["expert", "house", "-n", "1500", "-q", "--resume", "-o", tmp_path / "out"]
    child = start(*command, env=environment())
    while not (tmp_path / "out").exists() or (tmp_path / "out").stat().st_size < 20_000:
        time.sleep(0.002)
        assert child.poll() is None
    child.terminate()
    assert child.wait(30) == 128 + signal.SIGTERM
    assert (tmp_path / "out").read_bytes().endswith(b"\n")
    n_records = len(read(tmp_path / "out"))
    assert 0 < n_records < 1500
    spawn(*command).ok()
    assert len(read(tmp_path / "out")) == 1500

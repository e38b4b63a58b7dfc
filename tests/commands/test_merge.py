"""N processes with --shard, merged, write what one process writes, byte for byte; anything else is refused by name."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import EEXP, environment, read, run, start, write
from stage_settings import command_of
from test_resume import JOBS
from test_resume import inputs as resume_inputs  # noqa: F401

from eexp.cli import COMMANDS
from eexp.errors import InputError
from eexp.records.jsonl import dumps
from eexp.records.merge import merge
from eexp.records.record import with_lineage
from eexp.records.shards import LinesDigest, Shard, Share

TINY = ("-m", "tiny", "--threads", "1", "--max-tokens", "10")
#: Every command with --shard, and what it reads.
STAGES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "expert": (("expert", "house", "-n", "12", "--noise", "0.3", "--all"), None),
    "expert-that-fails": (("expert", "house", "-n", "12", "--max-steps", "5"), None),
    "eval": (("eval", "house", "-m", "random", "-n", "6", "--trials", "2"), None),
    "eval-tiny": (("eval", "house", "-n", "4", "--max-steps", "3", "--temperature", "1", *TINY), None),
    "import": (("import", "episodes", "-j", "2"), "episodes"),
    "import-as-it-is": (("import", "episodes", "--no-replay", "--min-score", "0"), "episodes"),
    "branch": (("branch", "--from", "admissible", "-k", "2"), "expert"),
    "branch-tiny": (("branch", "-k", "2", "--temperature", "2", *TINY), "short"),
    "rollout": (("rollout", "-j", "2"), "branched"),
    "follow": (("follow", "-m", "random", "--steps", "2", "--first", "1"), "rollout"),
    "correct": (("correct", "--turns", "2", "-j", "2"), "episodes"),
    "reward": (("reward", "-j", "2"), "episodes"),
    "recover": (("recover",), "refused"),
    "world-model-data": (("world-model-data",), "rollout"),
    "reflect": (("reflect", "--rationale", "outcome"), "rollout"),
    "reflect-tiny": (("reflect", "--no-guard", "all", *TINY), "short-rollout"),
    "imitation-data": (("imitation-data",), "expert"),
    "preference-data": (("preference-data",), "rollout"),
    "summarise": (("summarise", "--longer-than", "90", "--on-error", "skip", *TINY), "short-rollout"),
    "score": (("score", "-m", "tiny", "--threads", "1"), "shuffled"),
    "split": (("split", "--parts", "2", "--part", "1"), "shuffled"),
}
LONG = {"eval-tiny", "reflect-tiny", "summarise", "follow", "reward", "import", "expert-that-fails"}


@pytest.fixture(scope="session")
def inputs(made_once) -> dict[str, Path]:
    def make(here: Path) -> None:
        run("expert", "house", "-n", 12, "-q", "-o", here / "expert").ok()
        experts = read(here / "expert")
        cut = [{**t, "steps": t["steps"][:2], "outcome": None} for t in experts]
        write(here / "short", cut[:6])
        run("branch", "--from", "admissible", "-k", 2, "-q", here / "expert", "-o", here / "branched").ok()
        run("rollout", "-q", here / "branched", "-o", here / "rollout").ok()
        write(
            here / "short-rollout",
            [{**t, "steps": t["steps"][:3], "outcome": None} for t in read(here / "rollout")][:4],
        )
        refused = run(
            "branch", "-m", "tiny", "--threads", 1, "--no-only-admissible", "--temperature", 3, here / "short"
        )
        (here / "refused").write_bytes(run("rollout", "-q", stdin=refused.ok().out).ok().out)
        run(
            "eval", "house", "-m", "random", "-n", 6, "--trials", 2, "--max-steps", 8, "-q", "-o", here / "episodes"
        ).ok()
        examples = read_lines(run("imitation-data", "-q", here / "short").ok().out)
        random.Random(3).shuffle(examples)
        write(here / "shuffled", [examples[0], *examples])

    return {file.name: file for file in made_once("shards", make).iterdir()}


def read_lines(out: bytes) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_every_command_with_shards_is_here():
    with_shards = {name for name in COMMANDS if any(one.name == "shard" for one in command_of(name).params)}
    assert with_shards == {args[0] for args, _ in STAGES.values()}, "name the command in STAGES, and in docs/pipe.md"


def parts_of(here: Path, count: int, command: Callable[[int], bytes], name: str = "part") -> list[Path]:
    """Write the output of each shard to a file of its own."""
    here.mkdir(exist_ok=True)
    files = [here / f"{name}-{i}.jsonl" for i in range(1, count + 1)]
    for i, file in enumerate(files, 1):
        file.write_bytes(command(i))
    return files


def merged_equals_one_run(name: str, counts: Iterable[int], inputs: dict[str, Path], here: Path) -> None:
    args, reads = STAGES[name]
    file = [inputs[reads]] if reads else []
    one = run(*args, *file)
    assert one.code in (0, 4) and one.out.count(b"\n") > 1
    for count in counts:
        parts = parts_of(here / str(count), count, lambda i: run(*args, *file, "--shard", f"{i}/{count}").out)
        random.Random(name).shuffle(parts)
        assert run("merge", *parts).ok().out == one.out


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in STAGES])
def test_the_merged_parts_are_what_one_run_writes(name, inputs, tmp_path):
    merged_equals_one_run(name, [3], inputs, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_any_number_of_parts_gives_what_one_run_writes(name, inputs, tmp_path):
    merged_equals_one_run(name, range(1, 9), inputs, tmp_path)


@pytest.mark.parametrize("count", [pytest.param(n, marks=[pytest.mark.long] * (n not in (1, 4))) for n in range(1, 9)])
def test_a_pipe_keeps_the_shard(count, inputs, tmp_path):
    """The mark passes through stages that give no, one or many records for each, in the pipe or in later commands."""
    rest = (("rollout", "-j", "1"), ("recover", "--share", "0.5"), ("world-model-data", "--first", "1"))

    def pipe(*more: str) -> bytes:
        out = run("branch", "--from", "admissible", "-k", "1", inputs["expert"], *more).ok().out
        for args in rest:
            out = run(*args, stdin=out).ok().out
        return out

    parts = parts_of(tmp_path, count, lambda i: pipe("--shard", f"{i}/{count}"))
    assert run("merge", *parts).ok().out == pipe()


def test_processes_in_a_real_pipe(inputs, tmp_path):
    eexp = " ".join(EEXP)
    for i in (1, 2):
        branch = f"{eexp} branch --shard {i}/2 --from admissible -k 2"
        command = f"{eexp} expert house -n 12 | {branch} | {eexp} rollout > {i}.jsonl"
        subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=tmp_path, env=environment(), check=True)
    one = run("rollout", stdin=run("branch", "--from", "admissible", "-k", 2, inputs["expert"]).ok().out).ok().out
    assert run("merge", *sorted(tmp_path.glob("*.jsonl"))).ok().out == one


def test_rejects_of_parts_are_merged(inputs, tmp_path):
    """Bad lines without an id, records that a stage refuses, and tasks that cannot be played: each in one shard."""
    records = inputs["expert"].read_bytes().splitlines(keepends=True)
    broken = json.loads(records[0])
    del broken["lineage"]
    records[2:2] = [b"{\n", dumps({**broken, "steps": 7}), b'{"type": "trajectory"}\n']
    records.insert(7, dumps({**broken, "steps": []}))
    (tmp_path / "in").write_bytes(b"".join(records))
    for args in (("imitation-data",), ("branch", "--from", "admissible")):
        one = run(*args, tmp_path / "in", "--rejects", tmp_path / "rejects").ok(4)
        files = [tmp_path / f"rejects-{i}" for i in (1, 2, 3)]
        parts = []
        for i, file in enumerate(files, 1):
            result = run(*args, tmp_path / "in", "--shard", f"{i}/3", "--rejects", file, "-o", tmp_path / f"part-{i}")
            assert result.code in (0, 4)
            parts.append(tmp_path / f"part-{i}")
        assert run("merge", *parts).ok().out == one.out
        assert run("merge", *files).ok().out == (tmp_path / "rejects").read_bytes()


def test_rejects_of_workers_and_of_later_stages_are_merged(inputs, tmp_path):
    records = read(inputs["branched"])
    records[4]["steps"][1]["observation"] = "You are on the moon."
    records[9]["steps"][0]["observation"] = "You are on the moon."
    file = write(tmp_path / "in", records)
    run("rollout", file, "--rejects", tmp_path / "rejects", "-o", tmp_path / "one").ok(4)
    for i in (1, 2, 3):
        to = ("--rejects", tmp_path / f"rejects-{i}", "-o", tmp_path / f"part-{i}")
        assert run("rollout", file, "--shard", f"{i}/3", *to).code in (0, 4)
        split = run("split", "--parts", 1, "--part", 1, file, "--shard", f"{i}/3").ok().out
        to = ("--rejects", tmp_path / f"later-rejects-{i}", "-o", tmp_path / f"later-{i}")
        assert run("rollout", *to, stdin=split).code in (0, 4)
    assert run("merge", *tmp_path.glob("part-*")).ok().out == (tmp_path / "one").read_bytes()
    key = dumps
    whole = sorted(read(tmp_path / "rejects"), key=key)
    assert sorted(run("merge", *tmp_path.glob("rejects-*")).ok().records, key=key) == whole
    later = run("merge", *tmp_path.glob("later-rejects-*")).ok().records
    assert [r["error"] for r in later] == [r["error"] for r in run("merge", *tmp_path.glob("rejects-*")).records]
    assert all("shard" not in json.dumps(r["record"]) for r in later)


def test_tasks_that_cannot_be_played_are_in_one_shard(tmp_path):
    world = tmp_path / "dying.py"
    world.write_text(DYING)
    spec = f"exec:python3 -S {world}"
    one = run("expert", spec, "--rejects", tmp_path / "rejects").ok(4)
    parts = [tmp_path / f"part-{i}" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        run("expert", spec, "--shard", f"{i}/2", "--rejects", tmp_path / f"rejects-{i}", "-o", part)
    assert run("merge", *parts).ok().out == one.out != b""
    merged = run("merge", *tmp_path.glob("rejects-*")).ok().out
    assert merged == (tmp_path / "rejects").read_bytes() and b'"shard' not in merged


DYING = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "hello":
        answer = {"protocol": 1, "splits": ["train"], "expert": True}
    elif op == "tasks":
        answer = {"tasks": 8}
    elif op == "reset":
        task = int(request["task"]["id"].split("/")[1])
        answer = {"observation": "start", "instruction": "win"} if task % 3 else {"error": "no such task"}
    elif op == "expert":
        answer = {"action": "win"}
    else:
        answer = {"observation": "over", "done": True, "score": 1, "success": True}
    print(json.dumps(answer), flush=True)
"""


# -- resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["branch", "reflect", "expert", "eval", *(pytest.param(n, marks=pytest.mark.long) for n in ("rollout", "correct"))],
)
def test_a_part_that_was_cut_off_is_refused_and_goes_on(name, inputs, tmp_path):
    args, reads = STAGES[name]
    file = [inputs[reads]] if reads else []
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for i, part in enumerate(parts, 1):
        run(*args, *file, "--shard", f"{i}/2", "-o", part).ok()
    one = run(*args, *file).ok().out
    whole = parts[0].read_bytes()
    rng = random.Random(name)
    for size in [0, *sorted(rng.sample(range(1, len(whole)), 4)), len(whole)]:
        parts[0].write_bytes(whole[:size])
        if size < len(whole) - 1:
            run("merge", *parts).one_error(3, str(parts[0]))
        run(*args, *file, "--shard", "1/2", "--resume", "-o", parts[0]).ok()
        assert parts[0].read_bytes() == whole
        assert run("merge", *parts).ok().out == one


@pytest.mark.long
def test_a_part_that_was_killed_goes_on(resume_inputs, tmp_path):  # noqa: F811
    job = JOBS["rollout"]
    file = resume_inputs[job.reads or ""]
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    commands = [[*job.args, file, "-q", "--resume", "--shard", f"{i}/2", "-o", part] for i, part in enumerate(parts, 1)]
    run(*commands[1]).ok()
    for size in (1, 300_000):
        child = start(*commands[0], stderr=subprocess.DEVNULL)
        while child.poll() is None and not (parts[0].exists() and parts[0].stat().st_size >= size):
            pass
        assert child.poll() is None
        child.kill()
        child.wait()
        run("merge", *parts).one_error(3, str(parts[0]), "--resume")
    run(*commands[0]).ok()
    assert run("merge", *parts).ok().out == run(*job.args, file).ok().out


def test_lines_that_are_added_are_processed_alone(inputs, tmp_path):
    records = inputs["expert"].read_bytes().splitlines(keepends=True)
    file, parts = tmp_path / "in", [tmp_path / "part-1", tmp_path / "part-2"]

    def branch(i: int):
        return run("branch", "--from", "admissible", file, "--shard", f"{i}/2", "--resume", "-o", parts[i - 1])

    file.write_bytes(b"".join(records[:8]))
    branch(1).ok()
    branch(2).ok()
    file.write_bytes(b"".join(records))
    branch(1).ok()
    run("merge", *parts).one_error(3, "made from an input of", "8 records")
    assert "done before" in branch(2).ok().err
    assert run("merge", *parts).ok().out == run("branch", "--from", "admissible", file).ok().out
    file.write_bytes(b"".join(records[1:]))
    branch(1).one_error(2, str(parts[0]), "other input")


def test_resume_goes_on_with_the_same_shard_only(inputs, tmp_path):
    call = ("branch", "--from", "admissible", inputs["expert"], "-o", tmp_path / "out", "--resume")
    run(*call, "--shard", "1/3").ok()
    run(*call, "--shard", "2/3").one_error(2, "of shard 1/3", "--shard 2/3")
    run(*call).one_error(2, "of no shard")
    (tmp_path / "out").unlink()
    run(*call).ok()
    run(*call, "--shard", "2/3").one_error(2, "of no shard")
    part = run("branch", "--from", "admissible", inputs["expert"], "--shard", "1/2").ok().out
    (tmp_path / "out").unlink()
    rolled = ("rollout", "-j", 1, "-o", tmp_path / "out", "--resume")
    run(*rolled, stdin=part).ok()
    before = (tmp_path / "out").read_bytes()
    run(*rolled, stdin=part).ok()
    assert (tmp_path / "out").read_bytes() == before
    run(*rolled, stdin=run("branch", "--from", "admissible", inputs["expert"]).out).one_error(2, "holds records of one")


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> list[Path]:
    call = ("branch", "--from", "admissible", inputs["expert"])
    return parts_of(tmp_path_factory.mktemp("whole"), 3, lambda i: run(*call, "--shard", f"{i}/3").ok().out)


def _other(inputs, to: Path, *more: object, shard: str = "2/3", file: str = "expert") -> Path:
    to.write_bytes(run("branch", "--from", "admissible", inputs[file], "--shard", shard, *more).ok().out)
    return to


def test_what_is_no_whole_is_refused_by_name(whole, inputs, tmp_path):
    one, two, three = whole
    other = tmp_path / "other.jsonl"
    run("merge", one, three).one_error(3, "missing: shard 2/3")
    run("merge", one).one_error(3, "missing: shards 2/3, 3/3")
    run("merge", *whole, two).one_error(3, "shard 2/3 is there twice", str(two))
    shutil.copy(two, other)
    run("merge", *whole, other).one_error(3, "shard 2/3 is there twice", str(two), str(other))
    run("merge", one, _other(inputs, other, "--seed", 1), three).one_error(3, str(other), "seed=1", "seed=0")
    run("merge", one, _other(inputs, other, "-k", 1), three).one_error(3, str(other), "k=1", "k=4")
    run("merge", one, _other(inputs, other, shard="2/4"), three).one_error(3, str(other), "shard 2/4", "of 3")
    run("merge", one, _other(inputs, other, file="short"), three).one_error(3, str(other), "an input of 6 records")
    other.write_bytes(run("rollout", "-j", 1, two).ok().out)
    run("merge", one, other, three).one_error(3, str(other), "| rollout")
    other.write_bytes(run("imitation-data", "--shard", "2/3", inputs["expert"]).ok().out)
    run("merge", one, other, three).one_error(3, str(other), "imitation-data")
    lines = two.read_bytes().splitlines(keepends=True)
    other.write_bytes(b"".join(lines[:-1]))
    run("merge", one, other, three).one_error(3, str(other), "shard 2/3 is unfinished", "--resume")
    other.write_bytes(b"".join([*lines[1:]]))
    run("merge", one, other, three).one_error(3, str(other), "its run wrote")
    other.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    run("merge", one, other, three).one_error(3, f"{other}:2", "not in the input's order")
    other.write_bytes(b"")
    run("merge", one, other, three).one_error(3, str(other), "empty")
    run("merge", one, inputs["expert"], three).one_error(3, f"{inputs['expert']}:1", "of no shard")
    run("merge", one, tmp_path / "none", three).one_error(3, str(tmp_path / "none"), "No such file")
    run("merge", "-").one_error(2, "standard input")
    run("merge").ok(2)
    run("merge", *whole, "-o", two).one_error(2, str(two), "both read and written")


def _without_digest(part: bytes) -> bytes:
    """Return a part as earlier versions wrote it."""
    *records, end = read_lines(part)
    del end["digest"]
    return b"".join(map(dumps, [*records, end]))


def test_a_part_that_was_edited_is_refused_by_name(whole, inputs, tmp_path):
    one, two, three = whole
    other = tmp_path / "other.jsonl"
    lines = two.read_bytes().splitlines(keepends=True)
    doubled = b"".join([lines[0], lines[0], *lines[2:]])
    record = json.loads(lines[1])
    record["steps"][0]["alternatives"][0]["action"] = "go home"
    edited = b"".join([lines[0], dumps(record), *lines[2:]])
    for part in (doubled, _without_digest(doubled)):
        other.write_bytes(part)
        run("merge", one, other, three).one_error(3, f"{other}:2", json.loads(lines[0])["id"], "is there twice")
    other.write_bytes(edited)
    run("merge", one, other, three).one_error(3, str(other), "shard 2/3 has changed since its run wrote it")
    merged = run("merge", *whole).ok().out
    for file in whole:
        (tmp_path / file.name).write_bytes(_without_digest(file.read_bytes()))
    assert run("merge", *(tmp_path / file.name for file in whole)).ok().out == merged
    # A later stage passes both records on, and they still come from one record of the input.
    other.write_bytes(run("rollout", stdin=doubled).ok().out)
    rolled = [tmp_path / f"rolled-{i}" for i in (1, 3)]
    for file, part in zip(rolled, (one, three)):
        file.write_bytes(run("rollout", part).ok().out)
    run("merge", *rolled, other).one_error(3, f"{other}:2", "is there twice")


def test_edited_rejects_of_a_part_are_refused(inputs, tmp_path):
    records = [{**record, "steps": 7} for record in read(inputs["short"])]
    write(tmp_path / "in", records)
    files = [tmp_path / f"rejects-{i}" for i in (1, 2)]
    for i, file in enumerate(files, 1):
        run("imitation-data", tmp_path / "in", "--shard", f"{i}/2", "--rejects", file).ok(4)
    assert len(run("merge", *files).ok().records) == len(records)
    text = files[0].read_bytes()
    files[0].write_bytes(text.replace(b'"steps":7', b'"steps":8', 1))
    run("merge", *files).one_error(3, str(files[0]), "has changed since its run wrote it")


def test_parts_survive_what_people_do_with_files(whole, inputs, tmp_path):
    merged = run("merge", *whole).ok().out
    everything = tmp_path / "all"
    everything.write_bytes(b"".join(file.read_bytes() for file in (whole[2], whole[0], whole[1])))
    assert run("merge", everything).ok().out == merged
    later = tmp_path / "later"
    later.write_bytes(run("rollout", everything).ok().out)
    assert run("merge", later).ok().out == run("rollout", stdin=merged).ok().out
    twice = tmp_path / "twice"
    twice.write_bytes(whole[0].read_bytes() * 2)
    run("merge", twice, *whole[1:]).one_error(3, str(twice), "twice")
    spaced = tmp_path / "spaced"  # by another writer of JSON
    spaced.write_text("\n\n".join(json.dumps(record) for record in read(whole[0])))
    assert run("merge", spaced, *whole[1:]).ok().out == merged
    run("merge", *whole, "-q", "-o", tmp_path / "to").ok()
    assert (tmp_path / "to").read_bytes() == merged


def test_empty_shards_and_an_empty_input(tmp_path, inputs):
    for text, number in ((b"", 0), (inputs["short"].read_bytes().splitlines(keepends=True)[0], 1)):
        file = tmp_path / "in"
        file.write_bytes(text)
        parts = parts_of(tmp_path, 5, lambda i: run("imitation-data", file, "--shard", f"{i}/5").ok().out)
        assert sum(part.read_bytes().count(b"\n") > 1 for part in parts) == number
        assert run("merge", *parts).ok().out == run("imitation-data", file).ok().out


def _file(path: Path, written: list[bytes]) -> Path:
    path.write_bytes(b"".join(written))
    return path


def test_commands_that_need_all_records_refuse_a_part(whole, inputs, tmp_path):
    part = whole[0]
    for args in (
        ("select",),
        ("export-log", "--format", "atif"),
        ("branch", "--from", "admissible", "--add", "3"),
    ):
        run(*args, part).one_error(2, "shard 1/3", "eexp merge")
    run("branch", "--add", 3, "--shard", "1/2", part).one_error(2, "--add", "leave out --shard")
    run("branch", "--from", "admissible", "--shard", "1/2", part).one_error(2, "of shard 1/3 already")
    run("import", "episodes", "--distinct", "--shard", "1/2", part).one_error(2, "--distinct", "leave out --shard")
    run("import", "messages", "--shard", "1/2", part).one_error(2, "messages", "leave out --shard")
    examples = tmp_path / "examples"
    examples.write_bytes(run("imitation-data", part).ok().out)
    for args in (("mix",), ("stats",), ("finetune", "-m", "tiny", "--dry-run", "-o", tmp_path / "run")):
        run(*args, examples).one_error(3 if args[0] == "stats" else 2, "shard", "eexp merge")
    unfinished = examples.read_bytes().splitlines(keepends=True)[:-1]  # without the line that ends a shard
    run("mix", _file(tmp_path / "part", unfinished)).one_error(2, "of shard 1/3", "eexp merge")
    played = run("eval", "house", "-m", "random", "-n", 4, "--shard", "1/2").ok().out.splitlines(keepends=True)
    run("compare", _file(tmp_path / "played", played[:-1])).one_error(2, "of shard 1/2", "eexp merge")
    assert "shard 1/3 record=" in run("show", part).ok().out.decode()


def test_a_value_of_shard_that_is_none(inputs, monkeypatch):
    run("branch", "--shard", "0/3", inputs["expert"]).one_error(2, "the first one is 1/3")
    run("branch", "--shard", "auto", inputs["expert"]).one_error(2, "SLURM_ARRAY_TASK_ID", "not set")
    for name, value in (("ID", "1"), ("COUNT", "2"), ("MIN", "0"), ("MAX", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    auto = run("imitation-data", "--shard", "auto", inputs["expert"]).ok().out
    assert auto == run("imitation-data", "--shard", "2/2", inputs["expert"]).ok().out


# -- any change of a line ----------------------------------------------------------------------------------------------


def _made(count: int, per_record: list[int]) -> tuple[list[dict], dict[str, list[bytes]]]:
    """Return what one run of an imagined stage writes, and the lines of its parts."""
    records = [{"type": "trajectory", "id": f"r{i}", "lineage": ["before"]} for i in range(len(per_record))]

    def stage(some):
        for record in some:
            for k in range(per_record[int(record["id"][1:])]):
                yield with_lineage({**record, "id": f"{record['id']}/{k}"}, "stage 1 seed=0")

    parts = {}
    for i in range(1, count + 1):
        share = Share(Shard(i, count))
        written = [dumps(record) for record in stage(share.of(records))]
        digest = LinesDigest()
        for line in written:
            digest.add(line)
        parts[f"part-{i}"] = [*written, share.end().after("stage 1 seed=0", len(written), str(digest)).line()]
    return list(stage(records)), parts


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("place")


def _merged(place: Path, parts: dict[str, list[bytes]]) -> list[dict]:
    for file in place.iterdir():
        file.unlink()
    for name, lines in parts.items():
        (place / name).write_bytes(b"".join(lines))
    return list(merge([str(place / name) for name in parts]))


RECORDS = st.lists(st.integers(0, 3), max_size=12)


@given(st.integers(1, 8), RECORDS, st.randoms())
def test_merging_gives_one_run(place, count, per_record, rng):
    whole, parts = _made(count, per_record)
    names = list(parts)
    rng.shuffle(names)
    assert _merged(place, {name: parts[name] for name in names}) == whole


@given(st.integers(1, 4), RECORDS.filter(any), st.data())
def test_no_line_can_go_come_or_move_unnoticed(place, count, per_record, data):
    whole, parts = _made(count, per_record)
    name = data.draw(st.sampled_from(sorted(parts)))
    lines = parts[name]
    i, j = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    changes = ["lost", "doubled", "overwritten", "edited", "swapped", "moved", "cut", "file lost", "file doubled"]
    what = data.draw(st.sampled_from(changes))
    if what == "lost":
        del lines[i]
    elif what == "doubled":
        lines.insert(j, lines[i])
    elif what == "overwritten":
        lines[i] = lines[j]
    elif what == "edited":
        lines[i] = lines[i].replace(b'"id":"', b'"id":"x', 1)
    elif what == "swapped":
        lines[i], lines[j] = lines[j], lines[i]
    elif what == "moved":
        parts[data.draw(st.sampled_from(sorted(parts)))].insert(0, lines.pop(i))
    elif what == "cut":
        lines[i:] = [lines[i][: data.draw(st.integers(0, len(lines[i]) - 2))]]
    elif what == "file lost":
        del parts[name]
    else:
        parts["copy"] = list(lines)
    try:
        merged = _merged(place, parts)
    except InputError as e:
        assert (
            any(str(place / one) in str(e) for one in (*parts, "part-")) or "missing" in str(e) or "no parts" in str(e)
        )
        return
    assert merged == whole

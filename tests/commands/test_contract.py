"""The contract of every stage that reads records, as part of a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import pytest
from conversations import messages_of
from running import EEXP, Result, environment, lines, read, run, spawn, start, write

from eexp.cli import COMMANDS


@dataclass(frozen=True)
class Stage:
    """One way to call a stage. reads: the name of its input in `inputs`; kind: the type of record in it.

    The kind is "foreign" where what it reads are no records of ours.
    """

    args: tuple[str, ...]
    reads: str
    kind: str = "trajectory"
    writes_records: bool = True
    streams: bool = True  # takes --on-error and --rejects
    any_type: bool = False  # takes every type of record
    same_type: bool = False  # passes its records on, enriched

    @property
    def name(self) -> str:
        return self.args[0]


STAGES = {
    "import": Stage(("import", "messages"), "messages", "foreign"),
    "import-rows": Stage(("import", "expert_sft"), "messages", "foreign"),
    "import-replayed": Stage(("import", "messages", "--env", "house"), "messages", "foreign"),
    "import-episodes": Stage(("import", "episodes"), "episodes", "episode"),
    "import-atif": Stage(("import", "atif"), "atif", "foreign"),
    "export-log": Stage(("export-log", "--format", "verifiers"), "rollout", writes_records=False, any_type=True),
    "export-rows": Stage(
        ("export-log", "--format", "sft"), "imitation", "example", writes_records=False, any_type=True
    ),
    "branch-admissible": Stage(("branch", "--from", "admissible", "-k", "2"), "expert", same_type=True),
    "branch-tiny": Stage(
        ("branch", "-m", "tiny", "-k", "2", "--max-tokens", "12", "--temperature", "3"), "one", same_type=True
    ),
    "rollout": Stage(("rollout",), "branched", same_type=True),
    "follow": Stage(("follow", "-m", "expert", "--steps", "3", "--first", "1"), "rollout", same_type=True),
    "correct": Stage(("correct", "--turns", "2"), "episodes-of-a-model", "episode"),
    "summarise": Stage(("summarise", "-m", "tiny", "--threads", "1"), "few-steps", same_type=True),
    "world-model-data": Stage(("world-model-data",), "rollout"),
    "world-model-data-tiny": Stage(
        ("world-model-data", "--predictable", "model", "-m", "tiny", "--threads", "1"), "few-steps"
    ),
    "reflect": Stage(("reflect", "--rationale", "outcome"), "rollout"),
    "imitation-data": Stage(("imitation-data",), "expert"),
    "reward": Stage(("reward",), "episodes-of-a-model", "episode", same_type=True),
    "policy-data": Stage(("policy-data", "--refused", "0.5"), "episodes-of-a-model", "episode"),
    "preference-data": Stage(("preference-data",), "rollout"),
    "recover": Stage(("recover",), "rollout", same_type=True),
    "relabel": Stage(("relabel",), "rollout"),
    "select": Stage(("select",), "expert", any_type=True, same_type=True),
    "split": Stage(("split", "--part", "1", "--part", "2"), "expert", any_type=True, same_type=True),
    "split-examples": Stage(
        ("split", "--part", "1", "--part", "2"), "imitation", "example", any_type=True, same_type=True
    ),
    "score": Stage(("score", "-m", "tiny", "--threads", "1"), "few-examples", "example", same_type=True),
    "mix": Stage(("mix",), "imitation", "example", streams=False, same_type=True),
    "show": Stage(("show", "-n", "1000"), "rollout", writes_records=False, streams=False),
    "show-row": Stage(
        ("show", "--row", "tiny"), "imitation", "example", writes_records=False, streams=False, any_type=True
    ),
    "stats": Stage(("stats",), "rollout", writes_records=False, streams=False),
    "show-summary": Stage(("show", "--summary"), "rollout", writes_records=False, streams=False),
}
#: Commands that are no stage of a pipe, which the tests at the end of this file or a file of their own cover.
NO_PIPE = {
    "expert": "reads no records; tests/commands/test_stages.py",
    "eval": "reads no records; tests/acting/test_eval.py",
    "panel": "reads records only to leave their tasks out; tests/commands/test_panel.py",
    "merge": "reads files by name; tests/commands/test_merge.py",
    "finetune": "writes a directory; below, and tests/training/test_finetune.py",
    "export": "reads a directory; tests/models/test_gguf_export.py",
    "compare": "reads files by name; below, and tests/commands/test_compare.py",
    "plan": "reads what runs took; tests/evidence/test_costing.py",
    "view": "writes a page; tests/viewer/test_view.py",
    "card": "reads files by name; tests/formats/test_data_card.py",
    "power": "reads files by name; tests/commands/test_compare.py",
    "report": "reads directories; below, and tests/commands/test_report.py",
    "prompts": "reads no records; tests/prompts/test_prompts.py",
    "env": "reads no records; tests/envs/test_env_command.py",
    "models": "reads no records; tests/whole/test_docs.py",
    "plugins": "reads no records; tests/commands/test_plugins.py",
    "schema": "reads no records; tests/records/test_records.py",
}
OURS = {name: stage for name, stage in STAGES.items() if stage.kind != "foreign"}
RECORDS = {name: stage for name, stage in STAGES.items() if stage.writes_records}
STREAMS = {name: stage for name, stage in STAGES.items() if stage.streams}
#: Those whose lines are read by code of their own, one of those that share it, one with workers and one with a model.
READ_APART = ("import", "import-atif", "rollout", "imitation-data", "score", "mix", "export-log", "show", "stats")
PASSES_ON = {name: stage for name, stage in STAGES.items() if stage.same_type}


def stages(which: dict[str, Stage], only: Container[str] = STAGES):
    """Run a test on stages; those beyond `only`, which share its code with others, are left to `make test-long`."""
    marks = {name: () if name in only else pytest.mark.long for name in which}
    return pytest.mark.parametrize("stage", [pytest.param(s, id=n, marks=marks[n]) for n, s in which.items()])


@pytest.fixture(scope="session")
def inputs(data, made_once) -> dict[str, Path]:
    """The shared data, and shorter files for what asks a model."""

    def make(here: Path) -> None:
        one = read(data["expert"])[0]
        one["steps"], one["outcome"] = one["steps"][:2], None
        write(here / "one.jsonl", [one])
        write(
            here / "few-steps.jsonl", [{**t, "steps": t["steps"][:2], "outcome": None} for t in read(data["rollout"])]
        )
        write(here / "few-examples.jsonl", read(data["imitation"])[:6])
        write(here / "messages.jsonl", map(messages_of, read(data["expert"])))
        run("export-log", "--format", "atif", "-q", data["expert"], "-o", here / "atif.jsonl").ok()
        play = ("-n", 3, "--trials", 2, "--temperature", 1, "--max-steps", 4, "--max-tokens", 12, "--threads", 1)
        run("eval", "house", "-m", "tiny", *play, "-q", "-o", here / "episodes-of-a-model.jsonl").ok()

    return {**data, **{file.stem: file for file in made_once("inputs", make).glob("*.jsonl")}}


@pytest.fixture(scope="session")
def plain(inputs, made_once) -> Callable[[Stage], Result]:
    """Run a stage on its input from standard input, once for all tests that compare with that."""
    results: dict[Stage, Result] = {}

    def result(stage: Stage) -> Result:
        if stage not in results:
            name = next(name for name, one in STAGES.items() if one is stage)

            def make(here: Path) -> None:
                result = run(*stage.args, stdin=inputs[stage.reads].read_bytes()).ok()
                (here / "out").write_bytes(result.out)
                (here / "err").write_text(result.err)

            here = made_once(f"plain-{name}", make)
            results[stage] = Result(0, (here / "out").read_bytes(), (here / "err").read_text())
        return results[stage]

    return result


def test_every_stage_of_a_pipe_is_here():
    here = {stage.name for stage in STAGES.values()}
    missing = set(COMMANDS) - here - NO_PIPE.keys()
    assert not missing, (
        f"add a Stage of {sorted(missing)} to STAGES, or name it in NO_PIPE with the tests that cover it"
    )
    assert not here & NO_PIPE.keys() and NO_PIPE.keys() <= set(COMMANDS)


@stages(STAGES)
def test_empty_input_is_no_error(stage: Stage):
    result = run(*stage.args).ok()
    assert result.out == b"" and ": no " in result.err


@stages(STAGES, only=READ_APART)
def test_blank_lines_are_passed_over_and_a_last_line_without_a_newline_counts(stage: Stage, inputs, plain):
    text = inputs[stage.reads].read_bytes()
    assert run(*stage.args, stdin=b"\n \n" + text.replace(b"\n", b"\n\r\n", 1) + b" \n").ok().out == plain(stage).out
    assert run(*stage.args, stdin=b"\n" + text[:-1]).ok().out == plain(stage).out


@stages(STAGES)
def test_a_file_a_dash_and_standard_input_are_the_same(stage: Stage, inputs, plain, tmp_path):
    """To a file and to standard output alike, and the same at every run; --quiet shows nothing."""
    file, out, rejects = inputs[stage.reads], tmp_path / "out", tmp_path / "rejects"
    from_stdin = plain(stage)
    rejects.write_text("of an older run\n")
    to_rejects = ("--rejects", rejects) if stage.streams else ()
    from_file = run(*stage.args, file, *(("-o", out, "--quiet") if stage.writes_records else ()), *to_rejects).ok()
    from_dash = run(*stage.args, "-", *(("-o", "-") if stage.writes_records else ()), stdin=file.read_bytes()).ok()
    if stage.streams:
        assert rejects.read_bytes() == b""
    if stage.writes_records:
        assert from_file.out == b"" and from_file.err == "" and f"{stage.name}: " in from_stdin.err
        from_file = Result(0, out.read_bytes(), "")
    assert from_stdin.out
    if stage.name == "mix":  # its lineage names the files
        assert _without_lineage(from_file.records) == _without_lineage(from_stdin.records)
        assert _without_lineage(from_dash.records) == _without_lineage(from_stdin.records)
    else:
        assert from_stdin.out == from_file.out == from_dash.out


def _without_lineage(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in r.items() if k != "lineage"} for r in records]


@stages(STAGES, only=READ_APART)
def test_several_files_are_read_in_order(stage: Stage, inputs, plain, tmp_path):
    all_lines = inputs[stage.reads].read_bytes().splitlines(keepends=True)
    if len(all_lines) < 2:
        all_lines = all_lines * 2
    half = len(all_lines) // 2
    for name, part in (("a", all_lines[:half]), ("b", all_lines[half:])):
        (tmp_path / name).write_bytes(b"".join(part))
    shuffle = ["--no-shuffle"] if stage.name == "mix" else []
    apart = run(*stage.args, *shuffle, tmp_path / "a", "-", stdin=(tmp_path / "b").read_bytes()).ok()
    as_in_plain = stage.name != "mix" and b"".join(all_lines) == inputs[stage.reads].read_bytes()
    together = plain(stage) if as_in_plain else run(*stage.args, *shuffle, stdin=b"".join(all_lines)).ok()
    if stage.name == "mix":
        assert _without_lineage(apart.records) == _without_lineage(together.records)
    else:
        assert apart.out == together.out


@stages(OURS)
def test_a_bad_line_is_named_with_file_line_and_field(stage: Stage, inputs, tmp_path):
    records = read(inputs[stage.reads])
    bad = json.loads(json.dumps(records[0]))
    if stage.kind == "trajectory":
        bad["steps"][1]["action"] = None
        where = "$.steps[1].action: expected a string, got null"
    elif stage.kind == "episode":
        bad["transcript"][1]["action"] = None
        where = "$.transcript[1].action: expected a string, got null"
    else:
        bad["prompt"][0]["content"] = 3
        where = "$.prompt[0].content: expected a string, got an integer"
    file = write(tmp_path / "bad.jsonl", [records[0], bad])
    assert run(*stage.args, file).one_error(3).endswith(f"{file}:2: {where}")
    assert f"<stdin>:2: {where}" in run(*stage.args, stdin=file.read_bytes()).one_error(3)


@stages(STAGES)
def test_a_line_that_is_no_json_is_named(stage: Stage, inputs, tmp_path):
    text = inputs[stage.reads].read_bytes().splitlines(keepends=True)[0]
    file = tmp_path / "bad.jsonl"
    file.write_bytes(text + b"{'single': 'quotes'}\n")
    run(*stage.args, file).one_error(3, f"{file}:2: not valid JSON")


@stages(STAGES)
def test_a_truncated_last_line_is_named(stage: Stage, inputs, tmp_path):
    text = inputs[stage.reads].read_bytes().splitlines(keepends=True)[0]
    file = tmp_path / "cut.jsonl"
    file.write_bytes(text + text[: len(text) // 2])
    run(*stage.args, file).one_error(3, f"{file}:2: not valid JSON", "the file ends within this line")


@stages({name: stage for name, stage in OURS.items() if stage.writes_records and not stage.any_type})
def test_another_type_of_record_is_refused(stage: Stage, inputs, tmp_path):
    other, wrong = ("imitation", "example") if stage.kind == "trajectory" else ("expert", "trajectory")
    run(*stage.args, inputs[other]).one_error(
        3, f"{inputs[other]}:1: $.type: expected a record of type {stage.kind}, got one of type {wrong}"
    )


@stages(OURS)
@pytest.mark.parametrize("line", [b"[]", b"3", b"null", b'"text"', b"{}", b'{"type": 3}', b'{"type": "nonsense"}'])
def test_a_line_that_holds_no_record_is_refused(stage: Stage, line: bytes):
    assert run(*stage.args, stdin=line + b"\n").one_error(3).startswith("error: <stdin>:1: $")


@stages(PASSES_ON)
def test_unknown_keys_are_passed_on(stage: Stage, inputs):
    records = read(inputs[stage.reads])
    for record in records:
        record["mine"] = {"deep": [1, {"x": None}], "é": "ü\u2028"}
        if stage.kind == "trajectory":
            record["task"]["mine"] = [True]
            for step in record["steps"]:
                step["mine"] = "step"
                for alternative in step.get("alternatives", []):
                    alternative["mine"] = "alternative"
        else:
            record["transcript" if stage.kind == "episode" else "prompt"][0]["mine"] = 1.5
    for record in run(*stage.args, stdin=lines(records)).ok().records:
        assert record["mine"] == {"deep": [1, {"x": None}], "é": "ü\u2028"}
        if stage.kind == "trajectory":
            assert record["task"]["mine"] == [True]
            assert all(step["mine"] == "step" for step in record["steps"])
            if stage.name == "rollout":
                assert all(a["mine"] == "alternative" for step in record["steps"] for a in step["alternatives"])
        else:
            assert record["transcript" if stage.kind == "episode" else "prompt"][0]["mine"] == 1.5


@stages(RECORDS)
def test_lineage_is_appended_and_last(stage: Stage, inputs, plain):
    before = read(inputs[stage.reads])[0].get("lineage", [])
    for record in plain(stage).records:
        assert next(iter(record)) == "type" and list(record)[-1] == "lineage"
        assert record["lineage"][:-1] == before
        assert record["lineage"][-1].startswith(f"{stage.name} ")


@stages(RECORDS)
def test_its_own_input_is_never_overwritten(stage: Stage, inputs, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(inputs[stage.reads].read_bytes())
    link = tmp_path / "link.jsonl"
    link.symlink_to(file)
    for target in (file, link):
        run(*stage.args, file, "-o", target).one_error(2, "both read and written")
    if stage.streams:
        run(*stage.args, file, "--rejects", link).one_error(2, "both read and written")
    assert file.read_bytes() == inputs[stage.reads].read_bytes()


@stages(RECORDS, only=("import", "select", "mix"))
def test_a_redirected_input_is_never_overwritten(stage: Stage, inputs, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(inputs[stage.reads].read_bytes())
    with open(file) as stdin:
        process = subprocess.run([*EEXP, *stage.args, "-o", file], stdin=stdin, capture_output=True, env=environment())
    assert process.returncode == 2 and b"both read and written" in process.stderr
    assert file.read_bytes() == inputs[stage.reads].read_bytes()


@stages(STREAMS)
def test_output_and_rejects_are_two_files(stage: Stage, inputs, tmp_path):
    out = tmp_path / "out"
    run(*stage.args, inputs[stage.reads], "-o", out, "--rejects", out).one_error(2, str(out))


@pytest.mark.parametrize("name", ["branch-admissible", "branch-tiny", "mix"])
def test_another_seed_gives_other_bytes(name: str, inputs):
    stage = STAGES[name]
    first = run(*stage.args, inputs[stage.reads]).ok().records
    other = run(*stage.args, "--seed", 1, inputs[stage.reads]).ok().records
    assert _without_lineage(first) != _without_lineage(other)


@pytest.mark.parametrize(
    "name",
    ["branch-admissible", "branch-tiny", "rollout", "reflect", "world-model-data", "world-model-data-tiny", "split"],
)
def test_the_output_of_a_record_depends_on_it_alone(name: str, inputs):
    """Order and other records change nothing, so parts of a file can be processed in parallel."""
    stage = STAGES[name]
    records = read(inputs[stage.reads])
    if len(records) == 1:
        records.append({**records[0], "id": "another"})
    forth = run(*stage.args, stdin=lines(records)).ok().out.splitlines()
    alone = [line for r in records for line in run(*stage.args, stdin=lines([r])).ok().out.splitlines()]
    assert forth == alone


@stages({name: stage for name, stage in OURS.items() if stage.streams})
def test_bad_records_are_set_aside_when_asked(stage: Stage, inputs, plain, tmp_path):
    good = inputs[stage.reads].read_bytes().splitlines(keepends=True)
    bad = json.loads(good[0])
    places = {"trajectory": ("steps", "observation"), "episode": ("transcript", "observation")}
    place, field = places.get(stage.kind, ("prompt", "content"))
    del bad[place][0][field]
    text = good[0] + b"not json\n" + lines([bad]) + b"".join(good[1:])
    rejects = tmp_path / "rejects.jsonl"
    result = run(*stage.args, "--on-error", "skip", "--rejects", rejects, stdin=text).ok(4)
    assert result.out == plain(stage).out
    first, second = read(rejects)
    assert first["type"] == "reject" and first["stage"] == stage.name
    assert (first["file"], first["line"], first["record"]) == ("<stdin>", 2, {"text": "not json\n"})
    assert (second["line"], second["field"]) == (3, f"$.{place}[0].{field}")
    assert "missing" in second["error"]
    assert "2 set aside" in result.err and result.err.count("set aside: <stdin>:") == 2
    if stage.name == "select":
        # naming a file for rejects is asking for them; skipping without keeping them is possible as well
        assert run(*stage.args, "--rejects", rejects, stdin=text).ok(4).out == result.out
        assert run(*stage.args, "--on-error", "skip", stdin=text).ok(4).out == result.out


@pytest.fixture(scope="session")
def long_input(inputs, tmp_path_factory) -> dict[str, Path]:
    """Inputs whose outputs are far larger than a pipe holds (64 KiB)."""
    here, files = tmp_path_factory.mktemp("long"), {}
    for name in {stage.reads for stage in STAGES.values()} | {"episodes"}:
        text = inputs[name].read_bytes()
        copies = 300 if name == "one" else 1 + 400_000 // len(text)
        files[name] = here / name
        files[name].write_bytes(text * copies)
    return files


@stages(STAGES, only=("import", "export-log", "branch-tiny", "rollout", "score", "mix", "show", "stats"))
def test_a_closed_pipe_is_no_error(stage: Stage, long_input, plain):
    """`| head -1`: quiet, exit code 0, and the stage stops."""
    child = start(*stage.args, long_input[stage.reads], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read().decode()
    assert child.wait(60) == 0, err
    assert "Traceback" not in err and "Broken" not in err and "error" not in err.lower(), err
    if stage.writes_records and stage.name != "mix":
        assert first == plain(stage).out.splitlines(keepends=True)[0]


def test_a_whole_pipe_with_head_at_its_end(long_input, tmp_path):
    eexp = " ".join(EEXP)
    script = f"""
        {eexp} branch -q --from admissible {long_input["expert"]} \\
            | {eexp} rollout -q | {eexp} imitation-data -q | head -1
        echo "${{PIPESTATUS[@]}}" """
    process = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(), timeout=120)
    assert process.stdout.splitlines()[-1] == "0 0 0 0", process.stderr
    assert process.stderr == ""


def test_records_flow_before_the_input_ends(inputs):
    """A stage answers each record at once, so the next one in the pipe can start."""
    text = inputs["expert"].read_bytes().splitlines(keepends=True)[0]
    child = start("branch", "--from", "admissible", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(text)
    child.stdin.flush()
    assert json.loads(child.stdout.readline())["type"] == "trajectory"
    child.stdin.close()
    assert child.wait(60) == 0
    child.stdout.close()


@pytest.mark.parametrize("full", ["/dev/full"])
def test_a_full_disk_is_one_line(full, inputs):
    if not Path(full).exists():
        pytest.skip("no /dev/full here")
    spawn("imitation-data", inputs["expert"], "-o", full).one_error(1, "No space left")
    with open(full, "wb") as out:
        process = subprocess.run(
            [*EEXP, "imitation-data", inputs["expert"]], stdout=out, stderr=subprocess.PIPE, env=environment()
        )
    assert process.returncode == 1 and process.stderr.count(b"\n") == 1, process.stderr


def test_a_notice_on_a_terminal_says_that_records_are_awaited():
    """A person who forgot the input sees what the command waits for."""
    import os
    import pty

    parent, child = pty.openpty()
    process = start("imitation-data", stdin=child, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    os.close(child)
    assert b"waiting for records on standard input" in process.stderr.readline()
    os.write(parent, b"\x04")
    assert process.wait(30) == 0
    process.stderr.close()
    os.close(parent)


# -- compare reads files by name, finetune writes a directory: what of the contract applies to them ------------------


def test_compare_reads_a_dash_and_names_bad_lines(data, tmp_path):
    episodes = data["episodes"].read_bytes()
    assert run("compare", "a=-", stdin=episodes).ok().out == run("compare", f"a={data['episodes']}").ok().out
    bad = tmp_path / "bad.jsonl"
    broken = {**read(data["episodes"])[0], "success": "yes"}
    bad.write_bytes(lines([broken]))
    run("compare", bad).one_error(3, f"{bad}:1: $.success: expected true or false or null, got a string")
    bad.write_bytes(episodes[:-20])
    run("compare", bad).one_error(3, f"{bad}:4: not valid JSON", "the file ends within this line")
    run("compare", data["expert"]).one_error(3, f"{data['expert']}:1: $.type")


def test_compare_refuses_files_without_episodes(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    run("compare", tmp_path / "empty.jsonl").one_error(3, "no episodes")


def test_compare_writes_the_same_bytes_twice_and_keeps_quiet(data):
    first, second = (run("compare", data["episodes"], "--json").ok() for _ in range(2))
    assert first.out == second.out and first.err == ""


# -- report reads directories and writes one page -------------------------------------------------------------------


def test_report_names_bad_lines(data, tmp_path):
    file = tmp_path / "a.episodes.jsonl"
    episodes = data["episodes"].read_bytes()
    file.write_bytes(lines([{**read(data["episodes"])[0], "success": "yes"}]))
    run("report", tmp_path, "-o", "-").one_error(
        3, f"{file}:1: $.success: expected true or false or null, got a string"
    )
    file.write_bytes(episodes[:-20])
    run("report", tmp_path, "-o", "-").one_error(3, f"{file}:4: not valid JSON", "the file ends within this line")
    file.write_bytes(data["expert"].read_bytes())
    run("report", tmp_path, "-o", "-").one_error(3, f"{file}:1: $.type")
    file.write_bytes(b"")
    run("report", tmp_path, "-o", "-").one_error(3, "a.episodes.jsonl): no episodes")


def test_report_writes_the_same_bytes_twice_to_a_file_and_to_standard_output(data, tmp_path):
    (tmp_path / "a.episodes.jsonl").write_bytes(data["episodes"].read_bytes())
    page = tmp_path / "report.html"
    assert str(page) in run("report", tmp_path, "-o", page).ok().err
    assert run("report", tmp_path, "-q", "-o", tmp_path / "again.html").ok().err == ""
    to_stdout = run("report", tmp_path, "-o", "-").ok()
    assert page.read_bytes() == (tmp_path / "again.html").read_bytes() == to_stdout.out and to_stdout.err == ""


def test_report_overwrites_no_records_and_names_a_full_disk(data, tmp_path):
    file = tmp_path / "a.episodes.jsonl"
    file.write_bytes(data["episodes"].read_bytes())
    run("report", tmp_path, "-o", file).one_error(2, "both read and written")
    (tmp_path / "link").symlink_to(file)
    run("report", tmp_path, "-o", tmp_path / "link").one_error(2, "both read and written")
    assert file.read_bytes() == data["episodes"].read_bytes()
    run("report", tmp_path, "-o", tmp_path / "none" / "x.html").one_error(1, "No such file or directory")
    if Path("/dev/full").exists():
        run("report", tmp_path, "-o", "/dev/full").one_error(1, "No space left")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no examples to train on"),
        (b"{}\n", '<stdin>:1: $.type: expected "example", got nothing'),
        (b'{"type": "example", "id": "1"', "<stdin>:1: not valid JSON"),
        (b'{"type": "trajectory"}\n', "<stdin>:1: $.type: expected a record of type example"),
        (b'{"type": "example", "id": "1", "kind": "x", "prompt": [], "completion": []}\n', "<stdin>:1: $.prompt"),
    ],
)
def test_finetune_names_bad_input(text, message, tmp_path):
    run("finetune", "-m", "tiny", "-o", tmp_path / "run", stdin=text).one_error(3, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupting_a_stage_is_quiet(name, inputs):
    """Ctrl-C, or `kill`, on a stage that waits for its input."""
    import signal
    import time

    child = start("imitation-data", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdin.write(inputs["expert"].read_bytes())
    child.stdin.flush()
    child.stdout.readline()  # it runs
    time.sleep(0.2)
    child.send_signal(signal.Signals[name])
    assert child.wait(30) == 128 + signal.Signals[name]
    err = child.stderr.read()
    assert b"Traceback" not in err and b"imitation-data: interrupted" in err
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()

"""`eexp panel` and `eexp eval --panel`: the same tasks, whatever the order of a file, and none that was trained on."""

from __future__ import annotations

import random

import pytest
from running import ROOT, lines, read, run, write

from eexp.acting.play import panel
from eexp.envs.task_names import TaskNames, draw, names_of
from eexp.envs.worlds.house import House
from eexp.evidence.panels import make_panel, panel_hash


def _bare(records):
    return [{k: v for k, v in r.items() if k not in ("lineage", "panel")} for r in records]


def _hash(result) -> str:
    """Return the hash that a run of `eexp panel` reports."""
    return result.err.split("panel: ")[1][:16]


def test_a_panel_is_what_eval_plays(tmp_path):
    result = run("panel", "house", "-n", 5).ok()
    assert [r["task"] for r in result.records] == panel(House(), "test", 5)
    assert _hash(result) == panel_hash(result.records)
    file = write(tmp_path / "panel.jsonl", result.records)
    episodes = run("eval", "--panel", file, "-m", "random").ok().records
    assert {e["panel"] for e in episodes} == {_hash(result)} and panel_hash(episodes) == _hash(result)
    assert _bare(episodes) == _bare(run("eval", "house", "-n", 5, "-m", "random").ok().records)
    assert [e["kind"] for e in episodes] == [House().kind_of(e["task"]) for e in episodes]


def test_the_order_of_a_panel_does_not_matter(tmp_path):
    records = run("panel", "house", "-n", 4, "--split", "test", "--split", "ood").ok().records
    assert [r["split"] for r in records] == ["test"] * 4 + ["ood"] * 4
    whole = write(tmp_path / "a.jsonl", records)
    shuffled = [*records, records[0]]
    random.Random(3).shuffle(shuffled)
    mixed = write(tmp_path / "b.jsonl", [{**r, "note": "more keys"} for r in shuffled])
    first, second = (run("eval", "--panel", file, "-m", "random", "--max-steps", 3).ok() for file in (whole, mixed))
    assert first.out == second.out and len(first.records) == 8
    one = write(tmp_path / "one.jsonl", records[:1])
    assert run("eval", "house", "--panel", one, "-m", "random").ok().records[0]["panel"] == panel_hash(records[:1])


def test_panels_are_parts_of_larger_ones_and_do_not_depend_on_the_order_of_tasks():
    env = House()
    large = list(make_panel(env, ["test"], 50))
    assert list(make_panel(env, ["test"], 20)) == large[:20]
    tasks = list(env.tasks("test"))
    random.Random(0).shuffle(tasks)
    assert draw(tasks, 50) == [line["task"] for line in large]
    other = list(make_panel(env, ["test"], 50, seed=1))
    assert panel_hash(other) != panel_hash(large) and list(make_panel(env, ["test"], 50, seed=1)) == other
    assert panel_hash(reversed(large)) == panel_hash(large) == panel_hash([*large, large[3]])
    assert panel_hash([]) != panel_hash(large[:1])


def test_kinds_of_tasks():
    env = House()
    tasks = list(env.tasks("test"))[:40]
    for task in tasks:
        env.reset(task)
        instruction = env.instruction()
        assert env.kind_of(tasks[0]) == House().kind_of(tasks[0])
        assert env.instruction() == instruction, "the current episode is left as it is"
    assert {env.kind_of(task) for task in tasks} == {"put", "wash", "heat", "cool", "examine"}


def test_tasks_that_were_trained_on_are_left_out(tmp_path, data):
    """Tasks are recognised in trajectories, episodes, examples and panels."""
    expert = read(data["expert"])
    trained = {r["task"]["id"] for r in expert}
    result = run("panel", "house", "--split", "train", "-n", 100, "--apart-from", data["expert"]).ok()
    assert not trained & {r["task"]["id"] for r in result.records} and "left out" in result.err
    assert run("panel", "house", "--split", "train", "-q").ok().err == ""
    apart = write(tmp_path / "apart.jsonl", result.records)
    trained_task = {"type": "task", "env": "house", "task": expert[0]["task"]}
    with_one = write(tmp_path / "with.jsonl", [*result.records, trained_task])
    for name in ("expert", "branched", "imitation", "world", "reflected"):
        assert "none of which" in run("panel", "--check", apart, "--apart-from", data[name]).ok().err
    for name in ("expert", "imitation"):
        run("panel", "--check", with_one, "--apart-from", data[name]).one_error(
            1, "1 of 101 tasks also occur in", f"such as house {expert[0]['task']['id']}"
        )
    run("panel", "--check", apart, "--apart-from", apart).one_error(1, "100 of 100 tasks")


def test_names_of_tasks():
    assert names_of({"type": "example", "group": "house/test/3/0"}) == {"house/test/3/0", "house/test/3"}
    task = {"env": "house?noise=0.1", "task": {"id": "test/3"}}
    assert names_of({"type": "task", **task}) == {"house/test/3"}
    assert names_of({"type": "example", "group": "noisy:0.1:babyai?level=GoTo/GoTo/3"}) == {
        "babyai/GoTo/3",
        "babyai/GoTo",
    }
    assert "house/test/3" in names_of({"type": "trajectory", "id": "x", "origin": "house/train/1", **task})


def test_settings_with_slashes_are_no_part_of_a_task():
    def task(file: str) -> dict:
        return {"type": "task", "env": f"searchqa?questions={file}&top=5", "task": {"id": "train/1"}}

    def example(file: str, number: int) -> dict:
        return {"type": "example", "group": f"searchqa?top=3&questions={file}/train/{number}/0"}

    held_out = TaskNames([task("a/q.jsonl")])
    assert task("/data/q.jsonl") in held_out and example("/data/q.jsonl", 1) in held_out
    assert example("/data/q.jsonl", 2) not in held_out
    assert task("b/q.jsonl") in TaskNames([example("/data/q.jsonl", 1)])
    assert task("b/q.jsonl") not in TaskNames([example("/data/q.jsonl", 2)])


@pytest.mark.parametrize("from_panel", [False, True], ids=["split", "panel"])
def test_shards_together_are_the_whole(from_panel, tmp_path):
    panel = tmp_path / "panel"
    run("panel", "house", "-n", 7, "-o", panel).ok()
    args = ["eval", *(["--panel", panel] if from_panel else ["house"]), "-m", "random", "--max-steps", 2, "--seed", 5]
    whole = run(*args, "-n", 5).ok().out
    assert run(*args, "-n", 2).ok().out + run(*args, "--skip", 2, "-n", 3).ok().out == whole
    if from_panel:
        assert whole + run(*args, "--skip", 5).ok().out == run(*args).ok().out
        beyond = run(*args, "--skip", 9).ok()
        assert beyond.out == b"" and "no tasks left after the first 9" in beyond.err


def test_unsuitable_arguments_and_panels_are_refused(tmp_path):
    good = run("panel", "house", "-n", 2).ok().records
    file = write(tmp_path / "p.jsonl", good)
    run("eval", "--panel", file, "--split", "ood", "-m", "random").one_error(2, "leave out --split")
    run("eval", "babyai", "--panel", file, "-m", "random").one_error(2, f"{file}: a panel of house, not of babyai")
    run("eval", "-m", "random").one_error(2, "Missing argument 'ENV'")
    two = write(tmp_path / "two.jsonl", [good[0], {**good[1], "env": "babyai"}])
    run("eval", "--panel", two, "-m", "random").one_error(3, "several environments: babyai, house")
    double = write(tmp_path / "double.jsonl", [good[0], {**good[0], "task": {**good[0]["task"], "world": "x"}}])
    run("eval", "--panel", double, "-m", "random").one_error(3, "two different tasks of house")
    empty = write(tmp_path / "empty.jsonl", [])
    run("eval", "--panel", empty, "-m", "random").one_error(3, "no tasks in this panel")
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(lines([good[0]]) + b'{"type": "task"}\n')
    run("eval", "--panel", broken, "-m", "random").one_error(3, f"{broken}:2: $.env: missing")
    run("panel", "house", "--split", "tset").one_error(2, "house has no split 'tset'")
    run("panel", "house", "-n", 3000).one_error(1, "house has only 2000 tasks of test, not 3000")
    run("panel").one_error(2, "Missing argument 'ENV'")
    run("panel", "--check", file).one_error(2, "--check needs --apart-from")
    run("panel", "--check", file, "-n", 3, "--apart-from", file).one_error(2, "leave out --split, -n and -o")
    run("panel", "house", "--apart-from", broken).one_error(3, f"{broken}:2: $.env: missing")
    run("panel", "house", "-n", 1, "--apart-from", file, "-o", file).one_error(2, "both read and written")


def test_a_panel_is_played_with_noise_on_observations(tmp_path):
    file = write(tmp_path / "p.jsonl", run("panel", "house", "-n", 3).ok().records)
    plain, noisy = (
        run("eval", *env, "--panel", file, "-m", "random").ok().records for env in ((), ("noisy:0.2:house",))
    )
    assert {e["panel"] for e in noisy} == {e["panel"] for e in plain} and {e["env"] for e in noisy} == {
        "noisy:0.2:house"
    }
    assert [(e["task"], e["kind"]) for e in noisy] == [(e["task"], e["kind"]) for e in plain]
    assert panel_hash(noisy) == panel_hash(plain)
    # A panel of an environment with noise is one of the environment.
    assert _bare(run("panel", "noisy:0.2:house", "-n", 3).ok().records) == _bare(read(file))
    older = write(tmp_path / "older.jsonl", [{**line, "env": "noisy:0.2:house"} for line in read(file)])
    for env in ((), ("noisy:0.2:house",)):
        assert _bare(run("eval", *env, "--panel", older, "-m", "random").ok().records) == _bare(noisy)


def test_a_panel_runs_no_program_that_the_command_line_does_not_name(tmp_path):
    env = f"exec:touch {tmp_path / 'ran'}"
    for spec in (env, f"noisy:0.1:{env}"):
        line = {"type": "task", "env": spec, "split": "test", "task": {"id": "test/1", "split": "test"}}
        file = write(tmp_path / "p.jsonl", [line])
        run("eval", "--panel", file, "-m", "random").one_error(3, f"{file}: a panel of", "allow it by naming it")
        assert not (tmp_path / "ran").exists()
    safe = f"exec:sh {ROOT / 'examples/safe.sh'}"
    file = write(tmp_path / "p.jsonl", run("panel", safe, "-n", 2).ok().records)
    assert len(run("eval", safe, "--panel", file, "-m", "random").ok().records) == 2


def test_an_unknown_task_is_a_bad_record(tmp_path):
    lines = run("panel", "house", "-n", 2).ok().records
    lines.append({**lines[0], "task": {"id": "test/none", "split": "test"}})
    file, rejects = write(tmp_path / "p.jsonl", lines), tmp_path / "rejects.jsonl"
    run("eval", "--panel", file, "-m", "random").one_error(3, "house/test/none/0: $.task.id: house has no task")
    played = run("eval", "--panel", file, "-m", "random", "--on-error", "skip", "--rejects", rejects).ok(4)
    assert len(played.records) == 2 and len(read(rejects)) == 1


def test_another_panel_is_not_resumed(tmp_path):
    records = run("panel", "house", "-n", 3).ok().records
    first, second = (write(tmp_path / f"{i}.jsonl", records[i : i + 2]) for i in range(2))
    out = tmp_path / "e.jsonl"
    run("eval", "--panel", first, "-m", "random", "-o", out).ok()
    run("eval", "--panel", second, "-m", "random", "-o", out, "--resume").one_error(2, "give the same options")
    assert len(read(out)) == 2


@pytest.mark.parametrize("n", [1, 7])
def test_panels_of_panels_add_up(n):
    """The concatenation of two panels is the panel of both."""
    env = House()
    test, ood = list(make_panel(env, ["test"], n)), list(make_panel(env, ["ood"], n))
    assert panel_hash([*ood, *test]) == panel_hash(make_panel(env, ["test", "ood"], n))

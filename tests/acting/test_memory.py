"""`eexp eval --recall`: the most similar past episodes stand before the state, as they are."""

from __future__ import annotations

import pytest
from running import read, run, write
from test_eval import Drawing, play, tasks

from eexp.acting.recall import Memory
from eexp.envs.worlds.house import House
from eexp.errors import InputError, UsageError
from eexp.prompts import get_style
from eexp.workers.parallel import LocalEnvironments

STYLE = get_style("react")


def past(name: str, instruction: str, observation: str = "You are in a room.") -> dict:
    steps = [{"observation": observation, "action": f"act on {name}"}]
    return {"type": "trajectory", "id": name, "task": {"id": name}, "instruction": instruction, "steps": steps}


PAST = [past("a", "Put the hot apple on the bed."), past("b", "Clean the pan."), past("c", "Put the egg on the bed.")]


def test_the_most_similar_come_last_and_the_task_itself_never():
    memory = Memory(PAST)

    def recalled(instruction: str, number: int, task: str = "new") -> list[str]:
        return [record["id"] for record in memory.recall({"id": task}, instruction, "You are in a room.", number)]

    assert recalled("Put the cold apple on the bed.", 1) == ["a"]
    assert recalled("Put the cold apple on the bed.", 2) == ["c", "a"]
    assert recalled("Put the cold apple on the bed.", 2, task="a") == ["b", "c"]
    assert sorted(recalled('Do "this" AND NOT that*', 9)) == ["a", "b", "c"]


def test_an_empty_memory_is_told():
    with pytest.raises(InputError, match="no episode to remember"):
        Memory([])
    with pytest.raises(InputError, match="a: has no turns"):
        Memory([{**PAST[0], "steps": []}])


def test_what_is_recalled_stands_before_the_task_as_turns():
    steps = [{"observation": "A hall.", "action": "go on"}]
    plain = STYLE.act("Get out.", steps, "A door.")
    prompt = STYLE.act("Get out.", steps, "A door.", recalled=[(p["instruction"], p["steps"]) for p in PAST[:2]])
    assert [prompt[0], *prompt[5:]] == plain
    assert [m["role"] for m in prompt[1:5]] == ["user", "assistant"] * 2
    assert "Put the hot apple" in prompt[1]["content"] and prompt[2]["content"] == "Action: act on a"
    assert STYLE.act("Get out.", steps, "A door.", recalled=[]) == plain


def test_episodes_say_what_was_recalled(tmp_path):
    run("eval", "house", "-m", "expert", "--split", "train", "-n", 8, "-q", "-o", tmp_path / "past").ok()
    memory = Memory(read(tmp_path / "past"))
    episodes = play(LocalEnvironments(House, 3), tasks(4), Drawing().policy(), memory=memory, recall_count=2)
    known = {e["id"] for e in read(tmp_path / "past")}
    assert all(len(e["recalled"]) == 2 and set(e["recalled"]) <= known for e in episodes)
    result = run("eval", "house", "-n", 2, "--max-steps", 2, "--threads", 1, "--recall", tmp_path / "past").ok()
    plain = run("eval", "house", "-n", 2, "--max-steps", 2, "--threads", 1).ok()
    assert all(len(e["recalled"]) == 1 for e in result.records) and "recalled" not in plain.records[0]
    run("eval", "house", "-n", 1, "--recall-count", 2).one_error(2, "--recall FILE")
    run("eval", "house", "-n", 1, "--recall", write(tmp_path / "none", [])).one_error(3, "no episode")


def test_examples_have_the_prompts_of_play(tmp_path):
    """What imitation-data recalls before a state is what eval recalls there, to the byte."""
    run("expert", "house", "-n", 6, "-q", "-o", tmp_path / "past").ok()
    past = read(tmp_path / "past")
    trajectory = past[0]
    args = ("imitation-data", "--recall", tmp_path / "past", "--recall-count", 2, write(tmp_path / "one", [trajectory]))
    examples = run(*args).ok().records
    recalled = [
        (r["instruction"], r["steps"])
        for r in Memory(past).recall(
            trajectory["task"], trajectory["instruction"], trajectory["steps"][0]["observation"], 2
        )
    ]
    assert len(examples) == len(trajectory["steps"])
    for i, (example, step) in enumerate(zip(examples, trajectory["steps"])):
        prompt = STYLE.act(trajectory["instruction"], trajectory["steps"][:i], step["observation"], recalled=recalled)
        assert example["prompt"] == prompt
    assert "recall-count=2" in examples[0]["lineage"][-1]
    run("imitation-data", "--recall-count", 2, tmp_path / "one").one_error(2, "--recall FILE")
    run("imitation-data", "--recall", "-", tmp_path / "one").one_error(2, "--recall takes a file")
    none = write(tmp_path / "none", [])
    run("imitation-data", "--recall", none, tmp_path / "one").one_error(3, "none: holds no episode to remember")


def test_recalled_episodes_lose_their_thoughts_where_examples_have_none(tmp_path):
    thinking = [
        {**p, "env": "world", "task": {"id": n}, "steps": [{**step, "thought": "Why not?"} for step in p["steps"]]}
        for n, p in enumerate(PAST)
    ]
    file = write(tmp_path / "thinking", thinking)
    style = tmp_path / "keeping.toml"
    words = run("prompts", "show", "think").ok().out.decode()
    style.write_text(words.replace('thoughts = "drop"', 'thoughts = "keep"'))
    args = ("imitation-data", "--prompt-style", style, "--recall", file, file)
    assert b"Why not?" in run(*args).ok().out
    assert b"Why not?" not in run(*args, "--no-thoughts").ok().out


def test_tasks_without_ids_are_told_apart_by_what_they_are():
    memory = Memory([{**p, "task": {"goal": p["instruction"]}} for p in PAST])
    found = memory.recall({"goal": "Clean the pan."}, "Clean the pan.", "You are in a room.", 9)
    assert sorted(record["id"] for record in found) == ["a", "c"]


def test_tool_calls_cannot_be_recalled():
    with pytest.raises(UsageError, match="past episodes cannot be recalled as tool calls"):
        get_style("tools").act("Get out.", [], "A door.", recalled=[("Leave.", PAST[0]["steps"])])

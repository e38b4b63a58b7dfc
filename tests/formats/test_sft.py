"""Rows of messages in the form of the authors' files: what becomes an example, what is refused, and the way back."""

from __future__ import annotations

import json

import pytest
from running import lines, read, run, write

from eexp.records.spans import spans_of

SYSTEM = {"role": "system", "content": "You are in a small laboratory."}
AGENT = "assistant"


def row(*turns: tuple[str, str], system: bool = True, **more: object) -> dict:
    messages = [{"role": role, "content": text} for role, text in turns]
    return {"messages": [*([SYSTEM] if system else []), *messages], **more}


def imported(format: str, *rows: dict, options: tuple = ()) -> list[dict]:
    return run("import", format, *options, stdin=lines(list(rows))).ok().records


def parts(example: dict) -> dict[str, str]:
    text = example["completion"][-1]["content"]
    return {span.name: text[span.start : span.end] for span in spans_of(example)}


def react(thought: str, action: str) -> tuple[str, str]:
    return (AGENT, f"Thought:\n{thought}\n\nAction:\n{action}")


def call(function: str, **arguments: object) -> dict:
    return {"id": "c0", "type": "function", "function": {"name": function, "arguments": json.dumps(arguments)}}


#: An episode as the files of ScienceWorld and TextCraft have it: all turns in one row.
EPISODE = row(
    ("user", "Boil water.\nThis room is the kitchen."),
    react("A pot is needed.", "take pot"),
    ("user", "You take the pot."),
    (AGENT, "Action:\nfill pot"),
    ("user", "The pot is full."),
)


def test_every_answer_of_an_episode_is_an_example():
    first, second = imported("expert_sft", EPISODE, options=("--name", "lab"))
    assert [e["id"] for e in (first, second)] == ["lab/1/0/imitation", "lab/1/1/imitation"]
    assert {e["group"] for e in (first, second)} == {"lab/1"} and first["kind"] == second["kind"] == "imitation"
    assert first["prompt"] == EPISODE["messages"][:2] and second["prompt"] == EPISODE["messages"][:4]
    assert parts(first) == {"thought": "Thought:\nA pot is needed.\n\n", "action": "Action:\ntake pot"}
    assert parts(second) == {"action": "Action:\nfill pot"}


def test_rows_that_are_beginnings_of_one_episode_give_each_answer_once():
    """The files of tau-bench: calls of tools, one row for every answer, and metadata that name the episode."""
    turns = [
        SYSTEM,
        {"role": "user", "content": "I want my order."},
        {"role": AGENT, "content": "", "tool_calls": [call("find_user", name="Ada", zip="19")]},
        {"role": "tool", "tool_call_id": "c0", "name": "find_user", "content": "ada_1"},
        {"role": AGENT, "content": "It is on its way."},
    ]
    rows = [
        {
            "messages": turns[:end],
            "tools": [{"type": "function"}],
            "metadata": {"task_id": 316, "trial": 1, "obs_idx": end - 1, "kind": kind},
        }
        for end, kind in ((3, "tool"), (5, "respond"))
    ]
    first, second = imported("expert_sft", *rows)
    assert [e["id"] for e in (first, second)] == [
        "expert_sft/316/1/0/imitation",
        "expert_sft/316/1/1/imitation",
    ]
    assert parts(first) == {"action": "find_user(name='Ada', zip='19')"}
    assert second["prompt"][2:] == [
        {"role": AGENT, "content": "find_user(name='Ada', zip='19')"},
        {"role": "tool", "content": "ada_1"},
    ]
    assert parts(second) == {"action": "It is on its way."}


def test_a_row_of_the_world_model_is_one_example():
    told = row(
        ("user", "Boil water.\nKitchen.\n\nAction:\ntake pot"), (AGENT, "Observation:\nYou take it."), case_id="b_7"
    )
    first, second = imported("iwm_sft", told, told)
    assert parts(first) == {"observation": "Observation:\nYou take it."}
    assert first["kind"] == "world_model" and first["target"] == "observation"
    assert [e["id"] for e in (first, second)] == ["iwm_sft/b_7/0/world_model", "iwm_sft/b_7/0/world_model#2"]


@pytest.mark.parametrize(
    ("answer", "thought", "action"),
    [
        (
            {"content": "Thought:\nA pot.\n\nSo I take it.\n\nAction:\ntake pot"},
            "Thought:\nA pot.\n\nSo I take it.\n\n",
            "Action:\ntake pot",
        ),
        (
            {"content": "<think>A pot.</think><action>take pot</action>"},
            "<think>A pot.</think>",
            "<action>take pot</action>",
        ),
        ({"content": 'A flight.\n\n{"day": 1, "cost": 474}'}, "A flight.\n\n", '{"day": 1, "cost": 474}'),
        (
            {"content": "A name.", "tool_calls": [call("find_user", name="Ada"), call("ls")]},
            "A name.\n\n",
            "find_user(name='Ada')\nls()",
        ),
        ({"content": None, "tool_calls": [call("ls")]}, None, "ls()"),
        ({"content": "The rule is clear.\n\nIt is on its way."}, None, "The rule is clear.\n\nIt is on its way."),
    ],
)
def test_a_reflection_has_its_thought_and_its_action_where_they_can_be_told_apart(answer, thought, action):
    record = {"messages": [{"role": "user", "content": "Kitchen."}, {"role": AGENT, **answer}]}
    (example,) = imported("reflection_sft", record)
    assert parts(example) == ({"thought": thought} if thought else {}) | {"action": action}
    assert example["kind"] == "reflection" and example["prompt_style"] == ""


def test_only_the_last_answer_of_a_reflection_is_learned():
    (example,) = imported(
        "reflection_sft", row(("user", "A."), (AGENT, "Action:\nx"), ("user", "B."), react("Why.", "y"))
    )
    assert len(example["prompt"]) == 4 and example["id"] == "reflection_sft/1/1/reflection"


def test_a_file_may_be_one_array(tmp_path):
    file = tmp_path / "iwm_sft.jsonl"
    file.write_text(json.dumps([row(("user", "A."), (AGENT, "B."))] * 2, indent=2))
    assert len(run("import", "iwm_sft", file).ok().records) == 2


BAD = [
    ({"text": "A."}, "$.messages: missing"),
    ({"messages": "A."}, "$.messages: expected an array"),
    ({"messages": []}, "$.messages: the last message is not the assistant's"),
    (row(("user", "A.")), "$.messages: the last message is not the assistant's"),
    (row(("user", "A."), ("gpt", "B.")), "$.messages[2].role: expected system or user or assistant or tool"),
    (row(("user", "A."), (AGENT, " ")), "$.messages[2]: the last message is empty"),
    ({"messages": [SYSTEM, {"role": AGENT, "content": 3}]}, "$.messages[1].content: expected a string"),
    (row(("user", "A."), (AGENT, "B."), metadata={"eexp": {"type": "example"}}), "$.metadata.eexp.id: missing"),
    (
        row(("user", "A."), (AGENT, "B."), metadata={"eexp": {"type": "example", "id": "a", "kind": "imitation"}}),
        "$.metadata.eexp.kind: an example of kind imitation, which is read as expert_sft",
    ),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_bad_row_is_told_in_one_line(record, message):
    run("import", "iwm_sft", stdin=lines([record])).one_error(3, f"<stdin>:1: {message}")


def test_bad_rows_are_set_aside(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    good = row(("user", "A."), (AGENT, "B."))
    given = [good, *(record for record, _ in BAD), good]
    result = run("import", "iwm_sft", "--rejects", rejects, stdin=lines(given)).ok(4)
    assert len(result.records) == 2 and len(read(rejects)) == len(BAD)


def test_options_about_trajectories_are_refused():
    run("import", "expert_sft", "--env", "house").one_error(2, "rows of expert_sft become examples")
    for option in (("--success",), ("--distinct",), ("--action", "marked"), ("--match", "{id}")):
        run("import", "expert_sft", *option).one_error(2, f"{option[0]} is for trajectories")
    run("import", "iwm_sft", "--task-key", "task", stdin=lines([row(("user", "A."), (AGENT, "B."))])).one_error(
        3, "$.task: does not name its task"
    )


def test_what_is_imported_can_be_mixed_and_trained_on(tmp_path):
    il = write(tmp_path / "il.jsonl", imported("expert_sft", EPISODE))
    sr = write(tmp_path / "sr.jsonl", imported("reflection_sft", row(("user", "Kitchen."), react("Why.", "take pot"))))
    mixed = tmp_path / "mixed.jsonl"
    run("mix", il, sr, "-o", mixed).ok()
    assert len(read(mixed)) == 3
    run("finetune", "-m", "tiny", "-o", tmp_path / "run", "--max-steps", "1", mixed).ok()
    about = json.loads((tmp_path / "run/eexp.json").read_text())
    assert about["think"] == "always" and about["style"] is None


@pytest.mark.parametrize(
    ("name", "format"), [("imitation", "expert_sft"), ("world", "iwm_sft"), ("reflected", "reflection_sft")]
)
def test_our_examples_come_back_from_rows_as_they_were(data, tmp_path, name, format):
    rows = tmp_path / "rows.jsonl"
    run("export-log", "--format", "sft", data[name], "-o", rows).ok()
    ours = read(data[name])
    assert [r["messages"] for r in read(rows)] == [[*e["prompt"], *e["completion"]] for e in ours]
    back = run("import", format, rows).ok().records
    for example in back:
        assert example["lineage"].pop().startswith("import ")
    assert back == ours


def test_only_examples_of_the_three_kinds_become_rows(data):
    run("export-log", "--format", "sft", data["rollout"]).one_error(3, "not of trajectory")
    other = {**read(data["imitation"])[0], "kind": "rationale"}
    run("export-log", "--format", "sft", stdin=lines([other])).one_error(3, "not of example of kind rationale")
    two = {**read(data["imitation"])[0]}
    two["completion"] = two["completion"] * 2
    run("export-log", "--format", "sft", stdin=lines([two])).one_error(3, "$.completion: a row has one message")

"""`eexp import`: how records of other projects are read, refused and replayed."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys

import orjson
import pytest
from conversations import agenttraj_of, eto_of, messages_of
from hypothesis import given
from hypothesis import strategies as st
from running import lines, read, run, write

from eexp.acting.importing import import_
from eexp.acting.settings import ImportSettings
from eexp.envs.naming import Tasks
from eexp.envs.worlds.house import House
from eexp.errors import InputError, UsageError
from eexp.formats.conversations import import_format, read_conversation
from eexp.records import jsonl

AGENTTRAJ, ETO, SHAREGPT, MESSAGES = map(import_format, ("agenttraj", "eto", "sharegpt", "messages"))
OK = "OK. I'll follow your instructions and try my best to solve the task."


def agenttraj(*texts: str, item_id: str = "babyai_3", prompt: bool = True) -> dict:
    """Return a record of AgentTraj-L: texts of the environment and of the agent in turn, after the usual prompt."""
    turns = (
        [("human", None, "Thought:\n<Your Thought>\n\nAction:\n<Your Action>"), ("gpt", False, OK)] if prompt else []
    )
    turns += [("gpt", True, text) if i % 2 else ("human", None, text) for i, text in enumerate(texts)]
    return {"conversations": [{"from": f, "loss": loss, "value": v} for f, loss, v in turns], "item_id": item_id}


def eto(*texts: str, **more: object) -> dict:
    turns = [("gpt" if i % 2 else "human", text) for i, text in enumerate(("The rules.", "OK", *texts))]
    return {"conversations": [{"from": f, "value": v} for f, v in turns], **more}


def messages(*turns: tuple[str, str], **more: object) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def calling(*calls: tuple[str | None, str], content: str | None = None, **more: object) -> dict:
    """One turn of the assistant that calls tools, and their answers "answer 0", "answer 1"."""
    listed = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    answers = [{"role": "tool", "tool_call_id": f"c{i}", "content": f"answer {i}"} for i in range(len(calls))]
    turns = [{"role": "user", "content": "A safe."}, {"role": "assistant", "content": content, "tool_calls": listed}]
    return {"messages": [*turns, *answers], **more}


def one(record: dict, format=AGENTTRAJ, **options) -> dict:
    (trajectory,) = import_(iter([record]), format, "world", ImportSettings(**options))
    return trajectory


@pytest.fixture(scope="module")
def experts(data) -> list[dict]:
    return read(data["expert"])


@pytest.fixture(scope="module")
def files(experts, tmp_path_factory) -> dict[str, object]:
    """The expert's trajectories in each format, the first two as JSON arrays, one in a line and one in many."""
    here = tmp_path_factory.mktemp("foreign")
    paths = {name: here / name for name in ("agenttraj", "eto", "messages")}
    records = [agenttraj_of(t, int(t["task"]["id"].rpartition("/")[2])) for t in experts]
    paths["agenttraj"].write_text(json.dumps(records, ensure_ascii=False))
    paths["eto"].write_text(json.dumps([eto_of(t, i) for i, t in enumerate(experts)], indent=2))
    write(paths["messages"], map(messages_of, experts))
    return paths


# -- reading -----------------------------------------------------------------------------------------------------------


def test_babyai_of_agenttraj():
    """As AgentGym's server writes it: the goal first, the list of actions as JSON."""
    trajectory = one(
        agenttraj(
            "Your goal: go to the red ball\nIn front of you in this room, you can see:  There is a red ball 1.\n"
            'You are not carrying anything.\nAvailable actions: ["turn left", "go to red ball 1"]',
            "Thought:\nThe ball is near.\n\nAction:\ngo to red ball 1",
            'There is a red ball 1.\n The task is completed.\nAvailable actions: ["turn left"]',
        )
    )
    assert trajectory == {
        "type": "trajectory",
        "id": "world/babyai_3",
        "env": "world",
        "task": {"id": "babyai_3"},
        "instruction": "go to the red ball",
        "steps": [
            {
                "observation": "In front of you in this room, you can see:  There is a red ball 1.\nYou are not "
                "carrying anything.",
                "action": "go to red ball 1",
                "admissible": ["turn left", "go to red ball 1"],
                "thought": "The ball is near.",
            }
        ],
        "outcome": {"observation": "There is a red ball 1.\n The task is completed."},
        "source": {"item_id": "babyai_3"},
    }


def test_sciworld_of_agenttraj_keeps_its_lines():
    trajectory = one(
        agenttraj(
            "Task Description:\nYour task is to find a(n) plant. First, focus on the thing.\n"
            "This room is called the hallway. In it, you see: \n\ta picture\nYou see:\n\tA door",
            "Thought:\nI look.\nThen I go.\n\nAction:\ngo to kitchen",
        )
    )
    assert trajectory["instruction"] == "Your task is to find a(n) plant. First, focus on the thing."
    (step,) = trajectory["steps"]
    assert step["observation"] == "This room is called the hallway. In it, you see: \n\ta picture\nYou see:\n\tA door"
    assert (step["thought"], step["admissible"], trajectory["outcome"]) == ("I look.\nThen I go.", None, None)


def test_textcraft_and_webshop_of_agenttraj():
    trajectory = one(
        agenttraj(
            "Crafting commands:\ncraft 1 oak sign using 6 oak planks, 1 stick\n\nGoal: craft oak sign.",
            "Thought: I need wood. Action: get 6 oak planks",
        )
    )
    assert trajectory["instruction"] == "craft oak sign."
    assert trajectory["steps"][0]["observation"] == "Crafting commands:\ncraft 1 oak sign using 6 oak planks, 1 stick"
    assert (trajectory["steps"][0]["thought"], trajectory["steps"][0]["action"]) == ("I need wood.", "get 6 oak planks")
    shop = "WebShop [SEP] Instruction: [SEP] Find me a red mug [SEP] Search"
    trajectory = one(agenttraj(shop, "Action:\nsearch[red mug]"))
    assert (trajectory["instruction"], trajectory["steps"][0]["observation"]) == ("", shop), (
        "nothing is guessed, nothing lost"
    )


@pytest.mark.parametrize(
    ("text", "observation", "admissible"),
    [
        ("A bed.\nAVAILABLE ACTIONS: look,go to bed 1\n", "A bed.", ["look", "go to bed 1"]),
        ("A bed.\n\nAvailable actions: []", "A bed.", []),
        ('Available actions: ["a, b", "é"]', "", ["a, b", "é"]),
        ('A bed.\nAvailable actions: ["a",', 'A bed.\nAvailable actions: ["a",', None),
        ("A bed.\nAvailable actions: [1]", "A bed.\nAvailable actions: [1]", None),
        ("A bed.\nAVAILABLE ACTIONS: look\nA desk.", "A bed.\nAVAILABLE ACTIONS: look\nA desk.", None),
        ("No AVAILABLE ACTIONS: none", "No AVAILABLE ACTIONS: none", None),
        ("Observation: A bed.", "A bed.", None),
        ("An Observation: A bed.", "An Observation: A bed.", None),
    ],
)
def test_lists_and_labels_of_observations(text, observation, admissible):
    steps = one(agenttraj("a", "Thought: Thought: so\nAction: b", text, "Action: c"))["steps"]
    assert (steps[1]["observation"], steps[1]["admissible"]) == (observation, admissible)
    assert (steps[0]["thought"], steps[1]["thought"]) == ("Thought: so", None)


def test_the_prompt_of_agenttraj_is_left_out_with_its_examples():
    example = agenttraj("You see a bed.", "Action: look", prompt=False)["conversations"]
    example[1]["loss"] = False
    record = agenttraj("You see a desk.", "Action: sit")
    record["conversations"][2:2] = example
    assert [s["action"] for s in one(record)["steps"]] == ["sit"]
    later = agenttraj("a", "Action: b", "c", "Action: d")
    later["conversations"][-1]["loss"] = False  # no target there, but the agent did it all the same
    assert [s["action"] for s in one(later)["steps"]] == ["b", "d"]
    without = agenttraj("a", "Action: b", prompt=False)
    assert [s["action"] for s in one(without)["steps"]] == ["b"]


def test_eto():
    trajectory = one(
        eto(
            "You are in a room.\n\nYour task is to: put a mug in bed.",
            "Thought: I go.\nAction: go to bed 1",
            "Observation: On the bed 1, you see nothing.",
            "Thought: Hm.\nAction: look",
            id=7,
            game_file="data/train/a-b/trial_1",
        ),
        ETO,
    )
    assert trajectory["instruction"] == "put a mug in bed."
    assert [s["observation"] for s in trajectory["steps"]] == ["You are in a room.", "On the bed 1, you see nothing."]
    assert trajectory["id"] == "world/data/train/a-b/trial_1"
    assert trajectory["source"] == {"id": 7, "game_file": "data/train/a-b/trial_1"}
    assert one(eto("a", "Action: b", id=7), ETO)["task"] == {"id": "7"}
    assert [
        s["action"] for s in one({"id": 1, "conversations": eto("a", "Action: b")["conversations"][2:]}, ETO)["steps"]
    ]


def test_a_closing_remark_is_left_out_where_others_are_calls():
    record = calling((None, "{}"), content="I look.")
    record["messages"][1]["tool_calls"][0]["function"]["name"] = "look"
    record["messages"].append({"role": "assistant", "content": "Done."})
    assert [step["action"] for step in one(record, MESSAGES)["steps"]] == ["look()", "Done."]
    dropped = one(record, MESSAGES, drop_closing=True)
    assert [step["action"] for step in dropped["steps"]] == ["look()"]
    assert dropped["outcome"]["observation"] == "answer 0"
    plain = messages(("user", "a"), ("assistant", "look"), ("user", "b"), ("assistant", "Done."))
    assert len(one(plain, MESSAGES, drop_closing=True)["steps"]) == 2
    run("import", "eto", "--drop-closing", stdin=b"").one_error(2, "--drop-closing is for chats with calls of tools")


def test_chats_of_sharegpt_and_a_system_turn_in_all_of_its_kin():
    turns = [
        ("system", "Be brief."),
        ("human", "Find it."),
        ("gpt", "look"),
        ("observation", "A safe."),
        ("gpt", "open it"),
    ]
    record = {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], "id": "a"}
    trajectory = one(record, SHAREGPT)
    assert [step["action"] for step in trajectory["steps"]] == ["look", "open it"]
    assert (trajectory["instruction"], trajectory["steps"][1]["observation"]) == ("Be brief.", "A safe.")
    for format, marked in (
        (AGENTTRAJ, agenttraj("A door.", "Action: look")),
        (ETO, eto("A door.", "Action: look", id="b")),
    ):
        marked["conversations"].insert(0, {"from": "system", "value": "Be brief."})
        assert one(marked, format)["instruction"] == "Be brief."


def test_messages():
    record = messages(
        ("system", "Open the safe."),
        ("user", "A safe."),
        ("assistant", "Action: turn\n"),
        ("user", "Ok"),
        ("assistant", "pull"),
        id="x",
    )
    trajectory = one(record, MESSAGES)
    assert trajectory["instruction"] == "Open the safe."
    assert [(s["observation"], s["action"]) for s in trajectory["steps"]] == [
        ("A safe.", "Action: turn"),
        ("Ok", "pull"),
    ]
    record["messages"][-1]["content"] = "I pull it.\nAction: pull"
    trajectory = one(record, MESSAGES, action="marked")
    assert [(s["thought"], s["action"]) for s in trajectory["steps"]] == [(None, "turn"), ("I pull it.", "pull")]


def test_a_leading_think_block_is_the_thought_in_every_format():
    """So is `reasoning_content`; a later block, or one that is not closed, is left where it is."""
    text = "<think>\nhmm\nso\n</think>\n\n"
    for record, format, options, thought in [
        (messages(("user", "a"), ("assistant", f"{text}look")), MESSAGES, {}, "hmm\nso"),
        (
            messages(("user", "a"), ("assistant", f"{text}Thought: I look.\nAction: look")),
            MESSAGES,
            {"action": "marked"},
            "hmm\nso\nI look.",
        ),
        (agenttraj("a", "<think>Action: no?</think>Thought: b\nAction: look"), AGENTTRAJ, {}, "Action: no?\nb"),
        (eto("a", f"{text}Action: look"), ETO, {}, "hmm\nso"),
    ]:
        (step,) = one(record, format, **options)["steps"]
        assert (step["thought"], step["action"]) == (thought, "look")
    (step,) = one(calling(("ls", "{}"), content=f"{text}I look."), MESSAGES)["steps"]
    assert (step["thought"], step["action"]) == ("hmm\nso\nI look.", "ls()")
    reasoning = messages(("user", "a"), ("assistant", "Action: look"))
    reasoning["messages"][1]["reasoning_content"] = "hmm"
    assert one(reasoning, MESSAGES, action="marked")["steps"][0]["thought"] == "hmm"
    for left in ("<think>hmm look", "look<think>hmm</think>"):
        assert one(messages(("user", "a"), ("assistant", left)), MESSAGES)["steps"][0]["action"] == left


def test_actions_that_no_prompt_style_reads_back_are_counted():
    turns = ("Thought: I look.\nAction: look", "Action: wait", "<think>hmm", "open door\nfast", "go")
    record = messages(*((role, text) for turn in turns for role, text in (("user", "a"), ("assistant", turn))))
    summary = run("import", "messages", stdin=lines([record])).ok().err
    assert "2 actions contain 'Action:': see --action marked" in summary
    assert "1 action contains '<think>' or '</think>'" in summary
    assert "1 action has several lines, of which prompt styles read one back" in summary
    twice = messages(("user", "a"), ("assistant", "Action: say Action: go"), ("user", "b"), ("assistant", "x"))
    twice["messages"][1]["content"] = "I say it.\nAction: say\n Action"
    twice["messages"][3]["content"] = "Action: x"
    summary = run("import", "messages", "--action", "marked", stdin=lines([twice])).ok().err
    assert "Action:'" not in summary and "1 action has several lines" in summary
    assert (
        "action" not in run("import", "messages", stdin=lines([messages(("user", "a"), ("assistant", "b"))])).ok().err
    )


def test_calls_of_tools_in_messages():
    """Each call is a step, and the tool's answer the next observation; text beside a call is the thought."""
    record = calling(("open", '{"what": "safe", "hard": true}'), ("ls", ""), content="I look into it.", tools=[{}])
    record["messages"][0]["content"] = [{"type": "text", "text": "A "}, {"type": "text", "text": "safe."}]
    record["messages"].insert(0, {"role": "developer", "content": "Find the gold."})
    record["messages"].append({"role": "assistant", "content": "Here it is."})
    trajectory = one(record, MESSAGES)
    assert trajectory["instruction"] == "Find the gold." and trajectory["source"] == {"tools": [{}]}
    assert [(s["observation"], s["thought"], s["action"]) for s in trajectory["steps"]] == [
        ("A safe.", "I look into it.", "open(what='safe', hard=True)"),
        ("answer 0", None, "ls()"),
        ("answer 1", None, "Here it is."),
    ]
    reversed_answers = calling(("a", "{}"), ("b", "{}"))
    reversed_answers["messages"][2:] = reversed_answers["messages"][:1:-1]
    trajectory = one(reversed_answers, MESSAGES)
    assert [s["action"] for s in trajectory["steps"]] == ["b()", "a()"]
    assert (trajectory["steps"][1]["observation"], trajectory["outcome"]) == ("answer 1", {"observation": "answer 0"})


def test_the_only_argument_of_a_call_can_be_the_action():
    trajectory = one(calling(("act", '{"command": " open safe"}')), MESSAGES, action="argument")
    assert trajectory["steps"][0]["action"] == "open safe"
    for arguments in ("{}", '{"a": 1}', '{"a": "b", "c": "d"}'):
        with pytest.raises(InputError, match="expected one argument, a string"):
            one(calling(("act", arguments)), MESSAGES, action="argument")
    run("import", "eto", "--action", "argument").one_error(2, "--action argument is for calls of tools")


def test_a_record_without_a_name_has_its_number_and_equal_names_are_numbered():
    records = [messages(("user", "a"), ("assistant", "b"), **more) for more in ({}, {"id": 5}, {"id": 5}, {"id": True})]
    assert [r["id"] for r in import_(iter(records), MESSAGES, "w")] == ["w/1", "w/5", "w/5#2", "w/4"]
    records = [messages(("user", "a"), ("assistant", "b"), id=1, goal="g")]
    assert [r["id"] for r in import_(iter(records), MESSAGES, "w", ImportSettings(task_key="goal"))] == ["w/g"]


@pytest.mark.parametrize(
    ("format", "record", "message"),
    [
        (AGENTTRAJ, {}, "$.conversations: missing"),
        (AGENTTRAJ, {"conversations": "x"}, "$.conversations: expected an array"),
        (AGENTTRAJ, {"conversations": []}, "$.conversations: no action in it"),
        (AGENTTRAJ, agenttraj(), "$.conversations: no action in it"),
        (AGENTTRAJ, agenttraj("You see a bed."), "$.conversations: no action in it"),
        (AGENTTRAJ, {"conversations": [3]}, "$.conversations[0]: expected an object"),
        (AGENTTRAJ, agenttraj("a", "I would look."), '$.conversations[3].value: expected one "Action:", found none'),
        (AGENTTRAJ, agenttraj("a", "Action:\nb\nAction:\nc"), '[3].value: expected one "Action:", found 2'),
        (AGENTTRAJ, agenttraj("a", "Thought: b\nAction: \n"), "[3].value: the action is empty"),
        (ETO, eto("a", "I go."), '$.conversations[3].value: expected one "Action:"'),
        (
            ETO,
            {"conversations": [{"from": "observation", "value": "a"}]},
            "$.conversations[0].from: expected system or human or gpt, got 'observation'",
        ),
        (
            ETO,
            {"conversations": [{"value": "a"}]},
            "$.conversations[0].from: expected system or human or gpt, got None",
        ),
        (ETO, {"conversations": [{"from": ["human"], "value": "a"}]}, "$.conversations[0].from: expected"),
        (ETO, {"conversations": [{"from": "human", "value": None}]}, "$.conversations[0].value: expected a string"),
        (
            MESSAGES,
            messages(("critic", "a")),
            "$.messages[0].role: expected system or developer or user or assistant or tool, got 'critic'",
        ),
        (MESSAGES, messages(("tool", "a")), "$.messages[0].tool_call_id: answers no call of the turn before: None"),
        (MESSAGES, calling(("open", "{")), "$.messages[1].tool_calls[0].function.arguments: not valid JSON"),
        (MESSAGES, calling(("open", "[]")), "$.messages[1].tool_calls[0].function.arguments: expected an object"),
        (MESSAGES, calling((None, "{}")), "$.messages[1].tool_calls[0]: expected {"),
        (MESSAGES, calling(), "$.messages[1].content: expected a string"),
        (MESSAGES, messages(("user", [{"type": "image_url"}])), "[0].content[0]: expected a part of type text"),
        (MESSAGES, messages(("user", "a"), ("user", "b")), "$.messages[1].content: two observations in a row"),
        (MESSAGES, messages(("assistant", "b")), "$.messages[0].content: no observation before this action"),
        (MESSAGES, messages(("user", "a"), ("assistant", " \n")), "$.messages[1].content: the action is empty"),
    ],
)
def test_records_that_lack_something_are_refused(format, record, message):
    with pytest.raises(InputError) as e:
        one(record, format)
    assert message in str(e.value)
    rejects = []
    assert list(import_(iter([record]), format, "w", on_error=lambda r, e: rejects.append((r, str(e))))) == []
    assert rejects == [(record, str(e.value))]


@given(st.lists(st.tuples(st.text(), st.text().filter(str.strip)), min_size=1, max_size=5))
def test_any_text_survives(pairs):
    """Observations are unchanged, and actions are up to the blanks around them."""
    turns = [turn for observation, act in pairs for turn in (("user", f"> {observation}"), ("assistant", act))]
    conversation = read_conversation(messages(*turns), MESSAGES)
    assert [s["observation"] for s in conversation.steps] == [f"> {observation}" for observation, _ in pairs]
    assert [s["action"] for s in conversation.steps] == [act.strip() for _, act in pairs]


# -- arrays ------------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.sampled_from(['"', "\\", '\\"]', "[{,", "é\u2028"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=4), st.integers(1, 30), st.booleans(), st.sampled_from([None, 1]))
def test_an_array_is_cut_where_its_elements_end(array, chunk, ascii, indent):
    text = json.dumps(array, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass") + b" \n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_CHUNK", chunk)
        source = io.BytesIO(text)
        elements = list(jsonl._array(source.read(chunk), source, "x"))
    assert [json.loads(part) for part in elements] == array


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (b"[]", 0, "no records in the input"),
        (b" \n [ \n ] \n", 0, "no records in the input"),
        (b"[{}, 3]", 3, "<stdin>:element 1: $.messages: missing"),
        (b"[3]", 3, "<stdin>:element 1: $: expected a JSON object"),
        (b"[GOOD, ]", 3, "<stdin>:element 2: not valid JSON"),
        (b"[GOOD GOOD]", 3, "<stdin>:element 1: not valid JSON"),
        (b"[GOOD, {'a': 1}]", 3, "<stdin>:element 2: not valid JSON"),
        (b'[GOOD,\n{"messages"', 3, "<stdin>: the file ends within the array, in element 2"),
        (b"[GOOD", 3, "<stdin>: the file ends within the array, in element 1"),
        (b"[", 3, "<stdin>: the file ends within the array, in element 1"),
        (b"[GOOD] x", 3, "<stdin>: something follows the array"),
        (b"GOOD\n[GOOD]", 3, "<stdin>:2: $: expected a JSON object"),
        (b"[[GOOD]]", 3, "<stdin>:element 1: $: expected a JSON object"),
        (b"[GOOD}", 0, "1 out"),
    ],
)
def test_arrays_with_mistakes(text, code, message):
    good = orjson.dumps(messages(("user", "a"), ("assistant", "b")))
    result = run("import", "messages", stdin=text.replace(b"GOOD", good)).ok(code)
    assert message in result.err


def test_an_element_set_aside_has_its_number(tmp_path):
    good = messages(("user", "a"), ("assistant", "b"))
    text = json.dumps([good, {"id": 3}, good]).encode()
    result = run("import", "messages", "--rejects", tmp_path / "rejects", stdin=text).ok(4)
    assert len(result.records) == 2
    (reject,) = read(tmp_path / "rejects")
    assert (reject["line"], reject["field"], reject["record"]) == (2, "$.messages", {"id": 3})


def test_an_array_larger_than_a_chunk_takes_the_memory_of_its_elements():
    """Only a few of its elements are in memory at any time."""

    class Endless(io.RawIOBase):
        """An array that never ends, with elements of 10 kB."""

        def read1(self, size):
            return b'{"x": "' + b"y" * 10_000 + b'"},'

    elements = jsonl._array(b"[", Endless(), "x")
    for _ in range(1000):
        assert len(next(elements)) == 10_010
    assert sys.getsizeof(elements.gi_frame.f_locals["text"]) < 50_000


def test_a_huge_observation():
    text = "You see a lot. " * 200_000
    record = messages(("user", text), ("assistant", "look"), ("user", text))
    for stdin in (lines([record]), json.dumps([record]).encode()):
        (trajectory,) = run("import", "messages", stdin=stdin).ok().records
        assert trajectory["steps"][0]["observation"] == trajectory["outcome"]["observation"] == text


# -- replaying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ("agenttraj", "eto", "messages"))
def test_a_replay_gives_the_environments_own_record(format, files, experts, tmp_path):
    mapped = []
    if format == "agenttraj":  # its number alone says nothing of the split
        names = {f"house_{t['task']['id'].rpartition('/')[2]}": t["task"]["id"] for t in experts}
        mapped = ["--map", write(tmp_path / "map.json", [names])]
    result = run("import", format, files[format], "--env", "house", *mapped).ok()
    thought = None if format == "messages" else "I need it."
    for trajectory, own in zip(result.records, experts, strict=True):
        own = {**own, "steps": [{**step, "thought": thought} for step in own["steps"]]}
        assert {k: v for k, v in trajectory.items() if k not in ("source", "lineage")} == {
            k: v for k, v in own.items() if k != "lineage"
        }
    number = sum(len(t["steps"]) + 1 for t in experts)
    assert f"{number} observations verified" in result.err and "filled in" not in result.err
    run("rollout", stdin=run("branch", "--from", "admissible", "-q", stdin=result.out).out).ok()


@pytest.mark.parametrize("format", ("agenttraj", "eto", "messages"))
def test_without_a_replay_the_trajectory_is_as_recorded(format, files, experts):
    result = run("import", format, files[format]).ok()
    for trajectory, own in zip(result.records, experts, strict=True):
        assert trajectory["env"] == format and trajectory["instruction"] == own["instruction"]
        for key in ("observation", "action"):
            assert [step[key] for step in trajectory["steps"]] == [step[key] for step in own["steps"]]
        assert trajectory["outcome"] == {"observation": own["outcome"]["observation"]}
        listed = [step["admissible"] for step in own["steps"]]
        assert [step["admissible"] for step in trajectory["steps"]] == (
            listed if format == "agenttraj" else [None] * len(listed)
        )
    assert "3 trajectories taken over without a replay" in result.err
    run("rollout", stdin=result.out).one_error(3, f"unknown environment '{format}'", "import it again with --env SPEC")
    named = run("import", format, files[format], "--name", "elsewhere").ok().records
    assert {r["env"] for r in named} == {"elsewhere"} and named[0]["id"].startswith("elsewhere/")


def test_observations_that_were_not_recorded_are_filled_in(experts):
    bare = lines(messages_of(t, observations=False) for t in experts)
    run("import", "messages", stdin=bare).one_error(3, "<stdin>:1: $.messages[1].content: no observation before")
    result = run("import", "messages", "--env", "house", stdin=bare).ok()
    assert [r["steps"] for r in result.records] == [t["steps"] for t in experts]
    assert [r["outcome"] for r in result.records] == [t["outcome"] for t in experts]
    assert f"{sum(len(t['steps']) for t in experts)} observations filled in" in result.err


def test_a_first_turn_with_the_task_alone(experts):
    """As in ETO's ScienceWorld: the agent gets its task, and no observation before it looks."""
    record = messages_of(experts[0])
    record["messages"][:2] = [{"role": "user", "content": f"Task: {experts[0]['instruction']}"}]
    (trajectory,) = run("import", "messages", "--env", "house", stdin=lines([record])).ok().records
    assert trajectory["steps"] == experts[0]["steps"]
    (trajectory,) = run("import", "messages", stdin=lines([record])).ok().records
    assert trajectory["steps"][0]["observation"] == "" and trajectory["instruction"] == experts[0]["instruction"]


def _changed(experts, at: int, text: str) -> bytes:
    records = [messages_of(t) for t in experts]
    records[1]["messages"][at]["content"] = text
    return lines(records)


def test_the_argument_of_a_call_that_was_taken_for_an_action_is_told(experts):
    """Actions that are calls are refused by a world that takes their argument alone."""
    record = messages_of(experts[0])
    for n, message in enumerate(record["messages"]):
        if message["role"] == "assistant":
            arguments = json.dumps({"move": message.pop("content")})
            message["tool_calls"] = [{"id": str(n), "function": {"name": "play", "arguments": arguments}}]
        elif n > 1:
            message |= {"role": "tool", "tool_call_id": str(n - 1)}
    error = run("import", "messages", "--env", "house", stdin=lines([record])).one_error(3, "was recorded after")
    assert f"such as {experts[0]['steps'][0]['action']!r}, give --action argument" in error
    run("import", "messages", "--env", "house", "--action", "argument", stdin=lines([record])).ok()


def test_a_thought_that_was_taken_for_a_part_of_the_action_is_told(experts):
    record = messages_of(experts[0])
    for message in record["messages"]:
        if message["role"] == "assistant":
            message["content"] = f"Thought: Well.\nAction: {message['content']}"
    run("import", "messages", "--env", "house", stdin=lines([record])).one_error(
        3, "was recorded after", "--action marked"
    )
    run("import", "messages", "--env", "house", "--action", "marked", stdin=lines([record])).ok()


@pytest.mark.parametrize("at", [1, 3, -1])
def test_a_replay_that_differs_is_refused_where_it_does(at, experts, tmp_path):
    text = _changed(experts, at, "You are on the moon.")
    place = f"$.messages[{at % len(messages_of(experts[1])['messages'])}].content"
    result = run("import", "messages", "--env", "house", stdin=text)
    result.one_error(3, f"<stdin>:2: {place}: the observation is 'You ", "and 'You are on the moon.' was recorded")
    result = run("import", "messages", "--env", "house", "--rejects", tmp_path / "rejects", stdin=text).ok(4)
    assert [r["id"] for r in result.records] == [experts[0]["id"], experts[2]["id"]]
    (reject,) = read(tmp_path / "rejects")
    assert (reject["line"], reject["field"]) == (2, place)
    assert reject["evidence"]["recorded"] == "You are on the moon." and reject["record"]["messages"]


def test_the_environment_may_be_trusted_instead(experts):
    result = run(
        "import",
        "messages",
        "--env",
        "house",
        "--trust",
        "environment",
        stdin=_changed(experts, 3, "You are on the moon."),
    ).ok()
    assert [r["steps"] for r in result.records] == [t["steps"] for t in experts]
    assert f"import: {experts[1]['id']}: $.messages[3].content: the observation is" in result.err
    assert "1 observation that differs" in result.err


def test_blanks_and_line_ends_make_no_difference(experts):
    text = messages_of(experts[1])["messages"][3]["content"]
    result = run(
        "import", "messages", "--env", "house", stdin=_changed(experts, 3, f"\n {text.replace(' ', chr(10))}\r\n")
    )
    assert [r["steps"] for r in result.ok().records] == [t["steps"] for t in experts]


def test_the_place_where_long_texts_differ_is_shown(experts):
    text = messages_of(experts[1])["messages"][1]["content"]
    err = run("import", "messages", "--env", "house", stdin=_changed(experts, 1, text[:-9] + "nowhere.")).one_error(3)
    assert "nowhere.' was recorded" in err and text[-9:] in err and text[:30] not in err


def test_actions_after_the_end_are_refused(experts):
    records = [messages_of(t) for t in experts]
    records[0]["messages"] += [{"role": "assistant", "content": "look"}]
    result = run("import", "messages", "--env", "house", "--trust", "environment", stdin=lines(records))
    n = len(experts[0]["steps"])
    result.one_error(
        3, f"<stdin>:1: $.messages[{2 * n + 1}].content: the episode was over after {n} actions", str(n + 1)
    )


def test_failed_records_are_counted_and_kept(experts):
    record = messages(("assistant", "fly"), ("assistant", "look"), id="train/3")
    result = run("import", "messages", "--env", "house", stdin=lines([record])).ok()
    assert result.records[0]["outcome"]["success"] is False
    assert "1 action answered as invalid" in result.err and "1 trajectory that did not succeed" in result.err


def test_the_number_of_workers_changes_nothing(files):
    first, second = (run("import", "eto", files["eto"], "--env", "house", "-j", n).ok().out for n in (1, 3))
    assert first == second


DYING = """
import os
from eexp.envs.worlds.house import House


class Dying(House):
    def step(self, action):
        if action == "die":
            os._exit(3)
        return super().step(action)
"""


def test_an_environment_that_dies_costs_one_record(experts, tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    records = [messages_of(t) for t in experts]
    records[1]["messages"][2]["content"] = "die"
    args = ("import", "messages", "--env", "dying:Dying")
    run(*args, stdin=lines(records)).one_error(1, "<stdin>:2: the environment's process failed 3 times")
    result = run(*args, "--on-error", "skip", stdin=lines(records)).ok(4)
    assert [r["steps"] for r in result.records] == [experts[0]["steps"], experts[2]["steps"]]
    assert "3 workers lost" in result.err


def test_babyai_replays(tmp_path):
    pytest.importorskip("minigrid")
    own = run("expert", "babyai?level=GoToLocal,PickupLoc", "-n", "4").ok().records
    text = json.dumps([agenttraj_of(t, i) for i, t in enumerate(own)]).encode()
    levels = write(tmp_path / "map.json", [{f"house_{i}": t["task"]["id"] for i, t in enumerate(own)}])
    env = "babyai?level=GoToLocal,PickupLoc"
    result = run("import", "agenttraj", "--env", env, "--map", levels, "--split", "train", stdin=text).ok()
    assert [[(s["observation"], s["admissible"]) for s in r["steps"]] for r in result.records] == [
        [(s["observation"], s["admissible"]) for s in t["steps"]] for t in own
    ]
    assert [r["outcome"] for r in result.records] == [t["outcome"] for t in own]
    seeds = [
        {**r, "item_id": f"babyai_{t['task']['level']}-{t['task']['seed']}"} for r, t in zip(json.loads(text), own)
    ]
    by_template = run(
        "import", "agenttraj", "--env", env, "--match", "{level}-{seed}", stdin=json.dumps(seeds).encode()
    )
    assert [r["steps"] for r in by_template.ok().records] == [r["steps"] for r in result.records]


@pytest.mark.long
def test_alfworld_by_the_path_of_the_game(request):
    pytest.importorskip("alfworld")
    env = f"alfworld?data={request.getfixturevalue('alfworld_games')}&expert=planner"
    own = run("expert", env, "-n", "2").ok().records
    for ending in ("", "/game.tw-pddl"):
        text = json.dumps(
            [{**eto_of(t, i), "game_file": f"data/json_2.1.1/{t['task']['id']}{ending}"} for i, t in enumerate(own)]
        ).encode()
        result = run("import", "eto", "--env", env, stdin=text).ok()
        assert [r["task"] for r in result.records] == [t["task"] for t in own]
        assert [r["outcome"] for r in result.records] == [t["outcome"] for t in own]


@pytest.mark.long
def test_alfworld_as_it_was_recorded_years_ago(request, tmp_path):
    """Without "You arrive at", and with `put ... in/on`, which the games of today call `move ... to`."""
    pytest.importorskip("alfworld")
    data = shutil.copytree(request.getfixturevalue("alfworld_games"), tmp_path / "data")
    env = f"alfworld?data={data}&expert=planner"
    own = run("expert", env, "-n", "2").ok().records
    old = [json.loads(re.sub(r"You arrive at \w+ \d+\. ", "", json.dumps(eto_of(t, i)))) for i, t in enumerate(own)]
    old_words = json.dumps(old)
    for new, put in (
        (r"You move the (\w+ \d+) to the (\w+ \d+)", r"You put the \1 in/on the \2"),
        (r"Action: move (\w+ \d+) to (\w+ \d+)", r"Action: put \1 in/on \2"),
    ):
        old_words = re.sub(new, put, old_words)
    assert old_words.count("Action: put") == old_words.count("You put the") == 2 and "You arrive" not in old_words
    result = run("import", "eto", "--env", env, stdin=old_words.encode())
    result.one_error(3, "the observation is 'Nothing happens.', and 'You move the")
    today = old_words.replace("Action: put", "Action: move").replace(" in/on ", " to ").replace("You put", "You move")
    result = run("import", "eto", "--env", env, stdin=today.encode()).ok()
    assert [[s["observation"] for s in r["steps"]] for r in result.records] == [
        [s["observation"] for s in t["steps"]] for t in own
    ]
    for game in data.glob("json_2.1.1/train/*/*/game.tw-pddl"):  # a game brings its own words
        game.write_text(game.read_text().replace("move {o} to {r}", "put {o} in/on {r}"))
    result = run("import", "eto", "--env", env, stdin=old_words.encode()).ok()
    assert all(r["outcome"]["success"] for r in result.records)


# -- which task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task_id"),
    [
        ("train/3", "train/3"),
        ("house_train/3", "train/3"),
        ("a/b_c/test/10", "test/10"),
        ("xtrain/3", None),
        ("3", None),
        ("train/99999", None),
        ("", None),
        ("train/3/", None),
    ],
)
def test_a_task_is_found_by_its_id_or_the_end_of_a_name(name, task_id):
    tasks = Tasks(House())
    if task_id:
        assert tasks.find(name)["id"] == task_id
    else:
        with pytest.raises(InputError, match=r"house has no task for '.*'; one is called"):
            tasks.find(name)


def test_tasks_of_one_split_by_template_and_by_map():
    with pytest.raises(InputError, match="no task"):
        Tasks(House(), "test").find("train/3")
    with pytest.raises(UsageError, match="house has no split 'dev'"):
        Tasks(House(), "dev")
    with pytest.raises(InputError, match="house has several tasks 'train'"):
        Tasks(House(), template="{split}").find("train")
    for template in ("{number}", "{", "{id[x]}", "{0}"):
        with pytest.raises(UsageError, match="does not fit the tasks of house: their keys are id, split, world"):
            Tasks(House(), template=template)
    tasks = Tasks(House(), names={"one": "train/1", "bad": "nowhere"})
    assert tasks.find("one")["id"] == "train/1"
    for name in ("bad", "train/1"):
        with pytest.raises(InputError):
            tasks.find(name)


def test_a_record_without_a_task_or_with_an_unknown_one(experts):
    record = messages_of(experts[0])
    for change, message in (
        ({"id": None}, "$.id: does not name its task"),
        ({"id": "train/x"}, "no task for 'train/x'"),
    ):
        run("import", "messages", "--env", "house", stdin=lines([{**record, **change}])).one_error(
            3, "<stdin>:1: ", message
        )
    moved = {**record, "id": 1, "meta": record["id"]}
    assert run("import", "messages", "--env", "house", "--task-key", "meta", stdin=lines([moved])).ok().records


def test_two_records_of_one_task(experts):
    record = messages_of(experts[0])
    ids = [r["id"] for r in run("import", "messages", "--env", "house", stdin=lines([record] * 2)).ok().records]
    assert ids == [experts[0]["id"], f"{experts[0]['id']}#2"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("import", "alpaca"), 2, "'alpaca' is not one of 'agenttraj', 'eto', 'sharegpt', 'messages'"),
        (("import", "eto", "--split", "train"), 2, "--split is about the environment's tasks; it needs --env"),
        (("import", "eto", "--match", "{id}"), 2, "--match is about"),
        (("import", "eto", "--map", "x"), 2, "--map is about"),
        (("import", "eto", "--env", "house", "--name", "x"), 2, "--name is for records that are not replayed"),
        (("import", "eto", "--env", "hous"), 2, "unknown environment 'hous'"),
        (("import", "eto", "--env", "house", "--split", "dev"), 2, "has no split 'dev'"),
        (("import", "eto", "--env", "house", "--match", "{seed}"), 2, "--match '{seed}' does not fit"),
        (("import", "eto", "--env", "house", "--map", "/no/map"), 3, "/no/map: No such file"),
        (("import", "eto", "--env", "house", "--admissible", "few"), 2, "'few' is not a number"),
        (("import", "eto", "/no/file"), 3, "/no/file: No such file"),
        (("import", "eto", "--resume"), 2, "--resume needs -o FILE"),
    ],
)
def test_command_lines_that_do_not_fit(args, code, message):
    run(*args).one_error(code, message)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_map_that_holds_no_strings(text, tmp_path):
    (tmp_path / "map").write_bytes(text)
    run("import", "eto", "--env", "house", "--map", tmp_path / "map").one_error(3, f"{tmp_path / 'map'}: ")

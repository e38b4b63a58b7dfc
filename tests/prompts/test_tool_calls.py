"""Actions as tool calls: the same in training and in play, and read back from what models write."""

from __future__ import annotations

import json
from copy import copy

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, read, run, write
from tool_world import (
    ENDS,
    OPEN,
    SPECIAL,
    TAGS,
    TAKE,
    TEMPLATES,
    WITH_THOUGHTS,
    Box,
    expert_trajectory,
    make_model,
    tokenizer,
)

from eexp.acting.play import evaluate
from eexp.errors import InputError, UsageError
from eexp.examples.imitation import imitation_data
from eexp.examples.settings import ImitationSettings
from eexp.models.backends import chat_answers, http
from eexp.models.base import Draw, Model, Sample, Score
from eexp.models.chat_tokens import ChatTokenizer
from eexp.models.policy import ModelPolicy
from eexp.models.tokenizers import HfTokenizer
from eexp.prompts import ParsedAnswer, get_style
from eexp.prompts.calls import format_call, parse_call
from eexp.prompts.chat_template import render_chat
from eexp.prompts.tool_calls import action_of, call_id, call_message, tool_call
from eexp.records.record import tools_at
from eexp.records.types import check
from eexp.training.data import row_maker
from eexp.workers.parallel import LocalEnvironments

TOOLS = get_style("tools")
texts = st.lists(
    st.sampled_from([*SPECIAL, *TAGS, "a pen", '"', "\\", "\n", "é", " ", "{", "}", "'", "[", "<", "1", "True"]),
    max_size=4,
).map("".join)
names = st.sampled_from(["take", "open_box", "_f", "x1"])
keys = st.sampled_from(["item", "a", "from", "file-name", "name", "<|im_end|>"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e6, 1e6) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(keys, values, max_size=3)


# -- actions and messages ----------------------------------------------------------------------------------------------


@given(names, arguments, st.integers(0, 99_999))
def test_a_call_is_the_same_as_an_action_and_as_a_message(name, given_arguments, number):
    action = format_call(name, given_arguments)
    assert parse_call(action) == (name, [], given_arguments)
    call = tool_call(action, number)
    assert call["function"] == {"name": name, "arguments": given_arguments} and action_of(call) == action
    assert len(call["id"]) == 9 and call["id"].isalnum() and call["id"] != call_id(number + 1)


@pytest.mark.parametrize(
    "action", ["done", "done: f(x)?", "f('a')", "f(x={1})", "f(x=1j)", "f(x=10**30)", "f(x=2e999)"]
)
def test_what_is_no_call_with_named_json_arguments_is_plain_text(action):
    assert tool_call(action, 0) is None
    answer = TOOLS.answer(action, "I see.\n\nNow.")
    (message,) = answer.messages()
    assert set(message) == {"role", "content"}
    parsed = TOOLS.parse_message(message)
    assert (parsed.action, parsed.thought) == (action, "I see.\n\nNow.")
    assert [answer.text[s["start"] : s["end"]] for s in answer.spans] == ["I see.\n\nNow.\n\n", action]


def test_a_tool_answers_a_call_and_the_user_all_else():
    steps = expert_trajectory()["steps"]
    prompt = TOOLS.act("Do it.", steps, "Thank you.")
    assert [m["role"] for m in prompt] == ["system", *["user", "assistant"], *["tool", "assistant"] * 2, "user"]
    calls = [m["tool_calls"][0] for m in prompt if m.get("tool_calls")]
    answers = [(m["tool_call_id"], m["name"]) for m in prompt if m["role"] == "tool"]
    assert (
        answers
        == [(c["id"], c["function"]["name"]) for c in calls]
        == [("call00000", "open_box"), ("call00001", "take")]
    )
    predicting = TOOLS.world_model("Do it.", steps[:1], steps[1]["observation"], steps[1]["action"])
    assert predicting[-1] == {**predicting[-1], "role": "tool", "content": "What is observed next?"}
    assert predicting[:-2] == TOOLS.act("Do it.", steps[:1], steps[1]["observation"])


# -- training and play -------------------------------------------------------------------------------------------------


class Expert(Model):
    """A model that writes the expert's answers as a chat template has them, and records its requests."""

    fingerprint = "expert"

    def __init__(self, trajectory: dict, template: str, thoughtful: bool):
        super().__init__()
        self.chats, self.fast = ChatTokenizer(HfTokenizer(tokenizer(template))), tokenizer(template)
        self.steps, self.thoughtful, self.requests = trajectory["steps"], thoughtful, []

    def answer(self, groups):
        for group in groups:
            for request in group:
                step, number = self.steps[len(self.requests)], len(self.requests)
                answer = TOOLS.answer(step["action"], step["thought"] if self.thoughtful else "", number)
                _, ids = self.chats.example(request.prompt, answer.messages(), self.fast.eos_token_id, request.tools)
                self.requests.append(request)
            yield [[Sample(self.fast.decode(ids).removesuffix(self.fast.eos_token))]]

    def message(self, sample, tools):
        return self.chats.call_format.read(sample.text, tools)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@settings(max_examples=4)
@given(thoughtful=st.booleans(), number=st.integers(0, 2))
def test_the_prompt_of_training_is_that_of_play(template, thoughtful, number):
    """Byte for byte and token for token; the functions that come later are shown from there on."""
    thoughtful = thoughtful and template in WITH_THOUGHTS
    t = expert_trajectory(number)
    model = Expert(t, template, thoughtful)
    with LocalEnvironments(Box, 1) as worlds:
        (episode,) = evaluate(
            worlds, [(t["task"], 0)], ModelPolicy(model, TOOLS, 64, "always" if thoughtful else "never")
        )
    assert episode["success"] and [turn["action"] for turn in episode["transcript"]] == [
        s["action"] for s in t["steps"]
    ]
    assert episode["thoughts"] == thoughtful * 3
    assert (episode["tools"], episode["transcript"][1]["tools"]) == ([OPEN], [OPEN, TAKE])
    check(episode, "episode")
    row_of, chats = row_maker(model.fast), model.chats
    rows = list(imitation_data(iter([t]), TOOLS, ImitationSettings(thoughts=thoughtful)))
    for i, (row, request) in enumerate(zip(rows, model.requests, strict=True)):
        check(row, "example")
        assert row["prompt"] == request.prompt
        assert row["tools"] == request.tools == tools_at(t, i) == [[OPEN], [OPEN, TAKE], [OPEN, TAKE]][i]
        trained, text = row_of(row), render(template, row["prompt"], row["tools"])
        ids = list(trained.ids)
        assert ids[: trained.n_prompt] == chats.chat(request.prompt, tools=request.tools)
        assert model.fast.decode(ids[: trained.n_prompt]) == text
        of_transformers = model.fast.apply_chat_template(
            row["prompt"], tools=row["tools"], add_generation_prompt=True, tokenize=False
        )
        assert of_transformers == text
        whole = render(template, [*row["prompt"], *row["completion"]], row["tools"], to_answer=False)
        completion = model.fast.decode(ids[trained.n_prompt :])
        assert whole.removeprefix(text).startswith(completion) and completion.endswith(ENDS[template])


def render(template: str, prompt: list[dict], tools: list[dict], to_answer: bool = True) -> str:
    return render_chat(TEMPLATES[template], prompt, {"bos_token": "<s>", "eos_token": ENDS[template]}, to_answer, tools)


@settings(max_examples=40)
@given(st.sampled_from(sorted(TEMPLATES)), names, arguments, texts, texts)
def test_texts_in_calls_and_functions_never_become_special_tokens(template, name, given_arguments, observed, about):
    fast = tokenizer(template)
    chats = ChatTokenizer(HfTokenizer(fast))

    def chat(name: str, given_arguments: dict, observed: str, about: str) -> tuple[list[dict], list[dict]]:
        tool = {**OPEN["function"], "description": about}
        call = call_message(name, given_arguments)
        answer = {"role": "tool", "tool_call_id": call_id(0), "name": name, "content": observed}
        return [{"role": "user", "content": "?"}, call, answer], [{"type": "function", "function": tool}]

    messages, tools = chat(name, given_arguments, observed, about)
    ids = chats.chat(messages, tools=tools)
    plain, plain_tools = chat("f", {}, "x", "y")
    special = {i for i, token in fast.added_tokens_decoder.items() if token.special}
    assert [i for i in ids if i in special] == [i for i in chats.chat(plain, tools=plain_tools) if i in special]
    assert fast.decode(ids) == render(template, messages, tools)


# -- what models write -------------------------------------------------------------------------------------------------

WRITTEN = {
    "qwen2.5": '{}<tool_call>\n{{"name": "take", "arguments": {{"item": "pen"}}}}\n</tool_call>',
    "qwen3": '<think>\nno <tool_call> yet\n</think>\n\n{}<tool_call>{{"arguments": {{"item": "pen"}}, "name": "take"}}',
    "qwen3-coder": "{}<tool_call>\n<function=take>\n<parameter=item>\npen\n</parameter>\n</function>\n</tool_call>",
    "bare-object": '{}{{"name": "take", "parameters": {{"item": "pen"}}}}',
    "mistral-small-3.2": '{}[TOOL_CALLS]take[CALL_ID]abcdefghi[ARGS]{{"item": "pen"}}',
    "ministral-3": '{}[TOOL_CALLS]take[ARGS]{{"item": "pen"}}',
}


def parsed(template: str, text: str, finished: bool = True):
    chats = ChatTokenizer(HfTokenizer(tokenizer(template)))
    return TOOLS.parse_message(chats.call_format.read(text, [OPEN, TAKE]), finished)


@pytest.mark.parametrize("template", sorted(WRITTEN))
def test_what_families_write_is_read(template):
    text = WRITTEN[template]
    assert parsed(template, text.format("I see.\n")).action == "take(item='pen')"
    assert parsed(template, text.format("I see.\n")).thought == "I see."
    assert parsed(template, text.format("") * 2).action == "take(item='pen')", "of several calls, the first"
    broken = parsed(template, text.format("").replace('"item"', 'item"').replace("</function>", ""))
    assert "pen" in broken.action and "\n" not in broken.action and not broken.cut_off
    assert tool_call(broken.action, 0) is None, "the environment will refuse it"
    half = text.format("")[: text.format("").index("pen")]
    assert parsed(template, half, finished=False).cut_off and parsed(template, half, finished=False).action == ""
    plain = parsed(template, "I think.\n\ndone:\nhere it is")
    assert (plain.thought, plain.action) == ("I think.", "done: here it is")


def test_a_call_after_a_python_tag_and_with_doubly_encoded_arguments():
    assert parsed("bare-object", '<|python_tag|>{"name": "f", "parameters": {}}').thought == ""
    assert parsed("qwen2.5", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}').action == "f(a=1)"
    assert parsed("qwen2.5", '<tool_call>\n{"name": 3}\n</tool_call>').action == '<tool_call> {"name": 3} </tool_call>'


def test_values_without_quotes_have_the_types_of_the_schema():
    text = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n"
        for key, value in {"number": "7", "gently": "True", "options": '{"a": [1]}', "other": "7"}.items()
    )
    action = parsed("qwen3-coder", f"<tool_call>\n<function=open_box>\n{text}</function>\n</tool_call>").action
    assert action == "open_box(number=7, gently=True, options={'a': [1]}, other='7')"


# -- spans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", WITH_THOUGHTS)
@pytest.mark.parametrize("thought", ["I take the pen.", "take", "think", 'So:\n\n{"item": "pen"}'])
def test_the_thought_and_the_call_are_spans_of_their_own(template, thought):
    answer = TOOLS.answer("take(item='pen')", thought)
    example = {
        "type": "example",
        "id": "1",
        "kind": "reflection",
        "prompt": [{"role": "user", "content": "?"}],
        "completion": answer.messages(),
        "spans": answer.spans,
        "tools": [TAKE],
    }
    row, fast = row_maker(tokenizer(template))(example), tokenizer(template)
    parts = {name: fast.decode(list(row.ids[targets.start : targets.stop])) for name, _, targets in row.spans()}
    assert list(parts) == ["thought", "action"]
    assert parts["thought"].removeprefix("<think>\n\n</think>\n\n") == thought
    assert "take" in parts["action"] and parts["action"].endswith(ENDS[template])


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - set(WITH_THOUGHTS)))
def test_a_template_that_leaves_thoughts_out_is_named(template):
    answer = TOOLS.answer("take(item='pen')", "I see.")
    example = {"type": "example", "id": "1", "kind": "reflection", "prompt": [{"role": "user", "content": "?"}]}
    with pytest.raises(InputError, match="leaves out the text before a call"):
        row_maker(tokenizer(template))({**example, "completion": answer.messages(), "tools": [TAKE]})


def test_a_template_without_functions_is_named():
    fast = copy(tokenizer("qwen2.5"))
    fast.chat_template, fast.name_or_path = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "old/model",
    )
    with pytest.raises(UsageError, match="the chat template of old/model does not show tools"):
        ChatTokenizer(HfTokenizer(fast)).chat([{"role": "user", "content": "?"}], tools=[TAKE])


def test_examples_hold_functions_as_other_trainers_read_them():
    (row, *_) = imitation_data(iter([expert_trajectory()]), TOOLS)
    assert json.loads(json.dumps(row["tools"])) == [OPEN]
    with pytest.raises(InputError, match="offers none"):
        list(imitation_data(iter([{**expert_trajectory(), "tools": None}]), TOOLS))


# -- the backends ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_llama_cpp_and_transformers_have_the_same_tokens_and_read_the_same_calls(tmp_path):
    """Of a template whose marks of calls are special tokens, which texts lack otherwise."""
    pytest.importorskip("gguf")
    from eexp.gguf.convert import export_model
    from eexp.models import open_model

    where = make_model(tmp_path, "ministral-3")
    export_model(where, where / "model.gguf", dtype="f32")
    steps = expert_trajectory()["steps"]
    prompt, tools = TOOLS.act("Do it.", steps[:2], steps[2]["observation"]), [OPEN, TAKE]
    call = call_message("take", {"item": "a </s> pen"}, 2)
    with open_model(f"hf:{where}") as hf, open_model(str(where / "model.gguf")) as llama:
        assert llama.prompt_ids(prompt, tools) == hf.prompt_ids(prompt, tools)
        ids = hf.encode(prompt, [call], tools)
        assert llama.encode(prompt, [call], tools) == ids
        for model in (hf, llama):
            ((one,),) = model.answer([[Draw(prompt, tools=tools, max_tokens=3, seed=1)]])
            assert model.message(one[0], tools)["role"] == "assistant"
            text = model.text(ids)
            assert text.startswith("[TOOL_CALLS]take[ARGS]") and not text.endswith("</s>")
            assert action_of(model.message(Sample(text), tools)["tool_calls"][0]) == "take(item='a </s> pen')"
            score, other = Score(prompt, [""], ids=[ids], tools=tools), Score(prompt, [""], ids=[ids], tools=[OPEN])
            ((scored,), (without,)) = model.ask([score, other])
            assert list(scored.ids) == ids and scored.logprob != without.logprob


def test_the_messages_of_servers_and_to_them():
    calls = [
        {"id": "a", "type": "function", "function": {"name": "take", "arguments": '{"item": "pen"}'}},
        {"id": "b", "type": "function", "function": {"name": "take", "arguments": "{}"}},
    ]
    answers = {
        "call": {"content": "I see.", "tool_calls": calls},
        "object": {"content": None, "tool_calls": [{"function": {"name": "take", "arguments": {"item": "pen"}}}]},
        "broken": {"content": "I see.", "tool_calls": [{"function": {"name": "take", "arguments": '{"item'}}]},
        "plain": {"content": "I see.\n\ndone"},
    }
    message = {name: msgspec.convert(answer, chat_answers._Message).as_message() for name, answer in answers.items()}
    assert TOOLS.parse_message(message["call"]) == ParsedAnswer("take(item='pen')", "I see.")
    assert TOOLS.parse_message(message["object"]) == ParsedAnswer("take(item='pen')")
    assert TOOLS.parse_message(message["broken"]) == ParsedAnswer('take({"item)', "I see.")
    assert TOOLS.parse_message(message["plain"]) == ParsedAnswer("done", "I see.")
    sent = http._sent(call_message("take", {"item": "pen"}))
    assert sent["tool_calls"][0]["function"] == {"name": "take", "arguments": '{"item": "pen"}'}


# -- the pipe ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pipe_in_tool_calls(tmp_path, monkeypatch):
    """From demonstrations to an episode of what was trained, and what a person is shown on the way."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setenv("EEXP_PROMPT_STYLE", "tools")
    make_model(tmp_path / "base", "qwen2.5")
    base, files = f"hf:{tmp_path / 'base'}", {}

    def stage(name: str, *args: object) -> list[dict]:
        files[name] = tmp_path / f"{name}.jsonl"
        run(*args, "-q", "-o", files[name]).ok()
        return read(files[name])

    (trajectory,) = stage("expert", "expert", "tool_world:Box", "-n", 1)
    assert trajectory["tools"] == [OPEN]
    assert [step.get("tools") for step in trajectory["steps"]] == [None, [OPEN, TAKE], None]
    (branched,) = stage("branched", "branch", "-m", base, "-k", 1, "--rounds", 1, "--max-tokens", 4, files["expert"])
    branched["steps"][0]["alternatives"] = [
        {"action": "open_box(number=9)", "source": "program"},
        {"action": "hello", "source": "program"},
    ]
    write(files["branched"], [branched])
    (executed,) = stage("rollout", "rollout", "--env", "tool_world:Box", files["branched"])
    assert executed["tools"] == [OPEN] and executed["steps"][1]["tools"] == [OPEN, TAKE]
    text = run("imitation-data", "--prompt-style", "react", files["rollout"])
    assert "not named in prompts of style react" in text.ok().err
    assert "not named" not in run("imitation-data", files["rollout"]).ok().err
    predicting = stage("world", "world-model-data", "--max-invalid-fraction", 1, files["rollout"])
    assert {e["prompt"][-1]["role"] for e in predicting} == {"tool", "user"}, "after a call, and after plain text"
    reflecting = stage("reflect", "reflect", "--rationale", "outcome", files["rollout"])
    assert reflecting[0]["completion"][0]["content"] and reflecting[0]["completion"][0]["tool_calls"]
    scored = stage("scored", "score", "-m", base, files["reflect"])
    assert [score["span"] for score in scored[0]["scores"]] == ["thought", "action"]
    run("reflect", "--rationale", "outcome", "--verify", base, files["rollout"]).ok(4)  # it has learned nothing
    rows = stage("rows", "export-log", "--format", "sft", files["reflect"])
    assert rows[0]["tools"] == [OPEN]
    again = stage("again", "import", "reflection_sft", files["rows"])
    assert [{**e, "lineage": 0} for e in again] == [{**e, "lineage": 0} for e in reflecting]
    examples = write(tmp_path / "examples.jsonl", [*predicting, *reflecting])
    run("finetune", "-m", tmp_path / "base", "-o", tmp_path / "agent", "--max-steps", 1, "-q", examples).ok()
    monkeypatch.delenv("EEXP_PROMPT_STYLE")
    play = ["eval", "tool_world:Box", "-n", 1, "--max-steps", 2, "--max-tokens", 4]
    (episode,) = stage("episodes", *play, "-m", f"hf:{tmp_path / 'agent'}")
    assert episode["prompt_style"] == TOOLS.label and episode["tools"] == [OPEN]
    shown = run("show", files["world"], files["reflect"], files["episodes"], files["expert"]).ok().out.decode()
    assert "function open_box(number, gently, options): Open the box." in shown
    assert "  -> open_box(number=0, gently=True" in shown
    assert "tool (open_box): What is observed next?" in shown
    episode["transcript"] = [{**turn, "action": "open_box(number=1)"} for turn in episode["transcript"]]
    write(files["episodes"], [episode])
    (imported,) = stage("imported", "import", "episodes", "--no-replay", files["episodes"])
    assert imported["tools"] == [OPEN]
    run("stats", files["reflect"], files["rollout"], files["episodes"]).ok()
    error = run(*play, "-m", "tiny", "--prompt-style", "tools").one_error(2, "does not show tools")
    assert "the chat template of" in error
    run(
        "imitation-data", "--prompt-style", "tools", write(tmp_path / "x.jsonl", [{**trajectory, "tools": None}])
    ).one_error(3, "x.jsonl:1: $.tools", "offers none")


def test_calls_of_other_projects_are_tool_calls_again(tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "take", "arguments": '{"item": "pen"}'}}
    messages = [
        {"role": "user", "content": "Take it."},
        {"role": "assistant", "content": "I do.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "You have it."},
        {"role": "assistant", "content": "done"},
    ]
    file = write(tmp_path / "chat.jsonl", [{"id": "a", "messages": messages, "tools": json.dumps([TAKE])}])
    (trajectory,) = run("import", "messages", file).ok().records
    assert trajectory["tools"] == [TAKE] and "tools" not in trajectory["source"]
    examples = list(imitation_data(iter([trajectory]), TOOLS))
    (completion,) = examples[0]["completion"]
    assert completion["content"] == "I do."
    assert completion["tool_calls"][0]["function"] == {"name": "take", "arguments": {"item": "pen"}}
    assert [m["role"] for m in examples[1]["prompt"]][-2:] == ["assistant", "tool"]

"""Prompt styles: written answers are parsed back, in training and in play alike; files, and their command."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import read, run, text_styles

from eexp.acting.play import evaluate
from eexp.envs.worlds.house import House
from eexp.errors import InputError, UsageError
from eexp.examples.imitation import imitation_data
from eexp.examples.settings import ImitationSettings
from eexp.models.base import Model, Sample
from eexp.models.policy import ModelPolicy
from eexp.prompts import PromptStyle, built_in_styles, get_style, load_style, style_from_dict
from eexp.prompts.chat_template import render_chat
from eexp.prompts.style import Action, History, Judgement, Reflection, Summary, Thought, Turns, WorldModel
from eexp.prompts.style_file import unreadable_answers
from eexp.records.runs import TINY_DIR
from eexp.training.data import tokenize
from eexp.workers.parallel import LocalEnvironments

REACT, THINK = get_style("react"), get_style("think")
BASE = {"name": "mine", "act": {"system": "Act."}, "thought": {"ask": " Think."}}


def changed(**tables) -> PromptStyle:
    return style_from_dict({**BASE, **tables})


# -- written and read back -------------------------------------------------------------------------------------------

MARKS = ["Action:", "<action>", "</action>", "Thought:", "<think>", "</think>", "Do:", "[", "]"]
words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=60)
plain = words.map(str.strip).filter(lambda text: not any(mark in text for mark in MARKS))
lines = plain.filter(lambda text: text and text.strip("`* ") == text and len(text.splitlines()) == 1)
thoughts = st.lists(plain, max_size=3).map("\n".join).map(str.strip)
styles = st.builds(
    PromptStyle,
    name=st.just("any"),
    acting=st.just(REACT.acting),
    action=st.sampled_from([Action(), Action("<action>", "</action>"), Action("Do:\n"), Action("[[", "]]")]),
    thought=st.sampled_from(
        [
            Thought(ask=" Think."),
            Thought("<think>", "</think>\n", "empty"),
            Thought("<think>\n", "\n</think>\n\n", ask="?"),
            Thought("(", ") ", "empty"),
        ]
    ),
    history=st.builds(
        History,
        steps=st.sampled_from([None, 1, 3]),
        observation_characters=st.sampled_from([None, 20]),
        thoughts=st.sampled_from(["drop", "keep"]),
    ),
    examples=st.sampled_from([(), (Turns("Task: x\nA room.", "Action: look"),)]),
)


@given(styles, lines, thoughts)
def test_a_style_parses_the_answers_that_it_writes(style, action, thought):
    answer = style.answer(action, thought)
    parsed = style.parse(answer.text)
    assert (parsed.action, parsed.cut_off) == (action, False)
    if not thought.startswith("(") and not thought.endswith(")"):
        assert parsed.thought == thought
    assert [span["name"] for span in answer.spans] == (["thought", "action"] if thought else ["action"])
    assert answer.spans[0]["start"] == 0 and answer.spans[-1]["end"] == len(answer.text)
    assert all(a["end"] == b["start"] for a, b in zip(answer.spans, answer.spans[1:]))


@given(styles, lines, thoughts, st.data())
def test_a_text_cut_off_before_its_action_is_none(style, action, thought, data):
    """Neither the first line of a thought nor half of an action is taken for an action."""
    text = style.answer(action, thought).text.rstrip("\n")
    end = len(text) - len(style.action.close.rstrip())
    cut = style.parse(text[: data.draw(st.integers(0, max(0, end - (not style.action.close))))], finished=False)
    assert cut.action == "" and cut.cut_off


@pytest.mark.parametrize("name", built_in_styles())
def test_built_in_styles_are_valid(name):
    assert unreadable_answers(get_style(name)) == []


BLOCKS = ["x = 1", "for line in text:\n    print(line)\n\nprint('done')", "    indented = True", "print('Thought: no')"]


@pytest.mark.parametrize("thought", ["", "I count\nthe lines."])
@pytest.mark.parametrize("action", BLOCKS)
def test_a_block_of_code_keeps_its_lines(action, thought):
    style = get_style("code")
    text = style.answer(action, thought).text
    assert (style.parse(text).action, style.parse(text).thought) == (action, thought)
    for end in range(len(text) - len("\n```")):
        cut = style.parse(text[:end], finished=False)
        assert cut.action == "" and cut.cut_off


def test_a_block_of_code_by_a_model_that_was_not_trained_on_the_style():
    parse = get_style("code").parse
    assert parse("```python\nx = 1\nprint(x)\n```\nThat prints 1.").action == "x = 1\nprint(x)"
    assert parse("```python\nold\n```\nNo, better:\n\n```python\nnew\n```").action == "new"
    assert parse("x = 1\nprint(x)\n").action == "x = 1\nprint(x)"
    assert parse('```python\nprint("```")\n```').action == 'print("```")'
    assert parse("```python\n\n```").action == "" and parse("").action == ""


def test_texts_of_models_that_were_not_trained_on_the_style():
    assert REACT.parse("open the fridge\n").action == "open the fridge"
    assert REACT.parse("<think>hm, Action: no</think>Action: `look`").action == "look"
    assert REACT.parse("I see.\nAction: go on\nObservation: nothing") == REACT.parse("I see.\nAction: go on")
    assert REACT.parse("Thought: I see nothing.") == REACT.parse("Thought: I see nothing.", finished=True)
    assert REACT.parse("Thought: I see nothing.").action == "" and not REACT.parse("Thought: I see nothing.").cut_off
    assert REACT.parse("Thought: a\nAction: go on\nAnd then", finished=False).action == "go on"


# -- the same bytes in training and in play ----------------------------------------------------------------------------

CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
START = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# As Qwen 3's: thinking is shown after the last user turn alone, and an answer without any has an empty place for it.
REWRITES = """\
{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '' -%}
<|assistant|>{%- if loop.index0 > ns.last %}<think>
{{ thought.strip('\\n') }}
</think>

{% endif -%}{{ said }}<|end|>
{%- else -%}<|{{ m.role }}|>{{ m.content }}<|end|>{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
STRIPS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}" + START
TEMPLATES = {"plain": CHAT + START, "rewrites": REWRITES, "strips": STRIPS}


class Expert(Model):
    """A model that writes the expert's actions after their recorded thoughts, and records its requests."""

    fingerprint = "expert"

    def __init__(self, trajectory: dict, style: PromptStyle, thoughtful: bool):
        super().__init__()
        self.texts = [style.answer(s["action"], s["thought"] if thoughtful else "").text for s in trajectory["steps"]]
        self.requests = []

    def answer(self, groups):
        for group in groups:
            self.requests += group
            yield [[Sample(self.texts[len(self.requests) - 1].removeprefix(request.prefix))] for request in group]


@pytest.fixture(scope="module")
def trajectories(data):
    """Return experts' trajectories with thoughts."""
    return [
        {**t, "steps": [{**s, "thought": f"Now I {s['action']}.\nGood."} for s in t["steps"]]}
        for t in read(data["expert"])
    ]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_DIR)


@settings(max_examples=25)
@given(
    style=styles | st.sampled_from([get_style(name) for name in text_styles()]),
    thoughtful=st.booleans(),
    number=st.integers(0, 2),
    template=st.sampled_from(sorted(TEMPLATES)),
)
def test_rows_are_the_same_in_training_and_in_play(style, thoughtful, number, template, trajectories, tokenizer):
    t = trajectories[number]
    model = Expert(t, style, thoughtful)
    policy = ModelPolicy(model, style, 64, "always" if thoughtful else "never")
    with LocalEnvironments(House, 1) as worlds:
        (episode,) = evaluate(worlds, [(t["task"], 0)], policy)
    assert episode["success"] and episode["steps"] == len(t["steps"]), "it is the expert's episode"
    assert episode["thoughts"] == thoughtful * episode["steps"] and episode["cut_off"] == 0
    tokenizer.chat_template = TEMPLATES[template]
    rows = list(imitation_data(iter([t]), style, ImitationSettings(thoughts=thoughtful)))
    for row, request in zip(rows, model.requests, strict=True):
        assert row["prompt"] == request.prompt
        text = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        ends = {"bos_token": "", "eos_token": "<|end|>"}
        assert text == render_chat(tokenizer.chat_template, request.prompt, ends)
        (trained,) = tokenize([row], tokenizer, 4096)
        ids = list(trained.ids)
        completion = tokenizer.decode(ids[trained.n_prompt :]).removesuffix("<|end|>")
        assert tokenizer.decode(ids[: trained.n_prompt]) == text
        assert template != "plain" or completion == row["completion"][0]["content"]
        parsed = style.parse(completion)
        assert parsed.action == t["steps"][rows.index(row)]["action"], "what was trained is read as it was meant"
        assert not thoughtful or parsed.thought.split() == t["steps"][rows.index(row)]["thought"].split()


def test_acting_and_world_modelling_share_their_history(trajectories):
    t = trajectories[0]
    for name in built_in_styles():
        style = get_style(name)
        state = (t["instruction"], t["steps"][:3], t["steps"][3]["observation"])
        bare, thinking = style.act(*state), style.act(*state, think=True)
        predicted = style.world_model(*state, t["steps"][3]["action"])
        assert bare[:-1] == thinking[:-1] == predicted[: len(bare) - 1]
        assert thinking[-1]["content"].startswith(predicted[-3]["content"])
        assert (bare == thinking) == (style.thought.absent == "empty")
    own = changed(world_model={"system": "Predict."}).world_model("", [], "A room.", "look")
    assert own[0]["content"] == "Predict."


def test_the_place_for_a_thought_is_opened_and_closed():
    assert [THINK.opening(think) for think in ("always", "never", "auto")] == ["<think>", "<think></think>\n", ""]
    assert {REACT.opening(think) for think in ("always", "never", "auto")} == {""}
    assert THINK.answer("look").text == "<think></think>\n<action>look</action>"


def test_history():
    steps = [{"observation": f"Room {i}. " + "x" * 30, "action": f"go {i}", "thought": f"On to {i}."} for i in range(4)]
    windowed = changed(history={"steps": 2, "observation_characters": 7, "thoughts": "keep"})
    prompt = windowed.act("Go.", steps, "The end of it all.")
    assert [m["content"] for m in prompt] == [
        "Act.",
        "Task: Go.\n(2 earlier steps are left out.)\nRoom 2. ...",
        "Thought: On to 2.\nAction: go 2",
        "Room 3. ...",
        "Thought: On to 3.\nAction: go 3",
        "The end of it all.",
    ]
    assert [m["content"] for m in changed().act("", steps[:1], "End.")][2:] == ["Action: go 0", "End."]


# -- files -------------------------------------------------------------------------------------------------------------


def test_files(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(run("prompts", "show", "think").ok().out.decode())
    assert load_style(file) == THINK and get_style(str(file)).label == THINK.label
    file.write_text(file.read_text().replace('name = "think"', 'name = "mine"'))
    assert run("prompts", "check", file).ok().out.decode() == f"{file}: ok, {get_style(str(file)).label}\n"
    assert get_style(str(file)).fingerprint != THINK.fingerprint
    record = run("imitation-data", "--prompt-style", file, stdin=run("expert", "house", "-n", "1").out).ok().records[0]
    assert record["prompt_style"] == get_style(str(file)).label
    assert record["completion"][0]["content"].startswith("<think></think>\n<action>")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"name": "two words"}, r"\$\.name"),
        ({"acts": {}}, "unknown field `acts`"),
        ({"history": {"steps": 0}}, r"\$\.history\.steps"),
        ({"history": {"left_out": "{k}"}}, r"\$\.history\.left_out: may hold"),
        ({"thought": {"open": " "}}, r"\$\.thought\.open: is blank"),
        ({"thought": {"open": "Action: "}}, r"\$\.thought: holds the mark"),
        ({"thought": {}}, r"\$\.thought\.ask: the same"),
        ({"thought": {"absent": "perhaps"}}, r"\$\.thought\.absent"),
    ],
)
def test_an_invalid_style_is_one_line(tables, message):
    with pytest.raises(InputError, match=message):
        changed(**tables)


def test_files_that_are_no_styles(tmp_path):
    run("prompts", "check", tmp_path / "none.toml").one_error(1, "none.toml", "No such file")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    run("prompts", "check", broken).one_error(3, f"{broken}: not valid TOML")
    with pytest.raises(UsageError, match="unknown prompt style 'poetic'; built in: react, "):
        get_style("poetic")
    with pytest.raises(InputError, match="training and playing would see different words"):
        get_style("react@0123456789abcdef")


def test_a_style_whose_words_and_marks_differ(tmp_path):
    """What an agent is asked to write has to be what is read back."""
    file = tmp_path / "mine.toml"
    text = run("prompts", "show", "think").ok().out.decode().replace('name = "think"', 'name = "mine"')
    marks = text.replace('open = "<action>"', 'open = "<deed>"').replace('close = "</action>"', 'close = "</deed>"')
    file.write_text(marks)
    run("prompts", "check", file).one_error(3, "$.act.system: asks for </action>", "from '<deed>' to '</deed>'")
    file.write_text(marks.replace("between <action> and </action>", "alone"))
    assert "note: no text shows the mark '<deed>' of an action" in run("prompts", "check", file).ok().err
    file.write_text(text.replace('absent = "empty"', 'absent = "blank"'))
    run("prompts", "check", file).one_error(3, "$.thought.absent: expected 'empty' or 'omit', got 'blank'")


def test_a_style_that_kept_the_name_of_a_built_in_one(data, tmp_path):
    """Messages about two styles of one name say so, and ask for another name."""
    file = tmp_path / "mine.toml"
    text = run("prompts", "show", "react").ok().out.decode()
    file.write_text(text)
    assert "note" not in run("prompts", "check", file).ok().err
    file.write_text(text.replace("You act in", "You are in"))
    assert "'react' is the name of a built-in style that differs" in run("prompts", "check", file).ok().err
    mine = tmp_path / "mine.jsonl"
    run("imitation-data", "--prompt-style", file, data["expert"], "-o", mine).ok()
    finetune = ("finetune", "--dry-run", "-m", "tiny", "-o", tmp_path / "run")
    run(*finetune, mine).one_error(2, "differs from the built-in react@", "give a style of your own another name")
    run(*finetune, "--prompt-style", file, data["imitation"]).one_error(
        2, "the built-in style of that name: give your style another name"
    )
    run(*finetune, data["imitation"], mine).one_error(3, "two styles have the same name")


def test_a_style_holds_all_words():
    """Every table can be set, and every word changes the fingerprint."""
    assert set(PromptStyle.__struct_fields__) == {
        "name",
        "acting",
        "action",
        "thought",
        "history",
        "predicting",
        "reflection",
        "summary",
        "judgement",
        "examples",
    }
    tables = ("reflection", Reflection), ("summary", Summary), ("world_model", WorldModel), ("judgement", Judgement)
    for table, words in tables:
        for field in msgspec.structs.fields(words):
            if field.type is str:
                assert changed(**{table: {field.name: "other"}}).label != changed().label


def test_prompts_on_the_command_line(data):
    listed = run("prompts", "list").ok().out.decode()
    assert [line.split("@")[0] for line in listed.splitlines()] == built_in_styles()
    text = run("prompts", "show", "react", "--record", data["rollout"], "--step", "1").ok().out.decode()
    for part in ("acting\n", "acting, with a thought\n", "world modelling\n", "asking for a reflection\n"):
        assert part in text
    run("prompts", "show", "react", "--record", data["rollout"], "--step", "99").one_error(3, "has no step 99")
    run("prompts", "show", "react", "--record", data["rollout"], "--id", "x").one_error(3, "no trajectory has the id")


def test_a_place_that_was_closed_holds_no_thought():
    for text in ("<think></think>\n nowhere", "<think></think>\n<action>go", "nowhere"):
        assert THINK.parse(text, finished=False) == THINK.parse("", finished=False)
    assert THINK.parse("<think>I see.</think> <action>look</action>").thought == "I see."
    assert THINK.parse("<think>I see", finished=False).thought == "I see"


def test_a_server_decides_for_itself_under_a_style_with_a_place(monkeypatch):
    from eexp.console import options
    from eexp.models import Engine

    server = Expert({"steps": []}, THINK, False)
    server.exact = False
    monkeypatch.setattr(options.ModelOptions, "open", lambda self, note: server)
    for think, expected in ((None, ""), ("auto", ""), ("never", "<think></think>\n")):
        model = options.ModelOptions("http://x/v1", Engine())
        policy = options.PolicyOptions(model, "think", None, think).open(print)
        assert policy._opening == expected


def test_built_in_styles_are_those_that_adapters_were_trained_with():
    """A new word in a style changes its fingerprint, unless `as_dict` leaves out its default."""
    labels = {"react": "bac1c094e2961373", "code": "cf6cfa5f708d2a68", "react-list": "09018e9936fdaf06"}
    labels |= {"think": "d7b41d504f6b92f3", "tools": "474b462314df519f"}
    assert {name: get_style(name).fingerprint for name in built_in_styles()} == labels

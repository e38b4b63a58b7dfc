"""No example teaches an action that would not be read back from its completion: the record is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import read, run, write

from eexp.errors import InputError
from eexp.prompts import built_in_styles, get_style

LOOP = 'for f in *.jpeg; do\n  mv "$f" x/\ndone'
TEXT_STYLES = [name for name in built_in_styles() if not get_style(name).action.calls]


@given(
    style=st.sampled_from(TEXT_STYLES).map(get_style),
    action=st.lists(
        st.sampled_from(["ls", "*", "`", " ", "\n", "\u2028", "Action:", "</action>", "\n```", "<think>"])
    ).map("".join),
    thought=st.sampled_from(["", "I look.", "Action: go\nThought: no", "<think>"]),
)
def test_a_completion_is_read_back_or_refused(style, action, thought):
    try:
        answer = style.completion(action, thought)
    except InputError:
        assert style.parse(style.answer(action, thought).text).action.strip() != action.strip()
    else:
        assert style.parse(answer.text).action.strip() == action.strip()
        assert answer == style.answer(action, thought)


def test_tool_calls_hold_any_argument():
    style = get_style("tools")
    assert style.completion(f"shell(script={LOOP!r})").call
    assert style.completion("1. Red shoes\n2. Blue shoes").text  # plain text is read back as one line
    with pytest.raises(InputError, match="reads the action"):
        style.completion("Hello.\n\nHow are you?")


def _trajectory(action: str = LOOP, number: int = 1) -> dict:
    def outcome(text: str, **more: object) -> dict:
        return {"observation": text, "done": False, "score": 0.0, "valid": True, **more}

    refused = {"action": "rm", "source": "policy", "logprob": -1.0, "outcome": outcome("rm: missing", valid=False)}
    steps = [
        {
            "observation": "a.jpeg",
            "action": action,
            "thought": "I move them.",
            "notes": "The pictures are here.",
            "alternatives": [refused],
        },
        {
            "observation": "$",
            "action": "ls x",
            "thought": None,
            "notes": "The pictures are in x.",
            "alternatives": [refused],
        },
    ]
    done = outcome("moved", done=True, score=1.0, success=True)
    world = {"env": "exec:sh world.sh", "task": {"id": str(number)}, "instruction": "Move all pictures."}
    return {"type": "trajectory", "id": f"t/{number}", **world, "steps": steps, "outcome": done, "lineage": []}


@pytest.mark.parametrize(
    "args",
    [("imitation-data",), ("reflect", "--rationale", "environment"), ("preference-data",)],
    ids=lambda args: args[0],
)
def test_an_action_of_several_lines_is_refused_under_a_style_of_one(args, tmp_path):
    file = write(tmp_path / "in", [_trajectory(), _trajectory("mv *.jpeg x/", 2)])
    run(*args, file).one_error(3, f"{file}:1", "$.steps[0]", "3 lines", "react", "for f in *.jpeg; do", "--rejects")
    rest = run(*args, file, "--rejects", tmp_path / "rejects").ok(4).records
    assert [r["id"] for r in rest if r["group"] == "t/2"] and not any(LOOP in str(r["prompt"][-1]) for r in rest)
    (reject,) = read(tmp_path / "rejects")
    assert reject["record"]["id"] == "t/1" and "3 lines" in reject["error"]
    texts = [str(record) for record in run(*args, file, "--prompt-style", "code").ok().records]
    assert any("done\\n```" in text for text in texts)


def test_a_model_is_not_asked_for_a_thought_before_such_an_action(tmp_path):
    file = write(tmp_path / "in", [_trajectory()])
    args = ("reflect", "-m", "tiny", "--threads", 1, "--max-tokens", 4, "--no-guard", "all", "--on-error", "skip")
    result = run(*args, file).ok(4)
    assert [record["id"] for record in result.records] == ["t/1/1/reflection"] and "3 lines" in result.err


def test_examples_made_elsewhere_are_refused_by_finetune(tmp_path):
    examples = run("imitation-data", write(tmp_path / "in", [_trajectory("mv")])).ok().records
    (message,) = examples[0]["completion"]
    message["content"] = message["content"].replace("Action: mv", f"Action: {LOOP}")
    examples[0]["spans"][-1]["end"] = len(message["content"])
    file = write(tmp_path / "examples", examples)
    tuned = ("finetune", "-m", "tiny", "--dry-run", "-o", tmp_path / "run", file)
    run(*tuned).one_error(3, f"{file}:1", "$.completion", "3 lines", "react")
    assert "1 set aside" in run(*tuned, "--on-error", "skip").ok(4).err
    unnamed = [{key: value for key, value in example.items() if key != "prompt_style"} for example in examples]
    run("finetune", "-m", "tiny", "--dry-run", "-o", tmp_path / "run", write(tmp_path / "unnamed", unnamed)).ok()
    preference = run("preference-data", write(tmp_path / "in", [_trajectory("mv")])).ok().records[:1]
    preference[0]["rejected"][0]["content"] = f"Action: {LOOP}"
    tuned = ("finetune", "-m", "tiny", "--objective", "dpo", "--dry-run", "-o", tmp_path / "run")
    run(*tuned, write(tmp_path / "pairs", preference)).one_error(3, "3 lines")


def test_policy_data_refuses_an_answer_that_cannot_have_been_given(tmp_path):
    played = {"type": "episode", "env": "exec:sh world.sh", "task": {"id": "a"}, "steps": 1}
    played["prompt_style"] = get_style("react").label

    def episode(number: int, action: str) -> dict:
        transcript = [{"observation": "$", "action": action}]
        return {**played, "id": f"e/{number}", "success": number > 0, "score": number, "transcript": transcript}

    episodes = [episode(0, "ls"), episode(1, LOOP)]
    file = write(tmp_path / "in", episodes)
    run("policy-data", file).one_error(3, f"{file}:2", "$.transcript[0].action", "3 lines")


def test_import_counts_them(tmp_path):
    turns = [{"role": role, "content": text} for text in (LOOP, "ls *", "ls") for role in ("user", "assistant")]
    err = run("import", "messages", write(tmp_path / "in", [{"messages": turns}])).ok().err
    assert "1 action has several lines" in err and "1 action that prompt style react reads back as another one" in err


WORLD = """
from eexp.envs import Environment, Observation


class Shell(Environment):
    def splits(self):
        return ["train"]

    def tasks(self, split):
        return iter([{"id": "a"}])

    def reset(self, task):
        self.left = ["ls", "for f in *; do\\n  cat $f\\ndone"]
        return Observation("$")

    def step(self, action):
        valid = action == self.left[0]
        self.left = self.left[valid:] or [""]
        return Observation("$", valid=valid, done=self.left == [""], score=float(self.left == [""]))

    def expert(self):
        return self.left[0]
"""


def test_env_check_says_which_actions_a_style_loses(tmp_path, monkeypatch):
    (tmp_path / "a_shell.py").write_text(WORLD)
    monkeypatch.chdir(tmp_path)
    out = run("env", "check", "a_shell:Shell").ok().out.decode()
    assert "note  prompts" in out and "1 of 2 actions" in out and "has 3 lines, of which prompt style react" in out
    monkeypatch.setenv("EEXP_PROMPT_STYLE", "code")
    assert "prompts" not in run("env", "check", "a_shell:Shell").ok().out.decode()

"""Tokenised examples: where the prompt ends, where the completion stops, and what is refused."""

from __future__ import annotations

import pytest
from running import read

from eexp.errors import InputError
from eexp.records.runs import TINY_DIR
from eexp.training.data import Row, Segment, tokenize

CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
START = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


@pytest.fixture
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_DIR)


def _example(answer: str = "Action: look", question: str = "You are in the kitchen.") -> dict:
    return {
        "type": "example",
        "id": "1",
        "kind": "x",
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def _one(tokenizer, example=None, limit=1000, **more) -> Row:
    (row,) = tokenize([example or _example()], tokenizer, limit, **more)
    return row


def _thinking(thought: str = "The fridge is shut.", action: str = "open fridge", weights=(1.0, 1.0)) -> dict:
    example = _example(f"{thought}\nAction: {action}")
    border = len(thought) + 1
    whole = len(example["completion"][0]["content"])
    spans = [("thought", 0, len(thought), weights[0]), ("action", border, whole, weights[1])]
    return {**example, "spans": [dict(zip(("name", "start", "end", "weight"), span)) for span in spans]}


def test_the_loss_falls_on_the_completion_and_its_stop(tokenizer, data):
    for name in ("imitation", "world", "reflected"):
        for example in read(data[name])[:10]:
            row = _one(tokenizer, example)
            assert tokenizer.decode(list(row.ids[row.n_prompt :])) == example["completion"][0]["content"] + "<|end|>"
            prompt = tokenizer.apply_chat_template(example["prompt"], add_generation_prompt=True, return_dict=True)
            assert list(row.ids[: row.n_prompt]) == prompt["input_ids"], "training sees what playing will see"
            assert row.ids[-1] == tokenizer.eos_token_id


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    """Templates that drop the thinking of all but the last answer do so."""
    tokenizer.chat_template = "{% if messages|length > 1 %}<|system|>again<|end|>{% endif %}" + CHAT + START
    with pytest.raises(InputError, match=r"\$\.prompt: the chat template does not keep the prompt"):
        _one(tokenizer)


def test_a_template_that_writes_more_before_the_answer_is_refused(tokenizer):
    tokenizer.chat_template = CHAT + "{% if add_generation_prompt %}<|assistant|> think {% endif %}"
    with pytest.raises(InputError, match="does not keep the prompt"):
        _one(tokenizer)


def test_what_follows_the_stop_is_not_learned(tokenizer):
    tokenizer.chat_template = CHAT.replace("{% endfor %}", "\n{% endfor %}") + START
    row = _one(tokenizer)
    assert tokenizer.decode(list(row.ids[row.n_prompt :])) == "Action: look<|end|>"


def test_a_missing_stop_is_added(tokenizer):
    tokenizer.chat_template = CHAT.replace("<|end|>", "") + START
    row = _one(tokenizer)
    assert tokenizer.decode(list(row.ids[row.n_prompt :])) == "Action: look<|end|>"
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"\$\.completion: .*no stop token"):
        _one(tokenizer)


def test_a_template_that_fails_gives_an_error_of_one_line(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no user\nturn') }}"
    with pytest.raises(InputError, match=r"^\$\.prompt: the chat template refuses these messages: no user$"):
        _one(tokenizer)
    tokenizer.chat_template = "{{ messages[7]['content'] }}"
    with pytest.raises(InputError, match="the chat template refuses these messages"):
        _one(tokenizer)


def test_a_token_across_the_border_is_cut_there(tokenizer):
    """A token that prompt and answer would share is split between them, as when playing."""
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    row = _one(tokenizer, _example("itchen.", "You are in the k"))
    prompt = tokenizer("You are in the k", add_special_tokens=False)["input_ids"]
    assert list(row.ids[: row.n_prompt]) == prompt
    assert tokenizer.decode(list(row.ids[row.n_prompt :])) == "itchen.<|end|>"


def test_examples_that_are_too_long_go_to_on_error(tokenizer):
    limit = len(_one(tokenizer).ids)
    assert _one(tokenizer, limit=limit)
    with pytest.raises(InputError, match=f"has {limit} tokens, more than --max-length {limit - 1}"):
        _one(tokenizer, limit=limit - 1)
    refused = []
    rows = list(
        tokenize(
            [_example(), _example("x " * 500), _example()], tokenizer, 100, lambda e, error: refused.append((e, error))
        )
    )
    assert len(rows) == 2 and len(refused) == 1 and refused[0][1].where == "$.prompt"


def test_segments_are_the_spans_of_the_completion(tokenizer):
    row = _one(tokenizer, _thinking())
    texts = {name: tokenizer.decode(list(row.ids[targets.start : targets.stop])) for name, _, targets in row.spans()}
    assert {name: text.strip() for name, text in texts.items()} == {
        "thought": "The fridge is shut.",
        "action": "Action: open fridge<|end|>",
    }
    assert row.kind == "x" and row.targets == list(range(row.n_prompt, len(row.ids)))
    plain = _one(tokenizer)
    assert plain.segments == (Segment(plain.n_prompt, "x", 1.0),) and plain.loss_weight == plain.n_targets


def test_an_action_counts_more_where_there_is_a_thought(tokenizer):
    one, more = (_one(tokenizer, _thinking(weights=(0.5, 2.0)), action_weight=weight) for weight in (1.0, 4.0))
    assert [segment.weight for segment in one.segments] == [0.5, 2.0]
    assert [segment.weight for segment in more.segments] == [0.5, 8.0]
    action = {**_thinking(), "spans": _thinking()["spans"][1:]}
    unthought = {**_thinking(""), "kind": "imitation"}
    for example in (action, unthought, {**_example(), "kind": "imitation"}):
        assert {segment.weight for segment in _one(tokenizer, example, action_weight=4.0).segments} == {1.0}


def test_tokens_of_weight_0_are_no_targets_and_are_cut_at_the_end(tokenizer):
    whole, row = _one(tokenizer, _thinking()), _one(tokenizer, _thinking(weights=(1.0, 0.0)))
    assert row.n_targets == whole.segments[1].start - whole.n_prompt == row.loss_weight
    assert len(row.ids) == whole.segments[1].start and row.ids == whole.ids[: len(row.ids)], "the rest is left out"
    assert row.n_completion == whole.n_completion == whole.n_targets
    first = _one(tokenizer, _thinking(weights=(0.0, 1.0)))
    assert first.ids == whole.ids and first.targets == range(whole.segments[1].start, len(whole.ids))
    none = _one(tokenizer, _thinking(weights=(0.0, 0.0)))
    assert none.n_targets == 0 and none.ids == whole.ids


def test_spans_that_do_not_fit_are_refused(tokenizer):
    example = _thinking()
    example["spans"][1]["end"] += 1
    with pytest.raises(InputError, match=r"^\$\.spans\[1\]: characters 20 to 40"):
        _one(tokenizer, example)

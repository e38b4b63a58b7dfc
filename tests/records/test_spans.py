"""Spans of a completion: their defaults, their checks, and the tokens that belong to each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eexp.errors import InputError
from eexp.records.runs import TINY_DIR
from eexp.records.spans import CompletionSpan, has_thought, span_of_tokens, spans_of

STOP = 256


def _example(content: str, kind: str = "imitation", spans: list | None = None) -> dict:
    named = [{"name": name, "start": start, "end": end} for name, start, end in spans or ()]
    return {"kind": kind, "completion": [{"role": "assistant", "content": content}], "spans": named or None}


def _bytes(ids: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return b"".join(b"<|end|>" if i == STOP else bytes([i]) for i in ids).decode("utf-8", "replace")


def _by_bytes(text: str, spans: list[CompletionSpan]) -> list[int]:
    return span_of_tokens([*text.encode(), STOP], text, spans, _bytes)


@pytest.mark.parametrize(
    "kind, name",
    [("imitation", "action"), ("reflection", "action"), ("world_model", "observation"), ("critique", "critique")],
)
def test_without_spans_the_whole_completion_is_one(kind, name):
    example = _example("Action: look", kind)
    assert spans_of(example) == [CompletionSpan(name, 0, 12)] == spans_of({**example, "spans": []})
    assert span_of_tokens([1, 2, STOP], "Action: look", spans_of(example), decode=None) == [0, 0, 0], "nothing decoded"


@pytest.mark.parametrize(
    "spans", [[("a", 3, 2)], [("a", 0, 4), ("b", 3, 5)], [("a", 0, 7)], [("a", 2, 3), ("b", 0, 1)]]
)
def test_spans_that_do_not_fit_are_refused_with_their_place(spans):
    with pytest.raises(InputError, match=rf"\$\.spans\[{len(spans) - 1}\]: characters"):
        spans_of(_example("abcdef", spans=spans))


def test_weights_and_thoughts():
    example = _example("abc", spans=[("thought", 0, 1), ("action", 1, 3)])
    example["spans"][1]["weight"] = 2
    spans = spans_of(example)
    assert spans == [CompletionSpan("thought", 0, 1, 1.0), CompletionSpan("action", 1, 3, 2.0)] and has_thought(spans)
    assert not has_thought([CompletionSpan("thought", 1, 1), CompletionSpan("action", 1, 3)]) and not has_thought(
        [CompletionSpan("action", 0, 3)]
    )


def test_characters_of_several_bytes_are_not_torn_apart():
    """All bytes of a character are in its span, and the stop token is in the last one."""
    text = "né€😀é!"
    for border in range(len(text) + 1):
        spans = [CompletionSpan("thought", 0, border), CompletionSpan("action", border, len(text))]
        expected = [int(i >= border) for i, character in enumerate(text) for _ in character.encode()]
        assert _by_bytes(text, spans) == [*expected, 1]


def test_tokens_outside_of_all_spans_belong_to_the_span_before():
    text = "<t>ab</t>cd."
    spans = [CompletionSpan("thought", 3, 5), CompletionSpan("action", 9, 11)]
    assert _by_bytes(text, spans) == [0] * 9 + [1] * 4


def test_an_empty_span_has_no_tokens():
    assert _by_bytes("abcd", [CompletionSpan("x", 0, 2), CompletionSpan("y", 2, 2), CompletionSpan("z", 2, 4)]) == [
        0,
        0,
        2,
        2,
        2,
    ]
    assert _by_bytes("ab", [CompletionSpan("x", 0, 2), CompletionSpan("y", 2, 2)]) == [0, 0, 1], (
        "but for the stop token, if it is the last"
    )


def test_a_border_within_a_token():
    """The token belongs to the span in which it begins; a span that begins and ends in one has none."""
    words = ["ab", "cd", "ef"]

    def decode(ids):
        return "".join(words[i] for i in ids)

    for border, expected in enumerate([[1, 1, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]]):
        assert (
            span_of_tokens(
                [0, 1, 2], "abcdef", [CompletionSpan("x", 0, border), CompletionSpan("y", border, 6)], decode
            )
            == expected
        )
    within = [CompletionSpan("x", 0, 3), CompletionSpan("y", 3, 4), CompletionSpan("z", 4, 6)]
    assert span_of_tokens([0, 1, 2], "abcdef", within, decode) == [0, 0, 2]


@given(st.text(st.sampled_from("aé€😀 \n\ufffd"), max_size=20).map(lambda text: text + "."), st.data())
def test_every_byte_is_in_the_span_of_its_character(text, data):
    starts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    spans = [CompletionSpan(str(i), start, start) for i, start in enumerate([0, *starts])]
    owner = [max(i for i, span in enumerate(spans) if span.start <= at) for at in range(len(text) + 1)]
    by_byte = _by_bytes(text, spans)
    assert by_byte == sorted(by_byte) and len(by_byte) == len(text.encode()) + 1 and by_byte[-1] == len(spans) - 1
    if "\ufffd" not in text:  # U+FFFD looks like a character that is not whole
        assert by_byte[:-1] == [owner[at] for at, character in enumerate(text) for _ in character.encode()]


def test_a_real_tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_DIR)
    thought, action = "The egg is in the fridge.", "Action: open fridge"
    text = f"{thought}\n{action}"
    spans = [CompletionSpan("thought", 0, len(thought)), CompletionSpan("action", len(thought) + 1, len(text))]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    for decode in (tokenizer.decode, lambda ids: tokenizer.decode(ids, skip_special_tokens=True)):
        owners = span_of_tokens(ids, text, spans, decode)
        own = [[i for i, owner in zip(ids, owners) if owner == which] for which in (0, 1)]
        assert tokenizer.decode(own[0]).strip() == thought
        assert tokenizer.decode(own[1]) == action + tokenizer.eos_token


def test_text_that_differs_from_that_of_its_tokens():
    """Blanks at the ends, an earlier message, special tokens left out, and blanks that a template changes."""
    text = " <t>ab</t>\n\ncd "
    spans = [CompletionSpan("thought", 1, 10), CompletionSpan("action", 12, 14)]

    def owners(spelled: str, decode=_bytes) -> str:
        numbers = span_of_tokens([*spelled.encode(), STOP], text, spans, decode)
        return "".join(map(str, numbers))

    assert owners("<t>ab</t>\n\ncd") == "0" * 11 + "111"
    assert owners("  <t>ab</t>\n\ncd") == "0" * 13 + "111"
    assert owners("<a>cd<|end|><t>ab</t>\n\ncd") == "0" * 23 + "111"
    assert owners("<t>\nab\n</t>\n\ncd") == "0" * 13 + "111"
    assert owners("<t>ab</t>\n\ncd", lambda ids: _bytes(ids).replace("<t>", "").replace("</t>", "")) == "0" * 11 + "111"

"""`eexp score` against a plain loop over transformers and against finetune's held-out loss; groups, resuming."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from itertools import groupby

import pytest
from running import lines, read, run, text_styles, write

from eexp.errors import InputError, UsageError
from eexp.models import Engine, open_model, scoring
from eexp.models.scoring import Losses, loss_table, score
from eexp.records.spans import span_of_tokens, spans_of


@pytest.fixture(scope="module")
def hf():
    with open_model("hf:tiny") as model:
        yield model


@pytest.fixture(scope="module")
def llama(tiny):
    with open_model(str(tiny), Engine(cache="f32", threads=1)) as model:
        yield model


@pytest.fixture(scope="module")
def examples(data) -> list[dict]:
    """Examples of every kind in every built-in style, some with thoughts, and one of another program."""
    trajectory = read(data["rollout"])[0]
    beginning = {**trajectory, "steps": trajectory["steps"][:4], "outcome": None}
    thoughtful = [{**s, "thought": f"The next thing is to {s['action']}."} for s in beginning["steps"]]
    bare, thoughtful = lines([beginning]), lines([{**beginning, "steps": thoughtful}])
    records = []
    for style in text_styles():
        for args, stdin in [
            (["imitation-data"], bare),
            (["imitation-data"], thoughtful),
            (["reflect", "--rationale", "outcome"], bare),
            (["world-model-data"], bare),
        ]:
            records += run(*args, "-q", "--prompt-style", style, stdin=stdin).ok().records
    foreign = {
        "type": "example",
        "id": "foreign",
        "kind": "critique",
        "prompt": [{"role": "user", "content": "What is in the fridge?"}],
        "completion": [{"role": "assistant", "content": "  An apple,\nI think. 日本 🙂"}],
    }
    return [*records, foreign]


@pytest.fixture(scope="module")
def scored_by_hf(hf, examples) -> list[dict]:
    return list(score(iter(examples), hf))


def plain_losses(hf, examples: list[dict]) -> dict[tuple[str, str], list[float]]:
    """Return -log p of every target by kind and span, by transformers alone, one example at a time."""
    import torch

    losses = defaultdict(list)
    tokenizer, model = hf._tokenizer, hf._model
    for example in examples:
        chat = example["prompt"] + example["completion"]
        prompt = tokenizer.apply_chat_template(example["prompt"], add_generation_prompt=True, return_dict=True)
        whole = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        start = len(prompt["input_ids"])
        assert whole[:start] == prompt["input_ids"]
        end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
        with torch.inference_mode():
            logprobs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        spans = spans_of(example)
        owners = span_of_tokens(whole[start:end], chat[-1]["content"], spans, tokenizer.decode)
        for i, owner in enumerate(owners, start):
            losses[example["kind"], spans[owner].name].append(-float(logprobs[i - 1, whole[i]]))
    return losses


def mean_losses(examples: list[dict]) -> dict[tuple[str, str], tuple[float, int]]:
    losses = Losses()
    for example in examples:
        losses.add(example)
    return {
        (row["kind"], row["span"]): (row["loss"], row["tokens"])
        for row in losses.rows()
        if row["span"] and not row["transition"]
    }


def test_losses_are_those_of_a_plain_loop(hf, llama, examples, scored_by_hf):
    plain = {key: (sum(some) / len(some), len(some)) for key, some in plain_losses(hf, examples).items()}
    assert {kind for kind, _ in plain} == {"imitation", "reflection", "world_model", "critique"}
    assert {("imitation", "thought"), ("reflection", "thought"), ("world_model", "observation")} <= plain.keys()
    for model, scored, tolerance in ((hf, scored_by_hf, 1e-5), (llama, list(score(iter(examples), llama)), 1e-4)):
        assert [{**e, "scores": []} for e in scored] == [{**e, "scores": []} for e in examples]
        means = mean_losses(scored)
        assert means.keys() == plain.keys()
        for key, (loss, tokens) in plain.items():
            assert means[key][1] == tokens and abs(means[key][0] - loss) < tolerance, (model.spec, key)


@pytest.mark.parametrize("packing", ["tree", "none"])
def test_losses_are_the_held_out_losses_of_finetune(examples, scored_by_hf, packing):
    import torch

    from eexp.models.backends.hf import load_model
    from eexp.training import exact
    from eexp.training.data import tokenize
    from eexp.training.validation import summary, validation_losses

    model, tokenizer = load_model("tiny", dtype=torch.float32)
    rows = list(tokenize(examples, tokenizer, 2048))
    if packing == "tree":
        exact.prepare(model, rows, torch.float32, 1024)
    held_out = summary(validation_losses(model, rows, packing=packing, tokens_per_batch=1024))
    means = mean_losses(scored_by_hf)
    assert held_out["spans"].keys() == {f"{kind}/{span}" for kind, span in means}
    for (kind, span), (loss, tokens) in means.items():
        theirs = held_out["spans"][f"{kind}/{span}"]
        assert theirs["tokens"] == tokens and abs(theirs["loss"] - loss) < 1e-5


def test_a_span_of_weight_zero_is_scored_beside_the_others(hf, data):
    (example,) = [e for e in read(data["world"]) if "You are in the" in e["completion"][0]["content"]][:1]
    text = example["completion"][0]["content"]
    middle = text.index("You see")
    example["spans"] = [
        {"name": "observation", "start": 0, "end": middle},
        {"name": "unknown", "start": middle, "end": len(text) - 15, "weight": 0.0},
        {"name": "observation", "start": len(text) - 15, "end": len(text)},
    ]
    (scored,) = score(iter([example]), hf)
    plain = plain_losses(hf, [example])
    assert [s["span"] for s in scored["scores"]] == ["observation", "unknown", "observation"]
    assert scored["scores"][1]["logprob"] == pytest.approx(-sum(plain["world_model", "unknown"]), abs=1e-4)
    both = scored["scores"][0]["logprob"] + scored["scores"][2]["logprob"]
    assert both == pytest.approx(-sum(plain["world_model", "observation"]), abs=1e-4)


def test_shared_prompts_of_a_trajectory_are_evaluated_once(hf, data):
    examples = read(data["world"])
    hf.counts.clear()
    whole = list(score(iter(examples), hf))
    together = hf.counts["prompt tokens evaluated"]
    hf.counts.clear()
    alone = list(score(({**e, "group": None} for e in examples), hf))
    assert together * 5 < hf.counts["prompt tokens evaluated"]
    for one, other in zip(whole, alone, strict=True):
        for a, b in zip(one["scores"], other["scores"]):
            assert a["tokens"] == b["tokens"] and abs(a["logprob"] - b["logprob"]) < 1e-5 * a["tokens"]


def test_long_groups_are_cut(hf, data, monkeypatch):
    examples = read(data["world"])
    longest = max(len(list(some)) for _, some in groupby(examples, key=lambda e: e["group"]))
    monkeypatch.setattr(scoring, "GROUP", 3)
    groups = list(scoring._groups(iter(examples)))
    assert longest > 3 and [e for group in groups for e in group] == examples
    assert all(len(group) <= 3 and len({e["group"] for e in group}) == 1 for group in groups)
    assert [len(g) for g in scoring._groups(iter([{"id": "a"}, {"id": "b"}]))] == [1, 1]


def test_output_is_the_same_after_an_interruption(data, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    groups = [list(some) for _, some in groupby(read(data["world"]), key=lambda e: e["group"])]
    file = write(tmp_path / "in", [*groups[0][:9], *groups[1][:9]])
    args = ["score", "-m", "tiny", "--threads", "1", file]
    result = run(*args, "-o", whole, "--summary", tmp_path / "losses").ok()
    for n_lines in (0, 1, 12, 18):
        broken.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:n_lines]) + b'{"type":')
        resumed = run(*args, "-o", broken, "--resume", "--summary", tmp_path / "again").ok()
        assert broken.read_bytes() == whole.read_bytes()
        assert (tmp_path / "again").read_bytes() == (tmp_path / "losses").read_bytes()
        assert _table(resumed.err) == _table(result.err)


def _table(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith(("kind ", "world_model "))]


def test_table_and_summary(data, tmp_path):
    result = run(
        "score", "-m", "tiny", "--summary", "-", "-o", tmp_path / "scored", data["world"], data["imitation"]
    ).ok()
    scored = read(tmp_path / "scored")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert {row["kind"] for row in rows} == {"imitation", "world_model"}
    transitions = [row for row in rows if row["transition"] and row["span"] == "observation"]
    whole = next(r for r in rows if r["kind"] == "world_model" and not r["transition"] and r["span"] == "observation")
    assert {"changed", "done"} <= {row["transition"] for row in transitions}
    assert sum(row["tokens"] for row in transitions) == whole["tokens"]
    assert sum(row["examples"] for row in transitions) == whole["examples"]
    total = sum(s["logprob"] for e in scored if e["kind"] == "imitation" for s in e["scores"])
    (imitation,) = [row for row in rows if row["kind"] == "imitation"]
    assert imitation["loss"] == pytest.approx(-total / imitation["tokens"])
    assert _table(result.err) and "\n".join(loss_table(rows)) in result.err
    assert run("score", "-m", "tiny", "-q", data["imitation"]).ok().err == ""


def test_summary_needs_a_place_of_its_own(data):
    run("score", "-m", "tiny", "--summary", "-", data["imitation"]).one_error(2, "-o FILE")
    run("score", "-m", "tiny", "--summary", "/no/such/place", "-q", data["imitation"]).one_error(1, "/no/such/place")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": [{"role": "assistant", "content": "a"}] * 2}, "$.completion: has 2 messages"),
        ({"spans": [{"name": "action", "start": 5, "end": 999}]}, "$.spans[0]: "),
        ({"prompt": [{"role": "user", "content": "word " * 4000}]}, "give a larger --context"),
        ({"prompt": [{"role": "tool", "content": "x"}]}, None),
    ],
)
def test_an_example_that_cannot_be_scored_is_set_aside(change, message, data, tmp_path):
    examples = read(data["imitation"])
    bad = {**examples[3], "id": "bad", **change}
    file = write(tmp_path / "examples.jsonl", [*examples[:3], bad, *examples[3:]])
    if message is None:  # the tiny model's template takes any role
        run("score", "-m", "tiny", file).ok()
        return
    for model in ("tiny", "hf:tiny"):
        run("score", "-m", model, file).one_error(3, f"{file}:4: ", message)
    result = run("score", "-m", "tiny", "--rejects", tmp_path / "rejects", file).ok(4)
    assert [e["id"] for e in result.records] == [e["id"] for e in examples]
    assert [reject["record"]["id"] for reject in read(tmp_path / "rejects")] == ["bad"]


def test_servers_cannot_score(data):
    line = run("score", "-m", "http://localhost:9/v1#x", data["imitation"]).one_error(2, "a server cannot score")
    assert "give a GGUF file" in line
    with pytest.raises(UsageError, match="cannot tell the tokens"), open_model("http://localhost:9/v1#x") as server:
        server.encode([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}])


def test_examples_are_judged_one_by_one(hf, data):
    """An example's scores do not depend on the examples before it, to within rounding."""
    examples = read(data["imitation"])
    errors: list[tuple[dict, InputError]] = []
    bad = {**examples[0], "completion": examples[0]["completion"] * 2}
    mixed = [examples[0], bad, *examples[1:]]
    scored = list(score(iter(mixed), hf, on_error=lambda record, error: errors.append((record, error))))
    assert [e["id"] for e in scored] == [e["id"] for e in examples] and [e for e, _ in errors] == [bad]
    assert all(math.isfinite(s["logprob"]) for e in scored for s in e["scores"])


def test_a_summary_overwrites_nothing(data, tmp_path):
    file = write(tmp_path / "il.jsonl", read(data["imitation"])[:2])
    before = file.read_bytes()
    run("score", "-m", "tiny", "--summary", file, file).one_error(2, "both read and written")
    out = tmp_path / "out.jsonl"
    run("score", "-m", "tiny", "--summary", out, "-o", out, file).one_error(2, "both -o and --summary")
    assert file.read_bytes() == before

"""Preferences: which alternatives are rejected, and the loss and gradient of DPO against its formula row by row."""

from __future__ import annotations

import json
import random
from array import array
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from running import interrupted_at, read, run, text_styles, write
from small_models import FIRST_LAYERS, small_llama, taken_gradient

from eexp.prompts import get_style
from eexp.records.outcomes import shortcoming
from eexp.records.record import answers_of

BEFORE = "A door."


def outcome(observation: str, **more: object) -> dict:
    return {"observation": observation, "done": False, **more}


CHANGE = outcome("An open door.")
WIN = outcome("You are out.", done=True, success=True)


@pytest.mark.parametrize(
    ("expert", "other", "expected"),
    [
        (CHANGE, outcome("No such thing.", valid=False), "refused"),
        (outcome("No.", valid=False), outcome("No such thing.", valid=False), None),
        (CHANGE, outcome("You fall.", done=True, success=False), "ended"),
        (WIN, outcome("You fall.", done=True, success=False), "ended"),
        (CHANGE, WIN, None),
        (CHANGE, outcome("You fall.", done=True, score=1.0), None),
        ({**CHANGE, "score": 0.5}, outcome("A window.", score=0.25), "score"),
        ({**CHANGE, "score": 0.5}, outcome("A window.", score=0.5), None),
        (CHANGE, outcome(BEFORE), "unchanged"),
        (CHANGE, outcome(BEFORE, changed=True), None),
        (CHANGE, outcome("A window."), None),
        (outcome(BEFORE), outcome(BEFORE), None),
    ],
)
def test_only_what_the_record_shows_is_worse(expert, other, expected):
    assert shortcoming(BEFORE, expert, other) == expected


DPO = ("finetune", "-q", "-m", FIRST_LAYERS, "--objective", "dpo", "--lr", "3e-3")


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    """Preferences of six houses, with mistakes of the tiny model, in one file."""
    directory = tmp_path_factory.mktemp("preferences")
    expert, branched, executed = (directory / name for name in ("expert", "branched", "executed"))
    run("expert", "house", "-n", 6, "-q", "-o", expert).ok()
    run("branch", "-k", 2, "--no-only-admissible", "-m", "tiny", "--threads", 1, "-q", expert, "-o", branched).ok()
    run("rollout", "-q", branched, "-o", executed).ok()
    run("preference-data", executed, "-q", "-o", directory / "preferences").ok()
    return directory / "preferences"


@pytest.fixture(scope="module")
def few(preferences) -> Path:
    """Some of them, of more than one house: a run asks its reference about every one."""
    records = read(preferences)[:30]
    assert len({record["group"] for record in records}) > 1
    return write(preferences.parent / "few", records)


def test_every_preference_has_its_evidence(preferences):
    records = read(preferences)
    assert {r["worse"] for r in records} >= {"refused"} and len({r["id"] for r in records}) == len(records)
    rollouts = {t["id"]: t for t in read(preferences.parent / "executed")}
    for record in records:
        i, step = int(record["id"].split("/")[-3]), None
        step = rollouts[record["group"]]["steps"][i]
        (alternative,) = (
            a for a in step["alternatives"] if f"Action: {a['action']}" == record["rejected"][0]["content"]
        )
        assert record["chosen"][0]["content"] == f"Action: {step['action']}"
        assert record["rejected_outcome"] == alternative["outcome"]["observation"]
        assert record["worse"] != "refused" or alternative["outcome"]["valid"] is False
        assert record["prompt"][-1]["content"].endswith(step["observation"])


def test_prompts_are_those_of_imitation(preferences):
    imitated = {r["id"]: r for r in run("imitation-data", preferences.parent / "executed").records}
    for record in read(preferences):
        example = imitated["/".join([*record["id"].split("/")[:-2], "imitation"])]
        assert example["prompt"] == record["prompt"] and example["completion"] == record["chosen"]


def test_options_choose_among_them(preferences):
    executed, records = preferences.parent / "executed", read(preferences)
    by_reason = [
        run("preference-data", "--worse", reason, executed).ok().records
        for reason in ("refused", "ended", "score", "unchanged")
    ]
    assert sum(map(len, by_reason)) == len(records)
    assert all(
        {r["worse"] for r in part} <= {reason}
        for part, reason in zip(by_reason, ("refused", "ended", "score", "unchanged"))
    )
    one_a_state = run("preference-data", "--most", 1, executed).ok().records
    states = [r["id"].rpartition("/")[0] for r in one_a_state]
    assert len(set(states)) == len(states) and set(states) == {r["id"].rpartition("/")[0] for r in records}


@pytest.mark.parametrize("style", text_styles())
def test_judgements_stand_in_both_orders(preferences, style):
    """Whoever always says "first" is right in exactly half of them; and each answer ends as the agent acts."""
    executed = preferences.parent / "executed"
    pairs = run("preference-data", "--prompt-style", style, executed).ok().records
    made = run("preference-data", "--judge", "--prompt-style", style, executed).ok().records
    assert len(made) == 2 * len(pairs) and {r["kind"] for r in made} == {"judgement"}
    words = get_style(style).judgement
    firsts = [r["completion"][0]["content"].startswith(f"{words.better}{words.first}\n") for r in made]
    assert sum(firsts) * 2 == len(made)
    for pair, first, second in zip(pairs, made[::2], made[1::2]):
        chosen, rejected = (get_style(style).parse(pair[key][0]["content"]).action for key in ("chosen", "rejected"))
        for record, (one, other), better in ((first, (chosen, rejected), "1"), (second, (rejected, chosen), "2")):
            question = f"{words.request}\n1. {one}\n2. {other}"
            assert record["prompt"][-1]["content"].endswith(f"\n\n{question}")
            text = record["completion"][0]["content"]
            assert text == f"{words.better}{better}\n{pair['chosen'][0]['content']}"
            assert [text[s["start"] : s["end"]] for s in record["spans"]][:1] == [f"{words.better}{better}\n"]
            assert record["spans"][0]["name"] == "choice" and record["spans"][-1]["end"] == len(text)
            assert get_style(style).parse(text).action == chosen


def test_judgements_may_show_what_both_actions_led_to(preferences):
    executed = preferences.parent / "executed"
    made = run("preference-data", "--judge", "--with-outcomes", executed).ok().records
    for pair, record in zip(read(preferences), made[1::2]):
        *_, rejected, its_outcome, chosen, outcome = record["prompt"][-1]["content"].split("\n")
        assert its_outcome == f"   It led to: {' '.join(pair['rejected_outcome'].split())}"
        assert outcome == f"   It led to: {' '.join(pair['chosen_outcome'].split())}"
        assert rejected.startswith("1. ") and chosen.startswith("2. ")
    run("preference-data", "--with-outcomes", executed).one_error(2, "--with-outcomes is for --judge")


def test_they_are_shown_counted_and_split(preferences):
    n = len(read(preferences))
    assert "chosen: Action: " in run("show", "-n", 1, preferences).ok().out.decode()
    assert f"preferences: {n}, of which" in run("show", "--summary", preferences).ok().out.decode()
    assert f"preference {n:>6}".split() == run("stats", preferences).ok().out.decode().splitlines()[1].split()[:2]
    parts = [run("split", "--parts", 2, "--part", k, preferences).ok().records for k in (1, 2)]
    assert sum(map(len, parts)) == n and not {r["group"] for r in parts[0]} & {r["group"] for r in parts[1]}


def test_each_objective_names_the_records_that_it_takes(preferences, data, tmp_path):
    train = ("finetune", "-m", "tiny", "-o", tmp_path / "run")
    run(*train, preferences).one_error(3, "`eexp finetune --objective dpo`")
    run(*train, "--objective", "dpo", data["expert"]).one_error(3, "`eexp preference-data`")
    run(*train, "--objective", "dpo", data["imitation"]).one_error(3, "no preferences to train on")
    assert run(*train, "--beta", 1, data["imitation"]).ok(2).err.endswith("--beta is for --objective dpo\n")
    share = run(*train, "--objective", "dpo", "--share", "chosen=0.5", preferences)
    share.one_error(2, "--share is for examples, not for --objective dpo")


def test_answers_that_are_equal_in_tokens_are_set_aside(preferences, tmp_path):
    first = read(preferences)[0]
    same = write(tmp_path / "same", [{**first, "rejected": first["chosen"]}])
    run("finetune", "-m", "tiny", "-o", tmp_path / "run", "--objective", "dpo", same).one_error(
        3, "$.rejected: is the same"
    )


# -- loss and gradient -----------------------------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_the_formula():
    import torch

    from eexp.training import exact
    from eexp.training.objectives.preferences import AnswerRow, pair_loss, paired
    from eexp.training.packing import PACKINGS, target_losses

    model = small_llama()
    generator = random.Random(0)
    prompts = [[generator.randrange(40) for _ in range(n)] for n in (9, 14)]
    rows = []
    for pair in range(9):
        prompt, weight = prompts[pair % 2], generator.choice([0.5, 1.0, 2.0])
        answers = [[generator.randrange(40) for _ in range(generator.randint(1, 6))] for _ in range(2)]
        for answer, reference, is_chosen in zip(answers, (-7.0, -9.5), (True, False)):
            ids = array("i", prompt + answer)
            rows.append(
                AnswerRow(ids, len(prompt), weight, pair=pair, is_chosen=is_chosen, reference=reference + pair / 4)
            )

    expected, weights = torch.zeros(()), 0.0
    for chosen, rejected in zip(rows[::2], rows[1::2]):
        logps = []
        for row in (chosen, rejected):
            ids = torch.tensor([list(row.ids)])
            logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[row.n_prompt - 1 :, 0]
            logps.append((logprobs.sum() - row.reference, logprobs.mean()))
        loss = -torch.nn.functional.logsigmoid(0.3 * (logps[0][0] - logps[1][0])) - 0.7 * logps[0][1]
        expected = expected + chosen.weight * loss
        weights += chosen.weight
    expected.backward()
    expected_gradient = taken_gradient(model)
    for name in ("none", "tree"):
        packing = paired(PACKINGS[name])
        if name == "tree":
            exact.prepare(model, rows, torch.float32, 100)
        for budget in (1, 60, 1000):
            total, sums = torch.zeros(()), torch.zeros(3)
            passes = list(packing.cut(rows, budget))
            for part_rows in passes:
                part = packing.part(part_rows, "cpu")
                pairs = pair_loss(part_rows, part, target_losses(model, part), beta=0.3, sft_weight=0.7)
                pairs.loss.backward()
                total, sums = total + pairs.loss.detach(), sums + pairs.sums
            assert len(passes) == {1: 9, 1000: 1}.get(budget, len(passes))
            assert abs(total - expected.detach()) < 1e-5 * expected
            assert (taken_gradient(model) - expected_gradient).norm() < 1e-5 * expected_gradient.norm()
            assert sums[2] == pytest.approx(weights)


def test_examples_beside_preferences_add_their_own_loss():
    """The loss of an update is the mean over its pairs and X times that over the targets of its examples."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from eexp.training import exact
    from eexp.training.data import Row
    from eexp.training.objectives.preferences import AnswerRow, PreferenceLoss, pair_loss, paired
    from eexp.training.packing import PACKINGS, target_losses
    from eexp.training.settings import DPOSettings

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, attn_implementation="eager", **sizes))
    answers = [([1, 2, 3, 4, 5], [6, 7]), ([1, 2, 3, 8, 9, 10], [11]), ([1, 2, 12], [13, 14, 15])]
    rows: list = []
    for pair, (prompt, chosen) in enumerate(answers):
        rejected = [(token + 20) % 40 for token in chosen]
        for answer, is_chosen in ((chosen, True), (rejected, False)):
            row = AnswerRow(array("i", prompt + answer), len(prompt), 1.0, pair=pair, is_chosen=is_chosen)
            rows.append(replace(row, reference=-6.0))
        rows.append(Row(array("i", prompt + chosen), len(prompt), 0.5 + pair))  # the tokens of a chosen answer
    rows.append(Row(array("i", [1, 30, 31, 32]), 1, 2.0))
    plain = PACKINGS["none"]
    pairs = [row for row in rows if isinstance(row, AnswerRow)]
    part = plain.part(pairs, "cpu")
    expected = pair_loss(pairs, part, target_losses(model, part), 0.3, 0.0).loss / 3
    examples = [row for row in rows if not isinstance(row, AnswerRow)]
    part = plain.part(examples, "cpu")
    weighted = (part.weights * target_losses(model, part)).sum()
    expected = expected + 0.7 * weighted / sum(row.loss_weight for row in examples)
    for name in ("none", "tree"):
        packing = paired(PACKINGS[name])
        if name == "tree":
            exact.prepare(model, rows, torch.float32, 100)
        for budget in (1, 12, 1000):
            loss_of = PreferenceLoss(rows, DPOSettings(beta=0.3, sft_weight=0.7), True, 1)
            passes = list(packing.cut(rows, budget))
            losses = []
            for part_rows in passes:
                part = packing.part(part_rows, "cpu")
                losses.append(loss_of(part_rows, part, target_losses(model, part)))
            assert len(passes) > 1 or budget == 1000
            assert abs(sum(losses) - expected) < 1e-5 * expected and loss_of.sums[2] == 3


def test_a_run_may_hold_examples_beside_preferences(few, data, tmp_path):
    train = (*DPO, "--max-steps", 3)
    run(*train, "-o", tmp_path / "a", few, data["imitation"]).ok()
    about = json.loads((tmp_path / "a" / "eexp.json").read_text())
    assert about["data"]["kinds"].keys() == {"imitation", "preference"}
    assert about["trained"]["shares"] == {"imitation": 0.5, "preference": 0.5}
    first = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["margin"] == pytest.approx(0, abs=1e-5) and first["loss"] > 0.7  # log 2, and that of the examples
    run(*train, "-o", tmp_path / "b", "--sft-weight", 0, few, data["imitation"]).ok()
    first = json.loads((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-5)


def test_a_run_starts_at_the_reference_and_learns(few, tmp_path):
    """At the start every margin is 0 and the loss log 2; then the chosen answers gain on the rejected ones."""
    train = (*DPO, "--max-steps", 6)
    run(*train, "-o", tmp_path / "a", few).ok()
    run(*train, "-o", tmp_path / "b", "--tokens-per-batch", 700, few).ok()
    curves = [[json.loads(line) for line in open(tmp_path / name / "metrics.jsonl")] for name in "ab"]
    assert curves[0][0]["loss"] == pytest.approx(0.6931472, abs=1e-5) and curves[0][0]["margin"] == pytest.approx(
        0, abs=1e-5
    )
    assert curves[0][-1]["loss"] < 0.6 and curves[0][-1]["accuracy"] > 0.7
    assert [line["loss"] for line in curves[0]] == pytest.approx([line["loss"] for line in curves[1]], rel=1e-3)
    last = {name: f"{curves[0][-1][name]:.4f}" for name in ("loss", "accuracy", "margin")}
    line = "step 6: loss {loss}, accuracy {accuracy}, margin {margin}".format(**last)
    assert run("show", tmp_path / "a").ok().out.decode().splitlines()[-1] == line
    about = json.loads((tmp_path / "a" / "eexp.json").read_text())
    assert about["data"]["kinds"] == {"preference": len(read(few))} and about["trained"]["shares"] == {
        "preference": 1.0
    }


@pytest.mark.long
def test_a_resumed_run_equals_an_uninterrupted_one(few, tmp_path):
    from safetensors.torch import load_file

    train = (*DPO, "--max-steps", 4, "--save-every", 2)
    run(*train, "-o", tmp_path / "whole", few).ok()
    with interrupted_at(4):
        run(*train, "-o", tmp_path / "cut", few).ok(130)
    run(*train, "-o", tmp_path / "cut", "--resume", few).ok()
    whole, cut = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all((whole[key] == cut[key]).all() for key in whole)


def test_answers_are_examples(preferences):
    record = read(preferences)[0]
    chosen, rejected = answers_of(deepcopy(record))
    assert (chosen["completion"], rejected["completion"]) == (record["chosen"], record["rejected"])
    assert chosen["prompt"] == rejected["prompt"] == record["prompt"]

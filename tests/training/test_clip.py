"""`finetune --clip`: the clipped loss by a plain loop, and what it leaves alone."""

from __future__ import annotations

import random
from array import array

import pytest
import torch
from own_episodes import episode
from running import interrupted_at, read, run, write
from safetensors.torch import load_file
from small_models import FIRST_LAYERS, small_llama, taken_gradient
from transformers import LlamaForCausalLM

from eexp.training import exact
from eexp.training.data import Row
from eexp.training.objectives.clipped import ClippedLoss, OwnRow
from eexp.training.packing import PACKINGS, target_losses

CLIP = 0.2


@pytest.fixture
def model() -> LlamaForCausalLM:
    return small_llama()


def _logprobs(model: LlamaForCausalLM, row: Row) -> torch.Tensor:
    ids = torch.tensor([list(row.ids)])
    return model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[row.n_prompt - 1 :, 0]


def _rows(model: LlamaForCausalLM, changes: tuple[float, ...]) -> list[Row]:
    """Return answers to two prompts, some of them the same, whose log-probabilities have changed by these."""
    generator = random.Random(0)
    prompts = [[generator.randrange(40) for _ in range(n)] for n in (9, 14)]
    rows: list[Row] = []
    for n in range(12):
        prompt = prompts[n % 2]
        answer = [n // 4, *(generator.randrange(40) for _ in range(generator.randint(0, 5)))]
        row = OwnRow(array("i", prompt + answer), len(prompt), generator.choice([-1.0, -0.5, 0.75, 2.0]), kind="policy")
        before = _logprobs(model, row).detach()
        row.before = array("f", [float(p) - generator.choice(changes) for p in before])
        rows.append(row)
    return [*rows, Row(array("i", prompts[0] + [3, 4]), 9, 1.5, kind="imitation")]


@pytest.mark.parametrize("changes", [(0.0,), (0.5, -0.5, 0.1, -0.1, 0.0)])
def test_loss_and_gradient_are_those_of_a_plain_loop(model, changes):
    rows = _rows(model, changes)
    expected = torch.zeros(())
    for row in rows:
        logprobs = _logprobs(model, row)
        if not isinstance(row, OwnRow):
            expected = expected - row.weight * logprobs.sum()
            continue
        for logprob, before in zip(logprobs, row.before):
            ratio = torch.exp(logprob - before)
            expected = expected - torch.min(row.weight * ratio, row.weight * ratio.clip(1 - CLIP, 1 + CLIP))
    expected.backward()
    gradient = taken_gradient(model)
    for name in ("none", "tree"):
        if name == "tree":
            exact.prepare(model, rows, torch.float32, 100)
        for budget in (1, 60, 1000):
            clipped, total = ClippedLoss(CLIP, 1.0), torch.zeros(())
            for members in PACKINGS[name].cut(rows, budget):
                part = PACKINGS[name].part(members, "cpu")
                loss = clipped(members, part, target_losses(model, part))
                loss.backward()
                total = total + loss.detach()
            assert abs(total - expected.detach()) < 1e-5 * abs(expected.detach())
            assert (taken_gradient(model) - gradient).norm() < 1e-5 * gradient.norm()
            share = clipped.measures(clipped.sums)["clipped"]
            assert share == 0 if changes == (0.0,) else 0.1 < share < 0.9


def test_unchanged_it_has_the_gradient_of_the_policy(model):
    rows = _rows(model, (0.0,))
    sum(-row.weight * _logprobs(model, row).sum() for row in rows).backward()
    gradient = taken_gradient(model)
    part = PACKINGS["none"].part(rows, "cpu")
    ClippedLoss(CLIP, 1.0)(rows, part, target_losses(model, part)).backward()
    assert (taken_gradient(model) - gradient).norm() < 1e-5 * gradient.norm()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    """The references are those of the start, and the optimiser that of the checkpoint, not of --init."""
    policy = tmp_path / "policy"
    run("policy-data", "-q", write(tmp_path / "e", [episode("a", n, n == 0) for n in range(4)]), "-o", policy).ok()
    train = (
        "finetune",
        "-m",
        FIRST_LAYERS,
        "--clip",
        0.1,
        "--keep-optimizer",
        "--lr",
        "3e-3",
        "--save-every",
        2,
        "-q",
        policy,
    )
    run(*train, "--max-steps", 1, "-o", tmp_path / "first").ok()
    train = (*train, "--init", tmp_path / "first", "--max-steps", 4)
    run(*train, "-o", tmp_path / "whole").ok()
    with interrupted_at(4):
        run(*train, "-o", tmp_path / "cut").ok(130)
    run(*train, "-o", tmp_path / "cut", "--resume").ok()
    whole, cut = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all((whole[key] == cut[key]).all() for key in whole)


def test_many_updates_change_little(tmp_path, data):
    """With the clip, twenty updates on two answers move them less far apart."""
    file = write(tmp_path / "episodes", [episode("a", 0, True), episode("a", 1, False)])
    policy = tmp_path / "policy"
    run("policy-data", "-q", file, "-o", policy).ok()
    update = ("finetune", "-m", FIRST_LAYERS, "--max-steps", 20, "--lr", 3e-3, "--schedule", "constant", "-q", policy)
    run(*update, "-o", tmp_path / "free").ok()
    run(*update, "-o", tmp_path / "clipped", "--clip", 0.2).ok()

    def gap(model: str) -> float:
        """Return by how much the better answer is more likely than the other one."""
        scored = run("score", "-m", model, policy, "-q").ok().records
        better, worse = (sum(span["logprob"] for span in e["scores"]) for e in scored)
        return better - worse

    before, free, clipped = (
        gap(f"hf:{FIRST_LAYERS}{end}") for end in ("", f"+{tmp_path}/free", f"+{tmp_path}/clipped")
    )
    assert before < clipped < before + (free - before) / 2
    il = run("finetune", "-m", "tiny", "-o", tmp_path / "il", "--clip", 0.2, data["imitation"])
    il.one_error(3, "no examples of kind policy", "eexp policy-data")
    weightless = write(tmp_path / "weightless", [{**example, "weight": 0} for example in read(policy)])
    run("finetune", "-m", "tiny", "-o", tmp_path / "none", "--clip", 0.2, data["imitation"], weightless).one_error(
        3, "no examples of kind policy with a weight"
    )

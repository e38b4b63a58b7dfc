"""Examples as trees: the laws of the tree, and its loss and gradient against those of one example at a time."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eexp.errors import UsageError
from eexp.training import attention, exact, recurrence, trie
from eexp.training.data import Row, Segment
from eexp.training.packing import PACKINGS, open_packing, target_losses
from eexp.training.updates import (
    by_examples,
    by_targets,
    by_trajectories,
    distribute,
    epoch_ends,
    epoch_order,
    loss_shares,
    set_shares,
    total_weight,
)
from eexp.training.validation import add_sums, summary, validation_losses

TOKENS = 40
#: For laws that a dozen models are held to, each with several computations an example.
A_FEW = settings(max_examples=settings.default.max_examples // 10)
SMALL = dict(
    vocab_size=TOKENS,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
)
ALTERNATING = dict(sliding_window=3, layer_types=["sliding_attention", "full_attention"])
HYBRID = dict(layer_types=["linear_attention", "full_attention"])
DELTA = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, **HYBRID)
MAMBA = dict(mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1)
#: Families of transformers whose trees are exact, with the settings that make each what it is.
FAMILIES: dict[str, dict] = {
    **{name: {} for name in ("Llama", "Qwen2", "Qwen3", "Gemma", "Phi3", "Mixtral")},
    "Gemma2": ALTERNATING,
    "Gemma3Text": ALTERNATING,
    "Mistral": dict(sliding_window=4),
    "GptOss": dict(
        num_local_experts=4, num_experts_per_tok=2, rope_parameters=dict(rope_theta=1e4, rope_type="default")
    )
    | ALTERNATING,
    "Llama4Text": dict(
        attention_chunk_size=4,
        layer_types=["chunked_attention", "full_attention"],
        no_rope_layers=[1, 0],
        attn_temperature_tuning=False,
        num_local_experts=2,
        intermediate_size_mlp=48,
    ),
    "Qwen3_5Text": DELTA,
    "Mamba2": dict(num_heads=8, head_dim=8, state_size=8, n_groups=2, chunk_size=4),
    "FalconH1": dict(mamba_d_ssm=32, mamba_chunk_size=4, **MAMBA),
    "Lfm2": dict(layer_types=["conv", "full_attention"]),
}


@st.composite
def segments(draw, n_prompt: int, length: int) -> list[Segment]:
    """Draw segments of a completion; at least one that has a target has a weight."""
    starts = sorted({n_prompt, *draw(st.lists(st.integers(n_prompt, length - 1), max_size=3))})
    spans = [
        Segment(start, draw(st.sampled_from("xy")), draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))) for start in starts
    ]
    return [*spans[:-1], spans[-1]._replace(weight=2.0)] if not any(s.weight for s in spans[:-1]) else spans


@st.composite
def rows(draw, weights=(0.0, 0.25, 1.0, 2.0)) -> list[Row]:
    """Draw rows that branch off each other anywhere, continue each other, are repeated, and weigh their spans."""
    distinct_rows: list[Row] = []
    for _ in range(draw(st.integers(1, 9))):
        start = list(draw(st.sampled_from(distinct_rows)).ids) if distinct_rows and draw(st.booleans()) else []
        start = start[: draw(st.integers(0, len(start)))]
        ids = start + draw(st.lists(st.integers(1, 4), min_size=1 if start else 2, max_size=9))
        ids = ids if len(ids) > 1 else [*ids, 1]
        n_prompt = draw(st.integers(0, len(ids) - 1))
        weight, group = draw(st.sampled_from(weights)), draw(st.sampled_from([None, "a", "b"]))
        row = Row(ids, n_prompt, weight, group, draw(st.sampled_from("kl")), draw(segments(n_prompt, len(ids))))
        distinct_rows.append(row if row.n_targets else Row(ids, n_prompt, weight, group))
    return distinct_rows + draw(st.lists(st.sampled_from(distinct_rows), max_size=3))


def _model(family: str, **more):
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, "pad_token_id": 0, **more})
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()


def _prepare(model, rows: list[Row], budget: int = 100) -> None:
    """Check a model and set its attention, as a run does."""
    import torch

    exact.check(model, rows, "tree", torch.float32, budget)
    exact.prepare(model, rows, torch.float32, budget)


def _gradient(model):
    import torch

    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return gradient


def _weights(row: Row) -> dict[int, float]:
    """Return the factor of each target's loss: the row's weight times that of the last segment begun."""
    targets = range(max(1, row.n_prompt), len(row.ids))
    weights = {i: [s.weight for s in row.segments if s.start <= i][-1] for i in targets}
    return {i: weight * row.weight for i, weight in weights.items() if weight}


def _one_at_a_time(model, rows: list[Row]) -> float:
    """Return the mean loss over targets by weight, and leave its gradient in the model; only the rows are eexp's."""
    import torch

    total, whole = 0.0, sum(sum(_weights(row).values()) for row in rows)
    for row in rows:
        logits = model(torch.tensor([list(row.ids)])).logits[0].log_softmax(-1)
        loss = -sum(logits[i - 1, row.ids[i]] * weight for i, weight in _weights(row).items()) / whole
        loss.backward()
        total += float(loss.detach())
    return total


def _together(model, rows: list[Row], packing: str, budget: int, processes: int = 1) -> float:
    total = 0.0
    for parts in distribute(rows, PACKINGS[packing], budget, processes):
        for rows_of_part in parts:
            part = PACKINGS[packing].part(rows_of_part, "cpu")
            loss = (part.weights * target_losses(model, part)).sum() / total_weight(rows)
            loss.backward()
            total += float(loss.detach())
    return total


# -- the tree --------------------------------------------------------------------------------------------------------


@given(rows())
def test_a_token_sees_its_row_only(rows):
    tree = trie.build_tree(rows)
    paths = []
    for i, last in enumerate(tree.last):
        path = [j for j in range(i + 1) if tree.last[j] >= i]
        assert last >= i and tree.positions[i] == len(path) - 1 and path[-1] == i
        paths.append(tuple(tree.tokens[j] for j in path))
    beginnings = {tuple(row.ids[:n]) for row in rows for n in range(1, len(row.ids) + 1)}
    assert len(paths) == len(set(paths)) and set(paths) == beginnings, "every distinct beginning, once"
    assert trie.size(rows) == len(beginnings)


@given(rows())
def test_segments_have_no_branch_but_at_their_end(rows):
    tree = trie.build_tree(rows)
    segments = trie.segments_of(tree)
    assert [i for s in segments for i in range(s.start, s.end)] == list(range(len(tree.tokens)))
    children = [[s for s in segments if s.parent == n] for n in range(len(segments))]
    for n, segment in enumerate(segments):
        depths = tree.positions[segment.start : segment.end]
        assert depths == list(range(depths[0], depths[0] + len(depths))) and len(children[n]) != 1
        if segment.parent is None:
            assert depths[0] == 0
        else:
            parent = segments[segment.parent]
            assert segment.parent < n and tree.positions[parent.end - 1] == depths[0] - 1
            assert tree.last[parent.end - 1] >= segment.end - 1, "it is below its parent"


@given(rows(), st.integers(1, 9))
def test_runs_are_the_paths_to_all_tokens(rows, shortest):
    """What a layer with a state reads before a token is its path, cut where a state is kept."""
    tree = trie.build_tree(rows)
    runs = recurrence.runs_of(tree, shortest)
    seen: set[int] = set()
    for run in runs:
        path, before = list(run.tokens), run.before
        while before is not None:
            assert runs[before].continued and len(runs[before].tokens) >= max(2, shortest)
            path, before = runs[before].tokens + path, runs[before].before
        end = path[-1]
        assert path == [j for j in range(end + 1) if tree.last[j] >= end]
        seen.update(run.tokens)
    assert seen == set(range(len(tree.tokens)))
    walk = recurrence.plan_walk(tree, shortest=shortest)
    written = [i for step in walk.steps for i in step.tokens.flatten().tolist()]
    assert [written[place] for place in walk.places.tolist()] == list(range(len(tree.tokens)))


@given(rows())
def test_shared_length_is_the_common_beginning(rows):
    for a, b in pairwise(rows):
        n = trie.shared_length(a.ids, b.ids)
        assert (a.ids[:n] == b.ids[:n] and a.ids[n : n + 1] != b.ids[n : n + 1]) or n == len(a.ids) == len(b.ids)


@given(rows())
def test_the_weight_of_a_target_is_the_sum_over_its_rows(rows):
    tree = trie.build_tree(rows)
    paths = [tuple(tree.tokens[j] for j in range(i + 1) if tree.last[j] >= i) for i in range(len(tree.tokens))]
    weights = {(*paths[before], token): weight for before, token, weight in tree.targets}
    expected: dict = {}
    for row in rows:
        for i, weight in _weights(row).items():
            expected[tuple(row.ids[: i + 1])] = expected.get(tuple(row.ids[: i + 1]), 0.0) + weight
    assert weights == pytest.approx(expected)
    assert sum(weights.values()) == pytest.approx(total_weight(rows))


@given(rows())
def test_row_targets_are_the_targets_of_each_row(rows):
    tree = trie.build_tree(rows)
    for row, places in zip(rows, tree.row_targets, strict=True):
        assert [tree.targets[n][1] for n in places] == [row.ids[i] for i in row.targets]
        assert list(row.targets) == list(_weights(replace(row, weight=1.0))) and row.n_targets == len(places)


def test_a_target_of_weight_0_is_not_computed():
    """Neither its logits are computed nor, where no other target follows, its token."""
    row = Row([1, 2, 3, 4, 5, 6], 2, 1.0, segments=[Segment(2, "x", 0.0), Segment(4, "y", 1.0)])
    for packing in PACKINGS.values():
        part = packing.part([row], "cpu")
        assert part.keep.tolist() == [3, 4] and part.tokens.tolist() == [5, 6] and part.weights.tolist() == [1, 1]


@given(rows(), st.integers(1, 40))
def test_a_cut_keeps_to_its_budget_and_loses_nothing(rows, budget):
    parts = list(trie.cut(rows, budget))
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    assert all(trie.size(part) <= budget or len(part) == 1 for part in parts)
    longest = max(len(row.ids) for row in rows)
    assert sum(map(trie.size, parts)) <= trie.size(rows) + (len(parts) - 1) * longest


@given(rows(), st.integers(1, 40), st.integers(1, 5), st.sampled_from(["tree", "none"]))
def test_processes_share_all_rows_and_make_equally_many_passes(rows, budget, processes, packing):
    shares = distribute(rows, PACKINGS[packing], budget, processes)
    assert len(shares) == processes and len({len(parts) for parts in shares}) == 1
    distributed = [row for parts in shares for part in parts for row in part]
    assert total_weight(distributed) == pytest.approx(total_weight(rows))
    assert {id(row) for row in rows} <= {id(row) for row in distributed}


def test_rows_that_continue_each_other_stay_in_one_pass():
    """Two processes are no slower than one: the longest row is the whole tree."""
    rows = [Row(list(range(n)), n - 1, 1.0) for n in range(60, 100, 10)]
    (first,), (second,) = distribute(rows, PACKINGS["tree"], 1000, 2)
    assert trie.size(first) == 90 and [row.weight for row in second] == [0.0] * 4


# -- the order -------------------------------------------------------------------------------------------------------


@given(rows(), st.integers(0, 3))
def test_every_epoch_has_every_row_and_keeps_groups_together(rows, epoch):
    order = epoch_order(rows, 1, epoch)
    assert sorted(order) == list(range(len(rows))) and order == epoch_order(rows, 1, epoch)
    groups = [rows[i].group or i for i in order]
    assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1
    for a, b in pairwise(order):
        assert rows[a].group is None or rows[a].group != rows[b].group or rows[a].ids <= rows[b].ids


@given(rows(), st.integers(0, 3))
def test_examples_are_shuffled_by_themselves(rows, epoch):
    order = epoch_order(rows, 1, epoch, "examples")
    alone = [Row(row.ids, row.n_prompt, row.weight) for row in rows]
    assert sorted(order) == list(range(len(rows))) and order == epoch_order(alone, 1, epoch)


def test_updates_go_through_epochs():
    rows = [Row([i, i], 1, 1.0) for i in range(10)]
    one = by_examples(rows, 4, 1.0, None, 0)
    assert list(map(len, one)) == [4, 4, 2] and sorted(i for update in one for i in update) == list(range(10))
    assert by_examples(rows, 4, 0.5, None, 0) == one[:2] and by_examples(rows, 4, 9, 1, 0) == one[:1]
    assert len(by_examples(rows * 5, 2, 0.28, None, 0)) == 7, "though 0.28 * 25 is a little more"
    assert len(by_examples(rows, 4, 1e-9, None, 0)) == 1
    two = by_examples(rows, 4, 2.0, None, 0)
    assert two[:3] == one and two[3:] != one and two == by_examples(rows, 4, 1, 6, 0)


def _grouped(*sizes: int) -> list[Row]:
    """Rows of as many groups as there are sizes."""
    return [Row([group, i, i], 1, 1.0, str(group)) for group, size in enumerate(sizes) for i in range(size)]


def test_updates_of_whole_trajectories():
    rows = _grouped(3, 5, 1, 2, 4)
    two = by_trajectories(rows, 2, 1.0, None, 0)
    assert [len({rows[i].group for i in update}) for update in two] == [2, 2, 1]
    assert sorted(i for update in two for i in update) == list(range(15))
    assert by_trajectories(rows, 2, 0.5, None, 0) == two[:2] and by_trajectories(rows, 2, 9, 1, 0) == two[:1]
    assert [i for update in two for i in update] == epoch_order(rows, 0, 0)
    twice = by_trajectories(rows, 2, 2.0, None, 0)
    assert twice[:3] == two and len(twice) == 6 and twice == by_trajectories(rows, 2, 1, 6, 0)
    alone = [replace(row, group=None) for row in rows]
    assert by_trajectories(alone, 4, 2.0, None, 0) == by_examples(alone, 4, 2.0, None, 0), "each is a trajectory"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 20))
def test_no_update_is_smaller_than_the_minimum(sizes, trajectories, examples):
    rows = _grouped(*sizes)
    updates = by_trajectories(rows, trajectories, 1.0, None, 0, examples=examples)
    groups = [{rows[i].group for i in update} for update in updates]
    assert sorted(i for update in updates for i in update) == list(range(len(rows)))
    assert sum(map(len, groups)) == len(sizes), "no trajectory is cut"
    if len(updates) > 1:
        assert all(len(g) >= trajectories and len(u) >= examples for g, u in zip(groups, updates))
    ends = epoch_ends(by_trajectories(rows, trajectories, 3.0, None, 0, examples=examples), len(rows))
    assert len(ends) == 3 and ends[0] == len(updates)


@given(rows())
def test_mixed_kinds_are_spread_evenly_over_a_group(rows):
    order = epoch_order(rows, 1, 0, mixed=True)
    assert sorted(order) == list(range(len(rows)))
    for group in {row.group for row in rows} - {None}:
        members = [rows[i] for i in order if rows[i].group == group]
        for kind in "kl":
            of_kind = [row for row in members if row.kind == kind]
            assert [row.ids for row in of_kind] == sorted(row.ids for row in of_kind)
            for n in range(len(members)):
                share = sum(row.kind == kind for row in members[: n + 1]) / max(1, len(of_kind))
                assert abs(share - (n + 1) / len(members)) <= 1 / max(1, len(of_kind))


def test_a_kind_has_its_share_of_the_loss():
    kinds = [("a", 1.0, 3), ("a", 2.0, 1), ("b", 1.0, 8), ("c", 0.5, 4), ("b", 1.0, 2)]
    rows = [Row(list(range(n + 1)), 1, weight, None, kind) for kind, weight, n in kinds]
    updates = [[0, 1, 2], [3, 4, 0]]
    rest = {row.kind: row.weight for row in rows if row.kind != "b"}
    set_shares(rows, updates, {"b": 0.25})
    whole = total_weight(rows[i] for update in updates for i in update)
    shares = loss_shares(rows, updates, whole / 2)
    assert shares["b"] == 0.25 and sum(shares.values()) == pytest.approx(1, abs=2e-6)
    assert shares["a"] / shares["c"] == pytest.approx(8 / 2, abs=1e-4), "the others keep their proportions"
    assert {row.kind: row.weight for row in rows if row.kind != "b"} == rest
    with pytest.raises(UsageError, match=r"--share d=0\.1: no update has an example of this kind; kinds: a, b, c"):
        set_shares(rows, updates, {"d": 0.1})
    with pytest.raises(UsageError, match="--share a, b, c: there are no other kinds for the rest"):
        set_shares(rows, updates, {"a": 0.1, "b": 0.1, "c": 0.1})


@given(rows(), st.integers(1, 12), st.integers(1, 60))
def test_a_budget_of_updates_and_targets_is_kept(rows, updates, each):
    run_updates = by_targets(rows, updates, updates * each, 0)
    longest = max(row.n_targets for row in rows)
    assert len(run_updates) == updates and all(run_updates)
    targets = sum(rows[i].n_targets for update in run_updates for i in update)
    assert each < longest or abs(targets - updates * each) <= longest / 2


# -- exactness -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def models(request):
    """Return a model with its own attention, and the same with that of trees."""
    plain, tree = (_model(request.param, **FAMILIES[request.param]) for _ in range(2))
    _prepare(tree, [Row(list(range(12)), 1, 1.0)])
    return plain, tree


@A_FEW
@given(
    rows=rows(),
    budget=st.sampled_from([1, 12, 1000]),
    block=st.sampled_from([1, 3, 256]),
    shortest=st.sampled_from([2, 4, 32]),
    processes=st.integers(1, 3),
)
def test_loss_and_gradient_are_those_of_one_at_a_time(models, rows, budget, block, shortest, processes):
    plain, tree = models
    if not total_weight(rows):
        rows[0].weight = 1.0
    expected = _one_at_a_time(plain, rows)
    gradient = _gradient(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", block)
        patch.setattr(recurrence, "SHORTEST", shortest)
        assert _together(tree, rows, "tree", budget, processes) == pytest.approx(expected, rel=1e-6)
    assert float((_gradient(tree) - gradient).norm() / gradient.norm()) < 1e-5
    assert _together(plain, rows, "none", budget, processes) == pytest.approx(expected, rel=1e-6)
    assert float((_gradient(plain) - gradient).norm() / gradient.norm()) < 1e-5


@A_FEW
@given(rows=rows(), budget=st.sampled_from([1, 12, 1000]), processes=st.integers(1, 3))
def test_validation_losses_are_those_of_one_at_a_time(models, rows, budget, processes):
    """They are summed by kind and span; each target counts once whatever its weight, and none of weight 0."""
    import torch

    plain, tree = models
    expected: dict = {}
    with torch.no_grad():
        for row in (row for row in rows if row.weight):
            logits = plain(torch.tensor([list(row.ids)])).logits[0].log_softmax(-1)
            for i in _weights(row):
                name = [s.name for s in row.segments if s.start <= i][-1]
                loss, n = expected.get((row.kind, name), (0.0, 0))
                expected[row.kind, name] = loss - float(logits[i - 1, row.ids[i]]), n + 1
    for model, packing in ((tree, "tree"), (plain, "none")):
        parts = [
            validation_losses(model, rows, packing=packing, tokens_per_batch=budget, rank=rank, processes=processes)
            for rank in range(processes)
        ]
        sums = add_sums(parts)
        assert sums.keys() == expected.keys() and model.training
        for key, (loss, n) in expected.items():
            assert sums[key] == (pytest.approx(loss, rel=1e-5), n)


def test_a_summary_of_validation_losses():
    losses = summary({("a", "x"): (6.0, 2), ("a", "y"): (2.0, 2), ("b", "y"): (4.0, 1)})
    assert (losses["loss"], losses["tokens"]) == (12 / 5, 5)
    assert losses["kinds"] == {"a": {"loss": 2.0, "tokens": 4}, "b": {"loss": 4.0, "tokens": 1}}
    assert {span: span_losses["loss"] for span, span_losses in losses["spans"].items()} == {
        "a/x": 3.0,
        "a/y": 1.0,
        "b/y": 4.0,
    }


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text", "Mistral", "GptOss", "Qwen3_5Text", "Mamba2", "Lfm2"])
def test_with_an_adapter_and_with_checkpointing(monkeypatch, family):
    from peft import LoraConfig, get_peft_model

    from eexp.training.model import bypassed_modules

    rng = random.Random(0)
    base = [rng.randrange(TOKENS) for _ in range(30)]
    rows = [Row(base[:n] + [rng.randrange(TOKENS) for _ in range(5)], n, 1.0) for n in range(3, 30, 3)]
    model = _model(family, **FAMILIES[family])
    config = LoraConfig(target_modules="all-linear", exclude_modules=bypassed_modules(model), init_lora_weights=False)
    model = get_peft_model(model, config)
    expected = _one_at_a_time(model, rows)
    gradient = _gradient(model)
    _prepare(model, rows)
    monkeypatch.setitem(PACKINGS, "tree", open_packing("tree", checkpointing=True))
    monkeypatch.setattr(recurrence, "SHORTEST", 2)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert _together(model, rows, "tree", 40) == pytest.approx(expected, rel=1e-6)
    assert float((_gradient(model) - gradient).norm() / gradient.norm()) < 1e-5


@pytest.mark.parametrize(
    "family, more",
    [
        ("Qwen3Next", {**DELTA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
        ("OlmoHybrid", {**DELTA, "linear_num_key_heads": 4}),
        ("Bamba", {**MAMBA, "mamba_n_heads": 8, "attn_layer_indices": [1]}),
        ("GraniteMoeHybrid", {**MAMBA, **HYBRID, "mamba_n_heads": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
        ("NemotronH", {**HYBRID, "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1}),
        (
            "Zamba2",
            dict(
                mamba_d_state=8,
                n_mamba_heads=8,
                mamba_ngroups=1,
                num_mem_blocks=1,
                layers_block_type=["linear_attention", "hybrid"],
            ),
        ),
    ],
)
def test_other_hybrid_models(monkeypatch, family, more):
    monkeypatch.setattr(recurrence, "SHORTEST", 2)
    rows = [Row([1, 2, 3, *ids], 1, 1.0) for ids in ([4, 5, 6], [4, 5, 7, 8], [9], [4, 5, 6, 7])]
    model = _model(family, **more)
    expected = _one_at_a_time(model, rows)
    gradient = _gradient(model)
    _prepare(model, rows)
    assert _together(model, rows, "tree", 100) == pytest.approx(expected, rel=1e-6)
    assert float((_gradient(model) - gradient).norm() / gradient.norm()) < 1e-5


def _varlen(query, key, value, query_ends, key_ends, most_queries, most_keys, *, scale, window_size, enable_gqa):
    """Attend as torch.nn.attention.varlen.varlen_attn does on CUDA: queries are the last tokens of their keys."""
    import torch

    outputs = []
    (lengths, paths), (left, right) = (ends.diff().tolist() for ends in (query_ends, key_ends)), window_size
    assert (most_queries, most_keys, right) == (max(lengths), max(paths), 0)
    parts = zip(query.split(lengths), key.split(paths), value.split(paths), strict=True)
    for q, k, v in parts:
        place = torch.arange(len(q))[:, None] + len(k) - len(q)
        keys = torch.arange(len(k))
        mask = (keys <= place) & ((keys >= place - left) if left >= 0 else torch.tensor(True))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@A_FEW
@given(rows=rows(), shortest=st.integers(1, 6), most=st.sampled_from([1, 20, 1000]))
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Llama4Text"])
def test_lines_without_a_mask_are_exact(lines_models, family, rows, shortest, most):
    """On CUDA, long lines are sequences for FlashAttention; here the same plan goes through attention by the book."""
    plain, tree = lines_models[family]
    if not total_weight(rows):
        rows[0].weight = 1.0
    expected = _one_at_a_time(plain, rows)
    gradient = _gradient(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "takes_lines", lambda query: True)
        patch.setattr(attention, "varlen_attention", lambda: _varlen)
        patch.setattr(attention, "LINE", shortest)
        patch.setattr(attention, "LINE_KEYS", most)
        assert _together(tree, rows, "tree", 1000) == pytest.approx(expected, rel=1e-6)
    assert float((_gradient(tree) - gradient).norm() / gradient.norm()) < 1e-5


@pytest.fixture(scope="module")
def lines_models():
    """Return, by family, a model with its own attention, and the same with that of trees."""
    models = {name: [_model(name, **FAMILIES[name]) for _ in range(2)] for name in ("Llama", "Mistral", "Llama4Text")}
    for _, tree in models.values():
        _prepare(tree, [Row(list(range(12)), 1, 1.0)])
    return models


def test_a_kernel_that_aligns_queries_otherwise_is_not_used(monkeypatch):
    import torch

    def first(query, key, value, query_ends, key_ends, *more, **settings):
        """Attend as if queries were the first tokens of their keys."""
        lengths, paths = query_ends.diff().tolist(), key_ends.diff().tolist()
        key, value = (
            torch.cat([part[:n] for part, n in zip(x.split(paths), lengths, strict=True)]) for x in (key, value)
        )
        return _varlen(query, key, value, query_ends, query_ends, more[0], more[0], **settings)

    for kernel, is_exact in ((_varlen, True), (first, False)):
        attention.lines_are_exact.cache_clear()
        monkeypatch.setattr(attention, "varlen_attention", lambda kernel=kernel: kernel)
        assert attention.lines_are_exact(torch.device("cpu"), torch.float32, 8) == is_exact
    attention.lines_are_exact.cache_clear()


# -- what cannot be exact --------------------------------------------------------------------------------------------

LONG = [Row(list(range(20)), 1, 1.0)]


@pytest.mark.parametrize(
    "family, more, reason",
    [
        ("Mamba", dict(state_size=4, intermediate_size=64), r"mamba: has layers \(MambaMixer\) that do not continue"),
        ("MiniMax", dict(num_local_experts=2), "minimax: has layers of linear_attention whose state"),
        ("Rwkv", {}, "rwkv: has layers with a state"),
        (
            "Llama4Text",
            {**FAMILIES["Llama4Text"], "attn_temperature_tuning": True, "floor_scale": 50},
            "llama4_text: it counts .* from 0",
        ),
        ("Llama", dict(attention_dropout=0.1), "llama: it is trained with attention_dropout 0.1"),
        ("GPT2", dict(n_embd=32, n_head=4, n_layer=2), "gpt2: it is trained with .*drop.* 0.1"),
        ("Bloom", dict(n_head=4, n_layer=2), "bloom: its attention does not go through"),
        ("Nemotron", dict(hidden_act="relu2"), "nemotron: computes .*tree"),
    ],
)
def test_models_that_would_not_be_exact_are_refused(family, more, reason):
    model = _model(family, **more)
    with pytest.raises(UsageError, match=reason) as error:
        _prepare(model, LONG)
    assert str(error.value).endswith("give --packing none") and "\n" not in str(error.value)
    if family not in ("GPT2", "Llama", "Llama4Text", "Nemotron", "Rwkv"):
        assert _together(model, LONG, "none", 100) == pytest.approx(_one_at_a_time(model, LONG), rel=1e-5)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_models_that_see_ahead_are_refused_with_any_packing(family):
    import torch

    model = _model(family, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with pytest.raises(UsageError, match=f"{family.lower()}: its attention is not causal"):
        exact.check(model, LONG, "none", torch.float32, 1)


def test_layers_with_a_window_read_its_keys_only():
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

    tree = attention.TreeInput(trie.build_tree([Row(list(range(100)), 1, 1.0)]), block=10)
    everything = tree.plan(attention.LayerMask(causal_mask_function), False).blocks
    window = tree.plan(attention.LayerMask(sliding_window_causal_mask_function(4)), False).blocks
    assert [len(keys) for _, _, keys, _ in everything] == list(range(10, 101, 10))
    assert [len(keys) for _, _, keys, _ in window] == [10] + [13] * 9


def test_a_model_that_does_not_pass_the_tree_on_is_refused():
    """Only a small tree that is computed in both ways reveals such a model."""
    model = _model("Llama")
    forward = model.model.forward
    model.model.forward = lambda *args, tree=None, **more: forward(*args, **more)
    with pytest.raises(UsageError, match=r"llama: computes no trees \(its attention is not told of the tree\)"):
        _prepare(model, LONG)


def test_a_model_that_computes_a_tree_otherwise_is_refused():
    model = _model("Llama", initializer_range=0.5)
    forward = model.model.forward
    model.model.forward = lambda *args, **more: forward(*args, **{**more, "position_ids": None})
    with pytest.raises(UsageError, match="llama: its loss changes where examples share a prefix"):
        _prepare(model, LONG)


def test_a_model_whose_gradient_is_lost_in_a_tree_is_refused(monkeypatch):
    attend = attention._attend_block
    monkeypatch.setattr(attention, "_attend_block", lambda query, key, *more: attend(query, key.detach(), *more))
    with pytest.raises(UsageError, match="llama: its gradient changes where examples share a prefix"):
        _prepare(_model("Llama", initializer_range=0.5), LONG)


@pytest.mark.parametrize(
    "family, more, advice",
    [
        (
            "Llama",
            dict(max_position_embeddings=10, rope_parameters=dict(rope_type="dynamic", factor=4.0)),
            "--max-length 10",
        ),
        (
            "Phi3",
            dict(
                original_max_position_embeddings=10,
                rope_parameters=dict(rope_type="longrope", short_factor=[1.0] * 4, long_factor=[4.0] * 4),
            ),
            "--tokens-per-batch 1",
        ),
    ],
)
def test_positions_that_depend_on_the_longest_row_are_refused(family, more, advice):
    """With LongRoPE and dynamic NTK, positions of short rows change beside long ones, packed or padded."""
    import torch

    more["rope_parameters"]["rope_theta"] = 10000.0
    model = _model(family, **more)
    short = [Row(list(range(9)), 1, 1.0)]
    exact.check(model, short, "tree", torch.float32, 100)
    with pytest.raises(UsageError, match=f"beyond 10 tokens.*{advice}"):
        exact.check(model, [*short, *LONG], "none", torch.float32, 100)
    if family == "Phi3":
        exact.check(model, [*short, *LONG], "none", torch.float32, 1)
        exact.check(model, LONG, "tree", torch.float32, 100)


def test_an_adapter_with_dropout_is_refused():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_model("Llama"), LoraConfig(target_modules="all-linear", lora_dropout=0.05))
    with pytest.raises(UsageError, match=r"llama: it is trained with lora_dropout 0\.05"):
        _prepare(model, LONG)

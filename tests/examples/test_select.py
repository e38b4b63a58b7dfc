"""`eexp select`: repetitions and the trivial are passed over, and fewer records are a part of more."""

from __future__ import annotations

import random

import pytest
from running import lines, read, run, write

from eexp.examples.selection import by_coverage, loss_of


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    file = tmp_path_factory.mktemp("select") / "expert"
    run("expert", "house", "-n", 30, "-q", "-o", file).ok()
    return file


@pytest.mark.parametrize("order", ["coverage", "length", "random"])
def test_all_are_written_and_fewer_are_a_part_of_more(expert, order):
    ids = [t["id"] for t in read(expert)]
    whole = [t["id"] for t in run("select", "--by", order, "-q", expert).ok().records]
    assert sorted(whole) == sorted(ids) and whole != ids
    for n in (1, 7, 29):
        assert [t["id"] for t in run("select", "--by", order, "-n", n, "-q", expert).ok().records] == whole[:n]


def test_repetitions_come_last(expert, tmp_path):
    trajectories = read(expert)[:12]
    repeated = [{**trajectories[n % 3], "id": f"again/{n}"} for n in range(40)]
    mixed = [*trajectories, *repeated]
    random.Random(0).shuffle(mixed)
    chosen = run("select", "-n", 12, "-q", write(tmp_path / "mixed", mixed)).ok().records
    paths = {(*tuple(step["action"] for step in t["steps"]), t["instruction"]) for t in chosen}
    assert len(paths) == 12


def test_trivial_states_are_passed_over(expert, tmp_path):
    examples = run("imitation-data", "-q", expert).ok().records
    told = {"role": "user", "content": "You see nothing."}
    trivial = [
        {**examples[0], "id": f"trivial/{n}", "prompt": [told], "completion": [{"role": "assistant", "content": text}]}
        for n, text in enumerate(["Action: wait", "Action: wait.", "Action: wait", "action: wait"] * 30)
    ]
    chosen = run("select", "-n", 60, "-q", write(tmp_path / "mixed", trivial + examples)).ok().records
    assert sum(e["id"].startswith("trivial/") for e in chosen) <= 1


def test_none_is_far_from_those_that_are_chosen():
    rng = random.Random(1)
    topics = [[f"word{topic}of{n}" for n in range(20)] for topic in range(8)]
    records = [
        {"type": "trajectory", "id": str(n), "instruction": " ".join(rng.choices(topics[n % 8 if n % 9 else 0], k=12))}
        | {"steps": []}
        for n in range(200)
    ]
    first = [next(w for w in records[i]["instruction"].split())[:5] for i, _ in zip(by_coverage(records), range(8))]
    assert len(set(first)) == 8


def test_the_hardest_first(expert, tmp_path):
    run("imitation-data", "-q", expert, "-o", tmp_path / "il").ok()
    few = write(tmp_path / "few", read(tmp_path / "il")[:30])
    run("select", "--by", "loss", few).one_error(3, "$.scores: no scores", "eexp score")
    scored = tmp_path / "scored"
    run("score", "-m", "tiny", "--threads", 1, "-q", few, "-o", scored).ok()
    losses = [loss_of(e) for e in run("select", "--by", "loss", "-n", 9, "-q", scored).ok().records]
    assert losses == sorted(map(loss_of, read(scored)), reverse=True)[:9]
    easiest = [loss_of(e) for e in run("select", "--by", "loss", "--reverse", "-n", 9, "-q", scored).ok().records]
    assert easiest == sorted(map(loss_of, read(scored)))[:9]
    run("select", "--reverse", few).one_error(2, "--reverse is for --by loss")


def test_influence_finds_examples_of_what_is_to_be_learned(expert, tmp_path):
    """Helpful: other houses' expert actions. Not helpful: the same prompts with other houses' answers.

    With 20 of each, a choice of 20 at random has 15 helpful ones or more with a probability of 0.2 % (hypergeometric).
    """
    examples = run("imitation-data", "-q", expert).ok().records
    rng = random.Random(0)
    rng.shuffle(examples)
    like, helpful, others = examples[:12], examples[12:32], examples[32:52]
    answers = [rng.choice(examples)["completion"][0]["content"].upper() for _ in others]
    wrong = [
        {**e, "id": f"wrong/{n}", "completion": [{"role": "assistant", "content": answer}], "spans": None}
        for n, (e, answer) in enumerate(zip(others, answers))
    ]
    files = [write(tmp_path / name, records) for name, records in (("like", like), ("pool", helpful + wrong))]
    options = ("--by", "influence", "-m", "tiny", "--like", files[0], "-q")
    order = [e["id"] for e in run("select", *options, files[1]).ok().records]
    assert sorted(order) == sorted(e["id"] for e in helpful + wrong)
    assert sum(not name.startswith("wrong/") for name in order[:20]) >= 15
    some = read(files[1])[::5]  # what is chosen among is no part of an example's influence
    chosen = [e["id"] for e in run("select", "-n", 5, *options, stdin=lines(some)).ok().records]
    assert chosen == [name for name in order if name in {e["id"] for e in some}][:5]


def test_options_of_influence_go_together(expert, tmp_path):
    run("select", "--by", "influence", "-m", "tiny", expert).one_error(2, "--like")
    run("select", "--like", expert, expert).one_error(2, "--like")
    run("select", "--init", expert, expert).one_error(2, "--init")
    like = write(tmp_path / "like", [])
    run("select", "--by", "influence", "-m", "tiny", "--like", like, expert).one_error(3, "--like")

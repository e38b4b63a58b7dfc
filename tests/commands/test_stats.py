"""`eexp stats` and `eexp show --row`: data in numbers, and as the rows that are trained on."""

from __future__ import annotations

import json
import re

import pytest
from running import read, run, write


def rows(*args: object) -> dict[str, dict]:
    return {row["records"]: row for row in run("stats", "--json", *args).ok().records}


def test_counts_lengths_and_shares_are_those_of_the_records(data):
    examples, trajectories, episodes = (read(data[name]) for name in ("world", "rollout", "episodes"))
    table = rows(*(data[name] for name in ("world", "imitation", "rollout", "episodes")))
    world = table["example, world_model"]
    assert world["count"] == len(examples) and world["tasks"] == len(trajectories)
    assert world["target"]["largest"] == max(len(e["completion"][0]["content"]) for e in examples)
    assert world["prompt"]["all"] == sum(len(m["content"]) for e in examples for m in e["prompt"])
    assert world["valid"] == pytest.approx(sum(e["transition"] != "invalid" for e in examples) / len(examples))
    assert table["example, imitation"]["valid"] is None and "steps" not in table["example, imitation"]
    outcomes = [a["outcome"] for t in trajectories for s in t["steps"] for a in s["alternatives"] if a["outcome"]]
    assert table["trajectory"]["valid"] == pytest.approx(sum(o["valid"] for o in outcomes) / len(outcomes))
    assert table["trajectory"]["success"] == 1 and table["trajectory"]["steps"]["all"] == sum(
        len(t["steps"]) for t in trajectories
    )
    steps = sum(e["steps"] for e in episodes)
    assert table["episode"]["valid"] == pytest.approx(1 - sum(e["invalid"] for e in episodes) / steps)
    assert all(row["duplicates"] == 0 and row["leaks"] is None for row in table.values())


def test_a_success_that_is_not_known_is_in_no_share(data, tmp_path):
    """As after an import without a replay; a success or a score is enough."""
    first, second, third = read(data["expert"])
    first["outcome"] = {"observation": "The end."}
    second["outcome"] = {"observation": "The end.", "score": 0.5}
    file = write(tmp_path / "some", [first, second, third])
    assert run("stats", "--json", file).ok().records[0]["success"] == 0.5
    assert run("stats", "--json", write(tmp_path / "none", [first])).ok().records[0]["success"] is None


def test_duplicates_and_leaks(data, tmp_path):
    """Examples are compared by their words, trajectories by actions; a leak is a record of a task to keep apart."""
    examples, trajectories = read(data["imitation"]), read(data["expert"])
    again = [{**examples[0], "id": "x", "weight": 2}, {**trajectories[0], "id": "y", "instruction": "z"}]
    file = write(tmp_path / "all", [*examples, *trajectories, *again])
    panel = write(tmp_path / "panel", [{"type": "task", "env": "house", "task": trajectories[0]["task"]}])
    table = rows("--apart-from", panel, file)
    assert [table[name]["duplicates"] for name in ("example, imitation", "trajectory")] == [1, 1]
    assert table["trajectory"]["leaks"] == 2
    own = sum(e["group"] == trajectories[0]["id"] for e in examples)
    assert table["example, imitation"]["leaks"] == own + 1
    held_out = write(tmp_path / "held-out", [{**examples[-1], "id": "x", "group": "elsewhere"}])
    assert rows("--apart-from", held_out, data["imitation"])["example, imitation"]["leaks"] == 1


def test_a_table_and_a_picture(data, tmp_path):
    picture = tmp_path / "lengths.svg"
    text = run("stats", data["world"], data["expert"], "--plot", picture).ok().out.decode()
    head, first, *_ = text.splitlines()
    assert head.split() == ["count", "tasks", "steps", "prompt", "target", "valid", "success", "duplicates"]
    assert re.match(rf"example, world_model +{len(read(data['world']))} +3 ", first)
    assert text.splitlines()[-1].endswith("in characters")
    svg = picture.read_text()
    assert "prompt (characters)" in svg and "example, world_model" in svg
    run("stats", data["world"], "--plot", tmp_path / "none").one_error(2, "the name's ending says the format")
    run("stats", "--plot", picture).one_error(2, "no records in the input")


def test_lengths_in_tokens_are_those_of_training(data):
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import tokenize

    token_rows = list(tokenize(read(data["reflected"]), load_tokenizer("tiny"), 1 << 30))
    row = rows("--tokenizer", "tiny", data["reflected"])["example, reflection"]
    assert row["target"]["all"] == sum(r.n_completion for r in token_rows)
    assert row["prompt"]["largest"] == max(r.n_prompt for r in token_rows)


def test_a_row_shows_its_mask_and_counts(data, tmp_path):
    """The text in [[ ]] is the text with a loss; the counts are those of the tokens."""
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    (example, *_) = read(data["world"])
    example["spans"] = [
        {"name": "observation", "start": 0, "end": 10, "weight": 0.0},
        {"name": "rest", "start": 10, "end": len(example["completion"][0]["content"])},
    ]
    tokenizer = load_tokenizer("tiny")
    row = row_maker(tokenizer)(example)
    text = run("show", "--row", "tiny", stdin=json.dumps(example).encode()).ok().out.decode()
    assert f"prompt {row.n_prompt}, completion {row.n_completion}; targets {row.n_targets} (rest " in text
    targets = re.findall(r"\[\[(.*?)\]\]", text.replace("\n  ", "\n"), flags=re.DOTALL)
    assert targets == [tokenizer.decode(list(row.ids)[row.targets[0] :])] and row.targets[0] > row.n_prompt
    assert example["prompt"][0]["content"] in text, "the prompt is shown whole"
    trajectory = run("show", "--row", "tiny", data["expert"]).ok().out
    assert trajectory == run("show", data["expert"]).ok().out, "other records are shown as ever"


def test_an_example_that_makes_no_row_is_named(data):
    example = {**read(data["imitation"])[0], "spans": [{"name": "action", "start": 0, "end": 10**6}]}
    for args in (("show", "--row", "tiny"), ("stats", "--tokenizer", "tiny")):
        run(*args, stdin=json.dumps(example).encode()).one_error(3, f"{example['id']}: $.spans[0]: characters 0 to")


def test_a_key_that_looks_like_a_task_is_none(data, tmp_path):
    """An example has no task of its own; such a key is ignored."""
    file = write(tmp_path / "odd", [{**read(data["imitation"])[0], "env": {}, "task": {}}])
    assert rows("--apart-from", data["expert"], file)["example, imitation"]["leaks"] == 1


def test_a_model_without_a_tokenizer_is_named(data, tmp_path):
    run("show", "--row", tmp_path / "none", data["imitation"]).one_error(1, "model directory not found: ")
    (tmp_path / "empty").mkdir()
    run("show", "--row", tmp_path / "empty", data["imitation"]).one_error(1, "empty: no tokenizer")
    run("stats", "--tokenizer", "http://localhost:1/v1#m", data["imitation"]).one_error(2, "has no tokenizer")


@pytest.mark.parametrize("field", ["steps", "invalid"])
@pytest.mark.parametrize("number", [-1, 2**31, 2**63, 2**64 - 1])
def test_a_number_of_actions_that_no_episode_has_is_refused(data, tmp_path, field, number):
    episode = {**read(data["episodes"])[0], field: number}
    file = write(tmp_path / "episodes", [episode])
    run("stats", file).one_error(
        3, f"{file}:1: $.{field}: expected an integer {'>= 0' if number < 0 else '<= 2147483647'}"
    )

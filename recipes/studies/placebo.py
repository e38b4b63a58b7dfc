"""Take away what is said to help: outcomes that belong to other actions, or thoughts that belong to other states.

    python placebo.py outcomes rollout.jsonl > permuted.jsonl     # what alternatives led to, exchanged among all states
    python placebo.py thoughts sr.jsonl STYLE > exchanged.jsonl   # thoughts exchanged among examples; actions stay
    python placebo.py here sr.jsonl STYLE > here.jsonl            # what thoughts say beyond this state's outcomes
    python placebo.py states rules.jsonl sr.jsonl > same.jsonl    # leave out states that sr.jsonl has no example of
    python placebo.py goals relabelled.jsonl > exchanged.jsonl    # instructions exchanged among demonstrations

Outcomes are exchanged among alternatives of one verb, the first word of the action, and so are as frequent as before.
The expert's actions keep theirs: they are the trajectory itself. Instructions are exchanged among demonstrations that
end with one verb.
"""

from __future__ import annotations

import random
import re
import sys
from collections import defaultdict

import orjson

from eexp.prompts import PromptStyle, get_style
from eexp.records.spans import named_span


def exchange_outcomes(records: list[dict], rng: random.Random) -> None:
    """Exchange the outcomes of alternatives that begin with the same word, in place.

    The same action in the same state, by its observation, gets the same outcome everywhere. What an expert did
    somewhere keeps its outcome.
    """
    done = {(step["observation"], step["action"]) for record in records for step in record["steps"]}
    by_verb: dict[str, dict[tuple[str, str], dict]] = defaultdict(dict)
    alternatives = [
        ((step["observation"], alternative["action"]), alternative)
        for record in records
        for step in record["steps"]
        for alternative in step.get("alternatives") or []
        if alternative.get("outcome") and (step["observation"], alternative["action"]) not in done
    ]
    for key, alternative in alternatives:
        by_verb[key[1].partition(" ")[0]].setdefault(key, alternative["outcome"])
    exchanged: dict[tuple[str, str], dict] = {}
    for outcomes in by_verb.values():
        shuffled = list(outcomes.values())
        rng.shuffle(shuffled)
        exchanged.update(zip(outcomes, shuffled))
    for key, alternative in alternatives:
        alternative["outcome"] = exchanged[key]


def exchange_thoughts(records: list[dict], rng: random.Random, style_name: str) -> None:
    """Exchange the thoughts of examples, in place; each action stays with its state."""
    style = get_style(style_name)
    thoughts = [style.parse(record["completion"][-1]["content"]).thought or "" for record in records]
    rng.shuffle(thoughts)
    _replace_thoughts(records, style, thoughts)


def look_no_further(records: list[dict], style_name: str) -> None:
    """Cut out of thoughts what they say of later states, in place: from the first "After" to the choice."""
    style = get_style(style_name)
    thoughts = [style.parse(record["completion"][-1]["content"]).thought or "" for record in records]
    _replace_thoughts(records, style, [re.sub(r" After .*(?= So I )", "", thought) for thought in thoughts])


def exchange_goals(records: list[dict], rng: random.Random) -> None:
    """Exchange the instructions of demonstrations whose last actions begin with the same word, in place."""
    by_verb: dict[str, list[dict]] = defaultdict(list)
    for record in records:
        by_verb[record["steps"][-1]["action"].partition(" ")[0]].append(record)
    for group in by_verb.values():
        instructions = [record["instruction"] for record in group]
        rng.shuffle(instructions)
        for record, instruction in zip(group, instructions):
            record["instruction"] = instruction


def of_same_states(records: list[dict], file: str) -> list[dict]:
    """Return the examples of states that have an example in another file, too.

    The id of an example is that of its state and, after the last "/", its kind.
    """
    with open(file, "rb") as lines:
        states = {orjson.loads(line)["id"].rpartition("/")[0] for line in lines}
    return [record for record in records if record["id"].rpartition("/")[0] in states]


def _replace_thoughts(records: list[dict], style: PromptStyle, thoughts: list[str]) -> None:
    answers = [style.parse(record["completion"][-1]["content"]) for record in records]
    for record, answer, thought in zip(records, answers, thoughts):
        target = style.answer(answer.action, thought)
        record["completion"], record["spans"] = (
            target.messages(),
            [{**named_span(span["name"], span["start"], span["end"]), "weight": 1.0} for span in target.spans],
        )


def main() -> None:
    what, file, *style = sys.argv[1:]
    with open(file, "rb") as lines:
        records = [orjson.loads(line) for line in lines]
    rng = random.Random(0)
    if what == "outcomes":
        exchange_outcomes(records, rng)
    elif what == "goals":
        exchange_goals(records, rng)
    elif what == "here":
        look_no_further(records, *style)
    elif what == "states":
        records = of_same_states(records, *style)
    else:
        exchange_thoughts(records, rng, *style)
    for record in records:
        sys.stdout.buffer.write(orjson.dumps(record) + b"\n")


if __name__ == "__main__":
    main()

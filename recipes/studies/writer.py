"""Make the examples of a small model that writes reflections: what `eexp reflect` asks for, and the answer to it.

    python writer.py 4 rollout.jsonl thoughts.jsonl STYLE > pairs.jsonl

The thoughts are those of a rule, for states of the rollout. The answer is the thought alone, as a language model is
asked to give it. A writer is trained on other tables than those that it is to write about. It would learn these by
heart: one that was trained on 60 tables under their own names wrote nothing about another table that the guards let
pass. So each pair is written several times (4), each time with new names for all substances, and has to be read.
"""

from __future__ import annotations

import random
import re
import sys

import orjson

from eexp.envs.opening import open_env
from eexp.envs.worlds.reactions import NAMES
from eexp.examples.reflection.requests import reflection_prompt
from eexp.examples.reflection.situations import situations
from eexp.prompts import PromptStyle, get_style
from eexp.records.jsonl import read
from eexp.records.record import example


def pair(trajectory: dict, thought_of: dict, style: PromptStyle) -> dict:
    """Return the example of one state: the request for a reflection, and the thought that an example ends in."""
    i = int(thought_of["id"].split("/")[-2])
    thought = style.parse(thought_of["completion"][-1]["content"]).thought
    assert thought, thought_of["id"]
    return example(
        trajectory,
        f"{i}/reflection",
        "reflection",
        reflection_prompt(style, situations(trajectory)[i]),
        [{"role": "assistant", "content": thought}],
        style.label,
        spans=[{"name": "thought", "start": 0, "end": len(thought), "weight": 1.0}],
    )


def renamed(record: dict, names: list[str], rng: random.Random) -> dict:
    """Return an example with new names for the substances, one for each."""
    others = dict(zip(names, rng.sample(NAMES, len(names))))
    word = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")

    def rename(messages: list[dict]) -> list[dict]:
        return [{**m, "content": word.sub(lambda match: others[match[0]], m["content"])} for m in messages]

    prompt, completion = rename(record["prompt"]), rename(record["completion"])
    spans = [{**record["spans"][0], "end": len(completion[0]["content"])}]
    return {**record, "prompt": prompt, "completion": completion, "spans": spans}


def main() -> None:
    times, rollout, thoughts, style_name = sys.argv[1:]
    style = get_style(style_name)
    trajectories = {trajectory["id"]: trajectory for trajectory in read([rollout], "trajectory")}
    with open_env(next(iter(trajectories.values()))["env"]) as env:
        names = list(env.names)  # type: ignore[attr-defined]
    rng = random.Random(rollout)
    for thought_of in read([thoughts], "example"):
        record = pair(trajectories[thought_of["id"].rsplit("/", 2)[0]], thought_of, style)
        for n in range(int(times)):
            one = {**renamed(record, names, rng), "id": f"{record['id']}/{n}"}
            sys.stdout.buffer.write(orjson.dumps(one) + b"\n")


if __name__ == "__main__":
    main()

"""Make the examples of a small model that writes reflections: what `eexp reflect` asks for, and the answer to it.

    python writer.py rollout.jsonl thoughts.jsonl STYLE > pairs.jsonl

The thoughts are those of a rule, for states of the rollout. The answer is the thought alone, as a language model is
asked to give it. A writer is trained on other tables than those that it is to write about.
"""

from __future__ import annotations

import sys

import orjson

from eexp.jsonl import read
from eexp.prompts import PromptStyle, get_style
from eexp.records import example
from eexp.reflection.requests import reflection_prompt
from eexp.reflection.situations import situations


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


def main() -> None:
    rollout, thoughts, style_name = sys.argv[1:]
    style = get_style(style_name)
    trajectories = {trajectory["id"]: trajectory for trajectory in read([rollout], "trajectory")}
    for thought_of in read([thoughts], "example"):
        record = pair(trajectories[thought_of["id"].rsplit("/", 2)[0]], thought_of, style)
        sys.stdout.buffer.write(orjson.dumps(record) + b"\n")


if __name__ == "__main__":
    main()

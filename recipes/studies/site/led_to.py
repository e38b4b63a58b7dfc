"""Note in each state which pages its actions led to, for `eexp reflect --rationale environment`.

    python led_to.py rollout.jsonl | eexp reflect --rationale environment --weigh 0 > sr.jsonl

The notes of a state name an alternative and what it led to, then the expert's action and what that led to, each by the
end of the page's title: `[4] leads to 14 rows where place = "attic".` The alternative is the first that led to another
page than the expert's action did.
"""

from __future__ import annotations

import re
import sys

import orjson

TITLE = re.compile(r'page "(?P<title>(?:[^"\\]|\\.)*)"')


def page_of(observation: str) -> str:
    """Return the end of a page's title; "" if it is no page."""
    found = TITLE.match(observation)
    return found["title"].replace("\\", "").rpartition(": ")[2] if found else ""


def sentence(action: str, observation: str) -> str:
    """Say what an action led to; "" if to no page, or if it is no click."""
    element = re.fullmatch(r"click (\[\d+\])", action)
    page = page_of(observation)
    return f"{element[1]} leads to {page}." if element and page else ""


def notes(step: dict, led_to: str) -> str:
    """Return the notes of a state, without those on alternatives if there is nothing to choose: at the end."""
    chosen = sentence(step["action"], led_to)
    others = (
        sentence(a["action"], a["outcome"]["observation"]) for a in step.get("alternatives") or [] if a.get("outcome")
    )
    other = next((text for text in others if text and text.split(" ", 1)[1] != chosen.partition(" ")[2]), "")
    return " ".join(text for text in (other, chosen or f"This is {page_of(step['observation'])}.") if text)


def main() -> None:
    with open(sys.argv[1], "rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            steps = record["steps"]
            after = [*(step["observation"] for step in steps[1:]), record["outcome"]["observation"]]
            for step, led_to in zip(steps, after):
                step["notes"] = notes(step, led_to)
            sys.stdout.buffer.write(orjson.dumps(record) + b"\n")


if __name__ == "__main__":
    main()

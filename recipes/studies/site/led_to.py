"""Note in each state what one alternative led to and which element is next, for `eexp reflect --rationale environment`.

    python led_to.py rollout.jsonl | eexp reflect --rationale environment --weigh 0 > notes-sr.jsonl

`[4] leads to "attic". Next [7] is called "storm".` The alternative is the first that led to another page than the
expert's action did. It is told by what the title of its page has and that of the state has not. With --no-alternatives,
the notes name what is next, and nothing that was executed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import orjson

CLICK = re.compile(r"click (\[\d+\])")
TITLE = re.compile(r'page "(?P<title>(?:[^"\\]|\\.)*)"')


def page_of(observation: str) -> str:
    """Return the title of a page without the numbers of rows; "" if it is no page."""
    found = TITLE.match(observation)
    return re.sub(r"\b\d+ (?=rows?\b)", "", found["title"].replace("\\", "")) if found else ""


def led_to(action: str, before: str, after: str) -> str:
    """Say what an action led to; "" if to no other page, or if it is no click."""
    element = CLICK.fullmatch(action)
    page, here = page_of(after), page_of(before)
    if not element or not page or page == here:
        return ""
    order = re.search(r"sorted by .*", page)
    if order and order[0] not in here:
        return f"{element[1]} leads to rows {order[0]}."
    names = [name for name in re.findall(r"[a-z]+", page) if f'"{name}"' in before and name not in here]
    return f'{element[1]} leads to "{names[-1]}".' if names else f"{element[1]} leads to {page.rpartition(': ')[2]}."


def name_of(action: str, observation: str) -> str:
    """Say what the element of a click is called; that nothing is next for another action."""
    element = CLICK.fullmatch(action)
    name = element and re.search(rf'{re.escape(element[1])} \w+ "([^"]*)"', observation)
    return f'Next {element[1]} is called "{name[1]}".' if element and name else "Nothing is next."


def notes(step: dict, after: str, alternatives: bool = True) -> str:
    """Return the notes of a state.

    after: what the expert's action led to. alternatives: whether one of them is named.
    """
    here = step["observation"]
    executed = [a for a in step.get("alternatives") or [] if alternatives and a.get("outcome")]
    others = [(a["action"], a["outcome"]["observation"]) for a in executed]
    told = [led_to(action, here, page) for action, page in others if page_of(page) != page_of(after)]
    return " ".join([*[text for text in told if text][:1], name_of(step["action"], here)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--no-alternatives", action="store_true", help="leave out what alternatives led to")
    args = parser.parse_args()
    with open(args.records, "rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            steps = record["steps"]
            after = [*(step["observation"] for step in steps[1:]), record["outcome"]["observation"]]
            for step, page in zip(steps, after):
                step["notes"] = notes(step, page, not args.no_alternatives)
            print(orjson.dumps(record).decode())


if __name__ == "__main__":
    main()

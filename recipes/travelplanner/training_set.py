"""Make TravelPlanner's training set out of a checkout of its repository, without the downloads.

    git clone https://github.com/OSU-NLP-Group/TravelPlanner
    python recipes/travelplanner/training_set.py TravelPlanner DIR
    eexp expert 'travelplanner?database=DIR/database&queries=DIR/train.csv'

The repository has the 45 annotated plans with their queries as texts (finetuning_data/std_travelplanner.jsonl) and the
reference information (database/train_ref_info.jsonl). DIR/database gets the rows that stand in the latter, in the files
of the whole database. DIR/train.csv gets the fields of the dataset; budget, number of people and wishes are read from
the text of the query, by patterns for these 45. It is for the training set alone: with the whole database and the
dataset, which docs/environments/travelplanner.md says where to get, nothing has to be guessed.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from pathlib import Path

FILES = {
    "Flight": "flights/clean_Flights_2022.csv",
    "Restaurants": "restaurants/clean_restaurant_2022.csv",
    "Attractions": "attractions/attractions.csv",
    "Accommodations": "accommodations/clean_accommodations_2022.csv",
}
CUISINES = ["American", "Chinese", "French", "Indian", "Italian", "Mediterranean", "Mexican"]
#: wish -> the pattern of its text
RULES = {
    "smoking": "smok",
    "parties": r"\bparties\b",
    "children under 10": "children under 10|under the age of 10",
    "visitors": "visitors",
    "pets": r"\bpets?\b",
}
ROOMS = {"private room": "private room", "entire room": "entire room"}
WAYS = {
    "no flight": r"\b(?:not|avoid)\b[^.]*\b(?:flights?|fly|flying)\b",
    "no self-driving": r"(?:\bnot\b|n't|\bnon-)[^.]*driv",
}
NUMBERS = {"two": 2, "three": 3, "pair": 2}


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_database(references: list[dict], plans: list[list[dict]], directory: Path) -> None:
    """Write the rows of the reference information as the files of the database."""
    tables: dict[str, dict[str, dict]] = {kind: {} for kind in FILES}
    distances: dict[tuple[str, str], dict] = {}
    states: dict[str, str] = {}
    for title, content in (item for reference in references for item in reference.items()):
        kind = title.split()[0]
        if kind in tables and isinstance(content, list):
            tables[kind].update({json.dumps(row): row for row in content})
        elif match := re.fullmatch("(?:Self-driving|Taxi) from (.+) to (.+)", title):
            ends = match[1], match[2]
            states.update(dict.fromkeys(ends, "Unknown"))
            facts = re.search("duration: (.*), distance: (.*), cost", str(content))
            duration, distance = (facts[1], facts[2]) if facts else ("", "")
            row = {"origin": ends[0], "destination": ends[1], "duration": duration, "distance": distance}
            distances[ends] = row if facts else distances.get(ends, row)
    for text in (str(value) for plan in plans for day in plan for value in day.values()):
        for city, state in re.findall(r"(?:from |to |, |;|^)([A-Z][\w. ]*?)\((\w[\w ]*)\)", text):
            states[city] = state
    for kind, name in FILES.items():
        write_rows(directory / name, list(tables[kind].values()))
    write_rows(directory / "googleDistanceMatrix" / "distance.csv", list(distances.values()))
    (directory / "background").mkdir(exist_ok=True)
    lines = "\n".join(f"{city}\t{state}" for city, state in states.items())
    (directory / "background" / "citySet_with_states.txt").write_text(lines)


def first_match(patterns: dict[str, str], text: str) -> str | None:
    return next((name for name, pattern in patterns.items() if re.search(pattern, text, re.IGNORECASE)), None)


def record(number: int, prompt: str, plan: list[dict]) -> dict:
    """Return the dataset's fields of a query.

    Args:
        number: Its number from 0; the 45 are 5 for each of 3, 5 and 7 days, for each of three levels.
        prompt: The user's message of the fine-tuning data: the reference information, then the query.
        plan: The annotated plan.
    """
    level, days = ("easy", "medium", "hard")[number // 15], (3, 5, 7)[number % 15 // 5]
    query = prompt.rpartition("Query:")[2].strip()
    ends = re.fullmatch("from (.+) to (.+)", plan[0]["current_city"])
    state = re.search(r"\((\w[\w ]*)\)", str(plan[1]))
    assert ends
    money = re.search(r"\$([\d,]+)", query)
    first_day = re.search(r"March (\d+)|(\d+)\w\w of March|the (\d+)\w\w to", query)
    people = re.search(r"(?:group|party) of (\w+)|\bfor (?:a )?(\d+|two|three|pair)\b(?![- ]days?)", query)
    assert money and first_day
    crowd = (people[1] or people[2]) if people and level != "easy" else "1"
    start = int(next(filter(None, first_day.groups())))
    wishes = {
        "house rule": first_match(RULES, query) if level != "easy" else None,
        "cuisine": [name for name in re.findall(r"[A-Z]\w+", query) if name in CUISINES] or None,
        "room type": first_match(ROOMS, query),
        "transportation": first_match(WAYS, query) if level == "hard" else None,
    }
    return {
        "org": ends[1],
        "dest": state[1] if state and days > 3 else ends[2],
        "days": days,
        "visiting_city_number": days // 2,
        "date": str([f"2022-03-{start + day:02}" for day in range(days)]),
        "people_number": NUMBERS.get(crowd) or int(crowd),
        "local_constraint": str(wishes),
        "budget": int(money[1].replace(",", "")),
        "query": query,
        "level": level,
        "annotated_plan": str([{"org": ends[1]}, plan]),
        "reference_information": prompt[prompt.index("[") : prompt.rindex("]") + 1],
    }


def main(checkout: Path, directory: Path) -> None:
    examples = (checkout / "finetuning_data" / "std_travelplanner.jsonl").read_text(encoding="utf-8").splitlines()
    references = (checkout / "database" / "train_ref_info.jsonl").read_text(encoding="utf-8").splitlines()
    dialogues = [json.loads(line)["messages"] for line in examples]
    plans = [ast.literal_eval(messages[-1]["content"]) for messages in dialogues]
    write_database([json.loads(line) for line in references], plans, directory / "database")
    prompts = [messages[1]["content"] for messages in dialogues]
    write_rows(directory / "train.csv", [record(*item) for item in zip(range(len(plans)), prompts, plans)])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

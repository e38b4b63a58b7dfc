"""Small data of our own in the formats of searchqa and travelplanner."""

from __future__ import annotations

import csv
import json
from pathlib import Path

# -- searchqa ----------------------------------------------------------------------------------------------------------

PAINTERS = {
    "Ada Moss": ("Arlen", 1811, "Bela Reed"),
    "Bela Reed": ("Bodmin", 1790, "Cora Vale"),
    "Cora Vale": ("Castor", 1762, "Dana Wick"),
    "Dana Wick": ("Arlen", 1740, "Cora Vale"),
    "Edgar Stone": ("Drava", 1823, "Ada Moss"),
    "Flora Marsh": ("Castor", 1830, "Edgar Stone"),
}
RIVERS = {"Arlen": "Ash", "Bodmin": "Brae", "Castor": "Cole", "Drava": "Dee"}


def passages() -> list[dict]:
    texts = [
        (name, f"{name} was a painter, born in {town} in {year}, who learned from {teacher}.")
        for name, (town, year, teacher) in PAINTERS.items()
    ]
    texts += [(town, f"{town} is a town on the river {river}.") for town, river in RIVERS.items()]
    return [{"id": str(n), "title": title, "text": text} for n, (title, text) in enumerate(texts)]


def questions() -> list[dict]:
    """Questions of two parts with recorded queries; those of `test` have none."""
    records = []
    for name, (town, year, _) in PAINTERS.items():
        split = "test" if year > 1820 else "train"
        records.append(
            {
                "id": f"2hop__{name.partition(' ')[0].lower()}",
                "question": f"On which river is the town where {name} was born?",
                "answers": [f"the {RIVERS[town]}", f"river {RIVERS[town]}"],
                "split": split,
                **({"queries": [f"{name} born", f"{town} river"]} if split == "train" else {}),
            }
        )
    return records


def write_lines(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def searchqa_spec(directory: Path) -> str:
    """Write passages and questions; return the spec of the environment."""
    passages_file = write_lines(directory / "passages.jsonl", passages())
    questions_file = write_lines(directory / "questions.jsonl", questions())
    return f"searchqa?passages={passages_file}&questions={questions_file}"


# -- travelplanner -----------------------------------------------------------------------------------------------------

STATES = {"Ambridge": "Westland", "Brookton": "Eastland", "Colby": "Eastland", "Dunmore": "Northland"}
VISITED = ("Brookton", "Colby")
#: (name, cost, cuisines), in every visited city, with the city's name before it
RESTAURANTS = [
    ("Garden Table", 20, "American, Cafe"),
    ("Blue Door", 35, "French, Bakery"),
    ("Old Mill", 12, "Indian, Fast Food"),
    ("Corner Grill", 50, "American, BBQ"),
    ("Red Lantern", 28, "Chinese, Tea"),
    ("Harbour, Fish and More", 64, "Seafood, Mediterranean"),
    ("Long Spoon", 15, "Italian, Pizza"),
]
ATTRACTIONS = ["Town Museum", "Rose Garden", "Old Bridge", "Zoo"]
#: (name, price, room type, house rules, minimum nights, maximum occupancy)
ACCOMMODATIONS = [
    ("Quiet Room", 60, "Private room", "No smoking & No pets", 1, 2),
    ("Sunny Flat", 110, "Entire home/apt", "No parties", 2, 4),
    ("Loft over the Square", 180, "Entire home/apt", "No smoking", 3, 6),
    ("Bunk House", 25, "Shared room", "No visitors", 1, 1),
]
#: (number, price, departure, arrival, date, origin, destination)
FLIGHTS = [
    ("F0000001", 120, "06:10", "08:00", "2022-03-01", "Ambridge", "Brookton"),
    ("F0000002", 90, "18:30", "20:20", "2022-03-01", "Ambridge", "Brookton"),
    ("F0000003", 150, "20:00", "21:45", "2022-03-03", "Brookton", "Ambridge"),
    ("F0000004", 60, "09:00", "09:50", "2022-03-03", "Brookton", "Colby"),
    ("F0000005", 130, "19:00", "21:00", "2022-03-05", "Colby", "Ambridge"),
    ("F0000006", 99, "07:00", "09:00", "2022-03-05", "Colby", "Ambridge"),
]
DISTANCES = [
    ("Ambridge", "Brookton", "5 hours 2 mins", "512 km"),
    ("Brookton", "Ambridge", "5 hours 1 min", "511 km"),
    ("Brookton", "Colby", "1 hour 40 mins", "1,040 km"),
    ("Colby", "Ambridge", "1 day 3 hours", "2,900 km"),
    ("Ambridge", "Dunmore", "", ""),
]
_COLUMNS = {
    "flights/clean_Flights_2022.csv": [
        [
            "Flight Number",
            "Price",
            "DepTime",
            "ArrTime",
            "ActualElapsedTime",
            "FlightDate",
            "OriginCityName",
            "DestCityName",
            "Distance",
        ],
        *([*f[:4], "1 hours 50 minutes", *f[4:], 300] for f in FLIGHTS),
        ["F0000009", "", "10:00", "11:00", "1 hours 0 minutes", "2022-03-01", "Ambridge", "Brookton", 300],
    ],
    "restaurants/clean_restaurant_2022.csv": [
        ["Name", "Average Cost", "Cuisines", "Aggregate Rating", "City"],
        *([f"{city} {name}", cost, cuisines, 4.1, city] for city in VISITED for name, cost, cuisines in RESTAURANTS),
        ["Nan", 1, "American", "NaN", "Brookton"],
        ["Home Kitchen", 10, "American", 4.0, "Ambridge"],
    ],
    "attractions/attractions.csv": [
        ["Name", "Latitude", "Longitude", "Address", "Phone", "Website", "City"],
        *([f"{city} {name}", 1.5, 2.5, "1 Main St", "555", "-", city] for city in VISITED for name in ATTRACTIONS),
    ],
    "accommodations/clean_accommodations_2022.csv": [
        [
            "",
            "NAME",
            "room type",
            "price",
            "minimum nights",
            "review rate number",
            "house_rules",
            "maximum occupancy",
            "city",
        ],
        *(
            [n, f"{city} {name}", room, price, float(nights), 4.0, rules, occupancy, city]
            for city in VISITED
            for n, (name, price, room, rules, nights, occupancy) in enumerate(ACCOMMODATIONS)
        ),
    ],
    "googleDistanceMatrix/distance.csv": [["origin", "destination", "duration", "distance"], *map(list, DISTANCES)],
}


def _day(number: int, city: str, transportation: str, *slots: str) -> dict:
    names = ("breakfast", "attraction", "lunch", "dinner", "accommodation")
    return {"days": number, "current_city": city, "transportation": transportation, **dict(zip(names, slots))}


def short_plan() -> list[dict]:
    """Three days in Brookton by plane for one person: $120 + $150, meals of $160, two nights of $110."""
    b = "Brookton"
    return [
        _day(
            1,
            "from Ambridge to Brookton",
            "Flight Number: F0000001, from Ambridge to Brookton, Departure Time: 06:10, Arrival Time: 08:00",
            "-",
            f"{b} Town Museum, {b};",
            f"{b} Garden Table, {b}",
            f"{b} Blue Door, {b}",
            f"{b} Sunny Flat, {b}",
        ),
        _day(
            2,
            b,
            "-",
            f"{b} Old Mill, {b}",
            f"{b} Rose Garden, {b};{b} Old Bridge, {b};",
            f"{b} Corner Grill, {b}",
            f"{b} Red Lantern, {b}",
            f"{b} Sunny Flat, {b}",
        ),
        _day(
            3,
            "from Brookton to Ambridge",
            "Flight Number: F0000003, from Brookton to Ambridge, Departure Time: 20:00, Arrival Time: 21:45",
            f"{b} Long Spoon, {b}",
            f"{b} Zoo, {b};",
            "-",
            "-",
            "-",
        ),
    ]


def long_plan() -> list[dict]:
    """Five days in two cities of Eastland for three people, by plane and taxi."""
    b, c = "Brookton(Eastland)", "Colby(Eastland)"
    return [
        _day(
            1,
            f"from Ambridge to {b}",
            f"Flight Number: F0000002, from Ambridge to {b}, Departure Time: 18:30, Arrival Time: 20:20",
            "-",
            "-",
            "-",
            f"Brookton Old Mill, {b}",
            f"Brookton Sunny Flat, {b}",
        ),
        _day(
            2,
            b,
            "-",
            f"Brookton Garden Table, {b}",
            f"Brookton Zoo, {b};",
            f"Brookton Long Spoon, {b}",
            f"Brookton Blue Door, {b}",
            f"Brookton Sunny Flat, {b}",
        ),
        _day(
            3,
            f"from {b} to {c}",
            f"Taxi, from {b} to {c}, duration: 1 hour 40 mins, distance: 1,040 km, cost: 1040",
            "-",
            f"Colby Old Bridge, {c};",
            f"Colby Garden Table, {c}",
            f"Colby Harbour, Fish and More, {c}",
            f"Colby Sunny Flat, {c}",
        ),
        _day(
            4,
            c,
            "-",
            f"Colby Old Mill, {c}",
            f"Colby Town Museum, {c};Colby Rose Garden, {c};",
            f"Colby Red Lantern, {c}",
            f"Colby Corner Grill, {c}",
            f"Colby Sunny Flat, {c}",
        ),
        _day(
            5,
            f"from {c} to Ambridge",
            f"Flight Number: F0000005, from {c} to Ambridge, Departure Time: 19:00, Arrival Time: 21:00",
            f"Colby Long Spoon, {c}",
            f"Colby Zoo, {c};",
            "-",
            "-",
            "-",
        ),
    ]


def reference(cities: tuple[str, ...]) -> str:
    """Return all information on some cities, in the dataset's form: a list, as Python writes it."""
    parts = []
    for city in cities:
        parts.append((f"Attractions in {city}", "Name\n" + "\n".join(f"{city} {name}" for name in ATTRACTIONS)))
        rows = "\n".join(f"{city} {name}  {cost}  {cuisines}" for name, cost, cuisines in RESTAURANTS)
        parts.append((f"Restaurants in {city}", f"Name  Average Cost  Cuisines\n{rows}"))
        rows = "\n".join("  ".join(map(str, (f"{city} {row[0]}", *row[1:]))) for row in ACCOMMODATIONS)
        parts.append((f"Accommodations in {city}", f"NAME  price  room type  house_rules  minimum nights\n{rows}"))
    parts += [
        (f"Flight from {flight[5]} to {flight[6]} on {flight[4]}", "  ".join(map(str, flight))) for flight in FLIGHTS
    ]
    return str([{"Description": description, "Content": content} for description, content in parts])


def travel_queries() -> list[dict[str, str]]:
    """Return the records of a training set: every value is a text, as in the dataset's CSV."""
    free = {"house rule": None, "cuisine": None, "room type": None, "transportation": None}
    wishes = {**free, "house rule": "smoking", "cuisine": ["American", "French"], "room type": "entire room"}
    short = {
        "org": "Ambridge",
        "dest": "Brookton",
        "days": "3",
        "visiting_city_number": "1",
        "date": "['2022-03-01', '2022-03-02', '2022-03-03']",
        "people_number": "1",
        "local_constraint": str(free),
        "budget": "700",
        "query": "Please plan a trip for one person from Ambridge to Brookton for 3 days, with a budget of $700.",
        "level": "easy",
        "annotated_plan": str([{"org": "Ambridge"}, [*short_plan(), {}, {}]]),
        "reference_information": reference(("Brookton",)),
    }
    long = {
        **short,
        "dest": "Eastland",
        "days": "5",
        "visiting_city_number": "2",
        "date": str([f"2022-03-0{n}" for n in range(1, 6)]),
        "people_number": "3",
        "local_constraint": str({**wishes, "transportation": "no self-driving", "house rule": "visitors"}),
        "budget": "4000",
        "query": "Three of us want to see 2 cities of Eastland in 5 days from Ambridge, for $4,000 or less.",
        "level": "hard",
        "annotated_plan": str([{"org": "Ambridge"}, [*long_plan(), {}, {}]]),
        "reference_information": reference(VISITED),
    }
    wish = {**short, "local_constraint": str({**free, "cuisine": ["Indian"]}), "budget": "650", "level": "medium"}
    return [short, {**short, "budget": "660"}, wish, long]


def write_csv(path: Path, records: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def write_database(directory: Path) -> Path:
    for name, rows in _COLUMNS.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with open(directory / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    (directory / "background").mkdir(parents=True, exist_ok=True)
    cities = "\n".join(f"{city}\t{state}" for city, state in STATES.items())
    (directory / "background" / "citySet_with_states.txt").write_text(cities)
    return directory


def travelplanner_spec(directory: Path) -> str:
    """Write a database, and queries with and without plans; return the spec of the environment."""
    directory.mkdir(parents=True, exist_ok=True)
    database, queries = write_database(directory / "database"), travel_queries()
    write_csv(directory / "train.csv", queries)
    write_csv(
        directory / "validation.csv", [{k: v for k, v in q.items() if k != "annotated_plan"} for q in queries[:2]]
    )
    return f"travelplanner?database={database}&queries={directory}"

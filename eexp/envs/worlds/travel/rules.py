"""TravelPlanner's rules for a plan: eight of common sense, and up to five hard ones of the query.

The rules are those of the benchmark's evaluation (Xie et al. 2024, arXiv 2402.01622, section 3.3 and the code of the
release), including what that code does otherwise than one would expect:

- A list of attractions ends with `;`. What stands after the last `;` is not looked at.
- On a day in one city, the rule for the current city looks for the letters of the city's name and not for the name.
- A restaurant or accommodation is found where its name in the data contains the name in the plan. The first one counts.
- Minimum nights are not checked where several accommodations contain the name.
- Once a meal of a day is at the origin, the day's later meals do not count for the cuisines.

`benchmarks/travelplanner_rules.py` compares these rules with the code of a checkout on many plans. Where that code
stops with an exception, because a key is missing for instance, the rule is not met here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eexp.envs.worlds.travel.database import Accommodation, Drive, TravelData
from eexp.envs.worlds.travel.texts import (
    MEALS,
    SLOTS,
    attractions_of,
    car_of,
    cities_of,
    dollars,
    flight_number,
    route,
    split_name,
    vehicle_of,
    without_state,
)

_EMPTY = ("", "-")
_NO_DAY = "You don't need to fill in the information for this or later days."
_ROOMS = {"shared room": "Shared room", "private room": "Private room", "entire room": "Entire home/apt"}
_HOUSE_RULES = ("smoking", "parties", "children under 10", "visitors", "pets")
_SEATS = {"Self-driving": 5, "Taxi": 4}  # people in a car

Day = dict[str, Any]


@dataclass(frozen=True)
class RuleVerdict:
    """The judgement of one constraint."""

    constraint: str  # its name in the benchmark's paper, in whole words
    met: bool | None  # whether the plan meets it; None where information is missing or not in the data
    reason: str = ""  # the first thing that is against it


class PlanJudge:
    """The judgement of one plan for one query.

    Args:
        data: The database.
        query: `org`, `dest`, `days`, `visiting_city_number`, `people_number`, `budget` and `local_constraint`.
        plan: A list of days; those after the last day of the query are not looked at.
    """

    def __init__(self, data: TravelData, query: dict, plan: list[Day]):
        self._data, self._query = data, query
        self._days = plan[: query["days"]]
        self._wishes = query["local_constraint"]

    def verdicts(self) -> list[RuleVerdict]:
        """Judge all constraints that apply, the hard ones only where the information is complete and real."""
        common = [
            ("Reasonable city route", self._city_route),
            ("Diverse restaurants", self._diverse_restaurants),
            ("Diverse attractions", self._diverse_attractions),
            ("Minimum nights stay", self._minimum_nights),
            ("Non-conflicting transportation", self._one_way_to_travel),
            ("Within current city", self._within_current_city),
            ("Within sandbox", self._within_sandbox),
            ("Complete information", self._complete),
        ]
        verdicts = [self._verdict(name, rule) for name, rule in common]
        judged = all(verdict.met for verdict in verdicts[-2:])
        hard = [self._verdict(name, rule) if judged else RuleVerdict(name, None) for name, rule in self._hard_rules()]
        return [*verdicts, *hard]

    def _hard_rules(self) -> list[tuple[str, Callable[[], str | None]]]:
        rules = [
            ("Cuisine", self._cuisine, self._wishes.get("cuisine")),
            ("Room rule", self._room_rule, self._wishes.get("house rule")),
            ("Transportation", self._transportation, self._wishes.get("transportation")),
            ("Room type", self._room_type, self._wishes.get("room type")),
            ("Budget", self._budget, True),
        ]
        return [(name, rule) for name, rule, applies in rules if applies]

    def _verdict(self, name: str, rule: Callable[[], str | None]) -> RuleVerdict:
        reason = rule()
        return RuleVerdict(name, reason is None, reason or "")

    def _filled(self, *slots: str) -> Iterator[tuple[int, str, str]]:
        """Yield (number of the day, slot, text) of the given slots where they hold something, day by day."""
        for number, day in enumerate(self._days, 1):
            for slot in slots:
                if day.get(slot, "") not in _EMPTY:
                    yield number, slot, day[slot]

    def _cities(self) -> list[list[str]] | str:
        """Return the cities of every day, or what is wrong with them."""
        cities = []
        for number, day in enumerate(self._days, 1):
            pair = cities_of(day["current_city"]) if "current_city" in day else None
            if pair is None:
                return f"day {number} has no current city"
            cities.append(pair)
        return cities

    # -- common sense --------------------------------------------------------------------------------------------

    def _city_route(self) -> str | None:
        cities = self._cities()
        if isinstance(cities, str):
            return cities
        origin, state = self._query["org"], self._query["dest"]
        if len(cities[0]) == 2 and cities[0][0] != origin:
            return f"the trip begins in {cities[0][0]} and not in {origin}"
        sequence = [city for pair in cities for city in pair]
        if sequence[0] != sequence[-1]:
            return f"the trip begins in {sequence[0]} and ends in {sequence[-1]}"
        if fault := _fault_of_sequence(sequence):
            return fault
        for place, city in enumerate(sequence):
            city_state = self._data.state_of(city)
            if city_state is None:
                return f"there is no city {city}"
            if 0 < place < len(sequence) - 1 and self._query["days"] > 3 and city_state != state:
                return f"{city} is not in {state}"
        return None

    def _diverse_restaurants(self) -> str | None:
        visited: set[str] = set()
        for number, meal, text in self._filled(*MEALS):
            if text in visited:
                return f"day {number}, {meal}: {text} was there before"
            visited.add(text)
        return None

    def _diverse_attractions(self) -> str | None:
        visited: set[str] = set()
        for number, _, text in self._filled("attraction"):
            for attraction in attractions_of(text):
                if attraction in visited:
                    return f"day {number}: {attraction} was visited before"
                visited.add(attraction)
        return None

    def _minimum_nights(self) -> str | None:
        for number, day in enumerate(self._days, 1):
            if "accommodation" not in day:
                return f"day {number} does not say anything about accommodation"
        for text, group in groupby(day["accommodation"] for day in self._days):
            nights = len(list(group))
            places = self._data.accommodations_named(text) if text not in _EMPTY else []
            if len(places) == 1 and nights < places[0].nights:
                return f"{text} is let for {places[0].nights:g} nights or more, and the stay is {nights}"
        return None

    def _one_way_to_travel(self) -> str | None:
        if self._days[0].get("transportation", "") in _EMPTY:
            return "day 1 has no transportation"
        kinds = {vehicle_of(text) for _, _, text in self._filled("transportation")}
        others = [kind for kind in ("Flight", "Taxi") if kind in kinds]
        return f"Self-driving does not go with {' and '.join(others)}" if "Self-driving" in kinds and others else None

    def _within_current_city(self) -> str | None:
        cities = self._cities()
        if isinstance(cities, str):
            return cities
        for number, slot, text in self._filled(*SLOTS):
            # For a single city the benchmark compares letters: its list of cities is a string there.
            names = cities[number - 1] if len(cities[number - 1]) == 2 else list(cities[number - 1][0])
            if slot == "transportation":
                fits = all(name in text for name in names)
            elif slot == "accommodation":
                fits = bool(names) and names[-1] in text
            else:
                texts = attractions_of(text) if slot == "attraction" else [text]
                fits = all(any(name in one for name in names) for one in texts)
            if not fits:
                return f"day {number}, {slot}: {text} is not in {self._days[number - 1]['current_city']}"
        return None

    def _within_sandbox(self) -> str | None:
        for number, day in enumerate(self._days, 1):
            if "transportation" not in day:
                return f"day {number} does not say anything about transportation"
        for number, slot, text in self._filled(*SLOTS):
            if slot == "transportation":
                found = self._travel_exists(text, self._days[number - 1])
            elif slot == "attraction":
                found = all(self._attraction_exists(attraction) for attraction in attractions_of(text))
            elif slot == "accommodation":
                found = bool(self._data.accommodations_named(text))
            else:
                found = bool(self._data.restaurants_named(text))
            if not found:
                return f"day {number}, {slot}: {text} is not in the data"
        return None

    def _attraction_exists(self, text: str) -> bool:
        name, city = split_name(text)
        return any(name in attraction for attraction in self._data.attractions(city))

    def _travel_exists(self, text: str, day: Day) -> bool:
        pair = self._route_of(text, day)
        if "flight number" in text.lower():
            number = flight_number(text)
            if pair is None or number is None:
                return False
            ends = tuple(without_state(city) for city in pair)
            return any((flight.origin, flight.destination) == ends for flight in self._data.flights_numbered(number))
        if vehicle := car_of(text):
            return pair is not None and self._drive(pair, vehicle) is not None
        return True

    def _route_of(self, text: str, day: Day) -> tuple[str, str] | None:
        return route(text) or route(day.get("current_city") or "")

    def _drive(self, pair: tuple[str, str], vehicle: str) -> Drive | None:
        return self._data.drive(without_state(pair[0]), without_state(pair[1]), vehicle)

    def _complete(self) -> str | None:
        if len(self._days) < self._query["days"] or not all(self._days):
            return f"the plan has {len([day for day in self._days if day])} of {self._query['days']} days"
        cities = self._cities()
        if isinstance(cities, str):
            return cities
        if any(day["current_city"] == _NO_DAY for day in self._days):
            return "a day is left out"
        if len(cities[0]) == 2 and cities[0][0] != self._query["org"]:
            return f"the trip begins in {cities[0][0]}"
        visited = {city for pair in cities for city in pair} - {self._query["org"]}
        if len(visited) != self._query["visiting_city_number"]:
            return f"the cities visited are {len(visited)}, and not {self._query['visiting_city_number']}"
        n_filled = 0
        for number, day in enumerate(self._days, 1):
            if fault := self._gap(day, number):
                return f"day {number}: {fault}"
            n_filled += sum(bool(value) and value != "-" for value in day.values())
        if n_filled / (6 * self._query["days"]) < 0.5:
            return "more than half is missing"
        return None

    def _gap(self, day: Day, number: int) -> str | None:
        """Return what is missing on a day."""
        for slot in SLOTS:
            if slot not in day:
                return f"nothing about {slot}"
        city, last = day["current_city"], number == self._query["days"]
        travels = "from " in city
        if (travels or "to " in city) and day["transportation"] in _EMPTY:
            return "no transportation"
        if not travels and " to " not in city and day["attraction"] in _EMPTY:
            return "no attraction"
        if not last and day["accommodation"] in _EMPTY:
            return "no accommodation"
        if not travels and any(day[meal] in _EMPTY for meal in MEALS):
            return "a meal is missing"
        return None

    # -- hard rules ----------------------------------------------------------------------------------------------

    def cost(self) -> float:
        """Return what the plan costs in dollars. What is not in the data costs nothing."""
        people, total = self._query["people_number"], 0.0
        for number, slot, text in self._filled(*SLOTS):
            if slot == "transportation":
                total += self._travel_cost(text, self._days[number - 1])
            elif slot == "accommodation" and (places := self._data.accommodations_named(text)):
                total += places[0].price * math.ceil(people / places[0].occupancy)
            elif slot in MEALS and (restaurants := self._data.restaurants_named(text)):
                total += restaurants[0].cost * people
        return total

    def _travel_cost(self, text: str, day: Day) -> float:
        pair, people = self._route_of(text, day), self._query["people_number"]
        if pair is None:
            return 0.0
        if "flight number" in text.lower():
            number = flight_number(text)
            flights = self._data.flights_numbered(number) if number is not None else []
            return flights[0].price * people if flights else 0.0
        vehicle = car_of(text)
        drive = self._drive(pair, vehicle) if vehicle else None
        return drive.cost * math.ceil(people / _SEATS[vehicle]) if drive and vehicle else 0.0

    def _budget(self) -> str | None:
        cost, budget = self.cost(), self._query["budget"]
        return None if cost <= budget else f"the plan costs {dollars(cost)} and the budget is {dollars(budget)}"

    def _cuisine(self) -> str | None:
        wanted, served = self._wishes["cuisine"], set()
        for day in self._days:
            for meal in MEALS:
                text = day.get(meal, "")
                if text in _EMPTY:
                    continue
                if split_name(text)[1] == self._query["org"]:
                    break
                if restaurants := self._data.restaurants_named(text):
                    served |= {cuisine for cuisine in wanted if cuisine in restaurants[0].cuisines}
        missing = [cuisine for cuisine in wanted if cuisine not in served]
        return f"no meal is {' or '.join(missing)}" if missing else None

    def _accommodations(self) -> Iterator[tuple[int, str, Accommodation]]:
        """Yield (number of the day, text, accommodation) for every night."""
        for number, _, text in self._filled("accommodation"):
            if places := self._data.accommodations_named(text):
                yield number, text, places[0]

    def _room_rule(self) -> str | None:
        wish = self._wishes["house rule"]
        for number, text, place in self._accommodations():
            if wish in _HOUSE_RULES and f"No {wish}" in place.rules:
                return f"day {number}: {text} has the rule: No {wish}"
        return None

    def _room_type(self) -> str | None:
        wish = self._wishes["room type"]
        for number, text, place in self._accommodations():
            shared = wish == "not shared room" and place.room_type == "Shared room"
            if shared or place.room_type != _ROOMS.get(wish, place.room_type):
                return f"day {number}: {text} is a {place.room_type.lower()}, and the wish is: {wish}"
        return None

    def _transportation(self) -> str | None:
        wish = self._wishes["transportation"]
        refused = {"no flight": "Flight", "no self-driving": "Self-driving"}.get(wish)
        for number, _, text in self._filled("transportation"):
            if refused and refused in text:
                return f"day {number}: {text}, and the wish is: {wish}"
        return None


def _fault_of_sequence(cities: list[str]) -> str | None:
    """Return what is wrong with the cities of a trip in their order, the two of a day of travel one after the other."""
    if len(cities) < 3:
        return "the trip visits no city"
    visited: set[str] = set()
    place = 0
    for city, group in groupby(cities):
        length = len(list(group))
        if city in visited and 0 < place < len(cities) - 1:
            return f"{city} is visited twice"
        place += length
        if length == 1 and 0 < place - 1 < len(cities) - 1:
            return f"{city} is left at once"
        visited.add(city)
    return None

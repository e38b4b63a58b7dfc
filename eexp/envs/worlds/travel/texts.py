"""The texts of a plan: names with their cities, routes, flights and cars."""

from __future__ import annotations

import re

MEALS = ("breakfast", "lunch", "dinner")
SLOTS = ("transportation", "breakfast", "attraction", "lunch", "dinner", "accommodation")
_ROUTE = re.compile(r"from\s+(.+?)\s+to\s+([^,]+)")


def without_state(city: str) -> str:
    """Return a city without what stands in brackets after it: `Moab(Utah)` -> `Moab`."""
    opening = city.find("(")
    closed = opening >= 0 and ")" in city[opening:] and "\n" not in city[:opening]
    return city[:opening] if closed else city


def split_name(text: str) -> tuple[str, str]:
    """Return name and city of `Name, City`; the name may have commas. Two dashes where there is no city."""
    name, comma, city = text.rpartition(",")
    if not comma or not city:
        return "-", "-"
    return name.rpartition("\n")[2].strip(), without_state(city.strip()).strip()


def route(text: str) -> tuple[str, str] | None:
    """Return the two cities of `from A to B`; None where the text has no route."""
    match = _ROUTE.search(text)
    return (match[1], match[2]) if match else None


def cities_of(current_city: str) -> list[str] | None:
    """Return the cities of a day: one, or the two of `from A to B`; None for a `from` without a route."""
    if "from" not in current_city:
        return [without_state(current_city)]
    pair = route(current_city)
    return [without_state(city) for city in pair] if pair else None


def vehicle_of(transportation: str) -> str | None:
    """Return Taxi, Self-driving or Flight, whichever the text names first in this order; None for neither."""
    text = transportation.lower()
    return next((kind for kind in ("Taxi", "Self-driving", "Flight") if kind.lower() in text), None)


def dollars(amount: float) -> str:
    """Return an amount as text: `$1,608`, with cents where there are any."""
    return f"${amount:,.2f}".removesuffix(".00")


def attractions_of(text: str) -> list[str]:
    """Return the attractions of a day, each of which ends with `;`."""
    return text.split(";")[:-1]


def flight_number(text: str) -> str | None:
    """Return the number after `Flight Number: `."""
    _, mark, after = text.partition("Flight Number: ")
    return after.partition(",")[0].partition("Flight Number: ")[0] if mark else None


def car_of(text: str) -> str | None:
    """Return whether the text is about driving oneself or a taxi, in this order."""
    return next((kind for kind in ("Self-driving", "Taxi") if kind.lower() in text.lower()), None)

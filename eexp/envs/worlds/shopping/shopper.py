"""The expert of the built-in shop: a customer who knows what the pages of this episode have said, and no more.

It searches for all that is asked for, opens the product whose title promises most, reads its features and its
description until nothing that is asked for is open, chooses the options and buys. A product that lacks something is
left. It can go on from any page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eexp.envs.worlds.shopping.catalogue import Catalogue, Product, found_by
from eexp.envs.worlds.shopping.goals import SHOWN, Goal
from eexp.envs.worlds.shopping.shop_page import BACK, BUY, NEXT, PREVIOUS, ShopVisit

_READ = ("Features", "Description")  # the pages that say what a product has, in the order in which they are read


@dataclass(frozen=True)
class Shopper:
    """A customer with a goal, on a page."""

    catalogue: Catalogue
    goal: Goal
    visit: ShopVisit

    def action(self) -> str | None:
        """Return the next action; None where the shop has nothing that fits."""
        match self.visit.page:
            case "search":
                query = next((query for query in self.goal.queries if self._promises(query)), None)
                return None if query is None else f"search[{query}]"
            case "results":
                return f"click[{self._on_results()}]"
            case "item":
                return f"click[{self._on_item()}]"
            case "sub":
                return f"click[{PREVIOUS}]"
        return None

    # -- what is known -----------------------------------------------------------------------------------------------

    def confirmed(self, number: int) -> list[str]:
        """Return the attributes that are asked for and that a seen page says a product has; its title was seen."""
        product = self.catalogue.products[number]
        pages = ["title", *(name.lower() for name in _READ if (number, name) in self.visit.read)]
        return [a for a in self.goal.attributes if any(product.says(a, page) for page in pages)]

    def fault(self, number: int) -> str | None:
        """Return what is known to be wrong with a product; None if nothing is. Its title and price were seen."""
        product, goal = self.catalogue.products[number], self.goal
        if product.type.name != goal.target.type.name:
            return f"is no {goal.target.type.name}"
        if product.cents > 100 * goal.dollars:
            return f"costs more than {goal.dollars} dollars"
        if (number, "") in self.visit.read and (lacking := _lacking(goal, product)):
            return f"does not come in {lacking[0]}"
        if all((number, name) in self.visit.read for name in _READ):
            missing = [a for a in goal.attributes if a not in self.confirmed(number)]
            return f"says nowhere: {missing[0]}" if missing else None
        return None

    def _pages(self, query: str) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of each page of results of a search, and the products on it."""
        found = found_by(self.catalogue, query)
        for number, first in enumerate(range(0, len(found), SHOWN)):
            yield number, found[first : first + SHOWN]

    def _promises(self, query: str) -> bool:
        """Return whether a search may show a product that fits: one that was not seen, or that may still do."""
        return any(
            (query, number) not in self.visit.listed or any(self.fault(product) is None for product in products)
            for number, products in self._pages(query)
        )

    # -- what is done ------------------------------------------------------------------------------------------------

    def _on_results(self) -> str:
        visit = self.visit
        pages = list(self._pages(visit.query))
        here = dict(pages).get(visit.number, [])
        fitting = [number for number in here if self.fault(number) is None]
        if fitting:
            best = max(fitting, key=lambda number: len(self.confirmed(number)))
            return self.catalogue.products[best].id
        further = visit.number + 1 < len(pages) and visit.query in self.goal.queries
        return NEXT if further else BACK

    def _on_item(self) -> str:
        visit, goal = self.visit, self.goal
        if self.fault(visit.item) is not None:
            return PREVIOUS
        if len(self.confirmed(visit.item)) < len(goal.attributes):
            return next(name for name in _READ if (visit.item, name) not in visit.read)
        return next((value for name, value in goal.options if (name, value) not in visit.options), BUY)

    def explain(self) -> str | None:
        """Return what is asked for, and what is known of what is shown."""
        goal, visit = self.goal, self.visit
        wanted = f"Wanted: {goal.target.type.name}, {', '.join(goal.attributes)}, "
        wanted += f"{', '.join(value for _, value in goal.options)}, at most {goal.dollars} dollars."
        match visit.page:
            case "search":
                known = self._about_search()
            case "results":
                known = self._about_results()
            case "item" | "sub":
                known = self._about_item()
            case _:
                return None
        return f"{wanted} {known}"

    def _about_search(self) -> str:
        seen = {number for query, n in self.visit.listed for number in dict(self._pages(query)).get(n, [])}
        if not seen:
            return "Nothing has been searched for yet."
        open_ones = [number for number in seen if self.fault(number) is None]
        return f"Of {len(seen)} products seen, {len(open_ones) or 'none'} may fit."

    def _about_results(self) -> str:
        here = dict(self._pages(self.visit.query)).get(self.visit.number, [])
        fitting = [number for number in here if self.fault(number) is None]
        if not fitting:
            return "No product on this page fits."
        best = max(fitting, key=lambda number: len(self.confirmed(number)))
        product, says = self.catalogue.products[best], self.confirmed(best)
        known = f"its title says {', '.join(says)}" if says else "its pages may say more than its title"
        return f"{len(fitting)} on this page may fit; {product.id} is the most promising: {known}."

    def _about_item(self) -> str:
        visit, goal = self.visit, self.goal
        product = self.catalogue.products[visit.item]
        if (fault := self.fault(visit.item)) is not None:
            return f"{product.id} {fault}."
        says = self.confirmed(visit.item)
        rest = [a for a in goal.attributes if a not in says]
        if rest:
            unread = [name for name in _READ if (visit.item, name) not in visit.read]
            return f"{product.id} may fit. Not said so far: {', '.join(rest)}. Not read so far: {', '.join(unread)}."
        left = [value for name, value in goal.options if (name, value) not in visit.options]
        return f"{product.id} has all that is wanted. Still to choose: {', '.join(left) or 'nothing'}."


def _lacking(goal: Goal, product: Product) -> list[str]:
    """Return the values of options that are asked for and that a product does not have."""
    offered = dict(product.options)
    return [value for name, value in goal.options if value not in offered.get(name, ())]

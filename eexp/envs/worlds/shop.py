"""`shop`: a shop in WebShop's terms (Yao et al. 2022, arXiv 2207.01206), over a catalogue that is drawn from a number.

The agent searches, turns pages of results, opens products, chooses options and buys one; the reward is WebShop's
(shopping/goals.py). docs/environments/shop.md has the pages, the options, and what differs from WebShop's own server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import ClassVar

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_choice, parse_step_limit
from eexp.envs.worlds.shopping.catalogue import WORLD, catalogue_of
from eexp.envs.worlds.shopping.goals import Goal, goals_of
from eexp.envs.worlds.shopping.shop_page import TEXT_FORMS, PagePart, ShopVisit, page_of, text_of, visit_after
from eexp.envs.worlds.shopping.shopper import Shopper
from eexp.errors import InputError

HOW = "Actions: search[words] where there is a search bar, click[what is on the page]. click[Buy Now] ends the task."


class Shop(Environment):
    """A shop in WebShop's terms, in pure Python. docs/environments/shop.md lists the options."""

    spec = "shop"
    in_process = True
    light = True
    record_options: ClassVar[frozenset[str]] = frozenset({"catalogue", "text", "max_steps"})

    def __init__(self, catalogue: str = "0", text: str = "simple", max_steps: str = "30") -> None:
        name = type(self).spec
        if not re.fullmatch("[0-9]{1,9}", catalogue):
            raise option_error(name, "catalogue", catalogue, "expected a number")
        self.max_steps = parse_step_limit(name, max_steps)
        self._form = parse_choice(name, "text", text, TEXT_FORMS)
        self._catalogue = catalogue_of(int(catalogue))
        self._goals = goals_of(self._catalogue)
        self._goal: Goal | None = None
        self._visit = ShopVisit("end")

    # -- tasks -------------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(self._goals)

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        for number in range(len(self._goals[split])):
            yield {"id": f"{split}/{number}", "split": split, "world": WORLD}

    def kind_of(self, task: dict) -> str:
        """Return the department of what is to be bought, such as fashion."""
        return self._goal_of(task).target.type.department

    def _goal_of(self, task: dict) -> Goal:
        if task.get("world", WORLD) != WORLD:
            raise InputError(f"made for world {task['world']!r}, this is {WORLD!r}", "$.task.world")
        split, _, number = str(task.get("id", "")).partition("/")
        goals = self._goals.get(split, ())
        if not re.fullmatch("[0-9]{1,9}", number) or int(number) >= len(goals):
            raise InputError(f"shop has no task {task.get('id')!r}", "$.task.id")
        return goals[int(number)]

    def reset(self, task: dict) -> Observation:
        self._goal, self._visit = self._goal_of(task), ShopVisit()
        return self._show(self._visit)

    def _asked(self) -> Goal:
        assert self._goal is not None, "reset comes first"
        return self._goal

    def instruction(self) -> str:
        return f"{self._asked().instruction}.\n{HOW}"

    # -- acting ------------------------------------------------------------------------------------------------------

    def _parts(self, visit: ShopVisit) -> list[PagePart]:
        return page_of(self._catalogue, self._asked(), visit)

    def _show(self, visit: ShopVisit) -> Observation:
        """Go to a page and return it as an observation."""
        text, unknown = text_of(self._parts(visit), self._form, visit)
        self._visit = visit.seeing()
        over = visit.page == "end"
        success = visit.score == 1 if over else None
        return Observation(text, done=over, score=visit.score, success=success, unknown=unknown or None)

    def step(self, action: str) -> Observation:
        """Execute an action. One that the page does not allow changes nothing: it gets the same page, as in WebShop."""
        before = self._visit
        following = visit_after(self._catalogue, self._asked(), before, action)
        if following is None:
            return replace(self._show(before), valid=False)
        observation = self._show(following)
        if self._form == "simple" and following.page == "item" and following.options != before.options:
            return replace(observation, changed=True)  # the page does not show what is chosen
        return observation

    def admissible(self) -> list[str]:
        """Return all clicks of the page; where there is a search bar, searches for words of the instruction.

        Any other words can be searched for, too.
        """
        if self._visit.page == "search":
            return [f"search[{query}]" for query in self._asked().queries]
        return [f"click[{part.text}]" for part in self._parts(self._visit) if part.clickable]

    # -- states and the expert ---------------------------------------------------------------------------------------

    def save(self) -> tuple[Goal | None, ShopVisit]:
        return self._goal, self._visit

    def restore(self, state: tuple[Goal | None, ShopVisit]) -> None:
        self._goal, self._visit = state

    def fork(self) -> Shop:
        return copy(self)

    def expert(self) -> str | None:
        """Return what a customer would do next who knows what this episode has shown (shopping/shopper.py)."""
        return self._shopper().action()

    def explain(self) -> str | None:
        """Return what is wanted, and what the pages of this episode have said of what is shown."""
        return self._shopper().explain()

    def _shopper(self) -> Shopper:
        return Shopper(self._catalogue, self._asked(), self._visit)

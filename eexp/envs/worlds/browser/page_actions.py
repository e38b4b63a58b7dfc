"""Actions on a page, through the browser as a user's are."""

from __future__ import annotations

import json

from eexp.envs.worlds.browser.chromium import Page
from eexp.envs.worlds.browser.lines import KEYS, SELECT_ALL, PageAction, Refused, keys_of


def use(page: Page, action: PageAction) -> None:
    """Take an action on a page, which has page.js. Raises Refused if the page does not allow it."""
    match action.verb:
        case "click":
            page.click(**_point(page, action))
        case "hover":
            page.move_mouse(**_point(page, action))
        case "type":
            _type(page, action)
        case "select":
            assert action.line is not None
            page.evaluate_isolated(f"eexpPage.choose({action.line.id}, {action.option})")
        case "key":
            page.press(KEYS[action.text])


def _point(page: Page, action: PageAction) -> dict[str, float]:
    assert action.line is not None  # `parse` has looked it up
    point = page.evaluate_isolated(f"eexpPage.locate({action.line.id})")
    if point is None:
        raise Refused(f"[{action.line.id}] cannot be reached: something covers it.")
    return point


def _type(page: Page, action: PageAction) -> None:
    assert action.line is not None
    if action.line.fills:
        if not page.evaluate_isolated(f"eexpPage.fill({action.line.id}, {json.dumps(action.text)})"):
            raise Refused(f"[{action.line.id}] does not take {action.text!r}.")
        return
    page.click(**_point(page, action))
    erase = [] if action.text else [KEYS["BACKSPACE"]]
    page.press(SELECT_ALL, *erase, *keys_of(action.text))

"""Pages of the built-in shop, their text in both forms of WebShop's text mode, and where actions lead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from eexp.envs.worlds.shopping.catalogue import Catalogue, Options, Product, found_by
from eexp.envs.worlds.shopping.goals import SHOWN, Goal
from eexp.envs.worlds.shopping.purchases import reward_of
from eexp.envs.worlds.shopping.ranking import words_of

SEARCH, BACK, PREVIOUS, NEXT, BUY = "Search", "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
TEXT_FORMS = ("simple", "rich")
_ACTION = re.compile(r"(search|click)\s*\[(.*)\]", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class ShopVisit:
    """Where a customer is, and what the customer has seen: the whole state of an episode."""

    page: Literal["search", "results", "item", "sub", "end"] = "search"
    query: str = ""  # of the results
    number: int = 0  # of the page of results, from 0
    item: int = -1  # the number of the product
    sub_page: str = ""  # of the product
    options: Options = ()  # that are chosen, in the order of the product
    listed: frozenset[tuple[str, int]] = frozenset()  # pages of results that were seen: query and number
    read: frozenset[tuple[int, str]] = frozenset()  # pages of products that were seen: product, and "" or its sub-page
    score: float = 0.0

    def seeing(self) -> ShopVisit:
        """Return the visit with this page among those that were seen."""
        if self.page == "results":
            return replace(self, listed=self.listed | {(self.query, self.number)})
        if self.page in ("item", "sub"):
            return replace(self, read=self.read | {(self.item, self.sub_page)})
        return self


@dataclass(frozen=True)
class PagePart:
    """A text on a page."""

    text: str
    kind: Literal["text", "button", "option", "chosen", "product"] = "text"
    unknown: bool = False  # whether nothing before in the episode says it

    @property
    def clickable(self) -> bool:
        return self.kind != "text"


def page_of(catalogue: Catalogue, goal: Goal, visit: ShopVisit) -> list[PagePart]:
    """Return the parts of a page; what was not seen before this visit of it is unknown."""
    if visit.page == "end":
        score = PagePart(f"{visit.score:g}", unknown=True)
        return [PagePart("Thank you for shopping with us!"), PagePart("Your score (min 0.0, max 1.0)"), score]
    head = [PagePart("Instruction:"), PagePart(goal.instruction)]
    if visit.page == "search":
        return [PagePart("WebShop"), *head, PagePart(SEARCH, "button")]
    head.append(PagePart(BACK, "button"))
    if visit.page == "results":
        return head + _results(catalogue, visit)
    head.append(PagePart(PREVIOUS, "button"))
    product = catalogue.products[visit.item]
    new = (visit.item, visit.sub_page) not in visit.read
    if visit.page == "item":
        return head + _item(product, visit, new)
    return head + [PagePart(text, unknown=new) for text in _sub_page(product, visit.sub_page)]


def _results(catalogue: Catalogue, visit: ShopVisit) -> list[PagePart]:
    found = found_by(catalogue, visit.query)
    first, new = SHOWN * visit.number, (visit.query, visit.number) not in visit.listed
    parts = [PagePart(f"Page {visit.number + 1} (Total results: {len(found)})", unknown=new)]
    parts += [PagePart(PREVIOUS, "button")] if visit.number else []
    parts += [PagePart(NEXT, "button")] if first + SHOWN < len(found) else []
    for product in (catalogue.products[number] for number in found[first : first + SHOWN]):
        parts.append(PagePart(product.id, "product", new))
        parts += [PagePart(text, unknown=new) for text in (product.title, product.price)]
    return parts


def _item(product: Product, visit: ShopVisit, new: bool) -> list[PagePart]:
    parts: list[PagePart] = []
    for name, values in product.options:
        parts.append(PagePart(name, unknown=new))
        parts += [PagePart(v, "chosen" if (name, v) in visit.options else "option", new) for v in values]
    texts = (product.title, f"Price: {product.price}", f"Rating: {product.rating}")
    parts += [PagePart(text, unknown=new) for text in texts]
    return [*parts, *(PagePart(name, "button") for name in (*SUB_PAGES, BUY))]


def _sub_page(product: Product, name: str) -> Iterable[str]:
    if name == "Description":
        return [product.description]
    if name == "Features":
        return product.features
    return [text for title, stars, body in product.reviews for text in (f'"{title}"', str(stars), body)]


def text_of(parts: list[PagePart], form: str, visit: ShopVisit) -> tuple[str, list[tuple[int, int]]]:
    """Return a page as text, and where its unknown parts are."""
    rich = form == "rich"
    text, unknown = "", []
    if rich and visit.page == "item":
        text = "".join(f"You have clicked {value}.\n" for _, value in reversed(visit.options))
    for n, part in enumerate(parts):
        before, after = _marks(part, visit) if rich else ("", "")
        text += ("\n" if rich else " [SEP] ") * (n > 0) + before
        if part.unknown:
            unknown.append((len(text), len(text) + len(part.text)))
        text += part.text + after
    return text, unknown


def _marks(part: PagePart, visit: ShopVisit) -> tuple[str, str]:
    """Return what stands around a part in the rich form."""
    match part.kind:
        case "text":
            return "", ""
        case "chosen":
            return "  [clicked button] ", " [clicked button_]"
        case "option":
            return "  [button] ", " [button_]"
        case "product":
            return "\n[button] ", " [button_]"
    return "[button] ", " [button_]"


# -- where actions lead ----------------------------------------------------------------------------------------------


def visit_after(catalogue: Catalogue, goal: Goal, visit: ShopVisit, action: str) -> ShopVisit | None:
    """Return where an action leads; None for one that the page does not allow."""
    match = _ACTION.fullmatch(action.strip())
    if match is None or visit.page == "end":
        return None
    verb, words = match[1].lower(), match[2].strip()
    if verb == "click":
        return _clicked(catalogue, goal, visit, words.casefold())
    if visit.page != "search" or not words_of(words):
        return None
    return replace(visit, page="results", query=words.lower(), number=0)


def _clicked(catalogue: Catalogue, goal: Goal, visit: ShopVisit, name: str) -> ShopVisit | None:
    """Return where a click leads; None if the page has nothing of this name, which is in lower case."""
    parts = page_of(catalogue, goal, visit)
    part = next((part for part in parts if part.clickable and part.text.casefold() == name), None)
    if part is None or part.text == SEARCH:
        return None
    if part.kind == "product":
        return replace(visit, page="item", item=catalogue.by_id[name])
    if part.kind in ("option", "chosen"):
        return replace(visit, options=_chosen(catalogue.products[visit.item], visit.options, part.text))
    if part.text == BUY:
        return replace(visit, page="end", score=reward_of(goal, catalogue.products[visit.item], visit.options))
    if part.text in SUB_PAGES:
        return replace(visit, page="sub", sub_page=part.text)
    if part.text == PREVIOUS and visit.page == "sub":
        return replace(visit, page="item", sub_page="")
    elsewhere = replace(visit, item=-1, sub_page="", options=())
    if part.text == BACK:
        return replace(elsewhere, page="search", query="", number=0)
    turned = 0 if visit.page == "item" else 1 if part.text == NEXT else -1
    return replace(elsewhere, page="results", number=visit.number + turned)


def _chosen(product: Product, options: Options, value: str) -> Options:
    """Return the chosen options with a value in place of the one of its option."""
    chosen = dict(options) | {name: value for name, values in product.options if value in values}
    return tuple((name, chosen[name]) for name, _ in product.options if name in chosen)

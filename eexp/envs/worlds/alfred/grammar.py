"""Texts from the grammar of a game, as `textworld.envs.pddl.textgen` derives them.

That package parses a text anew each time it is derived, and copies every name and object for every symbol in it, which
is nearly all that a step of ALFWorld costs. Here its parser is asked once for each text, and a derivation copies
nothing. A grammar has the same meaning in both:

    text                as it is
    #rule#              the first alternative of the rule whose condition holds
    {expression}        the value of a Python expression, in which the objects at hand have names
    {... | condition}   one part for every way to fulfil the condition, with the names that fulfil it
    [{... | condition}] the same as a list: `a, b, and c`, by the grammar's own rules for lists
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from textworld.envs.pddl import textgen
from textworld.logic import Placeholder, Variable

Assignment = dict[Placeholder, Variable]


class Facts(Protocol):
    """What a text can ask of the state of a game."""

    @property
    def facts(self) -> Iterable[Any]: ...

    def assignments(self, condition: str, mapping: Mapping[Placeholder, Variable]) -> list[Assignment]:
        """Return every way to fulfil a condition that extends `mapping`."""
        ...


@dataclass(frozen=True)
class Scope:
    """What a text is about."""

    state: Facts
    entities: Mapping[str, Any]  # the descriptions of all objects, by their ids
    mapping: Assignment  # the objects at hand, by the placeholders of the action and of the conditions
    variables: dict[str, Any]  # their descriptions, by the names that expressions use

    def extended(self, assignment: Assignment) -> Scope:
        """Return the scope with the objects of an assignment at hand."""
        return replace(self, mapping=self.mapping | assignment, variables=self.variables | self._described(assignment))

    def with_objects(self, mapping: Assignment) -> Scope:
        """Return the scope with these objects at hand and no others."""
        return replace(self, mapping=mapping, variables=self._described(mapping))

    def _described(self, assignment: Assignment) -> dict[str, Any]:
        return {placeholder.name: self.entities[variable.name] for placeholder, variable in assignment.items()}


Derive = Callable[[Scope], str]  # a symbol of the grammar as a function from the objects at hand to its text
DeriveParts = Callable[[Scope], list[str]]  # a symbol that stands for several parts, as a function to the parts


@lru_cache(maxsize=1000)
def parse(text: str) -> list[Any]:
    """Return the symbols of a text of a grammar, by the package's parser; not to be changed."""
    return textgen._parse_and_convert(text, rule_name="symbols")


class Grammar:
    """The grammar of a game: the alternatives of each rule, by its name, as the package's parser returns them."""

    def __init__(self, rules: Mapping[str, list[Any]]):
        self._rules = rules
        self._alternatives: dict[str, list[tuple[str, Derive]]] = {}
        self._texts: dict[str, Derive] = {}

    def derive(self, text: str, scope: Scope) -> str:
        """Return what a text of the grammar, such as `#intro#` or `open {r}`, becomes in a scope."""
        if text not in self._texts:
            self._texts[text] = self._joined(parse(text))
        return self._texts[text](scope)

    def _joined(self, symbols: list[Any]) -> Derive:
        parts = [self._compiled(symbol) for symbol in symbols]
        return parts[0] if len(parts) == 1 else lambda scope: "".join([part(scope) for part in parts])

    def _compiled(self, symbol: Any) -> Derive:
        match symbol:
            case textgen.TerminalSymbol():
                text = str(symbol)
                return lambda scope: text
            case textgen.NonterminalSymbol():
                name = str(symbol)
                return lambda scope: self._apply(name, scope)
            case textgen.EvalSymbol():
                return _evaluated(symbol.expression)
            case textgen.ListSymbol():
                return self._listed(self._parts(symbol.symbol))
            case textgen.ConditionalSymbol():
                parts = self._parts(symbol)
                return lambda scope: "".join(parts(scope))
        raise NotImplementedError(f"a symbol of an unknown kind in a game's grammar: {symbol!r}")

    def _parts(self, symbol: Any) -> DeriveParts:
        """Return a function that derives a part for every way to fulfil the condition of a conditional symbol."""
        part, condition = self._compiled(symbol.expression), symbol.given
        if not condition:
            return lambda scope: [part(scope)]
        return lambda scope: [part(scope.extended(a)) for a in scope.state.assignments(condition, scope.mapping)]

    def _listed(self, parts: DeriveParts) -> Derive:
        def derive(scope: Scope) -> str:
            texts = parts(scope)
            if not texts:
                return self._apply("list_empty", scope)
            if len(texts) == 1:
                return texts[0]
            separator = self._apply("list_separator", scope) if len(texts) > 2 else ""
            return separator.join(texts[:-1]) + self._apply("list_last_separator", scope) + texts[-1]

        return derive

    def _apply(self, name: str, scope: Scope) -> str:
        """Return the text of a rule: that of its first alternative whose condition holds."""
        if name not in self._alternatives:
            if name not in self._rules:
                raise textgen.CSGUnknownSymbolError(name)  # pyright: ignore[reportArgumentType]
            rules = self._rules[name]
            self._alternatives[name] = [(rule.condition or "", self._joined(rule.rhs)) for rule in rules]
        for condition, derive in self._alternatives[name]:
            if not condition or scope.state.assignments(condition, scope.mapping):
                return derive(scope)
        raise IndexError(f"no alternative of the rule {name!r} holds")


def _evaluated(expression: str) -> Derive:
    """Return a function that evaluates a Python expression with the objects at hand, as the package does."""
    code = compile(expression.strip(" \t"), "<grammar of the game>", "eval")
    if "context" not in code.co_names:
        return lambda scope: str(eval(code, textgen.__dict__, scope.variables))

    def derive(scope: Scope) -> str:
        context = {
            "state": scope.state,
            "facts": list(scope.state.facts),
            "variables": scope.variables,
            "mapping": scope.mapping,
            "entity_infos": scope.entities,
        }
        return str(eval(code, textgen.__dict__, scope.variables | {"context": context}))

    return derive

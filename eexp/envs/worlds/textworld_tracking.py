"""Games of TextWorld as the package plays them, with what follows from the facts derived only where it is asked for.

After every action the package derives all actions that are possible, the progress of every quest and a policy that
wins. `TrackedGame` takes the place of its wrappers. It keeps the facts after an action as a `TrackedSituation`, which
derives its lists when they are first asked for and never changes otherwise, so that copies of a game share it.

The possible actions and their order are those of the package, found with fewer comparisons: facts are sorted and
indexed once, until an action changes facts of their signature. Quests and policies are the package's own.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple

from textworld.core import EnvInfos, GameState, Wrapper
from textworld.envs.wrappers.tw_inform7 import Inform7Data, _detect_i7_events_debug_tags
from textworld.envs.zmachine.jericho import JerichoEnv
from textworld.generator.game import EventProgression, Game, GameProgression, QuestProgression
from textworld.generator.inform7 import Inform7Game
from textworld.logic import Action, Placeholder, Proposition, Rule, Signature, State, Variable

#: More actions than this are not kept for a later look at the quests: each keeps its facts, of some 20 kB.
_MOST_PENDING = 100

_Mapping = dict[Placeholder, Variable]
_Sorted = dict[Variable | None, list[Proposition]]


class _Condition(NamedTuple):
    """A precondition of a rule."""

    parameters: tuple[Placeholder, ...]
    signatures: list[Signature]  # those of facts that may fulfil it, in the package's order
    position: int | None  # which of the parameters is known from the conditions before; None if none is


class Rules:
    """What the situations of a game have in common."""

    def __init__(self, game: Game):
        self.game, self.texts = game, Inform7Game(game)
        self.constants: _Mapping = game.kb.types.constants_mapping
        self.conditions = [(rule, self._conditions(rule)) for rule in game.kb.rules.values()]

    def _conditions(self, rule: Rule) -> list[_Condition] | None:
        """Return the preconditions of a rule; None if one of its placeholders is in none of them."""
        types = self.game.world.state._logic.types
        known, conditions = set(self.constants), []
        for predicate in rule.preconditions:
            subtypes = types.multi_subtypes([types.get(name) for name in predicate.signature.types])
            signatures = [Signature(predicate.name, [kind.name for kind in kinds]) for kinds in subtypes]
            positions = [i for i, placeholder in enumerate(predicate.parameters) if placeholder in known]
            conditions.append(_Condition(predicate.parameters, signatures, positions[0] if positions else None))
            known.update(predicate.parameters)
        return conditions if known.issuperset(rule.placeholders) else None


class TrackedFacts(State):
    """A copy of facts, or the facts after an action, which nothing changes from then on."""

    def __init__(self, before: State, action: Action | None = None):
        super().__init__(before._logic)
        self.__dict__.update(vars(before.copy()))
        if action:
            self.apply(action)

    @cached_property
    def _all(self) -> frozenset[Proposition]:
        return frozenset(self.facts)

    def is_sequence_applicable(self, actions: Iterable[Action]) -> bool:
        """Check if actions are possible one after the other, as the package does, which gathers all facts each time."""
        facts = set(self._all)
        for action in actions:
            if len(facts.intersection(action.preconditions)) != len(action.preconditions):
                return False
            facts.difference_update(action.preconditions)
            facts.update(action.postconditions)
        return True


class _Quests(GameProgression):
    """The package's tracking of the quests, without its tracking of facts and actions."""

    def __init__(self, game: Game, state: State):
        self.game = game
        self.quest_progressions = [QuestProgression(quest, game.kb) for quest in game.quests]
        self.follow(None, state)

    def follow(self, action: Action | None, state: State) -> None:
        for quest in self.quest_progressions:
            quest.update(action, state)

    def copy(self) -> _Quests:
        """Return a copy. The package's own takes 100 ms: it builds the quests anew."""
        other = copy(self)
        other.quest_progressions = [_copied_quest(quest) for quest in self.quest_progressions]
        return other


class TrackedSituation:
    """The facts of a game after some actions, with what follows from them; `before` is that before the last action."""

    def __init__(
        self, rules: Rules, state: TrackedFacts, before: TrackedSituation | None = None, action: Action | None = None
    ):
        self._rules, self._state, self._before, self._action = rules, state, before, action
        self._sorted: dict[tuple[Signature, int | None], _Sorted] = {}
        self._tracked: _Quests | None = None
        self._pending = before._pending + 1 if before else 0

    def after(self, action: Action) -> TrackedSituation:
        """Return the situation after an action that is possible in this one."""
        changed = {fact.signature for fact in (*action.added, *action.removed)}
        state = TrackedFacts(self._state, action) if changed else self._state
        other = TrackedSituation(self._rules, state, self, action)
        if changed:
            other._sorted = {key: facts for key, facts in self._sorted.items() if key[0] not in changed}
        else:
            other.__dict__ |= {name: self.__dict__[name] for name in ("actions", "commands") if name in self.__dict__}
            other._sorted = self._sorted
        if other._pending > _MOST_PENDING:
            other._quests()
        return other

    @cached_property
    def actions(self) -> list[Action]:
        """All possible actions, in the package's order."""
        rules = self._rules
        return [
            action
            for rule, conditions in rules.conditions
            for action in (
                self._state.all_instantiations(rule, rules.constants)
                if conditions is None
                else map(rule.instantiate, self._mappings(conditions, rules.constants))
            )
        ]

    @cached_property
    def commands(self) -> list[str]:
        """The commands of all possible actions, sorted."""
        return sorted(set(self._rules.texts.gen_commands_from_actions(self.actions)))

    @cached_property
    def policy(self) -> list[str]:
        """The commands that win from here, by the package's tracking of the quests; empty if it knows none."""
        return self._rules.texts.gen_commands_from_actions(self._quests().winning_policy or ())

    def detected(self, event: str) -> Action | None:
        """Return the action that the game reports in its trace; None if it is not one of the possible actions."""
        return self._rules.texts.detect_action(event, self.actions)

    # -- facts -------------------------------------------------------------------------------------------------------

    def _mappings(self, conditions: list[_Condition], mapping: _Mapping, depth: int = 0) -> Iterator[_Mapping]:
        """Yield every way to fulfil the conditions from `depth` on; no two placeholders stand for the same thing."""
        if depth == len(conditions):
            yield mapping
            return
        for fact in self._candidates(conditions[depth], mapping):
            extended = mapping.copy()
            for placeholder, variable in zip(conditions[depth].parameters, fact.arguments):
                known = extended.get(placeholder)
                if known is None and variable not in extended.values():
                    extended[placeholder] = variable
                elif known != variable:
                    break
            else:
                yield from self._mappings(conditions, extended, depth + 1)

    def _candidates(self, condition: _Condition, mapping: _Mapping) -> Iterator[Proposition]:
        """Yield the facts that a condition may be about, sorted within a signature."""
        position = condition.position
        variable = None if position is None else mapping[condition.parameters[position]]
        for signature in condition.signatures:
            facts = self._sorted.get((signature, position))
            if facts is None:
                facts = self._sorted[signature, position] = self._indexed(signature, position)
            yield from facts.get(variable, ())

    def _indexed(self, signature: Signature, position: int | None) -> _Sorted:
        """Return the facts of a signature, sorted, by their argument at a position."""
        indexed = defaultdict(list)
        for fact in sorted(self._state.facts_with_signature(signature)):
            indexed[None if position is None else fact.arguments[position]].append(fact)
        return dict(indexed)

    # -- quests ------------------------------------------------------------------------------------------------------

    def _quests(self) -> _Quests:
        """Return the quests, brought up to date.

        They are kept for the situation before, too, from which copies of the game may have gone on in other ways.
        """
        if self._tracked is None:
            if self._before is None:
                self._tracked = _Quests(self._rules.game, self._state)
            else:
                self._tracked = self._before._caught_up().copy()
                self._tracked.follow(self._action, self._state)
                self._before, self._pending = None, 0
        return self._tracked

    def _caught_up(self) -> _Quests:
        """Return the quests, brought up to date in one go, with one copy of them for any number of actions."""
        behind: list[TrackedSituation] = [self]
        while behind[-1]._tracked is None and behind[-1]._before is not None:
            behind.append(behind[-1]._before)
        quests = behind.pop()._quests()
        if behind:
            quests = quests.copy()
            for situation in reversed(behind):
                quests.follow(situation._action, situation._state)
            self._tracked, self._before, self._pending = quests, None, 0
        return quests


class TrackedGame(Wrapper):
    """The package's environment for a game that it generated.

    Its states hold what the game says, whether it was won or lost, and the score. The rest is in `situation`.

    Args:
        rules: Those of the game where it is loaded already; they need not be read again.
    """

    situation: TrackedSituation

    def __init__(self, path: str, rules: Rules | None = None):
        super().__init__(Inform7Data(JerichoEnv(EnvInfos())))
        self._wrapped_env.load(path)
        self.seed(1)  # by default the interpreter takes the time as its seed
        self.rules = rules or Rules(Game.load(f"{os.path.splitext(path)[0]}.json"))
        self._beginning = TrackedSituation(self.rules, TrackedFacts(self.rules.game.world.state))

    def reset(self) -> GameState:
        self.state = self._wrapped_env.reset()
        self.unwrapped._send("tw-trace-actions")  # which reports every action in brackets
        self.situation = self._beginning
        return self._ended()

    def step(self, command: str) -> GameState:
        self.state = self._wrapped_env.step(command)[0]
        events, self.state["feedback"] = _detect_i7_events_debug_tags(self.state["feedback"])
        for event in events:
            action = self.situation.detected(event)
            if action is not None:
                self.situation = self.situation.after(action)
        return self._ended()

    def _ended(self) -> GameState:
        self.state["won"] = "*** The End ***" in self.state["feedback"]
        self.state["lost"] = "*** You lost! ***" in self.state["feedback"]
        return self.state


def _copied_quest(quest: QuestProgression) -> QuestProgression:
    other = copy(quest)
    other.win_events = [_copied_event(event) for event in quest.win_events]
    other.fail_events = [_copied_event(event) for event in quest.fail_events]
    return other


def _copied_event(event: EventProgression) -> EventProgression:
    other: Any = copy(event)
    other._tree = event._tree.copy()
    return other

"""A game of ALFWorld in play, with the packages' own planner, logic and grammar.

`Game` replaces textworld's PddlEnv and says the same, byte for byte (tests/envs/test_alfred.py plays both). What costs
time there is done once here: the text of a command is derived once and not at every step (grammar.py), a game is
translated for the planner once and not at every load and reset, and the translation for finding plans is made only
where plans are asked for.

A state of the game is saved and restored although the planner's library has one state only and cannot copy it: it is
set to the beginning of the game again, and given the numbers of the actions since, which takes microseconds for each.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import fast_downward
import fast_downward.translate.pddl as translated
from textworld.core import GameState
from textworld.envs import PddlEnv
from textworld.envs.pddl import logic as pddl
from textworld.envs.pddl import textgen
from textworld.logic import Placeholder, Proposition, Rule, Type, Variable

from eexp.envs.worlds.alfred.grammar import Assignment, Grammar, Scope

#: The sentence of the task, in which the grammars of the games differ.
_TASK = re.compile(r'(?<="rhs": )"Your task is to: [^"\\\n]*"')
_NO_TASK = '"Your task is to: ."'


class Translation(NamedTuple):
    """A game as the planner reads it."""

    task: Any  # its objects, actions and facts at the beginning
    sas: str  # the task in the planner's format
    sas_replan: str | None  # the same, optimised for finding plans; None where none will be asked for


def translate(domain: str, problem: str, plans: bool) -> Translation:
    """Translate a game for the planner; with `plans` also for finding plans."""
    task, sas = fast_downward.pddl2sas(domain, problem)
    return Translation(task, sas, fast_downward.pddl2sas(domain, problem, optimize=True)[1] if plans else None)


class Operator(NamedTuple):
    """An action of the planner with its objects, and the grammar's texts of the command and of the answer."""

    name: str  # such as `openobject agent1 loc_1 drawer_1`
    mapping: Assignment  # the objects, by the placeholders of the texts
    command: str
    feedback: str


class _Chosen(NamedTuple):
    """What `PddlState.apply` needs to know of an action: the planner's number of it."""

    id: int


class AlfredState(pddl.PddlState):
    """The state of a game at its beginning, and after every action that is applied to it.

    `library` is the planner, a library with one state in it, which is set to the beginning of the game.
    """

    def __init__(self, library: Any, translation: Translation, logic: pddl.GameLogic):
        self.downward_lib, self._logic = library, logic
        self._facts: dict[Any, set] = defaultdict(set)
        self._vars_by_name: dict[str, Variable] = {}
        self._vars_by_type: dict[str, set] = defaultdict(set)
        self._var_counts: Counter = Counter()
        self._translation = translation
        self._applied: list[tuple[int, int]] = []  # (the planner's number, how many facts it changes) of every action
        task = translation.task
        self._actions = {action.name: action for action in task.actions}
        self.name2type = {thing.name: thing.type_name for thing in task.objects}
        self._clock = count(1)
        self._changes: dict[str, int] = {}  # when a fact last changed, by the name of its predicate
        self._answers: dict[tuple, tuple[list[int], list[Assignment]]] = {}
        self._known: dict[int, Operator] = {}
        for kind in task.types:
            with suppress(ValueError):  # known already: games share their rules
                logic.types.add(Type(kind.name, kind.supertype_names))
        self._begin()
        self.add_facts(filter(None, map(self._initial_fact, task.init)))
        atoms = (pddl.Atom * library.get_state_size())()
        library.get_state(atoms)
        facts = [atom.get_fact(self.name2type) for atom in atoms]
        self.add_facts(fact for fact in facts if not fact.is_negation)

    def _initial_fact(self, item: Any) -> Proposition | None:
        """Return a line of the game's beginning as a fact; None for equalities, costs and distances."""
        if isinstance(item, translated.conditions.Atom):
            name, arguments = item.predicate, item.args
            if name == "=":
                return None
        elif isinstance(item, translated.f_expression.Assign):
            name, arguments = str(item.expression.value), item.fluent.args
            if item.fluent.symbol == "total-cost" or name.isdigit():
                return None
        else:
            return None
        return Proposition(name, [Variable(argument, self.name2type[argument]) for argument in arguments])

    # -- facts -------------------------------------------------------------------------------------------------------

    def add_fact(self, prop: Proposition) -> None:
        super().add_fact(prop)
        self._changes[prop.name] = next(self._clock)

    def remove_fact(self, prop: Proposition) -> None:
        super().remove_fact(prop)
        self._changes[prop.name] = next(self._clock)

    def assignments(self, condition: str, mapping: Mapping[Placeholder, Variable]) -> list[Assignment]:
        """Return every way to fulfil a condition that extends `mapping`, in the package's order.

        An answer is kept until a fact changes that the condition is about.
        """
        rule, names = _rule(condition)
        key = condition, *mapping.items()
        changes = [self._changes.get(name, 0) for name in names]
        answer = self._answers.get(key)
        if answer is None or answer[0] != changes:
            answer = self._answers[key] = changes, cast("list[Assignment]", list(self.all_assignments(rule, mapping)))
        return answer[1]

    # -- actions -----------------------------------------------------------------------------------------------------

    def applicable(self) -> list[tuple[int, Operator]]:
        """Return all actions that can be taken now, with the planner's numbers of them, in its order."""
        listed = (fast_downward.Operator * self.downward_lib.get_applicable_operators_count())()
        self.downward_lib.get_applicable_operators(listed)
        self._operators = {operator.id: operator for operator in listed}
        by_name: dict[str, tuple[int, Operator]] = {}
        for number, operator in self._operators.items():
            if number not in self._known:
                self._known[number] = self._described(operator.name)
            by_name.setdefault(self._known[number].name, (number, self._known[number]))
        return list(by_name.values())

    def take(self, number: int) -> None:
        """Apply an action that is applicable now, by the planner's number of it."""
        self._applied.append((number, self._operators[number].nb_effect_atoms))
        self.apply(_Chosen(number))  # pyright: ignore[reportArgumentType]

    # -- copies ------------------------------------------------------------------------------------------------------

    def copy(self) -> AlfredState:
        """Return a copy, which the planner knows nothing of until `enter`.

        Copies share the clock, so that a time stands for one set of facts in all of them, and with it what was found.
        """
        other = copy(self)
        other._applied, other._changes = self._applied.copy(), self._changes.copy()
        other._facts = defaultdict(set, {signature: facts.copy() for signature, facts in self._facts.items()})
        other._vars_by_name, other._var_counts = self._vars_by_name.copy(), self._var_counts.copy()
        other._vars_by_type = defaultdict(set, {kind: things.copy() for kind, things in self._vars_by_type.items()})
        return other

    def _begin(self) -> None:
        """Bring the planner to the beginning of the game."""
        self.downward_lib.load_sas(self._translation.sas.encode())
        if self._translation.sas_replan is not None:
            self.downward_lib.load_sas_replan(self._translation.sas_replan.encode())

    def enter(self) -> None:
        """Bring the planner into this state."""
        self._begin()
        for number, n_effects in self._applied:
            self.downward_lib.apply_operator(number, (pddl.Atom * n_effects)())

    def _described(self, name: str) -> Operator:
        action, *arguments = name.split()
        mapping = {
            Placeholder(parameter.name.strip("?"), parameter.type_name): Variable(argument, parameter.type_name)
            for parameter, argument in zip(self._actions[action].parameters, arguments)
        }
        texts = self._logic.actions[action]
        return Operator(name, mapping, texts.template, texts.feedback_rule)


@lru_cache(maxsize=1000)
def _rule(condition: str) -> tuple[Rule, tuple[str, ...]]:
    """Return a condition as a rule, and the names of the predicates that it is about."""
    rule = Rule.parse_conjunctive_query(condition)
    return rule, tuple({predicate.name for predicate in rule.preconditions})


class Game(PddlEnv):
    """A game of ALFWorld: `load` a file, `reset`, and `step` as often as one likes.

    Only what eexp reads of a state is in it: `feedback`, `won`, `admissible_commands` and the facts. `plans` says
    whether `plan` will be asked for.
    """

    def __init__(self, plans: bool):
        super().__init__()
        self._plans = plans
        self._logics: dict[tuple[str, str], pddl.GameLogic] = {}

    def load(self, filename_or_data: str) -> None:
        data = json.loads(Path(filename_or_data).read_bytes())
        self._logic, self._grammar = self._read_grammar(data["pddl_domain"], data["grammar"])
        self._translation = translate(data["pddl_domain"], data["pddl_problem"], self._plans)
        self._pddl_state = AlfredState(self.downward_lib, self._translation, self._logic)
        self._entity_infos = self._get_entity_infos()

    def _read_grammar(self, domain: str, text: str) -> tuple[pddl.GameLogic, Grammar]:
        """Return the rules of a game and its grammar.

        Most games have the same, apart from the sentence of the task, and parsing takes longer than a whole episode.
        """
        tasks = _TASK.findall(text)
        common = _TASK.sub(_NO_TASK, text) if len(tasks) == 1 else text
        if (domain, common) not in self._logics:
            self._logics[domain, common] = pddl.GameLogic(domain, common)
        logic = self._logics[domain, common]
        rules = dict(logic.grammar._rules)
        if common != text:
            own = textgen.ContextSensitiveGrammar.parse(json.dumps({"task": [{"rhs": json.loads(tasks[0])}]}))
            rules |= own._rules
        return logic, Grammar(rules)

    def reset(self) -> GameState:
        self._pddl_state = AlfredState(self.downward_lib, self._translation, self._logic)
        self._scope = Scope(self._pddl_state, self._entity_infos, {}, {})
        return self._look(self._grammar.derive("#intro#", self._scope))

    def step(self, command: str) -> tuple[GameState, int, bool]:
        choice = self._choices.get(command.strip())
        if choice is None:
            state = self._look("Nothing happens.")
        else:
            number, operator = choice
            self._pddl_state.take(number)
            scope = self._scope.with_objects(operator.mapping)
            state = self._look(self._grammar.derive(operator.feedback, scope))
        return state, int(state["won"]), state["won"]

    def save(self) -> dict[str, Any]:
        """Return the state of the game for `restore`."""
        return {**vars(self), "_pddl_state": self._pddl_state.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state that was saved, any number of times, be it of this game or of another one."""
        self.__dict__.update(state)
        self._pddl_state = state["_pddl_state"].copy()
        self._pddl_state.enter()
        self._scope = Scope(self._pddl_state, self._entity_infos, {}, {})

    def plan(self) -> list[str]:
        """Return the shortest way to win from here that the planner finds, as commands; empty if it finds none."""
        return self._pddl_state.replan(self._entity_infos)

    def readable_facts(self, state: GameState) -> list[Proposition]:
        """Return the facts of a state with the names that commands use, sorted."""
        return sorted(map(self._get_human_readable_fact, state["_facts"]), key=str)

    def _look(self, feedback: str) -> GameState:
        state = GameState()
        state.feedback = feedback
        state["won"] = self._pddl_state.check_goal()
        state["_facts"] = list(self._pddl_state.facts)
        self._choices: dict[str, tuple[int, Operator]] = {}
        for number, operator in self._pddl_state.applicable():  # of two with the same command the first is taken
            self._choices.setdefault(self._command(operator), (number, operator))
        state["admissible_commands"] = sorted(self._choices)
        return state

    def _command(self, operator: Operator) -> str:
        text = self._grammar.derive(operator.command, self._scope.with_objects(operator.mapping))
        if "{" in text or "}" in text:
            return text.format(**{id: entity.name for id, entity in self._entity_infos.items()})
        return text

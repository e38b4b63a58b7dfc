"""`bfcl`: the multi-turn tasks of the Berkeley Function-Calling Leaderboard (Patil et al. 2025), version 4 of its data.

docs/environments/bfcl.md has the splits, the actions and the option `tools`. This module calls the package's API
classes itself, with one set of objects for each episode: the package's own executor keeps them in module globals and
evaluates the text that the model wrote. The judgement is the package's: its `state_checker` and `response_checker`, at
the end of every turn. All its state is in this process, with one thread: a fork is an exact copy, too.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Collection, Iterator
from copy import copy, deepcopy
from functools import cache
from importlib import import_module
from importlib.resources import files
from inspect import ismethod, signature
from itertools import chain
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import parse_choice
from eexp.errors import EexpError, InputError
from eexp.prompts.calls import Call, format_call, parse_call, parse_done
from eexp.records.equality import EXACT
from eexp.system.packages import installed_by

#: With its dependencies the package brings gigabytes, another numpy among them. These tasks need none of them.
INSTALL = "bfcl needs `pip install --no-deps bfcl-eval==2026.3.23 mpmath`"

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
SCENARIOS = 200
TESTED = 4  # one of so many scenarios is for testing; scenarios with the same beginning are all on one side

#: Functions whose time and memory grow with one argument, and the position of that argument.
_COSTLY = {"power": 1, "logarithm": 2, "square_root": 1}
_COSTLY_LIMIT = 10_000
_HOW = (
    "Do what the user asks for by calling functions, one in every step and with literal arguments, such as "
    "name(number=1, text='a'). When you have done all you can for the user's last message, answer: done"
)
_HOW_BY_TOOLS = (
    "Do what the user asks for by calling functions, one in every step. When you have done all you can for the user's "
    "last message, answer: done"
)


class BFCL(Environment):
    """BFCL, multi-turn function calls to simulated services. docs/environments/bfcl.md lists the options."""

    spec = "bfcl"
    in_process = True
    light = True
    max_steps = 60  # the gold calls and the ends of turns are 17 at most, in long_context 37
    record_options = frozenset({"tools"})

    def __init__(self, tools: str = "short") -> None:
        with installed_by(INSTALL):
            import bfcl_eval  # noqa: F401
            import mpmath  # noqa: F401
        self._tools = parse_choice("bfcl", "tools", tools, ("short", "full", "schema"))

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        more = [f"{category}-{part}" for category in CATEGORIES[1:] for part in ("train", "test")]
        return ["train", "test", *more]

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield tasks from the four areas (files, car, broker, travel) in turn, so that a few tasks have all areas."""
        self.check_split(split)
        category, _, part = split.rpartition("-")
        area = SCENARIOS // 4
        numbers = (at + start for at in range(area) for start in range(0, SCENARIOS, area))
        for number in numbers:
            if (number % TESTED == TESTED - 1) == (part == "test"):
                yield {"id": f"multi_turn_{category or 'base'}_{number}", "split": split}

    def reset(self, task: dict) -> Observation:
        match = re.fullmatch(r"multi_turn_([a-z_]+)_(\d{1,3})", str(task.get("id", "")))
        if not match or match[1] not in CATEGORIES or int(match[2]) >= SCENARIOS:
            raise InputError(f"bfcl has no task {task.get('id')!r}", "$.task.id")
        self._entry, self._gold = _entries(match[1])[int(match[2])]
        self._schemas = _schemas(tuple(self._entry["involved_classes"])) if self._tools == "schema" else {}
        if self._schemas:
            self._gold = [[_with_names(call, self._schemas) for call in calls] for calls in self._gold]
        self._long = match[1] == "long_context"
        self._apis = self._load()
        self._played: list[list[Call]] = [[]]  # the calls, by turn
        self._answers: list[str] = []  # the answers to the calls of all turns, as the package's checker expects them
        self._passed, self._failed = 0, False
        return self._observe(self._message(), tools=self._offered())

    def _load(self) -> dict[str, Any]:
        """Return the scenario's API objects in their first state, by the name of the class."""
        from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING, STATELESS_CLASSES

        apis = {}
        for name in self._entry["involved_classes"]:
            apis[name] = getattr(import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
            if name not in STATELESS_CLASSES:
                config = deepcopy(self._entry["initial_config"].get(name, {}))
                apis[name]._load_scenario(config, long_context=self._long)
        return apis

    # -- what is shown ----------------------------------------------------------------------------------------

    def instruction(self) -> str:
        """Return how to act, and the functions that exist from the beginning, unless they are offered as `tools`."""
        if self._schemas:
            return _HOW_BY_TOOLS
        missed = chain(*self._entry.get("missed_function", {}).values())
        hidden = {*self._entry.get("excluded_function", []), *missed}
        return "\n".join([_HOW, "Functions:", *self._described(hidden=hidden)])

    def _offered(self) -> list[dict] | None:
        """Return the schemas of the functions that exist in the current turn; None if the instruction lists them."""
        if not self._schemas:
            return None
        turn = len(self._played) - 1
        later = chain(*(names for n, names in self._entry.get("missed_function", {}).items() if int(n) > turn))
        hidden = {*self._entry.get("excluded_function", []), *later}
        return [tool for name, tool in self._schemas.items() if name not in hidden]

    def _described(self, only: list[str] | None = None, hidden: Collection[str] = ()) -> list[str]:
        """Return descriptions of the scenario's functions: all but those in `hidden`, or those in `only`."""
        docs = chain(*(_function_docs(name, self._tools) for name in self._entry["involved_classes"]))
        return [text for name, text in docs if name not in hidden and (only is None or name in only)]

    def _message(self) -> str:
        """Return the user's message in the current turn, with the functions that come with it."""
        from bfcl_eval.constants.default_prompts import DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC as MORE

        turn = len(self._played) - 1
        messages = [message["content"] for message in self._entry["question"][turn]] or [MORE]
        new = self._entry.get("missed_function", {}).get(str(turn), [])
        listed = new if not self._schemas else []
        return "\n".join([*messages, *(["Functions:", *self._described(only=listed)] if listed else [])])

    def _observe(self, text: str, valid: bool = True, tools: list[dict] | None = None) -> Observation:
        done = len(self._played) > len(self._gold)
        success = False if self._failed else True if done else None
        score = round(self._passed / len(self._gold), 4)
        return Observation(text, done, score=score, valid=valid, success=success, tools=tools)

    # -- acting --------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if len(self._played) > len(self._gold):
            return self._observe("The conversation is over.", valid=False)
        action = action.strip()
        if parse_done(action) is not None:
            return self._end_turn()
        try:
            call = parse_call(action)
        except ValueError as e:
            return self._observe(f"{e}, nor done.", valid=False)
        answer, valid = execute(self._apis, call)
        self._played[-1].append(call)
        self._answers.append(answer)
        return self._observe(answer, valid)

    def _end_turn(self) -> Observation:
        self._failed = self._failed or not self._turn_is_right()
        self._passed += not self._failed
        self._played.append([])
        turn = len(self._played) - 1
        if turn == len(self._gold):
            return self._observe("The user has no further requests.")
        more = str(turn) in self._entry.get("missed_function", {})
        return self._observe(self._message(), tools=self._offered() if more else None)

    def _turn_is_right(self) -> bool:
        """Return whether the current turn is right; it is judged as one turn of the package's `multi_turn_checker`."""
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import response_checker, state_checker

        turn = len(self._played) - 1
        if not self._gold[turn]:  # what the user asks for cannot be done yet
            return True
        if not self._played[-1]:
            return False
        apis, answers = self._load(), []
        for calls in self._gold[: turn + 1]:
            answers = [execute(apis, parse_call(call))[0] for call in calls]
        return state_checker(self._apis, apis)["valid"] and response_checker(self._answers, answers, turn)["valid"]

    def expert(self) -> str | None:
        """Return the next gold call, or `done` after the turn's last one; None once another call was made."""
        turn = len(self._played) - 1
        if turn == len(self._gold):
            return None
        gold = [[parse_call(call) for call in calls] for calls in self._gold[: turn + 1]]
        n = len(self._played[-1])
        if self._played[:-1] != gold[:-1] or self._played[-1] != gold[-1][:n]:
            return None
        return self._gold[turn][n] if n < len(gold[-1]) else "done"

    def fork(self) -> BFCL:
        fork = copy(self)
        fork._apis = pickle.loads(pickle.dumps(self._apis, pickle.HIGHEST_PROTOCOL))  # a deep copy, in half its time
        fork._played, fork._answers = [list(calls) for calls in self._played], list(self._answers)
        return fork

    def action_equality(self) -> str:
        return EXACT

    def mask(self, text: str) -> str:
        """Return a text with its letters sorted if it lists names in an order that differs between Python processes."""
        return "".join(sorted(text)) if "Invalid fields for update:" in text else text


def execute(apis: dict[str, Any], call: Call) -> tuple[str, bool]:
    """Make a call.

    Returns:
        The answer, in the words of the package's executor, and whether the call was accepted.
    """
    name, args, by_name = deepcopy(call)  # the simulator keeps and changes the lists that are passed to it
    try:
        # Of two methods with one name the later class's is called, as in the package.
        methods = [getattr(api, name, None) for api in apis.values() if not name.startswith("_")]
        method = next(filter(ismethod, reversed(methods)), None)
        if method is None:
            raise NameError(f"name {name!r} is not defined")
        _check_cost(name, method, args, by_name)
        answer = method(*args, **by_name)
        if isinstance(answer, dict):
            try:
                return json.dumps(answer), "error" not in answer
            except (TypeError, ValueError):  # mpmath's numbers, and decimal's
                pass
        return str(answer), not (isinstance(answer, dict) and "error" in answer)
    except RecursionError:  # in a directory copied into itself, for instance; Python's message depends on the depth
        return "Error during execution: maximum recursion depth exceeded", False
    except Exception as e:  # anything, where the simulator does not expect the arguments
        return f"Error during execution: {e}", False


def _check_cost(name: str, method: Any, args: list, by_name: dict[str, Any]) -> None:
    """Raise ValueError if the call would compute until the memory is full."""
    if name not in _COSTLY:
        return
    try:
        values = list(signature(method).bind(*args, **by_name).arguments.values())
    except TypeError:  # the call itself will report it, in the package's words
        return
    for position, value in enumerate(values):
        limit = _COSTLY_LIMIT if position == _COSTLY[name] else 10**100
        if isinstance(value, (int, float)) and abs(value) > limit:
            raise ValueError("a number is too large")


def _read(name: str) -> list[dict]:
    path = files("bfcl_eval") / "data" / name
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise EexpError(f"{path} is missing: another version of the package? {INSTALL}") from None


@cache
def _entries(category: str) -> list[tuple[dict, list[list[str]]]]:
    """Return the tasks of a category in the order of their numbers: (task, gold calls by turn)."""
    name = f"BFCL_v4_multi_turn_{category}.json"
    return [(entry, gold["ground_truth"]) for entry, gold in zip(_read(name), _read(f"possible_answer/{name}"))]


@cache
def _function_docs(class_name: str, tools: str) -> list[tuple[str, str]]:
    """Return the functions of an API class: (name, description for the agent)."""
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    functions = []
    for doc in _read(f"multi_turn_func_doc/{MULTI_TURN_FUNC_DOC_FILE_MAPPING[class_name]}"):
        parameters, required = doc["parameters"]["properties"], doc["parameters"]["required"]
        signature_text = ", ".join(_parameter(name, about, name in required) for name, about in parameters.items())
        description = doc["description"].partition("Tool description: ")[2].rstrip(". ")
        shown = description if tools == "full" else description.partition(". ")[0]
        lines = [f"{doc['name']}({signature_text}): {shown}"]
        if tools == "full":
            lines += [f"  {name}: {about['description'].strip()}" for name, about in parameters.items()]
        functions.append((doc["name"], "\n".join(lines)))
    return functions


@cache
def _schemas(class_names: tuple[str, ...]) -> dict[str, dict]:
    """Return the functions of API classes as OpenAI's schemas, by name; of two with one name, the later class's."""
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    docs = chain(*(_read(f"multi_turn_func_doc/{MULTI_TURN_FUNC_DOC_FILE_MAPPING[name]}") for name in class_names))
    return {doc["name"]: {"type": "function", "function": _function(doc)} for doc in docs}


def _function(doc: dict) -> dict:
    """Return what the benchmark says of a function, without the account of its class that each function repeats."""
    description = doc["description"].partition("Tool description: ")[2]
    return {"name": doc["name"], "description": description, "parameters": _json_schema(doc["parameters"])}


def _json_schema(value: Any) -> Any:
    """Return a description of a type with JSON Schema's names in place of the benchmark's, `dict` and `float`."""
    if isinstance(value, list):
        return [_json_schema(one) for one in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _json_schema(one) for key, one in value.items()}
    if isinstance(kind := schema.get("type"), str):
        schema["type"] = {"dict": "object", "float": "number"}.get(kind, kind)
    return schema


def _with_names(call: str, schemas: dict[str, dict]) -> str:
    """Return a call with all its arguments by name, in the notation of `format_call`."""
    name, args, by_name = parse_call(call)
    names = schemas[name]["function"]["parameters"]["properties"]
    return format_call(name, {**dict(zip(names, args)), **by_name})


def _parameter(name: str, about: dict, required: bool) -> str:
    """Return a parameter as text: `name: type` or its possible values, with the default if it may be left out."""
    listed = about["description"].partition("[Enum]:")[2].strip(" []")
    values = " | ".join(repr(value.strip('" ')) for value in listed.split(",")) if listed else ""
    kind = f"{about['type']} of {values}" if values and about["type"] == "array" else values or about["type"]
    return f"{name}: {kind}" + ("" if required else f" = {about.get('default')!r}")

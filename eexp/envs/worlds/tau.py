"""`tau`: the tasks of tau-bench (Yao et al. 2024, arXiv 2406.12045), from a checkout of its repository.

The tools are the checkout's own Python code, which is run here, so play no checkout that you do not trust. Only tools,
data, tasks and the policy are imported, and none of the packages that the benchmark needs beside them.
docs/environments/tau.md has the actions, the options, the expert, and what differs from the benchmark.

All its state is in this process, with one thread, unless a model plays the user. A fork copies nothing
(eexp/envs/worlds/tables.py).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from eexp.envs.base import Environment, Observation
from eexp.envs.logins import with_logins
from eexp.envs.spec_options import option_error, parse_choice
from eexp.envs.worlds.checksums import digest_of, refuse_changed
from eexp.envs.worlds.tables import Database
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.prompts.calls import format_call, is_call, parse_call
from eexp.records.equality import EXACT
from eexp.records.record import seed_of

if TYPE_CHECKING:
    from eexp.models.base import Model

VARIABLE = "EEXP_TAU_BENCH"
GET = "`git clone https://github.com/sierra-research/tau-bench DIR` makes one"
LAYOUT = "tau_bench/envs"
SPLITS = ("train", "dev", "test")
RESPOND, TRANSFER, STOP = "respond", "transfer_to_human_agents", "###STOP###"

_HOW = (
    "You serve a customer, the user, by the policy below. Call one function in every step, with literal arguments, "
    "such as name(number=1, text='a'). To speak to the user, call respond(content='...'). "
)
_HOW_BY_TOOLS = (
    "You serve a customer, the user, by the policy below. Call one function in every step. An answer without a call "
    "speaks to the user. "
)
_WITHOUT_MODEL = (
    "The user has said everything in the first observation, which has the words that tell the user whom to play and "
    "what to ask for ('you' is the user), and confirms what is asked for there. respond ends the conversation, so do "
    "everything else first, and then tell the user what the user wants to know."
)
_WITHOUT_MODEL_BY_TOOLS = _WITHOUT_MODEL.replace(
    "respond ends the conversation", "your first answer to the user ends it"
)
_WITH_MODEL = "The conversation goes on until the user ends it."
_GREETING = "Hello! What can I do for you?"
_USER = """You play a customer who talks to an agent of a company. This is who you are and what you want:

{instruction}

How to play the customer:
- Answer with what the customer says next, in one short message and nothing else.
- Bring up your wishes bit by bit, as the conversation asks for them, in your own words.
- Say only what is known from the text above. If the agent asks for something else, you do not know it.
- Keep to the character that is described.
- When you have got what you want, or it is clear that you will not get it, answer {stop} and nothing else."""
_LONGEST = 300  # tokens of one message of the user
_DEPTH = 3  # look-ups in a row, each of which needs an id from the one before

#: Words of an observation that may be ids, names, numbers or addresses of mail.
_TOKEN = re.compile(r"#?\w(?:[\w.@+-]*\w)?")

Lookup = tuple[str, dict[str, Any]]


class _Gold(NamedTuple):
    """The gold calls of a task that the tools accept, the database after them, and the calls that changed it."""

    calls: tuple[tuple[str, dict[str, Any]], ...]
    database: Database
    changes: tuple[str, ...]


class Tau(Environment):
    """tau-bench, customer service with tools, from a checkout of it. docs/environments/tau.md lists the options."""

    spec = "tau"
    in_process = True
    light = True
    max_steps = 30  # as in the benchmark; the gold calls of a task are 20 at most
    record_options = frozenset({"domain", "tools", "expert", "admissible"})

    def __init__(
        self,
        path: str = "",
        domain: str = "retail",
        user: str = "instruction",
        tools: str = "short",
        expert: str = "grounded",
        admissible: str = "none",
    ) -> None:
        self._tools = parse_choice("tau", "tools", tools, ("short", "full", "schema"))
        self._grounded = parse_choice("tau", "expert", expert, ("grounded", "gold")) == "grounded"
        self._lists = parse_choice("tau", "admissible", admissible, ("none", "lookups")) == "lookups"
        self._domain = _open_domain(path or os.environ.get(VARIABLE, ""), domain)
        self._user_spec = None if user == "instruction" else user
        self._user: Model | None = None  # opened at the first reset
        self._is_copy = False
        if self._user_spec is not None:  # a model has threads or sockets, and takes its time
            self.in_process = self.light = False

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(self._domain.tasks)

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the tasks in the order of the checkout."""
        self.check_split(split)
        for number in range(len(self._domain.tasks[split])):
            name = f"{self._domain.name}/{split}/{number}"
            yield {"id": name, "split": split, "checksum": self._domain.checksum(split, number)}

    def kind_of(self, task: dict) -> str:
        """Return the tool that the gold calls change the database with; `several`, or `none`."""
        changes = set(self._domain.gold(*self._place(task)).changes)
        return changes.pop() if len(changes) == 1 else "several" if changes else "none"

    def _place(self, task: dict) -> tuple[str, int]:
        """Return the split and the number of a task. Raises InputError if there is none."""
        domain, _, rest = str(task.get("id", "")).partition("/")
        split, _, number = rest.partition("/")
        known = self._domain.tasks.get(split, [])
        if domain != self._domain.name or not re.fullmatch("[0-9]{1,6}", number) or int(number) >= len(known):
            raise InputError(f"tau?domain={self._domain.name} has no task {task.get('id')!r}", "$.task.id")
        return split, int(number)

    def reset(self, task: dict) -> Observation:
        split, number = self._place(task)
        refuse_changed(task, self._domain.checksum(split, number), f"{task['id']} has")
        self._task, self._gold = self._domain.tasks[split][number], self._domain.gold(split, number)
        self._seed = seed_of("tau", self._domain.name, split, number)
        self._database = self._domain.database
        self._responses: tuple[str, ...] = ()
        self._followed, self._strayed, self._identified = 0, False, False
        self._over, self._success = False, False
        self._read: frozenset[str] = frozenset()  # the words of all observations
        self._chat: tuple[dict[str, str], ...] = ()
        if self._user_spec is None:
            return replace(self._observe(self._task.instruction), tools=self._offered())
        rules = _USER.format(instruction=self._task.instruction, stop=STOP)
        self._chat = ({"role": "system", "content": rules}, {"role": "user", "content": _GREETING})
        return replace(self._hear_user(), tools=self._offered())

    # -- what is shown ----------------------------------------------------------------------------------------

    def instruction(self) -> str:
        """Return how to act, the policy and the tools."""
        if self._tools == "schema":
            how = _HOW_BY_TOOLS + (_WITHOUT_MODEL_BY_TOOLS if self._user_spec is None else _WITH_MODEL)
            return "\n\n".join([how, self._domain.policy])
        how = _HOW + (_WITHOUT_MODEL if self._user_spec is None else _WITH_MODEL)
        return "\n\n".join([how, self._domain.policy, "\n".join(["Functions:", *self._domain.described(self._tools)])])

    def _offered(self) -> list[dict] | None:
        """Return the tools as OpenAI's schemas; None if the instruction describes them."""
        return self._domain.schemas() if self._tools == "schema" else None

    def _observe(self, text: str, valid: bool = True) -> Observation:
        self._read |= frozenset(_TOKEN.findall(text))
        return Observation(text, self._over, float(self._success), valid, self._success if self._over else None)

    # -- acting --------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._over:
            return self._observe("The conversation is over.", valid=False)
        if self._tools == "schema" and not is_call(action):
            return self._respond(action.strip())
        try:
            name, arguments = self._domain.read_call(action.strip())
        except ValueError as e:
            return self._observe(str(e), valid=False)
        if name == RESPOND:
            return self._respond(arguments["content"])
        database, answer, valid = self._domain.call(self._database, name, arguments)
        if valid:
            self._follow(name, arguments, changed=database is not self._database)
            self._identified = self._identified or answer == self._task.user_id
            self._database = database
        if valid and name == TRANSFER:
            self._end()
        return self._observe(answer, valid)

    def _respond(self, content: str) -> Observation:
        self._responses += (content,)
        if self._user_spec is None:
            self._end()
            return self._observe("The conversation is over.")
        self._chat += ({"role": "user", "content": content},)
        return self._hear_user()

    def _hear_user(self) -> Observation:
        """Let the model write the user's next message, and observe it."""
        from eexp.models.base import Draw

        draw = Draw(list(self._chat), temperature=0.0, seed=seed_of(self._seed, len(self._chat)), max_tokens=_LONGEST)
        try:
            ((sample, *_),) = self._model().ask([draw])
        except InputError as e:
            raise EnvironmentFailed(f"{self.spec}: the model that plays the user: {e}") from None
        text = sample.text.strip()
        self._chat += ({"role": "assistant", "content": text},)
        if STOP in text:
            self._end()
        return self._observe(text)

    def _model(self) -> Model:
        """Return the model that plays the user, opened when it is needed first."""
        if self._user is None:
            from eexp.models.opening import open_model

            assert self._user_spec is not None
            self._user = open_model(with_logins(self._user_spec))
        return self._user

    def _end(self) -> None:
        said = [response.lower().replace(",", "") for response in self._responses]
        told = all(any(output.lower() in response for response in said) for output in self._task.outputs)
        self._over, self._success = True, told and self._database.equals(self._gold.database)

    # -- the expert ----------------------------------------------------------------------------------------------

    def _follow(self, name: str, arguments: dict[str, Any], changed: bool) -> None:
        """Note whether a call is the next gold call, or leaves the gold calls for good."""
        if self._gold.calls[self._followed : self._followed + 1] == ((name, arguments),):
            self._followed += 1
        elif changed:
            self._strayed = True

    def action_equality(self) -> str:
        return EXACT

    def expert(self) -> str | None:
        """Return a look-up that the next gold call needs, the next gold call, or the response after the last one."""
        if self._over or self._strayed:
            return None
        if self._grounded and (lookup := self._needed_lookup()):
            return format_call(*lookup)
        if self._followed < len(self._gold.calls):
            return format_call(*self._gold.calls[self._followed])
        answer = _final_answer(self._task.outputs, bool(self._gold.changes))
        if answer in self._responses:
            return None
        return answer if self._tools == "schema" else format_call(RESPOND, {"content": answer})

    def _needed_lookup(self) -> Lookup | None:
        """Return the next look-up towards the ids of the next gold call; None if they were read or cannot be found.

        The user is looked up first, where a tool finds users by what is known of them.
        """
        rest = self._gold.calls[self._followed :]
        if not self._identified and (lookup := self._identification()) and lookup[0] not in {name for name, _ in rest}:
            return lookup
        wanted = {text for text in _texts(rest[0][1]) if _is_id(text)} - self._read if rest else set()
        known, tried = dict.fromkeys(self._read, ()), set()  # the look-ups that lead to each word
        for _ in range(_DEPTH if wanted else 0):
            found: dict[str, tuple[Lookup, ...]] = {}
            most, best = 0, None  # the look-up that shows most of what is wanted
            for name, arguments in self._domain.lookups(self._database, known.keys()):
                if (call := format_call(name, arguments)) in tried:
                    continue
                tried.add(call)
                if (answer := self._domain.look_up(self._database, name, arguments)) is None:
                    continue
                way = (*next((known[value] for value in arguments.values()), ()), (name, arguments))
                words = set(_TOKEN.findall(answer))
                if len(wanted & words) > most:
                    most, best = len(wanted & words), way[0]
                for word in words:
                    found.setdefault(word, way)
            if best:
                return best
            known = found | known
        return None

    def _identification(self) -> Lookup | None:
        """Return the call that finds the user by what was read; None if there is none."""
        users = self._database.get("users") or {}
        record = _leaves(users.get(self._task.user_id, {}))
        for name, parameters in self._domain.required.items():
            if parameters and all(record.get(parameter) in self._read for parameter in parameters):
                arguments = {parameter: record[parameter] for parameter in parameters}
                if self._domain.look_up(self._database, name, arguments) == self._task.user_id:
                    return name, arguments
        return None

    # -- what a stage may ask ------------------------------------------------------------------------------------

    def admissible(self) -> list[str] | None:
        """Return the look-ups that are possible with what was read; None unless `admissible=lookups`."""
        if not self._lists:
            return None
        if self._over:
            return []
        lookups = self._domain.lookups(self._database, self._read)
        return sorted(format_call(*call) for call in lookups if self._domain.look_up(self._database, *call) is not None)

    def fork(self) -> Tau:
        fork = copy(self)  # nothing in it is ever changed, and the model has no memory
        fork._is_copy = True
        return fork

    def close(self) -> None:
        if self._user is not None and not self._is_copy:
            self._user.close()
        self._user = None


class _Domain:
    """What a domain of a checkout consists of. Shared by all environments of a process, and never changed.

    Attributes:
        tasks: The tasks by split, as the checkout's code has them.
        database: The database at the beginning of every task.
    """

    def __init__(self, root: Path, name: str):
        self.name, self._directory = name, root / LAYOUT / name
        with _checkout_importable(root, name) as load:
            classes = load("tools").ALL_TOOLS
            self.database = Database(load("data").load_data())
            splits = [split for split in SPLITS if (self._directory / f"tasks_{split}.py").is_file()]
            modules = {split: vars(load(f"tasks_{split}")) for split in splits}
            # TASKS, TASKS_TRAIN or the like
            self.tasks = {s: next(v for k, v in names.items() if k.startswith("TASKS")) for s, names in modules.items()}
        self.policy = (self._directory / "wiki.md").read_text(encoding="utf-8").strip()
        infos = [tool.get_info()["function"] for tool in classes]
        self._invoke: dict[str, Callable[..., Any]] = {i["name"]: tool.invoke for i, tool in zip(infos, classes)}
        self._info = {info["name"]: info for info in infos}
        self.required = {name: list(info["parameters"].get("required", [])) for name, info in self._info.items()}
        self._gold: dict[tuple[str, int], _Gold] = {}
        self._digest = _digest(self._directory)

    def checksum(self, split: str, number: int) -> str:
        """Return the checksum of a task with the tools, the policy and the data of the domain."""
        task = self.tasks[split][number]
        calls = [[action.name, action.kwargs] for action in task.actions]
        text = json.dumps([self._digest, task.user_id, task.instruction, calls, task.outputs])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # -- calls ---------------------------------------------------------------------------------------------------

    def read_call(self, text: str) -> tuple[str, dict[str, Any]]:
        """Parse an action; return the tool's name and its arguments by name, as JSON values.

        Raises:
            ValueError: It is no call that can be made; the message is the observation.
        """
        try:
            name, by_position, arguments = parse_call(text)
        except ValueError as e:
            raise ValueError(f"{e}.") from None
        if name != RESPOND and name not in self._invoke:
            raise ValueError(f"Unknown action {name}")
        names = ["content"] if name == RESPOND else list(inspect.signature(self._invoke[name]).parameters)[1:]
        if len(by_position) > len(names) or not arguments.keys().isdisjoint(names[: len(by_position)]):
            raise ValueError(f"Error: {name} takes {', '.join(names) or 'no arguments'}")
        arguments = dict(zip(names, by_position)) | arguments
        try:
            arguments = json.loads(json.dumps(arguments))
        except (TypeError, ValueError):
            raise ValueError("Error: an argument is not a JSON value") from None
        if name == RESPOND and (arguments.keys() != {"content"} or not isinstance(arguments["content"], str)):
            raise ValueError("Error: respond takes content, a text")
        if name == "calculate" and "**" in str(arguments):
            raise ValueError("Error: powers are not calculated")
        return name, arguments

    def call(self, database: Database, name: str, arguments: dict[str, Any]) -> tuple[Database, str, bool]:
        """Call a tool; return the database after it, the answer, and whether the call was accepted."""
        run = self._runner(name, arguments)
        try:
            only_read, answer = database.read(run)
            after, answer = (database, answer) if only_read else database.write(run)
        except Exception as e:  # anything, where the tool does not expect the arguments
            return database, f"Error: {e}", False
        valid = not str(answer).startswith("Error")
        return after if valid else database, str(answer), valid

    def look_up(self, database: Database, name: str, arguments: dict[str, Any]) -> str | None:
        """Return a tool's answer; None if the call is refused or would change the database."""
        try:
            only_read, answer = database.read(self._runner(name, arguments))
        except Exception:
            return None
        return str(answer) if only_read and not str(answer).startswith("Error") else None

    def _runner(self, name: str, arguments: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
        text = json.dumps(arguments)  # a tool may keep or change what it is given

        def run(tables: dict[str, Any]) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # calculate('1(2)'), for instance
                return self._invoke[name](tables, **json.loads(text))

        return run

    def lookups(self, database: Database, words: Any) -> Iterator[Lookup]:
        """Yield calls of tools without parameters, or with the id of a record as the only one, in a fixed order.

        Args:
            database: A parameter `order_id` is an id of the table `orders`.
            words: Only ids among these words are taken.
        """
        for name, parameters in self.required.items():
            if not parameters:
                yield name, {}
            elif len(parameters) == 1 and parameters[0].endswith("_id"):
                table = database.get(f"{parameters[0].removesuffix('_id')}s")
                ids = table.keys() & words if isinstance(table, dict) else ()
                yield from ((name, {parameters[0]: key}) for key in sorted(ids))

    def gold(self, split: str, number: int) -> _Gold:
        if (split, number) not in self._gold:
            database, calls, changes = self.database, [], []
            for action in self.tasks[split][number].actions:
                arguments = json.loads(json.dumps(action.kwargs))
                before = database
                database, _, valid = self.call(database, action.name, arguments)
                calls += [(action.name, arguments)] if valid else []
                changes += [action.name] if database is not before else []
            self._gold[split, number] = _Gold(tuple(calls), database, tuple(changes))
        return self._gold[split, number]

    # -- descriptions ----------------------------------------------------------------------------------------------

    def described(self, tools: str) -> list[str]:
        """Return a description of every tool; `tools` is short or full."""
        respond = f"{RESPOND}(content: string): Say something to the user."
        return [*(self._describe(info, tools == "full") for info in self._info.values()), respond]

    def schemas(self) -> list[dict]:
        """Return the tools as OpenAI's schemas, as the checkout has them."""
        return [{"type": "function", "function": deepcopy(info)} for info in self._info.values()]

    def _describe(self, info: dict[str, Any], full: bool) -> str:
        properties, required = info["parameters"]["properties"], self.required[info["name"]]
        parameters = [f"{name}{'' if name in required else '?'}: {_type(about)}" for name, about in properties.items()]
        text = (
            info["description"].strip() if full else re.split(r"(?<=\.)\s", info["description"].strip(), maxsplit=1)[0]
        )
        lines = [f"{info['name']}({', '.join(parameters)}): {text}"]
        if full:
            lines += [
                f"  {name}: {about['description']}" for name, about in properties.items() if "description" in about
            ]
        return "\n".join(lines)


# -- the checkout ----------------------------------------------------------------------------------------------------

_importing = threading.RLock()


def _open_domain(path: str, name: str) -> _Domain:
    """Return a domain of the checkout at `path`. Raises UsageError if there is none."""
    if not path:
        raise UsageError(f"tau: name a checkout of tau-bench: tau?path=DIR, or {VARIABLE}=DIR; {GET}")
    root = Path(path).resolve()
    domains = sorted(file.parent.name for file in (root / LAYOUT).glob("*/wiki.md"))
    if not domains:
        raise UsageError(f"tau?path={path}: no checkout of tau-bench, with {LAYOUT}/retail in it; {GET}")
    if name not in domains:
        raise option_error("tau", "domain", name, f"expected {' or '.join(domains)}")
    return _load_domain(root, name)


@cache
def _load_domain(root: Path, name: str) -> _Domain:
    try:
        domain = _Domain(root, name)
    except Exception as e:  # anything, in code that is not part of eexp
        message = " ".join(str(e).split())
        raise EexpError(f"tau: {root / LAYOUT / name} cannot be loaded: {type(e).__name__}: {message}") from e
    if not domain.tasks:
        raise EexpError(f"tau: {root / LAYOUT / name} has no tasks; expected tasks_train.py or tasks_test.py")
    return domain


@contextmanager
def _checkout_importable(root: Path, domain: str) -> Iterator[Callable[[str], Any]]:
    """Provide a function that imports a module of a domain, by its name in the domain's folder.

    The packages above it are empty: their own code imports clients of language models. Modules and the path of modules
    are as before at the end, and no compiled files are left in the checkout.
    """
    package = f"{LAYOUT.replace('/', '.')}.{domain}"
    with _importing:
        before = {name: sys.modules.pop(name) for name in _checkout_modules()}
        writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            parts = package.split(".")
            for n in range(1, len(parts) + 1):
                module = ModuleType(".".join(parts[:n]))
                module.__path__ = [str(root.joinpath(*parts[:n]))]
                sys.modules[module.__name__] = module
            types = ModuleType(f"{parts[0]}.types")
            vars(types).update(Action=SimpleNamespace, Task=SimpleNamespace)
            sys.modules[types.__name__] = types
            yield lambda name: import_module(f"{package}.{name}")
        finally:
            sys.dont_write_bytecode = writes_no_bytecode
            for name in _checkout_modules():
                del sys.modules[name]
            sys.modules.update(before)


def _checkout_modules() -> list[str]:
    top = LAYOUT.partition("/")[0]
    return [name for name in sys.modules if name.partition(".")[0] == top]


def _digest(directory: Path) -> str:
    """Return the checksum of a domain's data, tools and policy."""
    files = sorted([*directory.glob("data/*"), *directory.glob("tools/*.py"), directory / "wiki.md"])
    return digest_of(file for file in files if file.is_file())


# -- texts and values ------------------------------------------------------------------------------------------------


def _final_answer(outputs: list[str], changed: bool) -> str:
    """Return what the expert says at the end: the outputs that the task asks for, and whether something was done."""
    sentences = ["Your request has been carried out."] if changed else []
    sentences += [f"The answer to your question: {'; '.join(outputs)}."] if outputs else []
    return " ".join(sentences) or "There is nothing more that I can do for you."


def _type(about: dict[str, Any]) -> str:
    """Return the type of a parameter as text: its possible values, or its type with that of its items."""
    if "enum" in about:
        return " | ".join(map(repr, about["enum"]))
    if about.get("type") == "array" and "items" in about:
        return f"array of {_type(about['items'])}"
    if about.get("type") == "object" and "properties" in about:
        return f"{{{', '.join(f'{name}: {_type(inner)}' for name, inner in about['properties'].items())}}}"
    return str(about.get("type", "any"))


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _is_id(text: str) -> bool:
    """Return whether a text may be an id: one word with a digit in it."""
    return bool(_TOKEN.fullmatch(text)) and any(character.isdigit() for character in text)


def _leaves(record: Any) -> dict[str, str]:
    """Return the texts of a record by the name of their innermost key."""
    leaves: dict[str, str] = {}
    for key, value in record.items() if isinstance(record, dict) else ():
        leaves |= {key: value} if isinstance(value, str) else _leaves(value)
    return leaves

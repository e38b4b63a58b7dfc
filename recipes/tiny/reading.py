"""Histories with questions that reading answers: of imagined rooms with invented names, and of real ones of `house`.

`imagine` makes a history in the form of play (`react`), in which what is observed has nothing to do with the action
before it: a base that learns from it learns to read, and nothing about what an action leads to. Every name of a room, a
place or a thing is drawn for one history alone. What is refused there is refused in words that `house` does not use.

`remember` plays `house`, with right and wrong actions. Such histories are an exam: no base is trained on them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eexp.envs.worlds.house import (
    ALL_ROOMS,
    CONTAINERS,
    DISHES,
    FOOD,
    OOD_OBJECTS,
    ROOM_OF,
    SPLITS,
    THINGS,
    House,
    _into,
)
from eexp.prompts import get_style

STYLE = get_style("react")
HOUSE_NAMES = sorted({*ALL_ROOMS, *ROOM_OF, *FOOD, *DISHES, *THINGS, *OOD_OBJECTS})


@dataclass
class Branch:
    """A question about a history, or a thought that states facts: what goes on after one of its observations.

    Attributes:
        kind: What is asked, for counting.
        asked: What the last message says beyond the observation.
        begun, answer: The answer's mark, and the rest of it.
    """

    kind: str
    asked: str
    begun: str
    answer: str


class Known(NamedTuple):
    """What is known of a name after an observation: one of STATUS, and the place or the room that it is in, or ""."""

    status: str
    where: str = ""


STATUS = [
    "not seen",
    "held",
    "in sight",
    "seen elsewhere",
    "place here",
    "closed here",
    "place elsewhere",
    "room",
    "new door",
    "old door",
    "room elsewhere",
]


@dataclass
class Turn:
    """An observation, what is asked about it, and the action after it.

    Attributes:
        known: What is known of each name then.
        task: The task's thing, its place, and the room.
    """

    observation: str
    branches: list[Branch] = field(default_factory=list)
    action: str = ""
    known: dict[str, Known] = field(default_factory=dict)
    task: tuple[str, str, str] = ("", "", "")


@dataclass
class History:
    """A history of observations and actions, with the task in words."""

    instruction: str
    turns: list[Turn]


class Memory:
    """What a reader of the history knows, beside the state itself.

    Attributes:
        things: Thing -> place where it was last seen.
        places: Place -> its room.
        rooms: Rooms that were entered.
        tried: Actions so far, and whether each was refused.
    """

    def __init__(self) -> None:
        self.things: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self.rooms: list[str] = []
        self.tried: list[tuple[str, bool]] = []

    def look(self, state: State) -> None:
        self.things.update(state.visible())
        self.things.pop(state.held or "", None)
        self.places.update({place: state.room for place in state.places()})
        if state.room not in self.rooms:
            self.rooms.append(state.room)


class State:
    """The true state behind a history, of an imagined house or a real one."""

    target: str
    goal: str
    room: str
    held: str | None
    doors: dict[str, list[str]]
    opened: set[str]
    state: dict[str, set[str]]
    names: Sequence[str]

    def places(self) -> list[str]:
        raise NotImplementedError

    def contents(self, place: str) -> list[str]:
        raise NotImplementedError

    def is_container(self, place: str) -> bool:
        raise NotImplementedError

    def into(self, place: str) -> str:
        raise NotImplementedError

    def is_closed(self, place: str) -> bool:
        return self.is_container(place) and place not in self.opened

    def visible(self) -> dict[str, str]:
        return {thing: p for p in self.places() if not self.is_closed(p) for thing in self.contents(p)}

    def at(self, thing: str, place: str) -> str:
        return f"{thing} {self.into(place)} {place}"


def what_is_known(state: State, memory: Memory) -> dict[str, Known]:
    """Return what is known of each thing, place and room that was seen."""
    known = {room: Known("room elsewhere") for room in memory.rooms}
    known |= {room: Known("old door" if room in memory.rooms else "new door") for room in state.doors[state.room]}
    known[state.room] = Known("room")
    known |= {place: Known("place elsewhere", room) for place, room in memory.places.items()}
    known |= {
        place: Known("closed here" if state.is_closed(place) else "place here", state.room) for place in state.places()
    }
    known |= {thing: Known("seen elsewhere", place) for thing, place in memory.things.items()}
    known |= {thing: Known("in sight", place) for thing, place in state.visible().items()}
    return known | ({state.held: Known("held")} if state.held else {})


# -- an imagined house ------------------------------------------------------------------------------------------------

ADJECTIVES = [
    "hot",
    "cold",
    "clean",
    "dry",
    "wet",
    "dark",
    "bright",
    "broken",
    "soft",
    "full",
    "empty",
    "heavy",
    "old",
    "new",
    "open",
    "dusty",
]
VERBS = [
    "wash",
    "heat",
    "cool",
    "dry",
    "fix",
    "turn",
    "paint",
    "push",
    "lift",
    "fold",
    "shake",
    "fill",
    "break",
    "polish",
    "touch",
    "mend",
]


class Scene(State):
    """Rooms with places and things, all with names of this scene alone.

    Args:
        size: Between 0 and 1: from two rooms with few things to more than a real house has.
    """

    def __init__(self, rng: random.Random, names: Sequence[str], size: float):
        self.rng = rng
        rooms = rng.randint(2, 3 + round(3 * size))
        things = rng.randint(2, 4 + round(8 * size))
        most = 2 + round(3 * size)
        drawn = iter(rng.sample(list(names), rooms * (most + 1) + things + 8))
        names_of_rooms = [next(drawn) for _ in range(rooms)]
        self.doors = {name: [] for name in names_of_rooms}
        for i, name in enumerate(names_of_rooms[1:], 1):
            other = rng.choice(names_of_rooms[:i])
            self.doors[name].append(other)
            self.doors[other].append(name)
        self.room_of: dict[str, str] = {}
        self._containers: set[str] = set()
        self._into: dict[str, str] = {}
        for name in names_of_rooms:
            for _ in range(rng.randint(1, most)):
                place = next(drawn)
                self.room_of[place] = name
                if rng.random() < 0.5:
                    self._containers.add(place)
                self._into[place] = "in" if rng.random() < (0.95 if place in self._containers else 0.2) else "on"
        self.opened = {place for place in self.room_of if place in self._containers and rng.random() < 0.15}
        self.where = {next(drawn): rng.choice(list(self.room_of)) for _ in range(things)}
        self.strangers = [next(drawn) for _ in range(8)]
        self.names = [*self.where, *self.room_of, *self.doors, *self.strangers]
        self.room = rng.choice(names_of_rooms)
        self.held = None
        self.state = {thing: set() for thing in self.where}
        self.target = rng.choice(list(self.where)) if rng.random() < 0.9 else self.strangers[0]
        self.goal = rng.choice(list(self.room_of)) if rng.random() < 0.9 else self.strangers[1]
        self._into.setdefault(self.goal, rng.choice(["in", "on"]))
        self.state.setdefault(self.target, set())

    def places(self) -> list[str]:
        return [place for place, room in self.room_of.items() if room == self.room]

    def contents(self, place: str) -> list[str]:
        return sorted(thing for thing, at in self.where.items() if at == place)

    def is_container(self, place: str) -> bool:
        return place in self._containers

    def into(self, place: str) -> str:
        return self._into[place]

    def instruction(self) -> str:
        thing, at = self.target, f"{self.into(self.goal)} the {self.goal}"
        be = self.rng.choice(ADJECTIVES)
        return self.rng.choices(
            [
                f"Put the {thing} {at}.",
                f"Put the {be} {thing} {at}.",
                f"Look at the {thing} under the {self.goal}.",
            ],
            [4, 4, 2],
        )[0]

    # What happens, whatever the action was: each returns an observation.

    def describe(self) -> str:
        text = f"You are in the {self.room}. You see {', '.join(map(self._in_sight, self.places()))}. "
        text += f"Doors: {', '.join(sorted(self.doors[self.room]))}."
        return f"{text} You hold the {self.held}." if self.held else text

    def _in_sight(self, place: str) -> str:
        if self.is_closed(place):
            return f"{place} closed"
        return ", ".join(self.at(thing, place) for thing in self.contents(place)) or f"{place} empty"

    def enter(self) -> str:
        self.room = self.rng.choice(self.doors[self.room])
        return self.describe()

    def open(self) -> str | None:
        closed = [place for place in self.places() if self.is_closed(place)]
        if not closed:
            return None
        place = self.rng.choice(closed)
        self.opened.add(place)
        head = self.rng.choice(
            [f"You open the {place}. You see", f"You open the {place}. You see", f"The {place} opens, and you see"]
        )
        return f"{head} {self._in_sight(place)}."

    def close(self) -> str | None:
        opened = [place for place in self.places() if self.is_container(place) and place in self.opened]
        if not opened:
            return None
        place = self.rng.choice(opened)
        self.opened.discard(place)
        return self.rng.choice([f"You close the {place}.", f"The {place} is closed now."])

    def take(self) -> str | None:
        here = self.visible()
        if self.held or not here:
            return None
        thing = self.target if self.target in here and self.rng.random() < 0.5 else self.rng.choice(list(here))
        place = here[thing]
        self.held, self.where[thing] = thing, ""
        return self.rng.choice([f"You take the {thing} from the {place}."] * 3 + [f"Now you hold the {thing}."])

    def put(self) -> str | None:
        free = [place for place in self.places() if not self.is_closed(place)]
        if not self.held or not free:
            return None
        thing, place = self.held, self.rng.choice(free)
        self.held, self.where[thing] = None, place
        at = f"{self.into(place)} the {place}"
        return self.rng.choice([f"You put the {thing} {at}."] * 3 + [f"You leave the {thing} {at}."])

    def change(self) -> str | None:
        if not self.held:
            return None
        be, verb = self.rng.choice(ADJECTIVES), self.rng.choice(VERBS)
        place = self.rng.choice(self.places())
        self.state[self.held].add(be)
        return f"You {verb} the {self.held} {self.into(place)} the {place}. It is {be} now."

    def refuse(self) -> str:
        rng = self.rng
        things, places = [*self.where, *self.strangers], [*self.room_of, *self.strangers]
        thing, place, room = rng.choice(things), rng.choice(places), rng.choice([*self.doors, *self.strangers])
        verb, here = rng.choice(VERBS), self.visible()
        texts = [
            "Nothing happens.",
            "That does not work.",
            "You cannot do that now.",
            f"It is not possible to {verb} that.",
            "Not here.",
            "That is no use.",
            f"You cannot {verb} it.",
        ]
        if thing not in here and thing != self.held:
            texts += [
                f"You see no {thing} near you.",
                f"No {thing} lies on the {place}.",
                f"The {thing} is not where you look for it.",
                f"You look for the {thing}, and it is not there.",
                f"You have no {thing} in your hands.",
                f"Without the {thing} you cannot {verb} it.",
            ]
        if place not in self.places():
            texts += [f"No {place} stands in this room.", f"You look for a {place}, and none is there."]
        if room not in self.doors[self.room] and room != self.room:
            texts += [
                f"No way from here to the {room}.",
                f"The {room} is too far.",
                f"There are doors, but not to the {room}.",
            ]
        for place in self.places():
            if self.is_closed(place):
                texts += [f"The {place} stays closed.", f"The {place} is not open."]
            elif self.is_container(place):
                texts += [f"The {place} was open before.", f"The {place} is open, as it was."]
            else:
                texts += [f"The {place} has nothing to {verb}.", f"No {place} can do that."]
        texts += [f"You are still in the {self.room}.", f"You stay where you are: in the {self.room}."]
        if self.held:
            texts += [
                f"Not with the {self.held} in your hands.",
                f"You have the {self.held} in your hands, and no more fits.",
            ]
        return rng.choice(texts)

    def action(self, earlier: Sequence[tuple[str, bool]]) -> str:
        """Return any action: what is observed next does not depend on it."""
        rng = self.rng
        if earlier and rng.random() < 0.2:
            return rng.choice(earlier[-6:])[0]
        thing = rng.choice([*self.where, *self.strangers])
        place = rng.choice([*(self.places() * 2), *self.room_of, *self.strangers])
        room = rng.choice([*self.doors, *self.strangers])
        if rng.random() < 0.3:
            thing = self.target
        at = rng.choice(["in", "on"])
        return rng.choice(
            [
                f"go to {room}",
                f"open {place}",
                f"open {place}",
                f"close {place}",
                f"take {thing} from {place}",
                f"take {thing} from {place}",
                f"put {thing} {at} {place}",
                f"{rng.choice(VERBS)} {thing} {at} {place}",
                f"look at {thing} under {place}",
                "look",
                f"{rng.choice(VERBS)} {place}",
            ]
        )


def imagine(rng: random.Random, names: Sequence[str], size: float, turns: int, questions: float) -> History:
    """Make a history of an imagined house.

    Args:
        size: How large the house is, between 0 and 1.
        turns: The number of actions.
        questions: The mean number of questions after an observation.
    """
    scene, memory = Scene(rng, names, size), Memory()
    events = [scene.enter, scene.open, scene.take, scene.put, scene.change, scene.close]
    history = History(scene.instruction(), [Turn(scene.describe())])
    refusals = rng.choice([0.1, 0.3, 0.5])
    while True:
        memory.look(scene)
        turn = history.turns[-1]
        turn.known, turn.task = what_is_known(scene, memory), (scene.target, scene.goal, scene.room)
        many = questions * (2.0 if len(history.turns) > turns else 1.0)
        turn.branches = list(ask(scene, memory, rng, int(many) + (rng.random() < many % 1), training=True))
        if len(history.turns) > turns:
            return history
        turn.action = scene.action(memory.tried)
        refused = rng.random() < refusals
        observation = None
        while observation is None:
            observation = (
                scene.refuse()
                if refused
                else scene.describe()
                if rng.random() < 0.04
                else rng.choices(events, [3, 4, 3, 2, 1, 0.5])[0]()
            )
        memory.tried.append((turn.action, refused))
        history.turns.append(Turn(observation))


# -- `house`, for the exam --------------------------------------------------------------------------------------------


class Real(State):
    """The state of a `House`."""

    def __init__(self, env: House):
        self.env, self.names = env, HOUSE_NAMES

    def __getattr__(self, name: str):
        return getattr(self.env, name)

    def places(self) -> list[str]:
        return self.env._places()

    def contents(self, place: str) -> list[str]:
        return self.env._contents(place)

    def is_container(self, place: str) -> bool:
        return place in CONTAINERS

    def into(self, place: str) -> str:
        return _into(place)


def remember(number: int, rng: random.Random, turns: int, questions: int, last: bool = False) -> History:
    """Play a house that no study uses, half of the time as the expert does, and ask about it.

    Args:
        questions: The number of questions after each observation.
        last: Whether questions are asked at the end alone.
    """
    env = House()
    observation = env.reset({"id": f"play/{number % SPLITS['play']}", "split": "play"})
    state, memory = Real(env), Memory()
    history = History(env.instruction(), [Turn(observation.text)])
    while True:
        memory.look(state)
        turn = history.turns[-1]
        at_end = len(history.turns) > turns
        if at_end or not last:
            turn.branches = list(ask(state, memory, rng, questions))
        if at_end:
            return history
        turn.action = _some_action(env, rng)
        ended = env.fork()
        observation = ended.step(turn.action)
        if observation.done:  # the end of the task is no history
            turn.action = "look"
            observation = env.step("look")
        else:
            env = state.env = ended
        memory.tried.append((turn.action, not observation.valid))
        history.turns.append(Turn(observation.text))


def _some_action(env: House, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.5:
        return env.expert() or "look"
    if chance < 0.7:
        return rng.choice(env.admissible())
    places, thing = list(env.room_of), rng.choice(list(env.where))
    place = rng.choice(env._places() * 2 + places)
    return rng.choice(
        [
            f"go to {rng.choice(list(ALL_ROOMS))}",
            f"open {place}",
            f"take {rng.choice([thing, env.target])} from {place}",
            f"take {rng.choice([thing, env.target])} from {place}",
            f"put {env.held or thing} {_into(place)} {place}",
        ]
    )


# -- questions: (state, memory, rng) -> question, answer --------------------------------------------------------------
# Those with the same words as in make_tiny.py have the same answers, so that the bases compare.

Asked = tuple[str, str]


def _any(state: State, memory: Memory, rng: random.Random) -> str:
    """Return a thing: in sight, seen before, the task's, or another name."""
    pools = [list(state.visible()), list(memory.things), [state.target], [state.held] if state.held else []]
    pool = rng.choice([*pools[:2], *pools])
    places = [*memory.places, *state.doors]
    return rng.choice(pool) if pool else rng.choice([name for name in state.names if name not in places])


def whereabouts(state: State, memory: Memory, thing: str) -> str:
    if state.held == thing:
        return f"{thing}: you hold it"
    return state.at(thing, memory.things[thing]) if thing in memory.things else f"{thing}: not seen"


def sight(state: State, thing: str) -> str:
    if state.held == thing:
        return f"you hold the {thing}"
    place = state.visible().get(thing)
    return f"yes, {state.at(thing, place)}" if place else f"no {thing}"


def ask_where(state: State, memory: Memory, rng: random.Random) -> Asked:
    thing = _any(state, memory, rng)
    return f"Where is the {thing}?", whereabouts(state, memory, thing)


def ask_where_target(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Where is what the task is about?", whereabouts(state, memory, state.target)


def ask_in_sight(state: State, memory: Memory, rng: random.Random) -> Asked:
    thing = _any(state, memory, rng)
    return f"Is the {thing} in sight?", sight(state, thing)


def ask_target_in_sight(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Is what the task is about in sight?", sight(state, state.target)


def ask_wanted(state: State, memory: Memory, rng: random.Random) -> Asked:
    place = state.visible().get(state.target)
    return "What here does the task speak of?", state.at(state.target, place) if place else "nothing"


def ask_goal(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Where does it belong?", f"{state.into(state.goal)} the {state.goal}"


def ask_goal_here(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Is the place where it belongs here?", f"{'yes' if state.goal in state.places() else 'no'}, {state.goal}"


def ask_closed(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "What is closed here?", ", ".join(p for p in state.places() if state.is_closed(p)) or "nothing"


def ask_held(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "What do you hold?", state.held or "nothing"


def ask_doors(state: State, memory: Memory, rng: random.Random) -> Asked:
    doors = [room for room in sorted(state.doors[state.room]) if room not in memory.rooms]
    return "Which doors have you not gone through?", ", ".join(doors) or "none"


def ask_state(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "How is it now?", f"{state.target}: {', '.join(sorted(state.state[state.target])) or 'as it was'}"


def ask_place_here(state: State, memory: Memory, rng: random.Random) -> Asked:
    pool = state.places() if rng.random() < 0.5 else list(memory.places)
    place = rng.choice(pool if rng.random() < 0.8 else [n for n in state.names if n not in memory.things])
    return f"Is the {place} here?", f"{'yes' if place in state.places() else 'no'}, {place}"


def ask_room(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Where are you?", f"in the {state.room}"


def ask_all_doors(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Which doors are here?", ", ".join(sorted(state.doors[state.room]))


def ask_place_room(state: State, memory: Memory, rng: random.Random) -> Asked:
    place = rng.choice([*memory.places, state.goal])
    return f"In which room is the {place}?", memory.places.get(place, f"{place}: not seen")


def ask_contents(state: State, memory: Memory, rng: random.Random) -> Asked:
    place = rng.choice(state.places())
    shown = "closed" if state.is_closed(place) else ", ".join(state.contents(place)) or "nothing"
    return f"What is {state.into(place)} the {place}?", shown


def ask_refused(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "What was refused last?", next((a for a, refused in memory.tried[::-1] if refused), "nothing")


def ask_last_refused(state: State, memory: Memory, rng: random.Random) -> Asked:
    return "Was the last action refused?", "yes" if memory.tried and memory.tried[-1][1] else "no"


def ask_tried(state: State, memory: Memory, rng: random.Random) -> Asked:
    other = [f"open {place}" for place in state.places()] + [f"go to {room}" for room in state.doors[state.room]]
    pool = [action for action, _ in memory.tried] if memory.tried and rng.random() < 0.6 else other
    action = rng.choice(pool)
    refused = next((refused for tried, refused in memory.tried[::-1] if tried == action), None)
    answer = "no" if refused is None else "yes, and it was refused" if refused else "yes"
    return f"Have you tried to {action}?", answer


def ask_entered(state: State, memory: Memory, rng: random.Random) -> Asked:
    room = rng.choice([*state.doors[state.room], *memory.rooms])
    return f"Have you been in the {room}?", "yes" if room in memory.rooms else "no"


def known_thing(state: State, memory: Memory, thing: str) -> str:
    if state.held == thing:
        return f"{thing}: I hold it."
    if thing not in memory.things:
        return f"{thing}: not seen yet."
    place = memory.things[thing]
    room = memory.places[place]
    return f"{state.at(thing, place)}: {'here' if room == state.room else f'in the {room}'}."


def known_place(state: State, memory: Memory, place: str) -> str:
    room = memory.places.get(place)
    if room is None:
        return f"{place}: not seen yet."
    here = f"here{', closed' * state.is_closed(place)}" if room == state.room else f"in the {room}"
    return f"{place}: {here}."


def ask_known_thing(state: State, memory: Memory, rng: random.Random) -> Asked:
    thing = _any(state, memory, rng)
    return f"What is known of the {thing}?", known_thing(state, memory, thing).rstrip(".")


def ask_known_place(state: State, memory: Memory, rng: random.Random) -> Asked:
    place = rng.choice([*state.places(), *memory.places, state.goal])
    return f"Where is the place {place}?", known_place(state, memory, place).rstrip(".")


QUESTIONS: dict[str, tuple[Callable[[State, Memory, random.Random], Asked], float]] = {
    "where is X": (ask_where, 2),
    "where is the task's X": (ask_where_target, 1),
    "is X in sight": (ask_in_sight, 3),
    "is the task's X in sight": (ask_target_in_sight, 1),
    "what does the task want here": (ask_wanted, 1),
    "where does it belong": (ask_goal, 0.5),
    "is that place here": (ask_goal_here, 1),
    "what is closed here": (ask_closed, 1.5),
    "what do you hold": (ask_held, 0.7),
    "doors not gone through": (ask_doors, 1.5),
    "how is it now": (ask_state, 0.4),
    "is place P here": (ask_place_here, 2),
    "where are you": (ask_room, 0.5),
    "which doors are here": (ask_all_doors, 0.4),
    "which room has P": (ask_place_room, 1.5),
    "what is in P": (ask_contents, 0.3),
    "what was refused last": (ask_refused, 0.4),
    "was the last refused": (ask_last_refused, 0.3),
    "was it tried": (ask_tried, 0.4),
    "entered R": (ask_entered, 0.3),
    "known of X": (ask_known_thing, 2),
    "known of P": (ask_known_place, 1.5),
}
# Weights in training, where they differ: more of what acting depends on and of what is learned last.
TRAINING = {
    "where is the task's X": 1.5,
    "is the task's X in sight": 2,
    "what does the task want here": 1.5,
    "is that place here": 2,
    "what is closed here": 5,
    "doors not gone through": 3,
    "is place P here": 3,
    "which room has P": 2.5,
    "what was refused last": 1,
    "was the last refused": 0.5,
    "was it tried": 1.5,
    "known of P": 2,
}
THOUGHT = "a thought"


def think(state: State, memory: Memory) -> Branch:
    """Return a thought that states what is known of the task's thing and place, and what is held beside."""
    facts = [known_thing(state, memory, state.target), known_place(state, memory, state.goal)]
    if state.held and state.held != state.target:
        facts.insert(0, f"I hold the {state.held}.")
    return Branch(THOUGHT, STYLE.thought.ask, STYLE.thought.open.rstrip(), f" {' '.join(facts)}")


def ask(state: State, memory: Memory, rng: random.Random, number: int, training: bool = False) -> Iterator[Branch]:
    """Yield so many different questions about a state, some of them thoughts."""
    weights = {kind: weight for kind, (_, weight) in QUESTIONS.items()} | (TRAINING if training else {})
    seen = set()
    for _ in range(number):
        if rng.random() < 0.15:
            branch = think(state, memory)
        else:
            kind = rng.choices([*weights], [*weights.values()])[0]
            question, answer = QUESTIONS[kind][0](state, memory, rng)
            if training and answer == "nothing" and kind == "what is closed here" and rng.random() < 0.7:
                continue  # or it is the only answer that is learned
            branch = Branch(kind, f"\nQuestion: {question}", "Answer:", f" {answer}.")
        if branch.asked not in seen:
            seen.add(branch.asked)
            yield branch

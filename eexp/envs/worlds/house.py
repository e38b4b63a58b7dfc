"""`house`: a household in words, in pure Python, so that the whole pipe runs anywhere.

A house is a tree of rooms with places in them: surfaces, and containers that hide their contents until opened. The
expert uses general knowledge (a desk is in a study, a fridge is in a kitchen) and what it has observed in this episode,
never where things really are: its actions can be learned from its observations. docs/environments/house.md has the
tasks and the splits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from eexp.envs.base import Environment, Observation
from eexp.errors import InputError
from eexp.records.record import canonical

WORLD = "house-2"  # changed whenever a task, a text or a rule changes, so that old records are not mixed with new ones

SPLITS = {"train": 10_000, "test": 2_000, "ood": 2_000, "play": 100_000}

# room -> places in it; a trailing * marks a container. Every place name belongs to one kind of room.
ROOMS = {
    "kitchen": ["counter", "cupboard*", "fridge*", "stove", "sink"],
    "lounge": ["sofa", "table", "chest*", "lamp"],
    "bedroom": ["bed", "nightstand*", "wardrobe*"],
    "bathroom": ["shelf", "cabinet*", "basket*"],
    "study": ["desk", "bookcase", "drawer*"],
}
OOD_ROOMS = {"garage": ["workbench", "toolbox*", "locker*"], "cellar": ["rack", "crate*", "barrel*"]}
ALL_ROOMS = {**ROOMS, **OOD_ROOMS}
ROOM_OF = {place.rstrip("*"): room for room, places in ALL_ROOMS.items() for place in places}
CONTAINERS = {place.rstrip("*") for places in ALL_ROOMS.values() for place in places if place.endswith("*")}

FOOD = ["apple", "egg", "potato", "tomato", "bread", "carrot"]
DISHES = ["mug", "plate", "bowl", "knife", "spoon", "pan"]
THINGS = ["book", "pen", "phone", "watch", "letter", "candle"]
OOD_FOOD, OOD_DISHES, OOD_THINGS = ["onion", "lemon"], ["jar", "fork"], ["map", "coin"]
OOD_OBJECTS = {*OOD_FOOD, *OOD_DISHES, *OOD_THINGS}

#: verb -> (the place it needs, the object's state after it)
TREATMENTS = {"wash": ("sink", "clean"), "heat": ("stove", "hot"), "cool": ("fridge", "cold")}
#: Places that no task puts an object into.
NO_STORAGE = {"stove", "lamp", "sink"}
_FOOD, _DISHES, _THINGS = {*FOOD, *OOD_FOOD}, {*DISHES, *OOD_DISHES}, {*THINGS, *OOD_THINGS}
#: kind of task -> the objects that it may be about
POOLS = {"put": _FOOD | _DISHES | _THINGS, "wash": _FOOD | _DISHES, "heat": _FOOD, "cool": _FOOD, "examine": _THINGS}
_JOINED_BY = {"wash": "in", "heat": "on", "cool": "in"}


def _into(place: str) -> str:
    """Return the preposition for putting something into a place, "in" or "on"."""
    return "in" if place in CONTAINERS or place == "sink" else "on"


class House(Environment):
    """Household tasks in generated houses, in pure Python. See the module's docstring."""

    spec = "house"
    in_process = True
    light = True
    max_steps = 30

    def __init__(self) -> None:
        self.task: dict = {}

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(SPLITS)

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        for number in range(SPLITS[split]):
            yield {"id": f"{split}/{number}", "split": split, "world": WORLD}

    def reset(self, task: dict) -> Observation:
        if task.get("world", WORLD) != WORLD:
            raise InputError(f"made for world {task['world']!r}, this is {WORLD!r}", "$.task.world")
        split, _, name = str(task.get("id", "")).partition("/")
        number, _, goal = name.partition("/")
        if split not in SPLITS or not number.isdecimal() or int(number) >= SPLITS[split]:
            raise InputError(f"house has no task {task.get('id')!r}", "$.task.id")
        self.task = task
        self._build(random.Random(f"{WORLD}/{split}/{number}"), split)
        if goal:
            self._set_goal(goal)
        return self._observe(self._describe())

    def _set_goal(self, goal: str) -> None:
        """Replace the goal: kind, object and place, such as `heat/apple/bed`, in the same house."""
        kind, target, place = [*goal.split("/"), "", ""][:3]
        places = {"lamp"} if kind == "examine" else set(self.room_of) - NO_STORAGE - {self.where.get(target)}
        if goal.count("/") != 2 or target not in POOLS.get(kind, ()) or target not in self.where or place not in places:
            raise InputError(f"house has no task {self.task.get('id')!r}", "$.task.id")
        self.kind, self.target, self.goal = kind, target, place

    def kind_of(self, task: dict) -> str:
        """Return what the task asks for: put, wash, heat, cool or examine."""
        other = House()
        other.reset(task)
        return other.kind

    def _build(self, rng: random.Random, split: str) -> None:
        """Draw the house, the task in it and the state of the episode at its beginning."""
        wide = split == "ood" or (split == "play" and rng.random() < 0.3)
        self._furnish(rng, wide)
        food, dishes, things = FOOD, DISHES, THINGS
        if wide:
            food, dishes, things = food + OOD_FOOD, dishes + OOD_DISHES, things + OOD_THINGS
        kind = rng.choice(["put", "wash", "heat", "cool", "examine"])
        pool = [o for o in food + dishes + things if o in POOLS[kind]]
        if split == "ood":  # the object of the task is never one of the training tasks
            pool = [o for o in pool if o in OOD_OBJECTS]
        self.kind, self.target = kind, rng.choice(pool)
        others = rng.sample([o for o in food + dishes + things if o != self.target], rng.randint(5, 7))
        storage = [p for p in self.room_of if p not in NO_STORAGE]
        self.where = {o: rng.choice(storage) for o in [self.target, *others]}
        goals = [p for p in storage if p != self.where[self.target]]
        if split == "ood":  # and it goes into a room that they do not have
            goals = [p for p in goals if self.room_of[p] in OOD_ROOMS] or goals
        self.goal = "lamp" if kind == "examine" else rng.choice(goals)
        self.room = rng.choice(list(self.doors))
        self.held: str | None = None
        self.opened: set[str] = set()
        self.state: dict[str, set[str]] = {o: set() for o in self.where}
        self.examined = False
        self.over = False
        self.steps = 0
        self.seen_rooms: dict[str, None] = {}  # rooms that were entered; a dict keeps the order
        self.searched: set[str] = set()  # containers that have been open
        self._unknown: list[tuple[int, int]] | None = None  # unknown parts of the text that is being written

    def _furnish(self, rng: random.Random, wide: bool) -> None:
        """Draw the rooms, the doors between them and their places; `wide` adds rooms that `train` does not have."""
        names = ["kitchen", "lounge", *rng.sample(["bedroom", "bathroom", "study"], rng.choice([1, 2]))]
        if wide:
            names += rng.sample(list(OOD_ROOMS), rng.choice([1, 2]))
        rng.shuffle(names)
        self.doors: dict[str, list[str]] = {name: [] for name in names}
        for i, name in enumerate(names[1:], 1):
            other = rng.choice(names[:i])
            self.doors[name].append(other)
            self.doors[other].append(name)
        self.room_of: dict[str, str] = {}
        for name in names:
            places = [p.rstrip("*") for p in ALL_ROOMS[name]]
            if name not in ("kitchen", "lounge"):  # those two have the places that treatments need
                chosen = rng.sample(places, 2) if len(places) > 2 else places
                places = [p for p in places if p in chosen]
            self.room_of.update({p: name for p in places})

    def instruction(self) -> str:
        if self.kind == "examine":
            return f"Look at the {self.target} under the lamp."
        adjective = f"{TREATMENTS[self.kind][1]} " if self.kind in TREATMENTS else ""
        return f"Put the {adjective}{self.target} {_into(self.goal)} the {self.goal}."

    # -- observations --------------------------------------------------------------------------------------------

    def _contents(self, place: str) -> list[str]:
        return sorted(o for o, p in self.where.items() if p == place)

    def _describe(self) -> str:
        """Return a description of the current room, and note that it was entered."""
        sentences = [f"You are in the {self.room}. You see {', '.join(map(self._in_sight, self._places()))}."]
        sentences.append(f"Doors: {', '.join(sorted(self.doors[self.room]))}.")
        if self.room not in self.seen_rooms:
            self._unknown = [(sentences[0].index("You see ") + len("You see "), len(" ".join(sentences)))]
        self.seen_rooms[self.room] = None
        if self.held:
            sentences.append(f"You hold the {self.held}.")
        return " ".join(sentences)

    def _places(self) -> list[str]:
        return [p for p, room in self.room_of.items() if room == self.room]

    def _in_sight(self, place: str) -> str:
        """Return the visible contents of a place, each object with the place, so that each can be read by itself."""
        if place in CONTAINERS and place not in self.opened:
            return f"{place} closed"
        return ", ".join(f"{o} {_into(place)} {place}" for o in self._contents(place)) or f"{place} empty"

    def _visible(self) -> dict[str, str]:
        """Return the objects that can be taken in the current room: object -> place."""
        here = [p for p in self._places() if p not in CONTAINERS or p in self.opened]
        return {o: p for p in here for o in self._contents(p)}

    def _observe(self, text: str, valid: bool = True) -> Observation:
        done_parts = [self.kind not in TREATMENTS or TREATMENTS[self.kind][1] in self.state[self.target]]
        done_parts.append(self.examined if self.kind == "examine" else self.where[self.target] == self.goal)
        success = all(done_parts)
        self.over = self.over or success
        if success and valid:
            text += " The task is done."
        score = 1.0 if success else (0.5 if self.kind in TREATMENTS and done_parts[0] else 0.0)
        unknown, self._unknown = self._unknown or [], None
        return Observation(text, done=self.over, score=score, valid=valid, success=success, unknown=unknown)

    # -- acting --------------------------------------------------------------------------------------------------

    def admissible(self) -> list[str]:
        actions = [f"go to {room}" for room in sorted(self.doors[self.room])]
        for place in self._places():
            if place in CONTAINERS:
                actions.append(f"{'close' if place in self.opened else 'open'} {place}")
        if self.held is None:
            actions += [f"take {o} from {p}" for o, p in self._visible().items()]
            return actions
        for place in self._places():
            if place not in CONTAINERS or place in self.opened:
                actions.append(f"put {self.held} {_into(place)} {place}")
        for verb, (place, _) in TREATMENTS.items():
            if place in self._places():
                actions.append(f"{verb} {self.held} {_JOINED_BY[verb]} {place}")
        if "lamp" in self._places():
            actions.append(f"look at {self.held} under lamp")
        return actions

    def step(self, action: str) -> Observation:
        self.steps += 1
        words = canonical(action).split()
        words = [w for w in words if w != "the"]
        if self.over:
            return self._observe("The task is over.", valid=False)
        match words:
            case ["look"]:
                return self._observe(self._describe())
            case ["go", "to", room]:
                return self._go(room)
            case ["open" | "close" as verb, place]:
                return self._open_or_close(verb, place)
            case ["take", thing, "from", place]:
                return self._take(thing, place)
            case ["put", thing, "in" | "on", place]:
                return self._put(thing, place)
            case ["wash" | "heat" | "cool" as verb, thing, "in" | "on" | "with", place]:
                return self._treat(verb, thing, place)
            case ["look", "at", thing, "under", "lamp"]:
                return self._examine(thing)
        return self._no("That is not something you can do here.")

    def _no(self, reason: str) -> Observation:
        return self._observe(reason, valid=False)

    def _absent(self, place: str) -> Observation | None:
        return None if place in self._places() else self._no(f"There is no {place} here.")

    def _not_held(self, thing: str) -> Observation | None:
        return None if self.held == thing else self._no(f"You do not hold the {thing}.")

    def _shut(self, place: str) -> Observation | None:
        if place in CONTAINERS and place not in self.opened:
            return self._no(f"The {place} is closed.")
        return None

    def _go(self, room: str) -> Observation:
        if room == self.room:
            return self._no(f"You are in the {room} already.")
        if room not in self.doors[self.room]:
            return self._no(f"No door leads to the {room} from here.")
        self.room = room
        return self._observe(self._describe())

    def _open_or_close(self, verb: str, place: str) -> Observation:
        if refused := self._absent(place):
            return refused
        if place not in CONTAINERS:
            return self._no(f"You cannot {verb} the {place}.")
        is_open = place in self.opened
        if is_open == (verb == "open"):
            return self._no(f"The {place} is {'open' if is_open else 'closed'} already.")
        if verb == "close":
            self.opened.discard(place)
            return self._observe(f"You close the {place}.")
        self.opened.add(place)
        head = f"You open the {place}. You see "
        text = f"{head}{self._in_sight(place)}."
        if place not in self.searched:
            self._unknown = [(len(head), len(text))]
        self.searched.add(place)
        return self._observe(text)

    def _take(self, thing: str, place: str) -> Observation:
        if refused := self._absent(place) or self._shut(place):
            return refused
        if self.where.get(thing) != place:
            return self._no(f"There is no {thing} {_into(place)} the {place}.")
        if self.held:
            return self._no(f"Your hands are full: you hold the {self.held}.")
        self.held, self.where[thing] = thing, ""
        return self._observe(f"You take the {thing} from the {place}.")

    def _put(self, thing: str, place: str) -> Observation:
        if refused := self._absent(place) or self._not_held(thing) or self._shut(place):
            return refused
        self.held, self.where[thing] = None, place
        return self._observe(f"You put the {thing} {_into(place)} the {place}.")

    def _treat(self, verb: str, thing: str, place: str) -> Observation:
        if refused := self._absent(place) or self._not_held(thing):
            return refused
        needed, becomes = TREATMENTS[verb]
        if place != needed:
            return self._no(f"You cannot {verb} anything {_into(place)} the {place}.")
        if becomes in ("hot", "cold"):
            self.state[thing] -= {"hot", "cold"}
        self.state[thing].add(becomes)
        return self._observe(f"You {verb} the {thing} {_JOINED_BY[verb]} the {place}. It is {becomes} now.")

    def _examine(self, thing: str) -> Observation:
        if refused := self._absent("lamp") or self._not_held(thing):
            return refused
        self.examined = self.examined or thing == self.target
        return self._observe(f"You look at the {thing} under the lamp.")

    def achieved(self, task: dict, actions: Sequence[str]) -> list[tuple[int, dict]]:
        """Return the task that the last action solves: an object put elsewhere, treated once at most, or examined."""
        world = House()
        world.reset(task)
        world.kind, world.goal = "put", "nowhere"  # no action ends the episode
        home = dict(world.where)
        treated: dict[str, list[str]] = {}
        for action in actions:
            if not world.step(action).valid:
                return []
            verb, thing, *_ = [word for word in canonical(action).split() if word != "the"]
            if verb in TREATMENTS:
                treated.setdefault(thing, []).append(verb)
        match [word for word in canonical(actions[-1]).split() if word != "the"]:
            case ["put", thing, _, place]:
                kinds = treated.get(thing, ["put"])
            case ["look", "at", thing, "under", place]:
                kinds = ["examine"] if thing not in treated else []
            case _:
                return []
        possible = kinds == ["examine"] or (place not in NO_STORAGE and place != home[thing])
        if len(kinds) != 1 or thing not in POOLS[kinds[0]] or not possible:
            return []
        split, number = str(task["id"]).split("/")[:2]
        name = f"{split}/{number}/{kinds[0]}/{thing}/{place}"
        return [(0, {"id": name, "split": split, "world": WORLD})]

    def fork(self) -> House:
        fork = object.__new__(House)  # faster than copy.copy, and a rollout forks in every state
        vars(fork).update(vars(self))
        fork.where, fork.opened = dict(self.where), set(self.opened)
        fork.state = {o: set(s) for o, s in self.state.items()}
        fork.seen_rooms, fork.searched = dict(self.seen_rooms), set(self.searched)
        return fork

    # -- the expert ----------------------------------------------------------------------------------------------

    def expert(self) -> str | None:
        """Return the expert's action.

        It searches what is in sight, then the nearest room not entered yet, treats the object, and brings it where it
        belongs.
        """
        if self.over:
            return None
        if self.held and self.held != self.target:  # only after actions that are not the expert's own
            return self._put_down()
        if self.held is None:
            return self._fetch()
        if self.kind == "examine":
            return self._at_place("lamp", f"look at {self.target} under lamp")
        if self.kind in TREATMENTS and TREATMENTS[self.kind][1] not in self.state[self.target]:
            place = TREATMENTS[self.kind][0]
            return self._at_place(place, f"{self.kind} {self.target} {_JOINED_BY[self.kind]} {place}")
        return self._at_place(self.goal, f"put {self.target} {_into(self.goal)} {self.goal}", opened=True)

    def explain(self) -> str | None:
        """Return what the task still needs, where its object is and where it has to go; no action.

        These are facts that were observed or are general knowledge. Thoughts that also said what was not searched yet
        and which door leads on were no better, and their first error misled the rest of the episode
        (docs/learning.md).
        """
        if self.over:
            return None
        verb, place = self._needed()
        parts = [f"Still needed: {verb} {self.target}, {place}."]
        known = self.where[self.target]
        if self.held == self.target:
            closed = place in CONTAINERS and place in self._places() and place not in self.opened
            parts += [f"{self.target}: I hold it.", f"{place}: {self._room(ROOM_OF[place])}{', closed' * closed}."]
        elif self.held:
            parts.append(f"I hold the {self.held}, which is not needed.")
        elif known and self.room_of[known] in self.seen_rooms and (known in self.searched or known not in CONTAINERS):
            parts.append(f"{self.target} {_into(known)} {known}: {self._room(self.room_of[known])}.")
        else:
            parts.append(f"{self.target}: not seen yet.")
        return " ".join(parts)

    def _needed(self) -> tuple[str, str]:
        """Return what the task asks for next: verb and place."""
        if self.kind == "examine":
            return "look at", "lamp"
        if self.kind in TREATMENTS and TREATMENTS[self.kind][1] not in self.state[self.target]:
            return self.kind, TREATMENTS[self.kind][0]
        return "put", self.goal

    def _room(self, room: str) -> str:
        return "here" if room == self.room else f"in the {room}"

    def _put_down(self) -> str:
        """Return the action towards putting down the object that is held."""
        places = sorted(self._places(), key=lambda p: p in CONTAINERS)
        free = next((p for p in places if p not in CONTAINERS or p in self.opened), None)
        return f"put {self.held} {_into(free)} {free}" if free else f"open {places[0]}"

    def _fetch(self) -> str:
        """Return the action towards finding and taking the object of the task."""
        if self.target in self._visible():
            return f"take {self.target} from {self.where[self.target]}"
        known = self.where[self.target]
        if known and self.room_of[known] in self.seen_rooms and (known in self.opened or known not in CONTAINERS):
            return f"go to {self._towards({self.room_of[known]})}"
        for place in self._places():
            if place in CONTAINERS and place not in self.opened:
                return f"open {place}"
        unsearched = {
            r
            for r in self.seen_rooms
            if any(p in CONTAINERS and p not in self.opened for p, at in self.room_of.items() if at == r)
        }
        unseen = {d for r in self.seen_rooms for d in self.doors[r]} - set(self.seen_rooms)
        return f"go to {self._towards(unseen | unsearched)}"

    def _at_place(self, place: str, action: str, opened: bool = False) -> str:
        """Return an action at a place, which may have to be open, if it is here; else the action towards it."""
        if place in self._places():
            closed = opened and place in CONTAINERS and place not in self.opened
            return f"open {place}" if closed else action
        room = ROOM_OF[place]
        known = {d for r in self.seen_rooms for d in [r, *self.doors[r]]}
        unseen = known - set(self.seen_rooms)
        return f"go to {self._towards({room} if room in known else unseen)}"

    def _towards(self, rooms: set[str]) -> str:
        """Return the door on a shortest way, through rooms entered so far, to one of `rooms`."""
        paths = [[self.room]]
        visited = {self.room}
        for path in paths:
            if path[-1] in rooms and len(path) > 1:
                return path[1]
            if path[-1] in self.seen_rooms:
                for door in sorted(self.doors[path[-1]]):
                    if door not in visited:
                        visited.add(door)
                        paths.append([*path, door])
        raise AssertionError(f"no way from {self.room} to {sorted(rooms)}")

"""Make the tiny base model that ships with eexp, from nothing, in under an hour on one core.

The model is a Llama of about one million parameters with a byte-level BPE of its own. It is trained on transcripts of
*random* play in houses that no other split uses, with questions in between about what was seen and what the task says.
So it reads the world's language, as a base model does, and it cannot act: no action that it saw was chosen for a
reason.

    export OMP_NUM_THREADS=1
    python recipes/tiny/make_tiny.py -o stage1
    python recipes/tiny/make_tiny.py -o stage2 --init stage1 --seed 1 --lr 2e-3 --episodes 9500
    python recipes/tiny/make_tiny.py -o stage3 --init stage2 --seed 2 --lr 1e-3 --episodes 5000 --sayings 12000
    python recipes/tiny/make_tiny.py -o eexp/data/tiny --init stage3 --seed 3 --lr 1e-3 --episodes 1500 \\
        --sayings 40000

The last two stages teach words. Play and questions use 172 of the 689 tokens. An adapter does not change the
embeddings, so it cannot teach a token that was never trained. Trained on thoughts in other words, an adapter stayed at
1.2 nats a token after the second stage, and at 0.2 after the third; after the fourth it reaches 0.01. In these stages
the model therefore repeats sentences that it is given, in words that no question has.

These commands make a base that does not know the world, for studies. It has read rooms and answered questions about
them, and it has seen no action and no outcome.

    python recipes/tiny/make_tiny.py -o reader1 --no-actions
    python recipes/tiny/make_tiny.py -o reader --no-actions --init reader1 --seed 3 --lr 1e-3 --episodes 3000 \\
        --sayings 40000
"""

from __future__ import annotations

import random
import re

from small_model import GO_ON, HELD_OUT, STAGE_WORDS, arguments, interview, make, render, stage_of

from eexp.envs.worlds.house import (
    ALL_ROOMS,
    CONTAINERS,
    DISHES,
    FOOD,
    OOD_OBJECTS,
    ROOM_OF,
    SPLITS,
    THINGS,
    TREATMENTS,
    House,
    _into,
)
from eexp.prompts import get_style


def episode_length(rng: random.Random, longest: int, stage: int) -> int:
    """Draw the steps of a random play: mostly few, where questions are cheap, and sometimes as many as an episode."""
    chance = rng.random()
    if stage > 1:
        return rng.randint(0, 1) if chance < 0.4 else rng.randint(2, 6) if chance < 0.85 else rng.randint(7, longest)
    if chance < 0.8:
        return rng.randint(0, 1)
    return rng.randint(2, 5) if chance < 0.92 else rng.randint(6, longest)


def random_play(env: House, task: dict, rng: random.Random, steps: int, stage: int) -> list[dict]:
    """Return messages of one episode of random actions, with questions in between; a later stage has more kinds."""
    style = get_style("react")
    observation = env.reset(task)
    places: dict[str, str] = {}  # object -> where it was last seen
    rooms: set[str] = set()
    messages = [{"role": "system", "content": style.acting.system}]
    text = f"{style.acting.task_label} {env.instruction()}\n{observation.text}"
    for turn in range(steps + 1):
        places.update(env._visible())
        rooms.add(env.room)
        kinds = QUESTIONS + LATER_QUESTIONS * 2 if stage > 1 else QUESTIONS
        kinds = rng.sample(kinds, rng.choice([2, 3, 4] if steps < 4 else [0, 1, 2]))
        if env.target in env._visible() and rng.random() < 0.7:
            kinds = [rng.choice([ask_target_in_sight, ask_wanted]), *kinds]
        questions = interview(text, [ask(env, places, rooms, rng) for ask in dict.fromkeys(kinds)])
        messages += questions
        text = GO_ON if questions else text
        if turn == steps or observation.done:
            break
        action = random_action(env, rng, by_verb=stage > 1)
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": style.answer(action).text}]
        if action.startswith("take "):
            places.pop(action.split()[1], None)
        observation = env.step(action)
        text = observation.text
    return messages if text == GO_ON else [*messages, {"role": "user", "content": text}]


def room_tour(env: House, task: dict, rng: random.Random, steps: int) -> list[dict]:
    """Return messages that show rooms of a house one after another, with questions in between.

    Between two rooms things happen that are not shown, so no text says what an action leads to. Nothing is handled
    but taken up, so that what has been read of other things stays true.
    """
    style = get_style("react")
    env.reset(task)
    places: dict[str, str] = {}  # object -> where it was last seen
    messages = [{"role": "system", "content": style.acting.system}]
    text = f"{style.acting.task_label} {env.instruction()}\n"
    for turn in range(steps + 1):
        for _ in range(rng.randint(0, 4) if turn else 0):
            moves = [a for a in env.admissible() if a.split()[0] in ("go", "open")]
            moves += [a for a in env.admissible() if a.startswith("take") and rng.random() < 0.1]
            action = rng.choice(moves)
            env.step(action)
            if action.startswith("take "):
                places.pop(action.split()[1], None)
        places.update(env._visible())
        text += env._describe()
        kinds = rng.sample(READING_QUESTIONS, rng.choice([2, 3, 4] if steps < 4 else [0, 1, 2]))
        if env.target in env._visible() and rng.random() < 0.7:
            kinds = [rng.choice([ask_target_in_sight, ask_wanted]), *kinds]
        kinds = dict.fromkeys(kinds) or [ask_held]
        messages += interview(text, [ask(env, places, {env.room}, rng) for ask in kinds])
        text = ""
    return messages


def random_action(env: House, rng: random.Random, by_verb: bool) -> str:
    """Draw an admissible action, or one time in ten another; `by_verb` draws a verb first, for more handling."""
    if rng.random() < 0.9:
        actions = env.admissible()
        verb = rng.choice(sorted({a.split()[0] for a in actions})) if by_verb else ""
        return rng.choice([a for a in actions if a.startswith(verb)])
    places = [p.rstrip("*") for ps in ALL_ROOMS.values() for p in ps]
    thing, place = rng.choice(list(env.where)), rng.choice(places)
    return rng.choice(
        [
            f"go to {rng.choice(list(ALL_ROOMS))}",
            f"open {place}",
            f"close {place}",
            "look",
            f"take {thing} from {place}",
            f"put {thing} on {place}",
        ]
    )


# -- questions that reading the transcript answers: (env, known, rooms, rng) -> question, answer ---------------------


def ask_where(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(list(places) or [env.target])
    return f"Where is the {thing}?", whereabouts(env, places, thing)


def ask_where_in_sight(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(list(env._visible()) or [env.target])
    return f"Where is the {thing}?", whereabouts(env, places, thing)


def ask_where_target(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "Where is what the task is about?", whereabouts(env, places, env.target)


def whereabouts(env: House, places: dict, thing: str) -> str:
    if env.held == thing:
        return f"{thing}: you hold it"
    return f"{thing} {_into(places[thing])} {places[thing]}" if thing in places else f"{thing}: not seen"


def ask_in_sight(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    here = env._visible()
    thing = rng.choice(list(here)) if here and rng.random() < 0.5 else rng.choice(list(env.where))
    return f"Is the {thing} in sight?", sight(env, thing)


def ask_target_in_sight(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "Is what the task is about in sight?", sight(env, env.target)


def sight(env: House, thing: str) -> str:
    if env.held == thing:
        return f"you hold the {thing}"
    place = env._visible().get(thing)
    return f"yes, {thing} {_into(place)} {place}" if place else f"no {thing}"


def ask_wanted(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    place = env._visible().get(env.target)
    return "What here does the task speak of?", f"{env.target} {_into(place)} {place}" if place else "nothing"


def ask_goal(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "Where does it belong?", f"{_into(env.goal)} the {env.goal}"


def ask_goal_here(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    here = "yes" if env.goal in env._places() else "no"
    return "Is the place where it belongs here?", f"{here}, {env.goal}"


def ask_closed(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    closed = [p for p in env._places() if p in CONTAINERS and p not in env.opened]
    return "What is closed here?", ", ".join(closed) or "nothing"


def ask_held(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "What do you hold?", env.held or "nothing"


def ask_doors(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    doors = [room for room in sorted(env.doors[env.room]) if room not in rooms]
    return "Which doors have you not gone through?", ", ".join(doors) or "none"


def ask_state(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "How is it now?", f"{env.target}: {', '.join(sorted(env.state[env.target])) or 'as it was'}"


QUESTIONS = [
    ask_where,
    ask_where_in_sight,
    ask_where_target,
    ask_in_sight,
    ask_target_in_sight,
    ask_wanted,
    ask_goal,
    ask_goal_here,
    ask_closed,
    ask_held,
    ask_doors,
    ask_state,
]

# Questions that the text of rooms answers: it does not say what was done to an object, nor which rooms were visited.
READING_QUESTIONS = [ask for ask in QUESTIONS if ask not in (ask_doors, ask_state)]


def ask_how(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "How must it be?", TREATMENTS[env.kind][1] if env.kind in TREATMENTS else "as it is"


def ask_needed(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    verb, place = needed(env)
    return "What does the task still need?", f"{verb} {env.target} {_into(place)} {place}"


def ask_needed_here(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    _, place = needed(env)
    here = "yes" if place in env._places() else "no"
    return "Is the place for that here?", f"{here}, {place} is in the {ROOM_OF[place]}"


def ask_room(env: House, places: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    place = rng.choice(list(ROOM_OF))
    return f"Which room has a {place}?", ROOM_OF[place]


def needed(env: House) -> tuple[str, str]:
    """Return the verb and the place of what the task's words require and has not happened yet."""
    if env.kind == "examine":
        return "look", "lamp"
    place, becomes = TREATMENTS.get(env.kind, ("", ""))
    return ("put", env.goal) if not place or becomes in env.state[env.target] else (env.kind, place)


_ALL_NOUNS = sorted([*ALL_ROOMS, *ROOM_OF, *FOOD, *DISHES, *THINGS, *OOD_OBJECTS], key=len, reverse=True)
NOUNS = re.compile(rf"\b({'|'.join(_ALL_NOUNS)})\b")


def invent(rng: random.Random) -> str:
    """Return a name of two or three syllables; there are some 700,000."""
    return "".join(
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + (rng.choice("lmnrs") if rng.random() < 0.4 else "")
        for _ in range(rng.choice([2, 2, 3]))
    )


def renamed(messages: list[dict], rng: random.Random) -> list[dict]:
    """Return messages in which all rooms, places and objects have invented names, so that only reading helps."""
    names: dict[str, str] = {}

    def name(match: re.Match) -> str:
        return names.setdefault(match[0], invent(rng))

    return [{**message, "content": NOUNS.sub(name, message["content"])} for message in messages]


LATER_QUESTIONS = [ask_how, ask_needed, ask_needed_here, ask_room]


def main() -> None:
    parser = arguments(__doc__ or "", episodes=22_000, context=2048)
    parser.add_argument("--steps", type=int, default=30, help="longest random play")
    parser.add_argument(
        "--unseen",
        type=float,
        default=0.8,
        help="share left out of houses where the task's object is not in sight at once",
    )
    parser.add_argument("--no-actions", action="store_true", help="show rooms only, no action and no outcome")
    parser.add_argument(
        "--renamed", type=float, default=0.0, help="share of episodes with invented names for all things"
    )
    args = parser.parse_args()

    env, style = House(), get_style("react")
    rng = random.Random(args.seed)
    numbers = rng.sample(range(SPLITS["play"]), SPLITS["play"])
    texts = []
    stage = stage_of(args.init) + 1
    while len(texts) < args.episodes + HELD_OUT:
        n = numbers.pop()
        one = random.Random(f"{args.seed}/{n}")
        task = {"id": f"play/{n}", "split": "play"}
        env.reset(task)
        if env.target not in env._visible() and one.random() < args.unseen:
            continue
        length = episode_length(one, args.steps, stage)
        played = room_tour(env, task, one, length) if args.no_actions else random_play(env, task, one, length, stage)
        if args.renamed and one.random() < (0.5 if len(texts) < HELD_OUT else args.renamed):
            played = renamed(played, one)
        texts.append(render(played[1:] if one.random() < args.bare else played))
    words = style.predicting
    make(texts, [words.system, words.request, words.open, words.close, STAGE_WORDS], args)


if __name__ == "__main__":
    main()

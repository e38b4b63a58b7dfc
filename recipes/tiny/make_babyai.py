"""Make a small base model for `babyai`, from the tiny one, in about 40 minutes on one core.

This does what make_tiny.py does for `house`. The model is trained on random play in mazes whose seeds no split has,
with questions in between about what is in view and what the mission says. So it reads positions and missions, and no
action that it saw was chosen for a reason.

    export OMP_NUM_THREADS=1
    python recipes/tiny/make_babyai.py -o stage1 --init eexp/data/tiny --seed 7 --lr 2e-3 --weight-decay 0 \\
        --tokens-per-batch 512 --glances 1 --episodes 4000
    python recipes/tiny/make_babyai.py -o stage2 --init stage1 --seed 10 --lr 2e-3 --weight-decay 0 \\
        --tokens-per-batch 768 --glances 0.25 --episodes 18000
    python recipes/tiny/make_babyai.py -o babyai-base --init stage2 --seed 11 --lr 1e-3 --weight-decay 0 \\
        --tokens-per-batch 768 --glances 0.25 --episodes 2000 --sayings 40000

The last stage keeps the words of thoughts probable. "So", "Thought" and "I" do not occur in the other stages, whose
training makes them improbable, and an adapter then spends its updates on them (1.5 nats each after 400 updates, and
0.02 with the last stage).

The model starts from the tiny one, which can look things up. From nothing, it did not learn that in an hour: six
colours occur in all pairs with four kinds of things, so a model that cannot tell the colours apart yet treats them as
one word, and weight decay keeps their embeddings alike (cosine 0.97).
"""

from __future__ import annotations

import random
from itertools import pairwise

from small_model import GO_ON, HELD_OUT, STAGE_WORDS, arguments, interview, make, render

from eexp.envs.worlds.babyai import ACTIONS, BabyAI, _named, _place, _walls
from eexp.prompts import get_style

FIRST_SEED = 2_000_000  # beyond those of all splits
LEVELS = ("GoToLocalS8N5", "PickupDist", "OpenDoor", "PutNextLocalS6N4")
GLANCED = (
    "GoToLocalS5N2",
    "GoToLocalS6N3",
    "GoToLocalS7N4",
    "GoToLocalS8N5",
    "GoToLocalS8N6",
    "PickupDist",
    "PutNextLocalS6N4",
    "GoToLocalS8N7",
)
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
KINDS = ("ball", "box", "key", "door")


def things(env: BabyAI) -> list[tuple[str, tuple[int, int]]]:
    """Return the objects in view without the walls, nearest first: name without an article, and position."""
    view = env._view()
    return [(f"{thing.color} {thing.type}", at) for at, thing in view.items() if thing and thing.type != "wall"]


def wanted(env: BabyAI) -> list[str]:
    """Return the objects that the mission names by colour and kind."""
    words = env.instruction().split()
    return [f"{a} {b}" for a, b in pairwise(words) if a in COLOURS and b in KINDS]


def where(env: BabyAI, name: str) -> str:
    return next((f"{name} {_place(*at)}" for thing, at in things(env) if thing == name), f"no {name} in view")


def side(env: BabyAI, name: str) -> str:
    """Return the side on which the nearest object of a name is."""
    at = next((at for thing, at in things(env) if thing == name), None)
    if at is None:
        return f"no {name} in view"
    return "straight ahead" if at[1] == 0 else f"{'left' if at[1] < 0 else 'right'}{', ahead' if at[0] else ''}"


def any_name(env: BabyAI, rng: random.Random) -> str:
    here = things(env)
    if here and rng.random() < 0.75:
        return rng.choice(here)[0]
    return f"{rng.choice(COLOURS)} {rng.choice(KINDS)}"


def ask_where(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    name = any_name(env, rng)
    return f"Where is the {name}?", where(env, name)


def ask_side(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    name = any_name(env, rng)
    return f"On which side is the {name}?", side(env, name)


def ask_wanted(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    names = wanted(env)
    return "Where is what the mission is about?", ", ".join(where(env, n) for n in names) or "it does not say"


def ask_wanted_side(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    names = wanted(env)[:1]
    return "On which side is it?", ", ".join(side(env, n) for n in names) or "it does not say"


def ask_what(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    here = things(env)
    name, at = rng.choice(here) if here else ("", (1, 0))
    return f"What is {_place(*at)}?", name or "nothing"


def ask_ahead(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    thing = env._view().get((1, 0))
    return "What is right ahead?", "nothing" if thing is None else "a wall" if thing.type == "wall" else _named(thing)


def ask_wall(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    ahead = next((words for _, words in _walls(env._view()) if words.endswith("ahead")), "no wall in view")
    return "How far is the wall ahead?", ahead


def ask_carried(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    return "What do you carry?", _named(env._world.carrying)


def ask_first(env: BabyAI, rng: random.Random) -> tuple[str, str]:
    here = things(env)
    return "What is nearest?", here[0][0] if here else "nothing"


QUESTIONS = [
    ask_where,
    ask_where,
    ask_side,
    ask_side,
    ask_wanted,
    ask_wanted,
    ask_wanted_side,
    ask_what,
    ask_ahead,
    ask_wall,
    ask_carried,
    ask_first,
]
# These take longest to learn: they need a match of colour and kind at once.
FINDING = [ask_where, ask_where, ask_side, ask_wanted, ask_first]


def glance(env: BabyAI, rng: random.Random) -> list[dict]:
    """Return messages of one look at a room, with many questions."""
    style = get_style("react")
    text = f"{style.acting.task_label} {env.instruction()}\n{env._describe()[0]}"
    answers = dict.fromkeys(rng.choice(FINDING)(env, rng) for _ in range(10))
    return [{"role": "system", "content": style.acting.system}, *interview(text, answers)]


def random_play(env: BabyAI, rng: random.Random, steps: int) -> list[dict]:
    """Return messages of one episode of random actions, with questions in between."""
    style = get_style("react")
    messages = [{"role": "system", "content": style.acting.system}]
    text, over = f"{style.acting.task_label} {env.instruction()}\n{env._describe()[0]}", False
    for turn in range(steps + 1):
        kinds = rng.sample(QUESTIONS, rng.choice([2, 3, 4] if steps < 4 else [0, 1, 2]))
        questions = interview(text, [ask(env, rng) for ask in dict.fromkeys(kinds)])
        messages += questions
        text = GO_ON if questions else text
        if turn == steps or over:
            break
        action = rng.choice(env.admissible() if rng.random() < 0.8 else list(ACTIONS))
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": style.answer(action).text}]
        observation = env.step(action)
        text, over = observation.text, observation.done
    return messages if text == GO_ON else [*messages, {"role": "user", "content": text}]


def main() -> None:
    parser = arguments(__doc__ or "", episodes=20_000, context=4096)
    parser.add_argument("--steps", type=int, default=24, help="longest random play")
    parser.add_argument(
        "--glances",
        type=float,
        default=0.0,
        metavar="P",
        help="the share of single looks with many questions; the rest is play",
    )
    args = parser.parse_args()

    env, texts = BabyAI(), []
    for n in range(args.episodes + HELD_OUT):
        rng = random.Random(f"{args.seed}/{n}")
        seed = FIRST_SEED + args.seed * 1_000_000 + n
        glanced = rng.random() < args.glances
        levels = GLANCED if glanced else LEVELS
        env.reset({"level": levels[n % len(levels)], "seed": seed})
        env._bot = None  # the expert is not used, and its plans take most of the time
        if glanced:
            for _ in range(rng.randint(0, 6)):  # unseen
                env._world.step(env._world.actions[rng.choice(["left", "right", "forward"])])
            texts.append(render(glance(env, rng)[rng.randint(0, 1) :]))
            continue
        draw = rng.random()
        steps = rng.randint(0, 1) if draw < 0.7 else rng.randint(2, 5) if draw < 0.93 else rng.randint(6, args.steps)
        played = random_play(env, rng, steps)
        texts.append(render(played[1:] if rng.random() < args.bare else played))
    words = get_style("react").predicting
    actions = " ".join(f"Action: {action}" for action in ACTIONS)
    make(texts, [words.system, words.request, words.open, words.close, STAGE_WORDS, actions], args)


if __name__ == "__main__":
    main()

"""eexp's games of ALFWorld against those of the package: the same, in everything that is said or asked."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("alfworld", reason="needs `pip install alfworld`")
pytest.importorskip("fast_downward", reason="needs `pip install fast-downward-textworld`")

from eexp.envs import open_env
from eexp.envs.worlds import alfworld

STEPS = 20
#: Texts that ask for what the games' own grammar may not, of every kind of symbol.
TEXTS = [
    "no symbol at all",
    "{r.name or r.id} and {o}",
    "[{o.indefinite + ' ' + o.name | inreceptacle(o:object, r:receptacle)}].",
    "{o.name + ';' | inreceptacle(o:object, r:receptacle)}",
    "[{#overview(r)# | receptacleatlocation(r:receptacle, l:location)}]",
    "[{r.name}], {#overview(r)#}",
    "{len(context['facts'])} facts, {sorted(context['variables'])}",
    "{sorted(v.name for v in context['mapping'].values())}",
    "#examineObject.feedback# #inventory.feedback# #look.feedback#",
    "[{o.name | inreceptacle(o:object, r:receptacle) & isclean(o:object)}]",
]


@pytest.fixture(scope="module")
def files(alfworld_games):
    return sorted(Path(alfworld_games).rglob("game.tw-pddl"))


@contextmanager
def both(plans: bool = True):
    """Yield the package's environment and eexp's, with what they change for the process restored afterwards."""
    alfworld._check_installed(Path("data"))
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.core import EnvInfos
    from textworld.envs.pddl import PddlEnv

    with alfworld._global_state_restored():
        yield AlfredDemangler(PddlEnv(EnvInfos(admissible_commands=True))), alfworld._environment(plans)


def compare(theirs, ours, one, other, plans: bool = False) -> None:
    """Compare two states: the text, the end, the list and the facts; with `plans` also the rest of the plan."""
    assert other.feedback == one.feedback and other["won"] == one["won"]
    assert other["admissible_commands"] == one["admissible_commands"]
    facts = map(theirs.unwrapped._get_human_readable_fact, one["_facts"])
    assert ours.unwrapped.readable_facts(other) == sorted(facts, key=str)
    if plans:
        game = theirs.unwrapped
        assert ours.unwrapped.plan() == game._pddl_state.replan(game._entity_infos)


@pytest.mark.long
def test_a_game_says_what_the_package_says(files):
    rng, steps = random.Random(0), 0
    with both() as (theirs, ours):
        for file in files:
            theirs.load(str(file)), ours.load(str(file))
            for _ in range(2):
                one, other = theirs.reset(), ours.reset()
                compare(theirs, ours, one, other, plans=True)
                for _ in range(STEPS):
                    doing = [c for c in one["admissible_commands"] if not c.startswith(("go ", "look", "help"))]
                    choices = doing if rng.random() < 0.5 else [*one["admissible_commands"], "fly", ""]
                    command = f" {rng.choice(choices)}\n"
                    (one, *end), (other, *same) = theirs.step(command), ours.step(command)
                    assert same == end
                    compare(theirs, ours, one, other, plans=rng.random() < 0.1)
                    steps += 1
    assert steps == 2 * STEPS * len(files) >= 250


def test_the_translation_for_plans_is_not_needed_to_play(files):
    rng = random.Random(1)
    with both() as (_, planning), both(plans=False) as (_, ours):
        for file in files[:3]:
            planning.load(str(file)), ours.load(str(file))
            one, other = planning.reset(), ours.reset()
            for _ in range(STEPS):
                compare(planning, ours, one, other)
                planning.unwrapped.plan()  # which leaves the state of the game as it is
                command = rng.choice(one["admissible_commands"])
                one, other = planning.step(command)[0], ours.step(command)[0]


@pytest.mark.long
def test_texts_of_every_kind_are_derived_as_by_the_package(files):
    with both(plans=False) as (theirs, ours):
        for file in files[:3]:
            theirs.load(str(file)), ours.load(str(file))
            one, _ = theirs.reset(), ours.reset()
            for start in ("open", "take", "go to", "examine", "move"):
                command = next((c for c in one["admissible_commands"] if c.startswith(start)), "look")
                one, _ = theirs.step(command)[0], ours.step(command)
                for action in one["_valid_actions"][:6]:
                    assert derived(ours, action.mapping) == derived_by_the_package(theirs, action.mapping)


def derived(ours, mapping: dict) -> list[str]:
    game = ours.unwrapped
    return [attempted(game._grammar.derive, text, game._scope.with_objects(mapping)) for text in TEXTS]


def derived_by_the_package(theirs, mapping: dict) -> list[str]:
    game = theirs.unwrapped
    context = {
        "state": game._pddl_state,
        "facts": list(game._pddl_state.facts),
        "variables": {placeholder.name: game._entity_infos[v.name] for placeholder, v in mapping.items()},
        "mapping": mapping,
        "entity_infos": game._entity_infos,
    }
    return [attempted(game._logic.grammar.derive, text, context) for text in TEXTS]


def attempted(derive, *args) -> str:
    """Return the text, or the kind of the error: not every text fits every action."""
    try:
        return derive(*args)
    except (NameError, LookupError) as e:
        return type(e).__name__


def test_games_with_other_tasks_and_other_grammars_follow_each_other(files, tmp_path):
    """Games share what they have in common; a grammar of another form is read by itself."""
    sentence = "Your task is to: "
    variants = {
        "plain": lambda grammar: grammar.replace(sentence, f"{sentence}not "),
        "quoted": lambda grammar: grammar.replace(sentence, f'{sentence}\\"now\\" '),
        "symbols": lambda grammar: grammar.replace(sentence, f"{sentence}#list_empty#, "),
        "other words": lambda grammar: grammar.replace(sentence, "What to do: "),
        "twice": lambda grammar: grammar.replace(
            '"notImplemented"', '"again": [{"rhs": "Your task is to: x."}], "notImplemented"'
        ),
        "other rules": lambda grammar: grammar.replace("You open the", "Open stands the"),
    }
    data = json.loads(files[0].read_text())
    paths = [files[0]]
    for name, changed in variants.items():
        paths.append(tmp_path / name)
        paths[-1].write_text(json.dumps({**data, "grammar": changed(data["grammar"])}))
    said = set()
    with both(plans=False) as (theirs, ours):
        for path in [*paths, *paths[:2]]:
            theirs.load(str(path)), ours.load(str(path))
            one, other = theirs.reset(), ours.reset()
            compare(theirs, ours, one, other)
            said.add(other.feedback)
            for command in ("go to drawer 1", "open drawer 1"):
                one, other = theirs.step(command)[0], ours.step(command)[0]
                compare(theirs, ours, one, other)
            said.add(other.feedback)
    assert len(said) == 5 + 2  # five sentences, two ways to say what opening does


@pytest.mark.parametrize("expert", ["handcoded", "planner"])
def test_a_saved_state_goes_on_as_it_would_have(alfworld_games, expert):
    """Saved before every step, restored in any order: also across games, and with the expert asked or not."""
    rng = random.Random(2)
    with open_env(f"alfworld?data={alfworld_games}&expert={expert}") as env:
        saved = []
        for number, task in enumerate(list(env.tasks("train"))[:3]):
            observation = env.reset(task)
            while not observation.done and len(saved) < 12 * (number + 1):
                state, listed = env.save(), env.admissible()
                action = (rng.random() < 0.5 and env.expert()) or rng.choice(listed)
                observation = env.step(action)
                advice = env.expert() if rng.random() < 0.5 else None
                saved.append((state, listed, env.instruction(), action, observation, advice, env.admissible()))
        for state, listed, instruction, action, observation, advice, after in rng.choices(saved, k=60):
            env.restore(state)
            assert env.admissible() == listed and env.instruction() == instruction
            for _ in range(rng.randrange(3)):  # what happens meanwhile is forgotten
                env.expert()
                env.step(rng.choice(env.admissible() or ["look"]))
            env.restore(state)
            assert env.step(action) == observation and env.admissible() == after
            if advice is not None:
                assert env.expert() == advice


def test_states_take_no_memory_of_the_planner(alfworld_games):
    import resource

    with open_env(f"alfworld?data={alfworld_games}") as env:
        env.reset(list(env.tasks("train"))[2])
        env.step(env.expert())
        before = 0
        for n in range(1500):
            if n == 500:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            env.restore(env.save())
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_two_games_in_one_process_share_no_state(alfworld_games):
    with open_env(f"alfworld?data={alfworld_games}") as one, open_env(f"alfworld?data={alfworld_games}") as other:
        first, second = list(one.tasks("train"))[:2]
        alone = []
        one.reset(first)
        for _ in range(6):
            alone.append((one.step(one.expert()).text, one.admissible()))
        one.reset(first)
        other.reset(second)
        for expected in alone:
            other.step(other.admissible()[0])
            assert (one.step(one.expert()).text, one.admissible()) == expected

"""eexp's games of TextWorld against those of the package: the same, in everything that is said or asked."""

from __future__ import annotations

import random
from copy import copy
from ctypes import c_int
from pathlib import Path

import pytest
from running import lazily, needs_package

from eexp.envs import open_env
from eexp.envs.worlds.textworld import TextWorld

needs_package("textworld")
core = lazily("textworld.core")
helpers = lazily("textworld.helpers")
logic = lazily("textworld.logic")
tracking = lazily("eexp.envs.worlds.textworld_tracking")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Game .* is not fully supported"
)  # jericho warns of any game but old classics
STEPS = 40


@pytest.fixture(scope="module")
def files(textworld_games) -> list[Path]:
    return sorted(Path(textworld_games).rglob("*.z8"))


def both(file: Path) -> tuple:
    """Return the package's environment of a game, set up as eexp did until version 0.1, and eexp's."""
    package = helpers.start(str(file), core.EnvInfos(admissible_commands=True, policy_commands=True))
    package.seed(1)
    return package, tracking.TrackedGame(str(file))


def compare(theirs, ours, one, other, policy: bool = True) -> None:
    """Compare two states: the texts, the end, the score, the facts and the lists; with `policy` also what would win."""
    for name in ("raw", "feedback", "won", "lost", "score"):
        assert other[name] == one[name], name
    assert set(ours.situation._state.facts) == set(one["_facts"])
    assert ours.situation.actions == one["_valid_actions"]
    assert ours.situation.commands == one["admissible_commands"]
    assert ours.rules.game.max_score == one["max_score"] and ours.rules.game.objective == one["objective"]
    if policy:
        assert ours.situation.policy == one["policy_commands"]


def commands(rng: random.Random, state) -> str:
    """Return a command: often one that changes something, sometimes one that the game does not understand."""
    doing = [c for c in state["admissible_commands"] if not c.startswith(("look", "inventory", "examine"))]
    listed = doing if doing and rng.random() < 0.6 else state["admissible_commands"]
    return rng.choice([*listed, *(state["policy_commands"] or ["wait"])[:1] * 3, "fly", "take all", ""])


@pytest.mark.parametrize(
    "share", [pytest.param(1.0, marks=pytest.mark.long), 0.15], ids=["always asked", "seldom asked"]
)
def test_a_game_says_what_the_package_says(files, share):
    """The policy is the same however seldom it is asked for."""
    rng, steps = random.Random(0), 0
    for file in files:
        theirs, ours = both(file)
        for _ in range(2 if share == 1 else 1):
            one, other = theirs.reset(), ours.reset()
            compare(theirs, ours, one, other, rng.random() < share)
            for _ in range(STEPS):
                command = commands(rng, one)
                one, other = theirs.step(command)[0], ours.step(command)
                compare(theirs, ours, one, other, rng.random() < share)
                steps += 1
                if one["won"] or one["lost"]:
                    break
    assert steps >= (100 if share == 1 else 50)


@pytest.mark.long
def test_situations_go_on_in_several_ways(files):
    """Every situation of a tree, asked in any order, knows what the package knows after the same commands."""
    rng = random.Random(1)
    for file in files:
        theirs, ours = both(file)
        one, _ = theirs.reset(), ours.reset()
        reached = []
        for _ in range(6):
            for _ in range(2):
                branch, situation = theirs.copy(), ours.situation
                for action in rng.choices(one["_valid_actions"], k=2):
                    if action in branch.state["_valid_actions"]:
                        progression = branch._wrapped_env._game_progression
                        progression.update(action)
                        situation = situation.after(action)
                        branch._wrapped_env._current_winning_policy = progression.winning_policy
                        branch._wrapped_env._gather_infos()
                reached.append((situation, branch.state))
            command = commands(rng, one)
            one, _ = theirs.step(command)[0], ours.step(command)
            if one["won"] or one["lost"]:
                break
        for situation, state in rng.sample(reached, k=len(reached)):
            assert situation.actions == state["_valid_actions"]
            assert situation.policy == state["policy_commands"]


def test_quests_are_followed_over_more_actions_than_are_kept(files, monkeypatch):
    monkeypatch.setattr("eexp.envs.worlds.textworld_tracking._MOST_PENDING", 4)
    theirs, ours = both(files[-1])
    one, other = theirs.reset(), ours.reset()
    rng = random.Random(2)
    for _ in range(15):
        command = rng.choice([c for c in one["admissible_commands"] if not c.startswith(("look", "inventory"))])
        one, other = theirs.step(command)[0], ours.step(command)
        assert ours.situation._pending <= 4
    compare(theirs, ours, one, other)


def test_a_rule_with_a_free_placeholder_is_left_to_the_package(files):
    """No rule of the package's own games has a placeholder that is in none of its conditions."""
    game = tracking.TrackedGame(str(files[0])).rules.game
    assert all(conditions is not None for _, conditions in tracking.Rules(game).conditions)
    player, room, other = logic.Placeholder("P"), logic.Placeholder("r"), logic.Placeholder("r'", "r")
    rule = logic.Rule("jump", [logic.Predicate("at", [player, room])], [logic.Predicate("at", [player, other])])
    changed = copy(tracking.Rules(game))
    changed.conditions = [(rule, changed._conditions(rule))]
    assert changed.conditions[0][1] is None
    state, constants = game.world.state, changed.constants
    jumps = tracking.TrackedSituation(changed, tracking.TrackedFacts(state)).actions
    assert jumps == list(state.all_applicable_actions([rule], constants))
    assert len(jumps) == len(list(state.variables_of_type("r"))) - 1


def test_a_game_that_begins_again_is_as_new(textworld_games):
    """Whatever happened before, the end of the game included."""
    spec, rng = f"textworld?games={textworld_games}", random.Random(3)
    with open_env(spec) as env:
        for task in [task for split in env.splits() for task in env.tasks(split)]:
            with open_env(spec) as new:
                plays = []
                for number, played in enumerate((new, env, env, env)):
                    seen = [(played.reset(task), played.instruction(), played.admissible(), played.expert())]
                    actions = plays[0][1] if plays else []
                    for step in range(30):
                        if seen[-1][0].done:
                            break
                        action = (
                            actions[step] if plays else played.expert() or rng.choice(played.admissible() or ["look"])
                        )
                        if not plays:
                            actions.append(action)
                        observation = played.step(action)
                        seen.append((observation, played.instruction(), played.admissible(), played.expert()))
                    plays.append((seen, actions))
                    assert seen == plays[0][0]
                    if number == 1:  # something else in between, to the end of the game or not
                        played.reset(task)
                        for _ in range(20):
                            played.step(rng.choice(played.admissible() or ["look"]))


def test_a_halted_game_begins_again_and_goes_on_elsewhere(textworld_games):
    """An error in a game file halts its interpreter, and a state alone does not set it going again."""
    env = TextWorld(str(textworld_games))
    with env:
        task = next(env.tasks("train"))
        first, look = env.reset(task), env.step("look")
        state = env.save()
        for begins_again in (True, False):
            library = env._game.unwrapped._jericho.frotz_lib
            c_int.in_dll(library, "emulator_halted").value = 1
            assert "halted" in env.step("look").text
            if begins_again:
                assert env.reset(task) == first
            else:
                env.restore(state)
            assert env.step("look").text == look.text

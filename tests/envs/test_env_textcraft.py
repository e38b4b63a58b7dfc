"""TextCraft: its recipes, tasks and answers, the expert, forks, and tasks from records of AgentGym.

benchmarks/textcraft.py compares the game with AgentGym's own code, action by action.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from running import lines, outputs_of_python, run

from eexp.envs import open_env
from eexp.envs.worlds.crafting.book import RecipeBook
from eexp.envs.worlds.crafting.recipes import parse_recipe, read_directory
from eexp.envs.worlds.textcraft import RECIPES, TextCraft, split_of, tidied
from eexp.errors import EexpError, InputError, UsageError

ROOT = Path(__file__).parents[2]


def item(name: str, **more: int) -> dict:
    return {"item": f"minecraft:{name}", **more}


def tag(name: str) -> dict:
    return {"tag": f"minecraft:{name}"}


def shaped(result: dict, rows: str, group: str | None = None, **key: dict | list) -> dict:
    content = {"type": "minecraft:crafting_shaped", "pattern": rows.split("/"), "key": key, "result": result}
    return content | ({"group": group} if group else {})


def shapeless(result: dict | str, *ingredients: dict | str, group: str = "") -> dict:
    """Return a recipe as files of Minecraft have it; an empty group is none."""
    kind = "minecraft:crafting_shapeless"
    return {"type": kind, "group": group, "ingredients": list(ingredients), "result": result}


#: A small set of recipe files in Minecraft's format, of several versions.
FILES = {
    "torch": shaped(item("torch", count=4), "C/s", C=[item("coal"), item("tar")], s=item("stick")),
    "stick": shaped(item("stick", count=4), "P/P", "sticks", P=tag("planks")),
    "fir_planks": shapeless(item("fir_planks", count=4), tag("fir_logs"), group="planks"),
    "elm_planks": shapeless(
        {"id": "minecraft:elm_planks", "count": 2}, "#minecraft:elm_logs", "minecraft:glue", group="planks"
    ),
    "glue": shapeless("minecraft:glue", item("bone"), item("bone")),
    "fir_sign": shaped(item("fir_sign", count=3), "PPP/PPP/ s ", P=item("fir_planks"), s=item("stick")),
    "ingot": shaped(item("ingot"), "nnn/nnn/nnn", n=item("nugget")),
    "nugget": shapeless(item("nugget", count=9), item("ingot")),
    "ingot_from_block": shapeless(item("ingot", count=9), item("ingot_block")),
    "charcoal": {"type": "minecraft:smelting", "ingredient": tag("logs"), "result": "minecraft:charcoal"},
    "book_cloning": {"type": "minecraft:crafting_special_bookcloning"},
}


def write_recipes(directory: Path, files: dict = FILES) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def small(tmp_path) -> TextCraft:
    return TextCraft(recipes=str(write_recipes(tmp_path)))


def first_observation(goal: str, *commands: str) -> str:
    return "\n".join(["Crafting commands:", *commands, "", f"Goal: craft {goal}."])


SIGN = first_observation(
    "fir sign",
    "craft 4 fir planks using 1 fir logs",
    "craft 2 elm planks using 1 elm logs, 1 glue",
    "craft 3 fir sign using 6 fir planks, 1 stick",
    "craft 1 glue using 2 bone",
    "craft 4 stick using 2 planks",
)


def play(env: TextCraft, task: dict) -> tuple[list[str], list[str]]:
    """Play a task by the expert to its goal; return its actions and the observations."""
    observation, actions = env.reset(task), []
    texts = [observation.text]
    while not observation.done:
        actions.append(env.expert())
        observation = env.step(actions[-1])
        texts.append(observation.text)
        assert observation.valid and len(actions) <= env.max_steps
    assert observation.success and observation.score == 1.0
    return actions, texts


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_recipe_files_of_minecraft(tmp_path):
    lines = [recipe.line for recipe in read_directory(write_recipes(tmp_path))]
    assert lines == [
        "2 elm_planks (planks) = 1 #elm_logs, 1 glue",
        "4 fir_planks (planks) = 1 #fir_logs",
        "3 fir_sign = 6 fir_planks, 1 stick",
        "1 glue = 2 bone",
        "1 ingot = 9 nugget",
        "9 ingot = 1 ingot_block",
        "9 nugget = 1 ingot",
        "4 stick (sticks) = 2 #planks",
        "4 torch = 1 coal, 1 stick",
    ]
    assert [parse_recipe(line).line for line in lines] == lines


def test_what_follows_from_the_recipes(small):
    book = small._shared_book
    assert list(book.by_output) == ["elm_planks", "fir_planks", "fir_sign", "glue", "ingot", "stick", "torch"]
    depths = {"elm_planks": 2, "fir_planks": 1, "fir_sign": 3, "glue": 1, "ingot": 1, "stick": 2, "torch": 3}
    assert {name: depth for name, depth in book.depth.items() if depth} == {**depths, "planks": 1, "sticks": 2}
    assert [len(book.by_output["ingot"]), book.is_basic("nugget")] == [1, True], "circles and blocks are left out"
    assert book.is_basic("fir_logs"), "a kind of which nothing can be crafted is an item"
    assert not book.is_basic("planks") and not book.is_basic("fir_planks") and not book.is_basic("charcoal")


def test_of_a_circle_the_first_is_kept():
    forth, back = parse_recipe("1 ingot = 9 nugget"), parse_recipe("9 nugget = 1 ingot")
    assert list(RecipeBook([forth, back]).by_output) == ["ingot"]
    assert list(RecipeBook([back, forth]).by_output) == ["nugget"]
    assert list(RecipeBook([forth, back], frozenset({back.command}), "nugget").by_output) == ["nugget"]


def test_the_shipped_recipes():
    env = TextCraft()
    recipes = [line for line in RECIPES.read_text().splitlines() if not line.startswith("#")]
    assert len(recipes) == 635 and all(parse_recipe(line).line == line for line in recipes)
    depths = Counter(env._shared_book.depth[goal] for goal in env._shared_book.by_output)
    assert depths == {1: 125, 2: 291, 3: 117, 4: 11} and len(list(env._shared_book.recipes())) == 613


def test_the_script_writes_the_file(tmp_path):
    script = ROOT / "recipes" / "textcraft" / "make_recipes.py"
    made = subprocess.run([sys.executable, script, write_recipes(tmp_path)], capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1] == "4 torch = 1 coal, 1 stick"


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_every_goal_is_in_one_split():
    env = open_env("textcraft")
    tasks = {split: list(env.tasks(split)) for split in env.splits()}
    assert {split: len(in_split) for split, in_split in tasks.items()} == {"train": 3640, "dev": 62, "test": 118}
    goals = {split: {task["id"].partition("/")[0] for task in in_split} for split, in_split in tasks.items()}
    assert sum(map(len, goals.values())) == len(set().union(*goals.values())) == 544
    assert all(split_of(goal) == split for split in goals for goal in goals[split])
    assert len({task["id"] for in_split in tasks.values() for task in in_split}) == 3820
    assert len({task["id"].partition("/")[0] for task in tasks["train"][:364]}) == 364, "first one of each goal"
    assert {env.kind_of(task) for task in tasks["test"]} == {f"depth {n}" for n in range(1, 5)}
    assert tasks["train"][0] == env.task_named("nether_wart_block/0") and tasks["train"][0]["depth"] == 1


def test_lists_of_commands_differ_in_what_is_not_needed():
    env = open_env("textcraft")
    needed = {recipe.command for recipe in env._shared_book.needed("oak_sign")}
    lists = []
    for number in range(10):
        env.reset(env.task_named(f"oak_sign/{number}"))
        assert needed < set(env._commands) and len(set(env._commands) - needed) == 10
        lists.append(env._commands)
    assert len(set(map(tuple, lists))) == 10
    few = open_env("textcraft?distractors=0")
    few.reset(env.task_named("oak_sign/0"))
    assert set(few._commands) == needed


def test_options():
    env = open_env("textcraft?depth=2-3&max_steps=7")
    assert env.max_steps == 7 and {env.kind_of(task) for task in env.tasks("train")} == {"depth 2", "depth 3"}
    assert {task["depth"] for task in open_env("textcraft?depth=4").tasks("dev")} == {4}
    for spec, message in (
        ("depth=5", "expected a depth from 1 to 4"),
        ("depth=3-2", "expected a depth"),
        ("depth=deep", "expected a depth"),
        ("distractors=-1", "expected a number"),
        ("max_steps=0", "expected a number above 0"),
        ("recipes=/no/such/place", "no such directory"),
        ("recipe=x", "it has: depth, distractors, max_steps, recipes"),
    ):
        with pytest.raises(UsageError, match=message):
            open_env(f"textcraft?{spec}")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, UsageError, "expected recipe files of Minecraft"),
        (json.dumps(FILES["ingot_from_block"]), UsageError, "expected recipe files of Minecraft"),
        ("{", EexpError, r"bad\.json: not a recipe in Minecraft's format"),
        ('{"type": "minecraft:crafting_shaped"}', EexpError, r"bad\.json: .*pattern"),
        (json.dumps({**FILES["glue"], "result": "other:glue"}), EexpError, r"bad\.json: .*the name 'other:glue'"),
    ],
)
def test_a_bad_directory_of_recipes_is_one_error(tmp_path, content, error, message):
    if content:
        (tmp_path / "bad.json").write_text(content)
    with pytest.raises(error, match=message):
        TextCraft(recipes=str(tmp_path))
    run("env", "show", f"textcraft?recipes={tmp_path}").one_error(2 if error is UsageError else 1, str(tmp_path))


@pytest.mark.parametrize(
    "task",
    [
        {"id": "oak_sign/10"},
        {"id": "oak_sign"},
        {"id": "oak_log/0"},
        {"id": "textcraft_12"},
        {},
        {"id": "oak_sign/0", "world": "textcraft-0"},
        {"id": "x", "goal": "oak_sign", "commands": "craft 1 stick"},
        {"id": "x", "goal": "oak_sign", "commands": ["craft 1 oak sign using 1 oak log"]},
        {"id": "x", "goal": "oak_sign", "commands": ["craft 4 stick using 2 planks"]},
        {"id": "x", "commands": []},
    ],
)
def test_unknown_tasks_are_refused(task):
    with pytest.raises(InputError):
        open_env("textcraft").reset(task)
    with pytest.raises(InputError):
        open_env("textcraft").kind_of(task)


def test_the_same_in_every_process():
    code = (
        "from eexp.envs.worlds.textcraft import TextCraft; env = TextCraft(); tasks = list(env.tasks('dev'));"
        "print(tasks, [(env.reset(task).text, env.admissible(), env.expert()) for task in tasks])"
    )
    assert len(set(outputs_of_python(code))) == 1


# -- play ------------------------------------------------------------------------------------------------------------


def test_an_episode(small):
    task = small.task_beginning(SIGN)
    observation = small.reset(task)
    assert observation.text == SIGN and not observation.done and observation.score == 0.0
    assert small.instruction().startswith("Craft fir sign.\nActions: `get 2 oak logs`, ")
    basics = ["get 1 elm logs", "get 1 fir logs", "get 2 bone", "inventory"]
    assert small.admissible() == basics
    for action, text in (
        ("get 2 fir logs", "Got 2 fir logs"),
        ("inventory", "Inventory: [fir logs] (2) "),
        ("craft 4 fir planks using 1 fir logs", "Crafted 4 minecraft:fir_planks"),
        ("craft 4 stick using 2 fir planks", "Crafted 4 minecraft:stick"),
        ("craft 99 fir planks using 1 fir logs", "Crafted 4 minecraft:fir_planks"),
        ("inventory", "Inventory: [fir planks] (6) [stick] (4) "),
    ):
        observation = small.step(action)
        assert (observation.text, observation.valid, observation.success) == (text, True, False)
    sign = "craft 3 fir sign using 6 fir planks, 1 stick"
    assert small.admissible() == [sign, "craft 4 stick using 2 fir planks", *basics] and small.expert() == sign
    observation = small.step("craft fir sign using 1 stick, 6 fir planks")
    assert (observation.text, observation.done, observation.score) == ("Crafted 3 minecraft:fir_sign", True, 1.0)
    assert small.admissible() == [] and small.expert() is None
    after = small.step("inventory")
    assert (after.text, after.valid, after.done, after.success) == ("The task is over.", False, True, True)


NO_RECIPE = "Could not find a valid recipe for ItemTagWithCount(item_tag=ItemTag("


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("", "Could not execute "),
        ("dance!", "Could not execute dance"),
        ("get fir logs", "Could not execute get fir logs"),
        ("craft 4 stick", "Could not execute craft 4 stick"),
        ("get 1 stick", "Could not find stick"),
        ("get 1 planks", "Could not find planks"),
        ("get 1 charcoal", "Could not find charcoal"),
        (f"get {10**18} bone", f"Could not execute get {10**18} bone"),
        ("craft 4 stick using planks", "Wrong item format: planks"),
        ("craft 4 stick using 2 planks", "Could not find enough items to craft minecraft:stick"),
        ("craft 4 planks using 9 bone", "Could not find enough items to craft None"),
        ("craft 4 fir planks using 2 fir logs", NO_RECIPE + "tag=None, item_id='minecraft:fir_planks'), count=4)"),
        ("craft planks using 1 bone", NO_RECIPE + "tag='minecraft:planks', item_id=None), count=1)"),
        ("craft 1 glue using 1 bone, 1 bone", NO_RECIPE + "tag=None, item_id='minecraft:glue'), count=1)"),
        ("craft 1 glue using 2 bone, 1 bone", "Could not find enough items to craft minecraft:glue"),
    ],
)
def test_refused_actions_change_nothing(small, action, text):
    small.reset(small.task_beginning(SIGN))
    small.step("get 2 fir logs")
    small.step("get 2 bone")
    before = small.step("inventory").text
    observation = small.step(action)
    assert (observation.text, observation.valid, observation.done) == (text, False, False)
    assert small.step("inventory").text == before


def test_an_action_that_reads_like_the_last_one_says_that_it_changed_something(small):
    small.reset(small.task_beginning(SIGN))
    first, second = (small.step("get 1 bone") for _ in range(2))
    assert first == second and second.changed and second.outcome()["changed"]
    assert small.step("inventory").changed is None and small.step("craft 1 bone").changed is None


def test_actions_are_tidied_as_by_the_client_of_agentgym(small):
    small.reset(small.task_beginning(SIGN))
    assert tidied(" get  2 fir logs.\nThen I craft.") == "get 2 fir logs"
    assert small.step("`get 2 fir logs.`\nThen I craft.").text == "Got 2 fir logs"
    assert small.harmless("Inventory") is False and small.harmless(" inventory!")


def test_recipes_that_are_not_listed_are_accepted():
    env = open_env("textcraft")
    env.reset(env.task_named("oak_sign/0"))
    env.step("get 5 flint")
    env.step("get 1 iron nugget")
    assert env.step("craft 1 golden carrot using 1 carrot").text.startswith("Could not find enough items")
    env.step("get 2 cocoa beans")
    assert env.step("craft 1 brown dye using 1 cocoa beans").text == "Crafted 1 minecraft:brown_dye"


def test_the_expert_reaches_every_goal_with_nothing_left_over_but_what_recipes_make():
    env = open_env("textcraft")
    steps = []
    for task in (task for split in env.splits() for task in env.tasks(split) if task["id"].endswith("/0")):
        actions, _ = play(env, task)
        basics = {name: n for name, n in env._inventory.items() if env._book.is_basic(name)}
        assert not basics, "exactly what is needed is got"
        gets = [action for action in actions if action.startswith("get ")]
        assert len({action.split(" ", 2)[2] for action in gets}) == len(gets), "each basic item is got once"
        steps.append(len(actions))
    assert max(steps) == 48 <= env.max_steps


def test_the_expert_goes_on_from_anywhere_and_admissible_actions_are_accepted():
    env, rng = open_env("textcraft"), random.Random(0)
    for task in rng.sample(list(env.tasks("train")), 60):
        observation = env.reset(task)
        for _ in range(12):
            listed = env.admissible()
            assert listed[-1] == "inventory" and len(set(listed)) == len(listed)
            for action in rng.sample(listed, min(len(listed), 6)):
                assert env.fork().step(action).valid, action
            if not observation.done:
                observation = env.step(rng.choice(listed))
            if observation.done:
                break
        spare = 60
        while not observation.done and spare:
            observation, spare = env.step(env.expert()), spare - 1
            assert observation.valid
        assert observation.success, task


def test_leftovers_are_used(small):
    small.reset(small.task_beginning(SIGN))
    for action in ("get 1 elm logs", "get 2 bone", "craft 1 glue using 2 bone"):
        small.step(action)
    small.step("craft 2 elm planks using 1 elm logs, 1 glue")
    actions = []
    while (action := small.expert()) is not None:
        actions.append(action)
        small.step(action)
    assert actions == [
        "get 2 fir logs",
        "craft 4 fir planks using 1 fir logs",
        "craft 4 fir planks using 1 fir logs",
        "craft 4 stick using 2 elm planks",
        "craft 3 fir sign using 6 fir planks, 1 stick",
    ]


def test_what_is_still_needed_in_words(small):
    small.reset(small.task_beginning(SIGN))
    crafts = ["8 fir planks from 2 fir logs", "4 stick from 2 fir planks", "3 fir sign from 6 fir planks, 1 stick"]
    still = f"Still to craft: {'; '.join(crafts)}."
    assert small.explain() == f"{still} I have nothing."
    for action in ("get 2 fir logs", "craft 4 fir planks using 1 fir logs", "get 0 bone"):
        small.step(action)
    assert small.explain() == f"{still.replace('8', '4', 1).replace('2', '1', 1)} I have 1 fir logs, 4 fir planks."
    while (action := small.expert()) is not None:
        small.step(action)
    assert small.explain() is None


def test_a_fork_is_independent():
    env, rng = open_env("textcraft"), random.Random(1)
    for task in rng.sample(list(env.tasks("train")), 30):
        env.reset(task)
        for _ in range(rng.randrange(8)):
            env.step(rng.choice(env.admissible() or ["inventory"]))
        before = (dict(env._inventory), env.admissible(), env.expert())
        copies = [env.fork() for _ in range(2)]
        actions = [rng.choice(env.admissible() or ["inventory"]) for _ in range(5)]
        traces = [[copy.step(action) for action in actions] for copy in copies]
        assert traces[0] == traces[1] and before == (dict(env._inventory), env.admissible(), env.expert())
        assert [env.step(action) for action in actions] == traces[0]


# -- tasks of AgentGym -----------------------------------------------------------------------------------------------


def test_a_first_observation_is_a_task(small):
    task = small.task_beginning(f"\n{SIGN}\n")
    assert task["goal"] == "fir_sign" and len(task["commands"]) == 5 and task["split"] == split_of("fir_sign")
    assert task == small.task_beginning(SIGN) and json.loads(json.dumps(task)) == task
    assert task["id"] != small.task_beginning(SIGN.replace("craft 1 glue using 2 bone\n", ""))["id"]
    assert small.kind_of(task) == "depth 3"
    for text in ("", "You see a bed.", "Goal: craft stick.", SIGN + " Now!\nGo."):
        assert small.task_beginning(text) is None


def test_circles_are_cut_where_the_listed_commands_say():
    env = open_env("textcraft")
    assert not env._shared_book.is_basic("iron_ingot") and "iron_nugget" not in env._shared_book.by_output
    task = env.task_beginning(first_observation("iron nugget", "craft 9 iron nugget using 1 iron ingot"))
    assert play(env, task)[0] == ["get 1 iron ingot", "craft 9 iron nugget using 1 iron ingot"]
    task = env.task_beginning(first_observation("bucket", "craft 1 bucket using 3 iron ingot"))
    assert play(env, task)[0] == ["get 3 iron ingot", "craft 1 bucket using 3 iron ingot"]
    env.reset(env.task_named("bucket/0"))
    assert not env.step("get 3 iron ingot").valid, "elsewhere the circle is cut as before"


def agenttraj(number: int, first: str, *turns: str) -> dict:
    """Return a record in the form of AgentTraj-L: actions and observations in turn."""
    turns = ("Craft what I say.", "OK.", first, *turns)
    speakers = ["human", "gpt"] * len(turns)
    conversations = [{"from": who, "value": text, "loss": None} for who, text in zip(speakers, turns)]
    conversations[1]["loss"] = False
    return {"conversations": conversations, "item_id": f"textcraft_{number}"}


def test_records_of_agenttraj_are_replayed():
    nuggets = first_observation("iron nugget", "craft 9 iron nugget using 1 iron ingot")
    record = agenttraj(
        12,
        nuggets,
        "Thought:\nAn ingot is needed.\n\nAction:\nget 1 iron ingot.",
        "Got 1 iron ingot",
        "Thought: Now.\nAction: craft 9 iron nugget using 1 iron ingot",
        "Crafted 9 minecraft:iron_nugget",
    )
    result = run("import", "agenttraj", "--env", "textcraft", "-j", "1", stdin=lines([record])).ok()
    (trajectory,) = result.records
    assert "3 observations verified" in result.err and trajectory["outcome"]["success"]
    assert trajectory["steps"][0]["observation"] == nuggets and trajectory["source"] == {"item_id": "textcraft_12"}
    assert trajectory["task"]["commands"] == ["craft 9 iron nugget using 1 iron ingot"]
    branched = run("branch", "--from", "admissible", stdin=result.out).ok()
    assert "2 branch points verified" in run("rollout", "-j", "1", stdin=branched.out).ok().err


def test_records_that_do_not_fit_are_refused():
    def refused(record: dict, *options: str) -> str:
        return run("import", "agenttraj", "--env", "textcraft", "-j", "1", *options, stdin=lines([record])).err

    first = first_observation("iron nugget", "craft 9 iron nugget using 1 iron ingot")
    assert "'Got 9 iron ingot' was recorded" in refused(
        agenttraj(1, first, "Action: get 1 iron ingot", "Got 9 iron ingot")
    )
    assert "has no task 'textcraft_1'" in refused(agenttraj(1, "You see a bed.", "Action: look"))
    other = first_observation("iron nugget", "craft 9 iron nugget using 1 iron lump")
    assert "no recipe here is" in refused(agenttraj(1, other, "Action: inventory"))
    wrong_split = "dev" if split_of("iron_nugget") != "dev" else "train"
    assert f"is not in {wrong_split}" in refused(agenttraj(1, first, "Action: inventory"), "--split", wrong_split)

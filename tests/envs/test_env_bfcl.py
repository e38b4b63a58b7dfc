"""BFCL's multi-turn tasks: the gold calls, the package's own judgement, forks. Skipped where the package is missing."""

from __future__ import annotations

import builtins
import json
import random
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import pytest
from branches import in_a_child, play
from running import outputs_of_python, run

pytest.importorskip("bfcl_eval", reason="needs `pip install --no-deps bfcl-eval==2026.3.23 mpmath`")

from eexp.envs import open_env
from eexp.envs.worlds import bfcl
from eexp.envs.worlds.bfcl import BFCL, parse_call
from eexp.errors import EexpError, InputError, UsageError
from eexp.prompts.tool_calls import tool_call
from eexp.records.types import check_tools

ROOT = Path(__file__).parents[2]
FILES = {"id": "multi_turn_base_0", "split": "train"}


def make_task(number: int, category: str = "base") -> dict:
    return {"id": f"multi_turn_{category}_{number}"}


@cache
def pool(classes: tuple[str, ...]) -> list[str]:
    """Return possible calls to these classes: gold calls of other tasks, and some that are refused."""
    gold = [(e["involved_classes"], list(chain(*calls))) for e, calls in bfcl._entries("base")]
    calls = [call for involved, turn in gold if set(involved) <= set(classes) for call in turn]
    return [
        *calls,
        "ls()",
        "pwd()",
        "cd(folder='..')",
        "cd('nowhere')",
        "displayCarStatus('fuel')",
        "fly(to='Mars')",
        "logarithm(value=10, base=2, precision=5)",
        "get_account_info()",
        "ls(b=1)",
        "not a call",
        "done",
        "post_tweet(content='a', tags=['#b'])",
        "mv(source='a', destination='b')",
    ]


def wander(env: BFCL, rng: random.Random, steps: int) -> list[tuple[str, object]]:
    """Take random actions, sometimes the expert's; return (action, observation) for each."""
    trace = []
    for _ in range(steps):
        action = (rng.random() < 0.6 and env.expert()) or rng.choice(pool(tuple(env._entry["involved_classes"])))
        trace.append((action, env.step(action)))
    return trace


def state(env: BFCL) -> dict:
    """Return everything in the API objects, without the times of writing, which are never read."""

    def plain(x):
        if isinstance(x, random.Random):
            return x.getstate()
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        if hasattr(x, "__dict__"):
            return {k: plain(v) for k, v in vars(x).items() if k not in ("parent", "_last_modified")}
        return x

    return plain(env._apis)


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_every_task_is_in_one_split():
    env = open_env("bfcl")
    tasks = {split: list(env.tasks(split)) for split in env.splits()}
    assert {split: len(in_split) for split, in_split in tasks.items()} == {
        "train": 150,
        "test": 50,
        "miss_func-train": 150,
        "miss_func-test": 50,
        "miss_param-train": 150,
        "miss_param-test": 50,
        "long_context-train": 150,
        "long_context-test": 50,
    }
    ids = {split: {t["id"] for t in in_split} for split, in_split in tasks.items()}
    assert len(set().union(*ids.values())) == 800
    for category in ("miss_func", "miss_param", "long_context"):
        assert {i.replace(category, "base") for i in ids[f"{category}-test"]} == ids["test"]
    assert tasks["train"][0] == FILES
    areas = {int(t["id"].rpartition("_")[2]) // 50 for t in tasks["train"][:4]}
    assert areas == {0, 1, 2, 3}, "a few tasks are some of each area"


def test_no_scenario_is_in_train_and_test():
    env = open_env("bfcl")
    configs = {}
    for split in ("train", "test"):
        entries = [env._entry for t in env.tasks(split) if env.reset(t)]
        configs[split] = {json.dumps(entry["initial_config"], sort_keys=True) for entry in entries}
    assert not configs["train"] & configs["test"]


@pytest.mark.parametrize(
    "wrong", ["", None, "base_1", "multi_turn_best_1", "multi_turn_base_1x", "multi_turn_base_200"]
)
def test_a_task_that_does_not_exist_is_refused(wrong):
    with pytest.raises(InputError, match=r"\$.task.id: bfcl has no task"):
        open_env("bfcl").reset({"id": wrong})


def test_options_and_splits_are_checked():
    with pytest.raises(UsageError, match=r"bfcl\?tools=some: expected short or full"):
        open_env("bfcl?tools=some")
    with pytest.raises(UsageError, match="bfcl has no option 'tool'; it has: tools"):
        open_env("bfcl?tool=short")
    with pytest.raises(UsageError, match="has no split 'dev'"):
        list(open_env("bfcl").tasks("dev"))


@pytest.mark.parametrize("missing", ["bfcl_eval", "mpmath"])
def test_a_missing_package_is_one_error(monkeypatch, missing):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EexpError, match=r"No module named .* `pip install --no-deps bfcl-eval==2026.3.23 mpmath`"):
        open_env("bfcl")


# -- the expert, and the judge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_gold_calls_succeed_in_every_base_task(split):
    env = open_env("bfcl")
    for task in env.tasks(split):
        actions, texts, end = play(env, task)
        assert (end.done, end.score, end.success) == (True, 1.0, True), task
        assert len(actions) <= 17 and play(env, task) == (actions, texts, end), task
        assert official_verdict(task, by_turn(actions)), task


@pytest.mark.parametrize("category", ["miss_func", "miss_param", "long_context"])
def test_the_gold_calls_succeed_in_the_other_categories(category):
    env = open_env("bfcl")
    for task in chain(env.tasks(f"{category}-train"), env.tasks(f"{category}-test")):
        actions, _, end = play(env, task)
        assert end.success and end.score == 1.0 and len(actions) <= env.max_steps, task


def by_turn(actions: list[str]) -> list[list[list[str]]]:
    """Return actions in the package's form of a model's answers: a list of turns, of steps, of calls."""
    turns: list[list[list[str]]] = [[]]
    for action in actions:
        if action == "done":
            turns.append([])
        elif action != "not a call":
            turns[-1].append([action])
    return turns[:-1]


def official_verdict(task: dict, turns: list[list[list[str]]]) -> bool:
    from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    category, _, number = task["id"].removeprefix("multi_turn_").rpartition("_")
    entry, gold = bfcl._entries(category)[int(number)]
    try:
        return multi_turn_checker(turns, gold, entry, category, "judged")["valid"]
    finally:  # the package's executor keeps every instance
        for name in [name for name in vars(multi_turn_utils) if name.startswith("judged")]:
            delattr(multi_turn_utils, name)


@pytest.mark.parametrize("category", bfcl.CATEGORIES)
def test_success_is_judged_as_by_the_package(category):
    """Gold calls with some left out, doubled or inserted have the same verdict here and in the package."""
    env, rng, verdicts = open_env("bfcl"), random.Random(category), []
    for number in range(0, 200, 4):
        task = make_task(number, category)
        gold, _, _ = play(env, task)
        actions = []
        for action in gold:
            chance = rng.random()
            if chance < 0.1:
                actions.append(rng.choice(pool(tuple(env._entry["involved_classes"]))).replace("done", "ls()"))
            if chance > 0.05 or action == "done":
                actions.append(action)
            if 0.1 < chance < 0.15 and action != "done":
                actions.append(action)
        env.reset(task)
        for action in actions:
            observation = env.step(action)
        assert observation.done and observation.success == official_verdict(task, by_turn(actions)), (
            task,
            actions,
        )
        assert (observation.score == 1.0) == observation.success
        verdicts.append(observation.success)
    assert 5 < sum(verdicts) < len(verdicts) - 5, "both happen"


def test_a_turn_without_a_call_fails_and_the_conversation_goes_on():
    env = open_env("bfcl")
    env.reset(FILES)
    observation = env.step("done")
    assert (observation.done, observation.score, observation.success, observation.valid) == (False, 0.0, False, True)
    assert observation.text.startswith("Perform a detailed search") and env.expert() is None
    for _ in range(3):
        observation = env.step("done: I cannot do that.")
    assert (observation.done, observation.score, observation.success) == (True, 0.0, False)
    assert env.step("ls()").text == "The conversation is over." and env.expert() is None


def test_the_expert_stops_after_another_call_but_not_after_another_spelling():
    env = open_env("bfcl")
    env.reset(FILES)
    assert env.expert() == "cd(folder='document')"
    env.step('cd( folder = "document" )')
    assert env.expert() == "mkdir(dir_name='temp')"
    env.step("ls()")
    assert env.expert() is None


# -- acting ----------------------------------------------------------------------------------------------------------


def test_a_conversation():
    env = open_env("bfcl")
    observation = env.reset(FILES)
    assert observation.text.startswith("Move 'final_report.pdf' within") and observation.success is None
    instruction = env.instruction()
    assert "\nls(a: boolean = False): List the contents" in instruction and "\ncp(" not in instruction, "cp is excluded"
    assert env.step("ls()").text == '{"current_directory_content": ["document", "archive"]}'
    assert env.admissible() is None


def test_a_missing_function_comes_with_the_user_s_message():
    env = open_env("bfcl")
    env.reset(make_task(0, "miss_func"))
    assert "\nsort(" not in env.instruction()
    _, texts, _ = play(env, make_task(0, "miss_func"))
    new_functions = [text for text in texts if "\nFunctions:\nsort(" in text]
    assert len(new_functions) == 1 and new_functions[0].startswith("I have updated some more functions")


def test_the_full_list_of_tools_says_more():
    short, full = open_env("bfcl"), open_env("bfcl?tools=full")
    for env in (short, full):
        env.reset(make_task(50))
        assert "mode: 'engage' | 'release'" in env.instruction()
    assert "  distance: The distance to travel in miles." in full.instruction()
    assert len(short.instruction()) < len(full.instruction())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("cd(folder='nowhere')", "cd: 'nowhere': No such file or directory"),
        ("cd(name='document')", "unexpected keyword argument 'name'"),
        ("fly()", "Error during execution: name 'fly' is not defined"),
        ("_load_scenario({})", "Error during execution: name '_load_scenario' is not defined"),
        ("", "not a function call"),
        ("ls", "not a function call"),
        ("ls(); pwd()", "not a function call"),
        ("[ls()]", "not a function call"),
        ("cd(folder=pwd())", "not a function call"),
        ("cd(folder=__import__('os').getcwd())", "not a function call"),
        ("root.ls()", "not a function call"),
        ("cd(**{'folder': 'document'})", "not a function call"),
        ("cd(*['document'])", "not a function call"),
        ("cd('\0')", "not a function call"),
        ("(" * 5000, "not a function call"),
        ("ls(" + "9" * 5000 + ")", "not a function call"),
    ],
)
def test_refused_calls(action, message):
    env = open_env("bfcl")
    env.reset(FILES)
    before = state(env)
    observation = env.step(action)
    assert not observation.valid and message in observation.text and not observation.done
    assert state(env) == before


@pytest.mark.parametrize(
    "action",
    [
        "power(9, 10**9)",
        "power(9, 1000000000)",
        "power(base=9, exponent=-1000000000)",
        "power(9, 1e300)",
        f"power({10**200}, 9)",
        "logarithm(2, 3, 100000000)",
        "square_root(2, precision=100000000)",
    ],
)
def test_costly_arguments_are_refused(action):
    env = open_env("bfcl")
    env.reset(next(t for t in env.tasks("train") if env.reset(t) and "MathAPI" in env._apis))
    observation = env.step(action)
    assert not observation.valid and ("too large" in observation.text or "not a function call" in observation.text)
    assert env.step("power(2, 10)").text == '{"result": 1024}'


def test_a_directory_copied_into_itself():
    env = open_env("bfcl")
    env.reset(FILES)
    assert env.step("cp(source='document', destination='document')").valid
    fork = env.fork()
    for one in (env, fork):
        assert one.step("find()").text == "Error during execution: maximum recursion depth exceeded"
        assert one.step("done").success is False


@pytest.mark.parametrize("action", ["done", "Done.", "done()", "done: which file?", " done "])
def test_how_a_turn_is_ended(action):
    env = open_env("bfcl")
    env.reset(FILES)
    assert env.step(action).text.startswith("Perform a detailed search")


def test_calls_are_parsed_as_python_expressions():
    assert parse_call("f(-1, [1, 2.5], a={'b': None}, c=True)") == ("f", [-1, [1, 2.5]], {"a": {"b": None}, "c": True})
    assert parse_call(r"grep(pattern='\d')") == ("grep", [], {"pattern": r"\d"})


def test_the_mask_hides_the_order_of_a_set():
    env = BFCL()
    one, two = "Invalid fields for update: a, bc", "Invalid fields for update: bc, a"
    assert env.mask(one) == env.mask(two) != env.mask(one + "d") and env.mask("ba") == "ba"


# -- forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", bfcl.CATEGORIES)
def test_a_fork_equals_a_replay_and_does_not_change_its_parent(category):
    env, other, rng, branches = open_env("bfcl"), open_env("bfcl"), random.Random(category), 0
    for number in range(1, 200, 10 if category == "base" else 40):
        task = make_task(number, category)
        gold, texts, end = play(other, task)
        assert env.reset(task).text == texts[0]
        for i, action in enumerate(gold):
            for _ in range(3):
                with env.fork() as fork:
                    steps = wander(fork, rng, 3)
                replayed = other.reset(task)
                for earlier in gold[:i]:
                    replayed = other.step(earlier)
                assert replayed.text == texts[i] and state(other) == state(env)
                assert [(a, other.step(a)) for a, _ in steps] == steps
                assert state(other) == state(fork) and other.expert() == fork.expert()
                branches += 1
            observation = env.step(action)
            assert observation.text == texts[i + 1]
        assert observation == end
    assert branches >= (500 if category == "base" else 100)


def test_a_fork_of_a_fork_and_of_the_process():
    env = open_env("bfcl")
    env.reset(make_task(150))
    env.step(env.expert())
    steps = wander(env.fork().fork(), random.Random(0), 8)
    assert in_a_child(lambda: repr([env.step(action) for action, _ in steps])) == repr(
        [observation for _, observation in steps]
    )
    assert [(action, env.step(action)) for action, _ in steps] == steps


def test_another_process_observes_the_same():
    code = (
        "import json, sys; from eexp.envs import open_env\n"
        "env, (task, *actions) = open_env('bfcl'), json.load(sys.stdin)\n"
        "print(json.dumps([env.mask(o.text) for o in [env.reset(task), *map(env.step, actions)]]))"
    )
    env = open_env("bfcl")
    task = make_task(120)
    first = env.reset(task).text
    steps = [*wander(env, random.Random(1), 30)]
    actions = [action for action, _ in steps] + ["edit_ticket(ticket_id=1, updates={'b': 1, 'c': 2, 'd': 3})"]
    texts = [first, *(observation.text for _, observation in steps), env.step(actions[-1]).text]
    for output in outputs_of_python(code, json.dumps([task, *actions]), TZ="Asia/Tokyo"):
        assert json.loads(output) == [env.mask(text) for text in texts]


# -- the pipe --------------------------------------------------------------------------------------------------------


def test_the_pipe():
    demonstrations = run("expert", "bfcl", "-n", 5).ok()
    trajectories = demonstrations.records
    assert len(trajectories) == 5 and all(t["outcome"]["success"] for t in trajectories)
    assert all(step["admissible"] is None for t in trajectories for step in t["steps"])
    branched = run("branch", "-k", 3, "--from", "admissible", stdin=demonstrations.out).ok()
    steps = sum(len(t["steps"]) for t in trajectories)
    assert f"{steps} states with fewer than k" in branched.err, "there are no admissible actions to draw from"

    rng = random.Random(0)
    for trajectory in trajectories:  # as a user's program may
        for step in trajectory["steps"]:
            actions = rng.sample(pool(("GorillaFileSystem", "TwitterAPI", "TradingBot", "VehicleControlAPI")), 3)
            step["alternatives"] = [{"action": a, "source": "program"} for a in actions if a != step["action"]]
    lines = "".join(json.dumps(t) + "\n" for t in trajectories).encode()
    rolled = run("rollout", stdin=lines).ok()
    assert "refused" not in rolled.err
    outcomes = [a["outcome"] for t in rolled.records for s in t["steps"] for a in s["alternatives"]]
    assert len(outcomes) > 2 * steps and all(outcomes) and {o["valid"] for o in outcomes} == {True, False}
    examples = run("world-model-data", stdin=rolled.out).ok().records
    assert len(examples) > len(outcomes) / 2


@pytest.mark.long
def test_the_pipe_with_a_model():
    demonstrations = run("expert", "bfcl", "-n", 1).ok()
    drawing = ("-m", "tiny", "--context", 4096, "-k", 2, "--rounds", 1, "--max-tokens", 16)
    branched = run("branch", *drawing, stdin=demonstrations.out).ok()
    (rolled,) = run("rollout", stdin=branched.out).ok().records
    assert any(a["outcome"] for step in rolled["steps"] for a in step["alternatives"])


def test_tools_as_schemas():
    """The functions are offered, later ones with the message that brings them; the expert names all arguments."""
    for split in ("train", "miss_func-train"):
        for task in list(open_env("bfcl").tasks(split))[:4]:
            with open_env("bfcl?tools=schema") as env:
                first = env.reset(task)
                check_tools(first.tools)
                texts, tools, last = [env.instruction(), first.text], [first.tools], first
                while not last.done:
                    action = env.expert()
                    assert action == "done" or (parse_call(action)[1] == [] and tool_call(action, 0))
                    last = env.step(action)
                    texts.append(last.text)
                    tools += [last.tools] if last.tools is not None else []
                assert last.success and not any("Functions:" in text for text in texts)
                assert len(tools) == (2 if split.startswith("miss_func") else 1)
                assert all(len(a) < len(b) for a, b in pairwise(tools))

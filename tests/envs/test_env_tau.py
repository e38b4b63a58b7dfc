"""tau-bench: a small library in the layout of its checkout. The long tests play the real one, at $EEXP_TEST_TAU."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import threading
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
from branches import in_a_child, observed, take_actions
from faulty_server import Faulty, Reply
from running import ROOT, outputs_of_python, run

from eexp.envs import open_env
from eexp.envs.opening import unsafe_in_records
from eexp.envs.worlds import tau
from eexp.envs.worlds.tau import STOP, Tau
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.prompts.calls import format_call, parse_call
from eexp.records.types import check_tools

CHECKOUT = Path(__file__).parents[1] / "tau_checkout"
LIBRARY = f"tau?path={CHECKOUT}&domain=library"
REAL = os.environ.get("EEXP_TEST_TAU", "")
ADA = "find_user_id_by_email(email='ada.moss3@mail.example')"


def library(**options: str) -> Tau:
    return open_env("&".join([LIBRARY, *(f"{key}={value}" for key, value in options.items())]))


def task(name: str) -> dict:
    return {"id": f"library/{name}"}


def play(env: Tau, which: dict) -> tuple[list[str], list[str], object]:
    """Play a task by the expert; return its actions, the texts and the last observation."""
    observation = env.reset(which)
    actions, texts = [], [observation.text]
    while not observation.done:
        actions.append(env.expert())
        observation = env.step(actions[-1])
        assert observation.valid, (which, actions[-1], observation.text)
        texts.append(observation.text)
    return actions, texts, observation


# -- options and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "tau",
            r"tau: name a checkout of tau-bench: tau\?path=DIR, or EEXP_TAU_BENCH=DIR; `git clone https://github.com/",
        ),
        (
            "tau?path=/no/such",
            r"tau\?path=/no/such: no checkout of tau-bench, with tau_bench/envs/retail in it; `git clo",
        ),
        (f"tau?path={CHECKOUT}", "tau.domain=retail: expected library"),
        (f"tau?path={CHECKOUT}&domain=../envs/library", "domain=../envs/library: expected library"),
        (f"{LIBRARY}&tools=some", r"tau\?tools=some: expected short or full or schema"),
        (f"{LIBRARY}&expert=model", "expected grounded or gold"),
        (f"{LIBRARY}&admissible=all", "expected none or lookups"),
        (f"{LIBRARY}&model=tiny", "tau has no option 'model'; it has: path, domain, user, tools, expert, admissible"),
    ],
)
def test_options_are_checked(spec, message):
    with pytest.raises(UsageError, match=message):
        open_env(spec)


def test_a_user_without_the_checkout_gets_one_line():
    run("expert", "tau").one_error(2, "name a checkout of tau-bench", "git clone")
    run("expert", f"{LIBRARY}&user=nobody").one_error(2, "unknown model 'nobody'")


def test_the_path_may_be_in_a_variable(monkeypatch):
    monkeypatch.setenv("EEXP_TAU_BENCH", str(CHECKOUT))
    assert open_env("tau?domain=library").splits() == ["train", "test"]
    assert unsafe_in_records("tau?domain=library&tools=full&expert=gold&admissible=lookups") is None


def test_code_that_cannot_be_loaded_is_one_line(tmp_path):
    broken = tmp_path / "tau_bench" / "envs" / "retail"
    (broken / "tools").mkdir(parents=True)
    (broken / "wiki.md").write_text("Be kind.")
    (broken / "tools" / "__init__.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(EexpError, match="tau_bench/envs/retail cannot be loaded: ModuleNotFoundError: No module named"):
        open_env(f"tau?path={tmp_path}")


def test_loading_leaves_no_trace():
    """The packages above a domain import clients of models. None is loaded, nor is anything left behind."""
    code = (
        "import sys; from eexp.envs import open_env; before, path = set(sys.modules), list(sys.path)\n"
        f"env = open_env({LIBRARY!r}); next(env.tasks('train'))\n"
        "assert sys.path == path and not sys.dont_write_bytecode\n"
        "print([name for name in set(sys.modules) - before if 'tau_bench' in name])"
    )
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=variables
    )
    assert done.stdout == "[]\n"
    assert not list(CHECKOUT.rglob("__pycache__"))


def test_an_installed_package_of_the_same_name_stays(monkeypatch):
    from types import ModuleType

    installed = ModuleType("tau_bench")
    monkeypatch.setitem(sys.modules, "tau_bench", installed)
    tau._load_domain.__wrapped__(CHECKOUT, "library")
    assert sys.modules["tau_bench"] is installed and "tau_bench.envs" not in sys.modules


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_are_those_of_the_checkout():
    env = library()
    tasks = {split: list(env.tasks(split)) for split in env.splits()}
    assert {split: len(in_split) for split, in_split in tasks.items()} == {"train": 6, "test": 3}
    assert tasks["test"][2]["id"] == "library/test/2" and len(tasks["test"][2]["checksum"]) == 16
    assert len({t["checksum"] for in_split in tasks.values() for t in in_split}) == 9
    assert [env.kind_of(t) for t in tasks["train"]] == [
        "return_books",
        "several",
        "pay_fee",
        "lend_book",
        "none",
        "none",
    ]
    with pytest.raises(UsageError, match="has no split 'dev'"):
        list(env.tasks("dev"))


@pytest.mark.parametrize("wrong", ["", None, "0", "library/0", "library/dev/0", "library/test/3", "retail/test/0"])
def test_a_task_that_does_not_exist_is_refused(wrong):
    with pytest.raises(InputError, match=r"\$.task.id: tau\?domain=library has no task"):
        library().reset({"id": wrong})


def test_a_task_that_has_changed_is_refused():
    with pytest.raises(InputError, match=r"\$.task.checksum: library/test/0 has changed"):
        library().reset({**task("test/0"), "checksum": "0" * 16})


# -- the expert, and the judge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("expert", ["grounded", "gold"])
def test_the_expert_succeeds_in_every_task(expert):
    env = library(expert=expert)
    for which in [*env.tasks("train"), *env.tasks("test")]:
        _, _, end = play(env, which)
        assert (end.done, end.score, end.success) == (True, 1.0, True), which


def test_the_grounded_expert_looks_up_what_it_needs_and_the_gold_one_does_not():
    gold = ["return_books(user_id='ben_okoro_423', book_ids=['5268'], state='damaged')"]
    gold += [
        "lend_book(user_id='ben_okoro_423', book_id='5120')",
        "respond(content='Your request has been carried out.')",
    ]
    assert play(library(expert="gold"), task("train/1"))[0] == gold
    assert play(library(), task("train/1"))[0] == [
        "find_user_id_by_email(email='ben.okoro4@mail.example')",
        "get_user_details(user_id='ben_okoro_423')",
        gold[0],
        "list_all_genres()",
        *gold[1:],
    ]


def unread_ids(env: Tau, actions: list[str], texts: list[str]) -> tuple[int, int]:
    """Return how many ids in the calls of an episode were not read before, and how many ids there are."""
    read, unread, ids = set(), 0, 0
    for action, text in zip(actions, texts):
        read.update(tau._TOKEN.findall(text))
        name, arguments = env._domain.read_call(action)
        used = [value for value in tau._texts(arguments) if tau._is_id(value) and name != tau.RESPOND]
        ids, unread = ids + len(used), unread + sum(value not in read for value in used)
    return unread, ids


def test_the_grounded_expert_uses_no_id_that_it_has_not_read():
    counts = {}
    for expert in ("grounded", "gold"):
        env = library(expert=expert)
        episodes = [play(env, which) for split in env.splits() for which in env.tasks(split)]
        counts[expert] = sum(unread_ids(env, actions, texts)[0] for actions, texts, _ in episodes)
    assert counts["grounded"] == 0 < counts["gold"]


def test_gold_calls_that_are_refused_are_left_out():
    env = library(expert="gold")
    actions, _, end = play(env, task("train/3"))
    assert len(env._task.actions) == 3 and end.success
    assert actions[:2] == ["get_book_details(book_id='5342')", "lend_book(user_id='dag_lund_449', book_id='5194')"]


def test_the_expert_survives_look_ups_and_refusals_but_no_other_change():
    env = library(expert="gold")
    env.reset(task("train/0"))
    first = env.expert()
    for action in ("list_all_genres()", "lend_book(user_id='ada_moss_410', book_id='5342')", "nonsense", "think('a')"):
        env.step(action)
        assert env.expert() == first
    env.step(first.replace("'", '"').replace(", ", " , "))
    assert env.expert() == "respond(content='Your request has been carried out.')"
    env.reset(task("train/0"))
    env.step("pay_fee('ada_moss_410', 1)")
    assert env.expert() is None


@pytest.mark.parametrize(
    ("name", "actions", "success"),
    [
        ("train/0", ["return_books('ada_moss_410', ['5157'], 'good')", "respond('bye')"], True),
        ("train/0", ["respond('bye')"], False),
        ("train/0", ["return_books('ada_moss_410', ['5157'], 'damaged')", "respond('bye')"], False),
        (
            "train/0",
            ["return_books('ada_moss_410', ['5157'], 'good')", "pay_fee('ada_moss_410', 1)", "respond('')"],
            False,
        ),
        ("train/0", ["return_books('ada_moss_410', ['5157'], 'good')", "transfer_to_human_agents('')"], True),
        ("train/2", ["pay_fee('cleo_varga_436', 1.5)", "respond('You still owe 2.50.')"], True),
        ("train/2", ["pay_fee('cleo_varga_436', 1.5)", "respond('You still owe 2.')"], False),
        ("train/2", ["pay_fee('cleo_varga_436', 1.5)", "transfer_to_human_agents('2.5')"], False),
        ("train/2", ["respond('2.5')"], False),
        ("train/4", ["respond('No.')"], True),
        ("train/4", ["pay_fee('ada_moss_410', 2.5)", "respond('2.5')"], False),
        ("test/0", ["respond('It is TRAVEL, and there are 3,0.')"], True),
        ("test/0", ["respond('It is a travel book.')"], False),
    ],
)
def test_success(name, actions, success):
    env = library()
    env.reset(task(name))
    for action in actions:
        observation = env.step(action)
        assert observation.valid and (observation.success is None) == (action is not actions[-1])
    assert (observation.done, observation.success, observation.score) == (True, success, float(success))
    assert env.expert() is None
    after = env.step("list_all_genres()")
    assert (after.text, after.valid, after.done, after.success) == ("The conversation is over.", False, True, success)


# -- acting ----------------------------------------------------------------------------------------------------------


def test_what_the_agent_reads():
    env = library()
    observation = env.reset(task("test/1"))
    assert observation.text.startswith("You are Dag Lund") and observation.score == 0.0 and observation.success is None
    instruction = env.instruction()
    assert "# Library policy" in instruction and "respond ends the conversation" in instruction
    assert "\nreturn_books(user_id: string, book_ids: array of string, state: 'good' | 'damaged'): Take" in instruction
    assert "\nrename_genre(old: string, new: string, note?: string): Give" in instruction
    assert "add_volume(book_id: string, count: integer): Enter another volume of a book.\n" in instruction
    assert env.admissible() is None
    full = library(tools="full")
    full.reset(task("test/1"))
    assert "A third sentence?" in full.instruction() and "\n  book_ids: The numbers of the books." in full.instruction()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("", "That is not a function call with literal arguments, such as name(number=1, text='a')."),
        ("done", "not a function call"),
        ("lend_book(book_id=get())", "not a function call"),
        ("fly()", "Unknown action fly"),
        ("get_info()", "Unknown action get_info"),
        ("get_book_details('1')", "Error: book not found"),
        ("get_book_details()", "missing 1 required positional argument: 'book_id'"),
        ("get_book_details(data={})", "Error: "),
        ("get_book_details('5157', '5157')", "Error: get_book_details takes book_id"),
        ("get_book_details('5157', book_id='5157')", "Error: get_book_details takes book_id"),
        ("get_book_details(book_id={'a', 'b'})", "Error: an argument is not a JSON value"),
        ("get_book_details(book_id=b'5157')", "Error: an argument is not a JSON value"),
        ("get_book_details(book_id=['5157'])", "Error: unhashable type: 'list'"),
        ("list_all_genres(1)", "Error: list_all_genres takes no arguments"),
        ("return_books('ada_moss_410', ['5157', '9'], 'good')", "Error: 9 is not lent to this reader"),
        ("pay_fee('ada_moss_410', '1')", "Error: '>' not supported"),
        ("pay_fee('ada_moss_410', 100)", "Error: the fees are lower"),
        ("calculate('9**9**9**9')", "Error: powers are not calculated"),
        ("calculate(expression='1(2)')", "Error: 'int' object is not callable"),
        ("calculate('__import__')", "Error: invalid characters"),
        ("respond()", "Error: respond takes content, a text"),
        ("respond(5)", "Error: respond takes content, a text"),
        ("respond(text='a')", "Error: respond takes content, a text"),
    ],
)
def test_refused_calls_change_nothing(action, message, recwarn):
    env = library()
    env.reset(task("train/0"))
    before = env._database
    observation = env.step(action)
    assert not observation.valid and message in observation.text and not observation.done
    assert env._database is before and not recwarn.list


def test_arguments_may_be_given_by_position_and_are_not_shared():
    env = library()
    env.reset(task("train/0"))
    assert env.step("return_books('ada_moss_410', book_ids=('5157',), state='good')").valid
    assert env._followed == 1, "the same as the gold call"
    assert env.step("calculate('2 + 2')").text == "4.0" and env.step("think('')").text == ""


def test_calls_are_written_as_they_are_read():
    arguments = {"a": "it's", "b": [1, {"c": None}], "d": -1.5, "e": 'say "x"\n', "f": True}
    assert parse_call(format_call("f", arguments)) == ("f", [], arguments)


def test_the_list_of_lookups():
    env = library(admissible="lookups")
    env.reset(task("train/0"))
    assert env.admissible() == ["list_all_genres()"]
    env.step(ADA)
    assert env.admissible() == ["get_user_details(user_id='ada_moss_410')", "list_all_genres()"]
    env.step("get_user_details(user_id='ada_moss_410')")
    listed = ["get_book_details(book_id='5157')", "get_user_details(user_id='ada_moss_410')", "list_all_genres()"]
    assert env.admissible() == listed, "remove_book would change the database"
    for action in listed:
        before = env._database
        assert env.step(action).valid and env._database is before
    env.step("respond('bye')")
    assert env.admissible() == []


# -- the user as a model ---------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A server of a model that plays the user: it repeats what the agent said, and ends after the word 'bye'."""

    def reply(body: dict, nth: int) -> Reply:
        said = body["messages"][-1]["content"]
        text = STOP if "bye" in said else f"user {len(body['messages'])}: {said}"
        return Reply(body={"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    with Faulty() as chat:
        chat.reply = reply
        thread = threading.Thread(target=chat.serve_forever, args=(0.02,))
        thread.start()
        yield chat
        chat.shutdown()
        thread.join()


def test_a_model_plays_the_user(server):
    with library(user=f"{server.url}#name") as env:
        assert not env.light and not env.in_process
        first = env.reset(task("train/0"))
        assert first.text == "user 2: Hello! What can I do for you?" and "The conversation goes on" in env.instruction()
        assert "You are Ada Moss" in server.asked[0]["messages"][0]["content"] and server.asked[0]["temperature"] == 0
        assert env.step("respond('Who are you?')").text == "user 4: Who are you?"
        env.step("return_books('ada_moss_410', ['5157'], 'good')")
        with env.fork() as fork:
            other = fork.step("respond('bye')")
            assert (other.text, other.done, other.success) == (STOP, True, True)
        assert env.step("respond('and now?')").text == "user 6: and now?", "the fork's words were not heard here"
        roles = [message["role"] for message in server.asked[-1]["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        end = env.step("respond('bye')")
        assert end.done and end.success and end.text == STOP
        assert env.reset(task("train/0")) == first


def test_the_expert_speaks_once_where_the_user_does_not_end_the_conversation(server):
    with library(user=f"{server.url}#name", expert="gold") as env:
        env.reset(task("train/0"))
        env.step(env.expert())
        assert env.step(env.expert()).text == "user 4: Your request has been carried out."
        assert env.expert() is None


def test_a_model_that_cannot_answer_is_one_error(server):
    server.reply = lambda body, nth: Reply(status=400, body={"error": {"message": "too long"}})
    with (
        library(user=f"{server.url}#name") as env,
        pytest.raises(EnvironmentFailed, match=r"plays the user: .*too long"),
    ):
        env.reset(task("train/0"))


@pytest.mark.slow
def test_the_tiny_model_as_the_user_says_the_same_again_and_in_forks():
    with library(user="tiny") as env:
        first = env.reset(task("train/0"))
        fork = env.fork()
        said = [env.step(f"respond('{word}')") for word in ("Hello?", "Your name?")]
        assert [fork.step(f"respond('{word}')") for word in ("Hello?", "Your name?")] == said
        fork.close()
        assert env.reset(task("train/0")) == first and env.step("respond('Hello?')") == said[0]


# -- forks -----------------------------------------------------------------------------------------------------------

CALLS = [
    "lend_book('{user}', '{book}')",
    "return_books('{user}', ['{book}'], 'good')",
    "return_books('{user}', ['{book}', '{book}'], 'damaged')",
    "pay_fee('{user}', 0.5)",
    "rename_genre('novel', 'science', note='a')",
    "rename_genre('science', 'novel')",
    "add_volume('{book}', 2)",
    "remove_book('{book}')",
    "get_book_details('{book}')",
    "get_user_details('{user}')",
    "list_all_genres()",
    "nonsense",
]


def plain(env: Tau) -> dict:
    """Return the database as nested dicts and lists."""
    return json.loads(json.dumps(env._database._tables))


def called(env: Tau, data: dict, action: str) -> tuple[dict, str, bool]:
    """Call a tool on a deep copy, as the benchmark does; errors leave the data as they were."""
    try:
        name, arguments = env._domain.read_call(action)
    except ValueError as e:
        return data, str(e), False
    after = deepcopy(data)
    try:
        answer = str(env._domain._invoke[name](after, **deepcopy(arguments)))
    except Exception as e:
        answer = f"Error: {e}"
    return (data if answer.startswith("Error") else after), answer, not answer.startswith("Error")


def test_random_calls_in_forks_equal_those_on_deep_copies():
    rng, env = random.Random(0), library()
    env.reset(task("train/0"))
    initial = plain(env)
    users, books = list(initial["users"]), [*initial["books"], "51572", "0"]
    states = [(env.fork(), initial)]
    for _ in range(600):
        parent, data = rng.choice(states)
        action = rng.choice(CALLS).format(user=rng.choice(users), book=rng.choice(books))
        fork = parent.fork()
        observation = fork.step(action)
        after, answer, valid = called(fork, data, action)
        assert (observation.text, observation.valid) == (answer, valid), action
        assert plain(fork) == after and plain(parent) == data
        states.append((fork, after))
    assert plain(library_at_start()) == initial == plain(env)
    same = sum(one[0]._database.equals(other[0]._database) for one, other in pairwise(states))
    assert same == sum(
        json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True) for (_, a), (_, b) in pairwise(states)
    )


def library_at_start() -> Tau:
    env = library()
    env.reset(task("train/0"))
    return env


def test_a_fork_goes_on_as_its_parent_would():
    env = library(admissible="lookups")
    for which in [*env.tasks("train"), *env.tasks("test")]:
        actions, _, _ = play(env, which)
        first = env.reset(which)
        for i, action in enumerate(actions):
            fork, before = env.fork(), observed(env, first)
            ahead = take_actions(fork, actions[i:])
            assert observed(env, first) == before
            assert in_a_child(lambda rest=actions[i:]: take_actions(env, rest)) == json.loads(json.dumps(ahead))
            first = env.step(action)


def test_another_process_observes_the_same():
    env = library(admissible="lookups")
    actions, texts, _ = play(env, next(env.tasks("train")))
    env.reset(task("train/0"))
    code = (
        "import json, sys; from eexp.envs import open_env\n"
        f"env, actions = open_env({LIBRARY + '&admissible=lookups'!r}), json.load(sys.stdin)\n"
        "texts = [env.reset(next(env.tasks('train'))).text, *(env.step(a).text for a in actions[:-1])]\n"
        "print(json.dumps([texts, env.admissible(), env.expert(), list(env.tasks('test'))]))"
    )
    for action in actions[:-1]:
        env.step(action)
    for output in outputs_of_python(code, json.dumps(actions)):
        assert json.loads(output) == [texts[:-1], env.admissible(), env.expert(), list(env.tasks("test"))]


# -- the pipe --------------------------------------------------------------------------------------------------------


def test_the_pipe(monkeypatch):
    spec = f"{LIBRARY}&admissible=lookups"
    demonstrations = run("expert", spec, "-n", 5).ok()
    assert all(t["outcome"]["success"] for t in demonstrations.records)
    branched = run("branch", "-k", 3, "--from", "admissible", stdin=demonstrations.out).ok()
    run("rollout", stdin=branched.out).one_error(3, "sets 'path', which a record alone may not")
    rolled = run("rollout", "--env", spec, stdin=branched.out).ok()
    outcomes = [a["outcome"] for t in rolled.records for s in t["steps"] for a in s["alternatives"]]
    assert len(outcomes) > 20 and all(outcome["valid"] for outcome in outcomes) and "refused" not in rolled.err
    assert len(run("world-model-data", stdin=rolled.out).ok().records) > len(outcomes) / 2
    assert run("imitation-data", stdin=rolled.out).ok().records


# -- the real checkout -----------------------------------------------------------------------------------------------

needs_checkout = pytest.mark.skipif(not REAL, reason="EEXP_TEST_TAU names no checkout of tau-bench")


@pytest.mark.long
@needs_checkout
@pytest.mark.parametrize(
    ("domain", "expert", "unread", "ids", "idle"),
    [
        ("retail", "gold", 1398, 3570, 13),
        ("retail", "grounded", 0, 5176, 13),
        ("airline", "gold", 114, 332, 19),
        ("airline", "grounded", 29, 358, 19),
    ],
)
def test_the_expert_succeeds_in_every_task_of_the_benchmark(domain, expert, unread, ids, idle):
    """The numbers are those of docs/environments/tau.md, with commit 59a200c of the benchmark."""
    env, counts, idle_successes = open_env(f"tau?path={REAL}&domain={domain}&expert={expert}"), (0, 0), 0
    for which in [t for split in env.splits() for t in env.tasks(split)]:
        actions, texts, end = play(env, which)
        assert end.success and len(actions) <= env.max_steps, which
        counts = tuple(map(sum, zip(counts, unread_ids(env, actions, texts))))
        env.reset(which)
        idle_successes += env.step("respond('No.')").success
    assert (*counts, idle_successes) == (unread, ids, idle)


@pytest.mark.long
@needs_checkout
@pytest.mark.parametrize("domain", ["retail", "airline"])
def test_gold_databases_and_random_calls_equal_those_of_the_benchmark(domain):
    """Calls on a deep copy of the data, with what failing calls may have changed, as `Env.step` makes them."""
    env, rng = open_env(f"tau?path={REAL}&domain={domain}"), random.Random(0)
    which = next(env.tasks(env.splits()[-1]))
    env.reset(which)
    untouched = pickle.dumps(plain(env))
    pool = [a for split in env.splits() for t in env._domain.tasks[split] for a in t.actions]
    for split in env.splits():
        for number, gold in enumerate(env._domain.tasks[split]):
            if split == "train" and number % 10:
                continue
            data = pickle.loads(untouched)
            env.reset({"id": f"{domain}/{split}/{number}"})
            for action in [*gold.actions, *rng.sample(pool, 5)]:
                if action.name != "transfer_to_human_agents":
                    try:
                        answer = str(env._domain._invoke[action.name](data, **deepcopy(action.kwargs)))
                    except Exception as e:
                        answer = f"Error: {e}"
                    assert env.step(format_call(action.name, action.kwargs)).text == answer
            assert plain(env) == data
    env.reset(which)
    assert pickle.dumps(plain(env)) == untouched


@pytest.mark.long
@needs_checkout
@pytest.mark.parametrize("options", ["domain=retail&admissible=lookups", "domain=airline"])
def test_every_way_observes_the_same_in_the_benchmark(options):
    from test_forking import check

    check(f"tau?path={REAL}&{options}", ("state", "process"))


def test_tools_as_schemas():
    """The tools are offered, and what is no call speaks to the user."""
    env, plain = library(tools="schema"), library()
    which = next(env.list_tasks("train"))
    first, before = env.reset(which), plain.reset(which)
    assert first.text == before.text and before.tools is None and "Functions:" not in env.instruction()
    names = [tool["function"]["name"] for tool in first.tools]
    assert "respond" not in names and all(f"{name}(" in plain.instruction() for name in names)
    check_tools(first.tools)
    actions, texts, last = play(env, which)
    by_text, texts_by_text, _ = play(plain, which)
    assert last.success and texts == texts_by_text and actions[:-1] == by_text[:-1]
    assert format_call("respond", {"content": actions[-1]}) == by_text[-1]

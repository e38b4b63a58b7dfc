"""AppWorld on four tasks of our own, by its real package.

The package needs a Python of its own, which $EEXP_TEST_APPWORLD names:

    python3.11 -m venv DIR && DIR/bin/pip install appworld && DIR/bin/appworld install
    EEXP_TEST_APPWORLD=DIR/bin/python pytest tests/envs/test_env_appworld.py

Without it, only options, errors and the cutting of solutions are tested.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from branches import observed, play, take_actions
from running import lines, run
from test_env_program import gone

from eexp.envs import open_env
from eexp.envs.worlds.appworld import AppWorld, solution_actions
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError

BOOKS, PAY, GIFTS, HIDDEN = "a1b2c3d_1", "e4f5a6b_1", "c7d8e9f_1", "b9a8c7d_1"
PROFILE = "print(apis.supervisor.show_profile()['first_name'])"


@pytest.fixture(scope="module")
def env(appworld_spec):
    with open_env(appworld_spec) as opened:
        yield opened


# -- without the package -----------------------------------------------------------------------------------------------


def files(root: Path) -> Path:
    """Write the files that tell AppWorld's data from another directory."""
    for name in ("tasks", "datasets"):
        (root / "data" / name).mkdir(parents=True)
    return root


def test_a_user_without_data_reads_one_line_that_says_what_to_get(tmp_path, monkeypatch):
    monkeypatch.delenv("APPWORLD_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    run("expert", "appworld").one_error(2, "appworld: no data/tasks and data/datasets", "`appworld download data")
    with pytest.raises(UsageError, match=rf"appworld\?root={tmp_path}: no data/tasks"):
        open_env(f"appworld?root={tmp_path}")
    monkeypatch.setenv("APPWORLD_ROOT", str(tmp_path / "there"))
    with pytest.raises(UsageError, match=f"data/datasets in {tmp_path}/there"):
        open_env("appworld")


def test_a_user_without_the_package_reads_one_line_that_says_how_to_install_it(tmp_path):
    spec = f"appworld?root={files(tmp_path)}"
    message = "has no package appworld; make an environment for it"
    run("expert", f"{spec}&python={sys.executable}").one_error(1, message, "appworld install")
    with pytest.raises(UsageError, match=r"appworld\?python=nowhere: cannot be run: No such file"):
        open_env(f"{spec}&python=nowhere")


def test_a_package_without_its_apps_is_named(tmp_path, monkeypatch):
    package = tmp_path / "site" / "appworld"
    (package / "apps").mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(Path(sys.prefix), tmp_path / "venv", symlinks=True, ignore=lambda *_: ["lib", "lib64", "share"])
    site = tmp_path / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    shutil.copytree(package, site / "appworld")
    with pytest.raises(EexpError, match="has the package without its apps; run its `appworld install`"):
        open_env(f"appworld?root={files(tmp_path / 'root')}&python={tmp_path / 'venv' / 'bin' / 'python'}")


def test_options_are_checked(tmp_path):
    spec = f"appworld?root={files(tmp_path)}"
    for option, message in [
        ("expert=model", r"appworld\?expert=model: expected statements or print"),
        ("admissible=all", r"appworld\?admissible=all: expected none or lookups"),
        ("timeout=0", r"appworld\?timeout=0: expected seconds"),
        ("max_steps=no", r"appworld\?max_steps=no: expected a number above 0"),
        ("task=1", "has no option 'task'; it has: root, python, expert, admissible, timeout, max_steps"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_env(f"{spec}&{option}")


HEAD = "import json\nfrom collections import Counter\nfrom x import Apis\n\nLIMIT = 3\n\n"
DEFINITION = "def solution(apis: Apis, requester) -> None:\n"


def actions_of(tmp_path: Path, body: str, head: str = "", prints: bool = False) -> tuple[str, ...]:
    file = tmp_path / "compiled_solution.py"
    file.write_text(head + DEFINITION + "".join(f"    {line}\n" for line in body.splitlines()))
    return solution_actions(file, prints)


def test_a_solution_is_cut_into_its_statements(tmp_path):
    body = '"""Doc."""\na = 1\n# why\nfor i in [a]:\n    # here\n    print(i)\n\nx = f(\n    a,\n)\nreturn'
    cut = ("a = 1", "for i in [a]:\n    # here\n    print(i)", "x = f(\n    a,\n)")
    assert actions_of(tmp_path, body) == cut
    assert actions_of(tmp_path, body, prints=True) == ("a = 1\nprint(a)", cut[1], f"{cut[2]}\nprint(x)")
    assert actions_of(tmp_path, "a, (b, c) = f()\nd.e = a\na += 1; b = 2", prints=True) == (
        "a, (b, c) = f()\nprint(a, b, c)",
        "d.e = a",
        "a += 1\nprint(a)",
        "b = 2\nprint(b)",
    )


def test_a_text_of_several_lines_keeps_its_indentation(tmp_path):
    (action,) = actions_of(tmp_path, 'note = """one\n  two"""')
    values: dict = {}
    exec(action, values)
    assert values["note"] == "one\n      two"


def test_what_the_statements_need_of_the_programs_top_comes_first(tmp_path):
    head = f"{HEAD}def count(texts):\n    return Counter(texts)\n\n\n"
    assert actions_of(tmp_path, "a = 1\nb = count('ab')", head) == (
        "from collections import Counter\ndef count(texts):\n    return Counter(texts)\na = 1",
        "b = count('ab')",
    )
    assert actions_of(tmp_path, "a = LIMIT", head) == ("LIMIT = 3\na = LIMIT",)


@pytest.mark.parametrize("body", ["if a:\n    return\nf()", "n = 0\ndef add():\n    nonlocal n\n    n += 1\nadd()"])
def test_a_solution_that_cannot_be_cut_is_one_action(tmp_path, body):
    (action,) = actions_of(tmp_path, body, HEAD)
    assert action.startswith("def solution(apis, requester):\n") and action.endswith("\nsolution(apis, requester)")


def test_a_file_that_is_no_solution_is_an_error(tmp_path):
    file = tmp_path / "compiled_solution.py"
    assert solution_actions(file, False) == ()
    for text, message in [("x = 1\n", "no function `solution`"), ("def (", "invalid syntax")]:
        file.write_text(text)
        with pytest.raises(EnvironmentFailed, match=message):
            solution_actions(file, False)


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_splits_tasks_and_kinds(env):
    assert env.splits() == ["train", "dev", "test_normal"]
    tasks = {split: [task["id"] for task in env.tasks(split)] for split in env.splits()}
    assert tasks == {"train": [BOOKS, "a1b2c3d_2", PAY], "dev": [GIFTS], "test_normal": [HIDDEN]}
    assert [env.kind_of(task) for task in env.tasks("train")] == ["difficulty 1", "difficulty 1", "difficulty 2"]
    with pytest.raises(UsageError, match="has no split 'test'; it has: train, dev, test_normal"):
        env.tasks("test").__next__()


def test_tasks_that_are_not_there_or_have_changed_are_refused(env):
    for name in ("a1b2c3d_9", "../tasks/a1b2c3d_1", "", None, 3):
        with pytest.raises(InputError, match="appworld has no task"):
            env.reset({"id": name})
    with pytest.raises(InputError, match="a1b2c3d_1 has changed since the record was made"):
        env.reset({"id": BOOKS, "checksum": "0" * 16})


# -- playing -----------------------------------------------------------------------------------------------------------


def test_the_expert_succeeds_in_every_task_that_has_a_solution(env):
    for split in ("train", "dev"):
        for task in env.tasks(split):
            actions, texts, end = play(env, task)
            assert (end.done, end.score, end.success) == (True, 1.0, True)
            assert texts[0].startswith("The apps:\napi_docs: ")
            assert len(actions) == {BOOKS: 8, "a1b2c3d_2": 8, PAY: 7, GIFTS: 1}[task["id"]]
    env.reset({"id": HIDDEN})
    assert env.expert() is None


def test_the_instruction_says_whose_apps_these_are(env):
    env.reset({"id": PAY})
    task, person = env.instruction().split("\n")[0], env.instruction().split("\n")[2]
    assert task == "Send Omar $12 on Venmo for lunch."
    assert "Ida Berg (email ida.berg@gmail.com, phone number 5550100)" in person and "2023-05-18T12:00" in person


def test_the_expert_may_print_what_it_sets(appworld_spec):
    with open_env(f"{appworld_spec}&expert=print") as env:
        actions, texts, end = play(env, {"id": BOOKS})
        assert end.success and actions[5] == "unread = 0\nprint(unread)" and texts[6] == "0"
        assert json.loads(texts[2]) == {"simple_note": "ida-simple_note", "venmo": "ida-venmo"}


def test_the_score_is_the_share_of_tests_that_pass_when_the_task_is_completed(env):
    env.reset({"id": BOOKS})
    assert env.step("apis.supervisor.show_profile()").score == 0
    end = env.step("apis.supervisor.complete_task(answer=7)")
    assert (end.done, end.score, end.success) == (True, 0.5, False)
    over = env.step(PROFILE)
    assert (over.text, over.done, over.valid, over.success) == ("The task is completed.", True, False, False)
    env.reset({"id": HIDDEN})
    end = env.step("apis.supervisor.complete_task()")  # test splits have an evaluation, without solutions
    assert (end.done, end.score, end.success) == (True, pytest.approx(1 / 3), False)


def test_a_task_without_ground_truth_has_no_score(appworld_spec, tmp_path):
    root = Path(appworld_spec.partition("root=")[2].partition("&")[0])
    shutil.copytree(root / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "tasks" / HIDDEN / "ground_truth")
    with open_env(appworld_spec.replace(str(root), str(tmp_path))) as env:
        assert env.reset({"id": HIDDEN}).score is None and env.kind_of({"id": HIDDEN}) is None
        end = env.step("apis.supervisor.complete_task()")
        assert (end.done, end.score, end.success) == (True, None, None)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("", "No code available to execute."),
        ("take all of it", "Syntax error in line:\ntake all of it\nMessage: invalid syntax"),
        ("fly", "NameError: name 'fly' is not defined"),
        ("import subprocess", "Usage of the following module is not allowed: subprocess."),
        ("apis.venmo.fly()", "No API named 'fly' found in the venmo app."),
        ("apis.venmo.show_account(access_token='x')", "Response status code is 401"),
    ],
)
def test_code_that_fails_is_answered_and_changes_nothing(env, code, text):
    env.reset({"id": PAY})
    before = observed(env, env.step(PROFILE))
    failed = env.step(code)
    assert text in failed.text and (failed.valid, failed.done, failed.changed) == (False, False, None)
    assert observed(env, env.step(PROFILE)) == before
    assert env.expert() is not None  # only what changes something takes it off its way


def test_what_changes_the_state_without_showing_it_says_so(env):
    env.reset({"id": PAY})
    steps = [env.step(code) for code in ("x = []", "x.append(1)", "1 + 1", "random.random()")]
    assert {step.text for step in steps} == {"Execution successful."}
    assert [step.changed for step in steps] == [True, True, None, True]
    assert env.expert() is None
    assert env.step("x.append(2)\nfly").changed and env.step("print(x)").text == "[1, 2]"


def test_code_that_runs_too_long_is_stopped(appworld_spec):
    with open_env(f"{appworld_spec}&timeout=2") as env:
        env.reset({"id": PAY})
        stopped = env.step("while True:\n    pass")
        assert "Execution timed out after 2 seconds." in stopped.text and not stopped.valid
        assert env.step(PROFILE).text == "Ida"


def test_an_episode_whose_process_dies_is_set_aside_and_others_go_on(env):
    env.reset({"id": PAY})
    with env.fork() as copy:
        with pytest.raises(EnvironmentFailed, match="execute: the process of the episode has ended"):
            env.step("import os; os.abort()")
        assert copy.step(PROFILE).text == "Ida"
    assert env.reset({"id": BOOKS}).valid and env.step(PROFILE).text == "Ida"


# -- repeats and forks -------------------------------------------------------------------------------------------------


CHANCE = "print(random.random(), {'b', 'a', 'c'}, datetime.datetime.now())"


def test_random_numbers_sets_and_clock_are_the_same_in_every_process(env, appworld_spec):
    codes = [CHANCE, "print(apis.venmo.login)", *solution(env), CHANCE]
    env.reset({"id": PAY})
    first = [env.mask(env.step(code).text) for code in codes]
    with open_env(appworld_spec) as other:
        other.reset({"id": PAY})
        assert [other.mask(other.step(code).text) for code in codes] == first
    assert first[1].endswith("at #>") and first[0].endswith("2023-05-18 12:00:00")


def solution(env: AppWorld) -> list[str]:
    return play(env, {"id": PAY})[0][:-1]


def test_a_fork_has_databases_variables_and_random_numbers_of_its_own(env):
    env.reset({"id": PAY})
    for code in [*solution_start(env), "x = [random.random()]"]:
        env.step(code)
    balance = "print(x, random.random(), apis.venmo.show_venmo_balance(access_token=token))"
    with env.fork() as first, env.fork() as second:
        first.step("x.append(2)")
        first.step("apis.venmo.create_transaction(receiver_email='omar.lund@gmail.com', amount=5, access_token=token)")
        assert '"venmo_balance": 95.0' in first.step("print(apis.venmo.show_venmo_balance(access_token=token))").text
        with second.fork() as third:
            texts = [it.step(balance).text for it in (second, env, third)]
        assert len(set(texts)) == 1 and "100.0" in texts[0]


def solution_start(env: AppWorld) -> list[str]:
    """Return the expert's actions up to the token."""
    with env.fork() as copy:
        actions = []
        while not actions or not actions[-1].startswith("token"):
            actions.append(copy.expert())
            copy.step(actions[-1])
    return actions


def test_a_token_that_was_given_back_in_a_fork_is_good_outside(env):
    env.reset({"id": PAY})
    for code in solution_start(env):
        env.step(code)
    show = "print(apis.venmo.show_venmo_balance(access_token=token))"
    with env.fork() as copy:
        assert copy.step("apis.venmo.logout(access_token=token)").valid
        assert "401" in copy.step(show).text
    assert env.step(show).valid


def test_a_fork_plays_on_as_the_original(env):
    actions, _, _ = play(env, {"id": BOOKS})
    env.reset({"id": BOOKS})
    for n, action in enumerate(actions):
        with env.fork() as copy:
            rest = take_actions(copy, actions[n:])
        assert rest[-1][0]["success"]
        env.step(action)
    assert env.expert() is None


def test_lookups_are_accepted_and_change_nothing(appworld_spec):
    with open_env(f"{appworld_spec}&admissible=lookups") as env:
        env.reset({"id": PAY})
        listed = env.admissible()
        assert listed == sorted(listed) == env.admissible()
        assert "print(apis.supervisor.show_profile())" in listed and not any("token" in it for it in listed)
        for code in solution_start(env):
            env.step(code)
        with_token = [it for it in env.admissible() if it not in listed]
        assert "print(apis.venmo.show_venmo_balance(access_token=token))" in with_token
        for action in with_token:
            with env.fork() as copy:
                step = copy.step(action)
                assert step.valid and not step.changed, (action, step)
        while (action := env.expert()) is not None:
            env.step(action)
        assert env.admissible() == []


# -- the stages --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pipe(appworld_spec, tmp_path, monkeypatch):
    spec = f"{appworld_spec}&expert=print&admissible=lookups"
    monkeypatch.setenv("EEXP_ENV", spec)
    monkeypatch.setenv("EEXP_PROMPT_STYLE", "code")
    expert = run("expert", spec, "-n", "1").ok().records
    branched = run("branch", "--from", "admissible", "-k", "2", stdin=lines(expert)).ok().records
    rollout = run("rollout", stdin=lines(branched)).ok().records
    outcomes = [a["outcome"] for step in rollout[0]["steps"] for a in step["alternatives"]]
    assert len(outcomes) == 2 * len(expert[0]["steps"]) and all(outcome["valid"] for outcome in outcomes)
    imitation = run("imitation-data", stdin=lines(expert)).ok().records
    loop = next(it["completion"][0]["content"] for it in imitation if "for line in" in str(it["completion"]))
    assert loop.startswith("```python\nfor line in") and loop.endswith("        unread += 1\n```")
    world = run("world-model-data", stdin=lines(rollout)).ok().records
    assert any('"first_name": "Ida"' in it["completion"][0]["content"] for it in world)


def test_no_process_and_no_directory_is_left_behind(appworld_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = open_env(appworld_spec)
    env.reset({"id": PAY})
    copy = env.fork()
    ids = [int(it.step("import os\nprint(os.getpid())").text) for it in (env, copy)]
    assert len(set(ids)) == 2 and list(tmp_path.iterdir())
    env.close()
    assert copy.step(PROFILE).text == "Ida"
    copy.close()
    copy.close()
    assert all(gone(pid) for pid in ids) and not list(tmp_path.iterdir())


HOLDER = r"""
import os, signal, sys
from eexp.envs import open_env
env = open_env(sys.argv[1])
env.reset({"id": "e4f5a6b_1"})
copy = env.fork()
copy_of_copy = copy.fork()
copy.close()
print(*[it.step("import os\nprint(os.getpid())").text for it in (env, copy_of_copy)], flush=True)
exec(sys.argv[2])
"""


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit()"])
def test_no_process_is_left_behind_by_a_process_that_ends(appworld_spec, ending):
    command = [sys.executable, "-c", HOLDER, appworld_spec, ending]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ids = [int(pid) for pid in holder.stdout.readline().split()]
    holder.wait(timeout=30)
    assert len(set(ids)) == 2 and all(gone(pid) for pid in ids)

"""MiniWoB++ in Chromium: pages in words, actions, experts, replays. Most tests are skipped without the browser."""

from __future__ import annotations

import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from leftovers import MARK, marked, none_left
from running import run

from eexp.envs import open_env
from eexp.envs.opening import unsafe_in_records
from eexp.envs.worlds import miniwob
from eexp.envs.worlds.browser import chromium
from eexp.envs.worlds.browser.experts import EXPERTS
from eexp.envs.worlds.browser.lines import Line, Refused, View, parse
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError

ROOT = Path(__file__).parents[2]
needs_package = pytest.mark.skipif(not find_spec("miniwob"), reason="needs the package miniwob")
needs_browser = pytest.mark.skipif(
    not (find_spec("miniwob") and any(map(chromium.shutil.which, chromium.PROGRAMS))),
    reason="needs the package miniwob and Chromium",
)
#: Pages that open something, wait, scroll, list, or have much in them.
SOME = "click-dialog,click-menu,login-user-popup,email-inbox-forward,use-autocomplete,click-scroll-list,search-engine"


def task(page: str, seed: int = 0) -> dict:
    return {"id": f"{page}/{seed}", "split": "train", "task": page, "seed": seed}


@pytest.fixture(scope="module")
def env():
    with open_env("miniwob?task=*") as opened:
        yield opened


# -- lines and actions, without a browser ------------------------------------------------------------------------------


FORM = View(
    [
        Line(0, text="Name:"),
        Line(0, role="textbox", source="#tt", value='a "b"', id=1, clickable=True, editable=True, states=("focused",)),
        Line(0, role="combobox", name="Size", id=2, value="S", options=("S", "L")),
        Line(1, role="listbox", id=3, options=("x", "y"), selected=(False, True)),
        Line(0, role="button", name="Go", states=("disabled",)),
        Line(0, role="clickable", id=12, clickable=True, shape="circle", color="red", size="8", place="15,45"),
        Line(0, role="textbox", kind="date", id=4, value="", clickable=True, editable=True),
    ],
    waiting=True,
)


def test_a_page_in_words():
    assert FORM.render().split("\n") == [
        'text "Name:"',
        r'[1] textbox #tt = "a \"b\"", focused',
        '[2] combobox "Size" = "S" of "S", "L"',
        '  [3] listbox of "x", "y" (chosen)',
        'button "Go", disabled',
        "[12] clickable, circle, red, 8 at (15,45)",
        '[4] textbox (date) = ""',
    ]
    assert View([]).render() == "The page is empty."


def test_admissible_actions_of_a_page():
    actions = FORM.admissible(["Ann"])
    assert actions == [
        "click [1]",
        "click [4]",
        "click [12]",
        "key ENTER",
        "key TAB",
        'select [2] "L"',
        'select [2] "S"',
        'select [3] "x"',
        'select [3] "y"',
        'type [1] "Ann"',
        "wait",
    ]
    for action in actions:
        parse(action, FORM)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("fly", "That is not an action. Actions are: click [ID]"),
        ("click 12", "That is not an action."),
        ("CLICK [12]", "That is not an action."),
        ("type [1] Ann", "That is not an action."),
        ("click [7]", "There is no [7] on the page."),
        ("click [2]", '[2] is a list of choices: use select [2] "OPTION".'),
        ('type [12] "a"', "[12] is no field to type into."),
        ('select [1] "a"', "[1] is no list of choices."),
        ('select [2] "XL"', '[2] has no option "XL".'),
        ("key F13", "That is not an action."),
        ("key SHIFT", "There is no key SHIFT. Keys are: ENTER, TAB"),
    ],
)
def test_actions_that_a_page_refuses(action, reason):
    with pytest.raises(Refused) as e:
        parse(action, FORM)
    assert str(e.value).startswith(reason)


def test_texts_in_quotation_marks():
    assert parse(r'type [1] "a \"b\"\n\u00e9"', FORM).text == 'a "b"\né'
    assert parse('type [1] "say "hi" \\"', FORM).text == 'say "hi" \\'  # no JSON: taken as it stands
    assert parse(' type [1] "" ', FORM).text == ""


def test_experts_read_nothing_but_the_instruction_and_the_page():
    boxes = [
        Line(0, role="checkbox", name=n, id=i, clickable=True, states=("not checked",)) for i, n in enumerate("ab")
    ]
    submit = Line(0, role="button", name="Submit", id=9, clickable=True)
    expert = EXPERTS["click-checkboxes"]
    assert expert("Select b and click Submit.", View([*boxes, submit]), []) == "click [1]"
    assert expert("Select nothing and click Submit.", View([*boxes, submit]), []) == "click [9]"
    assert EXPERTS["enter-date"]("Enter 01/02/2015 as the date and hit submit.", FORM, []) == 'type [1] "2015-01-02"'
    for page in EXPERTS:  # a page that has nothing on it is no reason to fail
        assert EXPERTS[page]("", View([]), []) is None, page


# -- the spec, without a browser ---------------------------------------------------------------------------------------


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setattr(miniwob, "find_spec", lambda name: None)
    miniwob._all_pages.cache_clear()
    miniwob._directory.cache_clear()
    with pytest.raises(
        EexpError, match=r"^the package miniwob is missing: miniwob needs `pip install 'eexp\[miniwob\]'`"
    ):
        open_env("miniwob")


@needs_package
def test_chromium_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EexpError, match=r"^no Chromium found .*: install Chromium \(on Debian: apt-get install"):
        open_env("miniwob")


@needs_browser
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("pages=click-link", "miniwob has no option 'pages'; it has: task, max_steps, screenshots, sandbox"),
        ("task=click-link,fly", "miniwob?task=click-link,fly: there is no page 'fly'; there are: ascending-numbers,"),
        ("max_steps=0", "miniwob?max_steps=0: expected a number above 0"),
        ("sandbox=maybe", "miniwob?sandbox=maybe: expected yes or no"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UsageError) as e:
        open_env(f"miniwob?{options}")
    assert str(e.value).startswith(message)


@needs_browser
def test_records_choose_pages_and_no_directories():
    assert unsafe_in_records("miniwob?task=click-link&max_steps=9") is None
    assert "screenshots" in str(unsafe_in_records("miniwob?screenshots=/tmp/x"))
    assert "sandbox" in str(unsafe_in_records("miniwob?sandbox=no"))


def test_the_sandbox_is_left_out_for_root_alone(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert chromium.sandbox_options(True) == ("--no-sandbox",)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert chromium.sandbox_options(True) == ()
    assert chromium.sandbox_options(False) == ("--no-sandbox",)


@needs_browser
def test_tasks_take_turns_between_pages():
    env = open_env("miniwob?task=click-tab*,enter-text")
    tasks = list(env.tasks("test"))
    pages = ["click-tab", "click-tab-2", "click-tab-2-easy", "click-tab-2-hard", "click-tab-2-medium", "enter-text"]
    assert [t["id"] for t in tasks[:7]] == [*(f"{page}/1000000" for page in pages), "click-tab/1000001"]
    assert len(tasks) == 6_000 and env.kind_of(tasks[1]) == "click-tab-2"
    assert not {t["seed"] for t in tasks} & set(miniwob.SPLITS["train"])
    assert [t["task"] for t, _ in zip(open_env("miniwob").tasks("train"), EXPERTS)] == list(EXPERTS)


# -- pages in a browser ------------------------------------------------------------------------------------------------


@needs_browser
def test_a_task_by_its_own_words(env):
    first = env.reset(task("click-checkboxes", 1))
    assert env.instruction() == "Select DKkQH and click Submit."
    assert first.text == '[1] checkbox "USa", not checked\n[2] checkbox "DKkQH", not checked\n[3] button "Submit"'
    assert env.admissible() == ["click [1]", "click [2]", "click [3]"]
    checked = env.step(env.expert())
    assert checked.text.split("\n")[1] == '[2] checkbox "DKkQH", checked, focused'
    assert (checked.valid, checked.done, checked.score, checked.success) == (True, False, 0.0, None)
    last = env.step(env.expert())
    assert (last.done, last.score, last.success) == (True, 1.0, True)
    assert last.text.endswith("\nThe episode is over: the task is done.")
    after = env.step("click [1]")
    assert (after.text, after.valid, after.done, after.success) == ("The episode is over.", False, True, True)
    assert env.admissible() == [] and env.expert() is None


@needs_browser
def test_a_failed_task(env):
    env.reset(task("click-test-2"))
    other = next(a for a in env.admissible() if a != env.expert())
    observation = env.step(other)
    assert (observation.done, observation.score, observation.success) == (True, 0.0, False)


@needs_browser
def test_fields(env):
    env.reset(task("login-user"))
    assert '[1] textbox #username = "ab c", focused' in env.step('type [1] "ab c"').text
    assert '[1] textbox #username = "é€", focused' in env.step('type [1] "é€"').text
    assert '[2] textbox #password = "•••", focused' in env.step('type [2] "xyz"').text
    assert '[1] textbox #username = "é€", focused' in env.step('type [1] "é€"').text
    assert '[1] textbox #username = "é", focused' in env.step("key BACKSPACE").text
    assert '[1] textbox #username = "", focused' in env.step('type [1] ""').text
    assert '[2] textbox #password = "•••", focused' in env.step("key TAB").text
    env.reset(task("enter-date"))
    assert not env.step('type [1] "tomorrow"').valid
    assert '[1] textbox (date) #tt = "2011-10-09", focused' in env.step('type [1] "2011-10-09"').text


@needs_browser
def test_choices_and_menus(env):
    env.reset(task("click-scroll-list", 1))
    assert '"Lorri" (chosen), "Bobine" (chosen)' in [env.step(f'select [1] "{n}"').text for n in ("Lorri", "Bobine")][1]
    assert '"Lorri", "Bobine" (chosen)' in env.step('select [1] "Lorri"').text
    before = env.reset(task("click-menu", 1)).text
    opened = env.step("hover [3]").text
    assert opened.startswith(before) and len(opened.split("\n")) > len(before.split("\n"))


@needs_browser
def test_elements_keep_their_numbers(env):
    before = env.reset(task("click-collapsible-2", 1)).text
    after = env.step("click [1]").text
    numbers = [{line.id: line.name for line in View.of(json_view(env)).lines if line.role == "tab"}]
    assert numbers == [{1: "Section #1", 2: "Section #2", 3: "Section #3"}]
    assert [int(n) for n in re.findall(r"^ *\[(\d+)\]", before, re.MULTILINE)] == [1, 2, 3]
    assert {int(n) for n in re.findall(r"^ *\[(\d+)\]", after, re.MULTILINE)} > {1, 2, 3}


def json_view(env) -> dict:
    answer = env._page.evaluate_isolated("eexpPage.read()")
    return {"lines": answer["lines"], "waiting": answer["waiting"]}


@needs_browser
def test_the_clock_goes_on_by_steps_alone(env):
    env.reset(task("click-button"))
    start = env._page.evaluate("new Date().toISOString() + ' ' + Date().slice(0, 24) + ' ' + performance.now()")
    assert start == "2024-01-08T09:00:01.000Z Mon Jan 08 2024 09:00:01 1000"
    env._page.evaluate("setTimeout(() => (window.rung = Date.now()), 1500)")
    env._page.evaluate("window.rounds = 0, setInterval(() => (window.rounds += 1), 250)")
    time.sleep(0.3)
    assert env._page.evaluate("[Date.now(), window.rounds]") == [1704704401000, 0]
    assert "wait" in env.admissible() or env.step("wait").valid
    env.step("wait")
    rung, rounds = env._page.evaluate("[window.rung - Date.UTC(2024, 0, 8, 9), window.rounds]")
    assert rung == 2500 and rounds in (4, 8)


@needs_browser
def test_pages_reach_no_network(env):
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    env.reset(task("click-button"))
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{server.server_port}/"
        fetched = f"fetch('{url}', {{mode: 'no-cors'}}).then(() => 'yes', () => 'no')"
        assert env._page.evaluate(fetched) == "no"
    server.shutdown()
    assert not requests


@needs_browser
def test_nonsense_changes_nothing(env):
    env.reset(task("login-user"))
    env.step('type [1] "abc"')
    before = json_view(env)
    for action in (
        "",
        "fly",
        "click [99]",
        "click [1",
        'select [1] "a"',
        "key NOTHING",
        'type [3] "a"',
        "\ud800",
        "[1]",
    ):
        observation = env.step(action)
        assert not observation.valid and not observation.done and observation.text
    assert json_view(env) == before


@needs_browser
def test_tasks_that_do_not_exist(env):
    for wrong in (
        {"task": "fly", "seed": 0},
        {"task": "click-link", "seed": -1},
        {"task": "click-link", "seed": "0"},
        {},
    ):
        with pytest.raises(InputError):
            env.reset({"id": "x", **wrong})
    with pytest.raises(EnvironmentFailed, match="no task is loaded"):
        env.step("wait")


# -- experts, lists and replays ----------------------------------------------------------------------------------------


def play_expert(env, a_task: dict) -> list:
    observation, trace = env.reset(a_task), []
    while not observation.done and (action := env.expert()) and len(trace) < 30:
        assert len(env.admissible()) > 0
        observation = env.step(action)
        trace.append((action, observation.outcome()))
    assert observation.success, (a_task, env.instruction(), observation.text)
    return trace


@needs_browser
@pytest.mark.slow
def test_every_expert_succeeds(env):
    assert len(EXPERTS) >= 60
    for n, page in enumerate(list(EXPERTS)[::12]):  # all of them, and more seeds, in the test below
        play_expert(env, task(page, 100 + n))


@needs_browser
@pytest.mark.long
def test_every_expert_succeeds_on_ten_seeds(env):
    for page in EXPERTS:
        for seed in range(1_000_000, 1_000_010):
            play_expert(env, {**task(page, seed), "split": "test"})


def wander(env, pages: list[str], seeds: range, steps: int) -> dict:
    """Take random listed actions, each of which has to be valid; return all that is observed, by task."""
    observed = {}
    for page in pages:
        for seed in seeds:
            rng = random.Random(f"{page}/{seed}")
            observation = env.reset(task(page, seed))
            trace = [observation.outcome(), env.instruction(), env.admissible()]
            while not observation.done and env.admissible() and len(trace) < 3 + 3 * steps:
                action = rng.choice(env.admissible())
                observation = env.step(action)
                assert observation.valid, (page, seed, action, observation.text)
                trace += [action, observation.outcome(), env.admissible()]
            observed[page, seed] = trace
    return observed


@needs_browser
@pytest.mark.slow
def test_the_same_actions_lead_to_the_same_pages(env):
    """In another browser, and in another order of tasks."""
    with open_env("miniwob?task=" + SOME) as one:
        pages = list(one._pages)
        observed = wander(one, pages, range(1), 4)
    assert not one._browser
    with open_env("miniwob?task=" + SOME) as other:
        assert wander(other, pages[::-1], range(1), 4) == observed


@needs_browser
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_same_on_every_page(env):
    observed = wander(env, env._pages, range(1), 6)
    assert wander(env, env._pages[::-1], range(1), 6) == observed


@needs_browser
def test_environments_share_a_browser_and_nothing_else(env):
    first = env.reset(task("login-user")).text
    users = env._browser.users
    with open_env("miniwob") as other:
        assert other.reset(task("login-user")).text == first
        assert other._browser is env._browser and env._browser.users == users + 1
        other.step('type [1] "other"')
        assert '= "mine"' in env.step('type [1] "mine"').text
        assert other.step("key TAB").text.startswith('text "Username"\n[1] textbox #username = "other"')
    assert env._browser.users == users and env.step("key TAB").valid


@needs_browser
@pytest.mark.long
def test_the_pipe(tmp_path):
    spec = "miniwob?task=click-tab-2,login-user-popup,choose-list"
    run("expert", spec, "-n", "3", "-o", tmp_path / "expert.jsonl").ok()
    run("branch", "--from", "admissible", "-k", "2", tmp_path / "expert.jsonl", "-o", tmp_path / "b.jsonl").ok()
    records = run("rollout", "-j", 1, tmp_path / "b.jsonl").ok().records
    alternatives = [a for r in records for s in r["steps"] for a in s["alternatives"]]
    assert len(alternatives) >= 8 and all(a["outcome"]["valid"] for a in alternatives)
    assert all(r["outcome"]["success"] for r in records)


# -- pictures ----------------------------------------------------------------------------------------------------------


@needs_browser
def test_pictures_are_kept_on_request_and_shown(tmp_path):
    spec = f"miniwob?task=click-test-2&screenshots={tmp_path}/shots"
    result = run("expert", spec, "-n", "1", "-o", tmp_path / "expert.jsonl").ok()
    (record,) = [json.loads(line) for line in (tmp_path / "expert.jsonl").read_text().splitlines()]
    files = [record["steps"][0]["screenshot"], record["outcome"]["screenshot"]]
    assert files[0] == f"{tmp_path}/shots/click-test-2/0/00.png"
    assert re.fullmatch(r"01-[0-9a-f]{8}\.png", Path(files[1]).name)
    for file in files:
        data = Path(file).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and (data[16:20], data[20:24]) == (b"\0\0\1\x40", b"\0\0\1\xa4")
    shown = run("show", tmp_path / "expert.jsonl").ok().out.decode()
    assert all(f"picture: {file}" in shown for file in files)
    plain = run("expert", "miniwob?task=click-test-2", "-n", "1").ok().records
    assert "screenshot" not in json.dumps(plain) and result.records == []


# -- the end of the browser --------------------------------------------------------------------------------------------


@pytest.fixture
def short_path():
    """A directory with a path that is short enough for Chromium's sockets."""
    with tempfile.TemporaryDirectory(prefix="mw-", dir="/tmp") as directory:
        yield Path(directory)


def directories(place: Path) -> list[Path]:
    return list(place.glob("eexp-chromium-*"))


@needs_browser
def test_a_killed_browser_is_one_error_and_is_started_again(short_path, monkeypatch):
    monkeypatch.setattr(miniwob._Shared, "browser", None)
    monkeypatch.setattr(chromium.tempfile, "tempdir", str(short_path))
    with open_env("miniwob") as env:
        first = env.reset(task("click-link")).text
        assert len(directories(short_path)) == 1
        os.kill(env._browser._child.pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFailed, match=r"miniwob: step: .*killed by signal 9") as e:
            env.step("wait")
        assert "\n" not in str(e.value) and not directories(short_path)
        assert env.reset(task("click-link")).text == first
    assert not directories(short_path)


@needs_browser
def test_a_page_that_hangs_is_one_error(short_path, monkeypatch):
    monkeypatch.setattr(miniwob._Shared, "browser", None)
    monkeypatch.setattr(chromium.tempfile, "tempdir", str(short_path))
    with open_env("miniwob") as env:
        env.reset(task("click-link"))
        env._page.evaluate("setTimeout(() => { for (;;); }, 10)")
        env._browser.limit = 1.0
        with pytest.raises(EnvironmentFailed, match=r"step: no answer within 1 s \(EEXP_ENV_TIMEOUT\)"):
            env.step("wait")
    assert not directories(short_path)


HOLDER = """
import os, signal, sys, time
from eexp.envs import open_env
env = open_env("miniwob")
env.reset({"id": "click-link/0", "split": "train", "task": "click-link", "seed": 0})
print(env._browser._child.guard_pid, flush=True)
if sys.argv[1] == "guard": sys.stdin.readline()
if sys.argv[1] in ("exits", "guard"): sys.exit()
if sys.argv[1] == "fails": raise ValueError
if sys.argv[1] == "hangs":
    env._page._browser.limit = 600
    env._page.evaluate("(() => { for (;;); })()")
time.sleep(600)
"""


@needs_browser
@pytest.mark.parametrize(
    "end",
    [
        *("SIGKILL", "guard"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("hangs", "exits", "fails", "SIGINT", "SIGTERM")),
    ],
)
def test_nothing_is_left_behind(end, short_path):
    variables = {**os.environ, MARK: str(short_path), "TMPDIR": str(short_path), "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", HOLDER, end], env=variables, **pipes) as holder:
        guard = int(holder.stdout.readline())
        if end not in ("exits", "fails"):
            assert len(marked(str(short_path))) > 3 and len(directories(short_path)) == 1
            time.sleep(0.3)
            if end == "guard":
                os.kill(guard, signal.SIGKILL)
                holder.stdin.write(b"\n")
            else:
                holder.send_signal(getattr(signal, end, signal.SIGKILL))
    assert none_left(str(short_path))
    assert not directories(short_path)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    "end", [*(pytest.param(name, marks=pytest.mark.long) for name in ("SIGTERM", "SIGINT")), "SIGKILL"]
)
def test_nothing_is_left_behind_by_workers(end, short_path):
    """Their guards are killed by those of the workers, which then remove the directories."""
    variables = {**os.environ, MARK: str(short_path), "TMPDIR": str(short_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "eexp", "eval", "miniwob", "-m", "random", "-n", "200", "--parallel", "2", "-q"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=variables, **quiet) as running:
        deadline = time.monotonic() + 60
        while len(directories(short_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        assert len(directories(short_path)) == 2 and running.poll() is None
        running.send_signal(getattr(signal, end))
    assert none_left(str(short_path))
    assert not directories(short_path)


@needs_browser
@pytest.mark.long
def test_a_long_path_for_temporary_files(tmp_path, monkeypatch):
    """Sockets could not be made there."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(miniwob._Shared, "browser", None)
    monkeypatch.setattr(chromium.tempfile, "tempdir", str(long))
    with open_env("miniwob") as env:
        assert env.reset(task("click-link")).text
        assert not directories(long)


@needs_browser
def test_a_program_that_is_no_browser(short_path, monkeypatch):
    (short_path / "chromium").write_text("#!/bin/sh\necho [1:ERROR:main] no display >&2\nexit 3\n")
    (short_path / "chromium").chmod(0o755)
    monkeypatch.setattr(miniwob._Shared, "browser", None)
    monkeypatch.setattr(chromium.tempfile, "tempdir", str(short_path))
    monkeypatch.setenv("PATH", f"{short_path}:{os.environ['PATH']}")
    with (
        open_env("miniwob") as env,
        pytest.raises(EexpError, match=r"chromium does not start: \[1:ERROR:main\] no display$"),
    ):
        env.reset(task("click-link"))
    assert not directories(short_path)

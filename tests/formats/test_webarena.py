"""`eexp import webarena-tasks`: tasks in WebArena's form become tasks of `web`, and are judged by its rules.

The tasks are invented. They are played on the small site of the tests (tests/web_site.py), which runs as a server.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest
from running import ROOT, read, run, write

from eexp.envs import open_env
from eexp.envs.worlds.browser import chromium
from eexp.envs.worlds.browser.judging import Ending, holds
from eexp.envs.worlds.browser.web_tasks import Judge, PageValue, read_web_tasks
from eexp.errors import InputError, UsageError
from eexp.formats.webarena import CannotSay, UserSite, task_of
from eexp.records.toml_file import read_toml, toml_value

needs_browser = pytest.mark.skipif(not any(map(shutil.which, chromium.PROGRAMS)), reason="needs Chromium")
NUMBER = "document.querySelector('#n').outerText"


def config(number: int, judged: dict, start: str = "__REDDIT__", **more: object) -> dict:
    """Return a task as WebArena's files have it; those that say how it is judged have all keys."""
    empty = {"reference_answers": None, "reference_url": "", "program_html": []}
    return {
        "sites": ["reddit"],
        "task_id": number,
        "require_login": True,
        "storage_state": None,
        "start_url": start,
        "geolocation": None,
        "intent_template": "Do {{what}}",
        "instantiation_dict": {"what": "it"},
        "intent": "Do it",
        "require_reset": False,
        "eval": empty | judged,
        **more,
    }


def answer(**how: object) -> dict:
    return {"eval_types": ["string_match"], "reference_answers": how}


def address(url: str) -> dict:
    return {"eval_types": ["url_match"], "reference_url": url, "url_note": "GOLD in PRED"}


def page(locator: str, url: str = "last", **required: object) -> dict:
    target = {"url": url, "locator": locator, "required_contents": required}
    return {"eval_types": ["program_html"], "program_html": [target]}


ADDED = ['type [1] "milk & eggs"', "click [2]"]
#: A task, actions that fulfil it, and actions that do not.
PLAYED: list[tuple[dict, list[list[str]], list[list[str]]]] = [
    (config(1, answer(exact_match="Ann B.")), [["stop [ann b.]"], ['stop ["Ann B."]']], [["stop [Ann]"], ["stop []"]]),
    (config(2, answer(must_include=["5"])), [["stop [there are 5.]"], ["stop [5]"]], [["stop [15]"], ["stop [1.5]"]]),
    (
        config(3, answer(must_include=["milk", "Brown eggs"])),
        [["stop [MILK and brown  eggs]"]],
        [["stop [milk and eggs]"], ["stop [brown eggs]"]],
    ),
    (config(4, answer(fuzzy_match="N/A")), [["stop [N/A]"]], [["stop [It cannot be done]"]]),
    (
        config(5, address("__REDDIT__/script |OR| __REDDIT__/login/")),
        [["open /login", "stop []"], ["open /script#here", "stop []"]],
        [["stop []"], ["open /other?a=/script", "stop []"]],
    ),
    (
        config(6, address("__REDDIT__/script?a=x%20y&b=2")),
        [["open /script?b=2&c=3&a=x+y", "stop []"]],
        [["open /script?a=x+y", "stop []"], ["open /script?a=x&b=2", "stop []"], ["open /?a=x+y&b=2", "stop []"]],
    ),
    (
        config(7, page(NUMBER, exact_match="2"), "__REDDIT__/script"),
        [["click [1]", "click [1]", "stop []"]],
        [["click [1]", "stop []"], ["open /", "stop []"]],
    ),
    (
        config(8, page("", "__REDDIT__/", must_include=["Notes of ann", "cream |OR| milk & eggs"])),
        [[*ADDED, "open /script", "stop []"], ["stop []"]],  # the site keeps what was added
        [],
    ),
    (
        config(
            9,
            page("document.location.pathname", "func:reddit_get_post_url('__last_url__')", exact_match="/f/tea/7/"),
            "__REDDIT__/f/tea/7/green/comment/3",
        ),
        [["stop []"]],
        [["open /f/tea/8/black", "stop []"], ["open /script", "stop []"]],
    ),
    (
        config(10, {**page(NUMBER, must_include=["0"]), **address("__REDDIT__/script")}, "__REDDIT__/script"),
        [["stop []"]],
        [["open /", "stop []"]],
    ),
]
PLAYED[-1][0]["eval"]["eval_types"] = ["url_match", "program_html"]
PLAYED[-1][0]["eval"]["program_html"][0]["prep_actions"] = ["gone.click()", "document.querySelector('button').click()"]

#: Tasks that `web` cannot play or judge as they are meant, and why.
LEFT_OUT = [
    (config(21, answer(fuzzy_match=["two hours"])), "a language model"),
    (config(22, answer(must_include=["a"]), sites=["reddit", "gitlab"]), "several sites"),
    (config(23, answer(must_include=["a"]), "__REDDIT__/a |AND| __REDDIT__/b"), "several tabs"),
    (config(24, page("", "func:shopping_get_latest_order_url()", must_include=["a"])), "shopping_get_latest_order_url"),
    (config(25, page("func:some_role(__page__, 'a')", must_include=["a"])), "function some_role"),
    (config(26, answer(must_include=["a"]), "__GITLAB__/a"), "another site"),
    (config(27, page("", "__MAP__/a", must_include=["a"])), "another site"),
    (config(28, answer(must_include=["a"]), geolocation={"latitude": 1}), "a place on the earth"),
    (config(29, {"eval_types": ["image_match"]}), "an evaluation image_match"),
    (config(30, {**address("__REDDIT__/a"), "url_note": "EXACT"}), "compare addresses by 'EXACT'"),
    (config(31, answer(must_include=["a"]), storage_state="./.auth/reddit_state.json"), "a login"),
    (config(32, page("lambda:a", must_include=["a"])), "another language than JavaScript"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the tests' site, which runs as a server."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    directory = tmp_path_factory.mktemp("site")
    program = subprocess.Popen([sys.executable, ROOT / "tests/web_site.py", str(port), str(directory)])
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://localhost:{port}"
    finally:
        program.kill()
        program.wait()


@pytest.fixture
def storage(tmp_path: Path, server: str) -> Path:
    """A file with the cookie of a login, and one of another site, as Playwright writes it."""
    cookie = {"path": "/", "expires": -1, "httpOnly": False, "secure": False, "sameSite": "Lax"}
    cookies = [{"name": "user", "value": "ann", "domain": "localhost", **cookie}]
    cookies.append({"name": "user", "value": "bob", "domain": ".example.com", **cookie})
    kept = {"origin": server, "localStorage": [{"name": "kept", "value": "41"}]}
    file = tmp_path / "state.json"
    file.write_text(json.dumps({"cookies": cookies, "origins": [kept]}))
    return file


def imported(tmp_path: Path, url: str, *options: object) -> Path:
    """Import the tasks; return the file of tasks."""
    source = tmp_path / "test.raw.json"
    source.write_text(json.dumps([task for task, *_ in (*PLAYED, *LEFT_OUT)], indent=2))
    file = tmp_path / "tasks.toml"
    run("import", "webarena-tasks", "--site", f"reddit={url}", *options, source, "-o", file).ok()
    return file


# -- files ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_said_is_left_out_with_its_reason(tmp_path):
    source = write(tmp_path / "tasks.jsonl", [task for task, *_ in (*PLAYED, *LEFT_OUT)])
    other = write(tmp_path / "other.jsonl", [config(40, answer(must_include=["a"]), sites=["gitlab"])])
    rejects = tmp_path / "left-out.jsonl"
    site = "reddit=http://localhost:9999"
    result = run("import", "webarena-tasks", "--site", site, source, other, "--rejects", rejects).ok()
    assert "1 task of other sites" in result.err and "1 impossible task for which only N/A is right" in result.err
    assert "2 that name an address of another site" in result.err and f"{len(PLAYED)} out" in result.err
    left_out = read(rejects)
    assert [line["record"]["task_id"] for line in left_out] == [task["task_id"] for task, _ in LEFT_OUT]
    for (_, reason), line in zip(LEFT_OUT, left_out):
        assert reason in line["error"] and line["error"] in result.err and line["set_aside"] is False
    file = tmp_path / "tasks.toml"
    file.write_bytes(result.out)
    tasks = read_web_tasks(str(file))
    assert tasks.site.url == "http://localhost:9999" and [task.id for task in tasks.task] == [
        str(n) for n in range(1, 11)
    ]
    assert tasks.task[8].start == "/f/tea/7/green/comment/3" and tasks.task[9].kind == "url_match+program_html"
    assert {task.split for task in tasks.task} == {"test"}
    assert tasks.task[0].instruction == 'Do it\nIf this cannot be done, the answer is "N/A".'
    with pytest.raises(UsageError, match="allow that with url="):
        open_env(f"web?tasks={file}")


def test_addresses_of_a_site_with_a_path(tmp_path):
    site = UserSite.of("shopping_admin=http://localhost:7780/admin/", None)
    task = config(1, address("__SHOPPING_ADMIN__/sales"), "__SHOPPING_ADMIN__", sites=["shopping_admin"])
    assert task_of(task, site)["start"] == "/admin"
    assert task_of(task, site)["judge"] == [{"url": r"(?:/admin/sales).*"}]
    resolved = json.loads(json.dumps(task).replace("__SHOPPING_ADMIN__", "http://localhost:7780/admin"))
    assert task_of(resolved, site) == task_of(task, site)
    with pytest.raises(CannotSay):
        task_of(json.loads(json.dumps(resolved).replace("/admin", "/administration")), site)


def test_the_tasks_of_webarena_lite_are_the_test_split(tmp_path):
    lite = config(0, answer(must_include=["milk", "5 eggs"]), old_task_id=3)
    in_page = config(1, page("", must_include=["milk |OR| cream"]), old_task_id=99)
    tests = write(tmp_path / "lite.jsonl", [lite, in_page])
    source = write(tmp_path / "test.jsonl", [task for task, *_ in PLAYED[:4]])
    file = tmp_path / "tasks.toml"
    command = ("import", "webarena-tasks", "--site", "reddit=http://localhost:9999", "--test", tests)
    result = run(*command, source, "-o", file).ok()
    assert "4 in, 5 out, 1 task of --test" in result.err
    tasks = read_web_tasks(str(file)).task
    assert [(task.id, task.split) for task in tasks] == [
        ("3", "test"),
        ("99", "test"),
        ("1", "train"),
        ("2", "train"),
        ("4", "train"),
    ]
    assert tasks[0].judge == [Judge(includes=["milk", "5 eggs"], words=True)]
    value = PageValue("document.documentElement.outerHTML", includes=[["milk", "cream"]])
    assert tasks[1].judge == [Judge(value=value, words=True)]
    tests.write_text("3\n")
    run(*command, source).one_error(3, "lite.jsonl:1: expected a JSON object")


def test_a_single_file_with_one_task(tmp_path):
    source = tmp_path / "1.json"
    source.write_text(json.dumps(PLAYED[0][0], indent=2))
    result = run("import", "webarena-tasks", "--site", "reddit=http://localhost:9999", source, source)
    assert "1.json:1: $.task_id: another task has the task_id 1" in result.one_error(3)
    assert (
        run("import", "webarena-tasks", "--site", "reddit=http://localhost:9999", source).ok().out.count(b"[[task]]")
        == 1
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "name a site that you run"),
        (["--site", "reddit"], "expected http://localhost:PORT"),
        (["--site", "news=http://localhost:1"], "one of shopping, shopping_admin, reddit"),
        (["--site", "reddit=https://localhost:1"], "expected http://localhost:PORT"),
        (["--site", "reddit=http://localhost:1", "--storage", "gone.json"], "gone.json: no such file"),
        (["--site", "reddit=http://localhost:1", "--min-score", "1"], "--min-score is for trajectories"),
        (["--site", "reddit=http://localhost:1", "--shard", "1/2"], "leave out --shard"),
    ],
)
def test_options_that_do_not_fit(options, message):
    run("import", "webarena-tasks", *options).one_error(2, message)
    if options[:1] == ["--site"]:
        run("import", "messages", *options[:2]).one_error(2, "--site is for webarena-tasks")


@pytest.mark.parametrize(
    "change, where",
    [
        ({"sites": "reddit"}, "expected a task of WebArena"),
        ({"intent": None}, "$.intent: expected texts"),
        ({"eval": {"eval_types": "string_match"}}, "$.eval.eval_types: expected a list"),
        ({"eval": answer()}, "$.eval.reference_answers: expected an object"),
        ({"eval": answer(exact_match=["a"])}, "$.eval.reference_answers.exact_match: expected a text"),
        ({"eval": {"eval_types": ["program_html"], "program_html": [3]}}, "$.eval.program_html: expected objects"),
        ({"eval": page("", must_include=[3])}, "$.eval.program_html.required_contents: expected a list of texts"),
    ],
)
def test_what_is_no_task_is_a_bad_record(change, where, tmp_path):
    source = write(tmp_path / "a.jsonl", [config(1, answer(exact_match="a")) | change])
    run("import", "webarena-tasks", "--site", "reddit=http://localhost:9999", source).one_error(
        3, f"a.jsonl:1: {where}"
    )


def test_values_are_read_back_as_they_were_written(tmp_path):
    value = {"a": ["", 'it\'s "so"', "C:\\", 'a "b"', "\n\t\x7f\x00", "ü ☕"], "b c": [1, 2.5, True], "d": {"é": "'"}}
    file = tmp_path / "a.toml"
    file.write_text(f"value = {toml_value(value)}\n")
    assert read_toml(file) == {"value": value}


def test_a_storage_of_another_site_is_refused(tmp_path):
    from eexp.envs.worlds.browser.chromium import SiteAddress
    from eexp.envs.worlds.browser.storage import read_storage

    file = tmp_path / "state.json"
    file.write_text(
        '{"cookies": [{"name": "a", "value": "b", "domain": "example.com", "expires": 5, "sameSite": null}]}'
    )
    with pytest.raises(InputError, match="has nothing for http://localhost:3"):
        read_storage(file, SiteAddress("localhost:3", 3))
    cookies, stored = read_storage(file, SiteAddress("example.com", 3))
    assert cookies == [
        {
            "name": "a",
            "value": "b",
            "domain": "example.com",
            "path": "/",
            "expires": 5.0,
            "httpOnly": False,
            "secure": False,
        }
    ] and stored == [[], []]
    file.write_text('{"cookies": 3}')
    with pytest.raises(InputError, match="not what Playwright"):
        read_storage(file, SiteAddress("example.com", 3))


# -- play ----------------------------------------------------------------------------------------------------------


def test_answers_are_judged_by_webarenas_rules():
    site = UserSite.of("reddit=http://localhost:9999", None)
    for task, right, wrong in PLAYED[:4]:
        judges = [msgspec.convert(judge, Judge) for judge in task_of(task, site)["judge"]]
        for (stop,), expected in [(actions, True) for actions in right] + [(actions, False) for actions in wrong]:
            ending = Ending("http://localhost:9999/", "", stop[6:-1], lambda _: None)
            assert all(holds(judge, ending, None, 9) for judge in judges) == expected, (task, stop)
    for text, expected in (("some milks", False), ("milk/tea", True), ("it is Milk.", True), ("milkshake", False)):
        for words in (True, False):
            ending = Ending("", "", text, lambda _: None)
            judge = Judge(includes=["milk"], words=words)
            assert holds(judge, ending, None, 9) == (expected or not words), (text, words)
    spaced = Judge(value=PageValue("v", equal="a &amp; 'b'"))
    for value, expected in (("A  & 'b'", False), ("A  &amp; 'B'", False), ("a &amp;amp; 'b'", True)):
        assert holds(spaced, Ending("", "", None, lambda _, value=value: value), None, 9) == expected


@pytest.mark.long
@needs_browser
def test_pages_are_judged_by_webarenas_rules(tmp_path, server, storage):
    file = imported(tmp_path, server, "--storage", storage)
    with open_env(f"web?tasks={file}&url={server}") as env:
        tasks = {task["id"]: task for task in env.list_tasks("test")}
        assert len(tasks) == len(PLAYED) + 1  # the one with a login is played, too

        def play(task: dict, actions: list[str]) -> bool:
            env.reset(tasks[str(task["task_id"])])
            observations = [env.step(action) for action in actions]
            assert all(observation.valid for observation in observations) and observations[-1].done
            return bool(observations[-1].success)

        for task, right, wrong in PLAYED[4:]:
            for actions, expected in [*((one, True) for one in right), *((one, False) for one in wrong)]:
                assert play(task, actions) == expected, (task, actions)
        assert "kept 41" in env.reset(tasks["7"]).text  # what the file of the login stores for the site

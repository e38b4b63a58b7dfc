"""`eexp view`: the index finds every record, texts stay texts, and the page is used by keyboard alone.

The laws: a list in pieces is the list as a whole; a file that is read while it grows is indexed as one that does not;
what a server answers needs its token; nothing of a record becomes markup, a script, or a file that is read.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from hypothesis import given
from hypothesis import strategies as st
from running import EEXP, environment, read, run, write

from eexp.viewer.facets import marks_of
from eexp.viewer.index import Index, Query
from eexp.viewer.page_data import row, shown
from eexp.viewer.page_server import Viewer
from eexp.viewer.record_changes import Comparison, differences
from eexp.viewer.view import page_of
from eexp.viewer.view import read as read_index

HOSTILE = (
    '</script><img src=x onerror="window.hacked=1"><!-- <script>window.hacked=1</script> \u2028 \''
    "javascript:window.hacked=1"
)


# -- the index ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=4), st.integers(1, 7))
def test_a_file_that_grows_is_indexed_as_one_that_does_not(files, tmp_path_factory, pieces, count):
    whole = files["rollout"].read_bytes() + files["sr"].read_bytes()
    file = tmp_path_factory.mktemp("growing") / "records.jsonl"
    file.write_bytes(b"")
    index, done = Index([str(file)]), 0
    for piece in pieces:
        with file.open("ab") as f:
            f.write(whole[done : done + piece])
        done += piece
        list(index.read_on(growing=True))
    with file.open("ab") as f:
        f.write(whole[done:])
    list(index.read_on())
    assert b"".join(index.raw(entry) for entry in range(len(index))) == whole
    assert list(index.line) == list(range(1, len(index) + 1))
    in_pieces, start = [], 0
    while start is not None:
        found = index.find(Query(order="steps", descending=True), start, count)
        in_pieces += found.entries
        start = found.next
    assert in_pieces == index.find(Query(order="steps", descending=True), 0, len(index)).entries
    steps = [index.numbers["steps"][entry] for entry in in_pieces if index.numbers["steps"][entry] > 0]
    assert steps == sorted(steps, reverse=True)


def test_a_last_line_without_a_newline_is_left_while_the_file_grows(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"type": "reject", "stage": "mix", "error": "x"}\n{"type": "reject"')
    index = Index([str(file)])
    list(index.read_on(growing=True))
    assert len(index) == 1
    with file.open("a") as f:
        f.write(', "stage": "mix", "error": "y"}')
    list(index.read_on())
    assert len(index) == 2 and json.loads(index.raw(1))["error"] == "y"


def test_filters_and_words_find_what_a_plain_reading_finds(files):
    index = read_index([str(files["rollout"]), str(files["sr"]), str(files["random"])])
    records = [json.loads(index.raw(entry)) for entry in range(len(index))]
    bits = {(group["key"], value["value"]): value["bit"] for group in index.groups() for value in group["values"]}
    for (key, value), test in {
        ("type", "episode"): lambda r: r["type"] == "episode",
        ("success", "no"): lambda r: r["type"] == "episode" and not r["success"],
        ("outcome", "refused"): lambda r: any(m == "invalid" for step in _marks(r) for m in step),
        ("source", "policy"): lambda r: '"policy"' in json.dumps(r),
    }.items():
        found = index.find(Query(masks=(1 << bits[key, value],)), 0, 1000).entries
        assert found == [i for i, record in enumerate(records) if test(record)] != []
    for word in ("MOON", "lounge", "nowhere-at-all"):
        found = index.find(Query((word.lower(),)), 0, 1000).entries
        assert found == [i for i, r in enumerate(records) if word.lower() in json.dumps(r, ensure_ascii=False).lower()]


def _marks(record: dict) -> list[list[str]]:
    return marks_of(record) if record["type"] == "trajectory" else []


def test_a_word_in_any_script_and_with_quotes_is_found(tmp_path):
    file = tmp_path / "r.jsonl"
    write(file, [{"type": "reject", "stage": "mix", "error": 'Größe "ÄPFEL"\nnext'}])
    index = read_index([str(file)])
    for word in ("größe", '"äpfel"', "next"):
        assert index.find(Query((word,))).entries == [0]


def _odd_records(files) -> list[dict]:
    """Return records whose fields have values of other types, where they are not checked, and long numbers."""
    trajectory, episode = read(files["rollout"])[0], read(files["random"])[0]
    reject = {"type": "reject", "stage": "mix", "error": "e", "record": None}
    keys = ("id", "kind", "env", "stage", "field", "error", "evidence", "lineage", "file", "line", "group", "origin")
    values = (5, True, [1], {"a": 1}, "a text", None)
    return [
        *({**reject, key: value} for key in keys for value in values),
        *({**reject, "record": {key: value}} for key in ("id", "kind", "env", "stage") for value in values),
        *({**record, "kind": value, "group": value, "origin": value} for record in (episode,) for value in values),
        *({**trajectory, "kind": value, "group": value, "stage": value} for value in values),
        {**reject, "field": f"$.steps[{'9' * 5000}]"},
        {**reject, "id": "9" * 5000, "record": {"id": "9" * 5000}},
        {**read(files["sr"])[0], "group": "g", "id": f"g/{'9' * 5000}/x"},
        {"type": "task", "env": "house", "task": {}, "id": 5, "lineage": "a text"},
    ]


def test_records_of_any_shape_are_shown(files, tmp_path):
    records = _odd_records(files)
    file = write(tmp_path / "odd.jsonl", records)
    with file.open("ab") as f:
        f.write(b'{"type": "reject", "id": %d}\n5\n\xff\n{"type": "reject", "error": "\\ud800"}\n' % 10**400)
    index = read_index([str(file)])
    assert len(index) == len(records) + 4 and json.dumps(index.groups())
    for entry in range(len(index)):
        answer, line = shown(index, entry), row(index, entry)
        assert json.dumps(answer) and json.dumps(line) and line["title"] is not None
        if entry < len(records) and "record" in answer:
            assert answer["record"] == records[entry]
        else:
            error = answer["error"]
            assert error == line["title"] or error.startswith(line["title"])
            assert answer["text"] and error.startswith(("$", "not valid JSON", "not UTF-8", "the integer")), error
    assert sum("record" in shown(index, entry) for entry in range(len(index))) >= len(records) - 20


def _ended(files, outcome: dict) -> dict:
    """Return a trajectory that ended with an outcome, and so did what a policy did after its first alternative."""
    record = read(files["rollout"])[0]
    outcome = {"observation": "The end.", "done": True, **outcome}
    record["steps"][0]["alternatives"][0]["then"] = [{**outcome, "action": "wait"}]
    return {**record, "outcome": outcome}


#: Outcomes, and the success that each is by the one rule (eexp/records/outcomes.py).
ENDS = [
    ({"score": 1.0}, True),
    ({"score": 0.5}, False),
    ({"score": 1.0, "success": False}, False),
    ({"score": 0.5, "success": True}, True),
    ({}, True),
    ({"imagined": "model", "score": 1.0, "success": True}, None),
]


def test_success_is_judged_by_the_rule_that_filters_use(files, tmp_path):
    index = read_index([str(write(tmp_path / "r.jsonl", [_ended(files, outcome) for outcome, _ in ENDS]))])
    bits = {
        value["value"]: value["bit"]
        for group in index.groups()
        if group["key"] == "success"
        for value in group["values"]
    }
    for entry, (_, success) in enumerate(ENDS):
        answer = shown(index, entry)
        assert (answer["success"], answer["then"][0][0]) == (success, [success])
        assert index.bits[entry] >> bits[{True: "yes", False: "no", None: "unknown"}[success]] & 1


def test_differences_name_every_field():
    before = {"a": 1, "b": [1, {"c": 2}], "d": True}
    after = {"a": 1, "b": [1, {"c": 3}, 4], "e": None}
    paths = [path for path, _, _ in differences(before, after)]
    assert paths == ["$.b[1].c", "$.b[2]", "$.d", "$.e"]


def test_two_files_are_compared_by_ids(files, tmp_path):
    records = read(files["rollout"])
    records[1]["instruction"] = "Something else."
    records[2]["lineage"] = [*records[2]["lineage"], "again 0.2.0"]
    other = tmp_path / "other.jsonl"
    write(other, [*records[1:], {**records[0], "id": "new"}])
    index = read_index([str(files["rollout"]), str(other)])
    comparison = Comparison(index)
    words = [comparison.word(entry) for entry in range(len(index))]
    assert words[:4] == ["only in the first", "differs", "only lineage differs", "the same"]
    assert words[-1] == "only in the second"
    assert [change["path"] for change in comparison.changes(1)] == ["$.instruction"]
    listed = index.find(Query(masks=(comparison.mask,))).entries
    assert listed == [*range(len(records)), len(index) - 1]


# -- the server --------------------------------------------------------------------------------------------------------


@contextmanager
def served(*paths: Path, **options) -> Iterator[Viewer]:
    viewer = Viewer(Index([str(path) for path in paths]), **options)
    thread = threading.Thread(target=viewer.run)
    thread.start()
    try:
        yield viewer
    finally:
        viewer.stop()
        thread.join(10)


def _get(viewer: Viewer, what: str, token: str | None = None, **headers: str) -> dict:
    address = f"http://127.0.0.1:{viewer.port}/{viewer.token if token is None else token}/{what}"
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return json.load(answer)


def _status(viewer: Viewer, what: str, token: str | None = None, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        _get(viewer, what, token, **headers)
    return error.value.code


def _wait(viewer: Viewer, records: int) -> dict:
    deadline = time.monotonic() + 60
    while (state := _get(viewer, "state"))["records"] < records:
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def test_the_server_answers_to_its_token_alone_and_reads_nothing_else(files, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    room = tmp_path / "records"
    room.mkdir()
    (room / "seen.png").write_bytes(b"\x89PNG\r\n\x1a\nseen")
    (room / "notes.txt").write_text("private")
    record = read(files["rollout"])[0]
    for step, name in zip(record["steps"], ("../secret.png", "seen.png", "notes.txt"), strict=False):
        step["screenshot"] = name
    write(room / "r.jsonl", [record])
    with served(room / "r.jsonl") as viewer:
        _wait(viewer, 1)
        assert _get(viewer, "record?entry=0")["record"] == record
        assert _status(viewer, "state", token="wrong") == _status(viewer, "state", Host="evil.example") == 403
        assert _status(viewer, "record?entry=7") == _status(viewer, "list?order=nothing") == 400
        assert _status(viewer, "../../etc/passwd") == 404
        for name in ("../secret.png", "notes.txt", "r.jsonl", "/etc/passwd"):
            assert _status(viewer, f"picture?entry=0&name={name}") == 404
        address = f"{viewer.address}picture?entry=0&name=seen.png"
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert answer.headers["Content-Type"] == "image/png" and answer.read().endswith(b"seen")


def test_a_file_that_a_stage_writes_is_followed(files, tmp_path):
    lines = files["rollout"].read_bytes().splitlines(keepends=True)
    file = tmp_path / "running.jsonl"
    file.write_bytes(lines[0] + lines[1][:100])
    with served(file, follow=True) as viewer:
        _wait(viewer, 1)
        with file.open("ab") as f:
            f.write(lines[1][100:] + lines[2])
        assert _wait(viewer, 3)["follow"]
        assert [row["line"] for row in _get(viewer, "list")["rows"]] == [1, 2, 3]


@pytest.mark.parametrize("change", ["was cut short", "was replaced", "was written anew"])
def test_a_followed_file_that_becomes_another_is_read_again(files, tmp_path, change):
    lines = files["rollout"].read_bytes().splitlines(keepends=True)
    other = files["sr"].read_bytes().splitlines(keepends=True)
    file = tmp_path / "running.jsonl"
    file.write_bytes(b"".join(lines[:3]))
    with served(file, follow=True) as viewer:
        _wait(viewer, 3)
        kinds = {value["value"]: value["bit"] for group in viewer.index.groups() for value in group["values"]}
        if change == "was cut short":
            file.write_bytes(other[0])
        elif change == "was replaced":
            (tmp_path / "new.jsonl").write_bytes(other[0])
            (tmp_path / "new.jsonl").replace(file)
        else:
            file.write_bytes(b"".join([other[0], *lines]))
        deadline = time.monotonic() + 30
        while (state := _get(viewer, "state"))["generation"] == 0 or state["reading"]:
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        assert f"{file} {change}, and is read again" in state["progress"]
        assert _get(viewer, "record?entry=0")["record"] == json.loads(other[0])
        now = {value["value"]: value["bit"] for group in state["groups"] for value in group["values"]}
        assert kinds.items() <= now.items(), "a filter that is chosen in the page means another value"
        with file.open("ab") as f:
            f.write(other[1])
        assert _wait(viewer, state["records"] + 1)["generation"] == 1


def test_a_followed_file_of_which_nothing_was_lost_is_not_read_again(files, tmp_path):
    file, link = tmp_path / "running.jsonl", tmp_path / "link.jsonl"
    file.write_bytes(b"\n" + files["rollout"].read_bytes() + b"\n \n")
    link.symlink_to(file)
    index = Index([str(file), str(link)])
    list(index.read_on(growing=True))
    with file.open("ab") as f:
        f.write(b'{"type": "reject"')
    assert index.outdated() == ""
    file.unlink()
    assert index.outdated() == "" and len(list(index.read_on(growing=True))) > 0


def test_a_request_without_a_token_is_refused_in_silence(files, capfd):
    """Any user of the machine can connect."""
    with served(files["sr"]) as viewer:
        for target in (b"*", b"http://[", b"http://a:b:c]/", b"//[", b"?", b"\xff"):
            with socket.create_connection(("127.0.0.1", viewer.port), timeout=20) as connection:
                connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
                assert connection.makefile("rb").readline().split()[1] == b"403", target
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_stops_the_copy_of_standard_input_and_not_its_writer(files):
    data = files["rollout"].read_bytes()
    limited = ["bash", "-c", f"ulimit -f 64; exec {shlex.join(EEXP)} view"]
    view = subprocess.Popen(limited, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert view.stdin and view.stderr
    address = view.stderr.readline().decode().split()[1]
    written = threading.Event()

    def write_all() -> None:
        for _ in range(-(-2_000_000 // len(data))):
            view.stdin.write(data)
        view.stdin.close()
        written.set()

    threading.Thread(target=write_all, daemon=True).start()
    assert written.wait(60), "the writer is stopped"
    assert b"File too large; later records from standard input are not shown" in view.stderr.readline()
    state = json.load(urllib.request.urlopen(address + "state", timeout=20))
    assert "File too large; later records are not shown" in state["progress"]
    os.kill(view.pid, 2)
    assert view.wait(30) == 0 and view.stderr.read() == b""


def test_records_from_standard_input_are_served_as_they_come_and_ctrl_c_ends_quietly(files):
    view = subprocess.Popen([*EEXP, "view"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert view.stdin and view.stderr
    address = view.stderr.readline().decode().split()[1]
    view.stdin.write(files["rollout"].read_bytes())
    view.stdin.flush()
    deadline = time.monotonic() + 60
    while json.load(urllib.request.urlopen(address + "state", timeout=20))["records"] < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(view.pid, 2)
    assert view.wait(30) == 0 and view.stderr.read() == b""


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_page_says_where_it_is_a_sample(files, tmp_path):
    run("view", files["iwm"], "-n", 3, "-o", tmp_path / "page.html").ok()
    text = (tmp_path / "page.html").read_text()
    assert "A sample: 3 of " in text and "http" not in text.split("<body")[0].split("Content-Security-Policy")[1]
    assert page_of([str(files["iwm"])]) == page_of([str(files["iwm"])])


def test_wrong_calls_are_one_line(files, tmp_path):
    run("view", tmp_path / "none.jsonl", "-o", "-").one_error(1, "none.jsonl: No such file")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(files["sr"].read_bytes())
    run("view", copy, "-o", copy).one_error(2, "both read and written")
    assert copy.read_bytes() == files["sr"].read_bytes()
    run("view", "--diff", files["sr"]).one_error(2, "--diff compares two files")
    run("view", files["sr"], "--follow", "-o", "-").one_error(2, "without a server")
    run("view", files["sr"], "-m", tmp_path / "no-model", "-o", "-").one_error(1, "no-model")
    os.mkfifo(tmp_path / "pipe")
    for more in (["-o", tmp_path / "page.html"], []):
        run("view", tmp_path, *more).one_error(1, f"{tmp_path}: is a directory; give its files")
        run("view", tmp_path / "pipe", *more).one_error(
            1, "pipe: is a pipe, which is read on standard input: `eexp view <"
        )
        closed = f"{shlex.join([*EEXP, 'view', *map(str, more)])} <&-"
        process = subprocess.run(["bash", "-c", closed], capture_output=True, text=True, env=environment(), timeout=60)
        assert (process.returncode, process.stderr) == (1, "error: <stdin>: Bad file descriptor\n")
    full = f"ulimit -f 4; {shlex.join([*EEXP, 'view', '-o', str(tmp_path / 'page.html')])} < {files['rollout']}"
    process = subprocess.run(["bash", "-c", full], capture_output=True, text=True, env=environment(), timeout=60)
    assert process.returncode == 1 and "eexp-view-" in process.stderr and process.stderr.endswith(": File too large\n")


# -- the page in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def _settle(page: Page, expression: str) -> None:
    deadline = time.monotonic() + 20
    while not page.js(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


def test_a_page_is_read_by_keyboard_alone(files, page, tmp_path):
    file = tmp_path / "page.html"
    run("view", *files.values(), "-n", 500, "-m", "tiny", "-o", file).ok()
    trajectory, second = read(files["rollout"])[:2]
    title = "document.getElementById('title').textContent"
    page.open(file)
    _settle(page, "document.querySelectorAll('.state').length > 0")
    assert page.js("document.querySelectorAll('.branch').length") == sum(
        len(s["alternatives"]) for s in trajectory["steps"]
    )
    assert page.js("document.querySelector('.branch.invalid .action').textContent") == "take the moon"
    page.press("j")
    page.press("j")
    assert page.js("document.activeElement.dataset.step") == "1" and "step=1" in page.js("location.hash")
    page.press("a")
    assert page.js("getComputedStyle(document.querySelector('.fan')).display") == "none"
    page.press("a")
    page.press("n")
    _settle(page, f"{title} === {json.dumps(second['instruction'])}")
    page.press("p")
    _settle(page, f"{title} === {json.dumps(trajectory['instruction'])}")
    page.press("r")  # an example that was made of the first state, as tokens with its targets marked
    _settle(page, "document.querySelectorAll('.tokens .learned').length > 0")
    learned = page.js("[...document.querySelectorAll('.tokens .learned')].map((one) => one.textContent).join('')")
    whole = [m["content"] for file in ("sr", "iwm") for e in read(files[file]) for m in e["completion"]]
    assert any(learned.startswith(text) for text in whole)
    page.press("r")  # and back
    _settle(page, "document.querySelectorAll('.state').length > 0")
    page.press("f")
    assert page.js("document.activeElement.type") == "checkbox"
    page.js("document.querySelector('[data-filter=\"type=episode\"]').click()")
    _settle(page, "document.querySelectorAll('#records button').length === 6")
    page.js("document.activeElement.blur()")
    page.press("r")  # the other policy on the same task, beside it
    _settle(page, "document.querySelectorAll('.pair-of > section').length === 2")
    for key in ("/", "Escape", "?", "Escape", "t"):
        page.press(key)
    assert page.js("document.documentElement.dataset.theme") in ("dark", "light")
    page.fill("query", "moon")
    _settle(page, "document.querySelectorAll('#records button').length === 0")
    assert page.errors == [] and [url for url in page.requests if not url.startswith(("file:", "about:"))] == []


def test_nothing_of_a_hostile_record_runs(files, page, tmp_path):
    records = [json.loads(_hostile(json.dumps(read(file)[0]))) for file in files.values()]
    write(tmp_path / "hostile.jsonl", [*records, {"type": HOSTILE}])
    file = tmp_path / "hostile.html"
    run("view", tmp_path / "hostile.jsonl", "-o", file).ok()
    page.open(file, width=390)
    for _ in range(len(records) + 1):
        time.sleep(0.1)
        page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.js("document.querySelectorAll('article img, article script, article iframe').length") == 0
        page.press("n")
    assert page.js("window.hacked") is None
    assert page.js("document.documentElement.scrollWidth <= innerWidth")


def test_records_of_any_shape_are_read_in_the_page(files, page, tmp_path):
    records = [record for record in _odd_records(files) if record["type"] == "reject"][::3]
    records += [
        _odd_records(files)[-1],
        {**read(files["sr"])[0], "scores": [{"span": "action", "logprob": 1, "tokens": 1}]},
    ]
    file = write(tmp_path / "odd.jsonl", records)
    file.write_bytes(
        file.read_bytes().replace(b'"logprob": 1,', b'"logprob": 1e999,').replace(b'"logprob":1,', b'"logprob":1e999,')
    )
    before = len(page.errors)
    run("view", file, "-o", tmp_path / "odd.html").ok()
    page.open(tmp_path / "odd.html")
    for number in range(1, len(records) + 1):
        _settle(page, f"document.getElementById('place').textContent.includes('line {number} ')")
        assert page.js("document.getElementById('content').textContent.trim().length") > 0
        page.press("n")
    assert "1e" in file.read_text() and page.errors[before:] == []


def test_the_page_marks_success_as_the_filter_counts_it(files, page, tmp_path):
    write(tmp_path / "ends.jsonl", [_ended(files, outcome) for outcome, _ in ENDS])
    run("view", tmp_path / "ends.jsonl", "-o", tmp_path / "ends.html").ok()
    page.open(tmp_path / "ends.html")
    for number, (_, success) in enumerate(ENDS, 1):
        _settle(page, f"document.getElementById('place').textContent.includes('line {number} ')")
        for place in (".path > .state:last-child .tag", ".then .tag"):
            tags = page.js(f"[...document.querySelectorAll({json.dumps(place)})].map((one) => one.textContent)")
            assert ("success" in tags, "ended" in tags) == (success is True, success is not True), (number, tags)
        page.press("n")


def test_an_open_page_goes_on_with_the_file_that_replaced_another(files, page, tmp_path):
    file, new = tmp_path / "running.jsonl", tmp_path / "new.jsonl"
    file.write_bytes(files["rollout"].read_bytes())
    new.write_bytes(files["sr"].read_bytes().splitlines(keepends=True)[0])
    before = len(page.errors)
    with served(file, follow=True) as viewer:
        page.call("Page.navigate", url=viewer.address)
        _settle(page, "document.querySelectorAll('#records button').length === 4")
        new.replace(file)
        _settle(page, "document.querySelectorAll('#records button').length === 1")
        _settle(page, "document.getElementById('place').textContent.startsWith('example')")
        assert "was replaced, and is read again" in page.js("document.getElementById('progress').textContent")
    assert page.errors[before:] == []


def _hostile(text: str) -> str:
    """Return a record in which every free text is hostile; what the format prescribes stays."""
    fixed = (
        "type",
        "role",
        "kind",
        "name",
        "sha",
        "id",
        "group",
        "transition",
        "worse",
        "source",
        "stage",
        "field",
        "file",
    )

    def change(value, key=""):
        if isinstance(value, dict):
            return {k: change(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [change(one, key) for one in value]
        return HOSTILE if isinstance(value, str) and key not in fixed else value

    return json.dumps(change(json.loads(text)))

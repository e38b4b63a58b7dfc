"""`eexp view`: the index finds every record, texts stay texts, and the page is used by keyboard alone.

The laws: a list in pieces is the list as a whole; a file that is read while it grows is indexed as one that does not;
what a server answers needs its token; nothing of a record becomes markup, a script, or a file that is read.
"""

from __future__ import annotations

import json
import os
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
from running import EEXP, read, run, write

from eexp.viewer.facets import marks_of
from eexp.viewer.index import Index, Query
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

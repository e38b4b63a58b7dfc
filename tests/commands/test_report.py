"""`eexp report`: the page has the numbers of `eexp compare`, shows the episodes unchanged, and works in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from running import ROOT, read, run, write

from eexp.report import charts
from eexp.report.excerpts import CUT_OFF, REFUSED, excerpts
from eexp.report.study import find_arms

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!-- <script>window.hacked=1</script> \u2028 \' & {{ 1 }}'
ARMS = ("clever", "random")
RUNS = ("0", "1", "2")


def _rates(run_: str, arm: str) -> float:
    return {"clever": 0.7, "random": 0.2}[arm] + int(run_) / 20


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a study of two arms with three training runs each: real episodes of house, with made-up thoughts."""
    directory = tmp_path_factory.mktemp("reports") / "study"
    played = {}
    for name, arguments in {"expert": [], "random": ["--max-steps", "7"]}.items():
        file = directory.parent / f"{name}.jsonl"
        run("eval", "house", "-m", name, "-n", 24, *arguments, "-q", "-o", file).ok()
        played[name] = {e["task"]["id"]: e for e in read(file)}
    for run_ in RUNS:
        for arm in ARMS:
            rng = random.Random(f"{run_} {arm}")
            here = directory / run_
            episodes = []
            for task in sorted(played["expert"]):
                good = rng.random() < _rates(run_, arm)
                episode = json.loads(json.dumps(played["expert" if good else "random"][task]))
                episode["kind"] = episode["instruction"].split()[0].lower()
                for turn in episode["transcript"]:
                    if arm == "clever":
                        turn["thought"] = f"I had better {turn['action']}."
                        turn["text"] = f"Thought: {turn['thought']}\nAction: {turn['action']}"
                episode["thoughts"] = len(episode["transcript"]) * (arm == "clever")
                episodes.append(episode)
            rng.shuffle(episodes)
            (here / arm).mkdir(parents=True)
            write(here / f"{arm}.episodes.jsonl", episodes)
        metrics = [{"step": i, "loss": 3 / i, "grad_norm": 1.0, "learning_rate": 0.001} for i in range(1, 41)]
        metrics[20:20] = [
            {"step": 20, "epoch": 0.5, "validation": {"loss": 0.4, "tokens": 9, "kinds": {}, "spans": {}}}
        ]
        (here / "clever" / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics) + '{"step": 4')
        settings = {
            "settings": {"base": "tiny", "rank": 32, "seed": int(run_)},
            "learning_rate": 0.003,
            "data": {"examples": 100, "kinds": {"imitation": 100}, "sha256": "ab" * 32},
            "total": {"updates": 40, "target_tokens": 123456},
        }
        (here / "clever" / "eexp.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="session")
def page_file(study: Path) -> Path:
    """Write the page of the study."""
    file = study.parent / "report.html"
    run("report", study, "--baseline", "random", "--name", "clever=IL + thoughts", "-o", file).ok()
    return file


def _compare(study: Path) -> list[dict]:
    groups = {"random": "random", "IL + thoughts": "clever"}
    files = [f"{label}={study}/{r}/{arm}.episodes.jsonl" for label, arm in groups.items() for r in RUNS]
    return run("compare", *files, "--baseline", "random", "--json").ok().records


class Document(HTMLParser):
    """The elements of a page: (name, attributes, text inside)."""

    VOID = {"meta", "input", "link", "img", "br"}

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict, list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        assert not self._open, f"never closed: {[self.elements[i][0] for i in self._open]}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes), []))
        if tag not in self.VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open[-1]][0] == tag, f"</{tag}> ends {self.elements[self._open[-1]][0]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for i in self._open:
            self.elements[i][2].append(data)

    def all(self, tag: str | None = None, **attributes: str) -> Iterator[tuple[str, dict, str]]:
        """Yield the elements with these attributes, in order."""
        for name, own, text in self.elements:
            if tag in (None, name) and all(own.get(k.replace("_", "-")) == v for k, v in attributes.items()):
                yield name, own, "".join(text)

    def json(self, id: str) -> list | dict:
        """Return the text of a script element."""
        ((_, _, text),) = self.all("script", id=id)
        return json.loads(text)

    def rows(self) -> list[tuple[str, dict[str, list[tuple[float, str]]]]]:
        """The rows of the table of results: (name, the exact and the shown numbers by field)."""
        rows: list = []
        field = None
        for tag, attributes, text in self.elements:
            if "data-row" in attributes:
                rows.append((attributes["data-row"], {}))
            elif "data-field" in attributes:
                field = rows[-1][1].setdefault(attributes["data-field"], [])
            elif tag == "data" and field is not None:
                field.append((json.loads(attributes["value"]), "".join(text)))
            elif tag in ("td", "section"):
                field = None
        return rows


def _document(file: Path) -> Document:
    return Document(file.read_text(encoding="utf-8"))


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_compare(study, page_file):
    assert _document(page_file).json("rows") == _compare(study)


PERCENT = {"rate", "low", "high", "rates", "invalid_actions", "thoughts", "cut_off"}
POINTS = {"difference", "difference_low", "difference_high"}


def test_the_numbers_shown_are_those_of_compare(study, page_file):
    page_rows = _document(page_file).rows()
    rows = _compare(study)
    assert [name for name, _ in page_rows] == [row["name"] for row in rows] == ["random", "IL + thoughts"]
    for (_, fields), row in zip(page_rows, rows):
        fields_of_row = (
            PERCENT | {"mean_steps"} | (POINTS | {"p_holm", "p_exact", "detectable"} if "against" in row else set())
        ) - {"cut_off"}
        assert set(fields) == fields_of_row
        for field, numbers in fields.items():
            exact = row[field] if field == "rates" else [row[field]]
            assert [number for number, _ in numbers] == exact, field
            for number, text in numbers:
                if field in PERCENT | {"detectable"}:
                    assert text == f"{100 * number:.1f}"
                elif field in POINTS:
                    assert text.replace("\N{MINUS SIGN}", "-") == f"{100 * number:+.1f}"
                elif field == "mean_steps":
                    assert text == f"{number:.1f}"


def test_a_settled_difference_is_named_first_and_an_unsettled_one_is_not_called_equal(study, page_file, tmp_path):
    text = page_file.read_text(encoding="utf-8")
    (row,) = (r for r in _compare(study) if r["name"] == "IL + thoughts")
    assert row["p_holm"] < 0.05
    assert row["p_exact_least"] == pytest.approx(0.1) and "cannot give an exact <i>p</i> below" in text
    shown = dict(_document(page_file).rows())["IL + thoughts"]["p_holm"]
    assert shown == [(row["p_holm"], "< 0.1")], "three runs against three cannot support less"
    first = re.search(r'<div class="findings">\s*<p>(.*?)</p>', text, re.DOTALL)[1]
    assert "IL + thoughts" in first and f"{100 * row['difference']:.1f} points more" in first
    for name in ("a", "b"):
        write(tmp_path / f"{name}.episodes.jsonl", read(study / "0" / "random.episodes.jsonl"))
    same = run("report", tmp_path, "-o", "-").ok().out.decode()
    assert "Not settled against a: <b>b</b>" in same and "One run an arm" in same and "One run an arm" not in text


def test_kinds_of_tasks_are_those_of_compare(study, page_file):
    rows = _compare(study)
    kinds = rows[0]["kinds"]
    assert len(kinds) > 1
    text = page_file.read_text(encoding="utf-8")
    table = re.search(r'<table class="plain kinds">.*?</table>', text, re.DOTALL)[0]
    numbers = [json.loads(value) for value in re.findall(r'<data value="([^"]+)">', table)]
    expected = []
    for kind in sorted(kinds):
        expected.append(kinds[kind]["tasks"])
        for row in rows:
            cell = row["kinds"][kind]
            expected += [
                cell[key]
                for key in ("rate", "difference", "difference_low", "difference_high")
                if cell.get(key) is not None
            ]
    assert numbers == expected


# -- the page as a file ------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_page_whatever_the_order_of_lines(study, page_file, tmp_path):
    arguments = ("--baseline", "random", "--name", "clever=IL + thoughts", "-o")
    run("report", study, *arguments, tmp_path / "again.html").ok()
    assert (tmp_path / "again.html").read_bytes() == page_file.read_bytes()
    before = {file: file.read_bytes() for file in study.rglob("*.episodes.jsonl")}
    try:
        for file, text in before.items():
            file.write_bytes(b"".join(sorted(text.splitlines(keepends=True))))
        run("report", study, *arguments, tmp_path / "again.html").ok()
    finally:
        for file, text in before.items():
            file.write_bytes(text)
    assert (tmp_path / "again.html").read_bytes() == page_file.read_bytes()


def test_nothing_is_loaded_and_only_its_own_script_may_run(page_file):
    document = _document(page_file)
    for _, attributes, _ in document.all():
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#") or attributes["href"] == "data:,"
    ((_, _, style),) = document.all("style")
    assert "url(" not in style and "@import" not in style
    *_, (_, _, script) = document.all("script")
    ((_, policy, _),) = document.all("meta", http_equiv="Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy["content"] and f"script-src 'sha256-{digest}'" in policy["content"]
    assert "innerHTML" not in script and "fetch(" not in script


def test_every_control_has_a_name_and_every_reference_leads_somewhere(page_file):
    document = _document(page_file)
    ids = [attributes["id"] for _, attributes, _ in document.all() if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name, attributes, text in document.all():
        for key in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(key, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if name == "button" and not attributes.get("id", "").startswith("side-"):
            assert text.strip()
        if attributes.get("role") in ("img", "region"):
            assert attributes.get("aria-label") or attributes.get("aria-labelledby")
    labelled = re.findall(r"<label[^>]*>.*?<(?:select|input)[^>]*id=\"(\w+)\"", page_file.read_text(encoding="utf-8"))
    assert set(labelled) == {"left", "right", "show", "kind", "query"}


def _hostile(study: Path, directory: Path) -> Path:
    for arm in ARMS:
        episodes = read(study / "0" / f"{arm}.episodes.jsonl")
        for episode in episodes:
            episode |= {"instruction": f"I {HOSTILE}", "kind": f"K{len(episode['transcript']) % 2} {HOSTILE}"}
            for turn in episode["transcript"]:
                turn |= {"observation": f"O {HOSTILE}", "action": f"A {HOSTILE}", "thought": f"T {HOSTILE}"}
        write(directory / f"{arm}.episodes.jsonl", episodes)
    file = directory / "report.html"
    run("report", directory, "--name", f"clever={HOSTILE}", "--title", HOSTILE, "-o", file).ok()
    return file


def test_text_in_records_stays_text(study, tmp_path):
    document = _document(_hostile(study, tmp_path))
    assert [a.get("id") for _, a, _ in document.all("script")] == ["rows", "episodes-data", None]
    assert not list(document.all("img"))
    data = document.json("episodes-data")
    assert f"O {HOSTILE}" in data["texts"] and data["arms"][0]["label"] == HOSTILE
    assert document.json("rows")[0]["name"] == HOSTILE
    ((_, _, title),) = document.all("title")
    assert title == HOSTILE


def test_the_episodes_are_as_they_were_played(study):
    arms = find_arms([str(study)])
    data = excerpts(arms, lambda episode: episode["kind"], tasks=1000, most_bytes=10**9)

    def text(i: int) -> str | None:
        return None if i < 0 else data["texts"][i]

    assert len(data["tasks"]) == data["of"] == 24
    for i, arm in enumerate(arms):
        for j, played in enumerate(arm.runs):
            episodes = {e["task"]["id"]: e for e in played.episodes()}
            assert len(episodes) == 24
            for task in data["tasks"]:
                episode = episodes[task["id"]]
                success, score, steps, invalid, cut_off, final, turns = task["episodes"][f"{i}/{j}"]
                assert (bool(success), score, steps) == (episode["success"], episode["score"], episode["steps"])
                assert (invalid, cut_off, text(final)) == (episode["invalid"], episode["cut_off"], episode["final"])
                assert (task["instruction"], task["kind"]) == (episode["instruction"], episode["kind"])
                transcript = [(text(o), text(a), text(t), not flags & REFUSED) for o, a, t, flags, *_ in turns]
                assert transcript == [
                    (t["observation"], t["action"], t.get("thought"), t["valid"]) for t in episode["transcript"]
                ]


def test_the_text_of_a_model_is_kept_if_it_has_more_than_the_action(tmp_path):
    refused = {"observation": "o", "action": "go", "valid": False}
    turns = [
        {"observation": "o", "action": "", "text": "Thought: on and", "valid": False, "cut_off": True},
        {**refused, "text": "I would rather go than stay, so: go"},
        {**refused, "thought": "I go", "text": "Thought: I go\nAction: go"},
    ]
    task = {"type": "episode", "id": "x", "env": "house", "task": {"id": "1"}}
    episode = {**task, "success": False, "steps": 3, "transcript": turns}
    write(tmp_path / "a.episodes.jsonl", [episode, {**episode, "id": "y", "seed": 1, "success": True}])
    data = excerpts(find_arms([str(tmp_path)]), lambda e: None, tasks=5, most_bytes=10**6)
    assert data["trials"] and len(data["tasks"]) == 1
    success, *_, transcript = data["tasks"][0]["episodes"]["0/0"]
    assert not success
    assert [flags for *_, flags, _ in transcript] == [REFUSED | CUT_OFF, REFUSED, REFUSED]
    assert [data["texts"][number] if number >= 0 else None for *_, number in transcript] == [
        "Thought: on and",
        "I would rather go than stay, so: go",
        None,
    ]


@pytest.mark.parametrize(
    ("option", "n", "message"),
    [
        (("--tasks", "5"), 5, "5 of 24 tasks, drawn at random and not for how they went"),
        (("--megabytes", "0"), 1, "(--megabytes 0)"),
        ((), 24, "24 of 24 tasks, with all arms and runs"),
    ],
)
def test_the_page_holds_a_sample_and_says_so(study, tmp_path, option, n, message):
    file = tmp_path / "report.html"
    run("report", study, *option, "-o", file).ok()
    document = _document(file)
    assert len(document.json("episodes-data")["tasks"]) == n
    ((_, _, note),) = document.all("p", id="sample")
    assert message in note


def test_a_smaller_sample_is_part_of_a_larger_one(study):
    arms = find_arms([str(study)])

    def draw(n: int, seed: int) -> list[str]:
        data = excerpts(arms, lambda episode: None, tasks=n, most_bytes=10**9, seed=seed)
        return [task["id"] for task in data["tasks"]]

    assert draw(5, 0) == draw(12, 0)[:5] != draw(5, 1)


def test_losses_are_drawn_and_a_run_that_was_killed_is_read(page_file):
    text = page_file.read_text(encoding="utf-8")
    figure = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figure) == 1 and figure[0].count('class="loss"') == 3 and figure[0].count("<polyline") == 6
    assert len(re.findall(r"<polyline [^>]*><title>[^<]+</title></polyline>", figure[0])) == 6, "each names its run"
    assert "held-out 0.400, 0.400, 0.400" in figure[0] and "nats a token" in figure[0]
    ((_, _, table),) = _document(page_file).all("div", aria_label="How the arms were trained")
    assert all(cell in table for cell in ("IL + thoughts", "imitation", "123\u202f456", "0.003", "0 to 2"))


def test_a_page_without_training_runs_or_kinds_or_a_second_arm(data, tmp_path):
    write(tmp_path / "only.episodes.jsonl", read(data["episodes"]))
    text = run("report", tmp_path, "-o", "-").ok().out.decode()
    assert "<b>only</b> solves" in text and 'id="curves"' not in text and "<figure" not in text
    assert "Difference" not in text


def test_one_task_is_too_few_for_an_interval_and_the_page_says_so(data, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.episodes.jsonl", read(data["episodes"])[:1])
    text = run("report", tmp_path, "-o", "-").ok().out.decode()
    assert "Not settled against a: <b>b</b>" in text and "no interval from so few tasks" in text


@pytest.mark.slow
def test_the_files_of_a_real_training_run(data, tmp_path):
    examples = read(data["imitation"])
    held_out = write(tmp_path / "held-out.jsonl", [e for e in examples if e["group"] == examples[0]["group"]])
    learned = write(tmp_path / "learned.jsonl", [e for e in examples if e["group"] != examples[0]["group"]])
    run("finetune", "-m", "tiny", "--max-steps", 3, "--validate", held_out, "-q", "-o", tmp_path / "il", learned).ok()
    write(tmp_path / "il.episodes.jsonl", read(data["episodes"]))
    text = run("report", tmp_path, "-o", "-").ok().out.decode()
    saved = json.loads((tmp_path / "il" / "eexp.json").read_text())
    assert 'class="loss"' in text and 'class="held-out"' in text
    assert f'<data value="{saved["total"]["target_tokens"]}">' in text


# -- which files -------------------------------------------------------------------------------------------------------


def test_runs_are_found_in_directories_and_below_them(study, tmp_path):
    arms = find_arms([str(study)])
    assert [(arm.key, [r.name for r in arm.runs]) for arm in arms] == [("clever", list(RUNS)), ("random", list(RUNS))]
    parts = find_arms([str(study / "2"), str(study / "0"), str(study)], {"random": "R"})
    assert [(arm.label, [r.name for r in arm.runs]) for arm in parts] == [("R", list(RUNS)), ("clever", list(RUNS))]
    alone = find_arms([str(study / "1")])
    assert [[r.name for r in arm.runs] for arm in alone] == [[""], [""]]
    for name in ("10", "9", "checkpoints"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.episodes.jsonl", [])
    assert [r.name for r in find_arms([str(tmp_path)])[0].runs] == ["9", "10"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or directory"),
        (["empty"], "empty: holds no episodes (no ARM.episodes.jsonl, neither there nor below)"),
        (["study", "--name", "il=IL"], "--name il=IL: no such arm; there are clever, random"),
        (["study", "--name", "clever=random"], "two arms, clever and random, are called 'random'"),
        (["study", "--baseline", "sr"], "--baseline sr: no such arm; there are clever, random"),
    ],
)
def test_arguments_without_a_match_are_named(study, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "study").symlink_to(study)
    monkeypatch.chdir(tmp_path)
    run("report", *arguments, "-o", "x.html").one_error(2, message)
    assert not (tmp_path / "x.html").exists()


def test_files_of_any_name_are_arms(study, tmp_path):
    """A file is the arm of its name, with the training run beside it if there is one."""
    files = [tmp_path / name for name in ("base.jsonl", "il.episodes.jsonl")]
    for file, arm in zip(files, ("random", "clever")):
        file.write_bytes((study / "0" / f"{arm}.episodes.jsonl").read_bytes())
    arms = find_arms([str(file) for file in files])
    assert [(arm.key, [run.file for run in arm.runs]) for arm in arms] == [("base", [files[0]]), ("il", [files[1]])]
    page = tmp_path / "page.html"
    run("report", *files, "--name", "base=Before", "-o", page).ok()
    assert "Before" in page.read_text()
    again = write(tmp_path / "il.jsonl", read(files[0]))
    run("report", *files, again, "-o", page).one_error(2, "would both be il; rename one")
    run("report", files[0], "-o", files[0]).one_error(2, "is both read and written")


def test_arms_on_different_tasks_are_refused(study, tmp_path):
    for arm, part in {"clever": slice(0, 20), "random": slice(0, 24)}.items():
        episodes = sorted(read(study / "0" / f"{arm}.episodes.jsonl"), key=lambda e: e["id"])
        write(tmp_path / f"{arm}.episodes.jsonl", episodes[part])
    run("report", tmp_path, "-o", tmp_path / "x.html").one_error(2, "clever", "random", "4 of 24 tasks")
    run("report", tmp_path, "--common", "-o", tmp_path / "x.html").ok()
    document = _document(tmp_path / "x.html")
    assert [row["tasks"] for row in document.json("rows")] == [20, 20]
    assert all(len(task["episodes"]) == 2 for task in document.json("episodes-data")["tasks"])
    assert document.json("episodes-data")["of"] == 20


def test_a_run_file_that_is_not_json_is_named(data, tmp_path):
    write(tmp_path / "a.episodes.jsonl", read(data["episodes"]))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "eexp.json").write_text("{")
    run("report", tmp_path, "-o", "-").one_error(3, f"{tmp_path / 'a' / 'eexp.json'}: not valid JSON")


def test_losses_that_are_not_finite_are_left_out(data, tmp_path):
    write(tmp_path / "a.episodes.jsonl", read(data["episodes"]))
    (tmp_path / "a").mkdir()
    lines = [
        '{"step": 1, "loss": 2.0}',
        '{"step": 2, "loss": NaN}',
        '{"step": 3, "loss": 1e999}',
        "[1]",
        "3",
        '{"step": 1e999, "loss": 1}',
        '{"step": 3, "validation": {"loss": 1e999}}',
        '{"step": 4, "loss": 1.0}',
        '{"step": 4, "validation": {"loss": 1.5}}',
    ]
    (tmp_path / "a" / "metrics.jsonl").write_text("\n".join(lines))
    (run_,) = find_arms([str(tmp_path)])[0].runs
    assert run_.losses == [(1, 2.0), (4, 1.0)] and run_.validations == [(4, {"loss": 1.5})]
    assert "held-out 1.500" in run("report", tmp_path, "-o", "-").ok().out.decode()


def test_kinds_that_one_arm_names_hold_for_all(data, tmp_path):
    episodes = read(data["episodes"])
    for e in episodes:
        e.pop("kind", None)
        e["task"] = {key: value for key, value in e["task"].items() if key not in ("kind", "level")}
    write(tmp_path / "a.episodes.jsonl", episodes)
    write(tmp_path / "b.episodes.jsonl", [{**e, "kind": "ab"[i % 2]} for i, e in enumerate(episodes)])
    file = tmp_path / "page.html"
    run("report", tmp_path, "-o", file).ok()
    text = file.read_text(encoding="utf-8")
    rows = json.loads(re.search(r'<script[^>]* id="rows"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert [list(row["kinds"]) for row in rows] == [["a", "b"]] * 2
    (message,) = (line for line in run("report", tmp_path, "-o", file).ok().err.splitlines())
    assert re.fullmatch(r"report: .*, \d+ kB|report: .*, \d+\.\d MB", message)


def test_two_studies_are_not_pooled(data, tmp_path, monkeypatch):
    """Their arms have the same names, but may have been trained differently."""
    monkeypatch.chdir(tmp_path)
    for directory in ("few/0", "few/1", "many/0", "many/elsewhere/0"):
        Path(directory).mkdir(parents=True)
        write(Path(directory, "il.episodes.jsonl"), read(data["episodes"]))
    for directories in (["few", "many"], ["many"], ["."]):
        message = run("report", *directories, "-o", "-").one_error(2, "both il with seed 0", "two studies", "[0-9]*")
        assert message.count("il.episodes.jsonl") == 2
    run("report", "many/0", "-o", "-").ok()
    assert [r.name for r in find_arms(["few"])[0].runs] == ["0", "1"]


def test_an_empty_file_of_episodes_is_named(data, tmp_path):
    write(tmp_path / "a.episodes.jsonl", read(data["episodes"]))
    (tmp_path / "1").mkdir()
    empty = write(tmp_path / "1" / "a.episodes.jsonl", [])
    run("report", tmp_path, "-o", "-").one_error(3, f"a ({empty}): no episodes")


def test_the_parts_of_the_page_are_installed():
    """All files beside the modules are package data."""
    declared = re.search(
        r"\[tool\.setuptools\.package-data\]\neexp = \[(.*?)\]", (ROOT / "pyproject.toml").read_text()
    )[1]
    patterns = re.findall(r'"([^"]+)"', declared)
    for file in (ROOT / "eexp" / "report").iterdir():
        if file.suffix not in (".py", "") and file.name != "__pycache__":
            assert any(fnmatch(f"report/{file.name}", pattern) for pattern in patterns), file.name


# -- drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0.0], [24.3, 54], [0.4], [-3, 12.5], [-71.2, -3], [100], [1e-3, 2e-3]])
def test_a_scale_holds_its_values_and_has_few_round_ticks(values):
    along = charts.scale(values)
    assert along.low <= min(0, *values) and max(0, *values) <= along.high
    assert along.ticks[0] == pytest.approx(along.low) and along.ticks[-1] == pytest.approx(along.high)
    assert 0.0 in along.ticks and 2 <= len(along.ticks) <= 9


def test_marks_of_arms_differ_by_shape_and_colour():
    assert len({(charts.shape(i), charts.colour(i)) for i in range(36)}) == 36
    assert len({charts.shape(i) for i in range(6)}) == len({charts.colour(i) for i in range(6)}) == 6


@pytest.mark.parametrize(("low", "high"), [(0.01, 9), (0.09, 0.11), (1e-4, 20), (0.5, 0.5)])
def test_the_axis_of_losses_has_ticks_within_it(low, high):
    axes = charts.frame([[(1, high), (100, low)]])
    assert axes.low <= low and high <= axes.high
    assert axes.ticks and all(axes.low <= tick <= axes.high for tick in axes.ticks)
    assert axes.y(high) < axes.y(low) or high == low
    assert charts.frame([[], [(1, 0.0)]]) is None


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Open a tab of headless Chromium."""
    if not CHROMIUM:
        pytest.skip("no Chromium")
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_the_page_fits_the_window_and_loads_without_an_error(browser, page_file, width, dark):
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page_file, width=width, dark=dark)
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelectorAll('.episode').length") == 2
    background = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
    assert browser.errors == [] and set(browser.requests) == {page_file.as_uri()}


@pytest.mark.slow
def test_the_numbers_in_the_browser_are_those_of_compare(browser, study, page_file):
    browser.open(page_file)
    script = """Object.fromEntries([...document.querySelectorAll('[data-row]')].map((row) => [row.dataset.row,
        Object.fromEntries([...row.querySelectorAll('[data-field]')].map((field) => [field.dataset.field,
            [...field.querySelectorAll('data')].map((one) => [Number(one.value), one.innerText])]))]))"""
    numbers_of_rows = browser.js(script)
    for row in _compare(study):
        for field, numbers in numbers_of_rows[row["name"]].items():
            assert [number for number, _ in numbers] == (row[field] if field == "rates" else [row[field]])
            if field in PERCENT:
                assert [text for _, text in numbers] == [f"{100 * number:.1f}" for number, _ in numbers]


def _where(browser: Page) -> str:
    return browser.js("document.getElementById('task-id').innerText")


@pytest.mark.long
def test_the_keyboard_alone_is_enough(browser, page_file):
    browser.errors.clear()
    browser.open(page_file)
    visited = [_where(browser)]
    for key in ("j", "ArrowRight", "j"):
        browser.press(key)
        visited.append(_where(browser))
    assert len(set(visited)) == 4
    for key, before in zip(("k", "ArrowLeft", "k", "k"), (*visited[2::-1], visited[0])):
        browser.press(key)
        assert _where(browser) == before
    browser.press("j")
    assert browser.js("document.querySelector('.head').getBoundingClientRect().top < innerHeight")
    assert "Task 2 of 24" in browser.js("document.getElementById('announce').innerText")

    names = "[...document.querySelectorAll('.episode h4')].map((h) => h.innerText)"
    assert browser.js(names) == ["random, run 0", "IL + thoughts, run 0"]
    browser.press("s")
    assert browser.js(names) == ["IL + thoughts, run 0", "random, run 0"]

    browser.press("o")
    marks = "[...document.querySelectorAll('#tasks button')].map((b) => b.innerText.replace(/\\s/g, '').slice(0, 2))"
    assert set(browser.js(marks)) == {"✓✗", "✗✓"}

    browser.fill("query", "open (")  # no pattern: the bracket is a character
    assert browser.js("document.querySelectorAll('#tasks li').length") == 0
    browser.fill("query", "OPEN the")
    marked = browser.js("[...document.querySelectorAll('mark')].map((mark) => mark.innerText.toLowerCase())")
    assert set(marked) == {"open", "the"}
    browser.fill("query", "")
    browser.press("/")
    assert browser.js("document.activeElement.id") == "query"
    count = browser.js("document.querySelectorAll('#tasks li').length")
    for letter in "jkst?":
        browser.press(letter)
    assert browser.js("document.getElementById('query').value") == "jkst?"
    assert browser.js("document.getElementById('nothing').hidden") is False
    browser.fill("query", "")
    assert browser.js("document.querySelectorAll('#tasks li').length") == count
    browser.press("Escape")
    assert browser.js("document.activeElement.tagName") == "BODY"

    browser.press("?")
    assert browser.js("document.getElementById('keys').open")
    here = _where(browser)
    browser.press("j")
    assert _where(browser) == here
    browser.press("Escape")
    assert not browser.js("document.getElementById('keys').open")

    background = "getComputedStyle(document.body).backgroundColor"
    before = browser.js(background)
    browser.press("t")
    assert browser.js(background) != before
    browser.press("t")
    assert browser.js(background) == before
    assert browser.errors == []


@pytest.mark.long
def test_tab_reaches_every_control_and_the_focus_is_seen(browser, page_file):
    browser.open(page_file)
    reached = []
    for _ in range(60):
        browser.press("Tab")
        focus = browser.js("""(() => { const e = document.activeElement, s = getComputedStyle(e);
            return [e.id || e.getAttribute('href') || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; })()""")
        reached.append(focus[0])
        assert focus[0] == "BODY" or (focus[1] == "solid" and focus[2] >= 2), focus
    assert {"theme", "help", "left", "right", "show", "query", "next"} <= set(reached)
    browser.press("j")
    browser.js("document.getElementById('next').focus()")
    here = _where(browser)
    browser.press("Enter")
    assert _where(browser) != here


@pytest.mark.long
def test_a_link_leads_to_the_same_episodes(browser, page_file):
    browser.open(page_file)
    for key in ("o", "j", "s"):
        browser.press(key)
    browser.fill("right", "0/2")
    visible_text = "document.getElementById('both').innerText"
    link, text = browser.js("location.hash"), browser.js(visible_text)
    assert "task=" in link and "random%2F2" in link
    browser.open(page_file, hash=link)
    assert browser.js(visible_text) == text and browser.js("location.hash") == link
    assert browser.js("document.getElementById('right').value") == "0/2"
    for nonsense in ("#task=nowhere&left=x/9&show=all", "#show=__proto__", "#left=%", "#results"):
        browser.errors.clear()
        browser.open(page_file, hash=nonsense)
        assert browser.js("document.querySelectorAll('.episode').length") == 2 and browser.errors == []


@pytest.mark.long
def test_on_a_narrow_screen_one_episode_is_shown_at_a_time(browser, page_file):
    browser.open(page_file, width=390)
    visible = "[...document.querySelectorAll('.episode')].map((e) => e.offsetParent !== null)"
    assert browser.js(visible) == [False, True]
    browser.js("document.getElementById('side-left').click()")
    assert browser.js(visible) == [True, False]
    browser.press("x")
    assert browser.js(visible) == [False, True]
    browser.press("j")
    assert browser.js("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_hostile_text_is_shown_and_not_run(browser, study, tmp_path):
    file = _hostile(study, tmp_path)
    browser.errors.clear()
    browser.open(file, width=390)
    browser.press("j")
    assert browser.js("typeof window.hacked") == "undefined" and browser.js("document.images.length") == 0
    assert HOSTILE.split()[0] in browser.js("document.getElementById('both').innerText")
    assert browser.js("document.title") == " ".join(re.split("[ \\n]+", HOSTILE))
    assert browser.js("document.documentElement.scrollWidth") <= 390
    assert browser.errors == []


def test_errors_in_the_browser_would_be_seen(browser, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text("<!doctype html><script>console.error('no'); missing()</script>")
    browser.errors.clear()
    browser.open(file)
    assert len(browser.errors) == 2

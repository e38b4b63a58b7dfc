"""README.md: its commands run and write the records that it shows, and its figures were measured."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from itertools import islice
from xml.etree import ElementTree

import pytest
from running import ROOT, environment, run_script

README = (ROOT / "README.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"


def blocks(language: str, text: str = README) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(heading: str, text: str = README) -> str:
    """Return the text under a heading."""
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def rows(heading: str, text: str = README) -> list[list[str]]:
    """Return the cells of the table under a heading, by row, without the head."""
    lines = [line for line in section(heading, text).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def shown_records() -> list[str]:
    """Return the records that the README shows, one a line."""
    text = "".join(blocks("js"))
    return [re.sub(r"\n\s+", " ", record).strip() for record in re.findall(r"^\{.*?(?=^\{|\Z)", text, re.M | re.S)]


def pattern(example: str) -> re.Pattern[str]:
    """Return a pattern for the records that `shown` may stand for: `...` matches any text."""
    example = re.sub(r"(?<=[\[{]) | (?=[\]}])", "", example)
    return re.compile(".*".join(re.escape(part.strip(" ,")) for part in example.split("...")), re.DOTALL)


def shortened(script: str) -> str:
    """Return commands with a training of two updates."""
    assert script.count("eexp finetune ") == 1
    return re.sub(r" --epochs \d+", "", script).replace("eexp finetune ", "eexp finetune --max-steps 2 ")


@pytest.mark.slow
def test_the_pipe_writes_the_records_that_are_shown(tmp_path):
    script = "".join(blocks("sh", section("The pipe, once")))
    assert script.count("eexp ") >= 10
    script = re.sub(r"-n \d+", "-n 3", script)  # the same commands on fewer tasks
    run_script(shortened(script.replace("eval house", "eval house --max-steps 3")), tmp_path).ok()
    outputs = [json.loads(line) for file in tmp_path.glob("*.jsonl") for line in file.read_bytes().splitlines()]
    texts = [json.dumps(record, ensure_ascii=False) for record in outputs]
    examples = shown_records()
    assert [re.search(r'"(?:kind|type)": "(\w+)', record)[1] for record in examples] == [
        *("trajectory", "trajectory"),
        *("imitation", "world_model", "reflection"),
    ]
    for record in examples:
        assert any(pattern(record).fullmatch(text) for text in texts), f"no command writes {record}"


@pytest.mark.slow
def test_the_commands_for_a_world_of_ones_own_run(tmp_path):
    """Run them on the class of docs/environments/python.md, with chats of its expert and the built-in model."""
    from eexp.acting.expert import expert
    from eexp.envs import open_env

    page = (ROOT / "docs" / "environments" / "python.md").read_text(encoding="utf-8")
    code = next(block for block in blocks("python", page) if "class Numbers" in block)
    (tmp_path / "my_world.py").write_text(code + "\n\nWorld = Numbers\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, (tmp_path / "chats.jsonl").open("w", encoding="utf-8") as file:
        patch.syspath_prepend(tmp_path)
        world = open_env("my_world:World")
        for trajectory in expert(world, islice(world.tasks("train"), 3)):
            messages = [
                {"role": role, "content": step[key]}
                for step in trajectory["steps"]
                for role, key in (("user", "observation"), ("assistant", "action"))
            ]
            print(json.dumps({"id": trajectory["task"]["id"], "messages": messages}), file=file)
    script = "".join(blocks("sh", section("With your own")))
    assert script.count("-m MODEL") == 2 and script.count("-m BASE") == 1
    script = script.replace("reflect -m MODEL", "reflect").replace("MODEL", "tiny").replace("BASE", "tiny")
    run_script(shortened(script.replace("> episodes.jsonl", "-n 2 --max-steps 3 > episodes.jsonl")), tmp_path).ok()
    assert len((tmp_path / "expert.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "sr.jsonl").stat().st_size
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 2


def test_a_record_that_no_command_writes_is_noticed():
    text = json.dumps({"type": "task", "id": "house/1", "steps": [{"action": "go", "valid": True}, {"action": "stop"}]})
    for right in (
        text,
        '{"type": "task", ... "steps": [{"action": "go", ...}, ...]}',
        '{... "steps": [ {... "valid": true}, ...], ...}',
        '{... "action": "st..."}]}',
    ):
        assert pattern(right).fullmatch(text), right
    for wrong in (
        '{"type": "task", "steps": [...]}',
        '{"type": "task", ... "steps": [{"action": "stop"}, ...]}',
        '{... "valid": false, ...}',
        '{... "id": "house/1"}',
    ):
        assert not pattern(wrong).fullmatch(text), wrong


def test_the_lines_of_python_run(tmp_path):
    (code,) = blocks("python", (ROOT / "docs" / "pipe.md").read_text(encoding="utf-8"))
    assert len([line for line in code.splitlines() if line]) <= 12
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert process.returncode == 0, process.stderr
    assert len(process.stdout.splitlines()) == 5
    assert "You are in the lounge." in process.stdout


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?", text))


def is_measured(figure: str, measured: set[str]) -> bool:
    """Return whether a number of a page is one of those in a file of figures, rounded at most."""
    plain = figure.replace(",", "")
    digits = len(plain.partition(".")[2])
    return any(f"{float(number.replace(',', '')):.{digits}f}" == plain for number in measured)


def test_the_figures_of_the_table_are_those_that_were_measured():
    table = rows("What it is better at")
    assert len(table) >= 6
    for what, ours, others, link in table:
        figures = re.fullmatch(r"\[[\w. ]+\]\(([^)#]+)[^)]*\)", link).group(1)
        text = (ROOT / figures).read_text(encoding="utf-8")
        scripts = {ROOT / "benchmarks" / name for name in re.findall(r"benchmarks/(\w+\.py)", text)}
        assert any(script.exists() for script in scripts), f"{figures} names no command"
        for figure in numbers(ours) | numbers(others.partition(":")[0]):
            assert is_measured(figure, numbers(text)), f"{what}: {figure} is not in {figures}"


def test_what_was_learned_is_what_the_results_say():
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    figures = re.findall(r"[+-]?\d+\.\d", section("What was learned with it"))
    assert len(figures) > 40
    for figure in figures:
        assert figure in results, figure
    assert "make -f recipes/studies/Makefile house" in results


def load_pipe():
    spec = importlib.util.spec_from_file_location("pipe", ROOT / "docs" / "pipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_what_its_script_draws():
    pipe = load_pipe()
    assert pipe.TARGET.read_text(encoding="utf-8") == pipe.svg(), "run `python docs/pipe.py`"
    assert re.search(r"!\[[^]]{40,}\]\(docs/pipe\.svg\)", README), "the picture has no alternative text"


def test_the_picture_is_for_light_and_dark_pages():
    pipe = load_pipe()
    drawing = ElementTree.fromstring(pipe.svg())
    assert drawing.find(f"{SVG}title").text and drawing.find(f"{SVG}desc").text
    assert "prefers-color-scheme: dark" in drawing.find(f"{SVG}style").text
    assert pipe.LIGHT.keys() == pipe.DARK.keys()
    for palette in (pipe.LIGHT, pipe.DARK):
        for ink in ("name", "words"):
            for ground in ("card", "ground"):
                assert contrast(palette[ink], palette[ground]) >= 4.5
        for line in ("path", "other"):
            assert contrast(palette[line], palette["card"]) >= 3


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_every_command_of_the_picture_exists():
    from eexp.cli import COMMANDS

    names = [text.text for text in ElementTree.fromstring(load_pipe().svg()).iter(f"{SVG}text")]
    commands = [name for name in names if name in COMMANDS]
    drawn = ["expert", "branch", "rollout", "recover", "imitation-data", "world-model-data", "reflect"]
    assert sorted(commands) == sorted([*drawn, "mix", "finetune", "eval", "compare"]), "the stages in docs/pipe.py"


def test_the_citation_file_names_eexp_and_the_paper():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["title"] == "eexp"
    (paper,) = citation["references"]
    assert paper["title"] == "Agent Learning via Early Experience" and paper["title"] in README
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in README
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])


def test_the_changelog_is_in_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", text, re.MULTILINE)
    assert versions[0][1] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", versions[0][1])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in versions[1:])
    order = [[int(part) for part in version.split(".")] for version, _ in versions]
    assert order == sorted(order, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds

"""The recipes with the paper's settings: what they run, what they say of their sources, one run to the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, read
from test_docs import command_lines, parse

PAPER = ROOT / "recipes/paper"
NAMES = sorted(path.stem for path in PAPER.glob("*.mk") if path.stem != "steps")
NEEDS = {
    "appworld": ["ROOT=data", "APPWORLD_PYTHON=python"],
    "searchqa": ["PASSAGES=p.jsonl", "QUESTIONS=q.jsonl"],
    "webarena": ["TASKS=t.toml", "URL=http://localhost:7770", "DEMONSTRATIONS=d.jsonl"],
    "travelplanner": ["DATABASE=database", "QUERIES=q.jsonl"],
}
#: Sections of the paper, and files of the release.
SOURCE = re.compile(
    r"(5\.1|Table 1|B\.\d)(, .+|: .+)?|(envs/\w+/README\.md and )?(f39f970: [\w.]+\.(md|py|yaml)( in a comment)?)"
    r"|envs/\w+/README\.md"
)
STAGES = (
    "expert",
    "panel",
    "branch",
    "rollout",
    "world-model-data",
    "reflect",
    "imitation-data",
    "mix",
    "eval",
    "compare",
)

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if not key.startswith("EEXP_")}
    settings["PATH"] = f"{Path(sys.executable).parent}:{settings['PATH']}"
    command = ["make", "--no-print-directory", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)


def plan(name: str, out: Path, *arguments: str) -> str:
    result = make("-n", "-f", PAPER / f"{name}.mk", "BASE=some/model", f"OUT={out}", *NEEDS.get(name, []), *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.replace("\\\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_names_every_step_in_either_column(name, tmp_path):
    for column in ("paper", "release"):
        text = plan(name, tmp_path / "out", f"SETTINGS={column}")
        assert text.startswith(f"# {name}: the settings of the {column}")
        for stage in STAGES:
            demonstrated_elsewhere = stage == "expert" and name == "webarena"
            assert f"eexp {stage} " in text or demonstrated_elsewhere, (name, stage)
        assert text.count("eexp finetune ") == 4 and text.count("eexp eval ") == 4
        assert "-m 'hf:some/model'" in text and not (tmp_path / "out").exists()
        for words in command_lines(re.sub(r"\$\(\(.*\)\)", "3", text)):
            parse(words)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_where_it_stands(name):
    lines = re.findall(r"^(paper|release)\.(\w+) +:= (.*)$", (PAPER / f"{name}.mk").read_text(), re.MULTILINE)
    known = re.findall(r"^label\.(\w+) :=", (PAPER / "steps.mk").read_text(), re.MULTILINE)
    assert [setting for column, setting, _ in lines if column == "paper"] == [
        setting for column, setting, _ in lines if column == "release"
    ]
    for column, setting, text in lines:
        assert setting in known
        if text.startswith("-"):
            continue
        value, source = re.fullmatch(r"(.+) \[(.+)\]", text).groups()
        assert value and SOURCE.fullmatch(source), text
        assert source.startswith(("envs/", "f39f970")) == (column == "release"), text


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_both_columns(name):
    table = make("-s", "-f", PAPER / f"{name}.mk", "settings").stdout
    assert table.startswith("| | paper | release |\n|---|---|---|\n| demonstrations |")
    assert f"`recipes/paper/{name}.mk`" in (page := (ROOT / "docs/paper.md").read_text())
    assert table in page


def test_a_setting_is_of_the_column_else_of_the_other_else_of_eexp(tmp_path):
    text = plan("scienceworld", tmp_path)
    assert "--temperature 0.4 --max-tokens 1024 --context 5120" in text  # the paper's
    assert "--max-length 4096" in text and "# From the release, where the paper says nothing:" in text
    assert (
        re.search(r"^# Said by neither; .*\bEVAL_TASKS\b", text, re.MULTILINE) and "--split test --apart-from" in text
    )
    text = plan("alfworld", tmp_path, "SETTINGS=release")
    assert "--pool world -k 100000 --from admissible" in text and "--epochs 2 " in text
    assert "# From the paper, where the release says nothing:" in text
    text = plan("alfworld", tmp_path, "EPOCHS=7", "LR=", "REFLECT_ALTERNATIVES=world:2", "ADAPTER=--rank 8")
    assert "--epochs 7 --rank 8" in text and "reflect --first 2" in text and "--pool reflect" not in text
    assert f"--init {tmp_path}/world" in text and "but for: REFLECT_ALTERNATIVES EPOCHS LR." in text


def test_webshop_runs_in_the_shop_or_on_a_server(tmp_path):
    assert "eexp expert 'shop' --split train -n 1571 " in plan("webshop", tmp_path)
    text = plan("webshop", tmp_path, "TEST_TASKS=0-9", "DEMONSTRATIONS=webshop.json")
    server = "agentgym:http://localhost:36001?env=webshop&test=0-9"
    assert f"eexp import agenttraj 'webshop.json' --env '{server}' --success" in text and "'shop'" not in text
    result = make("-n", "-f", PAPER / "webshop.mk", "BASE=tiny", "SERVER=http://localhost:3")
    assert "webshop needs TEST_TASKS=... DEMONSTRATIONS=..." in result.stderr


def test_what_is_missing_is_said_in_one_line(tmp_path):
    for arguments, message in (
        (["scienceworld.mk"], "name the model to train"),
        (["scienceworld.mk", "BASE=tiny", "SETTINGS=both"], 'SETTINGS is paper or release, not "both"'),
        (["searchqa.mk", "BASE=tiny"], "searchqa needs PASSAGES=... QUESTIONS=..."),
        (["webshop.mk", "BASE=tiny", "REFLECT_ALTERNATIVES=policy:3"], "several draws"),
        (["alfworld.mk", "BASE=tiny", "WORLD_ALTERNATIVES=some:3"], 'no alternatives: "some 3"'),
    ):
        result = make("-n", "-f", PAPER / arguments[0], f"OUT={tmp_path}/out", *arguments[1:])
        assert result.returncode == 2 and message in result.stderr, result.stderr


@pytest.mark.long
def test_an_environment_takes_a_few_lines_and_runs_to_the_table(tmp_path):
    """The steps on `house` with the built-in model, as docs/paper.md has another environment."""
    page = (ROOT / "docs/paper.md").read_text().partition("## Another environment")[2]
    lines = re.search(r"```make\n(.*?)```", page, re.DOTALL)[1]
    file = tmp_path / "house.mk"
    file.write_text(lines.replace("$(dir $(lastword $(MAKEFILE_LIST)))", f"{PAPER}/"))
    small = ["BASE=tiny", "WRITER=rule", "TRAJECTORIES=2", "EVAL_TASKS=2", "WORLD_RATIO=1", "ARMS=iwm sr"]
    small += ["ANSWER_TOKENS=24", "PLAY=--max-steps 1", "FINETUNE=--max-steps 1", f"OUT={tmp_path}/out"]
    result = make("-f", file, *small)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    il, world, reflection, sr = (read(out / f"{name}.jsonl") for name in ("il", "world", "reflection", "sr"))
    assert {e["kind"] for e in world} == {"world_model"} and len(world) == len(il) > 0
    assert len(sr) == len(il) + len(reflection) and {e["kind"] for e in reflection} == {"reflection"}
    steps = [step for t in read(out / "rollout.jsonl") for step in t["steps"]]
    pools = {a["pool"] for step in steps for a in step["alternatives"]}
    assert pools == {"world", "reflect"} and all(a["outcome"] for step in steps for a in step["alternatives"])
    table = (out / "table.txt").read_text()
    assert re.search(r"^iwm +2 ", table, re.MULTILINE) and re.search(r"^sr +2 ", table, re.MULTILINE)
    again = make("-n", "-f", file, *small).stdout
    assert "eexp" not in again.replace("default of eexp", "")

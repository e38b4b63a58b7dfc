"""The studies' recipe makes its files once, and makes only those again that depend on a changed setting."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "recipes/studies"
SMALL = ["SEEDS=0", "TRAIN=4", "PANEL_TASKS=4", "UPDATES=2", "K_OWN=1", "K_MISTAKES=2", "PLAY=--max-steps 3"]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make(*arguments: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def commands(*arguments: str) -> dict[str, str]:
    """Return what would be run: the last stage of every pipe, by the name of the file it writes."""
    plan = make("-n", *arguments).replace("\\\n", " ")
    pipes = [line for line in plan.splitlines() if "eexp " in line]
    return {re.findall(r"-o (\S+)", pipe)[-1]: re.findall(r"eexp (\S+)", pipe)[-1] for pipe in pipes}


def test_a_dry_run_names_every_step_and_makes_none(tmp_path):
    plan = make("-n", "-f", str(STUDIES / "Makefile"), "house", f"STUDIES={tmp_path}", "SEEDS=3")
    for step in (
        "expert",
        "panel",
        "imitation-data",
        "finetune",
        "branch",
        "rollout",
        "recover",
        "reflect",
        "export",
        "eval",
    ):
        assert f"eexp {step} " in plan
    assert "--seed 3" in plan and "--pool own -k 3" in plan
    assert not list(tmp_path.iterdir())


def test_a_dry_run_changes_no_setting(tmp_path):
    """Otherwise a dry run with another setting would have the next run make all files that depend on it."""
    settings = tmp_path / ".settings"
    study = ["-f", str(STUDIES / "arms.mk"), f"OUT={tmp_path}", "ARMS=il"]
    make(*study, "started")
    before = {file.name: (file.read_text(), file.stat().st_mtime_ns) for file in settings.iterdir()}
    for name in ("expert.jsonl", "il.jsonl", "panel.jsonl", "base.gguf"):
        (tmp_path / name).write_text("")
    assert before["TRAIN"][0] == "200" and not {f"{tmp_path}/{name}" for name in ("il.jsonl", "expert.jsonl")} & {
        *commands(*study)
    }
    assert f"{tmp_path}/il.jsonl" in commands(*study, "TRAIN=3")
    assert {file.name: (file.read_text(), file.stat().st_mtime_ns) for file in settings.iterdir()} == before


def test_the_results_say_how_many_thoughts_a_placebo_has(tmp_path):
    """With exchanged outcomes the rule writes fewer thoughts, so the placebo is not the same but for its outcomes."""
    files = [tmp_path / f"{name}.jsonl" for name in ("sr", "sr-permuted", "sr-here", "sr-here-permuted")]
    make("-f", str(STUDIES / "reactions.mk"), f"OUT={tmp_path}", "TABLE=0", *map(str, files))
    texts = [file.read_text() for file in files]
    counts = [(t.count("\n"), len(re.findall(r"\w+ \w+: (?:Nothing happens|You hold)", t))) for t in texts]
    assert counts == [(48, 617), (41, 405), (48, 277), (41, 228)]
    results = " ".join((ROOT / "RESULTS.md").read_text(encoding="utf-8").split())
    assert "41 thoughts with 405 claims on table 0, where true outcomes give 48 with 617" in results
    assert "228 claims for 277" in results


def test_the_results_print_no_p_that_their_runs_cannot_support():
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert not re.findall(r"\d(?:\.\d+)?e-\d\d\b", results)


@pytest.mark.parametrize("world", ["house", "reactions"])
def test_a_demo_compares_with_imitation_or_else_with_random_play(tmp_path, world):
    for arms, baseline in (("il rules", "il"), ("recovery rules", "random")):
        output = make(
            "-n", "-f", str(ROOT / "recipes" / world / "Makefile"), "table", f"OUT={tmp_path}", f"ARMS={arms}"
        )
        assert output.count(f"--baseline {baseline} ") == 2 and not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_demo_and_what_its_study_prints(tmp_path):
    small = ["UPDATES=2", "PANEL_TASKS=4", "TRAIN=6", "EVAL=--max-tokens 40 --threads 1 -q", f"PYTHON={sys.executable}"]
    output = make("-f", str(ROOT / "recipes/reactions/Makefile"), f"OUT={tmp_path}/demo", *small)
    assert re.search(r"^sr-permuted +4 ", output, re.M) and (tmp_path / "demo/report.html").exists()
    for script, asked in (("results", []), ("edges", ["sr"])):
        command = [sys.executable, STUDIES / f"reactions_{script}.py", tmp_path / "demo", *asked]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert re.search(r"^sr\b.*%", printed, re.M), printed


@pytest.mark.long
def test_only_what_depends_on_a_setting_is_made_again(tmp_path):
    small = ["-f", str(STUDIES / "arms.mk"), f"OUT={tmp_path}/house", "ARMS=il rules", *SMALL]
    make(*small)
    assert commands(*small) == {}
    again = commands(*small, "K_MISTAKES=1")
    stages = {"branch", "rollout", "recover", "reflect", "finetune", "export", "eval"}
    assert set(again.values()) == stages
    names = {Path(file).relative_to(tmp_path / "house").as_posix() for file in again}
    assert {"0/branched-1.jsonl", "0/rules.episodes.jsonl"} <= names
    assert not names & {"expert.jsonl", "il.jsonl", "0/il", "0/il.episodes.jsonl", "0/explorer-1", "panel.jsonl"}

    results = tmp_path / "RESULTS.md"
    results.write_text("Before.\n<!-- study: house -->\nold\n<!-- end -->\n<!-- study: none -->\nkept\n<!-- end -->\n")
    subprocess.run([sys.executable, STUDIES / "results.py", tmp_path, "-o", results], check=True)
    text = results.read_text()
    assert (
        "recovery + rule thoughts" in text
        and "1 training seed, 4 tasks" in text
        and "old" not in text
        and "kept" in text
    )


@pytest.mark.long
def test_subsets_are_compared_with_random_ones(tmp_path):
    """Coverage is the same for both seeds, random subsets are not, and a second call makes nothing again."""
    sizes = ["SIZES=3", "ORDERS=coverage random", "SEEDS=0 1", "TRAIN=8", "PANEL_TASKS=3", "UPDATES=1"]
    study = ["-f", str(STUDIES / "subsets.mk"), f"OUT={tmp_path}", *sizes, "PLAY=--max-steps 2"]
    table = make(*study)
    assert "3 demonstrations" in table and "difference" in table
    ids = {
        order: [
            re.findall(r'"group":"([^"]*)"', (tmp_path / seed / f"{order}-3.jsonl").read_text()) for seed in ("0", "1")
        ]
        for order in ("coverage", "random")
    }
    assert ids["coverage"][0] == ids["coverage"][1] and ids["random"][0] != ids["random"][1]
    assert "finetune" not in make("-n", *study)


def test_the_tasks_of_the_site_are_in_other_tables_than_their_demonstrations(tmp_path):
    written = subprocess.run(
        [sys.executable, STUDIES / "site/make_tasks.py"], check=True, capture_output=True, text=True
    ).stdout
    tables = {
        split: set(re.findall(rf'split = "{split}".*?start = "(.*?)"\ninstruction = .*?"(.*?)"', written, re.S))
        for split in ("train", "test")
    }
    assert written.count("[[task]]") == 180 and all(len(found) > 5 for found in tables.values())
    assert not tables["train"] & tables["test"]


def test_a_state_notes_what_an_alternative_led_to_and_what_is_next():
    command = [sys.executable, "-c", "import led_to, json, sys; print(led_to.notes(*json.load(sys.stdin)))"]
    here = 'page "park: benches: 55 rows" /park/benches\n[1] link "attic"\n[2] link "rough"\nrow [3] link "place"'
    filtered = 'page "park: benches: 14 rows where place = \\"attic\\"" /park/benches?place=attic'
    step = {
        "observation": here,
        "action": "click [2]",
        "alternatives": [
            {
                "action": "click [3]",
                "outcome": {"observation": 'page "park: benches: 55 rows sorted by place" /park/x'},
            },
            {"action": "click [1]", "outcome": {"observation": filtered}},
        ],
    }
    rough = filtered.replace("place", "look").replace("attic", "rough")
    for changed, after, expected in (
        ({}, rough, '[3] leads to rows sorted by place. Next [2] is called "rough".'),
        ({"alternatives": step["alternatives"][1:]}, rough, '[1] leads to "attic". Next [2] is called "rough".'),
        ({"alternatives": step["alternatives"][1:], "action": "click [1]"}, filtered, 'Next [1] is called "attic".'),
        ({"alternatives": [], "action": "stop []"}, "The episode is over: the task is done.", "Nothing is next."),
    ):
        said = subprocess.run(
            command,
            input=json.dumps([step | changed, after]),
            cwd=STUDIES / "site",
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert said.strip() == expected


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
def test_the_study_of_a_site(tmp_path):
    """The whole study in small: every arm is played on the site as it is and with other names."""
    pytest.importorskip("datasette")
    small = ["SEEDS=0", "TRAIN=2", "K=1", "PANEL_TASKS=1", "UPDATES=2", "MAX_STEPS=4", "CHANGES=names", "BASE=tiny"]
    make("-f", str(STUDIES / "site.mk"), "all", "changed", f"OUT={tmp_path}/site", f"PYTHON={sys.executable}", *small)
    for played in ("il.act", "iwm.act", "notes.think", "notes-sr.think", "notes-sr-permuted.think"):
        assert all((tmp_path / study / f"0/{played}.jsonl").stat().st_size for study in ("site", "site-names"))

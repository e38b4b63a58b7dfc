"""What other packages add: the example package in a whole pipe, what is listed, and what cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, environment, read, run
from small_models import FIRST_LAYERS

from eexp.errors import UsageError
from eexp.system.plugins import Registry
from eexp.training.settings import ClipSettings, DPOSettings, Settings

GROUPS = (
    *("environments", "models", "import_formats", "export_formats", "rationales", "guards", "judges"),
    *("objectives", "executors", "commands"),
)
BY = "@eexp-stairs-0.1"


@pytest.fixture(scope="module")
def site(made_once) -> Path:
    """A directory in which examples/plugins is installed, as pip installs it."""

    def make(here: Path) -> None:
        shutil.copytree(ROOT / "examples" / "plugins", here / "source")
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*install, "--target", here / "site", here / "source"], check=True, env=environment())

    return made_once("plugins", make) / "site"


@pytest.fixture
def installed(site, monkeypatch):
    """The example package, for this process and for workers."""
    use(site, monkeypatch)


def use(site: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))


def test_each_kind_of_the_example_in_a_pipe(installed, tmp_path):
    def stage(*args: object) -> list[dict]:
        file = tmp_path / f"{args[0]}.jsonl"
        run(*args, "-q", "-o", file).ok()
        return read(file)

    def last(records: list[dict]) -> str:
        (entry,) = {record["lineage"][-1] for record in records}
        return entry

    assert last(stage("expert", "stairs", "-n", 4)).endswith(f" plugin=stairs{BY}")
    model = "dice:go_up,jump_up,go_down,fly"
    branched = stage("branch", "-m", model, "-k", 3, "--no-only-admissible", tmp_path / "expert.jsonl")
    assert f" model={model}{BY} " in last(branched) and "plugin=" not in last(branched)
    rolled_out = stage("rollout", "--on", "alone", "-j", 2, tmp_path / "branch.jsonl")
    assert last(rolled_out).endswith(f" plugin=stairs{BY}")
    run("rollout", "-q", tmp_path / "branch.jsonl", "-o", tmp_path / "here.jsonl").ok()
    assert read(tmp_path / "here.jsonl") == rolled_out

    reflections = stage("reflect", "--rationale", "short", "--weigh", 0, tmp_path / "rollout.jsonl")
    assert {r["reflection_by"] for r in reflections} == {f"rule: short{BY}"}
    assert f" rationale=short{BY} " in last(reflections)
    assert "I want to jump up: I expect 'You are on step 2 of" in reflections[0]["completion"][0]["content"]
    composed = ("reflect", "--rationale", "short", "--weigh", 0, "--guard")
    numbered = stage(*composed, "stepless", tmp_path / "rollout.jsonl")
    assert f" guard=stepless{BY}" in last(numbered) and [r["id"] for r in numbered] == [r["id"] for r in reflections]
    long = run(*composed, "length", "--min-words", 99, "--on-error", "skip", tmp_path / "rollout.jsonl").ok(4)
    assert not long.records and "fewer than 99" in long.err
    preferences = stage("preference-data", "--worse", "behind", tmp_path / "rollout.jsonl")
    assert {p["worse"] for p in preferences} == {"behind"} and last(preferences).endswith(f" worse=behind{BY}")
    assert stage("imitation-data", tmp_path / "rollout.jsonl")

    logs = stage("export-log", "--format", "moves", tmp_path / "expert.jsonl")
    assert logs[0]["moves"] == [["You are on step 0 of 2.", "jump up"]]
    imported = stage("import", "moves", "--env", "stairs", tmp_path / "export-log.jsonl")
    keys = ("id", "env", "task", "instruction", "steps", "outcome")
    assert [[t[k] for k in keys] for t in imported] == [[t[k] for k in keys] for t in read(tmp_path / "expert.jsonl")]
    assert f" format=moves{BY} env=stairs " in last(imported)
    kept = stage("shortest", "-n", 1, tmp_path / "expert.jsonl")
    assert len(kept) == 1 and last(kept).startswith(f"shortest{BY} ")
    assert {e["model"] for e in stage("eval", "stairs", "-m", model, "-n", 2)} == {f"{model}{BY}"}


def test_an_objective_brings_its_own_settings(installed, tmp_path, data):
    train = ("finetune", "-q", "-m", FIRST_LAYERS, "--max-steps", 1, data["imitation"], "-o")

    def first_loss(name: str, *args: object) -> float:
        run(*train, tmp_path / name, *args).ok()
        return json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]

    plain = first_loss("sft")
    assert first_loss("none", "--objective", "focal", "--focal-gamma", 0) == pytest.approx(plain)
    assert first_loss("focal", "--objective=focal") < plain
    settings = json.loads((tmp_path / "focal" / "eexp.json").read_text())["settings"]
    assert (settings["objective"], settings["focal_gamma"]) == (f"focal{BY}", 2.0)
    run(*train, tmp_path / "focal", "--resume", "--objective", "focal", "--focal-gamma", 3).one_error(2, "focal_gamma")

    run(*train, tmp_path / "no", "--focal-gamma", 1).one_error(2, "No such option '--focal-gamma'")
    run(*train, tmp_path / "no", "--objective", "focal", "--clip", 0.1).one_error(2, "not for --objective focal")
    run(*train, tmp_path / "no", "--objective", "focal", "--beta", 1).one_error(2, "--beta is for --objective dpo")
    run(*train, tmp_path / "no", "--objective", "focal", "--focal-gamma", -1).one_error(2, "--focal-gamma")
    assert "--focal-gamma X" in run("finetune", "--objective", "focal", "--help").ok().out.decode()
    assert "focal" not in run("finetune", "--help").ok().out.decode()


def test_settings_from_python_fit_their_objective(installed):
    from eexp_stairs.objective import FocalSettings  # pyright: ignore[reportMissingImports]

    assert Settings(objective="focal", own=FocalSettings(1.0)).as_dict()["focal_gamma"] == 1
    assert Settings(objective="dpo", own=DPOSettings(beta=0.3)).as_dict()["beta"] == 0.3
    for objective, own in (("sft", DPOSettings()), ("focal", ClipSettings(0.1)), ("dpo", FocalSettings())):
        with pytest.raises(UsageError, match=f"{type(own).__name__} is not for --objective {objective}"):
            Settings(objective=objective, own=own)


def test_a_run_goes_on_after_an_interruption(installed, tmp_path):
    """The package of the environment stands in the lineage, which --resume compares."""
    run("expert", "stairs", "-n", 3, "-o", tmp_path / "expert").ok()
    run("branch", "--from", "admissible", tmp_path / "expert", "-o", tmp_path / "branched").ok()
    run("rollout", tmp_path / "branched", "-o", tmp_path / "whole").ok()
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "part").write_bytes(lines[0])
    run("rollout", "--resume", tmp_path / "branched", "-o", tmp_path / "part").ok()
    assert (tmp_path / "part").read_bytes() == b"".join(lines)


def test_the_example_keeps_the_contract(installed):
    lines = run("env", "check", "stairs", "-n", 2).ok().out.decode().splitlines()
    assert not [line for line in lines if line.startswith("FAIL")]
    assert any(line.startswith("stairs ") and "(eexp-stairs 0.1)" in line for line in out("env", "list"))
    assert any(line.startswith("dice[:TARGET] ") for line in out("models"))


def out(*args: object) -> list[str]:
    return run(*args).ok().out.decode().splitlines()


def test_the_list_has_every_entry(installed):
    rows = run("plugins", "--json").ok().records
    assert {row["group"] for row in rows} == {f"eexp.{group}" for group in GROUPS}
    others = [row for row in rows if row["origin"] == "package"]
    assert {(row["package"], row["version"], row["problem"]) for row in others} == {("eexp-stairs", "0.1", None)}
    assert [row["group"] for row in others] == [f"eexp.{group}" for group in GROUPS]
    assert run("plugins", "--json", "--others", "--check").ok().records == others
    assert "  stairs    eexp-stairs 0.1  stairs, an example of what a package can add" in out("plugins", "--others")


def test_built_in_entries_are_loaded_through_the_same_tables():
    """Every path of every table leads somewhere, but for those that need a package that is not installed."""
    for row in run("plugins", "--json").ok().records:
        table = Registry(row["group"], "entry", {row["name"]: (row["path"], "")})
        assert table.load(row["name"]) is not None


def test_nothing_of_a_package_is_imported_before_it_is_named(site):
    calls = [["--help"], ["plugins"], ["plugins", "--json"], ["import", "--help"], ["eval", "-h"], ["shortes"]]
    script = (
        "import os, sys\nfrom eexp.cli import main\n"
        f"for args in {calls!r}:\n"
        "    if not os.fork():\n"
        "        sys.stdout = sys.stderr = open(os.devnull, 'w')\n"
        "        try: main(args)\n"
        "        except SystemExit: pass\n"
        "        os.write(1, b'%d\\n' % any(name.startswith('eexp_stairs') for name in sys.modules))\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    variables = environment(PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables)
    assert process.stdout.split() == ["0"] * len(calls), process.stderr


def test_an_unknown_name_is_refused_with_those_of_packages(installed, data):
    run("import", "movez").one_error(2, "'agenttraj'", "'moves'")
    run("reflect", "--rationale", "shorter", data["rollout"]).one_error(2, "'search'", "'short'")
    run("rollout", "--on", "anywhere", data["branched"]).one_error(2, "there are: alone, local, ray")
    run("shortes").one_error(2, "Did you mean shortest")
    run("score", "-m", "dic:1", data["imitation"]).one_error(2, "unknown model 'dic:1'", "dice[:TARGET]")


# -- what cannot be used -----------------------------------------------------------------------------------------------

MODULE = """
import click
from eexp.envs import Environment
from eexp.models import TextModel
from eexp.training.settings import ObjectiveKind

def fails(*args, **more): raise KeyError("a mistake")
class Silent(TextModel):
    def __init__(self, spec, engine): super().__init__(spec)
    def write(self, draw, seed): return None
class Failing(Silent):
    write = fails
class Unfinished(TextModel): pass
def no_model(spec, engine): return spec
def silent(text, situation): return True
number = 7
lost = ObjectiveKind("bad_plugins:Silent")
@click.command("stumbles")
def stumbles(): fails()
"""
ENTRIES = """
[eexp.environments]
house = bad_plugins:fails
missing = no_such_module:World
no-class = bad_plugins:number
exits = bad_exit:World
unwritten = bad_plugins
two words = bad_plugins:number
without a target
twice = bad_plugins:number

[eexp.models]
silent = bad_plugins:Silent
failing = bad_plugins:Failing
no-model = bad_plugins:no_model
unfinished = bad_plugins:Unfinished

[eexp.import_formats]
fails = bad_plugins:fails

[eexp.export_formats]
fails = bad_plugins:fails

[eexp.rationales]
fails = bad_plugins:fails

[eexp.guards]
fails = bad_plugins:fails
silent = bad_plugins:silent

[eexp.judges]
fails = bad_plugins:fails

[eexp.objectives]
number = bad_plugins:number
lost = bad_plugins:lost

[eexp.commands]
expert = bad_plugins:stumbles
stumbles = bad_plugins:stumbles
no-command = bad_plugins:number

[eexp.executors]
lost = bad_plugins:nowhere
"""


@pytest.fixture
def broken(tmp_path, monkeypatch) -> None:
    """Two packages that register what cannot be used."""
    here = tmp_path / "site"
    for name, entries in (("bad-plugins", ENTRIES), ("other", "[eexp.environments]\ntwice = other:Other\n")):
        about = here / f"{name.replace('-', '_')}-0.3.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        (about / "entry_points.txt").write_text(entries)
    (here / "bad_plugins.py").write_text(MODULE)
    (here / "bad_exit.py").write_text("raise SystemExit(3)")
    use(here, monkeypatch)


def test_what_is_broken_is_one_line_and_stops_nothing_else(broken, data, tmp_path):
    assert run("expert", "house", "-n", 1).ok().records, "the built-in one, which a package tries to replace"
    package = "of bad-plugins 0.3"
    run("expert", "missing").one_error(1, package, "missing = 'no_such_module:World'", "No module named")
    run("expert", "no-class").one_error(2, "bad_plugins:number of bad-plugins 0.3 is not a class derived from")
    run("expert", "exits").one_error(1, package, "SystemExit: 3")
    run("expert", "unwritten").one_error(2, package, "not written package.module:attribute")
    run("expert", "twice").one_error(2, "of bad-plugins 0.3 and other 0.3", "several packages register this name")
    lines = out("env", "list")
    assert (
        f"not ready: environment 'missing' {package}"
        in lines[lines.index("missing                   (bad-plugins 0.3)") + 1]
    )
    run("rollout", "--on", "lost", data["branched"]).one_error(1, package, "has no attribute 'nowhere'")
    run("stumbles").one_error(1, "command stumbles of bad-plugins 0.3: KeyError: 'a mistake'")
    run("no-command").one_error(1, "bad_plugins:number of bad-plugins 0.3 is not a click.Command")

    branch = ("branch", "--no-only-admissible", data["expert"])
    run(*branch, "-m", "silent").one_error(1, "model silent@bad-plugins-0.3: wrote NoneType, not a text")
    run(*branch, "-m", "failing").one_error(1, "model failing@bad-plugins-0.3: KeyError: 'a mistake'")
    run(*branch, "-m", "no-model:1").one_error(1, "returned no eexp.models.Model")
    run(*branch, "-m", "unfinished").one_error(1, "model unfinished@bad-plugins-0.3: TypeError: Can't instantiate")
    rolled_out = data["rollout"]
    run("reflect", "--guard", "silent", rolled_out).one_error(1, "guard silent@bad-plugins-0.3: returned bool, not a")
    train = ("finetune", "-m", "tiny", "-o", tmp_path / "run", data["imitation"], "--objective")
    run(*train, "number").one_error(2, "objective number@bad-plugins-0.3 is not an eexp.training.settings.Objec")
    run(*train, "lost").one_error(1, "objective lost@bad-plugins-0.3: TypeError")
    for kind, args in (
        ("import format", ["import", "fails", rolled_out]),
        ("export format", ["export-log", "--format", "fails", rolled_out]),
        ("rationale", ["reflect", "--rationale", "fails", rolled_out]),
        ("guard", ["reflect", "--guard", "fails", rolled_out]),
        ("judge", ["preference-data", "--worse", "fails", rolled_out]),
    ):
        line = f"{kind} fails@bad-plugins-0.3: KeyError: 'a mistake'"
        run(*args).one_error(1, line)
        rejects = tmp_path / "rejects"
        run(*args, "--rejects", rejects).ok(4)
        assert line in read(rejects)[0]["error"]


def test_the_list_says_what_cannot_be_used(broken):
    result = run("plugins", "--others", "--json")
    assert result.code == 1
    problems = {(row["group"], row["name"]): row["problem"] for row in result.records if row["problem"]}
    assert problems["eexp.environments", "house"] == "eexp has an environment of this name, which is used"
    assert problems["eexp.commands", "expert"] == "eexp has a command of this name, which is used"
    assert problems["eexp.environments", "twice"] == "several packages register this name"
    assert "a name may have letters" in problems["eexp.environments", "two words"]
    assert ("eexp.environments", "missing") not in problems, "which only an import can tell"
    checked = {row["name"]: row["problem"] for row in run("plugins", "--others", "--check", "--json").records}
    assert "No module named 'no_such_module'" in checked["missing"] and checked["silent"] is None


def test_metadata_that_are_not_utf_8_stop_nothing(tmp_path, monkeypatch):
    for package, entries, metadata in (
        ("first", b"[eexp.commands]\nbroken\xff = a:b\n", b"Name: first\nVersion: 1\n"),
        ("second", b"[eexp.commands]\nother = bad:one\n", b"Name: second\nVersion: 2\nSummary: caf\xe9\n"),
        ("third", b"none of ours \xff\n", b"\xff"),
    ):
        directory = tmp_path / f"{package}-1.dist-info"
        directory.mkdir()
        (directory / "entry_points.txt").write_bytes(entries)
        (directory / "METADATA").write_bytes(metadata)
    use(tmp_path, monkeypatch)
    broken, other = run("plugins", "--others", "--json").ok(1).records
    assert broken["package"] == "first" and "a name may have letters" in broken["problem"]
    assert (other["name"], other["package"], other["version"]) == ("other", "second", "2") and not other["problem"]
    run("nosuch").one_error(2, "No such command 'nosuch'")
    run("other").one_error(1, "command 'other' of second 2", "cannot be loaded")

"""Every setting that decides what a stage writes is in the stage's line of lineage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from running import run
from stage_settings import SETTINGS, command_of, options_of
from test_contract import STAGES

from eexp.console.stream import Stream

#: How each command is called, without input: all ways of the contract tests, or one that plays nothing.
CALLS = {name: [stage.args for stage in STAGES.values() if stage.name == name] for name in SETTINGS} | {
    "expert": [("expert", "house", "-n", "0")],
    "eval": [
        ("eval", "house", "-m", "random", "--skip", "100000"),
        ("eval", "house", "-m", "random", "--skip", "100000", "--recall", "past.jsonl"),
    ],
}
#: Further calls, in which an option decides something that it decides in none of those.
for _call in (
    ("import", "verifiers"),
    ("imitation-data", "--recall", "past.jsonl"),
    ("reflect", "-m", "tiny", "--threads", "1"),
    ("reflect", "--rationale", "search"),
    ("preference-data", "--judge"),
    ("select", "--by", "length"),
    ("select", "--by", "influence", "-m", "tiny", "--like", "held-out.jsonl"),
    ("split", "--parts", "8", "--without", "1"),
    ("split", "--parts", "8", "--part", "1"),
    ("mix", "--duplicates", "near"),
    ("mix", "--share", "imitation=0.5", "--share-by", "targets"),
    ("mix", "--share", "imitation=0.5", "--share-by", "targets", "--tokenizer", "tiny"),
):
    CALLS[_call[0]].append(_call)

#: Values of options that do not take any number or word.
VALUES = {
    ("import", "split"): "train",
    ("import", "branches"): "all",
    ("import", "mapping"): "names.json",
    ("mix", "apart_from"): "held-out.jsonl",
    ("mix", "share"): "imitation=0.5",
    ("mix", "tokenizer"): "tiny",
    ("eval", "split"): "train",
    ("eval", "panel_file"): "panel.jsonl",
    ("eval", "recall"): "past.jsonl",
    ("imitation-data", "recall"): "past.jsonl",
    ("relabel", "apart_from"): "panel.jsonl",
}

#: Options that are recorded under another name.
RECORDED_AS = {("import", "no_replay"): "replay", ("split", "excluded"): "part"}

_MORE = "a longer run goes on from a shorter one, so which tasks are played is not compared"
#: Options that are not recorded, with the reason.
NOT_RECORDED = {
    ("import", "site"): "tasks have no lineage",
    ("import", "test"): "tasks have no lineage",
    ("import", "storage"): "tasks have no lineage",
    ("rollout", "fork"): "no way to fork changes an outcome",
    ("eval", "number"): _MORE,
    ("eval", "skip"): _MORE,
    ("eval", "trials"): _MORE,
}

#: Commands with settings that write no records.
WITHOUT_LINEAGE = {"finetune", "compare", "power", "plan", "report", "view", "card"}

#: (command, field) -> the name of the option in lineage.
LABELS = {
    (name, field): option.label(field).replace("_", "-")
    for name, classes in SETTINGS.items()
    if name not in WITHOUT_LINEAGE
    for kind in classes
    for field, option in options_of(kind).items()
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A directory with the files that the calls name."""
    here = tmp_path_factory.mktemp("lineage")
    (here / "names.json").write_text("{}")
    (here / "held-out.jsonl").touch()
    run("panel", "house", "-n", "1", "-q", "-o", here / "panel.jsonl").ok()
    run("expert", "house", "-n", "1", "-q", "-o", here / "past.jsonl").ok()
    return here


@pytest.fixture
def entry_of(monkeypatch, files) -> Callable[..., str]:
    """Return a function that runs a command without input and returns its line of lineage; "" if there is none."""
    monkeypatch.chdir(files)
    entries: list[str] = []
    opened = Stream.open

    def recording_open(self: Stream, *args, **more):
        stream = opened(self, *args, **more)
        entries.append(self.entry)
        return stream

    monkeypatch.setattr(Stream, "open", recording_open)

    def entry_of(*args: str) -> str:
        entries.clear()
        run(*args, "-q")
        return entries[-1] if entries else ""

    return entry_of


def _changed(name: str, field: str) -> list[str]:
    """Return the option of a field with another value than its default."""
    (parameter,) = [one for one in command_of(name).params if one.name == field]
    flag = max(parameter.opts, key=len)
    if getattr(parameter, "is_flag", False):
        return [max(parameter.secondary_opts, key=len)] if parameter.default is True else [flag]
    if (name, field) in VALUES:
        return [flag, VALUES[name, field]]
    for value in (*getattr(parameter.type, "choices", ()), "7", "0.25", "x"):
        try:
            if parameter.type.convert(value, parameter, None) != parameter.default:
                return [flag, value]
        except click.BadParameter:
            pass
    raise AssertionError(f"no value of {flag} to try: add one to VALUES")


def _is_recorded(label: str, before: str, after: str) -> bool:
    """Return whether a line of lineage differs from another one in the setting of this name."""
    return any(setting.startswith(f"{label}=") for setting in set(after.split()) - set(before.split()))


@pytest.mark.parametrize(("name", "field"), sorted(LABELS.keys() - NOT_RECORDED.keys()))
def test_a_setting_is_in_the_lineage(name, field, entry_of):
    label = RECORDED_AS.get((name, field), LABELS[name, field])
    changed = _changed(name, field)
    calls = CALLS[name]
    assert calls, f"add a Stage of {name!r} to STAGES in tests/commands/test_contract.py, or a call to CALLS here"
    assert any(_is_recorded(label, entry_of(*call), entry_of(*call, *changed)) for call in calls), (
        f"`eexp {name} {' '.join(changed)}` leaves the line of lineage as it is: give the setting to `stream.open`. "
        "Where it decides nothing of what is written, name it in NOT_RECORDED with the reason; where it decides "
        "something only beside another option or with another value, add a call to CALLS or a value to VALUES."
    )


def test_settings_that_are_not_recorded_exist():
    assert LABELS.keys() >= NOT_RECORDED.keys() | RECORDED_AS.keys() | VALUES.keys()

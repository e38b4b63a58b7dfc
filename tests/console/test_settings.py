"""Settings whose fields carry their options: names, defaults, what a command gets, and what a lineage records."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner
from stage_settings import SETTINGS, options_of

from eexp.acting.settings import BranchSettings
from eexp.console.parameters import command_options, is_given
from eexp.errors import UsageError
from eexp.settings import REQUIRED, SEED, Whole, option, recorded


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    colour: str = option(REQUIRED, "-c", "--colour", metavar="NAME").help("The colour.")
    max_coats: int = option(2, type=Whole(1)).help("Number of coats at most.")
    dry: bool = option(True).help("Whether to wait until it is dry.")
    rough: bool = option(False).help("Leave it rough.")
    parts: tuple[str, ...] = option((), "--only", multiple=True, metavar="PART").help("A part to paint.")
    seed: int = SEED.field()
    note: str = "by hand"


@click.command("paint")
@command_options(PaintSettings)
def paint(settings: PaintSettings) -> None:
    print(settings, is_given("max_coats"))


def painted(*args: str) -> str:
    result = CliRunner().invoke(paint, args, catch_exceptions=False)
    return result.output.strip()


def test_a_command_gets_one_object_of_its_options():
    expected = PaintSettings(colour="red", max_coats=3, dry=False, rough=True, parts=("lid", "box"), seed=5)
    args = ["-c", "red", "--max-coats", "3", "--no-dry", "--rough", "--only", "lid", "--only", "box", "--seed", "5"]
    assert painted(*args) == f"{expected} True"


def test_defaults_are_those_of_the_fields():
    assert painted("--colour", "red") == f"{PaintSettings(colour='red')} False"
    assert "Missing option '-c' / '--colour'" in painted()


def test_help_shows_defaults():
    text = " ".join(painted("--help").split())
    assert "--max-coats N Number of coats at most. [default: 2; x>=1]" in text
    assert "--dry / --no-dry Whether to wait until it is dry. [default: dry]" in text
    assert "--rough Leave it rough. --only" in text and "--note" not in text


def test_fields_are_recorded_by_the_names_of_their_options():
    settings = PaintSettings(colour="red", parts=("lid",))
    assert list(recorded(settings, "parts", "colour", "max_coats").items()) == [
        ("only", ("lid",)),
        ("colour", "red"),
        ("max_coats", 2),
    ]


@pytest.mark.parametrize(
    "kind", [kind for classes in SETTINGS.values() for kind in classes], ids=lambda kind: kind.__name__
)
def test_settings_of_a_command_cannot_be_changed(kind):
    required = {
        name: 1 if isinstance(option.type, Whole) else "x"
        for name, option in options_of(kind).items()
        if option.default is REQUIRED
    }
    settings = kind(**required)
    assert settings == kind(**required)
    with pytest.raises(AttributeError):
        settings.seed = 1


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"source": "admisible"}, "BranchSettings.source: 'admisible' is not one of 'policy', 'admissible'"),
        ({"k": "3"}, "BranchSettings.k: '3' is no whole number"),
        ({"k": True}, "BranchSettings.k: True is no whole number"),
        ({"k": 0}, "BranchSettings.k: 0 is not at least 1"),
        ({"temperature": float("nan")}, "BranchSettings.temperature: nan is no number"),
        ({"only_admissible": "yes"}, "BranchSettings.only_admissible: 'yes' is not True or False"),
    ],
)
def test_settings_from_python_are_checked_as_a_command_line_is(values, fault):
    with pytest.raises(UsageError, match=f"^{re.escape(fault)}"):
        BranchSettings(**values)

"""The table of environment kinds, and the help, pages and messages that are made from it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from running import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from eexp.envs import Environment, open_env
from eexp.envs.registry import KINDS, completions, environment_names, help_lines, light_names
from eexp.errors import UsageError

ROOT = Path(__file__).parents[1]
CLASSES = [kind for kind in KINDS if kind.path]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_a_kind_says_what_its_class_says(kind):
    module, _, name = kind.path.partition(":")
    environment_class = getattr(importlib.import_module(module), name)
    assert issubclass(environment_class, Environment)
    assert environment_class.light == kind.light


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_extra_that_is_needed_exists(kind):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"eexp\[(\w+)\]", kind.needs):
        assert extra in extras


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_help_and_pages_name_every_kind(kind):
    assert kind.spec in run("--help").ok().out.decode()
    assert kind.spec.replace("-", r"\-") in (ROOT / "man" / "eexp.1").read_text()
    assert kind.spec.replace("-", r"\-") in (ROOT / "man" / "eexp-env.7").read_text()
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "environments.md").read_text(), re.MULTILINE)
    assert any(f"`{kind.spec}`" in cell for cell in table), "docs/environments.md has no line for it"


def test_light_environments_are_named_where_episodes_are_played_in_parallel():
    text = " ".join(run("eval", "--help").ok().out.decode().split())
    assert light_names() == "house, bfcl, babyai and tau"
    assert f"in {light_names()};" in text and f"other than {light_names()} " in text


def test_the_table_of_help_has_two_columns():
    assert all(re.match(r"\S+ +\S", line) and line[25:] == line[25:].lstrip() for line in help_lines())


def test_a_shell_completes_names_and_beginnings():
    assert completions("") == [*environment_names(), "agentgym:", "openenv:", "exec:", "noisy:"]
    assert completions("a") == ["alfworld", "agentgym:"]
    assert completions("nothing") == []


def test_a_message_names_every_kind():
    with pytest.raises(UsageError) as caught:
        open_env("nowhere")
    message = str(caught.value)
    assert message.startswith("unknown environment 'nowhere'; known: ")
    assert all(kind.name in message for kind in KINDS)


def test_an_unknown_option_is_refused_with_those_that_exist():
    with pytest.raises(UsageError, match=r"^house has no option 'size'$"):
        open_env("house?size=3")
    with pytest.raises(UsageError, match="options are written name"):
        open_env("house?size")

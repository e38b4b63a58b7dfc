"""The table of environment kinds, and the help, pages and messages that are made from it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from light import LIGHT
from running import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from eexp.envs import Environment, open_env
from eexp.envs.registry import BUILT_IN, KINDS, completions, environment_names, light_names
from eexp.errors import UsageError

ROOT = Path(__file__).parents[2]
CLASSES = [kind for kind in KINDS if kind.path]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_a_kind_says_what_its_class_says(kind):
    module, _, name = kind.path.partition(":")
    environment_class = getattr(importlib.import_module(module), name)
    assert issubclass(environment_class, Environment)
    assert environment_class.light == kind.light
    assert (ROOT / "docs" / "environments" / f"{kind.name}.md").exists(), "it has no page in docs/environments"
    if not kind.has_target:  # the spec of a bridge is made from its URL or command
        assert environment_class.spec == kind.name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_extra_that_is_needed_exists(kind):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"eexp\[(\w+)\]", kind.needs):
        assert extra in extras


@pytest.fixture(scope="module")
def listed() -> list[str]:
    """The lines of `eexp env list`."""
    return run("env", "list").ok().out.decode().splitlines()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_list_and_the_page_name_every_kind(kind, listed):
    assert f"{kind.spec:23}  {kind.line}" in listed
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "environments.md").read_text(), re.MULTILINE)
    assert any(f"`{kind.spec}`" in cell for cell in table), "the table in docs/environments.md has no row for it"


def rows_of(page: str) -> list[tuple[str, ...]]:
    """Return the first column of the tables of a page: the code in each cell."""
    cells = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return [tuple(re.findall(r"`([^`]+)`", cell)) for cell in cells]


def test_the_page_on_evaluation_names_the_light_environments():
    expected = ("light", *LIGHT)
    assert expected in rows_of("evaluation.md"), f"a row of docs/evaluation.md has to name {expected}, in this order"


@pytest.mark.parametrize("kind", BUILT_IN.values(), ids=lambda kind: kind.name)
def test_the_page_on_noise_says_whose_expert_can_go_on(kind):
    named = {name for row in rows_of("environments/noisy.md") for name in row}
    assert kind.name in named, "the table on experts in docs/environments/noisy.md has no row for it"


def test_light_environments_are_named_where_episodes_are_played_in_parallel():
    text = " ".join(run("eval", "--help").ok().out.decode().split())
    assert light_names().replace(" and ", ", ").split(", ") == LIGHT
    assert f"in {light_names()};" in text and f"other than {light_names()} " in text


SCHEMES = ["agentgym:", "openenv:", "mcp:", "exec:", "changed:", "noisy:", "worldmodel:"]


def test_a_shell_completes_names_and_beginnings():
    assert completions("") == [*environment_names(), *SCHEMES]
    assert completions("a") == ["alfworld", "appworld", "agentgym:"]
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

"""`eexp env check --conformance`: the requirements of docs/fork-and-verify.md, kept and broken."""

from __future__ import annotations

import re
from copy import deepcopy
from importlib.util import find_spec

import liars
import pytest
from running import ROOT, lazily, run

from eexp.envs.conformance import MET, NOT_MET, NOT_OFFERED, ConformanceChecker
from eexp.envs.worlds.house import House

openenv_server = lazily("openenv_server")
needs_openenv = pytest.mark.skipif(
    not (find_spec("openenv") and find_spec("websockets")), reason="needs openenv, for its servers"
)
ACTIONS = ("left", "right")


class Saves(House):
    """A house whose states are saved, as a server would."""

    fork = House.__base__.fork

    def save(self):
        return deepcopy(vars(self))

    def restore(self, state):
        vars(self).clear()
        vars(self).update(deepcopy(state))


class ForgetsAfterSteps(Saves):
    """A state that was saved changes with the episode."""

    def save(self):
        return vars(self)

    def restore(self, state):
        vars(self).update(state)


class ForgetsSteps(Saves):
    """The number of steps is not restored, which the end of the episode depends on."""

    max_steps = 9

    def step(self, action):
        observation = super().step(action)
        observation.text += f" {self.steps}"
        return observation

    def restore(self, state):
        super().restore({**state, "steps": self.steps})


def verdicts(open_one, **options) -> dict[int, str]:
    checker = ConformanceChecker(open_one, tasks=3, limit=10, **options)
    return {one.number: one.verdict for one in checker.requirements()}


def test_an_environment_that_keeps_its_promises():
    found = verdicts(Saves)
    assert {n for n, verdict in found.items() if verdict != MET} == {14, 15, 16}, "what it does not offer"
    assert {found[n] for n in (14, 15, 16)} == {NOT_OFFERED}
    replayed = verdicts(House)
    assert replayed[16] == MET and {replayed[n] for n in range(8, 16)} == {NOT_OFFERED}


@pytest.mark.parametrize(
    ("lie", "broken"),
    [
        (ForgetsAfterSteps, {9, 10, 11, 12, 13}),
        (ForgetsSteps, {5, 9, 10, 11, 12, 13}),
        (liars.SharesState, {5, 16}),
        (liars.ScoresOtherwiseInCopies, {16}),
        (liars.EndsOtherwise, {5, 16}),
        (liars.ListsOtherwise, {16}),
        (liars.LeaksAcrossResets, {2, 3, 4, 5, 6, 7, 16}),
    ],
)
def test_what_breaks_a_promise_is_named(lie, broken):
    checker = ConformanceChecker(lie, tasks=6, limit=10)
    assert {one.number for one in checker.requirements() if one.verdict == NOT_MET} == broken


@needs_openenv
def test_a_server_that_conforms():
    with openenv_server.served("scales") as url:
        actions = [word for action in ACTIONS for word in ("--action", action)]
        rows = run("env", "check", f"openenv:{url}", "--conformance", "-n", 2, *actions, "--json").ok().records
    assert {row["number"] for row in rows if row["verdict"] != MET} == {16}, "no forks"
    assert rows[14]["name"] == "foreign states are refused" and rows[14]["detail"].endswith(" 0 restored as they were")


def forgets_random_numbers(self, state):
    self.left, self.right, self.stone, self.steps, _ = state


@needs_openenv
@pytest.mark.parametrize(
    ("name", "value", "broken"),
    [
        ("restore", lambda self, state: None, {9, 10, 11, 12, 13, 14}),
        ("restore", forgets_random_numbers, {9, 10, 11, 12, 13, 14}),
    ],
    ids=["restores nothing", "forgets its random numbers"],
)
def test_a_server_that_does_not(name, value, broken, monkeypatch):
    monkeypatch.setattr(openenv_server.openenv_states.Scales, name, value)
    with openenv_server.served("scales") as url:
        spec = f"openenv:{url}"
        actions = [word for action in ACTIONS for word in ("--action", action)]
        result = run("env", "check", spec, "--conformance", "-n", 1, *actions, "--json")
    assert result.code == 1
    assert {row["number"] for row in result.records if row["verdict"] == NOT_MET} == broken


@needs_openenv
def test_a_server_that_keeps_released_states(monkeypatch):
    """A name that means nothing any more has to be an error."""
    session = openenv_server.openenv_states.Session
    kept = {}

    def name_of(self, data):
        kept.update(self.states)
        self.states = dict(kept)
        return data["state"]

    monkeypatch.setattr(session, "name_of", name_of)
    with openenv_server.served("scales") as url:
        actions = [word for action in ACTIONS for word in ("--action", action)]
        result = run("env", "check", f"openenv:{url}", "--conformance", "-n", 2, *actions, "--json")
    assert result.code == 1
    details = {row["number"]: row["detail"] for row in result.records if row["verdict"] == NOT_MET}
    assert details.keys() == {14} and details[14].endswith("a released state is restored")


def test_the_page_numbers_the_same_requirements():
    page = (ROOT / "docs" / "fork-and-verify.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([a-z ]+) \|", page, re.MULTILINE)
    checker = ConformanceChecker(House, tasks=1, limit=10)
    assert rows == [(str(one.number), one.name) for one in checker.requirements()]

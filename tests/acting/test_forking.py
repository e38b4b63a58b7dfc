"""The law of forking: an alternative has the same outcome by every way to fork, and the path goes on as without it.

Episodes with random alternatives go through `execute` in a real worker: first by every way of the environment except
replay, then by replay in another process and in another order. `execute` itself compares every observation of the path
and every list of admissible actions with the record. The tests compare the outcomes, and the state at the end.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from forked_worlds import Leaking, Suspicious, Tally, roll, some, wander
from running import BARE_PYTHON
from small_worlds import searchqa_spec, travelplanner_spec

from eexp.acting.execution import execute
from eexp.envs.base import Environment
from eexp.envs.worlds.browser.chromium import PROGRAMS
from eexp.workers.pool import Pool

BRANCHES, SOME, FEW = 500, 50, 10
#: All branches are for `make test-long`. FEW are for environments in which SOME take a minute.
FEW_OR_ALL = pytest.mark.parametrize("branches", [FEW, pytest.param(BRANCHES, marks=pytest.mark.long)])
SOME_OR_ALL = pytest.mark.parametrize("branches", [SOME, pytest.param(BRANCHES, marks=pytest.mark.long)])
EXAMPLES = Path(__file__).parents[2] / "examples"
PAGES = "click-collapsible-2,click-menu,email-inbox-reply,login-user-popup,use-autocomplete,book-flight,search-engine"
LEVELS = "GoToLocal,PickupLoc,PutNextLocal,UnlockLocal,FindObjS5,MiniBossLevel"


# -- the law ---------------------------------------------------------------------------------------------------------


def ask(pool: Pool, do: Any, jobs: list[dict]) -> Iterator[Any]:
    for _, answer in pool.run((None, {"do": f"forked_worlds:{do.__name__}", **job}) for job in jobs):
        if isinstance(answer, Exception):
            raise answer
        yield answer


def episodes(pool: Pool, spec: str, branches: int, k: int, longest: int, games: int | None) -> list[dict]:
    """Return as many episodes as have `branches` alternatives, k at each state."""
    (material,) = ask(pool, some, [{"env": spec}])
    rng, trajectories, n = random.Random(spec), [], 0
    while n < branches:
        job = {"env": spec, "task": rng.choice(material["tasks"][:games]), "known": material["known"]}
        trajectories += ask(
            pool, wander, [{**job, "seed": len(trajectories), "straight": 0.7, "k": k, "longest": longest}]
        )
        n += k * len(trajectories[-1]["steps"])
    return trajectories


def rolled(pool: Pool, spec: str, trajectories: list[dict], way: str) -> list[dict]:
    return list(ask(pool, roll, [{"env": spec, "trajectory": t, "fork": way} for t in trajectories]))


def check(
    spec: str, ways: tuple[str, ...], branches: int, k: int = 5, longest: int = 12, games: int | None = None
) -> None:
    with Pool(1, spec, 300) as pool:
        trajectories = episodes(pool, spec, branches, k, longest, games)
        results = {way: rolled(pool, spec, trajectories, way) for way in ways}
    with Pool(1, spec, 300) as pool:
        replayed = rolled(pool, spec, trajectories[::-1], "replay")[::-1]
    assert sum(r["by"] for r in replayed) >= branches
    for way in ways:
        for one, other, trajectory in zip(results[way], replayed, trajectories):
            assert one["by"] == other["by"] == k * len(trajectory["steps"])
            assert (one["trajectory"], one["end"]) == (other["trajectory"], other["end"])


@pytest.mark.parametrize(
    ("spec", "ways"),
    [
        ("house", ("state", "process")),
        ("textcraft", ("state", "process")),
        ("forked_worlds:Tally", ("state", "process")),
        ("forked_worlds:Saving", ("state", "process")),
        (f"exec:{BARE_PYTHON} {EXAMPLES / 'blocks.py'}", ("state",)),
        (f"exec:sh {EXAMPLES / 'safe.sh'}", ("replay",)),
    ],
    ids=["house", "textcraft", "fork", "save", "blocks.py", "safe.sh"],
)
@SOME_OR_ALL
def test_every_way_observes_the_same(spec, ways, branches):
    check(spec, ways, branches, longest=8)


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not find_spec(package), reason=f"needs the package {package}")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["domain=library", "domain=library&admissible=lookups"])
@SOME_OR_ALL
def test_every_way_observes_the_same_in_tau(options, branches):
    check(f"tau?path={Path(__file__).parents[1] / 'tau_checkout'}&{options}", ("state", "process"), branches, longest=6)


@pytest.mark.slow
@needs("bfcl_eval")
@SOME_OR_ALL
def test_every_way_observes_the_same_in_bfcl(branches):
    check("bfcl", ("state", "process"), branches)


@SOME_OR_ALL
def test_every_way_observes_the_same_in_searchqa(tmp_path, branches):
    check(searchqa_spec(tmp_path), ("state",), branches)


@SOME_OR_ALL
def test_every_way_observes_the_same_in_travelplanner(tmp_path, branches):
    check(f"{travelplanner_spec(tmp_path)}/train.csv", ("state",), branches)


@needs("websockets")
@needs("openenv")
@SOME_OR_ALL
def test_every_way_observes_the_same_in_openenv(branches):
    from openenv_server import SESSIONS, served

    with served("scales") as url:
        check(f"openenv:{url}", ("state",), branches)
        assert not any(session.states for session in SESSIONS[url])


@needs("mcp")
@pytest.mark.parametrize(
    ("when", "state"), [("ALWAYS", "stateless"), pytest.param("START", "files", marks=pytest.mark.slow)]
)
def test_every_way_observes_the_same_in_mcp(tmp_path, when, state):
    server = Path(__file__).parents[1] / "mcp_server.py"
    shared = ["get(key='a')", "put(key='b', text='c')", "fail()", "get(key='b')"]
    tasks = [
        {"id": f"{n}", "instruction": "?", "expert": [f"put(key='a', text='{n}')", *shared[n % 2 :]]} for n in range(4)
    ]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    command = f"{sys.executable} -I -S {server} {when} {{dir}}/texts.json"
    check(
        f"mcp:{command}?tasks={tmp_path / 'tasks.jsonl'}&state={state}",
        ("state",),
        FEW if state == "stateless" else FEW // 2,
        k=2,
        longest=4,
    )


@pytest.mark.slow
@SOME_OR_ALL
@needs("minigrid")
def test_every_way_observes_the_same_in_babyai(branches):
    check(f"babyai?level={LEVELS}", ("state", "process"), branches)


@pytest.mark.slow
@FEW_OR_ALL
@needs("textworld")
def test_every_way_observes_the_same_in_textworld(textworld_games, branches):
    check(f"textworld?games={textworld_games}", ("state", "process"), branches)


@pytest.mark.slow
@pytest.mark.timeout(900)
@FEW_OR_ALL
@needs("fast_downward")
@needs("alfworld")
def test_every_way_observes_the_same_in_alfworld(alfworld_games, branches):
    spec = f"alfworld?data={alfworld_games}"
    check(spec, ("state", "process"), min(branches, SOME))
    if branches > SOME:
        check(spec, ("state", "process"), branches - SOME, k=10, longest=8)
        check(f"{spec}&expert=planner", ("state",), SOME)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.long
@pytest.mark.timeout(3600)
@needs("scienceworld")
@pytest.mark.skipif(not shutil.which("java"), reason="needs Java")
def test_every_way_observes_the_same_in_scienceworld():
    # tests/envs/test_scienceworld_copies.py has the cases that every run of the tests includes.
    check("scienceworld", ("state",), BRANCHES, k=10, longest=5)


@pytest.mark.long
@pytest.mark.timeout(3600)
@needs("miniwob")
@pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="needs Chromium")
def test_a_replay_observes_the_same_in_miniwob():
    # tests/envs/test_env_miniwob.py has the cases that every run of the tests includes.
    check(f"miniwob?task={PAGES}", ("replay",), BRANCHES, k=5, longest=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SOME_OR_ALL
def test_every_way_observes_the_same_in_appworld(appworld_spec, branches):
    check(appworld_spec, ("state",), branches, k=10, longest=4)


# -- leaks are noticed -----------------------------------------------------------------------------------------------


class _OneEnvironment:
    """The environments of a worker, with one environment for every spec."""

    def __init__(self, env: Environment):
        self.env = env

    def get(self, spec: str) -> Environment:
        return self.env


def tallied(straight: float) -> list[dict]:
    env = Tally()
    job = {"env": env.spec, "longest": 8, "known": [], "seed": 0, "k": 5, "straight": straight}
    return [wander({**job, "task": task}, _OneEnvironment(env), lambda: None) for task in env.tasks("train")]


def test_an_action_in_place_observes_the_same_as_in_a_copy():
    for t in tallied(straight=0.7):
        executed = execute(Tally(), t, "state").trajectory
        assert executed == execute(Suspicious(), t, "state").trajectory
        assert "numbers." in str(executed)


def test_an_alternative_that_leaks_into_the_path_is_refused():
    for t in tallied(straight=1.0):
        executed = execute(Leaking(), t, "state")
        leaks = [
            i
            for i, step in enumerate(t["steps"])
            if any(a["action"] in ("draw", "forget") for a in step["alternatives"])
        ]
        assert [e.where for e in executed.refused] == [f"$.steps[{i}]" for i in range(leaks[0], len(t["steps"]))]

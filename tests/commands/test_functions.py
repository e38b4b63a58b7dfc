"""Every command calls a function that Python may call, too: docs/pipe.md lists them, and here each of them runs."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from itertools import islice
from pathlib import Path

import pytest
from running import ROOT, write

from eexp.cli import COMMANDS
from eexp.errors import UsageError

#: Commands that show something to a person, and have no function of records.
SHOW = {"show", "prompts", "env", "models", "plugins", "schema"}
ROWS = dict(
    re.findall(
        r"\| `([a-z-]+)` \| `(eexp[\w.]+)` ",
        (ROOT / "docs" / "pipe.md").read_text(encoding="utf-8").partition("## From Python")[2],
    )
)


def function(command: str):
    module, _, name = ROWS[command].rpartition(".")
    return getattr(import_module(module), name)


def test_the_page_lists_every_command():
    assert ROWS.keys() == COMMANDS.keys() - SHOW


@pytest.mark.parametrize("command", ROWS)
def test_a_command_calls_its_function(command):
    module, _, name = ROWS[command].rpartition(".")
    file = ROOT / "eexp" / "commands" / f"{command.replace('-', '_')}{'_' * (command == 'import')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        (node.module, alias.name): alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert (module, name) in imported
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert imported[module, name] in called


@pytest.mark.slow
def test_the_functions_run_one_after_the_other(tmp_path):
    """The whole loop in this process, without a command line: every record of one function is read by the next."""
    from eexp.acting.settings import BranchSettings, CorrectSettings, EvalSettings
    from eexp.envs import open_env
    from eexp.evidence.settings import PlanSettings, PowerSettings
    from eexp.examples.mixture import Source
    from eexp.examples.settings import ReflectSettings, SelectSettings, SplitSettings
    from eexp.models import open_model
    from eexp.models.policy import ExpertPolicy, ModelPolicy, RandomPolicy
    from eexp.prompts import get_style
    from eexp.records.jsonl import dumps
    from eexp.records.record import with_lineage
    from eexp.records.shards import Shard, Share
    from eexp.report.study import find_arms
    from eexp.training.settings import Settings
    from eexp.workers.jobs import InProcess
    from eexp.workers.parallel import open_parallel

    f = {command.replace("-", "_"): function(command) for command in ROWS}
    house, style, model = open_env("house"), get_style("react"), open_model("tiny")
    pool = InProcess(lambda spec: open_env(spec))

    def worlds(env, most):
        return open_parallel(env, min(4, most), 60)

    demonstrations = list(f["expert"](house, islice(house.tasks("train"), 3)))
    branched = list(f["branch"](iter(demonstrations), None, BranchSettings(k=3, source="admissible")))
    executed = list(f["rollout"](iter(branched), pool))
    assert all(a["outcome"] for t in executed for step in t["steps"] for a in step["alternatives"])
    followed = list(f["follow"](iter(executed[:1]), open_env, worlds, ExpertPolicy()))
    assert any(a.get("then") for step in followed[0]["steps"] for a in step["alternatives"])
    panel = list(f["panel"](house, ["train"], 3))
    assert len(panel) == 3
    tasks = list(islice(house.tasks("train"), 3))
    with worlds(house, 3) as playing:
        episodes = list(f["eval"](playing, [(task, trial) for task in tasks for trial in range(2)], RandomPolicy()))
    assert len(episodes) == 6
    corrected = list(f["correct"](iter(episodes[:2]), pool, CorrectSettings()))
    rewarded = list(f["reward"](iter(episodes[:2]), pool))
    assert corrected and all("reward" in turn for turn in rewarded[0]["transcript"])
    assert len(list(f["import"](iter(episodes)))) == 6
    examples = list(f["imitation_data"](iter(demonstrations), style))
    assert list(f["world_model_data"](iter(executed), style))
    assert list(f["reflect"](iter(executed), style, None, ReflectSettings(rationale="outcome")))
    with pytest.raises(UsageError, match="needs a writer"):
        next(f["reflect"](iter(executed), style))
    assert list(f["preference_data"](iter(followed), style))
    assert list(f["recover"](iter(executed)))
    assert list(f["relabel"](iter(executed), pool))
    assert list(f["summarise"](iter(demonstrations[:1]), style, model))
    with worlds(house, 2) as playing:
        agent, short = ModelPolicy(model, style, 24, "never"), EvalSettings(temperature=1.0, max_steps=2)
        own = list(f["eval"](playing, [(tasks[0], trial) for trial in range(2)], agent, short))
    own[0] |= {"score": 1.0, "success": True}  # so that one did better than the other
    assert list(f["policy_data"](iter(own), style))
    mixed = list(f["mix"]([Source(str(write(tmp_path / "il", examples)))]))
    assert len(mixed) == len(examples)
    parts = [list(f["split"](examples, SplitSettings(parts=2, included=(n,)))) for n in (1, 2)]
    assert sum(map(len, parts)) == len(examples)
    assert list(f["select"](examples, SelectSettings()))
    share = Share(Shard(1, 1))
    part = tmp_path / "part"
    taken = [with_lineage(t, "mine") for t in share.of(demonstrations)]
    part.write_bytes(b"".join(map(dumps, taken)) + share.end().after("mine", len(taken)).line())
    assert list(f["merge"]([str(part)])) == [with_lineage(t, "mine") for t in demonstrations]
    assert f["stats"](examples)
    assert list(f["export_log"](episodes, "inspect"))
    assert "# records" in f["card"]([str(part)[:-4] + "il"], directory="records")
    assert len(list(f["score"](examples[:4], model))) == 4
    trained = f["finetune"](examples[:8], tmp_path / "il-run", Settings(max_steps=1))
    assert trained["updates"] == 1
    assert f["export"](tmp_path / "il-run", tmp_path / "il.gguf")["tensors"]
    assert f["compare"]({"a": [episodes], "b": [episodes]})
    cost = {"type": "cost", "stage": "rollout", "entry": "rollout 0.2.0", "reads": ["trajectory"], "server": False}
    cost |= {"in": 9, "done_before": 0, "out": 9, "bytes": 900, "alternatives": 18, "seconds": 3.0, "cores": 2}
    cost |= {"start_seconds": 1.0, "cpu_seconds": 3.0, "start_cpu_seconds": 1.0, "memory": 1, "worker_memory": 1}
    assert [row["stage"] for row in f["plan"]([cost], PlanSettings(trajectories=90))] == ["rollout", "all"]
    assert f["power"]([], PowerSettings(rate=0.2, tasks=(100,), runs=(3,)))
    for arm in ("a", "b"):
        Path(tmp_path / arm).mkdir()
        write(tmp_path / arm / f"{arm}.episodes.jsonl", episodes)
    assert "<html" in f["report"](find_arms([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert "<html" in f["view"]([str(tmp_path / "a" / "a.episodes.jsonl")])

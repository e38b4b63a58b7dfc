"""recipes/worlds: one agent for several worlds, on a model that learns next to nothing."""

from __future__ import annotations

import subprocess

import pytest
from running import ROOT, environment, read


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_recipe_runs_to_its_tables(tmp_path):
    out = tmp_path / "worlds"
    settings = (
        f"ENVS='house noisy:0.2:house' BASE=tiny OUT={out} DEMONSTRATIONS=5 TASKS=3 UPDATES=2 ENGINE='--threads 1'"
    )
    command = f"make -f {ROOT}/recipes/worlds/Makefile {settings} PLAY='--max-steps 3 --max-tokens 12'"
    made = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("together") >= 2
    weights: dict[str, float] = {}
    for example in read(out / "together.jsonl"):
        world = example["id"].split("/")[0]
        weights[world] = weights.get(world, 0.0) + example["weight"]
    assert weights["house"] == pytest.approx(weights["noisy:0.2:house"])

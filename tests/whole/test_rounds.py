"""recipes/rounds: play becomes experience, round after round, on a model that learns next to nothing."""

from __future__ import annotations

import subprocess

import pytest
from running import ROOT, environment, read


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("replay", ["yes", "no"])
def test_two_rounds_run_to_the_tables(tmp_path, replay):
    settings = f"OUT={tmp_path}/rounds REPLAY={replay} ROUNDS=2 DEMONSTRATIONS=6 TASKS=4 PANEL_TASKS=4 UPDATES=4"
    settings += " PLAY='--max-steps 6' FINETUNE='--batch-trajectories 2 --lr 1e-3' ENGINE='--threads 1'"
    command = f"make -f {ROOT}/recipes/rounds/Makefile {settings}"
    made = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("round-2") >= 2
    played = [{e["task"]["id"] for e in read(tmp_path / "rounds" / f"{n}.played.jsonl")} for n in (1, 2)]
    shown = {t["task"]["id"] for t in read(tmp_path / "rounds" / "expert.jsonl")}
    assert not played[0] & played[1] and not shown & (played[0] | played[1])
    again = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert "eexp finetune" not in again.stdout + again.stderr

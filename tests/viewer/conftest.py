"""One file of each type of record, which all tests of the viewer read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import read, run, write


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one file of each type: rollouts with all kinds of outcomes, examples, preferences, episodes, rejects."""
    room = tmp_path_factory.mktemp("view")
    names = ("rollout", "sr", "iwm", "preferences", "random", "expert", "rejects")
    files = {name: room / f"{name}.jsonl" for name in names}
    run("expert", "house", "-n", 4, "-q", "-o", room / "demos.jsonl").ok()
    run("branch", "--from", "admissible", "-k", 2, "-q", "-o", room / "branched.jsonl", room / "demos.jsonl").ok()
    branched = read(room / "branched.jsonl")
    for trajectory in branched:
        trajectory["steps"][0]["alternatives"].append({"action": "take the moon", "source": "policy", "logprob": -3.5})
    write(room / "branched.jsonl", branched)
    run("rollout", "-q", "-o", files["rollout"], room / "branched.jsonl").ok()
    run("reflect", "-q", "-o", files["sr"], files["rollout"]).ok()
    run("world-model-data", "-q", "-o", files["iwm"], files["rollout"]).ok()
    run("preference-data", "-q", "-o", files["preferences"], files["rollout"]).ok()
    for policy in ("random", "expert"):
        run("eval", "house", "-m", policy, "-n", 3, "-q", "-o", files[policy]).ok()
    bad = json.loads(files["rollout"].read_text().splitlines()[0])
    del bad["steps"]
    write(room / "bad.jsonl", [bad])
    run("rollout", "--rejects", files["rejects"], room / "bad.jsonl")
    return files

"""recipes/cluster on a Slurm cluster and on two hosts, both on this machine: real daemons, real networks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import MARK, none_left
from running import ROOT, read, run
from slurm_here import CLUSTER, Slurm, slurm

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"), reason="no Slurm"),
    pytest.mark.skipif(os.geteuid() != 0, reason="jobs of others and network namespaces need root"),
]
PARTS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    mark = f"cluster-{os.getpid()}"
    with slurm(**{MARK: mark}) as started:
        yield started
    assert none_left(mark), "stop ends all daemons and jobs"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A directory with demonstrations and what one process makes of them."""
    directory = tmp_path_factory.mktemp("whole")
    run("expert", "house", "-n", 40, "-q", "-o", directory / "expert.jsonl").ok()
    run("branch", "-q", "--from", "admissible", "-k", 2, directory / "expert.jsonl", "-o", directory / "b.jsonl").ok()
    run("rollout", "-q", "-j", 1, directory / "b.jsonl", "-o", directory / "rollout.jsonl").ok()
    return directory


def submit_stages(cluster: Slurm, directory: Path, expert: Path) -> None:
    """Submit `branch` and `rollout` of demonstrations as two arrays, of which the second follows the first."""
    array, stage = f"--array=0-{PARTS - 1}", CLUSTER / "stage.sbatch"
    arguments = ("branch", "--shard", "auto", "--from", "admissible", "-k", 2, expert)
    branch = cluster.submit(array, stage, "parts/branch.%a.jsonl", *arguments, cwd=directory)
    arguments = ("rollout", "-j", 1, "parts/branch.%a.jsonl")
    after = f"--dependency=aftercorr:{branch}"
    cluster.submit(array, after, stage, "parts/rollout.%a.jsonl", *arguments, cwd=directory)


def merged(directory: Path) -> bytes:
    """Return the parts of `rollout`, merged."""
    return run("merge", *sorted(directory.glob("parts/rollout.*.jsonl"))).ok().out


def test_an_array_writes_what_one_process_writes(cluster, whole, tmp_path):
    submit_stages(cluster, tmp_path, whole / "expert.jsonl")
    assert set(cluster.wait().values()) == {"COMPLETED"}
    assert merged(tmp_path) == (whole / "rollout.jsonl").read_bytes()


def test_a_stage_whose_node_is_lost_goes_on_on_another_one(cluster, whole, tmp_path):
    submit_stages(cluster, tmp_path, whole / "expert.jsonl")
    nodes: set[str] = set()
    while not nodes:
        nodes = set(cluster.call("squeue", "-h", "-t", "running", "-o", "%N").split())
    node = nodes.pop()
    cluster.act("kill", node)
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    states = cluster.wait()
    cluster.act("boot", node)
    assert set(states.values()) == {"COMPLETED"}
    assert merged(tmp_path) == (whole / "rollout.jsonl").read_bytes()


def test_a_stage_whose_time_is_over_puts_itself_back(cluster, whole, tmp_path):
    """Slurm sends SIGUSR1 a minute before; here the test does."""
    arguments = ("expert", "house", "-n", 4000)
    job = cluster.submit(CLUSTER / "stage.sbatch", "expert.jsonl", *arguments, cwd=tmp_path)
    output = tmp_path / "expert.jsonl"
    while not (output.exists() and output.stat().st_size):
        assert cluster.states()[job] in ("PENDING", "RUNNING", "CONFIGURING")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait()[job] == "COMPLETED"
    log = (tmp_path / next(tmp_path.glob("*.log")).name).read_text()
    assert "interrupted; the same command with --resume goes on" in log
    assert output.read_bytes() == run("expert", "house", "-n", 4000, "-q").ok().out


def test_stages_use_a_server_of_another_job(cluster, whole, tmp_path):
    """The server is a program that answers as OpenAI's interface does; the address travels by a file."""
    (tmp_path / "server.py").write_text(
        "import json, sys\n"
        "from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n"
        "class Answers(BaseHTTPRequestHandler):\n"
        "    def send(self, value):\n"
        "        data = json.dumps(value).encode()\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(data))); self.end_headers()\n"
        "        self.wfile.write(data)\n"
        "    def do_GET(self): self.send({'data': [{'id': 'echo'}]})\n"
        "    def do_POST(self):\n"
        "        self.rfile.read(int(self.headers['Content-Length']))\n"
        "        message = {'role': 'assistant', 'content': 'Action: look around'}\n"
        "        self.send({'choices': [{'index': 0, 'message': message, 'finish_reason': 'stop'}]})\n"
        "ThreadingHTTPServer(('', int(sys.argv[1])), Answers).serve_forever()\n"
    )
    command = ("servers", "python", tmp_path / "server.py", "{port}")
    server = cluster.submit(CLUSTER / "server.sbatch", *command, cwd=tmp_path)
    arguments = ("branch", "--shard", "auto", "-k", 1, "--no-only-admissible", whole / "expert.jsonl")
    job = cluster.submit(
        "--array=0-1",
        f"--dependency=after:{server}",
        CLUSTER / "stage.sbatch",
        "parts/branch.%a.jsonl",
        *arguments,
        cwd=tmp_path,
        SERVERS=f"servers/{server}",
        MODEL_NAME="echo",
    )
    while set(cluster.states()[f"{job}_{i}"] for i in (0, 1)) - {"COMPLETED", "FAILED"}:
        pass
    assert (tmp_path / "servers" / server).exists()
    cluster.call("scancel", server)
    cluster.wait()
    assert not (tmp_path / "servers" / server).exists()
    parts = sorted(tmp_path.glob("parts/*"))
    assert b"look around" in run("merge", *parts).ok().out


def test_training_on_two_nodes_is_that_of_one_process(cluster, whole, tmp_path):
    run("imitation-data", whole / "rollout.jsonl", "-q", "-o", tmp_path / "il.jsonl").ok()
    settings = ["-m", "tiny", "--rank", 2, "--lr", 0.003, "--max-steps", 2, "--tokens-per-batch", 400, "il.jsonl"]
    run("finetune", *settings[:-1], "-q", "-o", tmp_path / "one", tmp_path / "il.jsonl").ok()
    for way in ("ddp", "fsdp2", CLUSTER / "fsdp2.yaml"):
        name = f"two-{Path(str(way)).name}"
        cluster.submit("--nodes=2", CLUSTER / "train.sbatch", way, "-o", name, *settings, cwd=tmp_path)
        states = cluster.wait()
        logs = "".join(path.read_text() for path in tmp_path.glob("train*.log"))
        assert set(states.values()) <= {"COMPLETED", "CANCELLED"}, logs
        losses = [[line["loss"] for line in read(tmp_path / run_ / "metrics.jsonl")] for run_ in ("one", name)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_all_steps_are_submitted_at_once(cluster, tmp_path):
    sizes = {"N": "8", "PARTS": "2", "TASKS": "2", "UPDATES": "1"}
    cluster.call(CLUSTER / "submit", tmp_path / "out", cwd=ROOT, **sizes)
    cluster.wait()
    assert "agent" in (tmp_path / "out" / "table.txt").read_text()
    episodes = (tmp_path / "out" / "episodes.jsonl").read_bytes()
    cluster.call(CLUSTER / "submit", tmp_path / "out", cwd=ROOT, **sizes)
    assert "FAILED" not in cluster.wait().values()
    assert (tmp_path / "out" / "episodes.jsonl").read_bytes() == episodes


def test_two_hosts_have_networks_of_their_own():
    hosts = CLUSTER / "hosts-here"
    env = {**os.environ, "EEXP_HOSTS": str(os.getpid() % 150 + 50)}
    subprocess.run([hosts, "up"], check=True, env=env)
    try:
        both = subprocess.run([hosts, "both", "echo", "rank {rank}"], env=env, capture_output=True, text=True)
        assert sorted(both.stdout.split("\n")[:2]) == ["rank 0", "rank 1"]
        other = f"import socket; socket.create_connection(('10.{env['EEXP_HOSTS']}.0.2', 9), 5)"
        reached = subprocess.run([hosts, "run", "1", "python3", "-c", other], env=env, capture_output=True, text=True)
        assert "Connection refused" in reached.stderr, "the other host answers, and has no such service"
        outside = "import socket; socket.create_connection(('192.0.2.1', 9), 5)"
        alone = subprocess.run([hosts, "run", "1", "python3", "-c", outside], env=env, capture_output=True, text=True)
        assert "Network is unreachable" in alone.stderr
    finally:
        subprocess.run([hosts, "down"], check=True, env=env)


def test_every_command_of_the_page_runs(tmp_path):
    """The blocks of docs/scale.md, in order, as one script, in a directory with the recipes."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 6
    shared = Slurm(tmp_path / "slurm")
    for name in ("recipes", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = "set -eo pipefail\n" + "\n".join(blocks)
    # Ten times fewer demonstrations: what is shown here is that the commands run.
    script = script.replace("-n 1000", "-n 60").replace("-n 200 |", "-n 6 |")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=shared.env, capture_output=True, text=True, timeout=880
    )
    subprocess.run([CLUSTER / "hosts-here", "down"], check=True)
    subprocess.run([CLUSTER / "slurm-here", "stop", tmp_path / "slurm"], check=True, env=shared.env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "100,000 trajectories on 16 nodes" in done.stdout
    assert {"ddp", "fsdp2"} <= {path.parent.name for path in tmp_path.glob("*/eexp.json")}

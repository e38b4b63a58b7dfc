"""Secrets: a login is sent to the environment's server and written nowhere, and programs do not get the keys."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from running import BARE_PYTHON, lines, run

from eexp.envs import logins, open_env
from eexp.errors import UsageError

SECRET = "s3cret%40word"
EXPECTED = "Basic " + base64.b64encode(b"user:s3cret@word").decode()


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(logins, "_logins", {})


@pytest.fixture
def server():
    """Serve AgentGym to clients that log in; yield (host, paths of refused requests)."""
    refused = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != EXPECTED:
                refused.append(self.path)
                self.send_error(401)
                return
            state = {"observation": "a door", "available_actions": ["open", "wait"], "reward": 0, "done": False}
            answer = json.dumps({"id": 7} if self.path == "/create" else state).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{http_server.server_port}", refused
    http_server.shutdown()
    http_server.server_close()


def test_a_password_is_sent_to_the_server_and_appears_nowhere(server, monkeypatch):
    host, refused = server
    spec = f"agentgym:http://user:{SECRET}@{host}?test=0-1&max_steps=2"
    public = f"agentgym:http://{host}?test=0-1&max_steps=2"
    played = run("eval", spec, "-m", "random", "-n", 2, "--parallel", 1).ok()
    description = run("env", "show", spec).ok()
    assert len(played.records) == 2 and {r["env"] for r in played.records} == {public}
    imported = run("import", "episodes", "-j", 1, "--env", spec, stdin=played.out).ok()
    path = imported.records[0]
    path["steps"][0]["alternatives"] = [{"action": "wait", "source": "model", "outcome": None}]
    monkeypatch.setenv("EEXP_ENV", spec)
    rolled = run("rollout", "-j", 1, stdin=lines([path])).ok()
    assert rolled.records[0]["steps"][0]["alternatives"][0]["outcome"]["observation"] == "a door"
    for result in (played, description, imported, rolled):
        assert "s3cret" not in result.out.decode() + result.err
    assert public in played.err and not refused


def test_errors_do_not_show_a_password(server):
    host, _ = server
    for spec in (f"agentgym:http://user:{SECRET}@{host}?env=none", f"noisy:2:openenv:http://user:{SECRET}@{host}"):
        with pytest.raises(UsageError) as caught:
            open_env(spec)
        assert host in str(caught.value) and "s3cret" not in str(caught.value)
    message = run("env", "show", f"agentgym:http://user:{SECRET}@127.0.0.1:9?test=0").one_error(1, "127.0.0.1:9")
    assert "s3cret" not in message


def test_a_record_with_a_password_is_refused_without_showing_it(data):
    record = json.loads(data["branched"].read_text().splitlines()[0])
    record["env"] = f"agentgym:http://user:{SECRET}@127.0.0.1:9"
    error = run("rollout", "-j", 1, stdin=lines([record])).one_error(3, "agentgym:http://127.0.0.1:9", "allow it")
    assert "s3cret" not in error


@pytest.mark.parametrize(
    ("spec", "public"),
    [
        ("house", "house"),
        ("exec:./world.sh user@host", "exec:./world.sh user@host"),
        ("exec:./world.sh --proxy https://me:pw@proxy:8080/x@y", "exec:./world.sh --proxy https://proxy:8080/x@y"),
        ("noisy:0.1:openenv:http://me:p@w@[::1]:80?text=a@b", "noisy:0.1:openenv:http://[::1]:80?text=a@b"),
        ("agentgym:http://token@host", "agentgym:http://host"),
    ],
)
def test_a_login_is_withheld_and_can_be_restored(spec, public):
    assert logins.withhold_logins(spec) == public == logins.without_logins(spec)
    assert logins.with_logins(public) == spec


PROGRAM = """
import json, os, sys
for line in sys.stdin:
    said = {"protocol": 1, "splits": sorted(os.environ)} if "hello" in line else {"tasks": [{"id": sys.argv[1]}]}
    print(json.dumps(said), flush=True)
"""


def test_a_program_gets_its_own_login_and_no_key(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    for name in logins.KEYS:
        monkeypatch.setenv(name, "sk-123")
    monkeypatch.setenv("EEXP_ENV", "agentgym:http://me:pw@host")
    monkeypatch.setenv("EEXP_SEED", "3")
    monkeypatch.setenv("WEATHER_API_KEY", "its own")
    command = f"exec:{BARE_PYTHON} {tmp_path}/program.py"
    with open_env(f"{command} http://me:pw@host/data") as env:
        variables = env.splits()
        assert not {*logins.KEYS, "EEXP_ENV"} & {*variables} and {"EEXP_SEED", "WEATHER_API_KEY"} <= {*variables}
        assert [task["id"] for task in env.tasks("PATH")] == ["http://me:pw@host/data"]
        assert env.spec == f"{command} http://host/data"

"""One model at several servers: they share the work, fail and come back, and the records are those of one server."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from faulty_server import KEY, Faulty, Reply, completion
from running import EEXP, environment, read, run

from eexp.envs.logins import environment_without_keys
from eexp.models import open_model
from eexp.models.backends import client, fleet
from eexp.models.backends.fleet_file import fleet_spec
from eexp.models.base import Draw


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.1)


@contextmanager
def serving() -> Iterator[Faulty]:
    with Faulty() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def a():
    with serving() as server:
        yield server


@pytest.fixture
def b():
    with serving() as server:
        yield server


def closed_url() -> str:
    """Return an address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def opened(*servers: Faulty | str):
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return open_model(",".join(f"{url}#name" for url in urls))


def draw(prompt: str, n: int = 1, seed: int = 0) -> Draw:
    return Draw([{"role": "user", "content": prompt}], n=n, seed=seed)


def groups(n: int, size: int = 4) -> list[list[Draw]]:
    return [[draw(f"{g}.{i}", 2, seed=g) for i in range(size)] for g in range(n)]


def drawn(server: Faulty) -> list[dict]:
    """Return the requests that were draws, without those of the check."""
    return [body for body in server.asked if _is_draw(body)]


def _is_draw(body: dict) -> bool:
    return body["max_tokens"] > 16


def groups_of(server: Faulty) -> set[str]:
    return {body["messages"][-1]["content"].partition(".")[0] for body in drawn(server)}


def alone(server: Faulty, n: int) -> list:
    with open_model(f"{server.url}#name") as model:
        answers = list(model.answer(groups(n)))
    server.asked.clear()
    return answers


def test_a_closed_fleet_leaves_no_thread(a, b):
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "eexp http"}

    before = threads()
    with opened(a, b) as model:
        list(model.answer(groups(1)))
        assert len(threads() - before) == 1
    assert threads() <= before


# -- shares of the work ------------------------------------------------------------------------------------------------


def test_a_group_goes_to_one_server_and_the_answers_are_those_of_one(a, b):
    want = alone(a, 24)
    for server in (a, b):
        server.reply = lambda body, nth: Reply(delay=0.01)
    with opened(a, b) as model:
        notes: list[str] = []
        model.note = notes.append
        assert list(model.answer(groups(24))) == want
        assert model.fingerprint == f"{a.url}#name" and model.concurrency == 32
    assert not groups_of(a) & groups_of(b) and len(groups_of(a) | groups_of(b)) == 24
    assert min(len(groups_of(a)), len(groups_of(b))) > 4
    asked = [len(drawn(server)) for server in (a, b)]
    assert notes == [
        f"{server.url}: {n} requests, {7 * n} prompt tokens, {6 * n} tokens written, 0 sent again, never down"
        for server, n in zip((a, b), asked)
    ]


def test_a_slow_server_gets_less(a, b, monkeypatch):
    """It answers one request for every six of the other one."""
    monkeypatch.setenv("EEXP_HTTP_CONCURRENCY", "2")

    def reply(body: dict, nth: int) -> Reply:
        until(lambda: len(b.asked) >= min(6 * nth, 120))
        return Reply()

    a.reply = reply
    with opened(a, b) as model:
        assert len(list(model.answer(groups(40)))) == 40
    assert len(drawn(a)) < len(drawn(b)) / 2


def test_shares_go_by_weight(a, b, tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text(f'[[server]]\nurl = "{a.url}"\nweight = 3\n\n[[server]]\nurl = "{b.url}"\nconcurrency = 2\n')
    for server in (a, b):
        server.reply = lambda body, nth: Reply(delay=0.02)
    with open_model(str(file)) as model:
        assert model.concurrency == 18 and model.fingerprint == f"{a.url}#name"
        chats = model.episodes(8)
        for i in range(8):
            chats.submit(i, draw(str(i)))
        answered = [chat for _ in range(8) for chat, _ in chats.wait()]
        chats.close()
    assert sorted(answered) == list(range(8)) and b.peak <= 2
    assert (len(drawn(a)), len(drawn(b))) == (6, 2)


def test_an_episode_stays_at_its_server_and_a_returned_one_gets_its_share_again(a, b):
    with opened(a, b) as model:
        chats = model.episodes(4)

        def turn() -> list[set[str]]:
            for i in range(4):
                chats.submit(i, draw(f"{i}.x"))
            assert sorted(chat for _ in range(4) for chat, _ in chats.wait()) == list(range(4))
            seen = [groups_of(a), groups_of(b)]
            a.asked.clear()
            b.asked.clear()
            return seen

        first = turn()
        assert sorted(map(len, first)) == [2, 2] and [turn() for _ in range(3)] == [first] * 3
        b.reply = lambda body, nth: Reply(403, "not now")
        turn()
        assert turn()[0] == {"0", "1", "2", "3"}
        b.reply = lambda body, nth: Reply()
        deadline = time.monotonic() + 20
        while len(turn()[1]) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(map(len, turn())) == [2, 2]


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Reply(500, "broken"), Reply(503, b""), Reply(cut=True), Reply(403, "forbidden"), Reply(body={})]
)
def test_another_server_answers_for_one_that_fails(a, b, fault):
    want = alone(a, 12)
    b.reply = lambda body, nth: fault if _is_draw(body) and nth < 30 else Reply()
    notes: list[str] = []
    with opened(a, b) as model:
        model.note = notes.append
        assert list(model.answer(groups(12))) == want
    assert any(note.startswith(f"left out for now: {b.url}") for note in notes)
    assert f"{b.url}: " in notes[-1] and ", 0 sent again" not in notes[-1] and ", 0 sent again" in notes[-2]


@pytest.mark.parametrize("value", ["1", None])
def test_a_pause_that_a_server_asks_for_is_kept_and_concerns_it_alone(a, b, monkeypatch, value):
    """Retry-After is a number of seconds, or a date, which has whole seconds."""
    monkeypatch.setattr(fleet, "PATIENCE", 0.1)
    monkeypatch.setenv("EEXP_HTTP_CONCURRENCY", "1")  # so that none is under way at the refusal
    refused_at: list[float] = []

    def reply(body: dict, nth: int) -> Reply:
        if _is_draw(body) and not refused_at:
            refused_at.append(time.monotonic())
            return Reply(429, b"", {"Retry-After": value or formatdate(time.time() + 2, usegmt=True)})
        return Reply()

    want = alone(b, 12)
    a.reply = reply
    with opened(a, b) as model:
        assert list(model.answer(groups(12))) == want
        at_b = len(drawn(b))
        assert at_b > 24, "the other one goes on"
        until(lambda: time.monotonic() > refused_at[0] + 2)
        assert len(list(model.answer(groups(12)))) == 12
    later = [t - refused_at[0] for t in a.times if t > refused_at[0]]
    assert later and min(later) > 0.9 and len(drawn(b)) > at_b


def test_an_entry_of_the_file_bounds_the_pause_of_its_server(a, tmp_path, capfd):
    refused: list[int] = []

    def reply(body: dict, nth: int) -> Reply:
        if _is_draw(body) and not refused:
            refused.append(nth)
            return Reply(429, b"", {"Retry-After": "999999999"})
        return Reply()

    want = alone(a, 4)
    a.reply = reply
    file = tmp_path / "fleet.toml"
    file.write_text(f'[[server]]\nname = "busy"\nurl = "{a.url}"\nretry_after = 0.1\n')
    with open_model(str(file)) as model:
        assert list(model.answer(groups(4))) == want
    assert refused and "busy: asks for no request within 999,999,999 s" in capfd.readouterr().err


def test_a_storm_of_refusals_loses_nothing(a, b, monkeypatch):
    """Half of all requests are refused by servers that have too many."""
    monkeypatch.setenv("EEXP_HTTP_TRIES", "40")
    want = alone(a, 24)

    def reply(body: dict, nth: int) -> Reply:
        return Reply(429, b"", {"Retry-After": "0"} if nth % 4 else {}) if nth % 2 else Reply()

    a.reply = b.reply = reply
    notes: list[str] = []
    with opened(a, b) as model:
        model.note = notes.append
        assert list(model.answer(groups(24))) == want
    assert all(", never down" in note and ", 0 sent again" not in note for note in notes) and len(notes) == 2


def test_one_is_not_there_at_the_start(a):
    missing = closed_url()
    want = alone(a, 4)
    with opened(missing, a) as model:
        assert f"; left out for now: {missing}: ConnectError" in model.settings
        assert list(model.answer(groups(4))) == want and model.fingerprint == f"{missing}#name"
    with open_model(f"{missing},{a.url}") as model:
        assert model.fingerprint == f"{missing}#name", "the name is that of a server that answers"


def test_one_hangs_at_the_start(a, b, monkeypatch):
    monkeypatch.setattr(fleet, "CHECK", 0.5)
    b.models, b.reply = None, lambda body, nth: Reply(delay=5)
    want = alone(a, 4)
    with opened(a, b) as model:
        assert f"; left out for now: {b.url}: no answer to the check within 0.5 s" in model.settings
        assert list(model.answer(groups(4))) == want


def test_none_is_there(data, tmp_path):
    first, second = closed_url(), closed_url()
    began = time.monotonic()
    error = run("branch", "-m", f"{first}#x,{second}#x", "-o", tmp_path / "out", data["expert"]).one_error(1)
    assert re.match(
        f"error: no server of the fleet can be used: {first}: ConnectError: .*; {second}: ConnectError: ", error, re.I
    )
    assert time.monotonic() - began < 20


def test_all_are_lost_and_the_command_goes_on_later(a, b, data, tmp_path, monkeypatch):
    monkeypatch.setenv("EEXP_HTTP_TRIES", "3")
    args = ("branch", "-k", 2, "--no-only-admissible", "-m", f"{a.url}#name,{b.url}#name", "-o", tmp_path / "out")
    want = run(*args[:-2], data["expert"]).ok().out

    def dies(body: dict, nth: int) -> Reply:
        return Reply(403, "gone") if nth > 5 else Reply()

    for server in (a, b):
        server.asked.clear()
        server.reply = dies
    error = run(*args, data["expert"]).one_error(1, f"{a.url}/chat/completions: HTTP 403: gone", f"; {b.url}")
    assert error.endswith("; the same command with --resume goes on")
    for server in (a, b):
        server.reply = lambda body, nth: Reply()
    run(*args, "--resume", data["expert"]).ok()
    assert (tmp_path / "out").read_bytes() == want


def test_an_error_of_one_server_says_how_to_go_on(a, data, tmp_path):
    a.reply = lambda body, nth: Reply(403, "gone")
    args = ("branch", "-m", f"{a.url}#name", data["expert"])
    assert "--resume" not in run(*args).one_error(1, "HTTP 403: gone")
    command = [*EEXP, *map(str, args), "-o", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith("error: "), ended.stderr
    assert ended.stderr.endswith("; the same command with --resume goes on\n")


# -- a server that is killed -------------------------------------------------------------------------------------------


class _Killable:
    """A server in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, delay: float):
        self._delay, self.port = delay, 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        script = Path(__file__).parents[1] / "faulty_server.py"
        command = [sys.executable, script, str(self.port), str(self._delay)]
        self._process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def until(condition: Callable[[], bool], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_is_killed_in_the_middle_and_comes_back(a, data, tmp_path):
    """The records are byte for byte those of the first server alone, and the other one is used before and after."""
    other = _Killable(0.02)
    source = tmp_path / "in"
    expert = read(data["expert"])
    many = [{**t, "id": f"{t['id']}-{n}"} for n in range(12) for t in expert]
    source.write_text("".join(json.dumps(t) + "\n" for t in many))
    args = ("branch", "-k", 3, "--no-only-admissible", source, "-o")
    run(*args, tmp_path / "one", "-m", f"{a.url}#name").ok()
    out, shown = tmp_path / "two", []

    def is_shown(text: str) -> bool:
        return any(text in line for line in shown)

    # Slow until the other one is back, so that there is work left for it on a busy machine, too.
    a.reply = lambda body, nth: Reply(delay=0.3 if is_shown("left out") and not is_shown("is back") else 0.02)
    process = subprocess.Popen(
        [*EEXP, *map(str, args), str(out), "-m", f"{a.url}#name,{other.url}#name"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(EEXP_HTTP_CONCURRENCY="4"),
    )
    reader = threading.Thread(target=lambda: shown.extend(process.stderr))
    reader.start()
    try:
        until(lambda: out.exists() and out.read_bytes().count(b"\n") > len(many) // 8)
        other.kill()
        until(lambda: is_shown("left out for now"))
        other.start()
        assert process.wait(120) == 0
        reader.join()
    finally:
        process.kill()
        other.kill()
    assert out.read_bytes() == (tmp_path / "one").read_bytes()
    assert is_shown(f"{other.url} is back after"), shown
    assert re.search(rf"{re.escape(other.url)}: [1-9]\d+ requests, .* down for \d+ s$", shown[-1].strip()), shown


@pytest.mark.long
def test_real_servers_are_killed_and_draw_the_records_of_one():
    """The servers are two of llama-cpp-python."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("sse_starlette")
    script = Path(__file__).parents[2] / "benchmarks" / "fleet.py"
    command = [sys.executable, str(script), "-n", "24", "-k", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout
    for way in ("again", "two", "killed"):
        assert re.search(rf"^{way} .* the same bytes$", shown, re.MULTILINE), shown
    assert "left out for now: SECOND" in shown and re.search(r"SECOND: [1-9]\d* requests, .* down for", shown), shown


# -- servers that differ -----------------------------------------------------------------------------------------------


def answering(**more: object) -> Callable[[dict, int], Reply]:
    def reply(body: dict, nth: int) -> Reply:
        return Reply(body={**completion({"seed": 0, **body}), **more})

    return reply


@pytest.mark.parametrize(
    ("models", "reply", "what"),
    [
        ([{"id": "name", "owned_by": "sglang"}], None, "the owner of the model: 'vllm' and 'sglang'"),
        ([{"id": "name", "owned_by": "vllm", "root": "/x/big"}], None, "the directory of the model: None and 'big'"),
        ([{"id": "name", "owned_by": "vllm", "max_model_len": 512}], None, "the longest context: None and 512"),
        (None, answering(system_fingerprint="b2"), "the server's version: None and 'b2'"),
        (None, answering(usage={"prompt_tokens": 8}), "tokens of a fixed prompt: 7 and 8"),
        (
            None,
            lambda body, nth: Reply(400, "no logprobs here") if body.get("logprobs") else Reply(),
            "log-probabilities: 'given' and 'not given'",
        ),
        (
            None,
            answering(
                choices=[{"message": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": -3}]}}]
            ),
            "with log-probability -1.00 and 'x' with -3.00",
        ),
    ],
)
def test_servers_that_differ_are_refused(a, b, data, models, reply, what):
    if models:
        b.models = {"data": models}
    b.reply = reply or b.reply
    error = run("branch", "-m", f"{a.url}#name,{b.url}#name", data["expert"]).one_error(1, what)
    assert f"{a.url} and {b.url} do not serve the same model: " in error and not drawn(a) and not drawn(b)


def test_rounding_is_no_difference(a, b):
    near = completion({"messages": [{"content": "t"}], "seed": 0, "logprobs": True})
    near["choices"][0]["logprobs"]["content"][1]["logprob"] = -1.1
    b.reply = answering(**near)
    with opened(a, b) as model:
        assert model.fingerprint == f"{a.url}#name"


def test_a_server_that_comes_back_with_another_model_is_left_out(a, b):
    want = alone(a, 20)

    def reply(body: dict, nth: int) -> Reply:
        if not _is_draw(body):
            return answering(usage={"prompt_tokens": 7 if nth == 0 else 99})(body, nth)
        return Reply(403, "restarting")

    b.reply = reply
    notes: list[str] = []
    with opened(a, b) as model:
        model.note = notes.append
        assert list(model.answer(groups(20))) == want
        until(lambda: any("does not serve the same model" in note for note in notes))
    assert sum("does not serve the same model as the others: tokens of a fixed prompt" in n for n in notes) == 2
    assert "; left out at the end: " in notes[-1]


# -- how a fleet is named ----------------------------------------------------------------------------------------------


def test_cached_tokens_are_reported(a, b):
    a.reply = answering(usage={"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}})
    b.reply = answering(timings={"cache_n": 6, "prompt_n": 1})
    notes: list[str] = []
    with opened(a, b) as model:
        model.note = notes.append
        list(model.answer(groups(8)))
        cached = model.counts["prompt tokens from the server's cache"]
    per_server = [int(re.search(r"\((\d+) from its cache\)", note)[1]) for note in notes]
    assert per_server == [5 * len(drawn(a)), 6 * len(drawn(b))] and sum(per_server) == cached


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"\$\.server: missing"),
        ("server = []", r"\$\.server: "),
        ("[[server]]", r"\$\.server\[0\]\.url: missing"),
        ('[[server]]\nurl = "http://a/v1"\nweight = 0', r"\$\.server\[0\]\.weight: expected a number > 0"),
        ('[[server]]\nurl = "http://a/v1"\nconcurrency = 1.5', r"\$\.server\[0\]\.concurrency: expected "),
        ('[[server]]\nurl = "http://a/v1"\nkey = "s3cret"', r"\$\.server\[0\]: .*unknown field `key`"),
        ('[[server]]\nurl = "http://a/v1#m"', r"\$\.server\[0\]\.url: holds a #"),
        ('[[server]]\nurl = "a:8000"', r"\$\.server\[0\]\.url: not an address"),
        ('[[server]]\nurl = "http://a/v1"\n[[server]]\nurl = "http://a/v1/"', r"\$\.server\[1\]\.url: given twice"),
        ('[[server]]\nurl = "http://a/v1"\nkey_variable = "HOME"', r"\$\.server\[0\]\.key_variable: expected EEXP_API"),
        ('[[server]]\nurl = "http://a/v1"\nkey_variable = "EEXP_API_KEY_A"', r"EEXP_API_KEY_A is not set"),
        ("[[server]", "not valid TOML"),
    ],
)
def test_a_file_that_describes_no_fleet_is_one_line(data, tmp_path, text, message):
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    error = run("branch", "-m", file, data["expert"]).one_error(3, f"{file}: ")
    assert re.search(message, error) and "s3cret" not in error


def test_a_command_line_that_names_no_fleet(data, tmp_path):
    run("branch", "-m", "http://a/v1#x,http://b/v1#y", data["expert"]).one_error(2, "not both 'x' and 'y'")
    run("branch", "-m", "http://a/v1#x,http://a/v1/#x", data["expert"]).one_error(2, "http://a/v1: given twice")
    run("branch", "-m", tmp_path / "none.toml", data["expert"]).one_error(1, "none.toml: No such file")
    assert fleet_spec("http://me:a,b@a/v1#m,1, https://b/v1").model == "m,1"


def test_each_server_gets_its_own_key_and_none_is_shown(a, b, data, tmp_path, monkeypatch):
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'model = "name"\nrecorded_as = "http://me:{KEY}@gate/v1#name"\n'
        f'[[server]]\nname = "first"\nurl = "{a.url}"\nkey_variable = "EEXP_API_KEY_A"\n'
        f'[[server]]\nurl = "{b.url.replace("//", f"//me:{KEY}@")}"\n'
    )
    monkeypatch.setenv("EEXP_API_KEY_A", f"{KEY}-a")
    assert "EEXP_API_KEY_A" not in environment_without_keys()
    b.reply = lambda body, nth: Reply(500, f"{KEY} is bad") if nth == 3 else Reply()
    result = run("branch", "-k", 2, "--no-only-admissible", "-m", file, data["expert"]).ok()
    assert {head["Authorization"] for head in a.heads} == {f"Bearer {KEY}-a"}
    assert {head["Authorization"][:6] for head in b.heads} == {"Basic "}
    assert KEY not in result.err + result.out.decode() and "first: " in result.err
    assert "model=http://gate/v1#name" in result.records[0]["lineage"][-1]


@pytest.mark.parametrize("stage", ["eval", "reflect", "follow"])
def test_stages_take_a_fleet(a, b, data, stage):
    models = ("-m", f"{a.url}#name,{b.url}#name")
    call = {
        "eval": ("eval", "house", "-n", 3, "--max-steps", 2, "--prompt-style", "react"),
        "reflect": ("reflect", "--no-guard", "all", data["rollout"]),
        "follow": ("follow", "--steps", 2, data["rollout"]),
    }[stage]
    one = run(*call, "-m", f"{a.url}#name").ok()
    both = run(*call, *models).ok()
    assert both.out == one.out and f"{b.url}: " in both.err and drawn(b)
    error = run("score", *models, data["imitation"]).one_error(2, "a server cannot score")
    assert a.url in error

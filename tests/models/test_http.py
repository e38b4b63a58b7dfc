"""Models behind a server: a real one with the tiny model, and one that fails in the ways that a test sets."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from itertools import islice

import pytest
from faulty_server import KEY, Faulty, Reply, completion
from running import Result, environment, lines, read, run, write

from eexp.acting.expert import expert
from eexp.envs.bridges.server import Server
from eexp.envs.worlds.house import House
from eexp.errors import EexpError, InputError, ServerFailed, UsageError
from eexp.models import Engine, open_model
from eexp.models.backends import client
from eexp.models.backends.http import AHEAD, HttpModel
from eexp.models.base import Draw, Sample, Score
from eexp.prompts import get_style
from eexp.system import fetch


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    with Faulty() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def chat(prompt: str) -> list[dict]:
    return [{"role": "user", "content": prompt}]


def draw(prompt: str = "a", n: int = 1, **more: object) -> Draw:
    return Draw(chat(prompt), n=n, **more)


def ask(model: HttpModel, *args: object, **more: object) -> list[Sample]:
    (samples,) = model.ask([draw(*args, **more)])
    return samples


def texts(samples: list[Sample]) -> list[str]:
    return [s.text for s in samples]


def opened(faulty: Faulty, **settings: object) -> HttpModel:
    return HttpModel(f"{faulty.url}#name", **settings)


def until(condition: Callable[[], bool], limit: float = 20.0) -> bool:
    """Wait for a condition; return whether it came true."""
    deadline = time.monotonic() + limit
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name == "eexp http"}


# -- draws -------------------------------------------------------------------------------------------------------------


def test_a_draw_is_one_request_where_the_server_gives_n(faulty):
    with opened(faulty) as model:
        samples = ask(model, "a", 3, temperature=0.7, max_tokens=9, seed=1)
        again = ask(model, "a", 3, temperature=0.7, max_tokens=9, seed=1)
        other = ask(model, "a", 3, temperature=0.7, max_tokens=9, seed=2)
    assert len(set(texts(samples))) == 3 and samples == again and texts(samples) != texts(other)
    assert all((s.logprob, s.tokens, s.finished) == (-2.5, 2, True) for s in samples), "the stop token is no token"
    assert len(faulty.asked) == 3 and faulty.asked[0] == faulty.asked[1]
    body = faulty.asked[0]
    assert 0 <= body.pop("seed") < 2**31
    assert body == {
        "model": "name",
        "messages": chat("a"),
        "n": 3,
        "temperature": 0.7,
        "max_tokens": 9,
        "logprobs": True,
        "top_p": 1,
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
    }
    assert model.counts == Counter({"prompt tokens": 21, "tokens written": 27, "text[s] written": 9})


def test_a_nucleus_is_left_to_the_server(faulty):
    with opened(faulty) as model:
        ask(model, top_p=0.9)
        ask(model)
    assert [body.get("top_p") for body in faulty.asked] == [0.9, 1]


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        ("vllm", {"top_k": -1, "min_p": 0}),
        ("llamacpp", {"top_k": 0, "min_p": 0}),
        ("validates", {"top_k": 0, "min_p": 0}),
        ("fails", {"top_k": 0, "min_p": 0}),  # as llama-cpp-python does
        ("passes over", {}),
        ("refuses", {}),
    ],
)
def test_draws_are_the_models_own(faulty, server, sent):
    """Servers cut off the tail by default; the settings against it are determined once, or a note is shown."""
    faulty.models = {"data": [{"id": "other", "owned_by": "vllm"}, {"id": "name", "owned_by": server}]}

    def reply(body: dict, nth: int) -> Reply:
        nonsense = body.get("top_k") == "none" and server in ("validates", "fails")
        if nonsense or ("top_k" in body and server == "refuses"):
            return Reply(500 if server == "fails" else 422, "top_k")
        return Reply(body=completion({"seed": 0, **body}))

    faulty.reply = reply
    notes: list[str] = []
    with opened(faulty) as model:
        model.note = notes.append
        model.ask([draw(str(i)) for i in range(5)])
        ask(model, top_p=0.5)
    draws = [body for body in faulty.asked if "seed" in body]
    assert len(draws) == 6 and [body["top_p"] for body in draws] == [1] * 5 + [0.5]
    assert all({name: body[name] for name in ("top_k", "min_p") if name in body} == sent for body in draws)
    assert len(notes) == (not sent) and all("does not know top_k" in note for note in notes)
    assert len(faulty.asked) - 6 == {"validates": 2, "fails": 2, "passes over": 2, "refuses": 1}.get(server, 0)


def test_a_floor_needs_log_probabilities(faulty, data, monkeypatch):
    def branched(*args: object) -> Result:
        return run("branch", "-k", 2, "-m", f"{faulty.url}#name", "--min-p", 0.5, *args, data["expert"]).ok()

    plain = "--min-p has no effect where the model gives no log-probabilities"
    assert plain not in branched().err
    faulty.reply = lambda body, nth: Reply(400, "no logprobs here") if body.get("logprobs") else Reply()
    without = branched("--no-only-admissible")
    assert without.err.count(plain) == 1 and "states without log-probabilities" in without.err
    assert {a["source"] for t in without.records for s in t["steps"] for a in s["alternatives"]} == {"policy"}


@pytest.mark.parametrize(("most", "calls"), [(1, [8] + [1] * 7), (3, [8, 3, 2]), (64, [8])])
def test_a_server_that_gives_fewer_is_asked_for_the_rest(faulty, most, calls):
    faulty.reply = lambda body, nth: Reply(body=completion(body, most))
    with opened(faulty) as model:
        assert len(ask(model, "a", 8)) == 8
    assert sorted(b.get("n", 1) for b in faulty.asked) == sorted(calls)
    assert len({b["seed"] for b in faulty.asked}) == len(calls), "no text is drawn twice"


def test_a_server_that_refuses_n_is_asked_one_by_one(faulty):
    refusal = Reply(400, {"error": {"message": "n must be 1"}})
    faulty.reply = lambda body, nth: refusal if "n" in body else Reply()
    with opened(faulty) as model:
        assert len(ask(model, "a", 4)) == 4
    assert [b.get("n", 1) for b in faulty.asked] == [4, 1, 1, 1, 1]
    faulty.asked.clear()
    faulty.reply = lambda body, nth: Reply(400, "too long")
    with opened(faulty) as model, pytest.raises(InputError, match="too long"):
        ask(model, "a", 40)
    assert len(faulty.asked) == 2, "one of the forty is enough to see that it was not the number"


def test_a_server_without_logprobs(faulty):
    refusal = Reply(400, {"error": "logprobs are not supported"})
    faulty.reply = lambda body, nth: refusal if body.get("logprobs") else Reply()
    with opened(faulty, concurrency=1) as model:
        answers = [ask(model, p, 2) for p in "abc"]
    assert all(s.logprob is None for samples in answers for s in samples)
    assert ["logprobs" in b for b in faulty.asked] == [True, False, False, False], "asked without from then on"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 5.0])
def test_log_probabilities_that_are_none_are_not_recorded(faulty, wrong, data):
    """JSON knows no NaN, but servers written in Python send it; null would be written in its place."""

    def reply(body: dict, nth: int) -> Reply:
        answer = completion(body)
        for choice in answer["choices"][::2] if body.get("logprobs") else ():
            listed = choice["logprobs"]["content"]
            choice["logprobs"] = {"content": [listed[0], {**listed[1], "logprob": wrong}, listed[2]]}
        return Reply(body=answer)

    faulty.reply = reply
    notes: list[str] = []
    with opened(faulty) as model:
        model.note = notes.append
        samples = [sample for p in "ab" for sample in ask(model, p, 4)]
        assert [s.logprob for s in samples] == [None, -2.5] * 4
        assert sum("NaN, infinite or above 0" in note for note in notes) == 1
        assert model.counts["text[s] without a usable log-probability"] == 4
    result = run("branch", "-m", f"{faulty.url}#m", "--no-only-admissible", "-k", 3, data["expert"]).ok()
    logprobs = [a["logprob"] for r in result.records for s in r["steps"] for a in s["alternatives"]]
    assert None in logprobs and -2.5 in logprobs and "without a usable log-probability" in result.err


@pytest.mark.parametrize("listed", [None, {}, {"content": None}, {"content": []}, {"content": [{"token": "x"}]}])
def test_log_probabilities_that_are_missing(faulty, listed):
    faulty.reply = lambda body, nth: Reply(
        body={"choices": [{"message": {"content": "x"}, "finish_reason": "stop", "logprobs": listed}]}
    )
    with opened(faulty) as model:
        assert [s.logprob for s in ask(model, "a", 1)] == [None]


def test_a_server_without_usage(faulty):
    empty = {"message": {"content": None}, "finish_reason": "length"}
    faulty.reply = lambda body, nth: Reply(body={"choices": [empty]})
    with opened(faulty) as model:
        assert ask(model) == [Sample("", None, 0, False, message={"role": "assistant", "content": ""})]
        assert model.counts["text[s] written"] == 1


def test_greedy_texts_are_drawn_and_judged_once(faulty):
    judged: list[str] = []

    def accept(sample: Sample) -> bool:
        judged.append(sample.text)
        return sample.text.endswith("a+")

    with opened(faulty) as model:
        assert len(set(texts(ask(model, "a", 3, temperature=0)))) == 1
        assert len(ask(model, "a", 3, temperature=0, accept=accept, most=9)) == 3
        assert ask(model, "b", 3, temperature=0, accept=accept, most=9) == []
        assert len(ask(model, "a", 3, temperature=0, distinct=True)) == 1
    assert len(judged) == 2 and len(faulty.asked) == 4 and not any("n" in b for b in faulty.asked)


@pytest.mark.parametrize("most", [1, 64])
def test_refused_texts_are_drawn_again(faulty, most):
    """Missing texts are requested in rounds; each text is judged once, in order, in the thread of the caller."""
    faulty.reply = lambda body, nth: Reply(body=completion(body, most), delay=random.random() / 50)
    judged: list[tuple[str, threading.Thread]] = []

    def accept(sample: Sample) -> bool:
        judged.append((sample.text, threading.current_thread()))
        return len(judged) % 3 == 0

    with opened(faulty) as model:
        samples = ask(model, "a", 4, seed=5, accept=accept, most=50)
        assert texts(samples) == [text for text, _ in judged][2::3] and len(judged) == 12
        assert {thread for _, thread in judged} == {threading.current_thread()}
        order = [text for text, _ in judged]
        judged.clear()
        assert ask(model, "a", 4, seed=5, accept=accept, most=50) == samples and [t for t, _ in judged] == order
        judged.clear()
        assert len(ask(model, "a", 4, seed=5, accept=accept, most=7)) == 2 and [t for t, _ in judged] == order[:7]
        assert len(ask(model, "a", 4, accept=lambda s: False)) == 0, "most is n where it is not given"
        assert ask(model, "a", 4, most=0) == ask(model, "a", 0) == []


def test_equal_texts_are_drawn_again(faulty):
    faulty.reply = lambda body, nth: Reply(body={"choices": [{"message": {"content": "xyxxzx"[nth % 6]}}]})
    with opened(faulty, concurrency=1) as model:
        assert not model.exact
        assert texts(ask(model, "a", 3, distinct=True, most=6)) == ["x", "y", "z"]
        assert len(faulty.asked) == 5
        faulty.asked.clear()
        assert texts(ask(model, "a", 3, distinct=True, most=4)) == ["x", "y"], "four were judged"
        faulty.asked.clear()
        judged: list[str] = []
        ask(model, "a", 3, distinct=True, most=6, accept=lambda s: bool(judged.append(s.text)))
        assert judged == ["x", "y", "z"], "what was refused is not judged again"


def test_what_a_server_cannot_do(faulty):
    with opened(faulty) as model:
        with pytest.raises(UsageError, match=r"#name: constrained decoding is not possible"):
            ask(model, allowed=["x"])
        with pytest.raises(UsageError, match=r"#name: a server writes texts and scores none"):
            model.ask([Score(chat("a"), ["x"])])
    assert not faulty.asked


def test_half_a_surrogate_pair_passes(faulty):
    faulty.reply = lambda body, nth: Reply(body={"choices": [{"message": {"content": "b\ud800"}}]})
    with opened(faulty) as model:
        assert texts(ask(model, "a\ud800")) == ["b\ud800"] and faulty.prompts == ["a\ud800"]


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        *(Reply(status, "busy") for status in (408, 409, 425, 429, 500, 502, 503)),
        Reply(503, b"", {"Retry-After": "0"}),
        Reply(429, "slow down", {"Retry-After": formatdate(0)}),
        Reply(cut=True),
        Reply(delay=1),
    ],
)
def test_temporary_failures_are_retried(faulty, fault):
    faulty.reply = lambda body, nth: fault if nth < 2 else Reply()
    with opened(faulty, timeout=0.5 if fault.delay else None, tries=3) as model:
        assert len(ask(model, "a", 2)) == 2
    assert len(faulty.asked) == 3 and faulty.asked[0] == faulty.asked[1] == faulty.asked[2]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Reply(500, {"error": {"message": "out of\nmemory"}}), "/chat/completions: HTTP 500: out of memory"),
        (Reply(429, b"", {"Retry-After": "0"}), "/chat/completions: HTTP 429: no reason given"),
        (Reply(cut=True), ": RemoteProtocolError: "),
        (Reply(delay=0.5), ": no answer within 0.2 s (EEXP_HTTP_TIMEOUT)"),
    ],
)
def test_lasting_failures_are_one_line(faulty, fault, message):
    faulty.reply = lambda body, nth: fault
    with opened(faulty, timeout=0.2 if fault.delay else None, tries=2) as model, pytest.raises(EexpError) as e:
        ask(model)
    assert str(e.value).startswith(faulty.url + message) and str(e.value).endswith(" (tried 2 times)")
    assert "\n" not in str(e.value) and isinstance(e.value, ServerFailed) and len(faulty.asked) == 2


def test_a_missing_server_fails_at_once_and_a_lost_one_is_retried(faulty, monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        closed_url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        with opened(faulty, tries=3) as model:
            ask(model)
            model._client._address = closed_url
            with pytest.raises(EexpError, match=r"ConnectError: .* \(tried 3 times\)$"):
                ask(model)
        monkeypatch.setattr(client, "FIRST_PAUSE", 60)
        with HttpModel(f"{closed_url}#x") as model, pytest.raises(EexpError, match=r"ConnectError: [^(]*$"):
            ask(model)


class _Endless(threading.Thread):
    """A server whose answer never ends, in its head or its body, slowly or as fast as possible."""

    def __init__(self, head: bytes, part: bytes, pause: float):
        super().__init__(daemon=True)
        self._head, self._part, self._pause = head, part, pause
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(self._head)
            while True:
                connection.sendall(self._part)
                time.sleep(self._pause)

    def close(self) -> None:
        self._socket.close()


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "part", "pause", "message"),
    [
        (_OK + b"Content-Length: 100000\r\n\r\n", b" ", 0.02, "no answer within 0.3 s"),
        (_OK + b"X-Slow: ", b"x", 0.02, "no answer within 0.3 s"),
        (_OK + b"\r\n", b" " * (1 << 20), 0, "an answer of more than 1 MB"),
        (_OK + b"Content-Encoding: gzip, gzip\r\n\r\n", b"x", 0.02, "an answer packed as 'gzip, gzip'"),
    ],
)
def test_an_answer_without_end(monkeypatch, head, part, pause, message):
    """There is a deadline for the whole answer and a limit on its size, for models and environments alike."""
    monkeypatch.setattr(fetch, "LARGEST", 1 << 20)
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "0.3")
    server = _Endless(head, part, pause)
    begun = time.monotonic()
    try:
        with (
            HttpModel(f"{server.url}/v1#name", timeout=0.3, tries=1) as model,
            pytest.raises(EexpError, match=re.escape(message)),
        ):
            ask(model)
        environment = Server("agentgym:x", server.url)
        with pytest.raises(EexpError, match=re.escape(message)):
            environment.get("/", dict)
        environment.notify("/close")
        environment.close()
    finally:
        server.close()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_prompt_that_is_refused_leaves_the_others_alone(faulty, status):
    faulty.reply = lambda body, nth: Reply(status, "too long") if body["messages"] == chat("bad") else Reply()
    with opened(faulty) as model:
        ask(model)
        first, second = model.answer([[draw("a"), draw("bad"), draw("b")], [draw("c")]])
        assert [type(answer) for answer in (*first, *second)] == [list, InputError, list, list]
        assert str(first[1]) == f"{faulty.url} refuses the request: too long"
        with pytest.raises(InputError):
            model.ask([draw("a"), draw("bad")])
    assert len(faulty.asked) == 7, "nothing is asked twice"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(401, {"error": "who?"}), "HTTP 401: who? (is EEXP_API_KEY right?)"),
        (Reply(403), "HTTP 403: no reason given (is EEXP_API_KEY right?)"),
        (Reply(404, "no such model"), "HTTP 404: no such model"),
        (Reply(302), "HTTP 302: no reason given"),
        (Reply(body=b"<html>"), "the answer is not JSON"),
        (Reply(body=[]), "answered: $: expected an object, got an array"),
        (Reply(body={"choices": []}), "an answer without choices"),
        (Reply(body=b"[" * 100_000), "the answer is not JSON"),
        (Reply(body=b"{}", headers={"Content-Encoding": "gzip"}), "DecodingError"),
    ],
)
def test_a_server_that_cannot_be_used_fails_at_once(faulty, monkeypatch, reply, message):
    monkeypatch.setenv("EEXP_API_KEY", KEY)
    faulty.reply = lambda body, nth: reply
    with opened(faulty) as model, pytest.raises(EexpError) as e:
        ask(model)
    assert message in str(e.value) and isinstance(e.value, ServerFailed) and len(faulty.asked) == 1
    monkeypatch.delenv("EEXP_API_KEY")
    if reply.status == 401:
        with opened(faulty) as model, pytest.raises(EexpError, match="set EEXP_API_KEY or OPENAI_API_KEY"):
            ask(model)


def test_failures_are_raised_after_the_answers_before_them(faulty):
    faulty.reply = lambda body, nth: Reply(403) if body["messages"] == chat("bad") else Reply(delay=0.1)
    read_so_far: list[int] = []

    def groups(broken: bool):
        for i in range(100):
            read_so_far.append(i)
            if i == 3 and broken:
                raise InputError("not a record")
            yield [draw("bad" if i == 3 else "a")]

    for broken, message in ((False, "HTTP 403"), (True, "not a record")):
        read_so_far.clear()
        answered = []
        with opened(faulty, concurrency=4) as model, pytest.raises(EexpError, match=message):
            for answers in model.answer(groups(broken)):
                answered += answers
        assert len(answered) == 3 and len(read_so_far) < 12


def test_a_judge_may_fail(faulty):
    def accept(sample: Sample) -> bool:
        raise ZeroDivisionError

    with opened(faulty) as model:
        chats = model.episodes(1)
        chats.submit(0, draw(accept=accept))
        with pytest.raises(ZeroDivisionError):
            chats.wait()
        assert chats.wait() == []
        with pytest.raises(ZeroDivisionError):
            ask(model, accept=accept)


@pytest.mark.parametrize("address", ["http://{}/v1", "http://me:top-s3cret@{}/v1", "http://me:t%6Fp-s3cret@{}/v1"])
def test_the_key_is_never_shown(faulty, monkeypatch, caplog, capfd, address):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("EEXP_API_KEY", f" {KEY}\n")
    spec = address.format(f"127.0.0.1:{faulty.server_port}")
    texts = []
    for reply in (
        *(Reply(status, {"error": f"your key {KEY} is bad"}) for status in (400, 401, 302, 500)),
        Reply(body={"choices": KEY}),
        Reply(body=KEY.encode()),
    ):
        faulty.reply = lambda body, nth: reply
        with HttpModel(f"{spec}#name", tries=2) as model:
            texts += [model.spec, model.fingerprint, model._client.name]
            with pytest.raises(EexpError) as e:
                ask(model)
            texts += [str(e.value), repr(e.value)]
    faulty.models = {"data": [{"id": "found", "owned_by": "vllm"}]}
    faulty.reply = lambda body, nth: Reply()
    with HttpModel(spec) as model:
        ask(model)
        texts += [model.spec, model.fingerprint, *map(repr, ask(model))]
    assert any("your key *** is bad" in text for text in texts)
    assert model.fingerprint == f"{faulty.url}#found"
    login = "Bearer top-s3cret" if "@" not in address else "Basic bWU6dG9wLXMzY3JldA=="
    assert {head["Authorization"] for head in faulty.heads} == {login}
    everything = "".join([*texts, json.dumps(faulty.asked), caplog.text, *capfd.readouterr()])
    assert "HTTP Request" in caplog.text, "httpx keeps a log"
    assert "s3cret" not in everything and "bWU6dG9w" not in everything


@pytest.mark.parametrize(
    "wrong",
    ["http://me:s3/cret@host", "http://me:s3cret@host:port", "http://host/v1?key=s3cret", "https://", "http:///v1"],
)
def test_wrong_addresses(wrong):
    with pytest.raises(UsageError, match="not an address") as e:
        HttpModel(f"{wrong}#name")
    assert "s3" not in str(e.value)


@pytest.mark.parametrize(
    ("variable", "wrong", "message"),
    [
        ("EEXP_HTTP_CONCURRENCY", "1.5", "expected a whole number above 0, got '1.5'"),
        ("EEXP_HTTP_TIMEOUT", "soon", "expected a number above 0, got 'soon'"),
        ("EEXP_HTTP_TRIES", "0", "expected a whole number above 0, got '0'"),
        ("EEXP_HTTP_RETRY_AFTER", "inf", "expected a number above 0, got 'inf'"),
        ("EEXP_HTTP_RPM", "-1", "expected a number above 0, got '-1'"),
        ("EEXP_HTTP_RPM", "nan", "expected a number above 0, got 'nan'"),
    ],
)
def test_wrong_settings(monkeypatch, variable, wrong, message):
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(UsageError, match=variable) as e:
        open_model("http://host/v1#x")
    assert message in str(e.value)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_the_order_of_answers_decides_nothing(faulty):
    """Sixteen requests at once with random delays give the same requests, answers and judgements as one at a time."""
    chance = random.Random(0)

    def reply(body: dict, nth: int) -> Reply:
        if chance.random() < 0.1:
            return Reply(503, b"", {"Retry-After": "0"})
        return Reply(body=completion(body, 1 + body["seed"] % 3), delay=chance.random() / 50)

    faulty.reply = reply

    def play(concurrency: int) -> tuple[list, list, set[str]]:
        faulty.asked.clear()
        judged: dict[str, list[str]] = {}

        def accept(prompt: str, sample: Sample) -> bool:
            judged.setdefault(prompt, []).append(sample.text)
            return sample.text[0] in "12345"

        def group(g: int) -> list[Draw]:
            names = [f"p{g}.{i}" for i in range(g % 4)]
            return [draw(p, 3, seed=g, accept=lambda s, p=p: accept(p, s), most=8, distinct=True) for p in names]

        with opened(faulty, concurrency=concurrency, tries=20) as model:
            answers = list(model.answer(group(g) for g in range(16)))
        return answers, sorted(judged.items()), {json.dumps(body) for body in faulty.asked}

    alone = play(1)
    assert [len(answers) for answers in alone[0]] == [g % 4 for g in range(16)]
    assert play(16) == alone
    assert faulty.peak > 1  # how many exactly, the next test says


def test_as_many_at_once_as_asked_for(faulty, monkeypatch):
    faulty.reply = lambda body, nth: Reply(delay=0.01 if until(lambda: faulty.peak >= 5) else 0)
    monkeypatch.setenv("EEXP_HTTP_CONCURRENCY", "5")
    with opened(faulty) as model:
        for group_size in (1, 20):
            faulty.peak = 0
            assert sum(map(len, model.answer([[draw()] * group_size] * (60 // group_size)))) == 60
            assert faulty.peak == 5
        faulty.peak = 0
        chats = model.episodes(12)
        for i in range(12):
            chats.submit(i, draw(str(i)))
        assert len(ask(model, "beside", 2)) == 2
        answers = [answer for _ in range(12) for answer in chats.wait()]
        assert sorted(chat for chat, _ in answers) == list(range(12)) and faulty.peak == 5


def test_groups_are_read_as_they_are_needed(faulty):
    read_so_far: list[int] = []
    most: list[int] = []

    def reply(body: dict, nth: int) -> Reply:
        if body["messages"] == chat("0"):
            until(lambda: len(faulty.asked) >= AHEAD * 4)
            time.sleep(0.2)
            most.append(len(read_so_far))
        return Reply()

    faulty.reply = reply

    def groups():
        for i in range(1000):
            read_so_far.append(i)
            yield [draw(str(i))]

    with opened(faulty, concurrency=4) as model:
        answers = model.answer(groups())
        next(answers)
        assert most == [AHEAD * 4], "all others are answered, and wait for the first"
        for _ in range(30):
            next(answers)
        assert len(read_so_far) <= 31 + AHEAD * 4
        answers.close()
        faulty.reply = lambda body, nth: Reply(delay=0.2)
        read_so_far.clear()
        answers = model.answer(groups())
        next(answers)
        assert len(read_so_far) <= 8, "no more than are under way, and those that followed"


def test_leaving_early_cancels_the_calls_under_way(faulty):
    faulty.reply = lambda body, nth: Reply(delay=20 if body["messages"] == chat("slow") else 0)
    began, before = time.monotonic(), _threads()
    with opened(faulty, concurrency=3) as model:
        for _ in model.answer([[draw("a")], *[[draw("slow")]] * 9]):
            break
        assert texts(ask(model, "b")), "and it can be asked on"
        with pytest.raises(ZeroDivisionError):
            for _ in model.answer([[draw("a")], *[[draw("slow")]] * 9]):
                raise ZeroDivisionError
        chats = model.episodes(2)
        chats.submit(0, draw("slow"))
        chats.close()
        assert chats.wait() == []
        abandoned = model.answer([[draw("a")], [draw("slow")]])
        next(abandoned)
        assert len(_threads() - before) == 1
    abandoned.close()
    model.close()
    assert _threads() <= before and time.monotonic() - began < 10


@pytest.mark.parametrize("end", ["exit", "interrupt"])
def test_no_thread_keeps_the_process_alive(faulty, end):
    faulty.reply = lambda body, nth: Reply(delay=20 if body["messages"] == chat("slow") else 0)
    script = (
        "import sys\nfrom eexp.models.base import Draw\nfrom eexp.models.backends.http import HttpModel\n"
        f"model = HttpModel('{faulty.url}#x')\n"
        "ask = [[Draw([{'role': 'user', 'content': c}])] for c in ['fast', 'slow', 'slow']]\n"
        "for found in model.answer(ask):\n    print(len(found), flush=True)\n"
        + ("    sys.exit(3)\n" if end == "exit" else "")
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert child.stdout.readline() == b"1\n"
    began = time.monotonic()
    if end == "interrupt":
        child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert (child.returncode, err) == (3, b"") if end == "exit" else b"KeyboardInterrupt" in err.splitlines()[-1]


def test_too_many_requests_slow_all_of_them_down(faulty):
    faulty.reply = lambda body, nth: Reply(429, b"", {"Retry-After": "1"}) if nth == 0 else Reply(delay=0.2)
    with opened(faulty, concurrency=3) as model:
        assert len(list(model.answer([[draw(str(i))] for i in range(6)]))) == 6
    waited = [t - faulty.times[0] for t in faulty.times[3:]]
    assert len(waited) == 4 and min(waited) > 0.95, "the first three were under way, and none is sent in the pause"


def test_the_limit_of_requests_a_minute_is_kept(faulty, monkeypatch):
    monkeypatch.setenv("EEXP_HTTP_RPM", "1200")
    faulty.reply = lambda body, nth: Reply(500, b"") if nth == 2 else Reply(delay=0.1)
    with opened(faulty) as model:
        assert len(list(model.answer([[draw(str(i))] for i in range(8)]))) == 8
    seconds = faulty.times[-1] - faulty.times[0]
    assert len(faulty.times) == 9 and 0.05 * 6 < seconds < 10


def test_retry_after_in_all_its_forms():
    assert client._retry_after("7") == 7 and client._retry_after("-1") == 0
    assert 50 < client._retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert client._retry_after(formatdate(0)) == 0
    wrong = ("", "soon", "Wed, 99 Foo", "1 2", "nan", "inf", "1e999")
    assert all(client._retry_after(value) is None for value in wrong)


@pytest.mark.parametrize("asked", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "inf", "nan"])
def test_a_long_pause_is_shown_once_and_bounded_by_a_setting(faulty, monkeypatch, capfd, asked):
    monkeypatch.setenv("EEXP_HTTP_RETRY_AFTER", "0.3")
    faulty.reply = lambda body, nth: Reply(429, b"", {"Retry-After": asked})
    began = time.monotonic()
    with opened(faulty, tries=4) as model, pytest.raises(ServerFailed, match=r"HTTP 429.*\(tried 4 times\)"):
        ask(model)
    assert len(faulty.asked) == 4 and time.monotonic() - began < 30
    messages = capfd.readouterr().err.splitlines()
    if asked in ("inf", "nan"):  # not times: the server gets the usual back-off
        assert not messages
        return
    assert min(b - a for a, b in zip(faulty.times, faulty.times[1:])) >= 0.29
    (message,) = messages
    assert message.startswith(f"{faulty.url}: asks for no request within ") and " s (Retry-After); " in message
    assert "; waiting 0.3 s before each further try (EEXP_HTTP_RETRY_AFTER=0.3, EEXP_HTTP_TRIES=4)" in message


def test_a_short_pause_is_not_shown(faulty, capfd):
    faulty.reply = lambda body, nth: Reply() if nth else Reply(503, b"", {"Retry-After": "1"})
    with opened(faulty) as model:
        ask(model)
    assert capfd.readouterr().err == ""


def test_an_episode_goes_on_as_soon_as_it_is_answered(faulty):
    gate = threading.Event()
    faulty.reply = lambda body, nth: Reply(body=gate.wait(20) and None) if body["messages"] == chat("slow") else Reply()
    with opened(faulty) as model:
        chats = model.episodes(3)
        assert chats.wait() == []
        chats.submit(0, draw("slow"))
        chats.submit(1, draw("0", 2))
        for turn in range(5):
            ((number, samples),) = chats.wait()
            assert number == 1 and texts(samples)[0].endswith(f"{turn}+") and len(samples) == 2
            chats.submit(1, draw(str(turn + 1), 2))
        gate.set()
        chats.submit(2, draw("new", 0))
        answers = dict(answer for _ in range(3) for answer in chats.wait())
        assert answers.keys() == {0, 1, 2} and answers[2] == [] and chats.wait() == []


# -- a real server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts() -> list[list[dict]]:
    """Return some states of a house transcript."""
    house, style = House(), get_style("react")
    (t,) = expert(house, islice(house.tasks("train"), 1))
    return [style.act(t["instruction"], t["steps"][:i], step["observation"]) for i, step in enumerate(t["steps"][:5])]


@pytest.fixture(scope="module")
def llama(tiny):
    with open_model(str(tiny), Engine(threads=1)) as model:
        yield model


@pytest.fixture(scope="module")
def server(tiny):
    """llama-cpp-python's own server with the tiny model."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("sse_starlette")
    for _ in range(3):  # another process may take the port before it does
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {"model": tiny, "host": "127.0.0.1", "port": port, "model_alias": "small", "api_key": KEY}
        options |= {"n_ctx": 2048, "n_threads": 1, "n_threads_batch": 1}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        command = [sys.executable, "-m", "llama_cpp.server", *words]
        null = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=null, stderr=null, env=environment()) as child:
            try:
                url = f"http://127.0.0.1:{port}/v1"
                if _answers(url, child):
                    yield url
                    return
            finally:
                child.kill()
    raise AssertionError("the server did not start")


def _answers(url: str, child: subprocess.Popen) -> bool:
    """Return whether the server answers before it ends."""
    request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {KEY}"})
    for _ in range(600):
        if child.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(request, timeout=1):
                return True
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("EEXP_API_KEY", KEY)


def test_the_server_answers_like_the_model_in_process(server, key, llama, prompts):
    with open_model(server) as default, open_model(f"{server}#small") as named:
        assert default.fingerprint == named.fingerprint == f"{server}#small"
        requests = [Draw(prompt, temperature=0, max_tokens=12) for prompt in prompts]
        for (ours,), (theirs,) in zip(llama.ask(requests), named.ask(requests)):
            assert theirs.text.strip() == ours.text.strip() and theirs.finished == ours.finished
        hot = Draw(prompts[0], n=4, temperature=3.0, max_tokens=8, seed=1)
        (four,), (again,) = named.ask([hot]), named.ask([hot])
        assert len(four) == 4 and len(set(texts(four))) > 1, "a server of one choice is asked again"
        assert texts(four) == texts(again), "and goes by the seed"
        assert named.counts["text[s] written"] == len(prompts) + 8 and named.counts["prompt tokens"] > 0


def test_branch_and_eval_through_the_server(server, key, data, tmp_path):
    one = read(data["expert"])[0]
    file = write(tmp_path / "in", [{**one, "steps": one["steps"][:2], "outcome": None}])
    branched = run("branch", "-k", 2, "--max-tokens", 12, "-m", f"{server}#small", file).ok()
    assert any(a["source"] == "policy" for s in branched.records[0]["steps"] for a in s["alternatives"])
    assert f"model={server}#small" in branched.records[0]["lineage"][-1]
    played = run("eval", "house", "-n", 1, "--max-steps", 2, "--max-tokens", 12, "-m", server).ok()
    assert played.records[0]["model"] == f"{server}#small"
    for result in (branched, played):
        assert b"s3cret" not in result.out and "s3cret" not in result.err


def test_the_servers_refusals(server, data, monkeypatch):
    monkeypatch.setenv("EEXP_API_KEY", "wr0ng")
    error = run("branch", "-m", f"{server}#small", data["expert"]).one_error(1, "HTTP 401")
    assert "wr0ng" not in error
    monkeypatch.delenv("EEXP_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run("eval", "house", "-n", 1, "--max-steps", 1, "--max-tokens", 4, "-m", server).ok()
    long = read(data["expert"])[0]
    long = {**long, "instruction": "word " * 3000}
    error = run("branch", "-m", f"{server}#small", stdin=lines([long])).one_error(3, "<stdin>:1: ", "context")
    assert "s3cret" not in error


def test_the_server_needs_no_local_model(server, key, tmp_path):
    """A client of a server loads neither llama.cpp nor torch."""
    script = (
        "import sys\nfrom eexp.cli import main\n"
        f"main(['eval', 'house', '-q', '-n', '1', '--max-steps', '1', '-m', '{server}'])\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'llama_cpp')))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=tmp_path, env=environment(EEXP_API_KEY=KEY)
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["type"] == "episode"

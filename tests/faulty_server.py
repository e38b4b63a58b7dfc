"""A server of a language model that fails in the ways that a test sets."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "top-s3cret"


@dataclass
class Reply:
    """The server's answer to a request; with `cut`, it closes the connection after half of the answer."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


def completion(body: dict, most: int = 64) -> dict:
    """Return texts that depend on the request alone, each of two tokens of log-probability -1, and a stop token."""
    prompt, seed = body["messages"][-1]["content"], body["seed"]
    listed = [{"token": t, "logprob": p} for t, p in ((prompt, -1.0), ("+", -1.0), ("<end>", -0.5))]
    texts = [f"{seed % 1000 + i}{prompt}+" for i in range(min(most, body.get("n", 1)))]
    extra = {"logprobs": {"content": listed}} if body.get("logprobs") else {}
    return {
        "choices": [{"message": {"content": t}, "finish_reason": "stop", **extra} for t in texts],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3 * len(texts)},
    }


class Faulty(ThreadingHTTPServer):
    """A server that answers with `reply(body, number of the request)`, and records the requests."""

    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.reply: Callable[[dict, int], Reply] = lambda body, nth: Reply()
        self.lock = threading.Lock()
        self.models: dict | None = {"data": [{"id": "name", "owned_by": "vllm"}]}
        self.asked: list[dict] = []
        self.heads: list[dict[str, str]] = []
        self.times: list[float] = []
        self.at_once = self.peak = self.hung_up = 0

    def handle_error(self, request, client_address) -> None:
        self.hung_up += 1

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet, whatever an answer consists of

    def do_GET(self) -> None:
        self.say(Reply(body=self.server.models) if self.server.models else self.server.reply({}, 0))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            nth = len(server.asked)
            server.asked.append(body)
            server.heads.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.at_once += 1
            server.peak = max(server.peak, server.at_once)
        try:
            reply = server.reply(body, nth)
            time.sleep(reply.delay)
        finally:
            with server.lock:
                server.at_once -= 1
        self.say(
            Reply(body=completion(body), headers=reply.headers, cut=reply.cut)
            if reply.status == 200 and reply.body is None
            else reply
        )

    def say(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if reply.cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or reply.cut

    def log_message(self, *args: object) -> None:
        pass


def main(port: int, delay: float) -> None:
    """Serve at a port, or at a free one for 0, which is printed, until the process is killed."""
    with Faulty(port) as server:
        server.reply = lambda body, nth: Reply(delay=delay)
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

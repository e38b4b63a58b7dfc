"""Models behind any OpenAI-compatible chat server: vLLM, SGLang, llama-server, llama-cpp-python and others.

Many requests are under way at once, and none depends on the order in which others are answered. The key comes from
EEXP_API_KEY or OPENAI_API_KEY and goes into the headers of requests and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol

from eexp.errors import EexpError, InputError, ServerFailed, UsageError
from eexp.models.backends.chat_answers import Completion, ModelList, plain_sampling
from eexp.models.backends.client import Client
from eexp.models.base import Draw, Episodes, Model, Request, Sample, Samples
from eexp.models.text_model import OpenDraw
from eexp.prompts import Message

AHEAD = 4  # requests that may wait for an answer to an earlier one, for each one that may be under way
_WRONG_LOGPROBS = "text[s] without a usable log-probability"


class Route(Protocol):
    """What calls have in common that go to the same one of several servers (`fleet.py`)."""

    def leave(self) -> None:
        """Free its place at the server; no further call is made along it."""
        ...


class ServerModel(Model):
    """A model behind one server or several: requests in groups become calls, and answers become samples.

    Log-probabilities are the server's: of the tokens that it lists, which in some servers include the stop token, and
    at the temperature that it uses for them, which in most is 1.

    Attributes:
        server: What messages call the server.
        concurrency: Maximum number of calls that are worked on at once.
        ahead: Requests that may wait for an answer to an earlier one, for each call that may be under way.
    """

    exact = False
    ahead = AHEAD

    def __init__(self, spec: str, server: str, name: str, concurrency: int):
        super().__init__()
        self.spec, self.server, self.concurrency, self._name = spec, server, concurrency, name
        self._logprobs = True  # until the server says that it has none
        self._plain: dict[str, Any] | None = None  # settings of plain sampling, once they are known
        self._plain_task: asyncio.Task[dict[str, Any]] | None = None

    # -- what depends on the number of servers -----------------------------------------------------------------------

    def new_route(self, lasting: bool = False) -> Route | None:
        """Return what calls have in common that go to one of several servers; None where there is one.

        Args:
            lasting: Whether one call follows another, as in an episode, rather than all being made at once.
        """
        return None

    @abstractmethod
    def run(self, work: Coroutine[Any, Any, Completion], route: Route | None) -> Future[Completion]:
        """Start the work of a call, all of whose requests go along `route`."""

    @abstractmethod
    def has_room(self, calls: int) -> bool:
        """Return whether a server could begin with a further call, where `calls` are open."""

    @abstractmethod
    async def post(self, body: dict[str, Any], route: Route | None) -> Completion:
        """Return the answer to a chat.

        Raises:
            InputError: The server refuses the content of the request.
            ServerFailed: No server can be used.
        """

    @abstractmethod
    async def find_plain_sampling(self) -> dict[str, Any]:
        """Return the settings by which the server draws from the whole distribution."""

    # -- answers -----------------------------------------------------------------------------------------------------

    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        source, calls = iter(groups), _OpenCalls(self)
        waiting: deque[list[OpenDraw]] = deque()
        more, error = True, None
        try:
            while more or waiting:
                room = sum(max(1, len(group)) for group in waiting) < self.ahead * self.concurrency
                reading = more and room and self.has_room(len(calls))
                if reading:
                    try:
                        group = next(source, None)
                        more = group is not None
                        route = self.new_route()
                        waiting += [] if group is None else [[calls.start(request, route) for request in group]]
                    except Exception as e:  # raised after the answers to all earlier groups
                        more, error = False, e
                calls.collect(wait=not reading)
                more = more and not calls.failed
                while waiting and (all(d.done for d in waiting[0]) or any(d.failure for d in waiting[0])):
                    yield [draw.result() for draw in waiting.popleft()]
            if error:
                raise error
        finally:
            calls.cancel()

    def episodes(self, n: int) -> Episodes[Draw, Samples]:
        return _HttpEpisodes(self, n)

    def start(self, draw: Draw, n: int, seed: int, route: Route | None) -> Future[Completion]:
        """Start one call for up to `n` choices."""
        return self.run(self._complete(draw, n, seed, route), route)

    def message(self, sample: Sample, tools: Sequence[dict]) -> Message:
        assert sample.message is not None  # as in every sample of a server
        return sample.message

    def check(self, request: Request) -> Draw:
        """Return a request that a server can answer.

        Raises:
            UsageError: No server can.
        """
        if not isinstance(request, Draw):
            raise UsageError(f"{self.spec}: a server writes texts and scores none; take a GGUF file or hf:")
        if request.allowed is not None:
            raise UsageError(
                f"{self.spec}: constrained decoding is not possible with a server; take a GGUF file or hf:"
            )
        if request.prefix:
            raise UsageError(
                f"{self.spec}: a server cannot go on from the beginning of an answer, which this prompt style needs to "
                f"open or close the place for a thought; give --think auto, or a style that asks in the prompt"
            )
        return request

    async def _complete(self, draw: Draw, n: int, seed: int, route: Route | None) -> Completion:
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [_sent(message) for message in draw.prompt],
            "temperature": draw.temperature,
            "max_tokens": draw.max_tokens,
            "seed": seed,
        }
        body |= await self._plain_sampling() | {"top_p": 1 if draw.top_p is None else draw.top_p}
        body |= {"n": n} if n > 1 else {}
        body |= {"tools": list(draw.tools)} if draw.tools else {}
        while True:
            with_logprobs = self._logprobs
            try:
                return await self.post(body | ({"logprobs": True} if with_logprobs else {}), route)
            except EexpError as e:
                if not (with_logprobs and "logprob" in str(e)):
                    raise
                self._logprobs = False

    async def _plain_sampling(self) -> dict[str, Any]:
        """Return the settings by which the server draws from the whole distribution; they are determined once."""
        if self._plain is None:
            if self._plain_task is None or self._plain_task.cancelled():
                self._plain_task = asyncio.ensure_future(self.find_plain_sampling())
            settings = await asyncio.shield(self._plain_task)
            self._plain = settings
        return self._plain

    def warn_of_truncation(self, server: str) -> None:
        """Say that a server may leave improbable tokens out."""
        self.note(
            f"{server} does not know top_k and min_p: it may leave improbable tokens out of the draws; all that it is "
            f"told is top_p 1"
        )

    def count_wrong_logprobs(self, n: int) -> None:
        """Count texts whose log-probabilities cannot be used, and say so of the first."""
        if n and not self.counts[_WRONG_LOGPROBS]:
            self.note(
                f"{self.server} gives log-probabilities that are NaN, infinite or above 0: texts that have one "
                f"are recorded without a log-probability"
            )
        self.counts[_WRONG_LOGPROBS] += n

    def count(self, completion: Completion, samples: list[Sample]) -> None:
        """Add the cost of an answer to the counts."""
        self.counts.update(
            {
                "prompt tokens": completion.prompt_tokens,
                "prompt tokens from the server's cache": completion.cached_tokens or 0,
                "tokens written": completion.written_tokens,
                "text[s] written": len(samples),
            }
        )


class HttpModel(ServerModel):
    """A model given as `http://host:port/v1#name`; without a name, the server's first model.

    Args:
        settings: As in `client.Client`.
    """

    def __init__(self, spec: str, **settings: Any):
        url, _, name = spec.partition("#")
        self._client = Client(url, **settings)
        super().__init__(f"{self._client.url}#{name}", self._client.url, name, self._client.concurrency)
        if not name:
            self._name = self._first_model()
        self.fingerprint = f"{self._client.url}#{self._name}"

    def _first_model(self) -> str:
        try:
            models = self._client.start(self._client.ask("GET", "/models", ModelList)).result().data
            if models:
                return models[0].id
            raise ServerFailed(f"{self.server}: serves no model; name one after a #")
        except BaseException:
            self.close()
            raise

    def run(self, work: Coroutine[Any, Any, Completion], route: Route | None) -> Future[Completion]:
        return self._client.start(work)

    def has_room(self, calls: int) -> bool:
        return calls < self.concurrency

    async def post(self, body: dict[str, Any], route: Route | None) -> Completion:
        completion = await self._client.ask("POST", "/chat/completions", Completion, body)
        if not completion.choices:
            raise ServerFailed(f"{self.server}: an answer without choices")
        return completion

    async def find_plain_sampling(self) -> dict[str, Any]:
        try:
            models = (await self._client.ask("GET", "/models", ModelList, tries=1)).data
        except EexpError:
            models = []
        listed = next((model for model in models if model.id == self._name), None)
        try:
            plain = await plain_sampling(self._client.ask, self._name, listed)
        except EexpError:  # the request that needs the settings will report the failure
            return {}
        if plain is None:
            self.warn_of_truncation(self.server)
        return plain or {}

    def close(self) -> None:
        self._client.close()


def _sent(message: Message) -> Message:
    """Return a message as servers take it: with the arguments of calls as JSON in a string."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


class _OpenCalls:
    """Calls under way. Their answers are judged in the thread that collects them."""

    def __init__(self, model: ServerModel):
        self._model = model
        self._open: set[Future[Completion]] = set()
        self._answered: SimpleQueue[tuple[OpenDraw, int, Future[Completion]]] = SimpleQueue()
        self.failed = False  # whether a request has failed so that no further one is to be started

    def __len__(self) -> int:
        """Return the number of calls, those at the server and those that wait for their turn."""
        return len(self._open)

    def start(self, request: Request, route: Route | None) -> OpenDraw:
        """Begin to answer a request, whose calls go along `route`."""
        draw = OpenDraw(self._model.check(request), route)
        self._start_round(draw)
        return draw

    def _start_round(self, draw: OpenDraw) -> None:
        for number, (n, seed) in enumerate(draw.next_round()):
            call = self._model.start(draw.draw, n, seed, draw.route)
            self._open.add(call)
            call.add_done_callback(lambda call, number=number: self._answered.put((draw, number, call)))

    def collect(self, wait: bool) -> None:
        """Judge the answers that have arrived, and start the calls that follow from them.

        Args:
            wait: Wait for the first answer if any call is under way.
        """
        while self._open and (wait or not self._answered.empty()):
            draw, number, call = self._answered.get()
            wait = False
            self._open.discard(call)
            if draw.done:  # another call of it has failed
                continue
            try:
                if draw.add(number, self._samples(call)):
                    self._start_round(draw)
            except Exception as e:  # of the server or of `accept`; raised when this request is next
                draw.failure, draw.done, self.failed = e, True, True

    def _samples(self, call: Future[Completion]) -> list[Sample] | InputError:
        try:
            completion = call.result()
        except InputError as e:
            return e
        samples = completion.samples()
        self._model.count_wrong_logprobs(sum(choice.has_wrong_logprobs() for choice in completion.choices))
        self._model.count(completion, samples)
        return samples

    def cancel(self) -> None:
        """Cancel the calls under way."""
        for call in self._open:
            call.cancel()
        self._open.clear()


class _HttpEpisodes(Episodes[Draw, Samples]):
    """Episodes of which each goes on as soon as its own request is answered."""

    def __init__(self, model: ServerModel, n: int):
        super().__init__(model, n)
        self._calls = _OpenCalls(model)
        self._routes = [model.new_route(lasting=True) for _ in range(n)]
        self._draws: dict[int, OpenDraw] = {}

    def submit(self, episode: int, request: Draw) -> None:
        self._draws[episode] = self._calls.start(request, self._routes[episode])

    def wait(self) -> list[tuple[int, Samples]]:
        while not (finished := [episode for episode, draw in self._draws.items() if draw.done]) and self._draws:
            self._calls.collect(wait=True)
        return [(episode, self._draws.pop(episode).result()) for episode in finished]

    def close(self) -> None:
        self._calls.cancel()
        self._draws.clear()
        for route in filter(None, self._routes):
            route.leave()

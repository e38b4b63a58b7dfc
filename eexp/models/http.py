"""Any OpenAI-compatible chat server (vLLM, SGLang, llama-server, llama-cpp-python): the way off one machine.

Many requests are under way at once, and none decides what another one asks for. The key comes from EEXP_API_KEY or
OPENAI_API_KEY and goes into the requests' header and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Optional

from msgspec import Struct

from eexp.errors import EexpError, InputError, UsageError
from eexp.models.base import Draw, Episodes, Model, Request, Sample, Samples
from eexp.models.client import Client
from eexp.records import seed_of

AHEAD = 4  # requests that may wait for an answer before theirs, for each one that may be under way


# What we read of an answer; the rest of it is the server's own affair.
class _Said(Struct):
    content: Optional[str] = None


class _Token(Struct):
    token: str = ""
    logprob: Optional[float] = None


class _Logprobs(Struct):
    content: Optional[list[_Token]] = None


class _Choice(Struct):
    message: _Said
    finish_reason: Optional[str] = None
    logprobs: Optional[_Logprobs] = None

    def sample(self, told: int) -> Sample:
        """The choice as a sample; `told` is its number of tokens where the server does not list them."""
        text, finished = self.message.content or "", self.finish_reason != "length"
        tokens = (self.logprobs.content if self.logprobs else None) or []
        logprobs = [t.logprob for t in tokens if t.logprob is not None]
        known = bool(logprobs) and len(logprobs) == len(tokens)
        stop = bool(tokens) and finished and not (tokens[-1].token and text.endswith(tokens[-1].token))
        return Sample(text, sum(logprobs) if known else None, len(tokens) - stop if tokens else told, finished)


class _Usage(Struct):
    prompt_tokens: Optional[int] = None
    completion_tokens: Optional[int] = None


class _Completion(Struct):
    choices: list[_Choice] = []
    usage: Optional[_Usage] = None


class _Named(Struct):
    id: str
    owned_by: Optional[str] = None  # vLLM, SGLang and llama.cpp's server give their own names


class _Models(Struct):
    data: list[_Named] = []


#: What turns off the truncation and the penalties that a server applies on its own account, by who it says it is. What
#: others know is found out.
_PLAIN: dict[Optional[str], dict[str, Any]] = {
    "vllm": {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
    "sglang": {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
    "llamacpp": {"top_k": 0, "min_p": 0, "repeat_penalty": 1},
}
_PROBE = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1, "temperature": 1}


class HttpModel(Model):
    """`http://host:port/v1#name`; without a name the server's first model is taken.

    `settings` are those of `client.Client`. Log-probabilities are the server's: of the tokens that it lists, which in
    some includes the stop token, and at the temperature that it counts them at, which in most is 1.
    """

    exact = False

    def __init__(self, spec: str, **settings: Any):
        super().__init__()
        url, _, self._name = spec.partition("#")
        self._client = Client(url, **settings)
        self.spec = f"{self._client.name}#{self._name}"
        if not self._name:
            self._name = self._first_model()
        self.fingerprint = f"{self._client.name}#{self._name}"
        self._logprobs = True  # until the server says that it has none
        self._plain: dict[str, Any] | None = None  # what makes a draw the model's own, when it is known
        self._asking: asyncio.Task[dict[str, Any]] | None = None

    def _first_model(self) -> str:
        try:
            models = self._client.start(self._client.ask("GET", "/models", _Models)).result().data
            if models:
                return models[0].id
            raise EexpError(f"{self._client.name}: serves no model; name one after a #")
        except BaseException:
            self.close()
            raise

    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        source, flight = iter(groups), _Flight(self)
        held: deque[list[_Drawing]] = deque()
        more, error = True, None
        try:
            while more or held:
                room = sum(max(1, len(group)) for group in held) < AHEAD * self._client.concurrency
                reading = more and room and flight.calls < self._client.concurrency
                if reading:
                    try:
                        group = next(source, None)
                        more = group is not None
                        held += [[flight.start(request) for request in group]] if more else []
                    except Exception as e:  # told after the answers to all groups before
                        more, error = False, e
                flight.land(wait=not reading)
                more = more and not flight.failed
                while held and (all(d.done for d in held[0]) or any(d.failure for d in held[0])):
                    yield [drawing.result() for drawing in held.popleft()]
            if error:
                raise error
        finally:
            flight.cancel()

    def episodes(self, n: int) -> Episodes:
        return _HttpEpisodes(self, n)

    def close(self) -> None:
        self._client.close()

    def _drawing(self, request: Request) -> _Drawing:
        """A request that is about to be made. Raises UsageError where no server can answer it."""
        if not isinstance(request, Draw):
            raise UsageError(f"{self.spec}: a server writes texts and scores none; take a GGUF file or hf:")
        if request.allowed is not None:
            raise UsageError(f"{self.spec}: a server cannot be held to a list of texts; take a GGUF file or hf:")
        if request.prefix:
            raise UsageError(
                f"{self.spec}: a server cannot go on from the beginning of an answer, which this prompt style needs to "
                f"open or close the place for a thought; give --think auto, or a style that asks in the prompt"
            )
        return _Drawing(request)

    async def _complete(self, draw: Draw, n: int, seed: int) -> _Completion:
        """One call: up to `n` choices."""
        body: dict[str, Any] = {
            "model": self._name,
            "messages": draw.prompt,
            "temperature": draw.temperature,
            "max_tokens": draw.max_tokens,
            "seed": seed,
        }
        body |= await self._plain_sampling() | {"top_p": 1 if draw.top_p is None else draw.top_p}
        body |= {"n": n} if n > 1 else {}
        while True:
            asked = self._logprobs
            try:
                found = await self._client.ask(
                    "POST", "/chat/completions", _Completion, body | ({"logprobs": True} if asked else {})
                )
            except EexpError as e:
                if not (asked and "logprob" in str(e)):
                    raise
                self._logprobs = False
            else:
                if not found.choices:
                    raise EexpError(f"{self._client.name}: an answer without choices")
                return found

    async def _plain_sampling(self) -> dict[str, Any]:
        """Return what a request must say so that the server draws from the whole distribution; asked for once."""
        if self._plain is None:
            if self._asking is None or self._asking.cancelled():
                self._asking = asyncio.ensure_future(self._ask_for_plain_sampling())
            self._plain = await asyncio.shield(self._asking)
        return self._plain

    async def _ask_for_plain_sampling(self) -> dict[str, Any]:
        """By the list of models, or else by requests of one token: a server that knows top_k refuses nonsense as its
        value, and one that does not know it passes over nonsense as well."""
        try:
            listed = (await self._client.ask("GET", "/models", _Models, tries=1)).data
        except EexpError:
            listed = []
        plain = _PLAIN.get(next((model.owned_by for model in listed if model.id == self._name), None))
        if plain is None:
            plain = {"top_k": 0, "min_p": 0}
            try:
                known = await self._takes(plain) and not await self._takes({"top_k": "none", "min_p": "none"})
            except EexpError:  # the request that this is for will say what is wrong
                return {}
            if not known:
                self.note(
                    f"{self._client.name} does not know top_k and min_p: it may leave improbable tokens out of "
                    f"the draws; all that it is told is top_p 1"
                )
                return {}
        return plain

    async def _takes(self, sampling: dict[str, Any]) -> bool:
        body = {"model": self._name, **_PROBE, "top_p": 1, **sampling}
        try:
            await self._client.ask("POST", "/chat/completions", _Completion, body, tries=1)
        except InputError:
            return False
        return True


class _Drawing:
    """A Draw on its way: rounds of calls, until enough texts are accepted or as many are judged as may be.

    A round asks for what is missing. Its texts are judged when all of it is back, in the order of its calls, and the
    seed of a call is its number in the Draw: when an answer comes decides nothing.
    """

    def __init__(self, draw: Draw):
        self.draw, self.done = draw, False
        self.failure: Exception | None = None
        self._refusal: InputError | None = None
        greedy = draw.temperature == 0  # which has one text, however often it is drawn
        most = draw.n if draw.most is None else draw.most
        self._n, self._most = (min(draw.n, 1), min(most, 1)) if greedy else (draw.n, most)
        self._copies = draw.n if greedy and not draw.distinct else 1
        self._accepted: list[Sample] = []
        self._judged = self._calls = 0
        self._seen: set[tuple[str, bool]] = set()
        self._at_once = max(1, self._n)  # choices that a call asks for
        self._careful = False  # one call first, to see whether fewer choices are all that it takes
        self._asked: list[int] = []
        self._back: dict[int, list[Sample] | InputError] = {}

    def result(self) -> Samples:
        """The answer, when done. Raises what no request survives."""
        if self.failure:
            raise self.failure
        return self._refusal or self._accepted * self._copies

    def next_round(self) -> list[tuple[int, int]]:
        """The calls to make now, as (choices, seed); with none to make it is done."""
        missing = min(self._n - len(self._accepted), self._most - self._judged)
        missing = min(missing, 1) if self._careful else missing
        self._asked = [min(self._at_once, missing - i) for i in range(0, missing, self._at_once)]
        self._back.clear()
        self.done = self.done or not self._asked
        calls = (
            []
            if self.done
            else [(n, seed_of(self.draw.seed, self._calls + i) % 2**31) for i, n in enumerate(self._asked)]
        )
        self._calls += len(calls)
        return calls

    def land(self, place: int, found: list[Sample] | InputError) -> bool:
        """Take what call `place` of the round brought; true when that was the last of them."""
        self._back[place] = found
        if len(self._back) < len(self._asked):
            return False
        for i, n in enumerate(self._asked):
            self._take(n, self._back[i])
        return True

    def _take(self, n: int, found: list[Sample] | InputError) -> None:
        if not isinstance(found, InputError):
            if len(found) < n:  # some servers answer one choice, whatever n says
                self._at_once = min(self._at_once, len(found))
            self._careful = False
            for sample in found[:n]:
                self._judge(sample)
        elif n > 1:  # which is what some servers refuse
            self._at_once, self._careful = 1, True
        else:
            self._refusal = self._refusal or found
            self.done = True

    def _judge(self, sample: Sample) -> None:
        # Dropping what was drawn before is drawing without replacement, as far as `most` goes.
        known = self.draw.distinct and (sample.text, sample.finished) in self._seen
        self._seen.add((sample.text, sample.finished))
        self._judged += 1
        if not known and (self.draw.accept is None or self.draw.accept(sample)):
            self._accepted.append(sample)


class _Flight:
    """Requests under way. What comes back is judged in the thread that asks for it."""

    def __init__(self, model: HttpModel):
        self._model = model
        self._out: set[Future] = set()
        self._back: SimpleQueue[tuple[_Drawing, int, Future[_Completion]]] = SimpleQueue()
        self.failed = False  # what no request survives has happened to one

    @property
    def calls(self) -> int:
        """How many are out, of those that the server has and those that wait for their turn."""
        return len(self._out)

    def start(self, request: Request) -> _Drawing:
        """Make the request."""
        drawing = self._model._drawing(request)
        self._go_on(drawing)
        return drawing

    def _go_on(self, drawing: _Drawing) -> None:
        for place, (n, seed) in enumerate(drawing.next_round()):
            call = self._model._client.start(self._model._complete(drawing.draw, n, seed))
            self._out.add(call)
            call.add_done_callback(lambda done, place=place: self._back.put((drawing, place, done)))

    def land(self, wait: bool) -> None:
        """Judge what is back, and make the calls that follow from it. wait: until one is, if any is out."""
        while self._out and (wait or not self._back.empty()):
            drawing, place, call = self._back.get()
            wait = False
            self._out.discard(call)
            if drawing.done:  # another call of it has failed
                continue
            try:
                if drawing.land(place, self._samples(call)):
                    self._go_on(drawing)
            except Exception as e:  # of the server or of who judges; told when it is this request's turn
                drawing.failure, drawing.done, self.failed = e, True, True

    def _samples(self, call: Future[_Completion]) -> list[Sample] | InputError:
        try:
            found = call.result()
        except InputError as e:
            return e
        usage = found.usage or _Usage()
        told = (usage.completion_tokens or 0) if len(found.choices) == 1 else 0
        samples = [choice.sample(told) for choice in found.choices]
        written = sum(s.tokens for s in samples) if usage.completion_tokens is None else usage.completion_tokens
        self._model.counts.update(
            {"prompt tokens": usage.prompt_tokens or 0, "tokens written": written, "texts written": len(samples)}
        )
        return samples

    def cancel(self) -> None:
        """Drop what is out."""
        for call in self._out:
            call.cancel()
        self._out.clear()


class _HttpEpisodes(Episodes):
    """Episodes of which each goes on as soon as its own answer is there."""

    def __init__(self, model: HttpModel, n: int):
        super().__init__(model, n)
        self._flight = _Flight(model)
        self._drawings: dict[int, _Drawing] = {}

    def submit(self, chat: int, request: Draw) -> None:
        self._drawings[chat] = self._flight.start(request)

    def wait(self) -> list[tuple[int, Samples]]:
        while not (known := [chat for chat, drawing in self._drawings.items() if drawing.done]) and self._drawings:
            self._flight.land(wait=True)
        return [(chat, self._drawings.pop(chat).result()) for chat in known]

    def close(self) -> None:
        self._flight.cancel()
        self._drawings.clear()

"""ParallelEnvironments: environments in which many episodes are played at once, each at a seat of its own (numbered from 0).

`LocalEnvironments` has them in this process, for those that are light (see envs/base.py). `WorkerEnvironments` has each in a process of its own,
so that all of them step at the same time, and while a model thinks; one that crashes, hangs or grows costs its episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from eexp.envs import OpenEnvironments, open_env
from eexp.envs.base import Environment, Observation
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom
from eexp.jsonl import dumps
from eexp.processes.child import ChildFailed
from eexp.workers.supervisor import Supervisor, Worker
from eexp.workers.worker import error_from_answer, unexpected_error


class EnvironmentLost(EnvironmentFailed):
    """The process of an environment died, hung or grew; the episode may go well in another."""


@dataclass
class StepResult:
    """What a player gets to see after `begin` or `step`, and what else it asked for.

    instruction: after `begin` alone. admissible, expert: None also where the episode is over.
    """

    observation: Observation
    instruction: str = ""
    admissible: list[str] | None = None
    expert: str | None = None


class ParallelEnvironments(ABC):
    """`size` environments of the same kind. Use as a context manager.

    Every `begin` and `step` is answered once, by `wait`; until then nothing more may be asked at that seat.
    ask: what to add to the view, of "admissible" and "expert".
    """

    def __init__(self, spec: str, max_steps: int, size: int):
        self.spec, self.max_steps, self.size = spec, max_steps, size
        #: What went wrong.
        self.counts: Counter[str] = Counter()

    def begin(self, seat: int, task: dict, ask: Collection[str] = ()) -> None:
        """Start a task from its beginning, whatever was played at this seat before."""
        self._request(seat, {"task": task, "ask": sorted(ask)})

    def step(self, seat: int, action: str, ask: Collection[str] = ()) -> None:
        """Execute one action."""
        self._request(seat, {"action": action, "ask": sorted(ask)})

    @abstractmethod
    def _request(self, seat: int, request: dict) -> None: ...

    @abstractmethod
    def wait(self, at_once: bool = False) -> list[tuple[int, StepResult | InputError | NoRoom]]:
        """(seat, what is seen there or why there is nothing) for all that have answered, perhaps none yet.

        Waits for them unless `at_once`. An episode whose environment failed is over; one that a server has no room for
        has not begun. Raises EexpError where no environment can be had at all.
        """

    def close(self) -> None:
        """Give back processes and memory. Safe to call twice."""

    def __enter__(self) -> ParallelEnvironments:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _nothing() -> None:
    return None


def _view(env: Environment, request: dict, on_step: Callable[[], None] = _nothing) -> StepResult:
    on_step()
    view = StepResult(env.reset(request["task"]) if "task" in request else env.step(request["action"]))
    if "task" in request:
        view.instruction = env.instruction()
    for question in request["ask"] if not view.observation.done else ():
        on_step()
        setattr(view, question, getattr(env, question)())
    return view


class LocalEnvironments(ParallelEnvironments):
    """In this process, opened as they are needed. They answer when they are waited for, one after the other."""

    def __init__(self, open: Callable[[], Environment], size: int):
        self._open, self._envs = open, {0: open()}
        self._requests: dict[int, dict] = {}
        super().__init__(self._envs[0].spec, self._envs[0].max_steps, size)

    def _request(self, seat: int, request: dict) -> None:
        self._requests[seat] = request

    def wait(self, at_once: bool = False) -> list[tuple[int, StepResult | InputError]]:
        requests, self._requests = self._requests, {}
        return [(seat, self._answer(seat, request)) for seat, request in requests.items()]

    def _answer(self, seat: int, request: dict) -> StepResult | InputError:
        if seat not in self._envs:
            self._envs[seat] = self._open()
        try:
            return _view(self._envs[seat], request)
        except InputError as e:
            return e
        except EexpError:
            raise
        except Exception as e:  # what it held is not to be trusted: the next episode gets another
            self._envs.pop(seat).close()
            return unexpected_error(e)

    def close(self) -> None:
        while self._envs:
            self._envs.popitem()[1].close()


class WorkerEnvironments(ParallelEnvironments):
    """Each in a process of its own, started when its seat is first taken. limit, memory: as in `envs.crew.Supervisor`."""

    def __init__(self, spec: str, max_steps: int, size: int, limit: float, memory: int | None = None):
        super().__init__(spec, max_steps, size)
        self._supervisor = Supervisor(spec, limit, memory)
        self.counts = self._supervisor.counts
        self._workers: dict[int, Worker] = {}
        self._refused: list[tuple[int, StepResult | InputError | NoRoom]] = []

    def _request(self, seat: int, request: dict) -> None:
        try:
            job = dumps({"do": f"{__name__}:{_job.__name__}", "env": self.spec, **request})
        except InputError as e:
            self._refused.append((seat, e))
            return
        if seat not in self._workers:
            self._workers[seat] = self._supervisor.start_worker()
        self._workers[seat].give(job)

    def wait(self, at_once: bool = False) -> list[tuple[int, StepResult | InputError | NoRoom]]:
        answers, self._refused = self._refused, []
        told = self._supervisor.wait(at_once or bool(answers))
        seats = {worker: seat for seat, worker in self._workers.items()} if told else {}
        for worker, answer in told:
            if isinstance(answer, ChildFailed):
                del self._workers[seats[worker]]
                answers.append((seats[worker], EnvironmentLost(str(answer))))
            elif "done" in answer:
                said = answer["done"]
                answers.append((seats[worker], StepResult(Observation(**said.pop("observation")), **said)))
            elif isinstance(error := error_from_answer(answer), InputError | NoRoom):
                if isinstance(error, NoRoom):
                    self._supervisor.end_worker(self._workers.pop(seats[worker]))
                answers.append((seats[worker], error))
            else:
                raise error
        return answers

    def close(self) -> None:
        self._supervisor.close()
        self._workers.clear()


def _job(request: dict, opened: OpenEnvironments, on_step: Callable[[], None]) -> dict:
    """What a worker does for one request (eexp/workers/worker.py)."""
    view = _view(opened.get(request["env"]), request, on_step)
    observation = {name: getattr(view.observation, name) for name in Observation.__dataclass_fields__}
    return {**vars(view), "observation": observation}


def open_parallel(env: Environment, size: int, limit: float, memory: int | None = None) -> ParallelEnvironments:
    """ParallelEnvironments of the same kind as `env`, which itself is none of them."""
    if env.light:
        return LocalEnvironments(lambda: open_env(env.spec), size)
    return WorkerEnvironments(env.spec, env.max_steps, size, limit, memory)

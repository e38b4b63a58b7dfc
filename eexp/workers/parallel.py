"""Environments for many episodes at once: one environment for each episode that is being played.

`LocalEnvironments` holds them in this process, for environments that are light (eexp/envs/base.py).
`WorkerEnvironments` holds each in a process of its own, so that all of them step at the same time, and while a model
computes; one that crashes, hangs or grows costs only its episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from eexp.envs import OpenEnvironments, forking, open_env
from eexp.envs.base import STEP_LIMIT, Environment, Observation
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, unexpected_error
from eexp.records.jsonl import dumps
from eexp.system.child import ChildFailed, time_limit
from eexp.workers.base import WorkerHandle
from eexp.workers.executors import LOCAL, MOST_LIGHT, MOST_WORKERS, open_executor
from eexp.workers.jobs import error_from_answer, job_of


class EnvironmentLost(EnvironmentFailed):
    """Error for an episode whose environment's process died, hung or grew; it may succeed in another process."""


@dataclass
class StepResult:
    """The result of `begin`, `step` or `attempt`.

    Attributes:
        observation: What the environment answered.
        instruction: The task's instruction, after `begin` only.
        admissible: The admissible actions, if they were requested; None also where the episode is over.
        expert: The expert's action, if it was requested; None also where the episode is over.
        tried: Whether the action was only tried: the environment is where it was before.
    """

    observation: Observation
    instruction: str = ""
    admissible: list[str] | None = None
    expert: str | None = None
    tried: bool = False


class ParallelEnvironments(ABC):
    """Environments of the same kind, numbered from 0. Use as a context manager.

    Every `begin` and every `step` has one answer, which `wait` returns. Until then nothing more may be asked of that
    environment.

    Args:
        spec: The spec of the environments.
        max_steps: How many actions an episode may take.
        size: How many environments there may be.

    Attributes:
        counts: What went wrong, for the summary.
    """

    def __init__(self, spec: str, max_steps: int, size: int):
        self.spec, self.max_steps, self.size = spec, max_steps, size
        self.counts: Counter[str] = Counter()

    def begin(self, number: int, task: dict, ask: Collection[str] = ()) -> None:
        """Start a task from its beginning, whatever was played in this environment before.

        Args:
            number: The number of the environment.
            task: The task.
            ask: What to add to the result: any of "admissible" and "expert".
        """
        self._request(number, {"task": task, "ask": sorted(ask)})

    def step(self, number: int, action: str, ask: Collection[str] = ()) -> None:
        """Execute one action. The arguments are those of `begin`."""
        self._request(number, {"action": action, "ask": sorted(ask)})

    def attempt(self, number: int, action: str) -> None:
        """Execute one action in a fork, so that the environment stays where it is.

        The environment has to be one that can be forked (`forking.choose_way`).
        """
        self._request(number, {"attempt": action, "ask": []})

    @abstractmethod
    def _request(self, number: int, request: dict) -> None: ...

    @abstractmethod
    def wait(self, at_once: bool = False) -> list[tuple[int, StepResult | InputError | NoRoom]]:
        """Return the results there are, perhaps none yet: (number of the environment, its result or its error).

        An episode whose environment failed is over. One for which a server has no room (NoRoom) has not begun.

        Args:
            at_once: Do not wait for environments that have not answered.

        Raises:
            EexpError: No environment can be opened at all.
        """

    def close(self) -> None:
        """Release processes and memory. Safe to call twice."""

    def __enter__(self) -> ParallelEnvironments:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _no_callback() -> None:
    return None


def _execute(env: Environment, request: dict, on_step: Callable[[], None] = _no_callback) -> StepResult:
    """Carry out a request in an environment."""
    on_step()
    if "attempt" in request:
        with forking.executor(env, forking.choose_way(env), time_limit(STEP_LIMIT)) as execute:
            observation = execute(request["attempt"])
        if env.harmless(request["attempt"]):  # its answer may read differently from the observation before
            observation = replace(observation, changed=False)
        return StepResult(observation, tried=True)
    result = StepResult(env.reset(request["task"]) if "task" in request else env.step(request["action"]))
    if "task" in request:
        result.instruction = env.instruction()
    for method in request["ask"] if not result.observation.done else ():
        on_step()
        setattr(result, method, getattr(env, method)())
    return result


class LocalEnvironments(ParallelEnvironments):
    """Environments in this process, opened as they are needed. They step when they are waited for, one by one.

    Args:
        open: Opens an environment; it is called once for each.
        size: How many environments there may be.
    """

    def __init__(self, open: Callable[[], Environment], size: int):
        self._open, self._envs = open, {0: open()}
        self._requests: dict[int, dict] = {}
        super().__init__(self._envs[0].spec, self._envs[0].max_steps, size)

    def _request(self, number: int, request: dict) -> None:
        self._requests[number] = request

    def wait(self, at_once: bool = False) -> list[tuple[int, StepResult | InputError | NoRoom]]:
        requests, self._requests = self._requests, {}
        return [(number, self._answer(number, request)) for number, request in requests.items()]

    def _answer(self, number: int, request: dict) -> StepResult | InputError:
        if number not in self._envs:
            self._envs[number] = self._open()
        try:
            return _execute(self._envs[number], request)
        except InputError as e:
            return e
        except EexpError:
            raise
        except Exception as e:  # its state cannot be trusted: the next episode gets another environment
            self._envs.pop(number).close()
            return unexpected_error(e)

    def close(self) -> None:
        while self._envs:
            self._envs.popitem()[1].close()


class WorkerEnvironments(ParallelEnvironments):
    """Environments in worker processes, one in each, started as they are needed.

    Args:
        spec, max_steps: As for `ParallelEnvironments`.
        size, limit, memory: As for `Executor`.
        on: Where the workers run, as `--on` says it.
    """

    def __init__(
        self,
        spec: str,
        max_steps: int,
        size: int | None,
        limit: float,
        memory: int | None = None,
        on: str = LOCAL,
    ):
        self._executor = open_executor(on, size, spec, limit, memory)
        super().__init__(spec, max_steps, self._executor.size)
        self.counts = self._executor.counts
        self._workers: dict[int, WorkerHandle] = {}
        self._refused: list[tuple[int, StepResult | InputError | NoRoom]] = []

    def _request(self, number: int, request: dict) -> None:
        try:
            job = dumps(job_of(_job, env=self.spec, **request))
        except InputError as e:
            self._refused.append((number, e))
            return
        if number not in self._workers:
            self._workers[number] = self._executor.start_worker()
        self._workers[number].assign(job)

    def wait(self, at_once: bool = False) -> list[tuple[int, StepResult | InputError | NoRoom]]:
        results, self._refused = self._refused, []
        answers = self._executor.wait(at_once or bool(results))
        numbers = {worker: number for number, worker in self._workers.items()} if answers else {}
        for worker, answer in answers:
            number = numbers[worker]
            if isinstance(answer, ChildFailed):
                del self._workers[number]
                results.append((number, EnvironmentLost(str(answer))))
            elif "done" in answer:
                fields = answer["done"]
                results.append((number, StepResult(Observation(**fields.pop("observation")), **fields)))
            elif isinstance(error := error_from_answer(answer), InputError | NoRoom):
                if isinstance(error, NoRoom):
                    self._executor.end_worker(self._workers.pop(number))
                results.append((number, error))
            else:
                raise error
        return results

    def close(self) -> None:
        self._executor.close()
        self._workers.clear()


def _job(request: dict, environments: OpenEnvironments, on_step: Callable[[], None]) -> dict:
    """Carry out a request in a worker (eexp/workers/worker.py)."""
    result = _execute(environments.get(request["env"]), request, on_step)
    observation = {name: getattr(result.observation, name) for name in Observation.__dataclass_fields__}
    return {**vars(result), "observation": observation}


def open_parallel(
    env: Environment,
    size: int | None = None,
    limit: float = STEP_LIMIT,
    memory: int | None = None,
    on: str = LOCAL,
) -> ParallelEnvironments:
    """Return environments of the same kind as `env`, which is not one of them.

    Args:
        env: Decides the kind and, on this machine, whether they are in this process or in workers.
        size: How many there may be. By default MOST_LIGHT in this process, MOST_WORKERS in workers on this machine,
            elsewhere as many as suit the machines.
        limit: Seconds that a step in a worker may take.
        memory: Bytes that a worker may take, or None for no limit.
        on: Where the workers run, as `--on` says it.
    """
    if on == LOCAL:
        if env.light:
            return LocalEnvironments(lambda: open_env(env.spec), size or MOST_LIGHT)
        size = size or MOST_WORKERS
    return WorkerEnvironments(env.spec, env.max_steps, size, limit, memory, on)

"""Workers on a Ray cluster: the executor `ray`.

Each worker is an actor that holds one worker process, started, watched and ended as on this machine
(eexp/workers/supervisor.py). An actor that is lost, with its process or its node, costs its job an attempt, as a lost
worker process does; Ray starts it anew, elsewhere if need be. Ray retries no job by itself (max_task_retries=0).

An actor gets a job only once it has said that it has started. So no attempt is spent on one that is on its way, and one
for which the cluster has no room delays nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import orjson
import ray

from eexp import __version__
from eexp.envs import logins
from eexp.envs.spec_files import named_files
from eexp.errors import EexpError, NoRoom
from eexp.system.child import ChildFailed
from eexp.system.terminal import tell
from eexp.workers.base import Executor
from eexp.workers.jobs import answer_from_error
from eexp.workers.ray_cluster import RecordsOnly, end_own_cluster, init_quietly, own_cluster_ended, sigterm_as_ever
from eexp.workers.supervisor import GRACE, START, Supervisor

TICK = 0.5  # seconds: the longest wait in one call of Ray, which handles signals late
PAUSE = 0.2  # seconds until an actor that is being restarted is asked again
LONG = 30.0  # seconds without any worker until the user is told
PING_INTERVAL = 15.0  # seconds between two questions to a busy actor whether it is there
PING_LIMIT = 30.0  # seconds that it has for the answer
MOST_FILES = 100 << 20  # bytes of files that travel
MOST_STDERR = 1 << 16  # bytes of standard error that travel with an answer


class EnvironmentActor:
    """The actor: it holds one worker process. `start` comes first, in every process that Ray starts for it."""

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None
        self._performing = threading.Lock()  # held while a job is done
        self._stderr = tempfile.TemporaryFile("a+b", buffering=0)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def start(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Take in the settings of the command.

        Args:
            settings: As `RayActors` makes them.

        Returns:
            The node, the versions that run here, and the files of the spec that are not here.
        """
        self.close()
        directory = settings["directory"]
        if os.path.isdir(directory) and all(_stat(os.path.join(directory, n)) == s for n, s in settings["files"]):
            os.chdir(directory)  # the same as where the command runs: on its machine, or on a shared disk
        own = os.path.dirname(ray.__file__)  # whose copies of packages are not for others
        paths = settings["path"] if settings["prefix"] == sys.prefix else sys.path
        sys.path[:] = [path for path in paths if not path.startswith(own) and os.path.exists(path)]
        os.environ.update(settings["variables"])
        logins.adopt_logins(settings["logins"])
        self._supervisor = Supervisor(
            env=settings["env"], limit=settings["limit"], memory=settings["memory"], stderr=self._stderr.fileno()
        )
        return {
            "node": socket.gethostname(),
            "versions": _versions(),
            "missing": [name for name, _ in settings["files"] if not os.path.exists(name)],
        }

    def perform(self, job: bytes) -> tuple[bytes, bytes]:
        """Let the worker process do a job.

        Returns:
            Its answer, one line of JSON, and what it wrote to standard error. The answer is {"lost": reason, "part":
            part} if the process was lost.
        """
        with self._performing:
            supervisor = self._supervisor
            assert supervisor is not None
            worker = supervisor.free_worker()
            worker.assign(job)
            while not (answers := supervisor.wait()):
                pass
            ((worker, answer),) = answers
        lost = isinstance(answer, ChildFailed)
        line = orjson.dumps({"lost": str(answer), "part": answer.part}) if lost else worker.line
        return line, self._read_stderr()

    def _read_stderr(self) -> bytes:
        """Return the end of what the worker process has written to standard error since the last call."""
        size = os.fstat(self._stderr.fileno()).st_size
        if not size:
            return b""
        text = os.pread(self._stderr.fileno(), MOST_STDERR, max(0, size - MOST_STDERR))
        os.truncate(self._stderr.fileno(), 0)
        return text

    @ray.method(concurrency_group="control")
    def alive(self) -> None:
        """Answer, while a job is done."""

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """End the worker process, also while it does a job, which is lost then."""
        for worker in list(self._supervisor.workers) if self._supervisor else ():
            worker.child.terminate()
        if self._supervisor and self._performing.acquire(timeout=GRACE):
            self._supervisor.close()
            self._performing.release()


def _end_with_parent(parent: int) -> None:
    """End this process when Ray's daemon on this node, its parent, has ended, after which some actors stay forever."""
    while os.getppid() == parent:
        time.sleep(TICK)
    os._exit(1)


def _stat(path: str) -> tuple[int, int] | None:
    """Return size and time of change of a file; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns)


class RayWorker:
    """One actor, as its executor sees it.

    Attributes:
        actor: Its handle.
        ready: Whether it has started.
        busy: Whether it has a job and has not answered yet.
        task: What it was asked to do last, without an answer so far: to start, or the job.
        ping: The question whether it is there, while it is not answered.
        since: When it was started or got its job, or was last known to be there (`time.monotonic`).
    """

    def __init__(self, actor: Any):
        self.actor = actor
        self.ready = self.busy = False
        self.task: Any = None
        self.ping: Any = None
        self.since = time.monotonic()
        self.retry_at: float | None = None  # when to ask an actor that is being restarted again
        self._job = b""

    def start(self, settings: Any) -> None:
        """Ask the actor to start."""
        self.retry_at = None
        self.task = self.actor.start.remote(settings)

    def assign(self, job: bytes) -> None:
        self.busy, self.since = True, time.monotonic()
        if self.ready:
            self.task = self.actor.perform.remote(job)
        else:
            self._job = job

    def started(self) -> None:
        """Note that the actor has started, and send it the job that waits."""
        self.ready, self.task = True, None
        if self.busy:
            self.assign(self._job)


class RayActors(Executor):
    """Workers on a Ray cluster, one actor each.

    Args:
        address: The address of the cluster.
        is_own: Whether it was started on this machine, for this process.
        size: How many workers there may be; None for one a CPU of the cluster.
        env, limit, memory: As for `Executor`.
    """

    def __init__(self, address: str, is_own: bool, size: int | None, env: str | None, limit: float, memory: int | None):
        self.workers: list[RayWorker] = []
        self._is_own, self._had_workers = is_own, False
        self.counts: Counter[str] = Counter()
        self._spare: list[Any] = []  # actors whose worker process was lost, or that are being restarted
        files = named_files(env) if env else []
        self._stdout = sys.stdout
        self._connects = not ray.is_initialized()  # a program of Python may have connected already
        if self._connects:
            sys.stdout = RecordsOnly(sys.stdout)
            _connect(address, [] if is_own else files)
        cpus = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        self.size = size or max(1, int(sum(cpus)))
        share = 1.0 if is_own else _share(cpus, max(2, self.size))  # for audits there are two (eexp/workers/pool.py)
        group = {"concurrency_groups": {"control": 1}}
        self._actor_class = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=share, **group)(EnvironmentActor)
        self._warned = False
        self._settings = {
            "env": env,
            "limit": limit,
            "memory": memory,
            "directory": os.getcwd(),
            "files": [(name, _stat(name)) for name in files],
            "path": sys.path,
            "prefix": sys.prefix,
            "logins": logins.withheld_logins(),
            "variables": {name: value for name, value in os.environ.items() if name.startswith("EEXP_")},
        }

    def start_worker(self) -> RayWorker:
        actor = self._spare.pop() if self._spare else self._actor_class.remote()
        worker = RayWorker(actor)
        worker.start(self._settings)
        self.workers.append(worker)
        return worker

    def free_worker(self, n_waiting: int) -> RayWorker | None:
        free = next((worker for worker in self.workers if worker.ready and not worker.busy), None)
        if free is None:
            n_starting = sum(not worker.ready for worker in self.workers)
            for _ in range(min(n_waiting - n_starting, self.size - len(self.workers))):
                self.start_worker()
        return free

    def end_worker(self, worker: RayWorker) -> None:
        """End a worker for which a server or the cluster has no room."""
        self.workers.remove(worker)
        ray.kill(worker.actor)
        self.counts["worker[s] for which there was no room"] += 1

    def wait(self, at_once: bool = False) -> list[tuple[RayWorker, dict | ChildFailed]]:
        answers = []
        if self._has_ended():
            raise EexpError("--on ray: the cluster on this machine has ended; start the command again, with --resume")
        with sigterm_as_ever():
            for worker, task in self._finished_tasks(at_once):
                if task is worker.ping:
                    self._take_ping(worker)
                elif worker.ready:
                    answers.append((worker, self._take_answer(worker)))
                else:
                    self._take_start(worker)
            return answers + self._check_workers()

    def _has_ended(self) -> bool:
        """Return whether the cluster that was started for this process has ended; Ray would wait a minute for it."""
        return self._is_own and own_cluster_ended()

    def _finished_tasks(self, at_once: bool) -> list[tuple[RayWorker, Any]]:
        """Return (worker, task) for the tasks that are finished; waits for the first one, for TICK at most."""
        worker_of = {task: worker for worker in self.workers for task in (worker.task, worker.ping) if task is not None}
        limit = PAUSE if any(worker.retry_at for worker in self.workers) else TICK
        if not worker_of:
            time.sleep(0 if at_once else limit)
            return []
        tasks = list(worker_of)
        finished, _ = ray.wait(tasks, num_returns=1, timeout=0 if at_once else limit)
        if finished:
            finished, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [(worker_of[task], task) for task in finished]

    def _take_answer(self, worker: RayWorker) -> dict | ChildFailed:
        """Return the answer of a worker that has done its job; why it was lost if it has not."""
        task, worker.task = worker.task, None
        try:
            line, stderr = ray.get(task)
        except ray.exceptions.RayTaskError as e:
            raise EexpError(f"--on ray: {_cause(e)}") from None
        except ray.exceptions.RayError as e:
            return self._lose(worker, ChildFailed(_reason(e)), restart=not _is_dead(e))
        if stderr:
            sys.stderr.buffer.write(stderr)
            sys.stderr.flush()
        answer = orjson.loads(line)
        if "lost" in answer:
            failure = ChildFailed(answer["lost"])
            failure.part = answer["part"]
            return self._lose(worker, failure)
        worker.busy = False
        return answer

    def _lose(self, worker: RayWorker, failure: ChildFailed, restart: bool = False) -> ChildFailed:
        """Leave a worker whose process or actor was lost; its actor is used again.

        Args:
            worker: The worker.
            failure: Why it was lost.
            restart: Whether to end the actor's process, whatever it does, so that Ray starts another.
        """
        if restart:
            ray.kill(worker.actor, no_restart=False)
        self.workers.remove(worker)
        self._spare.append(worker.actor)
        self.counts["worker[s] lost"] += 1
        return failure

    def _take_start(self, worker: RayWorker) -> None:
        """Take in that an actor has started, or ask again if it is still being restarted."""
        task, worker.task = worker.task, None
        try:
            hello = ray.get(task)
        except ray.exceptions.RayTaskError as e:
            raise EexpError(f"--on ray: {_cause(e)}") from None
        except ray.exceptions.RayActorError as e:
            if getattr(e, "actor_init_failed", False):
                raise EexpError(f"--on ray: no worker could be started: {_reason(e)}") from None
            worker.retry_at = time.monotonic() + PAUSE
            return
        except ray.exceptions.RayError as e:
            raise EexpError(f"--on ray: no worker could be started: {_reason(e)}") from None
        for name, version in _versions().items():
            if hello["versions"][name] != version:
                raise EexpError(
                    f"--on ray: {name} {version} here and {hello['versions'][name]} on {hello['node']}: "
                    "the same version has to be installed everywhere"
                )
        if hello["missing"]:
            raise EexpError(
                f"--on ray: {hello['node']} has no {hello['missing'][0]}, which {self._settings['env']!r} names: put "
                "it there, or into the working directory here and name it relative to that, so that it travels"
            )
        worker.started()
        self._had_workers = True

    def _take_ping(self, worker: RayWorker) -> None:
        """Note that an actor is there. If it is not, its job tells."""
        worker.ping, worker.since = None, time.monotonic()

    def _check_workers(self) -> list[tuple[RayWorker, dict | ChildFailed]]:
        """Ask actors that are restarted or busy whether they are there; return those that are not, or have no room."""
        now = time.monotonic()
        answers: list[tuple[RayWorker, dict | ChildFailed]] = []
        if not self._warned and self.workers and not self._any_ready() and now - self.workers[0].since > LONG:
            self._warned = True
            state = "no worker is left" if self._had_workers else "no worker has started so far"
            tell(f"--on ray: {state}; waiting until the cluster has room for one")
        for worker in list(self.workers):
            if worker.retry_at and now > worker.retry_at:
                worker.start(self._settings)
            elif worker.ready and worker.busy and worker.ping is None and now - worker.since > PING_INTERVAL:
                worker.ping, worker.since = worker.actor.alive.remote(), now
            elif worker.ping is not None and now - worker.since > PING_LIMIT:
                answers.append((worker, self._replace(worker)))
            elif worker.busy and not worker.ready and now - worker.since > START and self._any_ready():
                worker.busy = False
                answers.append((worker, answer_from_error(NoRoom("the cluster has no room for another worker"))))
        return answers

    def _any_ready(self) -> bool:
        return any(worker.ready for worker in self.workers)

    def _replace(self, worker: RayWorker) -> ChildFailed:
        """Give up an actor that does not react any more, and let another take its place."""
        ray.kill(worker.actor)
        failure = self._lose(worker, ChildFailed(f"its Ray actor gave no sign of life for {PING_LIMIT:g} s"))
        self._spare.remove(worker.actor)
        return failure

    def close(self) -> None:
        has_ended = self._has_ended()
        actors = [] if has_ended else [worker.actor for worker in self.workers] + self._spare
        closed = [] if has_ended else [worker.actor.close.remote() for worker in self.workers if worker.ready]
        self.workers, self._spare = [], []
        if closed:
            ray.wait(closed, num_returns=len(closed), timeout=GRACE + TICK)
        for actor in actors:
            ray.kill(actor)
        if self._connects:
            self._connects = False
            ray.shutdown()
            sys.stdout = self._stdout
        if has_ended:
            end_own_cluster()


def _connect(address: str, files: list[str]) -> None:
    """Connect this process to a cluster, which gets the files."""
    directory = _pack(files)
    try:
        init_quietly(address=address, runtime_env={"working_dir": directory} if directory else None)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as e:
        raise EexpError(f"--on ray: no connection to {address}: {' '.join(str(e).split())}") from None
    finally:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


def _versions() -> dict[str, str]:
    """Return the versions that have to be the same everywhere; Ray compares its own."""
    return {"eexp": __version__, "Python": sys.version.split()[0]}


def _pack(files: list[str]) -> str | None:
    """Return a new directory with those of the files that lie below the working directory; None for none.

    They are further names of the same files where the file system allows, and copies elsewhere.
    """
    below = [name for name in files if not os.path.isabs(name) and name.partition(os.sep)[0] != os.pardir]
    if not below or sum(_size(name) for name in below) > MOST_FILES:
        return None
    directory = tempfile.mkdtemp(prefix="eexp-files-")
    for name in below:
        target = os.path.join(directory, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(name):
            shutil.copytree(name, target, copy_function=_link, dirs_exist_ok=True)
        else:
            _link(name, target)
    return directory


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _size(path: str) -> int:
    """Return the bytes of a file or of all files in a directory."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names)


def _share(cpus: list[float], n: int) -> float:
    """Return how many CPUs each of `n` actors may ask for so that nodes with so many CPUs hold them all; 1 at most."""
    share = 1.0
    while share > 1e-4 and sum(int(cpu / share + 1e-9) for cpu in cpus) < n:
        share *= 0.9
    return round(share, 4)


def _is_dead(error: Exception) -> bool:
    return isinstance(error, ray.exceptions.ActorDiedError)


def _reason(error: Exception) -> str:
    """Return why an actor was lost, in one line."""
    words = " ".join(str(error).split())
    if "No module named 'eexp" in words:
        return "eexp is not installed there; it has to be on every machine of the cluster"
    _, _, cause = words.partition("The actor is dead because ")
    return f"its Ray actor was lost: {cause or words}"


def _cause(error: Any) -> str:
    """Return the exception that a method of an actor raised, in one line."""
    cause = error.cause
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"

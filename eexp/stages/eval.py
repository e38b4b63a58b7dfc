"""`eexp eval`: play tasks, one episode record each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing

import click

from eexp import options
from eexp.envs.base import Environment, Observation
from eexp.errors import InputError, NoRoom, UsageError
from eexp.models.policy import Choice, Players, Policy, Proposal, Proposals, State
from eexp.records import seed_of, succeeded
from eexp.stream import OnError, stop_at_error
from eexp.workers.crew import TRIES, failed
from eexp.workers.parallel import View, WorldLost, Worlds

#: How far an episode may be ahead of the first that is not over, in times those that are played at once: what is
#: finished is held back until its turn.
AHEAD = 4


def panel(env: Environment, split: str, n: int | None, skip: int = 0) -> list[dict]:
    """`n` tasks of a split, after the first `skip`, in the order of a hash of their ids (`evidence.panels.draw`).

    So a panel of 100 is part of the panel of 200, is the same on every machine, and mixes kinds of task that the split
    lists one after another.
    """
    from eexp.evidence.panels import draw

    return draw(env.tasks(split), None if n is None else skip + n)[skip:]


def evaluate(
    worlds: Worlds,
    tasks: Iterable[tuple[dict, int]],
    policy: Policy,
    *,
    temperature: float = 0.0,
    max_steps: int | None = None,
    seed: int = 0,
    only_admissible: bool = False,
    on_error: OnError = stop_at_error,
    kinds: Mapping[str, str | None] | None = None,
    panel_hash: str | None = None,
) -> Iterator[dict]:
    """Play each (task, trial) once and yield its episode, in their order; as many at once as there are `worlds`.

    temperature 0 is greedy. An episode ends when the environment says so or after `max_steps` actions (the
    environment's own limit if None). only_admissible: the policy can write nothing but an admissible action.
    How many are played at once, and how long each takes, changes nothing in what is yielded, nor its order.
    kinds: kinds of tasks by id, and panel_hash: the hash of the panel that the tasks are; both go into the episodes.
    """
    line: deque[_Episode] = deque()  # begun and not yet yielded, in order
    coming, more = iter(tasks), True
    with closing(policy.players(worlds.size)) as players:
        table = _Table(worlds, policy, players, temperature, max_steps or worlds.max_steps, seed, only_admissible)
        while more or line:
            while more and table.free and len(line) < AHEAD * worlds.size:
                found = next(coming, None)
                more = found is not None
                if found:
                    line.append(_Episode(worlds.spec, *found, (kinds or {}).get(found[0]["id"]), panel_hash))
                    table.sit_down(line[-1])
            table.go_on()
            while line and line[0].result is not None:
                episode = line.popleft()
                if isinstance(episode.result, InputError):
                    on_error({"type": "task", "id": episode.name, "task": episode.task}, episode.result)
                else:
                    yield episode.result


def episode_id(spec: str, task: dict, trial: int) -> str:
    """Identifies an episode among those of one run."""
    return f"{spec}/{task['id']}/{trial}"


class _Episode:
    """One being played. `action` is on its way to the environment; `result` is there once the episode is over."""

    def __init__(self, spec: str, task: dict, trial: int, kind: str | None, panel_hash: str | None):
        self.kind, self.panel_hash = kind, panel_hash
        self.spec, self.task, self.trial, self.name = spec, task, trial, episode_id(spec, task, trial)
        self.tries = 0
        self.result: dict | InputError | None = None
        self.start()

    def start(self) -> None:
        """From the beginning, for the first time or again."""
        self.tries += 1
        self.instruction, self.transcript = "", []
        self.seen: Observation | None = None
        self.action: Proposal | None = None

    def see(self, view: View) -> None:
        """Take in what the environment shows."""
        if self.action is None:
            self.instruction = view.instruction
        else:
            proposal = self.action
            turn = {
                "observation": self.seen.text,
                "action": proposal.action,
                "valid": view.seen.valid and not proposal.cut_off,
            }
            if proposal.text is not None and proposal.text.strip() != proposal.action:
                turn["text"] = proposal.text
            turn |= {"thought": proposal.thought} if proposal.thought else {}
            turn |= {"cut_off": True} if proposal.cut_off else {}
            self.transcript.append(turn)
        self.seen, self.action = view.seen, None

    def record(self, policy: Policy) -> dict:
        """As it is written."""
        seen, task, transcript = self.seen, self.task, self.transcript
        made = {
            "type": "episode",
            "id": self.name,
            "env": self.spec,
            "task": task,
            "split": task.get("split"),
            **({} if self.kind is None else {"kind": self.kind}),
            **({} if self.panel_hash is None else {"panel": self.panel_hash}),
            "seed": self.trial,
            "success": succeeded(seen.outcome()),
            "score": seen.score,
            "steps": len(transcript),
            "invalid": sum(not t["valid"] for t in transcript),
            "thoughts": sum("thought" in t for t in transcript),
            "cut_off": sum("cut_off" in t for t in transcript),
        }
        return {
            **made,
            "model": policy.fingerprint,
            "prompt_style": policy.style_label,
            "instruction": self.instruction,
            "transcript": transcript,
            "final": seen.text,
        }


class _Table:
    """The episodes that are being played, one at each seat."""

    def __init__(
        self,
        worlds: Worlds,
        policy: Policy,
        players: Players,
        temperature: float,
        max_steps: int,
        seed: int,
        only_admissible: bool,
    ):
        self.worlds, self.policy, self.players = worlds, policy, players
        self.temperature, self.max_steps, self.seed = temperature, max_steps, seed
        self.only_admissible = only_admissible
        self.ask = policy.needs | ({"admissible"} if only_admissible else set())
        self.free = list(range(min(worlds.size, players.n)))[::-1]
        self._n_seats = len(self.free)
        self._displaced: deque[_Episode] = deque()  # begun at a seat that there turned out to be no room for
        self._episodes: dict[int, _Episode] = {}
        self._thinking = 0  # players whose next action the policy owes us

    def sit_down(self, episode: _Episode) -> None:
        """Begin an episode at a free seat."""
        seat = self.free.pop()
        self._episodes[seat] = episode
        self.worlds.begin(seat, episode.task, self.ask)

    def go_on(self) -> None:
        """Show what environments have answered to the policy, and carry out what it has decided.

        Waits for the environments only where the policy has nothing to do meanwhile.
        """
        for seat, view in self.worlds.wait(at_once=self._thinking > 0):
            self._show(seat, view)
        for seat, proposals in self.players.wait():
            self._thinking -= 1
            self._act(seat, proposals)

    def _show(self, seat: int, view: View | InputError | NoRoom) -> None:
        if isinstance(view, NoRoom):
            self._give_up(seat, view)
            return
        episode = self._episodes[seat]
        if isinstance(view, WorldLost):
            if episode.tries < TRIES:
                episode.start()
                self.worlds.begin(seat, episode.task, self.ask)
                return
            played = [t["action"] for t in episode.transcript] + ([episode.action.action] if episode.action else [])
            view = failed(str(view), {"actions": played})
        if isinstance(view, InputError):
            self._finish(seat, view)
            return
        episode.see(view)
        step = len(episode.transcript)
        if view.seen.done or step >= self.max_steps:
            self._finish(seat, episode.record(self.policy))
            return
        state = State(episode.instruction, episode.transcript, view.seen.text, view.admissible, view.expert)
        choice = Choice(
            state, 1, self.temperature, seed_of(self.seed, episode.name, step), only_admissible=self.only_admissible
        )
        try:
            self.players.submit(seat, choice)
        except InputError as e:
            self._finish(seat, e)
        else:
            self._thinking += 1

    def _act(self, seat: int, proposals: Proposals) -> None:
        if isinstance(proposals, InputError):
            self._finish(seat, proposals)
            return
        episode = self._episodes[seat]
        episode.action = proposals[0]
        last = len(episode.transcript) + 1 >= self.max_steps
        self.worlds.step(seat, episode.action.action, () if last else self.ask)

    def _finish(self, seat: int, result: dict | InputError) -> None:
        self._episodes.pop(seat).result = result
        self.free.append(seat)
        if self._displaced:
            self.sit_down(self._displaced.popleft())

    def _give_up(self, seat: int, error: NoRoom) -> None:
        """Leave a seat that a server has no room for; another takes its episode. Raises the error at the last seat."""
        if self._n_seats == 1:
            raise error
        self._n_seats -= 1
        self._displaced.append(self._episodes.pop(seat))
        if self.free:
            self.sit_down(self._displaced.popleft())


def _not_done(spec: str, tasks: list[dict], trials: int, done: Callable[[str], bool]) -> Iterator[tuple]:
    for trial in range(trials):
        for task in tasks:
            if not done(episode_id(spec, task, trial)):
                yield task, trial


def _kind(world: Environment, task: dict) -> str | None:
    """Return the kind of a task; None for one that the environment does not know, which fails when it is played."""
    try:
        return world.kind_of(task)
    except InputError:
        return None


def _read_panel(file: str, env: str | None) -> tuple[str, list[dict], str]:
    """Return the environment to play in, a panel's tasks and its hash.

    The panel of an environment may be played with noise on what is seen (`noisy:P:ENV`): the tasks are the same.

    Raises UsageError for a panel of an environment that the command line has to name: a panel may come from anywhere.
    """
    from eexp.envs import why_not_from_records
    from eexp.envs.logins import public
    from eexp.evidence.panels import panel_hash, task_record, tasks_of
    from eexp.jsonl import read

    known, tasks = tasks_of(file, read([file], "task"), env)
    if env is None and (why_not := why_not_from_records(known := public(known))):
        raise UsageError(
            f"{file}: a panel of {known!r}, which {why_not}; allow it by naming it: eexp eval {known!r} --panel {file}"
        )
    return env or known, tasks, panel_hash(task_record(known, task) for task in tasks)


@click.command("eval")
@click.argument(
    "env", type=options.ENV, metavar="[ENV]", required=False, envvar="EEXP_ENV", shell_complete=options.complete_env
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many tasks.  [default: all of the split or panel]",
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Pass over that many tasks first, so that several machines can share the play.",
)
@click.option("--split", metavar="NAME", help="Which tasks.  [default: test]")
@click.option(
    "--panel",
    "panel_file",
    type=options.PATH,
    metavar="FILE",
    help="Play the tasks of this panel, made by `eexp panel`; it names its environment.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Episodes a task; more than one makes sense at a temperature above 0.",
)
@options.model(
    "Who plays; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
    max_tokens=None,
    temperature=0.0,
    room="what the model was trained to write; else 128, or 1024 with a thought",
)
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Longest episode, in actions.  [default: the environment's]",
)
@options.prompt_style(options.STYLE_OF_MODEL)
@options.think("auto")
@click.option("--only-admissible", is_flag=True, help="Let the policy write nothing but an admissible action.")
@options.seed
@options.worlds
@options.streams(resume=True)
def command(
    env,
    number,
    skip,
    split,
    panel_file,
    trials,
    model,
    temperature,
    max_tokens,
    engine,
    max_steps,
    prompt_style,
    think,
    only_admissible,
    seed,
    open_worlds,
    stream,
) -> None:
    """Play tasks with a model and record the episodes.

    The tasks are a fixed panel: those of the split in the order of a hash of their ids, so -n 100 is a part of -n 200.
    With --panel they are those of a file, and every episode carries the panel's hash. -n 50 and --skip 50 -n 50, on two
    machines, play what -n 100 plays.
    Prompt, thoughts and room for an answer are those that the model was trained with, unless told otherwise. A text
    that is cut off before its action is an invalid action. `eexp --help` lists what ENV may be.

    Many episodes are played at once; their number changes nothing in the output, unless rounding tips the scales
    between two tokens. Environments other than house, bfcl and babyai live in processes of their own, one an episode.
    One that crashes, hangs or grows costs a retry; a task that fails three times is a bad record.

    \b
    Example:
      eexp eval house -m random -n 20 --split test > episodes.jsonl
    """
    from tqdm import tqdm

    from eexp.envs import open_env

    stream.stage = "eval"
    named_tasks, panel_hash = None, None
    if panel_file is not None:
        if split is not None:
            raise click.UsageError("--panel says which tasks; leave out --split")
        env, named_tasks, panel_hash = _read_panel(panel_file, env)
        named_tasks = named_tasks[skip : None if number is None else skip + number]
    elif env is None:
        raise click.UsageError("Missing argument 'ENV', or --panel FILE")
    else:
        split = split or "test"
    with open_env(env) as world:
        if named_tasks is None:
            world.check_split(split)
        tasks = panel(world, split, number, skip) if named_tasks is None else named_tasks
        longest = max_steps or world.max_steps
        kinds = {task["id"]: _kind(world, task) for task in tasks}
    policy = options.open_policy(model, prompt_style, max_tokens, stream.note, engine, think)
    which = split or f"panel {panel_hash} of {len(tasks)} tasks"
    stream.note(
        f"{env} {which}, model {policy.fingerprint}, prompt style {policy.style_label or 'none'}, "
        f"thoughts {policy.think}, temperature {temperature:g}, at most {longest} steps"
    )
    if only_admissible and policy.think != "never":
        raise click.UsageError("--only-admissible leaves no room for a thought; give --think never")
    io = stream.open(
        "eval",
        None,
        env=env,
        split=split,
        panel=panel_hash,
        model=policy.fingerprint,
        prompt_style=policy.style_label,
        temperature=temperature,
        max_tokens=policy.max_tokens,
        think=policy.think,
        max_steps=longest,
        seed=seed,
        only_admissible=only_admissible or None,
    )
    if not tasks:
        stream.note(f"no tasks left after the first {skip}")
    with io, closing(policy), open_worlds(world, len(tasks) * trials) as worlds:
        made = evaluate(
            worlds,
            _not_done(env, tasks, trials, io.done),
            policy,
            temperature=temperature,
            max_steps=longest,
            seed=seed,
            only_admissible=only_admissible,
            on_error=io.fail,
            kinds=kinds,
            panel_hash=panel_hash,
        )
        with closing(made):
            for episode in tqdm(made, total=len(tasks) * trials, disable=None, unit="episode", leave=False):
                io.write(episode)
                io.count("successes", int(episode["success"]))
                io.count("invalid actions", episode["invalid"])
                io.count("turns", episode["steps"])
                io.count("turns with a thought", episode["thoughts"])
                io.count("turns cut off", episode["cut_off"])
        io.counts.update(worlds.counts)
        io.counts.update(policy.counts)

"""Play episodes with a policy, many of them at once: the environments work while the model does."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing

from eexp.acting.recall import Memory, imagined_ids, shown
from eexp.acting.settings import EvalSettings
from eexp.envs.base import Environment, Observation
from eexp.errors import InputError, NoRoom, PromptTooLong
from eexp.models.base import Samples
from eexp.models.policy import ActionDraw, Episodes, Policy, Proposal, Proposals, State
from eexp.models.predictor import Predictor
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.equality import action_form
from eexp.records.imagination import is_imagined
from eexp.records.outcomes import TRANSITIONS, transition_of
from eexp.records.record import seed_of, succeeded
from eexp.workers.parallel import EnvironmentLost, ParallelEnvironments, StepResult
from eexp.workers.supervisor import TRIES, repeated_failure

#: How many episodes may be begun and not yet yielded, as a multiple of those that are played at once: an episode that
#: is over is held back until all before it are.
AHEAD = 4
OUTGREW = "episode[s] ended because the prompt outgrew the model's context"
JUDGED = "action[s] judged by the world model"
WITHOUT_VERDICT = "of them without a verdict"
_IDLE = ("invalid", "unchanged")  # transitions that lead nowhere


def panel(env: Environment, split: str, n: int | None, skip: int = 0) -> list[dict]:
    """Return `n` tasks of a split, after the first `skip`, in the order of a hash of their ids.

    So a panel of 100 is part of the panel of 200, is the same on every machine, and mixes kinds of task that the split
    lists one after another (`task_names.draw`).
    """
    from eexp.envs.task_names import draw

    return draw(env.list_tasks(split), None if n is None else skip + n)[skip:]


def episode_id(spec: str, task: dict, trial: int) -> str:
    """Return the id of an episode, which tells it from the others of one run."""
    return f"{spec}/{task['id']}/{trial}"


def evaluate(
    worlds: ParallelEnvironments,
    tasks: Iterable[tuple[dict, int]],
    policy: Policy,
    settings: EvalSettings | None = None,
    *,
    kinds: Mapping[str, str | None] | None = None,
    panel_hash: str | None = None,
    predictor: Predictor | None = None,
    memory: Memory | None = None,
    on_error: OnError = stop_at_error,
) -> Generator[dict, None, None]:
    """Play each (task, trial) once and yield its episode, in their order.

    As many are played at once as there are environments. How many that are, and how long each takes, changes nothing in
    the episodes, nor their order.

    Args:
        tasks: The tasks, each with the number of its trial.
        settings: How. An episode ends when the environment says so, or after `max_steps` actions.
        kinds: Kinds of tasks by id, for the episodes.
        panel_hash: The hash of the panel that the tasks are, for the episodes.
        predictor: Says what actions would lead to, with `settings.look_ahead`; None tries them in forks.
        memory: Past episodes, `settings.recall_count` of which are shown before the state; None shows none.
        on_error: Called with a task that cannot be played.
    """
    kinds = kinds or {}
    begun = (
        PlayedEpisode(worlds.spec, task, trial, kind=kinds.get(task["id"]), panel_hash=panel_hash)
        for task, trial in tasks
    )
    with closing(play(worlds, begun, policy, settings or EvalSettings(), predictor, memory)) as episodes:
        for episode in episodes:
            if isinstance(episode.result, InputError):
                on_error({"type": "task", "id": episode.id, "task": episode.task}, episode.result)
            elif episode.result:
                yield episode.result


class PlayedEpisode:
    """An episode that is being played.

    Args:
        trial: The number of the episode among those of its task.
        kind, panel_hash: The kind of the task and the hash of its panel, for the record.
        beginning: Actions that are taken before the policy is asked for one.
        max_steps: Longest episode in actions, the beginning's included; None for that of the settings.

    Attributes:
        id: Seeds the policy's draws.
        action: The action that the environment executes; None while there is none.
        result: Its record, or the error that ended it, once it is over.
    """

    def __init__(
        self,
        spec: str,
        task: dict,
        trial: int = 0,
        *,
        kind: str | None = None,
        panel_hash: str | None = None,
        beginning: Sequence[str] = (),
        max_steps: int | None = None,
    ):
        self.kind, self.panel_hash = kind, panel_hash
        self.spec, self.task, self.trial, self.id = spec, task, trial, episode_id(spec, task, trial)
        self.beginning, self.max_steps = beginning, max_steps
        self.tries = 0
        self.result: dict | InputError | None = None
        self.state: State | None = None  # in which the policy decides
        self.start()

    def start(self) -> None:
        """Begin at the task's beginning, for the first time or again."""
        self.tries += 1
        self.instruction = ""
        self.tools: list[dict] | None = None  # offered at the beginning
        self.offered: list[dict] | None = None  # offered now
        self.transcript: list[dict] = []
        self.observation: Observation | None = None
        self.action: Proposal | None = None
        self.tried: list[Proposal] = []  # in the current state, with --look-ahead; the last one perhaps in flight
        self.verdicts: list[str] = []  # of the world model, on those that were tried
        self.expected: str | None = None  # its verdict on the action that is executed
        self.draws = 0  # in the current state
        self.recalled: list[dict] = []
        self.listed: list[str] | None = None  # in the prompt of the action

    def observe(self, view: StepResult) -> None:
        """Take in the environment's answer to the reset or to the action."""
        if self.action is None or self.observation is None:
            self.instruction, self.tools = view.instruction, view.observation.tools
        else:
            proposal = self.action
            turn = {
                "observation": self.observation.text,
                "action": proposal.action,
                "valid": view.observation.valid and not proposal.cut_off,
            }
            if proposal.text is not None and proposal.text.strip() != proposal.action:
                turn["text"] = proposal.text
            turn |= {"thought": proposal.thought} if proposal.thought else {}
            turn |= {"cut_off": True} if proposal.cut_off else {}
            turn |= {"tools": self.observation.tools} if self.transcript and self.observation.tools is not None else {}
            turn |= {"admissible": self.listed} if self.listed is not None else {}
            turn |= {"interface": self.observation.interface} if self.observation.interface is not None else {}
            turn |= {"imagined": self.observation.imagined} if self.observation.imagined is not None else {}
            self.transcript.append(turn)
        self.observation, self.action, self.listed = view.observation, None, None
        self.tried, self.draws, self.verdicts, self.expected = [], 0, [], None
        self.offered = self.offered if view.observation.tools is None else view.observation.tools

    def record(self, policy: Policy) -> dict:
        """Return the record of an episode that is over."""
        last, task, transcript = self.observation, self.task, self.transcript
        assert last is not None
        return {
            "type": "episode",
            "id": self.id,
            "env": self.spec,
            "task": task,
            "split": task.get("split"),
            **({} if self.kind is None else {"kind": self.kind}),
            **({} if self.panel_hash is None else {"panel": self.panel_hash}),
            "seed": self.trial,
            "success": None if is_imagined(self.spec) else succeeded(last.outcome()),
            "score": last.score,
            "steps": len(transcript),
            "invalid": sum(not t["valid"] for t in transcript),
            "thoughts": sum("thought" in t for t in transcript),
            "cut_off": sum("cut_off" in t for t in transcript),
            "model": policy.fingerprint,
            "prompt_style": policy.style_label,
            "instruction": self.instruction,
            **({} if self.tools is None else {"tools": self.tools}),
            **({"recalled": [record["id"] for record in self.recalled]} if self.recalled else {}),
            **({"recalled_imagined": imagined} if (imagined := imagined_ids(self.recalled)) else {}),
            "transcript": transcript,
            "final": last.text,
        }


class ParallelPlay:
    """The episodes that are being played.

    Each has a number, from 0, by which the environments and the policy know it; an episode that is over leaves its
    number to another.
    """

    def __init__(
        self,
        worlds: ParallelEnvironments,
        policy: Policy,
        players: Episodes,
        settings: EvalSettings,
        predictor: Predictor | None = None,
        predictions: Episodes | None = None,
        memory: Memory | None = None,
    ):
        self.worlds, self.policy, self.players, self.settings = worlds, policy, players, settings
        self.predictor, self.predictions, self.memory = predictor, predictions, memory
        self.max_steps = settings.max_steps or worlds.max_steps
        self.needs = policy.needs | ({"admissible"} if settings.only_admissible else set())
        sizes = [worlds.size, players.n, *([predictions.n] if predictions else [])]
        self.free = list(range(min(sizes)))[::-1]
        self._size = len(self.free)
        self._waiting: deque[PlayedEpisode] = deque()  # for which a server turned out to have no room
        self._episodes: dict[int, PlayedEpisode] = {}
        self._n_undecided = 0  # episodes that wait for the policy

    def begin(self, episode: PlayedEpisode) -> None:
        """Begin an episode under a free number."""
        number = self.free.pop()
        self._episodes[number] = episode
        self._reset(number, episode)

    def _reset(self, number: int, episode: PlayedEpisode) -> None:
        self.worlds.begin(number, episode.task, () if episode.beginning else self.needs)

    def advance(self) -> None:
        """Give the environments' answers to the policy, and the policy's actions to the environments.

        Waits for the environments only where the policy has nothing to do meanwhile.
        """
        for number, view in self.worlds.wait(at_once=self._n_undecided > 0):
            self._observe(number, view)
        for number, proposals in self.players.wait():
            self._n_undecided -= 1
            self._act(number, proposals)
        for number, answer in self.predictions.wait() if self.predictions else []:
            self._n_undecided -= 1
            self._believe(number, answer)

    def _observe(self, number: int, view: StepResult | InputError | NoRoom) -> None:
        if isinstance(view, NoRoom):
            self._give_up(number, view)
            return
        episode = self._episodes[number]
        if isinstance(view, EnvironmentLost):
            if episode.tries < TRIES:
                episode.start()
                self._reset(number, episode)
                return
            actions = [t["action"] for t in episode.transcript] + ([episode.action.action] if episode.action else [])
            view = repeated_failure(str(view), {"actions": actions})
        if isinstance(view, InputError):
            self._finish(number, view)
            return
        if view.tried:
            self._judge(number, view.observation)
            return
        if episode.expected in TRANSITIONS and episode.observation:
            is_idle = transition_of(episode.observation.text, view.observation.outcome()) in _IDLE
            self.worlds.counts["verdict[s] on actions that were taken"] += 1
            self.worlds.counts["of them came true"] += is_idle == (episode.expected in _IDLE)
        episode.observe(view)
        step = len(episode.transcript)
        if step == 0 and self.memory:
            text = view.observation.text
            episode.recalled = self.memory.recall(episode.task, episode.instruction, text, self.settings.recall_count)
        if view.observation.done or step >= (episode.max_steps or self.max_steps):
            self._finish(number, episode.record(self.policy))
            return
        if step < len(episode.beginning):
            self._take(number, Proposal(episode.beginning[step]))
            return
        episode.state = State(
            episode.instruction,
            episode.transcript,
            view.observation.text,
            view.admissible,
            view.expert,
            episode.offered,
            shown(episode.recalled),
        )
        if self.policy.lists_admissible:
            episode.listed = view.admissible
        self._ask(number, self.settings.temperature, seed_of(self.settings.seed, episode.id, step))

    def _ask(self, number: int, temperature: float, seed: int) -> None:
        """Ask the policy for an action in the state of an episode."""
        episode = self._episodes[number]
        assert episode.state is not None
        draw = ActionDraw(
            episode.state, n=1, temperature=temperature, seed=seed, only_admissible=self.settings.only_admissible
        )
        episode.draws += 1
        try:
            self.players.submit(number, draw)
        except InputError as e:
            self._end_without_action(number, e)
        else:
            self._n_undecided += 1

    def _act(self, number: int, proposals: Proposals) -> None:
        if isinstance(proposals, InputError):
            self._end_without_action(number, proposals)
            return
        (proposal,) = proposals
        if not self.settings.look_ahead:
            self._take(number, proposal)
            return
        episode = self._episodes[number]
        form = action_form({"env": episode.spec, "tools": episode.tools})
        if any(form(proposal.action) == form(one.action) for one in episode.tried):
            self._look_further(number)
            return
        episode.tried.append(proposal)
        if self.predictor and self.predictions:
            assert episode.state is not None
            self.predictions.submit(number, self.predictor.request(episode.state, proposal.action))
            self._n_undecided += 1
            return
        self.worlds.counts["action[s] tried in a fork"] += 1
        self.worlds.attempt(number, proposal.action)

    def _judge(self, number: int, observation: Observation) -> None:
        """Take the action that was tried last if it led to anything; else look for another one."""
        episode = self._episodes[number]
        assert episode.observation is not None
        outcome = observation.outcome()
        transition = transition_of(episode.observation.text, outcome)
        self._choose(number, succeeded(outcome) or transition == "changed")

    def _believe(self, number: int, answer: Samples) -> None:
        """Take the action that was tried last if the world model expects anything of it; else look for another one."""
        assert self.predictor is not None
        verdict = self.predictor.verdict(answer)
        self._episodes[number].verdicts.append(verdict)
        self.worlds.counts[JUDGED] += 1
        self.worlds.counts[WITHOUT_VERDICT] += verdict not in TRANSITIONS
        self._choose(number, verdict not in _IDLE)

    def _choose(self, number: int, is_good: bool) -> None:
        """Take the action that was tried last, or look for another one."""
        episode = self._episodes[number]
        if is_good:
            self.worlds.counts["action[s] replaced after they were tried"] += len(episode.tried) > 1
            self._take(number, episode.tried[-1])
        else:
            self._look_further(number)

    def _look_further(self, number: int) -> None:
        """Draw another action; once there were as many as allowed, take the first one."""
        episode = self._episodes[number]
        if episode.draws >= (self.settings.look_ahead or 1):
            self._take(number, episode.tried[0])
            return
        step = len(episode.transcript)
        self._ask(number, 1.0, seed_of(self.settings.seed, episode.id, step, "look-ahead", episode.draws))

    def _take(self, number: int, proposal: Proposal) -> None:
        """Have the environment execute an action, and list what the policy needs after it."""
        episode = self._episodes[number]
        episode.action = proposal
        episode.expected = next((v for one, v in zip(episode.tried, episode.verdicts) if one is proposal), None)
        step = len(episode.transcript) + 1
        is_asked = len(episode.beginning) <= step < (episode.max_steps or self.max_steps)
        self.worlds.step(number, proposal.action, self.needs if is_asked else ())

    def _end_without_action(self, number: int, error: InputError) -> None:
        """End an episode for which there is no next action.

        An agent whose episode outgrows its context has failed at the task, like one that is out of steps. If the very
        first prompt does not fit, the settings are wrong, and that is an error.
        """
        episode = self._episodes[number]
        if not isinstance(error, PromptTooLong) or not episode.transcript:
            self._finish(number, error)
            return
        self.worlds.counts[OUTGREW] += 1
        self._finish(number, {**episode.record(self.policy), "outgrown": True})

    def _finish(self, number: int, result: dict | InputError) -> None:
        self._episodes.pop(number).result = result
        self.free.append(number)
        if self._waiting:
            self.begin(self._waiting.popleft())

    def _give_up(self, number: int, error: NoRoom) -> None:
        """Do without a number for which a server has no room; its episode waits. Raises the error for the last one."""
        if self._size == 1:
            raise error
        self._size -= 1
        self._waiting.append(self._episodes.pop(number))
        if self.free:
            self.begin(self._waiting.popleft())


def play(
    worlds: ParallelEnvironments,
    episodes: Iterable[PlayedEpisode],
    policy: Policy,
    settings: EvalSettings,
    predictor: Predictor | None = None,
    memory: Memory | None = None,
) -> Generator[PlayedEpisode, None, None]:
    """Play each episode once and yield it once it is over, in the order in which they are given.

    As many are played at once as there are environments. Episodes are taken from the iterator as they are begun. The
    other arguments are those of `evaluate`.
    """
    begun: deque[PlayedEpisode] = deque()  # and not yet yielded, in order
    remaining, more = iter(episodes), True
    with ExitStack() as stack:
        players = stack.enter_context(closing(policy.episodes(worlds.size)))
        predictions = stack.enter_context(closing(predictor.episodes(players.n))) if predictor else None
        playing = ParallelPlay(worlds, policy, players, settings, predictor, predictions, memory)
        while more or begun:
            while more and playing.free and len(begun) < AHEAD * worlds.size:
                episode = next(remaining, None)
                more = episode is not None
                if episode:
                    begun.append(episode)
                    playing.begin(episode)
            playing.advance()
            while begun and begun[0].result is not None:
                yield begun.popleft()

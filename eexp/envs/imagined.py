"""`worldmodel:MODEL?env=ENV`: an environment that answers as a world model expects the environment ENV to.

An episode begins as it does in ENV, or as a recorded trajectory does (`beginnings=FILE`). After that, the model writes
every observation: an answer, greedily decoded, to the very prompt that `eexp world-model-data` writes for the same
history. So the state is a list of texts, and copies of it cost nothing. What a text cannot tell is not made up: there
is neither a score nor a success, and only a model that was trained on verdicts (`verdict=yes`) says which actions are
refused and when the episode is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eexp.envs.base import Environment, Observation
from eexp.envs.logins import with_logins
from eexp.envs.spec_options import option_error, parse_choice
from eexp.envs.wrapper import Wrapper
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError, short
from eexp.records.imagination import SCHEME, refuse_imagined
from eexp.records.outcomes import TRANSITIONS

if TYPE_CHECKING:
    from eexp.models.base import Draw, Model, Sample
    from eexp.prompts import PromptStyle

_MAX_TOKENS = 512  # of an answer, where the model's training does not say how long its answers are


class WorldModelFailed(EnvironmentFailed):
    """Error raised where a world model writes something that is no answer to an action."""


@dataclass(frozen=True)
class Imagination:
    """How a world model is asked for what an action leads to.

    Attributes:
        model: The model, trained on world-model examples.
        style: The prompt style of those examples.
        verdict: Whether its answers end with a verdict (`eexp world-model-data --verdict after`).
        max_tokens: Most tokens of an answer.
    """

    model: Model
    style: PromptStyle
    verdict: bool
    max_tokens: int

    def request(
        self, instruction: str, steps: Sequence[dict], observation: str, action: str, tools: list[dict] | None = None
    ) -> Draw:
        """Return the request for what follows after an action; arguments as in `PromptStyle.world_model`."""
        from eexp.models.base import Draw

        target = "verdict" if self.verdict else "observation"
        prompt = self.style.world_model(instruction, steps, observation, action, target)
        return Draw(prompt, temperature=0.0, max_tokens=self.max_tokens, tools=self.style.shown_tools(tools))

    def observation(self, sample: Sample) -> Observation:
        """Return the observation that an answer describes.

        Raises:
            WorldModelFailed: The answer was cut off, or is no observation; or it lacks a verdict.
        """
        text = self.style.predicted_in(sample.text)
        if text is None:
            reason = f"was cut off after {self.max_tokens} tokens" if not sample.finished else "is no observation"
            raise WorldModelFailed(f"the world model's answer {reason}: {short(sample.text)}")
        made_by = self.model.fingerprint
        if not self.verdict:
            return Observation(text, imagined=made_by)
        text, _, verdict = text.rpartition("\n")
        if verdict not in TRANSITIONS:
            raise WorldModelFailed(
                f"the world model ends with {short(verdict)}, which is no verdict; leave out verdict=yes for a model "
                f"that was trained on observations alone"
            )
        valid, done = verdict != "invalid", verdict == "done"
        return Observation(text, done, valid=valid, changed=verdict in ("changed", "done"), imagined=made_by)


class ImaginedWorld(Wrapper):
    """Another environment as a world model imagines it. See the module's docstring.

    Args:
        model: The spec of the model.
        env: Where episodes begin. Closing this one closes it, too.
        verdict: "yes" for a model that was trained on verdicts after observations.
        style: The prompt style of its training; "" for what the model itself says, else the default.
        max_tokens: Most tokens of an observation; "" for what the model was trained to write, else 512.

    Raises:
        UsageError: There is no such kind of model, or an option makes no sense.
    """

    own_state = ("_instruction", "_tools", "_admissible", "_steps", "_last")

    def __init__(self, model: str, env: Environment, verdict: str = "no", style: str = "", max_tokens: str = ""):
        from eexp.models.opening import backend_of

        super().__init__(env)
        self.in_process = self.light = False  # a model has threads, and takes its time
        self.depends_on_timing = False
        backend_of(model)
        self._model_spec = model
        self._verdict = parse_choice(SCHEME, "verdict", verdict, ("yes", "no")) == "yes"
        self._style, self._max_tokens = style, max_tokens
        if max_tokens and not (max_tokens.isascii() and max_tokens.isdigit() and int(max_tokens)):
            raise option_error(SCHEME, "max_tokens", max_tokens, "expected a number above 0")
        self._imagination: list[Imagination] = []  # one, once it is needed, for this environment and its copies
        self._is_copy = False
        self._instruction, self._tools, self._admissible = "", None, None
        self._steps: tuple[dict, ...] = ()
        self._last = Observation("")

    @property
    def imagination(self) -> Imagination:
        """The model, opened when it is needed first."""
        if not self._imagination:
            self._imagination.append(self._open())
        return self._imagination[0]

    def _open(self) -> Imagination:
        from eexp.models.opening import open_model
        from eexp.prompts import DEFAULT_STYLE, get_style

        model = open_model(with_logins(self._model_spec))
        trained = model.play_settings
        style = get_style(self._style) if self._style else trained.style or get_style(DEFAULT_STYLE)
        return Imagination(
            model, style, self._verdict, int(self._max_tokens or trained.prediction_tokens or _MAX_TOKENS)
        )

    def reset(self, task: dict) -> Observation:
        first = self.world.reset(task)
        self._instruction, self._tools, self._admissible = (
            self.world.instruction(),
            first.tools,
            self.world.admissible(),
        )
        self._steps = ()
        self._last = replace(first, score=None, success=None, unknown=None)
        return self._last

    def step(self, action: str) -> Observation:
        if self._last.done:
            return replace(self._last, valid=False, changed=False)
        imagination = self.imagination
        request = imagination.request(self._instruction, self._steps, self._last.text, action, self._tools)
        try:
            ((sample,),) = imagination.model.ask([request])
        except EnvironmentFailed:
            raise
        except (InputError, UsageError) as e:  # too long a prompt; a style that needs functions
            raise EnvironmentFailed(f"{self.spec}: step: {e}") from None
        observation = imagination.observation(sample)
        if not observation.valid:  # a refused action leaves the state as it was, as in training
            return observation
        self._steps = (*self._steps, {"observation": self._last.text, "action": action})
        self._last, self._admissible = observation, None
        return observation

    def instruction(self) -> str:
        return self._instruction

    def admissible(self) -> list[str] | None:
        """Return those of the real beginning; None after an action, since no text lists them."""
        return self._admissible

    def expert(self) -> str | None:
        """Return None: the expert knows the real world, and this one may be another by now."""
        return None

    def explain(self) -> str | None:
        return None

    def harmless(self, action: str) -> bool:
        return False

    def has(self, method: str) -> bool:
        if method in ("expert", "explain", "harmless", "achieved"):
            return False
        return method in ("fork", "save", "restore") or self.world.has(method)

    def why_no_copy(self) -> str | None:
        return None

    def fork(self) -> ImaginedWorld:
        other = copy(self)
        other._is_copy = True
        return other

    def save(self) -> list:
        return [getattr(self, name) for name in self.own_state]

    def restore(self, state: list) -> None:
        for name, value in zip(self.own_state, state):
            setattr(self, name, value)

    def release(self, state: list) -> None:
        """Do nothing: a state is a list of texts."""

    def close(self) -> None:
        if self._is_copy:
            return
        while self._imagination:
            self._imagination.pop().model.close()
        self.world.close()


class RecordedBeginnings(Environment):
    """The tasks of recorded trajectories, each with its first observation. No action can be taken in it.

    Args:
        file: JSONL with trajectories of a real environment.
    """

    def __init__(self, file: str) -> None:
        from eexp.records.jsonl import read

        self._file = file
        self._trajectories: dict[str, dict] = {}
        for trajectory in read([file], "trajectory"):
            try:
                refuse_imagined(trajectory, "a beginning")
            except InputError as e:
                raise InputError(f"{file}: {trajectory['id']}: {e}") from None
            if not trajectory["steps"]:
                raise InputError(f"{file}: {trajectory['id']} has no steps")
            self._trajectories.setdefault(trajectory["id"], trajectory)
        if not self._trajectories:
            raise EexpError(f"{file}: no trajectories, whose beginnings could be played from")
        self._now: dict = {}

    def splits(self) -> list[str]:
        return list(dict.fromkeys(map(self._split_of, self._trajectories.values())))

    def tasks(self, split: str) -> Iterator[dict]:
        for name, trajectory in self._trajectories.items():
            if self._split_of(trajectory) == split:
                yield {"id": name, "split": split}

    @staticmethod
    def _split_of(trajectory: dict) -> str:
        return str(trajectory["task"].get("split") or "train")

    def reset(self, task: dict) -> Observation:
        if task.get("id") not in self._trajectories:
            raise InputError(f"{self._file} has no trajectory {short(task.get('id'))}")
        self._now = self._trajectories[task["id"]]
        return Observation(self._now["steps"][0]["observation"], tools=self._now.get("tools"))

    def instruction(self) -> str:
        return self._now.get("instruction", "")

    def step(self, action: str) -> Observation:
        raise EnvironmentFailed(f"{self._file}: only beginnings are taken from it")

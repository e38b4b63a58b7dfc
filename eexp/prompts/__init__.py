"""How a state becomes chat messages: one PromptStyle, used by every stage.

A policy trained under one prompt and played under another is quietly ruined, so the style has a name and a
fingerprint. Both travel with the examples and are saved beside the adapter; `eexp eval` goes by them.

Acting and world modelling share their history word for word (only the system message differs), so the training
examples of one trajectory share long prefixes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import orjson

from eexp.errors import InputError, UsageError

Messages = list[dict[str, str]]

_ACTION_MARK = "Action:"


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@dataclass(frozen=True)
class ReflectionWords:
    """The request that asks for a reflection."""

    system: str = (
        "You write the inner monologue of somebody who is about to act and thinks first. You write in the first "
        "person, in the present tense, plainly, and never about being a program."
    )
    situation: str = "The situation:"
    taken: str = "What is going to be done:"
    led_to: str = "What it led to:"
    others: str = "What could have been done as well, and what that led to:"
    ask: str = (
        "Write the thoughts that lead to what is going to be done. Say what the goal still needs, weigh the other "
        "possibilities against it, and name the clues and limits in the situation that decide. What is written under "
        "'led to' has not happened yet for the one who thinks: use it only as something to expect, never as something "
        "seen. Refer to every possibility by what it does, never by a number or a label, and do not say that anything "
        "was given, listed or demonstrated. Keep to what stands above. At most five sentences, no headings, and "
        "do not repeat the action at the end."
    )


@dataclass(frozen=True)
class PromptStyle:
    """All words around a state. `list_admissible` names the actions to choose from in the prompt itself."""

    name: str
    list_admissible: bool = False
    act_system: str = "You act in an interactive world. Do the task. Answer with the next action as: Action: <action>"
    world_model_system: str = "You predict an interactive world. Write what is observed after the last action."
    world_model_request: str = "What is observed next?"
    task_label: str = "Task:"
    admissible_label: str = "Possible actions:"
    target_open: str = "<next_state>"
    target_close: str = "</next_state>"
    reflection: ReflectionWords = ReflectionWords()

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever a word of the style does."""
        return hashlib.sha256(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    @property
    def label(self) -> str:
        """As it stands in records: name and fingerprint."""
        return f"{self.name}@{self.fingerprint}"

    # -- acting --------------------------------------------------------------------------------------------------

    def act(self, instruction: str, steps: Sequence[dict], observation: str,
            admissible: Iterable[str] | None = None) -> Messages:  # fmt: skip
        """The prompt for the next action after `steps` (each with `observation` and `action`), at `observation`."""
        return [_message("system", self.act_system), *self._history(instruction, steps, observation, admissible)]

    def _history(self, instruction: str, steps: Sequence[dict], observation: str,
                 admissible: Iterable[str] | None) -> Messages:  # fmt: skip
        seen = [*(s["observation"] for s in steps), observation]
        if instruction:
            seen[0] = f"{self.task_label} {instruction}\n{seen[0]}"
        if self.list_admissible and admissible is not None:
            seen[-1] += f"\n{self.admissible_label} {', '.join(admissible)}"
        turns = [_message("user", seen[0])]
        for step, text in zip(steps, seen[1:]):
            turns += [_message("assistant", self.action_text(step["action"])), _message("user", text)]
        return turns

    def action_text(self, action: str, thought: str | None = None) -> str:
        """What the policy is to write for an action, after a thought if there is one."""
        return f"{thought.strip()}\n{_ACTION_MARK} {action}" if thought else f"{_ACTION_MARK} {action}"

    def parse_action(self, text: str) -> str:
        """The action in what a policy wrote: the line after the last mark, or the first line where there is none."""
        text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
        marked = text.rpartition(_ACTION_MARK)[2] if _ACTION_MARK in text else text
        for line in marked.splitlines():
            if line.strip():
                return line.strip().strip("`*").strip()
        return ""

    def thought_in(self, text: str) -> str:
        """What a model wrote without its private thinking and without an action line at the end."""
        text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
        return text.partition(_ACTION_MARK)[0].strip()

    # -- world modelling -----------------------------------------------------------------------------------------

    def world_model(self, instruction: str, steps: Sequence[dict], observation: str, action: str) -> Messages:
        """The prompt to predict what `action` leads to, at `observation` after `steps`."""
        return [_message("system", self.world_model_system),
                *self._history(instruction, steps, observation, None),
                _message("assistant", self.action_text(action)),
                _message("user", self.world_model_request)]  # fmt: skip

    def world_model_target(self, observation: str) -> Messages:
        """The completion of a world-model example, delimited so that it cannot be taken for acting."""
        return [_message("assistant", f"{self.target_open}\n{observation}\n{self.target_close}")]

    # -- reflecting ----------------------------------------------------------------------------------------------

    def ask_reflection(self, instruction: str, steps: Sequence[dict], step: dict, outcome: str) -> Messages:
        """Ask a language model why `step`'s action is the sensible one (Early Experience, appendix on reflection).

        Neutral slots: nothing in the request says "expert" or numbers the options, because the policy will see
        neither when it acts.
        """
        words = self.reflection
        situation = [f"{self.task_label} {instruction}"] if instruction else []
        for past in steps:
            situation += [past["observation"], f"I did: {past['action']}"]
        situation.append(step["observation"])
        others = [
            f"- {a['action']}\n  led to: {' '.join(a['outcome']['observation'].split())}"
            for a in step.get("alternatives", [])
            if a.get("outcome")
        ]
        parts = [words.situation, "\n".join(situation), words.taken, step["action"], words.led_to, outcome]
        parts += [words.others, "\n".join(others), words.ask]
        return [_message("system", words.system), _message("user", "\n\n".join(parts))]


STYLES = {
    "react": PromptStyle("react"),
    "react-list": PromptStyle("react-list", list_admissible=True),
}
DEFAULT_STYLE = "react"


def get_style(name: str) -> PromptStyle:
    """The style by name, or by label (`name@fingerprint`); raises if its words are no longer the same."""
    bare, _, fingerprint = name.partition("@")
    if bare not in STYLES:
        raise UsageError(f"unknown prompt style {bare!r}; known: {', '.join(STYLES)}")
    style = STYLES[bare]
    if fingerprint and fingerprint != style.fingerprint:
        raise InputError(f"prompt style {bare!r} was {fingerprint} there and is {style.fingerprint} in this version: "
                         f"training and playing would see different words")  # fmt: skip
    return style

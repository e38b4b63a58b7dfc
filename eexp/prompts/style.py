"""Prompt styles: all words around a state, and the way from a policy's text back to a thought and an action.

A policy that is trained under one prompt and played under another loses its skill without any error. So all stages
write a state through the same object, which has a name and a fingerprint, and is saved with the models that are trained
under it.

The prompts of one trajectory begin with each other: acting, acting after a thought and predicting the next state differ
at their ends alone (unless `world_model.system` is set), so training computes their history once, and a `Dialogue`
builds it once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import msgspec
import orjson
from msgspec import Meta, Struct

from eexp.errors import InputError, UsageError, short
from eexp.prompts.tool_calls import PRIVATE, Message, action_of, answer_to, tool_call, unprivate
from eexp.records.spans import ACTION, ANSWERS, named_span, spans_of

if TYPE_CHECKING:
    from typing_extensions import Self

Messages = list[Message]  # messages of a chat, as in records.Message

_Text = Annotated[str, Meta(min_length=1)]


class Act(Struct, frozen=True, forbid_unknown_fields=True):
    """The words around an observation."""

    system: str
    task_label: str = "Task:"
    list_admissible: bool = False  # whether the last observation ends with the admissible actions
    admissible_label: str = "Possible actions:"


class Action(Struct, frozen=True, forbid_unknown_fields=True):
    """The form of an action: between `open` and `close`; without `close`, on one line."""

    open: str = "Action: "
    close: str = ""
    #: Whether actions that are calls are tool calls of the chat (prompts/tool_calls.py). Then there are no marks, and
    #: other actions are plain text.
    calls: bool = False

    @property
    def is_block(self) -> bool:
        """Whether the marks stand on lines of their own, and an action may have several lines between them."""
        return self.open.endswith("\n") and self.close.startswith("\n")


class Thought(Struct, frozen=True, forbid_unknown_fields=True):
    """The form of a thought, before the action.

    Attributes:
        open, close: The marks around it; with `Action.calls`, `close` keeps it apart from an action that is no call.
        absent: Where there is no thought, "omit" leaves out its place, and "empty" leaves it empty.
    """

    open: str = "Thought: "
    close: _Text = "\n"
    absent: Literal["omit", "empty"] = "omit"
    ask: str = ""  # the end of the last observation where a thought is asked for
    ask_not: str = ""  # the end of the last observation where none is asked for


class History(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of the earlier steps that a prompt shows."""

    steps: Optional[Annotated[int, Meta(ge=1)]] = None  # number of the latest steps that are shown; None shows all
    #: Length to which observations before the last one are cut; None cuts none.
    observation_characters: Optional[Annotated[int, Meta(ge=1)]] = None
    thoughts: Literal["drop", "keep"] = "drop"  # whether the agent's earlier thoughts are shown
    #: The text in place of steps that are left out, with {n} for their number.
    left_out: str = "({n} earlier steps are left out.)"


class WorldModel(Struct, frozen=True, forbid_unknown_fields=True):
    """The request for the next state, and the marks around the answer."""

    system: str = ""  # the system message; if empty, that of acting
    request: _Text = "What is observed next?"
    #: The request where the answer holds only what is new.
    request_changes: _Text = "What is new in what is observed next?"
    #: The request where the answer is one word, the kind of the transition, or ends with it.
    request_verdict: _Text = "Is it accepted, and does it change anything?"
    unchanged: _Text = "(Nothing changes.)"  # the answer to that request where nothing is new
    open: _Text = "<next_state>\n"
    close: _Text = "\n</next_state>"


class Reflection(Struct, frozen=True, forbid_unknown_fields=True):
    """The request that asks a language model for a reflection, in the order in which its parts are written."""

    system: str = (
        "You write the inner monologue of somebody who is about to act and thinks first. You write in the first "
        "person, in the present tense, plainly, and never about being a program."
    )
    situation: str = "The situation:"
    admissible: str = "What can be done here:"
    taken: str = "What is going to be done:"
    led_to: str = "What it led to:"
    others: str = "What could have been done as well, and what that led to:"
    notes: str = "What is known and still needed:"
    thought: str = "A remark on it, by the one who acts:"
    ask: str = (
        "Write the thoughts that lead to what is going to be done. Say what the goal still needs, weigh the other "
        "possibilities against it, and name the clues and limits in the situation that decide. What is written under "
        "'led to' has not happened yet for the one who thinks: use it only as something to expect, never as something "
        "seen. Refer to every possibility by what it does, never by a number or a label, and do not say that anything "
        "was given, listed or demonstrated. Keep to what stands above. At most five sentences, no headings, and "
        "do not repeat the action at the end."
    )
    decide: str = (
        "Think about what to do next: what the goal still needs, what can be done here and what each of it would lead "
        "to. At most five sentences. Then decide."
    )


class Summary(Struct, frozen=True, forbid_unknown_fields=True):
    """The request that asks a language model for an observation in fewer words."""

    system: str = "You sum up what is observed in an interactive world."
    done: str = "What was done:"
    observed: str = "What was observed then:"
    ask: str = (
        "Sum up what was observed in one to three sentences. Keep what the task may need: what was found and what "
        "changed, names, numbers and messages of errors, each as it is written above. Add nothing that is not there, "
        "and do not say what to do next. Write the sentences alone."
    )


class Judgement(Struct, frozen=True, forbid_unknown_fields=True):
    """The question which of two actions is better, and the beginning of the answer, which goes on with that action."""

    request: _Text = "Which of these is better here?"
    first: _Text = "1"
    second: _Text = "2"
    led_to: _Text = "It led to:"
    better: _Text = "Better: "


class Turns(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of the example dialogue at the beginning of every prompt."""

    user: str
    assistant: str


class Answer(Struct, frozen=True):
    """The text that a policy is to write, with its parts as `spans` of an example."""

    text: str  # the text; beside a call, the thought
    spans: list[dict]  # Its parts. A call is not in the text, so its span is empty, and at the end.
    call: Optional[dict] = None  # the action, where it is a tool call

    def messages(self) -> Messages:
        """Return the answer as the completion of an example."""
        message = _message("assistant", self.text)
        return [message if self.call is None else {**message, "tool_calls": [self.call]}]


@dataclass(frozen=True)
class ParsedAnswer:
    """The parts of a text that a policy has written."""

    action: str  # the action; empty where there is none
    thought: str = ""  # the thought before it; empty where there is none
    #: Whether the text ended at the token limit before its action was complete; the action is empty then.
    cut_off: bool = False


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


class PromptStyle(Struct, frozen=True, forbid_unknown_fields=True):
    """All words around a state; the classes above describe the tables of its TOML file."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    acting: Act = msgspec.field(name="act")
    action: Action = Action()
    thought: Thought = Thought()
    history: History = History()
    predicting: WorldModel = msgspec.field(name="world_model", default=WorldModel())
    reflection: Reflection = Reflection()
    summary: Summary = Summary()
    judgement: Judgement = Judgement()
    examples: tuple[Turns, ...] = ()

    def as_dict(self) -> dict:
        """Return the contents of its TOML file, with those defaults that all versions of eexp know."""
        table = msgspec.to_builtins(self)
        if not self.action.calls:
            del table["action"]["calls"]
        if self.judgement == Judgement():
            del table["judgement"]
        if self.predicting.request_verdict == WorldModel().request_verdict:
            del table["world_model"]["request_verdict"]
        return table

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with every word of the style."""
        return _fingerprint(self)

    @property
    def label(self) -> str:
        """Name and fingerprint, as they stand in records."""
        return f"{self.name}@{self.fingerprint}"

    # -- acting --------------------------------------------------------------------------------------------------

    def act(
        self,
        instruction: str,
        steps: Sequence[dict],
        observation: str,
        admissible: Iterable[str] | None = None,
        think: bool = False,
        recalled: Sequence[tuple[str, Sequence[dict]]] = (),
    ) -> Messages:
        """Build the prompt for the next action.

        Args:
            instruction: The task in words, or "".
            steps: The steps before, each with `observation`, `action` and perhaps `thought`.
            admissible: The admissible actions, which are written if the style lists them.
            think: Whether a thought is asked for before the action.
            recalled: Past episodes, each as its instruction and its steps, as for `Dialogue.start`.
        """
        return Dialogue(self).start(instruction, steps, recalled).act(observation, admissible, think)

    def answer(self, action: str, thought: str | None = None, number: int = 0) -> Answer:
        """Return an action, after a thought if there is one, as the policy is to write it.

        Args:
            number: The number of the step, which decides the id of a tool call.
        """
        thought = thought.strip() if thought else ""
        call = tool_call(action, number) if self.action.calls else None
        if call is not None:
            spans = [named_span("thought", 0, len(thought))] if thought else []
            return Answer(thought, [*spans, named_span("action", len(thought), len(thought))], call)
        head = f"{self.thought.open}{thought}{self.thought.close}" if thought or self.thought.absent == "empty" else ""
        text = f"{head}{self.action.open}{action}{self.action.close}"
        if not thought:
            return Answer(text, [named_span("action", 0, len(text))])
        return Answer(text, [named_span("thought", 0, len(head)), named_span("action", len(head), len(text))])

    def completion(self, action: str, thought: str | None = None, number: int = 0) -> Answer:
        """Return an action, after a thought if there is one, as the completion of an example.

        Arguments are those of `answer`.

        Raises:
            InputError: Another action would be read back from the completion, or a part of this one.
        """
        answer = self.answer(action, thought, number)
        self._check_read_back(answer, action)
        return answer

    def check_completion(self, example: Mapping[str, Any]) -> None:
        """Check the action that an example of this style is to teach.

        A completion that is not written as `answer` writes it is not checked.

        Args:
            example: An example, or an answer of a preference (`records.answers_of`).

        Raises:
            InputError: Another action would be read back from the completion, or a part of this one.
        """
        message = example["completion"][-1]
        if message.get("tool_calls"):
            return
        text = message["content"]
        for span in spans_of(example):
            if span.name in (ACTION, *ANSWERS):
                part = text[span.start : span.end].removeprefix(self.opening("never"))
                if part.startswith(self.action.open) and part.endswith(self.action.close):
                    action = part.removeprefix(self.action.open).removesuffix(self.action.close)
                    self._check_read_back(Answer(text[: span.end], []), action)

    def reads_back(self, action: str) -> bool:
        """Return whether an action is read back from its completion as it is."""
        try:
            self.completion(action)
        except InputError:
            return False
        return True

    def _check_read_back(self, answer: Answer, action: str) -> None:
        """Raise InputError where the action of an answer is not the one that `parse` finds in it."""
        if answer.call is not None:
            return
        parsed = self.parse(answer.text).action
        wanted = " ".join(action.split()) if self.action.calls else action.strip()
        if parsed.strip() == wanted:
            return
        if not self.action.is_block and (lines := len(wanted.splitlines())) > 1:
            raise InputError(
                f"the action has {lines} lines, of which prompt style {self.name} reads back {short(parsed)} alone; "
                f"prompt style code holds actions of several lines"
            )
        raise InputError(f"prompt style {self.name} reads the action {short(action)} back as {short(parsed)}")

    def shown_tools(self, tools: Sequence[dict] | None) -> Sequence[dict]:
        """Return the functions that prompts show: those that the environment offers, if actions are tool calls.

        Raises:
            InputError: Actions are tool calls, and the environment offers no functions.
        """
        if not self.action.calls:
            return ()
        if not tools:
            raise InputError(
                f"prompt style {self.name} is for environments that offer functions, and this one offers none; "
                f"bfcl?tools=schema does, and docs/environments/python.md says how to offer them",
                "$.tools",
            )
        return tools

    def hides_functions(self, trajectory: Mapping[str, Any]) -> bool:
        """Return whether a trajectory offers functions, and prompts of this style name not one of them."""
        if self.action.calls or not trajectory.get("tools"):
            return False
        text = trajectory["instruction"] + "".join(step["observation"] for step in trajectory["steps"][:1])
        return not any(str(tool.get("function", {}).get("name")) in text for tool in trajectory["tools"])

    def tools_field(self, tools: Sequence[dict] | None) -> dict:
        """Return the key of an example for the functions that its prompt shows; none where actions are text.

        Raises:
            InputError: As `shown_tools`.
        """
        return {"tools": list(self.shown_tools(tools))} if self.action.calls else {}

    def opening(self, think: str) -> str:
        """Return the given beginning of an answer, which opens ("always") or closes ("never") the place for a thought.

        It is empty for "auto", and for styles that omit the place: their prompts say whether a thought is asked for.
        """
        if self.thought.absent == "omit" or think == "auto":
            return ""
        return self.thought.open if think == "always" else f"{self.thought.open}{self.thought.close}"

    def parse(self, text: str, finished: bool = True) -> ParsedAnswer:
        """Parse a text that a policy has written.

        The action stands after the last mark; where a finished text has no mark and no thought, its first line is the
        action, or all of it where actions are blocks.

        Args:
            finished: False where the text was cut at the token limit; an incomplete action does not count then.
        """
        if self.action.calls:
            return self.parse_message(_message("assistant", text), finished)
        slot_open, slot_close = self.thought.open.strip(), self.thought.close.strip()
        if slot_open != "<think>":  # the private thinking of a reasoning model
            text = PRIVATE.sub("", text)
        mark, close = self.action.open.strip(), self.action.close.strip()
        before, separator, after = text.rpartition(mark)
        thought = (before if separator else text).strip()
        opened = bool(slot_open) and thought.startswith(slot_open)
        thought = thought.removeprefix(slot_open).strip()
        if opened and slot_close and slot_close in thought:
            thought = thought.rpartition(slot_close)[0].strip()
        if not separator:
            if not finished:
                return ParsedAnswer("", thought if opened else "", True)
            return ParsedAnswer("", thought) if opened else ParsedAnswer(self._action_in(text))
        if self.action.is_block:
            action, closed, _ = after.partition(self.action.close.rstrip())
        elif close:
            action, closed, _ = after.partition(close)
        else:
            action, closed, _ = after.lstrip().partition("\n")
        if not finished and not closed:
            return ParsedAnswer("", thought, True)
        return ParsedAnswer(self._action_in(action), thought)

    def parse_message(self, message: Message, finished: bool = True) -> ParsedAnswer:
        """Parse a message with which a policy has answered, in a style whose actions are tool calls.

        The action is the first call; where there is none, it is the last paragraph of the text, on one line.

        Args:
            finished: False where it was cut at the token limit; a text without a whole call is no action then.
        """
        text = unprivate(message["content"]).strip()
        if calls := message.get("tool_calls"):
            return ParsedAnswer(action_of(calls[0]), text)
        if not finished:
            return ParsedAnswer("", "", True)
        thought, _, action = text.rpartition(self.thought.close)
        return ParsedAnswer(" ".join(action.split()), thought.strip())

    def _action_in(self, text: str) -> str:
        """Return the action in the text between its marks: its first line, or all lines of a block."""
        if not self.action.is_block:
            return _first_line(text)
        return text.strip("\n").rstrip() if text.strip() else ""

    def thought_in(self, text: str) -> str:
        """Return the thought in a model's text: without its private thinking, marks, and an action at the end."""
        text = PRIVATE.sub("", text)
        if self.action.calls:
            return text.strip()
        before, separator, after = text.rpartition(self.action.open.strip())
        thought = (before if separator else after).strip()
        thought = thought.removeprefix(self.thought.open.strip()).strip()
        return thought.removesuffix(self.thought.close.strip()).strip() if self.thought.close.strip() else thought

    # -- world modelling -----------------------------------------------------------------------------------------

    def world_model(
        self, instruction: str, steps: Sequence[dict], observation: str, action: str, kind: str = "observation"
    ) -> Messages:
        """Build the prompt to predict what follows after `action`, at `observation` after `steps`.

        Args:
            kind: What is asked for: the next "observation", or its "changes" alone, or the "verdict": one word that
                says whether the action is accepted and changes anything.
        """
        return Dialogue(self).start(instruction, steps).world_model(observation, action, kind)

    def world_model_answer(
        self, observation: str, unknown: Iterable[tuple[int, int]] = (), unknown_weight: float = 1.0
    ) -> Answer:
        """Return the target of a world-model example, in marks that distinguish it from an action.

        Args:
            unknown: (start, end) of the parts of the observation that become spans named "unknown", in order. Each
                includes the blank before it, which is in one token with the word after it.
            unknown_weight: The weight of those spans.
        """
        head = self.predicting.open
        text = f"{head}{observation}{self.predicting.close}"
        spans, at, offset = [], 0, len(head)
        for first, last in unknown:
            if first >= last:
                continue
            start, end = offset + first, offset + last
            if start > max(at, offset) and text[start - 1] == " ":
                start -= 1
            if at < start:
                spans.append(named_span("observation", at, start))
            spans.append(named_span("unknown", start, end, unknown_weight))
            at = end
        if at < len(text):
            spans.append(named_span("observation", at, len(text)))
        return Answer(text, spans)

    def predicted_in(self, text: str) -> str | None:
        """Return the observation in a model's answer, with the verdict where there is one; None without the marks."""
        beginning, end = self.predicting.open, self.predicting.close
        inner = text.strip()
        if len(inner) < len(beginning.strip()) + len(end.strip()):
            return None
        if not (inner.startswith(beginning.strip()) and inner.endswith(end.strip())):
            return None
        inner = inner[len(beginning.strip()) : len(inner) - len(end.strip())]
        lead, tail = beginning[len(beginning.rstrip()) :], end[: len(end) - len(end.lstrip())]
        return inner.removeprefix(lead).removesuffix(tail)

    def verdict_in(self, text: str) -> str:
        """Return the last line of a model's answer to the request for a verdict; it may be any."""
        beginning, end = self.predicting.open.strip(), self.predicting.close.strip()
        answer = text.strip().removeprefix(beginning).removesuffix(end).strip()
        return answer.rpartition("\n")[2].strip()

    # -- reflecting ----------------------------------------------------------------------------------------------

    def ask_reflection(
        self,
        instruction: str,
        steps: Sequence[dict],
        step: dict,
        outcome: str,
        alternatives: Sequence[dict] | None = None,
        notes: str = "",
    ) -> Messages:
        """Build the prompt that asks why `step`'s action is sensible (Early Experience, appendix on reflection).

        The words are neutral: the request does not say "expert" and does not number the options, because the policy
        sees neither when it acts.

        Args:
            outcome: The outcome of the action.
            alternatives: The alternatives to weigh; None takes all of the step's that were executed.
            notes: The environment's statement of what is known and still needed.
        """
        words = self.reflection
        if alternatives is None:
            alternatives = [a for a in step.get("alternatives", []) if a.get("outcome")]
        others = [f"- {a['action']}\n  led to: {' '.join(a['outcome']['observation'].split())}" for a in alternatives]
        parts = [words.situation, self._situation(instruction, steps, step)]
        if step.get("admissible"):
            parts += [words.admissible, ", ".join(step["admissible"])]
        if notes:
            parts += [words.notes, notes]
        parts += [words.taken, step["action"], words.led_to, outcome]
        if step.get("thought"):
            parts += [words.thought, step["thought"].strip()]
        parts += [words.others, "\n".join(others)] if others else []
        return [_message("system", words.system), _message("user", "\n\n".join([*parts, words.ask]))]

    def _situation(self, instruction: str, steps: Sequence[dict], step: dict) -> str:
        lines = [f"{self.acting.task_label} {instruction}"] if instruction else []
        for past in steps:
            lines += [past["observation"], f"I did: {past['action']}"]
        return "\n".join([*lines, step["observation"]])

    # -- judging -------------------------------------------------------------------------------------------------

    def question(self, first: str, second: str, outcomes: tuple[str, str] | None = None) -> str:
        """Return the question which of two actions is better, which stands below an observation.

        Args:
            outcomes: What each of them led to, to be shown; None shows neither.
        """
        words = self.judgement
        lines = [words.request]
        for n, (label, action) in enumerate(((words.first, first), (words.second, second))):
            lines.append(f"{label}. {action}")
            if outcomes:
                lines.append(f"   {words.led_to} {' '.join(outcomes[n].split())}")
        return "\n".join(lines)

    def judge_answer(self, is_first: bool, action: str, number: int = 0) -> Answer:
        """Return the answer to `question`: which one is better, and that action as the policy acts."""
        words = self.judgement
        choice = f"{words.better}{words.first if is_first else words.second}\n"
        answer = self.answer(action, None, number)
        moved = [{**s, "start": s["start"] + len(choice), "end": s["end"] + len(choice)} for s in answer.spans]
        return Answer(choice + answer.text, [named_span("choice", 0, len(choice)), *moved], answer.call)

    # -- summing up ----------------------------------------------------------------------------------------------

    def ask_summary(self, instruction: str, action: str, observation: str) -> Messages:
        """Build the prompt that asks for a summary of an observation, which `action` led to."""
        words = self.summary
        task = [f"{self.acting.task_label} {instruction}"] if instruction else []
        parts = [*task, words.done, action, words.observed, observation, words.ask]
        return [_message("system", words.system), _message("user", "\n\n".join(parts))]

    def summary_in(self, text: str) -> str:
        """Return the summary in a model's text, without its private thinking."""
        return PRIVATE.sub("", text).strip()


class Dialogue:
    """The prompts of a trajectory, at one state after the other; the steps that they share are written once.

    `start` begins a trajectory, and `add` goes on to the state after a step; `act` and `world_model` return the prompts
    there.
    """

    def __init__(self, style: PromptStyle):
        self._style = style
        self._limit, self._window = style.history.observation_characters, style.history.steps
        self._open, self._close = style.action.open, style.action.close
        self._calls = style.action.calls
        self._keep_thoughts = style.history.thoughts == "keep"
        self._list_admissible = style.acting.list_admissible
        thought = style.thought
        self._endings = thought.ask if thought.absent == "empty" else thought.ask_not, thought.ask  # by `think`
        words = style.predicting
        self._requests = {"changes": words.request_changes, "verdict": words.request_verdict}
        self._beginning = self._opening(style.acting.system)
        self._predicting = self._opening(style.predicting.system or style.acting.system)
        self.start("")

    def start(
        self, instruction: str, steps: Iterable[dict] = (), recalled: Sequence[tuple[str, Sequence[dict]]] = ()
    ) -> Self:
        """Begin a trajectory.

        Args:
            instruction: The task in words, or "".
            steps: The steps before the first state, each with `observation`, `action` and perhaps `thought`.
            recalled: Past episodes, each as its instruction and its steps, which come before as turns like all others
                where an action is asked for.

        Raises:
            UsageError: Past episodes are given, and actions are tool calls, whose answers the episodes do not hold.
        """
        self._acting = self._beginning
        if recalled:
            if self._calls:
                raise UsageError(f"prompt style {self._style.name}: past episodes cannot be recalled as tool calls")
            past = [message for episode in recalled for message in Dialogue(self._style).start(*episode).turns]
            self._acting = [*self._beginning, *past]
        self._number = 0  # of the current state
        self._task = f"{self._style.acting.task_label} {instruction}\n" if instruction else ""
        self._label = self._task  # the text before the next observation
        self._turns: Messages = []  # of the steps before
        self._past: list[tuple[str, Answer]] = []  # the same, for styles that may leave some out
        for step in steps:
            self.add(step)
        return self

    @property
    def turns(self) -> Messages:
        """The turns of all steps so far."""
        return self._turns

    def add(self, step: dict) -> None:
        """Go on to the state after a step."""
        text, answer = self._past_turn(step)
        if self._window is not None:
            self._past.append((text, answer))
        _add_turn(self._turns, self._label + text, answer)
        self._label = ""
        self._number += 1

    def act(self, observation: str, admissible: Iterable[str] | None = None, think: bool = False) -> Messages:
        """Build the prompt for the next action, with arguments as in `PromptStyle.act`."""
        return self._prompt(self._acting, self._shown(), self._label + self._last_text(observation, admissible, think))

    def world_model(self, observation: str, action: str, kind: str = "observation") -> Messages:
        """Build the prompt to predict what follows, with arguments as in `PromptStyle.world_model`."""
        answer = self._style.answer(action, number=self._number) if self._calls else self._bare(action)
        request = self._requests.get(kind, self._style.predicting.request)
        return self._prompt(self._predicting, self._shown(), f"{self._label}{observation}", answer, request)

    def judge(self, observation: str, first: str, second: str, outcomes: tuple[str, str] | None = None) -> Messages:
        """Build the prompt to judge two actions, with arguments as in `PromptStyle.question`."""
        question = self._style.question(first, second, outcomes)
        return self._prompt(self._acting, self._shown(), f"{self._label}{observation}\n\n{question}")

    def _bare(self, action: str) -> Answer:
        """Return the answer of an action without the place for a thought."""
        return Answer(f"{self._open}{action}{self._close}", [])

    def _past_turn(self, step: dict) -> tuple[str, Answer]:
        """Return a step of the history as its observation, as shown, and its answer."""
        text = step["observation"]
        if self._limit is not None and len(text) > self._limit:
            text = f"{text[: self._limit]} ..."
        if self._keep_thoughts or self._calls:
            thought = step.get("thought") if self._keep_thoughts else None
            return text, self._style.answer(step["action"], thought, self._number)
        return text, self._bare(step["action"])

    def _last_text(self, observation: str, admissible: Iterable[str] | None, think: bool) -> str:
        """Return the last observation with its ending: the admissible actions and the request for a thought."""
        ending = self._endings[think]
        if self._list_admissible and admissible is not None:
            ending = f"\n{self._style.acting.admissible_label} {', '.join(admissible)}{ending}"
        return observation + ending

    def _opening(self, system: str) -> Messages:
        """Return the messages that every prompt begins with."""
        turns = [_message("system", system)] if system else []
        for example in self._style.examples:
            turns += [_message("user", example.user), _message("assistant", example.assistant)]
        return turns

    def _shown(self) -> Messages:
        """Return the earlier turns that the style shows."""
        if self._window is None or len(self._past) <= self._window:
            return self._turns
        left_out = self._style.history.left_out.format(n=len(self._past) - self._window)
        label, turns = f"{self._task}{left_out}\n", []
        for text, answer in self._past[-self._window :]:
            _add_turn(turns, label + text, answer)
            label = ""
        return turns

    def _prompt(
        self, beginning: Messages, turns: Messages, observation: str, answer: Answer | None = None, request: str = ""
    ) -> Messages:
        """Return a prompt: its beginning, earlier turns, the observation, and perhaps an action and a request.

        Its messages are copies, which the caller may change.
        """
        prompt = [message.copy() for message in beginning]
        prompt += [message.copy() for message in turns]
        prompt.append(_observed(turns, observation))
        if answer:
            prompt += answer.messages()
            prompt.append(answer_to(prompt[-1], request))
        return prompt


def _add_turn(turns: Messages, observation: str, answer: Answer) -> None:
    """Add an observation and the answer to it to earlier turns."""
    turns.append(_observed(turns, observation))
    turns += answer.messages()


def _observed(turns: Messages, text: str) -> Message:
    """Return the message of an observation after earlier turns."""
    return answer_to(turns[-1], text) if turns else _message("user", text)


@lru_cache(maxsize=64)
def _fingerprint(style: PromptStyle) -> str:
    return hashlib.sha256(orjson.dumps(style.as_dict(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _first_line(text: str) -> str:
    for line in text.splitlines():
        if line.strip():
            return line.strip().strip("`*").strip()
    return ""

"""Render records, training runs, prompts and environments as text for a person."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, NamedTuple

from eexp.errors import InputError, UsageError, short
from eexp.prompts.tool_calls import action_of, described_tool
from eexp.records.equality import action_form
from eexp.records.imagination import imagined_by
from eexp.records.outcomes import Shares, finishes, same_as_expert, transition_of
from eexp.records.record import expert_outcome, succeeded
from eexp.system.terminal import one_line, style

if TYPE_CHECKING:
    from eexp.envs.base import Environment
    from eexp.prompts import Answer, Messages, PromptStyle
    from eexp.training.data import Row


class Detail(NamedTuple):
    """How much of a record is shown.

    Attributes:
        step: The one step of a trajectory or turn of an episode that is shown; None for all.
        longest: Characters of an observation, a longer one is cut; None for all.
        as_tree: Whether of a trajectory only actions are shown, with what became of them.
    """

    step: int | None = None
    longest: int | None = None
    as_tree: bool = False

    def has(self, i: int) -> bool:
        """Return whether a step is shown."""
        return self.step is None or i == self.step

    def cut(self, text: str) -> str:
        """Return an observation, cut if it is too long."""
        if self.longest is None or len(text) <= self.longest:
            return text
        left_out = f"... ({len(text) - self.longest:,} characters more; --full shows them)"
        return text[: self.longest] + style(left_out, dim=True)


WHOLE = Detail()


def render(record: dict, before: dict | None = None, detail: Detail = WHOLE) -> str:
    """Return a record of any type as text.

    Args:
        before: The record that is shown before it, whose lineage is not repeated.

    Raises:
        InputError: It has no such step.
    """
    kind = record.get("type", "")
    if kind == "reject":
        return "\n".join(_reject(record))
    if detail.step is not None:
        number = len(record.get({"trajectory": "steps", "episode": "transcript"}.get(kind, ""), []))
        if detail.step >= number:
            raise InputError(f"{record['id']} has no step {detail.step}, only {number}")
    renderers: dict[str, Callable[[dict], Iterator[str]]] = {
        "trajectory": partial(_tree if detail.as_tree else _trajectory, detail=detail),
        "episode": partial(_episode, detail=detail),
        "example": _example,
        "preference": _preference,
    }
    lines_of = renderers.get(kind)
    if lines_of is None:
        raise InputError(f"a record of type {record.get('type')!r} cannot be shown", "$.type")
    head = style(f"{record['type']} {one_line(record['id'])}", bold=True)
    if (world_model := imagined_by(record)) is not None:
        head += style(one_line(f"  imagined by {world_model}"), dim=True)
    lines = [head, *lines_of(record)]
    if detail.as_tree:
        return "\n".join(lines)
    lineage = record.get("lineage", [])
    if lineage and before is not None and lineage == before.get("lineage"):
        lineage = ["lineage as above"]
    lines += [style(f"  {one_line(entry)}", dim=True) for entry in lineage]
    return "\n".join(lines)


def renderer(model: str | None = None, detail: Detail = WHOLE) -> Callable[[dict, dict | None], str]:
    """Return `render` or, with a model, a function that renders examples as the rows that the model is trained on."""
    if model is None:
        return partial(render, detail=detail)
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    tokenizer = load_tokenizer(model)
    row_of = row_maker(tokenizer)

    def render_with_rows(record: dict, before: dict | None) -> str:
        if record["type"] != "example":
            return render(record, before, detail)
        return render_row(record, row_of(record), tokenizer)

    return render_with_rows


def _after(mark: str, text: str) -> str:
    """Return text after a mark; its further lines are indented as far, so that none looks like a mark of its own."""
    return mark + indent(text, " " * len(mark), lambda line: True)[len(mark) :]


def _reject(reject: dict) -> Iterator[str]:
    """Yield the lines of what a stage has set aside."""
    place = one_line(f"{reject.get('file')}:{reject.get('line')}") if reject.get("file") else "no file"
    left_out = "" if reject.get("set_aside", True) else ", done without"
    yield style(f"reject of {one_line(str(reject.get('stage')))}, {place}{left_out}", bold=True)
    yield style(indent(str(reject.get("error")), "  "), fg="red")
    evidence = reject.get("evidence")
    for key, value in evidence.items() if isinstance(evidence, dict) else ():
        yield indent(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}", "    ")
    record = reject.get("record")
    if isinstance(record, dict) and record.get("id"):
        yield style(one_line(f"  {record.get('type')} {record['id']}"), dim=True)


def _outcome(outcome: dict | None, detail: Detail) -> str:
    if outcome is None:
        return style("not executed", dim=True)
    marks = [
        m
        for m, on in (
            ("invalid", outcome.get("valid") is False),
            ("done", outcome.get("done")),
            ("success", succeeded(outcome)),
        )
        if on
    ]
    text = detail.cut(outcome["observation"]) + (f"  [{', '.join(marks)}]" if marks else "")
    return "\n".join([text, *_screenshot(outcome)])


def _screenshot(state: dict) -> list[str]:
    """Return the line with the file of a state's picture; none where none was kept."""
    return [style(f"picture: {one_line(state['screenshot'])}", dim=True)] if state.get("screenshot") else []


def _task_line(t: dict) -> str:
    return _after("  ", f"{one_line(t['env'])}, task {one_line(str(t['task'].get('id')))}: {t['instruction']}")


def _tree(t: dict, detail: Detail) -> Iterator[str]:
    """Yield the path of a trajectory with its alternatives as branches, and what became of each: one line an action."""
    yield _task_line(t)
    shown = [(i, step) for i, step in enumerate(t["steps"]) if detail.has(i)]
    for i, step in shown:
        marks = [mark for mark in ("mistake", "repeated", "noise") if step.get(mark)]
        yield style(f"{i:>3} {one_line(step['action'])}", fg="green") + style(
            "".join(f"  [{m}]" for m in marks), dim=True
        )
        for a in step.get("alternatives") or []:
            outcome = a.get("outcome")
            if a.get("refused"):
                became = "branch not trusted"
            elif outcome is None:
                became = "not executed"
            elif finishes(outcome):
                became = "finishes the task"
            elif same_as_expert(step, expert_outcome(t, i), a, action_form(t)):
                became = "same as the expert's"
            else:
                became = transition_of(step["observation"], outcome).replace("invalid", "refused")
            colour = {"refused": "red", "finishes the task": "green"}.get(became)
            yield f"    ├─ {one_line(a['action'])}  " + style(became, fg=colour, dim=colour is None)
    if t.get("outcome") and detail.step is None:
        known = "success" if succeeded(t["outcome"]) else "no success"
        yield style(f"    {known if imagined_by(t) is None else 'imagined'}", dim=True)


def _trajectory(t: dict, detail: Detail) -> Iterator[str]:
    yield _task_line(t)
    yield from _functions(t)
    for i, step in enumerate(t["steps"]):
        if not detail.has(i):
            continue
        yield from _functions(step if i else {})
        yield indent("\n".join([detail.cut(step["observation"]), *_screenshot(step)]), "  ")
        if step.get("thought"):
            yield style(indent(step["thought"], "    "), fg="cyan")
        marks = [mark for mark in ("mistake", "repeated", "noise") if step.get(mark)]
        marked = style(f"  [{', '.join(marks)}]", dim=True) if marks else ""
        yield style(_after(f"  {i}> ", step["action"]), fg="green") + marked
        for a in step.get("alternatives", []):
            logprob = "" if a.get("logprob") is None else f" {a['logprob']:.1f}"
            pool = f", pool {a['pool']}" if a.get("pool") else ""
            source = style(one_line(f" ({a['source']}{logprob}{pool})"), dim=True)
            yield style(_after("     ~ ", a["action"]), fg="yellow") + source
            result = f"refused: {a['refused']}" if a.get("refused") else _outcome(a.get("outcome"), detail)
            yield indent(result, "         ")
            if then := a.get("then"):
                number = f"after {len(then)} action{'' if len(then) == 1 else 's'} more"
                number += ", " if then[-1].get("done") or succeeded(then[-1]) else ", where --steps ended, "
                number += f"{one_line(then[-1]['action'])}: "
                yield style(indent(number, "         "), dim=True) + _outcome(then[-1], detail)
    if t.get("outcome") and detail.step is None:
        yield indent(_outcome(t["outcome"], detail), "  ")


def _example(e: dict) -> Iterator[str]:
    kind = f"{e['kind']}, {e['transition']}" if e.get("transition") else e["kind"]
    words = f"  {kind}, weight {e.get('weight', 1.0):g}, style {e.get('prompt_style')}"
    yield style(one_line(words), dim=True)
    yield from _functions(e)
    for m in e["prompt"]:
        yield indent(render_message(m), "  ")
    for m in e["completion"]:  # the loss falls on this
        yield style(indent(render_message(m), "  "), fg="green")
    yield from _spans(e)


def _preference(p: dict) -> Iterator[str]:
    worse = f", worse: {p['worse']}" if p.get("worse") else ""
    words = f"  preference, weight {p.get('weight', 1.0):g}, style {p.get('prompt_style')}{worse}"
    yield style(one_line(words), dim=True)
    for m in p["prompt"]:
        yield indent(f"{m['role']}: {m['content']}", "  ")
    for name, colour in (("chosen", "green"), ("rejected", "red")):
        for m in p[name]:
            yield style(indent(f"{name}: {m['content']}", "  "), fg=colour)
        if outcome := p.get(f"{name}_outcome"):
            number = p.get(f"{name}_actions")
            done = f"  [task done after {number} action{'' if number == 1 else 's'}]" if number else ""
            yield style(indent(f"led to: {outcome}{done}", "    "), dim=True)


def _functions(state: dict) -> Iterator[str]:
    """Yield a line for each function that a record or a step brings."""
    for tool in state.get("tools") or []:
        yield style(one_line(f"  function {described_tool(tool)}"), dim=True)


def render_message(message: dict) -> str:
    """Return a message of a chat as text: its role, its content, and its calls as actions, one a line."""
    role = f"{message['role']} ({message['name']})" if message.get("name") else message["role"]
    calls = [f"  -> {action_of(call)}" for call in message.get("tool_calls") or ()]
    return "\n".join([f"{role}: {message['content']}".rstrip() if calls else f"{role}: {message['content']}", *calls])


def _spans(e: dict) -> Iterator[str]:
    """Yield the spans of an example that have a weight of their own or are unknown, and the scores of all."""
    text = e["completion"][-1]["content"]
    for span in e.get("spans") or []:
        if span.get("weight", 1.0) != 1 or span["name"] == "unknown":
            part = short(text[span["start"] : span["end"]])
            yield style(one_line(f"  {span['name']}, weight {span.get('weight', 1.0):g}: {part}"), dim=True)
    for score in e.get("scores") or []:
        words = f"  {score['span']}: log-probability {score['logprob']:.2f}, {score['tokens']} tokens"
        yield style(one_line(words), dim=True)


def _episode(e: dict, detail: Detail) -> Iterator[str]:
    verdict = style("success", fg="green") if e["success"] else style("failure", fg="red")
    if e["success"] is None:
        verdict = style("success not known" if imagined_by(e) is None else "imagined", dim=True)
    counts = f"{e['steps']} steps, {e.get('invalid', 0)} invalid"
    yield _after("  ", f"{verdict}, score {e.get('score')}, {counts}; {e.get('instruction')}")
    yield from _functions(e)
    for i, turn in enumerate(e.get("transcript", [])):
        if not detail.has(i):
            continue
        yield from _functions(turn if i else {})
        yield indent(detail.cut(turn["observation"]), "  ")
        reward = "" if turn.get("reward") is None else style(f"  [reward {turn['reward']:g}]", dim=True)
        action = indent(turn.get("text") or turn["action"], "  > ")
        yield style(action, fg=None if turn.get("valid", True) else "red") + reward
    if detail.step is None:
        yield indent(detail.cut(e.get("final") or ""), "  ")


def render_row(example: dict, row: Row, tokenizer: Any) -> str:
    """Return an example as the row of tokens that is trained on: counts, and its text with the targets in [[ ]]."""
    from eexp.training.preview import mark_targets

    targets: Counter[str] = Counter()
    for name, _, indices in row.spans():
        targets[name or "completion"] += len(indices)
    spans = ", ".join(f"{name} {n}" for name, n in targets.items())
    counts = (
        f"  {row.n_prompt + row.n_completion} tokens: prompt {row.n_prompt}, completion {row.n_completion}; "
        f"targets {row.n_targets}" + (f" ({spans})" if spans else "") + f", weight {row.weight:g}"
    )
    head = style(f"example {one_line(example['id'])}", bold=True)
    return "\n".join([head, style(counts, dim=True), indent(mark_targets(tokenizer, row), "  ")])


def summary(records: Iterable[dict]) -> list[str]:
    """Return what can be counted in records, as lines of text."""
    counts: dict[str, Counter[str]] = {}
    imagined: Counter[str] = Counter()
    shares = Shares()
    for record in records:
        counted = counts.setdefault(record["type"], Counter())
        part = {"example": "kind", "preference": "worse"}.get(record["type"])
        counted[record["type"] if part is None else record.get(part) or "unnamed"] += 1
        imagined[record["type"]] += imagined_by(record) is not None
        if record["type"] == "trajectory":
            counted["steps"] += len(record["steps"])
            shares.add(record)
        elif record["type"] == "episode":
            counted["steps"] += record["steps"]
            counted["successes"] += bool(record["success"])
            counted["not known"] += record["success"] is None and imagined_by(record) is None

    def of_them(record_type: str) -> str:
        return f"; imagined: {imagined[record_type]}" if imagined[record_type] else ""

    lines = []
    if trajectories := counts.get("trajectory"):
        total, steps = trajectories["trajectory"], trajectories["steps"]
        lines.append(f"trajectories: {total}, of {steps} steps{of_them('trajectory')}")
        lines += [f"  alternatives {line}" for line in shares.lines()]
    if examples := counts.get("example"):
        kinds = ", ".join(f"{n} {one_line(kind)}" for kind, n in sorted(examples.items()))
        lines.append(f"examples: {examples.total()}, of which {kinds}{of_them('example')}")
    if preferences := counts.get("preference"):
        kinds = ", ".join(f"{n} {one_line(worse)}" for worse, n in sorted(preferences.items()))
        lines.append(f"preferences: {preferences.total()}, of which {kinds}{of_them('preference')}")
    if episodes := counts.get("episode"):
        total, steps, successes = episodes["episode"], episodes["steps"], episodes["successes"]
        lines.append(f"episodes: {total}, of {steps} steps, {successes} successes{of_them('episode')}")
        lines[-1] += f"; success not known: {episodes['not known']}" if episodes["not known"] else ""
    return lines


# -- models and training runs ------------------------------------------------------------------------------------------


def render_run(directory: Path) -> str:
    """Return the model card and the end of the loss curve of a training run."""
    from eexp.training.metrics import last_updates, read_curves

    card = directory / "README.md"
    if not card.is_file():
        raise UsageError(f"{directory}: holds no training run (no README.md)")
    lines = [card.read_text(encoding="utf-8")]
    metrics = directory / "metrics.jsonl"
    if metrics.is_file():
        _, validations = read_curves(metrics)
        lines += [_update(row) for row in last_updates(metrics, 5)]
        lines += [f"step {step}: validation loss {_losses(validation)}" for step, validation in validations]
    return "\n".join(lines)


def _update(row: dict) -> str:
    values = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "margin", "clipped") if name in row)
    return f"step {row['step']}: {values}"


def _losses(validation: dict) -> str:
    spans = ", ".join(f"{span} {entry['loss']:.4f}" for span, entry in validation["spans"].items())
    return f"{validation['loss']:.4f} ({spans})"


def render_gguf(file: str) -> str:
    """Return what the header of a GGUF file says about the model or adapter and how it was trained."""
    from eexp.gguf.file import read_header

    return "\n".join(f"{key}: {value}" for key, value in sorted(read_header(file).strings.items()))


# -- prompts -----------------------------------------------------------------------------------------------------------


def render_prompts(prompt_style: PromptStyle, trajectory: dict, i: int) -> str:
    """Return the prompts and answers of a prompt style for state `i` of a trajectory.

    Raises:
        InputError: The trajectory has no such state.
    """
    from eexp.examples.reflection.requests import reflection_prompt
    from eexp.examples.reflection.situations import situations

    steps = trajectory["steps"]
    if i >= len(steps):
        raise InputError(f"{trajectory['id']}: has no step {i}, only {len(steps)}", "$.steps")
    step, before, task = steps[i], steps[:i], trajectory["instruction"]
    state = (task, before, step["observation"])
    outcome = (expert_outcome(trajectory, i) or {}).get("observation", "(not recorded)")
    thought = step.get("thought") or "(the thought stands here)"
    situation = replace(situations(trajectory, needed=False)[i], outcome={"observation": outcome})
    parts = [
        ("acting", prompt_style.act(*state, step.get("admissible")), prompt_style.answer(step["action"], number=i)),
        (
            "acting, with a thought",
            prompt_style.act(*state, step.get("admissible"), think=True),
            prompt_style.answer(step["action"], thought, i),
        ),
        ("world modelling", prompt_style.world_model(*state, step["action"]), prompt_style.world_model_answer(outcome)),
        ("asking for a summary", prompt_style.ask_summary(task, step["action"], outcome), None),
        ("asking for a reflection", reflection_prompt(prompt_style, situation), None),
    ]
    return "\n\n".join(_part(*part) for part in parts)


def _part(title: str, prompt: Messages, target: Answer | None) -> str:
    lines = [style(title, bold=True), *map(render_message, prompt)]
    answers = target.messages() if target else []
    return "\n".join([*lines, *(style(render_message(message), fg="green") for message in answers)])


# -- environments ------------------------------------------------------------------------------------------------------


def render_environment(env: Environment, task_id: str | None = None) -> Iterator[str]:
    """Yield lines on an environment and one of its tasks, the first one unless another is named.

    Raises:
        UsageError: There is no such task.
    """
    from eexp.envs import forking
    from eexp.envs.base import FORK_WAYS
    from eexp.envs.check import MOST_TASKS
    from eexp.envs.naming import find_task

    sentence = " ".join((env.__doc__ or "").split()).partition(". ")[0].rstrip(".")
    yield f"{env.spec}: {sentence}"
    for split in env.splits():
        n = sum(1 for _ in islice(env.list_tasks(split), MOST_TASKS))
        yield f"  {split}: {n:,} tasks" + (" and more" if n == MOST_TASKS else "")
    ways = ", ".join(way for way in FORK_WAYS if forking.why_unfit(env, way) is None)
    yield f"  at most {env.max_steps} actions an episode; branches by {ways}"
    task = find_task(env, task_id)
    observation = env.reset(task)
    listed, advice = env.admissible(), env.expert()
    yield f"  admissible actions: {'not listed' if listed is None else f'{len(listed)} at the beginning'}"
    yield f"  expert: {'none' if advice is None else 'yes'}"
    yield ""
    yield style(f"task {task['id']}", bold=True)
    yield f"  {env.instruction()}"
    yield f"  {observation.text}"
    for action in (listed or [])[:10]:
        yield style(f"  - {action}", fg="green" if action == advice else None)
    if listed and len(listed) > 10:
        yield f"  - and {len(listed) - 10} more"
    if advice is not None:
        yield style(f"  expert> {advice}", fg="green")

"""Examples of an agent's own episodes, weighted by how much better each did than the others of its task."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from eexp.errors import InputError
from eexp.examples.settings import PolicySettings
from eexp.prompts import PromptStyle
from eexp.prompts.style import Answer, Dialogue
from eexp.records.callbacks import Count, OnError, no_count, stop_at_error
from eexp.records.imagination import only_judged, only_real
from eexp.records.record import example, succeeded

ALIKE = "episode[s] of tasks whose episodes all did equally well"
CUT_OFF = "turn[s] cut off before the action"
_ROUNDING = 1e-12  # a weight that is no larger is 0, but for the last digits of a mean


def policy_data(
    episodes: Iterator[dict],
    style: PromptStyle,
    settings: PolicySettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield an example for every turn that has a weight, from the episodes of an agent.

    The weight of an example is its advantage: the reward of its episode minus a baseline, the mean reward of the same
    task, and what the turn itself adds (`turn_rewards`, `refused`). Where that is negative, training makes the answer
    less likely. One update on all examples is then a step along the policy gradient, as in GRPO (Shao et al. 2024,
    arXiv 2402.03300) on episodes that the model itself has just played; there is no clipping, because there is nothing
    to clip in the first update, and no division by the standard deviation unless it is asked for (Liu et al. 2025,
    arXiv 2503.20783).

    By default, the mean is over turns (Hao et al. 2025, arXiv 2505.23585). Episodes that fail are longer, so with a
    mean over episodes most turns have a negative weight, and what all answers begin with becomes less likely from round
    to round.

    Args:
        episodes: Episodes, several of each task. All of them are read before the first example is made.
        style: The prompt style with which they were played.
        count: Called with the numbers of episodes and turns that are left out.
        on_error: Called with an episode that was played with another prompt style, or without functions where actions
            are tool calls.
    """
    settings = settings or PolicySettings()
    tasks: dict[str, list[dict]] = {}
    ids: set[str] = set()
    by_success = settings.reward == "success"
    for episode in only_judged(episodes, on_error) if by_success else only_real(episodes, "success", on_error):
        try:
            _check(episode, style)
            if settings.turn_rewards:
                _check_rewards(episode)
        except InputError as e:
            on_error(episode, e)
            continue
        count("episode[s] given more than once", int(episode["id"] in ids))
        ids.add(episode["id"])
        tasks.setdefault(_task_of(episode), []).append(episode)
    dialogue = Dialogue(style)
    for played in tasks.values():
        weights = _weights(played, settings)
        if not any(map(any, weights)):
            count(ALIKE, len(played))
            continue
        for episode, of_turns in zip(played, weights):
            yield from _examples(episode, of_turns, dialogue, style, count)


def _task_of(episode: dict) -> str:
    return f"{episode['env']}/{episode['task'].get('id')}"


def _check(episode: dict, style: PromptStyle) -> None:
    """Check that an episode can be trained on in a prompt style.

    Raises:
        InputError: It was played with another one, lacks the functions or the admissible actions of its prompts, or has
            an action that no answer in this style can have had.
    """
    played = episode.get("prompt_style")
    if played != style.label:
        if not played:
            raise InputError("played with no prompt style, so not by a language model", "$.prompt_style")
        reason = f"played with prompt style {played}; examples here have {style.label} (--prompt-style)"
        raise InputError(reason, "$.prompt_style")
    if any(entry.startswith("eval ") and " look-ahead=" in entry for entry in episode.get("lineage") or []):
        raise InputError("played with --look-ahead: its actions are not the policy's own draws", "$.lineage")
    if episode.get("recalled"):
        raise InputError("played with --recall: its prompts held other episodes, which it does not hold", "$.recalled")
    if style.acting.list_admissible:
        for i, turn in enumerate(episode["transcript"]):
            if turn.get("admissible") is None:
                reason = "no admissible actions, which its prompt listed (played before eexp recorded them)"
                raise InputError(reason, f"$.transcript[{i}]")
    style.shown_tools(episode.get("tools"))
    for i, turn in enumerate(episode["transcript"]):
        if turn.get("text") is None and not turn.get("cut_off"):
            try:
                style.completion(turn["action"], turn.get("thought"))
            except InputError as e:
                raise e.at(f"$.transcript[{i}].action") from None


def _check_rewards(episode: dict) -> None:
    """Raise InputError for an episode whose turns have no rewards."""
    for i, turn in enumerate(episode["transcript"]):
        if turn.get("reward") is None:
            raise InputError("no reward; `eexp reward` gives one to every turn", f"$.transcript[{i}]")


def _weights(played: list[dict], settings: PolicySettings) -> list[list[float]]:
    """Return the weight of each turn of the episodes of one task."""
    rewards = [_reward(episode, settings) for episode in played]
    own = [[_of_turn(turn, settings) for turn in episode["transcript"]] for episode in played]
    turns = sum(map(len, own))
    usual = sum(map(sum, own)) / turns if turns else 0.0
    mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
    if settings.baseline == "turns" and turns:
        mean = sum(reward * len(of_turns) for reward, of_turns in zip(rewards, own)) / turns
    weights = [
        [(reward - mean) / (spread if settings.scale and spread else 1.0) + one - usual for one in of_turns]
        for reward, of_turns in zip(rewards, own)
    ]
    return [[weight if abs(weight) > _ROUNDING else 0.0 for weight in of_turns] for of_turns in weights]


def _of_turn(turn: dict, settings: PolicySettings) -> float:
    """Return what a turn adds to the reward of its episode for itself."""
    refused = settings.refused * (turn.get("valid") is False)
    return (settings.turn_rewards * turn["reward"] if settings.turn_rewards else 0.0) - refused


def _reward(episode: dict, settings: PolicySettings) -> float:
    if settings.reward == "success":
        return float(succeeded(episode))
    return float(episode.get("score") or 0.0) if settings.reward == "score" else 0.0


def _examples(
    episode: dict, weights: list[float], dialogue: Dialogue, style: PromptStyle, count: Count
) -> Iterator[dict]:
    """Yield the examples of an episode; the dialogue is left at its end."""
    source = {"id": episode["id"], "origin": _task_of(episode), "lineage": episode.get("lineage", [])}
    tools = episode.get("tools")
    dialogue.start(episode.get("instruction") or "")
    for i, (turn, weight) in enumerate(zip(episode["transcript"], weights)):
        tools = turn.get("tools") if turn.get("tools") is not None else tools
        prompt = dialogue.act(turn["observation"], turn.get("admissible"), bool(turn.get("thought")))
        dialogue.add(turn)
        if turn.get("cut_off"):
            count(CUT_OFF, 1)
            continue
        count("turn[s] of weight 0", int(not weight))
        if weight:
            answer = _answer(turn, i, style)
            yield example(
                source,
                f"{i}/policy",
                "policy",
                prompt,
                answer.messages(),
                style.label,
                **style.tools_field(tools),
                weight=weight,
                spans=answer.spans,
            )


def _answer(turn: dict, i: int, style: PromptStyle) -> Answer:
    """Return the answer that the model wrote in a turn, with its spans where it kept to the prompt style."""
    answer = style.answer(turn["action"], turn.get("thought"), i)
    text = turn.get("text")
    if text is None or style.action.calls or text.strip() == answer.text.strip():
        return answer
    return Answer(text, [])

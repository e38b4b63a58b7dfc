"""The episodes that a report shows: those of all runs on a sample of tasks, in a compact form.

Five training seeds of four arms on 500 tasks are 10,000 episodes, about 80 MB. A page holds those of a few tasks, drawn
at random and never by their outcome. Texts are numbered, since most observations occur many times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from eexp.envs.task_names import Key, key_of
from eexp.records.jsonl import dumps
from eexp.records.record import canonical, seed_of
from eexp.report.study import Arm

REFUSED, CUT_OFF = 1, 2  # flags of a turn
MARKS = 20  # characters that a prompt style puts around a thought and an action, such as "Thought: Action: "


def excerpts(
    arms: Sequence[Arm], kind_of: Callable[[dict], str | None], *, tasks: int, most_bytes: int, seed: int = 0
) -> dict:
    """Return the episodes to show, in the form that page.js reads.

    Only tasks that all runs have played are shown, and only the first trial of each.

    Args:
        arms: All arms of the study; every one of their runs is read once for the tasks, and once for the episodes.
        kind_of: Returns the kind of task of an episode, or None.
        tasks: Most tasks to show.
        most_bytes: Tasks are left out as soon as the episodes take more than this; one is always kept.
        seed: Of the random order in which tasks are taken.

    Returns:
        `texts`: numbered texts. `tasks`: id, kind, instruction and `episodes` of each, by "ARM/RUN" (the numbers of
        the arm and the run), each [success, score, steps, refused actions, cut-off turns, last observation, turns]. A
        turn is [observation, action, thought or -1, flags] and, for flags that are not 0, the text the model wrote or
        -1. `of`: how many tasks there are. `trials`: whether some were played more than once.
    """
    runs_of_task: Counter[Key] = Counter()
    trials = False
    for arm in arms:
        for run in arm.runs:
            run_tasks = set()
            for episode in run.episodes():
                run_tasks.add(key_of(episode))
                trials = trials or episode.get("seed", 0) > 0
            runs_of_task.update(run_tasks)
    in_all_runs = [task for task, n in runs_of_task.items() if n == sum(len(arm.runs) for arm in arms)]
    chosen = sorted(in_all_runs, key=lambda task: (seed_of(seed, *task), task))[:tasks]
    episodes = _read(arms, set(chosen))
    texts: dict[str, int] = {}
    entries: list[dict] = []
    size = 0
    for task in chosen:
        by_run = {key: of_run[task] for key, of_run in episodes.items() if task in of_run}
        numbered = dict(texts)
        first = next(iter(by_run.values()))
        kinds = (kind_of(episode) for episode in by_run.values())
        entry = {
            "id": task[1],
            "env": task[0],
            "kind": next((kind for kind in kinds if kind is not None), None),
            "instruction": first.get("instruction") or "",
            "episodes": {key: _compact(episode, numbered) for key, episode in by_run.items()},
        }
        size += len(dumps(entry)) + len(dumps(list(numbered)[len(texts) :]))
        if entries and size > most_bytes:
            break
        texts = numbered
        entries.append(entry)
    return {"texts": list(texts), "tasks": entries, "of": len(in_all_runs), "trials": trials}


def _read(arms: Sequence[Arm], chosen: set[Key]) -> dict[str, dict[Key, dict]]:
    """Return the first trial of every chosen task, by arm and run."""
    episodes: dict[str, dict[Key, dict]] = {}
    for i, arm in enumerate(arms):
        for j, run in enumerate(arm.runs):
            of_run = episodes.setdefault(f"{i}/{j}", {})
            for episode in run.episodes():
                task = key_of(episode)
                if task in chosen and (task not in of_run or episode.get("seed", 0) < of_run[task].get("seed", 0)):
                    of_run[task] = episode
    return episodes


def _compact(episode: dict, texts: dict[str, int]) -> list:
    """Return an episode as `excerpts` describes it; texts that are new get the next numbers in `texts`."""

    def number(text: str | None) -> int:
        return -1 if text is None else texts.setdefault(text, len(texts))

    turns = []
    for turn in episode.get("transcript") or []:
        flags = REFUSED * (not turn.get("valid", True)) + CUT_OFF * bool(turn.get("cut_off"))
        numbers = [number(turn["observation"]), number(turn["action"]), number(turn.get("thought")), flags]
        if flags:
            numbers.append(number(_as_written(turn)))
        turns.append(numbers)
    return [
        int(episode["success"]),
        episode.get("score"),
        episode["steps"],
        episode.get("invalid", 0),
        episode.get("cut_off", 0),
        number(episode.get("final")),
        turns,
    ]


def _as_written(turn: dict) -> str | None:
    """Return the text the model wrote if it has more than the thought and the action, which are shown anyway."""
    text = turn.get("text")
    if text is None or turn.get("cut_off"):
        return text
    rest = text.replace(turn.get("thought") or "", "", 1)
    before, _, after = rest.rpartition(turn["action"]) if turn["action"] else (rest, "", "")
    return text if len(canonical(before + after)) > MARKS else None

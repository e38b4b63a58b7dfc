"""Settings of the stages in which an environment is acted in, from `expert` to `eval`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eexp.acting.audit import FIRST, FIRST_SHARE
from eexp.envs.base import FORK_AUTO, FORK_WAYS
from eexp.errors import InputError, UsageError
from eexp.formats.names import (
    ALL,
    ARGUMENT,
    EPISODES,
    LAST,
    MARKED,
    ROWS,
    WEBARENA_TASKS,
    WHOLE,
    WITHOUT_TOOLS,
)
from eexp.records.record import canonical
from eexp.settings import (
    ADMISSIBLE,
    FILE,
    MAX_STEPS,
    POOL,
    RECALL,
    RECALL_COUNT,
    SEED,
    Checked,
    Finite,
    Number,
    Parsed,
    Whole,
    Word,
    first,
    option,
    recorded,
    temperature,
)

if TYPE_CHECKING:
    from eexp.formats.episodes import Selection
    from eexp.models.policy import Policy

SOURCES = ["policy", "admissible", "mixed", "scored"]

MIN_P = 0.05  # the default of --min-p where texts are drawn without replacement


@dataclass(frozen=True)
class ExpertSettings(Checked):
    """Settings of `expert`."""

    admissible: int | None = ADMISSIBLE.field()
    max_steps: int | None = MAX_STEPS.field()
    noise: float = option(0, type=Finite(0, 1, max_open=True), metavar="P").help(
        "Share of the expert's actions that are replaced by another admissible action, drawn at random."
    )
    seed: int = SEED.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide the output but for the seed, by the names of their options."""
        admissible = "all" if self.admissible is None else self.admissible
        return {"admissible": admissible, "max_steps": self.max_steps, "noise": self.noise or None}


def _prefix(words: str) -> str:
    if not canonical(words):
        raise ValueError(f"{words!r} has no words")
    return words


def _pool_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r} is no name: use letters, digits, '.', '_' and '-'")
    return name


@dataclass(frozen=True)
class BranchSettings(Checked):
    """Settings of `branch`.

    Texts of the policy are drawn without replacement or, with `replacement`, each on its own; either way another one is
    drawn where an action is empty, is the expert's, is dropped or is there already.
    """

    k: int = option(4, "-k", type=Whole(1)).help("Number of alternatives to add to every state.")
    #: Shared among all states by `allocation.allocate`; None adds `k` to every state.
    add: int | None = option(None, type=Whole(1)).help(
        "Keep the alternatives that are there, and add N in all: to the states where one more is most likely to have "
        "a new outcome. -k is then the most that one state gets."
    )
    source: str = option("policy", "--from", type=Word(SOURCES)).help(
        "Source of alternatives. policy: sampled from the policy. admissible: drawn uniformly from the admissible "
        "actions. mixed: half from each. scored: admissible actions, drawn by the policy's probabilities."
    )
    temperature: float = temperature(1.0).field()
    replacement: bool = option(False).help(
        "Sample with replacement: draw every text independently, and drop actions that were drawn before."
    )
    top_p: float | None = option(None, type=Number(0, 1, min_open=True), metavar="P").help(
        "Nucleus sampling: draw every token from the fewest most probable ones whose probabilities add up to P.  "
        "[default: from all]"
    )
    #: The floor: alternatives that are less than this times as probable as the most probable one are dropped. Where
    #: texts are drawn without replacement, that is the most probable alternative there is, and `rounds` is not used up
    #: on texts below the floor; else it is the most probable one drawn. 0 sets no floor; None is the default of
    #: `resolved`.
    min_p: float | None = option(None, type=Number(0, 1), metavar="P").help(
        "Drop alternatives that are less than P times as probable as the most probable one in the same "
        f"state; 0 drops none.  [default: {MIN_P:g} where texts are drawn without replacement, else 0]"
    )
    rounds: int = option(10, type=Whole(1)).help(
        "Sample at most N times k texts in a state. Then add admissible actions, up to k."
    )
    only_admissible: bool = option(True).help(
        "Drop samples of the policy that are not admissible. Only where the list of admissible actions is complete."
    )
    ban: tuple[str, ...] = option((), type=Parsed(_prefix), multiple=True, metavar="PREFIX").help(
        "Leave out actions that begin with these words. May be repeated."
    )
    pool: str | None = option(None, type=Parsed(_pool_name), metavar="NAME").help(
        "Add the alternatives under this name and keep those of other pools.  [default: replace all]"
    )
    seed: int = SEED.field()

    @property
    def without_replacement(self) -> bool:
        """Whether texts are drawn without replacement, where the policy can."""
        return self.source in ("policy", "mixed") and self.temperature > 0 and not self.replacement

    def resolved(self, policy: Policy | None) -> BranchSettings:
        """Return the settings with the floor of a policy: MIN_P where it draws without replacement, else none."""
        if self.min_p is not None:
            return self
        return replace(self, min_p=MIN_P if policy and policy.exact and self.without_replacement else 0.0)

    def lineage(self, policy: Policy | None, max_tokens: int | None) -> dict[str, Any]:
        """Return the settings that decide the output, by the names of their options."""
        entries = recorded(self, "k", "add", "source", "seed")
        if policy:
            entries |= {"model": policy.fingerprint, "prompt_style": policy.style_label}
            entries |= {"temperature": self.temperature, "min_p": self.min_p or None}
            if self.source != "scored":
                entries |= {"rounds": self.rounds, "max_tokens": max_tokens}
                entries |= {**recorded(self, "top_p", "only_admissible"), "replacement": self.replacement or None}
        return entries | {"ban": ",".join(self.ban) or None, "pool": self.pool}


@dataclass(frozen=True)
class RolloutSettings(Checked):
    """Settings of `rollout`."""

    fork: str = option(FORK_AUTO, type=Word([FORK_AUTO, *FORK_WAYS])).help(
        "How to return to a state. state: the environment copies its state. process: its process is forked. replay: "
        "the actions before it are taken again. auto: the first of these that works."
    )
    again: bool = option(False).help("Execute alternatives that have an outcome, too.")
    audit: float = option(0.02, type=Number(0, 1), metavar="SHARE").help(
        "Share of the alternatives to execute a second time, by a replay from the task's beginning, half of them "
        f"in another process, too. Another outcome ends the run (exit code 1). Of the first {FIRST} of every "
        f"environment, a share of at least {FIRST_SHARE:g} is audited, and one in every trajectory. 0 audits none."
    )


@dataclass(frozen=True)
class FollowSettings(Checked):
    """Settings of `follow`."""

    steps: int = option(10, type=Whole(1)).help("Longest continuation, in actions after the alternative.")
    pool: str | None = POOL.field()
    first: int | None = first(1).field()
    again: bool = option(False).help("Follow alternatives again that have `then` already.")
    temperature: float = temperature(0.0).field()
    seed: int = SEED.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        again = {"again": self.again or None}
        return {"steps": self.steps, **recorded(self, "pool", "first"), "temperature": self.temperature, **again}


@dataclass(frozen=True)
class RelabelSettings(Checked):
    """Settings of `relabel`."""

    stitch: int = option(0, type=Whole(0)).help(
        "Let paths go on with up to N actions that were executed in another trajectory, in a state with the same "
        "observation. Like every path, these are executed before they are written."
    )
    prune: bool = option(True).help(
        "Leave out actions without which the others still solve the task, one or two at a time. Actions that tell what "
        "nothing before them determines (`unknown`) stay."
    )
    per_goal: int | None = option(None, type=Whole(1)).help(
        "Largest number of demonstrations with the same instruction; a random choice is written.  [default: all]"
    )
    per_trajectory: int | None = option(None, type=Whole(1)).help(
        "Largest number of demonstrations made of one trajectory; the longest are written.  [default: all]"
    )
    apart_from: str | None = option(None, type=FILE, metavar="PANEL").help(
        "Leave out tasks that begin with the same observation and have the same instruction as a task of this panel "
        "(`eexp panel`)."
    )
    pool: str | None = POOL.field()
    first: int | None = first(0).field()
    admissible: int | None = ADMISSIBLE.field()
    seed: int = SEED.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        admissible = "all" if self.admissible is None else self.admissible
        return {**asdict(self), "prune": None if self.prune else "no", "admissible": admissible}


@dataclass(frozen=True)
class CorrectSettings(Checked):
    """Settings of `correct`."""

    turns: int = option(1, type=Whole(1)).help("Correct up to N turns of an episode, from the first one on.")
    admissible: int | None = ADMISSIBLE.field()
    seed: int = SEED.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {**asdict(self), "admissible": "all" if self.admissible is None else self.admissible}


@dataclass(frozen=True)
class RewardSettings(Checked):
    """Settings of `reward`."""

    by: str = option("progress", type=Word(["progress", "similarity"])).help(
        "What a turn is rewarded for. progress: by how many actions a turn shortened the expert's way to the end, "
        "from -1 to 1. similarity: how "
        "similar the action is to the expert's in the same state, from 0 to 1."
    )

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return asdict(self)


@dataclass(frozen=True)
class ImportSettings(Checked):
    """Settings of `import_` and `import_episodes`."""

    no_replay: bool = option(False).help(
        "Take the contents of the records as they are: nothing is checked, nothing filled in."
    )
    success: bool = option(False).help("Leave out records that did not succeed.")
    min_score: float | None = option(None, type=Finite(min=0, max=1), metavar="SCORE").help(
        "Leave out records that ended with a lower score, or with none."
    )
    drop_invalid: bool = option(False).help(
        "Leave out refused actions. A second replay, without them, checks that they changed nothing."
    )
    distinct: bool = option(False).help("Keep only the first of several trajectories of a task with the same actions.")
    action: str | None = option(None, type=Word([MARKED, WHOLE, ARGUMENT])).help(
        'Where the action is in an agent\'s turn. marked: after "Action:", with a thought before it. whole: the whole '
        "text, or the tool call in Python's notation. argument: the only argument of the tool call.  "
        "[default: whole for messages, else marked]"
    )
    drop_closing: bool = option(False).help(
        'Leave out a closing remark: a last message without a tool call, such as "Done.", in a chat of tool calls.'
    )
    branches: str = option(LAST, type=Word([LAST, ALL])).help(
        "Which branches of a graph of messages become trajectories (verifiers). With all of them, steps that a branch "
        "shares with an earlier one are marked as repeated, and imitated once."
    )
    task_key: str | None = option(None, metavar="KEY").help(
        "The key of a record that names its task.  [default: item_id, or game_file, or id]"
    )
    name: str | None = option(None, metavar="NAME").help(
        "The environment's name (`env`) in records that are not replayed.  "
        "[default: the format's; for episodes, the one they name]"
    )
    split: str | None = option(None, metavar="NAME").help("Look for the task in this split.  [default: in all of them]")
    match: str | None = option(None, metavar="TEMPLATE").help(
        "How the records name the environment's tasks, written with the keys of a task, such as "
        "{level}/{seed}.  [default: {id}; for a server of AgentGym, the number at the end]"
    )
    mapping: str | None = option(None, "--map", type=FILE).help(
        "A JSON object from the names of tasks in the records to those of the environment."
    )
    trust: str = option("record", type=Word(["record", "environment"])).help(
        "Which to believe where record and environment differ. record: refuse the record. environment: count the "
        "difference and write what the environment answers."
    )
    site: str | None = option(None, metavar="NAME=URL").help(
        "The site of WebArena whose tasks are written, such as shopping=http://localhost:7770 (webarena-tasks)."
    )
    test: str | None = option(None, type=FILE).help(
        "A file with the tasks of the split test, such as those of WebArena-Lite; all others are the split train "
        "(webarena-tasks).  [default: all are the split test]"
    )
    storage: str | None = option(None, type=FILE).help(
        "The file with the cookies of that site's login, as Playwright saves its storage state (webarena-tasks)."
    )
    admissible: int | None = ADMISSIBLE.field()
    seed: int = SEED.field()

    @property
    def selection(self) -> Selection:
        """Which trajectories are kept."""
        from eexp.formats.episodes import Selection

        return Selection(self.success, self.min_score, self.distinct)

    def check(self, format: str, replayed: bool) -> None:
        """Raise UsageError for an option that would change nothing."""
        about_tasks = {"--split": self.split, "--match": self.match, "--map": self.mapping}
        if format != WEBARENA_TASKS:
            for name, value in {"--site": self.site, "--test": self.test, "--storage": self.storage}.items():
                if value:
                    raise UsageError(f"{name} is for {WEBARENA_TASKS}")
        about_records = {
            "--action": self.action,
            "--branches": self.branches == ALL,
            "--drop-closing": self.drop_closing,
            "--task-key": self.task_key,
        }
        if format == WEBARENA_TASKS:
            kept = ("site", "test", "storage", "seed")
            names = [field.name for field in fields(self) if field.name not in kept]
            plain = recorded(ImportSettings(), *names)
            if given := [label for label, value in recorded(self, *names).items() if value != plain[label]]:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} is for trajectories; {WEBARENA_TASKS} become a file of tasks"
                )
            if self.site is None:
                raise UsageError(f"{WEBARENA_TASKS}: name a site that you run: --site shopping=http://localhost:7770")
        elif format in ROWS:
            about_trajectories = {
                **about_tasks,
                "--action": self.action,
                "--branches": self.branches == ALL,
                "--drop-closing": self.drop_closing,
                "--success": self.success,
                "--min-score": self.min_score is not None,
                "--drop-invalid": self.drop_invalid,
                "--distinct": self.distinct,
            }
            for name, value in about_trajectories.items():
                if value:
                    raise UsageError(f"{name} is for trajectories; rows of {format} become examples")
        elif format == EPISODES:
            for name, value in {**about_records, **about_tasks}.items():
                if value:
                    raise UsageError(f"{name} is for records of other projects; an episode holds the same itself")
        elif self.drop_closing and format in WITHOUT_TOOLS:
            raise UsageError("--drop-closing is for chats with calls of tools, which only messages have")
        elif self.action == ARGUMENT and format in WITHOUT_TOOLS:
            raise UsageError("--action argument is for calls of tools, which only messages have")
        elif not replayed:
            for name, value in about_tasks.items():
                if value:
                    raise UsageError(f"{name} is about the environment's tasks; it needs --env")
            if self.success or self.min_score is not None:
                raise UsageError(f"records of {format} say nothing of success; --success and --min-score need --env")
        if self.drop_invalid and not replayed:
            raise UsageError("only a replay can tell that a refused action changed nothing; --drop-invalid needs one")
        if replayed and self.name:
            raise UsageError("--name is for records that are not replayed; with --env it is the environment's")

    def lineage(self, replayed: bool) -> dict[str, Any]:
        """Return the settings that decide the output, by the names of their options."""
        entries = recorded(self, "action", "task_key")
        entries |= {"drop-closing": self.drop_closing or None, "branches": ALL if self.branches == ALL else None}
        if replayed:
            entries |= recorded(self, "split", "match", "mapping", "trust")
            entries |= {"admissible": "all" if self.admissible is None else self.admissible, "seed": self.seed}
        else:
            entries |= {"replay": "no" if self.no_replay else None, "name": self.name}
        return {
            **entries,
            "success": "yes" if self.success else None,
            "min_score": self.min_score,
            "drop_invalid": "yes" if self.drop_invalid else None,
            "distinct": "yes" if self.distinct else None,
        }

    def names(self) -> dict[str, str] | None:
        """Return the contents of the file `mapping`; raise InputError if it holds no object of strings."""
        from eexp.records.jsonl import loads, refuse_other_files

        file = self.mapping
        if file is None:
            return None
        try:
            contents = Path(file).read_bytes()
        except OSError as e:
            raise InputError(f"{file}: {e.strerror or e}") from None
        refuse_other_files(contents, file, pipes=False)
        try:
            names = loads(contents)
        except InputError as e:
            raise InputError(f"{file}: {e}") from None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{file}: expected an object of strings")
        return names


@dataclass(frozen=True)
class TaskSelection:
    """The tasks that `eexp eval` plays."""

    number: int | None = option(None, "-n", "--number", type=Whole(1)).help(
        "Number of tasks.  [default: all of the split or panel]"
    )
    skip: int = option(0, type=Whole(0)).help(
        "Pass over that many tasks first, so that several machines can share the work."
    )
    split: str | None = option(None, metavar="NAME").help("The split to take tasks from.  [default: test]")
    panel_file: str | None = option(None, "--panel", type=FILE).help(
        "Play the tasks of this panel, made by `eexp panel`; it names its environment."
    )
    trials: int = option(1, type=Whole(1)).help("Episodes a task; more than one makes sense at a temperature above 0.")

    def part_of(self, tasks: list[dict]) -> list[dict]:
        """Return the tasks of a panel that are selected."""
        return tasks[self.skip : None if self.number is None else self.skip + self.number]


@dataclass(frozen=True)
class EvalSettings(Checked):
    """Settings of `evaluate`. Temperature 0 is greedy."""

    temperature: float = temperature(0.0).field()
    max_steps: int | None = MAX_STEPS.field()
    only_admissible: bool = option(False).help("Constrained decoding: the policy can write only admissible actions.")
    look_ahead: int | None = option(None, type=Whole(2), metavar="K").help(
        "Look-ahead: try each action in a fork of the environment first, or ask a world model (--look-ahead-with). "
        "If it is refused, changes nothing or ends the episode without success, sample another one at temperature 1, "
        "up to K in all. The first one that does better is taken."
    )
    recall: str | None = RECALL.field()
    recall_count: int = RECALL_COUNT.field()
    seed: int = SEED.field()

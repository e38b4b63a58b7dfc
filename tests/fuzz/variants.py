"""The stages under test: how each is called, what it reads, and what it promises."""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversations import agenttraj_of, calling_of, eto_of, messages_of
from running import run

LOGS = ("atif", "verifiers")
IN, GOOD = "in.jsonl", "good.jsonl"  # the mutated lines, and good ones for what compares two files
STUDY = "study"  # a directory in which both are runs of an arm
PROGRAM = f"exec:{sys.executable} -S {Path(__file__).with_name('world.py')} {IN}"
CONTROL = "control-"  # in the ids of good records among the mutated ones


def _without(*keys: str) -> Callable[[dict], Any]:
    """Return a function that leaves out these keys and the lineage, to which a stage adds."""
    return lambda record: {key: value for key, value in record.items() if key not in (*keys, "lineage")}


def _steps_without(*keys: str) -> Callable[[dict], Any]:
    """Like `_without`, but `keys` are those of steps, for stages that enrich them."""

    def fields(record: dict) -> Any:
        steps = [{key: value for key, value in step.items() if key not in keys} for step in record["steps"]]
        return {**_without()(record), "steps": steps}

    return fields


@dataclass(frozen=True)
class Variant:
    """One way to call a stage.

    Args:
        args: The arguments; the mutated lines are in the file IN, which is added where it is not among them.
        reads: The kind of record; "messages", "agenttraj" and "eto" are those of other projects.
        share: Its share of all lines, before these are brought to 1.
        writes: The type of its records; None where it writes no records.
        streams: Whether it takes --rejects. Where it does not, the first bad line ends it with exit code 3.
        one_to_one: Whether every line comes out, or is set aside.
        kept: What of a record must be the same in and out, the n-th record out being made of the n-th line in; None
            where a record becomes another, or the order changes.
        kept_out: The same of the record that comes out, where it is found elsewhere.
        expected: How many records come of one line that is not set aside; None where that is not so simple.
        codes: Exit codes for a file without bad lines.
        batch: Lines a run.
        model: Whether a model is loaded, which takes long.
        given: How the lines are given: as "lines"; as one JSON "array", which a broken one ends; or as "answers" of a
            program that is the environment (world.py).
    """

    name: str
    args: tuple[str, ...]
    reads: str
    share: float
    writes: str | None = None
    streams: bool = True
    one_to_one: bool = False
    kept: Callable[[dict], Any] | None = None
    kept_out: Callable[[dict], Any] | None = None
    expected: Callable[[dict], int] | None = None
    codes: frozenset[int] = frozenset({0})
    batch: int = 200
    model: bool = False
    given: str = "lines"

    @property
    def stage(self) -> str:
        return self.args[0]

    def command(self, rejects: str | None) -> list[str]:
        """Return the arguments of a run."""
        named = self.given == "answers" or any(IN in argument or argument == STUDY for argument in self.args)
        more = [] if named else [IN]
        return [*self.args, *(["--rejects", rejects] if rejects else []), *more]


def _imitated(trajectory: dict) -> int:
    return sum(not step.get("mistake") for step in trajectory["steps"])


def _imported(episode: dict) -> int:
    """Return how many trajectories an episode gives: none where a turn has no action."""
    return int(all(turn["action"].strip() for turn in episode["transcript"]))


def _source(key: str) -> dict[str, Callable[[dict], Any]]:
    """Return the fields of a Variant for `eexp import`, which keeps all but the turns under `source`."""
    return {"kept": lambda record: {k: v for k, v in record.items() if k != key}, "kept_out": lambda t: t["source"]}


_ANY_END = frozenset({0, 1, 2, 3})
_IMPORT = {"writes": "trajectory", "one_to_one": True}
_WORLD_MODEL = {"reads": "trajectory", "writes": "example"}

VARIANTS = [
    Variant("imitation-data", ("imitation-data",), "trajectory", 10, "example", expected=_imitated),
    Variant(
        "imitation-data-bare",
        ("imitation-data", "--no-thoughts", "--prompt-style", "react"),
        "trajectory",
        4,
        "example",
        expected=_imitated,
    ),
    Variant("world-model-data", ("world-model-data",), share=8, **_WORLD_MODEL),
    Variant(
        "world-model-data-all",
        (
            "world-model-data",
            "--max-repeats",
            "all",
            "--max-invalid-fraction",
            "1",
            "--changes",
            "--no-summaries",
            "--predictable",
            "environment",
        ),
        share=6,
        **_WORLD_MODEL,
    ),
    Variant(
        "world-model-data-pool",
        ("world-model-data", "--pool", "a", "--first", "2", "--no-expert"),
        share=4,
        **_WORLD_MODEL,
    ),
    Variant("reflect", ("reflect", "--rationale", "outcome"), "trajectory", 7, "example"),
    Variant(
        "reflect-environment", ("reflect", "--rationale", "environment", "--weigh", "0"), "trajectory", 4, "example"
    ),
    Variant("preference-data", ("preference-data",), "trajectory", 5, "preference"),
    Variant(
        "preference-data-some",
        ("preference-data", "--worse", "refused", "--worse", "unchanged", "--most", "1", "--pool", "a", "--first", "2"),
        "trajectory",
        3,
        "preference",
    ),
    Variant("preference-data-judge", ("preference-data", "--judge", "--with-outcomes"), "trajectory", 3, "example"),
    Variant("recover", ("recover",), "trajectory", 6, "trajectory"),
    Variant(
        "branch",
        ("branch", "--from", "admissible", "-k", "2"),
        "trajectory",
        8,
        "trajectory",
        one_to_one=True,
        kept=_steps_without("alternatives"),
    ),
    Variant(
        "branch-pool",
        ("branch", "--from", "admissible", "--pool", "b", "--ban", "go"),
        "trajectory",
        3,
        "trajectory",
        one_to_one=True,
        kept=_steps_without("alternatives"),
    ),
    Variant("split", ("split", "--part", "1", "--part", "2"), "trajectory", 6, "any", one_to_one=True, kept=_without()),
    Variant(
        "split-examples", ("split", "--part", "1", "--part", "2"), "example", 6, "any", one_to_one=True, kept=_without()
    ),
    Variant("split-episodes", ("split", "--part", "1"), "episode", 3, "any"),
    Variant("import-messages", ("import", "messages"), "messages", 5, **_IMPORT, **_source("messages")),
    Variant("import-agenttraj", ("import", "agenttraj"), "agenttraj", 4, **_IMPORT, **_source("conversations")),
    Variant("import-eto", ("import", "eto"), "eto", 3, **_IMPORT, **_source("conversations")),
    Variant("import-atif", ("import", "atif"), "atif", 2, "trajectory"),
    Variant("import-verifiers", ("import", "verifiers"), "verifiers", 2, "trajectory"),
    Variant("import-branches", ("import", "verifiers", "--branches", "all"), "verifiers", 2, "trajectory"),
    Variant("import-expert-rows", ("import", "expert_sft"), "messages", 2, "example"),
    Variant("import-reflection-rows", ("import", "reflection_sft"), "rows", 2, "example"),
    Variant("export-log-rows", ("export-log", "--format", "sft"), "example", 2, "json"),
    Variant("export-log-atif", ("export-log", "--format", "atif"), "trajectory", 2, "json"),
    Variant("export-log-branches", ("export-log", "--format", "verifiers", "--alternatives"), "trajectory", 2, "json"),
    Variant("export-log-verifiers", ("export-log", "--format", "verifiers"), "episode", 2, "json"),
    Variant(
        "import-episodes",
        ("import", "episodes", "--no-replay"),
        "episode",
        4,
        "trajectory",
        expected=_imported,
    ),
    Variant(
        "import-array", ("import", "messages"), "messages", 0.5, "trajectory", codes=_ANY_END, batch=5, given="array"
    ),
    Variant("rollout", ("rollout", "-j", "1"), "trajectory", 2.5, "trajectory", batch=400),
    Variant("follow", ("follow", "-m", "expert", "--steps", "2"), "trajectory", 1, "trajectory", batch=400),
    Variant(
        "import-replayed", ("import", "messages", "--env", "house", "-j", "1"), "messages", 0.7, "trajectory", batch=400
    ),
    Variant("relabel", ("relabel", "-j", "1"), "trajectory", 0.5, "trajectory", batch=400),
    Variant("correct", ("correct", "-j", "1"), "episode", 0.7, "trajectory", batch=400),
    Variant("reward", ("reward", "-j", "1"), "episode", 0.7, "episode", batch=400),
    Variant("select", ("select", "--by", "length"), "trajectory", 1, "any"),
    Variant("policy-data", ("policy-data", "--refused", "0.5"), "episode", 2, "example"),
    Variant("import-episodes-replayed", ("import", "episodes", "-j", "1"), "episode", 0.7, "trajectory", batch=400),
    Variant(
        "answers-expert",
        ("expert", PROGRAM, "--all", "-q"),
        "answer",
        0.3,
        "trajectory",
        given="answers",
        batch=50,
    ),
    Variant(
        "answers-eval",
        ("eval", PROGRAM, "-m", "random", "--split", "train", "--max-steps", "2", "-q"),
        "answer",
        0.2,
        "episode",
        given="answers",
        batch=50,
    ),
    # Those that end at the first bad line.
    Variant("show", ("show", "-n", "1000000"), "trajectory", 3, streams=False),
    Variant("show-examples", ("show", "-n", "1000000"), "example", 2, streams=False),
    Variant("show-episodes", ("show", "-n", "1000000"), "episode", 1, streams=False),
    Variant("show-summary", ("show", "--summary"), "trajectory", 1, streams=False),
    Variant(
        "mix", ("mix", "--no-shuffle"), "example", 3, "example", streams=False, one_to_one=True, kept=_without("weight")
    ),
    Variant("mix-weighted", ("mix", f"{IN}@0.5*2"), "example", 1, "example", streams=False, codes=_ANY_END),
    Variant(
        "mix-cleaned",
        ("mix", "--duplicates", "exact", "--apart-from", GOOD),
        "example",
        1,
        "example",
        streams=False,
        codes=_ANY_END,
    ),
    Variant("mix-near", ("mix", "--duplicates", "near"), "example", 0.5, "example", streams=False, codes=_ANY_END),
    Variant(
        "mix-share",
        ("mix", "--share", "imitation=0.3", IN, GOOD),
        "example",
        1,
        "example",
        streams=False,
        codes=_ANY_END,
    ),
    Variant("merge", ("merge", IN), "any", 0.3, "any", streams=False, codes=_ANY_END),
    Variant("stats", ("stats", "--json"), "trajectory", 2, "json", streams=False),
    Variant("stats-apart", ("stats", IN, "--apart-from", GOOD), "example", 1, streams=False),
    Variant("compare", ("compare", GOOD, IN, "--common"), "episode", 1, streams=False, codes=_ANY_END),
    Variant("compare-json", ("compare", "--json", IN), "episode", 0.5, "json", streams=False, codes=_ANY_END),
    Variant("power", ("power", "--json", IN), "episode", 0.5, "json", streams=False, codes=_ANY_END),
    Variant(
        "report",
        ("report", STUDY, "-o", "page.html", "--tasks", "2", "--common"),
        "episode",
        0.3,
        streams=False,
        codes=_ANY_END,
    ),
    Variant("card", ("card", IN), "any", 0.5, streams=False, codes=_ANY_END),
    Variant("view", ("view", IN, "-o", "page.html"), "any", 0.5, streams=False, codes=_ANY_END),
    Variant("panel-check", ("panel", "--check", IN, "--apart-from", GOOD), "task", 0.5, streams=False, codes=_ANY_END),
    Variant(
        "panel-apart",
        ("panel", "house", "-n", "3", "--apart-from", IN),
        "any",
        0.5,
        "task",
        streams=False,
        codes=_ANY_END,
    ),
    Variant(
        "eval-panel",
        ("eval", "--panel", IN, "-m", "random", "--max-steps", "2"),
        "task",
        0.3,
        "episode",
        streams=False,
        codes=_ANY_END,
    ),
    # Those that load a model.
    Variant(
        "show-row",
        ("show", "--row", "tiny", "-n", "1000000"),
        "example",
        0.3,
        streams=False,
        model=True,
        codes=_ANY_END,
    ),
    Variant(
        "score-tiny",
        ("score", "-m", "tiny", "--threads", "1"),
        "example",
        0.3,
        "example",
        one_to_one=True,
        kept=_without("scores"),
        model=True,
    ),
    Variant(
        "branch-tiny",
        ("branch", "-m", "tiny", "-k", "1", "--max-tokens", "6", "--threads", "1"),
        "trajectory",
        0.15,
        "trajectory",
        one_to_one=True,
        kept=_steps_without("alternatives"),
        batch=60,
        model=True,
    ),
    Variant(
        "world-model-data-tiny",
        ("world-model-data", "--predictable", "model", "-m", "tiny", "--threads", "1"),
        share=0.15,
        batch=60,
        model=True,
        **_WORLD_MODEL,
    ),
    Variant(
        "reflect-tiny",
        ("reflect", "--rationale", "outcome", "--verify", "tiny", "--threads", "1"),
        "trajectory",
        0.15,
        "example",
        batch=60,
        model=True,
    ),
    Variant(
        "summarise-tiny",
        ("summarise", "-m", "tiny", "--threads", "1", "--longer-than", "120", "--max-tokens", "6"),
        "trajectory",
        0.1,
        "trajectory",
        batch=40,
        model=True,
    ),
    Variant(
        "finetune-dry-run",
        ("finetune", "-m", "tiny", "-o", "run", "--dry-run"),
        "example",
        0.3,
        None,
        batch=400,
        model=True,
        codes=_ANY_END,
    ),
]
BY_NAME = {variant.name: variant for variant in VARIANTS}


@functools.cache
def seeds() -> dict[str, list[dict]]:
    """Return small good records by kind: what the stages write for the first steps of a few tasks."""
    trajectories = _records(run("expert", "house", "-n", "4").ok().out)
    for t in trajectories:
        t["steps"], t["outcome"] = t["steps"][:2], None
    branched = run("branch", "--from", "admissible", "-k", "2", "--pool", "a", stdin=_lines(trajectories)).ok().out
    executed = _records(run("rollout", "-j", "1", stdin=branched).ok().out)
    whole = _records(run("expert", "house", "-n", "1", "--skip", "7", "--admissible", "3").ok().out)
    rich = copy.deepcopy(executed[0])
    rich["steps"][0] |= {"thought": "The chest may hold it.", "notes": "The watch is still needed."}
    rich["outcome"] = {"observation": "You see nothing.", "done": True, "score": 1, "success": True, "valid": True}
    trajectories = [*executed, rich, *whole]
    results = [
        run("imitation-data", stdin=_lines(executed[:2])),
        run("world-model-data", stdin=_lines(executed[:2])),
        run("reflect", "--rationale", "outcome", stdin=_lines(executed)),
    ]
    examples = [example for one in results for example in _records(one.ok().out)]
    played = [
        *_records(run("eval", "house", "-m", "random", "-n", "4", "--max-steps", "3").ok().out),
        *_records(run("eval", "house", "-m", "expert", "-n", "1", "--split", "ood").ok().out),
    ]
    tasks = _records(run("panel", "house", "-n", "5").ok().out)
    foreign = [*executed, *whole]
    logged = {format: run("export-log", "--format", format, stdin=_lines(foreign)).ok().out for format in LOGS}
    return {
        "trajectory": trajectories,
        "example": examples,
        "episode": played,
        "task": tasks,
        "messages": [*map(messages_of, foreign), calling_of(foreign[0])],
        "rows": _records(
            run("export-log", "--format", "sft", stdin=_lines([e for e in examples if e["kind"] == "reflection"]))
            .ok()
            .out
        ),
        "atif": _records(logged["atif"]),
        "verifiers": [
            {key: value for key, value in log.items() if key != "id"}  # which names no task
            for one in _records(logged["verifiers"])
            for log in (one, *one["traces"])
        ],
        "agenttraj": [agenttraj_of(t, i) for i, t in enumerate(foreign)],
        "eto": [eto_of(t, i) for i, t in enumerate(foreign)],
        "answer": [
            {"observation": "You see a safe.", "valid": True, "done": False, "score": 0.5, "success": None},
            {"observation": "It is open.", "done": True, "score": 1, "success": True, "admissible": ["look"]},
            {"observation": "start", "instruction": "Open it.", "admissible": ["good"], "unknown": [[0, 3]]},
            {"admissible": ["good", "bad"]},
            {"action": "good"},
            {"error": "out of order"},
        ],
        "any": [*trajectories, *examples, *played, *tasks],
    }


def controls(kind: str) -> list[bytes]:
    """Return good lines that are not mutated, to check that bad lines beside them do no harm."""
    lines = []
    for i, record in enumerate(seeds()[kind][:2]):
        named = next((key for key in ("item_id", "game_file", "id") if key in record), None)
        if named is None:
            return []
        record = copy.deepcopy(record) | {named: f"{CONTROL}{i}"}
        lines.append(json.dumps(record | ({"group": f"{CONTROL}{i}"} if "group" in record else {})).encode())
    return lines


def corpus() -> list[bytes]:
    """Return the lines of earlier findings."""
    file = Path(__file__).with_name("corpus.jsonl")
    return [_assemble(json.loads(line)["line"]) for line in file.read_bytes().splitlines()]


def _assemble(pieces: list) -> bytes:
    """Put a line together from texts and [text, times]; bytes that are no text are written as surrogates."""
    text = "".join(piece if isinstance(piece, str) else piece[0] * piece[1] for piece in pieces)
    return text.encode("utf-8", "surrogateescape")


def _records(out: bytes) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def _lines(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)

"""Settings of the stages that make examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eexp.settings import (
    FILE,
    POOL,
    RECALL,
    RECALL_COUNT,
    SEED,
    Checked,
    Finite,
    Name,
    Number,
    Whole,
    Word,
    first,
    kind_shares,
    max_tokens,
    number_or_word,
    option,
    recorded,
    temperature,
)
from eexp.system.plugins import Registry

#: The rules that compose reflections. Other packages add some: a function that takes a `Situation` and ReflectSettings
#: and returns a text, "" for none; or a class derived from `Rule` (eexp/examples/reflection/base.py).
RATIONALES = Registry(
    "eexp.rationales",
    "rationale",
    {
        "outcome": ("eexp.examples.reflection.rationale:by_outcome", "composes the recorded outcomes"),
        "environment": ("eexp.examples.reflection.rationale:ByNotes", "starts from the environment's notes"),
        "search": ("eexp.examples.reflection.search:BySearch", "looks ahead over all executed outcomes"),
    },
)
BY_MODEL = ("model", "own")  # rationales that a model writes

#: Judges say whether an alternative did worse than the expert's action, and the first that does names how. Other
#: packages add some: a function that takes a trajectory, the number of a step and one of its alternatives.
JUDGES = Registry(
    "eexp.judges",
    "judge",
    {
        "refused": ("eexp.examples.judges:refused", "the environment refused the action"),
        "ended": ("eexp.examples.judges:ended", "the episode ended without success"),
        "score": ("eexp.examples.judges:score", "the score is lower"),
        "unchanged": ("eexp.examples.judges:unchanged", "nothing changed"),
        "later": ("eexp.examples.judges:later", "`eexp follow` completed the task later, or not at all"),
    },
)

#: Guards find faults in a reflection. Other packages add some: a function of a text and its `Situation` that returns
#: the fault in words, or None; or a class derived from `Guard` (eexp/examples/reflection/guards.py).
GUARDS = Registry(
    "eexp.guards",
    "guard",
    {
        "cut-off": ("eexp.examples.reflection.guards:CutOff", "breaks off, or does not end within the token limit"),
        "repeated": ("eexp.examples.reflection.guards:Repeated", "is written twice; it is cut to one copy"),
        "length": ("eexp.examples.reflection.guards:Length", "is too short or too long"),
        "setup": ("eexp.examples.reflection.guards:training_terms", "leaks the training set-up"),
        "hindsight": ("eexp.examples.reflection.claims:hindsight", "states an outcome as observed"),
        "other-action": ("eexp.examples.reflection.claims:other_action", "concludes with another known action"),
        "invented": ("eexp.examples.reflection.invented_names:invented", "names what is not in the writer's input"),
    },
)


@dataclass(frozen=True)
class ImitationSettings(Checked):
    """Settings of `imitation_data`."""

    thoughts: bool = option(True).help(
        "Keep the expert's thoughts (chain of thought) in the completion, where there are any."
    )
    recall: str | None = RECALL.field()
    recall_count: int = RECALL_COUNT.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {
            "thoughts": None if self.thoughts else "no",
            "recall": self.recall,
            "recall_count": self.recall_count if self.recall else None,
        }


@dataclass(frozen=True)
class WorldModelSettings(Checked):
    """Settings of `world_model_data`: which transitions become examples, and what their targets are.

    Attributes:
        pool, first: The alternatives that become examples, as in `records.alternatives_of`.
        summaries, changes, verdict: As in `world_model.targets.target_of`.
    """

    expert: bool = option(True).help("Whether the expert's own transitions are examples, too.")
    pool: str | None = POOL.field()
    first: int | None = first(0).field()
    max_invalid_fraction: float = option(0.3, type=Number(0, 1), metavar="SHARE").help(
        "Largest share of a trajectory's examples whose action was invalid; 1 keeps all."
    )
    max_repeats: int | None = option(2, type=number_or_word(1, {"all": None}), metavar="N|all").help(
        "How many examples of a trajectory may have the same target. The expert's own are always kept."
    )
    summaries: bool = option(True).help(
        "Predict the summary of an observation, where there is one (`eexp summarise`), instead of the observation."
    )
    changes: bool = option(False).help("Predict only the lines that are new in the next observation.")
    verdict: str | None = option(None, type=Word(["alone", "after"])).help(
        "Predict one word, the kind of the transition: invalid, unchanged, changed or done. alone: nothing else. "
        "after: after the observation. For `eexp eval --look-ahead-with`. --max-repeats has no effect."
    )
    predictable: str | None = option(None, type=Word(["environment", "model"])).help(
        "Leave out of the loss what cannot be predicted from the state, by what the environment says, or by the "
        "probabilities of the model -m."
    )
    unknown_weight: float = option(0.0, type=Number(min=0), metavar="WEIGHT").help(
        "Loss weight of parts that cannot be predicted."
    )
    min_probability: float = option(0.05, type=Number(0, 1, min_open=True), metavar="P").help(
        "With --predictable model: words that are less probable to it cannot be predicted."
    )
    seed: int = SEED.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide the output, but for the seed, by the names of their options."""
        return {
            "expert": None if self.expert else "no",
            **recorded(self, "pool", "first"),
            "max_invalid_fraction": None if self.max_invalid_fraction == 1 else self.max_invalid_fraction,
            "max_repeats": self.max_repeats,
            "summaries": None if self.summaries else "no",
            "changes": "yes" if self.changes else None,
            "verdict": self.verdict,
            "predictable": self.predictable,
            "unknown_weight": self.unknown_weight if self.predictable else None,
            "min_probability": self.min_probability if self.predictable == "model" else None,
        }


@dataclass(frozen=True)
class GuardSettings(Checked):
    """The guards in use.

    Attributes:
        names: Those of eexp that judge the texts of a model.
        min_words, max_words: The numbers of words that the guard "length" accepts.
        added: Further ones, which judge the texts of a rule, too.
    """

    names: frozenset[str] = frozenset(GUARDS.built_in)
    min_words: int = 5
    max_words: int = 150
    added: frozenset[str] = frozenset()

    @classmethod
    def without(
        cls, names: Iterable[str], min_words: int = 5, max_words: int = 150, added: Iterable[str] = ()
    ) -> GuardSettings:
        """Return all guards of eexp but those named, of which "all" names every one, and those that are added."""
        left_out = set(GUARDS.built_in) if "all" in names else set(names)
        return cls(frozenset(GUARDS.built_in) - left_out, min_words, max_words, frozenset(added))

    def of(self, by_model: bool) -> list[str]:
        """Return the guards of texts by a model, or of those by a rule, in the order in which they are applied."""
        names = self.names | self.added if by_model else self.added
        return [*(name for name in GUARDS.built_in if name in names), *sorted(names - GUARDS.built_in.keys())]


@dataclass(frozen=True)
class ReflectSettings(Checked):
    """Settings of `reflect`.

    Attributes:
        rationale: "model", a name in RATIONALES (`eexp reflect --rationale`), or "own": the model writes a thought and
            an action from the state alone, which are kept if the action is the expert's (STaR).
        pool, first: The alternatives that are weighed, as in `records.alternatives_of`.
    """

    rationale: str = "model"
    guards: GuardSettings = field(default_factory=GuardSettings)
    weigh: int = option(1, type=Whole(0)).help(
        "Largest number of contenders that a composed reflection argues against. A contender is an executed "
        "alternative that did worse. With 0, states without a contender get a reflection, too."
    )
    ahead: int = option(2, type=Whole(1)).help("With --rationale search: depth of the search, in actions.")
    per_alternative: bool = option(False, is_flag=True).help(
        "Write one reflection for each contender, instead of one for each state."
    )
    pool: str | None = POOL.field()
    first: int | None = first(1).field()
    temperature: float = temperature(0.7).field()
    max_tokens: int = max_tokens(256).field()
    retries: int = option(3, type=Whole(0)).help("How often a text is sampled again after a guard has refused it.")
    seed: int = SEED.field()

    @property
    def kind(self) -> str:
        """The kind of the examples."""
        return "rationale" if self.rationale == "own" else "reflection"

    @property
    def by_model(self) -> bool:
        """Whether a model writes."""
        return self.rationale in BY_MODEL

    @property
    def weighs(self) -> bool:
        """Whether a reflection weighs contenders."""
        return self.rationale in ("model", "search") or (self.rationale != "own" and self.weigh > 0)

    @property
    def needs_contenders(self) -> bool:
        """Whether a state without a contender gets no reflection."""
        return self.weighs and (self.rationale != "search" or self.per_alternative)

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide the output, but for the seed, by the names of their options."""
        rationale = RATIONALES.label(self.rationale)
        entries: dict[str, Any] = {"rationale": rationale, "pool": self.pool, "first": self.first}
        entries["per_alternative"] = self.per_alternative or None
        entries["guard"] = ",".join(map(GUARDS.label, sorted(self.guards.added))) or None
        if self.rationale == "search":
            return {**entries, "ahead": self.ahead}
        if not self.by_model:
            return {**entries, "weigh": self.weigh}
        unused = GUARDS.built_in.keys() - self.guards.names
        return {
            **entries,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "retries": self.retries,
            "no_guard": ",".join(sorted(unused)) or None,
            "min_words": self.guards.min_words,
            "max_words": self.guards.max_words,
        }


@dataclass(frozen=True)
class PreferenceSettings(Checked):
    """Settings of `preference_data`."""

    worse: tuple[str, ...] = option((), type=Name(JUDGES), multiple=True).help(
        "What counts as worse. refused: the environment refused the action. ended: the episode ended without "
        "success. score: the score is lower. unchanged: nothing changed. later: after it, `eexp follow` needed more "
        "actions to complete the task, or did not complete it. `eexp plugins` lists judges of other packages. Can be "
        "given several times.  [default: all of these five]"
    )
    most: int | None = option(None, type=Whole(1)).help(
        "Most preferences of one state; the first ones are taken.  [default: all]"
    )
    judge: bool = option(False, is_flag=True).help(
        "Make examples of kind judgement instead: the agent says which of two actions is better, and takes it. Each "
        "preference makes two, with the actions in both orders."
    )
    with_outcomes: bool = option(False, is_flag=True).help("With --judge: show what each of the two actions led to.")
    pool: str | None = POOL.field()
    first: int | None = first(1).field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        made = {"judge": self.judge or None, "with_outcomes": self.with_outcomes or None}
        worse = ",".join(map(JUDGES.label, self.worse)) or None
        return {**recorded(self, "most", "pool", "first"), "worse": worse, **made}


@dataclass(frozen=True)
class PolicySettings(Checked):
    """Settings of `policy_data`."""

    reward: str = option("success", type=Word(["success", "score", "none"])).help(
        "The reward of an episode. success: 1 for success, else 0. score: the score at its end. none: 0, so that "
        "only rewards of turns count."
    )
    baseline: str = option("turns", type=Word(["turns", "episodes"])).help(
        "The baseline of the advantage: the mean reward of the task's episodes, as in GRPO (episodes), or the mean "
        "over all their turns (turns). With turns, the weights of a task add up to 0."
    )
    scale: bool = option(False).help(
        "Divide the advantages of episodes by the standard deviation of their task's rewards, as GRPO does."
    )
    refused: float = option(0.0, type=Finite(0)).help(
        "Penalty for refused actions: subtract X from the advantage of a turn whose action was refused. The mean "
        "over the task's turns stays the same."
    )

    turn_rewards: float = option(0.0, type=Finite(0)).help(
        "Add X times the reward of the turn (`eexp reward`) to its advantage. The mean over the task's turns stays "
        "the same."
    )

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {
            **recorded(self, "reward", "baseline"),
            "scale": self.scale or None,
            "refused": self.refused or None,
            "turn_rewards": self.turn_rewards or None,
        }


@dataclass(frozen=True)
class RecoverSettings(Checked):
    """Settings of `recover`."""

    pool: str | None = option(None, metavar="NAME").help(
        "Use only the alternatives of this pool (`eexp branch --pool`).  [default: from all]"
    )
    share: float = option(1.0, type=Number(0, 1), metavar="SHARE").help(
        "Share of the states with refused alternatives into which a mistake is put."
    )
    #: Largest number of mistakes in one state; a state with one gets each further one with probability 1/2.
    most: int = option(3, type=Whole(1)).help("Largest number of mistakes in one state.")
    min_probability: float = option(0.0, type=Number(0, 1), metavar="P").help(
        "Leave out refused actions that the policy draws with a probability below P. Above 0, alternatives without a "
        "log-probability are left out, too."
    )
    seed: int = SEED.field()


@dataclass(frozen=True)
class SummariseSettings(Checked):
    """Settings of `summarise`."""

    longer_than: int = option(500, type=Whole(0), metavar="CHARACTERS").help(
        "Summarise only observations that are longer."
    )
    temperature: float = temperature(0.7).field()
    max_tokens: int = max_tokens(256).field()
    seed: int = SEED.field()


@dataclass(frozen=True)
class SplitSettings(Checked):
    """Settings of `split`: either `included` or `excluded` is given."""

    parts: int = option(2, type=Whole(1)).help("Number of parts, of about equal size.")
    included: tuple[int, ...] = option((), "--part", type=Whole(1), multiple=True, metavar="I").help(
        "A part to write, from 1. May be repeated."
    )
    excluded: tuple[int, ...] = option((), "--without", type=Whole(1), multiple=True, metavar="I").help(
        "Write all parts but this one. May be repeated."
    )
    seed: int = SEED.field()

    @property
    def kept(self) -> list[int]:
        """The numbers of the parts to yield, from 1."""
        return sorted(set(self.included) or set(range(1, self.parts + 1)) - set(self.excluded))


@dataclass(frozen=True)
class SelectSettings(Checked):
    """Settings of `select`."""

    by: str = option("coverage", type=Word(["coverage", "loss", "influence", "length", "random"])).help(
        "Which records come first. coverage: those that differ most from the ones before. loss: those with the "
        "highest loss (after `eexp score`). influence: those whose gradient lowers the loss on --like most. length: "
        "the longest. random: a random order."
    )
    like: str | None = option(None, type=FILE).help("With --by influence: examples of what the model is to learn.")
    base: str | None = option(None, "-m", "--model", metavar="BASE").help(
        "With --by influence: the model that will be trained, a directory or a hub id."
    )
    init: str | None = option(None, type=FILE, metavar="DIR").help(
        "With --by influence: an adapter of this model to start from."
    )
    number: int | None = option(None, "-n", "--number", type=Whole(1)).help("Number of records.  [default: all]")
    reverse: bool = option(False).help("Take the easiest or the shortest first, with --by loss or length.")
    seed: int = SEED.field()


@dataclass(frozen=True)
class MixSettings(Checked):
    """Settings of `mix`."""

    #: At most that many examples, drawn from the whole mixture: the first in its order.
    limit: int | None = option(None, type=Whole(0)).help("At most that many examples in all.  [default: no limit]")
    shuffle: bool = option(True).help("Shuffle the examples, or leave one file after the other.")
    duplicates: str = option("keep", type=Word(["keep", "exact", "near"])).help(
        "Duplicates, within a file and across files. keep: keep them. exact: keep one of examples with the same "
        "words. near: keep one of near duplicates, too (needs eexp[dedup])."
    )
    similarity: float = option(0.8, type=Number(0, 1, min_open=True), metavar="S").help(
        "With --duplicates near: two examples are near duplicates if at least this share of the 3-grams of words is "
        "in both their prompts, and in both their completions."
    )
    apart_from: tuple[str, ...] = option((), type=FILE, multiple=True).help(
        "Decontaminate: leave out examples whose task occurs in this file, and examples with the words of one in it. "
        "The file is a panel or any records. May be repeated."
    )
    share: Mapping[str, float] | None = option(None, gather=kind_shares, metavar="KIND=SHARE").help(
        "Downsample so that examples of a kind are this share of the mixture. May be repeated. Other kinds keep "
        "their proportions."
    )
    share_by: str = option("examples", type=Word(["examples", "tokens", "targets"])).help(
        "What --share measures: examples, their tokens, or the tokens that the loss falls on."
    )
    tokenizer: str | None = option(None, metavar="MODEL").help(
        "The model whose tokens --share-by counts: tiny, a directory or a hub id."
    )
    seed: int = SEED.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide what is left out and whether the order is drawn, by the names of options."""
        shares = ",".join(f"{kind}={share:g}" for kind, share in (self.share or {}).items())
        return {
            "shuffle": None if self.shuffle else "no",
            "duplicates": None if self.duplicates == "keep" else self.duplicates,
            "similarity": self.similarity if self.duplicates == "near" else None,
            "apart_from": ",".join(self.apart_from) or None,
            "share": shares or None,
            "share_by": self.share_by if self.share else None,
            "tokenizer": self.tokenizer,
        }

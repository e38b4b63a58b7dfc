"""`eexp branch`: K contenders to the expert's action at every state it visited (Early Experience, section 4.1)."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import click

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.policy import Choice, Policy, Proposal, Ranking, State
from eexp.records import canonical, seed_of

Count = Callable[[str, int], None]

SOURCES = ["policy", "admissible", "mixed", "scored"]


def branch(trajectories: Iterator[dict], policy: Policy | None, *, k: int = 4, source: str = "policy",
           temperature: float = 1.0, rounds: int = 10, replacement: bool = False, only_admissible: bool = False,
           seed: int = 0, count: Count = lambda what, n=1: None,
           on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """Add up to `k` different alternatives to every step, never the expert's own action.

    source: "policy" takes what `policy` writes and fills up from the admissible actions; "admissible" draws uniformly
    from those; "mixed" takes half of each; "scored" draws from the admissible actions by the policy's probability of
    each. Texts of the policy are drawn without replacement, or with `replacement` each on its own; either way the next
    one is drawn where an action is none, is the expert's or is there already, until `rounds` times `k` texts were seen.
    Two actions are the same if they are so after `canonical`. only_admissible drops actions that are not in a complete
    admissible list (the paper's setting for reflection). `count` is told what was drawn and why it was dropped.
    """
    ask = _Ask(k, source, temperature, rounds, replacement, only_admissible)
    asked: deque[tuple[dict, list[_Picker]]] = deque()  # read, and not answered yet

    def groups() -> Iterator[list[Choice | Ranking]]:
        for t in trajectories:
            pickers = [_Picker(t, i, ask, seed, count) for i in range(len(t["steps"]))]
            asked.append((t, pickers))
            yield [picker.choice() for picker in pickers] if source != "admissible" else []

    answers: Iterator[list] = policy.choose(groups()) if policy else ([] for _ in groups())
    for found in answers:
        trajectory, pickers = asked.popleft()
        try:
            for i, refused in enumerate(found):
                if isinstance(refused, InputError):
                    raise refused.at(f"$.steps[{i}]")
            made = [picker.alternatives(proposals) for picker, proposals in zip(pickers, found or [[]] * len(pickers))]
        except InputError as e:
            on_error(trajectory, e)
            continue
        yield {**trajectory, "steps": [{**s, "alternatives": a} for s, a in zip(trajectory["steps"], made)]}


@dataclass(frozen=True)
class _Ask:
    """What is wanted of every state."""

    k: int
    source: str
    temperature: float
    rounds: int
    replacement: bool
    only_admissible: bool


class _Picker:
    """The alternatives of one state while they are being collected."""

    def __init__(self, trajectory: dict, i: int, ask: _Ask, seed: int, count: Count):
        self.step = trajectory["steps"][i]
        self.state = State(trajectory["instruction"], trajectory["steps"][:i], self.step["observation"],
                           self.step.get("admissible"))  # fmt: skip
        self.ask, self.count = ask, count
        self.seed = seed_of(seed, trajectory["id"], i)
        self.expert = canonical(self.step["action"])
        self.taken = {self.expert}
        listed = self.step.get("admissible")
        complete = listed is not None and self.step.get("admissible_count", len(listed)) == len(listed)
        self.allowed = {canonical(a) for a in listed} if ask.only_admissible and complete else None

    def choice(self) -> Choice | Ranking:
        """What the policy is asked."""
        if self.ask.source == "scored":
            return Ranking(self.state, list(self._others().values()))
        wanted = self.ask.k if self.ask.source == "policy" else (self.ask.k + 1) // 2
        return Choice(self.state, wanted, self.ask.temperature, self.seed, self._accept, self.ask.rounds * wanted,
                      distinct=not self.ask.replacement)  # fmt: skip

    def _accept(self, drawn: Proposal) -> bool:
        same = canonical(drawn.action)
        if not same:
            self.count("draws without an action", 1)
        elif same == self.expert:
            self.count("draws of the expert's own action", 1)
        elif same in self.taken:
            self.count("duplicate draws", 1)
        elif self.allowed is not None and same not in self.allowed:
            self.count("inadmissible draws dropped", 1)
        else:
            self.taken.add(same)
            return True
        return False

    def alternatives(self, proposals: list[Proposal]) -> list[dict]:
        """What the policy proposed, and what it takes to have k."""
        if self.ask.source == "scored":
            proposals = self._ranked(proposals)
            self.taken |= {canonical(p.action) for p in proposals}
        origin = "admissible" if self.ask.source == "scored" else "policy"
        found = [{"action": p.action, "source": origin, "logprob": p.logprob, "outcome": None} for p in proposals]
        self.count("scored" if self.ask.source == "scored" else "from the policy", len(found))
        rest = list(self._others().values())
        missing = self.ask.k - len(found)
        drawn = random.Random(seed_of(self.seed, "admissible")).sample(rest, min(missing, len(rest)))
        found += [{"action": action, "source": "admissible", "logprob": None, "outcome": None} for action in drawn]
        self.count("refilled from admissible" if self.ask.source == "policy" else "from admissible", len(drawn))
        if len(drawn) < missing:
            self.count("states with fewer than k", 1)
        return found

    def _others(self) -> dict[str, str]:
        """The admissible actions that are not taken, each by what makes it the same as another."""
        rest: dict[str, str] = {}
        for action in self.step.get("admissible") or []:
            if canonical(action) not in self.taken:
                rest.setdefault(canonical(action), action)
        return rest

    def _ranked(self, scored: list[Proposal]) -> list[Proposal]:
        """The k best at temperature 0; else k drawn without replacement by their probabilities (Gumbel top-k)."""
        noise = random.Random(seed_of(self.seed, "scored"))

        def key(p: Proposal) -> float:
            assert p.logprob is not None
            if self.ask.temperature == 0:
                return p.logprob
            return p.logprob / self.ask.temperature - math.log(noise.expovariate(1.0))

        return [p for _, p in sorted(((key(p), p) for p in scored), key=lambda pair: -pair[0])[: self.ask.k]]


@click.command("branch")
@click.option("-k", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
              help="How many alternatives to add to every state.")  # fmt: skip
@click.option("--from", "source", type=click.Choice(SOURCES), default="policy", show_default=True,
              help="Where they come from: what the policy writes; the admissible actions; half from each; or the "
              "admissible actions drawn by the policy's probability of each.")  # fmt: skip
@options.model("The policy to draw from; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
               max_tokens=48, temperature=1.0)  # fmt: skip
@click.option("--replacement", is_flag=True,
              help="Draw every text on its own and drop actions drawn before, rather than drawing without "
              "replacement.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, metavar="N",
              help="Look at no more than N times k texts of the policy; then fill up from the admissible "
              "actions.")  # fmt: skip
@click.option("--only-admissible", is_flag=True,
              help="Drop the policy's draws that are not admissible, where the whole list is known.")  # fmt: skip
@options.prompt_style(options.STYLE_OF_MODEL)
@options.seed
@options.streams("trajectory", resume=True)
def command(k, source, model, temperature, max_tokens, engine, replacement, rounds, only_admissible, prompt_style, seed,
            stream) -> None:  # fmt: skip
    """Add K alternative actions to every expert state.

    Alternatives differ from each other and from the expert's action; case, blanks and outer punctuation make no
    difference. The policy's texts are drawn without replacement, so that a policy that is sure of the expert's action
    still gives K others, each as likely to be drawn as its probability says (servers reached by HTTP cannot do that:
    there, repeated draws are dropped). Where the policy does not give enough, admissible actions fill up. The summary
    counts all of it.

    The states of a trajectory are evaluated together, what their prompts share once. A trajectory's draws are decided
    by its record, the model, the options and --seed: the same bytes, whatever else is in the input. Within it, a
    state's draws are decided by the state, but for rounding: which tokens share a batch moves log-probabilities by
    about 1e-3 (1e-5 with --cache-type f32 and unquantised weights), and might thereby change a draw. Of 4,096 texts
    drawn from the tiny model, alone and among 63 other states, none changed.

    \b
    Example:
      eexp expert house -n 20 | eexp branch -k 4 > branched.jsonl
    """
    from tqdm import tqdm

    stream.stage = "branch"
    policy, settings = None, {}
    if source != "admissible":
        if model == "expert":
            raise click.BadParameter("the expert's own action is never an alternative", param_hint="-m")
        policy = options.open_policy(model, prompt_style, max_tokens, stream.note, engine)
        settings = _policy_settings(policy, source, temperature, rounds, max_tokens, replacement, only_admissible)
    with (closing(policy) if policy else nullcontext(),
          stream.open("branch", "trajectory", k=k, **{"from": source}, seed=seed, **settings) as io):  # fmt: skip
        made = branch(io.records(), policy, k=k, source=source, temperature=temperature, rounds=rounds,
                      replacement=replacement, only_admissible=only_admissible, seed=seed, count=io.count,
                      on_error=io.fail)  # fmt: skip
        for trajectory in tqdm(made, disable=None, unit="trajectory", leave=False):
            io.write(trajectory)
            io.count("states", len(trajectory["steps"]))
        if policy:
            io.counts.update(policy.counts)


def _policy_settings(policy: Policy, source: str, temperature: float, rounds: int, max_tokens: int, replacement: bool,
                     only: bool) -> dict[str, Any]:  # fmt: skip
    settings = {"model": policy.fingerprint, "prompt_style": policy.style_label, "temperature": temperature}
    if source == "scored":
        return settings
    return {**settings, "rounds": rounds, "max_tokens": max_tokens, "only_admissible": only or None,
            "replacement": replacement or None}  # fmt: skip

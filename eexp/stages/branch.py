"""`eexp branch`: K contenders to the expert's action at every state it visited (Early Experience, section 4.1)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import click

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.policy import Policy, State
from eexp.records import canonical, seed_of

Count = Callable[[str, int], None]


def branch(trajectories: Iterator[dict], policy: Policy | None, *, k: int = 4, source: str = "policy",
           temperature: float = 1.0, rounds: int = 3, only_admissible: bool = False, seed: int = 0,
           count: Count = lambda what, n=1: None, on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """Add up to `k` different alternatives to every step, never the expert's own action.

    source: "policy" draws from `policy`, `k` at a time and at most `rounds` times, and fills up from the admissible
    actions; "admissible" draws uniformly from those; "mixed" takes half of each. Two actions are the same if they are
    so after `canonical`. only_admissible drops policy draws that are not in a complete admissible list (the paper's
    setting for reflection). `count` is told what was drawn and why draws were dropped.
    """
    for trajectory in trajectories:
        try:
            steps = []
            for i, step in enumerate(trajectory["steps"]):
                picker = _Picker(step, k, count)
                key = seed_of(seed, trajectory["id"], i)
                if source != "admissible":
                    assert policy is not None
                    wanted = k if source == "policy" else (k + 1) // 2
                    state = State(trajectory["instruction"], trajectory["steps"][:i], step["observation"],
                                  step.get("admissible"))  # fmt: skip
                    try:
                        picker.from_policy(policy, state, wanted, temperature, rounds, only_admissible, key)
                    except InputError as e:
                        raise e.at(f"$.steps[{i}]") from None
                picker.from_admissible(seed_of(key, "admissible"), refill=source == "policy")
                steps.append({**step, "alternatives": picker.found})
            yield {**trajectory, "steps": steps}
        except InputError as e:
            on_error(trajectory, e)


class _Picker:
    """The alternatives of one state while they are being collected."""

    def __init__(self, step: dict, k: int, count: Count):
        self.step, self.k, self.count = step, k, count
        self.found: list[dict] = []
        self.taken = {canonical(step["action"])}
        self.expert = canonical(step["action"])

    def from_policy(self, policy: Policy, state: State, wanted: int, temperature: float, rounds: int,
                    only_admissible: bool, seed: int) -> None:  # fmt: skip
        listed = self.step.get("admissible")
        complete = listed is not None and self.step.get("admissible_count", len(listed)) == len(listed)
        allowed = {canonical(a) for a in listed} if only_admissible and complete else None
        for turn in range(rounds):
            if len(self.found) >= wanted:
                break
            for drawn in policy.propose(state, wanted, temperature=temperature, seed=seed_of(seed, turn)):
                self._consider(drawn.action, drawn.logprob, allowed, wanted)
            if temperature == 0:
                break

    def _consider(self, action: str, logprob: float | None, allowed: set[str] | None, wanted: int) -> None:
        same = canonical(action)
        if not same:
            self.count("draws without an action", 1)
        elif same == self.expert:
            self.count("draws of the expert's own action", 1)
        elif same in self.taken:
            self.count("duplicate draws", 1)
        elif allowed is not None and same not in allowed:
            self.count("inadmissible draws dropped", 1)
        elif len(self.found) < wanted:
            self.taken.add(same)
            self.found.append({"action": action, "source": "policy", "logprob": logprob, "outcome": None})
            self.count("from the policy", 1)

    def from_admissible(self, seed: int, refill: bool) -> None:
        rest: dict[str, str] = {}
        for action in self.step.get("admissible") or []:
            if canonical(action) not in self.taken:
                rest.setdefault(canonical(action), action)
        missing = self.k - len(self.found)
        drawn = random.Random(seed).sample(list(rest.values()), min(missing, len(rest)))
        for action in drawn:
            self.found.append({"action": action, "source": "admissible", "logprob": None, "outcome": None})
        self.count("refilled from admissible" if refill else "from admissible", len(drawn))
        if len(drawn) < missing:
            self.count("states with fewer than k", 1)


@click.command("branch")
@click.option("-k", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
              help="How many alternatives to add to every state.")  # fmt: skip
@click.option("--from", "source", type=click.Choice(["policy", "admissible", "mixed"]), default="policy",
              show_default=True,
              help="Where they come from: the policy, the admissible actions, or half from each.")  # fmt: skip
@options.model("The policy to draw from; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
               max_tokens=48, temperature=1.0)  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
              help="Ask the policy at most this often, for k actions each time; then fill up from the admissible "
              "ones.")  # fmt: skip
@click.option("--only-admissible", is_flag=True,
              help="Drop the policy's draws that are not admissible, where the whole list is known.")  # fmt: skip
@options.prompt_style(options.STYLE_OF_MODEL)
@options.seed
@options.streams("trajectory", resume=True)
def command(k, source, model, temperature, max_tokens, context, threads, rounds, only_admissible, prompt_style, seed,
            stream) -> None:  # fmt: skip
    """Add K alternative actions to every expert state.

    Alternatives differ from each other and from the expert's action; case, blanks and outer punctuation make no
    difference. Where the policy does not give enough, admissible actions fill up. The summary counts all of it.

    \b
    Example:
      eexp expert house -n 20 | eexp branch -k 4 > branched.jsonl
    """
    from tqdm import tqdm

    policy, settings = None, {}
    if source != "admissible":
        if model == "expert":
            raise click.BadParameter("the expert's own action is never an alternative", param_hint="-m")
        policy = options.open_policy(model, prompt_style, max_tokens, lambda text: _note(stream, text),
                                     context=context, threads=threads)  # fmt: skip
        settings = _policy_settings(policy, temperature, rounds, max_tokens, only_admissible)
    with stream.open("branch", "trajectory", k=k, **{"from": source}, seed=seed, **settings) as io:
        made = branch(io.records(), policy, k=k, source=source, temperature=temperature, rounds=rounds,
                      only_admissible=only_admissible, seed=seed, count=io.count, on_error=io.fail)  # fmt: skip
        for trajectory in tqdm(made, disable=None, unit="trajectory", leave=False):
            io.write(trajectory)
            io.count("states", len(trajectory["steps"]))


def _policy_settings(policy: Policy, temperature: float, rounds: int, max_tokens: int, only: bool) -> dict[str, Any]:
    return {"model": policy.fingerprint, "prompt_style": policy.style_label, "temperature": temperature,
            "rounds": rounds, "max_tokens": max_tokens, "only_admissible": only or None}  # fmt: skip


def _note(stream: Any, text: str) -> None:
    stream.stage = "branch"
    stream.note(text)

"""`eexp branch`: K contenders to the expert's action at every state it visited (Early Experience, section 4.1)."""

from __future__ import annotations

import math
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass

import click

from eexp import options
from eexp.errors import InputError
from eexp.models.policy import Choice, Policy, Proposal, Ranking, State
from eexp.records import canonical, seed_of
from eexp.stream import OnError, stop_at_error

Count = Callable[[str, int], None]

SOURCES = ["policy", "admissible", "mixed", "scored"]

#: The floor where texts are drawn without replacement, as `--min-p`.
MIN_P = 0.05
NO_LOGPROBS = "states without log-probabilities"


def branch(
    trajectories: Iterator[dict],
    policy: Policy | None,
    *,
    k: int = 4,
    source: str = "policy",
    temperature: float = 1.0,
    rounds: int = 10,
    replacement: bool = False,
    top_p: float | None = None,
    min_p: float | None = None,
    only_admissible: bool = True,
    ban: Sequence[str] = (),
    pool: str | None = None,
    seed: int = 0,
    count: Count = lambda what, n=1: None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Add up to `k` different alternatives to every step, never the expert's own action.

    Two actions are the same if they are so after `canonical`.

    Args:
        source: "policy" takes what `policy` writes and fills up from the admissible actions; "admissible" draws
            uniformly from those; "mixed" takes half of each; "scored" draws from the admissible actions by the
            policy's probability of each.
        rounds: How many texts of the policy are looked at, as a multiple of `k`. Texts are drawn without replacement,
            or with `replacement` each on its own; either way the next one is drawn where an action is none, is the
            expert's, is dropped or is there already.
        top_p: At every token, draw from the most probable ones only, as few as have this share of the probability.
        min_p: The floor: drop alternatives that are less than this times as probable as the most probable one. Where
            texts are drawn without replacement that is the most probable alternative there is, and `rounds` is not used
            up on texts below the floor; else it is the most probable one drawn. 0 sets no floor. None: see
            `default_min_p`.
        only_admissible: Drop what the policy wrote where it is not admissible and the list of admissible actions is
            complete.
        ban: Beginnings of actions that are no alternative, whole words each.
        pool: Add the alternatives under this name to those of other pools, instead of replacing all.
        count: Called with what was drawn and why it was dropped.
    """
    if min_p is None:
        min_p = default_min_p(policy, source, temperature, replacement)
    floor_while_drawing = default_min_p(policy, source, temperature, replacement) > 0
    ask = _Ask(
        k, source, temperature, rounds, replacement, top_p, min_p, floor_while_drawing, only_admissible, ban, pool
    )
    asked: deque[tuple[dict, list[_Picker]]] = deque()  # read, and not answered yet

    def groups() -> Iterator[list[Choice | Ranking]]:
        for t in trajectories:
            if any(step.get("mistake") for step in t["steps"]):
                on_error(t, InputError("holds mistakes put in by `eexp recover`; branch before that", "$.steps"))
                continue
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


def default_min_p(policy: Policy | None, source: str, temperature: float, replacement: bool) -> float:
    """Return the floor that is right unless another is given: none where nothing is drawn without replacement."""
    without_replacement = source in ("policy", "mixed") and temperature > 0 and not replacement
    return MIN_P if policy and policy.exact and without_replacement else 0.0


def begins_with(action: str, prefix: str) -> bool:
    """Return whether an action begins with the words of `prefix`, both up to `canonical`."""
    whole, beginning = canonical(action), canonical(prefix)
    return whole.startswith(beginning) and not re.match(r"[\w-]", whole[len(beginning) :])


@dataclass(frozen=True)
class _Ask:
    """What is wanted of every state; the fields as in `branch`. floor_while_drawing: the model keeps `min_p` itself."""

    k: int
    source: str
    temperature: float
    rounds: int
    replacement: bool
    top_p: float | None
    min_p: float
    floor_while_drawing: bool
    only_admissible: bool
    ban: Sequence[str]
    pool: str | None


class _Picker:
    """The alternatives of one state while they are being collected."""

    def __init__(self, trajectory: dict, i: int, ask: _Ask, seed: int, count: Count):
        self.step = trajectory["steps"][i]
        self.state = State(
            trajectory["instruction"], trajectory["steps"][:i], self.step["observation"], self.step.get("admissible")
        )
        self.ask, self.count = ask, count
        pool = () if ask.pool is None else (ask.pool,)
        self.seed = seed_of(seed, trajectory["id"], i, *pool)
        self.expert = canonical(self.step["action"])
        self.taken = {self.expert}
        listed = self.step.get("admissible")
        complete = listed is not None and self.step.get("admissible_count") in (None, len(listed))
        self.allowed = {canonical(a) for a in listed} if ask.only_admissible and complete else None
        if ask.only_admissible and not complete and ask.source in ("policy", "mixed"):
            self.count("states whose admissible actions are not all known", 1)
        banned = [action for action in listed or [] if self._banned(action) and canonical(action) != self.expert]
        self.count("admissible actions banned", len(banned))

    def choice(self) -> Choice | Ranking:
        """What the policy is asked."""
        ask = self.ask
        if ask.source == "scored":
            return Ranking(self.state, list(self._others().values()))
        wanted = ask.k if ask.source == "policy" else (ask.k + 1) // 2
        return Choice(
            self.state,
            wanted,
            ask.temperature,
            self.seed,
            self._accept,
            ask.rounds * wanted,
            distinct=not ask.replacement,
            top_p=ask.top_p,
            min_p=ask.min_p or None,
            contends=lambda proposal: not self._why_not(proposal),
        )

    def _why_not(self, drawn: Proposal) -> str | None:
        """Why a text of the policy is no alternative in this state, in words; None if it is one."""
        same = canonical(drawn.action)
        if not same:
            return "draws without an action"
        if same == self.expert:
            return "draws of the expert's own action"
        if self._banned(drawn.action):
            return "banned draws dropped"
        if self.allowed is not None and same not in self.allowed:
            return "inadmissible draws dropped"
        return None

    def _banned(self, action: str) -> bool:
        return any(begins_with(action, prefix) for prefix in self.ask.ban)

    def _accept(self, drawn: Proposal) -> bool:
        same = canonical(drawn.action)
        why_not = self._why_not(drawn) or ("duplicate draws" if same in self.taken else None)
        if why_not:
            self.count(why_not, 1)
        else:
            self.taken.add(same)
        return not why_not

    def alternatives(self, proposals: list[Proposal]) -> list[dict]:
        """The step's alternatives: what the policy proposed, and what it takes to have k."""
        proposals = self._above_floor(proposals)
        if self.ask.source == "scored":
            proposals = self._ranked(proposals)
            self.taken |= {canonical(p.action) for p in proposals}
        origin = "admissible" if self.ask.source == "scored" else "policy"
        found = [self._alternative(p.action, origin, p.logprob) for p in proposals]
        self.count("scored" if self.ask.source == "scored" else "from the policy", len(found))
        rest = list(self._others().values())
        missing = self.ask.k - len(found)
        drawn = random.Random(seed_of(self.seed, "admissible")).sample(rest, min(missing, len(rest)))
        found += [self._alternative(action, "admissible", None) for action in drawn]
        self.count("refilled from admissible" if self.ask.source == "policy" else "from admissible", len(drawn))
        if len(drawn) < missing:
            self.count("states with fewer than k", 1)
        if self.ask.pool is None:
            return found
        return [a for a in self.step.get("alternatives", []) if a.get("pool") != self.ask.pool] + found

    def _alternative(self, action: str, source: str, logprob: float | None) -> dict:
        pool = {} if self.ask.pool is None else {"pool": self.ask.pool}
        return {"action": action, "source": source, "logprob": logprob, "outcome": None, **pool}

    def _above_floor(self, proposals: list[Proposal]) -> list[Proposal]:
        """Those that are not too improbable beside the most probable of them."""
        if self.ask.floor_while_drawing or not self.ask.min_p or not proposals:
            return proposals
        logprobs = [p.logprob for p in proposals if p.logprob is not None]
        if len(logprobs) < len(proposals):
            self.count(NO_LOGPROBS, 1)
            return proposals
        floor = max(logprobs) + math.log(self.ask.min_p)
        kept = [p for p, logprob in zip(proposals, logprobs) if logprob >= floor]
        self.taken -= {canonical(p.action) for p in proposals if p not in kept}
        self.count("below the floor", len(proposals) - len(kept))
        return kept

    def _others(self) -> dict[str, str]:
        """The admissible actions that are not taken or banned, each by what makes it the same as another."""
        rest: dict[str, str] = {}
        for action in self.step.get("admissible") or []:
            if canonical(action) not in self.taken and not self._banned(action):
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


class _Prefix(click.ParamType):
    """The first words of an action; in an environment variable, several are divided by commas."""

    name = "prefix"
    envvar_list_splitter = ","

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not canonical(value):
            self.fail(f"{value!r} has no words", param, ctx)
        return value


def _pool_name(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise click.BadParameter(f"{name!r} is no name: use letters, digits, '.', '_' and '-'")
    return name


@click.command("branch")
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="How many alternatives to add to every state.",
)
@click.option(
    "--from",
    "source",
    type=click.Choice(SOURCES),
    default="policy",
    show_default=True,
    help="Where they come from: what the policy writes; the admissible actions; half from each; or the "
    "admissible actions drawn by the policy's probability of each.",
)
@options.model(
    "The policy to draw from; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
    max_tokens=48,
    temperature=1.0,
)
@click.option(
    "--replacement",
    is_flag=True,
    help="Draw every text on its own and drop actions drawn before, rather than drawing without replacement.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="P",
    help="At every token, draw from the most probable ones only, as few as have this share of the "
    "probability.  [default: from all]",
)
@click.option(
    "--min-p",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Drop alternatives that are less than P times as probable as the most probable one in the same "
    f"state; 0 drops none.  [default: {MIN_P:g} where texts are drawn without replacement, else "
    "0]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Look at no more than N times k texts of the policy; then fill up from the admissible actions.",
)
@click.option(
    "--only-admissible/--no-only-admissible",
    default=True,
    show_default=True,
    help="Drop the policy's draws that are not admissible, where the whole list is known.",
)
@click.option(
    "--ban",
    type=_Prefix(),
    multiple=True,
    metavar="PREFIX",
    help="Actions that begin with these words are no alternatives: neither drawn nor filled up with. May be repeated.",
)
@click.option(
    "--pool",
    metavar="NAME",
    callback=_pool_name,
    help="Add the alternatives under this name and keep those of other pools.  [default: replace all]",
)
@options.prompt_style(options.STYLE_OF_MODEL)
@options.seed
@options.streams("trajectory", resume=True)
def command(
    k,
    source,
    model,
    temperature,
    max_tokens,
    engine,
    replacement,
    top_p,
    min_p,
    rounds,
    only_admissible,
    ban,
    pool,
    prompt_style,
    seed,
    stream,
) -> None:
    """Add K alternative actions to every expert state.

    Alternatives differ from each other and from the expert's action; case, blanks and outer punctuation make no
    difference. The policy's texts are drawn without replacement, so that a policy that is sure of the expert's action
    still gives others, each as likely to be drawn as its probability says. Texts that are far less probable than the
    most probable alternative are not drawn (--min-p). Where the policy does not give enough, admissible actions fill
    up. Servers reached by HTTP cannot draw without replacement: there, repeated draws are dropped, and --min-p compares
    with the most probable text that was drawn. The summary counts all of it.

    Without --pool, the alternatives that a record has are replaced. With it, a record may hold several sets, such as
    one from the admissible actions for world modelling and one from the policy for reflection; `eexp rollout` executes
    those that have no outcome yet.

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
        if min_p is None:
            min_p = default_min_p(policy, source, temperature, replacement)
        settings = {
            "model": policy.fingerprint,
            "prompt_style": policy.style_label,
            "temperature": temperature,
            "min_p": min_p or None,
        }
        if source != "scored":
            settings |= {
                "rounds": rounds,
                "max_tokens": max_tokens,
                "top_p": top_p,
                "only_admissible": only_admissible,
                "replacement": replacement or None,
            }
    settings |= {"ban": ",".join(ban) or None, "pool": pool}
    with (
        closing(policy) if policy else nullcontext(),
        stream.open("branch", "trajectory", k=k, **{"from": source}, seed=seed, **settings) as io,
    ):
        made = branch(
            io.records(),
            policy,
            k=k,
            source=source,
            temperature=temperature,
            rounds=rounds,
            replacement=replacement,
            top_p=top_p,
            min_p=min_p,
            only_admissible=only_admissible,
            ban=ban,
            pool=pool,
            seed=seed,
            count=io.count,
            on_error=io.fail,
        )
        for trajectory in tqdm(made, disable=None, unit="trajectory", leave=False):
            io.write(trajectory)
            io.count("states", len(trajectory["steps"]))
        if io.counts[NO_LOGPROBS]:
            io.note("--min-p has no effect where the model gives no log-probabilities")
        if policy:
            io.counts.update(policy.counts)

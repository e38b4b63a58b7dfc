"""Check what agents of `house` think before they act: is it true, does the action follow, and where do they fail.

    python recipes/studies/house_thoughts.py studies/house/0/outcomes.episodes.jsonl [rules.episodes.jsonl ...]

Each episode is played again in the simulator, turn by turn. Every sentence of a thought that the rules `outcome` and
`environment` of `eexp reflect` can write is read and compared with the state in which it was thought. The shares are
shown for solved and for failed episodes, and for all.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from pathlib import Path

from eexp.envs.opening import open_env
from eexp.envs.worlds.house import House
from eexp.records.jsonl import read
from eexp.records.record import canonical

# What a thought ends in, and what its sentences claim.
CHOICE = re.compile(r"^(?:So I|Rather than (?P<rejected>.+), I) (?P<action>.+)$")
CLAIMS = {
    "the action is possible": re.compile(r"^The task is about .*, and I can (?P<action>.+)$"),
    "not come across yet": re.compile(r"^I have not come across (?P<things>.+) yet$"),
    "expected outcome": re.compile(r'^If I (?P<action>.+), I expect "(?P<gist>.+)"$'),
    "completes the task": re.compile(r"^To (?P<action>.+) would complete the task$"),
    "contender does nothing with it": re.compile(
        r"^I could (?:also )?(?P<action>.+), but that does nothing with (?P<things>.+)$"
    ),
    "contender shows what is known": re.compile(
        r"^I could (?:also )?(?P<action>.+), but that would only show me what I know already$"
    ),
    "still needed": re.compile(r"^Still needed: .+$"),
    "not seen yet": re.compile(r"^\w+: not seen yet$"),
    "where a thing or a place is": re.compile(r"^\w+(?: (?:in|on) \w+)?: (?:here|in the \w+)(?:, closed)?$"),
    "what is held": re.compile(r"^(?:\w+: I hold it|I hold the \w+, which is not needed)$"),
}

REFUSALS = {
    "no such place here": re.compile(r"There is no \w+ here"),
    "no such thing there": re.compile(r"There is no \w+ (?:in|on) the"),
    "no door": re.compile(r"No door leads|You are in the \w+ already"),
    "not held, or hands full": re.compile(r"You do not hold|Your hands are full"),
    "open or closed already": re.compile(r"The \w+ is (?:open|closed)|You cannot"),
    "no command": re.compile(r"That is not something"),
}


def named(text: str) -> list[str]:
    """Return the things of a list such as "the apple or the lamp"."""
    return re.findall(r"the (\w+)", text)


class Turn:
    """A turn of an episode beside the state of the simulator in which it was played."""

    def __init__(self, house: House, turn: dict, seen: list[str]) -> None:
        self.house = house
        self.turn = turn
        self.seen = seen  # the observations so far, the present one included
        self.sentences = [s.rstrip(".!") for s in re.split(r"(?<=[.!])\s+", (turn.get("thought") or "").strip()) if s]

    def result(self, action: str) -> tuple[str, bool, bool]:
        """Return what an action leads to here: observation, whether it was accepted, whether it ended the task."""
        outcome = self.house.fork().step(action)
        return outcome.text, outcome.valid, bool(outcome.success)

    def is_true(self, name: str, claim: re.Match[str]) -> bool:
        """Return whether a claim is true in this state."""
        said = claim.groupdict()
        text, valid, success = self.result(said["action"]) if "action" in said else ("", True, False)
        notes = [note for note in re.split(r"(?<=\.)\s+", self.house.explain() or "")]
        if name == "the action is possible":
            return valid
        if name == "not come across yet":
            return not any(re.search(rf"\b{thing}\b", text) for thing in named(said["things"]) for text in self.seen)
        if name == "expected outcome":
            return said["gist"].rstrip(".") in text
        if name == "completes the task":
            return success
        if name == "contender does nothing with it":
            names = named(said["things"])
            return valid and not any(re.search(rf"\b{thing}\b", f"{said['action']} {text}") for thing in names)
        if name == "contender shows what is known":
            return valid and text in self.seen[:-1]
        return claim.string + "." in notes


def turns_of(episode: dict) -> list[Turn]:
    """Play an episode again, and return its turns."""
    house = open_env(episode["env"])
    assert isinstance(house, House)
    observation = house.reset(episode["task"])
    seen, turns = [observation.text], []
    for turn in episode["transcript"]:
        assert turn["observation"] == seen[-1], f"{episode['id']}: the simulator does not repeat the episode"
        turns.append(Turn(house.fork(), turn, list(seen)))
        if turn["action"] is not None:
            seen.append(house.step(turn["action"]).text)
    return turns


def situation(house: House, expert: str) -> str:
    """Return what the expert does in a state: search, walk with the thing in hand, or something with the thing."""
    held = house.held == house.target
    if expert.startswith("go to "):
        return "walks with it" if held else "searches elsewhere"
    return "searches here" if expert.startswith("open ") and not held else "is at it"


def shares_of(episodes: list[dict]) -> dict[str, tuple[float, float]]:
    """Return (how many, of how many) for everything that is counted."""
    counts: dict[str, list[float]] = defaultdict(lambda: [0, 0])

    def count(name: str, yes: float) -> None:
        counts[name][0] += yes
        counts[name][1] += 1

    for episode in episodes:
        refused: Counter[str] = Counter()
        said: set[str] = set()
        held = put_away = False  # the thing that the task is about
        for turn in turns_of(episode):
            action = canonical(turn.turn["action"] or "")
            thought = (turn.turn.get("thought") or "").strip()
            text, valid, success = turn.result(action)
            expert = canonical(turn.house.expert() or "")
            count("action refused", not valid)
            if not valid:
                count("refused: refused before in the episode", refused[action] > 0)
                refused[action] += 1
                for reason, rule in REFUSALS.items():
                    count(f"refused: {reason}", bool(rule.match(text)))
            count("action is the expert's", action == expert)
            count(f"action is the expert's: {situation(turn.house, expert)}", action == expert)
            holds_it = turn.house.held == turn.house.target
            held |= holds_it
            put_away |= holds_it and valid and action.startswith("put ") and not success
            count("answer cut off", bool(turn.turn.get("cut_off")))
            count("thinks", bool(thought))
            if not thought:
                continue
            count("words of a thought", len(thought.split()))
            count("thought was thought before in the episode", thought in said)
            said.add(thought)
            choice = CHOICE.match(turn.sentences[-1])
            count("ends in a choice", bool(choice))
            if choice:
                count("action follows from the choice", canonical(choice["action"]) == action)
                rejected = [canonical(a) for a in re.split(r" or ", choice["rejected"] or "") if a]
                for other in rejected:
                    count("rejected action (Rather than ...) is possible", turn.result(other)[1])
            contenders = [c["action"] for c in map(CLAIMS["contender does nothing with it"].match, turn.sentences) if c]
            contenders += [c["action"] for c in map(CLAIMS["contender shows what is known"].match, turn.sentences) if c]
            contenders += rejected if choice else []
            if contenders:
                count("argues against the expert's action", expert in map(canonical, contenders))
                count("argues against the action that it takes", action in map(canonical, contenders))
            for sentence in turn.sentences[: -1 if choice else None]:
                found = [(name, match) for name, rule in CLAIMS.items() if (match := rule.match(sentence))]
                count("sentence is of a known form", bool(found))
                for name, match in found:
                    count(f"true: {name}", turn.is_true(name, match))
                    count("true: all claims", turn.is_true(name, match))
        count("episode: had the thing in hand", held)
        count("episode: put it where it does not belong", put_away)
    return {name: (a, b) for name, (a, b) in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("episodes", type=Path, nargs="+")
    for file in parser.parse_args().episodes:
        episodes = list(read([str(file)], "episode"))
        groups = {
            "solved": [e for e in episodes if e["success"]],
            "failed": [e for e in episodes if not e["success"]],
            "all": episodes,
        }
        shares = {name: shares_of(group) for name, group in groups.items()}
        print(f"{file}: " + ", ".join(f"{len(group)} {name}" for name, group in groups.items()))
        print(f"{'':44}" + "".join(f"{name:>18}" for name in groups))
        for name in sorted(set().union(*shares.values())):
            cells = [show(name, *shares[group].get(name, (0, 0))) for group in groups]
            print(f"{name:44}" + "".join(f"{cell:>18}" for cell in cells))


def show(name: str, total: float, of: float) -> str:
    """Return a share with what it is a share of, or a mean."""
    if not of:
        return "-"
    return f"{total / of:.1f} ({of:.0f})" if name.startswith("words") else f"{total / of:.1%} ({of:.0f})"


if __name__ == "__main__":
    main()

"""Find false claims in a reflection: outcomes told as known, and conclusions that name another action."""

from __future__ import annotations

import re

from eexp.examples.reflection.invented_names import identifiers, is_ordinary, names_in, numbered, texts_given
from eexp.examples.reflection.situations import Situation
from eexp.examples.reflection.vocabulary import FUNCTION_WORDS, PAST_FORMS, SAME_IN_THE_PAST, word_set
from eexp.examples.reflection.words import root, roots, sentences, words
from eexp.records.equality import action_form

_HEDGES = word_set(
    """would could might may should expect expects expected perhaps maybe probably likely hope hopefully if guess
    suppose presumably possibly chance unless whether seem seems usually often"""
)
#: Other words for the verb of an action.
_SYNONYMS = {
    root(verb): {root(word) for word in others.split()}
    for verb, others in {
        "take": "pick get grab collect move",
        "pick": "take get grab move",
        "go": "walk move head visit check enter leave outside",
        "click": "select choose press pick buy read open",
        "put": "place drop move",
        "ls": "list",
        "mv": "move",
        "rm": "remove delete",
        "cp": "copy",
        "cd": "change go",
        "search": "look",
        "cook": "roast heat fry",
        "send": "tell message",
        "respond": "tell answer",
    }.items()
}
_FROM = word_set("from")  # the place after it is an origin, not a destination
_TRY = word_set("""try attempt""")
_CONCLUDED = re.compile(
    r"\b(?:I|me)(?:'ll|'d| will| shall| should| must| had| would| need to| have to| want to| decide to| choose to"
    r"| prefer to| am going to| go on and)?"
    r"(?: better| rather| also| just| now| first| then| therefore| thus| simply| next)* "
    r"|\b(?:next|best|right|sensible|correct|natural|logical|my) (?:\w+ )?(?:step|move|choice|thing|action|call)"
    r"(?: to do)?(?: now| here)? (?:is|would be) (?:to )?",
    re.IGNORECASE,
)
_SUBORDINATE = re.compile(
    r"\b(?:rather than|instead of|because|since|before|without|so that|in order to|if|unless|although|though|while|when"
    r"|where|until|not|never|but|yet|which|who|whose)\b.*?(?=[,;:]|$)",
    re.IGNORECASE,
)
#: A thing and its new state, as in "the door is now open" and "the door is open now".
_CHANGED = re.compile(r"([^.,;:]*?)\b(?:is|are) (?:now (?=\w)|(?=\w+ now\b))(\w+)", re.IGNORECASE)


class _Action:
    """The words of an action: its verb and its arguments, by root."""

    def __init__(self, action: str):
        self.text = action
        tokens = [root(word) for word in words(re.sub(r"\w+=", "", action).replace("_", " "))]
        self.verb = tokens[0] if tokens else ""
        self.verbs = {self.verb, *_SYNONYMS.get(self.verb, ())}
        if re.match(r"\w+ \w", action) and len(tokens) > 1 and not is_ordinary(action.split()[0]):
            self.verbs.add(tokens[1])  # of a command: `git commit`
        self.arguments = {word for word in tokens[1:] if word not in FUNCTION_WORDS}
        if not self.arguments and len(tokens) > 1:
            self.arguments = set(tokens[1:])
        call = re.match(r"\w+(?=\()", action)
        self.name = {root(word) for word in words(call.group(0).replace("_", " "))[1:]} if call else set()

    def share(self, word_roots: set[str]) -> float:
        """Return the share of the arguments that is among `word_roots`; without arguments, 1 if the verb is, else 0."""
        if not self.arguments:
            return float(bool(self.verbs & word_roots))
        if self.name and self.name <= word_roots and self.arguments & word_roots - self.name:
            return 1.0  # a call is identified by its name and one of its values
        return len(self.arguments & word_roots) / len(self.arguments)

    def is_begun(self, text: str) -> bool:
        """Return whether a text begins with the verb of the action, in the present tense."""
        text = re.sub(r"^(call|run|use|execute) (the )?", "", text.strip())
        if self.text and text.casefold().startswith(self.text.casefold()):
            return True
        return any(root(word) in self.verbs and not _is_past(word) for word in words(text.replace("_", " "))[:1])

    def match(self, text: str) -> float:
        """Return how well a text names the action, from 0 to 1: 1 if word by word, else by verb and arguments."""
        if self.text.casefold() in text.casefold() and len(self.text) > 6:
            return 1.0
        word_roots = roots([text.replace("_", " ")])
        if not self.verbs & word_roots:
            return 0.0
        return 0.4 + 0.6 * self.share(word_roots) if self.arguments or len(word_roots) < 3 else 0.0


def hindsight(text: str, situation: Situation) -> str | None:
    """Find an outcome that is told as known, although the action is still to come.

    There are two kinds: a report that one of the open actions was taken ("I opened the fridge", "going there led to"),
    unless an earlier step supports it; and names that only an outcome contains, stated as facts, not as expectations.
    """
    open_actions = [_Action(a["action"]) for a in situation.contenders] + [_Action(situation.step["action"])]
    past_actions = [_Action(step["action"]) for step in situation.history]
    revealed = _Revealed(situation)
    for sentence in sentences(text):
        for clause in _clauses(sentence):
            if _reports(clause, open_actions, past_actions):
                return f"tells as done what is still to come: {clause!r}"
        if not _hedged(sentence) and (name := revealed.name_in(sentence)):
            return f"states as a fact what only an outcome shows: {name!r}"
    return None


class _Revealed:
    """Names, numbered names, identifiers and states of things that only the outcomes show."""

    def __init__(self, situation: Situation):
        before = texts_given(situation, outcomes=False)
        outcomes = [a["outcome"]["observation"] for a in situation.contenders]
        outcomes += [situation.outcome["observation"]] if situation.outcome else []
        known = roots(before)
        self.names = set().union(*(names_in(text) for text in outcomes)) - known
        refused = {a["action"] for a in situation.contenders if a["outcome"].get("valid") is False}
        trusted = " ".join(text for text in before if text not in refused)
        self.numbered = set().union(*(numbered(text) for text in outcomes)) - numbered(trusted)
        self.identifiers = set().union(*(identifiers(text) for text in outcomes)) - identifiers(" ".join(before))
        self.changes = [(roots([thing]), state) for text in outcomes for thing, state in _CHANGED.findall(text)]

    def name_in(self, sentence: str) -> str | None:
        """Return something in a sentence that only the outcomes show, or None."""
        if names := self.names & roots([sentence]):
            return next(word for word in words(sentence) if root(word) in names)
        if pairs := self.numbered & numbered(sentence):
            return " ".join(min(pairs))
        if codes := self.identifiers & identifiers(sentence):
            return min(codes)
        for thing, state in _CHANGED.findall(sentence):
            if any(state == other and roots([thing]) & changed - FUNCTION_WORDS for changed, other in self.changes):
                return f"{thing} is now {state}"
        return None


def _hedged(sentence: str) -> bool:
    """Return whether a sentence words a thing as expected or possible; "I should" is a decision, "3 May" a date."""
    plain = re.sub(r"\bI (should|would rather)\b|(?<=\d )May\b", "", sentence)
    return bool(_HEDGES & set(words(plain)))


def _clauses(sentence: str) -> list[str]:
    """Return the parts of a sentence that may each hold a statement."""
    return [part.strip() for part in re.split(r"[,;:]|\b(?:and|but|so|because|therefore)\b", sentence) if part.strip()]


def _reports(clause: str, open_actions: list[_Action], past_actions: list[_Action]) -> bool:
    """Return whether a clause tells that an open action was taken, or its outcome."""
    tokens = words(clause)
    if not tokens or _HEDGES & set(tokens) or "not" in tokens[:4] or tokens[0] in ("before", "after", "once", "if"):
        return False
    subject = _subject(tokens)
    if not subject:
        return False
    tokens = [token for at, token in enumerate(tokens) if not (_FROM & set(tokens[max(0, at - 2) : at]))]
    word_roots = {root(word) for word in tokens}
    past_shares = (action.share(word_roots) for action in past_actions if action.verbs & subject)
    best_past_share = max(past_shares, default=0.0)
    for action in open_actions:
        is_attempt = bool(_TRY & subject) and bool(action.verbs & word_roots)
        least, share = 0.3 if action.verb in subject else 0.5, action.share(word_roots)
        if (is_attempt or action.verbs & subject) and share >= least and share > best_past_share:
            return True
    return False


def _subject(tokens: list[str]) -> set[str]:
    """Return the roots of verbs in the past tense: after "I", or as the subject of a clause in the past tense."""
    for at, token in enumerate(tokens):
        if token in ("i", "i've", "when") and at + 1 < len(tokens):
            following = [
                t for t in tokens[at + 1 : at + 4] if t not in ("have", "just", "already", "i", "then", "also")
            ]
            perfect = tokens[at + 1] == "have" or token == "i've"
            if following and (_is_past(following[0]) or (perfect and _may_be_past(following[0]))):
                return {root(following[0]), *({root(t) for t in tokens} if root(following[0]) in _TRY else ())}
    passive = {"is", "are", "be", "been", "being", "has", "have"}
    past = [at for at in range(1, len(tokens)) if _may_be_past(tokens[at]) and tokens[at - 1] not in passive]
    if tokens[0].endswith("ing") and past:
        return {root(tokens[0]), *({root(t) for t in tokens[1:4]} if root(tokens[0]) in _TRY else ())}
    is_attempt = tokens[0] in ("the", "my", "a") and {"call", "lookup", "attempt", "try"} & set(tokens[1:3])
    if is_attempt and any(at > 1 for at in past):
        return {root(token) for token in tokens[1:3]}
    return set()


def _is_past(token: str) -> bool:
    """Return whether a word is a past form of a verb."""
    return token in PAST_FORMS or (token.endswith("ed") and len(token) > 4 and token != "need")


def _may_be_past(token: str) -> bool:
    """Return whether a word is a past form of a verb, or equal to one."""
    return _is_past(token) or token in SAME_IN_THE_PAST


def other_action(text: str, situation: Situation) -> str | None:
    """Find a conclusion that names another known action than the one that follows.

    The last sentence that concludes ("So I", "I will", "the next step is") is compared with all known actions of the
    state. Actions that are weighed and dropped before it ("rather than", "I could") do not count.
    """
    step, form = situation.step, action_form(situation.trajectory)
    own = _Action(step["action"])
    known: list[str] = [*(a["action"] for a in situation.contenders), *(step.get("admissible") or [])]
    others = [_Action(action) for action in dict.fromkeys(known) if form(action) != form(step["action"])]
    for sentence in reversed(sentences(text)):
        concluded = next((text for text in _concluded(sentence) if any(a.is_begun(text) for a in (own, *others))), "")
        if not concluded:
            continue
        best = max(others, key=lambda other: other.match(concluded), default=own)
        if best.match(concluded) > max(0.6, own.match(sentence)):
            return f"concludes with {best.text!r} rather than {step['action']!r}"
        return None
    return None


def _concluded(sentence: str) -> list[str]:
    """Return the possible conclusions of a sentence, without the clauses that weigh something."""
    plain = _SUBORDINATE.sub("", sentence)
    if re.search(r"\bI (could|might|may|can)\b", plain, re.IGNORECASE):
        return []
    return [plain[match.end() :] for match in _CONCLUDED.finditer(plain)]

"""Reflections: which states get one, how they are composed, requests to a model, and which answers are kept."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from itertools import cycle, islice

import pytest
from printed_worlds import Ice, Number
from running import ROOT, lines, read, run, write

from eexp.acting.branch import branch
from eexp.acting.expert import expert
from eexp.acting.rollout import rollout
from eexp.acting.settings import BranchSettings
from eexp.envs.worlds.house import House
from eexp.errors import UsageError
from eexp.examples.reflection.guards import judge, open_guards, without_copies
from eexp.examples.reflection.rationale import compose, compose_from_notes, gist
from eexp.examples.reflection.search import FOUND_BEFORE, NO_WAY
from eexp.examples.reflection.shared import SharedSentences
from eexp.examples.reflection.situations import (
    AFTER_THE_END,
    NO_CONTENDER,
    NO_EFFECT,
    NOT_EXECUTED,
    NOT_WEIGHED,
    NOTHING_KNOWN,
    situations,
)
from eexp.examples.reflection.writing import reflect
from eexp.examples.settings import GuardSettings, ReflectSettings
from eexp.models import open_model
from eexp.models.base import PlaySettings, Sample, Score
from eexp.prompts import get_style
from eexp.workers.jobs import InProcess

STYLE, TAGS = get_style("react"), get_style("think")
BY_RULE = ReflectSettings(rationale="outcome")


@pytest.fixture(scope="module")
def rolled() -> list[dict]:
    """Fifty trajectories of house with outcomes."""
    house = House()
    experts = expert(house, (t for t, _ in zip(house.tasks("train"), range(50))))
    return list(rollout(branch(experts, None, BranchSettings(k=3, source="admissible")), InProcess(lambda _: House())))


def alternative(action: str, observation: str, **outcome) -> dict:
    return {"action": action, "source": "policy", "outcome": {"observation": observation, "valid": True, **outcome}}


def trajectory(*steps: dict, instruction: str = "Put the egg in the box.", **outcome) -> dict:
    return {
        "type": "trajectory",
        "id": "t",
        "env": "e",
        "task": {"id": "t"},
        "instruction": instruction,
        "steps": list(steps),
        "outcome": {"observation": "The end.", **outcome},
    }


def step(observation: str, action: str, *alternatives: dict, **more) -> dict:
    return {"observation": observation, "action": action, "alternatives": list(alternatives), **more}


def reflections(records, writer=None, writing=None, style=STYLE, scorer=None):
    """Return examples, errors, refused texts, and the counts."""
    errors, refusals, counts = [], [], Counter()

    def refuse(record, error):
        refusals.append(error)

    examples = reflect(
        iter(records),
        style,
        writer,
        writing or ReflectSettings(rationale="model" if writer else "outcome"),
        scorer,
        on_error=lambda record, error: errors.append(error),
        keep=refuse,
        on_refused=refuse,
        count=lambda what, n: counts.update({what: n}),
    )
    return list(examples), errors, refusals, counts


# -- which states, which alternatives ----------------------------------------------------------------------------------


def test_an_alternative_that_did_as_well_is_no_contender():
    t = trajectory(
        step(
            "A hall.",
            "go north",
            alternative("walk north", "A yard."),
            alternative("go up", "A yard.", valid=False),
            alternative("win", "Won.", done=True, success=True),
            alternative("quit", "Over.", done=True, success=False),
            alternative("finish", "Over.", done=True),
            alternative("Go North.", "?"),
            {"action": "x", "outcome": None},
        ),
        step("A yard.", "take egg"),
    )
    first, second = situations(t)
    assert [a["action"] for a in first.contenders] == ["go up", "quit"] and first.as_good == 4
    assert [a["action"] for a in first.real_contenders] == ["quit"]
    assert second.left_out == NOT_EXECUTED and situations(t, needed=False)[1].left_out == ""
    _, _, _, counts = reflections([t])
    assert counts == {"alternative[s] left out that did as well as the expert's action": 4, NOT_EXECUTED: 1}


def test_a_state_where_all_did_as_well_has_no_reflection():
    t = trajectory(step("A hall.", "go north", alternative("walk north", "A yard.")), step("A yard.", "take egg"))
    assert situations(t)[0].left_out == NO_CONTENDER
    assert situations(t, needed=False)[0].left_out == ""


@pytest.mark.parametrize("success", [{"success": True}, {"score": 1.0}], ids=["judged", "by the score"])
def test_states_after_the_end_and_without_effect_are_left_out(success):
    worse = alternative("wait", "Time passes.")
    won = alternative("put egg", "The egg is in the box.", done=True, **success)
    over = alternative("look", "The task is over.", done=True, valid=False, **success)
    t = trajectory(step("A.", "drop egg in box", won, worse), step("The egg is in the box.", "look", worse))
    assert [s.left_out for s in situations(t)] == ["", AFTER_THE_END]
    t = trajectory(step("A.", "go", worse), step("B.", "look", over, worse), step("C.", "look", worse))
    assert [s.left_out for s in situations(t)] == ["", AFTER_THE_END, AFTER_THE_END]
    t = trajectory(step("A.", "look", worse), step("A.", "go", worse), step("A. ", "go", worse))
    assert [s.left_out for s in situations(t)] == [NO_EFFECT, "", ""], "observations are compared as they are"
    lists = [{"admissible": ["a", "b"], "admissible_count": n} for n in (2, 2, 3)]
    changed = trajectory(step("A.", "cd", worse, admissible=["a"]), step("A.", "go", worse, **lists[0]))
    assert situations(changed)[0].left_out == "", "the same text, and other actions are possible"
    sampled = trajectory(step("A.", "cd", worse, admissible=["a"]), step("A.", "go", worse, **lists[2]))
    assert situations(sampled)[0].left_out == NO_EFFECT, "a sample of the list tells nothing"
    refused = trajectory(step("A.", "fly", worse), valid=False)
    assert situations(refused)[0].left_out == NO_EFFECT
    again = trajectory(step("Got 1 log", "get 1 log", worse), step("Got 1 log", "go", worse, changed=True))
    assert situations(again)[0].left_out == "", "the environment says that it changed something"


def test_pool_and_first(rolled):
    t = trajectory(
        step(
            "A.",
            "go",
            {**alternative("wait", "B."), "pool": "iwm"},
            {**alternative("sit", "C."), "pool": "sr"},
            {**alternative("run", "D."), "pool": "sr"},
        ),
    )
    names = lambda **options: [a["action"] for a in situations(t, **options)[0].contenders]  # noqa: E731
    assert names() == ["wait", "sit", "run"] and names(pool="sr") == ["sit", "run"]
    assert names(pool="sr", first=1) == ["sit"] and names(first=2) == ["wait", "sit"]
    ids = lambda **options: [e["id"] for e in reflections(rolled, writing=ReflectSettings("outcome", **options))[0]]  # noqa: E731
    assert ids(pool="sr") == [] and ids(first=1)


# -- one reflection for every contender --------------------------------------------------------------------------------


def test_one_reflection_for_every_contender(rolled):
    each = ReflectSettings("outcome", per_alternative=True)
    examples, errors, _, counts = reflections(rolled, writing=each)
    states = [(t, s) for t in rolled for s in situations(t) if not s.left_out]
    real = [(t, s, c) for t, s in states for c in s.real_contenders]
    assert counts[NOT_WEIGHED] == sum(len(s.contenders) for _, s in states) - len(real)
    weighed = [(t, s, c) for t, s, c in real if compose(replace(s, contenders=[c]))]
    assert not errors and len(examples) == len(weighed) > len(states)
    for e, (t, s, c) in zip(examples, weighed):
        number = s.step["alternatives"].index(c)
        assert e["id"] == f"{t['id']}/{s.i}/reflection/{number}" and e["kind"] == "reflection"
        assert STYLE.parse(e["completion"][0]["content"]).thought == compose(replace(s, contenders=[c]))
    written = {e["id"] for e in examples[::2]}
    rest = reflect(iter(rolled), STYLE, None, each, skip=lambda name: name in written)
    assert list(rest) == examples[1::2]


def test_a_model_is_asked_about_one_contender_at_a_time(one):
    hall = {**one["steps"][0], "alternatives": [alternative(a, f"It is {a}.") for a in ("blue", "green", "red")]}
    writer = Writer(GOOD)
    examples, *_ = reflections([{**one, "steps": [hall]}], writer, ReflectSettings(per_alternative=True))
    assert [e["id"].rpartition("/reflection/")[2] for e in examples] == ["0", "1", "2"]
    for request, color in zip(writer.requests, ("blue", "green", "red")):
        assert re.findall(r"It is (\w+)\.", request.prompt[-1]["content"]) == [color]
    assert len({request.seed for request in writer.requests}) == 3
    scorer = Scorer({hall["action"]: 1.0})
    by_notes = ReflectSettings("environment", per_alternative=True)
    reflections([{**one, "steps": [hall]}], writing=by_notes, scorer=scorer)
    assert [len(request.completions) for request in scorer.groups[0]] == [2] * 6, "the action and its contender"


def test_a_search_with_one_contender():
    """It begins with two actions, in the order in which the state lists them."""
    listed = {"admissible": ["dry", "boil", "melt"], "admissible_count": 3}
    ruined, tar = alternative("dry", "You hold ash."), alternative("melt", "You hold tar.")
    t = trajectory(
        step("You hold ore.", "boil", ruined, tar, **listed),
        step("You hold tin.", "boil", ruined, tar, **listed),
        instruction="Make gold.",
        success=True,
    )
    t["outcome"]["observation"] = "You hold gold."
    thoughts = lambda **options: [  # noqa: E731
        STYLE.parse(e["completion"][0]["content"]).thought for e in reflections([t], writing=searching(**options))[0]
    ]
    searching = lambda **options: ReflectSettings("search", **options)  # noqa: E731
    assert thoughts(per_alternative=True) == [
        "dry: You hold ash. boil: You hold tin. After do `boil`, dry: You hold ash. boil: You hold gold, as asked. "
        "So I do `boil`.",
        "boil: You hold tin. melt: You hold tar. After do `boil`, dry: You hold ash. boil: You hold gold, as asked. "
        "So I do `boil`.",
        "dry: You hold ash. boil: You hold gold, as asked. So I do `boil`.",
    ]
    counts = reflections([t], writing=searching(per_alternative=True))[3]
    assert counts == {FOUND_BEFORE: 1} and len(thoughts()) == 2
    counts = reflections([t], writing=searching(per_alternative=True, ahead=1))[3]
    assert counts == {NO_WAY.replace("state[s]", "contender[s] in a state"): 2, FOUND_BEFORE: 1}


@pytest.mark.parametrize("rationale", ["own", "outcome", "environment"])
def test_one_contender_at_a_time_needs_contenders(rationale, one):
    settings = ReflectSettings(rationale, weigh=0, per_alternative=True)
    with pytest.raises(UsageError, match="not with --no-outcomes, nor with --weigh 0"):
        reflections([one], Writer(GOOD) if rationale == "own" else None, settings)


# -- composed ----------------------------------------------------------------------------------------------------------


def test_a_reflection_by_rule(rolled):
    examples, errors, _, counts = reflections(rolled)
    chosen = [(t, s) for t in rolled for s in situations(t) if not s.left_out]
    states = [(t, s) for t, s in chosen if compose(s)]
    assert len(examples) == len(states) and not errors and counts[NOTHING_KNOWN] == len(chosen) - len(states) > 0
    for e, (t, s) in zip(examples, states):
        assert e["id"] == f"{t['id']}/{s.i}/reflection" and e["reflection_by"] == "rule: outcome"
        assert e["prompt"] == STYLE.act(
            t["instruction"], t["steps"][: s.i], s.step["observation"], s.step["admissible"], think=True
        )
        parsed = STYLE.parse(e["completion"][0]["content"])
        assert parsed.action == s.step["action"] and parsed.thought
        assert [span["name"] for span in e["spans"]] == ["thought", "action"]


@pytest.mark.parametrize("weigh", [0, 1, 2])
@pytest.mark.parametrize("composer", [compose, compose_from_notes])
def test_a_composed_reflection_passes_all_guards(composer, weigh, rolled):
    guards = open_guards(GuardSettings())
    for t in rolled:
        for s in situations(t, needed=weigh > 0):
            if not s.left_out:
                text = composer(s, weigh)
                if not text:
                    continue
                assert judge(text, s, guards).guard == "" and without_copies(text) == text, text
                named = [a for a in s.contenders if re.search(rf"I could {re.escape(a['action'])}\b", text)]
                assert len(named) <= weigh + 1, text  # one may begin with the words of another


def test_compose_words():
    hall = step(
        "A hall. An egg is here.",
        "take egg",
        alternative("fly", "You cannot.", valid=False),
        alternative("jump", "You fall: dead.", done=True, success=False),
        alternative("sing", "La la.\nLa."),
    )
    (s,) = situations(trajectory(hall))
    assert compose(s, 0) == "The task is about the egg, and I can take egg. So I take egg."
    assert compose(s, 2) == (
        "I could jump, but that would end it without success. I could sing, but that does nothing with the egg. "
        "The task is about the egg, and I can take egg. So I take egg."
    ).replace("jump,", "do `jump`,").replace("sing,", "do `sing`,")
    for success in ({"success": True}, {"score": 1.0}):
        (s,) = situations(trajectory(hall, done=True, **success))
        assert compose(s, 0) == "To take egg would complete the task. So I take egg."
    yard = step(
        "A yard.",
        "go north",
        alternative("go to the pond", "A pond. A box is here."),
        alternative("go south", "A hall."),
    )
    _, second = situations(trajectory({**hall, "observation": "A hall."}, yard))
    assert compose(second, 2) == (
        "I could go south, but that would show me nothing new. I have not come across the box yet. So I go north."
    )
    guess = step("Guess.", "guess crane", alternative("guess house", "- - - - -"))
    for instruction in ("Find the word by the rules", "Guess words."):
        (s,) = situations(trajectory(guess, instruction=instruction, done=True, success=True))
        assert compose(s, 1) == "", "who guesses does not know the end"
    (s,) = situations(trajectory({**guess, "observation": "Guess: crane or house."}, success=True))
    assert compose(s) == 'If I guess crane, I expect "The end". So I guess crane.'
    (s,) = situations(
        trajectory(step("Page 1. Buy", "click[Buy]", alternative("click[Next >]", "Page 2")), instruction="")
    )
    assert compose(s) == 'If I do `click[Buy]`, I expect "The end". So I do `click[Buy]`.'


def test_the_rule_in_worlds_that_it_was_not_written_for(tmp_path):
    """It claims no end on a guess, expects nothing that is there already, and tells how many thoughts are alike."""
    ice = list(expert(Ice(), islice(Ice().tasks("train"), 12)))
    ice = list(rollout(branch(ice, None, BranchSettings(k=3, source="admissible")), InProcess(lambda _: Ice())))
    result = run("reflect", "--rationale", "outcome", stdin=lines(ice)).ok()
    thoughts = [STYLE.parse(e["completion"][0]["content"]).thought for e in result.records]
    assert not any("expect" in thought or "come across" in thought for thought in thoughts)
    shared = SharedSentences()
    for thought in thoughts:
        shared.add(thought)
    assert f"{shared.most} reflections with one sentence in common" in result.err and shared.warning() in result.err
    run("reflect", "--rationale", "environment", stdin=lines(ice)).one_error(3, "no notes on the state")
    number = list(expert(Number(), Number().tasks("train")))
    for t in number:
        for s in t["steps"]:
            s["alternatives"] = [{"action": f"guess {n}", "source": "policy"} for n in range(1, 9)]
    number = list(rollout(iter(number), InProcess(lambda _: Number())))
    examples, errors, _, counts = reflections(number)
    assert not examples and not errors and counts[NOTHING_KNOWN] > 10


def test_a_sentence_in_many_reflections_is_told():
    shared = SharedSentences()
    for i in range(10):
        shared.add(f"I see {i}. {'The grid is new. ' * (i < 3)}So I wait.")
    assert shared.most == 3
    assert shared.warning() == "3 of 10 reflections say 'The grid is new.': read some (eexp show --sample)"
    shared.add("Else. So I wait.")
    for _ in range(4):
        shared.add("So I wait.")
    assert shared.warning() == "", "3 of 15 are a fifth; and the choice at the end does not count"


def test_unknown_parts_are_no_expectation():
    assert gist({"observation": "You open it. You see an egg."}) == "You open it"
    assert gist({"observation": "In the box: an egg", "unknown": [[12, 18]]}) == "In the box"
    assert gist({"observation": "You see an egg.", "unknown": [[8, 14]]}) == "You see"
    assert gist({"observation": "Crafted 1 minecraft:white_wool"}) == "Crafted 1 minecraft:white_wool"
    page = 'page "a: 2 rows where b = \\"c\\"" /a'
    assert gist({"observation": f"{page}: of 3\nlist"}) == page
    assert gist({"observation": 'It is 5" wide: a board'}) == 'It is 5" wide'
    assert gist({"observation": ""}) == gist({"observation": "\n"}) == ""


def test_notes_come_first(rolled, data):
    for t in rolled[:5]:
        examples, *_ = reflections([t], writing=ReflectSettings(rationale="environment", weigh=0))
        assert len(examples) == len(t["steps"])
        for e, s in zip(examples, t["steps"]):
            assert STYLE.parse(e["completion"][0]["content"]).thought == f"{s['notes']} So I {s['action']}."
            assert e["reflection_by"] == "rule: environment"
    without = [{k: v for k, v in s.items() if k != "notes"} for s in rolled[0]["steps"]]
    _, errors, _, _ = reflections([{**rolled[0], "steps": without}], writing=ReflectSettings(rationale="environment"))
    assert [e.where for e in errors] == ["$.steps[0].notes"], "once a trajectory"
    partly = {**rolled[0], "steps": [*without[:1], *rolled[0]["steps"][1:]]}
    examples, errors, _, counts = reflections([partly], writing=ReflectSettings(rationale="environment"))
    assert not errors and counts["state[s] without notes"] == 1 and len(examples) == len(without) - 1
    run("reflect", "--rationale", "environment", data["expert"], "--weigh", 0).one_error(
        3, "$.steps[0].notes: no notes on the state: run `eexp rollout` again"
    )


# -- written by a model ------------------------------------------------------------------------------------------------


class Writer:
    """A model that writes the given texts, in turn."""

    exact = True

    fingerprint = "writer"
    play_settings = PlaySettings()

    def __init__(self, *texts: str, finished: bool = True):
        self.texts, self.finished, self.requests, self.judged = list(texts), finished, [], 0

    def answer(self, groups):
        for group in groups:
            yield [self._answer(request) for request in group]

    def _answer(self, request):
        self.requests.append(request)
        texts = islice(cycle(self.texts), 1 if request.temperature == 0 else request.most)
        self.judged = 0

        def judge(text):
            self.judged += 1
            return request.accept(Sample(text, finished=self.finished))

        return list(islice((text for text in texts if judge(text)), request.n))


@pytest.fixture
def one(rolled) -> dict:
    return {**rolled[0], "steps": rolled[0]["steps"][:1], "outcome": {"observation": "You open it."}}


GOOD = "The apple must be somewhere, so I look in the kitchen first."


def test_a_models_reflection_is_cleaned_and_checked(one):
    examples, errors, refusals, _ = reflections([one], Writer(f"<think>hm</think>\n{GOOD}\nAction: fly"))
    assert examples[0]["completion"][0]["content"] == f"Thought: {GOOD}\nAction: {one['steps'][0]['action']}"
    assert examples[0]["reflection_by"] == "writer" and not errors and not refusals
    examples, _, refusals, counts = reflections([one], Writer(f"{GOOD} {GOOD}"))
    assert examples[0]["completion"][0]["content"].count(GOOD) == 1 and counts["text[s] written twice, cut to one"] == 1
    assert refusals[0].evidence["texts"][0]["guard"] == "repeated"
    writer = Writer("The expert says so, and he is right.", "", GOOD)
    examples, errors, refusals, counts = reflections([one], writer)
    assert GOOD in examples[0]["completion"][0]["content"] and not errors
    assert counts["text[s] refused by setup"] == counts["text[s] refused by length"] == 1 and writer.judged == 3
    assert [t["text"] for t in refusals[0].evidence["texts"]] == ["The expert says so, and he is right.", ""]


@pytest.mark.parametrize(
    ("text", "finished", "guard"),
    [
        ("As the expert does it, I go on.", True, "setup"),
        ("<think>only</think>", True, "length"),
        (GOOD, False, "cut-off"),
        ("I look into the dishwasher before all else.", True, "invented"),
    ],
)
def test_a_state_without_a_usable_text_is_set_aside(text, finished, guard, one):
    writer = Writer(text, finished=finished)
    examples, errors, refusals, counts = reflections([one], writer, ReflectSettings(retries=2))
    assert not examples and not refusals and writer.judged == 3 and counts[f"text[s] refused by {guard}"] == 3
    assert errors[0].where == "$.steps[0]" and "no usable reflection: the text " in str(errors[0])
    assert [t["text"] for t in errors[0].evidence["texts"]] == [text] * 3
    if guard != "length":  # an empty text is never a reflection
        examples, errors, _, _ = reflections([one], writer, ReflectSettings(guards=GuardSettings.without([guard])))
        assert len(examples) == 1 and not errors
    _, _, _, counts = reflections([one], writer, ReflectSettings(temperature=0))
    assert writer.judged == 1, "greedy text would not change"


def test_requests_to_a_model(rolled):
    t = rolled[0]
    thoughtful = {**t, "steps": [{**s, "thought": "I wonder."} for s in t["steps"]]}
    writer = Writer("I wonder what comes next, and go on.")
    examples, *_ = reflections([thoughtful], writer, ReflectSettings(guards=GuardSettings.without(["all"])))
    assert len(examples) == len([s for s in situations(t) if not s.left_out])
    assert {e["reflection_by"] for e in examples} == {"writer"}, "an expert's thought is no reflection"
    for request, s in zip(writer.requests, (s for s in situations(thoughtful) if not s.left_out)):
        prompt = request.prompt[-1]["content"]
        assert not re.search(r"\bexpert|option \d|alternative \d", prompt, re.IGNORECASE)
        assert "I wonder." in prompt and s.step["notes"] in prompt and s.step["observation"] in prompt
        assert ", ".join(s.step["admissible"]) in prompt
    sample = {**t, "steps": [{**s, "admissible_count": 99} for s in t["steps"]]}
    writer = Writer(GOOD)
    reflections([sample], writer)
    assert all(STYLE.reflection.admissible not in r.prompt[-1]["content"] for r in writer.requests)
    as_good = {
        **t,
        "steps": [
            {**s, "alternatives": [*s["alternatives"], alternative("SAME", following["observation"])]}
            for s, following in zip(t["steps"], t["steps"][1:])
        ],
        "outcome": {"observation": t["steps"][-1]["observation"]},
    }
    writer = Writer(GOOD)
    reflections([as_good], writer)
    assert all("SAME" not in r.prompt[-1]["content"] for r in writer.requests)


def test_reflect_with_the_tiny_model(data, tmp_path):
    """It was not trained to write reflections: its texts make the action no more probable."""
    one = read(data["rollout"])[0]
    one = {**one, "steps": one["steps"][:3]}
    rejects = tmp_path / "rejects"
    result = run("reflect", "-m", "tiny", "--threads", 1, "--max-tokens", 12, "--rejects", rejects, stdin=lines([one]))
    assert result.code in (0, 4) and "each text is verified by the model that wrote it" in result.err
    assert all(r["gain"] > 0 for r in result.records)
    writing = ("reflect", "-m", "tiny", "--threads", 1, "--max-tokens", 12, "--rejects", rejects)
    result = run(*writing, "--no-guard", "verify", stdin=lines([one]))
    assert result.code in (0, 4) and "is verified by" not in result.err
    failures = [r for r in read(rejects) if r.get("set_aside") is not False]
    assert len(result.records) + len(failures) == 3
    assert all(r["field"].startswith("$.steps[") and "texts" in r["evidence"] for r in failures)
    assert all(r["reflection_by"].startswith("sha256:") for r in result.records)


# -- of the model's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [STYLE, TAGS], ids=["react", "think"])
def test_a_thought_of_its_own_is_kept_if_the_action_is_the_experts(style, one):
    action = one["steps"][0]["action"]
    texts = [
        style.answer("go to lounge", "I look elsewhere first.").text,
        style.answer(action, "").text,
        style.answer(action.upper(), GOOD).text,
    ]
    writer = Writer(*(text.removeprefix(style.opening("always")) for text in texts))
    bare = {**one, "steps": [{**one["steps"][0], "alternatives": []}], "outcome": None}
    examples, errors, refusals, counts = reflections([bare], writer, ReflectSettings(rationale="own"), style)
    assert [e["kind"] for e in examples] == ["rationale"] and not errors
    assert examples[0]["completion"][0]["content"] == style.answer(action, GOOD).text
    assert counts["text[s] refused by keep-matching"] + counts["text[s] refused by length"] == 2
    assert len(refusals[0].evidence["texts"]) == 2
    (request,) = writer.requests
    prompt = request.prompt[-1]["content"]
    assert prompt.endswith(style.reflection.decide) and request.prefix == style.opening("always")
    assert examples[0]["prompt"] == style.act(
        bare["instruction"], [], bare["steps"][0]["observation"], bare["steps"][0]["admissible"], think=True
    )


def test_a_state_without_a_matching_action_is_counted(one):
    writer = Writer("Thought: I am elsewhere already.\nAction: fly")
    writer.play_settings = PlaySettings(style=STYLE)
    examples, errors, refusals, counts = reflections([one], writer, ReflectSettings(rationale="own"))
    assert not examples and not errors and counts["state[s] without a matching action"] == 1
    assert refusals[0].evidence["texts"][0]["fault"] == "ends in 'fly'"
    assert STYLE.reflection.decide not in writer.requests[0].prompt[-1]["content"], "it was trained to act"


# -- verified ----------------------------------------------------------------------------------------------------------


class Scorer:
    """Log-probabilities by rule: -10 for each, and what `likes` gives to those after a thought."""

    exact = True
    play_settings = PlaySettings()

    def __init__(self, likes: dict[str, float]):
        self.likes, self.groups = likes, []

    def answer(self, groups):
        for group in groups:
            self.groups.append(group)
            yield [[Sample(text, self.score(request, text)) for text in request.completions] for request in group]

    def score(self, request, text):
        return -10.0 + sum(
            gain for action, gain in self.likes.items() if action in text and "Thought" in request.prefix
        )


def test_a_reflection_stays_if_it_helps(one):
    own, other = one["steps"][0]["action"], situations(one)[0].contenders[0]["action"]
    for likes, kept_because in (
        ({own: 2.5}, ""),
        ({own: 2.5, other: 1.0}, ""),
        ({own: -1.0}, "does not make the action more probable"),
        ({}, "does not make the action more probable"),
        ({own: 1.0, other: 1.0}, "makes another action more probable"),
    ):
        scorer = Scorer(likes)
        examples, errors, refusals, counts = reflections([one], scorer=scorer)
        assert not errors
        if kept_because:
            assert not examples and kept_because in str(refusals[0]) and counts["text[s] refused by verify"] == 1
            assert {"without", "after", "gain"} <= refusals[0].evidence.keys()
            (text,) = refusals[0].evidence["texts"]
            assert text["guard"] == "verify" and text["fault"] == kept_because and text["text"].endswith(f"I {own}.")
        else:
            assert examples[0]["gain"] == 2.5 and not refusals
        (group,) = scorer.groups
        assert len(group) == 2 and all(len(r.completions) == 1 + len(situations(one)[0].contenders) for r in group)


def test_a_resumed_run_scores_the_same_groups(rolled):
    """A batch decides the last digits of a gain, so that examples written before are scored again."""
    t, likes = rolled[0], {s["action"]: 1.0 for s in rolled[0]["steps"]}
    whole, resumed, earlier_ids = Scorer(likes), Scorer(likes), set()
    first = list(reflect(iter([t]), STYLE, None, BY_RULE, whole))
    earlier_ids.update(e["id"] for e in first[:2])
    rest = list(reflect(iter([t, t]), STYLE, None, BY_RULE, resumed, skip=lambda name: name in earlier_ids))
    assert len(first) > 2 and rest == first[2:] * 2 and resumed.groups == whole.groups * 2
    earlier_ids.update(e["id"] for e in first)
    resumed = Scorer(likes)
    assert not list(reflect(iter([t]), STYLE, None, BY_RULE, resumed, skip=lambda name: name in earlier_ids))


@pytest.mark.parametrize("style", [STYLE, TAGS], ids=["react", "think"])
def test_the_gain_is_that_of_the_model(style, rolled):
    t = {**rolled[0], "steps": rolled[0]["steps"][:3]}
    with open_model("tiny") as model:
        examples, errors, refusals, _ = reflections(
            [t], writing=ReflectSettings(rationale="environment"), style=style, scorer=model
        )
        assert not errors and len(examples) + len(refusals) == 3
        for why in refusals:
            i = int(re.search(r"\d+", why.where)[0])
            s, text = t["steps"][i], why.evidence["texts"][0]["text"]
            answer = style.answer(s["action"], text).text
            head = answer[: answer.index(style.action.open)]
            state = (t["instruction"], t["steps"][:i], s["observation"], s["admissible"])
            ((after,),) = model.ask([Score(style.act(*state, think=True), [answer[len(head) :]], head)])
            closed = style.opening("never")
            bare = style.answer(s["action"]).text.removeprefix(closed)
            ((without,),) = model.ask([Score(style.act(*state, think=False), [bare], closed)])
            assert why.evidence["gain"] == pytest.approx(after.logprob - without.logprob, abs=0.01)


def test_verify_on_the_command_line(data, tmp_path):
    rejects = tmp_path / "rejects"
    args = ["reflect", "--rationale", "outcome", "--threads", 1, "--rejects", rejects]
    one = read(data["rollout"])[:1]
    composed = run(*args, stdin=lines(one)).ok().records
    result = run(*args, "--verify", "tiny", stdin=lines(one)).ok(4)
    refusals = read(rejects)
    assert f", {len(refusals)} set aside in {rejects}" in result.err
    assert "refused by verify" in result.err and refusals and len(result.records) + len(refusals) == len(composed)
    assert all(r["record"] == {"type": "trajectory", "id": one[0]["id"]} for r in refusals)
    assert all(e["gain"] > 0 and " verify=sha256:" in e["lineage"][-1] for e in result.records)
    unkept = run(*args[:-2], "--verify", "tiny", stdin=lines(one)).ok(4)
    assert unkept.out == result.out
    run(*args, "--verify", "http://127.0.0.1:1/v1#m", data["rollout"]).one_error(2, "a server cannot score")


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_the_command_of_the_page_reads_the_texts_that_verify_refuses(data, tmp_path):
    page = (ROOT / "docs" / "reflection.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^jq .*(?:\\\n.*)*$", page, re.MULTILINE)
    args = ["reflect", "--rationale", "outcome", "--threads", 1]
    one = read(data["rollout"])[:1]
    composed = run(*args, stdin=lines(one)).ok().records
    kept = run(*args, "--verify", "tiny", "--rejects", tmp_path / "refused.jsonl", stdin=lines(one)).ok(4).records
    shown = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    refused = [line.split("\t") for line in shown.splitlines()]
    assert {guard for guard, _, _ in refused} == {"verify"}
    thoughts = {r["id"]: r["completion"][0]["content"] for r in composed}
    missing = [thoughts[i] for i in thoughts if i not in {r["id"] for r in kept}]
    assert missing and all(text in thought for (_, _, text), thought in zip(refused, missing, strict=True))


def test_verify_keeps_the_texts_that_a_guard_refused_before(one):
    """The writer's first text leaks the set-up; the scorer refuses the second."""
    examples, errors, refusals, _ = reflections(
        [one], Writer("The expert says so, and he is right.", GOOD), scorer=Scorer({})
    )
    assert not examples and not errors
    assert [text["guard"] for text in refusals[0].evidence["texts"]] == ["setup", "verify"]


# -- the command -------------------------------------------------------------------------------------------------------


def test_states_without_executed_alternatives_are_counted(data):
    result = run("reflect", "--rationale", "outcome", data["expert"]).ok()
    states = sum(len(t["steps"]) for t in read(data["expert"]))
    assert result.out == b"" and f"{states} states without executed alternatives" in result.err
    assert "no alternatives: `eexp branch` adds them" in result.err


def test_reflect_notes_that_it_composes_by_rule(data):
    assert "composed by rule" in run("reflect", data["rollout"]).ok().err
    assert "composed by rule" not in run("reflect", "--rationale", "outcome", data["rollout"]).ok().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--no-outcomes"], "give both"),
        (["--keep-matching", "-m", "tiny"], "give both"),
        (["--no-outcomes", "--keep-matching"], "--no-outcomes needs -m MODEL"),
        (["--no-outcomes", "--keep-matching", "-m", "tiny", "--rationale", "outcome"], "not --rationale outcome"),
    ],
)
def test_options_that_do_not_fit_together(args, message, data):
    run("reflect", *args, data["rollout"]).one_error(2, message)


def test_settings_that_decide_the_output_are_in_the_lineage(data):
    entry = run("reflect", "--rationale", "outcome", "--first", 2, data["rollout"]).ok().records[0]["lineage"][-1]
    assert entry.endswith("rationale=outcome first=2 weigh=1")
    settings = ReflectSettings(guards=GuardSettings.without(["setup", "cut-off"])).lineage()
    assert settings["no_guard"] == "cut-off,setup" and settings["retries"] == 3
    assert ReflectSettings().lineage()["no_guard"] is None


def test_rejects_that_were_not_set_aside_do_not_change_the_exit_code(data, tmp_path):
    """A run that is resumed reads them: a text that was refused before an accepted one is kept, and nothing is lost."""
    file, out, rejects = write(tmp_path / "in", read(data["rollout"])[:1]), tmp_path / "out", tmp_path / "rejects"
    args = ["reflect", "--rationale", "outcome", file, "--resume", "-o", out, "--rejects", rejects]
    run(*args).ok(0)
    reject = {"type": "reject", "error": "texts were refused or cut first", "record": {"type": "trajectory", "id": "a"}}
    for more, code in (({"set_aside": False}, 0), ({}, 4)):
        whole = write(rejects, [{**reject, **more}]).read_bytes()
        run(*args).ok(code)
        assert rejects.read_bytes() == whole

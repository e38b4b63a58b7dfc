"""The audit of `eexp rollout`, with environments that lie, and what of a record is compared with the environment."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import liars
import pytest
from running import BARE_PYTHON, lines, run, write

from eexp.acting.audit import FIRST, FIRST_SHARE, Audit, AuditFailed
from eexp.acting.branch import branch
from eexp.acting.execution import execute
from eexp.acting.expert import expert
from eexp.acting.expert_ways import WalkedEpisode
from eexp.acting.rollout import rollout
from eexp.acting.settings import BranchSettings, RolloutSettings
from eexp.envs.check import FAILED, Checker
from eexp.envs.differences import difference_between, standing_difference
from eexp.envs.worlds.house import House
from eexp.errors import EexpError
from eexp.formats.episodes import conversation_of
from eexp.workers.jobs import InProcess

TESTS = str(Path(__file__).parents[1])
WAYS = ("state", "replay")  # copies by a fork of the process need one without threads: a command of its own, below


@pytest.fixture(scope="module")
def branched() -> list[dict]:
    """Return the expert's paths in 20 houses, with an alternative in each of their 151 states."""
    paths = expert(House(), islice(House().tasks("train"), 20))
    return list(branch(paths, None, BranchSettings(k=1, source="admissible")))


def rolled(trajectories: list[dict], env: House, **settings: object) -> tuple[list[dict], list, Counter]:
    """Return the trajectories executed in `env`, what was refused, and the numbers of the summary."""
    counts, refused = Counter(), []
    executed = rollout(
        iter(copy.deepcopy(trajectories)),
        InProcess(lambda _: env),
        RolloutSettings(**settings),
        on_refused=lambda _, error: refused.append(error),
        on_error=lambda _, error: refused.append(error),
        count=lambda label, number: counts.update({label: number}),
    )
    return list(executed), refused, counts


# -- the choice --------------------------------------------------------------------------------------------------------


def trajectory(name: str, alternatives: int = 10, env: str = "house") -> dict:
    steps = [{"alternatives": [{"action": str(k), "outcome": None} for k in range(2)]}] * (alternatives // 2)
    return {"id": name, "env": env, "steps": steps}


def test_a_share_is_chosen_by_identity_and_more_of_the_first_ones():
    trajectories = [trajectory(f"t/{n}") for n in range(2000)]
    audit = Audit(0.02)
    chosen = {t["id"]: audit.choose(t) for t in trajectories}
    first = [places for _, places in islice(chosen.items(), FIRST // 10)]
    assert all(places == sorted(places, reverse=True) for places in chosen.values())
    assert all(first) and sum(map(len, first)) >= FIRST_SHARE * FIRST
    assert 0.015 < sum(map(len, chosen.values())) / 20_000 < 0.025
    # what is chosen later depends on the trajectory alone, and is part of what a larger share chooses
    later = [name for name, _ in islice(chosen.items(), FIRST // 10, None)]
    other, larger = Audit(0.02), Audit(0.1)
    for t in reversed(trajectories):
        assert other.choose(t) == chosen[t["id"]] or t["id"] not in later[: -FIRST // 10]
        assert set(chosen[t["id"]]) <= set(larger.choose(t)) or t["id"] not in later
    # each environment has its first ones, and what is not executed is not chosen
    assert audit.choose(trajectory("x", env="textcraft")) and not Audit(0).choose(trajectory("x"))
    executed = {**trajectory("x"), "steps": [{"alternatives": [{"action": "0", "outcome": {"observation": ""}}]}]}
    assert not Audit(1).choose(executed) and Audit(1).choose(executed, again=True) == [(0, 0)]


@pytest.mark.parametrize("way", WAYS)
def test_an_environment_that_keeps_its_promise_is_audited_and_nothing_changes(branched, way):
    results = [rolled(branched[:5], liars.Honest(), fork=way, audit=share) for share in (0, 0.02, 1)]
    assert results[0][0] == results[1][0] == results[2][0] and not any(refused for _, refused, _ in results)
    counts = [result[2]["alternative[s] audited by replay: all equal"] for result in results]
    assert counts[0] == 0 and counts[1] >= 5 and counts[2] == sum(len(t["steps"]) for t in branched[:5])


# -- lies --------------------------------------------------------------------------------------------------------------


def message_of(trajectories: list[dict], env: House, **settings: object) -> str:
    """Return how a lie was caught: the message of the audit, or of the first refusal; "" where it was not."""
    try:
        _, refused, _ = rolled(trajectories, env, **settings)
    except AuditFailed as e:
        return str(e)
    return str(refused[0]) if refused else ""


def test_eleven_of_twelve_lies_are_caught_by_the_default_audit(branched):
    caught = {liar: message_of(branched, liar()) for liar in liars.LIARS}
    assert len(liars.LIARS) == 12 and sum(map(bool, caught.values())) >= 11
    unseen = {liar for liar in liars.LIARS if not message_of(branched, liar(), audit=0)}
    assert unseen == set(liars.LIARS) - {liars.ListsOtherwise, liars.ChangesItsTask}
    assert "by --fork state, and" in caught[liars.RestoresPart] and "--fork replay" in caught[liars.RestoresPart]
    assert "house/train/" in caught[liars.RestoresPart] and ": $.steps[" in caught[liars.RestoresPart]
    assert "the score is" in caught[liars.ScoresOtherwiseInCopies] and "done is" in caught[liars.EndsOtherwise]
    leak = caught[liars.LeaksAcrossResets]
    assert "in a replay, the observation is" in leak and "not answer in the same way" in leak
    assert "the instruction is" in caught[liars.ChangesItsTask]
    # without copies, what is left is seen as well
    for liar in (liars.LeaksAcrossResets, liars.Drifts, liars.DriftsWithTime, liars.ChangesItsTask):
        assert "every time" in message_of(branched, liar(), fork="replay") or liar is liars.ChangesItsTask
    for liar in (liars.RestoresPart, liars.SharesState, liars.LeaksBetweenCopies, liars.CopiesAnotherState):
        honest, _, _ = rolled(branched[:3], liar(), fork="replay")
        assert message_of(branched[:3], liar(), fork="replay") == "" and honest


@pytest.mark.parametrize("liar", liars.LIARS, ids=lambda liar: liar.__name__)
def test_the_check_finds_each_lie(liar):
    findings = Checker(liar, tasks=4, limit=10.0).findings()
    assert any(finding.verdict == FAILED for finding in findings)


@pytest.fixture
def not_forked(monkeypatch):
    """Let no check fork this process: tests before it may have started threads here."""
    monkeypatch.setattr(liars.Honest, "in_process", False)


def test_the_check_finds_nothing_where_nothing_is_wrong(not_forked):
    failed = [f for f in Checker(liars.Honest, tasks=4, limit=10.0).findings() if f.verdict == FAILED]
    assert not failed


# -- lies that stay in a process, and masks that hide all --------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> str:
    """Return a file with the expert's paths in 20 houses, with three alternatives in each state."""
    file = tmp_path_factory.mktemp("many") / "branched"
    paths = expert(House(), islice(House().tasks("train"), 20))
    write(file, list(branch(paths, None, BranchSettings(k=3, source="admissible"))))
    return str(file)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cache_of_the_process_is_found_by_a_replay_in_another_one(many, workers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    rollout = ("rollout", "-j", workers, many, "--env")
    error = run(*rollout, "liars:CachesInTheProcess").one_error(1, "house/train/", "in one process", "another one")
    assert "liars:CachesInTheProcess does not answer in the same way in every process" in error
    honest = run(*rollout, "liars:Honest").ok()
    (number,) = re.findall(r"(\d+) alternatives audited in another process: all equal", honest.err)
    assert int(number) >= 15


def test_the_check_compares_with_another_process(monkeypatch, not_forked):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    assert b" lead to the same in another process" in run("env", "check", "liars:Honest").ok().out
    requirement = r" 3  NOT MET +instances agree +task train/\d+ in another process, "
    for liar in liars.UNSEEN_IN_ONE_PROCESS:
        failed = [f.check for f in Checker(liar, tasks=4, limit=10.0).findings() if f.verdict == FAILED]
        assert not failed, "one process is enough to find it"
        checked = run("env", "check", liar.spec).ok(1).out.decode()
        assert re.search(r"FAIL  processes +task train/\d+ in another process, ", checked)
        checked = run("env", "check", liar.spec, "--conformance", "-n", 5).ok(1).out.decode()
        assert re.search(requirement, checked)


@pytest.mark.parametrize("liar", liars.MASKS, ids=lambda liar: liar.__name__)
def test_a_mask_that_leaves_nothing_ends_the_run_and_fails_the_check(branched, liar, monkeypatch, not_forked):
    for settings in ({}, {"audit": 0}, {"fork": "replay"}):
        message = message_of(branched, liar(), **settings)
        assert message.startswith(f"house/train/0: the mask of {liar.spec} leaves nothing in which ")
    (failed,) = (f for f in Checker(liar, tasks=4, limit=10.0).findings() if f.verdict == FAILED)
    assert failed.check == "mask" and failed.detail.startswith("the mask leaves nothing in which ")
    monkeypatch.setenv("PYTHONPATH", TESTS)
    checked = run("env", "check", liar.spec, "--conformance").ok(1)
    assert checked.out.decode().count("not checked") == 17 and b"the mask leaves nothing" in checked.out


def test_what_only_the_mask_makes_equal_is_counted(branched):
    class MasksNumbers(liars.Drifts):
        spec = "liars:MasksNumbers"

        def mask(self, text):
            return re.sub(r"\d+ o'clock", "*", text)

    _, refused, counts = rolled(branched, MasksNumbers(), audit=1)
    told = "alternative[s] audited by replay: all equal"
    assert not refused and 0 < counts[f"{told}, where `mask` hides what differs"] < counts[told]


ALONE = """
import fcntl
from eexp.envs.worlds.house import House
from eexp.errors import EexpError

class Alone(House):
    def __init__(self):
        super().__init__()
        self.lock = open("lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EexpError("another one is open") from None
"""


def test_an_environment_that_cannot_be_opened_twice_is_audited_in_its_own_process(branched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.py").write_text(ALONE)
    file = write(tmp_path / "branched", branched[:4])
    result = run("rollout", "--env", "alone:Alone", "-j", 1, file).ok()
    assert result.err.count("in another process not made, and no more tried: another one is open") == 1
    assert len(result.records) == 4 and "audited by replay: all equal" in result.err


@pytest.mark.parametrize("way", WAYS)
def test_admissible_actions_in_another_order_are_refused(branched, way):
    swapped = copy.deepcopy(branched[0])
    listed = swapped["steps"][1]["admissible"]
    listed[0], listed[1] = listed[1], listed[0]
    executed, (error, *_), _ = rolled([swapped], House(), fork=way)
    assert "the admissible actions are in another order, from " in str(error)
    assert error.evidence["recorded"] == listed
    assert all(a["outcome"] is None for step in executed[0]["steps"] for a in step["alternatives"])
    part = copy.deepcopy(branched[0])
    for step in part["steps"]:
        step["admissible"] = step["admissible"][::2]
    assert not rolled([part], House(), fork=way)[1]


PROGRAM = """
import json, sys

lying = sys.argv[1] == "lying"
for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "hello":
        answer = {"protocol": 1, "splits": ["train"], "expert": True, "save": True}
    elif op == "tasks":
        answer = {"tasks": 6}
    elif op == "expert":
        answer = {"action": "up"}
    elif op == "save":
        answer = {"state": [n, slips]}
    elif op == "restore":
        n, slips = request["state"][0], slips if lying else request["state"][1]
        answer = {}
    elif op in ("reset", "step"):
        if op == "reset":
            n, slips = 0, 0
        up = request.get("action") == "up"
        n += up
        slips += op == "step" and not up
        text = f"At {n}." if up or op == "reset" else f"A slip, the {slips}."
        answer = {"observation": text, "instruction": "Reach 3.", "done": n == 3, "score": float(n == 3), "valid": True,
                  "admissible": ["up", "left", "right"]}
    else:
        break
    print(json.dumps(answer), flush=True)
"""


def test_a_program_that_restores_part_of_its_state_ends_the_run(tmp_path):
    (tmp_path / "game.py").write_text(PROGRAM)
    honest, lying = (f"exec:{BARE_PYTHON} {tmp_path / 'game.py'} {name}" for name in ("honest", "lying"))
    branched = tmp_path / "branched"
    paths = run("expert", honest, "-q").ok().out
    run("branch", "-k", 2, "--from", "admissible", "-q", "-o", branched, stdin=paths).ok()
    executed = run("rollout", "--env", honest, "-j", 2, branched).ok()
    assert "6 alternatives audited by replay: all equal" in executed.err
    true = [t["steps"] for t in executed.records]
    result = run("rollout", "--env", lying, "-j", 2, branched)
    message = result.one_error(1, "/train/", ": $.steps[", "'A slip, the 1.' in a replay", "--fork replay")
    assert "exact" in message
    # as the message says; and what would have been written without an audit
    by_replay = run("rollout", "--env", lying, "--fork", "replay", branched).ok()
    assert [t["steps"] for t in by_replay.records] == true
    unaudited = run("rollout", "--env", lying, "--audit", 0, branched).ok()
    assert [t["steps"] for t in unaudited.records] != true
    assert "audited" not in unaudited.err


def test_an_alternative_that_fails_in_its_audit_costs_its_trajectory(branched):
    class Fails(liars.Honest):
        is_copy = False

        def off_path(self, observation):
            if not self.is_copy:
                from eexp.errors import EnvironmentFailed

                raise EnvironmentFailed("no power")
            return observation

        def fork(self):
            other = copy.deepcopy(self)
            other.is_copy = True
            return other

    executed, refused, _ = rolled(branched, Fails())
    assert executed and refused and "fails in its audit: no power" in str(refused[0])


def test_copies_by_forks_of_the_process_are_audited_and_compared(branched, tmp_path):
    good = write(tmp_path / "good", branched[:3])
    result = run("rollout", "--fork", "process", "-j", 2, "--audit", 1, good).ok()
    assert f"{sum(len(t['steps']) for t in branched[:3])} alternatives audited by replay: all equal" in result.err
    first = branched[0]
    false = [{**first, "id": key, "outcome": {**first["outcome"], key: END[key]}} for key in END]
    result = run("rollout", "--fork", "process", "-j", 2, write(tmp_path / "false", false)).ok(4)
    assert [len(r["steps"]) for r in result.records] == [len(first["steps"])] * len(END)
    assert result.err.count("was recorded") == len(END)


# -- what is compared with a record ------------------------------------------------------------------------------------

END = {"success": False, "score": 0.25, "done": False, "valid": False, "changed": True}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", END)
def test_a_false_end_is_refused(branched, key, way):
    false = {**branched[0], "outcome": {**branched[0]["outcome"], key: END[key]}}
    executed, (refused,), _ = rolled([false], House(), fork=way, audit=0)
    last = len(false["steps"]) - 1
    assert refused.where == f"$.steps[{last}]" and f"{END[key]} was recorded" in str(refused)
    assert refused.evidence["recorded"] == END[key]
    assert [i for i, step in enumerate(executed[0]["steps"]) if "refused" in step["alternatives"][0]] == [last]
    bare = {**false, "steps": [{**step, "alternatives": []} for step in false["steps"]]}
    executed, (refused,), _ = rolled([bare], House(), fork=way)
    assert not executed and refused.where == "$.outcome"


@pytest.mark.parametrize("way", WAYS)
def test_another_instruction_and_steps_after_the_end_are_refused(branched, way):
    executed, refused, _ = rolled([{**branched[0], "instruction": "Sing."}], House(), fork=way)
    assert "the instruction is" in str(refused[0]) and "'Sing.' was recorded" in str(refused[0])
    assert all(a["outcome"] is None for step in executed[0]["steps"] for a in step["alternatives"])
    last = {**branched[0]["steps"][-1], "observation": branched[0]["outcome"]["observation"], "action": "look"}
    longer = {**branched[0], "steps": [*branched[0]["steps"], last], "outcome": None}
    _, refused, _ = rolled([longer], House(), fork=way)
    assert "done is True, and False was recorded" in str(refused[0])


def test_what_a_record_does_not_hold_is_not_compared(branched):
    whole, _, _ = rolled(branched[:1], House())
    for outcome in (None, {"observation": branched[0]["outcome"]["observation"]}, {**branched[0]["outcome"]}):
        for instruction in ("", branched[0]["instruction"]):
            bare = {**branched[0], "outcome": outcome, "instruction": instruction}
            (executed,), refused, _ = rolled([bare], House())
            assert not refused and executed["steps"] == whole[0]["steps"] and executed["instruction"] == instruction


def test_the_rule_for_how_an_episode_stands():
    differs = partial(standing_difference, {"done": True, "valid": True, "success": None, "score": 0.3})
    assert not differs({}) and not differs({"score": 0.1 + 0.2}) and not differs({"success": False, "score": None})
    assert differs({"score": 0.31}).key == "score" and differs({"success": True}).key == "success"
    # a score of 1 without a success claims one, which the environment may deny
    denied = {"done": True, "valid": True, "success": False, "score": 1.0}
    assert standing_difference(denied, {"score": 1.0}).key == "success"
    assert standing_difference({"done": True, "valid": True, "score": None}, {"score": 0.0}).key == "score"
    first = {"observation": "At 3 o'clock.", "done": False, "score": 0.5, "valid": True, "unknown": [[3, 4]]}
    assert difference_between(str, first, {**first, "score": 0.5 + 1e-9, "screenshot": "2.png"}) is None
    later = {**first, "observation": "At 4 o'clock.", "unknown": []}
    assert difference_between(lambda text: text.replace("4", "3"), first, later) is None
    for key, value in {"observation": "", "unknown": [], "success": True, "changed": True, "tools": []}.items():
        assert difference_between(str, first, {**first, key: value}).key == key


# -- the other stages that replay records ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes() -> list[dict]:
    """Return episodes of the expert and of a random policy in `house`."""
    common = ("house", "--split", "train", "-n", 2, "--max-steps", 8, "-q")
    return [*run("eval", *common, "-m", "expert").records, *run("eval", *common, "-m", "random").records]


FALSE: dict[str, tuple[Callable[[dict], dict], str]] = {
    "instruction": (lambda e: {**e, "instruction": "Sing."}, "'Sing.' was recorded"),
    "score": (lambda e: {**e, "score": 0.75}, "0.75 was recorded"),
    "success": (lambda e: {**e, "success": not e["success"]}, "was recorded"),
    "transcript[1].valid": (
        lambda e: {**e, "transcript": [t if i != 1 else {**t, "valid": False} for i, t in enumerate(e["transcript"])]},
        "valid is True, and False was recorded",
    ),
}


def test_a_false_episode_is_refused_by_every_stage_that_replays_it(episodes):
    false = [{**change(episodes[0]), "id": field} for field, (change, _) in FALSE.items()]
    for command in (("import", "episodes"), ("correct",), ("reward",)):
        result = run(*command, "--on-error", "skip", stdin=lines([*false, episodes[1]])).ok(4)
        assert f"{len(false)} set aside" in result.err
        for number, (field, (_, message)) in enumerate(FALSE.items(), 1):
            (line,) = (line for line in result.err.splitlines() if f"<stdin>:{number}: " in line)
            assert f"$.{field}: " in line and message in line
    imported = run("import", "episodes", "--trust", "environment", stdin=lines([episodes[0], *false])).ok()
    true, *rest = ({key: t[key] for key in ("steps", "outcome", "instruction")} for t in imported.records)
    assert len(rest) == len(false) and all(t == true for t in rest) and "that differ" in imported.err


def test_an_import_without_a_replay_claims_no_end_that_it_does_not_know(episodes, tmp_path):
    imported = run("import", "episodes", "--no-replay", "-q", stdin=lines(episodes)).ok().records
    assert [t["outcome"].get("done") for t in imported] == [True if e["success"] else None for e in episodes]
    run("rollout", "-q", write(tmp_path / "imported", imported)).ok()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, a: t.update(instruction="Sing."), "'Sing.' was recorded"),
        (lambda t, a: t["steps"][0].update(observation="The moon."), "the observation at the beginning is"),
        (lambda t, a: a["outcome"].update(score=0.75), "0.75 was recorded"),
        (lambda t, a: a["outcome"].update(done=True), "True was recorded"),
        (lambda t, a: a["outcome"].update(valid=False), "False was recorded"),
    ],
)
def test_a_false_outcome_is_not_followed(branched, tmp_path, change, message):
    (executed,), _, _ = rolled(branched[:1], House())
    for step in executed["steps"]:
        step["alternatives"] = step["alternatives"] if step is executed["steps"][1] else []
    run("follow", "-q", "--steps", 1, write(tmp_path / "true", [executed])).ok()
    change(executed, executed["steps"][1]["alternatives"][0])
    result = run("follow", "--steps", 1, write(tmp_path / "false", [executed])).ok(4)
    assert message in result.err and "then" not in result.records[0]["steps"][1]["alternatives"][0]


def test_copies_that_lie_end_the_walk_of_an_episode(episodes):
    class Louder(House):
        """What a copy answers is emphasised."""

        mark = ""

        def _observe(self, text, valid=True):
            return super()._observe(text + self.mark, valid)

        def fork(self):
            other = copy.copy(self)
            vars(other).update(vars(super().fork()))
            other.mark = "!"
            return other

    class Shares(House):
        """What a copy moves has moved in the original."""

        def fork(self):
            other = super().fork()
            other.where = self.where
            return other

    for liar, message in ((Louder, "in a copy"), (Shares, "before")):
        with pytest.raises(EexpError, match=f"transcript.*{message}.*env check"):
            for episode in episodes:
                walk = WalkedEpisode(liar(), episode["task"], conversation_of(episode), episode["id"])
                list(walk.visits())


def test_places_that_were_refused_are_not_audited(branched):
    lost = copy.deepcopy(branched[0])
    lost["steps"][2]["observation"] = "You are on the moon."
    places = [(i, 0) for i in range(len(lost["steps"]))]
    executed = execute(House(), lost, audit=places)
    assert executed.counts["alternative[s] audited by replay: all equal"] == 1

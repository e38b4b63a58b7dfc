"""Whether two actions are the same: the environment says so, and the record says it to all stages that read it."""

from __future__ import annotations

import pytest
from running import run, write

from eexp.envs import open_env
from eexp.envs.base import Environment
from eexp.envs.registry import ENVIRONMENTS, KINDS
from eexp.errors import EnvironmentFailed
from eexp.records.equality import EXACT, EXACT_KINDS, WORDS, action_equality_of, action_form


@pytest.mark.parametrize(
    ("record", "equality"),
    [
        ({"env": "house"}, WORDS),
        ({"env": "exec:sh world.sh?x"}, EXACT),
        ({"env": "bfcl?tools=schema"}, EXACT),
        ({"env": "noisy:0.1:changed:names:mcp:server?tasks=a"}, EXACT),
        ({"env": "noisy:0.1:changed:names:house"}, WORDS),
        ({"env": "worldmodel:hf:tiny+DIR?temperature=1&env=exec:sh world.sh"}, EXACT),
        ({"env": "worldmodel:tiny?beginnings=exec"}, WORDS),
        ({"env": "messages", "tools": [{"type": "function"}]}, EXACT),
        ({"env": "messages", "tools": []}, WORDS),
        ({"env": "my.module:exec"}, WORDS),
        ({"env": "my.module:Shell", "action_equality": EXACT}, EXACT),
        ({"env": "exec:sh world.sh", "action_equality": WORDS}, WORDS),
    ],
)
def test_a_record_tells_how_its_actions_are_compared(record, equality):
    form = action_form(record)
    assert action_equality_of(record) == equality
    assert (form("ls -S") == form(" LS  -s.")) == (equality == WORDS) and form("ls ") == form("ls")


def test_records_and_classes_agree():
    says = {kind.name: ENVIRONMENTS.load(kind.name).action_equality for kind in KINDS if kind.path}
    own = {name for name, method in says.items() if method is not Environment.action_equality}
    assert own | {"exec"} == EXACT_KINDS | {"agentgym"}, "agentgym's depends on the server"


SHELL = """
from eexp.envs import Environment, Observation


class Shell(Environment):
    equality = "exact"

    def splits(self):
        return ["train"]

    def tasks(self, split):
        return iter([{"id": "a"}])

    def reset(self, task):
        return Observation("$")

    def step(self, action):
        return Observation(f"did {action}", done=action == "ls -S", score=float(action == "ls -S"))

    def admissible(self):
        return ["ls -S", "ls -s", "ls -A", "ls -a"]

    def expert(self):
        return "ls -S"

    def action_equality(self):
        return self.equality


class Wrong(Shell):
    equality = "bytes"


class Prose(Shell):
    equality = "words"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "shells.py").write_text(SHELL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_class_says_it_and_all_stages_go_by_it(here):
    spec = "shells:Shell"
    (trajectory,) = expert = run("expert", spec).ok().records
    assert trajectory["action_equality"] == EXACT
    (branched,) = run("branch", "--from", "admissible", write(here / "expert", expert)).ok().records
    assert {a["action"] for a in branched["steps"][0]["alternatives"]} == {"ls -s", "ls -A", "ls -a"}
    rolled = run("rollout", "--env", spec, write(here / "branched", [branched])).ok().records
    examples = run("world-model-data", write(here / "rolled", rolled)).ok().records
    assert len(examples) == 4 and "action_equality" not in examples[0]
    (prose,) = run("expert", "shells:Prose").ok().records
    assert "action_equality" not in prose
    (branched,) = run("branch", "--from", "admissible", write(here / "prose", [prose])).ok().records
    assert len(branched["steps"][0]["alternatives"]) == 1, "ls -A or ls -a"
    for wrapped in (f"noisy:0.1:{spec}", f"changed:order:{spec}"):
        with open_env(wrapped) as env:
            assert env.action_equality() == EXACT


def test_another_answer_is_refused_by_name(here):
    with pytest.raises(EnvironmentFailed, match=r"shells:Wrong.action_equality: returned .*bytes.*words or exact"):
        open_env("shells:Wrong").action_equality()
    out = run("env", "check", "shells:Wrong").ok(1).out.decode()
    assert "FAIL  equality" in out
    out = run("env", "check", "shells:Prose").ok().out.decode()
    assert "note  equality      'ls -S' and 'ls -s' count as one action" in out
    assert "equality" not in run("env", "check", "shells:Shell").ok().out.decode()


PROGRAM = """
while read -r line; do
    case $line in
        *hello*) echo '{"protocol":1,"splits":["train"],"expert":true,"action_equality":"%s"}' ;;
        *tasks*) echo '{"tasks":1}' ;;
        *reset*) echo '{"observation":"$"}' ;;
        *expert*) echo '{"action":"go"}' ;;
        *) echo '{"observation":"there","done":true,"score":1}' ;;
    esac
done
"""


def test_a_program_may_say_that_its_actions_are_prose(here):
    for equality, expected in (("words", WORDS), ("exact", None)):
        (here / "world.sh").write_text(PROGRAM % equality)
        (trajectory,) = run("expert", "exec:sh world.sh").ok().records
        assert trajectory.get("action_equality") == expected
    (here / "world.sh").write_text(PROGRAM % "bytes")
    run("expert", "exec:sh world.sh").one_error(1, "answer to hello", "action_equality")

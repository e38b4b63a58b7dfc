"""`changed:KIND:ENV`: another interface, the same tasks."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import pytest
from branches import rolled_out_in_every_way
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, lines, run, spawn, write

from eexp.envs import Environment, Observation, open_env, unsafe_in_records, without_wrappers
from eexp.envs.changed import _SYNONYMS, Renamed, change, in_the_case_of, read_synonyms
from eexp.envs.pieces import moved, put_together
from eexp.envs.reordering import reordered
from eexp.envs.spec_files import named_files
from eexp.envs.worlds import house
from eexp.envs.worlds.house import House
from eexp.envs.wrapper import Wrapper
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.records.record import seed_of

SAFE = f"exec:sh {ROOT}/examples/safe.sh"
KINDS = ["names", "order", "confirm", "fail", "dialog", "split"]


def tasks(split: str, n: int) -> list[dict]:
    return list(islice(House().tasks(split), n))


def play(env: Environment, task: dict, actions: list[str]) -> list:
    return [env.reset(task), *(env.step(action) for action in actions)]


def test_the_whole_contract_is_passed_on():
    inherited = {"list_tasks", "check_split", "record_options"}  # those that build on others, or concern specs
    public = {name for name in vars(Environment) if not name.startswith("_")} - inherited
    with open_env("noisy:0.1:house") as env:
        passed_on = {*vars(Wrapper), *vars(env)}
    assert public <= passed_on, "what a world offers, the same world in a wrapper has to offer: eexp/envs/wrapper.py"


@pytest.mark.parametrize(
    "kind", [*KINDS, "dialog:changed:split:changed:confirm:changed:fail:changed:order:noisy:0.1:changed:names"]
)
def test_the_expert_solves_every_task_in_the_changed_words(kind):
    env, plain = open_env(f"changed:{kind}:house"), House()
    changed = 0
    for task in tasks("ood", 40):
        observation, actions = env.reset(task), 0
        shown = [observation]
        while not observation.done:
            observation = env.step(env.expert())
            actions += 1
            assert observation.valid
            shown.append(observation)
        plain.reset(task)
        needed = 0
        while not plain.over:
            plain.step(plain.expert())
            needed += 1
        assert observation.success and needed <= actions <= env.max_steps
        changed += any(o.interface for o in shown)
    assert changed > 30, "nearly everywhere, something is changed on the expert's way, and records say what"


# -- names -----------------------------------------------------------------------------------------------------------


def test_built_in_synonyms_are_no_words_of_house():
    synonyms = read_synonyms(_SYNONYMS / "house.toml")
    source = Path(house.__file__).read_text()
    words = {word for text in re.findall(r'"([^"\n]*)"', source) for word in re.findall(r"[a-z]+", text.lower())}
    assert not {word for others in synonyms.values() for word in others} & words
    named = {
        *house.ALL_ROOMS,
        *house.ROOM_OF,
        *house.FOOD,
        *house.DISHES,
        *house.THINGS,
        *house.OOD_OBJECTS,
        *house.TREATMENTS,
    }
    assert named <= synonyms.keys()


def test_names_are_those_of_the_task_in_every_text():
    env, plain = open_env("changed:names:house"), House()
    (task, other) = tasks("train", 2)
    observation, before = env.reset(task), plain.reset(task)
    table = observation.interface["names"]
    assert table["kitchen"] in read_synonyms(_SYNONYMS / "house.toml")["kitchen"] and "kitchen" not in observation.text
    assert env._swap(observation.text) == before.text and env._swap(env.instruction()) == plain.instruction()
    assert [env._swap(action) for action in env.admissible()] == plain.admissible()
    assert env._swap(env.explain()) == plain.explain()
    (start, end), (a, b) = observation.unknown[0], before.unknown[0]
    assert env._swap(observation.text[start:end]) == before.text[a:b]
    old = env.step("open cupboard")
    assert not old.valid and old.text == "There is no cupboard here."
    assert env.step(f"open {table['cupboard']}").valid
    assert any(env.reset(one).interface != observation.interface for one in (other, *tasks("train", 9)))


words_of_texts = st.lists(
    st.sampled_from(["kitchen", "Galley", "galley", "LAMP", "lantern", "MiXed", "go", "up-to", "lamp's", "2"]),
    max_size=9,
)


@settings(max_examples=200, deadline=None)
@given(words_of_texts, st.sampled_from([" ", "-", "--", "\n", ", ", "_"]))
def test_renaming_twice_changes_nothing(words, between):
    env = Renamed(House(), {"kitchen": ["galley"], "lamp": ["lantern"], "up-to": ["near"]})
    env.reset(tasks("train", 1)[0])
    text = between.join(words)
    assert env._swap(env._swap(text)) == text


def test_a_word_keeps_its_case():
    assert [in_the_case_of(word, "sitting-room") for word in ("lounge", "Lounge", "LOUNGE", "LounGe")] == [
        "sitting-room",
        "Sitting-room",
        "SITTING-ROOM",
        None,
    ]


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("", InputError, "names nothing"),
        ("oven = 3", InputError, "oven: expected a list of words"),
        ("oven = []", InputError, "oven: expected a list of words"),
        ('oven = ["big stove"]', InputError, "'big stove' is not one word"),
        ('oven = ["Stove"]', InputError, "'Stove' is not one word"),
        ('o = ["stove"]', InputError, "'o' is not one word"),
        ('oven = ["stove"]\nhob = ["stove"]', InputError, "hob: 'stove' stands at oven already"),
        ('oven = ["stove"]\nstove = ["hob"]', InputError, "stove: 'stove' stands at oven already"),
        ("oven", InputError, "not valid TOML"),
        (None, EexpError, "No such file"),
    ],
)
def test_a_file_that_could_not_be_translated_back_is_refused(tmp_path, text, error, words):
    file = tmp_path / "words.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(error, match=re.escape(words)):
        open_env(f"changed:names={file}:textcraft")


def test_a_file_names_other_worlds_and_no_record_may_name_a_file(tmp_path):
    file = tmp_path / "words.toml"
    file.write_text('craft = ["build"]\nusing = ["from"]\nget = ["obtain"]\n')
    spec = f"changed:names={file}:textcraft"
    demonstrations = run("expert", spec, "-n", 2).ok()
    actions = [step["action"] for record in demonstrations.records for step in record["steps"]]
    assert actions and {action.split()[0] for action in actions} <= {"build", "obtain", "inventory"}
    assert named_files(spec) == [str(file)]
    assert "names the file" in unsafe_in_records(spec) and unsafe_in_records("changed:names:house") is None
    branched = run("branch", "--from", "admissible", "-k", 1, stdin=demonstrations.out).ok().out
    run("rollout", "-j", 1, stdin=branched).one_error(3, "names the file")
    run("rollout", "-j", 1, "--env", spec, stdin=branched).ok()


def test_names_of_functions_are_not_changed(tmp_path):
    class Tools(House):
        def reset(self, task):
            observation = super().reset(task)
            observation.tools = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}]
            return observation

    with pytest.raises(EnvironmentFailed, match="names of functions"):
        Renamed(Tools(), {"kitchen": ["galley"]}).reset(tasks("train", 1)[0])


# -- order -----------------------------------------------------------------------------------------------------------


def in_order(text: str, task: str) -> str:
    return put_together(text, reordered(text, lambda part: seed_of(task, part)))


texts = st.text(st.sampled_from("aB ,.:\n\t(and"), max_size=80)


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 5), st.data())
def test_another_order_leaves_nothing_out(text, task, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    pieces = reordered(text, lambda part: seed_of(task, part))
    assert sorted(put_together(text, pieces)) == sorted(text)
    assert sum(b - a for a, b in moved([(start, end)], pieces)) == end - start
    inside = "".join(put_together(text, pieces)[a:b] for a, b in moved([(start, end)], pieces))
    assert sorted(inside) == sorted(text[start:end])


def test_what_changes_places_and_what_does_not():
    text = "Hall. You see a cat, a dog, and a bird. Doors: east, west. It is cold."
    drawn = {in_order(text, str(n)) for n in range(200)}
    assert len(drawn) == 24 and all(one.startswith("Hall. ") and ", and a bird." in one for one in drawn)
    assert {in_order("One, two.\n\nWays:\n  north\n  south", str(n)) for n in range(20)} == {
        "One, two.\n\nWays:\n  north\n  south",
        "One, two.\n\nWays:\n  south\n  north",
    }
    for fixed in ('{"a": 1, "b": 2, "c": 3}', "f(1, 2, 3)", "", "\n", "One sentence. Another one."):
        assert {in_order(fixed, str(n)) for n in range(20)} == {fixed}


# -- confirm and fail ------------------------------------------------------------------------------------------------


def first_asked(kind: str) -> tuple[Environment, str, str]:
    """Return an environment before an action that the change answers, that action, and another one."""
    for task in tasks("train", 50):
        env = open_env(f"changed:{kind}:house")
        env.reset(task)
        for action in env.admissible():
            with env.fork() as fork:
                if fork.step(action).interface:
                    return env, action, next(a for a in env.admissible() if a != action)
    raise AssertionError("nothing is changed")


def test_an_action_is_confirmed_by_repeating_it():
    env, action, _ = first_asked("confirm")
    asked = env.step(action)
    assert (asked.valid, asked.changed, asked.done, asked.score) == (True, True, False, 0.0)
    assert asked.text == f"Are you sure? Repeat the action to confirm it: {action}"
    assert asked.interface == {"confirm": action.split()[0]} and asked.unknown == [(0, len(asked.text))]
    env.step("xyzzy")  # refused, and forgotten
    assert env.step(f"{action.upper()}.").interface is None, "the same action in other letters"
    while not env.step(action).interface:  # asked about every time; refused where it cannot be repeated
        env.step(env.expert())


def test_another_action_is_no_confirmation():
    env, action, other = first_asked("confirm")
    assert env.step(action).interface
    env.step(other)
    if action in env.admissible():
        assert env.step(action).interface, "it has to be confirmed anew"


def test_an_action_fails_once():
    env, action, _ = first_asked("fail")
    failed = env.step(action)
    assert failed.text == f"That did not work this time: {action}" and failed.valid and failed.changed
    with env.fork() as fork:
        assert fork.step(action).interface is None
    saved = env.save() if type(env.world) is not House else None
    assert saved is None and env.step(action).interface is None


# -- dialog and split ------------------------------------------------------------------------------------------------


def covered(kind: str) -> tuple[Environment, list[Observation]]:
    """Return an environment whose first observation is changed, and what it shows with and without the change."""
    for task in tasks("train", 50):
        env = open_env(f"changed:{kind}:house")
        if (shown := env.reset(task)).interface:
            return env, [shown, House().reset(task)]
    raise AssertionError("nothing is changed")


def test_a_dialog_is_closed_before_anything_else_is_done():
    env, (shown, before) = covered("dialog")
    assert shown.text.startswith("A dialog is in the way") and "close dialog" in shown.text and shown.valid
    assert shown.unknown == [(0, len(shown.text))] and shown.interface == {"dialog": shown.interface["dialog"]}
    assert (env.admissible(), env.expert()) == (["close dialog"], "close dialog")
    still = env.step("look")
    assert (still.text, still.valid, still.score) == (shown.text, False, 0.0)
    assert env.step("Close dialog.").text == before.text and len(env.admissible()) > 1


def test_a_split_text_is_read_in_two_parts():
    env, (shown, before) = covered("split")
    assert shown.text.endswith("\n(Part 1 of 2. The rest: show other part)") and shown.interface == {"split": 1}
    assert env.admissible()[-1] == env.expert() == "show other part"
    with env.fork() as fork:
        second = fork.step("show other part")
        assert second.interface == {"split": 2} and fork.expert() != "show other part"
        parts = [text.rpartition("\n")[0] for text in (shown.text, second.text)]
        assert " ".join(parts) == before.text
        assert [second.text[a:b] for a, b in second.unknown] + [shown.text[a:b] for a, b in shown.unknown]
        assert fork.step("show other part").text == shown.text
    assert env.step(env.admissible()[0]).valid, "what is known need not be read"


PAGE = 'page "Trees" /\n[1] link "home"\ntable\n  row [2] link "Yew" | [3] link "Oak"\n  row [4] link "Elm" | "[5] old"'


class Page(Environment):
    """A page with numbered elements, of which one is to be clicked."""

    spec = "page"

    def splits(self):
        return ["train"]

    def tasks(self, split):
        return ({"id": str(n)} for n in range(20))

    def reset(self, task):
        return Observation(PAGE)

    def step(self, action):
        known = action in self.admissible()
        return Observation(
            "Over." if known else "No.", action == "click [4]", success=action == "click [4]", valid=known
        )

    def admissible(self):
        return ["click [1]", "click [2]", "click [3]", "click [4]"]

    def expert(self):
        return "click [4]"


def test_on_a_page_only_elements_that_are_shown_can_be_named():
    env = change(Page(), "split", "web")
    shown = next(one for one in (env.reset(task) for task in Page().tasks("train")) if one.interface)
    assert shown.text.startswith('page "Trees" /\n[1] link') and "[4]" not in shown.text
    assert env.expert() == "show other part" and "click [4]" not in env.admissible()
    refused = env.step("click [4]")
    assert not refused.valid and "There is no [4] in this part of the page" in refused.text
    assert env.step("click [9]").text == "No.", "the page itself says so"
    assert env.step("show other part").text.startswith('page "Trees" /\n')
    assert env.step(env.expert()).success


def test_a_dialog_on_a_page_has_a_button():
    env = change(Page(), "dialog", "web")
    shown = next(one for one in (env.reset(task) for task in Page().tasks("train")) if one.interface)
    assert re.fullmatch(r'dialog "[^"]+"\n  \[0\] button "[^"]+"', shown.text)
    assert not env.step("click [4]").valid and env.step(env.expert()).text == PAGE and env.expert() == "click [4]"


@pytest.mark.parametrize("kind", ["dialog", "split"])
def test_functions_are_not_hidden(kind):
    class Tools(Page):
        def reset(self, task):
            return Observation(PAGE, tools=[{"type": "function", "function": {"name": "go"}}])

    with pytest.raises(EnvironmentFailed, match="no function stands for"):
        change(Tools(), kind, "web").reset({"id": "0"})


# -- the pipe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "fail:changed:names"])
def test_a_fork_equals_a_replay(kind):
    env, replayed = (open_env(f"changed:{kind}:house") for _ in range(2))
    for task in tasks("train", 6):
        rng, taken = random.Random(task["id"]), []
        observation = env.reset(task)
        for _ in range(10):
            if observation.done:
                break
            for action in [*rng.sample(env.admissible(), min(2, len(env.admissible()))), "xyzzy"]:
                with env.fork() as fork:
                    assert fork.step(action) == play(replayed, task, [*taken, action])[-1]
            taken.append(rng.choice([env.expert(), *env.admissible()]))
            observation = env.step(taken[-1])
            assert observation == play(replayed, task, taken)[-1]


@pytest.mark.parametrize(
    "spec",
    [
        "changed:confirm:changed:names:house",
        pytest.param("changed:fail:changed:order:house", marks=pytest.mark.long),
        pytest.param(f"changed:confirm:{SAFE}", marks=pytest.mark.long),
    ],
)
def test_the_check_of_the_contract_passes(spec):
    output = spawn("env", "check", spec, "-n", 3).ok().out.decode()
    assert {line[:4] for line in output.splitlines()} <= {"ok  ", "-   "}
    assert "ok    forks" in output or SAFE in spec


def test_branches_are_verified_by_every_way_to_fork(tmp_path):
    spec = "changed:confirm:changed:names:house"
    demonstrations = run("expert", spec, "-n", 3).ok()
    assert demonstrations.records[0]["id"] == f"{spec}/train/0"
    assert {"names"} <= demonstrations.records[0]["steps"][0]["interface"].keys()
    branched = write(
        tmp_path / "branched", run("branch", "--from", "admissible", "-k", 2, stdin=demonstrations.out).ok().records
    )
    rolled_out = rolled_out_in_every_way(branched)
    refused = run("rollout", "-j", 1, "--env", "house", "--on-error", "skip", branched)
    assert refused.code == 4 and "was recorded" in refused.err, "another interface is another world"
    examples = run("world-model-data", stdin=rolled_out.out).ok().records
    assert any("Are you sure?" in example["completion"][0]["content"] for example in examples)


def test_the_panel_is_that_of_the_world_and_refused_actions_go_into_the_path():
    plain, *changed = (
        run("eval", spec, "-m", "random", "-n", 4, "--max-steps", 5, "-q").ok().records
        for spec in ("house", *(f"changed:{kind}:house" for kind in KINDS))
    )
    for episodes in changed:
        assert [e["task"] for e in episodes] == [e["task"] for e in plain]
        assert any("interface" in turn for e in episodes for turn in e["transcript"])
    demonstrations = run("expert", "changed:fail:house", "-n", 2).ok().records
    for trajectory in demonstrations:
        for step in trajectory["steps"]:
            step["alternatives"] = [{"action": "fly", "source": "policy", "outcome": None}]
    rollout = run("rollout", "-j", 1, stdin=lines(demonstrations)).ok()
    recovered = run("recover", "--share", 1, stdin=rollout.out).ok()
    again = run("rollout", "-j", 1, stdin=recovered.out).ok()
    assert [t["outcome"] for t in again.records] == [t["outcome"] for t in demonstrations]


@pytest.mark.parametrize(
    "spec, words",
    [
        ("changed:", "expected changed:KIND:ENV"),
        ("changed:names", "expected changed:KIND:ENV"),
        ("changed::house", "expected changed:KIND:ENV"),
        ("changed:colour:house", "known: names, names=FILE, order, confirm, fail, dialog, split"),
        ("changed:order=3:house", "known: names, names=FILE, order, confirm, fail, dialog, split"),
        ("changed:names=:house", "known: names, names=FILE, order, confirm, fail, dialog, split"),
        ("changed:names:textcraft", "no synonyms for textcraft"),
        (f"changed:names:{SAFE}", "no synonyms for exec:sh"),
        ("changed:order:noisy:0.1:changed:order:house", "changed:order is given twice"),
        ("changed:order:no-such", "unknown environment"),
    ],
)
def test_malformed_changes_are_refused(spec, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        open_env(spec)


def test_the_environment_inside():
    assert without_wrappers("changed:names=a.toml:noisy:0.1:exec:./world.sh changed:") == "exec:./world.sh changed:"
    assert without_wrappers("changed_world:World") == "changed_world:World"

"""Copies of ScienceWorld's state inside the JVM. Skipped where the package or Java is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import shutil
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("scienceworld", reason="needs `pip install scienceworld`")

from forked_worlds import NONSENSE

from eexp.acting.execution import execute
from eexp.acting.expert import expert
from eexp.envs import forking, open_env
from eexp.envs.worlds import scienceworld
from eexp.envs.worlds.scienceworld import CLASSES, SINGLETONS, ScienceWorld

needs_java = pytest.mark.skipif(not shutil.which("java"), reason="needs Java")
needs_compiler = pytest.mark.skipif(not shutil.which("javac"), reason="needs a JDK")

SCRIPT = Path(__file__).parents[2] / "recipes" / "scienceworld" / "compile.py"
spec = importlib.util.spec_from_file_location("compile_state_jar", SCRIPT)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def task(kind: str, variation: int = 0, simplifications: str = "easy") -> dict:
    return {"id": f"{kind}/{variation}", "task": kind, "variation": variation, "simplifications": simplifications}


@pytest.fixture
def env(scienceworld) -> ScienceWorld:
    return scienceworld


def fingerprint(env: ScienceWorld) -> int:
    """Return the fingerprint of all objects and shared variables of an episode."""
    env._simulator._enter(env._episode)
    env._episode.state.leave()
    return env._episode.state.fingerprint()


# -- the classes -----------------------------------------------------------------------------------------------------


def origin() -> list[str]:
    """Return the version of the compiler, and the hash of the sources that the jar was made of."""
    with zipfile.ZipFile(CLASSES) as jar:
        return jar.read(build.ORIGIN).decode().splitlines()


def test_the_jar_is_made_of_the_sources():
    assert origin()[1] == build.fingerprint()


@needs_compiler
def test_the_sources_compile_to_the_classes_in_the_jar():
    classes = build.compile_classes()
    with zipfile.ZipFile(CLASSES) as jar:
        shipped = {name: jar.read(name) for name in jar.namelist() if name.endswith(".class")}
    assert classes.keys() == shipped.keys()
    if build.compiler() == origin()[0]:  # another compiler may write other bytes
        assert {name: hashlib.sha256(data).hexdigest() for name, data in classes.items()} == {
            name: hashlib.sha256(data).hexdigest() for name, data in shipped.items()
        }


@needs_java
def test_all_singletons_with_variables_are_known(env):
    """Every class of a Scala singleton of the simulator is inspected in the JVM, without initialising it."""
    from scienceworld.constants import JAR_PATH

    env.reset(task("boil"))
    jvm = env._simulator._jvm
    loader, modifiers = jvm.ClassLoader.getSystemClassLoader(), jvm.java.lang.reflect.Modifier
    with zipfile.ZipFile(JAR_PATH) as jar:
        names = [name.removesuffix(".class").replace("/", ".") for name in jar.namelist() if name.endswith("$.class")]
    variables = set()
    for name in names:
        if not name.startswith(("scala.", "py4j.", "examples.")):
            for field in jvm.Class.forName(name, False, loader).getDeclaredFields():
                number = field.getModifiers()
                if not modifiers.isFinal(number) and not modifiers.isStatic(number):
                    variables.add(name)
    assert variables == set(SINGLETONS)


# -- the law ---------------------------------------------------------------------------------------------------------


def some_action(env: ScienceWorld, rng: random.Random) -> str:
    return (rng.random() < 0.4 and env.expert()) or rng.choice(rng.choice([env.admissible(), NONSENSE]))


@needs_java
@pytest.mark.parametrize(
    ("kind", "simplifications"),
    [
        ("boil", ""),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("power-component", "easy"),
                ("boil", "easy"),
                ("power-component", ""),
                ("grow-fruit", "easy"),
                ("grow-fruit", ""),
                ("mendelian-genetics-known-plant", "easy"),  # its solution is found in 20 s
                ("mendelian-genetics-known-plant", ""),
            ]
        ),
    ],
)
def test_a_copy_is_equal_and_independent(env, kind, simplifications):
    """Fingerprints say so: they cover every object of an episode and every variable that episodes share."""
    rng = random.Random(f"{kind} {simplifications}")
    env.reset(task(kind, 1, simplifications))
    for _ in range(4):
        before = fingerprint(env)
        with env.fork() as copy:
            assert fingerprint(copy) == before
            assert (copy.admissible(), copy.expert(), copy.instruction()) == (
                env.admissible(),
                env.expert(),
                env.instruction(),
            )
            actions = [some_action(copy, rng)]
            observations = [copy.step(actions[0])]
            with copy.fork() as second:
                actions.append(some_action(second, rng))
                observations.append(second.step(actions[1]))
                after = fingerprint(second)
        assert after != before and fingerprint(env) == before
        assert [env.step(action) for action in actions] == observations
        assert fingerprint(env) == after


@needs_java
def test_copies_outlive_the_environment_and_can_be_reset():
    env = open_env("scienceworld")
    text = env.reset(task("boil")).text
    copy = env.fork()
    env.step("look around")
    process = env._simulator._child
    env.close()
    env.close()
    assert copy.step("go to kitchen").valid
    assert copy.reset(task("boil")).text == text
    assert process.usable
    copy.close()
    assert not process.usable


@needs_java
def test_a_collection_while_a_state_is_copied_changes_nothing():
    """In 64 MB of memory, copies are made until garbage has been collected many times."""
    with open_env("scienceworld?memory=64m") as env:
        env.reset(task("boil"))
        collectors = env._simulator._jvm.java.lang.management.ManagementFactory.getGarbageCollectorMXBeans()
        before, number = fingerprint(env), sum(collector.getCollectionCount() for collector in collectors)
        copies = []
        for n in range(150):
            copies.append(env.fork())
            assert fingerprint(copies[-1]) == before
            if n % 10 == 9:  # some live longer than others, so that objects are moved to the old generation
                for copy in copies[:-2]:
                    copy.close()
                del copies[:-2]
        assert sum(collector.getCollectionCount() for collector in collectors) > number + 5
        for copy in copies:
            copy.close()


@needs_java
@pytest.mark.long
@pytest.mark.parametrize("branches", [300, 10_000])
def test_copies_are_let_go(branches):
    """A copy has about 6,000 objects with 0.3 MB: 300 of them would not fit into 64 MB, and 10,000 not into 512 MB."""
    with open_env("scienceworld?memory=64m" if branches == 300 else "scienceworld") as env:
        env.reset(task("find-plant"))
        with forking.executor(env, "state", 60) as take:
            observations = {take("open door to kitchen").text for _ in range(branches)}
        assert len(observations) == 1
        bean = env._simulator._jvm.java.lang.management.ManagementFactory.getMemoryMXBean()
        bean.gc()
        assert bean.getHeapMemoryUsage().getUsed() < 60e6


# -- where Java forbids it -------------------------------------------------------------------------------------------


@pytest.mark.long
@needs_java
def test_without_the_module_that_copies_need_branches_are_replayed(monkeypatch):
    monkeypatch.setattr(scienceworld, "JVM", (*scienceworld.JVM, "--limit-modules=java.se"))
    with open_env("scienceworld") as env:
        assert forking.choose_way(env) == "replay"
        assert "Java does not allow it" in (env.why_no_copy() or "")
        path = next(expert(env, iter([task("find-plant")])))
        path = {**path, "steps": path["steps"][:3], "outcome": None}
        for step in path["steps"]:
            step["alternatives"] = [{"action": "look around", "source": "program"}]
        counts = execute(env, path).counts
        assert (
            counts["alternative[s] executed by replay"]
            == len(path["steps"])
            == sum(n for text, n in counts.items() if "Java" in text)
        )
        with pytest.raises(forking.UsageError, match="--fork state: scienceworld cannot copy its state: Java does not"):
            forking.choose_way(env, "state")

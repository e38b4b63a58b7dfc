"""The stages that replay records: their functions, in this process, give what the commands do in worker processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson
import pytest
from running import read, run

from eexp.acting.correct import correct
from eexp.acting.importing import import_replayed, import_replayed_episodes
from eexp.acting.reward import reward
from eexp.acting.settings import CorrectSettings
from eexp.envs.naming import Tasks
from eexp.envs.worlds.house import House
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, PromptTooLong, UsageError
from eexp.formats.conversations import import_format
from eexp.formats.names import MESSAGES
from eexp.workers.jobs import InProcess, answer_from_error, error_from_answer

HERE = InProcess(lambda spec: House())


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("jobs") / "episodes"
    run("eval", "house", "-m", "random", "--split", "train", "-n", 4, "--max-steps", 12, "-q", "-o", file).ok()
    return file


def without_last_lineage(records: list[dict]) -> list[dict]:
    return [{**record, "lineage": record["lineage"][:-1]} for record in records]


def test_corrections_are_those_of_the_command(episodes):
    counts: Counter[str] = Counter()
    settings = CorrectSettings(turns=3)
    corrected = list(correct(iter(read(episodes)), HERE, settings, count=lambda what, n: counts.update({what: n})))
    result = run("correct", "--turns", 3, episodes).ok()
    assert corrected == without_last_lineage(result.records)
    assert f"{counts['turn[s] that failed']} turns that failed" in result.err


def test_corrections_of_an_earlier_run_are_left_out(episodes):
    everything = list(correct(iter(read(episodes)), HERE, CorrectSettings(turns=3)))
    written = {trajectory["id"] for trajectory in everything[:2]}
    rest = list(correct(iter(read(episodes)), HERE, CorrectSettings(turns=3), skip=written.__contains__))
    assert rest == everything[2:]


def test_rewards_are_those_of_the_command(episodes):
    assert list(reward(iter(read(episodes)), HERE)) == without_last_lineage(run("reward", episodes).ok().records)


def test_replayed_episodes_are_those_of_the_command(episodes):
    trajectories = list(import_replayed_episodes(iter(read(episodes)), HERE))
    assert trajectories == without_last_lineage(run("import", "episodes", episodes).ok().records)


def test_replayed_records_are_those_of_the_command(tmp_path):
    record = {"id": "train/0", "messages": [{"role": "assistant", "content": "look"}]}
    (tmp_path / "played").write_text('{"id": "train/0", "messages": [{"role": "assistant", "content": "look"}]}\n')
    (trajectory,) = import_replayed(iter([record]), import_format(MESSAGES), Tasks(House()), HERE)
    (other,) = run("import", "messages", "--env", "house", tmp_path / "played").ok().records
    assert trajectory == {key: value for key, value in other.items() if key != "lineage"}


def test_an_unexpected_error_costs_a_record(episodes):
    class Broken(House):
        def reset(self, task):
            raise ZeroDivisionError("for a test")

    errors = []
    assert not list(
        reward(iter(read(episodes)), InProcess(lambda spec: Broken()), on_error=lambda r, e: errors.append(e))
    )
    assert len(errors) == 4 and all(isinstance(e, EnvironmentFailed) for e in errors)
    with pytest.raises(EnvironmentFailed, match="for a test") as raised:
        list(reward(iter(read(episodes)), InProcess(lambda spec: Broken())))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "error, back",
    [
        (EnvironmentFailed("died", "$.steps[1]", {"traceback": "..."}), EnvironmentFailed),
        (InputError("missing", "$.id"), InputError),
        (PromptTooLong("too long"), InputError),
        (UsageError("no such split"), UsageError),
        (NoRoom("full"), NoRoom),
        (EexpError("cannot start"), EexpError),
    ],
)
def test_an_error_comes_back_from_another_process(error, back):
    result = error_from_answer(orjson.loads(orjson.dumps(answer_from_error(error))))
    assert type(result) is back
    assert str(result) == str(error)
    if isinstance(error, InputError):
        assert vars(result) == vars(error)

"""searchqa on small files of our own: the forms of passages and questions, the search, the judge, the index."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from branches import observed, play, take_actions
from running import ROOT, environment, run
from small_worlds import passages, questions, searchqa_spec, write_lines

from eexp.envs import open_env
from eexp.envs.worlds.searchqa import SearchQA, normalised
from eexp.errors import EexpError, InputError, UsageError

ADA = {"id": "train/2hop__ada", "split": "train"}


@pytest.fixture
def spec(tmp_path) -> str:
    return searchqa_spec(tmp_path)


@pytest.fixture
def env(spec) -> SearchQA:
    return open_env(spec)


def opened(directory: Path, passage_records: list[dict], question_records: list[dict], options: str = "") -> SearchQA:
    files = (
        write_lines(directory / "p.jsonl", passage_records),
        write_lines(directory / "train.jsonl", question_records),
    )
    return open_env(f"searchqa?passages={files[0]}&questions={files[1]}{options}")


# -- tasks and files ---------------------------------------------------------------------------------------------------


def test_the_tasks_are_the_questions(env):
    assert env.splits() == ["train", "test"]
    tasks = {split: list(env.tasks(split)) for split in env.splits()}
    assert [task["id"] for task in tasks["train"]] == [
        "train/2hop__ada",
        "train/2hop__bela",
        "train/2hop__cora",
        "train/2hop__dana",
    ]
    assert [task["id"] for task in tasks["test"]] == ["test/2hop__edgar", "test/2hop__flora"]
    assert {env.kind_of(task) for task in tasks["train"]} == {"2hop"}
    with pytest.raises(UsageError, match="has no split 'dev'; it has: train, test"):
        list(env.tasks("dev"))


def test_questions_of_a_directory_have_the_names_of_their_files_as_splits(tmp_path):
    records = [{key: value for key, value in record.items() if key != "split"} for record in questions()]
    write_lines(tmp_path / "questions" / "dev.jsonl", records[:2])
    write_lines(tmp_path / "questions" / "train.jsonl", records[2:])
    passages_file = write_lines(tmp_path / "passages.jsonl", passages())
    env = open_env(f"searchqa?passages={passages_file}&questions={tmp_path / 'questions'}")
    assert env.splits() == ["train", "dev"] and len(list(env.tasks("dev"))) == 2


def test_a_compressed_file_of_flashrag(tmp_path):
    lines = [
        json.dumps({"id": p["id"], "contents": f'"{p["title"]}"\n{p["text"]}'}).encode() + b"\n" for p in passages()
    ]
    (tmp_path / "wiki.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    question = {"id": "train_0", "question": "Where was Ada Moss born?", "golden_answers": ["Arlen"], "metadata": {}}
    file = write_lines(tmp_path / "train.jsonl", [question])
    env = open_env(f"searchqa?passages={tmp_path / 'wiki.jsonl.gz'}&questions={file}")
    actions, texts, end = play(env, next(env.tasks("train")))
    assert actions == ["search[Where was Ada Moss born?]", "answer[Arlen]"] and end.success
    assert texts[1].startswith("[1] Ada Moss: Ada Moss was a painter, born in Arlen in 1811")


def test_a_file_of_musique_has_passages_and_questions(tmp_path):
    shared = {"idx": 1, "title": "Arlen", "paragraph_text": "Arlen is a town on the river Ash.", "is_supporting": True}
    record = {
        "id": "2hop__1_2",
        "paragraphs": [
            {"idx": 0, "title": "Ada Moss", "paragraph_text": "Ada Moss was born in Arlen.", "is_supporting": True},
            shared,
        ],
        "question": "Which river flows through the town where Ada Moss was born?",
        "question_decomposition": [
            {"id": 1, "question": "Ada Moss >> place of birth", "answer": "Arlen", "paragraph_support_idx": 0},
            {"id": 2, "question": "What river flows through #1 ?", "answer": "the Ash", "paragraph_support_idx": 1},
        ],
        "answer": "the Ash",
        "answer_aliases": ["River Ash"],
        "answerable": True,
    }
    other = {**record, "id": "3hop1__1_2_3", "paragraphs": [shared], "question_decomposition": []}
    file = write_lines(tmp_path / "musique_ans_v1.0_train.jsonl", [record, other])
    env = open_env(f"searchqa?passages={file}&questions={file}")
    assert env.splits() == ["train"]
    tasks = list(env.tasks("train"))
    assert [env.kind_of(task) for task in tasks] == ["2hop", "3hop1"]
    actions, texts, end = play(env, tasks[0])
    assert actions == ["search[Ada Moss place of birth]", "search[What river flows through Arlen ?]", "answer[the Ash]"]
    assert end.success and texts[2].count("Arlen is a town") == 1, "a paragraph of two questions is one passage"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "Where?", "answers": ["here"]}, "id: missing"),
        ({"id": "1", "question": "Where?", "answers": []}, "answers: expected a list of texts"),
        ({"id": "1", "question": "Where?"}, "answer: expected a list of texts"),
        ({"id": "1", "question": 3, "answers": ["here"]}, "question: expected a text"),
        ({"id": "1", "question": "Where?", "answers": [1]}, "answers: expected a text"),
        (
            {"id": "1", "question": "W?", "answers": ["x"], "question_decomposition": [{"question": "#9"}]},
            "decomposition",
        ),
        (["no", "object"], "expected an object"),
    ],
)
def test_a_record_that_is_no_question_is_an_error_with_its_place(tmp_path, record, message):
    with pytest.raises(InputError, match=rf"train\.jsonl:2: .*{message}"):
        opened(tmp_path, passages(), [questions()[0], record])


@pytest.mark.parametrize("line", [b"{", b'{"id": "1", "title": "no text"}', b'{"id": "1", "text": 3}', b"[]"])
def test_a_line_that_is_no_passage_is_an_error_with_its_place(tmp_path, line):
    file = write_lines(tmp_path / "p.jsonl", passages())
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(EexpError, match=r"p\.jsonl:11: "):
        open_env(f"searchqa?passages={file}&questions={write_lines(tmp_path / 'q.jsonl', questions())}")


def test_a_record_whose_data_has_changed_is_refused(tmp_path):
    env = opened(tmp_path, passages(), questions())
    task = next(env.tasks("train"))
    changed = opened(tmp_path, passages()[1:], questions())
    with pytest.raises(InputError, match=r"\$.task.checksum: the question or the passages have changed"):
        changed.reset(task)
    with pytest.raises(InputError, match=r"\$.task.id: searchqa has no task 'train/x' in its questions"):
        env.reset({"id": "train/x"})


def test_a_user_without_data_reads_one_line_that_says_what_to_get(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    get = r"musique_ans_v1.0_train.jsonl .*https://github.com/StonyBrookNLP/musique"
    run("expert", "searchqa").one_error(2, "searchqa: name your files: searchqa?passages=FILE&questions=FILE; musique")
    with pytest.raises(UsageError, match=rf"searchqa\?passages=nowhere: no such file; {get}"):
        open_env("searchqa?passages=nowhere&questions=nowhere")
    with pytest.raises(UsageError, match=rf"name your files.*{get}"):
        open_env("searchqa?questions=nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("&top=0", r"searchqa\?top=0: expected a number from 1 to 999"),
        ("&top=many", "expected a number from 1"),
        ("&max_steps=0", "expected a number above 0"),
        ("&seed=1", "searchqa has no option 'seed'; it has: passages, questions, top, max_steps, cache"),
    ],
)
def test_options_are_checked(spec, options, message):
    with pytest.raises(UsageError, match=message):
        open_env(spec + options)


# -- playing -----------------------------------------------------------------------------------------------------------


def test_the_expert_makes_the_recorded_searches_and_answers(env):
    for split in env.splits():
        for task in env.tasks(split):
            actions, texts, end = play(env, task)
            assert (end.done, end.score, end.success) == (True, 1.0, True)
            assert len(actions) == (3 if split == "train" else 2) and play(env, task) == (actions, texts, end)
    actions, texts, _ = play(env, ADA)
    assert actions == ["search[Ada Moss born]", "search[Arlen river]", "answer[the Ash]"]
    assert texts[0] == "Nothing has been searched for yet." and texts[3] == "The answer is right."
    assert texts[2].splitlines()[0] == "[1] Arlen: Arlen is a town on the river Ash."


def test_the_expert_goes_on_after_other_searches(env):
    env.reset(ADA)
    env.step("search[Bodmin]")
    assert env.expert() == "search[Ada Moss born]"
    env.step("<search>ada moss BORN</search>")
    assert env.expert() == "search[Arlen river]"
    env.step("answer[no idea]")
    assert env.expert() is None


def test_the_instruction_has_the_question(env):
    env.reset(ADA)
    assert env.instruction().endswith("\nQuestion: On which river is the town where Ada Moss was born?")
    assert env.admissible() is None and env.max_steps == 10


@pytest.mark.parametrize(
    ("action", "right"),
    [
        ("answer[the Ash]", True),
        ("answer[  ASH. ]", True),
        ("Answer [River the Ash!]", True),
        ("<answer> Ash </answer>", True),
        ("answer[Ash river]", False),
        ("<answer>Dee</answer>", False),
    ],
)
def test_an_answer_ends_the_episode_and_is_compared_exactly(env, action, right):
    env.reset(ADA)
    observation = env.step(action)
    assert (observation.done, observation.valid, observation.success) == (True, True, right)
    assert observation.score == float(right)
    over = env.step("search[Ada]")
    assert (over.text, over.valid, over.done, over.success) == ("The task is over.", False, True, right)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("", "neither search[words] nor answer[text]"),
        ("Ada Moss", "neither"),
        ("search Ada", "neither"),
        ("<search>Ada</answer>", "neither"),
        ("search[]", "no words to search for"),
        ("search[?! ...]", "no words to search for"),
        ("answer[ ]", "The answer is empty."),
    ],
)
def test_other_texts_are_not_valid_and_change_nothing(env, action, message):
    observation = env.reset(ADA)
    before = observed(env, observation)
    refused = env.step(action)
    assert not refused.valid and not refused.done and message in refused.text
    assert observed(env, observation) == before


def test_a_search_shows_the_best_passages(spec):
    env = open_env(spec + "&top=2")
    env.reset(ADA)
    lines = env.step("search[towns on rivers, Drava]").text.splitlines()
    assert len(lines) == 2 and lines[0] == "[1] Drava: Drava is a town on the river Dee."
    assert env.step('search["quoted" OR (title:x) NEAR -*^]').valid, "nothing of the query is syntax"
    assert env.step("search[zzz]").text == "No passage has any of these words."
    assert env.step("search[" + "word " * 5000 + "]").valid


def test_common_words_count_only_where_there_are_no_others(tmp_path):
    records = [{"id": str(n), "text": f"the city of number{n}"} for n in range(1200)] + [
        {"id": "x", "text": "blue door"}
    ]
    env = opened(tmp_path, records, questions(), "&top=999")
    env.reset(ADA)
    assert env.step("search[the door of the city]").text == "[1] blue door"
    assert len(env.step("search[the city]").text.splitlines()) == 999


def test_answers_are_normalised_as_usual():
    assert normalised("The  Beatles!") == "beatles" and normalised("an A-team") == "ateam"
    assert normalised("Theatre") == "theatre" and normalised("U.S.") == "us"


def test_a_fork_goes_its_own_way(env):
    observation = env.reset(ADA)
    before = observed(env, observation)
    fork = env.fork()
    assert take_actions(fork, ["search[Ada Moss born]", "answer[Dee]"])[-1][0]["success"] is False
    assert observed(env, observation) == before
    assert env.step("search[Arlen]") == env.fork().step("search[Arlen]")


# -- the index ---------------------------------------------------------------------------------------------------------


def test_the_index_is_made_once_and_anew_when_the_file_changes(tmp_path, capfd):
    cache = tmp_path / "cache"
    opened(tmp_path, passages(), questions(), f"&cache={cache}")
    opened(tmp_path, passages(), questions(), f"&cache={cache}")
    assert capfd.readouterr().err.count("this is done once") == 1
    assert len(list(cache.glob("*.sqlite"))) == 1
    changed = [{**record, "text": record["text"].replace("Ash", "Elm")} for record in passages()]
    env = opened(tmp_path, changed, questions(), f"&cache={cache}")
    env.reset(ADA)
    assert "river Elm" in env.step("search[Arlen river]").text
    assert len(list(cache.glob("*.sqlite"))) == 2 and not list(cache.glob("*.[0-9]*"))


def test_processes_that_start_together_make_one_index(spec, tmp_path):
    command = [sys.executable, "-m", "eexp", "env", "show", f"{spec}&cache={tmp_path / 'cache'}"]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, results
    assert sum("this is done once" in err for _, err in results) == 1
    assert len({out for out, _ in results}) == 1


def test_an_index_that_was_not_finished_is_made_again(tmp_path):
    env = opened(tmp_path, passages(), questions(), f"&cache={tmp_path / 'cache'}")
    (index,) = (tmp_path / "cache").glob("*.sqlite")
    unfinished = index.with_suffix(".12345")
    index.rename(unfinished)
    again = opened(tmp_path, passages(), questions(), f"&cache={tmp_path / 'cache'}")
    assert index.exists() and not unfinished.exists()
    for one in (env, again):
        one.reset(ADA)
    assert env.step("search[Ada]") == again.step("search[Ada]")


def test_threads_may_search_at_the_same_time(env):
    env.reset(ADA)
    texts: list[str] = []

    def search() -> None:
        texts.append(env.fork().step("search[Arlen river]").text)

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8 and len(set(texts)) == 1


# -- stages ------------------------------------------------------------------------------------------------------------


def test_the_check_passes(spec):
    result = run("env", "check", spec, "-n", "3").ok()
    assert b"FAIL" not in result.out and b"reaches the goal in 4 of 4 tasks" in result.out


def test_the_pipe_takes_alternatives_from_a_model(spec, tmp_path):
    expert = run("expert", spec, "-n", "2").ok().out
    for record in map(json.loads, expert.splitlines()):
        assert [step["admissible"] for step in record["steps"]] == [None] * 3
    branched = [json.loads(line) for line in expert.splitlines()]
    for record in branched:
        for step, query in zip(record["steps"], ("search[Drava]", "search[painter]", "answer[Dee]")):
            step["alternatives"] = [{"action": query, "source": "policy", "logprob": None, "outcome": None}]
    file = write_lines(tmp_path / "branched.jsonl", branched)
    run("rollout", "-j", "1", file).one_error(3, "sets 'passages', which a record alone may not")
    rollout = run("rollout", "-j", "1", "--env", spec, file).ok()
    assert all(
        a["outcome"]["valid"] for record in rollout.records for step in record["steps"] for a in step["alternatives"]
    )
    examples = run("world-model-data", stdin=rollout.out).ok().records
    assert len(examples) == 12

"""`searchqa`: questions that are answered with a search over the user's own passages (Early Experience, appendix B.5).

An action is `search[words]`, which shows the passages that match best, or `answer[text]`, which ends the episode; the
tags of Search-R1 (Jin et al. 2025, arXiv 2503.09516) are accepted as well. docs/environments/searchqa.md has the
options, the keys of passages and questions, and the expert. The search is SQLite's BM25; its index is made once
(eexp/envs/worlds/databases.py). Words that stand in many passages say little and cost nearly all of the time.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import sqlite3
import string
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_step_limit
from eexp.envs.worlds.checksums import refuse_changed
from eexp.envs.worlds.databases import open_database
from eexp.errors import EexpError, InputError, UsageError
from eexp.records.jsonl import dumps, loads
from eexp.records.record import canonical

INDEX = "searchqa-1"  # part of the name of the index; changed whenever the index is made in another way
DOWNLOAD = (
    "musique_ans_v1.0_train.jsonl of MuSiQue can be both; download_data.sh of https://github.com/StonyBrookNLP/musique "
    "downloads it"
)
HOW = (
    "Answer the question. The action search[words] shows passages that have these words; search as often as you need. "
    "The action answer[text] ends the task: give the answer alone, in as few words as possible."
)
_ACTION = re.compile(r"(search|answer)\s*\[(.*)\]|<(search|answer)>(.*)</\3>", re.DOTALL | re.IGNORECASE)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_REFERENCE = re.compile(r"#(\d+)")
_WORD = re.compile(r"[^\W_]+")
_MOST_WORDS = 64  # words of a query that are searched for
_SAMPLE, _COMMON = 20_000, 1_000  # a word is common if it stands in more than 1,000 of the first 20,000 passages


@dataclass(frozen=True)
class Question:
    """One question."""

    text: str
    answers: tuple[str, ...]  # those that count as right
    queries: tuple[str, ...]  # what the expert searches for
    kind: str | None
    checksum: str  # of the question, its answers and its queries


class SearchQA(Environment):
    """Questions to be answered by searching the user's passages. docs/environments/searchqa.md lists the options."""

    spec = "searchqa"
    record_options = frozenset({"top", "max_steps"})

    def __init__(
        self, passages: str = "", questions: str = "", top: str = "3", max_steps: str = "10", cache: str = ""
    ) -> None:
        self.max_steps = parse_step_limit("searchqa", max_steps)
        if not re.fullmatch("[0-9]{1,3}", top) or not int(top):
            raise option_error("searchqa", "top", top, "expected a number from 1 to 999")
        self._top = int(top)
        passages_file, questions_file = _path("passages", passages), _path("questions", questions)
        if passages_file.is_dir():
            raise option_error("searchqa", "passages", passages, "expected a file, not a directory")
        files = _question_files(questions_file)
        self._questions = _read_questions(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
        make = partial(_make_index, file=passages_file)
        self._index, self._passages = open_database(INDEX, [passages_file], make, cache)
        self._common = frozenset(word for (word,) in self._index.execute("SELECT word FROM common"))
        self._question: Question | None = None
        self._searched: list[str] = []  # the queries of the episode, in their canonical form
        self._end: Observation | None = None

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        """Return the splits in the order of the files, `train` first."""
        return sorted(self._questions, key=lambda split: split != "train")

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the questions in the order of the file."""
        self.check_split(split)
        for name, question in self._questions[split].items():
            yield {"id": f"{split}/{name}", "split": split, "checksum": self._checksum(question)}

    def kind_of(self, task: dict) -> str | None:
        """Return the kind of the question, such as 2hop."""
        return self._find(task).kind

    def _find(self, task: dict) -> Question:
        split, _, name = str(task.get("id", "")).partition("/")
        question = self._questions.get(split, {}).get(name)
        if question is None:
            raise InputError(f"searchqa has no task {task.get('id')!r} in its questions", "$.task.id")
        return question

    def _checksum(self, question: Question) -> str:
        return hashlib.sha256(f"{self._passages} {question.checksum}".encode()).hexdigest()[:16]

    def reset(self, task: dict) -> Observation:
        question = self._find(task)
        refuse_changed(task, self._checksum(question), "the question or the passages have")
        self._question, self._searched, self._end = question, [], None
        return self._observe("Nothing has been searched for yet.")

    def instruction(self) -> str:
        return f"{HOW}\nQuestion: {self._asked().text}"

    def _asked(self) -> Question:
        assert self._question is not None, "reset comes first"
        return self._question

    # -- acting --------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._end is not None:
            return Observation("The task is over.", True, self._end.score, valid=False, success=self._end.success)
        match = _ACTION.fullmatch(action.strip())
        if match is None:
            return self._observe("That is neither search[words] nor answer[text].", valid=False)
        verb, text = (match[1] or match[3]).lower(), (match[2] or match[4] or "").strip()
        if verb == "answer":
            return self._answer(text)
        words = list(dict.fromkeys(_WORD.findall(text.lower())))
        if not words:
            return self._observe("There are no words to search for.", valid=False)
        self._searched.append(canonical(text))
        return self._observe("\n".join(self._search(words)) or "No passage has any of these words.")

    def _answer(self, text: str) -> Observation:
        if not text:
            return self._observe("The answer is empty.", valid=False)
        right = normalised(text) in map(normalised, self._asked().answers)
        reply = "The answer is right." if right else "The answer is not right."
        self._end = Observation(reply, True, float(right), success=right)
        return self._end

    def _observe(self, text: str, valid: bool = True) -> Observation:
        return Observation(text, score=0.0, valid=valid)

    def _search(self, words: list[str]) -> list[str]:
        """Return the passages that match best, numbered, each as one line."""
        telling = [word for word in words if word not in self._common] or words
        query = " OR ".join(f'"{word}"' for word in telling[:_MOST_WORDS])
        rows = self._index.execute(
            "SELECT title, text FROM passages WHERE passages MATCH ? ORDER BY bm25(passages), rowid LIMIT ?",
            (query, self._top),
        )
        return [f"[{n}] {f'{title}: ' if title else ''}{text}" for n, (title, text) in enumerate(rows, 1)]

    def expert(self) -> str | None:
        """Return the search for the first recorded query that was not made yet, then the answer."""
        if self._end is not None:
            return None
        question = self._asked()
        rest = (query for query in question.queries if canonical(query) not in self._searched)
        query = next(rest, None)
        return f"answer[{question.answers[0]}]" if query is None else f"search[{query}]"

    def fork(self) -> SearchQA:
        fork = copy(self)
        fork._searched = list(self._searched)
        return fork


def normalised(text: str) -> str:
    """Return an answer without case, ASCII punctuation, articles and surplus blanks, as SQuAD compares answers."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(_ARTICLES.sub(" ", bare).split())


# -- files -----------------------------------------------------------------------------------------------------------


def _path(option: str, value: str) -> Path:
    """Return the path that an option names. Raises UsageError, with the place to get such a file, if there is none."""
    if not value:
        raise UsageError(f"searchqa: name your files: searchqa?passages=FILE&questions=FILE; {DOWNLOAD}")
    path = Path(value)
    if not path.exists():
        raise option_error("searchqa", option, value, f"no such file; {DOWNLOAD}")
    return path


def _question_files(path: Path) -> tuple[Path, ...]:
    files = tuple(sorted(path.glob("*.jsonl"))) if path.is_dir() else (path,)
    if not files:
        raise option_error("searchqa", "questions", str(path), "no *.jsonl in it")
    return files


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the place and the object of every line that is not empty."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}:{number}"
                    yield place, _object(line, place)
    except (OSError, EOFError) as e:
        raise EexpError(f"{path}: {getattr(e, 'strerror', None) or e}") from None


def _object(line: bytes, place: str) -> dict:
    try:
        value = loads(line)
    except InputError as e:
        raise e.at(place) from None
    if not isinstance(value, dict):
        raise InputError("expected an object", place)
    return value


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name}: expected a text", place)
    return " ".join(value.split())


def _texts(value: Any, name: str, place: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise InputError(f"{name}: expected a list of texts", place)
    return [_text(text, name, place) for text in texts]


@lru_cache(maxsize=4)
def _read_questions(files: tuple[tuple[Path, int, int], ...]) -> dict[str, dict[str, Question]]:
    """Return questions by split and id; sizes and times of the files are there for the cache of answers."""
    splits: dict[str, dict[str, Question]] = {}
    for file, _, _ in files:
        for place, record in _lines(file):
            split = _text(record.get("split", _split_of(file)), "split", place)
            if "/" in split:
                raise InputError(f"split: {split!r} has a slash", place)
            name = str(record.get("id") or "")
            if not name or name in splits.setdefault(split, {}):
                raise InputError(f"id: {'stands there twice' if name else 'missing'}", place)
            splits[split][name] = _question(record, name, place)
    if not splits:
        raise EexpError(f"{files[0][0]}: no questions in it")
    return splits


def _split_of(file: Path) -> str:
    """Return the split that a file is named after: `train` for `musique_ans_v1.0_train.jsonl`."""
    match = re.search("(?<![a-z])(train|dev|validation|test)(?![a-z])", file.name.lower())
    return match[1] if match else file.name.partition(".")[0]


def _question(record: dict, name: str, place: str) -> Question:
    text = _text(record.get("question"), "question", place)
    if "answers" in record or "golden_answers" in record:
        key = "answers" if "answers" in record else "golden_answers"
        answers = _texts(record[key], key, place)
    else:
        aliases = record.get("answer_aliases") or []
        answers = [*_texts(record.get("answer"), "answer", place), *(map(str, aliases) if aliases else ())]
    parts = record.get("question_decomposition") or (record.get("metadata") or {}).get("question_decomposition")
    if record.get("queries"):
        queries = _texts(record["queries"], "queries", place)
    else:
        queries = _composed(parts, place) if parts else [text]
    kind = record.get("kind") or (name.partition("__")[0] if "__" in name else None)
    checksum = hashlib.sha256(dumps([text, answers, queries])).hexdigest()[:16]
    return Question(text, tuple(answers), tuple(queries), None if kind is None else str(kind), checksum)


def _composed(parts: Any, place: str) -> list[str]:
    """Return the questions of MuSiQue's decomposition, with the answers that they refer to as `#1` put in."""
    try:
        answers = [str(part["answer"]) for part in parts]
        questions = [str(part["question"]).replace(">>", " ") for part in parts]
        composed = [_REFERENCE.sub(lambda match: answers[int(match[1]) - 1], question) for question in questions]
    except (TypeError, KeyError, IndexError):
        raise InputError("question_decomposition: expected parts with a question and an answer", place) from None
    return [" ".join(query.split()) for query in composed]


def _make_index(index: sqlite3.Connection, file: Path) -> None:
    try:
        index.execute("CREATE VIRTUAL TABLE passages USING fts5(title, text, tokenize = 'porter unicode61')")
    except sqlite3.OperationalError as e:
        raise EexpError(f"searchqa needs a Python whose SQLite has FTS5: {e}") from None
    counts: Counter[str] = Counter()
    index.executemany("INSERT INTO passages (title, text) VALUES (?, ?)", _counted(_passages(file), counts))
    if not index.execute("SELECT count(*) FROM (SELECT 1 FROM passages LIMIT 1)").fetchone()[0]:
        raise EexpError(f"{file}: no passages in it")
    index.execute("INSERT INTO passages (passages) VALUES ('optimize')")
    index.execute("CREATE TABLE common (word TEXT PRIMARY KEY)")
    common = sorted(word for word, count in counts.items() if count > _COMMON)
    index.executemany("INSERT INTO common VALUES (?)", ((word,) for word in common))


def _counted(passages: Iterator[tuple[str, str]], counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield passages; count in how many of the first ones each word stands."""
    for number, (title, text) in enumerate(passages):
        if number < _SAMPLE:
            counts.update(set(_WORD.findall(f"{title} {text}".lower())))
        yield title, text


def _passages(file: Path) -> Iterator[tuple[str, str]]:
    """Yield title and text of every passage. Questions of MuSiQue share paragraphs; each is taken once."""
    shared: set[bytes] = set()
    for place, record in _lines(file):
        if "paragraphs" not in record:
            yield _passage(record, place)
            continue
        if not isinstance(record["paragraphs"], list):
            raise InputError("paragraphs: expected a list", place)
        for paragraph in record["paragraphs"]:
            title, text = _passage(paragraph if isinstance(paragraph, dict) else {}, place)
            key = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=8).digest()
            if key not in shared:
                shared.add(key)
                yield title, text


def _passage(record: dict, place: str) -> tuple[str, str]:
    if "contents" in record and "text" not in record:
        title, _, text = str(record["contents"]).partition("\n")
        return (" ".join(title.strip().strip('"').split()), " ".join(text.split())) if text else ("", title.strip())
    text = record.get("text", record.get("paragraph_text"))
    return " ".join(str(record.get("title") or "").split()), _text(text, "text", place)

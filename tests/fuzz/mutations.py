"""Mutations of a line at three levels: its bytes, its JSON, and the meaning of its record."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from fuzz import hostile

Place = tuple[Any, Any]  # a container and the key or index in it
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_STRING = re.compile(rb'"[^"\\]*"')


def encode(record: Any) -> bytes:
    """Write a record as one line of JSON; a lone surrogate becomes bytes that are no UTF-8."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


class Mutator:
    """Maker of mutated lines from good records.

    Args:
        rng: The source of every choice.
        seeds: Good records of the kind that a stage reads.
        strangers: Good records of other kinds.
        corpus: Lines that were findings.
    """

    def __init__(self, rng: random.Random, seeds: Sequence[dict], strangers: Sequence[dict], corpus: Sequence[bytes]):
        self.rng, self.seeds, self.strangers, self.corpus = rng, seeds, strangers, corpus
        self._raw: list[str] = []  # JSON to be put unescaped into the current record

    def line(self) -> bytes:
        """Make one line, or several where it holds newlines."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.25:
            return self._of_bytes(self._any_line())
        record = self._seed()
        if chance < 0.6:
            for _ in range(self._few()):
                record = self._of_structure(record)
        else:
            for _ in range(self._few()):
                record = self._of_record(record)
            if rng.random() < 0.2:
                record = self._of_structure(record)
        line = self._encode(record)
        return self._of_bytes(line) if rng.random() < 0.05 else line

    def _few(self) -> int:
        return 1 + (self.rng.random() < 0.3) + (self.rng.random() < 0.1)

    def _seed(self) -> Any:
        return copy.deepcopy(self.rng.choice(self.seeds))

    def _any_line(self) -> bytes:
        chance = self.rng.random()
        if chance < 0.05:
            return self.rng.choice(hostile.LINES)
        if chance < 0.15 and self.corpus:
            return self.rng.choice(self.corpus)
        if chance < 0.2:
            return encode(self.rng.choice(self.strangers))
        return encode(self.rng.choice(self.seeds))

    # -- JSON that stands for itself

    def _hostile(self) -> str:
        """Return a placeholder for a hostile value until the record is encoded."""
        return self._literal(hostile.value(self.rng))

    def _literal(self, text: str) -> str:
        self._raw.append(text)
        return f"@raw{len(self._raw) - 1}@"

    def _raw_value(self, placeholder: re.Match[str]) -> str:
        """Return the value that a placeholder stands for; a placeholder whose number was mutated stays as it is."""
        number = int(placeholder[1])
        return self._raw[number] if number < len(self._raw) else placeholder[0]

    def _encode(self, record: Any) -> bytes:
        text = json.dumps(record, ensure_ascii=self.rng.random() < 0.5)
        if self._raw:
            text = re.sub(r'"@raw(\d+)@"', self._raw_value, text)
            self._raw.clear()
        return text.encode("utf-8", "surrogatepass")

    # -- bytes

    def _of_bytes(self, line: bytes) -> bytes:
        for _ in range(self._few()):
            line = self.rng.choice(_BYTES)(self, line)
        return line

    def _at(self, line: bytes) -> int:
        return self.rng.randrange(len(line) + 1)

    def _slice(self, line: bytes) -> tuple[int, int]:
        start = self._at(line)
        return start, min(len(line), start + int(self.rng.expovariate(1 / 20)) + 1)

    def _flip(self, line: bytes) -> bytes:
        if not line:
            return b"\x01"
        data = bytearray(line)
        data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(data)

    def _replace_byte(self, line: bytes) -> bytes:
        at = self._at(line)
        return line[:at] + bytes([self.rng.randrange(256)]) + line[at + 1 :]

    def _cut(self, line: bytes) -> bytes:
        return line[: self._at(line)]

    def _cut_front(self, line: bytes) -> bytes:
        return line[self._at(line) :]

    def _cut_out(self, line: bytes) -> bytes:
        start, end = self._slice(line)
        return line[:start] + line[end:]

    def _double(self, line: bytes) -> bytes:
        start, end = self._slice(line)
        return line[:end] + line[start:end] * self.rng.choice([1, 1, 2, 50]) + line[end:]

    def _double_all(self, line: bytes) -> bytes:
        return line + self.rng.choice([b"", b" ", b",", b"\n"]) + line

    def _insert(self, line: bytes) -> bytes:
        at = self._at(line)
        return line[:at] + self.rng.choice(hostile.BYTES) + line[at:]

    def _before(self, line: bytes) -> bytes:
        return self.rng.choice(hostile.BYTES) + line

    def _nest(self, line: bytes) -> bytes:
        return self._swap_token(line, _STRING, hostile.deep(self.rng).encode())

    def _number(self, line: bytes) -> bytes:
        return self._swap_token(line, _NUMBER, self.rng.choice(hostile.NUMBERS).encode())

    def _value(self, line: bytes) -> bytes:
        return self._swap_token(line, _STRING, hostile.value(self.rng).encode("utf-8", "surrogatepass"))

    def _swap_token(self, line: bytes, pattern: re.Pattern[bytes], new: bytes) -> bytes:
        matches = list(pattern.finditer(line[:20_000]))
        if not matches:
            return line + new
        token = self.rng.choice(matches)
        return line[: token.start()] + new + line[token.end() :]

    def _splice(self, line: bytes) -> bytes:
        other = self._any_line()
        return line[: self._at(line)] + other[self._at(other) :]

    # -- JSON

    def _places(self, record: Any) -> list[Place]:
        """Return every place of a value in a record; of long arrays the first few alone."""
        places: list[Place] = []
        todo = [record]
        while todo:
            at = todo.pop()
            keys = list(at) if isinstance(at, dict) else range(min(len(at), 6)) if isinstance(at, list) else ()
            for key in keys:
                places.append((at, key))
                if isinstance(at[key], (dict, list)):
                    todo.append(at[key])
        return places

    def _of_structure(self, record: Any) -> Any:
        places = self._places(record)
        if not places:
            return self._hostile()
        return self.rng.choice(_STRUCTURE)(self, record, places)

    def _set(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        at[key] = self._hostile()
        return record

    def _set_text(self, record: Any, places: list[Place]) -> Any:
        """Put a hostile text where a text is, so that the record is still a good one."""
        texts = [place for place in places if isinstance(place[0][place[1]], str)]
        at, key = self.rng.choice(texts or places)
        old, new = at[key], hostile.text(self.rng)
        at[key] = self.rng.choice([new, f"{old}{new}", f"{new}{old}", f"{old} {new} {old}"])
        return record

    def _remove(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        del at[key]
        return record

    def _add(self, record: Any, places: list[Place]) -> Any:
        at, _ = self.rng.choice(places)
        if isinstance(at, dict):
            at[hostile.text(self.rng)] = self._hostile()
        else:
            at.insert(self.rng.randrange(len(at) + 1), self._hostile())
        return record

    def _add_known(self, record: Any, places: list[Place]) -> Any:
        """Add a key that some kind of record has, where it may not belong."""
        at, _ = self.rng.choice(places)
        other_at, key = self.rng.choice(self._places(self.rng.choice([*self.seeds, *self.strangers])))
        if isinstance(at, dict):
            at[str(key)] = other_at[key] if self.rng.random() < 0.7 else self._hostile()
        return record

    def _rename(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        if isinstance(at, dict):
            old = at.pop(key)
            at[self.rng.choice([hostile.text(self.rng), key.upper(), f"{key} ", key[:-1]])] = old
        return record

    def _twice(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        if isinstance(at, list):
            at[key:key] = [at[key]] * self.rng.choice([1, 1, 2, 30])
            return record
        # JSON can have a key twice, Python cannot: the second one is written behind a value as it stands.
        first = self._literal(json.dumps(at[key]) if "@raw" not in json.dumps(at[key]) else "0")
        name = json.dumps(key)
        at[key] = self._literal(f"{self._raw[int(first[4:-1])]},{name}:{hostile.value(self.rng)}")
        return record

    def _wrap(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        old = at[key]
        at[key] = self.rng.choice([[old], {"x": old}, [old, old], {key if isinstance(key, str) else "x": old}])
        return record

    def _swap(self, record: Any, places: list[Place]) -> Any:
        one, two = self.rng.choice(places), self.rng.choice(places)
        with contextlib.suppress(KeyError, IndexError):  # one of them held the other
            one[0][one[1]], two[0][two[1]] = copy.deepcopy(two[0][two[1]]), copy.deepcopy(one[0][one[1]])
        return record

    def _convert(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        old = at[key]
        if isinstance(old, str):
            at[key] = self.rng.choice([list(old[:20]), {"text": old}, len(old), bool(old)])
        elif isinstance(old, bool):
            at[key] = self.rng.choice([int(old), str(old), str(old).lower()])
        elif isinstance(old, (int, float)):
            at[key] = self.rng.choice([str(old), float(old), [old], -old])
        elif isinstance(old, list):
            at[key] = self.rng.choice([{str(i): one for i, one in enumerate(old)}, json.dumps(old), len(old)])
        elif isinstance(old, dict):
            at[key] = self.rng.choice([list(old.items()), json.dumps(old), list(old.values())])
        else:
            at[key] = self.rng.choice(["null", [], {}, 0, False])
        return record

    def _empty(self, record: Any, places: list[Place]) -> Any:
        at, key = self.rng.choice(places)
        at[key] = type(at[key])() if at[key] is not None else ""
        return record

    def _bury(self, record: Any, places: list[Place]) -> Any:
        """Add an unknown key with deep nesting, somewhere."""
        at, _ = self.rng.choice(places)
        if isinstance(at, dict):
            at[self.rng.choice(["x", "mine", ""])] = self._literal(hostile.deep(self.rng))
        return record

    def _big_number(self, record: Any, places: list[Place]) -> Any:
        """Add an unknown key with a large number, somewhere."""
        at, _ = self.rng.choice(places)
        if isinstance(at, dict):
            at["n"] = self._literal(self.rng.choice(hostile.NUMBERS))
        return record

    # -- what the record means

    def _of_record(self, record: Any) -> Any:
        from fuzz.meanings import MEANINGS

        kind = record.get("type") or next((key for key in ("messages", "conversations") if key in record), "")
        mutation = self.rng.choice(MEANINGS[kind if isinstance(kind, str) and kind in MEANINGS else ""])
        # An earlier mutation may have removed what this one needs.
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
            mutation(self, record)
        return record

    def text(self) -> str:
        """Return a hostile text."""
        return hostile.text(self.rng)


_BYTES: list[Callable[[Mutator, bytes], bytes]] = [
    Mutator._flip,
    Mutator._flip,
    Mutator._replace_byte,
    Mutator._cut,
    Mutator._cut_front,
    Mutator._cut_out,
    Mutator._double,
    Mutator._double_all,
    Mutator._insert,
    Mutator._insert,
    Mutator._before,
    Mutator._nest,
    Mutator._number,
    Mutator._value,
    Mutator._splice,
]
_STRUCTURE: list[Callable[[Mutator, Any, list[Place]], Any]] = [
    Mutator._set,
    Mutator._set,
    Mutator._set_text,
    Mutator._set_text,
    Mutator._set_text,
    Mutator._remove,
    Mutator._add,
    Mutator._add_known,
    Mutator._rename,
    Mutator._twice,
    Mutator._wrap,
    Mutator._swap,
    Mutator._convert,
    Mutator._empty,
    Mutator._bury,
    Mutator._big_number,
]

"""Tests that files of examples have the same columns of the same types, whichever stage made them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from running import read, run

from eexp.records.types import Example

KINDS = ("imitation", "world", "reflected")


def type_of(value: object) -> object:
    """Return the type of a value as a column has it: an array has that of its elements, an object one for each key."""
    if isinstance(value, dict):
        return {key: type_of(part) for key, part in value.items()}
    if isinstance(value, list):
        return [type_of(part) for part in value[:1]]
    return type(value)


@pytest.fixture(scope="module")
def examples(data, tmp_path_factory) -> dict[str, Path]:
    """Return a file of each kind, and one in which parts of the targets have weight 0."""
    light = tmp_path_factory.mktemp("columns") / "light.jsonl"
    run("world-model-data", "--predictable", "environment", "--changes", data["rollout"], "-o", light).ok()
    return {**{kind: data[kind] for kind in KINDS}, "light": light}


def test_every_example_has_the_same_keys_with_values_of_the_same_types(examples):
    # Functions are in examples of tool calls alone: chat templates of others are to see none. Examples of imagined
    # environments have a mark of their own.
    fields = [field.name for field in msgspec.structs.fields(Example) if field.name not in ("tools", "imagined")]
    types = {}
    for kind, file in examples.items():
        for record in read(file):
            assert sorted(record) == sorted(fields), kind
            assert None not in record.values()
            assert all(sorted(span) == ["end", "name", "start", "weight"] for span in record["spans"])
            types.setdefault(str({key: type_of(record[key]) for key in sorted(record)}), kind)
    assert len(types) == 1, types


def test_datasets_loads_them_together(examples, tmp_path):
    """The files load in any order, although `datasets` takes the types of the first file for all."""
    datasets = pytest.importorskip("datasets")
    for i, kinds in enumerate(permutations(KINDS)):
        files = [str(examples[kind]) for kind in kinds]
        loaded = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / str(i)))
        assert len(loaded) == sum(len(read(file)) for file in files)
        assert loaded[0]["prompt"] == read(examples[kinds[0]])[0]["prompt"]

"""Tests of the promises in SECURITY.md that no other test covers, and that the tests named there exist."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
from running import ROOT, lines, read, run

from eexp.errors import InputError
from eexp.prompts.chat_template import render_chat
from eexp.weights import TINY_DIR

_TEST = re.compile(r"`(tests/\w+\.py)::(\w+)`")


def test_the_tests_that_the_page_names_are_there():
    named = _TEST.findall((ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


class _Trap:
    """An object that leaves a trace when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.slow
def test_a_pickle_in_a_model_directory_runs_nothing(tmp_path, data):
    model, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(TINY_DIR, model)
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "training_args.bin"):
        (model / name).write_bytes(pickle.dumps(_Trap(trace)))
    run("score", "-m", f"hf:{model}", data["imitation"]).one_error(1, "cannot be loaded")
    run("finetune", "-m", model, "-o", tmp_path / "run", data["imitation"]).one_error(1, "cannot be loaded")
    run("export", model, "-o", tmp_path / "x.gguf").one_error(1, "no model.safetensors")
    assert not trace.exists()


@pytest.mark.slow
def test_a_pickle_in_an_adapter_runs_nothing(tmp_path, data):
    adapter, trace = tmp_path / "adapter", tmp_path / "trace"
    run("finetune", "-m", "tiny", "-o", adapter, "--max-steps", "1", data["imitation"]).ok()
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(_Trap(trace)))
    run("score", "-m", f"hf:tiny+{adapter}", data["imitation"]).ok(1)
    run("export", adapter, "-o", tmp_path / "x.gguf").one_error(1, "no adapter_model.safetensors")
    assert not trace.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['os'].system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append({'role': 'system', 'content': 'obey'}) }}",
        "{{ messages[0].update({'content': 'obey'}) }}",
        "{{ '%s'|format(cycler.__init__.__globals__) }}",
    ],
)
def test_a_chat_template_cannot_reach_python(template):
    with pytest.raises(InputError, match="the chat template refuses these messages"):
        render_chat(template, [{"role": "user", "content": "a"}], {"bos_token": "<s>", "eos_token": "</s>"})


def test_no_id_becomes_a_name_of_a_file(tmp_path, monkeypatch, data):
    """Whatever a record calls itself, a stage writes what the command line names and nothing else."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = {key: "../../../out/x" for key in ("id", "origin", "group", "kind", "panel", "split", "model")}
    for name, stages in (
        ("rollout", (["imitation-data"], ["world-model-data"], ["recover"], ["split", "--part", "1"], ["rollout"])),
        ("imitation", (["mix"], ["split", "--part", "1"])),
        ("episodes", (["import", "episodes", "--no-replay"], ["show"], ["show", "--summary"])),
    ):
        record = {key: names.get(key, value) for key, value in read(data[name])[0].items()}
        for stage in stages:
            assert run(*stage, stdin=lines([record])).code in (0, 3)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]

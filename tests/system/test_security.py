"""Tests of the promises in SECURITY.md that no other test covers, and that the tests named there exist."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
from running import ROOT, lines, read, run, write

from eexp.errors import InputError
from eexp.prompts.chat_template import render_chat
from eexp.records.runs import TINY_DIR

_TEST = re.compile(r"`(tests/(?:\w+/)?\w+\.py)::(\w+)`")


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


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, data) -> Path:
    """An adapter of the tiny model after one update."""
    where = tmp_path_factory.mktemp("adapter") / "run"
    run("finetune", "-m", "tiny", "-o", where, "--max-steps", "1", data["imitation"]).ok()
    return where


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
def test_a_pickle_in_an_adapter_runs_nothing(tmp_path, data, adapter):
    adapter, trace = shutil.copytree(adapter, tmp_path / "adapter"), tmp_path / "trace"
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


def _change(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    contents = {**json.loads(file.read_bytes()), **changes}
    file.write_text(json.dumps({key: value for key, value in contents.items() if value is not None}))


@pytest.mark.slow
def test_no_style_in_a_record_or_a_model_names_a_file(tmp_path, monkeypatch, data, adapter):
    """The file would do: what is refused is that a label makes it be opened. The command line may name it."""
    monkeypatch.chdir(tmp_path)
    style = run("prompts", "show", "react").ok().out
    for label in ("mine.toml", "./mine"):
        Path(label).write_bytes(style)
        examples = write(tmp_path / "examples", [{**r, "prompt_style": label} for r in read(data["imitation"])[:2]])
        dry_run = ["finetune", "-m", "tiny", "-o", "run", "--dry-run", examples]
        run(*dry_run).one_error(2, f"prompt style {label!r}", "--prompt-style", "built in: react")
        model = tmp_path / "model"
        shutil.copytree(adapter, model, dirs_exist_ok=True)
        _change(model / "eexp.json", style=None, prompt_style=label)
        run("export", model, "-o", "model.gguf").ok()
        for spec, place in ((f"hf:tiny+{model}", model / "eexp.json"), ("tiny+model.gguf", "model.gguf: eexp.run")):
            play = ["eval", "house", "-n", 1, "-m", spec]
            run(*play).one_error(3, f"{place}: $.prompt_style: unknown prompt style {label!r}")


@pytest.fixture
def connections(monkeypatch) -> list:
    """The hosts that this process asks for, with the hub allowed; each request fails."""
    from huggingface_hub import constants

    asked: list = []

    def refuse(host: object, *args: object, **options: object) -> None:
        asked.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    return asked


def hub_hosts(asked: list) -> list:
    """Return the hosts of the hub among those asked for; threads of other tests in this process may ask for others."""
    return [host for host in asked if any(name in str(host) for name in ("huggingface", "hf.co"))]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["adapter_config.json", "eexp.json"])
def test_no_name_in_an_adapter_is_asked_of_the_hub(place, tmp_path, data, adapter, connections):
    """Models are downloaded by a name on the command line; an adapter's own name for its base is no such name."""
    own = tmp_path / "own"
    shutil.copytree(adapter, own)
    if place == "eexp.json":
        _change(own / place, base="evil/model", base_fingerprint=None)
    else:
        (own / "eexp.json").unlink()
        _change(own / place, base_model_name_or_path="evil/model")
    for command in (
        ["eval", "house", "-n", 1, "-m", own],
        ["branch", "-m", f"hf:{own}", data["expert"]],
        ["score", "-m", own, data["imitation"]],
        ["reflect", "-m", own, data["rollout"]],
        ["export", own, "-o", tmp_path / "out.gguf"],
    ):
        run(*command).one_error(
            1, f"{own}: made for 'evil/model', which is neither a directory here nor in the", "give"
        )
    again = ["finetune", "-m", "tiny", "--init", own, "--max-steps", 1, "-o", tmp_path / "again"]
    run(*again, data["imitation"]).ok()
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_bytes())["base_model_name_or_path"] == str(
        TINY_DIR
    )
    run("score", "-m", f"hf:{own}+{own}", data["imitation"]).one_error(1, "an adapter, where a base model is needed")
    run("score", "-m", f"hf:tiny+{own}", data["imitation"]).ok()
    run("export", own, "--base", "tiny", "-o", tmp_path / "out.gguf").ok()
    assert not hub_hosts(connections), connections


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "XLORA", "adapters": {"0": "evil/model"}},
        {"peft_type": "SHADOW", "shadow_model": "evil/model"},
        {"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "evil/model"},
        {"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "/etc/passwd"},
        {"peft_type": "LORA", "megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {},
    ],
)
def test_an_adapter_is_weights_alone(config, tmp_path, data, connections):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(TINY_DIR), **config}))
    run("score", "-m", tmp_path, data["imitation"]).one_error(1, str(tmp_path / "adapter_config.json"), "$.")
    assert not hub_hosts(connections), connections


#: A text that looks like a message, a heading and a row of a table of eexp.
_FORGED = "x\nerror: all is well\nepisode house/forged\nimitation  99  99\n"


@pytest.mark.slow
def test_no_line_is_forged(tmp_path, data):
    """A newline in a name is shown as \\n, in messages and tables and beside what has several lines by right."""
    panel = write(
        tmp_path / "panel", [{"type": "task", "env": env, "task": {"id": _FORGED}} for env in ("house", _FORGED)]
    )
    episodes = [
        {**e, "kind": _FORGED, "task": {**e["task"], "id": f"{_FORGED}{i // 2}"}}
        for i, e in enumerate(read(data["episodes"]))
    ]
    example = {**read(data["imitation"])[0], "kind": _FORGED, "id": _FORGED, "lineage": [_FORGED]}
    rollout = read(data["rollout"])[0]
    rollout |= {"id": _FORGED, "env": _FORGED, "instruction": _FORGED}
    rollout["steps"][0] |= {"action": _FORGED, "observation": _FORGED}
    rollout["steps"][0]["alternatives"][0] |= {"action": _FORGED, "pool": _FORGED, "source": _FORGED}
    twice = write(tmp_path / "twice", episodes)
    once = write(
        tmp_path / "once", [{**e, "kind": _FORGED * (i % 2), "task": {"id": f"{i}"}} for i, e in enumerate(episodes)]
    )
    examples, trajectory = write(tmp_path / "examples", [example]), write(tmp_path / "rollout", [rollout])
    for command in (
        ["eval", "--panel", panel],
        ["eval", "house", "--panel", panel, "-m", "random"],
        ["compare", twice],
        ["compare", once, "--by-kind"],
        ["stats", examples, trajectory, once],
        ["show", examples],
        ["show", trajectory],
        ["show", "--summary", examples],
        ["score", examples],
        ["mix", examples],
        ["rollout", trajectory],
        ["rollout", "--on-error", "skip", trajectory],
        ["reward", twice],
    ):
        result = run(*command)
        shown = result.err + ("" if result.out.startswith(b"{") else result.out.decode())
        forged = [
            line for line in shown.splitlines() if line.startswith(("error: all", "episode house", "imitation  99"))
        ]
        assert not forged and "all is well" in shown, (command, shown)


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

"""The built-in model is the one that the recipe makes, and it behaves as a base model."""

import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_logits import llama_logits, llama_tokens

from eexp.data import BUILT_IN
from eexp.envs.worlds.house import House
from eexp.gguf.built_in import built_in_gguf
from eexp.prompts import get_style
from eexp.records.runs import TINY_DIR, built_in_directory

ROOT = Path(__file__).parents[2]


def transcript(number: int, steps: int = 12) -> list[dict]:
    """Return an expert's episode as a chat."""
    env = House()
    observation = env.reset({"id": f"test/{number}", "split": "test"})
    played = []
    while not observation.done and len(played) < steps:
        played.append({"observation": observation.text, "action": env.expert()})
        observation = env.step(played[-1]["action"])
    return get_style("react").act(env.instruction(), played, observation.text)


@pytest.mark.parametrize("model", BUILT_IN)
def test_checksums_and_size(model):
    directory = built_in_directory(model)
    sums = dict(reversed(line.split("  ")) for line in (directory / "SHA256SUMS").read_text().splitlines())
    assert {p.name for p in directory.iterdir()} - {"SHA256SUMS"} == set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest, name
    assert sum(p.stat().st_size for p in directory.iterdir()) <= 10e6


def test_same_token_ids_and_logits_in_both_libraries(tmp_path):
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_DIR)
    model = AutoModelForCausalLM.from_pretrained(TINY_DIR, dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(transcript(n), tokenize=False) for n in range(20)]
    texts += ["Ünïcode: 你好 🙂", "  two  blanks\n\n\tand tabs", "don't 1234 x=3;", ""]
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    gguf = built_in_gguf()
    assert llama_tokens(gguf, texts) == ids
    for tokens in ids[:3]:
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0].numpy()
        assert np.abs(llama_logits(gguf, tokens) - expected).max() < 1e-3


@pytest.mark.long
def test_the_recipe_runs_and_repeats_itself(tmp_path, monkeypatch):
    """In a process of its own and in this one, whose hashes have another seed."""
    script = ROOT / "recipes/tiny/make_tiny.py"

    def arguments(name):
        return [
            script,
            "-o",
            tmp_path / name,
            "--episodes",
            "12",
            "--hidden",
            "32",
            "--heads",
            "2",
            "--kv-heads",
            "1",
            "--mlp",
            "64",
            "--layers",
            "1",
        ]

    subprocess.run([sys.executable, *arguments("a")], check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments("b")])
    monkeypatch.syspath_prepend(script.parent)
    runpy.run_path(str(script), run_name="__main__")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert one == other
    assert json.loads((tmp_path / "a/made_with.json").read_text())["episodes"] == 12

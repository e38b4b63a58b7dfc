"""The exporter against transformers, PEFT and llama.cpp, on tiny random models that the tests make."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running import environment, run

from eexp.errors import EexpError
from eexp.gguf.convert import export_adapter, export_model
from eexp.gguf.file import read_header

gguf = pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")
peft = pytest.importorskip("peft")
safetensors_torch = pytest.importorskip("safetensors.torch")
tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf_logits = pytest.importorskip("gguf_logits")

AddedToken, Regex, pre_tokenizers = tokenizers.AddedToken, tokenizers.Regex, tokenizers.pre_tokenizers
llama_logits, llama_tokens = gguf_logits.llama_logits, gguf_logits.llama_tokens
load_file, save_file = safetensors_torch.load_file, safetensors_torch.save_file

TEXT = (
    """You are in the kitchen. You see a wooden cupboard, a stove and 3 apples.
> open cupboard
You open the cupboard. Inside there are 12 plates, 250 forks and 2026 spoons.
It's a pity you don't have a knife; we'll need one, they've said so.
Straße, café, naïve, Ελληνικά, русский язык, 日本語のテキスト, emoji 🙂🚀.
def step(self, action):\n    return self.state[action]  # 0.5 + 1e-3\n
"""
    * 3
)

CORPUS = [
    "",
    " ",
    "Hello world",
    "  two  spaces   three\tand\t\ttabs ",
    "line\n\nbreaks\r\n\r\n  indented\n",
    "1 12 123 1234 12345.678 3.14e-10 ²³ ½ ٣٤",
    "I'm we'LL they'VE he'd IT'S 's 'x",
    "café Straße Ελληνικά русский 日本語 한국어 🙂🚀👩‍👩‍👧 \u200b\u00a0x",
    "a_b-c/d\\e {json: [1, 2]} <tag> (x!=y) && ||| ... ??? @#$%^&*",
    "<|im_start|>user\nlook around<|im_end|>\n<|im_start|>assistant\n",
    "plain<|im_end|><|im_end|> text <think> inside </think><|endoftext|>",
    "snake_case CamelCase ALLCAPS 3apples apples3 \x00\x01 end",
    "    def f(x):\n        return x  \n\n\n",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
MARKED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(regex: str):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE_TOKENIZERS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: _split(CONTRACTIONS + r"\p{N}{1,3}" + REST),
    "dbrx": lambda: _split(CONTRACTIONS + r"\p{N}{1,3}" + REST),
    "qwen2": lambda: _split(CONTRACTIONS + r"\p{N}" + REST),
    "qwen35": lambda: _split(MARKED + r"|\s*[\r\n]+|\s+(?!\S)|\s+"),
}


def make_tokenizer(pre: str, bos: bool = False):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if pre in ("qwen2", "qwen35"):
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    if bos:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="$A $B", special_tokens=[("<|endoftext|>", 0)]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>" if bos else None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# As in the larger models, several value heads to a key head.
QWEN35 = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LFM2 = {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3, "block_multiple_of": 32}
# name: (configuration, pre-tokenizer, what the configuration says beyond the sizes)
FAMILIES = {
    "llama-tied-llama3": (
        "Llama",
        "llama-bpe",
        {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True},
    ),
    "llama-untied": ("Llama", "smollm", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "qwen2": ("Qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", "qwen2", {"head_dim": 32, "rms_norm_eps": 1e-2}),
    "qwen35": ("Qwen3_5", "qwen35", QWEN35),
    "lfm2": ("Lfm2", "llama-bpe", LFM2),
}


def make_model(where: Path, kind: str, pre: str, hidden: int = 64, **more) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(pre, bos=pre == "llama-bpe")
    settings = {
        "vocab_size": len(tokenizer) + 9,  # padded, as real models are
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "initializer_range": 0.2,
    }
    config = getattr(transformers, f"{kind}{'Text' * (kind == 'Qwen3_5')}Config")(**(settings | more))
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a mistake
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """Return a function from a name in FAMILIES to (model directory, f32 GGUF), which makes each once."""
    models = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in models:
            kind, pre, more = FAMILIES[name]
            where = tmp_path_factory.mktemp("family") / name
            make_model(where, kind, pre, **more)
            export_model(where, where / "f32.gguf", dtype="f32")
            models[name] = where, where / "f32.gguf"
        return models[name]

    return get


def some_ids(where: Path, count: int = 40) -> list[int]:
    size = json.loads((where / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(0).integers(0, size, count).tolist()


def torch_logits(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].float().numpy()


def load(where: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)


def field(path: Path, key: str):
    entry = gguf.GGUFReader(path).get_field(key)
    return None if entry is None else entry.contents()


# --- whole models ---


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(family, name):
    where, file = family(name)
    ids = some_ids(where, 150)  # beyond the 64 positions of the llama3 scaling
    expected = torch_logits(load(where), ids)
    assert np.abs(expected).max() > 1  # the comparison would be empty on a model that says nothing
    assert np.abs(llama_logits(file, ids) - expected).max() < 1e-3


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32},
    ],
    ids=lambda rope: rope["rope_type"],
)
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_rope_scaling(tmp_path, kind, rope):
    where = make_model(tmp_path / "model", kind, "qwen2", rope_parameters=rope)
    export_model(where, tmp_path / "out.gguf", dtype="f32")
    ids = some_ids(where, 120)
    assert np.abs(llama_logits(tmp_path / "out.gguf", ids) - torch_logits(load(where), ids)).max() < 1e-3


def test_config_of_transformers_4_means_the_same(family, tmp_path):
    where, file = family("llama-tied-llama3")
    old = link_copy(where, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    rewrite(old / "config.json", config)
    export_model(old, tmp_path / "old.gguf", dtype="f32")
    assert (tmp_path / "old.gguf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.05), ("bf16", 0.3)])
def test_half_precision(family, tmp_path, dtype, tolerance):
    where, file = family("qwen3")
    summary = export_model(where, tmp_path / "half.gguf", dtype=dtype)
    assert summary["bytes"] == (tmp_path / "half.gguf").stat().st_size < file.stat().st_size
    ids = some_ids(where)
    assert np.abs(llama_logits(tmp_path / "half.gguf", ids) - llama_logits(file, ids)).max() < tolerance


def test_bf16_and_sharded_weights(family, tmp_path):
    where, _ = family("qwen2")
    model = load(where).to(torch.bfloat16)
    sharded = tmp_path / "sharded"
    model.save_pretrained(sharded, max_shard_size="100KB")
    make_tokenizer("qwen2").save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    export_model(sharded, tmp_path / "out.gguf", dtype="bf16")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    expected = model.state_dict()["model.layers.1.mlp.up_proj.weight"].float().numpy()
    stored = tensors["blk.1.ffn_up.weight"]
    assert np.array_equal(gguf.quants.dequantize(stored.data, stored.tensor_type), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [("q8_0", 0.05), ("q4_k_m", 0.6)])
def test_quantised(tmp_path, dtype, tolerance):
    """Tolerances are shares of the logits' standard deviation; 4 bits lose much of random weights."""
    where = make_model(tmp_path / "model", "Llama", "llama-bpe", hidden=256, initializer_range=0.05)
    summary = export_model(where, tmp_path / "out.gguf", dtype=dtype, metadata={"eexp.prompt_style": "plain"})
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == {"q8_0": "Q8_0", "q4_k_m": "Q4_K"}[dtype]
    assert summary == {
        "architecture": "llama",
        "tensors": len(kinds),
        "bytes": (tmp_path / "out.gguf").stat().st_size,
        "dtype": dtype,
    }
    assert read_header(tmp_path / "out.gguf").strings["eexp.prompt_style"] == "plain"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.gguf"]
    ids = some_ids(where)
    expected = torch_logits(load(where), ids)
    error = np.sqrt(np.mean((llama_logits(tmp_path / "out.gguf", ids) - expected) ** 2)) / expected.std()
    assert error < tolerance


def test_quantiser_leaves_the_log_as_it_was(family, tmp_path, capfd):
    lines = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text))
    where = family("qwen2")[0]
    capfd.readouterr()  # transformers' bar, where this test is the first to save that model
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    export_model(where, tmp_path / "out.gguf", dtype="q8_0")
    assert not lines and capfd.readouterr() == ("", "")
    assert not llama_cpp.llama_model_load_from_file(b"/nowhere", llama_cpp.llama_model_default_params())
    assert lines
    llama_logits(family("qwen2")[1], [1])  # puts another callback in before this one is collected


# --- tokenizers ---


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_token_ids_equal_transformers(tmp_path, pre):
    where = make_model(tmp_path / "model", "Llama", pre)
    export_model(where, tmp_path / "out.gguf", dtype="f16")
    assert field(tmp_path / "out.gguf", "tokenizer.ggml.pre") == pre
    tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    for special in (False, True):
        expected = [tokenizer(text, add_special_tokens=special)["input_ids"] for text in CORPUS]
        assert llama_tokens(tmp_path / "out.gguf", CORPUS, add_special=special) == expected


def test_vocabulary_and_chat_template(family):
    where, file = family("llama-tied-llama3")
    tokens, types = field(file, "tokenizer.ggml.tokens"), field(file, "tokenizer.ggml.token_type")
    kind = dict(zip(tokens, types, strict=True))
    assert (kind["<|im_end|>"], kind["<think>"], kind["Ġthe"], kind[tokens[-1]]) == (3, 4, 1, 5)
    assert len(tokens) == len(set(tokens)) == json.loads((where / "config.json").read_text())["vocab_size"]
    assert field(file, "tokenizer.chat_template") == CHAT_TEMPLATE
    assert field(file, "tokenizer.ggml.eos_token_id") == tokens.index("<|endoftext|>")
    assert field(file, "tokenizer.ggml.eot_token_id") == tokens.index("<|im_end|>")
    assert field(file, "tokenizer.ggml.add_bos_token") is True


@pytest.mark.parametrize(
    ("template", "eos", "eot"),
    [
        (CHAT_TEMPLATE, "<|endoftext|>", "<|im_end|>"),
        (CHAT_TEMPLATE, "<|im_end|>", None),
        (CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>"), "<|endoftext|>", None),
        (
            CHAT_TEMPLATE.replace("{{ message['content'] }}", "{% generation %}{{ message['content'] }}").replace(
                "<|im_end|>", "<|im_end|>{% endgeneration %}"
            ),
            "<|endoftext|>",
            "<|im_end|>",
        ),
        ("{{ raise_exception('no') }}", "<|endoftext|>", None),
        ("{% broken", "<|endoftext|>", None),
        ("", "<|endoftext|>", None),
    ],
)
def test_end_of_turn(family, tmp_path, template, eos, eot):
    where = link_copy(family("qwen2")[0], tmp_path / "changed")
    (where / "chat_template.jinja").unlink()
    (where / "chat_template.jinja").write_text(template)
    settings = json.loads((where / "tokenizer_config.json").read_text()) | {"eos_token": eos}
    rewrite(where / "tokenizer_config.json", settings)
    export_model(where, tmp_path / "out.gguf")
    tokens = field(tmp_path / "out.gguf", "tokenizer.ggml.tokens")
    assert field(tmp_path / "out.gguf", "tokenizer.ggml.eos_token_id") == tokens.index(eos)
    expected = None if eot is None else tokens.index(eot)
    assert field(tmp_path / "out.gguf", "tokenizer.ggml.eot_token_id") == expected


def test_merges_as_strings_and_template_in_the_settings(family, tmp_path):
    where, file = family("qwen2")
    old = link_copy(where, tmp_path / "old")
    tokenizer = json.loads((old / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    rewrite(old / "tokenizer.json", tokenizer)
    settings = json.loads((old / "tokenizer_config.json").read_text())
    settings["chat_template"] = (old / "chat_template.jinja").read_text()
    (old / "chat_template.jinja").unlink()
    rewrite(old / "tokenizer_config.json", settings)
    export_model(old, tmp_path / "old.gguf", dtype="f32")
    assert (tmp_path / "old.gguf").read_bytes() == file.read_bytes()


# --- adapters ---


def make_adapter(where: Path, base: Path, out: Path, **settings):
    """Save a LoRA adapter with random A and B on `base` in `out`; return the PEFT model."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(**({"target_modules": targets, "r": 4, "lora_alpha": 6} | settings))
    torch.manual_seed(1)
    model = peft.get_peft_model(load(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(out)
    return model


# The first pattern that matches counts. PEFT saves them sorted, so in another order than this one an adapter
# would already change on being loaded again.
PATTERNS = {
    "rank_pattern": {"q_proj": 8, r"layers\.1\.mlp\.up_proj": 2},
    "alpha_pattern": {"self_attn.v_proj": 20, "v_proj": 3, r"layers\.0\.mlp\.down_proj": 1},
}


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, PATTERNS, PATTERNS | {"use_rslora": True}, {"lora_alpha": 0} | PATTERNS],
    ids=["plain", "rslora", "patterns", "rslora-patterns", "alpha-0"],
)
@pytest.mark.parametrize("name", ["llama-untied", "qwen2"])
def test_adapter_equals_peft(family, tmp_path, name, settings):
    base, file = family(name)
    model = make_adapter(tmp_path, base, tmp_path / "adapter", **settings)
    summary = export_adapter(tmp_path / "adapter", tmp_path / "a.gguf", dtype="f32", metadata={"eexp.x": "y"})
    assert summary["tensors"] == 2 * 2 * 7
    assert read_header(tmp_path / "a.gguf").strings == {
        "general.architecture": summary["architecture"],
        "general.type": "adapter",
        "eexp.x": "y",
    }
    ids = some_ids(base)
    expected = torch_logits(model, ids)
    assert np.abs(expected - llama_logits(file, ids)).max() > 0.1  # the adapter does something
    assert np.abs(llama_logits(file, ids, tmp_path / "a.gguf") - expected).max() < 1e-3


def test_the_text_of_a_model_of_images_and_text(family, tmp_path):
    """Qwen3.5 is published with a part for images and one that drafts tokens, both of which are left out."""
    where, file = family("qwen35")
    whole = link_copy(where, tmp_path / "whole")
    config = json.loads((where / "config.json").read_text())
    composite = {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": config, "vision_config": {}}
    rewrite(whole / "config.json", composite | {"tie_word_embeddings": config["tie_word_embeddings"]})
    weights = load_file(where / "model.safetensors")
    renamed = {name.replace("model.", "model.language_model.", 1): values for name, values in weights.items()}
    more = {name: torch.zeros(3) for name in ("model.visual.patch_embed.bias", "mtp.norm.weight")}
    (whole / "model.safetensors").unlink()
    save_file(renamed | more, whole / "model.safetensors")
    export_model(whole, tmp_path / "whole.gguf", dtype="f32")
    assert (tmp_path / "whole.gguf").read_bytes() == file.read_bytes()


MIXERS = {
    "qwen35": [
        "in_proj_qkv",
        "in_proj_z",
        "in_proj_a",
        "in_proj_b",
        "out_proj",
        "o_proj",
        "q_proj",
        "k_proj",
        "v_proj",
    ],
    "lfm2": ["conv.in_proj", "out_proj", "q_proj", "k_proj", "v_proj", "w1", "w2", "w3"],
}


@pytest.mark.parametrize("name", MIXERS)
def test_adapter_of_recurrent_layers_equals_peft(family, tmp_path, name):
    base, file = family(name)
    model = make_adapter(tmp_path, base, tmp_path / "adapter", target_modules=MIXERS[name])
    export_adapter(tmp_path / "adapter", tmp_path / "a.gguf", dtype="f32")
    ids = some_ids(base)
    expected = torch_logits(model, ids)
    assert np.abs(llama_logits(file, ids, tmp_path / "a.gguf") - expected).max() < 1e-3
    assert np.abs(llama_logits(file, ids) - expected).max() > 0.1


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("qwen35", {"linear_value_head_dim": 8}, "keys and values of one size"),
        ("qwen35", {"layer_types": None}, "layer_types is missing"),
        ("lfm2", {"conv_bias": True}, "no place for the biases of conv_bias"),
        ("lfm2", {"layer_types": ["conv", "sliding_attention", "conv"]}, "a sliding attention window"),
    ],
)
def test_refuses_hybrid_model(family, tmp_path, name, changes, words):
    where = link_copy(family(name)[0], tmp_path / "model")
    rewrite(where / "config.json", {**json.loads((where / "config.json").read_text()), **changes})
    with pytest.raises(EexpError, match=words):
        export_model(where, tmp_path / "out.gguf")


def test_adapter_of_both_ends(family, tmp_path):
    base, file = family("llama-untied")
    model = make_adapter(tmp_path, base, tmp_path / "adapter", target_modules=["lm_head", "embed_tokens", "q_proj"])
    export_adapter(tmp_path / "adapter", tmp_path / "a.gguf", dtype="f32")
    ids = some_ids(base)
    assert np.abs(llama_logits(file, ids, tmp_path / "a.gguf") - torch_logits(model, ids)).max() < 1e-3
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    whole = next(name for name in trained if "lora" not in name)
    trained[whole] += 1
    save_file(trained, tmp_path / "adapter" / "adapter_model.safetensors")
    refuses("whole tensor", export_adapter, tmp_path / "adapter", tmp_path / "b.gguf")


# --- refusals ---


def rewrite(path: Path, value: dict) -> None:
    path.unlink()
    path.write_text(json.dumps(value))


def link_copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    return target


def refuses(words: str, call, *args, **kwargs) -> None:
    with pytest.raises(EexpError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert words in message and "\n" not in message
    output = Path(args[1])
    assert not output.exists() and not list(output.parent.glob(".*.part"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel can not be exported; supported: Llama"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_parameters": LLAMA3_ROPE}, "rope scaling 'llama3'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "has no place for model.layers.1."),
        ({"intermediate_size": 96}, "config.json says [96, 64]"),
        ({"vocab_size": 100}, "the embedding has 100 rows"),
        ({"hidden_size": None}, "hidden_size is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses_model(family, tmp_path, changes, words):
    where = link_copy(family("qwen2")[0], tmp_path / "changed")
    config = json.loads((where / "config.json").read_text()) | changes
    rewrite(where / "config.json", {key: value for key, value in config.items() if value is not None})
    if changes == {"vocab_size": 100}:
        (where / "model.safetensors").unlink()
        small = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**(config | {"architectures": None})))
        small.save_pretrained(where)
    refuses(words, export_model, where, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer"),
        (lambda t: t["model"].update(ignore_merges=True), "pre-tokenizer"),
        (lambda t: t["model"].update(byte_fallback=True), "SentencePiece"),
        (lambda t: t["model"].update(type="WordPiece"), "WordPiece"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda t: t["added_tokens"][0].update(lstrip=True), "lstrip"),
    ],
)
def test_refuses_tokenizer(family, tmp_path, change, words):
    where = link_copy(family("qwen2")[0], tmp_path / "changed")
    tokenizer = json.loads((where / "tokenizer.json").read_text())
    change(tokenizer)
    rewrite(where / "tokenizer.json", tokenizer)
    refuses(words, export_model, where, tmp_path / "out.gguf")


def test_refuses_missing_and_damaged_files(family, tmp_path):
    where = link_copy(family("qwen2")[0], tmp_path / "changed")
    output = tmp_path / "out.gguf"
    refuses("unknown dtype 'q2'", export_model, where, output, dtype="q2")
    refuses("No such file or directory", export_model, where, tmp_path / "no" / "where.gguf")
    weights = (where / "model.safetensors").read_bytes()
    (where / "model.safetensors").unlink()
    refuses("no model.safetensors", export_model, where, output)
    (where / "model.safetensors").write_bytes(weights[:-100])
    refuses("damaged", export_model, where, output)
    (where / "tokenizer.json").unlink()
    (where / "model.safetensors").write_bytes(weights)
    refuses("no tokenizer.json", export_model, where, output)
    (where / "config.json").unlink()
    refuses("no config.json", export_model, where, output)
    (where / "adapter_config.json").write_text("{}")
    refuses("this is an adapter", export_model, where, output)


def test_refuses_values_beyond_f16(family, tmp_path):
    where = link_copy(family("qwen2")[0], tmp_path / "changed")
    tensors = load_file(where / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()  # a copy of the tied one is fine
    (where / "model.safetensors").unlink()
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    refuses("too large for f16", export_model, where, tmp_path / "out.gguf")
    export_model(where, tmp_path / "out.gguf", dtype="bf16")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    refuses("lm_head.weight differs", export_model, where, tmp_path / "other.gguf", dtype="bf16")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"bias": "all"}, "bias='all'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"base_model_name_or_path": "someone/some-model"}, "not a local directory"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses_adapter(family, tmp_path, changes, words):
    adapter = tmp_path / "adapter"
    make_adapter(tmp_path, family("qwen2")[0], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    rewrite(adapter / "adapter_config.json", config | changes)
    refuses(words, export_adapter, adapter, tmp_path / "out.gguf")


def test_refuses_adapter_of_another_base(family, tmp_path):
    adapter, output = tmp_path / "adapter", tmp_path / "out.gguf"
    make_adapter(tmp_path, family("qwen2")[0], adapter)
    other = family("qwen3")[0]
    refuses("is that the model it was trained on?", export_adapter, adapter, output, base_dir=other)
    refuses("no config.json", export_adapter, adapter, output, base_dir=tmp_path)
    refuses("unknown dtype 'q8_0'", export_adapter, adapter, output, dtype="q8_0")
    make_adapter(tmp_path, family("qwen2")[0], adapter, target_modules=["embed_tokens"])
    refuses("shares with its other end", export_adapter, adapter, output)
    (adapter / "adapter_model.safetensors").unlink()
    refuses("no adapter_model.safetensors", export_adapter, adapter, output)


# --- metadata and files ---


def test_metadata_is_read_back(family, tmp_path):
    metadata = {
        "eexp.prompt_style": "chat",
        "eexp.empty": "",
        "eexp.base.fingerprint": "sha256:ä",
        "other": "x",
    }
    export_model(family("qwen2")[0], tmp_path / "out.gguf", metadata=metadata)
    del metadata["other"]
    assert read_header(tmp_path / "out.gguf").strings == metadata | {
        "general.architecture": "qwen2",
        "general.type": "model",
    }


def test_metadata_of_a_large_vocabulary_is_read_fast(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_token_list([f"token{number}" for number in range(150_000)])
    writer.add_token_types([1] * 150_000)
    writer.add_token_merges([f"a b{number}" for number in range(150_000)])
    writer.add_string("eexp.last", "here")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    start = time.process_time()
    assert read_header(tmp_path / "large.gguf").strings["eexp.last"] == "here"
    assert time.process_time() - start < 2


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + bytes(40), b"PK\x03\x04" + bytes(100)])
def test_metadata_of_something_else(tmp_path, data):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(EexpError, match="not a GGUF file"):
        read_header(tmp_path / "x.gguf")
    with pytest.raises(EexpError, match="No such file"):
        read_header(tmp_path / "missing.gguf")


def test_metadata_of_every_truncation(family, tmp_path):
    data = family("qwen2")[1].read_bytes()[:20_000]
    for size in (*range(0, 400, 7), 5_000, 10_000):
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        with pytest.raises(EexpError, match="not a GGUF file"):
            read_header(tmp_path / "cut.gguf")


def test_a_killed_export_leaves_the_old_file(family, tmp_path):
    where, _ = family("qwen2")
    output = tmp_path / "out.gguf"
    output.write_text("old")
    script = (
        "import os, signal, sys\nfrom eexp.gguf import convert\n"
        "convert._ordered = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert.export_model(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, str(where), str(output)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(root)})
    assert process.returncode == -signal.SIGKILL
    assert output.read_text() == "old"
    export_model(where, output)
    assert read_header(output).strings["general.architecture"] == "qwen2"


@pytest.mark.parametrize("offline", ["1", "0"])
def test_a_model_of_the_hub_is_downloaded(family, tmp_path, offline):
    """A name that is no directory is asked of the hub; here, of the cache that it has on disk.

    A hub that cannot be reached is the same as one that may not be asked.
    """
    cached = tmp_path / "hub" / "models--org--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    shutil.copytree(family("qwen2")[0], cached / "snapshots" / ("0" * 40))
    variables = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": offline}
    variables["HF_ENDPOINT"] = "http://127.0.0.1:1"
    command = [sys.executable, "-m", "eexp.cli", "export", "org/name", "-o", tmp_path / "model.gguf"]
    result = subprocess.run(command, env=environment(**variables), capture_output=True, text=True)
    assert result.returncode == 0 and "asking the Hugging Face hub" in result.stderr, result.stderr
    assert run("show", tmp_path / "model.gguf").ok().out.decode().splitlines()[-2:] == [
        "general.architecture: qwen2",
        "general.type: model",
    ]
    run("export", "no/name", "-o", tmp_path / "b.gguf").one_error(1, "no/name: no such directory, and no such model in")


def test_a_full_disk_is_one_line(tmp_path):
    """NumPy does not say why it stopped to write; here, no file may have more than 100 kB."""
    output = tmp_path / "model.gguf"
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", sys.executable, "-m", "eexp"]
    command = [*limited, "export", "tiny", "-o", str(output)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True)
    (message,) = result.stderr.splitlines()
    assert result.returncode == 1 and message.startswith(
        f"error: {output}: cannot be written whole; is the disk full? "
    )
    assert not list(tmp_path.iterdir())


def test_needs_no_torch(family, tmp_path):
    where, _ = family("qwen2")
    script = (
        "import sys\nfrom eexp.gguf.convert import export_model\nexport_model(*sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", script, str(where), str(tmp_path / "out.gguf")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root)})

"""The backends against each other: llama.cpp and transformers, on the tiny model."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from running import run

from eexp.envs.house import House
from eexp.errors import InputError
from eexp.models import open_model, split_adapter
from eexp.prompts import get_style
from eexp.stages.expert import expert

STYLE = get_style("react")


@pytest.fixture(scope="module")
def prompts() -> list[list[dict]]:
    """Every state of some house transcripts, put in words for acting, for predicting and with a list of actions."""
    house, made = House(), []
    for split in ("train", "ood"):
        for t in expert(house, islice(house.tasks(split), 3)):
            for i, step in enumerate(t["steps"]):
                state = t["instruction"], t["steps"][:i], step["observation"]
                made += [STYLE.act(*state), STYLE.world_model(*state, step["action"])]
                made.append(get_style("react-list").act(*state, step["admissible"]))
    return made


@pytest.fixture(scope="module")
def llama(tiny):
    with open_model(str(tiny), threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def hf():
    with open_model("hf:tiny") as made:
        yield made


def _hf_ids(hf, prompt) -> list[int]:
    return hf._tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]


def _hf_logprob(hf, prompt, text: str, finished: bool) -> float:
    """What transformers says of a text, one forward pass over prompt and text."""
    import torch

    ids = _hf_ids(hf, prompt)
    drawn = hf._tokenizer(text, add_special_tokens=False)["input_ids"]
    drawn += [hf._tokenizer.eos_token_id] if finished else []
    with torch.inference_mode():
        logits = hf._model(torch.tensor([ids + drawn])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(drawn))


def test_prompt_tokens_are_the_same(llama, hf, prompts):
    hard = [[{"role": "user", "content": text}] for text in
            ("", " ", "\n\n", "  two  blanks", "Ünïcödé 日本 🙂", "<|end|> inside <|assistant|>", "1234567", "a\tb",
             "A" * 300)]  # fmt: skip
    for prompt in prompts + hard:
        assert llama.prompt_ids(prompt) == _hf_ids(hf, prompt), prompt[-1]["content"]


def test_greedy_texts_are_the_same(llama, hf, prompts):
    for prompt in prompts[::9]:
        ours = llama.sample([prompt], 1, temperature=0, max_tokens=16, seeds=[0])[0][0]
        theirs = hf.sample([prompt], 1, temperature=0, max_tokens=16, seeds=[0])[0][0]
        assert (ours.text, ours.finished, ours.tokens) == (theirs.text, theirs.finished, theirs.tokens)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=0.02)


def _worst_logprob(llama, hf, prompts) -> float:
    """The largest difference to transformers' logprob of the same text, a token."""
    compared, worst = 0, 0.0
    for n, prompt in enumerate(prompts[::7]):
        for s in llama.sample([prompt], 3, temperature=1.0, max_tokens=14, seeds=[n])[0]:
            ids = hf._tokenizer(s.text, add_special_tokens=False)["input_ids"]
            if len(ids) == s.tokens:  # else the same text was written in other tokens
                compared += 1
                worst = max(worst, abs(s.logprob - _hf_logprob(hf, prompt, s.text, s.finished)) / (s.tokens + 1))
    assert compared > 20
    return worst


def test_logprobs_are_those_of_transformers(tiny, llama, hf, prompts, monkeypatch):
    """llama.cpp keeps keys and values in half precision. That is all of the difference: without it there is none."""
    assert _worst_logprob(llama, hf, prompts) < 4e-3
    import llama_cpp.llama_cpp as api

    defaults = api.llama_context_default_params

    def in_single_precision():
        params = defaults()
        params.type_k = params.type_v = api.GGML_TYPE_F32
        return params

    monkeypatch.setattr(api, "llama_context_default_params", in_single_precision)
    with open_model(str(tiny), threads=1) as exact:
        assert _worst_logprob(exact, hf, prompts) < 2e-5


def test_transformers_own_logprobs_are_at_temperature_one(hf, prompts):
    for temperature in (0.5, 1.0):
        for s in hf.sample([prompts[4]], 3, temperature=temperature, max_tokens=10, seeds=[1])[0]:
            if len(hf._tokenizer(s.text, add_special_tokens=False)["input_ids"]) == s.tokens:
                assert s.logprob == pytest.approx(_hf_logprob(hf, prompts[4], s.text, s.finished), abs=1e-3)


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_seeds_decide(backend, prompts, request):
    model = request.getfixturevalue(backend)

    def draw(prompt, seed, n=4, temperature=3.0):  # hot, so that a model which is sure of itself varies, too
        return model.sample([prompt], n, temperature=temperature, max_tokens=12, seeds=[seed])[0]

    assert draw(prompts[5], 1) == draw(prompts[5], 1)
    assert draw(prompts[5], 1) != draw(prompts[5], 2)
    assert len({s.text for s in draw(prompts[0], 1, n=12)}) > 1, "the n draws differ"
    assert len({s.text for s in draw(prompts[0], 1, n=3, temperature=0)}) == 1
    both = model.sample(prompts[:2], 2, temperature=3.0, max_tokens=12, seeds=[1, 2])
    assert both == [draw(prompts[0], 1, n=2), draw(prompts[1], 2, n=2)]


def test_what_was_sampled_before_changes_nothing(tiny, prompts):
    """The cache of the prompts' common beginning must not show in a draw, not even in the last digit of a logprob."""

    def draw(model, i):
        return model.sample([prompts[i]], 5, temperature=2.0, max_tokens=12, seeds=[i])[0]

    some = list(range(0, len(prompts), 5))
    fresh = {}
    with open_model(str(tiny), threads=1) as model:
        for i in some:
            model._forget()
            fresh[i] = draw(model, i)
        for order in (some, some[::-1], random.Random(0).sample(some, len(some))):
            assert all(draw(model, i) == fresh[i] for i in order)
    with open_model(str(tiny), threads=1) as model:
        assert draw(model, some[-1]) == fresh[some[-1]]


def test_samples_are_distributed_as_the_model_says(llama, prompts):
    """The first token's frequencies against its probabilities (chi-squared)."""
    import numpy as np
    from scipy import stats

    drawn = llama.sample([prompts[3]], 600, temperature=1.0, max_tokens=1, seeds=[7])[0]
    assert len(drawn) == 600
    probability = {s.text: np.exp(s.logprob) for s in drawn if not s.finished}
    seen = {text: sum(s.text == text for s in drawn) for text in probability}
    common = [t for t in seen if probability[t] * 600 > 8]
    counts = [seen[t] for t in common] + [600 - sum(seen[t] for t in common)]
    chances = [probability[t] for t in common]
    expected = [600 * p for p in chances] + [600 * (1 - sum(chances))]
    if expected[-1] < 1:
        counts, expected = counts[:-1], [e * sum(counts[:-1]) / sum(expected[:-1]) for e in expected[:-1]]
    assert len(counts) == 1 or stats.chisquare(counts, expected).pvalue > 1e-4


def test_many_samples_and_a_small_context(tiny, prompts):
    """More draws than fit at once are drawn in waves; each has its own seed, so the waves change nothing."""
    length = None
    with open_model(str(tiny), threads=1) as model:
        length = len(model.prompt_ids(prompts[0]))
        wide = model.sample([prompts[0]], 40, temperature=3.0, max_tokens=8, seeds=[3])[0]
    with open_model(str(tiny), threads=1, context=length + 20) as model:
        narrow = model.sample([prompts[0]], 40, temperature=3.0, max_tokens=8, seeds=[3])[0]
        assert [s.text for s in narrow] == [s.text for s in wide] and len(wide) == 40
        with pytest.raises(InputError, match=f"the prompt has {length} tokens"):
            model.sample([prompts[0]], 1, temperature=0, max_tokens=21, seeds=[0])
        exact = model.sample([prompts[0]], 2, temperature=1.0, max_tokens=20, seeds=[0])
        assert len(exact[0]) == 2


def test_closing_twice_and_never_is_safe(tiny, prompts):
    model = open_model(str(tiny), threads=1)
    model.close()
    model.close()
    open_model(str(tiny), threads=1)


def test_the_built_in_model_and_its_file_are_one(tiny, llama, prompts):
    with open_model("tiny", threads=1) as model:
        assert model.fingerprint == llama.fingerprint
        ask = dict(temperature=0, max_tokens=8, seeds=[0])
        assert model.sample(prompts[:1], 1, **ask) == llama.sample(prompts[:1], 1, **ask)


def test_a_plus_sign_in_a_name(tmp_path):
    file = tmp_path / "a+b.gguf"
    assert split_adapter(str(file)) == (f"{tmp_path}/a", "b.gguf")
    file.touch()
    assert split_adapter(str(file)) == (str(file), None)
    assert split_adapter(f"{file}+c.gguf") == (str(file), "c.gguf")
    assert split_adapter("x.gguf") == ("x.gguf", None)


# -- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(data, tmp_path_factory):
    """An adapter that was trained enough to matter: (PEFT directory, GGUF file)."""
    here = tmp_path_factory.mktemp("adapter")
    run("finetune", "-q", "-m", "tiny", "-o", here / "peft", "--lr", 0.02, "--max-steps", 4, "--batch-size", 4,
        "--rank", 4, data["imitation"]).ok()  # fmt: skip
    run("export", "-q", here / "peft", "-o", here / "adapter.gguf").ok()
    return here / "peft", here / "adapter.gguf"


def test_adapters_are_applied_alike(adapter, tiny, llama, hf, prompts):
    peft, gguf = adapter
    with open_model(f"{tiny}+{gguf}", threads=1) as ours, open_model(f"hf:tiny+{peft}") as theirs:
        differs = 0
        for n, prompt in enumerate(prompts[::12]):
            for s in ours.sample([prompt], 2, temperature=1.0, max_tokens=12, seeds=[n])[0]:
                if len(hf._tokenizer(s.text, add_special_tokens=False)["input_ids"]) == s.tokens:
                    expected = _hf_logprob(theirs, prompt, s.text, s.finished)
                    assert abs(s.logprob - expected) / (s.tokens + 1) < 2e-3
                    differs = max(differs, abs(expected - _hf_logprob(hf, prompt, s.text, s.finished)))
        assert differs > 0.1, "the adapter does nothing"
        assert ours.prompt_style == theirs.prompt_style == STYLE.label
        assert ours.fingerprint != llama.fingerprint and theirs.fingerprint != hf.fingerprint


def test_an_adapter_alone_finds_its_base(adapter, prompts):
    with open_model(f"hf:{adapter[0]}") as alone, open_model(f"hf:tiny+{adapter[0]}") as both:
        assert alone.fingerprint == both.fingerprint
        ask = dict(temperature=0, max_tokens=8, seeds=[0])
        assert alone.sample(prompts[:1], 1, **ask) == both.sample(prompts[:1], 1, **ask)
    with open_model(str(adapter[0])) as bare:
        assert bare.fingerprint == alone.fingerprint


def test_eval_plays_an_adapter_under_its_own_style(adapter):
    args = ["eval", "house", "-n", 1, "--max-steps", 2, "--max-tokens", 8, "--threads", 1, "-m", f"tiny+{adapter[1]}"]
    assert run(*args).ok().records[0]["prompt_style"] == STYLE.label
    done = run(*args, "--prompt-style", "react-list").ok()
    assert "though the model was trained with react@" in done.err
    assert done.records[0]["prompt_style"].startswith("react-list@")

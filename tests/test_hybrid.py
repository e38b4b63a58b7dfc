"""Models with recurrent layers, whose sequences cannot be cut: their answers are those of plain forward passes,
whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from test_gguf_export import FAMILIES, make_model

from eexp.gguf.convert import export_model
from eexp.models import Engine, open_model
from eexp.models.base import Draw, Sample, Score
from eexp.prompts import Messages

EXACT = Engine(cache="f32", threads=1, context=400)
KINDS = ["qwen35", "lfm2"]
WORDS = ["look", "open the cupboard", "take 3 apples", "go to the kitchen", "wait"]


@pytest.fixture(scope="session")
def hybrids(tmp_path_factory) -> dict[str, Path]:
    """Return the directory of a tiny random model of each kind, with a GGUF file of it."""
    where = tmp_path_factory.mktemp("hybrids")
    for name in KINDS:
        kind, pre, more = FAMILIES[name]
        make_model(where / name, kind, pre, **more)
        export_model(where / name, where / f"{name}.gguf", dtype="f32")
    return {name: where / name for name in KINDS}


@pytest.fixture(scope="module", params=[(kind, backend) for kind in KINDS for backend in ("llama", "hf")], ids="-".join)
def spec(request, hybrids) -> str:
    kind, backend = request.param
    return f"hf:{hybrids[kind]}" if backend == "hf" else f"{hybrids[kind]}.gguf"


@pytest.fixture(scope="module")
def model(spec):
    with open_model(spec, EXACT) as model:
        yield model


@pytest.fixture(scope="module")
def plain(spec):
    """Return the model of transformers, without a cache."""
    where = spec.removeprefix("hf:").removesuffix(".gguf")
    return transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval()


def chats() -> list[Messages]:
    """Return 32 prompts: an episode that grows, others with the same beginning, equal ones and shorter ones."""
    system, chats = {"role": "system", "content": "You are in a house. " * 3}, []
    for episode in range(4):
        chat = [system, {"role": "user", "content": f"Task {episode % 3}"}]
        for turn in range(6):
            chats.append(list(chat))
            chat.append({"role": "assistant", "content": WORDS[(episode + turn) % 5]})
            chat.append({"role": "user", "content": f"You see {turn} apples."})
    return chats + chats[5:13]


def draws(**how) -> list[Draw]:
    return [Draw(**{**dict(prompt=chat, n=3, max_tokens=8, seed=i), **how}) for i, chat in enumerate(chats())]


def kinds_of_requests() -> dict[str, list[Draw | Score]]:
    refusing = dict(distinct=True, most=9, min_p=0.01, accept=lambda sample: len(sample.text) % 3 > 0)
    return {
        "greedy": draws(n=1, temperature=0),
        "independent": draws(),
        "distinct": draws(distinct=True),
        "refusing": draws(**refusing),
        "score": [Score(chat, WORDS[i % 4 :]) for i, chat in enumerate(chats())],
    }


def texts(answers: list[list[Sample]]) -> list[list[tuple]]:
    return [[(s.text, s.tokens, s.finished) for s in answer] for answer in answers]


def logprobs(answers: list[list[Sample]]) -> list[float]:
    return [s.logprob for answer in answers for s in answer]


def logprobs_after(plain, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities of the vocabulary before each of `ids` and after the last."""
    with torch.inference_mode():
        return plain(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :].double().log_softmax(-1)


def test_scores_are_those_of_a_plain_forward_pass(model, plain):
    requests = [Score(chat, WORDS) for chat in chats()[:8]]
    for request, answer in zip(requests, model.ask(requests)):
        for sample in answer:
            ids = model.completion(sample.text)
            after = logprobs_after(plain, model.prompt_ids(request.prompt), ids)
            assert list(sample.logprobs) == pytest.approx([float(after[i, t]) for i, t in enumerate(ids)], abs=1e-4)


def test_greedy_tokens_are_those_of_a_plain_forward_pass(model, plain):
    requests = draws(n=1, temperature=0)[::4]
    for request, (sample,) in zip(requests, model.ask(requests)):
        prompt, ids, total = model.prompt_ids(request.prompt), [], 0.0
        for _ in range(8):
            last = logprobs_after(plain, prompt, ids)[-1]
            ids.append(int(last.argmax()))
            total += float(last.max())
        assert sample.text == model.text(ids) and sample.logprob == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("how", ["greedy", "independent", "distinct", "refusing", "score"])
def test_a_request_is_answered_alone_as_among_31_others(model, how):
    requests = kinds_of_requests()[how]
    among = model.ask(requests)
    alone = [model.ask([one])[0] for one in requests[::5]]
    assert len(requests) == 32 and texts(alone) == texts(among[::5])
    assert logprobs(alone) == pytest.approx(logprobs(among[::5]), abs=1e-3)
    if how in ("distinct", "refusing"):
        assert all(len({s.text for s in answer}) == len(answer) for answer in among)

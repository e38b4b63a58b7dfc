"""Models with recurrent layers, whose sequences cannot be cut: their answers are those of plain forward passes,
whatever else is in the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from running import run, write
from tables import Letters, StateTableDecoder, Table, TableDecoder
from test_gguf_export import FAMILIES, make_model

from eexp.gguf.convert import export_model
from eexp.models import Engine, open_model
from eexp.models.backends.llama_cpp import LlamaCppModel
from eexp.models.base import Draw, Sample, Score
from eexp.models.engine.in_flight import SequenceEpisodes
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
        make_model(where / name, kind, pre, max_position_embeddings=4096, **more)
        export_model(where / name, where / f"{name}.gguf", dtype="f32")
    return {name: where / name for name in KINDS}


@pytest.fixture(scope="module", params=[("qwen35", "llama"), ("qwen35", "hf"), ("lfm2", "llama")], ids="-".join)
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
    refusing = dict(distinct=True, most=9, max_tokens=2, min_p=0.1, accept=lambda sample: len(sample.text) % 3 > 0)
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
    model.counts.clear()
    among = model.ask(requests)
    if how != "refusing":  # which draws more texts than there is memory for
        assert not model.counts["text[s] evaluated again, for want of memory"]
    alone = [model.ask([one])[0] for one in requests[::7]]
    assert len(requests) == 32 and texts(alone) == texts(among[::7])
    assert logprobs(alone) == pytest.approx(logprobs(among[::7]), abs=1e-3)
    if how in ("distinct", "refusing"):
        # Several rows of tokens may spell one text; their log-probabilities differ.
        assert all(len({(s.text, s.logprob) for s in answer}) == len(answer) for answer in among)


def test_shared_tokens_of_prompts_are_evaluated_once(model):
    model.counts.clear()
    model.ask(draws(n=1, temperature=0, max_tokens=1)[:6])
    prompts = [model.prompt_ids(chat) for chat in chats()[:6]]
    assert model.counts["prompt tokens evaluated"] == len(prompts[-1])


# -- episodes --------------------------------------------------------------------------------------------------------


def play(
    episodes: SequenceEpisodes, prompt_of: Callable[[int, list[list[int]], list[int]], list[int]], turns: int
) -> list[list[tuple[list[int], Sample]]]:
    """Play episodes in flight; return each one's prompts and answers.

    Args:
        prompt_of: Returns the next prompt from the episode, its prompts and the letters of its latest answer.
    """
    played: list[list[tuple[list[int], Sample]]] = [[] for _ in range(episodes.n)]

    def ask(episode: int) -> None:
        before = played[episode]
        answer = Letters().completion(before[-1][1].text)[:-1] if before else []
        prompt = prompt_of(episode, [prompt for prompt, _ in before], answer)
        prompts[episode] = prompt
        episodes.submit(episode, Draw(prompt, max_tokens=6, seed=len(before)))

    prompts: dict[int, list[int]] = {}
    for episode in range(episodes.n):
        ask(episode)
    while any(len(own) < turns for own in played):
        for episode, answer in episodes.wait():
            played[episode].append((prompts[episode], answer[0]))
            if len(played[episode]) < turns:
                ask(episode)
    return played


START, HEADER = [1, 2, 3, 4, 5, 6] * 4, [7, 7]
HISTORIES: dict[str, Callable[[int, list[list[int]], list[int]], list[int]]] = {
    # The prompt before, the answer, an observation.
    "grows": lambda episode, before, answer: [*(before[-1] if before else START), *answer, 1 + episode, 2],
    # The end of a prompt, which asks for the answer, is not in the next one.
    "rewritten": lambda episode, before, answer: [*(before[-1][:-2] if before else START), *answer, 3, *HEADER],
    # The latest step alone is shown after what all prompts share.
    "latest": lambda episode, before, answer: [*START, *answer, 1 + len(before) % 5, 4, 5],
    # Anything at all.
    "random": lambda episode, before, answer: START[: 1 + 5 * len(before) * (episode + 2) % 20] + answer + [2],
}


@pytest.mark.parametrize("history", HISTORIES)
def test_episodes_are_answered_as_if_asked_anew(history):
    table, evaluated = Table(5), {}
    for kind in (TableDecoder, StateTableDecoder):
        decoder = kind(table, 5, 9999, 16, 16)
        episodes = SequenceEpisodes(
            SimpleNamespace(counts=Counter()), decoder, Letters(), lambda request: request.prompt
        )
        played = play(episodes, HISTORIES[history], 6)
        for own in played:
            for turn, (prompt, answer) in enumerate(own):
                assert [answer] == table.answer(prompt, Draw([], max_tokens=6, seed=turn))
        evaluated[kind] = episodes.evaluated
    # Each episode learns where its prompts leave each other, at the cost of the second prompt.
    more = {"grows": 0, "rewritten": 5 * len(START) + 20, "latest": 5 * len(START) + 10}.get(history, 9999)
    assert evaluated[TableDecoder] <= evaluated[StateTableDecoder] <= evaluated[TableDecoder] + more


def test_episodes_of_a_model_are_answered_as_if_asked_anew(model):
    if not isinstance(model, LlamaCppModel):
        pytest.skip("episodes of transformers are asked anew")
    episodes, chat_of = model.episodes(4), dict(enumerate([chats()[0][0]] for _ in range(4)))
    turns: Counter[int] = Counter()
    model.counts.clear()

    def ask(episode: int, observation: str) -> None:
        chat_of[episode] = [*chat_of[episode], {"role": "user", "content": observation}]
        request = Draw(chat_of[episode], max_tokens=6, seed=episode, prefix="<think>" if episode % 2 else "")
        asked.append((episode, request))
        episodes.submit(episode, request)

    asked: list[tuple[int, Draw]] = []
    answers: dict[int, list[Sample]] = {i: [] for i in range(4)}
    for episode in range(4):
        ask(episode, f"Task {episode}")
    while min(turns.values(), default=0) < 3 or len(turns) < 4:
        for episode, answer in episodes.wait():
            turns[episode] += 1
            answers[episode] += answer
            if turns[episode] < 3:
                chat_of[episode] = [*chat_of[episode], {"role": "assistant", "content": WORDS[episode]}]
                ask(episode, f"You see {turns[episode]} apples.")
    episodes.close()
    evaluated = model.counts["text tokens evaluated"]
    for episode in range(4):
        anew = [model.ask([request])[0][0] for asker, request in asked if asker == episode]
        assert texts([answers[episode]]) == texts([anew])
        assert logprobs([answers[episode]]) == pytest.approx(logprobs([anew]), abs=1e-3)
    assert evaluated < sum(len(model._fitting(request)) for _, request in asked)


# -- commands --------------------------------------------------------------------------------------------------------


def test_branch_and_eval_with_a_hybrid_model(hybrids, tmp_path):
    model = f"{hybrids['qwen35']}.gguf"
    expert = run("expert", "house", "-n", "1").ok().records
    expert[0]["steps"] = expert[0]["steps"][:2]
    more = ("--threads", "1", "--context", "4000")
    result = run("branch", "-m", model, "-k", "2", "--max-tokens", "4", *more, write(tmp_path / "expert", expert)).ok()
    assert [step["alternatives"] for step in result.records[0]["steps"]]
    played = run("eval", "house", "-m", model, "-n", "2", "--max-steps", "2", "--max-tokens", "4", *more).ok().records
    assert [episode["steps"] for episode in played] == [2, 2]

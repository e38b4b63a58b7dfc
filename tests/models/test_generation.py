"""Groups of requests through real models: llama.cpp and transformers against each other and against a plain forward
pass, each group against itself alone, in any order, and with hardly any memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from running import run
from scipy import stats

from eexp.acting.expert import expert
from eexp.envs.worlds.house import House
from eexp.errors import EexpError, InputError
from eexp.models import Engine, open_model
from eexp.models.base import Draw, Sample, Score
from eexp.models.engine.nodes import allowed_tokens
from eexp.prompts import Messages, get_style
from eexp.prompts.chat_template import render_chat
from eexp.records.runs import split_adapter

STYLE = get_style("react")
EXACT = Engine(cache="f32", threads=1)  # single precision, as transformers has it here
FALSE_ALARM = 1e-4


@pytest.fixture(scope="module")
def states() -> list[dict]:
    """Return the states of some house transcripts: prompt, admissible actions and the expert's action."""
    house, states = House(), []
    for split in ("train", "ood"):
        for t in expert(house, islice(house.tasks(split), 3)):
            for i, step in enumerate(t["steps"]):
                prompt = STYLE.act(t["instruction"], t["steps"][:i], step["observation"])
                states.append(
                    {
                        "prompt": prompt,
                        "actions": [STYLE.answer(a).text for a in step["admissible"]],
                        "expert": STYLE.answer(step["action"]).text,
                        "step": step,
                        "before": t["steps"][:i],
                        "instruction": t["instruction"],
                    }
                )
    return states


@pytest.fixture(scope="module")
def llama(tiny):
    with open_model(str(tiny), EXACT) as model:
        yield model


@pytest.fixture(scope="module")
def hf():
    with open_model("hf:tiny") as model:
        yield model


def plain_logprobs(hf, prompt: Messages, completions: list[list[int]]) -> list[float]:
    """Return log-probabilities by transformers, from one forward pass over prompt and completion, without a cache."""
    import torch

    ids, logprobs = hf.prompt_ids(prompt), []
    for completion in completions:
        with torch.inference_mode():
            logits = hf._model(torch.tensor([ids + completion])).logits[0].float().log_softmax(-1)
        logprobs.append(sum(float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(completion)))
    return logprobs


def texts(answers: list[list[Sample]]) -> list[list[tuple]]:
    return [[(s.text, s.tokens, s.finished) for s in answer] for answer in answers]


def logprobs(answers: list[list[Sample]]) -> list[float]:
    return [s.logprob for answer in answers for s in answer]


def some_draws(states: list[dict], **how) -> list[Draw]:
    return [
        Draw(**{**dict(prompt=s["prompt"], n=4, temperature=2.0, max_tokens=12, seed=i), **how})
        for i, s in enumerate(states)
    ]


def branching(states: list[dict]) -> list[Draw]:
    """Return requests like those of `eexp branch`: other actions than the expert's, above a floor."""

    def others(state: dict) -> Callable[[Sample], bool]:
        return lambda sample: sample.text != state["expert"]

    how = dict(n=3, temperature=1.0, max_tokens=12, most=9, distinct=True, min_p=0.02)
    return [Draw(s["prompt"], **how, seed=i, accept=others(s), contends=others(s)) for i, s in enumerate(states)]


# -- the backends against each other ---------------------------------------------------------------------------------


def test_tokens_are_the_same(llama, hf, states):
    hard = [
        "",
        " ",
        "\n\n",
        "  two  blanks",
        "Ünïcödé 日本 🙂",
        "<end> inside <assistant|",
        "1234567",
        "a\tb",
        "A" * 300,
    ]
    prompts = [[{"role": "user", "content": text}] for text in hard] + [s["prompt"] for s in states]
    for s in states[::3]:
        prompts.append(STYLE.world_model(s["instruction"], s["before"], s["step"]["observation"], s["step"]["action"]))
        prompts.append(
            get_style("react-list").act(
                s["instruction"], s["before"], s["step"]["observation"], s["step"]["admissible"]
            )
        )
    for prompt in prompts:
        of_transformers = hf._tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        assert llama.prompt_ids(prompt) == hf.prompt_ids(prompt) == of_transformers["input_ids"]
    for text in hard + [action for s in states[::3] for action in s["actions"]]:
        ids = hf.completion(text)
        assert llama.completion(text) == ids
        assert hf.is_end(ids[-1]) and llama.is_end(ids[-1])
        assert llama.text(ids[:-1]) == hf.text(ids[:-1])
    assert {t for t in range(llama._base.n_vocab) if llama.is_end(t)} == {
        t for t in range(llama._base.n_vocab) if hf.is_end(t)
    }


def test_scores_are_those_of_a_plain_forward_pass(llama, hf, states):
    """Both backends score a trie of completions in one memory; the largest difference in a token was below 1e-5."""
    some = states[::5]
    requests = [Score(s["prompt"], [*s["actions"], "", s["expert"], "words that were never heard"]) for s in some]
    for by_llama, by_hf, request in zip(llama.ask(requests), hf.ask(requests), requests):
        plain = plain_logprobs(hf, request.prompt, [hf.completion(text) for text in request.completions])
        assert [s.text for s in by_llama] == [s.text for s in by_hf] == list(request.completions)
        for one, other, expected in zip(by_llama, by_hf, plain):
            assert one.tokens == other.tokens == len(hf.tokenize(one.text))
            assert abs(one.logprob - expected) < 1e-4 * (one.tokens + 1)
            assert abs(other.logprob - expected) < 1e-4 * (one.tokens + 1)


def test_half_precision_changes_scores_little(tiny, hf, states):
    """Half precision is llama.cpp's default for keys and values."""
    requests = [Score(s["prompt"], s["actions"]) for s in states[::5]]
    with open_model(str(tiny), Engine(threads=1)) as half:
        answers = half.ask(requests)
    for answer, expected in zip(answers, hf.ask(requests)):
        assert all(abs(a.logprob - b.logprob) < 4e-3 * (a.tokens + 1) for a, b in zip(answer, expected))


@pytest.mark.parametrize("how", ["independent", "distinct", "refusing", "greedy"])
def test_the_backends_draw_the_same_texts(llama, hf, states, how):
    """Seeds are equal. Rounding differs in the last digits, so a draw that falls between two tokens may differ.
    Of 50 requests none did here; two are let pass, since other processors round in other ways.
    """
    requests = {
        "independent": some_draws(states),
        "distinct": some_draws(states, distinct=True, temperature=1.0),
        "refusing": branching(states),
        "greedy": some_draws(states, temperature=0, n=1),
    }[how]
    ours, theirs = llama.ask(requests), hf.ask(requests)
    same = [i for i, (a, b) in enumerate(zip(texts(ours), texts(theirs))) if a == b]
    assert len(same) >= len(requests) - 2
    assert logprobs([ours[i] for i in same]) == pytest.approx(logprobs([theirs[i] for i in same]), abs=1e-3)
    if how != "greedy":
        assert any(len(set(answer)) > 1 for answer in texts(ours))


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_logprobs_of_draws_are_at_temperature_one(backend, hf, states, request):
    model = request.getfixturevalue(backend)
    for temperature in (0, 0.7, 2.0):
        for draw in some_draws(states[:20:5], temperature=temperature, n=2):
            for s in model.ask([draw])[0]:
                ids = model.tokenize(s.text)
                if len(ids) == s.tokens:  # else the same text was written in other tokens
                    ids = model.completion(s.text) if s.finished else ids
                    assert s.logprob == pytest.approx(plain_logprobs(hf, draw.prompt, [ids])[0], abs=1e-3)


# -- what is drawn ---------------------------------------------------------------------------------------------------


def exact_probabilities(hf, prompt: Messages, allowed: list[str]) -> dict[str, float]:
    """Allowed texts are written token by token; their log-probabilities equal those of plain forward passes."""
    import torch

    ids = hf.prompt_ids(prompt)

    def among(beginning: list[int], trie: dict[int, dict]) -> dict[int, float]:
        with torch.inference_mode():
            logits = hf._model(torch.tensor([ids + beginning])).logits[0, -1].double()
        return dict(zip(trie, torch.softmax(logits[list(trie)], 0).tolist()))

    probabilities = {}
    for text in allowed:
        here, probability, tokens = allowed_tokens(allowed, hf), 1.0, hf.completion(text)
        for i, token in enumerate(tokens):
            probability *= among(tokens[:i], here)[token]
            here = here[token]
        probabilities[text] = probability
    return probabilities


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_texts_are_drawn_as_often_as_their_probabilities_say(backend, hf, states, request):
    """Two of a few texts are drawn without replacement, by a real model through a real memory, in groups."""
    model, n = request.getfixturevalue(backend), 240
    prompt = states[2]["prompt"]
    allowed = ["Action: go to lounge", "Action: go to bedroom", "Action: open cupboard", "Action: go", "I wait"]
    p = exact_probabilities(hf, prompt, allowed)
    assert sum(p.values()) == pytest.approx(1)
    how = dict(prompt=prompt, temperature=1.0, max_tokens=20, allowed=allowed)
    pairs = [
        [s.text for s in answer]
        for seed in range(0, n, 60)
        for answer in model.ask([Draw(**how, n=2, seed=seed + i, distinct=True) for i in range(60)])
    ]
    assert all(len(set(two)) == 2 for two in pairs)
    included = {a: p[a] + sum(p[b] * p[a] / (1 - p[b]) for b in p if b != a) for a in p}
    independent = Counter(s.text for s in model.ask([Draw(**how, n=n, seed=1)])[0])
    for counts, expected in ((Counter(t for two in pairs for t in two), included), (independent, p)):
        for text, chance in expected.items():
            assert stats.binomtest(counts[text], n, min(chance, 1.0)).pvalue > FALSE_ALARM / (4 * len(p)), text
    assert len(independent) > 1 and np.ptp(list(included.values())) < 1, "there is something to draw"


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_refused_texts_are_replaced(backend, states, request):
    model, judged = request.getfixturevalue(backend), []

    def accept(sample: Sample) -> bool:
        judged.append(sample)
        return sample.text.startswith("Action: go")

    how = dict(prompt=states[0]["prompt"], temperature=1.5, max_tokens=10, seed=3)
    for distinct in (False, True):
        judged.clear()
        (samples,) = model.ask([Draw(**how, n=3, accept=accept, most=60, distinct=distinct)])
        assert samples == [s for s in judged if s.text.startswith("Action: go")] and len(samples) == 3
        (all_of_them,) = model.ask([Draw(**how, n=len(judged), distinct=distinct)])
        assert texts([all_of_them]) == texts([judged])
        judged.clear()
        model.ask([Draw(**how, n=3, accept=accept, most=4, distinct=distinct)])
        assert len(judged) <= 4 and texts([judged]) == texts([all_of_them[: len(judged)]])


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_all_allowed_texts_are_found(backend, states, request):
    for state in states[:12:4]:
        ask = Draw(state["prompt"], n=99, temperature=1.0, max_tokens=30, distinct=True, allowed=state["actions"])
        (samples,) = request.getfixturevalue(backend).ask([ask])
        assert sorted(s.text for s in samples) == sorted(set(state["actions"])) and all(s.finished for s in samples)


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_greedy_and_cut_texts(backend, states, request):
    model = request.getfixturevalue(backend)
    three, one = (model.ask([Draw(states[0]["prompt"], n=n, temperature=0, max_tokens=12)])[0] for n in (3, 1))
    assert three == one * 3 and one[0].finished
    (cut,) = model.ask([Draw(states[0]["prompt"], n=2, temperature=0, max_tokens=one[0].tokens - 1)])[0][:1]
    assert not cut.finished and cut.tokens == one[0].tokens - 1 and one[0].text.startswith(cut.text)
    (edge,) = model.ask([Draw(states[0]["prompt"], n=1, temperature=0, max_tokens=one[0].tokens)])[0]
    assert not edge.finished and edge.text == one[0].text, "the stop token did not fit in"


# -- each for itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_a_state_is_answered_alone_as_among_many(backend, states, request):
    model = request.getfixturevalue(backend)
    requests = [r for two in zip(branching(states), some_draws(states, n=2)) for r in two][:64]
    among = model.ask(requests)
    alone = [model.ask([one])[0] for one in requests[::12]]
    assert texts(alone) == texts(among[::12])
    assert logprobs(alone) == pytest.approx(logprobs(among[::12]), abs=1e-3)


def test_earlier_groups_change_nothing(tiny, llama, states):
    """Log-probabilities are equal to the last digit, with keys and values in half precision as well."""
    groups = [
        branching(states[i : i + 3]) + [Score(s["prompt"], s["actions"]) for s in states[i : i + 1]]
        for i in range(0, 25, 5)
    ]
    with open_model(str(tiny), Engine(threads=1)) as half:
        for model in (llama, half):
            first = list(model.answer(groups))
            for order in ([4, 3, 2, 1, 0], random.Random(0).sample(range(5), 5)):
                assert list(model.answer([groups[i] for i in order])) == [first[i] for i in order]
    with open_model(str(tiny), Engine(threads=1)) as fresh:
        assert list(fresh.answer(groups[3:4])) == first[3:4]


@pytest.mark.parametrize("spec", ["tiny", "hf:tiny"])
def test_texts_are_the_same_with_little_memory(spec, states):
    some = states[:12]
    requests = (
        branching(some) + some_draws(some, n=12, temperature=3.0) + [Score(s["prompt"], s["actions"]) for s in some]
    )
    with open_model(spec, EXACT) as model:
        ample = model.ask(requests)
        length = max(len(model.prompt_ids(s["prompt"])) for s in some)
        assert not model.counts["text[s] evaluated again, for want of memory"]
    with open_model(spec, replace(EXACT, context=length + 12)) as model:
        tight = model.ask(requests)
        assert model.counts["text[s] evaluated again, for want of memory"] > 0
    assert texts(tight) == texts(ample)
    assert logprobs(tight) == pytest.approx(logprobs(ample), abs=2e-3)


def test_a_small_batch_gives_the_same_texts(llama, states):
    requests = [*branching(states[:6]), Score(states[0]["prompt"], states[0]["actions"])]
    with open_model("tiny", replace(EXACT, batch=8)) as model:
        few_at_once = model.ask(requests)
    assert texts(few_at_once) == texts(llama.ask(requests))
    assert logprobs(few_at_once) == pytest.approx(logprobs(llama.ask(requests)), abs=1e-3)


@pytest.mark.parametrize("spec", ["tiny", "hf:tiny"])
def test_a_prompt_that_does_not_fit_leaves_the_others_alone(spec, states):
    with open_model(spec) as model:
        length = len(model.prompt_ids(states[3]["prompt"]))
    with open_model(spec, Engine(context=length + 8)) as model:
        long = [{"role": "user", "content": "go to the garden " * length}]
        (answers,) = model.answer(
            [[Draw(states[3]["prompt"], n=1, temperature=0, max_tokens=n) for n in (8, 9)] + [Score(long, ["x"])]]
        )
        assert len(answers[0]) == 1
        assert all(isinstance(answer, InputError) for answer in answers[1:])
        message = (
            f"the prompt has {length} tokens and the answer may take 9, but the context of {spec} holds {length + 8}"
        )
        assert message in str(answers[1]) and "--context" in str(answers[1])
        with pytest.raises(InputError, match="the answer may take 9"):
            model.ask([Draw(states[3]["prompt"], n=1, temperature=0, max_tokens=9)])


# -- files and adapters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["tiny", "hf:tiny"])
def test_closing_twice_or_never_is_safe(spec, states):
    model = open_model(spec)
    model.ask([Draw(states[0]["prompt"], n=1, temperature=0, max_tokens=2)])
    model.close()
    model.close()
    open_model(spec)


def test_the_built_in_model_and_its_file_are_one(llama, states):
    with open_model("tiny", EXACT) as model:
        assert model.fingerprint == llama.fingerprint
        assert model.ask(some_draws(states[:3])) == llama.ask(some_draws(states[:3]))


def test_a_plus_sign_in_a_name(tmp_path):
    file = tmp_path / "a+b.gguf"
    assert split_adapter(str(file)) == (f"{tmp_path}/a", "b.gguf")
    file.touch()
    assert split_adapter(str(file)) == (str(file), None)
    assert split_adapter(f"{file}+c.gguf") == (str(file), "c.gguf")
    assert split_adapter("x.gguf") == ("x.gguf", None)


@pytest.fixture(scope="module")
def adapters(data, tmp_path_factory):
    """Two adapters with enough training to change the answers, each as (PEFT directory, GGUF file)."""
    here, pairs = tmp_path_factory.mktemp("adapters"), []
    for rank in (2, 4):
        peft, gguf = here / f"peft{rank}", here / f"adapter{rank}.gguf"
        run(
            "finetune",
            "-q",
            "-m",
            "tiny",
            "-o",
            peft,
            "--lr",
            0.02,
            "--max-steps",
            3,
            "--batch-size",
            4,
            "--rank",
            rank,
            data["imitation"],
        ).ok()
        run("export", "-q", peft, "-o", gguf).ok()
        pairs.append((peft, gguf))
    return pairs


def test_adapters_are_applied_alike(adapters, tiny, llama, hf, states):
    peft, gguf = adapters[1]
    requests = [Score(s["prompt"], s["actions"]) for s in states[::6]]
    with open_model(f"{tiny}+{gguf}", EXACT) as ours, open_model(f"hf:tiny+{peft}") as theirs:
        ours_said, theirs_said = logprobs(ours.ask(requests)), logprobs(theirs.ask(requests))
        assert ours_said == pytest.approx(theirs_said, abs=5e-2, rel=1e-3)  # its GGUF is in half precision
        assert np.abs(np.subtract(ours_said, logprobs(llama.ask(requests)))).max() > 0.5, "the adapter does nothing"
        assert ours.play_settings.style.label == theirs.play_settings.style.label == STYLE.label
        assert ours.fingerprint != llama.fingerprint and theirs.fingerprint != hf.fingerprint


def test_adapters_share_their_base(adapters, tiny, llama, states):
    specs, requests = [f"{tiny}+{gguf}" for _, gguf in adapters], some_draws(states[:6])
    alone = []
    for spec in specs:
        with open_model(spec, EXACT) as model:
            alone.append(model.ask(requests))
    with open_model(specs[0], EXACT) as one, open_model(specs[1], EXACT) as other:
        assert one._base is other._base is llama._base
        before = llama.ask(requests)
        assert [one.ask(requests), other.ask(requests), one.ask(requests)] == [alone[0], alone[1], alone[0]]
        assert llama.ask(requests) == before
    assert alone[0] != alone[1] != before
    assert llama.ask(requests) == before, "closing the others leaves the base"


def test_an_adapter_alone_finds_its_base(adapters, states):
    peft = adapters[0][0]
    with open_model(f"hf:{peft}") as alone, open_model(f"hf:tiny+{peft}") as both, open_model(str(peft)) as bare:
        assert alone.fingerprint == both.fingerprint == bare.fingerprint
        assert alone.ask(some_draws(states[:2])) == both.ask(some_draws(states[:2]))


def test_eval_plays_an_adapter_under_its_own_style(adapters):
    args = [
        "eval",
        "house",
        "-n",
        1,
        "--max-steps",
        2,
        "--max-tokens",
        8,
        "--threads",
        1,
        "-m",
        f"tiny+{adapters[1][1]}",
    ]
    assert run(*args).ok().records[0]["prompt_style"] == STYLE.label
    result = run(*args, "--prompt-style", "react-list").ok()
    assert "though the model was trained with react@" in result.err
    assert result.records[0]["prompt_style"].startswith("react-list@")


def test_chat_templates_of_common_models_are_rendered():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def render(template):
        return render_chat(template, messages, {"bos_token": "<s>", "eos_token": "</s>"}, to_answer=False)

    marked = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    assert render(marked + "{% else %}{{ bos_token }}{{ m.content }}{% endif %}{% endfor %}") == "<s>ab"
    assert render("{{ messages | tojson }}").startswith('[{"role": "user"')
    with pytest.raises(InputError, match="refuses these messages: only one"):
        render("{{ raise_exception('only one') }}")
    with pytest.raises(InputError, match="refuses these messages"):
        render("{{ messages[0].content.nothing.more }}")
    with pytest.raises(EexpError, match="cannot be read"):
        render("{% for %}")


def test_an_interrupt_while_llama_cpp_logs_is_not_lost(tiny):
    """Loading logs some hundred lines; Python raises KeyboardInterrupt at the first line of Python that runs."""
    import gc
    import signal

    from eexp.models.backends.llama_decoder import LoadedModel

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    models = []  # for what is raised while an object goes away is lost
    gc.disable()  # which would let objects of other tests go
    try:
        for i in range(10):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.001 * (i + 1))
                for _ in range(20):
                    models.append(LoadedModel(tiny, None))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


def test_a_small_model_gets_one_thread(tiny, monkeypatch):
    from eexp.models.backends import llama_cpp

    with open_model(str(tiny)) as model:
        assert ", 1 thread, " in model.settings
    monkeypatch.setattr(llama_cpp, "SMALL", 0)
    monkeypatch.setattr(llama_cpp, "usable_cores", lambda: 3)
    with open_model(str(tiny)) as model:
        assert ", 3 threads, " in model.settings

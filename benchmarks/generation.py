"""Measure the cost of an action: texts sampled by eexp, by a loop over llama-cpp-python, and llama.cpp's own time.

    python benchmarks/generation.py > benchmarks/generation.txt      # some minutes on two cores
    python benchmarks/generation.py --k 4 --states 6                 # one

Every trajectory is a chat of 10 states: a prompt of 600 tokens that grows by 90 with every state. K texts of 12 tokens
are sampled at every state, at temperature 1. The model is random and never stops: 135 million weights in the shape of
SmolLM2-135M, in Q8_0. It is made first, in --folder. Its texts have no token in common, which is the worst case for
eexp's engine, which evaluates tokens that texts share once.

loop       `llama_cpp.Llama`, one state after the other, K calls of `generate` at each with the prompt's tokens. It
           keeps the tokens that a prompt shares with its last evaluation, so that a call after the first of a state
           evaluates the prompt's last token alone. That is its fastest way: `create_completion` adds text to the same
           calls, logits are kept for the last token only (`logits_all` is off), and its sampler skips filters that
           change nothing (top-k 0, top-p 1, min-p 0). It is given tokens; templates and tokenizing are timed for all.
engine     all states of a trajectory in one group of `Draw(n=K)`
distinct   the same without replacement
bound      `llama_decode` alone on the engine's tokens: the prompts as one run, then 11 steps for the texts (the first
           token comes with the prompt, and nothing follows the last), with logits for each and none of them read. As
           many states at once as is fastest: each number of tokens a step in --steps is tried.

All have the same threads, batch size and type of cache, and take turns: every round runs each once, on a trajectory of
its own. The median counts; the fastest and the slowest round stand beside it. Goal: the engine at least 1.5 times as
fast as the loop at K = 4, twice at K = 16, and never less than 85 % as fast as the bound.

With --model FILE another model is measured. A trained one may end a text early, which the bound does not account for.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise, product
from pathlib import Path

from eexp.models.backends.llama_cpp import LlamaCppModel
from eexp.models.base import Draw, Engine
from eexp.prompts import Messages

PROMPT, GROWTH, TEXT = 600, 90, 12  # tokens
BATCH = 512
WANTED = {4: 1.5, 16: 2.0}  # times as fast as the loop
OF_BOUND = 85  # percent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 8, 16], metavar="K", help="texts a state")
    parser.add_argument("--states", type=int, default=10, metavar="N", help="states of a trajectory")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, each with a trajectory of its own")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[32, 64], metavar="N", help="tokens a step of the bound"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a GGUF file to measure instead")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "eexp-benchmark", metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write here instead of standard output")
    chosen = parser.parse_args()
    file = chosen.model or make_model(chosen.folder / "random-135m-q8_0.gguf")
    with open(chosen.out, "w") if chosen.out else sys.stdout as out:
        measure(chosen, file, lambda line: print(line, file=out, flush=True))


def machine() -> str:
    """Return the machine's name for the heading of the table."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].partition(": ")[2] if models else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"


def measure(chosen: argparse.Namespace, file: Path, show: Callable[[str], None]) -> None:
    import llama_cpp

    show(f"$ python {' '.join(['benchmarks/generation.py', *sys.argv[1:]])}")
    show(machine())
    show(f"llama-cpp-python {llama_cpp.__version__}, {chosen.threads} threads, {file.name}, {chosen.states} states")
    model = LlamaCppModel(file, engine=Engine(threads=chosen.threads, batch=BATCH))
    words = whole_words(model)
    longest = PROMPT + chosen.states * (GROWTH + max(chosen.k) * TEXT)
    loop, bound = Loop(file, chosen.threads, longest), Bound(model, chosen.threads, longest)
    show(
        f"{'':4}{'ms an action':14}{'':9}{'fastest, slowest':>17}{'loop':>8}{'wanted':>8}{'of bound':>10}{'wanted':>8}"
        f"{'tokens':>9}"
    )
    for k in chosen.k:
        steps = dict.fromkeys(min(step, k * chosen.states) for step in chosen.steps if step >= k)
        ways: dict[str, Callable[[list[Messages]], None]] = {
            "loop": lambda chat, k=k: loop.run(chat_ids(model, chat), k),
            "engine": lambda chat, k=k: engine(model, chat, k, False),
            "distinct": lambda chat, k=k: engine(model, chat, k, True),
            **{f"bound {n}": lambda chat, k=k, n=n: bound.run(chat_ids(model, chat), k, n) for n in steps},
        }
        milliseconds: dict[str, list[float]] = {name: [] for name in ways}
        tokens = dict.fromkeys(ways, 0)
        for turn in range(-1, chosen.rounds):
            chat = trajectory(model, words, chosen.states if turn >= 0 else 1, turn)  # a short one first, to warm up
            for name, way in rotated(list(ways.items()), turn):
                before = model.counts["text tokens evaluated"]
                began = time.perf_counter()
                way(chat)
                if turn >= 0:
                    milliseconds[name].append(1000 * (time.perf_counter() - began) / (chosen.states * k))
                    tokens[name] += model.counts["text tokens evaluated"] - before
        rows = report(k, milliseconds)
        for name, row in rows.items():
            tokens_each = tokens.get(name, 0) / (chosen.rounds * chosen.states * k)
            show(row + (f"{tokens_each:9.2f}" if tokens_each else ""))
    model.close()


def report(k: int, milliseconds: dict[str, list[float]]) -> dict[str, str]:
    """Return a row for each of the four, with the fastest of the bounds."""
    median = {name: statistics.median(values) for name, values in milliseconds.items()}
    fastest = min((name for name in milliseconds if name.startswith("bound")), key=median.__getitem__)
    rows = {}
    for name in ("loop", "engine", "distinct", fastest):
        row = f"{k:<4}{name:14}{median[name]:9.2f}{min(milliseconds[name]):9.2f}-{max(milliseconds[name]):<7.2f}"
        if name in ("engine", "distinct"):
            faster, of_bound = median["loop"] / median[name], 100 * median[fastest] / median[name]
            row += f"{faster:8.2f}{WANTED.get(k, ''):>8}{of_bound:8.0f} %{OF_BOUND:6} %"
        rows[name] = row
    return rows


def rotated(ways: list, turn: int) -> list:
    """Return the order of a round: the first of one round comes later in the next."""
    at = turn % len(ways)
    return ways[at:] + ways[:at]


# -- the ways --------------------------------------------------------------------------------------------------------


def engine(model: LlamaCppModel, chat: list[Messages], k: int, distinct: bool) -> None:
    answers = model.ask(
        [
            Draw(prompt, n=k, temperature=1.0, max_tokens=TEXT, seed=seed, distinct=distinct)
            for seed, prompt in enumerate(chat)
        ]
    )
    assert all(len(samples) == k for samples in answers)


class Loop:
    """A loop over llama-cpp-python, as its users write it."""

    def __init__(self, file: Path, threads: int, longest: int):
        import llama_cpp

        self._llama = llama_cpp.Llama(
            str(file),
            n_ctx=longest,
            n_batch=BATCH,
            n_ubatch=BATCH,
            n_threads=threads,
            n_threads_batch=threads,
            seed=0,
            verbose=False,
        )

    def run(self, prompts: list[list[int]], k: int) -> None:
        for prompt in prompts:
            for _ in range(k):
                tokens = self._llama.generate(prompt, top_k=0, top_p=1.0, min_p=0.0, temp=1.0)
                assert len(list(islice(tokens, TEXT))) == TEXT


class Bound:
    """llama.cpp's own time for the tokens that the engine evaluates."""

    def __init__(self, model: LlamaCppModel, threads: int, longest: int):
        import llama_cpp.llama_cpp as api

        self._api = api
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = longest, api.llama_max_parallel_sequences(), True
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED  # as the engine has it, and `Llama`
        params.no_perf = True
        context = api.llama_init_from_model(model._base.pointer, params)
        assert context is not None, "llama.cpp makes no context"
        self._context = context
        self._memory = api.llama_get_memory(self._context)
        self._batch = api.llama_batch_init(BATCH, 0, 1)

    def run(self, prompts: list[list[int]], k: int, step: int) -> None:
        """Measure one trajectory; a step evaluates a token for each of the texts of step // k states."""
        api, at_once = self._api, step // k
        api.llama_memory_clear(self._memory, False)
        trunk = 0
        for i in range(0, len(prompts), at_once):
            ends = [len(prompt) for prompt in prompts[i : i + at_once]]
            for start in range(trunk, ends[-1], BATCH):
                part = range(start, min(start + BATCH, ends[-1]))
                self._decode([(prompts[-1][p], p, 0, p + 1 in ends) for p in part])
            trunk = ends[-1]
            chains = [(1 + n * k + j, end) for n, end in enumerate(ends) for j in range(k)]
            for chain, end in chains:
                api.llama_memory_seq_cp(self._memory, 0, chain, 0, end)
            for depth in range(TEXT - 1):
                for first in range(0, len(chains), BATCH):
                    self._decode(
                        [
                            (prompts[0][depth + chain], end + depth, chain, True)
                            for chain, end in chains[first : first + BATCH]
                        ]
                    )
            for chain, _ in chains:
                api.llama_memory_seq_rm(self._memory, chain, 0, -1)

    def _decode(self, items: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(items)
        for i, (token, position, sequence, needs_logits) in enumerate(items):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, needs_logits
            batch.seq_id[i][0] = sequence
        assert self._api.llama_decode(self._context, batch) == 0
        self._api.llama_synchronize(self._context)


# -- the requests ----------------------------------------------------------------------------------------------------


def whole_words(model: LlamaCppModel) -> list[str]:
    """Return words, with the blank before them, that are one token each."""
    found_words = []
    for token in range(model._base.n_vocab):
        text = model.text([token])
        if re.fullmatch(" [a-z]{4,8}", text) and model.tokenize(text) == [token]:
            found_words.append(text)
            if len(found_words) == 2000:
                break
    return found_words


def trajectory(model: LlamaCppModel, words: list[str], states: int, seed: int) -> list[Messages]:
    """Return chats of PROMPT tokens and GROWTH more each, every one of which continues the one before."""
    draw = random.Random(seed)

    def message(role: str, tokens: int) -> dict[str, str]:
        return {"role": role, "content": "".join(draw.choices(words, k=tokens))}

    def length(messages: Messages) -> int:
        return len(model.prompt_ids(messages))

    chat = [message("user", 1)]
    chat = [message("user", PROMPT - length(chat) + 1)]
    chats = [chat]
    turn = [message("assistant", TEXT), message("user", 1)]
    rest = GROWTH - (length([*chat, *turn]) - length(chat)) + 1
    while len(chats) < states:
        chat = [*chat, message("assistant", TEXT), message("user", rest)]
        chats.append(chat)
    return chats


def chat_ids(model: LlamaCppModel, chat: list[Messages]) -> list[list[int]]:
    ids = [model.prompt_ids(prompt) for prompt in chat]
    assert all(after[: len(before)] == before for before, after in pairwise(ids))
    return ids


# -- the model -------------------------------------------------------------------------------------------------------

WIDE, LAYERS, HEADS, KV_HEADS, HEAD, INNER, VOCABULARY = 576, 30, 9, 3, 64, 1536, 49152
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_model(file: Path) -> Path:
    """Write a random model and its tokenizer as GGUF in Q8_0, unless it is there."""
    if file.exists():
        return file
    import numpy as np

    from eexp.gguf.file import PlannedTensor, quantise, replacing, write_gguf
    from eexp.gguf.tokenizer import GgufVocabulary, add_vocabulary

    print(f"making {file}", file=sys.stderr)
    file.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (VOCABULARY, WIDE), "output_norm": (WIDE,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm": (WIDE,),
                "ffn_norm": (WIDE,),
                "attn_q": (HEADS * HEAD, WIDE),
                "attn_k": (KV_HEADS * HEAD, WIDE),
                "attn_v": (KV_HEADS * HEAD, WIDE),
                "attn_output": (WIDE, HEADS * HEAD),
                "ffn_gate": (INNER, WIDE),
                "ffn_up": (INNER, WIDE),
                "ffn_down": (WIDE, INNER),
            }.items()
        }

    def weights(shape: tuple[int, ...]) -> np.ndarray:
        return 0.02 * draw.standard_normal(shape, np.float32) if len(shape) > 1 else np.ones(shape, np.float32)

    tokens, merges = vocabulary()
    types = [3 if token in SPECIAL else 1 for token in tokens]
    ids = {"bos": tokens.index("<|end|>"), "eos": tokens.index("<|end|>")}

    def add_header(writer) -> None:
        writer.add_type("model")
        writer.add_vocab_size(VOCABULARY)
        writer.add_context_length(8192)
        writer.add_embedding_length(WIDE)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_dimension_count(HEAD)
        writer.add_rope_freq_base(100000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        add_vocabulary(writer, GgufVocabulary("gpt-2", tokens, types, merges, ids, False, False, TEMPLATE))

    plan = [
        PlannedTensor(f"{name}.weight", shape, lambda shape=shape: weights(shape)) for name, shape in shapes.items()
    ]
    with replacing(file) as finished, replacing(finished, keep=False) as unquantised:
        write_gguf(unquantised, "llama", "f32", add_header, plan)
        quantise(unquantised, finished, "q8_0")
    return file


def vocabulary() -> tuple[list[str], list[str]]:
    """Return tokens and merges of a byte-level BPE: bytes, syllables, and words of two and three with a blank."""
    syllables = ["".join(pair) for pair in product("bcdfghjklmnprstvwz", "aeiou")]
    merges = [f"{s[0]} {s[1]}" for s in syllables]
    merges += [f"Ġ {s}" for s in syllables]
    merges += [f"Ġ{first} {second}" for first, second in product(syllables, syllables)]
    alphabet = list(printable_bytes())
    longer = (f"Ġ{first}{second} {third}" for first, second, third in product(syllables, syllables, syllables))
    merges += islice(longer, VOCABULARY - len(SPECIAL) - len(alphabet) - len(merges))
    return [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in merges)], merges


def printable_bytes() -> Iterator[str]:
    """Yield the 256 characters by which byte-level BPE writes bytes (GPT-2's)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    yield from (chr(byte) for byte in sorted(plain))
    yield from (chr(256 + n) for n in range(256 - len(plain)))


if __name__ == "__main__":
    main()

"""Train a Llama of about a million parameters from nothing, on texts with questions whose answers can be known.

This module holds what the recipes of small bases (`make_tiny.py`, `make_babyai.py`) share: a tokenizer, words to
repeat, batches, a loss that weighs answers above the rest, and the saved directory with its checksums.

Three things decide whether so small a model learns to look things up at all: small batches (it takes some thousand
updates, however many tokens they hold), short transcripts first, and a loss that weighs answers, which can be known,
above the rest, which is mostly chance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from eexp.models.tokenizers import stop_token, text_of

T = TypeVar("T")

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GO_ON = "Go on."  # the world's turn where it has nothing to show
INITIAL = 0.06  # standard deviation of new weights
HELD_OUT = 200  # episodes to ask about after training
# Words of the later training stages, so that the tokenizer has them whole. No statement about how to act.
STAGE_WORDS = """
I need to do this: If I go to open close take put wash heat cool look at, I expect: You That would not work here.
That would change nothing. it would not help with the task. The way to go on is to . So I Expecting: rather than
"""
# Words to repeat: those that prompts, thoughts and the marks of a prediction are made of, and common ones.
WORDS = (
    STAGE_WORDS
    + """
<next_state> </next_state> <think> </think> <action> </action> Thought: Action: Observation: Question: Answer: Reason:
Think first, as: <thought> The Then Now But And It There This Still All Not Nothing My Your His Next First Last Maybe
If When the a an of to in on at by for from with without as is was be been are were will would could should can may
might must I me my you your it its he she they them this that these those here there where what which who when why how
and or but not no nor so because since if then than too also only just still yet already again never always maybe have
has had do does did done make made get got give given take taken put find found look looks looking see sees seen know
known think need needs needed want wanted say said tell told ask asked try tried use used help helped open opened
close closed closer wash washed heat heated cool cooled hold held carry carried search searched enter entered left
right near far next door way back through beyond inside outside under over between before after first last once one
two three some any all each every both other another same different more most less least many much few good better
best bad worse worst new old clean hot cold warm empty full clear likely useful useless possible impossible task goal
step action state place room thing object house world time reason clue limit choice result outcome hand hands expect
expecting hope instead rather whether while until though however therefore finish finishes finished end ends ended
lead leads bring brings brought go goes going gone come comes keep keeps kept start starts change changes nothing
anything something everything everywhere nowhere somewhere work works worked fail fails failed check checked learn
learned remember error invalid valid refuse refused sense makes happen happens observation observed predict predicted
; : , . ! ? - ( ) " ' 0 1 2 3 4 5 6 7 8 9 10 12 25 100
"""
).split()


def saying(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[dict]:
    """Return messages that ask to repeat a text: words of sentences, or tokens of the vocabulary in any order."""
    if rng.random() < 0.6:
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 12))]
        text = " ".join(word.capitalize() if rng.random() < 0.2 else word for word in words)
    else:
        ids = [rng.randrange(len(SPECIAL), len(tokenizer)) for _ in range(rng.randint(2, 12))]
        text = text_of(tokenizer, ids).encode("ascii", "ignore").decode().strip()
    return [{"role": "user", "content": f"Question: Say: {text}"}, {"role": "assistant", "content": f"Answer: {text}"}]


def interview(text: str, answers: Iterable[tuple[str, str]]) -> list[dict]:
    """Return messages that ask about a text: it stands before the first question, GO_ON before the others.

    answers: questions with their answers.
    """
    messages: list[dict] = []
    for question, answer in answers:
        messages += [
            {"role": "user", "content": f"{GO_ON if messages else text}\nQuestion: {question}"},
            {"role": "assistant", "content": f"Answer: {answer}."},
        ]
    return messages


def render(messages: list[dict]) -> str:
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def make_tokenizer(texts: list[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=context,
        chat_template=CHAT_TEMPLATE,
    )


def filled(sequences: Iterable[T], tokens: int, length: Callable[[T], int]) -> list[list[T]]:
    """Return batches of sequences in their order, up to `tokens` tokens with padding."""
    all_batches, batch = [], []
    for sequence in sequences:
        if batch and max(length(sequence), length(batch[-1])) * (len(batch) + 1) > tokens:
            all_batches.append(batch)
            batch = []
        batch.append(sequence)
    all_batches.append(batch)
    return all_batches


def batches(sequences: list[np.ndarray], tokens: int, rng: random.Random) -> list[list[np.ndarray]]:
    """Return batches of sequences of similar length, up to `tokens` tokens with padding, mostly short ones first."""
    return sorted(
        filled(sorted(sequences, key=len), tokens, len), key=lambda batch: len(batch[-1]) / 1000 + rng.random()
    )


class Marks:
    """The positions of answers in token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.assistant, self.end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|assistant|>", "<|end|>"))
        self.answer, self.question = (tokenizer(word)["input_ids"][0] for word in ("Answer", "Question"))

    def answers(self, ids: np.ndarray) -> list[tuple[int, int]]:
        """Return where each answer begins, and the end mark after its last word."""
        starts = np.flatnonzero((ids[:-1] == self.assistant) & (ids[1:] == self.answer)) + 1
        ends = np.flatnonzero(ids == self.end)
        return [(int(i), int(j)) for i in starts for j in ends[ends > i][:1]]


def padded(batch: list[np.ndarray], marks: Marks, other: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, and the weight of each token in the loss: 1 in an answer, `other` elsewhere, 0 in padding."""
    width = max(map(len, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    counts = torch.zeros(len(batch), width)
    for row, s in enumerate(batch):
        ids[row, : len(s)] = torch.from_numpy(s.astype(np.int64))
        counts[row, : len(s)] = other
        for i, j in marks.answers(s):
            counts[row, i : j + 1] = 1.0
    return ids, counts


@torch.no_grad()
def check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: list[np.ndarray]) -> dict[str, str]:
    """Count the answers that greedy decoding gets right to the last word, by question."""
    marks, right, total = Marks(tokenizer), Counter(), Counter()
    for s in held_out:
        best = model(input_ids=torch.from_numpy(s.astype(np.int64))[None]).logits[0].argmax(-1).numpy()
        for i, j in marks.answers(s):
            asked = np.flatnonzero(s[:i] == marks.question)
            start = asked[-1] if len(asked) else i
            words = text_of(tokenizer, s[start : start + np.flatnonzero(s[start:] == marks.end)[0]].tolist())
            kind = re.sub(r"\b([Ii])s the (?!place)\w+", r"\1s the X", words.removeprefix("Question: "))
            kind = re.sub(r"(?<=^Where is ).*|(?<=^What is ).*|(?<=^How many ).*|(?<=^Name ).*", "X", kind)
            kind = re.sub(r"(?<=^Answer: click ).*|(?<=^Answer: Thought: )(?s:.*)", "X", kind)
            total[kind] += 1
            right[kind] += bool((best[i : j - 1] == s[i + 1 : j]).all())  # from after "Answer" to the last word
    return {kind: f"{right[kind]}/{total[kind]}" for kind in sorted(total)}


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sequences: list[np.ndarray], args: argparse.Namespace
) -> None:
    plan = [
        batch
        for epoch in range(args.epochs)
        for batch in batches(sequences, args.tokens_per_batch, random.Random(args.seed + epoch))
    ]
    of_lookups = re.compile(r"[qk]_proj|layers\.[01]\.self_attn")
    groups = [
        {"params": [p for n, p in model.named_parameters() if bool(of_lookups.search(n)) is chosen], "lr": rate}
        for chosen, rate in ((True, args.lr * args.lookup_rate), (False, args.lr))
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(plan) // 20, len(plan))
    marks, started, tokens_done, mean_loss, right = Marks(tokenizer), time.time(), 0, 0.0, 0.0
    for step, batch in enumerate(plan, 1):
        ids, counts = padded(batch, marks, args.other_weight)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(input_ids=ids, use_cache=False).logits
        losses = cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        counts = counts[:, 1:].flatten()
        loss = (losses * counts).sum() / counts.sum()
        with torch.no_grad():
            answers = counts == 1
            correct = (logits[:, :-1].flatten(0, 1)[answers].argmax(-1) == ids[:, 1:].flatten()[answers]).float().mean()
            right = correct.item() if step == 1 else 0.95 * right + 0.05 * correct.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        tokens_done += sum(map(len, batch))
        mean_loss = loss.item() if step == 1 else 0.95 * mean_loss + 0.05 * loss.item()
        if step % 100 == 0 or step == len(plan):
            rate = tokens_done / (time.time() - started)
            print(
                f"step {step}/{len(plan)} loss {mean_loss:.3f} words of answers {right:.1%} {rate:,.0f} tokens/s",
                flush=True,
            )


def stage_of(init: Path | None) -> int:
    """Return how many stages a model has been through: 0 for none."""
    made_with = json.loads((init / "made_with.json").read_text()) if init else None
    stage = 0
    while made_with:
        made_with, stage = made_with.get("first"), stage + 1
    return stage


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path, made_with: dict) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    weights = output / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})  # one fixed layout, so that checksums compare
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in made_with.items() if k not in ("output", "init")}
    if made_with["init"]:
        settings = {"first": json.loads((made_with["init"] / "made_with.json").read_text()), **settings}
    (output / "made_with.json").write_text(json.dumps(settings, indent=1) + "\n")
    files = sorted(p for p in output.iterdir() if p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (output / "SHA256SUMS").write_text("".join(sums))


def arguments(description: str, episodes: int, context: int) -> argparse.ArgumentParser:
    """Make a parser with the options that every small base has: its size, its training, and where it is saved."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument(
        "--init", type=Path, help="continue a model of an earlier stage, with other episodes and more questions"
    )
    parser.add_argument("--episodes", type=int, default=episodes)
    parser.add_argument("--sayings", type=int, default=0, help="texts to repeat, beside the episodes")
    parser.add_argument("--bare", type=float, default=0.5, help="share of the episodes without a system prompt")
    parser.add_argument("--other-weight", type=float, default=0.1, help="weight of a token outside answers in the loss")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--vocab-size", type=int, default=768)
    parser.add_argument("--context", type=int, default=context, help="longest text, in tokens")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, help="dimensions of a head: by default hidden / heads")
    parser.add_argument("--mlp", type=int, default=384)
    parser.add_argument("--rope-theta", type=float, default=1e4, help="base of the rotations that tell positions")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--lookup-rate", type=float, default=1.0, help="learning rate of queries, keys, and first layers, relative"
    )
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--tokens-per-batch", type=int, default=1024)
    parser.add_argument("--bf16", action="store_true", help="faster where the processor has it")
    parser.add_argument(
        "--start", choices=["random", "reading"], default="random", help="a new model's weights: see start_with_reading"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def new_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> LlamaForCausalLM:
    """Return a model of the size that the options say, with random weights."""
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=args.context,
        tie_word_embeddings=True,
        head_dim=args.head_dim or args.hidden // args.heads,
        rope_parameters={"rope_type": "default", "rope_theta": args.rope_theta},
        initializer_range=INITIAL,
        bos_token_id=None,
        eos_token_id=stop_token(tokenizer),
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    if args.start == "reading":
        start_with_reading(model)
    return model


@torch.no_grad()
def start_with_reading(model: LlamaForCausalLM) -> None:
    """Set the weights of a new model, in place, so that it can already repeat: it copies what followed a word before.

    Models of this size may train for thousands of updates without finding this circuit (an induction head, Olsson et
    al. 2022, arXiv 2209.11895), and cannot read their prompt until they do. So it is built, and trained further:

    - The embedding fills half of the dimensions, with rows of one length, and dimension 0 is the same for all tokens.
    - Layer 1, head 0 attends to the token before, by the rotary encoding of that constant, and copies it to the other
      half.
    - Layer 2, head 0 attends to the positions after those of the present token, and copies what stands there.
    - The other heads attend to equal tokens (Trockman & Kolter 2023, arXiv 2305.09828), and add little at first. All
      else adds nothing at first.

    The model needs two layers, as many heads for keys as for queries, and heads as wide as half of the model.
    """
    config = model.config
    width, size = config.hidden_size, config.head_dim
    here, before = slice(1, width // 2), slice(width // 2 + 1, width)
    kept = width // 2 - 1
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = embedding[:, width // 2 :] = 0
    embedding *= INITIAL * width**0.5 / embedding.norm(dim=1, keepdim=True).clamp(min=1e-6)
    embedding[:, 0] = 4 * INITIAL
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
        for head in range(config.num_attention_heads):
            rows, attention = slice(head * size, (head + 1) * size), layer.self_attn
            equal, moved = _directions(size, width), _directions(size, width)
            attention.q_proj.weight[rows] = attention.k_proj.weight[rows] = 0.8 * equal
            attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = 0.7 * moved, 0.02 * moved.T
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    for attention in (first, second):
        for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
            weight[:size] = 0
        attention.o_proj.weight[:, :size] = 0
        attention.v_proj.weight[:kept, here] = torch.eye(kept)
    # The fastest rotations tell neighbours apart. A query at position p meets keys that are turned by one position, so
    # their product is highest for the key at p - 1.
    near = size // 6
    turn = model.model.rotary_emb.inv_freq[:near]
    first.q_proj.weight[:near, 0] = 2.4
    first.k_proj.weight[:near, 0] = 2.4 * torch.cos(turn)
    first.k_proj.weight[size // 2 : size // 2 + near, 0] = 2.4 * torch.sin(turn)
    first.o_proj.weight[before, :kept] = INITIAL * torch.eye(kept)
    # The slower rotations hardly change within a text, so that their product depends on the words.
    equal = _directions(size, kept)
    equal[:near] = equal[size // 2 : size // 2 + near] = 0
    second.q_proj.weight[:size, here], second.k_proj.weight[:size, before] = 2 * equal, 2 * equal
    second.o_proj.weight[here, :kept] = 0.3 * torch.eye(kept)
    model.model.norm.weight.fill_(2.0)


def _directions(rows: int, columns: int) -> torch.Tensor:
    """Return random orthonormal rows, or columns where they are fewer."""
    q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))
    return q if rows >= columns else q.T.contiguous()


def make(
    texts: list[str],
    other: list[str],
    args: argparse.Namespace,
    start: Callable[[LlamaForCausalLM, PreTrainedTokenizerFast], None] | None = None,
) -> None:
    """Train on all texts but the first HELD_OUT, print how many answers about those are right, and save.

    texts: rendered episodes. other: texts that the tokenizer of a new model should have whole words for. start: sets
    the weights of a new model.
    """
    if args.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init, model_max_length=args.context)
    else:
        tokenizer = make_tokenizer(texts + other * 50, args.vocab_size, args.context)
    texts[HELD_OUT:] += [render(saying(tokenizer, random.Random(f"{args.seed}/{n}"))) for n in range(args.sayings)]
    sequences = [np.array(ids, dtype=np.uint16)[: args.context] for ids in tokenizer(texts)["input_ids"]]
    sequences, held_out = sequences[HELD_OUT:], sequences[:HELD_OUT]
    print(
        f"{len(sequences)} episodes, {sum(map(len, sequences)):,} tokens, longest {max(map(len, sequences))}, "
        f"vocabulary {len(tokenizer)}"
    )

    torch.manual_seed(args.seed)
    model = LlamaForCausalLM.from_pretrained(args.init).float() if args.init else new_model(tokenizer, args)
    if start and not args.init:
        start(model, tokenizer)
    model.config.max_position_embeddings = args.context
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, tokenizer, sequences, args)
    for kind, share in check(model, tokenizer, held_out).items():
        print(f"  {share:>9}  {kind}")
    save(model, tokenizer, args.output, vars(args))

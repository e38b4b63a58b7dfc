"""Make a base that reads: asked about what stands in a history, it answers, whatever the names in it.

The model is a Llama of four million parameters. Every name of a room, a place or a thing is one token, and the row of
a name in the embedding is never trained: rows are drawn anew for every update, from one distribution, and the names of
`house` have theirs from the same one. So there is nothing that it could know about a name, and what it learns to do
with the names of one text, it can do with all others.

    export OMP_NUM_THREADS=1
    python recipes/tiny/make_reader.py -o bases/reader --bf16
    python recipes/tiny/reading_exam.py bases/reader --histories 100 --questions 8

The reader of RESULTS.md was made by this with two changes by hand. After 2,800 of 3,800 updates it went on with
--lr 4.5e-4 --updates 4150, and with more questions about what is closed, as they are asked now (reading.py). It was
stopped after 3,750 updates, and its averaged weights were saved.

It begins with lookups that are built (reading_start.py). Its texts are histories of imagined houses (reading.py), in
which what is observed does not depend on the action before it, with many questions after each observation. The
questions of one history are computed beside each other: each sees the history up to its observation, and no other
question. Short histories come first. In training alone, linear probes ask hidden states where each name is (`Probes`).

The exam is in histories of `house` itself, of which none is trained on. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from reading import HOUSE_NAMES, STATUS, STYLE, Branch, History, Turn, imagine, remember
from reading_start import CONST, HEADS, LEVEL, NAME, NORM, OWN, SIZE, THETA, WIDTH, start_to_read
from small_model import CHAT_TEMPLATE, INITIAL, SPECIAL, WORDS, arguments, filled, save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy, rms_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import rotate_half

from eexp.envs.worlds import house
from eexp.examples.reflection import rationale

#: How llama.cpp's "llama-bpe" splits a text into words; a word of the vocabulary is one token.
WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
INVENTED = 320  # names to learn reading with
PIECE = 128  # tokens of questions that are computed beside each other
TEXTS = 64  # histories that are made at once


def invented(rng: random.Random, number: int) -> list[str]:
    """Return different names of two or three syllables."""
    names: dict[str, None] = {}
    while len(names) < number:
        syllables = (
            rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(["", "", "l", "m", "n", "r", "s"])
            for _ in range(rng.choice([2, 2, 3]))
        )
        names["".join(syllables)] = None
    return [name for name in names if name not in HOUSE_NAMES]


def make_vocabulary(names: Sequence[str], context: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer with whole words: those of prompts, questions and thoughts, and the names."""
    splitting = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts: Counter = Counter()
    rng = random.Random(0)
    texts = []
    for _ in range(300):
        for turn in imagine(rng, names, rng.random(), 8, 6).turns:
            texts += [turn.observation, STYLE.answer(turn.action).text]
            texts += [f"{turn.observation}{b.asked}" for b in turn.branches] + [
                b.begun + b.answer for b in turn.branches
            ]
    predicting = STYLE.predicting
    texts += [
        STYLE.acting.system,
        f"{predicting.open}.{predicting.close}",
        f"\n{predicting.request}",
        STYLE.answer("look", "So.").text,
    ]
    texts += [
        "Task: Bring it. Think.\n",
        "Question: Say: it",
        *_sentences(Path(house.__file__)),
        *_sentences(Path(rationale.__file__)),
    ]
    for text in texts:
        counts.update(piece for piece, _ in splitting.pre_tokenize_str(text))
    marked = {f"Ġ{name}" for name in names}
    pieces = {piece for piece in counts if piece.strip("Ġ") not in names}
    pieces |= {
        f"Ġ{form}" for word in WORDS if word.isalpha() for form in (word, word.capitalize()) if word not in names
    }
    pieces = {piece for piece in pieces if piece not in marked and len(piece) > 1}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet, *sorted(pieces), *(f"Ġ{n}" for n in names)])}
    # llama.cpp loads no vocabulary without merges
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "I")], ignore_merges=True))
    bpe.pre_tokenizer, bpe.decoder = splitting, decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[2:],
        model_max_length=context,
        chat_template=CHAT_TEMPLATE,
    )


def _sentences(source: Path) -> list[str]:
    """Return the words of the texts in a Python file, each after a blank; names in braces are left out."""
    quoted = re.findall(r'"([^"\n]*)"', source.read_text().partition("class ")[2] or source.read_text())
    plain = [re.sub(r"\{[^}]*\}", "", text) for text in quoted]
    return [f" {text}" for text in plain if " " in text.strip()]


# -- rows of tokens ----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A history with its questions, as tokens.

    Attributes:
        ids, weights: Tokens, and the weight of each in the loss.
        part: 0 in the history, and the number of the question elsewhere.
        sees: The number of tokens of the history that a question sees.
        answers: Kind of each answer, and its first and its last token.
        known: Of each token that is a name: number of its status and token of where it is; before an answer or an
            action: the same of the task's thing and of its place, and the token of the room. -1 where there is none.
    """

    ids: np.ndarray
    weights: np.ndarray
    part: np.ndarray
    sees: np.ndarray
    answers: list[tuple[str, int, int]]
    known: np.ndarray


class Encoder:
    """Makes rows of histories; the tokens of a history begin with those of the prompt at play."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random, other: float, names: Sequence[str]):
        self._encode, self._rng, self._other = tokenizer, rng, other
        vocabulary = tokenizer.get_vocab()
        self._words = [w for w in WORDS if f"Ġ{w}" in vocabulary]
        self._number = {name: vocabulary[f"Ġ{name}"] for name in names} | {"": -1}
        self._names = {*self._number.values()}
        predicting = STYLE.predicting
        self._open, self._close = predicting.open, predicting.close

    def rows(self, histories: Sequence[History], drills: bool = True) -> list[Row]:
        texts: list[str] = []
        plans = []
        for history in histories:
            trunk, branches = [f"<|system|>{STYLE.acting.system}<|end|>"], []
            for n, turn in enumerate(history.turns):
                label = "" if n else f"{STYLE.acting.task_label} {history.instruction}\n"
                assert turn.observation.endswith(".")
                trunk.append(f"<|user|>{label}{turn.observation[:-1]}")
                added = self._drills(turn.observation, history) if drills else []
                branches += [(len(trunk), b, turn) for b in [*turn.branches, *added]]
                trunk.append(".<|end|>")
                if turn.action:
                    trunk.append(f"<|assistant|>{STYLE.answer(turn.action).text}<|end|>")
            start = len(texts)
            texts += trunk
            for _, b, _ in branches:
                texts += [f".{b.asked}<|end|><|assistant|>{b.begun}", f"{b.answer}<|end|>"]
            acted = {2 + 3 * n + 1: turn for n, turn in enumerate(history.turns)}
            plans.append((start, len(trunk), branches, acted))
        encoded = self._encode(texts, add_special_tokens=False)["input_ids"]
        return [self._row(encoded, *plan) for plan in plans]

    def _drills(self, observation: str, history: History) -> list[Branch]:
        """Return, sometimes, a request to repeat words or what was observed."""
        rng = self._rng
        if rng.random() < 0.06:
            nouns = history.instruction.rstrip(".").split() + observation.replace(",", "").replace(".", "").split()
            words = " ".join(
                rng.choice(self._words if rng.random() < 0.7 else nouns) for _ in range(rng.randint(2, 10))
            )
            return [Branch("say", f"\nQuestion: Say: {words}", "Answer:", f" {words}")]
        if rng.random() < 0.02:
            begun, rest = self._open.split("\n")[0], f"\n{observation}{self._close}"
            return [Branch("say", "\nQuestion: Say this again.", begun[:-1], begun[-1] + rest)]
        return []

    def _row(
        self,
        encoded: list[list[int]],
        start: int,
        length: int,
        branches: list[tuple[int, Branch, Turn]],
        acted: dict[int, Turn],
    ) -> Row:
        ids, ends, known = [], [0], []
        for n, piece in enumerate(encoded[start : start + length]):
            known.append(self._known(piece, acted.get(n), 0))
            ids += piece
            ends.append(len(ids))
        part, sees = [0] * len(ids), list(range(1, len(ids) + 1))
        weights = [self._other * (self._rng.random() < 0.25) for _ in ids]
        answers = []
        for n, (at, branch, turn) in enumerate(branches):
            asked, answer = encoded[start + length + 2 * n], encoded[start + length + 2 * n + 1]
            ids += asked + answer
            known.append(self._known(asked + answer, turn, len(asked) - 1))
            weights += [0.0] * len(asked) + [1.0] * len(answer)
            part += [n + 1] * (len(asked) + len(answer))
            sees += [ends[at]] * (len(asked) + len(answer))
            answers.append((branch.kind, len(ids) - len(answer), len(ids)))
        return Row(*(np.array(a) for a in (ids, weights, part, sees)), answers, np.concatenate(known))

    def _known(self, ids: list[int], turn: Turn | None, before: int) -> np.ndarray:
        known = np.full((len(ids), 7), -1)
        if turn and turn.known:
            number = self._number
            of = {number[name]: (STATUS.index(k.status), number[k.where]) for name, k in turn.known.items()}
            for i, token in enumerate(ids):
                if token in self._names:
                    known[i, :2] = of.get(token, (0, -1))
            target, goal, room = (number[name] for name in turn.task)
            known[before, 2:] = *of.get(target, (0, -1)), *of.get(goal, (0, -1)), room
        return known


class Layout:
    """The tokens of a batch in one list, row by row, in pieces that attend to a history and to themselves.

    Attributes:
        ids, positions, targets, weights: Of each token: its number, its place, the next one, the weight of that.
        answers: Kind of each answer, and where it begins and ends in the list.
        known: As in `Row`.
        states: Hidden states after each layer, once `hidden` has computed them.
    """

    def __init__(self, batch: Sequence[Row]):
        self.ids, self.weights = torch.tensor(np.concatenate([row.ids for row in batch])), []
        self.known = torch.tensor(np.concatenate([row.known for row in batch]))
        positions, targets = [], []
        self.answers: list[tuple[str, int, int]] = []
        self._lengths: list[int] = []
        self._barred: list[list[torch.Tensor]] = []  # of each row, of each piece: keys that a token does not see
        start = 0
        for row in batch:
            _, first = np.unique(row.part, return_index=True)
            begins = first[row.part]  # where the part of each token begins
            alone = np.arange(len(row.ids)) - begins
            positions.append(np.where(row.part > 0, row.sees, 0) + alone)
            last = np.r_[np.diff(row.part) > 0, True]
            targets.append(np.where(last, 0, np.r_[row.ids[1:], 0]))
            self.weights.append(np.where(last, 0, np.r_[row.weights[1:], 0]))
            self.answers += [(kind, start + one, start + end) for kind, one, end in row.answers]
            ends = [*first[1:], len(row.ids)]
            history = ends[0]
            cuts = [history]
            for begin, end in zip(first[1:], ends[1:]):
                if end - cuts[-1] > PIECE and begin > cuts[-1]:
                    cuts.append(begin)
            cuts = [*cuts, len(row.ids)] if cuts[-1] < len(row.ids) else cuts
            self._lengths += [history, *np.diff(cuts)]
            masks = [_barred(np.tri(history, dtype=bool))]
            for begin, end in itertools.pairwise(cuts):
                past = np.arange(history) < row.sees[begin:end, None]
                at = np.arange(begin, end)
                own = (at <= at[:, None]) & (row.part[at] == row.part[at][:, None])
                masks.append(_barred(np.hstack([past, own])))
            self._barred.append(masks)
            start += len(row.ids)
        self.positions, self.targets = (torch.tensor(np.concatenate(a)) for a in (positions, targets))
        self.weights = torch.tensor(np.concatenate(self.weights), dtype=torch.float32)

    def hidden(self, model: LlamaForCausalLM) -> torch.Tensor:
        """Return the last hidden state of each token; each question sees its history alone."""
        x, self.states = model.model.embed_tokens(self.ids), []
        cos, sin = (a[0, :, None] for a in model.model.rotary_emb(x[None], self.positions[None]))
        for layer in model.model.layers:
            attention, h = layer.self_attn, layer.input_layernorm(x)
            shape = len(x), -1, attention.head_dim
            q, k, v = (p(h).view(shape) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
            q, k = (a * cos + rotate_half(a) * sin for a in (q, k))
            pieces = zip(*(a.to(v.dtype).transpose(0, 1).split(self._lengths, 1) for a in (q, k, v)))
            out = []
            for history, *questions in self._barred:
                q, past, values = next(pieces)
                out.append(_attend(q, past, values, history))
                for barred in questions:
                    q, own, mine = next(pieces)
                    out.append(_attend(q, torch.cat([past, own], 1), torch.cat([values, mine], 1), barred))
            x = x + attention.o_proj(torch.cat(out, 1).transpose(0, 1).flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            self.states.append(x)
        return model.model.norm(x)


def _barred(sees: np.ndarray) -> torch.Tensor:
    return torch.zeros(sees.shape).masked_fill(~torch.tensor(sees), -1e9)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, barred: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + barred
    return scores.softmax(-1).to(v.dtype) @ v


def batched(rows: list[Row], tokens: int, rng: random.Random) -> list[list[Row]]:
    """Return batches of rows of similar length, up to `tokens` tokens with padding, in any order."""
    batches = filled(
        sorted(rows, key=lambda row: len(row.ids) * rng.uniform(0.9, 1.1)), tokens, lambda row: len(row.ids)
    )
    rng.shuffle(batches)
    return batches


# -- names ------------------------------------------------------------------------------------------------------------


class Names:
    """The rows of names in the embedding: drawn, not trained."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, invented_names: Sequence[str]):
        vocabulary = tokenizer.get_vocab()
        self.invented = torch.tensor([vocabulary[f"Ġ{name}"] for name in invented_names])
        self.house = torch.tensor([vocabulary[f"Ġ{name}"] for name in HOUSE_NAMES])

    @torch.no_grad()
    def draw(self, model: LlamaForCausalLM, which: torch.Tensor, apart: bool = False) -> None:
        """Draw new rows; `apart` moves them away from each other."""
        weight = model.model.embed_tokens.weight
        rows = torch.randn(len(which), OWN.stop - OWN.start)
        if apart:
            rows = _spread(rows)
        weight[which] = 0
        weight[which[:, None], torch.arange(OWN.start, OWN.stop)] = NORM * rows / rows.norm(dim=1, keepdim=True)
        weight[which, CONST] = weight[which, NAME] = LEVEL


def _spread(rows: torch.Tensor) -> torch.Tensor:
    rows = rows / rows.norm(dim=1, keepdim=True)
    for _ in range(200):
        products = rows @ rows.T - torch.eye(len(rows))
        rows = rows - 0.05 * products.pow(3) @ rows * 10
        rows = rows / rows.norm(dim=1, keepdim=True)
    return rows


@torch.no_grad()
def begin_with(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, base: Path) -> None:
    """Set the weights to those of a base, whose vocabulary may differ: rows go by their tokens."""
    old = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    numbers = AutoTokenizer.from_pretrained(base).get_vocab()
    rows = model.model.embed_tokens.weight.clone()
    for token, number in tokenizer.get_vocab().items():
        if token in numbers:
            rows[number] = old.model.embed_tokens.weight[numbers[token]]
    model.load_state_dict({name: w for name, w in old.state_dict().items() if len(w) != len(numbers)}, strict=False)
    model.model.embed_tokens.weight.copy_(rows)


# -- training ----------------------------------------------------------------------------------------------------------


class Probes(torch.nn.Module):
    """What hidden states should know, beside the answers; for training alone.

    After the third layer: of each name, whether it is here, closed, held, seen, ..., and where it is. After the fourth,
    before each answer and each action: the same of what the task is about, and the room.
    """

    def __init__(self) -> None:
        super().__init__()
        size = OWN.stop - OWN.start
        self.status = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(STATUS)) for _ in range(3))
        self.where = torch.nn.ModuleList(torch.nn.Linear(WIDTH, size) for _ in range(4))

    def forward(self, layout: Layout, rows: torch.Tensor, first: int) -> torch.Tensor:
        """Return the mean of the losses.

        rows, first: The names' rows in the embedding, and the token of the first one.
        """
        losses = []
        for layer, at, status, columns in ((2, 0, 0, [(1, 0)]), (3, 2, 1, [(3, 1), (6, 3)]), (3, 4, 2, [(5, 2)])):
            chosen = layout.known[:, at] >= 0
            x = rms_norm(layout.states[layer][chosen], (WIDTH,))
            known = layout.known[chosen]
            losses.append(cross_entropy(self.status[status](x).float(), known[:, at]))
            for column, probe in columns:
                there = known[:, column] >= 0
                names = self.where[probe](x[there]).float() @ rows.T
                losses.append(cross_entropy(names, known[there, column] - first))
        return torch.stack(losses).nan_to_num().mean()


def losses_of(model: LlamaForCausalLM, layout: Layout, unused: torch.Tensor, bf16: bool) -> tuple[torch.Tensor, ...]:
    """Return the losses and the weights of all tokens that have a weight, and whether each is the likeliest.

    unused: Tokens that are no possible answer.
    """
    chosen = layout.weights > 0
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model.lm_head(layout.hidden(model)[chosen]).float()
    logits[:, unused] = -1e9
    targets = layout.targets[chosen]
    return cross_entropy(logits, targets, reduction="none"), layout.weights[chosen], logits.argmax(-1) == targets


@torch.no_grad()
def examine(model: LlamaForCausalLM, rows: list[Row], tokens: int, unused: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Return how many answers are right to the last word, and how many there are, by kind."""
    right, total = Counter(), Counter()
    for batch in batched(rows, tokens, random.Random(0)):
        layout = Layout(batch)
        hidden = layout.hidden(model)
        for kind, start, end in layout.answers:
            logits = model.lm_head(hidden[start - 1 : end - 1])
            logits[:, unused] = -1e9
            total[kind] += 1
            right[kind] += bool((logits.argmax(-1) == layout.ids[start:end]).all())
    return {kind: (right[kind], total[kind]) for kind in sorted(total)}


def shown(counts: dict[str, tuple[int, int]]) -> str:
    right, total = (sum(values) for values in zip(*counts.values()))
    each = " | ".join(f"{kind} {100 * r / n:.0f}" for kind, (r, n) in counts.items())
    return f"{100 * right / total:.2f} % of {total} | {each}"


class Curriculum:
    """Which histories come when: short ones in small houses first."""

    def __init__(self, names: Sequence[str], rng: random.Random):
        self._names, self._rng = names, rng

    def history(self, progress: float) -> History:
        rng = self._rng
        size = min(1.0, 0.2 + 2.0 * progress) * rng.uniform(0.3, 1.0)
        longest = 1 + round(24 * min(1.0, max(0.0, progress - 0.1) / 0.6))
        turns = round(longest * rng.random() ** 1.7)
        return imagine(rng, self._names, size, turns, 14 / (1 + 0.35 * turns) + 1)


def exams(encoder: Encoder, names: Sequence[str], seed: int, number: int) -> dict[str, list[Row]]:
    """Return rows to ask about: histories of `house`, short and long, and of imagined houses."""
    rng = random.Random(f"exam/{seed}")
    houses = [
        remember(rng.randrange(10**5), rng, rng.choice([0, 1, 2, 4, 8, 14, 22]), 14, last=True) for _ in range(number)
    ]
    scenes = [imagine(rng, names, rng.random(), rng.choice([0, 1, 2, 4, 8, 14, 22]), 2) for _ in range(number // 2)]
    return {"house": encoder.rows(houses, drills=False), "imagined": encoder.rows(scenes, drills=False)}


def main() -> None:
    parser = arguments(__doc__ or "", episodes=0, context=2048)
    parser.add_argument("--updates", type=int, default=3800)
    parser.add_argument(
        "--decay", type=float, default=1.0, help="share of the updates in which the learning rate falls to 0"
    )
    parser.add_argument("--examine", type=int, default=250, help="updates between two exams")
    parser.add_argument("--examined", type=int, default=60, help="histories of an exam")
    parser.add_argument("--lookup-rate", type=float, default=0.3, help="learning rate of queries and keys, relative")
    parser.add_argument("--probe-weight", type=float, default=0.5, help="of what hidden states should know")
    parser.add_argument("--average", type=float, default=0.995, help="share of the mean weights that an update keeps")
    parser.add_argument("--vocabulary", type=Path, help="use the tokenizer of this base, instead of making one")
    parser.add_argument("--base", type=Path, help="begin with the weights of this base")
    parser.add_argument("--from-progress", type=float, default=0.2, help="where in the curriculum to begin")
    parser.set_defaults(layers=5, mlp=256, tokens_per_batch=1600, lr=3.5e-4)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    names = invented(random.Random(0), INVENTED)
    tokenizer = (
        AutoTokenizer.from_pretrained(args.vocabulary)
        if args.vocabulary
        else make_vocabulary([*HOUSE_NAMES, *names], args.context)
    )
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=SIZE,
        max_position_embeddings=args.context,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=True,
        initializer_range=INITIAL,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    start_to_read(model, tokenizer)
    rows_of = Names(tokenizer, names)
    rows_of.draw(model, rows_of.house, apart=True)
    rows_of.draw(model, rows_of.invented)
    if args.base:
        begin_with(model, tokenizer, args.base)
    untrained = torch.cat([rows_of.house, rows_of.invented])
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    encoder, curriculum = Encoder(tokenizer, rng, args.other_weight, names), Curriculum(names, rng)
    exam = exams(encoder, names, 0, args.examined)
    unseen = {"house": rows_of.invented, "imagined": rows_of.house}
    probes = Probes()
    # Large steps blur the built lookups: they are in queries and keys, and in all attention of the first two layers.
    of_lookups = re.compile(r"[qk]_proj|layers\.[01]\.self_attn")
    lookups = [p for n, p in model.named_parameters() if of_lookups.search(n)]
    others = [p for n, p in model.named_parameters() if not of_lookups.search(n)]
    optimizer = torch.optim.AdamW(
        [
            {"params": lookups, "factor": args.lookup_rate},
            {"params": others, "factor": 1.0},
            {"params": [*probes.parameters()], "factor": 4.0},
        ],
        lr=args.lr,
        betas=(0.95, 0.99),
        weight_decay=0.0,
        fused=True,
    )
    # What is examined and saved: the mean of the weights of late updates, which is ahead of any of them.
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    step, checkpoint = 0, Path(f"{args.output}.pt")
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        probes.load_state_dict(state["probes"])
        optimizer.load_state_dict(state["optimizer"])
        if "averaged" in state:
            averaged.load_state_dict(state["averaged"])
        step = state["step"]
        rng.seed(f"{args.seed}/{step}")
    started, seen, mean, correct, known = time.time(), 0, 0.0, 0.0, 0.0
    pool: list[list[Row]] = []
    while step < args.updates:
        progress = args.from_progress + (1 - args.from_progress) * step / args.updates
        if not pool:
            rows = encoder.rows([curriculum.history(progress) for _ in range(TEXTS)])
            pool = batched(rows, args.tokens_per_batch, rng)
        step += 1
        rate = min(1.0, step / 100, (1 - step / args.updates) / args.decay + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate * group["factor"]
        batch = pool.pop()
        rows_of.draw(model, rows_of.invented)
        layout = Layout(batch)
        losses, weights, right = losses_of(model, layout, rows_of.house, args.bf16)
        rows = model.model.embed_tokens.weight[rows_of.invented, OWN].detach()
        probed = probes(layout, rows, int(rows_of.invented[0]))
        ((losses * weights).sum() / weights.sum() + args.probe_weight * probed).backward()
        known += (probed.item() - known) * (0.02 if step > 50 else 1.0)
        model.model.embed_tokens.weight.grad[untrained] = 0
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update_parameters(model)
        seen += sum(len(row.ids) for row in batch)
        answers = weights == 1
        mean += (losses[answers].mean().item() - mean) * (0.02 if step > 50 else 1.0)
        correct += (right[answers].float().mean().item() - correct) * (0.02 if step > 50 else 1.0)
        if step % 50 == 0:
            print(
                f"{step} loss {mean:.3f} known {known:.3f} words {100 * correct:.1f} %"
                f" {seen / (time.time() - started):,.0f} tokens/s",
                flush=True,
            )
        if step % args.examine == 0 or step == args.updates:
            rows_of.draw(averaged.module, rows_of.invented)  # a mean of many draws is no name
            for kind, asked in exam.items():
                counts = examine(averaged.module, asked, args.tokens_per_batch, unseen[kind])
                print(f"  {kind}: {shown(counts)}", flush=True)
            state = {"model": model, "averaged": averaged, "probes": probes, "optimizer": optimizer}
            torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, checkpoint)
    save(averaged.module, tokenizer, args.output, vars(args))


if __name__ == "__main__":
    main()

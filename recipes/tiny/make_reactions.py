"""Make a base model for `reactions`, which knows other tables by heart and can think with what it knows.

The model is a Llama of about a million parameters. It learns tables with names of their own (from 1000 on), which no
study has: walks of random operations, predictions of the next state, tasks with the expert's action, and tasks with a
thought that lists what operations lead to, as far as is needed, before it chooses. So what it lacks in a study is the
table, and nothing else.

A table's outcomes come first, and only later its tasks, one table after the other. So the model has to use in thoughts
what it has learned from outcomes.

    OMP_NUM_THREADS=1 python recipes/tiny/make_reactions.py -o bases/reactions

It begins with a circuit that repeats what it reads (`small_model.start_with_reading`), and with texts that need nothing
but reading: names to repeat, and thoughts about tables that are told nowhere else, in which only the repeated names and
the end of the search count.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from small_model import Marks, arguments, filled, make_tokenizer, new_model, render, save
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, get_cosine_schedule_with_warmup

from eexp.envs.worlds import reactions as world
from eexp.models.tokenizers import stop_token
from eexp.prompts import get_style

STYLE = str(Path(__file__).parents[1] / "studies" / "reactions.toml")


class Book:
    """A table in words: prompts and answers about it."""

    def __init__(self, number: int, style, names: Sequence[str] = ()):
        self.style, self.table, self.names = style, world.table_of(number), names or world.names_of(number)
        self.words, self.tasks = world.WORDS["substances"], world.tasks_of(number)

    def name(self, thing: int) -> str:
        return self.words.ruined if thing == world.RUINED else self.names[thing]

    def action(self, thing: int, operation: int) -> str:
        return self.words.action.format(operation=self.words.operations[operation], thing=self.name(thing))

    def observation(self, thing: int, before: int | None = None) -> str:
        text = self.words.nothing if thing == before else self.words.holding
        return text.format(thing=self.name(thing))

    def instruction(self, goal: int) -> str:
        return self.words.instruction.format(thing=self.name(goal))

    def listed(self, thing: int) -> list[str]:
        return [self.action(thing, operation) for operation in range(world.OPERATIONS)]

    def thought(self, thing: int, goal: int) -> tuple[str, int]:
        """Return a thought that looks ahead until it finds the goal, and the operation that it chooses."""
        sentences, opened = [], []
        for operation in range(world.OPERATIONS):
            following = self.table[thing, operation]
            sentences.append(self.claim(thing, operation, goal))
            if following == goal:
                return self._decided(sentences, thing, operation)
            if following not in (thing, world.RUINED) and following not in [f for f, _ in opened]:
                opened.append((following, operation))
        for middle, first in opened:
            for operation in range(world.OPERATIONS):
                following = self.table[middle, operation]
                after = "" if operation else f"After {self.action(thing, first)}, "
                sentences.append(after + self.claim(middle, operation, goal))
                if following == goal:
                    return self._decided(sentences, thing, first)
        raise AssertionError("no way of two operations")

    def claim(self, thing: int, operation: int, goal: int) -> str:
        following = self.table[thing, operation]
        end = ", as asked" if following == goal else ""
        return f"{self.action(thing, operation)}: {self._gist(following, thing)}{end}."

    def _gist(self, following: int, before: int) -> str:
        return "Nothing happens" if following == before else f"You hold {self.name(following)}"

    def _decided(self, sentences: list[str], thing: int, operation: int) -> tuple[str, int]:
        return " ".join([*sentences, f"So I {self.action(thing, operation)}."]), operation

    def walk(self, rng: random.Random, steps: int) -> list[dict]:
        thing, goal = rng.randrange(world.SUBSTANCES), rng.randrange(world.SUBSTANCES)
        past, observation = [], self.observation(thing)
        for _ in range(steps):
            operation = rng.randrange(world.OPERATIONS)
            past.append({"observation": observation, "action": self.action(thing, operation)})
            following = self.table[thing, operation]
            observation = self.observation(following, thing)
            thing = following
            if thing == world.RUINED:
                thing = rng.randrange(world.SUBSTANCES)
                observation += " " + self.observation(thing)
        return self.style.act(self.instruction(goal), past, observation)

    def step(self, rng: random.Random) -> tuple[list[dict], int, int]:
        """Return the steps before, the thing held and the goal, of a random task at one of its states."""
        start, goal = rng.choice(self.tasks)
        if rng.random() < 0.5:
            return [], start, goal
        operation = world.shortest_way(self.table, start, goal, world.STEPS)[0]
        past = [{"observation": self.observation(start), "action": self.action(start, operation)}]
        return past, self.table[start, operation], goal

    def prediction(self, rng: random.Random) -> list[dict]:
        past, thing, goal = self.step(rng)
        if not past:
            thing = rng.randrange(world.SUBSTANCES)
        operation = rng.randrange(world.OPERATIONS)
        prompt = self.style.world_model(
            self.instruction(goal), past, self.observation(thing), self.action(thing, operation)
        )
        target = self.style.world_model_answer(self.observation(self.table[thing, operation], thing))
        return [*prompt, *target.messages()]

    def acting(self, rng: random.Random, think: bool) -> list[dict]:
        past, thing, goal = self.step(rng)
        thought, operation = self.thought(thing, goal)
        prompt = self.style.act(self.instruction(goal), past, self.observation(thing), self.listed(thing), think=think)
        return [*prompt, *self.style.answer(self.action(thing, operation), thought if think else None).messages()]


def spelling(style) -> list[str]:
    """Return texts for the tokenizer, in which all beginnings and ends of names are equally frequent."""
    rng, texts = random.Random(0), []
    for _ in range(20000):
        words = world.WORDS["substances"]
        a, b = (rng.choice(world.NAMES) for _ in range(2))
        texts.append(
            f" {rng.choice(words.operations)} {a}: You hold {b}. Make {a}. So I {rng.choice(words.operations)} {b}, {a}"
        )
    book = Book(1000, style)
    rows = [book.acting(rng, rng.random() < 0.5) for _ in range(30)] + [book.prediction(rng) for _ in range(30)]
    return texts + [render(row) for row in rows] * 40


class Row(NamedTuple):
    """A text to train on: its kind, its token ids, and the weight of each token in the loss."""

    kind: str
    ids: np.ndarray
    weights: np.ndarray


class Reader:
    """What of a text can be known, by kind.

    A walk's observations; otherwise the last answer. In a drill, what the table says cannot be known: the names after
    "hold", and whether anything happens, after a colon.
    """

    def __init__(self, tokenizer, context: int, decision: float):
        self.tokenizer, self.context, self.decision = tokenizer, context, decision
        self.marks = Marks(tokenizer)
        self.user, self.hold, self.colon, self.after, self.so = (
            tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "Ġhold", ":", "ĠAfter", "ĠI")
        )

    def rows(self, texts: list[tuple[str, list[dict]]]) -> list[Row]:
        encoded = self.tokenizer([render(messages) for _, messages in texts])["input_ids"]
        return [self._row(kind, np.array(ids[: self.context])) for (kind, _), ids in zip(texts, encoded)]

    def _row(self, kind: str, ids: np.ndarray) -> Row:
        weights = np.zeros(len(ids), dtype=np.float32)
        ends = np.flatnonzero(ids == self.marks.end)
        starts = np.flatnonzero(ids == (self.user if kind == "walk" else self.marks.assistant))
        for start in starts[1:] if kind == "walk" else starts[-1:]:
            weights[start + 1 : next(iter(ends[ends > start]), len(ids)) + 1] = 1.0
        if kind == "fiction":
            weights[1:][np.isin(ids[:-1], [self.hold, self.colon])] = 0.0
        if kind in ("think", "fiction"):  # whether the goal is found, and what leads there
            weights[2:][ids[:-2] == self.hold] *= self.decision
            weights[1:][np.isin(ids[:-1], [self.after, self.so])] *= self.decision
        return Row(kind, ids, weights)


def repeat(rng: random.Random) -> list[dict]:
    text = " ".join(rng.sample(world.NAMES, rng.randint(4, 24)))
    return [{"role": "user", "content": f"Say: {text}"}, {"role": "assistant", "content": f"Say: {text}"}]


class Curriculum:
    """Which texts come when: reading first, then outcomes, then tasks; a later table's outcomes before its tasks.

    Attributes:
        known, told: How many tables have shown their outcomes, and their tasks.
    """

    def __init__(self, books: list[Book], at_once: int, seed: int):
        self.books, self.at_once = books, at_once
        self.known = self.told = at_once
        self._rng, self._fiction, self._left = random.Random(seed), books[0], 0

    def texts(self, number: int, progress: float) -> list[tuple[str, list[dict]]]:
        """Return texts with their kinds, for a time of the training between 0 and 1."""
        later = len(self.books) - self.at_once
        self.known = self.at_once + min(later, int(later * max(0.0, progress - 0.25) / 0.5))
        self.told = self.at_once + min(later, int(later * max(0.0, progress - 0.32) / 0.5))
        if progress < 0.1:
            shares = {"repeat": 0.4, "fiction": 0.4, "walk": 0.1, "predict": 0.1}
        elif progress < 0.25:
            shares = {"repeat": 0.1, "fiction": 0.2, "walk": 0.25, "predict": 0.2, "act": 0.05, "think": 0.2}
        else:
            shares = {"repeat": 0.05, "fiction": 0.15, "walk": 0.15, "predict": 0.15, "act": 0.15, "think": 0.35}
        kinds = self._rng.choices(list(shares), list(shares.values()), k=number)
        return [(kind, self._text(kind)) for kind in kinds]

    def _text(self, kind: str) -> list[dict]:
        rng = self._rng
        match kind:
            case "repeat":
                return repeat(rng)
            case "fiction":
                return self._imagined().acting(rng, True)
            case "walk":
                return rng.choice(self.books[: self.known]).walk(rng, 12)
            case "predict":
                return rng.choice(self.books[: self.known]).prediction(rng)
        return rng.choice(self.books[: self.told]).acting(rng, kind == "think")

    def _imagined(self) -> Book:
        """Return a table that is used for a few texts only, with names of any table."""
        if not self._left:
            number, names = self._rng.randrange(10**6, 10**9), self._rng.sample(world.NAMES, world.SUBSTANCES)
            self._fiction, self._left = Book(number, self.books[0].style, names), 8
        self._left -= 1
        return self._fiction


def batched(rows: list[Row], tokens: int, rng: random.Random) -> list[list[Row]]:
    """Return batches of rows of similar length, up to `tokens` tokens with padding, in any order."""
    batches = filled(sorted(rows, key=lambda row: len(row.ids) + rng.random()), tokens, lambda row: len(row.ids))
    rng.shuffle(batches)
    return batches


def losses_of(model: LlamaForCausalLM, batch: list[Row], bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of all tokens that have a weight, row after row, and these weights."""
    width = max(len(row.ids) for row in batch)
    ids, weights = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width)
    for i, row in enumerate(batch):
        ids[i, : len(row.ids)], weights[i, : len(row.ids)] = torch.from_numpy(row.ids), torch.from_numpy(row.weights)
    chosen = weights[:, 1:] > 0
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        scores = model.lm_head(hidden[chosen])
    losses = cross_entropy(scores.float(), ids[:, 1:][chosen], reduction="none")
    return losses, weights[:, 1:][chosen]


@torch.no_grad()
def play(model, tokenizer, book: Book, tasks, think: bool, most: int) -> float:
    """Return the share of tasks that greedy play solves."""
    model.eval()
    live = [{"thing": s, "goal": g, "past": []} for s, g in tasks]
    done = 0
    for _ in range(world.STEPS):
        prompts = [
            render(
                book.style.act(
                    book.instruction(e["goal"]),
                    e["past"],
                    book.observation(e["thing"]),
                    book.listed(e["thing"]),
                    think=think,
                )
            )
            + "<|assistant|>"
            for e in live
        ]
        if not prompts:
            break
        tokenizer.padding_side = "left"
        batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        out = model.generate(**batch, max_new_tokens=most, do_sample=False, eos_token_id=stop_token(tokenizer))
        texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        going = []
        for e, text in zip(live, texts):
            action = book.style.parse(text).action
            listed = book.listed(e["thing"])
            if action not in listed:
                continue
            e["past"].append({"observation": book.observation(e["thing"]), "action": action})
            e["thing"] = book.table[e["thing"], listed.index(action)]
            if e["thing"] == e["goal"]:
                done += 1
            elif e["thing"] != world.RUINED:
                going.append(e)
        live = going
    model.train()
    return done / len(tasks)


def main() -> None:
    parser = arguments(__doc__ or "", episodes=0, context=1024)
    parser.add_argument("--tables", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=3, help="tables from the beginning; the others come one by one")
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--decision-weight", type=float, default=3.0, help="weight of whether the goal is found")
    parser.set_defaults(
        vocab_size=1500,
        hidden=128,
        layers=4,
        mlp=512,
        heads=4,
        kv_heads=4,
        head_dim=64,
        tokens_per_batch=2048,
        lr=1e-3,
        start="reading",
    )
    args = parser.parse_args()
    style = get_style(STYLE)
    books = [Book(world.FIRST_TABLE_FOR_BASES + i, style) for i in range(args.tables)]
    tokenizer = make_tokenizer(spelling(style), args.vocab_size, args.context)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM.from_pretrained(args.init).float() if args.init else new_model(tokenizer, args)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, args.updates)
    reader, curriculum = (
        Reader(tokenizer, args.context, args.decision_weight),
        Curriculum(books, args.at_once, args.seed),
    )
    rng, started, seen = random.Random(args.seed), time.time(), 0
    pool: list[list[Row]] = []
    means: dict[str, float] = {}
    for step in range(1, args.updates + 1):
        if not pool:
            pool = batched(reader.rows(curriculum.texts(400, step / args.updates)), args.tokens_per_batch, rng)
        batch = pool.pop()
        losses, weights = losses_of(model, batch, args.bf16)
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        seen += sum(len(row.ids) for row in batch)
        for kind, values in by_kind(batch, losses.detach().numpy(), weights.numpy(), args.decision_weight).items():
            means[kind] = 0.98 * means.get(kind, values) + 0.02 * values
        if step % 100 == 0:
            shown = " ".join(f"{kind} {mean:.3f}" for kind, mean in sorted(means.items()))
            print(f"{step} {shown} {seen / (time.time() - started):,.0f} tokens/s", flush=True)
        if step % 1000 == 0 or step == args.updates:
            for k in sorted({0, curriculum.told - 1}):
                tasks = books[k].tasks[::40]
                acts, thinks = (
                    play(model, tokenizer, books[k], tasks, False, 12),
                    play(model, tokenizer, books[k], tasks, True, 420),
                )
                print(f"  table {k}: acts {acts:.2f}, thinks {thinks:.2f}", flush=True)
            if step < args.updates:
                torch.save(model.state_dict(), f"{args.output}.pt")
    save(model, tokenizer, args.output, vars(args))


def by_kind(batch: list[Row], losses: np.ndarray, weights: np.ndarray, decision: float) -> dict[str, float]:
    """Return the mean loss of each kind of text in a batch, and of the decisions whether the goal is found."""
    kinds = np.repeat([row.kind for row in batch], [int((row.weights[1:] > 0).sum()) for row in batch])
    means = {str(kind): float(losses[kinds == kind].mean()) for kind in set(kinds)}
    for kind in {"think", "fiction"} & set(means):
        found = (kinds == kind) & (weights == decision)
        means[f"{kind}-goal"] = float(losses[found].mean()) if found.any() else 0.0
    return means


if __name__ == "__main__":
    main()

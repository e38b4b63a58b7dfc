"""Make a base model for `reactions`, which knows other tables by heart and can think with what it knows.

The model is a Llama of about a million parameters. It learns tables with names of their own (from 1000 on), which no
study has: walks of random operations, predictions of the next state, tasks with the expert's action, and tasks with a
thought that lists what operations lead to, as far as is needed, before it chooses. So what it lacks in a study is the
table, and nothing else.

A table's outcomes come first, and only later its tasks, one table after the other. So the model has to use in thoughts
what it has learned from outcomes.

    OMP_NUM_THREADS=1 python recipes/tiny/make_reactions.py -o bases/reactions

It is not finished. After 3,500 updates a model knows its tables (0.05 nats a token of a predicted state, and thoughts
that list the right outcomes), and solves no task, even of these tables: it does not notice that an outcome is the goal,
and it cannot repeat a name from its prompt that is in none of its tables. `--drills` are texts that train this reading
alone; 1,800 updates with them, from such a model, taught none of it.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import torch
from small_model import Marks, arguments, make_tokenizer, new_model, render, save
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, get_cosine_schedule_with_warmup

from eexp.envs.worlds import reactions as world
from eexp.models.tokenizers import stop_token
from eexp.prompts import get_style

STYLE = str(Path(__file__).parents[1] / "studies" / "reactions.toml")


class Book:
    """A table in words: prompts and answers about it."""

    def __init__(self, number: int, style):
        self.style, self.table, self.names = style, world.table_of(number), world.names_of(number)
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
            sentences.append(f"{self.action(thing, operation)}: {self._gist(following, thing)}.")
            if following == goal:
                return self._decided(sentences, thing, operation)
            if following not in (thing, world.RUINED) and following not in [f for f, _ in opened]:
                opened.append((following, operation))
        for middle, first in opened:
            for operation in range(world.OPERATIONS):
                following = self.table[middle, operation]
                sentences.append(f"{self.action(middle, operation)}: {self._gist(following, middle)}.")
                if following == goal:
                    return self._decided(sentences, thing, first)
        raise AssertionError("no way of two operations")

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

    def matching(self, rng: random.Random) -> list[dict]:
        """Return a task whose outcomes are told, of names of any table: which of them is the goal?"""
        names = rng.sample(world.NAMES, rng.randint(3, 8))
        held, goal = names[0], rng.choice(names[1:])
        keys = [f"{o} {thing}" for thing in (held, rng.choice(names)) for o in self.words.operations]
        actions = sorted(rng.sample(list(dict.fromkeys(keys)), len(names) - 1), key=keys.index)
        told = list(zip(actions, names[1:]))
        if rng.random() < 0.5:  # the thought stops at the goal
            stop = next(i for i, (_, name) in enumerate(told) if name == goal)
            thought = " ".join(f"{action}: You hold {name}." for action, name in told[: stop + 1])
            listed = [action for action, _ in told]
            text = f"You hold {held}. " + " ".join(f"{action}: You hold {name}." for action, name in told)
            prompt = self.style.act(f"Make {goal}.", [], text, listed, think=True)
            action = told[stop][0]
            return [*prompt, *self.style.answer(action, f"{thought} So I {action}.").messages()]
        text = f"You hold {held}. " + " ".join(f"{action}: You hold {name}." for action, name in told)
        prompt = self.style.act(f"Make {goal}.", [], text, [action for action, _ in told])
        action = next(action for action, name in told if name == goal)
        return [*prompt, *self.style.answer(action).messages()]

    def drill(self, rng: random.Random) -> tuple[str, list[dict]]:
        """Return a text that trains reading alone, dense in what can be known, and its kind.

        A list to repeat; whether names are the goal; or what was told of actions, asked in another order.
        """
        kind = rng.choice(["repeat", "equal", "lookup"])
        if kind == "repeat":
            text = " ".join(rng.sample(world.NAMES, rng.randint(8, 24)))
            prompt, answer = f"Say: {text}", f"Say: {text}"
        elif kind == "equal":
            goal, *others = rng.sample(world.NAMES, 12)
            asked = [goal if rng.random() < 0.3 else rng.choice(others) for _ in range(24)]
            prompt = self.instruction_for(goal)
            answer = " ".join(f"You hold {name}. {'So' if name == goal else 'No'}" for name in asked)
        else:
            things = rng.sample(world.NAMES, rng.randint(1, 3))
            keys = [f"{o} {thing}" for thing in things for o in self.words.operations]
            told = [f"{key}: You hold {rng.choice(world.NAMES)}." for key in keys]
            prompt = " ".join(told)
            rng.shuffle(told)
            answer = " ".join(told)
        return kind, [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    def instruction_for(self, name: str) -> str:
        return f"{self.style.acting.task_label} {self.words.instruction.format(thing=name)}"

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


def targets(
    ids: np.ndarray, marks: Marks, every_observation: bool, user: int, period: int, decision: float
) -> np.ndarray:
    """Return the weight of each token in the loss: more where a thought decides whether to go on."""
    weights = np.zeros(len(ids), dtype=np.float32)
    ends = np.flatnonzero(ids == marks.end)
    role = user if every_observation else marks.assistant
    starts = np.flatnonzero(ids == role)
    for start in starts[1:] if every_observation else starts[-1:]:
        weights[start + 1 : ends[ends > start][0] + 1] = 1.0
    after = np.flatnonzero(ids[:-1] == period) + 1
    weights[after] *= decision
    return weights


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
    parser.add_argument("--tables", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=4, help="tables from the beginning; the others come one by one")
    parser.add_argument("--updates", type=int, default=6000)
    parser.add_argument("--outcomes-first", type=float, default=0.15, help="share of the training with more outcomes")
    parser.add_argument("--decision-weight", type=float, default=5.0, help="weight of the words that end a thought")
    parser.add_argument("--drills", type=float, default=0.3, help="share of texts that train reading alone")
    parser.add_argument("--weights", type=Path, help="go on from these weights")
    parser.set_defaults(vocab_size=1500, hidden=128, layers=4, mlp=512, heads=4, kv_heads=4, tokens_per_batch=2048)
    args = parser.parse_args()
    style = get_style(STYLE)
    books = [Book(world.FIRST_TABLE_FOR_BASES + i, style) for i in range(args.tables)]
    tokenizer = make_tokenizer(spelling(style), args.vocab_size, args.context)
    example = [tokenizer.tokenize(" boil " + name) for name in world.names_of(0)]
    print(len(tokenizer), example[:4], max(map(len, example)))
    print(tokenizer.tokenize(render(books[0].acting(random.Random(1), True))))
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM.from_pretrained(args.init).float() if args.init else new_model(tokenizer, args)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    marks, user = Marks(tokenizer), tokenizer.convert_tokens_to_ids("<|user|>")
    period = tokenizer.convert_tokens_to_ids(".")
    held = tokenizer.convert_tokens_to_ids("Ġhold")
    drilled = {"equal": [period], "lookup": [held]}
    if args.weights:
        model.load_state_dict(torch.load(args.weights))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.updates // 20, args.updates)
    rng, started, seen, pool = random.Random(args.seed), time.time(), 0, []
    means: dict[str, float] = {}
    later = args.tables - args.at_once
    for step in range(1, args.updates + 1):
        progress = step / args.updates
        # The outcomes of a later table are shown from its time on; its tasks a twentieth of the training later.
        known = args.at_once + min(later, int(later * max(0.0, progress - args.outcomes_first) / 0.6))
        told = args.at_once + min(later, int(later * max(0.0, progress - args.outcomes_first - 0.05) / 0.6))
        if not pool:
            rows = []
            for _ in range(400):
                if rng.random() < args.drills:
                    kind, messages = books[0].drill(rng)
                    rows.append((kind, messages, False))
                    continue
                chance = rng.random()
                if chance < (0.4 if progress < 0.3 else 0.15):
                    rows.append(("match", books[0].matching(rng), False))
                elif chance < (0.65 if progress < args.outcomes_first else 0.3):
                    rows.append(("walk", rng.choice(books[:known]).walk(rng, 12), True))
                elif chance < (0.8 if progress < args.outcomes_first else 0.45):
                    rows.append(("predict", rng.choice(books[:known]).prediction(rng), False))
                elif chance < (0.83 if progress < args.outcomes_first else 0.62):
                    rows.append(("act", rng.choice(books[:told]).acting(rng, False), False))
                else:
                    rows.append(("think", rng.choice(books[:told]).acting(rng, True), False))
            encoded = tokenizer([render(m) for _, m, _ in rows])["input_ids"]
            items = []
            for (kind, _, whole), ids in zip(rows, encoded):
                ids = np.array(ids[: args.context], dtype=np.int64)
                weights = targets(ids, marks, whole, user, period, args.decision_weight)
                if kind in drilled:  # only what follows these can be known
                    weights[1:] = np.where(np.isin(ids[:-1], drilled[kind]), (weights[1:] > 0) * 1.0, 0.0)
                items.append((kind, ids, weights))
            items.sort(key=lambda item: len(item[1]) + rng.random())
            batch = []
            for item in items:
                if batch and len(item[1]) * (len(batch) + 1) > args.tokens_per_batch:
                    pool.append(batch)
                    batch = []
                batch.append(item)
            pool.append(batch)
            rng.shuffle(pool)
        batch = pool.pop()
        width = max(len(ids) for _, ids, _ in batch)
        ids, weights = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width)
        for row, (_, i, w) in enumerate(batch):
            ids[row, : len(i)], weights[row, : len(i)] = torch.from_numpy(i), torch.from_numpy(w)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            chosen = weights[:, 1:] > 0
            logits = model.lm_head(hidden[chosen])
        losses = cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")
        counts = weights[:, 1:][chosen]
        ((losses * counts).sum() / counts.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        seen += sum(len(i) for _, i, _ in batch)
        kinds = np.repeat([kind for kind, _, _ in batch], (weights[:, 1:] > 0).sum(1).numpy())
        values = losses.detach().numpy()
        for kind in set(kinds):
            mean = float(values[kinds == kind].mean())
            means[kind] = 0.98 * means.get(kind, mean) + 0.02 * mean
        if step % 100 == 0:
            shown = " ".join(f"{kind} {mean:.3f}" for kind, mean in sorted(means.items()))
            print(
                f"{step} {shown} {seen / (time.time() - started):,.0f} tokens/s {time.time() - started:.0f} s",
                flush=True,
            )
        if step % 2000 == 0 or step == args.updates:
            for k in {0, told - 1}:
                tasks = books[k].tasks[::25]
                shares = [
                    play(model, tokenizer, books[k], tasks, think, most) for think, most in ((False, 12), (True, 420))
                ]
                print(f"  table {k}: acts {shares[0]:.2f}, thinks {shares[1]:.2f}", flush=True)
            if step < args.updates:
                torch.save(model.state_dict(), f"{args.output}.pt")
    save(model, tokenizer, args.output, vars(args))


if __name__ == "__main__":
    main()

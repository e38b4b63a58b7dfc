"""Make the tiny base model that ships with eexp, from nothing, in under an hour on one core.

A Llama of about one million parameters with a byte-level BPE of its own, trained on transcripts of *random* play in
houses that no other split uses, with questions in between about what has been seen and what the task says. So it reads
the world's language, as a base model does, and it cannot act: no action that it saw was chosen for a reason.

    export OMP_NUM_THREADS=1
    python recipes/tiny/make_tiny.py -o stage1
    python recipes/tiny/make_tiny.py -o stage2 --init stage1 --seed 1 --lr 2e-3 --episodes 9500
    python recipes/tiny/make_tiny.py -o stage3 --init stage2 --seed 2 --lr 1e-3 --episodes 5000 --sayings 12000
    python recipes/tiny/make_tiny.py -o eexp/data/tiny --init stage3 --seed 3 --lr 1e-3 --episodes 1500 \\
        --sayings 40000

The last two are for words. Play and questions use 172 of the 689 tokens. An adapter leaves the embeddings as they are,
so it cannot teach a token that has none: trained on thoughts in other words, it stayed at 1.2 nats a token after the
second stage and at 0.2 after the third; after the fourth it reaches 0.01. So the model repeats what it is told to say,
in words that no question has.

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
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from eexp.envs.house import ALL_ROOMS, CONTAINERS, ROOM_OF, SPLITS, TREATMENTS, House, _into
from eexp.prompts import get_style

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 2048
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


def episode_length(rng: random.Random, longest: int, stage: int) -> int:
    """Steps of a random play: mostly a glance, where questions are cheap, and some as long as an episode."""
    drawn = rng.random()
    if stage > 1:
        return rng.randint(0, 1) if drawn < 0.4 else rng.randint(2, 6) if drawn < 0.85 else rng.randint(7, longest)
    if drawn < 0.8:
        return rng.randint(0, 1)
    return rng.randint(2, 5) if drawn < 0.92 else rng.randint(6, longest)


def random_play(env: House, task: dict, rng: random.Random, steps: int, stage: int) -> list[dict]:
    """Messages of one episode of random actions, with questions in between; a later stage has more to ask."""
    style = get_style("react")
    seen = env.reset(task)
    known: dict[str, str] = {}  # object -> where it was last seen
    rooms: set[str] = set()
    messages = [{"role": "system", "content": style.acting.system}]
    text = f"{style.acting.task_label} {env.instruction()}\n{seen.text}"
    for turn in range(steps + 1):
        known.update(env._visible())
        rooms.add(env.room)
        kinds = QUESTIONS + LATER_QUESTIONS * 2 if stage > 1 else QUESTIONS
        kinds = rng.sample(kinds, rng.choice([2, 3, 4] if steps < 4 else [0, 1, 2]))
        if env.target in env._visible() and rng.random() < 0.7:
            kinds = [rng.choice([ask_target_in_sight, ask_wanted]), *kinds]
        for ask in dict.fromkeys(kinds):
            question, answer = ask(env, known, rooms, rng)
            messages += [{"role": "user", "content": f"{text}\nQuestion: {question}"},
                         {"role": "assistant", "content": f"Answer: {answer}."}]  # fmt: skip
            text = "Go on."
        if turn == steps or seen.done:
            break
        action = random_action(env, rng, by_verb=stage > 1)
        messages += [{"role": "user", "content": text},
                     {"role": "assistant", "content": style.answer(action).text}]  # fmt: skip
        if action.startswith("take "):
            known.pop(action.split()[1], None)
        seen = env.step(action)
        text = seen.text
    return messages if text == "Go on." else [*messages, {"role": "user", "content": text}]


def random_action(env: House, rng: random.Random, by_verb: bool) -> str:
    """Uniform over the admissible actions (or over their verbs first: more handling), and one in ten that is not."""
    if rng.random() < 0.9:
        actions = env.admissible()
        verb = rng.choice(sorted({a.split()[0] for a in actions})) if by_verb else ""
        return rng.choice([a for a in actions if a.startswith(verb)])
    places = [p.rstrip("*") for ps in ALL_ROOMS.values() for p in ps]
    thing, place = rng.choice(list(env.where)), rng.choice(places)
    return rng.choice([f"go to {rng.choice(list(ALL_ROOMS))}", f"open {place}", f"close {place}", "look",
                       f"take {thing} from {place}", f"put {thing} on {place}"])  # fmt: skip


# -- questions that reading the transcript answers: (env, known, rooms, rng) -> question, answer ---------------------


def ask_where(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(list(known) or [env.target])
    return f"Where is the {thing}?", whereabouts(env, known, thing)


def ask_where_in_sight(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(list(env._visible()) or [env.target])
    return f"Where is the {thing}?", whereabouts(env, known, thing)


def ask_where_target(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "Where is what the task is about?", whereabouts(env, known, env.target)


def whereabouts(env: House, known: dict, thing: str) -> str:
    if env.held == thing:
        return f"{thing}: you hold it"
    return f"{thing} {_into(known[thing])} {known[thing]}" if thing in known else f"{thing}: not seen"


def ask_in_sight(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    here = env._visible()
    thing = rng.choice(list(here)) if here and rng.random() < 0.5 else rng.choice(list(env.where))
    return f"Is the {thing} in sight?", sight(env, thing)


def ask_target_in_sight(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "Is what the task is about in sight?", sight(env, env.target)


def sight(env: House, thing: str) -> str:
    if env.held == thing:
        return f"you hold the {thing}"
    place = env._visible().get(thing)
    return f"yes, {thing} {_into(place)} {place}" if place else f"no {thing}"


def ask_wanted(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    place = env._visible().get(env.target)
    return "What here does the task speak of?", f"{env.target} {_into(place)} {place}" if place else "nothing"


def ask_goal(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "Where does it belong?", f"{_into(env.goal)} the {env.goal}"


def ask_goal_here(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    here = "yes" if env.goal in env._places() else "no"
    return "Is the place where it belongs here?", f"{here}, {env.goal}"


def ask_closed(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    closed = [p for p in env._places() if p in CONTAINERS and p not in env.opened]
    return "What is closed here?", ", ".join(closed) or "nothing"


def ask_held(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "What do you hold?", env.held or "nothing"


def ask_doors(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    left = [room for room in sorted(env.doors[env.room]) if room not in rooms]
    return "Which doors have you not gone through?", ", ".join(left) or "none"


def ask_state(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "How is it now?", f"{env.target}: {', '.join(sorted(env.state[env.target])) or 'as it was'}"


QUESTIONS = [ask_where, ask_where_in_sight, ask_where_target, ask_in_sight, ask_target_in_sight, ask_wanted, ask_goal,
             ask_goal_here, ask_closed, ask_held, ask_doors, ask_state]  # fmt: skip


def ask_how(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    return "How must it be?", TREATMENTS[env.kind][1] if env.kind in TREATMENTS else "as it is"


def ask_needed(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    verb, place = needed(env)
    return "What does the task still need?", f"{verb} {env.target} {_into(place)} {place}"


def ask_needed_here(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    _, place = needed(env)
    here = "yes" if place in env._places() else "no"
    return "Is the place for that here?", f"{here}, {place} is in the {ROOM_OF[place]}"


def ask_room(env: House, known: dict, rooms: set, rng: random.Random) -> tuple[str, str]:
    place = rng.choice(list(ROOM_OF))
    return f"Which room has a {place}?", ROOM_OF[place]


def saying(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[dict]:
    """Messages that ask to repeat a text: words of sentences, or tokens of the vocabulary in any order."""
    if rng.random() < 0.6:
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 12))]
        text = " ".join(word.capitalize() if rng.random() < 0.2 else word for word in words)
    else:
        ids = [rng.randrange(len(SPECIAL), len(tokenizer)) for _ in range(rng.randint(2, 12))]
        text = tokenizer.decode(ids).encode("ascii", "ignore").decode().strip()
    return [{"role": "user", "content": f"Question: Say: {text}"}, {"role": "assistant", "content": f"Answer: {text}"}]


def needed(env: House) -> tuple[str, str]:
    """What the words of the task ask for and has not happened: verb and place."""
    if env.kind == "examine":
        return "look", "lamp"
    place, becomes = TREATMENTS.get(env.kind, ("", ""))
    return ("put", env.goal) if not place or becomes in env.state[env.target] else (env.kind, place)


LATER_QUESTIONS = [ask_how, ask_needed, ask_needed_here, ask_room]


def render(messages: list[dict]) -> str:
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def make_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>",
                                   model_max_length=CONTEXT, chat_template=CHAT_TEMPLATE)  # fmt: skip


def batches(sequences: list[np.ndarray], tokens: int, rng: random.Random) -> list[list[np.ndarray]]:
    """Sequences of like length together, each batch up to `tokens` with its padding, the short ones mostly first."""
    made, batch = [], []
    for s in sorted(sequences, key=len):
        if batch and len(s) * (len(batch) + 1) > tokens:
            made.append(batch)
            batch = []
        batch.append(s)
    made.append(batch)
    return sorted(made, key=lambda b: len(b[-1]) / 1000 + rng.random())


class Marks:
    """Finds the answers in token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.assistant, self.end = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
        self.answer, self.question = (tokenizer(word)["input_ids"][0] for word in ("Answer", "Question"))

    def answers(self, ids: np.ndarray) -> list[tuple[int, int]]:
        """Where each answer begins, and the end mark after its last word."""
        starts = np.flatnonzero((ids[:-1] == self.assistant) & (ids[1:] == self.answer)) + 1
        ends = np.flatnonzero(ids == self.end)
        return [(int(i), int(j)) for i in starts for j in ends[ends > i][:1]]


def padded(batch: list[np.ndarray], marks: Marks, other: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and what each token counts in the loss: 1 in an answer, `other` elsewhere, 0 in the padding."""
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
    """Answers that greedy decoding gets right to the last word, by question."""
    marks, right, asked = Marks(tokenizer), Counter(), Counter()
    for s in held_out:
        best = model(input_ids=torch.from_numpy(s.astype(np.int64))[None]).logits[0].argmax(-1).numpy()
        for i, j in marks.answers(s):
            start = np.flatnonzero(s[:i] == marks.question)[-1]
            words = tokenizer.decode(s[start : start + np.flatnonzero(s[start:] == marks.end)[0]])
            kind = re.sub(r"\b([Ii])s the (?!place)\w+", r"\1s the X", words.removeprefix("Question: "))
            asked[kind] += 1
            right[kind] += bool((best[i : j - 1] == s[i + 1 : j]).all())  # from after "Answer" to the last word
    return {kind: f"{right[kind]}/{asked[kind]}" for kind in sorted(asked)}


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sequences: list[np.ndarray],
          args: argparse.Namespace) -> None:  # fmt: skip
    plan = [batch for epoch in range(args.epochs)
            for batch in batches(sequences, args.tokens_per_batch, random.Random(args.seed + epoch))]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(plan) // 20, len(plan))
    marks, started, seen, shown = Marks(tokenizer), time.time(), 0, 0.0
    for step, batch in enumerate(plan, 1):
        ids, counts = padded(batch, marks, args.other_weight)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(input_ids=ids, use_cache=False).logits
        losses = cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        counts = counts[:, 1:].flatten()
        loss = (losses * counts).sum() / counts.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        seen += sum(map(len, batch))
        shown = loss.item() if step == 1 else 0.95 * shown + 0.05 * loss.item()
        if step % 500 == 0 or step == len(plan):
            rate = seen / (time.time() - started)
            print(f"step {step}/{len(plan)} loss {shown:.3f} {rate:,.0f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--init", type=Path, help="go on with a model that this made: other episodes, more to ask")
    parser.add_argument("--episodes", type=int, default=22_000)
    parser.add_argument("--sayings", type=int, default=0, help="texts to repeat, beside the episodes")
    parser.add_argument("--steps", type=int, default=30, help="longest random play")
    parser.add_argument("--bare", type=float, default=0.5, help="share of the episodes without a system prompt")
    parser.add_argument(
        "--unseen",
        type=float,
        default=0.8,
        help="share left out of the houses where what the task is about is not in sight at once",
    )
    parser.add_argument("--other-weight", type=float, default=0.1, help="what a token that is no answer counts")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--vocab-size", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--mlp", type=int, default=384)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--tokens-per-batch", type=int, default=1024)
    parser.add_argument("--bf16", action="store_true", help="faster where the processor has it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env, style = House(), get_style("react")
    rng = random.Random(args.seed)
    numbers = rng.sample(range(SPLITS["play"]), SPLITS["play"])
    texts = []
    stage = stage_of(args.init) + 1
    while len(texts) < args.episodes + HELD_OUT:
        n = numbers.pop()
        one = random.Random(f"{args.seed}/{n}")
        task = {"id": f"play/{n}", "split": "play"}
        env.reset(task)
        if env.target not in env._visible() and one.random() < args.unseen:
            continue
        played = random_play(env, task, one, episode_length(one, args.steps, stage), stage)
        texts.append(render(played[1:] if one.random() < args.bare else played))
    words = style.predicting
    other = [words.system, words.request, words.open, words.close, STAGE_WORDS]
    if args.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init)
    else:
        tokenizer = make_tokenizer(texts + other * 50, args.vocab_size)
    texts[HELD_OUT:] += [render(saying(tokenizer, random.Random(f"{args.seed}/{n}"))) for n in range(args.sayings)]
    sequences = [np.array(ids, dtype=np.uint16)[:CONTEXT] for ids in tokenizer(texts)["input_ids"]]
    sequences, held_out = sequences[HELD_OUT:], sequences[:HELD_OUT]
    print(f"{len(sequences)} episodes, {sum(map(len, sequences)):,} tokens, longest {max(map(len, sequences))}, "
          f"vocabulary {len(tokenizer)}")  # fmt: skip

    torch.manual_seed(args.seed)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=args.hidden, intermediate_size=args.mlp,
                         num_hidden_layers=args.layers, num_attention_heads=args.heads,
                         num_key_value_heads=args.kv_heads, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
                         initializer_range=0.06, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    model = LlamaForCausalLM.from_pretrained(args.init).float() if args.init else LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, tokenizer, sequences, args)
    for kind, share in check(model, tokenizer, held_out).items():
        print(f"  {share:>9}  {kind}")
    save(model, tokenizer, args.output, vars(args))


def stage_of(init: Path | None) -> int:
    """Which stage a model has been through: 0 for none."""
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


if __name__ == "__main__":
    main()

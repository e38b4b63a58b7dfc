"""Make the tiny base model that ships with eexp, from nothing, in some minutes on two cores.

A Llama of about one million parameters with a byte-level BPE of its own, trained on transcripts of *random* play in
houses that no other split uses, with questions in between about what has been seen and what the task says. So it reads
the world's language, as a base model does, and it cannot act: no action that it saw was chosen for a reason.

    python recipes/tiny/make_tiny.py -o eexp/data/tiny --bf16
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from eexp.envs.house import ALL_ROOMS, CONTAINERS, SPLITS, House, _into
from eexp.prompts import get_style

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 2048
QUESTION_RATE = 0.5  # a question before that share of the actions
# Words of the later training stages, so that the tokenizer has them whole. No statement about how to act.
STAGE_WORDS = """
I need to do this: If I go to open close take put wash heat cool look at, I expect: You That would not work here.
That would change nothing. it would not help with the task. The way to go on is to . So I Expecting: rather than
"""


def random_play(env: House, task: dict, rng: random.Random, steps: int) -> list[dict]:
    """Messages of one episode of random actions, with questions about it in between."""
    style = get_style("react")
    seen = env.reset(task)
    known: dict[str, str] = {}
    messages = [{"role": "system", "content": style.act_system}]
    text = f"{style.task_label} {env.instruction()}\n{seen.text}"
    for _ in range(steps):
        known.update(env._visible())
        if rng.random() < QUESTION_RATE:
            question, answer = ask(env, known, rng)
            messages += [{"role": "user", "content": f"{text}\nQuestion: {question}"},
                         {"role": "assistant", "content": f"Answer: {answer}"}]  # fmt: skip
            text = "Go on."
        action = random_action(env, rng)
        messages += [{"role": "user", "content": text},
                     {"role": "assistant", "content": style.action_text(action)}]  # fmt: skip
        if action.startswith("take "):
            known.pop(action.split()[1], None)
        seen = env.step(action)
        text = seen.text
        if seen.done:
            break
    return [*messages, {"role": "user", "content": text}]


def random_action(env: House, rng: random.Random) -> str:
    """Uniform over the admissible actions, and one in ten that is not."""
    if rng.random() < 0.9:
        return rng.choice(env.admissible())
    places = [p.rstrip("*") for ps in ALL_ROOMS.values() for p in ps]
    thing, place = rng.choice(list(env.where)), rng.choice(places)
    return rng.choice([f"go to {rng.choice(list(ALL_ROOMS))}", f"open {place}", f"close {place}", "look",
                       f"take {thing} from {place}", f"put {thing} on {place}"])  # fmt: skip


def ask(env: House, known: dict[str, str], rng: random.Random) -> tuple[str, str]:
    """A question that reading the transcript answers, and its answer."""
    kind = rng.choice(["where", "where", "task", "task", "goal", "closed", "hold"])
    if kind == "closed":
        closed = [p for p in env._places() if p in CONTAINERS and p not in env.opened]
        return "What is closed here?", f"{', '.join(closed) or 'nothing'}."
    if kind == "hold":
        return "What do you hold?", f"{env.held or 'nothing'}."
    if kind == "goal":
        return "Where does it belong?", f"{_into(env.goal)} the {env.goal}."
    thing = env.target if kind == "task" or rng.random() < 0.3 or not known else rng.choice(list(known))
    question = "Where is what the task is about?" if kind == "task" else f"Where is the {thing}?"
    if env.held == thing:
        return question, f"{thing}: you hold it."
    if thing not in known:
        return question, f"{thing}: not seen."
    return question, f"{thing}: {_into(known[thing])} the {known[thing]}."


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
    """Sequences of like length together, each batch up to `tokens` with its padding, in random order."""
    made, batch = [], []
    for s in sorted(sequences, key=len):
        if batch and len(s) * (len(batch) + 1) > tokens:
            made.append(batch)
            batch = []
        batch.append(s)
    made.append(batch)
    rng.shuffle(made)
    return made


def train(model: LlamaForCausalLM, sequences: list[np.ndarray], args: argparse.Namespace) -> None:
    plan = [batch for epoch in range(args.epochs)
            for batch in batches(sequences, args.tokens_per_batch, random.Random(args.seed + epoch))]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(plan) // 20, len(plan))
    started, seen, shown = time.time(), 0, 0.0
    for step, batch in enumerate(plan, 1):
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full((len(batch), width), -100)
        for row, s in enumerate(batch):
            ids[row, : len(s)] = labels[row, : len(s)] = torch.from_numpy(s.astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        seen += sum(map(len, batch))
        shown = loss.item() if step == 1 else 0.95 * shown + 0.05 * loss.item()
        if step % 100 == 0 or step == len(plan):
            rate = seen / (time.time() - started)
            print(f"step {step}/{len(plan)} loss {shown:.3f} {rate:,.0f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--init", type=Path, help="go on with a model that this made, on other episodes")
    parser.add_argument("--episodes", type=int, default=14_000)
    parser.add_argument("--steps", type=int, default=30, help="longest random play; most episodes are a third of it")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--vocab-size", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--mlp", type=int, default=384)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tokens-per-batch", type=int, default=3072)
    parser.add_argument("--bf16", action="store_true", help="faster where the processor has it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env, style = House(), get_style("react")
    rng = random.Random(args.seed)
    numbers = rng.sample(range(SPLITS["play"]), args.episodes)
    played = [random_play(env, {"id": f"play/{n}", "split": "play"}, random.Random(f"{args.seed}/{n}"),
                          rng.randint(2, 10 if rng.random() < 0.85 else args.steps)) for n in numbers]  # fmt: skip
    texts = [render(m) for m in played]
    other = [style.world_model_system, style.world_model_request, style.target_open, style.target_close, STAGE_WORDS]
    if args.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init)
    else:
        tokenizer = make_tokenizer(texts + other * 50, args.vocab_size)
    sequences = [np.array(ids, dtype=np.uint16)[:CONTEXT] for ids in tokenizer(texts)["input_ids"]]
    print(f"{len(texts)} episodes, {sum(map(len, sequences)):,} tokens, longest {max(map(len, sequences))}, "
          f"vocabulary {len(tokenizer)}")  # fmt: skip

    torch.manual_seed(args.seed)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=args.hidden, intermediate_size=args.mlp,
                         num_hidden_layers=args.layers, num_attention_heads=args.heads,
                         num_key_value_heads=args.kv_heads, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    model = LlamaForCausalLM.from_pretrained(args.init).float() if args.init else LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, sequences, args)
    save(model, tokenizer, args.output, vars(args))


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

"""A small world with functions, and small models whose chat templates show functions."""

from __future__ import annotations

import json
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

from running import ROOT

from eexp.envs import Environment, Observation
from eexp.prompts.calls import format_call, parse_call

TEMPLATES = {path.stem: path.read_text() for path in sorted((ROOT / "tests" / "chat_templates").glob("*.jinja"))}
#: As Llama 3's: a call is an object alone, and the text before it is left out.
TEMPLATES["bare-object"] = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if tools and loop.first %}Answer with {"name": ..., "parameters": ...}. {{ tools | tojson(indent=2) }}
{% endif %}
{%- for call in m.tool_calls or [] -%}
{"name": {{ call.function.name | tojson }}, "parameters": {{ call.function.arguments | tojson }}}
{%- else %}{{ m.content }}{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
#: Templates that show the text before a call.
WITH_THOUGHTS = ["ministral-3", "qwen2.5", "qwen3", "qwen3-coder"]
ENDS = {name: "</s>" if "stral" in name else "<|im_end|>" for name in TEMPLATES}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]"]
SPECIAL += ["[CALL_ID]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
SPECIAL += ["[TOOL_CONTENT]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def function(name: str, description: str, required: list[str] | None = None, **types: str) -> dict:
    """Return the schema of a function."""
    properties = {key: {"type": kind, "description": f"The {key}."} for key, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(types) if required is None else required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


OPEN = function("open_box", "Open the box.", ["number"], number="integer", gently="boolean", options="object")
TAKE = function("take", "Take something out of the open box.", item="string")


class Box(Environment):
    """A box is to be opened by its number; then there is a function to take out what the user names."""

    spec = "tool_world:Box"
    light = True
    max_steps = 6

    def splits(self):
        return ["train", "test"]

    def tasks(self, split):
        return ({"id": f"{split}/{n}", "number": n, "item": f"<|im_end|>\npen {n}"} for n in range(3))

    def reset(self, task):
        self.task, self.opened, self.taken = task, False, False
        return Observation(f"A box with the number {task['number']}.", tools=[OPEN])

    def instruction(self):
        return f"Take {self.task['item']!r} out of the box, and say done."

    def step(self, action):
        if action.startswith("done"):
            return Observation("Thank you." if self.taken else "But no!", done=True, success=self.taken)
        try:
            name, _, arguments = parse_call(action)
        except ValueError as e:
            return Observation(f"{e}, nor done.", valid=False)
        if name == "open_box" and arguments.get("number") == self.task["number"] and not self.opened:
            self.opened = True
            return Observation(f"It opens: {self.task['item']} [TOOL_CALLS]", tools=[OPEN, TAKE])
        if name == "take" and self.opened and arguments == {"item": self.task["item"]}:
            self.taken = True
            return Observation("You have it. </tool_response>")
        return Observation(f"{name} does nothing.", valid=False)

    def expert(self):
        if self.taken:
            return "done: here it is"
        if self.opened:
            return format_call("take", {"item": self.task["item"]})
        return format_call("open_box", {"number": self.task["number"], "gently": True, "options": {"é": [1.5, None]}})

    def fork(self):
        return copy(self)


def expert_trajectory(number: int = 0) -> dict:
    """Return the expert's trajectory of a task, with thoughts."""
    from eexp.acting.expert import expert

    world = Box()
    (trajectory,) = expert(world, iter([list(world.list_tasks("train"))[number]]))
    steps = [{**s, "thought": f"I do {s['action'].partition('(')[0]}.\n\nNow."} for s in trajectory["steps"]]
    return {**trajectory, "steps": steps}


@cache
def tokenizer(template: str, size: int = 600) -> Any:
    """Return a tokenizer of transformers with one of TEMPLATES."""
    import tokenizers
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator([*TEMPLATES.values(), json.dumps([OPEN, TAKE]), *_texts_of_bfcl(size)], trainer)
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, normalized=False) for text in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=ENDS[template],
        chat_template=TEMPLATES[template],
        model_max_length=1 << 20,
    )


def _texts_of_bfcl(size: int) -> list[str]:
    """Return the descriptions of BFCL's functions, for a large vocabulary; they are long."""
    if size <= 600:
        return []
    from eexp.envs.worlds.bfcl import BFCL

    world = BFCL("schema")
    return [json.dumps(world.reset(task).tools) for task in list(world.tasks("train"))[:4]]


def make_model(where: Path, template: str, size: int = 600, context: int = 8192) -> Path:
    """Write a random model of one layer with one of TEMPLATES into a directory; return it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fast = tokenizer(template, size)
    fast.save_pretrained(where)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(where)
    return where

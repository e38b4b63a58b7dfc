"""transformers in process, with PEFT adapters: the reference the other backends are held against."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from eexp.errors import EexpError, InputError
from eexp.models import fingerprints, split_adapter
from eexp.models.base import Model, Sample
from eexp.models.tiny import TINY_DIR
from eexp.prompts import Messages

RUN_FILE = "eexp.json"  # what `eexp finetune` saves beside the weights


def resolve(base: str) -> str:
    """The directory or hub id that transformers is to load."""
    return str(TINY_DIR) if base == "tiny" else base


def read_run(directory: str | os.PathLike) -> dict:
    """What `eexp finetune` said about the weights in `directory`; empty where it did not make them."""
    path = Path(directory) / RUN_FILE
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> dict:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as e:
        raise EexpError(f"{path}: cannot be read: {e}") from None
    if not isinstance(found, dict):
        raise EexpError(f"{path}: not a JSON object")
    return found


def base_of_adapter(adapter: str) -> str:
    """The base model a PEFT adapter names."""
    config = _read_json(Path(adapter) / "adapter_config.json")
    run = read_run(adapter)
    base = run.get("base") or config.get("base_model_name_or_path")
    if not base:
        raise EexpError(f"{adapter}: does not name its base model; give hf:BASE+{adapter}")
    return base


def load(base: str, adapter: str | None = None, *, trainable: bool = False, dtype: Any = "auto") -> tuple[Any, Any]:
    """(model, tokenizer) of a directory or hub id, with its adapter if there is one.

    Raises EexpError where one is missing, or where the adapter was made for another base.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = resolve(base)
    if (source.startswith((".", "/")) or source.count("/") > 1) and not os.path.isdir(source):
        raise EexpError(f"model directory not found: {source}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except Exception as e:  # a damaged file fails in a dozen libraries' own ways
        raise EexpError(f"{source}: cannot be loaded: {_reason(e)}") from None
    if not tokenizer.chat_template:
        raise EexpError(f"{source}: has no chat template; eexp prompts are chats, take an instruction-tuned model")
    if model.dtype == torch.float16 and not torch.cuda.is_available():
        model = model.float()  # half precision is slow and inexact on a CPU
    if adapter:
        model = _with_adapter(model, source, adapter, trainable)
    return model, tokenizer


def _with_adapter(model: Any, base: str, adapter: str, trainable: bool) -> Any:
    from peft import PeftModel

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise EexpError(f"{adapter}: not a PEFT adapter (no adapter_config.json)")
    wanted = read_run(adapter).get("base_fingerprint")
    found = fingerprints.of_model_dir(base) if os.path.isdir(base) else None
    if wanted and found and wanted != found:
        raise EexpError(f"{adapter}: made for another base model ({wanted}) than {base} ({found})")
    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except Exception as e:
        raise EexpError(f"{adapter}: does not fit {base}: {_reason(e)}") from None


def _reason(error: Exception) -> str:
    """The line of an error that tells most."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in said if "mismatch for" in line), said[0])


class HfModel(Model):
    """A model through transformers' `generate`, on the GPU where there is one."""

    def __init__(self, spec: str, *, context: int | None = None):
        import torch

        self.spec = spec
        base, adapter = split_adapter(spec.removeprefix("hf:"))
        if adapter is None and (Path(base) / "adapter_config.json").is_file():
            base, adapter = base_of_adapter(base), base
        self._model, self._tokenizer = load(base, adapter)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device).eval()
        dirs = [d for d in (resolve(base), adapter) if d and os.path.isdir(d)]
        self.fingerprint = "+".join(filter(None, map(fingerprints.of_model_dir, dirs))) or base
        self.prompt_style = read_run(adapter or resolve(base)).get("prompt_style")
        self._n_ctx = context or getattr(self._model.config, "max_position_embeddings", None) or 8192

    def sample(self, prompts: Sequence[Messages], n: int, *, temperature: float, max_tokens: int,
               seeds: Sequence[int]) -> list[list[Sample]]:  # fmt: skip
        return [self._sample_one(p, n, temperature, max_tokens, s) for p, s in zip(prompts, seeds)]

    def _sample_one(self, prompt: Messages, n: int, temperature: float, max_tokens: int, seed: int) -> list[Sample]:
        import torch

        inputs = self._tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt",
                                                     return_dict=True).to(self._device)  # fmt: skip
        length = inputs["input_ids"].shape[1]
        if length + max_tokens > self._n_ctx:
            raise InputError(f"the prompt has {length} tokens and the answer may take {max_tokens}, but the context of "
                             f"{self.spec} holds {self._n_ctx}: give a smaller --max-tokens")  # fmt: skip
        how: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "num_return_sequences": n}
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = self._model.generate(**inputs, **how, max_new_tokens=max_tokens, return_dict_in_generate=True,
                                       output_logits=True,
                                       pad_token_id=self._tokenizer.pad_token_id)  # fmt: skip
        drawn = out.sequences[:, length:]
        logprobs = torch.stack(out.logits, 1).float().log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        samples = [self._as_sample(row, scores) for row, scores in zip(drawn, logprobs)]
        return samples if temperature > 0 else samples * n

    def _as_sample(self, ids: Any, logprobs: Any) -> Sample:
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or [])
        tokens = ids.tolist()
        stop = next((i for i, t in enumerate(tokens) if t in ends), None)
        used = len(tokens) if stop is None else stop + 1
        text = self._tokenizer.decode(tokens[: used if stop is None else stop], skip_special_tokens=True)
        return Sample(text, float(logprobs[:used].sum()), used - (stop is not None), stop is not None)

"""The model of a training run: opened, checked, and with the adapter that is trained."""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eexp.errors import EexpError, UsageError
from eexp.models.backends import hf
from eexp.models.backends.adapters import new_adapter
from eexp.models.backends.kernels import refuse_crash
from eexp.models.devices import local_device, prefers_bfloat16
from eexp.records.runs import is_adapter, resolve_base
from eexp.training import memory, recurrence, sharding
from eexp.training.distributed import asks_for_sharding, local_rank
from eexp.training.settings import Settings


def check_packages(settings: Settings) -> None:
    """Raise an error if a package or a device that the settings ask for is missing.

    Raises:
        EexpError: The package for `report_to` or for 4 bits is not installed, or FSDP is asked for and not possible.
        UsageError: Weights that are trained cannot be in 4 bits.
    """
    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
    if settings.report_to and not any(map(_is_installed, packages[settings.report_to])):
        raise EexpError(f"--report-to {settings.report_to}: its package is missing; pip install {settings.report_to}")
    if settings.load_in_4bit and settings.full:
        raise UsageError("--load-in-4bit freezes the weights that --full trains; give one")
    if settings.load_in_4bit and not _is_installed("bitsandbytes"):
        raise EexpError("--load-in-4bit: its package is missing; pip install 'eexp[qlora]'")
    sharding.check_request(settings.load_in_4bit, settings.keep_optimizer)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # sys.modules has None for it, which keeps it from being imported
        return False


def open_model(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, torch.dtype]:
    """Load the model to train, with `settings.init` or a new adapter unless all weights are trained.

    The random state decides the weights of a new adapter.

    Returns:
        The model, its tokenizer, and the type to compute in. A model with an adapter is a PeftModel, which passes
        everything else on to the model below it.

    Raises:
        UsageError: The base is no model that can be trained, or does not fit the other settings.
        EexpError: It is not there, cannot be loaded, or needs more memory than is free.
    """
    if settings.full and settings.keep_optimizer:
        raise UsageError("--keep-optimizer is for adapters: --full has no --init to go on with")
    if settings.full and settings.init:
        raise UsageError("--full trains all weights; to go on with a full model give it as -m, --init is for adapters")
    if settings.base.endswith(".gguf") or settings.base.startswith(("http:", "https:")):
        raise UsageError(
            f"{settings.base}: training needs the weights: a directory or a hub id, no GGUF file and no server"
        )
    if is_adapter(resolve_base(settings.base)):
        raise UsageError(f"{settings.base}: an adapter; give its base as -m, and it as --init to go on with it")
    dtype = computed_dtype(settings)
    refuse_crash(dtype, settings.load_in_4bit)
    # Weights that are trained are not in bfloat16: at the usual learning rates a step is smaller than its precision.
    weights = torch.float32 if settings.full else dtype
    memory.check(
        settings.base,
        weights,
        full=settings.full,
        four_bit=settings.load_in_4bit,
        trust_remote_code=settings.trust_remote_code,
    )
    model, tokenizer = hf.load_model(
        settings.base,
        settings.init,
        trainable=True,
        dtype=weights,
        four_bit=settings.load_in_4bit,
        trust_remote_code=settings.trust_remote_code,
    )
    if not settings.load_in_4bit and not asks_for_sharding():
        # So that exactness is checked where the run will compute. `to` has a decorator without types.
        model.to(local_device(local_rank()))  # pyright: ignore[reportArgumentType]
    if not settings.full and not settings.init:
        # Dropout 0: a shared prefix would be dropped differently for every example that shares it.
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules="all-linear",
            exclude_modules=bypassed_modules(model),
            lora_dropout=0.0,
            use_rslora=settings.rslora,
            task_type="CAUSAL_LM",
        )
        model = new_adapter(model, config)
    if isinstance(model, PeftModel):  # a run writes a card of its own; PEFT's takes longer than a small adapter
        setattr(model, "create_or_update_model_card", lambda directory: None)  # noqa: B010 (a method for type checkers)
    for module in model.modules():
        if isinstance(module, LoraLayer) and dtype != torch.float32:
            # Autocast converts a layer's input. PEFT would do so before, and every layer would keep a copy of its own.
            module.cast_input_dtype_enabled = False
    return cast(PreTrainedModel, model), cast(PreTrainedTokenizerBase, tokenizer), dtype


def computed_dtype(settings: Settings) -> torch.dtype:
    """Return the type that passes are computed in."""
    if settings.dtype == "auto":
        return torch.bfloat16 if prefers_bfloat16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def bypassed_modules(model: torch.nn.Module) -> list[str] | None:
    """Return the names of linear modules that an adapter cannot be on; None where there are none.

    The kernels of Mamba layers, which have a skip weight D, read the weight of their last projection past its module.
    """
    layers = [layer for layer, _ in recurrence.layers_with_state(model).values()]
    return ["out_proj"] if any(hasattr(layer, "D") for layer in layers) else None


def experts_warning(model: PreTrainedModel) -> str | None:
    """Return a warning if a mixture of experts has an adapter without its experts; else None.

    PEFT's "all-linear" does not find weights that are three-dimensional.
    """
    experts = [p for name, p in model.named_parameters() if "experts" in name]
    if not experts or any(p.requires_grad for p in experts):
        return None
    share = sum(p.numel() for p in experts) / sum(p.numel() for p in model.parameters())
    return f"the adapter leaves the experts alone, {100 * share:.0f} % of the weights"

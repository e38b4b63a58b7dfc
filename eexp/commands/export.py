"""`eexp export`: write models of PEFT or transformers as GGUF."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, option
from eexp.settings import FILE, REQUIRED, Word
from eexp.system.terminal import tell


@click.command("export")
@click.argument("directory", type=PATH, metavar="DIR")
@option(REQUIRED, "-o", "--output", type=FILE).help("The GGUF file to write.")
@option(None, "--type", "dtype", type=Word(["f32", "f16", "bf16", "q8_0", "q4_k_m"])).help(
    "Weights as stored; q8_0 and q4_k_m, for full models, by llama.cpp's own quantiser.  "
    "[default: f16; f32 for adapters]"
)
@option(None, "--base", type=FILE, metavar="DIR", envvar="EEXP_BASE").help(
    "The adapter's base model.  [default: the one it names]"
)
@option(False, "-q", "--quiet").help("No summary on standard error.")
def command(directory: str, output: str, dtype: str | None, base: str | None, quiet: bool) -> None:
    """Write an adapter or a model as GGUF, for llama.cpp.

    DIR holds a PEFT LoRA adapter or a full model of the Llama, Qwen2, Qwen3, Qwen3.5 or LFM2 family; `tiny` is the
    built-in model. Export the base once and each adapter by itself, then use them as -m base.gguf+adapter.gguf.

    \b
    Example:
      eexp export tiny -o tiny.gguf
    """
    from eexp.gguf.export import export
    from eexp.records.runs import is_adapter

    facts = export(directory, output, dtype=dtype, base=base if is_adapter(directory) else None)
    if not quiet:
        tell(f"export: {output}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))

"""The kinds of models: one table, from which `eexp models`, manual pages, completion and messages are made.

What opens them is in `BACKENDS`. Other packages add backends under the entry-point group `eexp.models`: a name, and the
path of a function that takes a spec, `NAME` or `NAME:TARGET`, and an `Engine`, and returns a `Model`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eexp.data import BUILT_IN, TINY
from eexp.system.plugins import Entry, Registry


@dataclass(frozen=True)
class ModelKind:
    """One kind of model."""

    spec: str  # how it is written on the command line; the words in capitals are placeholders
    example: str  # such a spec
    summary: str  # what it is, for lists
    needs: str = ""  # what it needs beside the spec, for lists; empty where it needs nothing

    @property
    def beginning(self) -> str:
        """The part of the spec before its first placeholder or option: `hf:`, `http://`, `tiny`."""
        return re.split("[A-Z[]", self.spec)[0]

    @property
    def line(self) -> str:
        """What it is and what it needs, as a list shows it beside the spec."""
        return self.summary + (f" ({self.needs})" if self.needs else "")


RANDOM = ModelKind("random", "random", "any admissible action", needs="branch, eval and follow")
EXPERT = ModelKind("expert", "expert", "the environment's own expert", needs="eval and follow")

KINDS = (
    ModelKind("FILE.gguf[+ADAPTER.gguf]", "base.gguf+agent.gguf", "llama.cpp, in process"),
    ModelKind(
        "hf:DIR_OR_ID[+ADAPTER]",
        "hf:Qwen/Qwen3-0.6B+agent",
        "transformers and PEFT; `hf:` may be left out before a directory",
    ),
    ModelKind(
        "http://HOST/v1#NAME",
        "http://localhost:8000/v1#name",
        "any OpenAI-compatible server",
        needs="key: EEXP_API_KEY",
    ),
    ModelKind("FLEET.toml", "fleet.toml", "one model at several servers; or http://A/v1#NAME,http://B/v1#NAME"),
    *(
        ModelKind(f"{name}[+ADAPTER.gguf]", f"{name}+agent.gguf", f"built in, {purpose}")
        for name, purpose in BUILT_IN.items()
    ),
    RANDOM,
    EXPERT,
)
GGUF, TRANSFORMERS, HTTP, FLEET = "gguf", "transformers", "http", "fleet"
BACKENDS = Registry(
    "eexp.models",
    "model",
    {
        GGUF: ("eexp.models.opening:open_gguf", "llama.cpp, in process: FILE.gguf[+ADAPTER.gguf], tiny"),
        TRANSFORMERS: ("eexp.models.opening:open_transformers", "transformers and PEFT: hf:DIR_OR_ID[+ADAPTER]"),
        HTTP: ("eexp.models.opening:open_http", "any OpenAI-compatible server: http://HOST/v1#NAME"),
        FLEET: ("eexp.models.opening:open_fleet", "one model at several servers: FLEET.toml"),
    },
)
#: Policies without a language model, which some commands take in place of a model.
MODEL_FREE = frozenset({RANDOM.spec, EXPERT.spec})
DEFAULT_MODEL = TINY


def spec_list() -> str:
    """Return the specs of all kinds as a list in words."""
    *specs, last = [kind.spec for kind in KINDS] + [f"{entry.name}[:TARGET]" for entry in usable_backends()]
    return f"{', '.join(specs)} or {last}"


def completions(incomplete: str) -> list[str]:
    """Return the beginnings of specs that begin with `incomplete`, for a shell; file names complete themselves."""
    beginnings = [kind.beginning for kind in KINDS if kind.beginning] + [entry.name for entry in usable_backends()]
    return [beginning for beginning in beginnings if beginning.startswith(incomplete)]


def usable_backends() -> list[Entry]:
    """Return the backends of other packages that can be used."""
    return [entry for entry in BACKENDS.others() if not entry.problem]

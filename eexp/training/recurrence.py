"""Layers with a state (gated delta nets, Mamba 2, short convolutions) within trees.

Such a layer reads tokens in the order in which they are written, which in a tree is that of no row. Attention and
feed-forward parts of a model still compute the whole tree at once. Only the layers with a state are called again and
again inside a forward pass of the model: each call computes several runs of tokens as a batch, and each run starts from
the state at the end of the one that it continues, so that a gradient flows back through states as within a row.

    rows     a b c d      runs     a b    from no state
             a b c e               c      from the state after b
             a b f                 f      from the state after b
                                   d      from the state after c
                                   e      from the state after c

A run is a segment of the tree (tokens without a branch), with two exceptions. A segment that is short and branches is
computed at the beginning of each of its children instead, since a call costs more than a few tokens do. (That also
keeps a run that has a state before it from being a single token, whose state layers compute in place, out of
autograd's sight.) And runs that nothing continues need no state at their end, so they all go last, padded side by side.

The layer's own code does all this: transformers' layers with a state read and write it through a cache, and most can
continue from it with any number of tokens. The cache that they are given here hands out the states of the runs and
takes new ones, but changes none. Whichever kernels a model uses are used here, too. (The other way, a forward pass of
the whole model for each run, would need no interface of layers, but as many small passes as there are runs, and would
make the attention layers of a hybrid model wait as well.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from inspect import signature
from typing import Any, Protocol

import torch

from eexp.errors import EexpError
from eexp.training.trie import Tree, segments_of

SHORTEST = 32  # tokens of a run whose state is kept; a call for fewer costs more than to compute them again

_CACHES = ("cache_params", "past_key_values")  # names of the argument that holds a layer's state

States = dict[tuple[str, int], torch.Tensor]  # (kind, number) -> [runs, ...]


@dataclass
class TokenRun:
    """Tokens of a path that a layer computes in one go."""

    tokens: list[int]  # their indices in the tree
    before: int | None  # index of the run at whose end it starts; None for one that starts at a root
    continued: bool  # whether other runs start at its end
    level: int  # number of runs before it on its path


@dataclass
class WalkStep:
    """A call of a layer: R runs side by side, padded at their ends to N tokens."""

    tokens: torch.Tensor  # [R, N] indices in the tree; padding repeats the run's last token
    sources: list[int]  # earlier steps whose states, side by side, have those that the runs start from; empty for none
    rows: torch.Tensor  # [R] which of these states each run starts from
    continued: bool  # whether later steps start at its end


@dataclass
class Walk:
    """The calls that compute a tree of T tokens."""

    steps: list[WalkStep]  # the calls, in order
    places: torch.Tensor  # [T] where the output of each token is among those of all calls, [R * N] each


class WalkedTree(Protocol):
    """A tree as a layer with a state needs it."""

    @property
    def walk(self) -> Walk:
        """The calls that compute it."""
        ...

    def __len__(self) -> int: ...


def runs_of(tree: Tree, shortest: int | None = None) -> list[TokenRun]:
    """Return the runs of a tree; one that is continued has at least `shortest` tokens, SHORTEST by default."""
    shortest = max(2, shortest or SHORTEST)
    segments = segments_of(tree)
    branching = {segment.parent for segment in segments}
    runs: list[TokenRun] = []
    ends: list[tuple[int | None, list[int]]] = []  # of segments: the run that goes on there, and tokens after its end
    for n, segment in enumerate(segments):
        before, tokens = (None, []) if segment.parent is None else ends[segment.parent]
        tokens = [*tokens, *range(segment.start, segment.end)]
        if n in branching and len(tokens) < shortest:
            ends.append((before, tokens))
            continue
        ends.append((len(runs), []))
        runs.append(TokenRun(tokens, before, n in branching, 0 if before is None else runs[before].level + 1))
    return runs


def plan_walk(tree: Tree, device: torch.device | str = "cpu", shortest: int | None = None) -> Walk:
    """Return the calls for a tree."""
    runs = runs_of(tree, shortest)
    steps: list[WalkStep] = []
    places = torch.zeros(len(tree.tokens), dtype=torch.long)
    step_and_row: dict[int, tuple[int, int]] = {}  # of each run
    offset = 0
    for members in _batches(runs):
        length = max(2, *(len(runs[n].tokens) for n in members))  # with a state, a single token is computed in place
        tokens = torch.tensor([(path := runs[n].tokens) + path[-1:] * (length - len(path)) for n in members])
        origins = [step_and_row[before] for n in members if (before := runs[n].before) is not None]
        sources = sorted({step for step, _ in origins})
        starts, size = {}, 0
        for source in sources:
            starts[source] = size
            size += len(steps[source].tokens)
        rows = torch.tensor([starts[step] + row for step, row in origins], dtype=torch.long)
        for row, n in enumerate(members):
            step_and_row[n] = len(steps), row
            path = runs[n].tokens
            places[path] = offset + row * length + torch.arange(len(path))
        offset += tokens.numel()
        steps.append(WalkStep(tokens.to(device), sources, rows.to(device), runs[members[0]].continued))
    return Walk(steps, places.to(device))


def _batches(runs: list[TokenRun]) -> list[list[int]]:
    """Return the runs of each call, as indices.

    Runs that are continued are together if they have the same length, since padding would change their last state. The
    others are together if the shorter ones have at least half of the tokens, or if all have few.
    """
    inner: dict[tuple[int, int], list[int]] = {}
    for n, run in enumerate(runs):
        if run.continued:
            inner.setdefault((run.level, len(run.tokens)), []).append(n)
    batches = [inner[key] for key in sorted(inner)]
    leaves = [n for n, run in enumerate(runs) if not run.continued]
    for is_first in (True, False):  # those that start from no state, and those that start from one
        group = [n for n in leaves if (runs[n].before is None) == is_first]
        longest = 0
        for n in sorted(group, key=lambda n: -len(runs[n].tokens)):
            length = len(runs[n].tokens)
            if not longest or (longest > 2 * SHORTEST and 2 * length < longest):
                batches.append([])
                longest = length
            batches[-1].append(n)
    return batches


class RunStates:
    """The states of one call, in place of transformers' cache.

    A layer takes those at the start and leaves those at the end. What it asks for beyond that raises EexpError, so that
    its model is refused.
    """

    def __init__(self, starts: States) -> None:
        self._starts = starts
        self.ends: States = {}

    def __getattr__(self, name: str) -> Any:
        raise EexpError(f"a layer with a state asks its cache for {name}")

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the last inputs of a convolution."""
        return self._starts.get(("conv", state_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the state of a recurrence."""
        return self._starts.get(("recurrent", state_idx))

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None
    ) -> torch.Tensor:
        """Return the inputs of a convolution with those before them.

        Args:
            conv_states: [runs, channels, tokens] the new inputs.
            layer_idx, state_idx: The layer, and which of its convolutions it is.
            conv_kernel_size: How many of the last inputs are kept; as many as before by default.
        """
        before = self._starts.get(("conv", state_idx))
        inputs = conv_states if before is None else torch.cat([before, conv_states], -1)
        size = conv_kernel_size or (conv_states if before is None else before).shape[-1]
        kept = inputs[..., -size:]
        self.ends["conv", state_idx] = torch.nn.functional.pad(kept, (size - kept.shape[-1], 0))
        return inputs

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0
    ) -> torch.Tensor:
        """Take the state of a recurrence at the ends of the runs."""
        self.ends["recurrent", state_idx] = recurrent_states
        return recurrent_states

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return True: what came before is kept, so that nothing is changed in place."""
        return True


def walk_tree(
    call: Callable[[torch.Tensor, RunStates], torch.Tensor], inputs: torch.Tensor, walk: Walk
) -> torch.Tensor:
    """Return what a layer with a state computes for a tree of T tokens.

    Args:
        call: The layer: ([runs, tokens, width], their states) -> outputs of that shape.
        inputs: [1, T, width].
        walk: The calls.
    """
    states: list[States] = []
    outputs = []
    for step in walk.steps:
        sources = [states[n] for n in step.sources]
        memory = RunStates({name: torch.cat([s[name] for s in sources])[step.rows] for name in (sources or [{}])[0]})
        part = call(inputs[0].index_select(0, step.tokens.flatten()).unflatten(0, step.tokens.shape), memory)
        outputs.append(part.flatten(0, 1))
        states.append(memory.ends if step.continued else {})
    return torch.cat(outputs).index_select(0, walk.places)[None]


def layers_with_state(model: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, str]]:
    """Return a model's layers that have a state, by name, each with the name of the argument for its cache.

    They take `cache_params`, as blocks around them may, too; or they convolve and take `past_key_values`.
    """
    found: dict[str, tuple[torch.nn.Module, str]] = {}
    parameters_of = cache(lambda forward: signature(forward).parameters)  # modules of a kind share their function
    for name, module in model.named_modules():
        parameters = parameters_of(getattr(module.forward, "__func__", module.forward))
        convolves = any(isinstance(child, torch.nn.Conv1d) for child in module.children())
        for argument in _CACHES:
            if argument in parameters and (convolves or argument == "cache_params"):
                found[name] = module, argument
    outer = {
        name for name in found if any(other.startswith(f"{name}." if name else "") for other in found if other != name)
    }
    return {name: value for name, value in found.items() if name not in outer}


def install(model: torch.nn.Module) -> None:
    """Let the layers of a model that have a state compute trees wherever the model is given one. Safe to call twice.

    Args:
        model: The model of transformers, without what wraps it.
    """
    if hasattr(model.forward, "_eexp_tree"):
        return
    current: list[WalkedTree | None] = [None]  # some models do not pass it on to their layers
    for layer, argument in layers_with_state(model).values():
        layer.forward = _in_trees(layer.forward, argument, current)
    plain = model.forward

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        current[0] = kwargs.get("tree")
        return plain(*args, **kwargs)

    setattr(forward, "_eexp_tree", True)  # noqa: B010 (a function has no such attribute for type checkers)
    model.forward = forward


def _in_trees(plain: Callable, argument: str, current: list[WalkedTree | None]) -> Callable:
    """Return the `forward` of a layer for trees as well as for rows.

    Args:
        plain: The layer's own.
        argument: The name of its argument for the cache.
        current: The tree of the present pass, if there is one.
    """

    @wraps(plain)
    def forward(hidden_states: torch.Tensor, *args: Any, tree: WalkedTree | None = None, **kwargs: Any) -> torch.Tensor:
        tree = current[0] if tree is None else tree
        if tree is None:
            return plain(hidden_states, *args, **kwargs)
        if hidden_states.shape[:2] != (1, len(tree)):
            raise EexpError("a layer with a state is given other tokens than those of the tree")
        return walk_tree(lambda inputs, states: plain(inputs, **{argument: states}), hidden_states, tree.walk)

    return forward


def not_continued(model: torch.nn.Module, width: int, dtype: torch.dtype) -> list[str]:
    """Return the kinds of a model's layers with a state that do not compute a text exactly when they continue from it.

    Some read no state unless they are given a single token, and some kernels give a state no gradient.

    Args:
        width: Of what its layers read.
    """
    kinds = {type(layer): (layer, argument) for layer, argument in layers_with_state(model).values()}
    return [kind.__name__ for kind, (layer, argument) in kinds.items() if not _continues(layer, argument, width, dtype)]


def _continues(layer: torch.nn.Module, argument: str, width: int, dtype: torch.dtype) -> bool:
    """Return whether a layer computes random numbers in two halves as at once, with the same gradient.

    What a state changes may be hidden by all else, so each must also have a gradient of its own.
    """
    weight = next(p for p in layer.parameters() if p.is_floating_point())  # those in 4 bits are not
    generator = torch.Generator().manual_seed(0)
    text, direction = (torch.randn(1, 16, width, generator=generator).to(weight) for _ in range(2))
    text.requires_grad_()
    first = RunStates({})
    try:
        with torch.enable_grad(), torch.autocast(weight.device.type, dtype, enabled=dtype.itemsize < 4):
            at_once = layer(text)[:, 8:]
            layer(text[:, :8], **{argument: first})
            continued = layer(text[:, 8:], **{argument: RunStates(first.ends)})
        (expected,) = torch.autograd.grad(at_once, text, direction[:, 8:].to(at_once))
        variables = [text, *first.ends.values()]
        gradient, *of_states = torch.autograd.grad(
            continued, variables, direction[:, 8:].to(continued), allow_unused=True
        )
    except (EexpError, TypeError, RuntimeError):  # RuntimeError: from autograd, where something has no gradient
        return False
    if not of_states or any(g is None or not g.any() for g in of_states):
        return False
    tolerance = 1e-4 if dtype.itemsize >= 4 else 0.05
    pairs = ((at_once.detach(), continued.detach()), (expected, gradient))
    return all(float((a - b).norm()) <= tolerance * float(a.norm()) for a, b in pairs)

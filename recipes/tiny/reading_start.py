"""Set the weights of a new model so that it can look up what it has read, before any training.

Models of this size do not find these lookups by themselves in an affordable time (`small_model.start_with_reading`
has one of them). Each is a head that is built, and trained further with all other weights. The dimensions of the
residual stream are divided among what a position knows:

    own        the token itself; a first dimension is the same for all tokens, and a last one marks names
    before     the token before
    second     32 projections of the token two before
    third      whether the token three before is one of a few words
    asked      projections of the last name so far: in a question, the name that is asked about
    room       of the name after the last "are in the"
    place      of the name two after the last mention of what is asked, as in "X in P"
    target     of the task's first name
    goal       of the name at the end of the task
    kind       of the last words of the question, and of its first one
    rooms      of the rooms where what is asked, the task's place and its thing were last seen
    here       whether these are the room of now, by products of both; and whether what is asked was closed
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SIZE, HEADS = 64, 4  # of a head, and heads in a layer
THIRD_WORDS = ("Ġare", "Ġtake", "Ġhold", "Ġput", "ĠPut", "ĠLook")
OWN, CONST, NAME = slice(1, 48), 0, 48
BEFORE, SECOND, THIRD, ASKED, ROOM, PLACE, TARGET, GOAL, KIND, ASKED_ROOM, GOAL_ROOM, TARGET_ROOM, HERE = (
    slice(a, b) for a, b in itertools.pairwise([49, 96, 128, 134, 166, 194, 218, 242, 266, 296, 324, 352, 380, 384])
)
WIDTH = HERE.stop
ROOMS = ROOM.stop - ROOM.start
# The word two before, and the word itself, after a name that does not tell where it is: in actions, and in questions.
NOT_THERE = ("Ġthe", "Ġopen", "Ġtake", "Ġput", "Ġfrom", "Ġplace"), ("<|end|>", "?", ":", "Ġhere")
OTHERS = (
    ", . .Ċ Ċ ĠYou You Ġsee Ġin Ġon Ġclosed Ġempty Ġare ĠDoors : Action ĠAction Ġgo Ġto Ġdo Ġnot Ġhold Ġfrom ĠPut ĠLook"
    " Ġunder Ġat <|user|> <|assistant|> Ġdoor Ġleads ĠNo No Ġis Ġno There ĠThere Ġcannot Ġhot Ġcold Ġclean Ġhere Ġthe"
    " Ġopen Ġtake Ġput Ġworld Ġtask Answer Question ĠAnswer"
)
NORM = 0.68  # of a token's row
LEVEL = 0.24  # of the dimensions that are the same for all tokens, or for all names
THETA = 1e6  # base of the rotations: half of them hardly turn within a text
RECENT = 14  # the fast rotations, of which a preference for near tokens is made
FLAG = 15  # a slow one, for marks
SLOW = [*range(16, 32), *range(48, 64)]  # dimensions of a head that compare names: 32


def recency(turns: np.ndarray) -> np.ndarray:
    """Return weights of rotations whose sum falls with the logarithm of the distance."""
    distances = np.unique(np.geomspace(1, 1200, 400).round())
    waves = np.cos(np.outer(distances, turns))
    wanted = -np.log(1 + distances / 2)
    columns = np.hstack([waves, np.ones((len(distances), 1)), -np.ones((len(distances), 1))])
    return nnls(columns, wanted)[0][: len(turns)]


class Heads:
    """Sets heads of a model, in place."""

    def __init__(self, model: LlamaForCausalLM):
        self.layers = model.model.layers
        self.turns = model.model.rotary_emb.inv_freq.clone()
        self.names = torch.linalg.qr(torch.randn(47, 32))[0].T  # 32 projections of a token
        self.recency = torch.tensor(recency(self.turns[:RECENT].double().numpy()), dtype=torch.float)

    def head(self, layer: int, head: int):
        attention, rows = self.layers[layer].self_attn, slice(head * SIZE, (head + 1) * SIZE)
        q, k, v = (p.weight[rows] for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        out = attention.o_proj.weight[:, rows]
        for weight in (q, k, v, out):
            weight.zero_()
        return q, k, v, out

    def neighbour(self, q: torch.Tensor, k: torch.Tensor, back: int, const: float) -> None:
        """Attend to the token so many before."""
        near, strength = 10, (8 * 14) ** 0.5 / const
        turn = self.turns[:near] * back
        q[:near, CONST] = strength
        k[:near, CONST] = strength * torch.cos(turn)
        k[32 : 32 + near, CONST] = strength * torch.sin(turn)

    def recent(self, q: torch.Tensor, k: torch.Tensor, const: float, factor: float) -> None:
        strength = (8 * factor * self.recency) ** 0.5 / const
        q[:RECENT, CONST] = strength
        k[:RECENT, CONST] = strength

    def same(self, q: torch.Tensor, k: torch.Tensor, asked: slice, read: slice, level: float, score: float) -> None:
        """Attend to where `read` has the token that `asked` has."""
        size = min(32, asked.stop - asked.start) if asked not in (OWN, BEFORE) else 32
        for weight, part in ((q, asked), (k, read)):
            projection = self.names[:size] if part in (OWN, BEFORE) else torch.eye(part.stop - part.start)[:size]
            weight[SLOW[:size], part] += (8 * score) ** 0.5 / (level * (size / 47) ** 0.5) * projection


class Builder(Heads):
    """Sets heads that read rooms."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast):
        assert model.config.hidden_size == WIDTH and model.config.head_dim == SIZE
        assert model.config.num_attention_heads == model.config.num_key_value_heads == HEADS
        super().__init__(model)
        self.rows = model.model.embed_tokens.weight
        vocabulary = tokenizer.get_vocab()
        self.own = {word: self.rows[number, OWN].clone() for word, number in vocabulary.items()}
        self.rooms = torch.linalg.qr(torch.randn(47, ROOMS))[0].T
        self.words = torch.stack([self.own[word] / self.own[word].norm() for word in THIRD_WORDS])

    def marked(
        self, q: torch.Tensor, k: torch.Tensor, dimension: int, const: float, level: float, score: float
    ) -> None:
        q[FLAG, CONST] = (8 * score) ** 0.5 / const
        k[FLAG, dimension] = (8 * score) ** 0.5 / level

    def word(
        self, q: torch.Tensor, k: torch.Tensor, part: slice, word: str, const: float, level: float, score: float
    ) -> None:
        """Prefer places where a part has this word."""
        own = self.own[word] / self.own[word].norm()
        direction = self.names @ own if part == SECOND else own
        direction = direction / direction.norm() ** 2
        q[FLAG - 1, CONST] = (8 * score) ** 0.5 / const
        k[FLAG - 1, part] += (8 * score) ** 0.5 / level * direction

    def told(self, q: torch.Tensor, k: torch.Tensor, const: float, level: float, score: float) -> None:
        """Avoid the tokens after names that do not tell where something is."""
        q[FLAG, CONST] = (8 * score) ** 0.5 / const
        for part, bad in zip((SECOND, OWN), NOT_THERE):
            words = [*bad, *(word for word in OTHERS.split() if word in self.own and word not in bad)]
            own = torch.stack([self.own[word] / self.own[word].norm() for word in words])
            rows = own @ self.names.T if part == SECOND else own
            wanted = torch.tensor([-1.0] * len(bad) + [0.0] * (len(words) - len(bad)))
            ridge = rows.T @ rows + 0.1 * torch.eye(rows.shape[1])
            k[FLAG, part] += (8 * score) ** 0.5 / level * torch.linalg.solve(ridge, rows.T @ wanted)

    def room(self, v: torch.Tensor, out: torch.Tensor, part: slice) -> None:
        """Write the room of where it attends."""
        v[:ROOMS, ROOM], out[part, :ROOMS] = torch.eye(ROOMS), torch.eye(ROOMS)
        v[ROOMS:, :] = torch.randn(v[ROOMS:].shape) * 0.06

    def compare(self, layer: int, first: int, part: slice, number: int, later: float) -> None:
        """Write the product of a room with that of now: the gates of two units are linear together."""
        mlp = self.layers[layer].mlp
        expected = (NORM * later) ** 2 * ROOMS / 47
        for i, sign in enumerate((1.0, -1.0)):
            units = slice(first + i * ROOMS, first + (i + 1) * ROOMS)
            mlp.gate_proj.weight[units], mlp.up_proj.weight[units] = 0, 0
            mlp.gate_proj.weight[units, part] = sign * 0.3 * torch.eye(ROOMS)
            mlp.up_proj.weight[units, ROOM] = 0.3 * torch.eye(ROOMS)
            mlp.down_proj.weight[HERE.start + number, units] = sign * 0.5 / (0.09 * expected)


@torch.no_grad()
def start_to_read(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Set the weights of a new model, in place."""
    torch.manual_seed(0)
    rows = model.model.embed_tokens.weight
    rows[:, CONST] = rows[:, 48:] = 0
    rows *= NORM / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)
    rows[:, CONST] = LEVEL
    build = Builder(model, tokenizer)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight *= 0.02
    scale = WIDTH**0.5
    # The norm of a row, before the first layer and after it: it divides what a layer reads.
    first = scale / (NORM**2 + LEVEL**2) ** 0.5
    later = scale / (2 * NORM**2 + 2 * LEVEL**2 + 2 * NORM**2 * 32 / 47) ** 0.5
    const, const_later, level_later = LEVEL * first, LEVEL * later, NORM * later

    for number, (back, part, read) in enumerate(
        [(1, BEFORE, torch.eye(47)), (2, SECOND, build.names), (3, THIRD, build.words)]
    ):
        q, k, v, out = build.head(0, number)
        build.neighbour(q, k, back, const)
        v[: len(read), OWN] = read
        out[part, : len(read)] = torch.eye(len(read)) / first
    q, k, v, out = build.head(0, 3)  # the last name
    build.recent(q, k, const, 16.0)
    build.marked(q, k, NAME, const, const, 40.0)
    v[:32, OWN], out[ASKED, :32] = build.names, torch.eye(32) / first

    q, k, v, out = build.head(1, 0)  # the last room: three after "are"
    build.recent(q, k, const_later, 8.0)
    build.marked(q, k, THIRD.start, const_later, level_later, 70.0)
    v[:ROOMS, OWN], out[ROOM, :ROOMS] = build.rooms, torch.eye(ROOMS) / later
    q, k, v, out = build.head(1, 1)  # the name two after the last mention of what is asked: "X in P"
    build.same(q, k, ASKED, SECOND, level_later, 40.0)
    build.recent(q, k, const_later, 3.0)
    build.marked(q, k, NAME, const_later, const_later, 12.0)
    v[:24, OWN], out[PLACE, :24] = build.names[:24], torch.eye(24) / later
    q, k, v, out = build.head(1, 2)  # the last words of the question
    build.recent(q, k, const_later, 8.0)
    build.word(q, k, OWN, "?", const_later, level_later, 70.0)
    v[:10, BEFORE], v[10:20, BEFORE] = build.names[:10], build.names[10:20]
    v[10:20, SECOND] = torch.eye(32)[:10]
    out[KIND, :20] = torch.eye(30)[:, :20] / later
    q, k, v, out = build.head(1, 3)  # its first word
    build.recent(q, k, const_later, 8.0)
    build.word(q, k, SECOND, "Question", const_later, level_later, 70.0)
    v[:10, OWN], out[KIND, :10] = build.names[:10], torch.eye(30)[:, 20:] / later
    q, k, v, out = build.head(2, 2)  # the task's first name
    build.recent(q, k, const_later, 6.0)
    q[:RECENT, CONST] *= -1  # the first one rather than the last one
    build.marked(q, k, NAME, const_later, const_later, 50.0)
    build.word(q, k, SECOND, "ĠPut", const_later, level_later, 60.0)
    k[FLAG - 1, THIRD.start + 4] = k[FLAG - 1, THIRD.start + 5] = (8 * 60.0) ** 0.5 / level_later
    v[:24, OWN], out[TARGET, :24] = build.names[:24], torch.eye(24) / later
    q, k, v, out = build.head(2, 3)  # the name at the end of the task
    build.recent(q, k, const_later, 12.0)
    q[:RECENT, CONST] *= -1  # the first one rather than the last one
    build.word(q, k, OWN, ".Ċ", const_later, level_later, 70.0)
    v[:24, BEFORE], out[GOAL, :24] = build.names[:24], torch.eye(24) / later
    q, k, v, out = build.head(2, 0)  # the room where what is asked was last seen
    build.same(q, k, ASKED, BEFORE, level_later, 60.0)
    build.recent(q, k, const_later, 3.0)
    build.told(q, k, const_later, level_later, 24.0)
    build.room(v, out, ASKED_ROOM)
    out /= later
    closed = build.own["Ġclosed"] / build.own["Ġclosed"].norm()
    v[-1], out[HERE.start + 3, -1] = 0, 0.5 / later
    v[-1, OWN] = closed
    build.compare(2, 0, ASKED_ROOM, 0, later)
    q, k, v, out = build.head(2, 1)  # the same, two later, which leaves out the question itself
    build.same(q, k, ASKED, SECOND, level_later, 24.0)
    build.recent(q, k, const_later, 2.0)
    build.marked(q, k, NAME, const_later, const_later, 8.0)
    v[:ROOMS, ROOM] = torch.eye(ROOMS)
    v[ROOMS:, :] = torch.randn(v[ROOMS:].shape) * 0.06
    out[:, :] = torch.randn(out.shape) * 0.002
    for number, (part, read, room) in enumerate([(GOAL, BEFORE, GOAL_ROOM), (TARGET, BEFORE, TARGET_ROOM)]):
        q, k, v, out = build.head(3, number)  # the rooms where what the task is about was last seen
        build.same(q, k, part, read, level_later, 60.0)
        build.recent(q, k, const_later, 3.0)
        build.told(q, k, const_later, level_later, 24.0)
        build.room(v, out, room)
        out /= later
        build.compare(3, 2 * ROOMS * number, room, 1 + number, later)
    q, k, v, out = build.head(4, 2)  # what is closed in this room
    build.same(q, k, ROOM, ROOM, level_later, 24.0)
    build.recent(q, k, const_later, 3.0)
    build.word(q, k, OWN, "Ġclosed", const_later, level_later, 60.0)
    v[:47, BEFORE], out[OWN, :47] = torch.eye(47), 0.1 * torch.eye(47)
    q, k, v, out = build.head(4, 0)  # what followed this token
    build.same(q, k, OWN, BEFORE, level_later, 24.0)
    build.recent(q, k, const_later, 2.0)
    v[:47, OWN], out[OWN, :47] = torch.eye(47), 0.25 * torch.eye(47)
    q, k, v, out = build.head(4, 1)  # what followed the token before, two later
    build.same(q, k, BEFORE, SECOND, level_later, 24.0)
    build.recent(q, k, const_later, 2.0)
    v[:47, OWN], out[OWN, :47] = torch.eye(47), 0.25 * torch.eye(47)
    q, k, v, out = build.head(3, 2)  # the last name itself
    build.recent(q, k, const_later, 16.0)
    build.marked(q, k, NAME, const_later, const_later, 40.0)
    v[:47, OWN], out[OWN, :47] = torch.eye(47), 0.1 * torch.eye(47)
    q, k, v, out = build.head(3, 3)  # the name two after the last mention of what is asked
    build.same(q, k, ASKED, SECOND, level_later, 40.0)
    build.recent(q, k, const_later, 3.0)
    build.marked(q, k, NAME, const_later, const_later, 12.0)
    v[:47, OWN], out[OWN, :47] = torch.eye(47), 0.1 * torch.eye(47)
    # The last layer can say what the subspaces hold, where its gates let it.
    up, gate, down = (getattr(model.model.layers[-1].mlp, f"{name}_proj").weight for name in ("up", "gate", "down"))
    at = 0
    for part, projection in (
        (ROOM, build.rooms),
        (ASKED_ROOM, build.rooms),
        (PLACE, build.names[:24]),
        (ASKED, build.names),
        (TARGET, build.names[:24]),
        (GOAL, build.names[:24]),
    ):
        units = slice(at, at + len(projection))
        up[units], gate[units] = 0, gate[units] * 0.3
        up[units, part] = torch.eye(len(projection))
        gate[units, CONST] = 0.5 / 0.8
        down[OWN, units] = 0.1 * projection.T
        at = units.stop
    for layer in model.model.layers:  # as large as each other, so that steps of one size do not spoil what is written
        attention = layer.self_attn
        for rows in (slice(h * SIZE, (h + 1) * SIZE) for h in range(HEADS)):
            v, out = attention.v_proj.weight[rows], attention.o_proj.weight[:, rows]
            balance = (out.abs().max() / v.abs().max()).sqrt()
            v *= balance
            out /= balance
    model.model.norm.weight.fill_(2.0)

"""Answer a group of requests in one memory: the texts of its scores first, then those of its draws.

A group begins with an empty memory, and its schedule follows from its requests alone. So its answers are the same
bytes, whatever was answered before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eexp.models.base import Draw, Sample, Score
from eexp.models.engine.decoder import Decoder
from eexp.models.engine.drawer import Drawer
from eexp.models.engine.nodes import Vocabulary
from eexp.models.engine.scorer import Scorer
from eexp.models.engine.states import StateDrawer, StateScorer
from eexp.models.engine.tree import PrefixTree


def answer_group(
    requests: Sequence[tuple[list[int], Draw | Score]], decoder: Decoder, vocabulary: Vocabulary, counts: Counter[str]
) -> list[list[Sample]]:
    """Return the samples of each request.

    Args:
        requests: Each with the tokens of its prompt. A prompt with the longest text of its request must fit into the
            decoder's cells.
        counts: Receives the cost of the answers (see `Model.counts`).

    Raises:
        EexpError: The memory is too small for one text.
    """
    tree = PrefixTree(decoder, counts)
    scores = [(ids, request) for ids, request in requests if isinstance(request, Score)]
    scored = iter((Scorer if decoder.cuts else StateScorer)(tree, vocabulary, scores).answer())
    tree.clear()
    draws = [(ids, request) for ids, request in requests if isinstance(request, Draw)]
    drawn = iter((Drawer if decoder.cuts else StateDrawer)(tree, vocabulary, draws).answer())
    return [next(scored if isinstance(request, Score) else drawn) for _, request in requests]

"""Draw the picture of the pipe that the README shows: `python docs/pipe.py` writes docs/pipe.svg.

The picture has a light and a dark palette. It also draws its own background, so that it can be read on a page whose
colours do not follow the reader's system. It is made for phones, too: on a page 390 pixels wide, the smallest text has
a size of 9.6 pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

TARGET = Path(__file__).with_suffix(".svg")

TITLE = "The pipe of eexp"
DESCRIPTION = (
    "A demonstration of an expert is a path of states. branch adds other actions to every state, and rollout executes "
    "each of them from that state. recover puts refused actions into the path. Three stages make training examples: "
    "imitation-data, of the path with or without recover, world-model-data and reflect. mix puts them "
    "together, finetune trains on them, eval plays tasks with the trained model, and compare says how much better it "
    "is and how sure that is."
)

WIDTH, HEIGHT = 560, 506
SCALE = 8 / 7  # of the drawing: 640 pixels wide where the page is wider
MARGIN, GAP = 14, 20
LIGHT = {
    "ground": "#f3f5f8",
    "card": "#ffffff",
    "edge": "#c3cad3",
    "name": "#1b2026",
    "words": "#4f5965",
    "path": "#0b62c4",
    "other": "#b54708",
}
DARK = {
    "ground": "#161b22",
    "card": "#0d1117",
    "edge": "#454d57",
    "name": "#f0f3f6",
    "words": "#a9b3be",
    "path": "#5aa9ff",
    "other": "#f5a05a",
}
STYLE = """
.ground { fill: var(--ground) }
.card { fill: var(--card); stroke: var(--edge) }
.pipe { fill: none; stroke: var(--words); stroke-width: 1.6 }
.tip { fill: var(--words) }
.name { fill: var(--name); font: 600 15.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.words { fill: var(--words); font: 15px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif }
text { text-anchor: middle }
.path { stroke: var(--path); stroke-width: 2.4 }
.state { fill: var(--path) }
.action { stroke: var(--other); stroke-width: 2 }
.tried { stroke-dasharray: 3 3 }
.outcome { fill: var(--other) }
"""


def variables(palette: dict[str, str]) -> str:
    """Return a palette as CSS custom properties."""
    return "svg { " + "; ".join(f"--{name}: {colour}" for name, colour in palette.items()) + " }"


def card(x: float, y: float, width: float, height: float, name: str, *words: str) -> Iterator[str]:
    """Draw the box of a stage, with its name at the top and lines of text at the bottom."""
    middle = x + width / 2
    yield f'<rect class="card" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>'
    yield f'<text class="name" x="{middle:g}" y="{y + 26:g}">{escape(name)}</text>'
    for line, text in enumerate(reversed(words)):
        yield f'<text class="words" x="{middle:g}" y="{y + height - 14 - 19 * line:g}">{escape(text)}</text>'


def trajectory(x: float, y: float, others: str = "") -> Iterator[str]:
    """Draw a path of four states from (x, y) to the right.

    Args:
        others: The class of the lines that leave every state but the last: "" for none, "action tried" for actions
            that were only chosen, "action" for executed ones, which end in an outcome.
    """
    step, rise = 38.0, 21.0
    for i in range(3 if others else 0):
        for sign in (-1, 1):
            fromx, tox, toy = x + i * step, x + (i + 0.62) * step, y + sign * rise
            yield f'<line class="{others}" x1="{fromx:g}" y1="{y:g}" x2="{tox:g}" y2="{toy:g}"/>'
            if others == "action":
                yield f'<circle class="outcome" cx="{tox:g}" cy="{toy:g}" r="4"/>'
    yield f'<line class="path" x1="{x:g}" y1="{y:g}" x2="{x + 3 * step:g}" y2="{y:g}"/>'
    for i in range(4):
        yield f'<circle class="state" cx="{x + i * step:g}" cy="{y:g}" r="5"/>'


def pipe(*points: tuple[float, float], tip: bool = True) -> Iterator[str]:
    """Draw a line through `points` and, with `tip`, an arrowhead at its end, which points right or down."""
    yield f'<polyline class="pipe" points="{" ".join(f"{x:g},{y:g}" for x, y in points)}"/>'
    (fromx, _), (x, y) = points[-2:]
    if tip and fromx == x:
        yield f'<path class="tip" d="M{x - 5:g} {y - 8:g}h10l-5 8z"/>'
    elif tip:
        yield f'<path class="tip" d="M{x - 8:g} {y - 5:g}v10l8 -5z"/>'


def drawing() -> Iterator[str]:
    """Draw the stages and the lines between them."""
    three = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
    lefts = [MARGIN + i * (three + GAP) for i in range(3)]
    middles = [left + three / 2 for left in lefts]

    top, height = MARGIN, 128
    stages = [("expert", "demonstrations", ""), ("branch", "other actions", "action tried")]
    stages.append(("rollout", "what they lead to", "action"))
    for left, (name, words, others) in zip(lefts, stages):
        yield from card(left, top, three, height, name, words)
        yield from trajectory(left + three / 2 - 57, top + 66, others)
    for left in lefts[1:]:
        yield from pipe((left - GAP, top + 66), (left - 1, top + 66))

    bus, recover, examples, height = top + 128 + 17, top + 128 + 40, top + 128 + 122, 84
    yield from pipe((middles[2], top + 128), (middles[2], bus), (middles[0], bus), tip=False)
    yield from pipe((middles[0], bus), (middles[0], recover - 1))
    yield from card(lefts[0], recover, three, 60, "recover", "own mistakes, too")
    kinds = [("imitation-data", "state", "→ expert's action"), ("world-model-data", "state, action", "→ next state")]
    kinds.append(("reflect", "state", "→ thought, action"))
    for left, middle, (name, *words) in zip(lefts, middles, kinds):
        yield from pipe((middle, recover + 60 if left == lefts[0] else bus), (middle, examples - 1))
        yield from card(left, examples, three, height, name, *words)

    four = (WIDTH - 2 * MARGIN - 3 * GAP) / 4
    bus, bottom, height = examples + 84 + 17, examples + 84 + 40, 104
    first = MARGIN + four / 2
    for middle in middles:
        yield from pipe((middle, examples + 84), (middle, bus), tip=False)
    yield from pipe((middles[2], bus), (first, bus), (first, bottom - 1))
    ends = [
        ("mix", "weights,", "shuffles and", "cleans"),
        ("finetune", "trains LoRA", "adapters or", "all weights"),
        ("eval", "plays tasks", "with the", "new policy"),
        ("compare", "says how", "much better,", "how surely"),
    ]
    for i, (name, *words) in enumerate(ends):
        left = MARGIN + i * (four + GAP)
        if i:
            yield from pipe((left - GAP, bottom + height / 2), (left - 1, bottom + height / 2))
        yield from card(left, bottom, four, height, name, *words)


def svg() -> str:
    """Return the whole picture."""
    light, dark = variables(LIGHT), variables(DARK)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH * SCALE:g}"'
            f' height="{HEIGHT * SCALE:g}" role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(TITLE)}</title>',
            f'<desc id="description">{escape(DESCRIPTION, quote=False)}</desc>',
            f"<style>\n{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}{STYLE}</style>",
            f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
            *drawing(),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    TARGET.write_text(svg(), encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)

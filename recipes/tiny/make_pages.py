"""Make a base that reads pages: asked where something stands in a list of numbered elements, it answers.

    python make_pages.py -o bases/pages

Its texts are invented pages in the form in which eexp's web environments show them, and questions about them: the
number of the element with a name, the name of the element with a number, the number of the element that the task names
after some word, a number in a heading. In other texts, the answer to each page is the element that the task names, of
which there is one; in half of them, a thought comes first that says what this element and another one are called. The
pages of a text have nothing to do with each other or with what was answered, so the base learns to read, and nothing
about what an action leads to. Every text draws its names and its words anew, from lists that have the words of the
study's site (recipes/studies/site) among others.

The lookups are built first (`start_with_pages`), and trained further: see reading_start.py.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import torch
from reading_start import FLAG, Heads
from small_model import GO_ON, HELD_OUT, WORDS, arguments, make, render
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from eexp.envs.worlds.web import HOW as ACTIONS
from eexp.prompts import get_style

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SITE = Path(__file__).parents[1] / "studies" / "site" / "collections.toml"
STYLE = get_style("react")
#: Words in tasks, in headings and beside names. Names of elements stand in quotation marks, these do not.
IN_BETWEEN = """
    how many of the are and that show which with in look place rows where there what all find count open
    from have has or not each some their its under over by to on name table value is
"""
FILLERS = IN_BETWEEN.split()
SIZE, CONST, NORM, LEVEL = 64, 0, 0.68, 0.24
OWN, BEFORE, SECOND, NUMBER, ASKED, FOUND = (
    slice(a, b) for a, b in itertools.pairwise([1, 48, 95, 127, 159, 191, 223])
)
MARK, WIDTH = 223, 256


def names() -> list[str]:
    """Return the words that elements may be called by."""
    with open(SITE, "rb") as file:
        words = tomllib.load(file)
    tables = [name for database, tables in words["databases"].items() for name in (database, *tables)]
    lists = [words[key] for key in ("looks", "places", "names", "synonyms")]
    return sorted({*tables, *itertools.chain(*lists)})


def page(rng: random.Random, pool: list[str], wanted: list[str], size: int) -> tuple[str, dict[str, int], list]:
    """Return a page, the number of each element by its name, and its headings with numbers."""
    drawn = rng.sample(pool, size)
    for name in wanted:
        if name not in drawn:
            drawn[rng.randrange(size)] = name
    drawn = list(dict.fromkeys(drawn))
    words = iter(rng.sample(FILLERS, 8))
    title = " ".join(rng.sample(pool, 2))
    lines = [f'page "{title}" /{rng.choice(pool)}' + (f"/{rng.choice(pool)}" if rng.random() < 0.7 else "")]
    if rng.random() < 0.5:
        lines[0] = lines[0] + f"?{next(words)}={rng.choice(pool)}"
    heads = []
    for _ in range(rng.randint(1, 2)):
        number, word = rng.randint(1, 99), next(words)
        more = f' where {next(words)} = "{rng.choice(pool)}"' if rng.random() < 0.4 else ""
        lines.append(f'heading "{number} {word}{more}"')
        heads.append((word, number))
        if rng.random() < 0.4:
            lines.append(f'heading "{rng.choice(pool)}"')
    numbers: dict[str, int] = {}
    indented = False
    for at, name in enumerate(drawn, 1):
        if rng.random() < 0.12:
            indented = rng.random() < 0.7
            lines.append("list" if indented else f'text "{next(words, "all")} {rng.randint(1, 9)}"')
        numbers[name] = at
        mark = "  " if indented else ""
        if rng.random() < 0.2:
            cells = "".join(f' | "{rng.choice(pool)}"' for _ in range(rng.randint(1, 2)))
            lines.append(f'{mark}row [{at}] link "{name}"{cells}')
        else:
            role = "button" if rng.random() < 0.1 else "link"
            lines.append(f'{mark}[{at}] {role} "{name}"')
            if rng.random() < 0.5:
                lines.append(f'{mark}text "{rng.randint(1, 99)}"')
    return "\n".join(lines), numbers, heads


def names_of(rng: random.Random, numbers: dict[str, int], chosen: str) -> str:
    """Return a thought before an answer: the name of some element, in half of the cases, and of the chosen one."""
    other = rng.choice([name for name in numbers if name != chosen])
    before = f'[{numbers[other]}] is called "{other}". ' if rng.random() < 0.5 else ""
    return f'{before}Next [{numbers[chosen]}] is called "{chosen}".'


def text(
    rng: random.Random,
    pool: list[str],
    progress: float,
    acting: float = 0.0,
    explained: bool = False,
    closed: bool = False,
) -> str:
    """Return a text of several pages with questions.

    explained: half of the texts have the words about actions that the web environment adds to a task.
    acting: share of the texts without questions, in which the answer to each page is the element that the task names.
    Half of these ask for a thought at the last page.
    closed: thoughts end with the choice, as those of `eexp reflect` do.
    """
    acts = rng.random() < acting
    slots = rng.sample(FILLERS, rng.randint(2, 4))
    task = dict(zip(slots, rng.sample(pool, len(slots))))
    instruction = STYLE.acting.task_label + " " + " ".join(f'{word} "{name}"' for word, name in task.items()) + "."
    if explained and rng.random() < 0.5:
        instruction += f"\n{ACTIONS}"
    messages = [{"role": "system", "content": STYLE.acting.system}]
    largest = 3 + round(13 * min(1.0, 1.5 * progress))
    pages = 1 + round((3 if acts else 2.4) * progress * rng.random())
    thinks = acts and rng.random() < 0.5
    for n in range(pages):
        size = rng.randint(3, largest)
        if acts:
            chosen = task[rng.choice(slots)]
            among = [name for name in pool if name not in task.values()]
            shown, numbers, _ = page(rng, among, [chosen], size)
            if n == 0:
                shown = f"{instruction}\n{shown}"
            answer = f"click [{numbers[chosen]}]"
            if thinks and n == pages - 1:
                shown += STYLE.thought.ask
                so = f" So I do `{answer}`." if closed else ""
                answer = STYLE.answer(answer, names_of(rng, numbers, chosen) + so).text
            messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": f"Answer: {answer}"}]
            continue
        asked = rng.sample(slots, rng.randint(1, len(slots)))
        shown, numbers, heads = page(rng, pool, [task[slot] for slot in asked], size)
        asked = [slot for slot in asked if task[slot] in numbers]
        start = f"{instruction}\n{shown}" if n == 0 else shown
        for _ in range(rng.randint(3, 6)):
            kind = rng.random()
            if kind < 0.45 and asked:
                slot = rng.choice(asked)
                question, answer = f"What is {slot}", f"Answer: [{numbers[task[slot]]}]"
            elif kind < 0.7:
                name = rng.choice(list(numbers))
                question, answer = f'Where is "{name}', f"Answer: [{numbers[name]}]"
            elif kind < 0.85:
                name = rng.choice(list(numbers))
                question, answer = f"Name [{numbers[name]}", f'Answer: [{numbers[name]}] is called "{name}"'
            else:
                word, number = rng.choice(heads)
                question, answer = f"How many {word}", f"Answer: [{number}]"
            messages += [
                {"role": "user", "content": f"{start}\nQuestion: {question}"},
                {"role": "assistant", "content": answer},
            ]
            start = GO_ON
    return render(messages)


@torch.no_grad()
def start_with_pages(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Set the weights of a new model, in place, so that it looks up what the docstring of this module says.

    A position knows its token and those one, two, four and five before: in a list, four before a name stands its
    number, and five before an answer stands what is asked. The second layer finds the name that the task has after the
    word that is asked, and the name after a number that stands four before; the third finds the number before a name.
    `mark_named` has the lookups for texts without questions.
    """
    rows = model.model.embed_tokens.weight
    rows[:, CONST] = rows[:, OWN.stop :] = 0
    rows *= NORM / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)
    rows[:, CONST] = LEVEL
    assert model.config.hidden_size == WIDTH and model.config.head_dim == SIZE
    build = Heads(model)
    own = {word: rows[tokenizer.encode(word)[0], OWN].clone() for word in (' "', " link", " button")}
    own |= {
        "system": rows[tokenizer.encode("<|system|>")[0], OWN].clone(),
        "click": rows[tokenizer.encode(" click")[-1], OWN].clone(),
        "next": rows[tokenizer.encode(" Next")[-1], OWN].clone(),
    }
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight *= 0.02
    first = WIDTH**0.5 / (NORM**2 + LEVEL**2) ** 0.5
    later = WIDTH**0.5 / (2 * NORM**2 + LEVEL**2 + 3 * NORM**2 * 32 / 47) ** 0.5
    everything, names = torch.eye(47), build.names
    for number, (back, part, read) in enumerate(
        [(1, BEFORE, everything), (2, SECOND, names), (4, NUMBER, names), (5, ASKED, names)]
    ):
        q, k, v, out = build.head(0, number)
        build.neighbour(q, k, back, LEVEL * first)
        v[: len(read), OWN] = read
        out[part, : len(read)] = torch.eye(len(read)) / first

    def look(
        layer: int,
        head: int,
        asked: slice,
        read: slice,
        value: slice,
        to: slice,
        strength: float,
        beside: slice,
        *words: str,
    ) -> None:
        q, k, v, out = build.head(layer, head)
        build.same(q, k, asked, read, NORM * later, 30.0)
        q[FLAG, CONST] = (8 * 40.0) ** 0.5 / (LEVEL * later)  # only where one of some words is beside
        for word in words:
            row = own[word] if beside == BEFORE else names @ own[word]
            k[FLAG, beside] += (8 * 40.0) ** 0.5 / (NORM * later) * row * NORM / row.norm() ** 2
        size = value.stop - value.start
        v[:32, value] = names if size == 47 else torch.eye(32)
        out[to, :32] = strength / later * (names.T if to == OWN else torch.eye(32))

    look(1, 0, ASKED, SECOND, OWN, FOUND, 1.0, BEFORE, ' "')
    look(1, 1, ASKED, OWN, NUMBER, OWN, 2.0, SECOND, " link", " button")
    look(2, 0, FOUND, OWN, NUMBER, OWN, 2.0, SECOND, " link", " button")
    look(1, 2, NUMBER, NUMBER, OWN, OWN, 2.0, SECOND, " link", " button")
    mark_named(build, own, LEVEL * later, NORM * later)
    look(2, 1, ASKED, OWN, BEFORE, OWN, 1.0, SECOND, ' "')
    for layer in model.model.layers:  # as large as each other, so that steps of one size do not spoil what is written
        attention = layer.self_attn
        for part in (slice(h * SIZE, (h + 1) * SIZE) for h in range(model.config.num_attention_heads)):
            v, out = attention.v_proj.weight[part], attention.o_proj.weight[:, part]
            balance = (out.abs().max() / v.abs().max()).sqrt()
            v *= balance
            out /= balance
    model.model.norm.weight.fill_(2.0)


def mark_named(build: Heads, own: dict[str, torch.Tensor], level: float, norm: float) -> None:
    """Mark the elements that the task names, and after "click" or "Next", find the number of the last one of them."""
    q, k, v, out = build.head(1, 3)
    build.same(q, k, OWN, OWN, norm, 60.0)
    q[FLAG, CONST] = (8 * 40.0) ** 0.5 / level
    scaled = (8 * 40.0) ** 0.5 / norm * NORM
    row = {word: own[word] / own[word].norm() ** 2 for word in own}
    k[FLAG, BEFORE] = scaled * row[' "']
    for word in (" link", " button"):
        k[FLAG, SECOND] -= scaled * build.names @ own[word] / (build.names @ own[word]).norm() ** 2
    k[FLAG, OWN] += 1.8 * scaled * row["system"]  # attended to where nothing is named
    v[0, CONST], v[0, OWN] = 1 / level, -NORM / norm * row["system"]
    out[MARK, 0] = 1.0
    q, k, v, out = build.head(2, 2)
    near = torch.zeros_like(q), torch.zeros_like(k)
    build.recent(*near, level, 10.0)
    q += near[0]
    k += near[1]
    q[FLAG, BEFORE] = (8 * 60.0) ** 0.5 / norm * NORM * (row["click"] + row["next"])
    k[FLAG, MARK] = (8 * 60.0) ** 0.5 * 2 / level * LEVEL
    for word in (" link", " button"):
        k[FLAG, SECOND] += (
            (8 * 60.0) ** 0.5 / norm * NORM * build.names @ own[word] / (build.names @ own[word]).norm() ** 2
        )
    v[:32, NUMBER], out[OWN, :32] = torch.eye(32), 6.0 * NORM / norm * build.names.T


def main() -> None:
    parser = arguments(__doc__ or "", episodes=2600, context=2048)
    parser.set_defaults(
        hidden=WIDTH,
        layers=4,
        heads=4,
        kv_heads=4,
        head_dim=SIZE,
        mlp=256,
        rope_theta=1e6,
        lr=3e-4,
        lookup_rate=0.2,
        weight_decay=0.0,
        vocab_size=1600,
        tokens_per_batch=1000,
        other_weight=0.003,
    )
    parser.add_argument("--acting", type=float, default=0.5, help="share of texts without questions: see text()")
    parser.add_argument("--closed", action="store_true", help="thoughts end with the choice: see text()")
    args = parser.parse_args()
    rng, pool = random.Random(f"pages/{args.seed}"), names()
    first = 0.5 if args.init else 0.0
    held_out, others = [1.0] * HELD_OUT, [min(1.0, first + 1.3 * n / args.episodes) for n in range(args.episodes)]
    texts = [text(rng, pool, at, args.acting, bool(args.init), args.closed) for at in held_out + others]
    spoken = [
        " ".join(f'"{name}" {name}' for name in pool),
        " ".join(FILLERS),
        " ".join(f"[{n}] {n}" for n in range(100)),
    ]
    spoken += [
        " ".join(WORDS),
        STYLE.answer("click [3]", "So I could").text,
        STYLE.predicting.open,
        STYLE.predicting.request,
    ]
    make(texts, spoken, args, start_with_pages)


if __name__ == "__main__":
    main()

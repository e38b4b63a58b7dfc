"""Print what models of a study on `reactions` know of the table, and whether they use it without a thought.

    python recipes/studies/reactions_edges.py studies/reactions-0 iwm iwm-world world sr

Predicts: the share of outcomes that the model predicts to the last word, asked as a world model, of those that were
executed in the training data and of all others. Uses: the share of states one operation before the goal of a test task
in which the most probable action without a thought is one that leads there, by whether that outcome was executed.
Chance is the same share for an action drawn at random. All seeds of an arm are counted together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import torch
from reactions_results import Edges, edges_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from eexp.envs.opening import open_env
from eexp.prompts import get_style
from eexp.records.jsonl import read

STYLE = get_style(str(Path(__file__).parent / "reactions.toml"))


class Greedy:
    """A model that says whether it would write an answer, token by token the most probable one."""

    def __init__(self, directory: Path):
        self.model = AutoModelForCausalLM.from_pretrained(directory).float().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    @torch.inference_mode()
    def writes(self, prompt: list[dict], answer: list[dict]) -> bool:
        before = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template([*prompt, *answer], tokenize=False)
        start = len(self.tokenizer(before)["input_ids"])
        ids = torch.tensor([self.tokenizer(whole)["input_ids"]])
        best = self.model(input_ids=ids).logits[0].argmax(-1)
        return bool((best[start - 1 : -1] == ids[0, start:]).all())


def predictions(spec: str, edges: Edges) -> Iterator[tuple[bool, list[dict], list[dict]]]:
    """Yield, for every entry of the table, whether it was executed, the prompt for it and the outcome."""
    with open_env(spec) as env:
        for record in env.tasks("train"):
            env.reset(record)
            break
        for thing in range(len(env.names)):
            here = env.words.holding.format(thing=env.names[thing])
            for operation, name in enumerate(env.words.operations):
                following = env.table[thing, operation]
                text = env.words.nothing.format(thing=env.names[thing]) if following == thing else ""
                after = text or env.words.holding.format(
                    thing=env.words.ruined if following < 0 else env.names[following]
                )
                action = env.words.action.format(operation=name, thing=env.names[thing])
                prompt = STYLE.world_model(env.instruction(), [], here, action)
                yield after in edges[here], prompt, STYLE.world_model_answer(after).messages()


def last_steps(panel: Path, edges: Edges) -> Iterator[tuple[bool, int, list[dict], list[list[dict]]]]:
    """Yield, for the state before the goal of each test task, whether a way is known, the number of actions to choose
    from, the prompt, and the answers that reach the goal."""
    for record in read([str(panel)], "task"):
        with open_env(record["env"]) as env:
            first = env.reset(record["task"])
            before = env.expert()
            observation = env.step(before)
            goal, listed = env.words.holding.format(thing=env.names[env.goal]), env.admissible()
            right = [action for operation, action in enumerate(listed) if env.table[env.thing, operation] == env.goal]
            prompt = STYLE.act(
                env.instruction(), [{"observation": first.text, "action": before}], observation.text, listed
            )
            yield goal in edges[observation.text], len(listed), prompt, [STYLE.answer(a).messages() for a in right]


def share(verdicts: list[bool] | list[float]) -> str:
    return f"{mean(verdicts):6.1%}" if verdicts else "     -"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("arms", nargs="+", help="names of arms, or directories of models")
    args = parser.parse_args()
    edges = edges_of(read([str(args.study / "rollout.jsonl")], "trajectory"), True)
    spec = next(iter(read([str(args.study / "panel.jsonl")], "task")))["env"]
    asked, steps = list(predictions(spec, edges)), list(last_steps(args.study / "panel.jsonl", edges))
    chance = {known: [len(right) / n for k, n, _, right in steps if k == known] for known in (True, False)}
    print(f"{args.study}: {sum(known for known, *_ in asked)} of {len(asked)} outcomes executed")
    print(f"{'':16} predicts executed  others   uses executed  others")
    print(f"{'chance':16} {'':17}  {'':6}   {share(chance[True]):>13}  {share(chance[False])}")
    for arm in args.arms:
        found = [Path(arm)] if Path(arm).is_dir() else sorted(p.parent for p in args.study.glob(f"*/{arm}/eexp.json"))
        predicts: dict[bool, list[bool]] = {True: [], False: []}
        uses: dict[bool, list[bool]] = {True: [], False: []}
        for directory in found:
            model = Greedy(directory)
            for known, prompt, answer in asked:
                predicts[known].append(model.writes(prompt, answer))
            for known, _, prompt, answers in steps:
                uses[known].append(any(model.writes(prompt, answer) for answer in answers))
        cells = [share(verdicts[known]) for verdicts in (predicts, uses) for known in (True, False)]
        print(f"{arm:16} {cells[0]:>17}  {cells[1]}   {cells[2]:>13}  {cells[3]}  ({len(found)} seeds)")


if __name__ == "__main__":
    main()

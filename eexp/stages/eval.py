"""`eexp eval`: play tasks, one episode record each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from eexp import options
from eexp.envs.base import Environment
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.policy import Policy, State
from eexp.records import seed_of


def panel(env: Environment, split: str, n: int | None) -> list[dict]:
    """The first `n` tasks of a split in the order of a hash of their ids.

    So a panel of 100 is part of the panel of 200, is the same on every machine, and mixes kinds of task that the split
    lists one after another.
    """
    tasks = sorted(env.tasks(split), key=lambda t: seed_of("panel", t["id"]))
    return tasks if n is None else tasks[:n]


def evaluate(env: Environment, tasks: Iterator[tuple[dict, int]], policy: Policy, *, temperature: float = 0.0,
             max_steps: int | None = None, seed: int = 0,
             on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """Play each (task, trial) once and yield its episode.

    temperature 0 is greedy. An episode ends when the environment says so or after `max_steps` actions (the
    environment's own limit if None).
    """
    for task, trial in tasks:
        try:
            yield _play(env, task, trial, policy, temperature, max_steps or env.max_steps, seed)
        except InputError as e:
            on_error({"type": "task", "id": episode_id(env, task, trial), "task": task}, e)


def episode_id(env: Environment, task: dict, trial: int) -> str:
    """Identifies an episode among those of one run."""
    return f"{env.spec}/{task['id']}/{trial}"


def _play(env: Environment, task: dict, trial: int, policy: Policy, temperature: float, max_steps: int,
          seed: int) -> dict:  # fmt: skip
    seen = env.reset(task)
    instruction, transcript = env.instruction(), []
    name = episode_id(env, task, trial)
    while not seen.done and len(transcript) < max_steps:
        state = State(instruction, transcript, seen.text,
                      env.admissible() if "admissible" in policy.needs else None,
                      env.expert() if "expert" in policy.needs else None)  # fmt: skip
        key = seed_of(seed, name, len(transcript))
        drawn = policy.propose(state, 1, temperature=temperature, seed=key)[0]
        before = seen.text
        seen = env.step(drawn.action)
        turn = {"observation": before, "action": drawn.action, "valid": seen.valid}
        if drawn.text is not None and drawn.text.strip() != drawn.action:
            turn["text"] = drawn.text
        transcript.append(turn)
    made = {"type": "episode", "id": name, "env": env.spec, "task": task, "split": task.get("split"), "seed": trial,
            "success": bool(seen.success if seen.success is not None else seen.score == 1.0), "score": seen.score,
            "steps": len(transcript), "invalid": sum(not t["valid"] for t in transcript)}  # fmt: skip
    return {**made, "model": policy.fingerprint, "prompt_style": policy.style_label, "instruction": instruction,
            "transcript": transcript, "final": seen.text}  # fmt: skip


def _not_done(env: Environment, tasks: list[dict], trials: int, done: Callable[[str], bool]) -> Iterator[tuple]:
    for trial in range(trials):
        for task in tasks:
            if not done(episode_id(env, task, trial)):
                yield task, trial


@click.command("eval")
@click.argument("env", metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)
@click.option("-n", "--number", type=click.IntRange(min=1), metavar="N",
              help="How many tasks.  [default: all of the split]")  # fmt: skip
@click.option("--split", default="test", show_default=True, metavar="NAME", help="Which tasks.")
@click.option("--trials", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Episodes a task; more than one makes sense at a temperature above 0.")  # fmt: skip
@options.model("Who plays; `eexp --help` lists what MODEL may be.  [default: the built-in tiny model]",
               max_tokens=128, temperature=0.0)  # fmt: skip
@click.option("--max-steps", type=click.IntRange(min=1), metavar="N",
              help="Longest episode, in actions.  [default: the environment's]")  # fmt: skip
@options.prompt_style(options.STYLE_OF_MODEL)
@options.seed
@options.streams(resume=True)
def command(env, number, split, trials, model, temperature, max_tokens, context, threads, max_steps, prompt_style, seed,
            stream) -> None:  # fmt: skip
    """Play tasks with a model and record the episodes.

    The tasks are a fixed panel: those of the split in the order of a hash of their ids, so -n 100 is a part of -n 200.
    The prompt is the one the model was trained with, unless told otherwise. `eexp --help` lists what ENV may be.

    \b
    Example:
      eexp eval house -m random -n 20 --split test > episodes.jsonl
    """
    from tqdm import tqdm

    from eexp.envs import open_env

    stream.stage = "eval"
    with open_env(env) as world:
        world.check_split(split)
        policy = options.open_policy(model, prompt_style, max_tokens, stream.note, context=context, threads=threads)
        stream.note(f"{env} {split}, model {policy.fingerprint}, prompt style {policy.style_label or 'none'}, "
                    f"temperature {temperature:g}, at most {max_steps or world.max_steps} steps")  # fmt: skip
        with stream.open("eval", None, env=env, split=split, model=policy.fingerprint, prompt_style=policy.style_label,
                         temperature=temperature, max_tokens=max_tokens, max_steps=max_steps or world.max_steps,
                         seed=seed) as io:  # fmt: skip
            tasks = panel(world, split, number)
            made = evaluate(world, _not_done(world, tasks, trials, io.done), policy, temperature=temperature,
                            max_steps=max_steps, seed=seed, on_error=io.fail)  # fmt: skip
            for episode in tqdm(made, total=len(tasks) * trials, disable=None, unit="episode", leave=False):
                io.write(episode)
                io.count("successes", int(episode["success"]))
                io.count("invalid actions", episode["invalid"])

"""Try the judges of web tasks: on demonstrations, which they must accept, and on wrong endings, which they must not.

python try_judges.py 'web?tasks=FILE&run=yes' [--split SPLIT] [TASK ...]

The wrong endings: to stop at once; the demonstration without its last action, where more than an answer is asked for;
the demonstration with a wrong answer, where one is asked for; and the next task's demonstration, with its own answer.
The right answer must also be on the page where the demonstration gives it.
Prints a line for each task and those that failed. Exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator

from eexp.envs import open_env
from eexp.envs.worlds.browser.scripted import ScriptedAction
from eexp.envs.worlds.browser.web_tasks import WebTask
from eexp.envs.worlds.web import Web

WRONG = "stop [none of the answers]"


def script_of(task: WebTask) -> list[str]:
    """Return a task's demonstration, which ends with `stop`."""
    script = list(task.expert or [])
    return script if script and script[-1].startswith("stop") else [*script, "stop []"]


def wrong_endings(task: WebTask, other: WebTask | None) -> Iterator[tuple[str, list[str]]]:
    """Yield ways to end a task wrongly: what is wrong, and the actions."""
    *path, stop = script_of(task)
    asks = any(judge.kind == "answer" for judge in task.judge)
    yield "nothing", ["stop []"]
    if asks:
        yield "wrong answer", [*path, WRONG]
    if path and any(judge.kind != "answer" for judge in task.judge):
        yield "cut", [*path[:-1], stop]
    if other is not None:
        yield f"path of {other.id}", script_of(other)


def play(env: Web, task: WebTask, script: list[str]) -> bool:
    """Play what can be played of a script, then stop. Return whether the task was done."""
    env.reset(env.task_named(task.id))
    for line in script:
        action = ScriptedAction.of(line)
        while (found := action.on(env._visible().lines)) is None:
            if not env.step("scroll down").valid:
                break
        if found is None:
            continue  # another task's element
        observation = env.step(found)
        if observation.done:
            return bool(observation.success)
    return bool(env.step("stop []").success)


def demonstrate(env: Web, task: WebTask) -> tuple[bool, str]:
    """Play a task's demonstration. Return whether the task was done, and the page on which it ended."""
    observation = env.reset(env.task_named(task.id))
    while (action := env.expert()) is not None:
        text, observation = observation.text, env.step(action)
        if observation.done:
            return bool(observation.success), text
    return False, observation.text


def try_task(env: Web, task: WebTask, other: WebTask | None) -> tuple[list[str], int]:
    """Return what the judges of a task get wrong, and how many wrong endings they were tried on."""
    problems, endings = [], list(wrong_endings(task, other))
    done, page = demonstrate(env, task)
    if not done:
        problems.append(f"{task.id}: the demonstration is not accepted; it ended at:\n{page}")
    answers = [judge.answer for judge in task.judge if judge.answer is not None]
    for forms in ([answer] if isinstance(answer, str) else answer for answer in answers):
        if not any(form.casefold() in page.casefold() for form in forms):
            problems.append(f"{task.id}: the answer is not on the page where it is given:\n{page}")
    for name, script in endings:
        if play(env, task, script):
            problems.append(f"{task.id}: accepted: {name}: {script}")
    return problems, len(endings)


def pairs(tasks: list[WebTask]) -> Iterator[tuple[WebTask, WebTask | None]]:
    """Yield every task with the next one that begins at the same address in the same way."""
    for n, task in enumerate(tasks):
        rest = tasks[n + 1 :] + tasks[:n]
        others = [other for other in rest if (other.start, other.before) == (task.start, task.before)]
        yield task, others[0] if others else None


def main(arguments: list[str] | None = None) -> int:
    """Try the judges and print what they get wrong; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("spec", help="web?tasks=FILE&run=yes")
    parser.add_argument("task", nargs="*", help="regular expressions for ids; all tasks by default")
    parser.add_argument("--split", help="only the tasks of this split")
    options = parser.parse_args(arguments)
    failed = False
    with open_env(options.spec) as env:
        assert isinstance(env, Web)
        for task, other in pairs(env._file.task):
            if options.task and not any(re.fullmatch(name, task.id) for name in options.task):
                continue
            if options.split not in (None, task.split):
                continue
            problems, wrong = try_task(env, task, other)
            result = f"{task.id}: {'FAILED' if problems else 'ok'}, {wrong} wrong endings"
            print(result, *problems, sep="\n", flush=True)
            failed = failed or bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Write hindsight demonstrations of executed outcomes in `reactions`, as imitation examples without a thought.

    python hindsight_reactions.py rollout.jsonl il.jsonl [goals | apart panel.jsonl] > hindsight.jsonl

Every executed outcome (x, operation) -> y becomes the demonstration of the task "make y from x", and every pair of
them, x -> m -> z, that of "make z from x". With `goals`, a placebo: the goals are exchanged among these paths. With
`apart`, paths that solve a task of the panel are left out. `eexp relabel --stitch 1` writes the shortest of these paths
as trajectories, and --apart-from does what `apart` does.
"""

import json
import random
import sys

rollout = [json.loads(line) for line in open(sys.argv[1])]
model = json.loads(open(sys.argv[2]).readline())
system = model["prompt"][0]
actions = {s["action"] for t in rollout for s in t["steps"]}
actions |= {a["action"] for t in rollout for s in t["steps"] for a in s.get("alternatives", [])}
operations = sorted({action.split()[0] for action in actions})


def held(text):
    return text.split("You hold ")[1].rstrip(".")


edges = {}
for t in rollout:
    for i, s in enumerate(t["steps"]):
        after = t["steps"][i + 1]["observation"] if i + 1 < len(t["steps"]) else t["outcome"]["observation"]
        x = held(s["observation"])
        edges[x, s["action"].split()[0]] = held(after)
        for a in s.get("alternatives", []):
            edges[x, a["action"].split()[0]] = held(a["outcome"]["observation"])
edges = {k: y for k, y in edges.items() if y not in ("ash", k[0])}
number = 0


def example(turns, goal, last, operation):
    global number
    number += 1
    prompt = [system]
    for i, (x, done) in enumerate(turns):
        task = f"Task: Make {goal}.\n" if i == 0 else ""
        prompt.append({"role": "user", "content": f"{task}You hold {x}."})
        prompt.append({"role": "assistant", "content": f"Action: {done} {x}"})
    task = "" if turns else f"Task: Make {goal}.\n"
    listed = ", ".join(f"{o} {last}" for o in operations)
    prompt.append({"role": "user", "content": f"{task}You hold {last}.\nActions: {listed}"})
    text = f"Action: {operation} {last}"
    record = {**model, "id": f"hindsight/{number}/imitation", "group": f"hindsight/{number}", "prompt": prompt}
    record["completion"] = [{"role": "assistant", "content": text}]
    record["spans"] = [{**model["spans"][0], "start": 0, "end": len(text)}]
    print(json.dumps(record))


paths = []
for (x, first), y in sorted(edges.items()):
    paths.append(([(x, first)], y))
    for second in operations:
        z = edges.get((y, second))
        if z and z != x:
            paths.append(([(x, first), (y, second)], z))
if sys.argv[3:] == ["goals"]:
    goals = [goal for _, goal in paths]
    random.Random(0).shuffle(goals)
    paths = [(path, goal) for (path, _), goal in zip(paths, goals)]
if sys.argv[3:4] == ["apart"]:
    from eexp.envs.opening import open_env

    asked = set()
    for line in open(sys.argv[4]):
        record = json.loads(line)
        with open_env(record["env"]) as env:
            asked.add((held(env.reset(record["task"]).text), env.instruction().split()[-1].rstrip(".")))
    paths = [(path, goal) for path, goal in paths if (path[0][0], goal) not in asked]
for path, goal in paths:
    for i, (x, operation) in enumerate(path):
        example(path[:i], goal, x, operation)
print(f"{len(paths)} paths, {number} examples", file=sys.stderr)

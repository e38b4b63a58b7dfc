"""Run by tests/formats/test_logs.py where harbor is: read the logs named, print what was read, write one of its own."""

import json
import sys

from harbor.models.trajectories import Agent, Observation, ObservationResult, Step, ToolCall, Trajectory

*files, forked, own = sys.argv[1:]
for file in files:
    with open(file) as lines:
        logs = [Trajectory.model_validate_json(line) for line in lines]
    runs = []
    for log in logs:
        turns = [(step.source, step.message) for step in log.steps]
        observations = [step.observation.results[0].content if step.observation else None for step in log.steps]
        flat = [
            pair for turn, text in zip(turns, observations) for pair in (turn, ("user", text)) if pair[1] is not None
        ]
        runs.append(
            {
                "texts": [text for _, text in flat],
                "roles": [{"agent": "assistant"}.get(r, r) for r, _ in flat],
                "success": float(log.final_metrics.extra["success"]),
            }
        )
    print(
        json.dumps(
            {
                "runs": runs,
                "mean": sum(run["success"] for run in runs) / len(runs),
                "model": logs[0].agent.model_name,
                "task": logs[0].extra["eexp"]["env"],
            }
        )
    )

with open(forked) as lines:
    steps = [Trajectory.model_validate_json(line).steps for line in lines]
print(json.dumps([[s.extra["eexp"].get("alternatives", []) for s in run if s.source == "agent"] for run in steps]))

call = ToolCall(tool_call_id="c1", function_name="open", arguments={"what": "safe"})
steps = [
    Step(step_id=1, source="system", message="Find the gold."),
    Step(step_id=2, source="user", message="A safe."),
    Step(
        step_id=3,
        source="agent",
        message="I look.",
        tool_calls=[call],
        observation=Observation(results=[ObservationResult(source_call_id="c1", content="Gold.")]),
    ),
    Step(step_id=4, source="agent", message="I take it.", reasoning_content="It is in there."),
]
with open(own, "w") as file:
    trajectory = Trajectory(trajectory_id="one", agent=Agent(name="a", version="1"), steps=steps)
    file.write(json.dumps(trajectory.to_json_dict()) + "\n")

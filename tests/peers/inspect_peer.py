"""Run by tests/formats/test_logs.py where inspect-ai is: read the logs named, print them, and write one of its own."""

import json
import sys

from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, read_eval_log, write_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall

*files, _, own = sys.argv[1:]
for file in files:
    log = read_eval_log(file)
    assert read_eval_log(file, header_only=True).results == log.results
    print(
        json.dumps(
            {
                "runs": [
                    {
                        "texts": [m.text for m in sample.messages],
                        "roles": [m.role for m in sample.messages],
                        "success": sample.scores["success"].as_float() if sample.scores else None,
                    }
                    for sample in log.samples
                ],
                "mean": log.results.scores[0].metrics["mean"].value,
                "model": log.eval.model,
                "task": log.eval.task,
            }
        )
    )

print("null")

call = ToolCall(id="c1", function="open", arguments={"what": "safe"})
answer = [ContentReasoning(reasoning="It is in there."), ContentText(text="I take it.")]
messages = [
    ChatMessageSystem(content="Find the gold."),
    ChatMessageUser(content="A safe."),
    ChatMessageAssistant(content="I look.", tool_calls=[call]),
    ChatMessageTool(content="Gold.", tool_call_id="c1", function="open"),
    ChatMessageAssistant(content=answer),
]
spec = EvalSpec(created="2026-01-01T00:00:00+00:00", task="gold", dataset=EvalDataset(), model="m", config=EvalConfig())
sample = EvalSample(id="one", epoch=1, input="Find the gold.", target="gold", messages=messages)
write_eval_log(EvalLog(eval=spec, status="success", samples=[sample]), own, format="json")

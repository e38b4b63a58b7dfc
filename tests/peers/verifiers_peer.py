"""Run by tests/formats/test_logs.py where verifiers is: read the logs named, print them, and write one of its own."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from verifiers.v1.configs.agent import WireAgentConfig
from verifiers.v1.episode import WireEpisode
from verifiers.v1.graph import MessageNode
from verifiers.v1.task import WireTaskData
from verifiers.v1.trace import AgentInfo, TraceTask, WireTrace
from verifiers.v1.types import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage
from verifiers.v1.utils.trace_store import TRACES_FILE, read_episodes, write_episode

*files, forked, own = sys.argv[1:]


def traces_of(file: str) -> list[WireTrace]:
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(file, Path(directory) / TRACES_FILE)
        return [trace for episode in read_episodes(Path(directory), WireTrace) for trace in episode.traces]


for file in files:
    traces = traces_of(file)
    print(
        json.dumps(
            {
                "runs": [
                    {
                        "texts": [m.content for m in trace.messages],
                        "roles": [m.role for m in trace.messages],
                        "success": trace.reward,
                    }
                    for trace in traces
                ],
                "mean": sum(trace.reward for trace in traces) / len(traces),
                "model": traces[0].agent.config.model,
                "task": traces[0].task.data.model_extra["env"],
            }
        )
    )

print(json.dumps([[[m.content for m in b.messages] for b in trace.branches] for trace in traces_of(forked)]))

call = ToolCall(id="c1", name="open", arguments='{"what": "safe"}')
messages = [
    SystemMessage(content="Find the gold."),
    UserMessage(content="A safe."),
    AssistantMessage(content="I look.", tool_calls=[call]),
    ToolMessage(content="Gold.", tool_call_id="c1"),
    AssistantMessage(content="I take it.", reasoning_content="It is in there."),
]
nodes = [
    MessageNode(parent=n - 1 if n else None, message=m, sampled=m.role == "assistant") for n, m in enumerate(messages)
]
# A compaction that was given up: another leaf, before the last.
nodes.insert(1, MessageNode(parent=0, message=UserMessage(content="Never answered.")))
for node in nodes[2:]:
    node.parent = 0 if node.parent == 0 else node.parent + 1
task = TraceTask(type="T", data=WireTaskData(id="one"))
trace = WireTrace(task=task, agent=AgentInfo(config=WireAgentConfig()), nodes=nodes)
with tempfile.TemporaryDirectory() as directory:
    write_episode(Path(directory), WireEpisode(task=task, traces=[trace]))
    shutil.copy(Path(directory) / TRACES_FILE, own)

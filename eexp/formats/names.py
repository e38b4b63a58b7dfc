"""Names of formats, as the command line takes them, and the tables in which they stand.

Other packages add formats under the entry-point groups `eexp.import_formats` and `eexp.export_formats`: a name, and the
path of a function. One that imports takes a foreign record and returns a record of OpenAI's chat messages; one that
exports takes a trajectory, an episode or an example and returns a JSON object. `formats.base` has what else it may be.
"""

from __future__ import annotations

from eexp.system.plugins import Registry

#: Where an action stands in an agent's turn, as `eexp import --action` names it.
MARKED, WHOLE, ARGUMENT = "marked", "whole", "argument"

AGENTTRAJ, ETO, SHAREGPT, MESSAGES = "agenttraj", "eto", "sharegpt", "messages"
ATIF, VERIFIERS, INSPECT = "atif", "verifiers", "inspect"
WITHOUT_TOOLS = (AGENTTRAJ, ETO, SHAREGPT)  # formats in which an agent cannot call tools

SFT = "sft"  # the format of rows that `eexp export-log` writes
HF_TRACES = "hf-traces"  # sessions for the trace viewer of Hugging Face's hub, which `eexp export-log` writes
LAST, ALL = "last", "all"  # which branches of a graph of messages `eexp import` reads
#: The formats of rows that `eexp import` reads, each with the kind of the examples.
ROWS = {"expert_sft": "imitation", "iwm_sft": "world_model", "reflection_sft": "reflection"}

EPISODES = "episodes"  # episodes of `eexp eval`
WEBARENA_TASKS = "webarena-tasks"  # task files of WebArena, of which a file of tasks for `web` is made

_CONVERSATIONS = "eexp.formats.conversations"
IMPORT_FORMATS = Registry(
    "eexp.import_formats",
    "import format",
    {
        AGENTTRAJ: (f"{_CONVERSATIONS}:AGENTTRAJ_FORMAT", "AgentGym's AgentTraj-L"),
        ETO: (f"{_CONVERSATIONS}:ETO_FORMAT", "ETO's expert data"),
        SHAREGPT: (f"{_CONVERSATIONS}:SHAREGPT_FORMAT", "chats of ShareGPT"),
        MESSAGES: (f"{_CONVERSATIONS}:MESSAGES_FORMAT", "OpenAI's chat messages, with calls of tools"),
        ATIF: ("eexp.formats.logs:from_atif", "Harbor's trajectories"),
        VERIFIERS: ("eexp.formats.logs:VERIFIERS_FORMAT", "verifiers' traces.jsonl"),
        INSPECT: ("eexp.formats.logs:INSPECT_FORMAT", "logs of Inspect, as JSON"),
        **{name: ("eexp.formats.sft:Rows", f"rows of messages, examples of {kind}") for name, kind in ROWS.items()},
        EPISODES: ("eexp.formats.episodes:trajectory_of", "episodes of `eexp eval`"),
        WEBARENA_TASKS: ("eexp.formats.webarena:task_of", "WebArena's task files, as a file of tasks for `web`"),
    },
)
EXPORT_FORMATS = Registry(
    "eexp.export_formats",
    "export format",
    {
        ATIF: ("eexp.formats.logs:ATIF_LOG", "Harbor's trajectory format (ATIF), one a line"),
        VERIFIERS: ("eexp.formats.logs:VERIFIERS_LOG", "verifiers' episodes, as in its traces.jsonl"),
        INSPECT: ("eexp.formats.logs:INSPECT_LOG", "one log of Inspect"),
        HF_TRACES: ("eexp.formats.sessions:SESSION", "a session for the trace viewer of Hugging Face's hub"),
        SFT: ("eexp.formats.sft:to_row", "rows of chat messages, of examples"),
    },
)

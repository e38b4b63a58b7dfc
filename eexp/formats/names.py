"""Names of formats, as the command line takes them."""

from __future__ import annotations

#: Where an action stands in an agent's turn, as `eexp import --action` names it.
MARKED, WHOLE, ARGUMENT = "marked", "whole", "argument"

AGENTTRAJ, ETO, SHAREGPT, MESSAGES = "agenttraj", "eto", "sharegpt", "messages"
ATIF, VERIFIERS, INSPECT = "atif", "verifiers", "inspect"
LOGS = (ATIF, VERIFIERS, INSPECT)  # the formats of logs
#: The formats of conversations that `eexp import` reads, and those of them in which an agent may call tools.
CONVERSATIONS = (AGENTTRAJ, ETO, SHAREGPT, MESSAGES, *LOGS)
WITH_TOOLS = (MESSAGES, *LOGS)

SFT = "sft"  # the format of rows that `eexp export-log` writes
#: The formats of rows that `eexp import` reads, each with the kind of the examples.
ROWS = {"expert_sft": "imitation", "iwm_sft": "world_model", "reflection_sft": "reflection"}

EPISODES = "episodes"  # episodes of `eexp eval`

"""A server of the Model Context Protocol: shopping lists in a JSON file.

It reads its file at every call and keeps nothing else, so that eexp can play all episodes on one server and branch by
copying the file:

    eexp env check 'mcp:python examples/mcp_lists.py {dir}/lists.json?tasks=examples/mcp_lists.jsonl&state=stateless'

The tasks are in mcp_lists.jsonl. Needs `pip install mcp`, version 1 or 2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # the names in version 1
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import ToolAnnotations

FILE = Path(sys.argv[1] if len(sys.argv) > 1 else "lists.json")
READS = ToolAnnotations.model_validate({"readOnlyHint": True})

server = MCPServer("lists", instructions="A list exists for as long as there is something on it.")


def load() -> dict[str, dict[str, int]]:
    """Return all lists: the number of each thing, by the name of the list."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def store(lists: dict[str, dict[str, int]]) -> None:
    """Write all lists that have something on them."""
    FILE.write_text(json.dumps({name: things for name, things in lists.items() if things}), encoding="utf-8")


@server.tool(annotations=READS)
def show(name: str) -> str:
    """Show what is on a list."""
    things = load().get(name)
    if things is None:
        raise ToolError(f"there is no list {name!r}")
    return "\n".join(f"{number} {thing}" for thing, number in things.items())


@server.tool(annotations=READS)
def names() -> str:
    """Show the names of all lists."""
    return ", ".join(load()) or "There is no list."


@server.tool()
def put(name: str, thing: str, number: int = 1) -> str:
    """Put a thing on a list. The list need not exist."""
    if number < 1:
        raise ToolError("the number has to be 1 or more")
    lists = load()
    things = lists.setdefault(name, {})
    things[thing] = things.get(thing, 0) + number
    store(lists)
    return f"{things[thing]} {thing} on {name}."


@server.tool()
def strike(name: str, thing: str) -> str:
    """Strike a thing off a list, all of it."""
    lists = load()
    if thing not in lists.get(name, {}):
        raise ToolError(f"there is no {thing!r} on {name!r}")
    del lists[name][thing]
    store(lists)
    return f"No {thing} on {name}."


if __name__ == "__main__":
    server.run()

"""A server of the Model Context Protocol without any package, which starts at once and breaks on demand.

    python mcp_server.py MEMORY|START|ALWAYS FILE

It keeps texts by name: in its memory, in a file that it reads at its start, or in one that it reads at every call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

WHEN, FILE = sys.argv[1], Path(sys.argv[2])
TEXT = {"type": "string"}


def tool(name: str, reads: bool = False, required: tuple[str, ...] = (), **parameters: dict) -> dict:
    schema = {"type": "object", "properties": parameters, "required": list(required)}
    about = {"name": name, "description": f"Do {name}. And more.", "inputSchema": schema}
    return {**about, "annotations": {"readOnlyHint": True}} if reads else about


TOOLS = [
    tool("put", key=TEXT, text=TEXT, required=("key", "text")),
    tool("get", key=TEXT, reads=True, required=("key",)),
    tool("get-sum", **{"from": {"type": "integer"}, "to": {"type": "integer", "default": 1}}, required=("from",)),
    tool("where", reads=True),
    tool("time", reads=True),
    tool("kinds"),
    tool("refuse"),
    tool("fail"),
    tool("die", status={"type": "integer"}),
    tool("hang"),
    tool("junk"),
    tool("flood"),
    tool("loose"),
]
texts: dict[str, str] = {}


def load() -> None:
    texts.clear()
    texts.update(json.loads(FILE.read_text()) if FILE.exists() else {})


def say(**message) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(text: str) -> dict:
    return {"content": [{"type": "text", "text": text}]}


def call(name: str, arguments: dict) -> dict:
    if WHEN == "ALWAYS":
        load()
    match name:
        case "put":
            texts[arguments["key"]] = arguments["text"]
            if WHEN != "MEMORY":
                FILE.write_text(json.dumps(texts, sort_keys=True))
            return answer(f"{len(texts)} texts")
        case "get":
            known = arguments["key"] in texts
            return {**answer(texts.get(arguments["key"], "no such text")), "isError": not known}
        case "get-sum":
            return answer(str(arguments["from"] + arguments.get("to", 1)))
        case "where":
            return answer(f"{Path.cwd()}/a, {FILE}")
        case "time":
            return answer(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ')} {time.perf_counter()}")
        case "kinds":
            picture = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
            page = {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "text/plain", "text": "secret"}}
            link = {"type": "resource_link", "name": "b", "uri": "file:///b"}
            return {"content": [*answer("Look:")["content"], picture, page, link]}
        case "fail":
            return {**answer("It failed."), "isError": True}
        case "die":
            print("first\nlast words", file=sys.stderr, flush=True)
            sys.exit(arguments.get("status", 1))
        case "hang":
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(600)
        case "junk":
            print("Hello from a library", flush=True)
            return answer("after junk")
        case "flood":
            while True:
                sys.stdout.write("x" * 65536)
        case "loose":
            return {"content": "no list"}
    raise ValueError(name)


def main() -> None:
    if WHEN == "START":
        load()
    for line in sys.stdin:
        request = json.loads(line)
        match request["method"]:
            case "initialize":
                about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "texts", "version": "1"}}
                version = request["params"]["protocolVersion"]
                say(id=request["id"], result={"protocolVersion": version, "instructions": f"See {FILE}.", **about})
            case "tools/list":  # in pages of five
                start = int((request.get("params") or {}).get("cursor", "0"))
                more = {"nextCursor": str(start + 5)} if start + 5 < len(TOOLS) else {}
                say(id=request["id"], result={"tools": TOOLS[start : start + 5], **more})
            case "tools/call":
                try:
                    say(
                        id=request["id"],
                        result=call(request["params"]["name"], request["params"].get("arguments") or {}),
                    )
                except ValueError:
                    say(id=request["id"], error={"code": -32602, "message": "Refused."})


if __name__ == "__main__":
    main()

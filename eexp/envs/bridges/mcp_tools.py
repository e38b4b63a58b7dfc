"""Tools of an MCP server as an agent sees them: their names in calls, their descriptions, and their answers as text.

A call is written in Python's notation (eexp/prompts/calls.py), and names in other protocols may be none of Python's. So
`get-sum` is offered as `get_sum` and a parameter `from` as `from_`, and a call is translated back.
"""

from __future__ import annotations

import json
import keyword
import re
from dataclasses import dataclass
from typing import Any

from eexp.prompts.calls import Call

_DEEPEST = 4  # levels of a parameter's type that are described
_FIRST_SENTENCE = re.compile(r"\.\s+(?=[A-Z])|\n")


@dataclass(frozen=True)
class McpTool:
    """One tool."""

    name: str  # in calls
    server_name: str  # in the protocol
    description: str
    parameters: dict[str, str]  # their names in the protocol, by their names in calls
    schema: dict[str, Any]  # the JSON Schema of its arguments, by their names in calls
    read_only: bool  # whether the server declares that it changes nothing

    def as_function(self) -> dict[str, Any]:
        """Return the tool as OpenAI's chat format describes it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    def described(self, full: bool) -> str:
        """Return the tool in words: one line with its parameters, or all that the server says about them."""
        properties = self.schema["properties"]
        required = self.schema.get("required", [])
        parts = (_parameter(name, properties[name], name in required, self.schema) for name in self.parameters)
        about = self.description if full else _FIRST_SENTENCE.split(self.description.strip())[0].rstrip(".")
        lines = [f"{self.name}({', '.join(parts)}): {' '.join(about.split())}"]
        if full:
            texts = ((name, properties[name].get("description")) for name in self.parameters)
            lines += [f"  {name}: {' '.join(text.split())}" for name, text in texts if text]
        return "\n".join(lines)

    def arguments(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a call as the server expects them.

        Raises:
            ValueError: They are not given by name, the tool has no such parameter, or JSON cannot hold them.
        """
        _, by_position, by_name = call
        if by_position:
            raise ValueError(f"Arguments are given by name: {self._usage()}")
        for name in by_name:
            if name not in self.parameters and not self.schema.get("additionalProperties"):
                raise ValueError(f"{self.name} has no parameter {name!r}: {self._usage()}")
        try:
            arguments = {self.parameters.get(name, name): value for name, value in by_name.items()}
            text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            text.encode()  # a lone surrogate fails here
        except (TypeError, ValueError, RecursionError):
            raise ValueError("The arguments have to be values of JSON: strings, numbers, lists and the like") from None
        return json.loads(text)

    def _usage(self) -> str:
        return f"{self.name}({', '.join(f'{name}=...' for name in self.parameters)})"


def read_tools(listed: list[dict[str, Any]]) -> dict[str, McpTool]:
    """Return a server's tools by their names in calls.

    Args:
        listed: The tools as the protocol has them.

    Raises:
        ValueError: Two tools, or two parameters of one, have the same name in calls.
    """
    tools: dict[str, McpTool] = {}
    for entry in listed:
        tool = _read_tool(entry)
        if tool.name in tools:
            names = f"{tools[tool.name].server_name!r} and {tool.server_name!r}"
            raise ValueError(f"two of its tools are {tool.name!r} in a call: {names}")
        tools[tool.name] = tool
    return tools


def _read_tool(entry: dict[str, Any]) -> McpTool:
    schema = entry.get("inputSchema") or {}
    properties = schema.get("properties") or {}
    parameters = {name_in_calls(name): name for name in properties}
    if len(parameters) < len(properties):
        raise ValueError(f"two parameters of its tool {entry['name']!r} have the same name in a call")
    renamed = {"type": "object"} | {key: value for key, value in schema.items() if key != "$schema"}
    renamed["properties"] = {name: properties[server_name] for name, server_name in parameters.items()}
    if "required" in schema:
        renamed["required"] = [name_in_calls(name) for name in schema["required"]]
    return McpTool(
        name_in_calls(entry["name"]),
        entry["name"],
        entry.get("description") or "",
        parameters,
        renamed,
        bool((entry.get("annotations") or {}).get("readOnlyHint")),
    )


def name_in_calls(name: str) -> str:
    """Return a name of the protocol as an identifier of Python: `get-sum` as `get_sum`, `from` as `from_`."""
    identifier = re.sub(r"\W", "_", name)
    if not identifier or identifier[0].isdigit():
        identifier = f"_{identifier}"
    return f"{identifier}_" if keyword.iskeyword(identifier) else identifier


# -- types in words --------------------------------------------------------------------------------------------------


def _parameter(name: str, schema: dict, required: bool, root: dict) -> str:
    """Return a parameter as text: `path: string`, `limit: integer = 10`, `tail: number (optional)`."""
    rest = "" if required else f" = {schema['default']!r}" if "default" in schema else " (optional)"
    return f"{name}: {_type_in_words(schema, root)}{rest}"


def _type_in_words(schema: Any, root: dict, depth: int = 0) -> str:
    """Return the type that a JSON Schema describes: `'a' | 'b'`, `array of string`, `{from: string, to: string}`."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return "any"
    schema = _resolve_reference(schema, root)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(map(repr, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type_in_words(kind, root, depth + 1) for kind in schema[key]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type_in_words(schema.get('items'), root, depth + 1)}"
    if kind == "object" and schema.get("properties"):
        fields = (f"{name}: {_type_in_words(field, root, depth + 1)}" for name, field in schema["properties"].items())
        return f"{{{', '.join(fields)}}}"
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _resolve_reference(schema: dict, root: dict) -> dict:
    """Return what a schema's `$ref` into the definitions of `root` stands for; any other schema as it is."""
    match = re.fullmatch(r"#/(\$defs|definitions)/(.+)", str(schema.get("$ref", "")))
    return {**(root.get(match[1]) or {}).get(match[2], {}), **schema} if match else schema


# -- answers ---------------------------------------------------------------------------------------------------------


def answer_text(result: dict[str, Any]) -> str:
    """Return the result of a call as text. What is no text, such as a picture, is named and not shown."""
    blocks = [_block_text(block) for block in result.get("content") or []]
    if not blocks and result.get("structuredContent") is not None:
        return json.dumps(result["structuredContent"], ensure_ascii=False)
    return "\n".join(blocks) or "The tool answered nothing."


def _block_text(block: dict[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return block["text"]
    if kind in ("image", "audio"):
        return f"[{kind}: {block.get('mimeType')}, {len(block.get('data') or '') * 3 // 4} bytes]"
    resource = block.get("resource") or block
    about = ", ".join(filter(None, [resource.get("uri"), resource.get("mimeType")]))
    return f"[{'resource' if kind in ('resource', 'resource_link') else kind}: {about}]"

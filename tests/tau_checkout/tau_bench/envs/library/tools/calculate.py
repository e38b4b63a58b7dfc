from typing import Any

from tau_bench.envs.tool import Tool


class Calculate(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], expression: str) -> str:
        if not all(character in "0123456789+-*/(). " for character in expression):
            return "Error: invalid characters in expression"
        return str(round(float(eval(expression, {"__builtins__": None}, {})), 2))

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "calculate",
                "description": "Calculate a number.",
                "parameters": {
                    "type": "object",
                    "properties": {"expression": {"type": "string", "description": "Such as '2 + 2'."}},
                    "required": ["expression"],
                },
            },
        }

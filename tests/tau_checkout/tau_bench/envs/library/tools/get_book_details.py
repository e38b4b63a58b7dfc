import json
from typing import Any

from tau_bench.envs.tool import Tool


class GetBookDetails(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], book_id: str) -> str:
        if book_id not in data["books"]:
            return "Error: book not found"
        return json.dumps(data["books"][book_id])

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "get_book_details",
                "description": "Show what is known of a book. It may be long.",
                "parameters": {
                    "type": "object",
                    "properties": {"book_id": {"type": "string"}},
                    "required": ["book_id"],
                },
            },
        }

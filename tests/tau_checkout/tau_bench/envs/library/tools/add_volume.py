from copy import deepcopy
from typing import Any

from tau_bench.envs.tool import Tool


class AddVolume(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], book_id: str, count: int) -> str:
        changed = data["books"] | {}
        changed[book_id]["copies"]["paper"] += count
        volume = deepcopy(changed[book_id])
        volume["book_id"] = f"{book_id}{count}"
        data["books"][volume["book_id"]] = volume
        return str(len(data["books"]))

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "add_volume",
                "description": "Enter another volume of a book. A third sentence? No. A second one.",
                "parameters": {
                    "type": "object",
                    "properties": {"book_id": {"type": "string"}, "count": {"type": "integer"}},
                    "required": ["book_id", "count"],
                },
            },
        }

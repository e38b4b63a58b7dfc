from typing import Any

from tau_bench.envs.tool import Tool


class RenameGenre(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], old: str, new: str, note: str = "") -> str:
        for book in data["books"].values():
            if book["genre"] == old:
                book["genre"] = new
        data["books"] = dict(data["books"])
        if note:
            data["notes"] = [*data.get("notes", []), note]
        return "done"

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "rename_genre",
                "description": "Give a genre another name.",
                "parameters": {
                    "type": "object",
                    "properties": {"old": {"type": "string"}, "new": {"type": "string"}, "note": {"type": "string"}},
                    "required": ["old", "new"],
                },
            },
        }

import json
from typing import Any

from tau_bench.envs.tool import Tool


class ListAllGenres(Tool):
    @staticmethod
    def invoke(data: dict[str, Any]) -> str:
        genres: dict[str, list[str]] = {}
        for book in data["books"].values():
            genres.setdefault(book["genre"], []).append(book["book_id"])
        return json.dumps(genres, sort_keys=True)

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "list_all_genres",
                "description": "List the genres, with the numbers of the books of each.",
                "parameters": {"type": "object", "properties": {}, "required": []},
            },
        }

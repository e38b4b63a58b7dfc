from typing import Any

from tau_bench.envs.tool import Tool


class RemoveBook(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], book_id: str) -> str:
        book = data["books"].pop(book_id, None)
        if book is None:
            return "Error: book not found"
        book["status"] = "gone"
        data["books"].setdefault(f"{book_id}x", {})["was"] = book
        return "removed"

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "remove_book",
                "description": "Remove a book.",
                "parameters": {
                    "type": "object",
                    "properties": {"book_id": {"type": "string"}},
                    "required": ["book_id"],
                },
            },
        }

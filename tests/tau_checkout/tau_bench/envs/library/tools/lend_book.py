import json
from typing import Any

from tau_bench.envs.tool import Tool


class LendBook(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], user_id: str, book_id: str) -> str:
        if book_id not in data["books"]:
            return "Error: book not found"
        book = data["books"][book_id]
        if book["status"] != "shelf":
            return "Error: the book is not on the shelf"
        data["users"][user_id]["loans"].append(book_id)
        book["status"] = "lent"
        book["history"].append({"user_id": user_id})
        return json.dumps(book)

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "lend_book",
                "description": "Lend a book to a reader.",
                "parameters": {
                    "type": "object",
                    "properties": {"user_id": {"type": "string"}, "book_id": {"type": "string"}},
                    "required": ["user_id", "book_id"],
                },
            },
        }

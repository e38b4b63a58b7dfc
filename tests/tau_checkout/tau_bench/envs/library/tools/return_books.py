import json
from typing import Any

from tau_bench.envs.tool import Tool


class ReturnBooks(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], user_id: str, book_ids: list[str], state: str) -> str:
        if state not in ("good", "damaged"):
            return "Error: invalid state"
        user = data["users"][user_id]
        for book_id in book_ids:
            if book_id not in user["loans"]:
                return f"Error: {book_id} is not lent to this reader"  # the books before it are back already
            user["loans"].remove(book_id)
            data["books"][book_id]["status"] = "shelf" if state == "good" else "repair"
        return json.dumps(user)

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "return_books",
                "description": "Take books back from a reader.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "user_id": {"type": "string"},
                        "book_ids": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "The numbers of the books.",
                        },
                        "state": {"type": "string", "enum": ["good", "damaged"]},
                    },
                    "required": ["user_id", "book_ids", "state"],
                },
            },
        }

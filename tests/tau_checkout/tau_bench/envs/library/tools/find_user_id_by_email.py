from typing import Any

from tau_bench.envs.tool import Tool


class FindUserIdByEmail(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], email: str) -> str:
        for user_id, user in data["users"].items():
            if user["email"].lower() == email.lower():
                return user_id
        return "Error: user not found"

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "find_user_id_by_email",
                "description": "Find a reader by the address of mail.",
                "parameters": {
                    "type": "object",
                    "properties": {"email": {"type": "string", "description": "Such as 'a.b@mail.example'."}},
                    "required": ["email"],
                },
            },
        }

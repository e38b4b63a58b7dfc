from typing import Any

from tau_bench.envs.tool import Tool


class PayFee(Tool):
    @staticmethod
    def invoke(data: dict[str, Any], user_id: str, amount: float) -> str:
        user = data["users"][user_id]
        before, user["fees"] = user["fees"], 0
        if amount > before:  # raises an exception where the amount is not a number
            return "Error: the fees are lower"
        user["fees"] = round(before - amount, 2)
        return str(user["fees"])

    @staticmethod
    def get_info() -> dict[str, Any]:
        return {
            "type": "function",
            "function": {
                "name": "pay_fee",
                "description": "Take a payment for the fees of a reader.",
                "parameters": {
                    "type": "object",
                    "properties": {"user_id": {"type": "string"}, "amount": {"type": "number"}},
                    "required": ["user_id", "amount"],
                },
            },
        }

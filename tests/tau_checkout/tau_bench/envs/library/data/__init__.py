import json
import os
from typing import Any

FOLDER_PATH = os.path.dirname(__file__)


def load_data() -> dict[str, Any]:
    tables = {}
    for name in ("books", "users"):
        with open(os.path.join(FOLDER_PATH, f"{name}.json")) as f:
            tables[name] = json.load(f)
    return tables

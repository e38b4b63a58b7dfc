"""`eexp import moves` and `eexp export-log --format moves`: `{"name", "moves": [[SEEN, DONE], ...], "end"}`."""


def from_moves(record):
    """Return a record of moves as OpenAI's chat messages."""
    messages = [
        message
        for seen, done in record["moves"]
        for message in ({"role": "user", "content": seen}, {"role": "assistant", "content": done})
    ]
    return {"id": record["name"], "messages": [*messages, {"role": "user", "content": record["end"]}]}


def to_moves(record):
    """Return a trajectory or an episode as a record of moves."""
    turns = record.get("steps") or record.get("transcript") or []
    end = (record.get("outcome") or {}).get("observation") or record.get("final")
    return {
        "name": record["task"]["id"],
        "moves": [[turn["observation"], turn["action"]] for turn in turns],
        "end": end,
    }

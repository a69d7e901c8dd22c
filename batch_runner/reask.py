"""The same row asked differently: told what was wrong with its answer, or given more room."""

import json
from dataclasses import replace
from typing import Any

from batch_runner.records import Request


MORE_ROOM = 4
"""`on_incomplete = "retry"` multiplies max_output_tokens by this, once."""
MOST_CORRECTIONS = 2
"""Repeats of a row because its answer did not fit; apart from every other budget."""


def with_correction(request: Request, flaw: str) -> Request:
    """The request with a word on why the last answer would not do. Key and label stay."""
    note = (
        f"Your previous answer could not be used: {flaw}\n"
        "Answer again, with nothing but JSON that fits the schema."
    )
    body = json.loads(request.body)
    given = body.get("input")
    if isinstance(given, list):
        body["input"] = [*given, {"role": "user", "content": note}]
    else:
        body["input"] = f"{given}\n\n{note}" if given else note
    return replace(request, body=_encoded(body))


def with_more_room(request: Request) -> Request | None:
    """The request with `MORE_ROOM` times the tokens; None when it sets no limit to raise."""
    if request.max_output_tokens is None:
        return None
    room = request.max_output_tokens * MORE_ROOM
    body = {**json.loads(request.body), "max_output_tokens": room}
    return replace(request, body=_encoded(body), max_output_tokens=room)


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

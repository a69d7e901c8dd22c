"""The reply inside a stream of server-sent events, for endpoints that stream."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


FINAL_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})


def events(body: bytes) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of the stream's data fields, in order; what is not JSON is passed over.

    Reads a stream that broke off as far as its last whole event.
    """
    text = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for block in text.split(b"\n\n"):
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")
        )
        try:
            event = json.loads(data)
        except ValueError:
            continue
        if isinstance(event, Mapping):
            yield event


def final_reply(body: bytes) -> Mapping[str, Any] | None:
    """The response object of the event that ended the stream; None when it never ended."""
    for event in events(body):
        if event.get("type") in FINAL_EVENTS and isinstance(event.get("response"), Mapping):
            return event["response"]  # type: ignore[no-any-return]  # checked one line above
    return None


def partial_text(body: bytes) -> str:
    """The text that had arrived when the stream broke."""
    return "".join(
        event["delta"]
        for event in events(body)
        if event.get("type") == "response.output_text.delta" and isinstance(event.get("delta"), str)
    )

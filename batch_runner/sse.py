"""The reply inside a stream of server-sent events, for endpoints that stream."""

from collections.abc import Iterator, Mapping
from typing import Any

from batch_runner.jsonbytes import decode


FINAL_EVENTS = ("response.completed", "response.incomplete", "response.failed")


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
            event = decode(data)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, Mapping):
            yield event


def whole_until(body: bytearray) -> int:
    """Where the last whole event ends."""
    ends = [at + len(end) for end in (b"\n\n", b"\n\r\n") if (at := body.rfind(end)) >= 0]
    return max(ends, default=0)


def final_reply(body: bytes) -> Mapping[str, Any] | None:
    """The response object of the event that ended the stream; None when it never ended.

    An `error` event reads as a failed response. Where that or `response.failed` came in the middle
    of the answer, the text so far is its output.
    """
    for event in events(body):
        kind = event.get("type")
        if kind in FINAL_EVENTS and isinstance(event.get("response"), Mapping):
            reply: Mapping[str, Any] = event["response"]
            if kind != "response.failed" or reply.get("output"):
                return reply
            return {**reply, "output": _so_far(body)}
        if kind == "error":
            named = event.get("error")
            error = named if isinstance(named, Mapping) else event
            return {
                "status": "failed",
                "error": {"code": error.get("code"), "message": error.get("message")},
                "output": _so_far(body),
            }
    return None


def partial_text(body: bytes) -> str:
    """The text that had arrived when the stream broke."""
    return "".join(
        event["delta"]
        for event in events(body)
        if event.get("type") == "response.output_text.delta" and isinstance(event.get("delta"), str)
    )


def _so_far(body: bytes) -> list[Any]:
    text = partial_text(body)
    if not text:
        return []
    return [{"type": "message", "content": [{"type": "output_text", "text": text}]}]

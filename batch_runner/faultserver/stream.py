"""A Response told as server-sent events, in the order and with the fields of the OpenAI API."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


DELTA_LENGTH = 16
LAST_EVENTS = {"completed", "incomplete", "failed", "queued"}

Event = dict[str, Any]


def events(response: Mapping[str, Any]) -> bytes:
    """The whole stream, from `response.created` to the event that carries `response`."""
    numbered = (
        event | {"sequence_number": number} for number, event in enumerate(_events(response))
    )
    return b"".join(map(event_bytes, numbered))


def event_bytes(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


def _events(response: Mapping[str, Any]) -> Iterator[Event]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "error": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response.get("output") or ()):
        yield from _item(item, index)
    if (status := response.get("status")) in LAST_EVENTS:
        yield {"type": f"response.{status}", "response": response}


def _item(item: Mapping[str, Any], index: int) -> Iterator[Event]:
    place = {"output_index": index, "item_id": item.get("id")}
    hollow: Event = {"content": []} if "content" in item else {}
    begun = {**item, "status": "in_progress", **hollow}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    if item.get("type") == "message":
        for number, part in enumerate(item["content"]):
            yield from _part(part, place | {"content_index": number})
    elif item.get("type") == "function_call":
        name, arguments = "response.function_call_arguments", item["arguments"]
        yield {"type": f"{name}.delta", "delta": arguments, **place}
        yield {"type": f"{name}.done", "arguments": arguments, "name": item["name"], **place}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part(part: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[Event]:
    field = "text" if part["type"] == "output_text" else "refusal"
    name = f"response.{part['type']}" if field == "text" else "response.refusal"
    logprobs: Event = {"logprobs": []} if field == "text" else {}
    text = part[field]
    yield {"type": "response.content_part.added", "part": {**part, field: ""}, **place}
    for start in range(0, len(text), DELTA_LENGTH):
        delta = text[start : start + DELTA_LENGTH]
        yield {"type": f"{name}.delta", "delta": delta, **logprobs, **place}
    yield {"type": f"{name}.done", field: text, **logprobs, **place}
    yield {"type": "response.content_part.done", "part": part, **place}

"""Replies as values: Response objects in the OpenAI shape, and what the provider charges."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batch_runner.faultserver.ledger import response_id_of
from batch_runner.faultserver.protocol import Then
from batch_runner.faultserver.settings import Settings
from batch_runner.faultserver.stream import events
from batch_runner.faultserver.text import expected_text, prompt_text
from batch_runner.faultserver.usage import TokenCount, tokens_in


JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
SERVED_TIERS = {"auto": "default", "fast": "priority"}  # what is served is not what was asked

STUCK = "stuck"
"""A `Reply.job_status`: in_progress for ever."""

Output = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the client gets, what the provider counted, and how the bytes travel."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = JSON
    headers: tuple[tuple[str, str], ...] = ()
    response: dict[str, Any] | None = None
    """The Response object that `body` tells, where there is one."""
    usage: TokenCount | None = None
    billed: bool = False
    usage_delivered: bool = False
    """Whether reading the whole of `body` tells the usage."""

    replayed: bool = False
    """A stored answer, given again."""
    job_status: str | None = None
    """Set: `response` is the end of a background job; the client gets this status and polls."""

    delay_seconds: float = 0.0
    silent: bool = False
    """Not even a status line is sent."""
    sent_share: float = 1.0
    """Below 1 only this part of the body is sent, under the Content-Length of the whole."""
    spread_seconds: float = 0.0
    """The body leaves evenly over this time, and whole."""
    drip_seconds: float | None = None
    """Set: in place of the body one byte at this interval, without end."""
    chunked: bool = False
    then: Then = Then.KEEP
    idle_seconds: float = 0.0

    def with_headers(self, *more: tuple[str, str]) -> "Reply":
        return replace(self, headers=self.headers + more)

    def unread(self) -> "Reply":
        """Billed, but nobody gets to know the usage."""
        return replace(self, usage_delivered=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to `/v1/responses`, read."""

    n: int
    key: str
    body: Mapping[str, Any]
    authorization: str
    settings: Settings
    now: float

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def api_key(self) -> str:
        return self.authorization.removeprefix("Bearer ")

    @property
    def response_id(self) -> str:
        return response_id_of(self.key, self.n)

    def text(self) -> str:
        return expected_text(self.body)

    def message(self, *content: dict[str, Any], status: str = "completed") -> dict[str, Any]:
        """An output item of the assistant."""
        return {
            "id": f"msg_{self.key[:24]}{self.n:016x}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": list(content),
        }

    def count(self, text: str) -> TokenCount:
        """The cost of answering with `text`."""
        asked = max(1, tokens_in(prompt_text(self.body)))
        return TokenCount(
            input=asked,
            cached=min(self.settings.cached_tokens, asked),
            output=tokens_in(text) + self.settings.reasoning_tokens,
            reasoning=self.settings.reasoning_tokens,
        )

    def say(self, text: str, *, status: str = "completed", **fields: Any) -> Reply:
        """A Response whose message is `text`."""
        return self.respond(
            [self.message(said(text), status=status)],
            usage=self.count(text),
            status=status,
            **fields,
        )

    def respond(
        self, output: Output, *, usage: TokenCount | None, status: str = "completed", **fields: Any
    ) -> Reply:
        """A Response with this output; no usage means that nothing was billed."""
        response = self._response(output, usage=usage, status=status) | fields
        return self.tell(response, usage=usage)

    def tell(self, response: dict[str, Any], *, usage: TokenCount | None) -> Reply:
        """This object as JSON, or as the event stream that ends with it if one was asked for."""
        streamed = self.body.get("stream") is True
        return Reply(
            body=events(response) if streamed else encode(response),
            content_type=SSE if streamed else JSON,
            chunked=streamed,
            response=response,
            usage=usage,
            billed=usage is not None,
            usage_delivered=usage is not None and bool(response.get("usage")),
        )

    def _response(self, output: Output, *, usage: TokenCount | None, status: str) -> dict[str, Any]:
        asked = self.body
        tier = asked.get("service_tier") or "auto"
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": int(self.now),
            "completed_at": int(self.now) if status == "completed" else None,
            "status": status,
            "background": bool(asked.get("background")),
            "error": None,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": asked.get("max_tool_calls"),
            "model": asked.get("model"),
            "output": output,
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "previous_response_id": asked.get("previous_response_id"),
            "prompt_cache_key": asked.get("prompt_cache_key"),
            "reasoning": asked.get("reasoning") or {"effort": None, "summary": None},
            "safety_identifier": asked.get("safety_identifier"),
            "service_tier": SERVED_TIERS.get(tier, tier),
            "store": asked.get("store", True),
            "temperature": asked.get("temperature", 1.0),
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "text": asked.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": _tools(asked.get("tools") or ()),
            "top_logprobs": asked.get("top_logprobs", 0),
            "top_p": asked.get("top_p", 1.0),
            "truncation": asked.get("truncation", "disabled"),
            "usage": None if usage is None else usage.as_usage(),
            "user": asked.get("user"),
            "metadata": asked.get("metadata") or {},
        }


def encode(value: Any) -> bytes:
    """Compact ASCII JSON: lone surrogates and NUL leave as escapes, as servers send them."""
    return _ENCODE(value).encode()


_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def said(text: str) -> dict[str, Any]:
    """Message content: text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def error_reply(
    status: int, message: str, *, kind: str = "invalid_request_error", code: Any = None
) -> Reply:
    """An HTTP error in the OpenAI shape."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Reply(status=status, body=encode({"error": error}))


def _tools(tools: Sequence[Any]) -> list[Any]:
    """As asked for, with the fields the server fills in."""
    return [
        {"strict": True, "parameters": None, **tool}
        if isinstance(tool, Mapping) and tool.get("type") == "function"
        else tool
        for tool in tools
    ]

"""The /v1/responses wire format: what a reply says, whoever sent it.

Servers differ (reference: OpenAI, Open Responses, llama.cpp, LiteLLM, vLLM, transformers), so
everything but the text is optional here, `error.code` may be a number, and unknown item types pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_runner.frozen import frozen
from batch_runner.records import Completion, ErrorCode, Failure, RowStatus, Usage, other


PATH = "/responses"

ECHOED = frozenset({
    "background", "frequency_penalty", "input", "instructions", "max_output_tokens",
    "max_tool_calls", "metadata", "parallel_tool_calls", "presence_penalty", "previous_response_id",
    "prompt", "prompt_cache_key", "prompt_cache_retention", "reasoning", "safety_identifier", "store",
    "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user",
})  # fmt: skip
"""Reply fields that only repeat the request: a journal that kept them would hold every prompt twice."""

_UNFINISHED = ("queued", "in_progress")
_NO_TOKENS = Usage()
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Kinds of tool call, and where what is passed stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A background response that is still being made: ask again for `response_id`."""

    response_id: str


@frozen
class ReplyOutput:
    """What the model produced, whatever the reply's status."""

    text: str
    refusal: str
    reasoning: str
    tool_calls: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """The error a server named, in a reply of any status and any shape."""

    code: str
    message: str
    type: str = ""


def read_reply(
    reply: Mapping[str, Any], *, cap: int | None = None
) -> Completion | Failure | Unfinished:
    """How a 200 reply ended. `cap` is the max_output_tokens that was asked for.

    A reply that is cut off at the cap while its status says completed (llama.cpp does that) is
    INCOMPLETE all the same. Failure.code is the server's own code where the reply failed.
    """
    status = reply.get("status", "completed")
    if status in _UNFINISHED:
        return _unfinished(reply)
    output = read_output(reply)
    if status == "failed":
        error = read_error(reply)
        return Failure(code=_failed_code(error.code), message=error.message, text=output.text)
    if status == "cancelled":
        return Failure(
            code=other("cancelled"), message="the server cancelled the response", text=output.text
        )
    if not isinstance(reply.get("output"), list):
        return Failure(code=ErrorCode.BAD_REPLY, message="the reply has no list 'output'")
    if status == "incomplete":
        return _cut(output, _incomplete_reason(reply, cap), reply, cap=cap)
    if output.refusal and not output.text.strip():
        return _refused(output)
    if _reached(reply, cap):
        return _cut(output, ErrorCode.MAX_OUTPUT_TOKENS, reply, cap=cap)
    if output.refusal:
        return _refused(output)
    if not output.text.strip() and not output.tool_calls:
        what = "only reasoning" if output.reasoning or _has_reasoning(reply) else "no text"
        return Failure(
            code=ErrorCode.EMPTY_OUTPUT, message=f"the reply holds {what}", text=output.text
        )
    return Completion(
        text=output.text, reasoning=output.reasoning or None, tool_calls=output.tool_calls
    )


def read_output(reply: Mapping[str, Any]) -> ReplyOutput:
    """Text, refusal, reasoning summary and tool calls of a reply; empty where there are none.

    Where messages carry a phase, only the final answer is text.
    """
    texts: list[str] = []
    final_texts: list[str] = []
    refusals: list[str] = []
    reasoning: list[str] = []
    calls: list[Mapping[str, Any]] = []
    for item in _mappings(reply.get("output")):
        kind = item.get("type")
        if kind == "message":
            said = final_texts if item.get("phase") == "final_answer" else texts
            for part in _mappings(item.get("content")):
                if part.get("type") == "refusal":
                    refusals.append(str(part.get("refusal") or ""))
                elif isinstance(text := part.get("text"), str):
                    said.append(text)
        elif kind == "reasoning":
            summary = (part.get("text") for part in _mappings(item.get("summary")))
            reasoning += [text for text in summary if isinstance(text, str)]
        elif isinstance(kind, str) and kind in _CALLS:
            calls.append({name: item.get(name) for name in ("name", "call_id", _CALLS[kind])})
    return ReplyOutput(
        text="".join(final_texts or texts),
        refusal="\n".join(refusals),
        reasoning="\n\n".join(reasoning),
        tool_calls=tuple(calls),
    )


def read_usage(reply: Mapping[str, Any]) -> Usage | None:
    """The token counts of a reply; None when it reports none at all.

    A count that is missing, negative or not a whole number is unknown.
    """
    usage = reply.get("usage")
    if not isinstance(usage, Mapping):
        return None
    inputs = usage.get("input_tokens_details")
    outputs = usage.get("output_tokens_details")
    counts = Usage(
        input_tokens=_count(usage, "input_tokens"),
        cached_tokens=_count(inputs, "cached_tokens"),
        cache_write_tokens=_count(inputs, "cache_write_tokens"),
        output_tokens=_count(usage, "output_tokens"),
        reasoning_tokens=_count(outputs, "reasoning_tokens"),
        total_tokens=_count(usage, "total_tokens"),
    )
    return None if counts == _NO_TOKENS else counts


def read_error(body: Any) -> ServerError:
    """The error in a JSON body: OpenAI's shape, FastAPI's `detail`, a bare message, or none."""
    if not isinstance(body, Mapping):
        return ServerError(code="", message=str(body or "")[:500])
    error = body.get("error") or body.get("detail") or body.get("message") or ""
    if isinstance(error, Mapping):
        code = error.get("code")
        kind = error.get("type")
        return ServerError(
            code="" if code in (None, "None") else str(code),
            message=str(error.get("message") or code or kind or ""),
            type="" if kind in (None, "None") else str(kind),
        )
    return ServerError(code="", message=error if isinstance(error, str) else str(error)[:500])


def finish_reason(reply: Mapping[str, Any], *, has_calls: bool) -> str | None:
    """`stop`, `tool_calls`, or the reason for being incomplete; None when the reply failed."""
    status = reply.get("status", "completed")
    if status == "incomplete":
        return _named_reason(reply) or "incomplete"
    if status != "completed":
        return None
    return "tool_calls" if has_calls else "stop"


def citations(reply: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The annotations of all texts of a reply: what web and file search found, in order."""
    return [
        annotation
        for item in _mappings((reply or {}).get("output"))
        for part in _mappings(item.get("content"))
        for annotation in _mappings(part.get("annotations"))
    ]


def place_of_text(reply: Mapping[str, Any], text: str) -> tuple[int, int] | None:
    """Where a text stands alone: the item of the output, and the part of its content, from 0."""
    output = reply.get("output")
    for at, item in enumerate(output if isinstance(output, list) else ()):
        content = item.get("content") if isinstance(item, dict) else None
        for part_at, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("text") == text:
                return at, part_at
    return None


def with_text(reply: Mapping[str, Any], place: tuple[int, int], text: str | None) -> dict[str, Any]:
    """The reply with another text at a `place_of_text`; the one given stays as it is."""
    at, part_at = place
    output = list(reply["output"])
    content = list(output[at]["content"])
    content[part_at] = {**content[part_at], "text": text}
    output[at] = {**output[at], "content": content}
    return {**reply, "output": output}


def without_echo(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The reply less the fields that only repeat the request."""
    return {name: value for name, value in reply.items() if name not in ECHOED}


def _unfinished(reply: Mapping[str, Any]) -> Unfinished | Failure:
    if isinstance(reply.get("id"), str) and reply["id"]:
        return Unfinished(response_id=reply["id"])
    return Failure(
        code=ErrorCode.BAD_REPLY,
        message=f"the reply is {reply.get('status')} and has no id to ask for",
    )


def _failed_code(code: str) -> str:
    known = {
        "server_error": ErrorCode.SERVER_ERROR,
        "rate_limit_exceeded": ErrorCode.RATE_LIMITED,
        "": ErrorCode.SERVER_ERROR,
    }
    return known.get(code, other(code))


def _cut(
    output: ReplyOutput, reason: str, reply: Mapping[str, Any], *, cap: int | None
) -> Completion:
    return Completion(
        text=output.text,
        status=RowStatus.INCOMPLETE,
        code=reason,
        message=_cut_message(output, reason, reply, cap=cap),
        reasoning=output.reasoning or None,
        tool_calls=output.tool_calls,
    )


def _cut_message(
    output: ReplyOutput, reason: str, reply: Mapping[str, Any], *, cap: int | None
) -> str:
    if reason == ErrorCode.CONTENT_FILTER:
        return "cut off by the content filter"
    if reason != ErrorCode.MAX_OUTPUT_TOKENS:
        return "the server stopped before the end"
    usage = read_usage(reply) or _NO_TOKENS
    if not output.text.strip() and usage.reasoning_tokens:
        return (
            f"all of max_output_tokens went into reasoning ({usage.reasoning_tokens} tokens): raise "
            'it, lower reasoning.effort, or set on_incomplete = "retry" under [retry]'
        )
    return "cut off at max_output_tokens" + ("" if cap is None else f" = {cap:,}")


def _refused(output: ReplyOutput) -> Completion:
    return Completion(
        text=output.text or output.refusal,
        status=RowStatus.REFUSED,
        code=other("refusal"),
        message=output.refusal[:500],
        reasoning=output.reasoning or None,
        tool_calls=output.tool_calls,
    )


def _incomplete_reason(reply: Mapping[str, Any], cap: int | None) -> str:
    reason = _named_reason(reply)
    if reason in (ErrorCode.MAX_OUTPUT_TOKENS, ErrorCode.CONTENT_FILTER):
        return ErrorCode(reason)
    if reason is None and _reached(reply, cap):
        return ErrorCode.MAX_OUTPUT_TOKENS
    return other(reason or "incomplete")


def _named_reason(reply: Mapping[str, Any]) -> str | None:
    details = reply.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return str(reason) if reason else None


def _reached(reply: Mapping[str, Any], cap: int | None) -> bool:
    written = _count(reply.get("usage"), "output_tokens")
    return cap is not None and written is not None and written >= cap


def _has_reasoning(reply: Mapping[str, Any]) -> bool:
    return any(item.get("type") == "reasoning" for item in _mappings(reply.get("output")))


def _count(table: Any, name: str) -> int | None:
    value = table.get(name) if isinstance(table, dict) else None
    return value if type(value) is int and value >= 0 else None  # a bool is no count


def _mappings(items: Any) -> Sequence[Mapping[str, Any]]:
    """The JSON objects in a list; what else is there is passed over."""
    if not isinstance(items, list):
        return ()
    if len(items) == 1:  # one message with one text, mostly
        return items if isinstance(items[0], dict) else ()
    return [item for item in items if isinstance(item, dict)]

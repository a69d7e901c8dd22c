"""Status 200 in every sense but the usual one: an answer that is no success, or looks strange."""

from dataclasses import replace
from typing import Any

from batch_runner.faultserver.register import ending
from batch_runner.faultserver.rejections import HTML
from batch_runner.faultserver.replies import SSE, STUCK, Call, Reply, encode, said
from batch_runner.faultserver.stream import event_bytes
from batch_runner.faultserver.usage import TokenCount


# 200 that is no success


@ending("failed")
def failed(call: Call, code: str) -> Reply:
    """200 with status failed; ARG: error.code, server_error by default."""
    error = {"code": code or "server_error", "message": "The model failed to answer."}
    return call.respond([], usage=None, status="failed", error=error)


@ending("failed-no-error")
def failed_no_error(call: Call, _arg: str) -> Reply:
    """200 with status failed, a text, and no error object."""
    text = call.text()
    return call.respond([call.message(said(text))], usage=call.count(text), status="failed")


@ending("queued")
def queued(call: Call, _arg: str) -> Reply:
    """Status queued at first, then to be polled; as `"background": true` does."""
    return replace(call.say(call.text()), job_status="queued")


@ending("in_progress")
def in_progress(call: Call, _arg: str) -> Reply:
    """Status in_progress at first, then to be polled."""
    return replace(call.say(call.text()), job_status="in_progress")


@ending("stuck")
def stuck(call: Call, _arg: str) -> Reply:
    """Status in_progress, however often it is polled."""
    return replace(call.say(call.text()), job_status=STUCK)


@ending("cancelled")
def cancelled(call: Call, _arg: str) -> Reply:
    """200 with status cancelled."""
    return call.respond([], usage=None, status="cancelled")


@ending("incomplete")
def incomplete(call: Call, reason: str) -> Reply:
    """Half the text; ARG: the reason, max_output_tokens by default, "none" for no details."""
    text = call.text()
    details = None if reason == "none" else {"reason": reason or "max_output_tokens"}
    return call.say(text[: len(text) // 2], status="incomplete", incomplete_details=details)


@ending("cut-but-completed")
def cut_but_completed(call: Call, _arg: str) -> Reply:
    """Half the text, status completed, output_tokens = max_output_tokens: llama.cpp."""
    text = call.text()
    text = text[: len(text) // 2]
    limit = call.body.get("max_output_tokens")
    usage = replace(call.count(text), output=limit) if isinstance(limit, int) else call.count(text)
    return call.respond([call.message(said(text))], usage=usage)


@ending("refusal")
def refusal(call: Call, _arg: str) -> Reply:
    """A refusal part in place of the text."""
    text = "I'm sorry, but I can't help with that."
    message = call.message({"type": "refusal", "refusal": text})
    return call.respond([message], usage=call.count(text))


@ending("empty")
def empty(call: Call, _arg: str) -> Reply:
    """Completed, and the text is empty."""
    return call.say("")


@ending("no-output")
def no_output(call: Call, _arg: str) -> Reply:
    """Completed, and the list of output items is empty."""
    return call.respond([], usage=call.count(""))


@ending("whitespace")
def whitespace(call: Call, _arg: str) -> Reply:
    """Completed, and the text is white space."""
    return call.say(" \n\t ")


@ending("only-reasoning")
def only_reasoning(call: Call, _arg: str) -> Reply:
    """A reasoning item and no message."""
    return call.respond([_reasoning(call)], usage=_reasoned(call, ""))


@ending("reasoning")
def reasoning(call: Call, _arg: str) -> Reply:
    """A success whose first output item is reasoning."""
    text = call.text()
    return call.respond([_reasoning(call), call.message(said(text))], usage=_reasoned(call, text))


@ending("tool-call")
def tool_call(call: Call, name: str) -> Reply:
    """A function call in place of the text; ARG: its name."""
    tools = call.body.get("tools") or [{}]
    arguments = encode({"query": call.text()}).decode()
    item = {
        "id": f"fc_{call.key[:24]}{call.n:016x}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{call.key[:24]}",
        "name": name or tools[0].get("name") or "look_up",
        "arguments": arguments,
    }
    return call.respond([item], usage=call.count(arguments))


def _reasoning(call: Call) -> dict[str, Any]:
    summary = {"type": "summary_text", "text": "Thought about it."}
    return {"id": f"rs_{call.key[:24]}{call.n:016x}", "type": "reasoning", "summary": [summary]}


def _reasoned(call: Call, text: str) -> TokenCount:
    return call.count(text) + TokenCount(output=32, reasoning=32)


# 200 with an unusual body


@ending("html-200")
def html_200(call: Call, _arg: str) -> Reply:
    """200 with an HTML page; billed all the same."""
    return Reply(body=HTML, content_type="text/html", billed=True, usage=call.count(call.text()))


@ending("no-usage")
def no_usage(call: Call, _arg: str) -> Reply:
    """A good answer without a `usage` field; billed all the same."""
    return _changed(call, "usage", without=True)


@ending("null-usage")
def null_usage(call: Call, _arg: str) -> Reply:
    """A good answer whose usage is null; billed all the same."""
    return _changed(call, "usage", None)


@ending("partial-usage")
def partial_usage(call: Call, _arg: str) -> Reply:
    """Usage without details and total, its output_tokens null; billed all the same."""
    asked = call.count("").input
    return _changed(call, "usage", {"input_tokens": asked, "output_tokens": None}).unread()


@ending("usage")
def exact_usage(call: Call, counts: str) -> Reply:
    """A good answer with this usage; ARG: INPUT:CACHED:OUTPUT:REASONING."""
    given = [int(count) for count in counts.split(":") if count]
    asked, cached, output, reasoned = (given + [0] * 4)[:4]
    usage = TokenCount(input=asked, cached=cached, output=output, reasoning=reasoned)
    return call.respond([call.message(said(call.text()))], usage=usage)


@ending("int-for-string")
def int_for_string(call: Call, _arg: str) -> Reply:
    """Ids are integers."""
    good = call.say(call.text())
    response = {**_response(good), "id": call.n, "user": call.n}
    response["output"] = [{**item, "id": call.n} for item in response["output"]]
    return call.tell(response, usage=good.usage)


@ending("extra-fields")
def extra_fields(call: Call, _arg: str) -> Reply:
    """Fields and an output item nobody has heard of."""
    unknown = {"type": "acme:thought", "id": "at_1", "payload": {"nested": [1, None, "x"]}}
    good = call.say(call.text())
    response = _response(good)
    response |= {"output": [unknown, *response["output"]], "acme_cost": 0.01, "acme": {"a": [1]}}
    return call.tell(response, usage=good.usage)


@ending("nulls")
def nulls(call: Call, _arg: str) -> Reply:
    """A good answer where everything optional is null, as LiteLLM passes it on."""
    good = call.say(call.text())
    kept = ("id", "object", "created_at", "status", "model", "output", "usage")
    response = {name: value if name in kept else None for name, value in _response(good).items()}
    details = {"input_tokens_details": None, "output_tokens_details": None}
    return call.tell(
        {**response, "usage": {**_response(good)["usage"], **details}}, usage=good.usage
    )


@ending("minimal")
def minimal(call: Call, _arg: str) -> Reply:
    """The least a gateway was seen to send: no times, no message id, no details."""
    text = call.text()
    usage = call.count(text)
    content = [{"type": "output_text", "text": text}]
    response = {
        "id": call.response_id,
        "object": "response",
        "model": call.body.get("model"),
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": content}],
        "usage": {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "total_tokens": usage.total,
        },
    }
    return call.tell(response, usage=usage)


@ending("stream-error")
def stream_error(_call: Call, code: str) -> Reply:
    """An SSE stream of one `error` event; ARG: its code, server_error by default."""
    event = {
        "type": "error",
        "code": code or "server_error",
        "message": "The stream broke.",
        "param": None,
        "sequence_number": 0,
    }
    return Reply(body=event_bytes(event), content_type=SSE, chunked=True)


def _changed(call: Call, field: str, value: Any = None, *, without: bool = False) -> Reply:
    good = call.say(call.text())
    response = {**_response(good), field: value}
    if without:
        del response[field]
    return call.tell(response, usage=good.usage)


def _response(reply: Reply) -> dict[str, Any]:
    if reply.response is None:
        raise AssertionError("a reply made by Call.respond has its Response")
    return reply.response

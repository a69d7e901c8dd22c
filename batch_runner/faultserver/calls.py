"""POST /v1/responses: from the bytes of a request to an answer and two lines in the ledger."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from batch_runner.errors import UsageError
from batch_runner.faultserver.faults import Plan
from batch_runner.faultserver.head import HttpRequest
from batch_runner.faultserver.ledger import Replied, body_key
from batch_runner.faultserver.protocol import Answer, Then
from batch_runner.faultserver.rejections import HTTP_ERRORS
from batch_runner.faultserver.replies import Call, Reply, error_reply
from batch_runner.faultserver.state import State
from batch_runner.faultserver.wire import answer_of


ATTEMPT_HEADERS = ("x-attempt", "x-stainless-retry-count")

Body = Mapping[str, Any]


def answer_model_call(state: State, request: HttpRequest) -> Answer:
    """What this call gets. Received and replied, it stands in the ledger."""
    key = body_key(request.body)
    body, flaw = _read_body(request.body)
    try:
        plan = state.plan_for(request, endpoint="responses", key=key, body=body)
    except UsageError as error:
        plan, flaw = None, bad_fault(error)
    if plan is not None and plan.resets_before:
        return hang_up()
    call = _received(state, request, key=key, body=body)
    reply = _turned_away(state, call) or flaw or _worked_out(state, call, request, plan)
    if reply.job_status is not None:
        reply = state.jobs.accept(call.n, reply, call.now)
    count = reply.usage.total if reply.usage is not None else 0
    return answer_of(
        reply,
        request_id=f"req_{call.n:032x}",
        extra=state.admission.headers(count, call.now),
        ended=partial(_ended, state, call.n, reply),
    )


def hang_up() -> Answer:
    """RST, as if nothing had been received."""
    return Answer(data=b"", ended=_nothing, whole=False, then=Then.RESET)


def bad_fault(error: UsageError | ValueError) -> Reply:
    """400: the fault that was asked for does not exist or cannot take its argument."""
    hint = f" ({error.hint})" if isinstance(error, UsageError) and error.hint else ""
    return error_reply(400, f"{error}{hint}", code="unknown_fault")


def call_of(state: State, request: HttpRequest, *, n: int, key: str, body: Body) -> Call:
    return Call(
        n=n,
        key=key,
        body=body,
        authorization=request.headers.get("authorization", ""),
        settings=state.settings,
        now=time.time(),
    )


def _received(state: State, request: HttpRequest, *, key: str, body: Body) -> Call:
    headers = request.headers
    n = state.ledger.received(
        key=key,
        model=str(body.get("model", "")),
        attempt=next((headers[name] for name in ATTEMPT_HEADERS if name in headers), None),
        idempotency_key=headers.get(state.idempotency_header),
    )
    stats = state.stats
    stats.in_flight += 1
    stats.peak_in_flight = max(stats.peak_in_flight, stats.in_flight)
    return call_of(state, request, n=n, key=key, body=body)


def _turned_away(state: State, call: Call) -> Reply | None:
    """A refusal before any work is done: wrong key, or a hidden limit."""
    settings = state.settings
    if settings.api_key is not None and call.api_key != settings.api_key:
        return HTTP_ERRORS["401"](call, "")
    refused = state.admission.refuses(state.stats.in_flight - 1, time.monotonic())
    if refused is None:
        return None
    state.stats.refused[refused] += 1
    return HTTP_ERRORS["429"](call, settings.admit_retry_after or "")


def _worked_out(state: State, call: Call, request: HttpRequest, plan: Plan | None) -> Reply:
    """The stored answer of this idempotency key, or a new one; both take their time."""
    key = request.headers.get(state.idempotency_header)
    reply = state.answers.again(key, call.key) if key is not None else None
    if reply is None:
        reply = _made(call, plan)
        if key is not None:
            state.answers.keep(key, call.key, reply, state.settings.idempotency)
    latency_seconds = state.latency_seconds()
    if latency_seconds == 0:
        return reply
    return replace(reply, delay_seconds=reply.delay_seconds + latency_seconds)


def _made(call: Call, plan: Plan | None) -> Reply:
    try:
        reply = call.say(call.text()) if plan is None else plan.reply(call)
    except ValueError as error:  # an argument its fault cannot take: "slow:soon"
        return bad_fault(error)
    except (TypeError, AttributeError, LookupError) as error:
        return error_reply(400, f"a field has the wrong type: {error}", code="invalid_type")
    if call.body.get("background") is True and reply.response is not None and not reply.job_status:
        return replace(reply, job_status="queued")
    return reply


def _ended(state: State, n: int, reply: Reply, delivered: bool) -> None:  # noqa: FBT001  # a callback
    state.stats.in_flight -= 1
    prices = state.settings.prices
    dollars = prices.dollars(reply.usage) if prices and reply.usage else None
    state.ledger.replied(
        Replied(
            n=n,
            at=time.time(),
            status=reply.status if delivered else None,
            billed=reply.billed,
            usage_delivered=delivered and reply.usage_delivered,
            usage=reply.usage,
            dollars=dollars,
            replayed=reply.replayed,
        )
    )


def _read_body(raw: bytes) -> tuple[Body, Reply | None]:
    """The body and what is wrong with it."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return {}, error_reply(400, f"the body is not JSON: {error}", code="invalid_json")
    if not isinstance(body, dict):
        return {}, error_reply(400, "the body is not a JSON object", code="invalid_json")
    for name in ("model", "input"):
        if not body.get(name) and not (name == "input" and (name in body or "prompt" in body)):
            message = f"Missing required parameter: '{name}'."
            return body, error_reply(400, message, code="missing_required_parameter")
    return body, None


def _nothing(_delivered: bool) -> None:  # noqa: FBT001  # a callback
    """Side endpoints and refused connections stand in no ledger."""

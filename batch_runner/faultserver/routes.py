"""Which request is answered by whom: the API, its side endpoints, and /admin."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from batch_runner.errors import UsageError
from batch_runner.faultserver.background import Job
from batch_runner.faultserver.calls import answer_model_call, bad_fault, call_of, hang_up
from batch_runner.faultserver.faults import Plan, catalogue, parse
from batch_runner.faultserver.head import HttpRequest
from batch_runner.faultserver.ledger import LedgerMode
from batch_runner.faultserver.protocol import Answer
from batch_runner.faultserver.replies import Reply, error_reply
from batch_runner.faultserver.rules import Rule, match_of
from batch_runner.faultserver.state import State, Stats
from batch_runner.faultserver.text import prompt_text
from batch_runner.faultserver.usage import tokens_in
from batch_runner.faultserver.wire import answer_of


RESPONSES = "/v1/responses"
MODELS = "/v1/models"
OTHER = "other"

Ended = Callable[[bool], None]


def endpoint_of(method: str, path: str) -> str:
    """What is asked for, by the name that `Match.endpoint` uses."""
    match method, path:
        case "POST", "/v1/responses":
            return "responses"
        case "POST", "/v1/responses/input_tokens":
            return "input_tokens"
        case "GET", "/v1/models":
            return "models"
        case "GET", "/health" | "/v1/health":
            return "health"
    if path.startswith("/admin/"):
        return "admin"
    rest = path.removeprefix(f"{RESPONSES}/")
    if rest != path and method == "GET" and "/" not in rest:
        return "poll"
    if rest != path and method == "POST" and rest.endswith("/cancel"):
        return "cancel"
    return "models" if method == "GET" and path.startswith(f"{MODELS}/") else OTHER


def answer(state: State, request: HttpRequest) -> Answer:
    endpoint = endpoint_of(request.method, request.path)
    state.stats.requests[endpoint] += 1
    state.note(request)
    if endpoint == "responses":
        return answer_model_call(state, request)
    ended: Ended = _nothing
    try:
        plan = None if endpoint == "admin" else state.plan_for(request, endpoint=endpoint, body={})
        if plan is not None and plan.resets_before:
            return hang_up()
        reply, ended = _side_reply(state, endpoint, request)
        if plan is not None:
            reply = _misbehaved(state, request, reply, plan)
    except (UsageError, ValueError) as error:
        reply = bad_fault(error)
    return answer_of(reply, request_id=f"req_{time.time_ns():032x}", extra=(), ended=ended)


def _misbehaved(state: State, request: HttpRequest, reply: Reply, plan: Plan) -> Reply:
    """The plan's ending stands in for the reply of a side endpoint; twists bend it."""
    if plan.ending is None:
        return plan.bend(reply)
    return plan.reply(call_of(state, request, n=0, key="", body={}))


def _side_reply(state: State, endpoint: str, request: HttpRequest) -> tuple[Reply, Ended]:
    match endpoint:
        case "poll" | "cancel":
            return _job_reply(state, endpoint, request)
        case "input_tokens":
            count = max(1, tokens_in(prompt_text(_json_object(request))))
            return _json({"object": "response.input_tokens", "input_tokens": count}), _nothing
        case "models":
            return _models(state, request.path), _nothing
        case "health":
            return _json({"status": "ok"}), _nothing
        case "admin":
            return _admin(state, request), _nothing
        case _:
            message = f"Invalid URL ({request.method} {request.path})"
            return error_reply(404, message, code="unknown_url"), _nothing


def _models(state: State, path: str) -> Reply:
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": "batch-runner"}
        for name in state.settings.models
    ]
    if path == MODELS:
        return _json({"object": "list", "data": listed})
    name = path.removeprefix(f"{MODELS}/")
    found = next((model for model in listed if model["id"] == name), None)
    if found is None:
        return error_reply(404, f"The model '{name}' does not exist.", code="model_not_found")
    return _json(found)


# Background responses


def _job_reply(state: State, endpoint: str, request: HttpRequest) -> tuple[Reply, Ended]:
    response_id = request.path.removeprefix(f"{RESPONSES}/").removesuffix("/cancel")
    job = state.jobs.find(response_id)
    if job is None:
        message = f"Response with id '{response_id}' not found."
        return error_reply(404, message, code="response_not_found"), _nothing
    if endpoint == "cancel":
        state.jobs.cancel(job)
    else:
        job.poll(state.settings, time.time())
    return job.reply(), partial(_told, state, job)


def _told(state: State, job: Job, delivered: bool) -> None:  # noqa: FBT001  # a callback
    end = job.end
    if not (delivered and job.status == "done" and end.usage_delivered and end.usage):
        return
    if not job.usage_told:
        job.usage_told = True
        prices = state.settings.prices
        state.ledger.delivered_late(job.n, end.usage, prices.dollars(end.usage) if prices else None)


# Admin


def _admin(state: State, request: HttpRequest) -> Reply:
    match request.method, request.path:
        case "GET", "/admin/ledger":
            return _ledger(state, request)
        case "GET", "/admin/stats":
            stats = {name: getattr(state.stats, name) for name in Stats.__slots__}
            return _json({**stats, "settings": asdict(state.settings)})
        case "GET", "/admin/faults":
            return _json(catalogue())
        case "POST", "/admin/reset":
            state.reset()
            return _json({"reset": True})
        case "POST", "/admin/settings":
            state.settings = state.settings.changed(_json_object(request))
            return _json(asdict(state.settings))
        case "POST", "/admin/fault":
            switch(state, _json_object(request))
            return _json({"faults": [rule.plan.spec for rule in state.switched]})
        case _:
            return error_reply(404, f"no {request.method} {request.path} here", code="unknown_url")


def switch(state: State, order: Mapping[str, Any]) -> None:
    """The fault of the order is on: `{"fault": NAME, "next": N, "rate": P, "match": {...}}`.

    Without conditions it meets every model call. `{"fault": null}` switches all off again.
    """
    if unknown := order.keys() - {"fault", "next", "rate", "seed", "match"}:
        raise UsageError(f"unknown key {min(unknown)!r} in fault order")
    if order.get("fault") is None:
        state.switched = ()
        return
    conditions = dict(order.get("match", {}))
    if "next" in order:
        conditions["first"] = order["next"]
    conditions |= {name: order[name] for name in ("rate", "seed") if name in order}
    rule = Rule(match_of(conditions), parse(str(order["fault"])))
    state.switched = (rule, *state.switched)


def _ledger(state: State, request: HttpRequest) -> Reply:
    told: dict[str, Any] = {"totals": state.ledger.totals.as_json()}
    wanted = parse_qs(request.query).get("rows", ["1"])[0] != "0"
    if wanted and state.ledger.mode is LedgerMode.ROWS:
        told["rows"] = [asdict(row) for row in state.ledger.rows()]
    return _json(told)


def _json(value: Mapping[str, Any]) -> Reply:
    return Reply(body=json.dumps(value, default=str).encode())


def _json_object(request: HttpRequest) -> dict[str, Any]:
    value = json.loads(request.body)
    if not isinstance(value, dict):
        raise UsageError("the body is not a JSON object")
    return value


def _nothing(_delivered: bool) -> None:  # noqa: FBT001  # a callback
    """Side endpoints stand in no ledger."""

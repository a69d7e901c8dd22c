"""Asks the endpoint how many input tokens it counts: POST /v1/responses/input_tokens."""

import json
from collections.abc import Mapping

import anyio

from batch_runner import __version__, responses
from batch_runner.errors import RunStoppedError
from batch_runner.exchange import Endpoint, Reply
from batch_runner.job import JobSpec
from batch_runner.redact import Redactor
from batch_runner.transport import judge_exchange_error, open_transport


COUNT_SECONDS = 60.0
_COUNTED_FIELDS = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "text", "reasoning", "truncation",
    "parallel_tool_calls", "previous_response_id", "conversation",
})  # fmt: skip
"""What POST /v1/responses/input_tokens takes; it rejects the rest of a request."""


async def count_at_endpoint(job: JobSpec, key: str | None, bodies: list[bytes]) -> list[int] | None:
    """Input tokens of each request body; None when the endpoint has no such service.

    Raises RunStoppedError when it refuses, or cannot be reached.
    """
    headers = {"user-agent": f"batch-runner/{__version__}", **job.endpoint.headers}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    redactor = Redactor([key or "", *job.endpoint.headers.values()])
    transport = open_transport(
        job.endpoint.base_url, proxy=job.endpoint.proxy, ca_file=job.endpoint.ca_file
    )
    async with transport:
        endpoint = Endpoint(
            base_url=job.endpoint.base_url,
            headers=headers,
            transport=transport,
            redactor=redactor,
            stream=False,
            timeout_seconds=COUNT_SECONDS,
        )
        counts = []
        for body in bodies:
            tokens = await _ask_one(endpoint, body, redactor)
            if tokens is None:
                return None
            counts.append(tokens)
        return counts


async def _ask_one(endpoint: Endpoint, body: bytes, redactor: Redactor) -> int | None:
    """How many tokens the endpoint counts; None when it has no such service."""
    fields = {name: value for name, value in json.loads(body).items() if name in _COUNTED_FIELDS}
    reply = Reply()
    what = "counting tokens at the endpoint"
    try:
        with anyio.fail_after(COUNT_SECONDS):
            await endpoint.count_tokens(json.dumps(fields).encode(), reply)
    except Exception as error:
        problem = judge_exchange_error(error)
        if problem is None and not isinstance(error, TimeoutError):
            raise
        reason = problem.failure.message if problem else f"no answer within {COUNT_SECONDS:g} s"
        raise RunStoppedError(f"{what}: {redactor.message(reason)}") from None
    if reply.status in (404, 405, 501):
        return None
    found = reply.object()
    tokens = found.get("input_tokens") if isinstance(found, Mapping) else None
    if reply.status == 200 and isinstance(tokens, int):
        return tokens
    message = redactor.message(responses.read_error(found).message)
    raise RunStoppedError(
        f"{what}: HTTP {reply.status}: {message}", hint="--count local counts on this machine"
    )

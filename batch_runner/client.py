"""Asks the endpoint for one row: Request -> RowResult, over as many attempts as the policy allows."""

import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_never

from batch_runner import responses, sse
from batch_runner.breaker import Breaker
from batch_runner.errors import RunStoppedError, StorageError
from batch_runner.job import RetrySpec
from batch_runner.limiter import Limiter, Slot
from batch_runner.records import (
    Billed,
    Completion,
    ErrorCode,
    Failure,
    Request,
    RowResult,
    UnknownBilling,
    Usage,
    other,
)
from batch_runner.redact import Redactor
from batch_runner.retry import (
    Blame,
    Problem,
    Spent,
    Verdict,
    decide,
    judge_failed_reply,
    judge_status,
)
from batch_runner.transport import CONNECT_SECONDS, REUSED, judge_exchange_error


LARGEST_REPLY = 64 * 1024 * 1024
"""Bytes. An endless reply must not eat the memory of the whole run."""
FIRST_POLL_SECONDS = 0.5  # doubles up to LONGEST_POLL_SECONDS
LONGEST_POLL_SECONDS = 10.0

_EXTENSIONS = {"timeout": {"connect": CONNECT_SECONDS, "read": None, "pool": None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back from one HTTP exchange, secrets already masked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One attempt that brought a usable answer."""

    completion: Completion
    reply: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class _Course:
    """What a row has been through so far."""

    request: Request
    started_at: float
    attempts: int = 0
    chargeable: int = 0
    """Attempts that count against the ordinary budget: all but rate-limited ones."""
    maybe_billed: int = 0
    definite_errors: int = 0
    rate_limited_since: float | None = None
    repeated_at_once: bool = False
    billed: list[Billed] = field(default_factory=list)
    unknown: Counter[UnknownBilling] = field(default_factory=Counter)
    final_usage: Usage | None = None
    final_reply: Mapping[str, Any] | None = None
    latency_seconds: float | None = None

    @property
    def has_cost(self) -> bool:
        return bool(self.billed or self.unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one attempt led to: another one after a wait, or the row's end."""

    wait_seconds: float | None = None
    result: RowResult | None = None


def _goes_on(step: _Step) -> bool:
    return step.wait_seconds is not None


def _decided_wait(state: RetryCallState) -> float:
    assert state.outcome is not None  # noqa: S101  # tenacity sets it before it asks for the wait
    return float(state.outcome.result().wait_seconds)


class Client:
    """Calls one endpoint for many rows.

    `begin` is awaited before the bytes of an attempt leave, so that a crash can be billed honestly.
    `on_stop` is told, possibly several times, why no further row can succeed.
    """

    def __init__(
        self,
        *,
        base_url: str,
        headers: Mapping[str, str],
        transport: httpx.AsyncBaseTransport,
        limiter: Limiter,
        policy: RetrySpec,
        timeout_seconds: float,
        redactor: Redactor,
        begin: Callable[[Request, int], Awaitable[None]],
        on_stop: Callable[[RunStoppedError], None],
        shares_model: bool = True,
        stream: bool = False,
        idempotency_header: str | None = None,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = httpx.URL(base_url + responses.PATH)
        self._headers = httpx.Headers(
            {
                "accept": "text/event-stream" if stream else "application/json",
                "accept-encoding": "gzip, deflate",
                "content-type": "application/json",
                **headers,
            }
        )
        self._tail = b',"stream":true}' if stream else b',"stream":false}'
        self._transport = transport
        self._limiter = limiter
        self._policy = policy
        self._timeout_seconds = timeout_seconds
        self._redactor = redactor
        self._begin = begin
        self._on_stop = on_stop
        self._shares_model = shares_model
        self._idempotency_header = idempotency_header
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._breaker = Breaker()
        self._draining = False
        self._cancelled = False
        self._waits: set[anyio.CancelScope] = set()
        self._exchanges: dict[anyio.CancelScope, float] = {}

    async def call(self, request: Request) -> RowResult | None:
        """How the row ended; None when the run stopped before it cost anything.

        Never raises for what the endpoint does: that is data.
        """
        course = _Course(request=request, started_at=self._wall_clock())
        attempts = AsyncRetrying(
            sleep=self._pause, stop=stop_never, wait=_decided_wait, retry=retry_if_result(_goes_on)
        )
        step: _Step = await attempts(self._step, course)
        return step.result

    def drain(self) -> None:
        """Nothing waits any more: calls in flight are finished, waits and repeats are given up."""
        self._draining = True
        for scope in tuple(self._waits):
            scope.cancel()

    def cancel(self) -> None:
        """Calls in flight are broken off, too; their billing is unknown."""
        self._cancelled = True
        self.drain()
        for scope in tuple(self._exchanges):
            scope.cancel()

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest call in flight; 0 when there is none."""
        return time.monotonic() - min(self._exchanges.values(), default=time.monotonic())

    async def _step(self, course: _Course) -> _Step:
        if (hopeless := self._too_long_a_pause()) is not None:
            return _Step(result=self._result(course, hopeless))
        request = course.request
        tokens = len(request.body) // 4 + (request.max_output_tokens or 0)
        slot = self._limiter.slot(tokens)
        async with AsyncExitStack() as held:
            with self._abandonable():
                await held.enter_async_context(slot)
            if self._draining:
                return self._given_up(course, None)
            try:
                await self._begin(request, course.attempts + 1)
            except StorageError:
                # The journal has told the run to stop; a call it cannot record is not made.
                return self._given_up(course, None)
            course.attempts += 1
            outcome, headers = await self._attempt(course)
            if isinstance(outcome, Problem):
                return self._after(outcome, course, slot)
            slot.succeeded(tokens=_total(course.final_usage), headers=headers)
            self._breaker.succeeded()
            return _Step(result=self._result(course, outcome.completion))

    def _too_long_a_pause(self) -> Failure | None:
        """Why the row need not wait: the endpoint asked for more patience than the job has."""
        cooling = self._limiter.cooling_seconds(self._limiter.clock())
        if cooling <= self._policy.rate_limit_patience:
            return None
        return Failure(
            code=ErrorCode.RATE_LIMITED,
            message=f"the endpoint asked for a pause of {cooling:.0f} s, longer than "
            "retry.rate_limit_patience; a later run sends this row",
        )

    def _after(self, problem: Problem, course: _Course, slot: Slot) -> _Step:
        """The next step after an attempt without an answer."""
        failure = problem.failure
        if problem.unknown is not None:
            course.unknown[problem.unknown] += 1
        if problem.blame is not Blame.RATE_LIMIT:
            course.chargeable += 1
        course.maybe_billed += problem.blame is Blame.MAYBE_BILLED
        if problem.blame is Blame.RATE_LIMIT and course.rate_limited_since is None:
            course.rate_limited_since = time.monotonic()
        decision = decide(problem, self._spent(course), self._policy, jitter=self._jitter())
        if problem.blame is Blame.RATE_LIMIT:
            slot.rate_limited(problem.wait_seconds)
        elif problem.failure.code == ErrorCode.SERVER_ERROR:
            slot.server_error()
        stop = self._breaker.attempt_failed(problem, course.request.row)
        if stop is not None:
            self._on_stop(stop)
            return self._given_up(course, failure)
        if self._draining and decision.verdict in (Verdict.RETRY, Verdict.SLOW_DOWN):
            return self._given_up(course, failure)
        if decision.verdict in (Verdict.RETRY, Verdict.SLOW_DOWN):
            return _Step(wait_seconds=self._wait(problem, decision.wait_seconds, course))
        if (stop := self._breaker.row_failed(failure)) is not None:
            self._on_stop(stop)
        return _Step(result=self._result(course, failure))

    def _wait(self, problem: Problem, wait_seconds: float, course: _Course) -> float:
        """A kept-alive connection that was already closed costs no wait, once."""
        if problem.unknown is UnknownBilling.RESET and REUSED.get() and not course.repeated_at_once:
            course.repeated_at_once = True
            return 0.0
        return wait_seconds

    def _spent(self, course: _Course) -> Spent:
        since = course.rate_limited_since
        return Spent(
            attempts=course.chargeable,
            maybe_billed=course.maybe_billed,
            rate_limit_seconds=time.monotonic() - since if since is not None else 0.0,
        )

    def _given_up(self, course: _Course, failure: Failure | None) -> _Step:
        """The run is stopping. A row that has cost nothing stays pending, without a trace."""
        if not course.has_cost:
            return _Step()
        return _Step(
            result=self._result(
                course,
                failure
                or Failure(code=other("stopped"), message="the run stopped before the repeat"),
            )
        )

    def _result(self, course: _Course, ending: Completion | Failure) -> RowResult:
        reply = course.final_reply or {}
        request = course.request
        return RowResult(
            key=request.key,
            row=request.row,
            label=request.label,
            request_bytes=len(request.body),
            max_output_tokens=request.max_output_tokens,
            asked_model=request.model,
            ending=ending,
            attempts=course.attempts,
            billed=tuple(course.billed),
            final_usage=course.final_usage,
            unknown=dict(course.unknown),
            model=_text_or_none(reply.get("model")),
            service_tier=_text_or_none(reply.get("service_tier")),
            response_id=_text_or_none(reply.get("id")),
            finish_reason=responses.finish_reason(reply) if reply else None,
            latency_seconds=course.latency_seconds,
            started_at=course.started_at,
            finished_at=self._wall_clock(),
            reply=course.final_reply,
        )

    async def _attempt(self, course: _Course) -> tuple[Answer | Problem, Mapping[str, str]]:
        REUSED.set(False)
        course.final_usage = course.final_reply = None
        began = time.monotonic()
        at = self._wall_clock()
        reply: Reply | Problem
        try:
            with self._deadline() as scope:
                reply = await self._exchange(course)
                outcome = await self._read(reply, course, at=at)
        except Exception as error:
            problem = judge_exchange_error(error)
            if problem is None:
                raise
            return self._redacted(problem), {}
        finally:
            course.latency_seconds = time.monotonic() - began
        if scope.cancelled_caught:
            return self._broken_off(), {}
        return (self._redacted(outcome) if isinstance(outcome, Problem) else outcome), reply.headers

    async def _exchange(self, course: _Course) -> Reply:
        headers = self._headers
        if self._idempotency_header is not None:
            headers = headers.copy()
            # A definite error gets a new key: some servers replay it under the old one for a day.
            headers[self._idempotency_header] = (
                f"{course.request.key.hex()}-{course.definite_errors}"
            )
        content = course.request.body[:-1] + self._tail
        return await self._send("POST", self._url, headers, content)

    async def _send(
        self, method: str, url: httpx.URL, headers: httpx.Headers, content: bytes
    ) -> Reply:
        request = httpx.Request(
            method, url, headers=headers, content=content, extensions=_EXTENSIONS
        )
        response = await self._transport.handle_async_request(request)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LARGEST_REPLY:
                    raise httpx.DecodingError(f"the reply is larger than {LARGEST_REPLY} bytes")
        finally:
            await response.aclose()
        return Reply(
            status=response.status_code,
            headers=response.headers,
            body=self._redactor.body(bytes(body)),
        )

    async def _read(self, reply: Reply, course: _Course, *, at: float) -> Answer | Problem:
        """What a reply says; a background response is asked for until it has ended."""
        wait = FIRST_POLL_SECONDS
        while True:
            outcome = self._judge(reply, course, at=at)
            if not isinstance(outcome, responses.Unfinished):
                return outcome
            await anyio.sleep(wait)
            wait = min(wait * 2, LONGEST_POLL_SECONDS)
            url = self._url.copy_with(path=f"{self._url.path}/{outcome.response_id}")
            reply = await self._send("GET", url, self._headers, b"")

    def _judge(
        self, reply: Reply, course: _Course, *, at: float
    ) -> Answer | Problem | responses.Unfinished:
        if not 200 <= reply.status < 300:
            course.definite_errors += 1
            return judge_status(
                reply.status,
                responses.read_error(_parsed(reply.body)),
                reply.headers,
                now=self._wall_clock(),
                shared_model=self._shares_model,
            )
        body = _reply_object(reply)
        if body is None:
            failure = Failure(
                code=ErrorCode.BAD_REPLY,
                message=f"HTTP {reply.status}, but the body is not a response object: "
                f"{reply.body[:80].decode(errors='replace')!r}",
            )
            return judge_failed_reply(failure, billed=False)
        ending = responses.read_reply(body, cap=course.request.max_output_tokens)
        if isinstance(ending, responses.Unfinished):
            return ending
        usage = responses.read_usage(body)
        course.final_usage = usage
        course.final_reply = responses.without_echo(body)
        if usage is not None:
            course.billed.append(
                Billed(
                    usage=usage,
                    model=_text_or_none(body.get("model")) or course.request.model,
                    service_tier=_text_or_none(body.get("service_tier")),
                    at=at,
                )
            )
        if isinstance(ending, Failure):
            return judge_failed_reply(ending, billed=usage is not None)
        if usage is None:
            course.unknown[UnknownBilling.BAD_REPLY] += 1
        return Answer(completion=ending, reply=body)

    def _broken_off(self) -> Problem:
        if self._cancelled:
            return Problem(
                failure=Failure(
                    code=other("cancelled"), message="broken off when the run was stopped"
                ),
                blame=Blame.MAYBE_BILLED,
                unknown=UnknownBilling.CANCELLED,
            )
        return Problem(
            failure=Failure(
                code=ErrorCode.TIMEOUT,
                message=f"no whole reply within endpoint.timeout ({self._timeout_seconds:g} s)",
            ),
            blame=Blame.MAYBE_BILLED,
            unknown=UnknownBilling.TIMEOUT,
        )

    def _redacted(self, problem: Problem) -> Problem:
        failure = problem.failure
        masked = replace(failure, message=self._redactor.message(failure.message))
        return replace(problem, failure=masked)

    @contextmanager
    def _deadline(self) -> Iterator[anyio.CancelScope]:
        with anyio.move_on_after(self._timeout_seconds) as scope:
            self._exchanges[scope] = time.monotonic()
            try:
                if self._cancelled:
                    scope.cancel()
                yield scope
            finally:
                del self._exchanges[scope]

    @contextmanager
    def _abandonable(self) -> Iterator[None]:
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                if self._draining:
                    scope.cancel()
                yield
            finally:
                self._waits.discard(scope)

    async def _pause(self, seconds: float) -> None:
        with self._abandonable():
            await anyio.sleep(seconds)


def _reply_object(reply: Reply) -> Mapping[str, Any] | None:
    """The response object of a 2xx reply, JSON or the end of an event stream; None for all else."""
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        return sse.final_reply(reply.body)
    body = _parsed(reply.body)
    return body if isinstance(body, dict) else None


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _total(usage: Usage | None) -> int | None:
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return usage.input_tokens + usage.output_tokens

"""Asks the endpoint for one row: Request -> RowResult, over as many attempts as the policy allows."""

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import anyio
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_never

from batch_runner.breaker import Breaker
from batch_runner.course import Course
from batch_runner.errors import RunStoppedError, StorageError
from batch_runner.exchange import Endpoint, Reply
from batch_runner.frozen import frozen
from batch_runner.job import InvalidPolicy, RetrySpec
from batch_runner.judging import (
    BROKEN_OFF,
    judge_reply,
    out_of_time,
    still_being_made,
    still_pending,
)
from batch_runner.limiter import Limiter, Slot
from batch_runner.reask import Reasking
from batch_runner.records import (
    Completion,
    ErrorCode,
    Failure,
    Pending,
    Request,
    RowResult,
    UnknownBilling,
    other,
)
from batch_runner.redact import Redactor
from batch_runner.responses import Unfinished
from batch_runner.retry import Blame, Problem, Verdict, decide
from batch_runner.structured import AnswerSchema
from batch_runner.transport import REUSED, judge_exchange_error


FIRST_POLL_SECONDS = 0.5  # doubles up to LONGEST_POLL_SECONDS
LONGEST_POLL_SECONDS = 10.0
CANCEL_SECONDS = 2.0
"""How long to try to cancel a background response when the run is broken off."""


@frozen
class _Step:
    """What one attempt led to: another one after a wait, or the row's end."""

    wait_seconds: float | None = None
    result: RowResult | None = None


def _goes_on(step: _Step) -> bool:
    return step.wait_seconds is not None


def _decided_wait(state: RetryCallState) -> float:
    assert state.outcome is not None  # noqa: S101  # tenacity sets it before it asks for the wait
    return float(state.outcome.result().wait_seconds)


async def _not_noted(_request: Request, _attempt: int, _response_id: str) -> None:
    """For clients without a journal."""


async def _always_affordable(_request: Request, _maybe_billed: int) -> bool:
    return True


def _nothing_pending(_request: Request) -> Pending | None:
    return None


class Client:
    """Calls one endpoint for many rows.

    `begin` is awaited before the bytes of an attempt leave, so that a crash can be billed honestly;
    `accepted` when the endpoint has given a background response an id, which `pending` gives back
    to a later run. `affordable` may refuse an attempt, given how many of the row may have cost
    money. `on_stop` is told, possibly several times, why no further row can succeed; `on_trouble` of
    each attempt that will be repeated, and of the wait before that.
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
        accepted: Callable[[Request, int, str], Awaitable[None]] = _not_noted,
        pending: Callable[[Request], Pending | None] = _nothing_pending,
        affordable: Callable[[Request, int], Awaitable[bool]] = _always_affordable,
        schema: AnswerSchema | None = None,
        on_invalid: InvalidPolicy = InvalidPolicy.KEEP,
        on_trouble: Callable[[Problem, float], None] | None = None,
        shares_model: bool = True,
        stream: bool = False,
        idempotency_header: str | None = None,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        breaker: Breaker | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            base_url=base_url,
            headers=headers,
            transport=transport,
            redactor=redactor,
            stream=stream,
            timeout_seconds=timeout_seconds,
        )
        self._limiter = limiter
        self._policy = policy
        self._timeout_seconds = timeout_seconds
        self._redactor = redactor
        self._begin = begin
        self._on_stop = on_stop
        self._on_trouble = on_trouble
        self._accepted = accepted
        self._pending = pending
        self._affordable = affordable
        self._reasking = Reasking(
            schema=schema, on_invalid=on_invalid, on_incomplete=policy.on_incomplete
        )
        self._shares_model = shares_model
        self._idempotency_header = idempotency_header
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._breaker = breaker or Breaker()
        self._draining = False
        self._broken_off = False
        self._leaves_background = False
        self._waits: set[anyio.CancelScope] = set()
        self._exchanges: dict[anyio.CancelScope, float] = {}

    async def call(self, request: Request) -> RowResult | None:
        """How the row ended; None when the run stopped before it cost anything.

        Never raises for what the endpoint does: that is data.
        """
        course = Course.of(request, pending=self._pending(request), started_at=self._wall_clock())
        step = await self._step(course)
        if step.wait_seconds is not None:  # tenacity costs 100 us; most rows need no second attempt
            await self._pause(step.wait_seconds)
            repeats = AsyncRetrying(
                sleep=self._pause,
                stop=stop_never,
                wait=_decided_wait,
                retry=retry_if_result(_goes_on),
            )
            step = await repeats(self._step, course)
        return step.result

    def drain(self) -> None:
        """Nothing waits any more: calls in flight are finished, waits and repeats are given up."""
        self._draining = True
        self._wake_waiting()

    def cancel(self) -> None:
        """Calls in flight are broken off, too; their billing is unknown."""
        self._break_off()

    def out_of_time(self) -> None:
        """Likewise, but background responses go on at the endpoint: a later run asks for them."""
        self._leaves_background = True
        self._break_off()

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest call in flight; 0 when there is none."""
        oldest = min(self._exchanges.values(), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def _break_off(self) -> None:
        self._broken_off = True
        self.drain()
        for scope in tuple(self._exchanges):
            scope.cancel()

    def _wake_waiting(self) -> None:
        for scope in tuple(self._waits):
            scope.cancel()

    async def _pause(self, seconds: float) -> None:
        if self._draining:
            return
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                await anyio.sleep(seconds)
            finally:
                self._waits.discard(scope)

    async def _step(self, course: Course) -> _Step:
        """One attempt, from waiting for leave to what follows from its outcome."""
        if self._draining or self._too_long_a_pause:
            return self._not_sent(course)
        tokens = len(course.asked.body) // 4 + (course.asked.max_output_tokens or 0)
        began: float | None = None
        reply = Reply()
        # One scope for the whole attempt: woken while it waits, timed and broken off while it runs.
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                # Before a place is taken: whoever waits for money would keep it from those who
                # could give some back.
                if not await self._may_be_paid(course):
                    return self._given_up(course, None)
                async with self._limiter.slot(tokens, again=course.was_rate_limited) as slot:
                    self._waits.discard(scope)
                    if not await self._may_begin(course):
                        return self._given_up(course, None)
                    scope.deadline = anyio.current_time() + self._timeout_seconds
                    self._exchanges[scope] = time.monotonic()
                    outcome = await self._attempt(course, reply)
                    course.latency_seconds = time.monotonic() - self._exchanges[scope]
                    return self._settled(outcome, course, slot, reply)
            finally:
                self._waits.discard(scope)
                began = self._exchanges.pop(scope, None)
        if began is None:
            return self._not_sent(course)
        course.latency_seconds = time.monotonic() - began
        return await self._cut_short(course, reply)

    @property
    def _too_long_a_pause(self) -> bool:
        """The endpoint asked everybody for more patience than the job has."""
        cooling = self._limiter.cooling_seconds(self._limiter.clock())
        return cooling > self._policy.rate_limit_patience

    async def _may_be_paid(self, course: Course) -> bool:
        """There is money for the attempt; asking for a response under its id costs nothing."""
        if course.response_id is not None:
            return True
        return await self._affordable(course.asked, course.maybe_billed)

    async def _may_begin(self, course: Course) -> bool:
        """The attempt is on record, and may be sent."""
        if self._draining:
            return False
        if course.response_id is not None:
            return True
        try:
            await self._begin(course.asked, course.attempts + 1)
        except StorageError:
            # The journal has told the run to stop; a call it cannot record is not made.
            return False
        course.begin(at=self._wall_clock())
        return True

    async def _attempt(self, course: Course, reply: Reply) -> Completion | Problem:
        """What one exchange brought; for a background response, what all the asking brought."""
        REUSED.set(True)
        course.usage = course.reply = course.http_status = course.request_id = None
        at = self._wall_clock()
        wait_seconds = FIRST_POLL_SECONDS
        try:
            while True:
                polling = course.response_id
                if polling is None:
                    await self._endpoint.post(course.asked.body, reply, self._extra_headers(course))
                else:
                    await self._endpoint.poll(polling, reply)
                outcome = judge_reply(
                    reply, course, at=at, now=self._wall_clock(), shared_model=self._shares_model
                )
                if not isinstance(outcome, Unfinished):
                    return outcome
                if outcome.response_id != polling:
                    course.response_id = outcome.response_id
                    with suppress(StorageError):  # the run is told to stop; this call goes on
                        await self._accepted(course.asked, course.attempts, outcome.response_id)
                await anyio.sleep(wait_seconds)
                wait_seconds = min(wait_seconds * 2, LONGEST_POLL_SECONDS)
        except Exception as error:
            problem = judge_exchange_error(error)
            if problem is None:
                raise
            return still_pending(problem, course)

    def _extra_headers(self, course: Course) -> Mapping[str, str] | None:
        if self._idempotency_header is None:
            return None
        # A definite error gets a new key: some servers replay it under the old one for a day.
        value = f"{course.request.key.hex()}-{course.edition}"
        if course.asked.is_enlarged:  # an earlier run may have asked with less room, and been cut
            value += f"-{course.asked.max_output_tokens}"
        return {self._idempotency_header: value}

    def _settled(
        self, outcome: Completion | Problem, course: Course, slot: Slot, reply: Reply
    ) -> _Step:
        """What follows from an attempt that came to its own end."""
        if isinstance(outcome, Problem):
            if outcome.blame is Blame.RATE_LIMIT:
                slot.rate_limited(outcome.wait_seconds)
                if self._too_long_a_pause:
                    self._wake_waiting()
            elif outcome.failure.code == ErrorCode.SERVER_ERROR:
                slot.server_error()
            return self._after(outcome, course, reply)
        used = None if course.usage is None else course.usage.input_and_output
        slot.succeeded(tokens=used, headers=reply.headers)
        self._breaker.succeeded()
        ending = self._reasking.judge(outcome)
        again = None if self._draining else self._reasking.changed(ending, course)
        if again is None:
            return _Step(result=self._result(course, ending))
        course.ask_again(again, ending)
        return _Step(wait_seconds=0.0)

    def _after(self, problem: Problem, course: Course, reply: Reply) -> _Step:
        """The next step after an attempt without an answer."""
        failure = self._told(problem.failure, reply)
        problem = replace(problem, failure=failure)
        now = time.monotonic()
        course.charge(problem, now=now)
        decision = decide(problem, course.spent(now), self._policy, jitter=self._jitter())
        if (stop := self._breaker.attempt_failed(problem, course.request.row)) is not None:
            self._on_stop(stop)
            return self._given_up(course, failure)
        if decision.verdict in (Verdict.RETRY, Verdict.SLOW_DOWN):
            if self._draining:
                return self._given_up(course, failure)
            wait_seconds = self._wait(problem, decision.wait_seconds, course)
            if self._on_trouble is not None:
                cooling = self._limiter.cooling_seconds(self._limiter.clock())
                self._on_trouble(problem, max(wait_seconds, cooling))
            return _Step(wait_seconds=wait_seconds)
        if (stop := self._breaker.row_failed(failure)) is not None:
            self._on_stop(stop)
        return _Step(result=self._result(course, failure))

    def _told(self, failure: Failure, reply: Reply) -> Failure:
        """The failure as it may be shown, with the text that had arrived."""
        text = failure.text or self._redactor.text(reply.partial_text)
        return replace(failure, message=self._redactor.message(failure.message), text=text)

    def _wait(self, problem: Problem, wait_seconds: float, course: Course) -> float:
        """How long this row waits by itself."""
        if problem.blame is Blame.RATE_LIMIT:
            return 0.0  # the limiter holds everybody back, and spreads them afterwards
        if problem.unknown is UnknownBilling.RESET and REUSED.get() and not course.repeated_at_once:
            # A kept-alive connection that had been closed already says nothing about the endpoint.
            course.repeated_at_once = True
            return 0.0
        return wait_seconds

    async def _cut_short(self, course: Course, reply: Reply) -> _Step:
        """What follows from an attempt that was broken off, or ran out of time."""
        if (made := course.response_id) is not None:
            if not self._broken_off or self._leaves_background:
                return self._after(still_being_made(made), course, reply)
            await self._cancel_response(made)
            course.response_id = None
        problem = BROKEN_OFF if self._broken_off else out_of_time(self._timeout_seconds)
        return self._after(problem, course, reply)

    async def _cancel_response(self, response_id: str) -> None:
        """The endpoint has been asked to stop; whether it does is its own affair."""
        with anyio.move_on_after(CANCEL_SECONDS, shield=True):
            try:
                await self._endpoint.cancel(response_id)
            except Exception as error:
                if judge_exchange_error(error) is None:
                    raise

    def _not_sent(self, course: Course) -> _Step:
        """No attempt was made: the run is stopping, or the endpoint wants too long a pause."""
        if self._draining:
            return self._given_up(course, None)
        seconds = self._limiter.cooling_seconds(self._limiter.clock())
        failure = Failure(
            code=ErrorCode.RATE_LIMITED,
            message=f"the endpoint asked for a pause of {seconds:.0f} s, longer than "
            "retry.rate_limit_patience; a later run sends this row",
        )
        return _Step(result=self._result(course, failure))

    def _given_up(self, course: Course, failure: Failure | None) -> _Step:
        """The run is stopping. A row that has cost nothing stays pending, without a trace."""
        if not course.has_cost:
            return _Step()
        stopped = Failure(code=other("stopped"), message="the run stopped before the repeat")
        return _Step(result=self._result(course, failure or stopped))

    def _result(self, course: Course, ending: Completion | Failure) -> RowResult:
        return course.result(ending, finished_at=self._wall_clock())

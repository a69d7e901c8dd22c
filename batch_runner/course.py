"""What one row has been through: attempts, budgets, money, and the best answer so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batch_runner import responses
from batch_runner.records import (
    Billed,
    Completion,
    Failure,
    Pending,
    Request,
    RowResult,
    UnknownBilling,
    Usage,
)
from batch_runner.retry import Blame, Problem, Spent


MOST_TIMED = 100
"""Repeats whose times are kept: a row that waits for a rate limit for hours may have thousands."""


@dataclass(frozen=True, slots=True)
class Said:
    """An ending and the reply that brought it."""

    ending: Completion | Failure
    reply: Mapping[str, Any] | None = None
    usage: Usage | None = None
    http_status: int | None = None
    request_id: str | None = None
    cap: int | None = None
    """Of the request that brought it."""


@dataclass(slots=True, kw_only=True)
class Course:
    """One row between its first attempt and its result."""

    request: Request
    """What the row asks; its key names the result."""
    asked: Request
    """What is sent next: the request, or a changed repeat of it."""
    started_at: float
    attempts: int = 0
    edition: int = 0
    """Counts what makes a repeat a new request to an endpoint that knows idempotency keys."""
    corrections: int = 0
    """Repeats because the answer did not fit its schema."""
    response_id: str | None = None
    """A background response being made: it is asked for, never asked anew."""
    fallback: Said | None = None
    """What the row ends with when a changed repeat fails."""
    billed: list[Billed] = field(default_factory=list)
    repeated_at: list[float] = field(default_factory=list)
    unknown: Counter[UnknownBilling] = field(default_factory=Counter)
    usage: Usage | None = None
    reply: Mapping[str, Any] | None = None
    http_status: int | None = None
    """Of the last attempt, as `request_id`."""
    request_id: str | None = None
    latency_seconds: float | None = None
    repeated_at_once: bool = False
    _chargeable: int = 0
    _maybe_billed: int = 0
    _rate_limited_since: float | None = None

    @classmethod
    def of(cls, request: Request, *, pending: Pending | None, started_at: float) -> "Course":
        return cls(
            request=request,
            asked=request,
            started_at=started_at,
            attempts=pending.attempts_untold if pending else 0,
            response_id=pending.response_id if pending else None,
        )

    @property
    def was_rate_limited(self) -> bool:
        return self._rate_limited_since is not None

    @property
    def has_cost(self) -> bool:
        made_for_us = self.response_id is not None and self.attempts > 0
        return made_for_us or self.maybe_billed > 0

    @property
    def maybe_billed(self) -> int:
        """Attempts that have cost money, or may have."""
        return len(self.billed) + self.unknown.total()

    def begin(self, *, at: float) -> None:
        """Another attempt is on record, and will be sent; `at` is Unix time."""
        self.attempts += 1
        if self.attempts > 1 and len(self.repeated_at) < MOST_TIMED:
            self.repeated_at.append(at)

    def charge(self, problem: Problem, *, now: float) -> None:
        """The budgets know of a problem; `now` is monotonic."""
        if problem.unknown is not None:
            self.unknown[problem.unknown] += 1
        self._maybe_billed += problem.unknown is not None or problem.blame is Blame.MAYBE_BILLED
        if problem.blame is Blame.RATE_LIMIT:
            if self._rate_limited_since is None:
                self._rate_limited_since = now
            return
        self._chargeable += 1

    def spent(self, now: float) -> Spent:
        since = self._rate_limited_since
        return Spent(
            attempts=self._chargeable,
            maybe_billed=self._maybe_billed,
            rate_limit_seconds=0.0 if since is None else now - since,
        )

    def heard(self, body: Mapping[str, Any], usage: Usage | None, *, at: float) -> None:
        """The attempt brought a response object; what it used is on the bill."""
        self.response_id = None
        self.usage = usage
        self.reply = responses.without_echo(body)
        if usage is not None:
            self.billed.append(
                Billed(
                    usage=usage,
                    model=_text(body.get("model")) or self.request.model,
                    service_tier=_text(body.get("service_tier")),
                    at=at,
                )
            )

    def ask_again(self, asked: Request, ending: Completion | Failure) -> None:
        """The next attempt sends `asked`; should it fail, `ending` stands."""
        self.fallback = self._said(ending)
        self.asked = asked
        self.edition += 1

    def result(self, ending: Completion | Failure, *, finished_at: float) -> RowResult:
        if self.response_id is not None and self.attempts:
            self.unknown[UnknownBilling.TIMEOUT] += 1  # still being made, and paid for one day
        said = self._said(ending)
        if self.fallback is not None and isinstance(ending, Failure) and not ending.text:
            said = self.fallback
        reply = said.reply or {}
        request = self.request
        calls = getattr(said.ending, "tool_calls", ())
        return RowResult(
            key=request.key,
            row=request.row,
            label=request.label,
            request_bytes=self.asked.input_bound_bytes,
            max_output_tokens=self.asked.max_output_tokens,
            answer_cap=None if said.cap == self.asked.max_output_tokens else said.cap,
            asked_model=request.model,
            ending=said.ending,
            attempts=self.attempts,
            repeated_at=tuple(self.repeated_at),
            billed=tuple(self.billed),
            final_usage=said.usage,
            unknown=dict(self.unknown),
            model=_text(reply.get("model")),
            service_tier=_text(reply.get("service_tier")),
            response_id=_text(reply.get("id")) or self.response_id,
            http_status=said.http_status,
            request_id=said.request_id,
            finish_reason=responses.finish_reason(reply, has_calls=bool(calls)) if reply else None,
            latency_seconds=self.latency_seconds,
            started_at=self.started_at,
            finished_at=finished_at,
            reply=said.reply,
        )

    def _said(self, ending: Completion | Failure) -> Said:
        return Said(
            ending,
            reply=self.reply,
            usage=self.usage,
            http_status=self.http_status,
            request_id=self.request_id,
            cap=self.asked.max_output_tokens,
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None

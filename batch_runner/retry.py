"""What to do after an attempt that brought no answer: a decision, never a wait.

Three budgets, because failures differ in what they cost: attempts that cost nothing, attempts that
may have been billed, and time spent waiting for rate limits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

from batch_runner.job import RetrySpec
from batch_runner.records import ErrorCode, Failure, UnknownBilling, other
from batch_runner.responses import ServerError


FIRST_WAIT_SECONDS = 0.5  # doubles up to RetrySpec.max_wait
JITTER_SHARE = 0.25  # only ever added: a wait the server asked for is a floor

QUOTA_CODES = frozenset({
    "insufficient_quota", "billing_hard_limit_reached", "credit_balance_exhausted",
    "organization_spend_limit_exceeded", "organization_usage_limit_exceeded",
    "project_spend_limit_exceeded",
})  # fmt: skip
"""A 429 with one of these is an empty account, which no waiting fills."""

MISSING_MODEL_CODES = frozenset({"model_not_found", "deployment_not_found", "DeploymentNotFound"})
_FREE_STATUSES = frozenset({408, 409, 425, 503, 529})
"""Refused before the model worked."""


class Verdict(StrEnum):
    """What happens next to the row, or to the run."""

    RETRY = "retry"
    SLOW_DOWN = "slow_down"
    """Retry, and everybody waits: the endpoint is at its limit."""
    FAIL_ROW = "fail_row"
    STOP_RUN = "stop_run"
    """No row can succeed: wrong key, empty account, unknown model."""


class Blame(StrEnum):
    """Whom a problem concerns, which sets the budget it is charged to."""

    FREE = "free"
    """Nothing was billed: not sent, or refused before any work."""
    MAYBE_BILLED = "maybe_billed"
    """The endpoint had the request and may have worked on it."""
    RATE_LIMIT = "rate_limit"
    ROW = "row"
    """Asking again would bring the same."""
    ACCESS = "access"
    """401 and 403: this key, for every row; some gateways answer so once in a while."""
    EVERYONE = "everyone"
    """The whole run: quota, unknown model, an untrusted certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One attempt that brought no answer."""

    failure: Failure
    blame: Blame
    unknown: UnknownBilling | None = None
    """Why its billing is unknown; None when it certainly cost nothing, or its usage came back."""
    wait_seconds: float | None = None
    """The server's own wait."""
    hint: str = ""
    """The way out, where the failure concerns everyone and its code alone does not show it."""
    may_retry: bool | None = None
    """The server's `x-should-retry`, which overrules every budget's first use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a row has used of its budgets so far, the attempt in question included."""

    attempts: int = 0
    maybe_billed: int = 0
    rate_limit_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDecision:
    """A verdict, and the wait before the next attempt where there is one."""

    verdict: Verdict
    wait_seconds: float = 0.0


def decide(problem: Problem, spent: Spent, policy: RetrySpec, *, jitter: float) -> RetryDecision:
    """Judge one attempt without an answer. Total: every problem gets a verdict.

    `jitter` is a random number in [0, 1).
    """
    if problem.blame is Blame.EVERYONE:
        return RetryDecision(verdict=Verdict.STOP_RUN)
    if problem.blame is Blame.RATE_LIMIT:
        return _slow_down(problem, spent, policy, jitter)
    if problem.may_retry is False:
        return RetryDecision(verdict=Verdict.FAIL_ROW)
    if problem.blame is Blame.ROW and not problem.may_retry:
        return RetryDecision(verdict=Verdict.FAIL_ROW)
    if problem.blame is Blame.MAYBE_BILLED and spent.maybe_billed > policy.maybe_billed_attempts:
        return RetryDecision(verdict=Verdict.FAIL_ROW)
    if spent.attempts >= policy.attempts:
        return RetryDecision(verdict=Verdict.FAIL_ROW)
    if (problem.wait_seconds or 0.0) > policy.rate_limit_patience:
        return RetryDecision(verdict=Verdict.FAIL_ROW)
    return RetryDecision(
        verdict=Verdict.RETRY, wait_seconds=_wait(problem, spent.attempts, policy, jitter)
    )


def _slow_down(problem: Problem, spent: Spent, policy: RetrySpec, jitter: float) -> RetryDecision:
    wait = _wait(problem, spent.attempts, policy, jitter)
    if spent.maybe_billed > policy.maybe_billed_attempts:
        return RetryDecision(verdict=Verdict.FAIL_ROW, wait_seconds=wait)
    if problem.may_retry is False or spent.rate_limit_seconds + wait > policy.rate_limit_patience:
        return RetryDecision(verdict=Verdict.FAIL_ROW, wait_seconds=wait)
    return RetryDecision(verdict=Verdict.SLOW_DOWN, wait_seconds=wait)


def _wait(problem: Problem, attempts: int, policy: RetrySpec, jitter: float) -> float:
    if problem.wait_seconds:
        return problem.wait_seconds
    return backoff_seconds(attempts, longest=policy.max_wait, jitter=jitter)


def backoff_seconds(attempts: int, *, longest: float, jitter: float) -> float:
    """The wait after the `attempts`-th attempt: 0.5 s, 1 s, 2 s ... up to `longest`, plus jitter."""
    doublings = min(max(attempts, 1) - 1, 30)
    return min(longest, FIRST_WAIT_SECONDS * 2.0**doublings) * (1 + JITTER_SHARE * jitter)


def judge_status(
    status: int, error: ServerError, headers: Mapping[str, str], *, now: float, shared_model: bool
) -> Problem:
    """What an HTTP reply other than 200 means, by status and code, never by words in a message.

    `shared_model`: every row asks for the same model, so one that is unknown concerns everyone.
    """
    wait = retry_after_seconds(headers, now=now)
    may_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    code, blame = _code_and_blame(status, error, waits=wait is not None, shared_model=shared_model)
    described, hint = error.message, ""
    if 300 <= status < 400:
        described = f"redirects to {headers.get('location', 'nowhere')!r}, which is not followed"
        hint = "set endpoint.base_url to the address the server really has"
    return Problem(
        failure=Failure(
            code=code, message=f"HTTP {status}: {described}" if described else f"HTTP {status}"
        ),
        blame=blame,
        unknown=UnknownBilling.SERVER_ERROR if blame is Blame.MAYBE_BILLED else None,
        wait_seconds=wait,
        may_retry=may_retry,
        hint=hint,
    )


def _code_and_blame(
    status: int, error: ServerError, *, waits: bool, shared_model: bool
) -> tuple[str, Blame]:
    if error.code in QUOTA_CODES or error.type in QUOTA_CODES:
        return ErrorCode.QUOTA, Blame.EVERYONE
    if error.code in MISSING_MODEL_CODES:
        return ErrorCode.NOT_FOUND, Blame.EVERYONE if shared_model else Blame.ROW
    if status == 429:
        return ErrorCode.RATE_LIMITED, Blame.RATE_LIMIT
    if status == 503 and waits:
        return ErrorCode.SERVER_ERROR, Blame.RATE_LIMIT
    if status in _FREE_STATUSES:
        return ErrorCode.SERVER_ERROR, Blame.FREE
    if status in (401, 403):
        return ErrorCode.AUTH, Blame.ACCESS
    if status == 404:
        return ErrorCode.NOT_FOUND, Blame.ROW
    if 300 <= status < 400:
        return other(f"http_{status}"), Blame.EVERYONE
    if 400 <= status < 500:
        return ErrorCode.BAD_REQUEST, Blame.ROW
    if status >= 500:
        return ErrorCode.SERVER_ERROR, Blame.MAYBE_BILLED
    return ErrorCode.BAD_REPLY, Blame.MAYBE_BILLED


def judge_failed_reply(failure: Failure, *, billed: bool) -> Problem:
    """What a 200 reply without an answer means. `billed`: its usage came back."""
    blame = {
        ErrorCode.RATE_LIMITED: Blame.RATE_LIMIT,
        ErrorCode.SERVER_ERROR: Blame.MAYBE_BILLED,
        ErrorCode.BAD_REPLY: Blame.MAYBE_BILLED,
        "other:vector_store_timeout": Blame.MAYBE_BILLED,
        "other:failed_to_download_image": Blame.MAYBE_BILLED,
    }.get(failure.code, Blame.ROW)
    return Problem(
        failure=failure,
        blame=blame,
        unknown=None if billed else UnknownBilling.BAD_REPLY,
    )


def retry_after_seconds(headers: Mapping[str, str], *, now: float) -> float | None:
    """The wait a server asks for: `retry-after-ms`, then Retry-After in seconds or as a date.

    None when absent, unreadable, zero or in the past: our own backoff is kinder than no wait at all.
    `now` is Unix time.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000 if milliseconds > 0 else None
    value = headers.get("retry-after") or headers.get("llm_provider-retry-after")
    if not value:
        return None
    seconds = _number(value)
    if seconds is None:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return seconds if seconds > 0 else None


def _number(value: str | None) -> float | None:
    if value is None or not re.fullmatch(r"\s*[-+]?\d{1,12}(\.\d*)?\s*", value):
        return None
    return float(value)

from email.utils import formatdate

import pytest

from batch_runner.job import RetrySpec
from batch_runner.records import ErrorCode, Failure, UnknownBilling
from batch_runner.responses import ServerError
from batch_runner.retry import (
    JITTER_SHARE,
    Blame,
    Problem,
    Spent,
    Verdict,
    backoff_seconds,
    decide,
    judge_status,
    retry_after_seconds,
)


NOW = 1_790_000_000.0
POLICY = RetrySpec(attempts=3, maybe_billed_attempts=1, rate_limit_patience=100.0)


def problem(blame, **fields):
    return Problem(failure=Failure(code=ErrorCode.SERVER_ERROR, message="m"), blame=blame, **fields)


def verdict(blame, spent, **fields):
    return decide(problem(blame, **fields), spent, POLICY, jitter=0.5).verdict


@pytest.mark.parametrize("blame", Blame)
@pytest.mark.parametrize("may_retry", [None, True, False])
def test_every_problem_gets_a_verdict_and_no_row_goes_on_for_ever(blame, may_retry):
    spent = Spent(attempts=99, maybe_billed=99, rate_limit_seconds=1e9)
    assert verdict(blame, spent, may_retry=may_retry) in (Verdict.FAIL_ROW, Verdict.STOP_RUN)


@pytest.mark.parametrize("blame", [Blame.FREE, Blame.MAYBE_BILLED, Blame.ACCESS])
def test_no_status_makes_a_row_wait_longer_than_patience(blame):
    assert verdict(blame, Spent(attempts=1), wait_seconds=100.0) is Verdict.RETRY
    assert verdict(blame, Spent(attempts=1), wait_seconds=7200.0) is Verdict.FAIL_ROW


def test_a_rate_limit_that_may_have_been_billed_is_repeated_within_that_budget():
    assert verdict(Blame.RATE_LIMIT, Spent(maybe_billed=1)) is Verdict.SLOW_DOWN
    assert verdict(Blame.RATE_LIMIT, Spent(maybe_billed=2)) is Verdict.FAIL_ROW


def test_each_budget_counts_what_it_is_for():
    assert verdict(Blame.FREE, Spent(attempts=2)) is Verdict.RETRY
    assert verdict(Blame.FREE, Spent(attempts=3)) is Verdict.FAIL_ROW
    assert verdict(Blame.MAYBE_BILLED, Spent(attempts=1, maybe_billed=1)) is Verdict.RETRY
    assert verdict(Blame.MAYBE_BILLED, Spent(attempts=2, maybe_billed=2)) is Verdict.FAIL_ROW
    assert verdict(Blame.RATE_LIMIT, Spent(rate_limit_seconds=99)) is Verdict.SLOW_DOWN
    assert verdict(Blame.RATE_LIMIT, Spent(rate_limit_seconds=100)) is Verdict.FAIL_ROW


def test_the_server_overrules_within_the_budgets():
    assert verdict(Blame.FREE, Spent(), may_retry=False) is Verdict.FAIL_ROW
    assert verdict(Blame.ROW, Spent(attempts=1), may_retry=True) is Verdict.RETRY
    assert verdict(Blame.ROW, Spent(attempts=3), may_retry=True) is Verdict.FAIL_ROW


def test_waits_double_up_to_the_longest_and_jitter_only_adds():
    plain = [backoff_seconds(n, longest=60.0, jitter=0.0) for n in range(1, 12)]
    assert plain[:4] == [0.5, 1.0, 2.0, 4.0]
    assert plain[-1] == 60.0
    most = [backoff_seconds(n, longest=60.0, jitter=1.0) for n in range(1, 12)]
    assert most == [wait * (1 + JITTER_SHARE) for wait in plain]


def test_a_wait_the_server_asked_for_is_taken_as_it_is():
    asked = problem(Blame.FREE, wait_seconds=7.0)
    assert decide(asked, Spent(attempts=1), POLICY, jitter=0.9).wait_seconds == 7.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "10800"}, 10800.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"llm_provider-retry-after": "60"}, 60.0),
    ],
)
def test_retry_after_is_read_in_every_spelling(headers, expected):
    assert retry_after_seconds(headers, now=NOW) == expected


def judged(status, code="", **headers):
    error = ServerError(code=code, message="m")
    return judge_status(status, error, headers, now=NOW, shared_model=True)


@pytest.mark.parametrize(
    ("status", "code", "expected", "blame"),
    [
        (400, "", ErrorCode.BAD_REQUEST, Blame.ROW),
        (401, "", ErrorCode.AUTH, Blame.ACCESS),
        (403, "", ErrorCode.AUTH, Blame.ACCESS),
        (404, "", ErrorCode.NOT_FOUND, Blame.ROW),
        (404, "model_not_found", ErrorCode.NOT_FOUND, Blame.EVERYONE),
        (408, "", ErrorCode.SERVER_ERROR, Blame.FREE),
        (413, "", ErrorCode.BAD_REQUEST, Blame.ROW),
        (429, "", ErrorCode.RATE_LIMITED, Blame.RATE_LIMIT),
        (429, "insufficient_quota", ErrorCode.QUOTA, Blame.EVERYONE),
        (500, "", ErrorCode.SERVER_ERROR, Blame.MAYBE_BILLED),
        (503, "", ErrorCode.SERVER_ERROR, Blame.FREE),
        (529, "", ErrorCode.SERVER_ERROR, Blame.FREE),
        (307, "", "other:http_307", Blame.EVERYONE),
        (101, "", ErrorCode.BAD_REPLY, Blame.MAYBE_BILLED),
    ],
)
def test_a_status_means_what_the_table_says(status, code, expected, blame):
    told = judged(status, code)
    assert (told.failure.code, told.blame) == (expected, blame)
    assert told.unknown == (UnknownBilling.SERVER_ERROR if blame is Blame.MAYBE_BILLED else None)


def test_a_503_that_names_a_wait_is_a_rate_limit():
    told = judged(503, **{"retry-after": "3"})
    assert (told.blame, told.wait_seconds) == (Blame.RATE_LIMIT, 3.0)


def test_an_unknown_model_is_the_rows_own_trouble_where_rows_name_models():
    error = ServerError(code="model_not_found", message="m")
    told = judge_status(404, error, {}, now=NOW, shared_model=False)
    assert told.blame is Blame.ROW


def test_a_redirect_names_where_to_and_what_to_set():
    told = judged(308, location="https://new.example/v1/responses")
    assert "'https://new.example/v1/responses'" in told.failure.message
    assert "endpoint.base_url" in told.hint

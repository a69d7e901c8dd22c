import pytest

from batch_runner.breaker import ACCESS_IN_A_ROW, SAME_IN_A_ROW, Breaker
from batch_runner.records import ErrorCode, Failure
from batch_runner.retry import Blame, Problem


def problem(blame, code=ErrorCode.AUTH, **fields):
    return Problem(failure=Failure(code=code, message="HTTP 401: no"), blame=blame, **fields)


def test_what_concerns_everyone_stops_at_once_with_its_own_way_out():
    stop = Breaker().attempt_failed(problem(Blame.EVERYONE, hint="do this"), 0)
    assert (str(stop), stop.hint) == ("the endpoint refuses: HTTP 401: no", "do this")


def test_three_denials_in_a_row_stop_a_run_that_never_succeeded():
    breaker = Breaker()
    told = [breaker.attempt_failed(problem(Blame.ACCESS), 0) for _ in range(ACCESS_IN_A_ROW)]
    assert [stop is not None for stop in told] == [False, False, True]


def test_one_forbidden_row_does_not_stop_a_run_that_works():
    breaker = Breaker()
    breaker.succeeded()
    for _ in range(10):
        assert breaker.attempt_failed(problem(Blame.ACCESS), 7) is None
    assert breaker.attempt_failed(problem(Blame.ACCESS), 8) is None
    assert breaker.attempt_failed(problem(Blame.ACCESS), 9) is not None


def test_a_denial_between_other_answers_is_a_hiccup():
    breaker = Breaker()
    for row in range(20):
        assert breaker.attempt_failed(problem(Blame.ACCESS), row) is None
        if row % 2:
            breaker.succeeded()


@pytest.mark.parametrize("code", [ErrorCode.CONNECTION, ErrorCode.BAD_REQUEST])
def test_twenty_rows_that_failed_alike_before_any_success_stop_the_run(code):
    breaker = Breaker()
    failure = Failure(code=code, message="m")
    told = [breaker.row_failed(failure) for _ in range(SAME_IN_A_ROW)]
    assert [stop is not None for stop in told] == [False] * (SAME_IN_A_ROW - 1) + [True]
    breaker.succeeded()
    assert all(breaker.row_failed(failure) is None for _ in range(100))


def test_rate_limits_and_rows_that_fail_differently_never_stop_a_run():
    breaker = Breaker()
    for n in range(100):
        assert breaker.row_failed(Failure(code=ErrorCode.RATE_LIMITED, message="m")) is None
        assert breaker.row_failed(Failure(code=ErrorCode.BAD_REQUEST, message=str(n))) is None

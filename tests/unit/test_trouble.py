"""Whoever has just started a run hears within seconds that nothing comes back, and why."""

import pytest

from batch_runner.records import ErrorCode, Failure
from batch_runner.retry import Blame, Problem
from batch_runner.trouble import Trouble


URL = "http://127.0.0.1:9/v1"
REFUSED = Problem(
    failure=Failure(code=ErrorCode.CONNECTION, message="connection failed: Connection refused"),
    blame=Blame.FREE,
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return []


@pytest.fixture
def trouble(clock, told):
    return Trouble(URL, tell=told.append, clock=clock)


def test_the_first_attempts_that_fail_are_told_once_within_three_seconds(trouble, clock, told):
    for clock.now, wait in ((0.0, 0.5), (0.5, 1.0), (1.6, 2.0), (3.7, 4.0), (8.0, 8.0)):
        trouble.heard(REFUSED, wait)
    assert told == [
        (
            "no answer in this run yet from http://127.0.0.1:9/v1: connection failed: Connection refused; "
            "trying again (next in 2 s)"
        )
    ]


def test_a_long_wait_is_told_before_it_begins(trouble, told):
    trouble.heard(REFUSED, 30.0)
    assert told[0].endswith("trying again (next in 30 s)")


def test_a_stumble_is_nobodys_business(trouble, clock, told):
    trouble.heard(REFUSED, 0.5)
    trouble.answered()
    for clock.now in (5.0, 10.0, 19.0):
        trouble.heard(REFUSED, 4.0)
    assert told == []


def test_an_endpoint_that_dies_later_is_told_of_and_once(trouble, clock, told):
    trouble.answered()
    for clock.now in (100.0, 110.0, 116.0, 130.0):
        trouble.heard(REFUSED, 8.0)
    assert len(told) == 1
    assert told[0].startswith("no answer for 16 s from http")
    trouble.answered()
    for clock.now in (200.0, 220.0):
        trouble.heard(REFUSED, 8.0)
    assert len(told) == 2

import pytest

from batch_runner.bucket import Bucket


def refused_after(bucket, now, seconds, per_second):
    """Evenly spaced calls for so long, and then a refusal."""
    count = round(seconds * per_second)
    for n in range(count):
        bucket.begin(now + n / per_second)
    at = now + count / per_second
    bucket.refused(at, count)
    return at


def test_calls_beyond_a_deep_bucket_tell_what_it_earns():
    bucket = Bucket(0.0)
    now = refused_after(bucket, 0.0, 1.0, 130)  # the whole of it: 120 and what came in since
    now = refused_after(bucket, now + 1, 0.1, 20)
    now = refused_after(bucket, now + 1, 5.0, 2.4)
    assert bucket.guess().rate == pytest.approx(2.0, rel=0.1)


def test_a_shallow_bucket_is_not_taken_for_a_slow_one():
    bucket = Bucket(0.0)
    now = refused_after(bucket, 0.0, 0.5, 60)
    for _ in range(2):
        for n in range(300):  # held for a while just below it, then a little above
            bucket.begin(now + 1 + n / 48)
        until = now + 1 + 300 / 48
        for n in range(60):
            bucket.begin(until + n / 53)
        now = until + 60 / 53
        bucket.refused(now, 360)
    guess = bucket.guess()
    assert guess.agrees
    assert 46 <= guess.rate <= 53


def test_a_count_of_the_calls_of_a_second_is_told_from_a_bucket_that_holds_a_second():
    """Each is full after a pause, but one of them keeps nothing of what was not asked for."""
    bucket = Bucket(0.0)
    now = refused_after(bucket, 0.0, 0.5, 100)
    for n in range(200):
        bucket.begin(now + 1 + n / 40)
    until = now + 1 + 200 / 40
    for n in range(50):
        bucket.begin(until + n / 51)
    bucket.refused(until + 50 / 51, 250)
    guess = bucket.guess()
    assert guess.agrees
    assert 48 <= guess.rate <= 52


def refused_by_the_clock(bucket):
    """Twenty calls a second: it lets twice as many in where a second ends."""
    bucket.refused(0.6, 20)
    for n in range(36):  # sixteen before the clock strikes, and twenty after it
        bucket.begin(1.6 + n / 40)
    bucket.refused(2.5, 36)
    for n in range(200):
        bucket.begin(3.5 + n / 19)
    until = 3.5 + 200 / 19
    for n in range(21):
        bucket.begin(until + n / 21)
    bucket.refused(until + 1, 221)


def test_a_count_by_the_clock_is_told_from_a_limit_that_moved():
    bucket = Bucket(0.0)
    refused_by_the_clock(bucket)
    guess = bucket.guess()
    assert guess.agrees
    assert 19 <= guess.rate <= 21


def test_who_lets_nothing_in_after_a_pause_does_not_count_by_the_second():
    bucket = Bucket(0.0)
    refused_by_the_clock(bucket)
    bucket.stay_shut()
    assert not bucket.guess().agrees


def test_refusals_of_another_limit_are_forgotten():
    bucket = Bucket(0.0)
    now = refused_after(bucket, 0.0, 20.0, 50)
    now = refused_after(bucket, now + 1, 20.0, 50)
    refused_after(bucket, now + 1, 1.0, 10)
    assert not bucket.guess().agrees
    bucket.forget(deep=True)
    assert bucket.guess().rate < 10


def test_marks_stay_few_however_many_calls():
    bucket = Bucket(0.0)
    for n in range(100_000):
        bucket.begin(n / 100)
    assert len(bucket._marks) <= 65
    bucket.refused(1000.0, 100_000)
    assert bucket.guess().rate == pytest.approx(100, rel=0.05)

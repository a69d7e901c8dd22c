"""How amounts are said."""

from decimal import Decimal

import pytest

from batch_runner.amounts import (
    commonest,
    count,
    dollars,
    dollars_at_least,
    dollars_at_most,
    duration,
    pace,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "840ms"), (9.9, "9.9s"), (9.99, "10s"), (41, "41s"), (59.7, "1m 00s"), (761, "12m 41s"),
     (3599.6, "1h 00m"), (11_100, "3h 05m")],
)  # fmt: skip
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rows_per_second", "text"),
    [(41, "41.0 rows/s"), (0.96, "1.0 rows/s"), (0.94, "56 rows/min"), (0.2, "12 rows/min"),
     (0.005, "0.3 rows/min"), (0, "0.0 rows/s")],
)  # fmt: skip
def test_a_slow_pace_is_told_by_the_minute(rows_per_second, text):
    assert pace(rows_per_second) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (812.4, "812"), (9990, "9,990"), (9999, "10.0k"), (18_234, "18.2k"), (999_999, "1.00M"),
     (31_200_000, "31.2M"), (2.5e9, "2.50B")],
)  # fmt: skip
def test_counts_read_well(number, text):
    assert count(number) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(None, "unknown"), ("0", "$0.00"), ("8.434", "$8.43"), ("0.5", "$0.500"), ("0.0123", "$0.0123"),
     ("0.00012345", "$0.000123"), ("1234.5", "$1,234.50"), ("0.9996", "$1.00"), ("0.09996", "$0.100")],
)  # fmt: skip
def test_dollars_keep_what_matters(amount, text):
    assert dollars(None if amount is None else Decimal(amount)) == text


@pytest.mark.parametrize("amount", ["0.0131", "0.9996", "0.099951", "8.4312", "0.00012", "1e-9"])
def test_a_bound_is_rounded_away_from_the_truth_and_has_no_other_digits(amount):
    exact = Decimal(amount)
    least, most = dollars_at_least(exact), dollars_at_most(exact)
    assert Decimal(least.removeprefix("$")) <= exact <= Decimal(most.removeprefix("$"))
    assert dollars(exact) in (least, most)


def test_the_same_numbers_read_the_same_in_whatever_order_they_came():
    codes = {"timeout": 1, "bad_request": 1, "empty_output": 3, "auth": 1}
    told = [("empty_output", 3), ("auth", 1), ("bad_request", 1), ("timeout", 1)]
    for order in (codes, dict(reversed(codes.items()))):
        assert commonest(order) == told
        assert commonest(order, 2) == told[:2]

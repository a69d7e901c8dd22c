from decimal import Decimal

import pytest

from batch_runner.bill import Biller
from batch_runner.job import PriceSpec
from batch_runner.pricing import PriceBook
from batch_runner.records import Billed, Completion, Failure, RowResult, RowStatus, Usage
from batch_runner.tally import LatencyHistogram, Rate, Tally


def test_quantiles_are_right_to_five_per_cent():
    latencies = LatencyHistogram()
    assert latencies.quantile(0.5) is None
    assert latencies.quantiles() == {}
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    found = latencies.quantiles()
    assert found["p50"] == pytest.approx(0.5, rel=0.05)
    assert found["p99"] == pytest.approx(0.99, rel=0.05)
    assert found["max"] == 1.0


def test_a_histogram_does_not_grow_with_the_rows():
    latencies = LatencyHistogram()
    for number in range(100_000):
        latencies.add(0.001 + number % 600)
    assert len(latencies.bins) < 300


def test_a_rate_is_that_of_the_last_half_minute():
    rate = Rate(0.0)
    assert rate.per_second(0.0, 0) == 0.0
    for second in range(1, 101):
        at_once = rate.per_second(float(second), 10 * second)
        assert at_once == pytest.approx(10)
    assert rate.per_second(200.0, 1000) < 1


def test_rows_are_counted_and_each_tells_what_it_alone_cost():
    book = PriceBook({"m": PriceSpec(input=Decimal(1), output=Decimal(1))})
    tally = Tally(Biller(book))
    usage = Usage(input_tokens=600_000, output_tokens=400_000)
    billed = (Billed(usage=usage, model="m", service_tier=None, at=0.0),)
    ok = RowResult(key=bytes(16), row=0, ending=Completion(text="a"), billed=billed, model="m")
    bad = RowResult(key=bytes(16), row=1, ending=Failure(code="timeout", message=""))
    assert [tally.add(ok).listed, tally.add(bad).listed, tally.add(ok).listed] == [1, 0, 1]
    assert tally.bill.listed == 2
    assert (tally.finished, tally.failed, tally.codes) == (3, 1, {"timeout": 1})
    assert tally.statuses == {RowStatus.OK: 2, RowStatus.FAILED: 1}

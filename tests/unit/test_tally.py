from decimal import Decimal

import pytest

from batch_runner.bill import Biller
from batch_runner.job import PriceSpec
from batch_runner.pricing import PriceBook
from batch_runner.records import Billed, Completion, Failure, RowResult, RowStatus, Usage
from batch_runner.tally import MOST_EXAMPLES, Examples, LatencyHistogram, Rate, Tally


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


def test_rows_are_counted_and_what_they_cost():
    book = PriceBook({"m": PriceSpec(input=Decimal(1), output=Decimal(1))})
    tally = Tally(Biller(book))
    usage = Usage(input_tokens=600_000, output_tokens=400_000)
    billed = (Billed(usage=usage, model="m", service_tier=None, at=0.0),)
    ok = RowResult(key=bytes(16), row=0, ending=Completion(text="a"), billed=billed, model="m")
    bad = RowResult(key=bytes(16), row=1, ending=Failure(code="timeout", message=""))
    listed = []
    for result in (ok, bad, ok):
        tally.add(result)
        listed.append(tally.bill.listed)
    assert listed == [1, 1, 2]
    assert (tally.finished, tally.failed, tally.codes) == (3, 1, {"timeout": 1})
    assert tally.statuses == {RowStatus.OK: 2, RowStatus.FAILED: 1}


def test_a_connection_refused_at_once_is_no_quick_reply():
    tally = Tally(Biller(PriceBook({})))
    refused = Failure(code="connection", message="")
    served = Completion(text="a")
    key = bytes(16)
    tally.add(RowResult(key=key, row=0, ending=refused, attempts=1, latency_seconds=0.001))
    assert tally.latencies.quantiles() == {}
    tally.add(
        RowResult(key=key, row=1, ending=served, attempts=1, latency_seconds=2.0, http_status=200)
    )
    assert tally.latencies.quantiles()["p50"] == pytest.approx(2.0, rel=0.1)


def test_each_error_keeps_its_first_row_as_an_example():
    tally = Tally(Biller(PriceBook({})))
    for row, label in ((16, None), (17, "a-17")):
        failure = Failure(code="timeout", message=f"too slow {row}")
        tally.add(RowResult(key=bytes([row]) * 16, row=row, label=label, ending=failure))
    assert tally.examples.told == {"timeout": "row 17: too slow 16"}


def test_a_server_that_invents_codes_fills_no_memory_with_examples():
    examples = Examples()
    for number in range(MOST_EXAMPLES + 5):
        examples.add(f"other:{number}", "moonlight", row=number, label="a")
    assert len(examples.told) == MOST_EXAMPLES
    assert examples.told["other:0"] == "a: moonlight"

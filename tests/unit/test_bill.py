from collections import Counter
from decimal import Decimal

import pytest

from batch_runner.bill import CEILING_OVERHEAD_TOKENS, Bill, Biller, possible_tiers
from batch_runner.job import PriceSpec
from batch_runner.pricing import Doubt, PriceBook
from batch_runner.records import (
    Billed,
    Completion,
    Failure,
    Request,
    RowResult,
    UnknownBilling,
    Usage,
)


PRICES = {"m": PriceSpec(input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(10))}
AT = 1.795e9
YES = Completion(text="yes")


def call(*, model="m", tier=None, **counts):
    usage = {"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0}
    return Billed(usage=Usage(**(usage | counts)), model=model, service_tier=tier, at=AT)


def result(*billed, ending=YES, unknown=None, cap=100, size=936, asked="m"):
    return RowResult(
        key=bytes(16),
        row=0,
        ending=ending,
        attempts=len(billed) + sum((unknown or {}).values()),
        billed=billed,
        unknown=unknown or {},
        request_bytes=size,
        max_output_tokens=cap,
        asked_model=asked,
        started_at=AT,
    )


def bill_of(*results, prices=PRICES, tiers=(None,)):
    biller = Biller(PriceBook(prices), tiers=tiers)
    total = Bill()
    for one in results:
        total.merge(biller.bill(one))
    return total


# One call of 1000 in at $1 and 100 out at $10 per million tokens; its ceiling is the same.
DOLLARS = Decimal("0.002")


def test_the_ceiling_of_the_examples_is_what_they_cost():
    assert Biller(PriceBook(PRICES)).ceiling("m", 1000 - CEILING_OVERHEAD_TOKENS, 100) == DOLLARS


def test_a_call_whose_usage_came_back_costs_the_same_at_least_and_at_most():
    bill = bill_of(result(call()))
    assert (bill.at_least, bill.listed, bill.at_most) == (DOLLARS, DOLLARS, DOLLARS)
    assert (bill.calls, bill.answered, bill.sources) == (1, 1, Counter({'[prices."m"]': 1}))


def test_failed_attempts_are_on_the_bill_and_apart():
    bill = bill_of(result(call(), call()), result(call(), ending=Failure(code="x", message="")))
    assert (bill.answers, bill.failures) == (DOLLARS, 2 * DOLLARS)
    assert bill.at_least == 3 * DOLLARS


def test_unknown_billing_is_in_the_bound_and_never_in_what_is_known():
    bill = bill_of(result(call(), unknown={UnknownBilling.TIMEOUT: 2}))
    assert (bill.at_least, bill.at_most) == (DOLLARS, 3 * DOLLARS)
    assert (bill.unknown_calls, bill.calls) == (2, 3)


@pytest.mark.parametrize(
    "unlimited",
    [{"cap": None}, {"size": None}, {"asked": "a-stranger"}],
    ids=lambda d: next(iter(d)),
)
def test_a_call_of_unknown_billing_that_nothing_bounds_has_no_bound_rather_than_zero(unlimited):
    bill = bill_of(result(call()), result(unknown={UnknownBilling.RESET: 1}, **unlimited))
    assert (bill.at_least, bill.at_most, bill.unbounded) == (DOLLARS, None, 1)


def test_no_price_is_unknown_and_not_zero():
    bill = bill_of(result(call(model="a-stranger"), asked="a-stranger"))
    assert (bill.listed, bill.at_least, bill.at_most, bill.unpriced) == (None, None, None, 1)
    assert bill.to_json()["cost_usd"] is None
    assert bill.to_json()["cost_usd_exact"]["at_least"] is None


def test_cached_tokens_that_were_not_reported_lower_what_is_certain_and_nothing_else():
    bill = bill_of(result(call(cached_tokens=None)))
    assert bill.at_least == Decimal("0.0011")  # 1000 at the cached rate
    assert bill.listed == bill.at_most == DOLLARS
    assert bill.doubts[Doubt.CACHE_READS_UNREPORTED] == 1


def test_cache_writes_that_were_not_reported_raise_the_bound():
    prices = {"m": PriceSpec(input=Decimal(1), cache_write=Decimal(2), output=Decimal(0))}
    bill = bill_of(result(call(cache_write_tokens=None)), prices=prices)
    assert (bill.listed, bill.at_most) == (Decimal("0.001"), Decimal("0.002"))


def test_a_missing_count_is_bounded_by_what_the_call_can_have_cost():
    bill = bill_of(result(call()), result(call(output_tokens=None)))
    assert (bill.at_least, bill.at_most) == (DOLLARS, 2 * DOLLARS)
    assert (bill.unpriced, bill.unbounded, bill.tokens.unreported) == (1, 0, 1)


def test_a_price_of_another_tier_bounds_nothing():
    bill = bill_of(result(call(model="gpt-5", tier="ultrafast")), prices={})
    assert bill.listed is not None
    assert (bill.at_most, bill.doubtful) == (None, 1)


def test_a_lost_call_may_have_been_served_in_the_tier_that_was_asked_for():
    ceilings = [
        Biller(PriceBook({}), tiers=possible_tiers(tier)).ceiling("gpt-5", 1000, 100, at=AT)
        for tier in (None, "auto", "flex", "priority")
    ]
    assert ceilings[0] == ceilings[1] == ceilings[2]
    assert ceilings[3] == 2 * ceilings[0]


def test_bills_add_up_in_any_order():
    parts = [
        result(call()),
        result(call(cached_tokens=None), call(model="x"), ending=Failure(code="x", message="")),
        result(unknown={UnknownBilling.CRASH: 3}, cap=None),
    ]
    forwards, backwards = bill_of(*parts), bill_of(*reversed(parts))
    assert forwards == backwards
    assert forwards.calls == 6


def test_the_exact_text_has_every_digit():
    prices = {"m": PriceSpec(input=Decimal("0.123456789"), output=Decimal(0))}
    said = bill_of(result(call(input_tokens=1)), prices=prices).to_json()
    assert said["cost_usd_exact"]["at_least"] == "0.000000123456789"


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":[{"content":[{"image_url":"https://x","type":"input_image"}],"role":"user"}]}',
        b'{"input":"go on","previous_response_id":"resp_1"}',
        b'{"input":"news","tools":[{"type":"web_search_preview"}]}',
    ],
)
def test_bytes_bound_nothing_where_more_than_text_goes_in(body):
    request = Request(row=0, key=bytes(16), body=body, model="m", max_output_tokens=1)
    assert request.input_bound_bytes is None


def test_the_same_words_inside_a_text_are_only_text():
    body = rb'{"input":"say \"input_image\" and \"previous_response_id\""}'
    request = Request(row=0, key=bytes(16), body=body, model="m", max_output_tokens=1)
    assert request.input_bound_bytes == len(body)

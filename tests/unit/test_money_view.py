"""The cost in words: true whatever is known, unknown, without a price or free."""

from collections import Counter
from decimal import Decimal
from itertools import product

import pytest

from batch_runner.amounts import dollars_at_most
from batch_runner.bill import Bill, Biller, Tokens
from batch_runner.costs import By, CostReport, Group
from batch_runner.costs_report import cost_lines
from batch_runner.findings import Findings
from batch_runner.money_view import (
    at_most_words,
    bound_words,
    bounds,
    cost_in_words,
    cost_view,
    is_whole,
)
from batch_runner.pricing import Doubt, PriceBook
from batch_runner.records import UnknownBilling
from batch_runner.report import summary_lines
from batch_runner.summary import RunSummary


def bill(*, answered, unpriced, lost, unbounded, doubtful, price):
    """Calls of each kind at a price of `price` a call."""
    silent = unpriced + lost - unbounded
    return Bill(
        calls=answered + lost,
        answered=answered,
        answers=price * (answered - unpriced),
        unpriced=unpriced,
        unknown=Counter({UnknownBilling.TIMEOUT: lost} if lost else {}),
        unknown_at_most=price * silent,
        unbounded=unbounded,
        doubtful=doubtful,
        doubts=Counter({Doubt.NO_COUNT: unpriced} if unpriced else {}),
        tokens=Tokens(unreported=unpriced),
    )


EVERY = [
    bill(answered=answered, unpriced=unpriced, lost=lost, unbounded=unbounded, doubtful=doubtful,
         price=price)
    for answered, unpriced, lost, unbounded, doubtful, price in product(
        (0, 2), (0, 1, 2), (0, 1), (0, 1, 2), (0, 1), (Decimal(0), Decimal("0.01"))
    )
    if unpriced <= answered and unbounded <= unpriced + lost and doubtful <= answered - unpriced
]  # fmt: skip


@pytest.mark.parametrize("one", EVERY)
def test_the_words_claim_what_the_bill_knows_and_no_more(one):
    words = cost_in_words(one)
    least, most = bounds(one)
    everything_known = not (one.unknown_calls or one.unpriced or one.unbounded or one.doubtful)
    assert is_whole(one) == everything_known
    assert ("nothing unknown" in words) == everything_known
    assert ("no upper bound" in words) == (most is None)
    assert ("cost is unknown" in words) == (
        one.at_least is None or (most is None and not one.at_least)
    )
    assert most is None or most in words
    assert not one.at_least or least in words
    assert bound_words(one) in words or bound_words(one).capitalize() in words
    assert "least $0.00" not in words
    assert "0 calls" not in words
    assert " 1 calls" not in words


@pytest.mark.parametrize(
    "amount", ["0.0131", "0.014001", "0.0999999", "8.4312", "123.4501", "0.00012"]
)
def test_a_bound_reads_the_same_wherever_it_is_shown(amount):
    """In the terminal, in `costs` and in the HTML report: rounded up, and to as many digits."""
    one = Bill(
        calls=1, unknown=Counter({UnknownBilling.TIMEOUT: 1}), unknown_at_most=Decimal(amount)
    )
    shown = dollars_at_most(Decimal(amount))
    assert Decimal(shown.removeprefix("$")) >= Decimal(amount)
    summary = RunSummary(
        job="j",
        origin="o",
        invocation="o",
        run_id="r",
        rows=1,
        started_at=0.0,
        elapsed_seconds=1.0,
        bill=one,
        run_bill=one,
    )
    assert f"at most {shown})" in "\n".join(summary_lines(summary))
    group = Group(keys=("total",), results=1, bill=one)
    lines = "\n".join(cost_lines(CostReport(by=(By.MODEL,), groups=(group,), total=group)))
    assert lines.count(shown) == 4, "two in the table, two in the footnotes"
    findings = Findings(Biller(PriceBook({})), [])
    findings.unknown[UnknownBilling.TIMEOUT] = one
    view = cost_view(summary, findings)
    assert view["most"] == shown
    assert view["unknown"][0][2] == f"at most {shown}"


def test_what_is_known_reads_the_same_alone_and_beside_calls_in_doubt():
    """Of two runs one was killed: what the other cost must not be more than both."""
    known = Bill(calls=1, answered=1, answers=Decimal("0.007596"))
    lost = Bill(
        calls=1, unknown=Counter({UnknownBilling.CRASH: 1}), unknown_at_most=Decimal("0.01")
    )
    both = Bill()
    both.merge(known)
    both.merge(lost)
    assert bound_words(known) == "$0.00759"
    assert bound_words(both) == "at least $0.00759, at most $0.0176"
    silent = Bill(calls=1, answered=1, answers=known.answers, tokens=Tokens(unreported=1))
    assert bound_words(silent) == "at least $0.00759, at most $0.00760"


def test_a_bound_is_rounded_up_where_it_is_the_cost_too():
    known = Bill(calls=29, answered=29, answers=Decimal("0.00148625"))
    assert bound_words(known) == "$0.00148"
    assert bounds(known) == ("$0.00148", "$0.00149")


def test_no_bound_of_zero_is_named():
    assert at_most_words(Decimal(0)) == "free of charge"
    free = Bill(calls=2, answered=1, unknown=Counter({UnknownBilling.TIMEOUT: 1}))
    assert bound_words(free) == "$0.00"
    lost = Bill(
        calls=1, unknown=Counter({UnknownBilling.CRASH: 1}), unknown_at_most=Decimal("0.01")
    )
    assert bound_words(lost) == "at most $0.0100"

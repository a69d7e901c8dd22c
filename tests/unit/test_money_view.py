"""The cost in words: true whatever is known, unknown, without a price or free."""

from collections import Counter
from decimal import Decimal
from itertools import product

import pytest

from batch_runner.bill import Bill, Tokens
from batch_runner.money_view import bounds, cost_in_words, is_whole
from batch_runner.pricing import Doubt
from batch_runner.records import UnknownBilling


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
    assert ("cost is unknown" in words) == (one.at_least is None)
    assert most is None or most in words
    assert one.at_least is None or least in words
    assert "0 calls" not in words
    assert " 1 calls" not in words

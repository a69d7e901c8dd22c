from decimal import Decimal
from random import Random

import pytest

from batch_runner.budget import Budget


def key(number):
    return number.to_bytes(16, "big")


def test_what_is_in_flight_is_set_aside():
    budget = Budget(Decimal(1))
    for number in range(10):
        assert budget.fits(Decimal("0.1"))
        budget.reserve(key(number), Decimal("0.1"))
    assert not budget.fits(Decimal("0.1"))
    budget.settle(key(0), Decimal("0.02"))
    assert not budget.fits(Decimal("0.1"))
    assert budget.fits(Decimal("0.08"))


def test_a_repeat_after_a_call_that_cost_nothing_needs_no_more_money():
    budget = Budget(Decimal("0.1"))
    budget.reserve(key(0), Decimal("0.1"))
    assert all(budget.allows(key(0), Decimal("0.1"), maybe_billed=0) for _ in range(5))


def test_a_repeat_after_a_call_that_may_have_been_billed_must_fit_too():
    budget = Budget(Decimal("0.25"))
    budget.reserve(key(0), Decimal("0.1"))
    assert budget.allows(key(0), Decimal("0.1"), maybe_billed=1)
    assert budget.reserved == Decimal("0.2")
    assert not budget.allows(key(0), Decimal("0.1"), maybe_billed=2)
    budget.settle(key(0), Decimal("0.2"))
    assert (budget.reserved, budget.in_flight) == (0, 0)


def test_the_first_call_without_a_ceiling_is_waited_for():
    budget = Budget(Decimal(1))
    assert budget.fits(None)
    budget.reserve(key(0), None)
    assert not budget.fits(None)
    budget.settle(key(0), Decimal("0.3"))
    taken = 0
    while budget.fits(None):
        taken += 1
        budget.reserve(key(taken), None)
    assert taken == 2  # each is taken to cost 0.3, as the dearest so far


def test_a_call_nobody_knows_the_cost_of_counts_as_the_dearest():
    budget = Budget(Decimal(1))
    budget.settle(key(0), Decimal("0.3"))
    budget.settle(key(1), Decimal(0), unbounded=2)
    assert budget.spent == Decimal("0.9")


@pytest.mark.parametrize("seed", range(20))
def test_calls_within_their_ceilings_never_pass_the_limit(seed):
    draw = Random(seed)
    budget, ceiling = Budget(Decimal(1)), Decimal("0.01")
    spent, flying, number = Decimal(0), {}, 0
    for _ in range(2000):
        if draw.random() < 0.6 and budget.fits(ceiling):
            number += 1
            budget.reserve(key(number), ceiling)
            flying[number] = 1
        elif flying:
            one = draw.choice(list(flying))
            if draw.random() < 0.3 and budget.allows(key(one), ceiling, maybe_billed=flying[one]):
                flying[one] += 1
            else:
                cost = ceiling * flying.pop(one)
                spent += cost
                budget.settle(key(one), cost)
    assert Decimal("0.9") < spent + budget.reserved <= 1

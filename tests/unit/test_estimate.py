from array import array
from decimal import Decimal
from random import Random

import pytest

from batch_runner.estimate import (
    Caution,
    Point,
    Range,
    _at_ranks,
    _t_quantile,
    carried_over,
    describe,
    overhead,
    project,
    sample_plan,
)


def dollars(amount):
    return f"${amount:.2f}"


def test_a_plan_takes_one_row_from_each_stratum_of_length():
    counts = array("Q", [Random(7).randrange(10_000) for _ in range(1000)])
    Random(1).shuffle(counts)
    plan = sample_plan(counts, 30, seed=1)
    ranks = {row: rank for rank, row in enumerate(sorted(range(1000), key=counts.__getitem__))}
    assert [ranks[row] * 30 // 1000 for row in plan] == pytest.approx(list(range(30)), abs=1)
    assert [counts[row] for row in plan] == sorted(counts[row] for row in plan)


def test_a_plan_is_repeatable_by_its_seed():
    counts = list(range(500))
    assert sample_plan(counts, 30, seed=1) == sample_plan(counts, 30, seed=1)
    assert sample_plan(counts, 30, seed=1) != sample_plan(counts, 30, seed=2)


@pytest.mark.parametrize(
    ("rows", "size", "taken"), [(0, 30, 0), (1, 30, 1), (7, 30, 7), (31, 30, 30)]
)
def test_a_plan_never_takes_a_row_twice(rows, size, taken):
    plan = sample_plan([5] * rows, size, seed=0)
    assert len(plan) == len(set(plan)) == taken
    assert set(plan) <= set(range(rows))


def test_every_row_can_be_drawn():
    drawn = {row for seed in range(200) for row in sample_plan([1, 2, 3, 4, 5, 6, 7], 3, seed)}
    assert drawn == set(range(7))


def test_strata_of_unequal_size_do_not_bias_the_total():
    """45 rows in 30 strata of one or two: unweighted rows would favour the strata of one."""
    amounts = [Decimal(row % 3) for row in range(45)]
    totals = [
        project([amounts[row] for row in sample_plan(range(45), 30, seed)], 45).expected
        for seed in range(2000)
    ]
    assert float(sum(totals) / len(totals)) == pytest.approx(float(sum(amounts)), rel=0.01)


def test_a_sample_of_everything_has_no_doubt_left():
    estimate = project([Decimal("0.10"), Decimal("0.25")], 2)
    assert estimate == Range(low=Decimal("0.35"), expected=Decimal("0.35"), high=Decimal("0.35"))


def test_a_range_whose_ends_read_the_same_is_told_as_one_amount():
    assert describe(project([5] * 30, 3000), dollars) == "about $15000.00"


def test_what_is_carried_over_to_the_rest_of_a_population_is_what_its_sample_left():
    amounts = [*(Decimal(n % 7 + n) for n in range(39)), Decimal(4000)]
    total = project(amounts, 1_000, row_ceiling=50)
    per_row = total.less(amounts[-1]).divided(999)
    left = carried_over(per_row, 960, sampled=40, population=1_000)
    for end in ("low", "expected", "high"):
        assert float(getattr(left, end)) == pytest.approx(
            float(getattr(total.less(sum(amounts)), end)), rel=0.001
        )


def test_fewer_rows_than_were_left_are_told_with_less_certainty_each():
    per_row = Range(low=Decimal(9), expected=Decimal(10), high=Decimal(11))
    few, many = (carried_over(per_row, n, sampled=30, population=1_000) for n in (5, 970))
    assert few.high / 5 > many.high / 970 > per_row.high


def test_a_sample_of_all_rows_gives_no_range_for_others():
    per_row = Range(low=Decimal(10), expected=Decimal(10), high=Decimal(10))
    others = carried_over(per_row, 7, sampled=30, population=30)
    assert isinstance(others, Point)
    assert others.expected == 70


def test_fewer_than_ten_rows_give_a_point_and_no_range():
    estimate = project([Decimal(1)] * 9, 90)
    assert estimate == Point(expected=Decimal(90))
    assert describe(estimate, dollars) == "about $90.00"
    assert estimate.cautions == (Caution.FEW_ROWS,)
    assert isinstance(project([Decimal(1)] * 10, 90), Range)


def test_a_range_never_goes_below_what_the_sample_itself_took():
    amounts = [0] * 29 + [3000]
    assert project(amounts, 1000).low == 3000


def test_a_trend_along_the_strata_does_not_widen_the_range():
    trend = list(range(1000, 4000, 100))
    shuffled = trend[:-1]
    Random(3).shuffle(shuffled)
    shuffled.append(trend[-1])
    even, uneven = project(trend, 5000), project(shuffled, 5000)
    assert even.expected == pytest.approx(uneven.expected, rel=Decimal("0.01"))
    assert even.high - even.expected < (uneven.high - uneven.expected) / 5


def test_identical_rows_are_certain_but_for_rows_unlike_them():
    estimate = project([5] * 30, 3000, row_ceiling=10)
    assert estimate == Range(low=Decimal(15000), expected=Decimal(15000), high=Decimal(15000))
    assert project([5] * 30, 3000).cautions == (Caution.UNSEEN_KIND,)
    assert project([5] * 30, 3000, row_ceiling=100).cautions == (Caution.UNSEEN_KIND,)


def test_wide_and_heavy_tailed_samples_are_told():
    estimate = project([10] * 28 + [1000, 10], 3000, row_ceiling=1000)
    assert {Caution.WIDE, Caution.HEAVY_TAIL} <= set(estimate.cautions)
    assert describe(estimate, dollars).startswith("likely range $1290.00 to $")


@pytest.mark.parametrize(("sampled", "population"), [([], 10), ([1, 2], 1)])
def test_a_sample_that_cannot_stand_for_the_rows_is_an_error(sampled, population):
    with pytest.raises(ValueError, match=f"{len(sampled)} sampled rows"):
        project(sampled, population)


def test_seconds_of_all_calls_are_shared_by_the_calls_at_a_time():
    assert project([2.5] * 30, 300, row_ceiling=2.5).divided(10) == Range(
        low=Decimal(75), expected=Decimal(75), high=Decimal(75)
    )
    assert project([2.5], 4).divided(2).expected == 5


@pytest.mark.parametrize(
    ("freedom", "tabulated"),
    [(9, 2.262157), (14, 2.144787), (29, 2.045230), (99, 1.984217), (10_000, 1.960201)],
)
def test_t_quantiles_agree_with_the_tables(freedom, tabulated):
    assert _t_quantile(freedom) == pytest.approx(tabulated, abs=0.0003)


def test_counts_with_the_overhead_of_all_rows_come_to_what_those_took():
    """One row that differs by more than all others does so in the total, too."""
    counted, took = [9, *[50] * 27, 758], [9, *[42] * 27, 1_400]
    assert sum(counted) + 29 * overhead(took, counted, population=29) == pytest.approx(sum(took))
    assert overhead([90, 190, 290, 390, 490], [100, 200, 300, 400, 500], population=60) == -10
    assert overhead([], [], population=29) == 0


def test_the_longest_row_of_a_sample_adds_its_difference_once():
    counted, took = [*[50] * 9, 758], [*[42] * 9, 1_400]
    of_all = overhead(took, counted, population=29)
    assert 28 * 50 + 758 + 29 * of_all == pytest.approx(28 * 42 + 1_400)


@pytest.mark.parametrize("size", [10, 15, 28])
def test_one_long_row_among_few_is_always_sampled_and_stands_for_itself(size):
    """29 rows, one of which costs as much as fifteen others."""
    draw = Random(5)
    counted = [draw.randint(40, 60) for _ in range(28)]
    counted.insert(11, 758)
    held = []
    for seed in range(100):
        plan = sample_plan(counted, size, seed)
        assert plan[-1] == 11
        found = project([counted[row] for row in plan], 29, row_ceiling=1_000)
        held.append(found.low <= sum(counted) <= found.high)
        assert found.high < 1.1 * sum(counted), "it stands for no other"
    assert sum(held) >= 85


def outputs_of(shape, seed):
    draw = Random(seed)
    counted = [round(800 * draw.lognormvariate(0, 0.8)) + 1 for _ in range(2000)]
    return counted, [round(shape(count, draw)) + 1 for count in counted]


def estimates(shape, size=30, trials=150):
    counted, outputs = outputs_of(shape, seed=11)
    for trial in range(trials):
        plan = sample_plan(counted, size, trial)
        yield project([outputs[row] for row in plan], len(outputs), row_ceiling=4096), sum(outputs)


@pytest.mark.parametrize(
    "shape",
    [
        lambda count, draw: 0.2 * count * draw.lognormvariate(0, 0.3),
        lambda count, draw: 10 * count**0.5 * draw.lognormvariate(0, 0.4),
        lambda count, draw: 300 * draw.lognormvariate(0, 0.8),
    ],
    ids=["proportional", "square root", "independent"],
)
def test_the_likely_range_holds_the_total_85_times_in_100_at_30_samples(shape):
    held = [one.low <= total <= one.high for one, total in estimates(shape)]
    assert sum(held) / len(held) >= 0.85


@pytest.mark.parametrize(
    "shape",
    [
        lambda count, draw: 500 * draw.lognormvariate(0, 1.2),
        lambda count, draw: (3000 if draw.random() < 0.05 else 100) * draw.lognormvariate(0, 0.1),
    ],
    ids=["reasoning", "bimodal"],
)
def test_heavy_tails_are_missed_only_with_a_caution(shape):
    missed = [one for one, total in estimates(shape) if not one.low <= total <= one.high]
    assert missed, "the control: these populations do escape the range"
    assert all(one.cautions for one in missed)


@pytest.mark.parametrize("seed", range(20))
def test_ranks_found_without_sorting_are_those_of_a_sort(seed):
    draw = Random(seed)
    counts = array("I", [draw.randrange(1, 30) for _ in range(draw.randrange(200))])
    by_length = sorted(range(len(counts)), key=counts.__getitem__)
    ranks = sorted(draw.sample(range(len(counts)), min(17, len(counts))))
    assert _at_ranks(counts, ranks) == [by_length[rank] for rank in ranks]

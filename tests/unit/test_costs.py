from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_runner.amounts import dollars_at_least
from batch_runner.bill import Bill
from batch_runner.costs import Alternative, By, CostReport, Group
from batch_runner.costs_report import _counts, _money, cost_csv, cost_frame, cost_json, cost_lines
from batch_runner.money_view import is_whole
from batch_runner.pricing import Doubt
from batch_runner.records import UnknownBilling


def group(*keys, dollars="0.5", **fields):
    bill = Bill(calls=2, answered=2, answers=Decimal(dollars), **fields)
    return Group(keys=keys, results=2, bill=bill)


def report(*groups, by=(By.MODEL,)):
    total = Group(keys=("total",))
    for one in groups:
        total.merge(one)
    return CostReport(by=by, groups=groups, total=total)


def test_groups_add_up_with_what_other_tiers_would_have_cost():
    one, two = group("a"), group("b")
    one.cheaper["flex"] = Alternative(usd=Decimal("0.2"), instead_of=Decimal("0.5"))
    total = report(one, two).total
    assert (total.results, total.bill.calls, total.bill.answers) == (4, 4, 1)
    assert total.cheaper == {"flex": Alternative(usd=Decimal("0.2"), instead_of=Decimal("0.5"))}
    assert one.cheaper["flex"] is not total.cheaper["flex"]


def test_a_frame_keeps_every_digit():
    frame = cost_frame(report(group("a", dollars="0.123456789012345678901")))
    assert frame["cost_usd"][0] == Decimal("0.123456789012345678901")
    assert "0.123456789012345678901" in cost_csv(
        report(group("a", dollars="0.123456789012345678901"))
    )


def test_a_report_of_nothing_is_still_a_report():
    empty = report()
    assert list(cost_lines(empty)) == ["no calls"]
    assert cost_csv(empty).startswith("model,results,calls,")
    assert cost_json(empty)["groups"] == []


def test_a_bound_is_rounded_up():
    lines = list(cost_lines(report(group("a", unknown_at_most=Decimal("0.00012301")))))
    assert lines[1].split()[-1] == "$0.500124"


def test_the_same_sum_is_rounded_the_same_way_in_the_table_and_below_it():
    one = group(
        "a",
        dollars="0.0003747",
        unknown_at_most=Decimal("0.001"),
        unknown=Counter({UnknownBilling.TIMEOUT: 1}),
    )
    one.cheaper["flex"] = Alternative(usd=Decimal("0.0001"), instead_of=Decimal("0.0003747"))
    lines = list(cost_lines(report(one)))
    assert "$0.000374" in lines[1]
    assert any(line.endswith("instead of $0.000374") for line in lines)


def test_what_cost_nothing_is_not_held_against_another_tier():
    free = group("a", dollars="0")
    free.cheaper["flex"] = Alternative()
    assert not any("flex" in line for line in cost_lines(report(free)))


def test_reasoning_that_no_attempt_reported_is_blank_and_never_zero():
    unreported = report(group("a"))
    assert _counts(unreported.total)["reasoning"] == ""
    assert cost_json(unreported)["total"]["tokens"]["reasoning"] is None
    assert cost_frame(unreported)["reasoning_tokens"][0] is None


amounts = st.decimals(min_value=0, max_value=100, places=9)


@given(st.lists(st.tuples(amounts, amounts, amounts, st.integers(0, 3)), min_size=1, max_size=30))
def test_what_a_table_shows_adds_up(bills):
    groups = [
        group(f"g{n:02}", dollars=answers, failures=failures, unknown_at_most=unknown,
              unknown=Counter({UnknownBilling.TIMEOUT: calls}))
        for n, (answers, failures, unknown, calls) in enumerate(bills)
    ]  # fmt: skip
    whole = report(*groups)
    *shown, total = _money(whole)
    digits = len(total["cost"].partition(".")[2])
    unit = Decimal(1).scaleb(-digits)
    for column, exact in (("cost", "listed"), ("failed", "failures"), ("at most", "at_most")):
        parts = [read(one[column]) for one in shown]
        assert sum(parts) == read(total[column])
        for part, one in zip(parts, groups, strict=True):
            assert abs(part - getattr(one.bill, exact)) < unit
            assert column != "at most" or part >= one.bill.at_most
    bill = whole.total.bill
    assert read(total["cost"]) <= bill.listed
    below = [line for line in cost_lines(whole) if line.startswith("in all")]
    assert bool(below) == (not is_whole(bill))
    assert all(line.endswith(f"at most {total['at most']}") for line in below)
    assert all(read(one["cost"]) <= read(one["at most"]) for one in shown)


@pytest.mark.parametrize("amount", ["0.00148625", "0.18869425", "0.0999999"])
def test_a_bound_is_never_below_the_truth_also_where_all_is_known(amount):
    for groups in ([group("a", dollars=amount)], [group(n, dollars=amount) for n in "abc"]):
        *shown, total = _money(report(*groups))
        for cells, one in zip([*shown, total], [*groups, report(*groups).total], strict=True):
            assert read(cells["cost"]) <= read(cells["at most"]) >= one.bill.listed


def test_below_the_table_sums_have_as_many_digits_as_in_it():
    """Of half a cent, and of twelve cents beside it, three digits each would differ in number."""
    lost = {"unknown": Counter({UnknownBilling.CRASH: 1}), "unknown_at_most": Decimal("0.00494")}
    told = "\n".join(cost_lines(report(group("a", dollars="0.0075", **lost))))
    assert told.count("$0.01244") == 3, "twice in the table, and in all"
    cheap = group("a", dollars="0.18869425")
    cheap.cheaper["batch"] = Alternative(
        usd=Decimal("0.094347125"), instead_of=Decimal("0.18869425")
    )
    assert "cost about $0.094 instead of $0.188" in "\n".join(cost_lines(report(cheap)))


def test_tokens_that_no_call_of_a_group_told_are_not_zero():
    lost = Bill(calls=12, unknown=Counter({UnknownBilling.TIMEOUT: 12}), unbounded=12)
    silent = Group(keys=("failed",), results=3, bill=lost)
    whole = report(silent, by=(By.STATUS,))
    assert (_counts(silent)["in"], _counts(silent)["out"]) == ("", "")
    assert cost_frame(whole)["input_tokens"][0] is None
    assert cost_csv(whole).splitlines()[1].startswith("failed,3,12,,,,,")
    assert cost_json(whole)["total"]["tokens"]["output"] is None
    refused = report(Group(keys=("failed",), results=3, bill=Bill(calls=3)))
    assert cost_json(refused)["total"]["tokens"]["input"] == 0, "it is known that they took none"


def test_results_of_edited_rows_are_explained():
    again = group("a")
    again.results, again.again = 69, 5
    [told] = [line for line in cost_lines(report(again)) if line.startswith("results")]
    assert told.endswith("64 of new requests, 5 of requests sent before")
    assert "edited" in told
    several = replace(report(group("a")), runs=2)
    [told] = [line for line in cost_lines(several) if line.startswith("results")]
    assert told.endswith(": 2 of new requests")
    assert not any(line.startswith("results") for line in cost_lines(report(group("a"))))


def test_what_rounding_leaves_of_the_bound_is_shared_too():
    told_less = {
        "doubts": Counter({Doubt.CACHE_READS_UNREPORTED: 1}),
        "perhaps_less": Decimal("0.00001"),
    }
    one, total = _money(report(group("a", dollars="0.0001875", **told_less)))
    assert (one["cost"], one["at most"]) == (total["cost"], total["at most"])
    assert read(one["at most"]) > Decimal("0.0001875")


def test_a_group_costs_what_its_own_report_says_also_beside_one_with_calls_in_doubt():
    """Rounded to three digits, each of the first two would be off so that their sum is right."""
    one, two = group("a", dollars="0.0037985"), group("b", dollars="0.0037975")
    lost = {"unknown": Counter({UnknownBilling.CRASH: 1}), "unknown_at_most": Decimal("0.002")}
    for groups in ([one, two], [one, two, group("c", dollars="0", **lost)]):
        *shown, total = _money(report(*groups))
        for each, cells in zip(groups, shown, strict=True):
            assert cells["cost"].startswith(dollars_at_least(each.bill.listed))
        assert total["cost"] == "$0.0075960"


def test_a_total_costs_what_its_report_says():
    [_, total] = _money(report(group("a", dollars="0.0999999")))
    assert (total["cost"], total["at most"]) == ("$0.0999", "$0.1000")


def read(dollars):
    return Decimal(dollars.removeprefix("$").replace(",", "") or 0)


@pytest.mark.parametrize("by", [(By.MODEL,), (By.DAY, By.JOB)])
def test_a_table_has_its_keys_first_and_its_total_last(by):
    names = ("a", "b")[: len(by)]
    lines = list(cost_lines(report(group(*names), by=by)))
    assert lines[0].split()[: len(by)] == [str(key) for key in by]
    assert lines[2].split()[0] == "total"

from decimal import Decimal

import pytest

from batch_runner.bill import Bill
from batch_runner.costs import Alternative, By, CostReport, Group
from batch_runner.costs_report import cost_csv, cost_frame, cost_json, cost_lines


def group(*keys, dollars="0.5", **fields):
    bill = Bill(calls=2, answered=2, answers=Decimal(dollars), **fields)
    return Group(keys=keys, rows=2, bill=bill)


def report(*groups, by=(By.MODEL,)):
    total = Group(keys=("total",))
    for one in groups:
        total.merge(one)
    return CostReport(by=by, groups=groups, total=total)


def test_groups_add_up_with_what_other_tiers_would_have_cost():
    one, two = group("a"), group("b")
    one.cheaper["flex"] = Alternative(usd=Decimal("0.2"), instead_of=Decimal("0.5"))
    total = report(one, two).total
    assert (total.rows, total.bill.calls, total.bill.answers) == (4, 4, 1)
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
    assert cost_csv(empty).startswith("model,rows,calls,")
    assert cost_json(empty)["groups"] == []


def test_a_bound_is_rounded_up():
    lines = list(cost_lines(report(group("a", unknown_at_most=Decimal("0.00012301")))))
    assert "$0.5002" in lines[1] or "$0.501" in lines[1]


@pytest.mark.parametrize("by", [(By.MODEL,), (By.DAY, By.JOB)])
def test_a_table_has_its_keys_first_and_its_total_last(by):
    names = ("a", "b")[: len(by)]
    lines = list(cost_lines(report(group(*names), by=by)))
    assert lines[0].split()[: len(by)] == [str(key) for key in by]
    assert lines[2].split()[0] == "total"

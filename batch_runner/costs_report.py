"""Costs as a table, as CSV, and as JSON."""

from collections.abc import Iterator, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_UP, Decimal
from typing import TYPE_CHECKING, Any

from batch_runner.amounts import count, decimals, dollars, dollars_at_least, dollars_at_most, many
from batch_runner.bill import Bill
from batch_runner.costs import CostReport, Group
from batch_runner.money_view import (
    CAUSES,
    at_most_words,
    bound_words,
    is_whole,
)


if TYPE_CHECKING:
    from pandas import DataFrame


_NOTHING = Decimal(0)


def cost_frame(report: CostReport) -> "DataFrame":
    """One row a group. Dollars are Decimal: exact, and None where unknown."""
    from pandas import DataFrame  # noqa: PLC0415 -- 1.5 s of CPU that only this command spends

    rows = [{**_keys(report, group), **_numbers(group)} for group in report.groups]
    columns = [*report.by, *_numbers(report.total)]
    return DataFrame(rows, columns=[str(column) for column in columns], dtype=object)


def cost_csv(report: CostReport) -> str:
    return str(cost_frame(report).to_csv(index=False, lineterminator="\n"))


def cost_lines(report: CostReport) -> Iterator[str]:
    """For people: a table, and below it what a table cannot say."""
    from pandas import DataFrame  # noqa: PLC0415 -- as above

    if report.groups:
        total = dict.fromkeys(map(str, report.by), "") | {str(report.by[0]): "total"}
        keys = [*(_keys(report, group) for group in report.groups), total]
        groups = [*report.groups, report.total]
        lines = [
            key | _counts(group) | money
            for key, group, money in zip(keys, groups, _money(report), strict=True)
        ]
        yield from DataFrame(lines).to_string(index=False).split("\n")
    else:
        yield "no calls"
    yield from _footnotes(report)


def cost_json(report: CostReport) -> dict[str, Any]:
    return {
        "by": [str(key) for key in report.by],
        "groups": [{**_keys(report, group), **_json(group)} for group in report.groups],
        "total": _json(report.total),
        "results_of_rows_sent_again": report.total.again,
        "notes": list(report.notes),
    }


def _keys(report: CostReport, group: Group) -> dict[str, str]:
    return {str(key): name for key, name in zip(report.by, group.keys, strict=True)}


def _numbers(group: Group) -> dict[str, Any]:
    bill, tokens = group.bill, group.bill.tokens
    tokens_in, tokens_out = bill.tokens_told
    return {
        "results": group.results,
        "calls": bill.calls,
        "input_tokens": tokens_in,
        "cached_tokens": tokens.cached,
        "output_tokens": tokens_out,
        "reasoning_tokens": tokens.reasoning,
        "cost_usd": bill.listed,
        "of_it_failed_attempts_usd": bill.failures,
        "unpriced_calls": bill.unpriced,
        "unknown_billing_calls": bill.unknown_calls,
        "cost_usd_at_least": bill.at_least,
        "cost_usd_at_most": bill.at_most,
        **{f"{tier}_usd": one.usd for tier, one in sorted(group.cheaper.items())},
    }


def _json(group: Group) -> dict[str, Any]:
    tokens = group.bill.tokens
    return {
        "results": group.results,
        **group.bill.to_json(),
        "cached_share": None
        if tokens.cached is None or not tokens.input
        else tokens.cached / tokens.input,
        "in_other_tiers": {
            tier: {"usd": float(one.usd), "instead_of_usd": float(one.instead_of)}
            for tier, one in sorted(group.cheaper.items())
        },
    }


def _counts(group: Group) -> dict[str, str]:
    bill, tokens = group.bill, group.bill.tokens
    known = tokens.cached is not None and tokens.input
    tokens_in, tokens_out = bill.tokens_told
    cached = f"{100 * (tokens.cached or 0) / tokens.input:.0f}%" if known else ""
    return {
        "results": f"{group.results:,}",
        "calls": f"{bill.calls:,}",
        "in": "" if tokens_in is None else count(tokens_in),
        "cached": cached,
        "out": "" if tokens_out is None else count(tokens_out),
        "reasoning": "" if tokens.reasoning is None else count(tokens.reasoning),
    }


def _money(report: CostReport) -> Iterator[dict[str, str]]:
    """The dollars of each group, and of all. What is shown adds up.

    The total of what is known is rounded down as everywhere, and the groups share it: each is off by
    less than one of the last digit. What they cost at most is rounded up in each.
    """
    places = _places(report)
    unit = Decimal(1).scaleb(-places)
    bills = [group.bill for group in report.groups]
    columns = []
    for parts in ([bill.listed or _NOTHING for bill in bills], [bill.failures for bill in bills]):
        whole = sum(parts, _NOTHING).quantize(unit, rounding=ROUND_DOWN)
        columns.append([*shared(whole, parts, unit), whole])
    columns.append([*(_up(bill, places) for bill in bills), _most(report, places)])
    for bill, known, wasted, bound in zip([*bills, report.total.bill], *columns, strict=True):
        price = "unknown" if bill.listed is None else f"${known:,.{places}f}"
        most = "no bound" if bill.at_most is None else f"${bound:,.{places}f}"
        yield {
            "cost": price if bill.answered else "",
            "failed": f"${wasted:,.{places}f}" if bill.failures else "",
            "unknown": f"{bill.unknown_calls:,}" if bill.unknown_calls else "",
            "at most": most if bill.answered or bill.unknown_calls else "",
        }


def _places(report: CostReport) -> int:
    """Digits behind the point of all dollars, in the table and below: as many as the smallest sum needs.

    Of several groups up to two more, so that what adding up takes stays out of those that a report
    of one of them has.
    """
    bills = [group.bill for group in report.groups or (report.total,)]
    known = [amount for bill in bills for amount in (bill.listed or _NOTHING, bill.failures)]
    above = [bill.bounded - (bill.listed or _NOTHING) for bill in bills]
    places = max(
        *(decimals(amount, ROUND_DOWN) for amount in known),
        *(decimals(amount, ROUND_UP) for amount in above),
    )
    if len(bills) > 1:
        exact = max(_exact_places(amount) for amount in [*known, *above])
        places = max(places, min(places + 2, exact))
    return places


def _up(bill: Bill, places: int) -> Decimal:
    return bill.bounded.quantize(Decimal(1).scaleb(-places), rounding=ROUND_UP)


def _most(report: CostReport, places: int) -> Decimal:
    """What all cost at most, as the bounds of the groups that are shown add up to it."""
    return sum((_up(group.bill, places) for group in report.groups), _NOTHING)


def _exact_places(amount: Decimal) -> int:
    exponent = amount.normalize().as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def shared(total: Decimal, parts: Sequence[Decimal], unit: Decimal) -> Iterator[Decimal]:
    """The total, a multiple of `unit`, in multiples of it by the size of the parts."""
    if not any(parts):  # what rounding has left is shared all the same
        parts = [Decimal(1)] * len(parts)
    whole = sum(parts, _NOTHING)
    reached = given = _NOTHING
    for part in parts:
        reached += part
        upto = (total * reached / whole).quantize(unit, rounding=ROUND_HALF_EVEN)
        yield upto - given
        given = upto


def _footnotes(report: CostReport) -> Iterator[str]:
    bill, places = report.total.bill, _places(report)
    again = report.total.again
    if again or report.runs > 1:
        before = f", {again:,} of requests sent before" if again else ""
        yield (
            "results: a row has one for each time it was sent, and makes a new request when it is "
            f"edited or the prompt changes: {report.total.results - again:,} of new requests{before}"
        )
    if bill.failures:
        yield f"failed attempts that were billed: {dollars_at_least(bill.failures, places)}, in the cost"
    if bill.unknown_calls:
        causes = ", ".join(f"{n:,} {CAUSES[cause]}" for cause, n in sorted(bill.unknown.items()))
        most = at_most_words(None if bill.unbounded else bill.unknown_at_most, places)
        calls = many(bill.unknown_calls, "call")
        yield f"unknown billing: {calls} ({causes}), {most}, not in the cost"
    if bill.unpriced:
        yield f"no price or no token count: {many(bill.unpriced, 'call')}, not in the cost"
    if bill.at_least is not None and not is_whole(bill):
        least = dollars_at_least(bill.at_least, places)
        highest = dollars_at_most(_most(report, places), places)
        yield f"in all: {bound_words(bill, (least, None if bill.at_most is None else highest))}"
    for tier, one in sorted(report.total.cheaper.items()):
        if not one.instead_of:
            continue
        digits = max(places, decimals(one.instead_of, ROUND_DOWN))  # of a part that is far smaller
        yield (
            f"in the {tier} tier these calls would have cost about {dollars(one.usd, digits)} "
            f"instead of {dollars_at_least(one.instead_of, digits)}"
        )
    for doubt, number in sorted(bill.doubts.items()):
        yield f"{many(number, 'call')}: {doubt}"
    if bill.sources:
        yield f"prices: {', '.join(sorted(bill.sources))}"
    yield from report.notes

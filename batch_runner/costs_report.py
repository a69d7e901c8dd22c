"""Costs as a table, as CSV, and as JSON."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batch_runner.costs import CostReport, Group
from batch_runner.money_view import (
    CAUSES,
    at_most_words,
    bound_words,
    bounds,
    is_whole,
    known_dollars,
)
from batch_runner.progress import count, dollars, many


if TYPE_CHECKING:
    from pandas import DataFrame


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

    shown = [_keys(report, group) | _shown(group) for group in report.groups]
    if shown:
        total = dict.fromkeys(map(str, report.by), "") | {str(report.by[0]): "total"}
        yield from (
            DataFrame([*shown, total | _shown(report.total)]).to_string(index=False).split("\n")
        )
    else:
        yield "no calls"
    yield from _footnotes(report)


def cost_json(report: CostReport) -> dict[str, Any]:
    return {
        "by": [str(key) for key in report.by],
        "groups": [{**_keys(report, group), **_json(group)} for group in report.groups],
        "total": _json(report.total),
        "notes": list(report.notes),
    }


def _keys(report: CostReport, group: Group) -> dict[str, str]:
    return {str(key): name for key, name in zip(report.by, group.keys, strict=True)}


def _numbers(group: Group) -> dict[str, Any]:
    bill, tokens = group.bill, group.bill.tokens
    return {
        "rows": group.rows,
        "calls": bill.calls,
        "input_tokens": tokens.input,
        "cached_tokens": tokens.cached,
        "output_tokens": tokens.output,
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
        "rows": group.rows,
        **group.bill.to_json(),
        "cached_share": None
        if tokens.cached is None or not tokens.input
        else tokens.cached / tokens.input,
        "in_other_tiers": {
            tier: {"usd": float(one.usd), "instead_of_usd": float(one.instead_of)}
            for tier, one in sorted(group.cheaper.items())
        },
    }


def _shown(group: Group) -> dict[str, str]:
    bill, tokens = group.bill, group.bill.tokens
    known = tokens.cached is not None and tokens.input
    cached = f"{100 * (tokens.cached or 0) / tokens.input:.0f}%" if known else ""
    return {
        "rows": f"{group.rows:,}",
        "calls": f"{bill.calls:,}",
        "in": count(tokens.input),
        "cached": cached,
        "out": count(tokens.output),
        "reasoning": "" if tokens.reasoning is None else count(tokens.reasoning),
        "cost": known_dollars(bill, bill.listed) if bill.answered else "",
        "failed": known_dollars(bill, bill.failures) if bill.failures else "",
        "unknown": f"{bill.unknown_calls:,}" if bill.unknown_calls else "",
        "at most": bounds(bill)[1] or "no bound" if bill.answered or bill.unknown_calls else "",
    }


def _footnotes(report: CostReport) -> Iterator[str]:
    bill = report.total.bill
    if bill.failures:
        yield f"failed attempts that were billed: {known_dollars(bill, bill.failures)}, in the cost"
    if bill.unknown_calls:
        causes = ", ".join(f"{n:,} {CAUSES[cause]}" for cause, n in sorted(bill.unknown.items()))
        most = at_most_words(None if bill.unbounded else bill.unknown_at_most)
        calls = many(bill.unknown_calls, "call")
        yield f"unknown billing: {calls} ({causes}), {most}, not in the cost"
    if bill.unpriced:
        yield f"no price or no token count: {many(bill.unpriced, 'call')}, not in the cost"
    if bill.at_least is not None and not is_whole(bill):
        yield f"in all: {bound_words(bill)}"
    for tier, one in sorted(report.total.cheaper.items()):
        yield (
            f"in the {tier} tier these calls would have cost {dollars(one.usd)} "
            f"instead of {dollars(one.instead_of)}"
        )
    for doubt, number in sorted(bill.doubts.items()):
        yield f"{many(number, 'call')}: {doubt}"
    if bill.sources:
        yield f"prices: {', '.join(sorted(bill.sources))}"
    yield from report.notes

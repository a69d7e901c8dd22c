"""A run in words: the lines at its end, and `batch-runner report` in the terminal."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from batch_runner.bill import Bill
from batch_runner.errors import ExitCode
from batch_runner.progress import count, dollars, duration
from batch_runner.records import RowStatus
from batch_runner.summary import RunSummary


MOST_CODES = 6


def summary_lines(summary: RunSummary) -> list[str]:
    """At most twelve lines, for people."""
    return [*_lines(summary)][:12]


def _lines(summary: RunSummary) -> Iterator[str]:
    yield _verdict(summary)
    bill = summary.bill
    if bill.calls:
        yield f"tokens   {_tokens(bill)}"
        yield f"cost     {_cost(summary)}"
    if quantiles := summary.latency_quantiles:
        words = [
            f"{name} {duration(seconds)}" for name, seconds in quantiles.items() if name != "max"
        ]
        yield f"latency  {' '.join(words)}"
    if failed := _failed(summary):
        yield f"failed   {failed}"
    for warning in summary.warnings[:3]:
        yield f"note     {warning}"
    if summary.stop_reason is not None:
        yield f"stopped  {summary.stop_reason}"
        if summary.hint:
            yield f"         {summary.hint}"
    if summary.output is not None:
        report = f"   report {summary.report}" if summary.report else ""
        yield f"output   {summary.output}{report}"
    elif summary.exit_code >= ExitCode.INTERRUPTED or summary.exit_code is ExitCode.STORAGE:
        yield f"output   not written; batch-runner export {summary.origin} writes what there is"


def _verdict(summary: RunSummary) -> str:
    statuses = summary.statuses
    ok = f"{statuses[RowStatus.OK]:,} ok"
    if summary.reused:
        ok += f" ({summary.reused:,} reused)"
    words = [ok]
    words += [
        f"{statuses[status]:,} {status}"
        for status in RowStatus
        if status is not RowStatus.OK and statuses[status]
    ]
    pace = f", {summary.rows_per_second:.1f} rows/s" if summary.sent else ""
    return (
        f"{summary.job}  {summary.rows:,} rows: {', '.join(words)}   "
        f"{duration(summary.elapsed_seconds)}{pace}"
    )


def _tokens(bill: Bill) -> str:
    tokens = bill.tokens
    cached = f" (cached {count(tokens.cached)})" if tokens.cached else ""
    reasoning = f" (reasoning {count(tokens.reasoning)})" if tokens.reasoning else ""
    unknown = f"  not reported for {tokens.unreported} calls" if tokens.unreported else ""
    return f"in {count(tokens.input)}{cached}  out {count(tokens.output)}{reasoning}{unknown}"


def _cost(summary: RunSummary) -> str:
    bill = summary.bill
    if bill.at_least is None:
        known = "unknown: no price for the model (see batch-runner prices, or add [prices])"
    else:
        known = (
            f"{dollars(bill.answers)} at list price" if bill.answered else "nothing answered yet"
        )
    extras = []
    if bill.failures:
        extras.append(f"+{dollars(bill.failures)} failed attempts")
    if bill.unpriced and bill.at_least is not None:
        extras.append(f"{bill.unpriced} calls without a price")
    if bill.unknown_calls:
        extras.append(_unknown(bill))
    earlier = ""
    if bill.calls > summary.run_bill.calls and summary.run_bill.at_least is not None:
        earlier = f"  this run {dollars(summary.run_bill.at_least)}"
    return known + (f" ({'; '.join(extras)})" if extras else "") + earlier


def _unknown(bill: Bill) -> str:
    calls = f"{bill.unknown_calls} attempt{'s' * (bill.unknown_calls != 1)} of unknown billing"
    if bill.unbounded:
        return f"{calls}, without an upper bound"
    return f"{calls}, at most {dollars(_round_up(bill.unknown_at_most))}"


def _round_up(amount: Decimal) -> Decimal:
    """A bound must not be rounded down."""
    smallest = Decimal(1).scaleb(min(amount.adjusted() - 1, -2)) if amount else Decimal("0.01")
    return amount.quantize(smallest, rounding="ROUND_UP")


def _failed(summary: RunSummary) -> str:
    codes = Counter({code: n for code, n in summary.codes.items() if code != "missing_value"})
    if skipped := summary.codes.get("missing_value", 0) - summary.statuses[RowStatus.SKIPPED]:
        codes["missing_value"] = max(skipped, 0)
    named = [f"{n:,} {code}" for code, n in codes.most_common(MOST_CODES) if n > 0]
    if not named:
        return ""
    return f"{', '.join(named)}     -> batch-runner retry {summary.origin}"

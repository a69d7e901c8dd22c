"""A run in words: the lines at its end, and `batch-runner report` in the terminal."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from batch_runner.bill import Bill
from batch_runner.errors import ExitCode
from batch_runner.findings import Findings
from batch_runner.plan import TRANSIENT
from batch_runner.printable import one_line
from batch_runner.progress import count, dollars, duration
from batch_runner.records import ErrorCode, RowStatus
from batch_runner.remedy import command, remedy
from batch_runner.summary import RunSummary


MOST_LINES = 12
MOST_CODES = 6
LONGEST_CODE = 60
LONGEST_EXAMPLE = 160


def summary_lines(summary: RunSummary) -> list[str]:
    """At most twelve lines, for people."""
    return [*_lines(summary)][:MOST_LINES]


def report_lines(summary: RunSummary, findings: Findings, *, redact: bool = False) -> list[str]:
    """The summary, and for each error an example and what to type."""
    lines = summary_lines(summary)
    for code, rows in summary.codes.most_common():
        way_out = remedy(code, summary.invocation)
        lines += ["", f"{rows:,} {one_line(code, LONGEST_CODE)}"]
        sample = findings.examples.get(code)
        if sample is not None and sample.message and not redact:
            name = sample.label or f"row {sample.row + 1:,}"
            lines.append(f"  such as  {name}: {one_line(sample.message, LONGEST_EXAMPLE)}")
        lines.append(f"  {way_out.words}: {way_out.command}")
    return lines


def _lines(summary: RunSummary) -> Iterator[str]:
    yield _verdict(summary)
    bill = summary.bill
    if bill.calls:
        yield f"tokens   {_tokens(bill)}"
        yield f"cost     {_cost(summary)}"
    if quantiles := summary.latency_quantiles:
        words = [f"{name} {duration(s)}" for name, s in quantiles.items() if name != "max"]
        yield f"latency  {'  '.join(words)}"
    if failed := _failed(summary):
        yield f"failed   {failed}"
    if (limited := summary.codes[ErrorCode.RATE_LIMITED]) and not _all_pass(summary):
        yield (
            f"note     {limited:,} rate_limited: a later run sends them again: "
            f"{command('run', summary.invocation)}"
        )
    for warning in summary.warnings[:3]:
        yield f"note     {one_line(warning, 300)}"
    if summary.stop_reason is not None:
        yield f"stopped  {one_line(summary.stop_reason, 500)}"
        if summary.hint:
            yield f"         {one_line(summary.hint, 500)}"
    if summary.output is not None:
        report = f"   report {summary.report}" if summary.report else ""
        yield f"output   {summary.output}{report}"
    elif summary.exit_code >= ExitCode.HUNG_UP or summary.exit_code is ExitCode.STORAGE:
        yield f"output   not written; {command('export', summary.invocation)} writes what there is"


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
    unknown = f"  not reported for {tokens.unreported:,} calls" if tokens.unreported else ""
    return f"in {count(tokens.input)}{cached}  out {count(tokens.output)}{reasoning}{unknown}"


def _cost(summary: RunSummary) -> str:
    bill = summary.bill
    if bill.at_least is None:
        known = "unknown: no price for the model (see batch-runner prices, or add [prices])"
    elif bill.answered:
        known = f"{dollars(bill.answers)} at list price"
    else:
        known = "nothing answered yet"
    extras = []
    if bill.failures:
        extras.append(f"+{dollars(bill.failures)} failed attempts")
    if bill.unpriced and bill.at_least is not None:
        extras.append(f"{bill.unpriced:,} calls without a price")
    if bill.unknown_calls:
        extras.append(_unknown(bill))
    earlier = ""
    if bill.calls > summary.run_bill.calls and summary.run_bill.at_least is not None:
        earlier = f"  this run {dollars(summary.run_bill.at_least)}"
    return known + (f" ({'; '.join(extras)})" if extras else "") + earlier


def _unknown(bill: Bill) -> str:
    calls = f"{bill.unknown_calls:,} attempt{'s' * (bill.unknown_calls != 1)} of unknown billing"
    if bill.unbounded:
        return f"{calls}, without an upper bound"
    return f"{calls}, at most {dollars(_round_up(bill.unknown_at_most))}"


def _round_up(amount: Decimal) -> Decimal:
    """A bound must not be rounded down."""
    smallest = Decimal(1).scaleb(min(amount.adjusted() - 1, -2)) if amount else Decimal("0.01")
    return amount.quantize(smallest, rounding="ROUND_UP")


def _failed(summary: RunSummary) -> str:
    codes = _wanting(summary)
    named = [f"{n:,} {one_line(code, LONGEST_CODE)}" for code, n in codes.most_common(MOST_CODES)]
    if not named:
        return ""
    return f"{', '.join(named)}     -> {_way_out(summary)}"


def _wanting(summary: RunSummary) -> Counter[str]:
    """Error codes of the rows without a full answer; rows left out on purpose want none."""
    codes = Counter(summary.codes)
    codes[ErrorCode.MISSING_VALUE] -= summary.statuses[RowStatus.SKIPPED]
    return +codes


def _all_pass(summary: RunSummary) -> bool:
    """Every error may pass by itself: the next run sends these rows."""
    return all(code in TRANSIENT for code in _wanting(summary))


def _way_out(summary: RunSummary) -> str:
    if _all_pass(summary):
        return f"a later run sends them again: {command('run', summary.invocation)}"
    if summary.statuses[RowStatus.FAILED]:
        return command("retry", summary.invocation)
    kinds = [s for s in (RowStatus.INCOMPLETE, RowStatus.REFUSED) if summary.statuses[s]]
    return command("retry", summary.invocation, *(w for kind in kinds for w in ("--include", kind)))

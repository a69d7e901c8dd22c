"""A run in words: the lines at its end, and `batch-runner report` in the terminal."""

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from batch_runner.amounts import commonest, dollars_at_least, duration, many, pace, tokens_in_words
from batch_runner.bill import Bill
from batch_runner.errors import ExitCode
from batch_runner.findings import Findings
from batch_runner.money_view import at_most_words, bound_words
from batch_runner.pricing import OWN_PRICE
from batch_runner.printable import one_line
from batch_runner.records import ErrorCode, RowStatus
from batch_runner.remedy import all_pass, command, remedy, way_out
from batch_runner.summary import RunSummary


MOST_LINES = 12
MOST_CODES = 6
LONGEST_CODE = 60
LONGEST_EXAMPLE = 160
MOST_EXAMPLES = MOST_CODES
"""Of errors, at the end of a run, as far as there is room; `report` has one for each."""


def summary_lines(summary: RunSummary) -> list[str]:
    """At most twelve lines, for people."""
    return _lines(summary)[:MOST_LINES]


def report_lines(summary: RunSummary, findings: Findings, *, redact: bool = False) -> list[str]:
    """The summary, and for each error an example and what to type."""
    lines = summary_lines(replace(summary, examples={}))
    for code, rows in commonest(summary.wanting):
        way_out = remedy(code, summary.invocation)
        lines += ["", f"{rows:,} {one_line(code, LONGEST_CODE)}"]
        sample = findings.examples.get(code)
        if sample is not None and sample.message:
            name = sample.label or f"row {sample.row + 1:,}"
            example = f"{name}: {sample.message}"
        else:
            example = summary.examples.get(code, "")
        if example and not redact:
            lines.append(f"  such as  {one_line(example, LONGEST_EXAMPLE)}")
        lines.append(f"  {way_out.words}: {way_out.command}")
    if skipped := skipped_words(summary):
        lines += ["", skipped]
    return lines


def skipped_words(summary: RunSummary) -> str:
    """Rows that the job leaves out on purpose; nothing when there are none."""
    skipped = summary.statuses[RowStatus.SKIPPED]
    if not skipped:
        return ""
    rows = "1 row is" if skipped == 1 else f"{skipped:,} rows are"
    return f'{rows} skipped for an empty cell, as prompt.missing = "skip" asks'


def _lines(summary: RunSummary) -> list[str]:
    head = [_verdict(summary), *_money(summary)]
    if quantiles := summary.latency_quantiles:
        words = [f"{name} {duration(s)}" for name, s in quantiles.items() if name != "max"]
        head.append(f"latency  {_THIS_RUN if _is_mixed(summary) else ''}{'  '.join(words)}")
    if summary.rate_limited_calls and summary.sent:
        head.append(f"limits   {_limits(summary)}")
    if failed := _failed(summary):
        head.append(f"{failed_name(summary.statuses)}   {failed}")
    tail = [*_end(summary)]
    notes = [*_notes(summary)]
    room = max(0, MOST_LINES - len(head) - len(tail))
    # What a note says is said nowhere else; of the errors, the column error has them all.
    examples = [*_examples(summary)][: max(1, room - len(notes))]
    return [*head, *[*examples, *notes][:room], *tail]


def _limits(summary: RunSummary) -> str:
    """What rate limits did to the run: 429s, and how the calls in flight went down for them."""
    calls, changes = summary.rate_limited_calls, summary.limit_changes
    were = "were" if calls != 1 else "was"
    words = [f"{many(calls or 0, 'call')} {were} answered 429 (too many requests)"]
    if changes:
        first, last = changes[0]["was"], changes[-1]["now"]
        lowest = min(change["now"] for change in changes)
        course = f"calls in flight went from {first:,}"
        course += f" down to {lowest:,}" if lowest < first else ""
        course += f" and up to {last:,}" if last > lowest < first else ""
        course += f" up to {last:,}" if first <= lowest < last else ""
        if not first == lowest == last:
            words.append(course)
        if rate := changes[-1]["rate"]:
            words.append(f"in the end {rate:.3g} call{'s' * (f'{rate:.3g}' != '1')} a second")
    return "; ".join(words)


def _notes(summary: RunSummary) -> Iterator[str]:
    if (limited := summary.codes[ErrorCode.RATE_LIMITED]) and not all_pass(summary.wanting):
        yield (
            f"note     {limited:,} rate_limited: a later run sends them again: "
            f"{command('run', summary.invocation)}"
        )
    for warning in summary.warnings[:3]:
        yield f"note     {one_line(warning, 300)}"


def _end(summary: RunSummary) -> Iterator[str]:
    waiting = summary.statuses[RowStatus.PENDING]
    if waiting and summary.plan is None and summary.stop_reason is None:
        left = f"{many(waiting, 'row')} not answered yet"
        yield f"pending  {left}     -> {command('run', summary.invocation)}"
    if summary.stop_reason is not None:
        yield f"stopped  {one_line(summary.stop_reason, 500)}"
        if summary.hint:
            yield f"         {one_line(summary.hint, 500)}"
    if summary.output is not None:
        report = f"   report {summary.report}" if summary.report else ""
        yield f"output   {summary.output}{report}"
    elif summary.exit_code >= ExitCode.HUNG_UP or summary.exit_code is ExitCode.STORAGE:
        yield f"output   not written; {command('export', summary.invocation)} writes what there is"


_THIS_RUN = "this run  "
_ALL_RUNS = "all runs  "
_SINCE_FRESH = "since --fresh  "
"""Of all runs, where what is put aside cost something, too: `costs` has the sum."""


def _is_mixed(summary: RunSummary) -> bool:
    """Earlier runs have made calls, too: the bill is not that of this run."""
    return summary.bill.calls > summary.run_bill.calls


def _verdict(summary: RunSummary) -> str:
    statuses = summary.statuses
    # Cut-off answers and refusals are reused as well: then it is not said of those that are ok.
    only_ok = summary.reused <= statuses[RowStatus.OK] and not (
        statuses[RowStatus.INCOMPLETE] or statuses[RowStatus.REFUSED]
    )
    ok = f"{statuses[RowStatus.OK]:,} ok"
    words = [ok + (f" ({summary.reused:,} reused)" if summary.reused and only_ok else "")]
    words += [
        f"{statuses[status]:,} {status}"
        for status in RowStatus
        if status is not RowStatus.OK and statuses[status]
    ]
    reused = f" ({many(summary.reused, 'answer')} reused)" if summary.reused and not only_ok else ""
    return (
        f"{summary.job}  {many(summary.rows, 'row')}: {', '.join(words)}{reused}   {_pace(summary)}"
    )


def _pace(summary: RunSummary) -> str:
    took = duration(summary.elapsed_seconds)
    if summary.plan is not None:
        return f"dry run: nothing was sent or written   {took}"
    if not summary.sent:
        return took
    told = f"{took}, {pace(summary.rows_per_second)}"
    if _is_mixed(summary):
        return f"this run {many(summary.sent, 'row')} in {told}"
    # Otherwise whoever divides the rows by the time gets another pace.
    return f"{many(summary.sent, 'row')} sent in {told}" if summary.sharing else told


def _money(summary: RunSummary) -> Iterator[str]:
    """Tokens and cost: once, or for this run and for all where they differ."""
    all_runs = _SINCE_FRESH if summary.put_aside else _ALL_RUNS
    bills = {_SINCE_FRESH if summary.put_aside else "": summary.bill}
    if _is_mixed(summary):
        bills = {_THIS_RUN: summary.run_bill} if summary.run_bill.calls else {}
        bills[all_runs] = summary.bill
    for title, describe in (("tokens   ", _tokens), ("cost     ", partial(_cost, summary.model))):
        words = {which: describe(bill) for which, bill in bills.items() if bill.calls}
        if describe is not _tokens and summary.bill.at_least is None:
            words = {"": describe(summary.bill)}  # what no run knows is said once
        elif len(words) > 1 and len({*words.values()}) == 1:
            words = {"": next(iter(words.values()))}
        told = [f"{which}{said}" for which, said in words.items()]
        for position, line in enumerate(told):
            yield f"{'         ' if position else title}{line}"


def _tokens(bill: Bill) -> str:
    if not bill.answered:
        return "none reported"
    return tokens_in_words(bill.tokens)


def _cost(model: str, bill: Bill) -> str:
    if bill.at_least is None:
        own = "MODEL" if "{" in model else model
        known = (
            f"unknown: no price for the model ({command('prices', shlex.quote(own))} "
            "shows how to give one)"
        )
    elif bill.answered:
        known = f"{dollars_at_least(bill.answers)}{_at_which_price(bill)}"
    else:
        known = (
            "no call told what it used"
            if bill.unknown_calls
            else "nothing: no call got so far as to cost anything"
        )
    extras = []
    if bill.failures:
        extras.append(f"+{dollars_at_least(bill.failures)} failed attempts")
    if bill.unpriced and bill.at_least is not None:
        extras.append(f"{many(bill.unpriced, 'call')} without a price")
    if bill.unknown_calls:
        most = at_most_words(None if bill.unbounded else bill.unknown_at_most)
        extras.append(f"{many(bill.unknown_calls, 'attempt')} of unknown billing, {most}")
    words = known + (f" ({'; '.join(extras)})" if extras else "")
    if bill.at_least and bill.at_most not in (None, bill.at_least):
        return f"{words}: {bound_words(bill)}"
    return f"{words}: {bound_words(bill)} in all" if bill.failures and bill.at_most else words


def _at_which_price(bill: Bill) -> str:
    if not bill.answers:  # whatever the price is called, it is none
        return ""
    own = [source.startswith(OWN_PRICE) for source in bill.sources]
    return " at the job's price" if own and all(own) else " at list price"


def failed_name(statuses: Counter[RowStatus]) -> str:
    """The name of the line of error codes: rows cut off or refused have one, too, and a status."""
    return "not ok" if statuses[RowStatus.INCOMPLETE] + statuses[RowStatus.REFUSED] else "failed"


def _failed(summary: RunSummary) -> str:
    codes = summary.wanting
    named = [f"{n:,} {one_line(code, LONGEST_CODE)}" for code, n in commonest(codes, MOST_CODES)]
    if not named:
        return ""
    return f"{', '.join(named)}     -> {_way_out(summary)}"


def _examples(summary: RunSummary) -> Iterator[str]:
    """For each of the commonest errors a row that ended so, and what helps against this one."""
    shown = _way_out(summary)
    for code, n in commonest(summary.wanting, MOST_EXAMPLES):
        if (example := summary.examples.get(code)) is None:
            continue
        way_out = remedy(code, summary.invocation).short
        seen = way_out in shown  # is said once
        named = f"{n:,} {one_line(code, LONGEST_CODE)}, such as " * (len(summary.wanting) > 1)
        arrow = "" if seen else f"  -> {way_out}"
        yield f"         {named}{one_line(example, LONGEST_EXAMPLE)}{arrow}"


def _way_out(summary: RunSummary) -> str:
    return one_line(way_out(summary.wanting, summary.statuses, summary.invocation), 500)

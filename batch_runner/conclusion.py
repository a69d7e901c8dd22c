"""The end of a run: summary, output, report, meta file and exit code, however the calls ended."""

import json
import signal
import time
from collections import Counter
from itertools import compress
from pathlib import Path

from batch_runner.amounts import commonest, many
from batch_runner.bequest import bill_of_results, leave_all, this_run
from batch_runner.bill import Bill, source_of
from batch_runner.dispatch import Dispatch
from batch_runner.emptied import keep_emptied
from batch_runner.errors import GO_ON, BatchRunnerError, ExitCode, InputError, StorageError
from batch_runner.export import Exported, export, notes_on
from batch_runner.findings import gather
from batch_runner.freshness import fresh_export, remember_export
from batch_runner.journal import RunDirectory, replay
from batch_runner.meta import read_meta, write_meta
from batch_runner.news import newly_failed, newly_left_out
from batch_runner.outset import endings_of
from batch_runner.records import WANTING
from batch_runner.remedy import command
from batch_runner.run_options import RunOptions
from batch_runner.standing import add_limits_of_before, summary_of_plan
from batch_runner.summary import RunSummary
from batch_runner.tally import Tally
from batch_runner.work import Work


_ON_PAGE = (
    "rows", "statuses", "error_codes", "duplicates", "bad_records", "bad_files",
    "damaged_journal_records", "price_source", "report", "warnings",
)  # fmt: skip
"""What a report tells besides the bill, by its name in the meta file; the rest is of one run."""


def conclude(work: Work, dispatch: Dispatch | None, options: RunOptions) -> RunSummary:
    """Output, meta file and exit code, according to how the calls ended."""
    summary = summary_of_plan(work)
    if dispatch is not None:
        _add_calls(summary, dispatch)
    else:
        add_limits_of_before(summary, work)
    storage_failed = summary.exit_code is ExitCode.STORAGE
    results = bill_of_results(work, dispatch)
    summary.bill = _whole_bill(work, results, storage_failed=storage_failed)
    if options.dry_run:
        summary.plan = None if work.prospect is None else work.prospect.to_json()
        summary.count(endings_of(work.plan, work.replay.index))
        return summary
    # Where --fresh found nothing to send, the journal is still there, and nobody has read it.
    if not storage_failed and (dispatch is not None or not options.fresh):
        leave_all(work, dispatch, results)
    stopped_by_signal = dispatch is not None and dispatch.signal_number is not None
    if not options.write_output:
        return summary
    if stopped_by_signal or summary.exit_code is ExitCode.STORAGE:
        summary.elapsed_seconds = time.time() - work.started_at
        summary.count(endings_of(work.plan, work.replay.index))
        try:
            write_meta(work.job.meta_path, summary)
        except StorageError as error:
            if summary.exit_code is not ExitCode.STORAGE:
                raise
            summary.warnings.append(str(error))
        return summary
    in_vain = "" if dispatch is None else _asked_in_vain(dispatch.tally, work)
    summary.warnings += filter(None, (in_vain, keep_emptied(work)))
    exported = fresh_export(work) if dispatch is None else None
    if exported is None:
        try:
            exported = export(work, work.job.output_path)
        except InputError as error:  # it could be read when the plan was made
            kind = StorageError if summary.sent else InputError  # exit 2 says that nothing was sent
            raise kind(
                f"{error}; the output stays as it was, and what was answered is kept",
                hint=error.hint or "run again once nobody writes to it",
            ) from error
        remember_export(work, exported)
    _add_output(summary, exported, work, options)
    summary.elapsed_seconds = time.time() - work.started_at
    if work.job.output.report is not None:
        _add_report(summary, work, Path(work.job.output.report))
    write_meta(work.job.meta_path, summary)
    return summary


def _add_report(summary: RunSummary, work: Work, path: Path) -> None:
    """The report is written; a run that sent nothing leaves the one there is, if that says the same."""
    summary.report = str(path)
    is_right = _is_newer(path, work.job.output_path) and _was_told_already(summary, work)
    if is_right and not summary.sent:
        return
    from batch_runner.html_report import write_report  # noqa: PLC0415  # only for those who want one

    runs = (*work.replay.runs, *([this_run(work)] if summary.sent else []))
    try:
        write_report(work, summary, gather(work, runs), path)
    except StorageError as error:
        # The output is there; that it has no report must not keep the meta file from saying so.
        summary.report = None
        summary.exit_code = ExitCode.STORAGE
        summary.stop_reason = str(error)


def _is_newer(page: Path, output: Path) -> bool:
    """It is of this output: not of one before, as after a run that died with all its answers."""
    return page.exists() and page.stat().st_mtime_ns >= output.stat().st_mtime_ns


def _was_told_already(summary: RunSummary, work: Work) -> bool:
    """The run before left the same numbers and notes."""
    told = read_meta(work.job.output_path)
    now = json.loads(json.dumps(summary.to_json()))
    return all(told.get(name) == now[name] for name in (*_ON_PAGE, *summary.bill.to_json()))


def _add_calls(summary: RunSummary, dispatch: Dispatch) -> None:
    tally = dispatch.tally
    summary.sent = tally.finished
    summary.run_bill = tally.bill
    summary.statuses = tally.statuses.copy()
    summary.codes = tally.codes.copy()
    summary.examples = tally.examples.told
    summary.latency_quantiles = tally.latencies.quantiles()
    summary.rate_limited_calls = dispatch.limiter.rate_limited
    summary.limit_changes = dispatch.limit_changes()
    summary.limits_of_run = summary.run_id
    reason = dispatch.drain.reason
    if dispatch.signal_number is not None and not isinstance(reason, StorageError):
        summary.exit_code = ExitCode.of_signal(dispatch.signal_number)
        summary.stop_reason = signal.Signals(dispatch.signal_number).name
        summary.hint = GO_ON
    elif isinstance(reason, BatchRunnerError):
        summary.exit_code = reason.exit_code
        summary.stop_reason = str(reason)
        summary.hint = reason.hint
    if summary.hint.endswith(GO_ON):
        summary.hint += f": {command('run', summary.invocation)}"


def _asked_in_vain(tally: Tally, work: Work) -> str:
    """Nothing in the output tells of a row that was asked again, failed, and keeps its answer."""
    sent = work.replay.index.endings(compress(work.plan.entries, work.plan.wanted))
    shown = Counter[str]()
    for (_, code), rows in sent.items():
        shown[code or ""] += rows
    codes = tally.codes - shown
    if not codes:
        return ""
    [(code, _)], failed = commonest(codes, 1), codes.total()
    keep, they = ("keeps", "it") if failed == 1 else ("keep", "they")
    is_told = codes[code] == tally.codes[code]  # else it may be of a row that has no answer to keep
    example = tally.examples.told.get(code, "") if is_told else ""
    return (
        f"{many(failed, 'row')} asked again in vain {keep} the answer {they} had: "
        f"{', '.join(f'{n:,} {name}' for name, n in commonest(codes))}{f'; {example}' * bool(example)}"
    )


def _add_output(summary: RunSummary, exported: Exported, work: Work, options: RunOptions) -> None:
    summary.statuses = exported.statuses
    summary.codes = exported.codes
    summary.examples = exported.examples.told
    summary.reused = exported.reused
    summary.formula_cells = exported.formula_cells
    summary.damaged_records = max(summary.damaged_records, exported.damaged)
    summary.output = str(work.job.output_path)
    summary.price_source = _price_source(summary.bill, work)
    summary.warnings += notes_on(exported, work)
    if summary.exit_code is ExitCode.DONE:
        if options.fail_on.only_new:
            unanswered = newly_failed(work)
        else:
            unanswered = sum(exported.statuses[status] for status in WANTING)
        is_failure = options.fail_on.is_failure(exported.damaged + unanswered, summary.rows)
        if is_failure or (not options.fail_on.never and newly_left_out(work)):
            summary.exit_code = ExitCode.ROWS_FAILED


def _price_source(bill: Bill, work: Work) -> str | None:
    """Which prices were used; those that would be while nothing has been priced."""
    return ", ".join(sorted(bill.sources)) or source_of(work.prices, {work.job.model: 1})


def _whole_bill(work: Work, results: Bill, *, storage_failed: bool) -> Bill:
    """What all runs of this journal cost, calls lost in crashes included."""
    bill = Bill()
    bill.merge(results)
    lost = work.replay.unknown
    if storage_failed or work.replay.pending:
        # This run has lost calls itself, or heard the end of some that were lost before. A result
        # that could not be stored is among them: it must not be counted twice.
        with replay(RunDirectory(work.job.run_path)) as now:
            lost = now.unknown
            bill = Bill()
            for result in now.results():
                work.biller.add(bill, result)
    for intent in lost:
        bill.merge(work.biller.bill_lost(intent, at=None))
    return bill

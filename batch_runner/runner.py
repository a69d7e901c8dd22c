"""Carries a job out: lock, journal, plan, calls, output, report. `run` and resume are one thing."""

import logging
import signal
import time
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batch_runner import __version__
from batch_runner.bill import Bill, source_of
from batch_runner.budget import Budget
from batch_runner.changes import MOST_CHANGED_SHARE, check_changes, find_changes, keep_old_answers
from batch_runner.dispatch import Dispatch
from batch_runner.errors import (
    BatchRunnerError,
    ExitCode,
    StorageError,
)
from batch_runner.expectation import recall
from batch_runner.export import Exported, export
from batch_runner.findings import gather
from batch_runner.freshness import fresh_export, remember_export
from batch_runner.job import FormulaPolicy, JobSpec
from batch_runner.jobfile import api_key, key_source
from batch_runner.journal import Journal, LockPolicy, PastRun, RunDirectory, replay
from batch_runner.logs import about
from batch_runner.plan import Dedupe, Wanted, requests, unfinished
from batch_runner.progress import Display, ProgressStyle, Snapshot, display_for
from batch_runner.records import RowResult, RowStatus
from batch_runner.remedy import command
from batch_runner.spending import budget_in_words, check_prices
from batch_runner.summary import RunSummary
from batch_runner.tally import Tally
from batch_runner.work import (
    Work,
    fingerprint,
    open_work,
    put_journal_aside,
    remember_job,
    write_json,
)


if TYPE_CHECKING:
    import httpx

log = logging.getLogger("batch_runner")

_SIGNAL_EXIT_BASE = 128


class OnChange(StrEnum):
    """`--on-change`: what happens to finished rows whose request is no longer the same."""

    GUARD = "guard"
    """They are sent, unless they are more than a fifth of the finished rows."""
    RERUN = "rerun"
    KEEP = "keep"
    """Their old answers stay."""
    FAIL = "fail"
    """Nothing is sent if there is a single one."""


@dataclass(frozen=True, slots=True)
class FailOn:
    """`--fail-on`: the share of rows without a full answer from which on the exit code is 3."""

    share: float = 0.0
    never: bool = False

    def is_failure(self, unanswered: int, rows: int) -> bool:
        return not self.never and unanswered > self.share * rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to carry a job out, besides what the job itself says."""

    limit: int | None = None
    """At most so many new rows."""
    fresh: bool = False
    """The journal of earlier runs is put aside, and every row is sent."""
    on_change: OnChange = OnChange.GUARD
    fail_on: FailOn = field(default_factory=FailOn)
    dry_run: bool = False
    if_locked: LockPolicy = LockPolicy.FAIL
    wanted: Wanted = unfinished
    """Which rows to send, by what the journal says of them."""
    rows: frozenset[int] | None = None
    """Of those, only the rows with these indices."""
    dedupe: Dedupe | None = None
    """None: as the last run of the job was told."""
    write_output: bool = True
    """False leaves the results in the journal, for a later run to export."""
    progress: ProgressStyle = ProgressStyle.AUTO
    handle_signals: bool = True
    signals: AsyncIterable[int] | None = None
    """Instead of those of the process: Ctrl-C of another thread."""
    on_begin: Callable[[], None] | None = None
    """Called once the lock is held and the plan is made, before the first call."""
    transport: "httpx.AsyncBaseTransport | None" = None
    """Instead of the real network, for tests."""
    on_result: Callable[[RowResult], None] | None = None
    """Called in the loop with each row that ended, once it is stored; it had better be quick."""


_DEFAULTS = RunOptions()


def run(job: JobSpec, options: RunOptions = _DEFAULTS) -> RunSummary:
    """The job has been carried out as far as it goes: rows sent, output and meta file written.

    Never raises for rows that fail, limits or signals: the summary tells. Raises UsageError before
    anything is sent, LockedError, and StorageError when the output cannot be written.
    """
    with _prepared(job, options) as (work, dispatch):
        if dispatch is not None:
            anyio.run(dispatch.send_or_note)
        return _conclude(work, dispatch, options)


async def run_async(job: JobSpec, options: RunOptions = _DEFAULTS) -> RunSummary:
    """`run` inside an event loop that is already running, as in a notebook."""
    context = _prepared(job, options)
    work, dispatch = await anyio.to_thread.run_sync(context.__enter__)
    try:
        if dispatch is not None:
            await dispatch.send_or_note()
        return await anyio.to_thread.run_sync(_conclude, work, dispatch, options)
    finally:
        context.__exit__(None, None, None)


@contextmanager
def _prepared(job: JobSpec, options: RunOptions) -> Iterator[tuple[Work, Dispatch | None]]:
    """Everything that can go wrong before money is spent has gone well; the lock is held."""
    key = None if options.dry_run else api_key(job)
    directory = RunDirectory(job.run_path)
    lock = None if options.dry_run else options.if_locked
    with (
        open_work(
            job, wanted=options.wanted, lock=lock, fresh=options.fresh, dedupe=options.dedupe
        ) as work,
        about(log, job=job.name, run_id=work.run_id),
    ):
        done = work.plan.not_wanted
        if options.rows is not None:
            work.plan.keep_only(options.rows)
        _apply_changes(work, options)
        if options.limit is not None:
            work.plan.keep_first(options.limit)
        _log_plan(work, done=done)
        if options.on_begin is not None and not options.dry_run:
            options.on_begin()
        if options.dry_run:
            yield work, None
            return
        budget = _budget(work) if work.plan.to_send else None
        if options.fresh:
            put_journal_aside(work)
        if not work.plan.to_send:
            if options.dedupe is not None:
                remember_job(work)
            yield work, None
            return
        remember_job(work)
        yield work, _dispatch(work, directory, options, key=key, budget=budget)


def _dispatch(
    work: Work,
    directory: RunDirectory,
    options: RunOptions,
    *,
    key: str | None,
    budget: Budget | None,
) -> Dispatch:
    job = work.job

    def open_journal(on_failure: Callable[[BatchRunnerError], None]) -> Journal:
        return Journal(
            directory,
            run_id=work.run_id,
            durability=job.output.durability,
            index=work.replay.index,
            settings=_journal_settings(job),
            on_failure=on_failure,
        )

    def display(first: Snapshot) -> Display:
        return display_for(options.progress, first, log=log, clock=time.monotonic)

    url = job.endpoint.base_url
    fields = {
        "gen_ai.request.model": job.model,
        "server.address": url,
        "to_send": work.plan.to_send,
    }
    extra = {"event": "run_start", "fields": fields}
    log.info("%s at %s, %s", job.model, url, key_source(job, key), extra=extra)
    return Dispatch(
        job=job,
        requests=requests(work.plan, work.table, work.builder, work.replay.index),
        to_send=work.plan.to_send,
        done_before=work.plan.rows - work.plan.to_send,
        key=key,
        shares_model=work.builder.shares_model,
        biller=work.biller,
        tally=Tally(work.biller),
        budget=budget,
        expectation=recall(job.run_path, fingerprint=fingerprint(job)),
        open_journal=open_journal,
        schema=work.schema,
        pending=work.replay.pending,
        transport=options.transport,
        handle_signals=options.handle_signals,
        signals=options.signals,
        display=display,
        on_result=options.on_result,
        log=log,
    )


def _journal_settings(job: JobSpec) -> dict[str, str]:
    return {"model": job.model, "base_url": job.endpoint.base_url}


def _apply_changes(work: Work, options: RunOptions) -> None:
    if options.on_change is OnChange.RERUN:
        return
    changes = find_changes(
        work.plan, work.table, work.builder, work.replay, same_prompt=work.same_prompt
    )
    if options.on_change is OnChange.KEEP:
        keep_old_answers(work.plan, changes)
        return
    most = 0.0 if options.on_change is OnChange.FAIL else MOST_CHANGED_SHARE
    check_changes(changes, origin=work.job.origin, most_share=most)


def _budget(work: Work) -> Budget | None:
    limit = work.job.limits.max_cost
    if limit is None:
        return None
    to_send = requests(work.plan, work.table, work.builder, work.replay.index)
    # Rows built from one template differ in what only reading all of them shows, if they do at all.
    sample = islice(to_send, 1) if work.builder.is_uniform else to_send
    is_bounded = check_prices(sample, work.biller, origin=work.job.origin)
    log.info("%s", budget_in_words(limit, is_bounded=is_bounded), extra={"event": "budget"})
    return Budget(limit)


def _log_plan(work: Work, *, done: int) -> None:
    plan = work.plan
    words = [f"{plan.rows:,} rows", f"{plan.to_send:,} to send"]
    if done:
        words.append(f"{done:,} done before")
    if left := plan.not_wanted - done:
        words.append(f"{left:,} left for later")
    if plan.duplicates:
        shared = ", answered by one call" if plan.dedupe else ""
        words.append(f"{plan.duplicates:,} ask for the same as another{shared}")
    if plan.unsendable.total():
        words.append(f"{plan.unsendable.total():,} without a request (empty or unusable cells)")
    log.info("%s: %s", work.job.name, ", ".join(words), extra={"event": "plan"})


def _conclude(work: Work, dispatch: Dispatch | None, options: RunOptions) -> RunSummary:
    """Output, meta file and exit code, according to how the calls ended."""
    summary = _summary_of_plan(work)
    if dispatch is not None:
        _add_calls(summary, dispatch)
    storage_failed = summary.exit_code is ExitCode.STORAGE
    summary.bill = _whole_bill(work, storage_failed=storage_failed)
    stopped_by_signal = dispatch is not None and dispatch.signal_number is not None
    if options.dry_run or not options.write_output:
        return summary
    if stopped_by_signal or summary.exit_code is ExitCode.STORAGE:
        summary.elapsed_seconds = time.time() - work.started_at
        try:
            write_json(work.job.meta_path, summary.to_json())
        except StorageError as error:
            if summary.exit_code is not ExitCode.STORAGE:
                raise
            summary.warnings.append(str(error))
        return summary
    exported = fresh_export(work) if dispatch is None else None
    if exported is None:
        exported = export(work, work.job.output_path)
        remember_export(work, exported)
    _add_output(summary, exported, work, options)
    summary.elapsed_seconds = time.time() - work.started_at
    if work.job.output.report is not None:
        _add_report(summary, work, Path(work.job.output.report))
    write_json(work.job.meta_path, summary.to_json())
    return summary


def _add_report(summary: RunSummary, work: Work, path: Path) -> None:
    """The report is written; a run that sent nothing leaves the one there is."""
    summary.report = str(path)
    if not summary.sent and path.exists():
        return
    from batch_runner.html_report import write_report  # noqa: PLC0415  # only for those who want one

    runs = (*work.replay.runs, *([_this_run(work)] if summary.sent else []))
    try:
        write_report(work, summary, gather(work, runs), path)
    except StorageError as error:
        # The output is there; that it has no report must not keep the meta file from saying so.
        summary.report = None
        summary.exit_code = ExitCode.STORAGE
        summary.stop_reason = str(error)


def _this_run(work: Work) -> PastRun:
    """As the journal will tell of it from now on."""
    return PastRun(
        run_id=work.run_id,
        started_at=work.started_at,
        tool_version=__version__,
        settings=_journal_settings(work.job),
        ended_cleanly=True,
    )


def _summary_of_plan(work: Work) -> RunSummary:
    plan = work.plan
    return RunSummary(
        job=work.job.name,
        origin=work.job.origin,
        run_id=work.run_id,
        started_at=work.started_at,
        elapsed_seconds=time.time() - work.started_at,
        rows=plan.rows,
        duplicates=plan.duplicates,
        bad_records=plan.bad_count,
        bad_places=[record.place for record in plan.bad],
        damaged_records=sum(not place.is_expected for place in work.replay.damage),
        warnings=list(work.warnings),
    )


def _add_calls(summary: RunSummary, dispatch: Dispatch) -> None:
    tally = dispatch.tally
    summary.sent = tally.finished
    summary.run_bill = tally.bill
    summary.statuses = tally.statuses.copy()
    summary.codes = tally.codes.copy()
    summary.latency_quantiles = tally.latencies.quantiles()
    summary.rate_limited_calls = dispatch.limiter.rate_limited
    summary.limit_changes = dispatch.limit_changes()
    reason = dispatch.drain.reason
    if dispatch.signal_number is not None and not isinstance(reason, StorageError):
        summary.exit_code = ExitCode(_SIGNAL_EXIT_BASE + dispatch.signal_number)
        summary.stop_reason = signal.Signals(dispatch.signal_number).name
        summary.hint = f"run again to go on: {command('run', summary.origin)}"
    elif isinstance(reason, BatchRunnerError):
        summary.exit_code = reason.exit_code
        summary.stop_reason = str(reason)
        summary.hint = reason.hint


def _add_output(summary: RunSummary, exported: Exported, work: Work, options: RunOptions) -> None:
    summary.statuses = exported.statuses
    summary.codes = exported.codes
    summary.reused = exported.reused
    summary.formula_cells = exported.formula_cells
    summary.damaged_records = max(summary.damaged_records, exported.damaged)
    summary.output = str(work.job.output_path)
    summary.price_source = _price_source(summary.bill, work)
    if exported.formula_cells and work.job.output.csv_formulas is FormulaPolicy.KEEP:
        summary.warnings.append(
            f"{exported.formula_cells:,} cells begin like a spreadsheet formula; "
            'csv_formulas = "escape" under [output] defuses them'
        )
    if summary.exit_code is ExitCode.DONE:
        unanswered = sum(
            exported.statuses[status]
            for status in (RowStatus.FAILED, RowStatus.REFUSED, RowStatus.INCOMPLETE)
        )
        if options.fail_on.is_failure(unanswered, summary.rows):
            summary.exit_code = ExitCode.ROWS_FAILED


def _price_source(bill: Bill, work: Work) -> str | None:
    """Which prices were used; those that would be while nothing has been priced."""
    return ", ".join(sorted(bill.sources)) or source_of(work.prices, {work.job.model: 1})


def _whole_bill(work: Work, *, storage_failed: bool) -> Bill:
    """What all runs of this journal cost, calls lost in crashes included."""
    bill = Bill()
    for result in work.replay.results():
        bill.merge(work.biller.bill(result))
    lost = work.replay.unknown
    if storage_failed or work.replay.pending:
        # This run has lost calls itself, or heard the end of some that were lost before.
        with replay(RunDirectory(work.job.run_path)) as now:
            lost = now.unknown
    for intent in lost:
        bill.merge(work.biller.bill_lost(intent, at=None))
    return bill

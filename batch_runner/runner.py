"""Carries a job out: lock, journal, plan, calls, output, report. `run` and resume are one thing."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import anyio
import anyio.to_thread
import httpx

from batch_runner.bill import Bill, is_priced, source_of
from batch_runner.budget import Budget
from batch_runner.changes import MOST_CHANGED_SHARE, check_changes, find_changes, keep_old_answers
from batch_runner.dispatch import Dispatch
from batch_runner.errors import (
    BatchRunnerError,
    ExitCode,
    UsageError,
)
from batch_runner.export import Exported, export
from batch_runner.job import JobSpec
from batch_runner.jobfile import api_key
from batch_runner.journal import Journal, LockPolicy, RunDirectory
from batch_runner.plan import UNSENDABLE, Wanted, requests, unfinished
from batch_runner.progress import Display, ProgressStyle, Snapshot, display_for
from batch_runner.records import RowResult, RowStatus, UnknownBilling
from batch_runner.signals import raise_on_signals
from batch_runner.summary import RunSummary
from batch_runner.tally import Tally
from batch_runner.work import Work, open_work, remember_job, write_json


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
    progress: ProgressStyle = ProgressStyle.AUTO
    handle_signals: bool = True
    transport: httpx.AsyncBaseTransport | None = None
    """Instead of the real network, for tests."""
    on_result: Callable[[RowResult], None] | None = None


_DEFAULTS = RunOptions()


def run(job: JobSpec, options: RunOptions = _DEFAULTS) -> RunSummary:
    """The job has been carried out as far as it goes: rows sent, output and meta file written.

    Never raises for rows that fail, limits or signals: the summary tells. Raises UsageError before
    anything is sent, LockedError, and StorageError when the output cannot be written.
    """
    with _prepared(job, options) as (work, dispatch):
        if dispatch is not None:
            anyio.run(dispatch.send_or_note)
            if options.handle_signals:
                raise_on_signals()
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
    with open_work(job, wanted=options.wanted, lock=options.if_locked, fresh=options.fresh) as work:
        _apply_changes(work, options)
        if options.limit is not None:
            _keep_first(work.plan.wanted, options.limit)
        _log_plan(work)
        if options.dry_run or not work.plan.to_send:
            yield work, None
            return
        budget = _budget(work)
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
            settings={"model": job.model, "base_url": job.endpoint.base_url},
            on_failure=on_failure,
        )

    def display(first: Snapshot) -> Display:
        return display_for(options.progress, first, log=log, clock=time.monotonic)

    auth = "no key" if key is None else f"key from {job.endpoint.api_key_env or 'OPENAI_API_KEY'}"
    log.info("%s at %s, %s", job.model, job.endpoint.base_url, auth)
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
        open_journal=open_journal,
        schema=work.schema,
        transport=options.transport,
        handle_signals=options.handle_signals,
        display=display,
        on_result=options.on_result,
        log=log,
    )


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


def _keep_first(wanted: bytearray, limit: int) -> None:
    """Only the first `limit` wanted rows stay wanted."""
    position = -1
    for _ in range(limit):
        position = wanted.find(1, position + 1)
        if position < 0:
            return
    rest = len(wanted) - position - 1
    wanted[position + 1 :] = bytes(rest)


def _budget(work: Work) -> Budget | None:
    limits = work.job.limits
    if limits.max_cost is None:
        return None
    if work.builder.shares_model and not is_priced(work.prices, work.job.model):
        raise UsageError(
            f"{work.job.origin}: limits.max_cost: no price is known for {work.job.model!r}, so the "
            "limit could not be kept",
            hint=f'add [prices."{work.job.model}"] with input and output, or drop max_cost',
        )
    return Budget(limits.max_cost)


def _log_plan(work: Work) -> None:
    plan = work.plan
    words = [f"{plan.rows:,} rows", f"{plan.to_send:,} to send"]
    done = plan.rows - plan.to_send - plan.unsendable.total()
    if done:
        words.append(f"{done:,} done before")
    if plan.duplicates:
        words.append(f"{plan.duplicates:,} ask for the same as another")
    if plan.unsendable.total():
        words.append(f"{plan.unsendable.total():,} without a request (empty or unusable cells)")
    log.info("%s: %s", work.job.name, ", ".join(words), extra={"event": "plan"})


def _conclude(work: Work, dispatch: Dispatch | None, options: RunOptions) -> RunSummary:
    """Output, meta file and exit code, according to how the calls ended."""
    summary = _summary_of_plan(work)
    if dispatch is not None:
        _add_calls(summary, dispatch)
    summary.bill = _whole_bill(work)
    stopped_by_signal = dispatch is not None and dispatch.signal_number is not None
    if options.dry_run:
        return summary
    if stopped_by_signal or summary.exit_code is ExitCode.STORAGE:
        summary.elapsed_seconds = time.time() - work.started_at
        write_json(work.job.meta_path, summary.to_json())
        return summary
    exported = export(work, work.job.output_path)
    _add_output(summary, exported, work, options)
    summary.elapsed_seconds = time.time() - work.started_at
    write_json(work.job.meta_path, summary.to_json())
    return summary


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
        damaged_records=len(work.replay.damage),
        warnings=list(work.warnings),
    )


def _add_calls(summary: RunSummary, dispatch: Dispatch) -> None:
    tally = dispatch.tally
    summary.sent = tally.finished
    summary.run_bill = tally.bill
    summary.statuses = tally.statuses.copy()
    summary.codes = tally.codes.copy()
    latencies = tally.latencies
    if latencies.bins:
        summary.latency_quantiles = {
            f"p{percent}": round(latencies.quantile(percent / 100) or 0.0, 3)
            for percent in (50, 90, 99)
        } | {"max": round(latencies.longest_seconds, 3)}
    reason = dispatch.drain.reason
    if dispatch.signal_number is not None:
        summary.exit_code = ExitCode(_SIGNAL_EXIT_BASE + dispatch.signal_number)
        summary.stop_reason = f"signal {dispatch.signal_number}"
        summary.hint = f"run again to go on: batch-runner run {summary.origin}"
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
    summary.price_source = source_of(work.prices, {work.job.model: 1})
    if exported.formula_cells and work.job.output.csv_formulas == "keep":
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


def summarize(job: JobSpec) -> RunSummary:
    """The state of a job according to input and journal, at any time; nothing is sent or written."""
    with open_work(job) as work:
        summary = _summary_of_plan(work)
        summary.bill = _whole_bill(work)
        summary.statuses.update(work.plan.unsendable)
        for entry_number in work.plan.entries:
            if entry_number == UNSENDABLE:
                continue
            entry = work.replay.index.entry(entry_number)
            summary.statuses[entry.status if entry else RowStatus.PENDING] += 1
            if entry is not None and entry.code:
                summary.codes[entry.code] += 1
        summary.price_source = source_of(work.prices, {job.model: 1})
        if job.output_path.exists():
            summary.output = str(job.output_path)
        return summary


def _whole_bill(work: Work) -> Bill:
    """What all runs of this journal cost, calls lost in crashes included."""
    bill = Bill()
    for result in work.replay.results():
        work.biller.add(bill, result)
    for intent in work.replay.unknown:
        bill.calls += 1
        work.biller.add_unknown(
            bill,
            UnknownBilling.CRASH,
            attempts=1,
            model=intent.model,
            request_bytes=intent.request_bytes,
            max_output_tokens=intent.max_output_tokens,
            at=None,
        )
    return bill

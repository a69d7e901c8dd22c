"""Carries a job out: lock, journal, plan, calls, and how it ends. `run` and resume are one thing."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import anyio
import anyio.to_thread

from batch_runner.amounts import many
from batch_runner.api_key import api_key, key_source
from batch_runner.bequest import leave_plan
from batch_runner.budget import Budget
from batch_runner.changes import MOST_CHANGED_SHARE, changed_rows
from batch_runner.conclusion import conclude
from batch_runner.dispatch import Dispatch
from batch_runner.emptied import check_records_are_readable
from batch_runner.errors import BatchRunnerError, UsageError
from batch_runner.expectation import recall
from batch_runner.fingerprint import fingerprint
from batch_runner.guard import check_budget, check_paid_rows, check_route
from batch_runner.job import JobSpec
from batch_runner.journal import Journal, RunDirectory
from batch_runner.logs import about
from batch_runner.news import endings_to_send
from batch_runner.opening import SAME_FOR_ALL, open_work
from batch_runner.origins import other_endpoints
from batch_runner.parameters import notes as parameter_notes
from batch_runner.plan import UNSENDABLE, Plan, unfinished
from batch_runner.progress import Display, Snapshot, display_for
from batch_runner.prospect import prospect_of
from batch_runner.reask import MORE_ROOM
from batch_runner.records import RowStatus
from batch_runner.run_options import OnChange, RunOptions
from batch_runner.spending import budget_in_words
from batch_runner.summary import RunSummary
from batch_runner.tally import Tally
from batch_runner.work import Work, journal_settings, remember_job


log = logging.getLogger("batch_runner")

_DEFAULTS = RunOptions()
_KEEP = {OnChange.KEEP: True, OnChange.GUARD: None}
"""Whether changed rows keep their answers; None: as the last run was told."""


def run(job: JobSpec, options: RunOptions = _DEFAULTS) -> RunSummary:
    """The job has been carried out as far as it goes: rows sent, output and meta file written.

    Never raises for rows that fail, limits or signals: the summary tells. Raises UsageError before
    anything is sent, LockedError, and StorageError when the output cannot be written.
    """
    with _prepared(job, options) as (work, dispatch):
        if dispatch is not None:
            anyio.run(dispatch.send_or_note)
        return conclude(work, dispatch, options)


async def run_async(job: JobSpec, options: RunOptions = _DEFAULTS) -> RunSummary:
    """`run` inside an event loop that is already running, as in a notebook."""
    context = _prepared(job, options)
    work, dispatch = await anyio.to_thread.run_sync(context.__enter__)
    try:
        if dispatch is not None:
            await dispatch.send_or_note()
        return await anyio.to_thread.run_sync(conclude, work, dispatch, options)
    finally:
        context.__exit__(None, None, None)


@contextmanager
def _prepared(job: JobSpec, options: RunOptions) -> Iterator[tuple[Work, Dispatch | None]]:
    """Everything that can go wrong before money is spent has gone well; the lock is held."""
    key = None if options.dry_run else _key(job, options)
    directory = RunDirectory(job.run_path)
    lock = None if options.dry_run else options.if_locked
    with (
        open_work(
            job,
            wanted=options.wanted,
            lock=lock,
            fresh=options.fresh,
            dedupe=options.dedupe,
            keep=_KEEP.get(options.on_change, False),
            may_repay=options.on_change is OnChange.RERUN,
        ) as work,
        about(log, job=job.name, run_id=work.run_id),
    ):
        _settle(work, options)
        if options.on_begin is not None and not options.dry_run:
            options.on_begin()
        if options.dry_run:
            yield work, None
            return
        if work.plan.to_send and options.transport is None:
            check_route(job)
        budget = _budget(work) if work.plan.to_send else None
        if not work.plan.to_send:
            if options.fresh:
                work.warnings.append("--fresh has no row to send: the journal stays as it is")
            said = options.dedupe is not None or work.kept is not None
            if said or work.new_damage or work.was_moved:
                remember_job(work)
            if not options.fresh:
                leave_plan(work)
            yield work, None
            return
        if options.fresh:
            directory.put_aside(run_id=work.run_id)
        # First: the shortcut of before may be all that tells of what is lost.
        remember_job(work)
        if not options.fresh:
            leave_plan(work)
        yield work, _dispatch(work, directory, options, key=key, budget=budget)


def _key(job: JobSpec, options: RunOptions) -> str | None:
    """The key to send. Without one the run would not start: what else is wrong is told first.

    A key is more trouble to get than a file name or a template is to mend.
    """
    try:
        return api_key(job)
    except UsageError as error:
        missing = error
    with open_work(job, fresh=options.fresh, dedupe=options.dedupe):
        raise missing


def _settle(work: Work, options: RunOptions) -> None:
    """Which rows are sent is settled, and told."""
    if options.rows is not None:
        work.plan.keep_only(options.rows)
    changed = _changed(work, options)
    if options.limit is not None:
        work.plan.keep_first(options.limit)
    work.prospect = prospect_of(work.plan, work.replay, changed=changed, wanted=options.wanted)
    if options.fail_on.only_new:
        work.endings_before = endings_to_send(work)
    work.warnings += filter(None, [other_endpoints(work)])
    extra = {"event": "plan", "fields": work.prospect.to_json()}
    anew = "; nothing is reused, as --fresh says" if options.fresh else ""
    log.info("%s: %s%s", work.job.name, work.prospect.words(), anew, extra=extra)
    if cut := work.cut_before:
        log.info(
            "%s cut off before: asked with %d times the max_output_tokens of then",
            many(cut, "row"), MORE_ROOM, extra={"event": "more_room"},
        )  # fmt: skip
    if work.plan.to_send:
        _note_parameters(work.job)
        if SAME_FOR_ALL in work.warnings and not options.dry_run:
            # At the end it is said, too, but then each row has been paid for.
            log.warning("note: %s", SAME_FOR_ALL, extra={"event": "note"})


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
            settings=journal_settings(job),
            started_at=work.started_at,
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
    log.info("%s at %s, %s", job.model_in_words, url, key_source(job, key), extra=extra)
    return Dispatch(
        job=job,
        requests=work.requests(),
        to_send=work.plan.to_send,
        done_before=_done_before(work),
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


def _done_before(work: Work) -> int:
    """Rows that have ended and are not sent now; what is left for a later run is not done.

    Rows that take the answer of an equal row are counted nowhere: the pace is that of calls.
    """
    plan, index = work.plan, work.replay.index
    left = index.endings(
        entry
        for row, (entry, is_wanted) in enumerate(zip(plan.entries, plan.wanted, strict=True))
        if not is_wanted and entry != UNSENDABLE and not plan.is_copy(row)
    )
    later = sum(n for (status, code), n in left.items() if unfinished(status, code))
    return plan.rows - plan.copies - plan.to_send - later


def _changed(work: Work, options: RunOptions) -> Collection[int]:
    """The changed rows that are to be sent. Raises ChangedRowsError where that must not be."""
    if options.on_change is not OnChange.RERUN:
        check_records_are_readable(work)
    if options.fresh:
        return ()
    if options.on_change is OnChange.RERUN:
        return changed_rows(work)
    # Rows that `retry` does not send can have changed all the same, and would lose their answers.
    plan = work.plan if options.wanted is unfinished else unanswered(work)
    most = 0.0 if options.on_change is OnChange.FAIL else MOST_CHANGED_SHARE
    changes = check_paid_rows(work, plan, most_share=most)
    return changes.rows if plan is work.plan else ()


def unanswered(work: Work) -> Plan:
    """The plan of a run that sends every row without a result, whatever this one sends."""
    plan = replace(work.plan)
    plan.choose(work.replay.index, lambda status, _code: status is RowStatus.PENDING)
    return plan


def _note_parameters(job: JobSpec) -> None:
    for note in parameter_notes(job.request, is_whole=job.prompt.body is None):
        log.warning("note: %s", note, extra={"event": "note"})


def _budget(work: Work) -> Budget | None:
    limit = work.job.limits.max_cost
    if limit is None:
        return None
    is_bounded = check_budget(work)
    log.info("%s", budget_in_words(limit, is_bounded=is_bounded), extra={"event": "budget"})
    return Budget(limit)

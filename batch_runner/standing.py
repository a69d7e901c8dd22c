"""How a job stands at any time, by its input and its journal: a summary without a run."""

import time
from dataclasses import replace

from batch_runner.asked import first_without
from batch_runner.bill import source_of
from batch_runner.changes import other_model, refused
from batch_runner.errors import GO_ON, ChangedRowsError
from batch_runner.findings import Findings
from batch_runner.guard import check_paid_rows
from batch_runner.invocation import meant_by
from batch_runner.journal import RunDirectory, is_locked
from batch_runner.meta import limits_told, read_meta
from batch_runner.outset import endings_of, places_of
from batch_runner.records import RowStatus
from batch_runner.remedy import command
from batch_runner.summary import RunSummary
from batch_runner.work import Work


def summary_of_plan(work: Work) -> RunSummary:
    """What input, journal and plan tell before a call is made."""
    plan = work.plan
    return RunSummary(
        job=work.job.name,
        origin=work.job.origin,
        invocation=work.job.invocation,
        model=work.job.model,
        run_id=work.run_id,
        started_at=work.started_at,
        elapsed_seconds=time.time() - work.started_at,
        rows=plan.rows,
        duplicates=plan.duplicates,
        sharing=plan.copies,
        put_aside=len(RunDirectory(work.job.run_path).put_aside_by()),
        bad_records=plan.bad_count,
        bad_places=[record.place for record in plan.bad],
        bad_files=[file.reason for file in work.table.left_out],
        damaged_records=len(places_of(work.damage)),
        warnings=list(work.warnings),
    )


def standing(work: Work, findings: Findings) -> RunSummary:
    """The summary that a run would give if it ended now without a call; times are those of all runs."""
    courses = findings.courses
    started, last = courses[0].started_at, courses[-1].run
    summary = replace(
        summary_of_plan(work),
        invocation=meant_by(work.job, work.before),
        run_id=work.run_id if last is None else last.run_id,
        started_at=work.started_at if started is None else started,
        elapsed_seconds=sum(course.seconds for course in courses),
        sent=sum(course.rows for course in courses),
        bill=findings.bill(),
        run_bill=findings.bill(),
        price_source=source_of(work.prices, {work.job.model: 1}),
        latency_quantiles=findings.latencies.quantiles(),
    )
    summary.count(endings_of(work.plan, work.replay.index))
    summary.examples = first_without(work)
    refusal, note = _would_refuse(work), other_model(work)
    summary.warnings[:0] = filter(None, (refusal, "" if note in refusal else note))
    if left := findings.left_over:
        results = (
            "1 result is of a prompt or row"
            if left == 1
            else f"{left:,} results are of prompts or rows"
        )
        summary.warnings.append(
            f"{results} that the job no longer has; "
            f"{'its' if left == 1 else 'their'} tokens and cost are counted"
        )
    if is_locked(RunDirectory(work.job.run_path)):
        summary.warnings.append(
            "a run is going on: its calls in flight count as billing unknown until they end"
        )
    if work.job.output_path.exists():
        summary.output = str(work.job.output_path)
    add_limits_of_before(summary, work)
    _add_what_the_run_told(summary, work)
    return summary


def _would_refuse(work: Work) -> str:
    """Rows that are shown as pending may have answers, to another prompt or text."""
    try:
        check_paid_rows(work, work.plan)
    except ChangedRowsError as error:
        return refused(error)
    return ""


def add_limits_of_before(summary: RunSummary, work: Work) -> None:
    """How the calls in flight of the last run came along: who sends nothing shows that."""
    if work.replay.runs:
        summary.limits_of_run = work.replay.runs[-1].run_id
        told = limits_told(work.job.output_path, of_run=summary.limits_of_run)
        summary.limit_changes, summary.rate_limited_calls = told


def _add_what_the_run_told(summary: RunSummary, work: Work) -> None:
    """What only the meta file of the last run knows, if it is of that one, or of one that sent nothing."""
    meta = read_meta(work.job.output_path)
    if str(meta.get("run_id", "")) < summary.run_id:  # ids of runs sort by time
        return
    summary.stop_reason = meta.get("stop_reason")
    if summary.stop_reason is not None and summary.statuses[RowStatus.PENDING]:
        summary.hint = f"{GO_ON}: {command('run', summary.invocation)}"
    summary.report = meta.get("report")

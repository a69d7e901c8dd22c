"""How a job stands at any time, by its input and its journal: a summary without a run."""

from batch_runner.asked import first_without
from batch_runner.bill import source_of
from batch_runner.changes import TO_PAY, check_journal_is_there, other_model
from batch_runner.errors import ChangedRowsError
from batch_runner.findings import Findings
from batch_runner.invocation import last_invocation
from batch_runner.journal import RunDirectory, is_locked
from batch_runner.meta import limits_told, read_meta
from batch_runner.outset import endings_of
from batch_runner.records import RowStatus
from batch_runner.remedy import command
from batch_runner.summary import RunSummary
from batch_runner.work import Work


def standing(work: Work, findings: Findings) -> RunSummary:
    """The summary that a run would give if it ended now without a call; times are those of all runs."""
    courses = findings.courses
    started = courses[0].started_at
    summary = RunSummary(
        job=work.job.name,
        origin=work.job.origin,
        invocation=str(
            last_invocation(work.before, output=work.job.output_path) or work.job.invocation
        ),
        model=work.job.model,
        run_id=courses[-1].run.run_id if courses[-1].run is not None else work.run_id,
        started_at=work.started_at if started is None else started,
        elapsed_seconds=sum(course.seconds for course in courses),
        rows=work.plan.rows,
        sent=sum(course.rows for course in courses),
        duplicates=work.plan.duplicates,
        sharing=work.plan.copies,
        bad_records=work.plan.bad_count,
        bad_places=[record.place for record in work.plan.bad],
        bad_files=[file.reason for file in work.table.left_out],
        damaged_records=sum(not place.is_expected for place in work.damage),
        bill=findings.bill(),
        run_bill=findings.bill(),
        price_source=source_of(work.prices, {work.job.model: 1}),
        latency_quantiles=findings.latencies.quantiles(),
        warnings=list(work.warnings),
    )
    summary.count(endings_of(work.plan, work.replay.index))
    summary.examples = dict([first_without(work)])
    if note := other_model(work):
        summary.warnings.insert(0, note)
    try:
        check_journal_is_there(work.job, work.replay.index, about_to=TO_PAY)
    except ChangedRowsError as error:
        summary.warnings.insert(0, f"a run refuses to start: {error}; {error.hint}")
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
    _add_what_the_run_told(summary, work)
    return summary


def _add_what_the_run_told(summary: RunSummary, work: Work) -> None:
    """What only the meta file of the last run knows, if it is of the last run indeed."""
    output = work.job.output_path
    summary.limits_of_run = summary.run_id
    summary.limit_changes, summary.rate_limited_calls = limits_told(output, of_run=summary.run_id)
    meta = read_meta(output)
    if meta.get("run_id") != summary.run_id:
        return
    summary.stop_reason = meta.get("stop_reason")
    if summary.stop_reason is not None and summary.statuses[RowStatus.PENDING]:
        summary.hint = f"run again to go on: {command('run', summary.invocation)}"
    summary.report = meta.get("report")

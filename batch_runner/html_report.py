"""A run as one HTML file: no script, nothing loaded from anywhere, its size independent of the rows."""

import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import minijinja

from batch_runner import __version__, charts
from batch_runner.amounts import duration, many, pace, share
from batch_runner.asked import Asked, read_asked
from batch_runner.atomic import publish
from batch_runner.charts import Chart, Layer, TimeAxis
from batch_runner.findings import Findings
from batch_runner.journal import RunDirectory, is_locked
from batch_runner.money_view import bounds, cost_view, is_whole, token_view
from batch_runner.printable import one_line, printable
from batch_runner.records import RowStatus
from batch_runner.rows_view import RowViews, error_view, group_views
from batch_runner.run_view import (
    endpoint_view,
    limit_view,
    moment,
    prompt_view,
    run_views,
    setting_view,
)
from batch_runner.summary import RunSummary
from batch_runner.work import Work


MOST_RUNS = 20


def write_report(
    work: Work, summary: RunSummary, findings: Findings, path: Path, *, redact: bool = False
) -> None:
    """`path` holds the report; with `redact`, no text of the input or of the model is in it.

    Reads the input once for the prompts of the rows on show. Raises StorageError.
    """
    asked = read_asked(work, {one.key for one in findings.samples()})
    page = render_report(work, summary, findings, asked, redact=redact)
    with publish(path) as file:
        file.write(page.encode())


def render_report(
    work: Work, summary: RunSummary, findings: Findings, asked: Asked, *, redact: bool
) -> str:
    """The page; every value in it is escaped by the template engine, as its name ends in .html."""
    template = resources.files("batch_runner").joinpath("report.html.jinja")
    engine = minijinja.Environment(
        templates={"report.html": template.read_text("utf-8")},
        undefined_behavior="strict",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    axis = TimeAxis(findings.timeline)
    rows = RowViews(asked, redact=redact)
    return engine.render_template(
        "report.html",
        job=summary.job,
        redacted=redact,
        verdict=_verdict(work, summary, findings),
        statuses=_statuses(summary),
        figures=_figures(summary, findings),
        warnings=[printable(warning) for warning in summary.warnings],
        cost=cost_view(summary, findings),
        tokens=token_view(summary.bill),
        over_time=_over_time(axis, summary, findings) if findings.timeline.bins else None,
        latency=_latency(findings),
        errors=error_view(summary, findings, rows),
        groups=group_views(summary, findings, rows),
        limit_changes=limit_view(summary),
        settings=setting_view(work, summary, findings),
        prompt=None if redact else prompt_view(work),
        runs=run_views(
            findings.courses[-MOST_RUNS:],
            is_going_on=_is_going_on(work, summary),
            is_stopped=summary.stop_reason is not None,
        ),
        more_runs=max(0, len(findings.courses) - MOST_RUNS),
        written=moment(time.time()),
        version=__version__,
    )


def _verdict(work: Work, summary: RunSummary, findings: Findings) -> Mapping[str, Any]:
    statuses = summary.statuses
    ok, rows = statuses[RowStatus.OK], summary.rows
    others = [
        f"{statuses[status]:,}\N{NO-BREAK SPACE}{status}"
        for status in RowStatus
        if status is not RowStatus.OK and statuses[status]
    ]
    if not rows:
        words = "The input has no rows."
    elif not summary.bill.calls and statuses[RowStatus.PENDING] == rows:
        words = (
            f"Nothing has been sent yet: {rows:,} {'row is' if rows == 1 else 'rows are'} waiting."
        )
    elif ok == rows:
        words = "The one row is answered." if rows == 1 else f"All {rows:,} rows are answered."
    else:
        words = f"{ok:,} of {rows:,} rows are answered, {', '.join(others)}."
    facts = [
        one_line(work.job.model_in_words, 80),
        endpoint_view(work, findings),
        *([_when(findings)] if summary.bill.calls else []),
    ]
    stop = summary.stop_reason
    return {
        "words": words,
        "facts": facts,
        "stop": None if stop is None else printable(stop),
        "hint": printable(summary.hint),
    }


def _when(findings: Findings) -> str:
    first = findings.courses[0].started_at
    runs = len(findings.courses)
    return moment(first) if runs == 1 else f"{runs:,} runs since {moment(first)}"


def _is_going_on(work: Work, summary: RunSummary) -> bool:
    """Another process is at it; the run that writes its own report has ended."""
    return summary.run_id != work.run_id and bool(is_locked(RunDirectory(work.job.run_path)))


def _statuses(summary: RunSummary) -> list[Mapping[str, Any]]:
    rows = summary.rows or 1
    return [
        {
            "name": str(status),
            "rows": f"{n:,}",
            "share": f"{100 * n / rows:.3f}",
            "of": share(n, rows),
        }
        for status in RowStatus
        if (n := summary.statuses[status])
    ]


def _figures(summary: RunSummary, findings: Findings) -> list[tuple[str, str, str]]:
    """Label, figure, note."""
    bill = summary.bill
    rows = summary.rows
    ok = summary.statuses[RowStatus.OK]
    least, most = bounds(bill)
    cost = ("Cost, at least", least, f"at most {most}" if most else "no upper bound")
    if is_whole(bill):
        cost = ("Cost", least, "all of it known")
    finished = sum(course.rows for course in findings.courses)
    seconds = sum(course.seconds for course in findings.courses)
    quantiles = findings.latencies.quantiles()
    latency = f"p99 {duration(quantiles['p99'])}" if quantiles else "no call yet"
    return [
        ("Rows answered", share(ok, rows) if rows else "none", f"{ok:,} of {rows:,}"),
        cost,
        ("Median latency", duration(quantiles["p50"]) if quantiles else "none", latency),
        (
            "Pace",
            pace(finished / seconds) if seconds and finished else "none",
            f"{many(finished, 'result')} in {duration(seconds)}" if finished else "no result yet",
        ),
    ]


def _over_time(axis: TimeAxis, summary: RunSummary, findings: Findings) -> list[Mapping[str, Any]]:
    bins, width = axis.bins, axis.width
    ok = [one.answered / width for one in bins]
    failed = [one.failed / width for one in bins]
    ended = charts.columns_over_time(
        axis,
        [Layer("good", ok), Layer("bad", failed)],
        [f"{one.answered:,} answered, {one.failed:,} failed" for one in bins],
    )
    busy = [one.busy_seconds / width for one in bins]
    line = [(change["at"], change["now"]) for change in summary.limit_changes]
    if summary.limit_changes:
        line.insert(0, (summary.limit_changes[0]["at"], summary.limit_changes[0]["was"]))
    # A limit far above what was used would press the rows themselves flat.
    line = line if max((now for _, now in line), default=0) <= 4 * max(busy) else []
    flight = charts.area_over_time(axis, busy, line, [f"{rows:.1f} in hand" for rows in busy])
    repeats = charts.columns_over_time(
        axis,
        [Layer("warn", [one.repeats for one in bins])],
        [f"{one.repeats:,} repeated calls" if one.repeats else "" for one in bins],
        whole=True,
    )
    repeated = sum(one.repeats for one in bins)
    cuts = [one["at"] for one in summary.limit_changes if one["why"].startswith("refused")]
    refused = summary.rate_limited_calls
    said = ""
    if refused:
        calls = "one call" if refused == 1 else f"{refused:,} calls"
        said = f"; {calls} of the last run {'was' if refused == 1 else 'were'} answered 429"
    cut = [("fold", words)] if (words := axis.cut_out()) else []
    return [
        _chart(
            "Rows a second",
            f"one column: {duration(width)}",
            ended,
            [("good", "answered"), ("bad", "failed"), *cut],
        ),
        _chart(
            "Rows in hand",
            f"begun and not ended, waiting for a repeat included{_undrawn(findings)}",
            flight,
            [("area", "rows"), *([("limit", "limit on calls in flight")] if line else []), *cut],
        ),
        _chart(
            "Repeated calls",
            f"after a 429, an error or a timeout{said}",
            charts.with_marks(repeats, axis, cuts),
            [
                ("warn", "repeats"),
                *([("mark", "429: calls were slowed down")] if cuts else []),
                *cut,
            ],
            none="" if repeated or cuts else no_repeats(findings),
        ),
    ]


def no_repeats(findings: Findings) -> str:
    """What can be said when no result took a second call: a lost call may have been one."""
    if lost := findings.lost_calls:
        calls = "one call has" if lost == 1 else f"{lost:,} calls have"
        return f"No result took more than one call in its run; {calls} no end in the journal."
    within = " within a run" if len(findings.courses) > 1 else ""
    return f"No call was repeated{within}."


def _undrawn(findings: Findings) -> str:
    """The journal has no times of a call that never ended: without a word its run would look idle."""
    lost = findings.lost_calls
    if not lost:
        return ""
    if lost == 1:
        return "; one call without an end in the journal is not drawn: when it began is not known"
    return f"; {lost:,} calls without an end in the journal are not drawn: when they began is not known"


def _chart(
    title: str, note: str, chart: Chart, legend: Sequence[tuple[str, str]], *, none: str = ""
) -> Mapping[str, Any]:
    """`none` stands in for a chart that would be empty."""
    shown = _labelled(chart)
    return {"title": title, "note": note, "chart": shown, "legend": legend, "none": none}


def _labelled(chart: Chart) -> Mapping[str, Any]:
    """A chart as the template wants it: the markup marked as such, the labels to be escaped."""
    return {
        "svg": minijinja.Markup(chart.svg),
        "below": [
            (f"{tick.at:.2f}", tick.words, fits)
            for tick, fits in zip(chart.below, charts.fit_narrow(chart.below), strict=True)
        ],
        "beside": [(f"{tick.at:.0f}", tick.words) for tick in chart.beside],
    }


def _latency(findings: Findings) -> Mapping[str, Any] | None:
    quantiles = findings.latencies.quantiles()
    if not quantiles:
        return None
    marks = [seconds for name, seconds in quantiles.items() if name != "max"]
    return {
        "quantiles": [(name, duration(seconds)) for name, seconds in quantiles.items()],
        "calls": f"{findings.latencies.bins.total():,}",
        "chart": _labelled(charts.latency_columns(findings.latencies, marks)),
    }

"""What a report says of how a job was run: settings, prompt, limits, and the runs one by one."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from batch_runner import __version__
from batch_runner.amounts import commonest, duration, many
from batch_runner.findings import Findings, RunCourse
from batch_runner.money_view import NO_BOUND, bounds
from batch_runner.origins import endpoint_in_words
from batch_runner.printable import one_line, printable, shortened
from batch_runner.summary import RunSummary
from batch_runner.work import Work


MOST_LIMIT_CHANGES = 40
MOST_ENDPOINTS = 4
LONGEST_PROMPT = 2000
LONGEST_SETTING = 300


def limit_view(summary: RunSummary) -> Mapping[str, Any]:
    """What moved, limit or rate: a refusal that left both as they were is no change."""
    changes = [
        now
        for before, now in zip([None, *summary.limit_changes], summary.limit_changes, strict=False)
        if now["was"] != now["now"] or now["rate"] != (before and before["rate"])
    ]
    return {
        "lines": [
            (
                f"{datetime.fromtimestamp(change['at'], UTC):%H:%M:%S}",
                f"{change['was']} → {change['now']}"
                if change["was"] != change["now"]
                else f"{change['now']}",
                f"{change['rate']:.3g} a second" if change["rate"] else "as they come",
                one_line(change["why"], 120),
            )
            for change in changes[-MOST_LIMIT_CHANGES:]
        ],
        "more": max(0, len(changes) - MOST_LIMIT_CHANGES),
    }


def setting_view(work: Work, summary: RunSummary, findings: Findings) -> list[tuple[str, str]]:
    job = work.job
    limits, retry = job.limits, job.retry
    parameters = {name: value for name, value in job.request.items() if name != "model"}
    match = work.prices.resolve(job.model, at=None)
    answered_by = ", ".join(
        f"{one_line(name, 60)} ({n:,})" for name, n in commonest(findings.models, 6)
    )
    calls = limits.concurrency
    concurrency = (
        f"{calls.minimum} to {calls.maximum}, adaptive" if calls.adaptive else f"{calls.maximum}"
    )
    named = {
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "max_cost": limits.max_cost and f"${limits.max_cost}",
        "deadline": limits.deadline and duration(limits.deadline),
    }
    retries = (
        f"up to {many(retry.attempts, 'attempt')} of a row, {many(retry.maybe_billed_attempts, 'repeat')} "
        f"of calls that may have been billed, {duration(retry.rate_limit_patience)} of waiting for rate limits"
    )
    caps = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
    values: Iterable[tuple[str, str | None]] = (
        ("Job", job.origin),
        ("Input", ", ".join(job.input.path)),
        ("Key column", "/".join(job.input.key) or None),
        ("Output", summary.output or f"{job.output_path} (not written yet)"),
        ("Model asked for", job.model_in_words),
        ("Model that answered", answered_by or None),
        (
            "Parameters",
            json.dumps(parameters, ensure_ascii=False, default=str) if parameters else None,
        ),
        ("Endpoint asked", endpoint_in_words(job.endpoint.base_url, job.model)),
        ("Endpoint that answered", _endpoints_that_answered(findings) or None),
        ("Concurrency", concurrency),
        ("Limits", caps or None),
        ("Retries", retries),
        ("Time for one call", duration(job.endpoint.timeout)),
        ("Prices", match.describe() if match is not None else "no price is known for this model"),
        ("batch_runner", f"{__version__}, Python {platform.python_version()}, {platform.system()}"),
    )
    return [(name, one_line(value, LONGEST_SETTING)) for name, value in values if value]


def endpoint_view(work: Work, findings: Findings) -> str:
    """What answered, else what the job asks."""
    job = work.job
    return _endpoints_that_answered(findings) or endpoint_in_words(job.endpoint.base_url, job.model)


def _endpoints_that_answered(findings: Findings) -> str:
    """As the journal knows them, whatever the job asks by now."""
    most = commonest(findings.endpoints, MOST_ENDPOINTS)
    if len(most) == 1:
        return most[0][0]
    more = len(findings.endpoints) - len(most)
    named = [f"{name} ({n:,})" for name, n in most]
    return ", ".join([*named, *([f"{more} more"] if more else [])])


def prompt_view(work: Work) -> list[tuple[str, str]]:
    prompt = work.job.prompt
    parts = {
        "instructions": prompt.instructions,
        "input": prompt.input,
        "messages": prompt.messages and json.dumps(prompt.messages, ensure_ascii=False, indent=1),
        "body": prompt.body and f"the column {prompt.body}",
    }
    return [
        (name, printable(shortened(text, LONGEST_PROMPT))) for name, text in parts.items() if text
    ]


def run_views(
    courses: Sequence[RunCourse], *, is_going_on: bool, is_stopped: bool
) -> list[Mapping[str, str]]:
    """One for each run that did anything, oldest first; both are said of the last one.

    Why an earlier one ended is not known: the journal says only that it was not killed.
    """
    *_, last = courses
    return [
        _run_view(
            course,
            ended="stopped early" if is_stopped and course is last else "cleanly",
            otherwise="going on" if is_going_on and course is last else "killed",
        )
        for course in courses
        if course.run or course.rows
    ]


def _run_view(course: RunCourse, *, ended: str, otherwise: str) -> Mapping[str, str]:
    """`otherwise`: how the run stands when it has not ended by itself."""
    run = course.run
    bill = course.bill
    least, most = bounds(bill)
    return {
        "started": moment(course.started_at).removesuffix(" UTC"),
        "took": duration(course.seconds) if course.rows else "",
        "rows": f"{course.rows:,}",
        "not_ok": f"{course.not_ok:,}",
        "calls": f"{bill.calls:,}",
        "least": (least if bill.answered or not bill.unknown_calls else "unknown")
        if bill.calls
        else "",
        "most": (most or NO_BOUND) if bill.calls else "",
        "model": one_line(str(run.settings.get("model", "")), 60) if run else "",
        "ended": ended if run is not None and run.ended_cleanly else otherwise,
        "version": run.tool_version if run is not None else "",
        "id": run.run_id if run is not None else "unknown",
    }


def moment(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"

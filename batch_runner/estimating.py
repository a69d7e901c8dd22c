"""`batch-runner estimate`: what a job will take, from its input and, if wanted, from real rows of it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

import anyio

from batch_runner.api_key import api_key
from batch_runner.bill import Bill
from batch_runner.changes import changed_rows
from batch_runner.endpoint_count import count_at_endpoint
from batch_runner.errors import RunStoppedError
from batch_runner.estimate import (
    Range,
    in_doubt,
    left_to_pay,
    not_below,
    overhead,
    project,
    sample_plan,
)
from batch_runner.estimated import ASSUMED, MEASURED, Estimate, Sample
from batch_runner.expectation import Expectation, recall, remember
from batch_runner.fingerprint import fingerprint
from batch_runner.guard import refusal
from batch_runner.job import JobSpec
from batch_runner.opening import open_work
from batch_runner.origins import other_endpoints
from batch_runner.plan import TRANSIENT
from batch_runner.prospect import prospect_of
from batch_runner.records import RowResult, RowStatus
from batch_runner.run_options import RunOptions
from batch_runner.runner import run
from batch_runner.signals import Interrupted
from batch_runner.survey import Survey
from batch_runner.work import Work


T = TypeVar("T")

COUNTED_ROWS = 5
"""Rows that the endpoint is asked to count when none are sampled: they differ little."""


class CountBy(StrEnum):
    """`--count`: who counts the input tokens."""

    LOCAL = "local"
    API = "api"
    """The endpoint counts a few rows, and the others are corrected by what that shows."""


def estimate(
    job: JobSpec,
    *,
    sample: int | None = None,
    seed: int = 0,
    count: CountBy | str = CountBy.LOCAL,
    confirm: Callable[[Estimate, Decimal | None], bool] | None = None,
    options: RunOptions | None = None,
) -> Estimate:
    """What the job will take, after one pass over its input; nothing is sent without `sample` or `count`.

    `sample` rows are really run and kept as finished rows, unless `confirm`, which is shown the estimate so
    far and the most they can cost, says no. `options` are those of their run. Raises UsageError for what
    is wrong with the job, RunStoppedError when the sample came to nothing.
    """
    survey = Survey()
    with open_work(job, watch=survey.watch) as work:
        found = _before_calls(work, survey)
        size = min(sample or COUNTED_ROWS, found.to_send)
        chosen = sample_plan(survey.counts, size, seed)
        rows = _rows_at(work.plan.wanted, chosen)
        counted = {row: survey.counts[position] for row, position in zip(rows, chosen, strict=True)}
        if CountBy(count) is CountBy.API and rows:
            measured = _overhead_at_endpoint(work, counted)
            found = _with_overhead(found, survey, work, measured, source="as the endpoint counts")
        if not sample or not rows:
            return found
        # Whoever is asked whether it may cost something must not learn later that it cannot.
        api_key(job)
        most = _most(work, rows)
    if confirm is not None and not confirm(found, most):
        return found
    results = _run(job, rows, options or RunOptions())
    return _after_sample(found, survey, work, counted=counted, results=results)


def _before_calls(work: Work, survey: Survey) -> Estimate:
    job = work.job
    tier = _tier(job)
    counters = sorted({survey.counter(model).encoding for model in survey.models})
    return Estimate(
        job=job.name,
        origin=job.origin,
        invocation=job.invocation,
        models={
            model: work.prices.resolve(model, service_tier=tier, at=None)
            for model in sorted(survey.models or {job.model})
        },
        prospect=prospect_of(work.plan, work.replay, changed=changed_rows(work)),
        ceiling=survey.ceiling(work.prices, service_tier=tier),
        repeats=survey.ceiling(work.prices, service_tier=tier, kinds=survey.repeats),
        is_exact=survey.is_exact,
        counted_with=", ".join(counters),
        overhead_tokens=0,
        overhead_source=ASSUMED,
        uncounted=frozenset(survey.uncounted),
        max_cost=job.limits.max_cost,
        set_aside_each=survey.set_aside(work.biller),
        calls_in_flight=min(job.limits.concurrency.maximum, len(survey.counts)),
        remembered=recall(job.run_path, fingerprint=fingerprint(job)),
        refusal=refusal(work),
        notes=tuple(filter(None, (*work.warnings, other_endpoints(work)))),
    )


def _with_overhead(
    found: Estimate, survey: Survey, work: Work, measured: Decimal | None, *, source: str
) -> Estimate:
    """The estimate with each count corrected by what was measured."""
    if measured is None:
        note = "the endpoint counts no tokens (/responses/input_tokens): counted here alone"
        return replace(found, notes=(*found.notes, note))
    tier = _tier(work.job)
    return replace(
        found,
        ceiling=survey.ceiling(work.prices, overhead=measured, service_tier=tier),
        repeats=survey.ceiling(
            work.prices, overhead=measured, service_tier=tier, kinds=survey.repeats
        ),
        overhead_tokens=round(measured),
        overhead_source=source,
    )


def _tier(job: JobSpec) -> str | None:
    asked = job.request.get("service_tier")
    return asked if isinstance(asked, str) and "{{" not in asked else None


def _rows_at(wanted: bytearray, positions: list[int]) -> list[int]:
    """Row indices of the wanted rows at these positions among the wanted, in the same order."""
    places = {position: place for place, position in enumerate(positions)}
    rows = [0] * len(positions)
    row = -1
    for position in range(max(positions, default=-1) + 1):
        row = wanted.find(1, row + 1)
        if position in places:
            rows[places[position]] = row
    return rows


def _most(work: Work, rows: list[int]) -> Decimal | None:
    """The most that calling these rows once can cost; None when nothing bounds it."""
    kept = frozenset(rows)
    total = Decimal(0)
    wanted = work.requests()
    for request in (one for one in wanted if one.row in kept):
        bound = work.biller.ceiling(
            request.model, request.input_bound_bytes, request.max_output_tokens
        )
        if bound is None:
            return None
        total += bound
    return total


def _run(job: JobSpec, rows: list[int], options: RunOptions) -> dict[int, RowResult]:
    """The rows have been run as any others; by index, those that ended."""
    results: dict[int, RowResult] = {}

    def keep(result: RowResult) -> None:
        results[result.row] = result

    chosen = replace(options, rows=frozenset(rows), on_result=keep, write_output=False)
    summary = _outside_any_loop(run, job, chosen)
    if (number := summary.exit_code.signal_number) is not None:
        raise Interrupted(number)
    if summary.stop_reason is not None:
        raise RunStoppedError(
            f"the sample was not finished: {summary.stop_reason}",
            hint=summary.hint or "its finished rows are kept; estimate again",
        )
    return results


def _after_sample(
    found: Estimate,
    survey: Survey,
    work: Work,
    *,
    counted: Mapping[int, int],
    results: Mapping[int, RowResult],
) -> Estimate:
    """`counted` holds the sampled rows and their counts, in the order of the plan."""
    ended = [results[row] for row in counted if row in results]
    told = [result for result in ended if _tells(result)]
    pairs = [
        (usage.input_tokens, counted[result.row])
        for result in told
        if (usage := result.final_usage) is not None and usage.input_tokens is not None
    ]
    if pairs:
        actual, guessed = zip(*pairs, strict=True)
        measured = overhead(actual, guessed, population=found.to_send)
        found = _with_overhead(found, survey, work, measured, source=MEASURED)
    bill = Bill()
    for result in results.values():
        work.biller.add(bill, result)
    sample = _projected(found, survey, work, told, rows=len(results), bill=bill)
    most = [one.bounded for one in map(work.biller.bill, ended) if not one.unbounded]
    sample = replace(sample, in_doubt=in_doubt(most, sample.usd, population=found.to_send))
    if isinstance(sample.usd, Range):
        per_row = sample.usd.divided(found.to_send)
        if sample.known < found.to_send:  # the rows left: the longest is not among them
            per_row = sample.usd.less(sample.usd_of_longest).divided(found.to_send - 1)
        expected = Expectation(
            fingerprint=fingerprint(work.job),
            sampled=sample.known,
            low=per_row.low,
            expected=per_row.expected,
            high=per_row.high,
            in_doubt=sample.in_doubt,
            cautions=sample.usd.cautions,
            population=found.to_send,
            at=time.time(),
        )
        remember(expected, work.job.run_path)
    return replace(found, sample=sample)


def _outside_any_loop(call: Callable[..., T], *arguments: Any) -> T:
    """What `call` returns; in a thread of its own where a loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call(*arguments)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


def _tells(result: RowResult) -> bool:
    """Whether the row says what others of its kind will take: not when it failed by bad luck."""
    return result.status is not RowStatus.FAILED or result.code not in TRANSIENT


def _projected(
    found: Estimate, survey: Survey, work: Work, told: list[RowResult], *, rows: int, bill: Bill
) -> Sample:
    population = found.to_send
    bills = [work.biller.bill(result) for result in told]
    costs = [one.answers + one.failures for one in bills if not one.unpriced and not one.unknown]
    outputs = [one.tokens.output for one in bills if not one.tokens.unreported and not one.unknown]
    seconds = [r.latency_seconds for r in told if r.latency_seconds is not None]
    caps = [kind.max_output_tokens for kind in survey.kinds]
    known_caps = [cap for cap in caps if cap is not None]
    concurrency = work.job.limits.concurrency
    at_a_time = concurrency.start if concurrency.adaptive else concurrency.maximum
    at_a_time = max(1, min(at_a_time, population))
    usd = project(costs, population, row_ceiling=survey.dearest_row(work.prices)) if costs else None
    left = population - len(told)
    return Sample(
        rows=rows,
        known=len(costs) if any(found.models.values()) else len(outputs),
        bill=bill,
        output_tokens=project(
            outputs, population, row_ceiling=max(known_caps) if known_caps == caps else None
        )
        if outputs
        else None,
        usd=usd,
        usd_of_longest=costs[-1] if costs else Decimal(0),
        seconds=not_below(
            project(seconds, population).divided(at_a_time), _least_seconds(work.job, found)
        )
        if seconds
        else None,
        calls_at_a_time=at_a_time,
        rows_left=left,
        usd_left=left_to_pay(usd, costs, population=population, left=left),
    )


def _least_seconds(job: JobSpec, found: Estimate) -> Decimal:
    """What the rate limits of the job alone take."""
    rpm, tpm = job.limits.rpm, job.limits.tpm
    by_calls = 60 * found.to_send / Decimal(rpm) if rpm else Decimal(0)
    by_tokens = 60 * found.ceiling.input_tokens / Decimal(tpm) if tpm else Decimal(0)
    return max(by_calls, by_tokens)


def _overhead_at_endpoint(work: Work, counted: Mapping[int, int]) -> Decimal | None:
    """Tokens that the endpoint counts beyond ours; None when it does not count."""
    wanted = work.requests()
    bodies = {request.row: request.body for request in wanted if request.row in counted}
    key = api_key(work.job)
    ordered = [bodies[row] for row in counted]
    actual = _outside_any_loop(anyio.run, count_at_endpoint, work.job, key, ordered)
    if actual is None:
        return None
    return overhead(actual, [*counted.values()], population=work.plan.to_send)

"""Results of a job as values, read from its journal without a lock, also while it runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from batch_runner.columns import Ending
from batch_runner.export import endings
from batch_runner.job import JobSpec
from batch_runner.journal import result_of
from batch_runner.opening import open_work
from batch_runner.records import Row, RowResult, RowStatus, Usage
from batch_runner.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one row of the input stands."""

    row: Row
    """The input record: `row.values["title"]`, `row.index`, `row.place`."""
    label: str | None
    """The row's own name (`input.key`)."""
    status: RowStatus
    code: str | None
    """Why it is not `ok`: an `ErrorCode`, or `other:<code>`."""
    message: str | None
    text: str | None
    """What the model wrote; None when there is nothing."""
    answer: Any
    """The text read as JSON, for jobs with a schema or JSON columns."""
    usage: Usage | None
    """Of the final attempt; None when the server reported none."""
    cost: Decimal | None
    """Dollars for all attempts of known usage; None when unpriced or unknown."""
    result: RowResult | None
    """Everything stored of it, calls of all runs included; None for rows that were not asked."""


def read_results(job: JobSpec) -> Iterator[Outcome]:
    """Every row of the input, in its order, as the journal knows it now.

    Nothing is sent or written. Raises UsageError for a job or an input that cannot be read.
    """
    with open_work(job) as work:
        for row, ending in endings(work):
            yield _outcome(work, row, ending)


def _outcome(work: Work, row: Row, ending: Ending) -> Outcome:
    result = result_of(ending.told) if ending.told else None
    return Outcome(
        row=row,
        label=work.builder.label(row),
        status=ending.status,
        code=ending.code,
        message=ending.message,
        text=ending.text or None,
        answer=ending.answer,
        usage=result.final_usage if result is not None else None,
        cost=ending.cost,
        result=result,
    )

"""How a run went: the numbers behind the end-of-run lines, `<output>.meta.json` and the report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batch_runner import __version__
from batch_runner.amounts import commonest
from batch_runner.bill import Bill
from batch_runner.errors import ExitCode
from batch_runner.records import ErrorCode, RowStatus


@dataclass(slots=True, kw_only=True)
class RunSummary:
    """One run of a job, and the state of its output afterwards."""

    job: str
    origin: str
    invocation: str = "JOB"
    """What to type behind a command to mean this job."""
    model: str = "MODEL"
    """As the job has it; each row may name its own."""
    run_id: str
    started_at: float
    elapsed_seconds: float
    exit_code: ExitCode = ExitCode.DONE
    plan: Mapping[str, Any] | None = None
    """Of a dry run: what would be sent. Nothing was sent or written: the rows stand as they did."""
    stop_reason: str | None = None
    """Why the run ended before its last row; None when it did not."""
    hint: str = ""
    rows: int = 0
    """Rows of the input."""
    sent: int = 0
    """Rows finished by this run."""
    reused: int = 0
    """Answered rows that earlier runs had finished."""
    statuses: Counter[RowStatus] = field(default_factory=Counter)
    """Of the rows of the input."""
    codes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """By error code: a row that ended so, and its message, free of secrets."""
    bill: Bill = field(default_factory=Bill)
    """Of all runs that wrote to this journal."""
    put_aside: int = 0
    """Journals of before `--fresh`, whose calls are not on the bill."""
    run_bill: Bill = field(default_factory=Bill)
    """Of this run alone."""
    price_source: str | None = None
    latency_quantiles: dict[str, float] = field(default_factory=dict)
    """`p50`, `p90`, `p99`, `max` of this run's calls, seconds."""
    output: str | None = None
    """The file written; None when the run was stopped before that."""
    report: str | None = None
    bad_records: int = 0
    bad_places: list[str] = field(default_factory=list)
    bad_files: list[str] = field(default_factory=list)
    """Files of several that could not be read, and why: their rows are not among `rows`."""
    duplicates: int = 0
    formula_cells: int = 0
    sharing: int = 0
    """Rows that take the answer of an equal row: one call for all of them."""
    damaged_records: int = 0
    warnings: list[str] = field(default_factory=list)
    limit_changes: list[dict[str, Any]] = field(default_factory=list)
    """Of `limits_of_run`, oldest first: `at` (Unix time), `was`, `now`, `rate`, `why`."""
    rate_limited_calls: int | None = None
    """Attempts of that run that were answered 429; None when that is not known."""
    limits_of_run: str = ""
    """The last run that sent anything: this one, or one before it."""

    @property
    def rows_per_second(self) -> float:
        return self.sent / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def wanting(self) -> Counter[str]:
        """Error codes of the rows without a full answer; rows left out on purpose want none."""
        codes = Counter(self.codes)
        codes[ErrorCode.MISSING_VALUE] -= self.statuses[RowStatus.SKIPPED]
        return +codes

    def count(self, endings: Mapping[tuple[RowStatus, str | None], int]) -> None:
        """The rows of the input stand so, those of earlier runs too."""
        self.statuses, self.codes = Counter(), Counter()
        for (status, code), n in endings.items():
            self.statuses[status] += n
            if code is not None:
                self.codes[code] += n

    def to_json(self) -> dict[str, Any]:
        """What `<output>.meta.json` holds."""
        return {
            "job": self.job,
            "job_file": self.origin,
            "run_id": self.run_id,
            "batch_runner": __version__,
            "started_at": _time(self.started_at),
            "finished_at": _time(self.started_at + self.elapsed_seconds),
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "exit_code": int(self.exit_code),
            "stop_reason": self.stop_reason,
            "rows": self.rows,
            "rows_sent": self.sent,
            "rows_reused": self.reused,
            "statuses": {str(status): self.statuses[status] for status in RowStatus},
            "error_codes": dict(commonest(self.codes)),
            "duplicates": self.duplicates,
            "bad_records": self.bad_records,
            "bad_record_places": self.bad_places,
            "bad_files": self.bad_files,
            "csv_formula_cells": self.formula_cells,
            "damaged_journal_records": self.damaged_records,
            "journals_put_aside": self.put_aside,
            "price_source": self.price_source,
            **self.bill.to_json(),
            "this_run": self.run_bill.to_json(),
            "latency_seconds": self.latency_quantiles,
            "limit_changes": self.limit_changes,
            "rate_limited_calls": self.rate_limited_calls,
            "limits_of_run": self.limits_of_run,
            "output": self.output,
            "report": self.report,
            "warnings": self.warnings,
            **({} if self.plan is None else {"dry_run": True, "plan": self.plan}),
        }


def _time(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )

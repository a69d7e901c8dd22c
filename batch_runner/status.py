"""How far a job is, read from its journal without a lock, also while it runs."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from batch_runner.job import JobSpec
from batch_runner.journal import (
    DamagedManifest,
    Holder,
    RunDirectory,
    is_locked,
    read_manifest,
    replay,
)
from batch_runner.records import RowStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A job's progress at one moment."""

    job: str
    rows: int | None
    """Rows of the input when the last run began; None when no run has begun."""
    statuses: Counter[RowStatus] = field(default_factory=Counter)
    """Of the results in the journal, rows that have left the input included."""
    in_flight: int = 0
    """Calls begun and not ended: in flight now, or lost in a crash."""
    holder: Holder | None = None
    """Who is running it now."""
    damaged: int = 0

    def lines(self) -> list[str]:
        """For people."""
        finished = self.statuses.total()
        total = f"{self.rows:,}" if self.rows is not None else "unknown"
        words = [f"{n:,} {status}" for status, n in sorted(self.statuses.items())]
        state = f"running: {self.holder}" if self.holder else "not running"
        flight = "in flight" if self.holder else "of unknown billing (in flight when a run died)"
        lines = [f"{self.job}: {finished:,} of {total} rows have a result ({state})"]
        lines += [f"  {', '.join(words)}"] if words else []
        lines += [f"  {self.in_flight:,} calls {flight}"] if self.in_flight else []
        lines += (
            [f"  {self.damaged} damaged places; see batch-runner verify"] if self.damaged else []
        )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "rows": self.rows,
            "statuses": {str(status): n for status, n in self.statuses.items()},
            "calls_without_result": self.in_flight,
            "running": self.holder is not None,
            "pid": self.holder.pid if self.holder else None,
            "damaged_journal_records": self.damaged,
        }


def read_status(job: JobSpec) -> Status:
    directory = RunDirectory(job.run_path)
    manifest = read_manifest(directory.manifest)
    rows = None
    if manifest is not None and not isinstance(manifest, DamagedManifest):
        rows = manifest.input.get("rows")
    with replay(directory) as found:
        statuses = Counter(
            entry.status
            for number in range(len(found.index))
            if (entry := found.index.entry(number)) is not None
        )
        return Status(
            job=job.name,
            rows=rows,
            statuses=statuses,
            in_flight=len(found.unknown),
            holder=is_locked(directory),
            damaged=len(found.damage),
        )

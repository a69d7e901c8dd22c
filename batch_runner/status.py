"""How far a job is, read from its journal without a lock, also while it runs."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
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
from batch_runner.progress import duration
from batch_runner.records import RowStatus


WATCH_SECONDS = 2.0
MOST_SHARE = 10
"""A watcher rests this many times as long as it took to read."""


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
    rows_per_second: float | None = None
    """Since the status before; None when there was none."""

    def lines(self) -> list[str]:
        """For people."""
        finished = self.statuses.total()
        total = f"{self.rows:,}" if self.rows is not None else "unknown"
        words = [f"{n:,} {status}" for status, n in sorted(self.statuses.items())]
        flight = "in flight" if self.holder else "of unknown billing (in flight when a run died)"
        lines = [f"{self.job}: {finished:,} of {total} rows have a result", f"  {self._state()}"]
        lines += [f"  {', '.join(words)}"] if words else []
        lines += [f"  {self.in_flight:,} calls {flight}"] if self.in_flight else []
        lines += (
            [f"  {self.damaged} damaged places; see batch-runner verify"] if self.damaged else []
        )
        return lines

    def _state(self) -> str:
        if self.holder is None:
            return "not running"
        words = [f"running: {self.holder}"]
        if self.rows_per_second is not None:
            words.append(f"{self.rows_per_second:.1f} rows/s")
            left = (self.rows or 0) - self.statuses.total()
            if self.rows_per_second > 0 and left > 0:
                words.append(f"{duration(left / self.rows_per_second)} left")
        return ", ".join(words)

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


def follow(
    job: JobSpec,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Status]:
    """The job's status, again and again until nobody runs it any more."""
    began = clock()
    status = read_status(job)
    while True:
        yield status
        if status.holder is None:
            return
        # A journal of a million rows takes seconds to read: the watcher must not eat the run's CPU.
        sleep(max(WATCH_SECONDS, MOST_SHARE * (clock() - began)))
        before, last, began = status.statuses.total(), began, clock()
        status = read_status(job)
        pace = (status.statuses.total() - before) / max(began - last, 1e-3)
        status = replace(status, rows_per_second=pace)


def drawn(statuses: Iterable[Status], *, columns: int | None) -> Iterator[str]:
    """Text for each status; on a terminal of so many columns it takes the place of the one before."""
    height = 0
    for status in statuses:
        lines = status.lines()
        yield (f"\x1b[{height}A\x1b[J" if height else "") + "\n".join(lines)
        if columns is not None:
            height = sum(max(1, math.ceil(len(line) / columns)) for line in lines)


def read_status(job: JobSpec) -> Status:
    """The job's status now. Costs 3 microseconds of CPU a row; takes no lock, sends nothing."""
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

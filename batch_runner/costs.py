"""`batch-runner costs`: what runs have cost, read from their journals, for any number of jobs."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from batch_runner.batch_files import batch_results
from batch_runner.bill import Bill, Biller
from batch_runner.errors import UsageError
from batch_runner.jobfile import load_job
from batch_runner.journal import (
    Index,
    Intent,
    RunDirectory,
    is_locked,
    replay,
)
from batch_runner.pricing import Doubt, MatchedBy, PriceBook
from batch_runner.records import RowResult
from batch_runner.run_place import (
    RunPlace,
    place_named,
    place_of_job,
    remembered,
    run_folder,
)
from batch_runner.spelling import did_you_mean
from batch_runner.tables import answers_path
from batch_runner.tables.formats import inner_suffix


CHEAPER_TIERS = ("flex", "batch")
LOST = "lost"
"""The status of calls that were in flight when their process died."""
_UNKNOWN = "unknown"


class By(StrEnum):
    """What to group costs by."""

    MODEL = "model"
    DAY = "day"
    """UTC, of the row's first attempt."""
    RUN = "run"
    STATUS = "status"
    JOB = "job"


@dataclass(slots=True, kw_only=True)
class Alternative:
    """What calls would have cost in another service tier, as far as it has a price."""

    usd: Decimal = Decimal(0)
    instead_of: Decimal = Decimal(0)
    """What the same calls did cost."""


@dataclass(slots=True, kw_only=True)
class Group:
    """The results, calls, tokens and dollars that have the same keys."""

    keys: tuple[str, ...]
    results: int = 0
    """A row that was sent again has one for each time."""
    again: int = 0
    """Those of requests that had one before: of rows sent again, by `retry` or a later run."""
    bill: Bill = field(default_factory=Bill)
    cheaper: dict[str, Alternative] = field(default_factory=dict)
    """By service tier; without an entry no call had a price there."""

    def merge(self, other: "Group") -> None:
        self.results += other.results
        self.again += other.again
        self.bill.merge(other.bill)
        for tier, alternative in other.cheaper.items():
            mine = self.cheaper.setdefault(tier, Alternative())
            mine.usd += alternative.usd
            mine.instead_of += alternative.instead_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """Costs by group, and altogether."""

    by: tuple[By, ...]
    groups: tuple[Group, ...]
    """Sorted by their keys."""
    total: Group
    runs: int = 1
    """That made the calls."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ledger:
    """The journals of one output, and the prices they are read at."""

    job: str
    path: Path
    biller: Biller

    def journals(self) -> Iterator[RunDirectory]:
        """Those that `run --fresh` put aside were paid for, too."""
        for folder in sorted(self.path.glob("journal*")):
            directory = RunDirectory(self.path)
            directory.segments = folder
            yield directory


def costs(
    places: Iterable[str | Path | RunPlace],
    *,
    by: Sequence[str] = (By.MODEL,),
    since: str | None = None,
    until: str | None = None,
) -> CostReport:
    """What the runs of these jobs, run directories and folders cost, by the given keys.

    `since` and `until` are days (YYYY-MM-DD, UTC), both included. Raises UsageError for a place without a
    journal. Reads each journal twice, and takes no lock.
    """
    keys = _keys(by)
    first, last = _day(since, "--since"), _day(until, "--until")
    groups: dict[tuple[str, ...], Group] = {}
    runs: set[str] = set()
    notes = []
    for ledger in _ledgers(places):
        if ledger.path.is_dir() and is_locked(RunDirectory(ledger.path)):
            notes.append(f"{ledger.job} is running: its calls in flight count as unknown billing")
        for entry, fields in _entries(ledger):
            day = fields[By.DAY]
            if (first and day < first) or (last and (day > last or day == _UNKNOWN)):
                continue
            runs.add(fields[By.RUN])
            names = tuple(fields[key] for key in keys)
            groups.setdefault(names, Group(keys=names)).merge(entry)
    total = Group(keys=("total",))
    for group in groups.values():
        total.merge(group)
    return CostReport(
        by=keys,
        groups=tuple(groups[names] for names in sorted(groups)),
        total=total,
        runs=len(runs),
        notes=tuple(notes),
    )


def _keys(by: Sequence[str]) -> tuple[By, ...]:
    try:
        return tuple(dict.fromkeys(By(key.strip()) for key in by))
    except ValueError:
        wrong = next(key for key in by if key.strip() not in set(By))
        raise UsageError(
            f"--by {wrong!r}: must be one of {', '.join(By)}{did_you_mean(wrong, By)}"
        ) from None


def _day(text: str | None, flag: str) -> str | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise UsageError(f"{flag} {text!r}: must be a day such as 2026-11-01") from None


def _entries(ledger: _Ledger) -> Iterator[tuple[Group, Mapping[By, str]]]:
    """One for each result and each lost call: what it cost, and its keys."""
    if ledger.path.is_file():
        for result in batch_results([ledger.path]):
            yield _of_result(ledger, result), _fields_of_result(ledger, result)
        return
    seen: list[tuple[Index, bytearray]] = []
    """Of each journal: the requests that have had a result, one byte each."""
    for directory in ledger.journals():
        with replay(directory) as found:
            seen.append((found.index, bytearray(len(found.index))))
            began = {run.run_id: run.started_at for run in found.runs}
            for result in found.results():
                entry = _of_result(ledger, result)
                entry.again = int(_is_marked(result.key, seen))
                yield entry, _fields_of_result(ledger, result)
            for intent in found.unknown:
                at = began.get(intent.run_id or "")
                bill = ledger.biller.bill_lost(intent, at=at)
                yield Group(keys=(), bill=bill), _fields_of_intent(ledger, intent, at)


def _is_marked(key: bytes, seen: Sequence[tuple[Index, bytearray]]) -> bool:
    """The request is among those that have had a result; from now on it is."""
    was = False
    for index, marks in seen:
        if (number := index.number(key)) is not None:
            was = was or bool(marks[number])
            marks[number] = 1
    return was


def _of_result(ledger: _Ledger, result: RowResult) -> Group:
    group = Group(keys=(), results=1, bill=ledger.biller.bill(result))
    prices = ledger.biller.prices
    for billed in result.billed:
        paid = prices.quote(billed, asked=result.asked_model).dollars
        if paid is None:
            continue
        for tier in CHEAPER_TIERS:
            match = prices.resolve(
                billed.model, asked=result.asked_model, service_tier=tier, at=billed.at
            )
            if match is None or match.matched_by in (MatchedBy.OVERRIDE, MatchedBy.LOCAL):
                continue  # the job's own prices know no tiers, nor does this machine
            quote = prices.quote(replace(billed, service_tier=tier), asked=result.asked_model)
            if quote.dollars is not None and Doubt.UNKNOWN_TIER not in quote.doubts:
                alternative = group.cheaper.setdefault(tier, Alternative())
                alternative.usd += quote.dollars
                alternative.instead_of += paid
    return group


def _fields_of_result(ledger: _Ledger, result: RowResult) -> Mapping[By, str]:
    return {
        By.MODEL: result.model or result.asked_model or _UNKNOWN,
        By.DAY: _day_of(result.started_at or result.finished_at),
        By.RUN: result.run_id or _UNKNOWN,
        By.STATUS: str(result.status),
        By.JOB: ledger.job,
    }


def _fields_of_intent(ledger: _Ledger, intent: Intent, at: float | None) -> Mapping[By, str]:
    return {
        By.MODEL: intent.model or _UNKNOWN,
        By.DAY: _day_of(at),
        By.RUN: intent.run_id or _UNKNOWN,
        By.STATUS: LOST,
        By.JOB: ledger.job,
    }


def _day_of(at: float | None) -> str:
    return _UNKNOWN if at is None else datetime.fromtimestamp(at, UTC).date().isoformat()


def _ledgers(places: Iterable[str | Path | RunPlace]) -> Iterator[_Ledger]:
    """Each run directory once, however often it was named."""
    seen: set[Path] = set()
    for place in places:
        for ledger in [_of_run(place)] if isinstance(place, RunPlace) else _ledgers_at(Path(place)):
            where = ledger.path.resolve()
            if where not in seen:
                seen.add(where)
                yield ledger


def names_a_job(name: str) -> bool:
    """Neither what a run or a batch wrote, nor a folder: what is left is a job file's name."""
    path = Path(name)
    return not (path.is_dir() or _is_batch_output(path) or run_folder(name) is not None)


def _is_batch_output(path: Path) -> bool:
    return path.is_file() and inner_suffix(path) == ".jsonl"


def _ledgers_at(place: Path) -> Iterator[_Ledger]:
    # A run has paid for its failures, too: once.
    for output in (place, answers_path(place)) if _is_batch_output(place) else (place,):
        if (folder_of_run := run_folder(str(output))) is not None:
            yield _of_run(remembered(folder_of_run))
            return
    if _is_batch_output(place):
        yield _Ledger(job=place.name, path=place, biller=Biller(PriceBook({})))
        return
    if not place.is_dir():
        place_named(str(place))  # refuses a table that no run has written
        yield _of_run(place_of_job(load_job(place)))
        return
    found = False
    for folder, subfolders, _ in os.walk(place):
        path = Path(folder)
        if (path / "journal").is_dir():
            found = True
            subfolders.clear()
            yield _of_run(remembered(path))
        subfolders.sort()
    if not found:
        raise UsageError(
            f"{place} holds no run directory",
            hint="name a job file, a run directory (<output>.run), or a folder above some",
        )


def _of_run(place: RunPlace) -> _Ledger:
    return _Ledger(job=place.job, path=place.path, biller=place.biller)

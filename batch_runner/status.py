"""How far a job is, read from its journal without a lock, also while it runs."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batch_runner.amounts import commonest, duration, many, pace, percent, tokens_in_words
from batch_runner.bill import Bill
from batch_runner.changes import journal_gone
from batch_runner.drift import asked_by_flags, has_other_input, request_drift
from batch_runner.gauge import WINDOW_SECONDS, Gauge
from batch_runner.invocation import last_invocation, meant_by
from batch_runner.journal import DamagedManifest, Holder, Manifest, damage_in_words, is_locked
from batch_runner.meta import notes_of
from batch_runner.money_view import CAUSES, bound_words
from batch_runner.outset import Endings
from batch_runner.plan import unfinished
from batch_runner.printable import one_line
from batch_runner.records import WANTING, RowStatus
from batch_runner.remedy import all_pass, command, way_out
from batch_runner.report import failed_name
from batch_runner.run_place import RunPlace, output_of


_MONEY = ("tokens", "cost_usd", "cost_usd_at_least", "cost_usd_at_most", "unpriced_calls")
MOST_CODES = 6
LONGEST_CODE = 60
LONGEST_REASON = 500
MOST_NOTES = 3
LONGEST_NOTE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A job's progress at one moment."""

    job: str
    invocation: str | None = None
    """What to type behind a command to mean this job."""
    rows: int | None = None
    """Rows of the input when the last run began; None when no run has begun."""
    endings: Endings = field(default_factory=Counter)
    """Of those rows, by status and code; of all results in the journal where `rows` is None."""
    sharing: int = 0
    """Rows that take the answer of an equal row; not among `endings`."""
    to_send: int | None = None
    """Rows that the run going on has left to send, or else the next one would send."""
    in_flight: int = 0
    lost: int = 0
    """Calls that were in flight when their process died."""
    holder: Holder | None = None
    """Who is running it now."""
    ended_in_order: bool | None = None
    """Whether the last run did; None when there was none."""
    input_changed: bool | None = False
    """None: its files are copies, or were written since, and nobody knows what they held."""
    request_changed: str = ""
    """In words, what the job of today asks otherwise than the last run did, with the same flags."""
    asked_by_flags: str = ""
    """In words, what the flags of the last run asked that the job alone does not."""
    alone: str | None = None
    """What to type behind a command to mean the job without them."""
    moved_on: str = ""
    """Why no job of today writes here any more, in words."""
    today: str | None = None
    """What to type behind a command to mean the job as it is described now."""
    damaged: int = 0
    is_made_good: bool = False
    """No row is without a result for the damage."""
    rows_per_second: float | None = None
    """Over the last minute of the run going on; None when it is too young to tell."""
    last_row_at: float | None = None
    """Unix time at which the last row ended."""
    now: float = 0.0
    bill: Bill = field(default_factory=Bill)
    """Of all runs, lost calls included."""
    put_aside: int = 0  # journals of before `--fresh`, whose calls are not on the bill
    journal_gone: str = ""
    """In words, what lacks its journal, what a run would do, and the ways out."""
    notes: tuple[str, ...] = ()
    """What the last run wanted to be known: of a quiet one nobody has read it."""
    output_written_at: float | None = None
    """Unix time; None where there is no output."""

    @property
    def statuses(self) -> Counter[RowStatus]:
        found: Counter[RowStatus] = Counter()
        for (status, _), n in self.endings.items():
            found[status] += n
        return found

    @property
    def codes(self) -> Counter[str]:
        """Rows without a full answer, by error code."""
        found: Counter[str] = Counter()
        for (status, code), n in self.endings.items():
            if status in WANTING:
                found[str(code or "no_request")] += n  # of an earlier version, which kept no code
        return found

    @property
    def has_begun(self) -> bool:
        """Somebody runs the job, or has."""
        return self.holder is not None or self.rows is not None or bool(self.endings)

    @property
    def ended(self) -> int:
        """Rows that no run sends again by itself; without an input, all results there are."""
        if self.rows is None:
            return sum(n for status, n in self.statuses.items() if status is not RowStatus.PENDING)
        for_good = sum(n for (s, code), n in self.endings.items() if not unfinished(s, code))
        # A `retry` going on sends some of these.
        return min(for_good, self._own_rows - (self.to_send or 0))

    @property
    def _may_differ(self) -> bool:
        """The rows of the input may be others than those that were counted."""
        return self.input_changed is not False

    @property
    def _own_rows(self) -> int:
        """Rows of the input with a call of their own."""
        return (self.rows or 0) - self.sharing

    @property
    def eta_seconds(self) -> float | None:
        if not self.rows_per_second or self.to_send is None or self.holder is None:
            return None
        return self.to_send / self.rows_per_second

    @property
    def lacks_output(self) -> bool:
        """Rows have ended that no output shows: a run that is killed, or stopped, writes none."""
        if self.last_row_at is None:
            return False
        # Some file systems keep whole seconds.
        return self.output_written_at is None or self.output_written_at < int(self.last_row_at)

    def lines(self) -> list[str]:
        """For people."""
        return [
            self._headline(),
            *self._since(),
            *self._rows(),
            *self._journal(),
            f"  {self._state()}",
            *self._calls(),
            *self._money(),
            *self._output(),
            *self._notes(),
        ]

    def _headline(self) -> str:
        if self.rows is None:
            if found := self.ended:
                told = f"{many(found, 'result')}; how many rows the input has is not known here"
            else:
                told = "its journal is gone" if self.journal_gone else "no run has begun"
            return f"{self.job}: {told}"
        total = self._own_rows
        share = f" ({percent(self.ended, total)})" if total else ""
        words = [f"{self.job}: {self.ended:,} of {many(total, 'row')} ended{share}"]
        if self.holder is None and (self.request_changed or self._may_differ or self.moved_on):
            words[0] += " when it was last run"
        if self.to_send:
            words.append(f"{self.to_send:,} to send")
        if self.to_send is not None and (later := total - self.ended - self.to_send):
            words.append(f"{later:,} left for a later run")
        return ", ".join(words)

    def _since(self) -> Iterator[str]:
        """What has become of the job and its input, and how to see what that comes to."""
        if self.moved_on:
            yield f"  since    {one_line(self.moved_on, LONGEST_REASON)}"
        changed = [self.request_changed] if self.request_changed else []
        if self._may_differ:
            how = (
                "has changed"
                if self.input_changed
                else "may have changed (its files have other times)"
            )
            changed.append(f"the input {how}: these are the rows of before")
        if changed:
            yield f"  since    {'; '.join(changed)}"
            if self.today is not None:
                run = command("run", self.today)
                yield f"           to see what would be sent     -> {run} --dry-run"
        elif self.asked_by_flags and self.alone is not None:
            yield f"  asked    {self.asked_by_flags}"
            run = command("run", self.alone)
            yield f"           to see what that would send     -> {run} --dry-run"

    def _rows(self) -> Iterator[str]:
        """How they stand, and what to do about those without a full answer."""
        statuses, codes = self.statuses, self.codes
        if words := [f"{statuses[status]:,} {status}" for status in RowStatus if statuses[status]]:
            yield f"  rows     {', '.join(words)}"
        if self.sharing:
            yield f"           and {self.sharing:,} that take the answer of an equal row"
        if codes:
            most = commonest(codes, MOST_CODES)
            named = [f"{n:,} {one_line(code, LONGEST_CODE)}" for code, n in most]
            more = len(codes) - len(most)
            named += [f"{more} other codes"] if more else []
            yield f"  {failed_name(statuses)}   {', '.join(named)}{self._way_out()}"

    def _journal(self) -> Iterator[str]:
        if self.journal_gone:
            yield f"  journal  {one_line(self.journal_gone, LONGEST_REASON)}"

    def _state(self) -> str:
        if self.holder is not None:
            return f"running  {_who(self.holder, self.now)}"
        words = "not running"
        if self.ended_in_order is False:
            words += "; the last run was killed"
        if self.to_send and self.invocation is not None and not self.journal_gone:
            words += f"; to go on     -> {command('run', self.invocation)}"
        return words

    def _way_out(self) -> str:
        """For rows that no run sends again by itself; those that one sends have theirs below."""
        if self.holder is not None or self.invocation is None or all_pass(self.codes):
            return ""
        return f"     -> {one_line(way_out(self.codes, self.statuses, self.invocation), 500)}"

    def _calls(self) -> Iterator[str]:
        """How they come along."""
        if self.last_row_at is not None:
            since = max(0.0, self.now - self.last_row_at)
            ago = "the last row ended " + ("just now" if since < 1 else f"{duration(since)} ago")
            name = "pace" if self.holder is not None else "time"
            yield f"  {name}     {', '.join([*self._pace(), ago])}"
        elif self.holder is not None:
            yield "  pace     no row has ended yet"
        if self.holder is not None and self.in_flight:
            yield f"  calls    {self.in_flight:,} in flight"

    def _pace(self) -> Iterator[str]:
        rate = self.rows_per_second
        if self.holder is None or rate is None:
            return
        yield pace(rate) if rate else "no row in the last minute"
        if eta := self.eta_seconds:
            yield f"about {duration(max(1.0, eta))} left"

    def _money(self) -> Iterator[str]:
        bill = self.bill
        if bill.answered:
            yield f"  tokens   {tokens_in_words(bill.tokens)}"
        if bill.answered or bill.unknown_calls:
            so_far = " since --fresh" * bool(self.put_aside) + " so far" * bool(self.holder)
            unpriced = f", {many(bill.unpriced, 'call')} without a price" if bill.unpriced else ""
            yield f"  cost     {bound_words(bill)}{so_far}{unpriced}"
        for cause, calls in sorted(bill.unknown.items()):
            yield f"  unknown  billing of {many(calls, 'call')}: {CAUSES[cause]}"

    def _output(self) -> Iterator[str]:
        """What it lacks."""
        if self.lacks_output and self.holder is None and self.invocation is not None:
            state = "none yet" if self.output_written_at is None else "older than the last rows"
            export = command("export", self.invocation)
            yield f"  output   {state}; to write what there is     -> {export}"

    def _notes(self) -> Iterator[str]:
        """What is known of the journal now, and what the last run said besides."""
        damage = [damage_in_words(self.damaged)] if self.damaged and not self.is_made_good else []
        notes = [*dict.fromkeys([*damage, *self.notes])]
        for note in notes[:MOST_NOTES]:
            yield f"  note     {one_line(note, LONGEST_NOTE)}"
        if more := len(notes[MOST_NOTES:]):
            yield f"           and {more} more, as status --json shows"

    def to_json(self) -> dict[str, Any]:
        holder, eta, money = self.holder, self.eta_seconds, self.bill.to_json()
        return {
            "job": self.job,
            "rows": self.rows,
            "rows_finished": self.ended,
            "rows_to_send": self.to_send,
            "rows_sharing": self.sharing,
            "statuses": {str(status): n for status, n in self.statuses.items()},
            "error_codes": dict(commonest(self.codes)),
            "calls_in_flight": self.in_flight if holder else 0,
            "calls_lost": self.lost,
            "calls_unknown": self.bill.unknown_calls - self.lost,
            "calls_without_result": self.lost + (self.in_flight if holder else 0),
            "running": holder is not None,
            "pid": holder.pid if holder else None,
            "host": holder.host if holder else None,
            "running_since": _utc(holder.started_at) if holder else None,
            "rows_per_second": None if self.rows_per_second is None else round(self.rows_per_second, 3),
            "eta_seconds": None if eta is None else round(eta),
            "last_row_at": _utc(self.last_row_at),
            **{name: money[name] for name in _MONEY},
            "journals_put_aside": self.put_aside,
            "output_is_current": not self.lacks_output,
            "input_changed": self.input_changed,
            "request_changed": bool(self.request_changed),
            "damaged_journal_records": self.damaged,
            "journal_gone": bool(self.journal_gone),
            "warnings": [*self.notes],
        }  # fmt: skip


def read_status(
    place: RunPlace, gauge: Gauge | None = None, *, wall_clock: Callable[[], float] = time.time
) -> Status:
    """The job's status now; takes no lock, sends nothing. A gauge of before reads only what is new."""
    # Asked first: who ends in between has written all there is to read.
    holder = is_locked(place.directory)
    gauge = gauge or Gauge(place)
    gauge.read(is_running=holder is not None)
    now = wall_clock()
    outset, manifest, endings, job = gauge.outset, gauge.manifest, gauge.endings, place.today
    invocation, drift, flags = _invocation(place, manifest), "", ""
    # Of a run that has begun since with other flags nobody has read the job with those.
    if manifest is not None and job is not None and invocation == place.invocation:
        drift = request_drift(manifest, job)
        flags = asked_by_flags(manifest, place.alone) if place.alone and not drift else ""
    return Status(
        job=place.job,
        invocation=invocation,
        rows=outset.rows if outset else None,
        endings=endings,
        sharing=outset.sharing if outset else 0,
        to_send=_to_send(gauge, endings, is_running=holder is not None),
        in_flight=gauge.in_flight,
        lost=len(gauge.lost(is_running=holder is not None)),
        holder=holder,
        ended_in_order=gauge.ended_in_order,
        input_changed=manifest is not None and has_other_input(manifest, outset, job),
        request_changed=drift,
        asked_by_flags=flags,
        alone=None if place.alone is None else place.alone.invocation,
        moved_on=place.moved_on,
        today=None if job is None else job.invocation,
        damaged=gauge.damaged,
        is_made_good=gauge.is_made_good,
        rows_per_second=_rows_per_second(gauge, now) if holder else None,
        last_row_at=gauge.finished[-1] if gauge.finished else None,
        now=now,
        bill=gauge.bill(is_running=holder is not None),
        put_aside=len(place.directory.put_aside_by()),
        journal_gone="" if job is None or holder is not None else journal_gone(job, gauge.index),
        notes=() if outset is None else notes_of(output_of(place.path), since=outset.run_id),
        output_written_at=_output_written_at(place),
    )


def _invocation(place: RunPlace, manifest: Manifest | DamagedManifest | None) -> str | None:
    """That of the last run, which a watcher may have waited for."""
    if place.invocation is not None and place.today is not None:
        return meant_by(place.today, manifest)
    last = last_invocation(manifest, output=output_of(place.path))
    return str(last) if last is not None and place.invocation is not None else place.invocation


def _output_written_at(place: RunPlace) -> float | None:
    try:
        return output_of(place.path).stat().st_mtime
    except OSError:
        return None


def _to_send(gauge: Gauge, endings: Endings, *, is_running: bool) -> int | None:
    if gauge.outset is None:
        return None
    if is_running:
        return max(0, gauge.outset.to_send - gauge.sent)
    return sum(n for (status, code), n in endings.items() if unfinished(status, code))


def _rows_per_second(gauge: Gauge, now: float) -> float | None:
    """Over the last minute, or as long as the run going on has lasted."""
    since = max(now - WINDOW_SECONDS, gauge.began_at or 0.0)
    if now - since < 1.0:
        return None
    return sum(moment >= since for moment in gauge.finished) / (now - since)


def _who(holder: Holder, now: float) -> str:
    if holder.pid is None:
        return "a run is going on"
    words = [f"pid {holder.pid} on {holder.host}"]
    if holder.started_at is not None:
        since = datetime.fromtimestamp(holder.started_at, UTC)
        lasted = duration(max(0.0, now - holder.started_at))
        words.append(f"since {since:%Y-%m-%d %H:%M:%S} UTC ({lasted})")
    return " ".join(words)


def _utc(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

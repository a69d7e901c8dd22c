"""Reads off a journal how far its job is, without a lock and without its input, again and again.

Of the rows of the input the manifest tells how they stood when the last run began (`outset`);
from there each new line of the journal moves one. Costs about 20 microseconds of CPU a result,
once: what has been read is not read again, nor what a shortcut tells of runs that have ended.
"""

from binascii import unhexlify
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice

from batch_runner.bill import Bill
from batch_runner.journal import Growth, Index, Intent, Manifest, read_manifest
from batch_runner.journal.flights import Flights
from batch_runner.journal.record import (
    END,
    GRATIS,
    INTENT,
    KEY_AT,
    QUEUED,
    RESULT,
    Dues,
    read_dues,
    read_intent,
    read_result,
    read_state,
    state_of,
)
from batch_runner.journal.scan import Line, Numbers, Segment, find_segments, read_lines
from batch_runner.outset import (
    Endings,
    Outset,
    damage_met,
    endings_of,
    places_of,
    read_outset,
    unmet,
)
from batch_runner.records import ANSWERED, RowStatus
from batch_runner.run_place import RunPlace
from batch_runner.shortcut import digest_of_prices, read_shortcut


WINDOW_SECONDS = 60.0
"""The pace is that of the last minute."""


class Gauge:
    """What the journal has told so far; `read` makes it current."""

    def __init__(self, place: RunPlace) -> None:
        self._place = place
        self.outset: Outset | None = None
        """None where the manifest does not tell."""
        self.manifest: Manifest | None = None
        self._has_begun = False
        self._begin()

    def _begin(self) -> None:
        self._growth = Growth(self._place.directory)
        self.index = Index()
        self._moved: Counter[int] = Counter()
        """By ending: rows that came to it since the outset, less those that left it."""
        self._ended: Endings | None = None
        """How the rows stood at the end of the run that the outset belongs to, where that is known."""
        self._flights = Flights()
        self._writer: object = None
        self._lost: tuple[Intent, ...] = ()
        """Calls that the shortcut knows to be lost."""
        self.sent = 0
        """Results of the run that the outset belongs to."""
        self.ended_in_order: bool | None = None
        """Whether the last process said so; None when there was none."""
        self._spent = Bill()
        self.began_at: float | None = None
        """When the last process began, Unix time."""
        self.finished: deque[float] = deque()
        """When the results of the last minute of work came, oldest first."""

    @property
    def endings(self) -> Endings:
        """The rows of the input by status and code; without an outset, all results there are."""
        if self.outset is None:
            return self.index.endings(range(len(self.index)))
        endings = Counter(self.outset.endings if self._ended is None else self._ended)
        endings.update({self.index.named(number): n for number, n in self._moved.items()})
        return +endings

    @property
    def in_flight(self) -> int:
        """Rows whose call the last process has begun and not ended."""
        return len(self._flights.open.keys() | self._flights.waiting.keys())

    def lost(self, *, is_running: bool) -> list[Intent]:
        """Calls that were in flight when their process died, or whose record is damaged."""
        flights = self._flights
        lost, unread = (flights.lost, flights.unread) if is_running else flights.untold()
        if not is_running:
            lost = [*lost, *chain.from_iterable(flights.waiting.values())]
        return [
            *self._lost,
            *(read_intent(line) for _, line in lost),
            *(replace(read_intent(line), has_ended=True) for _, line in unread),
        ]

    def bill(self, *, is_running: bool) -> Bill:
        """Of all runs, lost calls included; of attempts that cost nothing it knows nothing."""
        bill = Bill()
        bill.merge(self._spent)
        for intent in self.lost(is_running=is_running):
            bill.merge(self._place.biller.bill_lost(intent, at=None))
        bill.calls = bill.answered + bill.unknown_calls
        return bill

    @property
    def damaged(self) -> int:
        """Places that no killed run explains."""
        return len(places_of(self._growth.damage))

    @property
    def is_made_good(self) -> bool:
        """A run has met all damage since, and none of its rows is without a result."""
        return not (unmet(self._growth.damage, damage_met(self.outset)) or self.waiting)

    @property
    def waiting(self) -> int:
        """Rows of the input without a result."""
        return sum(n for (status, _), n in self.endings.items() if status is RowStatus.PENDING)

    def read(self, *, is_running: bool = False) -> None:
        """What has come since the last time is counted. Raises as `journal.replay` does.

        `is_running`: somebody holds the lock.
        """
        manifest = read_manifest(self._place.directory.manifest)
        self.manifest = manifest if isinstance(manifest, Manifest) else None
        outset = read_outset(manifest)
        if not self._has_begun or outset != self.outset or self._growth.is_replaced():
            self.outset = outset
            self._begin()
            self._has_begun = True
            self._take_shortcut(is_running=is_running)
        for segment, lines in self._growth.news():
            self._enter(segment)
            self._count(segment, lines)

    def _take_shortcut(self, *, is_running: bool) -> None:
        """What is known of the journal's first segments need not be read from them."""
        directory = self._place.directory
        shortcut = read_shortcut(directory)
        if shortcut is None or shortcut.bill is None:
            return
        known, bill = shortcut.known, shortcut.bill
        segments = find_segments(directory)
        if bill.at_prices != digest_of_prices(self._place.biller) or not known.is_continued_by(
            segments
        ):
            return
        if self.outset is not None and any(run.run_id == self.outset.run_id for run in known.runs):
            plan, made_of = shortcut.plan, self.outset.made_of
            # While it goes on, how many it has sent is wanted as well.
            if is_running or made_of is None or plan is None or plan.made_of != made_of:
                return
            self._ended = endings_of(plan.plan, known.index, copies=False)
        self._growth.pass_over(known.index.files)
        self.index, self._lost = known.index, known.unknown
        if known.runs:
            self.began_at = known.runs[-1].started_at
            self.ended_in_order = known.runs[-1].ended_cleanly
        self._spent.merge(bill.bill)
        paths = {segment.path.name: segment.path for segment in segments}
        for name in known.index.files[bill.segments :]:
            for _, data, is_copy in read_lines(paths[name], numbers=Numbers(), damage=[]):
                if data.startswith(RESULT) and not is_copy:
                    status, _ = read_state(state_of(data))
                    self._pay(data, has_answer=status in ANSWERED)
        if not self.finished and (last := known.index.last_placed()) is not None:
            path = paths[known.index.files[last.file]]
            with closing(
                read_lines(path, numbers=Numbers(), damage=[], start=last.offset)
            ) as lines:
                for _, data, _ in islice(lines, 1):
                    self._note_end(read_dues(data))

    def _enter(self, segment: Segment) -> None:
        """Calls of an earlier process that are still open will never be answered there."""
        self._flights.enter(segment)
        if segment.writer != self._writer:
            self.ended_in_order = False
            self.began_at = segment.header.started_at if segment.header else None
        self._writer = segment.writer

    def _count(self, segment: Segment, lines: Iterator[Line]) -> None:
        run_id = segment.header.run_id if segment.header else None
        is_current = self.outset is not None and self.outset.run_id == run_id
        file = self.index.open_file(segment.path.name)
        states: dict[bytes, int] = {}
        answered: dict[bytes, bool] = {}
        for offset, data, is_copy in lines:
            if is_copy:
                continue
            name = data[KEY_AT]
            if data.startswith(RESULT):
                self._flights.open.pop(name, None)
                self._flights.told(name, data)
                state = state_of(data)
                if state not in states:
                    status, code = read_state(state)
                    states[state] = self.index.ending(status, code)
                    answered[state] = status in ANSWERED
                place = (file, offset, len(data))
                self._record(unhexlify(name), states[state], place, is_current=is_current)
                self._pay(data, has_answer=answered[state])
            elif data.startswith(INTENT):
                self._flights.begin(name, data)
            elif data.startswith(QUEUED):
                self._flights.queue(name, data)
            elif data.startswith(GRATIS):
                self._flights.open.pop(name, None)
            elif data.startswith(END):
                self._flights.close()
                self.ended_in_order = True

    def _record(
        self, key: bytes, ending: int, place: tuple[int, int, int], *, is_current: bool
    ) -> None:
        index = self.index
        number = index.add(key)
        before = index.ending_of(number)
        index.record(key, ending, *place)
        if is_current:
            self.sent += 1
            self._moved[before] -= 1
            self._moved[index.ending_of(number)] += 1

    def _pay(self, data: bytes, *, has_answer: bool) -> None:
        dues, biller = read_dues(data), self._place.biller
        # Rare rows must be read whole to say what they may have cost.
        if dues.unknown or not biller.add_told(
            self._spent, dues.billed, asked=dues.asked_model, has_answer=has_answer
        ):
            biller.add(self._spent, read_result(data))
        self._note_end(dues)

    def _note_end(self, dues: Dues) -> None:
        if dues.finished_at is not None:
            self.finished.append(dues.finished_at)
            while self.finished[0] < dues.finished_at - WINDOW_SECONDS:
                self.finished.popleft()

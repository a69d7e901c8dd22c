"""Look at every record of a journal and say what is there, what is damaged and what that has lost."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from batch_runner.amounts import many
from batch_runner.disk import REAL_DISK, Disk
from batch_runner.journal.directory import RunDirectory
from batch_runner.journal.flights import Flights
from batch_runner.journal.record import END, GRATIS, HEADER, INTENT, KEY_AT, QUEUED, RESULT
from batch_runner.journal.scan import Damage, Segment, read_journal


_KINDS = (HEADER, INTENT, QUEUED, RESULT, GRATIS, END)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a journal holds, line by line. Lines that are copies of others count as damage only."""

    segments: int
    headers: int
    intents: int
    queued: int
    """Background responses given an id."""
    results: int
    gratis: int
    """Rows given up before they cost anything."""
    ends: int
    other: int
    """Intact lines of kinds this batch_runner does not know."""
    lost: int = 0
    """Rows whose result stood where the journal is damaged, as far as their attempts tell of them."""
    again: int = 0
    """Those of them that have a later result."""
    damage: tuple[Damage, ...]

    def lines(self) -> Iterator[str]:
        """For people: what is there, and each damaged place."""
        yield (
            f"{many(self.segments, 'segment')}: {many(self.results, 'result')}, "
            f"{many(self.intents, 'attempt')} begun, "
            f"{many(self.headers, 'header')}, {many(self.ends, 'clean end')}"
        )
        if self.other:
            yield f"{many(self.other, 'intact line')} of an unknown kind"
        for place in self.damage:
            yield f"{place.segment} at byte {place.offset:,}: {place.kind}: {place.reason}"
        if self.lost == 1:
            again = "has ended again since" if self.again else "has not ended again yet"
            yield f"lost: the result of 1 row; it {again}"
        elif self.lost:
            again = {0: "none", self.lost: "all"}.get(self.again, f"{self.again:,}")
            yield f"lost: the results of {self.lost:,} rows; ended again since: {again}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_sound": self.is_sound}

    @property
    def is_sound(self) -> bool:
        """Nothing is damaged but the torn ends that killed runs leave."""
        return all(found.is_expected for found in self.damage)


def verify(directory: RunDirectory, *, disk: Disk = REAL_DISK) -> VerifyReport:
    """Every byte of the journal has been read and checked. Raises as `replay` does."""
    damage: list[Damage] = []
    counts: Counter[bytes] = Counter()
    losses = _Losses()
    segments = 0
    for segment, lines in read_journal(directory, damage=damage, disk=disk):
        segments += 1
        losses.enter(segment)
        for _, data, is_copy in lines:
            if not is_copy:
                kind = next((kind for kind in _KINDS if data.startswith(kind)), b"")
                counts[kind] += 1
                losses.take(kind, data)
    losses.end()
    return VerifyReport(
        segments=segments,
        headers=counts[HEADER],
        intents=counts[INTENT],
        queued=counts[QUEUED],
        results=counts[RESULT],
        gratis=counts[GRATIS],
        ends=counts[END],
        other=counts[b""],
        lost=len(losses.ended),
        again=sum(losses.ended.values()),
        damage=tuple(damage),
    )


class _Losses:
    """Which rows have lost their result, as far as attempts are left that tell of them."""

    def __init__(self) -> None:
        self.ended: dict[bytes, bool] = {}
        """Key of each such row, and whether a later process has a result for it."""
        self._flights = Flights()

    def enter(self, segment: Segment) -> None:
        self._flights.enter(segment)
        self._note()

    def end(self) -> None:
        """There is no further segment."""
        self._flights.land()
        self._note()

    def _note(self) -> None:
        for _, intent in self._flights.unread:
            self.ended.setdefault(intent[KEY_AT], False)
        self._flights.unread.clear()

    def take(self, kind: bytes, data: bytes) -> None:
        name = data[KEY_AT]
        if kind == INTENT:
            self._flights.begin(name, data)
        elif kind == QUEUED:
            self._flights.queue(name, data)
        elif kind == END:
            self._flights.close()
        elif kind in (RESULT, GRATIS):
            self._flights.open.pop(name, None)
            if kind == RESULT:
                self._flights.told(name, data)
                if name in self.ended:
                    self.ended[name] = True

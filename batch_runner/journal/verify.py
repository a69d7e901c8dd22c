"""Look at every record of a journal and say what is there and what is damaged."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from batch_runner.amounts import many
from batch_runner.disk import REAL_DISK, Disk
from batch_runner.journal.directory import RunDirectory
from batch_runner.journal.record import END, GRATIS, HEADER, INTENT, QUEUED, RESULT
from batch_runner.journal.scan import Damage, read_journal


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
    damage: tuple[Damage, ...]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (
            f"{many(self.segments, 'segment')}: {many(self.results, 'result')}, "
            f"{many(self.intents, 'attempt')} begun, "
            f"{many(self.headers, 'header')}, {many(self.ends, 'clean end')}"
        )
        if self.other:
            yield f"{many(self.other, 'intact line')} of an unknown kind"
        for place in self.damage:
            yield f"{place.segment} at byte {place.offset:,}: {place.kind}: {place.reason}"
        damaged = many(len(self.damage), "damaged place")
        yield "every record is intact" if not self.damage else damaged

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
    kinds = (HEADER, INTENT, QUEUED, RESULT, GRATIS, END)
    segments = 0
    for _, lines in read_journal(directory, damage=damage, disk=disk):
        segments += 1
        for _, data, is_copy in lines:
            if not is_copy:
                counts[next((kind for kind in kinds if data.startswith(kind)), b"")] += 1
    return VerifyReport(
        segments=segments,
        headers=counts[HEADER],
        intents=counts[INTENT],
        queued=counts[QUEUED],
        results=counts[RESULT],
        gratis=counts[GRATIS],
        ends=counts[END],
        other=counts[b""],
        damage=tuple(damage),
    )

"""Read a segment whatever happened to it: every intact line is found, every damage is told."""

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

from batch_runner.amounts import many
from batch_runner.disk import REAL_DISK, Disk, explained
from batch_runner.journal.directory import RunDirectory
from batch_runner.journal.line import is_line, number
from batch_runner.journal.record import HEADER, Header, read_header


_CHUNK_BYTES = 4 << 20


class DamageKind(StrEnum):
    """What is wrong with a place in the journal."""

    TORN = "torn"
    """A segment ends in bytes that are no line: the process or the machine died while writing."""
    CORRUPT = "corrupt"
    """Bytes that are no line, with intact lines after them: the file was changed afterwards."""
    GAP = "gap"
    """Lines or a whole segment are gone without a trace but for their numbers."""
    DOUBLED = "doubled"
    """A line is there twice; the second one counts for nothing."""
    MISPLACED = "misplaced"
    """A line or a segment is not where it was written; it counts all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One damaged place. The rows it held will be asked again; no other row is affected."""

    segment: str
    offset: int
    length: int
    kind: DamageKind
    reason: str

    @property
    def is_expected(self) -> bool:
        """What a killed process leaves behind; anything else happened to the file afterwards."""
        return self.kind is DamageKind.TORN


def damage_in_words(places: int) -> str:
    """For whoever goes on all the same."""
    return (
        f"{many(places, 'damaged place')} in the journal: batch-runner verify tells; "
        "rows that stood there are asked again"
    )


Line = tuple[int, bytes, bool]
"""Offset of an intact line, the line without its newline, and whether one of its number came before.
A plain tuple: recovery makes millions of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment file as found."""

    path: Path
    number: int
    """By its name."""
    header: Header | None
    """None when its first line is damaged or gone."""

    @property
    def writer(self) -> object:
        """Equal for the segments of one process. A segment without a header stands alone."""
        return (self.header.run_id, self.header.first) if self.header else self.path


class Numbers:
    """The line numbers seen in one segment, and those that are missing."""

    def __init__(self) -> None:
        self.next = 0
        self._missing: list[tuple[range, int, bool]] = []

    def jump(self, n: int, offset: int, *, explained: bool) -> None:
        """Line `n` came next; `explained` when damaged bytes stand where those before it should be."""
        if n > self.next:
            self._missing.append((range(self.next, n), offset, explained))
        self.next = n + 1

    def was_missing(self, n: int) -> bool:
        """True when `n` had been skipped: it is missing no longer."""
        for position, (span, offset, told) in enumerate(self._missing):
            if n in span:
                halves = (range(span.start, n), range(n + 1, span.stop))
                self._missing[position : position + 1] = [
                    (half, offset, told) for half in halves if half
                ]
                return True
        return False

    def gaps(self) -> Iterator[tuple[range, int]]:
        """Numbers that never came, with the offset at which they should have."""
        return ((span, offset) for span, offset, explained in self._missing if not explained)


def find_segments(directory: RunDirectory, *, disk: Disk = REAL_DISK) -> list[Segment]:
    """The segments in the order they were written: by their headers, where names are wrong."""
    with explained("read the journal in", directory.segments):
        segments = [
            Segment(path=path, number=n, header=header_of(path, disk=disk))
            for n in directory.segment_numbers(disk=disk)
            for path in [directory.segment(n)]
        ]
    return sorted(segments, key=lambda s: s.header.segment if s.header else s.number)


def missing_segments(segments: list[Segment], directory: RunDirectory) -> Iterator[Damage]:
    """Segments whose number nobody has, or that bear another's name."""
    present = {segment.number for segment in segments}
    for n in range(max(present, default=-1)):
        if n not in present:
            yield _damage(directory.segment(n), 0, 0, DamageKind.GAP, "the segment is missing")
    for segment in segments:
        if segment.header and segment.header.segment != segment.number:
            reason = f"it was written as segment {segment.header.segment}"
            yield _damage(segment.path, 0, 0, DamageKind.MISPLACED, reason)


def read_journal(
    directory: RunDirectory, *, damage: list[Damage], disk: Disk = REAL_DISK
) -> Iterator[tuple[Segment, Iterator[Line]]]:
    """Each segment with its lines, to be taken in turn; `damage` is complete after the last.

    Raises StorageError when a file cannot be read: guessing would pay for rows again.
    """
    segments = find_segments(directory, disk=disk)
    damage.extend(missing_segments(segments, directory))
    numbers: dict[object, tuple[Path, Numbers]] = {}
    for segment in segments:
        # By what it was written as, so that a copied segment shows as copies of lines.
        written_as = segment.header.segment if segment.header else segment.number
        _, seen = numbers.setdefault((segment.writer, written_as), (segment.path, Numbers()))
        yield segment, read_lines(segment.path, numbers=seen, damage=damage, disk=disk)
    for path, seen in numbers.values():
        for span, offset in seen.gaps():
            damage.append(_damage(path, offset, 0, DamageKind.GAP, _lost(span)))


def read_lines(
    path: Path,
    *,
    numbers: Numbers,
    damage: list[Damage],
    disk: Disk = REAL_DISK,
    start: int = 0,
) -> Generator[Line, None, None]:
    """Every line of the segment whose checksum holds, in file order; appends to `damage`.

    From byte `start` on, where a line begins; `numbers` has seen those before it.
    """
    bad_from: int | None = None
    offset = start
    for data in chain.from_iterable(_pieces(disk, path, start)):
        begin = offset
        offset += len(data) + 1
        if bad_from is None and is_line(data, numbers.next):
            numbers.next += 1
            yield begin, data, False
        elif (n := number(data)) is None:
            bad_from = begin if bad_from is None else bad_from
        else:
            if bad_from is not None:
                reason = _lost(range(numbers.next, n))
                length = begin - bad_from
                damage.append(_damage(path, bad_from, length, DamageKind.CORRUPT, reason))
            is_copy = False
            if n >= numbers.next:
                numbers.jump(n, begin, explained=bad_from is not None)
            else:
                is_copy = not numbers.was_missing(n)
                kind = DamageKind.DOUBLED if is_copy else DamageKind.MISPLACED
                damage.append(_damage(path, begin, len(data), kind, f"line {n} stands here"))
            bad_from = None
            yield begin, data, is_copy
    if bad_from is not None:
        length = min(offset, disk.stat(path).st_size) - bad_from
        damage.append(_damage(path, bad_from, length, DamageKind.TORN, "the file ends in it"))


def _pieces(disk: Disk, path: Path, start: int) -> Iterator[list[bytes]]:
    """What lies between newlines. A piece longer than a chunk is read in ever larger steps."""
    with explained("read", path):
        fd = disk.open(path, os.O_RDONLY)
        try:
            rest = b""
            position = start
            while chunk := (
                disk.pread(fd, max(_CHUNK_BYTES, len(rest)), position)
                if start
                else disk.read(fd, max(_CHUNK_BYTES, len(rest)))
            ):
                position += len(chunk)
                pieces = (rest + chunk).split(b"\n")
                rest = pieces.pop()
                yield pieces
            if rest:
                yield [rest]
        finally:
            disk.close(fd)


def header_of(path: Path, *, disk: Disk = REAL_DISK) -> Header | None:
    """Which process wrote a segment; None where its first line is damaged or gone."""
    with closing(read_lines(path, numbers=Numbers(), damage=[], disk=disk)) as lines:
        line = next(lines, None)
    return read_header(line[1]) if line and line[1].startswith(HEADER) else None


def _lost(span: range) -> str:
    if len(span) <= 1:
        return f"line {span.start} is lost" if span else "no line is missing"
    return f"lines {span.start} to {span[-1]} are lost"


def _damage(path: Path, offset: int, length: int, kind: DamageKind, reason: str) -> Damage:
    return Damage(segment=path.name, offset=offset, length=length, kind=kind, reason=reason)

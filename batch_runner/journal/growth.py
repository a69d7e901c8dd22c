"""A journal that somebody else is writing to, read as it grows: each byte once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from batch_runner.disk import REAL_DISK, Disk, explained
from batch_runner.journal.directory import RunDirectory
from batch_runner.journal.scan import (
    Damage,
    DamageKind,
    Line,
    Numbers,
    Segment,
    find_segments,
    missing_segments,
    read_lines,
)


@dataclass(slots=True)
class _SoFar:
    """How much of a segment has been read."""

    inode: int
    size: int = 0
    """Of the file, when it was last looked at."""
    until: int = 0
    """Where its last intact line ends: what follows may be half a line that is being written."""
    damage: list[Damage] = field(default_factory=list)


class Growth:
    """The lines of a journal, given out as they come. Takes no lock and writes nothing."""

    def __init__(self, directory: RunDirectory, *, disk: Disk = REAL_DISK) -> None:
        self._directory = directory
        self._disk = disk
        self._read: dict[Path, _SoFar] = {}
        self._numbers: dict[object, Numbers] = {}
        self._missing: list[Damage] = []

    def pass_over(self, names: Iterable[str]) -> None:
        """Whoever reads knows all that these segments hold; their processes have ended.

        Raises StorageError for one that cannot be looked at.
        """
        for path in (self._directory.segments / name for name in names):
            with explained("read", path):
                found = self._disk.stat(path)
            self._read[path] = _SoFar(found.st_ino, size=found.st_size, until=found.st_size)

    def news(self) -> Iterator[tuple[Segment, Iterator[Line]]]:
        """Each segment that has grown, with its new lines, to be taken in turn.

        Raises StorageError when a file cannot be read, UsageError for a later format.
        """
        segments = find_segments(self._directory, disk=self._disk)
        self._missing = list(missing_segments(segments, self._directory))
        for segment in segments:
            with explained("read", segment.path):
                found = self._disk.stat(segment.path)
            so_far = self._read.setdefault(segment.path, _SoFar(found.st_ino))
            # One that is empty still has no header: its writer shows with its first line.
            if found.st_size > so_far.size:
                so_far.size = found.st_size
                yield segment, self._lines(segment, so_far)

    def is_replaced(self) -> bool:
        """What was read is no longer what lies there: `run --fresh` has begun a new journal."""
        for path, so_far in self._read.items():
            try:
                found = self._disk.stat(path)
            except OSError:
                return True
            if found.st_ino != so_far.inode or found.st_size < so_far.size:
                return True
        return False

    @property
    def damage(self) -> list[Damage]:
        """What is wrong with what has been read; half a line at the end may still become a whole one."""
        return [
            *self._missing,
            *(place for so_far in self._read.values() for place in so_far.damage),
        ]

    def _lines(self, segment: Segment, so_far: _SoFar) -> Iterator[Line]:
        written_as = segment.header.segment if segment.header else segment.number
        numbers = self._numbers.setdefault((segment.writer, written_as), Numbers())
        so_far.damage = [place for place in so_far.damage if place.kind is not DamageKind.TORN]
        lines = read_lines(
            segment.path,
            numbers=numbers,
            damage=so_far.damage,
            disk=self._disk,
            start=so_far.until,
        )
        for offset, data, is_copy in lines:
            so_far.until = offset + len(data) + 1
            yield offset, data, is_copy

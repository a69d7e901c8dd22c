"""A segment being written: made by one process, appended to, and never touched again."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from batch_runner.disk import FULL, Disk, sync_folder, write_all
from batch_runner.journal.line import seal


class OpenSegment:
    """A new segment file. Errors are the disk's own OSErrors: who writes knows what follows."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """The file exists, empty, and its name survives a power loss."""
        self.path = path
        self.size = 0
        """Bytes the disk has taken: the offset of the next line."""
        self.is_broken = False
        """A write or a sync has failed: no line may follow here."""
        self._sync_problem: OSError | None = None
        self._next_n = 0
        self._disk = disk
        self._fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            self._inode = disk.stat(path).st_ino
            sync_folder(disk, path.parent)
        except OSError:
            self.close()
            raise

    def seal(self, body: bytes) -> bytes:
        """The body as this segment's next line."""
        line = seal(body, self._next_n)
        self._next_n += 1
        return line

    def append(self, data: bytes, *, make_room: Callable[[OSError], bool]) -> None:
        """All of `data` is in the file: a short write is finished, a full disk is put to `make_room`.

        Raises OSError; `size` tells how far it came.
        """
        rest = memoryview(data)
        while rest:
            begin = self.size
            try:
                for count in write_all(self._disk, self._fd, rest):
                    self.size += count
            except OSError as problem:
                if problem.errno not in FULL or not make_room(problem):
                    self.is_broken = True
                    raise
            rest = rest[self.size - begin :]

    def sync(self) -> None:
        """Every byte is durable. Raises OSError, and from then on the same one at once.

        A sync that failed is never tried again: the kernel may have dropped the pages, and would
        report success for what is lost.
        """
        if self._sync_problem is not None:
            raise self._sync_problem
        try:
            self._disk.fdatasync(self._fd)
        except OSError as problem:
            self._sync_problem = problem
            self.is_broken = True
            raise
        self._check_place()

    def _check_place(self) -> None:
        """Raise OSError for a file that is not found under its name any more.

        What nobody will find again is not durable, whatever the disk says. A file that was moved
        goes on taking lines: all that was in flight is in it when it is put back.
        """
        try:
            found = self._disk.stat(self.path).st_ino
        except FileNotFoundError:
            found = None
        if found != self._inode:
            self.is_broken = not self._disk.links(self._fd)
            raise FileNotFoundError(
                errno.ENOENT, "it was removed" if self.is_broken else "it was moved"
            )

    def close(self) -> None:
        self._disk.close(self._fd)

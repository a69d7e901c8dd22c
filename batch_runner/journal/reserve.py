"""Space set aside, so that what is in flight when the disk fills up can still be stored."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from batch_runner.disk import Disk, explained


_log = logging.getLogger(__name__)


class Reserve:
    """A file that holds space and nothing else."""

    def __init__(self, path: Path, wanted_bytes: int, disk: Disk) -> None:
        """As much as wanted is set aside, or half of a small disk, or nothing; logs when it is less.

        Raises StorageError when no file can be made there at all.
        """
        self._path = path
        self._disk = disk
        with explained("write", path):
            fd = disk.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self.size = self._allocate(fd, wanted_bytes)
        finally:
            disk.close(fd)
        if self.size < wanted_bytes:
            _log.warning(
                "only %d of %d bytes could be set aside in %s: when the disk fills up, "
                "calls in flight may be lost",
                self.size,
                wanted_bytes,
                path.parent,
            )

    def release(self) -> bool:
        """True when this call gave the space back; it can do so once."""
        if not self.size:
            return False
        self.size = 0
        try:
            self._disk.unlink(self._path)
        except OSError:
            return False
        return True

    def _allocate(self, fd: int, wanted_bytes: int) -> int:
        try:
            held = self._disk.stat(self._path).st_blocks * 512  # left by a killed process
            size = min(wanted_bytes, held + self._disk.free_bytes(self._path.parent) // 2)
            if size > 0:
                self._disk.allocate(fd, size)
        except OSError:
            with suppress(OSError):  # an empty file is in nobody's way
                self._disk.unlink(self._path)
            return 0
        return size

"""Publish a file: it appears under its name whole and durable, or not at all."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from batch_runner.disk import REAL_DISK, Disk, explained, make_folders, sync_folder, write_all
from batch_runner.errors import StorageError


if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BUFFER_BYTES = 1 << 20


@contextmanager
def publish(path: Path, *, mode: int | None = None, disk: Disk = REAL_DISK) -> Iterator[BinaryIO]:
    """The file yielded has become `path`, durably, when the block ends without an exception.

    `path` is the old file or the new one at any time, never a part of one; an exception of the
    block leaves the old one. A link is followed: the file it names is replaced. Permission bits:
    `mode`, else those of the file replaced, else the umask's. Folders are made. Raises
    StorageError naming `path` and the cause; errors of the block's own pass through.
    """
    target = Path(os.path.realpath(path))
    temp = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    with explained("write", path):
        make_folders(disk, target.parent)
        mode = _mode_of(target, disk) if mode is None else mode
        fd = _open_new(temp, disk)
    raw = _Unpublished(disk, fd, path)
    file = io.BufferedWriter(raw, _BUFFER_BYTES)
    try:
        with explained("write", path):
            if mode is not None:
                disk.fchmod(fd, mode)
        yield cast("BinaryIO", file)
        file.close()
        with explained("write", path):
            disk.fsync(fd)
            disk.replace(temp, target)
            sync_folder(disk, target.parent)
    except BaseException:
        _remove(temp, disk)
        raise
    finally:
        # A buffer flushed later, by the garbage collector, would land in whichever file has
        # been given this descriptor's number by then.
        raw.abandoned = True
        file.close()
        with explained("write", path):
            disk.close(fd)


class _Unpublished(io.RawIOBase):
    """The temporary file. Closing it leaves the descriptor open: there is still an fsync to do."""

    def __init__(self, disk: Disk, fd: int, path: Path) -> None:
        super().__init__()
        self.abandoned = False
        self._disk = disk
        self._fd = fd
        self._path = path
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: "ReadableBuffer", /) -> int:
        view = memoryview(data).cast("B")
        if not self.abandoned:
            with explained("write", self._path):
                for count in write_all(self._disk, self._fd, view):
                    self._position += count
        return len(view)


def _mode_of(target: Path, disk: Disk) -> int | None:
    """Permission bits of the file about to be replaced; None when there is none."""
    try:
        found = disk.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise StorageError(
            f"cannot write {str(target)!r}: it is not a regular file",
            hint="name a file; a folder, pipe or device cannot be replaced",
        )
    return stat.S_IMODE(found)


def _open_new(temp: Path, disk: Disk) -> int:
    with suppress(FileNotFoundError):
        disk.unlink(temp)  # left by a killed process that had this process's number
    return disk.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _remove(temp: Path, disk: Disk) -> None:
    """Best effort: the error that brought us here is the one to report."""
    with suppress(OSError):
        disk.unlink(temp)

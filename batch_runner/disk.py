"""The file operations of the journal and of published files: one seam for every fault a disk has.

The real `Disk` hands each call to `os`. Tests and simulations subclass it to write short, to run
full, to fail or to forget what was never synced; nothing else needs to know.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_runner.errors import StorageError


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that giving space back can cure."""

_HINTS = {
    errno.ENOSPC: "free some space on that disk, then run again: finished rows are kept",
    errno.EDQUOT: "free some of your disk quota, then run again: finished rows are kept",
    errno.EFBIG: "raise the file size limit (ulimit -f), then run again: finished rows are kept",
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.EACCES: "choose a place you may write to, or change its permissions",
    errno.EPERM: "choose a place you may write to, or change its permissions",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "if the folder was moved or removed during the run, put it back: what was finished is in it",
    errno.EIO: "the disk reports errors; check it before you run again",
}


class Disk:
    """What the operating system does with files. Methods raise OSError as their `os` twins do."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """How many bytes were taken: maybe fewer than given."""
        return os.write(fd, data)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def fsync(self, fd: int) -> None:
        if sys.platform == "darwin":
            self._full_fsync(fd)
        else:
            os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Content and length are durable; times may not be."""
        if sys.platform == "darwin":
            self._full_fsync(fd)
        else:
            os.fdatasync(fd)

    def _full_fsync(self, fd: int) -> None:
        """On macOS fsync stops at the drive's cache; only F_FULLFSYNC reaches the platter."""
        if sys.platform == "darwin":
            try:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            except OSError as problem:
                if problem.errno not in {errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}:
                    raise
                os.fsync(fd)  # network and FUSE volumes know nothing better

    def allocate(self, fd: int, size: int) -> None:
        """The first `size` bytes of the file have their blocks."""
        if sys.platform == "darwin":
            missing = size - os.fstat(fd).st_size
            os.lseek(fd, 0, os.SEEK_END)
            while missing > 0:
                missing -= os.write(fd, bytes(min(missing, 1 << 20)))
        else:
            os.posix_fallocate(fd, 0, size)

    def free_bytes(self, folder: Path) -> int:
        """Space an ordinary user may still fill."""
        state = os.statvfs(folder)
        return state.f_bavail * state.f_frsize

    def fchmod(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def stat(self, path: Path) -> os.stat_result:
        return os.stat(path)  # noqa: PTH116 - the seam mirrors os, one name to one name

    def links(self, fd: int) -> int:
        """How many names an open file has: none once it is removed."""
        return os.fstat(fd).st_nlink

    def mkdir(self, path: Path, mode: int) -> None:
        os.mkdir(path, mode)  # noqa: PTH102 - likewise

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)  # noqa: PTH106 - likewise

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)  # noqa: PTH208 - likewise

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108 - likewise

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)  # noqa: PTH105 - likewise


REAL_DISK = Disk()


def storage_error(action: str, path: Path, problem: OSError) -> StorageError:
    """The problem as something a user can act on: what was tried, on what, why it failed."""
    cause = problem.strerror or str(problem)
    hint = _HINTS.get(problem.errno or 0, "")
    return StorageError(f"cannot {action} {str(path)!r}: {cause}", hint=hint)


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """An OSError raised inside leaves as a StorageError that names `action` and `path`."""
    try:
        yield
    except OSError as problem:
        raise storage_error(action, path, problem) from problem


def write_all(disk: Disk, fd: int, data: bytes | memoryview) -> Iterator[int]:
    """Every byte of `data` is written once the iterator is exhausted; yields each step's count."""
    rest = memoryview(data)
    while rest:
        count = disk.write(fd, rest)
        if count == 0:
            raise OSError(errno.EIO, "the file takes no more bytes")
        rest = rest[count:]
        yield count


def read_file(disk: Disk, path: Path) -> bytes:
    """The whole content of a small file."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: disk.read(fd, 1 << 20), b""))
    finally:
        disk.close(fd)


def identity_of(files: Iterable[Path]) -> list[list[Any]]:
    """What changes when somebody writes to one of the files; an empty member for one that is gone."""
    identity: list[list[Any]] = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            identity.append([])
        else:
            identity.append([str(file), found.st_size, found.st_mtime_ns, found.st_ino])
    return identity


def changed_at(file: Path) -> float:
    """Unix time at which the file, or who may read it, was last changed; 0 for one that is gone."""
    try:
        return file.stat().st_ctime
    except OSError:
        return 0.0


def sync_folder(disk: Disk, folder: Path) -> None:
    """Names made, replaced or removed in `folder` survive a power loss."""
    fd = disk.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def make_folders(disk: Disk, folder: Path, *, mode: int = 0o777) -> None:
    """`folder` exists, durably, as do its parents. `mode` is for the last one, less the umask."""
    try:
        disk.mkdir(folder, mode)
    except FileNotFoundError:
        make_folders(disk, folder.parent)
        disk.mkdir(folder, mode)
    except FileExistsError:
        # listdir refuses a file with ENOTDIR and follows a link to a folder, as it should.
        disk.listdir(folder)
        return
    sync_folder(disk, folder.parent)

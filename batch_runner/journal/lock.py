"""One run at a time: flock on the run directory's lock file, for as long as the run lives.

flock and not lockf: lockf is lost as soon as any descriptor of the file is closed in the process.
The kernel frees it when the holder dies, however it dies. The file is never removed. Should someone
else remove it, the lock on the directory itself still keeps a second run out.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from batch_runner.disk import explained
from batch_runner.errors import LockedError, StorageError
from batch_runner.journal.directory import RunDirectory


_PATIENCE_SECONDS = 0.15  # `status` looks at the lock for less than a millisecond
_PAUSE_SECONDS = 0.01
_TRIES = 20
"""To make a folder again that somebody else is removing."""


class LockPolicy(StrEnum):
    """What to do when another run holds the lock."""

    WAIT = "wait"
    """Wait until it is free."""
    SKIP = "skip"
    """LockedError; the caller takes it for a success."""
    FAIL = "fail"
    """LockedError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock, by its own account. None: it did not get to say."""

    pid: int | None = None
    host: str | None = None
    started_at: float | None = None
    """Unix time."""

    def __str__(self) -> str:
        words = ["another run"]
        if self.pid is not None:
            words.append(f"(pid {self.pid} on {self.host})")
        if self.started_at is not None:
            since = datetime.fromtimestamp(self.started_at, UTC)
            words.append(f"since {since:%Y-%m-%d %H:%M:%S} UTC")
        return " ".join(words)


class Lock:
    """Held until it is closed or the process ends; children that exec do not inherit it."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def add(self, fd: int) -> None:
        """The lock holds this descriptor too."""
        self._fds.append(fd)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def take_lock(
    directory: RunDirectory,
    *,
    policy: LockPolicy = LockPolicy.FAIL,
    on_wait: Callable[[Holder], None] | None = None,
) -> Lock:
    """The lock of an existing run directory. `on_wait` is told whom WAIT is about to wait for.

    Raises LockedError naming the holder, StorageError where no lock can be had.
    """
    patient_until = time.monotonic() + _PATIENCE_SECONDS
    tries_left = _TRIES
    while (lock := _try_lock(directory, may_be_gone=tries_left < _TRIES)) is None:
        if time.monotonic() >= patient_until:
            holder = _read_holder(directory.lock)
            if policy is not LockPolicy.WAIT:
                raise LockedError(
                    f"{holder} holds {str(directory.lock)!r}",
                    hint="run again when it has ended; run and retry take --if-locked wait, "
                    "or --if-locked skip, which leaves the rows to it",
                )
            if on_wait is not None:
                on_wait(holder)
                on_wait = None
        time.sleep(_PAUSE_SECONDS)
        tries_left -= _made_again(directory, may_fail=tries_left > 0)
    return lock


def _made_again(directory: RunDirectory, *, may_fail: bool) -> bool:
    """Whether the folders had to be made: whoever was refused meanwhile takes its own along."""
    if directory.segments.is_dir():
        return False
    try:
        directory.create()
    except StorageError:  # they were going at this very moment
        if not may_fail:
            raise
    return True


def is_locked(directory: RunDirectory) -> Holder | None:
    """Who is running this job now; None when nobody is. Makes and changes nothing."""
    for path in (directory.lock, directory.path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_holder(directory.lock)
        except OSError:
            continue  # no locks on this file system: nobody can hold one
        finally:
            os.close(fd)
    return None


def _try_lock(directory: RunDirectory, *, may_be_gone: bool) -> Lock | None:
    """The lock, with its holder's name in it; None when it is taken."""
    with explained("lock", directory.lock):
        try:
            fd = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if may_be_gone:
                return None
            raise
        lock = Lock([fd])
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = _is_file_at(fd, directory.lock) and _lock_folder(directory.path, lock)
        except (BlockingIOError, FileNotFoundError):  # taken, or going with its folder
            is_ours = False
        except BaseException:
            lock.close()
            raise
    if not is_ours:
        lock.close()
        return None
    _write_holder(fd)
    return lock


def _is_file_at(fd: int, path: Path) -> bool:
    """False when someone has replaced the file since it was opened: that lock keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _lock_folder(path: Path, lock: Lock) -> bool:
    """The folder is locked too, where the file system can do that. BlockingIOError: it is taken."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    except OSError:
        os.close(fd)  # NFS locks no folders; the file's lock is the one that counts
        return True
    lock.add(fd)
    return True


def _write_holder(fd: int) -> None:
    """Who we are, for the messages of others: not worth failing for on a full disk."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": time.time()}
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode() + b"\n", 0)


def _read_holder(path: Path) -> Holder:
    try:
        fields = json.loads(path.read_bytes())
        return Holder(
            pid=int(fields["pid"]),
            host=str(fields["host"]),
            started_at=float(fields["started_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()

"""The journal of a running process: attempts begun and rows ended, written before all else."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from batch_runner import __version__
from batch_runner.disk import REAL_DISK, Disk, explained, make_folders, storage_error
from batch_runner.errors import StorageError
from batch_runner.job import Durability
from batch_runner.journal import record
from batch_runner.journal.directory import RunDirectory
from batch_runner.journal.index import Index
from batch_runner.journal.record import KEY_AT, RESULT, Header, Intent
from batch_runner.journal.reserve import Reserve
from batch_runner.journal.segment import OpenSegment
from batch_runner.journal.sync import Syncer
from batch_runner.records import RowResult


SEGMENT_BYTES = 256 << 20
RESERVE_BYTES = 16 << 20
"""A thousand results of 16 KB: more than is ever in flight at once."""

_PERIOD_SECONDS = {
    Durability.NOW: 0.0,
    Durability.MS_100: 0.1,
    Durability.S_1: 1.0,
    Durability.OFF: None,
}


class Journal:
    """Appends to segments of its own; one per process, under the lock, in the thread of its loop.

    Lines are written once per tick of the event loop, or at once where no loop is running. The
    first segment is made with the first line, so a run with nothing to do leaves none.

    After the first trouble (`failed`) no new attempt may begin, but results of those in flight are
    stored as long as the disk takes them: from the reserve when it is full, in a fresh segment
    when a write or a sync has failed.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        run_id: str,
        durability: Durability = Durability.MS_100,
        index: Index | None = None,
        settings: Mapping[str, Any] | None = None,
        on_failure: Callable[[StorageError], None] | None = None,
        disk: Disk = REAL_DISK,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        started_at: float | None = None,
    ) -> None:
        """`index` (of a replay) learns every result written. `on_failure` is called once, in the loop.

        Raises StorageError when nothing can be written there.
        """
        self.failed: StorageError | None = None
        """The first trouble with the disk."""
        self.index = Index() if index is None else index
        self._directory = directory
        self._disk = disk
        self._durability = durability
        self._on_failure = on_failure
        self._segment_bytes = segment_bytes
        self._run_id = run_id
        self._settings = dict(settings or {})
        self._started_at = time.time() if started_at is None else started_at
        if durability is not Durability.OFF:
            _sync_predecessors(directory, disk)
        self._reserve = Reserve(directory.reserve, reserve_bytes, disk)
        self._syncer = Syncer(
            period_seconds=_PERIOD_SECONDS[durability], on_error=self._on_sync_error
        )
        self._segment: OpenSegment | None = None
        self._file = 0  # the segment's number in the index
        self._first: int | None = None  # number of this process's first segment
        self._pending: list[bytes] = []
        self._buffered = 0  # lines so far
        self._written = 0  # of those
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_is_due = False
        self._may_forget = False  # a sync failed: written lines may be gone after a power loss
        self._is_stuck = False  # two files in a row refused a line; close() tries a last time
        self._is_closed = False
        self._endings: dict[bytes, int] = {}
        self._first_trouble = threading.Lock()

    @property
    def reserve_bytes(self) -> int:
        """Space set aside for a full disk; less than asked for on a small one, 0 once used."""
        return self._reserve.size

    def begin(self, intent: Intent) -> None:
        """The intent is on its way to the disk. Raises StorageError once the journal has failed."""
        self._refuse_if_failed()
        self._add(record.intent_body(intent))

    def finish(self, result: RowResult) -> None:
        """The result is on its way to the disk, also after `failed`: it has been paid for."""
        self._add(record.result_body(result))

    def waive(self, key: bytes) -> None:
        """The attempts of `key` begun so far have cost nothing and are no longer in flight."""
        self._add(record.gratis_body(key))

    async def announce(self, intent: Intent) -> None:
        """The intent is written and the attempt may begin; a StorageError says it may not."""
        self.begin(intent)
        await self.written()
        self._refuse_if_failed()

    async def queued(self, key: bytes, attempt: int, response_id: str) -> None:
        """The id of a background response is written: it has been paid for and can be asked for."""
        self._add(record.queued_body(key, attempt, response_id))
        await self.written()

    async def written(self) -> None:
        """Every line so far survives the end of this process.

        Raises StorageError if one could not be written; close() tries a last time.
        """
        mark = self._buffered
        if self._written < mark:
            await asyncio.sleep(0)  # the flush was queued before this task's next turn
        if self._written < mark:
            raise self._trouble()

    async def settled(self) -> None:
        """Every line so far is as durable as was asked for. Raises StorageError if that failed."""
        await self.written()
        if self._durability is Durability.NOW:
            try:
                await self._syncer.reach(self._written)
            except OSError as problem:
                raise self._trouble() from problem

    async def ready(self) -> None:
        """The disk keeps up: at most 5 s or 64 MB are unsynced. Await it before taking a new row."""
        if self._syncer.is_behind:
            try:
                await self._syncer.reach(self._written)
            except OSError:
                return  # `failed` and `on_failure` tell; whoever waits here has to go on and drain

    def close(self, *, clean: bool) -> None:
        """Everything is written and synced. `clean` marks a run that stopped in order.

        Raises StorageError when lines could not be stored or the last sync failed.
        """
        if self._is_closed:
            return
        if clean and self._segment is not None and not self._may_forget:
            self._add(record.end_body())
        self._is_closed = True
        self._is_stuck = False
        self._flush()
        problem = self._syncer.close()
        if self._segment is not None:
            self._segment.close()
        self._reserve.release()
        if self._pending:
            trouble = self._trouble()
            raise StorageError(
                f"{len(self._pending)} records are lost: {trouble}", hint=trouble.hint
            )
        if problem is not None:
            raise self._trouble() from problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(clean=problem is None)

    def _add(self, body: bytes) -> None:
        if self._is_closed:
            raise ValueError("the journal is closed")
        self._pending.append(body)
        self._buffered += 1
        if self._flush_is_due:
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
        else:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """What is pending is in a file; after trouble in one, in the next; else it stays pending."""
        self._flush_is_due = False
        for _ in range(2):
            if self._is_stuck or not self._pending:
                return
            try:
                self._write_pending()
            except OSError as problem:
                self._fail(storage_error("write the journal in", self._directory.segments, problem))
        self._is_stuck = bool(self._pending)

    def _write_pending(self) -> None:
        segment = self._writable_segment()
        lines = [segment.seal(body) for body in self._pending]
        begin = segment.size
        try:
            segment.append(b"".join(lines), make_room=self._make_room)
        finally:
            self._account(lines, begin, segment)

    def _account(self, lines: list[bytes], begin: int, segment: OpenSegment) -> None:
        """Lines that are whole in the file are written; a torn one stays pending."""
        offset = begin
        count = 0
        for body, line in zip(self._pending, lines, strict=True):
            if offset + len(line) > segment.size:
                break
            if body.startswith(RESULT):
                self._index(body, offset, len(line) - 1)
            offset += len(line)
            count += 1
        del self._pending[:count]
        self._written += count
        self._syncer.wrote(segment, segment.size - begin, self._written)

    def _index(self, body: bytes, offset: int, length: int) -> None:
        state = record.state_of(body)
        ending = self._endings.get(state)
        if ending is None:
            ending = self._endings[state] = self.index.ending(*record.read_state(state))
        key = bytes.fromhex(body[KEY_AT].decode())
        self.index.record(key, ending, self._file, offset, length)

    def _writable_segment(self) -> OpenSegment:
        """The current segment, or a new one when it is full or has failed."""
        current = self._segment
        if current is not None:
            if not current.is_broken and current.size < self._segment_bytes:
                return current
            self._segment = None
            self._syncer.retire(current)
        if self.failed is not None:  # maybe because the folder is gone
            make_folders(self._disk, self._directory.segments, mode=0o700)
        number = max(self._directory.segment_numbers(disk=self._disk), default=-1) + 1
        self._first = number if self._first is None else self._first
        segment = OpenSegment(self._directory.segment(number), self._disk)
        header = Header(
            segment=number,
            first=self._first,
            run_id=self._run_id,
            tool_version=__version__,
            started_at=self._started_at,
            settings=self._settings,
        )
        try:
            segment.append(segment.seal(record.header_body(header)), make_room=self._make_room)
        except OSError:
            segment.close()
            raise
        self._segment = segment
        self._file = self.index.open_file(segment.path.name)
        return segment

    def _make_room(self, problem: OSError) -> bool:
        """The disk is full: the run ends here, and what is in flight gets the reserve."""
        self._fail(storage_error("write the journal in", self._directory.segments, problem))
        return self._reserve.release()

    def _on_sync_error(self, problem: OSError, segment: OpenSegment) -> None:
        self._may_forget = True
        self._fail(storage_error("sync", segment.path, problem))

    def _fail(self, trouble: StorageError) -> None:
        """The first trouble is known to everyone; called in the loop's thread or the syncer's."""
        if not self._first_trouble.acquire(blocking=False):  # never released: the first one only
            return
        self.failed = trouble
        if self._on_failure is None:
            return
        if self._loop is None or self._loop.is_closed():
            self._on_failure(trouble)
        else:
            self._loop.call_soon_threadsafe(self._on_failure, trouble)

    def _refuse_if_failed(self) -> None:
        if self.failed is not None:
            raise self._trouble()

    def _trouble(self) -> StorageError:
        """A fresh copy of the first trouble: many tasks raise it."""
        first = self.failed
        return StorageError(str(first), hint=first.hint if first else "")


def _sync_predecessors(directory: RunDirectory, disk: Disk) -> None:
    """Results this run builds on are durable, even those of a process killed before its last sync.

    Without this a power loss could take rows that finished long ago: the kernel writes back when
    it likes. Syncing changes no byte of those files.
    """
    for number in directory.segment_numbers(disk=disk):
        path = directory.segment(number)
        with explained("sync", path):
            fd = disk.open(path, os.O_RDONLY)
            try:
                disk.fdatasync(fd)
            finally:
                disk.close(fd)

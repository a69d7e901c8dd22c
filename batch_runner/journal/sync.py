"""Written becomes durable: fdatasync in a thread of its own, so that no row waits for the disk."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from batch_runner.journal.segment import OpenSegment


BEHIND_SECONDS = 5.0
"""A disk that takes longer than this to sync is not keeping up."""
BEHIND_BYTES = 64 << 20
"""Nor is one with more than this unsynced: twelve seconds of a slow disk."""


class _Waiter(NamedTuple):
    mark: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Syncer:
    """Syncs segments once a period, when there is something to sync.

    Progress is counted in marks, the number of lines written so far. `wrote`, `retire` and `reach`
    belong to the thread that writes.
    """

    def __init__(
        self,
        *,
        period_seconds: float | None,
        on_error: Callable[[OSError, OpenSegment], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`period_seconds` None: no thread, only `close` syncs. `on_error` is called in the thread."""
        self._period_seconds = period_seconds
        self._on_error = on_error
        self._clock = clock
        self._lock = threading.Lock()
        self._dirty: set[OpenSegment] = set()
        self._syncing: set[OpenSegment] = set()
        self._retired: set[OpenSegment] = set()
        self._mark = 0
        self._synced = 0
        self._lost: tuple[int, OSError] | None = None  # marks up to this one will never be durable
        self._unsynced_bytes = 0
        self._oldest: float | None = None  # when the first unsynced line was written
        self._waiters: list[_Waiter] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def wrote(self, segment: OpenSegment, count_bytes: int, mark: int) -> None:
        """`segment` holds bytes that no sync has covered, up to the line counted `mark`."""
        with self._lock:
            self._dirty.add(segment)
            self._mark = mark
            self._unsynced_bytes += count_bytes
            if self._oldest is None:
                self._oldest = self._clock()
        if self._period_seconds is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def retire(self, segment: OpenSegment) -> None:
        """The segment gets no more lines: it is closed once it is durable."""
        with self._lock:
            if self._period_seconds is None:
                self._dirty.discard(segment)
            elif segment in self._dirty | self._syncing:
                # Closed under a running sync, its descriptor could become another file's.
                self._retired.add(segment)
                return
        segment.close()

    async def reach(self, mark: int) -> None:
        """Every line up to `mark` is durable. Raises the OSError that made this impossible."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._lost and mark <= self._lost[0]:
                raise self._lost[1]
            if mark <= self._synced:
                return
            waiter = _Waiter(mark, loop, loop.create_future())
            self._waiters.append(waiter)
        await waiter.future

    @property
    def is_behind(self) -> bool:
        """The disk does not keep up: new work should wait for `reach`."""
        if self._period_seconds is None or self._oldest is None:
            return False
        age_seconds = self._clock() - self._oldest
        return age_seconds > BEHIND_SECONDS or self._unsynced_bytes > BEHIND_BYTES

    def close(self) -> OSError | None:
        """Everything is synced and closed; what the last sync ended in."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        return self._round()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._stop.is_set():
                return  # close() does the last round in its own thread and reports its outcome
            began = self._clock()
            self._round()
            rest_seconds = (self._period_seconds or 0) - (self._clock() - began)
            if rest_seconds > 0:
                self._stop.wait(rest_seconds)

    def _round(self) -> OSError | None:
        """What was dirty is durable, or its waiters and `on_error` know why not."""
        with self._lock:
            self._wake.clear()
            self._syncing, self._dirty = self._dirty, set()
            mark, count_bytes = self._mark, self._unsynced_bytes
            began = self._clock()
        problem: OSError | None = None
        for segment in self._syncing:
            try:
                segment.sync()
            except OSError as error:
                problem = error
                self._on_error(error, segment)
        with self._lock:
            if problem is None:
                self._synced = mark
            else:
                self._lost = (mark, problem)
            self._unsynced_bytes -= count_bytes
            self._oldest = began if self._unsynced_bytes else None
            reached = [waiter for waiter in self._waiters if waiter.mark <= mark]
            self._waiters = [waiter for waiter in self._waiters if waiter.mark > mark]
            self._syncing = set()
            closing = self._retired - self._dirty
            self._retired -= closing
        for segment in closing:
            segment.close()
        for waiter in reached:
            with suppress(RuntimeError):  # its loop is closed: nobody waits any more
                waiter.loop.call_soon_threadsafe(_tell, waiter.future, problem)
        return problem


def _tell(future: asyncio.Future[None], problem: OSError | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(None)
    else:
        future.set_exception(problem)

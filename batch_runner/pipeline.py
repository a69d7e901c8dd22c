"""How rows travel: callers that are free are handed the next requests, one recorder takes results.

Backpressure needs no counters: requests are read when a caller asks for one, and a caller whose
result finds no room waits for the recorder. Ending early is closing the front: nobody is handed
another request, callers finish what they hold, the recorder empties the pipe, everyone leaves.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batch_runner.records import Request, RowResult


Source = AsyncIterator[Request]
Call = Callable[[Request], Awaitable[RowResult | None]]
Record = Callable[[Sequence[RowResult]], Awaitable[None]]

MOST_AT_ONCE = 256
"""Results handed to the recorder together: one disk sync can serve them all."""


class Drain:
    """The way to end a run early: no new rows are begun, those in hand are finished."""

    def __init__(self) -> None:
        self._reading: anyio.CancelScope | None = None
        self.reason: Exception | None = None
        """Why, when it was not the user's wish; the first reason given stays."""
        self.started = False

    def start(self, reason: Exception | None = None) -> None:
        if not self.started:
            self.reason = reason
        self.started = True
        if self._reading is not None:
            self._reading.cancel()

    def reading(self) -> anyio.CancelScope:
        """`with` it, a wait ends as soon as the drain starts. For one task at a time."""
        self._reading = anyio.CancelScope()
        return self._reading


async def run_pipeline(
    source: Source, call: Call, record: Record, *, callers: int, drain: Drain
) -> None:
    """Every request of `source` has been called and its result recorded, or `drain` was started.

    At most 2 x callers + `MOST_AT_ONCE` rows are held, besides as many being recorded. An error of
    `source`, `call` or `record` ends the run; the first is raised, alone and outside any group.
    """
    to_record, results = anyio.create_memory_object_stream[RowResult](MOST_AT_ONCE)
    try:
        # The streams are opened outside the group and the recorder is the group's body, so that when
        # recording fails the callers are cancelled before a stream closes under them. As a child
        # task that owned its stream, one full disk surfaced as one OSError among 29 exceptions.
        async with (
            aclosing(source) as rows,  # type: ignore[type-var]  # sources are generators
            results,
            anyio.create_task_group() as tasks,
        ):
            front = _Front(rows, drain)
            tasks.start_soon(front.read)
            async with to_record:
                for _ in range(callers):
                    tasks.start_soon(_answer, front, to_record.clone(), call)
            await _record(results, record)
    except BaseExceptionGroup as group:
        raise first(group) from None


class _Front:
    """Where callers stand in line for the next request.

    One task reads and hands out as many requests in a turn as callers wait. Were each caller to
    read for itself, the next could only do so a turn of the event loop later, and no two calls
    would share one look at the sockets and one write of the journal.
    """

    def __init__(self, source: Source, drain: Drain) -> None:
        self._source = source
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._line: deque[asyncio.Future[Request | None]] = deque()
        self._waits: asyncio.Future[None] | None = None
        self._is_closed = False

    async def next(self) -> Request | None:
        """None when there is no more, or the drain has started."""
        if self._is_closed:
            return None
        place: asyncio.Future[Request | None] = self._loop.create_future()
        self._line.append(place)
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)
        return await place

    async def read(self) -> None:
        """Callers are handed requests until there are none left, or the drain has started."""
        try:
            # Cancelling ends a source that waits; one that never does is not asked again.
            with self._drain.reading():
                while not self._drain.started:
                    await self._somebody()
                    request = await anext(self._source, None)
                    if request is None:
                        break
                    self._hand(request)
        finally:
            self._is_closed = True
            while self._line:
                self._hand(None)

    def _hand(self, request: Request | None) -> None:
        place = self._line.popleft()
        if not place.done():  # a caller that was cancelled: the whole run is
            place.set_result(request)

    async def _somebody(self) -> None:
        """A caller waits."""
        if not self._line:
            self._waits = self._loop.create_future()
            await self._waits


async def _answer(front: _Front, to_record: MemoryObjectSendStream[RowResult], call: Call) -> None:
    async with to_record:
        while (request := await front.next()) is not None:
            result = await call(request)
            if result is None:
                continue
            try:
                to_record.send_nowait(result)  # `send` would give way to another task each time
            except anyio.WouldBlock:
                await to_record.send(result)


async def _record(results: MemoryObjectReceiveStream[RowResult], record: Record) -> None:
    async for result in results:
        together = [result]
        while len(together) < MOST_AT_ONCE:
            try:
                together.append(results.receive_nowait())
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        await record(together)


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that came first; the others came of the same cause, or too late to matter."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner

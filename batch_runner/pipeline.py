"""How rows travel: one reader, many callers, one recorder, and a pipe of length zero between them.

Backpressure needs no counters: a slow recorder slows the callers, which slow the reader. Ending
early is closing the front: the reader stops, callers finish what they hold, the recorder empties
the pipe, everyone leaves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The block ends as soon as the drain starts. Only the reader waits inside it."""
        with anyio.CancelScope() as self._reading:
            if self.started:
                self._reading.cancel()
            yield


async def run_pipeline(
    source: Source, call: Call, record: Record, *, callers: int, drain: Drain
) -> None:
    """Every request of `source` has been called and its result recorded, or `drain` was started.

    At most 2 x callers + 1 requests are held. An error of `source`, `call` or `record` ends the run
    and is raised alone, outside any exception group.
    """
    to_call, requests = anyio.create_memory_object_stream[Request](0)
    to_record, results = anyio.create_memory_object_stream[RowResult](0)
    try:
        # The streams are opened outside the group and the recorder is the group's body, so that when
        # recording fails the callers are cancelled before a stream closes under them. As a child
        # task that owned its stream, one full disk surfaced as one OSError among 29 exceptions.
        async with requests, results, anyio.create_task_group() as tasks:
            tasks.start_soon(_read, source, to_call, drain)
            async with to_record:
                for _ in range(callers):
                    tasks.start_soon(_answer, requests.clone(), to_record.clone(), call)
            await _record(results, record)
    except BaseExceptionGroup as group:
        raise sole(group) from None


async def _read(source: Source, to_call: MemoryObjectSendStream[Request], drain: Drain) -> None:
    async with to_call:
        with drain.reading():
            async with aclosing(source) as rows:  # type: ignore[type-var]  # sources are generators
                async for request in rows:
                    await to_call.send(request)


async def _answer(
    requests: MemoryObjectReceiveStream[Request],
    to_record: MemoryObjectSendStream[RowResult],
    call: Call,
) -> None:
    async with requests, to_record:
        async for request in requests:
            result = await call(request)
            if result is not None:
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


def sole(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception of a group, however deep; the group itself when there are several."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner

"""The pipe between reader, callers and recorder."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from batch_runner.errors import RunStoppedError
from batch_runner.pipeline import MOST_AT_ONCE, Drain, run_pipeline
from batch_runner.records import Completion, Request, RowResult


pytestmark = pytest.mark.anyio


def request(row: int) -> Request:
    return Request(
        row=row, key=row.to_bytes(16, "big"), body=b"{}", model="m", max_output_tokens=None
    )


def result(asked: Request) -> RowResult:
    return RowResult(key=asked.key, row=asked.row, ending=Completion(text="t"))


class Rows:
    """A source that knows how many rows it has given out."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0

    async def __call__(self) -> AsyncIterator[Request]:
        for row in range(self.count):
            self.given += 1
            yield request(row)


class Recorder:
    def __init__(self) -> None:
        self.rows: list[int] = []

    async def __call__(self, results: Sequence[RowResult]) -> None:
        await anyio.lowlevel.checkpoint()
        self.rows += [one.row for one in results]


async def answer(asked: Request) -> RowResult | None:
    await anyio.lowlevel.checkpoint()
    return result(asked)


async def test_every_row_is_recorded_once():
    record = Recorder()
    await run_pipeline(Rows(1000)(), answer, record, callers=17, drain=Drain())
    assert sorted(record.rows) == list(range(1000))


async def test_no_rows_end_at_once():
    record = Recorder()
    await run_pipeline(Rows(0)(), answer, record, callers=3, drain=Drain())
    assert record.rows == []


async def test_callers_that_wait_together_are_served_in_one_turn_of_the_loop():
    turns, begun = 0, []

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def call(asked: Request) -> RowResult | None:
        begun.append(turns)
        await anyio.sleep(0.01)
        return result(asked)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        await run_pipeline(Rows(100)(), call, Recorder(), callers=100, drain=Drain())
        tasks.cancel_scope.cancel()
    assert len(begun) == 100
    assert begun[-1] - begun[0] <= 1


async def test_a_stuck_recorder_stops_the_reader():
    rows, stuck = Rows(10_000), anyio.Event()
    recorded: list[RowResult] = []

    async def record(results: Sequence[RowResult]) -> None:
        await stuck.wait()
        recorded.extend(results)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(run_pipeline, callers=5, drain=Drain()), rows(), answer, record)
        await anyio.wait_all_tasks_blocked()
        assert rows.given <= 2 * (5 + MOST_AT_ONCE)
        stuck.set()
    assert len(recorded) == 10_000


async def test_a_drain_records_every_call_that_was_made():
    drain, record, called = Drain(), Recorder(), []

    async def call(asked: Request) -> RowResult | None:
        called.append(asked.row)
        if asked.row == 300:
            drain.start(RunStoppedError("enough"))
        await anyio.sleep(0.001)
        return result(asked)

    rows = Rows(100_000)
    await run_pipeline(rows(), call, record, callers=20, drain=drain)
    assert sorted(called) == sorted(record.rows)
    assert rows.given < 1000
    assert str(drain.reason) == "enough"


async def test_the_first_reason_for_a_drain_stays():
    drain = Drain()
    drain.start(RunStoppedError("first"))
    drain.start(RunStoppedError("second"))
    assert str(drain.reason) == "first"


async def test_a_drain_that_started_before_the_run_reads_nothing():
    drain, record = Drain(), Recorder()
    drain.start()
    await run_pipeline(Rows(10)(), answer, record, callers=2, drain=drain)
    assert record.rows == []


async def test_a_call_without_a_result_leaves_no_trace():
    async def call(asked: Request) -> RowResult | None:
        return result(asked) if asked.row % 2 else None

    record = Recorder()
    await run_pipeline(Rows(10)(), call, record, callers=3, drain=Drain())
    assert sorted(record.rows) == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("callers", [1, 8, 200])
async def test_one_full_disk_surfaces_as_one_error(callers):
    async def record(results: Sequence[RowResult]) -> None:
        if any(one.row >= 50 for one in results):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left") as caught:
        await run_pipeline(Rows(100_000)(), answer, record, callers=callers, drain=Drain())
    assert caught.value.__cause__ is None


async def test_an_error_of_the_source_surfaces_alone():
    async def source() -> AsyncIterator[Request]:
        yield request(0)
        raise ValueError("the input changed")

    with pytest.raises(ValueError, match="the input changed"):
        await run_pipeline(source(), answer, Recorder(), callers=4, drain=Drain())


async def test_an_error_of_a_call_surfaces_alone():
    async def call(asked: Request) -> RowResult | None:
        await anyio.lowlevel.checkpoint()
        raise KeyError(asked.row)

    with pytest.raises(KeyError):
        await run_pipeline(Rows(10)(), call, Recorder(), callers=4, drain=Drain())

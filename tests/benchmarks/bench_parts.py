"""What a row's CPU goes into: each part alone, and its share of a whole run.

python bench_parts.py [ROWS]
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from bench_throughput import ours
from inputs import write_rows
from measuring import REPLY, fast_server, folder, measure, table

from batch_runner.bill import Bill, Biller
from batch_runner.concurrency import Concurrency
from batch_runner.course import Course
from batch_runner.exchange import Reply
from batch_runner.jobmapping import job_from_mapping
from batch_runner.journal import Intent, Journal, RunDirectory
from batch_runner.judging import judge_reply
from batch_runner.limiter import Limiter
from batch_runner.pricing import PriceBook
from batch_runner.progress import Snapshot, heartbeat
from batch_runner.prompt import PromptBuilder, digest_of
from batch_runner.records import Completion, Request, RowResult
from batch_runner.tables import open_table


ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
SOME = 2000
REPEATS = 5


def main() -> None:
    with folder() as place, fast_server(place) as url:
        write_rows(place / "rows.csv", ROWS)
        write_rows(place / "one.csv", 1)
        whole = measure(ours(place, url, "rows.csv", 512), cwd=place).cpu_seconds
        start = measure(ours(place, url, "one.csv", 512), cwd=place).cpu_seconds
        total = (whole - start) / ROWS * 1e6
        rows = [[name, f"{cost:.1f}", f"{cost / total:.1%}"] for name, cost in parts(place).items()]
        rows.append(["a whole row, sockets and event loop included", f"{total:.0f}", "100%"])
        table("Parts, alone and warm", ["part", "CPU us a row", "share of a row"], rows)


def parts(place: Path) -> dict[str, float]:
    mapping = {
        "input": {"path": "rows.csv"}, "prompt": {"input": "Sum: {{ body }}"},
        "request": {"model": "m"}, "output": {"path": "out.csv"},
    }  # fmt: skip
    job = job_from_mapping(mapping, origin="job", folder=place, default_name="job")
    opened = open_table((str(place / "rows.csv"),), format=None, encoding="utf-8", delimiter=None)
    builder = PromptBuilder(job)
    some = [row for _, row in zip(range(SOME), opened.rows(), strict=False)]
    requests = [made for row in some if isinstance(made := builder.build(row), Request)]
    results = [ended(request) for request in requests]
    biller = Biller(PriceBook({}))
    bills = [biller.bill(result) for result in results]
    found = {
        "reading a CSV row": cost(
            lambda: [r for _, r in zip(range(SOME), opened.rows(), strict=False)]
        ),
        "template, canonical body and key": cost(lambda: [builder.build(row) for row in some]),
        "  of it hashing": cost(lambda: [digest_of(request.body) for request in requests]),
        "reply read and judged": cost(lambda: [ended(request) for request in requests]),
        "limiter": cost(lambda: anyio.run(admitted)),
        "bill": cost(lambda: [biller.bill(result) for result in results]),
        "bill added up": cost(lambda: added(bills)),
        "progress, a line (two a second)": cost(shown, times=200),
    }
    found["journal, intent and result"] = appending(place, requests, results)
    return found


def cost(work: Callable[[], Any], *, times: int = SOME) -> float:
    """CPU microseconds of one of `times`."""
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        taken.append((time.process_time() - began) / times * 1e6)
    return statistics.median(taken)


def ended(request: Request) -> RowResult:
    course = Course.of(request, pending=None, started_at=0.0)
    course.attempts = 1
    reply = Reply(status=200, headers={}, body=REPLY.encode())
    ending = judge_reply(reply, course, at=0.0, now=0.0, shared_model=True)
    assert isinstance(ending, Completion)
    return course.result(ending, finished_at=0.0)


async def admitted() -> None:
    limiter = Limiter(Concurrency(minimum=512, start=512, maximum=512))
    for _ in range(SOME):
        async with limiter.slot(100) as slot:
            slot.succeeded(tokens=80, headers={})


def added(bills: list[Bill]) -> None:
    total = Bill()
    for bill in bills:
        total.merge(bill)


def shown() -> None:
    snapshot = Snapshot(
        done=1, total=2, ok=1, failed=0, in_flight=1, oldest_seconds=0.0, rows_per_second=1.0,
        tokens_per_second=1.0, cost=None, limit=1,
    )  # fmt: skip
    for _ in range(200):
        heartbeat(snapshot)


def appending(place: Path, requests: list[Request], results: list[RowResult]) -> float:
    """In ticks of 16 rows, as a busy event loop has them; syncing is another thread's."""
    taken = []
    for n in range(REPEATS):
        directory = RunDirectory(place / f"{n}.run")
        directory.create()
        began = time.process_time()
        anyio.run(write, directory, requests, results)
        taken.append((time.process_time() - began) / SOME * 1e6)
    return statistics.median(taken)


async def write(directory: RunDirectory, requests: list[Request], results: list[RowResult]) -> None:
    with Journal(directory, run_id="bench") as journal:
        for at in range(0, len(requests), 16):
            for request in requests[at : at + 16]:
                intent = Intent(
                    key=request.key, attempt=1, row=request.row, model=request.model,
                    request_bytes=request.input_bound_bytes, max_output_tokens=None,
                )  # fmt: skip
                journal.begin(intent)
            for result in results[at : at + 16]:
                journal.finish(result)
            await journal.written()


if __name__ == "__main__":
    main()

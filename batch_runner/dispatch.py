"""Sends the rows of a plan through the pipeline: what the reader, callers and recorder really do."""

import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import anyio
import anyio.to_thread
import httpx

from batch_runner import __version__
from batch_runner.bill import Biller, is_priced
from batch_runner.budget import Budget
from batch_runner.client import Client
from batch_runner.errors import BatchRunnerError, InputError, RunStoppedError, StorageError
from batch_runner.job import JobSpec
from batch_runner.journal import Intent, Journal
from batch_runner.limiter import Limiter
from batch_runner.pipeline import Drain, run_pipeline
from batch_runner.progress import Display, Snapshot, keep_showing
from batch_runner.records import Request, RowResult
from batch_runner.redact import Redactor
from batch_runner.signals import watch_signals
from batch_runner.structured import AnswerSchema
from batch_runner.tally import Rate, Tally
from batch_runner.transport import open_transport


BLOCK_ROWS = 64
BLOCK_BYTES = 1 << 20
"""What the reader fetches from its thread at once: enough to make the hop cheap, little to hold."""


@dataclass(kw_only=True)
class Dispatch:
    """One run's calls. `send` may be awaited once."""

    job: JobSpec
    requests: Iterator[Request]
    to_send: int
    """How many requests there are; for progress."""
    done_before: int
    key: str | None
    shares_model: bool
    biller: Biller
    tally: Tally
    budget: Budget | None
    open_journal: Callable[[Callable[[BatchRunnerError], None]], Journal]
    schema: AnswerSchema | None = None
    transport: httpx.AsyncBaseTransport | None = None
    """Instead of the real network."""
    handle_signals: bool = True
    display: Callable[[Snapshot], Display] | None = None
    on_result: Callable[[RowResult], None] | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("batch_runner"))
    signal_number: int | None = None
    """The signal that stopped the run, if one did."""

    def __post_init__(self) -> None:
        self.drain = Drain()
        self.limiter = _limiter(self.job)
        self._began = time.monotonic()
        self._rows = Rate(self._began)
        self._tokens = Rate(self._began)

    async def send(self) -> None:
        """Every request has been called and recorded, or the run was stopped: see `drain.reason`.

        Raises StorageError when results could not be stored.
        """
        # The price list takes 0.4 s to load: better now than in the middle of the first replies.
        is_priced(self.biller.prices, self.job.model)
        transport = self.transport or open_transport(
            self.job.endpoint.base_url,
            proxy=self.job.endpoint.proxy,
            ca_file=self.job.endpoint.ca_file,
        )
        self._journal = self.open_journal(self.stop)
        self._client = self._make_client(transport)
        clean = False
        try:
            async with transport, anyio.create_task_group() as watchers:
                self._start_watchers(watchers)
                await run_pipeline(
                    self._source(),
                    self._client.call,
                    self._record,
                    callers=max(1, min(self.limiter.concurrency.maximum, self.to_send)),
                    drain=self.drain,
                )
                watchers.cancel_scope.cancel()
            clean = True
        finally:
            self._journal.close(clean=clean)

    async def send_or_note(self) -> None:
        """Like `send`, with trouble of storage noted as the reason for the end."""
        try:
            await self.send()
        except (StorageError, InputError) as error:
            self.drain.reason = error
            self.drain.started = True

    def stop(self, reason: BatchRunnerError | None) -> None:
        """No new rows and no more waiting; calls in flight are finished."""
        if not self.drain.started and reason is not None:
            self.log.warning("stopping: %s", reason, extra={"event": "stopping"})
        self.drain.start(reason)
        self._client.drain()

    def snapshot(self) -> Snapshot:
        now = time.monotonic()
        tally = self.tally
        return Snapshot(
            done=self.done_before + tally.finished,
            total=self.done_before + self.to_send,
            ok=tally.finished - tally.failed,
            failed=tally.failed,
            in_flight=self.limiter.in_flight,
            oldest_seconds=self._client.oldest_seconds,
            rows_per_second=self._rows.per_second(now, tally.finished),
            tokens_per_second=self._tokens.per_second(
                now, tally.bill.tokens.input + tally.bill.tokens.output
            ),
            cost=tally.bill.at_least if tally.bill.answered else None,
            limit=self.limiter.limit,
        )

    def _start_watchers(self, watchers: anyio.abc.TaskGroup) -> None:
        if self.handle_signals:
            watchers.start_soon(self._watch_signals)
        if self.display is not None:
            watchers.start_soon(self._show, self.display(self.snapshot()))
        if self.job.limits.deadline is not None:
            watchers.start_soon(self._stop_at_deadline, self.job.limits.deadline)

    async def _source(self) -> AsyncIterator[Request]:
        """The requests, as fast as the limiter, the journal and the budget take them."""
        while block := await anyio.to_thread.run_sync(_next_block, self.requests):
            for request in block:
                await self.limiter.room()
                await self._journal.ready()
                if self.budget is not None and not await self._afford(self.budget, request):
                    return
                yield request

    async def _afford(self, budget: Budget, request: Request) -> bool:
        """Money is set aside for the request; False when it cannot be, and the run is over."""
        ceiling = self.biller.ceiling(
            request.model, len(request.body), request.max_output_tokens, at=time.time()
        )
        while not budget.fits(ceiling):
            if not budget.in_flight:
                self.drain.start(
                    RunStoppedError(
                        f"max_cost ${budget.limit} is used up: ${budget.spent:.6f} spent, and the next "
                        f"call may cost ${ceiling or Decimal(0):.6f}",
                        hint="run again with a higher --max-cost to go on",
                    )
                )
                return False
            await anyio.sleep(0.02)
        budget.reserve(request.key, ceiling)
        return True

    async def _begin(self, request: Request, attempt: int) -> None:
        await self._journal.announce(
            Intent(
                key=request.key,
                attempt=attempt,
                row=request.row,
                model=request.model,
                request_bytes=len(request.body),
                max_output_tokens=request.max_output_tokens,
            )
        )

    async def _record(self, results: Sequence[RowResult]) -> None:
        for result in results:
            self._journal.finish(result)
        await self._journal.settled()
        for result in results:
            self._count(result)

    def _count(self, result: RowResult) -> None:
        before = (
            self.tally.bill.answers + self.tally.bill.failures + self.tally.bill.unknown_at_most
        )
        self.tally.add(result)
        after = self.tally.bill.answers + self.tally.bill.failures + self.tally.bill.unknown_at_most
        if self.budget is not None:
            self.budget.settle(result.key, after - before)
        if result.code is not None and self.tally.failed:
            self.log.debug(
                "row %s: %s %s",
                result.row,
                result.status,
                result.code,
                extra={"event": "row_ended"},
            )
        if self.on_result is not None:
            self.on_result(result)
        limit = self.job.limits.max_errors
        if limit.exceeded(self.tally.failed, self.tally.finished) and not self.drain.started:
            self.stop(
                RunStoppedError(
                    f"{self.tally.failed:,} of {self.tally.finished:,} rows failed, more than "
                    "limits.max_errors allows",
                    hint="see the error_code column; run again to go on",
                )
            )

    async def _watch_signals(self) -> None:
        def drain(number: int) -> None:
            self.signal_number = number
            name = signal.Signals(number).name
            self.log.warning(
                "%s: finishing %d calls in flight (up to %g s); once more to break them off",
                name, self.limiter.in_flight, self.job.limits.grace,
            )  # fmt: skip
            self.stop(None)

        await watch_signals(
            drain=drain, cancel=self._client.cancel, grace_seconds=self.job.limits.grace
        )

    async def _show(self, display: Display) -> None:
        try:
            await keep_showing(display, self.snapshot)
        finally:
            display.close(self.snapshot())

    async def _stop_at_deadline(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self.stop(
            RunStoppedError(
                f"limits.deadline ({seconds:g} s) has passed", hint="run again to go on"
            )
        )

    def _make_client(self, transport: httpx.AsyncBaseTransport) -> Client:
        endpoint = self.job.endpoint
        headers = {"user-agent": f"batch-runner/{__version__}", **endpoint.headers}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        secrets = [self.key or "", *endpoint.headers.values()]
        return Client(
            base_url=endpoint.base_url,
            headers=headers,
            transport=transport,
            limiter=self.limiter,
            policy=self.job.retry,
            timeout_seconds=endpoint.timeout,
            redactor=Redactor(secrets),
            begin=self._begin,
            on_stop=self.stop,
            shares_model=self.shares_model,
            stream=endpoint.stream,
            idempotency_header=endpoint.idempotency_header,
        )


def _next_block(requests: Iterator[Request]) -> list[Request]:
    block: list[Request] = []
    size = 0
    for request in requests:
        block.append(request)
        size += len(request.body)
        if len(block) >= BLOCK_ROWS or size >= BLOCK_BYTES:
            break
    return block


def _limiter(job: JobSpec) -> Limiter:
    limits = job.limits
    return Limiter(limits.concurrency, rpm=limits.rpm, tpm=limits.tpm)

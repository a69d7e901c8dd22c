"""Sends the rows of a plan through the pipeline: what the reader, callers and recorder really do."""

import logging
import signal
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from batch_runner import __version__, logs
from batch_runner.amounts import duration
from batch_runner.api_key import key_source, key_variable
from batch_runner.bill import Biller, is_priced
from batch_runner.breaker import Breaker
from batch_runner.budget import Budget
from batch_runner.client import Client
from batch_runner.errors import GO_ON, BatchRunnerError, InputError, RunStoppedError, StorageError
from batch_runner.expectation import Expectation
from batch_runner.job import JobSpec
from batch_runner.journal import Intent, Journal
from batch_runner.limiter import Limiter
from batch_runner.open_files import SPARE, make_room
from batch_runner.pipeline import Drain, first, run_pipeline
from batch_runner.progress import Display, Snapshot, keep_showing
from batch_runner.records import Pending, Request, RowResult, RowStatus
from batch_runner.redact import Redactor
from batch_runner.signals import watch_signals
from batch_runner.spending import Spending
from batch_runner.structured import AnswerSchema
from batch_runner.tally import Rate, Tally
from batch_runner.transport import open_transport
from batch_runner.trouble import Trouble


if TYPE_CHECKING:
    import httpx

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
    expectation: Expectation | None = None
    """What an estimate said of this job."""
    open_journal: Callable[[Callable[[BatchRunnerError], None]], Journal]
    schema: AnswerSchema | None = None
    pending: Mapping[bytes, Pending] = field(default_factory=dict)
    """By key: background responses of earlier runs that may still be asked for."""
    transport: "httpx.AsyncBaseTransport | None" = None
    """Instead of the real network."""
    handle_signals: bool = True
    signals: AsyncIterable[int] | None = None
    """Instead of those of the process: Ctrl-C of another thread."""
    display: Callable[[Snapshot], Display] | None = None
    on_result: Callable[[RowResult], None] | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("batch_runner"))
    has_queued: bool = False
    """A background response was asked for."""
    signal_number: int | None = None
    """The signal that stopped the run, if one did."""

    def __post_init__(self) -> None:
        self.drain = Drain()
        self.limiter = _limiter(self.job, self.log)
        self.spending = Spending(
            biller=self.biller,
            tally=self.tally,
            rows=self.to_send,
            budget=self.budget,
            expectation=self.expectation,
            stop=self._stop_admitting,
            log=self.log,
        )
        self._trouble = Trouble(
            self.job.endpoint.base_url, tell=self._tell_trouble, clock=time.monotonic
        )
        self._hook_error: Exception | None = None
        self._began = time.monotonic()
        self._rows = Rate(self._began)
        self._tokens = Rate(self._began)

    async def send(self) -> None:
        """Every request has been called and recorded, or the run was stopped: see `drain.reason`.

        Raises StorageError when the journal has had trouble, once what was in flight is stored as
        far as the disk takes it.
        """
        # The price list takes 0.4 s to load: better now than in the middle of the first replies.
        is_priced(self.biller.prices, self.job.model)
        transport = self.transport or open_transport(
            self.job.endpoint.base_url,
            proxy=self.job.endpoint.proxy,
            ca_file=self.job.endpoint.ca_file,
            tell=self._tell_trouble,
        )
        self._journal = self.open_journal(self.stop)
        self._client = self._make_client(transport)
        clean = False
        try:
            async with transport, anyio.create_task_group() as watchers:
                self._start_watchers(watchers)
                await run_pipeline(
                    self._source(),
                    self._call,
                    self._record,
                    callers=max(1, min(self.limiter.concurrency.maximum, self.to_send)),
                    drain=self.drain,
                )
                watchers.cancel_scope.cancel()
            clean = True
        except BaseExceptionGroup as group:
            raise first(group) from None
        finally:
            self._journal.close(clean=clean)
        if self._journal.failed is not None:  # worse than whatever else ended the run
            raise self._journal.failed
        if self._hook_error is not None:
            raise self._hook_error

    async def send_or_note(self) -> None:
        """Like `send`, with trouble of storage noted as the reason for the end."""
        try:
            await self.send()
        except StorageError as error:
            self.drain.reason = error
            self.drain.started = True

    def stop(self, reason: BatchRunnerError | None) -> None:
        """No new rows and no more waiting; calls in flight are finished."""
        if not self.drain.started and reason is not None:
            self.log.warning("stopping: %s", reason, extra={"event": "stopping"})
        self.drain.start(reason)
        self._client.drain()

    def _stop_admitting(self, reason: RunStoppedError) -> None:
        """No new rows; those in hand go on, repeats included, as far as money was set aside."""
        if not self.drain.started:
            self.log.warning("stopping: %s", reason, extra={"event": "stopping"})
        self.drain.start(reason)

    def _tell_trouble(self, words: str) -> None:
        self.log.warning("%s", words, extra={"event": "trouble"})

    def limit_changes(self) -> list[dict[str, Any]]:
        """How the limit on calls in flight moved, oldest first; `at` is Unix time."""
        to_unix = time.time() - time.monotonic()  # the limiter's clock is the loop's
        return [
            {**change._asdict(), "at": round(change.at + to_unix, 3)}
            for change in self.limiter.events
        ]

    def snapshot(self) -> Snapshot:
        now = time.monotonic()
        tally = self.tally
        covered = self.spending.rows_covered
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
            cost=tally.bill.listed if tally.bill.answered else None,
            limit=self.limiter.limit,
            ends_at=None if covered is None else self.done_before + covered,
            is_ending=self.drain.started,
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
        room = 0
        while block := await self._block():
            for request in block:
                if not room:
                    await anyio.lowlevel.checkpoint()  # callers of before have taken their places
                    room = await self.limiter.room()
                room -= 1
                await self._journal.ready()
                if not await self.spending.admit(request):
                    return
                yield request

    async def _block(self) -> list[Request]:
        """The next requests; none at the end of the input, or where it can be read no further."""
        try:
            return await anyio.to_thread.run_sync(_next_block, self.requests)
        except InputError as error:
            self.stop(error)  # calls in flight have been paid for: they are finished
            return []

    async def _begin(self, request: Request, attempt: int) -> None:
        await self._journal.announce(
            Intent(
                key=request.key,
                attempt=attempt,
                row=request.row,
                model=request.model,
                request_bytes=request.input_bound_bytes,
                max_output_tokens=request.max_output_tokens,
            )
        )

    async def _accepted(self, request: Request, attempt: int, response_id: str) -> None:
        self.has_queued = True
        await self._journal.queued(request.key, attempt, response_id)

    async def _call(self, request: Request) -> RowResult | None:
        """How the row ended; None when it was given up before it cost anything."""
        result = await self._client.call(request)
        if result is not None:
            # Here, not by the recorder: so it is written before this caller's next call leaves, and
            # a kill puts no more calls at risk than there are callers.
            self._journal.finish(result)
        else:
            # Rejected and refused attempts have been announced; they are not of unknown billing.
            self._journal.waive(request.key)
            self.spending.given_up(request)
        return result

    async def _record(self, results: Sequence[RowResult]) -> None:
        # After trouble the run drains (the journal has called `stop`), and every result that still
        # comes in has been paid for: giving up here would throw them away. close() tells of those
        # that could not be stored.
        with suppress(StorageError):
            await self._journal.settled()
        for result in results:
            self._count(result)

    def _count(self, result: RowResult) -> None:
        self.tally.add(result)
        self.spending.settle(result)
        if result.status is not RowStatus.FAILED:
            self._trouble.answered()
        level = logging.DEBUG if result.code is not None else logs.TRACE
        if self.log.isEnabledFor(level):
            extra = {"event": "row_ended", "fields": logs.row_fields(result)}
            self.log.log(level, "%s", logs.row_line(result), extra=extra)
        self._tell(result)
        limit = self.job.limits.max_errors
        if limit.exceeded(self.tally.failed, self.tally.finished) and not self.drain.started:
            self.stop(
                RunStoppedError(
                    f"{self.tally.failed:,} of {self.tally.finished:,} rows failed, more than "
                    "limits.max_errors allows",
                    hint=f"see the error_code column; {GO_ON}",
                )
            )

    def _tell(self, result: RowResult) -> None:
        """`on_result` has heard of the row. Its first error drains the run, then `send` raises it."""
        if self.on_result is None or self._hook_error is not None:
            return
        try:
            self.on_result(result)
        except Exception as error:  # noqa: BLE001  # raised by `send`, whatever it is
            self._hook_error = error
            self.stop(None)

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
            drain=drain,
            cancel=self._client.cancel,
            late=self._client.out_of_time,
            grace_seconds=self.job.limits.grace,
            signals=self.signals,
        )

    async def _show(self, display: Display) -> None:
        try:
            await keep_showing(display, self.snapshot)
        finally:
            display.close(self.snapshot())

    async def _stop_at_deadline(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self.stop(RunStoppedError(f"limits.deadline ({duration(seconds)}) has passed", hint=GO_ON))

    def _make_client(self, transport: "httpx.AsyncBaseTransport") -> Client:
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
            on_trouble=self._trouble.heard,
            affordable=self.spending.allows,
            shares_model=self.shares_model,
            stream=endpoint.stream,
            idempotency_header=endpoint.idempotency_header,
            accepted=self._accepted,
            pending=lambda request: self.pending.get(request.key),
            schema=self.schema,
            on_invalid=self.job.json.on_invalid,
            breaker=Breaker(denied_hint=_denied_hint(self.job, self.key)),
        )


def _denied_hint(job: JobSpec, key: str | None) -> str:
    """The way out after a 401 or 403: which key was sent, or that none was, which not everybody knows."""
    if key is not None:
        return f"check the key in {key_variable(job)}; finished rows are kept, {GO_ON}"
    return (
        f"no key was sent{key_source(job, key).removeprefix('no key')}; if the endpoint takes one, "
        'name the variable that holds it: api_key_env = "..." under [endpoint]'
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


def _limiter(job: JobSpec, log: logging.Logger) -> Limiter:
    limits = job.limits
    asked = limits.concurrency.maximum
    fitting = make_room(asked)
    if fitting < asked:
        log.warning(
            "at most %s calls in flight instead of %s: the system allows no more open files "
            "(ulimit -n %d before the run, or LimitNOFILE= of a systemd unit)",
            f"{fitting:,}", f"{asked:,}", asked + SPARE,
            extra={"event": "open_files"},
        )  # fmt: skip
    return Limiter(limits.concurrency.at_most(fitting), rpm=limits.rpm, tpm=limits.tpm)

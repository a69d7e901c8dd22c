"""The server on its socket: as an async context manager, until cancelled, or in a thread."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from batch_runner.faultserver.head import BadRequestError, HttpRequest
from batch_runner.faultserver.ledger import Ledger, LedgerMode
from batch_runner.faultserver.protocol import Answer, Connection
from batch_runner.faultserver.replies import error_reply
from batch_runner.faultserver.routes import answer, endpoint_of, switch
from batch_runner.faultserver.rules import Script, read_script
from batch_runner.faultserver.settings import Settings
from batch_runner.faultserver.state import State, Stats
from batch_runner.faultserver.wire import answer_of


BACKLOG = 2048  # a benchmark opens all its connections at once


class FaultServer:
    """A /v1/responses server that misbehaves on demand.

    Used as `async with FaultServer() as server:`. Keyword arguments that are not named here are
    fields of `Settings`; they win over the script's.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        ledger_path: Path | None = None,
        ledger_mode: LedgerMode | str = LedgerMode.ROWS,
        script: Path | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> None:
        written = Script(settings={}, rules=()) if script is None else read_script(script)
        self._state = State(
            settings=Settings().changed({**written.settings, **settings}),
            ledger=Ledger(ledger_path, mode=LedgerMode(ledger_mode)),
            rules=written.rules,
        )
        self._host, self._port = host, port
        self._ssl_context = ssl_context
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._closing = False
        self._all_closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self),
                self._host,
                self._port,
                backlog=BACKLOG,
                ssl=self._ssl_context,
            )
        except OSError:
            self._state.ledger.close()
            raise
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._server is not None:
            self._server.close()
        self._closing = True
        for connection in tuple(self._connections):
            connection.close()
        if self._connections:
            await self._all_closed.wait()  # their calls still have to enter the ledger
        if self._server is not None:
            await self._server.wait_closed()
        self._state.ledger.close()

    @property
    def url(self) -> str:
        """Base URL for clients, ending in /v1."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """Where /admin and /health are."""
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}"

    @property
    def ledger(self) -> Ledger:
        return self._state.ledger

    @property
    def stats(self) -> Stats:
        return self._state.stats

    @property
    def seen(self) -> list[HttpRequest]:
        """The last 100 requests as received, keys included; bodies above 64 KiB are left out."""
        return list(self._state.seen)

    # These may be called from any thread: each only replaces a value.

    def misbehave(self, fault: str | None, **order: Any) -> None:
        """The fault is on; None: all are off. Order: next=N, rate=P, seed=S, match={...}."""
        switch(self._state, {"fault": fault, **order})

    def change(self, **settings: Any) -> None:
        """These settings hold from now on; limits start afresh."""
        self._state.settings = self._state.settings.changed(settings)

    def reset(self) -> None:
        """As after the start, with an empty ledger."""
        self._state.reset()

    def settle(self, timeout_seconds: float = 5.0) -> None:
        """Every call received so far has ended, and the ledger says so. TimeoutError otherwise.

        For another thread than the server's: a client there may read a reply a moment before the
        ledger does. Not for calls that hang: those end when their client leaves.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.stats.in_flight:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.stats.in_flight} calls are still in flight")
            time.sleep(0.001)

    # Handler of the connections

    @property
    def max_body_bytes(self) -> int:
        return self._state.settings.max_body_bytes

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._closing:  # accepted in the last moment
            connection.close()
        self.stats.connections_opened += 1
        self.stats.connections_open += 1

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._closing and not self._connections:
            self._all_closed.set()
        self.stats.connections_open -= 1

    def hangs_up_on(self, head: HttpRequest) -> bool:
        return self._state.hangs_up_on(head, endpoint_of(head.method, head.path))

    def answer(self, request: HttpRequest) -> Answer:
        return answer(self._state, request)

    def answer_bad(self, error: BadRequestError) -> Answer:
        return answer_of(
            error_reply(error.status, str(error)),
            request_id="req_unread",
            extra=(),
            ended=lambda _delivered: None,
        )


async def serve(*, on_ready: Callable[[str], None], **options: Any) -> None:
    """Runs until cancelled. Options are those of `FaultServer`; `on_ready` gets the URL."""
    async with FaultServer(**options) as server:
        on_ready(server.url)
        await asyncio.Event().wait()


@contextmanager
def running(**options: Any) -> Iterator[FaultServer]:
    """A server in a thread of this process, for code without an event loop.

    Options are those of `FaultServer`.
    """
    ready = threading.Event()
    server = FaultServer(**options)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failures: list[BaseException] = []

    async def life() -> None:
        async with server:
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(life())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            failures.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=work, name="faultserver", daemon=True)
    thread.start()
    ready.wait()
    try:
        if failures:
            raise failures[0]
        yield server
    finally:
        if not failures:
            loop.call_soon_threadsafe(stop.set)
        thread.join()

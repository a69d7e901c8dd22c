"""HTTP/1.1 on a bare asyncio.Protocol: whole requests in; answers out, in order, one at a time.

Bytes of the next request that arrive early (pipelining) wait in the buffer. Nothing here knows
what a Response is.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol, cast

from batch_runner.faultserver.head import (
    BadRequestError,
    HttpRequest,
    body_length,
    chunk_size,
    read_head,
)


HEAD_LIMIT = 64 * 1024
READ_AHEAD_LIMIT = 1024 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s -> close sends RST instead of FIN


class Then(Enum):
    """What happens to the connection after the last byte of an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    """RST: the peer's next read fails."""
    SILENCE = "silence"
    """Open, and nothing comes any more."""
    RESET_AT_NEXT = "reset at next"
    """Kept alive in appearance: RST as soon as a byte of the next request arrives."""
    IDLE_CLOSE = "idle close"
    """Closed unannounced after `idle_seconds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Bytes for the wire and how they are handed over."""

    data: bytes
    """Head and body, or the part of them that is to be sent at once."""
    ended: Callable[[bool], None]
    """Called once: True when a `whole` answer was handed to the socket, else False."""
    whole: bool = True
    """False: the peer is not meant to get everything."""
    delay_seconds: float = 0.0
    pieces: Iterator[bytes] | None = None
    """Sent after `data`, one every `interval_seconds`; may be endless."""
    interval_seconds: float = 1.0
    then: Then = Then.KEEP
    idle_seconds: float = 0.0


class Handler(Protocol):
    """What a connection talks to."""

    @property
    def max_body_bytes(self) -> int: ...
    def opened(self, connection: "Connection") -> None: ...
    def closed(self, connection: "Connection") -> None: ...
    def hangs_up_on(self, head: HttpRequest) -> bool:
        """Whether to reset the connection now, before the body is read."""
        ...

    def answer(self, request: HttpRequest) -> Answer: ...
    def answer_bad(self, error: BadRequestError) -> Answer: ...


@dataclass(slots=True, kw_only=True)
class _Incoming:
    """A request whose head has arrived and whose body is on its way."""

    head: HttpRequest
    length: int | None
    """None: chunked."""
    chunks: list[bytes] = field(default_factory=list)
    chunk_bytes: int = 0


class Connection(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._incoming: _Incoming | None = None
        self._answer: Answer | None = None
        self._in_loop = False
        self._paused = False
        self._reset_at_next = False
        self._all_written = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # 0: resume_writing then means that the kernel has every byte, which is what `ended` claims.
        self._transport.set_write_buffer_limits(high=0)
        self._handler.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._stop_timer()
        answer, self._answer = self._answer, None
        self._handler.closed(self)
        if answer is not None:
            answer.ended(False)

    def data_received(self, data: bytes) -> None:
        if self._reset_at_next:
            self.reset()
            return
        self._buffer += data
        if self._answer is None:
            self._serve()
        elif len(self._buffer) > READ_AHEAD_LIMIT:
            self._paused = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._all_written:
            self._finish()
            self._serve()

    def reset(self) -> None:
        """The peer gets RST."""
        connected = self._transport.get_extra_info("socket")
        with suppress(OSError):  # the peer may have closed first
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    def close(self) -> None:
        """The connection is gone, an unfinished answer with it."""
        self._transport.abort()

    def _serve(self) -> None:
        if self._in_loop:
            return
        self._in_loop = True
        try:
            while self._answer is None and not self._transport.is_closing():
                try:
                    request = self._next_request()
                except BadRequestError as error:
                    self._buffer.clear()
                    self._begin(replace(self._handler.answer_bad(error), then=Then.CLOSE))
                    return
                if request is None:
                    return
                answer = self._handler.answer(request)
                if not request.keep_alive and answer.then is Then.KEEP:
                    answer = replace(answer, then=Then.CLOSE)
                self._begin(answer)
        finally:
            self._in_loop = False

    # Reading

    def _next_request(self) -> HttpRequest | None:
        """The next request if the buffer holds all of it."""
        incoming = self._incoming
        if incoming is None:
            incoming = self._next_head()
            if incoming is None:
                return None
            self._incoming = incoming
        body = (
            self._sized(incoming.length) if incoming.length is not None else self._chunked(incoming)
        )
        if body is None:
            return None
        self._incoming = None
        return replace(incoming.head, body=body) if body else incoming.head

    def _next_head(self) -> _Incoming | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadRequestError(431, "request head is too large")
            return None
        head = read_head(self._buffer[:end].decode("latin-1").lstrip("\r\n"))
        del self._buffer[: end + 4]
        if self._handler.hangs_up_on(head):
            self.reset()
            return None
        incoming = _Incoming(head=head, length=body_length(head))
        if incoming.length is not None and incoming.length > self._handler.max_body_bytes:
            raise BadRequestError(413, f"request body of {incoming.length} bytes is too large")
        if head.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return incoming

    def _sized(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        if len(self._buffer) == length:
            body = bytes(self._buffer)
            self._buffer.clear()
            return body
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _chunked(self, incoming: _Incoming) -> bytes | None:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = chunk_size(self._buffer[:end])
            if incoming.chunk_bytes + size > self._handler.max_body_bytes:
                raise BadRequestError(413, "request body is too large")
            if size == 0:
                trailer_end = self._buffer.find(b"\r\n\r\n", end)
                if trailer_end < 0:
                    return None
                del self._buffer[: trailer_end + 4]
                return b"".join(incoming.chunks)
            if len(self._buffer) < end + 2 + size + 2:
                return None
            incoming.chunk_bytes += size
            incoming.chunks.append(bytes(self._buffer[end + 2 : end + 2 + size]))
            del self._buffer[: end + 2 + size + 2]
        return None

    # Answering

    def _begin(self, answer: Answer) -> None:
        self._stop_timer()  # of an idle close that the request has forestalled
        self._answer = answer
        self._all_written = False
        if answer.delay_seconds > 0:
            self._timer = self._loop.call_later(answer.delay_seconds, self._send)
        else:
            self._send()

    def _send(self) -> None:
        answer = self._current()
        if self._transport.is_closing():
            return  # the peer is gone: connection_lost ends the answer
        if answer.data:
            self._transport.write(answer.data)
        self._continue(answer)

    def _continue(self, answer: Answer) -> None:
        piece = next(answer.pieces, None) if answer.pieces is not None else None
        if piece is None:
            self._written()
        else:
            self._timer = self._loop.call_later(answer.interval_seconds, self._send_piece, piece)

    def _send_piece(self, piece: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(piece)
            self._continue(self._current())

    def _written(self) -> None:
        if self._transport.is_closing():
            return
        self._all_written = True
        if self._transport.get_write_buffer_size() == 0:
            self._finish()
            self._serve()

    def _finish(self) -> None:
        """Every byte is with the kernel."""
        answer = self._current()
        self._all_written = False
        if answer.then is Then.SILENCE:
            return  # it ends when the peer gives up
        self._answer = None
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        answer.ended(answer.whole)
        match answer.then:
            case Then.CLOSE:
                self._transport.close()
            case Then.RESET:
                self.reset()
            case Then.RESET_AT_NEXT:
                self._reset_at_next = True
            case Then.IDLE_CLOSE:
                self._timer = self._loop.call_later(answer.idle_seconds, self._transport.close)

    def _current(self) -> Answer:
        if self._answer is None:
            raise AssertionError("a timer outlived its answer")
        return self._answer

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

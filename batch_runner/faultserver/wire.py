"""A Reply as the bytes of an HTTP/1.1 answer."""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import repeat

from batch_runner.faultserver.protocol import Answer, Then
from batch_runner.faultserver.replies import JSON, Reply


ENDLESS_BYTES = 10**9  # the Content-Length of a reply that drips for ever
SPREAD_PIECES = 10

PHRASES = {status.value: status.phrase for status in HTTPStatus}


def answer_of(
    reply: Reply,
    *,
    request_id: str,
    extra: tuple[tuple[str, str], ...],
    ended: Callable[[bool], None],
) -> Answer:
    """The answer that hands this reply over, whole or in the way it fails."""
    if reply.silent:
        return Answer(
            data=b"", ended=ended, whole=False, delay_seconds=reply.delay_seconds, then=reply.then
        )
    body = in_chunks(reply.body) if reply.chunked else reply.body
    length = None if reply.chunked else len(body)
    if reply.drip_seconds is not None:
        length = ENDLESS_BYTES
    head = _head(reply, length=length, extra=(("x-request-id", request_id), *extra))
    pieces: Iterator[bytes] | None = None
    interval_seconds, data = 0.0, head + body
    if reply.drip_seconds is not None:
        pieces, interval_seconds, data = repeat(b" "), reply.drip_seconds, head
    elif reply.spread_seconds:
        pieces, data = _slices(body), head
        interval_seconds = reply.spread_seconds / SPREAD_PIECES
    elif reply.sent_share < 1:
        data = head + body[: int(len(body) * reply.sent_share)]
    return Answer(
        data=data,
        ended=ended,
        whole=reply.sent_share == 1 and reply.drip_seconds is None,
        delay_seconds=reply.delay_seconds,
        pieces=pieces,
        interval_seconds=interval_seconds,
        then=reply.then,
        idle_seconds=reply.idle_seconds,
    )


def in_chunks(body: bytes) -> bytes:
    """Chunked transfer coding; an event stream is cut where its events end."""
    parts = [part + b"\n\n" for part in body.split(b"\n\n") if part] if b"\n\n" in body else [body]
    sized = (b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return b"".join(sized) + b"0\r\n\r\n"


def _head(reply: Reply, *, length: int | None, extra: tuple[tuple[str, str], ...]) -> bytes:
    lines = [_STATUS_LINES.get(reply.status) or _status_line(reply.status)]
    lines += [f"{name}: {value}" for name, value in (*extra, *reply.headers)]
    if reply.content_type is not None:
        lines.append(
            _JSON_LINE if reply.content_type == JSON else f"content-type: {reply.content_type}"
        )
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    if reply.then is Then.CLOSE:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {PHRASES.get(status, 'Unknown')}"


_STATUS_LINES = {status: _status_line(status) for status in PHRASES}
_JSON_LINE = f"content-type: {JSON}"


def _slices(body: bytes) -> Iterator[bytes]:
    size = max(1, -(-len(body) // SPREAD_PIECES))
    return (body[start : start + size] for start in range(0, len(body), size))

"""What can happen to a reply on its way: each takes any reply, so twists combine."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from batch_runner.faultserver.protocol import Then
from batch_runner.faultserver.register import twist
from batch_runner.faultserver.replies import Reply


@twist("slow")
def slow(reply: Reply, seconds: str) -> Reply:
    """Waits before the first byte; ARG: seconds, 1 by default."""
    return replace(reply, delay_seconds=reply.delay_seconds + float(seconds or 1))


@twist("hang")
def hang(reply: Reply, _arg: str) -> Reply:
    """The request is taken and nothing ever comes; billed."""
    return _worked(replace(reply, silent=True, then=Then.SILENCE))


@twist("reset-after")
def reset_after(reply: Reply, _arg: str) -> Reply:
    """RST once the whole request has been received; billed."""
    return _worked(replace(reply, silent=True, then=Then.RESET))


@twist("drop")
def drop(reply: Reply, _arg: str) -> Reply:
    """The connection is closed in order, without a byte of reply; billed."""
    return _worked(replace(reply, silent=True, then=Then.CLOSE))


@twist("half-body")
def half_body(reply: Reply, _arg: str) -> Reply:
    """Half the body, then silence on an open connection; billed."""
    return _worked(replace(reply, sent_share=0.5, then=Then.SILENCE))


@twist("half-reset")
def half_reset(reply: Reply, _arg: str) -> Reply:
    """Half the body, then RST; billed."""
    return _worked(replace(reply, sent_share=0.5, then=Then.RESET))


@twist("half-close")
def half_close(reply: Reply, _arg: str) -> Reply:
    """Half the body, then the end of the connection; billed."""
    return _worked(replace(reply, sent_share=0.5, then=Then.CLOSE))


@twist("drip")
def drip(reply: Reply, rate: str) -> Reply:
    """One byte of white space at a time for ever; billed; ARG: bytes a second, 1 by default."""
    return _worked(replace(reply, drip_seconds=1 / float(rate or 1)))


@twist("trickle")
def trickle(reply: Reply, seconds: str) -> Reply:
    """The whole body, slowly: over ARG seconds, 1 by default."""
    return replace(reply, spread_seconds=float(seconds or 1))


@twist("truncated-json")
def truncated_json(reply: Reply, _arg: str) -> Reply:
    """A body cut in the middle that claims to be whole; billed."""
    return replace(reply, body=reply.body[: len(reply.body) // 2]).unread()


@twist("empty-body")
def empty_body(reply: Reply, _arg: str) -> Reply:
    """No body; billed."""
    return replace(reply, body=b"").unread()


@twist("wrong-content-type")
def wrong_content_type(reply: Reply, content_type: str) -> Reply:
    """The right body under another type; ARG: text/plain by default, "none" for no header."""
    kind = None if content_type == "none" else content_type or "text/plain"
    return replace(reply, content_type=kind)


@twist("byte-order-mark")
def byte_order_mark(reply: Reply, _arg: str) -> Reply:
    """The body begins with a UTF-8 byte order mark."""
    return replace(reply, body=b"\xef\xbb\xbf" + reply.body)


@twist("chunked")
def chunked(reply: Reply, _arg: str) -> Reply:
    """The body travels in chunks, without Content-Length."""
    return replace(reply, chunked=True)


@twist("status")
def status(reply: Reply, number: str) -> Reply:
    """Another status over the same body; ARG: the status, 202 by default."""
    return replace(reply, status=int(number or 202))


@twist("retry-after")
def retry_after(reply: Reply, value: str) -> Reply:
    """A Retry-After header; ARG: its value as it stands, 1 by default."""
    return reply.with_headers(("retry-after", value or "1"))


@twist("retry-after-date")
def retry_after_date(reply: Reply, seconds: str) -> Reply:
    """Retry-After as an HTTP date; ARG: seconds from now, 1 by default."""
    moment = datetime.now(UTC) + timedelta(seconds=float(seconds or 1))
    return reply.with_headers(("retry-after", format_datetime(moment, usegmt=True)))


@twist("retry-after-ms")
def retry_after_ms(reply: Reply, milliseconds: str) -> Reply:
    """The header retry-after-ms; ARG: its value, 100 by default."""
    return reply.with_headers(("retry-after-ms", milliseconds or "100"))


@twist("x-should-retry")
def x_should_retry(reply: Reply, value: str) -> Reply:
    """The header x-should-retry; ARG: true (default) or false."""
    return reply.with_headers(("x-should-retry", value or "true"))


@twist("header")
def header(reply: Reply, line: str) -> Reply:
    """Any header; ARG: NAME=VALUE."""
    name, _, value = line.partition("=")
    return reply.with_headers((name, value))


@twist("close-after")
def close_after(reply: Reply, _arg: str) -> Reply:
    """Connection: close, announced and done."""
    return replace(reply, then=Then.CLOSE)


@twist("idle-close")
def idle_close(reply: Reply, seconds: str) -> Reply:
    """The connection closes unannounced after the reply; ARG: seconds of idling, 0 by default."""
    return replace(reply, then=Then.IDLE_CLOSE, idle_seconds=float(seconds or 0))


@twist("stale")
def stale(reply: Reply, _arg: str) -> Reply:
    """The connection looks alive and is reset by the first byte of its next request."""
    return replace(reply, then=Then.RESET_AT_NEXT)


@twist("billed")
def billed(reply: Reply, _arg: str) -> Reply:
    """The provider charges for this reply, whatever it says."""
    return replace(reply, billed=True)


@twist("unbilled")
def unbilled(reply: Reply, _arg: str) -> Reply:
    """The provider does not charge for this reply."""
    return replace(reply, billed=False)


def _worked(reply: Reply) -> Reply:
    """Below 400 the provider has worked for it, although nobody will know."""
    return replace(reply, billed=reply.billed or reply.status < 400).unread()

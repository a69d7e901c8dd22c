"""The real network under the client: aiohttp's sockets behind httpx's transport interface.

httpx's own connection pool walks every connection on each request, so at 512 in flight it burns
ten times the CPU of this arrangement; its Request and Response types cost next to nothing.
"""

import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from batch_runner.errors import UsageError
from batch_runner.hosts import is_loopback
from batch_runner.records import ErrorCode, Failure, UnknownBilling
from batch_runner.retry import Blame, Problem


CONNECT_SECONDS = 30.0
SOON_SECONDS = 5.0
"""By when a first connection usually stands: whoever waits for longer is told what for."""
IDLE_SECONDS = 4.0
"""llama.cpp and others close idle connections after 5 s; ours must be gone before theirs."""

REUSED: ContextVar[bool] = ContextVar("reused", default=False)
"""Whether the attempt in this task went out on a kept-alive connection; set True before it."""


class Transport(httpx.AsyncBaseTransport):
    """httpx's requests over aiohttp's sockets. Raises aiohttp's own errors: see `judge_exchange_error`.

    Replies come as they were sent: nothing is decompressed, no redirect is followed.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._session.request(
            request.method,
            str(request.url),
            # As a mapping, each header would be looked up in a list by its lower-case name.
            headers=[
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in request.headers.raw
            ],
            data=request.content or None,
            allow_redirects=False,
            timeout=_timeouts(**request.extensions["timeout"]),
        )
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_Body(response), request=request
        )

    async def aclose(self) -> None:
        await self._session.close()


class _Body(httpx.AsyncByteStream):
    """What arrives of a reply, as it arrives."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._response.content.iter_any())

    async def aclose(self) -> None:
        """A connection whose reply was read to its end can be used again; others are closed."""
        self._response.release()


@cache
def _timeouts(
    connect: float | None, read: float | None, pool: float | None
) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect, sock_read=read, connect=pool)


def open_transport(
    base_url: str,
    *,
    proxy: str | None,
    ca_file: str | None,
    tell: Callable[[str], None] = lambda _words: None,
) -> Transport:
    """A transport without a connection limit of its own: the limiter is the limit.

    `tell` hears once of a first connection that takes long. Must be called inside the event loop
    that will use it. Raises what `find_route` raises.
    """
    context, proxy_url = find_route(base_url, proxy=proxy, ca_file=ca_file)
    session = aiohttp.ClientSession(
        connector=_Connector(
            tell=tell, limit=0, ssl=context, keepalive_timeout=IDLE_SECONDS, ttl_dns_cache=60
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        proxy=proxy_url,
        trust_env=False,
    )
    return Transport(session)


def find_route(
    base_url: str, *, proxy: str | None, ca_file: str | None
) -> tuple[ssl.SSLContext, str | None]:
    """Whom to trust, and the URL of the proxy to use, if any.

    Raises UsageError for an unreadable CA file, and for a proxy that does not speak HTTP.
    """
    url = urlsplit(base_url)
    host = url.hostname or ""
    context = _trust(ca_file) if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context, None if is_loopback(host) else proxy or _environment_proxy(url.scheme, host)


def judge_exchange_error(error: Exception) -> Problem | None:
    """What a broken exchange means; None for an error that no transport raises, which is a bug.

    Of aiohttp's where the network is ours, of httpx's where another transport was handed in.
    """
    for kinds, code, blame, unknown in _MEANING:
        if isinstance(error, kinds):
            failure = Failure(code=code, message=f"{_CODE_WORDS[code]}: {_words(error)}")
            untrusted = isinstance(error, aiohttp.ClientConnectorCertificateError)
            hint = _UNTRUSTED_HINT if untrusted else ""
            return Problem(failure=failure, blame=blame, unknown=unknown, hint=hint)
    return None


def _words(error: Exception) -> str:
    """Of aiohttp, which names the call that failed: people want to know what is wrong, and where."""
    plain = (aiohttp.ClientConnectorDNSError, aiohttp.ClientProxyConnectionError)
    if type(error) is aiohttp.ClientConnectorError or isinstance(error, plain):
        problem = error.os_error
        number = problem.errno or 0
        what = os.strerror(number) if number > 0 else problem.strerror or str(problem)
        proxy = "proxy " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return f"{what} ({proxy}{error.host}:{error.port})"
    return str(error) or type(error).__name__


_UNTRUSTED_HINT = "if you trust this endpoint, name the PEM file of its authority: endpoint.ca_file or SSL_CERT_FILE"
_CODE_WORDS = {
    ErrorCode.CONNECTION: "connection failed",
    ErrorCode.TIMEOUT: "timed out",
    ErrorCode.BAD_REPLY: "unreadable reply",
}

# The first kind that fits decides, so the special stand before the general.
_MEANING: tuple[
    tuple[tuple[type[BaseException], ...], ErrorCode, Blame, UnknownBilling | None], ...
] = (
    (
        (
            aiohttp.ClientConnectorCertificateError,
            aiohttp.InvalidURL,
            httpx.InvalidURL,
            httpx.UnsupportedProtocol,
            httpx.LocalProtocolError,
        ),
        ErrorCode.CONNECTION,
        Blame.EVERYONE,
        None,
    ),
    (
        (
            aiohttp.ConnectionTimeoutError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            aiohttp.ClientConnectorError,
            aiohttp.ClientHttpProxyError,
            httpx.ConnectError,
            httpx.ProxyError,
        ),
        ErrorCode.CONNECTION,
        Blame.FREE,
        None,
    ),
    (
        (aiohttp.ServerTimeoutError, httpx.TimeoutException, TimeoutError),
        ErrorCode.TIMEOUT,
        Blame.MAYBE_BILLED,
        UnknownBilling.TIMEOUT,
    ),
    (
        (
            httpx.DecodingError,
            httpx.TooManyRedirects,
            httpx.StreamError,
            aiohttp.ClientResponseError,
        ),
        ErrorCode.BAD_REPLY,
        Blame.MAYBE_BILLED,
        UnknownBilling.BAD_REPLY,
    ),
    (
        (aiohttp.ClientError, httpx.HTTPError, OSError),
        ErrorCode.CONNECTION,
        Blame.MAYBE_BILLED,
        UnknownBilling.RESET,
    ),
)


def _trust(ca_file: str | None) -> ssl.SSLContext:
    """The job's CA file, else SSL_CERT_FILE, else the operating system's store."""
    chosen = ca_file or os.environ.get("SSL_CERT_FILE")
    if chosen is None:
        import truststore  # noqa: PLC0415  # a run over plain http does not need it

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=chosen)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"cannot read the CA file {chosen!r}: {error}",
            hint="endpoint.ca_file (or SSL_CERT_FILE) must name a PEM file",
        ) from None


def _environment_proxy(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    if not found:
        return None
    kind, has_scheme, _ = found.partition("://")
    if not has_scheme:
        return f"http://{found}"
    if kind.lower() not in ("http", "https"):  # aiohttp would send HTTP to a SOCKS port, too
        raise UsageError(
            f"the environment names a {kind} proxy for {host}; only http and https are spoken here",
            hint=f"set endpoint.proxy or {scheme}_proxy to an HTTP proxy, or NO_PROXY={host}",
        )
    return found


class _Connector(aiohttp.TCPConnector):
    """Tells `REUSED` when an attempt needed a new connection; a TraceConfig costs 60 us a call."""

    def __init__(self, *, tell: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._tell = tell
        self._quiet = False
        """A connection has stood, or somebody has been told that none does."""

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> ResponseHandler:
        REUSED.set(False)
        late = self._loop.call_later(SOON_SECONDS, self._tell_late, str(req.url.origin()))
        try:
            connection = await super()._create_connection(req, traces, timeout)
        finally:
            late.cancel()
        self._quiet = True
        return connection

    def _tell_late(self, place: str) -> None:
        if self._quiet:
            return
        self._quiet = True
        doubt = "; does it speak https?" if place.startswith("https:") else ""
        self._tell(f"no connection to {place} after {SOON_SECONDS:.0f} s{doubt}")

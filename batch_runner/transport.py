"""The real network under the client: aiohttp's sockets behind httpx's transport interface.

httpx's own connection pool walks every connection on each request, so at 512 in flight it burns
ten times the CPU of this arrangement; its Request and Response types cost next to nothing.
"""

import os
import ssl
import urllib.request
from contextvars import ContextVar
from urllib.parse import urlsplit

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport

from batch_runner.errors import UsageError
from batch_runner.hosts import is_loopback
from batch_runner.records import ErrorCode, Failure, UnknownBilling
from batch_runner.retry import Blame, Problem


CONNECT_SECONDS = 30.0
IDLE_SECONDS = 4.0
"""llama.cpp and others close idle connections after 5 s; ours must be gone before theirs."""

REUSED: ContextVar[bool] = ContextVar("reused", default=False)
"""Whether the attempt in this task went out on a kept-alive connection; set True before it."""


def open_transport(base_url: str, *, proxy: str | None, ca_file: str | None) -> AiohttpTransport:
    """A transport without a connection limit of its own: the limiter is the limit.

    Must be called inside the event loop that will use it. Raises UsageError for an unreadable CA file.
    """
    url = urlsplit(base_url)
    host = url.hostname or ""
    context = _trust(ca_file) if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    proxy_url = None if is_loopback(host) else proxy or _environment_proxy(url.scheme, host)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(
                limit=0, ssl=context, keepalive_timeout=IDLE_SECONDS, ttl_dns_cache=60
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_url,
            trust_env=False,
        )

    return AiohttpTransport(verify=context, client=session)


def judge_exchange_error(error: Exception) -> Problem | None:
    """What a broken exchange means; None for an error that no transport raises, which is a bug.

    The transport's own mapping calls a reset a connect time-out, so aiohttp's cause decides.
    """
    cause: BaseException = error
    if isinstance(error.__cause__, (aiohttp.ClientError, OSError)):
        cause = error.__cause__
    for kinds, code, blame, unknown in _MEANING:
        if isinstance(cause, kinds):
            failure = Failure(
                code=code, message=f"{_CODE_WORDS[code]}: {str(cause) or type(cause).__name__}"
            )
            untrusted = isinstance(cause, aiohttp.ClientConnectorCertificateError)
            hint = _UNTRUSTED_HINT if untrusted else ""
            return Problem(failure=failure, blame=blame, unknown=unknown, hint=hint)
    return None


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
    return proxies.get(scheme) or proxies.get("all")


class _Connector(aiohttp.TCPConnector):
    """Tells `REUSED` when an attempt needed a new connection; a TraceConfig costs 60 us a call."""

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> ResponseHandler:
        REUSED.set(False)
        return await super()._create_connection(req, traces, timeout)

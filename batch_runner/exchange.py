"""One HTTP exchange with the endpoint: a body out, what came back in. Secrets are masked here."""

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import httpx

from batch_runner import responses, sse
from batch_runner.jsonbytes import decode
from batch_runner.redact import Redactor
from batch_runner.transport import CONNECT_SECONDS


LARGEST_REPLY = 64 * 1024 * 1024
"""Bytes. An endless reply must not eat the memory of the whole run."""
STREAM_IDLE_SECONDS = 120.0
"""Without a byte of a stream. An answer in one piece may be silent until its deadline."""
LAST_CHUNK_SECONDS = 1.0
"""After the event that ends a stream: a connection read to its end can be used again."""


@dataclass(slots=True, kw_only=True)
class Reply:
    """What has arrived from one exchange, and stays when the rest never does."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def object(self) -> Any:
        """The JSON of the body; of a stream, its final response or its error. None for all else."""
        if self.is_stream:
            return sse.final_reply(self.body)
        try:
            # A proxy's byte order mark is no reason to pay twice.
            return decode(self.body.removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError):
            return None

    @property
    def partial_text(self) -> str:
        """What a stream had told of the answer when it broke."""
        return sse.partial_text(self.body) if self.is_stream else ""


class Endpoint:
    """`<base_url>/responses` and what lies below it."""

    def __init__(
        self,
        *,
        base_url: str,
        headers: Mapping[str, str],
        transport: httpx.AsyncBaseTransport,
        redactor: Redactor,
        stream: bool,
        timeout_seconds: float,
    ) -> None:
        self._url = httpx.URL(base_url + responses.PATH)
        self._headers = httpx.Headers(
            {
                "accept": "text/event-stream" if stream else "application/json",
                "accept-encoding": "gzip, deflate",
                "content-type": "application/json",
                **headers,
            }
        )
        self._tail = b',"stream":true}' if stream else b',"stream":false}'
        self._transport = transport
        self._redactor = redactor
        idle = min(STREAM_IDLE_SECONDS, timeout_seconds) if stream else None
        self._extensions = {"timeout": {"connect": CONNECT_SECONDS, "read": idle, "pool": None}}

    async def post(self, body: bytes, reply: Reply, extra: Mapping[str, str] | None = None) -> None:
        """`reply` holds what came back. Raises what a transport raises; see judge_exchange_error."""
        headers = self._headers
        if extra:
            headers = httpx.Headers({**headers, **extra})
        await self._send("POST", self._url, reply, headers=headers, content=body[:-1] + self._tail)

    async def poll(self, response_id: str, reply: Reply) -> None:
        await self._send("GET", self._below(response_id), reply, headers=self._headers)

    async def count_tokens(self, body: bytes, reply: Reply) -> None:
        """`reply` holds how many input tokens the endpoint counts in a request; nothing is made of it."""
        url = self._below("input_tokens")
        await self._send("POST", url, reply, headers=self._headers, content=body)

    async def cancel(self, response_id: str) -> None:
        url = self._below(f"{response_id}/cancel")
        await self._send("POST", url, Reply(), headers=self._headers)

    def _below(self, path: str) -> httpx.URL:
        return self._url.copy_with(path=f"{self._url.path}/{path}")

    async def _send(
        self,
        method: str,
        url: httpx.URL,
        reply: Reply,
        *,
        headers: httpx.Headers,
        content: bytes = b"",
    ) -> None:
        # As `content` the body would make httpx work out headers that aiohttp works out again.
        request = httpx.Request(
            method,
            url,
            headers=headers,
            stream=httpx.ByteStream(content),
            extensions=self._extensions,
        )
        request.read()
        response = await self._transport.handle_async_request(request)
        reply.status = response.status_code
        reply.headers = {
            name.decode("latin-1").lower(): self._redactor.text(value.decode("latin-1"))
            for name, value in response.headers.raw
        }
        body = bytearray()
        try:
            if reply.is_stream:
                await self._read_stream(response, body)
            else:
                await _read(response, body, encoded="content-encoding" in reply.headers)
        finally:
            reply.body = self._redactor.body(bytes(body))
            await response.stream.aclose()  # type: ignore[union-attr]  # transports are asynchronous

    async def _read_stream(self, response: httpx.Response, body: bytearray) -> None:
        """The stream until its final event, and the last chunk behind that if it comes soon."""
        judged = 0
        ended = False
        with anyio.CancelScope() as scope:
            async for chunk in response.aiter_bytes():
                _append(body, chunk)
                whole = sse.whole_until(body)
                if not ended and whole > judged:
                    ended = sse.final_reply(bytes(body[judged:whole])) is not None
                    judged = whole
                    if ended:
                        scope.deadline = anyio.current_time() + LAST_CHUNK_SECONDS


async def _read(response: httpx.Response, body: bytearray, *, encoded: bool) -> None:
    # httpx's decoders cost 50 us even where there is nothing to decode.
    chunks = response.aiter_bytes() if encoded else cast("AsyncIterable[bytes]", response.stream)
    async for chunk in chunks:
        _append(body, chunk)


def _append(body: bytearray, chunk: bytes) -> None:
    body += chunk
    if len(body) > LARGEST_REPLY:
        raise httpx.DecodingError(f"the reply is larger than {LARGEST_REPLY} bytes")

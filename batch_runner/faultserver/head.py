"""The head of an HTTP/1.1 request, and what it says about the body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request; `body` is empty until it has arrived."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Lower-case names."""
    keep_alive: bool
    body: bytes = b""


class BadRequestError(Exception):
    """These bytes are not a request this server reads; the connection cannot go on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_head(text: str) -> HttpRequest:
    """Request line and headers, as decoded from Latin-1, without the empty line."""
    first, *lines = text.split("\r\n")
    try:
        method, target, version = first.split(" ")
    except ValueError:
        raise BadRequestError(400, f"not a request line: {first[:100]!r}") from None
    if not version.startswith("HTTP/1."):
        raise BadRequestError(505, f"cannot speak {version[:20]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequestError(400, f"not a header line: {line[:100]!r}")
        headers[name.lower()] = value.strip()
    connection = headers.get("connection", "").lower()
    path, _, query = target.partition("?")
    return HttpRequest(
        method=method,
        path=path,
        query=query,
        headers=headers,
        keep_alive=connection == "keep-alive" if version == "HTTP/1.0" else connection != "close",
    )


def body_length(head: HttpRequest) -> int | None:
    """Bytes of the body to come; None: chunked."""
    if "transfer-encoding" in head.headers:
        if head.headers["transfer-encoding"].lower() != "chunked":
            _not_understood("Transfer-Encoding", head.headers["transfer-encoding"])
        return None
    length = head.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        _not_understood("Content-Length", length)
    return int(length)


def chunk_size(line: bytearray) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        return int(digits, 16)
    except ValueError:
        _not_understood("chunk size", digits.decode("latin-1"))


def _not_understood(what: str, value: str) -> NoReturn:
    raise BadRequestError(400, f"cannot read {what} {value[:100]!r}")

"""The words of batch_runner as values: Row, Request, Completion, Failure, Usage, RowResult."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from batch_runner.frozen import frozen


KEY_BYTES = 16  # blake2b-128: 2**64 rows before a collision is likely

_MORE_THAN_TEXT = re.compile(
    rb'"(?:input_image|input_file|input_audio|item_reference|previous_response_id|conversation|prompt'
    rb'|web_search\w*|file_search|code_interpreter|computer\w*|image_generation|mcp|local_shell)"'
)
"""Names in a body whose tokens its bytes do not bound. Inside a text their quotes would be escaped."""


class RowStatus(StrEnum):
    """How a row of the output stands."""

    OK = "ok"
    """The model answered."""
    INCOMPLETE = "incomplete"
    """The model answered, but was cut off; the text so far is kept."""
    REFUSED = "refused"
    """The model declined to answer."""
    FAILED = "failed"
    """No usable answer."""
    SKIPPED = "skipped"
    """Left out on purpose (`prompt.missing = "skip"`)."""
    PENDING = "pending"
    """Not asked yet."""


ANSWERED = (RowStatus.OK, RowStatus.INCOMPLETE, RowStatus.REFUSED)
"""Of a row that shows what the model said."""
WANTING = (RowStatus.INCOMPLETE, RowStatus.REFUSED, RowStatus.FAILED)
"""Of a row that ended without a full answer, and not because somebody left it out."""


class ErrorCode(StrEnum):
    """Why a row is not `ok`. Other reasons read `other:<code>`, see `other`."""

    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER_ERROR = "server_error"
    BAD_REQUEST = "bad_request"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    QUOTA = "quota"
    CONTENT_FILTER = "content_filter"
    MAX_OUTPUT_TOKENS = "max_output_tokens"
    BAD_INPUT = "bad_input"
    MISSING_VALUE = "missing_value"
    JSON_INVALID = "json_invalid"
    EMPTY_OUTPUT = "empty_output"
    BAD_REPLY = "bad_reply"


def other(code: str) -> str:
    """A reason that has no name of its own here."""
    return f"other:{code}"


@frozen
class Row:
    """One record of the input."""

    index: int
    """Position among the rows of the whole input, from 0. Blank and bad records do not count."""
    values: Mapping[str, Any]
    """Column name to value. CSV: always text. JSONL and Parquet: as typed there."""
    source: str
    """The file it came from, as the user named it."""
    line: int
    """Where the record begins in its file, from 1: a line (CSV, JSONL) or a row (Parquet)."""

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A piece of the input that is not a row."""

    source: str
    line: int
    reason: str

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


@frozen
class Request:
    """The body to send for one row, and the key under which its result is kept."""

    row: int
    """Index of the row."""
    key: bytes
    """`KEY_BYTES` bytes over the body and its occurrence number: see `prompt.row_key`."""
    body: bytes
    """Canonical JSON: exactly the bytes that were hashed."""
    model: str
    max_output_tokens: int | None
    label: str | None = None
    """The row's own name (`input.key`), for messages and reports."""
    is_enlarged: bool = False
    """With more room than the row asks for: an answer was cut off before."""

    @property
    def input_bound_bytes(self) -> int | None:
        """Bytes that bound the input tokens; None where images, files, history or hosted tools add to them."""
        return None if _MORE_THAN_TEXT.search(self.body) else len(self.body)


@frozen
class Usage:
    """Token counts as the server reported them. None: not reported, which is never zero.

    Counts overlap: cached and cache-write tokens lie inside input_tokens, reasoning inside output.
    """

    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None

    @property
    def input_and_output(self) -> int | None:
        """Tokens that count against a limit; None unless both were reported."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


@frozen
class Billed:
    """One attempt whose usage came back: everything a price needs."""

    usage: Usage
    model: str
    service_tier: str | None
    at: float
    """Unix time of the request: prices change."""


class UnknownBilling(StrEnum):
    """Why an attempt was sent and its usage never came back."""

    CRASH = "crash"
    """The process died while the call was in flight."""
    TIMEOUT = "timeout"
    """The attempt's deadline passed."""
    RESET = "reset"
    """The connection broke after the request was sent."""
    SERVER_ERROR = "server_error"
    """The server failed after it had the request."""
    BAD_REPLY = "bad_reply"
    """The reply could not be read, or carried no usage."""
    CANCELLED = "cancelled"
    """The run was stopped before the reply came."""
    DAMAGED = "damaged"
    """The call ended, and the journal's record of that is damaged."""


@frozen
class Completion:
    """The model answered. `status` is OK, INCOMPLETE or REFUSED."""

    text: str
    status: RowStatus = RowStatus.OK
    code: str | None = None
    """Why it is not OK."""
    message: str | None = None
    reasoning: str | None = None
    """Reasoning summary text."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@frozen
class Failure:
    """No usable answer. `status` is FAILED, or SKIPPED where the job asked for that."""

    code: str
    message: str
    status: RowStatus = RowStatus.FAILED
    text: str = ""
    """What the model wrote, where there is any: it has been paid for."""


@frozen
class RowResult:
    """How a row ended and what it took: what the journal stores."""

    key: bytes
    row: int
    """Index at the time of the call, for people; `key` decides."""
    ending: Completion | Failure
    label: str | None = None
    attempts: int = 1
    """HTTP attempts of this run of the row."""
    repeated_at: tuple[float, ...] = ()
    """Unix times at which attempts after the first began; of very many the earlier ones."""
    billed: tuple[Billed, ...] = ()
    """Attempts whose usage came back, oldest first. Failed ones are billed too."""
    final_usage: Usage | None = None
    """Usage of the final attempt; None when it reported none."""
    unknown: Mapping[UnknownBilling, int] = field(default_factory=dict)
    """Attempts of unknown billing, by cause."""
    request_bytes: int | None = None
    """Size of the body sent and its cap: what attempts of unknown billing may have cost at most."""
    max_output_tokens: int | None = None
    answer_cap: int | None = None
    """The cap under which the ending came, where that is another: a repeat with more room failed."""
    asked_model: str | None = None
    """The model of the request; kept when billing is unknown."""
    model: str | None = None
    """From the response."""
    service_tier: str | None = None
    response_id: str | None = None
    http_status: int | None = None
    """Of the final attempt; None when no reply came."""
    request_id: str | None = None
    """The `x-request-id` header of that reply: what an endpoint's support asks for."""
    finish_reason: str | None = None
    """`stop`, or the reply's incomplete reason."""
    latency_seconds: float | None = None
    """Final attempt, request to end of body."""
    started_at: float | None = None
    """Unix time at which the first attempt began."""
    finished_at: float | None = None
    run_id: str | None = field(default=None, compare=False)
    """The run that made the calls; set when read back from the journal."""
    reply: Mapping[str, Any] | None = None
    """The reply's body without what only echoes the request."""

    @property
    def status(self) -> RowStatus:
        return self.ending.status

    @property
    def code(self) -> str | None:
        return self.ending.code

    @property
    def reply_seconds(self) -> float | None:
        """How long the endpoint took to reply; None where no reply came, however soon that showed."""
        return None if self.http_status is None else self.latency_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A background response that an earlier run asked for and never heard the end of."""

    response_id: str
    attempts_untold: int
    """1 when no result has told of the call that asked for it, else 0."""


class ColumnKind(StrEnum):
    """What a new column of the output holds; each format has one type for it."""

    TEXT = "text"
    INTEGER = "integer"
    """Parquet int64."""
    COUNT = "count"
    """Parquet int32."""
    NUMBER = "number"
    """Parquet float64."""
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    """An aware UTC datetime. Parquet timestamp[us, UTC]; elsewhere RFC 3339 with Z."""
    JSON = "json"
    """Any JSON value. CSV and Parquet: compact JSON text; JSONL: the value itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that the output has and the input has not."""

    name: str
    kind: ColumnKind

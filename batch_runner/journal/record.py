"""What the lines of the journal say: header, intent, queued, result, gratis, end; to JSON and back.

The key comes first, then status and code, at fixed places: recovery reads them without parsing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from typing import Any

from batch_runner import stored
from batch_runner.errors import UsageError
from batch_runner.frozen import frozen
from batch_runner.jsonbytes import decode_own, encode
from batch_runner.records import (
    Billed,
    Completion,
    Failure,
    RowResult,
    RowStatus,
    UnknownBilling,
    Usage,
)
from batch_runner.responses import place_of_text, with_text
from batch_runner.stored import Told


FORMAT = 2
"""Raised when a reader of the old format would misread the new one. 2: a text stands before its reply."""

HEADER = b'{"header":'
INTENT = b'{"intent":"'
RESULT = b'{"result":"'
GRATIS = b'{"gratis":"'
QUEUED = b'{"queued":"'
END = b'{"end":'

KEY_AT = slice(len(RESULT), len(RESULT) + 32)
"""Where all but headers and ends hold their key, as 32 hex digits."""
STATE_FROM = KEY_AT.stop
STATE_UNTIL = b',"row":'
"""A result's status and code stand between `STATE_FROM` and the first `STATE_UNTIL` after it."""


_TEXT_AT = "text_at"
"""Item of the reply's output, part of its content: where the stored text is missing in it."""
_STATUSES = {str(status): status for status in RowStatus}  # calling an enum takes a microsecond


@frozen
class Intent:
    """An attempt about to be sent: enough to say later what it may have cost at most."""

    key: bytes
    attempt: int
    row: int
    model: str
    request_bytes: int | None
    """None where bytes do not bound the input: see `Request.input_bound_bytes`."""
    max_output_tokens: int | None
    run_id: str | None = field(default=None, compare=False)
    """The run that made the call; set when read back from the journal."""
    has_ended: bool = field(default=False, compare=False)
    """Its run ended in order, so its result was written: the journal is damaged where that stood."""

    @property
    def cause(self) -> UnknownBilling:
        """Why nobody knows what it cost, where no result tells of it."""
        return UnknownBilling.DAMAGED if self.has_ended else UnknownBilling.CRASH


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a segment: which process wrote it."""

    segment: int
    first: int
    """The process's first segment. With `run_id` it tells processes apart."""
    run_id: str
    tool_version: str
    started_at: float
    """Unix time, for people."""
    settings: Mapping[str, Any]
    """What the run was asked to do, for people."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Dues:
    """What a result says of money and time, without what the model wrote."""

    billed: tuple[Billed, ...]
    unknown: int
    """Attempts of unknown billing."""
    asked_model: str | None
    finished_at: float | None


def header_body(header: Header) -> bytes:
    return _open_object({"header": asdict(header)})


def read_header(line: bytes) -> Header:
    """Raises UsageError for a journal of a later batch_runner."""
    fields = decode_own(line)["header"]
    if fields["format"] > FORMAT:
        raise UsageError(
            f"the journal has format {fields['format']!r}; this batch_runner reads up to {FORMAT}",
            hint="use the batch_runner that wrote it, or a newer one",
        )
    return Header(**fields)


def end_body() -> bytes:
    return b'{"end":true'


def gratis_body(key: bytes) -> bytes:
    """Says that the attempts of this key begun so far have cost nothing, and that none follows."""
    return GRATIS + key.hex().encode() + b'"'


def queued_body(key: bytes, attempt: int, response_id: str) -> bytes:
    """Says that this attempt brought no answer yet, but an id under which to ask for it."""
    return _open_object({"queued": key.hex(), "attempt": attempt, "response_id": response_id})


def read_queued(line: bytes) -> str:
    """The id of the response."""
    return str(decode_own(line)["response_id"])


def intent_body(intent: Intent) -> bytes:
    return _open_object(
        {
            "intent": intent.key.hex(),
            "attempt": intent.attempt,
            "row": intent.row,
            "model": intent.model,
            "request_bytes": intent.request_bytes,
            "max_output_tokens": intent.max_output_tokens,
        }
    )


def read_intent(line: bytes) -> Intent:
    fields = decode_own(line)
    return Intent(
        key=bytes.fromhex(fields["intent"]),
        attempt=fields["attempt"],
        row=fields["row"],
        model=fields["model"],
        request_bytes=fields["request_bytes"],
        max_output_tokens=fields["max_output_tokens"],
    )


def result_body(result: RowResult) -> bytes:
    """What a reply alone says in one piece stands before it, so that it is found without parsing that."""
    fields = result_fields(result)
    reply, text = result.reply, result.ending.text
    if text and reply is not None and "text" not in fields:
        place = place_of_text(reply, text)
        if place is not None:
            del fields["reply"]
            fields |= {"text": text, _TEXT_AT: place, "reply": with_text(reply, place, None)}
    return _open_object(fields)


def result_fields(result: RowResult) -> dict[str, Any]:
    """Everything a result holds; what its reply gives back is not stored twice. None is left out."""
    ending = result.ending
    fields: dict[str, Any] = {
        "result": result.key.hex(),
        "status": ending.status,
        "code": ending.code,
        "row": result.row,
        "attempts": result.attempts,
    }
    fields |= _unlike_reply(result)
    if ending.message is not None:
        fields["message"] = ending.message
    if result.repeated_at:
        fields["repeated_at"] = [round(at, 3) for at in result.repeated_at]
    if result.billed:
        fields["billed"] = [_billed_fields(billed) for billed in result.billed]
    if result.final_usage is not None:
        is_billed = result.billed and result.billed[-1].usage == result.final_usage
        fields["final_usage"] = (
            stored.LAST_BILLED if is_billed else _usage_fields(result.final_usage)
        )
    if result.unknown:
        fields["unknown"] = {str(cause): n for cause, n in result.unknown.items()}
    for name in _AS_THEY_ARE:
        value = getattr(result, name)
        if value is not None:
            fields[name] = value
    return fields


_AS_THEY_ARE = (
    "label", "request_bytes", "max_output_tokens", "answer_cap", "asked_model", "model",
    "service_tier", "response_id", "http_status", "request_id", "finish_reason", "latency_seconds",
    "started_at", "finished_at", "reply",
)  # fmt: skip
"""The reply comes last: see `read_head`."""


def state_of(result: bytes) -> bytes:
    """The bytes of a result line or body that tell its status and code, as a name for the pair."""
    return result[STATE_FROM : result.index(STATE_UNTIL, STATE_FROM)]


def read_state(state: bytes) -> tuple[RowStatus, str | None]:
    fields = decode_own(b"{" + state.removeprefix(b'",') + b"}")
    return RowStatus(fields["status"]), fields["code"]


def read_told(line: bytes) -> dict[str, Any]:
    """The fields of a result's line."""
    told: dict[str, Any] = decode_own(line)  # its checksum holds: it is what was written
    place = told.pop(_TEXT_AT, None)
    if place is not None:
        told["reply"] = with_text(told["reply"], place, told["text"])
    return told


def read_head(line: bytes) -> dict[str, Any]:
    """The fields of a result's line without its reply, if that is not needed to know the text."""
    told = _before_reply(line)
    return read_told(line) if told is None or _TEXT_AT not in told else told


def _before_reply(line: bytes) -> dict[str, Any] | None:
    """What stands before the reply, at a third of the time; None where it cannot be told apart."""
    head, cut, _ = line.rpartition(b',"reply":')
    if not cut:
        return None
    try:
        return decode_own(head + b"}")  # type: ignore[no-any-return]
    except ValueError:
        return None  # the cut went through a tool call: inside a text the quotes would be escaped


def read_result(line: bytes, *, run_id: str | None = None) -> RowResult:
    """`run_id` is that of the segment's header."""
    return result_of({**read_told(line), "run_id": run_id})


def result_of(told: Told) -> RowResult:
    """The result that a line tells, whole."""
    usage = stored.usage(told)
    parsed = {
        "key": bytes.fromhex(told["result"]),
        "ending": ending_of(told),
        "billed": stored.billed(told),
        "repeated_at": tuple(told.get("repeated_at", ())),
        "final_usage": Usage(**usage) if usage else None,
        "unknown": {UnknownBilling(name): n for name, n in told.get("unknown", {}).items()},
    }
    rest = {name: value for name, value in told.items() if name in _OF_A_RESULT}
    return RowResult(**{**rest, **parsed})


_OF_A_RESULT = frozenset(field.name for field in fields_of(RowResult))
"""Lines say more (their seal), and those of a later version may."""


def read_dues(line: bytes) -> Dues:
    """A fraction of the time of `read_result`: the reply, which comes last, is not parsed."""
    fields = _before_reply(line) or decode_own(line)
    return Dues(
        billed=stored.billed(fields),
        unknown=sum(fields.get("unknown", {}).values()),
        asked_model=fields.get("asked_model"),
        finished_at=fields.get("finished_at"),
    )


def ending_of(told: Told) -> Completion | Failure:
    return stored.ending(told, _STATUSES[told["status"]])


def _unlike_reply(result: RowResult) -> dict[str, Any]:
    """What the model wrote, as far as the stored reply would not give it back."""
    ending = result.ending
    derived = stored.written({"reply": result.reply}, ending.status)
    unlike: dict[str, Any] = {} if ending.text == derived.text else {"text": ending.text}
    if isinstance(ending, Completion):
        if ending.reasoning != (derived.reasoning or None):
            unlike["reasoning"] = ending.reasoning
        if ending.tool_calls != derived.tool_calls:
            unlike["tool_calls"] = ending.tool_calls
    return unlike


def _billed_fields(billed: Billed) -> dict[str, Any]:
    return {
        "usage": _usage_fields(billed.usage),
        "model": billed.model,
        "service_tier": billed.service_tier,
        "at": billed.at,
    }


_COUNTS = tuple(field.name for field in fields_of(Usage))


def _usage_fields(usage: Usage) -> dict[str, int]:
    return {name: n for name in _COUNTS if (n := getattr(usage, name)) is not None}


def _open_object(fields: Mapping[str, Any]) -> bytes:
    """The JSON object without its closing brace, ready to be sealed."""
    return encode(fields)[:-1]

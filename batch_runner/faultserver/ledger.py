"""The provider's side of the story: every call received, answered and billed.

The client under test can be killed at any moment; what it must answer for stands here.
A line "B" is written when a whole request has been received, a line "R" when its reply has been
handed to the socket or the client is gone, a line "D" when a poll has delivered the usage of a
background response.
"""

import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from batch_runner.faultserver.usage import TokenCount


_as_json = json.JSONEncoder(separators=(",", ":")).encode


def body_key(body: bytes) -> str:
    """Under which the ledger counts a body: blake2b-128 of its bytes as received, in hex."""
    return blake2b(body, digest_size=16).hexdigest()


def response_id_of(key: str, n: int) -> str:
    """The id of the response to call `n`: whoever has it finds the call."""
    return f"resp_{key[:24]}{n:016x}"


class LedgerMode(StrEnum):
    """What the ledger keeps in memory; the file has every line either way."""

    ROWS = "rows"
    """Each call: about 1 kB of memory a call."""
    COUNTS = "counts"
    """Totals only: for runs of a million rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A whole request has arrived."""

    n: int
    at: float
    key: str
    model: str
    attempt: str | None
    idempotency_key: str | None

    @property
    def response_id(self) -> str:
        """The id of the response that the call gets, if it gets one of its own."""
        return response_id_of(self.key, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """What became of it."""

    n: int
    at: float
    status: int | None
    """None: no whole reply was handed to the socket."""
    billed: bool
    """The provider worked, whoever got to know."""
    usage_delivered: bool
    """The usage was in the reply, and the whole reply was handed to the socket."""
    usage: TokenCount | None = None
    dollars: Decimal | None = None
    replayed: bool = False
    """A stored answer, for a repeated idempotency key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A call; `replied` is None while it is in flight."""

    received: Received
    replied: Replied | None


@dataclass(slots=True, kw_only=True)
class Bill:
    """A number of billed calls and what they add up to."""

    calls: int = 0
    tokens: TokenCount = field(default_factory=TokenCount)
    dollars: Decimal = Decimal(0)

    def add(self, tokens: TokenCount | None, dollars: Decimal | None) -> None:
        self.calls += 1
        if tokens is not None:
            self.tokens += tokens
        if dollars is not None:
            self.dollars += dollars

    def as_json(self) -> dict[str, Any]:
        return {"calls": self.calls, **self.tokens.as_counts(), "dollars": str(self.dollars)}


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over all calls, kept in either mode."""

    received: int = 0
    answered: int = 0
    """Replies handed whole to the socket, errors too."""
    in_flight: int = 0
    replayed: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    """Status code to calls; "none" where no whole reply was handed over."""
    billed: Bill = field(default_factory=Bill)
    """What the provider charges for."""
    delivered: Bill = field(default_factory=Bill)
    """The part of it whose usage was handed to the client: the least an honest bill can say."""

    def as_json(self) -> dict[str, Any]:
        return {
            "received": self.received,
            "answered": self.answered,
            "in_flight": self.in_flight,
            "replayed": self.replayed,
            "by_status": dict(sorted(self.by_status.items())),
            "billed": self.billed.as_json(),
            "delivered": self.delivered.as_json(),
        }


class Ledger:
    """Calls in memory and, given a path, in a file that outlives the server.

    An existing file is read first and continued: a server may be restarted on its ledger.
    """

    def __init__(self, path: Path | None = None, *, mode: LedgerMode = LedgerMode.ROWS) -> None:
        self.mode = LedgerMode(mode)
        self._forget()
        self._n = 0
        self._fd: int | None = None
        if path is not None:
            if path.exists():
                self._read(path.read_bytes())
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The ledger of a server in another process, as it stands now."""
        ledger = cls()
        ledger._read(path.read_bytes())
        return ledger

    def received(
        self, *, key: str, model: str, attempt: str | None, idempotency_key: str | None
    ) -> int:
        """The number of this call, which is in the file before anything is answered."""
        self._n = n = self._n + 1
        call = Received(
            n=n,
            at=time.time(),
            key=key,
            model=model,
            attempt=attempt,
            idempotency_key=idempotency_key,
        )
        line = {name: getattr(call, name) for name in Received.__slots__}
        self._write("B", line | {"response_id": call.response_id})
        self._note_received(call)
        return n

    def replied(self, reply: Replied) -> None:
        """The call has ended. One that was forgotten by `reset` meanwhile leaves no trace."""
        if reply.n not in self._open:
            return
        line = {name: getattr(reply, name) for name in Replied.__slots__}
        self._write("R", line | _money(reply.usage, reply.dollars))
        self._note_replied(reply)

    def delivered_late(self, n: int, usage: TokenCount, dollars: Decimal | None) -> None:
        """A poll has handed over the usage of a background response, billed when accepted."""
        self._write("D", {"n": n, "at": time.time()} | _money(usage, dollars))
        self.totals.delivered.add(usage, dollars)

    def reset(self) -> None:
        """Everything is forgotten, the file emptied; numbers go on."""
        self._forget()
        if self._fd is not None:
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    # Questions. All but `totals` need LedgerMode.ROWS.

    def rows(self) -> list[LedgerRow]:
        """Every call in order of arrival."""
        self._need_rows()
        return [LedgerRow(received=call, replied=self._replied.get(call.n)) for call in self._calls]

    def times_received(self) -> Counter[str]:
        """Body key to number of calls."""
        return Counter(row.received.key for row in self.rows())

    def times_answered(self) -> Counter[str]:
        """Body key to replies below 400 handed whole to the socket."""
        return Counter(
            row.received.key
            for row in self.rows()
            if row.replied and row.replied.status is not None and row.replied.status < 400
        )

    def times_billed(self) -> Counter[str]:
        """Body key to billed calls."""
        return Counter(
            row.received.key for row in self.rows() if row.replied and row.replied.billed
        )

    def billed_again(self) -> int:
        """Calls billed beyond the first of their body: the price of not remembering."""
        return sum(count - 1 for count in self.times_billed().values())

    def _need_rows(self) -> None:
        if self.mode is not LedgerMode.ROWS:
            raise LookupError("a ledger in mode 'counts' keeps totals only; read its file instead")

    def _forget(self) -> None:
        self.totals = Totals()
        self._open: set[int] = set()
        self._calls: deque[Received] = deque()
        self._replied: dict[int, Replied] = {}

    def _note_received(self, call: Received) -> None:
        self.totals.received += 1
        self.totals.in_flight += 1
        self._open.add(call.n)
        if self.mode is LedgerMode.ROWS:
            self._calls.append(call)

    def _note_replied(self, reply: Replied) -> None:
        totals = self.totals
        self._open.discard(reply.n)
        totals.in_flight -= 1
        totals.answered += reply.status is not None
        totals.replayed += reply.replayed
        totals.by_status["none" if reply.status is None else str(reply.status)] += 1
        if reply.billed:
            totals.billed.add(reply.usage, reply.dollars)
            if reply.usage_delivered:
                totals.delivered.add(reply.usage, reply.dollars)
        if self.mode is LedgerMode.ROWS:
            self._replied[reply.n] = reply

    def _write(self, event: str, line: Mapping[str, Any]) -> None:
        if self._fd is not None:
            os.write(self._fd, _as_json({"e": event, **line}).encode() + b"\n")

    def _read(self, content: bytes) -> None:
        for line in _lines(content):
            match line.pop("e"):
                case "B":
                    line.pop("response_id", None)  # follows from the rest
                    self._n = max(self._n, line["n"])
                    self._note_received(Received(**line))
                case "R":
                    self._note_replied(
                        Replied(**{**line, "usage": _usage(line), "dollars": _dollars(line)})
                    )
                case "D":
                    self.totals.delivered.add(_usage(line), _dollars(line))


def _lines(content: bytes) -> Iterable[dict[str, Any]]:
    *whole, _being_written = content.split(b"\n")
    return map(json.loads, whole)


def _money(usage: TokenCount | None, dollars: Decimal | None) -> dict[str, Any]:
    return {
        "usage": None if usage is None else usage.as_counts(),
        "dollars": None if dollars is None else str(dollars),
    }


def _usage(line: Mapping[str, Any]) -> TokenCount | None:
    return None if line["usage"] is None else TokenCount.of_counts(line["usage"])


def _dollars(line: Mapping[str, Any]) -> Decimal | None:
    return None if line["dollars"] is None else Decimal(line["dollars"])

"""The pressure put on an endpoint: places, pace, and one cool-down that everybody keeps.

Each attempt takes a slot: it waits out the cool-down, then for a place, then for its turn.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from batch_runner.adaptive import AdaptiveLimit, LimitChange, Ticket
from batch_runner.concurrency import Concurrency, Pacer, exhausted_seconds


LONGEST_HEADER_PAUSE = 60.0  # seconds; headers may be wrong, a 429 is not
DISBELIEF = 20  # replies in a row after a header's pause that still say "none left"
SMALL_HERD = 50  # callers
LATENESS = 0.02  # seconds that a turn may come late without making later ones late
SPREAD_SECONDS = 1.0  # over which callers leave a cool-down, if it was as long


class Slot:
    """The leave to make one attempt. Tell it how the attempt ended; silence is `neutral`."""

    __slots__ = ("_began", "_limiter", "_ticket", "_tokens", "again", "waited_seconds")

    def __init__(self, limiter: "Limiter", tokens: float, *, again: bool) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self.again = again
        self._ticket: Ticket | None = None
        self._began = 0.0
        self.waited_seconds = 0.0

    async def __aenter__(self) -> Self:
        limiter = self._limiter
        asked = limiter.clock()
        limiter.held += 1
        try:
            began = await limiter.admit(self, self._tokens, asked)
        except BaseException:
            limiter.leave()
            raise
        self._began = began
        self.waited_seconds = began - asked
        self._ticket = limiter.adaptive.on_begin(began, again=self.again)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.neutral()
        self._limiter.places.release_on_behalf_of(self)
        self._limiter.leave()

    def succeeded(
        self, tokens: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """The attempt was answered; `tokens` is what it really used."""
        ticket = self._end()
        if ticket is None:
            return
        limiter, now = self._limiter, self._limiter.clock()
        if tokens is not None:
            limiter.correct_tokens(tokens - self._tokens)
        limiter.adaptive.on_success(ticket, now)
        limiter.apply_limit()
        if headers:
            limiter.obey(headers, self._tokens, self._began, now)

    def rate_limited(self, retry_after_seconds: float | None = None) -> None:
        """The attempt got a 429: nobody sends for as long as the server says."""
        ticket = self._end()
        if ticket is None:
            return
        limiter, now = self._limiter, self._limiter.clock()
        if retry_after_seconds is not None and not 0 < retry_after_seconds < math.inf:
            retry_after_seconds = None
        pause = limiter.adaptive.on_rate_limited(ticket, now, retry_after_seconds)
        limiter.cool_down(pause)
        limiter.apply_limit()

    def server_error(self) -> None:
        """The attempt failed at the server (5xx): the limit stops growing for a while."""
        if self._end() is not None:
            self._limiter.adaptive.on_server_error(self._limiter.clock())

    def neutral(self) -> None:
        """The attempt ended in a way that says nothing about the load."""
        if self._end() is not None:
            self._limiter.adaptive.on_neutral()

    def _end(self) -> Ticket | None:
        """The ticket, once: only the first word about an attempt counts."""
        ticket, self._ticket = self._ticket, None
        return ticket


class Limiter:
    """Decides when the next attempt may be sent, for all callers of one endpoint.

    A place is held per attempt, not per row: a row that sleeps before its retry holds none.
    `rpm` and `tpm` are spread evenly over the minute, without bursts. A cancelled caller gives
    everything back. Belongs to one event loop.
    """

    def __init__(
        self,
        concurrency: Concurrency,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock or self._loop_clock
        self.concurrency = concurrency
        self.adaptive = AdaptiveLimit(concurrency)
        self.places = anyio.CapacityLimiter(concurrency.start)
        self.held = 0
        """Attempts running, or waiting to."""
        self._jitter = jitter
        self._turns = anyio.Lock(fast_acquire=True)
        self._last_turn = -math.inf
        self._requests = Pacer(rpm / 60) if rpm else None
        self._tokens = Pacer(tpm / 60) if tpm else None
        self._cool_until = -math.inf
        self._spread_seconds = 0.0
        self._pauses = 0
        self._room: anyio.Event | None = None
        self._header_pause_until = -math.inf
        self._empty_replies = 0

    def _loop_clock(self) -> float:
        """The event loop's own clock, found at first use: ten times cheaper than asking anyio."""
        try:
            self.clock = asyncio.get_running_loop().time
        except RuntimeError:
            self.clock = anyio.current_time
        return self.clock()

    @property
    def limit(self) -> int:
        return self.adaptive.limit

    @property
    def in_flight(self) -> int:
        return self.adaptive.in_flight

    @property
    def events(self) -> list[LimitChange]:
        return self.adaptive.events

    @property
    def rate_limited(self) -> int:
        """Attempts answered 429 so far."""
        return self.adaptive.rate_limited

    def slot(self, tokens: float = 0.0, *, again: bool = False) -> Slot:
        """`async with` it around one attempt that is expected to use `tokens`.

        `again`: the one before it, of the same row, got a 429.
        """
        return Slot(self, tokens, again=again)

    async def room(self) -> int:
        """How many more rows to read: attempts running or waiting are fewer than the limit."""
        while self.held >= self.limit:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()
        return self.limit - self.held

    def cooling_seconds(self, now: float) -> float:
        """How long nobody may send; 0 when there is no cool-down."""
        return max(0.0, self._cool_until - now)

    def cool_down(self, seconds: float) -> None:
        """Nobody sends for `seconds` from now, at least. Attempts in flight go on."""
        now = self.clock()
        until = now + seconds
        if until <= self._cool_until:
            return
        added = until - max(now, self._cool_until)
        self._spread_seconds = min(SPREAD_SECONDS, seconds)
        self._cool_until = until
        self._pauses += 1
        self.adaptive.on_pause(added)

    def _spread(self, now: float) -> float:
        """Seconds over which callers leave a cool-down; a pace spreads them better than chance.

        A small herd leaves together. Spread out, the first of them to be refused would send all
        others back: against a server that refuses each row once, that costs a pause a row.
        """
        if self.adaptive.pace is not None or self.adaptive.doubts(now):
            return 0.0
        return self._spread_seconds * max(0, self.held - SMALL_HERD) / max(1, self.held)

    async def admit(self, slot: Slot, tokens: float, now: float) -> float:
        """Wait for cool-down, place and turn. Returns when that was."""
        while True:
            if now < self._cool_until:
                await anyio.sleep(self._cool_until - now + self._jitter() * self._spread(now))
                if not slot.again:
                    await anyio.lowlevel.checkpoint()  # who was refused goes first
                now = self.clock()
                continue  # it may have been prolonged
            try:
                self.places.acquire_on_behalf_of_nowait(slot)
            except anyio.WouldBlock:
                await self.places.acquire_on_behalf_of(slot)
                now = self.clock()
                if now < self._cool_until:
                    self.places.release_on_behalf_of(slot)
                    continue
            try:
                turn = await self._turn(tokens, now)
            except BaseException:
                self.places.release_on_behalf_of(slot)
                raise
            if turn is not None:
                return turn
            self.places.release_on_behalf_of(slot)
            now = self.clock()

    async def _turn(self, tokens: float, now: float) -> float | None:
        """When the turn came. None: a cool-down began in the meantime."""
        pauses = self._pauses
        if self.adaptive.pace is not None:
            async with self._turns:
                now = await self._paced(now, pauses)
        if self._pauses == pauses and (self._requests is not None or self._tokens is not None):
            now = await self._budgeted(tokens, now, pauses)
        return now if self._pauses == pauses else None

    async def _paced(self, now: float, pauses: int) -> float:
        """Turns come one by one, each at the pace of its time: it moves with every reply."""
        now = self.clock()
        while (pace := self.adaptive.pace) is not None and self._pauses == pauses:
            turn = self._last_turn + 1 / pace
            if turn <= now:
                self._last_turn = max(turn, now - LATENESS)
                return now
            await anyio.sleep(turn - now)
            now = self.clock()
        return now

    async def _budgeted(self, tokens: float, now: float, pauses: int) -> float:
        """The turn that `rpm` and `tpm` allow is booked and waited for."""
        wait = 0.0
        if self._requests is not None:
            wait = self._requests.reserve(now)
        if self._tokens is not None:
            wait = max(wait, self._tokens.reserve(now, tokens))
        if wait <= 0:
            return now
        came = False
        try:
            await anyio.sleep(wait)
            came = pauses == self._pauses
        finally:
            if not came:
                if self._requests is not None:
                    self._requests.correct(-1)
                self.correct_tokens(-tokens)
        return self.clock()

    def correct_tokens(self, tokens: float) -> None:
        """`tokens` more (or fewer) than reserved were used: later turns move by that much."""
        if self._tokens is not None:
            self._tokens.correct(tokens)

    def apply_limit(self) -> None:
        limit = self.adaptive.limit
        if limit != self.places.total_tokens:
            self.places.total_tokens = limit
            self._announce_room()

    def leave(self) -> None:
        self.held -= 1
        self._announce_room()

    def _announce_room(self) -> None:
        if self._room is not None and self.held < self.limit:
            self._room.set()
            self._room = None

    def obey(self, headers: Mapping[str, str], tokens: float, began: float, now: float) -> None:
        """Pause until the reset that a reply names if it says that nothing is left.

        Some servers say so for ever: they are believed until `DISBELIEF` replies to attempts sent
        after such a pause have said the same. Then their 429 must do.
        """
        if self._empty_replies >= DISBELIEF:
            return
        seconds = exhausted_seconds(headers, tokens)
        if seconds <= 0:
            self._empty_replies = 0
            return
        if began >= self._header_pause_until > -math.inf:
            self._empty_replies += 1
        seconds = min(seconds, LONGEST_HEADER_PAUSE)
        self.cool_down(seconds)
        self._header_pause_until = max(self._header_pause_until, now + seconds)

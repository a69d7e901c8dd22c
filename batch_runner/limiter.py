"""The pressure put on an endpoint: places, pace, and one cool-down that everybody keeps.

Each attempt takes a slot: it waits out the cool-down, then for a place, then for its turn.
"""

import math
import random
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import anyio

from batch_runner.adaptive import AdaptiveLimit, LimitChange, Ticket
from batch_runner.concurrency import Concurrency, Pacer, read_rate_limits


LONGEST_HEADER_PAUSE = 60.0  # seconds; headers may be wrong, a 429 is not
DISBELIEF = 20  # replies in a row after a header's pause that still say "none left"
SMALL_HERD = 50  # callers
SPREAD_SECONDS = 1.0  # over which callers leave a cool-down, if it was as long


class Slot:
    """The leave to make one attempt. Tell it how the attempt ended; silence is `neutral`."""

    __slots__ = ("_began", "_limiter", "_ticket", "_tokens", "waited_seconds")

    def __init__(self, limiter: "Limiter", tokens: float) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self._ticket: Ticket | None = None
        self._began = 0.0
        self.waited_seconds = 0.0

    async def __aenter__(self) -> Self:
        limiter = self._limiter
        asked = limiter.clock()
        limiter.held += 1
        try:
            self._began = await limiter.admit(self, self._tokens)
        except BaseException:
            limiter.leave()
            raise
        self.waited_seconds = self._began - asked
        self._ticket = limiter.adaptive.on_begin(self._began)
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
        self.clock = clock or anyio.current_time
        self.concurrency = concurrency
        self.adaptive = AdaptiveLimit(concurrency)
        self.places = anyio.CapacityLimiter(concurrency.start)
        self.held = 0
        """Attempts running, or waiting to."""
        self._jitter = jitter
        self._pace = Pacer(None)
        self._requests = Pacer(rpm / 60) if rpm else None
        self._tokens = Pacer(tpm / 60) if tpm else None
        self._cool_until = -math.inf
        self._spread_seconds = 0.0
        self._pauses = 0
        self._room: anyio.Event | None = None
        self._header_pause_until = -math.inf
        self._empty_replies = 0

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

    def slot(self, tokens: float = 0.0) -> Slot:
        """`async with` it around one attempt that is expected to use `tokens`."""
        return Slot(self, tokens)

    async def room(self) -> None:
        """Fewer attempts are running or waiting than the limit: time to read another row."""
        while self.held >= self.limit:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

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
        self._pace.restart()  # whoever had a turn in the pause asks again after it
        self.adaptive.on_pause(added)

    def _spread(self) -> float:
        """Seconds over which callers leave a cool-down; a pace spreads them better than chance.

        A small herd leaves together. Spread out, the first of them to be refused would send all
        others back: against a server that refuses each row once, that costs a pause a row.
        """
        if self.adaptive.pace is not None:
            return 0.0
        return self._spread_seconds * max(0, self.held - SMALL_HERD) / max(1, self.held)

    async def admit(self, slot: Slot, tokens: float) -> float:
        """Wait for cool-down, place and turn. Returns when that was."""
        while True:
            if (left := self.cooling_seconds(self.clock())) > 0:
                await anyio.sleep(left + self._jitter() * self._spread())
                continue  # it may have been prolonged
            try:
                self.places.acquire_on_behalf_of_nowait(slot)
            except anyio.WouldBlock:
                await self.places.acquire_on_behalf_of(slot)
            try:
                if await self._take_turn(tokens):
                    return self.clock()
            except BaseException:
                self.places.release_on_behalf_of(slot)
                raise
            self.places.release_on_behalf_of(slot)

    async def _take_turn(self, tokens: float) -> bool:
        """Whether the turn came. False: a cool-down began in the meantime."""
        now = self.clock()
        if now < self._cool_until:
            return False
        pauses, wait = self._pauses, 0.0
        if (pace := self.adaptive.pace) is not None:
            self._pace.per_second = pace
            wait = self._pace.reserve(now)
        if self._requests is not None:
            wait = max(wait, self._requests.reserve(now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.reserve(now, tokens))
        if wait <= 0:
            return True
        came = False
        try:
            await anyio.sleep(wait)
            came = pauses == self._pauses
        finally:
            if not came:
                self._give_turn_back(tokens, paced=pace is not None and pauses == self._pauses)
        return came

    def _give_turn_back(self, tokens: float, *, paced: bool) -> None:
        if paced:
            self._pace.correct(-1)
        if self._requests is not None:
            self._requests.correct(-1)
        self.correct_tokens(-tokens)

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
        seconds = read_rate_limits(headers).exhausted_seconds(tokens)
        if seconds <= 0:
            self._empty_replies = 0
            return
        if began >= self._header_pause_until > -math.inf:
            self._empty_replies += 1
        seconds = min(seconds, LONGEST_HEADER_PAUSE)
        self.cool_down(seconds)
        self._header_pause_until = max(self._header_pause_until, now + seconds)

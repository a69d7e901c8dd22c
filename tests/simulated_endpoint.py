"""A discrete-event endpoint with a hidden limit: drives the pure controller through minutes in milliseconds."""

import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from batch_runner.adaptive import AdaptiveLimit


SEND_SECONDS = 0.0003  # of CPU: no client sends without end at once


class Server(Protocol):
    def admits(self, now: float) -> bool: ...
    def finished(self) -> None: ...
    def scale(self, factor: float) -> None: ...
    def retry_after(self, now: float) -> float: ...


@dataclass
class HiddenConcurrency:
    """Serves `places` at a time and refuses the next one."""

    places: float
    busy: int = 0

    def admits(self, now):
        if self.busy >= int(self.places):
            return False
        self.busy += 1
        return True

    def finished(self):
        self.busy -= 1

    def scale(self, factor):
        self.places *= factor

    def retry_after(self, now):
        return 1.0


@dataclass
class _ByTime:
    """Counts the calls that begin, whatever becomes of them."""

    per_second: float

    def finished(self):
        pass

    def scale(self, factor):
        self.per_second *= factor


@dataclass
class HiddenRate(_ByTime):
    """A token bucket, full at the start, that holds `burst_seconds` worth of calls, one at least."""

    burst_seconds: float = 1.0
    at: float = 0.0
    tokens: float = field(init=False)

    def __post_init__(self):
        self.tokens = self.burst

    @property
    def burst(self):
        return max(1.0, self.per_second * self.burst_seconds)

    def admits(self, now):
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens < 1 - 1e-9:
            return False
        self.tokens -= 1
        return True

    def retry_after(self, now):
        return float(max(1, math.ceil(1 / self.per_second)))


@dataclass
class HiddenWindow(_ByTime):
    """Admits a number of calls in each whole minute, or second, of the clock."""

    seconds: float = 60.0
    number: int = 0
    used: int = 0

    def admits(self, now):
        if now // self.seconds != self.number:
            self.number, self.used = now // self.seconds, 0
        if self.used >= self.seconds * self.per_second:
            return False
        self.used += 1
        return True

    def retry_after(self, now):
        return float(math.ceil(self.seconds - now % self.seconds))


@dataclass
class HiddenLog(_ByTime):
    """Admits a number of calls within any second."""

    admitted: deque = field(default_factory=deque)

    def admits(self, now):
        while self.admitted and self.admitted[0] <= now - 1:
            self.admitted.popleft()
        if len(self.admitted) >= self.per_second:
            return False
        self.admitted.append(now)
        return True

    def retry_after(self, now):
        return 1.0


@dataclass
class Refusing:
    """Refuses a share of all calls, whatever the load: there is no level to find."""

    share: float
    random: random.Random

    def admits(self, now):
        return self.random.random() >= self.share

    def finished(self):
        pass

    def scale(self, factor):
        self.share *= factor

    def retry_after(self, now):
        return 1.0


@dataclass
class Outcome:
    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    def goodput(self, since: float, until: float) -> float:
        served = bisect_left(self.served, until) - bisect_left(self.served, since)
        return served / (until - since)

    def refused_share(self, until: float) -> float:
        refused = bisect_left(self.refused, until)
        return refused / max(1, refused + bisect_left(self.served, until))

    def seconds_to(self, per_second: float, since: float, until: float) -> float | None:
        """From `since` on, until the rest of the time has this goodput. None: it never has."""
        for seconds in range(int(until - since) - 9):
            if self.goodput(since + seconds, until) >= per_second:
                return float(seconds)
        return None


@dataclass(kw_only=True)
class Simulation:
    """An endless queue of rows before `server`, sent under `limit` as the limiter sends them."""

    limit: AdaptiveLimit
    server: Server
    latency: Callable[[], float]
    round_trip: float = 0.05  # the least
    jitter: Callable[[], float] = lambda: 1.0  # how much longer a way takes, there or back
    retry_after: float | Callable[[float], float] | None = None
    slots: int | None = None  # calls worked on at a time; the others wait
    began: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self):
        self.events: list = []
        self.order = count()
        self.free = [0.0] * (self.slots or 0)  # when each slot is
        self.again = 0  # rows that were refused and wait to be sent again
        self.booked = 0  # the attempt that waits for its turn
        self.now = self.cool_until = self.busy_until = 0.0
        self.free_at = -math.inf  # the next turn

    def at(self, when, act, what):
        heappush(self.events, (when, next(self.order), act, what))

    def run(self, seconds: float, scale_at: dict[float, float] | None = None) -> Outcome:
        for when, factor in (scale_at or {}).items():
            self.at(when, self.scale, factor)
        self.at(self.began, self.wake, None)
        while self.events and self.events[0][0] <= seconds:
            now, _, act, what = heappop(self.events)
            self.now = now
            act(now, what)
            if now >= self.cool_until:
                self.book(now)
        return self.outcome

    def book(self, now):
        """Turns are taken one by one, each at the pace of its time."""
        while not self.booked and self.limit.in_flight < self.limit.limit:
            pace = self.limit.pace
            turn = now if pace is None else max(self.free_at, now)
            if pace is not None:
                self.free_at = turn + 1 / pace
            wait = max(turn, self.busy_until) - now
            self.busy_until = now + wait + SEND_SECONDS
            if wait <= 0:
                self.begin(now)
            else:
                self.booked = 1
                self.at(now + wait, self.send, self.limit.rate_limited)

    def wake(self, now, _):
        """A cool-down may be over: the loop books."""

    def scale(self, now, factor):
        self.server.scale(factor)

    def send(self, now, refused_when_booked):
        self.booked = 0
        if now < self.cool_until or self.limit.rate_limited != refused_when_booked:
            return  # a pause came in between: the place is given back
        self.begin(now)

    def begin(self, now):
        again, self.again = self.again > 0, max(0, self.again - 1)  # who was refused goes first
        self.at(now + self.way(), self.arrive, self.limit.on_begin(now, again=again))

    def way(self):
        return self.round_trip / 2 * self.jitter()

    def arrive(self, now, ticket):
        if self.server.admits(now):
            self.at(self.worked_off(now) + self.way(), self.served, ticket)
        else:
            self.at(now + self.way(), self.refused, ticket)

    def worked_off(self, now):
        if not self.slots:
            return now + self.latency()
        done = max(now, heappop(self.free)) + self.latency()
        heappush(self.free, done)
        return done

    def served(self, now, ticket):
        self.server.finished()
        self.outcome.served.append(now)
        self.limit.on_success(ticket, now)
        self.outcome.limits.append(self.limit.limit)

    def refused(self, now, ticket):
        self.outcome.refused.append(now)
        self.again += 1
        said = self.retry_after(now) if callable(self.retry_after) else self.retry_after
        pause = self.limit.on_rate_limited(ticket, now, said)
        self.outcome.limits.append(self.limit.limit)
        if now + pause > self.cool_until:
            self.limit.on_pause(now + pause - max(now, self.cool_until))
            self.free_at = -math.inf
            self.cool_until = now + pause
            self.at(self.cool_until, self.wake, None)

"""Finds the limit that an endpoint does not tell.

    slow start --refused--> at the wall --hold is paid--> probing --refused--> at the wall

Pure: every method is told what happened and when. Two quantities are steered, because endpoints
hide two kinds of limit: the level (attempts in flight) and the rate (attempts a second).
"""

import math
from collections import deque
from typing import NamedTuple

from batch_runner.concurrency import Concurrency


FIRST_PACE = 10.0  # calls a second until replies come, and as many more for each: no opening burst
UNPACED = 2000.0  # calls a second from which spacing them is pointless
IN_USE = 0.8  # share of a limit that must be used before it may grow
CUT = 0.8
RATE_STEP = 1.05  # growth a tick; a bucket hides an excess for seconds, so it must stay small
FLOOR_RATE = 0.2  # calls a second
FAST_RATE_STEP = 1.1
EMPTY_BUCKET_SECONDS = 1.0  # what a bucket may regain in a pause
MOST_OWED = 200  # successes between two probes: at one or two refusals a probe, under 1 %
LONGEST_DEBT = 60.0  # seconds after which a slow endpoint need not pay in full
PATIENCE = 15  # pauses' worth of time between two probes: they cost at most 7 % of it
STRIKES = 6  # cuts in a row after each of which fewer than `FEW` attempts got in
FEW = 50
DEAF_SECONDS = 60.0
SERVER_ERROR_SECONDS = 5.0  # without growth
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds, where the server names none
EVENTS_KEPT = 1000


class LimitChange(NamedTuple):
    """The limit moved: a line of the report."""

    at: float
    was: int
    now: int
    rate: float | None
    """Attempts a second at which they are sent from here on; None: as they come."""
    why: str


class Ticket(NamedTuple):
    """What must be known of an attempt when its answer comes."""

    episode: int
    others: int
    """Attempts in flight when it began."""


class _Span:
    """What the endpoint took since it last refused an attempt."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.admitted = 0
        self._marks = deque([(now, 0)], maxlen=120)

    def begin(self, now: float) -> None:
        if now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, self.admitted))
        self.admitted += 1

    def skip(self, seconds: float) -> None:
        """Leave out a pause, except what a bucket may have regained in it."""
        excess = max(0.0, seconds - EMPTY_BUCKET_SECONDS)
        self.began += excess
        self._marks = deque([(at + excess, count) for at, count in self._marks], maxlen=120)

    def rate(self, now: float, burst: int) -> float:
        """Attempts a second that the endpoint surely sustains, if its limit stood still.

        The span began with an empty bucket, so the whole of it is a lower bound. So is each end of
        it without `burst`, the most a bucket can have held: this leaves out a slow beginning.
        """
        whole = self.admitted / max(now - self.began, 0.05)
        ends = ((self.admitted - n - burst) / (now - at) for at, n in self._marks if now - at >= 1)
        return max(FLOOR_RATE, whole, max(ends, default=0.0))


class _Tally(NamedTuple):
    """Counts as they stood when a question was asked."""

    refused: int
    begun: int

    def share(self, refused: int, begun: int) -> float:
        """The share refused of the attempts begun since."""
        return (refused - self.refused) / max(1, begun - self.begun)


class _Doubted(NamedTuple):
    """What had been learned before it was taken back, and the share refused under it."""

    level: float
    wall: float
    rate: float | None
    rate_wall: float
    share: float


class AdaptiveLimit:
    """The limit on attempts in flight, moved by how they end.

    - Slow start: one place more for each success (doubling each round) while the limit is in use.
      Sends are spaced from the first on, so that a refusal arrives before many more are sent.
    - A refusal tells exactly how many got in before it. If never more did, that is the wall and
      the limit goes there: a blind x0.8 gives away a fifth and leaves a limit of 5 at 4.
    - If a level is refused that got in before, the endpoint counts by time, or its limit dropped:
      attempts are spaced at the rate that got in since the last refusal. No number of places can
      express 2 a second when each takes 0.3 s.
    - At a wall growth stops until the next probe is paid for, by successes and by time. A wall
      found on little evidence is doubted soon, one found again is trusted longer, none for ever:
      `LONGEST_DEBT` and `PATIENCE` bound the wait, and further refusals do not prolong a pause.
    - Refusals of attempts begun before a cut belong to its episode: they cut no further.
    - Where nothing got in since the last cut it is an outage, not a level: only the pause grows.
    - Cuts that keep not helping are taken back for a minute, unless more load then brings more
      refusals: a gateway that refuses one call in twenty at random must not starve the run.
    """

    def __init__(self, bounds: Concurrency, now: float = 0.0) -> None:
        self.bounds = bounds
        self._peak = self.in_flight = 0
        self.rate_limited = 0
        self.rate: float | None = None
        """Attempts a second that the endpoint admits, once it showed that it counts them."""
        self.events: list[LimitChange] = []
        self._level = self._level_before = float(bounds.start)
        self._wall = self._rate_wall = math.inf
        self._gain = 1.0  # places for each success beyond the wall
        self._pace = self._pace_step = FIRST_PACE
        self._proven = 0  # most attempts in flight at once that all got in
        self._burst = 0  # attempts before the first refusal: more than any bucket held
        self._refused_at = -1
        self._rate_step = RATE_STEP
        self._sustained = 0.0  # attempts a second over the last span long enough to tell
        self._confirmed = 0
        self._excused = False
        self._cut_kind = ""
        self._cut_span_seconds = 1.0
        self._owed = self._owed_each = 0.0
        self._owed_until = self._hold_until = self._still_until = self._deaf_until = -math.inf
        self._strikes = self._outages = self._episode = self._begun_ever = 0
        self._tally = _Tally(0, 0)
        self._strikes_needed = STRIKES
        self._doubted: _Doubted
        self._span = _Span(now)
        self._new_round(now)
        self._new_tick(now)

    @property
    def limit(self) -> int:
        return int(self._level)

    @property
    def pace(self) -> float | None:
        """Attempts a second at which to send; None: as they come."""
        if self.rate is not None:
            return self.rate
        return self._pace if self.bounds.adaptive and self._pace < UNPACED else None

    def on_begin(self, now: float) -> Ticket:
        if not self._begun_ever:
            # Rates are reckoned from the first attempt: a clock may have run for days before it.
            self._span = _Span(now)
            self._new_round(now)
            self._new_tick(now)
        others = self.in_flight
        self.in_flight = others + 1
        if others >= self._peak:
            self._peak = others + 1
        self._begun += 1
        self._begun_ever += 1
        self._span.begin(now)
        return Ticket(self._episode, others)

    def on_neutral(self) -> None:
        """The attempt no longer counts; it said nothing about the load."""
        self.in_flight -= 1

    def on_server_error(self, now: float) -> None:
        """Nothing grows for a while: overload may be the cause, but nothing is cut for it."""
        self.in_flight -= 1
        self._still_until = now + SERVER_ERROR_SECONDS

    def on_pause(self, seconds: float) -> None:
        """A time in which nobody may send is no longer held against the endpoint."""
        self._span.skip(seconds)

    def on_success(self, ticket: Ticket, now: float) -> None:
        self.in_flight -= 1
        if ticket.episode != self._episode or not self.bounds.adaptive:
            return
        if ticket.others >= self._proven:
            self._proven = ticket.others + 1
        self._pace += self._pace_step
        self._owed -= 1
        self._left -= 1
        if now < self._still_until or now < self._deaf_until:
            return
        paid = now >= self._hold_until and (self._owed <= 0 or now >= self._owed_until)
        if self._peak >= IN_USE * self.limit:
            if self._level < self._wall:
                self._level = min(self._level + 1, self._wall, self.bounds.maximum)
            elif paid:
                self._level = min(self._level + self._gain, self.bounds.maximum)
        if self.rate is not None and now - self._tick_began >= max(1.0, min(5.0, 2 / self.rate)):
            self._quicken(self.rate, now, paid=paid)
        if self._left <= 0 and now - self._round_began >= 1:
            self._end_round(now, paid=paid)

    def on_rate_limited(
        self, ticket: Ticket, now: float, retry_after_seconds: float | None = None
    ) -> float:
        """Learn from a 429. Returns how long nobody may send."""
        self.in_flight -= 1
        self.rate_limited += 1
        self._doubt_the_doubt(now)
        if ticket.episode != self._episode:
            self._lower_for_straggler(ticket)
            return retry_after_seconds or 0.0
        self._episode += 1
        self._span.admitted -= 1
        self._outages = 0 if self._span.admitted > 0 else self._outages + 1
        pause = retry_after_seconds or min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._outages)
        if self.bounds.adaptive and now >= self._deaf_until:
            was = self.limit
            why = self._learn(ticket.others, now, pause)
            self._note(now, was, why)
        self._cut_span_seconds = max(0.5, now - self._span.began)
        self._span = _Span(now)
        self._new_round(now)
        self._new_tick(now + pause)
        return pause

    def _learn(self, others: int, now: float, pause: float) -> str:
        self._cut_kind = ""
        if self._did_not_help():
            self._take_back(now)
            return "refusals do not follow the load"
        admitted = self._span.admitted
        if self._outages or (admitted <= 1 and not others):
            self._pace = self._pace_step = FIRST_PACE
            return "refused before anything else got in"
        self._burst = self._burst or admitted
        seen = self._span.rate(now, self._burst)
        if self._is_level(others):
            patience = self._hit_level(others, seen)
            why = f"refused with {others} in flight"
        else:
            patience = self._hit_rate(others, seen)
            why = f"refused after {seen:.3g} a second with {others} in flight"
        self._refused_at = others
        if admitted >= FEW:
            self._sustained = seen
        self._gain = 0.5 / 2 ** min(self._confirmed, 4)
        self._owed = self._owed_each
        self._owed_until = now + LONGEST_DEBT
        self._hold_until = now + patience * pause
        # After a wall found on little evidence the refill is gentle: it might have been a rate.
        sure = self._confirmed >= 2 or admitted >= 50
        self._pace = max(1.0, (admitted - 1) / (now - self._span.began + 0.5)) * (2 if sure else 1)
        self._pace_step = self._pace * (0.1 if sure else 0.02)
        return why

    def _is_level(self, others: int) -> bool:
        """Whether no more attempts than `others` ever got in, give or take those on the road.

        A shortfall of a few is excused once: a request under way counts here before it counts
        there. It is not excused twice, or a rate would be mistaken for one level after another.
        """
        if others >= self._proven:
            self._excused = self._excused and self._level <= self._wall
            return True
        excused = not self._excused and others >= min(self._proven - 1, 0.95 * self._proven) > 2
        self._excused = excused
        return excused

    def _hit_level(self, others: int, seen: float) -> float:
        """The level is what was refused. Returns how many pauses to hold it."""
        wall = max(self.bounds.minimum, min(others, self.bounds.maximum))
        known = abs(wall - self._wall) <= max(1.0, 0.1 * wall)
        self._confirmed = self._confirmed + 1 if known else 0
        self._level = self._wall = float(wall)
        self._proven = wall
        self._cut_kind = "level"
        self._owed_each = min(MOST_OWED, 5 * 3**self._confirmed)
        if self.rate is not None:
            if abs(others - self._refused_at) <= max(1.0, 0.02 * others):
                self.rate, self._rate_wall = None, math.inf  # same place twice: a rate would vary
            else:
                self.rate = self._rate_wall = max(seen, 0.9 * self.rate)
        return PATIENCE if self._confirmed else 1

    def _hit_rate(self, others: int, seen: float) -> float:
        """The rate is what was refused, or the limit dropped. Returns how many pauses to hold."""
        admitted, before = self._span.admitted, self.rate
        self._confirmed = 0
        self._proven = others
        self._wall = math.inf
        self._level = max(float(self.bounds.minimum), float(others), CUT * self._level)
        if before is None:
            self.rate = self._rate_wall = max(seen, self._sustained / 2)
        else:
            self._rate_wall = max(seen, self._rate_wall / 2)
            if admitted < 30 and self._rate_wall < CUT * before:
                self._rate_wall = (self._rate_wall + before) / 2
            self.rate = max(FLOOR_RATE, min(self._rate_wall, CUT * before))
        self._cut_kind = "rate"
        trusted = admitted >= (30 if before is None else 15)
        self._rate_step = RATE_STEP if trusted else 1.2
        self._owed_each = min(MOST_OWED, 10 * admitted) if trusted else min(admitted, 10)
        return (PATIENCE if before is not None else PATIENCE / 4) if trusted else 1

    def _lower_for_straggler(self, ticket: Ticket) -> None:
        """Correct the last cut: an attempt that it had counted as admitted was refused."""
        if ticket.episode != self._episode - 1:
            return
        if self._cut_kind:
            self._owed += self._owed_each
        if self._cut_kind == "level":
            wall = max(self.bounds.minimum, min(self.limit, ticket.others))
            self._level = self._wall = float(wall)
            self._proven = min(self._proven, wall)
        elif self._cut_kind == "rate" and self.rate is not None:
            self._rate_wall = max(FLOOR_RATE, self._rate_wall - 1 / self._cut_span_seconds)
            self.rate = min(self.rate, self._rate_wall)

    def _did_not_help(self) -> bool:
        """Whether refusals keep coming soon, whatever was cut."""
        if self._span.admitted >= FEW:
            self._strikes = 0
            self._level_before = self._level
            self._tally = _Tally(self.rate_limited, self._begun_ever)
        else:
            self._strikes += 1
        return self._strikes >= self._strikes_needed

    def _take_back(self, now: float) -> None:
        self._doubted = _Doubted(
            level=self._level,
            wall=self._wall,
            rate=self.rate,
            rate_wall=self._rate_wall,
            share=self._tally.share(self.rate_limited, self._begun_ever),
        )
        self._tally = _Tally(self.rate_limited, self._begun_ever)
        self._deaf_until = now + DEAF_SECONDS
        self._level = self._wall = max(self._level, self._level_before)
        self.rate, self._rate_wall = None, math.inf
        self._strikes = self._proven = 0
        self._pace = UNPACED

    def _doubt_the_doubt(self, now: float) -> None:
        """If more load brings more refusals, the cuts were right: they come back."""
        share = self._tally.share(self.rate_limited, self._begun_ever)
        refused = self.rate_limited - self._tally.refused
        if now < self._deaf_until and refused >= 5 and share > 2 * self._doubted.share:
            self._deaf_until = now
            self._strikes_needed *= 2
            self._tally = _Tally(self.rate_limited, self._begun_ever)
            self._level, self._wall = self._doubted.level, self._doubted.wall
            self.rate, self._rate_wall = self._doubted.rate, self._doubted.rate_wall

    def _quicken(self, rate: float, now: float, *, paid: bool) -> None:
        in_use = self._begun / (now - self._tick_began) >= IN_USE * rate
        self._new_tick(now)
        if in_use and rate < self._rate_wall:
            self.rate = min(self._rate_wall, rate * self._rate_step)
        elif in_use and paid:
            beyond = rate > 1.3 * self._rate_wall  # then the limit itself has moved
            self.rate = rate * (max(FAST_RATE_STEP, self._rate_step) if beyond else self._rate_step)

    def _end_round(self, now: float, *, paid: bool) -> None:
        if paid and self._peak >= IN_USE * self.limit:
            self._gain = min(1.0, 2 * self._gain)
        self._note(now, self.events[-1].now if self.events else self.bounds.start, "in use")
        self._new_round(now)

    def _new_round(self, now: float) -> None:
        self._round_began = now
        self._left = self._level
        self._peak = self.in_flight

    def _new_tick(self, now: float) -> None:
        self._tick_began = now
        self._begun = 0

    def _note(self, now: float, was: int, why: str) -> None:
        if was == self.limit and why == "in use":
            return
        self.events.append(LimitChange(now, was, self.limit, self.rate, why))
        del self.events[:-EVENTS_KEPT]

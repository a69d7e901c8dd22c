"""Finds the limit that an endpoint does not tell.

Pure: every method is told what happened and when. Endpoints hide two kinds of limit, so two dials
are turned: the level (attempts in flight) and the pace (attempts a second). One principle for both:
go back to what got in, stay until the next refusal is paid for, then try a little more.
"""

import math
from typing import NamedTuple

from batch_runner.bucket import Bucket
from batch_runner.concurrency import Concurrency
from batch_runner.doubt import Doubt
from batch_runner.gain import Gain


FIRST_PACE = 10.0  # calls a second until replies come
UNPACED = 2000.0  # calls a second from which spacing them is pointless
FLOOR_PACE = 0.1  # calls a second
BELOW = 0.97  # share of the guessed rate, or of the places refused, to stay at
COARSE, FINE = 1.2, 1.03  # growth of the pace a tick: to find the limit, and to try beyond it
FARTHER = 1.08  # likewise, once that went well: coarser steps would blur what a refusal tells
MOVED = 1.5  # a pace so far beyond what was refused shows that the limit has moved
ROAD, FEWEST_ON_ROAD = 0.1, 2  # of those in flight may be on the way there or back
CHANCE = 0.5  # roots of those in flight: a number that nobody counts strays so far at least
HEADROOM = 1.5  # pace where places count, in shares of the one in use: they fill up gradually
OTHER_PACE = 1.1  # paces farther apart than that bring other numbers in flight, if none is counted
OVERTAKEN = 0.5  # of the time to a refusal: attempts begun so shortly before may be refused yet
IN_USE = 0.8  # share of a dial that must be used before it may grow
SURE = 1.5  # bounds of the rate this close to each other settle it
TIGHT = 1.15  # above the lower bound; a guess refused so near to it was of the wrong depth
OWED, LEAST_OWED = 100, 40  # successes between two tries: at one or two refusals a try, under 3 %
DEBT_SECONDS = 60.0  # after which `LEAST_OWED` will do
PATIENCE = 30  # pauses' worth of time between two tries: they cost at most 4 % of it
LONGEST_HOLD, LONGEST_PATIENCE = 600.0, 90.0  # seconds
SOON = 50  # attempts; a claim refuted sooner was wrong, later the limit may have moved
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
    began: float
    others: int
    """Attempts in flight when it began."""
    before: int
    """Attempts begun before it since the last refusal: most got in if it is refused first."""
    most: int
    """The most others that any of those had."""
    again: bool
    """Whether the row had been refused before."""


class _Dials(NamedTuple):
    """How they stood before refusals were doubted."""

    level: float
    wall: float
    pace: float
    step: float


class AdaptiveLimit:
    """The limit on attempts in flight and on their pace, moved by how they end.

    - Opening: the level grows with every success while it is in use, the pace doubles each round
      trip; so a refusal arrives before many more are sent.
    - A refusal is asked twice what it means. If it comes with as many in flight as the one before,
      and no more had got in between, the endpoint counts places: the level goes just below, and
      the pace stays near what is in use, or all places would be filled in one rush after a pause.
      Else it counts by time: the pace goes just below the rate that its refusals tell (`Bucket`).
    - A claim that is soon refuted must be better founded the next time.
    - At a limit nothing grows until successes and time have paid for the next refusal. Then a
      little more is tried, and soon a lot more if the limit itself has moved: none is held for ever.
    - Refusals of attempts begun before the last one was heard belong to the same episode.
    - If nothing got in since the last refusal it is an outage: the pause grows, and the pace is
      taken back only until something gets in. Likewise if it is not sure that something did.
    - Refusals that do not follow the load are not heeded: each of them doubles the pace, until more
      load brings more of them (see `Doubt`).
    - An endpoint that refuses nothing but answers no faster is not pressed further (see `Gain`).
    """

    def __init__(self, bounds: Concurrency, now: float = 0.0) -> None:
        self.bounds = bounds
        self.in_flight = self.rate_limited = 0
        self.events: list[LimitChange] = []
        self._level = float(bounds.start)
        self._wall = math.inf  # level that was refused
        self._pace = FIRST_PACE
        self._cut_pace = math.inf  # pace after the last refusal
        self._good_pace = 0.0  # pace to which it doubles after an outage
        self._step = math.inf  # growth of the pace a tick; infinite: opening, by replies
        self._settled = False  # the pace is below one that several refusals tell
        self._owed = 0
        self._held_at = self._hold_until = self._still_until = -math.inf
        self._bucket = Bucket(now)
        self._episode = self._outages = 0
        self._set_out = now  # when the first attempt since the last refusal began
        self._refused_at: int | None = None  # others of the last refusal
        self._same = 0  # refusals in a row that look like a level
        self._same_pace = math.inf  # of the last of them
        self._needed = 1  # of them to believe it
        self._trusted = False
        self._claimed = 0  # others of the refusal that made the wall, or might have
        self._unclaimed = self._level  # level before one was claimed
        self._most = 0  # others, since the last refusal
        self._doubt = Doubt()
        self._undoubted: _Dials | None = None
        self._gain = Gain(self._level, now)
        self._tick_began, self._begun, self._peak = now, 0, 0

    @property
    def limit(self) -> int:
        return int(self._level)

    @property
    def pace(self) -> float | None:
        """Attempts a second at which to send; None: as they come."""
        return self._pace if self.bounds.adaptive and self._pace < UNPACED else None

    def doubts(self, now: float) -> bool:
        """Whether refusals come whatever the load: a herd is as welcome as one."""
        return self._doubt.lasts(now)

    def on_begin(self, now: float, *, again: bool = False) -> Ticket:
        bucket = self._bucket
        if not bucket.admitted and not self._episode and not self.in_flight:
            bucket.restart(now)  # the clock may have run for days before the first attempt
            self._gain.restart(self._level, now)
            self._new_tick(now)
        others = self.in_flight
        self.in_flight = others + 1
        ticket = Ticket(self._episode, now, others, bucket.admitted, self._most, again)
        bucket.begin(now)
        self._most = max(others, self._most)
        self._peak = max(others + 1, self._peak)
        self._begun += 1
        if not ticket.before:
            self._set_out = now
        self._doubt.begin()
        if now - self._tick_began >= 1:
            self._end_tick(now)
        return ticket

    def on_neutral(self) -> None:
        """The attempt no longer counts; it said nothing about the load."""
        self.in_flight -= 1

    def on_server_error(self, now: float) -> None:
        """Nothing grows for a while: overload may be the cause, but nothing is cut for it."""
        self.in_flight -= 1
        self._still_until = now + SERVER_ERROR_SECONDS

    def on_pause(self, seconds: float) -> None:
        """Nobody sends for that long: this says nothing about what is in use."""
        self._tick_began += seconds
        self._gain.on_pause(seconds)

    def on_success(self, ticket: Ticket, now: float) -> None:
        self.in_flight -= 1
        current = ticket.episode == self._episode or self.doubts(now)
        if not current or not self.bounds.adaptive:
            return
        self._owed -= 1
        self._doubt.served(again=ticket.again)
        if now < self._still_until:
            return
        if self._step == math.inf and self._pace < UNPACED:
            self._pace += 1 / max(now - ticket.began, 0.001)
        if self._peak < IN_USE * self.limit:
            self._gain.idle(self._level, now)
            return
        was = self.limit
        self._level = self._gain.answered(self._level, now)
        if self.limit < was:
            self._note(now, was, "more in flight brought no more answers")
        most = min(self._gain.ceiling(now), self.bounds.maximum)
        if self._level < min(self._wall, most):
            # Never by more than a factor e a second: a refusal takes its time to arrive.
            gain = min(1.0, now - ticket.began)
            self._level = min(self._level + gain, self._wall, most)
        elif self._level < most and self._paid(now):
            # Gently, until it is beyond what requests on the road can explain.
            beyond = self._level > 1.1 * self._wall + 2
            gain = 1.0 if beyond else min(1.0, max(0.25, 4 / self._level))
            self._level = min(self._level + gain, most)

    def _paid(self, now: float) -> bool:
        """Whether the next refusal may come."""
        held = now - self._held_at
        if now < self._hold_until:
            return False
        return (
            self._owed <= 0
            or (held >= DEBT_SECONDS and self._owed <= OWED - LEAST_OWED)
            or held >= LONGEST_HOLD
        )

    def _new_tick(self, now: float) -> None:
        self._tick_began = now
        self._begun = 0
        self._peak = self.in_flight

    def _end_tick(self, now: float) -> None:
        """The pace grows if it was used: by doubling up to what was good, beyond it by steps."""
        seconds = now - self._tick_began
        if seconds * self._pace < 3:
            return
        in_use = self._begun >= IN_USE * self._pace * seconds
        used = self._begun / seconds
        self._new_tick(now)
        if self._wall < math.inf:
            self._pace = min(max(self._pace, HEADROOM * used), UNPACED)
        elif in_use and self._pace < UNPACED and now >= self._still_until:
            if self._pace < self._good_pace:
                self._pace = self._cut_pace = min(2 * self._pace, self._good_pace)
            elif self._step < math.inf and self._paid(now):
                self._pace *= self._step
                if self._pace > 1.1 * self._cut_pace:
                    self._step = FARTHER
        self._note(now, self.events[-1].now if self.events else self.bounds.start, "in use")

    def on_rate_limited(
        self, ticket: Ticket, now: float, retry_after_seconds: float | None = None
    ) -> float:
        """Learn from a 429. Returns how long nobody may send."""
        self.in_flight -= 1
        self.rate_limited += 1
        self._doubt.count()
        if ticket.episode != self._episode:
            return retry_after_seconds or 0.0
        self._episode += 1
        got_in = 0 if self._overtook(ticket, now) else ticket.before
        self._outages = 0 if ticket.before else self._outages + 1
        own_pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** max(0, self._outages - 1))
        pause = max(retry_after_seconds or 0.0, own_pause)
        if self.bounds.adaptive:
            was = self.limit
            self._note(now, was, self._learn(ticket, got_in, now, pause))
            self._gain.restart(self._level, now)
        self._refused_at = ticket.others
        self._most = 0
        self._new_tick(now)
        return pause

    def _overtook(self, ticket: Ticket, now: float) -> bool:
        """Whether those begun before it may yet be refused, as happens after a pause."""
        on_the_way = now - ticket.began
        return self._episode > 1 and ticket.began - self._set_out <= OVERTAKEN * on_the_way

    def _learn(self, ticket: Ticket, got_in: int, now: float, pause: float) -> str:
        others = ticket.others
        refuted = self._settled and self._pace <= min(
            self._cut_pace, TIGHT * self._bucket.guess().low
        )
        self._bucket.refused(ticket.began, got_in)
        if not ticket.before:
            self._bucket.stay_shut()
        if not self._heeds(ticket, now):
            return "refusals do not follow the load"
        claimed, soon = self._wall < math.inf, got_in < SOON
        if claimed and not soon:
            self._needed, self._trusted = 1, True
        if self._is_level(ticket):
            if not claimed:
                self._unclaimed = self._level
            below = max(self.bounds.minimum, min(math.ceil(BELOW * others), self.bounds.maximum))
            self._level = self._wall = float(below)
            self._set_pace(max(self._pace, self._good_pace, FIRST_PACE), COARSE)
            self._hold(now, pause)
            return f"refused again with {others} in flight"
        if not got_in:
            self._good_pace = max(self._good_pace, min(self._pace, UNPACED))
            self._pace = self._cut_pace = max(1.0, min(self._pace, FIRST_PACE) / 4)
            return "refused before anything else got in"
        if claimed:
            self._wall = math.inf
            if not self._trusted:
                self._level = max(self._level, self._unclaimed)
            self._needed = 1 if self._trusted else min(8, 2 * self._needed)
            self._trusted = False
        elif self._settled and self._pace > MOVED * self._cut_pace:
            self._bucket.forget(deep=False)
        elif refuted:
            self._bucket.disprove()
        self._go_below_rate(self._bucket, now, pause)
        return f"refused at {self._pace:.3g} a second with {others} in flight"

    def _heeds(self, ticket: Ticket, now: float) -> bool:
        """Whether the refusal may be caused by the load."""
        doubt = self._doubt
        provoked = now >= self._hold_until or ticket.before < SOON
        doubt.judge(again=ticket.again, got_in=ticket.before, provoked=provoked, now=now)
        if doubt.begins(now):
            self._undoubted = _Dials(self._level, self._wall, self._pace, self._step)
            self._wall = math.inf
            more = UNPACED if doubt.each_once else 2 * self._pace
            self._set_pace(min(more, UNPACED), COARSE)
        elif doubt.was_wrong(now) and self._undoubted is not None:
            self._level, self._wall, self._pace, self._step = self._undoubted
        elif doubt.lasts(now):
            self._pace = min(2 * self._pace, UNPACED)
        return not doubt.lasts(now)

    def _is_level(self, ticket: Ticket) -> bool:
        """Whether refusals come with the same number in flight, and no more got in between.

        Not just the same number: a request on the road counts here before it counts there. But none
        far below the first that was claimed, or a rate would pass for one level after another. And
        at one pace there are as many in flight whatever is counted: that tells nothing.
        """
        others, last = ticket.others, self._refused_at
        slack = min(0.2 * others, FEWEST_ON_ROAD + ROAD * others)
        if self._wall == math.inf:
            self._claimed = others
        alike = last is not None and abs(others - last) <= slack and others >= self._claimed - slack
        raised = self._trusted and self._wall < others  # a level that stood the test has moved
        # Places are never outnumbered but on the road; whom only time holds back vary by chance.
        beyond = min(slack, FEWEST_ON_ROAD + CHANCE * math.sqrt(others))
        alike = (alike or raised) and others > 0 and ticket.most <= others + beyond
        slower, faster = sorted((self._pace, self._same_pace))
        is_paced = self._wall == math.inf and faster < UNPACED
        if alike and is_paced and faster <= OTHER_PACE * slower and others > 2:
            return False
        self._same = self._same + 1 if alike else 0
        self._same_pace = self._pace
        return self._same >= self._needed + (others <= 2)

    def _go_below_rate(self, bucket: Bucket, now: float, pause: float) -> None:
        guess = bucket.guess()
        if not guess.agrees or guess.low > self._pace:
            bucket.forget(deep=True)
            guess = bucket.guess()
        self._settled = bucket.depth_known and guess.high < SURE * guess.low
        # A quarter of what is unknown at a time.
        unknown = guess.high / max(guess.low, guess.high / 3)
        step = COARSE if guess.refusals == 1 else min(COARSE, max(FINE, unknown**0.25))
        self._set_pace(min(guess.rate, self._pace) * BELOW, step)
        if self._settled:
            self._hold(now, pause)

    def _set_pace(self, pace: float, step: float) -> None:
        self._pace = self._cut_pace = max(FLOOR_PACE, pace)
        self._good_pace = 0.0
        self._step = step
        self._hold_until = -math.inf
        self._owed = 0

    def _hold(self, now: float, pause: float) -> None:
        self._owed = OWED
        self._held_at = now
        self._hold_until = now + min(PATIENCE * pause, LONGEST_PATIENCE)

    def _note(self, now: float, was: int, why: str) -> None:
        if was == self.limit and why == "in use":
            return
        rate = self._pace if self._pace < UNPACED else None
        self.events.append(LimitChange(now, was, self.limit, rate, why))
        del self.events[:-EVENTS_KEPT]

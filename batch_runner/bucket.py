"""An endpoint that counts calls by time, as its refusals show it: a bucket of unknown rate and depth.

A bucket of `depth` seconds admits at most `rate * (depth + t)` calls in any `t` seconds, and one
call at least. A refusal says that one more was too many. So each refusal tells, for every depth,
between which bounds the rate is. A depth for which the last refusals agree explains the endpoint.
Others count the calls of a second, of the clock or of any, and forget: after a pause they look deep,
else without depth.
"""

from collections import deque
from typing import NamedTuple


CLOCK, ANY = -1.0, 0.0  # stand among the depths for counts: of a second of the clock, of any second
DEPTHS = (CLOCK, ANY, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)  # seconds
LIKELY = DEPTHS.index(1.0)  # the depth to assume before anything is known
AGREE = 1.05  # bounds may miss each other by so much: clocks and round trips differ
SPANS = 3  # refusals looked back on
MARKS = 64
FINEST_MARK_SECONDS = 0.02


class Guess(NamedTuple):
    """Calls a second, from the refusals of late."""

    low: float
    high: float
    refusals: int

    @property
    def rate(self) -> float:
        """Nearer to the upper bound: beyond the rate a refusal tells at once, below it nothing does."""
        return float((max(self.low, self.high / 3) * self.high**2) ** (1 / 3))

    @property
    def agrees(self) -> bool:
        return self.low <= AGREE * self.high


class Bucket:
    """Counts the attempts between refusals, and guesses the rate from them."""

    def __init__(self, now: float) -> None:
        self._told: deque[list[tuple[float, float]]] = deque(maxlen=SPANS)
        self.admitted = 0  # since the last refusal
        self.empty_at = now
        self._depth, self._least_depth = LIKELY, 0
        self.depth_known = False
        self._full = True  # at the start of the span
        self._may_be_clock = True
        self._marks = [(now, 0)]

    def restart(self, now: float) -> None:
        """Nothing has been sent yet."""
        self.empty_at = now
        self._marks = [(now, 0)]

    def begin(self, now: float) -> None:
        """An attempt is sent."""
        if now - self._marks[-1][0] >= FINEST_MARK_SECONDS:
            if len(self._marks) >= MARKS:  # the older, the sparser
                self._marks[: MARKS // 2] = self._marks[: MARKS // 2 : 2]
            self._marks.append((now, self.admitted))
        self.admitted += 1

    def refused(self, at: float, admitted: int) -> None:
        """An attempt begun at `at` was refused, `admitted` before it were not."""
        if admitted:
            self._told.append([self._bounds(at, admitted, depth) for depth in DEPTHS])
            self._full = False
            self.empty_at = at
        self.admitted = 0
        self._marks = [(at, 0)]

    def forget(self, *, deep: bool) -> None:
        """The limit has moved, or its depth was taken for `deep`er than it is, which looks alike.

        Older refusals tell of another limit then.
        """
        while len(self._told) > 1:
            self._told.popleft()
        self._least_depth = 0
        self._may_be_clock = True
        if deep:
            self._depth, self.depth_known = max(self._depth, LIKELY), False
        else:
            self._depth = min(self._depth, LIKELY)

    def stay_shut(self) -> None:
        """After a pause nothing got in: a second of the clock would have let something in."""
        self._may_be_clock = False

    def disprove(self) -> None:
        """A pace below the guess was refused: it is deeper, if the limit stands still."""
        self._least_depth = min(self._depth + 1, len(DEPTHS) - 1)

    def guess(self) -> Guess:
        """The rate that the last refusals tell: of the depths that explain them, by the fastest.

        If it is too fast, the next refusal tells; too slow would stay unknown.
        """
        if len(self._told) == 1:
            return self._told_by(self._depth)
        # A count by the clock passes for any depth: none that was disproved says anything of it.
        depths = [0] * self._may_be_clock
        depths += range(max(1, self._least_depth), len(DEPTHS))
        told = {depth: self._told_by(depth) for depth in depths}
        best = min(depths, key=lambda depth: told[depth].low / told[depth].high)
        explain = [depth for depth in depths if told[depth].agrees]
        self._depth = max(explain, key=lambda depth: told[depth].rate, default=best)
        guess = told[self._depth]
        self.depth_known = guess.agrees
        return guess

    def _told_by(self, depth: int) -> Guess:
        bounds = [told[depth] for told in self._told]
        return Guess(max(low for low, _ in bounds), min(high for _, high in bounds), len(bounds))

    def _bounds(self, at: float, admitted: int, depth: float) -> tuple[float, float]:
        """Of the rate of a bucket of this depth that admits what it did and refuses this attempt."""
        if depth in (CLOCK, ANY):
            high = max(0.02, self._calls_of_last_second(at, admitted))
            # By the clock it resembles a bucket of a second: `t` seconds touch about `t + 1` of them.
            low = high - 1 if depth == ANY else self._bounds(at, admitted, 1.0)[0]
            return max(0.01, min(low, high)), high
        seconds = max(at - self.empty_at, 0.01)
        low = high = 0.01
        if not self._full:  # a refusal may have left almost the price of a call in it
            low, high = (admitted - 1) / seconds, (admitted + 1) / seconds
        for since, before in self._marks:
            calls, seconds = admitted - before, at - since
            if calls > 0 and seconds > 0:
                low = max(low, min(calls / (seconds + depth), (calls - 1) / seconds))
                high = max(high, min((calls + 1) / (seconds + depth), calls / seconds))
        return low, high

    def _calls_of_last_second(self, at: float, admitted: int) -> float:
        """Between two marks they are taken for evenly spread."""
        start, after, by_then = at - 1, at, admitted
        for since, before in reversed(self._marks):
            if since <= start:
                share = (start - since) / (after - since)
                return admitted - before - share * (by_then - before)
            after, by_then = since, before
        return admitted

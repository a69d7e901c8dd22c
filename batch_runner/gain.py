"""Whether more in flight brings more answers: some endpoints only let calls wait.

They refuse nothing, so no refusal ever stops the growth. But a call that waits long enough times
out, and is paid for twice.
"""

LEAST_ANSWERS = 20  # of a span that is measured; or as many as are in flight, if more
ENOUGH = 1.2  # times as many answers a second, for twice as much in flight
UNPROVEN, UNPROVEN_ONCE_REFUTED = 5.0, 2.0  # times the level that has proved itself
FIRST_WAIT, LONGEST_WAIT = 60.0, 300.0  # seconds until the next try


class Gain:
    """Measures answers a second, span by span, and compares them with those of half the level.

    If they have not grown the level goes back, and more is tried again later: what kept them from
    growing may have been chance, or longer answers.
    """

    def __init__(self, level: float, now: float) -> None:
        self._unproven, self._wait, self._wait_until = UNPROVEN, FIRST_WAIT, now
        self.restart(level, now)

    def restart(self, level: float, now: float) -> None:
        """Refusals moved the level: it is the one to measure others against."""
        self._proven, self._per_second = level, 0.0
        self.idle(level, now)

    def idle(self, level: float, now: float) -> None:
        """The level is not in use: answers say nothing about it."""
        self._level, self._began, self._answers = level, now, 0

    def on_pause(self, seconds: float) -> None:
        """Nobody sends for that long."""
        self._began += seconds

    def ceiling(self, now: float) -> float:
        """How far the level may grow: answers tell of it only after they have travelled."""
        return self._proven * (self._unproven if now >= self._wait_until else 1.0)

    def answered(self, level: float, now: float) -> float:
        """Another answer. Returns the level to go on with."""
        self._answers += 1
        if self._answers < max(LEAST_ANSWERS, self._level) or now <= self._began:
            return level
        per_second = self._answers / (now - self._began)
        twice = self._level >= 2 * self._proven
        if twice and per_second < ENOUGH * self._per_second:
            level = self._proven
            self._unproven = UNPROVEN_ONCE_REFUTED
            self._wait_until = now + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        elif twice or self._level <= self._proven or not self._per_second:
            self._proven, self._per_second = self._level, per_second
        self.idle(level, now)
        return level

"""What happened when, in a bounded number of equal bins; time in which nothing happened takes none."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


MOST_BINS = 200
FINEST_SECONDS = 1.0
"""A rate a second, of less than a second, is one that nobody saw."""
LONGEST_FILLED_GAP = 3
"""Empty bins between two busy ones that are still drawn; a longer gap is a fold."""


@dataclass(slots=True)
class Bin:
    """A stretch of time."""

    answered: int = 0
    failed: int = 0
    repeats: int = 0
    """Attempts beyond the first of a row that began here."""
    busy_seconds: float = 0.0
    """Summed over the rows in hand."""


class Timeline:
    """Rows by time. The bins double their width whenever they become more than `MOST_BINS`.

    Bins exist only where a row was in hand, so a job that runs every night for a year is drawn as
    its nights.
    """

    def __init__(self) -> None:
        self.width = FINEST_SECONDS
        self.bins: dict[int, Bin] = {}

    def add(
        self,
        started: float,
        finished: float,
        *,
        failed: bool,
        repeats: int,
        repeated_at: Sequence[float] = (),
    ) -> None:
        """A row was begun and ended at these Unix times. A clock that jumped back makes it a moment.

        Of its repeats those whose time is not known count at its end.
        """
        started = min(started, finished)
        while (finished - started) / self.width >= MOST_BINS:
            self._widen()
        first, last = math.floor(started / self.width), math.floor(finished / self.width)
        for number in range(first, last + 1):
            spot = self.bins.setdefault(number, Bin())
            begin, end = number * self.width, (number + 1) * self.width
            spot.busy_seconds += min(end, finished) - max(begin, started)
        for at in repeated_at[:repeats]:
            number = math.floor(min(max(at, started), finished) / self.width)
            self.bins[number].repeats += 1
        spot = self.bins[last]
        spot.repeats += max(0, repeats - len(repeated_at))
        if failed:
            spot.failed += 1
        else:
            spot.answered += 1
        while len(self.bins) > MOST_BINS:
            self._widen()

    def stretches(self) -> Iterator[tuple[float, list[Bin]]]:
        """Start (Unix time) and bins of every time without a long pause, oldest first."""
        stretch: list[Bin] = []
        begin = after = 0
        for number in sorted(self.bins):
            if stretch and number - after > LONGEST_FILLED_GAP:
                yield begin * self.width, stretch
                stretch = []
            if not stretch:
                begin = after = number
            stretch += [Bin() for _ in range(number - after)]
            stretch.append(self.bins[number])
            after = number + 1
        if stretch:
            yield begin * self.width, stretch

    def settle(self, *, rows: float, columns: int) -> None:
        """Bins are as wide as it takes to hold so many rows on average, unless there are few of them.

        One row in a narrow bin would show a rate that the run never had.
        """
        while len(self.bins) > columns and self._rows < rows * len(self.bins):
            self._widen()

    @property
    def _rows(self) -> int:
        return sum(one.answered + one.failed for one in self.bins.values())

    def _widen(self) -> None:
        narrow, self.bins = self.bins, {}
        self.width *= 2
        for number, old in narrow.items():
            wide = self.bins.setdefault(number // 2, Bin())
            wide.answered += old.answered
            wide.failed += old.failed
            wide.repeats += old.repeats
            wide.busy_seconds += old.busy_seconds

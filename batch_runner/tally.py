"""Counts a run as it goes: rows, tokens, dollars, latencies. Constant size, whatever the rows."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from batch_runner.bill import Bill, Biller
from batch_runner.records import RowResult, RowStatus


_RATIO = 1.05  # neighbouring bins: a quantile is exact to 5 %
_SHORTEST_SECONDS = 0.001
_RATE_WINDOW_SECONDS = 30.0
MOST_EXAMPLES = 40
"""Error codes with an example; a server may invent a new one for every row."""


class LatencyHistogram:
    """Durations in logarithmic bins."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.longest_seconds = 0.0

    def add(self, seconds: float) -> None:
        self.longest_seconds = max(self.longest_seconds, seconds)
        self.bins[round(math.log(max(seconds, _SHORTEST_SECONDS) / _SHORTEST_SECONDS, _RATIO))] += 1

    def quantile(self, share: float) -> float | None:
        """Seconds within which `share` of the durations lie; None without any."""
        rank = math.ceil(share * self.bins.total())
        passed = 0
        for number in sorted(self.bins):
            passed += self.bins[number]
            if passed >= rank:
                return min(self.seconds(number), self.longest_seconds)
        return None

    def quantiles(self) -> dict[str, float]:
        """`p50`, `p90`, `p99` and `max` in seconds; empty without any duration."""
        if not self.bins:
            return {}
        found = {f"p{n}": round(self.quantile(n / 100) or 0.0, 3) for n in (50, 90, 99)}
        return found | {"max": round(self.longest_seconds, 3)}

    @staticmethod
    def seconds(number: float) -> float:
        """The duration at the middle of a bin."""
        return _SHORTEST_SECONDS * float(_RATIO**number)


class Rate:
    """Events a second over the last half minute."""

    def __init__(self, started: float) -> None:
        self._marks: list[tuple[float, float]] = [(started, 0.0)]

    def per_second(self, now: float, total: float) -> float:
        """`total` is how many events there have been by `now`."""
        self._marks.append((now, total))
        while len(self._marks) > 2 and self._marks[1][0] < now - _RATE_WINDOW_SECONDS:
            self._marks.pop(0)
        began, before = self._marks[0]
        return (total - before) / (now - began) if now > began else 0.0


class Examples:
    """For each error code the first row that ended so, in words."""

    def __init__(self, told: Mapping[str, str] | None = None) -> None:
        self.told: dict[str, str] = dict(told or {})

    def add(self, code: str, message: str | None, *, row: int, label: str | None = None) -> None:
        """`row` is the row's index, which people count from 1; `label` names it better."""
        if message and code not in self.told and len(self.told) < MOST_EXAMPLES:
            self.told[code] = f"{label or f'row {row + 1:,}'}: {message}"


@dataclass(slots=True)
class Tally:
    """This run's finished rows."""

    biller: Biller
    statuses: Counter[RowStatus] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    bill: Bill = field(default_factory=Bill)
    examples: Examples = field(default_factory=Examples)

    @property
    def finished(self) -> int:
        return self.statuses.total()

    @property
    def failed(self) -> int:
        return self.statuses[RowStatus.FAILED]

    def add(self, result: RowResult) -> None:
        self.statuses[result.status] += 1
        if result.code:
            self.codes[str(result.code)] += 1
            self.examples.add(
                result.code, result.ending.message, row=result.row, label=result.label
            )
        if result.model:
            self.models[result.model] += 1
        if (seconds := result.reply_seconds) is not None:
            self.latencies.add(seconds)
        self.biller.add(self.bill, result)

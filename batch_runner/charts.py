"""Charts as inline SVG: numbers in, markup out. Only numbers and our own words get into it.

The drawing is stretched to the width of the page, so it holds no text: ticks are handed back as
percentages, for the page to label in its own type, which stays readable on a phone.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import pairwise

from batch_runner.amounts import duration, many
from batch_runner.tally import LatencyHistogram
from batch_runner.timeline import Bin, Timeline


FEWEST_COLUMNS = 12
"""Fewer bins are drawn as if there were so many: a run of a second is no wall of colour."""
ENOUGH_COLUMNS = 24
ROWS_PER_COLUMN = 4
"""On average, as long as there are enough columns."""
FOLD_COLUMNS = 2
"""Width of a time in which nothing happened."""
TICKS = 6
LATENCY_BINS_PER_COLUMN = 3
FEWEST_LATENCY_COLUMNS = 16
LAST_TICK = 97.0
"""Percent of the width from which on a label would stick out."""
NARROW_LETTER = 2.3
"""Percent of the width of a chart on a phone that a letter of a label takes."""
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400,
          28800, 43200, 86400)  # fmt: skip
_DECADES = ((0.3, (1, 2, 5)), (0.47, (1, 3)), (math.inf, (1,)))
"""Labels of a logarithmic axis, and how near each other they come, in decades; the last ones always will do."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A label beside a chart, `at` percent of its width from the left, or of its height from the top."""

    at: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing and its labels."""

    svg: str
    below: Sequence[Tick]
    beside: Sequence[Tick]


@dataclass(frozen=True, slots=True)
class Layer:
    """One colour of stacked columns."""

    style: str
    """Its CSS class."""
    values: Sequence[float]


class TimeAxis:
    """Where each bin of a timeline stands; pauses are folded to a narrow gap."""

    def __init__(self, timeline: Timeline) -> None:
        timeline.settle(rows=ROWS_PER_COLUMN, columns=ENOUGH_COLUMNS)
        self.width = timeline.width
        self._stretches: list[tuple[float, int, int]] = []  # start, first column, columns
        self.bins: list[Bin] = []
        self.folds: list[float] = []
        self.pauses: list[float] = []
        """Seconds that each fold leaves out."""
        end = 0.0
        for begin, bins in timeline.stretches():
            if self.bins:
                self.folds.append(len(self.bins) + FOLD_COLUMNS / 2)
                self.pauses.append(begin - end)
                self.bins += [Bin() for _ in range(FOLD_COLUMNS)]
            self._stretches.append((begin, len(self.bins), len(bins)))
            self.bins += bins
            end = begin + len(bins) * self.width
        self.columns = max(len(self.bins), FEWEST_COLUMNS)

    def column(self, at: float) -> float | None:
        """Where a Unix time stands; None when it lies in a fold or outside."""
        for begin, first, columns in self._stretches:
            if begin <= at <= begin + columns * self.width:
                return first + (at - begin) / self.width
        return None

    def cut_out(self) -> str:
        """What the dotted lines stand for; nothing where there are none."""
        if not self.pauses:
            return ""
        whole = duration(sum(self.pauses))
        if len(self.pauses) == 1:
            return f"a pause of {whole}, cut out"
        return f"{len(self.pauses):,} pauses, {whole} in all, cut out"

    def times(self) -> list[str]:
        """When each column began, for people."""
        words = [""] * len(self.bins)
        for begin, first, columns in self._stretches:
            for place in range(columns):
                words[first + place] = _clock(begin + place * self.width)
        return words

    def ticks(self) -> list[Tick]:
        """Time since the start; where there are several stretches, when they and their parts began."""
        if not self._stretches:
            return []
        spread = self.columns * self.width
        step = next((step for step in _STEPS if spread / step <= TICKS), math.ceil(spread / TICKS))
        if len(self._stretches) > 1:
            return self._ticks_of_stretches(step)
        begin, _, _ = self._stretches[0]
        return _apart(
            Tick(100 * number * step / spread, _span(number * step) if number else _clock(begin))
            for number in range(int(spread / step) + 1)
        )

    def _ticks_of_stretches(self, step: float) -> list[Tick]:
        """By the clock: where each begins, and within the long ones each step, as far as there is room."""
        days = {datetime.fromtimestamp(begin, UTC).date() for begin, _, _ in self._stretches}
        words = "%H:%M:%S" if len(days) == 1 else "%b %d, %H:%M"

        def tick(at: float, place: float) -> Tick:
            clock = format(datetime.fromtimestamp(at, UTC), words)
            return Tick(100 * place / self.columns, clock)

        starts = _apart(tick(begin, first) for begin, first, _ in self._stretches)
        inside = (
            tick(begin + after * step, first + after * step / self.width)
            for begin, first, columns in self._stretches
            for after in range(1, math.ceil(columns * self.width / step))
        )
        return _apart(inside, kept=starts)


def columns_over_time(
    axis: TimeAxis, layers: Sequence[Layer], words: Sequence[str], *, whole: bool = False
) -> Chart:
    """Stacked columns, one per bin; `words` are the tooltips. `whole`: of things one can count."""
    sums = [sum(values) for values in zip(*(layer.values for layer in layers), strict=True)]
    top = ceiling(max(sums, default=0.0))
    body = [_folds(axis), *_stacks(layers, top, gap=0.12 if axis.columns <= 80 else 0.0)]
    body.append(_tooltips(axis.times(), words))
    return Chart(svg=_svg(axis.columns, body), below=axis.ticks(), beside=_beside(top, whole=whole))


def area_over_time(
    axis: TimeAxis,
    values: Sequence[float],
    line: Sequence[tuple[float, float]],
    words: Sequence[str],
) -> Chart:
    """A filled outline and, as a second one, a line of steps at (Unix time, value) points."""
    top = ceiling(max([*values, *(value for _, value in line)], default=0.0))
    points = [f"M0 100V{_y(values[0], top)}" if values else "M0 100"]
    points += [f"V{_y(value, top)}H{place + 1}" for place, value in enumerate(values)]
    body = [_folds(axis), f'<path class="area" d="{"".join(points)}V100Z"/>']
    steps = [(place, value) for at, value in line if (place := axis.column(at)) is not None]
    if steps:
        (first, value), *rest = steps
        path = f"M{first:.2f} {_y(value, top)}" + "".join(
            f"H{place:.2f}V{_y(value, top)}" for place, value in rest
        )
        body.append(f'<path class="limit" d="{path}H{len(axis.bins)}"/>')
    body.append(_tooltips(axis.times(), words))
    return Chart(svg=_svg(axis.columns, body), below=axis.ticks(), beside=_beside(top))


def with_marks(chart: Chart, axis: TimeAxis, times: Iterable[float]) -> Chart:
    """The chart with a thin upright line at each of the Unix times."""
    places = [place for at in times if (place := axis.column(at)) is not None]
    lines = "".join(f'<path class="mark" d="M{place:.2f} 0V100"/>' for place in places)
    return Chart(
        svg=chart.svg.replace("</svg>", f"{lines}</svg>"), below=chart.below, beside=chart.beside
    )


def latency_columns(histogram: LatencyHistogram, marks: Sequence[float]) -> Chart:
    """How often a call took how long, on a logarithmic scale; `marks` (seconds) are upright lines."""
    if not histogram.bins:
        return Chart(svg=_svg(FEWEST_COLUMNS, []), below=(), beside=())
    group = LATENCY_BINS_PER_COLUMN
    low, high = min(histogram.bins) // group - 1, max(histogram.bins) // group + 1
    spare = max(0, FEWEST_LATENCY_COLUMNS - (high - low))
    low, high = low - spare // 2, high + spare - spare // 2  # a few like ones stand in the middle
    counts = [0] * (high - low + 1)
    for number, count in histogram.bins.items():
        counts[number // group - low] += count
    top = ceiling(max(counts))
    edges = [histogram.seconds(group * (low + place) - 0.5) for place in range(len(counts) + 1)]
    body = list(_stacks([Layer("good", counts)], top, gap=0.12))

    def place_of(seconds: float) -> float:
        return len(counts) * math.log(seconds / edges[0]) / math.log(edges[-1] / edges[0])

    shown = (mark for mark in marks if edges[0] < mark < edges[-1])
    body += [f'<path class="mark" d="M{place_of(mark):.2f} 0V100"/>' for mark in shown]
    titles = [f"{duration(a)} to {duration(b)}" for a, b in pairwise(edges)]
    body.append(_tooltips(titles, [many(count, "call") if count else "" for count in counts]))
    decades = math.log10(edges[-1] / edges[0])
    # Even steps: leaving out those of 1, 2, 5 that have no room would make them uneven.
    series = next(found for least, found in _DECADES if least / decades >= 1 / (TICKS + 2))
    below = _apart(
        Tick(100 * place_of(seconds) / len(counts), _span(seconds))
        for power in range(-3, 6)
        for seconds in (first * 10.0**power for first in series)
        if edges[0] < seconds < edges[-1]
    )
    return Chart(svg=_svg(len(counts), body), below=below, beside=_beside(top, whole=True))


def ceiling(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8, 10, 20 ... that is not smaller; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 3, 4, 5, 6, 8, 10) if value <= n * power * (1 + 1e-9))


def _stacks(layers: Sequence[Layer], top: float, *, gap: float) -> list[str]:
    """One path per layer: its columns stand on those of the layers before."""
    base = [0.0] * len(layers[0].values)
    paths = []
    for layer in layers:
        path = []
        for place, value in enumerate(layer.values):
            if value > 0:
                left, right = place + gap / 2, place + 1 - gap / 2
                low, high = _y(base[place], top), _y(base[place] + value, top)
                path.append(f"M{left:g} {low}V{high}H{right:g}V{low}Z")
                base[place] += value
        paths.append(f'<path class="{layer.style}" d="{"".join(path)}"/>')
    return paths


def _tooltips(titles: Sequence[str], words: Sequence[str]) -> str:
    return "".join(
        f'<rect class="tip" x="{place}" width="1" height="100">'
        f"<title>{escape(title)}: {escape(word)}</title></rect>"
        for place, (title, word) in enumerate(zip(titles, words, strict=False))
        if title and word
    )


def _folds(axis: TimeAxis) -> str:
    return "".join(f'<path class="fold" d="M{place:g} 0V100"/>' for place in axis.folds)


def _svg(columns: int, body: Iterable[str]) -> str:
    grid = f'<path class="grid" d="M0 0H{columns}M0 50H{columns}M0 100H{columns}"/>'
    return (
        f'<svg viewBox="0 0 {columns} 100" preserveAspectRatio="none" '
        f'aria-hidden="true">{grid}{"".join(body)}</svg>'
    )


def _y(value: float, top: float) -> str:
    return f"{100 - 100 * min(value, top) / top:.4g}"


def _beside(top: float, *, whole: bool = False) -> list[Tick]:
    middle = [] if whole and top % 2 else [Tick(50, f"{top / 2:,g}")]
    return [Tick(0, f"{top:,g}"), *middle, Tick(100, "0")]


def _apart(ticks: Iterable[Tick], *, kept: Sequence[Tick] = ()) -> list[Tick]:
    """Those `kept`, and others that neither run into one of these nor say the same; left to right."""
    found = [*kept]
    for tick in ticks:
        far_enough = all(abs(tick.at - other.at) >= 100 / (TICKS + 2) for other in found)
        is_new = all(tick.words != other.words for other in found)
        if far_enough and is_new and tick.at <= LAST_TICK:
            found.append(tick)
    return sorted(found, key=lambda tick: tick.at)


def fit_narrow(ticks: Sequence[Tick]) -> Iterator[bool]:
    """Which of them a phone has room for, from left to right."""
    end = -math.inf
    for tick in ticks:
        width = NARROW_LETTER * len(tick.words)
        begin = tick.at - width / 2 if tick.at else 0.0  # the first is not centred: see the page
        fits = begin > end
        if fits:
            end = begin + width + NARROW_LETTER
        yield fits


def _span(seconds: float) -> str:
    """A round number of seconds, short: `50ms`, `200ms`, `10s`, `5m`, `1h 30m`."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if minutes else f"{hours}h"


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}"

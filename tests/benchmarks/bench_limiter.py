"""The adaptive limiter against hidden limits, in simulated time: what it reaches, and how soon.

Each run has three parts: the limit stands, it halves, it doubles again.

Not every limit can be used up, as round trips differ. Where 10 calls a second are taken one by one,
a call that overtakes another is refused, which costs a pause of a second: 84 % is the most that any
steady pace reaches. And 5 places with replies of 30 s refuse before anything has been answered.
"""

import random
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from batch_runner.adaptive import AdaptiveLimit
from batch_runner.concurrency import Concurrency


sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_endpoint import (  # tests are not a package
    HiddenConcurrency,
    HiddenLog,
    HiddenRate,
    HiddenWindow,
    Outcome,
    Server,
    Simulation,
)


AUTO = Concurrency.parse("auto")
FASTEST = 1500.0  # calls a second: more than one process of the tool can send
CALLS_A_CELL = 250_000
MINUTE, SECOND, ANY_SECOND = "a minute", "a second", "in any second"
WINDOWS = {MINUTE: 60.0, SECOND: 1.0, ANY_SECOND: 1.0}  # in seconds
MEAN_JITTER = 0.99 * 1.15 + 0.01 * 2.15
HEADER = [
    "limit", "latency s", "Retry-After", "seeds", "goodput from 60 s", "at the end", "429s by 60 s",
    "429s", "s to 90 %", "halved: s", "doubled: s",
]  # fmt: skip


def jitter(source: random.Random) -> float:
    """How much longer than at best a way takes: some per cent, and one in a hundred much."""
    return source.uniform(1.0, 1.3) if source.random() < 0.99 else source.uniform(1.3, 3.0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One endpoint; `bucket` is None for a hidden concurrency, else its depth in seconds."""

    hidden: float
    bucket: float | str | None
    latency: float
    says_when: bool
    ways_differ: bool = True

    @property
    def round_trip(self) -> float:
        """The least."""
        return min(0.05, 0.4 * self.latency)

    @property
    def ideal(self) -> float:
        """Calls a second."""
        places = AUTO.maximum if self.bucket is not None else min(AUTO.maximum, self.hidden)
        most = places / (self.latency + self.round_trip * MEAN_JITTER)
        return most if self.bucket is None else min(self.hidden, most)

    @property
    def ideal_halved(self) -> float:
        if self.bucket is not None:
            return self.hidden / 2
        return self.ideal * (self.hidden // 2) / self.hidden

    @property
    def is_hidden(self) -> bool:
        """Whether the limit is felt at all, and by a client of this speed."""
        beyond = self.bucket is not None and self.ideal < self.hidden
        return not beyond and self.ideal <= FASTEST

    @property
    def part_seconds(self) -> float:
        return max(120.0, 20 * self.latency)

    @property
    def seeds(self) -> int:
        return max(2, min(10, int(CALLS_A_CELL / (2.5 * self.part_seconds * self.ideal))))

    @property
    def name(self) -> str:
        if self.bucket is None:
            return f"{self.hidden:g} places"
        if isinstance(self.bucket, str):
            return f"{self.hidden * WINDOWS[self.bucket]:g} {self.bucket}"
        return f"{self.hidden:g}/s, bucket {self.bucket:g} s"

    def server(self) -> Server:
        if self.bucket is None:
            return HiddenConcurrency(self.hidden)
        if self.bucket == ANY_SECOND:
            return HiddenLog(self.hidden)
        if isinstance(self.bucket, str):
            return HiddenWindow(self.hidden, WINDOWS[self.bucket])
        return HiddenRate(self.hidden, self.bucket)

    def run(self, seed: int) -> Outcome:
        source = random.Random(seed)
        server = self.server()
        simulation = Simulation(
            limit=AdaptiveLimit(AUTO),
            server=server,
            latency=lambda: self.latency * source.lognormvariate(0, 0.5) / 1.133,
            round_trip=self.round_trip,
            jitter=lambda: jitter(source) if self.ways_differ else 1.0,
            retry_after=server.retry_after if self.says_when else None,
            began=source.random() * 0.1,
        )
        part = self.part_seconds
        return simulation.run(3 * part, {part: 0.5, 2 * part: 2.0})


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one run. Goodput in shares of the ideal; None: 90 % was not reached."""

    from_60: float
    at_end: float
    refused_by_60: float
    refused: float
    found: float | None
    halved: float | None
    doubled: float | None


def figures(cell: Cell, seed: int) -> Figures:
    outcome, part, ideal = cell.run(seed), cell.part_seconds, cell.ideal
    return Figures(
        from_60=outcome.goodput(60, part) / ideal,
        at_end=outcome.goodput(3 * part - max(60.0, part / 2), 3 * part) / ideal,
        refused_by_60=outcome.refused_share(60),
        refused=outcome.refused_share(3 * part),
        found=outcome.seconds_to(0.9 * ideal, 0, part),
        halved=outcome.seconds_to(0.9 * cell.ideal_halved, part, 2 * part),
        doubled=outcome.seconds_to(0.9 * ideal, 2 * part, 3 * part),
    )


def cells() -> list[Cell]:
    limits = [(places, None) for places in (5, 20, 100, 400)]
    limits += list(product((2, 10, 50, 300), (0.1, 1.0, 60.0, *WINDOWS)))
    matrix = [
        Cell(hidden=hidden, bucket=bucket, latency=latency, says_when=says_when)
        for (hidden, bucket), latency, says_when in product(
            limits, (0.005, 0.3, 2.0, 30.0), (True, False)
        )
    ]
    return [cell for cell in matrix if cell.is_hidden]


def worst(cell: Cell) -> tuple[Cell, int, Figures]:
    """The worst of all seeds, each figure by itself."""
    runs = [figures(cell, seed) for seed in range(cell.seeds)]

    def slowest(name: str) -> float | None:
        found = [getattr(run, name) for run in runs]
        return None if None in found else max(found)

    return (
        cell,
        len(runs),
        Figures(
            from_60=min(run.from_60 for run in runs),
            at_end=min(run.at_end for run in runs),
            refused_by_60=max(run.refused_by_60 for run in runs),
            refused=max(run.refused for run in runs),
            found=slowest("found"),
            halved=slowest("halved"),
            doubled=slowest("doubled"),
        ),
    )


def line(cell: Cell, seeds: int, all_of: Figures) -> list[str]:
    def share(value: float, *, least: float = 0.0, most: float = 9.0) -> str:
        return f"{value:.1%}" if least <= value < most else f"**{value:.1%}**"

    def seconds(value: float | None, most: float) -> str:
        if value is None:
            return "**never**"
        return f"{value:.0f}" if value <= most else f"**{value:.0f}**"

    patience = max(90.0, 5 * cell.latency)
    return [
        cell.name,
        f"{cell.latency:g}",
        "yes" if cell.says_when else "no",
        str(seeds),
        share(all_of.from_60, least=0.9),
        share(all_of.at_end, least=0.9),
        share(all_of.refused_by_60, most=0.03),
        share(all_of.refused, most=0.03),
        seconds(all_of.found, patience),
        seconds(all_of.halved, patience),
        seconds(all_of.doubled, patience),
    ]


def main(only: Sequence[str]) -> None:
    chosen = [cell for cell in cells() if not only or any(part in cell.name for part in only)]
    chosen.sort(key=lambda cell: cell.ideal * cell.part_seconds, reverse=True)
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(worst, chosen))
    order = {cell: at for at, cell in enumerate(cells())}
    results.sort(key=lambda result: order[result[0]])
    lines = [line(*result) for result in results]
    out = ["\n### Adaptive limiter, worst seed of each endpoint\n", f"| {' | '.join(HEADER)} |"]
    out.append("|" + "---|" * len(HEADER))
    out += [f"| {' | '.join(cells_of_line)} |" for cells_of_line in lines]
    missed = sum("**" in "".join(cells_of_line) for cells_of_line in lines)
    median = statistics.median(all_of.from_60 for _, _, all_of in results)
    out.append(
        f"\n{len(lines)} endpoints, {missed} with a figure missed (bold); median {median:.1%}"
    )
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

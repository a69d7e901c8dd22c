"""How often the likely range holds the true total, on five made-up populations.

Run it: python tests/benchmarks/bench_estimate_coverage.py

`covered`: the range held the total. `warned`: the text cautioned of wide or heavy-tailed rows, which
the sample showed. `unseen`: it cautioned of kinds of rows not met, which no sample can show and which
is therefore said nearly always at 30 rows. `unwarned miss`: outside the range and not warned.
`silent miss`: outside the range without any caution at all.
The ceiling of a row is the largest output in its population, as `max_output_tokens` would be set.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median

from batch_runner.estimate import Caution, Range, project, sample_plan


ROWS = 5_000
POPULATIONS = 20
SAMPLES_OF_EACH = 100
SAMPLE_SIZES = (10, 30, 100)
MEDIAN_INPUT_TOKENS = 800.0


def proportional(counted: int, draw: Random) -> float:
    return 0.2 * counted * draw.lognormvariate(0, 0.3)


def square_root(counted: int, draw: Random) -> float:
    return 10 * counted**0.5 * draw.lognormvariate(0, 0.4)


def independent(_counted: int, draw: Random) -> float:
    return 300 * draw.lognormvariate(0, 0.8)


def reasoning_heavy(_counted: int, draw: Random) -> float:
    return 500 * draw.lognormvariate(0, 1.2)


def bimodal(_counted: int, draw: Random) -> float:
    usual, rare, rare_share = 100, 3_000, 0.05
    return (rare if draw.random() < rare_share else usual) * draw.lognormvariate(0, 0.1)


SHAPES: tuple[Callable[[int, Random], float], ...] = (
    proportional,
    square_root,
    independent,
    reasoning_heavy,
    bimodal,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    covered: float
    half_width: float
    warned: float
    unseen: float
    unwarned_miss: float
    silent_miss: float


def measure(shape: Callable[[int, Random], float], size: int, *, populations: int) -> Tally:
    outcomes = []
    for seed in range(populations):
        draw = Random(f"{shape.__name__} {seed}")
        counted = [
            round(MEDIAN_INPUT_TOKENS * draw.lognormvariate(0, 0.8)) + 1 for _ in range(ROWS)
        ]
        outputs = [round(shape(count, draw)) + 1 for count in counted]
        total, ceiling = sum(outputs), max(outputs)
        for trial in range(SAMPLES_OF_EACH):
            plan = sample_plan(counted, size, trial)
            estimate = project([outputs[row] for row in plan], ROWS, row_ceiling=ceiling)
            assert isinstance(estimate, Range)
            covered = estimate.low <= total <= estimate.high
            warned = Caution.WIDE in estimate.cautions or Caution.HEAVY_TAIL in estimate.cautions
            unseen = Caution.UNSEEN_KIND in estimate.cautions
            half_width = float((estimate.high - estimate.expected) / estimate.expected)
            outcomes.append((covered, half_width, warned, unseen))
    return Tally(
        covered=share(covered for covered, _, _, _ in outcomes),
        half_width=median(half_width for _, half_width, _, _ in outcomes),
        warned=share(warned for _, _, warned, _ in outcomes),
        unseen=share(unseen for _, _, _, unseen in outcomes),
        unwarned_miss=share(not (covered or warned) for covered, _, warned, _ in outcomes),
        silent_miss=share(
            not (covered or warned or unseen) for covered, _, warned, unseen in outcomes
        ),
    )


def share(flags) -> float:
    told = list(flags)
    return sum(told) / len(told)


def main(populations: int = POPULATIONS) -> None:
    out = sys.stdout
    out.write(f"{ROWS} rows, {populations * SAMPLES_OF_EACH} samples a line\n")
    out.write(
        "population       rows  covered  half-width  warned  unseen  unwarned miss  silent miss\n"
    )
    for shape in SHAPES:
        for size in SAMPLE_SIZES:
            tally = measure(shape, size, populations=populations)
            out.write(
                f"{shape.__name__:15} {size:5}  {tally.covered:7.1%}  {tally.half_width:9.1%}"
                f"  {tally.warned:6.1%}  {tally.unseen:6.1%}  {tally.unwarned_miss:13.1%}"
                f"  {tally.silent_miss:10.1%}\n"
            )


if __name__ == "__main__":
    main()

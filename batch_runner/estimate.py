"""What a run will take, told from its input and from a sample of real rows.

The sample is stratified: rows sorted by counted input tokens, cut into equally many pieces as rows
are wanted, one row drawn from each. Output mostly follows input, so neighbours in that order are
alike; this is never worse than rows drawn anywhere and up to three times closer. The longest row is a
piece of its own: in a small input it may take as much as many others, and nothing then stands for it.

Amounts are tokens, dollars or seconds: the arithmetic is the same, and all of it is Decimal.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from random import Random
from statistics import NormalDist


Amount = Decimal | int | float

FEWEST_FOR_A_RANGE = 10
CONFIDENCE = 0.95  # nominal; skewed outputs cover less, which is why the range is called "likely"
WIDE_SHARE = Decimal("0.25")
HEAVY_TAIL_RATIO = 5


class Caution(StrEnum):
    """Why the truth may lie outside a range; the value is the sentence to print."""

    FEW_ROWS = "too few sampled rows for a range: sample 30"
    WIDE = "rows differ widely: the total may lie outside the range; more samples narrow it"
    HEAVY_TAIL = "a few rows take far more than the rest: the total may lie outside the range"
    UNSEEN_KIND = "a kind of row that the sample did not meet could move the total by over 25 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A total expected from too few rows to say how far off it may be."""

    expected: Decimal
    cautions: tuple[Caution, ...] = (Caution.FEW_ROWS,)

    @property
    def upper(self) -> Decimal:
        return self.expected

    def divided(self, by: Amount) -> "Point":
        return Point(expected=self.expected / _exact(by), cautions=self.cautions)

    def less(self, taken: Amount) -> "Point":
        """What is left of the total once so much has been taken."""
        return Point(expected=self.expected - _exact(taken), cautions=self.cautions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A likely range for a total. `low` is never below what the sample itself took."""

    low: Decimal
    expected: Decimal
    high: Decimal
    cautions: tuple[Caution, ...] = ()

    @property
    def upper(self) -> Decimal:
        return self.high

    def divided(self, by: Amount) -> "Range":
        """The range of an even share: seconds of all calls by the calls at a time."""
        low, expected, high = (one / _exact(by) for one in (self.low, self.expected, self.high))
        return Range(low=low, expected=expected, high=high, cautions=self.cautions)

    def less(self, taken: Amount) -> "Range":
        """As for a point; what the sample itself took is never more than `low`."""
        low, expected, high = (one - _exact(taken) for one in (self.low, self.expected, self.high))
        return Range(low=low, expected=expected, high=high, cautions=self.cautions)


def sample_plan(input_tokens: Sequence[int], size: int, seed: int) -> list[int]:
    """Row indices to sample, in the order that `project` needs: from short inputs to long.

    All rows when there are no more than `size`.
    """
    draw = Random(seed)  # noqa: S311 -- repeatable on purpose, and no secret
    return _at_ranks(input_tokens, [draw.choice(p) for p in _strata(len(input_tokens), size)])


def project(
    sampled: Sequence[Amount], population: int, *, row_ceiling: Amount | None = None
) -> Point | Range:
    """The total over all rows, from what the sampled ones took, given in the order of the plan.

    Only known amounts: leave failed rows out. `row_ceiling` is the most one row can take; without
    one nothing limits what rows unlike any sampled could add. Raises ValueError on an empty sample.
    """
    if not sampled or len(sampled) > population:
        raise ValueError(f"{len(sampled)} sampled rows cannot stand for {population}")
    amounts = [_exact(amount) for amount in sampled]
    pieces = _strata(population, len(amounts))
    expected = sum(
        (len(piece) * amount for piece, amount in zip(pieces, amounts, strict=True)), Decimal(0)
    )
    if len(amounts) == population:
        return Range(low=expected, expected=expected, high=expected)
    if len(amounts) < FEWEST_FOR_A_RANGE:
        return Point(expected=expected)
    drawn = amounts[:-1]  # the longest row stands for itself alone, and is known
    half = _half_width(drawn, population - 1)
    return Range(
        low=max(expected - half, sum(amounts, Decimal(0))),
        expected=expected,
        high=expected + half,
        cautions=_cautions(drawn, half / population, row_ceiling, mean=expected / population),
    )


def carried_over(
    per_row: Range, rows: int, *, sampled: int, population: int | None
) -> Point | Range:
    """The total of `rows` other rows, from what one row of a sample's population takes.

    They are taken for rows as alike as those were: of a population that was drawn from, this is what
    the sample has left. A sample that was all of its population tells nothing of how others scatter.
    `population` None: not known, and far larger than the sample.
    """
    expected = per_row.expected * rows
    known = Decimal(1) / sampled - (Decimal(1) / population if population else 0)
    if known <= 0:
        return Point(expected=expected, cautions=())
    # The mean of others strays from that of the sample by the scatter of both.
    wider = ((Decimal(1) / sampled + Decimal(1) / rows) / known).sqrt()
    half = (per_row.high - per_row.expected) * wider * rows
    return Range(
        low=max(expected - half, Decimal(0)),
        expected=expected,
        high=expected + half,
        cautions=per_row.cautions,
    )


def left_to_pay(
    usd: Point | Range | None, costs: list[Decimal], *, population: int, left: int
) -> Point | Range | None:
    """Of what all rows cost, the part that the sample has not paid."""
    if usd is None or not left:
        return None
    rest = usd.less(sum(costs, Decimal(0)))
    # Rows that ended without a known cost are among those that were projected.
    return rest.divided(Decimal(population - len(costs)) / left)


def in_doubt(most: Sequence[Amount], amount: Point | Range | None, *, population: int) -> Decimal:
    """What is to be added to the upper end of `amount`, each row, if sampled rows took their most."""
    if amount is None or not most:
        return Decimal(0)
    return max(Decimal(0), project(most, population).upper - amount.upper) / population


def not_below(amount: Point | Range, least: Decimal) -> Point | Range:
    expected = max(amount.expected, least)
    if isinstance(amount, Point):
        return replace(amount, expected=expected)
    return replace(
        amount, low=max(amount.low, least), expected=expected, high=max(amount.high, least)
    )


def overhead(actual: Sequence[int], counted: Sequence[int], *, population: int) -> Decimal:
    """Input tokens to add to each counted row, from rows that were really sent. 0 without rows.

    Both in the order of the plan. Their mean, as rows stand for others: a few may differ by more than
    all the rest (long ones, those with an image), and all rows give the total that they took.
    """
    differences = [real - guess for real, guess in zip(actual, counted, strict=True)]
    return project(differences, population).expected / population if differences else Decimal(0)


def describe(estimate: Point | Range, show: Callable[[Decimal], str]) -> str:
    """The estimate in words."""
    if isinstance(estimate, Range) and show(estimate.low) != show(estimate.high):
        low, expected, high = map(show, (estimate.low, estimate.expected, estimate.high))
        return f"likely range {low} to {high}, expected {expected}"
    return f"about {show(estimate.expected)}"


def _at_ranks(amounts: Sequence[int], ranks: Iterable[int]) -> list[int]:
    """Indices of the amounts at ascending ranks, equal ones ranked by index.

    Sorting all would take 36 bytes a row; this takes what the different amounts take.
    """
    waiting = iter(ranks)
    rank = next(waiting, None)
    before = 0
    wanted: dict[int, list[int]] = {}  # amount -> which of the equal ones
    for amount, times in sorted(Counter(amounts).items()):
        while rank is not None and rank < before + times:
            wanted.setdefault(amount, []).append(rank - before)
            rank = next(waiting, None)
        before += times
    seen = dict.fromkeys(wanted, 0)
    found: dict[int, list[int]] = {amount: [] for amount in wanted}
    for index, amount in enumerate(amounts):
        if amount in wanted:
            if seen[amount] in wanted[amount]:
                found[amount].append(index)
            seen[amount] += 1
    return [index for indices in found.values() for index in indices]


def _strata(population: int, size: int) -> list[range]:
    """`size` pieces of nearly equal length; as many as there are rows when those are fewer.

    Where they are enough for a range, the last row is one alone.
    """
    size = min(size, population)
    alone = size >= FEWEST_FOR_A_RANGE
    rest, pieces = population - alone, size - alone
    cuts = [rest * number // pieces for number in range(pieces + 1)] if pieces else []
    return [
        *(range(start, stop) for start, stop in pairwise(cuts)),
        *[range(rest, population)] * alone,
    ]


def _half_width(amounts: Sequence[Decimal], population: int) -> Decimal:
    """Half the interval of the total, by successive differences.

    Neighbours come from neighbouring strata, so their differences show the scatter within strata
    without the trend across them (Wolter, Introduction to Variance Estimation, chapter 8, estimator v2).
    """
    size = len(amounts)
    squares = sum(((one - next_) ** 2 for one, next_ in pairwise(amounts)), Decimal(0))
    variance_of_mean = squares / (2 * (size - 1) * size) * (population - size) / population
    return _exact(_t_quantile(size - 1)) * variance_of_mean.sqrt() * population


def _t_quantile(freedom: int) -> float:
    """Two-sided Student's t at CONFIDENCE, within 0.0005 from 8 degrees of freedom on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _cautions(
    amounts: Sequence[Decimal],
    half_per_row: Decimal,
    row_ceiling: Amount | None,
    *,
    mean: Decimal,
) -> tuple[Caution, ...]:
    found = []
    if half_per_row > WIDE_SHARE * mean:
        found.append(Caution.WIDE)
    if max(amounts) > HEAVY_TAIL_RATIO * mean:
        found.append(Caution.HEAVY_TAIL)
    # Rule of three: at 95 %, a kind of row that n rows did not show has a share below 3/n.
    unseen_share = Decimal(3) / len(amounts)
    if row_ceiling is None or unseen_share * (_exact(row_ceiling) - mean) > WIDE_SHARE * mean:
        found.append(Caution.UNSEEN_KIND)
    return tuple(found)


def _exact(amount: Amount) -> Decimal:
    return amount if isinstance(amount, Decimal) else Decimal(amount)

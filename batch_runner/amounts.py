"""Amounts as people read them: time, counts, shares, dollars, tokens."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_UP, Decimal
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from batch_runner.bill import Tokens


def duration(seconds: float) -> str:
    """`412ms`, `2.1s`, `41s`, `12m 41s`, `3h 05m`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def count(number: float) -> str:
    """`812`, `18.2k`, `31.2M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= 0.9995 * size:  # what would round up to the unit has it
            scaled = number / (1e3 if unit == "k" else size)
            return f"{scaled:#.3g}".rstrip(".") + unit
    return f"{number:,.0f}"


def pace(rows_per_second: float) -> str:
    """`41.0 rows/s`, or `12 rows/min` for slow ones."""
    if 0 < rows_per_second < 0.95:
        return f"{60 * rows_per_second:.2g} rows/min"
    return f"{rows_per_second:.1f} rows/s"


def many(number: int, noun: str) -> str:
    """`1 row`, `20,000 rows`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def some_of(names: Sequence[str], most: int = 4) -> str:
    """`a, b, c, d, 3 more`."""
    more = len(names) - most
    return ", ".join([*names[:most], *([f"{more:,} more"] if more > 0 else [])])


def commonest(counts: Mapping[str, int], most: int | None = None) -> list[tuple[str, int]]:
    """What there is most of comes first, equals by name: the same numbers always read the same."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]


def percent(part: int, whole: int) -> str:
    """`67%`; 100% only when nothing is missing."""
    rounded = round(100 * part / whole) if whole else 100
    return f"{min(rounded, 99) if part < whole else rounded}%"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds a rest away: 99.99 % is not 100."""
    if not whole:
        return "none"
    exact = 100 * part / whole
    if 99.9 < exact < 100:
        return "99.9%"
    return f"{exact:.1f}%" if 0 < exact < 100 else f"{exact:.0f}%"


def dollars(amount: Decimal | None, places: int | None = None) -> str:
    """`$8.43`; small amounts keep three significant digits, or `places`; `unknown` for None."""
    return "unknown" if amount is None else _dollars(amount, ROUND_HALF_EVEN, places)


def dollars_at_most(amount: Decimal | None, places: int | None = None) -> str:
    """Like `dollars`, rounded up: a bound must not be rounded down. `no bound` for None."""
    return "no bound" if amount is None else _dollars(amount, ROUND_UP, places)


def dollars_at_least(amount: Decimal | None, places: int | None = None) -> str:
    """Likewise, rounded down: so are all costs that are known, beside bounds or without any."""
    return "unknown" if amount is None else _dollars(amount, ROUND_DOWN, places)


def _dollars(amount: Decimal, rounding: str, places: int | None) -> str:
    if places is None:
        places = decimals(amount, rounding)
        amount = _rounded(amount, rounding)
    return f"${amount.quantize(Decimal(1).scaleb(-places), rounding=rounding):,.{places}f}"


def decimals(amount: Decimal, rounding: str) -> int:
    """How many are shown of an amount: cents; of less than a dollar as many as show three digits."""
    return _places(_rounded(amount, rounding))


def _rounded(amount: Decimal, rounding: str) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-_places(amount)), rounding=rounding)


def _places(amount: Decimal) -> int:
    return max(2, 2 - amount.adjusted()) if 0 < amount < 1 else 2


def tokens_in_words(tokens: "Tokens") -> str:
    """`in 31.2M (cached 22.0M)  out 2.41M (reasoning 900k)`."""
    cached = f" (cached {count(tokens.cached)})" if tokens.cached else ""
    reasoning = f" (reasoning {count(tokens.reasoning)})" if tokens.reasoning else ""
    unknown = f"  not reported for {many(tokens.unreported, 'call')}" if tokens.unreported else ""
    return f"in {count(tokens.input)}{cached}  out {count(tokens.output)}{reasoning}{unknown}"

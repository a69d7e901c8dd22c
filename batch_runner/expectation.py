"""What the last `estimate --sample` said of a job, kept in its run directory for later runs and estimates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Self

from batch_runner.atomic import publish
from batch_runner.estimate import Caution, Point, Range, carried_over


FILE_NAME = "estimate.json"
_YEAR_3000 = 32_503_680_000
SPARE_SHARE = Decimal("0.1")
"""The rows of a file's beginning are no fair sample of it: a little outside is no news."""
FEWEST_ROWS = 30
"""Finished before a mean is held against the estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The likely range of a row's cost."""

    fingerprint: str
    """Of the job that was estimated: another prompt says nothing about this one."""
    sampled: int
    low: Decimal
    expected: Decimal
    high: Decimal
    """Dollars a row."""
    in_doubt: Decimal = Decimal(0)
    """What attempts of unknown billing may add to `high`."""
    cautions: tuple[Caution, ...] = ()
    population: int | None = None
    """The rows to send that the sample was drawn from; None in one of an earlier batch_runner."""
    at: float | None = None
    """Unix time of the sample."""

    def total(self, rows: int) -> Point | Range:
        """What rows like those that were sampled will take, in dollars."""
        per_row = Range(
            low=self.low, expected=self.expected, high=self.high, cautions=self.cautions
        )
        return carried_over(per_row, rows, sampled=self.sampled, population=self.population)

    def strays(self, spent: Decimal, rows: int) -> bool:
        """True when `rows` rows that cost `spent` are well outside the range, and enough to tell."""
        if rows < max(FEWEST_ROWS, self.sampled):
            return False
        spare = SPARE_SHARE * self.expected
        return not self.low - spare <= spent / rows <= self.high + spare

    def to_json(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "sampled_rows": self.sampled,
            "usd_per_row": {
                "low": str(self.low),
                "expected": str(self.expected),
                "high": str(self.high),
                "in_doubt": str(self.in_doubt),
            },
            "cautions": [caution.name for caution in self.cautions],
            "population": self.population,
            "at": self.at,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError or InvalidOperation for anything else."""
        per_row = fields["usd_per_row"]
        found = cls(
            fingerprint=fields["fingerprint"],
            sampled=int(fields["sampled_rows"]),
            low=Decimal(per_row["low"]),
            expected=Decimal(per_row["expected"]),
            high=Decimal(per_row["high"]),
            in_doubt=Decimal(per_row.get("in_doubt", 0)),
            cautions=tuple(Caution[name] for name in fields.get("cautions", ())),
            population=None if (rows := fields.get("population")) is None else int(rows),
            at=None if (at := fields.get("at")) is None else float(at),
        )
        dollars = (found.low, found.expected, found.high, found.in_doubt)
        if found.sampled < 1 or not all(map(Decimal.is_finite, dollars)):
            raise ValueError("no sample says that")
        if found.at is not None and not 0 <= found.at < _YEAR_3000:
            raise ValueError("no clock says that")
        return found


def remember(expectation: Expectation, run_path: Path) -> None:
    """The run directory, which exists, holds the expectation."""
    with publish(run_path / FILE_NAME, mode=0o600) as file:
        file.write(json.dumps(expectation.to_json(), indent=2).encode() + b"\n")


def recall(run_path: Path, *, fingerprint: str) -> Expectation | None:
    """None when there is none for this job: it is a convenience, so a damaged one counts as none."""
    try:
        found = Expectation.from_json(json.loads((run_path / FILE_NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, InvalidOperation):
        return None
    return found if found.fingerprint == fingerprint else None

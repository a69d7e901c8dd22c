"""Keeps the cost of a run under `max_cost`: what calls in flight may cost is set aside first."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True)
class _Reservation:
    amount: Decimal
    calls: int = 1
    """That may be billed: the first, and each repeat after one that was perhaps billed."""


class Budget:
    """Dollars: a limit, what is spent, and what is set aside for calls in flight.

    A call, and a repeat of one that may have been billed, begins only while the most it can cost
    still fits. So a run of calls that have a ceiling ends at or below its limit. A call without one
    is taken to cost as much as the dearest so far, and the first such call is waited for.
    """

    def __init__(self, limit: Decimal) -> None:
        self.limit = limit
        self.spent = Decimal(0)
        self.reserved = Decimal(0)
        self._reservations: dict[bytes, _Reservation] = {}
        self._dearest: Decimal | None = None

    @property
    def in_flight(self) -> int:
        return len(self._reservations)

    def fits(self, ceiling: Decimal | None) -> bool:
        """Whether one more row may begin."""
        if ceiling is None and self._dearest is None and self._reservations:
            return False  # nothing is known of such calls until the first one is over
        return self.spent + self.reserved + self.guess(ceiling) <= self.limit

    def reserve(self, key: bytes, ceiling: Decimal | None) -> None:
        amount = self.guess(ceiling)
        self._reservations[key] = _Reservation(amount)
        self.reserved += amount

    def allows(self, key: bytes, ceiling: Decimal | None, *, maybe_billed: int) -> bool:
        """Whether the next attempt of a row may begin, after `maybe_billed` that may have cost money.

        What it may cost is set aside then.
        """
        reservation = self._reservations.get(key)
        if reservation is None or maybe_billed < reservation.calls:
            return True
        if not self.fits(ceiling):
            return False
        amount = self.guess(ceiling)
        reservation.amount += amount
        reservation.calls = maybe_billed + 1
        self.reserved += amount
        return True

    def settle(self, key: bytes, cost: Decimal, *, unbounded: int = 0) -> None:
        """The row is over: it cost `cost` at most, and `unbounded` calls of it nobody knows what."""
        self.release(key)
        self.spent += cost + unbounded * self.guess(None)
        self._dearest = max(self._dearest or Decimal(0), cost)

    def release(self, key: bytes) -> None:
        """The row is over and cost nothing."""
        if reservation := self._reservations.pop(key, None):
            self.reserved -= reservation.amount

    def guess(self, ceiling: Decimal | None) -> Decimal:
        """What a call is taken to cost."""
        return (self._dearest or Decimal(0)) if ceiling is None else ceiling

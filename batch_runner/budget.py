"""Keeps the cost of a run under `max_cost`: what calls in flight may cost is set aside first."""

from decimal import Decimal


class Budget:
    """Dollars: a limit, what is spent, and what is set aside for calls in flight.

    A call is only begun when its ceiling still fits, so a run ends at or below its limit unless
    calls are repeated, or have no ceiling; `overshoot` bounds that.
    """

    def __init__(self, limit: Decimal, *, spent: Decimal = Decimal(0)) -> None:
        self.limit = limit
        self.spent = spent
        self._reserved: dict[bytes, Decimal] = {}
        self._largest = Decimal(0)

    @property
    def reserved(self) -> Decimal:
        return sum(self._reserved.values(), Decimal(0))

    @property
    def in_flight(self) -> int:
        return len(self._reserved)

    def fits(self, ceiling: Decimal | None) -> bool:
        """Whether one more call may begin. Without a ceiling the largest cost seen stands for it."""
        return self.spent + self.reserved + self._guess(ceiling) <= self.limit

    def reserve(self, key: bytes, ceiling: Decimal | None) -> None:
        self._reserved[key] = self._guess(ceiling)

    def settle(self, key: bytes, cost: Decimal) -> None:
        """The call is over; `cost` is what it certainly or possibly cost."""
        self._reserved.pop(key, None)
        self.spent += cost
        self._largest = max(self._largest, cost)

    def overshoot(self, repeats: int) -> Decimal:
        """The most by which the limit can be passed when each call in flight is repeated so often."""
        return self.reserved * repeats

    def _guess(self, ceiling: Decimal | None) -> Decimal:
        return self._largest if ceiling is None else ceiling

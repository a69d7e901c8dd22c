"""What a run spends while it lasts: rows are admitted, repeats allowed, surprises told once."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

import anyio

from batch_runner.amounts import dollars, dollars_at_most, many
from batch_runner.bill import Biller, is_priced
from batch_runner.budget import Budget
from batch_runner.errors import GO_ON, RunStoppedError, UsageError
from batch_runner.expectation import Expectation
from batch_runner.pricing import price_advice
from batch_runner.records import Request, RowResult
from batch_runner.tally import Tally


_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 1.0
"""Of waiting for money, all rows together, before it is worth a word."""
_CHECK_EVERY_ROWS = 20
_NEARLY = Decimal("0.8")


@dataclass(kw_only=True)
class Spending:
    """The money of one run. `stop` is told when the budget is used up."""

    biller: Biller
    tally: Tally
    rows: int
    """To be sent by this run."""
    budget: Budget | None
    expectation: Expectation | None
    stop: Callable[[RunStoppedError], None]
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("batch_runner"))
    _settled: tuple[Decimal, int] = (Decimal(0), 0)
    """Of the tally's bill, what was settled so far: dollars, and calls that nothing bounds."""
    _repeats_waiting: int = 0
    _next_call: Decimal = Decimal(0)
    """What the row that was last admitted, or waits to be, may cost."""
    _polls: int = 0
    """While a row waited for money."""
    _told_slow: bool = False
    _told_nearly: bool = False
    _told_astray: bool = False

    @property
    def rows_covered(self) -> int | None:
        """After how many rows of this run the limit ends it, at their cost so far; None: it does not."""
        budget, done = self.budget, self.tally.finished
        if budget is None or not done or not budget.spent:
            return None
        room = max(Decimal(0), budget.limit - budget.spent - self._next_call)
        covered = done + 1 + int(room * done / budget.spent)
        return covered if covered < self.rows else None

    async def admit(self, request: Request) -> bool:
        """Money is set aside for the row; False when there is none left, and the run is told."""
        if self.budget is None:
            return True
        ceiling = self._ceiling(request)
        self._next_call = self.budget.guess(ceiling)
        while self._repeats_waiting or not self.budget.fits(ceiling):
            if not self.budget.in_flight:
                self._stop(self.budget, ceiling)
                return False
            self._tell_of_waiting(self.budget, ceiling)
            await anyio.sleep(_POLL_SECONDS)
        self.budget.reserve(request.key, ceiling)
        return True

    async def allows(self, request: Request, maybe_billed: int) -> bool:
        """Whether the row's next attempt may be sent, after so many that may have cost money.

        Calls in flight mostly cost less than was set aside for them: a repeat waits for what they
        give back, before any new row.
        """
        if self.budget is None:
            return True
        ceiling = self._ceiling(request)
        self._repeats_waiting += 1
        try:
            while not self.budget.allows(request.key, ceiling, maybe_billed=maybe_billed):
                if self._repeats_waiting >= self.budget.in_flight:  # nobody is left to give back
                    self._stop(self.budget, ceiling)
                    return False
                await anyio.sleep(_POLL_SECONDS)
        finally:
            self._repeats_waiting -= 1
        return True

    def given_up(self, request: Request) -> None:
        """The row ended without a trace."""
        if self.budget is not None:
            self.budget.release(request.key)

    def settle(self, result: RowResult) -> None:
        """The row has ended and is in the tally."""
        if self.budget is not None:
            bounded, unbounded = self._settled
            bill = self.tally.bill
            self._settled = bill.bounded, bill.unbounded
            self.budget.settle(
                result.key, bill.bounded - bounded, unbounded=bill.unbounded - unbounded
            )
            self._warn_of_budget(self.budget)
        if self.tally.finished % _CHECK_EVERY_ROWS == 0:
            self._warn_of_estimate()

    def _ceiling(self, request: Request) -> Decimal | None:
        return self.biller.ceiling(
            request.model, request.input_bound_bytes, request.max_output_tokens, at=time.time()
        )

    def _stop(self, budget: Budget, ceiling: Decimal | None) -> None:
        held, next_call = budget.reserved, dollars_at_most(budget.guess(ceiling))
        set_aside = f", has set {dollars(held)} aside for calls in flight" if held else ""
        words = (
            f"max_cost {dollars(budget.limit)} does not cover another call: this run has spent "
            f"{dollars(budget.spent)}{set_aside}, and the next call may cost {next_call}"
        )
        way_out = f"each run counts its own spending; {GO_ON}"
        if budget.guess(ceiling) > budget.limit:
            words = f"max_cost {dollars(budget.limit)} is less than one call may cost: {next_call}"
            way_out = "run again with a higher --max-cost or a lower max_output_tokens to go on"
        self.stop(RunStoppedError(words, hint=way_out))

    def _tell_of_waiting(self, budget: Budget, ceiling: Decimal | None) -> None:
        """Places are free, and the row waits for money: else the run would only look slow."""
        self._polls += 1
        each = budget.guess(ceiling)  # zero while the first call of unknown cost is waited for
        if self._told_slow or not each or self._polls * _POLL_SECONDS < _PATIENCE_SECONDS:
            return
        self._told_slow = True
        self.log.warning(
            "max_cost %s slows this run down: %s is spent and %s set aside for %s in flight, so the "
            "next call waits for one of them; N at a time need a max_cost of N x %s above the cost",
            dollars(budget.limit), dollars(budget.spent), dollars(budget.reserved),
            many(budget.in_flight, "call"), dollars_at_most(each),
            extra={"event": "budget_holds_back"},
        )  # fmt: skip

    def _warn_of_budget(self, budget: Budget) -> None:
        if self._told_nearly or budget.spent < _NEARLY * budget.limit:
            return
        self._told_nearly = True
        self.log.warning(
            "%s of max_cost %s is spent, after %s of %s rows",
            dollars(budget.spent), dollars(budget.limit), f"{self.tally.finished:,}", f"{self.rows:,}",
            extra={"event": "budget_nearly_spent"},
        )  # fmt: skip

    def _warn_of_estimate(self) -> None:
        expected, spent, done = self.expectation, self.tally.bill.listed, self.tally.finished
        if (
            expected is None
            or spent is None
            or self._told_astray
            or not expected.strays(spent, done)
        ):
            return
        self._told_astray = True
        self.log.warning(
            "rows cost %s each so far, outside the estimate's likely range of %s to %s: "
            "at this rate this run costs %s instead of %s",
            dollars(spent / done), dollars(expected.low), dollars(expected.high),
            dollars(spent / done * self.rows), dollars(expected.expected * self.rows),
            extra={"event": "outside_estimate"},
        )  # fmt: skip


def check_prices(requests: Iterable[Request], biller: Biller, *, origin: str) -> bool:
    """Whether something bounds the cost of each call. Raises UsageError for a model without a price."""
    is_bounded = True
    for request in requests:
        if not is_priced(biller.prices, request.model):
            raise UsageError(
                f"{origin}: limits.max_cost: no price is known for {request.model!r}, so the "
                "limit could not be kept",
                hint=f"{price_advice(request.model)}, or drop max_cost",
            )
        ceiling = biller.ceiling(
            request.model, request.input_bound_bytes, request.max_output_tokens
        )
        is_bounded &= ceiling is not None
    return is_bounded


def budget_in_words(limit: Decimal, *, is_bounded: bool) -> str:
    """How a run keeps to its limit, for the line at its start."""
    words = f"max_cost {dollars(limit)} for this run: "
    if is_bounded:
        return words + "a call begins only if the most it can cost still fits"
    return words + (
        "nothing bounds what a call costs (no max_output_tokens, or images, files, hosted tools), "
        "so each sets aside what the dearest so far cost; the limit may be passed by what calls "
        "in flight cost beyond that"
    )

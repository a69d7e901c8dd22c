"""What a run cost: known, unknown, and at most. Unknown is never folded into zero."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from batch_runner.pricing import Doubt, PriceBook
from batch_runner.records import Billed, Completion, RowResult, UnknownBilling, Usage


CEILING_OVERHEAD_TOKENS = 64
"""Tokens a server may add around a request; a token is never less than one byte of it."""


@dataclass(slots=True, kw_only=True)
class Tokens:
    """Sums of the counts that were reported."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    unreported: int = 0
    """Answered attempts whose input or output count did not come back."""

    def add(self, usage: Usage) -> None:
        self.input += usage.input_tokens or 0
        self.cached += usage.cached_tokens or 0
        self.output += usage.output_tokens or 0
        self.reasoning += usage.reasoning_tokens or 0
        self.unreported += usage.input_tokens is None or usage.output_tokens is None

    def merge(self, other: "Tokens") -> None:
        self.input += other.input
        self.cached += other.cached
        self.output += other.output
        self.reasoning += other.reasoning
        self.unreported += other.unreported


@dataclass(slots=True, kw_only=True)
class Bill:
    """Calls, tokens and dollars of any number of rows; bills add up by `merge`."""

    calls: int = 0
    """HTTP attempts sent."""
    answered: int = 0
    """Attempts whose usage came back."""
    tokens: Tokens = field(default_factory=Tokens)
    answers: Decimal = Decimal(0)
    """Dollars of the attempts that gave rows their answers."""
    failures: Decimal = Decimal(0)
    """Dollars of the other attempts whose usage came back."""
    unpriced: int = 0
    """Answered attempts without a price or a needed count: their cost is unknown."""
    unknown: Counter[UnknownBilling] = field(default_factory=Counter)
    """Attempts whose usage never came back."""
    unknown_at_most: Decimal = Decimal(0)
    """What those may have cost, as far as it is bounded."""
    unbounded: int = 0
    """Attempts of unknown billing whose cost has no bound: no max_output_tokens, or no price."""
    doubts: Counter[Doubt] = field(default_factory=Counter)

    @property
    def at_least(self) -> Decimal | None:
        """Dollars certainly spent; None when nothing that was answered has a price."""
        if self.answered and self.unpriced == self.answered:
            return None
        return self.answers + self.failures

    @property
    def at_most(self) -> Decimal | None:
        """Dollars that can have been spent; None when that has no bound."""
        if self.unpriced or self.unbounded or self.at_least is None:
            return None
        return self.at_least + self.unknown_at_most

    @property
    def unknown_calls(self) -> int:
        return self.unknown.total()

    def merge(self, other: "Bill") -> None:
        self.calls += other.calls
        self.answered += other.answered
        self.tokens.merge(other.tokens)
        self.answers += other.answers
        self.failures += other.failures
        self.unpriced += other.unpriced
        self.unknown += other.unknown
        self.unknown_at_most += other.unknown_at_most
        self.unbounded += other.unbounded
        self.doubts += other.doubts

    def to_json(self) -> dict[str, Any]:
        """Dollars as numbers of nine decimals at least, exact in text form beside them."""
        return {
            "calls_sent": self.calls,
            "calls_answered": self.answered,
            "calls_unknown": {str(cause): n for cause, n in sorted(self.unknown.items())},
            "tokens": {
                "input": self.tokens.input,
                "cached": self.tokens.cached,
                "output": self.tokens.output,
                "reasoning": self.tokens.reasoning,
                "unreported_calls": self.tokens.unreported,
            },
            "cost_usd_at_least": _money(self.at_least),
            "cost_usd_at_most": _money(self.at_most),
            "cost_usd_failed_attempts": _money(self.failures),
            "unpriced_calls": self.unpriced,
            "doubts": {doubt.name.lower(): n for doubt, n in sorted(self.doubts.items())},
        }


class Biller:
    """Prices results, attempt by attempt."""

    def __init__(self, prices: PriceBook) -> None:
        self.prices = prices

    def cost(self, result: RowResult) -> Decimal | None:
        """Dollars of all attempts with known usage; None when one of them has no price."""
        total = Decimal(0)
        for billed in result.billed:
            dollars = self.prices.cost(billed, asked=result.asked_model)
            if dollars is None:
                return None
            total += dollars
        return total if result.billed else None

    def add(self, bill: Bill, result: RowResult) -> None:
        """`bill` has the result's calls, tokens and dollars added."""
        bill.calls += result.attempts
        has_answer = isinstance(result.ending, Completion)
        for position, billed in enumerate(result.billed):
            is_answer = has_answer and position == len(result.billed) - 1
            self._add_billed(bill, billed, asked=result.asked_model, is_answer=is_answer)
        for cause, attempts in result.unknown.items():
            self.add_unknown(
                bill,
                cause,
                attempts=attempts,
                model=result.asked_model or result.model or "",
                request_bytes=result.request_bytes,
                max_output_tokens=result.max_output_tokens,
                at=result.started_at,
            )

    def add_unknown(
        self,
        bill: Bill,
        cause: UnknownBilling,
        *,
        attempts: int,
        model: str,
        request_bytes: int | None,
        max_output_tokens: int | None,
        at: float | None,
    ) -> None:
        """`bill` has attempts added whose usage never came back. Does not count them as calls."""
        bill.unknown[cause] += attempts
        ceiling = self.ceiling(model, request_bytes, max_output_tokens, at=at)
        if ceiling is None:
            bill.unbounded += attempts
        else:
            bill.unknown_at_most += ceiling * attempts

    def ceiling(
        self,
        model: str,
        request_bytes: int | None,
        max_output_tokens: int | None,
        *,
        at: float | None = None,
        service_tier: str | None = None,
    ) -> Decimal | None:
        """The most that one call can cost; None when nothing bounds it."""
        if request_bytes is None:
            return None
        return self.prices.ceiling(
            model=model,
            input_tokens=request_bytes + CEILING_OVERHEAD_TOKENS,
            max_output_tokens=max_output_tokens,
            service_tier=service_tier,
            at=at,
        )

    def _add_billed(
        self, bill: Bill, billed: Billed, *, asked: str | None, is_answer: bool
    ) -> None:
        bill.answered += 1
        bill.tokens.add(billed.usage)
        quote = self.prices.quote(billed, asked=asked)
        bill.doubts.update(quote.doubts)
        if quote.dollars is None:
            bill.unpriced += 1
        elif is_answer:
            bill.answers += quote.dollars
        else:
            bill.failures += quote.dollars


def _money(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def is_priced(prices: PriceBook, model: str) -> bool:
    return prices.resolve(model, at=None) is not None


def source_of(prices: PriceBook, models: Mapping[str, int]) -> str | None:
    """Where the prices of the models come from, as one line; None when none has a price."""
    sources = {match.source for model in models if (match := prices.resolve(model, at=None))}
    return ", ".join(sorted(sources)) or None

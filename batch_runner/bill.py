"""What a run cost: known, unknown, and at most. Unknown is never folded into zero."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from batch_runner.job import JobSpec, PriceSpec
from batch_runner.pricing import Doubt, PriceBook, Quote
from batch_runner.records import Billed, Completion, RowResult, UnknownBilling, Usage
from batch_runner.stored import Told


CEILING_OVERHEAD_TOKENS = 64
"""Tokens a server may add around a request; a token is never less than one byte of it."""


class Lost(Protocol):
    """A call that was begun and whose end nothing tells: the journal's `Intent`."""

    @property
    def model(self) -> str: ...
    @property
    def request_bytes(self) -> int | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    @property
    def cause(self) -> UnknownBilling: ...


@dataclass(slots=True, kw_only=True)
class Tokens:
    """Sums of the counts that were reported."""

    input: int = 0
    cached: int | None = None
    """None: not reported by any attempt, which is never zero."""
    output: int = 0
    reasoning: int | None = None
    """Likewise."""
    unreported: int = 0
    """Answered attempts whose input or output count did not come back."""

    def add(self, usage: Usage) -> None:
        self.input += usage.input_tokens or 0
        self.cached = _plus(self.cached, usage.cached_tokens)
        self.output += usage.output_tokens or 0
        self.reasoning = _plus(self.reasoning, usage.reasoning_tokens)
        self.unreported += usage.input_tokens is None or usage.output_tokens is None

    def merge(self, other: "Tokens") -> None:
        self.input += other.input
        self.cached = _plus(self.cached, other.cached)
        self.output += other.output
        self.reasoning = _plus(self.reasoning, other.reasoning)
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
    """Dollars of the attempts that gave rows their answers, at list price."""
    failures: Decimal = Decimal(0)
    """Dollars of the other attempts whose usage came back."""
    perhaps_less: Decimal = Decimal(0)
    """By how much those two may be too high: input read from a cache that was not reported."""
    perhaps_more: Decimal = Decimal(0)
    """By how much they may be too low: cache writes that were not reported."""
    unpriced: int = 0
    """Answered attempts without a price or a needed count: their cost is unknown."""
    unknown: Counter[UnknownBilling] = field(default_factory=Counter)
    """Attempts whose usage never came back."""
    unknown_at_most: Decimal = Decimal(0)
    """What attempts of unknown cost or billing may have cost, as far as it is bounded."""
    unbounded: int = 0
    """Attempts of unknown cost that nothing bounds: no max_output_tokens, images, or no price."""
    doubtful: int = 0
    """Answered attempts at rates that may be too low: another tier's, or those of a fine-tune's base."""
    doubts: Counter[Doubt] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    """Attempts by the price list entry that priced them."""

    @property
    def listed(self) -> Decimal | None:
        """Dollars at list price for what was reported; None when nothing answered has a price."""
        if self.answered and self.unpriced == self.answered:
            return None
        return self.answers + self.failures

    @property
    def at_least(self) -> Decimal | None:
        """Dollars certainly spent; None when nothing that was answered has a price."""
        return None if self.listed is None else self.listed - self.perhaps_less

    @property
    def at_most(self) -> Decimal | None:
        """Dollars that can have been spent; None when that has no bound."""
        if self.unbounded or self.doubtful:
            return None
        return self.bounded

    @property
    def bounded(self) -> Decimal:
        """Dollars that the calls with a bound can have cost, at the rates that were taken."""
        return self.answers + self.failures + self.perhaps_more + self.unknown_at_most

    def bound(self, ceiling: Decimal | None, *, calls: int = 1) -> None:
        """Calls of unknown cost are added, each of which cost at most `ceiling`."""
        if ceiling is None:
            self.unbounded += calls
        else:
            self.unknown_at_most += ceiling * calls

    @property
    def unknown_calls(self) -> int:
        return self.unknown.total()

    @property
    def tokens_told(self) -> tuple[int | None, int | None]:
        """Tokens in and out; None where there were calls that may have taken some, and none told."""
        untold = self.unknown_calls + self.tokens.unreported
        if untold and self.answered == self.tokens.unreported:
            return self.tokens.input or None, self.tokens.output or None
        return self.tokens.input, self.tokens.output

    def merge(self, other: "Bill") -> None:
        self.calls += other.calls
        self.answered += other.answered
        self.tokens.merge(other.tokens)
        self.answers += other.answers
        self.failures += other.failures
        self.perhaps_less += other.perhaps_less
        self.perhaps_more += other.perhaps_more
        self.unpriced += other.unpriced
        self.unknown_at_most += other.unknown_at_most
        self.unbounded += other.unbounded
        self.doubtful += other.doubtful
        # Most bills are those of one row, and nearly always empty here.
        if other.unknown:
            self.unknown += other.unknown
        if other.doubts:
            self.doubts += other.doubts
        if other.sources:
            self.sources += other.sources

    def to_json(self) -> dict[str, Any]:
        """Dollars as numbers, and once more as text, which is exact."""
        tokens_in, tokens_out = self.tokens_told
        return {
            "calls_sent": self.calls,
            "calls_answered": self.answered,
            "calls_unknown": {str(cause): n for cause, n in sorted(self.unknown.items())},
            "tokens": {
                "input": tokens_in,
                "cached": self.tokens.cached,
                "output": tokens_out,
                "reasoning": self.tokens.reasoning,
                "unreported_calls": self.tokens.unreported,
            },
            "cost_usd": _money(self.listed),
            "cost_usd_at_least": _money(self.at_least),
            "cost_usd_at_most": _money(self.at_most),
            "cost_usd_failed_attempts": _money(self.failures),
            "cost_usd_exact": {
                "listed": _text(self.listed),
                "at_least": _text(self.at_least),
                "at_most": _text(self.at_most),
            },
            "unpriced_calls": self.unpriced,
            "unbounded_calls": self.unbounded,
            "doubts": {doubt.name.lower(): n for doubt, n in sorted(self.doubts.items())},
        }


class Biller:
    """Prices results, attempt by attempt.

    `tiers` are the service tiers a call may be billed at when its reply did not say.
    """

    def __init__(self, prices: PriceBook, *, tiers: tuple[str | None, ...] = (None,)) -> None:
        self.prices = prices
        self.tiers = tiers

    def cost(self, told: Told) -> Decimal | None:
        """List price of a row's attempts with known usage; None when one of them has no price."""
        total = None
        for one in told.get("billed", ()):
            dollars = self.prices.cost(one, asked=told.get("asked_model"))
            if dollars is None:
                return None
            total = dollars if total is None else total + dollars
        return total

    def bill(self, result: RowResult) -> Bill:
        """The calls, tokens and dollars of one row."""
        bill = Bill()
        self.add(bill, result)
        return bill

    def add(self, bill: Bill, result: RowResult) -> None:
        """The row is on the bill, too: a third of what a bill of its own and `merge` would cost."""
        bill.calls += result.attempts
        has_answer = isinstance(result.ending, Completion)
        for position, billed in enumerate(result.billed):
            is_answer = has_answer and position == len(result.billed) - 1
            quote = self.prices.quote(billed, asked=result.asked_model)
            _add_quoted(bill, billed, quote, is_answer=is_answer)
            if quote.dollars is None:
                bill.bound(self._ceiling_of(result, at=billed.at))
        for cause, attempts in result.unknown.items():
            bill.unknown[cause] += attempts
            bill.bound(self._ceiling_of(result, at=result.started_at), calls=attempts)

    def add_told(
        self, bill: Bill, billed: Sequence[Billed], *, asked: str | None, has_answer: bool
    ) -> bool:
        """Attempts with known usage are on the bill, by what little a glance at their row tells.

        False where that is too little, and nothing is added: a price is known and a count is not.
        """
        quoted = [(one, self.prices.quote(one, asked=asked)) for one in billed]
        for one, quote in quoted:
            if quote.dollars is None and self._has_ceiling(asked or one.model or "", at=one.at):
                return False
        for position, (one, quote) in enumerate(quoted, start=1):
            is_answer = has_answer and position == len(quoted)
            _add_quoted(bill, one, quote, is_answer=is_answer)
            bill.unbounded += quote.dollars is None
        bill.calls += len(quoted)
        return True

    def _has_ceiling(self, model: str, *, at: float | None) -> bool:
        """Whether anything can bound a call of this model: its price, that is."""
        return self.ceiling(model, 0, 0, at=at) is not None

    def bill_lost(self, intent: Lost, *, at: float | None) -> Bill:
        """The bill of a call that was in flight when its process died, or whose record is damaged."""
        bill = Bill(calls=1, unknown=Counter({intent.cause: 1}))
        ceiling = self.ceiling(intent.model, intent.request_bytes, intent.max_output_tokens, at=at)
        bill.bound(ceiling)
        return bill

    def ceiling(
        self,
        model: str,
        request_bytes: int | None,
        max_output_tokens: int | None,
        *,
        at: float | None = None,
    ) -> Decimal | None:
        """The most that one call can cost; None when nothing bounds it."""
        if request_bytes is None:
            return None
        ceilings = [
            self.prices.ceiling(
                model=model,
                input_tokens=request_bytes + CEILING_OVERHEAD_TOKENS,
                max_output_tokens=max_output_tokens,
                service_tier=tier,
                at=at,
            )
            for tier in self.tiers
        ]
        return None if None in ceilings else max(filter(None, ceilings), default=Decimal(0))

    def _ceiling_of(self, result: RowResult, *, at: float | None) -> Decimal | None:
        return self.ceiling(
            result.asked_model or result.model or "",
            result.request_bytes,
            result.max_output_tokens,
            at=at,
        )


def _add_quoted(bill: Bill, billed: Billed, quote: Quote, *, is_answer: bool) -> None:
    """One attempt with known usage is on the bill; of one without a price the bound is not."""
    bill.answered += 1
    bill.tokens.add(billed.usage)
    for doubt in quote.doubts:
        bill.doubts[doubt] += 1
    if quote.dollars is None or quote.at_least is None:
        bill.unpriced += 1
        return
    if is_answer:
        bill.answers += quote.dollars
    else:
        bill.failures += quote.dollars
    bill.perhaps_less += quote.dollars - quote.at_least
    if quote.at_most is None:
        bill.doubtful += 1
    else:
        bill.perhaps_more += quote.at_most - quote.dollars
    if quote.source is not None:
        bill.sources[quote.source] += 1


def _plus(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


def _money(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else format(amount.normalize(), "f")


def possible_tiers(asked: object) -> tuple[str | None, ...]:
    """Service tiers that a call may be billed at: the one asked for, or the standard one instead."""
    if asked is None or asked in ("auto", "default", "standard"):
        return (None,)
    return (None, str(asked))


def is_priced(prices: PriceBook, model: str) -> bool:
    return prices.resolve(model, at=None) is not None


def source_of(prices: PriceBook, models: Mapping[str, int]) -> str | None:
    """Where the prices of the models come from, as one line; None when none has a price."""
    sources = {match.source for model in models if (match := prices.resolve(model, at=None))}
    return ", ".join(sorted(sources)) or None


def biller_of(job: JobSpec, *, before: Mapping[str, PriceSpec] | None = None) -> Biller:
    """At the prices that hold for the job's calls.

    Those that an earlier run was given (`before`) hold for models that neither the job nor the
    built-in list has a price for: who takes a price out of a job file goes back to the list.
    """
    known = PriceBook(job.prices, base_url=job.endpoint.base_url)
    kept = {m: price for m, price in (before or {}).items() if known.resolve(m, at=None) is None}
    prices = PriceBook({**kept, **job.prices}, base_url=job.endpoint.base_url)
    return Biller(prices, tiers=possible_tiers(job.request.get("service_tier")))

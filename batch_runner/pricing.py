"""Token counts to dollars: what one attempt cost, at the job's own prices or the built-in list.

Every attempt is priced by itself. Long-context rates apply to a whole call once its input passes a
threshold, so the price of a sum of tokens is not the sum of the prices. Prices cover tokens and
per-call fees; what a hosted tool adds (web searches, storage) is not in a token count.
"""

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from batch_runner.frozen import frozen
from batch_runner.job import PriceSpec
from batch_runner.price_list import (
    EXACT,
    LOCAL_MODEL,
    LOCAL_PRICE,
    Doubt,
    MatchedBy,
    PriceMatch,
    Rates,
    listed_names,
    listed_price,
)
from batch_runner.records import Billed, Usage
from batch_runner.spelling import nearest


__all__ = ["Doubt", "MatchedBy", "PriceBook", "PriceMatch", "Quote", "Rates"]

OWN_PRICE = "[prices."
"""So begins the source of a price that the job states."""
_MILLIONTH = Decimal("0.000001")
_REMEMBERED_PRICES = 4096  # a server may name a new model in every reply
_UNBOUNDED_DOUBTS = frozenset({Doubt.UNKNOWN_TIER, Doubt.FINE_TUNE})
"""The rates themselves are a guess, and the true ones may be higher."""


@frozen
class Quote:
    """What one attempt cost, and what is doubtful about it. None dollars: unknown, never zero."""

    dollars: Decimal | None
    """As reported; counts that were not reported count as none."""
    at_least: Decimal | None = None
    """Had what was not reported been the cheapest: all input read from a cache."""
    at_most: Decimal | None = None
    """Had it been the dearest; None where the rates themselves are in doubt."""
    doubts: tuple[Doubt, ...] = ()
    source: str | None = None
    """Where the rates come from, as in `PriceMatch.source`."""


_UNPRICED = Quote(dollars=None, doubts=(Doubt.NO_PRICE,))


class PriceBook:
    """The prices of one job: its own first, then the built-in list.

    A repeated (model, tier, minute) costs a few microseconds, a new one about a millisecond.
    """

    def __init__(self, overrides: Mapping[str, PriceSpec], *, base_url: str | None = None) -> None:
        self.overrides = dict(overrides)
        self.base_url = base_url
        self._matches: dict[tuple[str, str | None, str | None, int | None], PriceMatch | None] = {}

    def resolve(
        self,
        model: str,
        *,
        asked: str | None = None,
        service_tier: str | None = None,
        at: float | None,
    ) -> PriceMatch | None:
        """The price of `model` (from the response), else of `asked`; None when neither has one.

        An override of either name wins, whatever the tier. `at` is Unix time; None takes the
        newest price there is.
        """
        # By the minute, not the hour: some off-peak prices begin at half past.
        key = (model, asked, service_tier, None if at is None else int(at // 60))
        try:
            return self._matches[key]
        except KeyError:
            if len(self._matches) >= _REMEMBERED_PRICES:
                self._matches.clear()
            match = self._matches[key] = self._look_up(model, asked, service_tier, at)
            return match

    def cost(self, billed: Mapping[str, Any], *, asked: str | None = None) -> Decimal | None:
        """The dollars that `quote` gives, of an attempt as the journal tells it, at half the time."""
        match = self.resolve(
            billed["model"], asked=asked, service_tier=billed["service_tier"], at=billed["at"]
        )
        if match is None:
            return None
        counts = _counted(billed["usage"].get)
        if isinstance(counts, Doubt):
            return None
        rates = _step(match.rates, counts[0])
        return _dollars(rates, counts, plain=rates.input, answer=rates.output)

    def quote(self, billed: Billed, *, asked: str | None = None) -> Quote:
        """The cost of one attempt with its doubts.

        Counts that are negative, or parts larger than their whole, make the cost unknown.
        """
        match = self._match(billed, asked)
        if match is None:
            return _UNPRICED
        usage = billed.usage
        counts = _counted(partial(getattr, usage))
        if isinstance(counts, Doubt):
            return Quote(dollars=None, doubts=(counts,))
        rates = _step(match.rates, counts[0])
        dollars = _dollars(rates, counts, plain=rates.input, answer=rates.output)
        least = most = dollars
        plain, answer = _possible_rates(rates, usage)
        if len(plain) > 1 or len(answer) > 1:
            least = _dollars(rates, counts, plain=min(plain), answer=min(answer))
            most = _dollars(rates, counts, plain=max(plain), answer=max(answer))
        return Quote(
            dollars=dollars,
            at_least=least,
            at_most=most if _UNBOUNDED_DOUBTS.isdisjoint(match.doubts) else None,
            doubts=match.doubts + _doubts_of(rates, usage, counts),
            source=match.source,
        )

    def input_cost(
        self, *, model: str, input_tokens: Decimal | int, service_tier: str | None, at: float | None
    ) -> Decimal | None:
        """Dollars of a call before its answer, nothing of it cached; None without a price."""
        match = self.resolve(model, service_tier=service_tier, at=at)
        if match is None:
            return None
        rates = _step(match.rates, input_tokens)
        return EXACT.fma(EXACT.multiply(input_tokens, rates.input), _MILLIONTH, rates.per_call)

    def ceiling(
        self,
        *,
        model: str,
        input_tokens: Decimal | int,
        max_output_tokens: int | None,
        service_tier: str | None,
        at: float | None,
    ) -> Decimal | None:
        """The most that one call of at most so many tokens can cost, caches included.

        None when nothing bounds it: no `max_output_tokens`, no price, or only that of another
        service tier or of a fine-tuned model's base.
        """
        match = self.resolve(model, service_tier=service_tier, at=at)
        if (
            match is None
            or max_output_tokens is None
            or not (_UNBOUNDED_DOUBTS.isdisjoint(match.doubts))
        ):
            return None
        return max(
            _dearest(rates, input_tokens, max_output_tokens)
            for rates in match.rates
            if input_tokens > rates.above_input_tokens
        )

    def _match(self, billed: Billed, asked: str | None) -> PriceMatch | None:
        return self.resolve(
            billed.model, asked=asked, service_tier=billed.service_tier, at=billed.at
        )

    def _look_up(
        self, model: str, asked: str | None, service_tier: str | None, at: float | None
    ) -> PriceMatch | None:
        names = [model] if asked is None or asked == model else [model, asked]
        for name in names:
            if name in self.overrides:
                return _overridden(name, self.overrides[name])
        for name in names:
            if match := listed_price(name, self.base_url, service_tier, at):
                return match
        return None


_Counts = tuple[int, int, int, int, int, int]
"""The input, its plain, cached and written parts, the answer without its reasoning, the reasoning."""


def _counted(count: Callable[[str], int | None]) -> _Counts | Doubt:
    """The tokens of a call, told by their names in `Usage`, or why they have no price."""
    taken, made = count("input_tokens"), count("output_tokens")
    if taken is None or made is None:
        return Doubt.NO_COUNT
    cached = count("cached_tokens") or 0
    written = count("cache_write_tokens") or 0
    reasoning = count("reasoning_tokens") or 0
    plain = taken - cached - written
    answer = made - reasoning
    if plain < 0 or cached < 0 or written < 0 or answer < 0 or reasoning < 0:
        return Doubt.CONTRADICTION
    return taken, plain, cached, written, answer, reasoning


def _dollars(rates: Rates, counts: _Counts, *, plain: Decimal, answer: Decimal) -> Decimal:
    """`plain` and `answer` are the rates of those parts."""
    _, plain_tokens, cached, written, answer_tokens, reasoning = counts
    total = EXACT.fma(answer_tokens, answer, EXACT.multiply(plain_tokens, plain))
    if cached:  # most calls have none of these
        total = EXACT.fma(cached, rates.cached_input, total)
    if written:
        total = EXACT.fma(written, rates.cache_write, total)
    if reasoning:
        total = EXACT.fma(reasoning, rates.reasoning, total)
    return EXACT.fma(total, _MILLIONTH, rates.per_call)


def _possible_rates(rates: Rates, usage: Usage) -> tuple[set[Decimal], set[Decimal]]:
    """Rates at which what seems plain input, and plain output, may have been billed."""
    plain, answer = {rates.input}, {rates.output}
    if usage.cached_tokens is None:
        plain.add(rates.cached_input)
    if usage.cache_write_tokens is None:
        plain.add(rates.cache_write)
    if usage.reasoning_tokens is None:
        answer.add(rates.reasoning)
    return plain, answer


def _doubts_of(rates: Rates, usage: Usage, counts: _Counts) -> tuple[Doubt, ...]:
    _, plain, *_ = counts
    doubts = []
    if usage.cached_tokens is None and plain and rates.cached_input != rates.input:
        doubts.append(Doubt.CACHE_READS_UNREPORTED)
    if usage.cache_write_tokens is None and plain and rates.cache_write > rates.input:
        doubts.append(Doubt.CACHE_WRITES_UNREPORTED)
    return tuple(doubts)


def _step(rates: tuple[Rates, ...], input_tokens: Decimal | int) -> Rates:
    """The last of these whose threshold is passed; the first has none."""
    chosen = rates[0]
    for step in rates[1:]:
        if input_tokens > step.above_input_tokens:
            chosen = step
    return chosen


def _dearest(rates: Rates, input_tokens: Decimal | int, output_tokens: int) -> Decimal:
    intake = max(rates.input, rates.cached_input, rates.cache_write)
    total = EXACT.multiply(input_tokens, intake)
    total = EXACT.fma(output_tokens, max(rates.output, rates.reasoning), total)
    return EXACT.fma(total, _MILLIONTH, rates.per_call)


def price_lines(model: str) -> tuple[str, ...]:
    """What to add to a job file for a model without a price: TOML, but for the numbers."""
    return (
        f"[prices.{json.dumps(model, ensure_ascii=False)}]",
        "input = ...    # dollars per million tokens; 0 for a server of your own",
        "output = ...",
    )


def price_advice(model: str) -> str:
    """The same in a line."""
    meant = model_meant(model)
    return (
        f"{meant}{' else ' if meant else ''}add {price_lines(model)[0]} with input and output, "
        "dollars per million tokens (0 for a server of your own)"
    )


def model_meant(model: str) -> str:
    """A question, where a name without a price looks like a slip; a model of one's own looks like none."""
    near = nearest(model, listed_names(), cutoff=0.85)
    return "" if near is None else f"did you mean {near!r}?"


def _overridden(name: str, price: PriceSpec) -> PriceMatch:
    rates = Rates(
        input=price.input,
        cached_input=price.input if price.cached_input is None else price.cached_input,
        cache_write=price.input if price.cache_write is None else price.cache_write,
        output=price.output,
        reasoning=price.output,
    )
    if name == LOCAL_MODEL and rates == LOCAL_PRICE.rates[0]:
        return LOCAL_PRICE  # `--local` laid it over the job, which has no such price
    return PriceMatch(
        name=name,
        matched_by=MatchedBy.OVERRIDE,
        source=f'{OWN_PRICE}"{name}"]',
        rates=(rates,),
        model=name,
    )

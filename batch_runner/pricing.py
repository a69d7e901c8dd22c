"""Token counts to dollars: which price a model name has, and what one attempt cost.

Every attempt is priced by itself. Long-context rates apply to a whole call once its input passes a
threshold, so the price of a sum of tokens is not the sum of the prices. Prices cover tokens and
per-call fees; what a hosted tool adds (web searches, storage) is not in a token count.

genai-prices is loaded at the first model that no override covers: it takes half a second of CPU.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batch_runner.job import PriceSpec
from batch_runner.records import Billed


if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""Our own context, so that a caller's decimal settings cannot change a bill."""
_ZERO = Decimal(0)
_MILLIONTH = Decimal("0.000001")
_NEWEST = datetime(9999, 12, 31, 12, tzinfo=UTC)
_REMEMBERED_PRICES = 4096  # a server may name a new model in every reply

_PREFIX_OWNERS = {
    "anthropic": "anthropic", "azure": "azure", "deepseek": "deepseek", "fireworks": "fireworks",
    "fireworks_ai": "fireworks", "gemini": "google", "google": "google", "groq": "groq",
    "minimax": "minimax", "mistral": "mistral", "mistralai": "mistral", "moonshotai": "moonshotai",
    "openai": "openai", "openrouter": "openrouter", "together": "together",
    "together_ai": "together", "vertex_ai": "google", "x-ai": "x-ai", "xai": "x-ai",
    "z-ai": "zai", "zai": "zai",
}  # fmt: skip
"""Gateways name models `owner/model`; genai-prices knows owners by these ids."""

_STANDARD_TIERS = frozenset({None, "", "auto", "default", "standard"})


class MatchedBy(StrEnum):
    """Why a price was taken for a model name; the value reads on in `batch-runner prices`."""

    OVERRIDE = "the job's own [prices]"
    ENDPOINT = "the price list of the endpoint's provider"
    NAME = "the name, at its maker's list price"
    PREFIX = "the part after the prefix, at list price"
    OPENROUTER = "the list price at OpenRouter"


class Doubt(StrEnum):
    """What stands between a price and certainty; the value is the words a report shows."""

    NO_PRICE = "no price is known for this model"
    NO_COUNT = "the server did not report both input and output tokens"
    CONTRADICTION = "the server's token counts contradict each other"
    UNKNOWN_TIER = "this service tier has no price: standard rates used"
    FINE_TUNE = "a fine-tuned model at the price of its base, which is usually lower"
    CACHE_READS_UNREPORTED = "cached tokens not reported: all input at the full rate, an upper side"
    CACHE_WRITES_UNREPORTED = "cache writes not reported: they would cost more than plain input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Dollars per million tokens."""

    input: Decimal
    cached_input: Decimal
    """The input rate where a price list names no other; `cache_write` likewise."""
    cache_write: Decimal
    output: Decimal
    reasoning: Decimal
    """Of the part of the output that is reasoning: nearly everywhere the output rate."""
    per_call: Decimal = _ZERO
    """Dollars, not millionths."""
    above_input_tokens: int = -1
    """These rates apply to the whole call once its input exceeds this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceMatch:
    """The price that a model name has at a time, and where it comes from."""

    name: str
    """The name that had a price: the response's, or the one asked for."""
    matched_by: MatchedBy
    source: str
    """As in `genai-prices 0.2.3: openai/gpt-5`."""
    rates: tuple[Rates, ...]
    """Ascending by `above_input_tokens`; never empty."""
    provider: str | None = None
    """As genai-prices calls it; None for an override."""
    model: str
    """The entry of the price list."""
    doubts: tuple[Doubt, ...] = ()

    def describe(self) -> str:
        """For people: what was matched, why, and the rates."""
        first = self.rates[0]
        words = [f"{self.source}, by {self.matched_by}"]
        words.append(
            f"${first.input} in, ${first.cached_input} cached in, ${first.output} out per million tokens"
        )
        words += [
            f"dearer above {step.above_input_tokens:,} input tokens" for step in self.rates[1:]
        ]
        return "; ".join([*words, *self.doubts])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": self.source,
            "matched_by": self.matched_by.name.lower(),
            "provider": self.provider,
            "model": self.model,
            "usd_per_million_tokens": [
                {
                    "above_input_tokens": max(step.above_input_tokens, 0),
                    "input": float(step.input),
                    "cached_input": float(step.cached_input),
                    "cache_write": float(step.cache_write),
                    "output": float(step.output),
                    "reasoning": float(step.reasoning),
                }
                for step in self.rates
            ],
            "doubts": [doubt.name.lower() for doubt in self.doubts],
        }

    @property
    def approximate(self) -> bool:
        return Doubt.FINE_TUNE in self.doubts


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What one attempt cost, and what is doubtful about it. None dollars: unknown, never zero."""

    dollars: Decimal | None
    doubts: tuple[Doubt, ...] = ()


_UNPRICED = Quote(dollars=None, doubts=(Doubt.NO_PRICE,))
_UNCOUNTED = Quote(dollars=None, doubts=(Doubt.NO_COUNT,))
_CONTRADICTORY = Quote(dollars=None, doubts=(Doubt.CONTRADICTION,))


class PriceBook:
    """The prices of one job: its own first, then the built-in list.

    A repeated (model, tier, minute) costs a few microseconds, a new one about a millisecond.
    """

    def __init__(self, overrides: Mapping[str, PriceSpec], *, base_url: str | None = None) -> None:
        self._overrides = dict(overrides)
        self._base_url = base_url
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

    def cost(self, billed: Billed, *, asked: str | None = None) -> Decimal | None:
        """Exact dollars of one attempt; None when the price or a needed count is unknown."""
        return self.quote(billed, asked=asked).dollars

    def quote(self, billed: Billed, *, asked: str | None = None) -> Quote:
        """The cost of one attempt with its doubts.

        Counts that are negative, or parts larger than their whole, make the cost unknown. Cached
        tokens that were not reported count as none: the full input rate, which is the upper side.
        """
        match = self.resolve(
            billed.model, asked=asked, service_tier=billed.service_tier, at=billed.at
        )
        if match is None:
            return _UNPRICED
        usage = billed.usage
        if usage.input_tokens is None or usage.output_tokens is None:
            return _UNCOUNTED
        cached = usage.cached_tokens or 0
        written = usage.cache_write_tokens or 0
        reasoning = usage.reasoning_tokens or 0
        plain = usage.input_tokens - cached - written
        answer = usage.output_tokens - reasoning
        if plain < 0 or answer < 0 or cached < 0 or written < 0 or reasoning < 0:
            return _CONTRADICTORY
        rates = _step(match.rates, usage.input_tokens)
        doubts = match.doubts
        if usage.cached_tokens is None and plain and rates.cached_input != rates.input:
            doubts = (*doubts, Doubt.CACHE_READS_UNREPORTED)
        if usage.cache_write_tokens is None and plain and rates.cache_write > rates.input:
            doubts = (*doubts, Doubt.CACHE_WRITES_UNREPORTED)
        total = _EXACT.multiply(plain, rates.input)
        total = _EXACT.fma(cached, rates.cached_input, total)
        total = _EXACT.fma(written, rates.cache_write, total)
        total = _EXACT.fma(answer, rates.output, total)
        total = _EXACT.fma(reasoning, rates.reasoning, total)
        return Quote(dollars=_EXACT.fma(total, _MILLIONTH, rates.per_call), doubts=doubts)

    def ceiling(
        self,
        *,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
        service_tier: str | None,
        at: float | None,
    ) -> Decimal | None:
        """The most that one call of at most so many tokens can cost, caches included.

        None when nothing bounds it: no `max_output_tokens`, no price, or a service tier without
        a price of its own.
        """
        match = self.resolve(model, service_tier=service_tier, at=at)
        if match is None or max_output_tokens is None or Doubt.UNKNOWN_TIER in match.doubts:
            return None
        return max(
            _dearest(rates, input_tokens, max_output_tokens)
            for rates in match.rates
            if input_tokens > rates.above_input_tokens
        )

    def _look_up(
        self, model: str, asked: str | None, service_tier: str | None, at: float | None
    ) -> PriceMatch | None:
        names = [model] if asked is None or asked == model else [model, asked]
        for name in names:
            if name in self._overrides:
                return _overridden(name, self._overrides[name])
        for name in names:
            if match := _listed(name, self._base_url, service_tier, at):
                return match
        return None


def _step(rates: tuple[Rates, ...], input_tokens: int) -> Rates:
    return next(step for step in reversed(rates) if input_tokens > step.above_input_tokens)


def _dearest(rates: Rates, input_tokens: int, output_tokens: int) -> Decimal:
    intake = max(rates.input, rates.cached_input, rates.cache_write)
    total = _EXACT.multiply(input_tokens, intake)
    total = _EXACT.fma(output_tokens, max(rates.output, rates.reasoning), total)
    return _EXACT.fma(total, _MILLIONTH, rates.per_call)


def _overridden(name: str, price: PriceSpec) -> PriceMatch:
    rates = Rates(
        input=price.input,
        cached_input=price.input if price.cached_input is None else price.cached_input,
        cache_write=price.input if price.cache_write is None else price.cache_write,
        output=price.output,
        reasoning=price.output,
    )
    return PriceMatch(
        name=name,
        matched_by=MatchedBy.OVERRIDE,
        source=f'[prices."{name}"]',
        rates=(rates,),
        model=name,
    )


def _listed(
    name: str, base_url: str | None, service_tier: str | None, at: float | None
) -> PriceMatch | None:
    """The first entry of the built-in list that fits the name and sells both input and output."""
    import genai_prices  # noqa: PLC0415 -- half a second of CPU, see the top of this module

    moment = _NEWEST if at is None else datetime.fromtimestamp(at, UTC)
    for matched_by, provider, candidate, doubts in _candidates(name, base_url):
        model = provider.find_model(candidate, all_providers=_providers())
        if model is None:
            continue
        context = _tier_context(model, provider, service_tier, moment)
        if rates := _rates(model.get_prices(moment, context)):
            tier_doubts = () if context is not None else (Doubt.UNKNOWN_TIER,)
            return PriceMatch(
                name=name,
                matched_by=matched_by,
                source=f"genai-prices {genai_prices.__version__}: {provider.id}/{model.id}",
                rates=rates,
                provider=provider.id,
                model=model.id,
                doubts=doubts + tier_doubts,
            )
    return None


def _providers() -> "list[Provider]":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 -- as in `_listed`

    return get_snapshot().providers


def _candidates(
    name: str, base_url: str | None
) -> "Iterator[tuple[MatchedBy, Provider, str, tuple[Doubt, ...]]]":
    """Where to look a name up, best first."""
    # Not through genai-prices' own find_provider: it remembers every name it ever missed.
    name = name.lower()
    by_id = {provider.id: provider for provider in _providers()}
    endpoint = next(
        (one for one in by_id.values() if base_url and re.match(one.api_pattern, base_url)), None
    )
    if endpoint:
        yield MatchedBy.ENDPOINT, endpoint, name, ()
    if name.startswith("ft:"):
        # Some fine-tunes have a price of their own; the others are ft:BASE:organization:...
        base = name.split(":")[1]
        yield MatchedBy.NAME, by_id["openai"], name, ()
        yield MatchedBy.NAME, by_id["openai"], base, (Doubt.FINE_TUNE,)
    for maker in by_id.values():
        if maker.model_match and maker.model_match.is_match(name):
            yield MatchedBy.NAME, maker, name, ()
            break
    prefix, _, rest = name.partition("/")
    if rest and prefix in _PREFIX_OWNERS:
        owner = by_id[_PREFIX_OWNERS[prefix]]
        yield MatchedBy.PREFIX, owner, rest, ()
        yield MatchedBy.PREFIX, owner, rest.replace(".", "-"), ()
    yield MatchedBy.OPENROUTER, by_id["openrouter"], name, ()


def _tier_context(
    model: "ModelInfo", provider: "Provider", service_tier: str | None, moment: datetime
) -> dict[str, str] | None:
    """What selects the tier's rates; None when that tier had no price then."""
    if service_tier in _STANDARD_TIERS:
        return {}
    wanted = {"processing": "batch"} if service_tier == "batch" else {"service_tier": service_tier}
    # A model lent by another provider comes without that provider's tiers, as genai-prices has it.
    own = any(model is one for one in provider.models)
    for variant in model.price_variants or () if own else ():
        active = variant.constraint is None or variant.constraint.active(moment)
        if active and variant.when == wanted:
            return variant.when
    return None


def _rates(prices: "ModelPrice") -> tuple[Rates, ...]:
    """One entry for each long-context threshold; empty without an input and an output rate."""
    listed: dict[str, Decimal | TieredPrices] = {
        key: price for key, price in vars(prices).items() if price is not None
    }
    if not {"input_mtok", "output_mtok"} <= listed.keys():
        return ()
    tiers = (tier for price in listed.values() for tier in getattr(price, "tiers", ()))
    return tuple(_rates_above(listed, start) for start in sorted({-1, *(t.start for t in tiers)}))


def _rates_above(listed: "Mapping[str, Decimal | TieredPrices]", start: int) -> Rates:
    def rate(key: str, otherwise: Decimal) -> Decimal:
        price = listed.get(key, otherwise)
        if isinstance(price, Decimal):
            return price
        reached = [tier.price for tier in price.tiers if tier.start <= start]
        return reached[-1] if reached else price.base

    plain, answer = rate("input_mtok", _ZERO), rate("output_mtok", _ZERO)
    return Rates(
        input=plain,
        cached_input=rate("cache_read_mtok", plain),
        cache_write=rate("cache_write_mtok", plain),
        output=answer,
        reasoning=rate("output_reasoning_mtok", answer),
        per_call=_EXACT.divide(rate("requests_kcount", _ZERO), 1000),
        above_input_tokens=start,
    )

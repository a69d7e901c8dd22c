"""The built-in price list, genai-prices: which entry a model name means, and its rates at a time.

genai-prices is loaded by the first look-up: it takes half a second of CPU.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batch_runner.hosts import is_loopback_url


if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""Our own context, so that a caller's decimal settings cannot change a bill."""
ZERO = Decimal(0)
_NEWEST = datetime(9999, 12, 31, 12, tzinfo=UTC)

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


LOCAL_MODEL = "smollm2-135m-instruct"
"""What `batch-runner serve` and `--local` serve: nobody sends a bill for it."""


class MatchedBy(StrEnum):
    """Why a price was taken for a model name; the value reads on in `batch-runner prices`."""

    OVERRIDE = "the job's own [prices]"
    LOCAL = "the small model that runs on this machine"
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
    per_call: Decimal = ZERO
    """Dollars, not millionths."""
    above_input_tokens: int = -1
    """These rates apply to the whole call once its input exceeds this."""


_FREE = (Rates(input=ZERO, cached_input=ZERO, cache_write=ZERO, output=ZERO, reasoning=ZERO),)


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
        if self.matched_by is MatchedBy.LOCAL:
            return f"free, as it is {self.matched_by}"
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


LOCAL_PRICE = PriceMatch(
    name=LOCAL_MODEL,
    matched_by=MatchedBy.LOCAL,
    source="batch-runner serve",
    rates=_FREE,
    model=LOCAL_MODEL,
)


def listed_price(
    name: str, base_url: str | None, service_tier: str | None, at: float | None
) -> PriceMatch | None:
    """The first entry of the built-in list that fits the name and sells both input and output."""
    if name == LOCAL_MODEL and base_url is not None and is_loopback_url(base_url):
        return LOCAL_PRICE
    import genai_prices  # noqa: PLC0415 -- half a second of CPU, see the top of this module

    moment = _NEWEST if at is None else datetime.fromtimestamp(at, UTC)
    for matched_by, provider, candidate, doubts in _candidates(name, base_url):
        model = provider.find_model(candidate, all_providers=_providers())
        if model is None:
            continue
        context = _tier_context(model, provider, service_tier, moment)
        if rates := rates_of(model.get_prices(moment, context)):
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


def listed_names() -> set[str]:
    """Every model that the built-in list has, by its own name."""
    return {model.id for provider in _providers() for model in provider.models}


def _providers() -> "list[Provider]":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 -- as in `listed_price`

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


def rates_of(prices: "ModelPrice") -> tuple[Rates, ...]:
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

    plain, answer = rate("input_mtok", ZERO), rate("output_mtok", ZERO)
    return Rates(
        input=plain,
        cached_input=rate("cache_read_mtok", plain),
        cache_write=rate("cache_write_mtok", plain),
        output=answer,
        reasoning=rate("output_reasoning_mtok", answer),
        per_call=EXACT.divide(rate("requests_kcount", ZERO), 1000),
        above_input_tokens=start,
    )

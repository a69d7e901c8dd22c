"""Our own arithmetic against genai-prices', and bounds against what they bound."""

from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal

from genai_prices import Usage as ListUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_runner.price_list import rates_of
from batch_runner.pricing import Doubt, PriceBook, Quote
from batch_runner.records import Billed, Usage


BOOK = PriceBook({})
NAMES = (
    "gpt-5", "gpt-5.4", "gpt-5.6-sol", "gpt-6.1-sol", "gpt-4o-mini", "o3", "deepseek-chat",
    "gemini-2.5-pro", "claude-sonnet-4-5", "openai/gpt-5-mini", "qwen/qwen3-max",
    "openrouter/perplexity/sonar-deep-research", "groq/openai/gpt-oss-20b", "xai/grok-4",
)  # fmt: skip
TIERS = (None, "auto", "default", "flex", "priority", "fast", "batch", "ultrafast")
CONTEXTS = {"batch": {"processing": "batch"}}

moments = st.floats(
    min_value=datetime(2024, 1, 1, tzinfo=UTC).timestamp(),
    max_value=datetime(2027, 1, 1, tzinfo=UTC).timestamp(),
)
counts = st.one_of(
    st.integers(0, 3000),
    st.sampled_from([199_999, 200_001, 272_000, 272_001]),
    st.integers(0, 10**9),
)


@st.composite
def usages(draw):
    plain, cached, written, answer, reasoning = (draw(counts) for _ in range(5))
    return Usage(
        input_tokens=plain + cached + written,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=answer + reasoning,
        reasoning_tokens=reasoning,
    )


def as_listed(usage):
    return ListUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(NAMES), tier=st.sampled_from(TIERS), at=moments, usage=usages())
def test_a_cost_equals_genai_prices_to_the_last_digit(name, tier, at, usage):
    quote = BOOK.quote(Billed(usage=usage, model=name, service_tier=tier, at=at))
    match = BOOK.resolve(name, service_tier=tier, at=at)
    context = CONTEXTS.get(tier) or ({"service_tier": tier} if tier else {})
    theirs = calc_price(
        as_listed(usage),
        match.model,
        provider_id=match.provider,
        genai_request_timestamp=datetime.fromtimestamp(at, UTC),
        price_context=context,
    )
    assert quote.dollars == theirs.total_price


PRICE_LISTS = [
    prices
    for provider in get_snapshot().providers
    for model in provider.models
    for prices in (
        [model.prices] if isinstance(model.prices, ModelPrice) else [p.prices for p in model.prices]
    )
    if rates_of(prices)
]


@settings(max_examples=300, deadline=None)
@given(prices=st.sampled_from(PRICE_LISTS), usage=usages())
def test_every_price_of_the_list_is_read_as_genai_prices_reads_it(prices, usage):
    class OneEntry(PriceBook):
        def resolve(self, model, *, asked=None, service_tier=None, at=None):
            match = BOOK.resolve("gpt-5", at=0)
            return type(match)(
                name=model, matched_by=match.matched_by, source="", model="", rates=rates_of(prices)
            )

    call = Billed(usage=usage, model="m", service_tier=None, at=0)
    assert OneEntry({}).cost(asdict(call)) == OneEntry({}).quote(call).dollars
    assert OneEntry({}).quote(call).dollars == prices.calc_price(as_listed(usage))["total_price"]


def test_the_price_lists_compared_are_most_of_the_catalogue():
    assert len(PRICE_LISTS) > 2000


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    tier=st.sampled_from(TIERS),
    at=moments,
    usage=usages(),
    spare=st.integers(0, 10_000),
)
def test_no_call_within_its_bounds_costs_more_than_its_ceiling(name, tier, at, usage, spare):
    ceiling = BOOK.ceiling(
        model=name,
        input_tokens=usage.input_tokens + spare,
        max_output_tokens=usage.output_tokens,
        service_tier=tier,
        at=at,
    )
    quote = BOOK.quote(Billed(usage=usage, model=name, service_tier=tier, at=at))
    if ceiling is None:
        assert Doubt.UNKNOWN_TIER in quote.doubts
    else:
        assert quote.dollars <= ceiling


any_count = st.one_of(st.none(), st.integers(), st.integers(-10, 10))


@settings(max_examples=200, deadline=None)
@given(
    usage=st.builds(
        Usage,
        input_tokens=any_count,
        cached_tokens=any_count,
        cache_write_tokens=any_count,
        output_tokens=any_count,
        reasoning_tokens=any_count,
        total_tokens=any_count,
    ),
    model=st.one_of(st.sampled_from(NAMES), st.text()),
    tier=st.one_of(st.none(), st.text()),
)
def test_whatever_a_server_reports_is_a_cost_or_a_reason(usage, model, tier):
    quote = BOOK.quote(Billed(usage=usage, model=model, service_tier=tier, at=1.79e9))
    assert isinstance(quote, Quote)
    if quote.dollars is None:
        assert quote.doubts
    else:
        assert quote.dollars >= Decimal(0)
        assert usage.input_tokens is not None
        assert usage.output_tokens is not None

import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, localcontext

import pytest

from batch_runner.job import PriceSpec
from batch_runner.price_list import LOCAL_MODEL
from batch_runner.pricing import Doubt, MatchedBy, PriceBook, price_advice
from batch_runner.records import Billed, Usage


AT = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
OWN = PriceSpec(input=Decimal("1.20"), output=Decimal(6), cached_input=Decimal("0.30"))


def billed(model, *, tier="default", at=AT, cached=0, written=0, reasoning=0, **counts):
    usage = Usage(
        input_tokens=counts.get("input", 1000),
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=counts.get("output", 100),
        reasoning_tokens=reasoning,
    )
    return Billed(usage=usage, model=model, service_tier=tier, at=at)


def cost(book, call, **asked):
    """What a quote says, and what is said of the same call as the journal tells it."""
    dollars = book.quote(call, **asked).dollars
    assert book.cost(asdict(call), **asked) == dollars
    return dollars


@pytest.mark.parametrize(
    ("name", "matched_by", "entry"),
    [
        ("gpt-5", MatchedBy.NAME, "openai/gpt-5"),
        ("GPT-5", MatchedBy.NAME, "openai/gpt-5"),
        ("gpt-5-mini-2025-08-07", MatchedBy.NAME, "openai/gpt-5-mini"),
        ("openai/gpt-5", MatchedBy.PREFIX, "openai/gpt-5"),
        ("azure/gpt-5", MatchedBy.PREFIX, "azure/gpt-5"),
        ("anthropic/claude-sonnet-4.5", MatchedBy.PREFIX, "anthropic/claude-sonnet-4-5"),
        ("deepseek/deepseek-chat", MatchedBy.PREFIX, "deepseek/deepseek-chat"),
        ("groq/openai/gpt-oss-20b", MatchedBy.PREFIX, "groq/openai/gpt-oss-20b"),
        ("qwen/qwen3-max", MatchedBy.OPENROUTER, "openrouter/qwen/qwen3-max"),
        ("openrouter/qwen/qwen3-max", MatchedBy.PREFIX, "openrouter/qwen/qwen3-max"),
    ],
)
def test_names_as_gateways_write_them_find_their_price(name, matched_by, entry):
    match = PriceBook({}, base_url="http://127.0.0.1:8080/v1").resolve(name, at=AT)
    assert match is not None
    assert match.matched_by is matched_by
    assert match.source.startswith("genai-prices 0.2.")
    assert match.source.endswith(f": {entry}")
    assert f"{match.provider}/{match.model}" == entry
    assert not match.doubts


@pytest.mark.parametrize(
    "name", ["", "/", "gpt-6", "qwen3-max", "models/SmolLM2.gguf", "ft:", "ft:x"]
)
def test_an_unknown_name_has_no_price_rather_than_a_price_of_zero(name):
    book = PriceBook({})
    assert book.resolve(name, at=AT) is None
    assert cost(book, billed(name)) is None
    assert book.quote(billed(name)).doubts == (Doubt.NO_PRICE,)
    assert ceiling(book, name) is None


def ceiling(book, model, *, tier=None, tokens=1000, answer=100):
    return book.ceiling(
        model=model, input_tokens=tokens, max_output_tokens=answer, service_tier=tier, at=AT
    )


def test_the_endpoint_decides_which_providers_price_applies():
    match = PriceBook({}, base_url="https://x.openai.azure.com/openai/v1").resolve("gpt-5", at=AT)
    assert match.matched_by is MatchedBy.ENDPOINT
    assert match.provider == "azure"


def test_a_fine_tune_has_its_own_price_or_the_base_price_marked_approximate():
    book = PriceBook({})
    own = book.resolve("ft:gpt-4o-mini-2024-07-18:acme::abc", at=AT)
    base = book.resolve("ft:gpt-4.1-2025-04-14:acme::abc", at=AT)
    assert (own.model, own.doubts) == ("ft:gpt-4o-mini", ())
    assert (base.model, base.doubts) == ("gpt-4.1", (Doubt.FINE_TUNE,))
    assert Doubt.FINE_TUNE in book.quote(billed("ft:gpt-4.1-2025-04-14:acme::abc")).doubts


def test_the_jobs_own_price_wins_by_either_name_and_in_every_tier():
    book = PriceBook({"my-model": OWN}, base_url="https://api.openai.com/v1")
    # 700 plain at 1.20, 200 cached at 0.30, 100 written at the input rate, 100 out at 6
    expected = Decimal("0.00162")
    call = billed("gpt-5", tier="priority", cached=200, written=100)
    assert cost(book, call, asked="my-model") == expected
    match = book.resolve("gpt-5", asked="my-model", service_tier="odd", at=AT)
    assert (match.matched_by, match.source) == (MatchedBy.OVERRIDE, '[prices."my-model"]')
    assert match.doubts == ()


def test_an_override_without_cache_rates_charges_the_input_rate_for_them():
    book = PriceBook({"m": PriceSpec(input=Decimal(2), output=Decimal(0))})
    assert cost(book, billed("m", cached=400, written=100)) == Decimal("0.002")


def test_the_model_of_the_response_is_priced_before_the_one_asked_for():
    book = PriceBook({})
    assert book.resolve("gpt-5-mini", asked="gpt-5", at=AT).model == "gpt-5-mini"
    fallen_back = book.resolve("internal-alias", asked="gpt-5", at=AT)
    assert (fallen_back.name, fallen_back.model) == ("gpt-5", "gpt-5")


def test_tiers_cost_what_their_tier_costs():
    book = PriceBook({})
    tiers = {
        tier: cost(
            book, billed("gpt-5", tier=tier, input=1_000_000, cached=400_000, output=100_000)
        )
        for tier in (None, "default", "flex", "priority", "batch")
    }
    assert tiers == {
        None: Decimal("1.80"),
        "default": Decimal("1.80"),
        "flex": Decimal("0.90"),
        "priority": Decimal("3.60"),
        "batch": Decimal("0.90"),
    }


@pytest.mark.parametrize("tier", ["ultrafast", "scale", "Flex"])
def test_an_unknown_tier_is_flagged_and_bounds_nothing(tier):
    book = PriceBook({})
    quote = book.quote(billed("gpt-5", tier=tier))
    assert quote.dollars == cost(book, billed("gpt-5"))
    assert quote.doubts == (Doubt.UNKNOWN_TIER,)
    assert ceiling(book, "gpt-5", tier=tier) is None


def test_a_tier_is_flagged_at_a_time_before_its_price_is_known():
    early = datetime(2026, 9, 1, tzinfo=UTC).timestamp()
    assert PriceBook({}).quote(billed("gpt-5", tier="flex", at=early)).doubts == (
        Doubt.UNKNOWN_TIER,
    )


def test_an_old_call_keeps_its_old_price():
    book = PriceBook({})
    may_2025 = datetime(2025, 5, 1, tzinfo=UTC).timestamp()
    call = {"input": 1_000_000, "output": 0}
    assert cost(book, billed("o3", at=may_2025, **call)) == 10
    assert cost(book, billed("o3", **call)) == 2
    assert book.resolve("o3", at=None).rates[0].input == 2


def test_an_off_peak_price_that_begins_at_half_past_is_exact_to_the_minute():
    book = PriceBook({})
    last_peak_minute = datetime(2025, 6, 1, 16, 29, 59, tzinfo=UTC).timestamp()
    peak = cost(book, billed("deepseek-chat", at=last_peak_minute))
    off_peak = cost(book, billed("deepseek-chat", at=last_peak_minute + 1))
    assert off_peak < peak
    # A later repeat of the earlier minute is not answered with the newer price.
    assert cost(book, billed("deepseek-chat", at=last_peak_minute)) == peak


def test_every_off_peak_price_begins_on_a_whole_minute():
    """The price memory is kept by the minute: it would be wrong otherwise."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import TimeOfDateConstraint

    times = [
        time
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list)
        for price in model.prices
        if isinstance(price.constraint, TimeOfDateConstraint)
        for time in (price.constraint.start_time, price.constraint.end_time)
    ]
    assert times
    assert all((time.second, time.microsecond) == (0, 0) for time in times)


def test_long_context_rates_apply_to_each_call_and_never_to_a_sum():
    book = PriceBook({})
    rows = [cost(book, billed("gpt-5.4", input=5000, output=500)) for _ in range(100)]
    assert sum(rows) == 2
    together = cost(book, billed("gpt-5.4", input=500_000, output=50_000))
    assert together == Decimal("3.625")


def test_the_long_context_threshold_itself_is_still_at_the_lower_rate():
    book = PriceBook({})
    at_threshold = cost(book, billed("gpt-5.4", input=272_000, output=0))
    above = cost(book, billed("gpt-5.4", input=272_001, output=0))
    assert at_threshold == Decimal("0.68")
    assert above == Decimal("1.360005")


def test_cache_writes_cost_more_than_plain_input_where_the_list_says_so():
    book = PriceBook({})
    assert cost(book, billed("gpt-5.6-sol", input=1000, written=1000, output=0)) == Decimal("0.005")
    assert cost(book, billed("gpt-5.6-sol", input=1000, output=0)) == Decimal("0.004")


def test_unreported_cached_tokens_are_priced_on_the_upper_side_and_said_so():
    book = PriceBook({})
    quote = book.quote(billed("gpt-5", cached=None))
    assert quote.dollars == cost(book, billed("gpt-5"))
    assert quote.doubts == (Doubt.CACHE_READS_UNREPORTED,)


def test_unreported_caching_is_no_doubt_where_it_has_no_rate_of_its_own():
    book = PriceBook({"m": PriceSpec(input=Decimal(2), output=Decimal(3))})
    assert book.quote(billed("m", cached=None, written=None)).doubts == ()


def test_unreported_cache_writes_are_said_to_be_missing():
    quote = PriceBook({}).quote(billed("gpt-5.6-sol", written=None))
    assert quote.doubts == (Doubt.CACHE_WRITES_UNREPORTED,)


@pytest.mark.parametrize("missing", ["input", "output"])
def test_a_missing_count_makes_the_cost_unknown(missing):
    quote = PriceBook({}).quote(billed("gpt-5", **{missing: None}))
    assert (quote.dollars, quote.doubts) == (None, (Doubt.NO_COUNT,))


@pytest.mark.parametrize(
    "counts",
    [
        {"input": -1},
        {"output": -1},
        {"cached": -5},
        {"written": -5},
        {"reasoning": -5},
        {"cached": 1001},
        {"cached": 600, "written": 600},
        {"reasoning": 101},
    ],
)
def test_counts_that_cannot_be_true_make_the_cost_unknown_and_crash_nothing(counts):
    quote = PriceBook({}).quote(billed("gpt-5", **counts))
    assert (quote.dollars, quote.doubts) == (None, (Doubt.CONTRADICTION,))


def test_reasoning_is_part_of_the_output_and_not_paid_for_twice():
    book = PriceBook({})
    assert cost(book, billed("gpt-5", reasoning=100)) == cost(book, billed("gpt-5"))


def test_a_callers_decimal_settings_do_not_change_a_bill():
    call = billed("gpt-5", input=123_457, output=9_871)
    exact = cost(PriceBook({}), call)
    with localcontext(prec=3):
        assert cost(PriceBook({}), call) == exact


def test_a_ceiling_takes_the_dearest_kind_of_every_token():
    book = PriceBook({})
    # gpt-5.6-sol: cache writes at 5, output at 20
    assert ceiling(book, "gpt-5.6-sol") == Decimal("0.007")
    assert ceiling(book, "gpt-5.6-sol", answer=None) is None


def test_a_job_with_its_own_prices_never_loads_the_price_list():
    program = (
        "import sys\n"
        "from decimal import Decimal\n"
        "from batch_runner.job import PriceSpec\n"
        "from batch_runner.pricing import PriceBook\n"
        "book = PriceBook({'m': PriceSpec(input=Decimal(1), output=Decimal(1))})\n"
        "book.resolve('m', at=0)\n"
        "assert 'genai_prices' not in sys.modules\n"
        "book.resolve('other', at=0)\n"
        "assert 'genai_prices' in sys.modules, 'the control: a name without an override loads it'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_server_that_names_a_new_model_in_every_reply_does_not_fill_memory(monkeypatch):
    monkeypatch.setattr("batch_runner.pricing._REMEMBERED_PRICES", 8)
    book = PriceBook({"m": OWN})
    assert all(cost(book, billed("m", at=60.0 * n)) == Decimal("0.0018") for n in range(50))
    assert len(book._matches) <= 8


@pytest.mark.parametrize(
    ("base_url", "is_free"),
    [("http://127.0.0.1:8080/v1", True), ("https://gateway.example/v1", False), (None, False)],
)
def test_the_small_model_is_free_where_it_runs_on_this_machine(base_url, is_free):
    match = PriceBook({}, base_url=base_url).resolve(LOCAL_MODEL, at=AT)
    assert (match is not None) == is_free
    if match is not None:
        assert cost(PriceBook({}, base_url=base_url), billed(LOCAL_MODEL)) == 0


def test_the_advice_for_a_misspelt_model_asks_for_the_one_that_was_meant():
    assert price_advice("gpt5-mini").startswith("did you mean 'gpt-5-mini'? else add [prices.")
    assert price_advice("my-own-model-7b").startswith("add [prices.")


def test_the_small_model_is_free_by_itself_and_not_by_a_price_of_the_job():
    """`--local` lays a price over the job, so that it is remembered: the job has none."""
    laid = PriceSpec(input=Decimal(0), output=Decimal(0))
    match = PriceBook({LOCAL_MODEL: laid}).resolve(LOCAL_MODEL, at=AT)
    assert match.describe() == "free, as it is the small model that runs on this machine"
    own = PriceSpec(input=Decimal(1), output=Decimal(2))
    assert "own [prices]" in PriceBook({LOCAL_MODEL: own}).resolve(LOCAL_MODEL, at=AT).describe()

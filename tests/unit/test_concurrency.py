"""Bounds, pacing and headers: the pure part of the limiter."""

import importlib.util
import random
import statistics
import sys
from pathlib import Path

import pytest

from batch_runner.adaptive import AdaptiveLimit
from batch_runner.concurrency import Concurrency, Pacer, RateLimits, read_rate_limits


def _simulated_endpoint():
    if "simulated_endpoint" in sys.modules:
        return sys.modules["simulated_endpoint"]
    path = Path(__file__).parents[1] / "simulated_endpoint.py"
    spec = importlib.util.spec_from_file_location("simulated_endpoint", path)
    module = sys.modules["simulated_endpoint"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sim = _simulated_endpoint()
WIDE = Concurrency(minimum=1, start=20, maximum=4000)


def simulate(server, *, seconds=60, seed=1, scale_at=None, **options):
    """One run with latencies of 1 s on average, widely spread."""
    source = random.Random(seed)
    simulation = sim.Simulation(
        limit=AdaptiveLimit(WIDE),
        server=server,
        latency=lambda: source.lognormvariate(0, 0.5) / 1.133,
        **options,
    )
    return simulation, simulation.run(seconds, scale_at)


# --- bounds


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        ("auto", (1, 20, 512)),
        (64, (64, 64, 64)),
        ("64", (64, 64, 64)),
        ("4-200", (4, 20, 200)),
        ("4-10", (4, 10, 10)),
        ("40-200", (40, 40, 200)),
        ("4-40-200", (4, 40, 200)),
        (" 4 - 200 ", (4, 20, 200)),
    ],
)
def test_concurrency_reads_every_form(value, bounds):
    parsed = Concurrency.parse(value)
    assert (parsed.minimum, parsed.start, parsed.maximum) == bounds
    assert parsed.adaptive == (bounds[0] != bounds[2])


@pytest.mark.parametrize("value", ["", "fast", "4-", "-4", "1-2-3-4", "4.5", True, -1, "٤"])
def test_a_value_that_is_no_concurrency_is_shown_in_the_message(value):
    with pytest.raises(ValueError, match="MIN-MAX") as caught:
        Concurrency.parse(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, "0", "200-4", "0-4", "4-300-200"])
def test_bounds_out_of_order_are_refused(value):
    with pytest.raises(ValueError, match="1 <= minimum <= start <= maximum"):
        Concurrency.parse(value)


# --- the hidden limit


@pytest.mark.parametrize("places", [5, 30, 200, 2000])
def test_a_hidden_concurrency_is_found_within_a_minute(places):
    simulation, outcome = simulate(sim.HiddenConcurrency(places), retry_after=1.0)
    assert max(outcome.limits[-100:]) >= 0.9 * places
    assert outcome.goodput(30, 60) >= 0.9 * places / 1.05
    assert outcome.refused_share(60) < 0.03
    assert simulation.limit.rate_limited == len(outcome.refused)


@pytest.mark.parametrize("per_second", [2, 50, 500])
def test_a_hidden_rate_is_found_within_a_minute(per_second):
    _, outcome = simulate(sim.HiddenRate(per_second), retry_after=1.0)
    assert outcome.goodput(30, 60) >= 0.9 * per_second
    assert outcome.refused_share(60) < 0.03


@pytest.mark.parametrize("retry_after", [None, 5.0])
@pytest.mark.parametrize("make", [lambda: sim.HiddenConcurrency(30), lambda: sim.HiddenRate(50)])
def test_the_limit_is_found_whatever_retry_after_says(make, retry_after):
    _, outcome = simulate(make(), retry_after=retry_after)
    ideal = 50 if isinstance(make(), sim.HiddenRate) else 30 / 1.05
    assert max(outcome.goodput(at, at + 10) for at in range(20, 50)) >= 0.9 * ideal
    assert outcome.refused_share(60) < 0.03


@pytest.mark.parametrize(
    ("make", "ideal"),
    [
        (lambda: sim.HiddenConcurrency(30), 30 / 1.05),
        (lambda: sim.HiddenConcurrency(200), 200 / 1.05),
        (lambda: sim.HiddenRate(50), 50),
    ],
)
def test_the_limit_follows_when_the_hidden_one_halves_and_doubles(make, ideal):
    _, outcome = simulate(make(), seconds=180, retry_after=1.0, scale_at={60: 0.5, 120: 2.0})
    assert outcome.goodput(75, 120) >= 0.85 * ideal / 2
    assert outcome.goodput(155, 180) >= 0.85 * ideal
    assert outcome.refused_share(180) < 0.03


def test_a_retry_after_longer_than_the_gap_between_episodes_does_not_freeze_the_limit():
    _, outcome = simulate(
        sim.HiddenConcurrency(30), seconds=400, retry_after=10.0, scale_at={30: 0.1, 90: 10.0}
    )
    assert outcome.goodput(60, 90) < 5  # the control: it was low
    assert outcome.goodput(350, 400) >= 0.75 * 30 / 1.05


def test_refusals_at_random_do_not_starve_the_run():
    _, outcome = simulate(sim.Refusing(0.1, random.Random(3)), seconds=120, retry_after=1.0)
    assert outcome.goodput(60, 120) > 4


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_refusals_whatever_the_load_do_not_slow_the_run_down_for_long(share):
    _, outcome = simulate(sim.Refusing(share, random.Random(3)), seconds=180, retry_after=1.0)
    assert outcome.goodput(90, 180) > 50


@pytest.mark.parametrize("share", [0.01, 0.02])
def test_rare_refusals_whatever_the_load_do_not_slow_the_run_down_for_long(share):
    """What was cut to what got in, and held there, was refused again, for ever at ten a second."""
    reached = [
        simulate(sim.Refusing(share, random.Random(seed)), seconds=300, retry_after=1.0)[1]
        for seed in range(5)
    ]
    assert statistics.median(outcome.goodput(100, 300) for outcome in reached) > 40


def test_refusals_at_random_do_not_freeze_the_pace_low():
    """It fell to one call in five seconds where five of twenty happened to be refused."""
    source = random.Random(5)
    simulation = sim.Simulation(
        limit=AdaptiveLimit(Concurrency.parse("auto")),
        server=sim.Refusing(0.1, source),
        latency=lambda: 0.5,
        round_trip=0.01,
        jitter=lambda: source.uniform(1, 1.3),
        retry_after=1.0,
    )
    assert len(simulation.run(120).served) > 300


@pytest.mark.parametrize(("slots", "seconds"), [(1, 2.0), (4, 1.0), (4, 10.0), (16, 2.0)])
def test_an_endpoint_that_only_queues_is_not_pressed_ever_harder(slots, seconds):
    levels, answered = [], []
    for seed in range(4):
        source = random.Random(seed)
        simulation = sim.Simulation(
            limit=AdaptiveLimit(WIDE),
            server=sim.Refusing(0.0, source),
            latency=lambda source=source: seconds * source.lognormvariate(0, 0.5) / 1.133,
            slots=slots,
        )
        outcome = simulation.run(1800)
        levels.append(statistics.mean(outcome.limits))
        answered.append(outcome.goodput(60, 1800) * seconds / slots)
    assert statistics.median(levels) < 100  # it was 430 and more
    assert min(answered) > 0.9


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_an_endpoint_without_limit_is_used_in_full_however_its_latency_varies(spread, seed):
    source = random.Random(seed)
    limit = AdaptiveLimit(Concurrency.parse("auto"))
    simulation = sim.Simulation(
        limit=limit,
        server=sim.Refusing(0.0, source),
        latency=lambda: 2 * source.lognormvariate(0, spread),
    )
    simulation.run(60)
    assert limit.limit == 512


def test_longer_answers_in_the_opening_do_not_freeze_the_level():
    source, grown = random.Random(1), 0
    for seconds in (3, 6, 10):
        limit = AdaptiveLimit(Concurrency.parse("auto"))
        simulation = sim.Simulation(limit=limit, server=sim.Refusing(0.0, source), latency=None)

        def latency(since=seconds, simulation=simulation):
            longer = 3 if simulation.now >= since else 1
            return longer * 2 * source.lognormvariate(0, 0.5)

        simulation.latency = latency
        simulation.run(300)
        grown += limit.limit == 512
    assert grown == 3


def test_an_outage_moves_no_limit_and_lengthens_the_pause():
    limit = AdaptiveLimit(WIDE)
    pauses = [limit.on_rate_limited(limit.on_begin(at), at + 0.1) for at in (0.0, 10.0, 20.0, 40.0)]
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert limit.limit == 20


def test_an_idle_limit_does_not_grow():
    limit = AdaptiveLimit(WIDE)
    for at in range(500):
        limit.on_success(limit.on_begin(at), at + 0.5)
    assert limit.limit == 20


def test_a_busy_limit_doubles_each_round_until_it_is_refused():
    simulation, _ = simulate(sim.HiddenConcurrency(10**6), seconds=8)
    assert simulation.limit.limit > 20 * 2**4


def test_the_same_number_in_flight_refused_twice_is_the_limit_and_a_burst_is_one_refusal():
    limit, now = AdaptiveLimit(WIDE), 0.0
    for _ in range(2):
        tickets = [limit.on_begin(now) for _ in range(20)]
        for ticket in tickets[12:]:
            limit.on_rate_limited(ticket, now + 0.1)
        for ticket in tickets[:12]:
            limit.on_success(ticket, now + 1)
        now += 5
    assert limit.limit == 12
    assert [(event.was, event.now) for event in limit.events] == [(20, 20), (20, 12)]


def test_a_server_error_stops_growth_but_cuts_nothing():
    limit = AdaptiveLimit(WIDE)
    tickets = [limit.on_begin(0.0) for _ in range(20)]
    limit.on_server_error(0.5)
    for ticket in tickets[1:]:
        limit.on_success(ticket, 1.0)
    assert limit.limit == 20
    tickets = [limit.on_begin(6.0) for _ in range(20)]
    limit.on_success(tickets[0], 7.0)
    assert limit.limit == 21


def test_a_fixed_limit_never_moves():
    limit = AdaptiveLimit(Concurrency.parse(8))
    for at in range(50):
        tickets = [limit.on_begin(at) for _ in range(8)]
        limit.on_rate_limited(tickets[0], at + 0.1)
        for ticket in tickets[1:]:
            limit.on_success(ticket, at + 0.9)
    assert limit.limit == 8
    assert limit.pace is None
    assert limit.events == []


def test_the_list_of_events_stays_bounded():
    limit = AdaptiveLimit(WIDE)
    for at in range(0, 5000, 2):
        good, bad = limit.on_begin(at), limit.on_begin(at)
        limit.on_success(good, at + 1)
        limit.on_rate_limited(bad, at + 1)
    assert len(limit.events) <= 1000


# --- pacing


def test_calls_are_spread_evenly():
    pacer = Pacer(10.0)
    assert [round(pacer.reserve(0.0), 3) for _ in range(4)] == [0, 0.1, 0.2, 0.3]


def test_no_minute_holds_more_than_its_budget():
    pacer, now, sent = Pacer(600 / 60), 0.0, []
    for pause in [0.0] * 700 + [30.0] + [0.0] * 700:
        now += pause
        now += pacer.reserve(now)
        sent.append(now)
    for start in sent:
        assert sum(start <= at < start + 60 - 1e-6 for at in sent) <= 600


def test_a_call_above_the_whole_budget_goes_and_the_next_one_pays():
    pacer = Pacer(60 / 60)
    assert pacer.reserve(0.0, 90) == 0
    assert pacer.reserve(0.0, 1) == 90


def test_what_was_not_used_is_given_back():
    pacer = Pacer(100.0)
    pacer.reserve(0.0, 1000)
    pacer.correct(-900)
    assert pacer.reserve(0.0, 1) == pytest.approx(1.0)


# --- headers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("59.5s", 59.5),
        ("1h2m3s", 3723),
        ("1m30.5s", 90.5),
        ("7", 7),
        ("0", 0),
        (" 2S ", 2),
        ("-1", None),
        ("-1s", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("9" * 400, None),
        ("1s and more", None),
        ("٣s", None),
        (None, None),
    ],
)
def test_durations_are_read_or_unknown(text, seconds):
    headers = {} if text is None else {"x-ratelimit-reset-requests": text}
    read = read_rate_limits(headers).reset_requests_seconds
    assert read == (None if seconds is None else pytest.approx(seconds))


def test_all_six_headers_are_read():
    names = [
        f"{kind}-{what}"
        for kind in ("limit", "remaining", "reset")
        for what in ("requests", "tokens")
    ]
    read = read_rate_limits({f"x-ratelimit-{name}": str(at) for at, name in enumerate(names)})
    assert read == RateLimits(
        limit_requests=0,
        limit_tokens=1,
        remaining_requests=2,
        remaining_tokens=3,
        reset_requests_seconds=4,
        reset_tokens_seconds=5,
    )


def test_an_attempt_waits_for_the_budget_that_it_lacks():
    limits = RateLimits(
        remaining_requests=3,
        reset_requests_seconds=1,
        remaining_tokens=100,
        reset_tokens_seconds=8,
    )
    assert limits.exhausted_seconds(50) == 0
    assert limits.exhausted_seconds(500) == 8
    assert RateLimits(remaining_requests=0, reset_requests_seconds=2).exhausted_seconds(0) == 2
    assert RateLimits(remaining_requests=0).exhausted_seconds(0) == 0

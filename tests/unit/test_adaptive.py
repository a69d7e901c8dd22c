import importlib.util
import sys
from pathlib import Path

import pytest

from batch_runner.adaptive import AdaptiveLimit
from batch_runner.concurrency import Concurrency


TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("origin", [0.0, 1e6])
def test_what_the_clock_said_before_the_first_attempt_does_not_matter(origin):
    """With the uptime of the machine in the reckoning, one 429 cut the pace to one call a second."""
    limit = AdaptiveLimit(Concurrency.parse("auto"))
    now = origin
    for _ in range(10):
        tickets = [limit.on_begin(now) for _ in range(10)]
        now += 0.1
        for ticket in tickets:
            limit.on_success(ticket, now)
    limit.on_rate_limited(limit.on_begin(now), now, 1.0)
    assert limit.pace is not None
    assert limit.pace > 40


# --- the figures demanded of it: 90 % of a hidden limit from 60 s on, under 3 % answered 429


def _load(name, path):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


_load("simulated_endpoint", TESTS / "simulated_endpoint.py")
bench = _load("bench_limiter", TESTS / "benchmarks" / "bench_limiter.py")


def reached(seed, hidden, bucket, latency, **options):
    cell = bench.Cell(
        hidden=hidden, bucket=bucket, latency=latency, **{"says_when": True, **options}
    )
    return bench.figures(cell, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("hidden", "bucket", "latency"),
    [
        (5, None, 0.3),
        (5, None, 2.0),
        (20, None, 2.0),
        (20, None, 0.3),
        (100, None, 0.3),
        (100, None, 2.0),
        (400, None, 0.3),
        (2, 0.1, 0.005),
        (2, 0.1, 0.3),
        (2, 1.0, 0.3),
        (2, 1.0, 2.0),
        (10, 0.1, 0.005),
        (10, 1.0, 2.0),
        (50, 0.1, 0.3),
        (50, 1.0, 2.0),
        (50, bench.ANY_SECOND, 0.3),
        (50, bench.ANY_SECOND, 2.0),
        (50, bench.SECOND, 0.005),
    ],
)
def test_a_hidden_limit_is_reached_within_a_minute_at_the_cost_of_few_refusals(
    hidden, bucket, latency, seed
):
    figures = reached(seed, hidden, bucket, latency)
    assert figures.from_60 >= 0.9
    assert figures.refused_by_60 < 0.03
    assert figures.refused < 0.03


@pytest.mark.parametrize("says_when", [True, False])
@pytest.mark.parametrize(("hidden", "latency"), [(2, 0.3), (10, 0.3), (50, 0.3), (50, 2.0)])
def test_a_budget_of_whole_minutes_is_used_up(hidden, latency, says_when):
    figures = reached(0, hidden, "a minute", latency, says_when=says_when)
    assert figures.from_60 >= 0.99


@pytest.mark.parametrize("seed", [2, 5, 7])
def test_a_refusal_that_overtook_others_does_not_tell_that_they_got_in(seed):
    """Begun first after a pause, and refused a moment later: the minute is spent for all of them."""
    assert reached(seed, 50, "a minute", 2.0, says_when=False).from_60 >= 0.99


def test_a_limit_that_doubled_is_not_taken_for_a_deep_one_for_ever():
    assert reached(8, 10, 1.0, 0.3, says_when=False).at_end >= 0.9


@pytest.mark.parametrize(("hidden", "bucket"), [(20, None), (100, None), (2, 1.0), (50, 1.0)])
def test_a_limit_that_halves_and_doubles_is_followed(hidden, bucket):
    figures = reached(1, hidden, bucket, 0.3)
    assert figures.halved is not None
    assert figures.halved <= 60
    assert figures.doubled is not None
    assert figures.doubled <= 75  # a minute is what a slow endpoint is left alone for
    assert figures.at_end >= 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("hidden", "latency"), [(10, 0.005), (50, 0.3), (50, 2.0)])
def test_a_count_of_the_calls_of_any_second_does_not_hold_it_low_for_ever(hidden, latency, seed):
    """It was taken for a bucket of a second, or for places: at one pace as many are in flight."""
    assert reached(seed, hidden, bench.ANY_SECOND, latency, says_when=False).at_end >= 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("hidden", "latency"), [(10, 0.005), (10, 0.3), (50, 0.3)])
def test_a_count_of_the_calls_of_each_second_of_the_clock_is_followed(hidden, latency, seed):
    """Twice as many get in within a second that the clock divides: no bucket does so afterwards."""
    figures = reached(seed, hidden, bench.SECOND, latency, says_when=False)
    assert figures.from_60 >= 0.89
    assert figures.halved is not None
    assert figures.halved <= 60
    assert figures.at_end >= 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latency", [0.005, 0.3, 2.0])
def test_a_limit_of_one_call_at_a_time_that_halves_is_followed(latency, seed):
    figures = reached(seed, 10, 0.1, latency, ways_differ=False)  # or none could reach 90 %
    assert figures.halved is not None
    assert figures.halved <= 60
    assert figures.doubled is not None
    assert figures.doubled <= 75


@pytest.mark.parametrize(("hidden", "latency"), [(5, 2.0), (20, 0.3), (100, 0.3)])
def test_places_that_double_are_taken_at_the_next_try(hidden, latency):
    figures = reached(1, hidden, None, latency)
    assert figures.doubled is not None
    assert figures.doubled <= 30  # seconds: so long one pays for a refusal that lasts one

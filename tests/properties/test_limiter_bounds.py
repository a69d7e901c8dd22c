"""Whatever the answers, the limit keeps its bounds and its books."""

import importlib.util
import math
import random
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from batch_runner.adaptive import EVENTS_KEPT, AdaptiveLimit
from batch_runner.concurrency import Concurrency, Pacer, read_rate_limits


def _simulated_endpoint():
    if "simulated_endpoint" in sys.modules:
        return sys.modules["simulated_endpoint"]
    path = Path(__file__).parents[1] / "simulated_endpoint.py"
    spec = importlib.util.spec_from_file_location("simulated_endpoint", path)
    module = sys.modules["simulated_endpoint"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sim = _simulated_endpoint()
BOUNDS = st.tuples(*[st.integers(1, 300)] * 3).map(
    lambda three: Concurrency(
        **dict(zip(("minimum", "start", "maximum"), sorted(three), strict=True))
    )
)
SMALL_BOUNDS = st.integers(2, 12).map(lambda top: Concurrency(minimum=1, start=2, maximum=top))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "success", "success", "refused", "error", "neutral"]),
        st.floats(0, 20),
        st.one_of(st.none(), st.floats(0.001, 1e5)),
        st.integers(0, 10**6),
    ),
    max_size=200,
)


@settings(max_examples=150, deadline=None)
@given(BOUNDS, STEPS)
def test_the_limit_stays_within_its_bounds_and_counts_every_attempt(bounds, steps):
    limit, tickets, now, refused = AdaptiveLimit(bounds), [], 0.0, 0
    for what, seconds, retry_after, pick in steps:
        now += seconds
        if what == "begin":
            if len(tickets) < limit.limit:
                tickets.append(limit.on_begin(now))
        elif tickets:
            ticket = tickets.pop(pick % len(tickets))
            if what == "success":
                limit.on_success(ticket, now)
            elif what == "error":
                limit.on_server_error(now)
            elif what == "neutral":
                limit.on_neutral()
            else:
                refused += 1
                pause = limit.on_rate_limited(ticket, now, retry_after)
                assert pause >= (retry_after or 0)
                assert math.isfinite(pause)
                limit.on_pause(pause)
        assert bounds.minimum <= limit.limit <= bounds.maximum
        assert bounds.adaptive or limit.limit == bounds.start
        assert limit.in_flight == len(tickets)
        assert limit.rate_limited == refused
        assert limit.pace is None or 0 < limit.pace < math.inf
        assert len(limit.events) <= EVENTS_KEPT


@settings(max_examples=20, deadline=None)
@given(SMALL_BOUNDS, STEPS)
def test_whatever_happened_an_endpoint_without_limit_brings_the_limit_up_again(bounds, steps):
    limit, now = AdaptiveLimit(bounds), 0.0
    for what, seconds, retry_after, _ in steps:
        now += min(seconds, 5)
        ticket = limit.on_begin(now)
        if what in ("refused", "error"):
            limit.on_rate_limited(ticket, now, retry_after and min(retry_after, 5.0))
        else:
            limit.on_success(ticket, now)
    server = sim.Refusing(0.0, random.Random(1))
    simulation = sim.Simulation(limit=limit, server=server, latency=lambda: 0.95, began=now)
    outcome = simulation.run(now + 600)
    assert outcome.goodput(now + 570, now + 600) >= 0.9 * bounds.maximum


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.01, 1000),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 500)), min_size=1, max_size=60),
)
def test_a_pacer_never_gives_out_more_than_its_rate_and_one_call(per_second, calls):
    pacer, now, turns = Pacer(per_second), 0.0, []
    for gap, amount in calls:
        now += gap
        wait = pacer.reserve(now, amount)
        assert 0 <= wait < math.inf
        turns.append((now + wait, amount))
    begun = turns[0][0]
    given_out = sum(amount for _, amount in turns[:-1])
    assert (
        given_out
        <= (turns[-1][0] - begun) * per_second * (1 + 1e-6) + max(a for _, a in turns) + 1e-6
    )


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"x-ratelimit-{k}-{w}"
                for k in ("limit", "remaining", "reset")
                for w in ("requests", "tokens")
            ]
        ),
        st.one_of(st.text(max_size=20), st.from_regex(r"-?[0-9.]{1,9}(ms|s|m|h)?", fullmatch=True)),
    )
)
def test_no_header_breaks_the_reading(headers):
    limits = read_rate_limits(headers)
    assert 0 <= limits.exhausted_seconds(100) < math.inf

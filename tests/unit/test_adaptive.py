import pytest

from batch_runner.adaptive import AdaptiveLimit
from batch_runner.concurrency import Concurrency


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
    assert limit.pace > 50

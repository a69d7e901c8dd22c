import random

from batch_runner.timeline import MOST_BINS, Timeline


def test_a_million_seconds_of_rows_stay_in_two_hundred_bins_and_none_is_lost():
    timeline = Timeline()
    source = random.Random(1)
    for second in range(0, 1_000_000, 250):
        started = 1.7e9 + second
        timeline.add(started, started + source.random() * 30, failed=second % 1000 == 0, repeats=1)
    assert len(timeline.bins) <= MOST_BINS
    assert sum(one.answered for one in timeline.bins.values()) == 3000
    assert sum(one.failed for one in timeline.bins.values()) == 1000
    assert sum(one.repeats for one in timeline.bins.values()) == 4000


def test_time_in_hand_is_kept_when_bins_grow():
    timeline = Timeline()
    timeline.add(100.0, 103.5, failed=False, repeats=0)
    timeline.add(100.0, 90_000.0, failed=False, repeats=0)
    busy = sum(one.busy_seconds for one in timeline.bins.values())
    assert abs(busy - (3.5 + 89_900)) < 1e-3


def test_nights_are_drawn_and_days_between_them_are_not():
    timeline = Timeline()
    for night in range(3):
        for row in range(20):
            at = 1.7e9 + 86_400 * night + row
            timeline.add(at, at + 1, failed=False, repeats=0)
    stretches = [*timeline.stretches()]
    assert len(stretches) == 3
    assert sum(len(bins) for _, bins in stretches) <= MOST_BINS


def test_a_clock_that_jumped_back_makes_a_row_a_moment():
    timeline = Timeline()
    timeline.add(200.0, 100.0, failed=True, repeats=0)
    assert [one.failed for one in timeline.bins.values()] == [1]
    assert sum(one.busy_seconds for one in timeline.bins.values()) == 0


def test_a_repeat_is_drawn_when_it_was_made():
    timeline = Timeline()
    timeline.add(100.0, 110.0, failed=False, repeats=3, repeated_at=(103.0, 99.0))
    seconds = {number * timeline.width: one.repeats for number, one in timeline.bins.items()}
    assert {at: repeats for at, repeats in seconds.items() if repeats} == {
        100.0: 1,  # by a clock that was set meanwhile
        103.0: 1,
        110.0: 1,  # whose time was not kept
    }

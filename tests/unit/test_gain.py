from batch_runner.gain import FIRST_WAIT, Gain


def answers(gain, level, now, per_second, count):
    """So many more answers at this pace. Returns the level that is left, and the time."""
    for _ in range(count):
        now += 1 / per_second
        level = gain.answered(level, now)
    return level, now


def test_a_level_at_which_nothing_more_is_answered_is_taken_back():
    gain = Gain(20.0, 0.0)
    level, now = answers(gain, 20.0, 0.0, 4.0, 20)
    assert gain.ceiling(now) > 40
    level, now = answers(gain, 40.0, now, 4.0, 1)
    gain.idle(40.0, now)
    level, now = answers(gain, 40.0, now, 4.0, 40)
    assert level == 20.0
    assert gain.ceiling(now) == 20.0


def test_more_is_tried_again_after_a_while():
    gain = Gain(20.0, 0.0)
    _, now = answers(gain, 20.0, 0.0, 4.0, 20)
    gain.idle(40.0, now)
    _, now = answers(gain, 40.0, now, 4.0, 40)
    assert gain.ceiling(now + FIRST_WAIT) == 40.0


def test_a_level_that_brings_more_answers_is_the_next_to_be_measured_against():
    gain = Gain(20.0, 0.0)
    _, now = answers(gain, 20.0, 0.0, 4.0, 20)
    gain.idle(40.0, now)
    level, now = answers(gain, 40.0, now, 5.0, 40)
    assert level == 40.0
    assert gain.ceiling(now) > 80


def test_a_pause_is_not_held_against_the_level():
    gain = Gain(20.0, 0.0)
    _, now = answers(gain, 20.0, 0.0, 4.0, 20)
    gain.idle(40.0, now)
    gain.on_pause(60.0)
    level, _ = answers(gain, 40.0, now + 60.0, 8.0, 40)
    assert level == 40.0

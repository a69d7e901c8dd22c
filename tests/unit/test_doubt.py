from batch_runner.doubt import DOUBTED_SECONDS, TELLING, Doubt


def test_refusals_that_keep_coming_are_doubted_for_a_minute():
    doubt, begun = Doubt(), []
    for now in range(12):
        for _ in range(10):
            doubt.begin()
        doubt.count()
        doubt.judge(again=False, got_in=9, provoked=True, now=now)
        if doubt.begins(now):
            begun.append(now)
    assert len(begun) == 1
    assert doubt.lasts(begun[0] + DOUBTED_SECONDS - 1)
    assert not doubt.lasts(begun[0] + DOUBTED_SECONDS)


def test_a_doubt_that_held_lasts_longer_the_next_time():
    doubt, begun = Doubt(), []
    for now in range(300):
        doubt.begin()
        doubt.judge(again=False, got_in=9, provoked=True, now=now)
        if doubt.begins(now):
            begun.append(now)
    first, second, third = begun
    assert second - first == DOUBTED_SECONDS
    assert third - second == 2 * DOUBTED_SECONDS


def test_refusals_far_apart_are_believed():
    doubt = Doubt()
    for now in range(100):
        doubt.count()
        doubt.judge(again=False, got_in=100, provoked=True, now=now)
        assert not doubt.begins(now)


def test_refusals_far_apart_that_nothing_provoked_are_doubted():
    doubt = Doubt()
    begun = 0
    for now in range(10):
        doubt.count()
        doubt.judge(again=False, got_in=100, provoked=False, now=now)
        begun += doubt.begins(now)
    assert begun == 1


def test_an_endpoint_that_refuses_each_row_once_is_found_out_after_four_rows():
    doubt = Doubt()
    for row in range(5):
        doubt.judge(again=False, got_in=1, provoked=True, now=row)
        assert doubt.begins(row) == (row == 4)
        doubt.served(again=True)
    assert doubt.each_once


def test_a_doubt_that_brings_more_refusals_was_wrong():
    doubt = Doubt()
    for now in range(20):
        doubt.begin()
        doubt.count()
        doubt.judge(again=False, got_in=9, provoked=True, now=now)
        if doubt.begins(now):
            break
    for _ in range(TELLING):
        assert not doubt.was_wrong(now + 1), "a few refusals are no share"
        doubt.begin()
        doubt.count()
    assert doubt.was_wrong(now + 1)
    assert not doubt.lasts(now + 1)

import hashlib
import random

import pytest

from batch_runner.journal import Index
from batch_runner.records import ErrorCode, RowStatus


def key(n):
    return hashlib.blake2b(str(n).encode(), digest_size=16).digest()


def record(index, n, status, code=None, offset=0):
    return index.record(key(n), index.ending(status, code), 0, offset, 100)


def test_every_key_is_found_under_the_number_it_was_given():
    index = Index()
    numbers = [index.add(key(n)) for n in range(20_000)]
    assert numbers == list(range(20_000))
    assert [index.add(key(n)) for n in range(20_000)] == numbers
    assert [index.number(key(n)) for n in range(20_000)] == numbers
    assert all(index.key(n) == key(n) for n in range(0, 20_000, 97))
    assert index.number(key("another")) is None
    assert len(index) == 20_000


def test_keys_that_share_their_first_bytes_are_told_apart():
    index = Index()
    keys = [bytes(8) + n.to_bytes(8, "big") for n in range(300)]
    assert [index.add(each) for each in keys] == list(range(300))
    assert [index.number(each) for each in keys] == list(range(300))


def test_a_key_without_a_result_has_no_entry():
    index = Index()
    number = index.add(key(1))
    assert index.entry(number) is None
    assert index.find(key(1)) is None
    assert index.find(key(2)) is None


def test_an_entry_tells_how_and_where():
    index = Index()
    index.open_file("00000000.jsonl")
    file = index.open_file("00000001.jsonl")
    code = 'other:a "quoted" one'
    index.record(key(1), index.ending(RowStatus.FAILED, code), file, 2**40, 2**32 - 1)
    entry = index.find(key(1))
    assert (entry.status, entry.code) == (RowStatus.FAILED, code)
    assert (entry.file, entry.offset, entry.length) == (file, 2**40, 2**32 - 1)


@pytest.mark.parametrize(
    ("order", "winner"),
    [
        ([RowStatus.OK, RowStatus.FAILED], 0),
        ([RowStatus.FAILED, RowStatus.OK], 1),
        ([RowStatus.INCOMPLETE, RowStatus.FAILED], 0),
        ([RowStatus.REFUSED, RowStatus.SKIPPED], 0),
        ([RowStatus.INCOMPLETE, RowStatus.OK], 1),
        ([RowStatus.OK, RowStatus.OK], 1),
        ([RowStatus.FAILED, RowStatus.FAILED], 1),
        ([RowStatus.FAILED, RowStatus.OK, RowStatus.FAILED, RowStatus.FAILED], 1),
    ],
)
def test_the_latest_answer_wins_over_any_failure(order, winner):
    index = Index()
    for offset, status in enumerate(order):
        record(index, 1, status, offset=offset)
    assert index.find(key(1)).offset == winner


def test_results_that_do_not_count_are_found_too_in_the_order_they_were_written():
    index = Index()
    for offset, (n, status) in enumerate([
        (1, RowStatus.FAILED), (2, RowStatus.OK), (1, RowStatus.OK), (3, RowStatus.FAILED),
        (1, RowStatus.FAILED), (2, RowStatus.FAILED), (1, RowStatus.OK),
    ]):  # fmt: skip
        record(index, n, status, offset=offset)

    def others(index):
        return [[e.offset for e in index.superseded(index.number(key(n)))] for n in (1, 2, 3)]

    assert others(index) == [[0, 2, 4], [5], []]
    assert others(Index.unpacked(index.packed())) == others(index)
    record(index, 3, RowStatus.FAILED, offset=7)
    assert others(index)[2] == [3]


def test_codes_without_end_are_all_kept_apart():
    index = Index()
    for n in range(70_000):
        record(index, n % 50, RowStatus.FAILED, f"other:{n}")
    assert index.find(key(49)).code == "other:69999"
    record(index, 49, RowStatus.FAILED, ErrorCode.TIMEOUT)
    assert index.find(key(49)).code == "timeout"


def test_a_row_costs_about_forty_bytes():
    index = Index()
    count = 60_000
    for n in range(count):
        record(index, n, RowStatus.OK)
    held = sum(len(memoryview(part).cast("B")) for part in vars(index).values() if _is_packed(part))
    assert held / count < 48  # the table is at its emptiest just after it has grown


def _is_packed(part):
    try:
        return memoryview(part).nbytes > 100
    except TypeError:
        return False


def test_it_agrees_with_a_dict():
    index = Index()
    expected = {}
    dice = random.Random(7)
    for offset in range(5_000):
        n = dice.randrange(1_000)
        status = dice.choice([RowStatus.OK, RowStatus.FAILED])
        record(index, n, status, offset=offset)
        if status is RowStatus.OK or expected.get(n, (RowStatus.FAILED,))[0] is RowStatus.FAILED:
            expected[n] = (status, offset)
    for n in range(1_000):
        entry = index.find(key(n))
        assert (entry and (entry.status, entry.offset)) == expected.get(n)


def test_a_key_of_the_wrong_length_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="16 bytes"):
        Index().add(b"short")

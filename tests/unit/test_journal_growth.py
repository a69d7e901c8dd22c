"""A journal that is still being written, read piece by piece."""

import json

import pytest

from batch_runner.errors import StorageError
from batch_runner.journal import Durability, Growth, Journal, RunDirectory
from batch_runner.journal.record import read_dues, result_body
from batch_runner.records import Billed, Completion, RowResult, UnknownBilling, Usage


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "out.csv.run")
    directory.create()
    return directory


def result(number, **changes):
    billed = Billed(usage=Usage(input_tokens=7), model="m1", service_tier=None, at=1.0)
    values = {
        "key": bytes([number]) * 16, "row": number, "ending": Completion(text=f"answer {number}"),
        "billed": (billed,), "asked_model": "m1", "finished_at": 5.0,
    }  # fmt: skip
    return RowResult(**(values | changes))


def write(directory, *numbers, run_id="r"):
    writer = Journal(directory, run_id=run_id, durability=Durability.OFF)
    for number in numbers:
        writer.finish(result(number))
    writer.close(clean=True)


def rows(growth):
    """The rows of the results that have come since the last time."""
    lines = [json.loads(data) for _, lines in growth.news() for _, data, _ in lines]
    return [line["row"] for line in lines if "result" in line]


def test_each_line_is_given_once(directory):
    growth = Growth(directory)
    assert rows(growth) == []
    write(directory, 1, 2)
    assert rows(growth) == [1, 2]
    assert rows(growth) == []
    write(directory, 3, run_id="next")
    assert rows(growth) == [3]
    assert growth.damage == []


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_half_a_line_waits_for_its_other_half(directory, cut):
    write(directory, 1, 2)
    segment = directory.segment(0)
    whole = segment.read_bytes()
    end = whole.rindex(b'{"end"')
    growth = Growth(directory)
    segment.write_bytes(whole[: end - cut])
    first = rows(growth)
    assert first == ([1, 2] if cut == 1 else [1])  # only the newline was missing
    with segment.open("ab") as file:
        file.write(whole[end - cut :])
    assert first + rows(growth) == [1, 2]
    assert growth.damage == []


def test_what_is_damaged_stays_told_and_hides_nothing_behind_it(directory):
    write(directory, 1, 2, 3)
    segment = directory.segment(0)
    segment.write_bytes(segment.read_bytes().replace(b"answer 2", b"answer 9"))
    growth = Growth(directory)
    assert rows(growth) == [1, 3]
    write(directory, 4, run_id="next")
    assert rows(growth) == [4]
    assert [place.is_expected for place in growth.damage] == [False]


def test_a_known_segment_that_is_gone_is_an_error_that_names_it(directory):
    write(directory, 1)
    segment = directory.segment(0)
    segment.unlink()
    with pytest.raises(StorageError, match=segment.name):
        Growth(directory).pass_over([segment.name])


def test_a_journal_that_was_put_aside_is_noticed(directory):
    write(directory, 1)
    growth = Growth(directory)
    rows(growth)
    assert not growth.is_replaced()
    directory.segments.rename(directory.path / "aside")
    assert growth.is_replaced()


def test_what_a_result_cost_is_read_without_its_reply():
    calls = ({"type": "function_call", "reply": {"x": 1}, "arguments": "{}"},)
    hostile = [
        result(1, reply={"billed": [], "finished_at": 9.0, "output": []}),
        result(1, ending=Completion(text='"}],"reply":{', tool_calls=calls), reply={"output": []}),
        result(1, ending=Completion(text="x"), unknown={UnknownBilling.TIMEOUT: 2}),
    ]
    for one in hostile:
        dues = read_dues(result_body(one) + b"}")
        assert (dues.billed, dues.finished_at, dues.asked_model) == (one.billed, 5.0, "m1")
        assert dues.unknown == sum(one.unknown.values())

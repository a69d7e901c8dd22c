"""How the rows of the input stood when a run began, kept for whoever has the journal alone."""

import json
from array import array
from collections import Counter

import pytest

from batch_runner.journal import Index, Manifest
from batch_runner.outset import MARK, endings_of, outset_of, read_outset
from batch_runner.plan import UNSENDABLE, Plan
from batch_runner.records import RowStatus


@pytest.fixture
def index():
    index = Index()
    file = index.open_file("00000000.jsonl")
    for number, ending in enumerate([(RowStatus.OK, None), (RowStatus.FAILED, "timeout")]):
        index.record(bytes([number]) * 16, index.ending(*ending), file, 100 * number, 90)
    index.add(b"new key, 16 byte")
    index.record(b"left the input!!", index.ending(RowStatus.OK, None), file, 500, 90)
    return index


def plan(**changes):
    """Rows: ok, timeout, one never sent, the first once more, and one without a request."""
    return Plan(
        entries=array("I", [0, 1, 2, 0, UNSENDABLE]),
        occurrences=array("I", [0, 0, 0, 1, 0]),
        wanted=bytearray([0, 1, 1, 0, 0]),
        duplicates=1,
        unsendable=Counter({(RowStatus.FAILED, "bad_input"): 1}),
        **changes,
    )


def manifest(mark):
    extra = json.loads(json.dumps({MARK: mark}))
    return Manifest(fingerprint="f", job={}, input={}, extra=extra)


def test_the_rows_of_the_input_count_and_no_other_results(index):
    outset = outset_of(plan(dedupe=True), index, run_id="r")
    assert (outset.rows, outset.to_send, outset.sharing) == (5, 2, 1)
    assert outset.endings == {
        (RowStatus.OK, None): 1,
        (RowStatus.FAILED, "timeout"): 1,
        (RowStatus.PENDING, None): 1,
        (RowStatus.FAILED, "bad_input"): 1,
    }
    assert endings_of(plan(dedupe=True), index)[RowStatus.OK, None] == 2
    assert read_outset(manifest(outset.to_json())) == outset


@pytest.mark.parametrize("mark", [None, [], {}, {"run_id": "r"}, {"endings": 3}])
def test_what_another_version_wrote_is_not_guessed_at(mark):
    assert read_outset(manifest(mark)) is None

import hashlib
from dataclasses import replace

import anyio
import pytest

from batch_runner.disk import Disk
from batch_runner.errors import StorageError, UsageError
from batch_runner.job import Durability
from batch_runner.journal import (
    DamageKind,
    Intent,
    Journal,
    RunDirectory,
    replay,
    result_of,
    verify,
)
from batch_runner.journal.line import seal
from batch_runner.journal.verify import VerifyReport
from batch_runner.records import (
    Billed,
    Completion,
    Failure,
    Pending,
    RowResult,
    RowStatus,
    UnknownBilling,
    Usage,
)


def key(n):
    return hashlib.blake2b(str(n).encode(), digest_size=16).digest()


def intent(n, attempt=1):
    return Intent(
        key=key(n), attempt=attempt, row=n, model="m", request_bytes=10, max_output_tokens=5
    )


def answer(n, text="yes"):
    return RowResult(key=key(n), row=n, ending=Completion(text=text))


def failure(n, code="timeout"):
    return RowResult(key=key(n), row=n, ending=Failure(code=code, message="too late"))


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "out.csv.run")
    directory.create()
    return directory


def open_journal(directory, run_id="r1", **options):
    return Journal(directory, run_id=run_id, durability=Durability.OFF, reserve_bytes=0, **options)


def test_a_folder_that_never_ran_has_nothing_to_tell(tmp_path):
    with replay(RunDirectory(tmp_path / "none.run")) as found:
        assert found.find(key(1)) is None
        assert (found.damage, found.unknown, found.runs) == ([], (), ())
        assert list(found.results()) == []
    assert not (tmp_path / "none.run").exists()


def test_the_latest_answer_counts_and_every_result_was_paid(directory):
    history = [answer(1, "first"), failure(1), answer(1, "second"), failure(2), failure(2, "auth")]
    for run, result in enumerate(history):
        with open_journal(directory, f"r{run}") as journal:
            journal.finish(result)
    with replay(directory) as found:
        assert found.load(found.find(key(1))) == history[2]
        assert found.find(key(2)).code == "auth"
        assert found.find(key(2)).status is RowStatus.FAILED
        assert list(found.results()) == history


def test_a_row_is_told_with_every_call_for_it(directory):
    def paid(tokens, **fields):
        one = Billed(usage=Usage(output_tokens=tokens), model="m", service_tier=None, at=tokens)
        return replace(answer(1), billed=(one,), final_usage=one.usage, **fields)

    killed = open_journal(directory, "killed")
    killed.begin(intent(1))
    history = [
        paid(1, attempts=2),
        paid(2),
        replace(failure(1), unknown={UnknownBilling.TIMEOUT: 1}),
        answer(2),
    ]
    for run, result in enumerate(history):
        with open_journal(directory, f"r{run}") as journal:
            journal.finish(result)
    with replay(directory) as found:
        told = result_of(found.told_of_all(found.find(key(1))))
        assert [one.at for one in told.billed] == [1, 2]
        assert told.final_usage == history[1].final_usage
        assert (told.run_id, told.attempts) == ("r1", 5)
        assert told.unknown == {UnknownBilling.TIMEOUT: 1, UnknownBilling.CRASH: 1}
        alone = found.find(key(2))
        assert found.told_of_all(alone) == found.told(alone)
    killed.close(clean=False)


@pytest.mark.parametrize("failed_before", [0, 1])
def test_a_background_response_is_a_lost_call_until_its_row_is_told(directory, failed_before):
    with open_journal(directory) as journal:
        for _ in range(failed_before):
            journal.finish(failure(1))
    killed = open_journal(directory, "killed")
    killed.begin(intent(1))
    wait_for_response(killed, 1, "resp_1")
    with replay(directory) as found:
        if failed_before:
            told = result_of(found.told_of_all(found.find(key(1))))
            assert (told.attempts, told.unknown) == (2, {UnknownBilling.CRASH: 1})
        with open_journal(directory, "second", index=found.index) as journal:
            journal.finish(answer(1))
        told = result_of(found.told_of_all(found.find(key(1))))
        assert (told.attempts, told.unknown) == (1 + failed_before, {})
    killed.close(clean=False)


def test_calls_in_flight_when_a_process_died_are_unknown(directory):
    first = open_journal(directory, "killed", segment_bytes=400)
    for n in range(6):
        first.begin(intent(n))
    first.finish(answer(0))
    first.begin(intent(1, attempt=2))
    first.finish(failure(1))
    with open_journal(directory, "second") as journal:
        journal.begin(intent(2))
        journal.finish(answer(2))
    with replay(directory) as found:
        assert list(found.unknown) == [intent(n) for n in range(2, 6)]
        assert [(run.run_id, run.ended_cleanly) for run in found.runs] == [
            ("killed", False),
            ("second", True),
        ]
    first.close(clean=False)


def test_a_run_that_still_goes_on_can_be_read(directory):
    journal = open_journal(directory, settings={"model": "m"})
    journal.begin(intent(1))
    journal.finish(answer(1))
    journal.begin(intent(2))
    with replay(directory) as found:
        assert found.find(key(1)).status is RowStatus.OK
        assert [each.row for each in found.unknown] == [2]
        assert found.runs[0].settings == {"model": "m"}
        assert not found.runs[0].ended_cleanly
    journal.close(clean=True)


def test_an_entry_whose_line_has_rotted_since_is_not_believed(directory):
    with open_journal(directory) as journal:
        journal.finish(answer(1, "the truth"))
    with replay(directory) as found:
        path = directory.segment(0)
        path.write_bytes(path.read_bytes().replace(b"truth", b"trash"))
        assert found.load(found.find(key(1))) is None


def test_another_rows_line_is_never_taken_for_the_one_asked_for(directory):
    with open_journal(directory) as journal:
        journal.finish(answer(1))
        journal.finish(answer(2))
    with replay(directory) as found:
        one, two = found.find(key(1)), found.find(key(2))
        assert one.length == two.length
        data = directory.segment(0).read_bytes()
        moved = bytearray(data)
        moved[one.offset : one.offset + one.length] = data[two.offset : two.offset + two.length]
        directory.segment(0).write_bytes(moved)
        assert found.load(one) is None
        assert found.load(two) == answer(2)


def test_a_segment_that_has_vanished_gives_no_answer(directory):
    with open_journal(directory) as journal:
        journal.finish(answer(1))
    with replay(directory) as found:
        directory.segment(0).unlink()
        assert found.load(found.find(key(1))) is None


def test_results_in_a_hundred_segments_are_read_with_few_open_files(directory):
    with open_journal(directory, segment_bytes=1) as journal:
        for n in range(100):
            journal.finish(answer(n, f"text {n}"))

    class CountingDisk(Disk):
        opened = 0

        def open(self, path, flags, mode=0o600):
            self.opened += 1
            return super().open(path, flags, mode)

        def close(self, fd):
            self.opened -= 1
            super().close(fd)

    disk = CountingDisk()
    with replay(directory, disk=disk) as found:
        for n in [*range(100), *range(0, 100, 7)]:
            assert found.load(found.find(key(n))).ending.text == f"text {n}"
        assert disk.opened <= 32
    assert disk.opened == 0


def test_a_line_longer_than_many_chunks_is_read_whole(directory):
    text = "long " * 3_000_000
    with open_journal(directory) as journal:
        journal.finish(answer(1, text))
        journal.finish(answer(2))
    with replay(directory) as found:
        assert found.load(found.find(key(1))).ending.text == text
        assert found.find(key(2)) is not None
        assert found.damage == []


def test_a_journal_of_a_later_format_is_refused_not_misread(directory):
    directory.segment(0).write_bytes(seal(b'{"header":{"format":3,"new":true}', 0))
    for read in (replay, verify):
        with pytest.raises(UsageError, match="format 3"):
            read(directory)


def test_a_file_that_cannot_be_read_is_an_error_not_an_empty_journal(directory):
    with open_journal(directory) as journal:
        journal.finish(answer(1))

    class DeadDisk(Disk):
        def read(self, fd, size):
            raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match=r"00000000\.jsonl"):
        replay(directory, disk=DeadDisk())


def test_attempts_that_cost_nothing_are_not_unknown(directory):
    """A row that was only ever turned away, or whose attempt was refused by a full disk."""
    with open_journal(directory) as journal:
        for attempt in (1, 2):
            journal.begin(intent(1, attempt))
        journal.begin(intent(2))
        journal.waive(key(1))
    with replay(directory) as found:
        assert [lost.row for lost in found.unknown] == [2]
        assert found.find(key(1)) is None
    assert verify(directory).gratis == 1


def test_lines_of_an_unknown_kind_are_counted_and_passed_over(directory):
    with open_journal(directory) as journal:
        journal.finish(answer(1))
        journal._add(b'{"note":"from a later version"')
        journal.finish(answer(2))
    report = verify(directory)
    assert (report.headers, report.results, report.ends, report.other) == (1, 2, 1, 1)
    assert report.is_sound
    with replay(directory) as found:
        assert len(found.index) == 2


def test_replay_changes_nothing(directory):
    journal = open_journal(directory)
    journal.finish(answer(1))
    journal.close(clean=False)
    with directory.segment(0).open("ab") as file:
        file.write(b'{"torn')
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in _files(directory)}
    with replay(directory) as found:
        list(found.results())
        verify(directory)
        assert [damage.kind for damage in found.damage] == [DamageKind.TORN]
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in _files(directory)}
    assert after == before


def _files(directory):
    return [path for path in directory.path.rglob("*") if path.is_file()]


def wait_for_response(journal, n, response_id):
    anyio.run(journal.queued, key(n), 1, response_id)


def still_made(n, response_id):
    late = Failure(code="timeout", message="still being made")
    return RowResult(key=key(n), row=n, ending=late, response_id=response_id)


def test_a_background_response_that_nobody_heard_the_end_of_can_be_asked_for(directory):
    first = open_journal(directory, "killed")
    first.begin(intent(1))
    wait_for_response(first, 1, "resp_1")
    with replay(directory) as found:
        assert found.pending == {key(1): Pending(response_id="resp_1", attempts_untold=1)}
        assert [lost.key for lost in found.unknown] == [key(1)]
    with open_journal(directory, "second") as journal:
        journal.finish(still_made(1, "resp_1"))
    with replay(directory) as found:
        assert found.pending == {key(1): Pending(response_id="resp_1", attempts_untold=0)}
        assert found.unknown == ()
    with open_journal(directory, "third") as journal:
        journal.finish(answer(1))
    with replay(directory) as found:
        assert (found.pending, found.unknown) == ({}, ())
    assert verify(directory).queued == 1
    first.close(clean=False)


def test_a_row_that_is_asked_anew_no_longer_waits_for_its_first_response(directory):
    with open_journal(directory) as journal:
        journal.begin(intent(1))
        wait_for_response(journal, 1, "resp_1")
        journal.begin(intent(1, attempt=2))
    with replay(directory) as found:
        assert found.pending == {}
        assert {lost.attempt for lost in found.unknown} == {2, 1}


def test_a_response_asked_anew_by_a_process_that_died_stays_unknown_for_good(directory):
    first = open_journal(directory, "killed")
    first.begin(intent(1))
    wait_for_response(first, 1, "resp_1")
    second = open_journal(directory, "killed too")
    second.begin(intent(1, attempt=2))
    with open_journal(directory, "third") as journal:
        journal.begin(intent(1, attempt=3))
        journal.finish(answer(1))
    with replay(directory) as found:
        assert sorted(lost.attempt for lost in found.unknown) == [1, 2]
    first.close(clean=False)
    second.close(clean=False)


def test_only_the_last_of_several_background_responses_is_still_waited_for(directory):
    first = open_journal(directory, "killed")
    first.begin(intent(1))
    wait_for_response(first, 1, "resp_1")
    second = open_journal(directory, "killed too")
    second.begin(intent(1, attempt=2))
    wait_for_response(second, 1, "resp_2")
    with open_journal(directory, "third") as journal:
        journal.finish(answer(1))  # of resp_2
    with replay(directory) as found:
        assert [lost.attempt for lost in found.unknown] == [1]
    first.close(clean=False)
    second.close(clean=False)


def test_one_of_a_thing_is_not_told_as_many():
    counts = dict.fromkeys(("segments", "headers", "intents", "results", "ends", "other"), 1)
    one = VerifyReport(**counts, queued=0, gratis=0, damage=())
    first, second = one.lines()
    assert first == "1 segment: 1 result, 1 attempt begun, 1 header, 1 clean end"
    assert second == "1 intact line of an unknown kind"
    assert next(replace(one, segments=2, ends=0).lines()).startswith("2 segments: ")


def test_a_call_is_told_from_one_whose_record_is_lost_by_how_its_process_closed(directory):
    with open_journal(directory, "closed") as journal:
        journal.begin(intent(1))  # it has told of this one: a line that is not there any more
        journal.begin(intent(2))
        journal.begin(intent(2, attempt=2))
        wait_for_response(journal, 2, "resp_2")
    died = open_journal(directory, "died")
    died.begin(intent(3))
    died.close(clean=False)
    with replay(directory) as found:
        assert {lost.row: lost.has_ended for lost in found.unknown} == {1: True, 2: False, 3: False}
    report = verify(directory)
    assert (report.lost, report.again) == (1, 0)

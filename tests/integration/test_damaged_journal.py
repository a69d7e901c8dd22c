"""A journal that was damaged on its disk: what is lost is told, asked again, and then done with."""

import json

import pytest

from batch_runner.journal import RunDirectory
from batch_runner.shortcut import read_shortcut, write_shortcut
from tests.integration.job_text import job_text


RUN = "-> batch-runner run job.toml"


class Job:
    """A job of ten rows in a folder of its own, run once."""

    def __init__(self, cli, server):
        self.cli, self.server = cli, server
        self.directory = RunDirectory(cli.folder / "out.csv.run")
        self.write_rows(10)
        (cli.folder / "job.toml").write_text(job_text(url=server.url, cap=50))
        assert self.run() == 0

    def write_rows(self, count):
        rows = [f"text {number}" for number in range(count)]
        (self.cli.folder / "in.csv").write_text("\n".join(["body", *rows, ""]))

    def run(self, *options):
        return self.cli("run", "job.toml", *options).code

    def verify(self):
        return self.cli("verify", "job.toml")

    def status(self):
        return self.cli("status", "job.toml").out

    def calls(self):
        self.server.settle()
        return len(self.server.ledger.rows())

    def flip(self, kind, *, segment=0):
        """One bit, in the middle of the last line of that kind."""
        path = self.directory.segment(segment)
        data = bytearray(path.read_bytes())
        at = data.rindex(b'{"%s"' % kind.encode())
        data[at + 45] ^= 1
        path.write_bytes(data)


@pytest.fixture
def job(main_cli, fault_server):
    return Job(main_cli, fault_server)


def test_verify_says_what_is_lost_and_how_it_comes_back_and_then_that_it_has(job):
    job.flip("result")
    lost = job.verify()
    assert lost.code == 5
    assert "lost: the result of 1 row; it has not ended again yet" in lost.out
    assert "1 damaged place; the next run asks again for what stood there" in lost.out
    assert RUN in lost.out
    assert job.run() == 0
    assert job.calls() == 11
    whole = job.verify()
    assert whole.code == 0
    assert "1 damaged place, made good: a run has met it since" in whole.out
    assert "lost: the result of 1 row; it has ended again since" in whole.out
    assert ": corrupt: line" in whole.out, "history is told as it was"
    assert RUN not in whole.out
    found = json.loads(job.cli("verify", "job.toml", "--json").out)
    assert (found["is_sound"], found["is_made_good"], found["lost"]) == (False, True, 1)
    assert job.cli("verify", "job.toml", "-q").out == ""


def test_while_a_lost_row_waits_for_a_later_run_nothing_is_made_good(job):
    job.flip("result")
    job.write_rows(11)
    # Rows go by their place: the lost one is the one that this run takes, the new one is left.
    assert job.run("-n", "1") == 0
    waiting = job.verify()
    assert waiting.code == 5
    assert "1 damaged place; 1 row of the input has no result" in waiting.out
    assert RUN in waiting.out
    job.run()
    assert job.verify().code == 0


def test_a_row_that_was_lost_and_has_left_the_input_fails_no_verify_for_ever(job):
    job.flip("result")
    job.write_rows(1)
    job.run()
    assert job.calls() == 10
    assert "it has not ended again yet" in job.verify().out
    assert job.verify().code == 0


def test_damage_that_took_no_result_is_made_good_by_a_run_that_sends_nothing(job):
    job.flip("intent")
    assert job.verify().code == 5
    assert job.run() == 0
    assert job.calls() == 10
    whole = job.verify()
    assert (whole.code, "lost:" in whole.out) == (0, False)


def test_new_damage_is_told_although_the_old_was_made_good(job):
    job.flip("result")
    job.write_rows(11)
    job.run()
    assert job.verify().code == 0
    job.flip("result", segment=1)
    told = job.verify()
    assert told.code == 5
    assert "lost: the results of 2 rows; ended again since: 1" in told.out
    job.run()
    assert "2 damaged places, made good: a run has met them since" in job.verify().out


def test_a_missing_segment_is_made_good_too(job):
    job.write_rows(11)
    job.run()
    job.write_rows(12)
    job.run()
    job.directory.segment(1).unlink()
    assert job.verify().code == 5
    job.run()
    assert job.calls() == 13
    assert job.verify().code == 0


def test_the_run_that_pays_again_for_a_segment_that_is_gone_says_so(job):
    job.write_rows(11)
    job.run()
    job.directory.segment(1).unlink()
    ran = job.cli("run", "job.toml")
    assert "note     1 damaged place in the journal" in ran.err


@pytest.fixture
def rotten(job):
    """Rot changes no time of a file, so the shortcut is believed until somebody looks at the bytes."""
    shortcut = read_shortcut(job.directory)
    job.flip("result")
    write_shortcut(job.directory, shortcut)
    return job


def test_verify_brings_it_about_that_rotten_bytes_are_asked_again(rotten):
    assert rotten.verify().code == 5
    assert rotten.run() == 0
    assert rotten.calls() == 11
    assert rotten.verify().code == 0


def test_an_export_that_meets_rotten_bytes_says_so_and_the_next_run_asks_again(rotten):
    ran = rotten.cli("run", "job.toml")
    assert ran.code == 3
    assert "1 answer was damaged on the disk since the journal was last read" in ran.err
    assert rotten.calls() == 10
    assert rotten.run() == 0
    assert rotten.calls() == 11


def test_a_lost_record_is_no_call_in_flight(job):
    job.flip("result")
    said = job.status()
    assert "billing of 1 call: their end stood where the journal is damaged" in said
    assert "in flight when a run died" not in said
    assert "1 damaged place in the journal" in said
    ran = job.cli("run", "job.toml")
    assert "1 to send (lost to damage in the journal)" in ran.err
    costs = job.cli("costs", "job.toml")
    assert "their end stood where the journal is damaged" in costs.out + costs.err


def test_no_run_goes_on_complaining_of_what_was_made_good(job):
    job.flip("result")
    first = job.cli("run", "job.toml")
    assert "damaged place in the journal" in first.err
    second = job.cli("run", "job.toml")
    assert "damaged place" not in second.err + job.status()
    assert json.loads(job.cli("status", "job.toml", "--json").out)["damaged_journal_records"] == 1


def test_the_torn_end_of_a_killed_run_is_called_that(job):
    with job.directory.segment(0).open("ab") as file:
        file.write(b'{"torn')
    job.directory.shortcut.unlink()
    told = job.verify()
    assert told.code == 0
    assert "1 damaged place, such as a killed run leaves: no finished row is lost" in told.out


def spoil_end(job, *, results):
    """The journal is zeros from a result on, as a disk gives back a sector it has lost."""
    path = job.directory.segment(0)
    data = path.read_bytes()
    at = len(data)
    for _ in range(results):
        at = data.rindex(b'{"result"', 0, at)
    path.write_bytes(data[:at] + bytes(len(data) - at))


def test_an_end_that_was_whole_is_not_taken_for_what_a_killed_run_leaves(job):
    spoil_end(job, results=1)
    for _ in range(2):  # to look changes nothing
        told = job.verify()
        assert told.code == 5
        assert "gap: its end is damaged: it had" in told.out
        assert RUN in told.out
    assert "1 damaged place in the journal" in job.cli("run", "job.toml").err
    assert job.calls() == 11
    assert job.verify().code == 0


def test_lost_rows_are_not_forgotten_by_runs_that_leave_them_for_later(job):
    spoil_end(job, results=3)
    for waiting in ("2 rows", "1 row"):
        assert job.run("-n", "1", "--on-change", "rerun") == 0
        told = job.verify()
        assert told.code == 5
        assert f"1 damaged place; {waiting} of the input" in told.out
    assert job.run() == 0
    assert job.calls() == 13
    assert job.verify().code == 0


def test_what_was_once_damaged_still_shows_when_its_last_segment_goes(job):
    job.flip("result")
    job.run()
    job.run()
    assert job.verify().code == 0
    job.directory.segment(1).unlink()
    told = job.verify()
    assert told.code == 5
    assert "gap: the segment is missing" in told.out

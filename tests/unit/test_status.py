"""`status`: how far a job is, without disturbing it."""

import json
from collections import Counter

import pytest

from batch_runner.jobfile import Overrides, load_job
from batch_runner.journal import Holder, RunDirectory, take_lock
from batch_runner.journal.lock import LockPolicy
from batch_runner.records import RowStatus
from batch_runner.status import MOST_SHARE, Status, drawn, follow, read_status


@pytest.fixture
def job(tmp_path, fault_server, main_cli):
    (tmp_path / "in.csv").write_text("body\none\ntwo\n[[fault:400]] three\n")
    flags = {
        "input.path": str(tmp_path / "in.csv"), "output.path": str(tmp_path / "out.csv"),
        "request.model": "m1", "prompt.input": "{{ body }}", "endpoint.base_url": fault_server.url,
    }  # fmt: skip
    return load_job(None, Overrides(flags=flags))


def run(main_cli, fault_server, *more):
    return main_cli("run", "-i", "in.csv", "-o", "out.csv", "-m", "m1", "-p", "{{ body }}",
                    "--base-url", fault_server.url, *more)  # fmt: skip


def test_before_the_first_run_nothing_is_known(job, tmp_path):
    status = read_status(job)
    assert (status.rows, status.holder, status.statuses.total()) == (None, None, 0)
    assert "0 of unknown" in status.lines()[0]
    assert not (tmp_path / "out.csv.run").exists()


def test_after_a_run_it_tells_how_rows_ended(job, main_cli, fault_server):
    assert run(main_cli, fault_server, "-n", "2").code == 0
    assert read_status(job).statuses == {RowStatus.OK: 2}
    assert run(main_cli, fault_server).code == 3
    status = read_status(job)
    assert (status.rows, status.in_flight, status.damaged) == (3, 0, 0)
    assert status.statuses == {RowStatus.OK: 2, RowStatus.FAILED: 1}
    assert "3 of 3 rows have a result" in status.lines()[0]
    assert status.lines()[1].strip() == "not running"
    assert json.loads(json.dumps(status.to_json()))["statuses"] == {"ok": 2, "failed": 1}


def test_it_sees_who_runs_the_job_and_leaves_the_lock_alone(job):
    directory = RunDirectory(job.run_path)
    directory.create()
    with take_lock(directory, policy=LockPolicy.FAIL):
        status = read_status(job)
        assert status.holder is not None
        assert "running: another run (pid" in status.lines()[1]
    assert read_status(job).holder is None


def test_following_ends_with_the_run_and_tells_the_pace(job, monkeypatch):
    states = iter(
        Status(job="j", rows=100, statuses=Counter({RowStatus.OK: ok}), holder=holder)
        for ok, holder in ((10, Holder(pid=1)), (30, Holder(pid=1)), (60, None))
    )
    moments = iter([0.0, 1.0, 10.0, 10.5, 20.0])
    rests = []
    monkeypatch.setattr("batch_runner.status.read_status", lambda _job: next(states))
    seen = list(follow(job, clock=lambda: next(moments), sleep=rests.append))
    assert [status.statuses.total() for status in seen] == [10, 30, 60]
    assert [status.rows_per_second for status in seen] == [None, 2.0, 3.0]
    assert rests == [MOST_SHARE * 1.0, MOST_SHARE * 0.5]  # never busier than a tenth of a core


def test_on_a_terminal_a_status_takes_the_place_of_the_one_before():
    first = Status(job="j", rows=2, statuses=Counter({RowStatus.OK: 1}))
    screen = list(drawn([first, first], columns=80))
    assert screen[0] == "\n".join(first.lines())
    assert screen[1] == "\x1b[3A\x1b[J" + screen[0]
    narrow = list(drawn([first, first], columns=20))  # the first line takes two
    assert narrow[1].startswith("\x1b[4A")
    assert "\x1b" not in "".join(drawn([first, first], columns=None))


def test_watch_over_a_job_that_nobody_runs_prints_once(job, main_cli, fault_server):
    run(main_cli, fault_server)
    ran = main_cli("status", "-i", "in.csv", "-o", "out.csv", "--set", "request.model=m1",
                   "--set", "prompt.input={{ body }}", "--watch")  # fmt: skip
    assert ran.code == 0
    assert ran.out.count("rows have a result") == 1

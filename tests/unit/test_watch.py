"""`status --watch`: it waits for a run, follows it, and ends with it."""

from collections import Counter
from dataclasses import replace

import pytest

from batch_runner.jobfile import load_job
from batch_runner.journal import Holder
from batch_runner.records import RowStatus
from batch_runner.run_place import place_named, place_of_job
from batch_runner.status import Status
from batch_runner.watch import MOST_SHARE, drawn, follow


@pytest.fixture
def run(tmp_path, fault_server, main_cli):
    (tmp_path / "in.csv").write_text("body\none\ntwo\n[[fault:400]] three\n")
    (tmp_path / "job.toml").write_text(
        'input.path = "in.csv"\noutput.path = "out.csv"\nrequest.model = "m1"\n'
        f'prompt.input = "{{{{ body }}}}"\nendpoint.base_url = "{fault_server.url}"\n'
    )
    return lambda: main_cli("run", "job.toml")


@pytest.fixture
def place(tmp_path, run):
    return place_of_job(load_job(tmp_path / "job.toml"))


def test_following_ends_with_the_run(place, monkeypatch):
    base = Status(job="j", rows=100)
    states = iter([replace(base, holder=Holder(pid=1)), replace(base, holder=Holder(pid=1)), base])
    moments = iter([0.0, 1.0, 10.0, 10.5, 20.0])
    rests = []
    monkeypatch.setattr("batch_runner.watch.read_status", lambda _place, _gauge: next(states))
    seen = list(follow(place, clock=lambda: next(moments), sleep=rests.append))
    assert [status.holder is None for status in seen] == [False, False, True]
    assert rests == [MOST_SHARE * 1.0, MOST_SHARE * 0.5]  # never busier than a tenth of a core


def test_on_a_terminal_a_status_takes_the_place_of_the_one_before():
    first = Status(job="j", rows=2, endings=Counter({(RowStatus.OK, None): 1}))
    assert len(first.lines()) == 3
    screen = list(drawn([first, first], columns=80))
    assert screen[0] == "\n".join(first.lines())
    assert screen[1] == "\x1b[3A\x1b[J" + screen[0]
    narrow = list(drawn([first, first], columns=25))  # the first line takes two
    assert narrow[1].startswith("\x1b[4A")
    assert "\x1b" not in "".join(drawn([first, first], columns=None))
    hostile = replace(first, job="\x1b[31mred")
    assert "\x1b" not in "".join(drawn([hostile], columns=80))


def test_watch_over_a_job_that_nobody_runs_prints_once(run, main_cli):
    run()
    ran = main_cli("status", "job.toml", "--watch")
    assert ran.code == 0
    assert ran.out.count("rows ended") == 1


def test_watching_before_the_run_begins_waits_for_it_and_says_so_once(place, run):
    said, seen = [], []

    def sleep(_seconds):
        if len(rests) == 1:
            assert run().code == 3
        rests.append(_seconds)

    rests = []
    seen = list(follow(place, sleep=sleep, on_wait=lambda: said.append(1)))
    assert (len(said), len(rests)) == (1, 2)
    assert [status.ended for status in seen] == [3]
    assert len(list(follow(place, on_wait=lambda: said.append(1)))) == 1
    assert len(said) == 1, "a run that is over is not waited for"


def test_what_a_watcher_advises_means_the_run_that_it_waited_for(place, main_cli):
    def sleep(_):
        main_cli("run", "job.toml", "-m", "m2")

    seen = list(follow(place, sleep=sleep, on_wait=lambda: None))
    assert str(seen[0].invocation).endswith("job.toml --model m2")


def test_watching_an_output_waits_as_for_its_job_once_its_run_folder_is_there(
    run, main_cli, tmp_path, monkeypatch
):
    ran = main_cli("status", "out.csv", "--watch")
    assert ran.code == 2
    assert "before its first run only the job file will do" in ran.err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.csv.run").mkdir()
    said = []
    seen = list(
        follow(place_named("out.csv"), sleep=lambda _: run(), on_wait=lambda: said.append(1))
    )
    assert (len(said), [status.ended for status in seen]) == (1, [3])

"""`status`: how far a job is, without disturbing it."""

import json
import os
import shutil
import time
from collections import Counter
from decimal import Decimal

import anyio
import pytest

from batch_runner import gauge as gauge_module
from batch_runner.bill import Bill
from batch_runner.errors import UsageError
from batch_runner.gauge import Gauge
from batch_runner.jobfile import load_job
from batch_runner.journal import (
    Durability,
    Holder,
    Intent,
    Journal,
    RunDirectory,
    damage_in_words,
    replay,
    take_lock,
)
from batch_runner.journal.lock import LockPolicy
from batch_runner.money_view import bounds
from batch_runner.records import Billed, Completion, ErrorCode, Failure, RowResult, RowStatus, Usage
from batch_runner.run_place import place_named, place_of_job
from batch_runner.status import Status, read_status


OK = (RowStatus.OK, None)
PENDING = (RowStatus.PENDING, None)


@pytest.fixture
def job(tmp_path, fault_server):
    (tmp_path / "in.csv").write_text("body\none\ntwo\n[[fault:400]] three\n")
    (tmp_path / "job.toml").write_text(
        'input.path = "in.csv"\noutput.path = "out.csv"\nrequest.model = "m1"\n'
        f'prompt.input = "{{{{ body }}}}"\nendpoint.base_url = "{fault_server.url}"\n'
        "prices.m1 = { input = 1, output = 2 }\n"
    )
    return load_job(tmp_path / "job.toml")


@pytest.fixture
def place(job):
    return place_of_job(job)


@pytest.fixture
def run(main_cli, job):
    def run(*more, command="run"):
        return main_cli(command, "job.toml", *more)

    return run


def result(key, *, at=0.0, ending=None, run_id=None):
    return RowResult(
        key=key, row=0, ending=ending or Completion(text='says {"reply":{}}'), asked_model="m1", model="m1",
        billed=(Billed(usage=Usage(input_tokens=100, output_tokens=10), model="m1",
                       service_tier=None, at=at),),
        finished_at=at, reply={"output": []}, run_id=run_id,
    )  # fmt: skip


def journal(job, run_id="another"):
    directory = RunDirectory(job.run_path)
    directory.create()
    return Journal(directory, run_id=run_id, durability=Durability.OFF)


def test_before_the_first_run_nothing_is_known(place, tmp_path):
    status = read_status(place)
    assert (status.rows, status.holder, status.ended) == (None, None, 0)
    assert "no run has begun" in status.lines()[0]
    assert not (tmp_path / "out.csv.run").exists()


def test_rows_that_the_next_run_sends_again_are_not_finished_yet():
    endings = Counter({OK: 98, (RowStatus.FAILED, "timeout"): 6, PENDING: 195,
                       (RowStatus.FAILED, "bad_request"): 1})  # fmt: skip
    idle = Status(job="j", rows=300, endings=endings, to_send=201)
    assert idle.lines()[0] == "j: 99 of 300 rows ended (33%), 201 to send"
    running = Status(job="j", rows=300, endings=endings, to_send=5, holder=Holder())
    assert running.lines()[0].endswith(
        "99 of 300 rows ended (33%), 5 to send, 196 left for a later run"
    )
    retry = Status(job="j", rows=300, endings=Counter({OK: 298, (RowStatus.FAILED, "bad_request"): 2}),
                   to_send=2, holder=Holder())  # fmt: skip
    assert retry.lines()[0].endswith("298 of 300 rows ended (99%), 2 to send")


def test_after_a_run_it_tells_how_rows_ended_and_what_they_cost(place, run):
    assert run("-n", "2").code == 0
    status = read_status(place)
    assert (status.endings, status.to_send) == ({OK: 2, PENDING: 1}, 1)
    assert status.lines()[0].endswith("2 of 3 rows ended (67%), 1 to send")
    assert run().code == 3
    status = read_status(place)
    assert (status.rows, status.ended, status.to_send, status.damaged) == (3, 3, 0, 0)
    assert status.codes == {"bad_request": 1}
    lines = "\n".join(status.lines())
    for words in ("3 of 3 rows ended (100%)", "2 ok", "1 bad_request", "not running",
                  "the last row ended", "tokens   in ", "cost     $0.0000"):  # fmt: skip
        assert words in lines
    told = json.loads(json.dumps(status.to_json()))
    assert told["statuses"] == {"ok": 2, "failed": 1}
    assert told["error_codes"] == {"bad_request": 1}
    assert told["cost_usd"] > 0


def test_rows_that_failed_for_good_have_the_way_out_and_the_code_that_the_report_gives(
    run, main_cli, tmp_path
):
    (tmp_path / "in.csv").write_text('body\none\n""\n[[fault:400]] three\n')
    assert run().code == 3
    status, report = main_cli("status", "job.toml").out, main_cli("report", "job.toml").out
    for told in (status, report):
        failed = next(line for line in told.splitlines() if line.strip().startswith("failed  "))
        assert "1 missing_value" in failed
        assert "1 bad_request" in failed
        assert failed.endswith(
            "     -> fill the empty cells, then batch-runner run job.toml; "
            "for the others batch-runner retry job.toml"
        )
    meta = json.loads((tmp_path / "out.csv.meta.json").read_text())
    assert (
        meta["error_codes"]
        == json.loads(main_cli("status", "job.toml", "--json").out)["error_codes"]
    )


def test_results_whose_rows_have_left_the_input_are_no_progress(place, run, tmp_path):
    run()
    (tmp_path / "in.csv").write_text("body\nfour\ntwo\n")
    assert "the input has changed" in "\n".join(read_status(place).lines())
    run("--dry-run")
    assert read_status(place).rows == 3  # a dry run leaves no trace
    run("--on-change", "rerun")
    status = read_status(place)
    assert (status.rows, status.endings, status.input_changed) == (2, {OK: 2}, False)


def test_a_run_without_rows_to_send_counts_the_input_anew(place, run, tmp_path):
    run()
    (tmp_path / "in.csv").write_text("body\ntwo\n")
    run()
    assert read_status(place).endings == {OK: 1}


def test_rows_sent_again_by_retry_are_counted_once(place, run):
    run()
    run(command="retry")
    status = read_status(place)
    assert status.endings == {OK: 2, (RowStatus.FAILED, "bad_request"): 1}


def test_rows_that_share_an_answer_are_told_apart(place, run, tmp_path):
    (tmp_path / "in.csv").write_text("body\none\none\ntwo\n")
    run("--dedupe")
    status = read_status(place)
    assert (status.rows, status.sharing, status.ended) == (3, 1, 2)
    assert "2 of 2 rows ended" in status.lines()[0]
    assert "1 that take the answer of an equal row" in "\n".join(status.lines())


def test_failures_that_may_pass_are_to_send_once_nobody_runs(place, run, job):
    run("-n", "1")
    outset = Gauge(place)
    outset.read()
    key = b"k" * 16
    with_trouble = Failure(code=ErrorCode.TIMEOUT, message="slow")
    writer = journal(job, run_id=outset.outset.run_id)
    writer.finish(result(key, ending=with_trouble))
    writer.close(clean=True)
    assert read_status(place).to_send == 2


def test_a_manifest_without_counts_is_not_guessed_at(place, run):
    run()
    place.directory.manifest.unlink()
    status = read_status(place)
    assert (status.rows, status.to_send, status.ended) == (None, None, 3)
    assert "how many rows the input has is not known" in status.lines()[0]


def test_it_sees_who_runs_the_job_and_leaves_the_lock_alone(place):
    directory = place.directory
    directory.create()
    with take_lock(directory, policy=LockPolicy.FAIL):
        status = read_status(place)
        assert status.holder is not None
        assert f"running  pid {os.getpid()} on " in status.lines()[1]
        assert "another run" not in "\n".join(status.lines())
        directory.lock.write_text("")
        assert "running  a run is going on" in "\n".join(read_status(place).lines())
    assert read_status(place).holder is None


def test_calls_in_flight_are_told_from_those_that_a_killed_run_lost(place, job):
    def announce(writer, key):
        import anyio

        anyio.run(writer.announce, Intent(key=key, attempt=1, row=0, model="m1",
                                          request_bytes=1, max_output_tokens=1))  # fmt: skip

    killed, gauge = journal(job), Gauge(place)
    announce(killed, b"a" * 16)
    gauge.read()
    assert gauge.in_flight == 1
    assert (len(gauge.lost(is_running=True)), len(gauge.lost(is_running=False))) == (0, 1)
    running = journal(job, run_id="next")
    announce(running, b"b" * 16)
    announce(running, b"c" * 16)
    running.finish(result(b"c" * 16))
    running.close(clean=False)
    gauge.read()
    assert (gauge.in_flight, len(gauge.lost(is_running=True))) == (1, 1)
    assert gauge.ended_in_order is False
    killed.close(clean=False)


def test_the_pace_is_that_of_the_last_minute(place, run, job):
    run("-n", "1")
    gauge = Gauge(place)
    gauge.read()
    began = gauge.began_at
    writer = journal(job, run_id=gauge.outset.run_id)
    for second in range(120):
        writer.finish(result(bytes([second]) * 16, at=began + second + 1))
    writer.close(clean=True)
    with take_lock(place.directory, policy=LockPolicy.FAIL):
        status = read_status(place, wall_clock=lambda: began + 150.0)
        assert status.rows_per_second == pytest.approx(0.5, abs=0.02)  # 30 in the last 60 s
        assert status.now - status.last_row_at == 30.0
        assert "the last row ended 30s ago" in "\n".join(status.lines())
        late = read_status(place, wall_clock=lambda: began + 600.0)
        assert late.rows_per_second == 0.0
        assert late.eta_seconds is None
        assert "no row in the last minute" in "\n".join(late.lines())
    assert read_status(place).rows_per_second is None  # nobody runs it


def test_what_is_left_at_this_pace_is_told():
    status = Status(job="j", rows=100, endings=Counter({OK: 40, PENDING: 60}), to_send=60,
                    holder=Holder(pid=7, host="h", started_at=0.0), rows_per_second=0.5,
                    last_row_at=8.0, now=10.0, in_flight=3,
                    bill=Bill(calls=1, answered=1, answers=Decimal("1.5")))  # fmt: skip
    lines = "\n".join(status.lines())
    for words in ("40 of 100 rows ended (40%), 60 to send", "30 rows/min", "about 2m 00s left",
                  "ended 2.0s ago", "3 in flight", "$1.50 so far", "pid 7 on h"):  # fmt: skip
        assert words in lines
    assert status.to_json()["eta_seconds"] == 120


def test_after_a_kill_the_cost_has_both_bounds_and_the_output_its_way_out(
    place, job, run, main_cli
):
    run("-n", "1")
    run_id = json.loads(job.meta_path.read_bytes())["run_id"]
    lines = "\n".join(read_status(place).lines())
    assert "so far" not in lines
    assert "at most" not in lines
    assert "output" not in lines, "it shows what there is"
    os.utime(job.output_path, (1_700_000_000, 1_700_000_000))
    dying = journal(job, run_id=run_id)
    dying.begin(
        Intent(key=b"a" * 16, attempt=1, row=0, model="m1", request_bytes=36, max_output_tokens=450)
    )
    dying.finish(result(b"b" * 16, at=time.time()))
    dying.close(clean=False)
    status = read_status(place)
    lines = status.lines()
    least, most = bounds(status.bill)
    assert f"  cost     at least {least}, at most {most}" in lines  # 36 + 64 tokens in, 450 out
    assert status.bill.at_most - status.bill.at_least == Decimal("0.001")
    assert "  unknown  billing of 1 call: in flight when a run died" in lines
    output = "\n".join(line for line in lines if line.startswith("  output "))
    assert "older than the last rows; to write what there is     -> batch-runner export " in output
    assert any(
        "the last run was killed" in line and "-> batch-runner run " in line for line in lines
    )
    told = status.to_json()
    assert told["cost_usd_at_least"] < told["cost_usd_at_most"]
    assert (told["calls_lost"], told["calls_unknown"]) == (1, 0)
    assert not told["output_is_current"]
    job.output_path.unlink()
    assert "  output   none yet; to write what" in "\n".join(read_status(place).lines())
    assert main_cli("export", "job.toml").code == 0
    assert "  output " not in "\n".join(read_status(place).lines())


def test_a_cost_is_so_far_only_while_somebody_runs_the_job(place, run):
    run()
    with take_lock(place.directory, policy=LockPolicy.FAIL):
        assert " so far" in "\n".join(read_status(place).lines())
    assert " so far" not in "\n".join(read_status(place).lines())


@pytest.mark.parametrize("priced", [True, False])
def test_what_status_says_of_money_is_what_the_report_says(place, job, run, main_cli, priced):
    """An answer without its counts, one that broke off, and no price at all."""
    (job.folder / "in.csv").write_text(
        "body\none\n[[fault:no-usage]] two\n[[fault:truncated-json]] three\n[[fault:500]] four\n"
    )
    more = [] if priced else ["--set", "request.model=unheard-of"]
    run("--set", "retry.max_wait=100ms", "--set", "retry.maybe_billed_attempts=1", *more)
    job.run_path.joinpath("shortcut").unlink()  # every line is read
    told = json.loads(main_cli("status", "job.toml", "--json", *more).out)
    report = json.loads(main_cli("report", "job.toml", "--json", *more).out)
    for name in ("cost_usd", "cost_usd_at_least", "cost_usd_at_most", "unpriced_calls"):
        assert told[name] == report[name], name
    assert told["calls_unknown"] == sum(report["calls_unknown"].values()) > 0


def test_what_has_been_read_is_not_read_again(place, job, monkeypatch):
    writer, gauge = journal(job), Gauge(place)
    parsed = []
    monkeypatch.setattr("batch_runner.gauge.read_dues", _counting(parsed))
    for number in range(3):
        writer.finish(result(bytes([number]) * 16))
    writer.close(clean=True)
    gauge.read()
    gauge.read()
    later = journal(job, run_id="later")
    later.finish(result(b"z" * 16))
    later.close(clean=True)
    gauge.read()
    assert len(parsed) == 4
    assert gauge.bill(is_running=False).tokens.input == 400


def _counting(parsed):
    from batch_runner.journal.record import read_dues

    def counted(line):
        parsed.append(line)
        return read_dues(line)

    return counted


def aged(job):
    """The input was not written within the last seconds: what was planned from it is believed."""
    os.utime(job.folder / "in.csv", (1_700_000_000, 1_700_000_000))


def grown(run, job):
    with (job.folder / "in.csv").open("a") as file:
        file.write("four\n")
    aged(job)
    run()


def killed(run, job):
    """A run that died with a call in flight, and with a result that no shortcut knows."""
    writer = journal(job)
    writer.begin(
        Intent(key=b"a" * 16, attempt=1, row=0, model="m1", request_bytes=1, max_output_tokens=1)
    )
    writer.finish(result(b"b" * 16, at=1.0))
    writer.close(clean=False)


def gone_on(run, job):
    killed(run, job)
    grown(run, job)


def refused(run, job):
    """The plan that is left is of a run that was refused, and not of the one before."""
    (job.folder / "in.csv").write_text("body\none\nnot two\n[[fault:400]] not three\nfour\n")
    aged(job)
    assert run().code == 2


def left(run, job):
    (job.folder / "in.csv").write_text("body\none\n")


STORIES = {
    "once": lambda run, job: None,
    "twice": lambda run, job: run(),
    "retried": lambda run, job: run(command="retry"),
    "other prices": lambda run, job: run("--set", "prices.m1.input=9"),
    **{story.__name__: story for story in (grown, killed, gone_on, refused, left)},
}


@pytest.mark.parametrize("flags", [(), ("--dedupe",), ("-n", "2")], ids=" ".join)
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_shortcut_tells_what_the_whole_journal_tells(place, run, job, story, flags):
    (job.folder / "in.csv").write_text('body\none\none\ntwo\n[[fault:400]] three\n""\n')
    aged(job)
    run(*flags)
    story(run, job)
    watched = Gauge(place)
    shorter = read_status(place, watched, wall_clock=lambda: 0.0)
    place.directory.shortcut.unlink()
    assert read_status(place, wall_clock=lambda: 0.0) == shorter
    killed(run, job)  # and whoever goes on watching sees what comes
    after = read_status(place, watched, wall_clock=lambda: 0.0)
    assert read_status(place, wall_clock=lambda: 0.0) == after
    assert after != shorter


def test_what_a_shortcut_tells_is_not_read(place, run, job, tmp_path, monkeypatch):
    aged(job)
    run()
    read, read_dues = [], gauge_module.read_dues
    monkeypatch.setattr(
        gauge_module, "read_dues", lambda data: read.append(data) or read_dues(data)
    )
    monkeypatch.chdir(tmp_path)
    for found in (place, place_named("out.csv"), place_named("out.csv.run")):
        read.clear()
        assert read_status(found).ended == 3
        assert len(read) == 1, "the last one, for its time"
    read.clear()
    with take_lock(place.directory, policy=LockPolicy.FAIL):
        read_status(place)
    assert len(read) == 3, "how many a run going on has sent is not in the shortcut"


def test_a_journal_put_aside_by_fresh_is_read_from_its_beginning(place, run):
    run()
    gauge = Gauge(place)
    gauge.read()
    run("--fresh", "-n", "1")
    gauge.read()
    fresh = Gauge(place)
    fresh.read()
    assert gauge.endings == fresh.endings == {OK: 1, PENDING: 2}
    assert gauge.bill(is_running=False) == fresh.bill(is_running=False)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.run", "out.csv.run/"])
def test_the_output_or_its_run_folder_will_do_in_place_of_the_job(run, main_cli, tmp_path, name):
    run()
    (tmp_path / "out.csv").unlink()  # as it is during the first run
    ran = main_cli("status", name)
    assert (ran.code, ran.err) == (0, "")
    assert "3 of 3 rows ended" in ran.out
    assert "cost     $0.0000" in ran.out  # at the job's own prices
    assert main_cli("status", "-o", "out.csv").out.splitlines()[0] == ran.out.splitlines()[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("in.csv", "no run has written to 'in.csv'"),
        ("gone.csv", "nor is there a file of that name"),
        ("gone.csv.run", "no run has written"),
        (".", "is no run directory"),
        ("gone.toml", "no such job file"),
    ],
)
def test_what_is_neither_job_nor_output_is_told(main_cli, tmp_path, name, said):
    (tmp_path / "in.csv").write_text("body\none\n")
    ran = main_cli("status", name)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""


def test_a_job_file_is_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_named("job.toml") is None
    assert place_named("job") is None
    with pytest.raises(UsageError):
        place_named("rows.parquet")


def test_what_the_last_run_said_of_the_journal_is_said_once_and_notes_left_out_are_counted():
    damage = damage_in_words(1)
    status = Status(job="j", rows=2, damaged=1, notes=(damage, "a", "b", "c", "d"))
    told = status.lines()[-4:]
    assert told == [f"  note     {damage}", "  note     a", "  note     b",
                    "           and 2 more, as status --json shows"]  # fmt: skip
    now = Status(job="j", rows=2, damaged=2, notes=(damage,)).lines()[-2:]
    assert now == [f"  note     {damage_in_words(2)}", f"  note     {damage}"]


def test_lost_calls_are_those_that_the_next_run_finds(place, job):
    """A background response asked anew by processes that died, and once more by one that did not."""
    directory = RunDirectory(job.run_path)
    key = bytes(16)

    def asked(run_id, attempt, *, response_id=None):
        dying = journal(job, run_id)
        dying.begin(
            Intent(
                key=key, attempt=attempt, row=0, model="m1", request_bytes=1, max_output_tokens=1
            )
        )
        if response_id is not None:
            anyio.run(dying.queued, key, attempt, response_id)
        return dying

    died = [asked("r1", 1, response_id="resp_1"), asked("r2", 2), asked("r3", 3)]
    for ended in (False, True):
        if ended:
            died[-1].finish(result(key))
        with replay(directory) as found:
            assert read_status(place).lost == len(found.unknown) == (2 if ended else 3)
    for process in died:
        process.close(clean=False)


def since(text):
    """What status says has become of job and input."""
    lines = text.splitlines()
    assert lines[0].count("when it was last run") == any("  since " in line for line in lines)
    return "\n".join(line for line in lines if line.startswith(("  since ", "           to see")))


DRY_RUN = "batch-runner run job.toml --dry-run"


@pytest.mark.parametrize("name", ["job.toml", "out.csv"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{{ body }}", "Sum: {{ body }}", "the prompt or its parameters have changed"),
        ('request.model = "m1"', 'request = {model = "m1", temperature = 0}', "parameters have"),
        ('"m1"', '"m2"', "the model was m1, and is m2 now"),
        ("prices.m1 = { input = 1, output = 2 }", "", ""),
        ('"out.csv"', '"out.csv"\nlimits.concurrency = 3', ""),
    ],
)
def test_a_job_that_asks_otherwise_than_its_last_run_is_told(
    run, main_cli, tmp_path, *, name, old, new, words
):
    run()
    assert since(main_cli("status", name).out) == ""
    job = tmp_path / "job.toml"
    before = job.read_text()
    job.write_text(before.replace(old, new))
    assert job.read_text() != before
    told = main_cli("status", name).out
    if words:
        assert words in since(told)
        assert DRY_RUN in since(told)
    else:
        assert since(told) == ""
    assert json.loads(main_cli("status", name, "--json").out)["request_changed"] is bool(words)


def test_old_answers_that_are_kept_are_no_change_of_the_prompt(run, main_cli, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(job.read_text() + 'input.key = "body"\n')
    run()
    job.write_text(job.read_text().replace("{{ body }}", "Sum: {{ body }}"))
    run("--on-change", "keep")
    assert since(main_cli("status", "job.toml").out) == ""


def test_a_file_that_has_come_to_a_folder_is_a_change_of_the_input(run, main_cli, tmp_path):
    job = tmp_path / "job.toml"
    text = job.read_text().replace('"in.csv"', '"inbox/*.csv"')
    job.write_text(text + 'input.on_bad_row = "skip"\n')
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.csv").write_text("body\none\n")
    (tmp_path / "inbox" / "bad.csv").write_text("")
    run()
    assert since(main_cli("status", "job.toml").out) == "", "a file was left out, and still is"
    late = tmp_path / "inbox" / "b.csv"
    late.write_text("body\ntwo\n")
    for name in ("job.toml", "out.csv"):
        told = since(main_cli("status", name).out)
        assert "the input has changed:" in told
        assert DRY_RUN in told
    late.unlink()
    (tmp_path / "inbox" / "bad.csv").write_text("body\nmended\n")
    assert "the input has changed:" in since(main_cli("status", "job.toml").out)


def test_files_with_other_times_have_not_changed_where_their_bytes_are_known(
    run, main_cli, tmp_path
):
    run()
    source = tmp_path / "in.csv"
    text = source.read_text()
    os.utime(source, (1, 1))
    for name in ("job.toml", "out.csv"):
        assert since(main_cli("status", name).out) == ""
    assert json.loads(main_cli("status", "job.toml", "--json").out)["input_changed"] is False
    source.write_text(text.replace("one", "eno"))
    assert "the input has changed:" in since(main_cli("status", "job.toml").out)


def test_files_with_other_times_may_have_changed_where_labels_name_their_rows(
    run, main_cli, tmp_path
):
    job = tmp_path / "job.toml"
    job.write_text(job.read_text() + 'input.key = "body"\n')
    run()
    os.utime(tmp_path / "in.csv", (1, 1))
    told = since(main_cli("status", "job.toml").out)
    assert "the input may have changed (its files have other times):" in told
    assert DRY_RUN in told
    assert json.loads(main_cli("status", "job.toml", "--json").out)["input_changed"] is None


def test_a_copied_folder_is_advised_its_own_job(run, main_cli, tmp_path):
    run("--set", "retry.attempts=2")
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    main_cli.folder = copy
    for told in (main_cli("status", "job.toml").out, main_cli("report", "job.toml").out):
        assert "1 bad_request     -> batch-runner retry job.toml\n" in told
        assert str(tmp_path / "job.toml") not in told
        assert "the input has changed" not in told


def test_a_job_that_has_moved_on_is_not_advised_for_the_output_it_left(run, main_cli, tmp_path):
    (tmp_path / "in.csv").write_text("body\none\ntwo\n")
    run("-n", "1")
    assert "batch-runner run job.toml" in main_cli("status", "out.csv").out
    job = tmp_path / "job.toml"
    text = job.read_text()
    job.write_text(text.replace('"out.csv"', '"out2.csv"'))
    told = main_cli("status", "out.csv").out
    assert "which writes " in since(told)
    assert "out2.csv' today" in since(told)
    assert "batch-runner run job.toml" not in told
    assert "no run has begun" in main_cli("status", "job.toml").out
    job.unlink()
    told = main_cli("status", "out.csv").out
    assert "no longer to be read" in since(told)
    assert "1 of 2 rows ended" in told

"""Log lines: for people and for machines, on stderr and in files that are rotated away."""

import json
import logging
import re
from collections import Counter

import pytest

from batch_runner import logs
from batch_runner.errors import UsageError
from batch_runner.records import Completion, Failure, RowResult, RowStatus, Usage
from batch_runner.summary import RunSummary


log = logging.getLogger("batch_runner")


@pytest.fixture(autouse=True)
def as_before():
    before = (log.handlers[:], log.propagate, log.level)
    yield
    for handler in log.handlers:
        if handler not in before[0]:
            handler.close()
    log.handlers[:], log.propagate = before[:2]
    log.setLevel(before[2])


def set_up(**more):
    choices = {"quiet": False, "verbose": 0, "log_file": None, "log_format": logs.LogFormat.JSON}
    return logs.set_up(**(choices | more))


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


RESULT = RowResult(
    key=b"k" * 16, row=4, label="e", ending=Completion(text="hello"), attempts=2,
    final_usage=Usage(input_tokens=12, output_tokens=3), asked_model="m", model="m-2026",
    response_id="resp_1", finish_reason="stop", latency_seconds=1.25,
)  # fmt: skip


def test_every_line_is_one_json_object_that_says_what_and_whose_it_is(capsys):
    set_up()
    with logs.about(log, job="night", run_id="r1"):
        log.warning("two\nlines %s", "é", extra={"event": "stopping", "fields": {"rows": 3}})
    log.info("after")
    first, second = lines(capsys.readouterr().err)
    assert first["ts"].endswith("Z")
    del first["ts"]
    assert first == {
        "level": "warning", "event": "stopping", "message": "two\nlines é", "job": "night",
        "run_id": "r1", "rows": 3,
    }  # fmt: skip
    assert "job" not in second
    assert second["event"] == "message"


def test_usage_has_the_names_of_opentelemetry():
    fields = logs.row_fields(RESULT)
    assert fields["gen_ai.usage.input_tokens"] == 12
    assert fields["gen_ai.usage.output_tokens"] == 3
    assert fields["gen_ai.request.model"] == "m"
    assert fields["gen_ai.response.model"] == "m-2026"
    assert fields["gen_ai.response.id"] == "resp_1"
    assert fields["gen_ai.response.finish_reasons"] == ["stop"]
    assert (fields["row"], fields["label"], fields["status"]) == (4, "e", "ok")


def test_what_is_unknown_is_left_out_and_zero_is_not():
    fields = logs.row_fields(
        RowResult(
            key=b"k" * 16,
            row=0,
            ending=Failure(code="timeout", message="late"),
            final_usage=Usage(input_tokens=0),
        )
    )
    assert fields["error.type"] == "timeout"
    assert fields["gen_ai.usage.input_tokens"] == 0
    assert "gen_ai.usage.output_tokens" not in fields
    assert "gen_ai.response.id" not in fields


def test_the_end_of_a_run_is_told_in_numbers():
    summary = RunSummary(
        job="night", origin="n.toml", run_id="r", started_at=0, elapsed_seconds=1.23456,
        rows=9, sent=2, statuses=Counter({RowStatus.OK: 9}),
    )  # fmt: skip
    fields = logs.end_fields(summary)
    assert (fields["exit_code"], fields["rows"], fields["rows_sent"]) == (0, 9, 2)
    assert fields["statuses"] == {"ok": 9}
    assert json.loads(json.dumps(fields)) == fields


def test_more_v_says_more(capsys):
    for verbose, heard in ((0, []), (1, ["failed"]), (2, ["failed", "every"])):
        set_up(verbose=verbose)
        log.debug("failed")
        log.log(logs.TRACE, "every")
        assert [line["message"] for line in lines(capsys.readouterr().err)] == heard


def test_a_row_reads_well():
    assert logs.row_line(RESULT) == "row 5 (e): ok, 1.2s, 2 attempts"
    failed = RowResult(key=b"", row=0, ending=Failure(code="timeout", message="no reply in 5 s"))
    assert logs.row_line(failed) == "row 1: failed timeout: no reply in 5 s"


def test_quiet_keeps_lines_back_for_the_end(capsys):
    held = set_up(quiet=True, log_format=logs.LogFormat.TEXT)
    log.error("trouble")
    assert capsys.readouterr().err == ""
    assert held.lines[0].endswith("trouble")


def test_a_log_file_that_is_rotated_away_is_begun_anew(tmp_path, capsys):
    path = tmp_path / "logs" / "night.log"
    set_up(log_file=str(path))
    log.info("before")
    path.rename(path.with_suffix(".log.1"))
    log.info("after")
    assert [line["message"] for line in lines(path.with_suffix(".log.1").read_text())] == ["before"]
    assert [line["message"] for line in lines(path.read_text())] == ["after"]


def test_a_log_file_is_appended_to_and_gets_lines_that_quiet_keeps_back(tmp_path):
    path = tmp_path / "night.log"
    for night in ("one", "two"):
        set_up(log_file=str(path), quiet=True)
        log.info("%s", night)
    assert [line["message"] for line in lines(path.read_text())] == ["one", "two"]


def test_a_log_file_that_cannot_be_opened_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="--log-file"):
        set_up(log_file=str(tmp_path))


def test_a_log_file_of_text_has_the_date(tmp_path):
    path = tmp_path / "night.log"
    set_up(log_file=str(path), log_format=logs.LogFormat.TEXT)
    log.info("hello")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d hello\n", path.read_text())


def test_off_a_terminal_a_line_of_text_begins_with_the_time(capsys):
    set_up(log_format=logs.LogFormat.TEXT)
    log.info("hello")
    clock, word = capsys.readouterr().err.split()
    assert clock.count(":") == 2
    assert word == "hello"

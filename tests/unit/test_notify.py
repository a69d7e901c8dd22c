"""Pings and the Prometheus textfile: told to the outside, never felt by the run."""

import logging
import re
import threading
import time
from collections import Counter
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batch_runner.bill import Bill, Tokens
from batch_runner.errors import ExitCode, StorageError
from batch_runner.notify import MOST_BODY_BYTES, News, Ping, write_textfile
from batch_runner.records import RowStatus
from batch_runner.summary import RunSummary


class Listener:
    """A ping server on loopback that gives the answers it is told to, then 200."""

    def __init__(self) -> None:
        self.heard = []
        self.answers = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                listener.heard.append((self.path, body.decode()))
                self.send_response(listener.answers.pop(0) if listener.answers else 200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ping/5ecret-uuid"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def ping(listener, monkeypatch):
    monkeypatch.setenv("PING_URL", listener.url)
    return Ping("PING_URL", log=logging.getLogger("test"), pause_seconds=0.001)


def news(code=ExitCode.DONE, text="all well", **more):
    return News(job="night", exit_code=code, text=text, elapsed_seconds=2.5, **more)


def test_a_run_is_told_at_its_beginning_and_end(ping, listener):
    ping.start()
    ping.end(news(ExitCode.ROWS_FAILED, "2 failed: café"))
    assert listener.heard == [("/ping/5ecret-uuid/start", ""), ("/ping/5ecret-uuid/3", "2 failed: café")]  # fmt: skip


def test_a_query_stays_behind_the_step(listener, monkeypatch):
    monkeypatch.setenv("PING_URL", listener.url + "/?rid=1")
    Ping("PING_URL", log=logging.getLogger("test")).end(news())
    assert listener.heard[0][0] == "/ping/5ecret-uuid/0?rid=1"


def test_a_ping_is_tried_three_times(ping, listener, caplog):
    listener.answers = [500, 503]
    ping.end(news())
    assert len(listener.heard) == 3
    assert not caplog.records
    listener.answers = [500, 500, 500]
    ping.end(news())
    assert len(listener.heard) == 6
    assert "status 500" in caplog.text


def test_a_refused_ping_is_not_tried_again(ping, listener, caplog):
    listener.answers = [404]
    ping.end(news())
    assert len(listener.heard) == 1
    assert "status 404" in caplog.text


def test_nobody_listening_is_a_warning_without_the_url(listener, monkeypatch, caplog):
    listener.server.server_close()
    monkeypatch.setenv("PING_URL", listener.url)
    Ping("PING_URL", log=logging.getLogger("test"), pause_seconds=0.001).end(news())
    assert "Connection refused" in caplog.text
    assert "5ecret" not in caplog.text


@pytest.mark.parametrize(
    "url", ["5ecret", "https//host/5ecret", "htps://host/5ecret", "ftp://host/5ecret", "http://", "http://[5ecret/", "http://h\n5ecret"]
)  # fmt: skip
def test_a_url_that_is_none_is_a_warning_that_does_not_show_it(url, monkeypatch, caplog):
    monkeypatch.setenv("PING_URL", url)
    monkeypatch.setattr("batch_runner.notify.TIMEOUT_SECONDS", 0.01)
    ping = Ping("PING_URL", log=logging.getLogger("test"), pause_seconds=0)
    ping.start()
    ping.end(news())
    assert "PING_URL" in caplog.text or "did not get through" in caplog.text
    assert "5ecret" not in caplog.text


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_is_no_news_but_for_those_who_look(value, monkeypatch, caplog):
    monkeypatch.delenv("PING_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("PING_URL", value)
    with caplog.at_level(logging.INFO):
        Ping("PING_URL", log=logging.getLogger("test")).end(news())
    assert not caplog.records
    with caplog.at_level(logging.DEBUG):
        Ping("PING_URL", log=logging.getLogger("test")).end(news())
    assert "PING_URL is not set" in caplog.text


def test_a_long_text_is_cut_at_what_the_service_keeps(ping, listener):
    ping.end(news(text="x" * 200_000))
    assert len(listener.heard[0][1]) == MOST_BODY_BYTES


def test_the_beginning_arrives_before_the_end_and_holds_nobody_up(ping, listener):
    listener.answers = [500, 500]
    began = time.monotonic()
    ping.start()
    assert time.monotonic() - began < 1
    ping.end(news())
    assert [path.rsplit("/", 1)[1] for path, _ in listener.heard] == ["start"] * 3 + ["0"]


def summary(**more):
    return RunSummary(
        job="night", origin="night.toml", run_id="r", started_at=0.0, elapsed_seconds=2.5,
        statuses=Counter({RowStatus.OK: 7, RowStatus.FAILED: 1}), **more,
    )  # fmt: skip


def metrics(path):
    """Name with labels -> value, as a Prometheus parser reads the file."""
    found = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r'([a-z_]+\{[a-z]+="(?:[^"\\]|\\.)*"(?:,[a-z]+="[^"]*")?\}) (\S+)', line)  # fmt: skip
            assert match, line
            found[match[1]] = float(match[2])
    return found


def test_the_textfile_tells_of_the_run(tmp_path):
    path = tmp_path / "night.prom"
    bill = Bill(answered=7, answers=Decimal("0.125"), tokens=Tokens(input=100, output=20))
    write_textfile(path, news(summary=summary(run_bill=bill)), now=1000.0)
    found = metrics(path)
    assert found['batch_runner_exit_code{job="night"}'] == 0
    assert found['batch_runner_duration_seconds{job="night"}'] == 2.5
    assert found['batch_runner_last_run_timestamp_seconds{job="night"}'] == 1000
    assert found['batch_runner_last_success_timestamp_seconds{job="night"}'] == 1000
    assert found['batch_runner_rows{job="night",status="ok"}'] == 7
    assert found['batch_runner_tokens{job="night",type="input"}'] == 100
    assert found['batch_runner_cost_usd{job="night"}'] == 0.125
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["night.prom"]


def test_every_metric_has_its_help_and_type_once(tmp_path):
    path = tmp_path / "night.prom"
    write_textfile(path, news(summary=summary()), now=1.0)
    lines = path.read_text().splitlines()
    names = {line.split("{")[0] for line in lines if not line.startswith("#")}
    for name in names:
        assert sum(line.startswith(f"# HELP {name} ") for line in lines) == 1
        assert lines.count(f"# TYPE {name} gauge") == 1


def test_a_failure_keeps_the_time_of_the_last_success(tmp_path):
    path = tmp_path / "night.prom"
    write_textfile(path, news(), now=1000.0)
    write_textfile(path, news(ExitCode.USAGE), now=2000.0)
    write_textfile(path, news(ExitCode.STOPPED), now=3000.0)
    found = metrics(path)
    assert found['batch_runner_last_success_timestamp_seconds{job="night"}'] == 1000
    assert found['batch_runner_last_run_timestamp_seconds{job="night"}'] == 3000
    assert found['batch_runner_exit_code{job="night"}'] == 4


def test_what_is_unknown_is_absent_and_not_zero(tmp_path):
    path = tmp_path / "night.prom"
    unpriced = Bill(answered=2, unpriced=2)
    write_textfile(path, news(ExitCode.ROWS_FAILED, summary=summary(run_bill=unpriced)), now=1.0)
    assert not any("cost" in name or "success" in name for name in metrics(path))


def test_a_file_that_cannot_be_read_or_written_is_told(tmp_path):
    path = tmp_path / "night.prom"
    path.write_bytes(b"\xff\xfe garbage")
    write_textfile(path, news(ExitCode.STOPPED), now=1.0)
    assert 'batch_runner_exit_code{job="night"}' in metrics(path)
    with pytest.raises(StorageError):
        write_textfile(tmp_path, news(), now=1.0)

"""Nights: the same command over a folder that grows, as cron and systemd run it."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def pings():
    """What a ping server on loopback has heard; its URL is `pings.url`."""

    class Heard(list):
        url = ""

    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            heard.append((self.path.removeprefix("/5ecret/"), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.url = f"http://127.0.0.1:{server.server_port}/5ecret"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield heard
    server.shutdown()
    thread.join()
    server.server_close()


class House:
    """A folder as `jobs/nightly.toml` wants it, and its nightly command."""

    def __init__(self, folder: Path, run, server, pings) -> None:
        self.folder, self.run, self.server, self.pings = folder, run, server, pings
        shutil.copytree(JOBS, folder / "jobs")
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.output = folder / "out" / "nightly.jsonl"
        self.textfile = folder / "out" / "nightly.prom"

    def arguments(self, *more: str) -> list[str]:
        return [
            "run", "-q", "jobs/nightly.toml", "--base-url", self.server.url,
            "--set", "notify.prometheus_textfile=../out/nightly.prom", *more,
        ]  # fmt: skip

    def night(self, *more: str):
        return self.run(*self.arguments(*more), NIGHTLY_PING_URL=self.pings.url)

    def add(self, name: str, *tickets: int, torn: int | None = None) -> None:
        lines = [ticket(number) for number in tickets]
        tail = "" if torn is None else ticket(torn)[:25]
        with (self.inbox / name).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines) + tail)

    def calls(self) -> int:
        self.server.settle()
        return len(self.server.ledger.rows())

    def answers(self) -> dict[str, str]:
        rows = [json.loads(line) for line in self.output.read_text().splitlines()]
        return {row["ticket_id"]: row["llm_status"] for row in rows}


def ticket(number: int) -> str:
    return json.dumps(
        {"ticket_id": f"T{number}", "subject": f"s{number}", "body": f"help {number}"}
    )


@pytest.fixture
def house(tmp_path, main_cli, fault_server, pings):
    return House(tmp_path, main_cli, fault_server, pings)


def silent(ran) -> bool:
    return (ran.code, ran.out, ran.err) == (0, "", "")


def test_three_nights_over_a_folder_that_grows(house):
    house.add("monday.jsonl", 1, 2, 3)
    assert silent(house.night())
    assert house.calls() == 3
    assert house.answers() == dict.fromkeys(["T1", "T2", "T3"], "ok")

    # The second night: a file has grown, another has come, and its last line is being written.
    house.add("monday.jsonl", 4)
    house.add("tuesday.jsonl", 5, torn=6)
    assert silent(house.night())
    assert house.calls() == 5
    assert list(house.answers()) == ["T1", "T2", "T3", "T4", "T5"]

    # The torn line is whole now; nothing else is asked again.
    text = (house.inbox / "tuesday.jsonl").read_text()
    whole = text[: text.rindex("\n") + 1] + ticket(6) + "\n"
    (house.inbox / "tuesday.jsonl").write_text(whole)
    assert silent(house.night())
    assert house.calls() == 6

    # A night on which nothing happened costs nothing.
    before = house.output.read_bytes()
    assert silent(house.night())
    assert house.calls() == 6
    assert house.output.read_bytes() == before

    # The third night, somebody has changed the prompt: refused, and said, before a single call.
    job = house.folder / "jobs" / "nightly.toml"
    job.write_text(job.read_text().replace("You triage", "You carefully triage"))
    refused = house.night()
    assert refused.code == 2
    assert "6 of 6 finished rows" in refused.err
    assert "--on-change rerun" in refused.err
    assert house.calls() == 6
    assert house.output.read_bytes() == before

    assert silent(house.night("--on-change", "rerun"))
    assert house.calls() == 12
    assert [code for code, _ in house.pings if code != "start"] == ["0", "0", "0", "0", "2", "0"]


def test_what_was_agreed_to_be_paid_again_stays_agreed_until_it_is_done_or_edited(house):
    """The command that a stopped run advises, and the next night, were refused."""
    house.add("monday.jsonl", *range(1, 11))
    assert silent(house.night())
    job = house.folder / "jobs" / "nightly.toml"
    job.write_text(job.read_text().replace("You triage", "You carefully triage"))
    assert house.night().code == 2
    assert silent(house.night("--on-change", "rerun", "-n", "3"))
    assert house.calls() == 13
    house.add("tuesday.jsonl", 11)
    assert silent(house.night("-n", "4")), "new files are no change"
    assert house.calls() == 17
    assert silent(house.night())
    assert house.calls() == 21
    (house.inbox / "monday.jsonl").write_text("".join(f"{ticket(n)} \n" for n in range(21, 31)))
    job.write_text(job.read_text().replace("You carefully triage", "You triage"))
    assert house.night().code == 2, "nobody has agreed to this"


def test_a_new_file_beside_a_changed_prompt_is_refused_as_well(house):
    house.add("monday.jsonl", 1, 2, 3)
    house.night()
    job = house.folder / "jobs" / "nightly.toml"
    job.write_text(job.read_text().replace("You triage", "You carefully triage"))
    house.add("tuesday.jsonl", 4)
    assert house.night().code == 2
    assert silent(house.night("--on-change", "keep"))
    assert house.calls() == 4  # the new one alone


def test_a_night_with_failed_rows_speaks_up_and_says_how_to_go_on(house):
    house.add("monday.jsonl", 1, 2)
    with (house.inbox / "monday.jsonl").open("a") as file:
        file.write(ticket(3).replace("help", "[[fault:400]] help") + "\n")
    ran = house.night()
    assert ran.code == 3
    assert ran.out == ""
    assert "batch-runner retry" in ran.err
    assert silent(house.night("--fail-on", "50%"))
    assert silent(house.night("--fail-on", "new")), "last night told of it"
    assert house.night().code == 3
    assert house.calls() == 3


def test_the_end_of_a_night_is_told_with_its_summary(house):
    house.add("monday.jsonl", 1, 2)
    house.night()
    (start, nothing), (code, text) = house.pings
    assert (start, nothing, code) == ("start", "", "0")
    assert "2 rows: 2 ok" in text
    assert "tokens" in text
    told = house.textfile.read_text()
    assert 'batch_runner_rows{job="nightly-triage",status="ok"} 2' in told
    assert house.textfile.stat().st_mode & 0o777 == 0o644


def test_a_night_that_cannot_begin_is_told_too_and_keeps_the_last_success(house):
    house.add("monday.jsonl", 1)
    house.night()
    success = re.search(r"last_success\S+\} (\S+)", house.textfile.read_text())[1]
    shutil.rmtree(house.inbox)
    ran = house.night()
    assert ran.code == 2
    assert house.pings[-1][0] == "2"
    assert "inbox" in house.pings[-1][1]
    told = house.textfile.read_text()
    assert f'_last_success_timestamp_seconds{{job="nightly-triage"}} {success}\n' in told
    assert 'batch_runner_exit_code{job="nightly-triage"} 2' in told


def test_a_ping_that_goes_nowhere_changes_nothing(house, monkeypatch):
    monkeypatch.setattr("batch_runner.notify.TRIES", 1)
    house.pings.url = "http://127.0.0.1:9/5ecret"
    house.add("monday.jsonl", 1)
    assert silent(house.night())
    shutil.rmtree(house.inbox)
    ran = house.night()
    assert ran.code == 2
    assert "5ecret" not in ran.err


def test_a_textfile_that_cannot_be_written_changes_nothing(house):
    house.add("monday.jsonl", 1)
    place = "notify.prometheus_textfile=/dev/null/night.prom"
    assert silent(house.night("--set", place))


def test_an_overlapping_night_waits_leaves_or_fails_as_it_was_told(house, run_cli):
    house.add("monday.jsonl", *range(6))
    house.server.change(latency_seconds=0.5)
    first = run_cli.start(*house.arguments("-c", "2"), NIGHTLY_PING_URL=house.pings.url)
    try:
        lock = house.folder / "out" / "nightly.jsonl.run" / "journal" / "00000000.jsonl"
        deadline = time.monotonic() + 30
        while not lock.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        heard = len(house.pings)
        assert silent(house.night("--if-locked", "skip"))
        assert len(house.pings) == heard  # the other one will tell
        locked = house.night()
        assert locked.code == 75
        assert str(first.pid) in locked.err
        assert first.poll() is None
        assert silent(house.night("--if-locked", "wait"))
    finally:
        out, err = first.communicate(timeout=30)
    assert (first.returncode, out, err) == (0, "", "")
    assert house.calls() == 6
    assert sorted(code for code, _ in house.pings) == ["0", "0", "75", "start", "start"]


def test_a_json_log_tells_of_a_night_line_by_line(house):
    house.add("monday.jsonl", 1, 2)
    log = house.folder / "night.log"
    assert silent(house.night("--log-format", "json", "--log-file", str(log), "-vv"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"plan", "run_start", "row_ended", "run_end"} <= {line["event"] for line in lines}
    assert {line["job"] for line in lines} == {"nightly-triage"}
    assert len({line["run_id"] for line in lines}) == 1
    rows = [line for line in lines if line["event"] == "row_ended"]
    assert sorted(row["label"] for row in rows) == ["T1", "T2"]
    assert all(row["gen_ai.usage.output_tokens"] > 0 for row in rows)
    (end,) = [line for line in lines if line["event"] == "run_end"]
    assert end["exit_code"] == 0
    assert end["gen_ai.usage.input_tokens"] == sum(r["gen_ai.usage.input_tokens"] for r in rows)


def test_the_units_pass_systemd_analyze(tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "batch-runner"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in ("batch-runner-nightly.service", "batch-runner-nightly.timer"):
        text = (JOBS / unit).read_text()
        # systemd looks whether the program is there; on this machine it is somewhere else.
        (tmp_path / unit).write_text(re.sub(r"ExecStart=\S+", f"ExecStart={program}", text))
    units = [
        str(path) for path in sorted(tmp_path.glob("*.service")) + sorted(tmp_path.glob("*.timer"))
    ]
    ran = subprocess.run(
        [tool, "verify", "--man=no", *units], capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    about_ours = [line for line in ran.stderr.splitlines() if "batch-runner" in line]
    assert (ran.returncode, about_ours) == (0, [])


def test_the_crontab_line_is_one_that_cron_and_the_command_line_take():
    (line,) = [
        line for line in (JOBS / "crontab.example").read_text().splitlines() if line[:1].isdigit()
    ]
    fields = line.split(None, 5)
    assert [re.fullmatch(r"[\d*/,-]+", field) is not None for field in fields[:5]] == [True] * 5
    assert not re.search(r"(?<!\\)%", fields[5])
    assert "run -q --if-locked skip --fail-on new jobs/nightly.toml" in fields[5]

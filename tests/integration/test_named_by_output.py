"""A job is named by what is at hand: its file, its output or its run folder. They mean the same."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.integration.job_text import job_text


JOB = job_text()
BROKEN = "[[fault:500]]"
ONCE = ("--set", "retry.attempts=1", "--set", "retry.max_wait=10ms")


class Place:
    """A folder with a job file, whose last run had an endpoint and an output of its own."""

    def __init__(self, cli, server):
        self.cli, self.server, self.folder = cli, server, cli.folder
        self.write()
        (self.folder / "m.toml").write_text(JOB)
        (self.folder / "elsewhere").mkdir()

    def write(self, second=f"two {BROKEN}"):
        (self.folder / "in.csv").write_text(f"id,body\n1,one\n2,{second}\n")

    def run(self, *options, job=("m.toml",), code=3):
        ran = self.cli("run", *job, "--base-url", self.server.url, *ONCE, *options)
        assert ran.code == code, ran.err

    def sent(self):
        """The rows that were called for since the last time."""
        self.server.settle()
        rows = self.server.ledger.rows()
        self.server.reset()
        return rows

    def output(self, name="q.csv"):
        return (self.folder / name).read_text()


@pytest.fixture
def place(main_cli, fault_server):
    return Place(main_cli, fault_server)


TIMES = re.compile(r"[0-9]+ms|[0-9]+:[0-9]+:[0-9]+")
NAMES = ("q.csv", "q.csv.run", "./q.csv.run/")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "words",
    [
        ("status",), ("report",), ("report", "--json"), ("verify",), ("costs",), ("check",),
        ("estimate",), ("export",), ("export", "-o", "other.csv"), ("export", "--partial"),
        ("reparse",), ("retry", "--dry-run"), ("convert", "-o", "batch.jsonl"),
    ],
)  # fmt: skip
def test_an_output_and_its_run_folder_mean_the_job_that_wrote_it(place, words, name):
    place.run("-o", "q.csv")
    command, *options = words
    typed = ["m.toml", "--base-url", place.server.url, *ONCE]
    typed += ["--set", "output.path=q.csv"] if "-o" in options else ["-o", "q.csv"]

    def told(*words):
        ran = place.cli(*words)
        assert ran.code == 0, ran.err
        return TIMES.sub("", ran.out), TIMES.sub("", ran.err)

    as_typed = told(command, *typed, *options)
    by_name = told(command, name, *options)
    assert by_name[0] == as_typed[0]
    if command != "retry":  # it repeats what was typed
        assert by_name[1] == as_typed[1]


@pytest.mark.parametrize("name", NAMES)
def test_retry_of_an_output_sends_its_failed_rows_to_the_endpoint_that_was_asked(place, name):
    place.run("-o", "q.csv")
    place.sent()
    ran = place.cli("retry", name)
    assert ran.code == 3, ran.err
    assert "1 to send, 1 reused" in ran.err
    assert len(place.sent()) == 1
    assert not (place.folder / "out.csv").exists()


def test_retry_of_the_output_of_a_job_given_by_flags_is_that_job(place):
    flags = ("-i", "in.csv", "-m", "m1", "-p", "Say {{ body }}", "-o", "q.csv")
    place.run(job=flags)
    place.sent()
    ran = place.cli("retry", "q.csv")
    assert "1 to send, 1 reused" in ran.err
    assert len(place.sent()) == 1


def test_an_output_can_be_named_from_another_folder(place):
    place.run("-o", "q.csv")
    shown = place.cli("report", "q.csv", "--json").out
    place.cli.folder = place.folder / "elsewhere"
    told = place.cli("report", "../q.csv", "--json")
    assert json.loads(told.out)["statuses"] == json.loads(shown)["statuses"]
    assert "1 to send" in place.cli("retry", "../q.csv.run", "--dry-run").err


def test_what_is_typed_now_wins_over_what_was_typed_then(place):
    place.run("-o", "q.csv", "-m", "m2")
    place.sent()
    place.cli("retry", "q.csv", "--set", "request.model=m3", "--on-change", "rerun")
    place.cli("retry", "q.csv", "-m", "m4", "--on-change", "rerun")
    assert {row["model"] for row in place.sent()} <= {"m3", "m4"}
    told = place.cli("check", "q.csv", "--set", "request.model=m5").out
    assert f"m5 at {place.server.url}" in told


def test_a_mistake_in_what_is_typed_now_is_not_blamed_on_the_job(place):
    place.run("-o", "q.csv")
    ran = place.cli("retry", "q.csv", "-c", "many")
    assert ran.code == 2
    assert "--concurrency: limits.concurrency: 'many'" in ran.err
    assert "no longer" not in ran.err


@pytest.mark.parametrize("name", ["q.csv", "q.csv.run"])
def test_run_takes_no_output_for_a_job_and_names_the_command(place, name):
    place.run("-o", "q.csv")
    place.sent()
    ran = place.cli("run", name)
    assert ran.code == 2
    assert f"batch-runner run m.toml --output q.csv --base-url {place.server.url}" in ran.err
    assert not place.sent()


@pytest.mark.parametrize("command", ["retry", "export", "report", "reparse", "check"])
@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (lambda file: file.unlink(), "no such job file"),
        (lambda file: file.write_text("[input\n"), "not TOML"),
        (lambda file: file.write_text(JOB + "[oops]\n"), "oops"),
    ],
)
def test_a_job_file_that_is_gone_or_broken_is_told_with_a_way_out(place, command, lost, words):
    place.run("-o", "q.csv")
    before = place.output()
    place.sent()
    lost(place.folder / "m.toml")
    ran = place.cli(command, "q.csv")
    assert ran.code == 2
    assert "'q.csv' was written by a job that is no longer to be read: m.toml: " in ran.err
    assert words in ran.err
    assert f"batch-runner {command} JOB -o q.csv" in ran.err
    assert place.output() == before
    assert not place.sent()


HEADERS = 'endpoint.headers={X-Gate = "s3cret-s3cret"}'
TOOLS = 'request.tools=[{type="mcp", authorization="s3cret-s3cret"}]'


def test_what_was_masked_is_asked_for_and_nothing_is_sent_without_it(place):
    place.run("-o", "q.csv", "--set", HEADERS)
    place.sent()
    for name in ("q.csv", "q.csv.run"):
        ran = place.cli("retry", name)
        assert ran.code == 2
        assert f"{name!r}: its run was told what may be a secret" in ran.err
        assert "is not kept: endpoint.headers" in ran.err
        assert "batch-runner retry m.toml --output q.csv" in ran.err
    assert not place.sent()
    assert "1 to send" in place.cli("retry", "q.csv", "--set", HEADERS, "--dry-run").err
    assert "2 rows: 1 ok, 1 failed" in place.cli("report", "q.csv").out, "it calls nobody"


def test_what_was_masked_and_is_part_of_a_request_is_missed_by_readers_too(place):
    place.run("-o", "q.csv", "--set", TOOLS)
    for command in ("retry", "export", "report"):
        ran = place.cli(command, "q.csv")
        assert ran.code == 2
        assert "is not kept: request.tools" in ran.err


def test_two_outputs_are_one_too_many(place):
    place.run("-o", "q.csv")
    place.run("-o", "p.csv")
    place.sent()
    for command in ("retry", "export"):
        ran = place.cli(command, "q.csv", "-o", "p.csv")
        assert ran.code == 2
        assert "-o 'p.csv': 'q.csv' says already which run is meant" in ran.err
    assert not place.sent()
    assert place.cli("retry", "q.csv", "-o", "./q.csv", "--dry-run").code == 0


def test_rows_in_lines_of_json_are_no_batch_output(place):
    place.run("-o", "q.jsonl")
    assert "2 rows: 1 ok, 1 failed" in place.cli("report", "q.jsonl").out
    assert place.cli("report", "q.jsonl", "-o", "page.html").code == 0
    assert "1 of 2" in place.output("page.html")
    assert "2 requests" in place.cli("convert", "q.jsonl", "-o", "batch.jsonl").err
    (place.folder / "q.jsonl").unlink()
    assert "2 rows: 1 ok, 1 failed" in place.cli("report", "q.jsonl").out, "the journal is there"


def test_the_replies_of_a_batch_job_are_reported_as_a_batch(place):
    body = {"model": "m1", "input": "one"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    (place.folder / "in.jsonl").write_text(json.dumps(line) + "\n")
    flags = ("-i", "in.jsonl", "--set", "input.format=openai-batch", "-o", "replies.jsonl")
    place.run(job=flags, code=0)
    assert "1 request: 1 ok" in place.cli("report", "replies.jsonl").out
    assert "1 ok" in place.cli("report", "replies.jsonl.run").out


def test_a_run_without_its_journal_is_found_by_any_name(place):
    place.run("-o", "q.csv")
    (place.folder / "q.csv.run" / "journal").rename(place.folder / "aside")
    for name in ("q.csv", "q.csv.run"):
        assert "the segment is missing" in place.cli("verify", name).out
        ran = place.cli("export", name)
        assert ran.code == 2
        assert "the journal beside it holds 0 results" in ran.err
        assert place.cli("costs", name).code == 0


@pytest.fixture
def as_nobody_special(run_cli):
    """The command line without the powers of root, which no permission stops."""
    command = [sys.executable, "-m", "batch_runner"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv(1) to be refused anything")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]

    def ran(*words):
        return subprocess.run(
            [*command, *words], cwd=run_cli.folder, env=run_cli.environment,
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return ran


def test_a_folder_that_may_not_be_looked_into_is_a_mistake_not_a_bug(place, as_nobody_special):
    place.run("-o", "q.csv")
    locked = place.folder / "locked"
    locked.mkdir()
    locked.chmod(0)
    try:
        for words in (
            ("status", "locked/q.csv"), ("report", "locked/q.csv"), ("costs", "locked/q.csv"),
            ("retry", "locked/q.csv"), ("verify", "-o", "locked/q.csv"),
            ("export", "q.csv", "-o", "locked/x.csv"), ("report", "q.csv", "-o", "locked/r.html"),
            ("convert", "q.csv", "-o", "locked/b.jsonl"), ("init", "locked/in.csv"),
            ("check", "q.csv", "--set", f"output.report={locked}/r.html"),
        ):  # fmt: skip
            ran = as_nobody_special(*words)
            assert ran.returncode == 2, (words, ran.stderr)
            assert "locked" in ran.stderr.splitlines()[0]
            assert "hint: " in ran.stderr
    finally:
        locked.chmod(0o755)

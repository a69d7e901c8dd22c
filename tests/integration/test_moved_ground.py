"""The ground moves while a run goes on: its folder goes, its input is edited. Nothing is shown that is not so."""

import json
import shutil
import subprocess
import sys
import time

import pytest


JOB = """
[input]
path = "in.csv"
[prompt]
input = "Sum: {{ body }}"
[request]
model = "m1"
[endpoint]
base_url = "URL"
[limits]
concurrency = 4
[output]
path = "o/out.jsonl"
"""


class Ground:
    def __init__(self, cli, server):
        self.cli, self.server, self.folder = cli, server, cli.folder
        self.output = self.folder / "o" / "out.jsonl"
        self.rows = [f"text {n}" for n in range(40)]
        self.write()
        (self.folder / "job.toml").write_text(JOB.replace("URL", server.url))
        server.misbehave("slow:0.1")

    def write(self):
        (self.folder / "in.csv").write_text("\n".join(["body", *self.rows]) + "\n")

    def start(self):
        process = self.cli.start("run", "job.toml", "--progress", "off")
        end = time.monotonic() + 20
        while len(self.server.ledger.rows()) < 12:
            assert time.monotonic() < end
            time.sleep(0.01)
        return process

    def answers(self):
        return [json.loads(line) for line in self.output.read_text().splitlines()]


@pytest.fixture
def ground(run_cli, fault_server):
    return Ground(run_cli, fault_server)


@pytest.mark.parametrize("lost", ["o", "o/out.jsonl.run", "o/out.jsonl.run/journal"])
@pytest.mark.parametrize("moved", [True, False], ids=["moved", "removed"])
def test_a_run_whose_journal_goes_stops_and_nothing_is_paid_unseen(ground, lost, moved):
    process = ground.start()
    place = ground.folder / lost
    place.rename(ground.folder / "aside") if moved else shutil.rmtree(place)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 5, told
    assert "put it back" in told
    ground.server.settle()
    assert len(ground.server.ledger.rows()) < 40, "it went on paying"
    # What follows starts from what is there, and ends with every row answered.
    ran = ground.cli("run", "job.toml", "--progress", "off")
    assert ran.code == 0, ran.err
    assert [row["llm_status"] for row in ground.answers()] == ["ok"] * 40


@pytest.mark.parametrize("moved", ["o", "o/out.jsonl.run"])
def test_a_journal_that_is_put_back_has_all_that_was_answered(ground, moved):
    """Also what was in flight when it went: nothing is left at the old place."""
    process = ground.start()
    place = ground.folder / moved
    place.rename(ground.folder / "aside")
    process.communicate(timeout=30)
    assert not (ground.folder / "o" / "out.jsonl.run").exists()
    shutil.rmtree(place, ignore_errors=True)  # the output's meta file
    (ground.folder / "aside").rename(place)
    assert ground.cli("run", "job.toml", "--progress", "off").code == 0
    ground.server.settle()
    assert len(ground.server.ledger.rows()) == 40


@pytest.mark.parametrize("in_place", [True, False])
def test_an_answer_is_never_shown_beside_another_text(ground, in_place):
    process = ground.start()
    ground.rows[3] = "quite another text"
    if in_place:
        ground.write()
    else:
        (ground.folder / "new").write_text("\n".join(["body", *ground.rows]) + "\n")
        (ground.folder / "new").rename(ground.folder / "in.csv")
    process.communicate(timeout=30)
    if ground.output.exists():
        shown = ground.answers()[3]
        assert shown["body"] != "quite another text" or shown["llm_status"] == "pending"
    ground.server.misbehave("ok")
    assert ground.cli("run", "job.toml", "--progress", "off").code == 0
    assert [row["llm_status"] for row in ground.answers()] == ["ok"] * 40
    ground.server.settle()
    assert len(ground.server.ledger.rows()) <= 41 + 4


@pytest.mark.parametrize("command", ["run", "status", "report", "export", "check", "verify"])
def test_a_present_folder_that_is_gone_stops_no_job_that_is_named_in_full(
    run_cli, fault_server, command
):
    place, gone = run_cli.folder / "place", run_cli.folder / "gone"
    place.mkdir()
    (place / "in.csv").write_text("body\none\n")
    job = place / "job.toml"
    job.write_text(JOB.replace("URL", fault_server.url))
    assert run_cli("run", str(job)).code == 0
    gone.mkdir()
    leave = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", sys.executable, "-m", "batch_runner"]
    told = subprocess.run(
        [*leave, command, str(job)],
        cwd=gone, env=run_cli.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr

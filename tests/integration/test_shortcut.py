"""The shortcut changes how long a run takes to find out where it stands, and nothing else."""

import json
import os
import shutil
import signal
import sys
import time

import pytest

from batch_runner import shortcut as shortcut_module
from batch_runner.jobfile import load_job
from batch_runner.journal import RunDirectory
from batch_runner.opening import open_work
from batch_runner.shortcut import read_shortcut


JOB = """
[input]
path = "in.csv"
[prompt]
input = "Sum: {{ body }}"
[request]
model = "m1"
max_output_tokens = 50
[prices.m1]
input = 1.0
output = 2.0
[endpoint]
base_url = "URL"
[limits]
concurrency = 4
[output]
path = "out.csv"
"""


class Job:
    """A job in a folder, run in this process or in one of its own."""

    def __init__(self, cli, server):
        self.cli, self.server, self.folder = cli, server, cli.folder
        self.directory = RunDirectory(self.folder / "out.csv.run")
        self.written = 1_700_000_000
        self.write_rows(["alpha", "beta", "beta", "", "[[fault:400]]"])
        (self.folder / "job.toml").write_text(JOB.replace("URL", server.url))

    def write_rows(self, texts):
        lines = ["body,n", *(f"{text},{n}" for n, text in enumerate(texts))]
        (self.folder / "in.csv").write_text("\n".join(lines) + "\n")
        self.age()

    def age(self):
        """A file written within the last seconds is read again: it may not have been the last write."""
        self.written += 1
        os.utime(self.folder / "in.csv", (self.written, self.written))

    def run(self, *options):
        ran = self.cli("run", "job.toml", *options)
        meta = json.loads((self.folder / "out.csv.meta.json").read_text())
        return ran.code, meta

    def calls(self):
        self.server.settle()
        return len(self.server.ledger.rows())

    def state(self):
        """All that a run builds on, and whether a shortcut led there."""
        job = load_job(self.folder / "job.toml")
        with open_work(job) as work:
            found = work.replay
            facts = {
                "endings": {
                    found.index.key(n): (entry and entry._replace(number=0, file=0))
                    for n in range(len(found.index))
                    for entry in [found.index.entry(n)]
                },
                "rows": [
                    work.plan.has_request(row) and found.index.key(work.plan.entries[row])
                    for row in range(work.plan.rows)
                ],
                "wanted": bytes(work.plan.wanted),
                "occurrences": list(work.plan.occurrences),
                "counts": (work.plan.duplicates, work.plan.unsendable, work.plan.columns),
                "lacking": list(work.plan.lacking),
                "unknown": found.unknown,
                "runs": [(run.run_id, run.ended_cleanly, run.settings) for run in found.runs],
            }
            return facts, work.shortcut is not None

    def assert_nothing_depends_on_the_shortcut(self):
        short, taken = self.state()
        assert taken
        aside = self.directory.shortcut.rename(self.folder / "aside")
        long, taken = self.state()
        assert not taken
        aside.rename(self.directory.shortcut)
        assert short == long


@pytest.fixture
def job(main_cli, fault_server):
    return Job(main_cli, fault_server)


def test_a_finished_job_is_neither_read_nor_planned_again(job, monkeypatch):
    code, first = job.run()
    assert code == 3

    def no(*_arguments, **_named):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("batch_runner.opening.make_plan", no)
        # The package has a function of the module's name.
        patch.setattr(sys.modules["batch_runner.journal.replay"], "_replay_lines", no)
        code, again = job.run()
    assert code == 3
    assert money(again) == money(first)
    assert again["rows"] == first["rows"]
    job.assert_nothing_depends_on_the_shortcut()


def test_new_rows_are_found_and_the_bill_goes_on(job):
    job.run()
    job.write_rows(["alpha", "beta", "beta", "", "[[fault:400]]", "gamma"])
    code, meta = job.run()
    assert code == 3
    assert job.calls() == 5
    assert meta["calls_sent"] == 5
    job.assert_nothing_depends_on_the_shortcut()
    job.directory.shortcut.unlink()
    _, without = job.run()
    assert money(without) == money(meta)


def test_other_prices_bill_all_results_anew(job):
    _, before = job.run()
    text = (job.folder / "job.toml").read_text()
    (job.folder / "job.toml").write_text(text.replace("input = 1.0", "input = 3.0"))
    _, after = job.run()
    assert after["cost_usd"] > before["cost_usd"]


def test_another_prompt_is_planned_anew(job):
    job.run()
    text = (job.folder / "job.toml").read_text()
    (job.folder / "job.toml").write_text(text.replace("Sum:", "Say:"))
    job.run("--on-change", "rerun")
    assert job.calls() == 8
    job.assert_nothing_depends_on_the_shortcut()


def money(meta):
    return {
        name: value for name, value in meta.items() if name.startswith(("cost", "calls", "tokens"))
    }


def test_rows_written_in_place_of_others_are_planned_anew(job):
    """Same name, size, inode and time of modification, as rsync --inplace leaves them."""
    job.write_rows(["fox", "cow"])
    job.run()
    job.written -= 1
    job.write_rows(["hen", "cow"])
    job.run("--on-change", "rerun")
    assert job.calls() == 3
    assert "hen" in (job.folder / "out.csv").read_text()


@pytest.mark.parametrize("at", [0.5, 0.9])
def test_a_segment_that_was_touched_is_read_again(job, at):
    job.run()
    segment = job.directory.segment(0)
    data = bytearray(segment.read_bytes())
    data[int(len(data) * at)] ^= 1
    segment.write_bytes(data)
    assert read_shortcut(job.directory) is None
    job.run()
    assert job.calls() > 4


def test_a_copied_segment_is_seen_for_what_it_is(job):
    """As new lines, its results would be on the bill twice."""
    _, before = job.run()
    shutil.copy(job.directory.segment(0), job.directory.segment(1))
    assert not job.state()[1]
    _, after = job.run()
    assert after["calls_sent"] == before["calls_sent"]


def test_no_byte_of_it_can_be_wrong_and_believed(job):
    job.run()
    data = job.directory.shortcut.read_bytes()
    whole = job.state()[0]
    for at in range(0, len(data), max(1, len(data) // 200)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        job.directory.shortcut.write_bytes(broken)
        facts, taken = job.state()
        assert not taken
        assert facts == whole
    for size in (0, 1, len(data) // 2, len(data) - 1):
        job.directory.shortcut.write_bytes(data[:size])
        assert not job.state()[1]


def test_after_a_kill_only_what_the_dead_run_wrote_is_read(run_cli, fault_server, monkeypatch):
    job = Job(run_cli, fault_server)
    job.write_rows([f"{n} [[fault:slow:0.2]]" for n in range(60)])
    process = run_cli.start("run", "job.toml")
    wait_for(lambda: len(fault_server.ledger.rows()) >= 12)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    job.assert_nothing_depends_on_the_shortcut()

    def no(*_arguments, **_named):
        raise AssertionError("planned again")

    monkeypatch.setattr("batch_runner.opening.make_plan", no)
    facts, taken = job.state()
    assert taken
    assert facts["unknown"]
    assert facts["wanted"].count(1) < 60


def test_a_disk_that_takes_no_shortcut_costs_nothing_else(job, monkeypatch):
    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("batch_runner.bequest.write_shortcut", full)
    code, _ = job.run()
    assert code == 3
    assert not job.directory.shortcut.exists()


def test_a_shortcut_of_another_version_is_not_taken(job, monkeypatch):
    job.run()
    monkeypatch.setattr(shortcut_module, "__version__", "0.0.0")
    assert read_shortcut(job.directory) is None


def wait_for(happened, seconds=20):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("place", ["job.toml", "out.csv", "out.csv.run"])
def test_verify_tells_of_a_segment_that_was_removed_from_the_end(job, place):
    job.run()
    job.write_rows(["alpha", "beta", "beta", "", "[[fault:400]]", "gamma"])
    job.run()
    assert job.cli("verify", place).code == 0
    _, last = sorted(job.directory.segments.iterdir())
    last.unlink()
    told = job.cli("verify", place)
    assert told.code == 5
    assert "00000001.jsonl" in told.out
    assert "the segment is missing" in told.out
    assert "every record is intact" not in told.out


def test_verify_tells_of_a_journal_that_lost_its_end_at_a_line(job):
    job.run()
    (segment,) = job.directory.segments.iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole[: whole[:-1].rindex(b"\n") + 1])
    told = job.cli("verify", "job.toml")
    assert told.code == 5
    assert f"it had {len(whole):,} bytes" in told.out


def test_verify_tells_once_of_a_segment_that_was_cut_within_a_line(job):
    job.run()
    (segment,) = job.directory.segments.iterdir()
    whole = segment.read_bytes()
    cut = whole[:-1].rindex(b"\n") + 5
    segment.write_bytes(whole[:cut])
    told = job.cli("verify", "job.toml")
    assert told.code == 5
    assert told.out.count("00000000.jsonl at byte") == 1
    assert f"at byte {cut - 4:,}: gap: its end is missing: it had {len(whole):,} bytes" in told.out
    [place] = json.loads(job.cli("verify", "job.toml", "--json").out)["damage"]
    assert place["offset"] + place["length"] == len(whole)


def test_verify_misses_nothing_of_a_journal_that_was_put_aside(job, run_cli):
    job.run()
    job.write_rows(["alpha", "beta", "beta", "", "[[fault:400]]", "gamma"])
    job.run()
    job.server.misbehave("hang")
    begun = run_cli.start("run", "job.toml", "--fresh")
    deadline = time.monotonic() + 20
    job.server.settle()
    while not [*job.directory.path.glob("journal.before-*")] and time.monotonic() < deadline:
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.communicate()
    assert job.cli("verify", "job.toml").code == 0

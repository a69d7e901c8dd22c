"""Clocks that lie (test 19): nothing but timestamps for people depends on the time of day."""

import csv
import json
import subprocess
import sys

import pytest

from batch_runner.journal import verify


pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def at_time(moment, command):
    return ["faketime", "-f", moment, *command]


@pytest.mark.parametrize("monotonic", ["real", "faked"])
def test_ten_years_back_and_forth_between_runs_change_no_row(
    ground, needs, record_figure, monotonic
):
    name = f"clock 2016, then 2036, monotonic {monotonic}"
    needs(19, name, "faketime")
    environment = {"FAKETIME_DONT_FAKE_MONOTONIC": "1"} if monotonic == "real" else {}
    ground.server.change(latency_seconds=0.02)
    ground.write_rows(4000)
    codes = [
        ground.run(command=at_time("@2016-01-01 00:00:00", ground.command("-n", "2000")), **environment)[0],
        ground.run(command=at_time("@2036-01-01 00:00:00", ground.command()), **environment)[0],
    ]  # fmt: skip
    wrong = ground.wrong_rows()
    again = ground.billed_again()
    record_figure(19, name, "every row, wrong 0; re-billed 0", f"exits {codes}; {wrong}; {again}")
    assert codes == [0, 0]
    assert wrong == 0
    assert again == 0
    meta = json.loads((ground.folder / "out.csv.meta.json").read_text())
    assert meta["started_at"].startswith("2036")  # the control: the clock did lie
    assert verify(ground.run_directory).damage == ()


def test_a_jump_in_the_middle_of_a_run_times_nothing_out(ground, needs, record_figure):
    name = "clock jumps 20 years in mid-run"
    needs(19, name, "faketime")
    ground.server.change(latency_seconds=0.05)
    ground.write_job(concurrency=20)
    ground.write_rows(1000)
    clock = ground.folder / "clock"
    clock.write_text("+0")
    library = [
        "faketime",
        "-f",
        "+0",
        sys.executable,
        "-c",
        "import os; print(os.environ['LD_PRELOAD'])",
    ]
    preload = subprocess.run(library, capture_output=True, text=True, check=True).stdout.strip()
    child = ground.start(
        LD_PRELOAD=preload,
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
    )
    ground.received_at_least(200)
    clock.write_text("-10y")
    ground.received_at_least(500)
    clock.write_text("+10y")
    _, said = child.communicate(timeout=60)
    wrong = ground.wrong_rows()
    again = ground.billed_again()
    with ground.output.open(newline="") as file:
        latencies = [float(row["llm_latency_s"]) for row in csv.DictReader(file)]
    record_figure(
        19, name, "every row; time-outs 0; latencies >= 0",
        f"exit {child.returncode}, wrong {wrong}; {again}; {min(latencies):.2f}-{max(latencies):.1f} s",
    )  # fmt: skip
    assert child.returncode == 0, said
    assert wrong == 0
    assert again == 0
    assert 0 <= min(latencies) <= max(latencies) < 30

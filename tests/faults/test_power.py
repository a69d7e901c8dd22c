"""Power cuts (tests 3, 4, 5): what was called durable is there when the power is back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


HERE = Path(__file__).parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cut(tmp_path, needs):
    """Cuts the power of a writer of SUBJECT so many times; what was found after each."""

    def cut_power(number, name, subject, cuts, *blind):
        needs(number, name, "unshare", "mkfs.ext4", "mount", root=True)
        probe = ["unshare", "-m", "sh", "-c", f"truncate -s 1M {tmp_path}/p && losetup -f"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("needs loop devices")
        done = subprocess.run(
            ["unshare", "-m", sys.executable, HERE / "power_cut.py", subject, str(cuts), tmp_path, *blind],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return cut_power


def test_fifteen_power_cuts_lose_no_durable_row(cut, record_figure):
    name = "power cut, ext4 shutdown, 15 cuts"
    cuts = cut(3, name, "journal", 15)
    lost = sum(found["lost"] for found in cuts)
    acknowledged = sum(found["acknowledged"] for found in cuts)
    gone = max(found["finished_not_durable"] for found in cuts)
    record_figure(
        3, name, "durable rows lost 0; finished, not durable <= 100 ms + a sync",
        f"{lost} of {acknowledged:,}; at most {gone} rows at 4,000 rows/s",
    )  # fmt: skip
    assert len(cuts) == 15
    assert lost == 0
    assert acknowledged > 1000
    assert gone <= 1200  # 100 ms and a sync of 200 ms
    assert all(found["wrong"] == 0 for found in cuts)
    assert all(set(found["damage"]) <= {"torn"} for found in cuts)


def test_the_power_cut_sees_a_missing_sync(cut, record_figure):
    name = "control: fdatasync stubbed out"
    cuts = cut(4, name, "journal", 15, "blind")
    seen = sum(found["lost"] > 0 for found in cuts)
    record_figure(4, name, "rows lost in >= 14 of 15 cuts", f"{seen} of {len(cuts)}")
    assert seen >= 14


def test_a_power_cut_leaves_the_old_output_or_the_new_one(cut, record_figure):
    name = "power cut while the output is published"
    cuts = cut(5, name, "output", 12)
    whole = sum(found["whole"] for found in cuts)
    lost = sum(found["lost"] for found in cuts)
    blind = cut(5, name, "output", 12, "blind")
    seen = sum(found["lost"] for found in blind)
    record_figure(
        5, name, "old or new, whole 12/12; acknowledged lost 0; control loses",
        f"{whole}/{len(cuts)}; {lost}; control lost {seen}/{len(blind)}",
    )  # fmt: skip
    assert whole == len(cuts) == 12
    assert lost == 0
    assert seen >= 11

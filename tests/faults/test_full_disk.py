"""Disks that run full (tests 11, 12): what was in flight is stored, and the next run pays nothing twice."""

import shutil
import subprocess
import sys

import pytest

from batch_runner.journal import replay


ROWS = 1000
CONCURRENCY = 300

# The first run meets a disk that is too small, the second one after space was made. What the first
# one left is kept outside, because a tmpfs of a user namespace is gone with its last process.
STORY = """
set -e
{mount}
cp in.csv job.toml disk/
cd disk
"$@" >../out 2>../first.err && code=0 || code=$?
echo $code >../first.code
cp -r out.csv.run ../after.run
cd ..
{free}
cd disk
"$@" >../out 2>../second.err && code=0 || code=$?
echo $code >../second.code
cp out.csv out.csv.meta.json ..
"""

TMPFS = "mount -t tmpfs -o size=1200k none disk"
MORE_TMPFS = "mount -o remount,size=200m none disk"
EXT4 = "truncate -s 16M image; mkfs.ext4 -q -F image; mount -o loop image disk; head -c 8M /dev/zero >disk/filler"
LESS_EXT4 = "rm disk/filler"

SMALL_FILES_ONLY = """
import resource, sys
from batch_runner.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))
sys.exit(main(["run", "job.toml", "--progress", "off"]))
"""


def fill(ground, story, *, driver=None, rows=ROWS):
    """The two runs have been; exit code and stderr of the first, and code of the second."""
    ground.server.change(latency_seconds=0.1, latency_shape="uniform", latency_spread=0.1)
    ground.write_job(concurrency=CONCURRENCY)
    ground.write_rows(rows, padding=20)
    (ground.folder / "disk").mkdir(exist_ok=True)
    run = ground.driver(driver) if driver else ground.command()
    flags = ["-m"] if "losetup" in story or "loop" in story else ["-Urm"]
    code, said = ground.run(command=["unshare", *flags, "sh", "-c", story, "sh", *run])
    first = ground.folder / "first.err"
    assert code == 0, said + (first.read_text() if first.exists() else "")
    return (
        int((ground.folder / "first.code").read_text()),
        first.read_text(),
        int((ground.folder / "second.code").read_text()),
    )


def stored(ground):
    """Results and open calls that the first run left."""
    shutil.copytree(ground.folder / "after.run", ground.folder / "out.csv.run", dirs_exist_ok=True)
    with replay(ground.run_directory) as found:
        return len(list(found.results())), len(found.unknown)


@pytest.fixture
def own_mounts(tmp_path):
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", tmp_path]
    if (
        shutil.which("unshare") is None
        or subprocess.run(probe, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs unshare(1) and the right to mount a tmpfs in a user namespace")


def check_full(ground, record_figure, number, name, outcome):
    code, said, second = outcome
    results, open_calls = stored(ground)
    again = ground.billed_again()
    record_figure(
        number, name, "exit 5; in flight all stored; rerun re-bills 0",
        f"exit {code}; {results} stored, {open_calls} lost; {again}",
    )  # fmt: skip
    assert code == 5, said
    assert 0 < results < len(ground.bodies)
    assert open_calls == 0
    assert "then run again: finished rows are kept" in said
    assert second == 0, (ground.folder / "second.err").read_text()
    assert again == 0
    assert ground.wrong_rows() == 0
    assert ground.bill_holds()


def test_a_full_disk_loses_nothing_in_flight_and_the_rerun_pays_nothing_twice(
    ground, own_mounts, record_figure
):
    story = STORY.format(mount=TMPFS, free=MORE_TMPFS)
    check_full(ground, record_figure, 11.1, "ENOSPC, tmpfs 1.2 MB", fill(ground, story))


@pytest.mark.slow
def test_the_full_disk_test_sees_a_missing_reserve(ground, own_mounts):
    """Control: without the reserve, answers in flight have nowhere to go and are paid twice."""
    story = STORY.format(mount=TMPFS, free=MORE_TMPFS)
    code, said, second = fill(ground, story, driver="no_reserve.py", rows=2000)
    assert code == 5, said
    assert second == 0
    assert ground.billed_again() > 0


@pytest.mark.slow
def test_a_full_ext4_loses_nothing_in_flight(ground, needs, record_figure):
    needs(11.2, "ENOSPC, ext4 on a loop device", "unshare", "mkfs.ext4", root=True)
    story = STORY.format(mount=EXT4, free=LESS_EXT4) + "\numount disk\n"
    story = story.replace(
        "cp out.csv out.csv.meta.json ..\n", "cp out.csv out.csv.meta.json ..\ncd ..\n"
    )
    outcome = fill(ground, story, rows=3000)
    check_full(ground, record_figure, 11.2, "ENOSPC, ext4 on a loop device", outcome)


@pytest.mark.slow
def test_an_injected_enospc_loses_nothing_in_flight(ground, needs, record_figure):
    name = "ENOSPC at the 7th write, strace"
    needs(11.3, name, "strace")
    ground.server.change(latency_seconds=0.2)
    ground.write_job(concurrency=50)
    ground.write_rows(400)
    segment = ground.run_directory.segment(0).resolve()
    strace = ["strace", "-f", "-qq", "-o", "trace", "-P", segment, "-e", "trace=write"]
    command = [*map(str, strace), "-e", "inject=write:error=ENOSPC:when=7", *ground.command()]
    code, said = ground.run(command=command)
    before = ground.server.ledger.totals.received
    results = len(ground.finished())
    assert "ENOSPC" in (ground.folder / "trace").read_text()
    second = ground.run()[0]
    again = ground.billed_again()
    record_figure(
        11.3, name, "exit 5; in flight all stored; rerun re-bills 0",
        f"exit {code}; {results} of {before} stored; {again}",
    )  # fmt: skip
    assert code == 5, said
    assert results == before < 400
    assert second == 0
    assert again == 0


def test_a_file_size_limit_loses_nothing_in_flight(ground, record_figure):
    ground.server.change(latency_seconds=0.1)
    ground.write_job(concurrency=50)
    ground.write_rows(400)
    code, said = ground.run(command=[sys.executable, "-c", SMALL_FILES_ONLY])
    before = ground.server.ledger.totals.received
    with replay(ground.run_directory) as found:
        results = len(list(found.results()))
        damage = [str(place.kind) for place in found.damage]
    second = ground.run()[0]
    again = ground.billed_again()
    record_figure(
        12, "RLIMIT_FSIZE", "exit 5; all readable, torn <= 1; re-billed 0",
        f"exit {code}; {results} of {before}, torn {len(damage)}; {again}",
    )  # fmt: skip
    assert code == 5, said
    assert "file size limit" in said
    assert results == before < 400
    assert damage in ([], ["torn"])
    assert second == 0
    assert again == 0
    assert ground.wrong_rows() == 0

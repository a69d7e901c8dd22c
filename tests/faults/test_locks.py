"""One run at a time (tests 16, 17): whoever comes second makes no call."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from batch_runner.errors import LockedError
from batch_runner.journal import RunDirectory, is_locked, take_lock


def test_a_second_run_of_a_job_makes_no_call_and_a_third_goes_on(ground, record_figure):
    ground.server.change(latency_seconds=30)
    ground.write_job(concurrency=20)
    ground.write_rows(40)
    first = ground.start()
    ground.received_at_least(20)
    began = time.monotonic()
    code, said = ground.run()
    seconds = time.monotonic() - began
    skipped = ground.run("--if-locked", "skip")[0]
    received = ground.server.ledger.totals.received
    ground.kill(first)
    ground.server.change(latency_seconds=0)
    final = ground.run()[0]
    record_figure(
        16, "second runner", "exit 75, 0 calls; skip 0; a third finishes after kill -9",
        f"exit {code} in {seconds:.1f} s, {received - 20} calls; skip {skipped}; {final}",
    )  # fmt: skip
    assert code == 75
    assert f"pid {first.pid}" in said
    assert skipped == 0
    assert received == 20
    assert final == 0
    assert ground.wrong_rows() == 0


@pytest.mark.slow
def test_a_run_that_waits_for_the_lock_repeats_nothing(ground, record_figure):
    ground.server.change(latency_seconds=0.3)
    ground.write_job(concurrency=20)
    ground.write_rows(60)
    first = ground.start()
    ground.received_at_least(20)
    code, said = ground.run("--if-locked", "wait")
    assert first.wait(20) == 0
    record_figure(16, "--if-locked wait", "0 calls again", f"exit {code}, {ground.billed_again()}")
    assert code == 0, said
    assert ground.server.ledger.totals.received == 60


HOLDER = """
import subprocess, sys
from pathlib import Path
from batch_runner.journal import RunDirectory, take_lock
lock = take_lock(RunDirectory(Path(sys.argv[1])))
child = subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_the_lock_leaks_to_nobody_and_is_lost_to_nobody(tmp_path, record_figure):
    directory = RunDirectory(tmp_path / "x.run")
    directory.create()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    orphan = int(holder.stdout.readline())
    try:
        assert is_locked(directory).pid == holder.pid  # the control
        holder.kill()
        holder.communicate()
        os.kill(orphan, 0)  # its child is alive and holds nothing
        free_after_death = is_locked(directory) is None
    finally:
        os.kill(orphan, 9)
    with take_lock(directory):
        os.close(os.open(directory.lock, os.O_RDWR))  # would lose a lock made by lockf
        with pytest.raises(LockedError):
            take_lock(directory)
        directory.lock.unlink()
        with pytest.raises(LockedError):
            take_lock(directory)
    take_lock(directory).close()
    record_figure(
        17, "lock leaks: orphan, closed fd, unlinked file", "3/3", f"{2 + free_after_death}/3"
    )
    assert free_after_death


def test_the_lock_test_sees_a_lock_that_a_closed_descriptor_loses(tmp_path):
    """Control: lockf, in place of flock, is gone with the first descriptor that is closed."""
    path = tmp_path / "lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.lockf(held, fcntl.LOCK_EX)
    os.close(os.open(path, os.O_RDWR))
    taken = (
        "import fcntl, os, sys; "
        "fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    assert subprocess.run([sys.executable, "-c", taken, path], check=False).returncode == 0
    os.close(held)

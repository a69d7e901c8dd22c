import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from batch_runner.errors import ExitCode, LockedError, StorageError
from batch_runner.journal import LockPolicy, RunDirectory, is_locked, take_lock


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "out.csv.run")
    directory.create()
    return directory


def start(directory, then):
    """Another process that holds the lock, says so, and goes on as told."""
    code = f"""
        import os, subprocess, sys, time
        from pathlib import Path
        from batch_runner.journal import RunDirectory, take_lock
        lock = take_lock(RunDirectory(Path({str(directory.path)!r})))
        {then}
        print("held", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def stop(process):
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_told_who_holds_the_lock(directory):
    holder = start(directory, "")
    try:
        with pytest.raises(LockedError, match=f"pid {holder.pid} on ") as caught:
            take_lock(directory)
        assert caught.value.exit_code is ExitCode.LOCKED
        assert "--if-locked wait" in caught.value.hint
        assert "--if-locked skip" in caught.value.hint
        with pytest.raises(LockedError):
            take_lock(directory, policy=LockPolicy.SKIP)
        assert is_locked(directory).pid == holder.pid
    finally:
        stop(holder)
    assert is_locked(directory) is None
    take_lock(directory).close()


def test_a_killed_holder_leaves_no_lock_even_if_its_child_lives_on(directory):
    child = "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    holder = start(directory, child)
    holder.kill()
    holder.wait()
    try:
        take_lock(directory).close()
    finally:
        holder.communicate()


def test_closing_another_descriptor_of_the_file_keeps_the_lock(directory):
    with take_lock(directory):
        os.close(os.open(directory.lock, os.O_RDWR))
        assert is_locked(directory) is not None
        with pytest.raises(LockedError):
            take_lock(directory)


def test_removing_the_lock_file_lets_no_second_run_in(directory):
    with take_lock(directory):
        directory.lock.unlink()
        with pytest.raises(LockedError):
            take_lock(directory)
        assert is_locked(directory) is not None
    take_lock(directory).close()


def test_a_short_look_by_status_does_not_make_a_run_fail(directory):
    import fcntl

    fd = os.open(directory.lock, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.03, os.close, [fd])
    timer.start()
    take_lock(directory).close()
    timer.join()


def test_waiting_ends_when_the_lock_is_free(directory):
    lock = take_lock(directory)
    waited_for = []
    timer = threading.Timer(0.25, lock.close)
    timer.start()
    began = time.monotonic()
    with take_lock(directory, policy=LockPolicy.WAIT, on_wait=waited_for.append):
        assert time.monotonic() - began > 0.2
    timer.join()
    assert [holder.pid for holder in waited_for] == [os.getpid()]


def test_looking_makes_no_file(tmp_path):
    assert is_locked(RunDirectory(tmp_path / "none.run")) is None
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_could_not_write_its_name_is_still_a_holder(directory):
    with take_lock(directory):
        directory.lock.write_bytes(b"\x00garbage")
        assert is_locked(directory).pid is None
        with pytest.raises(LockedError, match="another run holds"):
            take_lock(directory)


def test_a_place_without_a_lock_file_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"none\.run"):
        take_lock(RunDirectory(tmp_path / "none.run"))


@pytest.mark.parametrize("turn", range(10))
def test_who_waited_for_a_run_that_was_refused_makes_the_folders_anew(directory, turn):
    """A refused run takes the folders along that it has made, the lock included."""
    refused = take_lock(directory)
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(take_lock, directory, policy=LockPolicy.WAIT)
        time.sleep(0.02 + turn / 1000)  # anywhere between two looks at the lock
        directory.segments.rmdir()
        directory.lock.unlink()
        with suppress(OSError):  # the other may have been quicker
            directory.path.rmdir()
        refused.close()
        with waiting.result(10):
            assert directory.segments.is_dir()
            with pytest.raises(LockedError):
                take_lock(directory)

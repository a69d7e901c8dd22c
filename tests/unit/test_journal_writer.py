import asyncio
import errno
import hashlib
import os
import stat
import threading
import time

import anyio
import anyio.lowlevel
import pytest

from batch_runner.disk import Disk
from batch_runner.errors import StorageError
from batch_runner.job import Durability
from batch_runner.journal import Intent, Journal, RunDirectory, replay, verify
from batch_runner.journal import sync as sync_module
from batch_runner.records import Completion, RowResult


def key(n):
    return hashlib.blake2b(str(n).encode(), digest_size=16).digest()


def intent(n, attempt=1):
    return Intent(
        key=key(n), attempt=attempt, row=n, model="m", request_bytes=10, max_output_tokens=5
    )


def result(n, text=None):
    return RowResult(key=key(n), row=n, ending=Completion(text=text or f"answer {n}"))


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "out.csv.run")
    directory.create()
    return directory


def texts(directory):
    with replay(directory) as found:
        return {row.row: row.ending.text for row in found.results()}


class WatchedDisk(Disk):
    """Notes every call on journal files, and lets a test break or delay some of them."""

    def __init__(self):
        self.calls = []
        self.paths = {}
        self.threads = set()
        self.full_after = None  # bytes the segments may take while the reserve is there
        self.broken_sync = 0  # this many syncs fail
        self.broken_writes = 0
        self.gate = threading.Event()  # closed: fdatasync waits
        self.gate.set()
        self.taken = 0

    def open(self, path, flags, mode=0o600):
        fd = super().open(path, flags, mode)
        self.paths[fd] = path
        self.calls.append(("open", path.name, flags))
        return fd

    def write(self, fd, data):
        self.calls.append(("write", self.paths[fd].name, threading.get_ident()))
        if self.broken_writes:
            self.broken_writes -= 1
            super().write(fd, bytes(data)[: len(data) // 2])
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.full_after is not None:
            room = self.full_after - self.taken
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = bytes(data)[:room]
        count = super().write(fd, data)
        self.taken += count
        return count

    def fdatasync(self, fd):
        self.calls.append(("sync", self.paths[fd].name, threading.get_ident()))
        self.gate.wait(5)
        if self.broken_sync:
            self.broken_sync -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(fd)

    def unlink(self, path):
        if path.name == "reserve":
            self.full_after = None
        super().unlink(path)

    def named(self, kind):
        return [call[1] for call in self.calls if call[0] == kind]


def journal_of(directory, **options):
    options.setdefault("reserve_bytes", 4096)
    return Journal(directory, run_id="r1", **options)


def test_a_run_with_nothing_to_do_leaves_no_segment(directory):
    journal_of(directory).close(clean=True)
    assert list(directory.segments.iterdir()) == []
    assert not directory.reserve.exists()


def test_files_are_private_and_a_new_segment_is_made_by_every_process(directory):
    for n in range(3):
        with journal_of(directory) as journal:
            journal.finish(result(n))
    names = sorted(path.name for path in directory.segments.iterdir())
    assert names == ["00000000.jsonl", "00000001.jsonl", "00000002.jsonl"]
    assert texts(directory) == {0: "answer 0", 1: "answer 1", 2: "answer 2"}
    for path in [directory.path, directory.segments]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in directory.segments.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_segment_is_new_append_only_and_its_folder_synced_before_its_first_line(directory):
    disk = WatchedDisk()
    with journal_of(directory, disk=disk) as journal:
        journal.begin(intent(1))
    opened = next(call for call in disk.calls if call[1] == "00000000.jsonl")
    assert opened[2] & (os.O_EXCL | os.O_APPEND) == os.O_EXCL | os.O_APPEND
    kinds = [call[:2] for call in disk.calls]
    at = kinds.index(("open", "00000000.jsonl"))
    assert kinds[at + 1] == ("open", "journal")
    assert kinds[at + 2] == ("write", "00000000.jsonl")


def test_lines_of_one_tick_share_one_write_on_the_loops_thread(directory):
    disk = WatchedDisk()

    async def main():
        with journal_of(directory, disk=disk) as journal:
            journal.begin(intent(0))
            await journal.written()
            before = len(disk.named("write"))
            for n in range(50):
                journal.finish(result(n))
            await journal.written()
            assert len(disk.named("write")) == before + 1
            assert len(texts(directory)) == 50

    anyio.run(main)
    assert {call[2] for call in disk.calls if call[0] == "write"} == {threading.get_ident()}


def test_written_means_written_even_for_a_tick_that_began_long_ago(directory):
    async def main():
        with journal_of(directory) as journal:

            async def one(n):
                journal.begin(intent(n))
                await journal.written()
                journal.finish(result(n))
                await journal.written()
                assert texts(directory)[n] == f"answer {n}"

            async with anyio.create_task_group() as group:
                for n in range(10):
                    group.start_soon(one, n)

    anyio.run(main)


def test_the_helper_thread_syncs_what_is_dirty_and_rests_when_nothing_is(directory):
    disk = WatchedDisk()

    async def main():
        with journal_of(directory, disk=disk, durability=Durability.MS_100) as journal:
            journal.finish(result(1))
            await journal.written()
            with anyio.fail_after(5):
                while not disk.named("sync"):
                    await anyio.sleep(0.001)
            await anyio.sleep(0.25)
            assert len(disk.named("sync")) == 1
            assert ("sync", "00000000.jsonl", threading.get_ident()) not in disk.calls

    anyio.run(main)


def test_durability_now_waits_for_the_sync_and_rows_share_it(directory):
    disk = WatchedDisk()

    async def main():
        with journal_of(directory, disk=disk, durability=Durability.NOW) as journal:
            disk.gate.clear()
            journal.finish(result(0))
            first = asyncio.ensure_future(journal.settled())
            await anyio.sleep(0.05)
            assert not first.done()

            async def later(n):
                journal.finish(result(n))
                await journal.settled()

            async with anyio.create_task_group() as group:
                for n in range(1, 30):
                    group.start_soon(later, n)
                await anyio.sleep(0.02)
                disk.gate.set()
            await first
            assert len(disk.named("sync")) <= 3

    anyio.run(main)


def test_other_durabilities_do_not_wait_for_the_disk(directory):
    disk = WatchedDisk()

    async def main():
        with journal_of(directory, disk=disk) as journal:
            disk.gate.clear()
            journal.finish(result(0))
            with anyio.fail_after(1):
                await journal.settled()
            disk.gate.set()

    anyio.run(main)


def test_ready_waits_for_a_disk_that_does_not_keep_up(directory, monkeypatch):
    monkeypatch.setattr(sync_module, "BEHIND_SECONDS", 0.01)
    disk = WatchedDisk()

    async def main():
        with journal_of(directory, disk=disk, durability=Durability.NOW) as journal:
            await journal.ready()
            disk.gate.clear()
            journal.finish(result(0))
            await journal.written()
            await anyio.sleep(0.02)
            with pytest.raises(TimeoutError), anyio.fail_after(0.05):
                await journal.ready()
            disk.gate.set()
            with anyio.fail_after(5):
                await journal.ready()

    anyio.run(main)


def test_a_segment_is_left_for_the_next_when_it_is_full(directory):
    with journal_of(directory, segment_bytes=1000) as journal:
        for n in range(30):
            journal.begin(intent(n))
            journal.finish(result(n))
    assert len(list(directory.segments.iterdir())) > 3
    report = verify(directory)
    assert (report.results, report.intents, report.ends, report.damage) == (30, 30, 1, ())
    with replay(directory) as found:
        assert found.unknown == ()
        assert [run.ended_cleanly for run in found.runs] == [True]


def test_the_index_of_a_replay_learns_what_is_written_now(directory):
    with journal_of(directory) as journal:
        journal.finish(result(1, "old"))
    with replay(directory) as found:
        with journal_of(directory, index=found.index, segment_bytes=300) as journal:
            for n in range(1, 9):
                journal.finish(result(n, f"new {n}"))
                entry = found.find(key(n))
                assert found.load(entry) == result(n, f"new {n}")
        assert len(found.index) == 8


def test_the_first_full_disk_ends_the_run_and_saves_all_that_is_in_flight(directory):
    disk = WatchedDisk()
    disk.full_after = 20_000
    told = []

    async def main():
        journal = journal_of(directory, disk=disk, on_failure=told.append)
        flying = 300
        for n in range(flying):
            await journal.announce(intent(n)) if n < 30 else journal.begin(intent(n))
        await anyio.lowlevel.checkpoint()
        for n in range(flying):
            journal.finish(result(n, "x" * 100))
            await journal.written()
        assert "No space left" in str(journal.failed)
        with pytest.raises(StorageError, match="No space left"):
            journal.begin(intent(flying))
        with pytest.raises(StorageError, match="No space left"):
            await journal.announce(intent(flying))
        journal.close(clean=False)

    anyio.run(main)
    assert len(told) == 1
    assert not directory.reserve.exists()
    assert len(texts(directory)) == 300
    assert verify(directory).damage == ()


def test_no_call_may_start_whose_intent_met_the_full_disk(directory):
    disk = WatchedDisk()
    disk.full_after = 400
    allowed = 0

    async def fill(journal):
        nonlocal allowed
        for n in range(100):
            await journal.announce(intent(n))
            allowed += 1

    async def main():
        journal = journal_of(directory, disk=disk)
        with pytest.raises(StorageError, match="No space left"):
            await fill(journal)
        journal.close(clean=False)

    anyio.run(main)
    with replay(directory) as found:
        assert len(found.unknown) == allowed + 1  # the one that met it was written, and not sent


def test_a_disk_that_stays_full_loses_nothing_written_and_says_what_is_lost(directory):
    disk = WatchedDisk()
    journal = journal_of(directory, disk=disk, reserve_bytes=0)
    journal.finish(result(0))
    disk.full_after = disk.taken + 50
    journal.finish(result(1))
    with pytest.raises(StorageError, match="No space left"):
        anyio.run(journal.written)
    journal.finish(result(2))
    with pytest.raises(StorageError, match="2 records are lost"):
        journal.close(clean=True)
    assert texts(directory) == {0: "answer 0"}


def test_space_that_comes_back_before_the_end_saves_everything(directory):
    disk = WatchedDisk()
    journal = journal_of(directory, disk=disk, reserve_bytes=0)
    disk.full_after = 200
    for n in range(5):
        journal.finish(result(n))
    disk.full_after = None
    journal.close(clean=False)
    assert len(texts(directory)) == 5


def test_a_broken_write_ends_the_run_and_what_follows_goes_to_a_new_segment(directory):
    disk = WatchedDisk()
    with journal_of(directory, disk=disk) as journal:
        journal.finish(result(0))
        disk.broken_writes = 1
        journal.finish(result(1))
        journal.finish(result(2))
        assert "Input/output error" in str(journal.failed)
    assert texts(directory) == {n: f"answer {n}" for n in range(3)}
    assert [damage.kind for damage in verify(directory).damage] == ["torn"]


def test_a_failed_sync_is_never_repeated_on_that_file_and_ends_the_run(directory):
    disk = WatchedDisk()
    disk.broken_sync = 1
    told = []

    async def main():
        journal = journal_of(
            directory, disk=disk, durability=Durability.NOW, on_failure=told.append
        )
        journal.finish(result(0))
        with pytest.raises(StorageError, match="Input/output error"):
            await journal.settled()
        with pytest.raises(StorageError):
            journal.begin(intent(1))
        journal.finish(result(1))
        await journal.settled()
        journal.close(clean=True)

    anyio.run(main)
    assert disk.named("sync").count("00000000.jsonl") == 1
    assert disk.named("sync").count("00000001.jsonl") >= 1
    assert len(told) == 1
    assert len(texts(directory)) == 2
    with replay(directory) as found:
        assert not found.runs[0].ended_cleanly


def test_a_failed_last_sync_is_not_passed_over(directory):
    disk = WatchedDisk()
    journal = journal_of(directory, disk=disk, durability=Durability.OFF)
    journal.finish(result(0))
    disk.broken_sync = 1
    with pytest.raises(StorageError, match="Input/output error"):
        journal.close(clean=True)


def test_a_waiting_task_that_is_cancelled_harms_no_other(directory):
    disk = WatchedDisk()

    async def main():
        with journal_of(directory, disk=disk, durability=Durability.NOW) as journal:
            disk.gate.clear()
            journal.finish(result(0))
            with anyio.move_on_after(0.02) as scope:
                await journal.settled()
            assert scope.cancelled_caught
            other = asyncio.ensure_future(journal.settled())
            disk.gate.set()
            await other

    anyio.run(main)


def test_only_half_of_a_small_disk_is_set_aside_and_it_is_said(directory, caplog):
    class SmallDisk(Disk):
        def free_bytes(self, folder):
            return 10_000

    with journal_of(directory, disk=SmallDisk(), reserve_bytes=16 << 20) as journal:
        assert 5_000 <= journal.reserve_bytes < 16 << 20
    assert "could be set aside" in caplog.text


def test_a_reserve_that_cannot_be_had_is_said_and_stops_nothing(directory, caplog):
    class StubbornDisk(Disk):
        def allocate(self, fd, size):
            raise OSError(errno.EOPNOTSUPP, "no")

    with journal_of(directory, disk=StubbornDisk()) as journal:
        assert journal.reserve_bytes == 0
        journal.finish(result(0))
    assert "could be set aside" in caplog.text
    assert len(texts(directory)) == 1


def test_closing_twice_is_closing_once_and_nothing_follows(directory):
    journal = journal_of(directory)
    journal.finish(result(0))
    journal.close(clean=True)
    journal.close(clean=True)
    with pytest.raises(ValueError, match="closed"):
        journal.finish(result(1))


def test_a_slow_sync_does_not_hold_up_the_loop(directory):
    class SlowDisk(Disk):
        def fdatasync(self, fd):
            time.sleep(0.1)
            super().fdatasync(fd)

    async def main():
        with journal_of(directory, disk=SlowDisk(), durability=Durability.NOW) as journal:
            ticks = 0
            journal.finish(result(0))
            waiting = asyncio.ensure_future(journal.settled())
            while not waiting.done():
                await anyio.sleep(0.001)
                ticks += 1
            assert ticks > 5

    anyio.run(main)


@pytest.mark.parametrize("name", ["file in the way", "file above"])
def test_a_run_directory_that_cannot_be_is_refused_by_name(tmp_path, name):
    blocked = tmp_path / "x.run"
    blocked.write_bytes(b"")
    path = blocked if name == "file in the way" else blocked / "deeper"
    with pytest.raises(StorageError, match=r"x\.run"):
        RunDirectory(path).create()


def test_a_run_directory_may_be_made_again(directory):
    directory.create()

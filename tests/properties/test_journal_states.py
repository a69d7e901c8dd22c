"""The journal on a disk that forgets what was never synced, against a model of what it promised."""

import errno
import hashlib
import os
import random
from collections import Counter
from pathlib import PurePosixPath as Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from batch_runner.disk import Disk
from batch_runner.job import Durability
from batch_runner.journal import DamageKind, Intent, Journal, RunDirectory, replay
from batch_runner.records import Completion, Failure, RowResult, RowStatus


PAGE = 512  # smaller than a real page, so that short histories span many


class Inode:
    def __init__(self, writer):
        self.writer = writer
        self.data = bytearray()
        self.durable = b""


class ForgetfulDisk(Disk):
    """Files in memory. A power loss keeps any subset of the pages and names never synced."""

    def __init__(self):
        self.folders = {Path("/")}
        self.files = {}
        self.durable_names = {}
        self.open_files = {}
        self.next_fd = 1000
        self.process = 0
        self.shortest = 0  # writes take at most this many bytes, if not 0

    def open(self, path, flags, mode=0o600):
        if flags & os.O_DIRECTORY:
            target = path
        else:
            if path not in self.files:
                if not flags & os.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, "none", str(path))
                self.files[path] = Inode(self.process)
            elif flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, "there", str(path))
            target = self.files[path]
        self.next_fd += 1
        self.open_files[self.next_fd] = SimpleNamespace(target=target, position=0)
        return self.next_fd

    def close(self, fd):
        del self.open_files[fd]

    def write(self, fd, data):
        inode = self.open_files[fd].target
        assert inode.writer == self.process, "wrote to a file of an earlier process"
        taken = bytes(data)[: self.shortest or None]
        inode.data += taken
        return len(taken)

    def read(self, fd, size):
        file = self.open_files[fd]
        found = bytes(file.target.data[file.position : file.position + size])
        file.position += len(found)
        return found

    def pread(self, fd, size, offset):
        return bytes(self.open_files[fd].target.data[offset : offset + size])

    def fdatasync(self, fd):
        inode = self.open_files[fd].target
        inode.durable = bytes(inode.data)

    def fsync(self, fd):
        target = self.open_files[fd].target
        if isinstance(target, Inode):
            self.fdatasync(fd)
            return
        for path in [p for p in self.durable_names if p.parent == target]:
            del self.durable_names[path]
        self.durable_names |= {p: i for p, i in self.files.items() if p.parent == target}

    def stat(self, path):
        inode = self.files[path]
        return SimpleNamespace(st_size=len(inode.data), st_blocks=0, st_ino=id(inode))

    def free_bytes(self, folder):
        return 0

    def mkdir(self, path, mode):
        if path in self.folders:
            raise FileExistsError(errno.EEXIST, "there", str(path))
        if path.parent not in self.folders:
            raise FileNotFoundError(errno.ENOENT, "none", str(path))
        self.folders.add(path)

    def listdir(self, path):
        return [p.name for p in (*self.files, *self.folders) if p.parent == path]

    def unlink(self, path):
        del self.files[path]

    def kill_process(self):
        self.process += 1

    def cut_power(self, dice):
        self.kill_process()
        for path in [p for p in self.files if p not in self.durable_names]:
            if dice.random() < 0.7:
                del self.files[path]
        for inode in self.files.values():
            survivor = bytearray(inode.data[: dice.randint(len(inode.durable), len(inode.data))])
            for start in range(len(inode.durable) // PAGE * PAGE, len(survivor), PAGE):
                if dice.random() < 0.5:
                    for at in range(
                        max(start, len(inode.durable)), min(start + PAGE, len(survivor))
                    ):
                        survivor[at] = 0
            inode.data = survivor
            inode.durable = bytes(survivor)
        self.durable_names = dict(self.files)


class BlindDisk(ForgetfulDisk):
    """A planted bug: syncs that do nothing."""

    def fdatasync(self, fd):
        pass


class SelfishDisk(ForgetfulDisk):
    """A planted bug: a process syncs only what it wrote itself."""

    def fdatasync(self, fd):
        if self.open_files[fd].target.writer == self.process:
            super().fdatasync(fd)


class GluingDisk(ForgetfulDisk):
    """A planted bug: a new process goes on with the last segment."""

    def open(self, path, flags, mode=0o600):
        if flags & os.O_EXCL:
            path = max((p for p in self.files if p.parent == path.parent), default=path)
            flags &= ~os.O_EXCL
        return super().open(path, flags, mode)

    def stat(self, path):
        """Nobody shall notice: what names a new segment is the one before."""
        return super().stat(path if path in self.files else max(self.files))


def key(n):
    return hashlib.blake2b(str(n).encode(), digest_size=16).digest()


KEYS = st.integers(0, 4)


class JournalStates(RuleBasedStateMachine):
    """Results the model holds are tuples (result, whether it was acknowledged as durable)."""

    disk_kind = ForgetfulDisk

    @initialize()
    def start(self):
        self.disk = self.disk_kind()
        self.directory = RunDirectory(Path("/out.run"))
        self.directory.create(disk=self.disk)
        self.history = []
        self.flying = []
        self.power_failed = False
        self.count = 0
        self._open()

    def _open(self):
        self.journal = Journal(
            self.directory,
            run_id=f"r{self.count}",
            durability=Durability.MS_100,
            disk=self.disk,
            segment_bytes=2000,
            reserve_bytes=0,
            started_at=0.0,
        )
        # The model says when syncs happen: no thread of its own.
        self.journal._syncer._thread = SimpleNamespace(join=lambda: None)
        self.begun = []
        # What a process builds on is as durable as what it writes, whoever wrote it.
        self.history = [(result, True) for result, _ in self.history]

    @rule(n=KEYS)
    def begin(self, n):
        intent = Intent(
            key=key(n), attempt=1, row=n, model="m", request_bytes=1, max_output_tokens=None
        )
        self.journal.begin(intent)
        self.begun.append(intent)

    @rule(
        n=KEYS, status=st.sampled_from([RowStatus.OK, RowStatus.FAILED]), size=st.integers(0, 900)
    )
    def finish(self, n, status, size):
        self.count += 1
        text = f"{self.count}:" + "x" * size
        ending = (
            Completion(text=text)
            if status is RowStatus.OK
            else Failure(code="timeout", message=text)
        )
        result = RowResult(key=key(n), row=n, ending=ending)
        self.journal.finish(result)
        self.history.append((result, False))
        self.begun = [intent for intent in self.begun if intent.key != key(n)]

    @rule()
    def sync(self):
        assert self.journal._syncer._round() is None
        self.history = [(result, True) for result, _ in self.history]

    @rule(shortest=st.sampled_from([0, 1, 100]))
    def change_writes(self, shortest):
        self.disk.shortest = shortest

    @rule()
    def end_in_order(self):
        self.journal.close(clean=True)
        self.flying += self.begun
        self.disk.kill_process()
        self._open()

    @rule()
    def kill(self):
        self.disk.kill_process()
        self._check()
        self.flying += self.begun
        self._open()

    @rule(seed=st.integers(0, 2**16))
    def lose_power(self, seed):
        self.power_failed = True
        self.disk.cut_power(random.Random(seed))
        with replay(self.directory, disk=self.disk) as found:
            survivors = list(found.results())
        written = [result for result, _ in self.history]
        assert all(result in written for result in survivors)
        assert all(result in survivors for result, durable in self.history if durable)
        self.history = [(result, True) for result in survivors]
        self._check()
        self._open()

    @invariant()
    def everything_written_is_found(self):
        self._check()

    def _check(self):
        with replay(self.directory, disk=self.disk) as found:
            written = [result for result, _ in self.history]
            assert list(found.results()) == written
            for n in range(5):
                mine = [result for result in written if result.key == key(n)]
                answers = [result for result in mine if result.status is RowStatus.OK]
                entry = found.find(key(n))
                expected = (answers or mine or [None])[-1]
                assert (entry and found.load(entry)) == expected
            if not self.power_failed:
                assert found.damage == []
                assert Counter(found.unknown) == Counter(self.flying + self.begun)
            assert all(damage.kind is not DamageKind.DOUBLED for damage in found.damage)


QUICK = settings(
    max_examples=80,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_journal_keeps_its_promises_through_kills_and_power_cuts():
    run_state_machine_as_test(JournalStates, settings=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_journal_keeps_its_promises_in_five_hundred_long_histories():
    run_state_machine_as_test(JournalStates, settings=settings(QUICK, max_examples=500))


@pytest.mark.parametrize("disk_kind", [BlindDisk, SelfishDisk, GluingDisk])
def test_the_model_sees_planted_bugs(disk_kind):
    planted = type("Planted", (JournalStates,), {"disk_kind": disk_kind})
    control = settings(
        QUICK, max_examples=300, database=None, phases=[Phase.generate]
    )  # found is enough
    with pytest.raises(AssertionError):
        run_state_machine_as_test(planted, settings=control)

"""What the simulation has found, each as the shortest history that shows it."""

import errno
import random
from contextlib import suppress

from batch_runner.errors import StorageError
from batch_runner.journal import Journal, RunDirectory
from tests.simulation.clock import Clock
from tests.simulation.disk import DiskFaults, SimulatedDisk


def test_a_run_directory_left_by_a_dead_process_survives_a_power_cut_once_it_is_used(tmp_path):
    """mkdir succeeded, the sync of its parent did not; the next run found the folder and trusted it.

    Sixty finished rows were lost in a power cut a minute later, with the folder they were in.
    """
    directory = RunDirectory(tmp_path / "out.run")
    for seed in range(20):
        disk = SimulatedDisk(random.Random(seed), clock=Clock(), tell=lambda _: None)
        disk.begin_run(DiskFaults(sync_error=1.0))
        with suppress(StorageError):
            directory.create(disk=disk)
        assert directory.path.is_dir()
        disk.begin_run(DiskFaults())
        directory.create(disk=disk)
        disk.cut_power()
        assert directory.segments.is_dir(), f"seed {seed}"
        directory.lock.unlink(missing_ok=True)
        directory.segments.rmdir()
        directory.path.rmdir()


def test_a_reserve_that_can_neither_be_made_nor_removed_is_done_without(tmp_path):
    """The disk refused to set space aside, and then to remove the file: that ended in a bug report."""

    class Refusing(SimulatedDisk):
        def allocate(self, fd, size):
            raise OSError(errno.EIO, "refused")

        def unlink(self, path):
            raise OSError(errno.EIO, "refused")

    disk = Refusing(random.Random(0), clock=Clock(), tell=lambda _: None)
    directory = RunDirectory(tmp_path / "out.run")
    directory.create(disk=disk)
    with Journal(directory, run_id="r", disk=disk) as journal:
        assert journal.reserve_bytes == 0

"""Bugs planted on purpose: a simulation that does not see these sees nothing."""

import os

import batch_runner.plan
from batch_runner.journal import line as line_module
from batch_runner.journal import scan
from batch_runner.journal.line import SEAL_BYTES
from batch_runner.journal.writer import Journal
from tests.simulation.clock import replaced
from tests.simulation.disk import SimulatedDisk


def acknowledging_before_writing():
    """Lines wait in memory for a moment, and everybody is told that they are on the disk."""
    add = Journal._add

    def add_later(self, body):
        loop_flush, self._flush = self._flush, lambda: None
        add(self, body)
        self._flush = loop_flush
        if self._loop is not None:
            self._loop.call_later(0.05, lambda: self._is_closed or self._flush())

    async def written_at_once(self):
        pass

    return replaced((Journal, "_add", add_later), (Journal, "written", written_at_once))


def going_on_with_an_old_segment():
    """A new process appends to the last file there is."""
    open_file = SimulatedDisk.open

    def open_last(self, path, flags, mode=0o600):
        if flags & os.O_EXCL and path.parent.name == "journal":
            path = max(path.parent.glob("*.jsonl"), default=path)
            flags &= ~os.O_EXCL
        return open_file(self, path, flags, mode)

    return replaced((SimulatedDisk, "open", open_last))


def believing_every_line():
    """Nobody looks at checksums."""

    def number(line):
        _, _, digits = line[:-SEAL_BYTES].rpartition(b',"n":')
        return int(digits) if digits.isdigit() else None

    return replaced(
        (scan, "number", number),
        (scan, "is_line", lambda line, n: number(line) == n),
        (line_module, "is_intact", lambda _line: True),
    )


def forgetting_occurrences():
    """Rows that ask for the same have one key."""
    return replaced((batch_runner.plan, "row_key", lambda digest, _occurrence: digest))


def never_syncing():
    """What is written is left to the operating system."""
    return replaced((SimulatedDisk, "fdatasync", lambda _self, _fd: None))


def publishing_without_a_sync():
    """The new output gets its name before its content is on the platter."""
    fsync = SimulatedDisk.fsync

    def fsync_folders_only(self, fd):
        if not os.path.isfile(self.open_files[fd][0]):  # noqa: PTH113  a name of the disk
            fsync(self, fd)

    return replaced(
        (SimulatedDisk, "fsync", fsync_folders_only), (SimulatedDisk, "fdatasync", fsync)
    )


def forgetting_intents():
    """Calls are made without a word in the journal."""

    async def announce(self, intent):
        pass

    return replaced((Journal, "announce", announce))


PLANTED = (
    acknowledging_before_writing,
    going_on_with_an_old_segment,
    believing_every_line,
    forgetting_occurrences,
    never_syncing,
    publishing_without_a_sync,
    forgetting_intents,
)

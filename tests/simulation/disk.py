"""A disk that is slow to remember: real files as the page cache, and what the platter holds."""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from batch_runner.disk import Disk
from tests.simulation.clock import Killed


PAGE = 4096


@dataclass(frozen=True, kw_only=True)
class DiskFaults:
    """How often what goes wrong, of all operations of that kind."""

    short_write: float = 0.0
    write_error: float = 0.0
    sync_error: float = 0.0
    other_error: float = 0.0
    dies_at: int | None = None
    """The number of the operation in which the process is killed."""
    dies_in_write: int | None = None
    """The number of the write of which only a part is done when the process is killed."""
    free_bytes: int | None = None
    """Space left; None: plenty."""


class Inode:
    """A file: what reads give (`cache`), and what a power cut leaves for sure (`platter`)."""

    def __init__(self, path):
        self.path = path
        self.cache = bytearray()
        self.platter = bytearray()
        self.dirty = set()
        self.allocated = 0

    def write(self, data):
        begin = len(self.cache)
        self.cache += data
        self.dirty.update(range(begin // PAGE, (len(self.cache) - 1) // PAGE + 1))

    def sync(self, pages=None):
        """The pages are on the platter. A failed sync loses track of the others: they are clean."""
        for page in sorted(self.dirty if pages is None else pages):
            end = min((page + 1) * PAGE, len(self.cache))
            if len(self.platter) < end:
                self.platter += bytes(end - len(self.platter))
            self.platter[page * PAGE : end] = self.cache[page * PAGE : end]
        if pages is None and len(self.platter) < len(self.cache):
            self.platter += bytes(len(self.cache) - len(self.platter))
        self.dirty.clear()

    def lose_power(self, dice):
        """Any of the dirty pages may have been written back before; holes read as zeros."""
        pages = sorted(self.dirty)
        if pages and dice.random() < 0.5:
            pages.remove(dice.choice(pages))
        else:
            pages = [page for page in pages if dice.random() < 0.5]
        self.sync(pages)
        longest = max(len(self.platter), len(self.cache))
        if dice.random() < 0.3:
            self.platter += bytes(dice.randint(0, longest - len(self.platter)))
        self.cache = bytearray(self.platter)


FOLDER = "folder"


class SimulatedDisk(Disk):
    """`names` is what the kernel shows, `durable_names` what a power cut leaves for sure."""

    def __init__(self, dice, *, clock, tell):
        self.dice = dice
        self.clock = clock
        self.tell = tell
        self.faults = DiskFaults()
        self.dead = False
        self.troubles = 0
        self.operations = 0
        self.writes = 0
        self.free = None
        self.names = {}
        self.durable_names = {}
        self.open_files = {}
        self.on_write = lambda fd, inode, data: None
        self.on_sync = lambda inode: None

    def begin_run(self, faults):
        self.faults = faults
        self.dead = False
        self.troubles = self.operations = self.writes = 0
        self.free = faults.free_bytes

    def kill(self, why):
        """Nothing reaches the disk from here on."""
        if not self.dead:
            self.tell(f"killed {why}")
            self.dead = True

    def end_process(self):
        for fd in list(self.open_files):
            self.close(fd)

    def cut_power(self):
        """What was never synced is kept or lost, page by page and name by name."""
        self.end_process()
        for path in sorted(set(self.names) | set(self.durable_names)):
            now, durable = self.names.get(path), self.durable_names.get(path)
            if now is not durable and self.dice.random() < 0.5:
                self._restore(path, now, durable)
        files = {id(inode): inode for inode in self.names.values() if inode is not FOLDER}
        for inode in files.values():
            inode.lose_power(self.dice)
        for path, inode in self.names.items():
            if inode is not FOLDER:
                Path(path).unlink(missing_ok=True)
                Path(path).write_bytes(inode.cache)
        self.durable_names = dict(self.names)

    def _restore(self, path, now, durable):
        if now is FOLDER:
            shutil.rmtree(path)
            for name in [n for n in self.names if n == path or n.startswith(path + os.sep)]:
                del self.names[name]
        elif durable is None:
            Path(path).unlink()
            del self.names[path]
        elif Path(path).parent.is_dir():
            if durable is FOLDER:
                Path(path).mkdir(exist_ok=True)
            self.names[path] = durable

    def _step(self, error_rate, path, *, among=(errno.EIO,)):
        """Every operation passes here: it may be the last one, or fail."""
        if self.dead:
            raise OSError(errno.EIO, "the process is dead", str(path))
        self.operations += 1
        if self.operations == self.faults.dies_at:
            self.kill(f"in disk operation {self.operations} on {Path(path).name}")
            raise Killed
        if error_rate and self.dice.random() < error_rate:
            self.troubles += 1
            number = self.dice.choice(among)
            self.tell(f"{errno.errorcode[number]} on {Path(path).name}")
            raise OSError(number, os.strerror(number), str(path))

    def open(self, path, flags, mode=0o600):
        name = os.path.abspath(path)  # noqa: PTH100  a name, whatever links there are
        self._step(self.faults.other_error, path)
        fd = super().open(path, flags, mode)
        if flags & os.O_DIRECTORY:
            self.open_files[fd] = (name, FOLDER)
        else:
            if flags & os.O_CREAT and name not in self.names:
                self.names[name] = Inode(name)
            self.open_files[fd] = (name, self.names.get(name))
        return fd

    def close(self, fd):
        if self.open_files.pop(fd, None):
            super().close(fd)

    def write(self, fd, data):
        name, inode = self.open_files.get(fd, (str(fd), None))
        self._step(self.faults.write_error, name, among=(errno.EIO, errno.EDQUOT))
        self.writes += 1
        is_last = self.writes == self.faults.dies_in_write
        if self.dice.random() < (0.5 if is_last else self.faults.short_write):
            data = memoryview(data)[: self.dice.randint(1, len(data))]
        if self.free is not None:
            if self.free <= 0:
                self.troubles += 1
                self.tell(f"ENOSPC on {Path(name).name}")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            data = memoryview(data)[: self.free]
            self.free -= len(data)
        data = bytes(data)
        os.write(fd, data)
        inode.write(data)
        self.on_write(fd, inode, data)
        if is_last:
            self.kill(f"in write {self.writes}, {len(data)} bytes into {Path(name).name}")
            raise Killed
        return len(data)

    def read(self, fd, size):
        self._step(0, "")
        return super().read(fd, size)

    def fsync(self, fd):
        name, inode = self.open_files[fd]
        try:
            self._step(self.faults.sync_error, name)
        except OSError:
            if inode is not FOLDER and inode is not None and not self.dead:
                inode.sync([page for page in sorted(inode.dirty) if self.dice.random() < 0.5])
            raise
        if inode is FOLDER:
            here = [n for n in {*self.names, *self.durable_names} if os.path.dirname(n) == name]  # noqa: PTH120
            for path in here:
                if path in self.names:
                    self.durable_names[path] = self.names[path]
                else:
                    del self.durable_names[path]
        elif inode is not None:
            inode.sync()
            self.on_sync(inode)

    def fdatasync(self, fd):
        self.fsync(fd)

    def allocate(self, fd, size):
        name, inode = self.open_files[fd]
        self._step(self.faults.other_error, name, among=(errno.ENOSPC, errno.EOPNOTSUPP))
        more = size - inode.allocated
        if self.free is not None:
            self.free -= more
        inode.allocated = size

    def free_bytes(self, folder):
        return 1 << 30 if self.free is None else self.free

    def stat(self, path):
        found = super().stat(path)
        inode = self.names.get(os.path.abspath(path))  # noqa: PTH100  likewise
        if inode is None or inode is FOLDER or not inode.allocated:
            return found
        return SimpleNamespace(
            st_size=0,
            st_blocks=inode.allocated // 512,
            st_mode=found.st_mode,
            st_ino=found.st_ino,
        )

    def mkdir(self, path, mode):
        self._step(self.faults.other_error, path)
        super().mkdir(path, mode)
        self.names[os.path.abspath(path)] = FOLDER  # noqa: PTH100  likewise

    def rmdir(self, path):
        self._step(self.faults.other_error, path)
        super().rmdir(path)
        self.names.pop(os.path.abspath(path), None)  # noqa: PTH100  likewise

    def listdir(self, path):
        self._step(0, path)
        return super().listdir(path)

    def unlink(self, path):
        self._step(self.faults.other_error, path)
        super().unlink(path)
        inode = self.names.pop(os.path.abspath(path), None)  # noqa: PTH100  likewise
        if self.free is not None and inode is not None:
            self.free += len(inode.cache) + inode.allocated

    def replace(self, source, target):
        self._step(self.faults.other_error, target)
        super().replace(source, target)
        self.names[os.path.abspath(target)] = self.names.pop(os.path.abspath(source))  # noqa: PTH100  likewise

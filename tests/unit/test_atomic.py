import errno
import gc
import os
import stat
from pathlib import Path

import pytest

from batch_runner.atomic import publish
from batch_runner.disk import Disk
from batch_runner.errors import StorageError


class TracingDisk(Disk):
    """Remembers what was called, and fails where it is told to."""

    def __init__(self, fail="", number=errno.EIO):
        self.calls = []
        self.fail = fail
        self.number = number

    def _step(self, name, subject):
        self.calls.append((name, subject))
        if name == self.fail:
            raise OSError(self.number, os.strerror(self.number))

    def write(self, fd, data):
        self._step("write", fd)
        return super().write(fd, data)

    def fsync(self, fd):
        kind = "fsync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file"
        self._step(kind, fd)
        super().fsync(fd)

    def replace(self, source, target):
        self._step("replace", target)
        super().replace(source, target)


class OneByteDisk(Disk):
    def write(self, fd, data):
        return super().write(fd, bytes(data)[:1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_whole_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "deep" / "out.csv"
    with publish(path) as file:
        file.write(b"a,b\n")
        assert not path.exists()
        file.write(b"1,2\n")
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert names(path.parent) == ["out.csv"]


def test_content_is_synced_before_the_name_and_the_name_after_it(tmp_path):
    disk = TracingDisk()
    with publish(tmp_path / "out.csv", disk=disk) as file:
        file.write(b"x")
    assert [name for name, _ in disk.calls] == ["write", "fsync file", "replace", "fsync folder"]


def test_an_exception_in_the_block_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), publish(path) as file:
        file.write(b"new" * 1_000_000)
        raise KeyError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.csv"]


def test_an_os_error_of_the_block_itself_is_not_taken_for_one_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), publish(tmp_path / "out.csv"):
        Path(tmp_path / "missing input").read_bytes()


@pytest.mark.parametrize("fail", ["write", "fsync file", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_disk_keeps_the_old_file_and_names_path_and_cause(tmp_path, fail, number):
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    disk = TracingDisk(fail, number)
    with pytest.raises(StorageError) as caught, publish(path, disk=disk) as file:
        file.write(b"new")
    assert str(path) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.csv"]


def test_a_failed_folder_sync_is_reported_and_never_repeated(tmp_path):
    disk = TracingDisk("fsync folder")
    with pytest.raises(StorageError), publish(tmp_path / "out.csv", disk=disk) as file:
        file.write(b"new")
    assert [name for name, _ in disk.calls].count("fsync folder") == 1


def test_short_writes_are_finished(tmp_path):
    with publish(tmp_path / "out.csv", disk=OneByteDisk()) as file:
        file.write(b"every byte of it")
    assert (tmp_path / "out.csv").read_bytes() == b"every byte of it"


def test_bytes_left_in_an_abandoned_buffer_reach_no_other_file(tmp_path):
    kept = []
    with pytest.raises(KeyError), publish(tmp_path / "out.csv") as file:
        file.write(b"stray")
        kept.append(file)
        raise KeyError
    with (tmp_path / "other").open("wb"):  # likely to get the descriptor that was closed
        kept.clear()
        gc.collect()
    assert (tmp_path / "other").read_bytes() == b""


def test_a_block_may_close_the_file_itself(tmp_path):
    with publish(tmp_path / "out.csv") as file:
        file.write(b"x")
        file.close()
    assert (tmp_path / "out.csv").read_bytes() == b"x"


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o600, 0o600)])
def test_the_permissions_of_the_replaced_file_stay_unless_others_are_asked_for(
    tmp_path, mode, expected
):
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with publish(path, mode=mode) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_new_file_has_the_permissions_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with publish(tmp_path / "out.csv") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.csv").write_bytes(b"old")
    (tmp_path / "out.csv").symlink_to(tmp_path / "real" / "out.csv")
    with publish(tmp_path / "out.csv") as file:
        file.write(b"new")
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "real" / "out.csv").read_bytes() == b"new"


def test_a_folder_or_a_pipe_is_refused_before_anything_is_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StorageError, match="not a regular file"), publish(path):
            pytest.fail("the block must not run")


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"), publish(tmp_path / "file" / "x"):
        pytest.fail("the block must not run")


def test_a_temporary_file_of_a_killed_process_is_no_obstacle(tmp_path):
    (tmp_path / f".out.csv.tmp-{os.getpid()}").write_bytes(b"stale")
    with publish(tmp_path / "out.csv") as file:
        file.write(b"new")
    assert names(tmp_path) == ["out.csv"]


def test_text_and_parquet_writers_accept_the_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"n": list(range(10_000))})
    with publish(tmp_path / "out.parquet") as file, pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
    assert pq.read_table(tmp_path / "out.parquet").equals(table)

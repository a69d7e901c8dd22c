"""What happens to a journal's files, and what its reader makes of it."""

import errno
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from batch_runner.disk import Disk
from batch_runner.errors import StorageError
from batch_runner.job import Durability
from batch_runner.journal import (
    DamageKind,
    Intent,
    Journal,
    RunDirectory,
    replay,
    verify,
)
from batch_runner.records import Completion, RowResult


ROWS = 50


def key(n):
    return hashlib.blake2b(str(n).encode(), digest_size=16).digest()


def answer(n):
    text = f"answer {n}: " + "word " * (n % 20)
    return RowResult(
        key=key(n),
        row=n,
        ending=Completion(text=text),
        reply={"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}]},
    )


ANSWERS = {n: answer(n) for n in range(ROWS)}


def intent(n):
    return Intent(key=key(n), attempt=1, row=n, model="m", request_bytes=9, max_output_tokens=9)


class QuickDisk(Disk):
    """Nothing here loses power, so nothing needs to be synced."""

    def fsync(self, fd):
        pass

    def fdatasync(self, fd):
        pass


def open_journal(directory, disk=None, **options):
    options.setdefault("durability", Durability.OFF)
    options.setdefault("reserve_bytes", 0)
    return Journal(directory, run_id="r", disk=disk or QuickDisk(), **options)


def write_rows(directory, rows, *, clean=False, **options):
    directory.create(disk=QuickDisk())
    journal = open_journal(directory, **options)
    for n in rows:
        journal.begin(intent(n))
        journal.finish(answer(n))
    journal.close(clean=clean)


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "out.csv.run")


def read_back(directory):
    """Rows found, after checking that no read path gives a wrong answer; and the damage."""
    with replay(directory) as found:
        rows = set()
        for n, expected in ANSWERS.items():
            entry = found.find(key(n))
            if entry is not None:
                assert found.load(entry) == expected
                rows.add(n)
        listed = list(found.results())
        assert all(replace(result, run_id=None) == ANSWERS[result.row] for result in listed)
        assert {result.row for result in listed} == rows
        assert len(listed) == len(rows)
        report = verify(directory)
        assert list(report.damage) == found.damage
        assert report.results == len(rows)
        return rows, found.damage


def kinds(damage):
    return sorted(str(each.kind) for each in damage)


def test_a_file_cut_at_any_byte_of_its_last_line_loses_that_line_only(directory, record_figure):
    count = 10
    write_rows(directory, range(count))
    path = directory.segment(0)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for size in range(last, len(whole) + 1):
        path.write_bytes(whole[:size])
        rows, damage = read_back(directory)
        is_whole = size >= len(whole) - 1
        assert rows == set(range(count if is_whole else count - 1))
        assert kinds(damage) == ([] if is_whole or size == last else ["torn"])
        assert all(each.offset + each.length == size for each in damage)
        if not is_whole:
            write_rows(directory, [count - 1])
            assert read_back(directory)[0] == set(range(count))
            directory.segment(1).unlink()
        assert path.read_bytes() == whole[:size]
    offsets = len(whole) + 1 - last
    record_figure(
        6, "last line cut at every byte", "n or n-1 rows; resume adds the missing one",
        f"{offsets}/{offsets} offsets",
    )  # fmt: skip


def flip_bits(directory, count, seed):
    write_rows(directory, range(ROWS), clean=True)
    path = directory.segment(0)
    whole = path.read_bytes()
    dice = random.Random(seed)
    lost_most = 0
    for _ in range(count):
        flipped = bytearray(whole)
        flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        rows, damage = read_back(directory)
        assert damage or flipped[-1:] != b"\n"  # the very last newline carries nothing
        lost_most = max(lost_most, ROWS - len(rows))
    return lost_most


def test_a_flipped_bit_gives_no_wrong_answer_and_costs_two_rows_at_most(directory, record_figure):
    lost = flip_bits(directory, 300, seed=1)
    record_figure(7, "300 bit flips", "wrong values 0; rows lost a flip <= 2", f"0; {lost}")
    assert lost <= 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_thousand_flipped_bits_give_no_wrong_answer(directory, record_figure):
    lost = flip_bits(directory, 20_000, seed=2)
    record_figure(7, "20,000 bit flips", "wrong values 0; rows lost a flip <= 2", f"0; {lost}")
    assert lost <= 2


def test_the_flip_test_sees_a_reader_that_believes_everything(directory, monkeypatch):
    from batch_runner.journal import line, scan

    def believe(data, n=None):
        return data.endswith(b"}")

    monkeypatch.setattr(line, "is_intact", believe)
    monkeypatch.setattr(scan, "is_line", believe)
    with pytest.raises((AssertionError, ValueError, KeyError)):
        flip_bits(directory, 300, seed=1)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def zero_hole(data):
    return data[:4096] + bytes(4096) + data[8192:]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(zero_hole, ["corrupt"], id="4 KiB of zeros in the middle"),
        pytest.param(lambda data: data[:-500] + bytes(500), ["torn"], id="a tail of zeros"),
        pytest.param(lambda data: data + bytes(4096), ["torn"], id="zeros after the end"),
        pytest.param(lambda data: data + b'{"res\xff\n\x00}\n', ["torn"], id="garbage at the end"),
        pytest.param(lambda data: b"\n\n" + data, ["corrupt"], id="blank lines"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), ["torn"], id="CRLF by an editor"),
        pytest.param(lambda _: b"", [], id="an empty file"),
        pytest.param(lambda _: bytes(10_000), ["torn"], id="nothing but zeros"),
    ],
)
def test_whatever_is_still_intact_is_kept(directory, spoil, expected):
    write_rows(directory, range(ROWS))
    path = directory.segment(0)
    spoiled = spoil(path.read_bytes())
    intact = {n for n in range(ROWS) if _line_of(path, n) + b"\n" in spoiled}
    path.write_bytes(spoiled)
    rows, damage = read_back(directory)
    assert rows == intact
    assert kinds(damage) == expected


def _line_of(path, n):
    start = b'{"result":"' + key(n).hex().encode()
    return next(line for line in path.read_bytes().split(b"\n") if line.startswith(start))


def test_a_removed_line_is_missed_by_its_number(directory):
    write_rows(directory, range(ROWS))
    path = directory.segment(0)
    lines = lines_of(path)
    gone = lines.index(_line_of(path, 20) + b"\n")
    path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    rows, damage = read_back(directory)
    assert rows == set(range(ROWS)) - {20}
    assert kinds(damage) == ["gap"]
    assert f"line {gone} is lost" in damage[0].reason


def test_a_doubled_line_is_told_and_billed_once(directory):
    write_rows(directory, range(ROWS))
    path = directory.segment(0)
    path.write_bytes(path.read_bytes() + _line_of(path, 20) + b"\n")
    rows, damage = read_back(directory)
    assert rows == set(range(ROWS))
    assert kinds(damage) == ["doubled"]


def test_swapped_lines_both_count(directory):
    write_rows(directory, range(ROWS))
    path = directory.segment(0)
    lines = lines_of(path)
    lines[10], lines[11] = lines[11], lines[10]
    path.write_bytes(b"".join(lines))
    rows, damage = read_back(directory)
    assert rows == set(range(ROWS))
    assert kinds(damage) == ["misplaced"]


def three_segments(directory):
    for start in (0, 17, 34):
        write_rows(directory, range(start, min(start + 17, ROWS)), clean=True)


def test_swapped_segments_are_told_and_read_in_the_order_they_were_written(directory):
    three_segments(directory)
    spare = directory.path / "spare"
    directory.segment(0).rename(spare)
    directory.segment(2).rename(directory.segment(0))
    spare.rename(directory.segment(2))
    rows, damage = read_back(directory)
    assert rows == set(range(ROWS))
    assert kinds(damage) == ["misplaced", "misplaced"]
    with replay(directory) as found:
        assert [result.row for result in found.results()] == list(range(ROWS))


def test_a_missing_segment_is_missed(directory):
    three_segments(directory)
    directory.segment(1).unlink()
    rows, damage = read_back(directory)
    assert rows == set(range(17)) | set(range(34, ROWS))
    assert [(each.kind, each.segment) for each in damage] == [(DamageKind.GAP, "00000001.jsonl")]


def test_a_copied_segment_bills_nothing_twice(directory):
    three_segments(directory)
    shutil.copy(directory.segment(1), directory.segment(3))
    rows, damage = read_back(directory)
    assert rows == set(range(ROWS))
    assert kinds(damage) == ["doubled"] * len(lines_of(directory.segment(1))) + ["misplaced"]


def test_a_segment_without_its_first_line_still_gives_its_rows(directory):
    three_segments(directory)
    path = directory.segment(1)
    path.write_bytes(b"".join(lines_of(path)[1:]))
    rows, damage = read_back(directory)
    assert rows == set(range(ROWS))
    assert kinds(damage) == ["gap"]


def test_a_file_that_is_no_segment_is_not_believed(directory, record_figure):
    """There is no index file that could be stale, and what looks like one is not read."""
    three_segments(directory)
    whole = read_back(directory)
    shutil.copy(directory.segment(1), directory.segments / "00000001.idx")
    (directory.segments / "index").write_bytes(bytes(100))
    (directory.segments / "00000009.jsonl.tmp").write_bytes(b"{")
    (directory.segments / "1.jsonl").write_bytes(directory.segment(2).read_bytes())
    equal = read_back(directory) == whole == (set(range(ROWS)), [])
    record_figure(
        9, "stale or foreign index files", "equal to a full scan 4/4", "4/4" if equal else "0/4"
    )
    assert equal


def test_a_file_whose_lost_lines_are_full_of_newlines_is_one_damage(directory):
    write_rows(directory, range(ROWS))
    path = directory.segment(0)
    lines = lines_of(path)
    lines[5:9] = [b"\n" * 50, b"x\n" * 50]
    path.write_bytes(b"".join(lines))
    rows, damage = read_back(directory)
    assert len(rows) == ROWS - 2
    assert kinds(damage) == ["corrupt"]
    assert "lines 5 to 8 are lost" in damage[0].reason


class ShortDisk(QuickDisk):
    """Takes one to seven bytes at a time."""

    def __init__(self):
        self.dice = random.Random(3)

    def write(self, fd, data):
        return super().write(fd, bytes(data)[: self.dice.randint(1, 7)])


def test_short_writes_are_finished(directory):
    write_rows(directory, range(ROWS), disk=ShortDisk())
    assert read_back(directory) == (set(range(ROWS)), [])


class NthCallFails(Disk):
    """The n-th call fails with EIO, and the calls of that kind after it too if `for_good`."""

    def __init__(self, n, *, for_good):
        self.left = n
        self.for_good = for_good
        self.kind = None
        self.synced_after_error = []
        self.bad_syncs = set()

    def _step(self, kind, fd=None):
        self.left -= 1
        if kind in ("fdatasync", "fsync") and fd in self.bad_syncs:
            self.synced_after_error.append(fd)
        if self.left == 0 or (self.for_good and self.kind == kind):
            self.kind = kind
            if kind in ("fdatasync", "fsync"):
                self.bad_syncs.add(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open(self, path, flags, mode=0o600):
        self._step("open")
        fd = super().open(path, flags, mode)
        self.bad_syncs.discard(fd)  # the number is in use for another file now
        return fd

    def write(self, fd, data):
        if self.left == 1:
            super().write(fd, bytes(data)[: len(data) // 2])
        self._step("write")
        return super().write(fd, data)

    def fsync(self, fd):
        self._step("fsync", fd)

    def fdatasync(self, fd):
        self._step("fdatasync", fd)

    def listdir(self, path):
        self._step("listdir")
        return super().listdir(path)


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_an_io_error_at_any_call_stops_the_run_and_loses_nothing_silently(tmp_path, for_good):
    failed_at = 0
    for n in range(1, 500):
        directory = RunDirectory(tmp_path / f"{n}.run")
        disk = NthCallFails(n, for_good=for_good)
        stored = set()
        lost = False
        try:
            directory.create(disk=disk)
            journal = open_journal(
                directory, disk, durability=Durability.OFF, segment_bytes=2500, reserve_bytes=4096
            )
        except StorageError:
            failed_at += 1
            continue
        for row in range(12):
            try:
                journal.begin(intent(row))
            except StorageError:
                assert journal.failed is not None
                break
            journal.finish(answer(row))
            stored.add(row)
            journal._syncer._round()
        try:
            journal.close(clean=True)
        except StorageError as problem:
            lost = "lost" in str(problem)
        assert disk.synced_after_error == []
        rows, _ = read_back(directory)
        assert rows <= stored
        assert lost or rows == stored
        if disk.left > 0:
            break
        assert journal.failed is not None
        failed_at += 1
    else:
        pytest.fail("there was no run without a failure")
    assert failed_at > 30


RUN = """
    import resource, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_journal_damage as t
    from batch_runner.journal import RunDirectory
    directory = RunDirectory(Path(sys.argv[1]))
    directory.create()
    {limit}
    journal = t.open_journal(directory, reserve_bytes={reserve})
    row = 0
    while journal.failed is None:
        journal.begin(t.intent(row))
        journal.finish(t.RowResult(key=t.key(row), row=row, ending=t.Completion(text="x" * 900)))
        row += 1
    flying = 100
    for extra in range(row, row + flying):
        journal.finish(t.RowResult(key=t.key(extra), row=extra, ending=t.Completion(text="x" * 900)))
    journal.close(clean=False)
    with t.replay(directory) as found:
        assert len(list(found.results())) >= row + flying - 1, len(list(found.results()))
        print(type(journal.failed).__name__, journal.failed)
        print(t.kinds(found.damage))
"""


def script(limit="", reserve=0):
    return RUN.format(tests=os.path.dirname(__file__), limit=limit, reserve=reserve)  # noqa: PTH120


def test_a_file_size_limit_stops_the_run_and_keeps_what_is_in_flight(directory):
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, {resource.RLIM_INFINITY}))"
    program = textwrap.dedent(script(limit))
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert done.stdout.splitlines()[-1] in ("[]", "['torn']")


def test_a_really_full_disk_stops_the_run_and_the_reserve_saves_what_is_in_flight(tmp_path):
    unshare = shutil.which("unshare")
    probe = [unshare or "false", "-Urm", "mount", "-t", "tmpfs", "-o", "size=2m", "t", tmp_path]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs unshare(1) and the right to mount a tmpfs in a user namespace")
    inner = (
        f'mount -t tmpfs -o size=2m t "{tmp_path}" && '
        f'exec "{sys.executable}" -c "$0" "{tmp_path}/x.run"'
    )
    program = textwrap.dedent(script(reserve=512 << 10))
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", inner, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


ENDLESS = """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_journal_damage as t
    from batch_runner.journal import RunDirectory

    async def main():
        directory = RunDirectory(Path(sys.argv[1]))
        start = int(sys.argv[2])
        with t.open_journal(directory, t.Disk(), segment_bytes=20_000) as journal:
            for row in range(start, start + 1_000_000):
                await journal.announce(t.intent(row))
                journal.finish(t.RowResult(key=t.key(row), row=row, ending=t.answer(row).ending))
                await journal.written()
                print(row, flush=True)

    asyncio.run(main())
"""


def test_a_killed_process_loses_no_row_it_called_written(directory):
    directory.create()
    program = textwrap.dedent(ENDLESS.format(tests=os.path.dirname(__file__)))  # noqa: PTH120
    dice = random.Random(5)
    acknowledged = 0
    kills = 4
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(directory.path), str(kill * 1_000_000)],
            stdout=subprocess.PIPE,
        )
        for _ in range(dice.randint(20, 400)):
            process.stdout.readline()
            acknowledged += 1
        process.kill()
        acknowledged += process.communicate()[0].count(b"\n")
    with replay(directory) as found:
        rows = [result.row for result in found.results()]
        assert len(rows) == len(set(rows))
        assert acknowledged <= len(rows) <= acknowledged + kills
        assert len(found.unknown) <= kills
        assert len(found.runs) == kills
        assert not any(run.ended_cleanly for run in found.runs)

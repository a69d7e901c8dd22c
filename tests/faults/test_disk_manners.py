"""How the disk is spoken to: slowly, interrupted, in the right order, and where it may not (13-15, 18)."""

import asyncio
import os
import re
import shutil
import sys
import time

import pytest

from batch_runner.disk import Disk
from batch_runner.job import Durability
from batch_runner.journal import Intent, Journal, RunDirectory, replay
from batch_runner.records import Completion, RowResult


class SlowDisk(Disk):
    """A sync takes 0.3 s; a write takes at most a third of what it is given."""

    def fdatasync(self, fd):
        time.sleep(0.3)
        super().fdatasync(fd)

    def write(self, fd, data):
        return super().write(fd, memoryview(data)[: max(1, len(data) // 3)])


class BlockingDisk(SlowDisk):
    """The control: every write waits as long as a sync does."""

    def write(self, fd, data):
        time.sleep(0.05)
        return super().write(fd, data)


def row(n):
    return RowResult(key=n.to_bytes(16, "little"), row=n, ending=Completion(text=f"answer {n}"))


def write_and_measure(folder, disk, rows):
    """Results read back, and the lags of an event loop that wakes up every millisecond."""
    directory = RunDirectory(folder / "out.csv.run")
    directory.create()
    lags = []

    async def tick():
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - due)

    async def write():
        ticking = asyncio.create_task(tick())
        with Journal(directory, run_id="r", durability=Durability.MS_100, disk=disk,
                     reserve_bytes=0) as journal:  # fmt: skip
            for n in range(rows):
                intent = Intent(
                    key=row(n).key,
                    attempt=1,
                    row=n,
                    model="m",
                    request_bytes=1,
                    max_output_tokens=1,
                )
                await journal.announce(intent)
                journal.finish(row(n))
                if n % 20 == 0:
                    await asyncio.sleep(0)
            ticking.cancel()

    asyncio.run(write())
    with replay(directory) as found:
        assert all(result.ending == row(result.row).ending for result in found.results())
        assert found.damage == []
        return len(found.index), sorted(lags)


def percentile(values, share):
    return values[int(share * (len(values) - 1))]


@pytest.mark.slow
def test_short_writes_and_slow_syncs_lose_nothing_and_stall_nobody(tmp_path, record_figure):
    count, lags = write_and_measure(tmp_path, SlowDisk(), 20_000)
    lag = percentile(lags, 0.99)
    (tmp_path / "quick").mkdir()
    _, usual = write_and_measure(tmp_path / "quick", Disk(), 5_000)
    (tmp_path / "control").mkdir()
    _, blocked = write_and_measure(tmp_path / "control", BlockingDisk(), 20)
    seen = percentile(blocked, 0.9)
    record_figure(
        14, "short writes, fdatasync 300 ms", "20,000/20,000; loop lag p99 < 20 ms",
        f"{count:,}; {lag * 1000:.1f} ms (control {seen * 1000:.0f} ms)",
    )  # fmt: skip
    assert count == 20_000
    assert seen > 0.05
    # On a busy machine the loop lags without any disk, too.
    assert lag < max(0.02, 2 * percentile(usual, 0.99))


@pytest.mark.slow
def test_a_storm_of_interrupted_calls_loses_nothing(ground, needs, record_figure):
    name = "EINTR storm, strace"
    needs(14, name, "strace")
    ground.write_job(concurrency=50)
    ground.write_rows(1500)
    storm = "inject=write,fdatasync:error=EINTR:when=3+3"
    path = ground.run_directory.segment(0).resolve()
    command = ["strace", "-f", "-qq", "-o", "trace", "-e", "trace=write,fdatasync", "-P", str(path)]
    code, said = ground.run(command=[*command, "-e", storm, *ground.command()])
    interrupted = (ground.folder / "trace").read_text().count("EINTR")
    wrong = ground.wrong_rows()
    record_figure(
        14, name, "every row; wrong 0", f"exit {code}, {interrupted} EINTR; wrong {wrong}"
    )
    assert code == 0, said
    assert interrupted > 3
    assert wrong == 0
    assert ground.billed_again() == 0


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 3])
def test_a_failed_sync_stops_the_run_and_is_not_tried_again(ground, needs, record_figure, nth):
    name = f"EIO at fdatasync {nth}, strace"
    needs(13, name, "strace")
    ground.server.change(latency_seconds=0.3)
    ground.write_job(concurrency=30)
    ground.write_rows(600)
    segment = str(ground.run_directory.segment(0).resolve())
    command = ["strace", "-f", "-qq", "-o", "trace", "-e", "trace=fdatasync,fsync", "-P", segment]
    command += ["-e", f"inject=fdatasync:error=EIO:when={nth}", *ground.command()]
    code, said = ground.run(command=command)
    calls = [line for line in (ground.folder / "trace").read_text().splitlines() if "sync(" in line]
    after = next(at for at, line in enumerate(calls) if "EIO" in line)
    retried = len(calls) - after - 1
    before = ground.server.ledger.totals.received
    stored = len(ground.finished())
    second = ground.run()[0]
    again = ground.billed_again()
    record_figure(
        13, name, "exit 5; never retried; in flight stored; re-billed 0",
        f"exit {code}; {retried} retries; {stored} of {before}; {again}",
    )  # fmt: skip
    assert code == 5, said
    assert "the disk reports errors" in said
    assert retried == 0
    assert stored == before < 600
    assert (second, again) == (0, 0)


OPENED = re.compile(r'openat\(\S+?, "([^"]+)", (\S+?)(?:, \d+)?\) = (\d+)<([^>]+)>')
CALL = re.compile(r"(?P<name>\w+)\((?P<fd>\d+)<(?P<path>[^>]*)>.*= \d")
RENAME = re.compile(r'rename(?:at2?)?\((?:\S+, )?"(?P<old>[^"]+)", (?:\S+, )?"(?P<new>[^"]+)".*= 0')


def offences(trace, folder):
    """What a run did to the disk in the wrong order."""
    found = []
    synced = set()
    pending = {}  # folder to the names in it that no sync of it has covered
    for text in trace.splitlines():
        line = text.split(None, 1)[1]
        if opened := OPENED.search(line):
            path = opened[4]
            if "O_CREAT" in opened[2] and path.endswith(".jsonl"):
                pending.setdefault(os.path.dirname(path), []).append(path)  # noqa: PTH120
        elif renamed := RENAME.search(line):
            old, new = (os.path.join(folder, renamed[part]) for part in ("old", "new"))  # noqa: PTH118
            if old not in synced:
                found.append(f"{new} was renamed before its content was synced")
            pending.setdefault(os.path.dirname(new), []).append(new)  # noqa: PTH120
        elif call := CALL.search(line):
            path = call["path"]
            if call["name"] in ("fsync", "fdatasync"):
                synced.add(path)
                pending.pop(path, None)
            elif call["name"] == "write":
                synced.discard(path)
                if path in pending.get(os.path.dirname(path), ()) and path.endswith(".jsonl"):  # noqa: PTH120
                    found.append(f"{path} was written to before its name was synced")
    found += [
        f"the name of {path} was never synced" for paths in pending.values() for path in paths
    ]
    return found


def traced(ground, *command):
    kinds = "trace=openat,write,fdatasync,fsync,rename,renameat,renameat2"
    strace = ["strace", "-f", "-y", "-qq", "-s", "0", "-o", "trace", "-e", kinds]
    code, said = ground.run(command=[*strace, *command])
    assert code == 0, said
    lines = (ground.folder / "trace").read_text().splitlines()
    return "\n".join(line for line in lines if str(ground.folder.resolve()) in line)


@pytest.mark.slow
def test_what_is_renamed_was_synced_and_no_file_of_another_process_is_written(
    ground, needs, record_figure
):
    needs(15, "order of system calls", "strace")
    folder = str(ground.folder.resolve())
    ground.write_job(concurrency=5)
    ground.write_rows(30)
    first = traced(ground, *ground.command("-n", "10"))
    old = {path.name for path in ground.run_directory.segments.iterdir()}
    second = traced(ground, *ground.command())
    wrong = offences(first, folder) + offences(second, folder)
    foreign = [
        line
        for line in second.splitlines()
        for name in old
        if name in line and ("O_WRONLY" in line or "O_RDWR" in line or "write(" in line)
    ]
    ground.write_rows(40)
    control = offences(traced(ground, *ground.driver("blind.py")), folder)
    record_figure(
        15, "order of system calls", "offences 0; writes to others' segments 0",
        f"{len(wrong)}; {len(foreign)} (control: {len(control)})",
    )  # fmt: skip
    assert "rename" in second
    assert wrong == []
    assert foreign == []
    assert len(control) >= 3


def bare(command):
    """The command without root's right to ignore permission bits."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv(1) to be refused anything")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]


def test_a_place_that_cannot_be_written_is_found_before_the_first_call(ground, record_figure):
    ground.write_rows(5)
    refused = []
    ground.folder.chmod(0o555)  # 1: nothing can be made beside the output
    refused.append(ground.run(command=bare(ground.command())))
    ground.folder.chmod(0o755)
    ground.run_directory.path.mkdir(mode=0o500)  # 2: a run directory without write permission
    refused.append(ground.run(command=bare(ground.command())))
    ground.run_directory.path.chmod(0o700)
    ground.run_directory.create()
    ground.folder.chmod(0o555)  # 3: the journal could be written, but not the output
    refused.append(ground.run(command=bare(ground.command())))
    ground.folder.chmod(0o755)
    ground.output.mkdir()  # 4: the output is a directory
    refused.append(ground.run())
    ground.output.rmdir()
    received = ground.server.ledger.totals.received
    codes = [code for code, _ in refused]
    record_figure(
        18,
        "unwritable places",
        "exit 2 before the first call, 4/4",
        f"exits {codes}, {received} calls",
    )
    assert codes == [2, 2, 2, 2], refused
    assert received == 0
    assert ground.run()[0] == 0  # the control
    assert ground.server.ledger.totals.received == 5


@pytest.mark.slow
def test_a_read_only_mount_and_a_full_disk_are_found_before_the_first_call(
    ground, needs, record_figure
):
    name = "read-only mount, full disk"
    needs(18, name, "unshare", root=True)
    ground.write_rows(5)
    assert ground.run("-n", "1")[0] == 0  # the run directory is there already
    folder = ground.folder
    read_only = f'mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}; exec "$@"'
    full = f"""
        mount -t tmpfs -o size=64k none {folder}/full
        cp in.csv job.toml full
        cd full
        head -c 1M /dev/zero >filler
        exec "$@"
    """
    (folder / "full").mkdir()
    outcomes = [
        ground.run(command=["unshare", "-m", "sh", "-c", story, "sh", *ground.command()])
        for story in (read_only, full)
    ]
    codes = [code for code, _ in outcomes]
    calls = ground.server.ledger.totals.received - 1
    record_figure(18, name, "exit 2 and 5 before the first call", f"exits {codes}, {calls} calls")
    assert codes == [2, 5], outcomes
    assert calls == 0


@pytest.mark.slow
def test_an_interpreter_that_is_asked_to_optimize_changes_nothing(ground):
    """`python -O` drops assertions: none of them may do work."""
    ground.write_rows(3)
    command = [sys.executable, "-O", "-m", "batch_runner", "run", "job.toml"]
    assert ground.run(command=command)[0] == 0
    assert ground.wrong_rows() == 0

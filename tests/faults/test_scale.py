"""A million rows (test 25): what resuming costs, in CPU and memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
MEGABYTE = 1 << 20

# Each step is a process of its own, so that its memory is its own.
APPEND = """
import asyncio, hashlib, json, sys, time
from pathlib import Path
from batch_runner.job import Durability
from batch_runner.journal import Journal, RunDirectory
from batch_runner.records import Completion, RowResult
directory = RunDirectory(Path(sys.argv[1]))
directory.create()
rows = int(sys.argv[2])
text = "word " * 190
async def main():
    with Journal(directory, run_id="r", durability=Durability.MS_100, reserve_bytes=0) as journal:
        spent = [0.0] * 10  # of ten parts, the one that neighbours disturbed the least tells the cost
        for start in range(0, rows, 64):
            results = [RowResult(key=hashlib.blake2b(n.to_bytes(8, "little"), digest_size=16).digest(),
                                 row=n, ending=Completion(text=text), attempts=1) for n in range(start, start + 64)]
            began = time.thread_time()
            for result in results:
                journal.finish(result)
            await journal.written()
            spent[10 * start // rows] += time.thread_time() - began
            await journal.ready()
    return min(spent)
print(json.dumps(10 * asyncio.run(main()) / rows * 1e6))
"""

READ_ALL = """
import sys
from pathlib import Path
from batch_runner.journal import Known, RunDirectory, replay
from batch_runner.shortcut import Shortcut, write_shortcut
directory = RunDirectory(Path(sys.argv[1]))
with replay(directory) as found:
    known = Known(index=found.index, unknown=found.unknown, runs=found.runs)
    write_shortcut(directory, Shortcut(known=known, plan=None, bill=None))
    print(len(found.index))
"""

RESUME = """
import json, resource, sys, time
from pathlib import Path
from batch_runner.journal import RunDirectory
from batch_runner.shortcut import recover
base = resource.getrusage(resource.RUSAGE_SELF)
with recover(RunDirectory(Path(sys.argv[1])))[0] as found:
    end = resource.getrusage(resource.RUSAGE_SELF)
    cpu = end.ru_utime + end.ru_stime - base.ru_utime - base.ru_stime
    # Not ru_maxrss: it starts at what the parent had when it forked.
    peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]
    print(json.dumps([len(found.index), cpu, int(peak)]))
"""


def step(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_million_finished_rows_are_known_again_within_seconds(tmp_path, record_figure):
    rows = 1_000_000
    directory = tmp_path / "out.csv.run"
    append = step(APPEND, directory, rows)
    size = sum(path.stat().st_size for path in (directory / "journal").iterdir())
    known, cpu, memory = step(RESUME, directory)
    assert step(READ_ALL, directory) == rows
    known_shortly, cpu_shortly, memory_shortly = step(RESUME, directory)
    record_figure(
        25, f"resume, 1M rows, {size >> 20:,} MB of journal", "<= 2.5 CPU s; <= 150 MB",
        f"{cpu_shortly:.1f} CPU s, {memory_shortly / 1024:.0f} MB; "
        f"without the shortcut {cpu:.1f} CPU s, {memory / 1024:.0f} MB",
    )  # fmt: skip
    record_figure(25, "append, CPU on the loop", "<= 8 µs a row", f"{append:.1f} µs")
    assert known == known_shortly == rows
    assert max(memory, memory_shortly) * 1024 <= 150 * MEGABYTE
    # Twice and more what is demanded of a quiet machine: this must not fail for a busy neighbour.
    assert cpu <= 8
    assert cpu_shortly <= 2.5
    assert append <= 30

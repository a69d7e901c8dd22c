"""Runs that meet trouble at their n-th change to the disk, n = 1, 2 ...: dies_at.py FOLDER TROUBLE.

TROUBLE is `before` or `after` (the process kills itself around that change), or the name of an error
that the change ends in, such as EIO. For each n: a fresh folder, a run that meets it, copies of what
that left, and a run that goes on. Ends with the first n that is never reached. Forks, because importing
takes longer than running.
"""

import csv
import errno
import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

import batch_runner.runner  # noqa: F401  # loaded once, before forking
from batch_runner.cli import main
from batch_runner.disk import Disk
from batch_runner.journal import Journal


ROWS = 12
folder, trouble = Path(sys.argv[1]), sys.argv[2]
operations = count(1)  # next() on it is atomic: the journal syncs in a thread
fatal = 0


def deadly(operation):
    def act(self, *arguments):
        if next(operations) != fatal:
            return operation(self, *arguments)
        os.close(os.open("reached", os.O_CREAT | os.O_WRONLY))
        if trouble.startswith("E"):
            number = getattr(errno, trouble)
            raise OSError(number, os.strerror(number))
        try:
            if trouble == "after":
                operation(self, *arguments)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def in_a_process_of_its_own(place, n):
    """The status of a run that meets trouble at its n-th operation."""
    global fatal  # noqa: PLW0603  # each process has its own
    child = os.fork()
    if child == 0:
        fatal = n
        os.chdir(place)
        os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os._exit(main(["run", "job.toml", "--progress", "off"]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lay_out(place, n):
    bodies = [f"point {trouble} {n} row {row} {'x' * 200}" for row in range(ROWS)]
    place.mkdir()
    shutil.copy(folder / "job.toml", place)
    with (place / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "body"), *enumerate(bodies)])
    for name in ("out.csv", "out.csv.meta.json"):
        (place / name).write_text("old and whole")
    return bodies


Journal.__init__.__kwdefaults__.update(segment_bytes=2000, reserve_bytes=4096)  # many rotations
for name in ("open", "write", "fsync", "fdatasync", "replace", "mkdir", "unlink", "allocate"):
    setattr(Disk, name, deadly(getattr(Disk, name)))

n = 0
hit = True
with (folder / "points.jsonl").open("w") as points:
    while hit:
        n += 1
        place = folder / str(n)
        bodies = lay_out(place, n)
        first = in_a_process_of_its_own(place, n)
        hit = (place / "reached").exists()
        if (place / "out.csv.run").exists():
            shutil.copytree(place / "out.csv.run", place / "killed.run")
        shutil.copy(place / "out.csv", place / "killed.csv")
        second = in_a_process_of_its_own(place, 0) if hit else 0
        point = {"n": n, "hit": hit, "first": first, "second": second, "bodies": bodies}
        points.write(json.dumps(point) + "\n")

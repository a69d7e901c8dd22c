"""Real power cuts: an ext4 image whose journal is shut down under a writer, then mounted again.

    unshare -m python power_cut.py SUBJECT CUTS FOLDER [blind]

SUBJECT is `journal` or `output`; `blind` stubs the syncs out, to see that a missing one shows. Each cut
prints one line of JSON. Needs root; everything it mounts is private to its mount namespace.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

from batch_runner.atomic import publish
from batch_runner.disk import Disk
from batch_runner.job import Durability
from batch_runner.journal import Intent, Journal, RunDirectory, replay
from batch_runner.records import Completion, RowResult


SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
WITHOUT_FLUSH = struct.pack("I", 2)
IMAGE_BYTES = 256 << 20
OUTPUT_BYTES = 90_000


class BlindDisk(Disk):
    """Syncs nothing: the control."""

    def fsync(self, fd):
        pass

    def fdatasync(self, fd):
        pass


def key(n):
    return n.to_bytes(16, "little")


def row(n):
    text = f"answer {n} " + "word " * (n % 50)
    return RowResult(key=key(n), row=n, ending=Completion(text=text))


async def keep_writing(directory, disk, acknowledge):
    """Rows at about 4,000 a second; every 20 ms those that are durable are acknowledged."""
    with Journal(directory, run_id="r", durability=Durability.MS_100, disk=disk,
                 reserve_bytes=1 << 16, segment_bytes=1 << 20) as journal:  # fmt: skip
        n = 0
        while True:
            for _ in range(80):
                journal.begin(
                    Intent(
                        key=key(n),
                        attempt=1,
                        row=n,
                        model="m",
                        request_bytes=1,
                        max_output_tokens=1,
                    )
                )
                journal.finish(row(n))
                n += 1
            await journal.written()
            with journal._syncer._lock:
                durable = journal._syncer._synced
            os.write(acknowledge, f"{durable // 2} {n}\n".encode())
            await asyncio.sleep(0.02)


def version(n):
    return f"{n:08} ".encode() * (OUTPUT_BYTES // 9)


def keep_publishing(path, disk, acknowledge):
    """One version of a file after the other, each acknowledged once it is published."""
    n = 0
    while True:
        n += 1
        with publish(path, disk=disk) as file:
            file.write(version(n))
        os.write(acknowledge, f"{n} {n}\n".encode())


def write_for_ever(subject, mount, blind, acknowledge):
    disk = BlindDisk() if blind else Disk()
    if subject == "journal":
        directory = RunDirectory(mount / "out.csv.run")
        directory.create(disk=Disk())
        os.sync()
        asyncio.run(keep_writing(directory, disk, acknowledge))
    else:
        keep_publishing(mount / "out.csv", disk, acknowledge)


def cut_power(mount):
    fd = os.open(mount, os.O_RDONLY)
    fcntl.ioctl(fd, SHUTDOWN, WITHOUT_FLUSH)
    os.close(fd)


def read_journal(mount, acknowledged, finished):
    with replay(RunDirectory(mount / "out.csv.run")) as found:
        results = {result.row: result for result in found.results()}
        kinds = [str(damage.kind) for damage in found.damage]
    wrong = sum(result.ending != row(n).ending for n, result in results.items())
    return {
        "acknowledged": acknowledged,
        "lost": sum(n not in results for n in range(acknowledged)),
        "finished_not_durable": sum(n not in results for n in range(acknowledged, finished)),
        "wrong": wrong,
        "damage": kinds,
    }


def read_output(mount, acknowledged, _finished):
    try:
        content = (mount / "out.csv").read_bytes()
    except FileNotFoundError:
        return {"acknowledged": acknowledged, "whole": acknowledged == 0, "lost": acknowledged > 0}
    n = int(content[:8]) if content[:8].isdigit() else 0
    return {
        "acknowledged": acknowledged,
        "whole": content == version(n) and n > 0,
        "lost": n < acknowledged,
    }


def one_cut(subject, folder, blind, dice):
    image, mount = folder / "disk.img", folder / "disk"
    mount.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    says, acknowledge = os.pipe()
    writer = os.fork()
    if writer == 0:
        with contextlib.suppress(BaseException):
            write_for_ever(subject, mount, blind, acknowledge)
        os._exit(0)
    os.close(acknowledge)
    try:
        said = os.read(says, 1 << 16)  # it has begun
        time.sleep(dice.uniform(0.2, 0.7))
        cut_power(mount)
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)
    while more := os.read(says, 1 << 16):
        said += more
    os.close(says)
    acknowledged, finished = map(int, said.split(b"\n")[-2].split())
    subprocess.run(["umount", mount], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        return (read_journal if subject == "journal" else read_output)(
            mount, acknowledged, finished
        )
    finally:
        subprocess.run(["umount", mount], check=True)


if __name__ == "__main__":
    subject, cuts, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    dice = random.Random(cuts)
    for _ in range(cuts):
        sys.stdout.write(json.dumps(one_cut(subject, folder, "blind" in sys.argv, dice)) + "\n")
        sys.stdout.flush()

"""Where a run keeps its records: `<output>.run/`."""

import os
import re
from pathlib import Path

from batch_runner.disk import REAL_DISK, Disk, explained, make_folders, sync_folder


_ASIDE = "journal.before-"
_SEGMENT_NAME = re.compile(r"(\d{8,})\.jsonl")


class RunDirectory:
    """The paths of one run; nothing is touched before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.manifest = path / "manifest.json"
        self.segments = path / "journal"
        """Folder of the segments."""
        self.reserve = path / "reserve"
        self.shortcut = path / "shortcut"
        self.kept = path / "kept"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def create(self, *, disk: Disk = REAL_DISK) -> None:
        """The folders exist, private to this user, and files can be made in them.

        Raises StorageError naming the path where they cannot: before anything is paid for.
        """
        with explained("create the run directory", self.path):
            make_folders(disk, self.path, mode=0o700)
            make_folders(disk, self.segments, mode=0o700)
            # Folders that were there may be those of a process that died before it had synced their
            # names: a power cut would take them, with all that is in them by then.
            sync_folder(disk, self.path.parent)
            sync_folder(disk, self.path)
            disk.close(disk.open(self.lock, os.O_RDWR | os.O_CREAT))

    def put_aside(self, *, run_id: str) -> None:
        """What earlier runs wrote lies beside the journal, which is empty; the lock stays."""
        if self.segment_numbers():
            with explained("move", self.segments):
                self.shortcut.unlink(missing_ok=True)  # it tells what belongs into the old one
                self.segments.rename(self.path / f"{_ASIDE}{run_id}")
            self.create()

    def put_aside_by(self) -> list[str]:
        """The runs that put a journal aside."""
        return [aside.name.removeprefix(_ASIDE) for aside in self.path.glob(f"{_ASIDE}*")]

    def segment(self, number: int) -> Path:
        return self.segments / f"{number:08}.jsonl"

    def segment_numbers(self, *, disk: Disk = REAL_DISK) -> list[int]:
        """Numbers of the segments there are, ascending; none when there is no folder yet."""
        try:
            names = disk.listdir(self.segments)
        except FileNotFoundError:
            return []
        found = (_SEGMENT_NAME.fullmatch(name) for name in names)
        return sorted(int(match[1]) for match in found if match)

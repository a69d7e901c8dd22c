"""Where a job writes: what may stand there already, and the run directory beside it."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from batch_runner.disk import FULL, REAL_DISK, Disk, explained, make_folders
from batch_runner.errors import BatchRunnerError, InputError, JobError, StorageError, UsageError
from batch_runner.job import JobSpec
from batch_runner.journal import Holder, LockPolicy, RunDirectory, take_lock
from batch_runner.tables import (
    OpenAIBatchTable,
    Table,
    failures_path,
    format_of,
    ignore,
    open_table,
)


REPORT_MARK = b'<meta name="generator" content="batch_runner">'
BATCH_REQUEST = ("custom_id", "method", "url")
BATCH_REPLY = ("custom_id", "response", "error")
"""What every line of a batch file names."""
_ENOUGH = 3
"""Columns that no file has by chance: as many as `output.columns = "minimal"` adds."""
_HEAD_BYTES = 4096


def check_output(job: JobSpec, table: Table) -> None:
    """Raise UsageError when writing the output there would harm something, or cannot work."""
    path = job.output_path
    place = job.place("output.path")
    check_target(path, table, place=place)
    if path.exists() and not is_ours(job):
        raise JobError(
            f"{place}: {str(path)!r} exists and was not written by this job",
            hint="move it away, or choose another file",
        )
    if job.output.report is not None:
        report, place = Path(job.output.report), job.place("output.report")
        if is_ours(job):
            _check_folder(report, place=place)
        else:
            check_report_replaceable(report, place=place)


def check_other_target(path: Path, table: Table, job: JobSpec, names: Collection[str]) -> None:
    """Raise JobError where `-o` names a place that is no run's and can or may not be written to.

    `names` are what a table has that was written there before.
    """
    check_target(path, table, place="-o")
    for written in _written(path, table):
        check_replaceable(
            written,
            BATCH_REPLY if written != path else names,
            place="-o",
            encoding=job.input.encoding,
            delimiter=job.input.delimiter,
        )


def check_target(path: Path, table: Table, *, place: str) -> None:
    """Raise JobError where no table can be written, or where the input stands."""
    _check_folder(path, place=place)
    place = f"{place}: {str(path)!r}"
    if path.is_dir():
        raise JobError(f"{place} is a directory", hint="name a file in it")
    try:
        format_of(path)
    except InputError:
        raise JobError(
            f"{place}: the suffix {path.suffix!r} names no format",
            hint="end it in .csv, .tsv, .jsonl or .parquet (also with .gz .bz2 .xz .zst)",
        ) from None
    written = [p for p in _written(path, table) if p.exists()]
    if any(p.samefile(source) for p in written for source in table.named_paths):
        raise JobError(f"{place} is also the input", hint="choose another file")


def _check_folder(path: Path, *, place: str) -> None:
    """Raise JobError where the path is below a file, or a folder that may not be looked into."""
    place = f"{place}: {str(path)!r}"
    # Path.exists raises below such a folder.
    folder = next(p for p in path.parents if os.path.exists(p))  # noqa: PTH110  # as said
    if not folder.is_dir():
        raise JobError(f"{place}: {str(folder)!r} is a file", hint="choose another folder")
    if not os.access(folder, os.X_OK):
        raise JobError(
            f"{place}: you may not look into {str(folder)!r}", hint="choose another folder"
        )


def _written(path: Path, table: Table) -> list[Path]:
    return [path, *([failures_path(path)] if isinstance(table, OpenAIBatchTable) else [])]


def check_replaceable(
    path: Path,
    names: Collection[str],
    *,
    place: str,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> None:
    """Raise JobError where a table would take the place of a file that is none of ours.

    `names` are columns that the table adds: what is there has them, or most likely other hands
    wrote it. A job may add others today than last time, so not all of them are asked for.
    """
    if is_filled(path):
        if path.suffix == ".tsv":
            delimiter = None
        found = names_in(path, encoding=encoding, delimiter=delimiter)
        if len({*names} & {*found}) < min(_ENOUGH, len(names)):
            some = ", ".join(map(repr, [*names][:_ENOUGH]))
            raise _foreign(
                path,
                place,
                f"is not what batch_runner writes there: it has no columns such as {some}",
            )


def check_report_replaceable(path: Path, *, place: str) -> None:
    """Raise JobError where a report would take the place of a file that is none, or cannot lie."""
    _check_folder(path, place=place)
    if is_filled(path):
        with explained("read", path), path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if REPORT_MARK not in head:
            raise _foreign(path, place, "is no report of batch_runner")


def is_filled(path: Path) -> bool:
    """A file lies there and holds something."""
    return path.is_file() and path.stat().st_size > 0


def names_in(
    path: Path, *, encoding: str = "utf-8", delimiter: str | None = None
) -> Collection[str]:
    """The columns of a table, those of its first record where it has no header; none if it is no table."""
    try:
        table = open_table([path], encoding=encoding, delimiter=delimiter)
        if table.header is not None:
            return table.header
        return next((row.values for row in table.rows(on_bad=ignore)), {})
    except InputError:
        return ()


def _foreign(path: Path, place: str, what: str) -> JobError:
    return JobError(
        f"{place}: {str(path)!r} exists and {what}",
        hint=f"move it away, or choose another file{' with -o' * (place == '-o')}",
    )


def is_ours(job: JobSpec) -> bool:
    """The output was written by a run of this job, as far as what lies beside it tells."""
    directory = RunDirectory(job.run_path)
    return (
        job.meta_path.exists() or directory.manifest.exists() or bool(directory.segment_numbers())
    )


def check_writable(job: JobSpec) -> None:
    """Raise UsageError where a run could write neither journal nor output, as far as that shows now."""
    for folder in (job.output_path.parent, job.run_path, RunDirectory(job.run_path).segments):
        # A link that leads nowhere is there, too: no folder can be made in its place.
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(
                f"{job.place('output.path')}: nothing can be written to {str(there)!r}",
                hint="choose another output.path, or make that a folder you may write to",
            )


@contextmanager
def locked_place(
    job: JobSpec,
    *,
    policy: LockPolicy,
    on_wait: Callable[[Holder], None],
    disk: Disk = REAL_DISK,
) -> Iterator[None]:
    """The run directory is there, and nobody else runs the job.

    What had to be made for it goes again if the run is refused before anything lies in there.
    """
    directory = RunDirectory(job.run_path)
    made = [f for f in (directory.path, *directory.path.parents) if not f.exists()]
    try:
        _make_run_directory(job)
    except BatchRunnerError:
        _remove_empty(made, disk)
        raise
    with take_lock(directory, policy=policy, on_wait=on_wait):
        try:
            yield
        except BatchRunnerError:
            if made:
                _clear(directory, disk)  # while the lock is held: it goes, too
                _remove_empty(made, disk)
            raise


def _clear(directory: RunDirectory, disk: Disk) -> None:
    """What every run makes first is gone, if nothing else lies there."""
    unused = {file.name: file for file in (directory.shortcut, directory.lock)}
    with suppress(OSError):
        there = {*disk.listdir(directory.path)}
        if there <= {directory.segments.name, *unused}:
            disk.rmdir(directory.segments)
            for name in there & unused.keys():
                disk.unlink(unused[name])


def _remove_empty(folders: Sequence[Path], disk: Disk) -> None:
    """Those that nothing lies in; the innermost comes first."""
    for folder in folders:
        with suppress(OSError):
            disk.rmdir(folder)


def _make_run_directory(job: JobSpec) -> None:
    """It is there, and the output can be written beside it.

    A place that cannot be written to is the user's mistake; a full or failing disk is not.
    """
    check_writable(job)
    directory = RunDirectory(job.run_path)
    folder = directory.path.parent
    try:
        with explained("make", folder):
            make_folders(REAL_DISK, folder)
        directory.create()
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in {*FULL, errno.EIO}:
            raise
        # What the hint says of a folder that was there before is no help where none can be made.
        is_missing = isinstance(cause, FileNotFoundError)
        hint = "" if is_missing else error.hint
        raise UsageError(str(error), hint=hint or "choose another output.path") from None

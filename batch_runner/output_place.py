"""Where a job writes: what may stand there already, and the run directory beside it."""

import errno
import os
from pathlib import Path

from batch_runner.disk import FULL, REAL_DISK, explained, make_folders
from batch_runner.errors import InputError, JobError, StorageError, UsageError
from batch_runner.job import JobSpec
from batch_runner.journal import RunDirectory
from batch_runner.tables import OpenAIBatchTable, Table, failures_path, format_of


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


def check_target(path: Path, table: Table, *, place: str) -> None:
    """Raise JobError where no table can be written, or where the input stands."""
    place = f"{place}: {str(path)!r}"
    if path.is_dir():
        raise JobError(f"{place} is a directory", hint="name a file in it")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise JobError(f"{place}: {str(folder)!r} is a file", hint="choose another folder")
    try:
        format_of(path)
    except InputError:
        raise JobError(
            f"{place}: the suffix {path.suffix!r} names no format",
            hint="end it in .csv, .tsv, .jsonl or .parquet (also with .gz .bz2 .xz .zst)",
        ) from None
    written = [path]
    if isinstance(table, OpenAIBatchTable):
        written.append(failures_path(path))
    if any(p.exists() and p.samefile(source) for p in written for source in table.paths):
        raise JobError(f"{place} is also the input", hint="choose another file")


def is_ours(job: JobSpec) -> bool:
    """The output was written by a run of this job, as far as what lies beside it tells."""
    directory = RunDirectory(job.run_path)
    return (
        job.meta_path.exists() or directory.manifest.exists() or bool(directory.segment_numbers())
    )


def make_run_directory(job: JobSpec) -> RunDirectory:
    """It is there, and the output can be written beside it.

    A place that cannot be written to is the user's mistake; a full or failing disk is not.
    """
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
        raise UsageError(str(error), hint=error.hint or "choose another output.path") from None
    folder = job.output_path.parent
    if not os.access(folder, os.W_OK):
        raise UsageError(
            f"{job.place('output.path')}: nothing can be written to {str(folder)!r}",
            hint="choose another output.path, or change the folder's permissions",
        )
    return directory

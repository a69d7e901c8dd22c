"""What is no longer as the last run had it: job and input as they are today, looked at and not read."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from batch_runner.disk import identity_of
from batch_runner.errors import InputError
from batch_runner.fingerprint import fingerprint
from batch_runner.job import JobSpec
from batch_runner.journal import Manifest
from batch_runner.outset import Outset
from batch_runner.printable import one_line
from batch_runner.tables import expand
from batch_runner.work import KEPT


_LONGEST_MODEL = 60


def request_drift(manifest: Manifest, job: JobSpec) -> str:
    """In words, what the job would ask otherwise than the last run did; nothing if it would not."""
    if _asks_the_same(manifest, job):
        return ""
    if (names := _other_models(manifest, job)) is not None:
        return f"the model was {names[0]}, and is {names[1]} now"
    return "the prompt or its parameters have changed"


def asked_by_flags(manifest: Manifest, alone: JobSpec) -> str:
    """In words, what the last run asked by its flags and the job alone does not; nothing without such."""
    if _asks_the_same(manifest, alone):
        return ""
    said = "as the flags of the last run say"
    if (names := _other_models(manifest, alone)) is not None:
        return f"{names[0]}, {said}; the job alone asks {names[1]}"
    return f"{said}; the job alone has another prompt or other parameters"


def _asks_the_same(manifest: Manifest, job: JobSpec) -> bool:
    kept = manifest.extra.get(KEPT) or {}
    return fingerprint(job) in (manifest.fingerprint, kept.get("fingerprint"))


def _other_models(manifest: Manifest, job: JobSpec) -> list[str] | None:
    """That of the last run and that of the job, if they are two."""
    was = manifest.job.get("model")
    if was in (None, job.model):
        return None
    return [one_line(name, _LONGEST_MODEL) for name in (str(was), job.model)]


def is_other_input(manifest: Manifest, outset: Outset | None, job: JobSpec | None) -> bool:
    """The files are no longer those that were counted, or no longer as they were then.

    With the job, files that have come since are seen, too.
    """
    if outset is not None and outset.files is not None:
        # A file that was opened before it broke off is among both.
        unread = (file for file in outset.left_out if file not in outset.files)
        before = [*outset.files, *unread]
    else:
        before = manifest.input.get("files", [])
    if not before:
        return False
    try:
        now = _paths(before) if job is None else expand(job.input.path)
    except (InputError, OSError):  # they are gone, or nobody may look
        return True
    return _without_names(identity_of(now)) != _without_names(before)


def _paths(identity: Iterable[list[Any]]) -> Sequence[Path]:
    return [Path(file[0]) for file in identity if file]


def _without_names(identity: Iterable[list[Any]]) -> list[list[Any]]:
    """A file may be named in several ways; size, time and inode tell it."""
    return sorted(file[1:] for file in identity)

"""What is no longer as the last run had it: job and input as they are today, looked at and not read."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from batch_runner.disk import identity_of
from batch_runner.errors import InputError
from batch_runner.fingerprint import fingerprint
from batch_runner.grown import digests_of
from batch_runner.job import JobSpec
from batch_runner.journal import Manifest
from batch_runner.outset import Outset
from batch_runner.printable import one_line
from batch_runner.tables import expand
from batch_runner.work import DIGESTS, KEPT


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


def has_other_input(manifest: Manifest, outset: Outset | None, job: JobSpec | None) -> bool | None:
    """Whether the files hold something else than those that were counted; None: that cannot be told.

    Size, time and inode tell a file that nobody touched. A copy has another time, and another inode:
    it is the same where the bytes of then are known. With the job, files that have come since are
    seen, too.
    """
    before = _counted(manifest, outset)
    if not before:
        return False
    try:
        now = identity_of(_paths(before) if job is None else expand(job.input.path))
    except (InputError, OSError):  # they are gone, or nobody may look
        return True
    if _without_names(now) == _without_names(before):
        return False
    if _sizes(now) != _sizes(before):
        return True
    known = manifest.input
    if DIGESTS not in known or known.get("files") != before or None in known[DIGESTS]:
        return None
    return sorted(map(str, _digests(json.dumps(now)))) != sorted(known[DIGESTS])


def _counted(manifest: Manifest, outset: Outset | None) -> list[list[Any]]:
    if outset is None or outset.files is None:
        return [*manifest.input.get("files", ())]
    # A file that was opened before it broke off is among both.
    unread = (file for file in outset.left_out if file not in outset.files)
    return [*outset.files, *unread]


@lru_cache(maxsize=1)
def _digests(identity: str) -> list[str | None]:
    """Of files as JSON: who watches a run reads none of them twice."""
    return digests_of(json.loads(identity))


def _paths(identity: Iterable[list[Any]]) -> Sequence[Path]:
    return [Path(file[0]) for file in identity if file]


def _without_names(identity: Iterable[list[Any]]) -> list[list[Any]]:
    """A file may be named in several ways; size, time and inode tell it."""
    return sorted(file[1:] for file in identity)


def _sizes(identity: Iterable[list[Any]]) -> list[list[Any]]:
    return sorted(file[1:2] for file in identity)

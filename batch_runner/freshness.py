"""Whether the output is already what an export would write: then it keeps its bytes and its time.

`make`, cron jobs and whoever watches the file rely on that. Any doubt is a no: an export costs
little, a stale output is a lie.
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from batch_runner import __version__
from batch_runner.amounts import many, some_of
from batch_runner.batch_answers import is_batch
from batch_runner.bill import source_of
from batch_runner.disk import identity_of
from batch_runner.export import Exported
from batch_runner.journal import (
    DamagedManifest,
    Manifest,
    RunDirectory,
    read_manifest,
    write_manifest,
)
from batch_runner.outset import MARK, read_outset
from batch_runner.records import ANSWERED, RowStatus
from batch_runner.tables import failures_path
from batch_runner.tally import Examples
from batch_runner.work import Work, manifest_of


_MARK = "exported"
_WITHOUT_EFFECT = ("origin", "given_by", "given", "typed", "endpoint", "limits", "retry", "notify")
"""Parts of a job that leave no trace in an output whose rows are all done."""
_GONE_IS_TOLD_SECONDS = 7 * 86_400.0
"""Of a file that is gone: a nightly run is quiet of it, and on purpose files are taken away for good."""


def remember_export(work: Work, exported: Exported) -> None:
    """The manifest says what the output was made from, and how it looked when it was written."""
    path = RunDirectory(work.job.run_path).manifest
    found = read_manifest(path)
    if isinstance(found, DamagedManifest) or exported.damaged:
        return
    now = manifest_of(work)
    mark = {
        "made_from": _made_from(work),
        "input": work.input_identity,
        "gone": _gone(work),
        "output": identity_of(outputs(work)),
        "statuses": {str(status): n for status, n in exported.statuses.items()},
        "codes": dict(exported.codes),
        "examples": exported.examples.told,
        "formula_cells": exported.formula_cells,
        "unencodable_rows": exported.unencodable_rows,
    }
    # The fingerprint stays: with --on-change keep, the journal is not yet used with this prompt.
    write_manifest(path, replace(found or now, extra={**now.extra, _MARK: mark}))


def fresh_export(work: Work) -> Exported | None:
    """What the output holds, when nothing it is made from has changed since; else None."""
    found = read_manifest(RunDirectory(work.job.run_path).manifest)
    if found is None or isinstance(found, DamagedManifest):
        return None
    mark = found.extra.get(_MARK)
    if (
        mark is None
        or mark["made_from"] != _made_from(work)
        or mark["output"] != identity_of(outputs(work))
    ):
        return None
    _remember_left_out(work, found)
    statuses = Counter({RowStatus(name): count for name, count in mark["statuses"].items()})
    return Exported(
        statuses=statuses,
        codes=Counter(mark["codes"]),
        examples=Examples(mark.get("examples")),
        reused=sum(statuses[status] for status in ANSWERED),
        formula_cells=mark["formula_cells"],
        unencodable_rows=mark.get("unencodable_rows", 0),
    )


def _remember_left_out(work: Work, found: Manifest) -> None:
    """Files that give no row leave an output as it is, and have been looked at all the same."""
    now = manifest_of(work)
    before = read_outset(found)
    if before is None or before.left_out != now.extra[MARK]["left_out"]:
        path = RunDirectory(work.job.run_path).manifest
        write_manifest(path, replace(found, extra={**found.extra, MARK: now.extra[MARK]}))


def gone(work: Work) -> str:
    """A note where files that the output was made from are there under no name, or empty."""
    names = [name for name, *_ in _gone(work)]
    if not names:
        return ""
    is_, it, its = ("is", "it is", "its") if len(names) == 1 else ("are", "they are", "their")
    return (
        f"{many(len(names), 'file')} that the output showed {is_} gone, rows and all; once {it} back, "
        f"a run shows {its} answers again without a call: {some_of(names)}"
    )


def _gone(work: Work) -> list[list[Any]]:
    """Those files as they were, each with the time at which a run first missed it."""
    mark = {} if work.before is None else work.before.extra.get(_MARK, {})
    there = [found[1:] for found in identity_of(work.table.named_paths)]
    left_out = {file.path for file in work.table.left_out}
    now = work.started_at
    shown = [[*file, now] for file in filter(None, mark.get("input", ()))]
    return [
        [name, *as_it_was, missed_at]
        for name, *as_it_was, missed_at in (*shown, *mark.get("gone", ()))
        if now - missed_at < _GONE_IS_TOLD_SECONDS
        and Path(name) not in left_out  # which is told by itself
        and not _holds_bytes(Path(name))
        and as_it_was not in there
    ]


def _holds_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def outputs(work: Work) -> list[Path]:
    """The files that an export to the job's own output writes."""
    path = work.job.output_path
    return [path, failures_path(path)] if is_batch(work.table, path) else [path]


def _made_from(work: Work) -> str:
    """A digest of all that decides about the bytes of the output."""
    job = {name: part for name, part in asdict(work.job).items() if name not in _WITHOUT_EFFECT}
    directory = RunDirectory(work.job.run_path)
    parts: list[Any] = [
        __version__,
        job,
        work.prices.overrides,
        source_of(work.prices, {work.job.model: 1}),
        work.input_identity,
        identity_of(map(directory.segment, directory.segment_numbers())),
        _rows(work),
    ]
    return blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()


def _rows(work: Work) -> str:
    """Which result each row shows: rows kept by `--on-change` do not show that of their request."""
    digest = blake2b(digest_size=16)
    for row, entry in enumerate(work.plan.entries):
        digest.update(work.replay.index.key(entry) if work.plan.has_request(row) else b"-")
    return digest.hexdigest()

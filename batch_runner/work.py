"""A job with everything opened that its commands share: input, plan, journal, prices, columns."""

import errno
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from batch_runner.atomic import publish
from batch_runner.attachments import read_attachment
from batch_runner.bill import Biller, possible_tiers
from batch_runner.columns import OutputColumns, output_columns
from batch_runner.disk import FULL, REAL_DISK, explained, identity_of, make_folders
from batch_runner.errors import InputError, JobError, StorageError, UsageError
from batch_runner.job import InputFormat, JobSpec
from batch_runner.journal import (
    DamagedManifest,
    LockPolicy,
    Manifest,
    Replay,
    RunDirectory,
    read_manifest,
    take_lock,
    write_manifest,
)
from batch_runner.keeping import MARK as KEPT
from batch_runner.keeping import keep_changed_rows
from batch_runner.outset import MARK, Outset, outset_of
from batch_runner.plan import (
    Dedupe,
    Plan,
    Wanted,
    Watch,
    check_dedupe,
    check_new_columns,
    make_plan,
    unfinished,
)
from batch_runner.pricing import PriceBook
from batch_runner.prompt import PromptBuilder
from batch_runner.run_place import missing_folders, removed_if_refused
from batch_runner.shortcut import Shortcut, known_plan, parts_of_plan, recover
from batch_runner.structured import AnswerSchema
from batch_runner.tables import (
    Format,
    OpenAIBatchTable,
    Table,
    failures_path,
    format_of,
    open_table,
    suggest_delimiter,
)


@dataclass(kw_only=True)
class Work:
    """One job, opened."""

    job: JobSpec
    table: Table
    builder: PromptBuilder
    columns: OutputColumns
    schema: AnswerSchema | None
    prices: PriceBook
    biller: Biller
    replay: Replay
    plan: Plan
    dedupe: Dedupe
    same_prompt: bool
    """Prompt and parameters are those of the last run."""
    earlier_segments: int
    """Segments of the index that earlier runs wrote."""
    shortcut: Shortcut | None
    """The one that was taken."""
    plan_made_of: str | None
    """A digest of all that the plan depends on; None where that cannot be told."""
    run_id: str
    started_at: float
    input_identity: list[list[Any]]
    """Of the input files, taken before they were read: see `identity_of`."""
    outset: Outset | None = None
    """How the rows stood before this run, once somebody has asked."""
    kept: Mapping[str, Any] | None = None
    """Changed rows show the answers they had before: see `keeping`."""
    warnings: list[str] = field(default_factory=list)


@contextmanager
def open_work(
    job: JobSpec,
    *,
    wanted: Wanted = unfinished,
    lock: LockPolicy | None = None,
    fresh: bool = False,
    dedupe: Dedupe | None = None,
    keep: bool | None = None,
    watch: Watch | None = None,
) -> Iterator[Work]:
    """The job's input laid against its journal; read-only unless `lock` is given.

    With `lock`, the run directory is made and locked. `fresh` reads no journal: every row is
    planned as new. `keep` and `dedupe` None: as the last run was told. Raises UsageError for everything that is wrong with job, input or output.
    """
    started_at = time.time()
    table = open_input(job)
    input_identity = identity_of(table.paths)
    check_output(job, table)
    builder = PromptBuilder(job, read_file=partial(read_attachment, folder=job.folder))
    columns = output_columns(job, many_files=len(table.paths) > 1 or _is_glob(job))
    schema = _answer_schema(job)
    if table.header is not None:
        builder.check_columns(
            table.header, source=str(table.paths[0]), hint=_delimiter_hint(table.header)
        )
    directory = RunDirectory(job.run_path)
    dedupe = dedupe or _dedupe_before(directory)
    if lock is not None and dedupe is Dedupe.ON:
        check_dedupe(job)
    with ExitStack() as stack:
        if lock is not None:
            made = missing_folders(directory)
            with _place_is_usable(job):
                _create(directory)
                stack.enter_context(take_lock(directory, policy=lock))
            stack.enter_context(removed_if_refused(directory, made))  # while the lock is held
        found, shortcut = (Replay(directory), None) if fresh else recover(directory)
        stack.enter_context(found)
        earlier_segments = len(found.index.files)
        made_of = None if builder.reads_files else parts_of_plan(job, table.paths, dedupe)
        plan = None if watch else known_plan(shortcut, made_of)
        if plan is None:
            plan = make_plan(
                job,
                table,
                builder,
                found.index,
                wanted=wanted,
                new_columns=columns.columns,
                # Whoever only reads shows what was shared; a run is what may be refused.
                dedupe=Dedupe.FORCED if lock is None and dedupe is Dedupe.ON else dedupe,
                watch=watch,
            )
        else:
            check_new_columns(job, plan.columns, columns.columns)
            plan.choose(found.index, wanted)
        prices = PriceBook(job.prices, base_url=job.endpoint.base_url)
        work = Work(
            job=job,
            table=table,
            builder=builder,
            columns=columns,
            schema=schema,
            prices=prices,
            biller=Biller(prices, tiers=possible_tiers(job.request.get("service_tier"))),
            replay=found,
            plan=plan,
            dedupe=dedupe,
            same_prompt=_same_prompt(job, directory),
            earlier_segments=earlier_segments,
            shortcut=shortcut,
            plan_made_of=made_of,
            run_id=_new_run_id(started_at),
            started_at=started_at,
            input_identity=input_identity,
        )
        keep_changed_rows(work, fingerprint=fingerprint(job), said=False if fresh else keep)
        _warn(work)
        yield work


def open_input(job: JobSpec) -> Table:
    declared = job.input.format
    return open_table(
        job.input.path,
        format=None if declared is InputFormat.AUTO else Format(declared),
        encoding=job.input.encoding,
        delimiter=job.input.delimiter,
        place=job.place("input.path"),
    )


def check_output(job: JobSpec, table: Table) -> None:
    """Raise UsageError when writing the output there would harm something, or cannot work."""
    path = job.output_path
    place = job.place("output.path")
    check_target(path, table, place=place)
    if path.exists() and not _is_ours(job):
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


def _is_ours(job: JobSpec) -> bool:
    """The output was written by a run of this job, as far as what lies beside it tells."""
    directory = RunDirectory(job.run_path)
    return (
        job.meta_path.exists() or directory.manifest.exists() or bool(directory.segment_numbers())
    )


def claim_output(work: Work) -> None:
    """Later runs know the output for this job's own, even if it was exported before the first one."""
    if not _is_ours(work.job):
        RunDirectory(work.job.run_path).create()
        remember_job(work)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    with publish(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def put_journal_aside(work: Work) -> None:
    """What earlier runs wrote lies beside the journal, which is empty; the lock stays where it is."""
    directory = RunDirectory(work.job.run_path)
    if directory.segment_numbers():
        directory.shortcut.unlink(missing_ok=True)  # it tells what belongs into the old one
        directory.segments.rename(directory.path / f"journal.before-{work.run_id}")
        directory.create()


def remember_job(work: Work) -> None:
    """The manifest says which prompt and input the journal was last used with.

    What else it says stays: `freshness` sees for itself whether its part still holds.
    """
    path = RunDirectory(work.job.run_path).manifest
    found, new = read_manifest(path), manifest_of(work)
    kept = found.extra if isinstance(found, Manifest) else {}
    write_manifest(path, replace(new, extra={**kept, **new.extra}))


def manifest_of(work: Work) -> Manifest:
    job = work.job
    return Manifest(
        fingerprint=fingerprint(job),
        job={
            "name": job.name,
            "model": job.model,
            "file": job.origin,
            **({"given": job.given, "typed": job.typed} if job.given else {}),
        },
        input={"files": work.input_identity, "rows": work.plan.rows},
        extra={
            "dedupe": work.dedupe,
            KEPT: work.kept,
            # What the calls cost must be known without the job file, too.
            "prices": {model: asdict(price) for model, price in job.prices.items()},
            "base_url": job.endpoint.base_url,
            "service_tier": job.request.get("service_tier"),
            MARK: _outset(work).to_json(),
        },
    )


def _outset(work: Work) -> Outset:
    """Taken once: from the first call on, the index knows results of this run."""
    if work.outset is None:
        work.outset = outset_of(
            work.plan, work.replay.index, run_id=work.run_id, made_of=work.plan_made_of
        )
    return work.outset


def _delimiter_hint(header: Sequence[str]) -> str:
    """A header of one column is more often split at another character than meant so."""
    likely = suggest_delimiter(header[0]) if len(header) == 1 else None
    return f"is input.delimiter = {json.dumps(likely)} meant?" if likely else ""


def _is_glob(job: JobSpec) -> bool:
    return any(mark in path for path in job.input.path for mark in "*?[")


def _answer_schema(job: JobSpec) -> AnswerSchema | None:
    if job.json.schema is None and not job.json.columns:
        return None
    return AnswerSchema(job.json.schema, origin=job.origin)


def _create(directory: RunDirectory) -> None:
    with explained("make", directory.path.parent):
        make_folders(REAL_DISK, directory.path.parent)
    directory.create()


@contextmanager
def _place_is_usable(job: JobSpec) -> Iterator[None]:
    """A place that cannot be written to is the user's mistake; a full or failing disk is not."""
    try:
        yield
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


def fingerprint(job: JobSpec) -> str:
    """Equal for jobs that send the same for the same row."""
    prompt = {
        name: getattr(job.prompt, name) for name in ("instructions", "input", "messages", "body")
    }
    parts = {"prompt": prompt, "request": job.request, "schema": job.json.schema}
    return blake2b(
        json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16
    ).hexdigest()


def journal_settings(job: JobSpec) -> dict[str, str]:
    """What the journal remembers of a run besides its rows."""
    return {"model": job.model, "base_url": job.endpoint.base_url}


def _same_prompt(job: JobSpec, directory: RunDirectory) -> bool:
    manifest = read_manifest(directory.manifest)
    if manifest is None or isinstance(manifest, DamagedManifest):
        return False
    return manifest.fingerprint == fingerprint(job)


def _dedupe_before(directory: RunDirectory) -> Dedupe:
    """What the last run was told: its copies must not turn into rows to pay for."""
    manifest = read_manifest(directory.manifest)
    if manifest is None or isinstance(manifest, DamagedManifest):
        return Dedupe.OFF
    return Dedupe(manifest.extra.get("dedupe", Dedupe.OFF))


def _new_run_id(started_at: float) -> str:
    """Sortable by time, unique without a registry."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started_at))
    return f"{stamp}.{int(started_at % 1 * 1000):03}Z-{uuid.uuid4().hex[:6]}"


def _warn(work: Work) -> None:
    plan = work.plan
    work.warnings += [
        f"{torn.place}: the last line is not whole; left for the next run" for torn in plan.torn
    ]
    if plan.bad_count:
        records = "1 record" if plan.bad_count == 1 else f"{plan.bad_count:,} records"
        work.warnings.append(
            f"{records} could not be read and left out, the first at {plan.bad[0].place}"
        )
    if plan.rows > 1 and not work.builder.uses_columns:
        work.warnings.append("the prompt names no column, so every row asks for the same")
    damaged = sum(not place.is_expected for place in work.replay.damage)
    if damaged:
        work.warnings.append(
            f"{damaged} damaged places in the journal: batch-runner verify tells; "
            "rows that stood there are asked again"
        )

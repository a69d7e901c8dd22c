"""A job with everything opened that its commands share: input, plan, journal, prices, columns."""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from batch_runner.atomic import publish
from batch_runner.bill import Biller
from batch_runner.columns import OutputColumns, output_columns
from batch_runner.errors import JobError, StorageError, UsageError
from batch_runner.job import JobSpec
from batch_runner.journal import (
    DamagedManifest,
    LockPolicy,
    Manifest,
    Replay,
    RunDirectory,
    read_manifest,
    replay,
    take_lock,
    write_manifest,
)
from batch_runner.plan import Plan, Wanted, make_plan, unfinished
from batch_runner.pricing import PriceBook
from batch_runner.prompt import PromptBuilder
from batch_runner.structured import AnswerSchema
from batch_runner.tables import Format, Table, format_of, open_table


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
    same_prompt: bool
    """Prompt and parameters are those of the last run."""
    earlier_segments: int
    """Segments of the index that earlier runs wrote."""
    run_id: str
    started_at: float
    warnings: list[str] = field(default_factory=list)


@contextmanager
def open_work(
    job: JobSpec,
    *,
    wanted: Wanted = unfinished,
    lock: LockPolicy | None = None,
    fresh: bool = False,
) -> Iterator[Work]:
    """The job's input laid against its journal; read-only unless `lock` is given.

    With `lock`, the run directory is made, locked and given a manifest. Raises UsageError for
    everything that is wrong with job, input or output.
    """
    started_at = time.time()
    table = open_input(job)
    check_output(job, table)
    builder = PromptBuilder(job)
    columns = output_columns(job, many_files=len(table.paths) > 1 or _is_glob(job))
    schema = _answer_schema(job)
    if table.header is not None:
        builder.check_columns(table.header, source=str(table.paths[0]))
    directory = RunDirectory(job.run_path)
    with ExitStack() as stack:
        if lock is not None:
            _create(directory)
            stack.enter_context(take_lock(directory, policy=lock))
            if fresh:
                _put_journal_aside(directory)
        found = stack.enter_context(replay(directory))
        earlier_segments = len(found.index.files)
        plan = make_plan(
            job, table, builder, found.index, wanted=wanted, new_columns=columns.columns
        )
        prices = PriceBook(job.prices, base_url=job.endpoint.base_url)
        work = Work(
            job=job,
            table=table,
            builder=builder,
            columns=columns,
            schema=schema,
            prices=prices,
            biller=Biller(prices),
            replay=found,
            plan=plan,
            same_prompt=_same_prompt(job, directory),
            earlier_segments=earlier_segments,
            run_id=_new_run_id(started_at),
            started_at=started_at,
        )
        _warn(work)
        yield work


def open_input(job: JobSpec) -> Table:
    chosen = None if job.input.format == "auto" else _format(job)
    return open_table(
        job.input.path,
        format=chosen,
        encoding=job.input.encoding,
        delimiter=job.input.delimiter,
    )


def check_output(job: JobSpec, table: Table) -> None:
    """Raise UsageError when writing the output there would harm something, or cannot work."""
    path = job.output_path
    format_of(path)
    place = f"{job.origin}: output.path: {str(path)!r}"
    if path.is_dir():
        raise JobError(f"{place} is a directory", hint="name a file in it")
    if any(path.exists() and path.samefile(source) for source in table.paths):
        raise JobError(f"{place} is also the input", hint="choose another file")
    ours = job.run_path.exists() or job.meta_path.exists()
    if path.exists() and not ours:
        raise JobError(
            f"{place} exists and was not written by this job",
            hint="move it away, or choose another file",
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    with publish(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def remember_job(work: Work) -> None:
    """The manifest says which prompt and input the journal was last used with."""
    job = work.job
    write_manifest(
        RunDirectory(job.run_path).manifest,
        Manifest(
            fingerprint=_fingerprint(job),
            job={"name": job.name, "model": job.model, "file": job.origin},
            input={"paths": [str(path) for path in work.table.paths], "rows": work.plan.rows},
        ),
    )


def _format(job: JobSpec) -> Format:
    try:
        return Format(job.input.format)
    except ValueError:
        known = ", ".join(("auto", *Format))
        raise JobError(
            f"{job.origin}: input.format: {job.input.format!r} must be one of {known}"
        ) from None


def _is_glob(job: JobSpec) -> bool:
    return any(mark in path for path in job.input.path for mark in "*?[")


def _answer_schema(job: JobSpec) -> AnswerSchema | None:
    if job.json.schema is None and not job.json.columns:
        return None
    return AnswerSchema(job.json.schema, origin=job.origin)


def _create(directory: RunDirectory) -> None:
    """A place that cannot be written to is the user's mistake, found before anything is sent."""
    try:
        directory.path.parent.mkdir(parents=True, exist_ok=True)
        directory.create()
    except OSError as error:
        raise UsageError(
            f"{directory.path.parent}: {error.strerror}", hint="choose another output.path"
        ) from None
    except StorageError as error:
        raise UsageError(str(error), hint=error.hint or "choose another output.path") from None


def _put_journal_aside(directory: RunDirectory) -> None:
    """The journal folder has another name; the lock stays where it is."""
    if any(directory.segment_numbers()):
        aside = directory.path / f"journal.{time.strftime('%Y%m%dT%H%M%S')}.bak"
        shutil.move(directory.segments, aside)
        directory.create()


def _fingerprint(job: JobSpec) -> str:
    prompt = {
        name: getattr(job.prompt, name) for name in ("instructions", "input", "messages", "body")
    }
    parts = {"prompt": prompt, "request": job.request, "schema": job.json.schema}
    return blake2b(
        json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16
    ).hexdigest()


def _same_prompt(job: JobSpec, directory: RunDirectory) -> bool:
    manifest = read_manifest(directory.manifest)
    if manifest is None or isinstance(manifest, DamagedManifest):
        return False
    return manifest.fingerprint == _fingerprint(job)


def _new_run_id(started_at: float) -> str:
    """Sortable by time, unique without a registry."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started_at))
    return f"{stamp}-{uuid.uuid4().hex[:6]}"


def _warn(work: Work) -> None:
    plan = work.plan
    work.warnings += [
        f"{torn.place}: the last line is not whole; left for the next run" for torn in plan.torn
    ]
    if plan.bad_count:
        work.warnings.append(f"{plan.bad_count:,} records could not be read and were left out")
    if work.replay.damage:
        work.warnings.append(
            f"{len(work.replay.damage)} damaged places in the journal: batch-runner verify tells; "
            "rows that stood there are asked again"
        )

"""Opens a job: input against journal, everything checked that can be before money is spent."""

import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from batch_runner.amounts import many
from batch_runner.attachments import read_attachment
from batch_runner.bill import biller_of
from batch_runner.changes import was_agreed
from batch_runner.columns import output_columns
from batch_runner.disk import identity_of
from batch_runner.errors import JobError
from batch_runner.freshness import gone
from batch_runner.input_files import (
    left_out_in_words,
    may_be_several,
    open_input,
    plan_of_readable,
    with_newest_first,
)
from batch_runner.job import JobSpec
from batch_runner.journal import (
    Damage,
    Holder,
    Index,
    LockPolicy,
    Manifest,
    Replay,
    RunDirectory,
    damage_in_words,
    read_manifest,
)
from batch_runner.keeping import keep_changed_rows
from batch_runner.losses import with_losses
from batch_runner.output_place import check_output, locked_place
from batch_runner.outset import damage_met, read_outset
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
from batch_runner.prompt import PromptBuilder
from batch_runner.records import Column
from batch_runner.run_place import last_prices
from batch_runner.shortcut import Shortcut, known_plan, parts_of_plan, recover
from batch_runner.structured import AnswerSchema
from batch_runner.tables import Table, suggest_delimiter
from batch_runner.work import Work


SAME_FOR_ALL = "the prompt names no column, so every row asks for the same"

log = logging.getLogger("batch_runner")


@contextmanager
def open_work(
    job: JobSpec,
    *,
    wanted: Wanted = unfinished,
    lock: LockPolicy | None = None,
    fresh: bool = False,
    dedupe: Dedupe | None = None,
    keep: bool | None = None,
    may_repay: bool = False,
    watch: Watch | None = None,
) -> Iterator[Work]:
    """The job's input laid against its journal; read-only unless `lock` is given.

    With `lock`, the run directory is made and locked. `fresh` reads no journal: every row is
    planned as new. `keep` and `dedupe` None: as the last run was told. `may_repay`: changed rows are
    sent however many they are. Raises UsageError for everything that is wrong with job, input or
    output.
    """
    started_at = time.time()
    table = _open_input(job)
    identities = dict(zip(table.paths, identity_of(table.paths), strict=True))
    check_output(job, table)
    builder = _open_builder(job, table)
    columns = output_columns(job, many_files=may_be_several(job))
    schema = _answer_schema(job)
    directory = RunDirectory(job.run_path)
    with ExitStack() as stack:
        if lock is not None:
            stack.enter_context(locked_place(job, policy=lock, on_wait=partial(_say_waiting, job)))
        before = _manifest_of_last_run(directory)
        dedupe = dedupe or _dedupe_of(before)
        if lock is not None and dedupe is Dedupe.ON:
            check_dedupe(job)
        found, shortcut = (Replay(directory), None) if fresh else recover(directory)
        stack.enter_context(found)
        found_table, plan, made_of = _planned(
            job, table, builder, found.index, shortcut,
            new_columns=columns.columns, wanted=wanted, watch=watch, dedupe=dedupe,
            may_refuse=lock is not None,
        )  # fmt: skip
        work = Work(
            job=job,
            table=with_newest_first(found_table),
            builder=builder,
            columns=columns,
            schema=schema,
            biller=biller_of(job, before=last_prices(before)),
            replay=found,
            plan=plan,
            dedupe=dedupe,
            before=before,
            damage=_damage_seen(found, directory, is_whole=shortcut is None and not fresh),
            damaged_before=() if fresh else damage_met(read_outset(before)),
            shortcut=shortcut,
            plan_made_of=made_of,
            run_id=_new_run_id(started_at),
            started_at=started_at,
            input_identity=[identities[path] for path in table.paths],
        )
        work.may_repay = may_repay or (keep is None and was_agreed(work))
        keep_changed_rows(work, said=False if fresh else keep)
        work.warnings[:0] = _oddities(work)
        yield work


def _damage_seen(found: Replay, directory: RunDirectory, *, is_whole: bool) -> Sequence[Damage]:
    """What a shortcut stands for was whole when it was made: only who reads all can miss anything."""
    return with_losses(found.damage, directory) if is_whole else found.damage


def _planned(
    job: JobSpec,
    table: Table,
    builder: PromptBuilder,
    index: Index,
    shortcut: Shortcut | None,
    *,
    new_columns: tuple[Column, ...],
    wanted: Wanted,
    watch: Watch | None,
    dedupe: Dedupe,
    may_refuse: bool,
) -> tuple[Table, Plan, str | None]:
    """The table without files that cannot be read, its rows planned, and a digest of what decided that.

    Whoever only reads shows what was shared between equal rows; a run `may_refuse` to.
    """
    made_of = None if builder.reads_files else parts_of_plan(job, table.paths, dedupe)
    known = None if watch else known_plan(shortcut, made_of)
    if known is not None:
        check_new_columns(job, known.columns, new_columns)
        known.choose(index, wanted)
        return table, known, made_of
    made = partial(
        make_plan,
        job,
        builder=builder,
        index=index,
        wanted=wanted,
        new_columns=new_columns,
        dedupe=Dedupe.FORCED if dedupe is Dedupe.ON and not may_refuse else dedupe,
        watch=watch,
    )
    readable, plan = plan_of_readable(
        job, table, made, columns=builder.columns, is_watched=watch is not None
    )
    # Trouble that passes by itself shows in nothing that a digest could be made of.
    return readable, plan, made_of if readable is table else None


def _open_builder(job: JobSpec, table: Table) -> PromptBuilder:
    builder = PromptBuilder(job, read_file=partial(read_attachment, folder=job.folder))
    if table.header is not None:
        hint = _delimiter_hint(table.header)
        builder.check_columns(table.header, source=str(table.paths[0]), hint=hint)
    return builder


def _open_input(job: JobSpec) -> Table:
    """The input. Raises JobError where journal and meta file could not name a file of the job."""
    _check_utf8("the job file", [job.origin])
    _check_utf8(job.place("input.path"), job.input.path)
    _check_utf8(job.place("output.path"), [str(job.output_path), job.output.report or ""])
    table = open_input(job)
    _check_utf8(job.place("input.path"), map(str, table.named_paths))
    return table


def _check_utf8(place: str, paths: Iterable[str]) -> None:
    """Raise JobError for a path that is no UTF-8: neither journal nor meta file could name it."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise JobError(
                f"{place}: {path!r} is no UTF-8",
                hint="rename the file or folder, or choose another",
            ) from None


def _delimiter_hint(header: Sequence[str]) -> str:
    """A header of one column is more often split at another character than meant so."""
    likely = suggest_delimiter(header[0]) if len(header) == 1 else None
    return f"is input.delimiter = {json.dumps(likely)} meant?" if likely else ""


def _answer_schema(job: JobSpec) -> AnswerSchema | None:
    if job.json.schema is None and not job.json.columns:
        return None
    return AnswerSchema(job.json.schema, origin=job.origin)


def _manifest_of_last_run(directory: RunDirectory) -> Manifest | None:
    manifest = read_manifest(directory.manifest)
    return manifest if isinstance(manifest, Manifest) else None


def _dedupe_of(manifest: Manifest | None) -> Dedupe:
    """As that run was told: copies must not turn into rows to pay for."""
    return Dedupe.OFF if manifest is None else Dedupe(manifest.extra.get("dedupe", Dedupe.OFF))


def _new_run_id(started_at: float) -> str:
    """Sortable by time, unique without a registry."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started_at))
    return f"{stamp}.{int(started_at % 1 * 1000):03}Z-{uuid.uuid4().hex[:6]}"


def _oddities(work: Work) -> Iterator[str]:
    """What is unusual about input, prompt and journal, and keeps nobody from going on."""
    plan = work.plan
    if work.table.left_out:
        yield left_out_in_words(work.table)
    if note := gone(work):
        yield note
    for torn in plan.torn:
        yield f"{torn.place}: the last line is not whole; left for the next run"
    if plan.bad_count:
        records, were = many(plan.bad_count, "record"), "was" if plan.bad_count == 1 else "were"
        yield f"{records} could not be read and {were} left out, the first at {plan.bad[0].place}"
    if plan.rows > 1 and not work.builder.uses_columns:
        yield SAME_FOR_ALL
    if damaged := work.new_damage:
        yield damage_in_words(damaged)


def _say_waiting(job: JobSpec, holder: Holder) -> None:
    log.info("%s: waiting for %s to end", job.name, holder, extra={"event": "waiting"})

"""The input files of a job: one table, without those of several that cannot be read."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from glob import has_magic
from pathlib import Path

from batch_runner.amounts import many, some_of
from batch_runner.disk import changed_at
from batch_runner.errors import InputError
from batch_runner.job import BadRowPolicy, InputFormat, JobSpec
from batch_runner.plan import Plan
from batch_runner.tables import Format, Table, expand, none_readable, open_table


_ONE_OF_MANY = (
    "the files of an input are one table: each needs the same header, also without a row; "
    "mend this one, or leave it out"
)
_OR_SKIP = 'on_bad_row = "skip" under [input] leaves such a file out'


def may_be_several(job: JobSpec) -> bool:
    """More than one file is named, or a pattern, which may fit one today and several tomorrow."""
    named = job.input.path
    return len(named) > 1 or any(has_magic(path) and not Path(path).is_file() for path in named)


def open_input(job: JobSpec) -> Table:
    """The input as one table. Raises an InputError for what no table can be made of."""
    declared = job.input.format
    opened = partial(
        open_table,
        expand(job.input.path, place=job.place("input.path")),
        format=None if declared is InputFormat.AUTO else Format(declared),
        encoding=job.input.encoding,
        delimiter=job.input.delimiter,
    )
    if _leaves_out(job):
        return opened(leaves_out=True)
    try:
        return opened()
    except InputError as error:
        if not may_be_several(job):
            raise
        hint = error.hint or _ONE_OF_MANY
        with suppress(InputError):
            hint += f"; {_OR_SKIP}" * bool(opened(leaves_out=True).left_out)
        raise InputError(str(error), hint=hint) from error


def plan_of_readable(
    job: JobSpec,
    table: Table,
    made: Callable[..., Plan],
    *,
    columns: Collection[str] | None,
    is_watched: bool,
) -> tuple[Table, Plan]:
    """The plan, and the table it was made of: without the files of several that break off.

    That shows on the way, and then the plan is made anew. One that is watched is made once.
    """
    if is_watched and _leaves_out(job) and len(table.paths) > 1:
        table = _without_unreadable(table, columns)
    try:
        plan = made(table=table)
        if is_watched or not (_leaves_out(job) and plan.bad_count and len(table.paths) > 1):
            return table, plan
        readable = _without_rowless(table)
        return readable, plan if readable is table else made(table=readable)
    except InputError as error:
        if len(table.paths) == 1:
            raise
        if _leaves_out(job):
            if is_watched:
                raise
            readable = _without_unreadable(table, columns)
            if readable is table:
                raise
            return readable, made(table=readable)
        if any(table.unreadable(columns)):
            hint = f"{error.hint}; {_OR_SKIP}" if error.hint else _OR_SKIP
            raise InputError(str(error), hint=hint) from error
        raise


def with_newest_first(table: Table) -> Table:
    """Of the files left out, those come first that nobody may know of yet: a list is cut at its end."""
    newest = sorted(table.left_out, key=lambda file: changed_at(file.path), reverse=True)
    return replace(table, left_out=tuple(newest))


def left_out_in_words(table: Table) -> str:
    """Names before reasons: a line is cut at its end, too, and the meta file has all of them."""
    newest, *others = table.left_out
    were, of_which = "was", newest.reason
    if others:
        names = some_of([file.path.name for file in table.left_out])
        were, of_which = "were", f"{names}; the newest, {newest.reason}"
    return (
        f"{many(len(table.left_out), 'file')} of {len(table.named_paths):,} could not be read and "
        f"{were} left out, rows and all: {of_which}"
    )


def _without_unreadable(table: Table, columns: Collection[str] | None) -> Table:
    unreadable = [*table.unreadable(columns)]
    if len(unreadable) == len(table.paths):
        raise none_readable(len(table.named_paths), InputError(unreadable[0].reason))
    return _without_rowless(table.without(unreadable) if unreadable else table)


def _without_rowless(table: Table) -> Table:
    """A page of an error in place of a file is no table; if nothing else is there, its records say so."""
    rowless = [*table.rowless()]
    return table.without(rowless) if 0 < len(rowless) < len(table.paths) else table


def _leaves_out(job: JobSpec) -> bool:
    """Of several files those that cannot be read, as of one the records."""
    return job.input.on_bad_row is BadRowPolicy.SKIP

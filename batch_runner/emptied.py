"""An input that has lost its rows empties the output; what the output showed is kept beside the journal.

The journal keeps the answers, but an output can be the last place that has the rows.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from batch_runner.amounts import many
from batch_runner.atomic import publish
from batch_runner.disk import explained, storage_error
from batch_runner.errors import InputError
from batch_runner.freshness import outputs
from batch_runner.job import JobSpec
from batch_runner.meta import answers_told
from batch_runner.output_place import is_filled
from batch_runner.records import BadRecord
from batch_runner.tables import format_of, open_table
from batch_runner.work import Work


_FOR_ITS_OWNER = 0o600


def check_records_are_readable(work: Work) -> None:
    """Raise InputError where an input of which nothing can be read would empty an output.

    It has not lost its rows: they are there, or are still being written.
    """
    unread = [f"{record.place}: {record.reason}" for record in (*work.plan.bad, *work.plan.torn)]
    unread += [file.reason for file in work.table.left_out]
    if work.plan.rows or not unread or not any(_shown(work)):
        return
    raise InputError(
        f"{unread[0]}: no record of the input can be read, and "
        f"{str(work.job.output_path)!r} shows rows: it would be emptied",
        hint="mend the input; run --on-change rerun empties the output, and another output.path, "
        "or -o, leaves it alone",
    )


def emptied(work: Work) -> str:
    """A note where an input without a row empties an output that shows rows."""
    kept = [repr(str(_aside(work.job, path))) for path in _shown(work)]
    if not kept:
        return ""
    told, _ = answers_told(work.job.output_path)
    return (
        f"the input has no rows, and the output showed {many(told, 'answer') if told else 'rows'}: "
        f"what it showed is kept as {' and '.join(kept)}; once the rows are back, a run shows their "
        "answers again without a call"
    )


def keep_emptied(work: Work) -> str:
    """What an input without a row takes out of the output lies in the run directory; the note says so.

    It is copied, so that there is an output at any time, and that the new one takes its place as
    ever: with its permissions, and behind a link.
    """
    note = emptied(work)
    for path in _shown(work):
        aside = _aside(work.job, path)
        try:
            source = path.open("rb")
        except FileNotFoundError:
            continue  # somebody else has taken it away
        except OSError as problem:
            raise storage_error("read", path, problem) from problem
        with source, publish(aside, mode=_FOR_ITS_OWNER) as file, explained("copy", path):
            shutil.copyfileobj(source, file)
    return note


def _aside(job: JobSpec, path: Path) -> Path:
    """One place, so that a folder whose input is empty every other night does not fill up.

    A number tells those apart that hold something else: nothing is overwritten.
    """
    for number in count(1):
        mark = f"{number}-" if number > 1 else ""
        place = job.run_path / f"emptied-{mark}{path.name}"
        if not os.path.lexists(place) or _is_equal(path, place):
            return place
    raise AssertionError  # numbers do not end


def _is_equal(path: Path, place: Path) -> bool:
    try:
        return place.is_file() and filecmp.cmp(path, place, shallow=False)
    except OSError:
        return False


def _shown(work: Work) -> Iterator[Path]:
    """The files that would be written anew, with no row any more, and show some now."""
    if not work.plan.rows:
        yield from (path for path in outputs(work) if _shows_rows(work, path))


def _shows_rows(work: Work, path: Path) -> bool:
    """It holds more than a header; or something that nobody can read, which may be more."""
    if not is_filled(path):
        return False
    spec, delimiter = work.job.input, "\t" if path.suffix == ".tsv" else None
    is_copied = format_of(path) is work.table.format and work.table.delimited_by(delimiter)
    unread: list[BadRecord] = []
    try:
        table = open_table(
            [path],
            encoding=spec.encoding if is_copied else "utf-8",
            delimiter=spec.delimiter if is_copied and delimiter is None else None,
        )
        return next(table.rows(on_bad=unread.append), None) is not None or bool(unread)
    except InputError:
        return is_filled(path)

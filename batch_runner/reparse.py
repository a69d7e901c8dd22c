"""`batch-runner reparse`: columns from stored replies, after the schema or the columns changed."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from batch_runner.changes import (
    Changes,
    are_of_the_last_input,
    find_changes,
    keep_old_answers,
)
from batch_runner.errors import UsageError
from batch_runner.export import Exported, export
from batch_runner.outset import read_outset
from batch_runner.plan import UNSENDABLE
from batch_runner.reask import Reasking
from batch_runner.records import Completion, ErrorCode, Failure, RowStatus
from batch_runner.work import Work


def reparse(work: Work, path: Path) -> Exported:
    """`path` holds every row with columns derived anew from the reply it has; nothing is sent.

    A changed schema is part of the request, so its rows are found by their label, or else by what
    the last run planned for this very input, or by the position that they were answered at. Answers
    are judged by the schema of now: `json_invalid` ones that fit have become `ok`, and the other way
    round. Raises UsageError where positions cannot be trusted.
    """
    found = find_changes(work, work.plan, same_prompt=False, counts=_has_reply)
    is_by_position = found.rows and not work.builder.label_columns
    changes = _as_planned_before(work, found) if is_by_position else found
    if changes is None:
        raise UsageError(
            f"{work.job.origin}: rows ask for something else than their answers were given to, and the "
            "input has changed since they were: no row can be told from another",
            hint="set input.key to a column that names each row, if the job had it when it ran",
        )
    keep_old_answers(work.plan, changes)
    reasking = Reasking(
        schema=work.schema,
        on_invalid=work.job.json.on_invalid,
        on_incomplete=work.job.retry.on_incomplete,
    )
    return export(work, path, judge=partial(_judged, reasking))


def _has_reply(status: RowStatus, code: str | None) -> bool:
    return status is not RowStatus.FAILED or code == ErrorCode.JSON_INVALID


def _as_planned_before(work: Work, changes: Changes) -> Changes | None:
    """The changed rows with the answers that are theirs for sure; None where nobody can tell."""
    before, index = work.before, work.replay.index
    if before is None or before.input.get("files") != work.input_identity:
        return None
    outset, known = read_outset(before), work.shortcut.plan if work.shortcut else None
    is_of_this_input = outset is not None and outset.files == work.input_identity
    if outset is not None and is_of_this_input and known and known.made_of == outset.made_of:
        rows = {
            row: number
            for row, number in enumerate(known.plan.entries)
            if work.plan.wanted[row]
            and number != UNSENDABLE
            and (entry := index.entry(number)) is not None
            and _has_reply(entry.status, entry.code)
        }
        return replace(changes, rows=rows)
    return changes if are_of_the_last_input(work, changes) else None


def _judged(reasking: Reasking, ending: Completion | Failure) -> Completion | Failure:
    """How the row would have ended under the schema of now."""
    if isinstance(ending, Failure):
        if ending.code != ErrorCode.JSON_INVALID:
            return ending
        ending = Completion(text=ending.text)
    return reasking.judge(ending)

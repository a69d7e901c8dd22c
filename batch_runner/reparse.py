"""`batch-runner reparse`: columns from stored replies, after the schema or the columns changed."""

from functools import partial
from pathlib import Path

from batch_runner.changes import find_changes, keep_old_answers
from batch_runner.errors import UsageError
from batch_runner.export import Exported, export
from batch_runner.journal import Entry
from batch_runner.reask import Reasking
from batch_runner.records import Completion, ErrorCode, Failure, RowStatus
from batch_runner.work import Work


def reparse(work: Work, path: Path) -> Exported:
    """`path` holds every row with columns derived anew from the reply it has; nothing is sent.

    A changed schema is part of the request, so its rows are found by their label, or by their
    position where the input is as the last run saw it. Answers are judged by the schema of now:
    `json_invalid` ones that fit have become `ok`, and the other way round. Raises UsageError where
    positions cannot be trusted.
    """
    changes = find_changes(work, work.plan, same_prompt=False, counts=_has_reply)
    if changes.rows and not work.builder.label_columns and not _is_same_input(work):
        raise UsageError(
            f"{work.job.origin}: {len(changes.rows):,} rows ask for something else than their answers "
            "were given to, and the input has changed: no row can be told from another",
            hint="set input.key to a column that names each row, if the job had it when it ran",
        )
    keep_old_answers(work.plan, changes)
    reasking = Reasking(
        schema=work.schema,
        on_invalid=work.job.json.on_invalid,
        on_incomplete=work.job.retry.on_incomplete,
    )
    return export(work, path, judge=partial(_judged, reasking))


def _has_reply(entry: Entry) -> bool:
    return entry.status is not RowStatus.FAILED or entry.code == ErrorCode.JSON_INVALID


def _is_same_input(work: Work) -> bool:
    before = work.before
    return before is not None and before.input.get("files") == work.input_identity


def _judged(reasking: Reasking, ending: Completion | Failure) -> Completion | Failure:
    """How the row would have ended under the schema of now."""
    if isinstance(ending, Failure):
        if ending.code != ErrorCode.JSON_INVALID:
            return ending
        ending = Completion(text=ending.text)
    return reasking.judge(ending)

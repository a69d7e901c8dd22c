"""`batch-runner reparse`: columns from stored replies, after the schema or the columns changed."""

from functools import partial
from pathlib import Path

from batch_runner.changes import are_of_the_last_input, find_changes, keep_old_answers
from batch_runner.errors import UsageError
from batch_runner.export import Exported, export
from batch_runner.reask import Reasking
from batch_runner.records import Completion, ErrorCode, Failure, RowStatus
from batch_runner.work import Work


def reparse(work: Work, path: Path) -> Exported:
    """`path` holds every row with columns derived anew from the reply it has; nothing is sent.

    A changed schema is part of the request, so its rows are found as changed rows are. Answers are
    judged by the schema of now: `json_invalid` ones that fit have become `ok`, and the other way
    round. Raises UsageError where positions cannot be trusted.
    """
    changes = find_changes(work, work.plan, same_prompt=False, counts=_has_reply)
    if changes.by_position and not are_of_the_last_input(work, changes):
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


def _judged(reasking: Reasking, ending: Completion | Failure) -> Completion | Failure:
    """How the row would have ended under the schema of now."""
    if isinstance(ending, Failure):
        if ending.code != ErrorCode.JSON_INVALID:
            return ending
        ending = Completion(text=ending.text)
    return reasking.judge(ending)

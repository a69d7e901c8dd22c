"""Finds finished rows whose request is no longer what it was: they would be paid for again."""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from batch_runner.errors import ChangedRowsError
from batch_runner.journal import Entry, Index, Replay
from batch_runner.plan import UNSENDABLE, Plan
from batch_runner.prompt import PromptBuilder
from batch_runner.records import RowStatus
from batch_runner.tables import Table, ignore


MOST_CHANGED_SHARE = 0.2
"""Of the finished rows. More than that is more likely an accident than an edit."""

_ANSWERED = (RowStatus.OK, RowStatus.INCOMPLETE, RowStatus.REFUSED)


def _is_answered(entry: Entry) -> bool:
    return entry.status in _ANSWERED


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows to be sent that were answered before, in other words, and by which result."""

    finished: int
    """Answered rows in the journal, those that left the input too."""
    rows: Mapping[int, int] = field(default_factory=dict)
    """Row to the number of the entry that it had."""


def find_changes(
    plan: Plan,
    table: Table,
    builder: PromptBuilder,
    replay: Replay,
    *,
    same_prompt: bool,
    counts: Callable[[Entry], bool] = _is_answered,
) -> Changes:
    """The changed rows: known by their label, or without labels by their position.

    Without labels, an input none of whose rows is known and a prompt that is the same mean new
    data in the old place, as a nightly file is: nothing has changed then.
    """
    finished, orphans = _orphans(plan, replay.index, counts)
    reused = finished - len(orphans)
    labelled = bool(builder.label_columns)
    if not orphans or not plan.to_send or (same_prompt and not reused and not labelled):
        return Changes(finished=finished)
    before = _by_name(orphans, replay, labelled=labelled)
    return Changes(finished=finished, rows=_matched(plan, table, builder, before))


def check_changes(changes: Changes, *, origin: str, most_share: float) -> None:
    """Raise ChangedRowsError when more than `most_share` of the finished rows changed."""
    changed = len(changes.rows)
    if not changed or changed <= most_share * changes.finished:
        return
    raise ChangedRowsError(
        f"{origin}: {changed:,} of {changes.finished:,} finished rows would be sent and paid again: "
        "their prompt, parameters or text changed",
        hint="--on-change rerun sends them, --on-change keep keeps their old answers, "
        "and another output.path starts afresh beside them",
    )


def check_nothing_vanishes(changes: Changes, *, origin: str) -> None:
    """Raise ChangedRowsError when the output would lose many answers that it shows now."""
    changed = len(changes.rows)
    if changed > MOST_CHANGED_SHARE * changes.finished:
        raise ChangedRowsError(
            f"{origin}: the output would lose {changed:,} of {changes.finished:,} answers: "
            "prompt, parameters or text are no longer those that were answered",
            hint="undo the change, write elsewhere with -o, or run sends the changed rows",
        )


def keep_old_answers(plan: Plan, changes: Changes) -> None:
    """The changed rows are not sent; the output shows what they were answered before."""
    for row, entry in changes.rows.items():
        plan.entries[row] = entry
        plan.wanted[row] = 0


def _orphans(plan: Plan, index: Index, counts: Callable[[Entry], bool]) -> tuple[int, "array[int]"]:
    """How many keys have an answer, and the entries of those that no row asks for any more."""
    asked = bytearray(len(index))  # a set of numbers would cost 60 bytes a row
    for number in plan.entries:
        if number != UNSENDABLE:
            asked[number] = 1
    finished, orphans = 0, array("I")
    for number in range(len(index)):
        entry = index.entry(number)
        if entry is not None and counts(entry):
            finished += 1
            if not asked[number]:
                orphans.append(number)
    return finished, orphans


def _by_name(
    orphans: "array[int]", replay: Replay, *, labelled: bool
) -> Mapping[str | int | None, int]:
    """Label, or position at the time, to entry number."""
    names: dict[str | int | None, int] = {}
    for number in orphans:
        entry = replay.index.entry(number)
        result = None if entry is None else replay.load(entry)
        if result is not None:
            names[result.label if labelled else result.row] = number
    names.pop(None, None)  # answered before the job named its rows
    return names


def _matched(
    plan: Plan, table: Table, builder: PromptBuilder, before: Mapping[str | int | None, int]
) -> dict[int, int]:
    if not builder.label_columns:
        return {row: before[row] for row in range(plan.rows) if plan.wanted[row] and row in before}
    matched = {}
    for row in table.rows(columns=builder.label_columns, on_bad=ignore):
        if row.index < plan.rows and plan.wanted[row.index]:
            number = before.get(builder.label(row))
            if number is not None:
                matched[row.index] = number
    return matched

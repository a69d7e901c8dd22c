"""Finds finished rows whose request is no longer what it was: they would be paid for again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from batch_runner.errors import ChangedRowsError
from batch_runner.journal import Entry, Replay
from batch_runner.plan import Plan
from batch_runner.prompt import PromptBuilder
from batch_runner.records import RowStatus
from batch_runner.tables import Table


MOST_CHANGED_SHARE = 0.2
"""Of the finished rows. More than that is more likely an accident than an edit."""

_ANSWERED = (RowStatus.OK, RowStatus.INCOMPLETE, RowStatus.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows to be sent that were answered before, in other words, and by which result."""

    finished: int
    """Answered rows in the journal, those that left the input too."""
    rows: Mapping[int, Entry] = field(default_factory=dict)


def find_changes(
    plan: Plan, table: Table, builder: PromptBuilder, replay: Replay, *, same_prompt: bool
) -> Changes:
    """The changed rows: known by their label, or without labels by their position.

    Without labels, an input none of whose rows is known and a prompt that is the same mean new
    data in the old place, as a nightly file is: nothing has changed then.
    """
    index = replay.index
    present = set(plan.entries)
    finished = reused = 0
    orphans: list[Entry] = []
    for number in range(len(index)):
        entry = index.entry(number)
        if entry is None or entry.status not in _ANSWERED:
            continue
        finished += 1
        if number in present:
            reused += 1
        else:
            orphans.append(entry)
    labelled = builder.label_columns
    if not orphans or not plan.to_send or (same_prompt and not reused and not labelled):
        return Changes(finished=finished)
    before: dict[str | int, Entry] = {}
    for entry in orphans:
        if (result := replay.load(entry)) is not None:
            name = result.label if labelled else result.row
            if name is not None:
                before[name] = entry
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


def keep_old_answers(plan: Plan, changes: Changes) -> None:
    """The changed rows are not sent; the output shows what they were answered before."""
    for row, entry in changes.rows.items():
        plan.entries[row] = entry.number
        plan.wanted[row] = 0


def _matched(
    plan: Plan, table: Table, builder: PromptBuilder, before: Mapping[str | int, Entry]
) -> dict[int, Entry]:
    if not builder.label_columns:
        return {row: before[row] for row in range(plan.rows) if plan.wanted[row] and row in before}
    matched = {}
    for row in table.rows(columns=builder.label_columns, on_bad=lambda _: None):
        if row.index < plan.rows and plan.wanted[row.index]:
            entry = before.get(builder.label(row) or "")
            if entry is not None:
                matched[row.index] = entry
    return matched

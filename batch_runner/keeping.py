"""Changed rows that show the answers they had: `--on-change keep`, and until when it is remembered.

Whoever looks at the job afterwards (`export`, `status`, another run) must see the same. It holds for
the prompt and the parameters it was said of. Where rows have labels, it holds for the rows that there
were, and until one is edited; without labels, for that very input, because positions mean nothing in
another one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batch_runner.changes import (
    Changes,
    are_of_the_last_input,
    find_changes,
    keep_old_answers,
)
from batch_runner.errors import ChangedRowsError
from batch_runner.fingerprint import fingerprint
from batch_runner.journal import RunDirectory
from batch_runner.kept import KeptRows, digest_of_kept, read_kept
from batch_runner.plan import Plan, unfinished
from batch_runner.records import Request
from batch_runner.tables import ignore
from batch_runner.work import KEPT, Work


def keep_changed_rows(work: Work, *, said: bool | None) -> None:
    """The plan sends no changed row if that was `said`; None: if the last run was told so."""
    if said is False:
        return
    job = fingerprint(work.job)
    remembered = work.kept = _remembered(work)
    if work.kept is None and said:
        work.kept = {
            "fingerprint": job,
            "input": work.input_identity,
            "same_prompt": work.same_prompt,
        }
    if work.kept is None:
        return
    plan = replace(work.plan)
    plan.choose(work.replay.index, unfinished)  # the same rows, whoever asks
    changes = kept = find_changes(work, plan, same_prompt=work.kept["same_prompt"])
    among = ""
    if work.builder.label_columns:
        digests = _digests(work, plan, changes)
        directory = RunDirectory(work.job.run_path)
        known = read_kept(directory, fingerprint=job) if remembered else None
        if said or (known is None and digests):  # where the file was lost, it is made anew
            work.kept_rows = (known or KeptRows(fingerprint=job)).with_more(digests.values())
            work.kept_rows_are_new = True
            among = "" if said else ", any edited since among them"
        elif known is not None:
            work.kept_rows = known
            rows = {row: n for row, n in changes.rows.items() if digests[row] in known}
            kept = replace(changes, rows=rows)
    elif said and not remembered:
        _check_positions(work, kept)
    if kept.rows:
        keep_old_answers(work.plan, kept)
        work.plan_made_of = None  # of more than job and input, from here on
        work.kept_count = len(kept.rows)
        work.warnings.append(_note(work.kept_count, len(changes.rows) - work.kept_count, among))


def _check_positions(work: Work, kept: Changes) -> None:
    """Raise ChangedRowsError where a row would keep the answer of another one."""
    if kept.by_position and not are_of_the_last_input(work, kept):
        raise ChangedRowsError(
            f"{work.job.origin}: the input has changed since its first rows were answered, and without input.key "
            "no row can be told from another: --on-change keep could show another row's answer",
            hint="undo the change of the prompt, or --on-change rerun sends the rows; "
            "with input.key, later changes can be kept",
        )


def _note(kept: int, edited: int, among: str) -> str:
    rows = "1 changed row shows" if kept == 1 else f"{kept:,} changed rows show"
    again = "--on-change rerun asks again"
    if edited:
        among = f", those edited since ({edited:,}) are sent"
        again += " for all of them"
    return f"{rows} the answer of before (--on-change keep){among}; {again}"


def _remembered(work: Work) -> Mapping[str, Any] | None:
    mark = None if work.before is None else work.before.extra.get(KEPT)
    if mark is None or mark["fingerprint"] != fingerprint(work.job):
        return None
    is_same = bool(work.builder.label_columns) or mark["input"] == work.input_identity
    return mark if is_same else None


def _digests(work: Work, plan: Plan, changes: Changes) -> dict[int, int]:
    """By row: what a changed row asks for now, and which answer it had."""
    builder, index, rows = work.builder, work.replay.index, changes.rows
    asked = {row: index.key(plan.entries[row]) for row in rows}
    if any(plan.occurrences[row] for row in rows):  # their keys tell of the rows before them, too
        for row in work.table.rows(columns=builder.columns, on_bad=ignore):
            if row.index in rows and plan.occurrences[row.index]:
                request = builder.build(row)
                if isinstance(request, Request):
                    asked[row.index] = request.key
    return {
        row: digest_of_kept(request=asked[row], answer=index.key(number))
        for row, number in rows.items()
    }

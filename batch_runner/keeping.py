"""Changed rows that show the answers they had: `--on-change keep`, and until when it is remembered.

Whoever looks at the job afterwards (`export`, `status`, another run) must see the same. It holds for
the prompt and the parameters it was said of; where rows have no labels, for that very input too,
because their positions mean nothing in another one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batch_runner.changes import find_changes, keep_old_answers
from batch_runner.fingerprint import fingerprint
from batch_runner.plan import unfinished
from batch_runner.work import KEPT, Work


def keep_changed_rows(work: Work, *, said: bool | None) -> None:
    """The plan sends no changed row if that was `said`; None: if the last run was told so."""
    if said is False:
        return
    work.kept = _remembered(work)
    if work.kept is None and said:
        work.kept = {
            "fingerprint": fingerprint(work.job),
            "input": work.input_identity,
            "same_prompt": work.same_prompt,
        }
    if work.kept is None:
        return
    plan = replace(work.plan)
    plan.choose(work.replay.index, unfinished)  # the same rows, whoever asks
    changes = find_changes(work, plan, same_prompt=work.kept["same_prompt"])
    if changes.rows:
        keep_old_answers(work.plan, changes)
        work.plan_made_of = None  # of more than job and input, from here on
        rows = (
            "1 changed row shows"
            if len(changes.rows) == 1
            else f"{len(changes.rows):,} changed rows show"
        )
        work.warnings.append(
            f"{rows} the answer of before (--on-change keep); --on-change rerun asks again"
        )


def _remembered(work: Work) -> Mapping[str, Any] | None:
    mark = None if work.before is None else work.before.extra.get(KEPT)
    if mark is None or mark["fingerprint"] != fingerprint(work.job):
        return None
    is_same = bool(work.builder.label_columns) or mark["input"] == work.input_identity
    return mark if is_same else None

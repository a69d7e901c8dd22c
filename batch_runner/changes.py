"""Finds finished rows that would be paid for again: their request changed, or their answer is gone."""

from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from batch_runner.amounts import dollars_at_least, many
from batch_runner.errors import ChangedRowsError
from batch_runner.grown import is_same_or_grown
from batch_runner.job import JobSpec
from batch_runner.journal import Index, Replay, RunDirectory
from batch_runner.meta import answers_told, dollars_told
from batch_runner.plan import UNSENDABLE, Plan, Wanted
from batch_runner.price_list import LOCAL_MODEL
from batch_runner.prompt import PromptBuilder
from batch_runner.records import ANSWERED, RowStatus
from batch_runner.tables import Table, ignore
from batch_runner.work import DIGESTS, RERUN, SEEN_BY, Work


MOST_CHANGED_SHARE = 0.2
"""Of the finished rows of the input. More than that is more likely an accident than an edit."""

TO_PAY = "sent and paid for again"
TO_LOSE = "replaced by pending rows"

_ENDED = frozenset(RowStatus) - {RowStatus.PENDING}


def _is_answered(status: RowStatus, _code: str | None) -> bool:
    return status in ANSWERED


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows to be sent that were answered before, in other words, and by which result."""

    finished: int
    """Rows of the input that are answered, or were before they changed. What left it tells nothing."""
    rows: Mapping[int, int] = field(default_factory=dict)
    """Row to the number of the entry that it had."""
    by_position: Mapping[int, int] = field(default_factory=dict)
    """Those of them that only the position tells, at which the answer was given."""


def find_changes(
    work: Work,
    plan: Plan,
    *,
    same_prompt: bool,
    counts: Wanted = _is_answered,
) -> Changes:
    """The changed rows: known by what the last run planned, else by their label or position.

    The plan comes first: an answer bears the label of the row that was sent, which need not be the
    one that shows it, where equal rows have changed places or one was renamed.

    Without labels and with the prompt of before, the rows around tell the position: a window that
    moves on over growing data changes nothing, nor does new data in the old place, as a nightly
    file is.
    """
    replay, builder = work.replay, work.builder
    reused, orphans = _orphans(plan, replay.index, counts)
    labelled = bool(builder.label_columns)
    if not orphans or not plan.to_send:
        return Changes(finished=reused)
    rows = _as_planned_before(work, plan, orphans, counts)
    shown = frozenset(rows.values())
    unshown = (n for n in orphans if n not in shown)
    before = _by_name(unshown, replay, counts, labelled=labelled)
    by_position: dict[int, int] = {}
    if labelled:
        more = _matched_by_label(plan, work.table, builder, before)
    elif not same_prompt:
        wanted = (row for row in range(plan.rows) if plan.wanted[row] and row not in rows)
        more = by_position = {row: before[row] for row in wanted if row in before}
    elif reused:
        more = _matched_by_neighbours(plan, replay, before, counts)
    else:
        more = {}
    rows = more | rows
    return Changes(finished=reused + len(rows), rows=rows, by_position=by_position)


def changed_rows(work: Work) -> Collection[int]:
    """Those that a plain run sends."""
    return changes_to_send(work, work.plan).rows


def changes_to_send(work: Work, plan: Plan) -> Changes:
    """The changed rows but for those that keep their old answers: without labels, all of them do."""
    if work.kept is not None and not work.builder.label_columns:
        return Changes(finished=0)
    return find_changes(work, plan, same_prompt=work.same_prompt)


def are_of_the_last_input(work: Work, changes: Changes) -> bool:
    """The positions that tell these answers are those of now: of the last input that a run saw, at most grown.

    The manifest knows that one alone: a row that is put in moves all behind it, sent or not.
    """
    seen = {} if work.before is None else work.before.input
    if not is_same_or_grown(seen.get("files", ()), seen.get(DIGESTS, ()), work.input_identity):
        return False
    seen_by = seen.get(SEEN_BY)
    if seen_by is None and len(work.replay.runs) == 1:  # of an earlier batch_runner
        return True
    entries = map(work.replay.index.entry, changes.by_position.values())
    answers = (work.replay.load(entry) for entry in entries if entry is not None)
    return all(one is None or one.run_id in (seen_by or ()) for one in answers)


def was_agreed(work: Work) -> bool:
    """Whether the last run was told to pay again for what has changed, and nothing has changed since.

    New files are no change: nothing of them has been paid for. An edit is one that nobody agreed to.
    """
    before = work.before
    if before is None or not before.extra.get(RERUN) or not work.same_prompt:
        return False
    return all(file in work.input_identity for file in before.input.get("files", ()))


def check_changes(changes: Changes, *, origin: str, most_share: float, kept: int = 0) -> None:
    """Raise ChangedRowsError when more than `most_share` of the finished rows changed.

    `kept` rows changed before, and show their old answers.
    """
    changed = len(changes.rows)
    if not changed or changed <= most_share * changes.finished:
        return
    too = f" and the {many(kept, 'row')} kept so far" if kept else ""
    raise ChangedRowsError(
        f"{origin}: {changed:,} of {changes.finished:,} finished rows would be sent and paid again: "
        "their prompt, parameters or text changed",
        hint=f"--on-change rerun sends them{too}, --on-change keep keeps their old answers, "
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


def check_journal_is_there(job: JobSpec, index: Index, *, about_to: str) -> None:
    """Raise ChangedRowsError when the output shows many answers that the journal has no more.

    `about_to` says what would happen to them. What the output shows is for its meta file to tell.
    """
    told, run_id = answers_told(job.output_path)
    held = sum(n for (status, _), n in index.endings(range(len(index))).items() if status in _ENDED)
    if held >= (1 - MOST_CHANGED_SHARE) * told or not job.output_path.exists():
        return
    directory = RunDirectory(job.run_path)
    if about_to == TO_PAY and _put_aside_since(directory, run_id):
        return  # `--fresh` meant it, and was broken off
    paid = dollars_told(job.output_path)
    cost = f" that cost {dollars_at_least(paid)}" if paid else ""
    raise ChangedRowsError(
        f"{job.origin}: {str(job.output_path)!r} shows at least {many(told, 'answer')}{cost}, and the journal "
        f"beside it holds {many(held, 'result')}: they would be {about_to}",
        hint=f"put {str(directory.segments)!r} back; --fresh sends and pays for every row, "
        "and another output.path, or -o, leaves this one alone",
    )


def journal_gone(job: JobSpec, index: Index) -> str:
    """In words, that a run would refuse for an output without its journal, and the ways out."""
    try:
        check_journal_is_there(job, index, about_to=TO_PAY)
    except ChangedRowsError as error:
        return refused(error)
    return ""


def refused(error: ChangedRowsError) -> str:
    """What those are told who only look."""
    return f"a run would refuse to start: {error}; {error.hint}"


def were_for_nothing(work: Work) -> bool:
    """Whether all answers are of the small local model: to ask another one pays for none again."""
    asked = {run.settings.get("model") for run in work.replay.runs}
    return asked == {LOCAL_MODEL} and work.job.model != LOCAL_MODEL


def other_model(work: Work) -> str:
    """A note where nearly all answers in the journal are of another model than the job's, or none."""
    job, plan, index = work.job, work.plan, work.replay.index
    asked = [run.settings["model"] for run in work.replay.runs if "model" in run.settings]
    if not asked or asked[-1] == job.model:
        return ""
    held = _answers(index, range(len(index)))
    shown = _answers(index, (number for number in plan.entries if number != UNSENDABLE))
    if shown > MOST_CHANGED_SHARE * held or not held:
        return ""
    local = ": add --local" if asked[-1] == LOCAL_MODEL else ""
    return f"the answers in the journal are of {asked[-1]}; the job asks {job.model}{local}"


def _answers(index: Index, numbers: Iterable[int]) -> int:
    return sum(n for (status, _), n in index.endings(numbers).items() if status in ANSWERED)


def _put_aside_since(directory: RunDirectory, run_id: str) -> bool:
    """A later run has put its journal aside; ids of runs sort by time."""
    return any(later > run_id for later in directory.put_aside_by())


def keep_old_answers(plan: Plan, changes: Changes) -> None:
    """The changed rows are not sent; the output shows what they were answered before."""
    copied = {plan.entries[row]: entry for row, entry in changes.rows.items()}
    for row, entry in changes.rows.items():
        plan.entries[row] = entry
        plan.wanted[row] = 0
    if plan.dedupe:  # those that ask for the same share the answer, the old one too
        for row, entry in enumerate(plan.entries):
            plan.entries[row] = copied.get(entry, entry)


def _orphans(plan: Plan, index: Index, counts: Wanted) -> tuple[int, "array[int]"]:
    """How many answers some row asks for, and the entries that ended and that none asks for any more."""
    asked = bytearray(len(index))  # a set of numbers would cost 60 bytes a row
    for number in plan.entries:
        if number != UNSENDABLE:
            asked[number] = 1
    ended = [status is not RowStatus.PENDING for status, _ in index.known_endings]
    counting = [ended[n] and counts(*ending) for n, ending in enumerate(index.known_endings)]
    numbers, ending_of = range(len(index)), index.ending_of
    reused = sum(asked[n] and counting[ending_of(n)] for n in numbers)
    return reused, array("I", (n for n in numbers if not asked[n] and ended[ending_of(n)]))


def _as_planned_before(
    work: Work, plan: Plan, orphans: "array[int]", counts: Wanted
) -> dict[int, int]:
    """The wanted rows whose answers the last plan tells: of the same input, or else by their label."""
    known = None if work.shortcut is None else work.shortcut.plan
    if known is None:
        return {}
    index, then = work.replay.index, known.plan
    if known.files == work.input_identity and then.rows == plan.rows:
        wanted = ((row, n) for row, n in enumerate(then.entries) if plan.wanted[row])
        return {
            row: number
            for row, number in wanted
            if number not in (UNSENDABLE, plan.entries[row])
            and (entry := index.entry(number)) is not None
            and counts(entry.status, entry.code)
        }
    if len(then.labels) != then.rows or len(plan.labels) != plan.rows:
        return {}
    left = bytearray(len(index))
    for number in orphans:  # the answer that another row shows now has not been lost
        left[number] = counts(*index.named(index.ending_of(number)))
    named = {
        label: number
        for label, number in zip(then.labels, then.entries, strict=True)
        if number != UNSENDABLE and left[number]
    }
    wanted = ((row, label) for row, label in enumerate(plan.labels) if plan.wanted[row])
    return {row: named[label] for row, label in wanted if label in named}


def _by_name(
    orphans: Iterable[int], replay: Replay, counts: Wanted, *, labelled: bool
) -> Mapping[str | int | None, int]:
    """Label, or position at the time, to the entry number of its latest result, if that is an answer.

    One from before is an answer to a text that the row no longer had when it failed.
    """
    names: dict[str | int | None, int] = {}

    def place(number: int) -> tuple[int, int]:
        entry = replay.index.entry(number)
        return (entry.file, entry.offset) if entry is not None else (-1, -1)

    for number in orphans:
        entry = replay.index.entry(number)
        result = None if entry is None else replay.load(entry)
        if result is not None:
            name = result.label if labelled else result.row
            # Numbers tell when a row was first planned, and without a shortcut not even that.
            if name not in names or place(names[name]) < place(number):
                names[name] = number
    names.pop(None, None)  # answered before the job named its rows
    index = replay.index
    return {name: n for name, n in names.items() if counts(*index.named(index.ending_of(n)))}


def _matched_by_label(
    plan: Plan, table: Table, builder: PromptBuilder, before: Mapping[str | int | None, int]
) -> dict[int, int]:
    matched = {}
    for row in table.rows(columns=builder.label_columns, on_bad=ignore):
        if row.index < plan.rows and plan.wanted[row.index]:
            number = before.get(builder.label(row))
            if number is not None:
                matched[row.index] = number
    return matched


def _matched_by_neighbours(
    plan: Plan,
    replay: Replay,
    before: Mapping[str | int | None, int],
    counts: Wanted,
) -> dict[int, int]:
    """A row stood as far from the answered rows next to it as it stands now."""

    def is_answered(row: int) -> bool:
        entry = replay.index.entry(plan.entries[row]) if plan.has_request(row) else None
        return entry is not None and counts(entry.status, entry.code) and not plan.is_copy(row)

    @cache
    def moved(row: int) -> int | None:
        """How far an answered row has moved since it was answered."""
        entry = replay.index.entry(plan.entries[row])
        result = None if entry is None else replay.load(entry)
        return None if result is None else row - result.row

    matched: dict[int, int] = {}
    for rows in (range(plan.rows), range(plan.rows - 1, -1, -1)):
        anchor = None
        for row in rows:
            if not plan.wanted[row]:
                anchor = row if is_answered(row) else anchor
            elif anchor is not None and row not in matched and (by := moved(anchor)) is not None:
                number = before.get(row - by)
                if number is not None:
                    matched[row] = number
    return matched

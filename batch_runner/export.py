"""Input and journal become the output file: a pure function of both, possible at any time."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from batch_runner import stored
from batch_runner.amounts import many
from batch_runner.atomic import publish
from batch_runner.batch_answers import is_batch, write_answers
from batch_runner.columns import Ending
from batch_runner.disk import identity_of
from batch_runner.job import FormulaPolicy
from batch_runner.journal import RunDirectory, ending_of
from batch_runner.kept import digest_of_kept
from batch_runner.plan import UNSENDABLE
from batch_runner.prompt import row_key
from batch_runner.records import Completion, Failure, Row, RowStatus
from batch_runner.shortcut import forget_shortcut
from batch_runner.tables import compressed, format_of, ignore
from batch_runner.tally import Examples
from batch_runner.work import Work


@dataclass(slots=True, kw_only=True)
class Exported:
    """What the output file holds."""

    statuses: Counter[RowStatus] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    examples: Examples = field(default_factory=Examples)
    reused: int = 0
    """Answered rows that an earlier run had finished."""
    formula_cells: int = 0
    unencodable_rows: int = 0
    input_changed: bool = False
    """Somebody wrote to the input since the plan was made: its rows may be others."""
    damaged: int = 0
    """Rows whose stored result no longer passes its checksum; they are pending again."""


Judge = Callable[[Completion | Failure], Completion | Failure]


def export(
    work: Work,
    path: Path,
    *,
    partial: bool = False,
    judge: Judge | None = None,
) -> Exported:
    """`path` holds every input row with its new cells; it appears only when whole.

    `partial` leaves out rows that are not finished; `judge` may see an ending in a new light. Raises
    StorageError when it cannot be written.
    """
    exported = Exported(input_changed=identity_of(work.table.paths) != work.input_identity)
    as_batch = is_batch(work.table, path)
    with_reply = as_batch or judge is not None or work.columns.of_replies

    def shown(row: Row) -> Ending | None:
        if row.index >= work.plan.rows:
            return None  # appended since the plan was made: a row of the next run
        ending = _ending(work, row, exported, judge=judge, with_reply=with_reply)
        if partial and ending.status is RowStatus.PENDING:
            return None
        exported.statuses[ending.status] += 1
        if ending.code:
            exported.codes[str(ending.code)] += 1
            label = ending.told.get("label")
            if not work.plan.has_request(row.index):
                label = work.builder.place(row)
            exported.examples.add(ending.code, ending.message, row=row.index, label=label)
        return ending

    if as_batch:
        write_answers(work, path, shown)
    else:
        with publish(path) as file, compressed(file, path) as target:
            report = work.table.write_back(
                target,
                format=format_of(path),
                columns=work.columns.columns,
                answer=shown,
                cells=work.columns.cells,
                escape_formulas=work.job.output.csv_formulas is FormulaPolicy.ESCAPE,
                delimiter="\t" if path.suffix == ".tsv" else None,
            )
        exported.formula_cells = report.formula_cells
        exported.unencodable_rows = report.unencodable_rows
    if exported.damaged:  # what is believed would hide it from the next run
        forget_shortcut(RunDirectory(work.job.run_path))
    return exported


def notes_on(exported: Exported, work: Work) -> Iterator[str]:
    """What readers of the output should know of its cells."""
    if exported.damaged:
        were = "was" if exported.damaged == 1 else "were"
        yield (
            f"{many(exported.damaged, 'answer')} {were} damaged on the disk since the journal was last "
            f"read: the next run asks again for what is marked {RowStatus.PENDING}"
        )
    if exported.formula_cells and work.job.output.csv_formulas is FormulaPolicy.KEEP:
        yield (
            f"{many(exported.formula_cells, 'cell')} may be taken for a spreadsheet formula; "
            'csv_formulas = "escape" under [output] defuses such cells'
        )
    if exported.unencodable_rows:
        yield (
            f"{many(exported.unencodable_rows, 'answer')} with characters that "
            f"{work.job.input.encoding} cannot hold: written as escapes such as \\u2019; "
            "an output that ends in .jsonl keeps them"
        )


def endings(work: Work) -> Iterator[tuple[Row, Ending]]:
    """Every row of the input, in its order, and how it stands."""
    exported = Exported()
    for row in work.table.rows(on_bad=ignore):
        if row.index < work.plan.rows:  # more may have been appended since the plan was made
            yield row, _ending(work, row, exported)


def _ending(
    work: Work,
    row: Row,
    exported: Exported,
    *,
    judge: Judge | None = None,
    with_reply: bool = True,
) -> Ending:
    """How the row stands; what is unusual about it is counted in `exported`."""
    plan = work.plan
    number = plan.entries[row.index]
    if number == UNSENDABLE:
        return _unsendable(work, row)
    entry = work.replay.index.entry(number)
    told = None if entry is None else work.replay.told_of_all(entry, with_reply=with_reply)
    if exported.input_changed and not _is_as_planned(work, row):
        entry = None
    if entry is None or told is None:
        exported.damaged += entry is not None
        return Ending(status=RowStatus.PENDING, source=row.source)
    status, code, message = entry.status, entry.code, told.get("message")
    text = stored.text(told, status)
    if judge is not None:
        judged = judge(ending_of(told))
        status, code, message, text = judged.status, judged.code, judged.message, judged.text
    if entry.file < work.replay.earlier_segments and status is not RowStatus.FAILED:
        exported.reused += 1
    if plan.is_copy(row.index):
        told = stored.of_a_copy(told)
    return Ending(
        status=status,
        code=code,
        message=message,
        text=text,
        told=told,
        cost=work.biller.cost(told),
        source=row.source,
        answer=work.schema.value(text) if work.schema is not None else None,
        size=entry.length,
    )


def _is_as_planned(work: Work, row: Row) -> bool:
    """Whether the row still asks for what was planned; an answer to another text is no answer."""
    if work.kept is not None and work.kept_rows is None:
        return True
    request = work.builder.build(row)
    if isinstance(request, Failure):
        return False
    shown = work.replay.index.key(work.plan.entries[row.index])
    if shown == row_key(request.key, 0 if work.plan.dedupe else work.plan.occurrences[row.index]):
        return True
    if work.kept_rows is None:
        return False
    return digest_of_kept(request=request.key, answer=shown) in work.kept_rows


def _unsendable(work: Work, row: Row) -> Ending:
    failure = work.builder.build(row)
    if not isinstance(failure, Failure):  # it has been mended since the plan was made
        return Ending(status=RowStatus.PENDING, source=row.source)
    return Ending(
        status=failure.status, code=failure.code, message=failure.message, source=row.source
    )

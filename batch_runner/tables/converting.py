"""Rows of one format written as another."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, BinaryIO

from batch_runner.errors import InputError
from batch_runner.records import Column, ColumnKind, Row
from batch_runner.tables.arrow import ParquetSink
from batch_runner.tables.cells import CellWriter, json_text, plain_text
from batch_runner.tables.chunks import Answer, Cells, by_row, in_chunks, size_of
from batch_runner.tables.formats import Format, WriteReport


def convert(
    rows: Callable[[], Iterator[Row]],
    header: tuple[str, ...] | None,
    target: BinaryIO,
    *,
    format: Format,  # noqa: A002  the word that users know
    columns: Sequence[Column],
    answer: Answer,
    cells: Cells,
    escape_formulas: bool,
    delimiter: str,
) -> WriteReport:
    """`target` holds the answered rows in `format`: see `Table.write_back`.

    `rows` is called once to look for columns if there is no header, and once to write.
    """
    chunks = in_chunks(_answered(rows(), answer, columns), cells)
    match format:
        case Format.JSONL:
            return WriteReport(rows=_write_jsonl(target, chunks, columns))
        case Format.CSV:
            names = header or tuple(_kinds(rows()))
            writer = CellWriter(
                columns, delimiter=delimiter, encoding="utf-8", escape_formulas=escape_formulas
            )
            written = _write_csv(target, chunks, columns, names=names, writer=writer)
            return WriteReport(
                rows=written,
                formula_cells=writer.formula_cells,
                unencodable_rows=writer.unencodable_rows,
            )
        case Format.PARQUET:
            kinds = dict.fromkeys(header, ColumnKind.TEXT) if header else _kinds(rows())
            return WriteReport(rows=_write_parquet(target, chunks, columns, kinds=kinds))
        case Format.OPENAI_BATCH:
            raise InputError(
                "output.path: a table cannot be written as an openai-batch file",
                hint="use a .csv, .jsonl or .parquet path",
            )


_Chunks = Iterator[tuple[list[Row], Sequence[Sequence[Any]]]]
"""Rows that have an answer, and their new cells."""


def _answered(
    rows: Iterator[Row], answer: Answer, columns: Sequence[Column]
) -> Iterator[tuple[Row, int, Any]]:
    names = {column.name for column in columns}
    for row in rows:
        told = answer(row)
        if told is not None:
            check_late_names(row, names)
            yield row, size_of(row.values), told


def check_late_names(row: Row, new: set[str]) -> None:
    """Raise an InputError if the row has a key that a new column is to have."""
    if not new.isdisjoint(row.values):
        taken = sorted(new & set(row.values))
        raise InputError(
            f"{row.place}: has a key {taken[0]!r} already, as the output would",
            hint="set output.prefix, and export again: nothing is lost",
        )


def _kinds(rows: Iterable[Row]) -> dict[str, ColumnKind]:
    """Every key, first seen first, with the one kind that holds all of its values."""
    seen: dict[str, set[_Seen]] = {}
    for row in rows:
        for name, value in row.values.items():
            seen.setdefault(name, set()).update(_seen(value))
    return {name: _kind(values) for name, values in seen.items()}


class _Seen(StrEnum):
    """What decides about the type of a column."""

    TEXT = "text"
    BOOLEAN = "boolean"
    FLOAT = "float"
    INTEGER = "integer"
    """One that a float64 holds, too."""
    LONG = "long"
    """One that only an int64 holds."""
    OTHER = "other"


def _seen(value: Any) -> tuple[_Seen, ...]:
    match value:
        case None:
            return ()
        case str():
            return (_Seen.TEXT,)
        case bool():
            return (_Seen.BOOLEAN,)
        case float():
            return (_Seen.FLOAT,)
        case int() if abs(value) <= 2**53:
            return (_Seen.INTEGER,)
        case int() if -(2**63) <= value < 2**63:
            return (_Seen.LONG,)
        case _:
            return (_Seen.OTHER,)


def _kind(seen: set[_Seen]) -> ColumnKind:
    """Where values disagree: JSON text. Always null: text, since a null type takes no value later."""
    for kind, holds in (
        (ColumnKind.TEXT, {_Seen.TEXT}),
        (ColumnKind.BOOLEAN, {_Seen.BOOLEAN}),
        (ColumnKind.INTEGER, {_Seen.INTEGER, _Seen.LONG}),
        (ColumnKind.NUMBER, {_Seen.INTEGER, _Seen.FLOAT}),
    ):
        if seen <= holds:
            return kind
    return ColumnKind.JSON


def _write_csv(
    target: BinaryIO,
    chunks: _Chunks,
    columns: Sequence[Column],
    *,
    names: Sequence[str],
    writer: CellWriter,
) -> int:
    header = [*names, *(column.name for column in columns)]
    target.write(writer.encoded(writer.lines([[name] for name in header])[0] + "\n"))
    written = 0
    for rows, new in chunks:
        own = [[plain_text(row.values.get(name)) for row in rows] for name in names]
        lines = writer.lines(own + writer.texts(new))
        # An empty line would be no row.
        target.writelines(writer.encoded((line or '""') + "\n") for line in lines)
        written += len(rows)
    return written


def _write_jsonl(target: BinaryIO, chunks: _Chunks, columns: Sequence[Column]) -> int:
    names = [column.name for column in columns]
    written = 0
    for rows, new in chunks:
        for row, cells in zip(rows, by_row(new, rows), strict=True):
            record = dict(row.values) | dict(zip(names, cells, strict=True))
            target.write(json_text(record).encode() + b"\n")
        written += len(rows)
    return written


def _write_parquet(
    target: BinaryIO,
    chunks: _Chunks,
    columns: Sequence[Column],
    *,
    kinds: Mapping[str, ColumnKind],
) -> int:
    own = [Column(name=name, kind=kind) for name, kind in kinds.items()]
    written = 0
    with ParquetSink(target, [*own, *columns]) as sink:
        for rows, new in chunks:
            sink.add([*([row.values.get(name) for row in rows] for name in kinds), *new])
            written += len(rows)
    return written

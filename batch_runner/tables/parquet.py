"""Parquet through pyarrow: the columns in use are read, types and metadata are kept."""

# ruff: noqa: PLC0415  a CSV or JSONL run imports no pyarrow

import datetime as dt
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Column, Row
from batch_runner.tables.arrow import (
    BATCH_BYTES,
    BATCH_ROWS,
    Gathered,
    arrow_type,
    int64_column,
)
from batch_runner.tables.chunks import Answer, Cells, in_chunks
from batch_runner.tables.files import reading
from batch_runner.tables.formats import Format, WriteReport, refuse
from batch_runner.tables.table import Table


ROWS_AT_ONCE = 500
"""How many rows are Python objects at a time while reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetTable(Table):
    """Parquet files with the same schema."""

    format: ClassVar[Format] = Format.PARQUET
    header: tuple[str, ...]
    schema: Any
    """The `pa.Schema` of the first file, with its metadata."""

    @property
    def shape(self) -> Hashable:
        return self.format, tuple(map(str, self.schema))

    def rows(
        self,
        *,
        columns: Collection[str] | None = None,
        on_bad: Callable[[BadRecord], None] = refuse,  # noqa: ARG002  every record is a row
    ) -> Iterator[Row]:
        names = [name for name in self.header if columns is None or name in columns]
        index = 0
        for path in self.paths:
            source, line = str(path), 0
            with _opened(path) as file:
                for batch in _batches(path, file, batch_size=ROWS_AT_ONCE, columns=names):
                    cells = [_python_values(batch.column(name)) for name in names]
                    records = zip(*cells) if names else repeat((), batch.num_rows)  # noqa: B905  one batch, one length
                    for record in records:
                        line += 1
                        values = dict(zip(names, record, strict=True))
                        yield Row(index=index, values=values, source=source, line=line)
                        index += 1

    def copy_rows(
        self,
        target: BinaryIO,
        *,
        columns: Sequence[Column],
        answer: Answer,
        cells: Cells,
        escape_formulas: bool = False,  # noqa: ARG002  nothing here is run by a spreadsheet
    ) -> WriteReport:
        import pyarrow as pa
        import pyarrow.parquet as pq

        added = [pa.field(column.name, arrow_type(column.kind)) for column in columns]
        schema = pa.schema([*self.schema, *added], metadata=self.schema.metadata)
        codecs = _codecs(self.paths[0], [column.name for column in columns])
        written = 0
        with pq.ParquetWriter(target, schema, compression=codecs) as writer:
            for rows, batch in self._rows_in_batches():
                for kept, gathered in _answered(rows, answer, cells, columns):
                    own = batch.take(int64_column(kept)) if len(kept) < len(batch) else batch
                    arrays = [*own.columns, *gathered]
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                    written += len(kept)
        return WriteReport(rows=written)

    def _rows_in_batches(self) -> Iterator[tuple[Iterator[Row], Any]]:
        """Row groups, in parts where one is large. Cells become Python objects when looked at."""
        index = 0
        for path in self.paths:
            line = 0
            with _opened(path) as file:
                for batch in _batches_by_group(path, file):
                    yield _lazy_rows(batch, index=index, source=str(path), line=line + 1), batch
                    index += batch.num_rows
                    line += batch.num_rows


def _answered(
    rows: Iterator[Row], answer: Answer, cells: Cells, columns: Sequence[Column]
) -> Iterator[tuple[list[int], list[Any]]]:
    """Positions of answered rows with their new cells as Arrow columns, in parts of bounded size."""
    gathered = Gathered(columns)
    kept: list[int] = []
    told = ((at, 0, told) for at, row in enumerate(rows) if (told := answer(row)) is not None)
    for positions, new in in_chunks(told, cells):
        kept += positions
        gathered.add(new)
        if gathered.full:
            yield kept, gathered.taken()
            kept = []
    if kept:
        yield kept, gathered.taken()


def open_parquet(paths: tuple[Path, ...]) -> ParquetTable:
    """The table, once all schemas have been read and agree."""
    schemas = []
    for path in paths:
        with _opened(path) as file:
            schemas.append(file.schema_arrow)
    first = schemas[0]
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(first):
            raise InputError(
                f"{path}: its schema differs from that of {paths[0]}: {_difference(first, schema)}"
            )
    twice = [name for name in first.names if first.names.count(name) > 1]
    if twice:
        raise InputError(f"{paths[0]}: column name {twice[0]!r} stands there more than once")
    return ParquetTable(paths=paths, header=tuple(first.names), schema=first)


def _difference(first: Any, other: Any) -> str:
    ours, theirs = [[str(field) for field in schema] for schema in (first, other)]
    lacks = [field for field in ours if field not in theirs]
    adds = [field for field in theirs if field not in ours]
    return f"lacks {lacks}, adds {adds}" if lacks or adds else "another order of columns"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(path):
            # pre_buffer would hold whole column chunks, twice over; a buffer streams them.
            file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, ValueError) as error:  # ValueError: names that are no UTF-8
        raise InputError(
            f"{path}: not a whole Parquet file ({error})",
            hint="Parquet compresses inside: gunzip a .parquet.gz, and copy a cut one again",
        ) from error
    with file:
        yield file


def _batches(path: Path, file: Any, **options: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        with reading(path):
            yield from file.iter_batches(**options)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path}: damaged, or beyond this pyarrow ({error})") from error


def _batches_by_group(path: Path, file: Any) -> Iterator[Any]:
    """One batch a row group; a large group in parts of about `BATCH_BYTES`."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows:
            by_size = group.num_rows * BATCH_BYTES // max(group.total_byte_size, 1)
            size = max(1, min(group.num_rows, by_size, BATCH_ROWS))
            yield from _batches(path, file, batch_size=size, row_groups=[number])


def _codecs(path: Path, added: list[str]) -> str | dict[str, str]:
    """The compression of every column of a file, for the added ones that of the first column."""
    with _opened(path) as file:
        if not file.num_row_groups:
            return "snappy"
        group = file.metadata.row_group(0)
        chunks = [group.column(at) for at in range(group.num_columns)]
    names = {"UNCOMPRESSED": "NONE"}
    codecs = {c.path_in_schema: names.get(c.compression, c.compression) for c in chunks}
    return codecs | dict.fromkeys(added, next(iter(codecs.values()), "snappy"))


def _lazy_rows(batch: Any, *, index: int, source: str, line: int) -> Iterator[Row]:
    cells = _Cells(batch)
    for at in range(batch.num_rows):
        yield Row(index=index + at, values=_LazyValues(cells, at), source=source, line=line + at)


class _Cells:
    """Columns of a batch as Python lists, each made when first looked at."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._lists: dict[str, list[Any]] = {}
        self.names = tuple(batch.schema.names)

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._lists:
            if name not in self.names:
                raise KeyError(name)
            self._lists[name] = _python_values(self._batch.column(name))
        return self._lists[name]


class _LazyValues(Mapping[str, Any]):
    """One row of a batch. Whoever wants only its position pays for no conversion."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: _Cells, at: int) -> None:
        self._cells = cells
        self._at = at

    def __getitem__(self, name: str) -> Any:
        return self._cells[name][self._at]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells.names)

    def __len__(self) -> int:
        return len(self._cells.names)


def _python_values(column: Any) -> list[Any]:
    """The values as plain Python objects: times to the microsecond, maps as dicts.

    A value that Python cannot hold, such as the year 20000, is text, but its neighbours are not:
    a row must read the same however rows are batched, or its request would be another one.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    try:
        return _plain(column, kind)
    except (ValueError, OverflowError):
        if len(column) > 1:
            singles = [column.slice(at, 1) for at in range(len(column))]
            return [value for single in singles for value in _python_values(single)]
    try:
        return list(column.cast(pa.string()).to_pylist())
    except pa.ArrowNotImplementedError:  # nested
        return [column.to_string()]


def _plain(column: Any, kind: Any) -> list[Any]:
    import pyarrow as pa

    target = _in_microseconds(kind)
    if target != kind:  # as nanoseconds they would become pandas objects
        column = column.cast(target, safe=False)
    if pa.types.is_timestamp(kind) and kind.tz:  # pyarrow asks pandas about zones
        zone = pa.lib.string_to_tzinfo(kind.tz)
        moments = column.cast(pa.timestamp("us")).to_pylist()
        return [m and m.replace(tzinfo=dt.UTC).astimezone(zone) for m in moments]
    if pa.types.is_map(kind):
        return [pairs if pairs is None else dict(pairs) for pairs in column.to_pylist()]
    return list(column.to_pylist())


def _in_microseconds(kind: Any) -> Any:
    """The type with microseconds in place of nanoseconds, at any depth."""
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", tz=kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_struct(kind):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_in_microseconds(kind.value_type)))
    if types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(_in_microseconds(kind.item_type)))
    return kind

"""Python values as Arrow columns, and as a Parquet file.

Columns are laid out by hand, because `pa.array(list)` imports pandas wherever it is installed
(1.5 s of CPU). pyarrow itself is imported inside functions: a CSV run needs none of it.
"""

# ruff: noqa: PLC0415  see above

import datetime as dt
from array import array
from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, BinaryIO, Self

from batch_runner.records import Column, ColumnKind
from batch_runner.tables.cells import json_text
from batch_runner.tables.chunks import size_of


BATCH_ROWS = 1 << 16
BATCH_BYTES = 64 << 20
"""Rows are written when so many, or so much text, have come together."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_TYPE_CODES = {ColumnKind.INTEGER: "q", ColumnKind.COUNT: "i", ColumnKind.NUMBER: "d"}


def arrow_type(kind: ColumnKind) -> Any:
    import pyarrow as pa

    return {
        ColumnKind.TEXT: pa.string(),
        ColumnKind.JSON: pa.string(),
        ColumnKind.INTEGER: pa.int64(),
        ColumnKind.COUNT: pa.int32(),
        ColumnKind.NUMBER: pa.float64(),
        ColumnKind.BOOLEAN: pa.bool_(),
        ColumnKind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }[kind]


def arrow_column(kind: ColumnKind, values: Sequence[Any]) -> Any:
    """A `pa.Array` of the values; None is null."""
    import pyarrow as pa

    valid = None if None not in values else _bits([value is not None for value in values])
    match kind:
        case ColumnKind.TEXT | ColumnKind.JSON:
            to_text = str if kind is ColumnKind.TEXT else json_text
            texts = [
                b"" if value is None else to_text(value).encode("utf-8", "backslashreplace")
                for value in values
            ]
            offsets = array("i", [0, *accumulate(map(len, texts))])
            data = [pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
        case ColumnKind.BOOLEAN:
            data = [_bits([bool(value) for value in values])]
        case ColumnKind.TIMESTAMP:
            micros = [0 if value is None else (value - _EPOCH) // _MICROSECOND for value in values]
            data = [pa.py_buffer(array("q", micros))]
        case ColumnKind.INTEGER | ColumnKind.COUNT | ColumnKind.NUMBER:
            numbers = [0 if value is None else value for value in values]
            data = [pa.py_buffer(array(_TYPE_CODES[kind], numbers))]
    return pa.Array.from_buffers(arrow_type(kind), len(values), [valid, *data])


def int64_column(values: Sequence[int]) -> Any:
    return arrow_column(ColumnKind.INTEGER, values)


def _bits(flags: list[bool]) -> Any:
    """A bitmap as Arrow has it: the first flag is the lowest bit."""
    import pyarrow as pa

    digits = "".join("1" if flag else "0" for flag in reversed(flags))
    return pa.py_buffer(int(digits or "0", 2).to_bytes(len(flags) // 8 + 1, "little"))


class Gathered:
    """Cells on their way into a batch, a list for each column."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self._cells: list[list[Any]] = [[] for _ in columns]
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._cells[0]) if self._cells else 0

    def add(self, columns: Sequence[Sequence[Any]]) -> None:
        """The cells of some rows more."""
        for column, cells, more in zip(self.columns, self._cells, columns, strict=True):
            cells.extend(more)
            if column.kind is ColumnKind.JSON:
                self._bytes += size_of(more)
            else:  # looking into each value takes twice as long
                self._bytes += sum(len(cell) for cell in more if isinstance(cell, str))

    @property
    def full(self) -> bool:
        return len(self) >= BATCH_ROWS or self._bytes >= BATCH_BYTES

    def taken(self) -> list[Any]:
        """One `pa.Array` a column; nothing is gathered any more."""
        gathered, self._cells, self._bytes = self._cells, [[] for _ in self.columns], 0
        return [
            arrow_column(column.kind, cells)
            for column, cells in zip(self.columns, gathered, strict=True)
        ]


class ParquetSink:
    """A Parquet file that columns of Python values go into."""

    def __init__(self, target: BinaryIO, columns: Sequence[Column]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([(column.name, arrow_type(column.kind)) for column in columns])
        self._writer = pq.ParquetWriter(target, self._schema, compression="zstd")
        self._gathered = Gathered(columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and len(self._gathered):
            self._flush()
        self._writer.close()

    def add(self, columns: Sequence[Sequence[Any]]) -> None:
        """The cells of some rows more."""
        self._gathered.add(columns)
        if self._gathered.full:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        batch = pa.RecordBatch.from_arrays(self._gathered.taken(), schema=self._schema)
        self._writer.write_batch(batch)

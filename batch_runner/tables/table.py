"""Table: what rows are read from and written back to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Column, Row
from batch_runner.tables.chunks import Answer, Cells
from batch_runner.tables.converting import convert
from batch_runner.tables.formats import (
    Format,
    TornLine,
    UnreadableFile,
    WriteReport,
    ignore,
    refuse,
)
from batch_runner.tables.text import TextFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(ABC):
    """One or several files of one format, read as one sequence of rows."""

    format: ClassVar[Format]
    paths: tuple[Path, ...]
    header: tuple[str, ...] | None
    """Column names; None for JSONL, where they show while reading."""
    left_out: tuple[UnreadableFile, ...] = ()
    """Files that were named beside `paths` and cannot be read with them."""

    @property
    def named_paths(self) -> tuple[Path, ...]:
        return (*self.paths, *(file.path for file in self.left_out))

    @property
    def shape(self) -> Hashable:
        """What the files of one table have in common."""
        return self.format, self.header

    def among(self, places: Sequence[int]) -> Self:
        """The rows of the files at these places among `paths` alone."""
        return replace(self, paths=tuple(self.paths[place] for place in places))

    def unreadable(self, columns: Collection[str] | None = None) -> Iterator[UnreadableFile]:
        """The files that cannot be read to their end, each read by itself."""
        for place, path in enumerate(self.paths):
            try:
                for _ in self.among([place]).rows(columns=columns, on_bad=ignore):
                    pass
            except InputError as error:
                yield UnreadableFile(path=path, reason=str(error))

    def rowless(self) -> Iterator[UnreadableFile]:
        """The files with records of which none is a row; of the others only the beginning is read."""
        for place, path in enumerate(self.paths):
            bad: list[BadRecord] = []
            if next(self.among([place]).rows(columns=(), on_bad=bad.append), None) is not None:
                continue
            if bad and not isinstance(bad[0], TornLine):
                yield UnreadableFile(path=path, reason=f"{bad[0].place}: {bad[0].reason}")

    def without(self, files: Sequence[UnreadableFile]) -> Self:
        """The table that leaves out these files as well."""
        gone = {file.path for file in files}
        kept = self.among([place for place, path in enumerate(self.paths) if path not in gone])
        return replace(kept, left_out=(*self.left_out, *files))

    @abstractmethod
    def rows(
        self,
        *,
        columns: Collection[str] | None = None,
        on_bad: Callable[[BadRecord], None] = refuse,
    ) -> Iterator[Row]:
        """Every row, as a stream; each call yields the same rows with the same indexes.

        `columns` are all that the caller looks at: Parquet reads no others. `on_bad` hears of
        records that are not rows, which have no index; a `TornLine` is nobody's mistake.
        """

    @abstractmethod
    def copy_rows(
        self,
        target: BinaryIO,
        *,
        columns: Sequence[Column],
        answer: Answer,
        cells: Cells,
        escape_formulas: bool = False,
    ) -> WriteReport:
        """`target` holds every answered row as it was, then its new cells: see `write_back`."""

    def write_back(
        self,
        target: BinaryIO,
        *,
        format: Format,  # noqa: A002  the word that users know
        columns: Sequence[Column],
        answer: Answer,
        cells: Cells,
        escape_formulas: bool = False,
        delimiter: str | None = None,
    ) -> WriteReport:
        """`target` holds every row with the `cells` of its `answer` after its own.

        The same format is copied byte for byte (Parquet: type for type), another is converted.
        `delimiter` is for CSV: None keeps the input's, and is a comma after a conversion.
        Neither compresses nor syncs `target`. Reads a JSONL input twice if it is converted.
        """
        _check_new_columns(columns, self.header or (), str(self.paths[0]))
        if format is self.format and self.delimited_by(delimiter):
            return self.copy_rows(
                target,
                columns=columns,
                answer=answer,
                cells=cells,
                escape_formulas=escape_formulas,
            )
        return convert(
            lambda: self.rows(on_bad=ignore),
            self.header,
            target,
            format=format,
            columns=columns,
            answer=answer,
            cells=cells,
            escape_formulas=escape_formulas,
            delimiter=delimiter or ",",
        )

    def delimited_by(self, delimiter: str | None) -> bool:
        """Whether a CSV output with this delimiter could be copied from here."""
        return delimiter is None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable(Table):
    """Files of text in one encoding."""

    files: tuple[TextFile, ...]

    @property
    def shape(self) -> Hashable:
        return self.format, self.header, self.files[0].encoding

    def among(self, places: Sequence[int]) -> Self:
        files = tuple(self.files[place] for place in places)
        return replace(self, paths=tuple(file.path for file in files), files=files)

    def rows(
        self,
        *,
        columns: Collection[str] | None = None,  # noqa: ARG002  every record is parsed whole
        on_bad: Callable[[BadRecord], None] = refuse,
    ) -> Iterator[Row]:
        return (row for row, _record in self.records(on_bad))

    @abstractmethod
    def records(self, on_bad: Callable[[BadRecord], None]) -> Iterator[tuple[Row, object]]:
        """Every row, and the text that it was read from."""


def _check_new_columns(columns: Sequence[Column], names: Collection[str], place: str) -> None:
    """Raise an InputError if the input has a column of the same name."""
    taken = [column.name for column in columns if column.name in names]
    if taken:
        raise InputError(
            f"{place}: has a column {taken[0]!r} already, as the output would",
            hint="set output.prefix, or rename the input's column",
        )

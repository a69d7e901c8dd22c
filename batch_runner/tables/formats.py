"""The words of tables: Format, TornLine, UnreadableFile, WriteReport, Answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Row


FORMAT_OF_SUFFIX = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


class Format(StrEnum):
    """How records lie in a file."""

    CSV = "csv"
    """Delimited text with a header; every value is text."""
    JSONL = "jsonl"
    """One JSON object a line."""
    PARQUET = "parquet"
    """Typed columns, in row groups."""
    OPENAI_BATCH = "openai-batch"
    """JSONL of whole requests, as the hosted batch API takes them."""


def format_of(path: Path) -> Format:
    """The format that the suffix names, looking through a compression suffix."""
    suffix = inner_suffix(path)
    if suffix not in FORMAT_OF_SUFFIX:
        raise InputError(
            f"{path}: the suffix {suffix!r} names no format",
            hint=f"use one of {' '.join(FORMAT_OF_SUFFIX)} (also with {' '.join(COMPRESSION_SUFFIXES)}), or set input.format",
        )
    return Format(FORMAT_OF_SUFFIX[suffix])


def inner_suffix(path: Path) -> str:
    """The suffix that names the format, in lower case: `.csv` for `a.CSV.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSION_SUFFIXES else suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class TornLine(BadRecord):
    """A last line without its end of line that cannot be read: somebody is still writing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableFile:
    """One of several files, left out of their table as a whole."""

    path: Path
    reason: str
    """Names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """What was written, and what its readers should be told."""

    rows: int
    left_out: int
    """Rows for which `answer` gave None."""
    formula_cells: int = 0
    """New CSV text cells that a spreadsheet would run: they begin with = + - @ TAB or CR."""
    unencodable_rows: int = 0
    """Rows with characters that the output's encoding lacks; written as backslash escapes."""


Answer = Callable[[Row], Any]
"""What is told of a row, for `Cells`; None leaves the row out."""
Cells = Callable[[Sequence[Any]], Sequence[Sequence[Any]]]
"""What is told of some rows as new cells: a list for each new column, in their order."""


def by_column(rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """For rows of which the cells are told."""
    return [*zip(*rows, strict=True)]


def by_row(columns: Sequence[Sequence[Any]], rows: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The cells of each of `rows`, of which there may be none."""
    return zip(*columns, strict=True) if columns else repeat((), len(rows))


CHUNK_ROWS = 64
CHUNK_BYTES = 1 << 20
"""Cells are made for so many rows together, or for so much of them: by column, in half the time."""

_Carried = TypeVar("_Carried")


def in_chunks(
    answered: Iterable[tuple[_Carried, int, Any]], cells: Cells
) -> Iterator[tuple[list[_Carried], Sequence[Sequence[Any]]]]:
    """What goes with some rows, and their new cells. `answered` has its size in bytes between them."""
    carried: list[_Carried] = []
    told: list[Any] = []
    held = 0
    for one, size, answer in answered:
        carried.append(one)
        told.append(answer)
        held += size
        if len(told) == CHUNK_ROWS or held >= CHUNK_BYTES:
            yield carried, cells(told)
            carried, told, held = [], [], 0
    if told:
        yield carried, cells(told)


def refuse(bad: BadRecord) -> None:
    """Raise for a record that is not a row; a torn last line is left for later instead."""
    if not isinstance(bad, TornLine):
        raise InputError(
            f"{bad.place}: {bad.reason}", hint='mend it, or set input.on_bad_row = "skip"'
        )


def ignore(_bad: BadRecord) -> None:
    """Pass over: whoever read the rows has been told already."""

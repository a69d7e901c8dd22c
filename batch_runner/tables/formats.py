"""The words of tables: Format, TornLine, UnreadableFile, WriteReport."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from batch_runner.errors import InputError
from batch_runner.records import BadRecord


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
    """Begins with the path and a colon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """What was written, and what its readers should be told."""

    rows: int
    formula_cells: int = 0
    """New CSV text cells that a spreadsheet would run: they begin with = + - @ TAB or CR."""
    unencodable_rows: int = 0
    """Rows with characters that the output's encoding lacks; written as backslash escapes."""


def refuse(bad: BadRecord) -> None:
    """Raise for a record that is not a row; a torn last line is left for later instead."""
    if not isinstance(bad, TornLine):
        raise InputError(
            f"{bad.place}: {bad.reason}", hint='mend it, or set input.on_bad_row = "skip"'
        )


def ignore(_bad: BadRecord) -> None:
    """Pass over: whoever read the rows has been told already."""

"""Tables: rows from CSV, JSONL and Parquet files in a stream, and written back faithfully."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from batch_runner.errors import InputError
from batch_runner.tables.chunks import in_chunks
from batch_runner.tables.csv import CsvTable, open_csv, suggest_delimiter
from batch_runner.tables.files import compressed, expand
from batch_runner.tables.formats import (
    Format,
    TornLine,
    UnreadableFile,
    WriteReport,
    format_of,
    ignore,
    refuse,
)
from batch_runner.tables.jsonl import JsonlTable, open_jsonl
from batch_runner.tables.openai_batch import (
    BatchAnswer,
    BatchLine,
    OpenAIBatchTable,
    answers_path,
    failures_path,
    open_openai_batch,
    read_batch_lines,
    request_line,
)
from batch_runner.tables.parquet import ParquetTable, open_parquet
from batch_runner.tables.table import Table
from batch_runner.tables.text import likely_encoding


__all__ = [
    "BatchAnswer",
    "BatchLine",
    "CsvTable",
    "Format",
    "JsonlTable",
    "OpenAIBatchTable",
    "ParquetTable",
    "Table",
    "TornLine",
    "UnreadableFile",
    "WriteReport",
    "answers_path",
    "compressed",
    "expand",
    "failures_path",
    "format_of",
    "ignore",
    "in_chunks",
    "likely_encoding",
    "none_readable",
    "open_table",
    "read_batch_lines",
    "refuse",
    "request_line",
    "suggest_delimiter",
]


def open_table(
    paths: Sequence[str | Path],
    *,
    format: Format | None = None,  # noqa: A002  the word that users know
    encoding: str = "utf-8",
    delimiter: str | None = None,
    place: str = "",
    leaves_out: bool = False,
) -> Table:
    """The files that paths and globs name, as one table. Headers and schemas have been read.

    `delimiter` None: a TAB for `.tsv`, else a comma. Encoding and delimiter mean nothing to
    Parquet. Raises an InputError for files that are missing (which names `place`, where they were
    asked for) or do not fit together; `leaves_out`: only where none of several can be opened.
    """

    def opened(files: tuple[Path, ...]) -> Table:
        match format or _common_format(files):
            case Format.CSV:
                return open_csv(files, encoding=encoding, delimiter=delimiter)
            case Format.JSONL:
                return open_jsonl(files, encoding=encoding)
            case Format.PARQUET:
                return open_parquet(files)
            case Format.OPENAI_BATCH:
                return open_openai_batch(files, encoding=encoding)

    files = expand(paths, place=place)
    if len(files) == 1:
        return opened(files)
    if leaves_out:
        return _open_readable(files, opened)
    try:
        return opened(files)
    except InputError:
        if misfit := next(iter(_misfits(files, opened).values()), None):
            raise misfit from None
        raise


def _open_readable(files: tuple[Path, ...], opened: Callable[[tuple[Path, ...]], Table]) -> Table:
    """Those that can be opened, and together."""
    misfits = _misfits(files, opened)
    if len(misfits) == len(files):
        raise none_readable(len(files), misfits[files[0]])
    told = (UnreadableFile(path=file, reason=str(error)) for file, error in misfits.items())
    fitting = opened(tuple(file for file in files if file not in misfits))
    return replace(fitting, left_out=tuple(told))


def _misfits(
    files: tuple[Path, ...], opened: Callable[[tuple[Path, ...]], Table]
) -> dict[Path, InputError]:
    """The files that cannot be opened, or not together with most of those that have rows, and why.

    In doubt the first one is right. A file without a row has no say while others have some.
    """
    alone: dict[Path, Table] = {}
    wrong: dict[Path, InputError] = {}
    for file in files:
        try:
            alone[file] = opened((file,))
        except InputError as error:
            wrong[file] = error
    if len({table.shape for table in alone.values()}) > 1:
        filled = {file: table for file, table in alone.items() if _has_rows(table)} or alone
        [(shape, _)] = Counter(table.shape for table in filled.values()).most_common(1)
        usual = next(file for file, table in filled.items() if table.shape == shape)
        for file in (file for file, table in alone.items() if table.shape != shape):
            try:
                opened((usual, file))
            except InputError as error:  # says in what they differ
                wrong[file] = error
    return {file: wrong[file] for file in files if file in wrong}


def _has_rows(table: Table) -> bool:
    try:
        return next(table.rows(columns=(), on_bad=ignore), None) is not None
    except InputError:  # nobody knows
        return False


def none_readable(files: int, first: InputError) -> InputError:
    """For several files of which there is none to go on with."""
    return InputError(f"none of the {files:,} input files can be read: {first}", hint=first.hint)


def _common_format(files: tuple[Path, ...]) -> Format:
    first = format_of(files[0])
    for file in files[1:]:
        if format_of(file) is not first:
            raise InputError(
                f"{file}: is {format_of(file)}, where {files[0]} is {first}",
                hint="the files of one job have one format; set input.format if suffixes mislead",
            )
    return first

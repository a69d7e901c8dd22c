"""CSV and TSV: strict, everything is text, and what is not ours goes out byte for byte."""

import csv
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Column, Row
from batch_runner.tables.cells import CellWriter
from batch_runner.tables.chunks import Answer, Cells, in_chunks
from batch_runner.tables.formats import Format, WriteReport, ignore, inner_suffix
from batch_runner.tables.table import TextTable
from batch_runner.tables.text import LINE_CAP, OLD_MAC_HINT, TextFile, open_alike


CELL_CAP = 16 << 20
"""Characters of one cell. An unbalanced quote would otherwise swallow the file."""


def suggest_delimiter(header_line: str) -> str | None:
    """The delimiter that a header of a single column rather seems to have."""
    best = max(";\t|,", key=header_line.count)
    return best if best in header_line else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvTable(TextTable):
    """Delimited text files with the same header."""

    format: ClassVar[Format] = Format.CSV
    header: tuple[str, ...]
    delimiter: str

    @property
    def shape(self) -> Hashable:
        return self.format, self.header, self.delimiter, self.files[0].encoding

    def records(self, on_bad: Callable[[BadRecord], None]) -> Iterator[tuple[Row, "_Text"]]:
        header, width, index = self.header, len(self.header), 0
        for file in self.files:
            source = str(file.path)
            records = _records(file, self.delimiter)
            next(records)
            for record in records:
                if isinstance(record, BadRecord):
                    on_bad(record)
                    continue
                line, cells, raw = record
                missing = width - len(cells)
                if missing:
                    if missing < 0:
                        reason = f"{len(cells)} cells, where the header has {width}"
                        on_bad(BadRecord(source=source, line=line, reason=reason))
                        continue
                    if len(cells) == 1 and cells[0].isspace() and b'"' not in raw:
                        continue
                    cells = cells + [""] * missing
                values = dict(zip(header, cells))  # noqa: B905  the lengths agree by now
                yield Row(index=index, values=values, source=source, line=line), (raw, missing)
                index += 1

    def delimited_by(self, delimiter: str | None) -> bool:
        return delimiter in (None, self.delimiter)

    def copy_rows(
        self,
        target: BinaryIO,
        *,
        columns: Sequence[Column],
        answer: Answer,
        cells: Cells,
        escape_formulas: bool = False,
    ) -> WriteReport:
        first = self.files[0]
        writer = CellWriter(
            columns,
            delimiter=self.delimiter,
            encoding=first.encoding,
            escape_formulas=escape_formulas,
        )
        _, _, raw = _header_record(first, self.delimiter)
        header, end = first.cut_end(raw)
        (names,) = writer.lines([[""], *([column.name] for column in columns)])
        target.write(first.mark + header + writer.encoded(names) + end)
        end_of_line = end or first.line_feed
        owed = b"" if end else end_of_line  # due before the next record, not after the last
        written = 0
        answered = (
            (text, len(text[0]), told)
            for row, text in self.records(ignore)
            if (told := answer(row)) is not None
        )
        for texts, new in in_chunks(answered, cells):
            before = [""] * len(texts)  # new cells begin with a delimiter
            lines = writer.lines([before, *writer.texts(new)])
            for (raw, missing), line in zip(texts, lines, strict=True):
                own, end = first.cut_end(raw)
                added = writer.encoded(self.delimiter * missing + line)
                target.write(owed + own + added + end)
                owed = b"" if end else end_of_line
            written += len(texts)
        return WriteReport(
            rows=written,
            formula_cells=writer.formula_cells,
            unencodable_rows=writer.unencodable_rows,
        )


_Record = tuple[int, list[str], bytes]
"""The line it begins at, its cells, the bytes it was read from. No object: a third of the time."""
_Text = tuple[bytes, int]
"""The bytes of a record, and how many cells it lacks."""


def open_csv(paths: tuple[Path, ...], *, encoding: str, delimiter: str | None) -> CsvTable:
    """The table, once all headers have been read and agree."""
    files = open_alike(paths, encoding)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0 '):
        raise InputError(
            f"input.delimiter = {delimiter!r} is no delimiter",
            hint='one character such as "," or ";" or "\\t"',
        )
    delimiters = [delimiter or _usual_delimiter(path) for path in paths]
    odd = next((p for p, d in zip(paths, delimiters, strict=True) if d != delimiters[0]), None)
    if odd is not None:
        raise InputError(
            f"{odd}: delimited by another character than {paths[0]}: .csv and .tsv are mixed",
            hint="set input.delimiter if all of them have the same",
        )
    headers = [_header(file, delimiters[0]) for file in files]
    for path, header in zip(paths, headers, strict=True):
        if header != headers[0]:
            raise InputError(
                f"{path}: its header differs from that of {paths[0]}: "
                + _difference(headers[0], header)
            )
    return CsvTable(paths=paths, header=headers[0], delimiter=delimiters[0], files=files)


def _usual_delimiter(path: Path) -> str:
    return "\t" if inner_suffix(path) == ".tsv" else ","


def _difference(first: tuple[str, ...], other: tuple[str, ...]) -> str:
    lacks = [name for name in first if name not in other]
    adds = [name for name in other if name not in first]
    if lacks or adds:
        return f"lacks {lacks}, adds {adds}"
    at = next(i for i, name in enumerate(first) if name != other[i])
    return f"another order, with {other[at]!r} in place of {first[at]!r} at column {at + 1}"


def _header(file: TextFile, delimiter: str) -> tuple[str, ...]:
    line, cells, _ = _header_record(file, delimiter)
    names = tuple(cells)
    if "\0" in names[0]:
        raise InputError(
            f"{file.path}: the header holds NUL characters", hint='set input.encoding = "utf-16"'
        )
    empty = [at for at, name in enumerate(names, 1) if not name.strip()]
    if empty:
        raise InputError(
            f"{file.path}:{line}: no column name at position {_listed(empty)}",
            hint="name every column (pandas: to_csv(index=False))",
        )
    for name in names:
        if names.count(name) > 1:
            places = [at for at, other in enumerate(names, 1) if other == name]
            raise InputError(
                f"{file.path}:{line}: column name {name!r} stands at positions {_listed(places)}",
                hint="give every column a name of its own",
            )
    return names


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _header_record(file: TextFile, delimiter: str) -> _Record:
    first = next(_records(file, delimiter), None)
    if first is None:
        raise InputError(f"{file.path}: empty, without even a header")
    if isinstance(first, BadRecord):
        raise InputError(
            f"{first.place}: {first.reason}",
            hint=OLD_MAC_HINT if first.reason == _LONE_RETURN else "mend the header",
        )
    return first


_LONE_RETURN = "a carriage return in a cell without quotes"


def _records(file: TextFile, delimiter: str) -> Iterator[_Record | BadRecord]:
    """Every record that is not empty, the header first."""
    # The limit belongs to the process: others may need a higher one.
    csv.field_size_limit(max(csv.field_size_limit(), CELL_CAP))
    lines, decode = enumerate(file.lines(), 1), file.decode
    tee = _Tee(file, lines)
    reader = csv.reader(tee, delimiter=delimiter, strict=True)
    for number, raw in lines:
        text = decode(raw, number)
        own = text.rstrip("\r\n")
        if '"' not in own and "\r" not in own and len(own) <= CELL_CAP:
            if own:  # csv.reader would say the same, and take twice as long
                yield number, own.split(delimiter), raw
            continue
        tee.begin_record(number, raw, text)
        try:
            cells = next(reader)
        except csv.Error as error:
            yield tee.bad_record(error)
            continue
        yield number, cells, b"".join(tee.taken)


class _Tee:
    """Hands lines to csv.reader, and keeps the bytes of those it took for this record."""

    def __init__(self, file: TextFile, lines: Iterator[tuple[int, bytes]]) -> None:
        self.first_line = 0
        self.taken: list[bytes] = []
        self._file = file
        self._lines = lines
        self._first: str | None = None
        self._bytes = 0

    def begin_record(self, number: int, raw: bytes, text: str) -> None:
        self.first_line = number
        self.taken = [raw]
        self._first = text
        self._bytes = len(raw)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._first is not None:
            text, self._first = self._first, None
            return text
        number, raw = next(self._lines)
        self._bytes += len(raw)
        self.taken.append(raw)
        if self._bytes > LINE_CAP:
            raise self._unbalanced(f"a record grew past {LINE_CAP >> 20} MiB")
        return self._file.decode(raw, number)

    def bad_record(self, error: csv.Error) -> BadRecord:
        """What is wrong with a record of one line.

        A fault found on a later line, or after an odd number of quotes, means that good rows have
        been read as part of a cell: an InputError, for going on would ask about garbage.
        """
        raw = b"".join(self.taken)
        if len(self.taken) > 1 or raw.count(b'"') % 2:
            raise self._unbalanced(str(error)) from error
        text = str(error)
        if text.startswith("field larger"):
            raise InputError(
                f"{self._file.path}:{self.first_line}: a cell of more than {CELL_CAP >> 20} MiB"
            ) from error
        reason = _LONE_RETURN if text.startswith("new-line character") else text
        return BadRecord(source=str(self._file.path), line=self.first_line, reason=reason)

    def _unbalanced(self, what: str) -> InputError:
        return InputError(
            f"{self._file.path}: unbalanced quote starting near line {self.first_line} ({what})",
            hint='close the quote; a quote inside a quoted cell is written twice: ""',
        )

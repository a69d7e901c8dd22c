"""JSONL: a JSON object a line; new keys are spliced into the line as it was."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Column, Row
from batch_runner.tables.cells import json_text
from batch_runner.tables.chunks import Answer, Cells, by_row, in_chunks
from batch_runner.tables.converting import check_late_names
from batch_runner.tables.formats import Format, TornLine, WriteReport, ignore
from batch_runner.tables.table import TextTable
from batch_runner.tables.text import TextFile, open_alike


_ONE_ARRAY = "jq -c '.[]' in.json > out.jsonl"
_AS_VALUE = "jq -c '{value: .}' in.jsonl > out.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlTable(TextTable):
    """Files of one JSON object a line."""

    format: ClassVar[Format] = Format.JSONL
    header: None = None

    def records(self, on_bad: Callable[[BadRecord], None]) -> Iterator[tuple[Row, bytes]]:
        index, loads = 0, json.loads
        for file in self.files:
            source, encoding = str(file.path), file.encoding
            unread = True
            for number, raw in enumerate(file.lines(), 1):
                try:
                    values = loads(raw.decode(encoding))
                except (ValueError, RecursionError) as error:
                    bad = _unreadable(file, number, raw, error, is_first=unread)
                    if bad:
                        on_bad(bad)
                        unread = False
                    continue
                if type(values) is not dict:
                    on_bad(_no_object(file, number, values, is_first=unread))
                    unread = False
                    continue
                unread = False
                yield Row(index=index, values=values, source=source, line=number), raw
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
        first = self.files[0]
        names = [column.name for column in columns]
        taken = set(names)
        ascii_only = not first.encoding.startswith("utf")
        brace = "}".encode(first.encoding)
        target.write(first.mark)
        owed = b""
        written = 0

        def answered() -> Iterator[tuple[tuple[bytes, bool], int, Any]]:
            for row, raw in self.records(ignore):
                if (told := answer(row)) is not None:
                    check_late_names(row, taken)
                    yield (raw, bool(row.values)), len(raw), told

        for lines, new in in_chunks(answered(), cells):
            for (raw, has_members), row_cells in zip(lines, by_row(new, lines), strict=True):
                members = dict(zip(names, row_cells, strict=True))
                added = json_text(members, ascii_only=ascii_only)[1:-1]
                if has_members and added:
                    added = "," + added
                end = raw.rindex(brace)
                target.write(owed + raw[:end] + added.encode(first.encoding) + raw[end:])
                owed = b"" if raw.endswith(first.line_feed) else first.line_feed
            written += len(lines)
        return WriteReport(rows=written)


def open_jsonl(paths: tuple[Path, ...], *, encoding: str) -> JsonlTable:
    return JsonlTable(paths=paths, files=open_alike(paths, encoding))


def _unreadable(
    file: TextFile, number: int, raw: bytes, error: Exception, *, is_first: bool
) -> BadRecord | None:
    """Why a line is no JSON; None for a blank line.

    Raises an InputError where the first line shows that the whole file has another shape.
    """
    text = raw.decode(file.encoding, "replace").strip()
    if not text:
        return None
    source = str(file.path)
    if is_first and text[0] in "[{" and text[-1] in "[{," and raw.endswith(file.line_feed):
        raise InputError(
            f"{source}:{number}: {text[:20]!r} begins JSON that goes on for several lines",
            hint="one object a line is wanted; convert: "
            + (_ONE_ARRAY if text[0] == "[" else "jq -c . in.json > out.jsonl"),
        )
    if isinstance(error, UnicodeDecodeError):
        reason = file.undecodable(error, number)
    elif isinstance(error, json.JSONDecodeError):
        reason = f"not JSON: {error.msg} at column {error.colno}"
    else:
        reason = f"JSON that cannot be read: {error}"
    kind = BadRecord if raw.endswith(file.line_feed) else TornLine
    return kind(source=source, line=number, reason=reason)


def _no_object(file: TextFile, number: int, value: Any, *, is_first: bool) -> BadRecord:
    """A line of JSON that has no keys.

    Raises an InputError where the first line holds all rows in one array.
    """
    source = str(file.path)
    if not isinstance(value, list):
        shape = "null" if value is None else f"a JSON {type(value).__name__}"
        reason = f"{shape}, not an object; convert: {_AS_VALUE}"
    elif is_first and value and all(isinstance(item, dict) for item in value):
        raise InputError(
            f"{source}:{number}: a JSON array of {len(value)} objects, not one object a line",
            hint=f"convert: {_ONE_ARRAY}, or if each line is one row: {_AS_VALUE}",
        )
    else:
        reason = f"a JSON array, not an object; convert: {_AS_VALUE}"
    return BadRecord(source=source, line=number, reason=reason)

"""One value as text: what a CSV cell or a JSON line holds for it."""

import base64
import datetime as dt
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson

from batch_runner.records import Column, ColumnKind


_FORMULA_START = frozenset("=+-@\t\r")


def rfc3339(moment: dt.datetime) -> str:
    """`2026-01-31T12:00:00Z`; without an offset when the moment has none."""
    return moment.isoformat().replace("+00:00", "Z")


def jsonable(value: Any) -> Any:
    """The value as JSON has it. Decimals are text, bytes base64, durations seconds, NaN null."""
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item) for item in value]
        case dt.datetime():
            return rfc3339(value)
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case _:  # Decimal, UUID, ...
            return str(value)


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """Compact JSON, readable where UTF-8 can carry it: a lone surrogate stays an escape."""
    if not ascii_only:
        try:
            return orjson.dumps(value, jsonable, orjson.OPT_PASSTHROUGH_DATETIME).decode()
        except TypeError:
            pass  # half a surrogate pair, a number beyond 64 bits, a key that is no text
    value = jsonable(value)
    if not ascii_only:
        text = _dump_readable(value)
        if _is_encodable(text):
            return text
    return _dump_ascii(value)


_dump_readable = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_dump_ascii = json.JSONEncoder(separators=(",", ":")).encode


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_text(value: Any) -> str:
    """The value as a person writes it in a cell: no quotes, null is empty."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if type(value) is float:
        return _number_text(value)
    value = jsonable(value)
    return value if isinstance(value, str) else json_text(value)


def _number_text(value: float) -> str:
    shortest = repr(value)
    if "e-" in shortest and abs(value) > 1e-15:  # 0.000012, not 1.2e-05
        return f"{Decimal(shortest):f}"
    return shortest


def _plain_texts(values: Sequence[Any]) -> list[str]:
    return [
        "" if value is None else str(value) if type(value) is int else plain_text(value)
        for value in values
    ]


def _number_texts(values: Sequence[Any]) -> list[str]:
    return [_number_text(value) if type(value) is float else plain_text(value) for value in values]


def _json_texts(values: Sequence[Any]) -> list[str]:
    return ["" if value is None else json_text(value) for value in values]


class CellWriter:
    """New cells as CSV text. Counts what the readers of the output should be told."""

    def __init__(
        self, columns: Sequence[Column], *, delimiter: str, encoding: str, escape_formulas: bool
    ) -> None:
        self.formula_cells = 0
        self.unencodable_rows = 0
        self._delimiter = delimiter
        self._encoding = encoding
        self._escape = escape_formulas
        texts_of = {
            ColumnKind.TEXT: self._texts,
            ColumnKind.JSON: _json_texts,
            ColumnKind.NUMBER: _number_texts,
        }
        self._texts_of = [texts_of.get(column.kind, _plain_texts) for column in columns]

    def texts(self, columns: Sequence[Sequence[Any]]) -> list[list[str]]:
        """The cells of new columns as text, column by column."""
        return [texts_of(values) for texts_of, values in zip(self._texts_of, columns, strict=True)]

    def lines(self, columns: Sequence[Sequence[str]]) -> list[str]:
        """The rows that such columns make, without an end of line."""
        return [self._joined(cells) for cells in zip(*columns, strict=True)]

    def _joined(self, cells: Sequence[str]) -> str:
        """The cells of one row, in quotes where they need it."""
        line = self._delimiter.join(cells)
        # Most rows need no quotes at all, and counting is quicker than looking at each cell.
        if line.count(self._delimiter) >= len(cells) or self._breaks_out(line):
            return self._delimiter.join(map(self._quoted, cells))
        return line

    def encoded(self, text: str) -> bytes:
        try:
            return text.encode(self._encoding)
        except UnicodeEncodeError:
            self.unencodable_rows += 1
            return text.encode(self._encoding, "backslashreplace")

    def _texts(self, values: Sequence[Any]) -> list[str]:
        return [
            ""
            if value is None
            else value
            if type(value) is str and value[:1] not in _FORMULA_START
            else self._text(value)
            for value in values
        ]

    def _text(self, value: Any) -> str:
        """A value as text; what a spreadsheet would run is counted, and maybe escaped."""
        text = plain_text(value)
        if text[:1] not in _FORMULA_START:
            return text
        self.formula_cells += 1
        return "'" + text if self._escape else text

    def _quoted(self, text: str) -> str:
        if self._delimiter in text or self._breaks_out(text):
            return '"' + text.replace('"', '""') + '"'
        return text

    def _breaks_out(self, text: str) -> bool:
        return '"' in text or "\n" in text or "\r" in text

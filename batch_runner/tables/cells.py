"""One value as text: what a CSV cell or a JSON line holds for it."""

import base64
import datetime as dt
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from batch_runner.records import ColumnKind


_FORMULA_START = ("=", "+", "-", "@", "\t", "\r")


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
    if isinstance(value, float):
        shortest = repr(value)
        in_full = "e-" in shortest and abs(value) > 1e-15  # 0.000012, not 1.2e-05
        return format(Decimal(shortest), "f") if in_full else shortest
    value = jsonable(value)
    return value if isinstance(value, str) else json_text(value)


class CellWriter:
    """New cells as CSV text. Counts what the readers of the output should be told."""

    def __init__(self, *, delimiter: str, encoding: str, escape_formulas: bool) -> None:
        self.formula_cells = 0
        self.unencodable_rows = 0
        self._delimiter = delimiter
        self._encoding = encoding
        self._escape = escape_formulas
        self._needs_quotes = re.compile(f'[{re.escape(delimiter)}"\r\n]').search

    def new_cells(self, values: Sequence[Any], kinds: Sequence[ColumnKind]) -> list[str]:
        """The cells of new columns, for one row."""
        cells = []
        for value, kind in zip(values, kinds, strict=True):
            if value is None:
                cells.append("")
            elif type(value) is int:  # most of them are counts; a bool is not one
                cells.append(self.quoted(str(value)))
            else:
                cells.append(self._cell(value, kind))
        return cells

    def _cell(self, value: Any, kind: ColumnKind) -> str:
        """Text that a spreadsheet would run is counted, maybe escaped."""
        if kind is ColumnKind.JSON:
            return self.quoted(json_text(value))
        text = plain_text(value)
        if kind is ColumnKind.TEXT and text.startswith(_FORMULA_START):
            self.formula_cells += 1
            text = "'" + text if self._escape else text
        return self.quoted(text)

    def quoted(self, text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if self._needs_quotes(text) else text

    def encoded(self, text: str) -> bytes:
        try:
            return text.encode(self._encoding)
        except UnicodeEncodeError:
            self.unencodable_rows += 1
            return text.encode(self._encoding, "backslashreplace")

"""Writes a starter job file for a data file: columns looked at, key and text column guessed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from batch_runner.records import Row
from batch_runner.tables import ignore, open_table


LOOKED_AT = 200
"""Rows that are enough to tell a key from a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLook:
    """What the first rows tell of a column."""

    name: str
    filled: int
    distinct: int
    mean_length: float

    def describe(self, rows: int) -> str:
        gaps = "" if self.filled == rows else f", empty in {rows - self.filled} of {rows}"
        return f"{self.name}: about {self.mean_length:.0f} characters{gaps}"


def starter_job(file: Path) -> str:
    """A job file (TOML) for `file`, ready to run once the prompt says what is wanted.

    Raises InputError when the file cannot be read.
    """
    table = open_table([file.absolute()])
    rows = list(islice(table.rows(on_bad=ignore), LOOKED_AT))
    looks = [_look(name, rows) for name in _names(table.header, rows)]
    text = max(looks, key=lambda look: look.mean_length, default=None)
    key = _key(looks, len(rows))
    output = f"out/{file.stem}_answers{file.suffix}"
    return "\n".join(
        [
            f"# {file.name}: {len(rows)}{'+' if len(rows) == LOOKED_AT else ''} rows looked at",
            *(f"#   {look.describe(len(rows))}" for look in looks),
            "",
            "[input]",
            f"path = {_quoted(str(file))}",
            f"key = {_quoted(key)}"
            if key
            else '# key = "..."   # a column that names each row once',
            "",
            "[prompt]",
            'instructions = "You write plain, factual summaries."',
            f'input = {_quoted("Summarize in one sentence:")[:-1]}\\n\\n{_reference(text)}"',
            '# missing = "skip"   # what an empty cell does to its row: fail, skip or empty',
            "",
            "[request]",
            'model = "gpt-5-mini"',
            "max_output_tokens = 400   # without it, nothing bounds the cost of a call",
            "",
            "[limits]",
            "# max_cost = 5.00   # dollars",
            '# max_errors = "5%"',
            "",
            "[output]",
            f"path = {_quoted(output)}",
            "",
        ]
    )


def _names(header: Sequence[str] | None, rows: Sequence[Row]) -> list[str]:
    if header is not None:
        return list(header)
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _look(name: str, rows: Sequence[Row]) -> ColumnLook:
    texts = [_text(row.values, name) for row in rows]
    filled = [text for text in texts if text]
    return ColumnLook(
        name=name,
        filled=len(filled),
        distinct=len(set(filled)),
        mean_length=sum(map(len, filled)) / max(1, len(filled)),
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "" if value is None else str(value)


def _key(looks: Sequence[ColumnLook], rows: int) -> str | None:
    """A column that is always filled and never repeats; one that is called so first."""
    unique = [look for look in looks if look.filled == look.distinct == rows and rows > 1]
    named = [look for look in unique if look.name.lower().endswith(("id", "key"))]
    short = [look for look in unique if look.mean_length <= 40]
    return next((look.name for look in [*named, *short]), None)


def _reference(look: ColumnLook | None) -> str:
    if look is None:
        return "{{ column }}"
    return f"{{{{ {look.name} }}}}" if look.name.isidentifier() else f"{{{{ row['{look.name}'] }}}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

"""What the first rows of a file tell of its columns: which may be the key, and which the text."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_runner.amounts import many
from batch_runner.records import Row


LONGEST_KEY = 60
"""Characters: what is longer is text that happens not to repeat."""
_NEARLY_UNIQUE = 0.8

_KEY_NAME = re.compile(r"(?i)(?:^|[_\W])(?:id|key|uuid|guid|number|no)$|(?<=[a-z])(?:Id|ID|Key)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLook:
    """What the first rows tell of a column."""

    name: str
    filled: int
    distinct: int
    mean_length: float
    longest: int
    is_text: bool
    twice: str | None = None
    """The first value that comes again, and how often it comes in all."""
    times: int = 1

    def describe(self, rows: int) -> str:
        gaps = "" if self.filled == rows else f", empty in {rows - self.filled} of {rows}"
        size = f"about {self.mean_length:,.0f} characters, at most {self.longest:,}"
        if self.mean_length == self.longest:
            size = many(self.longest, "character")
        return f"{size if self.filled else 'no values'}{gaps}"


def looks_of(rows: Sequence[Row], *, header: Sequence[str] | None) -> list[ColumnLook]:
    """In the order of the header, or in that in which they first come."""
    names = header or dict.fromkeys(name for row in rows for name in row.values)
    return [_look(name, rows) for name in names]


def key_of(looks: Sequence[ColumnLook], rows: int) -> str | None:
    """A column that is always filled and never repeats; one that is called so first."""
    unique = [
        look
        for look in looks
        if look.filled == look.distinct == rows > 1 and look.longest <= LONGEST_KEY
    ]
    named = [look for look in unique if _KEY_NAME.search(look.name)]
    return next((look.name for look in [*named, *unique[:1]]), None)


def no_key(looks: Sequence[ColumnLook], key: str | None, rows: int) -> ColumnLook | None:
    """A column that is called a key, and repeats; not said where another one of that kind is taken.

    Where none is taken, one that hardly ever repeats will do.
    """
    if key is not None and _KEY_NAME.search(key):
        return None
    repeating = [look for look in looks if look.twice is not None]
    if named := [look for look in repeating if _KEY_NAME.search(look.name)]:
        return named[0]
    nearly = [
        look
        for look in repeating
        if look.filled == rows
        and look.longest <= LONGEST_KEY
        and look.distinct >= _NEARLY_UNIQUE * rows
    ]
    return max(nearly, key=lambda look: look.distinct, default=None) if key is None else None


def text_column(looks: Sequence[ColumnLook]) -> ColumnLook | None:
    """The longest on average, text before lists and numbers, of those a template can name."""
    nameable = [look for look in looks if not ("'" in look.name and '"' in look.name)]
    nameable = [look for look in nameable if "\\" not in look.name]
    return max(nameable, key=lambda look: (look.is_text, look.mean_length), default=None)


def _look(name: str, rows: Sequence[Row]) -> ColumnLook:
    values = [row.values.get(name) for row in rows]
    filled = [_text(value) for value in values if value not in (None, "")]
    times = Counter(filled)
    again = next((text for text, n in times.items() if n > 1), None)
    return ColumnLook(
        name=name,
        filled=len(filled),
        distinct=len(times),
        mean_length=sum(map(len, filled)) / max(1, len(filled)),
        longest=max(map(len, filled), default=0),
        is_text=any(isinstance(value, str) for value in values),
        twice=again,
        times=1 if again is None else times[again],
    )


def _text(value: Any) -> str:
    return str(dict(value)) if isinstance(value, Mapping) else str(value)

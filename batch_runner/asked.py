"""What rows on show were asked: found in the input, for the journal does not repeat it."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from batch_runner.plan import UNSENDABLE
from batch_runner.printable import printable, shortened
from batch_runner.records import Failure, Request, Row
from batch_runner.tables import ignore
from batch_runner.work import Work


LONGEST_PROMPT = 700


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts and places by the key of the result."""

    texts: dict[bytes, str] = field(default_factory=dict)
    places: dict[bytes, str] = field(default_factory=dict)
    """File and line."""
    unsendable: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The first row for which no request could be made: error code to place and message."""


def read_asked(work: Work, keys: Collection[bytes]) -> Asked:
    """The prompts behind the results named by `keys`; reads the input once, as far as needed."""
    rows = _rows_of(work, keys)
    found = Asked()
    if not rows:
        return found
    last = max(rows)
    for row in work.table.rows(columns=work.builder.columns, on_bad=ignore):
        if row.index in rows:
            _note(found, work.builder.build(row), rows[row.index], row)
        if row.index >= last:
            break
    return found


def first_without(work: Work) -> dict[str, str]:
    """The first row that has no request: by its error code, where it stands and why; empty without one."""
    plan, builder = work.plan, work.builder
    if not plan.unsendable:
        return {}
    rows = islice(work.table.rows(columns=builder.columns, on_bad=ignore), plan.rows)
    first = next((row for row in rows if not plan.has_request(row.index)), None)
    built = None if first is None else builder.build(first)
    if first is None or not isinstance(built, Failure):  # mended since the plan was made
        return {}
    return {str(built.code): f"{builder.place(first)}: {built.message}"}


def _rows_of(work: Work, keys: Collection[bytes]) -> dict[int, bytes | None]:
    """Position of each row wanted, and its key; None for one that has no request."""
    index = work.replay.index
    numbers = {number: key for key in keys if (number := index.number(key)) is not None}
    rows: dict[int, bytes | None] = {}
    seen_unsendable = False
    for row, number in enumerate(work.plan.entries):
        if number in numbers:
            rows[row] = numbers.pop(number)
        elif number == UNSENDABLE and not seen_unsendable:
            seen_unsendable = True
            rows[row] = None
    return rows


def _note(found: Asked, built: Request | Failure, key: bytes | None, row: Row) -> None:
    place = f"{printable(Path(row.source).name)}:{row.line}"
    if isinstance(built, Failure):
        message = printable(shortened(built.message, 300))
        found.unsendable.setdefault(str(built.code), (place, message))
    elif key is not None:
        prompt = json.loads(built.body).get("input", "")
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
        found.texts[key] = printable(shortened(text, LONGEST_PROMPT))
        found.places[key] = place

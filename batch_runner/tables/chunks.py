"""Rows in chunks: the new cells of some rows are made together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeVar

from batch_runner.records import Row


Answer = Callable[[Row], Any]
"""What is told of a row, for `Cells`; None leaves the row out. Its `size` counts if it has one."""
Cells = Callable[[Sequence[Any]], Sequence[Sequence[Any]]]
"""What is told of some rows as new cells: a list for each new column, in their order."""


CHUNK_ROWS = 64
CHUNK_BYTES = 1 << 20
"""Cells are made for so many rows together, or for so much of them: by column, in half the time."""

_Carried = TypeVar("_Carried")


def size_of(value: Any) -> int:
    """About how much of the memory its texts take; what lies within it counts, too."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return 0


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
        held += size + getattr(answer, "size", 0)
        if len(told) == CHUNK_ROWS or held >= CHUNK_BYTES:
            yield carried, cells(told)
            carried, told, held = [], [], 0
    if told:
        yield carried, cells(told)


def by_row(columns: Sequence[Sequence[Any]], rows: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The cells of each of `rows`, of which there may be none."""
    return zip(*columns, strict=True) if columns else repeat((), len(rows))

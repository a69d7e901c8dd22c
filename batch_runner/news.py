"""Rows that failed in this run and had not failed so before: what `--fail-on new` tells of."""

from array import array
from collections import Counter
from itertools import compress

from batch_runner.journal import Index
from batch_runner.outset import read_outset
from batch_runner.plan import UNSENDABLE, WITHOUT_REQUEST, Plan
from batch_runner.records import WANTING, RowStatus
from batch_runner.work import Work


def endings_to_send(plan: Plan, index: Index) -> "array[int]":
    """How the rows that are to be sent stand now: numbers of endings, in the order of the rows."""
    return array("I", map(index.ending_of, compress(plan.entries, plan.wanted)))


def newly_failed(work: Work) -> int:
    """How many rows lack a full answer that they had, or never had for this reason.

    The reason counts: a row that was cut off yesterday and is refused today is news.
    """
    index, before = work.replay.index, work.endings_before
    if before is None:
        raise ValueError("nobody kept how the rows stood before")
    news = Counter(
        after
        for stood, after in zip(before, endings_to_send(work.plan, index), strict=True)
        if after != stood
    )
    return _newly_without_request(work) + sum(
        n for ending, n in news.items() if index.named(ending)[0] in WANTING
    )


def _newly_without_request(work: Work) -> int:
    """How many more rows than before have no request: nobody sends them."""
    known = None if work.shortcut is None else work.shortcut.plan
    if known is not None:
        return (_without_request(work.plan) - _without_request(known.plan)).total()
    # Nobody knows which they were, but how many.
    before = read_outset(work.before)
    endings = {} if before is None else before.endings
    had = sum(
        n for (status, code), n in endings.items()
        if status is RowStatus.FAILED and code in WITHOUT_REQUEST
    )  # fmt: skip
    return max(0, len(work.plan.lacking) - had)


def _without_request(plan: Plan) -> Counter[int]:
    """The rows that lack a request, each by what names it in another plan of the same index.

    That is its label. Without labels it is the row that it stands behind, and how far: positions
    mean nothing in a window that moves on over growing data.
    """
    if plan.labels or not plan.lacking:
        return Counter(plan.labels[row] for row in plan.lacking)
    found: Counter[int] = Counter()
    lacking = frozenset(plan.lacking)
    behind, distance = UNSENDABLE, 0
    for row, entry in enumerate(plan.entries):
        if entry != UNSENDABLE:
            behind, distance = entry, 0
            continue
        distance += 1
        if row in lacking:
            found[behind << 32 | distance] += 1
    return found

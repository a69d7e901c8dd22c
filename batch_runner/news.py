"""What an exit code tells once: files left out, and with `--fail-on new` rows that failed.

A failure that nobody was told of is news as well: a run that is killed ends without a word.
"""

from array import array
from collections import Counter
from collections.abc import Collection
from datetime import datetime
from itertools import compress

from batch_runner.disk import changed_at
from batch_runner.meta import read_meta
from batch_runner.plan import UNSENDABLE, WITHOUT_REQUEST
from batch_runner.records import WANTING, RowStatus
from batch_runner.work import Work


_UNTOLD = 0
"""In place of the number of an ending that nobody was told of: as if the row had never been asked."""


def endings_to_send(work: Work) -> "array[int]":
    """How the rows that are to be sent stood when that was last told: numbers of endings, in order."""
    index, untold = work.replay.index, _untold_segments(work)
    entries = compress(work.plan.entries, work.plan.wanted)
    if not untold:
        return array("I", map(index.ending_of, entries))
    return array(
        "I", (_UNTOLD if index.file_of(n) in untold else index.ending_of(n) for n in entries)
    )


def newly_failed(work: Work) -> int:
    """How many rows lack a full answer that they had, or never had for this reason.

    The reason counts: a row that was cut off yesterday and is refused today is news.
    """
    index, before = work.replay.index, work.endings_before
    if before is None:
        raise ValueError("nobody kept how the rows stood before")
    now = map(index.ending_of, compress(work.plan.entries, work.plan.wanted))
    news = Counter(after for stood, after in zip(before, now, strict=True) if after != stood)
    if untold := _untold_segments(work):
        rows = zip(work.plan.entries, work.plan.wanted, strict=True)
        left = (n for n, is_sent in rows if not is_sent and n != UNSENDABLE)
        news.update(index.ending_of(n) for n in left if index.file_of(n) in untold)
    return _newly_without_request(work, all_told=not untold) + sum(
        n for ending, n in news.items() if index.named(ending)[0] in WANTING
    )


def newly_left_out(work: Work) -> int:
    """How many files of several were left out that the last run has not told of, as they are now.

    That such files are left out was asked for; that it happens is known to nobody yet, and a whole
    file may be all that there was to do.
    """
    meta = read_meta(work.job.output_path)
    told = tuple(map(str, meta.get("bad_files") or ()))
    try:
        since = datetime.fromisoformat(meta["started_at"]).timestamp()
    except (LookupError, TypeError, ValueError):
        since = 0.0
    return sum(
        changed_at(file.path) > since or not any(one.startswith(f"{file.path}:") for one in told)
        for file in work.table.left_out
    )


def _untold_segments(work: Work) -> Collection[int]:
    """Of the runs since the one that left the meta file: how its rows ended was told.

    Without that file, of those that were killed since the last one that was not.
    """
    replay = work.replay
    told = str(read_meta(work.job.output_path).get("run_id", ""))
    untold = set()
    for run in reversed(replay.runs):
        if run.run_id <= told if told else run.ended_cleanly:
            break
        untold.add(run.run_id)
    if not untold:
        return ()
    return {file for file in range(replay.earlier_segments) if replay.run_id(file) in untold}


def _newly_without_request(work: Work, *, all_told: bool) -> int:
    """How many more rows than before have no request: nobody sends them."""
    known = None if work.shortcut is None else work.shortcut.plan
    if known is not None and all_told:
        return (Counter(work.plan.lacking) - Counter(known.plan.lacking)).total()
    # Nobody knows which they were, but how many.
    meta = read_meta(work.job.output_path)
    try:
        had = sum(int(meta["error_codes"].get(code, 0)) for code in WITHOUT_REQUEST)
        had -= int(meta["statuses"].get(RowStatus.SKIPPED, 0))  # they bear such a code, too
    except (LookupError, TypeError, ValueError, AttributeError):
        had = 0
    return max(0, len(work.plan.lacking) - had)

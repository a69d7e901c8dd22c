"""What a run leaves to the next one besides its journal: the shortcut, and the bill so far."""

import logging

from batch_runner import __version__
from batch_runner.bill import Bill
from batch_runner.dispatch import Dispatch
from batch_runner.errors import StorageError
from batch_runner.journal import Known, PastRun, RunDirectory
from batch_runner.shortcut import (
    KnownBill,
    KnownPlan,
    Shortcut,
    digest_of_prices,
    write_ends,
    write_shortcut,
)
from batch_runner.work import Work, journal_settings


log = logging.getLogger(__name__)


def leave_plan(work: Work) -> None:
    """Should this run be killed, the next one need not read input and journal again.

    To be called when nothing is in the way of the run: what one that is refused would have shown
    must not take the place of what the last one did show, by which `changes` knows the rows.
    """
    taken = work.shortcut
    if taken is None or not _is_of(taken.plan, work):
        replay = work.replay
        known = Known(index=replay.index, unknown=replay.unknown, runs=replay.runs)
        _leave(work, known, None if taken is None else taken.bill)


def _is_of(known: KnownPlan | None, work: Work) -> bool:
    plan = work.plan
    return known is not None and (
        known.plan is plan
        or (
            (known.made_of, known.files) == (work.plan_made_of, work.input_identity)
            and (known.plan.entries, known.plan.labels) == (plan.entries, plan.labels)
        )
    )


def leave_all(work: Work, dispatch: Dispatch | None, results: Bill) -> None:
    """After a run that ended in order: `results` is the bill of all rows that ever ended."""
    if dispatch is not None and dispatch.has_queued:
        return  # only reading the journal tells what may still be asked for
    replay = work.replay
    wrote = len(replay.index.files) > replay.earlier_segments
    runs = (*replay.runs, this_run(work)) if wrote else replay.runs
    known = Known(index=replay.index, unknown=replay.unknown, runs=runs)
    segments = len(replay.index.files)
    taken = work.shortcut
    bill = KnownBill(at_prices=digest_of_prices(work.biller), segments=segments, bill=results)
    if taken is None or taken.bill is None or taken.bill != bill:
        _leave(work, known, bill)


def bill_of_results(work: Work, dispatch: Dispatch | None) -> Bill:
    """What the rows cost that ended in any run of this journal."""
    bill, segments = Bill(), 0
    known = None if work.shortcut is None else work.shortcut.bill
    if known is not None and known.at_prices == digest_of_prices(work.biller):
        bill.merge(known.bill)
        segments = known.segments
    replay = work.replay
    if unread := replay.index.files[segments : replay.earlier_segments]:
        for result in replay.results(unread):
            work.biller.add(bill, result)
    if dispatch is not None:
        bill.merge(dispatch.tally.bill)
    return bill


def this_run(work: Work) -> PastRun:
    """As the journal will tell of it from now on."""
    return PastRun(
        run_id=work.run_id,
        started_at=work.started_at,
        tool_version=__version__,
        settings=journal_settings(work.job),
        ended_cleanly=True,
    )


def _leave(work: Work, known: Known, bill: KnownBill | None) -> None:
    """Never fails: nothing depends on it. Where the journal is unusual, nothing is left but its ends."""
    directory = RunDirectory(work.job.run_path)
    plan = KnownPlan(made_of=work.plan_made_of, files=work.input_identity, plan=work.plan)
    try:
        segments = [directory.segments / name for name in known.index.files]
        ends = {path.name: path.stat().st_size for path in segments if path.exists()}
        if work.shortcut is not None:  # its segments were not read again
            ends |= work.shortcut.ends
        ends |= {place.segment: place.offset for place in work.replay.damage if place.is_expected}
        unusual = work.replay.pending or any(not p.is_expected for p in work.replay.damage)
        if unusual or not all(path.exists() for path in segments):
            write_ends(directory, ends)
        else:
            write_shortcut(directory, Shortcut(known=known, plan=plan, bill=bill, ends=ends))
    except (OSError, StorageError) as error:
        log.debug("no shortcut for the next run: %s", error)

"""What a run refuses before its first call, and `check` and `estimate` tell.

Answers paid twice or lost, a limit without a price, an output that cannot be written.
"""

from itertools import islice

from batch_runner.changes import (
    MOST_CHANGED_SHARE,
    TO_PAY,
    Changes,
    changes_to_send,
    check_changes,
    check_journal_is_there,
    other_model,
    were_for_nothing,
)
from batch_runner.emptied import check_records_are_readable
from batch_runner.errors import ChangedRowsError, UsageError
from batch_runner.job import JobSpec
from batch_runner.output_place import check_writable
from batch_runner.plan import Plan
from batch_runner.spending import check_prices
from batch_runner.transport import find_route
from batch_runner.work import Work


def check_paid_rows(work: Work, plan: Plan, *, most_share: float = MOST_CHANGED_SHARE) -> Changes:
    """The changed rows. Raises ChangedRowsError for more than this share of the answers.

    Answers that cost nothing are not paid for again; a share of 0 is asked for by `--on-change fail`,
    which means any answer.
    """
    check_journal_is_there(work.job, work.replay.index, about_to=TO_PAY)
    changes = changes_to_send(work, plan)
    if most_share and (work.may_repay or were_for_nothing(work)):
        return changes
    kept = work.kept_count
    try:
        check_changes(changes, origin=work.job.origin, most_share=most_share, kept=kept)
    except ChangedRowsError as error:
        if note := other_model(work):
            raise ChangedRowsError(f"{error}; {note}", hint=error.hint) from None
        raise
    return changes


def check_budget(work: Work) -> bool:
    """Whether something bounds each call. Raises UsageError for a max_cost that cannot be kept."""
    to_send = work.requests()
    # Rows built from one template differ in what only reading all of them shows, if they do at all.
    sample = islice(to_send, 1) if work.builder.is_uniform else to_send
    return check_prices(sample, work.biller, origin=work.job.origin)


def check_route(job: JobSpec) -> None:
    """Raise UsageError for a proxy or a CA file that no call could use."""
    endpoint = job.endpoint
    find_route(endpoint.base_url, proxy=endpoint.proxy, ca_file=endpoint.ca_file)


def refusal(work: Work) -> UsageError | None:
    """Why `run` would not start, without options that allow more."""
    try:
        check_writable(work.job)
        check_records_are_readable(work)
        check_paid_rows(work, work.plan)
        check_route(work.job)
        if work.job.limits.max_cost is not None:
            check_budget(work)
    except UsageError as error:
        return error
    return None

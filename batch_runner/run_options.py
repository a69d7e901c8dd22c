"""How to carry a job out, besides what the job itself says."""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from batch_runner.errors import UsageError
from batch_runner.journal import LockPolicy
from batch_runner.plan import Dedupe, Wanted, unfinished
from batch_runner.progress import ProgressStyle
from batch_runner.records import WANTING, RowResult
from batch_runner.spelling import did_you_mean


if TYPE_CHECKING:
    import httpx


class OnChange(StrEnum):
    """`--on-change`: what happens to finished rows whose request is no longer the same."""

    GUARD = "guard"
    """As the last run was told to keep them; else they are sent, unless they are more than a fifth
    of the finished rows of the input."""
    RERUN = "rerun"
    KEEP = "keep"
    """Their old answers stay, for later runs of this prompt and exports too: see `keeping`."""
    FAIL = "fail"
    """Nothing is sent if there is a single one."""


@dataclass(frozen=True, slots=True)
class FailOn:
    """`--fail-on`: the share of rows without a full answer from which on the exit code is 3."""

    share: float = 0.0
    never: bool = False
    only_new: bool = False
    """Rows that had failed for the same reason before this run do not count."""

    def is_failure(self, unanswered: int, rows: int) -> bool:
        return not self.never and unanswered > self.share * rows


def retrying(*statuses: str) -> Wanted:
    """For `RunOptions.wanted`: unfinished rows, and those that ended failed, incomplete or refused.

    Those that were cut off are cut off again, unless the job has `retry.on_incomplete = "retry"`.
    """
    for word in statuses:
        if word not in WANTING:
            raise UsageError(
                f"retry {word!r}: must be one of {', '.join(WANTING)}{did_you_mean(word, WANTING)}"
            )
    if not statuses:
        return unfinished
    return lambda status, code: status in statuses or unfinished(status, code)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """All of it optional: the defaults are those of `batch-runner run JOB`."""

    limit: int | None = None
    """At most so many new rows."""
    fresh: bool = False
    """The journal of earlier runs is put aside, and every row is sent."""
    on_change: OnChange = OnChange.GUARD
    fail_on: FailOn = field(default_factory=FailOn)
    dry_run: bool = False
    if_locked: LockPolicy = LockPolicy.FAIL
    wanted: Wanted = unfinished
    """Which rows to send, by what the journal says of them: see `retrying`."""
    rows: frozenset[int] | None = None
    """Of those, only the rows with these indices."""
    dedupe: Dedupe | None = None
    """None: as the last run of the job was told."""
    write_output: bool = True
    """False leaves the results in the journal, for a later run to export."""
    progress: ProgressStyle = ProgressStyle.AUTO
    handle_signals: bool = True
    signals: AsyncIterable[int] | None = None
    """Instead of those of the process: Ctrl-C of another thread."""
    on_begin: Callable[[], None] | None = None
    """Called once the lock is held and the plan is made, before the first call."""
    transport: "httpx.AsyncBaseTransport | None" = None
    """Instead of the real network, for tests."""
    on_result: Callable[[RowResult], None] | None = None
    """Called in the loop with each row that ended, once it is stored; it had better be quick."""

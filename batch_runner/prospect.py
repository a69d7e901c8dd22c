"""What a run would send and what it would leave alone, and why each."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from batch_runner.amounts import many
from batch_runner.journal import Replay
from batch_runner.outset import endings_of
from batch_runner.plan import Plan, Wanted, unfinished
from batch_runner.records import ANSWERED, RowStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """The rows of the input, sorted by what becomes of them; each is counted once."""

    rows: int
    new: int = 0
    """To send: never asked before."""
    in_flight: int = 0
    """To send: asked before by a run that never heard the answer; paid for, perhaps."""
    damaged: int = 0
    """To send: they ended before, and the journal is damaged where that stood."""
    changed: int = 0
    """To send: answered before in other words."""
    again: Counter[RowStatus] = field(default_factory=Counter)
    """To send: ended before, as these."""
    later: int = 0
    """Would be sent, but for a limit on the rows of this run."""
    done: int = 0
    """Answered, and left alone."""
    failed: int = 0
    """Failed before, and left alone."""
    never: int = 0
    """Never asked in these words, and left alone: `retry` is for rows that ended."""
    copies: int = 0
    """Take the answer of an equal row."""
    duplicates: int = 0
    """Ask for the same as an earlier row, copies included; counted elsewhere, too."""
    without_request: int = 0
    """For an empty or unusable cell."""
    is_retry: bool = False

    @property
    def to_send(self) -> int:
        return self.new + self.in_flight + self.damaged + self.changed + self.again.total()

    def words(self) -> str:
        """`60 rows, 21 to send (19 new, 2 changed), 39 reused`."""
        return ", ".join([many(self.rows, "row"), self.sending(), *self.resting(), *self._odd()])

    def sending(self) -> str:
        """What is sent, for people."""
        kinds = {
            "new": self.new,
            "in flight before": self.in_flight,
            "changed": self.changed,
            "lost to damage in the journal": self.damaged,
            **{f"{status} before": self.again[status] for status in RowStatus},
        }
        found = {kind: n for kind, n in kinds.items() if n}
        words = f"{self.to_send:,} to send"
        if self.is_retry and [*found] == [f"{RowStatus.FAILED} before"]:
            return words  # that is what `retry` is for
        if len(found) == 1:
            return f"{words} ({'all ' if self.to_send > 1 else ''}{next(iter(found))})"
        return words + (
            f" ({', '.join(f'{n:,} {kind}' for kind, n in found.items())})" * bool(found)
        )

    def resting(self) -> Iterator[str]:
        """What is not sent, and why, for people."""
        if self.done:
            yield f"{self.done:,} reused"
        if self.failed:
            why = "not named by --only" if self.is_retry else "batch-runner retry sends them"
            yield f"{self.failed:,} failed before ({why})"
        if self.never:
            yield f"{self.never:,} not asked yet as they are now (batch-runner run sends them)"
        if self.later:
            yield f"{self.later:,} left for later"

    def _odd(self) -> Iterator[str]:
        if self.duplicates:
            asks = "asks" if self.duplicates == 1 else "ask"
            shared = ", answered by one call" if self.copies else " (--dedupe would send it once)"
            yield f"{self.duplicates:,} {asks} for the same as another{shared}"
        if self.without_request:
            yield f"{self.without_request:,} without a request (empty or unusable cells)"

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "to_send": self.to_send,
            "new": self.new,
            "in_flight_before": self.in_flight,
            "lost_to_damage": self.damaged,
            "changed": self.changed,
            "ended_before": {str(status): n for status, n in self.again.items() if n},
            "left_for_later": self.later,
            "done_before": self.done,
            "failed_before": self.failed,
            "never_asked": self.never,
            "copies": self.copies,
            "duplicates": self.duplicates,
            "without_request": self.without_request,
        }


def prospect_of(
    plan: Plan, journal: Replay, *, changed: Collection[int] = (), wanted: Wanted = unfinished
) -> Prospect:
    """Of a run that sends what the plan wants; `changed` rows were answered in other words before."""
    index = journal.index
    sent = index.endings(compress(plan.entries, plan.wanted))
    resting = endings_of(plan, index, copies=False)
    resting.subtract(sent)
    resting.subtract(plan.unsendable)
    again, left = Counter[RowStatus](), Counter[RowStatus]()
    for (status, _), n in sent.items():
        again[status] += n
    later = 0
    for (status, code), n in resting.items():
        if wanted(status, code):
            later += n
        else:
            left[status] += n
    unanswered = again.pop(RowStatus.PENDING, 0)
    edited = sum(plan.wanted[row] and index.entry(plan.entries[row]) is None for row in changed)
    in_flight, damaged = _without_ending(plan, journal, changed)
    return Prospect(
        rows=plan.rows,
        new=unanswered - edited - in_flight - damaged,
        in_flight=in_flight,
        damaged=damaged,
        changed=edited,
        again=again,
        later=later,
        done=sum(left[status] for status in ANSWERED),
        failed=left[RowStatus.FAILED],
        never=left[RowStatus.PENDING],
        copies=plan.copies,
        duplicates=plan.duplicates,
        without_request=plan.unsendable.total(),
        is_retry=wanted is not unfinished,
    )


def _without_ending(plan: Plan, journal: Replay, changed: Collection[int]) -> tuple[int, int]:
    """How many rows to send were asked before and have no result: in flight, and lost to damage."""
    index = journal.index
    asked = {index.number(intent.key): intent.has_ended for intent in journal.unknown}
    waiting = {n: ended for n, ended in asked.items() if n is not None and index.entry(n) is None}
    if not waiting:
        return 0, 0
    wanted = compress(enumerate(plan.entries), plan.wanted)
    found = [waiting[entry] for row, entry in wanted if entry in waiting and row not in changed]
    return found.count(False), found.count(True)

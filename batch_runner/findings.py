"""Everything a report tells, gathered in one pass over the results; bounded, whatever the rows."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b

from batch_runner.bill import Bill, Biller
from batch_runner.journal import Intent, PastRun
from batch_runner.origins import endpoint_in_words
from batch_runner.plan import UNSENDABLE
from batch_runner.printable import printable, shortened
from batch_runner.records import ANSWERED, Completion, RowResult, RowStatus, UnknownBilling
from batch_runner.tally import LatencyHistogram
from batch_runner.timeline import Timeline
from batch_runner.work import Work


MOST_SLOW = 10
MOST_COSTLY = 10
MOST_EMPTY = 5
MOST_RANDOM = 6
MOST_CODES = 40
"""Error codes with an example; a server may invent a new one for every row."""
LONGEST_TEXT = 700
SEED = b"batch_runner"
"""Of the random rows: the same journal always shows the same ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A row worth reading."""

    key: bytes
    row: int
    label: str | None
    status: RowStatus
    code: str | None
    message: str | None
    text: str
    """What the model wrote, cut to `LONGEST_TEXT` characters."""
    characters_left_out: int
    attempts: int
    latency_seconds: float | None
    cost: Decimal | None
    output_tokens: int | None


class Shortlist:
    """The samples with the largest values; a row that ends again replaces itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[bytes, tuple[float, Sample]] = {}
        self._least = -math.inf
        """What a value must exceed to be kept."""

    def wants(self, key: bytes, value: float) -> bool:
        return value > self._least or key in self._kept

    def put(self, value: float, sample: Sample) -> None:
        self._kept[sample.key] = (value, sample)
        if len(self._kept) > self._most:
            del self._kept[min(self._kept, key=lambda key: self._kept[key][0])]
        if len(self._kept) == self._most:
            self._least = min(kept for kept, _ in self._kept.values())

    def samples(self) -> list[Sample]:
        """Largest first."""
        ranked = sorted(self._kept.values(), key=lambda kept: -kept[0])
        return [sample for _, sample in ranked]


@dataclass(slots=True, kw_only=True)
class RunCourse:
    """What one run did."""

    run: PastRun | None
    """None: the journal does not say (a damaged header)."""
    rows: int = 0
    not_ok: int = 0
    """Rows that failed, were cut off or refused."""
    first: float | None = None
    last: float | None = None
    bill: Bill = field(default_factory=Bill)

    @property
    def started_at(self) -> float | None:
        return self.run.started_at if self.run is not None else self.first

    @property
    def seconds(self) -> float:
        """From the run's start to its last row."""
        if self.started_at is None or self.last is None:
            return 0.0
        return max(0.0, self.last - self.started_at)


class Findings:
    """Results seen so far. `add` them in the order in which they were written."""

    def __init__(self, biller: Biller, runs: Sequence[PastRun]) -> None:
        self.answered_calls = 0
        """Calls that gave a row its answer."""
        self.lost_calls = 0
        """Calls that were begun and whose end nothing tells."""
        self.unknown: dict[UnknownBilling, Bill] = {}
        """Attempts of unknown billing by cause, each with its bound."""
        self.models: Counter[str] = Counter()
        self.endpoints: Counter[str] = Counter()
        """Of the rows of the output, how many each has answered, in words."""
        self.timeline = Timeline()
        self.latencies = LatencyHistogram()
        self.left_over = 0
        """Results of requests that no row of the input asks for any more; they were paid for."""
        self.examples: dict[str, Sample] = {}
        """Per error code the last row that ended so."""
        self.slowest = Shortlist(MOST_SLOW)
        self.costliest = Shortlist(MOST_COSTLY)
        self.empty = Shortlist(MOST_EMPTY)
        self.random = Shortlist(MOST_RANDOM)
        self.courses = [RunCourse(run=run) for run in runs] or [RunCourse(run=None)]
        self._by_id = {one.run.run_id: one for one in self.courses if one.run is not None}
        self._starts = [run.started_at for run in runs]
        self._biller = biller

    def add(self, result: RowResult, *, counts: bool) -> None:
        """`counts`: the row stands so in the output. Others were called and paid for all the same."""
        bill = self._biller.bill(result)
        self.answered_calls += isinstance(result.ending, Completion) and bool(result.billed)
        if result.unknown:
            self._add_unknown(result)
        self._add_to_run(result, bill)
        if (seconds := result.reply_seconds) is not None:
            self.latencies.add(seconds)
        if result.model and (result.model in self.models or len(self.models) < MOST_CODES):
            self.models[result.model] += 1
        if counts and result.status in ANSWERED:
            self._add_endpoint(result)
        if result.started_at is not None and result.finished_at is not None:
            self.timeline.add(
                result.started_at,
                result.finished_at,
                failed=result.status is RowStatus.FAILED,
                repeats=max(0, result.attempts - 1),
                repeated_at=result.repeated_at,
            )
        if counts:
            self._consider(result, bill.listed if result.billed and not bill.unpriced else None)

    def add_lost_call(self, intent: Intent) -> None:
        """A call was in flight when its process died, or the record of its end is damaged."""
        self.lost_calls += 1
        course = self._course(intent.run_id, None)
        bill = self._biller.bill_lost(intent, at=None)
        course.bill.merge(bill)
        for cause in bill.unknown:
            self.unknown.setdefault(cause, Bill()).merge(bill)

    def bill(self) -> Bill:
        """Of all runs, calls lost in crashes included."""
        total = Bill()
        for course in self.courses:
            total.merge(course.bill)
        return total

    def samples(self) -> list[Sample]:
        """All that are shown anywhere."""
        lists = (self.slowest, self.costliest, self.empty, self.random)
        return [*self.examples.values(), *(one for kept in lists for one in kept.samples())]

    def _add_unknown(self, result: RowResult) -> None:
        ceiling = self._biller.ceiling(
            result.asked_model or result.model or "",
            result.request_bytes,
            result.max_output_tokens,
            at=result.started_at,
        )
        for cause, attempts in result.unknown.items():
            bill = self.unknown.setdefault(cause, Bill())
            bill.unknown[cause] += attempts
            bill.bound(ceiling, calls=attempts)

    def _add_to_run(self, result: RowResult, bill: Bill) -> None:
        finished = result.finished_at
        course = self._course(result.run_id, finished)
        course.rows += 1
        course.not_ok += result.status is not RowStatus.OK
        course.bill.merge(bill)
        if finished is not None:
            course.first = min(course.first or finished, result.started_at or finished)
            course.last = max(course.last or finished, finished)

    def _add_endpoint(self, result: RowResult) -> None:
        run = self._course(result.run_id, result.finished_at).run
        url = None if run is None else run.settings.get("base_url")
        if run is not None and url is not None:
            name = endpoint_in_words(url, run.settings.get("model"))
            if name in self.endpoints or len(self.endpoints) < MOST_CODES:
                self.endpoints[name] += 1

    def _course(self, run_id: str | None, at: float | None) -> RunCourse:
        """That of the run; where the journal does not say which (a damaged header), by the time."""
        if run_id in self._by_id:
            return self._by_id[run_id]
        position = bisect_right(self._starts, at) - 1 if at is not None else 0
        return self.courses[max(0, position)]

    def _consider(self, result: RowResult, cost: Decimal | None) -> None:
        key, ending = result.key, result.ending
        if result.code and (result.code in self.examples or len(self.examples) < MOST_CODES):
            self.examples[result.code] = self._sample(result, cost)
        if result.latency_seconds is not None:
            self._offer(self.slowest, result.latency_seconds, result, cost)
        if cost:
            self._offer(self.costliest, float(cost), result, cost)
        called_a_tool = isinstance(ending, Completion) and bool(ending.tool_calls)
        if result.billed and not called_a_tool and not ending.text.strip():
            self._offer(self.empty, -result.row, result, cost)
        if isinstance(ending, Completion):
            lot = blake2b(key, key=SEED, digest_size=6).digest()
            self._offer(self.random, int.from_bytes(lot, "big"), result, cost)

    def _offer(
        self, shortlist: Shortlist, value: float, result: RowResult, cost: Decimal | None
    ) -> None:
        if shortlist.wants(result.key, value):
            shortlist.put(value, self._sample(result, cost))

    def _sample(self, result: RowResult, cost: Decimal | None) -> Sample:
        usage, ending = result.final_usage, result.ending
        label, code, message = result.label, result.code, ending.message
        return Sample(
            key=result.key,
            row=result.row,
            label=None if label is None else printable(shortened(label, 80)),
            status=result.status,
            code=None if code is None else printable(shortened(code, 60)),
            message=message and printable(shortened(message, 500)),
            text=printable(shortened(ending.text, LONGEST_TEXT)),
            characters_left_out=max(0, len(ending.text) - LONGEST_TEXT),
            attempts=result.attempts,
            latency_seconds=result.latency_seconds,
            cost=cost,
            output_tokens=None if usage is None else usage.output_tokens,
        )


def gather(work: Work, runs: Sequence[PastRun] | None = None) -> Findings:
    """All the journal tells of the job: one pass over its results, one byte of memory a row.

    `runs` are those of the journal unless given.
    """
    index = work.replay.index
    findings = Findings(work.biller, work.replay.runs if runs is None else runs)
    shown = bytearray(len(index))
    for number in work.plan.entries:
        if number != UNSENDABLE:
            shown[number] = 1
    for result in work.replay.results():
        # An ending that a later one has replaced differs from what the index says, or is followed
        # by the one that takes its place in every list.
        entry = index.find(result.key)
        if entry is None:
            continue  # it ended while this is being told
        is_row = shown[entry.number] == 1
        stands = (entry.status, entry.code) == (result.status, result.code)
        findings.add(result, counts=is_row and stands)
        findings.left_over += not is_row
    for intent in work.replay.unknown:
        findings.add_lost_call(intent)
    return findings

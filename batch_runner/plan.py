"""The input laid against the journal: which rows are finished, and which are to be sent."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path

from batch_runner.columns import renaming
from batch_runner.errors import InputError, JobError
from batch_runner.job import BadRowPolicy, InputFormat, JobSpec
from batch_runner.journal import Index
from batch_runner.prompt import UNDEFINED, PromptBuilder, row_key
from batch_runner.records import (
    KEY_BYTES,
    BadRecord,
    Column,
    ErrorCode,
    Failure,
    Request,
    Row,
    RowStatus,
    other,
)
from batch_runner.tables import Table, TornLine, ignore


NAMED_PLACES = 5
"""Places an error names; after so many the user knows what to look for."""
REMEMBERED_BAD_RECORDS = 10_000

TRANSIENT = frozenset({
    ErrorCode.RATE_LIMITED, ErrorCode.TIMEOUT, ErrorCode.CONNECTION, ErrorCode.SERVER_ERROR,
    ErrorCode.AUTH, ErrorCode.NOT_FOUND, ErrorCode.QUOTA, ErrorCode.BAD_REPLY, other("stopped"), other("cancelled"),
})  # fmt: skip
"""Failures that may pass by themselves: the next run tries them again. Others wait for `retry`."""


class Dedupe(StrEnum):
    """`--dedupe`: whether rows that ask for the same share one call."""

    OFF = "off"
    ON = "on"
    """Refused where answers are drawn at random: each row would deserve its own draw."""
    FORCED = "forced"
    """Even then."""


def check_dedupe(job: JobSpec) -> None:
    """Raise JobError for a job whose equal requests are meant to get different answers."""
    _refuse_drawn(job.request.get("temperature"), place=job.place("request.temperature"))


def _refuse_drawn(temperature: object, *, place: str) -> None:
    if temperature is None or (isinstance(temperature, int | float) and temperature <= 0):
        return
    raise JobError(
        f"{place}: {temperature!r} draws each answer at random, and "
        "--dedupe would give equal rows the same one",
        hint="--force-dedupe does it all the same; or drop --dedupe, or set temperature = 0",
    )


UNSENDABLE = 0xFFFFFFFF
"""Stands for an entry number: the row has no request (missing value, bad input)."""

WITHOUT_REQUEST = frozenset({ErrorCode.MISSING_VALUE, ErrorCode.BAD_INPUT})
"""Codes of those rows, and of no others: `retry` cannot send them."""

Wanted = Callable[[RowStatus, str | None], bool]
"""Whether a row that stands so (status and code; PENDING without a result) is to be sent."""
Watch = Callable[[Request, bool, int], None]
"""A request, whether it is to be sent, and how many rows before it ask for the same."""


def unfinished(status: RowStatus, code: str | None) -> bool:
    """`run`: rows without a result, and failures that may pass by themselves."""
    return status is RowStatus.PENDING or (status is RowStatus.FAILED and code in TRANSIENT)


@dataclass(slots=True, kw_only=True)
class Plan:
    """One place a row: 9 bytes, 8 more where rows have labels, and as many for a row that lacks a request."""

    entries: "array[int]" = field(default_factory=lambda: array("I"))
    """Per row: its entry in the journal's index."""
    occurrences: "array[int]" = field(default_factory=lambda: array("I"))
    """Per row: how many rows before it ask for the same."""
    wanted: bytearray = field(default_factory=bytearray)
    """Per row: 1 when it is to be sent."""
    labels: "array[int]" = field(default_factory=lambda: array("Q"))
    """Per row: see `digest_of_label`; empty where rows have none."""
    duplicates: int = 0
    """Rows whose request equals that of an earlier row."""
    dedupe: bool = False
    """Those rows share the entry of the first: one call answers them all."""
    unsendable: Counter[tuple[RowStatus, str]] = field(default_factory=Counter)
    """Rows without a request, by status and code."""
    lacking: "array[int]" = field(default_factory=lambda: array("Q"))
    """Those of them that nobody meant to leave out: what each is known by in another plan, which is
    its label, else all that was read of it."""
    bad: list[BadRecord] = field(default_factory=list)
    bad_count: int = 0
    torn: list[TornLine] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    """Of the input, as far as they showed."""

    @property
    def rows(self) -> int:
        return len(self.entries)

    @property
    def to_send(self) -> int:
        return self.wanted.count(1)

    @property
    def copies(self) -> int:
        """Rows that get the answer of an earlier row."""
        return self.duplicates if self.dedupe else 0

    @property
    def not_wanted(self) -> int:
        """Rows with a request of their own that is not to be sent: done before, or not chosen now."""
        return self.rows - self.to_send - self.unsendable.total() - self.copies

    def keep_first(self, limit: int) -> None:
        """Only the first `limit` wanted rows stay wanted."""
        position = -1
        for _ in range(limit):
            position = self.wanted.find(1, position + 1)
            if position < 0:
                return
        self.wanted[position + 1 :] = bytes(self.rows - position - 1)

    def keep_only(self, rows: Collection[int]) -> None:
        """Of the wanted rows only those among `rows` stay wanted."""
        kept = [row for row in rows if row < self.rows and self.wanted[row]]
        self.wanted[:] = bytes(self.rows)
        for row in kept:
            self.wanted[row] = 1

    def choose(self, index: Index, wanted: Wanted) -> None:
        """The rows that are to be sent are those that are `wanted`, copies excepted."""
        verdicts = [wanted(status, code) for status, code in index.known_endings]
        ending_of = index.ending_of
        self.wanted = bytearray(
            entry != UNSENDABLE and verdicts[ending_of(entry)] for entry in self.entries
        )
        if self.dedupe:
            for row, occurrence in enumerate(self.occurrences):
                if occurrence:
                    self.wanted[row] = 0

    def has_request(self, row: int) -> bool:
        return self.entries[row] != UNSENDABLE

    def is_copy(self, row: int) -> bool:
        """The row has the answer of an earlier row, which has the cost, too."""
        return self.dedupe and self.occurrences[row] > 0


def make_plan(
    job: JobSpec,
    table: Table,
    builder: PromptBuilder,
    index: Index,
    *,
    wanted: Wanted,
    new_columns: tuple[Column, ...],
    dedupe: Dedupe = Dedupe.OFF,
    watch: Watch | None = None,
) -> Plan:
    """Every row of the input, judged; reads it once from end to end, before the first call.

    `watch` sees each request, and whether it is to be sent.
    Raises InputError for records that are no rows (unless they are skipped), for labels that are
    not unique, and for columns that are not there.
    """
    shared = dedupe is not Dedupe.OFF
    plan = Plan(dedupe=shared)
    labels = _Labels(job)
    times = array("I")
    undefined: list[str] = []
    seen: dict[str, None] = dict.fromkeys(table.header or ())
    for row in table.rows(columns=builder.columns, on_bad=_bad_record_keeper(job, plan)):
        if table.header is None:
            seen |= dict.fromkeys(row.values)
        label = builder.label(row)
        labels.check(row, label)
        if label is not None:
            plan.labels.append(digest_of_label(label))
        request = builder.build(row)
        if isinstance(request, Failure):
            plan.unsendable[request.status, str(request.code)] += 1
            if request.status is RowStatus.FAILED:
                name = repr([*row.values.items()]) if label is None else label
                plan.lacking.append(digest_of_label(name))
            _append(plan, UNSENDABLE, 0)
            if UNDEFINED in request.message:
                undefined.append(f"{row.place}: {request.message}")
                del undefined[NAMED_PLACES:]
            continue
        number, occurrence = _entry_of(request.key, index, times, shared=shared)
        plan.duplicates += occurrence > 0
        if dedupe is Dedupe.ON and occurrence and job.prompt.body is not None:
            drawn = json.loads(request.body).get("temperature")
            _refuse_drawn(drawn, place=f"{row.place}: temperature")
        _append(plan, number, occurrence)
        if watch is not None:
            is_wanted = wanted(*index.named(index.ending_of(number)))
            watch(request, is_wanted and not (shared and occurrence), occurrence)
    plan.choose(index, wanted)
    _raise_for_bad(job, plan)
    plan.columns = tuple(seen)
    if plan.rows:
        builder.check_columns(seen, source=job.input.path[0])
        _raise_if_nothing_fits(job, plan, undefined)
    labels.raise_for_duplicates(table)
    check_new_columns(job, plan.columns, new_columns)
    return plan


def requests(plan: Plan, table: Table, builder: PromptBuilder, index: Index) -> Iterator[Request]:
    """The requests to send, in input order; reads the input a second time.

    Rows that were appended since the plan was made are left for the next run. Raises InputError
    when the input is otherwise not what it was.
    """
    changed = InputError(
        f"{table.paths[0]} changed while it was read",
        hint="finished rows are kept; run again once nobody writes to it",
    )
    read = 0
    for row in table.rows(columns=builder.columns, on_bad=ignore):
        if row.index >= plan.rows:
            return
        read += 1
        if not plan.wanted[row.index]:
            continue
        request = builder.build(row)
        if isinstance(request, Failure):
            raise changed
        occurrence = plan.occurrences[row.index]
        if occurrence:
            request = replace(request, key=row_key(request.key, occurrence))
        if index.key(plan.entries[row.index]) != request.key:
            raise changed
        yield request
    if read < plan.rows:
        raise changed


def _entry_of(digest: bytes, index: Index, times: "array[int]", *, shared: bool) -> tuple[int, int]:
    """The entry number of the next row with this digest, and which occurrence it is."""
    first = index.add(digest)
    if first >= len(times):
        times.extend([0] * (max(len(index), first + 1) - len(times)))
    occurrence = times[first]
    times[first] += 1
    if occurrence == 0 or shared:
        return first, occurrence
    return index.add(row_key(digest, occurrence)), occurrence


def _append(plan: Plan, entry: int, occurrence: int) -> None:
    plan.entries.append(entry)
    plan.occurrences.append(occurrence)


def _bad_record_keeper(job: JobSpec, plan: Plan) -> Callable[[BadRecord], None]:
    def keep(record: BadRecord) -> None:
        if isinstance(record, TornLine):
            plan.torn.append(record)
            return
        plan.bad_count += 1
        if len(plan.bad) < REMEMBERED_BAD_RECORDS:
            plan.bad.append(record)
        if job.input.on_bad_row is BadRowPolicy.FAIL and plan.bad_count >= NAMED_PLACES:
            _raise_for_bad(job, plan)

    return keep


def _raise_for_bad(job: JobSpec, plan: Plan) -> None:
    if not plan.bad or job.input.on_bad_row is BadRowPolicy.SKIP:
        return
    places = "\n".join(f"  {record.place}: {record.reason}" for record in plan.bad[:NAMED_PLACES])
    raise InputError(
        f"records that cannot be read as rows:\n{places}",
        hint='mend them, or set on_bad_row = "skip" under [input]',
    )


def _raise_if_nothing_fits(job: JobSpec, plan: Plan, undefined: list[str]) -> None:
    """A field that no row has is a slip in the template, not a fault of every row."""
    if not undefined or len(plan.lacking) < plan.rows:
        return
    raise JobError(
        f"{job.place('prompt')}: a template asks for a field that no row has: {undefined[0]}",
        hint="is a name behind a dot misspelt?",
    )


@dataclass(frozen=True, slots=True)
class _NoName:
    """A row whose label names nothing, or names another row."""

    row: Row
    label: str
    first: int | None = None
    """The row that has it already."""

    def told(self, rows: Mapping[int, Row]) -> str:
        """With the places of both; `rows` are those that came first."""
        if self.first is None:
            return f"  {self.row.place}: empty"
        again = f"  {self.row.place}: {self.label!r} again"
        if (first := rows.get(self.first)) is None:  # gone since it was read
            return again
        file = Path(first.source)
        name = file.name if first.source == self.row.source else str(file)
        return f"{again}, first at {name}:{first.line}"


def digest_of_label(label: str) -> int:
    """8 bytes, to know a row again by."""
    digest = blake2b(label.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class _Labels:
    """Sees to it that `input.key` names each row once; 20 bytes a row."""

    def __init__(self, job: JobSpec) -> None:
        self._job = job
        self._seen = Index()
        self._wrong: list[_NoName] = []

    def check(self, row: Row, label: str | None) -> None:
        if label is None or len(self._wrong) >= NAMED_PLACES:
            return
        if not label.strip("/"):
            self._wrong.append(_NoName(row, label))
            return
        known = len(self._seen)
        digest = blake2b(label.encode(errors="surrogatepass"), digest_size=KEY_BYTES).digest()
        if (number := self._seen.add(digest)) < known:
            self._wrong.append(_NoName(row, label, self._row_of(number)))

    def _row_of(self, number: int) -> int:
        """The row that brought a label: each row so far did, but for those that are wrong."""
        row = number
        for one in self._wrong:
            row += one.row.index <= row
        return row

    def raise_for_duplicates(self, table: Table) -> None:
        if not self._wrong:
            return
        firsts = _rows_at(table, {one.first for one in self._wrong if one.first is not None})
        examples = "\n".join(one.told(firsts) for one in self._wrong)
        if self._job.input.format is InputFormat.OPENAI_BATCH:
            raise InputError(
                f"custom_id does not name each request once:\n{examples}",
                hint="give each line a custom_id of its own; the hosted batch API asks for it, too",
            )
        raise InputError(
            f"{self._job.place('input.key')}: {'/'.join(self._job.input.key)!r} does not name "
            f"each row once:\n{examples}",
            hint="choose a column with unique values, several columns, or none",
        )


def _rows_at(table: Table, places: Collection[int]) -> dict[int, Row]:
    """Reads the input once more, as far as needed."""
    last = max(places, default=-1)
    rows = takewhile(lambda row: row.index <= last, table.rows(columns=(), on_bad=ignore))
    return {row.index: row for row in rows if row.index in places}


def check_new_columns(job: JobSpec, seen: Collection[str], new_columns: tuple[Column, ...]) -> None:
    """Raise JobError when the input has a column already that the output would add."""
    taken = [column.name for column in new_columns if column.name in seen]
    if taken:
        raise JobError(
            f"{job.origin}: output: the input already has a column {taken[0]!r}",
            hint=renaming(job, taken[0]),
        )

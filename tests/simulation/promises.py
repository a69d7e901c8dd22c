"""What must hold in every history, told from outside: by what the disk took and the endpoint saw.

Nothing here asks the program what it believes. A result is finished when the write of its whole
line has returned, and durable when a sync of its file has; both are seen at the disk.
"""

import json
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from zlib import crc32

from tests.simulation.endpoint import MODEL


ANSWERED = ("ok", "incomplete", "refused")
SEAL = len(b',"crc":"00000000"}')
SLACK_SECONDS = 0.1
"""What the sync thread of the simulation may be late."""


@dataclass(kw_only=True)
class Finished:
    """A result whose line is whole on the disk."""

    key: str
    status: str
    code: str | None
    answer: str
    segment: str = ""
    line: bytes = b""
    inode: object = None
    process: int = 0
    at: float = 0.0
    durable: bool = False
    acknowledged: bool = False
    """Told to the caller: `on_result`."""

    @property
    def is_final(self):
        """Never to be asked again by itself."""
        return self.status in ANSWERED or self.code in ("bad_request", "empty_output")


class Promises:
    """Collects what was broken; `where` names the run."""

    def __init__(self, *, clock, tell, is_troubled):
        self.clock = clock
        self.tell = tell
        self.is_troubled = is_troubled
        self.broken = []
        self.finished = {}
        self.heads = {}
        self.keys_of = {}
        self.most_rows_of = {}
        self.process = 0
        self.excused = Decimal(0)
        self.may_break_off = None
        self._rest = {}
        self._traces = []
        self._judged_calls = 0

    def new_process(self, process, rows):
        self.process = process
        self._rest = {}
        for head, times in Counter(text.split()[0] for _, text in rows).items():
            self.most_rows_of[head] = max(self.most_rows_of.get(head, 0), times)

    def check(self, holds, message):
        if not holds:
            self.tell(f"BROKEN: {message}")
            self.broken.append(message)

    # What the endpoint sees.

    def call_arrives(self, call, calls):
        done = self.finished.get(call.key)
        self.check(
            done is None or not (done.is_final or done.process == self.process),
            f"paid twice: call {call.number} asks for {call.head} again, which is finished",
        )
        twin = next((c for c in calls if c.in_flight and c.key == call.key), None)
        self.check(
            twin is None or twin.process != call.process,
            f"paid twice: call {call.number} asks for {call.head} while it is in flight",
        )
        self.check(
            self.heads.setdefault(call.key, call.head) == call.head,
            f"one key for two texts: {self.heads[call.key]} and {call.head}",
        )
        keys = self.keys_of.setdefault(call.head, set())
        keys.add(call.key)
        self.check(
            len(keys) <= self.most_rows_of.get(call.head, 0),
            f"{call.head}: {len(keys)} keys for {self.most_rows_of.get(call.head, 0)} rows",
        )

    def call_broken_off(self, call):
        if self.may_break_off is not None:
            self.check(self.may_break_off(call), f"call {call.number} was broken off without need")

    # What the disk sees.

    def wrote(self, fd, inode, data):
        segment = Path(inode.path)
        if segment.parent.name != "journal":
            return
        begun = self._rest.get((fd, inode.path), b"")  # numbers of closed files are used again
        *lines, self._rest[fd, inode.path] = (begun + data).split(b"\n")
        if is_whole(self._rest[fd, inode.path]):
            lines.append(self._rest[fd, inode.path])  # nothing but its newline is missing
        for line in lines:
            self._traces.append((segment.name, line, self.process))
            if found := read_result(line):
                found.segment, found.line = segment.name, line
                self._finish(found, inode)

    def _finish(self, found, inode):
        found.process, found.at, found.inode = self.process, self.clock.now, inode
        before = self.finished.get(found.key)
        if before is None or found.status in ANSWERED or before.status not in ANSWERED:
            self.finished[found.key] = found
        head = self.heads.get(found.key)
        if found.status in ANSWERED:
            self.check(
                found.answer.split()[3:4] == [head],
                f"wrong answer stored for {head}: {found.answer[:40]!r}",
            )

    def synced(self, inode):
        for found in self.finished.values():
            found.durable = found.durable or found.inode is inode

    def told(self, result):
        """The caller was told of this result: it must be on the disk, if the disk took it."""
        key = result.key.hex()
        self.check(
            key in self.finished or self.is_troubled(),
            f"row {result.row} was acknowledged before it was written",
        )
        if key in self.finished:
            self.finished[key].acknowledged = True

    # After a crash.

    def survived(self, journal, *, period_seconds, calls, troubled):
        """The machine lost power: what is left of the journal is what was finished."""
        left = {
            (segment.name, line)
            for segment in journal.glob("*.jsonl")
            for line in segment.read_bytes().split(b"\n")
        }
        for key, found in list(self.finished.items()):
            if (found.segment, found.line) in left:
                found.durable = True
                continue
            age = self.clock.now - found.at
            if period_seconds is not None and found.process == self.process:
                told_at_once = period_seconds == 0 and found.acknowledged and not troubled
                overdue = age > period_seconds + SLACK_SECONDS and not troubled
                self.check(
                    not (found.durable or told_at_once or overdue),
                    f"{self.heads.get(key)}: lost in a power cut {age:.3f} s after it was finished",
                )
            del self.finished[key]
        self._excuse(calls, left)

    def _excuse(self, calls, left):
        """Calls whose traces the power cut took: nobody can know of them."""
        intents, answered = Counter(), set()
        for segment, line, process in self._traces:
            if (segment, line) not in left:
                continue
            key = line[11:43].decode()
            intents[key, process] += line.startswith(b'{"intent":"')
            if line.startswith(b'{"result":"'):
                answered.add((key, process))
        costs = {}
        for call in calls[self._judged_calls :]:
            costs.setdefault((call.key, call.process), []).append(call.cost)
        for attempt, spent in costs.items():
            if attempt not in answered:
                self.excused += sum(sorted(spent)[intents[attempt] :], Decimal(0))
        self._traces.clear()
        self._judged_calls = len(calls)

    # After a run.

    def check_bill(self, bill, calls, *, disturbed, crashed):
        at_least, at_most = bill.at_least, bill.at_most
        ledger = sum((call.cost for call in calls), Decimal(0))
        arrived, worked_on = len(calls), sum(call.cost > 0 for call in calls)
        self.check(at_least is not None, "the bill knows no lower bound")
        self.check(
            at_least is None or at_least <= ledger,
            f"the bill says at least ${at_least}, and the endpoint charged ${ledger}",
        )
        self.check(at_most is not None, "the bill has no upper bound, though every call has one")
        self.check(
            at_most is None or ledger <= at_most + self.excused,
            f"the bill says at most ${at_most}, and the endpoint charged ${ledger}",
        )
        self.check(
            disturbed or worked_on <= bill.calls <= arrived,
            f"the bill counts {bill.calls} calls, {arrived} arrived, {worked_on} were worked on",
        )
        self.check(
            crashed or not bill.unknown["crash"], "calls are said to have been lost in a crash"
        )
        self.check(crashed or not bill.unknown["damaged"], "calls are said to be lost to damage")

    def check_output(self, rows, output, calls, *, exit_code, limited):
        """`rows` are (id, text) as in the input, `output` those of the file with status and text."""
        self.check(len(output) == len(rows), f"{len(output)} rows of output for {len(rows)}")
        used = {}
        for (name, text), (out_name, out_text, status, answer) in zip(rows, output, strict=False):
            head = text.split()[0]
            self.check((name, text) == (out_name, out_text), f"row {name} became {out_name}")
            if status not in ANSWERED:
                continue
            words = answer.split()
            self.check(words[3:4] == [head], f"wrong answer: {head} got {answer[:40]!r}")
            call = calls[int(words[1])]
            self.check(answer == call.answer, f"{head}: the answer of call {words[1]} is not whole")
            self.check(
                used.setdefault(words[1], name) == name,
                f"call {words[1]} answers both {used[words[1]]} and {name}",
            )
        self._check_counts(rows, output)
        statuses = {status for _, _, status, _ in output}
        if exit_code == 0:
            allowed = {"ok", "pending"} if limited else {"ok"}
            self.check(statuses <= allowed, f"exit 0 with {sorted(statuses)}")
        if exit_code == 3:
            self.check(
                statuses & {"failed", "incomplete", "refused"}, "exit 3 without a failed row"
            )
            self.check(limited or "pending" not in statuses, "exit 3 with pending rows")

    def _check_counts(self, rows, output):
        """Of equal rows, as many are answered as there are finished answers."""
        answered = {}
        for _, text, status, _ in output:
            head = text.split()[0]
            answered[head] = answered.get(head, 0) + (status in ANSWERED)
        for head in {text.split()[0] for _, text in rows}:
            keys = self.keys_of.get(head, ())
            stored = sum(k in self.finished and self.finished[k].status in ANSWERED for k in keys)
            self.check(
                answered.get(head, 0) == stored,
                f"{head}: {stored} finished answers, {answered.get(head, 0)} in the output",
            )


def is_whole(line):
    return line[-SEAL:] == b',"crc":"%08x"}' % crc32(line[:-SEAL])


def read_result(line):
    """The result a journal line holds, read without the program's own reader."""
    if not line.startswith(b'{"result":"') or not is_whole(line):
        return None
    fields = json.loads(line)
    reply = fields.get("reply") or {}
    parts = [
        part["text"]  # null where it stands beside the reply
        for item in reply.get("output") or ()
        for part in item.get("content") or ()
    ]
    assert reply.get("model", MODEL) == MODEL
    return Finished(
        key=fields["result"],
        status=fields["status"],
        code=fields["code"],
        answer=fields["text"] if "text" in fields else "".join(parts),
    )

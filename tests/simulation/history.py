"""One history: a small job, run again and again through trouble, until it is done."""

import csv
import json
import random
import shutil
import signal
import tempfile
from collections import Counter
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from batch_runner.errors import BatchRunnerError, StorageError, UsageError
from batch_runner.jobmapping import job_from_mapping
from batch_runner.progress import ProgressStyle
from batch_runner.runner import OnChange, RunOptions, run
from tests.simulation.clock import Clock, Killed, Loop, StuckError
from tests.simulation.disk import DiskFaults, SimulatedDisk
from tests.simulation.endpoint import CAP, DOLLARS_IN, DOLLARS_OUT, FAULTS, MODEL, Endpoint
from tests.simulation.promises import Promises
from tests.simulation.seams import installed


PERIODS = {"now": 0.0, "100ms": 0.1, "1s": 1.0, "off": None}
MEMORY_FOLDER = Path("/dev/shm")
FIELDS = ("id", "text")


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    broken: list
    events: list
    counts: Counter = field(default_factory=Counter)

    def __str__(self):
        lines = [f"seed {self.seed}: {len(self.broken)} promises broken", *self.events]
        return "\n  ".join(lines) + f"\n  again: make sim SEED={self.seed}"


def play(seed, bug=None, *, rough=False):
    """The outcome of the history that `seed` stands for.

    `bug` is a context manager that plants one. In a `rough` world nearly every run ends in the
    middle of a write, by a power cut.
    """
    place = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    folder = tempfile.mkdtemp(prefix="sim-", dir=place)
    try:
        with chdir(folder):
            world = World(seed, rough=rough)
            with installed(world), bug() if bug else _no_bug():
                world.live()
            world.tell(f"files {_digest(Path())}")
            return Outcome(seed, world.promises.broken, world.events, world.counts)
    finally:
        shutil.rmtree(folder)


def _digest(folder):
    """Of every byte of every file: histories that end alike have gone alike."""
    digest = blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        # The lock names this process, the manifest the inodes of its files.
        if path.is_file() and path.name not in ("lock", "manifest.json"):
            digest.update(f"{path}:".encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _no_bug():
    yield


class World:
    """Everything around the program."""

    def __init__(self, seed, *, rough=False):
        self.rough = rough
        self.dice = random.Random(seed)
        self.events = []
        self.counts = Counter()
        self.clock = Clock()
        self.disk = SimulatedDisk(self.dice, clock=self.clock, tell=self.tell)
        self.promises = Promises(
            clock=self.clock, tell=self.tell, is_troubled=lambda: bool(self.disk.troubles)
        )
        self.disk.on_write, self.disk.on_sync = self.promises.wrote, self.promises.synced
        self.endpoint = Endpoint(
            dice=self.dice, clock=self.clock, promises=self.promises, tell=self.tell
        )
        self.process = 0
        self.crashes = 0  # processes that left calls without a word about them
        self.disturbed = False
        self.loop = None
        self.signals = []
        self.plan = ()
        self._lay_out_the_job()

    def tell(self, event):
        self.events.append(f"[run {self.process} {self.clock.now:9.3f} s] {event}")

    # The job and its input.

    def _lay_out_the_job(self):
        dice = self.dice
        self.durability = dice.choice(("100ms", "100ms", "now", "1s", "1s", "off"))
        if self.rough:
            self.durability = "off"
        self.format = dice.choice(("csv", "csv", "jsonl"))
        self.streams = dice.random() < 0.2
        self.has_key = dice.random() < 0.5
        self.segment_bytes = dice.choice((1500, 20_000, 256 << 20))
        self.timeout = dice.choice((5, 20, 60))
        self.next_row = 0
        self.rows = []
        for _ in range(dice.choices((5, 8, 12, 20, 60), (30, 30, 20, 10, 3))[0]):
            self._add_row(len(self.rows))
        self._save_rows()

    def _add_row(self, position):
        dice = self.dice
        self.next_row += 1
        if self.rows and dice.random() < 0.2:
            text = dice.choice(self.rows)[1]  # asks for the same as another
        else:
            kind = "poison" if dice.random() < 0.04 else "row"
            text = f"{kind}{self.next_row} " + "x" * dice.choice((1, 1, 30, 6000))
        self.rows.insert(position, (str(self.next_row), text))

    def _edit_rows(self):
        """Rows come, go, change and move; never fewer of those that ask for the same."""
        dice = self.dice
        times = Counter(text for _, text in self.rows)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(self.rows))
            match dice.choice(("add", "remove", "change", "shuffle")):
                case "add":
                    self._add_row(at)
                case "remove" if times[self.rows[at][1]] == 1 and len(self.rows) > 3:
                    del self.rows[at]
                case "change" if times[self.rows[at][1]] == 1:
                    self.next_row += 1
                    self.rows[at] = (self.rows[at][0], f"row{self.next_row} changed")
                case "shuffle":
                    dice.shuffle(self.rows)
            times = Counter(text for _, text in self.rows)
        self.tell(f"the input is edited: {len(self.rows)} rows")
        self._save_rows()

    def _save_rows(self):
        for head, times in Counter(text.split()[0] for _, text in self.rows).items():
            most = self.promises.most_rows_of.get(head, 0)
            self.promises.most_rows_of[head] = max(most, times)
        with Path(f"in.{self.format}").open("w", newline="") as file:
            if self.format == "csv":
                csv.writer(file).writerows([FIELDS, *self.rows])
            else:
                file.writelines(
                    json.dumps(dict(zip(FIELDS, row, strict=True))) + "\n" for row in self.rows
                )

    def _read_output(self):
        with Path(f"out.{self.format}").open(newline="") as file:
            if self.format == "csv":
                rows = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file]
        return [(r["id"], r["text"], r["llm_status"], r["llm_output"] or "") for r in rows]

    def _job(self, limits):
        return job_from_mapping(
            {
                "input": {"path": f"in.{self.format}"} | ({"key": "id"} if self.has_key else {}),
                "prompt": {"input": "Say: {{ text }}"},
                "request": {"model": MODEL, "max_output_tokens": CAP},
                "endpoint": {
                    "base_url": "http://127.0.0.1:9/v1",
                    "timeout": self.timeout,
                    "stream": self.streams,
                    "idempotency_header": "Idempotency-Key",
                },
                "retry": {"rate_limit_patience": 120, "attempts": 4},
                "limits": limits,
                "output": {"path": f"out.{self.format}", "durability": self.durability},
                "prices": {MODEL: {"input": str(DOLLARS_IN), "output": str(DOLLARS_OUT)}},
            },
            origin="job",
            folder=Path(),
            default_name="simulated",
        )

    # The life of the job.

    def live(self):
        """Trouble for some runs, then two quiet ones: the first finishes, the second finds nothing."""
        dice = self.dice
        for _ in range(dice.choice((1, 1, 2, 2, 3, 4))):
            if self.process and dice.random() < 0.3:
                self._edit_rows()
            self._troubled_run()
            if self.promises.broken:
                return
        self._quiet_run()
        if self.promises.broken:
            return
        before = Path(f"out.{self.format}").read_bytes()
        calls = len(self.endpoint.calls)
        self._quiet_run()
        self.promises.check(
            len(self.endpoint.calls) == calls, "a run with nothing to do made calls"
        )
        self.promises.check(
            Path(f"out.{self.format}").read_bytes() == before, "the output is not reproducible"
        )

    def _troubled_run(self):
        dice = self.dice
        rate = dice.choice((0.0, 0.02, 0.1))
        self.endpoint.weather = {
            fault: rate * dice.random() * dice.choice((0, 1, 2)) for fault in FAULTS
        }
        self.endpoint.refuses_everyone = dice.random() < 0.03
        self.endpoint.slowest_seconds = dice.choice((0.1, 0.3, 3.0, 15.0))
        limits = {
            "concurrency": dice.choice(("auto", "1", "4", "2-16")),
            "grace": dice.choice((1, 25)),
        }
        if dice.random() < 0.1:
            limits["max_cost"] = str(round(dice.random() * 0.02, 4))
        if dice.random() < 0.05:
            limits["deadline"] = dice.choice((1, 5))
        if dice.random() < 0.05:
            limits["max_errors"] = 1
        if dice.random() < 0.05:
            limits["rpm"] = 120
        self._begin_run(self._disk_faults())
        self._plan_ends()
        self._carry_out(limits, limit=dice.randint(1, 9) if dice.random() < 0.05 else None)

    def _disk_faults(self):
        dice = self.dice
        kind = (
            "torn"
            if self.rough
            else dice.choice(("none", "short", "errors", "full", "dies", "torn"))
        )
        return DiskFaults(
            short_write=0.2 if kind in ("short", "torn") else 0.0,
            write_error=dice.choice((0.002, 0.03)) if kind == "errors" else 0.0,
            sync_error=dice.choice((0.0, 0.05)) if kind == "errors" else 0.0,
            other_error=dice.choice((0.0, 0.02)) if kind == "errors" else 0.0,
            free_bytes=dice.choice((0, 900, 9000, 60_000)) if kind == "full" else None,
            dies_at=int(10 ** (dice.random() * 2.3)) if kind == "dies" else None,
            dies_in_write=int(10 ** (dice.random() * 1.8)) if kind == "torn" else None,
        )

    def _plan_ends(self):
        """What ends this run early: nothing, signals, or a kill at some time."""
        dice = self.dice
        at = dice.random() ** 3 * 20
        self.plan = dice.choice((
            (), (), (),
            (("kill", at),),
            (("kill", at),),
            (("signal", at),),
            (("signal", at), ("signal", at + dice.random() * 2)),
        ))  # fmt: skip

    def _quiet_run(self):
        self.endpoint.weather, self.endpoint.slowest_seconds = {}, 0.2
        self.endpoint.refuses_everyone = False
        self._begin_run(DiskFaults())
        self.plan = ()
        code = self._carry_out({"concurrency": "auto"}, quiet=True)
        self.promises.check(code in (0, 3), f"a quiet run ended with {code}")
        if not self.promises.broken:
            for _, text, status, _ in self._read_output():
                self.promises.check(
                    status in ("ok", "incomplete") or text.startswith("poison"),
                    f"{text.split()[0]} is {status} after a quiet run",
                )

    def _begin_run(self, faults):
        self.process += 1
        self.endpoint.process = self.process
        self.endpoint.is_alive = True
        self.disk.begin_run(faults)
        self.promises.new_process(self.process)
        self.promises.may_break_off = self._may_break_off
        self.signals = []

    def new_loop(self):
        self.loop = Loop(self.clock)
        for what, after in self.plan:
            self.loop.call_later(after, self._die if what == "kill" else self._signal)
        return self.loop

    def _die(self):
        self.disk.kill("by SIGKILL")
        self.endpoint.is_alive = False
        raise Killed

    def _signal(self):
        number = self.dice.choice((signal.SIGTERM, signal.SIGINT))
        if self.loop.signal(number):
            self.tell(f"signal {number}")
            self.signals.append((number, self.clock.now))
            self.disturbed = True

    def _may_break_off(self, call):
        """A call is broken off at its deadline, by a second signal, after the grace, or in a crash."""
        if self.disk.dead or self.disk.troubles or len(self.signals) > 1:
            return True
        if self.clock.now - call.at >= self.timeout - 1e-6:
            return True
        grace = self.limits.get("grace", 25)
        return bool(self.signals) and self.clock.now - self.signals[0][1] >= grace - 1e-6

    def _carry_out(self, limits, *, limit=None, quiet=False):
        """One process, from its first line to its last."""
        self.limits = limits
        options = RunOptions(
            transport=self.endpoint,
            on_change=OnChange.RERUN,
            progress=ProgressStyle.OFF,
            on_result=self.promises.told,
            limit=limit,
        )
        calls_before = len(self.endpoint.calls)
        self.tell(f"begins: {len(self.rows)} rows, {limits}, {self.disk.faults}")
        summary = code = None
        try:
            summary = run(self._job(limits), options)
            code = int(summary.exit_code)
        except Killed:
            pass
        except BatchRunnerError as error:
            code = int(error.exit_code)
            self.tell(f"{type(error).__name__}: {error}")
            self._check_error(error, calls_before)
        except StuckError as error:
            self.promises.check(self.disk.dead, f"stuck: {error}")
        except Exception as error:  # noqa: BLE001  whatever it is, it is a bug
            self.promises.check(self.disk.dead, f"{type(error).__name__}: {error}")
        if self.disk.dead:
            self._crash()
            return None
        if self.disk.troubles:
            self.crashes += 1  # results that the disk refused are calls in flight for ever
            self.disturbed = True
        self.tell(f"exit {code}, {len(self.endpoint.calls) - calls_before} calls")
        self.counts[f"exit {code}"] += 1
        if self.loop is not None:
            self.promises.check(not self.loop.complaints, f"asyncio: {self.loop.complaints[:1]}")
        if summary is not None:
            self._check_summary(summary, limited=limit is not None)
        self.disk.end_process()
        if not quiet and self.dice.random() < 0.15:
            self._lose_power_after_the_end(published=summary is not None and code in (0, 3, 4))
        return code

    def _lose_power_after_the_end(self, *, published):
        output = Path(f"out.{self.format}")
        before = output.read_bytes() if published else None
        self._lose_power("after the end")
        if published:
            self.promises.check(
                output.exists() and output.read_bytes() == before,
                "a published output was lost in a power cut",
            )

    def _check_error(self, error, calls_before):
        faulty = self.disk.troubles
        self.promises.check(isinstance(error, (StorageError, UsageError)), f"raised {error!r}")
        self.promises.check(faulty, f"{error!r}, and nothing was wrong with the disk")
        if isinstance(error, UsageError):
            self.promises.check(
                len(self.endpoint.calls) == calls_before, f"calls were made before {error!r}"
            )

    def _check_summary(self, summary, *, limited):
        code = int(summary.exit_code)
        allowed = {0, 3, 4}
        if self.disk.troubles:
            allowed.add(5)
        allowed |= {128 + number for number, _ in self.signals[:1]}
        self.promises.check(code in allowed, f"exit {code} is not among {sorted(allowed)}")
        self.promises.check_bill(
            summary.bill,
            self.endpoint.calls,
            disturbed=self.disturbed,
            crashed=bool(self.crashes),
        )
        if code in (0, 3, 4):
            self.promises.check_output(
                self.rows, self._read_output(), self.endpoint.calls, exit_code=code, limited=limited
            )

    def _crash(self):
        self.crashes += 1
        self.disturbed = True
        self.counts["killed"] += 1
        self.endpoint.is_alive = False
        self.disk.end_process()
        if self.rough or self.dice.random() < 0.7:
            self._lose_power("in the crash")

    def _lose_power(self, when):
        self.tell(f"power cut {when}")
        self.counts["power cuts"] += 1
        self.disturbed = True
        self.disk.cut_power()
        self.promises.survived(
            Path(f"out.{self.format}.run/journal"),
            period_seconds=PERIODS[self.durability],
            calls=self.endpoint.calls,
            troubled=bool(self.disk.troubles),
        )

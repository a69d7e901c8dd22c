"""One history: a small job, run again and again through trouble, until it is done."""

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
from batch_runner.progress import ProgressStyle
from batch_runner.run_options import OnChange, RunOptions
from batch_runner.runner import run
from tests.simulation.clock import Clock, Killed, Loop, StuckError
from tests.simulation.disk import DiskFaults, SimulatedDisk
from tests.simulation.endpoint import FAULTS, Endpoint
from tests.simulation.job import PERIODS, SimulatedJob
from tests.simulation.promises import Promises
from tests.simulation.seams import installed


MEMORY_FOLDER = Path("/dev/shm")


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
        # The lock names this process, the manifest and the shortcut the inodes of their files.
        if path.is_file() and path.name not in ("lock", "manifest.json", "shortcut"):
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
        self.crashes = 0  # times when calls may have been left without a word about them
        self.disturbed = False
        self.loop = None
        self.signals = []
        self.plan = ()
        self.job = SimulatedJob(self.dice, rough=rough)

    def tell(self, event):
        self.events.append(f"[run {self.process} {self.clock.now:9.3f} s] {event}")

    def live(self):
        """Trouble for some runs, then two quiet ones: the first finishes, the second finds nothing."""
        dice = self.dice
        for _ in range(dice.choice((1, 1, 2, 2, 3, 4))):
            if self.process and dice.random() < 0.3:
                self.job.edit()
                self.tell(f"the input is edited: {len(self.job.rows)} rows")
            self._troubled_run()
            if self.promises.broken:
                return
        self._quiet_run()
        if self.promises.broken:
            return
        before = self.job.output.read_bytes()
        calls = len(self.endpoint.calls)
        self._quiet_run()
        self.promises.check(
            len(self.endpoint.calls) == calls, "a run with nothing to do made calls"
        )
        self.promises.check(
            self.job.output.read_bytes() == before, "the output is not reproducible"
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
            limits["max_cost"] = str(max(0.0001, round(dice.random() * 0.02, 4)))
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
            for _, text, status, _ in self.job.read_output():
                self.promises.check(
                    status in ("ok", "incomplete") or text.startswith("poison"),
                    f"{text.split()[0]} is {status} after a quiet run",
                )

    def _begin_run(self, faults):
        self.process += 1
        self.endpoint.process = self.process
        self.endpoint.is_alive = True
        self.disk.begin_run(faults)
        self.promises.new_process(self.process, self.job.rows)
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
        if self.clock.now - call.at >= self.job.timeout - 1e-6:
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
        self.tell(f"begins: {len(self.job.rows)} rows, {limits}, {self.disk.faults}")
        summary = code = None
        try:
            summary = run(self.job.spec(limits), options)
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
        output = self.job.output
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
                self.job.rows,
                self.job.read_output(),
                self.endpoint.calls,
                exit_code=code,
                limited=limited,
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
        self.crashes += 1
        self.disturbed = True
        self.disk.cut_power()
        self.promises.survived(
            Path(f"{self.job.output}.run/journal"),
            period_seconds=PERIODS[self.job.durability],
            calls=self.endpoint.calls,
            troubled=bool(self.disk.troubles),
        )

"""Puts the simulation behind the seams of the program: parameters that default to the real thing.

Besides those: the module `time`, `uuid4`, anyio's way into a loop and into a thread, and the
journal's sync thread, whose rounds become timers.
"""

import asyncio
import functools
import inspect
import os
import random
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from types import SimpleNamespace

import anyio
import anyio.to_thread

import batch_runner.journal.sync as sync_module
from batch_runner.disk import REAL_DISK
from batch_runner.journal import Journal
from tests.simulation.clock import replaced, simulated_time


_REAL = {
    id(REAL_DISK): "disk",
    id(time.time): "time",
    id(time.monotonic): "monotonic",
    id(random.random): "random",
}


@functools.cache
def _seams():
    """Every keyword default of the package that is the real disk, clock or dice."""
    found = []
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("batch_runner"):
            continue
        for thing in list(vars(module).values()):
            if getattr(thing, "__module__", None) != name:
                continue
            members = vars(thing).values() if inspect.isclass(thing) else (thing,)
            for member in members:
                function = inspect.unwrap(member) if callable(member) else None
                defaults = getattr(function, "__kwdefaults__", None) or {}
                found += [
                    (defaults, parameter, _REAL[id(value)])
                    for parameter, value in defaults.items()
                    if id(value) in _REAL
                ]
    return tuple(found)


@contextmanager
def _defaults(stand_ins):
    seams = (*_seams(), (Journal.__init__.__kwdefaults__, "segment_bytes", "segment_bytes"))
    before = [defaults[name] for defaults, name, _ in seams]
    for defaults, name, kind in seams:
        defaults[name] = stand_ins[kind]
    try:
        yield
    finally:
        for (defaults, name, _), value in zip(seams, before, strict=True):
            defaults[name] = value


class _Wake:
    """The sync thread's alarm: a round is due soon after it is set."""

    def __init__(self, world):
        self._world = world
        self._is_set = False
        self._timer = None
        self.thread = None
        self.next_round = 0.0

    def is_set(self):
        return self._is_set

    def clear(self):
        self._is_set = False

    def set(self):
        self._is_set = True
        if self.thread is None or self._timer is not None or self._world.disk.dead:
            return
        loop = asyncio.get_running_loop()
        late = 0.08 * self._world.dice.random() ** 3
        self._timer = loop.call_at(max(self.next_round, loop.time()) + late, self._ring)

    def _ring(self):
        self._timer = None
        syncer = self.thread.syncer
        if self._is_set and not syncer._stop.is_set() and not self._world.disk.dead:
            self.next_round = self._world.clock.now + (syncer._period_seconds or 0.0)
            syncer._round()


class _Thread:
    """`threading.Thread` as the syncer uses it."""

    def __init__(self, *, target, name, daemon):
        self.syncer = target.__self__

    def start(self):
        self.syncer._wake.thread = self

    def join(self):
        pass


@contextmanager
def installed(world):
    """Inside, the program lives in `world`: its disk, clock and dice."""
    clock, dice = world.clock, world.dice

    async def inline(function, *arguments, **_options):
        await anyio.lowlevel.checkpoint()
        return function(*arguments)

    def run(function, *arguments):
        with asyncio.Runner(loop_factory=world.new_loop) as runner:
            return runner.run(function(*arguments))

    threads = SimpleNamespace(Lock=threading.Lock, Event=lambda: _Wake(world), Thread=_Thread)
    stand_ins = {
        "disk": world.disk,
        "time": clock.time,
        "monotonic": clock.monotonic,
        "random": dice.random,
        "segment_bytes": world.job.segment_bytes,
    }
    with (
        _defaults(stand_ins),
        simulated_time(clock),
        replaced(
            (os, "getpid", lambda: 4242),  # it is in the names of temporary files
            (anyio, "run", run),
            (anyio.to_thread, "run_sync", inline),
            (uuid, "uuid4", lambda: uuid.UUID(int=dice.getrandbits(128), version=4)),
            (sync_module, "threading", threads),
        ),
    ):
        yield

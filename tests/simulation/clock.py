"""A day in a millisecond: an event loop whose time jumps to the next timer."""

import asyncio
import itertools
import time
from contextlib import contextmanager

from anyio._backends import _asyncio as anyio_on_asyncio


MOST_STEPS = 200_000
"""Turns of one loop. A real run of sixty rows takes a few thousand."""


class Killed(KeyboardInterrupt):
    """The process is gone at this point; asyncio lets this kind through at once."""


class StuckError(AssertionError):
    """The program waits for something that will never happen, or for ever."""


class Clock:
    """Seconds since the history began; the calendar begins in 2027."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1_800_000_000.0 + self.now

    def sleep(self, seconds):
        self.now += seconds


class Loop(asyncio.BaseEventLoop):
    """Has no sockets: nothing happens but timers and what they set off."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.steps = 0
        self.on_signal = {}
        self.complaints = []
        self._selector = self
        self._numbers = itertools.count()
        self.set_task_factory(self._numbered_task)
        self.set_exception_handler(lambda _loop, context: self.complaints.append(context))

    def time(self):
        return self.clock.now

    def select(self, timeout):
        self.steps += 1
        if timeout is None:
            raise StuckError("every task waits and no timer is set")
        if self.steps > MOST_STEPS:
            raise StuckError(f"still running after {self.steps} turns of the loop")
        self.clock.now += timeout
        return ()

    def add_signal_handler(self, number, callback, *arguments):
        self.on_signal[number] = (callback, arguments)

    def remove_signal_handler(self, number):
        return self.on_signal.pop(number, None) is not None

    def signal(self, number):
        """True if somebody listens."""
        if number not in self.on_signal:
            return False
        callback, arguments = self.on_signal[number]
        self.call_soon(callback, *arguments)
        return True

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass

    def _numbered_task(self, loop, coroutine, **named):
        return NumberedTask(coroutine, number=next(self._numbers), loop=loop, **named)


class NumberedTask(asyncio.Task):
    """Sets of tasks are walked in the order of their hashes: by address, no run is like another."""

    def __init__(self, coroutine, *, number, **named):
        self.number = number
        super().__init__(coroutine, **named)

    def __hash__(self):
        return self.number


class NumberedScope(anyio_on_asyncio.CancelScope):
    """Likewise for cancel scopes."""

    __slots__ = ("number",)
    numbers = itertools.count()

    def __init__(self, *arguments, **named):
        self.number = next(NumberedScope.numbers)
        super().__init__(*arguments, **named)

    def __hash__(self):
        return self.number


@contextmanager
def replaced(*changes):
    """Attributes hold other values for a while: (object, name, value)."""
    before = [(target, name, target.__dict__.get(name)) for target, name, _ in changes]
    for target, name, value in changes:
        setattr(target, name, value)
    try:
        yield
    finally:
        for target, name, value in before:
            if value is None:
                delattr(target, name)
            else:
                setattr(target, name, value)


@contextmanager
def simulated_time(clock):
    """`time` tells the clock's time, and sets of cancel scopes have one order."""
    NumberedScope.numbers = itertools.count()
    with replaced(
        (time, "time", clock.time),
        (time, "monotonic", clock.monotonic),
        (time, "sleep", clock.sleep),
        (anyio_on_asyncio, "CancelScope", NumberedScope),
    ):
        yield

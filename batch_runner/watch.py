"""The job's status, again and again while it runs, as a terminal shows it."""

import math
import time
from collections.abc import Callable, Iterable, Iterator

from batch_runner.gauge import Gauge
from batch_runner.logs import shown_here
from batch_runner.run_place import RunPlace
from batch_runner.status import Status, read_status


WATCH_SECONDS = 2.0
MOST_SHARE = 10
"""A watcher rests this many times as long as it took to read."""


def follow(
    place: RunPlace,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Status]:
    """The job's status, again and again until nobody runs it any more.

    Before the first run: told to `on_wait` once, and from the beginning of that run on. With None
    there is no such wait.
    """
    gauge, waits = Gauge(place), False
    while True:
        began = clock()
        status = read_status(place, gauge)
        if on_wait is not None and not status.has_begun:
            if not waits:
                on_wait()
            waits = True
            sleep(WATCH_SECONDS)
            continue
        yield status
        if status.holder is None:
            return
        # The first look at a million rows takes a while: the watcher must not eat the run's CPU.
        sleep(max(WATCH_SECONDS, MOST_SHARE * (clock() - began)))


def drawn(statuses: Iterable[Status], *, columns: int | None) -> Iterator[str]:
    """Text for each status; on a terminal of so many columns it takes the place of the one before."""
    height = 0
    for status in statuses:
        lines = [shown_here(line) for line in status.lines()]
        yield (f"\x1b[{height}A\x1b[J" if height else "") + "\n".join(lines)
        if columns is not None:
            height = sum(max(1, math.ceil(len(line) / columns)) for line in lines)

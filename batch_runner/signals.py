"""What SIGINT, SIGTERM and SIGHUP mean: drain, then cancel, then the default."""

import os
import signal
import threading
from collections.abc import Callable

import anyio


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):  # like KeyboardInterrupt: nothing may swallow it
    """A stopping signal came while nothing was in flight: the process leaves as it stands."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def raise_on_signals() -> None:
    """Stopping signals raise Interrupted in the main thread, until somebody else handles them."""

    def interrupt(number: int, _frame: object) -> None:
        raise Interrupted(number)

    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            signal.signal(number, interrupt)


async def watch_signals(
    *, drain: Callable[[int], None], cancel: Callable[[], None], grace_seconds: float
) -> None:
    """The first signal calls `drain`, and `cancel` once the grace is over; the second `cancel`.

    The third gets its default action. Waits until it is cancelled; must run in the main thread.
    """
    with anyio.open_signal_receiver(*STOPPING) as received:
        async with anyio.create_task_group() as tasks:
            count = 0
            async for number in received:
                count += 1
                if count == 1:
                    drain(number)
                    tasks.start_soon(_later, grace_seconds, cancel)
                elif count == 2:
                    cancel()
                else:
                    signal.signal(number, signal.SIG_DFL)
                    os.kill(os.getpid(), number)


async def _later(seconds: float, act: Callable[[], None]) -> None:
    await anyio.sleep(seconds)
    act()

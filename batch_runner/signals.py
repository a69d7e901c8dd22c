"""What SIGINT, SIGTERM and SIGHUP mean: drain, then cancel, then the default."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):  # like KeyboardInterrupt: nothing may swallow it
    """A stopping signal came while nothing was in flight: the process leaves as it stands."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def raise_on_signals() -> None:
    """Stopping signals raise Interrupted in the main thread, unless somebody else handles them."""

    def interrupt(number: int, _frame: object) -> None:
        raise Interrupted(number)

    if _in_main_thread():
        for number in _heeded():
            signal.signal(number, interrupt)


async def until_signal(endless: Coroutine[Any, Any, None]) -> int:
    """The stopping signal that ended what runs until it is cancelled.

    What a handler raises would be lost while asyncio is in a callback: it logs that, and goes on.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(endless)
    heard: list[int] = []

    def stop(number: int) -> None:
        heard.append(number)
        task.cancel()

    heeded = _heeded()
    with _handlers_kept(heeded):
        for number in heeded:
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            if not heard:
                raise
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)
    return heard[0]


async def watch_signals(
    *,
    drain: Callable[[int], None],
    cancel: Callable[[], None],
    grace_seconds: float,
    late: Callable[[], None] | None = None,
    signals: AsyncIterable[int] | None = None,
) -> None:
    """The first signal calls `drain`, and `late` once the grace is over; the second `cancel`.

    The third gets its default action. Waits until it is cancelled, then the handlers are those of
    before. `late` None means `cancel`. `signals` None means those of the process, which only its main thread hears.
    """
    if signals is not None:
        await _obey(signals, drain=drain, cancel=cancel, late=late, grace_seconds=grace_seconds)
    elif _in_main_thread():
        heeded = _heeded()
        with _handlers_kept(heeded), anyio.open_signal_receiver(*heeded) as received:
            await _obey(
                received, drain=drain, cancel=cancel, late=late, grace_seconds=grace_seconds
            )


async def _obey(
    signals: AsyncIterable[int],
    *,
    drain: Callable[[int], None],
    cancel: Callable[[], None],
    late: Callable[[], None] | None,
    grace_seconds: float,
) -> None:
    count = 0
    async with anyio.create_task_group() as tasks:
        async for number in signals:
            count += 1
            if count == 1:
                drain(number)
                tasks.start_soon(_later, grace_seconds, late or cancel)
            elif count == 2:
                cancel()
            elif _in_main_thread():
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)


@contextmanager
def _handlers_kept(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """What handled the signals before handles them again: asyncio would leave the defaults."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was not set from Python, and cannot be set back from there.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _heeded() -> tuple[signal.Signals, ...]:
    """The stopping signals, less those that whoever started the process ignores, as nohup does."""
    return tuple(number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN)


async def _later(seconds: float, act: Callable[[], None]) -> None:
    await anyio.sleep(seconds)
    act()

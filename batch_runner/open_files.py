"""How many files this process may have open: each call in flight takes one."""

import resource
from contextlib import suppress


SPARE = 64
"""For everything but calls: input, journal, output, event loop, names being looked up."""


def make_room(calls: int) -> int:
    """The limit has been raised for so many calls, as far as the system lets us. How many fit."""
    wanted = calls + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return calls
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):  # macOS has a second limit, which it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return min(calls, max(1, soft - SPARE))

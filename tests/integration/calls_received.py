"""Waits until calls of another process have reached the fault server."""

import time

from batch_runner.faultserver import Ledger


def calls_received(ledger: Ledger, count: int, *, within: float = 20) -> None:
    """So many calls since the server started, at least. Raises TimeoutError."""
    deadline = time.monotonic() + within
    while ledger.totals.received < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{ledger.totals.received} calls of {count} in {within:g} s")
        time.sleep(0.005)

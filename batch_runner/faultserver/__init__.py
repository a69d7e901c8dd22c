"""A /v1/responses server with switchable faults, for our tests and our users' tests.

    with running() as server:                       # or: async with FaultServer() as server
        server.misbehave("429:2", next=3)           # the next three calls; Retry-After: 2
        ...point a client at server.url...
        assert server.ledger.billed_again() == 0

A fault is named by the model ("fault:500x2-then-ok"), by a marker in the input of a single row
("[[fault:hang]]"), by the header `x-fault` or `?fault=`, by `misbehave` or POST /admin/fault, or by
a script file. `catalogue()` lists them; `faults.py` has the grammar.
"""

from batch_runner.faultserver.faults import catalogue
from batch_runner.faultserver.ledger import Ledger, LedgerMode, body_key
from batch_runner.faultserver.server import FaultServer, running, serve
from batch_runner.faultserver.settings import Idempotency, LatencyShape, Settings
from batch_runner.faultserver.text import expected_text


__all__ = [
    "FaultServer",
    "Idempotency",
    "LatencyShape",
    "Ledger",
    "LedgerMode",
    "Settings",
    "body_key",
    "catalogue",
    "expected_text",
    "running",
    "serve",
]

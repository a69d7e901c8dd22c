"""Holds what we say a run cost against what the fault server knows it cost."""

import json
from decimal import Decimal
from pathlib import Path

from batch_runner.faultserver import Ledger


def assert_honest_bill(output: Path, ledger: Ledger, *, exact: bool = False) -> dict[str, object]:
    """What `<output>.meta.json` says of all runs is true by the server's own ledger.

    Everything whose usage was handed to us is counted, nothing that was billed is above the bound:
    at least <= delivered <= billed <= at most. `exact`: all usage came back, so all three are equal,
    to the last digit. The server needs prices equal to the job's; call `server.settle()` before.
    Returns the meta file.
    """
    meta = json.loads(output.with_name(output.name + ".meta.json").read_text())
    totals = ledger.totals
    said = {
        name: None if text is None else Decimal(text)
        for name, text in meta["cost_usd_exact"].items()
    }
    assert meta["calls_sent"] >= totals.received, "calls that reached the server are missing"
    assert said["at_least"] is not None
    assert said["at_least"] <= totals.delivered.dollars, "claims to know of more than was told"
    if said["at_most"] is not None:
        assert totals.billed.dollars <= said["at_most"], "more was billed than the bound allows"
    if exact:
        assert said["at_least"] == totals.billed.dollars == said["at_most"]
        assert meta["tokens"]["input"] == totals.billed.tokens.input
        assert meta["tokens"]["output"] == totals.billed.tokens.output
        assert meta["tokens"]["cached"] == totals.billed.tokens.cached
    return meta

"""`<output>.meta.json`: what the last run told of itself, and what is read there later."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from batch_runner.atomic import publish
from batch_runner.job import META_SUFFIX
from batch_runner.records import ANSWERED
from batch_runner.summary import RunSummary


def write_meta(path: Path, summary: RunSummary) -> None:
    """`path` holds the numbers of the run. Raises StorageError."""
    with publish(path) as file:
        file.write(json.dumps(summary.to_json(), indent=2, ensure_ascii=False).encode() + b"\n")


def read_meta(output: Path) -> Mapping[str, Any]:
    """The meta file beside an output; empty where there is none."""
    try:
        meta: Any = json.loads(output.with_name(output.name + META_SUFFIX).read_bytes())
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, Mapping) else {}


def notes_of(output: Path, *, since: str = "") -> tuple[str, ...]:
    """What the last run wanted to be known of its output, if it is that one or a later one.

    A run that finds nothing to send leaves word only here; ids of runs sort by time.
    """
    meta = read_meta(output)
    notes = meta.get("warnings")
    if not isinstance(notes, list) or str(meta.get("run_id", "")) < since:
        return ()
    return tuple(map(str, notes))


def limits_told(output: Path, *, of_run: str) -> tuple[list[dict[str, Any]], int | None]:
    """How the limit on calls in flight changed in that run, and how many calls were answered 429.

    A run that sends nothing keeps what the one before it said.
    """
    meta = read_meta(output)
    if meta.get("limits_of_run", meta.get("run_id")) != of_run:
        return [], None
    return meta.get("limit_changes") or [], meta.get("rate_limited_calls")


def dollars_told(output: Path) -> Decimal | None:
    """What all runs had cost at least when the output was written; None where that is not known."""
    told = read_meta(output).get("cost_usd_at_least")
    try:
        return None if told is None else Decimal(str(told))
    except InvalidOperation:
        return None


def answers_told(output: Path) -> tuple[int, str]:
    """How many different answers the output shows at least, and the run that said so."""
    meta = read_meta(output)
    try:
        rows = sum(int(meta["statuses"].get(status, 0)) for status in ANSWERED)
        return max(0, rows - int(meta["duplicates"])), str(meta["run_id"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0, ""  # whatever lies there is no meta file of ours

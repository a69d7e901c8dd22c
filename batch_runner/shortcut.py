"""What one run has worked out and the next need not: index, plan and bill, kept beside the journal.

A hint like the manifest, believed only while the segments it was made from are the same files.
Without it everything is read again, which takes longer and tells the same.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batch_runner import __version__
from batch_runner.bill import Bill, Biller, Tokens
from batch_runner.disk import identity_of
from batch_runner.errors import StorageError
from batch_runner.job import JobSpec
from batch_runner.journal import (
    Index,
    Intent,
    Known,
    Packed,
    PastRun,
    Replay,
    RunDirectory,
    read_packed,
    replay,
    write_packed,
)
from batch_runner.plan import Dedupe, Plan
from batch_runner.pricing import Doubt
from batch_runner.records import BadRecord, RowStatus, UnknownBilling
from batch_runner.tables import TornLine


_ONE_TICK_SECONDS = 2.0
"""Of the coarsest clock of a file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPlan:
    """Which entry each row showed when a run last began or ended. Which rows are wanted is open."""

    made_of: str | None
    """The digest of all that the plan depends on; None where that cannot be told."""
    files: list[list[Any]]
    """The input whose rows these are (`identity_of`)."""
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBill:
    """What the results in the first segments cost, and the digest of the prices."""

    at_prices: str
    segments: int
    bill: Bill


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """All of it speaks of the entries of one index."""

    known: Known
    plan: KnownPlan | None
    bill: KnownBill | None
    ends: Mapping[str, int] = field(default_factory=dict)
    """How far each segment was whole when this was left, by name."""


def read_shortcut(directory: RunDirectory) -> Shortcut | None:
    """None where there is none, or the segments it was made from are no longer the same."""
    packed = read_packed(directory.shortcut)
    if packed is None or packed.facts["tool_version"] != __version__:
        return None
    try:
        return _read(packed, directory)
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # another shape, of a version that calls itself the same
        return None


def known_ends(directory: RunDirectory) -> Mapping[str, int]:
    """How far each segment was whole when the shortcut was left, by name; empty without a shortcut.

    One whose segments are no longer the same still knows this.
    """
    packed = read_packed(directory.shortcut)
    try:
        return {} if packed is None else {**packed.facts["ends"]}
    except (KeyError, TypeError):  # of another version
        return {}


def _read(packed: Packed, directory: RunDirectory) -> Shortcut | None:
    facts, arrays = packed.facts, packed.arrays
    if facts["segments"] != _segments(directory, facts["index"]["files"]):
        return None
    if not all(facts["segments"]):  # it was made while the journal was gone
        return None
    known = Known(
        index=Index.unpacked(Packed(facts=facts["index"], arrays=arrays)),
        unknown=tuple(Intent(**{**i, "key": bytes.fromhex(i["key"])}) for i in facts["unknown"]),
        runs=tuple(PastRun(**run) for run in facts["runs"]),
    )
    plan, bill = facts["plan"], facts["bill"]
    return Shortcut(
        known=known,
        plan=None if plan is None else _plan(Packed(facts=plan, arrays=arrays)),
        bill=None if bill is None else _bill(bill),
        ends=facts["ends"],
    )


def write_shortcut(directory: RunDirectory, shortcut: Shortcut) -> None:
    """The next run can take it. Raises StorageError."""
    known = shortcut.known
    index = known.index.packed()
    plan = None if shortcut.plan is None else _packed_plan(shortcut.plan)
    facts = {
        "tool_version": __version__,
        "segments": _segments(directory, known.index.files),
        "index": index.facts,
        "unknown": [{**asdict(intent), "key": intent.key.hex()} for intent in known.unknown],
        "runs": [asdict(run) for run in known.runs],
        "plan": None if plan is None else plan.facts,
        "bill": None if shortcut.bill is None else _bill_facts(shortcut.bill),
        "ends": dict(shortcut.ends),
    }
    arrays = {**index.arrays, **({} if plan is None else plan.arrays)}
    write_packed(directory.shortcut, Packed(facts=facts, arrays=arrays))


def write_ends(directory: RunDirectory, ends: Mapping[str, int]) -> None:
    """No shortcut, but how far each segment is whole: what is lost later shows by that alone.

    Raises StorageError.
    """
    facts = {"tool_version": __version__, "ends": dict(ends)}
    write_packed(directory.shortcut, Packed(facts=facts, arrays={}))


def forget_shortcut(directory: RunDirectory) -> None:
    """The next run reads the journal itself. Bytes that rot change no time of their file."""
    try:
        write_ends(directory, known_ends(directory))
    except (OSError, StorageError):
        with suppress(OSError):
            directory.shortcut.unlink()


def recover(directory: RunDirectory) -> tuple[Replay, Shortcut | None]:
    """What the journal says, and the shortcut that helped to find out."""
    shortcut = read_shortcut(directory)
    if shortcut is None:
        return replay(directory), None
    found = replay(directory, known=shortcut.known)
    return found, shortcut if found.index is shortcut.known.index else None


def known_plan(shortcut: Shortcut | None, made_of: str | None) -> Plan | None:
    known = None if shortcut is None else shortcut.plan
    if known is None or made_of is None or known.made_of != made_of:
        return None
    return known.plan


def parts_of_plan(job: JobSpec, paths: Sequence[Path], dedupe: Dedupe) -> str | None:
    """Equal for plans that would come out the same, but for what is wanted.

    None where a file was written a moment ago: it could be written again within one tick of its
    clock, with the same size. To be called before the files are read.
    """
    found = [path.stat() for path in paths]
    if any(time.time() - file.st_mtime < _ONE_TICK_SECONDS for file in found):
        return None
    # The time of change, too: tools that copy into a file restore the time of modification.
    files = [
        (str(path), file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino)
        for path, file in zip(paths, found, strict=True)
    ]
    readers = (sys.version, *(version(name) for name in ("minijinja", "pyarrow")))
    parts = [
        *(__version__, readers, files, dedupe, job.name, job.request),
        *(asdict(part) for part in (job.input, job.prompt, job.json)),
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def digest_of_prices(biller: Biller) -> str:
    """Equal where equal results have equal bills."""
    book = biller.prices
    own = {model: asdict(price) for model, price in book.overrides.items()}
    parts = [__version__, version("genai-prices"), own, book.base_url, biller.tiers]
    return blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()


def _segments(directory: RunDirectory, names: list[str]) -> list[list[Any]]:
    return identity_of(directory.segments / name for name in names)


def _packed_plan(known: KnownPlan) -> Packed:
    plan = known.plan
    facts = {
        "made_of": known.made_of,
        "files": known.files,
        "duplicates": plan.duplicates,
        "dedupe": plan.dedupe,
        "unsendable": [[str(status), code, n] for (status, code), n in plan.unsendable.items()],
        "bad": [asdict(record) for record in plan.bad],
        "bad_count": plan.bad_count,
        "torn": [asdict(record) for record in plan.torn],
        "columns": plan.columns,
    }
    names = ("entries", "occurrences", "labels", "lacking")
    return Packed(facts=facts, arrays={name: getattr(plan, name) for name in names})


def _plan(packed: Packed) -> KnownPlan:
    facts = packed.facts
    plan = Plan(
        entries=packed.arrays["entries"],
        occurrences=packed.arrays["occurrences"],
        labels=packed.arrays["labels"],
        lacking=packed.arrays["lacking"],
        duplicates=facts["duplicates"],
        dedupe=facts["dedupe"],
        unsendable=Counter({(RowStatus(s), code): n for s, code, n in facts["unsendable"]}),
        bad=[BadRecord(**record) for record in facts["bad"]],
        bad_count=facts["bad_count"],
        torn=[TornLine(**record) for record in facts["torn"]],
        columns=tuple(facts["columns"]),
    )
    return KnownPlan(made_of=facts["made_of"], files=facts["files"], plan=plan)


def _bill_facts(known: KnownBill) -> dict[str, Any]:
    bill = known.bill
    facts = {name: getattr(bill, name) for name in Bill.__slots__}  # asdict mangles Counters
    facts["tokens"] = asdict(bill.tokens)
    facts["doubts"] = {doubt.name: n for doubt, n in bill.doubts.items()}
    exact = {name: str(v) if isinstance(v, Decimal) else v for name, v in facts.items()}
    return {"at_prices": known.at_prices, "segments": known.segments, "bill": exact}


def _bill(facts: Mapping[str, Any]) -> KnownBill:
    told = facts["bill"]
    exact: dict[str, Any] = {
        name: Decimal(v) if isinstance(v, str) else v for name, v in told.items()
    }
    exact |= {
        "tokens": Tokens(**told["tokens"]),
        "unknown": Counter({UnknownBilling(name): n for name, n in told["unknown"].items()}),
        "doubts": Counter({Doubt[name]: n for name, n in told["doubts"].items()}),
        "sources": Counter(told["sources"]),
    }
    return KnownBill(at_prices=facts["at_prices"], segments=facts["segments"], bill=Bill(**exact))

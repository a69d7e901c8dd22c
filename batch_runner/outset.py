"""How the rows of the input stood when a run began: from there the journal alone tells the rest.

The journal knows requests, not the input: without this, results whose rows have left the input
would count as progress. It is kept in the manifest, so it is a hint, and what shows is what
`status` says.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batch_runner.journal import Damage, DamagedManifest, Index, Manifest
from batch_runner.plan import UNSENDABLE, Plan
from batch_runner.records import RowStatus


MARK = "outset"
"""The name under which the manifest keeps it."""

Endings = Counter[tuple[RowStatus, str | None]]
"""Rows by status and code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outset:
    """The rows of the input, before a run sent any of them."""

    run_id: str
    rows: int
    to_send: int
    """Rows this run was to send."""
    sharing: int
    """Rows that take the answer of an equal row; not among `endings`."""
    made_of: str | None = None
    """Of the plan: see `parts_of_plan`."""
    files: list[list[Any]] | None = None
    """The input that was counted (`identity_of`): the manifest's own is that of the last calls."""
    left_out: list[list[Any]] = field(default_factory=list)
    """Likewise, of the files that could not be read."""
    damaged: list[list[Any]] = field(default_factory=list)
    """Places of the journal that could not be read when the rows were counted, or before while rows
    were without a result: see `places_of`."""
    endings: Endings = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "rows": self.rows,
            "to_send": self.to_send,
            "sharing": self.sharing,
            "made_of": self.made_of,
            "files": self.files,
            "left_out": self.left_out,
            "damaged": self.damaged,
            "endings": [[str(status), code, n] for (status, code), n in self.endings.items()],
        }


def outset_of(
    plan: Plan,
    index: Index,
    *,
    run_id: str,
    made_of: str | None = None,
    files: list[list[Any]] | None = None,
    left_out: Sequence[list[Any]] = (),
    damage: Iterable[Damage] = (),
    damaged_before: Sequence[list[Any]] = (),
) -> Outset:
    """Of a run that is about to send what the plan wants."""
    endings = endings_of(plan, index, copies=False)
    damaged = places_of(damage)
    if any(status is RowStatus.PENDING for status, _ in endings):
        # What a place has lost may be among them still, even if nothing else tells of it any more.
        damaged += [place for place in damaged_before if place not in damaged]
    return Outset(
        run_id=run_id,
        rows=plan.rows,
        to_send=plan.to_send,
        sharing=plan.copies,
        made_of=made_of,
        files=files,
        left_out=[*left_out],
        damaged=damaged,
        endings=endings,
    )


def places_of(damage: Iterable[Damage]) -> list[list[Any]]:
    """By which a later reader knows damage again: no segment is ever written to once it is left."""
    return [
        [one.segment, one.offset, one.length, str(one.kind)]
        for one in damage
        if not one.is_expected
    ]


def damage_met(outset: Outset | None) -> list[list[Any]]:
    """Places of the damage that the last run has met; none without one."""
    return [] if outset is None else outset.damaged


def unmet(damage: Iterable[Damage], met: Collection[list[Any]]) -> int:
    """Damaged places that are not among those that a run has met."""
    return sum(place not in met for place in places_of(damage))


def endings_of(plan: Plan, index: Index, *, copies: bool = True) -> Endings:
    """How the rows of the plan stand now."""
    entries = plan.entries
    if copies or not plan.dedupe:
        numbers = (n for n in entries if n != UNSENDABLE)
    else:
        numbers = (n for row, n in enumerate(entries) if n != UNSENDABLE and not plan.is_copy(row))
    endings = index.endings(numbers)
    endings.update(plan.unsendable)
    return endings


def read_outset(manifest: Manifest | DamagedManifest | None) -> Outset | None:
    """None where the manifest has none: damaged, or of another batch_runner."""
    fields = manifest.extra.get(MARK) if isinstance(manifest, Manifest) else None
    if not isinstance(fields, Mapping):
        return None
    try:
        return Outset(
            run_id=fields["run_id"],
            rows=int(fields["rows"]),
            to_send=int(fields["to_send"]),
            sharing=int(fields["sharing"]),
            made_of=fields.get("made_of"),
            files=fields.get("files"),
            left_out=fields.get("left_out", []),
            damaged=fields.get("damaged", []),
            endings=Counter({(RowStatus(s), code): n for s, code, n in fields["endings"]}),
        )
    except (KeyError, TypeError, ValueError):
        return None

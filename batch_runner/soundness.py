"""Whether the journal is damaged, and if so, whether that still costs anybody anything."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from batch_runner.amounts import many
from batch_runner.gauge import Gauge
from batch_runner.journal import VerifyReport, is_locked, read_manifest, verify
from batch_runner.losses import with_losses
from batch_runner.outset import damage_met, read_outset, unmet
from batch_runner.remedy import command
from batch_runner.run_place import RunPlace
from batch_runner.shortcut import forget_shortcut, read_shortcut


@dataclass(frozen=True, slots=True, kw_only=True)
class Soundness:
    """What `verify` found, and what it comes to."""

    report: VerifyReport
    met: int = 0
    """Damaged places without which the last run counted its rows; some show in nothing else now."""
    was_met: bool = False
    """All there are were among them."""
    waiting: int = 0
    """Rows of the last run's input without a result."""
    invocation: str | None = None
    """What to type behind a command to mean the job."""

    @property
    def is_made_good(self) -> bool:
        """Every row that the damage took has been asked again, whichever those were."""
        return not self.report.is_sound and self.is_well

    @property
    def is_well(self) -> bool:
        return self.was_met and not self.waiting

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from self.report.lines()
        yield self._verdict()

    def _verdict(self) -> str:
        damage = self.report.damage
        if not damage and self.is_well:
            return "every record is intact"
        places = many(max(len(damage), self.met), "damaged place")
        if self.report.is_sound and self.is_well:
            return f"{places}, such as a killed run leaves: no finished row is lost"
        if self.is_made_good:
            them = "it" if len(damage) == 1 else "them"
            return f"{places}, made good: a run has met {them} since, and no row of its input is without a result"
        if self.was_met:
            have = "has" if self.waiting == 1 else "have"
            words = f"{many(self.waiting, 'row')} of the input {have} no result"
        else:
            words = "the next run asks again for what stood there"
        way = "" if self.invocation is None else f"     -> {command('run', self.invocation)}"
        return f"{places}; {words}{way}"

    def to_json(self) -> dict[str, Any]:
        return {**self.report.to_json(), "is_made_good": self.is_made_good}


def soundness(place: RunPlace) -> Soundness:
    """Every byte of the journal has been read. Raises as `journal.replay` does."""
    directory = place.directory
    found = verify(directory)
    report = replace(found, damage=with_losses(found.damage, directory))
    if not report.is_sound and read_shortcut(directory) is not None:
        forget_shortcut(directory)  # what is believed hides the damage from the next run
    met = damage_met(read_outset(read_manifest(directory.manifest)))
    if report.is_sound and not met:
        return Soundness(report=report, was_met=True)
    gauge = Gauge(place)
    gauge.read(is_running=is_locked(directory) is not None)
    return Soundness(
        report=report,
        met=len(met),
        was_met=not unmet(report.damage, met),
        waiting=gauge.waiting,
        invocation=place.invocation,
    )

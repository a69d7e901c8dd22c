"""Segments that a run left and that are gone or shorter now: what no segment still there can tell.

Each numbers its own lines, so a hole shows by itself, but not that the last segment, or the end of
one, was taken away. The shortcut knows how many there were, and how long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from batch_runner.journal import Damage, DamageKind, RunDirectory
from batch_runner.shortcut import known_sizes


def with_losses(found: Sequence[Damage], directory: RunDirectory) -> tuple[Damage, ...]:
    """What is damaged, with what is lost: each place once.

    Half a line at the end of what was cut off is what the cut left, not what a killed run leaves.
    """
    cut = {loss.segment: loss for loss in _lost_segments(directory)}
    told = []
    for place in found:
        if place.kind is DamageKind.TORN and (loss := cut.pop(place.segment, None)) is not None:
            length = loss.offset + loss.length - place.offset
            told.append(replace(loss, offset=place.offset, length=length))
        else:
            told.append(place)
    return (*told, *cut.values())


def _lost_segments(directory: RunDirectory) -> Iterator[Damage]:
    """What the last run that ended in order, or the plan after it, saw there and is there no more."""
    there = set(directory.segment_numbers())
    for name, size in known_sizes(directory).items():
        path = directory.segments / name
        found = path.stat().st_size if path.exists() else 0
        is_told_already = not path.exists() and any(directory.segment(n).name > name for n in there)
        if found < size and not is_told_already:
            gone = "the segment is missing" if not path.exists() else "its end is missing"
            yield Damage(
                segment=name,
                offset=found,
                length=size - found,
                kind=DamageKind.GAP,
                reason=f"{gone}: it had {size:,} bytes",
            )

"""What a run saw whole and is damaged, shorter or gone now: no segment still there can tell.

Each numbers its own lines, so a hole shows by itself, but not that the last segment, or the end of
one, was taken away; and an end that cannot be read looks as a killed run leaves it. The shortcut
knows how many segments there were, and how far each was whole.
"""

from collections.abc import Iterator, Mapping, Sequence

from batch_runner.journal import Damage, DamageKind, RunDirectory
from batch_runner.shortcut import known_ends


def with_losses(found: Sequence[Damage], directory: RunDirectory) -> tuple[Damage, ...]:
    """What is damaged, with what is lost: each place once."""
    torn = {place.segment: place.offset for place in found if place.kind is DamageKind.TORN}
    losses = {loss.segment: loss for loss in _losses(directory, torn)}
    told = [losses.pop(p.segment, p) if p.kind is DamageKind.TORN else p for p in found]
    return (*told, *losses.values())


def _losses(directory: RunDirectory, torn: Mapping[str, int]) -> Iterator[Damage]:
    """What the last run that ended in order, or the plan after it, saw there and is there no more."""
    there = set(directory.segment_numbers())
    for name, end in known_ends(directory).items():
        path = directory.segments / name
        size = path.stat().st_size if path.exists() else 0
        whole = torn.get(name, size)
        is_told_already = not path.exists() and any(directory.segment(n).name > name for n in there)
        if whole < end and not is_told_already:
            lost = "its end is missing" if size < end else "its end is damaged"
            gone = lost if path.exists() else "the segment is missing"
            yield Damage(
                segment=name,
                offset=whole,
                length=end - whole,
                kind=DamageKind.GAP,
                reason=f"{gone}: it had {end:,} bytes",
            )

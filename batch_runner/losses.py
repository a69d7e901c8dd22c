"""Segments that a run left and that are gone or shorter now: what no segment still there can tell.

Each numbers its own lines, so a hole shows by itself, but not that the last segment, or the end of
one, was taken away. The shortcut knows how many there were, and how long.
"""

from collections.abc import Iterator, Mapping

from batch_runner.journal import Damage, DamageKind, RunDirectory, read_packed


def lost_segments(directory: RunDirectory) -> Iterator[Damage]:
    """What the last run that ended in order, or the plan after it, saw there and is there no more."""
    there = set(directory.segment_numbers())
    for name, size in _told(directory).items():
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


def _told(directory: RunDirectory) -> Mapping[str, int]:
    """Size by name. Not believed for anything else: one that was copied still knows this."""
    packed = read_packed(directory.shortcut)
    if packed is None:
        return {}
    try:
        names, identities = packed.facts["index"]["files"], packed.facts["segments"]
        return {name: int(identity[1]) for name, identity in zip(names, identities, strict=True)}
    except (KeyError, IndexError, TypeError, ValueError):  # of another version
        return {}

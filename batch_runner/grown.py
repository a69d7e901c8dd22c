"""Whether rows stand where they stood: the files of an input are as they were, or the last only grew."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any


_PIECE_BYTES = 1 << 20


def digests_of(identity: Sequence[list[Any]]) -> list[str | None]:
    """Of the bytes that the files had (`identity_of`); None for one that has them no more."""
    return [_digest(Path(file[0]), file[1])[0] if file else None for file in identity]


def is_same_or_grown(
    before: Sequence[list[Any]], digests: Sequence[str | None], now: Sequence[list[Any]]
) -> bool:
    """`digests` are those of `before`. What was compressed, or is no text, has not grown: it is another."""
    if [*before] == [*now]:
        return True
    if not before or not len(before) == len(digests) <= len(now):
        return False
    for place, (was, digest) in enumerate(zip(before, digests, strict=True)):
        if not was or not now[place] or digest is None:
            return False
        found, ends_a_line = _digest(Path(now[place][0]), was[1])
        has_grown = now[place][1] != was[1]
        if found != digest or (has_grown and not (ends_a_line and place == len(now) - 1)):
            return False
    return True


def _digest(path: Path, size: int) -> tuple[str | None, bool]:
    """Of the first `size` bytes, and whether a line ends with them. A file need not be there."""
    digest, left, last = blake2b(digest_size=16), size, b""
    try:
        with path.open("rb") as file:
            while piece := file.read(min(left, _PIECE_BYTES)):
                digest.update(piece)
                left -= len(piece)
                last = piece[-1:]
    except OSError:
        return None, False
    return (None if left else digest.hexdigest()), last == b"\n"

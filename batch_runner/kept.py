"""Which rows were told to keep their old answers: 8 bytes a row, in a file of the run folder.

A row that is edited later has another digest, and is sent like any edited row.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from batch_runner.journal import Packed, RunDirectory, read_packed, write_packed


_DIGEST_BYTES = 8
"""One edited row in 2**64 / rows would be taken for a kept one."""


def digest_of_kept(*, request: bytes, answer: bytes) -> int:
    """Of a row that would ask for `request`, and shows the answer to another: both are keys.

    The answer tells rows apart that swap their texts. And a row that was edited, answered and
    edited back has a newer one, which is of the text in between.
    """
    digest = blake2b(request + answer, digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """The rows that there were when `keep` was said."""

    fingerprint: str
    """Of the job it was said of."""
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    """Sorted."""

    def __contains__(self, digest: int) -> bool:
        place = bisect_left(self.digests, digest)
        return place < len(self.digests) and self.digests[place] == digest

    def with_more(self, digests: Iterable[int]) -> "KeptRows":
        together = sorted({*self.digests, *digests})
        return KeptRows(fingerprint=self.fingerprint, digests=array("Q", together))


def write_kept(directory: RunDirectory, rows: KeptRows) -> None:
    """Later runs know them; until then the file says what it said before. Raises StorageError."""
    facts = {"fingerprint": rows.fingerprint}
    write_packed(directory.kept, Packed(facts=facts, arrays={"digests": rows.digests}))


def read_kept(directory: RunDirectory, *, fingerprint: str) -> KeptRows | None:
    """None where there is no such file, or it is damaged, or was written for another job."""
    packed = read_packed(directory.kept)
    if packed is None or packed.facts.get("fingerprint") != fingerprint:
        return None
    digests = packed.arrays.get("digests")
    return None if digests is None else KeptRows(fingerprint=fingerprint, digests=digests)

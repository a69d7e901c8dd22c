"""The only truth about progress: attempts begun and rows ended, in a form that no crash can spoil.

    directory.py  where it lies               line.py     a line and its checksum
    lock.py       one run at a time           record.py   what lines say
    manifest.py   whose it is                 segment.py  a file being written
    writer.py     the running process writes  sync.py     written becomes durable
    replay.py     the next one reads          reserve.py  space for when the disk is full
    verify.py     and anyone checks           scan.py     a file as found, damage and all
    packed.py     what a later run may skip  flights.py  calls that nobody may ever answer
    growth.py     somebody else's, as it grows   index.py    key to the result that counts

A process writes only to segments it made itself, and nothing is ever repaired: reading copes.
"""

from batch_runner.job import Durability
from batch_runner.journal.directory import RunDirectory
from batch_runner.journal.growth import Growth
from batch_runner.journal.index import Entry, Index
from batch_runner.journal.lock import Holder, Lock, LockPolicy, is_locked, take_lock
from batch_runner.journal.manifest import (
    DamagedManifest,
    Manifest,
    read_manifest,
    write_manifest,
)
from batch_runner.journal.packed import Packed, read_packed, write_packed
from batch_runner.journal.record import Intent, ending_of, result_fields, result_of
from batch_runner.journal.replay import Known, PastRun, Replay, replay
from batch_runner.journal.scan import Damage, DamageKind, damage_in_words
from batch_runner.journal.verify import VerifyReport, verify
from batch_runner.journal.writer import Journal


__all__ = [
    "Damage",
    "DamageKind",
    "DamagedManifest",
    "Durability",
    "Entry",
    "Growth",
    "Holder",
    "Index",
    "Intent",
    "Journal",
    "Known",
    "Lock",
    "LockPolicy",
    "Manifest",
    "Packed",
    "PastRun",
    "Replay",
    "RunDirectory",
    "VerifyReport",
    "damage_in_words",
    "ending_of",
    "is_locked",
    "read_manifest",
    "read_packed",
    "replay",
    "result_fields",
    "result_of",
    "take_lock",
    "verify",
    "write_manifest",
    "write_packed",
]

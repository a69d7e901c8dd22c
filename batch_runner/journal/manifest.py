"""What a run directory belongs to: the job and the input, as they were when last run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from batch_runner import __version__
from batch_runner.atomic import publish
from batch_runner.disk import REAL_DISK, Disk, explained, read_file
from batch_runner.errors import UsageError
from batch_runner.journal.line import is_intact, with_checksum


FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A hint, never a proof: what has been paid for is for the journal to say."""

    fingerprint: str
    """Of everything in the job that changes what is sent."""
    job: Mapping[str, Any]
    """The fingerprint's parts, readable, to tell people what changed."""
    input: Mapping[str, Any]
    """Identity of the input files."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    tool_version: str = __version__
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedManifest:
    """There is a manifest, and it cannot be trusted. The journal can still be read."""

    reason: str


def write_manifest(path: Path, manifest: Manifest, *, disk: Disk = REAL_DISK) -> None:
    """The file holds `manifest`, durably; until then it holds what it held before."""
    with publish(path, mode=0o600, disk=disk) as file:
        text = json.dumps(asdict(manifest), indent=2, default=str)
        file.write(with_checksum(text.removesuffix("\n}").encode()))


def read_manifest(path: Path, *, disk: Disk = REAL_DISK) -> Manifest | DamagedManifest | None:
    """None when there is none. Raises UsageError for a later format, StorageError if unreadable.

    A later format has to keep the checksum where it is: it tells a new file from a damaged one.
    """
    with explained("read", path):
        try:
            data = read_file(disk, path).removesuffix(b"\n")
        except FileNotFoundError:
            return None
    if not is_intact(data):
        return DamagedManifest(reason=f"the checksum of {str(path)!r} does not match")
    fields = json.loads(data)
    if fields["format"] > FORMAT:
        raise UsageError(
            f"{str(path)!r} has format {fields['format']!r}; this batch_runner reads up to {FORMAT}",
            hint="use the batch_runner that wrote it, or a newer one",
        )
    return Manifest(
        fingerprint=fields["fingerprint"],
        job=fields["job"],
        input=fields["input"],
        extra=fields["extra"],
        tool_version=fields["tool_version"],
        format=fields["format"],
    )

"""Files that a request carries with it: read from where the job lies, and no more than fits."""

import stat
from pathlib import Path

from batch_runner.media import LARGEST_BYTES


def read_attachment(name: str, *, folder: Path) -> bytes:
    """The content of the file; a relative name means `folder`.

    Raises ValueError for what cannot be read, is no regular file, or is larger than any request
    takes: names come from the input, and a wrong one must not fill the memory or wait for ever.
    """
    file = folder / name
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{name!r} cannot be read: it is not a regular file")
        if found.st_size > LARGEST_BYTES:
            raise ValueError(f"{name!r} is larger than {LARGEST_BYTES >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read: {error.strerror}") from None

"""Image files as data URLs, for requests that show one to the model."""

import base64
from pathlib import Path


LARGEST_BYTES = 20 << 20
"""More than endpoints take in a request; a wrong path must not fill the memory."""

_TYPES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


def data_url(name: str, *, folder: Path) -> str:
    """The image in the file, as text; a relative name means `folder`.

    Raises ValueError for a file that cannot be read, is too large or is no image: names come from
    the input, and no other file may leave this machine because a cell says so.
    """
    file = folder / name
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"image {name!r} is larger than {LARGEST_BYTES >> 20} MiB")
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"image {name!r} cannot be read: {error.strerror}") from None
    return f"data:{_type(data, name)};base64,{base64.b64encode(data).decode()}"


def _type(data: bytes, name: str) -> str:
    for beginning, kind in _TYPES:
        if data.startswith(beginning):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"{name!r} is not a PNG, JPEG, GIF or WebP image")

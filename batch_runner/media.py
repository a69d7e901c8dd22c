"""Images and PDF files inside a request. What they are is told by their first bytes, not by a name."""

import base64
import binascii
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePath
from typing import Any


LARGEST_IMAGE_BYTES = 20 << 20
LARGEST_BYTES = 50 << 20
"""The hosted API takes no more in one request; base64 adds a third."""

_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
_PDF = b"%PDF-"
_PDF_BEGINS_WITHIN = 1024
"""Readers of PDF files allow for so much before the header, and writers use it."""


class Source(StrEnum):
    """Keys of ours in a content part: where its bytes come from. They are never sent themselves."""

    IMAGE_FILE = "image_file"
    """The path of an image."""
    IMAGE_BYTES = "image_bytes"
    """The column that holds an image: bytes, or base64 text."""
    FILE_PATH = "file_path"
    """The path of a PDF file."""
    FILE_BYTES = "file_bytes"
    """The column that holds a PDF file."""

    @property
    def is_column(self) -> bool:
        return self in (Source.IMAGE_BYTES, Source.FILE_BYTES)

    def part(self, data: bytes, name: str) -> dict[str, str]:
        """What the part holds instead of this key.

        Raises ValueError for data that is no image or no PDF file: names come from the input, and
        no other file may leave this machine because a cell says so.
        """
        if self in (Source.IMAGE_FILE, Source.IMAGE_BYTES):
            return {"image_url": _data_url(data, _image_type(data, name))}
        filename = "file.pdf" if self.is_column else PurePath(name).name
        return {"filename": filename, "file_data": _data_url(data, _file_type(data, name))}


_SOURCES = {
    "input_image": (Source.IMAGE_FILE, Source.IMAGE_BYTES),
    "input_file": (Source.FILE_PATH, Source.FILE_BYTES),
}


def source_of(part: Mapping[str, Any]) -> Source | None:
    """The key that says what to attach; None for a table that is no such part."""
    kind = part.get("type")
    sources = _SOURCES.get(kind, ()) if isinstance(kind, str) else ()
    return next((source for source in sources if source in part), None)


def decoded(cell: Any, column: str) -> bytes:
    """The bytes in a cell that templates see as base64 text, also under `bytes` as datasets have it.

    Raises ValueError for anything else.
    """
    text = cell.get("bytes") if isinstance(cell, Mapping) else cell
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError(f"column {column!r} holds neither bytes nor base64 text") from None


def _image_type(data: bytes, name: str) -> str:
    if len(data) > LARGEST_IMAGE_BYTES:
        raise ValueError(f"image {name!r} is larger than {LARGEST_IMAGE_BYTES >> 20} MiB")
    for beginning, kind in _IMAGES:
        if data.startswith(beginning):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"{name!r} is not a PNG, JPEG, GIF or WebP image")


def _file_type(data: bytes, name: str) -> str:
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"file {name!r} is larger than {LARGEST_BYTES >> 20} MiB")
    if _PDF not in data[:_PDF_BEGINS_WITHIN]:
        raise ValueError(f"{name!r} is not a PDF file")
    return "application/pdf"


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
